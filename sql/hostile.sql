-- Privileges, continued: functions called for others' pipelines, hostile names and objects, owners that change or go.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE ROLE regress_sckpt_a;
CREATE ROLE regress_sckpt_b;
CREATE SCHEMA hostile;
GRANT USAGE, CREATE ON SCHEMA hostile TO regress_sckpt_a, regress_sckpt_b;
GRANT USAGE ON SCHEMA stream_ckpt TO regress_sckpt_a, regress_sckpt_b;
GRANT USAGE ON FOREIGN SERVER stream_ckpt TO regress_sckpt_a, regress_sckpt_b;
CREATE FUNCTION hostile.try(command text, OUT code text, OUT message text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END $$;
SET search_path = hostile;
SET ROLE regress_sckpt_a;
SELECT stream_ckpt.create_stream('s', 'k text, v int, ts timestamptz', event_time => 'ts');
SELECT stream_ckpt.create_pipeline('p', $$SELECT k, count(*) AS n, 'secret' AS s FROM s GROUP BY k$$);
INSERT INTO s VALUES ('a', 1);
SELECT stream_ckpt.checkpoint('p') > 0 AS done;

-- Every function that takes a pipeline, or a stream, refuses others; also those that nobody has thought of here.
RESET ROLE;
CREATE TABLE calls AS
SELECT p.oid::regprocedure AS function, format('SELECT stream_ckpt.%I(%s)', p.proname,
    string_agg(CASE WHEN a.name IN ('name', 'pipeline') AND a.n = 1 THEN CASE WHEN p.proname LIKE '%stream' THEN quote_literal('hostile.s') ELSE quote_literal('p') END
                    WHEN a.name = 'stream' THEN quote_literal('hostile.s')
                    WHEN a.type IN ('text'::regtype, 'name'::regtype) THEN quote_literal('x')
                    WHEN a.type IN ('int'::regtype, 'bigint'::regtype) THEN '1'
                    WHEN a.type = 'interval'::regtype THEN quote_literal('1 s')
                    WHEN a.type = 'boolean'::regtype THEN 'true'
                    WHEN a.type = 'pg_lsn'::regtype THEN quote_literal('0/1')
                    WHEN a.type = 'timestamptz'::regtype THEN quote_literal('2026-01-01') END || '::' || a.type, ', ' ORDER BY a.n)) AS call
FROM pg_proc p, LATERAL (SELECT n, p.proargnames[n] AS name, p.proargtypes[n - 1]::regtype AS type
                         FROM generate_series(1, p.pronargs - p.pronargdefaults) n) a
WHERE p.pronamespace = 'stream_ckpt'::regnamespace
  AND (p.proargnames[1] = 'pipeline' OR p.proargnames[1] = 'stream' OR p.proargnames[1] = 'name' AND p.proname NOT LIKE 'create%')
GROUP BY p.oid;
GRANT SELECT ON calls TO PUBLIC;
SELECT count(*) >= 8 AS enough, count(*) FILTER (WHERE call IS NULL) AS without_a_call FROM calls;
SET ROLE regress_sckpt_b;
SELECT function, (t).* FROM (SELECT function, try(call) AS t FROM calls) x WHERE (t).code <> '42501';
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
RESET ROLE;
-- and there are no others that PUBLIC may execute but those known to be harmless
SELECT p.oid::regprocedure FROM pg_proc p
WHERE pronamespace = 'stream_ckpt'::regnamespace AND has_function_privilege('regress_sckpt_b', p.oid, 'EXECUTE')
  AND NOT EXISTS (SELECT FROM calls c WHERE c.function = p.oid) AND p.prorettype NOT IN ('trigger'::regtype, 'fdw_handler'::regtype)
  AND regexp_replace(p.proname, '_(valid|start|end|count)$', '') NOT IN ('tumble', 'hop', 'cumulate', 'session', 'fdw_validator')
  AND p.proname NOT IN ('create_stream', 'create_pipeline', 'checkpoint', 'pipeline_stats', 'task_stats', 'database_stats', 'only_row');
-- checkpoint() for all waits only for one's own
SET ROLE regress_sckpt_b;
SELECT stream_ckpt.checkpoint();

-- what others are shown of it
SELECT pipeline, owner, query, error FROM stream_ckpt.pipelines;
SELECT count(*) AS restores, count(cause) AS causes FROM stream_ckpt.restores;
SELECT count(error) AS errors FROM stream_ckpt.checkpoints;
SELECT count(*) AS letters FROM stream_ckpt.dead_letters;
SELECT count(error) AS errors FROM stream_ckpt.pipeline_stats();
RESET ROLE;
-- of their own tables, nothing
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'stream_ckpt'::regnamespace AND c.relkind IN ('r', 'p', 'S', 'm', 'f')
  AND has_table_privilege('regress_sckpt_b', c.oid, 'SELECT');

-- INSERT by grant only, on columns too
GRANT INSERT (k) ON s TO regress_sckpt_b;
SET ROLE regress_sckpt_b;
INSERT INTO s (k) VALUES ('by column');
SELECT command, (try(command)).* FROM (VALUES ('INSERT INTO s (k, v) VALUES (1, 2)'), ('INSERT INTO s VALUES (1)'),
    ($$SELECT stream_ckpt.advance_watermark('s', '2026-01-01')$$),
    ('INSERT INTO s (k) SELECT v::text FROM s'), ('TRUNCATE s')) v(command);
COPY s (k, v) FROM STDIN;
no	1
\.
COPY s (k) FROM STDIN;
by COPY
\.
RESET ROLE;
SELECT stream_ckpt.checkpoint('p') > 0 AS done;
SELECT k, n FROM p ORDER BY k;

-- columns that are more than columns
SET ROLE regress_sckpt_b;
SELECT columns, (try(format('SELECT stream_ckpt.create_stream(%L, %L)', 'hostile.x', columns))).* FROM (VALUES
    ('a int) SERVER stream_ckpt; DROP TABLE hostile.p; --'), ('a int) SERVER stream_ckpt; SELECT 1; CREATE TABLE y (a int'),
    ('a int) INHERITS (p'), ('a int) SERVER other --'), ('a int) SERVER stream_ckpt OPTIONS (event_time ''a'') --'), ('a int /*'), ('a int); --'),
    ('LIKE p'), ('a int DEFAULT (SELECT 1)'), (''), ('a int, a int'), (E'a int\n) SERVER stream_ckpt --'), ('a int) PARTITION BY LIST (a')) v(columns);
SELECT relname FROM pg_class WHERE relnamespace = 'hostile'::regnamespace AND relkind IN ('r', 'f') ORDER BY relname COLLATE "C";

-- names that look like something else
SELECT stream_ckpt.create_stream('hostile."st""r; DROP TABLE p; --"', '"select" int, "a""b" text, "; DROP TABLE p; --" int, "Ä ö" int, "$1" int');
SELECT stream_ckpt.create_pipeline('hostile."r""e''s; --"', $$SELECT "select", "a""b", "; DROP TABLE p; --", sum("Ä ö") AS "sum(x)", count("$1") AS "$2" FROM "st""r; DROP TABLE p; --" GROUP BY 1, 2, 3$$);
SELECT stream_ckpt.create_pipeline('hostile."lin''ear"', $$SELECT "select" AS "from", "a""b" AS "'", "Ä ö" AS "\" FROM "st""r; DROP TABLE p; --"$$);
INSERT INTO "st""r; DROP TABLE p; --" VALUES (1, $$x'); DROP TABLE p; --$$, 2, 3, 4), (1, $$x'); DROP TABLE p; --$$, 2, 30, NULL);
SELECT stream_ckpt.checkpoint();
SELECT * FROM "r""e's; --";
SELECT * FROM "lin'ear";
SELECT count(*) > 0 AS explained FROM stream_ckpt.explain_pipeline($$r"e's; --$$);
SELECT stream_ckpt.drop_pipeline($$r"e's; --$$);
SELECT stream_ckpt.drop_pipeline('lin''ear');
SELECT stream_ckpt.drop_stream('hostile."st""r; DROP TABLE p; --"');

-- operators, functions, types and casts before those of pg_catalog: for the query that asked for them, and for nothing else
RESET ROLE;
CREATE SCHEMA trap;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
CREATE TABLE trap.sprung (who text, what text);
GRANT INSERT ON trap.sprung TO PUBLIC;
CREATE FUNCTION trap.spring(what text) RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO trap.sprung VALUES (current_user, what); RETURN false; END$$;
CREATE FUNCTION trap.eq(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$SELECT trap.spring('bigint = bigint')$$;
CREATE OPERATOR trap.= (FUNCTION = trap.eq, LEFTARG = bigint, RIGHTARG = bigint);
CREATE FUNCTION trap.eq(text, text) RETURNS boolean LANGUAGE sql AS $$SELECT trap.spring('text = text')$$;
CREATE OPERATOR trap.= (FUNCTION = trap.eq, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION trap.eq(oid, oid) RETURNS boolean LANGUAGE sql AS $$SELECT trap.spring('oid = oid')$$;
CREATE OPERATOR trap.= (FUNCTION = trap.eq, LEFTARG = oid, RIGHTARG = oid);
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT pg_catalog.clock_timestamp() FROM (SELECT trap.spring('clock')) x$$;
CREATE FUNCTION trap.pg_has_role(oid, text) RETURNS boolean LANGUAGE sql AS $$SELECT true FROM (SELECT trap.spring('role')) x$$;
CREATE FUNCTION trap.upper(text) RETURNS text LANGUAGE sql AS $$SELECT 'trapped'$$;
SET search_path = trap, pg_catalog, hostile;
SELECT stream_ckpt.create_stream('hostile.t', 'k text, v int, ts timestamptz', event_time => 'ts');
SELECT stream_ckpt.create_pipeline('hostile.q', 'SELECT k, upper(k) AS u, count(*) AS n, count(DISTINCT v) AS d FROM t GROUP BY k, upper(k)', state_ttl => '1 day');
SELECT stream_ckpt.create_pipeline('hostile.f', 'SELECT window_start, k, count(*) AS n FROM t, stream_ckpt.tumble(ts, ''1 min'') GROUP BY 1, 2', emit => 'final', on_error => 'dead_letter');
INSERT INTO t VALUES ('a', 1, '2026-01-01'), ('a', 2, '2026-01-01'), ('b', 1, '2026-01-02');
SELECT stream_ckpt.checkpoint();
INSERT INTO t VALUES ('a', 1, '2026-01-02'), ('late', 1, '2026-01-01');
SELECT stream_ckpt.checkpoint();
SELECT stream_ckpt.retry_dead_letters('f');
SELECT stream_ckpt.pause_pipeline('q'), stream_ckpt.resume_pipeline('q');
SELECT stream_ckpt.checkpoint();
SELECT * FROM hostile.q ORDER BY 1;
SELECT pipeline, query IS NOT NULL AS query, status FROM stream_ckpt.pipelines ORDER BY pipeline COLLATE "C";
SELECT count(*) FROM stream_ckpt.dead_letters;
SELECT count(*) > 5 FROM stream_ckpt.explain_pipeline('q');
SELECT * FROM trap.sprung;
SELECT stream_ckpt.drop_stream('hostile.t', true);
SET search_path = hostile;
SELECT * FROM trap.sprung;
-- an operator that the query itself means is its own
SET ROLE regress_sckpt_a;
SET search_path = trap, pg_catalog, hostile;
SELECT stream_ckpt.create_pipeline('hostile.own', $$SELECT k FROM s WHERE k = 'x'$$);
SET search_path = hostile;
INSERT INTO s VALUES ('x', 1);
SELECT stream_ckpt.checkpoint('own') > 0 AS done;
RESET ROLE;
SELECT DISTINCT * FROM trap.sprung;
SELECT count(*) FROM own;
SELECT stream_ckpt.drop_pipeline('own');

-- row-level security of a table that is looked up is that of the pipeline's owner
CREATE TABLE dim (k text PRIMARY KEY, who text);
INSERT INTO dim VALUES ('x', 'regress_sckpt_a'), ('y', 'regress_sckpt_b');
ALTER TABLE dim ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON dim USING (who = current_user);
GRANT SELECT ON dim TO regress_sckpt_a, regress_sckpt_b;
SET ROLE regress_sckpt_a;
GRANT SELECT ON s TO regress_sckpt_b;
SELECT stream_ckpt.create_pipeline('rls_a', 'SELECT s.k, count(*) AS n FROM s JOIN dim USING (k) GROUP BY 1');
SET ROLE regress_sckpt_b;
SELECT stream_ckpt.create_pipeline('rls_b', 'SELECT s.k, count(*) AS n FROM s JOIN dim USING (k) GROUP BY 1');
RESET ROLE;
INSERT INTO s VALUES ('x', 1), ('y', 1);
SELECT stream_ckpt.checkpoint();
SELECT * FROM rls_a;
SELECT * FROM rls_b;

-- a SECURITY DEFINER function makes pipelines of its owner; a query that calls one gets no further than that
SET ROLE regress_sckpt_a;
CREATE FUNCTION definer() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN current_user || ' ' || (SELECT count(*) FROM pg_settings WHERE name = 'role' AND setting = 'none');
END$$;
CREATE FUNCTION evil(k text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE r text := '';
BEGIN
    FOR i IN 1 .. 10 LOOP
        BEGIN
            CASE i
                WHEN 1 THEN SET SESSION AUTHORIZATION DEFAULT;
                WHEN 2 THEN SET LOCAL ROLE NONE;
                WHEN 3 THEN EXECUTE 'ALTER ROLE regress_sckpt_a SUPERUSER';
                WHEN 4 THEN EXECUTE 'UPDATE stream_ckpt.pipeline_def SET owner = ''regress_sckpt_a''';
                WHEN 5 THEN EXECUTE 'LISTEN x';
                WHEN 6 THEN EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1';
                WHEN 7 THEN PERFORM stream_ckpt.checkpoint('evil', '1 hour');
                WHEN 8 THEN PERFORM set_config('stream_ckpt.fault', 'barrier:kill', false);
                WHEN 9 THEN EXECUTE 'PREPARE left_behind AS SELECT 1';
                ELSE PERFORM set_config('search_path', 'trap', false), set_config('role', 'none', false);
            END CASE;
            r := r || i || ' done ';
        EXCEPTION WHEN OTHERS THEN
            r := r || i || ' ' || SQLSTATE || ' ';
        END;
    END LOOP;
    PERFORM pg_advisory_lock(4711);
    RETURN r;
END$$;
SELECT stream_ckpt.create_pipeline('evil', $$SELECT evil(k) AS r, definer() AS d, current_user::text AS u, session_user::text <> 'regress_sckpt_a' AS other FROM s$$);
INSERT INTO s VALUES ('z', 1);
SELECT stream_ckpt.checkpoint('evil') > 0 AS done;
SELECT r, d, u FROM evil;
SELECT count(*) AS locks_left FROM pg_locks WHERE locktype = 'advisory';
-- nothing of it is there for the next one
CREATE FUNCTION finds() RETURNS text LANGUAGE sql AS $$SELECT current_user || ' ' || current_setting('search_path') || ' ' || pg_try_advisory_lock(4711)$$;
SELECT stream_ckpt.create_pipeline('finder', 'SELECT finds() AS f FROM s');
INSERT INTO s VALUES ('z', 1);
SELECT stream_ckpt.checkpoint('evil') > 0 AND stream_ckpt.checkpoint('finder') > 0 AS done;
SELECT * FROM finder;
SELECT stream_ckpt.drop_pipeline('evil'), stream_ckpt.drop_pipeline('finder');
-- one that drops itself, or another, while it works
CREATE FUNCTION suicidal(k text) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM stream_ckpt.drop_pipeline('suicide'); RETURN k; END$$;
SELECT stream_ckpt.create_pipeline('suicide', $$SELECT suicidal(k) AS k FROM s$$);
INSERT INTO s VALUES ('z', 1);
SELECT (try($$SELECT stream_ckpt.checkpoint('suicide', '20 s')$$)).code <> '00000' AS stopped;
SELECT stream_ckpt.checkpoint('p') > 0 AS others_go_on;
SELECT stream_ckpt.drop_pipeline('suicide');

-- event triggers run as whoever is at work
RESET ROLE;
CREATE TABLE events (tag text, who text);
GRANT INSERT ON events TO PUBLIC;
CREATE FUNCTION note_event() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO hostile.events VALUES (tg_tag, current_user); END$$;
CREATE EVENT TRIGGER regress_sckpt_note ON ddl_command_end EXECUTE FUNCTION note_event();
SET ROLE regress_sckpt_a;
SELECT stream_ckpt.create_stream('e', 'k text');
SELECT stream_ckpt.create_pipeline('ep', 'SELECT k, count(*) AS n FROM e GROUP BY k');
-- a key too long for the index, which the worker replaces
INSERT INTO e SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i;
SELECT stream_ckpt.checkpoint('ep') > 0 AS done;
SELECT stream_ckpt.drop_pipeline('ep'), stream_ckpt.drop_stream('e');
RESET ROLE;
DROP EVENT TRIGGER regress_sckpt_note;
SELECT DISTINCT tag COLLATE "C" AS tag, who FROM events ORDER BY 1;

-- a result that belongs to somebody else
ALTER TABLE rls_a OWNER TO regress_sckpt_b;
INSERT INTO s VALUES ('x', 1);
SELECT (try($$SELECT stream_ckpt.checkpoint('rls_a', '20 s')$$)).code AS code;
SELECT status, error FROM stream_ckpt.pipelines WHERE pipeline = 'rls_a';
SET ROLE regress_sckpt_a;
SELECT (try($$SELECT stream_ckpt.drop_pipeline('rls_a')$$)).*;
SET ROLE regress_sckpt_b;
GRANT SELECT, INSERT, UPDATE, DELETE ON rls_a TO regress_sckpt_a;
SET ROLE regress_sckpt_a;
SELECT stream_ckpt.resume_pipeline('rls_a');
SELECT stream_ckpt.checkpoint('rls_a') > 0 AS done;
RESET ROLE;
SELECT * FROM rls_a;
SET ROLE regress_sckpt_a;
SELECT stream_ckpt.drop_pipeline('rls_a', keep_result => true);
RESET ROLE;

-- a stream that does: its readers need SELECT on it
ALTER FOREIGN TABLE s OWNER TO regress_sckpt_b;
INSERT INTO s VALUES ('x', 1);
SELECT (try($$SELECT stream_ckpt.checkpoint('p', '20 s')$$)).code AS code;
SELECT status, error FROM stream_ckpt.pipelines WHERE pipeline = 'p';
ALTER FOREIGN TABLE s OWNER TO regress_sckpt_a;
SELECT stream_ckpt.resume_pipeline('p');
SELECT stream_ckpt.checkpoint('p') > 0 AS done;

-- owners that go: not while they own pipelines, also where nothing else is theirs
CREATE ROLE regress_sckpt_c;
GRANT USAGE ON SCHEMA stream_ckpt, hostile TO regress_sckpt_c;
GRANT SELECT ON s TO regress_sckpt_c;
CREATE TABLE shared_result (k text PRIMARY KEY, n bigint);
GRANT ALL ON shared_result TO regress_sckpt_c;
SET ROLE regress_sckpt_c;
SELECT stream_ckpt.create_pipeline('of_c', 'SELECT k, count(*) AS n FROM s GROUP BY k', sink => 'shared_result');
RESET ROLE;
REVOKE ALL ON SCHEMA stream_ckpt, hostile FROM regress_sckpt_c;
REVOKE ALL ON s, shared_result FROM regress_sckpt_c;
SELECT (try('DROP ROLE regress_sckpt_c')).*;
SELECT (try('DROP ROLE IF EXISTS regress_sckpt_nobody, regress_sckpt_c')).*;
SET ROLE regress_sckpt_b;
SELECT (try('DROP ROLE regress_sckpt_c')).*;
SELECT (try('REASSIGN OWNED BY regress_sckpt_c TO regress_sckpt_b')).*;
RESET ROLE;
BEGIN;
REASSIGN OWNED BY regress_sckpt_c TO regress_sckpt_b;
ROLLBACK;
SELECT owner FROM stream_ckpt.pipelines WHERE pipeline = 'of_c';
REASSIGN OWNED BY regress_sckpt_c TO regress_sckpt_a;
SELECT owner FROM stream_ckpt.pipelines WHERE pipeline = 'of_c';
DROP ROLE regress_sckpt_c;
GRANT ALL ON shared_result TO regress_sckpt_a;
INSERT INTO s VALUES ('after', 1);
SELECT stream_ckpt.resume_pipeline('of_c');
SELECT stream_ckpt.checkpoint('of_c') > 0 AS done;
SELECT * FROM shared_result;
REASSIGN OWNED BY regress_sckpt_a TO regress_sckpt_b;
SELECT DISTINCT owner FROM stream_ckpt.pipelines;
INSERT INTO s VALUES ('after', 1);
SET client_min_messages = error;
SELECT (try($$SELECT stream_ckpt.checkpoint('p')$$)).code AS code;
DROP OWNED BY regress_sckpt_a, regress_sckpt_b CASCADE;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
DROP SCHEMA hostile, trap CASCADE;
DROP ROLE regress_sckpt_a, regress_sckpt_b;
