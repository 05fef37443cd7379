-- Three streams in schema live and tables of the same rows in schema plain, in which the same queries are run: what topics about several streams
-- start with. Variable `collation`: a clause for a.v, or nothing. Results are in schema res, as r_ and the query's name.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
CREATE SCHEMA live;
CREATE SCHEMA plain;
CREATE SCHEMA res;
SET search_path = res, stream_ckpt, public;
SET timezone = 'UTC';
CREATE COLLATION res.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
SELECT create_stream('live.a', 'id int, k int, v text ' || :'collation' || ', n numeric, ts timestamptz', event_time => 'ts', watermark_delay => '10 s');
SELECT create_stream('live.b', 'id int, k bigint, w text, ts timestamptz', event_time => 'ts', watermark_delay => '10 s');
SELECT create_stream('live.c', 'id int, k int, x jsonb');
CREATE TABLE plain.a (id int, k int, v text :collation, n numeric, ts timestamptz);
CREATE TABLE plain.b (id int, k bigint, w text, ts timestamptz);
CREATE TABLE plain.c (id int, k int, x jsonb);
CREATE TABLE dim (k int, name text);
INSERT INTO dim SELECT i, 'name ' || i FROM generate_series(0, 7) i;
CREATE TABLE query (name text PRIMARY KEY, text text);

CREATE PROCEDURE create_pipelines() LANGUAGE plpgsql AS $$
DECLARE
    one query;
BEGIN
    FOR one IN TABLE query LOOP
        BEGIN
            PERFORM create_pipeline('res.r_' || one.name, one.text, retained_checkpoints => 2);
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING '%: %', one.name, SQLERRM;
        END;
    END LOOP;
END $$;

-- Rows that are missing in a result, or too many in it: none.
CREATE FUNCTION differences() RETURNS TABLE (name text, missing bigint, extra bigint) LANGUAGE plpgsql SET search_path = plain, res, stream_ckpt, public AS $$
DECLARE
    one query;
BEGIN
    FOR one IN SELECT * FROM query q ORDER BY q.name LOOP
        name := one.name;
        EXECUTE format('SELECT (SELECT count(*) FROM ((%1$s) EXCEPT ALL TABLE res.r_%2$s) x), (SELECT count(*) FROM (TABLE res.r_%2$s EXCEPT ALL (%1$s)) x)', one.text, one.name)
        INTO missing, extra;
        IF missing > 0 OR extra > 0 THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END $$;
-- Within 10 seconds of each step's front; keys are NULL, and rows are there twice, here and there.
CREATE PROCEDURE put(step int, streams text[]) LANGUAGE plpgsql AS $$
DECLARE
    target text;
BEGIN
    PERFORM setseed(step / 100.0);
    CREATE TEMP TABLE ra AS SELECT (step * 20 + g / 2)::int AS id, nullif((random() * 8)::int, 8) AS k, (ARRAY['a', 'A', 'b', 'c'])[1 + g % 4] AS v,
        (ARRAY[1.0, 1.00])[1 + g % 2] AS n, timestamptz '2024-01-01' + interval '1 s' * (step * 10 - g % 10) AS ts FROM generate_series(1, 16) g;
    CREATE TEMP TABLE rb AS SELECT (step * 20 + g / 2)::int AS id, nullif((random() * 8)::bigint, 8) AS k, (ARRAY['a', 'b'])[1 + g % 2] AS w,
        timestamptz '2024-01-01' + interval '1 s' * (step * 10 - g % 10) AS ts FROM generate_series(1, 16) g;
    CREATE TEMP TABLE rc AS SELECT (step * 20 + g)::int AS id, nullif((random() * 8)::int, 8) AS k, jsonb_build_object('n', g % 3) AS x FROM generate_series(1, 8) g;
    FOREACH target IN ARRAY streams LOOP
        EXECUTE format('INSERT INTO live.%1$s SELECT * FROM r%1$s', target);
        EXECUTE format('INSERT INTO plain.%1$s SELECT * FROM r%1$s', target);
    END LOOP;
    DROP TABLE ra, rb, rc;
END $$;
