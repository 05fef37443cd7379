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
