-- Session windows: rows of a group less than the gap apart. The oracle is gaps-and-islands SQL.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA live;
CREATE SCHEMA oracle;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
CREATE TABLE oracle.s (id int, k text, b bool, v int, t text, ts timestamptz);
CREATE FOREIGN TABLE live.s (id int, k text, b bool, v int, t text, ts timestamptz)
    SERVER stream_ckpt OPTIONS (event_time 'ts', watermark_delay '1 hour');
CREATE AGGREGATE public.product (numeric) (sfunc = numeric_mul, stype = numeric, initcond = '1');

CREATE TABLE public.tried (name text, keys text, gap interval, aggregates text, condition text, kept text);
INSERT INTO public.tried VALUES
    ('plain', 'k,', '6 min', 'count(*) AS n, sum(v) AS s, min(id) AS first, max(t) AS t, avg(v) AS a', 'true', 'true'),
    ('short', 'k,', '30 s', 'count(*) AS n', 'true', 'true'),
    ('touching', 'k,', '1 min', 'count(*) AS n, sum(v) AS s', 'true', 'true'),
    ('long', 'k,', '20 min', 'count(*) AS n, count(t) AS t', 'true', 'true'),
    ('no_key', '', '2 min', 'count(*) AS n, bool_or(b) AS b', 'true', 'true'),
    ('two_keys', 'k, b,', '10 min', 'count(*) AS n, sum(v) AS s', 'true', 'true'),
    ('distinct', 'k,', '6 min', 'count(DISTINCT v) AS v, sum(DISTINCT v) AS s, count(DISTINCT t) FILTER (WHERE b) AS t, array_agg(DISTINCT v) AS a', 'true', 'true'),
    ('ordered', 'k,', '6 min', 'array_agg(id ORDER BY ts, id) AS ids, string_agg(t, '','' ORDER BY t DESC NULLS LAST, id) AS t', 'true', 'true'),
    ('sets', 'k,', '6 min', 'mode() WITHIN GROUP (ORDER BY v) AS m, percentile_disc(0.5) WITHIN GROUP (ORDER BY id) AS p', 'true', 'true'),
    ('no_combine', 'k,', '6 min', 'product(1 + v) AS p', 'true', 'true'),
    ('expressions', 'k,', '6 min', 'count(*) / extract(epoch FROM window_end - window_start) AS rate, k || ''@'' || window_start AS label', 'true', 'true'),
    ('conditions', 'k,', '6 min', 'count(*) AS n, sum(v) FILTER (WHERE b) AS s', 'v <> 3', 'count(*) > 2 AND window_end - window_start > ''12 min'''),
    ('no_aggregate', 'k,', '6 min', '1 AS one', 'true', 'true');
-- the query over the stream, and over the table with the sessions computed beforehand
CREATE FUNCTION public.live(x tried) RETURNS text LANGUAGE sql AS $$
    SELECT format('SELECT %1$s window_start, window_end, %2$s FROM s, stream_ckpt.session(ts, %3$L) WHERE %4$s GROUP BY %1$s window_start, window_end HAVING %5$s',
                  x.keys, x.aggregates, x.gap, x.condition, x.kept)
$$;
CREATE FUNCTION public.oracle(x tried) RETURNS text LANGUAGE sql AS $$
    SELECT format('WITH starts AS (SELECT *, ts - lag(ts) OVER (PARTITION BY %1$s true ORDER BY ts) < %3$L AS goes_on FROM s WHERE isfinite(ts) AND %4$s),
        islands AS (SELECT *, count(*) FILTER (WHERE goes_on IS NOT TRUE) OVER (PARTITION BY %1$s true ORDER BY ts) AS island FROM starts),
        sessions AS (SELECT *, min(ts) OVER w AS window_start, max(ts) OVER w + %3$L AS window_end FROM islands WINDOW w AS (PARTITION BY %1$s island))
        SELECT %1$s window_start, window_end, %2$s FROM sessions GROUP BY %1$s window_start, window_end HAVING %5$s',
                  x.keys, x.aggregates, x.gap, x.condition, x.kept)
$$;
CREATE FUNCTION public.compare(x tried, final bool) RETURNS text LANGUAGE plpgsql SET search_path = oracle, public AS $$
DECLARE
    query text = format('SELECT * FROM (%s) x WHERE NOT %L OR window_end <= (SELECT max(ts) FROM s WHERE isfinite(ts)) - interval ''1 hour''', oracle(x), final);
    name text = x.name || CASE WHEN final THEN '_final' ELSE '' END;
    missing bigint;
    extra bigint;
    disorder bigint = 0;
BEGIN
    EXECUTE format('SELECT count(*) FROM ((%s) EXCEPT ALL TABLE live.%I) x', query, name) INTO missing;
    EXECUTE format('SELECT count(*) FROM (TABLE live.%I EXCEPT ALL (%s)) x', name, query) INTO extra;
    IF final THEN
        EXECUTE format('SELECT count(*) FROM (SELECT window_end < lag(window_end) OVER (ORDER BY ctid) AS back FROM live.%I) x WHERE back', name) INTO disorder;
    END IF;
    RETURN CASE WHEN missing + extra + disorder = 0 THEN 'equal' ELSE format('%s missing, %s extra, %s out of order', missing, extra, disorder) END;
END $$;

SET search_path = live, public, stream_ckpt;
SELECT count(create_pipeline(name, live(x))), count(create_pipeline(name || '_final', live(x), emit => 'final')) FROM tried x;
-- over a table, and where there are no groups, each row has a window of its own
SELECT create_pipeline('linear', 'SELECT id, window_start, window_end FROM s, session(ts, ''6 min'')');

-- whole minutes: many are equal, many one minute apart; disorder of up to half an hour
CREATE FUNCTION public.more(first int, last int) RETURNS void LANGUAGE sql AS $$
INSERT INTO oracle.s
SELECT i, nullif('k' || i * 7 % 5, 'k4'), nullif(i % 3, 2)::bool, i % 7, nullif('t' || i % 4, 't3'),
       CASE i WHEN 50 THEN NULL WHEN 60 THEN 'infinity' WHEN 70 THEN '-infinity'
              ELSE '2024-01-01 12:00Z'::timestamptz + i * interval '1 min' + i * i % 31 * interval '1 min' + i / 60 * interval '15 min' END
FROM generate_series(first, last) i
$$;
SELECT more(1, 100);
INSERT INTO live.s SELECT * FROM oracle.s ORDER BY id * 37 % 101;
SELECT checkpoint();
SELECT name, compare(x, false), compare(x, true) AS final FROM tried x ORDER BY name;
-- row by row, with checkpoints in between
SELECT more(101, 300);
DO $$
BEGIN
    FOR i IN 101 .. 300 LOOP
        INSERT INTO live.s SELECT * FROM oracle.s WHERE id = i;
        COMMIT;
        IF i % 40 = 0 THEN
            PERFORM stream_ckpt.checkpoint();
        END IF;
    END LOOP;
END $$;
SELECT checkpoint();
SELECT name, compare(x, false), compare(x, true) AS final FROM tried x WHERE 'equal' <> ANY (ARRAY[compare(x, false), compare(x, true)]) ORDER BY name;
(TABLE linear EXCEPT ALL SELECT id, window_start, window_end FROM oracle.s, session(ts, '6 min')) UNION ALL
(SELECT id, window_start, window_end FROM oracle.s, session(ts, '6 min') EXCEPT ALL TABLE linear);
SELECT pipeline, rows_out, late_rows, error FROM pipelines WHERE rows_out = 0 OR late_rows > 0 OR error IS NOT NULL OR status <> 'running';
SELECT pipeline, state_rows FROM pipelines WHERE pipeline IN ('plain', 'plain_final', 'no_key', 'linear') ORDER BY 1;
SELECT (SELECT count(*) FROM plain) AS sessions, (SELECT count(*) FROM plain_final) AS closed, (SELECT count(*) FROM touching WHERE n > 1) AS of_equal_times;
SELECT * FROM plain_final ORDER BY window_end DESC, k LIMIT 3;

-- by eye: a row that is less than the gap from two sessions makes them one
CREATE FUNCTION public.at(minute float8) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$SELECT '2024-01-01 12:00Z'::timestamptz + minute * interval '1 min'$$;
SELECT create_stream('c', 'id int, k text, ts timestamptz', event_time => 'ts', watermark_delay => '10 min');
SELECT create_pipeline('c_changes', 'SELECT k, window_start::time AS first, window_start, window_end, count(*) AS n, array_agg(DISTINCT id % 4) AS r FROM c, session(ts, ''5 min'') GROUP BY k, window_start, window_end');
SELECT create_pipeline('c_final', 'SELECT k, window_start, window_end, array_agg(id ORDER BY id) AS ids FROM c, session(ts, ''5 min'') GROUP BY k, window_start, window_end', emit => 'final');
SELECT create_pipeline('c_lateness', 'SELECT k, window_start, window_end, array_agg(id ORDER BY id) AS ids FROM c, session(ts, ''5 min'') GROUP BY k, window_start, window_end', emit => 'final', allowed_lateness => '10 min');
SELECT create_pipeline('c_end', 'SELECT k, window_end, count(*) AS n FROM c, session(ts, ''5 min'') GROUP BY k, window_end HAVING count(*) < 3');
INSERT INTO c VALUES (1, 'a', at(20)), (2, 'a', at(29)), (3, 'b', at(20)), (4, 'b', at(25)), (5, NULL, at(20)), (6, NULL, at(21)), (7, 'a', at(20));
SELECT checkpoint();
SELECT k, first, window_end, n, r FROM c_changes ORDER BY 1, 2;
SELECT * FROM c_end ORDER BY 1, 2;
INSERT INTO c VALUES (8, 'a', at(24.5)), (9, 'b', at(24.999));
SELECT checkpoint();
SELECT k, first, window_end, n, r FROM c_changes ORDER BY 1, 2;
SELECT * FROM c_end ORDER BY 1, 2;
TABLE c_final;
-- to 30: two sessions close
INSERT INTO c VALUES (10, 'a', at(40));
SELECT checkpoint();
TABLE c_final;
-- what is before 30 is late, also where its session is open; with ten minutes of lateness it brings closed ones together
INSERT INTO c VALUES (11, 'a', at(29.9)), (12, 'a', at(30)), (13, 'b', at(30)), (14, 'b', at(34.9)), (15, 'a', at(29)), (16, 'b', at(29.9));
SELECT checkpoint();
SELECT k, first, window_end, n, r FROM c_changes ORDER BY 1, 2;
SELECT * FROM c_end ORDER BY 1, 2;
INSERT INTO c VALUES (17, 'a', at(70));
SELECT checkpoint();
SELECT k, first, window_end, n, r FROM c_changes ORDER BY 1, 2;
TABLE c_final;
TABLE c_lateness;
SELECT pipeline, watermark, late_rows, state_rows FROM pipelines WHERE pipeline LIKE 'c\_%' ORDER BY 1;

-- refused
CREATE FUNCTION public.refused(query text, mode text DEFAULT 'changes') RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
    PERFORM create_pipeline('refused', query, emit => mode);
    PERFORM drop_pipeline('refused');
    RETURN 'works';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', sqlstate || ': ' || sqlerrm, nullif(hint, ''));
END $$;
SELECT refused(query) FROM unnest(ARRAY[
    'SELECT k, count(*) FROM c, session(ts, ''5 min'') GROUP BY k',
    'SELECT count(*) FROM c, session(ts, ''5 min'')',
    'SELECT window_start, count(*) FROM c, session(ts, ''5 min'') WHERE window_start > ''2024-01-01'' GROUP BY 1',
    'SELECT window_start, max(window_end) FROM c, session(ts, ''5 min'') GROUP BY 1',
    'SELECT window_start, count(*) FILTER (WHERE window_start < ''2024-01-01'') FROM c, session(ts, ''5 min'') GROUP BY 1',
    'SELECT date_trunc(''hour'', window_start) AS h, count(*) FROM c, session(ts, ''5 min'') GROUP BY 1',
    'SELECT date_trunc(''hour'', window_start) AS h, window_end, count(*) FROM c, session(ts, ''5 min'') GROUP BY 1, 2',
    'SELECT w.window_start, count(*) FROM (SELECT window_end, count(*) AS n FROM c, tumble(ts, ''5 min'') GROUP BY 1) x, session(window_end, ''5 min'') w GROUP BY 1',
    'SELECT window_start, count(*) FROM c, session(timestamptz ''2024-01-01'', ''5 min'') GROUP BY 1',
    'SELECT window_start, count(*) FROM c, session(ts, ''0'') GROUP BY 1',
    'SELECT window_start, count(*) FROM c, session(ts, ''1 month'') GROUP BY 1']) query;
SELECT refused('SELECT window_start, count(*) FROM c, session(ts + interval ''1 s'', ''5 min'') GROUP BY 1', 'final');

SET client_min_messages = warning;
DROP SCHEMA live, oracle CASCADE;
DROP FUNCTION live, oracle, compare, more, at, refused;
DROP TABLE tried;
DROP AGGREGATE product(numeric);
SELECT count(*) AS pipelines FROM pipelines;
