-- Backups that run by themselves, in several stores, and what can be said of them.

CREATE TABLE varve.verification (
    store      text PRIMARY KEY,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL,
    backups    bigint NOT NULL,
    wal_files  bigint NOT NULL,
    bytes      bigint NOT NULL,
    problems   jsonb NOT NULL
);
COMMENT ON TABLE varve.verification IS 'What varve.verify_stores found in each store when it last looked: problems are objects, and what is wrong with them';

CREATE TABLE varve.backup_alert (
    kind      text PRIMARY KEY,
    since     timestamptz NOT NULL,
    logged_at timestamptz NOT NULL
);
COMMENT ON TABLE varve.backup_alert IS 'Alerts of varve.recovery_status that go on, and when the log was last told';

CREATE FUNCTION varve.verify_stores(in_store name DEFAULT NULL, OUT store text, OUT ok boolean, OUT object text, OUT detail text,
        OUT backups bigint, OUT wal_files bigint, OUT bytes bigint)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_stores_wrapper';
COMMENT ON FUNCTION varve.verify_stores(name) IS
    'Reads every backup and every file of WAL in every store, or in one, and names what is damaged or missing; the last row of a store sums up';
REVOKE ALL ON FUNCTION varve.verify_stores(name) FROM PUBLIC;

CREATE FUNCTION varve.copy_backups(source name DEFAULT NULL, target name DEFAULT NULL,
        OUT store text, OUT ok boolean, OUT objects bigint, OUT bytes bigint, OUT elapsed interval, OUT detail text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'copy_backups_wrapper';
COMMENT ON FUNCTION varve.copy_backups(name, name) IS
    'Copies backups and WAL that other stores lack there from the primary store, or from one to one, and compares each object''s SHA-256 when it is written';
REVOKE ALL ON FUNCTION varve.copy_backups(name, name) FROM PUBLIC;

CREATE FUNCTION varve.expire(keep_full int DEFAULT NULL, keep_for interval DEFAULT NULL, remove boolean DEFAULT false,
        OUT store text, OUT kind text, OUT name text, OUT bytes bigint, OUT detail text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'expire_wrapper';
COMMENT ON FUNCTION varve.expire(int, interval, boolean) IS
    'Backups and WAL that are not to be kept any longer, by the number and age of full backups given or the policy''s; removes them only if told so';
REVOKE ALL ON FUNCTION varve.expire(int, interval, boolean) FROM PUBLIC;

CREATE FUNCTION varve.store_state(OUT store text, OUT role text, OUT reachable boolean, OUT detail text, OUT backups bigint,
        OUT newest_backup text, OUT newest_backup_at text, OUT wal_end text, OUT wal_end_at timestamptz,
        OUT missing_backups bigint, OUT missing_wal bigint, OUT missing_bytes bigint, OUT medium text, OUT place text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'store_state_wrapper';
COMMENT ON FUNCTION varve.store_state() IS
    'What each store that the current user may use has, and what it lacks of the primary store; read there';
REVOKE ALL ON FUNCTION varve.store_state() FROM PUBLIC;

CREATE FUNCTION varve.archive_state(OUT important text, OUT waiting bigint, OUT waiting_since timestamptz, OUT medium text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'archive_state_wrapper';
COMMENT ON FUNCTION varve.archive_state() IS
    'Internal: where the last WAL that matters ends, files of WAL that wait to be archived, and where the data directory lies';
REVOKE ALL ON FUNCTION varve.archive_state() FROM PUBLIC;

CREATE VIEW varve.recovery_status AS
WITH s AS MATERIALIZED (
    SELECT t.*, t.newest_backup_at::timestamptz AS at, t.wal_end::pg_lsn AS wal_to FROM varve.store_state() t
), a AS MATERIALIZED (
    SELECT t.important::pg_lsn AS important, t.waiting, t.waiting_since, t.medium FROM varve.archive_state() t
), limits AS (
    SELECT nullif(pg_catalog.current_setting('varve.backup_max_age')::interval, '0') AS backup,
           nullif(pg_catalog.current_setting('varve.wal_max_age')::interval, '0') AS wal,
           nullif(pg_catalog.current_setting('varve.drill_max_age')::interval, '0') AS drill,
           pg_catalog.clock_timestamp() AS present
), b AS (
    SELECT s.newest_backup AS id, s.at FROM s WHERE s.newest_backup IS NOT NULL ORDER BY s.at DESC, s.store LIMIT 1
), w AS (
    SELECT s.wal_to, s.wal_end_at AS at FROM s WHERE s.role = 'primary' AND s.wal_to IS NOT NULL ORDER BY s.wal_end_at DESC, s.store LIMIT 1
), d AS (
    SELECT t.finished_at, t.ok, t.error FROM varve.drill t WHERE t.finished_at IS NOT NULL ORDER BY t.finished_at DESC, t.id DESC LIMIT 1
), passed AS (
    SELECT t.finished_at, t.rto FROM varve.drill t WHERE t.ok ORDER BY t.finished_at DESC, t.id DESC LIMIT 1
), v AS (
    SELECT min(t.ended_at) AS at, coalesce(sum(pg_catalog.jsonb_array_length(t.problems)), 0)::bigint AS problems
    FROM varve.verification t JOIN s ON s.store = t.store
), whole AS (
    -- What alone is enough to recover from, with not too old a backup. Two names of one place are one copy.
    SELECT DISTINCT ON (s.place) s.store, s.role, s.medium FROM s, limits l WHERE s.newest_backup IS NOT NULL AND s.at >= l.present - coalesce(l.backup, '1000 years')
    ORDER BY s.place, s.role = 'offsite', s.store
), rule AS (
    SELECT count(*) + 1 AS copies, count(*) FILTER (WHERE whole.role = 'offsite') AS offsite,
           (SELECT count(DISTINCT m.medium) FROM (SELECT whole.medium FROM whole UNION ALL SELECT a.medium FROM a) m) AS media,
           'database' || coalesce(', ' || string_agg(whole.store, ', ' ORDER BY whole.store), '') AS which
    FROM whole
), loss AS (
    SELECT CASE
               WHEN a.important IS NULL THEN NULL
               WHEN w.wal_to >= a.important THEN interval '0'
               ELSE greatest(l.present - greatest(w.at, b.at), '0')
           END AS rpo
    FROM limits l CROSS JOIN a LEFT JOIN w ON true LEFT JOIN b ON true
), alert (kind, message) AS (
    SELECT 'backup', CASE WHEN b.id IS NULL THEN 'there is no good backup'
                          WHEN l.present - b.at > l.backup
                          THEN pg_catalog.format('the newest good backup is %s old, the limit is %s', pg_catalog.date_trunc('second', l.present - b.at), l.backup) END
    FROM limits l LEFT JOIN b ON true WHERE l.backup IS NOT NULL
    UNION ALL
    SELECT 'wal', CASE WHEN loss.rpo > l.wal
                       THEN pg_catalog.format('WAL of the last %s is not archived, the limit is %s', pg_catalog.date_trunc('second', loss.rpo), l.wal) END
    FROM limits l CROSS JOIN loss
    UNION ALL
    SELECT 'drill', CASE WHEN NOT d.ok THEN coalesce('the last recovery drill failed: ' || d.error, 'the last recovery drill failed')
                         WHEN passed.finished_at IS NULL THEN 'no recovery drill has been passed yet'
                         WHEN l.present - passed.finished_at > l.drill
                         THEN pg_catalog.format('the last recovery drill was %s ago, the limit is %s', pg_catalog.date_trunc('second', l.present - passed.finished_at), l.drill) END
    FROM limits l LEFT JOIN d ON true LEFT JOIN passed ON true WHERE l.drill IS NOT NULL
    UNION ALL
    SELECT 'verification', CASE WHEN v.problems > 0
                                THEN pg_catalog.format('%s problems were found when stores were verified', v.problems) END
    FROM v
    UNION ALL
    SELECT 'store ' || s.store, 'cannot be reached: ' || s.detail FROM s WHERE NOT s.reachable
)
SELECT b.id AS newest_backup, b.at AS newest_backup_at, l.present - b.at AS backup_age,
       w.wal_to AS wal_archived_to, w.at AS wal_archived_at, a.waiting AS wal_waiting, a.waiting_since AS wal_waiting_since,
       loss.rpo AS rpo_now, passed.rto AS rto_measured, d.finished_at AS last_drill_at, d.ok AS last_drill_ok,
       v.at AS last_verified_at, v.problems,
       ARRAY(SELECT s.store || ': ' || CASE
                    WHEN NOT s.reachable THEN 'cannot be reached'
                    WHEN s.missing_backups IS NULL THEN pg_catalog.format('%s backups', s.backups)
                    WHEN s.missing_backups + s.missing_wal = 0 THEN 'in step'
                    ELSE pg_catalog.format('behind by %s backups and %s files of WAL, %s', s.missing_backups, s.missing_wal,
                                           pg_catalog.pg_size_pretty(s.missing_bytes)) END
             FROM s ORDER BY s.role = 'offsite', s.role = 'secondary', s.store) AS stores,
       pg_catalog.format('3-2-1 %s: %s copies (%s), %s media, %s offsite',
                         CASE WHEN r.copies >= 3 AND r.media >= 2 AND r.offsite >= 1 THEN 'satisfied' ELSE 'not satisfied' END,
                         r.copies, r.which, r.media, r.offsite) AS rule_3_2_1,
       (SELECT coalesce(pg_catalog.jsonb_object_agg(alert.kind, alert.message), '{}') FROM alert WHERE alert.message IS NOT NULL) AS alerts
FROM limits l CROSS JOIN a CROSS JOIN loss CROSS JOIN rule r CROSS JOIN v
LEFT JOIN b ON true LEFT JOIN w ON true LEFT JOIN d ON true LEFT JOIN passed ON true;
COMMENT ON VIEW varve.recovery_status IS
    'Whether the database could be recovered now: the newest good backup, archived WAL, what would be lost, the last drill, the stores, and what is older than its limit';

CREATE FUNCTION varve.add_backup_policy(full_schedule text, differential_schedule text DEFAULT NULL, incremental_schedule text DEFAULT NULL,
        keep_full int DEFAULT NULL, keep_for interval DEFAULT NULL, copy_schedule text DEFAULT '1 minute',
        verify_schedule text DEFAULT NULL, drill_schedule text DEFAULT NULL, watch_schedule text DEFAULT '5 minutes',
        store name DEFAULT NULL, time_zone text DEFAULT NULL)
    RETURNS bigint[] LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_add_backup_policy';
COMMENT ON FUNCTION varve.add_backup_policy(text, text, text, int, interval, text, text, text, text, name, text) IS
    'Adds jobs that take backups, remove those that are not kept, copy them to other stores, verify them, rehearse recovery and watch over all that; returns their numbers';
REVOKE ALL ON FUNCTION varve.add_backup_policy(text, text, text, int, interval, text, text, text, text, name, text) FROM PUBLIC;

CREATE FUNCTION varve.remove_backup_policy()
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_remove_backup_policy';
COMMENT ON FUNCTION varve.remove_backup_policy() IS 'Removes the jobs of the backup policy; backups stay as they are';
REVOKE ALL ON FUNCTION varve.remove_backup_policy() FROM PUBLIC;

CREATE PROCEDURE varve.watch_backups()
    LANGUAGE plpgsql
AS $$
DECLARE
    alerts jsonb;
    alert record;
    known record;
    present timestamptz;
BEGIN
    SELECT r.alerts INTO alerts FROM varve.recovery_status r;
    present := pg_catalog.clock_timestamp();
    FOR alert IN SELECT e.key AS kind, e.value AS message FROM pg_catalog.jsonb_each_text(alerts) e ORDER BY e.key LOOP
        SELECT * INTO known FROM varve.backup_alert k WHERE k.kind OPERATOR(pg_catalog.=) alert.kind;
        -- Told when it begins, and once an hour while it goes on.
        IF NOT FOUND OR known.logged_at OPERATOR(pg_catalog.<) (present OPERATOR(pg_catalog.-) interval '1 hour') THEN
            RAISE WARNING 'backups need attention (%): %', alert.kind, alert.message
                USING HINT = 'SELECT * FROM varve.recovery_status tells more.';
            INSERT INTO varve.backup_alert AS k (kind, since, logged_at) VALUES (alert.kind, present, present)
                ON CONFLICT (kind) DO UPDATE SET logged_at = excluded.logged_at;
        END IF;
    END LOOP;
    FOR known IN DELETE FROM varve.backup_alert k WHERE NOT (alerts OPERATOR(pg_catalog.?) k.kind) RETURNING k.kind, k.since LOOP
        RAISE LOG 'backups are well again (%), since % they were not', known.kind, known.since;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE varve.watch_backups() IS
    'Warns in the log of each alert of varve.recovery_status when it begins, and hourly while it goes on; run by the backup policy';
REVOKE ALL ON PROCEDURE varve.watch_backups() FROM PUBLIC;

CREATE PROCEDURE varve.run_backup_policy(job bigint)
    LANGUAGE plpgsql
AS $$
DECLARE
    policy record;
    task text;
    target name;
    failed text;
BEGIN
    SELECT j.settings, j.owner INTO policy FROM varve.jobs j WHERE j.id OPERATOR(pg_catalog.=) job AND j.kind OPERATOR(pg_catalog.=) 'backup';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % is no backup policy', job
            USING ERRCODE = 'undefined_object', HINT = 'SELECT id, kind FROM varve.jobs lists the jobs.';
    END IF;
    task := policy.settings OPERATOR(pg_catalog.->>) 'task';
    target := policy.settings OPERATOR(pg_catalog.->>) 'store';
    IF task OPERATOR(pg_catalog.=) ANY (ARRAY['full', 'differential', 'incremental']) THEN
        IF task OPERATOR(pg_catalog.<>) 'full' AND NOT EXISTS (
            SELECT FROM varve.list_backups() b
            WHERE b.kind OPERATOR(pg_catalog.=) 'full' AND b.detail IS NULL AND (target IS NULL OR b.store OPERATOR(pg_catalog.=) target::text))
        THEN
            task := 'full';
        END IF;
        -- Those that come often do not queue behind one that takes long, and take up workers: the next one is soon.
        CALL varve.take_backup(task, 'policy', target, task OPERATOR(pg_catalog.=) 'full');
        COMMIT;
        IF task OPERATOR(pg_catalog.=) 'full' THEN
            BEGIN
                PERFORM FROM varve.expire((policy.settings OPERATOR(pg_catalog.->>) 'keep_full')::int, (policy.settings OPERATOR(pg_catalog.->>) 'keep_for')::interval, true);
            EXCEPTION
                WHEN query_canceled OR admin_shutdown THEN
                    RAISE;
                WHEN OTHERS THEN
                    -- The backup is taken: the job is not run again for this.
                    RAISE WARNING 'old backups were not removed: %', SQLERRM;
            END;
        END IF;
    ELSIF task OPERATOR(pg_catalog.=) 'copy' THEN
        SELECT pg_catalog.string_agg(pg_catalog.concat(c.store, ': ', c.detail), '; ') INTO failed FROM varve.copy_backups(target) c WHERE NOT c.ok;
        IF failed IS NOT NULL THEN
            COMMIT;
            RAISE EXCEPTION 'not all stores are in step: %', failed
                USING ERRCODE = 'io_error', HINT = 'It is tried again; SELECT stores FROM varve.recovery_status shows them.';
        END IF;
    ELSIF task OPERATOR(pg_catalog.=) 'verify' THEN
        SELECT pg_catalog.string_agg(pg_catalog.concat_ws(': ', v.store, v.object, v.detail), '; ') INTO failed
        FROM (SELECT * FROM varve.verify_stores() WHERE NOT ok LIMIT 20) v;
        IF failed IS NOT NULL THEN
            -- What was found stays on record.
            COMMIT;
            RAISE EXCEPTION 'stores have damaged or missing objects: %', failed
                USING ERRCODE = 'data_corrupted', HINT = 'SELECT store, problems FROM varve.verification lists them.';
        END IF;
    ELSIF task OPERATOR(pg_catalog.=) 'drill' THEN
        CALL varve.run_recovery_drill();
    ELSE
        CALL varve.watch_backups();
    END IF;
END
$$;
COMMENT ON PROCEDURE varve.run_backup_policy(bigint) IS 'The command of the backup policy''s jobs';
REVOKE ALL ON PROCEDURE varve.run_backup_policy(bigint) FROM PUBLIC;
