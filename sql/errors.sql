-- What is not supported is refused at creation: the construct is named, and there is a hint.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA errors;
SET search_path = errors;
CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
SELECT stream_ckpt.create_stream('s', 'a int, b text, c float8, j json, x xml, pt point, ts timestamptz', event_time => 'ts');
SELECT stream_ckpt.create_stream('s2', 'a int, b text');
CREATE TABLE t (a int PRIMARY KEY, b text);
CREATE TABLE no_key (a int, n bigint);
CREATE FUNCTION srf(int) RETURNS SETOF int LANGUAGE sql AS 'SELECT generate_series(1, $1)';
CREATE AGGREGATE unstorable (bigint) (sfunc = int8_avg_accum, stype = internal, sspace = 128, finalfunc = numeric_poly_avg);

-- queries
CREATE TABLE refused (construct text, query text);
INSERT INTO refused VALUES
    ('nullable side, left', 'SELECT t.a, s.b FROM t LEFT JOIN s USING (a)'),
    ('nullable side, right', 'SELECT t.a, s.b FROM s RIGHT JOIN t USING (a)'),
    ('nullable side, full', 'SELECT t.a, s.b FROM s FULL JOIN t USING (a)'),
    ('nullable side, grouped', 'SELECT t.a, count(s.b) FROM t LEFT JOIN s USING (a) GROUP BY t.a'),
    ('order by', 'SELECT a FROM s ORDER BY a'),
    ('order by, grouped', 'SELECT a, count(*) FROM s GROUP BY a ORDER BY a'),
    ('offset', 'SELECT a FROM s OFFSET 10'),
    ('window function', 'SELECT a, row_number() OVER (PARTITION BY a) FROM s'),
    ('window over aggregate', 'SELECT a, sum(count(*)) OVER () FROM s GROUP BY a'),
    ('union all with a table', 'SELECT a FROM s UNION ALL SELECT a FROM t'),
    ('union', 'SELECT a FROM s UNION SELECT a FROM t'),
    ('except', 'SELECT a FROM s EXCEPT SELECT a FROM t'),
    ('intersect', 'SELECT a FROM s INTERSECT SELECT a FROM t'),
    ('aggregate distinct', 'SELECT a, count(DISTINCT b::money) FROM s GROUP BY a'),
    ('ordered-set aggregate', 'SELECT a, percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY c) FROM s GROUP BY a'),
    ('hypothetical-set aggregate', 'SELECT rank(1) WITHIN GROUP (ORDER BY a) FROM s'),
    ('array_agg', 'SELECT a, array_agg(b) FROM s GROUP BY a'),
    ('string_agg', 'SELECT a, string_agg(b, '','') FROM s GROUP BY a'),
    ('json_agg', 'SELECT a, json_agg(b) FROM s GROUP BY a'),
    ('jsonb_agg', 'SELECT a, jsonb_agg(b) FROM s GROUP BY a'),
    ('jsonb_object_agg', 'SELECT a, jsonb_object_agg(b, c) FROM s WHERE b IS NOT NULL GROUP BY a'),
    ('user aggregate', 'SELECT a, unstorable(a) FROM s GROUP BY a'),
    ('now() in where', 'SELECT a FROM s WHERE ts > now()'),
    ('clock_timestamp() in where', 'SELECT a FROM s WHERE ts > clock_timestamp()'),
    ('current_date in where', 'SELECT a FROM s WHERE ts::date = current_date'),
    ('now() in group by', 'SELECT date_trunc(''day'', now()) AS d, count(*) FROM s GROUP BY 1'),
    ('now() in having', 'SELECT a, max(ts) FROM s GROUP BY a HAVING max(ts) > now()'),
    ('grouping sets', 'SELECT a, b, count(*) FROM s GROUP BY GROUPING SETS ((a), (b))'),
    ('rollup', 'SELECT a, b, count(*) FROM s GROUP BY ROLLUP (a, b)'),
    ('cube', 'SELECT a, b, count(*) FROM s GROUP BY CUBE (a, b)'),
    ('for update', 'SELECT s.a FROM s JOIN t USING (a) FOR UPDATE OF t'),
    ('modifying cte', 'WITH i AS (INSERT INTO t VALUES (1) RETURNING a) SELECT s.a FROM s, i'),
    ('recursive cte', 'WITH RECURSIVE r AS (SELECT a FROM s UNION ALL SELECT a + 1 FROM r WHERE a < 3) SELECT a FROM r'),
    ('stream in where only', 'SELECT t.a FROM t WHERE t.a IN (SELECT a FROM s)'),
    ('stream in exists', 'SELECT t.a FROM t WHERE EXISTS (SELECT FROM s WHERE s.a = t.a)'),
    ('stream in not in', 'SELECT s.a FROM s WHERE (a, a, a, a) NOT IN (SELECT a, a, a, a FROM s2)'),
    ('stream in scalar sub-select', 'SELECT s.a, (SELECT a FROM s2 WHERE s2.a > s.a) FROM s'),
    ('table kept above an aggregate', 'SELECT t.a, q.n FROM t LEFT JOIN (SELECT a, count(*) AS n FROM s GROUP BY a) q USING (a)'),
    ('key not in select list', 'SELECT count(*) FROM s GROUP BY a'),
    ('key only in an expression', 'SELECT a + 1 AS a1, count(*) FROM s GROUP BY a'),
    ('no hash operator class', 'SELECT pt::text, count(*) FROM s GROUP BY pt'),
    ('set-returning over aggregate', 'SELECT a, generate_series(1, count(*)) FROM s GROUP BY a'),
    ('without a hash operator class', 'SELECT m, count(*) FROM (SELECT a::money AS m FROM s) q GROUP BY m');
SELECT construct, (t).*
FROM refused, LATERAL (SELECT try(format('SELECT stream_ckpt.create_pipeline(%L, %L)', 'p', query))) x(t)
ORDER BY construct COLLATE "C";

-- not queries, or not of a stream
TRUNCATE refused;
INSERT INTO refused VALUES
    ('no stream', 'SELECT a FROM t'),
    ('no table', 'SELECT 1 AS a'),
    ('insert', 'INSERT INTO t VALUES (1)'),
    ('two statements', 'SELECT a FROM s; SELECT a FROM s'),
    ('empty', ''),
    ('utility', 'VACUUM'),
    ('select into', 'SELECT a INTO u FROM s'),
    ('syntax', 'SELEKT a FROM s'),
    ('unknown relation', 'SELECT a FROM nosuch'),
    ('unknown column', 'SELECT nosuch FROM s'),
    ('parameter', 'SELECT a FROM s WHERE a = $1'),
    ('two columns of one name', 'SELECT a, b AS a FROM s'),
    ('system column', 'SELECT ctid FROM s'),
    ('pseudo-type', 'SELECT ROW(1, 2) AS r FROM s'),
    ('null query', NULL);
SELECT construct, (t).*
FROM refused, LATERAL (SELECT try(format('SELECT stream_ckpt.create_pipeline(%L, %L)', 'p', query))) x(t)
ORDER BY construct COLLATE "C";

-- options
SELECT option, (t).*
FROM (VALUES
    ($$emit => 'final'$$), ($$emit => 'sometimes'$$), ($$on_error => 'ignore'$$),
    ($$parallelism => 65$$), ($$parallelism => 0$$), ($$retained_checkpoints => 1001$$), ($$retained_checkpoints => 0$$),
    ($$state_ttl => '-1 day'$$), ($$allowed_lateness => '-1 s'$$),
    ($$checkpoint_interval => '0'$$), ($$checkpoint_interval => '-1 s'$$), ($$sink => 0$$), ($$sink => 's2'$$), ($$sink => 'no_key'$$),
    ($$emit => NULL$$), ($$parallelism => NULL$$)) v(option),
    LATERAL (SELECT try(format('SELECT stream_ckpt.create_pipeline(%L, %L, %s)', 'p', 'SELECT a, count(*) AS n FROM s GROUP BY a', option))) x(t);

-- names
SELECT stream_ckpt.create_pipeline('taken', 'SELECT a FROM s');
SELECT call, (try('SELECT stream_ckpt.' || call)).*
FROM (VALUES
    ($$create_pipeline('taken', 'SELECT a FROM s')$$),
    ($$create_pipeline('t', 'SELECT a FROM s')$$),
    ($$create_pipeline('s', 'SELECT a FROM s')$$),
    ($$create_pipeline('nowhere.p', 'SELECT a FROM s')$$),
    ($$create_pipeline('a.b.c.d', 'SELECT a FROM s')$$),
    ($$create_pipeline('', 'SELECT a FROM s')$$),
    ($$create_pipeline(NULL, 'SELECT a FROM s')$$),
    ($$drop_pipeline('nosuch')$$), ($$pause_pipeline('nosuch')$$), ($$resume_pipeline('nosuch')$$),
    ($$explain_pipeline('nosuch')$$), ($$checkpoint('nosuch')$$), ($$drop_pipeline(NULL)$$), ($$checkpoint(NULL::text)$$)) v(call);

-- temporary and other relations do not last
CREATE TEMP TABLE temporary (a int);
SELECT (try($$SELECT stream_ckpt.create_pipeline('p', 'SELECT s.a FROM s JOIN temporary USING (a)')$$)).*;
SELECT (try($$SELECT stream_ckpt.create_pipeline('pg_temp.p', 'SELECT s.a FROM s')$$)).*;

-- no trace is left of what was refused
SELECT pipeline FROM stream_ckpt.pipelines;
SELECT relname FROM pg_class WHERE relnamespace = 'errors'::regnamespace AND relkind IN ('r', 'f') ORDER BY 1;
SET client_min_messages = warning;
DROP SCHEMA errors CASCADE;
