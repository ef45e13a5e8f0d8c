-- Tiering policies: jobs that bring chunks into denser tiers as they age, and drop them in the end.

CREATE FUNCTION varve.note_job(rows bigint, bytes bigint DEFAULT 0)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_note_job';
COMMENT ON FUNCTION varve.note_job(bigint, bigint) IS
    'Called by the command of a job: adds to the rows and bytes that its run is recorded with, in the place of what its statements count';

CREATE FUNCTION varve.chunk_limit(target regclass, age text, time_zone text,
        OUT at timestamptz, OUT at_integer bigint)
    RETURNS record LANGUAGE plpgsql STABLE
AS $$
DECLARE
    d record;
    present timestamptz := pg_catalog.now();
BEGIN
    IF age IS NULL THEN
        RETURN;
    END IF;
    SELECT i.column_type::pg_catalog.oid AS typ, c.integer_now_func_schema AS func_schema, c.integer_now_func AS func INTO d
    FROM pg_catalog.pg_class k
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) k.relnamespace
    JOIN timescaledb_information.dimensions i
        ON i.hypertable_schema OPERATOR(pg_catalog.=) n.nspname AND i.hypertable_name OPERATOR(pg_catalog.=) k.relname
       AND i.dimension_number OPERATOR(pg_catalog.=) 1
    JOIN _timescaledb_catalog.hypertable h
        ON h.schema_name OPERATOR(pg_catalog.=) n.nspname AND h.table_name OPERATOR(pg_catalog.=) k.relname
    JOIN _timescaledb_catalog.dimension c
        ON c.hypertable_id OPERATOR(pg_catalog.=) h.id AND c.column_name OPERATOR(pg_catalog.=) i.column_name
    WHERE k.oid OPERATOR(pg_catalog.=) target;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% has no time dimension', target
            USING ERRCODE = 'wrong_object_type', HINT = 'Chunks age in hypertables; make it one with create_hypertable.';
    END IF;
    IF d.typ OPERATOR(pg_catalog.=) ANY ('{20,21,23}'::pg_catalog.oid[]) THEN
        IF d.func IS NULL THEN
            RAISE EXCEPTION '% has an integer time, and no function that tells the time now', target
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'SELECT set_integer_now_func(...) names one.';
        END IF;
        EXECUTE pg_catalog.format('SELECT %I.%I()', d.func_schema, d.func) INTO at_integer;
        at_integer := at_integer OPERATOR(pg_catalog.-) age::pg_catalog.int8;
    ELSIF age OPERATOR(pg_catalog.~) '^\s*[+-]?[0-9]+\s*$' THEN
        -- It would be taken for seconds.
        RAISE EXCEPTION '% is no interval', age
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name the unit, as in ''7 days''.';
    ELSIF d.typ OPERATOR(pg_catalog.=) 1184::pg_catalog.oid THEN
        at := present OPERATOR(pg_catalog.-) age::pg_catalog.interval;
    ELSE
        -- Times without a zone are taken for those of the policy's; TimescaleDB tells their ranges as if they were UTC.
        at := pg_catalog.timezone('UTC', pg_catalog.timezone(time_zone, present) OPERATOR(pg_catalog.-) age::pg_catalog.interval);
    END IF;
END
$$;
COMMENT ON FUNCTION varve.chunk_limit(regclass, text, text) IS
    'Internal: the end of the ranges of a hypertable''s chunks that are as old as an interval, or as a number for integer time';

CREATE FUNCTION varve.add_tiering_policy(target regclass, warm_after "any" DEFAULT NULL, cold_after "any" DEFAULT NULL,
        archive_after "any" DEFAULT NULL, drop_after "any" DEFAULT NULL, archive_to text DEFAULT NULL,
        schedule text DEFAULT '1 hour', time_zone text DEFAULT NULL, refreeze_at float8 DEFAULT 0.05)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_add_tiering_policy';
COMMENT ON FUNCTION varve.add_tiering_policy(regclass, "any", "any", "any", "any", text, text, text, float8) IS
    'Adds a job that freezes chunks when they have come to an age, refreezes them where this share of their rows lies in the delta, and drops them';

CREATE FUNCTION varve.remove_tiering_policy(target regclass)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_remove_tiering_policy';
COMMENT ON FUNCTION varve.remove_tiering_policy(regclass) IS 'Removes the policy; chunks stay as they are';

CREATE FUNCTION varve.next_step(tier text, rows bigint, delta_rows bigint, segments int, wanted text, refreeze_at float8)
    RETURNS text LANGUAGE sql IMMUTABLE
    RETURN CASE
        -- A policy brings chunks into denser tiers only.
        WHEN tier = 'hot' OR tier = 'warm' AND wanted = 'cold' THEN wanted
        WHEN delta_rows > greatest(1000, rows * refreeze_at) OR segments > 4 + 2 * ceil(rows / 65536.0) THEN tier
    END;
COMMENT ON FUNCTION varve.next_step(text, bigint, bigint, int, text, float8) IS
    'Internal: the tier that a chunk is to be brought into, or frozen anew for; NULL where it is well as it is';

CREATE PROCEDURE varve.run_tiering_policy(job bigint)
    LANGUAGE plpgsql
AS $$
DECLARE
    policy record;
    warm record;
    cold record;
    gone record;
    c record;
    s record;
    step text;
    wait text := pg_catalog.current_setting('varve.lock_timeout');
    failed bigint := 0;
    state text;
    message text;
    detail text;
    hint text;
BEGIN
    SELECT j.subject, j.settings, j.time_zone, j.owner INTO policy FROM varve.jobs j WHERE j.id OPERATOR(pg_catalog.=) job AND j.kind OPERATOR(pg_catalog.=) 'tiering';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % is no tiering policy', job
            USING ERRCODE = 'undefined_object', HINT = 'SELECT id, kind FROM varve.jobs lists the jobs.';
    END IF;
    -- The table's owner chooses what is called on the way (the function that tells an integer time now).
    IF policy.owner::pg_catalog.text OPERATOR(pg_catalog.<>) pg_catalog.quote_ident(current_user) THEN
        RAISE EXCEPTION 'job % is run as its owner only', job
            USING ERRCODE = 'insufficient_privilege', HINT = pg_catalog.format('SELECT varve.run_job(%s) runs it so.', job);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class k WHERE k.oid OPERATOR(pg_catalog.=) policy.subject) THEN
        PERFORM varve.remove_job(job);
        RETURN;
    END IF;
    SELECT * INTO warm FROM varve.chunk_limit(policy.subject, policy.settings ->> 'warm_after', policy.time_zone);
    SELECT * INTO cold FROM varve.chunk_limit(policy.subject, policy.settings ->> 'cold_after', policy.time_zone);
    SELECT * INTO gone FROM varve.chunk_limit(policy.subject, policy.settings ->> 'drop_after', policy.time_zone);
    FOR c IN
        SELECT r.chunk, r.range_end, r.range_end_integer FROM varve.chunk_ranges(policy.subject) r
        ORDER BY r.range_start, r.range_start_integer, r.chunk::pg_catalog.oid
    LOOP
        BEGIN
            -- Not for the freeze, which keeps to the setting by itself.
            PERFORM pg_catalog.set_config('lock_timeout', wait, true);
            IF c.range_end OPERATOR(pg_catalog.<=) gone.at OR c.range_end_integer OPERATOR(pg_catalog.<=) gone.at_integer THEN
                EXECUTE pg_catalog.format('DROP TABLE %s', c.chunk);
            ELSE
                step := CASE
                    WHEN c.range_end OPERATOR(pg_catalog.<=) cold.at OR c.range_end_integer OPERATOR(pg_catalog.<=) cold.at_integer THEN 'cold'
                    WHEN c.range_end OPERATOR(pg_catalog.<=) warm.at OR c.range_end_integer OPERATOR(pg_catalog.<=) warm.at_integer THEN 'warm' END;
                IF step IS NOT NULL THEN
                    SELECT * INTO s FROM varve.chunk_stats(c.chunk);
                    step := varve.next_step(s.tier, s.rows, s.delta_rows, s.segments, step, (policy.settings ->> 'refreeze_at')::pg_catalog.float8);
                END IF;
                IF step IS NOT NULL THEN
                    PERFORM varve.set_tier(c.chunk, step);
                    SELECT * INTO s FROM varve.chunk_stats(c.chunk);
                    PERFORM varve.note_job(s.rows, s.bytes_now);
                END IF;
            END IF;
        EXCEPTION
            WHEN query_canceled OR admin_shutdown THEN
                RAISE;
            WHEN OTHERS THEN
                -- A chunk that was dropped meanwhile is none of our business any more. Others are not held up by one that fails.
                IF EXISTS (SELECT FROM pg_catalog.pg_class k WHERE k.oid OPERATOR(pg_catalog.=) c.chunk) THEN
                    IF failed OPERATOR(pg_catalog.=) 0 THEN
                        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
                            detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
                        message := pg_catalog.format('%s: %s', c.chunk, message);
                    END IF;
                    failed := failed OPERATOR(pg_catalog.+) 1;
                END IF;
        END;
        COMMIT;
    END LOOP;
    IF failed OPERATOR(pg_catalog.>) 0 THEN
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = message,
            DETAIL = pg_catalog.concat_ws(' ', nullif(detail, ''), pg_catalog.format('%s chunks of %s failed; this was the first.', failed, policy.subject)),
            HINT = hint;
    END IF;
END
$$;
COMMENT ON PROCEDURE varve.run_tiering_policy(bigint) IS
    'The command of a tiering policy''s job: the oldest chunk first, a transaction for each';
