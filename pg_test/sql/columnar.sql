-- Queries that are answered by columns on frozen chunks, on chunks with changed rows and on hot ones. The expected output is what
-- heap gives: it was made with 'hot' in place of 'warm'.
CREATE SCHEMA columnar;
SET search_path = columnar, public;
SET timezone = 'UTC';

CREATE TABLE m (sym text NOT NULL, ts timestamptz NOT NULL, o float8, f4 real, v bigint, i int, s smallint, note text COLLATE "C", b bool, d date, u uuid, PRIMARY KEY (sym, ts));
SELECT count(*) FROM create_hypertable('m', 'ts', chunk_time_interval => interval '7 days');
INSERT INTO m SELECT 'S' || lpad((i % 20)::text, 3, '0'), timestamptz '2025-01-06 00:00+00' + (i / 20) * interval '1 minute',
    CASE WHEN i % 13 <> 0 THEN (i::bigint * 7919 % 10007) / 100.0 END, (i * 31 % 1000) / 8.0, (i::bigint * 104729 % 1000003) * 100,
    CASE WHEN i % 11 > 0 THEN i * 37 % 500 END, i % 300, CASE WHEN i % 7 = 0 THEN 'n' || i * 13 % 1000 END, i % 3 = 0,
    date '2025-01-01' + i / 100000, ('00000000-0000-0000-0000-0000000000' || lpad(to_hex(i % 50), 2, '0'))::uuid
  FROM generate_series(0, 299999) i;
SELECT varve.enable('m');
VACUUM ANALYZE m;
SELECT count(varve.set_tier(c, 'warm')) FROM show_chunks('m') c;
UPDATE m SET o = o + 1, v = v + 1 WHERE sym = 'S007' AND ts < '2025-01-07';
DELETE FROM m WHERE sym = 'S009' AND ts > '2025-01-10';
INSERT INTO m (sym, ts, o, v, i, note) SELECT sym, ts + interval '30 days', o, v, i, 'late' FROM m WHERE sym < 'S003' AND ts < '2025-01-08';
ALTER TABLE m ADD extra int DEFAULT 5;
ANALYZE m;

-- Whole tables.
SELECT count(*), count(o), count(note), sum(v), round(sum(o)::numeric, 4), sum(i), sum(s), avg(v), round(avg(o)::numeric, 6), avg(i), avg(s) FROM m;
SELECT min(o), max(o), min(f4), max(f4), min(v), max(v), min(i), max(i), min(s), max(s), min(ts), max(ts), min(d), max(d), min(note), max(note) FROM m;
SELECT bool_and(b), bool_or(b), every(i IS NOT NULL), bool_and(b) FILTER (WHERE i = 3) FROM m;
SELECT round(stddev(o)::numeric, 6), round(variance(o)::numeric, 5), round(stddev_pop(o)::numeric, 6), round(var_pop(o)::numeric, 5), stddev(i), variance(i), stddev_pop(i), var_pop(i), stddev(s), round(var_samp(f4)::numeric, 4) FROM m;
SELECT count(DISTINCT sym), count(DISTINCT i), count(DISTINCT note), count(DISTINCT o), count(DISTINCT u), count(DISTINCT b), count(DISTINCT ts) FROM m;
SELECT first(o, ts), last(o, ts), first(sym, ts), last(note, ts), first(v, o), last(v, o) FROM m WHERE sym = 'S004';
SELECT sum(extra), count(extra), min(extra), count(*) FILTER (WHERE extra = 5), count(*) FILTER (WHERE extra <> 5) FROM m;
SELECT count(*), sum(v), max(o), avg(i), bool_or(b), first(v, ts), stddev(o), stddev(i) FROM m WHERE o > 1e9;
SELECT count(*), sum(v) FROM m WHERE false;
-- Groups.
SELECT sym, count(*), min(o), max(v), sum(i), first(o, ts), last(o, ts) FROM m GROUP BY sym ORDER BY sym;
SELECT time_bucket('1 day', ts) AS day, count(*), sum(v), round(avg(o)::numeric, 6) FROM m GROUP BY 1 ORDER BY 1;
SELECT time_bucket('6 hours', ts) AS t, sym, sum(v) FROM m WHERE ts >= '2025-01-07 03:30' AND ts < '2025-01-08 01:15' AND sym IN ('S001', 'S007', 'none') GROUP BY 1, 2 ORDER BY 1, 2;
SELECT time_bucket('7 days', ts), time_bucket('1 month', ts), time_bucket('1 day', ts, 'Europe/Berlin'), count(*) FROM m WHERE ts < '2025-01-08' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT time_bucket('1 day', ts, interval '6 hours') AS t, time_bucket(50, i) AS ib, count(*) FROM m WHERE sym = 'S001' AND i < 120 GROUP BY 1, 2 ORDER BY 1, 2 LIMIT 12;
SELECT date_trunc('week', ts) AS w, extract(dow FROM ts)::int AS dow, ts::date AS d, count(*) FROM m GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT b, i % 5 AS m, count(*), count(i) FROM m GROUP BY 1, 2 ORDER BY 1, 2;
SELECT note, count(*) FROM m WHERE note < 'n105' GROUP BY note ORDER BY note;
SELECT u, sum(s) FROM m GROUP BY u ORDER BY u LIMIT 5;
SELECT o, count(*) FROM m WHERE o BETWEEN 10 AND 10.05 OR o IS NULL GROUP BY o ORDER BY o;
SELECT upper(sym) || '!' AS x, count(*) FROM m GROUP BY 1 HAVING count(*) < 15000 ORDER BY 1;
SELECT sym, round((sum(o * v) / sum(v))::numeric, 6) AS vwap, round(sum(-o / (f4 + 1))::numeric, 5) FROM m WHERE o IS NOT NULL AND sym < 'S003' GROUP BY sym ORDER BY sym;
SELECT sym, count(*) FILTER (WHERE o > 50), sum(v) FILTER (WHERE b OR i = 3), min(o) FILTER (WHERE o > 1e6) FROM m GROUP BY sym ORDER BY sym LIMIT 8;
SELECT sum(v) AS s FROM m GROUP BY sym, time_bucket('1 day', ts) ORDER BY s DESC LIMIT 3;
-- The first groups from one end.
SELECT time_bucket('1 hour', ts) AS h, sum(v), count(*) FROM m GROUP BY 1 ORDER BY 1 DESC LIMIT 4;
SELECT time_bucket('1 hour', ts) AS h, sum(v), count(*) FROM m WHERE ts < '2025-01-09 11:22:40' GROUP BY 1 ORDER BY 1 DESC LIMIT 4;
SELECT ts, count(*) FROM m WHERE sym > 'S015' GROUP BY ts ORDER BY ts LIMIT 3 OFFSET 2;
SELECT time_bucket('1 day', ts) AS h, count(*) FROM m WHERE o > 200 GROUP BY 1 ORDER BY 1 DESC LIMIT 4;
-- Conditions.
SELECT count(*) FROM m WHERE o > 99.5;
SELECT count(*) FROM m WHERE NOT (o <= 99.5);
SELECT count(*) FROM m WHERE o = 'NaN' OR o < -1;
SELECT count(*) FROM m WHERE f4 = 62.5 AND f4 = 62.5::float8 AND 62.5 = f4;
SELECT count(*) FROM m WHERE i = 7 OR sym = 'S005' AND s IN (1, 2, NULL);
SELECT count(*), count(*) FILTER (WHERE true) FROM m WHERE i NOT IN (1, 2, 3);
SELECT count(*) FROM m WHERE u = '00000000-0000-0000-0000-000000000007' OR u > '00000000-0000-0000-0000-000000000030';
SELECT count(*) FROM m WHERE sym >= 'S018' AND note IS NULL AND i IS NOT NULL AND b;
SELECT count(*) FROM m WHERE ts > now() - interval '100 years' AND ts <> '2025-01-06' AND d = '2025-01-02';
SELECT count(*) FROM m WHERE extra = 5 AND extra IN (4, 5);
PREPARE p(text, timestamptz, int[]) AS SELECT count(*), sum(v) FROM m WHERE sym = $1 AND ts >= $2 AND (i = ANY ($3) OR $3 IS NULL);
SET plan_cache_mode = force_generic_plan;
EXECUTE p('S007', '2025-01-06', '{1,2,3}');
EXECUTE p('S008', '2025-01-09', NULL);
EXECUTE p(NULL, '2025-01-09', '{}');
RESET plan_cache_mode;
SELECT x.sym, (SELECT count(*) FROM m WHERE m.sym = x.sym AND m.i = x.i) FROM (VALUES ('S001', 5), ('S002', NULL), ('none', 1)) x(sym, i);
SELECT x.n, y.* FROM generate_series(1, 3) x(n), LATERAL (SELECT sym, ts, v FROM m WHERE s = x.n ORDER BY sym, ts LIMIT 1) y;
-- Orders.
SELECT sym, ts, v FROM m ORDER BY sym, ts LIMIT 3;
SELECT sym, ts, v FROM m ORDER BY sym DESC, ts DESC LIMIT 3;
SELECT sym, ts, v FROM m WHERE sym BETWEEN 'S006' AND 'S008' ORDER BY sym, ts DESC LIMIT 3;
SELECT md5(string_agg(m::text, ',')) FROM (SELECT * FROM m ORDER BY sym, ts) m;
SELECT md5(string_agg(m::text, ',')) FROM (SELECT * FROM m ORDER BY sym DESC, ts DESC) m;
SELECT md5(string_agg(m::text, ',')) FROM (SELECT * FROM m ORDER BY sym, ts DESC) m;
SELECT md5(string_agg(m::text, ',')) FROM (SELECT * FROM m ORDER BY sym DESC, ts) m;
SELECT ts, v FROM m WHERE sym = 'S007' ORDER BY ts DESC LIMIT 2;
SELECT DISTINCT ON (sym) sym, ts, o FROM m ORDER BY sym, ts DESC;
SELECT DISTINCT ON (sym) sym, ts, o FROM m WHERE o > 90 ORDER BY sym DESC, ts LIMIT 4;
SELECT DISTINCT sym FROM m ORDER BY sym LIMIT 3;
SELECT sym, n FROM (SELECT sym, row_number() OVER (PARTITION BY sym ORDER BY ts DESC) AS n FROM m WHERE sym < 'S002') w WHERE n IN (1, 7000) ORDER BY sym, n;
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT count(*), sum(a.v - b.v) FROM m a JOIN m b ON a.sym = b.sym AND a.ts = b.ts;
-- TimescaleDB takes an order by time for one by a bucket of it.
SELECT a.sym, date_trunc('hour', a.ts) AS h FROM m a JOIN m b ON a.sym = b.sym AND a.ts = b.ts
    WHERE a.ts < '2025-01-06 02:00' AND a.sym < 'S002' ORDER BY 1, 2 LIMIT 2;
RESET enable_hashjoin;
RESET enable_nestloop;
-- The sign of zero.
CREATE TABLE z (ts timestamptz NOT NULL, k int, neg float8, pos float8, least float8, greatest float8, f4 real, part float8);
SELECT count(*) FROM create_hypertable('z', 'ts', chunk_time_interval => interval '7 days');
INSERT INTO z SELECT timestamptz '2025-01-06 00:00+00' + i * interval '1 second', i / 1000, '-0', '0', CASE WHEN i % 3 = 0 THEN '-0'::float8 ELSE i END,
    CASE WHEN i % 3 = 0 THEN '-0'::float8 ELSE -i END, '-0', CASE WHEN i < 2000 THEN '-0'::float8 ELSE i END FROM generate_series(0, 4999) i;
SELECT varve.enable('z', '{}', '{ts}');
SELECT count(varve.set_tier(c, 'warm')) FROM show_chunks('z') c;
ANALYZE z;
SELECT min(neg), max(neg), sum(neg), avg(neg), min(pos), max(pos), sum(pos), min(least), max(greatest), min(f4), max(f4), sum(f4), avg(f4) FROM z;
SELECT k, min(neg), sum(neg), sum(pos), min(least), max(greatest), max(f4), min(part) FROM z GROUP BY k ORDER BY k;
SELECT neg, pos, f4, count(*), count(DISTINCT neg), first(neg, ts), last(f4, ts) FROM z WHERE k > 1 GROUP BY neg, pos, f4;
SELECT part, count(*) FROM z GROUP BY part ORDER BY part LIMIT 2;
SELECT DISTINCT neg FROM z;
SELECT sum(neg) FILTER (WHERE k = 2), max(neg + neg), stddev(neg) FROM z WHERE neg = 0 AND part >= 0;
DROP TABLE z;
-- Cursors, both ways.
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT sym, ts FROM m WHERE sym = 'S003' AND ts < '2025-01-06 00:05';
FETCH 2 FROM c;
FETCH BACKWARD 1 FROM c;
FETCH LAST FROM c;
FETCH BACKWARD ALL FROM c;
COMMIT;
-- Rows that are changed while they are read.
WITH changed AS (UPDATE m SET v = -1 WHERE (sym, ts) IN (SELECT sym, ts FROM m WHERE i = 3 ORDER BY sym, ts LIMIT 10) RETURNING sym, ts)
SELECT * FROM changed ORDER BY sym, ts;
SELECT count(*), count(*) FILTER (WHERE v = -1) FROM m;
-- Rows of the delta, more than fit into work_mem, in their places between frozen ones.
UPDATE m SET note = repeat(note, 20) WHERE i % 7 = 0 AND note IS NOT NULL;
SET work_mem = '64kB';
SELECT count(*), md5(string_agg(m::text, ',')) FROM (SELECT * FROM m WHERE sym < 'S004' ORDER BY sym, ts) m;
SELECT count(*), md5(string_agg(m::text, ',')) FROM (SELECT DISTINCT ON (sym) * FROM m ORDER BY sym, ts DESC) m;
RESET work_mem;
-- Rows of the delta that are sorted on disk.
CREATE TABLE late (k text COLLATE "C" NOT NULL, n int NOT NULL, note text, PRIMARY KEY (k, n));
INSERT INTO late SELECT 'a' || i % 10, i, md5(i::text) FROM generate_series(1, 2000) i;
SELECT varve.enable('late', order_by => '{k,n}');
SELECT varve.set_tier('late', 'warm');
INSERT INTO late SELECT 'b' || i % 10, i, md5(i::text) FROM generate_series(1, 5000) i;
SET work_mem = '64kB';
SET enable_sort = off;
SELECT count(*), count(*) FILTER (WHERE note = md5(n::text)) FROM (SELECT * FROM late ORDER BY k, n OFFSET 0) s;
SELECT count(*), count(*) FILTER (WHERE note = md5(n::text)) FROM (SELECT * FROM late ORDER BY k DESC, n DESC OFFSET 0) s;
SELECT count(*), count(*) FILTER (WHERE note = md5(n::text)) FROM (SELECT DISTINCT ON (k) * FROM late ORDER BY k, n DESC) s;
-- Groups by text, more than fit into work_mem: in several passes, whose strings are not kept.
SELECT count(*), sum(c), md5(string_agg(note || x || f, ',' ORDER BY note)) FROM (SELECT note, count(*) AS c, max(note) AS x, first(note, n) AS f FROM late GROUP BY note) s;
SELECT k, count(DISTINCT note), min(note), last(note, n) FROM late GROUP BY k ORDER BY k LIMIT 3;
SELECT count(*), sum(c), md5(string_agg(note, ',' ORDER BY note)) FROM (SELECT substr(note, 1, 3) AS note, count(*) AS c FROM late GROUP BY 1) s;
RESET work_mem;
RESET enable_sort;
-- Cursors that are rewound over rows of the delta meet them as before.
CREATE TABLE c (ts timestamptz PRIMARY KEY, v int);
INSERT INTO c SELECT timestamptz '2025-01-01 00:00+00' + i * interval '1 hour', i FROM generate_series(1, 100) i;
SELECT varve.enable('c', order_by => '{ts}');
SELECT varve.set_tier('c', 'warm');
INSERT INTO c VALUES ('2030-01-03 00:00+00', 3), ('2030-01-01 00:00+00', 1), ('2030-01-02 00:00+00', 2);
BEGIN;
DECLARE h CURSOR WITH HOLD FOR SELECT v FROM c WHERE ts >= '2030-01-01 00:00+00';
FETCH 1 FROM h;
COMMIT;
FETCH ALL FROM h;
CLOSE h;
BEGIN;
DECLARE s SCROLL CURSOR FOR SELECT v FROM c WHERE ts >= '2030-01-01 00:00+00';
FETCH ALL FROM s;
FETCH ABSOLUTE 1 FROM s;
FETCH ABSOLUTE 3 FROM s;
FETCH BACKWARD ALL FROM s;
COMMIT;
-- The column that rows are sorted by goes.
CREATE TABLE d (host int, ts int, v int, PRIMARY KEY (host, ts));
INSERT INTO d SELECT i % 10, i, i FROM generate_series(1, 3000) i;
SELECT varve.enable('d', order_by => '{host,ts}');
SELECT varve.set_tier('d', 'warm');
SELECT count(*) FROM d WHERE host = 3;
ALTER TABLE d DROP host;
SELECT count(*), sum(v) FROM d;
SELECT v FROM d WHERE ts BETWEEN 7 AND 9 ORDER BY ts;
DELETE FROM d WHERE ts = 8;
SELECT ts FROM d ORDER BY ts LIMIT 3 OFFSET 6;
SELECT d.ts FROM (VALUES (7), (8), (9)) x(t) JOIN d ON d.ts = x.t ORDER BY 1;

SET client_min_messages = warning;
DROP SCHEMA columnar CASCADE;
