/*-------------------------------------------------------------------------
 *
 * view.c
 *		Waiting for checkpoints, and live counters: what sessions read from
 *		shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "commands/dbcommands.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/acl.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "pipeline.h"
#include "record.h"
#include "savepoint.h"
#include "settings.h"
#include "shared.h"

PG_FUNCTION_INFO_V1(stream_ckpt_checkpoint_pipeline);
PG_FUNCTION_INFO_V1(stream_ckpt_checkpoint_all);
PG_FUNCTION_INFO_V1(stream_ckpt_pipeline_stats);
PG_FUNCTION_INFO_V1(stream_ckpt_task_stats);
PG_FUNCTION_INFO_V1(stream_ckpt_database_stats);

/* How long savepoint() waits; as long as checkpoint() does by default. */
#define SAVEPOINT_MS 60000

static const char *const status_names[] = {
	[SCKPT_STARTING] = "starting",
	[SCKPT_RUNNING] = "running",
	[SCKPT_PAUSED] = "paused",
	[SCKPT_RESTARTING] = "restarting",
	[SCKPT_FAILED] = "failed",
};

/* ---- checkpoint() ---- */

/* Ask for a checkpoint, or savepoint, and tell how the pipeline is. */
static bool
copy_entry(int64 id, SckptPipelineEntry *copy, XLogRecPtr request, const char *savepoint)
{
	SckptPipelineEntry *entry;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, id);
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		if (entry->requested < request)
			entry->requested = request;
		if (savepoint && entry->savepoint_pid == 0)
		{
			entry->savepoint_pid = MyProcPid;
			strlcpy(entry->savepoint, savepoint, SCKPT_LABEL_BYTES);
			entry->savepoint_after = request;
			entry->savepoint_id = 0;
		}
		*copy = *entry;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	return entry != NULL;
}

/* Do the workers know the tables as they are now?  If there are none, copies why. */
static bool
workers_know(char *error)
{
	SckptDatabase *database;
	bool		synced = false;

	error[0] = '\0';
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	database = sckpt_shared_find_database(MyDatabaseId);
	if (database)
	{
		if (database->workers[0].pid == 0)
			strlcpy(error, database->error, SCKPT_ERROR_BYTES);
		synced = sckpt_shared_synced(database);
	}
	LWLockRelease(sckpt_shared->lock);
	return synced;
}

/* All of them, or the launcher, which starts them. */
static void
wake_workers(void)
{
	SckptDatabase *database;
	bool		running;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	database = sckpt_shared_find_database(MyDatabaseId);
	running = database && database->workers[0].pid != 0;
	if (running)
		sckpt_shared_wake_workers(database);
	LWLockRelease(sckpt_shared->lock);
	if (!running)
		sckpt_shared_wake(MyDatabaseId, false);
}

/* While we wait, somebody may drop it. */
static void
check_still_there(SckptPipeline *pipeline)
{
	SckptPipeline *now;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt wait", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	now = sckpt_catalog_pipeline(pipeline->name, true);
	if (now == NULL || now->id != pipeline->id)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" was dropped while a checkpoint of it was waited for", pipeline->name)));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * Wait until a checkpoint of the pipeline covers everything before `target`; returns the last checkpoint's id.  Or, with a label, for a
 * savepoint that does, and its id.
 */
static int64
wait_for_checkpoint(SckptPipeline *pipeline, XLogRecPtr target, TimestampTz deadline, const char *savepoint)
{
	SckptPipelineEntry entry;
	char		error[SCKPT_ERROR_BYTES];
	bool		known;
	bool		synced;

	ConditionVariablePrepareToSleep(&sckpt_shared->changed);
	for (;;)
	{
		int64		left;

		/* What they know, before what they say of the pipeline; and they are woken when there is something for them to see. */
		synced = workers_know(error);
		known = copy_entry(pipeline->id, &entry, target, savepoint);
		if (error[0] == '\0')
			wake_workers();
		if (savepoint)
		{
			if (known && entry.savepoint_pid == MyProcPid && entry.savepoint_id != 0)
				break;
		}
		else if (known && entry.covered >= target && entry.last_checkpoint > 0)
			break;
		if (error[0] != '\0')
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("checkpoint of pipeline \"%s\" cannot be taken", pipeline->name),
					 errdetail("%s", error)));
		if (known && synced && (entry.status == SCKPT_FAILED || entry.status == SCKPT_PAUSED))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 entry.status == SCKPT_FAILED ? errmsg("pipeline \"%s\" has failed", pipeline->name)
					 : errmsg("pipeline \"%s\" is paused", pipeline->name),
					 entry.error[0] ? errdetail("%s", entry.error) : 0,
					 errhint("Use stream_ckpt.resume_pipeline() to let it go on.")));

		if (!known && synced)
			check_still_there(pipeline);
		left = (deadline - GetCurrentTimestamp()) / 1000;
		if (left <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("checkpoint of pipeline \"%s\" was not complete at the timeout", pipeline->name),
					 !known ? errdetail("The pipeline has not been started by a worker yet.") :
					 entry.error[0] ? errdetail("It is %s: %s", status_names[entry.status], entry.error) :
					 errdetail("It is %s and has processed the log up to %X/%X; the checkpoint is to cover it up to %X/%X.",
							   status_names[entry.status], LSN_FORMAT_ARGS(entry.position), LSN_FORMAT_ARGS(target))));
		(void) ConditionVariableTimedSleep(&sckpt_shared->changed, Min(left, 1000), PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
	ConditionVariableCancelSleep();
	return savepoint ? entry.savepoint_id : entry.last_checkpoint;
}

static TimestampTz
deadline_after(Interval *timeout)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
																   IntervalPGetDatum(timeout)));

	if (deadline < now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	return deadline;
}

/* A wait for ourselves would not end before the timeout. */
static void
check_waitable(SckptPipeline *pipeline)
{
	if (MyBgworkerEntry != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a pipeline cannot wait for a checkpoint of pipeline \"%s\"", pipeline->name),
				 errhint("What a query calls runs in the process that would have to take the checkpoint.")));
	if (TransactionIdIsValid(pipeline->created_xid) && TransactionIdIsCurrentTransactionId(pipeline->created_xid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" was created in this transaction", pipeline->name),
				 errhint("Its first checkpoint is taken after the transaction has committed.")));
	if (pipeline->error)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" has failed", pipeline->name),
				 errdetail("%s", pipeline->error),
				 errhint("Use stream_ckpt.resume_pipeline() to let it go on.")));
	if (pipeline->paused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" is paused", pipeline->name),
				 errhint("Use stream_ckpt.resume_pipeline() to let it go on.")));
}

Datum
stream_ckpt_checkpoint_pipeline(PG_FUNCTION_ARGS)
{
	TimestampTz deadline = deadline_after(PG_GETARG_INTERVAL_P(1));
	SckptPipeline *pipeline = sckpt_pipeline_require(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	PreventCommandDuringRecovery("checkpoint()");
	check_waitable(pipeline);
	PG_RETURN_INT64(wait_for_checkpoint(pipeline, sckpt_record_flush(), deadline, NULL));
}

/* It is not waited for any more; also when the process exits. */
static void
forget_savepoint(int code, Datum arg)
{
	SckptPipelineEntry *entry;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, DatumGetInt64(arg));
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		if (entry->savepoint_pid == MyProcPid)
			entry->savepoint_pid = 0;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	sckpt_shared_broadcast();
}

int64
sckpt_savepoint_wait(SckptPipeline *pipeline, const char *label, XLogRecPtr target)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SAVEPOINT_MS);
	int64		id;

	check_waitable(pipeline);
	PG_ENSURE_ERROR_CLEANUP(forget_savepoint, Int64GetDatum(pipeline->id));
	{
		id = wait_for_checkpoint(pipeline, target, deadline, label);
	}
	PG_END_ENSURE_ERROR_CLEANUP(forget_savepoint, Int64GetDatum(pipeline->id));
	forget_savepoint(0, Int64GetDatum(pipeline->id));
	return id;
}

void
sckpt_pipeline_checkpoint(SckptPipeline *pipeline)
{
	check_waitable(pipeline);
	(void) wait_for_checkpoint(pipeline, sckpt_record_flush(), TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SAVEPOINT_MS), NULL);
}

/* How many streams written by pipelines lie between the outside and this one. */
static int
chain_depth(SckptPipeline *pipeline, List *pipelines, List *sinks, int limit)
{
	int			depth = 0;
	ListCell   *lc;
	ListCell   *ls;

	if (limit == 0)
		return 0;
	forboth(lc, pipelines, ls, sinks)
	{
		if (list_length(list_difference_oid(pipeline->streams, lfirst(ls))) < list_length(pipeline->streams))
			depth = Max(depth, 1 + chain_depth(lfirst(lc), pipelines, sinks, limit - 1));
	}
	return depth;
}

Datum
stream_ckpt_checkpoint_all(PG_FUNCTION_ARGS)
{
	TimestampTz deadline = deadline_after(PG_GETARG_INTERVAL_P(0));
	List	   *pipelines;
	List	   *sinks = NIL;	/* of each, the streams it writes */
	int			deepest = 0;
	ListCell   *lc;

	sckpt_shared_require();
	sckpt_catalog_require_version();
	PreventCommandDuringRecovery("checkpoint()");
	pipelines = sckpt_catalog_pipelines();
	foreach(lc, pipelines)
		sinks = lappend(sinks, sckpt_pipeline_sink_streams(((SckptPipeline *) lfirst(lc))->result));
	for (int depth = 0; depth <= deepest; depth++)
	{
		XLogRecPtr	target = sckpt_record_flush();

		/* All of one depth at once, then wait for each. */
		for (int pass = 0; pass < 2; pass++)
		{
			foreach(lc, pipelines)
			{
				SckptPipeline *pipeline = lfirst(lc);
				SckptPipelineEntry entry;
				int			at = chain_depth(pipeline, pipelines, sinks, list_length(pipelines));

				deepest = Max(deepest, at);
				if (at != depth || pipeline->paused || pipeline->error ||
					!has_privs_of_role(GetUserId(), pipeline->owner))
					continue;
				if (pass == 0)
				{
					check_waitable(pipeline);
					(void) copy_entry(pipeline->id, &entry, target, NULL);
				}
				else
					(void) wait_for_checkpoint(pipeline, target, deadline, NULL);
			}
		}
	}
	PG_RETURN_VOID();
}

/* ---- Live counters ---- */

Datum
stream_ckpt_pipeline_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SckptPipelineEntry *copies;
	int			ncopies;
	XLogRecPtr	insert;

	/* Another version's may have other columns. */
	sckpt_catalog_require_version();
	InitMaterializedSRF(fcinfo, 0);
	if (sckpt_shared == NULL)
		return (Datum) 0;
	insert = RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) : GetXLogInsertRecPtr();

	copies = sckpt_shared_copy_pipelines(MyDatabaseId, &ncopies);
	for (int i = 0; i < ncopies; i++)
	{
		SckptPipelineEntry *entry = &copies[i];
		Datum		values[17];
		bool		nulls[17] = {false};
		int			n = 0;
		XLogRecPtr	position = Max(entry->position, entry->read_lsn);

		values[n++] = Int64GetDatum(entry->id);
		values[n++] = CStringGetTextDatum(status_names[entry->status]);
		nulls[n] = entry->error[0] == '\0' || !sckpt_pipeline_visible(entry->owner);
		values[n] = nulls[n] ? (Datum) 0 : CStringGetTextDatum(entry->error);
		n++;
		nulls[n] = entry->worker_pid == 0;
		values[n++] = Int32GetDatum(entry->worker_pid);
		values[n++] = LSNGetDatum(entry->position);
		nulls[n] = entry->position_time == 0;
		values[n++] = TimestampTzGetDatum(entry->position_time);
		values[n++] = Int64GetDatum(insert > position ? (int64) (insert - position) : 0);
		values[n++] = Int64GetDatum(entry->counters.rows_in);
		values[n++] = Int64GetDatum(entry->counters.rows_out);
		values[n++] = Int64GetDatum(entry->counters.late_rows);
		values[n++] = Int64GetDatum(entry->counters.dead_letters);
		values[n++] = Int64GetDatum(entry->counters.restarts);
		values[n++] = Int64GetDatum(entry->counters.state_rows);
		values[n++] = Int64GetDatum(entry->counters.state_bytes);
		values[n++] = Float8GetDatum(entry->counters.busy_ms);
		values[n++] = Float8GetDatum(entry->counters.idle_ms);
		nulls[n] = entry->watermark == DT_NOBEGIN;
		values[n++] = TimestampTzGetDatum(entry->watermark);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* Tasks of parallel pipelines whose heads run. */
Datum
stream_ckpt_task_stats(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {
		[SCKPT_PART_WAITING] = "starting",
		[SCKPT_PART_RUNNING] = "running",
		[SCKPT_PART_FAILED] = "failed",
	};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SckptPartEntry *copies;
	int			ncopies = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (sckpt_shared == NULL)
		return (Datum) 0;
	copies = palloc(sckpt_shared->nparts * sizeof(SckptPartEntry));
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	for (int i = 0; i < sckpt_shared->used_parts; i++)
	{
		SckptPartEntry *entry = &sckpt_shared->parts[i];
		SckptPipelineEntry *pipeline;

		if (entry->database != MyDatabaseId)
			continue;
		pipeline = sckpt_shared_find_pipeline(MyDatabaseId, entry->id);
		if (pipeline == NULL)
			continue;
		SpinLockAcquire(&pipeline->mutex);
		if (pipeline->active && entry->epoch == pipeline->epoch && entry->task < pipeline->ntasks)
		{
			copies[ncopies] = *entry;
			if (pipeline->ntasks == 1)
				copies[ncopies].counters.rows_in += pipeline->rows_before;
			if (entry->task == 0)
			{
				copies[ncopies].counters.state_rows += pipeline->own_state_rows;
				copies[ncopies].counters.state_bytes += pipeline->own_state_bytes;
			}
			ncopies++;
		}
		SpinLockRelease(&pipeline->mutex);
	}
	LWLockRelease(sckpt_shared->lock);

	for (int i = 0; i < ncopies; i++)
	{
		SckptPartEntry *entry = &copies[i];
		Datum		values[10];
		bool		nulls[10] = {false};
		int			n = 0;

		values[n++] = Int64GetDatum(entry->id);
		values[n++] = Int32GetDatum(entry->task);
		nulls[n] = entry->worker_pid == 0;
		values[n++] = Int32GetDatum(entry->worker_pid);
		values[n++] = CStringGetTextDatum(names[entry->status]);
		nulls[n] = entry->commit == InvalidXLogRecPtr;
		values[n++] = LSNGetDatum(entry->commit);
		values[n++] = Int64GetDatum(entry->counters.rows_in);
		values[n++] = Int64GetDatum(entry->counters.state_rows);
		values[n++] = Int64GetDatum(entry->counters.state_bytes);
		values[n++] = Float8GetDatum(entry->counters.busy_ms);
		values[n++] = Float8GetDatum(entry->counters.idle_ms);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	pfree(copies);
	return (Datum) 0;
}

Datum
stream_ckpt_database_stats(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[5];
	bool		nulls[5] = {true, true, true, true, true};
	SckptDatabase copy = {0};

	sckpt_catalog_require_version();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (sckpt_shared)
	{
		SckptDatabase *database;

		LWLockAcquire(sckpt_shared->lock, LW_SHARED);
		database = sckpt_shared_find_database(MyDatabaseId);
		if (database)
			copy = *database;
		LWLockRelease(sckpt_shared->lock);
		nulls[0] = copy.workers[0].pid == 0;
		values[0] = Int32GetDatum(copy.workers[0].pid);
		nulls[1] = copy.error[0] == '\0';
		values[1] = CStringGetTextDatum(copy.error);
		nulls[2] = nulls[3] = copy.read_lsn == InvalidXLogRecPtr;
		values[2] = LSNGetDatum(copy.read_lsn);
		values[3] = LSNGetDatum(copy.restart_lsn);
		nulls[4] = false;
		values[4] = Int64GetDatum((int64) pg_atomic_read_u64(&sckpt_shared->state_bytes));
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
