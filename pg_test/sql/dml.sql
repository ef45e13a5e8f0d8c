-- INSERT, COPY, UPDATE, DELETE, MERGE, RETURNING, row locks and cursors on frozen rows.
CREATE SCHEMA dml;
SET search_path = dml, public;

CREATE TABLE t (id int PRIMARY KEY, k int, v text);
CREATE INDEX t_k ON t (k);
INSERT INTO t SELECT i, i % 10, 'v' || i FROM generate_series(1, 100) i;
SELECT varve.enable('t');
SELECT testing.freeze('t');

-- Reading.
SELECT count(*), sum(id), min(v), max(v) FROM t;
SELECT * FROM t WHERE id = 42;
SELECT * FROM t WHERE id IN (5, 4, 3, 1000) ORDER BY id DESC;
SELECT k, count(*), array_agg(id ORDER BY id) AS ids FROM t WHERE id BETWEEN 11 AND 30 GROUP BY k HAVING k < 3 ORDER BY k;
SELECT a.id, b.id FROM t a JOIN t b ON b.id = a.id * 2 WHERE a.k = 9 ORDER BY 1;
SELECT id FROM t WHERE EXISTS (SELECT FROM t u WHERE u.id = t.id + 90) ORDER BY id;
SELECT l.id, s.* FROM generate_series(1, 3) l(id), LATERAL (SELECT v FROM t WHERE t.k = l.id ORDER BY t.id DESC LIMIT 2) s ORDER BY 1, 2;
SELECT id, lag(id) OVER (PARTITION BY k ORDER BY id) FROM t WHERE k = 1 AND id < 40 ORDER BY id;
WITH RECURSIVE r(id) AS (SELECT 1 UNION ALL SELECT t.id FROM t JOIN r ON t.id = r.id * 3) SELECT * FROM r ORDER BY 1;
(SELECT id FROM t WHERE id < 4 UNION SELECT k FROM t EXCEPT SELECT 0) INTERSECT SELECT id FROM t WHERE id < 6 ORDER BY 1;

-- System columns.
SELECT tableoid::regclass, ctid IS NOT NULL AS ctid, xmin IS NOT NULL AS xmin, xmax, cmin IS NOT NULL AS cmin, id FROM t WHERE id <= 2 ORDER BY id;
SELECT count(DISTINCT ctid) FROM t;
SELECT count(*) FROM t a JOIN t b ON a.ctid = b.ctid WHERE a.id = b.id;
SELECT t.* FROM t WHERE ctid = (SELECT ctid FROM t WHERE id = 7);
SELECT id, t FROM t WHERE id = 8;
SELECT (t.*).v, to_jsonb(t) FROM t WHERE id = 9;

-- INSERT beside frozen rows; duplicates of frozen rows are refused.
INSERT INTO t VALUES (101, 1, 'new'), (102, 2, 'new') RETURNING *;
INSERT INTO t VALUES (42, 0, 'duplicate');
INSERT INTO t VALUES (103, 3, 'new'), (1, 0, 'duplicate');
INSERT INTO t VALUES (101, 0, 'duplicate of a new row');
WITH r AS (INSERT INTO t SELECT id + 1000, k, v FROM t WHERE id <= 3 RETURNING id) SELECT * FROM r ORDER BY id;
INSERT INTO t TABLE t;
SELECT count(*), sum(id) FROM t;
SELECT testing.frozen('t', 100);

-- COPY in and out.
COPY t FROM stdin;
201	1	copied
202	\N	\N
\.
COPY t (id, v) FROM stdin WITH (FORMAT csv);
203,"with, comma"
1,duplicate of a frozen row
\.
COPY t FROM stdin WITH (FORMAT csv, FREEZE);
\.
COPY t (id, v) FROM stdin WITH (FORMAT csv, ON_ERROR ignore);
204,ok
x,not a number
\.
COPY (SELECT * FROM t WHERE id % 50 = 1 OR id > 200 ORDER BY id) TO stdout;
CREATE TABLE t_again (LIKE t);
CREATE FUNCTION copy_through_file() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    COPY t TO PROGRAM 'cat > varve_dml.copy' WITH (FORMAT binary);
    COPY t_again FROM PROGRAM 'cat varve_dml.copy; rm varve_dml.copy' WITH (FORMAT binary);
END $$;
SELECT copy_through_file();
SELECT testing.same('t', 't_again');
DROP TABLE t_again;

-- UPDATE.
SELECT testing.freeze('t');
UPDATE t SET v = 'updated' WHERE id = 1 RETURNING *;
WITH r AS (UPDATE t SET id = id + 500 WHERE id BETWEEN 10 AND 12 RETURNING id, k, v) SELECT * FROM r ORDER BY id;
UPDATE t SET id = 13 WHERE id = 14;
UPDATE t SET (k, v) = (SELECT max(k), 'subselect' FROM t) WHERE id = 2 RETURNING *;
UPDATE t SET v = o.v || '!' FROM t o WHERE o.id = t.id + 1 AND t.id = 20 RETURNING t.*, o.id;
UPDATE t SET v = v WHERE k = 5;
UPDATE t SET v = 'never' WHERE id = -1;
UPDATE t SET k = k + 1, v = 'twice' WHERE id = 1 RETURNING *;
-- All rows at once, every key changed into one that another frozen row holds for the moment.
UPDATE t SET id = -id;
SELECT count(*), sum(id), count(DISTINCT id) FROM t;
UPDATE t SET id = -id;
SELECT count(*), sum(id), count(DISTINCT id) FROM t;
UPDATE t SET id = 15 WHERE id = 15;
UPDATE t SET id = id + 1 WHERE id IN (300);
-- The key of a frozen row that was moved away can be used again.
INSERT INTO t VALUES (10, 0, 'again') RETURNING *;
SELECT * FROM t WHERE id IN (1, 2, 10, 20, 510) ORDER BY id;

-- DELETE.
SELECT testing.freeze('t');
DELETE FROM t WHERE id = 510 RETURNING *;
WITH r AS (DELETE FROM t USING t o WHERE o.id = t.id + 1 AND t.id IN (511, 512, 30) RETURNING t.id, o.id) SELECT * FROM r ORDER BY 1;
DELETE FROM t WHERE k = 7;
SELECT count(*), sum(id) FROM t;
INSERT INTO t VALUES (30, 3, 'back') RETURNING *;
INSERT INTO t VALUES (511, 1, 'back') ON CONFLICT DO NOTHING RETURNING *;
WITH gone AS (DELETE FROM t WHERE id > 1000 RETURNING *),
    moved AS (INSERT INTO t SELECT id - 1000 + 10000, k, 'moved' FROM gone RETURNING id, v)
    SELECT * FROM moved ORDER BY id;
SELECT count(*), sum(id) FROM t;
-- Two changes of one row in one statement: the second sees nothing.
WITH u AS (UPDATE t SET v = 'u' WHERE id = 40 RETURNING id), d AS (DELETE FROM t WHERE id = 41 RETURNING id)
SELECT (SELECT count(*) FROM u), (SELECT count(*) FROM d), (SELECT v FROM t WHERE id = 40), (SELECT count(*) FROM t WHERE id = 41);
SELECT id, v FROM t WHERE id IN (40, 41);
UPDATE t SET v = n.v FROM (VALUES (42, 'first'), (42, 'second')) n(id, v) WHERE t.id = n.id;
SELECT id, v IN ('first', 'second') FROM t WHERE id = 42;

-- MERGE.
SELECT testing.freeze('t');
CREATE TABLE source (id int, k int, v text);
INSERT INTO source VALUES (1, 1, 'matched'), (3, 3, 'to delete'), (4, 4, 'nothing'), (5000, 5, 'inserted');
WITH m AS (MERGE INTO t USING source s ON s.id = t.id
    WHEN MATCHED AND s.v = 'to delete' THEN DELETE
    WHEN MATCHED AND s.v = 'nothing' THEN DO NOTHING
    WHEN MATCHED THEN UPDATE SET v = t.v || ' -> ' || s.v
    WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.k, s.v)
    RETURNING merge_action(), t.*)
    SELECT * FROM m ORDER BY id;
MERGE INTO t USING source s ON s.id = t.id
    WHEN NOT MATCHED BY SOURCE AND t.id BETWEEN 50 AND 55 THEN DELETE
    WHEN MATCHED THEN UPDATE SET k = -s.k;
SELECT * FROM t WHERE id IN (1, 3, 4, 5000) OR id BETWEEN 50 AND 57 ORDER BY id;
-- A target row that two source rows match, and a row that is inserted twice.
MERGE INTO t USING (VALUES (60), (60)) s(id) ON s.id = t.id WHEN MATCHED THEN UPDATE SET v = 'twice';
MERGE INTO t USING (VALUES (6000), (6000)) s(id) ON s.id = t.id WHEN NOT MATCHED THEN INSERT VALUES (s.id);
MERGE INTO t USING (VALUES (61)) s(id) ON false WHEN NOT MATCHED THEN INSERT VALUES (s.id, 0, 'duplicate of a frozen row');
SELECT count(*), sum(id) FROM t;

-- Row locks.
SELECT testing.freeze('t');
BEGIN;
SELECT id FROM t WHERE id = 1 FOR UPDATE;
SELECT id FROM t WHERE id IN (1, 2) ORDER BY id FOR SHARE;
SELECT id FROM t WHERE id IN (2, 4) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED;
SELECT id FROM t WHERE id IN (2, 4) ORDER BY id FOR KEY SHARE NOWAIT;
SELECT count(*) FROM (SELECT FROM t WHERE k = 8 FOR UPDATE) s;
UPDATE t SET v = 'after lock' WHERE id = 2 RETURNING *;
SELECT a.id, b.id FROM t a JOIN t b ON b.id = a.id + 1 WHERE a.id = 4 FOR UPDATE OF b;
DELETE FROM t WHERE id = 4 RETURNING id;
ROLLBACK;
SELECT count(*), sum(id) FROM t;
BEGIN;
SELECT id FROM t WHERE k = 9 ORDER BY id LIMIT 3 FOR UPDATE;
COMMIT;
SELECT count(*), sum(id) FROM t;

-- Cursors: WHERE CURRENT OF, forward, backward, absolute, across changes, held.
CREATE TABLE cur (id int PRIMARY KEY, v text);
INSERT INTO cur SELECT i, 'c' || i FROM generate_series(1, 12) i;
SELECT varve.enable('cur');
SELECT testing.freeze('cur');
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT * FROM cur WHERE id <= 9;
FETCH ALL FROM c;
MOVE BACKWARD ALL FROM c;
FETCH FIRST FROM c;
FETCH ABSOLUTE 3 FROM c;
FETCH RELATIVE -1 FROM c;
FETCH LAST FROM c;
FETCH BACKWARD 2 FROM c;
FETCH ABSOLUTE -2 FROM c;
FETCH FORWARD ALL FROM c;
FETCH PRIOR FROM c;
CLOSE c;
DECLARE c CURSOR FOR SELECT * FROM cur WHERE id IN (1, 2, 5);
FETCH c;
UPDATE cur SET v = 'current' WHERE CURRENT OF c RETURNING *;
UPDATE cur SET v = 'current again' WHERE CURRENT OF c RETURNING *;
FETCH c;
DELETE FROM cur WHERE CURRENT OF c RETURNING *;
UPDATE cur SET v = 'gone' WHERE CURRENT OF c;
FETCH c;
FETCH c;
COMMIT;
SELECT * FROM cur ORDER BY id;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM cur WHERE id IN (5, 6) ORDER BY id FOR UPDATE;
FETCH c;
UPDATE cur SET v = 'locked, current' WHERE CURRENT OF c RETURNING *;
FETCH c;
DELETE FROM cur WHERE CURRENT OF c RETURNING id;
COMMIT;
SELECT * FROM cur ORDER BY id;
-- A cursor sees what was there when it was opened.
SELECT testing.freeze('t');
BEGIN;
DECLARE c CURSOR FOR SELECT id, v FROM t WHERE id < 10 ORDER BY id;
FETCH 1 FROM c;
UPDATE t SET v = 'unseen' WHERE id < 10;
DELETE FROM t WHERE id = 8;
INSERT INTO t VALUES (0, 0, 'unseen');
FETCH ALL FROM c;
SELECT id, v FROM t WHERE id < 10 ORDER BY id;
ROLLBACK;
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT id FROM t WHERE id < 10 ORDER BY id;
FETCH 2 FROM held;
DELETE FROM t WHERE id < 9;
COMMIT;
FETCH ALL FROM held;
CLOSE held;
SELECT id FROM t WHERE id < 12 ORDER BY id;
-- A statement reads its own table as it was.
SELECT testing.freeze('t');
WITH r AS (INSERT INTO t SELECT id + 20000, k, v FROM t WHERE id < 20 RETURNING id) SELECT * FROM r ORDER BY id;
UPDATE t SET k = (SELECT count(*) FROM t) WHERE id = 20001 OR id = 9 RETURNING id, k = (SELECT count(*) FROM t) AS same;
DO $$
DECLARE
    r record;
    n int := 0;
BEGIN
    FOR r IN SELECT id FROM t WHERE id < 100 LOOP
        UPDATE t SET v = 'loop' WHERE id = r.id;
        n := n + 1;
    END LOOP;
    RAISE NOTICE '% rows', n;
END $$;
SELECT v, count(*) FROM t WHERE id < 100 GROUP BY v;

-- Prepared statements, planned before and after rows are frozen and changed.
CREATE TABLE p (id int PRIMARY KEY, v text);
INSERT INTO p SELECT i, 'p' || i FROM generate_series(1, 50) i;
SELECT varve.enable('p');
SET plan_cache_mode = force_generic_plan;
PREPARE get (int) AS SELECT * FROM p WHERE id = $1;
PREPARE put (int, text) AS UPDATE p SET v = $2 WHERE id = $1 RETURNING *;
PREPARE del (int) AS DELETE FROM p WHERE id = $1 RETURNING *;
EXECUTE get(7);
SELECT testing.freeze('p');
EXECUTE get(7);
EXECUTE put(7, 'x');
EXECUTE get(7);
EXECUTE del(8);
EXECUTE get(8);
SELECT testing.thaw('p');
EXECUTE get(7);
EXECUTE put(7, 'y');
SELECT testing.freeze('p');
EXECUTE get(7);
EXECUTE get(9);
EXECUTE del(9);
DEALLOCATE ALL;
RESET plan_cache_mode;

-- An updatable view and rules over frozen rows.
CREATE VIEW small AS SELECT id, v FROM p WHERE id < 20 WITH CHECK OPTION;
UPDATE small SET v = 'view' WHERE id = 11 RETURNING *;
UPDATE small SET id = 100 WHERE id = 11;
DELETE FROM small WHERE id = 12 RETURNING *;
INSERT INTO small VALUES (11, 'duplicate of a frozen row');
CREATE RULE keep AS ON DELETE TO p DO INSTEAD UPDATE p SET v = 'deleted' WHERE id = OLD.id;
DELETE FROM p WHERE id IN (13, 14);
SELECT * FROM p WHERE id BETWEEN 10 AND 15 ORDER BY id;

-- CREATE TABLE AS, materialised views, SELECT INTO out of frozen rows.
SELECT testing.freeze('p');
CREATE TABLE q AS SELECT * FROM p;
CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n, sum(id) AS s FROM p;
SELECT testing.same('p', 'q'), m.* FROM m;
UPDATE p SET id = id + 1000 WHERE id = 1;
REFRESH MATERIALIZED VIEW m;
SELECT * FROM m;

SET client_min_messages = warning;
DROP SCHEMA dml CASCADE;
