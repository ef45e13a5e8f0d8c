-- Base backups in object stores.

CREATE FUNCTION varve.backup(kind text DEFAULT 'full', label text DEFAULT NULL, store name DEFAULT NULL)
    RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_backup';
COMMENT ON FUNCTION varve.backup(text, text, name) IS
    'Takes a base backup of the cluster (full, differential or incremental) into the primary store, or another one; returns its id';
REVOKE ALL ON FUNCTION varve.backup(text, text, name) FROM PUBLIC;

CREATE PROCEDURE varve.take_backup(kind text DEFAULT 'full', label text DEFAULT NULL, store name DEFAULT NULL, wait boolean DEFAULT true)
    LANGUAGE c AS 'MODULE_PATHNAME', 'varve_take_backup';
COMMENT ON PROCEDURE varve.take_backup(text, text, name, boolean) IS
    'As varve.backup, but one at a time, and without a snapshot that would hold up VACUUM: it commits the transaction it is called in; with wait => false it leaves where another one is being taken';
REVOKE ALL ON PROCEDURE varve.take_backup(text, text, name, boolean) FROM PUBLIC;

CREATE FUNCTION varve.list_backups(OUT store text, OUT id text, OUT kind text, OUT parent text, OUT label text,
        OUT started_at text, OUT stopped_at text, OUT start_lsn text, OUT stop_lsn text, OUT timeline bigint,
        OUT bytes bigint, OUT stored_bytes bigint, OUT includes_wal boolean, OUT encrypted boolean, OUT detail text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'list_backups_wrapper';
COMMENT ON FUNCTION varve.list_backups() IS
    'The backups in each store that the current user may use, read there; detail says why a record, or a store, cannot be read';
REVOKE ALL ON FUNCTION varve.list_backups() FROM PUBLIC;

CREATE VIEW varve.backups AS
SELECT b.id, b.kind, b.parent, b.label, b.started_at::timestamptz AS started_at, b.stopped_at::timestamptz AS stopped_at,
       b.stopped_at::timestamptz - b.started_at::timestamptz AS duration,
       b.start_lsn::pg_lsn AS start_lsn, b.stop_lsn::pg_lsn AS stop_lsn, b.timeline, b.bytes, b.stored_bytes,
       b.includes_wal, b.encrypted, array_agg(b.store ORDER BY b.store) AS stores
FROM varve.list_backups() b
WHERE b.detail IS NULL
GROUP BY b.id, b.kind, b.parent, b.label, b.started_at, b.stopped_at, b.start_lsn, b.stop_lsn, b.timeline, b.bytes,
         b.stored_bytes, b.includes_wal, b.encrypted;
COMMENT ON VIEW varve.backups IS 'Backups, and the stores that have them; read from the stores';

CREATE FUNCTION varve.verify_backup(id text,
        OUT store text, OUT object text, OUT ok boolean, OUT expected text, OUT actual text, OUT detail text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_backup_wrapper';
COMMENT ON FUNCTION varve.verify_backup(text) IS
    'Reads every object of a backup''s chain, and the WAL that it needs, in every store that has it, and compares SHA-256 with what was written';
REVOKE ALL ON FUNCTION varve.verify_backup(text) FROM PUBLIC;
