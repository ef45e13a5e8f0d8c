-- Frozen tables as the inner side of nested loops: the values of each outer row are looked for in the order of segments and in zones,
-- as an index would be used on heap. Results are compared with those of the same rows on heap.
CREATE SCHEMA columnar_joins;
SET search_path = columnar_joins, public;
SET timezone = 'UTC';
SET jit = off;
SET max_parallel_workers_per_gather = 0;

CREATE TABLE h (host int NOT NULL, ts timestamptz NOT NULL, v bigint, name text COLLATE "C", s smallint, f real, PRIMARY KEY (host, ts));
INSERT INTO h SELECT i % 100, timestamptz '2025-01-01 00:00+00' + (i / 100) * interval '1 minute', i::bigint * 7919 % 100003,
    'n' || i % 100, CASE WHEN i % 9 > 0 THEN i % 300 END, (i % 1000) / 8.0
  FROM generate_series(0, 199999) i;
CREATE TABLE t (LIKE h INCLUDING ALL);
INSERT INTO t SELECT * FROM h;
SELECT varve.enable('t', order_by => '{host,ts}');
ANALYZE h;
ANALYZE t;
SELECT testing.freeze('t');

-- The outer side: hosts that there are and are not, NULLs, other types.
CREATE TABLE o (n int PRIMARY KEY, host int, big bigint, small smallint, ts timestamptz, name varchar);
INSERT INTO o SELECT i, CASE WHEN i % 7 > 0 THEN i * 37 % 110 END, i * 37 % 110, i * 37 % 110,
    CASE WHEN i % 5 > 0 THEN timestamptz '2025-01-01 00:00+00' + i * interval '61 minutes' END, 'n' || i * 37 % 110 FROM generate_series(1, 30) i;
ANALYZE o;

-- How many rows a query gives, and whether they are the same on heap; @ stands for the table. Says which joins it takes.
CREATE FUNCTION joins(plan jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(kind, ', '), 'none') FROM (
        SELECT node ->> 'Node Type' || coalesce(' ' || nullif(node ->> 'Join Type', 'Inner'), '')
            || CASE WHEN node ->> 'Node Type' = 'Nested Loop' AND jsonb_path_exists(node, '$.Plans[1].** ? (exists (@."Columnar Filter"))') THEN ' with values' ELSE '' END AS kind
        FROM jsonb_path_query(plan, 'strict $.** ? (@."Join Type" != "")') node) AS found
$$;
CREATE FUNCTION compare(query text, OUT rows bigint, OUT same text, OUT taken text) LANGUAGE plpgsql AS $$
DECLARE
    ours text := replace(query, '@', 't');
    theirs text := replace(query, '@', 'h');
    wrong bigint;
    plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || ours INTO plan;
    taken := joins(plan);
    EXECUTE format('CREATE TEMP TABLE ours ON COMMIT DROP AS %s', ours);
    EXECUTE format('CREATE TEMP TABLE theirs ON COMMIT DROP AS %s', theirs);
    SELECT count(*) INTO rows FROM ours;
    SELECT count(*) INTO wrong FROM ((TABLE ours EXCEPT ALL TABLE theirs) UNION ALL (TABLE theirs EXCEPT ALL TABLE ours)) d;
    same := CASE wrong WHEN 0 THEN 'same' ELSE wrong || ' rows DIFFER' END;
    DROP TABLE ours, theirs;
END $$;
-- A plan, without the numbers in the names of chunks.
CREATE FUNCTION explain(query text, options text DEFAULT 'COSTS off') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE format('EXPLAIN (%s) %s', options, query) LOOP
        RETURN NEXT regexp_replace(line, '_hyper_\d+_\d+_chunk|"\d+_\d+_t_pkey"', 'chunk', 'g');
    END LOOP;
END $$;
CREATE TABLE queries (n int GENERATED ALWAYS AS IDENTITY, query text);
INSERT INTO queries (query) VALUES
    ('SELECT o.n, t.* FROM o JOIN @ t ON t.host = o.host AND t.ts = o.ts'),
    ('SELECT o.n, t.* FROM o JOIN @ t ON t.host = o.big AND t.ts = o.ts'),
    ('SELECT o.n, t.* FROM o JOIN @ t ON t.host = o.small AND t.ts >= o.ts AND t.ts < o.ts + interval ''5 minutes'''),
    ('SELECT o.n, t.ts, t.v FROM o LEFT JOIN @ t ON t.host = o.host AND t.ts = o.ts'),
    ('SELECT o.n, t.ts, t.v FROM o LEFT JOIN @ t ON t.host = o.host AND t.ts = o.ts AND t.s > 100 WHERE o.n <> 4'),
    ('SELECT o.n FROM o WHERE EXISTS (SELECT FROM @ t WHERE t.host = o.host AND t.ts > o.ts)'),
    ('SELECT o.n FROM o WHERE NOT EXISTS (SELECT FROM @ t WHERE t.host = o.host AND t.ts > o.ts)'),
    ('SELECT o.n, (SELECT max(v) FROM @ t WHERE t.host = o.host AND t.ts < o.ts) FROM o'),
    ('SELECT o.n, x.* FROM o, LATERAL (SELECT ts, v FROM @ t WHERE t.host = o.host ORDER BY ts DESC LIMIT 1) x'),
    ('SELECT o.n, x.* FROM o LEFT JOIN LATERAL (SELECT ts, v FROM @ t WHERE t.host = o.host AND t.ts <= o.ts ORDER BY ts DESC LIMIT 2) x ON true'),
    ('SELECT o.n, x.* FROM o LEFT JOIN LATERAL (SELECT o.n + t.v AS sum, t.ts FROM @ t WHERE t.host = o.host AND t.ts = o.ts) x ON true'),
    ('SELECT o.n, t.ts, t.v FROM o JOIN @ t ON t.host = o.host + 1 AND t.ts = o.ts'),
    ('SELECT o.n, t.host FROM o JOIN @ t ON t.host = o.host AND t.ts = o.ts AND t.name = o.name'),
    ('SELECT a.n, b.n AS m, t.v FROM o a, o b, @ t WHERE t.host = a.host AND t.ts = b.ts AND a.n < 4 AND b.n < 9'),
    ('SELECT o.n, t.v FROM o JOIN @ t ON t.host = o.host AND (t.ts = o.ts OR t.ts = o.ts + interval ''1 minute'')'),
    ('SELECT o.n, t.v, u.v AS w FROM o JOIN @ t ON t.host = o.host AND t.ts = o.ts JOIN @ u ON u.host = t.host AND u.ts = t.ts + interval ''1 hour'''),
    ('SELECT t.host, t.ts FROM @ t WHERE (t.host, t.ts) IN (SELECT host, ts FROM o)'),
    ('SELECT o.n, count(*) FROM o JOIN @ t ON t.host = o.host GROUP BY o.n'),
    ('SELECT o.n, t.v FROM o FULL JOIN (SELECT * FROM @ WHERE host = 37) t ON t.host = o.host AND t.ts = o.ts'),
    ('SELECT o.n, t.tableoid IS NOT NULL AS there, t.ctid IS NOT NULL AS place FROM o JOIN @ t ON t.host = o.host AND t.ts = o.ts');
SELECT n, c.* FROM queries, compare(query) c ORDER BY n;

-- What is read for each outer row.
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT o.n, t.v FROM o JOIN t ON t.host = o.big AND t.ts = o.ts;
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT o.n, x.* FROM o, LATERAL (SELECT ts, v FROM t WHERE t.host = o.host ORDER BY ts DESC LIMIT 1) x;
-- Every row of the table is asked for: no nested loop.
EXPLAIN (COSTS off) SELECT a.v FROM h a JOIN t b ON a.host = b.host AND a.ts = b.ts;
-- Values that come once a row, and often the same.
INSERT INTO o SELECT i, i % 3, i % 3, i % 3, timestamptz '2025-01-01 05:00+00' FROM generate_series(101, 400) i;
ANALYZE o;
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT count(t.v) FROM o JOIN t ON t.host = o.big AND t.ts = o.ts;

-- Rows of the delta, and frozen rows that were changed or deleted.
INSERT INTO o SELECT i, NULL, NULL, NULL, NULL FROM generate_series(401, 402) i;
CREATE PROCEDURE change(target regclass) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DELETE FROM %s WHERE host = 37 AND ts < ''2025-01-01 06:00+00''', target);
    EXECUTE format('UPDATE %s SET v = -v WHERE host IN (74, 1) AND ts < ''2025-01-01 09:00+00''', target);
    EXECUTE format('UPDATE %s SET host = host + 100 WHERE host < 9 AND ts < ''2025-01-01 02:00+00''', target);
    EXECUTE format('INSERT INTO %s SELECT host, ts + interval ''30 days'', v, name, s FROM %1$s WHERE host < 20 AND ts < ''2025-01-01 04:00+00''', target);
END $$;
CALL change('h');
CALL change('t');
SELECT n, c.rows, c.same FROM queries, compare(query) c ORDER BY n;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT n, c.rows, c.same FROM queries, compare(query) c WHERE query NOT LIKE '%FULL JOIN%' ORDER BY n;
SET enable_memoize = off;
SET enable_material = off;
SELECT n, c.* FROM queries, compare(query) c WHERE query NOT LIKE '%FULL JOIN%' ORDER BY n;
RESET ALL;
SET search_path = columnar_joins, public;
SET timezone = 'UTC';
SET jit = off;
SET max_parallel_workers_per_gather = 0;

-- The target of UPDATE and DELETE is looked up in the same way.
EXPLAIN (COSTS off) UPDATE t SET v = o.n FROM o WHERE t.host = o.big AND t.ts = o.ts AND o.n < 30;
UPDATE t SET v = o.n FROM o WHERE t.host = o.big AND t.ts = o.ts AND o.n < 30;
UPDATE h SET v = o.n FROM o WHERE h.host = o.big AND h.ts = o.ts AND o.n < 30;
DELETE FROM t USING o WHERE t.host = o.small AND t.ts = o.ts + interval '1 minute' AND o.n < 20;
DELETE FROM h USING o WHERE h.host = o.small AND h.ts = o.ts + interval '1 minute' AND o.n < 20;
SELECT count(*) FROM ((TABLE t EXCEPT ALL TABLE h) UNION ALL (TABLE h EXCEPT ALL TABLE t)) d;

-- Prepared statements: values of parameters and of outer rows.
PREPARE near(int, interval) AS SELECT o.n, t.v FROM o JOIN t ON t.host = o.host AND t.ts BETWEEN o.ts AND o.ts + $2 WHERE o.n < $1 ORDER BY 1, 2 LIMIT 8;
SET plan_cache_mode = force_generic_plan;
EXECUTE near(4, '1 minute');
EXECUTE near(9, '0');
EXECUTE near(NULL, '1 minute');
SET plan_cache_mode = force_custom_plan;
EXECUTE near(4, '1 minute');
RESET plan_cache_mode;
-- A cursor that goes back.
SET enable_hashjoin = off;
SET enable_mergejoin = off;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT o.n, t.v FROM o JOIN t ON t.host = o.host AND t.ts = o.ts WHERE o.n < 8 ORDER BY o.n;
FETCH 3 FROM c;
FETCH BACKWARD 2 FROM c;
FETCH 2 FROM c;
COMMIT;
-- Outer rows in several processes.
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT n, c.rows, c.same FROM queries, compare(query) c WHERE query NOT LIKE '%FULL JOIN%' ORDER BY n;
RESET ALL;
SET search_path = columnar_joins, public;
SET timezone = 'UTC';
SET jit = off;
SET max_parallel_workers_per_gather = 0;

-- Chunks: frozen ones, one with changed rows, hot ones.
DROP TABLE t, h CASCADE;
CREATE TABLE t (host int NOT NULL, ts timestamptz NOT NULL, v bigint, name text COLLATE "C", s smallint, PRIMARY KEY (host, ts));
SELECT count(*) FROM create_hypertable('t', 'ts', chunk_time_interval => interval '6 hours');
INSERT INTO t SELECT i % 100, timestamptz '2025-01-01 00:00+00' + (i / 100) * interval '1 minute', i::bigint * 7919 % 100003,
    'n' || i % 100, CASE WHEN i % 9 > 0 THEN i % 300 END FROM generate_series(0, 199999) i;
CREATE TABLE h (LIKE t INCLUDING ALL);
INSERT INTO h SELECT * FROM t;
SELECT varve.enable('t', order_by => '{host,ts}');
VACUUM ANALYZE h;
VACUUM ANALYZE t;
SELECT count(varve.set_tier(c, 'warm')) FROM show_chunks('t', older_than => timestamptz '2025-01-02 00:00+00') c;
UPDATE h SET v = -v WHERE host % 5 = 0 AND ts BETWEEN '2025-01-01 04:00+00' AND '2025-01-01 07:00+00';
UPDATE t SET v = -v WHERE host % 5 = 0 AND ts BETWEEN '2025-01-01 04:00+00' AND '2025-01-01 07:00+00';
SELECT n, c.rows, c.same FROM queries, compare(query) c ORDER BY n;
SELECT explain('SELECT o.n, t.v FROM o JOIN t ON t.host = o.host AND t.ts = o.ts WHERE o.n < 10');
SELECT explain('SELECT o.n, x.* FROM o, LATERAL (SELECT ts, v FROM t WHERE t.host = o.host AND t.ts < ''2025-01-01 23:00+00'' ORDER BY ts DESC LIMIT 1) x WHERE o.n < 5',
    'ANALYZE, COSTS off, TIMING off, SUMMARY off');
SELECT explain('SELECT o.n, x.* FROM o, LATERAL (SELECT ts, v FROM t WHERE t.host = o.host AND t.ts <= o.ts ORDER BY ts DESC LIMIT 1) x WHERE o.n < 5',
    'ANALYZE, COSTS off, TIMING off, SUMMARY off');
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_memoize = off;
SET enable_material = off;
SELECT n, c.* FROM queries, compare(query) c WHERE query NOT LIKE '%FULL JOIN%' ORDER BY n;
SET timescaledb.enable_chunk_append = off;
SELECT n, c.rows, c.same FROM queries, compare(query) c WHERE query NOT LIKE '%FULL JOIN%' ORDER BY n;
RESET ALL;
SET search_path = columnar_joins, public;

-- OIDs above 2^31.
CREATE TABLE oids (o oid PRIMARY KEY, n int);
INSERT INTO oids SELECT i, i % 7 FROM generate_series(3999999900, 4000000100) i;
SELECT varve.enable('oids');
SELECT testing.freeze('oids');
SELECT * FROM oids WHERE o = 4000000000;
SELECT * FROM oids WHERE o IN (4000000001, 5) AND n >= 0;
SELECT count(*) FROM generate_series(3999999990, 4000000010) i JOIN oids ON o = i::oid;
SELECT testing.error('INSERT INTO oids VALUES (4000000000, 1)');
SET client_min_messages = warning;
DROP SCHEMA columnar_joins CASCADE;
