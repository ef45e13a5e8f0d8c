-- Jobs and tiering policies: what is refused, and what is shown. They do not run here: varve.max_workers is 0.
CREATE SCHEMA jobs;
SET search_path = jobs, public, varve;
SET timezone = 'UTC';
SET client_min_messages = warning;
SELECT add_job('a', '0 3 * * *', 'SELECT 1') > 0 AS added;
SET client_min_messages = error;
SELECT id AS a FROM jobs WHERE name = 'a' \gset
SELECT name, schedule, time_zone, command, owner = current_user::regrole AS mine, enabled, timeout, retries, backoff, jitter, next_run > now() AS later, running, last_state FROM jobs;
-- Schedules.
SELECT add_job('x', '* * * *', 'SELECT 1');
SELECT add_job('x', '*/5 * * * x', 'SELECT 1');
SELECT add_job('x', '61 * * * *', 'SELECT 1');
SELECT add_job('x', '0 0 31 2 *', 'SELECT 1');
SELECT add_job('x', '-5 minutes', 'SELECT 1');
SELECT add_job('x', '10 ms', 'SELECT 1');
SELECT add_job('x', 'infinity', 'SELECT 1');
SELECT add_job('x', 'often', 'SELECT 1');
SELECT add_job('x', '', 'SELECT 1');
SELECT add_job('x', '1 day', 'SELECT 1', time_zone => 'Mars/Olympus');
-- Other arguments.
SELECT add_job('x', '1 day', 'SELEC 1');
SELECT add_job('x', '1 day', '');
SELECT add_job('x', '1 day', '-- nothing');
SELECT add_job(' ', '1 day', 'SELECT 1');
SELECT add_job(NULL, '1 day', 'SELECT 1');
SELECT add_job('x', NULL, 'SELECT 1');
SELECT add_job('x', '1 day', NULL);
SELECT add_job('x', '1 day', 'SELECT 1', retries => -1);
SELECT add_job('x', '1 day', 'SELECT 1', backoff => '-1 second');
SELECT add_job('x', '1 day', 'SELECT 1', timeout => '1000000 years');
SELECT add_job('x', '1 day', 'SELECT 1', jitter => '-1 day');
\set VERBOSITY terse
SELECT add_job('a', '1 day', 'SELECT 1');
\set VERBOSITY default
SELECT alter_job(0, enabled => false);
SELECT alter_job(NULL, enabled => false);
SELECT alter_job(:a, schedule => 'never');
SELECT alter_job(:a, command => 'SELECT');
SELECT alter_job(:a, command => 'SELEC');
SELECT remove_job(0);
SELECT varve.run_job(0);
SELECT varve.run_job(:a);
-- When a job is due.
CREATE FUNCTION due(schedule text, zone text, begin timestamptz) RETURNS timestamptz LANGUAGE sql AS $$
    SELECT alter_job(j.id, schedule => due.schedule, time_zone => zone, first_run => begin) FROM jobs j WHERE name = 'a';
    SELECT next_run FROM jobs WHERE name = 'a' $$;
SELECT due('1 day', 'UTC', '2100-01-01 03:00Z');
SELECT due('1 day', 'UTC', date_trunc('day', now()) - interval '30 days 12 hours') = date_trunc('day', now()) + interval '12 hours' + CASE WHEN now()::time >= '12:00' THEN interval '1 day' ELSE interval '0' END AS next_noon;
SELECT due('1 month', 'UTC', date_trunc('month', now()) - interval '100 years') = date_trunc('month', now()) + interval '1 month' AS next_month;
SELECT due('@yearly', 'America/New_York', NULL) = timezone('America/New_York', date_trunc('year', timezone('America/New_York', now())) + interval '1 year') AS next_year;
SELECT extract(dow FROM d) AS dow, extract(hour FROM d) AS hour FROM timezone('Asia/Tokyo', due('0 15 17 * * FRI', 'Asia/Tokyo', NULL)) d;
SELECT alter_job(:a, name => 'b', enabled => false, timeout => '1 hour', retries => 0, jitter => '5 seconds', command => 'SELECT 2');
SELECT name, command, enabled, timeout, retries, jitter, next_run FROM jobs;
SELECT alter_job(:a, timeout => '0');
SELECT timeout FROM jobs;
SELECT remove_job(:a);
SELECT count(*) FROM jobs;
SELECT count(*) FROM job_state;

-- Policies.
CREATE TABLE prices (symbol text, ts timestamptz, close float8, PRIMARY KEY (symbol, ts));
SELECT add_tiering_policy('prices', warm_after => '7 days');
SELECT table_name FROM create_hypertable('prices', 'ts');
SELECT add_tiering_policy('prices', warm_after => '7 days');
SELECT enable('prices');
SELECT add_tiering_policy('prices');
SELECT add_tiering_policy(NULL, warm_after => '7 days');
\set VERBOSITY terse
SELECT add_tiering_policy('prices', warm_after => 'soon');
SELECT add_tiering_policy('prices', warm_after => 7);
\set VERBOSITY default
SELECT add_tiering_policy('prices', warm_after => '7 days', cold_after => '1 day');
SELECT add_tiering_policy('prices', cold_after => '7 days', drop_after => interval '7 days');
SELECT add_tiering_policy('prices', archive_after => '1 year');
SELECT add_tiering_policy('prices', warm_after => '7 days', archive_to => 'primary');
SELECT add_tiering_policy('prices', warm_after => '7 days', schedule => 'x');
SELECT add_tiering_policy('prices', warm_after => '7 days', refreeze_at => 0);
SELECT add_tiering_policy('prices', warm_after => '7 days', refreeze_at => 'NaN');
SELECT remove_tiering_policy('prices');
SELECT add_tiering_policy('prices', warm_after => '7 days', drop_after => interval '7 years') > 0 AS added;
SELECT add_tiering_policy('prices', warm_after => '7 days');
SELECT name, kind, subject, settings, regexp_replace(command, '\d+', 'N') AS command FROM jobs;
SELECT remove_tiering_policy('prices');
SELECT count(*) FROM jobs;
CALL run_tiering_policy(0);
CREATE TABLE numbers (k int, t bigint, PRIMARY KEY (k, t));
SELECT table_name FROM create_hypertable('numbers', 't', chunk_time_interval => 1000);
SELECT enable('numbers');
\set VERBOSITY terse
SELECT add_tiering_policy('numbers', warm_after => 1000);
\set VERBOSITY default
CREATE FUNCTION numbers_now() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT 5000::bigint';
SELECT set_integer_now_func('numbers', 'numbers_now');
\set VERBOSITY terse
SELECT add_tiering_policy('numbers', warm_after => '7 days');
\set VERBOSITY default
SELECT add_tiering_policy('numbers', warm_after => 1000, drop_after => 500);
SELECT add_tiering_policy('numbers', warm_after => 1000, drop_after => '3000') > 0 AS added;
-- A policy of somebody else's table.
CREATE ROLE jobs_other;
GRANT USAGE ON SCHEMA jobs TO jobs_other;
SET ROLE jobs_other;
SELECT add_tiering_policy('numbers', warm_after => 1000);
SELECT remove_tiering_policy('numbers');
SELECT count(*) FROM jobs;
RESET ROLE;
REVOKE USAGE ON SCHEMA jobs FROM jobs_other;
DROP ROLE jobs_other;
SELECT remove_tiering_policy('numbers');
SET client_min_messages = warning;
DROP SCHEMA jobs CASCADE;
