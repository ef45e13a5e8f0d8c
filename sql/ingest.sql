-- Upsert.

CREATE TYPE varve.upsert_summary AS (
    rows_in bigint, inserted bigint, updated bigint, unchanged bigint, duplicates bigint
);
COMMENT ON TYPE varve.upsert_summary IS
    'What became of a batch: rows_in = inserted + updated + unchanged + duplicates';

CREATE FUNCTION varve.upsert(target regclass, source regclass, key name[] DEFAULT NULL,
        on_conflict text DEFAULT 'update', dedup_window interval DEFAULT NULL, skip_unchanged boolean DEFAULT true)
    RETURNS varve.upsert_summary LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_upsert';
COMMENT ON FUNCTION varve.upsert(regclass, regclass, name[], text, interval, boolean) IS
    'Inserts the rows of a relation into a table, or updates the rows with the same key; columns are matched by name';

CREATE FUNCTION varve.upsert_query(target regclass, query text, key name[] DEFAULT NULL,
        on_conflict text DEFAULT 'update', dedup_window interval DEFAULT NULL, skip_unchanged boolean DEFAULT true)
    RETURNS varve.upsert_summary LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_upsert_query';
COMMENT ON FUNCTION varve.upsert_query(regclass, text, name[], text, interval, boolean) IS
    'As varve.upsert, for the rows of a query';

CREATE FUNCTION varve.upsert_rows(target regclass, rows anyarray, key name[] DEFAULT NULL,
        on_conflict text DEFAULT 'update', dedup_window interval DEFAULT NULL, skip_unchanged boolean DEFAULT true)
    RETURNS varve.upsert_summary LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_upsert_rows';
COMMENT ON FUNCTION varve.upsert_rows(regclass, anyarray, name[], text, interval, boolean) IS
    'As varve.upsert, for an array of rows';

CREATE FUNCTION varve.upsert_json(target regclass, rows jsonb, key name[] DEFAULT NULL,
        on_conflict text DEFAULT 'update', dedup_window interval DEFAULT NULL, skip_unchanged boolean DEFAULT true)
    RETURNS varve.upsert_summary LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_upsert_json';
COMMENT ON FUNCTION varve.upsert_json(regclass, jsonb, name[], text, interval, boolean) IS
    'As varve.upsert, for a JSON array of objects; a column that an object lacks keeps its stored value';

CREATE FUNCTION varve.note_update()
    RETURNS boolean LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_note_update';
COMMENT ON FUNCTION varve.note_update() IS 'Internal: counts a row that the running upsert updates';

CREATE FUNCTION varve.kept_at_step(state timestamptz, at timestamptz, stored boolean, win interval)
    RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN stored OR state IS NULL OR at OPERATOR(pg_catalog.>) (state OPERATOR(pg_catalog.+) win)
                THEN at ELSE state END;
COMMENT ON FUNCTION varve.kept_at_step(timestamptz, timestamptz, boolean, interval) IS 'Internal: step of varve.kept_at';
CREATE FUNCTION varve.kept_at_step(state timestamp, at timestamp, stored boolean, win interval)
    RETURNS timestamp LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN stored OR state IS NULL OR at OPERATOR(pg_catalog.>) (state OPERATOR(pg_catalog.+) win)
                THEN at ELSE state END;
COMMENT ON FUNCTION varve.kept_at_step(timestamp, timestamp, boolean, interval) IS 'Internal: step of varve.kept_at';

CREATE AGGREGATE varve.kept_at(timestamptz, boolean, interval) (
    SFUNC = varve.kept_at_step, STYPE = timestamptz, PARALLEL = SAFE
);
COMMENT ON AGGREGATE varve.kept_at(timestamptz, boolean, interval) IS
    'Internal: over rows in the order of time, when the last one was kept that dedup_window keeps';
CREATE AGGREGATE varve.kept_at(timestamp, boolean, interval) (
    SFUNC = varve.kept_at_step, STYPE = timestamp, PARALLEL = SAFE
);
COMMENT ON AGGREGATE varve.kept_at(timestamp, boolean, interval) IS
    'Internal: over rows in the order of time, when the last one was kept that dedup_window keeps';

CREATE FUNCTION varve.last_upsert()
    RETURNS varve.upsert_summary LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'varve_last_upsert';
COMMENT ON FUNCTION varve.last_upsert() IS
    'What became of the last batch of this session: of a call of varve.upsert and its kin, or of a COPY or INSERT into a sink';

CREATE FUNCTION varve.sink()
    RETURNS trigger LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_sink';
COMMENT ON FUNCTION varve.sink() IS 'Internal: the triggers of a sink';

CREATE FUNCTION varve.create_sink(name text, target regclass, key name[] DEFAULT NULL,
        on_conflict text DEFAULT 'update', dedup_window interval DEFAULT NULL, skip_unchanged boolean DEFAULT true,
        tier text DEFAULT NULL)
    RETURNS regclass LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_create_sink';
COMMENT ON FUNCTION varve.create_sink(text, regclass, name[], text, interval, boolean, text) IS
    'Makes a view: rows that are copied or inserted into it are upserted into the table; DROP VIEW removes it';

CREATE FUNCTION varve.deduplicate(target regclass, time_window interval, key name[] DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_deduplicate';
COMMENT ON FUNCTION varve.deduplicate(regclass, interval, name[]) IS
    'Deletes rows whose payload equals that of a row of the same key, time left out, that is kept within this time before them; returns how many';
