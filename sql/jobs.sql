-- Jobs: what they are, when they are due, what became of their runs.

CREATE TABLE varve.job (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    owner      regrole NOT NULL,
    schedule   text NOT NULL,
    time_zone  text NOT NULL,
    command    text NOT NULL,
    enabled    boolean NOT NULL,
    timeout    interval,
    retries    int NOT NULL CHECK (retries >= 0),
    backoff    interval NOT NULL,
    jitter     interval NOT NULL,
    first_run  timestamptz NOT NULL,
    kind       text,
    subject    regclass,
    settings   jsonb
);
COMMENT ON TABLE varve.job IS 'Jobs as they were defined; read varve.jobs';
COMMENT ON COLUMN varve.job.kind IS 'Which of varve''s own policies it is; NULL for others';
COMMENT ON COLUMN varve.job.subject IS 'The table that the policy is of';
SELECT pg_catalog.pg_extension_config_dump('varve.job', '');
SELECT pg_catalog.pg_extension_config_dump(pg_catalog.pg_get_serial_sequence('varve.job', 'id')::regclass, '');

CREATE TABLE varve.job_state (
    job           bigint PRIMARY KEY REFERENCES varve.job ON DELETE CASCADE,
    next_run      timestamptz NOT NULL,
    retry_at      timestamptz,
    retry_due     timestamptz,
    attempt       int NOT NULL DEFAULT 1,
    interruptions int NOT NULL DEFAULT 0,
    logged_error  text,
    logged_at     timestamptz
);
COMMENT ON TABLE varve.job_state IS 'When jobs are due next; made anew after a restore';
COMMENT ON COLUMN varve.job_state.retry_due IS 'When the run was due that is tried again at retry_at';
COMMENT ON COLUMN varve.job_state.interruptions IS 'How often the run was cut off, by a crash say, since it last ended by itself';

CREATE TABLE varve.job_run (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job        bigint NOT NULL,
    job_name   text NOT NULL,
    owner      oid NOT NULL,
    due        timestamptz NOT NULL,
    attempt    int NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz,
    state      text NOT NULL CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled', 'interrupted')),
    rows       bigint,
    bytes      bigint,
    sqlstate   text,
    message    text,
    detail     text,
    hint       text,
    context    text,
    pid        int NOT NULL
);
COMMENT ON TABLE varve.job_run IS 'Runs of jobs, kept for varve.job_history_days; read varve.job_runs';
CREATE INDEX job_run_due ON varve.job_run (job, due, attempt);
CREATE INDEX job_run_started ON varve.job_run (started_at);
-- No partial index, nor one of expressions: records of success are written as those of catalogues are.
CREATE INDEX job_run_ended ON varve.job_run (ended_at);

CREATE FUNCTION varve.jobs_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'varve_jobs_changed';
COMMENT ON FUNCTION varve.jobs_changed() IS 'Internal: tells the launcher, on commit, that jobs have changed';
CREATE TRIGGER jobs_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON varve.job
    FOR EACH STATEMENT EXECUTE FUNCTION varve.jobs_changed();

CREATE FUNCTION varve.wake_launcher() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_wake_launcher';
COMMENT ON FUNCTION varve.wake_launcher() IS 'Internal: has the launcher look, after this commit, what is due in this database';
SELECT varve.wake_launcher();

CREATE FUNCTION varve.may_see_job(owner oid) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN EXISTS (SELECT FROM pg_catalog.pg_roles r
                   WHERE r.oid OPERATOR(pg_catalog.=) owner AND pg_catalog.pg_has_role(r.oid, 'USAGE'))
           OR pg_catalog.pg_has_role('pg_monitor', 'USAGE');
COMMENT ON FUNCTION varve.may_see_job(oid) IS 'Whether the current user sees jobs of a role: his own, those of roles he is in, all as a member of pg_monitor';

CREATE VIEW varve.jobs WITH (security_barrier) AS
SELECT j.id, j.name, j.schedule, j.time_zone, j.command, j.owner, j.enabled,
       j.timeout, j.retries, j.backoff, j.jitter,
       CASE WHEN j.enabled THEN least(s.next_run, s.retry_at) END AS next_run,
       coalesce(r.state = 'running', false) AS running,
       r.started_at AS last_started, r.ended_at AS last_ended, r.state AS last_state, r.message AS last_error,
       j.kind, j.subject, j.settings
FROM varve.job j
LEFT JOIN varve.job_state s ON s.job = j.id
LEFT JOIN LATERAL (SELECT r.* FROM varve.job_run r WHERE r.job = j.id ORDER BY r.due DESC, r.attempt DESC LIMIT 1) r ON true
WHERE varve.may_see_job(j.owner);
COMMENT ON VIEW varve.jobs IS 'Jobs that the current user may see: when they are due, and how their last run ended';

CREATE VIEW varve.job_runs WITH (security_barrier) AS
SELECT r.id, r.job, r.job_name, r.due, r.attempt, r.started_at, r.ended_at,
       coalesce(r.ended_at, pg_catalog.clock_timestamp()) - r.started_at AS duration,
       r.state, r.rows, r.bytes, r.sqlstate, r.message, r.detail, r.hint, r.context, r.pid
FROM varve.job_run r
WHERE varve.may_see_job(r.owner);
COMMENT ON VIEW varve.job_runs IS 'Runs of jobs that the current user may see, kept for varve.job_history_days';
GRANT SELECT ON varve.jobs, varve.job_runs TO PUBLIC;

CREATE FUNCTION varve.add_job(name text, schedule text, command text, time_zone text DEFAULT NULL,
        enabled boolean DEFAULT true, timeout interval DEFAULT NULL, retries int DEFAULT 3,
        backoff interval DEFAULT '30 seconds', jitter interval DEFAULT '0', first_run timestamptz DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_add_job';
COMMENT ON FUNCTION varve.add_job(text, text, text, text, boolean, interval, int, interval, interval, timestamptz) IS
    'Has a command run by itself as the current user, at the times of a cron expression or interval; returns the job''s number';

CREATE FUNCTION varve.alter_job(id bigint, schedule text DEFAULT NULL, command text DEFAULT NULL, time_zone text DEFAULT NULL,
        enabled boolean DEFAULT NULL, timeout interval DEFAULT NULL, retries int DEFAULT NULL,
        backoff interval DEFAULT NULL, jitter interval DEFAULT NULL, first_run timestamptz DEFAULT NULL, name text DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_alter_job';
COMMENT ON FUNCTION varve.alter_job(bigint, text, text, text, boolean, interval, int, interval, interval, timestamptz, text) IS
    'Changes what is given of a job; a timeout of 0 takes the time-out away';

CREATE FUNCTION varve.remove_job(id bigint)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_remove_job';
COMMENT ON FUNCTION varve.remove_job(bigint) IS 'Removes a job; a run that is under way goes on, and the history stays';

CREATE FUNCTION varve.run_job(id bigint, wait boolean DEFAULT true)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_run_job';
COMMENT ON FUNCTION varve.run_job(bigint, boolean) IS
    'Runs a job now, in a worker; waits for its end and fails as it does; returns the number of the run';

CREATE FUNCTION varve.progress_entries(OUT pid int, OUT database oid, OUT relation oid, OUT operation text,
        OUT phase text, OUT unit text, OUT done bigint, OUT total bigint, OUT started_at timestamptz, OUT phase_at timestamptz)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'progress_entries_wrapper';
COMMENT ON FUNCTION varve.progress_entries() IS 'Internal: the rows behind varve.progress that the current user may see';

CREATE VIEW varve.progress AS
SELECT p.pid, d.datname AS database,
       CASE WHEN d.datname = pg_catalog.current_database() AND p.relation <> 0 THEN p.relation::regclass END AS relation,
       p.operation, p.phase, p.done, p.total, p.unit,
       CASE WHEN p.total > 0 THEN round(100.0 * p.done / p.total, 1) END AS percent,
       pg_catalog.clock_timestamp() - p.started_at AS elapsed,
       CASE WHEN p.done > 0 AND p.total >= p.done
            THEN (pg_catalog.clock_timestamp() - p.phase_at) * ((p.total - p.done)::float8 / p.done) END AS phase_left
FROM varve.progress_entries() p
LEFT JOIN pg_catalog.pg_database d ON d.oid = p.database;
COMMENT ON VIEW varve.progress IS 'Long work of varve that goes on: how far it is, and how long its phase will still take';
GRANT SELECT ON varve.progress TO PUBLIC;
