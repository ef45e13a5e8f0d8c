-- Orders of frozen chunks: what a column's new type or collation makes of them, rows of the delta that are sorted between
-- frozen ones and can still be changed where a cursor stands on them, and groups that are read from one end.
CREATE SCHEMA columnar_orders;
SET search_path = columnar_orders, public;
SET timezone = 'UTC';
SET client_min_messages = warning;
CREATE EXTENSION citext SCHEMA columnar_orders;
RESET client_min_messages;

-- The nodes of a plan.
CREATE FUNCTION nodes(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
    found text[] := '{}';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        IF line ~ '^ *(->.*|[A-Z][A-Za-z ]*(\(\w+\))?( on .*|$))' AND line !~ '(Key|Cond|Filter|Presorted)' THEN
            found := found || trim(regexp_replace(line, '->| on .*|Custom Scan ', '', 'g'));
        END IF;
    END LOOP;
    RETURN array_to_string(found, ', ');
END $$;

CREATE TABLE h (name text COLLATE "C" NOT NULL, n int NOT NULL, v int, PRIMARY KEY (name, n));
INSERT INTO h SELECT (ARRAY['a', 'B', 'c', 'D', 'É', 'f', 'Z', 'z'])[1 + i % 8], i, i % 100 FROM generate_series(1, 20000) i;
CREATE TABLE t (LIKE h INCLUDING ALL);
INSERT INTO t TABLE h;
SELECT varve.enable('t', order_by => '{name,n}');
SELECT testing.freeze('t');
ANALYZE h;
ANALYZE t;
CREATE FUNCTION same() RETURNS TABLE (straight boolean, mixed boolean, joined boolean, one boolean) LANGUAGE sql AS $$
    SELECT (SELECT array_agg(x) = (SELECT array_agg(y) FROM (SELECT * FROM h ORDER BY name, n) y) FROM (SELECT * FROM t ORDER BY name, n) x),
        (SELECT array_agg(x) = (SELECT array_agg(y) FROM (SELECT * FROM h ORDER BY name DESC, n) y) FROM (SELECT * FROM t ORDER BY name DESC, n) x),
        (SELECT count(*) = 20000 FROM t JOIN h USING (name, n)),
        (SELECT count(*) = (SELECT count(*) FROM h WHERE name = 'z' AND n < 5000) FROM t WHERE name = 'z' AND n < 5000)
$$;
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT nodes('SELECT * FROM t ORDER BY name, n');
SELECT nodes('SELECT * FROM t ORDER BY name, n DESC');
SELECT * FROM same();
-- Another collation: no row moves, their order does.
ALTER TABLE t ALTER name TYPE text COLLATE "und-x-icu";
ALTER TABLE h ALTER name TYPE text COLLATE "und-x-icu";
SELECT varve.segment_table('t') IS NOT NULL AS frozen;
SELECT nodes('SELECT * FROM t ORDER BY name, n');
SELECT * FROM same();
SELECT DISTINCT ON (name) name, n FROM t ORDER BY name, n DESC;
-- Frozen anew they lie in it.
SELECT testing.thaw('t');
SELECT testing.freeze('t');
SELECT nodes('SELECT * FROM t ORDER BY name, n');
SELECT * FROM same();
-- Another type, whose values are stored alike.
ALTER TABLE t ALTER name TYPE citext COLLATE "C";
ALTER TABLE h ALTER name TYPE citext COLLATE "C";
SELECT varve.segment_table('t') IS NOT NULL AS frozen;
SELECT nodes('SELECT * FROM t ORDER BY name, n');
SELECT * FROM same();
-- And back: the first order is known again.
ALTER TABLE t ALTER name TYPE text COLLATE "und-x-icu";
ALTER TABLE h ALTER name TYPE text COLLATE "und-x-icu";
SELECT nodes('SELECT * FROM t ORDER BY name, n');
SELECT * FROM same();
-- A number that gets another order: oids have no sign.
CREATE TABLE o (k int NOT NULL, v int);
INSERT INTO o SELECT i - 1500, i FROM generate_series(1, 3000) i;
SELECT varve.enable('o', order_by => '{k}');
SELECT testing.freeze('o');
ANALYZE o;
SELECT nodes('SELECT * FROM o ORDER BY k');
ALTER TABLE o ALTER k TYPE oid;
SELECT nodes('SELECT * FROM o ORDER BY k');
(SELECT k, v FROM o ORDER BY k LIMIT 2) UNION ALL (SELECT k, v FROM o ORDER BY k DESC LIMIT 2);
SELECT v FROM o WHERE k = 4294967000;
SELECT count(*) FROM o WHERE k > 4294967000;
-- Only the second column of an order: the first one's stays.
CREATE TABLE p (a int NOT NULL, b text COLLATE "C" NOT NULL);
INSERT INTO p SELECT i % 3, chr(65 + i % 2 * 32 + i % 26) FROM generate_series(1, 5000) i;
SELECT varve.enable('p', order_by => '{a,b}');
SELECT testing.freeze('p');
ALTER TABLE p ALTER b TYPE text COLLATE "und-x-icu";
ANALYZE p;
SELECT nodes('SELECT * FROM p ORDER BY a');
SELECT nodes('SELECT * FROM p ORDER BY a, b');
SELECT string_agg(b, '' ORDER BY a, b COLLATE "und-x-icu") = (SELECT string_agg(b, '') FROM (SELECT b FROM p ORDER BY a, b) s) AS same FROM p;
RESET enable_hashjoin;
RESET enable_nestloop;

-- Rows of the delta between frozen ones.
CREATE TABLE w (k int NOT NULL, n int NOT NULL, v text, PRIMARY KEY (k, n));
INSERT INTO w SELECT i / 10, i % 10, 'frozen' FROM generate_series(0, 2999) i;
SELECT varve.enable('w', order_by => '{k,n}');
SELECT testing.freeze('w');
UPDATE w SET v = 'delta' WHERE k = 2 AND n IN (3, 7);
INSERT INTO w VALUES (2, 10, 'new'), (2, 11, NULL);
ANALYZE w;
SELECT nodes('SELECT * FROM w WHERE k = 2 ORDER BY k, n');
BEGIN;
DECLARE here CURSOR FOR SELECT * FROM w WHERE k = 2 ORDER BY k, n;
MOVE 3 FROM here;
FETCH 1 FROM here;
UPDATE w SET v = 'here' WHERE CURRENT OF here;
FETCH 1 FROM here;
UPDATE w SET v = 'frozen, here' WHERE CURRENT OF here;
MOVE 6 FROM here;
FETCH 1 FROM here;
DELETE FROM w WHERE CURRENT OF here;
COMMIT;
SELECT * FROM w WHERE k = 2 ORDER BY k, n;
-- Where rows lie, in order; and rows that are locked and changed in order.
SELECT nodes('SELECT ctid, * FROM w WHERE k = 2 ORDER BY k, n');
SELECT count(*), count(*) FILTER (WHERE w.ctid = s.ctid AND w.v IS NOT DISTINCT FROM s.v) FROM (SELECT ctid, * FROM w WHERE k < 4 ORDER BY k, n OFFSET 0) s JOIN w USING (k, n);
SELECT nodes('SELECT * FROM w WHERE k < 3 ORDER BY k DESC, n DESC LIMIT 4 FOR UPDATE');
SELECT * FROM w WHERE k < 3 ORDER BY k DESC, n DESC LIMIT 4 FOR UPDATE;
SET enable_hashjoin = off;
SET enable_nestloop = off;
CREATE TABLE news (k int, n int, v text, PRIMARY KEY (k, n));
INSERT INTO news SELECT 2, i, 'news ' || i FROM generate_series(0, 12) i;
ANALYZE news;
UPDATE w SET v = news.v FROM news WHERE (w.k, w.n) = (news.k, news.n);
DELETE FROM w USING news WHERE (w.k, w.n) = (news.k, news.n) AND w.n % 4 = 0 RETURNING w.*;
RESET enable_hashjoin;
RESET enable_nestloop;
SELECT * FROM w WHERE k = 2 ORDER BY k, n;

-- The first groups: NULLs come first in a descending order, also where only a chunk lets them in.
CREATE TABLE parent (ts int NOT NULL, g int NOT NULL);
CREATE TABLE child () INHERITS (parent);
ALTER TABLE child ALTER g DROP NOT NULL;
INSERT INTO child SELECT i, CASE WHEN i % 5 > 0 THEN i % 7 END FROM generate_series(1, 5000) i;
SELECT testing.freeze('child');
ANALYZE parent;
SELECT nodes('SELECT g, count(*) FROM parent GROUP BY g ORDER BY g DESC LIMIT 2');
SELECT g, count(*) FROM parent GROUP BY g ORDER BY g DESC LIMIT 2;

-- Statistics that can't be had don't keep a chunk from being frozen.
CREATE TABLE e (ts int NOT NULL, v int);
INSERT INTO e SELECT i, 1 FROM generate_series(1, 1000) i;
CREATE STATISTICS e_expr ON (10 / v), ts FROM e;
UPDATE e SET v = 0 WHERE ts = 7;
VACUUM e;
ANALYZE e; -- PostgreSQL itself has none, then
SELECT testing.freeze('e');
SELECT count(*), sum(v) FROM e;
SELECT count(*) FROM pg_statistic WHERE starelid = 'e'::regclass;

SET client_min_messages = warning;
DROP SCHEMA columnar_orders CASCADE;
