-- The views say what happened; figures that differ from run to run are checked for sense.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA views;
SET search_path = views;
SELECT stream_ckpt.create_stream('s', 'k int, v int, ts timestamptz', event_time => 'ts', watermark_delay => '10 s');
SELECT stream_ckpt.create_pipeline('p', 'SELECT k, count(*) AS n FROM s GROUP BY k', checkpoint_interval => '1 hour');
SELECT stream_ckpt.create_pipeline('q', 'SELECT v FROM s WHERE k = 1', checkpoint_interval => '1 hour');
SELECT stream_ckpt.checkpoint();
INSERT INTO s SELECT i % 10, i, '2024-01-01 00:00Z'::timestamptz + i * interval '1 s' FROM generate_series(1, 1000) i;
SELECT stream_ckpt.checkpoint();

SELECT stream, event_time, watermark_delay, idle_timeout, watermark, pipelines FROM stream_ckpt.streams;
SELECT pipeline, result, owner = current_user AS mine, query, status, error, emit, on_error, parallelism, checkpoint_interval, retained_checkpoints,
       last_checkpoint >= 1 AS checkpointed, last_checkpoint_at > created_at AS later, lag_bytes >= 0 AND lag >= '0' AS has_lag, watermark,
       state_rows, state_bytes > 0 AS has_state, rows_in, rows_out >= 10 AS wrote, late_rows, dead_letters, restarts
FROM stream_ckpt.pipelines ORDER BY pipeline;
SELECT pipeline, task, status, rows_in, state_rows, busy_ms >= 0 AS busy, idle_ms >= 0 AS idle,
       worker_pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database()) AS works, position > '0/0' AS positioned
FROM stream_ckpt.tasks ORDER BY pipeline, task;

-- one worker of this database, and the launcher, with names of their own
SELECT backend_type, datname = current_database() AS here FROM pg_stat_activity WHERE backend_type LIKE 'stream_ckpt%' AND backend_type <> 'stream_ckpt checkpoint writer' ORDER BY 1;

-- ids rise from 1 without gaps; every finished one has its figures; one per pipeline is retained
SELECT pipeline, count(*) = max(checkpoint_id) AS no_gaps, min(checkpoint_id), sum(rows_in) AS rows_in, count(*) FILTER (WHERE retained) AS retained
FROM stream_ckpt.checkpoints GROUP BY pipeline ORDER BY 1;
SELECT pipeline, kind, label, status, completed_at >= triggered_at AS ordered, duration = completed_at - triggered_at AS measured, position > '0/0' AS positioned,
       tasks, acknowledged, rows_in, state_rows, checkpointed_rows, checkpointed_bytes > 0 AS has_bytes, retained, error
FROM stream_ckpt.checkpoints c
WHERE checkpoint_id = (SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints WHERE pipeline = c.pipeline) ORDER BY pipeline;
SELECT c.pipeline, t.task, t.status, t.rows_in = c.rows_in AS same_rows, t.checkpointed_bytes = c.checkpointed_bytes AS same_bytes,
       t.acknowledged_at >= c.triggered_at AS ordered, t.start_delay >= '0' AND t.snapshot_duration >= '0' AND t.commit_duration >= '0' AS measured
FROM stream_ckpt.checkpoints c JOIN stream_ckpt.checkpoint_tasks t USING (pipeline, checkpoint_id)
WHERE checkpoint_id = (SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints WHERE pipeline = c.pipeline) ORDER BY 1, 2;

-- a checkpoint costs what changed: one group of ten
INSERT INTO s VALUES (3, 1, NULL);
SELECT stream_ckpt.checkpoint('p') > 0 AS done;
SELECT rows_in, state_rows, checkpointed_rows FROM stream_ckpt.checkpoints WHERE pipeline = 'p' ORDER BY checkpoint_id DESC LIMIT 1;

-- and nothing is written while nothing changes: however often it is asked for, the log does not grow
SELECT stream_ckpt.checkpoint();
SELECT sum(checkpointed_rows) AS before FROM stream_ckpt.checkpoints WHERE pipeline = 'p' \gset
SELECT stream_ckpt.checkpoint('p') > 0 AS done;
SELECT sum(checkpointed_rows) = :before AS same FROM stream_ckpt.checkpoints WHERE pipeline = 'p';

-- the summary agrees with the list
SELECT s.pipeline, s.triggered = c.n AS triggered, s.completed = c.completed AS completed, s.failed, s.in_progress, s.restored,
       s.duration_min <= s.duration_p50 AND s.duration_p50 <= s.duration_p95 AND s.duration_p95 <= s.duration_p99 AND s.duration_p99 <= s.duration_max AS durations,
       s.checkpointed_bytes_max = c.bytes AS bytes, s.state_bytes_min <= s.state_bytes_avg AND s.state_bytes_avg <= s.state_bytes_max AS state
FROM stream_ckpt.checkpoint_summary s
JOIN (SELECT pipeline, count(*) AS n, count(*) FILTER (WHERE status = 'completed') AS completed, max(checkpointed_bytes) AS bytes
      FROM stream_ckpt.checkpoints GROUP BY pipeline) c USING (pipeline) ORDER BY 1;
SELECT count(*) FROM stream_ckpt.dead_letters;

-- nothing stays of a dropped pipeline
SELECT stream_ckpt.drop_pipeline('p'), stream_ckpt.drop_pipeline('q');
SELECT count(*) FROM stream_ckpt.checkpoints;
SELECT count(*) FROM stream_ckpt.checkpoint_tasks;
SELECT count(*) FROM stream_ckpt.checkpoint_summary;
SELECT count(*) FROM stream_ckpt.restores;
SELECT count(*) FROM stream_ckpt.tasks;
-- of a dropped extension's tables none has rows left
SELECT c.oid::regclass FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
WHERE relkind = 'r' AND relnamespace = 'stream_ckpt'::regnamespace
  AND (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %s', c.oid::regclass), false, true, '')))[1]::text <> '0'
ORDER BY 1;
SET client_min_messages = warning;
DROP SCHEMA views CASCADE;
