-- Pipelines: the result's shape, what is stored with the query, pause and resume, windows in FROM.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA pipelines;
CREATE SCHEMA elsewhere;
SET search_path = pipelines;
SELECT stream_ckpt.create_stream('clicks', 'user_id int, url varchar(20), ts timestamptz, cost numeric(8,2)', event_time => 'ts', watermark_delay => '5 s');

-- clicks per minute and page
SELECT stream_ckpt.create_pipeline('clicks_per_minute', $$
    SELECT date_trunc('minute', ts) AS minute, url, count(*) AS clicks, sum(cost) AS cost
    FROM clicks
    GROUP BY date_trunc('minute', ts), url $$);
INSERT INTO clicks VALUES (1, '/home', '2024-05-01 12:00:10Z', 1.25), (2, '/home', '2024-05-01 12:00:50Z', 2.5),
    (1, '/cart', '2024-05-01 12:00:59.999999Z', NULL), (1, '/home', '2024-05-01 12:01:00Z', 1);
SELECT stream_ckpt.checkpoint('clicks_per_minute') > 0 AS done;
SELECT * FROM clicks_per_minute ORDER BY 1, 2;

-- the result is an ordinary table with a unique index on the keys
\d clicks_per_minute
SELECT indisunique, indnullsnotdistinct, indnkeyatts FROM pg_index WHERE indrelid = 'clicks_per_minute'::regclass;
SELECT stream_ckpt.create_pipeline('elsewhere.log', 'SELECT user_id, upper(url) AS url, cost * 2 AS twice FROM clicks WHERE cost IS NOT NULL');
\d elsewhere.log
SELECT pipeline, result, emit, on_error, parallelism FROM stream_ckpt.pipelines ORDER BY 1;

-- no grouping at all: one row from the first checkpoint on
SELECT stream_ckpt.create_pipeline('total', 'SELECT count(*), sum(cost), max(url) FROM clicks');
SELECT stream_ckpt.create_pipeline('total_having', 'SELECT count(*) FROM clicks HAVING count(*) > 1');
SELECT stream_ckpt.create_pipeline('total_having_none', 'SELECT 1 AS one, count(*) FROM clicks HAVING count(*) = 0');
SELECT stream_ckpt.create_pipeline('key_only', 'SELECT url FROM clicks GROUP BY url');
SELECT stream_ckpt.create_pipeline('constant_key', 'SELECT 1 AS one, count(*) FROM clicks GROUP BY 1');
SELECT stream_ckpt.checkpoint();
TABLE total;
TABLE total_having;
TABLE total_having_none;
TABLE key_only;
TABLE constant_key;
INSERT INTO clicks VALUES (1, '/a', '2024-05-01 12:05:00Z', 1), (2, '/b', '2024-05-01 12:05:00Z', 2);
SELECT stream_ckpt.checkpoint();
TABLE total;
TABLE total_having;
TABLE total_having_none;
SELECT * FROM key_only ORDER BY 1;
TABLE constant_key;

-- what the creating session had set holds for good
SET TIME ZONE 'Asia/Tokyo';
SET DateStyle = 'German, DMY';
SET IntervalStyle = 'sql_standard';
CREATE FUNCTION elsewhere.tax(numeric) RETURNS numeric LANGUAGE sql AS 'SELECT 0.0';
CREATE FUNCTION pipelines.tax(numeric) RETURNS numeric LANGUAGE sql AS 'SELECT $1 * 2';
SET search_path = elsewhere, pipelines;
SELECT stream_ckpt.create_pipeline('stored', 'SELECT user_id, ts::text AS ts, date_trunc(''day'', ts)::text AS day, (ts - ''2024-04-01 00:00Z''::timestamptz)::text AS age, tax(cost) AS tax, ''01.02.2024''::date::text AS feb FROM clicks');
RESET TIME ZONE; RESET DateStyle; RESET IntervalStyle;
SET search_path = pipelines;
INSERT INTO clicks VALUES (9, '/a', '2024-05-01 22:05:00Z', 1);
SELECT stream_ckpt.checkpoint();
TABLE elsewhere.stored;

-- pause and resume: nothing lost, nothing twice
SELECT stream_ckpt.pause_pipeline('total');
SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'total';
INSERT INTO clicks VALUES (1, '/a', now(), 100), (1, '/a', now(), 100);
SELECT stream_ckpt.checkpoint('key_only') > 0 AS done;
SELECT count FROM total;
\set VERBOSITY sqlstate
SELECT stream_ckpt.checkpoint('total', '100 ms');
\set VERBOSITY default
SELECT stream_ckpt.pause_pipeline('total');
SELECT stream_ckpt.resume_pipeline('total');
SELECT stream_ckpt.checkpoint('total') > 0 AS done;
SELECT count FROM total;
SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'total';
SELECT stream_ckpt.resume_pipeline('total');
BEGIN;
SELECT stream_ckpt.pause_pipeline('total');
ROLLBACK;
INSERT INTO clicks VALUES (1, '/a', now(), 100);
SELECT stream_ckpt.checkpoint('total') > 0 AS done;
SELECT count FROM total;

-- windows without functions for them: fixed ones by date_bin, overlapping ones by LATERAL
SELECT stream_ckpt.create_stream('w', 'id int, ts timestamp');
SELECT stream_ckpt.create_pipeline('fixed', $$SELECT date_bin('10 min', ts, '2000-01-03') AS window_start, count(*) AS n FROM w GROUP BY 1$$);
SELECT stream_ckpt.create_pipeline('overlapping', $$
    SELECT window_start, count(*) AS n, min(id), max(id)
    FROM w, generate_series(date_bin('5 min', ts, '2000-01-03') - interval '5 min', date_bin('5 min', ts, '2000-01-03'), '5 min') window_start
    GROUP BY window_start$$);
INSERT INTO w SELECT i, '2024-01-01 00:00'::timestamp + i * interval '3 min' FROM generate_series(0, 12) i;
INSERT INTO w VALUES (99, NULL), (98, '1999-12-31 23:59:59.999999');
SELECT stream_ckpt.checkpoint();
SELECT * FROM fixed ORDER BY 1;
SELECT * FROM overlapping ORDER BY 1;

-- explain says what runs
SELECT count(*) > 0 AS explained FROM stream_ckpt.explain_pipeline('clicks_per_minute');
SELECT count(*) > 0 AS names_key FROM stream_ckpt.explain_pipeline('clicks_per_minute') line WHERE line ~ 'minute' OR line ~ 'url';

-- drop, keeping the result or not
SELECT stream_ckpt.drop_pipeline('total', keep_result => true);
SELECT count FROM total;
SELECT stream_ckpt.drop_pipeline('key_only');
SELECT to_regclass('key_only');
BEGIN;
SELECT stream_ckpt.drop_pipeline('constant_key');
ROLLBACK;
INSERT INTO clicks VALUES (1, '/a', now(), 100);
SELECT stream_ckpt.checkpoint('constant_key') > 0 AS done;
SELECT * FROM constant_key;

SET client_min_messages = warning;
DROP SCHEMA pipelines, elsewhere CASCADE;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
