-- Window functions over the rows around a row, against the same SQL over tables.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA live;
CREATE SCHEMA oracle;
SET timezone = 'UTC';
CREATE TABLE oracle.s (id int, g int, i int, n numeric, t text, b bool, f float8, ts timestamptz);
CREATE TABLE oracle.u (id int, g int, t text);
CREATE FOREIGN TABLE live.s (id int, g int, i int, n numeric, t text, b bool, f float8, ts timestamptz) SERVER stream_ckpt;
CREATE FOREIGN TABLE live.u (id int, g int, t text) SERVER stream_ckpt;

-- name and query; run over the stream and over the table
CREATE TABLE public.tried (name text, query text);
INSERT INTO public.tried VALUES
    ('avg_10', 'SELECT g, id, avg(i) OVER (PARTITION BY g ORDER BY ts, id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS a FROM s'),
    ('avg_hidden', 'SELECT round(avg(n) OVER (PARTITION BY g, b ORDER BY id ROWS 2 PRECEDING), 2) AS a FROM s'),
    ('around', 'SELECT id, sum(i) OVER w AS s, count(*) OVER w AS c, count(i) OVER w AS d, max(t) OVER w AS m, min(n) OVER w AS l FROM s WINDOW w AS (PARTITION BY g ORDER BY i DESC NULLS LAST, id ROWS BETWEEN 2 PRECEDING AND 3 FOLLOWING)'),
    ('following', 'SELECT id, array_agg(id) OVER (ORDER BY n, id ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING) AS a FROM s'),
    ('preceding', 'SELECT id, g, string_agg(t, ''-'') OVER (PARTITION BY g ORDER BY id ROWS BETWEEN 4 PRECEDING AND 2 PRECEDING) AS a FROM s WHERE id % 3 <> 0'),
    ('numeric_scale', 'SELECT id, sum(n) OVER (PARTITION BY b ORDER BY i, id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS a FROM s'),
    ('floats', 'SELECT id, round((sum(f) OVER (PARTITION BY g ORDER BY id ROWS BETWEEN 3 PRECEDING AND CURRENT ROW))::numeric, 3) AS a FROM s'),
    ('filtered', 'SELECT id, sum(i) FILTER (WHERE b) OVER (PARTITION BY g ORDER BY id ROWS 3 PRECEDING) AS a, count(*) FILTER (WHERE i > 3) OVER (PARTITION BY g ORDER BY id) AS c FROM s'),
    ('neighbours', 'SELECT g, id, lag(i) OVER w AS a, lead(t) OVER w AS b, lag(id, 3) OVER w AS c, lead(id, 2, -1) OVER w AS d, lag(i, 2, id) OVER w AS e, lag(t, 0) OVER w AS f, i - lag(i, -1, 0) OVER w AS h FROM s WINDOW w AS (PARTITION BY g ORDER BY id)'),
    ('edges', 'SELECT g, id, first_value(id) OVER w AS a, last_value(id) OVER w AS b, nth_value(id, 2) OVER w AS c FROM s WINDOW w AS (PARTITION BY g ORDER BY i, id ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING)'),
    ('firsts', 'SELECT g, id, first_value(t) OVER w AS a, last_value(id) OVER w AS b, nth_value(id, 3) OVER w AS c FROM s WINDOW w AS (PARTITION BY g ORDER BY i DESC, id)'),
    ('firsts_back', 'SELECT id, first_value(id) OVER w AS a, last_value(id) OVER w AS b, nth_value(id, 2) OVER w AS c FROM s WINDOW w AS (PARTITION BY g ORDER BY n, id ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING)'),
    ('running', 'SELECT g, id, sum(i) OVER w AS s, avg(n) OVER w AS a, count(*) OVER w AS c, max(id) OVER w AS m FROM s WINDOW w AS (PARTITION BY g ORDER BY ts, id ROWS UNBOUNDED PRECEDING)'),
    ('running_peers', 'SELECT g, id, sum(i) OVER w AS s, count(t) OVER w AS c, bool_or(b) OVER w AS o FROM s WINDOW w AS (PARTITION BY g ORDER BY i)'),
    ('running_all', 'SELECT id, sum(i) OVER (ORDER BY id) AS s, sum(i) OVER (ORDER BY id ROWS 5 PRECEDING) AS r, variance(n) OVER (ORDER BY id) AS v FROM s'),
    ('expressions', 'SELECT g + 1 AS k, upper(t) || coalesce(sum(i % 4) OVER (PARTITION BY g + 1 ORDER BY id ROWS 1 PRECEDING)::text, '''') AS x FROM s WHERE t IS NOT NULL'),
    ('not_selected', 'SELECT count(*) OVER (PARTITION BY g ORDER BY id ROWS 1 PRECEDING) AS c FROM s'),
    ('identical', 'SELECT g, b, count(*) OVER (PARTITION BY g ORDER BY b ROWS 4 PRECEDING) AS c FROM (SELECT g, b FROM s) x'),
    ('filtered_above', 'SELECT id, d FROM (SELECT id, i - lag(i) OVER (PARTITION BY g ORDER BY id) AS d FROM s) x WHERE d > 2'),
    ('aggregated', 'SELECT g, max(a) AS m, count(*) AS c, sum(d) AS s FROM (SELECT g, avg(i) OVER (PARTITION BY g ORDER BY id ROWS 2 PRECEDING) AS a, id - lag(id) OVER (PARTITION BY g ORDER BY id) AS d FROM s) x GROUP BY g'),
    ('twice', 'SELECT g, id, a, sum(a) OVER (PARTITION BY g ORDER BY id ROWS 2 PRECEDING) AS b FROM (SELECT g, id, lag(i, 1, 0) OVER (PARTITION BY g ORDER BY i, id) AS a FROM s) x'),
    ('ranked', 'SELECT g, id, d FROM (SELECT g, id, d, row_number() OVER (PARTITION BY g ORDER BY d DESC NULLS LAST, id) AS rn FROM (SELECT g, id, i - lag(i) OVER (PARTITION BY g ORDER BY id) AS d FROM s) x) y WHERE rn <= 3'),
    ('several', 'SELECT g, id + lag(id) OVER (ORDER BY i, id) AS a, lead(id) OVER (PARTITION BY b ORDER BY upper(t), id) AS b, sum(i) OVER w AS c, sum(i) OVER (w ROWS 3 PRECEDING) - i AS d FROM s WINDOW w AS (PARTITION BY g ORDER BY id)'),
    ('several_ranked', 'SELECT g, id, l, a FROM (SELECT g, id, lag(id) OVER w AS l, avg(i) OVER (PARTITION BY b ORDER BY id ROWS 2 PRECEDING) AS a, row_number() OVER w AS place FROM s WINDOW w AS (PARTITION BY g ORDER BY n, id)) x WHERE place <= 4'),
    ('several_groups', 'SELECT g, i, count(*) AS n, lag(count(*)) OVER (PARTITION BY g ORDER BY i) AS r, sum(sum(id)) OVER (ORDER BY i, g) AS l FROM s GROUP BY g, i'),
    ('over_groups', 'SELECT g, i, count(*) AS n, sum(count(*)) OVER (PARTITION BY g ORDER BY i) AS r, lag(sum(id)) OVER (PARTITION BY g ORDER BY i) AS l FROM s GROUP BY g, i'),
    ('over_sums', 'SELECT g, s, lead(s) OVER (ORDER BY s, g) AS n, first_value(g) OVER (ORDER BY s, g) AS f FROM (SELECT g, sum(id) AS s FROM s GROUP BY g) x'),
    ('over_first', 'SELECT b, id, avg(i) OVER (PARTITION BY b ORDER BY n, id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS a FROM (SELECT *, row_number() OVER (PARTITION BY g, t ORDER BY i DESC, id) AS place FROM s) x WHERE place = 1'),
    ('over_distinct', 'SELECT g, i, lag(i) OVER (PARTITION BY g ORDER BY i) AS l FROM (SELECT DISTINCT g, i FROM s) x'),
    ('over_join', 'SELECT g, id, avg(best) OVER (PARTITION BY g ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS a FROM (SELECT u.id, u.g, s.i AS best, row_number() OVER (PARTITION BY u.id ORDER BY s.i DESC, s.id) AS place FROM u JOIN s ON s.g = u.g WHERE s.i IS NOT NULL) x WHERE place = 1'),
    ('united', 'SELECT g, id, lag(id) OVER (PARTITION BY g ORDER BY id, t) AS p FROM (SELECT g, id, t FROM s UNION ALL SELECT g, id, t FROM u) x');

SET search_path = live, public, stream_ckpt;
SET client_min_messages = warning;
SELECT count(create_pipeline(name, query)) FROM tried;
RESET client_min_messages;
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

CREATE FUNCTION public.more(first int, last int) RETURNS void LANGUAGE sql AS $$
INSERT INTO oracle.s
SELECT i, nullif(i * 13 % 5, 4), nullif(i * 7 % 11, 10) + i / 100, round(i * 3 % 8 / 2.0, i % 3), nullif(CASE WHEN i % 2 = 0 THEN 'T' ELSE 't' END || i % 6, 'T4'),
       nullif(i % 3, 2)::bool, i / 8.0, timestamptz '2024-01-01' + (i * 7 % 50) * interval '1 min'
FROM generate_series(first, last) i;
INSERT INTO oracle.u SELECT i, i % 7, 't' || i % 4 FROM generate_series(first, last, 3) i;
$$;
SELECT more(1, 150);
-- in any order
INSERT INTO live.s SELECT * FROM oracle.s ORDER BY id * 37 % 151;
INSERT INTO live.u SELECT * FROM oracle.u;
SELECT checkpoint();
SELECT name, compare(name, query) FROM tried ORDER BY name;
-- in small transactions, with checkpoints in between
SELECT more(151, 260);
DO $$
BEGIN
    FOR number IN 151 .. 260 LOOP
        INSERT INTO live.s SELECT * FROM oracle.s WHERE id = 151 + number * 37 % 110;
        INSERT INTO live.u SELECT * FROM oracle.u WHERE id = 151 + number * 37 % 110;
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
SELECT pipeline, error FROM pipelines WHERE error IS NOT NULL;

-- four tasks
SET client_min_messages = warning;
SELECT count(create_pipeline(name || '_4', query, parallelism => 4)) FROM tried WHERE name IN ('avg_10', 'avg_hidden', 'around', 'neighbours', 'firsts', 'running', 'running_all', 'identical', 'aggregated', 'ranked', 'over_groups', 'over_distinct');
RESET client_min_messages;
TRUNCATE oracle.s, oracle.u;
SELECT more(1, 400);
INSERT INTO live.s SELECT * FROM oracle.s WHERE id % 2 = 0;
SELECT checkpoint();
INSERT INTO live.s SELECT * FROM oracle.s WHERE id % 2 = 1 AND id <= 300;
SELECT checkpoint();
INSERT INTO live.s SELECT * FROM oracle.s WHERE id % 2 = 1 AND id > 300;
SELECT checkpoint();
SELECT name, compare(name || '_4', query) FROM tried WHERE to_regclass('live.' || name || '_4') IS NOT NULL ORDER BY name;
SELECT count(drop_pipeline(pipeline)) FROM pipelines;
DROP SCHEMA live CASCADE;
CREATE SCHEMA live;
TRUNCATE oracle.s;

-- windows close: their partitions leave the state, and with 'final' their rows are the result
CREATE FOREIGN TABLE live.s (id int, g int, i int, n numeric, t text, b bool, f float8, ts timestamptz) SERVER stream_ckpt OPTIONS (event_time 'ts');
SELECT create_pipeline('closing', 'SELECT window_end, g, id, lag(id) OVER w AS l, sum(id) OVER w AS s FROM s, tumble(ts, ''1 min'') WINDOW w AS (PARTITION BY window_end, g ORDER BY id ROWS 1 PRECEDING)'),
    create_pipeline('closed', 'SELECT window_end, g, id, lag(id) OVER w AS l, sum(id) OVER w AS s FROM s, tumble(ts, ''1 min'') WINDOW w AS (PARTITION BY window_end, g ORDER BY id ROWS 1 PRECEDING)', emit => 'final'),
    create_pipeline('closed_sums', 'SELECT window_end, n, sum(n) OVER (PARTITION BY window_end ORDER BY g) AS r FROM (SELECT window_end, g, count(*) AS n FROM s, tumble(ts, ''1 min'') GROUP BY window_end, g) x', emit => 'final');
INSERT INTO live.s (id, g, ts) SELECT i, i % 2, timestamptz '2024-01-01' + i * interval '11 s' FROM generate_series(1, 14) i;
SELECT checkpoint();
SELECT * FROM closing ORDER BY window_end, g, id;
SELECT * FROM closed ORDER BY window_end, g, id;
SELECT * FROM closed_sums ORDER BY window_end, r;
SELECT count(pause_pipeline(name)), count(resume_pipeline(name)) FROM (VALUES ('closing'), ('closed'), ('closed_sums')) v(name);
INSERT INTO live.s (id, g, ts) VALUES (20, 1, '2024-01-01 00:05'), (21, 1, '2024-01-01 00:00');
SELECT checkpoint();
SELECT count(*) FROM (SELECT * FROM closing WHERE id < 20 EXCEPT ALL TABLE closed) x;
SELECT count(*), sum(id), sum(l), sum(s) FROM closed;
SELECT * FROM closed_sums ORDER BY window_end, r;
SELECT pipeline, state_rows FROM pipelines WHERE pipeline ~ '^clos' ORDER BY pipeline;
SELECT count(drop_pipeline(pipeline)) FROM pipelines;

-- only results that change are written; a long partition costs no more than its end
SELECT create_pipeline('written', 'SELECT id, sum(i) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS s FROM s'),
    create_pipeline('carried', 'SELECT id, sum(n) OVER (ORDER BY id) AS s FROM s');
INSERT INTO live.s (id, i, n) SELECT i, 1, i FROM generate_series(1, 1000) i;
SELECT checkpoint();
INSERT INTO live.s (id, i, n) VALUES (1001, 1, 1001);
SELECT checkpoint();
INSERT INTO live.s (id, i, n) SELECT i, 0, i FROM generate_series(-99, 0) i;
SELECT checkpoint();
SELECT pipeline, rows_out FROM pipelines ORDER BY pipeline;
SELECT sum(s) FROM written;
SELECT sum(s) = (SELECT sum(s) FROM (SELECT sum(i) OVER (ORDER BY i) AS s FROM generate_series(-99, 1001) i) x) FROM carried;

-- retained checkpoints
SELECT create_pipeline('kept', 'SELECT g, lag(id) OVER (PARTITION BY g ORDER BY id) AS l FROM s WHERE i > 1', retained_checkpoints => 5);
INSERT INTO live.s (id, g, i) VALUES (1, 1, 5), (5, 1, 5), (3, 2, 7), (4, 2, 7);
SELECT checkpoint('kept') AS kept_id \gset
INSERT INTO live.s (id, g, i) VALUES (2, 1, 5), (12, 1, 3), (13, 3, 7), (2, 2, 4);
SELECT checkpoint();
SELECT g, array_agg(l ORDER BY l) FROM kept GROUP BY g ORDER BY g;
SELECT pause_pipeline('kept');
SELECT restore_pipeline('kept', :kept_id) IS NOT NULL;
SELECT g, array_agg(l ORDER BY l) FROM kept GROUP BY g ORDER BY g;
SELECT resume_pipeline('kept');
SELECT checkpoint();
SELECT g, array_agg(l ORDER BY l) FROM kept GROUP BY g ORDER BY g;
-- another query
SELECT alter_pipeline('kept', query => 'SELECT g, lag(id, 2) OVER (PARTITION BY g ORDER BY id) AS l FROM s WHERE i > 1');
SELECT alter_pipeline('kept', query => 'SELECT g, lag(id) OVER (PARTITION BY g ORDER BY id) + 1 AS l FROM s WHERE i > 1');
SELECT * FROM explain_pipeline('kept') e WHERE e !~ '->|State|Rows|Filter|Scan|osition';

-- expressions over several of them
SELECT create_pipeline('divided', 'SELECT id, 10 / sum(i) OVER (ORDER BY id ROWS 1 PRECEDING) AS s, 12 / lag(i) OVER (ORDER BY id) AS l FROM s WHERE id BETWEEN 50 AND 60');
INSERT INTO live.s (id, i) VALUES (50, 1), (51, 2);
SELECT checkpoint();
SELECT * FROM divided ORDER BY id;

-- what is not supported
CREATE FUNCTION public.refused(query text, emit text DEFAULT 'changes', on_error text DEFAULT 'stop', ttl interval DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    PERFORM create_pipeline('refused', query, emit => emit, on_error => on_error, state_ttl => ttl);
    PERFORM drop_pipeline('refused');
    RETURN 'supported';
EXCEPTION WHEN feature_not_supported OR data_exception THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ' ' || SQLERRM || E'\n' || hint;
END $$;
SELECT refused('SELECT id, sum(i) OVER (PARTITION BY g) FROM s');
SELECT refused('SELECT id, sum(i) OVER (ORDER BY id ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) FROM s');
SELECT refused('SELECT id, sum(i) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING) FROM s');
SELECT refused('SELECT id, sum(i) OVER (ORDER BY id RANGE 3 PRECEDING) FROM s');
SELECT refused('SELECT id, sum(i) OVER (ORDER BY id GROUPS 3 PRECEDING) FROM s');
SELECT refused('SELECT id, sum(i) OVER (ORDER BY id ROWS 3 PRECEDING EXCLUDE TIES) FROM s');
SELECT refused('SELECT id, sum(i) OVER (ORDER BY id ROWS -1 PRECEDING) FROM s');
SELECT refused('SELECT id, string_agg(t, '''') OVER (ORDER BY id) FROM s');
SELECT refused('SELECT id, ntile(4) OVER (ORDER BY id) FROM s');
SELECT refused('SELECT id, lag(i, g) OVER (ORDER BY id) FROM s');
SELECT refused('SELECT id, nth_value(i, 0) OVER (ORDER BY id) FROM s');
SELECT refused('SELECT id, lag(i) OVER (ORDER BY id), rank() OVER (ORDER BY id) FROM s');
SELECT refused('SELECT id, lag(i) OVER (ORDER BY id) FROM s', emit => 'final');
SELECT refused('SELECT id, lag(i) OVER (ORDER BY id) FROM s', on_error => 'dead_letter');
SELECT refused('SELECT id, lag(i) OVER (ORDER BY id) FROM s', ttl => '1 h');
SELECT refused('SELECT id, lag(i) OVER (ORDER BY id) + random() FROM s');

SET client_min_messages = warning;
SELECT count(drop_pipeline(pipeline)) FROM pipelines;
DROP SCHEMA live, oracle CASCADE;
DROP FUNCTION compare, more, refused;
DROP TABLE tried;
