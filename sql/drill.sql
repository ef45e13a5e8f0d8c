-- Recovery drills: what backups are worth is tried, measured, and written down.

CREATE TABLE varve.drill (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at      timestamptz NOT NULL,
    finished_at     timestamptz NOT NULL,
    backup          text,
    target_time     timestamptz,
    ok              boolean NOT NULL,
    rto             interval,
    rpo             interval,
    restore_seconds double precision,
    replay_seconds  double precision,
    restored_bytes  bigint,
    replayed_bytes  bigint,
    tables_checked  bigint NOT NULL,
    tables_wrong    bigint NOT NULL,
    detail          jsonb NOT NULL,
    error           text
);
COMMENT ON TABLE varve.drill IS 'Recovery drills, good or bad; what was cancelled or cut off was not good';
COMMENT ON COLUMN varve.drill.target_time IS 'The moment that was recovered to; NULL for the end of what was archived';
COMMENT ON COLUMN varve.drill.rto IS 'From the beginning of the restore to the first answer at the target, without the time that counting took';
COMMENT ON COLUMN varve.drill.rpo IS 'What would have been lost if the server had been lost when the drill began; NULL for drills to a moment';
COMMENT ON COLUMN varve.drill.detail IS 'The steps, and the tables that were wrong';

CREATE FUNCTION varve.recount(checks text, OUT relation oid, OUT rows bigint, OUT checksum text, OUT detail text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'recount_wrapper';
COMMENT ON FUNCTION varve.recount(text) IS
    'Internal: counts, on a server that is being restored, the rows of tables as the snapshot of a backup''s record saw them';
REVOKE ALL ON FUNCTION varve.recount(text) FROM PUBLIC;

CREATE FUNCTION varve.recovery_drill(backup text DEFAULT NULL, target_time timestamptz DEFAULT NULL,
        OUT step text, OUT ok boolean, OUT detail text, OUT elapsed interval)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'recovery_drill_wrapper';
COMMENT ON FUNCTION varve.recovery_drill(text, timestamptz) IS
    'Restores a backup beside the running server, replays WAL, compares counts of rows, verifies segments, and records in varve.drill what came of it';
REVOKE ALL ON FUNCTION varve.recovery_drill(text, timestamptz) FROM PUBLIC;

CREATE PROCEDURE varve.run_recovery_drill(backup text DEFAULT NULL, target_time timestamptz DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'varve_run_recovery_drill';
COMMENT ON PROCEDURE varve.run_recovery_drill(text, timestamptz) IS
    'As varve.recovery_drill, but it fails, once that is recorded, where something was wrong, and holds no snapshot that would hold up VACUUM: it commits the transaction it is called in';
REVOKE ALL ON PROCEDURE varve.run_recovery_drill(text, timestamptz) FROM PUBLIC;

CREATE FUNCTION varve.recovery_plan(target_time timestamptz DEFAULT now(), pgdata text DEFAULT NULL,
        OUT step int, OUT action text, OUT command text, OUT estimated interval)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'recovery_plan_wrapper';
COMMENT ON FUNCTION varve.recovery_plan(timestamptz, text) IS
    'What to do, command by command, to have the cluster back as it was at a moment, and how long that takes as far as drills have measured';
REVOKE ALL ON FUNCTION varve.recovery_plan(timestamptz, text) FROM PUBLIC;
