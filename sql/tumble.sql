-- Windows in pipelines: what comes out is what the same SQL gives over a table; with emit => 'final', of closed windows.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA live;
CREATE SCHEMA oracle;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'Europe/Berlin';
CREATE TABLE oracle.s (id int, k text, v int, ts timestamptz, local timestamp, other timestamptz);
CREATE FOREIGN TABLE live.s (id int, k text, v int, ts timestamptz, local timestamp, other timestamptz)
    SERVER stream_ckpt OPTIONS (event_time 'ts', watermark_delay '2 hours');
-- the event time may be a timestamp without zone, whose watermark is read as UTC
CREATE TABLE oracle.l (id int, local timestamp);
CREATE FOREIGN TABLE live.l (id int, local timestamp) SERVER stream_ckpt OPTIONS (event_time 'local');
CREATE TABLE public.dim (dk text, label text, since timestamptz);
INSERT INTO public.dim VALUES ('k0', 'zero', '2024-01-01Z'), ('k1', 'one', '2024-03-31 12:00Z'), ('k1', 'uno', '2024-01-01Z'), ('k9', 'nine', '-infinity');

-- Name; when a row of the result is final, if ever; and query. Run over the stream and over the table.
CREATE TABLE public.tried (name text, closes text, query text);
INSERT INTO public.tried VALUES
    ('tumble', 'window_end', 'SELECT window_start, window_end, k, count(*) AS n, sum(v) AS s, max(id) AS last FROM s, tumble(ts, ''1 hour'') GROUP BY window_start, window_end, k'),
    ('start_only', 'window_start + interval ''1 hour''', 'SELECT window_start, count(*) AS n FROM s, tumble(ts, ''1 hour'') GROUP BY window_start'),
    ('end_only', 'window_end', 'SELECT k, window_end, count(v) AS n FROM s, tumble(ts, ''90 min'') GROUP BY window_end, k'),
    ('hop', 'window_end', 'SELECT window_start, window_end, k, count(*) AS n, avg(v) AS a FROM s, hop(ts, ''1 hour'', ''6 hours'') GROUP BY 1, 2, 3'),
    ('hop_start', 'window_start + interval ''6 hours''', 'SELECT window_start, sum(v) AS s FROM s, hop(ts, ''2 hours'', ''6 hours'', ''2024-01-01 00:30Z'') GROUP BY 1'),
    ('cumulate', 'window_end', 'SELECT window_start, window_end, count(*) AS n, min(id) AS first FROM s, cumulate(ts, ''3 hours'', ''12 hours'') GROUP BY 1, 2'),
    ('days', 'window_end', 'SELECT window_start, window_end, k, count(*) AS n FROM s, tumble(ts, ''1 day'', ''2024-01-01 00:00'') GROUP BY 1, 2, 3'),
    ('months', 'window_end', 'SELECT window_start, window_end, count(*) AS n FROM s, tumble(ts, ''1 month'') GROUP BY 1, 2'),
    ('month_starts', 'window_start + interval ''1 month''', 'SELECT window_start, count(*) AS n FROM s, tumble(ts, ''1 month'') GROUP BY 1'),
    ('months_origin', 'window_end', 'SELECT window_start, window_end, count(*) AS n FROM s, tumble(ts, ''1 month'', ''2024-01-31 10:00'') GROUP BY 1, 2'),
    ('local', NULL, 'SELECT window_start, window_end, count(*) AS n FROM s, tumble(local, ''1 hour'') GROUP BY 1, 2'),
    ('of_local', 'window_end AT TIME ZONE ''UTC''', 'SELECT window_start, window_end, count(*) AS n, max(id) AS last FROM l, hop(local, ''20 min'', ''1 hour'') GROUP BY 1, 2'),
    ('of_local_months', 'window_end AT TIME ZONE ''UTC''', 'SELECT window_start, window_end, count(*) AS n FROM l, tumble(local, ''1 month'') GROUP BY 1, 2'),
    ('two', 'window_end', 'SELECT h.window_start AS hour, h.window_end, d.window_start AS day, count(*) AS n FROM s, tumble(ts, ''1 hour'') h, tumble(ts, ''1 day'') d GROUP BY 1, 2, 3'),
    ('two_hops', NULL, 'SELECT a.window_start AS a, b.window_end AS b, count(*) AS n FROM s, hop(ts, ''1 hour'', ''2 hours'') a, hop(ts, ''30 min'', ''1 hour'') b GROUP BY 1, 2'),
    ('two_columns', 'window_end', 'SELECT e.window_start, e.window_end, o.window_start AS other, count(*) AS n FROM s, tumble(ts, ''6 hours'') e, tumble(other, ''1 day'') o GROUP BY 1, 2, 3'),
    ('unused', 'window_end', 'SELECT a.window_end, count(*) AS n FROM s, tumble(ts, ''6 hours'') a, hop(ts, ''1 hour'', ''3 hours'') b GROUP BY 1'),
    ('no_bounds', NULL, 'SELECT k, count(*) AS n FROM s, hop(ts, ''1 hour'', ''2 hours'') GROUP BY k'),
    ('no_group', NULL, 'SELECT count(*) AS n, min(window_start) AS first, max(window_end) AS last FROM s, hop(ts, ''1 hour'', ''2 hours'')'),
    ('shown', 'window_end', 'SELECT window_start, window_end, (window_end - interval ''1 us'')::date AS until, k || ''@'' || extract(dow FROM window_start) AS label, k, count(*) * 10 AS n FROM s, tumble(ts, ''1 hour'') GROUP BY window_start, window_end, k'),
    ('expression_keys', NULL, 'SELECT date_trunc(''day'', window_start) AS day, window_end + interval ''1 min'' AS e, count(*) AS n FROM s, hop(ts, ''6 hours'', ''12 hours'') GROUP BY 1, 2'),
    ('arguments', 'window_end', 'SELECT window_end, sum(extract(epoch FROM ts - window_start)) AS s, max(window_end - ts) AS m, count(*) FILTER (WHERE ts - window_start < ''1 hour'') AS early, count(DISTINCT window_start) AS one FROM s, hop(ts, ''1 hour'', ''3 hours'') GROUP BY window_end'),
    ('wheres', 'window_end', 'SELECT window_start, window_end, count(*) AS n FROM s, hop(ts, ''1 hour'', ''3 hours'') WHERE window_end > ''2024-03-31 00:00Z'' AND ts > window_start + interval ''1 hour'' AND v > 20 GROUP BY 1, 2'),
    ('having', 'window_end', 'SELECT window_start, window_end, k, count(*) AS n FROM s, tumble(ts, ''3 hours'') GROUP BY 1, 2, 3 HAVING count(*) > 2 AND extract(hour FROM window_start) <> 4 AND min(v) < 60'),
    ('joined', 'window_end', 'SELECT window_start, window_end, label, count(*) AS n FROM s JOIN dim ON dk = k, tumble(ts, ''3 hours'') GROUP BY 1, 2, 3'),
    ('left_joined', 'window_end', 'SELECT window_start, window_end, label, count(*) AS n, count(dk) AS d FROM s LEFT JOIN dim ON dk = k AND label <> ''uno'' CROSS JOIN LATERAL tumble(ts, ''3 hours'') GROUP BY 1, 2, 3'),
    ('joined_on_bounds', 'window_end', 'SELECT window_end, label, count(*) AS n FROM s, hop(ts, ''1 hour'', ''2 hours''), dim WHERE dk = k AND window_start >= since GROUP BY 1, 2'),
    ('sub_select', 'window_end', 'SELECT window_start, window_end, w, count(*) AS n FROM (SELECT ts AS t, v % 3 AS w FROM s WHERE v > 10) x, tumble(t, ''2 hours'') GROUP BY 1, 2, 3'),
    ('window_inside', 'window_end', 'SELECT window_end AS window_end, label, sum(v) AS s FROM (SELECT window_start, window_end, v, upper(label) AS label FROM s JOIN dim ON dk = k, tumble(ts, ''2 hours'') WHERE v < 90) x GROUP BY window_end, label'),
    ('with', 'window_end', 'WITH x AS (SELECT k, v, w.* FROM s JOIN LATERAL tumble(ts, ''2 hours'') w ON v > 5), names AS (SELECT DISTINCT dk FROM dim) SELECT window_start, window_end, count(*) AS n FROM x JOIN names ON dk = k GROUP BY 1, 2'),
    ('linear', NULL, 'SELECT s.*, window_start, window_end FROM s, tumble(ts, ''1 hour'')'),
    ('linear_hop', NULL, 'SELECT id, window_end - ts AS rest, label FROM s LEFT JOIN dim ON dk = k, hop(ts, ''1 hour'', ''3 hours'') w WHERE id % 3 = 0 AND window_end - ts < ''90 min''');

SET search_path = live, public, stream_ckpt;
SELECT count(create_pipeline(name, query)) FROM tried;
SELECT count(create_pipeline(name || '_final', query, emit => 'final')) FROM tried WHERE closes IS NOT NULL;
-- months are those of the zone that was set
SET timezone = 'UTC';

-- The same rows in both: disorder of less than two hours, a change of the clocks and the end of a month in between.
CREATE FUNCTION public.more(first int, last int) RETURNS void LANGUAGE sql AS $$
INSERT INTO oracle.s
SELECT i, nullif('k' || i % 4, 'k3'), nullif(i * 37 % 101, 100), t, t AT TIME ZONE 'UTC', '2024-01-01Z'::timestamptz + i % 5 * interval '11 hours'
FROM generate_series(first, last) i,
     LATERAL (SELECT '2024-03-30 10:00Z'::timestamptz + i * interval '17 min' + i * 7 % 5 * interval '20 min') x(t);
INSERT INTO oracle.l SELECT id, local FROM oracle.s WHERE id BETWEEN first AND last AND id % 5 = 0
$$;
-- the result, and, for the final one, which rows of the query are closed
CREATE FUNCTION public.compare(name text, query text, closes text DEFAULT NULL) RETURNS text LANGUAGE plpgsql
SET search_path = oracle, public, stream_ckpt SET timezone = 'Europe/Berlin' AS $$
DECLARE
    missing bigint;
    extra bigint;
    disorder bigint = 0;
BEGIN
    IF closes IS NOT NULL THEN
        query := format('SELECT * FROM (%s) x WHERE %s <= %s', query, closes, CASE WHEN query ~ 'FROM l,'
                        THEN '(SELECT max(local) FROM l WHERE isfinite(local)) AT TIME ZONE ''UTC'''
                        ELSE '(SELECT max(ts) FROM s WHERE isfinite(ts)) - interval ''2 hours''' END);
        name := name || '_final';
        EXECUTE format('SELECT count(*) FROM (SELECT %s < lag(%1$s) OVER (ORDER BY ctid) AS back FROM live.%I) x WHERE back', closes, name) INTO disorder;
    END IF;
    EXECUTE format('SELECT count(*) FROM ((%s) EXCEPT ALL TABLE live.%I) x', query, name) INTO missing;
    EXECUTE format('SELECT count(*) FROM (TABLE live.%I EXCEPT ALL (%s)) x', name, query) INTO extra;
    RETURN CASE WHEN missing + extra + disorder = 0 THEN 'equal' ELSE format('%s missing, %s extra, %s out of order', missing, extra, disorder) END;
END $$;

-- NULL and infinite times are in no window, and do not move the watermark
INSERT INTO oracle.s VALUES (-1, 'k1', 50, NULL, NULL, NULL), (-2, 'k1', 50, 'infinity', 'infinity', '2024-01-01Z'), (-3, 'k1', 50, '-infinity', '-infinity', '-infinity');
INSERT INTO oracle.l VALUES (-1, NULL), (-2, 'infinity'), (-3, '-infinity');
INSERT INTO live.s SELECT * FROM oracle.s;
INSERT INTO live.l SELECT * FROM oracle.l;
SELECT checkpoint();
SELECT stream, watermark FROM streams ORDER BY 1;
SELECT name, compare(name, query) FROM tried WHERE compare(name, query) <> 'equal';
SELECT * FROM no_group;
SELECT count(*) FROM linear;

-- in one transaction
SELECT more(1, 150);
INSERT INTO live.s SELECT * FROM oracle.s WHERE id > 0 ORDER BY id DESC;
INSERT INTO live.l SELECT * FROM oracle.l WHERE id > 0;
SELECT checkpoint();
SELECT stream, watermark FROM streams ORDER BY 1;
SELECT name, compare(name, query), CASE WHEN closes IS NOT NULL THEN compare(name, query, closes) END AS final FROM tried ORDER BY name;
-- in many
SELECT more(151, 300);
DO $$
BEGIN
    FOR i IN 151 .. 300 LOOP
        INSERT INTO live.s SELECT * FROM oracle.s WHERE id = i;
        INSERT INTO live.l SELECT * FROM oracle.l WHERE id = i;
        COMMIT;
    END LOOP;
END $$;
SELECT checkpoint();
SELECT stream, watermark FROM streams ORDER BY 1;
SELECT name, compare(name, query), CASE WHEN closes IS NOT NULL THEN compare(name, query, closes) END AS final FROM tried
WHERE 'equal' <> ANY (ARRAY[compare(name, query), CASE WHEN closes IS NOT NULL THEN compare(name, query, closes) END]) ORDER BY name;
SELECT pipeline, rows_out, late_rows, error FROM pipelines WHERE rows_out = 0 OR late_rows > 0 OR error IS NOT NULL OR status <> 'running';

-- a look at some by eye
SET timezone = 'Europe/Berlin';
TABLE months_final;
SELECT * FROM months ORDER BY 1;
SELECT * FROM tumble_final ORDER BY window_end, last LIMIT 5;
SELECT * FROM joined_final ORDER BY window_end DESC, label LIMIT 3;
SELECT * FROM "having" WHERE window_start > '2024-04-02 15:00Z' ORDER BY 1, 3;
SELECT id, window_start, window_end FROM linear WHERE id > 298 ORDER BY id;
SELECT * FROM no_group;

-- explain says what closes, and when
CREATE FUNCTION public.windows_of(query text, lateness interval DEFAULT '0') RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM create_pipeline('explained', query, allowed_lateness => lateness);
    RETURN QUERY SELECT line FROM explain_pipeline('explained') line WHERE line ~ 'Window:|State: [a-z]';
    PERFORM drop_pipeline('explained');
END $$;
SELECT windows_of('SELECT window_start, count(*) FROM s, tumble(ts, ''1 hour'') GROUP BY 1');
SELECT windows_of('SELECT window_start, count(*) FROM s, hop(ts, ''1 min'', ''1 hour'') GROUP BY 1', '90 s');
SELECT windows_of('SELECT window_start, count(*) FROM s, cumulate(ts, ''1 hour'', ''1 day'') GROUP BY 1');
SELECT windows_of('SELECT window_start, count(*) FROM s, tumble(ts, ''1 year'') GROUP BY 1');
SELECT windows_of('SELECT window_start, k, count(*) FROM s, session(ts, ''1 hour'') GROUP BY 1, 2');
SELECT windows_of('SELECT window_start, count(*) FROM s, tumble(other, ''1 hour'') GROUP BY 1');
SELECT windows_of('SELECT window_start, count(*) FROM s, tumble(ts + interval ''0'', ''1 hour'') GROUP BY 1');
SELECT windows_of('SELECT k, count(*) FROM s, tumble(ts, ''1 hour'') GROUP BY 1');
SELECT windows_of('SELECT window_end + ''1 s'', count(*) FROM s, tumble(ts, ''1 hour'') GROUP BY 1');
SELECT windows_of('SELECT o.window_start, w.window_end, count(*) FROM s, tumble(ts, ''1 hour'') w, tumble(other, ''1 hour'') o GROUP BY 1, 2');

-- refused by name
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
SELECT refused(query) FROM unnest(ARRAY[
    'SELECT window_start, count(*) FROM s, tumble(ts, ''0'') GROUP BY 1',
    'SELECT window_start, count(*) FROM s, hop(ts, ''7 min'', ''1 hour'') GROUP BY 1',
    'SELECT window_start, count(*) FROM s, tumble(ts, v * interval ''1 s'') GROUP BY 1',
    'SELECT window_start, count(*) FROM s, tumble(ts, ''1 hour'', other) GROUP BY 1',
    'SELECT window_start, count(*) FROM s, tumble(ts, ''1 hour'', now()) GROUP BY 1',
    'SELECT window_start, count(*) FROM s, tumble(now(), ''1 hour'') GROUP BY 1',
    'SELECT window_start, count(*) FROM s, tumble(greatest(ts, now()), ''1 hour'') GROUP BY 1',
    'SELECT b.window_start, count(*) FROM s, tumble(ts, ''1 hour'') a, tumble(a.window_start, ''1 day'') b GROUP BY 1',
    'SELECT a.window_start, b.window_start AS b, count(*) FROM s, session(ts, ''1 hour'') a, tumble(ts, ''1 day'') b GROUP BY 1, 2',
    'SELECT window_start, count(*) FROM s LEFT JOIN LATERAL tumble(ts, ''1 hour'') ON true GROUP BY 1',
    'SELECT window_start, count(*) FROM s, tumble(ts, ''1 hour'') w LEFT JOIN dim ON since = w.window_start GROUP BY 1',
    'SELECT window_start, count(*) FROM s, tumble(ts, ''1 hour'') w LEFT JOIN dim ON true GROUP BY 1',
    'SELECT window_start, count(*) FROM s, tumble(ts, ''1 hour'') WITH ORDINALITY GROUP BY 1',
    'SELECT window_start, count(*) FROM s, ROWS FROM (tumble(ts, ''1 hour''), generate_series(1, 2)) GROUP BY 1',
    'SELECT w, count(*) FROM s, tumble(ts, ''1 hour'') w GROUP BY 1',
    'SELECT window_start, count(*) FROM s, tumble(ts, ''1 hour''), generate_series(window_start, window_end, ''1 min'') GROUP BY 1',
    'SELECT window_start, count(*) FROM s, tumble(ts, ''1 hour''), LATERAL (SELECT FROM dim WHERE since < window_start) x GROUP BY 1',
    'SELECT window_start, generate_series(1, 2) FROM s, tumble(ts, ''1 hour'')',
    'SELECT window_start, (SELECT max(label) FROM dim) FROM s, tumble(ts, ''1 hour'')',
    'SELECT window_start, (SELECT max(label) FROM dim WHERE since < window_start) FROM s, tumble(ts, ''1 hour'')',
    'SELECT window_start, count(*) FROM (SELECT ts, random() FROM s) x, tumble(ts, ''1 hour'') GROUP BY 1',
    'SELECT window_start, count(*) FROM tumble(now(), ''1 hour'') GROUP BY 1']) query;

SET client_min_messages = warning;
DROP SCHEMA live, oracle CASCADE;
DROP TABLE tried, dim;
DROP FUNCTION more, compare, windows_of, refused;
SELECT count(*) AS pipelines FROM pipelines;
