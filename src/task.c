/*-------------------------------------------------------------------------
 *
 * task.c
 *		A pipeline at work in a worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
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
#include "checkpoint.h"
#include "early.h"
#include "settings.h"
#include "sink.h"
#include "stream.h"
#include "task.h"

/* Longest time before a failed checkpoint is tried again, ms. */
#define CHECKPOINT_RETRY_MAX 10000

/* ---- Identity ---- */

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void
sckpt_task_become_owner(SckptTask *task, SckptIdentity *saved)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(task->def->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the owner of pipeline \"%s\" does not exist any more", task->def->name)));
	GetUserIdAndSecContext(&saved->user, &saved->sec_context);
	saved->guc_level = NewGUCNestLevel();
	SetUserIdAndSecContext(task->def->owner,
						   saved->sec_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	set_local("search_path", task->def->search_path);
	set_local("TimeZone", task->def->timezone);
	set_local("DateStyle", task->def->datestyle);
	set_local("IntervalStyle", task->def->intervalstyle);
	set_local("default_text_search_config", task->def->text_search_config);
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
sckpt_task_become_self(SckptIdentity *saved)
{
	PopActiveSnapshot();
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->user, saved->sec_context);
}

void
sckpt_task_begin_work(SckptTask *task, SckptIdentity *saved)
{
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	enable_timeout_after(STATEMENT_TIMEOUT, sckpt_checkpoint_timeout);
	sckpt_task_become_owner(task, saved);
	saved->context = context;
	MemoryContextSwitchTo(task->run_context);
}

void
sckpt_task_end_work(SckptIdentity *saved)
{
	sckpt_task_become_self(saved);
	disable_timeout(STATEMENT_TIMEOUT, false);
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved->context);
}

/* ---- Life ---- */

SckptTask *
sckpt_task_create(MemoryContext parent, SckptPipeline *def)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt task", ALLOCSET_DEFAULT_SIZES);
	SckptTask  *task = MemoryContextAllocZero(context, sizeof(SckptTask));
	MemoryContext old = MemoryContextSwitchTo(context);

	task->context = context;
	task->def = palloc(sizeof(SckptPipeline));
	*task->def = *def;
	task->def->name = pstrdup(def->name);
	task->def->query = pstrdup(def->query);
	task->def->streams = list_copy(def->streams);
	task->def->search_path = pstrdup(def->search_path);
	task->def->timezone = pstrdup(def->timezone);
	task->def->datestyle = pstrdup(def->datestyle);
	task->def->intervalstyle = pstrdup(def->intervalstyle);
	task->def->text_search_config = pstrdup(def->text_search_config);
	task->def->emit = pstrdup(def->emit);
	task->def->on_error = pstrdup(def->on_error);
	task->def->error = def->error ? pstrdup(def->error) : NULL;
	MemoryContextSwitchTo(old);

	if (def->error)
	{
		task->status = SCKPT_FAILED;
		strlcpy(task->error, def->error, SCKPT_ERROR_BYTES);
	}
	else
		task->status = def->paused ? SCKPT_PAUSED : SCKPT_STARTING;
	strlcpy(task->cause, "worker start", SCKPT_ERROR_BYTES);
	task->known_since = GetCurrentTimestamp();
	return task;
}

void
sckpt_task_drop_pending(SckptTask *task)
{
	ListCell   *lc;

	foreach(lc, task->pending)
		sckpt_batch_release(lfirst(lc));
	list_free(task->pending);
	task->pending = NIL;
	task->pending_bytes = 0;
}

void
sckpt_task_stop(SckptTask *task)
{
	sckpt_task_drop_pending(task);
	sckpt_early_drop(task, InvalidTransactionId);
	if (task->operator)
		task->operator->destroy(task->operator);
	task->operator = NULL;
	sckpt_stage_free(&task->stage);
	if (task->run_context)
		MemoryContextDelete(task->run_context);
	task->run_context = NULL;
	task->query = NULL;
	task->chunks = NULL;
	task->nchunks = task->maxchunks = 0;
	task->stored_entries = 0;
	task->changed = false;
	task->failed_checkpoints = 0;
	task->restore_id = 0;
	task->waiting[0] = '\0';
}

void
sckpt_task_destroy(SckptTask *task)
{
	SckptPipelineEntry *entry;

	sckpt_task_stop(task);
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry)
		entry->database = InvalidOid;
	LWLockRelease(sckpt_shared->lock);
	MemoryContextDelete(task->context);
}

/* Where the query's columns and keys go in the result relation. */
static void
map_result(SckptTask *task)
{
	TupleDesc	desc = task->query->result;
	Relation	rel = table_open(task->def->result, AccessShareLock);

	task->result_columns = palloc(desc->natts * sizeof(AttrNumber));
	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);

		task->result_columns[i] = get_attnum(task->def->result, name);
		if (task->result_columns[i] <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of \"%s\", which pipeline \"%s\" writes, does not exist",
							name, RelationGetRelationName(rel), task->def->name)));
	}
	task->key_columns = palloc(Max(1, task->query->nkeys) * sizeof(AttrNumber));
	for (int i = 0; i < task->query->nkeys; i++)
		task->key_columns[i] = task->result_columns[task->query->keys[i].result_column - 1];
	table_close(rel, AccessShareLock);
}

char *
sckpt_task_insert_sql(Oid result, SckptQuery *query)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s (",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(result)), get_rel_name(result)));
	for (int i = 0; i < query->result->natts; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "",
						 quote_identifier(NameStr(TupleDescAttr(query->result, i)->attname)));
	appendStringInfo(&sql, ") %s", query->source);
	return sql.data;
}

/*
 * Analyse the query and load the last checkpoint, in the transaction at hand, which the caller commits.
 */
void
sckpt_task_start(SckptTask *task)
{
	MemoryContext old;
	SckptIdentity identity;

	sckpt_task_stop(task);
	task->run_context = AllocSetContextCreate(task->context, "stream_ckpt run", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(task->run_context);

	sckpt_task_become_owner(task, &identity);
	if (get_rel_name(task->def->result) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the result of pipeline \"%s\" does not exist any more", task->def->name)));
	task->query = sckpt_query_analyze(task->def->query);
	map_result(task);
	if (task->query->grouped)
	{
		task->stage.sql = task->query->source;
		task->operator = sckpt_aggregate_create(task->query, task->run_context);
	}
	else
		task->stage.sql = sckpt_task_insert_sql(task->def->result, task->query);
	sckpt_task_become_self(&identity);

	task->rows_in = task->def->rows_in;
	task->rows_out = task->def->rows_out;
	task->fed = task->def->position;
	task->fed_time = 0;
	task->next_chunk = 1;
	task->checkpoint_at = 0;
	sckpt_checkpoint_restore(task);
	if (task->operator && task->def->last_checkpoint == 0)
		task->operator->start(task->operator);
	task->changed = task->def->last_checkpoint == 0;
	MemoryContextSwitchTo(old);
}

/* ---- Work ---- */

/* What the task wants of a batch; returns the number of rows. */
uint64
sckpt_task_scan(SckptTask *task, SckptBatch *batch, SckptScan *scan)
{
	scan->batch = batch;
	scan->stream = task->query->stream;
	scan->after = task->fed;
	scan->creator = task->def->created_xid;
	scan->start = task->def->start;
	scan->skip = task->skip;
	scan->nskip = task->nskip;
	return sckpt_scan_count(scan);
}

uint64
sckpt_task_run_linear(SckptTask *task, SckptBatch *batch)
{
	SckptScan	scan;
	SckptIdentity identity;
	uint64		rows;

	/* What is pending counts as fed; all of it came after the last checkpoint. */
	(void) sckpt_task_scan(task, batch, &scan);
	scan.after = task->def->position;
	sckpt_task_become_owner(task, &identity);
	rows = sckpt_stage_run(&task->stage, &scan, task->query, NULL);
	sckpt_task_become_self(&identity);
	return rows;
}

void
sckpt_task_feed(SckptTask *task, SckptBatch *batch, XLogRecPtr known_visible)
{
	SckptScan	scan;
	uint64		rows = sckpt_task_scan(task, batch, &scan);
	MemoryContext old;

	if (rows == 0)
		return;
	task->known_visible = known_visible;
	if (task->operator == NULL)
	{
		/* Its results are visible only with the checkpoint: run it there. */
		sckpt_batch_hold(batch);
		old = MemoryContextSwitchTo(task->run_context);
		task->pending = lappend(task->pending, batch);
		MemoryContextSwitchTo(old);
		task->pending_bytes += batch->bytes;
	}
	else
	{
		SckptIdentity identity;

		sckpt_task_begin_work(task, &identity);
		sckpt_batch_wait_visible(batch, known_visible);

		/* What has become visible while we waited, this snapshot sees. */
		PopActiveSnapshot();
		PushActiveSnapshot(GetTransactionSnapshot());
		sckpt_stage_run(&task->stage, &scan, task->query, task->operator);
		task->operator->end_batch(task->operator);
		sckpt_task_end_work(&identity);
	}
	task->rows_in += rows;
	task->changed = true;
	task->fed_time = batch->commit_time;
}

/* ---- Failing ---- */

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
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_QUERY_CANCELED:
			return true;
	}
	return false;
}

/* Remember an error that stops the pipeline until somebody resumes it. */
static void
store_error(SckptTask *task)
{
	Oid			types[2] = {INT8OID, TEXTOID};
	Datum		values[2];
	SckptUser	saved;

	StartTransactionCommand();
	if (sckpt_catalog_lock_extension())
	{
		values[0] = Int64GetDatum(task->def->id);
		values[1] = CStringGetTextDatum(task->error);
		sckpt_catalog_enter(&saved);
		SPI_execute_with_args("UPDATE stream_ckpt.pipeline_def SET error = $2 WHERE id = $1",
							  2, types, values, NULL, false, 0);
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

	if (!task->def->result_owned || task->query == NULL || task->query->nkeys == 0)
		return false;
	PG_TRY();
	{
		SckptIdentity identity;

		StartTransactionCommand();
		sckpt_task_become_owner(task, &identity);
		done = sckpt_sink_index_by_hash(task->def->result, task->query->nkeys, task->key_columns);
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
		(error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED && sckpt_checkpoint_in_progress() && index_by_hash(task));

	sckpt_stream_arm(NULL);
	snprintf(task->error, SCKPT_ERROR_BYTES, "%s%s%s%s%s", error->message,
			 error->detail ? ". " : "", error->detail ? error->detail : "",
			 starved && error->hint ? " " : "", starved && error->hint ? error->hint : "");
	strlcpy(task->cause, error->message, SCKPT_ERROR_BYTES);
	task->backoff = task->backoff == 0 ? sckpt_restart_backoff_min
		: Min((int64) task->backoff * 2, sckpt_restart_backoff_max);

	/* A failed checkpoint leaves the state as it was: try again a few times before starting over. */
	if (transient && sckpt_checkpoint_in_progress() && !sckpt_checkpoint_may_have_committed() &&
		task->status == SCKPT_RUNNING &&
		++task->failed_checkpoints <= sckpt_tolerable_failed_checkpoints)
	{
		sckpt_checkpoint_record_failure(task, task->error);
		task->checkpoint_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(task->backoff, CHECKPOINT_RETRY_MAX));
		strlcpy(task->waiting, task->error, SCKPT_ERROR_BYTES);
		return;
	}
	if (sckpt_checkpoint_in_progress())
		sckpt_checkpoint_record_failure(task, task->error);

	sckpt_task_stop(task);
	task->starved = starved;
	if (transient)
		task->restarts++;
	task->retry_at = transient ? TimestampTzPlusMilliseconds(GetCurrentTimestamp(), task->backoff) : 0;
	task->status = starved || !transient ? SCKPT_FAILED : SCKPT_RESTARTING;
	if (!transient)
		store_error(task);
}

void
sckpt_task_publish(SckptTask *task, XLogRecPtr covered)
{
	SckptPipelineEntry *entry;
	SckptStatus status;
	bool		changed;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry == NULL)
	{
		for (int i = 0; i < sckpt_shared->npipelines && entry == NULL; i++)
		{
			if (!OidIsValid(sckpt_shared->pipelines[i].database))
				entry = &sckpt_shared->pipelines[i];
		}
		if (entry)
		{
			MemSet(&entry->status, 0, sizeof(*entry) - offsetof(SckptPipelineEntry, status));
			entry->database = MyDatabaseId;
			entry->id = task->def->id;
		}
	}
	LWLockRelease(sckpt_shared->lock);
	if (entry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many pipelines in this cluster"),
				 errhint("Raise \"stream_ckpt.max_pipelines\" to more than %d.", sckpt_max_pipelines)));

	status = task->starved ? SCKPT_FAILED : task->status;
	SpinLockAcquire(&entry->mutex);
	changed = entry->status != status || entry->last_checkpoint != task->def->last_checkpoint ||
		entry->covered < covered;
	entry->owner = task->def->owner;
	entry->status = status;
	entry->worker_pid = MyProcPid;
	entry->counters.rows_in = task->query ? task->rows_in : task->def->rows_in;
	entry->counters.rows_out = task->query ? task->rows_out : task->def->rows_out;
	entry->counters.state_rows = task->operator ? sckpt_state_rows(task->operator->state) : 0;
	entry->counters.state_bytes = task->operator ? sckpt_state_bytes(task->operator->state) : 0;
	entry->counters.restarts = task->restarts;
	entry->counters.idle_ms = Max(0.0, (GetCurrentTimestamp() - task->known_since - task->busy_us) / 1000.0);
	entry->counters.busy_ms = task->busy_us / 1000.0;
	entry->position = task->query ? task->fed : task->def->position;
	if (task->fed_time)
		entry->position_time = task->fed_time;
	entry->last_checkpoint = task->def->last_checkpoint;
	if (covered > entry->covered)
		entry->covered = covered;
	strlcpy(entry->error, status == SCKPT_RUNNING ? task->waiting : task->error, SCKPT_ERROR_BYTES);
	SpinLockRelease(&entry->mutex);
	if (changed)
		sckpt_shared_broadcast();
}

/* ---- Isolation ---- */

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
	MemoryContextSwitchTo(context);
	task->busy_us += GetCurrentTimestamp() - started;
	return ok;
}
