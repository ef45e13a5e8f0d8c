-- Functions that users call. Those in Rust check that the caller owns the table.

CREATE FUNCTION varve.enable(target regclass, segment_by name[] DEFAULT NULL, order_by name[] DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_enable';
COMMENT ON FUNCTION varve.enable(regclass, name[], name[]) IS
    'Puts a hypertable, partitioned or ordinary table under varve''s care; its chunks can then be frozen in the order of these columns';

CREATE FUNCTION varve.disable(target regclass)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_disable';
COMMENT ON FUNCTION varve.disable(regclass) IS
    'Takes a table out of varve''s care: every frozen row comes back, its chunks become heap tables';

CREATE FUNCTION varve.set_tier(chunk regclass, tier text, codec text DEFAULT 'auto')
    RETURNS text LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_set_tier';
COMMENT ON FUNCTION varve.set_tier(regclass, text, text) IS
    'Brings one chunk into a tier: hot (heap), warm (columnar segments, to be read fast) or cold (to be small); returns the tier';

CREATE FUNCTION varve.segment_table(chunk regclass)
    RETURNS regclass LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'segment_table_wrapper';
COMMENT ON FUNCTION varve.segment_table(regclass) IS
    'The table that holds a chunk''s segments; NULL when nothing of it is frozen';

CREATE FUNCTION varve.verify(target regclass,
        OUT chunk regclass, OUT segment int, OUT ok boolean, OUT detail text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_wrapper';
COMMENT ON FUNCTION varve.verify(regclass) IS
    'Reads every segment of a table or chunk, recomputes its SHA-256, decodes every column and adds up its rows'' checksums';

CREATE FUNCTION varve.chunk_stats(chunk regclass,
        OUT tier text, OUT rows bigint, OUT delta_rows bigint, OUT segments int, OUT bytes_now bigint, OUT sha256 text)
    RETURNS SETOF record LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT AS 'MODULE_PATHNAME', 'chunk_stats_wrapper';
COMMENT ON FUNCTION varve.chunk_stats(regclass) IS 'State of one chunk, counted now; behind the view varve.chunks';

CREATE FUNCTION varve.chunk_ranges(target regclass,
        OUT chunk regclass, OUT range_start timestamptz, OUT range_end timestamptz,
        OUT range_start_integer bigint, OUT range_end_integer bigint)
    RETURNS SETOF record LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%I.%I', c.chunk_schema, c.chunk_name)::regclass,
           c.range_start, c.range_end, c.range_start_integer, c.range_end_integer
    FROM timescaledb_information.chunks c
    WHERE to_regclass(format('%I.%I', c.hypertable_schema, c.hypertable_name)) = target
      AND to_regclass(format('%I.%I', c.chunk_schema, c.chunk_name)) IS NOT NULL
    UNION ALL
    SELECT p.relid, NULL, NULL, NULL, NULL
    FROM pg_partition_tree(target) p
    JOIN pg_class c ON c.oid = p.relid
    WHERE p.isleaf AND c.relkind = 'r' AND c.oid <> target
    UNION ALL
    SELECT target, h.range_start, h.range_end, h.range_start_integer, h.range_end_integer
    FROM pg_class c
    LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN timescaledb_information.chunks h
           ON h.chunk_schema = n.nspname AND h.chunk_name = c.relname
    WHERE c.oid = target AND c.relkind = 'r'
      AND NOT EXISTS (SELECT FROM timescaledb_information.hypertables t
                      WHERE t.hypertable_schema = n.nspname AND t.hypertable_name = c.relname)
$$;
COMMENT ON FUNCTION varve.chunk_ranges(regclass) IS
    'Chunks of a hypertable, leaves of a partitioned table, or the table itself, with their ranges of time';

CREATE FUNCTION varve.unique_keys(target regclass,
        OUT index_oid regclass, OUT is_primary boolean, OUT columns name[])
    RETURNS SETOF record LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.indexrelid::regclass, i.indisprimary,
           (SELECT array_agg(a.attname ORDER BY k.n)
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
            WHERE k.n <= i.indnkeyatts)
    FROM pg_index i
    WHERE i.indrelid = target AND i.indisunique AND i.indisvalid AND i.indimmediate
      AND i.indpred IS NULL AND i.indexprs IS NULL
$$;
COMMENT ON FUNCTION varve.unique_keys(regclass) IS 'Unique keys of a table that can serve ON CONFLICT';

CREATE FUNCTION varve.time_column(target regclass) RETURNS name
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.column_name FROM timescaledb_information.dimensions d
    WHERE to_regclass(format('%I.%I', d.hypertable_schema, d.hypertable_name)) = target
      AND d.dimension_number = 1
$$;
COMMENT ON FUNCTION varve.time_column(regclass) IS 'The time dimension of a hypertable; NULL for other tables';

CREATE FUNCTION varve.check_tiers(target regclass, tier text)
    RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'varve_check_tiers';
COMMENT ON FUNCTION varve.check_tiers(regclass, text) IS 'Internal: fails where varve.set_tiers could not begin';

CREATE PROCEDURE varve.set_tiers(target regclass, tier text,
        older_than interval DEFAULT NULL, newer_than interval DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    c record;
BEGIN
    PERFORM varve.check_tiers(target, tier);
    IF (older_than IS NOT NULL OR newer_than IS NOT NULL) AND EXISTS (
        SELECT FROM varve.chunk_ranges(target) r WHERE r.range_end IS NULL) THEN
        RAISE EXCEPTION '% has chunks without a range of timestamps', target
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Leave older_than and newer_than out, or call varve.set_tier chunk by chunk.';
    END IF;
    FOR c IN
        SELECT r.chunk FROM varve.chunk_ranges(target) r
        WHERE (older_than IS NULL OR r.range_end OPERATOR(pg_catalog.<=) (pg_catalog.now() OPERATOR(pg_catalog.-) older_than))
          AND (newer_than IS NULL OR r.range_start OPERATOR(pg_catalog.>=) (pg_catalog.now() OPERATOR(pg_catalog.-) newer_than))
        ORDER BY r.range_start, r.chunk::pg_catalog.oid
    LOOP
        BEGIN
            PERFORM varve.set_tier(c.chunk, tier);
        EXCEPTION WHEN undefined_table THEN
            -- A chunk that was dropped meanwhile is none of our business any more.
            IF EXISTS (SELECT FROM pg_catalog.pg_class k WHERE k.oid OPERATOR(pg_catalog.=) c.chunk) THEN
                RAISE;
            END IF;
        END;
        COMMIT;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE varve.set_tiers(regclass, text, interval, interval) IS
    'Brings the chunks of a table into a tier, committing after each';

CREATE VIEW varve.chunks AS
SELECT m.relation AS hypertable,
       r.chunk,
       r.range_start,
       r.range_end,
       s.tier,
       s.rows,
       s.delta_rows,
       s.segments,
       CASE WHEN s.tier = 'hot' THEN s.bytes_now ELSE h.bytes_before END AS bytes_before,
       s.bytes_now,
       CASE WHEN s.tier = 'hot' THEN 0::numeric
            ELSE round(1 - s.bytes_now::numeric / nullif(h.bytes_before, 0), 4) END AS reduction,
       CASE WHEN s.tier = 'hot' THEN NULL ELSE 'auto' END AS codec,
       s.sha256,
       h.verified_at,
       CASE WHEN s.tier = 'hot' THEN '{}'::text[] ELSE '{database}'::text[] END AS stored_at,
       r.range_start_integer,
       r.range_end_integer
FROM varve.managed m
CROSS JOIN LATERAL varve.chunk_ranges(m.relation) r
CROSS JOIN LATERAL varve.chunk_stats(r.chunk) s
LEFT JOIN varve.chunk_history h ON h.chunk = r.chunk
WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = m.relation);
COMMENT ON VIEW varve.chunks IS 'Chunks of all enabled tables: tier, rows, sizes; counted when read';
GRANT SELECT ON varve.chunks TO PUBLIC;
