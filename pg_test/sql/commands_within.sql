-- Frozen rows that a command within another one (a trigger, a function, an older cursor) locks or changes before the outer one does.
CREATE SCHEMA commands_within;
SET search_path = commands_within, public;

CREATE FUNCTION fresh(rows int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE IF EXISTS t CASCADE;
    CREATE TABLE t (id int PRIMARY KEY, v int);
    EXECUTE format('INSERT INTO t SELECT i, 0 FROM generate_series(1, %s) i', rows);
    PERFORM varve.enable('t');
    RETURN 'fresh';
END $$;
CREATE FUNCTION lock_all() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 FROM t ORDER BY id FOR UPDATE; RETURN NULL; END $$;
CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN COALESCE(NEW, OLD); END $$;
SET client_min_messages = warning;

-- A cursor that was opened first locks rows that a later one has yet to deliver.
SELECT fresh(5);
SELECT testing.freeze('t');
BEGIN;
DECLARE a CURSOR FOR SELECT id FROM t FOR UPDATE;
DECLARE b CURSOR FOR SELECT id, v FROM t;
FETCH 2 FROM b;
FETCH ALL FROM a;
FETCH ALL FROM b;
SELECT count(*), count(DISTINCT id) FROM t;
UPDATE t SET v = v + 1 WHERE id = 3 RETURNING *;
COMMIT;
SELECT * FROM t ORDER BY id;
SELECT fresh(40);
SELECT testing.freeze('t');
BEGIN;
DECLARE a CURSOR FOR SELECT id FROM t FOR UPDATE;
CREATE FUNCTION loop_over() RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    r record;
    x record;
    n int := 0;
    a refcursor := 'a';
BEGIN
    FOR r IN SELECT id FROM t LOOP
        FETCH a INTO x;
        UPDATE t SET v = n WHERE CURRENT OF a;
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;
SELECT loop_over();
COMMIT;
SELECT count(*), count(DISTINCT id), sum(v) FROM t;

-- A statement trigger has locked the rows; a row is matched twice.
SELECT fresh(2);
CREATE TRIGGER a BEFORE UPDATE OR DELETE ON t FOR EACH STATEMENT EXECUTE FUNCTION lock_all();
SELECT testing.freeze('t');
UPDATE t SET v = t.v + 1 FROM (VALUES (1), (1)) s(id) WHERE t.id = s.id;
MERGE INTO t USING (VALUES (1), (1)) s(id) ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = t.v + 1;
DELETE FROM t USING (VALUES (2), (2)) s(id) WHERE t.id = s.id;
SELECT * FROM t ORDER BY id;
-- The same with a row trigger, which locks each row once more.
SELECT fresh(2);
CREATE TRIGGER a BEFORE UPDATE OR DELETE ON t FOR EACH STATEMENT EXECUTE FUNCTION lock_all();
CREATE TRIGGER b BEFORE UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION pass();
SELECT testing.freeze('t');
UPDATE t SET v = v + 1 WHERE id = 1;
DELETE FROM t WHERE id = 2;
SELECT * FROM t ORDER BY id;
-- The lock comes from a function in the condition.
SELECT fresh(2);
CREATE FUNCTION lock_one() RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1 FROM t WHERE id = 1 FOR UPDATE';
SELECT testing.freeze('t');
UPDATE t SET v = t.v + 1 FROM (VALUES (1), (1)) s(id) WHERE t.id = s.id AND lock_one() = 1;
SELECT * FROM t ORDER BY id;
-- A row that a function of the statement changes is not the statement's to change.
SELECT fresh(2);
CREATE FUNCTION change_one() RETURNS int VOLATILE LANGUAGE sql AS 'UPDATE t SET v = 100 WHERE id = 1 RETURNING 1';
SELECT testing.freeze('t');
UPDATE t SET v = t.v + 1 WHERE id = 1 AND change_one() = 1;
SELECT * FROM t ORDER BY id;

DROP SCHEMA commands_within CASCADE;
