-- The access method and varve's own tables.

CREATE FUNCTION varve.require_preload()
    RETURNS void LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'varve_require_preload';
COMMENT ON FUNCTION varve.require_preload() IS 'Internal: fails unless the library was preloaded';
SELECT varve.require_preload();

CREATE SCHEMA varve_data;
COMMENT ON SCHEMA varve_data IS 'Segments and tombstones of tables with frozen rows; kept by varve';

CREATE FUNCTION varve.am_handler(internal) RETURNS table_am_handler
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'varve_am_handler_wrapper';
COMMENT ON FUNCTION varve.am_handler(internal) IS 'Handler of the table access method varve';

CREATE ACCESS METHOD varve TYPE TABLE HANDLER varve.am_handler;
COMMENT ON ACCESS METHOD varve IS 'Heap for rows at work, immutable columnar segments for rows at rest';

CREATE TABLE varve.managed (
    relation   regclass PRIMARY KEY,
    segment_by name[] NOT NULL,
    order_by   name[] NOT NULL
);
COMMENT ON TABLE varve.managed IS 'Tables that varve.enable was called for, and the order in which their rows are frozen';
COMMENT ON COLUMN varve.managed.segment_by IS 'Columns that lead the order: the key without its time';
COMMENT ON COLUMN varve.managed.order_by IS 'Columns that follow, usually the time';
SELECT pg_catalog.pg_extension_config_dump('varve.managed', '');

CREATE TABLE varve.chunk_history (
    chunk        oid PRIMARY KEY,
    bytes_before bigint NOT NULL,
    frozen_at    timestamptz NOT NULL,
    tier         text NOT NULL CHECK (tier IN ('warm', 'cold')),
    verified_at  timestamptz
);
COMMENT ON TABLE varve.chunk_history IS
    'What chunks took before they were first frozen, the tier they were last brought to, and when they were last verified';
COMMENT ON COLUMN varve.chunk_history.tier IS 'The tier of a chunk without segments; those that it has tell their own';

GRANT USAGE ON SCHEMA varve TO PUBLIC;
GRANT SELECT ON varve.managed, varve.chunk_history TO PUBLIC;
