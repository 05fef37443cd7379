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
CREATE PROCEDURE wait_for(condition text) LANGUAGE plpgsql AS $$
DECLARE fulfilled boolean;
BEGIN
    FOR i IN 1 .. 3000 LOOP
        EXECUTE condition INTO fulfilled;
        COMMIT;
        IF fulfilled THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.01);    -- the condition is a query: there is nothing to be woken by
    END LOOP;
    RAISE EXCEPTION 'timed out waiting for %', condition;
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
    ('whole', 'SELECT count(*) AS n, sum(v::numeric) AS v FROM (SELECT k, v FROM @a UNION ALL SELECT k, v FROM @b UNION ALL SELECT k, v FROM @c) u'),
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
SELECT count(pause_pipeline(pipeline)::text) FROM pipelines WHERE pipeline LIKE 'q\_%';
SELECT feed(200, 30);
SELECT count(resume_pipeline(pipeline)::text) FROM pipelines WHERE pipeline LIKE 'q\_%';
SELECT checkpoint();
SELECT * FROM differing() WHERE missing + wrong > 0;
-- a row counts once, however often its stream is named
SELECT pipeline, rows_in FROM state WHERE pipeline IN ('q_top', 'q_self', 'q_top_self', 'q_nested');
SELECT name, columns, streams FROM pipeline_def WHERE name IN ('q_grouped', 'q_self', 'q_windows_stages') ORDER BY 1;
SELECT line FROM explain_pipeline('q_windows_hop') line WHERE line ~ 'Pipeline|Stage|Window|Key|Aggregate|Sink';
SELECT stream, pipelines FROM streams ORDER BY 1;
SELECT count(drop_pipeline(pipeline)::text) FROM pipelines WHERE pipeline LIKE 'q\_%';

-- ---- What is refused ----
CREATE VIEW one_stream AS SELECT ts, k FROM qa;
SELECT r.query, r.options, t.* FROM (VALUES
    ('SELECT id FROM qa UNION ALL SELECT id FROM ta', ''),
    ('SELECT id FROM ta UNION ALL SELECT id FROM tb', ''),
    ('SELECT k, count(*) FROM (SELECT k FROM qa UNION ALL VALUES (1)) u GROUP BY k', ''),
    ('SELECT id FROM qa UNION ALL SELECT id FROM qb ORDER BY 1', ''),
    ('SELECT ctid FROM qa UNION ALL SELECT ctid FROM qb', ''),
    ('SELECT id FROM qa WHERE ts > now() UNION ALL SELECT id FROM qb', ''),
    ('SELECT d, count(*) FROM (SELECT now() AS d FROM qa UNION ALL SELECT ts FROM qb) u GROUP BY d', ''),
    ('SELECT k, count(*) FROM (SELECT ts, k FROM qa UNION ALL SELECT now(), k FROM qb) u, tumble(u.ts, ''1 min'') GROUP BY k', ''),
    ('SELECT u::text, window_start FROM (SELECT ts, k FROM qa UNION ALL SELECT ts, k FROM qb) u, tumble(u.ts, ''1 min'')', ''),
    ('SELECT window_start, count(*) FROM (SELECT ts FROM one_stream UNION ALL SELECT ts FROM qb) u, tumble(u.ts, ''1 min'') GROUP BY 1', ''),
    ('SELECT k, count(*) FROM (SELECT k FROM one_stream UNION ALL SELECT k FROM qb) u GROUP BY 1', ', state_ttl => ''1 min'''),
    ('SELECT window_end, count(*) FROM (SELECT ts FROM qa UNION ALL SELECT ts FROM qb) u, tumble(u.ts, ''1 min'') GROUP BY 1', ', emit => ''final''')) r(query, options),
    try(format('SELECT create_pipeline(''refused'', %L%s)', query, options)) t;

-- a function does not get at the rows, whenever it is called
CREATE FUNCTION peek() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT count(*) FROM qa); END';
CREATE FUNCTION peeking() RETURNS SETOF int LANGUAGE sql STABLE AS 'SELECT id FROM qa';
SELECT create_pipeline('peeks', 'SELECT id, peek() AS n FROM qa UNION ALL SELECT id, 1 FROM qb');
SELECT create_pipeline('peeks_inlined', 'SELECT qa.id FROM qa, peeking() p UNION ALL SELECT id FROM qb');
INSERT INTO qa (id) VALUES (1);
SELECT * FROM try('SELECT checkpoint(''peeks'')');
SELECT * FROM try('SELECT checkpoint(''peeks_inlined'')');
SELECT pipeline, status, error FROM pipelines ORDER BY 1;
SELECT drop_pipeline('peeks'), drop_pipeline('peeks_inlined');

-- ---- Privileges, and what protects the streams ----
CREATE ROLE regress_union;
GRANT USAGE, CREATE ON SCHEMA un TO regress_union;
GRANT USAGE ON SCHEMA stream_ckpt TO regress_union;
GRANT SELECT ON qa TO regress_union;
SET ROLE regress_union;
SELECT * FROM try('SELECT create_pipeline(''theirs'', ''SELECT id FROM qa UNION ALL SELECT id FROM qb'')');
SELECT * FROM try('SELECT create_pipeline(''theirs'', ''SELECT k, count(*) FROM (SELECT k, ts FROM qb UNION ALL SELECT k, ts FROM qa) u, tumble(u.ts, ''''1 min'''') GROUP BY k'')');
RESET ROLE;
GRANT SELECT ON qb TO regress_union;
SET ROLE regress_union;
SELECT create_pipeline('theirs', 'SELECT k, count(*) AS n FROM (SELECT k FROM qa UNION ALL SELECT k FROM qb) u GROUP BY k');
RESET ROLE;
INSERT INTO qa (k) VALUES (1);
INSERT INTO qb (k) VALUES (1);
SELECT checkpoint('theirs') > 0 AS ok;
TABLE theirs;
-- all columns of several streams are protected
ALTER FOREIGN TABLE qa DROP COLUMN note;
ALTER FOREIGN TABLE qb RENAME COLUMN v TO w;
DROP VIEW sview;
DROP FOREIGN TABLE qb;
-- a sink among the streams is a circle
SELECT * FROM try('SELECT create_pipeline(''circle'', ''SELECT id FROM qa UNION ALL SELECT id FROM qb'', sink => ''qb'')');
-- a view of other streams than at the creation
CREATE VIEW pick AS SELECT k FROM qa UNION ALL SELECT k FROM qb;
SELECT create_pipeline('picks', 'SELECT k, count(*) AS n FROM pick GROUP BY k');
INSERT INTO qb (k) VALUES (3);
SELECT checkpoint('picks') > 0 AS ok;
SELECT pause_pipeline('picks');
CALL wait_for('SELECT s.status = ''paused'' FROM pipeline_stats() s JOIN pipeline_def d ON d.id = s.pipeline_id WHERE d.name = ''picks''');
CREATE OR REPLACE VIEW pick AS SELECT k::bigint FROM qa UNION ALL SELECT k FROM qc;
SELECT resume_pipeline('picks');
SELECT * FROM try('SELECT checkpoint(''picks'')');
SELECT status, error FROM pipelines WHERE pipeline = 'picks';
CREATE OR REPLACE VIEW pick AS SELECT k FROM qa UNION ALL SELECT k FROM qb;
SELECT resume_pipeline('picks');
INSERT INTO qa (k) VALUES (3);
SELECT checkpoint('picks') > 0 AS ok;
SELECT * FROM picks WHERE k = 3;
SET client_min_messages = warning;
DROP FOREIGN TABLE qb CASCADE;
RESET client_min_messages;
SELECT pipeline FROM pipelines;

-- ---- Event time: the slowest stream counts ----
SELECT create_stream('a', 'id int, ts timestamptz', event_time => 'ts', watermark_delay => '1 min');
SELECT create_stream('b', 'ts timestamptz, id int', event_time => 'ts');
SELECT create_stream('plain', 'ts timestamptz, id int');
SELECT create_pipeline('f', 'SELECT window_start, window_end, array_agg(id ORDER BY id) AS ids FROM (SELECT ts, id FROM a UNION ALL SELECT ts, id FROM b) u, tumble(u.ts, ''5 min'') GROUP BY 1, 2', emit => 'final', on_error => 'dead_letter');
SELECT create_pipeline('c', 'SELECT window_start, window_end, array_agg(id ORDER BY id) AS ids FROM (SELECT ts, id FROM a UNION ALL SELECT ts, id FROM b) u, tumble(u.ts, ''5 min'') GROUP BY 1, 2');
SELECT create_pipeline('s', 'SELECT window_start, window_end, array_agg(id ORDER BY id) AS ids FROM (SELECT ts, id FROM a UNION ALL SELECT ts, id FROM b) u, session(u.ts, ''2 min'') GROUP BY 1, 2', emit => 'final');
SELECT create_pipeline('with_plain', 'SELECT window_end, array_agg(id ORDER BY id) AS ids FROM (SELECT ts, id FROM a UNION ALL SELECT ts, id FROM b UNION ALL SELECT ts, id FROM plain) u, tumble(u.ts, ''5 min'') GROUP BY 1', emit => 'final');
SELECT create_pipeline('shifted', 'SELECT window_end, count(*) AS n FROM (SELECT ts, id FROM a UNION ALL SELECT ts + interval ''1 h'', id FROM b) u, tumble(u.ts, ''5 min'') GROUP BY 1');
SELECT create_pipeline('self', 'SELECT window_end, array_agg(id ORDER BY id) AS ids FROM (SELECT ts, id FROM a UNION ALL SELECT ts, -id FROM a WHERE id % 2 = 0) u, hop(u.ts, ''5 min'', ''10 min'') GROUP BY 1', emit => 'final');
SELECT create_pipeline('linear', 'SELECT id, window_start FROM (SELECT ts, id FROM a UNION ALL SELECT ts, id FROM b) u, tumble(u.ts, ''5 min'')');
SELECT line FROM explain_pipeline('f') line WHERE line ~ 'Window|Stage|Sink';
SELECT line FROM explain_pipeline('shifted') line WHERE line ~ 'Window';
INSERT INTO a VALUES (1, at(31)), (2, at(2));
SELECT checkpoint();
-- b has no watermark yet: nothing closes, nothing is late
SELECT pipeline, watermark, late_rows FROM state;
INSERT INTO a VALUES (3, at(3)), (4, at(30));
INSERT INTO plain VALUES (at(1), 100);
INSERT INTO b VALUES (at(6), 5);
INSERT INTO b VALUES (at(1), 6), (at(7), 7);
SELECT checkpoint();
SELECT pipeline, watermark, late_rows FROM state;
SELECT stream, watermark FROM streams WHERE stream IN ('a'::regclass, 'b'::regclass, 'plain'::regclass) ORDER BY 1;
TABLE f;
TABLE with_plain;
-- late by the common watermark, whichever stream the row is of; plain's rows, too
INSERT INTO a VALUES (8, at(4)), (9, at(8));
INSERT INTO plain VALUES (at(4), 101), (at(9), 102);
-- both streams in one transaction: only the whole of it counts
BEGIN;
INSERT INTO a VALUES (10, at(50));
INSERT INTO b VALUES (at(16), 11);
INSERT INTO a VALUES (12, at(11));
COMMIT;
INSERT INTO b VALUES (at(14), 13), (at(15), 14);
SELECT checkpoint();
SELECT pipeline, watermark, late_rows, dead_letters FROM state;
SELECT * FROM f ORDER BY ctid;
SELECT * FROM c ORDER BY 1;
SELECT * FROM s ORDER BY ctid;
SELECT * FROM with_plain ORDER BY ctid;
SELECT * FROM shifted ORDER BY 1;
SELECT * FROM self ORDER BY ctid;
SELECT * FROM linear ORDER BY 1;
SELECT pipeline, stream, row_data, sqlstate, error FROM dead_letters ORDER BY dead_letter_id;
-- the state that is stored is gone on with, stream by stream
SELECT count(pause_pipeline(pipeline)::text) FROM pipelines;
SELECT count(resume_pipeline(pipeline)::text) FROM pipelines;
INSERT INTO a VALUES (15, at(16)), (16, at(12));
SELECT advance_watermark('b', at(40));
INSERT INTO a VALUES (17, at(39)), (18, at(41));
SELECT checkpoint();
SELECT pipeline, watermark, late_rows, dead_letters FROM state;
SELECT * FROM f ORDER BY ctid;
SELECT * FROM s ORDER BY ctid;
SELECT * FROM self ORDER BY ctid;

-- timestamps and timestamptz mixed are converted by PostgreSQL, so windows over them do not close; of the same kind they do
SELECT create_stream('local', 'ts timestamp, id int', event_time => 'ts');
SELECT create_stream('local2', 'ts timestamp, id int', event_time => 'ts');
SELECT create_pipeline('mixed', 'SELECT window_end, count(*) AS n FROM (SELECT ts FROM b UNION ALL SELECT ts FROM local) u, tumble(u.ts, ''5 min'') GROUP BY 1');
SELECT create_pipeline('locals', 'SELECT window_end, count(*) AS n FROM (SELECT ts FROM local2 UNION ALL SELECT ts FROM local) u, tumble(u.ts, ''5 min'') GROUP BY 1', emit => 'final');
SELECT line FROM explain_pipeline('mixed') line WHERE line ~ 'Window';
SELECT * FROM try('SELECT create_pipeline(''refused'', ''SELECT window_end, count(*) AS n FROM (SELECT ts FROM b UNION ALL SELECT ts FROM local) u, tumble(u.ts, ''''5 min'''') GROUP BY 1'', emit => ''final'')');
INSERT INTO local VALUES ('2024-01-01 12:06', 1);
INSERT INTO local2 VALUES ('2024-01-01 12:02', 1), ('2024-01-01 12:05', 1);
SELECT checkpoint();
TABLE locals;

-- state_ttl: a group is kept for so long after its row's event time, of whichever stream
SELECT create_stream('k1', 'ts timestamptz, k int', event_time => 'ts');
SELECT create_stream('k2', 'ts timestamp, k int', event_time => 'ts');
SELECT create_pipeline('kept', 'SELECT k, count(*) AS n FROM (SELECT k FROM k1 UNION ALL SELECT k FROM (SELECT k FROM k2 WHERE k > 0 UNION ALL SELECT id FROM plain) x) u GROUP BY k', state_ttl => '10 min');
INSERT INTO k1 VALUES (at(1), 1), (at(9), 2);
INSERT INTO k2 VALUES ('2024-01-01 12:02', 1), ('2024-01-01 12:12', 3);
INSERT INTO plain VALUES (at(0), 4);
SELECT checkpoint('kept') > 0 AS ok;
SELECT watermark FROM state WHERE pipeline = 'kept';
SELECT * FROM kept ORDER BY 1;
INSERT INTO k1 VALUES (at(30), 6);
SELECT checkpoint('kept') > 0 AS ok;
SELECT watermark FROM state WHERE pipeline = 'kept';
SELECT * FROM kept ORDER BY 1;
INSERT INTO k2 VALUES ('2024-01-01 12:19:30', 7);
SELECT checkpoint('kept') > 0 AS ok;
SELECT watermark, state_rows FROM state WHERE pipeline = 'kept';
SELECT * FROM kept ORDER BY 1;
SELECT count(drop_pipeline(pipeline)::text) FROM pipelines;

-- ---- Idle streams ----
-- One that is silent holds the others up until its idle_timeout, one that has never had a row, too.
SELECT create_stream('live', 'ts timestamptz, id int', event_time => 'ts');
SELECT create_stream('quiet', 'ts timestamptz, id int', event_time => 'ts', idle_timeout => '300 ms');
SELECT create_stream('never', 'ts timestamptz, id int', event_time => 'ts', idle_timeout => '300 ms');
SELECT create_pipeline('idle', 'SELECT window_end, array_agg(id ORDER BY id) AS ids FROM (TABLE live UNION ALL TABLE quiet UNION ALL TABLE never) u, tumble(u.ts, ''5 min'') GROUP BY 1', emit => 'final');
INSERT INTO quiet VALUES (at(1), 1);
INSERT INTO live VALUES (at(11), 2);
CALL wait_for('SELECT count(*) = 1 FROM idle');
SELECT watermark, late_rows FROM state WHERE pipeline = 'idle';
TABLE idle;
-- the next row of an idle stream counts again, and what has passed has passed
BEGIN;
INSERT INTO live VALUES (at(21), 4);
INSERT INTO quiet VALUES (at(12), 3);
COMMIT;
INSERT INTO quiet VALUES (at(2), 5);
SELECT checkpoint();
SELECT late_rows FROM state WHERE pipeline = 'idle';
-- held up by quiet, which falls silent again
CALL wait_for('SELECT count(*) = 2 FROM idle');
SELECT watermark, late_rows FROM state WHERE pipeline = 'idle';
SELECT stream_idle FROM pipeline_position p JOIN pipeline_def d ON d.id = p.pipeline_id WHERE d.name = 'idle';
SELECT * FROM idle ORDER BY ctid;
-- the same after a restart of the pipeline
SELECT pause_pipeline('idle');
SELECT resume_pipeline('idle');
INSERT INTO live VALUES (at(26), 6);
SELECT checkpoint();
SELECT * FROM idle ORDER BY ctid;
-- if all are idle, the one that is furthest counts, and goes on with the clock
SELECT create_stream('quiet2', 'ts timestamptz, id int', event_time => 'ts', idle_timeout => '200 ms');
SELECT create_pipeline('all_idle', 'SELECT window_end, array_agg(id ORDER BY id) AS ids FROM (TABLE quiet UNION ALL TABLE quiet2) u, tumble(u.ts, ''1 s'') GROUP BY 1', emit => 'final');
INSERT INTO quiet VALUES (at(30), 1);
INSERT INTO quiet2 VALUES (at(31), 2);
CALL wait_for('SELECT count(*) = 2 FROM all_idle');
SELECT * FROM all_idle ORDER BY ctid;

-- ---- Chains ----
CREATE FOREIGN TABLE merged (window_end timestamptz, n bigint) SERVER stream_ckpt OPTIONS (event_time 'window_end');
CREATE FOREIGN TABLE both_streams (ts timestamptz, id int) SERVER stream_ckpt OPTIONS (event_time 'ts');
SELECT create_stream('o1', 'ts timestamptz, id int', event_time => 'ts');
SELECT create_stream('o2', 'ts timestamptz, id int', event_time => 'ts');
SELECT create_pipeline('to_both', 'TABLE o1 UNION ALL TABLE o2', sink => 'both_streams');
SELECT create_pipeline('to_merged', 'SELECT window_end, count(*) AS n FROM both_streams, tumble(ts, ''1 min'') GROUP BY 1', sink => 'merged', emit => 'final');
SELECT create_pipeline('from_merged', 'SELECT window_start, sum(n) AS n FROM (SELECT window_end AS at, n FROM merged UNION ALL SELECT ts, 1000 FROM o2) u, tumble(u.at, ''10 min'') GROUP BY 1', emit => 'final');
INSERT INTO o1 SELECT at(i / 2.0), i FROM generate_series(0, 60) i;
INSERT INTO o2 SELECT at(i), i FROM generate_series(0, 25) i;
SELECT checkpoint();
SELECT stream, watermark FROM streams WHERE stream IN ('merged'::regclass, 'both_streams'::regclass, 'o1'::regclass, 'o2'::regclass) ORDER BY 1;
SELECT * FROM from_merged ORDER BY ctid;
SELECT * FROM try('SELECT create_pipeline(''circle'', ''SELECT ts, id FROM o1 UNION ALL SELECT window_end, 1 FROM merged'', sink => ''both_streams'')');

SET client_min_messages = warning;
DROP SCHEMA un CASCADE;
DROP OWNED BY regress_union;
DROP ROLE regress_union;
SELECT count(*) AS pipelines FROM pipelines;
