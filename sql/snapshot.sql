-- Snapshots of single tables in object stores.

CREATE FUNCTION varve.snapshot(target regclass, store name DEFAULT NULL, label text DEFAULT NULL)
    RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_snapshot';
COMMENT ON FUNCTION varve.snapshot(regclass, name, text) IS
    'Writes a table or hypertable, as one snapshot sees it, into the primary store or another one, as Parquet files; returns the snapshot''s id';
REVOKE ALL ON FUNCTION varve.snapshot(regclass, name, text) FROM PUBLIC;

CREATE FUNCTION varve.restore_snapshot(id text, into_table text DEFAULT NULL, store name DEFAULT NULL)
    RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_restore_snapshot';
COMMENT ON FUNCTION varve.restore_snapshot(text, text, name) IS
    'Makes the table of a snapshot anew, under its own or another name, with its rows, indexes, constraints and tiers; returns the number of rows';
REVOKE ALL ON FUNCTION varve.restore_snapshot(text, text, name) FROM PUBLIC;

CREATE FUNCTION varve.list_snapshots(OUT store text, OUT id text, OUT database text, OUT "table" text, OUT label text,
        OUT taken_at text, OUT rows bigint, OUT bytes bigint, OUT lsn text, OUT encrypted boolean, OUT left_out text[],
        OUT detail text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'list_snapshots_wrapper';
COMMENT ON FUNCTION varve.list_snapshots() IS
    'The snapshots in each store that the current user may use, read there; detail says why a record, or a store, cannot be read';
REVOKE ALL ON FUNCTION varve.list_snapshots() FROM PUBLIC;

CREATE VIEW varve.snapshots AS
SELECT s.id, 'snapshot'::text AS kind, s.database, s."table", s.label, s.rows, s.bytes, s.taken_at::timestamptz AS taken_at,
       s.lsn::pg_lsn AS lsn, s.encrypted, s.left_out, array_agg(s.store ORDER BY s.store) AS stores
FROM varve.list_snapshots() s
WHERE s.detail IS NULL
GROUP BY s.id, s.database, s."table", s.label, s.rows, s.bytes, s.taken_at, s.lsn, s.encrypted, s.left_out;
COMMENT ON VIEW varve.snapshots IS 'Snapshots of tables, and the stores that have them; read from the stores';

CREATE FUNCTION varve.verify_snapshot(id text,
        OUT store text, OUT object text, OUT ok boolean, OUT expected text, OUT actual text, OUT detail text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_snapshot_wrapper';
COMMENT ON FUNCTION varve.verify_snapshot(text) IS
    'Reads every object of a snapshot in every store that has it, and compares SHA-256 with what was written';
REVOKE ALL ON FUNCTION varve.verify_snapshot(text) FROM PUBLIC;

CREATE FUNCTION varve.remove_snapshot(id text)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_remove_snapshot';
COMMENT ON FUNCTION varve.remove_snapshot(text) IS 'Removes a snapshot from every store that has it; no policy does';
REVOKE ALL ON FUNCTION varve.remove_snapshot(text) FROM PUBLIC;

CREATE FUNCTION varve.restore_chunk(backup text, chunk text, target_time timestamptz DEFAULT NULL,
        OUT restored regclass, OUT rows bigint)
    RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_restore_chunk';
COMMENT ON FUNCTION varve.restore_chunk(text, text, timestamptz) IS
    'Brings back a damaged or dropped chunk from a snapshot or a base backup, as it was; returns what it is called now, and its rows';
REVOKE ALL ON FUNCTION varve.restore_chunk(text, text, timestamptz) FROM PUBLIC;

CREATE FUNCTION varve.restore_chunk(backup text, chunk regclass, target_time timestamptz DEFAULT NULL,
        OUT restored regclass, OUT rows bigint)
    RETURNS record LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT r.restored, r.rows
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL varve.restore_chunk(backup, format('%I.%I', n.nspname, c.relname), target_time) r
    WHERE c.oid = chunk;
END;
COMMENT ON FUNCTION varve.restore_chunk(text, regclass, timestamptz) IS
    'As varve.restore_chunk(text, text, timestamptz), for a chunk that is there';
REVOKE ALL ON FUNCTION varve.restore_chunk(text, regclass, timestamptz) FROM PUBLIC;
