-- Large batches go into frozen chunks as segments: which ones do, and what becomes of the rows.
CREATE SCHEMA upsert_segments;
SET search_path = upsert_segments, public, varve;
SET timezone = 'UTC';
CREATE TABLE ticks (symbol text, ts timestamptz, price float8, size int DEFAULT 100, twice float8 GENERATED ALWAYS AS (price * 2) STORED, note text,
    CHECK (price >= 0), PRIMARY KEY (symbol, ts));
CREATE INDEX ON ticks (price);
SELECT table_name FROM create_hypertable('ticks', 'ts', chunk_time_interval => interval '1 day');
SELECT enable('ticks');
INSERT INTO ticks (symbol, ts, price, size, note) SELECT s, t, extract(hour FROM t), 1, 'old' FROM unnest('{a,b}'::text[]) s, generate_series(timestamptz '2024-01-01', '2024-01-03 23:50', '10 minutes') t;
SELECT testing.freeze('ticks');
-- The same on heap.
CREATE TABLE twin (LIKE ticks INCLUDING ALL);
INSERT INTO twin (symbol, ts, price, size, note) SELECT symbol, ts, price, size, note FROM ticks;
CREATE FUNCTION differ() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM ((TABLE ticks EXCEPT ALL TABLE twin) UNION ALL (TABLE twin EXCEPT ALL TABLE ticks)) d';
CREATE VIEW state AS SELECT rows, delta_rows, segments, tier FROM chunks WHERE hypertable = 'ticks'::regclass ORDER BY range_start;

-- New keys, changed rows, equal rows; the second day's chunk gets too few.
CREATE TABLE batch (symbol text, ts timestamptz, price float8);
INSERT INTO batch SELECT s, t, CASE WHEN extract(minute FROM t) < 20 THEN extract(hour FROM t) ELSE 7.5 END
    FROM unnest('{b,c}'::text[]) s, generate_series(timestamptz '2024-01-01 12:00', '2024-01-02 00:30', '10 minutes') t;
SET varve.upsert_merge_rows = 20;
SELECT * FROM upsert('ticks', 'batch');
INSERT INTO twin (symbol, ts, price) TABLE batch ON CONFLICT (symbol, ts) DO UPDATE SET price = excluded.price;
SELECT differ();
TABLE state;
SELECT * FROM upsert('ticks', 'batch');
TABLE state;

-- What was written as segments is as any frozen row.
SELECT count(*), sum(price), sum(twice), sum(size) FROM ticks WHERE price = 7.5;
SELECT * FROM ticks WHERE symbol = 'b' AND ts = '2024-01-01 12:30';
SELECT * FROM ticks WHERE symbol = 'c' AND ts = '2024-01-01 12:30';
SELECT symbol, max(ts), count(*) FROM ticks GROUP BY symbol ORDER BY symbol;
UPDATE ticks SET price = price + 1 WHERE symbol >= 'b' AND ts BETWEEN '2024-01-01 12:30' AND '2024-01-01 13:30';
UPDATE twin SET price = price + 1 WHERE symbol >= 'b' AND ts BETWEEN '2024-01-01 12:30' AND '2024-01-01 13:30';
DELETE FROM ticks WHERE symbol = 'b' AND ts = '2024-01-01 14:30';
DELETE FROM twin WHERE symbol = 'b' AND ts = '2024-01-01 14:30';
-- Chunks have other names with each new suite.
\set VERBOSITY sqlstate
INSERT INTO ticks (symbol, ts, price) VALUES ('c', '2024-01-01 14:30', 0);
\set VERBOSITY default
INSERT INTO ticks (symbol, ts, price) VALUES ('c', '2024-01-01 14:30', 1), ('d', '2024-01-01 14:30', 1) ON CONFLICT (symbol, ts) DO UPDATE SET note = 'conflict';
INSERT INTO twin (symbol, ts, price) VALUES ('c', '2024-01-01 14:30', 1), ('d', '2024-01-01 14:30', 1) ON CONFLICT (symbol, ts) DO UPDATE SET note = 'conflict';
SELECT differ();
-- Rows that were thawed since are changed in the delta, the others replaced once more.
SELECT * FROM upsert('ticks', 'batch');
INSERT INTO twin (symbol, ts, price) TABLE batch ON CONFLICT (symbol, ts) DO UPDATE SET price = excluded.price;
SELECT differ();
TABLE state;
SELECT bool_and(ok) FROM verify('ticks');

-- After an error nothing is written.
\set VERBOSITY sqlstate
SELECT * FROM upsert_query('ticks', $$SELECT symbol, ts, CASE WHEN ts = '2024-01-01 12:20' AND symbol = 'c' THEN -1 ELSE price + 3 END AS price FROM batch$$);
SELECT * FROM upsert_query('ticks', $$SELECT symbol, ts, 1 / (price - 8.5) AS price FROM batch, generate_series(1, 2)$$);
\set VERBOSITY default
SELECT differ();
-- Rolled back.
SELECT testing.freeze('ticks');
DO $$ BEGIN
    PERFORM upsert_query('ticks', 'SELECT symbol, ts, price + 1 AS price FROM batch');
    RAISE NOTICE '% segments, % differ', (SELECT sum(segments) FROM state), differ();
    RAISE EXCEPTION 'no';
END $$;
SELECT differ();
TABLE state;

-- A freeze makes one segment of all; rewrites and thaws take them too.
SELECT * FROM upsert_query('ticks', 'SELECT symbol, ts, price + 1 AS price FROM batch');
UPDATE twin t SET price = b.price + 1 FROM batch b WHERE (b.symbol, b.ts) = (t.symbol, t.ts);
VACUUM FULL ticks;
SELECT differ();
TABLE state;
SELECT * FROM upsert_query('ticks', 'SELECT symbol, ts, price + 2 AS price FROM batch');
UPDATE twin t SET price = b.price + 2 FROM batch b WHERE (b.symbol, b.ts) = (t.symbol, t.ts);
ALTER TABLE ticks ADD COLUMN more int DEFAULT 5;
ALTER TABLE twin ADD COLUMN more int DEFAULT 5;
SELECT * FROM upsert_query('ticks', 'SELECT symbol, ts, price + 3 AS price, 6 AS more FROM batch');
UPDATE twin t SET price = b.price + 3, more = 6 FROM batch b WHERE (b.symbol, b.ts) = (t.symbol, t.ts);
SELECT differ();
TABLE state;
SELECT set_tier(c, 'cold') FROM show_chunks('ticks') c;
TABLE state;
SELECT * FROM upsert_query('ticks', 'SELECT symbol, ts, price + 4 AS price FROM batch');
UPDATE twin t SET price = b.price + 4 FROM batch b WHERE (b.symbol, b.ts) = (t.symbol, t.ts);
TABLE state;
SELECT set_tier(c, 'hot') FROM show_chunks('ticks') c;
SELECT differ();
TABLE state;

-- What keeps a batch out of segments: too few rows, hot chunks, another unique index, a foreign key, volatile functions,
-- REPEATABLE READ, a transaction block, rows that were written before.
SELECT testing.freeze('ticks');
SELECT sum(segments) FROM state;
SET varve.upsert_merge_rows = 1000;
SELECT updated FROM upsert_query('ticks', 'SELECT symbol, ts, price + 5 AS price FROM batch');
SELECT sum(segments) FROM state;
SELECT testing.freeze('ticks');
SET varve.upsert_merge_rows = 0;
SELECT updated FROM upsert_query('ticks', 'SELECT symbol, ts, price + 6 AS price FROM batch');
SELECT sum(segments) FROM state;
SELECT testing.freeze('ticks');
SET varve.upsert_merge_rows = 20;
SELECT updated FROM upsert_query('ticks', 'SELECT symbol, ts, price + 7 AS price FROM batch', on_conflict => 'ignore');
SELECT sum(segments) FROM state;
SELECT testing.freeze('ticks');
BEGIN;
SELECT updated FROM upsert_query('ticks', 'SELECT symbol, ts, price + 8 AS price FROM batch');
SELECT sum(segments) FROM state;
COMMIT;
SELECT testing.freeze('ticks');
SET default_transaction_isolation = 'repeatable read';
SELECT updated FROM upsert_query('ticks', 'SELECT symbol, ts, price + 9 AS price FROM batch');
SELECT sum(segments) FROM state;
SELECT testing.freeze('ticks');
RESET default_transaction_isolation;
WITH w AS MATERIALIZED (SELECT pg_current_xact_id() AS x) SELECT updated FROM w, upsert_query('ticks', 'SELECT symbol, ts, price + 10 AS price FROM batch WHERE ' || (SELECT x IS NOT NULL FROM w)::text);
SELECT sum(segments) FROM state;
SELECT testing.freeze('ticks');
CREATE FUNCTION even(float8) RETURNS boolean LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN true; END';
ALTER TABLE ticks ADD CONSTRAINT volatile CHECK (even(price));
SELECT updated FROM upsert_query('ticks', 'SELECT symbol, ts, price + 11 AS price FROM batch');
SELECT sum(segments) FROM state;
SELECT testing.freeze('ticks');
ALTER TABLE ticks DROP CONSTRAINT volatile;
CREATE UNIQUE INDEX other ON ticks (ts, symbol);
SELECT updated FROM upsert_query('ticks', 'SELECT symbol, ts, price + 12 AS price FROM batch', key => '{symbol,ts}');
SELECT sum(segments) FROM state;
SELECT testing.freeze('ticks');
DROP INDEX other;
SELECT updated FROM upsert_query('ticks', 'SELECT symbol, ts, price + 13 AS price FROM batch');
-- Nothing does.
SELECT sum(segments) FROM state;
UPDATE twin t SET price = b.price + 13 FROM batch b WHERE (b.symbol, b.ts) = (t.symbol, t.ts);
SELECT differ();
-- More rows than memory holds: they are sorted on disk, and written in several segments.
SET varve.upsert_work_mem = '64kB';
CREATE VIEW many AS SELECT 'm' || n % 7 AS symbol, timestamptz '2024-01-03' + n * interval '10 seconds' AS ts, n::float8 AS price FROM generate_series(0, 8639) n;
SELECT * FROM upsert('ticks', 'many');
INSERT INTO twin (symbol, ts, price) TABLE many;
SELECT differ();
SELECT * FROM upsert_query('ticks', 'SELECT symbol, ts, price + price::int % 2 AS price FROM many');
UPDATE twin SET price = price + price::int % 2 WHERE symbol ~ 'm';
SELECT differ();
SELECT rows, delta_rows, segments > 10 AS several, tier FROM state;
RESET varve.upsert_work_mem;
-- A sink, in parts.
SELECT create_sink('ticks_in', 'ticks');
SET varve.upsert_work_mem = '64kB';
INSERT INTO ticks_in (symbol, ts, price) SELECT 'n' || n, timestamptz '2024-01-02' + i * interval '1 minute', i FROM generate_series(1, 5) n, generate_series(0, 999) i;
INSERT INTO twin (symbol, ts, price) SELECT 'n' || n, timestamptz '2024-01-02' + i * interval '1 minute', i FROM generate_series(1, 5) n, generate_series(0, 999) i;
SELECT last_upsert();
SELECT differ();
SELECT sum(segments) > 3 FROM state;
SELECT bool_and(ok) FROM verify('ticks');
RESET varve.upsert_work_mem;

-- A sink that makes new chunks warm, or cold; those that were there are left as they are.
SELECT create_sink('hot_in', 'ticks', tier => 'hot');
SELECT create_sink('lukewarm_in', 'ticks', tier => 'lukewarm');
SELECT create_sink('twin_in', 'twin', tier => 'warm');
SELECT create_sink('warm_in', 'ticks', tier => 'warm'), create_sink('cold_in', 'ticks', tier => 'cold');
INSERT INTO ticks (symbol, ts, price) VALUES ('a', '2024-01-10', 0);
INSERT INTO warm_in (symbol, ts, price) SELECT s, t, 4 FROM unnest('{a,b}'::text[]) s, generate_series(timestamptz '2024-01-10', '2024-01-11 23:50', '10 minutes') t;
INSERT INTO cold_in (symbol, ts, price) SELECT s, t, 4 FROM unnest('{a,b}'::text[]) s, generate_series(timestamptz '2024-01-11 12:00', '2024-01-12 23:50', '10 minutes') t;
INSERT INTO cold_in (symbol, ts, price) VALUES ('a', '2024-01-13', 0);
INSERT INTO twin (symbol, ts, price) SELECT s, t, 4 FROM unnest('{a,b}'::text[]) s, generate_series(timestamptz '2024-01-10', '2024-01-12 23:50', '10 minutes') t;
INSERT INTO twin (symbol, ts, price) VALUES ('a', '2024-01-13', 0);
SELECT differ();
SELECT rows, delta_rows, segments, tier FROM chunks WHERE hypertable = 'ticks'::regclass AND range_start >= '2024-01-10' ORDER BY range_start;
SELECT testing.freeze('ticks');
SELECT differ();
-- A plan that relies on the order of segments, kept while a batch adds others: their rows are sorted in between.
SET plan_cache_mode = force_generic_plan;
SET enable_sort = off;
SET enable_incremental_sort = off;
PREPARE in_order AS SELECT symbol, ts, price FROM ticks WHERE ts >= '2024-01-11' AND ts < '2024-01-12' AND symbol < 'm' ORDER BY symbol, ts;
PREPARE last_of_each AS SELECT DISTINCT ON (symbol) symbol, ts, price FROM ticks WHERE ts >= '2024-01-11' AND ts < '2024-01-12' ORDER BY symbol, ts DESC;
CREATE FUNCTION unordered() RETURNS TABLE (query text, rows bigint, out_of_order bigint) LANGUAGE plpgsql AS $$
DECLARE r record; symbol_before text; ts_before timestamptz; q text;
BEGIN
    FOREACH q IN ARRAY ARRAY['EXECUTE in_order', 'EXECUTE last_of_each'] LOOP
        query := q; rows := 0; out_of_order := 0; symbol_before := NULL;
        FOR r IN EXECUTE q LOOP
            rows := rows + 1;
            IF (symbol_before, ts_before) >= (r.symbol, r.ts) THEN out_of_order := out_of_order + 1; END IF;
            symbol_before := r.symbol; ts_before := r.ts;
        END LOOP;
        RETURN NEXT;
    END LOOP;
END $$;
DO $$ BEGIN
    RAISE NOTICE '%', (SELECT string_agg(u::text, ' ') FROM unordered() u);
    PERFORM upsert_query('ticks', $q$SELECT s AS symbol, t AS ts, 9 AS price FROM unnest('{a,aa}'::text[]) s, generate_series(timestamptz '2024-01-11', '2024-01-11 23:55', '15 minutes') t$q$);
    RAISE NOTICE '%', (SELECT string_agg(u::text, ' ') FROM unordered() u);
END $$;
SELECT * FROM unordered();
EXECUTE last_of_each;
INSERT INTO twin (symbol, ts, price) SELECT s, t, 9 FROM unnest('{a,aa}'::text[]) s, generate_series(timestamptz '2024-01-11', '2024-01-11 23:55', '15 minutes') t
    ON CONFLICT (symbol, ts) DO UPDATE SET price = excluded.price;
SELECT differ();
DEALLOCATE in_order;
DEALLOCATE last_of_each;
RESET enable_sort;
RESET enable_incremental_sort;
RESET plan_cache_mode;
-- A batch, and a freeze in the same transaction.
DO $$ BEGIN
    PERFORM upsert_query('ticks', $q$SELECT symbol, ts, 10 AS price FROM ticks WHERE ts >= '2024-01-11' AND ts < '2024-01-12'$q$);
    SET LOCAL client_min_messages = warning;
    PERFORM set_tier(c, 'warm') FROM show_chunks('ticks') c;
    SET LOCAL client_min_messages = notice;
    RAISE NOTICE '% rows, sum %', (SELECT count(*) FROM ticks WHERE ts >= '2024-01-11' AND ts < '2024-01-12'), (SELECT sum(price) FROM ticks WHERE ts >= '2024-01-11' AND ts < '2024-01-12');
    UPDATE ticks SET price = 11 WHERE symbol = 'aa' AND ts >= '2024-01-11' AND ts < '2024-01-12';
END $$;
UPDATE twin SET price = CASE symbol WHEN 'aa' THEN 11 ELSE 10 END WHERE ts >= '2024-01-11' AND ts < '2024-01-12';
SELECT differ();
-- Segments that are truncated where they lie, and others in their place.
CREATE TABLE plain (k int PRIMARY KEY, v int);
SELECT enable('plain');
INSERT INTO plain SELECT i, i FROM generate_series(1, 100) i;
BEGIN;
SELECT set_tier('plain', 'warm');
SELECT sum(v), count(*) FILTER (WHERE v > 50) FROM plain;
TRUNCATE plain;
COMMIT;
SELECT inserted FROM upsert_query('plain', 'SELECT i AS k, 1000 + i AS v FROM generate_series(101, 200) i');
SELECT sum(v), count(*) FILTER (WHERE v > 50) FROM plain;
SELECT * FROM plain WHERE k = 150;
SELECT count(*) FROM plain WHERE v BETWEEN 1001 AND 1150;
SELECT unchanged FROM upsert_query('plain', 'SELECT i AS k, 1000 + i AS v FROM generate_series(101, 200) i');
-- The sink's owner has to own the table.
CREATE ROLE upsert_segments_other;
GRANT USAGE ON SCHEMA upsert_segments TO upsert_segments_other;
GRANT INSERT, SELECT, UPDATE ON ticks TO upsert_segments_other;
ALTER VIEW warm_in OWNER TO upsert_segments_other;
INSERT INTO warm_in (symbol, ts, price) VALUES ('a', '2024-01-14', 0);
DROP VIEW warm_in;
REVOKE ALL ON ticks FROM upsert_segments_other;
REVOKE ALL ON SCHEMA upsert_segments FROM upsert_segments_other;
DROP ROLE upsert_segments_other;
SET client_min_messages = warning;
DROP SCHEMA upsert_segments CASCADE;
