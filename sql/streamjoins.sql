-- Joins of streams, against the same SQL over tables.
\getenv srcdir PG_ABS_SRCDIR
\set collation 'COLLATE res.nocase'
\set start :srcdir '/test/lib/three_streams.sql'
\set ECHO none
\i :start
\set ECHO all
INSERT INTO query VALUES
    ('inner_on', 'SELECT a.id AS a_id, b.id AS b_id, a.v, b.w FROM a JOIN b ON a.k = b.k'),
    ('inner_comma', 'SELECT a.id AS a_id, b.id AS b_id, a.v || b.w AS vw FROM a, b WHERE a.k = b.k AND a.id < b.id AND a.v <> ''b'''),
    ('inner_expression', 'SELECT a.id AS a_id, b.id AS b_id FROM a JOIN b ON a.k + 1 = b.k * 2 AND lower(a.v) = b.w'),
    ('self', 'SELECT x.id AS x_id, y.id AS y_id FROM a x JOIN a y ON x.k = y.k AND x.id < y.id'),
    ('three', 'SELECT a.id AS a_id, b.id AS b_id, c.id AS c_id, c.x FROM a JOIN b USING (k) JOIN c ON c.k = b.k + 1'),
    ('tables', 'SELECT a.id AS a_id, b.id AS b_id, d.name, e.name AS other FROM a JOIN b ON a.k = b.k JOIN dim d ON d.k = a.k LEFT JOIN dim e ON e.k = b.id % 10'),
    ('sub_select', 'SELECT q.a_id, c.id AS c_id FROM (SELECT a.id AS a_id, b.k FROM a JOIN b ON a.k = b.k) q JOIN c ON c.k = q.k'),
    ('unions', 'SELECT u.id, c.id AS c_id FROM (SELECT id, k FROM a UNION ALL SELECT id, k FROM b) u JOIN c ON c.k = u.k'),
    ('grouped', 'SELECT a.k, count(*) AS n, sum(b.id) AS s, min(b.w) AS m FROM a JOIN b ON a.k = b.k GROUP BY a.k'),
    ('grouped_twice', 'SELECT n, count(*) AS c FROM (SELECT a.k, count(*) AS n FROM a JOIN b ON a.k = b.k GROUP BY a.k) q GROUP BY n'),
    ('whole', 'SELECT count(*) AS n, sum(a.n) AS s FROM a JOIN b ON a.k = b.k'),
    ('with_group', 'SELECT a.id AS a_id, a.k, q.n FROM a JOIN (SELECT k, count(*) AS n FROM b GROUP BY k) q ON q.k = a.k'),
    ('group_with_group', 'WITH q AS (SELECT k, count(*) AS n FROM a GROUP BY k) SELECT x.k, x.n, y.k AS other FROM q x JOIN q y ON y.n = x.n AND y.k < x.k'),
    ('left_on', 'SELECT a.id AS a_id, b.id AS b_id, a.v, b.w FROM a LEFT JOIN b ON a.k = b.k'),
    ('left_residual', 'SELECT a.id AS a_id, b.id AS b_id, a.n, c.x FROM a LEFT JOIN b ON a.k = b.k AND b.id > a.id LEFT JOIN c ON c.id = b.id'),
    ('left_where', 'SELECT a.id AS a_id, a.v FROM a LEFT JOIN b ON a.k = b.k WHERE b.id IS NULL'),
    ('right_on', 'SELECT a.id AS a_id, b.id AS b_id, b.w FROM a RIGHT JOIN b ON a.k = b.k AND a.v <> ''b'''),
    ('full_on', 'SELECT a.id AS a_id, b.id AS b_id, a.n FROM a FULL JOIN b ON a.k = b.k'),
    ('full_three', 'SELECT a.id AS a_id, b.id AS b_id, c.id AS c_id FROM a FULL JOIN b ON a.k = b.k LEFT JOIN c ON c.k = coalesce(a.k, b.k)'),
    ('left_grouped', 'SELECT a.k, count(b.id) AS n, count(*) AS c, max(b.w) AS m FROM a LEFT JOIN b ON a.k = b.k GROUP BY a.k'),
    ('semi_exists', 'SELECT a.id AS a_id, a.v FROM a WHERE EXISTS (SELECT FROM b WHERE b.k = a.k AND b.id <> a.id)'),
    ('semi_in', 'SELECT a.id AS a_id, a.v FROM a WHERE a.k IN (SELECT k FROM b)'),
    ('semi_in_group', 'SELECT a.id AS a_id, a.v FROM a WHERE a.k IN (SELECT k FROM b GROUP BY k HAVING count(*) % 2 = 1)'),
    ('anti', 'SELECT a.id AS a_id, a.v FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k)'),
    ('anti_grouped', 'SELECT a.v, count(*) AS n FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k AND b.id > 10) GROUP BY a.v'),
    ('time_inner', 'SELECT a.id AS a_id, b.id AS b_id, a.ts FROM a JOIN b ON a.k = b.k AND a.ts BETWEEN b.ts AND b.ts + interval ''20 s'''),
    ('time_left', 'SELECT a.id AS a_id, b.id AS b_id, a.ts FROM a LEFT JOIN b ON a.k = b.k AND b.ts > a.ts - interval ''5 s'' AND b.ts < a.ts + interval ''10 s'''),
    ('time_one_side', 'SELECT a.id AS a_id, b.id AS b_id FROM a JOIN b ON a.k = b.k AND a.ts > b.ts + interval ''3 s'''),
    ('window_groups', 'SELECT x.window_start AS w, x.k, x.n, y.m FROM (SELECT window_start, window_end, k, count(*) AS n FROM a, stream_ckpt.tumble(ts, ''10 s'') GROUP BY 1, 2, 3) x
        JOIN (SELECT window_start, window_end, k, max(id) AS m FROM b, stream_ckpt.tumble(ts, ''10 s'') GROUP BY 1, 2, 3) y ON x.window_start = y.window_start AND x.window_end = y.window_end AND x.k = y.k'),
    ('window_left', 'SELECT x.window_start AS w, x.id, y.m FROM (SELECT window_start, window_end, k, id FROM a, stream_ckpt.tumble(ts, ''10 s'')) x
        LEFT JOIN (SELECT window_start, window_end, k, max(id) AS m FROM b, stream_ckpt.tumble(ts, ''10 s'') GROUP BY 1, 2, 3) y ON x.window_start = y.window_start AND x.window_end = y.window_end AND x.k = y.k'),
    ('window_rows', 'SELECT x.window_end AS w, x.id, y.id AS y_id FROM (SELECT window_start, window_end, k, id FROM a, stream_ckpt.hop(ts, ''5 s'', ''10 s'')) x
        JOIN (SELECT window_start, window_end, k, id FROM b, stream_ckpt.hop(ts, ''5 s'', ''10 s'')) y USING (window_start, window_end, k)');
SET search_path = live, res, stream_ckpt, public;
CALL create_pipelines();

SELECT create_pipeline('res.final', (SELECT text FROM query WHERE name = 'window_groups'), emit => 'final');

CALL put(1, '{a}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
CALL put(1, '{b,c}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
CALL put(2, '{c,b,a}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();

-- loaded again, all of them
SELECT count(pause_pipeline('r_' || name)) FROM query;
CALL put(3, '{a,b,c}');
SELECT count(resume_pipeline('r_' || name)) FROM query;
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();

-- back to a retained checkpoint and forth
CREATE TABLE kept AS SELECT pipeline, max(checkpoint_id) AS id FROM checkpoints WHERE retained GROUP BY 1;
CREATE TABLE kept_left AS TABLE r_left_on;
CREATE TABLE kept_inner AS TABLE r_inner_on;
CALL put(4, '{b,a}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
SELECT pause_pipeline(name), restore_pipeline(name, id) FROM unnest('{r_left_on,r_inner_on,r_full_three}'::text[]) name JOIN kept ON pipeline = name;
SELECT (SELECT count(*) FROM (TABLE kept_left EXCEPT ALL TABLE r_left_on) x) AS missing, (SELECT count(*) FROM (TABLE r_left_on EXCEPT ALL TABLE kept_left) x) AS extra,
    (SELECT count(*) FROM (TABLE kept_inner EXCEPT ALL TABLE r_inner_on) x) AS missing_inner, (SELECT count(*) FROM (TABLE r_inner_on EXCEPT ALL TABLE kept_inner) x) AS extra_inner;
SELECT resume_pipeline(name) FROM unnest('{r_left_on,r_inner_on,r_full_three}'::text[]) name;
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();

-- in several tasks, from the state of one, and back; loaded again, and restored
SELECT count(alter_pipeline('r_' || name, parallelism => 3)) FROM query;
CALL put(5, '{a,c,b}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
SELECT count(DISTINCT task) AS tasks FROM tasks WHERE pipeline = 'r_left_on';
TRUNCATE kept, kept_left, kept_inner;
INSERT INTO kept SELECT pipeline, max(checkpoint_id) FROM checkpoints WHERE retained GROUP BY 1;
INSERT INTO kept_left TABLE r_left_on;
INSERT INTO kept_inner TABLE r_inner_on;
SELECT count(pause_pipeline('r_' || name)) FROM query;
CALL put(6, '{b,a}');
SELECT count(resume_pipeline('r_' || name)) FROM query;
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
SELECT pause_pipeline(name), restore_pipeline(name, id) FROM unnest('{r_left_on,r_inner_on,r_full_three}'::text[]) name JOIN kept ON pipeline = name;
SELECT (SELECT count(*) FROM (TABLE kept_left EXCEPT ALL TABLE r_left_on) x) AS missing, (SELECT count(*) FROM (TABLE r_left_on EXCEPT ALL TABLE kept_left) x) AS extra,
    (SELECT count(*) FROM (TABLE kept_inner EXCEPT ALL TABLE r_inner_on) x) AS missing_inner, (SELECT count(*) FROM (TABLE r_inner_on EXCEPT ALL TABLE kept_inner) x) AS extra_inner;
SELECT resume_pipeline(name) FROM unnest('{r_left_on,r_inner_on,r_full_three}'::text[]) name;
CALL put(7, '{a,b}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
SELECT name, string_agg(line, E'\n' ORDER BY i) AS tasks FROM unnest('{r_inner_on,r_full_three,r_grouped,r_with_group,r_three}'::text[]) name,
    explain_pipeline(name) WITH ORDINALITY e (line, i) WHERE line ~ 'Stage|Tasks' GROUP BY 1 ORDER BY 1;
SELECT count(alter_pipeline('r_' || name, parallelism => 1)) FROM query;
CALL put(8, '{b,a,c}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();

-- state of times near each other, and of windows, is freed
CALL put(30, '{a,b}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
CALL put(31, '{a,b}');
SELECT checkpoint(interval '1 min');
SELECT pipeline, state_rows < 250 AS few FROM pipelines WHERE pipeline ~ '^r_(time|window)' ORDER BY 1;
SET search_path = plain, res, stream_ckpt, public;
SELECT count(*) > 10 AS rows, bool_and(w + interval '10 s' <= (SELECT watermark FROM pipelines WHERE pipeline = 'final')) AS closed FROM res.final;
SELECT * FROM res.r_window_groups WHERE w + interval '10 s' <= (SELECT watermark FROM pipelines WHERE pipeline = 'final') EXCEPT ALL TABLE res.final;
SET search_path = live, res, stream_ckpt, public;
-- and what comes too late then is dropped
INSERT INTO live.a VALUES (1, 1, 'late', 1, '2024-01-01 00:00:01Z'), (2, 2, 'no time', 1, NULL);
SELECT checkpoint(interval '1 min');
SELECT pipeline, late_rows FROM pipelines WHERE late_rows > 0 ORDER BY 1;

-- more pairs than are kept in memory at a time
SELECT create_stream('live.wide', 'k int, side int, pad text');
SELECT create_pipeline('res.pairs', 'SELECT x.k, count(*) AS n, count(DISTINCT y.pad) AS pads, max(x.pad) AS most FROM wide x JOIN wide y ON x.k = y.k AND x.side < y.side GROUP BY x.k');
SELECT create_pipeline('res.appended', 'SELECT x.pad, y.pad AS other FROM wide x JOIN wide y ON x.k = y.k AND x.side < y.side');
INSERT INTO live.wide SELECT 1, i % 2, repeat('x', 20) || i FROM generate_series(1, 1400) i;
SELECT checkpoint(interval '1 min');
SELECT * FROM pairs;
SELECT count(*), count(DISTINCT pad), count(DISTINCT other) FROM appended;

-- ---- Bad rows ----
SELECT create_stream('live.e', 'id int, k int, v int'), create_stream('live.f', 'id int, k int, v int');
CREATE TABLE plain.e (id int, k int, v int);
CREATE TABLE plain.f (id int, k int, v int);
CREATE TABLE bad (name text, text text);
INSERT INTO bad VALUES
    ('pair', 'SELECT x.id, y.id AS other, 100 / (x.v - y.v) AS q FROM e x JOIN f y ON x.k = y.k'),
    ('condition', 'SELECT x.id, y.id AS other FROM e x LEFT JOIN f y ON x.k = y.k AND 100 / (x.v - y.v) > 10'),
    ('above', 'SELECT x.k, sum(100 / (x.v - y.v)) AS q, count(*) AS n FROM e x LEFT JOIN f y ON x.k = y.k GROUP BY x.k'),
    ('groups', 'SELECT x.k, 100 / (x.s - y.s) AS q FROM (SELECT k, sum(v) AS s FROM e GROUP BY k) x JOIN (SELECT k, sum(v) AS s FROM f GROUP BY k) y ON x.k = y.k');
SELECT create_pipeline('res.bad_' || name || '_' || n, text, on_error => 'dead_letter', parallelism => n) FROM bad, (VALUES (1), (3)) n (n);
SELECT create_pipeline('res.stops_' || n, text, parallelism => n) FROM bad, (VALUES (1), (3)) n (n) WHERE name = 'pair';
CREATE PROCEDURE put_bad(x text, y text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO live.e %1$s; INSERT INTO plain.e %1$s', x);
    EXECUTE format('INSERT INTO live.f %1$s; INSERT INTO plain.f %1$s', y);
END $$;
CALL put_bad('SELECT i, i % 7, i % 5 FROM generate_series(1, 40) i', 'SELECT i, i % 7, 10 + i % 5 FROM generate_series(1, 40) i');
CALL put_bad('SELECT 0, 0, 0 WHERE false', 'VALUES (100, 3, 3), (101, 3, 20), (102, 4, 4)');
CALL put_bad('VALUES (200, 3, 20), (201, 3, 33), (202, NULL, 20)', 'VALUES (103, NULL, 20), (104, 3, 34)');
SELECT checkpoint('bad_' || name || '_' || n) > 0 AS done FROM bad, (VALUES (1), (3)) n (n);
SELECT pipeline, stream, string_agg(row_data ->> 'id', ' ' ORDER BY (row_data ->> 'id')::int) AS rows, min(stage) AS stage, min(error) AS error FROM dead_letters
WHERE pipeline ~ '^bad' GROUP BY 1, 2 ORDER BY 1, 2;
-- results are as if they had never come
DELETE FROM plain.e WHERE id = 200;
DELETE FROM plain.f WHERE id IN (100, 102);
CREATE FUNCTION bad_differences() RETURNS TABLE (name text, tasks int, missing bigint, extra bigint) LANGUAGE plpgsql SET search_path = plain, live, res, stream_ckpt AS $$
BEGIN
    FOR name, tasks IN SELECT b.name, n FROM bad b, (VALUES (1), (3)) n (n) WHERE b.name <> 'groups' LOOP
        EXECUTE format('WITH q AS (%s), r AS (TABLE res.%I) SELECT (SELECT count(*) FROM (TABLE q EXCEPT ALL TABLE r) x), (SELECT count(*) FROM (TABLE r EXCEPT ALL TABLE q) x)',
            (SELECT text FROM bad b WHERE b.name = bad_differences.name), 'bad_' || name || '_' || tasks) INTO missing, extra;
        RETURN NEXT;
    END LOOP;
END $$;
SELECT * FROM bad_differences() ORDER BY 1, 2;
-- retried, they are bad again
SELECT retry_dead_letters('bad_pair_3') AS retried;
SELECT checkpoint('bad_pair_3') > 0 AS done;
SELECT count(*) FROM dead_letters WHERE pipeline = 'bad_pair_3';
SELECT * FROM bad_differences() WHERE missing + extra > 0;
SELECT pipeline, status, regexp_replace(error, '[0-9A-F]+/[0-9A-F]+', 'X/X', 'g') AS error FROM pipelines WHERE pipeline ~ '^stops' ORDER BY 1;
SELECT count(*) = (SELECT count(*) FROM stops_3) AS same, count(*) FROM stops_1;
SELECT count(drop_pipeline(pipeline)) FROM pipelines WHERE pipeline ~ '^(bad|stops)_';

-- ---- Forgetting ----
SELECT create_stream('live.p', 'id int, k int, ts timestamptz', event_time => 'ts'), create_stream('live.q', 'id int, k int, ts timestamptz', event_time => 'ts');
SELECT create_pipeline('res.forgets_' || name || '_' || n, text, state_ttl => '10 s', parallelism => n) FROM (VALUES
    ('inner', 'SELECT p.id, q.id AS other FROM p JOIN q ON p.k = q.k'),
    ('left', 'SELECT p.id, q.id AS other FROM p LEFT JOIN q ON p.k = q.k'),
    ('anti', 'SELECT p.id FROM p WHERE NOT EXISTS (SELECT FROM q WHERE q.k = p.k)'),
    ('grouped', 'SELECT p.k, count(*) AS n, max(q.id) AS m, count(DISTINCT p.id) AS d FROM p JOIN q ON p.k = q.k GROUP BY p.k')) q (name, text),
    (VALUES (1), (3)) n (n);
SELECT line FROM explain_pipeline('forgets_inner_3') line WHERE line ~ 'State: rows of|Sink|Tasks';
INSERT INTO live.p SELECT i, i % 3, '2024-01-01Z'::timestamptz + i * interval '1 s' FROM generate_series(1, 20) i;
INSERT INTO live.q SELECT i, i % 4, '2024-01-01Z'::timestamptz + i * interval '1 s' FROM generate_series(1, 25) i;
SELECT checkpoint(interval '1 min');
CREATE VIEW res.p AS SELECT i AS id, i % 3 AS k FROM generate_series(11, 20) i;
CREATE VIEW res.q AS SELECT i AS id, i % 4 AS k FROM generate_series(11, 25) i;
CREATE VIEW res.forgotten AS
    SELECT 'inner' AS name, p.id, q.id AS other, 0 AS n, 0 AS d FROM res.p JOIN res.q USING (k) UNION ALL
    SELECT 'left', p.id, q.id, 0, 0 FROM res.p LEFT JOIN res.q USING (k) UNION ALL
    SELECT 'anti', p.id, 0, 0, 0 FROM res.p WHERE k NOT IN (SELECT k FROM res.q) UNION ALL
    SELECT 'grouped', k, max(q.id), count(*), count(DISTINCT p.id) FROM res.p JOIN res.q USING (k) GROUP BY k;
CREATE VIEW res.forgets AS
    SELECT 1 AS tasks, 'inner' AS name, id, other, 0 AS n, 0 AS d FROM res.forgets_inner_1 UNION ALL SELECT 3, 'inner', id, other, 0, 0 FROM res.forgets_inner_3 UNION ALL
    SELECT 1, 'left', id, other, 0, 0 FROM res.forgets_left_1 UNION ALL SELECT 3, 'left', id, other, 0, 0 FROM res.forgets_left_3 UNION ALL
    SELECT 1, 'anti', id, 0, 0, 0 FROM res.forgets_anti_1 UNION ALL SELECT 3, 'anti', id, 0, 0, 0 FROM res.forgets_anti_3 UNION ALL
    SELECT 1, 'grouped', k, m, n, d FROM res.forgets_grouped_1 UNION ALL SELECT 3, 'grouped', k, m, n, d FROM res.forgets_grouped_3;
SELECT tasks, name, count(*) FROM (SELECT tasks, name, id, other, n, d FROM res.forgotten, (VALUES (1), (3)) t (tasks) EXCEPT ALL TABLE res.forgets) x GROUP BY 1, 2;
SELECT tasks, name, count(*) FROM (TABLE res.forgets EXCEPT ALL SELECT tasks, name, id, other, n, d FROM res.forgotten, (VALUES (1), (3)) t (tasks)) x GROUP BY 1, 2;
SELECT name, count(*) FROM res.forgotten GROUP BY 1 ORDER BY 1;
-- and restored so
SELECT count(pause_pipeline(pipeline)), count(resume_pipeline(pipeline)) FROM pipelines WHERE pipeline ~ '^forgets';
INSERT INTO live.p VALUES (100, 7, '2024-01-01 00:01Z');
INSERT INTO live.q VALUES (100, 8, '2024-01-01 00:01Z');
SELECT checkpoint(interval '1 min');
SELECT * FROM res.forgets ORDER BY 1, 2;
SELECT pipeline, state_rows FROM pipelines WHERE pipeline ~ '^forgets' ORDER BY 1;
DROP VIEW res.forgets;
SELECT count(drop_pipeline(pipeline)) FROM pipelines WHERE pipeline ~ '^forgets';

-- ---- What is shown ----
SELECT e FROM unnest('{r_inner_comma,r_full_three,r_anti_grouped,r_time_inner,r_time_one_side,r_window_left}'::text[]) WITH ORDINALITY n (n, i), explain_pipeline(n) WITH ORDINALITY e (e, j)
WHERE e ~ '^Pipeline|Stage|Key|Condition|Filter|    State|Sink' ORDER BY i, j;

-- ---- Changing ----
SELECT alter_pipeline('r_left_on', query => 'SELECT l.id AS a_id, r.id AS b_id, l.v, r.w FROM live.a l LEFT JOIN live.b r ON l.k = r.k');
SELECT checkpoint(interval '1 min');
CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
\x on
SELECT t.* FROM unnest(ARRAY[
    $$SELECT alter_pipeline('r_left_on', query => 'SELECT l.id AS a_id, r.id AS b_id, l.v, r.w FROM live.a l JOIN live.b r ON l.k = r.k')$$,
    $$SELECT alter_pipeline('r_left_on', query => 'SELECT l.id AS a_id, r.id AS b_id, l.v, r.w FROM live.a l LEFT JOIN live.b r ON l.k = r.k AND r.id > 2')$$,
    $$SELECT create_pipeline('x', 'SELECT a.id FROM a JOIN b ON a.k = b.k', emit => 'final')$$,
    $$SELECT alter_pipeline('r_inner_on', state_ttl => '1 h')$$,
    $$SELECT create_pipeline('x', 'SELECT a.id FROM a JOIN b ON a.k = b.k, LATERAL (SELECT c.id FROM c WHERE c.k = a.k) y')$$,
    $$SELECT create_pipeline('x', 'SELECT a.id FROM dim FULL JOIN (a JOIN b ON a.k = b.k) ON dim.k = a.k')$$,
    $$SELECT create_pipeline('x', 'SELECT a FROM a JOIN b ON a.k = b.k')$$,
    $$SELECT create_pipeline('x', 'SELECT a.id, random() AS r FROM a JOIN b ON a.k = b.k')$$,
    $$SELECT create_pipeline('x', 'SELECT a.id FROM a JOIN b ON a.k = b.k AND a.ts < now()')$$,
    $$SELECT create_pipeline('x', 'SELECT a.id FROM a LEFT JOIN b ON a.k = b.k', sink => 'dim')$$
    ]) WITH ORDINALITY c (c, i), try(c) t ORDER BY i;
\x off
SET client_min_messages = notice;
SELECT create_pipeline('res.grows', 'SELECT a.id FROM a JOIN b ON a.k = b.k');
SELECT create_pipeline('res.does_not_grow', 'SELECT a.id FROM a JOIN b ON a.k = b.k AND a.ts = b.ts');
SET client_min_messages = warning;
SELECT count(drop_pipeline(pipeline)) FROM pipelines;
DROP SCHEMA res CASCADE;
SELECT drop_stream('live.' || s) FROM unnest('{a,b,c,wide}'::text[]) s;
DROP SCHEMA live, plain CASCADE;
