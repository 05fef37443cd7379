-- DISTINCT, UNION, DISTINCT ON, row_number() and its like, ORDER BY ... LIMIT, against the same SQL over tables.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA live;
CREATE SCHEMA oracle;
SET timezone = 'UTC';
CREATE TABLE oracle.s (id int, g int, i int, n numeric, t text, b bool, ts timestamptz);
CREATE TABLE oracle.u (id int, g int, t text);
CREATE FOREIGN TABLE live.s (id int, g int, i int, n numeric, t text, b bool, ts timestamptz) SERVER stream_ckpt;
CREATE FOREIGN TABLE live.u (id int, g int, t text) SERVER stream_ckpt;
CREATE TABLE public.dim (di int, label text);
INSERT INTO public.dim SELECT i, 'l' || i % 3 FROM generate_series(0, 20) i;

-- name and query; run over the stream and over the table
CREATE TABLE public.tried (name text, query text);
INSERT INTO public.tried VALUES
    ('distinct_one', 'SELECT DISTINCT g FROM s'),
    ('distinct_many', 'SELECT DISTINCT g, i % 3 AS m, upper(t) AS t, b FROM s WHERE id % 7 <> 0'),
    ('distinct_groups', 'SELECT DISTINCT count(*) AS n, max(g) > 2 AS big FROM s GROUP BY g, i'),
    ('distinct_below', 'SELECT g, count(*) AS n, string_agg(t, '','' ORDER BY t) AS a FROM (SELECT DISTINCT g, t FROM s) d GROUP BY g'),
    ('distinct_joined', 'SELECT DISTINCT label, g FROM s JOIN dim ON di = i'),
    ('distinct_cte', 'WITH d AS (SELECT DISTINCT g, i FROM s) SELECT i, count(g) AS n, count(*) AS a FROM d GROUP BY i'),
    ('united', 'SELECT g, t FROM s UNION SELECT g, t FROM u'),
    ('united_more', 'SELECT g FROM s WHERE b UNION ALL SELECT id FROM u UNION SELECT i FROM s WHERE g > 1'),
    ('united_below', 'SELECT g, count(*) AS n FROM (SELECT g, lower(t) AS t FROM s UNION SELECT g, t FROM u) x GROUP BY g'),
    ('on_one', 'SELECT DISTINCT ON (g) g, i, t, id FROM s ORDER BY g, i DESC NULLS LAST, id'),
    ('on_two', 'SELECT DISTINCT ON (g, b) id, n, b, g FROM s ORDER BY g, b, n NULLS FIRST, id DESC'),
    ('on_hidden', 'SELECT DISTINCT ON (g, b) i % 4 AS m, t FROM s ORDER BY g, b, id'),
    ('on_groups', 'SELECT DISTINCT ON (g) g, i, count(*) AS n FROM s GROUP BY g, i ORDER BY g, count(*) DESC, i'),
    ('on_collated', 'SELECT DISTINCT ON (g) g, t, id FROM s ORDER BY g, t COLLATE "C" DESC, id'),
    ('last_row', 'SELECT * FROM (SELECT g, t, i, row_number() OVER (PARTITION BY g ORDER BY id DESC) AS rn FROM s) q WHERE rn = 1'),
    ('rows_ranked', 'SELECT g, id, i, t, rn FROM (SELECT *, row_number() OVER (PARTITION BY g ORDER BY i DESC, id) AS rn FROM s) q WHERE rn <= 5'),
    ('rows_bag', 'SELECT g, i FROM (SELECT *, row_number() OVER (PARTITION BY g, b ORDER BY i NULLS FIRST, id DESC) AS rn FROM s) q WHERE rn < 6'),
    ('rows_between', 'SELECT g, rn, i + rn AS ir, t FROM (SELECT g, i, t, row_number() OVER (PARTITION BY g ORDER BY i, id) AS rn FROM s WHERE t IS NOT NULL) q WHERE rn BETWEEN 2 AND 4 AND i > 0'),
    ('rows_third', 'SELECT g, id FROM (SELECT g, id, row_number() OVER (PARTITION BY g ORDER BY n, id) AS rn FROM s) q WHERE 3 = rn'),
    ('ranks', 'SELECT g, i, r FROM (SELECT g, i, rank() OVER (PARTITION BY g ORDER BY i) AS r FROM s) q WHERE r <= 3'),
    ('ranks_dense', 'SELECT g, i, r, t FROM (SELECT g, i, t, dense_rank() OVER (PARTITION BY g ORDER BY i DESC) AS r FROM s) q WHERE r <= 2'),
    ('ranks_all', 'SELECT i, n, x, y, z FROM (SELECT i, n, row_number() OVER w AS x, rank() OVER w AS y, dense_rank() OVER w AS z FROM s WHERE id % 5 = 0 WINDOW w AS (ORDER BY i, id)) q WHERE z <= 4'),
    ('ranks_global', 'SELECT i, t FROM (SELECT i, t, rank() OVER (ORDER BY i DESC NULLS LAST) AS r FROM s) q WHERE r <= 4'),
    ('ranks_groups', 'SELECT g, i, n, r FROM (SELECT g, i, count(*) AS n, rank() OVER (PARTITION BY g ORDER BY count(*) DESC, i) AS r FROM s GROUP BY g, i) q WHERE r <= 2'),
    ('ranks_stage', 'SELECT * FROM (SELECT c.*, row_number() OVER (ORDER BY n DESC, g, i) AS rn FROM (SELECT g, i, count(*) AS n, max(id) AS m FROM s GROUP BY g, i) c) q WHERE rn <= 7'),
    ('ranks_aggregated', 'SELECT g, avg(i) AS a, count(*) AS c, min(id) AS m FROM (SELECT g, i, id, row_number() OVER (PARTITION BY g ORDER BY id DESC) AS rn FROM s) q WHERE rn <= 10 GROUP BY g'),
    ('ranks_all_aggregated', 'SELECT sum(i) AS s, count(*) AS c FROM (SELECT i, rank() OVER (PARTITION BY g ORDER BY i DESC) AS r FROM s) q WHERE r = 1'),
    ('ranks_twice', 'SELECT g, id, i, a FROM (SELECT g, id, i, a, row_number() OVER (PARTITION BY b ORDER BY i, id) AS c FROM (SELECT g, id, i, b, row_number() OVER (PARTITION BY g ORDER BY i DESC, id) AS a FROM s) x WHERE a <= 6) y WHERE c <= 8'),
    ('limited', 'SELECT id, t FROM s ORDER BY id DESC LIMIT 5'),
    ('limited_one', 'SELECT id, t, i FROM s ORDER BY i DESC NULLS LAST, id LIMIT 1'),
    ('limited_bag', 'SELECT i, b FROM s ORDER BY i, id LIMIT 20 OFFSET 3'),
    ('limited_ties', 'SELECT i, t FROM s ORDER BY i FETCH FIRST 3 ROWS WITH TIES'),
    ('limited_groups', 'SELECT g, i, count(*) AS n FROM s GROUP BY g, i ORDER BY n DESC, g, i LIMIT 6'),
    ('limited_hidden', 'SELECT g FROM s GROUP BY g, i ORDER BY max(id) DESC, g, i LIMIT 9'),
    ('limited_distinct', 'SELECT DISTINCT i, g FROM s ORDER BY i, g LIMIT 4'),
    ('limited_united', 'SELECT g, t FROM s UNION SELECT g, t FROM u ORDER BY 2 DESC NULLS LAST, 1 LIMIT 4'),
    ('limited_below', 'SELECT count(*) AS n, sum(id) AS s FROM (SELECT id FROM s ORDER BY id LIMIT 50) q'),
    ('empty', 'SELECT id, t FROM s WHERE id < 0 ORDER BY id LIMIT 1'),
    ('empty_below', 'SELECT count(*) AS n FROM (SELECT id FROM s WHERE id < 0 ORDER BY id LIMIT 3) q'),
    ('having', 'SELECT g, id FROM (SELECT DISTINCT ON (g) g, id, i FROM s ORDER BY g, id DESC) q WHERE i > 4');

SET search_path = live, public, stream_ckpt;
SELECT count(create_pipeline(name, query)) FROM tried;
SELECT checkpoint();
CREATE FUNCTION public.compare(name text, query text) RETURNS text LANGUAGE plpgsql SET search_path = oracle, public AS $$
DECLARE
    missing bigint;
    extra bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM ((%s) EXCEPT ALL TABLE live.%I) x', query, name) INTO missing;
    EXECUTE format('SELECT count(*) FROM (TABLE live.%I EXCEPT ALL (%s)) x', name, query) INTO extra;
    RETURN CASE WHEN missing + extra = 0 THEN 'equal' ELSE format('%s missing, %s extra', missing, extra) END;
END $$;
SELECT name, compare(name, query) FROM tried WHERE compare(name, query) <> 'equal';

CREATE FUNCTION public.more(first int, last int) RETURNS void LANGUAGE sql AS $$
INSERT INTO oracle.s
SELECT i, nullif(i * 13 % 5, 4), nullif(i * 7 % 11, 10) + i / 100, round(i * 3 % 8 / 2.0, i % 3), nullif(CASE WHEN i % 2 = 0 THEN 'T' ELSE 't' END || i % 6, 'T4'),
       nullif(i % 3, 2)::bool, timestamptz '2024-01-01' + i * interval '1 min'
FROM generate_series(first, last) i;
INSERT INTO oracle.u SELECT i, i % 7, 't' || i % 4 FROM generate_series(first, last, 3) i;
$$;
SELECT more(1, 150);
INSERT INTO live.s SELECT * FROM oracle.s ORDER BY id * 37 % 151;
INSERT INTO live.u SELECT * FROM oracle.u;
SELECT checkpoint();
SELECT name, compare(name, query) FROM tried ORDER BY name;
-- in small transactions, with checkpoints in between
SELECT more(151, 260);
DO $$
BEGIN
    FOR number IN 151 .. 260 LOOP
        INSERT INTO live.s SELECT * FROM oracle.s WHERE id = number;
        INSERT INTO live.u SELECT * FROM oracle.u WHERE id = number;
        COMMIT;
        IF number % 25 = 0 THEN
            PERFORM stream_ckpt.checkpoint();
        END IF;
    END LOOP;
END $$;
SELECT checkpoint();
SELECT name, compare(name, query) FROM tried WHERE compare(name, query) <> 'equal' ORDER BY name;
-- after a restart from the checkpoint
SELECT count(pause_pipeline(name)) FROM tried;
SELECT count(resume_pipeline(name)) FROM tried;
SELECT more(261, 300);
INSERT INTO live.s SELECT * FROM oracle.s WHERE id > 260;
INSERT INTO live.u SELECT * FROM oracle.u WHERE id > 260;
SELECT checkpoint();
SELECT name, compare(name, query) FROM tried WHERE compare(name, query) <> 'equal' ORDER BY name;
SELECT count(*) FROM pipelines WHERE error IS NOT NULL;

-- four tasks
SELECT count(create_pipeline(name || '_4', query, parallelism => 4)) FROM tried WHERE name IN ('distinct_below', 'on_two', 'on_hidden', 'rows_ranked', 'rows_bag', 'ranks', 'ranks_groups', 'ranks_aggregated', 'limited_ties', 'united');
TRUNCATE oracle.s, oracle.u;
SELECT more(1, 400);
INSERT INTO live.s SELECT * FROM oracle.s WHERE id <= 200;
INSERT INTO live.u SELECT * FROM oracle.u WHERE id <= 200;
SELECT checkpoint();
INSERT INTO live.s SELECT * FROM oracle.s WHERE id > 200;
INSERT INTO live.u SELECT * FROM oracle.u WHERE id > 200;
SELECT checkpoint();
SELECT name, compare(name || '_4', query) FROM tried WHERE to_regclass('live.' || name || '_4') IS NOT NULL ORDER BY name;
SELECT count(drop_pipeline(pipeline)) FROM pipelines;
DROP SCHEMA live CASCADE;
CREATE SCHEMA live;
TRUNCATE oracle.s;

-- ties are broken by what rows look like, not by when they came
CREATE FOREIGN TABLE live.s (id int, g int, i int, n numeric, t text, b bool, ts timestamptz) SERVER stream_ckpt OPTIONS (event_time 'ts');
SELECT create_pipeline('tied_1', 'SELECT DISTINCT ON (g) g, id, t FROM s ORDER BY g'), create_pipeline('tied_2', 'SELECT id, t, rn FROM (SELECT id, t, row_number() OVER (ORDER BY g) AS rn FROM s) q WHERE rn <= 2'), create_pipeline('tied_3', 'SELECT id FROM s LIMIT 2');
INSERT INTO live.s (g, id, t) VALUES (1, 3, 'c'), (1, 2, 'b'), (1, 1, 'a');
SELECT checkpoint();
INSERT INTO live.s (g, id, t) VALUES (1, 2, 'a'), (1, 1, 'b'), (1, 1, 'a');
SELECT checkpoint();
TABLE tied_1;
SELECT * FROM tied_2 ORDER BY rn;
SELECT * FROM tied_3 ORDER BY id;

-- windows close: their partitions leave the state, and with 'final' their rows are the result
SELECT create_pipeline('closing', 'SELECT window_end, g, id, rn FROM (SELECT window_end, g, id, row_number() OVER (PARTITION BY window_end, g ORDER BY id DESC) AS rn FROM s, tumble(ts, ''1 min'')) q WHERE rn <= 2'),
    create_pipeline('closed', 'SELECT window_end, g, id, rn FROM (SELECT window_end, g, id, row_number() OVER (PARTITION BY window_end, g ORDER BY id DESC) AS rn FROM s, tumble(ts, ''1 min'')) q WHERE rn <= 2', emit => 'final'),
    create_pipeline('closed_one', 'SELECT DISTINCT ON (window_end) window_end, id FROM s, tumble(ts, ''1 min'') ORDER BY window_end, id', emit => 'final'),
    create_pipeline('closed_most', 'SELECT window_end, g, n FROM (SELECT window_end, g, count(*) AS n, rank() OVER (PARTITION BY window_end ORDER BY count(*) DESC) AS r FROM s, tumble(ts, ''1 min'') GROUP BY window_end, g) q WHERE r = 1', emit => 'final'),
    create_pipeline('closed_distinct', 'SELECT DISTINCT window_end, g FROM s, tumble(ts, ''1 min'')', emit => 'final');
INSERT INTO live.s (id, g, ts) SELECT i, i % 2, timestamptz '2024-01-01' + i * interval '11 s' FROM generate_series(1, 14) i;
SELECT checkpoint();
SELECT * FROM closing ORDER BY window_end, g, rn;
SELECT * FROM closed ORDER BY window_end, g, rn;
INSERT INTO live.s (id, g, ts) VALUES (20, 1, '2024-01-01 00:05');
SELECT checkpoint();
SELECT count(*) FROM (SELECT * FROM closing WHERE id < 20 EXCEPT ALL TABLE closed) x;
SELECT * FROM closed_one ORDER BY window_end;
SELECT * FROM closed_most ORDER BY window_end, g;
SELECT count(*), count(DISTINCT window_end) FROM closed_distinct;
SELECT pipeline, state_rows FROM pipelines WHERE pipeline ~ '^clos' ORDER BY pipeline;

-- forgotten partitions; rows that raise errors
SELECT create_pipeline('forgetful', 'SELECT g, id, rn FROM (SELECT g, id, row_number() OVER (PARTITION BY g ORDER BY id) AS rn FROM s) q WHERE rn <= 2', state_ttl => '1 min'),
    create_pipeline('letters', 'SELECT g, 10 / i AS q, t::int AS t, rn FROM (SELECT g, i, t, row_number() OVER (PARTITION BY g ORDER BY id) AS rn FROM s WHERE i IS NOT NULL) x WHERE rn <= 2', on_error => 'dead_letter'),
    create_pipeline('letters_above', 'SELECT sum(12 / r) AS s, count(*) AS c FROM (SELECT 6 / (i - 3) AS r, id, rank() OVER (PARTITION BY g ORDER BY i DESC) AS k FROM s WHERE i IS NOT NULL) x WHERE k <= 1', on_error => 'dead_letter');
INSERT INTO live.s (id, g, i, t, ts) VALUES (1, 1, 2, '1', '2024-01-01 00:06'), (2, 1, 5, '2', '2024-01-01 00:06'), (3, 2, 1, '3', '2024-01-01 00:06');
SELECT checkpoint();
SELECT * FROM forgetful ORDER BY g, rn;
SELECT * FROM letters ORDER BY g, rn;
TABLE letters_above;
INSERT INTO live.s (id, g, i, t, ts) VALUES (0, 1, 0, '4', '2024-01-01 00:06:30'), (4, 2, 1, 'x', '2024-01-01 00:06:30'), (5, 2, 4, '5', '2024-01-01 00:09');
SELECT checkpoint();
SELECT * FROM forgetful ORDER BY g, rn;
SELECT * FROM letters ORDER BY g, rn;
TABLE letters_above;
SELECT pipeline, stage, sqlstate, count(*) FROM dead_letters GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- retained checkpoints: keyed rows and bags
SELECT create_pipeline('kept_rows', 'SELECT g, id, rn FROM (SELECT g, id, row_number() OVER (PARTITION BY g ORDER BY id DESC) AS rn FROM s) q WHERE rn <= 2', retained_checkpoints => 5),
    create_pipeline('kept_bag', 'SELECT i FROM s ORDER BY i LIMIT 6', retained_checkpoints => 5);
INSERT INTO live.s (id, g, i) VALUES (1, 1, 5), (2, 1, 5), (3, 2, 7), (4, 2, 7);
SELECT checkpoint();
CREATE TEMP TABLE mark AS SELECT 1 AS n, pipeline, max(checkpoint_id) AS checkpoint FROM checkpoints WHERE pipeline LIKE 'kept%' AND status = 'completed' GROUP BY pipeline;
INSERT INTO live.s (id, g, i) VALUES (11, 1, 5), (12, 1, 3), (13, 3, 7), (14, 2, 4);
SELECT checkpoint();
INSERT INTO mark SELECT 2, pipeline, max(checkpoint_id) FROM checkpoints WHERE pipeline LIKE 'kept%' AND status = 'completed' GROUP BY pipeline;
SELECT * FROM kept_rows ORDER BY g, rn;
SELECT array_agg(i ORDER BY i) FROM kept_bag;
SELECT count(pause_pipeline(name)) FROM (VALUES ('kept_rows'), ('kept_bag')) v(name);
SELECT count(restore_pipeline(pipeline, checkpoint)) FROM mark WHERE n = 1;
SELECT * FROM kept_rows ORDER BY g, rn;
SELECT array_agg(i ORDER BY i) FROM kept_bag;
SELECT count(restore_pipeline(pipeline, checkpoint)) FROM mark WHERE n = 2;
SELECT * FROM kept_rows ORDER BY g, rn;
SELECT array_agg(i ORDER BY i) FROM kept_bag;
SELECT count(resume_pipeline(name)) FROM (VALUES ('kept_rows'), ('kept_bag')) v(name);
INSERT INTO live.s (id, g, i) VALUES (21, 1, 1);
SELECT checkpoint();
SELECT * FROM kept_rows ORDER BY g, rn;
SELECT array_agg(i ORDER BY i) FROM kept_bag;

-- identical rows of closed windows and of open ones
SELECT create_stream('live.w', 'id int, v int, ts timestamptz', event_time => 'ts');
SELECT create_pipeline('kept_windows_' || n, 'SELECT v FROM (SELECT v, row_number() OVER (PARTITION BY window_start ORDER BY id) AS rn FROM live.w, stream_ckpt.tumble(ts, ''1 min'')) q WHERE rn <= 2',
    retained_checkpoints => 5, parallelism => n) FROM (VALUES (1), (3)) n (n);
INSERT INTO live.w VALUES (1, 7, '2024-01-01 00:00'), (2, 7, '2024-01-01 00:00'), (3, 8, '2024-01-01 00:01');
SELECT checkpoint();
INSERT INTO live.w VALUES (4, 7, '2024-01-01 00:01:30'), (5, 7, '2024-01-01 00:02'), (0, 9, '2024-01-01 00:01:40');
SELECT checkpoint();
CREATE TABLE kept_ids AS SELECT pipeline, checkpoint_id FROM checkpoints WHERE pipeline ~ 'kept_windows' AND retained;
SELECT (SELECT array_agg(v ORDER BY v) FROM kept_windows_1) AS one, (SELECT array_agg(v ORDER BY v) FROM kept_windows_3) AS three;
SELECT count(pause_pipeline('kept_windows_' || n)) FROM (VALUES (1), (3)) n (n);
SELECT count(restore_pipeline(pipeline, id)) FROM (SELECT pipeline, (array_agg(checkpoint_id ORDER BY checkpoint_id DESC))[2] AS id FROM kept_ids GROUP BY 1) x;
SELECT (SELECT array_agg(v ORDER BY v) FROM kept_windows_1) AS one, (SELECT array_agg(v ORDER BY v) FROM kept_windows_3) AS three;
SELECT count(restore_pipeline(pipeline, id)) FROM (SELECT pipeline, max(checkpoint_id) AS id FROM kept_ids GROUP BY 1) x;
SELECT (SELECT array_agg(v ORDER BY v) FROM kept_windows_1) AS one, (SELECT array_agg(v ORDER BY v) FROM kept_windows_3) AS three;
SELECT count(restore_pipeline(pipeline, id)) FROM (SELECT pipeline, (array_agg(checkpoint_id ORDER BY checkpoint_id DESC))[2] AS id FROM kept_ids GROUP BY 1) x;
SELECT count(resume_pipeline('kept_windows_' || n)) FROM (VALUES (1), (3)) n (n);
SELECT checkpoint();
SELECT (SELECT array_agg(v ORDER BY v) FROM kept_windows_1) AS one, (SELECT array_agg(v ORDER BY v) FROM kept_windows_3) AS three;

-- sinks: with a key that is there, and without one
CREATE TABLE public.best (g int, place bigint, id int, note text DEFAULT 'new', UNIQUE NULLS NOT DISTINCT (g, place));
CREATE TABLE public.best_of_all (id int);
SELECT create_pipeline('into_best', 'SELECT g, id, place FROM (SELECT g, id, row_number() OVER (PARTITION BY g ORDER BY id DESC) AS place FROM s) q WHERE place <= 2', sink => 'best');
SELECT create_pipeline('into_none', 'SELECT id FROM s ORDER BY id LIMIT 3', sink => 'best_of_all');
INSERT INTO live.s (id, g) VALUES (1, 1), (2, 1), (3, 2);
SELECT checkpoint();
INSERT INTO live.s (id, g) VALUES (4, 1), (5, 2);
SELECT checkpoint();
SELECT * FROM best ORDER BY g, place;

-- changed queries
SELECT alter_pipeline('into_best', query => 'SELECT g, id, place FROM (SELECT g, id, row_number() OVER (PARTITION BY g ORDER BY id DESC) AS place FROM s) q WHERE place <= 3');
SELECT alter_pipeline('tied_1', query => 'SELECT DISTINCT ON (g) g, id, t || ''!'' AS t FROM s ORDER BY g');
SELECT alter_pipeline('tied_1', query => 'SELECT DISTINCT ON (g) g, id FROM s ORDER BY g', reset_state => true);
INSERT INTO live.s (g, id, t) VALUES (1, 3, 'c'), (1, 2, 'b');
SELECT checkpoint();
TABLE tied_1;
-- what a stage has handed on: other expressions, and back
SELECT create_pipeline('handed_keyed', 'SELECT g, id, i, place FROM (SELECT *, row_number() OVER (PARTITION BY g ORDER BY i DESC, id) AS place FROM s WHERE g >= 50) q WHERE place <= 3'),
    create_pipeline('handed_bag', 'SELECT i, t FROM (SELECT *, rank() OVER (PARTITION BY g ORDER BY i DESC) AS place FROM s WHERE g >= 50) q WHERE place <= 2', parallelism => 2),
    create_pipeline('handed_above', 'SELECT sum(i) AS s, count(*) AS n FROM (SELECT i, row_number() OVER (PARTITION BY g ORDER BY i DESC, id) AS place FROM s WHERE g >= 50) q WHERE place <= 3');
CREATE FUNCTION public.handed() RETURNS TABLE (keyed text, bag text, above text) LANGUAGE sql SET search_path = live, public, stream_ckpt AS $$
SELECT (SELECT string_agg(concat_ws(':', g, id, i, place), ' ' ORDER BY g, place) FROM handed_keyed), (SELECT string_agg(concat_ws(':', i, t), ' ' ORDER BY i, t) FROM handed_bag),
    (SELECT s || ':' || n FROM handed_above)
$$;
INSERT INTO live.s (id, g, i, t) SELECT n, 50 + n % 2, n / 3, 'a' FROM generate_series(1, 12) n;
SELECT checkpoint();
SELECT * FROM handed();
SELECT alter_pipeline('handed_keyed', query => 'SELECT g, id, -i AS i, place FROM (SELECT *, row_number() OVER (PARTITION BY g ORDER BY i DESC, id) AS place FROM s WHERE g >= 50) q WHERE place <= 3');
SELECT alter_pipeline('handed_bag', query => 'SELECT -i AS i, t FROM (SELECT *, rank() OVER (PARTITION BY g ORDER BY i DESC) AS place FROM s WHERE g >= 50) q WHERE place <= 2');
SELECT alter_pipeline('handed_above', query => 'SELECT sum(i) AS s, count(*) + 100 AS n FROM (SELECT i, row_number() OVER (PARTITION BY g ORDER BY i DESC, id) AS place FROM s WHERE g >= 50) q WHERE place <= 3');
SELECT * FROM handed();
INSERT INTO live.s (id, g, i, t) VALUES (20, 50, 4, 'b'), (20, 50, 4, 'b'), (21, 52, 1, 'b');
SELECT checkpoint();
SELECT * FROM handed();
SELECT alter_pipeline('handed_keyed', query => 'SELECT g, id, i, place FROM (SELECT *, row_number() OVER (PARTITION BY g ORDER BY i DESC, id) AS place FROM s WHERE g >= 50) q WHERE place <= 3'),
    alter_pipeline('handed_bag', query => 'SELECT i, t FROM (SELECT *, rank() OVER (PARTITION BY g ORDER BY i DESC) AS place FROM s WHERE g >= 50) q WHERE place <= 2', parallelism => 3),
    alter_pipeline('handed_above', query => 'SELECT sum(i) AS s, count(*) AS n FROM (SELECT i, row_number() OVER (PARTITION BY g ORDER BY i DESC, id) AS place FROM s WHERE g >= 50) q WHERE place <= 3');
SELECT * FROM handed();
SELECT count(pause_pipeline(name)) FROM (VALUES ('handed_keyed'), ('handed_bag'), ('handed_above')) v (name);
SELECT count(resume_pipeline(name)) FROM (VALUES ('handed_keyed'), ('handed_bag'), ('handed_above')) v (name);
INSERT INTO live.s (id, g, i, t) VALUES (19, 50, 4, 'b'), (30, 51, 9, 'c'), (31, 51, 9, 'c');
SELECT checkpoint();
SELECT * FROM handed();
SELECT create_pipeline('filtered', 'SELECT g, i FROM (SELECT DISTINCT ON (g) g, i, id FROM s ORDER BY g, id) q WHERE i > 0');
INSERT INTO live.s (g, i, id) VALUES (1, 3, 1), (2, 0, 1);
SELECT checkpoint();
TABLE filtered;
SELECT alter_pipeline('filtered', query => 'SELECT g, i, i * 2 AS twice FROM (SELECT DISTINCT ON (g) g, i, id FROM s ORDER BY g, id) q');
SELECT g, i, twice FROM filtered ORDER BY g;
SELECT line FROM explain_pipeline('kept_rows') line WHERE line !~ '^  (State|Rows|Watermark):';
SELECT line FROM explain_pipeline('closed_most') line WHERE line !~ '^  (State|Rows|Watermark):';

-- refused by name
CREATE VIEW public.seen AS SELECT DISTINCT g FROM live.s;
CREATE VIEW public.latest AS SELECT DISTINCT ON (g) g, id FROM live.s ORDER BY g, id DESC;
CREATE FUNCTION public.refused(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
    PERFORM create_pipeline('refused', query);
    PERFORM drop_pipeline('refused');
    RETURN 'works';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', sqlstate || ': ' || sqlerrm, nullif(hint, ''));
END $$;
SELECT refused(query) FROM unnest(ARRAY[
    'SELECT id, row_number() OVER (ORDER BY id) FROM s', 'SELECT * FROM (SELECT id, rank() OVER (ORDER BY id) AS r FROM s) q', 'SELECT * FROM (SELECT id, rank() OVER (ORDER BY id) AS r FROM s) q WHERE r > 3',
    'SELECT * FROM (SELECT id, rank() OVER (ORDER BY id) AS r FROM s) q WHERE r <= id', 'SELECT * FROM (SELECT id, rank() OVER (ORDER BY id) AS r FROM s) q WHERE r <= 3 OR r = 7',
    'SELECT * FROM (SELECT id, rank() OVER (ORDER BY id) AS r FROM s) q WHERE r <= 2.5', 'SELECT * FROM (SELECT id, ntile(3) OVER (ORDER BY id) AS r FROM s) q WHERE r <= 2',
    'SELECT * FROM (SELECT id, rank() OVER (ORDER BY id) AS r, rank() OVER (ORDER BY g) AS q FROM s) q WHERE r <= 2', 'SELECT g, r FROM (SELECT g, t, rank() OVER (ORDER BY count(*)) AS r FROM s GROUP BY g, upper(t), t) q WHERE r <= 2',
    'SELECT id FROM s ORDER BY id', 'SELECT id FROM s ORDER BY id OFFSET 3', 'SELECT id FROM s ORDER BY id LIMIT 0', 'SELECT id FROM s ORDER BY id LIMIT (SELECT 3)', 'SELECT id FROM s ORDER BY id LIMIT NULL',
    'SELECT g, id FROM (SELECT g, id FROM s ORDER BY id) q', 'SELECT DISTINCT g FROM s ORDER BY g', 'SELECT DISTINCT now(), g FROM s', 'SELECT DISTINCT ON (g) g, now() FROM s', 'SELECT DISTINCT generate_series(1, i) FROM s',
    'SELECT DISTINCT ON (g) g, generate_series(1, i) FROM s', 'SELECT generate_series(1, i) FROM s LIMIT 3', 'SELECT g FROM seen', 'SELECT g, id FROM latest', 'SELECT count(*) FROM latest',
    'SELECT DISTINCT i::text::json FROM s', 'SELECT i::text::json AS j FROM s ORDER BY id LIMIT 2', 'SELECT DISTINCT ON (i::text::money) i FROM s', 'SELECT id FROM s UNION SELECT di FROM dim', '(SELECT id FROM s UNION SELECT g FROM s) UNION ALL SELECT i FROM s',
    'SELECT id FROM s UNION (SELECT g FROM s EXCEPT SELECT i FROM s)', 'SELECT DISTINCT g FROM s UNION ALL SELECT i FROM s', '(SELECT g FROM s LIMIT 1) UNION ALL SELECT i FROM s', 'SELECT DISTINCT g, window_end FROM s, session(ts, ''1 min'')',
    'SELECT DISTINCT ON (window_end) g FROM s, session(ts, ''1 min'')']) query;

-- The row of a place is updated. Where another unique index would be in the way of rows that change places, they are deleted and inserted.
CREATE TABLE public.placed (g int, rn bigint, i int, UNIQUE NULLS NOT DISTINCT (g, rn));
CREATE TABLE public.apart (LIKE placed INCLUDING ALL, UNIQUE (g, i));
CREATE TABLE public.done (sink text, op text, g int, rn bigint, i int);
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE r record := CASE TG_OP WHEN 'DELETE' THEN old ELSE new END;
BEGIN
    INSERT INTO public.done VALUES (tg_table_name, tg_op, r.g, r.rn, r.i);
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON public.placed FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON public.apart FOR EACH ROW EXECUTE FUNCTION note();
SELECT count(create_pipeline('to_' || sink, 'SELECT g, rn, i FROM (SELECT g, i, row_number() OVER (PARTITION BY g ORDER BY count(*) DESC, i) AS rn FROM s GROUP BY g, i HAVING count(*) < 3) q WHERE rn <= 3', sink => sink::regclass))
FROM unnest(ARRAY['placed', 'apart']) sink;
INSERT INTO s (id, g, i) SELECT 1000 + n, 900, n % 4 FROM generate_series(1, 5) n;
SELECT checkpoint();
TRUNCATE done;
INSERT INTO s (id, g, i) VALUES (1006, 900, 1), (1007, 900, 3);
SELECT checkpoint();
SELECT * FROM done ORDER BY sink, op, rn;
TRUNCATE done;
INSERT INTO s (id, g, i) VALUES (1008, 900, 0), (1009, 900, 0), (1010, 900, 3);
SELECT checkpoint();
SELECT * FROM done ORDER BY sink, op, rn;
TABLE placed EXCEPT ALL TABLE apart;
SELECT * FROM placed ORDER BY rn;

-- A bag tells rows apart by their images, with its index and without.
SELECT create_pipeline('public.bagged', 'SELECT n, (SELECT max(id) FROM s) AS m FROM s');
INSERT INTO s (id, n) VALUES (2000, 1.0), (2001, 1.00), (2002, 1.0), (2003, NULL);
SELECT checkpoint();
INSERT INTO s (id, n) VALUES (2004, 1.000);
SELECT checkpoint();
SELECT * FROM bagged ORDER BY n, n::text;
SET client_min_messages = warning;
DROP INDEX public.bagged_hash_record_extended_idx;
RESET client_min_messages;
INSERT INTO s (id, n) VALUES (2005, 1.0);
SELECT checkpoint();
SELECT * FROM bagged ORDER BY n, n::text;

SELECT count(drop_pipeline(pipeline)) FROM pipelines;
SET client_min_messages = warning;
DROP SCHEMA live, oracle CASCADE;
DROP TABLE tried, dim, best, best_of_all, placed, apart, done;
DROP FUNCTION more, compare, refused, note, handed;
SELECT count(*) AS pipelines FROM pipelines;
