-- Queries that several processes answer by columns, on frozen chunks with changed rows and on hot ones. Every answer is that of
-- the same query on plain heaps without workers; the ways to run it that differ are listed beside it.
CREATE SCHEMA columnar_parallel;
CREATE SCHEMA columnar_heap;
SET timezone = 'UTC';
SET client_min_messages = warning;
-- What workers raise says so, and which process meets it first is not fixed.
\set SHOW_CONTEXT never

SET search_path = columnar_parallel, public;
CREATE TABLE m (sym text, ts timestamptz NOT NULL, o float8, f4 real, v bigint, i int, s smallint, note text COLLATE "C", b bool, d date, u uuid, z numeric);
SELECT count(*) FROM create_hypertable('m', 'ts', chunk_time_interval => interval '7 days');
CREATE TABLE columnar_heap.m (LIKE m);
-- A chunk of two segments and a small one; some keys are NULL.
INSERT INTO m SELECT CASE WHEN i % 19 <> 0 THEN 'S' || lpad((i % 40)::text, 3, '0') END,
    timestamptz '2025-01-09 00:00+00' + (i / 40) * interval '200 seconds',
    CASE WHEN i % 13 <> 0 THEN (i::bigint * 7919 % 10007) / 100.0 END, (i * 31 % 1000) / 8.0, (i::bigint * 104729 % 1000003) * 1000000007,
    CASE WHEN i % 11 > 0 THEN i * 37 % 500 END, i % 300, CASE WHEN i % 7 = 0 THEN 'n' || i * 13 % 1000 END, i % 3 = 0,
    date '2025-01-01' + i / 100000, ('00000000-0000-0000-0000-0000000000' || lpad(to_hex(i % 50), 2, '0'))::uuid, i
  FROM generate_series(0, 129999) i;
SELECT varve.enable('m', '{sym}', '{ts}');
VACUUM ANALYZE m;
INSERT INTO columnar_heap.m SELECT * FROM m;
-- The last chunk stays hot.
SELECT count(varve.set_tier(c, 'warm')) FROM show_chunks('m', older_than => timestamptz '2025-01-16') c;
-- The same changes on both: rows that leave their segments, rows that are gone, new ones, a column that segments do not have.
CREATE PROCEDURE change() LANGUAGE plpgsql AS $$
BEGIN
    UPDATE m SET o = o + 1, v = v + 1 WHERE sym = 'S007' AND ts < '2025-01-10';
    DELETE FROM m WHERE sym = 'S009' AND ts > '2025-01-12';
    DELETE FROM m WHERE i = 41;
    INSERT INTO m (sym, ts, o, v, i, note) SELECT sym, ts + interval '90 seconds', o, v, i, 'late' FROM m WHERE sym < 'S003' AND ts < '2025-01-11';
    ALTER TABLE m ADD extra int DEFAULT 5;
END $$;
CALL change();
SET search_path = columnar_heap, public;
CALL columnar_parallel.change();
ANALYZE columnar_parallel.m;
ANALYZE columnar_heap.m;
SET search_path = columnar_parallel, public;

CREATE TABLE queries (n int GENERATED ALWAYS AS IDENTITY, query text, answer text, plan text, differs text[] NOT NULL DEFAULT '{}');
INSERT INTO queries (query) VALUES
    ('SELECT count(*), count(o), count(note), count(sym), sum(v), round(sum(o)::numeric, 3), sum(i), sum(s), avg(v), round(avg(o)::numeric, 6), avg(i), avg(s) FROM m'),
    ('SELECT min(o), max(o), min(f4), max(f4), min(v), max(v), min(i), max(i), min(s), max(s), min(ts), max(ts), min(d), max(d), min(note), max(note) FROM m WHERE i <> 3'),
    ('SELECT bool_and(b), bool_or(b), every(b) FILTER (WHERE i = 3), bool_or(b) FILTER (WHERE s = 1) FROM m'),
    ('SELECT round(stddev(o)::numeric, 6), round(variance(o)::numeric, 5), round(stddev_pop(o)::numeric, 6), round(var_pop(o)::numeric, 5), stddev(i), variance(i), stddev_pop(i), var_pop(i), stddev(s), round(var_samp(f4)::numeric, 4) FROM m'),
    ('SELECT count(DISTINCT sym), count(DISTINCT i), count(DISTINCT note), count(DISTINCT o), count(DISTINCT u), count(DISTINCT b), count(DISTINCT ts), count(DISTINCT v) FROM m'),
    ('SELECT first(o, ts), last(o, ts), first(sym, v), last(note, v), first(v, o), last(v, o), first(note, v), last(u, v) FROM m WHERE sym = ''S004'''),
    ('SELECT sum(extra), count(extra), min(extra), count(*) FILTER (WHERE extra = 5), count(*) FILTER (WHERE extra <> 5) FROM m WHERE s > 5'),
    ('SELECT count(*), sum(v), max(o), avg(i), bool_or(b), first(v, ts), stddev(o), stddev(i), count(DISTINCT note), min(note) FROM m WHERE o > 1e9'),
    ('SELECT round(sum(o * 2 - 1)::numeric, 3), round(avg(-o / (f4 + 1))::numeric, 6), round(max(o + f4)::numeric, 4) FROM m'),
    ('SELECT sym, count(*), min(o), max(v), sum(i), first(o, v), last(o, v), sum(v), count(DISTINCT note), max(note), stddev(i) FROM m GROUP BY sym'),
    ('SELECT note, count(*), min(ts), bool_and(b), count(DISTINCT sym) FROM m GROUP BY note'),
    ('SELECT time_bucket(''1 day'', ts), count(*), sum(v), round(avg(o)::numeric, 6), round(stddev(o)::numeric, 6) FROM m GROUP BY 1'),
    ('SELECT time_bucket(''6 hours'', ts), sym, sum(v), count(*) FILTER (WHERE b = true AND s < 50), max(note) FILTER (WHERE i > 100) FROM m WHERE ts >= ''2025-01-09 03:30'' AND ts < ''2025-01-16 10:15'' AND sym IN (''S001'', ''S007'', ''none'') GROUP BY 1, 2'),
    ('SELECT date_trunc(''week'', ts), extract(dow FROM ts)::int, ts::date, i % 5, upper(sym), count(*) FROM m GROUP BY 1, 2, 3, 4, 5'),
    ('SELECT time_bucket(''1 month'', ts), time_bucket(50, i), b, count(*), count(DISTINCT v) FILTER (WHERE s < 10) FROM m GROUP BY 1, 2, 3'),
    ('SELECT o, u, count(*) FROM m WHERE o BETWEEN 10 AND 12 OR o IS NULL GROUP BY o, u'),
    ('SELECT sym, count(*) FROM m GROUP BY sym HAVING count(*) < 6000 OR sum(v) IS NULL OR sym IS NULL'),
    ('SELECT sym FROM m GROUP BY sym'),
    ('SELECT DISTINCT sym, b FROM m'),
    ('SELECT sum(v) AS s FROM m GROUP BY sym, time_bucket(''1 day'', ts) ORDER BY s DESC LIMIT 5'),
    ('SELECT time_bucket(''1 hour'', ts) AS h, sum(v), count(*) FROM m GROUP BY 1 ORDER BY 1 DESC LIMIT 4'),
    ('SELECT ts, sym, count(*), sum(v), last(note, v), count(DISTINCT i) FROM m WHERE s < 100 GROUP BY ts, sym'),
    ('SELECT v, count(*), max(note) FROM m WHERE s < 100 GROUP BY v'),
    ('SELECT ts, count(DISTINCT v), sum(v) FROM m GROUP BY ts ORDER BY ts LIMIT 5 OFFSET 2'),
    ('SELECT x.s, y.* FROM (VALUES (''S030''), (''S038''), (''none'')) x(s) JOIN (SELECT sym, count(*), sum(v) FROM m WHERE i > 7 GROUP BY sym) y ON y.sym > x.s'),
    ('SELECT sym, count(*) FROM m WHERE i > (SELECT min(i) + 5 FROM m WHERE i > 2) AND s < (SELECT 250) GROUP BY sym'),
    ('SELECT sym, c FROM (SELECT sym, count(*) AS c FROM m GROUP BY sym) a WHERE c > (SELECT avg(c) FROM (SELECT count(*) AS c FROM m GROUP BY sym) b)'),
    -- What VarveAggregate can't do is aggregated above scans.
    ('SELECT count(*), sum(z), avg(z), max(z) FROM m WHERE o > 50'),
    ('SELECT sym, sum(z + i) FROM m WHERE note IS NULL GROUP BY sym'),
    ('SELECT count(*), sum(a.v - b.v) FROM m a JOIN m b ON a.sym = b.sym AND a.ts = b.ts WHERE a.i < 40'),
    ('SELECT sym, ts, v FROM m WHERE v > 998000000000000');

-- Asks all queries; keeps what comes as the answer, or compares it with that.
CREATE PROCEDURE ask(mode text) LANGUAGE plpgsql AS $$
DECLARE
    q columnar_parallel.queries;
    found text;
    shape text;
    lines json;
BEGIN
    FOR q IN SELECT * FROM columnar_parallel.queries ORDER BY n LOOP
        EXECUTE format('SELECT count(*) || '' rows '' || coalesce(CASE WHEN sum(length(s::text)) < 60 THEN string_agg(s::text, '' '' ORDER BY s::text) ELSE md5(string_agg(s::text, E''\n'' ORDER BY s::text)) END, '''') FROM (%s) s', q.query) INTO found;
        IF mode = 'heap' THEN
            UPDATE columnar_parallel.queries SET answer = found WHERE n = q.n;
        ELSIF found IS DISTINCT FROM q.answer THEN
            UPDATE columnar_parallel.queries SET differs = differs || (mode || ': ' || coalesce(found, 'NULL')) WHERE n = q.n;
        END IF;
        IF mode IN ('parallel', 'little memory, many groups') THEN
            EXECUTE 'EXPLAIN (FORMAT json) ' || q.query INTO lines;
            SELECT string_agg(k, ' ') INTO shape FROM (VALUES ('Gather', '"Gather'), ('Final', '"Partial Mode": "Finalize"'), ('Partial', '"Partial Mode": "Partial"'),
                ('VarveAggregate', '"VarveAggregate"'), ('VarveScan', '"VarveScan"'), ('First', '"First Groups"')) w(k, p) WHERE strpos(lines::text, p) > 0;
            UPDATE columnar_parallel.queries SET plan = concat_ws('; ', plan, shape) WHERE n = q.n;
        END IF;
    END LOOP;
END $$;

SET max_parallel_workers_per_gather = 0;
SET search_path = columnar_heap, public;
CALL columnar_parallel.ask('heap');
SET search_path = columnar_parallel, public;
CALL ask('serial');
-- Which of equal rows first and last take is not the same as on heap, but the same whoever reads.
CREATE TABLE ties AS SELECT sym, first(o, i) AS a, last(v, i) AS b, first(ts, b) AS c, last(note, d) AS d FROM m GROUP BY sym;
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET enable_material = off;
CALL ask('parallel');
SELECT count(*) FROM (SELECT sym, first(o, i) AS a, last(v, i) AS b, first(ts, b) AS c, last(note, d) AS d FROM m GROUP BY sym EXCEPT SELECT * FROM ties) s;
SET parallel_leader_participation = off;
CALL ask('workers alone');
RESET parallel_leader_participation;
SET max_parallel_workers = 0;
CALL ask('no worker to be had');
RESET max_parallel_workers;
-- Groups that take more memory than they may: workers send them early, and they are put together in parts.
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
SET enable_indexscan = off;
SET enable_indexonlyscan = off;
CALL ask('little memory');
-- Groups in any number do not speak against workers.
SET cpu_tuple_cost = 0;
SET cpu_operator_cost = 0;
CALL ask('little memory, many groups');
RESET cpu_tuple_cost;
RESET cpu_operator_cost;
RESET work_mem;
RESET hash_mem_multiplier;
RESET enable_indexscan;
RESET enable_indexonlyscan;
SET debug_parallel_query = regress;
SET max_parallel_workers_per_gather = 0;
CALL ask('by force');
RESET debug_parallel_query;
SET max_parallel_workers_per_gather = 2;
SELECT query, answer, differs FROM queries ORDER BY n;
-- That they are asked in the ways that this is about.
SELECT count(*) FILTER (WHERE plan LIKE '%Gather Final Partial VarveAggregate%') >= 18 AS aggregates, count(*) FILTER (WHERE plan LIKE '%Gather%VarveScan%') >= 4 AS scans,
    count(*) FILTER (WHERE plan LIKE '%VarveAggregate First%') >= 1 AS first_groups FROM queries;

-- Plans.
EXPLAIN (COSTS off) SELECT sym, sum(v) FROM m GROUP BY sym HAVING count(*) > 5 ORDER BY sum(v) LIMIT 3;
EXPLAIN (COSTS off, VERBOSE) SELECT sym, sum(v) FILTER (WHERE s < 100) FROM m WHERE i > 5 GROUP BY sym;
-- What all processes did.
CREATE FUNCTION counted(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) ' || query LOOP
        IF line ~ 'Segments:|Heap Rows|Removed by Columnar|Chunks|Partial Mode|Workers Planned' THEN
            RETURN NEXT trim(line);
        END IF;
    END LOOP;
END $$;
SET parallel_leader_participation = off;
SELECT counted('SELECT sym, sum(v) FROM m WHERE o > 50 GROUP BY sym');
RESET parallel_leader_participation;
SELECT counted('SELECT sym, sum(v) FROM m WHERE o > 50 GROUP BY sym');
SET max_parallel_workers_per_gather = 0;
SELECT counted('SELECT sym, sum(v) FROM m WHERE o > 50 GROUP BY sym');
SET max_parallel_workers_per_gather = 2;
-- No workers where they may not be, or are not worth it.
EXPLAIN (COSTS off) SELECT count(*) FROM m;
SET parallel_setup_cost = 100000000;
EXPLAIN (COSTS off) SELECT sym, sum(v) FROM m GROUP BY sym;
SET parallel_setup_cost = 0;
SET min_parallel_table_scan_size = '100MB';
EXPLAIN (COSTS off) SELECT sym, sum(v) FROM m GROUP BY sym;
SET min_parallel_table_scan_size = 0;
CREATE FUNCTION here(int) RETURNS int LANGUAGE plpgsql STABLE PARALLEL RESTRICTED AS 'BEGIN RETURN $1; END';
EXPLAIN (COSTS off) SELECT sym, sum(v) FROM m WHERE i > here(5) GROUP BY sym;
CREATE TEMP TABLE t AS SELECT * FROM columnar_heap.m WHERE i < 100;
SELECT varve.enable('t', '{sym}', '{ts}');
SELECT varve.set_tier('t', 'warm');
EXPLAIN (COSTS off) SELECT sym, sum(v) FROM t GROUP BY sym;
SELECT count(*) FROM (SELECT sym, sum(v) FROM t GROUP BY sym EXCEPT SELECT sym, sum(v) FROM columnar_heap.m WHERE i < 100 GROUP BY sym) s;

-- Rows of our own transaction.
BEGIN;
UPDATE m SET v = 1 WHERE sym = 'S011' AND s < 100;
SAVEPOINT a;
DELETE FROM m WHERE sym = 'S012';
INSERT INTO m (sym, ts, v) VALUES ('S012', '2025-01-09', 17), ('S999', '2025-01-16', 18);
SELECT sym, count(*), count(*) FILTER (WHERE v = 1), max(v) FROM m GROUP BY sym HAVING sym IN ('S011', 'S012', 'S999') ORDER BY sym;
ROLLBACK TO a;
SELECT sym, count(*), count(*) FILTER (WHERE v = 1), max(v) FROM m GROUP BY sym HAVING sym IN ('S011', 'S012', 'S999') ORDER BY sym;
ROLLBACK;
SELECT sym, count(*), count(*) FILTER (WHERE v = 1), max(v) FROM m GROUP BY sym HAVING sym IN ('S011', 'S012', 'S999') ORDER BY sym;

-- A prepared plan for workers, without and with them; parameters.
PREPARE p(int, text) AS SELECT count(*), sum(v) FROM m WHERE i > $1 AND (sym = $2 OR $2 IS NULL);
SET plan_cache_mode = force_generic_plan;
EXECUTE p(5, 'S003');
SET max_parallel_workers = 0;
EXECUTE p(5, 'S003');
EXECUTE p(400, NULL);
RESET max_parallel_workers;
EXECUTE p(400, NULL);
SET search_path = columnar_heap, public;
EXECUTE p(5, 'S003');
EXECUTE p(400, NULL);
SET search_path = columnar_parallel, public;
DEALLOCATE p;
RESET plan_cache_mode;
-- A parallel plan that is run row by row, without workers.
CREATE FUNCTION lazily() RETURNS SETOF record LANGUAGE sql VOLATILE AS 'SELECT sym, count(*) FROM m GROUP BY sym HAVING sym < ''S003''';
SELECT lazily() ORDER BY 1;
-- Rescans: of the aggregate, and of a scan that LIMIT has stopped.
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT x.n, count(*), sum(y.c) FROM generate_series(1, 4) x(n) JOIN (SELECT s, count(*) AS c FROM m WHERE i > 7 GROUP BY s) y ON y.s % 4 < x.n GROUP BY x.n ORDER BY x.n;
SELECT x.n, (SELECT count(*) FROM (SELECT FROM m WHERE z > x.n * 1000 AND i < 400 LIMIT 30000) l) FROM generate_series(1, 3) x(n);
SELECT x.n, y.c FROM generate_series(1, 3) x(n) JOIN LATERAL (SELECT count(*) AS c FROM (SELECT FROM m WHERE i < 400 LIMIT 30000) l) y ON y.c > x.n;
RESET enable_hashjoin;
RESET enable_mergejoin;
-- Errors, and a life after them.
SELECT sym, sum(o / (f4 - f4)) FROM m GROUP BY sym;
SELECT count(*), sum(i) FROM m;
SET statement_timeout = 1;
SELECT count(*) FROM (SELECT ts, v, count(DISTINCT o), stddev(o) FROM m GROUP BY ts, v) s, pg_sleep(1);
RESET statement_timeout;
SELECT count(*), sum(i) FROM m;

DROP SCHEMA columnar_parallel CASCADE;
DROP SCHEMA columnar_heap CASCADE;
