-- Every way from tier to tier, with rows of all kinds, NULLs, updates, deletes and new rows in between: what reads and writes
-- give is what heap gives.
CREATE SCHEMA tiers;
SET search_path = tiers, public;
SET timezone = 'UTC';

CREATE TABLE t (id int PRIMARY KEY, sym text NOT NULL, ts timestamptz NOT NULL, price float8, single float4, mantissa float8, volume bigint,
    small smallint, yes bool, day date, exact numeric, note text, doc jsonb, tags text[], u uuid, raw bytea, empty int, UNIQUE (sym, ts));
CREATE FUNCTION row_of(i int) RETURNS t LANGUAGE sql IMMUTABLE AS $$
    SELECT i, 'S' || i % 7, '2025-01-06 00:00+00'::timestamptz + i * interval '1 minute', CASE WHEN i % 13 <> 0 THEN (i * 7919 % 10007) / 100.0 END,
        (i % 1000) / 8.0::float4, sqrt(i), CASE WHEN i % 5 > 0 THEN i * 104729::bigint % 1000003 * 100 END, i % 300, CASE WHEN i % 11 > 0 THEN i % 3 = 0 END,
        date '2025-01-01' + i / 1000, CASE WHEN i % 17 > 0 THEN (i / 7.0)::numeric(20, 6) END, CASE WHEN i % 3 > 0 THEN 'order ' || i % 977 || ' filled' END,
        CASE WHEN i % 9 = 0 THEN jsonb_build_object('n', i % 50, 'of', ARRAY[i, NULL]) END, CASE WHEN i % 8 = 0 THEN ARRAY['a', NULL, (i % 4)::text] END,
        md5(i::text)::uuid, CASE WHEN i % 19 = 0 THEN decode(repeat(md5(i::text), 3), 'hex') END, NULL::int
$$;
INSERT INTO t SELECT (row_of(i)).* FROM generate_series(1, 9000) i;
CREATE TABLE twin (LIKE t INCLUDING ALL);
INSERT INTO twin TABLE t;
SELECT varve.enable('t', segment_by => '{sym}', order_by => '{ts}');

-- Changes both tables alike, each time in another way; gives what RETURNING said.
CREATE FUNCTION change(target regclass, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
    one text;
    command text;
BEGIN
    FOREACH command IN ARRAY ARRAY[
        'UPDATE %1$s SET price = price + 1, note = NULL WHERE id %% 211 = %2$s RETURNING *',
        'UPDATE %1$s SET sym = sym || ''x'', volume = NULL, doc = NULL WHERE id %% 307 = %2$s AND sym NOT LIKE ''%%x'' RETURNING *',
        'DELETE FROM %1$s WHERE id %% 401 = %2$s RETURNING *',
        'INSERT INTO %1$s SELECT (r).* FROM (SELECT row_of(id * 10) AS r FROM %1$s WHERE id %% 503 = %2$s AND id < 9000) x WHERE (r).id > 9000 ON CONFLICT DO NOTHING RETURNING *',
        'INSERT INTO %1$s SELECT * FROM %1$s WHERE id %% 601 = %2$s ON CONFLICT (id) DO UPDATE SET note = ''upserted'' || excluded.id, small = NULL RETURNING *',
        'MERGE INTO %1$s x USING generate_series(%2$s, 20000, 997) g ON x.id = g WHEN MATCHED AND g %% 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET exact = 0 RETURNING x.*']
    LOOP
        EXECUTE format('WITH changed AS (' || command || ') SELECT concat_ws('' '', count(*), md5(string_agg(changed::text, E''\n'' ORDER BY id))) FROM changed', target, n) INTO one;
        answer := concat_ws(E'\n', answer, one);
    END LOOP;
    RETURN answer;
END $$;
-- Queries of every kind: whole rows, look-ups by both keys, ranges, aggregates, groups, orders, joins.
CREATE FUNCTION ask(target regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
    one text;
    query text;
BEGIN
    FOREACH query IN ARRAY ARRAY[
        'SELECT t.*::text FROM %1$s t ORDER BY id',
        'SELECT t.*::text FROM %1$s t WHERE id IN (1, 13, 4242, 8999, 90000) ORDER BY id',
        'SELECT t.*::text FROM %1$s t WHERE sym = ''S3'' AND ts BETWEEN ''2025-01-07'' AND ''2025-01-07 06:00'' ORDER BY ts',
        'SELECT count(*), count(price), sum(volume), min(price), max(mantissa), min(note COLLATE "C"), max(day), bool_and(yes), sum(small), count(empty) FROM %1$s',
        'SELECT sym, count(*), round(avg(price)::numeric, 6), sum(volume), min(ts), max(single) FROM %1$s GROUP BY sym ORDER BY sym',
        'SELECT day, yes, count(*), sum(exact), count(DISTINCT note) FROM %1$s GROUP BY day, yes ORDER BY day, yes',
        'SELECT id FROM %1$s WHERE price > 99 AND (volume IS NULL OR yes) ORDER BY sym, ts DESC LIMIT 20',
        'SELECT id, note FROM %1$s WHERE note LIKE ''order 9%%'' AND u > ''80000000-0000-0000-0000-000000000000'' ORDER BY ts LIMIT 30',
        'SELECT a.id, b.small FROM %1$s a JOIN %1$s b ON b.id = a.id / 2 WHERE a.doc @> ''{"n": 9}'' ORDER BY a.id',
        'SELECT sym, ts, lag(price) OVER (PARTITION BY sym ORDER BY ts) FROM %1$s ORDER BY sym, ts OFFSET 100 LIMIT 50']
    LOOP
        EXECUTE format('SELECT concat_ws('' '', count(*), md5(string_agg(q::text, E''\n''))) FROM (' || query || ') q', target) INTO one;
        answer := concat_ws(E'\n', answer, one);
    END LOOP;
    RETURN answer;
END $$;

-- Takes the table into a tier and compares; changes both tables, and compares again.
CREATE PROCEDURE step(tier text, n int) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM testing.to_tier('t', tier);
    COMMIT;
    RAISE INFO '%: %, queries %', tier, testing.same('twin', 't'), CASE WHEN ask('t') = ask('twin') THEN 'the same' ELSE 'DIFFER' END;
    IF change('t', n) <> change('twin', n) THEN
        RAISE INFO 'the changes DIFFER';
    END IF;
    RAISE INFO 'changed: %, queries %, %', testing.same('twin', 't'), CASE WHEN ask('t') = ask('twin') THEN 'the same' ELSE 'DIFFER' END,
        CASE WHEN testing.intact('t') THEN 'intact' ELSE 'DAMAGED' END;
    COMMIT;
END $$;
-- hot to cold, cold to cold, cold to warm, warm to cold, cold to hot, hot to warm, warm to warm, warm to hot, hot to hot, and on.
CALL step('cold', 1);
CALL step('cold', 2);
CALL step('warm', 3);
CALL step('cold', 4);
CALL step('hot', 5);
CALL step('warm', 6);
CALL step('warm', 7);
CALL step('hot', 8);
CALL step('hot', 9);
CALL step('cold', 10);

-- The storage is exchanged or made anew under a cold table.
VACUUM FULL t;
SELECT testing.same('twin', 't');
CLUSTER t USING t_sym_ts_key;
SELECT testing.same('twin', 't');
SELECT testing.to_tier('t', 'cold');
ALTER TABLE t ADD added int DEFAULT 7, DROP single;
ALTER TABLE twin ADD added int DEFAULT 7, DROP single;
SELECT testing.same('twin', 't');
VACUUM FULL t;
SELECT testing.same('twin', 't'), testing.intact('t');
SELECT testing.to_tier('t', 'warm');
SELECT testing.to_tier('t', 'cold');
SELECT testing.same('twin', 't'), testing.intact('t');
ALTER TABLE t ALTER small TYPE int, ALTER price TYPE numeric USING price::numeric;
ALTER TABLE twin ALTER small TYPE int, ALTER price TYPE numeric USING price::numeric;
SELECT testing.same('twin', 't');
SELECT testing.to_tier('t', 'cold');
SELECT testing.same('twin', 't'), testing.intact('t');
CREATE INDEX ON t (volume);
REINDEX TABLE t;
INSERT INTO t SELECT * FROM twin WHERE id = 4243;
INSERT INTO t SELECT * FROM twin WHERE id < 100 ON CONFLICT DO NOTHING;
SELECT testing.same('twin', 't');
BEGIN;
TRUNCATE t;
SELECT count(*) FROM t;
ROLLBACK;
SELECT testing.same('twin', 't');

-- Cursors over cold rows: forth and back, and what is updated through one.
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id FROM t WHERE id BETWEEN 100 AND 120 AND id % 5 = 0 ORDER BY id;
FETCH 3 FROM c;
FETCH BACKWARD 1 FROM c;
CLOSE c;
DECLARE c CURSOR FOR SELECT id FROM t WHERE id = 100 FOR UPDATE;
FETCH 1 FROM c;
UPDATE t SET note = 'current' WHERE CURRENT OF c;
SELECT id, note FROM t WHERE id = 100;
ROLLBACK;
SELECT testing.same('twin', 't');


SET client_min_messages = warning;
DROP SCHEMA tiers CASCADE;
