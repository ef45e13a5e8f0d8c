-- The access method by its name, plans over frozen rows, and the setting varve.debug_freeze.
CREATE SCHEMA access_method;
SET search_path = access_method, public;

CREATE FUNCTION am(t regclass) RETURNS name LANGUAGE sql AS $$ SELECT amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid = t $$;
CREATE FUNCTION frozen(t regclass) RETURNS TABLE (tier text, rows bigint, delta_rows bigint) LANGUAGE sql AS $$ SELECT tier, rows, delta_rows FROM varve.chunk_stats(t) $$;

-- SET ACCESS METHOD, there and back, with frozen rows and changed ones.
CREATE TABLE t (id int PRIMARY KEY, v text, big text);
INSERT INTO t SELECT i, 'v' || i, CASE WHEN i % 10 = 0 THEN repeat('x', 5000) END FROM generate_series(1, 100) i;
CREATE INDEX t_v ON t (v);
CREATE TABLE twin AS TABLE t;
SELECT am('t');
ALTER TABLE t SET ACCESS METHOD varve;
SELECT am('t'), testing.same('t', 'twin'), f.* FROM frozen('t') f;
SELECT testing.freeze('t');
UPDATE t SET v = 'changed' WHERE id <= 3;
DELETE FROM t WHERE id = 4;
UPDATE twin SET v = 'changed' WHERE id <= 3;
DELETE FROM twin WHERE id = 4;
SELECT am('t'), testing.same('t', 'twin'), f.* FROM frozen('t') f;
ALTER TABLE t SET ACCESS METHOD heap;
SELECT am('t'), testing.same('t', 'twin'), f.* FROM frozen('t') f;
INSERT INTO t VALUES (5, 'duplicate');
ALTER TABLE t SET ACCESS METHOD varve;
SELECT am('t'), testing.same('t', 'twin'), f.* FROM frozen('t') f;
INSERT INTO t VALUES (5, 'duplicate');
SELECT testing.freeze('t');
ALTER TABLE t SET ACCESS METHOD varve, ALTER v TYPE varchar(50);
SELECT am('t'), f.* FROM frozen('t') f;
ALTER TABLE t SET ACCESS METHOD heap, ALTER v TYPE text USING v || '!';
UPDATE twin SET v = v || '!';
SELECT am('t'), testing.same('t', 'twin'), f.* FROM frozen('t') f;
-- As the default, for CREATE TABLE, AS, materialised views and partitions.
SET default_table_access_method = varve;
CREATE TABLE by_default (id int PRIMARY KEY);
CREATE TABLE by_default_as AS SELECT * FROM t;
CREATE MATERIALIZED VIEW mv AS SELECT id, v FROM t;
RESET default_table_access_method;
CREATE TABLE by_name (id int) USING varve;
SELECT am('by_default'), am('by_default_as'), am('mv'), am('by_name');
SELECT testing.same('by_default_as', 'twin');
SELECT testing.freeze('by_default_as');
SELECT testing.same('by_default_as', 'twin');
REFRESH MATERIALIZED VIEW mv;
CREATE UNIQUE INDEX ON mv (id);
REFRESH MATERIALIZED VIEW CONCURRENTLY mv;
SELECT count(*) FROM mv;
SELECT varve.set_tier('mv', 'warm');
-- TOAST tables, indexes and companions are heap's and btree's.
SELECT DISTINCT amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid IN (SELECT reltoastrelid FROM pg_class WHERE relam = (SELECT oid FROM pg_am WHERE amname = 'varve'));
SELECT DISTINCT amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE relnamespace = 'varve_data'::regnamespace AND relkind = 'r';
-- Companions can't be dropped by themselves, nor read or written by anybody but a superuser.
DO $$
BEGIN
    EXECUTE 'DROP TABLE ' || varve.segment_table('by_default_as');
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE '%', SQLSTATE;
END $$;
CREATE ROLE varve_am_user;
GRANT USAGE ON SCHEMA access_method TO varve_am_user;
SET ROLE varve_am_user;
SELECT testing.error('SELECT * FROM ' || varve.segment_table('access_method.by_default_as')) LIKE '42501%' AS refused;
RESET ROLE;
DROP OWNED BY varve_am_user;
DROP ROLE varve_am_user;

-- Plans: no index of a frozen table is read, estimates are right, and everything is as before after a thaw.
CREATE TABLE plan (id int PRIMARY KEY, k int, v text);
INSERT INTO plan SELECT i, i % 50, 'v' || i FROM generate_series(1, 20000) i;
CREATE INDEX plan_k ON plan (k);
ANALYZE plan;
EXPLAIN (COSTS off) SELECT * FROM plan WHERE id = 77;
SELECT testing.freeze('plan');
ANALYZE plan;
EXPLAIN (COSTS off) SELECT * FROM plan WHERE id = 77;
EXPLAIN (COSTS off) SELECT count(*) FROM plan WHERE k = 7;
EXPLAIN (COSTS off) SELECT max(id) FROM plan;
EXPLAIN (COSTS off) SELECT * FROM plan ORDER BY id LIMIT 1;
EXPLAIN (COSTS off) UPDATE plan SET v = 'x' WHERE id = 5;
EXPLAIN (COSTS off) SELECT * FROM plan a JOIN plan b ON a.id = b.k WHERE a.v = 'v3';
-- Uniqueness is still known: a join that adds nothing is removed, a grouping by the key needs the key alone.
EXPLAIN (COSTS off) SELECT a.v FROM plan a LEFT JOIN plan b ON a.k = b.id;
EXPLAIN (COSTS off) SELECT id, v, count(*) FROM plan GROUP BY id;
CREATE FUNCTION estimate(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
END $$;
SELECT estimate('SELECT * FROM plan') AS everything, estimate('SELECT * FROM plan WHERE id = 77') AS by_key,
    estimate('SELECT * FROM plan WHERE k = 7') AS by_k, estimate('SELECT * FROM plan WHERE id < 1000') BETWEEN 950 AND 1050 AS by_range,
    estimate('SELECT DISTINCT k FROM plan') AS distinct_k, estimate('SELECT * FROM plan a JOIN plan b ON a.k = b.id') AS joined;
-- New rows count too, without another ANALYZE.
INSERT INTO plan SELECT i, i % 50, 'v' || i FROM generate_series(20001, 40000) i;
SELECT estimate('SELECT * FROM plan') BETWEEN 30000 AND 50000 AS everything;
SELECT testing.freeze('plan');
SELECT estimate('SELECT * FROM plan') BETWEEN 35000 AND 45000 AS everything;
DELETE FROM plan WHERE id > 100;
VACUUM plan;
ANALYZE plan;
SELECT reltuples FROM pg_class WHERE oid = 'plan'::regclass;
SELECT testing.thaw('plan');
ANALYZE plan;
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT * FROM plan WHERE id = 77;
EXPLAIN (COSTS off) SELECT max(id) FROM plan;
RESET enable_seqscan;
-- A plan that was made when nothing was frozen is made anew.
SET plan_cache_mode = force_generic_plan;
PREPARE by_key AS SELECT id, v FROM plan WHERE id = $1;
SET enable_seqscan = off;
EXPLAIN (COSTS off) EXECUTE by_key(5);
SELECT testing.freeze('plan');
EXPLAIN (COSTS off) EXECUTE by_key(5);
EXECUTE by_key(5);
SELECT testing.thaw('plan');
EXPLAIN (COSTS off) EXECUTE by_key(5);
BEGIN;
SELECT testing.freeze('plan');
EXECUTE by_key(6);
ROLLBACK;
EXECUTE by_key(6);
EXPLAIN (COSTS off) EXECUTE by_key(6);
DEALLOCATE by_key;
RESET enable_seqscan;
RESET plan_cache_mode;

-- varve.debug_freeze: rows of varve tables are frozen by the commit that wrote them.
SHOW varve.debug_freeze;
SET varve.debug_freeze = commit;
CREATE TABLE debug (id int PRIMARY KEY, v text) USING varve;
INSERT INTO debug SELECT i, 'v' || i FROM generate_series(1, 10) i;
SELECT * FROM frozen('debug');
UPDATE debug SET v = 'u' WHERE id <= 3;
SELECT * FROM frozen('debug');
INSERT INTO debug VALUES (1, 'x'), (11, 'y') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
DELETE FROM debug WHERE id = 2;
SELECT * FROM frozen('debug');
SELECT * FROM debug WHERE id IN (1, 2, 3, 11) ORDER BY id;
BEGIN;
INSERT INTO debug VALUES (12, 'a');
SAVEPOINT a;
INSERT INTO debug VALUES (13, 'b');
UPDATE debug SET v = 'undone' WHERE id = 5;
ROLLBACK TO a;
UPDATE debug SET v = 'kept' WHERE id = 6;
SELECT * FROM frozen('debug');
COMMIT;
SELECT * FROM frozen('debug');
SELECT * FROM debug WHERE id IN (5, 6, 12, 13) ORDER BY id;
BEGIN;
UPDATE debug SET v = 'rolled back';
ROLLBACK;
SELECT count(*) FROM debug WHERE v = 'rolled back';
INSERT INTO debug VALUES (5, 'duplicate');
SELECT bool_and(ok) FROM varve.verify('debug');
SET varve.debug_freeze = off;
INSERT INTO debug VALUES (14, 'c');
SELECT * FROM frozen('debug');
SET varve.debug_freeze = sometimes;
CREATE ROLE varve_am_user;
SET ROLE varve_am_user;
SET varve.debug_freeze = commit;
RESET ROLE;
DROP ROLE varve_am_user;
SET varve.nonsense = 1;

SET client_min_messages = warning;
DROP SCHEMA access_method CASCADE;
