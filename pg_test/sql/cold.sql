-- The cold tier as varve's views show it: what is encoded anew and when, what stays cold, and how small it is.
CREATE SCHEMA cold;
SET search_path = cold, public;
SET timezone = 'UTC';

CREATE TABLE m (sym text NOT NULL, ts timestamptz NOT NULL, price float8, load float8, note text, PRIMARY KEY (sym, ts));
SELECT count(*) FROM create_hypertable('m', 'ts', chunk_time_interval => interval '7 days');
INSERT INTO m SELECT 'S' || i % 10, timestamptz '2025-01-06' + i / 10 * interval '1 minute', (10000 + i % 10 * 500 + i * 7919 % 211) / 100.0, 50 + 40 * sin(i),
    CASE WHEN i % 3 > 0 THEN 'order ' || i * 7919 % 10007 || ' filled at the market' END FROM generate_series(0, 199999) i;
SELECT varve.enable('m');
CREATE TABLE twin AS TABLE m;
CREATE VIEW state AS SELECT row_number() OVER (ORDER BY range_start) AS n, tier, rows, delta_rows, segments, codec, reduction > 0.5 AS reduced FROM varve.chunks
    WHERE hypertable = 'm'::regclass ORDER BY 1;
CREATE FUNCTION differ() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM ((TABLE m EXCEPT ALL TABLE twin) UNION ALL (TABLE twin EXCEPT ALL TABLE m)) x $$;

-- Warm to cold is smaller; all tiers of one table at once.
CALL varve.set_tiers('m', 'warm');
CREATE TABLE warm AS SELECT chunk, bytes_now, sha256 FROM varve.chunks WHERE hypertable = 'm'::regclass;
-- Cancelled on the way, the chunk is what it was.
-- Where it is when time is up differs, and so does the context.
\set SHOW_CONTEXT never
SET statement_timeout = '5ms';
SELECT varve.set_tier(min(c::text)::regclass, 'cold') FROM show_chunks('m') c;
RESET statement_timeout;
\set SHOW_CONTEXT errors
SELECT * FROM state;
SELECT n.sha256 = w.sha256 AS the_same FROM warm w JOIN varve.chunks n USING (chunk) ORDER BY n.range_start;
SELECT varve.set_tier(min(c::text)::regclass, 'cold') FROM show_chunks('m') c;
SELECT * FROM state;
SELECT differ();
CALL varve.set_tiers('m', 'cold');
SELECT * FROM state;
SELECT differ();
SELECT n.bytes_now < w.bytes_now * 0.95 AS smaller, n.sha256 <> w.sha256 AS anew FROM warm w JOIN varve.chunks n USING (chunk) ORDER BY n.range_start;
SELECT count(*) AS segments, bool_and(ok) AS whole FROM varve.verify('m');

-- Read by columns: scans, look-ups, aggregates.
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT * FROM m WHERE sym = 'S7' AND ts >= '2025-01-08' AND ts < '2025-01-08 00:10' AND price > 135;
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT * FROM m WHERE sym = 'S7' AND ts = '2025-01-08 00:10';
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT sym, count(note), max(price) FROM m GROUP BY sym;

-- To the tier that it has: nothing is written.
CREATE TABLE files AS SELECT c, pg_relation_filenode(c) AS node FROM show_chunks('m') c;
CALL varve.set_tiers('m', 'cold');
SELECT count(*) FROM files WHERE node = pg_relation_filenode(c);
-- New and changed rows of a cold chunk are frozen with all others, cold.
UPDATE m SET note = 'changed' WHERE sym = 'S3' AND ts < '2025-01-06 01:00';
UPDATE twin SET note = 'changed' WHERE sym = 'S3' AND ts < '2025-01-06 01:00';
DELETE FROM m WHERE sym = 'S4' AND ts < '2025-01-06 01:00';
DELETE FROM twin WHERE sym = 'S4' AND ts < '2025-01-06 01:00';
INSERT INTO m VALUES ('S11', '2025-01-06', 1, NULL, 'new');
INSERT INTO twin VALUES ('S11', '2025-01-06', 1, NULL, 'new');
SELECT * FROM state;
CALL varve.set_tiers('m', 'cold');
SELECT * FROM state;
SELECT count(*) FROM files WHERE node = pg_relation_filenode(c);
SELECT differ();
-- What exchanges the storage keeps the tier; columns that segments lack are filled in.
ALTER TABLE m ADD extra int DEFAULT 5;
ALTER TABLE twin ADD extra int DEFAULT 5;
VACUUM FULL m;
SELECT * FROM state;
SELECT differ();
-- A rewrite leaves the segments behind, of whatever tier.
BEGIN;
ALTER TABLE m ALTER extra TYPE bigint;
SELECT * FROM state;
ROLLBACK;
SELECT * FROM state;

-- Rolled back, and within one transaction.
BEGIN;
SELECT count(varve.set_tier(c, 'warm')) FROM show_chunks('m') c;
SELECT tier, count(*) FROM state GROUP BY tier;
SAVEPOINT a;
SELECT count(varve.set_tier(c, 'hot')) FROM show_chunks('m') c;
SELECT tier, count(*) FROM state GROUP BY tier;
ROLLBACK TO a;
SELECT tier, count(*) FROM state GROUP BY tier;
ROLLBACK;
SELECT tier, count(*) FROM state GROUP BY tier;
SELECT differ();
SELECT count(*) AS segments, bool_and(ok) AS whole FROM varve.verify('m');

-- Without a row that is frozen, a chunk is what it was brought to.
CREATE TABLE e (id int PRIMARY KEY);
SELECT varve.set_tier('e', 'cold');
SELECT tier, rows, segments FROM varve.chunk_stats('e');
SELECT varve.set_tier('e', 'warm');
SELECT tier, rows, segments FROM varve.chunk_stats('e');
SELECT varve.set_tier('e', 'cold');
INSERT INTO e VALUES (1), (2);
SELECT tier, rows, delta_rows, segments FROM varve.chunk_stats('e');
BEGIN;
UPDATE e SET id = id + 10;
SELECT varve.set_tier('e', 'cold');
COMMIT;
SELECT tier, rows, delta_rows, segments FROM varve.chunk_stats('e');
SELECT varve.set_tier('e', 'cold');
SELECT tier, rows, delta_rows, segments FROM varve.chunk_stats('e');
-- Rows that debug_freeze freezes are encoded as those that are there.
SET varve.debug_freeze = commit;
INSERT INTO e VALUES (3);
SELECT tier, rows, delta_rows, segments FROM varve.chunk_stats('e');
UPDATE e SET id = 4 WHERE id = 3;
SELECT tier, rows, delta_rows, segments FROM varve.chunk_stats('e');
RESET varve.debug_freeze;
SELECT varve.set_tier('e', 'warm');
SELECT tier, rows, delta_rows, segments FROM varve.chunk_stats('e');
TABLE e ORDER BY id;
TRUNCATE e;
SELECT tier, rows, segments FROM varve.chunk_stats('e');
SELECT varve.set_tier('e', 'hot');
SELECT count(*) FROM varve.chunk_history WHERE chunk = 'e'::regclass;

-- Who may not read a table still sees its tier.
CREATE ROLE varve_cold_other;
GRANT USAGE ON SCHEMA cold TO varve_cold_other;
SET ROLE varve_cold_other;
SELECT DISTINCT tier, rows FROM varve.chunks WHERE hypertable = 'cold.m'::regclass;
-- … but takes it nowhere.
SELECT varve.set_tier('cold.e', 'cold');
CALL varve.set_tiers('cold.m', 'warm');
RESET ROLE;
DROP OWNED BY varve_cold_other;
DROP ROLE varve_cold_other;

-- No codec but the tier's own choice, yet.
SELECT varve.set_tier('e', 'cold', codec => 'zstd');
SELECT varve.set_tier('e', 'archived');

-- By age; those that are left out keep their tier.
CALL varve.set_tiers('m', 'hot', older_than => now() - '2025-01-12 12:00', newer_than => now() - '2025-01-01');
CALL varve.set_tiers('m', 'warm', older_than => now() - '2025-01-26', newer_than => now() - '2025-01-15');
SELECT * FROM state;
CALL varve.set_tiers('m', 'cold', older_than => now() - '2025-01-20', newer_than => now() - '2025-01-01');
SELECT * FROM state;
SELECT differ();
SELECT varve.disable('m');
SELECT differ();
SELECT count(*) FROM varve.chunks WHERE hypertable = 'm'::regclass;
SELECT DISTINCT a.amname FROM show_chunks('m') c JOIN pg_class r ON r.oid = c JOIN pg_am a ON a.oid = r.relam;
SELECT count(*) FROM varve.chunk_history h JOIN files f ON h.chunk = f.c;

SET client_min_messages = warning;
DROP SCHEMA cold CASCADE;
