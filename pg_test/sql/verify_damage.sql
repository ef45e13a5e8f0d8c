-- Damaged segments: varve.verify names them, a read says data_corrupted, and nobody gets wrong rows.
CREATE SCHEMA verify_damage;
SET search_path = verify_damage, public;

CREATE TABLE t (id int PRIMARY KEY, ts timestamptz, f float8, n numeric, s text, b bool, later int);
ALTER TABLE t DROP later;
INSERT INTO t SELECT i, '2024-01-01 00:00+00'::timestamptz + i * interval '1 min', sqrt(i), (i / 7.0)::numeric(20, 10), 'symbol ' || i % 17, i % 3 = 0 FROM generate_series(1, 70000) i;
SELECT varve.enable('t');
SELECT testing.freeze('t');
ALTER TABLE t ADD added text DEFAULT 'x';
DO $$ BEGIN EXECUTE 'CREATE TABLE good AS TABLE ' || varve.segment_table('t'); END $$;
SELECT segment, min(item), count(*) > 3 AS many, max(item) - min(item) + 1 = count(*) AS whole, max(length(data)) FROM good GROUP BY segment ORDER BY segment;

-- Damages the segments of t by a command on @, which stands for their table.
CREATE FUNCTION damage(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    EXECUTE replace(command, '@', varve.segment_table('t')::text);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN format('%s rows', n);
END $$;
-- Puts the good segments back.
CREATE FUNCTION repair() RETURNS text LANGUAGE sql AS $$
    SELECT damage('DELETE FROM @');
    SELECT damage('INSERT INTO @ TABLE verify_damage.good');
$$;
CREATE VIEW report AS SELECT segment, ok, testing.stable(detail) AS detail FROM varve.verify('t') ORDER BY segment;
-- What reading gives: its rows and the sum of all of them, or the error.
CREATE FUNCTION reading(what text, condition text DEFAULT 'true') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE format('SELECT format(''%%s rows, %%s'', count(*), md5(string_agg(%s::text, '','' ORDER BY id))) FROM t WHERE %s', what, condition) INTO answer;
    RETURN answer;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
CREATE TABLE right_answers AS SELECT c, reading(c) AS answer FROM unnest('{f,added,t}'::text[]) c;
-- How whole rows read, and which columns read wrongly instead of not at all.
CREATE FUNCTION outcome() RETURNS text LANGUAGE sql AS $$
    SELECT format('whole rows: %s; wrong answers: %s', min(CASE WHEN o.now = answer THEN 'right' ELSE left(o.now, 5) END) FILTER (WHERE c = 't'),
        coalesce(string_agg(c, ', ') FILTER (WHERE o.now <> answer AND o.now <> 'XX001'), 'none'))
    FROM right_answers, reading(c) o(now)
$$;
SELECT outcome();
SELECT * FROM report;
SELECT verified_at AS verified_before FROM varve.chunks WHERE chunk = 't'::regclass \gset

-- One bit of a column.
SELECT damage('UPDATE @ SET data = set_bit(data, 8 * (length(data) / 2) + 3, 1 - get_bit(data, 8 * (length(data) / 2) + 3)) WHERE segment = 0 AND item = 5');
\c -
SET search_path = verify_damage, public;
SELECT * FROM report;
SELECT testing.error('SELECT sum(f + 1) FROM t');
-- A sort asks for columns where memory can't be freed.
SELECT testing.error('SELECT * FROM t ORDER BY s, ts');
\set VERBOSITY terse
SELECT outcome();
-- Pages that are whole can be read.
SELECT * FROM t WHERE id = 70000;
SELECT f FROM t WHERE id = 6500;
COPY (SELECT f FROM t) TO '/dev/null';
UPDATE t SET s = 'x' WHERE id = 6500;
CREATE UNIQUE INDEX ON t (f);
VACUUM FULL t;
ALTER TABLE t ALTER s TYPE varchar(100);
ALTER TABLE t SET ACCESS METHOD heap;
SELECT varve.set_tier('t', 'hot');
SELECT varve.set_tier('t', 'warm');
SELECT varve.disable('t');
SELECT tier, rows, delta_rows, segments FROM varve.chunk_stats('t');
SELECT verified_at > :'verified_before' AS verified_again FROM varve.chunks WHERE chunk = 't'::regclass;
SELECT repair();
\c -
SET search_path = verify_damage, public;
SELECT * FROM report;
SELECT verified_at > :'verified_before' AS verified_again FROM varve.chunks WHERE chunk = 't'::regclass;
SELECT outcome();

-- The key: what is not known can't be ruled out either.
SELECT damage('UPDATE @ SET data = set_byte(data, 10, get_byte(data, 10) # 255) WHERE segment = 1 AND item = 1');
\c -
SET search_path = verify_damage, public;
SELECT * FROM report;
INSERT INTO t (id) VALUES (69999);
INSERT INTO t (id) VALUES (69999) ON CONFLICT DO NOTHING;
SELECT repair();
\c -
SET search_path = verify_damage, public;

-- Truncated, lengthened, emptied, filled with zeros; a piece missing, one too many, two exchanged; the same of the header.
CREATE TABLE cases (n serial, command text);
INSERT INTO cases (command) VALUES
    ('UPDATE @ SET data = substr(data, 1, length(data) - 1) WHERE segment = 0 AND item = 3'),
    ('UPDATE @ SET data = substr(data, 1, length(data) / 2) WHERE segment = 0 AND item = 4'),
    ('UPDATE @ SET data = substr(data, 2) WHERE segment = 0 AND item = 2'),
    ('UPDATE @ SET data = data || ''\x00'' WHERE segment = 0 AND item = 6'),
    ('UPDATE @ SET data = data || ''\x0000'' WHERE segment = 0 AND item = 1'),
    ('UPDATE @ SET data = '''' WHERE segment = 0 AND item = 2'),
    ('UPDATE @ SET data = decode(repeat(''00'', length(data)), ''hex'') WHERE segment = 0 AND item = 2'),
    ('UPDATE @ SET data = decode(repeat(''ff'', length(data)), ''hex'') WHERE segment = 0 AND item = 5'),
    ('DELETE FROM @ WHERE segment = 0 AND item = 3'),
    ('DELETE FROM @ WHERE segment = 0 AND item > 0'),
    ('INSERT INTO @ SELECT segment, 9999, data FROM verify_damage.good WHERE segment = 0 AND item = 1'),
    ('INSERT INTO @ SELECT segment, 9998, data FROM verify_damage.good WHERE segment = 0 AND item = 5'),
    ('INSERT INTO @ SELECT segment, -1, data FROM verify_damage.good WHERE segment = 0 AND item = 5'),
    ('INSERT INTO @ SELECT segment, item, data FROM verify_damage.good WHERE segment = 0 AND item = 5'),
    ('UPDATE @ s SET data = g.data FROM verify_damage.good g WHERE s.segment = 0 AND s.item = 5 AND g.segment = 1 AND g.item = 2'),
    ('UPDATE @ s SET data = g.data FROM verify_damage.good g WHERE s.segment = 0 AND s.item = 2 AND g.segment = 0 AND g.item = 1'),
    ('DELETE FROM @ WHERE segment = 0 AND item = 0'),
    ('DELETE FROM @ WHERE segment = 1'),
    ('UPDATE @ SET data = set_byte(data, 0, get_byte(data, 0) # 1) WHERE segment = 0 AND item = 0'),
    ('UPDATE @ SET data = set_byte(data, length(data) - 1, get_byte(data, length(data) - 1) # 1) WHERE segment = 0 AND item = 0'),
    ('UPDATE @ SET data = substr(data, 1, length(data) - 1) WHERE segment = 0 AND item = 0'),
    ('UPDATE @ SET data = data || ''\x00'' WHERE segment = 0 AND item = 0'),
    ('UPDATE @ SET data = '''' WHERE segment = 0 AND item = 0'),
    ('UPDATE @ SET data = decode(repeat(''ff'', length(data)), ''hex'') WHERE segment = 0 AND item = 0'),
    ('UPDATE @ s SET data = g.data FROM verify_damage.good g WHERE s.segment = 0 AND s.item = 0 AND g.segment = 1 AND g.item = 0'),
    ('UPDATE @ SET segment = 7 WHERE segment = 0 AND item = 4');
-- Does one of them, tells what is found, and undoes it.
CREATE PROCEDURE try(number int) LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    BEGIN
        PERFORM damage(command) FROM cases WHERE n = number;
        SELECT string_agg(format('%s: %s', segment, detail), '; ') INTO found FROM report WHERE NOT ok;
        RAISE EXCEPTION USING ERRCODE = 'XX999', MESSAGE = format('verify: %s; %s', coalesce(found, 'NOTHING FOUND'), outcome());
    EXCEPTION WHEN SQLSTATE 'XX999' THEN
        RAISE NOTICE '%', SQLERRM;
    END;
END $$;
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT * FROM cases ORDER BY n LOOP
        RAISE NOTICE '% %', r.n, r.command;
        CALL try(r.n);
    END LOOP;
END $$;
SELECT * FROM report;
SELECT outcome();

-- Wherever a byte changes, verify notices, and a read gives the right rows or an error; in the cold tier too.
CREATE TABLE small (id int PRIMARY KEY, v text, w float8, x float8, y text);
INSERT INTO small SELECT i, 'v' || i % 5, i / 3.0, (i * 7919 % 1009) / 100.0, 'order ' || i * 7919 % 10007 || ' filled at the market' FROM generate_series(1, 100) i;
CREATE PROCEDURE flip(masks int[]) LANGUAGE plpgsql AS $$
DECLARE
    segments regclass := varve.segment_table('small');
    good text := (SELECT md5(string_agg(s::text, ',' ORDER BY id)) FROM small s);
    -- Whole segments, groups, some rows: what is answered from headers, by columns, and after a filter.
    queries text[] := ARRAY['SELECT format(''%s %s %s'', count(*), sum(w), max(id)) FROM small',
        'SELECT string_agg(format(''%s %s %s'', v, n, m), '','' ORDER BY v) FROM (SELECT v, count(*) AS n, min(w) AS m FROM small GROUP BY v) g',
        'SELECT format(''%s %s'', count(*), sum(id)) FROM small WHERE w > 20 AND v = ''v3'''];
    answers text[] := '{}';
    query text;
    answer text;
    r record;
    tried int := 0;
    unnoticed int := 0;
    wrong int := 0;
    other text;
BEGIN
    FOREACH query IN ARRAY queries LOOP
        EXECUTE query INTO answer;
        answers := answers || answer;
    END LOOP;
    FOR r IN EXECUTE format('SELECT item, position, mask FROM %s, generate_series(0, length(data) - 1) position, unnest($1) mask', segments) USING masks LOOP
        BEGIN
            EXECUTE format('UPDATE %s SET data = set_byte(data, %s, get_byte(data, %2$s) # %s) WHERE item = %s', segments, r.position, r.mask, r.item);
            tried := tried + 1;
            unnoticed := unnoticed + (SELECT count(*) FROM varve.verify('small') WHERE ok);
            BEGIN
                SELECT md5(string_agg(s::text, ',' ORDER BY id)) INTO answer FROM small s;
                wrong := wrong + (answer <> good)::int;
            EXCEPTION WHEN data_corrupted THEN
                NULL;
            WHEN OTHERS THEN
                other := format('%s at byte %s of item %s: %s', SQLSTATE, r.position, r.item, SQLERRM);
            END;
            FOR i IN 1 .. cardinality(queries) LOOP
                BEGIN
                    EXECUTE queries[i] INTO answer;
                    wrong := wrong + (answer <> answers[i])::int;
                EXCEPTION WHEN data_corrupted THEN
                    NULL;
                WHEN OTHERS THEN
                    other := format('%s at byte %s of item %s: %s', SQLSTATE, r.position, r.item, SQLERRM);
                END;
            END LOOP;
            RAISE EXCEPTION USING ERRCODE = 'XX999';
        EXCEPTION WHEN SQLSTATE 'XX999' THEN
            NULL;
        END;
    END LOOP;
    RAISE NOTICE '% tried, % unnoticed, % read wrongly, other errors: %', CASE WHEN tried > 500 THEN 'enough' ELSE tried::text END, unnoticed, wrong, other;
END $$;
SELECT testing.to_tier('small', 'warm');
CALL flip('{1,128}');
SELECT testing.to_tier('small', 'cold');
CALL flip('{255}');

-- A chunk that is damaged beyond reading can still be dropped, truncated and verified.
SELECT damage('UPDATE @ SET data = ''garbage''');
\c -
SET search_path = verify_damage, public;
SELECT * FROM report;
SELECT count(*) FROM t;
SELECT tier, rows, segments FROM varve.chunk_stats('t');
ANALYZE t;
VACUUM t;
BEGIN;
TRUNCATE t;
SELECT count(*) FROM t;
ROLLBACK;
DROP TABLE t CASCADE;
SELECT * FROM varve.verify('small');

SET client_min_messages = warning;
DROP SCHEMA verify_damage CASCADE;
