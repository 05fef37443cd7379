-- what once ended a worker
CREATE SCHEMA regressions;
SET search_path = regressions, public;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
SELECT stream_ckpt.create_stream('s', 'k int, v int, ts timestamptz', event_time => 'ts', watermark_delay => '20 s');

-- sessions whose key has a composite type, removed after the commit that closed them
CREATE TYPE pair AS (a int, b text);
SELECT stream_ckpt.create_pipeline('composite', $$
    SELECT ROW(k, 'x')::pair AS p, window_start, window_end, count(*) AS n
    FROM s, stream_ckpt.session(ts, '10 s') GROUP BY 1, 2, 3 $$, emit => 'final');

-- sessions merged by a combine function that is handed expanded arrays
CREATE FUNCTION add_one(int[], int) RETURNS int[] LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 || $2; END';
CREATE FUNCTION add_all(int[], int[]) RETURNS int[] LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 || $2; END';
CREATE AGGREGATE collected(int) (SFUNC = add_one, STYPE = int[], INITCOND = '{}', COMBINEFUNC = add_all);
SELECT stream_ckpt.create_pipeline('merged', $$
    SELECT k, window_start, window_end, collected(v) AS v
    FROM s, stream_ckpt.session(ts, '10 s') GROUP BY 1, 2, 3 $$);

INSERT INTO s VALUES (1, 1, '2026-01-01 00:00:00Z'), (1, 2, '2026-01-01 00:00:15Z'), (2, 3, '2026-01-01 00:00:05Z');
SELECT stream_ckpt.checkpoint();
INSERT INTO s VALUES (1, 4, '2026-01-01 00:00:08Z');   -- bridges the two
SELECT stream_ckpt.advance_watermark('s', '2026-01-01 00:00:16Z');
SELECT stream_ckpt.checkpoint();
SELECT stream_ckpt.advance_watermark('s', '2026-01-01 00:01Z');
INSERT INTO s VALUES (3, 5, '2026-01-01 00:02Z');
SELECT stream_ckpt.checkpoint();
SELECT (p).a, (p).b, window_start AT TIME ZONE 'UTC' AS window_start, window_end AT TIME ZONE 'UTC' AS window_end, n
FROM composite ORDER BY 3, 1;
SELECT k, window_start AT TIME ZONE 'UTC' AS window_start, window_end AT TIME ZONE 'UTC' AS window_end,
       (SELECT array_agg(x ORDER BY x) FROM unnest(v) x) AS v FROM merged ORDER BY 2, 1;

-- a function of the select list that is gone when results are asked for, twice
CREATE FUNCTION twice(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 * 2; END';
SELECT stream_ckpt.create_pipeline('doubled', 'SELECT k, twice(count(*)) AS n FROM s GROUP BY k');
INSERT INTO s VALUES (1, 1, '2026-01-01 00:03Z');
SELECT stream_ckpt.checkpoint();
DROP FUNCTION twice(bigint);
INSERT INTO s VALUES (1, 1, '2026-01-01 00:04Z');
DO $$ BEGIN PERFORM stream_ckpt.checkpoint('doubled'); EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%', sqlerrm; END $$;
SELECT pipeline, status, error IS NOT NULL AS says_why FROM stream_ckpt.pipelines ORDER BY pipeline;
CREATE FUNCTION twice(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 * 2; END';
SELECT stream_ckpt.resume_pipeline('doubled');
SELECT stream_ckpt.checkpoint('doubled') > 0 AS goes_on;
SELECT * FROM doubled;

-- two names of one expression as keys, over a grouped sub-select
SELECT stream_ckpt.create_pipeline('twins', 'SELECT k, k2, count(*) AS n FROM (SELECT k, k AS k2 FROM (SELECT k, v FROM s GROUP BY k, v) x) y GROUP BY k, k2');
INSERT INTO s VALUES (1, 1, '2026-01-01 00:05Z'), (1, 2, '2026-01-01 00:05Z'), (NULL, 3, '2026-01-01 00:05Z');
SELECT stream_ckpt.checkpoint('twins') > 0 AS works;
SELECT * FROM twins ORDER BY k;

-- oids above 2^31 as keys, computed
SELECT stream_ckpt.create_pipeline('high', 'SELECT (v + 4000000000)::oid AS o, count(*) AS n, count(DISTINCT (v + 4000000000)::oid) AS d FROM s GROUP BY 1');
INSERT INTO s VALUES (1, 1, NULL), (1, 1, NULL), (2, 2, NULL);
SELECT stream_ckpt.checkpoint('high') > 0 AS works;
INSERT INTO s VALUES (1, 1, NULL);
SELECT stream_ckpt.checkpoint('high') > 0 AS works;
SELECT * FROM high ORDER BY o;

-- more stages than there is room for, by joins within one level
SELECT stream_ckpt.create_pipeline('ten', (SELECT 'SELECT count(*) AS n FROM s s1' || string_agg(format(' JOIN s s%s ON s%1$s.k = s%s.k', i, i - 1), '' ORDER BY i) FROM generate_series(2, 10) i));

-- first rows in the same level as a join of streams: of the join, not of its sides
SET client_min_messages = warning;
SELECT stream_ckpt.create_stream('l', 'id int, k int'), stream_ckpt.create_stream('r', 'id int, k int');
SELECT stream_ckpt.create_pipeline('first_pairs', 'SELECT l.id, r.id AS other FROM l JOIN r ON l.k = r.k ORDER BY l.id, r.id LIMIT 2');
SELECT stream_ckpt.create_pipeline('first_of_each', 'SELECT DISTINCT ON (l.k) l.k, l.id, r.id AS other FROM l JOIN r ON l.k = r.k ORDER BY l.k, l.id, r.id');
SELECT stream_ckpt.create_pipeline('ranked_pairs', $$
    SELECT * FROM (SELECT l.k, l.id, r.id AS other, row_number() OVER (PARTITION BY l.k ORDER BY r.id DESC, l.id DESC) AS place FROM l JOIN r ON l.k = r.k) x WHERE place <= 2 $$);
RESET client_min_messages;
INSERT INTO l VALUES (1, 0), (2, 0), (3, 1), (4, 2), (5, 1);
INSERT INTO r VALUES (7, 9), (8, 1), (9, 1), (10, 2), (11, 8);
SELECT stream_ckpt.checkpoint();
SELECT * FROM first_pairs ORDER BY 1, 2;
SELECT * FROM first_of_each ORDER BY 1;
SELECT * FROM ranked_pairs ORDER BY k, place;

SET client_min_messages = warning;
DROP SCHEMA regressions CASCADE;
