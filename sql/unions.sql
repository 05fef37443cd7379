-- Queries over several streams: UNION ALL, and the watermark of the slowest.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA un;
SET search_path = un, public, stream_ckpt;
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
-- minutes of one hour
CREATE FUNCTION at(minute float8) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$SELECT '2024-01-01 12:00Z'::timestamptz + minute * interval '1 min'$$;
CREATE VIEW state AS SELECT pipeline, to_char(watermark, 'HH24:MI:SS') AS watermark, rows_in, late_rows, dead_letters, state_rows FROM pipelines ORDER BY 1;

-- ---- Against the same SQL over tables ----
-- Each query's text names streams by a placeholder; over tables it is the oracle.
CREATE TABLE dim (k int PRIMARY KEY, name text);
INSERT INTO dim SELECT i, 'name ' || i % 3 FROM generate_series(0, 7) i;
SELECT create_stream('qa', 'id int, k int, v numeric, ts timestamptz, note text');
SELECT create_stream('qb', 'ts timestamptz, v int, k bigint, id int');
SELECT create_stream('qc', 'id int, k int, v float8, ts timestamptz');
CREATE TABLE ta (id int, k int, v numeric, ts timestamptz, note text);
CREATE TABLE tb (ts timestamptz, v int, k bigint, id int);
CREATE TABLE tc (id int, k int, v float8, ts timestamptz);
CREATE TABLE query (name text PRIMARY KEY, text text);
INSERT INTO query VALUES
    ('top', 'SELECT id, k, v FROM @a UNION ALL SELECT id, k, v FROM @b'),
    ('top_three', 'SELECT id, k + 1 AS k, v FROM @a WHERE v > 2 UNION ALL (SELECT id, k, v FROM @b UNION ALL SELECT id, k, v FROM @c WHERE id % 2 = 0)'),
    ('top_self', 'SELECT id, ''odd'' AS kind FROM @a WHERE id % 2 = 1 UNION ALL SELECT id, ''all'' FROM @a UNION ALL SELECT id, NULL FROM @b'),
    ('top_join', 'SELECT id, name FROM @a JOIN dim USING (k) UNION ALL SELECT id, name FROM @b LEFT JOIN dim ON dim.k = @b.k + 5'),
    ('top_with', 'WITH x AS (SELECT id, k FROM @a WHERE k > 1), y AS (SELECT id, k FROM @b) SELECT id, k FROM x UNION ALL SELECT id, k FROM y'),
    ('top_set', 'SELECT id, unnest(ARRAY[k, -k]) AS k FROM @a UNION ALL SELECT id, k::int FROM @b'),
    ('grouped', 'SELECT k, count(*) AS n, sum(v) AS v, min(ts) AS ts FROM (SELECT k, v, ts FROM @a UNION ALL SELECT k, v, ts FROM @b) u GROUP BY k'),
    ('whole', 'SELECT count(*) AS n, sum(v) AS v FROM (SELECT k, v FROM @a UNION ALL SELECT k, v FROM @b UNION ALL SELECT k, v FROM @c) u'),
    ('self', 'SELECT k, side, count(*) AS n, sum(v) AS v FROM (SELECT k, v, 1 AS side FROM @a UNION ALL SELECT id, -v, 2 FROM @a) u GROUP BY k, side HAVING count(*) > 1'),
    ('nested', 'SELECT k, count(*) AS n FROM (SELECT k FROM @a UNION ALL SELECT k FROM (SELECT k FROM @b UNION ALL SELECT k FROM @c WHERE v > 1) x WHERE k < 5) u GROUP BY k'),
    ('joined', 'SELECT name, count(*) AS n, sum(u.v) AS v FROM (SELECT k, v FROM @a UNION ALL SELECT k, v FROM @b) u JOIN dim USING (k) WHERE u.v > 1 GROUP BY name'),
    ('outer_joined', 'SELECT coalesce(name, ''none'') AS name, count(*) AS n FROM (SELECT k FROM @a UNION ALL SELECT k FROM @b) u LEFT JOIN dim ON dim.k = u.k AND dim.k > 3 GROUP BY 1'),
    ('with_query', 'WITH u AS (SELECT k, v FROM @a UNION ALL SELECT k, v FROM @c) SELECT k, max(v) AS v FROM u GROUP BY k'),
    ('in_view', 'SELECT k, count(*) AS n FROM @view GROUP BY k'),
    ('top_view', 'SELECT k FROM @view UNION ALL SELECT k FROM @c'),
    ('distinct_values', 'SELECT k, count(DISTINCT v) AS d, array_agg(id ORDER BY id) AS ids FROM (SELECT id, k, v::int FROM @a UNION ALL SELECT id, k, v::int FROM @b) u GROUP BY k'),
    ('stages', 'SELECT n, count(*) AS groups FROM (SELECT k, count(*) AS n FROM (SELECT k FROM @a UNION ALL SELECT k FROM @b) u GROUP BY k) x GROUP BY n'),
    ('whole_row', 'SELECT u::text AS u, count(*) AS n FROM (SELECT k, id FROM @a UNION ALL SELECT k, id FROM @b) u GROUP BY u::text'),
    ('windows', 'SELECT window_start, k, count(*) AS n, sum(v) AS v FROM (SELECT ts, k, v FROM @a UNION ALL SELECT ts, k, v FROM @b) u, tumble(u.ts, ''5 min'') GROUP BY 1, 2'),
    ('windows_hop', 'SELECT w.window_end, count(*) AS n FROM (SELECT ts, k FROM @a UNION ALL SELECT ts, id FROM @a UNION ALL SELECT ts, k FROM @b) u JOIN dim USING (k), hop(ts, ''5 min'', ''10 min'') w WHERE name <> ''name 1'' GROUP BY 1'),
    ('windows_linear', 'SELECT x, window_start FROM (SELECT ts, id AS x FROM @a UNION ALL SELECT ts, k FROM @b UNION ALL SELECT ts, k FROM @c) u, tumble(u.ts, ''5 min'')'),
    ('windows_stages', 'SELECT window_start, max(n) AS top FROM (SELECT window_start, k, count(*) AS n FROM (SELECT ts, k FROM @a WHERE v > 1 UNION ALL SELECT ts, k FROM @b JOIN dim d USING (k) UNION ALL (WITH c AS (SELECT ts, k FROM @c) SELECT ts, k FROM c UNION ALL SELECT ts, id FROM @a)) u, tumble(u.ts, ''5 min'') GROUP BY 1, 2) x GROUP BY 1'),
    ('windows_deep', 'SELECT window_start, k, count(*) AS n FROM (SELECT q.ts AS ts, k + 1 AS k FROM (SELECT * FROM (SELECT ts, k, v FROM @a UNION ALL SELECT ts, k, v FROM @c) z WHERE v > 0) q LEFT JOIN dim USING (k) UNION ALL SELECT ts, k FROM (SELECT ts, k FROM @b WHERE id > 3) r) u, tumble(u.ts, ''5 min'') GROUP BY 1, 2');
CREATE VIEW sview AS SELECT k, v FROM qa UNION ALL SELECT k, v FROM qb WHERE v > 1;
CREATE VIEW tview AS SELECT k, v FROM ta UNION ALL SELECT k, v FROM tb WHERE v > 1;
CREATE FUNCTION over(query text, prefix text) RETURNS text LANGUAGE sql AS $$SELECT regexp_replace(query, '@', prefix, 'g')$$;
DO $$
DECLARE q record;
BEGIN
    FOR q IN TABLE query LOOP
        BEGIN
            PERFORM create_pipeline('q_' || q.name, regexp_replace(over(q.text, 'q'), 'qview', 'sview'));
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING '%: %', q.name, SQLERRM;
        END;
    END LOOP;
END $$;
CREATE FUNCTION feed(first int, count int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO ta SELECT i, i % 6, i % 5, at(i % 23), 'note' FROM generate_series(first, first + count) i;
    INSERT INTO qa SELECT * FROM ta WHERE id BETWEEN first AND first + count;
    INSERT INTO tb SELECT at(i % 31), nullif(i % 4, 0), i % 8, i FROM generate_series(first, first + count / 2) i;
    INSERT INTO qb SELECT * FROM tb WHERE id BETWEEN first AND first + count;
    INSERT INTO tc SELECT i, nullif(i % 3, 2), i / 10.0, at(i % 17) FROM generate_series(first, first + count / 3) i;
    INSERT INTO qc SELECT * FROM tc WHERE id BETWEEN first AND first + count;
$$;
CREATE FUNCTION differing(OUT name text, OUT rows bigint, OUT missing bigint, OUT wrong bigint) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE oracle text; result text;
BEGIN
    FOR name, oracle IN SELECT q.name, over(q.text, 't') FROM query q ORDER BY 1 LOOP
        result := 'q_' || name;
        EXECUTE format('SELECT (SELECT count(*) FROM %1$s), (SELECT count(*) FROM (%2$s EXCEPT ALL TABLE %1$s) x), (SELECT count(*) FROM (TABLE %1$s EXCEPT ALL (%2$s)) x)', result, '(' || oracle || ')') INTO rows, missing, wrong;
        RETURN NEXT;
    END LOOP;
END $$;
SELECT feed(1, 40);
SELECT checkpoint();
SELECT * FROM differing();
BEGIN;
SELECT feed(100, 7);
SAVEPOINT a;
INSERT INTO qb VALUES (at(1), 1, 1, 1);
ROLLBACK TO a;
SELECT feed(120, 3);
COMMIT;
INSERT INTO qb VALUES (at(59), 7, 7, 777);
INSERT INTO tb VALUES (at(59), 7, 7, 777);
SELECT checkpoint();
SELECT * FROM differing() WHERE missing + wrong > 0;
SELECT pause_pipeline(pipeline) FROM pipelines WHERE pipeline LIKE 'q\_%';
SELECT feed(200, 30);
SELECT resume_pipeline(pipeline) FROM pipelines WHERE pipeline LIKE 'q\_%';
SELECT checkpoint();
SELECT * FROM differing() WHERE missing + wrong > 0;
SELECT pipeline, rows_in FROM state WHERE pipeline IN ('q_top', 'q_self', 'q_top_self', 'q_nested');
