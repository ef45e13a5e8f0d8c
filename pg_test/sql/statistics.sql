-- What the planner knows of a chunk right after a freeze: joins are planned as on heap, and estimates are near the truth.
CREATE SCHEMA statistics;
SET search_path = statistics, public;
SET timezone = 'UTC';
SET jit = off;
SET max_parallel_workers_per_gather = 0;

CREATE FUNCTION known(r regclass, OUT rows real, OUT columns bigint, OUT changed bigint) LANGUAGE sql AS $$
    SELECT c.reltuples, (SELECT count(*) FROM pg_statistic WHERE starelid = r AND NOT stainherit), pg_stat_get_mod_since_analyze(r)
    FROM pg_class c WHERE c.oid = r
$$;
-- Joins and the order in which tables are read, without how each of them is read.
CREATE FUNCTION joins(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    RETURN (SELECT string_agg(coalesce(node ->> 'Alias', node ->> 'Node Type' || ' ' || (node ->> 'Join Type')), ', ' ORDER BY at)
            FROM jsonb_path_query(plan, 'strict $.** ? (@."Join Type" != "" || @."Relation Name" != "")') WITH ORDINALITY AS found (node, at));
END $$;
-- Whether the rows that a query is expected to give are no more than twice, and no less than half, of those that it gives.
CREATE FUNCTION near(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    plan json;
    expected float8;
    rows float8;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, TIMING off, FORMAT json) ' || query INTO plan;
    expected := plan -> 0 -> 'Plan' ->> 'Plan Rows';
    rows := plan -> 0 -> 'Plan' ->> 'Actual Rows';
    RETURN CASE WHEN expected BETWEEN rows / 2 AND rows * 2 THEN 'near' ELSE format('%s rows instead of %s', expected, rows) END;
END $$;

CREATE TABLE h (host int NOT NULL, ts timestamptz NOT NULL, kind text, v bigint, note text, PRIMARY KEY (host, ts)) WITH (autovacuum_enabled = off);
INSERT INTO h SELECT i % 200, timestamptz '2025-01-01 00:00+00' + (i / 200) * interval '1 minute', 'k' || (i % 200) % 7,
    i::bigint * 7919 % 1003, CASE WHEN i % 10 = 0 THEN 'n' || i % 50 END FROM generate_series(0, 99999) i;
CREATE TABLE hosts (host int PRIMARY KEY, name text, region int) WITH (autovacuum_enabled = off);
INSERT INTO hosts SELECT i, 'host ' || i, i % 10 FROM generate_series(0, 199) i;
CREATE TABLE events (n int, host int, ts timestamptz) WITH (autovacuum_enabled = off);
INSERT INTO events SELECT i, i * 7 % 200, timestamptz '2025-01-01 00:00+00' + i * interval '11 minutes' FROM generate_series(1, 25) i;
CREATE TABLE t (LIKE h INCLUDING ALL) WITH (autovacuum_enabled = off);
INSERT INTO t SELECT * FROM h;
SELECT varve.enable('t', order_by => '{host,ts}');
CREATE TABLE c (LIKE h INCLUDING ALL);
SELECT count(*) FROM create_hypertable('c', 'ts', chunk_time_interval => interval '4 hours');
INSERT INTO c SELECT * FROM h;
SELECT varve.enable('c', order_by => '{host,ts}');
CREATE TABLE ch (LIKE h INCLUDING ALL);
SELECT count(*) FROM create_hypertable('ch', 'ts', chunk_time_interval => interval '4 hours');
INSERT INTO ch SELECT * FROM h;
DO $$ DECLARE chunk regclass; BEGIN FOR chunk IN SELECT show_chunks('ch') LOOP EXECUTE 'ANALYZE ' || chunk; END LOOP; END $$;
VACUUM ANALYZE h;
ANALYZE hosts;
ANALYZE events;

-- Nobody has analysed the table, nor the chunks: the freeze does.
SELECT pg_stat_force_next_flush();
SELECT * FROM known('t');
SELECT testing.freeze('t');
SELECT pg_stat_force_next_flush();
SELECT * FROM known('t');
SELECT testing.freeze('c');
SELECT pg_stat_force_next_flush();
SELECT count(*), sum(k.rows), min(k.columns), max(k.changed) FROM show_chunks('c') s, known(s) k;

CREATE TABLE queries (n int GENERATED ALWAYS AS IDENTITY, query text);
INSERT INTO queries (query) VALUES
    ('SELECT * FROM events e JOIN @ t ON t.host = e.host AND t.ts = e.ts'),
    ('SELECT * FROM hosts o JOIN @ t ON t.host = o.host'),
    ('SELECT * FROM hosts o JOIN @ t ON t.host = o.host JOIN events e ON e.host = o.host WHERE t.ts = e.ts AND o.region = 3');
SELECT n, near(replace(query, '@', 't')), joins(replace(query, '@', 't')), joins(replace(query, '@', 't')) = joins(replace(query, '@', 'h')) AS as_on_heap FROM queries ORDER BY n;
-- Chunks: what is known of the table as a whole comes from an ANALYZE of it, here as there.
SELECT n, joins(replace(query, '@', 'c')), joins(replace(query, '@', 'c')) = joins(replace(query, '@', 'ch')) AS as_on_heap FROM queries ORDER BY n;
CREATE TABLE conditions (n int GENERATED ALWAYS AS IDENTITY, condition text);
INSERT INTO conditions (condition) VALUES ('true'), ('kind = ''k3'''), ('host = 17'), ('host BETWEEN 20 AND 60 AND kind <> ''k1'''), ('v < 100'),
    ('note IS NULL'), ('note = ''n20'''), ('ts < ''2025-01-01 02:00+00'''), ('ts < ''2025-01-01 02:00+00'' AND host > 150');
SELECT n, condition, near('SELECT * FROM t WHERE ' || condition), near('SELECT * FROM c WHERE ' || condition) FROM conditions ORDER BY n;

-- What was analysed keeps its statistics, and what has changed since is not forgotten.
CREATE TABLE before AS SELECT staattnum, stadistinct, stanullfrac, stawidth, stanumbers1, stavalues1::text FROM pg_statistic WHERE starelid = 't'::regclass;
UPDATE t SET v = v + 1 WHERE host = 5 AND ts < '2025-01-01 00:40+00';
INSERT INTO t SELECT host, ts + interval '1 year', kind, v, note FROM h WHERE host < 2;
SELECT pg_stat_force_next_flush();
SELECT changed > 1000 AND changed < 2000 AS some FROM known('t');
SELECT testing.freeze('t');
SELECT pg_stat_force_next_flush();
SELECT rows, columns, changed > 1000 AND changed < 2000 AS some FROM known('t');
SELECT count(*) FROM ((TABLE before EXCEPT SELECT staattnum, stadistinct, stanullfrac, stawidth, stanumbers1, stavalues1::text FROM pg_statistic WHERE starelid = 't'::regclass)) d;
-- More than autovacuum would leave alone, reported or not.
INSERT INTO t SELECT host, ts + interval '2 years', 'new', v, note FROM h WHERE host < 30;
SELECT testing.freeze('t');
SELECT pg_stat_force_next_flush();
SELECT rows, columns FROM known('t');
SELECT near('SELECT * FROM t WHERE kind = ''new''');
-- The table's own settings count.
ALTER TABLE t SET (autovacuum_analyze_threshold = 10, autovacuum_analyze_scale_factor = 0);
INSERT INTO t SELECT host, ts + interval '3 years', 'few', v, note FROM h WHERE host = 1;
SELECT pg_stat_force_next_flush();
SELECT testing.freeze('t');
SELECT pg_stat_force_next_flush();
SELECT rows, columns, changed FROM known('t');
-- Rows that stay in the delta are counted too; they are this transaction's, which is not over.
BEGIN;
INSERT INTO t SELECT host, ts + interval '4 years', 'own', v, note FROM h WHERE host = 2;
SET LOCAL client_min_messages = warning;
SELECT varve.set_tier('t', 'warm');
SELECT rows FROM known('t');
COMMIT;
SELECT testing.freeze('t');
SELECT rows FROM known('t');
SELECT testing.thaw('t');
SELECT rows, columns FROM known('t');
-- Cold chunks, and empty ones.
SELECT testing.to_tier('t', 'cold');
SELECT rows, columns FROM known('t');
CREATE TABLE nothing (LIKE h);
SELECT varve.set_tier('nothing', 'warm');
SELECT * FROM known('nothing');

-- Statistics that are cut short: whoever catches that finds the transaction as he left it.
CREATE FUNCTION slow(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('statistics.slow', true) = 'on' THEN
        PERFORM pg_sleep(1);
    END IF;
    RETURN v;
END $$;
CREATE TABLE cut (k int PRIMARY KEY, v int);
CREATE INDEX ON cut (slow(v));
INSERT INTO cut SELECT i, i FROM generate_series(1, 100) i;
CREATE TABLE log (what text);
SELECT testing.error('SELECT slow(1)') AS not_slow;
SET statistics.slow = on;
SET statement_timeout = '1500ms';
SELECT varve.set_tier('cut', 'warm');
SELECT txid_current_if_assigned() IS NULL AS nothing_is_open;
ROLLBACK;
DO $$
BEGIN
    INSERT INTO log VALUES ('outer');
    BEGIN
        INSERT INTO log VALUES ('inner');
        PERFORM varve.set_tier('cut', 'warm');
    EXCEPTION WHEN query_canceled THEN
        RAISE NOTICE 'caught';
    END;
END $$;
SELECT txid_current_if_assigned() IS NULL AS nothing_is_open;
COMMIT;
TABLE log;
BEGIN;
SAVEPOINT before;
SELECT varve.set_tier('cut', 'warm');
ROLLBACK TO before;
INSERT INTO log VALUES ('after');
COMMIT;
TABLE log;
RESET statement_timeout;
RESET statistics.slow;
SELECT testing.freeze('cut');

SET client_min_messages = warning;
DROP SCHEMA statistics CASCADE;
