-- Constraints, triggers, generated and identity columns, row-level security over frozen rows.
CREATE SCHEMA constraints;
SET search_path = constraints, public;

-- Foreign keys to a frozen table.
CREATE TABLE parent (id int PRIMARY KEY, k int UNIQUE, v text);
INSERT INTO parent SELECT i, i * 10, 'p' || i FROM generate_series(1, 20) i;
CREATE TABLE child_plain (id int PRIMARY KEY, parent_id int REFERENCES parent);
CREATE TABLE child_restrict (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE RESTRICT ON UPDATE RESTRICT);
CREATE TABLE child_cascade (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE child_null (id int PRIMARY KEY, parent_k int REFERENCES parent (k) ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE child_default (id int PRIMARY KEY, parent_k int DEFAULT 200 REFERENCES parent (k) ON DELETE SET DEFAULT ON UPDATE SET DEFAULT);
CREATE TABLE child_deferred (id int PRIMARY KEY, parent_id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
SELECT varve.enable('parent');
SELECT testing.freeze('parent');
INSERT INTO child_plain VALUES (1, 1), (2, NULL);
INSERT INTO child_plain VALUES (3, 99);
INSERT INTO child_restrict VALUES (1, 2);
INSERT INTO child_cascade VALUES (1, 3), (2, 3), (3, 4);
INSERT INTO child_null VALUES (1, 50), (2, 60);
INSERT INTO child_default VALUES (1, 70), (2, 80);
-- A referenced row was locked, not changed: it is still what it was, and frozen children come next.
SELECT count(*), sum(id), min(v), max(v) FROM parent;
SELECT varve.enable(c) FROM unnest('{child_plain,child_restrict,child_cascade,child_null,child_default}'::regclass[]) c;
SELECT testing.freeze(c) FROM unnest('{parent,child_plain,child_restrict,child_cascade,child_null,child_default}'::regclass[]) c;
DELETE FROM parent WHERE id = 1;
UPDATE parent SET id = 100 WHERE id = 1;
UPDATE parent SET v = 'key unchanged' WHERE id = 1;
DELETE FROM parent WHERE id = 2;
UPDATE parent SET id = 100 WHERE id = 2;
DELETE FROM parent WHERE id = 3;
UPDATE parent SET id = 104 WHERE id = 4;
SELECT * FROM child_cascade ORDER BY id;
DELETE FROM parent WHERE id = 5;
UPDATE parent SET k = 66 WHERE id = 6;
SELECT * FROM child_null ORDER BY id;
DELETE FROM parent WHERE id = 7;
UPDATE parent SET k = 88 WHERE id = 8;
SELECT * FROM child_default ORDER BY id;
DELETE FROM parent WHERE id = 9;
TRUNCATE parent;
-- Updates of frozen children.
UPDATE child_plain SET parent_id = 10 WHERE id = 1;
UPDATE child_plain SET parent_id = 9 WHERE id = 1;
UPDATE child_plain SET parent_id = NULL WHERE id = 1;
DELETE FROM parent WHERE id IN (1, 10);
-- Deferred.
BEGIN;
INSERT INTO child_deferred VALUES (1, 300);
INSERT INTO parent VALUES (300, 300, 'late');
COMMIT;
SELECT testing.freeze('parent'), testing.freeze('child_deferred');
BEGIN;
DELETE FROM parent WHERE id = 300;
INSERT INTO parent VALUES (300, 301, 'other');
COMMIT;
BEGIN;
DELETE FROM parent WHERE id = 300;
COMMIT;
BEGIN;
UPDATE child_deferred SET parent_id = 301;
UPDATE parent SET id = 301 WHERE id = 300;
COMMIT;
SELECT c.id, p.* FROM child_deferred c JOIN parent p ON p.id = c.parent_id;
-- Adding a foreign key checks frozen rows on both sides.
CREATE TABLE orphans (id int, parent_id int);
INSERT INTO orphans VALUES (1, 11), (2, 11), (3, NULL), (4, 12345);
SELECT testing.freeze('orphans');
ALTER TABLE orphans ADD FOREIGN KEY (parent_id) REFERENCES parent;
ALTER TABLE orphans ADD FOREIGN KEY (parent_id) REFERENCES parent NOT VALID;
ALTER TABLE orphans VALIDATE CONSTRAINT orphans_parent_id_fkey;
DELETE FROM orphans WHERE id = 4;
ALTER TABLE orphans VALIDATE CONSTRAINT orphans_parent_id_fkey;
DELETE FROM parent WHERE id = 11;
-- To itself, and with several columns.
CREATE TABLE tree (a int, b int, up_a int, up_b int, PRIMARY KEY (a, b), FOREIGN KEY (up_a, up_b) REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO tree VALUES (1, 1, NULL, NULL), (1, 2, 1, 1), (1, 3, 1, 2), (2, 1, 1, 3), (9, 9, NULL, NULL);
SELECT varve.enable('tree');
SELECT testing.freeze('tree');
UPDATE tree SET b = 20 WHERE (a, b) = (1, 2);
SELECT * FROM tree ORDER BY a, b;
INSERT INTO tree VALUES (3, 3, 1, 20);
INSERT INTO tree VALUES (3, 4, 1, 2);
DELETE FROM tree WHERE (a, b) = (1, 20);
SELECT * FROM tree ORDER BY a, b;

-- CHECK and NOT NULL.
CREATE TABLE checked (id int PRIMARY KEY, a int NOT NULL CHECK (a > 0), b int, CONSTRAINT sum CHECK (a + b < 100));
INSERT INTO checked SELECT i, i, i FROM generate_series(1, 10) i;
SELECT varve.enable('checked');
SELECT testing.freeze('checked');
UPDATE checked SET a = -a WHERE id = 5;
UPDATE checked SET a = NULL WHERE id = 5;
UPDATE checked SET b = 95 WHERE id = 5;
UPDATE checked SET b = NULL WHERE id = 5 RETURNING *;
INSERT INTO checked VALUES (6, 1, 99) ON CONFLICT (id) DO UPDATE SET b = excluded.b;
INSERT INTO checked VALUES (6, 50, 1) ON CONFLICT (id) DO UPDATE SET a = -excluded.a;
INSERT INTO checked VALUES (6, 50, 1) ON CONFLICT (id) DO UPDATE SET a = excluded.a RETURNING *;
SELECT count(*), sum(a), sum(b) FROM checked;

-- Generated columns.
CREATE TABLE generated (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, label text GENERATED ALWAYS AS ('n' || a) STORED);
INSERT INTO generated (id, a) SELECT i, i FROM generate_series(1, 10) i;
SELECT varve.enable('generated');
SELECT testing.freeze('generated');
SELECT * FROM generated WHERE twice = 8;
UPDATE generated SET a = 50 WHERE id = 1 RETURNING *;
UPDATE generated SET twice = 1 WHERE id = 1;
INSERT INTO generated VALUES (2, 77) ON CONFLICT (id) DO UPDATE SET a = excluded.a RETURNING *;
SELECT testing.freeze('generated');
UPDATE generated SET a = NULL WHERE id = 3 RETURNING *;
SELECT * FROM generated ORDER BY id LIMIT 4;

-- Identity columns, serials and defaults.
CREATE TABLE identity (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, s serial, at text DEFAULT 'd', v text);
INSERT INTO identity (v) SELECT 'v' || i FROM generate_series(1, 5) i;
SELECT varve.enable('identity');
SELECT testing.freeze('identity');
INSERT INTO identity (v) VALUES ('next') RETURNING *;
INSERT INTO identity (id, v) VALUES (3, 'no');
INSERT INTO identity (id, v) OVERRIDING SYSTEM VALUE VALUES (3, 'x') ON CONFLICT (id) DO UPDATE SET v = excluded.v, at = DEFAULT RETURNING *;
UPDATE identity SET id = DEFAULT WHERE id = 4 RETURNING id;
TRUNCATE identity RESTART IDENTITY;
INSERT INTO identity (v) VALUES ('first') RETURNING *;

-- Row triggers: what they see, change and forbid.
CREATE TABLE t (id int PRIMARY KEY, v text, big text);
INSERT INTO t SELECT i, 'v' || i, repeat('x', 3000) FROM generate_series(1, 10) i;
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
SELECT varve.enable('t');
SELECT testing.freeze('t');
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        RAISE NOTICE '% % of %: % -> %', TG_WHEN, TG_OP, TG_TABLE_NAME, (OLD.id, OLD.v, length(OLD.big)), (NEW.id, NEW.v, length(NEW.big));
    ELSE
        RAISE NOTICE '% % STATEMENT of %', TG_WHEN, TG_OP, TG_TABLE_NAME;
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER t_before BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER t_after AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER t_before_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON t EXECUTE FUNCTION tell();
CREATE TRIGGER t_after_statement AFTER INSERT OR UPDATE OR DELETE ON t EXECUTE FUNCTION tell();
UPDATE t SET v = 'u' WHERE id IN (1, 2);
DELETE FROM t WHERE id = 2;
INSERT INTO t VALUES (3, 'x', '') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
MERGE INTO t USING (VALUES (4), (40)) s(id) ON t.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged');
UPDATE t SET v = 'nobody' WHERE id = -1;
COPY t (id, v) FROM stdin;
50	copied
\.
SELECT id, v, length(big) FROM t ORDER BY id;
DROP TRIGGER t_before ON t;
DROP TRIGGER t_after ON t;
DROP TRIGGER t_before_statement ON t;
DROP TRIGGER t_after_statement ON t;
-- A trigger that changes the row, one that keeps it, one that deletes it meanwhile.
SELECT testing.freeze('t');
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.v = 'keep' THEN
        RETURN NULL;
    ELSIF NEW.v = 'delete' THEN
        DELETE FROM t WHERE id = OLD.id;
    ELSIF NEW.v = 'other' THEN
        UPDATE t SET v = 'changed by the trigger' WHERE id = OLD.id + 1;
    ELSE
        NEW.v := upper(NEW.v);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER meddle BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION meddle();
UPDATE t SET v = 'shout' WHERE id = 5 RETURNING id, v;
UPDATE t SET v = 'keep' WHERE id = 6 RETURNING id, v;
UPDATE t SET v = 'delete' WHERE id = 7 RETURNING id, v;
UPDATE t SET v = 'other' WHERE id = 7 RETURNING id, v;
SELECT id, v FROM t ORDER BY id;
DROP TRIGGER meddle ON t;
-- Constraint triggers, deferred to the end.
CREATE CONSTRAINT TRIGGER late AFTER UPDATE OR DELETE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tell();
BEGIN;
UPDATE t SET v = 'deferred' WHERE id = 9;
UPDATE t SET v = 'deferred again' WHERE id = 9;
DELETE FROM t WHERE id = 10;
SELECT count(*) FROM t;
COMMIT;
DROP TRIGGER late ON t;
-- Transition tables.
SELECT testing.freeze('t');
CREATE FUNCTION transition() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    o text;
    n text;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        SELECT string_agg(format('%s %s %s', id, v, length(big)), ', ' ORDER BY id) INTO o FROM old_rows;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        SELECT string_agg(format('%s %s %s', id, v, length(big)), ', ' ORDER BY id) INTO n FROM new_rows;
    END IF;
    RAISE NOTICE '%: [%] -> [%]', TG_OP, o, n;
    RETURN NULL;
END $$;
CREATE TRIGGER tr_i AFTER INSERT ON t REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION transition();
CREATE TRIGGER tr_u AFTER UPDATE ON t REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows EXECUTE FUNCTION transition();
CREATE TRIGGER tr_d AFTER DELETE ON t REFERENCING OLD TABLE AS old_rows EXECUTE FUNCTION transition();
UPDATE t SET v = 'u' || id WHERE id IN (1, 3, 5);
INSERT INTO t VALUES (6, 'conflict'), (60, 'new') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
DELETE FROM t WHERE id IN (1, 8, 60);
SELECT id, v FROM t ORDER BY id;

-- Row-level security.
CREATE ROLE varve_reader;
GRANT USAGE ON SCHEMA constraints TO varve_reader;
CREATE TABLE secrets (id int PRIMARY KEY, owner text, v text);
INSERT INTO secrets SELECT i, CASE WHEN i % 2 = 0 THEN 'varve_reader' ELSE 'somebody' END, 's' || i FROM generate_series(1, 10) i;
SELECT varve.enable('secrets');
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secrets USING (owner = current_user) WITH CHECK (owner = current_user);
GRANT SELECT, INSERT, UPDATE, DELETE ON secrets TO varve_reader;
SELECT testing.freeze('secrets');
SET ROLE varve_reader;
SELECT * FROM secrets ORDER BY id;
SELECT count(*) FROM secrets WHERE id = 1;
UPDATE secrets SET v = 'mine' WHERE id IN (1, 2) RETURNING *;
UPDATE secrets SET owner = 'somebody' WHERE id = 4;
DELETE FROM secrets WHERE id IN (3, 6) RETURNING *;
INSERT INTO secrets VALUES (1, 'varve_reader', 'x') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
INSERT INTO secrets VALUES (8, 'varve_reader', 'x') ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING *;
INSERT INTO secrets VALUES (5, 'varve_reader', 'duplicate of a hidden row');
INSERT INTO secrets VALUES (5, 'varve_reader', 'hidden') ON CONFLICT DO NOTHING RETURNING *;
SELECT id FROM secrets WHERE id < 5 ORDER BY id FOR UPDATE;
COPY (SELECT * FROM secrets ORDER BY id) TO stdout;
RESET ROLE;
SELECT * FROM secrets ORDER BY id;
-- Privileges on columns.
CREATE TABLE columns (id int PRIMARY KEY, open text, hidden text);
INSERT INTO columns VALUES (1, 'o', 'h');
GRANT SELECT (id, open), UPDATE (open) ON columns TO varve_reader;
SELECT testing.freeze('columns');
SET ROLE varve_reader;
SELECT id, open FROM columns;
SELECT * FROM columns;
UPDATE columns SET open = 'new' WHERE id = 1 RETURNING open;
UPDATE columns SET hidden = 'new' WHERE id = 1;
DELETE FROM columns;
RESET ROLE;
SELECT * FROM columns;
DROP OWNED BY varve_reader;
DROP ROLE varve_reader;

SET client_min_messages = warning;
DROP SCHEMA constraints CASCADE;
