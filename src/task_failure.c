/*-------------------------------------------------------------------------
 *
 * task_failure.c
 *		What becomes of a task when something fails, and of nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/rel.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "aggregate.h"
#include "careful.h"
#include "checkpoint.h"
#include "dead.h"
#include "early.h"
#include "halt.h"
#include "linear.h"
#include "part.h"
#include "progress.h"
#include "record.h"
#include "settings.h"
#include "sink.h"
#include "stream.h"
#include "task.h"

/* Longest time before a failed checkpoint is tried again, ms. */
#define CHECKPOINT_RETRY_MAX 10000

static bool
is_transient(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case MAKE_SQLSTATE('0', '8', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'):
			return true;
	}
	switch (sqlerrcode)
	{
		/* From another server, through a foreign table: it stops, starts, or is not there. */
		case ERRCODE_ADMIN_SHUTDOWN:
		case ERRCODE_CRASH_SHUTDOWN:
		case ERRCODE_CANNOT_CONNECT_NOW:
		case ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION:
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_QUERY_CANCELED:
			return true;
	}
	return false;
}

/* A text that was cut off at so many bytes must not end in a part of a character: it gets into tables. */
static void
end_at_character(char *text)
{
	int			length = strlen(text);

	text[pg_mbcliplen(text, length, length)] = '\0';
}

/* Remember an error that stops the pipeline until somebody resumes it. */
static void
store_error(SckptTask *task)
{
	Oid			types[3] = {INT8OID, TEXTOID, INT8OID};
	Datum		values[3];
	SckptUser	saved;

	StartTransactionCommand();
	if (sckpt_catalog_lock_extension())
	{
		values[0] = Int64GetDatum(task->def->id);
		values[1] = CStringGetTextDatum(task->error);
		values[2] = Int64GetDatum(task->def->version);
		sckpt_catalog_enter(&saved);

		/* Not while somebody changes the pipeline: that makes the task anew, or it fails again. */
		SPI_execute_with_args("UPDATE stream_ckpt.pipeline_def SET error = $2 WHERE id = "
							  "(SELECT id FROM stream_ckpt.pipeline_def WHERE id = $1 AND version = $3 FOR NO KEY UPDATE SKIP LOCKED)",
							  3, types, values, NULL, false, 0);
		sckpt_catalog_leave(&saved);
	}
	CommitTransactionCommand();
}

/*
 * A key did not fit the result's btree index.  The index of a table of ours gives way to one on a hash of the keys; then
 * the checkpoint can be tried again.
 */
static bool
index_by_hash(SckptTask *task)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = false;

	if (!task->def->result_owned || task->last == NULL || task->last->nsink == 0)
		return false;
	PG_TRY();
	{
		SckptIdentity identity;

		StartTransactionCommand();
		sckpt_task_become_owner(task, &identity);
		done = sckpt_sink_index_by_hash(task->def->result, task->last->nsink, task->key_columns);
		sckpt_task_become_self(&identity);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		done = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return done;
}

void
sckpt_task_fail(SckptTask *task, ErrorData *error)
{
	bool		starved = error->sqlerrcode == ERRCODE_OUT_OF_MEMORY && error->hint &&
		strstr(error->hint, "stream_ckpt.state_memory") != NULL;
	bool		transient = starved || is_transient(error->sqlerrcode) ||
		(error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED && sckpt_checkpoint_in_progress(task) && index_by_hash(task));

	sckpt_stream_arm(NULL);
	snprintf(task->error, SCKPT_ERROR_BYTES, "%s%s%s%s%s", error->message,
			 error->detail ? ". " : "", error->detail ? error->detail : "",
			 starved && error->hint ? " " : "", starved && error->hint ? error->hint : "");
	strlcpy(task->cause, error->message, SCKPT_ERROR_BYTES);
	end_at_character(task->error);
	end_at_character(task->cause);
	task->backoff = task->backoff == 0 ? sckpt_restart_backoff_min
		: Min((int64) task->backoff * 2, sckpt_restart_backoff_max);

	/* A failed checkpoint leaves the state as it was: try again a few times before starting over. */
	if (task->number >= 0)
	{
		if (!(transient && sckpt_part_decline(task, error)))
			sckpt_part_fail(task, error, starved);
		return;
	}
	if (transient && sckpt_checkpoint_in_progress(task) && !sckpt_checkpoint_may_have_committed(task) &&
		!task->attempt->undefined && task->status == SCKPT_RUNNING && XLogRecPtrIsInvalid(task->halt_before) &&
		++task->failed_checkpoints <= sckpt_tolerable_failed_checkpoints)
	{
		sckpt_checkpoint_record_failure(task, task->error);
		task->checkpoint_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(task->backoff, CHECKPOINT_RETRY_MAX));
		strlcpy(task->waiting, task->error, SCKPT_ERROR_BYTES);
		return;
	}
	if (sckpt_checkpoint_in_progress(task))
		sckpt_checkpoint_record_failure(task, task->error);

	/* What is bad is to be found: from the last checkpoint on, at once. */
	if (!transient && task->status == SCKPT_RUNNING && sckpt_careful_is_data_error(error->sqlerrcode))
	{
		if (task->def->keep_dead ? sckpt_careful_begin(task) : sckpt_halt_go_back(task))
		{
			transient = true;
			task->backoff = 0;
		}
		else if (!task->def->keep_dead && !task->halted)
		{
			strlcat(task->error, ". No row raises it by itself: the pipeline stopped at its last checkpoint.", SCKPT_ERROR_BYTES);
			end_at_character(task->error);
		}
	}

	sckpt_task_stop(task);
	task->starved = starved;
	if (transient)
		task->restarts++;
	task->retry_at = transient ? TimestampTzPlusMilliseconds(GetCurrentTimestamp(), task->backoff) : 0;
	task->status = starved || !transient ? SCKPT_FAILED : SCKPT_RESTARTING;
	if (!transient)
		store_error(task);
}

static void
task_context(void *arg)
{
	errcontext("pipeline \"%s\"", ((SckptTask *) arg)->def->name);
}

bool
sckpt_task_guard(SckptTask *task, SckptTaskWork work, void *arg)
{
	ErrorContextCallback callback = {error_context_stack, task_context, task};
	MemoryContext context = CurrentMemoryContext;
	TimestampTz started = GetCurrentTimestamp();
	volatile bool ok = true;

	error_context_stack = &callback;
	PG_TRY();
	{
		work(task, arg);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false;
		EmitErrorReport();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && error->detail == NULL &&
			TimestampDifferenceExceeds(started, GetCurrentTimestamp(), sckpt_checkpoint_timeout))
			error->detail = psprintf("It took longer than stream_ckpt.checkpoint_timeout, which is %d ms.", sckpt_checkpoint_timeout);
		FlushErrorState();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(context);
		sckpt_task_fail(task, error);
		sckpt_task_publish(task, InvalidXLogRecPtr);
		FreeErrorData(error);
		ok = false;
	}
	PG_END_TRY();
	error_context_stack = callback.previous;

	/* Its code may have left advisory locks of the session, which is that of other pipelines, too. */
	LockReleaseAll(USER_LOCKMETHOD, true);
	MemoryContextSwitchTo(context);
	task->busy_us += GetCurrentTimestamp() - started;
	return ok;
}
