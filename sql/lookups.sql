-- Tables joined above what has state: joined, grouped or ranked streams, against the same SQL over tables.
\getenv srcdir PG_ABS_SRCDIR
\set collation ''
\set start :srcdir '/test/lib/three_streams.sql'
\set ECHO none
\i :start
\set ECHO all
SET datestyle = 'ISO, YMD';
CREATE TABLE dims (k int, name text, tags text[]);
INSERT INTO dims SELECT i % 6, 'tag ' || i, CASE WHEN i % 2 = 0 THEN ARRAY['x', 'y' || i] END FROM generate_series(0, 8) i;
CREATE VIEW named AS SELECT k, name FROM dim WHERE k <> 3;
INSERT INTO query VALUES
    -- above groups
    ('grouped', 'SELECT g.k, g.n, d.name FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g JOIN dim d USING (k)'),
    ('grouped_left', 'SELECT g.k, g.n, d.name, d.tags FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g LEFT JOIN dims d ON d.k = g.k AND d.name <> ''tag 1'''),
    ('grouped_more', 'SELECT g.k, g.n, d.name, e.name AS other FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g, dims d, dim e WHERE d.k = g.k AND e.k = g.n % 8'),
    ('grouped_again', 'SELECT d.name, count(*) AS n, sum(g.n) AS s, array_agg(g.k ORDER BY g.k, g.v) AS ks FROM (SELECT k, v, count(*) AS n FROM a GROUP BY k, v) g JOIN dims d USING (k) GROUP BY d.name'),
    ('grouped_having', 'SELECT d.name, max(g.n) AS n FROM (SELECT k, v, count(*) AS n FROM a GROUP BY k, v) g LEFT JOIN dim d ON d.k = g.n GROUP BY 1 HAVING count(*) > 1'),
    ('ungrouped', 'SELECT d.name, t.n FROM (SELECT count(*) AS n FROM a) t, dim d WHERE t.n > d.k * 8'),
    ('distinct', 'SELECT x.k, x.v, d.name FROM (SELECT DISTINCT k, v FROM a) x LEFT JOIN named d USING (k)'),
    ('ranked', 'SELECT x.k, x.id, d.name FROM (SELECT DISTINCT ON (k) k, id, ts FROM a ORDER BY k, id DESC, ts, v, n) x JOIN dim d USING (k)'),
    ('rank_above', 'SELECT k, name, n FROM (SELECT g.k, d.name, row_number() OVER (ORDER BY g.n DESC, g.k, d.name) AS n FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g JOIN dims d USING (k)) x WHERE n <= 3'),
    ('top', 'SELECT t.k, t.n, d.name FROM (SELECT k, count(*) AS n FROM a GROUP BY k ORDER BY n DESC, k LIMIT 4) t LEFT JOIN dim d USING (k)'),
    ('framed', 'SELECT f.k, f.id, f.s, d.name FROM (SELECT k, id, ts, sum(id) OVER (PARTITION BY k ORDER BY id, ts, v, n ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS s FROM a) f JOIN dim d ON d.k = f.s % 8'),
    ('set_operation', 'SELECT x.k, d.name FROM (SELECT k FROM a INTERSECT ALL SELECT k FROM b) x JOIN dims d ON d.k = x.k'),
    ('united', 'SELECT x.k, x.n, d.name FROM (SELECT k, count(*) AS n FROM a GROUP BY k UNION ALL SELECT k, 0 FROM c) x JOIN dims d USING (k)'),
    ('lateral', 'SELECT g.k, e.e, g.n FROM (SELECT k, array_agg(DISTINCT id) AS ids, count(*) AS n FROM a GROUP BY k) g, LATERAL unnest(g.ids) AS e (e) WHERE e.e % 2 = 0'),
    ('lateral_table', 'SELECT g.k, g.n, d.name FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g LEFT JOIN LATERAL (SELECT name FROM dims d WHERE d.k = g.k ORDER BY name LIMIT 1) d ON true'),
    ('with_query', 'WITH g AS (SELECT k, count(*) AS n FROM a GROUP BY k), t AS (SELECT k, string_agg(name, '','' ORDER BY name) AS names FROM dims GROUP BY k) SELECT g.k, g.n, t.names FROM g JOIN t USING (k)'),
    ('nothing_selected', 'SELECT g.k, g.n FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g, LATERAL generate_series(1, g.n % 4) s'),
    -- sub-selects over tables
    ('listed', 'SELECT g.k, g.n, (SELECT max(name) FROM dims d WHERE d.k = g.k) AS m FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g'),
    ('where_exists', 'SELECT g.k, g.n FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g WHERE NOT EXISTS (SELECT FROM dims d WHERE d.k = g.n % 8) OR g.k IN (SELECT k FROM named)'),
    ('in_aggregate', 'SELECT g.n, count((SELECT name FROM dim d WHERE d.k = g.k)) AS m FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g GROUP BY g.n'),
    ('in_key', 'SELECT (SELECT name FROM dim d WHERE d.k = g.k) AS name, sum(g.n) AS n FROM (SELECT k, v, count(*) AS n FROM a GROUP BY k, v) g GROUP BY 1'),
    ('of_group', 'SELECT k, count(*) AS n, (SELECT name FROM dim d WHERE d.k = a.k) AS name FROM a GROUP BY k'),
    ('of_group_having', 'SELECT k, v, count(*) AS n FROM a GROUP BY k, v HAVING count(*) > (SELECT min(k) FROM dims d WHERE d.k >= a.k) OR EXISTS (SELECT FROM dims d WHERE d.k = count(a.n))'),
    ('of_group_below', 'SELECT q.name, sum(q.n) AS n FROM (SELECT k, count(*) AS n, (SELECT name FROM named d WHERE d.k = a.k) AS name FROM a GROUP BY k) q GROUP BY q.name'),
    ('of_group_again', 'SELECT g.k, count(*) AS n, (SELECT max(name) FROM dims d WHERE d.k = g.k) AS name FROM (SELECT k, v, count(*) AS n FROM a GROUP BY k, v) g GROUP BY g.k'),
    ('of_all', 'SELECT count(*) AS n, (SELECT count(*) FROM dims) AS m FROM a'),
    ('in_join', 'SELECT a.id, b.w, (SELECT name FROM dim d WHERE d.k = a.k + b.k) AS name FROM a JOIN b ON a.k = b.k'),
    ('join_exists', 'SELECT a.id, b.w FROM a JOIN b ON a.k = b.k WHERE EXISTS (SELECT FROM dims d WHERE d.k = (a.id + b.id) % 8)'),
    -- above joins
    ('outer_join', 'SELECT a.id, b.id AS b_id, d.name FROM a LEFT JOIN b ON a.k = b.k AND a.id < b.id LEFT JOIN dims d ON d.k = b.k'),
    ('outer_inner', 'SELECT a.id, b.id AS b_id, d.name FROM (a FULL JOIN b ON a.k = b.k) JOIN dims d ON d.k = coalesce(a.k, b.id % 8)'),
    ('outer_two', 'SELECT a.id, b.id AS b_id, d.name, e.name AS other FROM a LEFT JOIN b ON a.k = b.k LEFT JOIN dims d ON d.k = b.k LEFT JOIN dim e ON e.k = d.k + 1 WHERE e.name IS NULL OR a.id % 3 > 0'),
    ('of_both', 'SELECT a.id, b.id AS b_id, d.name FROM a JOIN b ON a.k = b.k JOIN dim d ON d.k = (a.id + b.id) % 8'),
    ('of_both_left', 'SELECT a.id, b.id AS b_id, d.name FROM a JOIN b ON a.k = b.k LEFT JOIN dims d ON d.k = (a.id + b.id) % 8'),
    ('of_both_lateral', 'SELECT a.id, b.id AS b_id, s.s FROM a JOIN b ON a.k = b.k, LATERAL generate_series(a.id, b.id) AS s (s)'),
    ('of_both_grouped', 'SELECT d.name, count(*) AS n FROM a JOIN b ON a.k = b.k JOIN dim d ON d.k = (a.id + b.id) % 8 GROUP BY d.name'),
    ('join_of_groups', 'SELECT x.k, x.n, y.m, d.name FROM (SELECT k, count(*) AS n FROM a GROUP BY k) x JOIN (SELECT k, max(id) AS m FROM b GROUP BY k) y USING (k) JOIN dims d ON d.k = x.k AND d.name > ''tag 2'''),
    ('semi', 'SELECT g.k, d.name FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g JOIN dims d USING (k) WHERE EXISTS (SELECT FROM b WHERE b.k = g.k AND b.id > 30)'),
    ('scalar', 'SELECT g.k, d.name, g.n FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g JOIN dims d USING (k) WHERE g.n > (SELECT avg(id) / 10 FROM c)'),
    ('windowed', 'SELECT w.window_start, w.n, d.name FROM (SELECT window_start, k, count(*) AS n FROM a, stream_ckpt.tumble(ts, ''5 s'') GROUP BY window_start, k) w JOIN dim d USING (k)');
SET search_path = live, res, stream_ckpt, public;
CALL create_pipelines();

SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
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
CREATE TABLE kept_rows AS TABLE r_grouped_more;
CALL put(4, '{b,a,c}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
SELECT pause_pipeline(name), restore_pipeline(name, id) FROM unnest('{r_grouped_more,r_grouped_again,r_outer_two}'::text[]) name JOIN kept ON pipeline = name;
SELECT (SELECT count(*) FROM (TABLE kept_rows EXCEPT ALL TABLE r_grouped_more) x) AS missing, (SELECT count(*) FROM (TABLE r_grouped_more EXCEPT ALL TABLE kept_rows) x) AS extra;
SELECT resume_pipeline(name) FROM unnest('{r_grouped_more,r_grouped_again,r_outer_two}'::text[]) name;
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();

-- ---- What is shown ----
SELECT n, e FROM unnest('{r_grouped,r_grouped_again,r_outer_two,r_of_both_left,r_in_join}'::text[]) WITH ORDINALITY n (n, i), explain_pipeline(n) WITH ORDINALITY e (e, j)
WHERE e ~ '^ {0,4}(Pipeline|Stage|Key|Condition|Filter|State: [^0-9]*$|State: rows|Sink)' ORDER BY i, j;

-- ---- The table changes: what was looked up before stays, and goes with its row; no row is left behind ----
SELECT count(drop_pipeline('r_' || name)) FROM query;
DELETE FROM query;
CREATE TABLE names (k int, name text);
INSERT INTO names VALUES (1, 'one'), (2, 'two');
SELECT create_pipeline('res.r_sums', 'SELECT g.k, g.n, t.name FROM (SELECT k, count(*) AS n FROM c GROUP BY k) g LEFT JOIN names t USING (k)');
SELECT create_pipeline('res.r_both', 'SELECT a.id, c.id AS c_id, t.name FROM a JOIN c ON a.k = c.k JOIN names t ON t.k = (a.id + c.id) % 4');
SELECT create_pipeline('res.r_counted', 'SELECT t.name, count(*) AS groups, sum(g.n) AS n FROM (SELECT k, count(*) AS n FROM c GROUP BY k) g JOIN names t USING (k) GROUP BY t.name', parallelism => 2);
INSERT INTO live.c VALUES (1, 1, NULL), (2, 2, NULL), (3, 2, NULL), (4, 3, NULL);
INSERT INTO live.a VALUES (1, 1, 'x', 1, NULL), (2, 2, 'x', 1, NULL);
SELECT checkpoint(interval '1 min');
SELECT * FROM r_sums ORDER BY k;
SELECT * FROM r_both ORDER BY 1, 2;
SELECT * FROM r_counted ORDER BY 1;
UPDATE names SET name = upper(name);
INSERT INTO names VALUES (3, 'three'), (1, 'ONCE MORE');
INSERT INTO live.c VALUES (5, 2, NULL), (6, 3, NULL);
SELECT checkpoint(interval '1 min');
SELECT * FROM r_sums ORDER BY k;
SELECT * FROM r_both ORDER BY 1, 2;
SELECT * FROM r_counted ORDER BY 1;
DELETE FROM names;
SELECT count(pause_pipeline('r_' || name)), count(resume_pipeline('r_' || name)) FROM unnest('{sums,both,counted}'::text[]) name;
INSERT INTO live.c VALUES (7, 1, NULL), (8, 2, NULL);
SELECT checkpoint(interval '1 min');
SELECT * FROM r_sums ORDER BY k;
SELECT * FROM r_both ORDER BY 1, 2;
SELECT * FROM r_counted ORDER BY 1;

-- ---- Windows that close: over rows that stay ----
INSERT INTO names VALUES (1, 'one'), (2, 'two');
SELECT create_pipeline('res.r_final', 'SELECT w.window_end, w.k, w.n, t.name FROM (SELECT window_end, k, count(*) AS n FROM a, tumble(ts, ''10 s'') GROUP BY window_end, k) w JOIN names t USING (k)', emit => 'final');
INSERT INTO live.a SELECT g, g % 3, 'x', 1, timestamptz '2024-02-01Z' + g * interval '1 s' FROM generate_series(1, 50) g;
SELECT checkpoint(interval '1 min');
SELECT * FROM r_final ORDER BY 1, 2;
SELECT e FROM explain_pipeline('r_final') e WHERE e ~ 'Stage|State|Sink';

-- ---- Altered, with its state; forgotten; failing ----
SELECT drop_pipeline('r_both'), drop_pipeline('r_final');
SELECT create_pipeline('res.r_forgets', 'SELECT a.id, c.id AS c_id, t.name FROM a JOIN c ON a.k = c.k JOIN names t ON t.k = (a.id + c.id) % 4', state_ttl => '1 hour');
SELECT create_pipeline('res.r_fails', 'SELECT g.k, 12 / t.k AS share FROM (SELECT k, count(*) AS n FROM c GROUP BY k) g JOIN names t ON t.k = g.k - 100 AND 10 / t.k < 100');
SELECT alter_pipeline('r_sums', checkpoint_interval => '2 s');
SELECT alter_pipeline('r_sums', 'SELECT q.k, q.n, t.name FROM (SELECT k, count(*) AS n FROM c GROUP BY k) q LEFT JOIN names t USING (k)');
INSERT INTO live.c VALUES (9, 1, NULL), (10, 101, NULL);
INSERT INTO live.a VALUES (1, 1, 'x', 1, '2024-03-01Z'), (3, 1, 'x', 1, '2024-03-01Z');
SELECT checkpoint(interval '1 min');
SELECT * FROM r_sums ORDER BY k;
SELECT * FROM r_forgets ORDER BY 1, 2;
SELECT * FROM r_fails;
INSERT INTO names VALUES (0, 'none');
INSERT INTO live.c VALUES (11, 100, NULL);
\set VERBOSITY terse
SELECT checkpoint(interval '1 min');
\set VERBOSITY default
SELECT pipeline, status, error FROM pipelines ORDER BY 1;
DELETE FROM names WHERE k = 0;
SELECT resume_pipeline('r_fails');
SELECT checkpoint(interval '1 min');
SELECT * FROM r_fails;

CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
CREATE ROLE looker;
GRANT USAGE ON SCHEMA live, res, stream_ckpt TO looker;
GRANT CREATE ON SCHEMA res TO looker;
GRANT SELECT ON live.a TO looker;
\x on
SELECT t.* FROM unnest(ARRAY[
    'SELECT g.n, t.name FROM names t LEFT JOIN (SELECT k, count(*) AS n FROM c GROUP BY k) g USING (k)',
    'SELECT g.n, t.name FROM names t FULL JOIN (SELECT k, count(*) AS n FROM c GROUP BY k) g USING (k)',
    'SELECT g.n, t.name FROM names t JOIN (SELECT k, count(*) AS n FROM c GROUP BY k) g USING (k) WHERE now() > ''2024-01-01''',
    'SELECT window_start, count(*) FROM (SELECT window_end AS at, k, count(*) AS n FROM a, tumble(ts, ''1 s'') GROUP BY window_end, k) g JOIN names t USING (k), tumble(at, ''10 s'') GROUP BY window_start',
    'SELECT g, t.name FROM (SELECT k, count(*) AS n FROM c GROUP BY k) g JOIN names t USING (k)',
    'SELECT a.id, b.id AS b_id, t.name FROM a LEFT JOIN b ON a.k = b.k JOIN names t ON t.k = b.k WHERE t.name IN (SELECT v FROM c JOIN a USING (k))',
    'SELECT g.k, random() FROM (SELECT k, count(*) AS n FROM c GROUP BY k) g JOIN names t USING (k)']) q,
    LATERAL try(format('SELECT create_pipeline(''res.refused'', %L)', q)) t;
SELECT t.* FROM try($$SELECT create_pipeline('res.refused', 'SELECT g.k, t.name FROM (SELECT k, count(*) AS n FROM c GROUP BY k) g JOIN names t USING (k)', on_error => 'dead_letter')$$) t;
SELECT t.* FROM try($$SELECT create_pipeline('res.refused', 'SELECT g.k, t.name FROM (SELECT k, count(*) AS n FROM c GROUP BY k) g JOIN names t USING (k)', sink => 'plain.a')$$) t;
SELECT create_pipeline('res.r_kept', 'SELECT k, count(*) AS n FROM c GROUP BY k', on_error => 'dead_letter');
SELECT t.* FROM try($$SELECT alter_pipeline('r_kept', 'SELECT g.k, t.name FROM (SELECT k, count(*) AS n FROM c GROUP BY k) g JOIN names t USING (k)', reset_state => true)$$) t;
SELECT t.* FROM try($$SELECT alter_pipeline('r_sums', on_error => 'dead_letter')$$) t;
SET ROLE looker;
SELECT t.* FROM try($$SELECT create_pipeline('res.refused', 'SELECT g.k, t.name FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g JOIN names t USING (k)')$$) t;
RESET ROLE;
\x off
DROP OWNED BY looker;
DROP ROLE looker;
SELECT count(drop_pipeline(pipeline)) FROM pipelines;
DROP SCHEMA res CASCADE;
SELECT drop_stream('live.' || s) FROM unnest('{a,b,c}'::text[]) s;
DROP SCHEMA live, plain CASCADE;
