-- Aggregates over aggregates: what a group below takes back is taken back above, too.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA live;
CREATE SCHEMA oracle;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
CREATE TABLE oracle.s (id int, k text, v int, f float8, ts timestamptz);
CREATE FOREIGN TABLE live.s (id int, k text, v int, f float8, ts timestamptz) SERVER stream_ckpt OPTIONS (event_time 'ts', watermark_delay '2 hours');
CREATE TABLE public.dim (dk text, label text);
INSERT INTO public.dim VALUES ('k0', 'zero'), ('k1', 'one'), ('k1', 'uno'), ('k2', NULL);
CREATE FUNCTION public.half(int8) RETURNS numeric LANGUAGE plpgsql STABLE AS 'BEGIN RETURN $1 / 2.0; END';

-- Name; when a row of the result is final, if ever; and query. Sums go up and down.
CREATE TABLE public.tried (name text, closes text, query text);
INSERT INTO public.tried VALUES
    ('per_window', 'window_end', 'SELECT window_start, window_end, max(n) AS x, min(n) AS m, sum(n) AS s, avg(n) AS a, count(*) AS c, count(k) AS ck FROM (SELECT window_start, window_end, k, sum(v) AS n FROM s, hop(ts, ''20 min'', ''1 hour'') GROUP BY 1, 2, 3) x GROUP BY window_start, window_end'),
    ('of_values', 'window_end', 'SELECT window_end, array_agg(n ORDER BY n, k) AS ns, string_agg(k, '','' ORDER BY n DESC, k) AS ks, count(DISTINCT n) AS d, mode() WITHIN GROUP (ORDER BY n) AS m, percentile_disc(0.5) WITHIN GROUP (ORDER BY n DESC) AS p, bool_or(n > 0) AS b, sum(DISTINCT n) FILTER (WHERE n < 0) AS neg FROM (SELECT window_end, k, sum(v) AS n FROM s, tumble(ts, ''1 hour'') GROUP BY 1, 2) x GROUP BY window_end'),
    ('floats', NULL, 'SELECT k, sum(f) AS s, avg(f) AS a, max(f) AS m, round(stddev(f)::numeric, 6) AS d FROM (SELECT k, v, sum(f) AS f FROM s GROUP BY k, v) x GROUP BY k'),
    ('histogram', NULL, 'SELECT n, count(*) AS keys, min(last) AS last FROM (SELECT v, count(*) AS n, max(id) AS last FROM s GROUP BY v) x GROUP BY n'),
    ('no_group', NULL, 'SELECT max(n) AS x, min(n) AS m, count(*) AS c, sum(n) AS s, array_agg(k ORDER BY n, k) AS a FROM (SELECT k, sum(v) AS n FROM s GROUP BY k) x'),
    ('no_group_below', NULL, 'SELECT n % 2 AS odd, count(*) AS c, max(s) AS s FROM (SELECT count(*) AS n, sum(v) AS s FROM s) x GROUP BY n % 2'),
    ('three', NULL, 'SELECT top, count(*) AS c FROM (SELECT m, max(n) AS top FROM (SELECT v, id % 3 AS m, sum(id) AS n FROM s GROUP BY 1, 2) x GROUP BY m) y GROUP BY top'),
    ('three_windows', 'window_end', 'SELECT window_end, count(*) AS c, max(hi) AS hi FROM (SELECT window_end, n % 5 AS r, max(n) AS hi FROM (SELECT window_end, k, v % 4 AS q, sum(v) AS n FROM s, tumble(ts, ''1 hour'') GROUP BY 1, 2, 3) x GROUP BY 1, 2) y GROUP BY 1'),
    ('having_below', 'window_end', 'SELECT window_end, count(*) AS c, max(n) AS x FROM (SELECT window_end, k, sum(v) AS n FROM s, tumble(ts, ''1 hour'') GROUP BY 1, 2 HAVING sum(v) BETWEEN -3 AND 3) x GROUP BY 1'),
    ('having_both', 'window_end', 'SELECT window_end, sum(n) AS n FROM (SELECT window_end, k, count(*) AS n FROM s, hop(ts, ''30 min'', ''1 hour'') GROUP BY 1, 2 HAVING count(*) > 1) x GROUP BY 1 HAVING sum(n) % 2 = 1'),
    ('conditions', 'window_end', 'SELECT window_end, upper(k) AS u, count(*) FILTER (WHERE n > 0) AS pos, sum(n * 2 + 1) AS s FROM (SELECT window_end, k, v, sum(id % 7 - 3) AS n FROM s, tumble(ts, ''1 hour'') GROUP BY 1, 2, 3) x WHERE n <> 1 AND k IS NOT NULL GROUP BY 1, 2'),
    ('hours', 'window_end', 'SELECT w.window_start, w.window_end, sum(n) AS n, max(n) AS x, count(*) AS c FROM (SELECT window_start, window_end, k, sum(v) AS n FROM s, tumble(ts, ''10 min'') GROUP BY 1, 2, 3) x, tumble(x.window_end, ''1 hour'') w GROUP BY 1, 2'),
    ('hours_of_starts', 'window_end + interval ''10 min''', 'SELECT w.window_end, sum(n) AS n, max(n) AS x FROM (SELECT window_start, k, sum(v) AS n FROM s, tumble(ts, ''10 min'') GROUP BY 1, 2) x, tumble(x.window_start, ''1 hour'') w GROUP BY 1'),
    ('hops_of_hops', 'window_end', 'SELECT w.window_end, k, sum(n) AS n, min(n) AS m FROM (SELECT window_start, window_end, k, count(*) AS n FROM s, hop(ts, ''5 min'', ''15 min'') GROUP BY 1, 2, 3) x, hop(x.window_end, ''15 min'', ''1 hour'') w WHERE n > 1 GROUP BY 1, 2'),
    ('shifted', NULL, 'SELECT w.window_end, sum(n) AS n FROM (SELECT window_end, k, sum(v) AS n FROM s, tumble(ts, ''10 min'') GROUP BY 1, 2) x, tumble(x.window_end - interval ''1 us'', ''1 hour'') w GROUP BY 1'),
    ('joined_below', 'window_end', 'SELECT window_end, label, max(n) AS x FROM (SELECT window_end, label, v % 3 AS r, sum(v) AS n FROM s LEFT JOIN dim ON dk = k, tumble(ts, ''1 hour'') GROUP BY 1, 2, 3) x GROUP BY 1, 2'),
    ('with', 'window_end', 'WITH a AS (SELECT window_end, k, sum(v) AS n FROM s, tumble(ts, ''30 min'') GROUP BY 1, 2), b AS (SELECT window_end, k, n * n AS q FROM a WHERE n <> 2) SELECT window_end, max(q) AS q, count(*) AS c FROM b GROUP BY window_end'),
    ('folded', 'window_end', 'SELECT k || ''!'' AS shout, window_end, n * 2 AS twice, k FROM (SELECT window_end, k, count(*) AS n, sum(v) AS s FROM s, tumble(ts, ''1 hour'') GROUP BY 1, 2) x WHERE s < 2'),
    ('folded_between', 'window_end', 'SELECT window_end, array_agg(m ORDER BY m) AS m FROM (SELECT window_end, abs(n) AS m FROM (SELECT window_end, k, sum(v) AS n FROM s, tumble(ts, ''1 hour'') GROUP BY 1, 2) x WHERE n <> 1) y GROUP BY 1'),
    ('folded_twice', NULL, 'SELECT k, d + 1 AS e FROM (SELECT k, n * 2 AS d FROM (SELECT k, sum(v) AS n FROM s GROUP BY k) x WHERE n > -10) y WHERE d < 100');

SET search_path = live, public, stream_ckpt;
SELECT count(create_pipeline(name, query)) FROM tried;
SELECT count(create_pipeline(name || '_final', query, emit => 'final')) FROM tried WHERE closes IS NOT NULL;
CREATE FUNCTION public.more(first int, last int) RETURNS void LANGUAGE sql AS $$
INSERT INTO oracle.s
SELECT i, nullif('k' || i % 4, 'k3'), i * 37 % 11 - 5, (i * 5 % 9 - 4) * 0.25, '2024-01-01 12:00Z'::timestamptz + i * interval '3 min' + i * i % 23 * interval '5 min'
FROM generate_series(first, last) i
$$;
CREATE FUNCTION public.compare(name text, query text, closes text DEFAULT NULL) RETURNS text LANGUAGE plpgsql SET search_path = oracle, public, stream_ckpt AS $$
DECLARE
    missing bigint;
    extra bigint;
    disorder bigint = 0;
BEGIN
    IF closes IS NOT NULL THEN
        query := format('SELECT * FROM (%s) x WHERE %s <= (SELECT max(ts) FROM s) - interval ''2 hours''', query, closes);
        name := name || '_final';
        EXECUTE format('SELECT count(*) FROM (SELECT %s < lag(%1$s) OVER (ORDER BY ctid) AS back FROM live.%I) x WHERE back', closes, name) INTO disorder;
    END IF;
    EXECUTE format('SELECT count(*) FROM ((%s) EXCEPT ALL TABLE live.%I) x', query, name) INTO missing;
    EXECUTE format('SELECT count(*) FROM (TABLE live.%I EXCEPT ALL (%s)) x', name, query) INTO extra;
    RETURN CASE WHEN missing + extra + disorder = 0 THEN 'equal' ELSE format('%s missing, %s extra, %s out of order', missing, extra, disorder) END;
END $$;
CREATE VIEW public.compared AS
    SELECT name, compare(name, query), CASE WHEN closes IS NOT NULL THEN compare(name, query, closes) END AS final FROM tried ORDER BY name;
-- results over no rows
SELECT checkpoint();
SELECT * FROM compared WHERE 'equal' <> ANY (ARRAY[compare, final]);
TABLE no_group;
TABLE no_group_below;
SELECT more(1, 120);
INSERT INTO live.s SELECT * FROM oracle.s ORDER BY id * 37 % 121;
SELECT checkpoint();
TABLE compared;
-- row by row; the smallest steps between checkpoints take back the most
SELECT more(121, 240);
DO $$
BEGIN
    FOR number IN 121 .. 240 LOOP
        INSERT INTO live.s SELECT * FROM oracle.s WHERE id = number;
        COMMIT;
        IF number % 10 = 0 THEN
            PERFORM stream_ckpt.checkpoint();
        END IF;
    END LOOP;
END $$;
SELECT checkpoint();
SELECT * FROM compared WHERE 'equal' <> ANY (ARRAY[compare, final]);
-- from the checkpoint
SELECT count(pause_pipeline(pipeline)) FROM pipelines;
SELECT count(resume_pipeline(pipeline)) FROM pipelines;
SELECT more(241, 280);
INSERT INTO live.s SELECT * FROM oracle.s WHERE id > 240;
SELECT checkpoint();
SELECT * FROM compared WHERE 'equal' <> ANY (ARRAY[compare, final]);
SELECT pipeline, rows_out, late_rows, error FROM pipelines WHERE rows_out = 0 OR late_rows > 0 OR error IS NOT NULL OR status <> 'running';
SELECT (SELECT count(*) FROM hours) AS hours, (SELECT count(*) FROM hours_final) AS closed, (SELECT count(*) FROM folded_final) AS folded;
-- what was taken back has left: groups below and above, and one value (or four) of each
SELECT pipeline, state_rows - 11 - 11 - (SELECT count(*) FROM histogram) AS too_many FROM pipelines WHERE pipeline = 'histogram';
SELECT pipeline, state_rows <= 4 + 1 + 4 * 4 AS bounded FROM pipelines WHERE pipeline = 'no_group';
-- what closes leaves
INSERT INTO live.s VALUES (-1, 'k0', 0, 0, '2024-02-01Z');
SELECT checkpoint();
SELECT pipeline, state_rows FROM pipelines WHERE pipeline IN ('per_window', 'per_window_final', 'hours', 'hours_final', 'hours_of_starts') ORDER BY 1;

-- by eye: the maximum of sums goes down
SELECT create_stream('c', 'k text, v int, ts timestamptz', event_time => 'ts');
SELECT create_pipeline('top', 'SELECT window_start::time AS t, window_start, max(n) AS top, count(*) AS keys, array_agg(k ORDER BY n DESC, k) AS ks FROM (SELECT window_start, k, sum(v) AS n FROM c, tumble(ts, ''1 hour'') GROUP BY 1, 2 HAVING sum(v) > 0) x GROUP BY window_start');
INSERT INTO c VALUES ('a', 5, '2024-01-01 12:00Z'), ('b', 3, '2024-01-01 12:00Z'), ('c', 0, '2024-01-01 12:00Z');
SELECT checkpoint();
SELECT t, top, keys, ks FROM top;
INSERT INTO c VALUES ('a', -4, '2024-01-01 12:00Z'), ('c', 1, '2024-01-01 12:00Z');
SELECT checkpoint();
SELECT t, top, keys, ks FROM top;
INSERT INTO c VALUES ('a', -1, '2024-01-01 12:00Z'), ('b', -3, '2024-01-01 12:00Z'), ('c', -1, '2024-01-01 12:00Z');
SELECT checkpoint();
SELECT t, top, keys, ks FROM top;
INSERT INTO c VALUES ('b', 1, '2024-01-01 12:00Z'), ('b', 7, '2024-01-01 13:00Z');
SELECT checkpoint();
SELECT t, top, keys, ks FROM top ORDER BY 1;
-- closed: late rows change nothing, and the result stays
INSERT INTO c VALUES ('b', 100, '2024-01-01 12:59Z');
SELECT checkpoint();
SELECT t, top, keys, ks FROM top ORDER BY 1;
SELECT late_rows, state_rows FROM pipelines WHERE pipeline = 'top';
-- a session that grows moves from one hour to the next
SELECT create_pipeline('sessions', 'SELECT w.window_start, count(*) AS sessions, max(n) AS longest, array_agg(k ORDER BY k) AS ks FROM (SELECT k, window_end, count(*) AS n FROM c, session(ts, ''10 min'') GROUP BY 1, 2) x, tumble(x.window_end, ''1 hour'') w GROUP BY 1');
INSERT INTO c VALUES ('a', 0, '2024-01-01 14:20Z'), ('a', 0, '2024-01-01 14:00Z'), ('a', 0, '2024-01-01 14:10Z'), ('b', 0, '2024-01-01 14:20Z'), ('b', 0, '2024-01-01 14:45Z');
SELECT checkpoint();
TABLE sessions;
INSERT INTO c VALUES ('a', 0, '2024-01-01 14:50Z');
SELECT checkpoint();
TABLE sessions;
INSERT INTO c VALUES ('b', 0, '2024-01-01 14:54Z');
SELECT checkpoint();
SELECT * FROM sessions ORDER BY 1;
SELECT explain FROM explain_pipeline('sessions') explain WHERE explain ~ 'Stage|Window|Key|Aggregate|State: [a-z]';

-- refused
CREATE FUNCTION public.refused(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
    PERFORM create_pipeline('refused', query);
    PERFORM drop_pipeline('refused');
    RETURN 'works';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', sqlstate || ': ' || sqlerrm, nullif(hint, ''));
END $$;
SELECT refused(replace(query, '@', '(SELECT window_end, k, sum(v) AS n FROM c, tumble(ts, ''1 hour'') GROUP BY 1, 2) x')) FROM unnest(ARRAY[
    'SELECT label, max(n) FROM @ JOIN dim ON dk = k GROUP BY 1', 'SELECT label, max(n) FROM @ LEFT JOIN dim ON dk = k GROUP BY 1', 'SELECT label, max(n) FROM @, dim GROUP BY 1',
    'SELECT k, window_end, n, label FROM @ JOIN dim ON dk = k', 'SELECT k, window_end, generate_series(1, n) FROM @', 'SELECT k, max(generate_series(1, n)) FROM @ GROUP BY k',
    'SELECT k, max(n), generate_series(1, 2) FROM @ GROUP BY k', 'SELECT k, window_end, (SELECT max(label) FROM dim) FROM @', 'SELECT k, max((SELECT count(*) FROM dim WHERE dk = k)) FROM @ GROUP BY k',
    'SELECT k, max(n) FROM @ WHERE EXISTS (SELECT FROM dim WHERE dk = k) GROUP BY k', 'SELECT k, window_end, random() FROM @', 'SELECT k, max(n + random()) FROM @ GROUP BY k',
    'SELECT k, window_end, now() FROM @', 'SELECT k, max(now() - window_end) FROM @ GROUP BY k', 'SELECT k, max(half(n)) FROM @ GROUP BY k', 'SELECT k, max(x::text) FROM @ GROUP BY k',
    'SELECT n FROM @', 'SELECT k, n FROM @', 'SELECT max(n) FROM @ GROUP BY k', 'SELECT w.window_start, k, n FROM @, tumble(window_end, ''1 day'') w',
    'SELECT w.window_start, count(*) FROM @, session(window_end, ''1 day'') w GROUP BY 1', 'SELECT k, row_number() OVER (ORDER BY n) FROM @',
    'SELECT k, count(*) FROM c GROUP BY k UNION ALL SELECT k, max(n) FROM @ GROUP BY k',
    'SELECT k, count(*) FROM c GROUP BY k HAVING count(*) > (SELECT avg(n) FROM @)', 'SELECT k, max(n) FROM @ WHERE n > (SELECT avg(v) FROM c) GROUP BY k',
    'WITH a AS (SELECT k, window_end, n FROM @) SELECT a.k, max(b.n) FROM a JOIN a b USING (k, window_end) GROUP BY 1']) query;
SELECT refused((WITH RECURSIVE q(depth, sql) AS (SELECT 1, 'SELECT k, sum(v) AS v FROM c GROUP BY k' UNION ALL
    SELECT depth + 1, format('SELECT k, max(v) AS v FROM (%s) x%s GROUP BY k', sql, depth) FROM q WHERE depth < 20) SELECT sql FROM q WHERE depth = 20));

SET client_min_messages = warning;
DROP VIEW compared;
DROP SCHEMA live, oracle CASCADE;
DROP TABLE tried, dim;
DROP FUNCTION more, compare, refused, half;
SELECT count(*) AS pipelines FROM pipelines;
