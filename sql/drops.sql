-- Dropping: what is in use stays without CASCADE, what is dropped leaves nothing.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA drops;
SET search_path = drops;
CREATE FUNCTION left_behind(OUT streams bigint, OUT pipelines bigint, OUT checkpoints bigint) LANGUAGE sql AS
    'SELECT (SELECT count(*) FROM stream_ckpt.streams), (SELECT count(*) FROM stream_ckpt.pipelines), (SELECT count(*) FROM stream_ckpt.checkpoints)';
CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
SELECT stream_ckpt.create_stream('s', 'a int');
SELECT stream_ckpt.create_pipeline('p', 'SELECT a, count(*) AS n FROM s GROUP BY a');
SELECT stream_ckpt.create_pipeline('q', 'SELECT a FROM s');
INSERT INTO s VALUES (1);
SELECT stream_ckpt.checkpoint();

-- refused
SELECT command, (try(command)).* FROM (VALUES
    ($$SELECT stream_ckpt.drop_stream('s')$$),
    ('DROP FOREIGN TABLE s'),
    ('DROP TABLE p'),
    ($$SELECT stream_ckpt.drop_stream('p')$$)) v(command);
SELECT * FROM p;

-- with cascade, and undone
BEGIN;
SELECT stream_ckpt.drop_stream('s', cascade => true);
SELECT count(*) FROM stream_ckpt.pipelines;
ROLLBACK;
INSERT INTO s VALUES (1), (2);
SELECT stream_ckpt.checkpoint();
SELECT * FROM p ORDER BY a;
SELECT count(*) FROM q;

-- with cascade, for good: pipelines go, and what they had computed stays or goes with them alike
SET client_min_messages = warning;
SELECT stream_ckpt.drop_stream('s', cascade => true);
RESET client_min_messages;
SELECT * FROM left_behind();

-- by DDL
SELECT stream_ckpt.create_stream('s', 'a int');
SELECT stream_ckpt.create_pipeline('p2', 'SELECT a, count(*) AS n FROM s GROUP BY a');
SET client_min_messages = warning;
DROP FOREIGN TABLE s CASCADE;
SELECT * FROM left_behind();
DROP TABLE IF EXISTS p2;
SELECT stream_ckpt.create_stream('s', 'a int');
SELECT stream_ckpt.create_pipeline('p3', 'SELECT a, count(*) AS n FROM s GROUP BY a');
DROP TABLE p3 CASCADE;
SELECT * FROM left_behind();
RESET client_min_messages;

-- a kept result is a table like any other
SELECT stream_ckpt.create_pipeline('p4', 'SELECT a, count(*) AS n FROM s GROUP BY a');
INSERT INTO s VALUES (4);
SELECT stream_ckpt.checkpoint();
SELECT stream_ckpt.drop_pipeline('p4', keep_result => true);
INSERT INTO p4 VALUES (5, 5);
SELECT * FROM p4 ORDER BY a;
DROP TABLE p4;

-- a new pipeline of the old name starts from nothing
SELECT stream_ckpt.create_pipeline('p5', 'SELECT a, count(*) AS n FROM s GROUP BY a');
INSERT INTO s VALUES (1);
SELECT stream_ckpt.checkpoint();
SELECT stream_ckpt.drop_pipeline('p5');
SELECT stream_ckpt.create_pipeline('p5', 'SELECT a, count(*) AS n FROM s GROUP BY a');
INSERT INTO s VALUES (1), (1);
SELECT stream_ckpt.checkpoint();
SELECT * FROM p5;
-- renamed and moved, the result is still the result
ALTER TABLE p5 RENAME TO p5_renamed;
CREATE SCHEMA drops2;
ALTER TABLE p5_renamed SET SCHEMA drops2;
INSERT INTO s VALUES (1);
SELECT stream_ckpt.checkpoint();
SELECT * FROM drops2.p5_renamed;
SELECT pipeline, result FROM stream_ckpt.pipelines;
SET client_min_messages = warning;
DROP SCHEMA drops2 CASCADE;
SELECT * FROM left_behind();

-- the extension: undone, everything goes on; done, everything is gone, tables excepted that users made
SELECT stream_ckpt.create_pipeline('p6', 'SELECT a, count(*) AS n FROM s GROUP BY a');
INSERT INTO s VALUES (6);
BEGIN;
DROP EXTENSION stream_ckpt CASCADE;
ROLLBACK;
INSERT INTO s VALUES (6);
SELECT stream_ckpt.checkpoint('p6') > 0 AS done;
SELECT * FROM p6;
\set VERBOSITY sqlstate
DROP EXTENSION stream_ckpt;
\set VERBOSITY default
DROP EXTENSION stream_ckpt CASCADE;
SELECT to_regclass('s') AS stream;
CREATE EXTENSION stream_ckpt;
SELECT * FROM left_behind();
SELECT stream_ckpt.create_stream('s', 'a int');
SELECT stream_ckpt.create_pipeline('p7', 'SELECT a, count(*) AS n FROM s GROUP BY a');
INSERT INTO s VALUES (7);
SELECT stream_ckpt.checkpoint('p7') > 0 AS done;
SELECT * FROM p7;
DROP SCHEMA drops CASCADE;
DROP EXTENSION stream_ckpt;
