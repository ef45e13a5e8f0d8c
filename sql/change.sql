-- What rows say, as checksums; what has changed between two relations.

CREATE FUNCTION varve.row_checksum(record, algorithm text DEFAULT 'xxh3')
    RETURNS bytea LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'varve_row_checksum';
COMMENT ON FUNCTION varve.row_checksum(record, text) IS
    'A checksum of a row''s values by the names of their columns (xxh3 or sha256): the same whatever order the columns have, however the row is stored, and with columns that are NULL or without';

CREATE FUNCTION varve.rows_checksum_add(internal, record) RETURNS internal
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'varve_rows_checksum_add';
COMMENT ON FUNCTION varve.rows_checksum_add(internal, record) IS 'Internal: adds a row to a checksum';
CREATE FUNCTION varve.rows_checksum_finish(internal) RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'varve_rows_checksum_finish';
COMMENT ON FUNCTION varve.rows_checksum_finish(internal) IS 'Internal: a checksum as text';
CREATE AGGREGATE varve.rows_checksum(record) (
    SFUNC = varve.rows_checksum_add, STYPE = internal, FINALFUNC = varve.rows_checksum_finish);
COMMENT ON AGGREGATE varve.rows_checksum(record) IS 'Internal: the sum of rows'' checksums modulo 2^128, for which a type''s text stands where it has no send function';
REVOKE ALL ON FUNCTION varve.rows_checksum_add(internal, record), varve.rows_checksum_finish(internal),
    varve.rows_checksum(record) FROM PUBLIC;

CREATE FUNCTION varve.checksum_add(bytea, bytea) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'varve_checksum_add';
COMMENT ON FUNCTION varve.checksum_add(bytea, bytea) IS 'The sum of two checksums of 16 bytes modulo 2^128';
CREATE AGGREGATE varve.checksum_sum(bytea) (
    SFUNC = varve.checksum_add, STYPE = bytea, COMBINEFUNC = varve.checksum_add,
    INITCOND = '\x00000000000000000000000000000000', PARALLEL = SAFE);
COMMENT ON AGGREGATE varve.checksum_sum(bytea) IS
    'The sum of checksums of 16 bytes modulo 2^128, in whatever order: that of rows, varve.checksum_sum(varve.row_checksum(t))';

CREATE FUNCTION varve.checksums(relation regclass, OUT chunk regclass, OUT rows bigint, OUT checksum bytea)
    RETURNS SETOF record LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'varve_checksums';
COMMENT ON FUNCTION varve.checksums(regclass) IS
    'Of each chunk of a hypertable or partitioned table, or of another relation, its rows and the sum of their checksums (varve.row_checksum); frozen rows that have not changed are not read';
CREATE FUNCTION varve.diff(old regclass, new regclass, key name[] DEFAULT NULL,
        OUT op text, OUT key jsonb, OUT changed text[], OUT old jsonb, OUT new jsonb)
    RETURNS SETOF record LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1000 COST 1000000 AS 'MODULE_PATHNAME', 'varve_diff';
COMMENT ON FUNCTION varve.diff(regclass, regclass, name[]) IS
    'What has changed between two relations: rows by their key that are there before or after only (delete, insert), and those with other values (update), with the names of the columns';
