-- The interface that users may rely on: functions with their argument names,
-- views with their columns, settings.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;

-- functions: every named argument in its place; what is listed is promised for later
CREATE TEMP TABLE promised_function (name text, arguments text[]);
INSERT INTO promised_function VALUES
    ('create_stream', '{name,columns,event_time,watermark_delay,idle_timeout}'),
    ('drop_stream', '{name,cascade}'),
    ('advance_watermark', '{stream,watermark}'),
    ('create_pipeline', '{name,query,sink,emit,on_error,checkpoint_interval,retained_checkpoints,parallelism,allowed_lateness,state_ttl}'),
    ('alter_pipeline', '{name,query,emit,on_error,checkpoint_interval,retained_checkpoints,parallelism,allowed_lateness,state_ttl}'),
    ('drop_pipeline', '{name,keep_result}'),
    ('pause_pipeline', '{name}'),
    ('resume_pipeline', '{name}'),
    ('explain_pipeline', '{name}'),
    ('tumble', '{ts,size}'),
    ('hop', '{ts,slide,size}'),
    ('cumulate', '{ts,step,size}'),
    ('session', '{ts,gap}'),
    ('checkpoint', '{pipeline,timeout}'),
    ('checkpoint', '{timeout}'),
    ('savepoint', '{pipeline,label}'),
    ('drop_savepoint', '{pipeline,label}'),
    ('restore_pipeline', '{pipeline,checkpoint_id}'),
    ('retry_dead_letters', '{pipeline}');
SELECT name, arguments AS not_yet_there
FROM promised_function f
WHERE NOT EXISTS (SELECT FROM pg_proc p
                  WHERE p.pronamespace = 'stream_ckpt'::regnamespace
                    AND p.proname = f.name
                    AND CASE f.name WHEN 'alter_pipeline' THEN p.proargnames @> f.arguments
                             ELSE p.proargnames[1:cardinality(f.arguments)] = f.arguments END)
ORDER BY 1, 2;

-- what can be left out is optional
SELECT proname, pronargs - pronargdefaults AS required
FROM pg_proc
WHERE pronamespace = 'stream_ckpt'::regnamespace
  AND proname IN ('create_stream', 'drop_stream', 'create_pipeline', 'drop_pipeline', 'alter_pipeline')
ORDER BY 1;

-- everything there has a comment
SELECT p.oid::regprocedure AS uncommented_function
FROM pg_proc p
WHERE p.pronamespace = 'stream_ckpt'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
ORDER BY 1;
SELECT c.oid::regclass AS uncommented_relation
FROM pg_class c
WHERE c.relnamespace = 'stream_ckpt'::regnamespace AND c.relkind IN ('r', 'v')
  AND obj_description(c.oid, 'pg_class') IS NULL
ORDER BY 1;

-- views: column and type
CREATE TEMP TABLE promised_column (view text, columns text);
INSERT INTO promised_column VALUES
    ('streams', 'stream regclass, event_time name, watermark_delay interval, idle_timeout interval, watermark timestamptz, pipelines int4'),
    ('pipelines', 'pipeline text, result regclass, owner name, query text, status text, error text, emit text, on_error text, parallelism int4, '
                  'checkpoint_interval interval, retained_checkpoints int4, last_checkpoint int8, last_checkpoint_at timestamptz, lag_bytes int8, '
                  'lag interval, watermark timestamptz, state_rows int8, state_bytes int8, rows_in int8, rows_out int8, late_rows int8, '
                  'dead_letters int8, restarts int8, created_at timestamptz'),
    ('tasks', 'pipeline text, task int4, worker_pid int4, status text, position pg_lsn, rows_in int8, rows_out int8, state_rows int8, '
              'state_bytes int8, busy_ms float8, idle_ms float8'),
    ('checkpoints', 'pipeline text, checkpoint_id int8, kind text, label text, status text, triggered_at timestamptz, completed_at timestamptz, '
                    'duration interval, position pg_lsn, watermark timestamptz, tasks int4, acknowledged int4, rows_in int8, state_rows int8, '
                    'state_bytes int8, checkpointed_rows int8, checkpointed_bytes int8, retained bool, error text'),
    ('checkpoint_tasks', 'pipeline text, checkpoint_id int8, task int4, status text, acknowledged_at timestamptz, start_delay interval, '
                         'snapshot_duration interval, commit_duration interval, state_rows int8, state_bytes int8, checkpointed_rows int8, '
                         'checkpointed_bytes int8, rows_in int8'),
    ('restores', 'pipeline text, task int4, checkpoint_id int8, restored_at timestamptz, duration interval, state_rows int8, state_bytes int8, '
                 'rows_replayed int8, cause text'),
    ('dead_letters', 'pipeline text, dead_letter_id int8, stream regclass, position pg_lsn, row_data jsonb, sqlstate text, error text, '
                     'failed_at timestamptz');
SELECT view, wanted[1] AS column_name, wanted[2] AS wanted_type, format_type(a.atttypid, NULL) AS found_type
FROM (SELECT view, string_to_array(c, ' ') AS wanted FROM promised_column, unnest(string_to_array(columns, ', ')) c) w
     LEFT JOIN pg_attribute a ON a.attrelid = to_regclass('stream_ckpt.' || view)
                             AND a.attname = wanted[1] AND NOT a.attisdropped
WHERE a.atttypid IS DISTINCT FROM wanted[2]::regtype::oid
ORDER BY 1, 2;

-- the summary has its counters, and six figures for each of three sizes
SELECT c AS missing_summary_column
FROM (SELECT unnest('{pipeline,triggered,in_progress,completed,failed,restored}'::text[])
      UNION ALL
      SELECT what || '_' || figure
      FROM unnest('{duration,checkpointed_bytes,state_bytes}'::text[]) what,
           unnest('{min,avg,p50,p95,p99,max}'::text[]) figure) s(c)
WHERE NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'stream_ckpt.checkpoint_summary'::regclass AND attname = c)
ORDER BY 1;

-- settings and their defaults
SELECT name, boot_val, unit, context
FROM pg_settings
WHERE name IN ('stream_ckpt.workers', 'stream_ckpt.checkpoint_interval', 'stream_ckpt.checkpoint_timeout',
               'stream_ckpt.tolerable_failed_checkpoints', 'stream_ckpt.retained_checkpoints', 'stream_ckpt.checkpoint_history',
               'stream_ckpt.state_memory', 'stream_ckpt.max_lag', 'stream_ckpt.restart_backoff_min', 'stream_ckpt.restart_backoff_max',
               'stream_ckpt.log_memory', 'stream_ckpt.fault')
ORDER BY name COLLATE "C";

-- the foreign server is there, and functions are for everyone
SELECT srvname, fdwname FROM pg_foreign_server JOIN pg_foreign_data_wrapper f ON f.oid = srvfdw ORDER BY 1;
SELECT bool_and(has_function_privilege('public', p.oid, 'EXECUTE')) AS executable
FROM pg_proc p JOIN promised_function f ON f.name = p.proname AND p.pronamespace = 'stream_ckpt'::regnamespace;
