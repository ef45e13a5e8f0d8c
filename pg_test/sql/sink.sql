-- Sinks: what is copied or inserted into them is upserted into their table.
CREATE SCHEMA sink;
SET search_path = sink, public, varve;
CREATE TABLE prices (symbol text, ts timestamptz, close float8 CHECK (close > 0), volume bigint NOT NULL DEFAULT 7,
    twice bigint GENERATED ALWAYS AS (volume * 2) STORED, PRIMARY KEY (symbol, ts));
SELECT table_name FROM create_hypertable('prices', 'ts', chunk_time_interval => interval '1 day');
SELECT create_sink('prices_in', 'prices');
\d prices_in

-- COPY in its formats; of several rows with one key the last wins.
COPY prices_in FROM STDIN;
a	2024-01-01	1	1
b	2024-01-01	2	2
a	2024-01-01	3	3
c	2024-01-02	3	3
\.
SELECT * FROM last_upsert();
TABLE prices ORDER BY 1, 2;
-- A column that is not given keeps its value, or takes its default.
COPY prices_in (symbol, ts, close) FROM STDIN (FORMAT csv, HEADER);
symbol,ts,close
a,2024-01-01,3
b,2024-01-01,5
d,2024-01-03,6
\.
SELECT * FROM last_upsert();
TABLE prices ORDER BY 1, 2;
-- WHERE and ON_ERROR are COPY's own.
COPY prices_in (symbol, ts, close) FROM STDIN (FORMAT csv, ON_ERROR ignore) WHERE close < 100;
a,2024-01-01,3.25
a,2024-01-01,x
e,2024-01-03,200
\.
SELECT * FROM last_upsert();

-- Errors tell the line of the row, wherever it is found: when it is read, or when the batch is written.
-- In a plain table, whose name in messages does not depend on how many chunks there are.
CREATE TABLE plain (symbol text, ts timestamptz, close float8 CHECK (close > 0), volume bigint NOT NULL DEFAULT 7, PRIMARY KEY (symbol, ts));
SELECT create_sink('plain_in', 'plain');
COPY plain_in (symbol, ts, close) FROM STDIN (FORMAT csv, HEADER);
symbol,ts,close
a,2024-01-01,3.5
z,2024-01-01,-5
d,2024-01-03,6
\.
COPY plain_in FROM STDIN (FORMAT csv);
a,2024-01-01,3.5,1
"a
b",2024-01-01,3.5,1
d,2024-01-03,6,
\.
COPY plain_in (symbol, ts, close) FROM STDIN (FORMAT csv);
a,2024-01-01,3.5
d,,6
\.
COPY plain_in (symbol, ts, close) FROM STDIN (FORMAT csv);
a,2024-01-01,3.5
d,someday,6
\.
-- Nothing of them was written.
TABLE plain;

-- INSERT: all rows of a statement are a batch.
INSERT INTO prices_in (symbol, ts, close) VALUES ('a', '2024-01-01', 9), ('q', '2024-01-09', 1), ('a', '2024-01-01', 10)
    RETURNING symbol, close, volume;
SELECT * FROM last_upsert();
INSERT INTO prices_in SELECT 'm', timestamptz '2024-02-01' + i * interval '1 minute', i, i FROM generate_series(1, 5) i;
INSERT INTO prices_in SELECT 'm', timestamptz '2024-02-01' + i * interval '1 minute', i, i FROM generate_series(4, 9) i;
SELECT * FROM last_upsert();
INSERT INTO prices_in SELECT * FROM prices_in WHERE false;
SELECT * FROM last_upsert();
PREPARE one AS INSERT INTO prices_in (symbol, ts, close) VALUES ($1, $2, $3);
EXECUTE one('p', '2024-01-01', 1);
EXECUTE one('p', '2024-01-01', 2);
SELECT * FROM last_upsert();
WITH x AS (INSERT INTO prices_in (symbol, ts) VALUES ('e', '2024-01-01') RETURNING 1)
    INSERT INTO prices_in (symbol, ts, close) VALUES ('f', '2024-01-01', 3);

-- A statement that fails leaves nothing behind, neither rows nor a batch.
DO $$ BEGIN
    BEGIN
        INSERT INTO plain_in VALUES ('e', '2024-01-01', 1, 1), ('e', '2024-01-02', -1, 1);
    EXCEPTION WHEN check_violation THEN RAISE NOTICE 'caught: %', SQLERRM;
    END;
    INSERT INTO prices_in VALUES ('e', '2024-01-01', 2, 1);
END $$;
SELECT * FROM last_upsert();
BEGIN;
INSERT INTO plain_in VALUES ('r', '2024-01-01', 1, 1);
SAVEPOINT s;
INSERT INTO plain_in VALUES ('r', '2024-01-01', -1, 1);
ROLLBACK TO s;
INSERT INTO plain_in VALUES ('r', '2024-01-01', 2, 1);
ROLLBACK;
TABLE plain;
SELECT symbol, close FROM prices WHERE symbol = 'e';

-- The view reads the table, and changes it where it is told to.
UPDATE prices_in SET close = 11 WHERE symbol = 'e';
DELETE FROM prices_in WHERE symbol = 'm';
SELECT symbol, count(*), max(close) FROM prices_in GROUP BY 1 ORDER BY 1;

-- Frozen chunks.
SELECT set_tier(c, 'warm') FROM show_chunks('prices', older_than => timestamptz '2024-01-02') c;
COPY prices_in FROM STDIN;
a	2024-01-01	1	1
n	2024-01-01	2	2
e	2024-01-01	11	1
\.
SELECT * FROM last_upsert();
TABLE prices ORDER BY 1, 2;

-- Options.
SELECT create_sink('sink.only_new', 'prices', on_conflict => 'ignore');
INSERT INTO only_new VALUES ('a', '2024-01-01', 99, 99), ('s', '2024-01-05', 1, 1);
SELECT * FROM last_upsert();
SELECT create_sink('"Strict"', 'plain', key => '{symbol,ts}', on_conflict => 'error');
INSERT INTO "Strict" VALUES ('s', '2024-01-05', 1, 1);
INSERT INTO "Strict" VALUES ('t', '2024-01-05', 1, 1), ('s', '2024-01-05', 1, 1);
SELECT create_sink('windowed', 'prices', dedup_window => interval '1 hour');
INSERT INTO windowed SELECT 'w', timestamptz '2024-03-01' + i * interval '20 minutes', 1, 1 FROM generate_series(0, 8) i;
SELECT * FROM last_upsert();

-- Small memory: a COPY is written in parts, and what they did is added up.
SET varve.upsert_work_mem = '64kB';
INSERT INTO prices_in SELECT 'x' || i % 10, timestamptz '2024-05-01' + i * interval '10 seconds', 1 + i, i FROM generate_series(1, 20000) i;
SELECT * FROM last_upsert();
INSERT INTO prices_in SELECT 'x' || i % 10, timestamptz '2024-05-01' + i * interval '10 seconds', 1 + i + (i % 100 = 0)::int, i FROM generate_series(1, 20000) i;
SELECT * FROM last_upsert();
SELECT count(*), sum(volume), sum(close) FROM prices WHERE symbol LIKE 'x%';
-- The line of an error is that of the row in a part, too.
SELECT current_setting('data_directory') || '/sink.data' AS file \gset
COPY (SELECT 'x' || i % 10, timestamptz '2024-05-01' + i * interval '10 seconds', CASE WHEN i = 777 THEN -1 ELSE 1 END, i FROM generate_series(1, 20000) i) TO :'file';
COPY plain_in FROM :'file';
SELECT count(*) FROM plain WHERE symbol LIKE 'x%';
-- As a batch given at once: sorted on disk.
SELECT * FROM upsert_query('prices', $$SELECT 'x' || i % 10 AS symbol, timestamptz '2024-05-01' + i * interval '10 seconds' AS ts, 5 + i AS close, i AS volume FROM generate_series(1, 30000) i$$);
SELECT count(*), sum(volume), sum(close) FROM prices WHERE symbol LIKE 'x%';
RESET varve.upsert_work_mem;

-- Rights: those of INSERT into the view, and of the caller in the table.
CREATE ROLE regress_sink_user;
GRANT USAGE ON SCHEMA sink, varve TO regress_sink_user;
GRANT INSERT, SELECT ON prices_in TO regress_sink_user;
SET ROLE regress_sink_user;
INSERT INTO prices_in VALUES ('a', '2024-01-01', 1, 1);
SELECT create_sink('mine', 'prices');
RESET ROLE;
GRANT INSERT, SELECT, UPDATE ON prices TO regress_sink_user;
SET ROLE regress_sink_user;
INSERT INTO prices_in VALUES ('a', '2024-01-01', 4, 1);
RESET ROLE;
SELECT * FROM last_upsert();

-- Bad input.
SELECT create_sink('prices_in', 'prices');
SELECT create_sink('no_key', (SELECT 'no_key_table'::regclass));
CREATE TABLE no_key_table (a int);
SELECT create_sink('no_key', 'no_key_table');
SELECT create_sink('a.b.c', 'prices');
SELECT create_sink(NULL, 'prices');
SELECT create_sink('other', 'prices', key => '{close}');
SELECT create_sink('other', 'prices', on_conflict => 'maybe');
SELECT varve.sink();
SET default_transaction_read_only = on;
SELECT create_sink('other', 'prices');
INSERT INTO prices_in VALUES ('a', '2024-01-01', 4, 1);
RESET default_transaction_read_only;
-- A sink goes with its table, when told to.
\set VERBOSITY terse
DROP TABLE prices;
DROP SCHEMA sink CASCADE;
REVOKE ALL ON SCHEMA varve FROM regress_sink_user;
DROP ROLE regress_sink_user;
