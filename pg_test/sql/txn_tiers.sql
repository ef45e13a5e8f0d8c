-- Freezing, thawing, enabling and disabling within transactions, and their rollback.
CREATE SCHEMA txn_tiers;
SET search_path = txn_tiers, public;

CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i;
CREATE TABLE was AS TABLE t;
CREATE FUNCTION state() RETURNS TABLE (am name, tier text, rows bigint, delta_rows bigint, segments int, managed boolean, same text) LANGUAGE sql AS $$
    SELECT (SELECT amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid = 't'::regclass), s.tier, s.rows, s.delta_rows, s.segments,
        EXISTS (SELECT FROM varve.managed WHERE relation = 't'::regclass), testing.same('was', 't') FROM varve.chunk_stats('t') s
$$;
SELECT * FROM state();

-- Rollback of enable.
BEGIN;
SELECT varve.enable('t');
SELECT * FROM state();
ROLLBACK;
SELECT * FROM state();

-- Rollback of the first freeze, and of enable with it.
BEGIN;
SELECT varve.enable('t');
SELECT varve.set_tier('t', 'warm');
SELECT * FROM state();
UPDATE t SET v = 'x' WHERE id = 1;
ROLLBACK;
SELECT * FROM state();
SELECT varve.segment_table('t') IS NULL AS no_segments;
SELECT count(*) AS history FROM varve.chunk_history WHERE chunk = 't'::regclass;
SELECT varve.enable('t');

-- Rollback to a savepoint, then commit without it.
BEGIN;
SAVEPOINT a;
SELECT varve.set_tier('t', 'warm');
ROLLBACK TO a;
SELECT * FROM state();
SAVEPOINT b;
SELECT varve.set_tier('t', 'warm');
RELEASE b;
SELECT * FROM state();
SAVEPOINT c;
SELECT varve.set_tier('t', 'hot');
SELECT * FROM state();
ROLLBACK TO c;
SELECT * FROM state();
COMMIT;
SELECT * FROM state();

-- Rollback of a thaw; of a second freeze; of a freeze after changes.
BEGIN;
SELECT varve.set_tier('t', 'hot');
SELECT * FROM state();
ROLLBACK;
SELECT * FROM state();
UPDATE t SET v = 'changed' WHERE id <= 3;
DELETE FROM t WHERE id = 4;
UPDATE was SET v = 'changed' WHERE id <= 3;
DELETE FROM was WHERE id = 4;
SELECT * FROM state();
BEGIN;
SELECT varve.set_tier('t', 'warm');
SELECT * FROM state();
ROLLBACK;
SELECT * FROM state();
SELECT varve.set_tier('t', 'warm');
SELECT * FROM state();

-- Rows that the freezing transaction itself wrote stay in the delta, and are told of.
BEGIN;
INSERT INTO t VALUES (101, 'mine');
UPDATE t SET v = 'mine' WHERE id = 5;
DELETE FROM t WHERE id = 6;
INSERT INTO was VALUES (101, 'mine');
UPDATE was SET v = 'mine' WHERE id = 5;
DELETE FROM was WHERE id = 6;
SELECT varve.set_tier('t', 'warm');
SELECT * FROM state();
COMMIT;
SELECT * FROM state();
SELECT varve.set_tier('t', 'warm');
SELECT * FROM state();
-- The same, rolled back to before the change but after the freeze began.
BEGIN;
SAVEPOINT a;
UPDATE t SET v = 'undone' WHERE id = 7;
ROLLBACK TO a;
SELECT varve.set_tier('t', 'warm');
SELECT * FROM state();
COMMIT;

-- There and back within one transaction, with changes between.
BEGIN;
SELECT varve.set_tier('t', 'hot');
UPDATE t SET v = 'between' WHERE id = 8;
UPDATE was SET v = 'between' WHERE id = 8;
SELECT varve.set_tier('t', 'warm');
SELECT * FROM state();
SELECT varve.set_tier('t', 'hot');
SELECT * FROM state();
COMMIT;
SELECT * FROM state();

-- Rollback of disable.
SELECT varve.set_tier('t', 'warm');
BEGIN;
SELECT varve.disable('t');
SELECT * FROM state();
ROLLBACK;
SELECT * FROM state();
SELECT varve.disable('t');
SELECT * FROM state();

-- TRUNCATE and rewrites leave segments behind in a way that comes back.
SELECT varve.enable('t');
SELECT varve.set_tier('t', 'warm');
BEGIN;
TRUNCATE t;
SELECT tier, rows, delta_rows, segments, sha256 FROM varve.chunk_stats('t');
INSERT INTO t VALUES (1, 'x');
ROLLBACK;
SELECT * FROM state();
BEGIN;
ALTER TABLE t ALTER v TYPE varchar(20);
SELECT count(*) FROM t;
ROLLBACK;
SELECT * FROM state();
BEGIN;
ALTER TABLE t SET ACCESS METHOD heap;
SELECT tier, rows FROM varve.chunk_stats('t');
ROLLBACK;
SELECT * FROM state();

-- No freeze within a cursor's loop over the same table, nor with its rows' triggers pending.
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM t;
FETCH 1 FROM c;
SAVEPOINT a;
SELECT varve.set_tier('t', 'hot');
ROLLBACK TO a;
SELECT varve.set_tier('t', 'warm');
ROLLBACK TO a;
SELECT varve.disable('t');
ROLLBACK;
SELECT * FROM state();

CREATE TABLE child (id int REFERENCES t DEFERRABLE INITIALLY DEFERRED);
BEGIN;
DELETE FROM t WHERE id = 10;
SAVEPOINT a;
SELECT varve.set_tier('t', 'warm');
ROLLBACK TO a;
SELECT varve.set_tier('t', 'hot');
ROLLBACK;
DROP TABLE child;
SELECT * FROM state();

-- Not in a read-only transaction, nor by anybody but the owner.
BEGIN READ ONLY;
SELECT varve.set_tier('t', 'hot');
ROLLBACK;
CREATE ROLE varve_txn_other;
GRANT USAGE ON SCHEMA txn_tiers TO varve_txn_other;
GRANT SELECT, UPDATE ON t TO varve_txn_other;
SET ROLE varve_txn_other;
SELECT varve.set_tier('t', 'hot');
SELECT varve.enable('t');
SELECT varve.disable('t');
SELECT * FROM varve.verify('t');
CALL varve.set_tiers('t', 'hot');
UPDATE t SET v = 'may' WHERE id = 9 RETURNING *;
SELECT count(*) FROM t;
RESET ROLE;
DROP OWNED BY varve_txn_other;
DROP ROLE varve_txn_other;

-- An owner who is no superuser can do all of it.
CREATE ROLE varve_txn_owner;
GRANT CREATE, USAGE ON SCHEMA txn_tiers TO varve_txn_owner;
SET ROLE varve_txn_owner;
CREATE TABLE mine (id int PRIMARY KEY, v text);
INSERT INTO mine SELECT i, 'm' || i FROM generate_series(1, 10) i;
SELECT varve.enable('mine');
SELECT varve.set_tier('mine', 'warm');
UPDATE mine SET v = 'x' WHERE id = 1;
INSERT INTO mine VALUES (2, 'y') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
DELETE FROM mine WHERE id = 3;
SELECT count(*), min(v), max(v) FROM mine;
SELECT segment, ok, detail FROM varve.verify('mine');
SELECT tier, rows, delta_rows FROM varve.chunks WHERE hypertable = 'mine'::regclass;
SELECT varve.disable('mine');
SELECT count(*), min(v), max(v) FROM mine;
RESET ROLE;
SET client_min_messages = warning;
DROP OWNED BY varve_txn_owner;
DROP ROLE varve_txn_owner;
RESET client_min_messages;

-- Prepared transactions can hold a freeze; or they can't, and say so.
BEGIN;
SELECT varve.set_tier('t', 'hot');
PREPARE TRANSACTION 'varve_tiers';
ROLLBACK PREPARED 'varve_tiers';
SELECT tier, rows FROM varve.chunk_stats('t');
BEGIN;
SELECT varve.set_tier('t', 'hot');
PREPARE TRANSACTION 'varve_tiers';
COMMIT PREPARED 'varve_tiers';
SELECT tier, rows FROM varve.chunk_stats('t');
BEGIN;
SELECT varve.set_tier('t', 'warm');
PREPARE TRANSACTION 'varve_tiers';
COMMIT PREPARED 'varve_tiers';
SELECT tier, rows FROM varve.chunk_stats('t');
SELECT count(*), min(v), max(v) FROM t;

-- Bad input: nothing is done, and the message says why.
SELECT varve.set_tier('t', 'lukewarm');
SELECT varve.set_tier('t', NULL);
SELECT varve.set_tier(NULL, 'warm');
SELECT varve.set_tier('t', 'warm', 'rot13');
SELECT varve.set_tier('t', 'archived');
SELECT varve.set_tier('pg_class', 'warm');
CREATE VIEW a_view AS SELECT 1 AS a;
SELECT varve.set_tier('a_view', 'warm');
SELECT varve.enable('a_view');
CREATE SEQUENCE a_sequence;
SELECT varve.set_tier('a_sequence', 'warm');
SELECT varve.set_tier(4000000000::oid::regclass, 'warm');
CREATE TABLE during (id int PRIMARY KEY, period int4range, EXCLUDE USING gist (period WITH &&));
INSERT INTO during SELECT i, int4range(i * 10, i * 10 + 5) FROM generate_series(1, 5) i;
SELECT varve.enable('during');
SELECT varve.set_tier('during', 'warm');
ALTER TABLE during DROP CONSTRAINT during_period_excl;
SELECT varve.set_tier('during', 'warm');
ALTER TABLE during ADD EXCLUDE USING gist (period WITH &&);
SELECT count(*) FROM during;
SELECT varve.enable(NULL);
SELECT varve.disable('was');
CREATE TABLE no_key (a int, b json);
SELECT varve.enable('no_key');
SELECT varve.enable('no_key', order_by => '{c}');
SELECT varve.enable('no_key', order_by => '{b}');
SELECT varve.enable('no_key', segment_by => '{a,nope}', order_by => '{a}');
SELECT varve.enable('no_key', order_by => '{NULL}');
SELECT varve.enable('no_key', order_by => '{xmin}');
SELECT varve.enable('no_key', order_by => '{a,a}');
SELECT varve.enable('no_key', segment_by => '{}', order_by => '{a}');
SELECT relation, segment_by, order_by FROM varve.managed WHERE relation IN ('t'::regclass, 'no_key') ORDER BY 1;
-- Enabled again, with other columns.
SELECT varve.enable('t', segment_by => '{v}', order_by => '{id}');
SELECT relation, segment_by, order_by FROM varve.managed WHERE relation = 't'::regclass;

SET client_min_messages = warning;
DROP SCHEMA txn_tiers CASCADE;
SELECT count(*) FROM varve.managed WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = relation);
