-- Who may do what. Everything that reaches a user's code runs as the pipeline's owner.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE ROLE regress_sckpt_owner;
CREATE ROLE regress_sckpt_other;
CREATE ROLE regress_sckpt_member IN ROLE regress_sckpt_owner;
CREATE ROLE regress_sckpt_stats IN ROLE pg_read_all_stats;
CREATE SCHEMA priv;
CREATE FUNCTION priv.try(command text, OUT code text, OUT message text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END $$;
SET search_path = priv;
GRANT USAGE ON SCHEMA priv TO PUBLIC;

-- a role needs three grants
SET ROLE regress_sckpt_owner;
SELECT (try($$SELECT stream_ckpt.create_stream('priv.s', 'k text, v int')$$)).*;
RESET ROLE;
GRANT USAGE ON SCHEMA stream_ckpt TO regress_sckpt_owner, regress_sckpt_other, regress_sckpt_stats;
SET ROLE regress_sckpt_owner;
SELECT (try($$SELECT stream_ckpt.create_stream('priv.s', 'k text, v int')$$)).*;
RESET ROLE;
GRANT CREATE ON SCHEMA priv TO regress_sckpt_owner;
SET ROLE regress_sckpt_owner;
SELECT (try($$SELECT stream_ckpt.create_stream('priv.s', 'k text, v int')$$)).*;
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER stream_ckpt TO regress_sckpt_owner;
SET ROLE regress_sckpt_owner;
SELECT stream_ckpt.create_stream('s', 'k text, v int');
SELECT stream_ckpt.create_pipeline('p', $$SELECT k, count(*) AS n, 'secret' AS s FROM s GROUP BY k$$);
INSERT INTO s VALUES ('owner', 1);
SELECT stream_ckpt.checkpoint('p') > 0 AS done;
SELECT * FROM p;

-- another may nothing of it until it is granted
SET ROLE regress_sckpt_other;
SELECT command, (try(command)).* FROM (VALUES
    ('INSERT INTO s VALUES (1)'),
    ('SELECT * FROM p'),
    ($$SELECT stream_ckpt.create_pipeline('theirs', 'SELECT k FROM s')$$),
    ($$SELECT stream_ckpt.create_pipeline('priv.theirs', 'SELECT k FROM s')$$),
    ($$SELECT stream_ckpt.drop_stream('s')$$),
    ($$SELECT stream_ckpt.drop_stream('s', true)$$),
    ('DROP FOREIGN TABLE s'),
    ('ALTER FOREIGN TABLE s ADD COLUMN x int'),
    ($$SELECT stream_ckpt.drop_pipeline('p')$$),
    ($$SELECT stream_ckpt.pause_pipeline('p')$$),
    ($$SELECT stream_ckpt.resume_pipeline('p')$$),
    ($$SELECT stream_ckpt.explain_pipeline('p')$$),
    ($$SELECT stream_ckpt.checkpoint('p')$$),
    ($$SET stream_ckpt.fault = 'barrier:kill'$$)) v(command);
-- it sees that the pipeline is there, not what it does
SELECT pipeline, owner, status, query, error, rows_in FROM stream_ckpt.pipelines;
SET ROLE regress_sckpt_member;
SELECT pipeline, query FROM stream_ckpt.pipelines;
SET ROLE regress_sckpt_stats;
SELECT pipeline, query FROM stream_ckpt.pipelines;
-- internal tables are nobody's
SET ROLE regress_sckpt_owner;
SELECT c.oid::regclass FROM pg_class c
WHERE relnamespace = 'stream_ckpt'::regnamespace AND relkind IN ('r', 'S')
  AND (has_table_privilege(c.oid, 'INSERT') OR has_table_privilege(c.oid, 'UPDATE') OR has_table_privilege(c.oid, 'DELETE'));

-- INSERT can be granted, and taken back
GRANT INSERT ON s TO regress_sckpt_other;
SET ROLE regress_sckpt_other;
INSERT INTO s VALUES ('other', 1);
SET ROLE regress_sckpt_owner;
REVOKE INSERT ON s FROM regress_sckpt_other;
SET ROLE regress_sckpt_other;
SELECT (try('INSERT INTO s VALUES (1)')).*;
RESET ROLE;
SELECT stream_ckpt.checkpoint('p') > 0 AS done;
SELECT k, n FROM p ORDER BY k;

-- the query, the result's triggers and what they call run as the owner, restricted
CREATE TABLE seen (what text, who text, really text);
GRANT INSERT ON seen TO PUBLIC;
CREATE FUNCTION whoami() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN current_user; END$$;
SET ROLE regress_sckpt_owner;
CREATE FUNCTION priv.note() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO priv.seen VALUES ('trigger', current_user, session_user); RETURN NULL; END$$;
CREATE FUNCTION priv.escape() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    SET ROLE NONE;
    RETURN 'escaped as ' || current_user;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
CREATE FUNCTION priv.hide() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    CREATE TEMP TABLE hidden (a int);
    RETURN 'created';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
CREATE FUNCTION priv.watch_step(text, int) RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN current_user; END$$;
CREATE AGGREGATE priv.watch(int) (sfunc = priv.watch_step, stype = text);
SELECT stream_ckpt.create_pipeline('who', 'SELECT k, whoami() AS who, escape() AS escape, hide() AS hide FROM s');
SELECT stream_ckpt.create_pipeline('who_group', 'SELECT k, watch(v) AS who, count(*) AS n FROM s GROUP BY k');
CREATE TRIGGER note AFTER INSERT ON who FOR EACH ROW EXECUTE FUNCTION priv.note();
CREATE TRIGGER note AFTER INSERT ON who_group FOR EACH ROW EXECUTE FUNCTION priv.note();
INSERT INTO s VALUES ('as owner', 1);
SELECT stream_ckpt.checkpoint('who') > 0 AND stream_ckpt.checkpoint('who_group') > 0 AS done;
SELECT * FROM who;
SELECT * FROM who_group;
RESET ROLE;
SELECT DISTINCT what, who FROM seen;

-- a table that the owner may no longer read stops the pipeline, and it goes on when it may again
CREATE TABLE dim (k text PRIMARY KEY);
INSERT INTO dim VALUES ('x');
GRANT SELECT ON dim TO regress_sckpt_owner;
SET ROLE regress_sckpt_owner;
SELECT stream_ckpt.create_pipeline('looks_up', 'SELECT s.k FROM s JOIN dim USING (k)');
INSERT INTO s VALUES ('x', 1);
SELECT stream_ckpt.checkpoint('looks_up') > 0 AS done;
RESET ROLE;
REVOKE SELECT ON dim FROM regress_sckpt_owner;
INSERT INTO s VALUES ('x', 2);
SELECT (try($$SELECT stream_ckpt.checkpoint('looks_up', '10 s')$$)).code <> '00000' AS stopped;
SELECT status, error FROM stream_ckpt.pipelines WHERE pipeline = 'looks_up';
GRANT SELECT ON dim TO regress_sckpt_owner;
SELECT stream_ckpt.resume_pipeline('looks_up');
SELECT stream_ckpt.checkpoint('looks_up') > 0 AS done;
SELECT count(*) FROM looks_up;

-- the columns argument is a list of columns, nothing more
SET ROLE regress_sckpt_owner;
SELECT (try($$SELECT stream_ckpt.create_stream('x', 'a int) SERVER stream_ckpt; DROP TABLE priv.p; --')$$)).code;
SELECT count(*) > 0 AS still_there FROM p;
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA priv CASCADE;
REVOKE ALL ON SCHEMA stream_ckpt FROM regress_sckpt_owner, regress_sckpt_other, regress_sckpt_stats;
REVOKE ALL ON FOREIGN SERVER stream_ckpt FROM regress_sckpt_owner;
DROP ROLE regress_sckpt_owner, regress_sckpt_other, regress_sckpt_member, regress_sckpt_stats;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
