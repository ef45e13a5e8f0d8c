-- Object stores: servers of a foreign data wrapper, whose options say where they are.

CREATE FUNCTION varve.store_validator(options text[], catalog oid)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'varve_store_validator';
COMMENT ON FUNCTION varve.store_validator(text[], oid) IS 'Internal: checks the options of stores and of their user mappings';

CREATE FOREIGN DATA WRAPPER varve_store NO HANDLER VALIDATOR varve.store_validator;
COMMENT ON FOREIGN DATA WRAPPER varve_store IS
    'Object stores for backups, WAL and archived chunks: CREATE SERVER ... OPTIONS (url ''file:///...'', role ''primary'')';

CREATE VIEW varve.stores AS
SELECT s.srvname AS name,
       coalesce(o.role, 'primary') AS role,
       o.url,
       pg_catalog.pg_get_userbyid(s.srvowner) AS owner,
       pg_catalog.has_server_privilege(s.oid, 'USAGE') AS usable,
       EXISTS (SELECT FROM pg_catalog.pg_user_mappings m
               WHERE m.srvid = s.oid AND (m.umuser = 0 OR m.usename = current_user)) AS mapped
FROM pg_catalog.pg_foreign_server s
JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'varve_store'
CROSS JOIN LATERAL (
    SELECT max(t.option_value) FILTER (WHERE t.option_name = 'role') AS role,
           max(t.option_value) FILTER (WHERE t.option_name = 'url') AS url
    FROM pg_catalog.pg_options_to_table(s.srvoptions) t) o;
COMMENT ON VIEW varve.stores IS 'Object stores: what they are for, where they are, and whether the current user may use them';
GRANT SELECT ON varve.stores TO PUBLIC;

CREATE FUNCTION varve.check_store(store name,
        OUT step text, OUT ok boolean, OUT detail text, OUT elapsed interval)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'check_store_wrapper';
COMMENT ON FUNCTION varve.check_store(name) IS
    'Writes a small object into a store, reads it back, lists and removes it, and tells how each step went';
REVOKE ALL ON FUNCTION varve.check_store(name) FROM PUBLIC;
