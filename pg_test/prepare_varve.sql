-- Prepares a database for the suites: the extension, and helpers that really freeze.
-- prepare_heap.sql is its counterpart; prepare.sql, which follows either, holds what both share.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE EXTENSION IF NOT EXISTS varve;
CREATE SCHEMA testing;
GRANT USAGE ON SCHEMA testing TO PUBLIC;

-- Freezes a table, or all leaves of it, and insists that nothing but "stay" rows are left in the delta: a suite that
-- thinks its rows frozen when they are not would prove nothing.
CREATE FUNCTION testing.freeze(target regclass, stay bigint DEFAULT 0, into_tier text DEFAULT 'warm') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    c regclass;
    now record;
    left_over bigint := 0;
BEGIN
    FOR c IN SELECT chunk FROM varve.chunk_ranges(target) ORDER BY chunk::text LOOP
        PERFORM varve.set_tier(c, into_tier);
        SELECT s.tier, s.delta_rows INTO now FROM varve.chunk_stats(c) s;
        left_over := left_over + now.delta_rows;
        IF now.tier <> into_tier THEN
            RAISE EXCEPTION '% is % instead of %', c, now.tier, into_tier;
        END IF;
    END LOOP;
    IF left_over <> stay THEN
        RAISE EXCEPTION '% rows of % are not frozen instead of %', left_over, target, stay;
    END IF;
    RETURN 'frozen';
END $$;

-- Brings every row back into the heap.
CREATE FUNCTION testing.thaw(target regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    c regclass;
BEGIN
    FOR c IN SELECT chunk FROM varve.chunk_ranges(target) ORDER BY chunk::text LOOP
        PERFORM varve.set_tier(c, 'hot');
        IF varve.segment_table(c) IS NOT NULL THEN
            RAISE EXCEPTION '% still has segments', c;
        END IF;
    END LOOP;
    RETURN 'hot';
END $$;

-- Brings a table, or all leaves of it, into a tier, with all of its rows.
CREATE FUNCTION testing.to_tier(target regclass, tier text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF tier = 'hot' THEN
        PERFORM testing.thaw(target);
    ELSE
        PERFORM testing.freeze(target, into_tier => to_tier.tier);
    END IF;
    RETURN tier;
END $$;

-- Whether exactly so many rows are frozen (live rows in segments).
CREATE FUNCTION testing.frozen(target regclass, expected bigint) RETURNS boolean LANGUAGE sql AS $$
    SELECT sum(s.rows - s.delta_rows) = expected
    FROM varve.chunk_ranges(target) r, varve.chunk_stats(r.chunk) s
$$;

-- Whether all segments pass verification.
CREATE FUNCTION testing.intact(target regclass) RETURNS boolean LANGUAGE sql AS $$
    SELECT coalesce(bool_and(ok), true) FROM varve.verify(target)
$$;
