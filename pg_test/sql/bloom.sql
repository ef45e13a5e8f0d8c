-- Values that are looked up in columns that have an index but by which rows are not sorted: Bloom filters keep pages out that
-- zones do not. Every answer is compared with that of a heap; numbers of pages are exact, since the filters' hash is.
CREATE SCHEMA bloom;
SET search_path = bloom, public;
SET timezone = 'UTC';
SET max_parallel_workers_per_gather = 0;

CREATE TABLE h (ts timestamptz PRIMARY KEY, id bigint, word text, plain bigint, f float8, f4 real, u uuid);
INSERT INTO h SELECT timestamptz '2025-01-01 00:00+00' + i * interval '1 second',
    CASE WHEN i % 10 <> 3 THEN (i::bigint * 7919 % 1000003) * 1000003 END,
    CASE WHEN i % 7 <> 2 THEN 'w' || i::bigint * 104729 % 1000003 END,
    i::bigint * 7919 % 1000003,
    CASE i WHEN 777 THEN 'NaN' WHEN 30000 THEN '-0' WHEN 45000 THEN 0 WHEN 50000 THEN 'NaN' ELSE (i::bigint * 7919 % 10007 - 5000.5) * (i + 1) END,
    CASE WHEN i % 1000 > 0 THEN (i::bigint * 31 % 65521) / 8.0 - 4000 ELSE 'NaN' END,
    md5((i / 2)::text)::uuid
  FROM generate_series(0, 59999) i;
CREATE TABLE t (LIKE h INCLUDING ALL) USING varve;
CREATE INDEX ON t (id);
CREATE INDEX ON t USING hash (word);
CREATE INDEX ON t (f, f4);
CREATE INDEX ON t (u) WHERE u IS NOT NULL;
INSERT INTO t SELECT * FROM h;
SELECT varve.enable('t', order_by => '{ts}');
SELECT testing.freeze('t');
ANALYZE t;

-- What the node that reads @ has to say of it, for a query on @, which stands for the table.
CREATE FUNCTION node_of(query text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    node json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, FORMAT json, TIMING off) ' || replace(query, '@', 't') INTO node;
    node := node #> '{0,Plan}';
    WHILE node ->> 'Pages Read' IS NULL AND node -> 'Plans' IS NOT NULL LOOP
        node := node #> '{Plans,-1}';
    END LOOP;
    RETURN node;
END $$;
-- Rows that satisfy a condition; whether they are those of the heap; pages.
CREATE FUNCTION look(condition text) RETURNS TABLE (rows bigint, same bool, read text, by_filter text) LANGUAGE plpgsql AS $$
DECLARE
    query text := 'SELECT count(*), md5(string_agg(@::text, '' '' ORDER BY ts)) FROM @ WHERE ' || condition;
    ours text;
    theirs text;
    node json := node_of('SELECT * FROM @ WHERE ' || condition);
BEGIN
    EXECUTE replace(query, '@', 't') INTO rows, ours;
    EXECUTE replace(query, '@', 'h') INTO rows, theirs;
    same := ours IS NOT DISTINCT FROM theirs;
    read := node ->> 'Pages Read';
    by_filter := node ->> 'Pages Skipped by Bloom Filter';
    RETURN NEXT;
END $$;

SELECT id, word, plain, f, f4, u FROM h WHERE ts = '2025-01-01 03:20:01+00';
CREATE TABLE conditions (n int GENERATED ALWAYS AS IDENTITY, condition text);
INSERT INTO conditions (condition) VALUES
    ('id = 35634106902'),
    ('35634106902 = id'),
    ('id = 35634106903'),
    ('id = 0'),
    ('id = 7::smallint'),
    ('id IN (35634106902, 0, 4)'),
    ('id = ANY ((SELECT array_agg(h.id) FROM h WHERE extract(epoch FROM ts)::int % 20000 = 7)::bigint[])'),
    ('id = ANY (ARRAY(SELECT h.id FROM h WHERE extract(epoch FROM ts)::int % 20000 = 7))'),
    ('id = ANY (ARRAY(SELECT h.id FROM h WHERE extract(epoch FROM ts)::int % 500 = 7))'),
    ('id IN (NULL, 4)'),
    ('id = NULL'),
    ('id IS NULL AND word IS NULL'),
    ('id <> 35634106902 AND plain < 500'),
    ('id >= 35634106902 AND id <= 35634106902'),
    ('plain = 35634'),
    ('word = ''w848961'''),
    ('word = ''W848961'''),
    ('word = ''w848961'' COLLATE "C"'),
    ('word = ''w848961''::varchar'),
    ('word IN (''w848961'', ''w0'', ''none'', '''')'),
    ('word LIKE ''w84896%'''),
    ('id = 35634106902 AND word = ''w848961'''),
    ('id = 35634106902 OR word = ''w0'''),
    ('id = 4 OR ts < ''2025-01-01 00:00:02'''),
    ('NOT (id <> 35634106902)'),
    ('f = 0'),
    ('f = ''-0'''),
    ('f = 0::real'),
    ('f = ''NaN'''),
    ('f IN (''NaN'', 0, 1)'),
    ('f4 = ''NaN'''),
    ('f4 = -3999.875'),
    ('f4 = ''-3999.875''::real'),
    ('f4 = 0.1'),
    ('u = md5(''6000'')::uuid'),
    ('u = md5(''none'')::uuid'),
    ('u IN (md5(''6000'')::uuid, md5(''none'')::uuid, md5(''1'')::uuid)');
SELECT condition, look.* FROM conditions, look(condition) ORDER BY n;

-- The line in the plan; grouping and aggregating.
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT * FROM t WHERE id = 35634106902;
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT count(*), sum(f) FROM t WHERE word = 'w848961';
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT count(*) FROM t WHERE plain = 35634;

-- Parameters, and values that change from one run of a scan to the next.
SET plan_cache_mode = force_generic_plan;
PREPARE by_id(bigint) AS SELECT ts, word FROM t WHERE id = $1;
EXECUTE by_id(35634106902);
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) EXECUTE by_id(35634106902);
EXECUTE by_id(35634106903);
EXECUTE by_id(NULL);
PREPARE by_words(text[]) AS SELECT ts, id FROM t WHERE word = ANY ($1) ORDER BY ts;
EXECUTE by_words('{w848961,w0,none}');
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) EXECUTE by_words('{w848961,none,NULL}');
EXECUTE by_words('{}');
RESET plan_cache_mode;
SELECT x.id, (SELECT count(*) || ' ' || min(t.word) FROM t WHERE t.id = x.id) FROM (VALUES (35634106902), (35634106903), (0), (NULL), (35634106902)) x(id);
SELECT count(*), count(t.ts), md5(string_agg(t::text, ',' ORDER BY x.id)) = (SELECT md5(string_agg(h::text, ',' ORDER BY h.id)) FROM h WHERE plain < 2000 AND id IS NOT NULL)
  FROM (SELECT id FROM h WHERE plain < 2000 AND id IS NOT NULL OFFSET 0) x LEFT JOIN LATERAL (SELECT * FROM t WHERE t.id = x.id OFFSET 0) t ON true;

-- Columns that segments lack have one value, or none.
ALTER TABLE t ADD later int DEFAULT 7, ADD never text;
ALTER TABLE h ADD later int DEFAULT 7, ADD never text;
CREATE INDEX ON t (later, never);
SELECT c, look.* FROM unnest(ARRAY['later = 7 AND id = 35634106902', 'later = 8', 'never = ''x''', 'later IN (7, 8) AND word = ''w848961''']) WITH ORDINALITY x(c, n), look(c) ORDER BY n;

-- Rows that left their segment are found where they are now, and by what they are now.
UPDATE t SET id = 35634106903, word = 'moved' WHERE id = 35634106902;
UPDATE h SET id = 35634106903, word = 'moved' WHERE id = 35634106902;
DELETE FROM t WHERE word = 'w0';
DELETE FROM h WHERE word = 'w0';
SELECT condition, look.* FROM conditions, look(condition) WHERE n IN (1, 3, 4, 6, 16, 20, 23) ORDER BY n;
SELECT c, look.* FROM unnest(ARRAY['word = ''moved''', 'word IN (''moved'', ''none'')']) WITH ORDINALITY x(c, n), look(c) ORDER BY n;

-- Frozen anew, and for size, the new columns have filters of their own where they are of use.
UPDATE t SET later = plain, never = CASE WHEN plain % 3 = 0 THEN 'n' || plain END;
UPDATE h SET later = plain, never = CASE WHEN plain % 3 = 0 THEN 'n' || plain END;
SELECT testing.freeze('t');
SELECT condition, look.* FROM conditions, look(condition) WHERE n IN (1, 3, 6, 16, 29) ORDER BY n;
SELECT c, look.* FROM unnest(ARRAY['later = 35634', 'later = 1000004', 'never = ''n35634''', 'never IN (''n3'', ''n1'')']) WITH ORDINALITY x(c, n), look(c) ORDER BY n;
SELECT varve.set_tier('t', 'cold');
SELECT condition, look.* FROM conditions, look(condition) WHERE n IN (1, 3, 6, 16, 29, 33, 35) ORDER BY n;
SELECT c, look.* FROM unnest(ARRAY['later = 35634', 'never = ''n35634''']) WITH ORDINALITY x(c, n), look(c) ORDER BY n;
SELECT ok, detail FROM varve.verify('t');
VACUUM FULL t;
SELECT condition, look.* FROM conditions, look(condition) WHERE n IN (1, 3) ORDER BY n;

-- Unique keys in another order than that of the rows.
CREATE TABLE k (ts timestamptz NOT NULL, key bigint UNIQUE, name text UNIQUE) USING varve;
INSERT INTO k SELECT ts, plain, 'k' || plain FROM h;
SELECT varve.enable('k', order_by => '{ts}');
SELECT testing.freeze('k');
INSERT INTO k VALUES (now(), -1, 'new'), (now(), NULL, 'k35634x');
SELECT testing.error($$INSERT INTO k VALUES (now(), 35634, 'other')$$);
SELECT testing.error($$INSERT INTO k VALUES (now(), -2, 'k35634')$$);
INSERT INTO k SELECT now(), plain, 'again' || plain FROM h WHERE plain < 1000 ON CONFLICT (key) DO NOTHING;
INSERT INTO k SELECT now(), -plain - 3, 'again' || plain FROM h WHERE plain < 9000 ON CONFLICT (key) DO NOTHING;
INSERT INTO k SELECT '2026-01-01', plain, 'k' || plain FROM h WHERE plain BETWEEN 1000 AND 9000 ON CONFLICT (name) DO UPDATE SET ts = excluded.ts;
SELECT count(*), count(key), count(DISTINCT key), count(DISTINCT name), count(*) FILTER (WHERE ts = '2026-01-01') FROM k;
SELECT count(*), count(*) FILTER (WHERE plain BETWEEN 1000 AND 9000), count(*) FILTER (WHERE plain < 9000) FROM h;

-- Types without a sign, whose greater half is stored as if it were below zero.
CREATE TABLE unsigned (k int PRIMARY KEY, o oid, c "char") USING varve;
INSERT INTO unsigned SELECT i, (3000000000 + i * 7919 % 10007)::oid, (i % 256 - 128)::"char" FROM generate_series(0, 4999) i;
CREATE INDEX ON unsigned (o);
SELECT varve.enable('unsigned', order_by => '{k}');
SELECT testing.freeze('unsigned');
SELECT k, o FROM unsigned WHERE o = 3000007919;
SELECT k, o FROM unsigned WHERE o IN (3000007919, 3000000000, 5) ORDER BY k;
SELECT count(*), count(*) FILTER (WHERE c <> (-56)::"char") FROM unsigned WHERE c IN ((-56)::"char", 'a');
SELECT count(*) FROM unsigned WHERE o <> 3000007919;

-- Damage is found by who asks the filters, and by varve.verify; nobody gets a wrong answer.
DO $$ BEGIN EXECUTE format('UPDATE %1$s SET data = set_byte(data, length(data) - 100, 255 - get_byte(data, length(data) - 100)) WHERE segment = 0 AND item = (SELECT max(item) FROM %1$s WHERE segment = 0)', varve.segment_table('t')); END $$;
\c -
SET search_path = bloom, public;
SELECT ok, testing.stable(detail) AS detail FROM varve.verify('t');
CREATE FUNCTION asked(value text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT format('%s found', count(*)) FROM t WHERE never = value);
EXCEPTION WHEN data_corrupted THEN
    RETURN SQLSTATE;
END $$;
SELECT asked(never), count(*) > 10 FROM (SELECT never FROM h WHERE never IS NOT NULL ORDER BY never LIMIT 500) h GROUP BY 1 ORDER BY 1;

SET client_min_messages = warning;
DROP SCHEMA bloom CASCADE;
