-- Helpers that all suites share, on varve and on heap.
SET client_min_messages = warning;

-- Compares two tables of the same shape row by row, by key, bit for bit and as text; says how many are the same.
CREATE FUNCTION testing.same(a regclass, b regclass, key text DEFAULT 'id') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    total bigint;
    wrong bigint;
BEGIN
    EXECUTE format(
        'SELECT count(*), count(*) FILTER (WHERE (x.* *= y.*) IS NOT TRUE OR (x.*)::text IS DISTINCT FROM (y.*)::text)
         FROM %s x FULL JOIN %s y ON x.%3$I = y.%3$I', a, b, key) INTO total, wrong;
    IF wrong > 0 THEN
        RETURN format('%s of %s rows DIFFER', wrong, total);
    END IF;
    RETURN format('%s rows the same', total);
END $$;

-- Multiplies the rows of a table with a key "id" of less than 1000, copies it to NAME_v, and takes that to warm, cold, hot,
-- cold and warm again, comparing after each step. NAME_v stays, frozen.
CREATE PROCEDURE testing.round_trip(source regclass, copies int, INOUT result text DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
    target text := source::text || '_v';
    columns text;
    step text;
BEGIN
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns
    FROM pg_attribute WHERE attrelid = source AND attnum > 0 AND NOT attisdropped AND attname <> 'id';
    EXECUTE format('INSERT INTO %1$s (id, %2$s) SELECT id + 1000 * copy_number, %2$s FROM %1$s, generate_series(1, %3$s) copy_number
                    ORDER BY hashint4(id + 1000 * copy_number)', source, columns, copies);
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING STORAGE INCLUDING COMPRESSION)', target, source);
    EXECUTE format('INSERT INTO %s SELECT * FROM %s', target, source);
    COMMIT;
    result := testing.same(source, target::regclass);
    FOREACH step IN ARRAY '{warm,cold,hot,cold,warm}'::text[] LOOP
        PERFORM testing.to_tier(target::regclass, step);
        COMMIT;
        IF NOT testing.intact(target::regclass) THEN
            result := result || '; ' || step || ': DAMAGED';
        END IF;
        result := result || '; ' || step || ': ' || testing.same(source, target::regclass);
    END LOOP;
END $$;

-- A message without what differs from run to run (numbers of chunks, OIDs) or with the encoder (sizes and sums of encoded bytes).
CREATE FUNCTION testing.stable(message text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT regexp_replace(regexp_replace(regexp_replace(regexp_replace(message, '\d+_\d+_|constraint_\d+', 'N_N_', 'g'),
        '\d+ bytes \(computed [0-9a-f]+\)', 'N bytes', 'g'), 'the \d+ bytes of page \d+', 'the N bytes of page N', 'g'),
        '\mOID \d+', 'OID N', 'g')
$$;

-- Runs a command that must fail; gives its SQLSTATE, message, detail and hint.
CREATE FUNCTION testing.error(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    code text;
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN testing.stable(concat_ws(E'\n', code || ': ' || message, nullif(detail, ''), nullif(hint, '')));
END $$;
