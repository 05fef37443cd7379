/*-------------------------------------------------------------------------
 *
 * checkpoint.c
 *		Checkpoints: state, results and position of a pipeline in one
 *		transaction.  The protocol, and what is written beside state and
 *		results (snapshot.c, chunk.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "careful.h"
#include "checkpoint_private.h"
#include "compat.h"
#include "dead.h"
#include "halt.h"
#include "head.h"
#include "progress.h"
#include "record.h"
#include "retain.h"
#include "settings.h"

/* Statements on our own tables, planned once per process. */
static const struct
{
	const char *sql;
	int			nargs;
	Oid			types[16];
}			statements[SCKPT_STATEMENT_COUNT] = {
	[SCKPT_STATEMENT_TRIGGER] = {
		"INSERT INTO stream_ckpt.checkpoint_log (pipeline_id, checkpoint_id, status, triggered_at, tasks, acknowledged) "
		"VALUES ($1, $2, 'in_progress', $3, $4, 0)", 4, {INT8OID, INT8OID, TIMESTAMPTZOID, INT4OID}
	},
	[SCKPT_STATEMENT_TRIGGER_TASK] = {
		"INSERT INTO stream_ckpt.checkpoint_task_log (pipeline_id, checkpoint_id, task, status) "
		"SELECT $1, $2, task, 'in_progress' FROM generate_series(0, $3 - 1) task", 3, {INT8OID, INT8OID, INT4OID}
	},
	[SCKPT_STATEMENT_HOLD] = {
		"SELECT id FROM stream_ckpt.pipeline_def WHERE id = $1 AND version = $2 AND NOT paused AND error IS NULL "
		"FOR KEY SHARE SKIP LOCKED", 2, {INT8OID, INT8OID}
	},
	[SCKPT_STATEMENT_CHUNK] = {
		"INSERT INTO stream_ckpt.chunk (pipeline_id, stage, task, chunk_id, checkpoint_id, entries, bytes, crc, payload, lives) "
		"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, int8multirange(int8range($5, NULL)))", 9,
		{INT8OID, INT4OID, INT4OID, INT8OID, INT8OID, INT4OID, INT8OID, INT8OID, BYTEAOID}
	},
	[SCKPT_STATEMENT_CHUNK_DELETE] = {
		"DELETE FROM stream_ckpt.chunk WHERE pipeline_id = $1 AND stage = $2 AND task = $3 AND chunk_id = ANY ($4)", 4,
		{INT8OID, INT4OID, INT4OID, INT8ARRAYOID}
	},
	[SCKPT_STATEMENT_CHUNK_DELETE_OLD] = {
		"DELETE FROM stream_ckpt.chunk WHERE pipeline_id = $1 AND checkpoint_id < $2", 2, {INT8OID, INT8OID}
	},
	[SCKPT_STATEMENT_CHUNK_END] = {
		"UPDATE stream_ckpt.chunk SET lives = lives - int8multirange(int8range($5, NULL)) "
		"WHERE pipeline_id = $1 AND stage = $2 AND task = $3 AND chunk_id = ANY ($4)", 5,
		{INT8OID, INT4OID, INT4OID, INT8ARRAYOID, INT8OID}
	},
	[SCKPT_STATEMENT_CHUNK_END_OLD] = {
		"UPDATE stream_ckpt.chunk SET lives = lives - int8multirange(int8range($2, NULL)) "
		"WHERE pipeline_id = $1 AND checkpoint_id < $2 AND lives @> $2", 2, {INT8OID, INT8OID}
	},
	[SCKPT_STATEMENT_DEAD_LETTER] = {
		"INSERT INTO stream_ckpt.dead_letter (pipeline_id, dead_letter_id, stream, position, row_data, sqlstate, error, "
		"failed_at, record, ordinal, stage, image, retriable) "
		"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12 IS NOT NULL)", 12,
		{INT8OID, INT8OID, REGCLASSOID, LSNOID, JSONBOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, LSNOID, INT8OID, INT4OID, BYTEAOID}
	},
	[SCKPT_STATEMENT_POSITION] = {
		"UPDATE stream_ckpt.pipeline_position SET last_checkpoint = $2, next_checkpoint = $2 + 1, position = $3, "
		"restart = $4, rows_in = $5, rows_out = $6, late_rows = $7, dead_letters = $8, watermark = $9, clock = $10, "
		"stream_watermarks = $11, stream_idle = $12, stream_managed = $13, stream_rows = $14, chunks = $15, "
		"layout = $16 WHERE pipeline_id = $1", 16,
		{INT8OID, INT8OID, LSNOID, LSNOID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID,
		TIMESTAMPTZARRAYOID, BOOLARRAYOID, BOOLARRAYOID, PG_LSNARRAYOID, INT4OID, INT4OID}
	},
	[SCKPT_STATEMENT_COMPLETE] = {
		"UPDATE stream_ckpt.checkpoint_log SET status = 'completed', completed_at = clock_timestamp(), acknowledged = tasks, "
		"position = $3, rows_in = $4, state_rows = $5, state_bytes = $6, checkpointed_rows = $7, checkpointed_bytes = $8, "
		"watermark = $9 WHERE pipeline_id = $1 AND checkpoint_id = $2 AND status = 'in_progress'", 9,
		{INT8OID, INT8OID, LSNOID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID}
	},
	[SCKPT_STATEMENT_COMPLETE_TASK] = {
		"UPDATE stream_ckpt.checkpoint_task_log t SET status = 'completed', acknowledged_at = $4, "
		"start_delay = $5 - c.triggered_at, snapshot_duration = $4 - $5, commit_duration = clock_timestamp() - $4, "
		"state_rows = $6, state_bytes = $7, checkpointed_rows = $8, checkpointed_bytes = $9, rows_in = $10 "
		"FROM stream_ckpt.checkpoint_log c WHERE c.pipeline_id = $1 AND c.checkpoint_id = $2 "
		"AND t.pipeline_id = $1 AND t.checkpoint_id = $2 AND t.task = $3", 10,
		{INT8OID, INT8OID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID}
	},
	[SCKPT_STATEMENT_PRUNE] = {
		"DELETE FROM stream_ckpt.checkpoint_log c WHERE pipeline_id = $1 AND checkpoint_id <= $2 AND checkpoint_id <> $3 "
		"AND NOT EXISTS (SELECT FROM stream_ckpt.retained r WHERE r.pipeline_id = $1 AND r.checkpoint_id = c.checkpoint_id)", 3,
		{INT8OID, INT8OID, INT8OID}
	},
	[SCKPT_STATEMENT_PRUNE_TASK] = {
		"DELETE FROM stream_ckpt.checkpoint_task_log c WHERE pipeline_id = $1 AND checkpoint_id <= $2 AND checkpoint_id <> $3 "
		"AND NOT EXISTS (SELECT FROM stream_ckpt.retained r WHERE r.pipeline_id = $1 AND r.checkpoint_id = c.checkpoint_id)", 3,
		{INT8OID, INT8OID, INT8OID}
	},
	[SCKPT_STATEMENT_REPLAYED] = {
		"UPDATE stream_ckpt.restore_log SET rows_replayed = $2 WHERE restore_id = $1", 2, {INT8OID, INT8OID}
	},
};

static SPIPlanPtr plans[SCKPT_STATEMENT_COUNT];

uint64
sckpt_checkpoint_execute(SckptStatement statement, Datum *values, const char *nulls)
{
	int			rc;

	if (plans[statement] == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(statements[statement].sql, statements[statement].nargs,
									   (Oid *) statements[statement].types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", statements[statement].sql, SPI_result_code_string(SPI_result));
		plans[statement] = plan;
	}
	rc = SPI_execute_plan(plans[statement], values, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "could not run \"%s\": %s", statements[statement].sql, SPI_result_code_string(rc));
	return SPI_processed;
}

bool
sckpt_checkpoint_in_progress(SckptTask *task)
{
	return task->attempt->id != 0;
}

bool
sckpt_checkpoint_may_have_committed(SckptTask *task)
{
	return task->attempt->id != 0 && task->attempt->committing;
}

void
sckpt_checkpoint_add_rows(SckptTask *task, uint64 rows)
{
	task->attempt->rows_out += rows;
}

/* ---- Trigger ---- */

/* Lock the pipeline's definition, in the version that the task was made of. */
static bool
hold(SckptTask *task)
{
	SckptUser	saved;
	Datum		values[2] = {Int64GetDatum(task->def->id), Int64GetDatum(task->def->version)};
	bool		held;

	sckpt_catalog_enter(&saved);
	held = sckpt_checkpoint_execute(SCKPT_STATEMENT_HOLD, values, NULL) > 0;
	sckpt_catalog_leave(&saved);
	return held;
}

/* Who drops a stream has it locked, and goes for the pipeline's row then, which we have: a linear query must not wait for the stream. */
static bool
lock_streams(SckptTask *task)
{
	ListCell   *lc;

	foreach(lc, task->def->streams)
	{
		if (!ConditionalLockRelationOid(lfirst_oid(lc), AccessShareLock))
			return false;
	}
	return true;
}

/*
 * Start the transaction of a checkpoint, or say that it cannot be had yet: its pipeline is being dropped or paused, or
 * somebody holds a lock on the result.  Waiting here would hold up every other pipeline of the worker.
 */
static bool
start_transaction(SckptTask *task)
{
	LOCKTAG		tag;

	StartTransactionCommand();
	task->waiting[0] = '\0';
	if (!sckpt_catalog_lock_extension())
	{
		CommitTransactionCommand();
		return false;
	}
	if (!hold(task))
	{
		snprintf(task->waiting, SCKPT_ERROR_BYTES, "waiting for the end of a transaction that changes the pipeline");
		CommitTransactionCommand();
		return false;
	}
	if (!ConditionalLockRelationOid(task->def->result, RowExclusiveLock))
	{
		VirtualTransactionId *holders;
		int			count;
		PGPROC	   *proc;

		SET_LOCKTAG_RELATION(tag, MyDatabaseId, task->def->result);
		holders = GetLockConflicts(&tag, RowExclusiveLock, &count);
		proc = count > 0 ? sckpt_virtual_transaction_process(holders[0]) : NULL;
		snprintf(task->waiting, SCKPT_ERROR_BYTES, "waiting for a lock on relation \"%s\" that process %d holds",
				 get_rel_name(task->def->result), proc ? proc->pid : 0);
		CommitTransactionCommand();
		return false;
	}
	if (!lock_streams(task))
	{
		snprintf(task->waiting, SCKPT_ERROR_BYTES, "waiting for a lock on a stream that it reads");
		CommitTransactionCommand();
		return false;
	}
	enable_timeout_after(STATEMENT_TIMEOUT, sckpt_checkpoint_timeout);
	return true;
}

static void
end_transaction(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	CommitTransactionCommand();
}

/* The checkpoint's row, so that an attempt that a crash ends leaves a trace.  Not worth a flush. */
static void
trigger(SckptTask *task)
{
	SckptUser	saved;
	Datum		values[4];

	task->attempt->id = task->def->next_checkpoint;
	task->attempt->committing = false;
	task->attempt->undefined = false;
	task->attempt->triggered_at = GetCurrentTimestamp();
	task->attempt->context = AllocSetContextCreate(task->run_context, "stream_ckpt checkpoint", ALLOCSET_DEFAULT_SIZES);
	memset(task->attempt->snapshots, 0, sizeof(task->attempt->snapshots));
	task->attempt->outcomes = NULL;
	task->attempt->retaining = NULL;
	sckpt_chunk_reset(task);
	task->attempt->rows = task->attempt->bytes = task->attempt->rows_out = task->attempt->rows_deleted = task->attempt->rows_put = 0;
	task->attempt->ndead = list_length(task->dead);

	StartTransactionCommand();
	if (sckpt_catalog_lock_extension() && hold(task))
	{
		values[0] = Int64GetDatum(task->def->id);
		values[1] = Int64GetDatum(task->attempt->id);
		values[2] = TimestampTzGetDatum(task->attempt->triggered_at);
		values[3] = Int32GetDatum(task->ntasks);
		sckpt_catalog_enter(&saved);
		sckpt_checkpoint_execute(SCKPT_STATEMENT_TRIGGER, values, NULL);
		values[2] = Int32GetDatum(task->ntasks);
		sckpt_checkpoint_execute(SCKPT_STATEMENT_TRIGGER_TASK, values, NULL);
		sckpt_catalog_leave(&saved);
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	}
	CommitTransactionCommand();
	task->def->next_checkpoint++;
	sckpt_fault_point("checkpoint-trigger");
}

/* ---- Complete ---- */

/* A watermark or clock as a value; returns 'n' if it is to be NULL. */
static char
time_value(TimestampTz time, Datum *value)
{
	*value = TimestampTzGetDatum(time);
	return time == DT_NOBEGIN ? 'n' : ' ';
}

static void
store_dead_letters(SckptTask *task)
{
	int64		id = task->dead_letters;
	ListCell   *lc;

	foreach(lc, task->dead)
	{
		SckptDeadLetter *letter = lfirst(lc);
		Datum		values[12];
		char		nulls[] = "            ";

		CHECK_FOR_INTERRUPTS();
		values[0] = Int64GetDatum(task->def->id);
		values[1] = Int64GetDatum(++id);
		values[2] = ObjectIdGetDatum(letter->stream);
		nulls[2] = OidIsValid(letter->stream) ? ' ' : 'n';
		values[3] = LSNGetDatum(letter->position);
		values[4] = letter->row;
		nulls[4] = letter->row ? ' ' : 'n';
		values[5] = CStringGetTextDatum(unpack_sql_state(letter->sqlerrcode));
		values[6] = CStringGetTextDatum(letter->error);
		values[7] = TimestampTzGetDatum(letter->failed_at);
		values[8] = LSNGetDatum(letter->record);
		nulls[8] = XLogRecPtrIsInvalid(letter->record) ? 'n' : ' ';
		values[9] = Int64GetDatum(letter->ordinal);
		values[10] = Int32GetDatum(letter->stage);
		values[11] = letter->image;
		nulls[11] = letter->image ? ' ' : 'n';
		sckpt_checkpoint_execute(SCKPT_STATEMENT_DEAD_LETTER, values, nulls);
		pfree(DatumGetPointer(values[5]));
		pfree(DatumGetPointer(values[6]));
	}
}

/* Those that read the result follow our watermark, where it is a stream with event time. */
static void
send_watermark(SckptTask *task)
{
	TimestampTz watermark;

	if (task->output_delay < 0)
		return;
	watermark = sckpt_progress_output(task);
	if (watermark != DT_NOBEGIN)
	{
		(void) sckpt_record_write_watermark(task->def->result, watermark, SCKPT_RECORD_PIPELINE, InvalidXLogRecPtr);

		/* Read it before going to sleep. */
		SetLatch(MyLatch);
	}
}

/* What is known of each stream, as four arrays. */
static void
inflow_values(SckptTask *task, Datum *arrays)
{
	Datum	   *values = palloc(4 * task->ninflows * sizeof(Datum));
	Datum	   *watermarks = values;
	Datum	   *idle = watermarks + task->ninflows;
	Datum	   *managed = idle + task->ninflows;
	Datum	   *rows = managed + task->ninflows;

	for (int i = 0; i < task->ninflows; i++)
	{
		watermarks[i] = TimestampTzGetDatum(task->inflows[i].watermark);
		idle[i] = BoolGetDatum(task->inflows[i].idle);
		managed[i] = BoolGetDatum(task->inflows[i].managed);
		rows[i] = LSNGetDatum(task->inflows[i].rows_lsn);
	}
	arrays[0] = PointerGetDatum(construct_array(watermarks, task->ninflows, TIMESTAMPTZOID, sizeof(TimestampTz),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	arrays[1] = PointerGetDatum(construct_array(idle, task->ninflows, BOOLOID, sizeof(bool), true, TYPALIGN_CHAR));
	arrays[2] = PointerGetDatum(construct_array(managed, task->ninflows, BOOLOID, sizeof(bool), true, TYPALIGN_CHAR));
	arrays[3] = PointerGetDatum(construct_array(rows, task->ninflows, PG_LSNOID, sizeof(XLogRecPtr), FLOAT8PASSBYVAL,
												TYPALIGN_DOUBLE));
}

/* Keep as much of the history up to checkpoint `id` as the setting says, and the last completed one. */
static void
prune(SckptTask *task, int64 id, int64 last)
{
	Datum		values[3];

	if (id <= sckpt_checkpoint_history)
		return;
	values[0] = Int64GetDatum(task->def->id);
	values[1] = Int64GetDatum(id - sckpt_checkpoint_history);
	values[2] = Int64GetDatum(last);
	sckpt_checkpoint_execute(SCKPT_STATEMENT_PRUNE, values, NULL);
	sckpt_checkpoint_execute(SCKPT_STATEMENT_PRUNE_TASK, values, NULL);
}

/* The rows of checkpoint_task_log.  What a head has and writes of its own is task 0's: the rows add up to the checkpoint's. */
static void
complete_tasks(SckptTask *task, uint64 state_rows, Size state_bytes)
{
	SckptAttempt *attempt = task->attempt;
	SckptPartReport rest = {
		.packed_at = attempt->packed_at,
		.started_at = attempt->started_at,
		.state_rows = state_rows,
		.state_bytes = state_bytes,
		.checkpointed_rows = attempt->rows,
		.checkpointed_bytes = attempt->bytes,
		.rows_in = task->rows_in - task->def->rows_in
	};
	Datum		values[10];

	values[0] = Int64GetDatum(task->def->id);
	values[1] = Int64GetDatum(attempt->id);

	/* Task 0 comes last, and gets what is left. */
	for (int i = task->ntasks - 1; i >= 0; i--)
	{
		const SckptPartReport *report = &rest;
		int64		restore_id = task->restore_id;
		int64		rows_in = rest.rows_in;
		int64		replayed = rest.rows_in;
		bool		first = true;

		if (task->head)
		{
			int64		before = sckpt_head_rows_before(task, i);

			report = sckpt_head_report(task, i, &restore_id);
			rows_in = report->rows_in - before;
			replayed = report->rows_in;
			first = before == 0;
		}
		if (i > 0)
		{
			rest.state_rows -= report->state_rows;
			rest.state_bytes -= report->state_bytes;
			rest.checkpointed_rows -= report->checkpointed_rows;
			rest.checkpointed_bytes -= report->checkpointed_bytes;
		}
		else
		{
			rest.packed_at = report->packed_at;
			rest.started_at = report->started_at;
			report = &rest;
		}
		values[2] = Int32GetDatum(i);
		values[3] = TimestampTzGetDatum(report->packed_at);
		values[4] = TimestampTzGetDatum(report->started_at);
		values[5] = Int64GetDatum(report->state_rows);
		values[6] = Int64GetDatum(report->state_bytes);
		values[7] = Int64GetDatum(report->checkpointed_rows);
		values[8] = Int64GetDatum(report->checkpointed_bytes);
		values[9] = Int64GetDatum(rows_in);
		sckpt_checkpoint_execute(SCKPT_STATEMENT_COMPLETE_TASK, values, NULL);
		if (restore_id && first)
		{
			values[0] = Int64GetDatum(restore_id);
			values[1] = Int64GetDatum(replayed);
			sckpt_checkpoint_execute(SCKPT_STATEMENT_REPLAYED, values, NULL);
			values[0] = Int64GetDatum(task->def->id);
			values[1] = Int64GetDatum(attempt->id);
		}
	}
}

/* Dead letters, position and history; the last statements of the transaction. */
static void
store_checkpoint(SckptTask *task, SckptPosition *position)
{
	SckptUser	saved;
	Datum		values[16];
	char		nulls[] = "                ";
	uint64		state_rows;
	Size		state_bytes;

	/* Without what the commit removes. */
	sckpt_task_state_size(task, &state_rows, &state_bytes);
	for (int i = 0; i < task->nstores; i++)
		state_rows -= task->attempt->snapshots[i].nleaving;
	if (task->head)
		sckpt_head_add_state(task, &state_rows, &state_bytes);
	sckpt_catalog_enter(&saved);
	sckpt_chunk_delete_empty(task);
	if (task->laid_out_anew)
		sckpt_chunk_end_old(task);
	store_dead_letters(task);
	values[0] = Int64GetDatum(task->def->id);
	values[1] = Int64GetDatum(task->attempt->id);
	values[2] = LSNGetDatum(position->commit);
	values[3] = LSNGetDatum(position->restart);
	values[4] = Int64GetDatum(task->rows_in);
	values[5] = Int64GetDatum(task->rows_out + task->attempt->rows_out);
	values[6] = Int64GetDatum(task->late_rows);
	values[7] = Int64GetDatum(task->dead_letters + list_length(task->dead));
	nulls[8] = time_value(task->times.watermark, &values[8]);
	nulls[9] = time_value(task->times.clock, &values[9]);
	inflow_values(task, &values[10]);
	values[14] = Int32GetDatum(sckpt_chunk_count(task) + (task->head ? sckpt_head_chunks(task) : 0));
	values[15] = Int32GetDatum(sckpt_task_layout(task));
	if (sckpt_checkpoint_execute(SCKPT_STATEMENT_POSITION, values, nulls) != 1)
		elog(ERROR, "position of pipeline \"%s\" not found", task->def->name);

	values[3] = Int64GetDatum(task->rows_in - task->def->rows_in);
	values[4] = Int64GetDatum(state_rows);
	values[5] = Int64GetDatum(state_bytes);
	values[6] = Int64GetDatum(task->attempt->rows);
	values[7] = Int64GetDatum(task->attempt->bytes);
	if (sckpt_checkpoint_execute(SCKPT_STATEMENT_COMPLETE, values, nulls) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("checkpoint " INT64_FORMAT " of pipeline \"%s\" is not in progress any more",
						task->attempt->id, task->def->name)));
	complete_tasks(task, state_rows, state_bytes);

	sckpt_retain_store(task);
	sckpt_fault_point("cleanup");
	prune(task, task->attempt->id, task->attempt->id);
	sckpt_catalog_leave(&saved);
	send_watermark(task);
}

/* The attempt has committed: what it wrote is what counts from now on. */
static void
switch_state(SckptTask *task, SckptPosition *position)
{
	sckpt_snapshot_switch(task);
	sckpt_task_drop_pending(task);
	task->dead_letters += list_length(task->dead);
	task->dead = NIL;
	task->dead_bytes = 0;
	if (task->dead_context)
		MemoryContextReset(task->dead_context);
	if (task->output_delay >= 0)
		sckpt_progress_output_committed(task);
	task->rows_out += task->attempt->rows_out;
	task->def->last_checkpoint = task->attempt->id;
	task->def->position = position->commit;
	task->def->restart = position->restart;
	task->def->rows_in = task->rows_in;
	task->def->rows_out = task->rows_out;
	task->def->late_rows = task->late_rows;
	task->def->dead_letters = task->dead_letters;
	task->def->watermark = task->times.watermark;
	task->def->clock = task->times.clock;
	memcpy(task->def->inflows, task->inflows, task->ninflows * sizeof(SckptInflow));
	task->restore_id = 0;
	task->laid_out_anew = false;
	task->def->layout = sckpt_task_layout(task);
	task->changed = task->unsent;
	task->unsent = false;
	task->failed_checkpoints = 0;
	task->backoff = 0;
	task->starved = false;
	task->error[0] = '\0';
	task->waiting[0] = '\0';
	sckpt_careful_end_if_due(task);
	sckpt_retain_committed(task);
	sckpt_halt_end_if_past(task);
	MemoryContextDelete(task->attempt->context);
	if (task->head)
		sckpt_head_decide(task, task->attempt->id, true);
	task->attempt->id = 0;
}

bool
sckpt_checkpoint_trigger(SckptTask *task)
{
	if (!start_transaction(task))
		return false;
	end_transaction();
	trigger(task);
	return true;
}

bool
sckpt_checkpoint_resume(SckptTask *task)
{
	if (!start_transaction(task))
		return false;
	task->attempt->rows = task->attempt->bytes = task->attempt->rows_out = task->attempt->rows_deleted = task->attempt->rows_put = 0;
	sckpt_retain_begin(task);
	return true;
}

bool
sckpt_checkpoint_begin(SckptTask *task)
{
	ListCell   *lc;

	if (!sckpt_checkpoint_trigger(task))
		return false;
	sckpt_fault_point("barrier");
	if (!start_transaction(task))
	{
		sckpt_checkpoint_record_failure(task, task->waiting);
		return false;
	}
	task->attempt->started_at = task->attempt->packed_at = GetCurrentTimestamp();
	sckpt_retain_begin(task);
	if (task->noperators == 0)
		sckpt_task_begin_linear(task);
	foreach(lc, task->pending)
	{
		SckptPending *pending = lfirst(lc);

		sckpt_batch_wait_visible(pending->batch, task->known_visible);
		task->attempt->rows_out += sckpt_task_run_linear(task, pending);
	}
	return true;
}

void
sckpt_checkpoint_finish(SckptTask *task, SckptPosition *position)
{
	SckptIdentity identity;

	if (task->noperators > 0 || task->head)
	{
		sckpt_task_become_owner(task, &identity);
		if (task->head)
			sckpt_head_receive(task);
		if (task->noperators > 0)
			sckpt_snapshot_take(task);
		sckpt_task_become_self(&identity);
	}
	else
		task->attempt->packed_at = GetCurrentTimestamp();
	sckpt_fault_point("chunks-written");
	store_checkpoint(task, position);
	sckpt_fault_point("before-commit");
	task->attempt->committing = true;
	end_transaction();
	sckpt_fault_point("after-commit");
	switch_state(task, position);
}

bool
sckpt_checkpoint_take(SckptTask *task, SckptPosition *position)
{
	/* Not part of the attempt: an error in it must start the task over. */
	sckpt_task_propagate(task);
	if (!sckpt_checkpoint_begin(task))
		return false;
	sckpt_checkpoint_finish(task, position);
	return true;
}

void
sckpt_checkpoint_record_failure(SckptTask *task, const char *error)
{
	Oid			types[3] = {INT8OID, INT8OID, TEXTOID};
	Datum		values[3];
	SckptUser	saved;
	int64		id = task->attempt->id;

	sckpt_chunk_reset(task);
	if (sckpt_task_last(task))
		sckpt_task_last(task)->end_results(sckpt_task_last(task));
	if (id)
	{
		/* The next attempt finds these results again. */
		sckpt_dead_forget(task, task->attempt->ndead);
		MemoryContextDelete(task->attempt->context);
		if (task->head)
			sckpt_head_decide(task, id, false);
	}
	task->attempt->id = 0;

	StartTransactionCommand();
	if (sckpt_catalog_lock_extension() && sckpt_catalog_hold(task->def->id, -1))
	{
		values[0] = Int64GetDatum(task->def->id);
		values[1] = Int64GetDatum(id);
		values[2] = CStringGetTextDatum(error);
		sckpt_catalog_enter(&saved);
		SPI_execute_with_args("UPDATE stream_ckpt.checkpoint_log SET status = 'failed', completed_at = clock_timestamp(), "
							  "error = $3 WHERE pipeline_id = $1 AND checkpoint_id = $2 AND status = 'in_progress'",
							  3, types, values, NULL, false, 0);
		SPI_execute_with_args("UPDATE stream_ckpt.checkpoint_task_log SET status = 'failed' "
							  "WHERE pipeline_id = $1 AND checkpoint_id = $2 AND status = 'in_progress'",
							  2, types, values, NULL, false, 0);
		prune(task, id, task->def->last_checkpoint);
		sckpt_catalog_leave(&saved);
	}
	CommitTransactionCommand();
}

void
sckpt_checkpoint_store_positions(List *tasks, SckptPosition *position)
{
	Datum	   *ids = palloc(list_length(tasks) * sizeof(Datum));
	int			nids = 0;
	Datum	   *versions = palloc(list_length(tasks) * sizeof(Datum));
	Oid			types[4] = {INT8ARRAYOID, LSNOID, LSNOID, INT8ARRAYOID};
	Datum		values[4];
	bool		isnull;
	SckptUser	saved;
	ListCell   *lc;

	foreach(lc, tasks)
	{
		Assert(((SckptTask *) lfirst(lc))->number < 0);
		versions[nids] = Int64GetDatum(((SckptTask *) lfirst(lc))->def->version);
		ids[nids++] = Int64GetDatum(((SckptTask *) lfirst(lc))->def->id);
	}
	values[0] = PointerGetDatum(construct_array(ids, nids, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[1] = LSNGetDatum(position->commit);
	values[2] = LSNGetDatum(position->restart);
	values[3] = PointerGetDatum(construct_array(versions, nids, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));

	StartTransactionCommand();
	if (sckpt_catalog_lock_extension())
	{
		sckpt_catalog_enter(&saved);
		if (SPI_execute_with_args("UPDATE stream_ckpt.pipeline_position SET position = $2, restart = $3 WHERE pipeline_id IN "
								  "(SELECT d.id FROM stream_ckpt.pipeline_def d JOIN unnest($1, $4) AS t (id, version) "
								  "ON t.id = d.id AND t.version = d.version FOR KEY SHARE OF d SKIP LOCKED) "
								  "RETURNING pipeline_id", 4, types, values, NULL, false, 0) != SPI_OK_UPDATE_RETURNING)
			elog(ERROR, "could not store positions");
		nids = SPI_processed;
		for (int i = 0; i < nids; i++)
			ids[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
		sckpt_catalog_leave(&saved);
	}
	else
		nids = 0;
	CommitTransactionCommand();

	/* Those that are just being dropped were left out; the drop may yet be rolled back. */
	foreach(lc, tasks)
	{
		SckptPipeline *def = ((SckptTask *) lfirst(lc))->def;

		for (int i = 0; i < nids; i++)
		{
			if (DatumGetInt64(ids[i]) != def->id)
				continue;
			def->position = position->commit;
			def->restart = position->restart;
		}
	}
}
