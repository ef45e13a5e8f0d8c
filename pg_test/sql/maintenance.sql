-- VACUUM, CLUSTER, ANALYZE, sampling and scans by TID over frozen rows.
CREATE SCHEMA maintenance;
SET search_path = maintenance, public;

CREATE TABLE t (id int PRIMARY KEY, k int, v text, big text);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
INSERT INTO t SELECT i, i % 20, 'v' || i % 7, CASE WHEN i % 100 = 0 THEN repeat('x', 5000) END FROM generate_series(1, 2000) i;
CREATE INDEX t_k ON t (k);
CREATE TABLE twin (LIKE t INCLUDING STORAGE);
INSERT INTO twin TABLE t;
SELECT varve.enable('t');
SELECT testing.freeze('t');
-- Changes both tables alike.
CREATE PROCEDURE change(seed int) LANGUAGE plpgsql AS $$
DECLARE
    target regclass;
BEGIN
    FOREACH target IN ARRAY '{t,twin}'::regclass[] LOOP
        EXECUTE format('UPDATE %s SET v = %L WHERE id %% 97 = %s', target, 'changed ' || seed, seed);
        EXECUTE format('DELETE FROM %s WHERE id %% 89 = %s', target, seed);
        EXECUTE format('INSERT INTO %s SELECT i, %s, ''inserted'', repeat(''y'', 4000) FROM generate_series(10000 * %2$s, 10000 * %2$s + 20) i', target, seed);
    END LOOP;
    RAISE NOTICE '%', testing.same('t', 'twin');
END $$;

-- VACUUM, plain, freezing, full, with and without changes since the last freeze.
VACUUM t;
SELECT testing.same('t', 'twin'), testing.frozen('t', 2000);
CALL change(1);
VACUUM t;
SELECT testing.same('t', 'twin');
CALL change(2);
VACUUM (FREEZE, ANALYZE, INDEX_CLEANUP on, TRUNCATE on) t;
SELECT testing.same('t', 'twin');
SELECT testing.freeze('t');
CALL change(3);
VACUUM FULL t;
SELECT testing.same('t', 'twin');
INSERT INTO t VALUES (50, 0, 'duplicate');
SELECT testing.freeze('t');
SELECT testing.same('t', 'twin'), testing.intact('t');
CALL change(4);
VACUUM (DISABLE_PAGE_SKIPPING, PARALLEL 2) t;
VACUUM (ONLY_DATABASE_STATS);
SELECT testing.same('t', 'twin');
-- A table of which nothing was ever changed, and one of which nothing is left.
CREATE TABLE all_gone (id int PRIMARY KEY, v text);
INSERT INTO all_gone SELECT i, 'v' FROM generate_series(1, 100) i;
SELECT testing.freeze('all_gone');
VACUUM FULL all_gone;
DELETE FROM all_gone;
VACUUM all_gone;
SELECT count(*) FROM all_gone;
VACUUM FULL all_gone;
SELECT count(*) FROM all_gone;
INSERT INTO all_gone VALUES (1, 'again');
SELECT testing.freeze('all_gone');
SELECT * FROM all_gone;

-- CLUSTER, by an index.
SELECT testing.freeze('t');
CALL change(5);
CLUSTER t USING t_k;
SELECT testing.same('t', 'twin');
CLUSTER t;
SELECT testing.freeze('t');
CLUSTER t USING t_pkey;
SELECT testing.same('t', 'twin'), testing.intact('t');
SELECT count(*) FROM t WHERE k = 3;
INSERT INTO t VALUES (50, 0, 'duplicate');

-- ANALYZE counts frozen rows and knows their values. (What is TOASTed on heap is as wide as a pointer.)
SELECT testing.freeze('t');
VACUUM ANALYZE t;
ANALYZE twin;
SELECT relname, reltuples FROM pg_class WHERE oid IN ('t'::regclass, 'twin'::regclass) ORDER BY relname;
SELECT attname, (x.null_frac, x.n_distinct, x.most_common_vals::text, x.most_common_freqs, x.histogram_bounds::text)
        IS NOT DISTINCT FROM (y.null_frac, y.n_distinct, y.most_common_vals::text, y.most_common_freqs, y.histogram_bounds::text) AS same,
        x.avg_width = y.avg_width OR attname = 'big' AS same_width
    FROM pg_stats x JOIN pg_stats y USING (schemaname, attname) WHERE x.tablename = 't' AND y.tablename = 'twin' AND x.schemaname = 'maintenance' ORDER BY attname;
SELECT attname, null_frac, n_distinct, avg_width FROM pg_stats WHERE tablename = 't' AND schemaname = 'maintenance' AND attname IN ('id', 'k') ORDER BY attname;
UPDATE t SET v = 'v' WHERE id % 4 = 0;
UPDATE twin SET v = 'v' WHERE id % 4 = 0;
ANALYZE t;
ANALYZE twin;
SELECT relname, reltuples FROM pg_class WHERE oid IN ('t'::regclass, 'twin'::regclass) ORDER BY relname;
SELECT x.most_common_vals::text, x.most_common_freqs = y.most_common_freqs AS same
    FROM pg_stats x JOIN pg_stats y USING (schemaname, attname) WHERE x.tablename = 't' AND y.tablename = 'twin' AND x.schemaname = 'maintenance' AND attname = 'v';
-- Also of an expression index, extended statistics, a partition and a table of which more rows are frozen than are sampled.
CREATE INDEX t_expr ON t ((id % 3));
CREATE STATISTICS t_stats (ndistinct, dependencies, mcv) ON k, v FROM t;
ANALYZE t;
SELECT attname, n_distinct FROM pg_stats WHERE tablename = 't_expr' AND schemaname = 'maintenance';
SELECT stxdndistinct IS NOT NULL AS ndistinct, stxddependencies IS NOT NULL AS dependencies, stxdmcv IS NOT NULL AS mcv FROM pg_statistic_ext_data;
CREATE TABLE many (id int, k int);
INSERT INTO many SELECT i, i % 10 FROM generate_series(1, 100000) i;
SELECT testing.freeze('many');
SET default_statistics_target = 10;
ANALYZE many;
SELECT reltuples BETWEEN 99000 AND 101000 AS about_right FROM pg_class WHERE oid = 'many'::regclass;
SELECT attname, n_distinct, array_length(most_common_vals::text::text[], 1) AS mcv, array_length(histogram_bounds::text::text[], 1) AS bounds FROM pg_stats WHERE tablename = 'many' ORDER BY attname;
SELECT (histogram_bounds::text::int[])[1] < 10000 AS from_the_start, (histogram_bounds::text::int[])[11] > 90000 AS to_the_end FROM pg_stats WHERE tablename = 'many' AND attname = 'id';
RESET default_statistics_target;

-- TABLESAMPLE.
SELECT count(*) FROM t TABLESAMPLE BERNOULLI (100);
SELECT count(*) FROM t TABLESAMPLE SYSTEM (100);
SELECT count(*) FROM t TABLESAMPLE BERNOULLI (0);
SELECT count(*) FROM t TABLESAMPLE SYSTEM (0);
SELECT count(*) = count(DISTINCT id), count(*) BETWEEN 800 AND 1200 FROM t TABLESAMPLE BERNOULLI (50) REPEATABLE (1);
SELECT count(*) BETWEEN 40000 AND 60000 AS bernoulli FROM many TABLESAMPLE BERNOULLI (50) REPEATABLE (2);
SELECT count(*) BETWEEN 20000 AND 80000 AS system FROM many TABLESAMPLE SYSTEM (50) REPEATABLE (3);
SELECT count(*) = (SELECT count(*) FROM many TABLESAMPLE SYSTEM (50) REPEATABLE (3)) AS repeatable FROM many TABLESAMPLE SYSTEM (50) REPEATABLE (3);
DELETE FROM t WHERE id BETWEEN 101 AND 110;
SELECT count(*) = (SELECT count(*) FROM t) AS same, count(*) FILTER (WHERE id BETWEEN 101 AND 110) AS deleted FROM t TABLESAMPLE SYSTEM (100);

-- Scans by TID: one, several, ranges, joins, and TIDs of nothing.
CREATE TABLE tids (id int PRIMARY KEY, v text);
INSERT INTO tids SELECT i, 'v' || i FROM generate_series(1, 50) i;
SELECT varve.enable('tids');
SELECT testing.freeze('tids');
SELECT count(*) FROM tids a WHERE EXISTS (SELECT FROM tids b WHERE b.ctid = a.ctid AND b.id = a.id);
SELECT id FROM tids WHERE ctid = ANY (SELECT ctid FROM tids WHERE id IN (1, 25, 50)) ORDER BY id;
SELECT count(*) FROM tids WHERE ctid >= (SELECT min(ctid) FROM tids) AND ctid <= (SELECT max(ctid) FROM tids);
SELECT count(*) FROM tids WHERE ctid > (SELECT ctid FROM tids WHERE id = 10) AND ctid <= (SELECT ctid FROM tids WHERE id = 20);
SELECT count(*) FROM tids WHERE ctid >= '(0,0)';
SELECT count(*) FROM tids WHERE ctid < '(0,0)';
SELECT count(*) FROM tids WHERE ctid IN ('(0,0)', '(1000000,1)', '(2147483647,1)', '(4294967295,65535)', '(0,60000)');
SELECT max(id) FROM tids WHERE ctid <= (SELECT ctid FROM tids WHERE id = 7);
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT count(*) FROM tids a JOIN tids b ON a.ctid = b.ctid;
RESET enable_hashjoin;
RESET enable_mergejoin;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id FROM tids WHERE ctid >= (SELECT ctid FROM tids WHERE id = 40) AND id < 100;
FETCH FORWARD 2 FROM c;
FETCH BACKWARD 1 FROM c;
FETCH LAST FROM c;
COMMIT;
UPDATE tids SET v = 'by tid' WHERE ctid = (SELECT ctid FROM tids WHERE id = 3) RETURNING *;
DELETE FROM tids WHERE ctid = ANY (ARRAY(SELECT ctid FROM tids WHERE id > 45));
SELECT count(*) FROM tids;
-- The TID of before an update finds nothing any more.
CREATE TABLE old_tids AS SELECT ctid AS t, id FROM tids WHERE id BETWEEN 10 AND 12;
UPDATE tids SET v = 'new' WHERE id IN (10, 11);
SELECT o.id, t.id AS found FROM old_tids o LEFT JOIN tids t ON t.ctid = o.t ORDER BY o.id;
-- Sizes: what the catalogue functions answer is not negative, and nothing fails.
SELECT pg_relation_size('t') >= 0 AS main, pg_table_size('t') > 0 AS whole, pg_indexes_size('t') > 0 AS indexes, pg_total_relation_size('t') > 0 AS total;
SELECT pg_relation_filenode('t') IS NOT NULL AS node, pg_relation_filepath('t') IS NOT NULL AS path;
SELECT n_live_tup >= 0 AS live FROM pg_stat_user_tables WHERE relid = 't'::regclass;

SET client_min_messages = warning;
DROP SCHEMA maintenance CASCADE;
