-- Parallel plans over frozen rows give what serial ones give.
CREATE SCHEMA parallel;
SET search_path = parallel, public;
-- Scans are what is to run in parallel here.
SET varve.enable_columnar_aggregate = off;

CREATE TABLE t (id int PRIMARY KEY, k int, v text, f float8);
INSERT INTO t SELECT i, i % 100, 'v' || i % 1000, i / 4.0 FROM generate_series(1, 150000) i;
CREATE TABLE u (id int PRIMARY KEY, w text);
INSERT INTO u SELECT i * 3, 'w' || i FROM generate_series(1, 20000) i;
SELECT varve.enable('t'), varve.enable('u');
SELECT testing.freeze('t'), testing.freeze('u');
-- Rows of the delta, hidden rows, changed rows.
UPDATE t SET v = 'changed' WHERE id % 1000 = 7;
DELETE FROM t WHERE id % 1000 = 8;
INSERT INTO t SELECT i, i % 100, 'new', 0 FROM generate_series(200001, 200500) i;
ANALYZE t;
ANALYZE u;

CREATE TABLE answers (query text, serial text, parallel text);
-- Keeps the answer of each query, as the setting in force gets it, and whether a Gather was planned.
CREATE PROCEDURE ask(kind text) LANGUAGE plpgsql AS $$
DECLARE
    q text;
    answer text;
    plan text;
BEGIN
    FOREACH q IN ARRAY ARRAY[
        'SELECT count(*) FROM t',
        'SELECT count(*), count(id), sum(id::bigint), min(v), max(v), sum(f) FROM t',
        'SELECT count(*) FROM t WHERE k = 7 AND v <> ''changed''',
        'SELECT string_agg(k || ''='' || n, '','' ORDER BY k) FROM (SELECT k, count(*) AS n FROM t GROUP BY k) s',
        'SELECT md5(string_agg(s::text, '','' ORDER BY s)) FROM (SELECT * FROM t WHERE id % 17 = 0) s',
        'SELECT count(*), sum(t.id::bigint), max(w) FROM t JOIN u USING (id)',
        'SELECT count(*), sum(a.id::bigint) FROM t a JOIN t b ON a.id = b.id + 1',
        'SELECT count(*) FROM t LEFT JOIN u USING (id) WHERE u.id IS NULL',
        'SELECT count(*) FROM t WHERE NOT EXISTS (SELECT FROM u WHERE u.id = t.id)',
        'SELECT count(*) FROM (SELECT id FROM t UNION ALL SELECT id FROM u) s',
        'SELECT count(*) FROM t TABLESAMPLE BERNOULLI (100)',
        'SELECT sum(id) FROM (SELECT id FROM t ORDER BY v, id LIMIT 100) s',
        'SELECT count(*) FROM t WHERE id = (SELECT max(id) FROM u)'
    ] LOOP
        EXECUTE format('SELECT format(''%%s'', s) FROM (%s) s', q) INTO answer;
        EXECUTE 'EXPLAIN (FORMAT json) ' || q INTO plan;
        IF kind = 'serial' THEN
            INSERT INTO answers VALUES (q, answer || CASE WHEN plan LIKE '%Gather%' THEN ' (parallel!)' ELSE '' END);
        ELSE
            UPDATE answers SET parallel = answer || CASE WHEN plan NOT LIKE '%Gather%' AND q NOT LIKE '%TABLESAMPLE%' THEN ' (serial!)' ELSE '' END WHERE query = q;
        END IF;
    END LOOP;
END $$;
\set SHOW_CONTEXT never
SET enable_indexscan = off;
SET enable_indexonlyscan = off;
SET enable_bitmapscan = off;
SET max_parallel_workers_per_gather = 0;
CALL ask('serial');
SET max_parallel_workers_per_gather = 4;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET min_parallel_index_scan_size = 0;
CALL ask('parallel');
SELECT query, left(serial, 60) AS answer FROM answers WHERE serial = parallel;
SELECT * FROM answers WHERE serial IS DISTINCT FROM parallel;

-- Rescans of a parallel scan, and the leader alone.
SET enable_material = off;
SELECT s.n, (SELECT count(*) FROM t WHERE k = s.n) FROM generate_series(1, 3) s(n);
SET parallel_leader_participation = off;
SELECT count(*), sum(id::bigint) FROM t;
RESET parallel_leader_participation;
SET max_parallel_workers = 0;
SELECT count(*), sum(id::bigint) FROM t;
RESET max_parallel_workers;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT count(*) FROM (VALUES (1), (2), (3)) s(n) JOIN t ON t.k = s.n;
RESET enable_hashjoin;
RESET enable_mergejoin;
RESET enable_material;

-- A cursor, a LIMIT that stops early, a statement that fails in a worker.
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM t WHERE k = 1 ORDER BY id;
FETCH 2 FROM c;
CLOSE c;
COMMIT;
SELECT count(*) FROM (SELECT id FROM t LIMIT 10) s;
SELECT count(*) FROM t WHERE 1 / (id - 77777) > 0;
SELECT count(*) FROM t;

-- Everything by force, also where it does not pay.
SET debug_parallel_query = on;
SELECT count(*), sum(id::bigint) FROM t WHERE k < 50;
SELECT id, v FROM t WHERE id BETWEEN 1006 AND 1009 ORDER BY id;
SELECT count(*) FROM u;
RESET debug_parallel_query;

-- Parallel index builds, and what reads all rows to copy them.
SET max_parallel_maintenance_workers = 4;
CREATE INDEX t_k ON t (k, id);
CREATE UNIQUE INDEX t_id ON t (id DESC);
CREATE UNIQUE INDEX t_f ON t (f);
CREATE TABLE copy AS SELECT * FROM t;
SELECT testing.same('t', 'copy');
REINDEX TABLE t;
SELECT testing.freeze('t');
SELECT testing.thaw('t');
SELECT testing.same('t', 'copy');

SET client_min_messages = warning;
DROP SCHEMA parallel CASCADE;
