/* stream_ckpt--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION stream_ckpt" to load this file. \quit

COMMENT ON SCHEMA stream_ckpt IS 'continuous queries over streams, with exactly-once checkpoints';

/* ---- Streams are foreign tables of this server ---- */

CREATE FUNCTION stream_ckpt.fdw_handler() RETURNS fdw_handler
AS 'MODULE_PATHNAME', 'stream_ckpt_fdw_handler' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.fdw_handler() IS 'foreign-data wrapper handler: INSERT and COPY write rows to the log';

CREATE FUNCTION stream_ckpt.fdw_validator(options text[], catalog oid) RETURNS void
AS 'MODULE_PATHNAME', 'stream_ckpt_fdw_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.fdw_validator(text[], oid) IS 'checks the options of a stream: event_time, watermark_delay, idle_timeout';

CREATE FOREIGN DATA WRAPPER stream_ckpt
	HANDLER stream_ckpt.fdw_handler VALIDATOR stream_ckpt.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER stream_ckpt IS 'streams: rows that live in the write-ahead log';

CREATE SERVER stream_ckpt FOREIGN DATA WRAPPER stream_ckpt;
COMMENT ON SERVER stream_ckpt IS 'the server of all streams: CREATE FOREIGN TABLE … SERVER stream_ckpt';

/* ---- Tables of our own; read through the views below ---- */

CREATE TABLE stream_ckpt.pipeline_def (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE,
	owner regrole NOT NULL,
	result regclass NOT NULL,
	result_owned boolean NOT NULL,
	query text NOT NULL,
	stateful boolean NOT NULL,
	streams regclass[] NOT NULL,
	columns smallint[] NOT NULL,
	search_path text NOT NULL,
	timezone text NOT NULL,
	datestyle text NOT NULL,
	intervalstyle text NOT NULL,
	text_search_config text NOT NULL,
	emit text NOT NULL,
	on_error text NOT NULL,
	checkpoint_interval interval,
	retained_checkpoints int,
	parallelism int NOT NULL,
	allowed_lateness interval NOT NULL,
	state_ttl interval,
	paused boolean NOT NULL DEFAULT false,
	error text,
	created_at timestamptz NOT NULL DEFAULT now(),
	created_xid xid NOT NULL,
	start pg_lsn NOT NULL,
	home_database oid NOT NULL,
	home_system text NOT NULL,
	encoding text NOT NULL DEFAULT pg_catalog.getdatabaseencoding(),
	arriving boolean NOT NULL DEFAULT false,
	version bigint NOT NULL DEFAULT 1,
	closed_until timestamptz
);
COMMENT ON TABLE stream_ckpt.pipeline_def IS 'pipelines as they were defined; see the view pipelines';

CREATE TABLE stream_ckpt.pipeline_position (
	pipeline_id bigint PRIMARY KEY,
	last_checkpoint bigint NOT NULL DEFAULT 0,
	next_checkpoint bigint NOT NULL DEFAULT 1,
	position pg_lsn NOT NULL,
	restart pg_lsn NOT NULL,
	rows_in bigint NOT NULL DEFAULT 0,
	rows_out bigint NOT NULL DEFAULT 0,
	late_rows bigint NOT NULL DEFAULT 0,
	dead_letters bigint NOT NULL DEFAULT 0,
	watermark timestamptz,
	clock timestamptz,
	stream_watermarks timestamptz[] NOT NULL DEFAULT '{}',
	stream_idle boolean[] NOT NULL DEFAULT '{}',
	stream_managed boolean[] NOT NULL DEFAULT '{}',
	stream_rows pg_lsn[] NOT NULL DEFAULT '{}',
	chunks int NOT NULL DEFAULT 0,
	layout int NOT NULL DEFAULT 0,
	restarts bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 30);
COMMENT ON TABLE stream_ckpt.pipeline_position IS
'how far into the log the last completed checkpoint of each pipeline reaches; arrays stream_… are in the order of pipeline_def.streams; layout: by how many tasks its chunks were written, + 256 × how many stages were spread over them';

CREATE TABLE stream_ckpt.checkpoint_log (
	pipeline_id bigint NOT NULL,
	checkpoint_id bigint NOT NULL,
	kind text NOT NULL DEFAULT 'checkpoint',
	label text,
	status text NOT NULL,
	triggered_at timestamptz NOT NULL,
	completed_at timestamptz,
	position pg_lsn,
	watermark timestamptz,
	tasks int NOT NULL,
	acknowledged int NOT NULL,
	rows_in bigint,
	state_rows bigint,
	state_bytes bigint,
	checkpointed_rows bigint,
	checkpointed_bytes bigint,
	error text,
	PRIMARY KEY (pipeline_id, checkpoint_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE stream_ckpt.checkpoint_log IS 'history of checkpoints; see the view checkpoints';

CREATE TABLE stream_ckpt.checkpoint_task_log (
	pipeline_id bigint NOT NULL,
	checkpoint_id bigint NOT NULL,
	task int NOT NULL,
	status text NOT NULL,
	acknowledged_at timestamptz,
	start_delay interval,
	snapshot_duration interval,
	commit_duration interval,
	state_rows bigint,
	state_bytes bigint,
	checkpointed_rows bigint,
	checkpointed_bytes bigint,
	rows_in bigint,
	PRIMARY KEY (pipeline_id, checkpoint_id, task)
) WITH (fillfactor = 70);
COMMENT ON TABLE stream_ckpt.checkpoint_task_log IS 'history of checkpoints by task; see the view checkpoint_tasks';

CREATE TABLE stream_ckpt.chunk (
	pipeline_id bigint NOT NULL,
	stage int NOT NULL,
	task int NOT NULL,
	chunk_id bigint NOT NULL,
	checkpoint_id bigint NOT NULL,
	entries int NOT NULL,
	bytes bigint NOT NULL,
	crc bigint NOT NULL,
	payload bytea NOT NULL,
	lives int8multirange NOT NULL,
	PRIMARY KEY (pipeline_id, stage, task, chunk_id)
);
COMMENT ON TABLE stream_ckpt.chunk IS
'operator state of checkpoints, in portable form; lives: the ids of the checkpoints that a chunk belongs to';
DO $$
BEGIN
	EXECUTE 'ALTER TABLE stream_ckpt.chunk ALTER COLUMN payload SET COMPRESSION lz4';
EXCEPTION WHEN feature_not_supported THEN
	NULL;	-- a server built without lz4: pglz serves
END $$;

CREATE TABLE stream_ckpt.dead_letter (
	pipeline_id bigint NOT NULL,
	dead_letter_id bigint NOT NULL,
	stream regclass,
	position pg_lsn NOT NULL,
	row_data jsonb,
	sqlstate text NOT NULL,
	error text NOT NULL,
	failed_at timestamptz NOT NULL,
	record pg_lsn,
	ordinal bigint NOT NULL,
	stage int NOT NULL,
	image bytea,
	retriable boolean NOT NULL,
	PRIMARY KEY (pipeline_id, dead_letter_id),
	UNIQUE (pipeline_id, position, record, ordinal, stage)
);
COMMENT ON TABLE stream_ckpt.dead_letter IS 'rows that a pipeline could not process; see the view dead_letters';

CREATE TABLE stream_ckpt.retained (
	pipeline_id bigint NOT NULL,
	checkpoint_id bigint NOT NULL,
	kind text NOT NULL,
	label text,
	position pg_lsn NOT NULL,
	restart pg_lsn NOT NULL,
	rows_in bigint NOT NULL,
	rows_out bigint NOT NULL,
	late_rows bigint NOT NULL,
	dead_letters bigint NOT NULL,
	watermark timestamptz,
	clock timestamptz,
	stream_watermarks timestamptz[] NOT NULL,
	stream_idle boolean[] NOT NULL,
	stream_managed boolean[] NOT NULL,
	stream_rows pg_lsn[] NOT NULL,
	chunks int NOT NULL,
	layout int NOT NULL,
	closed_until timestamptz,
	query text NOT NULL,
	PRIMARY KEY (pipeline_id, checkpoint_id),
	UNIQUE (pipeline_id, label)
);
COMMENT ON TABLE stream_ckpt.retained IS
'checkpoints besides the last one that a pipeline can be restored to; as pipeline_position was; query: a hash of it';

CREATE TABLE stream_ckpt.touched (
	pipeline_id bigint NOT NULL,
	checkpoint_id bigint NOT NULL,
	part int NOT NULL,
	kind text NOT NULL,
	bytes bytea,
	xids xid[],
	filenode oid,
	rows bigint,
	letters_after bigint,
	letters stream_ckpt.dead_letter[],
	PRIMARY KEY (pipeline_id, checkpoint_id, part)
);
COMMENT ON TABLE stream_ckpt.touched IS
'what checkpoints after the oldest restorable one did to results, and restores took away: to undo them';

CREATE TABLE stream_ckpt.restore_log (
	restore_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	pipeline_id bigint NOT NULL,
	task int NOT NULL,
	checkpoint_id bigint NOT NULL,
	restored_at timestamptz NOT NULL,
	duration interval NOT NULL,
	state_rows bigint NOT NULL,
	state_bytes bigint NOT NULL,
	rows_replayed bigint,
	cause text NOT NULL
);
CREATE INDEX ON stream_ckpt.restore_log (pipeline_id, restore_id);
COMMENT ON TABLE stream_ckpt.restore_log IS 'history of restores; see the view restores';

/*
 * ---- Dumps: pipelines travel with the state of their last checkpoint, not with the history before it, nor with savepoints, whose log is
 * not there ----
 */

SELECT pg_catalog.pg_extension_config_dump('stream_ckpt.pipeline_def', '');
SELECT pg_catalog.pg_extension_config_dump('stream_ckpt.pipeline_def_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('stream_ckpt.pipeline_position', '');
SELECT pg_catalog.pg_extension_config_dump('stream_ckpt.chunk', 'WHERE upper_inf(lives)');
SELECT pg_catalog.pg_extension_config_dump('stream_ckpt.dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('stream_ckpt.checkpoint_log',
	'WHERE EXISTS (SELECT FROM stream_ckpt.pipeline_position p WHERE p.pipeline_id = checkpoint_log.pipeline_id AND p.last_checkpoint = checkpoint_log.checkpoint_id)');
SELECT pg_catalog.pg_extension_config_dump('stream_ckpt.checkpoint_task_log',
	'WHERE EXISTS (SELECT FROM stream_ckpt.pipeline_position p WHERE p.pipeline_id = checkpoint_task_log.pipeline_id AND p.last_checkpoint = checkpoint_task_log.checkpoint_id)');

CREATE FUNCTION stream_ckpt.note_arrival() RETURNS trigger
AS 'MODULE_PATHNAME', 'stream_ckpt_note_arrival' LANGUAGE C;
COMMENT ON FUNCTION stream_ckpt.note_arrival() IS 'notices pipelines that a restored dump brings';
REVOKE EXECUTE ON FUNCTION stream_ckpt.note_arrival() FROM PUBLIC;
CREATE TRIGGER arrival AFTER INSERT ON stream_ckpt.pipeline_def
	FOR EACH STATEMENT EXECUTE FUNCTION stream_ckpt.note_arrival();
CREATE TRIGGER arrival AFTER INSERT ON stream_ckpt.pipeline_position
	FOR EACH STATEMENT EXECUTE FUNCTION stream_ckpt.note_arrival();

/* ---- Streams ---- */

CREATE FUNCTION stream_ckpt.create_stream(name text, columns text, event_time name DEFAULT NULL,
	watermark_delay interval DEFAULT '0', idle_timeout interval DEFAULT NULL) RETURNS regclass
AS 'MODULE_PATHNAME', 'stream_ckpt_create_stream' LANGUAGE C;
COMMENT ON FUNCTION stream_ckpt.create_stream(text, text, name, interval, interval) IS
'create a stream; columns is what stands between the parentheses of CREATE TABLE';

CREATE FUNCTION stream_ckpt.drop_stream(name text, cascade boolean DEFAULT false) RETURNS void
AS 'MODULE_PATHNAME', 'stream_ckpt_drop_stream' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.drop_stream(text, boolean) IS
'drop a stream; with cascade also the pipelines that read it and their results';

CREATE FUNCTION stream_ckpt.advance_watermark(stream regclass, watermark timestamptz) RETURNS void
AS 'MODULE_PATHNAME', 'stream_ckpt_advance_watermark' LANGUAGE C;
COMMENT ON FUNCTION stream_ckpt.advance_watermark(regclass, timestamptz) IS
'say that no row with an earlier event time is to be expected; takes effect with this transaction, in order with its rows';

/* ---- Pipelines ---- */

CREATE FUNCTION stream_ckpt.create_pipeline(name text, query text, sink regclass DEFAULT NULL,
	emit text DEFAULT 'changes', on_error text DEFAULT 'stop', checkpoint_interval interval DEFAULT NULL,
	retained_checkpoints int DEFAULT NULL, parallelism int DEFAULT 1, allowed_lateness interval DEFAULT '0',
	state_ttl interval DEFAULT NULL) RETURNS regclass
AS 'MODULE_PATHNAME', 'stream_ckpt_create_pipeline' LANGUAGE C;
COMMENT ON FUNCTION stream_ckpt.create_pipeline(text, text, regclass, text, text, interval, int, int, interval, interval) IS
'start a continuous query over the rows inserted into a stream from now on; returns the result relation';

CREATE FUNCTION stream_ckpt.alter_pipeline(name text, query text DEFAULT NULL, sink regclass DEFAULT NULL,
	emit text DEFAULT NULL, on_error text DEFAULT NULL, checkpoint_interval interval DEFAULT NULL,
	retained_checkpoints int DEFAULT NULL, parallelism int DEFAULT NULL, allowed_lateness interval DEFAULT NULL,
	state_ttl interval DEFAULT NULL, reset_state boolean DEFAULT false) RETURNS void
AS 'MODULE_PATHNAME', 'stream_ckpt_alter_pipeline' LANGUAGE C;
COMMENT ON FUNCTION stream_ckpt.alter_pipeline(text, text, regclass, text, text, interval, int, int, interval, interval, boolean) IS
'change the query of a pipeline, which keeps the state of what is unchanged, or its options; with reset_state it starts over';

CREATE FUNCTION stream_ckpt.drop_pipeline(name text, keep_result boolean DEFAULT false) RETURNS void
AS 'MODULE_PATHNAME', 'stream_ckpt_drop_pipeline' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.drop_pipeline(text, boolean) IS
'drop a pipeline with its state and, unless keep_result, the result table made for it';

CREATE FUNCTION stream_ckpt.pause_pipeline(name text) RETURNS void
AS 'MODULE_PATHNAME', 'stream_ckpt_pause_pipeline' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.pause_pipeline(text) IS
'stop a pipeline at its last checkpoint; the log keeps what it has not read';

CREATE FUNCTION stream_ckpt.resume_pipeline(name text, accept_gap boolean DEFAULT false) RETURNS void
AS 'MODULE_PATHNAME', 'stream_ckpt_resume_pipeline' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.resume_pipeline(text, boolean) IS
'let a paused or failed pipeline go on from its last checkpoint; with accept_gap, where its log is lost, from now on';

CREATE FUNCTION stream_ckpt.retry_dead_letters(pipeline text) RETURNS bigint
AS 'MODULE_PATHNAME', 'stream_ckpt_retry_dead_letters' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.retry_dead_letters(text) IS
'give a pipeline its dead rows again, once this transaction has committed; returns how many';

CREATE FUNCTION stream_ckpt.explain_pipeline(name text) RETURNS SETOF text
AS 'MODULE_PATHNAME', 'stream_ckpt_explain_pipeline' LANGUAGE C STRICT ROWS 20;
COMMENT ON FUNCTION stream_ckpt.explain_pipeline(text) IS
'show the stages, operators, keys, plans and live counters of a pipeline';

/* ---- Checkpoints ---- */

CREATE FUNCTION stream_ckpt.checkpoint(pipeline text, timeout interval DEFAULT '1 minute') RETURNS bigint
AS 'MODULE_PATHNAME', 'stream_ckpt_checkpoint_pipeline' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.checkpoint(text, interval) IS
'wait for a checkpoint that covers every row committed before the call; returns its id, or that of the last one when nothing changed since';

CREATE FUNCTION stream_ckpt.checkpoint(timeout interval DEFAULT '1 minute') RETURNS void
AS 'MODULE_PATHNAME', 'stream_ckpt_checkpoint_all' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.checkpoint(interval) IS
'the same for every running pipeline, following chains through streams';

CREATE FUNCTION stream_ckpt.savepoint(pipeline text, label text) RETURNS bigint
AS 'MODULE_PATHNAME', 'stream_ckpt_savepoint' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.savepoint(text, text) IS
'take a checkpoint that covers every row committed before the call, and keep it until drop_savepoint(); returns its id';

CREATE FUNCTION stream_ckpt.drop_savepoint(pipeline text, label text) RETURNS void
AS 'MODULE_PATHNAME', 'stream_ckpt_drop_savepoint' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.drop_savepoint(text, text) IS
'let go of a savepoint, and of the log and the state that only it needs';

CREATE FUNCTION stream_ckpt.restore_pipeline(pipeline text, checkpoint_id bigint, keep_results boolean DEFAULT false) RETURNS void
AS 'MODULE_PATHNAME', 'stream_ckpt_restore_pipeline' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.restore_pipeline(text, bigint, boolean) IS
'put a pipeline''s state, result and position back to those of a retained checkpoint; with keep_results not the result, where it cannot be taken back';

/* ---- Windows ----
 *
 * SQL functions, which PostgreSQL inlines where they stand in FROM.  Intervals that cannot work are refused by the
 * functions …_valid and …_count, which are constants of the plan when the intervals are. (Not isfinite(ts): the planner
 * knows nothing about it.)
 */

CREATE FUNCTION stream_ckpt.tumble_valid(size interval, origin timestamptz) RETURNS boolean
AS 'MODULE_PATHNAME', 'stream_ckpt_tumble_valid' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.tumble_valid(interval, timestamptz) IS
'checks the arguments of tumble()';

CREATE FUNCTION stream_ckpt.tumble_start(ts timestamptz, size interval, origin timestamptz) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'stream_ckpt_tumble_start_tz' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.tumble_start(timestamptz, interval, timestamptz) IS
'start of the window that tumble() gives';

CREATE FUNCTION stream_ckpt.tumble_end(ts timestamptz, size interval, origin timestamptz) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'stream_ckpt_tumble_end_tz' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.tumble_end(timestamptz, interval, timestamptz) IS
'end of the window that tumble() gives';

CREATE FUNCTION stream_ckpt.tumble(ts timestamptz, size interval, origin timestamptz DEFAULT NULL)
	RETURNS TABLE (window_start timestamptz, window_end timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT stream_ckpt.tumble_start(ts, size, origin), stream_ckpt.tumble_end(ts, size, origin)
	WHERE stream_ckpt.tumble_valid(size, origin) AND ts <> 'infinity' AND ts <> '-infinity';
END;
COMMENT ON FUNCTION stream_ckpt.tumble(timestamptz, interval, timestamptz) IS
'the window of this size that contains ts; they follow one another. Months follow the calendar of the session''s time zone';

CREATE FUNCTION stream_ckpt.tumble_valid(size interval, origin timestamp) RETURNS boolean
AS 'MODULE_PATHNAME', 'stream_ckpt_tumble_valid' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.tumble_valid(interval, timestamp) IS
'checks the arguments of tumble()';

CREATE FUNCTION stream_ckpt.tumble_start(ts timestamp, size interval, origin timestamp) RETURNS timestamp
AS 'MODULE_PATHNAME', 'stream_ckpt_tumble_start' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.tumble_start(timestamp, interval, timestamp) IS
'start of the window that tumble() gives';

CREATE FUNCTION stream_ckpt.tumble_end(ts timestamp, size interval, origin timestamp) RETURNS timestamp
AS 'MODULE_PATHNAME', 'stream_ckpt_tumble_end' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.tumble_end(timestamp, interval, timestamp) IS
'end of the window that tumble() gives';

CREATE FUNCTION stream_ckpt.tumble(ts timestamp, size interval, origin timestamp DEFAULT NULL)
	RETURNS TABLE (window_start timestamp, window_end timestamp)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT stream_ckpt.tumble_start(ts, size, origin), stream_ckpt.tumble_end(ts, size, origin)
	WHERE stream_ckpt.tumble_valid(size, origin) AND ts <> 'infinity' AND ts <> '-infinity';
END;
COMMENT ON FUNCTION stream_ckpt.tumble(timestamp, interval, timestamp) IS
'the window of this size that contains ts; they follow one another. Months follow the calendar';

CREATE FUNCTION stream_ckpt.hop_count(slide interval, size interval, origin timestamptz) RETURNS int
AS 'MODULE_PATHNAME', 'stream_ckpt_hop_count' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.hop_count(interval, interval, timestamptz) IS
'checks the arguments of hop(); in how many of its windows a time is';

CREATE FUNCTION stream_ckpt.hop_start(ts timestamptz, slide interval, size interval, origin timestamptz, n int) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'stream_ckpt_hop_start' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.hop_start(timestamptz, interval, interval, timestamptz, int) IS
'start of the n-th window that hop() gives';

CREATE FUNCTION stream_ckpt.hop_end(ts timestamptz, slide interval, size interval, origin timestamptz, n int) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'stream_ckpt_hop_end' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.hop_end(timestamptz, interval, interval, timestamptz, int) IS
'end of the n-th window that hop() gives';

CREATE FUNCTION stream_ckpt.hop(ts timestamptz, slide interval, size interval, origin timestamptz DEFAULT NULL)
	RETURNS TABLE (window_start timestamptz, window_end timestamptz)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
	SELECT stream_ckpt.hop_start(ts, slide, size, origin, n), stream_ckpt.hop_end(ts, slide, size, origin, n)
	FROM generate_series(1, stream_ckpt.hop_count(slide, size, origin)) n
	WHERE ts <> 'infinity' AND ts <> '-infinity';
END;
COMMENT ON FUNCTION stream_ckpt.hop(timestamptz, interval, interval, timestamptz) IS
'the windows of this size that contain ts; one starts every slide';

CREATE FUNCTION stream_ckpt.hop_count(slide interval, size interval, origin timestamp) RETURNS int
AS 'MODULE_PATHNAME', 'stream_ckpt_hop_count' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.hop_count(interval, interval, timestamp) IS
'checks the arguments of hop(); in how many of its windows a time is';

CREATE FUNCTION stream_ckpt.hop_start(ts timestamp, slide interval, size interval, origin timestamp, n int) RETURNS timestamp
AS 'MODULE_PATHNAME', 'stream_ckpt_hop_start' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.hop_start(timestamp, interval, interval, timestamp, int) IS
'start of the n-th window that hop() gives';

CREATE FUNCTION stream_ckpt.hop_end(ts timestamp, slide interval, size interval, origin timestamp, n int) RETURNS timestamp
AS 'MODULE_PATHNAME', 'stream_ckpt_hop_end' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.hop_end(timestamp, interval, interval, timestamp, int) IS
'end of the n-th window that hop() gives';

CREATE FUNCTION stream_ckpt.hop(ts timestamp, slide interval, size interval, origin timestamp DEFAULT NULL)
	RETURNS TABLE (window_start timestamp, window_end timestamp)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
	SELECT stream_ckpt.hop_start(ts, slide, size, origin, n), stream_ckpt.hop_end(ts, slide, size, origin, n)
	FROM generate_series(1, stream_ckpt.hop_count(slide, size, origin)) n
	WHERE ts <> 'infinity' AND ts <> '-infinity';
END;
COMMENT ON FUNCTION stream_ckpt.hop(timestamp, interval, interval, timestamp) IS
'the windows of this size that contain ts; one starts every slide';

CREATE FUNCTION stream_ckpt.cumulate_count(step interval, size interval, origin timestamptz) RETURNS int
AS 'MODULE_PATHNAME', 'stream_ckpt_cumulate_count' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.cumulate_count(interval, interval, timestamptz) IS
'checks the arguments of cumulate(); in how many of its windows a time is at most';

CREATE FUNCTION stream_ckpt.cumulate_start(ts timestamptz, step interval, size interval, origin timestamptz, n int) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'stream_ckpt_cumulate_start' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.cumulate_start(timestamptz, interval, interval, timestamptz, int) IS
'start of the n-th window that cumulate() gives, NULL when there are fewer';

CREATE FUNCTION stream_ckpt.cumulate_end(ts timestamptz, step interval, size interval, origin timestamptz, n int) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'stream_ckpt_cumulate_end' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.cumulate_end(timestamptz, interval, interval, timestamptz, int) IS
'end of the n-th window that cumulate() gives, NULL when there are fewer';

CREATE FUNCTION stream_ckpt.cumulate(ts timestamptz, step interval, size interval, origin timestamptz DEFAULT NULL)
	RETURNS TABLE (window_start timestamptz, window_end timestamptz)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
	SELECT stream_ckpt.cumulate_start(ts, step, size, origin, n), stream_ckpt.cumulate_end(ts, step, size, origin, n)
	FROM generate_series(1, stream_ckpt.cumulate_count(step, size, origin)) n
	WHERE ts <> 'infinity' AND ts <> '-infinity' AND stream_ckpt.cumulate_end(ts, step, size, origin, n) IS NOT NULL;
END;
COMMENT ON FUNCTION stream_ckpt.cumulate(timestamptz, interval, interval, timestamptz) IS
'the windows that contain ts; they grow by step up to size, then start anew';

CREATE FUNCTION stream_ckpt.cumulate_count(step interval, size interval, origin timestamp) RETURNS int
AS 'MODULE_PATHNAME', 'stream_ckpt_cumulate_count' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.cumulate_count(interval, interval, timestamp) IS
'checks the arguments of cumulate(); in how many of its windows a time is at most';

CREATE FUNCTION stream_ckpt.cumulate_start(ts timestamp, step interval, size interval, origin timestamp, n int) RETURNS timestamp
AS 'MODULE_PATHNAME', 'stream_ckpt_cumulate_start' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.cumulate_start(timestamp, interval, interval, timestamp, int) IS
'start of the n-th window that cumulate() gives, NULL when there are fewer';

CREATE FUNCTION stream_ckpt.cumulate_end(ts timestamp, step interval, size interval, origin timestamp, n int) RETURNS timestamp
AS 'MODULE_PATHNAME', 'stream_ckpt_cumulate_end' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.cumulate_end(timestamp, interval, interval, timestamp, int) IS
'end of the n-th window that cumulate() gives, NULL when there are fewer';

CREATE FUNCTION stream_ckpt.cumulate(ts timestamp, step interval, size interval, origin timestamp DEFAULT NULL)
	RETURNS TABLE (window_start timestamp, window_end timestamp)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
	SELECT stream_ckpt.cumulate_start(ts, step, size, origin, n), stream_ckpt.cumulate_end(ts, step, size, origin, n)
	FROM generate_series(1, stream_ckpt.cumulate_count(step, size, origin)) n
	WHERE ts <> 'infinity' AND ts <> '-infinity' AND stream_ckpt.cumulate_end(ts, step, size, origin, n) IS NOT NULL;
END;
COMMENT ON FUNCTION stream_ckpt.cumulate(timestamp, interval, interval, timestamp) IS
'the windows that contain ts; they grow by step up to size, then start anew';

CREATE FUNCTION stream_ckpt.only_row(value anyelement, rows bigint) RETURNS anyelement
AS 'MODULE_PATHNAME', 'stream_ckpt_only_row' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.only_row(anyelement, bigint) IS
'what a scalar sub-select over a stream gives: the value, or an error when it is of several rows';

CREATE FUNCTION stream_ckpt.session_valid(gap interval) RETURNS boolean
AS 'MODULE_PATHNAME', 'stream_ckpt_session_valid' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.session_valid(interval) IS
'checks the argument of session()';

CREATE FUNCTION stream_ckpt.session_end(ts timestamptz, gap interval) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'stream_ckpt_session_end' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.session_end(timestamptz, interval) IS
'end of the window that session() gives';

CREATE FUNCTION stream_ckpt.session(ts timestamptz, gap interval)
	RETURNS TABLE (window_start timestamptz, window_end timestamptz)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT ts, stream_ckpt.session_end(ts, gap)
	WHERE stream_ckpt.session_valid(gap) AND ts <> 'infinity' AND ts <> '-infinity';
END;
COMMENT ON FUNCTION stream_ckpt.session(timestamptz, interval) IS
'the window from ts to ts + gap; a pipeline merges those of a group that overlap';

CREATE FUNCTION stream_ckpt.session_end(ts timestamp, gap interval) RETURNS timestamp
AS 'MODULE_PATHNAME', 'stream_ckpt_session_end' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_ckpt.session_end(timestamp, interval) IS
'end of the window that session() gives';

CREATE FUNCTION stream_ckpt.session(ts timestamp, gap interval)
	RETURNS TABLE (window_start timestamp, window_end timestamp)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT ts, stream_ckpt.session_end(ts, gap)
	WHERE stream_ckpt.session_valid(gap) AND ts <> 'infinity' AND ts <> '-infinity';
END;
COMMENT ON FUNCTION stream_ckpt.session(timestamp, interval) IS
'the window from ts to ts + gap; a pipeline merges those of a group that overlap';

/* ---- Live counters, from shared memory ---- */

CREATE FUNCTION stream_ckpt.pipeline_stats(OUT pipeline_id bigint, OUT status text, OUT error text,
	OUT worker_pid int, OUT "position" pg_lsn, OUT position_time timestamptz, OUT lag_bytes bigint,
	OUT rows_in bigint, OUT rows_out bigint, OUT late_rows bigint, OUT dead_letters bigint, OUT restarts bigint,
	OUT state_rows bigint, OUT state_bytes bigint, OUT busy_ms float8, OUT idle_ms float8,
	OUT watermark timestamptz) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'stream_ckpt_pipeline_stats' LANGUAGE C STRICT ROWS 10;
COMMENT ON FUNCTION stream_ckpt.pipeline_stats() IS
'live counters of this database''s pipelines; times in ms, sizes in bytes; errors only of those whose owner the caller is';

CREATE FUNCTION stream_ckpt.task_stats(OUT pipeline_id bigint, OUT task int, OUT worker_pid int, OUT status text, OUT "position" pg_lsn,
	OUT rows_in bigint, OUT state_rows bigint, OUT state_bytes bigint, OUT busy_ms float8, OUT idle_ms float8) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'stream_ckpt_task_stats' LANGUAGE C STRICT ROWS 10;
COMMENT ON FUNCTION stream_ckpt.task_stats() IS
'live counters of the tasks of parallel pipelines; sizes in bytes, times in milliseconds';

CREATE FUNCTION stream_ckpt.database_stats(OUT worker_pid int, OUT error text, OUT "position" pg_lsn,
	OUT restart pg_lsn, OUT state_bytes bigint) RETURNS record
AS 'MODULE_PATHNAME', 'stream_ckpt_database_stats' LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_ckpt.database_stats() IS
'the log reader of this database: its worker, position, where it would read on after a restart; and the state memory used in the cluster, in bytes';

/* ---- Views ---- */

CREATE VIEW stream_ckpt.streams AS
SELECT c.oid::regclass AS stream,
	(SELECT option_value FROM pg_options_to_table(t.ftoptions) WHERE option_name = 'event_time')::name AS event_time,
	coalesce((SELECT option_value FROM pg_options_to_table(t.ftoptions) WHERE option_name = 'watermark_delay')::interval, '0') AS watermark_delay,
	(SELECT option_value FROM pg_options_to_table(t.ftoptions) WHERE option_name = 'idle_timeout')::interval AS idle_timeout,
	(SELECT max(CASE WHEN cardinality(d.streams) = 1 THEN coalesce(l.watermark, p.watermark)
		ELSE nullif(p.stream_watermarks[array_position(d.streams, c.oid::regclass)], '-infinity') END)
	 FROM stream_ckpt.pipeline_def d
	 JOIN stream_ckpt.pipeline_position p ON p.pipeline_id = d.id
	 LEFT JOIN stream_ckpt.pipeline_stats() l ON l.pipeline_id = d.id
	 WHERE c.oid = ANY (d.streams)) AS watermark,
	(SELECT count(*)::int FROM stream_ckpt.pipeline_def p WHERE c.oid = ANY (p.streams)) AS pipelines
FROM pg_foreign_table t
JOIN pg_foreign_server s ON s.oid = t.ftserver
JOIN pg_class c ON c.oid = t.ftrelid
WHERE s.srvname = 'stream_ckpt';
COMMENT ON VIEW stream_ckpt.streams IS 'streams of this database; watermark: the furthest that a pipeline has seen';

CREATE VIEW stream_ckpt.pipelines AS
SELECT d.name AS pipeline, d.result, d.owner::oid::regrole::text::name AS owner,
	CASE WHEN v.visible THEN d.query END AS query,
	CASE WHEN d.error IS NOT NULL THEN 'failed' WHEN d.paused THEN 'paused' ELSE coalesce(s.status, 'starting') END AS status,
	CASE WHEN v.visible THEN coalesce(d.error, s.error, CASE WHEN s.status IS NULL OR s.status = 'starting' THEN w.error END) END AS error,
	d.emit, d.on_error, d.parallelism, d.checkpoint_interval, d.retained_checkpoints,
	nullif(p.last_checkpoint, 0) AS last_checkpoint,
	(SELECT c.completed_at FROM stream_ckpt.checkpoint_log c
	 WHERE c.pipeline_id = d.id AND c.checkpoint_id = p.last_checkpoint) AS last_checkpoint_at,
	coalesce(s.lag_bytes, pg_wal_lsn_diff(w.insert_position, p.position)::bigint) AS lag_bytes,
	CASE WHEN s.lag_bytes = 0 THEN '0' ELSE clock_timestamp() - s.position_time END AS lag,
	coalesce(s.watermark, p.watermark) AS watermark,
	coalesce(s.state_rows, 0) AS state_rows, coalesce(s.state_bytes, 0) AS state_bytes,
	coalesce(s.rows_in, p.rows_in) AS rows_in, coalesce(s.rows_out, p.rows_out) AS rows_out,
	coalesce(s.late_rows, p.late_rows) AS late_rows, coalesce(s.dead_letters, p.dead_letters) AS dead_letters,
	p.restarts + coalesce(s.restarts, 0) AS restarts, d.created_at,
	(SELECT count(*) FILTER (WHERE r.checkpoint_id <> p.last_checkpoint) FROM stream_ckpt.retained r WHERE r.pipeline_id = d.id)
		+ (p.last_checkpoint > 0)::int AS restorable,
	greatest(pg_wal_lsn_diff(w.insert_position, least(p.restart, (SELECT min(r.restart) FROM stream_ckpt.retained r
		WHERE r.pipeline_id = d.id))), 0)::bigint AS held_bytes
FROM stream_ckpt.pipeline_def d
JOIN stream_ckpt.pipeline_position p ON p.pipeline_id = d.id
LEFT JOIN stream_ckpt.pipeline_stats() s ON s.pipeline_id = d.id
CROSS JOIN LATERAL (SELECT pg_has_role(d.owner::oid, 'USAGE') OR pg_has_role('pg_read_all_stats', 'USAGE')) v(visible)
CROSS JOIN (SELECT error, CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END
			FROM stream_ckpt.database_stats()) w(error, insert_position);
COMMENT ON VIEW stream_ckpt.pipelines IS
'pipelines of this database, with live counters; sizes in bytes; restorable: retained checkpoints and savepoints; held_bytes: the log that it and they need';

CREATE VIEW stream_ckpt.tasks AS
SELECT d.name AS pipeline, coalesce(t.task, 0) AS task, coalesce(t.worker_pid, s.worker_pid) AS worker_pid,
	CASE WHEN d.error IS NOT NULL THEN 'failed' WHEN d.paused THEN 'paused' ELSE coalesce(t.status, s.status, 'starting') END AS status,
	coalesce(t."position", s."position", p.position) AS position,
	coalesce(t.rows_in, s.rows_in, p.rows_in) AS rows_in,
	CASE WHEN t.task > 0 THEN 0 ELSE coalesce(s.rows_out, p.rows_out) END AS rows_out,
	coalesce(t.state_rows, s.state_rows, 0) AS state_rows, coalesce(t.state_bytes, s.state_bytes, 0) AS state_bytes,
	coalesce(t.busy_ms, s.busy_ms, 0) AS busy_ms, coalesce(t.idle_ms, s.idle_ms, 0) AS idle_ms
FROM stream_ckpt.pipeline_def d
JOIN stream_ckpt.pipeline_position p ON p.pipeline_id = d.id
LEFT JOIN stream_ckpt.pipeline_stats() s ON s.pipeline_id = d.id
LEFT JOIN stream_ckpt.task_stats() t ON t.pipeline_id = d.id;
COMMENT ON VIEW stream_ckpt.tasks IS 'tasks of pipelines, and the worker each runs in; busy_ms and idle_ms since that worker started; of a parallel pipeline rows_in since its tasks started, and task 0 writes the rows of all';

CREATE VIEW stream_ckpt.checkpoints AS
SELECT d.name AS pipeline, c.checkpoint_id, c.kind, c.label, c.status, c.triggered_at, c.completed_at,
	c.completed_at - c.triggered_at AS duration, c.position, c.watermark, c.tasks, c.acknowledged, c.rows_in,
	c.state_rows, c.state_bytes, c.checkpointed_rows, c.checkpointed_bytes,
	c.checkpoint_id = p.last_checkpoint OR EXISTS (SELECT FROM stream_ckpt.retained r
		WHERE r.pipeline_id = c.pipeline_id AND r.checkpoint_id = c.checkpoint_id) AS retained,
	CASE WHEN pg_has_role(d.owner::oid, 'USAGE') OR pg_has_role('pg_read_all_stats', 'USAGE') THEN c.error END AS error
FROM stream_ckpt.checkpoint_log c
JOIN stream_ckpt.pipeline_def d ON d.id = c.pipeline_id
JOIN stream_ckpt.pipeline_position p ON p.pipeline_id = d.id;
COMMENT ON VIEW stream_ckpt.checkpoints IS 'history of checkpoints; sizes in bytes';

CREATE VIEW stream_ckpt.checkpoint_tasks AS
SELECT d.name AS pipeline, c.checkpoint_id, c.task, c.status, c.acknowledged_at, c.start_delay, c.snapshot_duration,
	c.commit_duration, c.state_rows, c.state_bytes, c.checkpointed_rows, c.checkpointed_bytes, c.rows_in
FROM stream_ckpt.checkpoint_task_log c
JOIN stream_ckpt.pipeline_def d ON d.id = c.pipeline_id;
COMMENT ON VIEW stream_ckpt.checkpoint_tasks IS 'history of checkpoints by task; sizes in bytes';

CREATE VIEW stream_ckpt.checkpoint_summary AS
SELECT d.name AS pipeline,
	count(c.checkpoint_id) AS triggered,
	count(*) FILTER (WHERE c.status = 'in_progress') AS in_progress,
	count(*) FILTER (WHERE c.status = 'completed') AS completed,
	count(*) FILTER (WHERE c.status = 'failed') AS failed,
	(SELECT count(*) FROM stream_ckpt.restore_log r WHERE r.pipeline_id = d.id) AS restored,
	min(c.completed_at - c.triggered_at) FILTER (WHERE c.status = 'completed') AS duration_min,
	avg(c.completed_at - c.triggered_at) FILTER (WHERE c.status = 'completed') AS duration_avg,
	percentile_cont(0.50) WITHIN GROUP (ORDER BY c.completed_at - c.triggered_at) FILTER (WHERE c.status = 'completed') AS duration_p50,
	percentile_cont(0.95) WITHIN GROUP (ORDER BY c.completed_at - c.triggered_at) FILTER (WHERE c.status = 'completed') AS duration_p95,
	percentile_cont(0.99) WITHIN GROUP (ORDER BY c.completed_at - c.triggered_at) FILTER (WHERE c.status = 'completed') AS duration_p99,
	max(c.completed_at - c.triggered_at) FILTER (WHERE c.status = 'completed') AS duration_max,
	min(c.checkpointed_bytes) FILTER (WHERE c.status = 'completed') AS checkpointed_bytes_min,
	avg(c.checkpointed_bytes) FILTER (WHERE c.status = 'completed') AS checkpointed_bytes_avg,
	percentile_cont(0.50) WITHIN GROUP (ORDER BY c.checkpointed_bytes) FILTER (WHERE c.status = 'completed') AS checkpointed_bytes_p50,
	percentile_cont(0.95) WITHIN GROUP (ORDER BY c.checkpointed_bytes) FILTER (WHERE c.status = 'completed') AS checkpointed_bytes_p95,
	percentile_cont(0.99) WITHIN GROUP (ORDER BY c.checkpointed_bytes) FILTER (WHERE c.status = 'completed') AS checkpointed_bytes_p99,
	max(c.checkpointed_bytes) FILTER (WHERE c.status = 'completed') AS checkpointed_bytes_max,
	min(c.state_bytes) FILTER (WHERE c.status = 'completed') AS state_bytes_min,
	avg(c.state_bytes) FILTER (WHERE c.status = 'completed') AS state_bytes_avg,
	percentile_cont(0.50) WITHIN GROUP (ORDER BY c.state_bytes) FILTER (WHERE c.status = 'completed') AS state_bytes_p50,
	percentile_cont(0.95) WITHIN GROUP (ORDER BY c.state_bytes) FILTER (WHERE c.status = 'completed') AS state_bytes_p95,
	percentile_cont(0.99) WITHIN GROUP (ORDER BY c.state_bytes) FILTER (WHERE c.status = 'completed') AS state_bytes_p99,
	max(c.state_bytes) FILTER (WHERE c.status = 'completed') AS state_bytes_max
FROM stream_ckpt.pipeline_def d
LEFT JOIN stream_ckpt.checkpoint_log c ON c.pipeline_id = d.id
GROUP BY d.id, d.name;
COMMENT ON VIEW stream_ckpt.checkpoint_summary IS 'checkpoints of each pipeline''s kept history in figures; sizes in bytes';

CREATE VIEW stream_ckpt.restores AS
SELECT d.name AS pipeline, r.task, r.checkpoint_id, r.restored_at, r.duration, r.state_rows, r.state_bytes,
	r.rows_replayed,
	CASE WHEN pg_has_role(d.owner::oid, 'USAGE') OR pg_has_role('pg_read_all_stats', 'USAGE') THEN r.cause END AS cause
FROM stream_ckpt.restore_log r
JOIN stream_ckpt.pipeline_def d ON d.id = r.pipeline_id;
COMMENT ON VIEW stream_ckpt.restores IS 'history of restores; rows_replayed: rows read again or anew until the first checkpoint after it';

CREATE VIEW stream_ckpt.dead_letters WITH (security_barrier) AS
SELECT d.name AS pipeline, l.dead_letter_id, l.stream, l.position, l.row_data, l.sqlstate, l.error, l.failed_at,
	l.stage, l.retriable
FROM stream_ckpt.dead_letter l
JOIN stream_ckpt.pipeline_def d ON d.id = l.pipeline_id
WHERE pg_has_role(d.owner::oid, 'USAGE') OR pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW stream_ckpt.dead_letters IS
'rows that a pipeline could not process; stage: 0 for rows of its stream, n for groups and results of its n-th stage, one more than it has stages for result rows that their table refused';

GRANT SELECT ON stream_ckpt.streams, stream_ckpt.pipelines, stream_ckpt.tasks, stream_ckpt.checkpoints,
	stream_ckpt.checkpoint_tasks, stream_ckpt.checkpoint_summary, stream_ckpt.restores, stream_ckpt.dead_letters TO PUBLIC;
