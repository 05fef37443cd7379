-- INTERSECT, EXCEPT, UNION and UNION ALL of streams and of what has state, and views over streams, against the same SQL over tables.
\getenv srcdir PG_ABS_SRCDIR
\set collation ''
\set start :srcdir '/test/lib/three_streams.sql'
\set ECHO none
\i :start
\set ECHO all
INSERT INTO query VALUES
    ('intersect_two', 'SELECT k FROM a INTERSECT SELECT k FROM b'),
    ('intersect_all', 'SELECT k, id % 3 AS m FROM a INTERSECT ALL SELECT k, id % 3 FROM c'),
    ('except_two', 'SELECT id % 16 AS i, v FROM a EXCEPT SELECT id % 8, w FROM b'),
    ('except_all', 'SELECT k, v FROM a EXCEPT ALL SELECT k, w FROM b'),
    ('except_self', 'SELECT k FROM a EXCEPT ALL SELECT k FROM a WHERE id % 2 = 0'),
    ('mixed', '(SELECT k FROM a UNION ALL SELECT k FROM b) EXCEPT (SELECT k FROM c WHERE id % 7 = 0 INTERSECT SELECT k FROM a)'),
    ('mixed_all', 'SELECT k FROM a UNION ALL (SELECT k FROM b EXCEPT ALL SELECT k FROM c)'),
    ('three', 'SELECT k FROM a EXCEPT ALL SELECT k FROM b EXCEPT ALL SELECT k FROM c'),
    ('union_first', '(SELECT k FROM a WHERE id % 5 = 0 EXCEPT SELECT k FROM b WHERE id % 3 = 0) UNION SELECT k FROM c WHERE id % 9 = 0'),
    ('of_groups', 'SELECT k, count(*) AS n FROM a GROUP BY k INTERSECT SELECT k, count(*) FROM b GROUP BY k'),
    ('of_joins', 'SELECT a.id, b.id AS b_id FROM a JOIN b USING (k) EXCEPT ALL SELECT a.id, c.id FROM a LEFT JOIN c ON c.k = a.k'),
    ('grouped', 'SELECT k, count(*) AS n FROM (SELECT k, v FROM a EXCEPT ALL SELECT k, w FROM b) x GROUP BY k'),
    ('joined', 'SELECT x.k, b.id FROM (SELECT k FROM a INTERSECT ALL SELECT k FROM c) x JOIN b ON b.k = x.k'),
    ('in_set', 'SELECT id FROM a WHERE k IN (SELECT k FROM b INTERSECT SELECT k FROM c)'),
    ('limited', 'SELECT k, v FROM a EXCEPT ALL SELECT k, w FROM b ORDER BY k DESC, v LIMIT 3'),
    ('widened', 'SELECT k, n FROM a INTERSECT ALL SELECT id, k FROM c'),
    ('with_query', 'WITH d AS (SELECT k FROM dim WHERE k < 6), x AS (SELECT k FROM a WHERE k IN (SELECT k FROM d)) SELECT k FROM x INTERSECT SELECT b.k FROM b JOIN d ON d.k = b.k'),
    -- UNION ALL of what has state
    ('all_groups', 'SELECT k, count(*) AS n FROM a GROUP BY k UNION ALL SELECT k, count(*) FROM b GROUP BY k'),
    ('all_kinds', 'SELECT k, ''rows'' AS kind, id::numeric AS n FROM a WHERE id % 4 = 0 UNION ALL SELECT k, ''count'', count(*) FROM b GROUP BY k UNION ALL SELECT k, NULL, n FROM a WHERE id % 4 = 1 UNION ALL SELECT a.k, ''join'', b.id FROM a JOIN b USING (k)'),
    ('all_joins', 'SELECT a.id, b.w FROM a LEFT JOIN b USING (k) UNION ALL SELECT id, NULL FROM c'),
    ('all_grouped', 'SELECT n, count(*) AS c FROM (SELECT k, count(*) AS n FROM a GROUP BY k UNION ALL SELECT k, count(*) FROM b GROUP BY k UNION ALL SELECT k, id FROM c WHERE id < 30) x GROUP BY n'),
    ('all_limited', 'SELECT id FROM c UNION ALL (SELECT id FROM b ORDER BY id DESC, ts LIMIT 3)'),
    ('union_groups', 'SELECT k FROM (SELECT k, max(id) AS m FROM a GROUP BY k) x WHERE m % 2 = 0 UNION SELECT k FROM b GROUP BY k HAVING count(*) > 3'),
    ('all_windows', 'SELECT window_start, k FROM a, stream_ckpt.tumble(ts, ''5 s'') UNION ALL SELECT ts, k FROM b'),
    ('all_distinct', 'SELECT DISTINCT k FROM a UNION ALL SELECT DISTINCT k FROM c UNION ALL SELECT k FROM c'),
    ('all_joined', 'SELECT u.n, c.id FROM (SELECT k, count(*) AS n FROM a GROUP BY k UNION ALL SELECT k, id FROM b) u JOIN c ON c.k = u.k'),
    ('all_with', 'WITH d AS (SELECT k, name FROM dim) SELECT name, count(*) AS n FROM a JOIN d USING (k) GROUP BY name UNION ALL SELECT name, b.id FROM b JOIN d USING (k)');
-- views with state, over streams and over tables
CREATE PROCEDURE make_views(schema text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('search_path', schema || ', res, public', true);
    EXECUTE 'CREATE VIEW pairs AS SELECT a.id, a.k, b.id AS b_id, b.w FROM a JOIN b USING (k)';
    EXECUTE 'CREATE VIEW counts (k, n) AS WITH x AS (SELECT k FROM a) SELECT k, count(*) FROM x GROUP BY k';
    EXECUTE 'CREATE VIEW keys AS SELECT DISTINCT k FROM a UNION ALL SELECT k FROM b GROUP BY k';
    EXECUTE 'CREATE VIEW per_window AS SELECT window_start, k, id FROM a, stream_ckpt.tumble(ts, ''5 s'')';
    EXECUTE 'CREATE VIEW latest AS SELECT DISTINCT ON (k) k, id, n FROM counts JOIN c USING (k) ORDER BY k, id DESC';
    EXECUTE 'CREATE VIEW in_both AS SELECT k FROM a INTERSECT SELECT k FROM b';
    EXECUTE 'CREATE VIEW plain_rows AS SELECT id, k, ts FROM a WHERE id % 2 = 0';
END $$;
CALL make_views('live');
CALL make_views('plain');
INSERT INTO query VALUES
    ('v_pairs', 'SELECT id, b_id FROM pairs WHERE w <> ''b'''),
    ('v_pairs_grouped', 'SELECT p.w, count(*) AS n FROM pairs p GROUP BY p.w'),
    ('v_counts', 'SELECT n, count(*) AS c FROM counts GROUP BY n'),
    ('v_two', 'SELECT x.k, x.n, y.id FROM counts x JOIN pairs y ON y.k = x.k'),
    ('v_keys', 'SELECT k, count(*) AS n FROM keys GROUP BY k'),
    ('v_window', 'SELECT window_start, count(*) AS n FROM per_window GROUP BY 1'),
    ('v_latest', 'SELECT k, id, n FROM latest'),
    ('v_in', 'SELECT id FROM c WHERE k NOT IN (SELECT k FROM in_both WHERE k IS NOT NULL) UNION ALL SELECT id FROM plain_rows WHERE k IN (SELECT k FROM in_both)'),
    ('v_scalar', 'SELECT id FROM plain_rows WHERE id > (SELECT avg(n) * 4 FROM counts)');
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
CREATE TABLE kept_rows AS TABLE r_except_all;
CALL put(4, '{b,a,c}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
SELECT pause_pipeline(name), restore_pipeline(name, id) FROM unnest('{r_except_all,r_all_kinds,r_mixed,r_v_two}'::text[]) name JOIN kept ON pipeline = name;
SELECT (SELECT count(*) FROM (TABLE kept_rows EXCEPT ALL TABLE r_except_all) x) AS missing, (SELECT count(*) FROM (TABLE r_except_all EXCEPT ALL TABLE kept_rows) x) AS extra;
SELECT resume_pipeline(name) FROM unnest('{r_except_all,r_all_kinds,r_mixed,r_v_two}'::text[]) name;
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();

-- ---- Windows that close ----
SELECT create_pipeline('res.final', 'SELECT window_start, window_end, k, count(*) AS n FROM a, tumble(ts, ''10 s'') GROUP BY 1, 2, 3
    UNION ALL SELECT window_start, window_end, k, -count(*) FROM b, tumble(ts, ''10 s'') GROUP BY 1, 2, 3', emit => 'final');
CALL put(30, '{a,b}');
CALL put(33, '{a,b}');
SELECT checkpoint(interval '1 min');
SELECT count(*) AS groups, sum(abs(n)) AS rows, max(window_end) <= (SELECT watermark FROM pipelines WHERE pipeline = 'final') AS closed FROM final;
SELECT * FROM differences();

-- ---- What is shown ----
SELECT n, e FROM unnest('{r_intersect_two,r_except_all,r_all_kinds,r_v_pairs}'::text[]) WITH ORDINALITY n (n, i), explain_pipeline(n) WITH ORDINALITY e (e, j)
WHERE e ~ '^Pipeline|Stage|Key|Condition|Filter|Sink' ORDER BY i, j;

-- ---- Who may ----
CREATE ROLE so_reader;
GRANT USAGE ON SCHEMA live, res, stream_ckpt TO so_reader;
GRANT CREATE ON SCHEMA res TO so_reader;
GRANT SELECT ON live.pairs, live.plain_rows, live.a TO so_reader;
SET ROLE so_reader;
-- what a view with state reads is read as who runs the pipeline
SELECT create_pipeline('res.x', 'SELECT id FROM pairs');
RESET ROLE;
GRANT SELECT ON live.b TO so_reader;
REVOKE SELECT ON live.pairs FROM so_reader;
SET ROLE so_reader;
SELECT create_pipeline('res.x', 'SELECT id FROM pairs');
RESET ROLE;
GRANT SELECT ON live.pairs TO so_reader;
SET ROLE so_reader;
SELECT create_pipeline('res.x', 'SELECT id FROM pairs');
RESET ROLE;

CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
\x on
SELECT t.* FROM unnest(ARRAY[
    'SELECT k FROM a EXCEPT SELECT k FROM dim',
    'SELECT k FROM a GROUP BY k UNION ALL SELECT k FROM dim',
    'SELECT y FROM c, LATERAL (SELECT c.k AS y) l INTERSECT SELECT k FROM b ORDER BY 1',
    'SELECT ts::time::text::json FROM a EXCEPT SELECT ts::time::text::json FROM b']) WITH ORDINALITY c (c, i), try(format('SELECT create_pipeline(''y'', %L)', c)) t ORDER BY i;
\x off
SELECT count(drop_pipeline(pipeline)) FROM pipelines;
DROP SCHEMA res CASCADE;
DROP VIEW live.pairs, live.counts, live.keys, live.per_window, live.latest, live.in_both, live.plain_rows CASCADE;
SELECT drop_stream('live.' || s) FROM unnest('{a,b,c}'::text[]) s;
DROP SCHEMA live, plain CASCADE;
DROP OWNED BY so_reader;
DROP ROLE so_reader;
