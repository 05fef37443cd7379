-- Watermarks: when they move, which rows are late, what becomes of those.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA wm;
SET search_path = wm, public, stream_ckpt;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
-- minutes of one hour, which is all that these rows need
CREATE FUNCTION at(minute float8) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$SELECT '2024-01-01 12:00Z'::timestamptz + minute * interval '1 min'$$;
CREATE VIEW state AS SELECT pipeline, to_char(watermark, 'HH24:MI:SS') AS watermark, rows_in, late_rows, dead_letters, state_rows FROM pipelines ORDER BY 1;

-- it moves when a transaction is over: its rows do not make each other late, those of the next one are
SELECT create_stream('s', 'id int, ts timestamptz', event_time => 'ts', watermark_delay => '1 min');
SELECT create_pipeline('t', 'SELECT window_start, window_end, array_agg(id ORDER BY id) AS ids FROM s, tumble(ts, ''5 min'') GROUP BY 1, 2');
SELECT create_pipeline('f', 'SELECT window_start, window_end, array_agg(id ORDER BY id) AS ids FROM s, tumble(ts, ''5 min'') GROUP BY 1, 2', emit => 'final');
SELECT create_pipeline('h', 'SELECT window_start, window_end, array_agg(id ORDER BY id) AS ids FROM s, hop(ts, ''5 min'', ''15 min'') GROUP BY 1, 2', emit => 'final');
SELECT create_pipeline('lateness', 'SELECT window_start, window_end, array_agg(id ORDER BY id) AS ids FROM s, tumble(ts, ''5 min'') GROUP BY 1, 2', emit => 'final', allowed_lateness => '5 min');
SELECT create_pipeline('only_odd', 'SELECT window_start, window_end, array_agg(id ORDER BY id) AS ids FROM s, tumble(ts, ''5 min'') WHERE id % 2 = 1 GROUP BY 1, 2');
SELECT create_pipeline('only_early', 'SELECT window_end, array_agg(id ORDER BY id) AS ids FROM s, hop(ts, ''5 min'', ''15 min'') WHERE ts > window_start + interval ''10 min'' GROUP BY 1');
BEGIN;
INSERT INTO s VALUES (1, at(31));
INSERT INTO s VALUES (2, at(0));
INSERT INTO s VALUES (3, at(29.9));
SAVEPOINT one;
INSERT INTO s VALUES (99, at(59));
ROLLBACK TO one;
INSERT INTO s VALUES (4, NULL), (5, 'infinity'), (6, '-infinity');
COMMIT;
SELECT checkpoint();
SELECT * FROM state;
SELECT * FROM t ORDER BY 1;
SELECT * FROM f ORDER BY ctid;
SELECT * FROM h ORDER BY ctid;
SELECT * FROM lateness ORDER BY ctid;
-- the watermark is 30: tumbling windows that end there or earlier are closed. Hopping ones that 7, 8 and 13 are in end at 30 and at 35:
-- they are late for the first, and count once. What does not meet the conditions is not late.
INSERT INTO s VALUES (7, at(24.999)), (8, at(25)), (10, at(30)), (11, at(10)), (12, at(19)), (13, at(20.5));
SELECT checkpoint();
SELECT * FROM state;
SELECT * FROM t ORDER BY 1;
SELECT * FROM f ORDER BY ctid;
-- the watermark at exactly the end of a window closes it
INSERT INTO s VALUES (14, at(36));
INSERT INTO s VALUES (15, at(30)), (16, at(34.99)), (17, at(35));
SELECT checkpoint();
SELECT * FROM state;
SELECT * FROM t ORDER BY 1;
SELECT * FROM f ORDER BY ctid;
SELECT * FROM h ORDER BY ctid;
SELECT * FROM lateness ORDER BY ctid;
SELECT * FROM only_odd ORDER BY 1;
SELECT * FROM only_early ORDER BY 1;
SELECT stream, event_time, watermark_delay, watermark, pipelines FROM streams;

-- advance_watermark(): like a row, without one; the delay does not apply
SELECT advance_watermark('s', at(44));
SELECT checkpoint();
SELECT * FROM f ORDER BY ctid DESC LIMIT 2;
BEGIN;
SELECT advance_watermark('s', at(70));
ROLLBACK;
BEGIN;
SAVEPOINT one;
SELECT advance_watermark('s', at(71));
ROLLBACK TO one;
SELECT advance_watermark('s', at(45));
INSERT INTO s VALUES (18, at(44.5));
COMMIT;
INSERT INTO s VALUES (19, at(44.5));
-- back it does not go
SELECT advance_watermark('s', at(20));
SELECT checkpoint();
SELECT * FROM state;
SELECT * FROM f ORDER BY ctid DESC LIMIT 1;
SELECT * FROM t ORDER BY 1 DESC LIMIT 1;
CREATE TABLE plain (ts timestamptz);
SELECT create_stream('untimed', 'id int, ts timestamptz');
CREATE ROLE regress_wm;
GRANT USAGE ON SCHEMA wm, stream_ckpt TO regress_wm;
GRANT SELECT ON s TO regress_wm;
SELECT t.* FROM unnest(ARRAY['s'',NULL', 's'', ''infinity''', 's'', ''-infinity''', 'untimed'', now()', 'plain'', now()', 'no_such'', now()']) x, try(format('SELECT advance_watermark(''%s)', x)) t;
SELECT * FROM try('SELECT advance_watermark(NULL, now())');
SET ROLE regress_wm;
SELECT advance_watermark('wm.s', now());
RESET ROLE;
GRANT INSERT ON s TO regress_wm;
SET ROLE regress_wm;
SELECT advance_watermark('wm.s', at(46));
RESET ROLE;
BEGIN READ ONLY;
SELECT advance_watermark('s', at(47));
ROLLBACK;
SELECT checkpoint();
SELECT pipeline, watermark FROM state WHERE pipeline IN ('t', 'f');

-- With on_error => 'dead_letter' late rows are kept. One row is kept once, whatever number of windows it is late for.
SELECT create_stream('d', 'id int, ts timestamptz, note text', event_time => 'ts');
SELECT create_pipeline('kept', 'SELECT window_start, window_end, array_agg(id ORDER BY id) AS ids FROM d, hop(ts, ''5 min'', ''15 min'') WHERE note IS NOT NULL GROUP BY 1, 2', on_error => 'dead_letter');
SELECT create_pipeline('kept_linear', 'SELECT id, window_start FROM d, tumble(ts, ''5 min'')', on_error => 'dead_letter');
INSERT INTO d VALUES (1, at(31), 'first');
INSERT INTO d VALUES (2, at(28), 'partly'), (3, at(1), 'wholly'), (4, at(1), NULL), (3, at(31), 'not late');
SELECT checkpoint();
SELECT * FROM state WHERE pipeline LIKE 'kept%';
SELECT * FROM kept ORDER BY 1;
SELECT * FROM kept_linear ORDER BY 1, 2;
SELECT pipeline, stream, row_data, sqlstate, error FROM dead_letters ORDER BY pipeline, dead_letter_id;

-- A stream that a pipeline writes has its watermark, less what its rows may be behind it.
CREATE FOREIGN TABLE by_end (window_end timestamptz, n bigint) SERVER stream_ckpt OPTIONS (event_time 'window_end');
CREATE FOREIGN TABLE by_start (window_start timestamptz, n bigint) SERVER stream_ckpt OPTIONS (event_time 'window_start', watermark_delay '1 hour');
SELECT create_stream('o', 'id int, ts timestamptz', event_time => 'ts');
SELECT create_pipeline('to_end', 'SELECT window_end, count(*) AS n FROM o, tumble(ts, ''1 min'') GROUP BY 1', sink => 'by_end', emit => 'final', allowed_lateness => '30 s');
SELECT create_pipeline('to_start', 'SELECT window_start, count(*) AS n FROM o, tumble(ts, ''1 min'') GROUP BY 1', sink => 'by_start', emit => 'final');
SELECT create_pipeline('from_end', 'SELECT window_start, sum(n) AS n, count(*) AS rows FROM by_end, tumble(window_end, ''10 min'') GROUP BY 1', emit => 'final');
SELECT create_pipeline('from_start', 'SELECT w.window_start, sum(n) AS n, count(*) AS rows FROM by_start b, tumble(b.window_start, ''10 min'') w GROUP BY 1', emit => 'final');
INSERT INTO o SELECT i, at(i / 10.0) FROM generate_series(0, 305) i;
SELECT checkpoint();
SELECT stream, watermark FROM streams WHERE stream IN ('o'::regclass, 'by_end'::regclass, 'by_start'::regclass) ORDER BY 1;
TABLE from_end;
TABLE from_start;
INSERT INTO o VALUES (1000, at(31.5));
SELECT checkpoint();
SELECT stream, watermark FROM streams WHERE stream IN ('o'::regclass, 'by_end'::regclass, 'by_start'::regclass) ORDER BY 1;
TABLE from_end;
TABLE from_start;
SELECT * FROM state WHERE pipeline ~ 'from|to';

-- emit => 'final' needs a window that closes
SELECT x.* FROM unnest(ARRAY[
    'SELECT window_end, count(*) FROM untimed, tumble(ts, ''1 min'') GROUP BY 1',
    'SELECT window_end, count(*) FROM d, tumble(ts + interval ''1 s'', ''1 min'') GROUP BY 1',
    'SELECT id, window_end FROM d, tumble(ts, ''1 min'')',
    'SELECT id FROM d',
    'SELECT count(*) FROM d',
    'SELECT id, count(*) FROM d GROUP BY id',
    'SELECT id, count(*) FROM d, tumble(ts, ''1 min'') GROUP BY id',
    'SELECT date_trunc(''hour'', window_end) AS hour, count(*) FROM d, tumble(ts, ''1 min'') GROUP BY 1',
    'SELECT max(n) FROM (SELECT window_end, id, count(*) AS n FROM d, tumble(ts, ''1 min'') GROUP BY 1, 2) x',
    'SELECT w.window_end, max(n) FROM (SELECT window_end, id, count(*) AS n FROM d, tumble(ts, ''1 min'') GROUP BY 1, 2) x, tumble(x.window_end + interval ''1 s'', ''1 hour'') w GROUP BY 1']) query,
    try(format('SELECT create_pipeline(''refused'', %L, emit => ''final'')', query)) x;
SELECT * FROM try($$SELECT create_pipeline('refused', 'SELECT id FROM d', emit => 'finally')$$);
SELECT * FROM try($$SELECT create_pipeline('refused', 'SELECT id FROM d', allowed_lateness => '-1 s')$$);
SELECT * FROM try($$SELECT create_pipeline('refused', 'SELECT id FROM d', allowed_lateness => '1 month')$$);
SELECT * FROM try($$SELECT create_pipeline('refused', 'SELECT id FROM d', allowed_lateness => NULL)$$);

-- Event time far ahead of the clock would close everything; a setting says how far it may be.
SELECT create_stream('ahead', 'id int, ts timestamptz', event_time => 'ts');
SELECT create_pipeline('ahead_off', 'SELECT window_start, count(*) AS n FROM ahead, tumble(ts, ''1 day'') GROUP BY 1');
INSERT INTO ahead VALUES (1, '2199-12-31Z');
INSERT INTO ahead VALUES (2, '2024-01-01Z');
SELECT checkpoint();
SELECT * FROM state WHERE pipeline = 'ahead_off';
SELECT drop_pipeline('ahead_off');
ALTER SYSTEM SET stream_ckpt.max_event_time_ahead = '1h';
SELECT pg_reload_conf();
\c -
SET search_path = wm, public, stream_ckpt;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
SHOW stream_ckpt.max_event_time_ahead;
SELECT create_pipeline('ahead_kept', 'SELECT window_start, count(*) AS n FROM ahead, tumble(ts, ''1 day'') GROUP BY 1', on_error => 'dead_letter');
SELECT create_pipeline('ahead_plain', 'SELECT id FROM ahead WHERE id % 2 = 1', on_error => 'dead_letter');
SELECT create_pipeline('ahead_stop', 'SELECT id FROM ahead');
INSERT INTO ahead VALUES (3, '2024-01-01 10:00Z');
INSERT INTO ahead VALUES (4, '2199-12-31Z'), (5, '2024-01-02 12:00Z'), (6, 'infinity'), (7, '2199-12-30Z');
INSERT INTO ahead VALUES (8, '2024-01-02 13:00Z');
SELECT checkpoint('ahead_kept') > 0 AS kept, checkpoint('ahead_plain') > 0 AS plain;
SELECT * FROM try($$SELECT checkpoint('ahead_stop', '20 s')$$);
SELECT status, regexp_replace(error, '[0-9A-F]+/[0-9A-F]+', 'x/x', 'g') AS error FROM pipelines WHERE pipeline = 'ahead_stop';
SELECT * FROM ahead_kept ORDER BY 1;
SELECT * FROM ahead_plain ORDER BY 1;
SELECT * FROM state WHERE pipeline IN ('ahead_kept', 'ahead_plain');
SELECT pipeline, row_data ->> 'id' AS id, sqlstate, error FROM dead_letters WHERE pipeline LIKE 'ahead%' ORDER BY 1, 2;
ALTER SYSTEM RESET stream_ckpt.max_event_time_ahead;
SELECT pg_reload_conf();

SET client_min_messages = warning;
DROP SCHEMA wm CASCADE;
DROP OWNED BY regress_wm;
DROP ROLE regress_wm;
SELECT count(*) AS pipelines FROM pipelines;
