-- Every type that a table can hold comes back bit for bit: warm, cold, hot, and back.
CREATE SCHEMA types;
SET search_path = types, public;

-- Integers, and what is kept like them.
CREATE TABLE ints (id int, a int2, b int4, c int8, d oid, e bool, f money, g "char", h xid, i xid8, j cid, k pg_lsn, l tid);
INSERT INTO ints VALUES
    (1, 0, 0, 0, 0, false, '0', '', '0', '0', '0', '0/0', '(0,0)'),
    (2, -32768, -2147483648, -9223372036854775808, 4294967295, true, '-92233720368547758.08', 'a',
        '4294967295', '18446744073709551615', '4294967295', 'FFFFFFFF/FFFFFFFF', '(4294967295,65535)'),
    (3, 32767, 2147483647, 9223372036854775807, 1, true, '92233720368547758.07', '\377',
        '3', '3', '1', '0/16B3748', '(42,7)'),
    (4, -1, -1, -1, 2147483648, false, '-0.01', '\001', '4', '4294967296', '0', '1/0', '(1,1)');
INSERT INTO ints (id) VALUES (5), (6);
CALL testing.round_trip('ints', 100);
SELECT count(*), count(a), count(l) FROM ints_v;
SELECT * FROM ints_v WHERE id <= 6 ORDER BY id;

-- Floats: NaN, both zeros, both infinities, denormals.
CREATE TABLE floats (id int, a float4, b float8);
INSERT INTO floats VALUES (1, 'NaN', 'NaN'), (2, '-0', '-0'), (3, '0', '0'), (4, 'Infinity', 'Infinity'), (5, '-Infinity', '-Infinity'),
    (6, '1e-45', '5e-324'), (7, '3.4028235e38', '1.7976931348623157e308'), (8, 0.1, 0.1), (9, 1 / 3.0, 1 / 3.0), (10, NULL, NULL), (11, 1e15, 123456789012345680);
CALL testing.round_trip('floats', 100);
SELECT * FROM floats_v WHERE id <= 11 ORDER BY id;
SELECT a, count(*) FROM floats_v WHERE a <> 0 GROUP BY a ORDER BY a;
SELECT a::text, count(*) FROM floats_v WHERE a = 0 GROUP BY a::text ORDER BY 1;

-- Numerics: the scale that is shown is part of the value.
CREATE TABLE numerics (id int, a numeric, b numeric(10, 2), c numeric(5, -2), d numeric(1000, 900));
INSERT INTO numerics VALUES (1, 'NaN', 'NaN', 'NaN', 'NaN'), (2, 'Infinity', NULL, NULL, NULL), (3, '-Infinity', NULL, NULL, NULL),
    (4, 0, 0, 0, 0), (5, '0.000', '0.00', 0, 0), (6, 1, 1, 100, 1), (7, '1.0', 1.5, 150, 1), (8, '1.00', -1.5, -150, -1),
    (9, '1e100', 12345678.91, 9999949, 1e-900), (10, '-1e-100', -0.01, -12300, 1e99), (11, ('1' || repeat('0', 5000) || '.' || repeat('9', 3000))::numeric, 99999999.99, 0, 0), (13, 123456789.987654321, 3.14, 314, 3.14);
INSERT INTO numerics (id) VALUES (12);
CALL testing.round_trip('numerics', 60);
SELECT id, left(a::text, 30) AS a, scale(a), b, c, left(d::text, 10) AS d FROM numerics_v WHERE id <= 13 ORDER BY id;
-- Equal but for the scale: one group, different images.
SELECT a::text, count(*) FROM numerics_v WHERE a = 1 GROUP BY a::text ORDER BY 1;

-- Strings and bytes: empty, blank-padded, not ASCII, with zeros.
CREATE TABLE strings (id int, a text, b varchar(20), c char(10), d name, e bytea, f varchar, g char);
INSERT INTO strings VALUES (1, '', '', '', '', '', '', ''), (2, ' ', '  ', ' x ', ' ', '\x00', E'\n\t', ' '),
    (3, 'häßlich', '東京', 'ünï', 'Ñame', '\x00ff00ff', '🦀', 'é'), (4, repeat('a', 300), 'twenty characters...', 'ten chars.', repeat('n', 63), decode(repeat('ff', 127), 'hex'), repeat('b', 126), 'x'),
    (5, E'\\', '''', '"', '"q"', '\x5c', E'a\\b', '\'), (7, repeat('b', 127), 'b', 'b', 'b', decode(repeat('00', 128), 'hex'), repeat('c', 127), 'c');
INSERT INTO strings (id) VALUES (6);
CALL testing.round_trip('strings', 100);
SELECT id, left(a, 20) AS a, b, c, left(d::text, 10) AS d, left(e::text, 20) AS e, left(f, 10) AS f, g, length(a), length(c), octet_length(c), length(e)
FROM strings_v WHERE id <= 7 ORDER BY id;

-- Dates and times.
CREATE TABLE times (id int, a date, b time, c timetz, d timestamp, e timestamptz, f interval, g timestamptz(0), h time(3), i interval day to second(2));
INSERT INTO times VALUES
    (1, 'infinity', '00:00', '00:00+15:59', 'infinity', 'infinity', 'infinity', 'infinity', '0:0:0.123', 'infinity'),
    (2, '-infinity', '24:00', '24:00-15:59', '-infinity', '-infinity', '-infinity', '-infinity', '24:00', '-infinity'),
    (3, '4713-01-01 BC', '23:59:59.999999', '12:00+00', '4713-01-01 00:00 BC', '4713-01-01 00:00+00 BC', '-178000000 years', '0044-03-15 BC', '01:02:03.456', '-1 day 23:59:59.99'),
    (4, '5874897-12-31', '12:34:56.789', '12:34:56.789 +05:45', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', '178000000 years', '2024-02-29 23:59:59+00', '12:00', '99 days'),
    (5, '2000-01-01', '00:00:00.000001', '00:00+00', '2000-01-01', '2000-01-01 00:00+00', '0', '2000-01-01', '00:00', '0'),
    (6, '1999-12-31', '06:00', '06:00-08', '1999-12-31 23:59:59.999999', '1999-12-31 23:59:59.999999+00', '1 mon', '1970-01-01', '00:00:00.001', '0.01 s'),
    (7, '2024-02-29', '18:00', '18:00+05:30', '2024-03-10 02:30', '2024-11-03 01:30-07', '30 days', '2024-11-03 01:30-08', '23:59:59.999', '-1 us'),
    (8, '1582-10-15', '18:00', '18:00-05:30', '1582-10-15', '1582-10-15 00:00+00', '720:00:00', '1582-10-15', '12:12:12.12', '1 day -1 s');
INSERT INTO times (id) VALUES (9);
CALL testing.round_trip('times', 100);
SELECT * FROM times_v WHERE id <= 9 ORDER BY id;
-- A month, 30 days and 720 hours are equal, and yet not the same.
SELECT count(*), count(DISTINCT f) FROM times_v WHERE f = '1 mon';
SELECT f::text, count(*) FROM times_v WHERE f = '1 mon' GROUP BY f::text ORDER BY 1;

-- Networks, uuid, bits.
CREATE TABLE nets (id int, a inet, b cidr, c macaddr, d macaddr8, e uuid, f bit(9), g varbit, h bit varying(5), i bit);
INSERT INTO nets VALUES
    (1, '0.0.0.0/0', '0.0.0.0/0', '00:00:00:00:00:00', '00:00:00:00:00:00:00:00', '00000000-0000-0000-0000-000000000000', B'000000000', '', '', B'0'),
    (2, '255.255.255.255', '192.168.0.0/24', 'ff:ff:ff:ff:ff:ff', 'ff:ff:ff:ff:ff:ff:ff:ff', 'ffffffff-ffff-ffff-ffff-ffffffffffff', B'111111111', B'1', B'10101', B'1'),
    (3, '10.1.2.3/8', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '123e4567-e89b-12d3-a456-426614174000', B'101010101', repeat('10', 500)::varbit, B'0', B'1'),
    (4, '::1', '2001:db8::/32', '08:00:2b:01:02:04', '08:00:2b:01:02:03:04:06', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', B'000000001', B'0000000', B'00000', B'0'),
    (5, '2001:db8:ffff::1/48', '::/0', '00:00:00:00:00:01', '00:00:00:00:00:00:00:01', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12', B'100000000', B'00000000', B'1', B'1');
INSERT INTO nets (id) VALUES (6);
CALL testing.round_trip('nets', 100);
SELECT id, a, b, c, d, e, f, left(g::text, 12) AS g, length(g), h, i FROM nets_v WHERE id <= 6 ORDER BY id;

-- JSON, XML, text search. json keeps its text, jsonb its meaning.
CREATE TABLE docs (id int, a json, b jsonb, c xml, d tsvector, e tsquery, f jsonpath);
INSERT INTO docs VALUES
    (1, '{"b" :  1, "a":[1, 2.50,null], "b":2}', '{"b" :  1, "a":[1, 2.50,null], "b":2}', '<a x="1"><b/>t</a>', 'a:1A fat:2B,4C cat:5D', 'fat & (rat | cat:AB*)', '$.a[*] ? (@ > 1)'),
    (2, 'null', 'null', 'text only', '', '', '$'), (3, '[]', '{}', '<e/>', 'x', '!x', 'strict $[last]'), (4, '""', '"\u00e9 🦀"', '<ü>é</ü>', '''it''''s'' wörter:3', 'a <-> b', '$."a b"'),
    (5, '1e400', '1e400', '<!-- c -->', to_tsvector('simple', repeat('lorem ipsum ', 50)), 'a <3> b', 'lax $.*'),
    (7, (SELECT json_agg(i) FROM generate_series(1, 300) i), (SELECT jsonb_object_agg('k' || i, i) FROM generate_series(1, 300) i), xmlparse(DOCUMENT '<r>' || repeat('<c>x</c>', 100) || '</r>'), NULL, NULL, NULL);
INSERT INTO docs (id) VALUES (6);
CALL testing.round_trip('docs', 60);
SELECT id, left(a::text, 40) AS a, left(b::text, 40) AS b, left(c::text, 20) AS c, left(d::text, 30) AS d, e, f FROM docs_v WHERE id <= 7 ORDER BY id;
SELECT count(*) FROM docs_v WHERE b @> '{"a": [1]}';
SELECT count(*) FROM docs_v WHERE d @@ 'fat & cat'::tsquery;

-- Geometry.
CREATE TABLE shapes (id int, a point, b line, c lseg, d box, e path, f polygon, g circle);
INSERT INTO shapes VALUES
    (1, '(0,0)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))', '<(0,0),1>'),
    (2, '(-0,NaN)', '{-1,0,0}', '[(-1e300,1e-300),(Infinity,0)]', '(1e10,1e10),(-1e10,-1e10)', '((0,0))', '((1,1))', '<(1,2),0>'),
    (4, '(1.5,-2.5)', '{0,-1,5}', '[(1,2),(3,4)]', '(3,4),(1,2)', (SELECT ('[' || string_agg(format('(%s,%s)', i, i * i), ',') || ']')::path FROM generate_series(1, 200) i), '((0,0),(0,1),(1,1),(1,0))', '<(-1,-1),1e100>');
INSERT INTO shapes (id) VALUES (3);
CALL testing.round_trip('shapes', 100);
SELECT id, a, b, c, d, left(e::text, 30) AS e, f, g FROM shapes_v WHERE id <= 4 ORDER BY id;

-- Ranges and multiranges.
CREATE TABLE ranges (id int, a int4range, b int8range, c numrange, d tsrange, e tstzrange, f daterange,
    g int4multirange, h nummultirange, i tstzmultirange, j datemultirange);
INSERT INTO ranges VALUES
    (1, 'empty', 'empty', 'empty', 'empty', 'empty', 'empty', '{}', '{}', '{}', '{}'),
    (2, '(,)', '(,)', '(,)', '(,)', '(,)', '(,)', '{(,)}', '{(,)}', '{(,)}', '{(,)}'),
    (3, '[1,10]', '[1,)', '(1.50,2.5]', '[2000-01-01,infinity)', '(2000-01-01 00:00+00,infinity]', '(,2000-01-01)', '{[1,2],[5,6]}', '{(1.10,1.2),[3,)}', '{[2000-01-01 00:00+00,2001-01-01 00:00+00)}', '{(,2000-01-01),[2001-01-01,)}'),
    (5, '[-2147483648,2147483647)', '(,-1]', '[NaN,NaN]', '[2000-01-01,2000-01-01]', '[-infinity,2000-01-01 00:00+00]', '[2000-01-01,2000-01-01]', (SELECT range_agg(int4range(i * 10, i * 10 + 5)) FROM generate_series(1, 100) i), '{[0,0]}', NULL, NULL);
INSERT INTO ranges (id) VALUES (4);
CALL testing.round_trip('ranges', 100);
SELECT id, a, b, c, d, e, f FROM ranges_v WHERE id <= 5 ORDER BY id;
SELECT id, left(g::text, 30) AS g, h, i, j FROM ranges_v WHERE id <= 5 ORDER BY id;

-- Arrays: of many dimensions, with other lower bounds, with NULLs, empty, of long things.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE arrays (id int, a int[], b text[], c float8[], d numeric[], e timestamptz[], f bool[], g mood[], h jsonb[], i point[], j name[], k int2vector, l oidvector, m bytea[], n interval[]);
INSERT INTO arrays VALUES
    (1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '', '', '{}', '{}'),
    (2, '{1,NULL,3}', '{a,NULL,"NULL","",häß}', '{NaN,-0,Infinity}', '{1.0,1.00,NaN}', '{infinity,2000-01-01 00:00+00}', '{t,f,NULL}', '{happy,sad}', '{"{\"a\":1}",null}', '{"(1,2)","(3,4)"}', '{n,NULL}', '1 2 3', '4 5', '{"\\x00",NULL}', '{"1 mon","30 days"}'),
    (3, '[-1:0][5:6]={{1,2},{3,4}}', '{{{a,b}},{{c,d}}}', '[0:1]={1,2}', '{{1},{NULL}}', NULL, '{{t},{f}}', '[7:7]={ok}', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, array_fill(7, '{100,100}'), array_fill(repeat('x', 100), '{200}'), array_fill(0.5::float8, '{2,3,4}'), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, array_fill('\xabcd'::bytea, '{3}'), NULL);
INSERT INTO arrays (id) VALUES (5);
CALL testing.round_trip('arrays', 50);
SELECT id, left(a::text, 30) AS a, left(b::text, 40) AS b, left(c::text, 30) AS c, d, e, f, g FROM arrays_v WHERE id <= 5 ORDER BY id;
SELECT id, h, i, j, k, l, m, n, array_dims(a) AS dims FROM arrays_v WHERE id <= 5 ORDER BY id;

-- Types made here: enum, composite, nested, domains over every kind, a range of one's own.
CREATE TYPE pair AS (x int, y text);
CREATE TYPE nested AS (p pair, q pair[], r numeric, s mood);
CREATE TYPE float_range AS RANGE (subtype = float8);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN short AS varchar(5) NOT NULL;
CREATE DOMAIN moods AS mood[] CHECK (cardinality(VALUE) < 5);
CREATE DOMAIN a_pair AS pair CHECK ((VALUE).x IS DISTINCT FROM 13);
CREATE DOMAIN a_range AS int4range;
CREATE DOMAIN a_price AS numeric(12, 4);
CREATE DOMAIN of_domain AS a_price DEFAULT 1;
CREATE TABLE own (id int, a mood, b pair, c nested, d float_range, e float_multirange, f positive, g short, h moods, i a_pair, j a_range, k of_domain, l a_pair[], m positive[], n pair[]);
INSERT INTO own VALUES
    (1, 'sad', '(1,a)', '("(2,b)","{""(3,c)"",""(,)"",NULL}",1.50,happy)', '[0.5,1.5)', '{[0,1),[2,3)}', 1, 'a', '{sad,NULL}', '(1,"x y")', '[1,2)', 1.5, '{"(1,a)",NULL}', '{1,2}', '{"(1,\"a,b\")"}'),
    (2, 'happy', '(,)', '(,,,)', 'empty', '{}', 2147483647, '', '{}', '(,)', 'empty', 'NaN', '{}', '{}', '{}'),
    (3, NULL, NULL, NULL, NULL, NULL, NULL, 'äöüßé', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, 'ok', ROW(5, repeat('long', 1000))::pair, ROW(NULL, array_fill(ROW(1, repeat('y', 50))::pair, '{100}'), 'NaN', 'ok')::nested, '(,)', NULL, 7, 'b', '{happy}', NULL, NULL, 0, NULL, NULL, NULL);
CALL testing.round_trip('own', 60);
SELECT id, a, left(b::text, 20) AS b, left(c::text, 50) AS c, d, e, f, g, h, i, j, k, l, m, n FROM own_v WHERE id <= 4 ORDER BY id;
SELECT (b).x, (c).p.y, count(*) FROM own_v GROUP BY 1, 2 ORDER BY 1, 2;
-- A value of an enum that came after the freeze, and renaming one that is frozen.
ALTER TYPE mood ADD VALUE 'meh' BEFORE 'ok';
ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
SELECT a, count(*) FROM own_v GROUP BY a ORDER BY a;
-- A composite type that grows after the freeze.
ALTER TYPE pair ADD ATTRIBUTE z int;
ALTER TYPE pair RENAME ATTRIBUTE y TO why;
SELECT id, left(b::text, 20) AS b, (b).z, left((b).why, 5) AS why, i, n FROM own_v WHERE id <= 4 ORDER BY id;

-- Names of objects.
CREATE TABLE names (id int, a regclass, b regtype, c regproc, d regprocedure, e regoper, f regoperator, g regrole, h regnamespace, i regconfig, j regdictionary, k regcollation, l aclitem, m aclitem[], n pg_snapshot, o refcursor);
INSERT INTO names VALUES
    (1, 'pg_class', 'int4', 'now', 'length(text)', '|/', '+(int4,int4)', 'pg_monitor', 'pg_catalog', 'simple', 'simple', '"C"', makeaclitem('pg_monitor'::regrole, 'pg_monitor'::regrole, 'SELECT', true), '{pg_monitor=r/pg_monitor}', '10:20:10,14,15', 'cur'),
    (2, 'pg_proc', 'text[]', 'timeofday', 'now()', '|/', '-(int8,int8)', 'pg_monitor', 'pg_toast', 'simple', 'simple', '"default"', NULL, NULL, '1:1:', ''), (4, '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', NULL, '{}', NULL, NULL);
INSERT INTO names (id) VALUES (3);
CALL testing.round_trip('names', 100);
SELECT * FROM names_v WHERE id <= 4 ORDER BY id;

-- Large values: compressed in line, out of line, both; by all methods and storages; beyond a megabyte.
CREATE TABLE large (id int, a text, b text STORAGE EXTERNAL, c text STORAGE MAIN, d bytea STORAGE EXTERNAL, e jsonb, f text COMPRESSION pglz, g text STORAGE PLAIN, h int[]);
CREATE FUNCTION noise(bytes int, seed int) RETURNS text LANGUAGE sql AS
    $$ SELECT left(string_agg(md5(format('%s/%s', seed, i)), ''), bytes) FROM generate_series(0, bytes / 32) i $$;
INSERT INTO large VALUES
    (1, repeat('compressible ', 1000), repeat('external ', 1000), repeat('main ', 1000), decode(noise(10000, 1), 'hex'), jsonb_build_object('k', noise(9000, 2)), repeat('pglz ', 2000), 'plain', array_fill(3, '{9000}')),
    (2, noise(8193, 3), noise(2100, 4), noise(2000, 5), decode(repeat('00', 20000), 'hex'), jsonb_build_object('k', repeat('j', 9000)), noise(9000, 6), NULL, NULL),
    (3, repeat(noise(1000, 7), 1100), noise(1100000, 8), NULL, decode(noise(2200000, 9), 'hex'), NULL, repeat('z', 2000000), '', (SELECT array_agg((i::bigint * i % 1000003)::int) FROM generate_series(1, 100000) i));
INSERT INTO large (id) VALUES (4);
SELECT id, length(a), length(b), length(d), length(f), cardinality(h) FROM large ORDER BY id;
CALL testing.round_trip('large', 1);
SELECT id, length(a), length(b), length(d), length(f), cardinality(h), md5(a) = md5(b) AS same FROM large_v WHERE id < 1000 ORDER BY id;
-- A row that shares its TOASTed value with an older version of itself.
UPDATE large_v SET c = 'new' WHERE id IN (1, 3);
SELECT testing.freeze('large_v');
UPDATE large SET c = 'new' WHERE id IN (1, 3);
SELECT testing.same('large', 'large_v');
-- Values of frozen rows that are written to another table, and back into the same row.
CREATE TABLE large_copy AS SELECT * FROM large_v;
SELECT testing.same('large', 'large_copy');
UPDATE large_v SET a = a, e = e WHERE id = 1;
UPDATE large_v SET f = b, b = f WHERE id = 2;
UPDATE large SET f = b, b = f WHERE id = 2;
SELECT testing.same('large', 'large_v');
SELECT substr(a, 8000, 20), substr(b, 2000, 10), substring(d FROM 19990 FOR 5) FROM large_v WHERE id = 2;

-- Ordinary data: random, sorted, constant, nearly constant; 70,000 rows, more than one segment.
CREATE TABLE many (id int, t timestamptz, a float8, b int, c text, d numeric(10, 2), e bool, f int8, g text);
SELECT setseed(0.5);
INSERT INTO many SELECT i, '2024-01-01'::timestamptz + i * interval '1 minute', random() * 100, i / 1000, 'symbol' || i % 50,
        round((random() * 1000)::numeric, 2), CASE WHEN i % 7 = 0 THEN NULL ELSE i % 3 = 0 END, CASE WHEN i % 1000 = 0 THEN -i END, CASE WHEN i < 69999 THEN 'the same' ELSE 'other' END
    FROM generate_series(1, 70000) i;
CREATE TABLE many_v (LIKE many);
INSERT INTO many_v SELECT * FROM many ORDER BY id;
SELECT testing.freeze('many_v');
SELECT testing.same('many', 'many_v');
SELECT count(*), sum(b), sum(d) = (SELECT sum(d) FROM many) AS d, count(e), sum(f), min(t), max(t) FROM many_v;
SELECT testing.thaw('many_v');
SELECT testing.same('many', 'many_v');

-- Tables of odd shapes: no columns, no rows, only NULLs, 1600 columns.
CREATE TABLE no_columns ();
INSERT INTO no_columns SELECT FROM generate_series(1, 5);
SELECT testing.freeze('no_columns');
SELECT count(*) FROM no_columns;
INSERT INTO no_columns DEFAULT VALUES;
SELECT count(*) FROM no_columns;
SELECT testing.thaw('no_columns');
SELECT count(*) FROM no_columns;
CREATE TABLE no_rows (id int, v text);
SELECT testing.freeze('no_rows');
SELECT * FROM no_rows;
CREATE TABLE only_nulls (id int, v text, w int);
INSERT INTO only_nulls SELECT NULL, NULL, NULL FROM generate_series(1, 100);
SELECT testing.freeze('only_nulls');
SELECT count(*), count(id), count(v), count(w) FROM only_nulls;
DO $$ BEGIN
    EXECUTE (SELECT format('CREATE TABLE wide (%s)', string_agg(format('c%s int', i), ', ')) FROM generate_series(1, 1600) i);
END $$;
INSERT INTO wide (c1, c2, c800, c1600) VALUES (1, 2, 800, 1600), (2, NULL, NULL, NULL), (3, NULL, NULL, -1);
SELECT testing.freeze('wide');
SELECT c1, c2, c3, c800, c1600 FROM wide ORDER BY c1;

SET client_min_messages = warning;
DROP SCHEMA types CASCADE;
