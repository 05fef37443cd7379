-- Aggregates over sets of values: DISTINCT, ORDER BY, WITHIN GROUP.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA live;
CREATE SCHEMA oracle;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
CREATE TABLE oracle.s (id int, g int, i int, n numeric, f float8, t text, b bool, d date, iv interval, arr int[], p point, x xml, j json);
CREATE FOREIGN TABLE live.s (id int, g int, i int, n numeric, f float8, t text, b bool, d date, iv interval, arr int[], p point, x xml, j json) SERVER stream_ckpt;
CREATE TABLE public.dim (di int, label text);
INSERT INTO public.dim SELECT i, 'l' || i % 3 FROM generate_series(0, 20) i;

-- name and query; run over the stream and over the table
CREATE TABLE public.tried (name text, query text);
INSERT INTO public.tried VALUES
    ('counts', 'SELECT g, count(DISTINCT i) AS i, count(DISTINCT n) AS n, count(DISTINCT f) AS f, count(DISTINCT t) AS t, count(DISTINCT b) AS b, count(DISTINCT d) AS d, count(DISTINCT iv) AS iv, count(DISTINCT arr) AS arr FROM s GROUP BY g'),
    ('sums', 'SELECT g, sum(DISTINCT i) AS si, avg(DISTINCT i) AS ai, sum(DISTINCT n) AS sn, avg(DISTINCT n) AS an, sum(DISTINCT f) FILTER (WHERE f <> ''NaN'') AS sf, sum(DISTINCT iv) AS siv, round(stddev(DISTINCT i), 6) AS sd FROM s GROUP BY g'),
    ('extremes', 'SELECT g, min(DISTINCT i) AS ni, max(DISTINCT i) AS xi, min(DISTINCT t) AS nt, max(DISTINCT t) AS xt, min(DISTINCT n) AS nn, max(DISTINCT f) AS xf, bool_and(DISTINCT b) AS b FROM s GROUP BY g'),
    ('arrays', 'SELECT g, array_agg(DISTINCT i) AS i, array_agg(DISTINCT n) AS n, array_agg(DISTINCT t) AS t, array_agg(DISTINCT b) AS b, string_agg(DISTINCT t, ''+'') AS st, jsonb_agg(DISTINCT d) AS d, array_agg(DISTINCT iv) AS iv FROM s GROUP BY g'),
    ('arrays_ordered', 'SELECT g, array_agg(DISTINCT i ORDER BY i DESC) AS i, array_agg(DISTINCT t ORDER BY t NULLS FIRST) AS t, array_agg(DISTINCT n ORDER BY n) AS n, string_agg(DISTINCT t, ''+'' ORDER BY t DESC) AS st FROM s GROUP BY g'),
    ('collations', 'SELECT g, count(DISTINCT t COLLATE "C") AS c, array_agg(DISTINCT t COLLATE "POSIX" ORDER BY t COLLATE "POSIX" DESC) AS a, string_agg(t, '''' ORDER BY t COLLATE "C" DESC, id) AS s FROM s GROUP BY g'),
    ('filters', 'SELECT g, count(*) AS n, count(*) FILTER (WHERE i < 5) AS n5, count(*) FILTER (WHERE i >= 5) AS n9, count(DISTINCT t) AS t, count(DISTINCT t) FILTER (WHERE i < 5) AS t5, count(DISTINCT t) FILTER (WHERE i >= 5) AS t9, count(DISTINCT d) AS d, count(DISTINCT d) FILTER (WHERE i < 5) AS d5, count(DISTINCT d) FILTER (WHERE i >= 5) AS d9, sum(DISTINCT n) FILTER (WHERE b) AS s, array_agg(DISTINCT t) FILTER (WHERE b IS NULL) AS a, count(DISTINCT i) FILTER (WHERE false) AS never FROM s GROUP BY g'),
    ('several', 'SELECT g, regr_count(DISTINCT f, i) AS c, round(regr_sxy(DISTINCT i % 3, i % 2)::numeric, 6) AS r, jsonb_object_agg(DISTINCT t, i) FILTER (WHERE t IS NOT NULL) AS o, string_agg(DISTINCT t, d::text ORDER BY t, d::text) AS s FROM s GROUP BY g'),
    ('ordered', 'SELECT g, string_agg(t, '','' ORDER BY i DESC NULLS LAST, id) AS s, array_agg(i ORDER BY t, id) AS i, array_agg(id ORDER BY b DESC, t NULLS FIRST, id) AS ids, (array_agg(t ORDER BY id DESC))[1] AS last, jsonb_agg(n ORDER BY id) AS n, array_agg(iv ORDER BY iv, id) FILTER (WHERE i % 2 = 1) AS iv FROM s GROUP BY g'),
    ('ordered_plain', 'SELECT g, sum(i ORDER BY id) AS s, count(t ORDER BY t) AS c, max(n ORDER BY n) AS m FROM s GROUP BY g'),
    ('ordered_sets', 'SELECT g, percentile_cont(0.5) WITHIN GROUP (ORDER BY f) AS pf, percentile_cont(0.3) WITHIN GROUP (ORDER BY i DESC) AS pi, percentile_cont(0.25) WITHIN GROUP (ORDER BY iv) AS piv, percentile_disc(0.5) WITHIN GROUP (ORDER BY t) AS pt, percentile_disc(0.9) WITHIN GROUP (ORDER BY n DESC) AS pn, percentile_disc(0) WITHIN GROUP (ORDER BY d) AS pd, mode() WITHIN GROUP (ORDER BY t) AS mt, mode() WITHIN GROUP (ORDER BY i DESC) FILTER (WHERE b) AS mi, percentile_disc(NULL) WITHIN GROUP (ORDER BY i) AS none FROM s GROUP BY g'),
    ('expressions', 'SELECT g % 2 AS k, count(DISTINCT i % 5) AS m, count(DISTINCT upper(t)) + count(DISTINCT t) AS u, string_agg(upper(t), lower(t) ORDER BY id) AS s, count(DISTINCT coalesce(t, i::text)) AS c, array_agg(DISTINCT i / 2 ORDER BY i / 2) AS a FROM s GROUP BY g % 2'),
    ('no_group', 'SELECT count(DISTINCT i) AS i, sum(DISTINCT n) AS n, string_agg(t, '','' ORDER BY id) AS s, mode() WITHIN GROUP (ORDER BY t) AS m, percentile_cont(0.5) WITHIN GROUP (ORDER BY i) AS p FROM s'),
    ('having', 'SELECT g, count(DISTINCT t) AS t FROM s WHERE i > 1 GROUP BY g HAVING count(DISTINCT i) % 2 = 0 AND max(i ORDER BY i) > 3'),
    ('joined', 'SELECT label, count(DISTINCT g) AS g, array_agg(DISTINCT label || t) AS a FROM s LEFT JOIN dim ON di = i GROUP BY label');
-- more than fit one set's marks
INSERT INTO public.tried SELECT 'many', format('SELECT g, %s FROM s GROUP BY g', string_agg(format('count(DISTINCT i) FILTER (WHERE i %% 3 < 2 AND i >= %s) AS c%1$s, sum(DISTINCT i) FILTER (WHERE i < %1$s) AS s%1$s', n), ', ')) FROM generate_series(1, 45) n;

SET search_path = live, public, stream_ckpt;
SELECT count(create_pipeline(name, query)) FROM tried;
SELECT checkpoint();
CREATE FUNCTION public.compare(name text, query text) RETURNS text LANGUAGE plpgsql SET search_path = oracle, public AS $$
DECLARE
    missing bigint;
    extra bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM (%s EXCEPT ALL TABLE live.%I) x', query, name) INTO missing;
    EXECUTE format('SELECT count(*) FROM (TABLE live.%I EXCEPT ALL %s) x', name, query) INTO extra;
    RETURN CASE WHEN missing + extra = 0 THEN 'equal' ELSE format('%s missing, %s extra', missing, extra) END;
END $$;
SELECT name, compare(name, query) FROM tried WHERE compare(name, query) <> 'equal';
TABLE no_group;

CREATE FUNCTION public.more(first int, last int) RETURNS void LANGUAGE sql AS $$
INSERT INTO oracle.s
SELECT i, nullif(i % 5, 4), nullif(i * 7 % 11, 10) + i / 100, round(i * 3 % 8 / 2.0, i % 3), CASE i % 9 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' WHEN 2 THEN 0 WHEN 3 THEN NULL ELSE i % 9 * 0.5 END,
       nullif(CASE WHEN i % 2 = 0 THEN 'T' ELSE 't' END || i % 6, 'T4'), nullif(i % 3, 2)::bool, date '2024-01-01' + i % 4, nullif(i % 7, 6) * interval '1 hour' + CASE i % 2 WHEN 0 THEN interval '1 day' ELSE interval '24 hours' END,
       nullif(array[i % 3, i % 2], array[0, 0]), point(i, i), 'x', '1'
FROM generate_series(first, last) i
$$;
SELECT more(1, 150);
INSERT INTO live.s SELECT * FROM oracle.s ORDER BY id * 37 % 151;
SELECT checkpoint();
SELECT name, compare(name, query) FROM tried ORDER BY name;
-- in small transactions, with checkpoints in between, each value again and some new ones
SELECT more(151, 260);
DO $$
BEGIN
    FOR number IN 151 .. 260 LOOP
        INSERT INTO live.s SELECT * FROM oracle.s WHERE id = number;
        COMMIT;
        IF number % 50 = 0 THEN
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
SELECT checkpoint();
SELECT name, compare(name, query) FROM tried WHERE compare(name, query) <> 'equal' ORDER BY name;

-- a look at some by eye
SELECT * FROM counts ORDER BY g;
SELECT g, i, t, st FROM arrays WHERE g = 1;
SELECT g, pf, pi, piv, pt, mt, none FROM ordered_sets ORDER BY g;
SELECT g, n, t, t5, t9, never FROM filters ORDER BY g;
-- 1.0 and 1.00 are one value to DISTINCT, as are 1 day and 24 hours: one of them, whichever came first; without DISTINCT each counts as it is
CREATE FUNCTION public.calls_of(pipeline text) RETURNS SETOF text LANGUAGE sql AS $$SELECT trim(line) FROM stream_ckpt.explain_pipeline(pipeline) line WHERE line ~ 'Aggregate:'$$;
SELECT create_pipeline('first', 'SELECT g, array_agg(DISTINCT n ORDER BY n) AS n, array_agg(DISTINCT iv ORDER BY iv) AS iv, mode() WITHIN GROUP (ORDER BY n) AS m FROM s GROUP BY g');
INSERT INTO live.s (g, n, iv) VALUES (1, 2.00, '1 day'), (1, 1.0, '24 hours'), (1, 2, '1 hour'), (1, 1.00, '60 min'), (2, 1.000, '24 hours'), (2, 1, '1 day');
SELECT checkpoint();
SELECT * FROM first ORDER BY g;
SELECT calls_of('sums') LIMIT 2;

-- refused by name
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
SELECT refused(format('SELECT g, %s AS c FROM s GROUP BY g', call)) FROM unnest(ARRAY[
    'rank(3) WITHIN GROUP (ORDER BY i)', 'dense_rank(3) WITHIN GROUP (ORDER BY i)', 'cume_dist(3) WITHIN GROUP (ORDER BY i)',
    'percentile_cont(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY f)', 'percentile_disc(ARRAY[0.1]) WITHIN GROUP (ORDER BY i)',
    'percentile_cont(g / 5.0) WITHIN GROUP (ORDER BY f)', 'percentile_cont(1.5) WITHIN GROUP (ORDER BY f)', 'percentile_disc(-0.1) WITHIN GROUP (ORDER BY f)',
    'array_agg(i)', 'string_agg(t, '','')', 'json_agg(i)', 'array_agg(p ORDER BY id)', 'json_agg(j ORDER BY id)', 'xmlagg(x ORDER BY id)',
    'count(DISTINCT (i, t))', 'array_agg(id ORDER BY random())', 'count(DISTINCT i + random())']) call;

SET client_min_messages = warning;
DROP SCHEMA live, oracle CASCADE;
DROP TABLE tried, dim;
DROP FUNCTION more, compare, calls_of, refused;
SELECT count(*) AS pipelines FROM pipelines;
