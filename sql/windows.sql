-- Window functions over ordinary tables: which windows a time is in. What
-- pipelines do with them is tested elsewhere; both go through the same code.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA windows;
SET search_path = windows, stream_ckpt, public;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';

CREATE TABLE event (ts timestamptz, local timestamp);
INSERT INTO event VALUES
    ('2024-02-28 23:59:59.999999Z', '2024-02-28 23:59:59.999999'),
    ('2024-02-29 00:00Z', '2024-02-29 00:00'),
    ('2024-02-29 12:34:56.789Z', '2024-02-29 12:34:56.789'),
    ('2000-01-03 00:00Z', '2000-01-03 00:00'),
    ('2000-01-02 23:59:59.999999Z', '2000-01-02 23:59:59.999999'),
    ('1913-06-06 06:06Z', '1913-06-06 06:06'),
    ('0044-03-15 12:00Z BC', '0044-03-15 12:00 BC'),
    (NULL, NULL), ('infinity', 'infinity'), ('-infinity', '-infinity');

-- tumble: [start, end), before the origin too; nulls and infinities are in no window
SELECT ts, window_start, window_end FROM event, tumble(ts, '1 hour') ORDER BY ts;
SELECT ts, window_start, window_end FROM event, tumble(ts, '7 days') ORDER BY ts;
SELECT local, window_start, window_end FROM event, tumble(local, '90 minutes') ORDER BY local;
SELECT local, window_start, window_end FROM event, tumble(local, '1 day', '2000-01-01 06:00') ORDER BY local;
SELECT ts, window_start, window_end FROM event, tumble(ts, size => '1 day 1 hour', origin => '2030-01-01 00:00+01') ORDER BY ts;

-- the types are the argument's
SELECT DISTINCT pg_typeof(t.window_start), pg_typeof(t.window_end), pg_typeof(l.window_start), pg_typeof(l.window_end)
FROM event, tumble(ts, '1 day') t, hop(local, '1 day', '1 day') l;

-- as date_bin() has it, which takes no default origin
SELECT size, count(*), bool_and(window_start = date_bin(size, t, '2000-01-03 00:00Z')) AS same
FROM generate_series('1999-12-01'::timestamptz, '2000-02-01', '17 min 13.7 s') t,
     unnest('{1 us,1 s,7 min,1 hour,1 day,3 days 5 hours,7 days,1000 days}'::interval[]) size,
     tumble(t, size)
GROUP BY size ORDER BY size;

-- days are 24 hours, whatever the clocks do
SET timezone = 'Europe/Berlin';
SELECT ts, window_start, window_end, window_end - window_start AS length
FROM unnest('{2024-03-30 12:00,2024-03-31 01:59,2024-03-31 03:00,2024-03-31 12:00,2024-10-27 02:30+02,2024-10-27 02:30+01}'::timestamptz[]) ts,
     tumble(ts, '1 day', '2024-01-01 00:00')
ORDER BY ts;
SET timezone = 'America/New_York';
SELECT ts, window_start, window_end
FROM unnest('{2024-03-10 01:59,2024-03-10 03:00,2024-11-03 01:30-04,2024-11-03 01:30-05,2024-11-03 23:59}'::timestamptz[]) ts,
     tumble(ts, '1 day', '2024-01-01 00:00')
ORDER BY ts;

-- months follow the calendar of the time zone
SET timezone = 'Europe/Berlin';
SELECT ts, window_start, window_end, extract(epoch FROM window_end - window_start) / 3600 AS hours
FROM unnest('{2024-02-29 22:59:59Z,2024-02-29 23:00Z,2024-03-31 21:59Z,2024-03-31 22:00Z,2024-10-31 22:59Z,2024-10-31 23:00Z}'::timestamptz[]) ts,
     tumble(ts, '1 month')
ORDER BY ts;
SELECT ts, q.window_start AS quarter, q.window_end, y.window_start AS year, y.window_end
FROM event, tumble(ts, '3 months') q, tumble(ts, '1 year') y ORDER BY ts;
SELECT local, q.window_start AS quarter, q.window_end, y.window_start AS decade, y.window_end
FROM event, tumble(local, '3 months') q, tumble(local, '10 years') y ORDER BY local;
SELECT ts, window_start, window_end FROM event, tumble(ts, '5 months') ORDER BY ts;

-- as date_trunc() has it
CREATE FUNCTION months_differ(zone text, first timestamptz, last timestamptz) RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('timezone', zone, true);
    RETURN (SELECT count(*)
            FROM generate_series(first, last, '7 hours 11 min') t, tumble(t, '1 month') m, tumble(t, '3 months') q, tumble(t, '1 year') y
            WHERE m.window_start <> date_trunc('month', t) OR m.window_end <> date_trunc('month', t) + '1 month'
               OR q.window_start <> date_trunc('quarter', t) OR q.window_end <> date_trunc('quarter', t) + '3 months'
               OR y.window_start <> date_trunc('year', t) OR y.window_end <> date_trunc('year', t) + '1 year'
               OR t < m.window_start OR t >= m.window_end);
END $$;
SELECT zone, months_differ(zone, '1996-01-01', '2004-01-01')
FROM unnest('{UTC,Europe/Berlin,America/New_York,Asia/Kathmandu,Australia/Lord_Howe,Pacific/Apia,Pacific/Kiritimati,Africa/Casablanca}'::text[]) zone;

-- a month starts at midnight, and where there is none, right after it; where there are two, with the second
SET timezone = 'Asia/Amman';
SELECT '2011-04-01 00:00'::timestamptz AS no_midnight;
SELECT ts, window_start, window_end FROM unnest('{2011-03-31 23:59:59,2011-04-01 01:00}'::timestamptz[]) ts, tumble(ts, '1 month') ORDER BY ts;
SET timezone = 'America/St_Johns';
SELECT ts, window_start, window_end, ts >= window_start AND ts < window_end AS inside
FROM unnest('{2009-10-31 23:59:59-02:30,2009-11-01 00:00:30-02:30,2009-10-31 23:30-03:30,2009-11-01 00:00-03:30}'::timestamptz[]) ts,
     tumble(ts, '1 month')
ORDER BY ts;

-- months from an origin: as adding an interval to it has it
SET timezone = 'Europe/Berlin';
SELECT ts, window_start, window_end
FROM unnest('{2024-01-31 09:59,2024-01-31 10:00,2024-02-29 09:59,2024-02-29 10:00,2024-03-31 09:59,2024-03-31 10:00,2023-02-28 10:00}'::timestamptz[]) ts,
     tumble(ts, '1 month', '2024-01-31 10:00')
ORDER BY ts;
SELECT bool_and(window_start = '2023-11-30 02:30'::timestamptz + make_interval(months => 2 * (k - 1))
            AND window_end = '2023-11-30 02:30'::timestamptz + make_interval(months => 2 * k)) AS same, count(*)
FROM generate_series(-50, 50) k,
     unnest(ARRAY['2023-11-30 02:30'::timestamptz + make_interval(months => 2 * (k - 1)),
                  '2023-11-30 02:30'::timestamptz + make_interval(months => 2 * k) - interval '1 us']) t,
     tumble(t, '2 months', '2023-11-30 02:30');
SELECT local, window_start, window_end FROM event, tumble(local, '1 year', '2004-02-29 12:00') ORDER BY local;

-- hop: size / slide windows, the earliest end first
SET timezone = 'UTC';
SELECT * FROM hop('2024-05-05 12:34:56', '5 min', '15 min');
SELECT * FROM hop('2024-05-05 12:35', '5 min', '15 min', '2024-01-01 00:01');
SELECT * FROM hop(timestamp '1999-12-31 23:59:59', '1 day', '2 days');
SELECT count(*), min(window_end - ts), max(window_start - ts)
FROM generate_series('2024-01-01'::timestamptz, '2024-01-01 01:00', '100 ms') ts, hop(ts, '1 s', '10 s');
SELECT count(*) FROM event, hop(ts, '1 hour', '1 day');

-- hop by definition: every window that starts at origin + k slides and contains the time
SELECT setseed(0.5);
CREATE TABLE sample AS
SELECT i, '2000-01-03'::timestamptz + interval '1 s' * round((random() - 0.5) * 200000)::int AS t,
       interval '1 s' * (1 + floor(random() * 5000))::int AS slide, 1 + floor(random() * 12)::int AS n,
       '2000-01-03'::timestamptz + interval '1 s' * round((random() - 0.5) * 100000)::int AS origin
FROM generate_series(1, 300) i;
UPDATE sample SET t = origin + slide * floor(random() * 10 - 5)::int WHERE i % 5 = 0;
CREATE FUNCTION hop_by_definition(t timestamptz, slide interval, size interval, origin timestamptz)
RETURNS TABLE (window_start timestamptz, window_end timestamptz) LANGUAGE sql AS $$
    SELECT s, s + size
    FROM generate_series(floor(extract(epoch FROM t - origin) / extract(epoch FROM slide))::int - extract(epoch FROM size)::int / extract(epoch FROM slide)::int - 2,
                         floor(extract(epoch FROM t - origin) / extract(epoch FROM slide))::int + 2) k,
         LATERAL (SELECT origin + k * slide) AS o(s)
    WHERE s <= t AND t < s + size
$$;
SELECT count(*) AS samples,
       count(*) FILTER (WHERE array(SELECT h FROM hop(t, slide, slide * n, origin) h)
                          IS DISTINCT FROM array(SELECT b FROM hop_by_definition(t, slide, slide * n, origin) b ORDER BY window_end)) AS differ,
       count(*) FILTER (WHERE array(SELECT h FROM hop(t, slide, slide * n) h)
                          IS DISTINCT FROM array(SELECT b FROM hop_by_definition(t, slide, slide * n, '2000-01-03') b ORDER BY window_end)) AS differ_default,
       count(*) FILTER (WHERE array(SELECT h FROM hop(t, slide, slide, origin) h)
                          IS DISTINCT FROM array(SELECT w FROM tumble(t, slide, origin) w)) AS differ_tumble
FROM sample;

-- cumulate: one start, ends by steps
SELECT * FROM cumulate('2024-05-05 17:59:59', '6 hours', '1 day');
SELECT * FROM cumulate('2024-05-05 18:00', '6 hours', '1 day');
SELECT * FROM cumulate(timestamp '1999-12-31 23:59:59', '8 hours', '1 day', '2000-01-01 01:00');
SELECT count(*) FROM event, cumulate(ts, '1 hour', '1 day');
SELECT count(*) AS samples,
       count(*) FILTER (WHERE array(SELECT c FROM cumulate(t, slide, slide * n, origin) c)
                          IS DISTINCT FROM array(SELECT ROW(window_start, window_start + k * slide)
                                                 FROM tumble(t, slide * n, origin), generate_series(1, n) k
                                                 WHERE window_start + k * slide > t ORDER BY k)) AS differ
FROM sample;

-- session: a window of each row's own
SELECT ts, window_start, window_end FROM event, session(ts, '1 day 10 min') ORDER BY ts;
SELECT local, window_start, window_end FROM event, session(local, '1 s') ORDER BY local;

-- several at once, aggregates over aggregates, outer joins
SELECT w.window_start, max(n)
FROM (SELECT window_start, window_end, i % 7 AS key, count(*) AS n
      FROM sample, hop(t, '6 hours', '1 day') GROUP BY 1, 2, 3) h, tumble(window_end, '1 day') w
GROUP BY 1 ORDER BY 1;
SELECT ts, window_start FROM event LEFT JOIN LATERAL tumble(ts, '1 day') ON true ORDER BY ts, local LIMIT 3;
SELECT count(*) FROM event LEFT JOIN LATERAL tumble(ts, '1 day') ON true;

-- PostgreSQL inlines them: nothing is scanned but the table and, for some, the numbers of the windows; nothing is left of
-- the checks (joins are left out: PostgreSQL 15 joins the table with one empty row, 16 does not)
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
    lines text[];
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF, VERBOSE) ' || query LOOP
        CONTINUE WHEN line !~ 'Scan|Filter|Function Call|^  Output';
        lines := lines || regexp_replace(line, '^[ >-]*', '');
    END LOOP;
    -- in an order of their own: where the output is computed depends on PostgreSQL's version
    RETURN QUERY SELECT unnest(lines) ORDER BY 1;
END $$;
SELECT plan('SELECT window_start, window_end FROM event, tumble(ts, ''1 minute'')');
SELECT plan('SELECT window_start, count(*) FROM event, tumble(local, ''1 month'') WHERE local > ''2024-01-01'' GROUP BY 1');
SELECT plan('SELECT window_start, window_end FROM event, hop(ts, ''1 minute'', ''5 minutes'')');
SELECT plan('SELECT window_end FROM event, cumulate(local, ''1 minute'', ''5 minutes'')');
SELECT plan('SELECT window_start, window_end FROM event, session(ts, ''1 minute'')');
-- and where it cannot, they work, too
SELECT window_start, window_end FROM tumble((SELECT max(local) FROM event WHERE isfinite(local)), '1 hour') WITH ORDINALITY;
SELECT hop((SELECT max(ts) FROM event WHERE isfinite(ts)), '1 hour', '2 hours');

-- what cannot work is refused by name, over an empty table and when only counted, too
CREATE TABLE nothing (ts timestamptz, local timestamp);
CREATE FUNCTION refused(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE n bigint; detail text; hint text;
BEGIN
    EXECUTE 'SELECT count(*) FROM windows.nothing, stream_ckpt.' || call INTO n;
    RETURN 'works';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', sqlstate || ': ' || sqlerrm, nullif(detail, ''), nullif(hint, ''));
END $$;
SELECT call, refused(call)
FROM unnest(ARRAY[
    'tumble(ts, NULL)', 'tumble(ts, ''0'')', 'tumble(local, ''-1 s'')', 'tumble(ts, ''1 day -25 hours'')', 'tumble(ts, ''1 day -23 hours'')',
    'tumble(ts, ''-1 month'')', 'tumble(ts, ''1 month 1 day'')', 'tumble(ts, ''1 year 1 s'')', 'tumble(local, ''1 mon -1 day'')',
    'tumble(ts, ''200000000 days'')', 'tumble(ts, ''1 day'', ''infinity'')', 'tumble(ts, ''1 month'', ''-infinity'')', 'tumble(ts, ''1 day'', NULL)',
    'hop(ts, NULL, ''1 day'')', 'hop(ts, ''1 day'', NULL)', 'hop(ts, ''0'', ''1 day'')', 'hop(ts, ''1 s'', ''-1 s'')', 'hop(local, ''7 min'', ''1 hour'')',
    'hop(ts, ''2 hours'', ''1 hour'')', 'hop(ts, ''1 day'', ''1 month'')', 'hop(ts, ''1 month'', ''1 year'')',
    'hop(ts, ''1 us'', ''1.000001 s'')', 'hop(ts, ''1 day'', ''7 days'', ''infinity'')',
    'cumulate(ts, NULL, ''1 day'')', 'cumulate(local, ''1 day'', NULL)', 'cumulate(ts, ''0'', ''1 day'')', 'cumulate(ts, ''-1 s'', ''-1 s'')',
    'cumulate(ts, ''7 min'', ''1 hour'')', 'cumulate(ts, ''1 day'', ''1 month'')', 'cumulate(ts, ''1 us'', ''1 day'')',
    'cumulate(ts, ''1 day'', ''7 days'', ''-infinity'')',
    'session(ts, NULL)', 'session(local, ''0'')', 'session(ts, ''-1 s'')', 'session(ts, ''1 month'')']) WITH ORDINALITY AS c(call, n)
ORDER BY n;
-- sizes that are columns are checked row by row
SELECT window_start FROM (VALUES ('2024-01-01'::timestamptz, interval '1 s'), ('2024-01-01', NULL)) v(t, size), tumble(t, size);
SELECT count(*) FROM (VALUES ('infinity'::timestamptz, interval '-1 s')) v(t, size), session(t, size);

-- at the ends of time
SELECT window_start, window_end FROM tumble(timestamp '294276-12-31 23:59:59.999999', '1 s');
SELECT window_start, window_end FROM tumble(timestamp '294276-12-31 23:00', '1 s', '4713-01-01 00:00 BC');
SELECT window_start, window_end FROM tumble(timestamp '4714-11-24 00:00 BC', '1 day');
SELECT window_start, window_end FROM tumble(timestamp '4714-11-24 00:00 BC', '1 s', '294276-12-31 23:59:59');
SELECT window_start, window_end FROM tumble(timestamp '2024-01-01', '30000000 days', '4713-01-01 00:00 BC');
SELECT window_start FROM tumble(timestamp '4714-11-24 00:00 BC', '7 days');
SELECT window_start FROM tumble(timestamp '4714-11-24 00:00 BC', '1 month');
SELECT window_start FROM tumble(timestamp '294276-12-31', '2 months');
SELECT window_start FROM tumble(timestamp '294276-12-31', '2000000000 months');
SELECT window_start FROM tumble(timestamp '294276-12-31', '106000000 days');
SELECT window_start FROM hop(timestamp '4714-11-24 00:00 BC', '1 day', '2 days');
SELECT window_start FROM hop(timestamp '294276-12-31', '1 day', '3 days');
SELECT window_start FROM hop(timestamp '294276-12-31', '50000000 days', '100000000 days');
SELECT window_start FROM cumulate(timestamp '294276-12-31', '1 day', '5 days');
SELECT window_end FROM session(timestamp '294276-12-31', '1 day');

SET client_min_messages = warning;
DROP SCHEMA windows CASCADE;
