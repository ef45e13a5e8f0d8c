-- INSERT ... ON CONFLICT against frozen rows: every kind of unique index, both actions, no setting changed.
CREATE SCHEMA on_conflict;
SET search_path = on_conflict, public;

-- A plain primary key.
CREATE TABLE t (id int PRIMARY KEY, v text, n int DEFAULT 0);
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i;
SELECT varve.enable('t');
SELECT testing.freeze('t');
INSERT INTO t VALUES (1, 'x') ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO t VALUES (2, 'x'), (21, 'new') ON CONFLICT (id) DO NOTHING RETURNING *;
INSERT INTO t VALUES (3, 'x') ON CONFLICT ON CONSTRAINT t_pkey DO NOTHING;
-- DO NOTHING leaves a row where it is, or at least as it is.
SELECT * FROM t WHERE id IN (1, 2, 3, 21) ORDER BY id;
INSERT INTO t VALUES (4, 'new value') ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = t.n + 1 RETURNING *;
INSERT INTO t VALUES (4, 'newer value') ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = t.n + 1 RETURNING *;
INSERT INTO t VALUES (5, 'no'), (6, 'yes') ON CONFLICT (id) DO UPDATE SET v = excluded.v WHERE t.id > 5 RETURNING *;
INSERT INTO t AS target (id, v) VALUES (7, 'x') ON CONFLICT (id) DO UPDATE SET v = (SELECT string_agg(v, ',' ORDER BY id) FROM t WHERE id <= 2) || target.v || excluded.v RETURNING *;
INSERT INTO t VALUES (8, 'x') ON CONFLICT (id) DO UPDATE SET id = excluded.id + 100 RETURNING *;
INSERT INTO t VALUES (9, 'x') ON CONFLICT (id) DO UPDATE SET id = 10;
INSERT INTO t VALUES (9, 'x') ON CONFLICT (id) DO UPDATE SET id = DEFAULT;
INSERT INTO t VALUES (8, 'its key is free again') ON CONFLICT DO NOTHING RETURNING *;
-- Mixed: new rows, frozen rows, rows of the delta.
INSERT INTO t SELECT i, 'mixed' FROM generate_series(15, 25) i ON CONFLICT (id) DO UPDATE SET v = t.v || '+' || excluded.v, n = 9;
SELECT * FROM t ORDER BY id;
-- A key twice in a command, frozen, in the delta, new.
INSERT INTO t VALUES (11, 'a'), (11, 'b') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
INSERT INTO t VALUES (4, 'a'), (4, 'b') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
INSERT INTO t VALUES (50, 'a'), (50, 'b') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
INSERT INTO t VALUES (12, 'a'), (12, 'b'), (51, 'a'), (51, 'b') ON CONFLICT DO NOTHING RETURNING *;
SELECT * FROM t WHERE id IN (11, 4, 50, 12, 51) ORDER BY id;
SELECT count(*), count(DISTINCT id), sum(n) FROM t;
-- Without ON CONFLICT it is an error, also after ON CONFLICT for another index.
INSERT INTO t VALUES (13, 'x');
-- A source that reads the target itself.
INSERT INTO t SELECT id, v || '!', n FROM t WHERE id BETWEEN 13 AND 14 ON CONFLICT (id) DO UPDATE SET v = excluded.v;
SELECT * FROM t WHERE id BETWEEN 13 AND 14 ORDER BY id;
-- In one transaction, again and again, with savepoints.
SELECT testing.freeze('t');
BEGIN;
INSERT INTO t VALUES (1, 'one') ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING *;
SAVEPOINT a;
INSERT INTO t VALUES (1, 'two') ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING *;
INSERT INTO t VALUES (2, 'two') ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING *;
ROLLBACK TO a;
SELECT * FROM t WHERE id <= 2 ORDER BY id;
INSERT INTO t VALUES (2, 'three') ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING *;
DELETE FROM t WHERE id = 1;
INSERT INTO t VALUES (1, 'four') ON CONFLICT (id) DO UPDATE SET v = 'not this' RETURNING *;
ROLLBACK;
SELECT * FROM t WHERE id <= 2 ORDER BY id;

-- A composite key, of several types; the order of frozen rows is another one.
CREATE TABLE comp (symbol text, ts timestamptz, price numeric, PRIMARY KEY (symbol, ts));
INSERT INTO comp SELECT s, '2024-01-01 00:00+00'::timestamptz + m * interval '1 min', m FROM unnest('{A,B,C}'::text[]) s, generate_series(0, 99) m;
SELECT varve.enable('comp');
SELECT testing.freeze('comp');
INSERT INTO comp VALUES ('A', '2024-01-01 00:00+00', -1), ('B', '2024-01-01 01:39+00', -2), ('D', '2024-01-01 00:00+00', -3), ('A', '2024-01-01 00:00:01+00', -4)
    ON CONFLICT (ts, symbol) DO UPDATE SET price = excluded.price;
SELECT symbol, ts AT TIME ZONE 'UTC' AS ts, price FROM comp WHERE price <= 0 ORDER BY 1, 2;
INSERT INTO comp VALUES ('A', '2024-01-01 01:00+01', 5);
INSERT INTO comp VALUES ('C', '2024-01-01 00:30+00', 5) ON CONFLICT DO NOTHING RETURNING *;
SELECT count(*), sum(price) FROM comp;

-- 10,000 rows into a frozen table, each of which exists.
CREATE TABLE big (symbol text, ts timestamptz, price float8, volume int, PRIMARY KEY (symbol, ts));
INSERT INTO big SELECT 'S' || i % 20, '2024-01-01 00:00+00'::timestamptz + i / 20 * interval '1 min', i, i FROM generate_series(0, 19999) i;
SELECT varve.enable('big');
SELECT testing.freeze('big');
INSERT INTO big SELECT 'S' || i % 20, '2024-01-01 00:00+00'::timestamptz + i / 20 * interval '1 min', -i, 1 FROM generate_series(5000, 14999) i
    ON CONFLICT (symbol, ts) DO UPDATE SET price = excluded.price, volume = big.volume + excluded.volume;
SELECT count(*), count(*) FILTER (WHERE price < 0), sum(price), sum(volume), count(DISTINCT (symbol, ts)) FROM big;
INSERT INTO big SELECT symbol, ts, 0, 0 FROM big ON CONFLICT DO NOTHING;
SELECT count(*), count(*) FILTER (WHERE price < 0), sum(price), sum(volume), count(DISTINCT (symbol, ts)) FROM big;

-- Several unique indexes: the one that is named decides, the others still hold.
CREATE TABLE two (a int PRIMARY KEY, b int UNIQUE, c text);
INSERT INTO two SELECT i, i + 100, 'c' FROM generate_series(1, 10) i;
SELECT varve.enable('two');
SELECT testing.freeze('two');
INSERT INTO two VALUES (1, 200, 'by a') ON CONFLICT (a) DO UPDATE SET c = excluded.c RETURNING *;
INSERT INTO two VALUES (50, 102, 'by b') ON CONFLICT (b) DO UPDATE SET c = excluded.c RETURNING *;
INSERT INTO two VALUES (3, 104, 'both') ON CONFLICT (a) DO UPDATE SET c = excluded.c RETURNING *;
INSERT INTO two VALUES (9, 103, 'both, one in the delta') ON CONFLICT (a) DO UPDATE SET c = excluded.c RETURNING *;
INSERT INTO two VALUES (10, 103, 'both') ON CONFLICT (b) DO UPDATE SET c = excluded.c RETURNING *;
INSERT INTO two VALUES (60, 105, 'other index') ON CONFLICT (a) DO UPDATE SET c = excluded.c;
INSERT INTO two VALUES (6, 107, 'nothing') ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO two VALUES (7, 300, 'x') ON CONFLICT (a) DO UPDATE SET b = 108;
INSERT INTO two VALUES (7, 300, 'x') ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING *;
INSERT INTO two VALUES (70, 107, 'key of the old b') RETURNING *;
SELECT * FROM two ORDER BY a;

-- Partial unique indexes.
CREATE TABLE part (id int, key text, active boolean);
CREATE UNIQUE INDEX part_key ON part (key) WHERE active;
INSERT INTO part VALUES (1, 'a', true), (2, 'a', false), (3, 'a', false), (4, 'b', true), (5, 'c', false), (6, NULL, true), (7, NULL, true);
SELECT varve.enable('part', order_by => '{id}');
SELECT testing.freeze('part');
INSERT INTO part VALUES (11, 'a', false), (12, 'c', true) RETURNING *;
INSERT INTO part VALUES (13, 'a', true);
INSERT INTO part VALUES (14, 'b', true) ON CONFLICT (key) WHERE active DO UPDATE SET id = excluded.id RETURNING *;
INSERT INTO part VALUES (15, 'b', true) ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO part VALUES (16, 'b', false) ON CONFLICT (key) WHERE active DO UPDATE SET id = excluded.id RETURNING *;
INSERT INTO part VALUES (17, NULL, true) ON CONFLICT (key) WHERE active DO NOTHING RETURNING *;
UPDATE part SET active = true WHERE id = 2;
UPDATE part SET active = false WHERE id = 1;
UPDATE part SET active = true WHERE id = 2 RETURNING *;
SELECT * FROM part ORDER BY id;

-- Expression unique indexes.
CREATE TABLE expr (id int, name text, doc jsonb);
CREATE UNIQUE INDEX expr_name ON expr (lower(name));
CREATE UNIQUE INDEX expr_doc ON expr ((doc ->> 'k'), (id % 2));
INSERT INTO expr VALUES (1, 'Ann', '{"k": 1}'), (2, 'Bob', '{"k": 1}'), (3, 'Cid', '{}'), (4, NULL, NULL);
SELECT varve.enable('expr', order_by => '{id}');
SELECT testing.freeze('expr');
INSERT INTO expr VALUES (5, 'ANN', NULL);
INSERT INTO expr VALUES (6, 'bob', NULL) ON CONFLICT (lower(name)) DO UPDATE SET name = expr.name || '/' || excluded.name RETURNING *;
INSERT INTO expr VALUES (7, 'Dan', '{"k": "1"}');
INSERT INTO expr VALUES (7, 'Dan', '{"k": "1"}') ON CONFLICT ((doc ->> 'k'), (id % 2)) DO UPDATE SET doc = '{"k": 2}' RETURNING *;
INSERT INTO expr VALUES (8, 'cID', NULL) ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO expr VALUES (9, 'CID', '{"k": 9}'), (9, NULL, NULL) ON CONFLICT (lower(name)) DO NOTHING RETURNING *;
SELECT * FROM expr ORDER BY id, name;

-- NULLs: distinct, and not distinct.
CREATE TABLE nulls (id int, a int, b int, UNIQUE NULLS NOT DISTINCT (a, b));
CREATE TABLE nulls_differ (id int, a int, b int, UNIQUE (a, b));
INSERT INTO nulls VALUES (1, NULL, NULL), (2, 1, NULL), (3, NULL, 1), (4, 1, 1);
INSERT INTO nulls_differ TABLE nulls;
SELECT varve.enable('nulls', order_by => '{id}'), varve.enable('nulls_differ', order_by => '{id}');
SELECT testing.freeze('nulls'), testing.freeze('nulls_differ');
INSERT INTO nulls VALUES (5, NULL, NULL);
INSERT INTO nulls VALUES (6, 1, NULL) ON CONFLICT (a, b) DO UPDATE SET id = excluded.id RETURNING *;
INSERT INTO nulls VALUES (7, NULL, 1) ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO nulls VALUES (8, 2, NULL), (9, 2, NULL) ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO nulls_differ SELECT id + 10, a, b FROM nulls_differ WHERE a IS NULL OR b IS NULL ON CONFLICT DO NOTHING;
INSERT INTO nulls_differ VALUES (20, 1, 1) ON CONFLICT (a, b) DO UPDATE SET id = excluded.id RETURNING *;
SELECT * FROM nulls ORDER BY id;
SELECT * FROM nulls_differ ORDER BY id;

-- Deferrable constraints: checked at the end, no arbiters.
CREATE TABLE def (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v int UNIQUE DEFERRABLE);
INSERT INTO def SELECT i, i FROM generate_series(1, 10) i;
SELECT varve.enable('def', order_by => '{id}');
SELECT testing.freeze('def');
INSERT INTO def VALUES (1, 100) ON CONFLICT (id) DO NOTHING;
INSERT INTO def VALUES (1, 100);
INSERT INTO def VALUES (100, 1);
BEGIN;
INSERT INTO def VALUES (1, 100);
SELECT count(*) FROM def WHERE id = 1;
DELETE FROM def WHERE id = 1 AND v = 1;
COMMIT;
SELECT * FROM def WHERE id = 1;
BEGIN;
UPDATE def SET id = id + 1 WHERE id < 5;
SELECT count(*), count(DISTINCT id) FROM def;
UPDATE def SET id = 1 WHERE id = 5 AND v = 5;
SET CONSTRAINTS ALL IMMEDIATE;
COMMIT;
SELECT * FROM def ORDER BY id;
SELECT testing.freeze('def');
-- Every key moves onto its neighbour's: within the statement they collide, at its end they do not.
UPDATE def SET id = id + 1, v = v + 1;
SELECT count(*), sum(id), sum(v) FROM def;
BEGIN;
INSERT INTO def VALUES (2, 900);
COMMIT;
SELECT count(*), sum(id), sum(v) FROM def;

-- Kinds of keys whose equality is not that of their bytes.
CREATE TABLE num_key (k numeric PRIMARY KEY);
INSERT INTO num_key VALUES (1.0), (2), ('NaN'), (0), ('Infinity');
CREATE TABLE float_key (k float8 PRIMARY KEY);
INSERT INTO float_key VALUES (0), ('NaN'), (1);
CREATE TABLE char_key (k char(5) PRIMARY KEY);
INSERT INTO char_key VALUES ('a'), ('b  ');
CREATE COLLATION on_conflict.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE text_key (k text COLLATE any_case PRIMARY KEY);
INSERT INTO text_key VALUES ('Straße'), ('ÄPFEL');
CREATE TABLE interval_key (k interval PRIMARY KEY);
INSERT INTO interval_key VALUES ('1 mon'), ('24:00');
CREATE TABLE json_key (k jsonb PRIMARY KEY);
INSERT INTO json_key VALUES ('{"a": 1.0, "b": 2}'), ('1');
CREATE TABLE array_key (k int[] PRIMARY KEY);
INSERT INTO array_key VALUES ('{1,2}'), ('{}');
CREATE TABLE range_key (k int4range PRIMARY KEY);
INSERT INTO range_key VALUES ('[1,2]'), ('empty');
CREATE TABLE row_key (k int, l numeric, UNIQUE (k, l) INCLUDE (l));
INSERT INTO row_key VALUES (1, 1.0);
SELECT testing.freeze(k::regclass) FROM unnest('{num_key,float_key,char_key,text_key,interval_key,json_key,array_key,range_key,row_key}'::text[]) k;
INSERT INTO num_key VALUES (1.00), ('nan'), (0.000), (-0.0), (3) ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO num_key VALUES (2.000);
INSERT INTO float_key VALUES ('-0'), ('NaN'), (2) ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO float_key VALUES ('-0');
INSERT INTO char_key VALUES ('a    '), ('b'), ('c') ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO text_key VALUES ('äpfel'), ('STRASSE'), ('apfel') ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO text_key VALUES ('äPFEL');
INSERT INTO interval_key VALUES ('30 days'), ('1 day'), ('31 days') ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO json_key VALUES ('{"b": 2.00, "a": 1}'), ('1.0'), ('2') ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO array_key VALUES ('[1:2]={1,2}'), ('{}'), ('{1}') ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO range_key VALUES ('[1,3)'), ('(1,1]'), ('[1,1]') ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO row_key VALUES (1, 1.000);

-- A hash index beside, an index of a type with a support function, and a descending key.
CREATE TABLE other (id int, v text);
CREATE UNIQUE INDEX ON other (id DESC NULLS LAST) INCLUDE (v);
CREATE INDEX ON other USING hash (v);
CREATE UNIQUE INDEX ON other (v text_pattern_ops, id);
INSERT INTO other SELECT i, 'v' || i FROM generate_series(1, 10) i;
SELECT varve.enable('other', order_by => '{id}');
SELECT testing.freeze('other');
INSERT INTO other VALUES (5, 'x') ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING *;
INSERT INTO other VALUES (6, 'v6');
SELECT count(*) FROM other WHERE v = 'v6';
SELECT count(*) FROM other WHERE v = 'x';

-- Row triggers and ON CONFLICT.
CREATE TABLE trig (id int PRIMARY KEY, v text);
INSERT INTO trig SELECT i, 'v' || i FROM generate_series(1, 5) i;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '% % %: % -> %', TG_WHEN, TG_OP, TG_LEVEL, OLD, NEW;
    RETURN NEW;
END $$;
CREATE TRIGGER before_row BEFORE INSERT OR UPDATE ON trig FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER after_row AFTER INSERT OR UPDATE ON trig FOR EACH ROW EXECUTE FUNCTION tell();
SELECT varve.enable('trig');
SELECT testing.freeze('trig');
INSERT INTO trig VALUES (1, 'x'), (9, 'new') ON CONFLICT (id) DO UPDATE SET v = excluded.v || trig.v;
INSERT INTO trig VALUES (2, 'x') ON CONFLICT DO NOTHING;
SELECT * FROM trig ORDER BY id;

SET client_min_messages = warning;
DROP SCHEMA on_conflict CASCADE;
