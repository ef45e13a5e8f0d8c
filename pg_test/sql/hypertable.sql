-- Hypertables of TimescaleDB: chunks, tiers, the view varve.chunks, new and dropped chunks.
CREATE SCHEMA hypertable;
SET search_path = hypertable, public;
SET timezone = 'UTC';

CREATE TABLE prices (symbol text, ts timestamptz, price float8, volume bigint, PRIMARY KEY (symbol, ts));
SELECT created FROM create_hypertable('prices', 'ts', chunk_time_interval => interval '1 day');
INSERT INTO prices SELECT s, '2024-01-01'::timestamptz + m * interval '1 min', m, m FROM unnest('{A,B,C}'::text[]) s, generate_series(0, 4 * 1440 - 1, 10) m;
CREATE TABLE twin AS TABLE prices;
-- Compares all rows with those of the twin.
CREATE FUNCTION same() RETURNS text LANGUAGE sql AS $$
    SELECT format('%s rows, %s differ', count(*), count(*) FILTER (WHERE (p.* *= t.*) IS NOT TRUE)) FROM prices p FULL JOIN twin t USING (symbol, ts)
$$;
SELECT varve.enable('prices');
SELECT * FROM varve.managed WHERE relation = 'prices'::regclass;
CREATE VIEW state AS
    SELECT range_start, range_end, tier, rows, delta_rows, segments
    FROM varve.chunks WHERE hypertable IN ('prices'::regclass) ORDER BY range_start;
SELECT range_start, range_end, tier, rows, delta_rows, segments FROM state;

-- One chunk at a time, through show_chunks.
SELECT varve.set_tier(c, 'warm') FROM show_chunks('prices', older_than => '2024-01-03'::timestamptz) c;
SELECT range_start, range_end, tier, rows, delta_rows, segments FROM state;
SELECT same();
SELECT count(*), sum(price), min(ts), max(ts) FROM prices;
SELECT time_bucket('1 day', ts) AS day, symbol, first(price, ts), last(price, ts), sum(volume) FROM prices GROUP BY 1, 2 ORDER BY 1, 2;
SELECT * FROM prices WHERE symbol = 'B' AND ts BETWEEN '2024-01-01 23:45' AND '2024-01-02 00:15' ORDER BY ts;
SELECT symbol, ts, price FROM prices WHERE ts >= '2024-01-02 23:50' AND symbol < 'C' ORDER BY ts DESC, symbol LIMIT 4;
SELECT DISTINCT ON (symbol) symbol, ts, price FROM prices ORDER BY symbol, ts DESC;
SELECT count(*) FROM prices a JOIN prices b USING (ts) WHERE a.symbol = 'A' AND b.symbol = 'C' AND a.ts < '2024-01-02';

-- All of them, with a commit after each; by age.
CALL varve.set_tiers('prices', 'warm');
SELECT tier, count(*), sum(rows), sum(delta_rows) FROM state GROUP BY tier;
CALL varve.set_tiers('prices', 'hot', newer_than => now() - '2024-01-02'::timestamptz);
SELECT range_start, tier FROM state;
CALL varve.set_tiers('prices', 'warm', older_than => interval '1 day');
SELECT range_start, tier FROM state;
CALL varve.set_tiers('prices', 'hot', older_than => now() - '2024-01-03'::timestamptz);
SELECT range_start, tier FROM state;
CALL varve.set_tiers('prices', 'hot', older_than => now() - '2024-01-03 12:00'::timestamptz, newer_than => now() - '2024-01-01 12:00'::timestamptz);
CALL varve.set_tiers('prices', 'lukewarm');
CALL varve.set_tiers(NULL, 'warm');
CALL varve.set_tiers('prices', 'warm');
SELECT same();
BEGIN;
CALL varve.set_tiers('prices', 'hot');
ROLLBACK;
SELECT tier, count(*) FROM state GROUP BY tier;

-- The columns of varve.chunks.
SELECT bytes_before > 0 AS before, bytes_now > 0 AS now, reduction = round(1 - bytes_now::numeric / bytes_before, 4) AS reduction, codec, length(sha256) AS sha256, verified_at IS NULL AS unverified, stored_at
    FROM varve.chunks WHERE hypertable = 'prices'::regclass;
SELECT count(*), count(DISTINCT chunk), bool_and(ok), count(detail) FROM varve.verify('prices');
SELECT count(*), bool_and(ok) FROM show_chunks('prices') c, varve.verify(c);
SELECT count(verified_at) FROM varve.chunks WHERE hypertable = 'prices'::regclass;
SELECT count(*), count(DISTINCT sha256) FROM varve.chunks WHERE hypertable = 'prices'::regclass;

-- Writing: through the hypertable into frozen chunks, over several, into the chunk itself, into new ones.
SELECT testing.error($$INSERT INTO prices VALUES ('A', '2024-01-01 00:00', -1, -1)$$);
INSERT INTO prices VALUES ('A', '2024-01-01 00:00', -1, -1), ('A', '2024-01-02 00:00', -2, -2), ('D', '2024-01-03 00:00', -3, -3), ('A', '2024-01-10 00:00', -4, -4)
    ON CONFLICT (symbol, ts) DO UPDATE SET price = excluded.price, volume = prices.volume - 1;
INSERT INTO prices VALUES ('B', '2024-01-01 00:00', -1, -1), ('B', '2024-01-01 00:01', -1, -1) ON CONFLICT DO NOTHING;
UPDATE prices SET price = price + 0.5 WHERE symbol = 'C' AND ts BETWEEN '2024-01-01 23:00' AND '2024-01-02 01:00';
DELETE FROM prices WHERE symbol = 'A' AND ts BETWEEN '2024-01-03 12:00' AND '2024-01-03 13:00';
SELECT testing.error($$UPDATE prices SET ts = '2024-01-04 00:00' WHERE symbol = 'D'$$);
UPDATE prices SET ts = ts + interval '1 sec' WHERE symbol = 'D';
MERGE INTO prices p USING (VALUES ('B', '2024-01-02 12:00'::timestamptz), ('E', '2024-01-02 12:00')) s(symbol, ts) ON p.symbol = s.symbol AND p.ts = s.ts
    WHEN MATCHED THEN UPDATE SET price = 0 WHEN NOT MATCHED THEN INSERT VALUES (s.symbol, s.ts, 1, 1);
COPY prices FROM stdin;
F	2024-01-01 00:00+00	1	1
F	2024-01-20 00:00+00	1	1
\.
\set VERBOSITY terse
COPY prices FROM stdin;
F	2024-01-21 00:00+00	1	1
F	2024-01-04 00:00+00	-1000	1
F	not a time	1	1
\.
\set VERBOSITY default
SELECT range_start, tier, rows, delta_rows, segments FROM state;
SELECT symbol, count(*), sum(price), sum(volume) FROM prices GROUP BY symbol ORDER BY symbol;
SELECT testing.freeze('prices');
SELECT range_start, tier, rows, delta_rows FROM state;
SELECT symbol, count(*), sum(price), sum(volume) FROM prices GROUP BY symbol ORDER BY symbol;
SELECT count(*), bool_and(ok) FROM varve.verify('prices');

-- Definition: columns, indexes, constraints on the hypertable reach frozen chunks.
ALTER TABLE prices ADD source text DEFAULT 'exchange', ADD note text;
SELECT source, count(*), count(note) FROM prices GROUP BY source;
UPDATE prices SET note = 'noted' WHERE symbol = 'B' AND ts < '2024-01-01 00:30';
CREATE INDEX ON prices (volume, ts DESC);
SELECT count(*) FROM prices WHERE volume = 100;
SELECT substr(testing.error('CREATE UNIQUE INDEX ON prices (ts)'), 1, 100);
SELECT testing.error($$ALTER TABLE prices ADD CHECK (price > 0)$$);
ALTER TABLE prices ADD CONSTRAINT sane CHECK (price > -100);
SELECT testing.error($$INSERT INTO prices VALUES ('A', '2024-01-01 00:00', -101, 0) ON CONFLICT (symbol, ts) DO UPDATE SET price = excluded.price$$);
ALTER TABLE prices RENAME price TO close;
ALTER TABLE prices DROP note;
SELECT testing.freeze('prices');
SELECT symbol, count(*), sum(close), count(source) FROM prices GROUP BY symbol ORDER BY symbol;
ALTER TABLE prices RENAME close TO price;
ALTER TABLE prices DROP source, DROP CONSTRAINT sane;

-- Dropping chunks with frozen rows, and the table.
SELECT count(*) FROM drop_chunks('prices', older_than => '2024-01-02'::timestamptz);
SELECT range_start, tier, rows FROM state;
SELECT count(*), min(ts) FROM prices;
BEGIN;
SELECT count(*) FROM drop_chunks('prices', older_than => '2024-01-05'::timestamptz);
ROLLBACK;
SELECT count(*), min(ts) FROM prices;
DO $$ BEGIN EXECUTE 'DROP TABLE ' || (SELECT chunk FROM varve.chunks WHERE hypertable = 'prices'::regclass AND range_start = '2024-01-02'); END $$;
SELECT range_start, tier, rows FROM state;
DELETE FROM prices WHERE ts < '2024-01-04';
SELECT range_start, tier, rows, delta_rows FROM state;
SELECT testing.freeze('prices');
SELECT range_start, tier, rows, delta_rows FROM state;
-- Nothing is left behind of what was dropped.
SELECT count(*) FROM pg_class WHERE relnamespace = 'varve_data'::regnamespace AND relkind = 'r'
    AND relname LIKE 'segments%' AND oid NOT IN (SELECT varve.segment_table(chunk) FROM varve.chunks WHERE varve.segment_table(chunk) IS NOT NULL);
TRUNCATE prices;
SELECT count(*) FROM state;
INSERT INTO prices SELECT * FROM twin;
SELECT same();

-- Disable: every row comes back, every chunk is heap.
CALL varve.set_tiers('prices', 'warm');
UPDATE prices SET price = -price WHERE symbol = 'A';
UPDATE twin SET price = -price WHERE symbol = 'A';
SELECT varve.disable('prices');
SELECT same();
SELECT count(*) FROM state;
SELECT DISTINCT amname FROM show_chunks('prices') c JOIN pg_class k ON k.oid = c JOIN pg_am a ON a.oid = k.relam;
SELECT varve.disable('prices');

-- Enabled with columns of one's own; new chunks become warm like old ones.
SELECT varve.enable('prices', segment_by => '{}', order_by => '{ts,symbol}');
CALL varve.set_tiers('prices', 'warm');
INSERT INTO prices SELECT symbol, ts + interval '10 days', price, volume FROM twin;
INSERT INTO twin SELECT symbol, ts + interval '10 days', price, volume FROM twin;
SELECT tier, count(*) FROM state GROUP BY tier ORDER BY tier;
CALL varve.set_tiers('prices', 'warm');
SELECT tier, count(*) FROM state GROUP BY tier ORDER BY tier;
SELECT same();
-- A chunk and a hypertable are not the same thing.
SELECT varve.set_tier('prices', 'warm');
SELECT testing.error(format('SELECT varve.enable(%L)', c)) FROM show_chunks('prices') c ORDER BY c LIMIT 1;
DROP VIEW state;
DROP TABLE prices;
SELECT count(*) FROM varve.managed WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = relation);
SELECT count(*) FROM varve.chunk_history h WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = h.chunk);

-- Space partitions.
CREATE TABLE devices (time timestamptz NOT NULL, device text NOT NULL, v numeric);
SELECT created FROM create_hypertable('devices', 'time', 'device', number_partitions => 3, chunk_time_interval => interval '1 day');
INSERT INTO devices SELECT '2024-01-01'::timestamptz + i * interval '1 hour', 'd' || i % 7, i FROM generate_series(0, 199) i;
SELECT varve.enable('devices');
SELECT relation, segment_by, order_by FROM varve.managed WHERE relation = 'devices'::regclass;
CALL varve.set_tiers('devices', 'warm');
SELECT count(DISTINCT chunk) > 9 AS many, sum(rows), sum(delta_rows), bool_and(tier = 'warm') FROM varve.chunks WHERE hypertable = 'devices'::regclass;
SELECT device, count(*), sum(v) FROM devices GROUP BY device ORDER BY device;
UPDATE devices SET v = -1 WHERE device = 'd3' AND time < '2024-01-02';
SELECT count(*), sum(v) FROM devices WHERE device = 'd3';
SELECT count(*) FROM drop_chunks('devices', older_than => '2024-01-03'::timestamptz);
SELECT count(*), min(time) FROM devices;

-- Integer time, with and without a function for now.
CREATE TABLE ticks (t bigint NOT NULL, v int, PRIMARY KEY (t));
SELECT created FROM create_hypertable('ticks', 't', chunk_time_interval => 100);
INSERT INTO ticks SELECT i, i FROM generate_series(-50, 349) i;
SELECT varve.enable('ticks');
SELECT varve.set_tier(c, 'warm') FROM show_chunks('ticks', older_than => 200) c;
SELECT range_start_integer, range_end_integer, tier, rows FROM varve.chunks WHERE hypertable = 'ticks'::regclass ORDER BY range_start_integer;
SELECT count(*), sum(v) FROM ticks;
CALL varve.set_tiers('ticks', 'warm', older_than => interval '1 day');
CALL varve.set_tiers('ticks', 'warm');
SELECT tier, count(*) FROM varve.chunks WHERE hypertable = 'ticks'::regclass GROUP BY tier;
INSERT INTO ticks VALUES (-50, 0), (0, 0), (99, 0), (500, 0) ON CONFLICT (t) DO UPDATE SET v = -1;
SELECT * FROM ticks WHERE v <= 0 AND t >= 0 ORDER BY t;
SELECT varve.disable('ticks');
SELECT count(*), sum(v) FROM ticks;

-- Without a key: the time orders the rows. With a foreign key, a trigger, row-level security.
CREATE TABLE plain (time timestamp NOT NULL, v int);
SELECT created FROM create_hypertable('plain', 'time', chunk_time_interval => interval '1 day');
INSERT INTO plain SELECT '2024-01-01'::timestamp + i * interval '7 hours', i FROM generate_series(0, 20) i;
INSERT INTO plain SELECT * FROM plain;
SELECT varve.enable('plain');
SELECT relation, segment_by, order_by FROM varve.managed WHERE relation = 'plain'::regclass;
CALL varve.set_tiers('plain', 'warm', older_than => interval '1 day');
SELECT count(*), sum(v), (SELECT sum(rows) FROM varve.chunks WHERE hypertable = 'plain'::regclass AND tier = 'warm') FROM plain;
DELETE FROM plain WHERE ctid IN (SELECT min(ctid) FROM plain GROUP BY tableoid, time);
SELECT count(*), sum(v) FROM plain;
CREATE TABLE symbols (symbol text PRIMARY KEY);
INSERT INTO symbols VALUES ('A'), ('B');
CREATE TABLE quotes (symbol text REFERENCES symbols ON DELETE CASCADE, ts timestamptz, v int, PRIMARY KEY (symbol, ts));
SELECT created FROM create_hypertable('quotes', 'ts');
INSERT INTO quotes SELECT s, '2024-01-01'::timestamptz + i * interval '1 day', i FROM unnest('{A,B}'::text[]) s, generate_series(1, 10) i;
SELECT varve.enable('quotes'), varve.enable('symbols');
SELECT testing.freeze('quotes'), testing.freeze('symbols');
SELECT testing.error($$INSERT INTO quotes VALUES ('C', '2024-01-01', 1)$$);
DELETE FROM symbols WHERE symbol = 'A';
SELECT symbol, count(*) FROM quotes GROUP BY symbol;

SET client_min_messages = warning;
DROP SCHEMA hypertable CASCADE;
SELECT count(*) FROM pg_class WHERE relnamespace = 'varve_data'::regnamespace AND relkind = 'r';
SELECT count(*) FROM varve.managed;
