-- varve.deduplicate: rows that repeat another one of their series within a time, on hot and on frozen chunks.
CREATE SCHEMA deduplicate;
SET search_path = deduplicate, public, varve;
SET timezone = 'UTC';
CREATE TABLE ticks (symbol text, ts timestamptz, price float8, note text, PRIMARY KEY (symbol, ts));
SELECT table_name FROM create_hypertable('ticks', 'ts', chunk_time_interval => interval '1 day');
-- Every 10 minutes; the price changes every three hours, and back at the end. Series b has NULLs.
INSERT INTO ticks SELECT s, t, extract(hour FROM t)::int / 3 % 4, CASE WHEN s = 'a' THEN 'x' END
    FROM unnest('{a,b}'::text[]) s, generate_series(timestamptz '2024-01-01', '2024-01-03 23:50', '10 minutes') t;
CREATE TABLE before AS TABLE ticks;

-- What is to remain, worked out row by row: of rows with one payload, those later than the window after the one kept last.
CREATE FUNCTION remaining(win interval) RETURNS SETOF before LANGUAGE plpgsql AS $$
DECLARE r before; last jsonb := '{}'; k text;
BEGIN
    FOR r IN SELECT * FROM before ORDER BY symbol, ts LOOP
        k := concat(r.symbol, '/', r.price, '/', r.note);
        IF last ->> k IS NULL OR r.ts > (last ->> k)::timestamptz + win THEN
            last := last || jsonb_build_object(k, r.ts);
            RETURN NEXT r;
        END IF;
    END LOOP;
END $$;
CREATE FUNCTION wrong(win interval) RETURNS bigint LANGUAGE sql AS
    'SELECT count(*) FROM (SELECT * FROM remaining(win)) r FULL JOIN ticks t USING (symbol, ts) WHERE (r.price, r.note) IS DISTINCT FROM (t.price, t.note) OR r.symbol IS NULL';

BEGIN;
SELECT deduplicate('ticks', interval '60 minutes');
SELECT count(*), wrong('60 minutes') FROM ticks;
SELECT deduplicate('ticks', interval '60 minutes');
ROLLBACK;
-- Across the borders of chunks, on frozen ones, and half thawed.
SELECT enable('ticks');
SELECT set_tier(c, 'warm') FROM show_chunks('ticks', older_than => timestamptz '2024-01-03') c;
UPDATE ticks SET note = note WHERE ts BETWEEN '2024-01-02' AND '2024-01-02 06:00';
BEGIN;
SELECT deduplicate('ticks', time_window => interval '26 hours');
SELECT count(*), wrong('26 hours') FROM ticks;
ROLLBACK;
SELECT deduplicate('ticks', time_window => interval '0');
SELECT deduplicate('ticks', time_window => interval '60 minutes');
SELECT count(*), wrong('60 minutes') FROM ticks;
SELECT symbol, ts, price FROM ticks WHERE symbol = 'a' AND ts < '2024-01-01 07:00' ORDER BY ts;
SELECT ok, count(*) FROM verify('ticks') GROUP BY 1;

-- A table without a key: what tells series apart is named. Rows of one time are told apart by where they lie.
CREATE TABLE loose (at date, device int, v numeric, w float8);
INSERT INTO loose VALUES ('2024-01-01', 1, 1.0, 1), ('2024-01-01', 1, 1.0, 1), ('2024-01-02', 1, 1.00, 1), ('2024-01-03', 1, 1.0, 1),
    ('2024-01-01', 2, 1.0, 1), ('2024-01-02', 2, NULL, 1), ('2024-01-03', 2, NULL, 1), ('2024-01-04', 2, NULL, 0.1 + 0.2), ('2024-01-04', 2, NULL, 0.3);
SELECT deduplicate('loose', '1 day');
SELECT deduplicate('loose', '2 days', key => '{device, at}');
TABLE loose ORDER BY device, at, v, w;

-- Rights are those of DELETE.
CREATE ROLE regress_dedup_user;
GRANT USAGE ON SCHEMA deduplicate, varve TO regress_dedup_user;
GRANT SELECT ON ticks TO regress_dedup_user;
SET ROLE regress_dedup_user;
SELECT deduplicate('ticks', '1 hour');
RESET ROLE;
GRANT DELETE ON ticks TO regress_dedup_user;
SET ROLE regress_dedup_user;
SELECT deduplicate('ticks', '1 hour');
RESET ROLE;

-- Bad input.
SELECT deduplicate('ticks', '-1 hour');
SELECT deduplicate('ticks', NULL);
SELECT deduplicate(NULL, '1 hour');
SELECT deduplicate('ticks', '1 hour', key => '{nothing}');
SELECT deduplicate('loose', '1 hour', key => '{}');
SELECT deduplicate('loose', '1 hour', key => '{at, device}');
CREATE VIEW seen AS TABLE loose;
SELECT deduplicate('seen', '1 hour', key => '{device, at}');
SET default_transaction_read_only = on;
SELECT deduplicate('ticks', '1 hour');
RESET default_transaction_read_only;
\set VERBOSITY terse
DROP SCHEMA deduplicate CASCADE;
REVOKE ALL ON SCHEMA varve FROM regress_dedup_user;
DROP ROLE regress_dedup_user;
