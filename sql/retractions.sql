-- Aggregates over rows that change: what each keeps, and that it is what plain SQL gives, to the last digit.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA live;
CREATE SCHEMA oracle;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET lc_monetary = 'C';
CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN public.small AS int CHECK (VALUE < 1000);
CREATE TABLE oracle.s (id int, k int, i2 int2, i int, l int8, n numeric, f float8, t text, b bool, iv interval, m money, e mood, a int[], d small, o oid, j json, p point);
CREATE FOREIGN TABLE live.s (id int, k int, i2 int2, i int, l int8, n numeric, f float8, t text, b bool, iv interval, m money, e mood, a int[], d small, o oid, j json, p point) SERVER stream_ckpt;

-- aggregates of users: an inverse that gives up at odd numbers; one that is never to be used, as it drifts; strict without a first value; of any type
CREATE FUNCTION public.gives_up(int8, int) RETURNS int8 LANGUAGE sql IMMUTABLE STRICT AS 'SELECT CASE WHEN $2 % 2 = 0 THEN $1 - $2 END';
CREATE AGGREGATE public.moody_sum(int) (sfunc = int84pl, stype = int8, initcond = '0', msfunc = int84pl, minvfunc = gives_up, mstype = int8, minitcond = '0');
CREATE AGGREGATE public.drifting(float8) (sfunc = float8pl, stype = float8, msfunc = float8pl, minvfunc = float8mi, mstype = float8);
CREATE AGGREGATE public.total(int8) (sfunc = int8pl, stype = int8, msfunc = int8pl, minvfunc = int8mi, mstype = int8);
CREATE FUNCTION public.pushed(anycompatiblearray, anycompatible) RETURNS anycompatiblearray LANGUAGE sql IMMUTABLE AS 'SELECT array_append($1, $2)';
CREATE FUNCTION public.popped(anycompatiblearray, anycompatible) RETURNS anycompatiblearray LANGUAGE sql IMMUTABLE AS
    'SELECT (array_remove($1, $2) || array_fill($2, ARRAY[cardinality($1) - cardinality(array_remove($1, $2)) - 1]))';
CREATE FUNCTION public.in_order(anycompatiblearray) RETURNS anycompatiblearray LANGUAGE sql IMMUTABLE AS 'SELECT array_agg(x ORDER BY x) FROM unnest($1) x';
CREATE AGGREGATE public.bag(anycompatible) (sfunc = pushed, stype = anycompatiblearray, finalfunc = in_order, initcond = '{}',
    msfunc = pushed, minvfunc = popped, mstype = anycompatiblearray, mfinalfunc = in_order, minitcond = '{}');
CREATE FUNCTION public.null_now(int8, int8) RETURNS int8 LANGUAGE sql IMMUTABLE AS 'SELECT CASE WHEN $2 < 100 THEN $1 + $2 END';
CREATE FUNCTION public.null_never(int8, int8) RETURNS int8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 - $2';
CREATE AGGREGATE public.fickle(int8) (sfunc = int8pl, stype = int8, initcond = '0', msfunc = null_now, minvfunc = null_never, mstype = int8, minitcond = '0');

-- The last row of each key, while it is there: a third of the keys is taken out now and then.
CREATE TABLE public.tried (name text, query text);
INSERT INTO public.tried SELECT name, format('WITH x AS (SELECT k %% 3 AS g, k, count(*) AS c, max(id) AS id, %s FROM s GROUP BY k HAVING count(*) %% 3 <> 0 OR k %% 2 = 0) ',
    (SELECT string_agg(format('(array_agg(%1$s ORDER BY id DESC))[1] AS %1$s', c), ', ') FROM unnest('{i2,i,l,n,f,t,b,iv,m,e,d,o,j,p}'::text[]) c)) || query
FROM (VALUES
    ('integers', 'SELECT g, count(*) AS c, count(i2) AS ci, sum(i2) AS s2, sum(i) AS s4, sum(l) AS s8, avg(i2) AS a2, avg(i) AS a4, avg(l) AS a8, sum(c) AS sc FROM x GROUP BY g'),
    ('numerics', 'SELECT g, sum(n) AS s, avg(n) AS a, variance(n) AS v, stddev_pop(n) AS d, sum(n) FILTER (WHERE i > 0) AS f FROM x GROUP BY g'),
    ('deviations', 'SELECT g, variance(i2) AS v2, stddev(i) AS d4, var_pop(l) AS v8, stddev_samp(l) AS s8 FROM x GROUP BY g'),
    ('others', 'SELECT g, sum(iv) AS i, avg(iv) AS ai, sum(m) AS m, sum(f) AS f, avg(f) AS af, bool_and(b) AS ba, bool_or(b) AS bo, every(b OR i > 0) AS e, bit_and(i) AS an, bit_or(l) AS o, bit_xor(i) AS x FROM x GROUP BY g'),
    ('extremes', 'SELECT g, min(i) AS i, max(l) AS l, max(f) AS f, min(t) AS t, max(t COLLATE "C") AS tc, min(e) AS e, max(e) AS me, max(d) AS d, min(o) AS o, max(ARRAY[i, i2]) AS a, min(m) AS m, max(k) FILTER (WHERE b) AS k FROM x GROUP BY g'),
    ('all_of_them', 'SELECT count(*) AS c, sum(n) AS n, min(i) AS lo, max(i) AS hi, avg(l) AS a, array_agg(n ORDER BY k) AS ns, count(DISTINCT i2) AS d, sum(DISTINCT i) AS sd FROM x'),
    ('any_type', 'SELECT g, array_agg(p ORDER BY id) AS p, json_agg(j ORDER BY id) AS j, string_agg(t, ''-'' ORDER BY t, id) AS t FROM x GROUP BY g'),
    ('of_users', 'SELECT g, moody_sum(i) AS m, drifting(f) AS d, total(l) AS t, bag(i) AS b, bag(t) AS bt, moody_sum(i) FILTER (WHERE b) AS mf FROM x GROUP BY g'),
    ('three', 'SELECT count(*) AS c, sum(s) AS s, max(hi) AS hi, avg(a) AS a FROM (SELECT g, sum(n) AS s, max(i) AS hi, avg(i) AS a FROM x GROUP BY g HAVING min(i) < 0) y'),
    ('had', 'SELECT g, sum(i) AS s FROM x WHERE i > -3 GROUP BY g HAVING sum(n) > avg(i)')) queries (name, query);

SET search_path = live, public, stream_ckpt;
INSERT INTO tried SELECT name || '_by_4', query FROM tried WHERE name IN ('integers', 'numerics', 'extremes', 'three');
SELECT count(create_pipeline(name, query, parallelism => CASE WHEN name ~ '_by_4' THEN 4 ELSE 1 END)) FROM tried;
SELECT format('%s: %s', tried.name, trim(line)) AS kept FROM tried, explain_pipeline(tried.name) line
WHERE line ~ 'Aggregate:' AND tried.name IN ('integers', 'numerics', 'deviations', 'others', 'extremes', 'of_users') AND line !~ 'array_agg' AND line !~ 'max.integer.$' ORDER BY tried.name, line;
CREATE FUNCTION public.more(first int, last int) RETURNS void LANGUAGE sql AS $$
INSERT INTO oracle.s
SELECT id, h % 23, h % 7 - 3, nullif(h % 11 - 5, 2), (h % 1009 - 500) * 9000000000000,
       CASE WHEN h % 13 = 0 THEN NULL WHEN h % 97 = 0 THEN 'NaN' ELSE round((h % 1000 - 300) / 7.0, CASE WHEN h % 17 = 0 THEN 4 + h % 5 ELSE h % 3 END) END,
       (h % 41 - 20) * 0.25, nullif(left(md5(h::text), 2), 'a1'), nullif(h % 6, 5) > 2, CASE WHEN h % 3 = 0 THEN '1 day' WHEN h % 3 = 1 THEN '24:00' ELSE '1 mon -2:13' END::interval * (h % 5),
       (h % 100 / 4.0)::numeric::money, (enum_range(NULL::mood))[h % 4], ARRAY[h % 2, h % 3], h % 900, 4294967290::oid, to_json(h % 3), point(h % 3, 1)
FROM generate_series(first, last) id, LATERAL (SELECT abs(hashint4(id)) AS h) x
$$;
-- By how rows look. Different: whatever it is, in a few words.
CREATE FUNCTION public.compare(name text, query text) RETURNS text LANGUAGE plpgsql SET search_path = oracle, public, stream_ckpt AS $$
DECLARE different text;
BEGIN
    EXECUTE format('SELECT string_agg(x, E''\n'') FROM ((SELECT ''missing '' || q::text AS x FROM (SELECT q::text FROM (%1$s) q EXCEPT ALL SELECT q::text FROM live.%2$I q) q)
        UNION ALL (SELECT ''extra '' || q::text FROM (SELECT q::text FROM live.%2$I q EXCEPT ALL SELECT q::text FROM (%1$s) q) q)) x', query, name) INTO different;
    RETURN coalesce(different, 'equal');
END $$;
CREATE VIEW public.compared AS SELECT name, compare(name, query) FROM tried ORDER BY name;
SELECT checkpoint();
SELECT * FROM compared WHERE compare <> 'equal';
CREATE PROCEDURE public.rounds(first int, last int, step int, again bool) LANGUAGE plpgsql AS $$
DECLARE
    at int = first;
    wrong text;
BEGIN
    WHILE at < last LOOP
        PERFORM more(at, at + step - 1);
        INSERT INTO live.s SELECT * FROM oracle.s WHERE id BETWEEN at AND at + step - 1 ORDER BY id * 37 % 101;
        COMMIT;
        PERFORM stream_ckpt.checkpoint();
        COMMIT;
        SELECT string_agg(format('%s at %s: %s', c.name, at, c.compare), E'\n') INTO wrong FROM compared c WHERE c.compare <> 'equal';
        IF wrong IS NOT NULL THEN
            RAISE EXCEPTION '%', wrong;
        END IF;
        at = at + step;
        IF again THEN
            PERFORM stream_ckpt.pause_pipeline(pipeline) FROM stream_ckpt.pipelines;
            COMMIT;
            PERFORM stream_ckpt.resume_pipeline(pipeline) FROM stream_ckpt.pipelines;
            COMMIT;
        END IF;
    END LOOP;
END $$;
CALL rounds(1, 30, 1, false);
CALL rounds(31, 630, 40, false);
-- from stored state each time
CALL rounds(631, 750, 20, true);
SELECT count(*) AS rows, bool_and(c > 0) AS filled FROM integers;
SELECT checkpoint();
SELECT pipeline, error, restarts FROM pipelines WHERE error IS NOT NULL OR status <> 'running';
-- groups that are empty, and come back: a key is there while it has an odd number of rows
SELECT create_pipeline('emptied', 'SELECT g, count(n) AS c, sum(n) AS s, avg(n) AS a, min(n) AS lo, max(n) AS hi, sum(v) AS v FROM (SELECT k, k % 2 AS g, sum(n) AS n, sum(i) AS v FROM s GROUP BY k HAVING count(*) % 2 = 1) x GROUP BY g');
SELECT count(checkpoint('emptied'));
INSERT INTO live.s (k, n, i) VALUES (1, 1.50, 1), (2, 2.5, NULL), (2, 0, 2), (2, 0.25, 3);
SELECT count(checkpoint('emptied'));
TABLE emptied ORDER BY g;
INSERT INTO live.s (k, n, i) VALUES (1, 1, 1);
SELECT count(checkpoint('emptied'));
TABLE emptied ORDER BY g;
INSERT INTO live.s (k, n, i) VALUES (1, NULL, 1), (2, 0, 0);
SELECT count(checkpoint('emptied'));
TABLE emptied ORDER BY g;
SELECT pipeline, state_rows FROM pipelines WHERE pipeline = 'emptied';
INSERT INTO live.s (k, n, i) VALUES (3, NULL, NULL), (2, 0.125, 0);
SELECT count(checkpoint('emptied'));
TABLE emptied ORDER BY g;
SELECT drop_pipeline('emptied');
-- a query that is changed goes on from what is stored
SELECT create_pipeline('changed', 'SELECT g, count(*) AS c, sum(i) AS si, sum(n) AS s, avg(n) AS an, max(i) AS hi FROM (SELECT k % 2 AS g, k, sum(n) AS n, sum(i) AS i FROM s GROUP BY k) x GROUP BY g');
INSERT INTO live.s (k, n, i) VALUES (1, 1.50, 1), (3, 2.25, 2), (2, 1.125, 3);
SELECT count(checkpoint('changed'));
SELECT alter_pipeline('changed', 'SELECT g, max(i) AS hi, avg(n) AS an, count(*) AS c, sum(n) AS s FROM (SELECT k % 2 AS g, k, sum(n) AS n, sum(i) AS i FROM s GROUP BY k) x GROUP BY g');
INSERT INTO live.s (k, n, i) VALUES (1, 1, 4), (4, NULL, 9);
SELECT count(checkpoint('changed'));
TABLE changed ORDER BY g;
SELECT drop_pipeline('changed');
-- an aggregate whose moving form returns NULL, as in a window
SELECT create_pipeline('fickle', 'SELECT g, fickle(v) AS v FROM (SELECT k % 2 AS g, k, max(l) AS v FROM s GROUP BY k) x GROUP BY g');
INSERT INTO live.s (k, l) VALUES (1, 50), (2, 60);
SELECT count(checkpoint('fickle'));
TABLE fickle ORDER BY g;
INSERT INTO live.s (k, l) VALUES (1, 100);
SELECT count(checkpoint('fickle'));
SELECT status, error FROM pipelines WHERE pipeline = 'fickle';
SELECT drop_pipeline('fickle');
-- left out, with all that the row would have changed
SELECT create_pipeline('careful', 'SELECT g, sum(n) AS s, max(n) AS hi, fickle(v) AS v, avg(v) AS a, count(*) AS c FROM (SELECT k % 2 AS g, k, max(l) AS v, sum(n) AS n FROM s GROUP BY k) x GROUP BY g', on_error => 'dead_letter');
INSERT INTO live.s (k, l, n) VALUES (1, 50, 1.25), (2, 60, 2), (3, 10, 1.5);
SELECT count(checkpoint('careful'));
INSERT INTO live.s (k, l, n) VALUES (1, 100, 10.000), (2, 61, 0.5), (3, 20, 1), (5, 200, 1), (5, 1, 1);
SELECT count(checkpoint('careful'));
TABLE careful ORDER BY g;
SELECT stage, error FROM dead_letters WHERE pipeline = 'careful' ORDER BY 1, 2;
INSERT INTO live.s (k, l, n) VALUES (4, 1, -0.125), (3, 30, 1);
SELECT count(checkpoint('careful'));
TABLE careful ORDER BY g;
SELECT status, error FROM pipelines WHERE pipeline = 'careful';
SELECT drop_pipeline('careful');

SET client_min_messages = warning;
DROP VIEW compared;
DROP SCHEMA live, oracle CASCADE;
DROP TABLE tried;
DROP PROCEDURE rounds;
DROP FUNCTION more, compare;
DROP AGGREGATE moody_sum(int), drifting(float8), total(int8), bag(anycompatible), fickle(int8);
DROP FUNCTION gives_up, pushed, popped, in_order, null_now, null_never;
DROP TYPE mood;
DROP DOMAIN small;
SELECT count(*) AS pipelines FROM pipelines;
