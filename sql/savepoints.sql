-- Retained checkpoints, savepoints and restore_pipeline(): what they show, and what is refused.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
CREATE SCHEMA savepoints;
SET search_path = savepoints, public;
CREATE FUNCTION try(statement text, OUT state text, OUT message text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    message := 'no error';
EXCEPTION WHEN OTHERS THEN
    state := SQLSTATE;
    message := SQLERRM;
END $$;
RESET client_min_messages;

SELECT stream_ckpt.create_stream('s', 'k int, v int');
SELECT stream_ckpt.create_pipeline('sums', 'SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k', retained_checkpoints => 3, checkpoint_interval => '1 h');
SELECT stream_ckpt.create_pipeline('copies', 'SELECT k, v FROM s', checkpoint_interval => '1 h');

SELECT stream_ckpt.checkpoint();

-- a savepoint covers what was committed before, even if that is nothing
INSERT INTO s VALUES (1, 1), (2, 2);
SELECT stream_ckpt.savepoint('sums', 'first') = 2 AS second_checkpoint;
SELECT * FROM sums ORDER BY k;
SELECT stream_ckpt.savepoint('sums', 'nothing new') = 3 AS third_checkpoint;
SELECT stream_ckpt.savepoint('copies', 'first') > 0 AS taken;
INSERT INTO s VALUES (2, 20), (3, 30);
SELECT stream_ckpt.checkpoint();
INSERT INTO s VALUES (4, 40);
SELECT stream_ckpt.checkpoint();
SELECT checkpoint_id, kind, label, status, rows_in, state_rows, retained FROM stream_ckpt.checkpoints WHERE pipeline = 'sums' ORDER BY 1;
SELECT pipeline, retained_checkpoints, restorable, held_bytes > 0 AS holds FROM stream_ckpt.pipelines WHERE pipeline IN ('sums', 'copies') ORDER BY 1;

-- back, not for good
BEGIN;
SELECT stream_ckpt.restore_pipeline('sums', 2);
SELECT * FROM sums ORDER BY k;
SELECT stream_ckpt.restore_pipeline('copies', (SELECT checkpoint_id FROM stream_ckpt.checkpoints WHERE label = 'first' AND pipeline = 'copies'));
SELECT * FROM copies ORDER BY k, v;
ROLLBACK;
SELECT * FROM sums ORDER BY k;

-- back and forth, paused; the other ones stay
SELECT stream_ckpt.pause_pipeline('sums');
SELECT stream_ckpt.restore_pipeline('sums', 2);
SELECT * FROM sums ORDER BY k;
SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'sums';
SELECT stream_ckpt.restore_pipeline('sums', 5);
SELECT * FROM sums ORDER BY k;
SELECT stream_ckpt.restore_pipeline('sums', 3);
SELECT checkpoint_id, kind, label, status, rows_in, state_rows FROM stream_ckpt.checkpoints WHERE pipeline = 'sums' AND retained ORDER BY 1;
SELECT checkpoint_id, cause, state_rows FROM stream_ckpt.restores WHERE pipeline = 'sums' AND cause = 'restore_pipeline' ORDER BY restored_at;

-- a savepoint of one that is paused is its last checkpoint, in this transaction
BEGIN;
SELECT stream_ckpt.savepoint('sums', 'paused') - (SELECT last_checkpoint FROM stream_ckpt.pipelines WHERE pipeline = 'sums') AS is_last;
ROLLBACK;
SELECT stream_ckpt.savepoint('sums', 'paused') > 8 AS taken;
SELECT stream_ckpt.resume_pipeline('sums');
INSERT INTO s VALUES (1, 100);
SELECT stream_ckpt.checkpoint();
SELECT * FROM sums ORDER BY k;
SELECT label FROM stream_ckpt.checkpoints WHERE pipeline = 'sums' AND retained AND kind = 'savepoint' ORDER BY checkpoint_id;

-- refused
CREATE ROLE savepoints_other;
GRANT USAGE ON SCHEMA savepoints, stream_ckpt TO savepoints_other;
CREATE TABLE existing (k int PRIMARY KEY, n bigint);
SELECT stream_ckpt.create_stream('t', 'k int, n bigint');
SELECT stream_ckpt.create_pipeline('to_table', 'SELECT k, count(*) AS n FROM s GROUP BY k', sink => 'existing', retained_checkpoints => 5, checkpoint_interval => '1 h');
SELECT stream_ckpt.create_pipeline('to_stream', 'SELECT k, v::bigint AS n FROM s', sink => 't', retained_checkpoints => 5, checkpoint_interval => '1 h');
SELECT stream_ckpt.checkpoint();
SELECT stream_ckpt.savepoint('to_table', 'a') AS a, stream_ckpt.savepoint('to_stream', 'a') AS b;
INSERT INTO s VALUES (7, 7);
SELECT stream_ckpt.checkpoint();
SELECT call, (try('SELECT stream_ckpt.' || call)).*
FROM (VALUES
    ($$savepoint('nosuch', 'a')$$), ($$savepoint('sums', 'first')$$), ($$savepoint('sums', '')$$), ($$savepoint('sums', repeat('x', 256))$$),
    ($$drop_savepoint('nosuch', 'a')$$), ($$drop_savepoint('sums', 'nosuch')$$),
    ($$restore_pipeline('nosuch', 1)$$), ($$restore_pipeline('sums', 1)$$), ($$restore_pipeline('sums', 0)$$), ($$restore_pipeline('sums', 2, true)$$),
    ($$restore_pipeline('to_table', 2)$$), ($$restore_pipeline('to_stream', 2)$$)) v(call);
SET ROLE savepoints_other;
SELECT call, (try('SELECT stream_ckpt.' || call)).*
FROM (VALUES ($$savepoint('sums', 'mine')$$), ($$drop_savepoint('sums', 'first')$$), ($$restore_pipeline('sums', 2)$$)) v(call);
RESET ROLE;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT (try($$SELECT stream_ckpt.restore_pipeline('sums', 2)$$)).*;
COMMIT;
BEGIN READ ONLY;
SELECT (try($$SELECT stream_ckpt.savepoint('sums', 'read only')$$)).*;
COMMIT;

-- told to: state and position go back, and what follows is written again
SELECT stream_ckpt.restore_pipeline('to_table', 2, true), stream_ckpt.restore_pipeline('to_stream', 2, true);
SELECT stream_ckpt.checkpoint();
SELECT * FROM existing ORDER BY k;

-- a query that was changed
SELECT stream_ckpt.alter_pipeline('sums', query => 'SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k HAVING count(*) > 1');
SELECT * FROM sums ORDER BY k;
SELECT (try($$SELECT stream_ckpt.restore_pipeline('sums', 2)$$)).*;
SELECT stream_ckpt.alter_pipeline('sums', query => 'SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k');
SELECT * FROM sums ORDER BY k;
BEGIN;
SELECT stream_ckpt.restore_pipeline('sums', 2);
SELECT * FROM sums ORDER BY k;
ROLLBACK;

-- what was rewritten does not say any more when it was written
ALTER TABLE copies ALTER COLUMN v TYPE bigint;
SELECT (try($$SELECT stream_ckpt.restore_pipeline('copies', 2)$$)).*;

-- dropped ones let go
SELECT stream_ckpt.drop_savepoint('sums', label) FROM stream_ckpt.checkpoints WHERE pipeline = 'sums' AND retained AND kind = 'savepoint' ORDER BY checkpoint_id;
SELECT stream_ckpt.drop_savepoint('copies', 'first');
INSERT INTO s VALUES (9, 9);
SELECT stream_ckpt.checkpoint();
SELECT pipeline, restorable FROM stream_ckpt.pipelines WHERE pipeline IN ('sums', 'copies') ORDER BY 1;
SELECT count(*) FROM stream_ckpt.retained r JOIN stream_ckpt.pipeline_def d ON d.id = r.pipeline_id WHERE d.name = 'copies';
SELECT stream_ckpt.savepoint('sums', 'first') > 0 AS again;

SET client_min_messages = warning;
SELECT stream_ckpt.drop_pipeline(pipeline) FROM stream_ckpt.pipelines WHERE pipeline IN ('sums', 'copies', 'to_table', 'to_stream');
SELECT count(*) FROM stream_ckpt.retained;
SELECT count(*) FROM stream_ckpt.touched;
DROP SCHEMA savepoints CASCADE;
REVOKE ALL ON SCHEMA stream_ckpt FROM savepoints_other;
DROP ROLE savepoints_other;
