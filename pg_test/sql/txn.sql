-- Transactions over frozen rows: rollback, savepoints, prepared transactions, isolation levels within one session.
CREATE SCHEMA txn;
SET search_path = txn, public;

CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i;
CREATE TABLE was AS TABLE t;
SELECT varve.enable('t');
SELECT testing.freeze('t');

-- Rollback of each kind of change to frozen rows.
BEGIN;
UPDATE t SET v = 'u' WHERE id <= 5;
DELETE FROM t WHERE id BETWEEN 6 AND 8;
INSERT INTO t VALUES (30, 'new'), (9, 'x') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
SELECT id, v FROM t WHERE v NOT LIKE 'v%' OR id = 7 ORDER BY id;
SELECT count(*) FROM t;
ROLLBACK;
SELECT testing.same('was', 't');
SELECT testing.frozen('t', 20);
BEGIN;
SELECT id FROM t WHERE id < 4 ORDER BY id FOR UPDATE;
ROLLBACK;
SELECT testing.same('was', 't');
BEGIN;
COPY t FROM stdin;
100	copied
3	duplicate
\.
ROLLBACK;
SELECT testing.same('was', 't');
BEGIN;
TRUNCATE t;
SELECT count(*) FROM t;
INSERT INTO t VALUES (1, 'after truncate');
SELECT * FROM t;
ROLLBACK;
SELECT testing.same('was', 't');
BEGIN;
DROP TABLE t;
ROLLBACK;
SELECT testing.same('was', 't');

-- Savepoints: released, rolled back, nested, and a row that is changed at each level.
BEGIN;
UPDATE t SET v = 'level 0' WHERE id = 1;
SAVEPOINT a;
UPDATE t SET v = 'level 1' WHERE id IN (1, 2);
SAVEPOINT b;
UPDATE t SET v = 'level 2' WHERE id IN (1, 2, 3);
DELETE FROM t WHERE id = 4;
SELECT * FROM t WHERE id <= 4 ORDER BY id;
ROLLBACK TO b;
SELECT * FROM t WHERE id <= 4 ORDER BY id;
UPDATE t SET v = 'level 2 again' WHERE id IN (3, 4);
RELEASE b;
SELECT * FROM t WHERE id <= 4 ORDER BY id;
ROLLBACK TO a;
SELECT * FROM t WHERE id <= 4 ORDER BY id;
DELETE FROM t WHERE id = 4;
INSERT INTO t VALUES (4, 'again');
SAVEPOINT c;
DELETE FROM t WHERE id IN (1, 2, 4);
INSERT INTO t VALUES (1, 'other');
ROLLBACK TO c;
COMMIT;
SELECT * FROM t WHERE id <= 5 ORDER BY id;
UPDATE t SET v = 'v' || id WHERE id <= 4;
SELECT testing.same('was', 't');

-- An error undoes its statement only, where there is a savepoint; a PL/pgSQL exception block is one.
SELECT testing.freeze('t');
BEGIN;
SAVEPOINT a;
INSERT INTO t SELECT i, 'x' FROM generate_series(25, 1, -1) i;
ROLLBACK TO a;
SELECT count(*) FROM t;
SAVEPOINT b;
UPDATE t SET id = id % 7;
ROLLBACK TO b;
UPDATE t SET v = 'fine' WHERE id = 10;
COMMIT;
SELECT * FROM t WHERE id IN (10, 25) ORDER BY id;
DO $$
BEGIN
    FOR i IN 18..22 LOOP
        BEGIN
            UPDATE t SET v = 'undone' WHERE id = i - 10;
            INSERT INTO t VALUES (i, 'inserted');
        EXCEPTION WHEN unique_violation THEN
            UPDATE t SET v = 'handled' WHERE id = i;
        END;
    END LOOP;
END $$;
SELECT * FROM t WHERE v NOT LIKE 'v%' ORDER BY id;

-- A lock in a savepoint that is rolled back, then an update of the same row.
SELECT testing.freeze('t');
BEGIN;
SAVEPOINT a;
SELECT id FROM t WHERE id = 1 FOR UPDATE;
ROLLBACK TO a;
UPDATE t SET v = 'after lock' WHERE id = 1 RETURNING *;
COMMIT;
BEGIN;
SELECT id FROM t WHERE id = 2 FOR SHARE;
SAVEPOINT a;
SELECT id FROM t WHERE id = 2 FOR UPDATE;
UPDATE t SET v = 'undone' WHERE id = 2;
ROLLBACK TO a;
DELETE FROM t WHERE id = 2 RETURNING *;
ROLLBACK;
SELECT * FROM t WHERE id <= 2 ORDER BY id;

-- Prepared transactions: what they did to frozen rows waits for their end.
SELECT testing.freeze('t');
BEGIN;
UPDATE t SET v = 'prepared' WHERE id = 1;
DELETE FROM t WHERE id = 2;
INSERT INTO t VALUES (40, 'prepared'), (3, 'x') ON CONFLICT (id) DO UPDATE SET v = 'prepared';
PREPARE TRANSACTION 'varve_txn';
SELECT * FROM t WHERE id <= 3 OR id = 40 ORDER BY id;
SET lock_timeout = '100ms';
\set SHOW_CONTEXT never
UPDATE t SET v = 'blocked' WHERE id = 1;
DELETE FROM t WHERE id = 2;
SELECT id FROM t WHERE id = 3 FOR UPDATE NOWAIT;
SELECT id FROM t WHERE id IN (1, 2, 3, 4) ORDER BY id FOR UPDATE SKIP LOCKED;
UPDATE t SET v = 'not blocked' WHERE id = 4 RETURNING *;
RESET lock_timeout;
\set SHOW_CONTEXT errors
ROLLBACK PREPARED 'varve_txn';
SELECT * FROM t WHERE id <= 4 OR id = 40 ORDER BY id;
UPDATE t SET v = 'free' WHERE id = 1 RETURNING *;
BEGIN;
UPDATE t SET v = 'prepared' WHERE id IN (1, 5);
DELETE FROM t WHERE id = 6;
PREPARE TRANSACTION 'varve_txn';
COMMIT PREPARED 'varve_txn';
SELECT * FROM t WHERE id <= 7 ORDER BY id;

-- Snapshots of the higher levels.
SELECT testing.freeze('t');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*), count(v) FROM t;
UPDATE t SET v = NULL WHERE id < 4;
DELETE FROM t WHERE id > 18;
SELECT count(*), count(v) FROM t;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*), count(v) FROM t;
INSERT INTO t VALUES (3, 'x'), (50, 'y') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
COMMIT;
SELECT count(*), count(v) FROM t;
BEGIN READ ONLY;
SELECT count(*) FROM t;
UPDATE t SET v = 'read only' WHERE id = 1;
ROLLBACK;

-- Procedures that commit within.
SELECT testing.freeze('t');
CREATE PROCEDURE step_by_step() LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT id FROM t WHERE id <= 6 ORDER BY id LOOP
        UPDATE t SET v = 'step ' || r.id WHERE id = r.id;
        IF r.id % 2 = 0 THEN
            COMMIT;
        ELSIF r.id % 3 = 0 THEN
            ROLLBACK;
        END IF;
    END LOOP;
END $$;
CALL step_by_step();
SELECT * FROM t WHERE id <= 6 ORDER BY id;

-- COPY FREEZE and writes into a table of the same transaction.
BEGIN;
CREATE TABLE fresh (id int PRIMARY KEY, v text);
SELECT varve.enable('fresh');
COPY fresh FROM stdin WITH (FREEZE);
1	a
2	b
\.
SAVEPOINT a;
UPDATE fresh SET v = 'c' WHERE id = 1;
SELECT * FROM fresh ORDER BY id;
ROLLBACK TO a;
COMMIT;
SELECT testing.freeze('fresh');
SELECT * FROM fresh ORDER BY id;

-- Temporary and unlogged tables.
CREATE TEMP TABLE tmp (id int PRIMARY KEY, v text);
INSERT INTO tmp SELECT i, 't' || i FROM generate_series(1, 5) i;
SELECT testing.freeze('tmp');
UPDATE tmp SET v = 'x' WHERE id = 1;
INSERT INTO tmp VALUES (2, 'duplicate');
BEGIN;
DELETE FROM tmp;
ROLLBACK;
SELECT * FROM tmp ORDER BY id;
CREATE TEMP TABLE tmp_once (id int) ON COMMIT DELETE ROWS;
BEGIN;
INSERT INTO tmp_once VALUES (1);
COMMIT;
SELECT * FROM tmp_once;
DISCARD TEMP;
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, v text);
INSERT INTO unlogged SELECT i, 'u' || i FROM generate_series(1, 5) i;
SELECT testing.freeze('unlogged');
UPDATE unlogged SET v = 'x' WHERE id = 1;
ALTER TABLE unlogged SET LOGGED;
SELECT * FROM unlogged ORDER BY id;
ALTER TABLE unlogged SET UNLOGGED;
SELECT * FROM unlogged ORDER BY id;

SET client_min_messages = warning;
DROP SCHEMA txn CASCADE;
