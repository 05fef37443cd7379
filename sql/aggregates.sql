-- Aggregates: what PostgreSQL gives over a table, kept over a stream.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA live;
CREATE SCHEMA oracle;
CREATE TABLE oracle.s (g int, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric, t text, b bool, d date, ts timestamptz,
                       iv interval, m money, bits bit(8), ip inet, lsn pg_lsn, r int4range, arr int[]);
SELECT format('CREATE FOREIGN TABLE live.s (%s) SERVER stream_ckpt', string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)) AS ddl
FROM pg_attribute WHERE attrelid = 'oracle.s'::regclass AND attnum > 0 \gset
:ddl;
CREATE AGGREGATE public.product (float8) (sfunc = float8mul, stype = float8, initcond = '1');
CREATE FUNCTION public.keep_first(anyelement, anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1';
CREATE AGGREGATE public.first (anyelement) (sfunc = public.keep_first, stype = anyelement);
CREATE FUNCTION public.collect(text[], text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN $1 || $2; END$$;
CREATE FUNCTION public.joined(text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT array_to_string($1, ',', '*')$$;
CREATE AGGREGATE public.list (text) (sfunc = public.collect, stype = text[], initcond = '{}', finalfunc = public.joined);

-- name, and the query; run over the stream and over the table
CREATE TABLE public.tried (name text, query text);
INSERT INTO public.tried VALUES
    ('counts', 'SELECT g, count(*), count(i4) AS c4, count(t) AS ct, count((i4, t)) AS cr FROM s GROUP BY g'),
    ('sums', 'SELECT g, sum(i2) AS s2, sum(i4) AS s4, sum(i8) AS s8, sum(n) AS sn, sum(iv) AS siv, sum(m) AS sm FROM s GROUP BY g'),
    ('float_sums', 'SELECT g, sum(f4) AS s4, sum(f8) AS s8, avg(f4) AS a4, avg(f8) AS a8 FROM s GROUP BY g'),
    ('averages', 'SELECT g, avg(i2) AS a2, avg(i4) AS a4, avg(i8) AS a8, avg(n) AS an, avg(iv) AS aiv FROM s GROUP BY g'),
    ('minima', 'SELECT g, min(i2) AS i2, min(i4) AS i4, min(i8) AS i8, min(f4) AS f4, min(f8) AS f8, min(n) AS n, min(t) AS t, min(d) AS d, min(ts) AS ts, min(iv) AS iv, min(m) AS m, min(ip) AS ip, min(lsn) AS lsn, min(arr) AS arr FROM s GROUP BY g'),
    ('maxima', 'SELECT g, max(i2) AS i2, max(i4) AS i4, max(i8) AS i8, max(f4) AS f4, max(f8) AS f8, max(n) AS n, max(t) AS t, max(d) AS d, max(ts) AS ts, max(iv) AS iv, max(m) AS m, max(ip) AS ip, max(lsn) AS lsn, max(arr) AS arr FROM s GROUP BY g'),
    ('bits', 'SELECT g, bit_and(i2) AS a2, bit_or(i4) AS o4, bit_xor(i8) AS x8, bit_and(bits) AS ab, bit_or(bits) AS ob, bit_xor(bits) AS xb FROM s GROUP BY g'),
    ('bools', 'SELECT g, bool_and(b) AS ba, bool_or(b) AS bo, every(b) AS e FROM s GROUP BY g'),
    ('spread', 'SELECT g, round(stddev(i4), 6) AS s4, round(variance(n), 6) AS vn, round(stddev_pop(i8), 6) AS p8, round(var_samp(i2), 6) AS v2, round(var_pop(n), 6) AS vp, round(stddev_samp(n), 6) AS ss FROM s GROUP BY g'),
    ('regression', 'SELECT g, regr_count(f8, i4) AS c, round(regr_slope(f8, i4)::numeric, 6) AS s, round(regr_intercept(f8, i4)::numeric, 6) AS i, round(regr_avgx(f8, i4)::numeric, 6) AS ax, round(regr_avgy(f8, i4)::numeric, 6) AS ay, round(regr_sxx(f8, i4)::numeric, 6) AS sxx, round(regr_sxy(f8, i4)::numeric, 6) AS sxy FROM s GROUP BY g'),
    ('ranges', 'SELECT g, range_intersect_agg(r) AS ri FROM s GROUP BY g'),
    ('filters', 'SELECT g, count(*) FILTER (WHERE i4 > 0) AS pos, sum(n) FILTER (WHERE b) AS sb, max(t) FILTER (WHERE false) AS never, avg(i4) FILTER (WHERE t IS NULL) AS ant FROM s GROUP BY g'),
    ('having', 'SELECT g, count(*) FROM s GROUP BY g HAVING count(*) % 2 = 0 AND min(i4) IS NOT NULL'),
    ('expressions', 'SELECT g % 3 AS k, count(*) * 100 + coalesce(sum(i4), 0) AS x, max(i4) - min(i4) AS spread, upper(max(t)) || g % 3 AS label, CASE WHEN count(*) > 10 THEN ''many'' ELSE ''few'' END AS c FROM s GROUP BY g % 3'),
    ('several_keys', 'SELECT t, b, d, count(*), sum(i4) AS s FROM s GROUP BY t, b, d'),
    ('expression_keys', 'SELECT date_trunc(''hour'', ts) AS h, length(t) AS l, i4 > 0 AS p, count(*) FROM s GROUP BY 1, 2, 3'),
    ('no_group', 'SELECT count(*), sum(n) AS n, max(ts) AS ts, min(t) AS t FROM s'),
    ('no_group_filter', 'SELECT count(*) FROM s WHERE i4 > 1000000'),
    ('user_sql', 'SELECT g, first(t) AS first FROM s GROUP BY g'),
    ('user_plpgsql', 'SELECT g, list(t) AS list FROM s GROUP BY g'),
    ('user_float', 'SELECT g, product(1.0 + g) AS p FROM s GROUP BY g'),
    ('variadic', 'SELECT g, count(*) FROM s WHERE i4 = ANY (arr) OR arr IS NULL GROUP BY g'),
    ('same_twice', 'SELECT g, sum(i4) AS a, sum(i4) AS b, avg(i4) AS c, sum(i4) + avg(i4) AS d FROM s GROUP BY g');

SET search_path = live, public;
SELECT count(stream_ckpt.create_pipeline(name, query)) FROM tried;
SELECT stream_ckpt.checkpoint();

CREATE FUNCTION public.compare(name text, query text) RETURNS text LANGUAGE plpgsql SET search_path = oracle, public AS $$
DECLARE
    missing bigint;
    extra bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM (%s EXCEPT ALL TABLE live.%I) x', query, name) INTO missing;
    EXECUTE format('SELECT count(*) FROM (TABLE live.%I EXCEPT ALL %s) x', name, query) INTO extra;
    RETURN CASE WHEN missing + extra = 0 THEN 'equal' ELSE format('%s missing, %s extra', missing, extra) END;
END $$;
SELECT name, compare(name, query) FROM tried ORDER BY name;

-- values whose float sums are exact in any order
CREATE FUNCTION public.more(first int, last int) RETURNS void LANGUAGE sql AS $$
INSERT INTO oracle.s
SELECT nullif(i % 7, 6), i % 100, nullif(i * 37 % 1001 - 500, 0), i * 1000003::bigint, i % 16 * 0.25, nullif(i % 64, 63) * 0.125, round(i / 7.0, i % 5),
       nullif('t' || i % 5, 't4'), nullif(i % 3, 2)::bool, date '2024-01-01' + i % 4, '2024-01-01 00:00Z'::timestamptz + i * interval '17 min',
       i * interval '1 min', i::text::money, (i % 256)::bit(8), '10.0.0.0'::inet + i, '0/0'::pg_lsn + i, int4range(i % 7, 1000 - i), nullif(array[i, i * 37 % 1001 - 500], array[0, -500])
FROM generate_series(first, last) i
$$;
SELECT more(1, 150);
INSERT INTO live.s SELECT * FROM oracle.s;
SELECT stream_ckpt.checkpoint();
SELECT name, compare(name, query) FROM tried ORDER BY name;
-- in a second round of small transactions
SELECT more(151, 200);
DO $$
DECLARE
    row oracle.s;
BEGIN
    FOR row IN SELECT * FROM oracle.s WHERE i8 > 150 * 1000003::bigint ORDER BY i8 LOOP
        INSERT INTO live.s SELECT row.*;
        COMMIT;
    END LOOP;
END $$;
SELECT stream_ckpt.checkpoint();
SELECT name, compare(name, query) FROM tried WHERE compare(name, query) <> 'equal' ORDER BY name;

-- a look at some by eye
SELECT g, s2, s4, s8, sn, siv FROM sums ORDER BY g;
SELECT * FROM "having" ORDER BY g;
SELECT * FROM user_plpgsql WHERE g = 5;
SELECT * FROM expressions ORDER BY k;

SET client_min_messages = warning;
DROP SCHEMA live, oracle CASCADE;
DROP TABLE tried;
DROP AGGREGATE product(float8);
DROP AGGREGATE first(anyelement);
DROP AGGREGATE list(text);
DROP FUNCTION keep_first, collect, joined, compare, more;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
