-- Large batches with keys of several types, on hot and on frozen chunks, beside the same on heap; constraints that read tables.
CREATE SCHEMA upsert_keys;
SET search_path = upsert_keys, public, varve;
SET timezone = 'UTC';
SET varve.upsert_merge_rows = 500;
CREATE FUNCTION keys(n int) RETURNS TABLE (k_uuid uuid, k_numeric numeric, k_text text, k_bytea bytea, k_inet inet, k_interval interval, k_int int, k_float8 float8, k_bool boolean, k_json jsonb, at timestamptz)
LANGUAGE sql AS $$
    SELECT md5((i % 900)::text)::uuid, (i % 700 - 350) / 8.0, chr(65 + i % 50) || md5((i % 40)::text), decode(md5((i % 333)::text), 'hex'), '10.0.0.0'::inet + i % 600,
        (i % 500) * interval '7 hours', (i * 7919) % 1000 - 500, (CASE i % 400 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' WHEN 2 THEN '-Infinity' ELSE (i % 400)::text END)::float8,
        i % 2 = 0, jsonb_build_object('n', i % 450), timestamptz '2024-01-01' + (i % 2000) * interval '1 minute'
    FROM generate_series(1, n) i $$;
CREATE TABLE results (key name, stage int, what text, summary text, segments bigint, delta_rows bigint, differing bigint);
CREATE PROCEDURE try_key(key name) LANGUAGE plpgsql AS $$
DECLARE
    source text;
    found text;
    stage record;
BEGIN
    EXECUTE format('CREATE TABLE t AS SELECT %I AS k, at, 0::float8 AS v, NULL::text AS note FROM keys(0)', key);
    ALTER TABLE t ADD PRIMARY KEY (k, at);
    PERFORM create_hypertable('t', 'at', chunk_time_interval => interval '1 day');
    PERFORM enable('t');
    CREATE TABLE h (LIKE t INCLUDING ALL);
    FOR stage IN SELECT * FROM (VALUES
        (1, 'new, hot', 3000, 'i', false), (2, 'changed and new, hot', 4000, 'i + i % 3', false), (3, 'the same, frozen', 4000, 'i + i % 3', true),
        (4, 'changed and new, frozen', 5000, 'i % 4', false), (5, 'the same again', 5000, 'i % 4', false)) s (n, what, amount, value, frozen) ORDER BY n
    LOOP
        IF stage.frozen THEN
            PERFORM set_tier(c, 'warm') FROM show_chunks('t') c;
        END IF;
        source := format('SELECT %I AS k, at, (%s)::float8 AS v FROM (SELECT *, row_number() OVER () AS i FROM keys(%s)) s', key, stage.value, stage.amount);
        -- A batch goes to segments where nothing else is in its transaction.
        COMMIT;
        found := upsert_query('t', source)::text;
        EXECUTE format('INSERT INTO h SELECT DISTINCT ON (k, at) k, at, v FROM (SELECT *, row_number() OVER () AS i FROM (%s) s) s ORDER BY k, at, i DESC
            ON CONFLICT (k, at) DO UPDATE SET v = excluded.v', source);
        INSERT INTO results SELECT key, stage.n, stage.what, found, sum(c.segments), sum(c.delta_rows),
            (SELECT count(*) FROM ((SELECT k::text, at, v, note FROM t EXCEPT ALL SELECT k::text, at, v, note FROM h)
                UNION ALL (SELECT k::text, at, v, note FROM h EXCEPT ALL SELECT k::text, at, v, note FROM t)) d) FROM chunks c WHERE hypertable = 't'::regclass;
        COMMIT;
    END LOOP;
    DROP TABLE t;
    DROP TABLE h;
END $$;
SET client_min_messages = warning;
CALL try_key('k_uuid');
CALL try_key('k_numeric');
CALL try_key('k_text');
CALL try_key('k_bytea');
CALL try_key('k_inet');
CALL try_key('k_interval');
CALL try_key('k_int');
CALL try_key('k_float8');
CALL try_key('k_bool');
CALL try_key('k_json');
RESET client_min_messages;
SELECT key, what, summary, segments, delta_rows, differing FROM results ORDER BY key, stage;

-- A constraint whose function reads another table, and the table itself: it sees what the statement has written, as with INSERT.
CREATE TABLE limits (most float8);
INSERT INTO limits VALUES (100);
CREATE FUNCTION allowed(v float8) RETURNS boolean LANGUAGE plpgsql STABLE AS 'BEGIN RETURN v <= (SELECT most FROM upsert_keys.limits); END';
CREATE TABLE c (k int, at timestamptz, v float8 CHECK (allowed(v)), PRIMARY KEY (k, at));
SELECT table_name FROM create_hypertable('c', 'at', chunk_time_interval => interval '1 day');
SELECT enable('c');
INSERT INTO c SELECT i, '2024-01-01', i % 100 FROM generate_series(1, 2000) i;
SELECT testing.freeze('c');
SELECT * FROM upsert_query('c', $$SELECT i AS k, timestamptz '2024-01-01' AS at, i % 101 AS v FROM generate_series(1, 2000) i$$);
SELECT segments, delta_rows FROM chunks WHERE hypertable = 'c'::regclass;
\set VERBOSITY sqlstate
SELECT * FROM upsert_query('c', $$SELECT i AS k, timestamptz '2024-01-01' AS at, i % 102 AS v FROM generate_series(1, 2000) i$$);
\set VERBOSITY default
SELECT count(*), sum(v), max(v) FROM c;
CREATE FUNCTION still_there(k int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN k < 1900 OR k % 2 = 1 OR EXISTS (SELECT FROM upsert_keys.c WHERE c.k = still_there.k - 1); END';
ALTER TABLE c ADD CONSTRAINT follows CHECK (still_there(k));
SELECT * FROM upsert_query('c', $$SELECT i AS k, timestamptz '2024-01-01' AS at, i % 100 AS v FROM generate_series(1, 2100) i$$);
SELECT count(*), sum(v), max(v) FROM c;
-- So do functions of defaults, for columns that the batch lacks; the server's own volatile functions look at nothing.
CREATE TABLE numbered (k int, at timestamptz, v float8, no int, id uuid DEFAULT gen_random_uuid(), PRIMARY KEY (k, at));
CREATE FUNCTION next_no() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT coalesce(max(no), 0) + 1 FROM upsert_keys.numbered';
ALTER TABLE numbered ALTER no SET DEFAULT upsert_keys.next_no();
SELECT table_name FROM create_hypertable('numbered', 'at', chunk_time_interval => interval '1 day');
SELECT enable('numbered');
SELECT inserted FROM upsert_query('numbered', $$SELECT i AS k, timestamptz '2024-01-01' AS at, i AS v FROM generate_series(1, 1000) i$$);
SELECT count(*), count(DISTINCT no), max(no), count(DISTINCT id) FROM numbered;
SELECT testing.freeze('numbered');
SELECT inserted, updated FROM upsert_query('numbered', $$SELECT i AS k, timestamptz '2024-01-01' AS at, i % 10 AS v FROM generate_series(1, 2000) i$$);
SELECT count(*), count(DISTINCT no), max(no), count(DISTINCT id) FROM numbered;
SELECT segments, delta_rows FROM chunks WHERE hypertable = 'numbered'::regclass;
ALTER TABLE numbered ALTER no DROP DEFAULT;
SELECT testing.freeze('numbered');
SELECT inserted, updated FROM upsert_query('numbered', $$SELECT i AS k, timestamptz '2024-01-01' AS at, i % 11 AS v FROM generate_series(1, 3000) i$$);
SELECT count(*), count(no), count(DISTINCT id) FROM numbered;
SELECT segments, delta_rows FROM chunks WHERE hypertable = 'numbered'::regclass;
-- Objects of several shapes are several batches, of which the last alone takes whole chunks.
SELECT inserted, updated, unchanged FROM upsert_json('numbered', (SELECT jsonb_agg(CASE WHEN i % 2 = 0 THEN jsonb_build_object('k', i, 'at', '2024-01-01', 'v', -1) ELSE jsonb_build_object('k', i, 'at', '2024-01-01', 'no', -1) END) FROM generate_series(2001, 4000) i));
SELECT segments, delta_rows FROM chunks WHERE hypertable = 'numbered'::regclass;
SELECT count(*), count(*) FILTER (WHERE v = -1), count(*) FILTER (WHERE no = -1) FROM numbered;
SET client_min_messages = warning;
DROP SCHEMA upsert_keys CASCADE;
