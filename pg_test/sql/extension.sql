-- DROP EXTENSION takes no frozen rows along; CREATE EXTENSION works again afterwards.
CREATE SCHEMA extension;
SET search_path = extension, public;

CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 100) i;
CREATE TABLE twin AS TABLE t;
SELECT varve.enable('t');
SELECT testing.freeze('t');
DROP EXTENSION varve;
DROP EXTENSION varve CASCADE;
DROP EXTENSION timescaledb;
DROP EXTENSION timescaledb CASCADE;
DROP SCHEMA varve CASCADE;
DROP ACCESS METHOD varve;
DROP ACCESS METHOD varve CASCADE;
DROP SCHEMA varve_data CASCADE;
SELECT testing.same('t', 'twin');
-- Also of a table that was never enabled, in another schema.
CREATE TABLE other (id int);
INSERT INTO other VALUES (1);
SELECT testing.freeze('other');
SELECT varve.disable('t');
SELECT testing.same('t', 'twin');
DROP EXTENSION varve CASCADE;
SELECT varve.set_tier('other', 'hot');
-- Nothing is frozen any more, but a table still has the access method.
DROP EXTENSION varve;
ALTER TABLE other SET ACCESS METHOD heap;
BEGIN;
DROP EXTENSION varve;
SELECT count(*) FROM t;
ROLLBACK;
SELECT varve.enable('t');
SELECT testing.freeze('t');
UPDATE t SET v = 'changed' WHERE id = 1;
UPDATE twin SET v = 'changed' WHERE id = 1;
SELECT varve.disable('t');
-- A table that is enabled, and not frozen, hinders nobody.
SELECT varve.enable('t');
DROP EXTENSION varve;
SELECT testing.same('t', 'twin');
SELECT nspname FROM pg_namespace WHERE nspname LIKE 'varve%';
SELECT varve.set_tier('t', 'warm');
SET client_min_messages = warning;
CREATE EXTENSION varve;
RESET client_min_messages;
SELECT count(*) FROM varve.managed;
SELECT varve.enable('t');
SELECT testing.freeze('t');
SELECT testing.same('t', 'twin'), testing.intact('t');
INSERT INTO t VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING *;
INSERT INTO t VALUES (2, 'duplicate');
SELECT varve.disable('t');
-- In one transaction, dropped and made again.
BEGIN;
DROP EXTENSION varve;
CREATE EXTENSION varve;
SELECT varve.enable('t');
SELECT testing.freeze('t');
COMMIT;
SELECT count(*) FROM t;
\c -
SET search_path = extension, public;
SELECT count(*), bool_and(ok) FROM t, varve.verify('t');
SELECT varve.disable('t');

-- Its schemas have fixed names.
DROP EXTENSION varve;
CREATE EXTENSION varve SCHEMA public;
CREATE EXTENSION varve;
SELECT extname, extrelocatable, (SELECT nspname FROM pg_namespace n WHERE n.oid = extnamespace) FROM pg_extension WHERE extname = 'varve';
ALTER EXTENSION varve SET SCHEMA public;

-- Everything that was made carries a comment for \df+ and the like, and nothing is open to everybody that should not be.
SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'varve'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL ORDER BY 1::text;
SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'varve'::regnamespace AND relkind IN ('r', 'v') AND obj_description(oid, 'pg_class') IS NULL ORDER BY 1::text;
SELECT n.nspname FROM pg_namespace n WHERE nspname LIKE 'varve%' AND (has_schema_privilege('public', oid, 'CREATE') OR nspname = 'varve_data' AND has_schema_privilege('public', oid, 'USAGE'));
SELECT oid::regclass FROM pg_class WHERE relnamespace = 'varve'::regnamespace AND relkind IN ('r', 'v') AND has_table_privilege('public', oid, 'INSERT, UPDATE, DELETE, TRUNCATE');
SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'varve'::regnamespace AND prosecdef ORDER BY 1::text;

SET client_min_messages = warning;
DROP SCHEMA extension CASCADE;
