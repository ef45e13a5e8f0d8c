-- Stands in for prepare_varve.sql in a database without the extension: the same names, and nothing is ever frozen.
-- Suites of the schedule "both" run there too, with the same expected output, so that heap itself vouches for it.
SET client_min_messages = warning;
CREATE SCHEMA varve;
CREATE SCHEMA testing;
GRANT USAGE ON SCHEMA testing, varve TO PUBLIC;

CREATE FUNCTION varve.enable(target regclass, segment_by name[] DEFAULT NULL, order_by name[] DEFAULT NULL)
    RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION varve.disable(target regclass) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION varve.set_tier(chunk regclass, tier text) RETURNS text LANGUAGE sql AS 'SELECT tier';
CREATE FUNCTION testing.freeze(target regclass, stay bigint DEFAULT 0, into_tier text DEFAULT 'warm') RETURNS text LANGUAGE sql AS $$SELECT 'frozen'$$;
CREATE FUNCTION testing.thaw(target regclass) RETURNS text LANGUAGE sql AS $$SELECT 'hot'$$;
CREATE FUNCTION testing.to_tier(target regclass, tier text) RETURNS text LANGUAGE sql AS 'SELECT tier';
CREATE FUNCTION testing.frozen(target regclass, expected bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION testing.intact(target regclass) RETURNS boolean LANGUAGE sql AS 'SELECT true';
