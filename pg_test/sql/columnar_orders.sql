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

-- NULLs behind the greatest of all numbers, where the smallest is there, too.
CREATE TABLE ends (h int NOT NULL, at timestamptz, n bigint, k int NOT NULL);
INSERT INTO ends SELECT i % 3, timestamptz '2025-01-01 00:00+00' + i % 50 * interval '1 hour', i % 70, i FROM generate_series(1, 3000) i;
INSERT INTO ends VALUES (1, NULL, NULL, -1), (1, 'infinity', 9223372036854775807, -2), (1, NULL, NULL, -3), (1, 'infinity', 9223372036854775807, -4), (1, '-infinity', -9223372036854775808, -5);
CREATE TABLE of_time (LIKE ends);
CREATE TABLE of_numbers (LIKE ends);
INSERT INTO of_time TABLE ends;
INSERT INTO of_numbers TABLE ends;
SELECT varve.enable('of_time', order_by => '{h,at}'), varve.enable('of_numbers', order_by => '{h,n}');
SELECT testing.freeze('of_time'), testing.freeze('of_numbers');
SELECT nodes('SELECT * FROM of_time ORDER BY h, at'), nodes('SELECT * FROM of_numbers ORDER BY h DESC, n DESC');
SELECT count(*) FILTER (WHERE at IS NULL AND place < 1004 OR at = 'infinity' AND place NOT BETWEEN 1002 AND 1003 OR at = '-infinity' AND place > 1) AS wrong
    FROM (SELECT at, row_number() OVER (ORDER BY h, at) - (SELECT count(*) FROM ends WHERE h = 0) AS place, h FROM of_time) x WHERE h = 1;
SELECT string_agg(coalesce(n::text, 'NULL'), ', ') FROM (SELECT n FROM of_numbers WHERE h = 1 ORDER BY h DESC, n DESC LIMIT 5) x;
SELECT string_agg(coalesce(at::text, 'NULL'), ', ') FROM (SELECT at FROM of_time WHERE h = 1 ORDER BY h DESC, at DESC LIMIT 5) x;

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

-- Series that end and begin within pages and segments: what the pages beside them leave out is not missed. Every chunk has
-- series with NULLs, with a single row, and with many; rows that were changed, and rows that are dead.
CREATE TABLE series (k text COLLATE "C" NOT NULL, n int NOT NULL, ts int, v int NOT NULL);
INSERT INTO series SELECT 's' || lpad(s::text, 3, '0'), s, CASE WHEN s % 9 = 4 AND i % 50 = 0 THEN NULL ELSE i * 2 + s % 2 END, i
    FROM generate_series(0, 119) s, generate_series(1, CASE WHEN s % 13 = 0 THEN 1 WHEN s % 7 = 0 THEN 4000 ELSE 900 END) i;
CREATE TABLE by_text (LIKE series);
CREATE TABLE by_number (LIKE series);
CREATE TABLE by_both (LIKE series);
INSERT INTO by_text TABLE series;
INSERT INTO by_number TABLE series;
INSERT INTO by_both TABLE series;
SELECT varve.enable('by_text', order_by => '{k,ts}'), varve.enable('by_number', order_by => '{n,ts}'), varve.enable('by_both', order_by => '{k,n,ts}');
SELECT testing.freeze('by_text'), testing.freeze('by_number'), testing.freeze('by_both');
DELETE FROM series WHERE n % 5 = 3 AND ts BETWEEN 300 AND 420;
DELETE FROM by_text WHERE n % 5 = 3 AND ts BETWEEN 300 AND 420;
DELETE FROM by_number WHERE n % 5 = 3 AND ts BETWEEN 300 AND 420;
DELETE FROM by_both WHERE n % 5 = 3 AND ts BETWEEN 300 AND 420;
UPDATE series SET v = -v WHERE n % 11 = 2 AND ts < 40;
UPDATE by_text SET v = -v WHERE n % 11 = 2 AND ts < 40;
UPDATE by_number SET v = -v WHERE n % 11 = 2 AND ts < 40;
UPDATE by_both SET v = -v WHERE n % 11 = 2 AND ts < 40;
ANALYZE series;
ANALYZE by_text;
ANALYZE by_number;
ANALYZE by_both;
CREATE TABLE asked (q text);
INSERT INTO asked SELECT format(q, a, b) FROM unnest(ARRAY[
    'SELECT count(*), sum(v) FROM @ WHERE ts >= %s AND ts < %s',
    'SELECT count(*), sum(v) FROM @ WHERE ts > %s AND ts <= %s',
    'SELECT count(*), sum(v) FROM @ WHERE ts = %s OR ts = %s',
    'SELECT count(*), sum(v) FROM @ WHERE ts IN (%s, %s)',
    'SELECT count(*), sum(v) FROM @ WHERE k = ''s057'' AND ts >= %s AND ts < %s',
    'SELECT count(*), sum(v) FROM @ WHERE n = 57 AND ts >= %s AND ts < %s',
    'SELECT count(*), sum(v) FROM @ WHERE k = ''s063'' AND n = 63 AND ts BETWEEN %s AND %s::bigint',
    'SELECT count(*), sum(v) FROM @ WHERE k = ''s039'' AND ts = %s AND v <> %s',
    'SELECT count(*), sum(v) FROM @ WHERE k IN (''s012'', ''s014'', ''s013'', ''s014'', NULL) AND ts >= %s AND ts < %s',
    'SELECT count(*), sum(v) FROM @ WHERE n = ANY (ARRAY[25, 26, 27, 77, 200]) AND ts > %s AND ts < %s',
    'SELECT count(*), sum(v) FROM @ WHERE n = ANY (ARRAY[25, 26]) AND k IN (''s025'', ''s026'') AND ts > %s AND ts < %s',
    'SELECT count(*), sum(v) FROM @ WHERE k = ''s049'' AND (ts < %s OR ts > %s)',
    'SELECT ts, count(*), sum(v) FROM @ WHERE ts < %s + %s GROUP BY ts ORDER BY ts DESC LIMIT 3',
    'SELECT ts / 10, count(*), sum(v) FROM @ WHERE ts > %s AND ts < %s GROUP BY 1 ORDER BY 1 LIMIT 3',
    'SELECT k, ts, v FROM @ WHERE ts > %s AND ts <= %s ORDER BY k DESC, n DESC, ts DESC, v DESC LIMIT 7',
    'SELECT DISTINCT ON (k) k, ts, v FROM @ WHERE ts >= %s AND ts <= %s AND n BETWEEN 10 AND 40 ORDER BY k, ts, v']) q,
    (VALUES (-5, 1), (0, 3), (1, 3), (2, 40), (299, 421), (360, 361), (1795, 1801), (1799, 1800), (1801, 8002), (7990, 8001), (8001, 9000)) r (a, b);
CREATE FUNCTION answers(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE format('SELECT array_agg(x)::text FROM (%s) x', query) INTO answer;
    RETURN answer;
END $$;
ALTER TABLE asked ADD answer text;
UPDATE asked SET answer = answers(replace(q, '@', 'series'));
CREATE FUNCTION differences() RETURNS TABLE (relation text, asked bigint, differ bigint, which text) LANGUAGE sql AS $$
    SELECT t, count(*), count(*) FILTER (WHERE d), (min(q) FILTER (WHERE d)) FROM (
        SELECT t, q, answers(replace(q, '@', t)) IS DISTINCT FROM answer AS d
        FROM asked, unnest(ARRAY['by_text', 'by_number', 'by_both']) t) x GROUP BY t ORDER BY t
$$;
SELECT * FROM differences();
SET varve.enable_columnar_aggregate = off;
SELECT * FROM differences();
RESET varve.enable_columnar_aggregate;
-- Pages beside tell: of a series' own there are more, and none of the others.
CREATE FUNCTION pages_read(query text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
        IF line ~ 'Pages: ' THEN
            RETURN substring(line from 'Pages: (\d+) read')::int;
        END IF;
    END LOOP;
END $$;
SELECT pages_read('SELECT count(*) FROM by_text WHERE k = ''s063'' AND ts = 4001') AS one_row, pages_read('SELECT count(*) FROM by_text WHERE k = ''s063''') AS series,
    pages_read('SELECT count(*) FROM by_number WHERE n IN (49, 63) AND ts BETWEEN 3000 AND 3100') AS two_ranges,
    pages_read('SELECT count(*) FROM by_both WHERE k = ''s063'' AND n = 63 AND ts BETWEEN 3000 AND 3100') AS of_both,
    pages_read('SELECT count(*) FROM by_text WHERE ts BETWEEN 5000 AND 5010') AS of_all;

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
