-- parallel tasks: a pipeline split by its keys gives what one task gives
CREATE SCHEMA parallel;
SET search_path = parallel;
SET TimeZone = 'UTC';
CREATE EXTENSION IF NOT EXISTS stream_ckpt;

SELECT stream_ckpt.create_stream('s', 'k int, g text, v int, ts timestamptz', event_time => 'ts');
CREATE TABLE t (k int, g text, v int, ts timestamptz);
CREATE TABLE names (k int PRIMARY KEY, name text);
INSERT INTO names SELECT i, 'name ' || i % 7 FROM generate_series(0, 49) i;

-- of each query: the pipeline at parallelism 4, and the same over the table
CREATE TABLE queries (name text PRIMARY KEY, query text, emit text DEFAULT 'changes', oracle text);
INSERT INTO queries (name, query) VALUES
    ('p_plain', 'SELECT k, count(*) AS c, sum(v) AS s, min(g) AS m FROM s GROUP BY k'),
    ('p_expr', 'SELECT k % 5 AS r, lower(g) AS l, count(*) AS c FROM s WHERE v > 10 GROUP BY 1, 2 HAVING count(*) > 1'),
    ('p_distinct', 'SELECT k, count(DISTINCT g) AS d, string_agg(DISTINCT g, '','' ORDER BY g) AS l FROM s GROUP BY k'),
    ('p_window', 'SELECT window_start, k, count(*) AS c FROM s, stream_ckpt.tumble(ts, ''1 minute'') GROUP BY window_start, k'),
    ('p_lookup', 'SELECT s.k, n.name, count(*) AS c FROM s JOIN names n USING (k) GROUP BY s.k, n.name'),
    ('p_two', 'SELECT k, count(*) AS windows, max(c) AS most FROM (SELECT window_start, k, count(*) AS c FROM s, stream_ckpt.tumble(ts, ''1 minute'') GROUP BY window_start, k) w GROUP BY k'),
    ('p_upper', 'SELECT c, count(*) AS n, sum(k) AS ks FROM (SELECT k, count(*) AS c FROM s GROUP BY k) w GROUP BY c'),
    ('p_all', 'SELECT count(*) AS groups, sum(c) AS total FROM (SELECT k, g, count(*) AS c FROM s GROUP BY k, g) w');
-- these have no key that is immutable over the row: one task
INSERT INTO queries (name, query) VALUES
    ('o_keyless', 'SELECT count(*) AS c, sum(v) AS s FROM s'),
    ('o_window', 'SELECT window_start, count(*) AS c FROM s, stream_ckpt.tumble(ts, ''1 minute'') GROUP BY window_start'),
    ('o_table', 'SELECT n.name, count(*) AS c FROM s JOIN names n USING (k) GROUP BY n.name');
UPDATE queries SET oracle = regexp_replace(query, 'FROM s\y', 'FROM t s', 'g');
INSERT INTO queries VALUES
    ('p_final', 'SELECT window_start, k, count(*) AS c FROM s, stream_ckpt.tumble(ts, ''1 minute'') GROUP BY window_start, k', 'final',
     'SELECT window_start, k, count(*) AS c FROM t s, stream_ckpt.tumble(ts, ''1 minute'') WHERE window_end <= (SELECT max(ts) FROM t) GROUP BY window_start, k'),
    ('p_session', 'SELECT k, window_start, window_end, count(*) AS c FROM s, stream_ckpt.session(ts, ''10 s'') GROUP BY k, window_start, window_end', 'changes',
     'SELECT k, min(ts) AS window_start, max(ts) + interval ''10 s'' AS window_end, count(*) AS c FROM (SELECT k, ts, sum(first::int) OVER (PARTITION BY k ORDER BY ts) AS n
      FROM (SELECT k, ts, ts - lag(ts) OVER (PARTITION BY k ORDER BY ts) < ''10 s'' IS NOT TRUE AS first FROM t) f) n GROUP BY k, n');

SELECT count(stream_ckpt.create_pipeline(name, query, emit => emit, parallelism => 4)) FROM queries;

CREATE FUNCTION fill(n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    start timestamptz := coalesce((SELECT max(ts) FROM t), '2026-01-01');
BEGIN
    INSERT INTO t SELECT hashint4(i * 7 + n) & 63, chr(97 + (hashint4(i) & 15)), hashint4(i + n) & 255, start + i * interval '50 ms'
    FROM generate_series(1, n) i;
    INSERT INTO s SELECT * FROM t ORDER BY ts OFFSET (SELECT count(*) FROM t) - n;
END $$;

-- what differs, of all of them
CREATE FUNCTION differences() RETURNS TABLE (pipeline text, missing bigint, extra bigint) LANGUAGE plpgsql AS $$
DECLARE
    q record;
BEGIN
    FOR q IN SELECT * FROM queries ORDER BY name LOOP
        pipeline := q.name;
        EXECUTE format('SELECT count(*) FROM (%s EXCEPT ALL TABLE %I) d', q.oracle, q.name) INTO missing;
        EXECUTE format('SELECT count(*) FROM (TABLE %I EXCEPT ALL %s) d', q.name, q.oracle) INTO extra;
        IF missing + extra > 0 THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END $$;

SELECT fill(5000);
SELECT stream_ckpt.checkpoint();
SELECT * FROM differences();
SELECT pipeline, count(*) AS tasks, count(*) FILTER (WHERE rows_in > 0) > 1 AS spread, sum(rows_in) AS rows_in FROM stream_ckpt.tasks
WHERE pipeline IN (SELECT name FROM queries) GROUP BY pipeline ORDER BY pipeline;

-- checkpoints of all tasks are one; their tasks' rows add up
SELECT fill(3000);
SELECT stream_ckpt.checkpoint();
SELECT * FROM differences();
SELECT bool_and(c.tasks = t.n AND c.acknowledged = t.n AND c.rows_in = t.rows_in) AS adds_up
FROM stream_ckpt.checkpoints c
JOIN (SELECT pipeline, checkpoint_id, count(*) AS n, sum(rows_in) AS rows_in FROM stream_ckpt.checkpoint_tasks GROUP BY 1, 2) t USING (pipeline, checkpoint_id)
WHERE c.status = 'completed' AND c.pipeline LIKE 'p%';

-- from the last checkpoint on again
SELECT count(stream_ckpt.pause_pipeline(name)) FROM queries;
SELECT fill(2000);
SELECT count(stream_ckpt.resume_pipeline(name)) FROM queries;
SELECT fill(1000);
SELECT stream_ckpt.checkpoint();
SELECT * FROM differences();
SELECT count(DISTINCT task) FROM stream_ckpt.restores WHERE pipeline = 'p_plain';

-- another number of tasks keeps the state
SELECT count(stream_ckpt.alter_pipeline(name, parallelism => 3)) FROM queries;
SELECT fill(1500);
SELECT stream_ckpt.checkpoint();
SELECT * FROM differences();
SELECT count(stream_ckpt.alter_pipeline(name, parallelism => 1)) FROM queries;
SELECT fill(1500);
SELECT stream_ckpt.checkpoint();
SELECT * FROM differences();
SELECT count(stream_ckpt.alter_pipeline(name, parallelism => 7)) FROM queries;
SELECT fill(1500);
SELECT stream_ckpt.checkpoint();
SELECT * FROM differences();
SELECT pipeline, max(task) AS last_task FROM stream_ckpt.tasks WHERE pipeline IN ('p_plain', 'o_window') GROUP BY pipeline ORDER BY pipeline;

-- a savepoint, and back
SELECT stream_ckpt.savepoint('p_distinct', 'here') > 0 AS taken;
CREATE TABLE here AS TABLE p_distinct;
SELECT fill(1500);
SELECT stream_ckpt.checkpoint();
BEGIN;
SELECT stream_ckpt.restore_pipeline('p_distinct', checkpoint_id) FROM stream_ckpt.checkpoints WHERE pipeline = 'p_distinct' AND label = 'here';
(TABLE here EXCEPT ALL TABLE p_distinct) UNION ALL (TABLE p_distinct EXCEPT ALL TABLE here);
COMMIT;
SELECT stream_ckpt.checkpoint();
SELECT * FROM differences();

-- how it is spread
SELECT line FROM queries, stream_ckpt.explain_pipeline(name) line WHERE name IN ('p_two', 'p_upper', 'o_table') AND line LIKE '% Tasks:%' ORDER BY name, line;

-- bad rows go to their task's dead letters, once; also where the key itself raises the error
SELECT stream_ckpt.create_pipeline('bad', 'SELECT k, sum(100 / v) AS s FROM s GROUP BY k', on_error => 'dead_letter', parallelism => 4);
SELECT stream_ckpt.create_pipeline('bad_key', 'SELECT 100 / v AS r, count(*) AS c FROM s GROUP BY 1', on_error => 'dead_letter', parallelism => 4);
INSERT INTO s SELECT i % 10, 'x', i % 5, '2026-01-02' FROM generate_series(1, 100) i;
SELECT stream_ckpt.checkpoint();
SELECT pipeline, sqlstate, count(*), count(DISTINCT row_data ->> 'k') AS keys FROM stream_ckpt.dead_letters GROUP BY 1, 2 ORDER BY 1;
SELECT count(*), sum(s) FROM bad;
SELECT r, c FROM bad_key ORDER BY r;
SELECT pipeline, dead_letters, rows_in FROM stream_ckpt.pipelines WHERE pipeline LIKE 'bad%' ORDER BY pipeline;
-- or they stop all of it
SELECT stream_ckpt.create_pipeline('stops', 'SELECT k, sum(100 / v) AS s FROM s GROUP BY k', parallelism => 4);
INSERT INTO s VALUES (1, 'x', 1, '2026-01-02');
SELECT stream_ckpt.checkpoint('stops') > 0 AS done;
INSERT INTO s VALUES (2, 'x', 0, '2026-01-02'), (3, 'x', 1, '2026-01-02');
\set VERBOSITY terse
SELECT stream_ckpt.checkpoint('stops');
\set VERBOSITY default
SELECT status, split_part(error, '.', 1) AS error FROM stream_ckpt.pipelines WHERE pipeline = 'stops';
TABLE stops;
SELECT stream_ckpt.alter_pipeline('stops', on_error => 'dead_letter');
SELECT stream_ckpt.checkpoint('stops') > 0 AS done;
SELECT * FROM stops ORDER BY k;

SET client_min_messages = warning;
DROP SCHEMA parallel CASCADE;
