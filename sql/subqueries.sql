-- Sub-selects over streams outside FROM, and joins of streams without an equality, against the same SQL over tables.
\getenv srcdir PG_ABS_SRCDIR
\set collation ''
\set start :srcdir '/test/lib/three_streams.sql'
\set ECHO none
\i :start
\set ECHO all
INSERT INTO query VALUES
    -- no equality
    ('cross', 'SELECT a.id AS a_id, c.id AS c_id FROM a, c'),
    ('less', 'SELECT a.id AS a_id, b.id AS b_id FROM a JOIN b ON a.k < b.k AND a.id > b.id'),
    ('on_true', 'SELECT a.id, q.n, q.m FROM a LEFT JOIN (SELECT count(*) AS n, max(k) AS m FROM b HAVING count(*) % 2 = 1) q ON true'),
    ('full_less', 'SELECT b.id AS b_id, c.id AS c_id, b.w FROM b LEFT JOIN c ON b.k < c.k'),
    ('parts', 'SELECT a.id AS a_id, b.id AS b_id, c.id AS c_id FROM a, b, c WHERE b.k = c.k AND a.id % 8 = 0 AND b.id % 8 = 1'),
    ('cross_grouped', 'SELECT a.v, count(*) AS n, sum(c.id) AS s FROM a CROSS JOIN c GROUP BY a.v'),
    ('exists_less', 'SELECT a.id, a.v FROM a WHERE EXISTS (SELECT FROM c WHERE c.k > a.k + 3)'),
    ('exists_any', 'SELECT a.id FROM a WHERE EXISTS (SELECT FROM b WHERE b.id = 40)'),
    ('exists_group', 'SELECT a.id FROM a WHERE NOT EXISTS (SELECT k FROM b GROUP BY k HAVING count(*) > 8)'),
    ('with_total', 'SELECT q.k, q.n, t.n AS total FROM (SELECT k, count(*) AS n FROM a GROUP BY k) q CROSS JOIN (SELECT count(*) AS n FROM a) t'),
    -- scalar
    ('where_max', 'SELECT id, k FROM a WHERE k = (SELECT max(k) FROM b)'),
    ('where_over_avg', 'SELECT id, n FROM a WHERE id > (SELECT avg(id) FROM b) OR id < (SELECT avg(id) FROM c) - 10'),
    ('where_limit', 'SELECT id, n FROM a WHERE id <= (SELECT id + 3 FROM b ORDER BY id DESC, ts LIMIT 1)'),
    ('select_list', 'SELECT a.id, (SELECT max(b.id) FROM b) - a.id AS d, coalesce((SELECT count(*) FROM c WHERE k > 4), -1) AS n, (SELECT max(b.id) FROM b) AS m FROM a'),
    ('having', 'SELECT k, count(*) AS n FROM a GROUP BY k HAVING count(*) > (SELECT avg(n) FROM (SELECT count(*) AS n FROM b GROUP BY k) x)'),
    ('having_two', 'SELECT k, sum(n) AS s, (SELECT max(k) FROM b) AS m FROM a GROUP BY k HAVING count(*) >= (SELECT avg(n) FROM (SELECT count(*) AS n FROM a GROUP BY k) x) AND max(id) > 3'),
    ('share', 'SELECT k, count(*)::numeric / (SELECT count(*) FROM a) AS share FROM a GROUP BY k'),
    ('in_aggregate', 'SELECT v, sum(id - (SELECT min(id) FROM b)) AS s FROM a GROUP BY v'),
    ('in_group_by', 'SELECT a.id > (SELECT avg(id) FROM a) AS above, count(*) AS n FROM a GROUP BY 1'),
    ('projected', 'SELECT id FROM a WHERE k < (SELECT m / 2 FROM (SELECT max(k) AS m FROM b) x)'),
    ('having_scalar', 'SELECT id, (SELECT max(k) FROM b HAVING count(*) % 3 <> 0) AS m FROM a'),
    ('of_join', 'SELECT a.id, b.w FROM a JOIN b ON a.k = b.k WHERE a.id + b.id > (SELECT 2 * avg(c.id) FROM c JOIN b USING (k))'),
    ('nested', 'SELECT id FROM a WHERE k >= (SELECT max(k) FROM b WHERE id < (SELECT max(id) FROM c))'),
    ('in_sub_select', 'SELECT k, count(*) AS n FROM (SELECT k FROM a WHERE id > (SELECT avg(id) FROM b)) x GROUP BY k'),
    ('limited_join', 'SELECT a.id AS a_id, b.id AS b_id, a.ts FROM a JOIN b ON a.k = b.k ORDER BY a.id + b.id, a.id, a.ts, b.ts DESC LIMIT 4 OFFSET 1'),
    ('distinct_on_join', 'SELECT DISTINCT ON (a.k) a.k, a.id, b.id AS b_id FROM a JOIN b ON a.k = b.k ORDER BY a.k, b.id DESC, a.id, a.ts, b.ts'),
    ('rank_join', 'SELECT k, id, b_id, n FROM (SELECT a.k, a.id, b.id AS b_id, row_number() OVER (PARTITION BY a.k ORDER BY b.id DESC, a.id, a.ts, b.ts) AS n FROM a JOIN b ON a.k = b.k) x WHERE n <= 2'),
    ('divided', 'SELECT id, 1000 * id / (SELECT count(*) FROM a) AS share FROM a WHERE k / (SELECT max(id) FROM a) = 0'),
    ('divided_grouped', 'SELECT v, sum(id / (SELECT count(*) FROM a)) AS s FROM a GROUP BY v'),
    ('ranked', 'SELECT id, k FROM a WHERE id < (SELECT avg(id) FROM b) ORDER BY id DESC, ts, v, n LIMIT 3'),
    -- correlated
    ('correlated', 'SELECT a.id, a.v, (SELECT max(b.id) FROM b WHERE b.k = a.k) AS m FROM a'),
    ('correlated_count', 'SELECT a.id, (SELECT count(*) + coalesce(sum(b.id), 0) + a.id FROM b WHERE a.k = b.k AND b.w <> ''b'') AS n FROM a'),
    ('correlated_two', 'SELECT a.id FROM a WHERE (SELECT count(*) FROM b JOIN c USING (k) WHERE b.k = a.k AND b.id % 4 = a.id % 4) > 1'),
    ('correlated_group', 'SELECT k, count(*) AS n, (SELECT count(*) FROM b WHERE b.k = a.k) AS m FROM a GROUP BY k'),
    ('correlated_aggregate', 'SELECT k, count(*) AS n, (SELECT max(w) FROM b WHERE b.id = max(a.id)) AS m FROM a GROUP BY k'),
    ('correlated_having', 'SELECT k, count(*) AS n FROM a GROUP BY k HAVING count(*) > (SELECT count(*) FROM b WHERE b.k = a.k)'),
    -- NOT IN, ANY, ALL
    ('not_in', 'SELECT id, k FROM a WHERE k NOT IN (SELECT k FROM b WHERE k IS NOT NULL)'),
    ('not_in_null', 'SELECT id, k FROM a WHERE k NOT IN (SELECT k FROM b WHERE id % 20 <> 3)'),
    ('not_in_empty', 'SELECT id, k FROM a WHERE k NOT IN (SELECT k FROM b WHERE id < 0)'),
    ('not_in_late', 'SELECT id, k FROM a WHERE k NOT IN (SELECT k FROM b WHERE k > 5 AND id > 40)'),
    ('not_in_grouped', 'SELECT k, count(*) AS n FROM a WHERE k NOT IN (SELECT k FROM b GROUP BY k HAVING count(*) > 4) GROUP BY k'),
    ('all_more', 'SELECT id, k FROM a WHERE k >= ALL (SELECT k FROM c WHERE k IS NOT NULL)'),
    ('any_less', 'SELECT id, k FROM a WHERE k < ANY (SELECT k FROM c)'),
    ('not_equal_all', 'SELECT id, k FROM a WHERE k <> ALL (SELECT DISTINCT k FROM b WHERE k < 5)'),
    ('in_limit', 'SELECT id, k FROM a WHERE k IN (SELECT k FROM b WHERE k IS NOT NULL ORDER BY k DESC LIMIT 1)'),
    -- of several columns, and of rows that equal the outer one's
    ('in_row', 'SELECT id, k, v FROM a WHERE (k, v) IN (SELECT k, w FROM b)'),
    ('not_in_row', 'SELECT id, k, v FROM a WHERE (k, v) NOT IN (SELECT k, w FROM b WHERE k IS NOT NULL)'),
    ('not_in_row_null', 'SELECT id, k, v FROM a WHERE (k, nullif(v, ''c'')) NOT IN (SELECT nullif(k, 3), nullif(w, ''b'') FROM b WHERE id % 7 = 1 OR k = 3)'),
    ('not_in_row_empty', 'SELECT id, k FROM a WHERE (k, nullif(id % 3, 0)) NOT IN (SELECT k, id FROM b WHERE id < 0)'),
    ('not_in_row_grouped', 'SELECT id, k, v FROM a WHERE (nullif(v, ''b''), k) NOT IN (SELECT w, nullif(k, 6) FROM b GROUP BY w, k HAVING count(*) > 2)'),
    ('not_in_three', 'SELECT id, k FROM a WHERE (k, v, nullif(id % 4, 2)) NOT IN (SELECT nullif(k, 1), nullif(w, ''b''), nullif(id % 5, 2) FROM b WHERE id % 6 = 0)'),
    ('not_equal_all_row', 'SELECT id, k FROM a WHERE NOT (k, id) IN (SELECT k, id FROM c)'),
    ('not_in_equal', 'SELECT id, k FROM a WHERE id % 5 NOT IN (SELECT nullif(id % 7, 6) FROM b WHERE b.k = a.k)'),
    ('not_in_equal_two', 'SELECT id, k, v FROM a WHERE nullif(id % 4, 3) NOT IN (SELECT c.id % 5 FROM b JOIN c USING (k) WHERE b.k = a.k AND b.w = a.v)'),
    ('not_in_equal_row', 'SELECT id, k, v FROM a WHERE (nullif(id % 2, 1), nullif(v, ''c'')) NOT IN (SELECT nullif(b.id % 3, 2), nullif(w, ''b'') FROM b WHERE b.k = a.k AND b.id % 3 = 1)'),
    ('all_less_equal', 'SELECT id, k FROM a WHERE id > ALL (SELECT nullif(c.id, 30) FROM c WHERE c.k = a.k)'),
    -- below OR, in CASE, in the select list
    ('or_in', 'SELECT id, k FROM a WHERE k IN (SELECT k FROM b) OR id > 30'),
    ('or_exists', 'SELECT id, k, v FROM a WHERE EXISTS (SELECT FROM b WHERE b.k = a.k AND b.w = a.v) OR NOT EXISTS (SELECT FROM c WHERE c.k = a.k)'),
    ('or_not_in', 'SELECT id, k FROM a WHERE k NOT IN (SELECT k FROM b WHERE id % 20 <> 3) OR v = ''b'''),
    ('not_in_or', 'SELECT id, k FROM a WHERE NOT (k IN (SELECT nullif(k, 4) FROM b WHERE id % 3 = 0) OR id % 2 = 0)'),
    ('list_exists', 'SELECT id, EXISTS (SELECT FROM b WHERE b.k = a.k AND b.id > a.id) AS e FROM a'),
    ('list_in', 'SELECT id, k, k IN (SELECT k FROM b WHERE k IS NOT NULL) AS i, k IN (SELECT nullif(k, 2) FROM b WHERE id % 3 = 0) AS n FROM a'),
    ('list_not_in', 'SELECT id, k, k NOT IN (SELECT nullif(k, 2) FROM b WHERE id % 3 = 0) AS i, k NOT IN (SELECT k FROM b WHERE id < 0) AS t FROM a'),
    ('list_row', 'SELECT id, (k, nullif(v, ''c'')) IN (SELECT nullif(k, 3), nullif(w, ''b'') FROM b WHERE id % 7 = 1 OR k = 3) AS i FROM a'),
    ('list_equal', 'SELECT id, k, id % 5 IN (SELECT nullif(id % 7, 6) FROM b WHERE b.k = a.k) AS i FROM a'),
    ('list_all', 'SELECT id, k, k > ALL (SELECT nullif(k, 6) FROM c) AS m, k <= ANY (SELECT k FROM c WHERE id > 30) AS s FROM a'),
    ('case_exists', 'SELECT id, CASE WHEN EXISTS (SELECT FROM b WHERE b.k = a.k) THEN ''both'' WHEN k IN (SELECT k FROM c) THEN ''c'' ELSE v END AS w FROM a'),
    ('count_exists', 'SELECT v, count(*) FILTER (WHERE EXISTS (SELECT FROM b WHERE b.k = a.k)) AS n, sum(CASE WHEN k IN (SELECT k FROM c) THEN id END) AS s FROM a GROUP BY v'),
    ('key_exists', 'SELECT EXISTS (SELECT FROM b WHERE b.k = a.k) AS e, count(*) AS n FROM a GROUP BY 1'),
    ('having_or', 'SELECT k, count(*) AS n FROM a GROUP BY k HAVING count(*) > 4 OR k IN (SELECT k FROM c)'),
    ('group_list', 'SELECT k, count(*) AS n, EXISTS (SELECT FROM b WHERE b.k = a.k AND b.id > 40) AS e FROM a GROUP BY k'),
    ('or_of_join', 'SELECT a.id, b.id AS b_id FROM a JOIN b USING (k) WHERE EXISTS (SELECT FROM c WHERE c.k = a.k AND c.id = b.id) OR a.id > b.id'),
    ('or_grouped', 'SELECT g.k, g.n FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g WHERE g.n IN (SELECT count(*) FROM b GROUP BY k) OR g.k = 3'),
    ('exists_limit', 'SELECT id, k FROM a WHERE EXISTS (SELECT DISTINCT w FROM b WHERE b.k = a.k ORDER BY w LIMIT 1) AND NOT EXISTS (SELECT 1 FROM c WHERE c.k = a.k GROUP BY x LIMIT 3)'),
    ('or_any', 'SELECT id, k FROM a WHERE EXISTS (SELECT FROM c WHERE id > 50) OR k = 1'),
    ('or_join', 'SELECT id, k FROM a WHERE EXISTS (SELECT FROM b JOIN c USING (k) WHERE b.k = a.k AND c.id > b.id) OR v = ''a'''),
    -- ARRAY(SELECT …), the only row, the first row
    ('array_equal', 'SELECT id, k, ARRAY(SELECT b.id FROM b WHERE b.k = a.k AND b.w = ''a'' ORDER BY b.id DESC, b.ts) AS ids FROM a'),
    ('array_all', 'SELECT id, ARRAY(SELECT x FROM c ORDER BY id) AS xs FROM a WHERE id % 4 = 0'),
    ('array_unordered', 'SELECT id, cardinality(ARRAY(SELECT w FROM b WHERE b.k = a.k)) AS n FROM a'),
    ('array_distinct', 'SELECT id, ARRAY(SELECT DISTINCT k FROM b ORDER BY k DESC) AS ks, ARRAY(SELECT id FROM b ORDER BY id DESC, ts, w LIMIT 3) AS ids FROM a'),
    ('array_grouped', 'SELECT v, count(*) AS n, ARRAY(SELECT count(*) FROM b GROUP BY k ORDER BY 1) AS ns FROM a GROUP BY v'),
    ('array_of_arrays', 'SELECT id, ARRAY(SELECT ARRAY[c.id, c.k] FROM c WHERE c.k = a.k ORDER BY c.id) AS pairs FROM a'),
    ('array_empty', 'SELECT id, ARRAY(SELECT id FROM b WHERE id < 0) AS ids FROM a'),
    ('array_any', 'SELECT id, k FROM a WHERE k = ANY (ARRAY(SELECT c.k FROM c WHERE c.id > 25 ORDER BY c.id))'),
    ('only_equal', 'SELECT id, k, (SELECT c.x FROM c WHERE c.id = a.id) AS x, (SELECT c.k FROM c WHERE c.id = a.id AND c.k = a.k) AS same FROM a'),
    ('only_one', 'SELECT id, (SELECT c.k FROM c WHERE c.id = 21) AS k FROM a WHERE id > (SELECT id - 15 FROM c WHERE id = 25 + 20)'),
    ('only_group', 'SELECT id, (SELECT max(w) FROM b GROUP BY k HAVING k = 3) AS w FROM a'),
    ('first_equal', 'SELECT id, k, (SELECT b.w || b.id FROM b WHERE b.k = a.k ORDER BY b.id DESC, b.ts, b.w LIMIT 1) AS w FROM a'),
    ('first_two', 'SELECT id, k FROM a WHERE id > (SELECT b.id + 1 FROM b JOIN c USING (k) WHERE b.k = a.k AND b.w = a.v ORDER BY b.id, c.id LIMIT 1)'),
    ('in_distinct', 'SELECT id, k FROM a WHERE k IN (SELECT DISTINCT b.k FROM b JOIN c USING (k))');
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
CREATE TABLE kept_rows AS TABLE r_having_two;
CALL put(4, '{b,a,c}');
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();
SELECT pause_pipeline(name), restore_pipeline(name, id) FROM unnest('{r_having_two,r_not_in_null,r_correlated_count,r_cross_grouped,r_select_list}'::text[]) name JOIN kept ON pipeline = name;
SELECT (SELECT count(*) FROM (TABLE kept_rows EXCEPT ALL TABLE r_having_two) x) AS missing, (SELECT count(*) FROM (TABLE r_having_two EXCEPT ALL TABLE kept_rows) x) AS extra;
SELECT resume_pipeline(name) FROM unnest('{r_having_two,r_not_in_null,r_correlated_count,r_cross_grouped,r_select_list}'::text[]) name;
SELECT checkpoint(interval '1 min');
SELECT * FROM differences();

-- ---- What is shown ----
SELECT n, e FROM unnest('{r_less,r_having,r_not_in,r_divided,r_correlated}'::text[]) WITH ORDINALITY n (n, i), explain_pipeline(n) WITH ORDINALITY e (e, j)
WHERE e ~ '^Pipeline|Stage|Key|Condition|Filter|Sink' ORDER BY i, j;

-- ---- Both sides too large: the pipeline fails, and loses nothing ----
SELECT count(drop_pipeline('r_' || name)) FROM query WHERE name NOT IN ('cross', 'having');
SELECT create_pipeline('res.small', 'SELECT count(*) AS n FROM a JOIN (SELECT max(id) AS id FROM c) c ON a.id < c.id');
CALL put(5, '{a,c}');
SELECT checkpoint(interval '1 min');
ALTER SYSTEM SET stream_ckpt.broadcast_rows = 40;
SELECT pg_reload_conf();
-- rows come until the worker has seen the setting
CREATE PROCEDURE put_until_failed() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 6 .. 90 LOOP
        CALL put(i, '{a,c}');
        COMMIT;
        FOR j IN 1 .. 50 LOOP
            IF (SELECT status = 'failed' FROM pipelines WHERE pipeline = 'r_cross') THEN
                RETURN;
            END IF;
            PERFORM pg_sleep(0.01);    -- the condition is a query: there is nothing to be woken by
            COMMIT;
        END LOOP;
    END LOOP;
END $$;
CALL put_until_failed();
SELECT pipeline, status, error FROM pipelines ORDER BY 1;
ALTER SYSTEM RESET stream_ckpt.broadcast_rows;
SELECT pg_reload_conf();
-- and again until it has seen that the setting is gone
CREATE PROCEDURE resume_until_done() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 100 LOOP
        PERFORM resume_pipeline('r_cross');
        COMMIT;
        BEGIN
            PERFORM checkpoint(interval '1 min');
            RETURN;
        EXCEPTION WHEN OTHERS THEN
            IF i = 100 THEN
                RAISE;
            END IF;
        END;
        PERFORM pg_sleep(0.05);    -- signals come when they come
    END LOOP;
END $$;
CALL resume_until_done();
DELETE FROM query WHERE name NOT IN ('cross', 'having');
SELECT * FROM differences();

-- ---- More than one row: an error for whoever is asked for, and no other ----
SELECT count(drop_pipeline('r_' || name)) FROM query;
SELECT create_pipeline('res.r_only', 'SELECT a.id, (SELECT b.w FROM b WHERE b.k = a.k) AS w FROM a WHERE a.k > 100');
INSERT INTO live.b VALUES (1, 101, 'one'), (2, 102, 'two'), (3, 102, 'too');
INSERT INTO live.a VALUES (1, 101), (2, 103);
SELECT checkpoint(interval '1 min');
TABLE r_only ORDER BY id;
INSERT INTO live.a VALUES (3, 102);
\set VERBOSITY terse
SELECT checkpoint(interval '1 min');
\set VERBOSITY default
SELECT status, error FROM pipelines WHERE pipeline = 'r_only';
SELECT drop_pipeline('r_only');

CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
\x on
SELECT t.* FROM unnest(ARRAY[
    'SELECT id, (SELECT a.id + b.id FROM b WHERE b.k = a.k) AS k FROM a',
    'SELECT id, (SELECT k FROM b WHERE b.k = a.k LIMIT 2) AS k FROM a',
    'SELECT id, (SELECT max(b.id) FROM b WHERE b.k < a.k) AS k FROM a',
    'SELECT id, (SELECT max(b.id + a.id) FROM b WHERE b.k = a.k) AS k FROM a',
    'SELECT id, ARRAY(SELECT id FROM b WHERE b.id < a.id) AS k FROM a',
    'SELECT id, ARRAY(SELECT point(id, 0) FROM b) AS k FROM a',
    'SELECT id FROM a WHERE (id, k) = (SELECT max(id), max(k) FROM b)',
    'SELECT id FROM a WHERE (id, k, v, n) NOT IN (SELECT id, k, w, 1 FROM b)',
    'SELECT id FROM a WHERE NOT (id, k) < ANY (SELECT id, k FROM b)',
    'SELECT id FROM a WHERE k NOT IN (SELECT k FROM b WHERE b.id > a.id)',
    'SELECT id FROM a WHERE k NOT IN (SELECT k FROM b WHERE b.id = a.id GROUP BY k)',
    'SELECT id FROM a WHERE k IN (SELECT max(k) FROM b WHERE b.id = a.id)',
    'SELECT id FROM a WHERE EXISTS (SELECT FROM (SELECT FROM b WHERE b.id = a.id) x)',
    'SELECT id FROM a WHERE EXISTS (SELECT FROM b LEFT JOIN c ON c.k = a.k WHERE c.id IS NULL)',
    'SELECT id FROM a WHERE EXISTS (SELECT FROM b, generate_series(1, a.k) s WHERE b.k = s)',
    'SELECT id, (k, v) < ANY (SELECT k, w FROM b) AS l FROM a',
    'SELECT k % 2 AS p, (SELECT max(w) FROM b WHERE b.k = a.k % 2) AS m FROM a GROUP BY 1',
    'SELECT name FROM dim WHERE k = (SELECT max(k) FROM b)']) WITH ORDINALITY c (c, i),
    try(format('SELECT create_pipeline(''x'', %L)', c)) t ORDER BY i;
SELECT t.* FROM unnest(ARRAY[
    'SELECT window_start, count(*) AS n FROM a, tumble(ts, ''5 s'') GROUP BY 1 HAVING count(*) > (SELECT count(*) FROM b)',
    'SELECT a.id FROM a, b']) WITH ORDINALITY c (c, i), try(format('SELECT create_pipeline(''x'', %L, emit => ''final'')', c)) t ORDER BY i;
\x off
SELECT count(drop_pipeline(pipeline)) FROM pipelines;
DROP SCHEMA res CASCADE;
SELECT drop_stream('live.' || s) FROM unnest('{a,b,c}'::text[]) s;
DROP SCHEMA live, plain CASCADE;
