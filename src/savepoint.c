/*-------------------------------------------------------------------------
 *
 * savepoint.c
 *		savepoint() and drop_savepoint().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"

#include "hook.h"
#include "pipeline.h"
#include "record.h"
#include "retain.h"
#include "savepoint.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(stream_ckpt_savepoint);
PG_FUNCTION_INFO_V1(stream_ckpt_drop_savepoint);

/* ---- In the worker ---- */

bool
sckpt_savepoint_wanted(SckptTask *task, XLogRecPtr end)
{
	SckptPipelineEntry *entry;

	task->savepoint[0] = '\0';
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		if (entry->savepoint_pid != 0 && entry->savepoint_id == 0 && entry->savepoint_after <= end)
			strlcpy(task->savepoint, entry->savepoint, SCKPT_LABEL_BYTES);
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	return task->savepoint[0] != '\0';
}

static void
answer(SckptTask *task, int64 id)
{
	SckptPipelineEntry *entry;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		if (entry->savepoint_pid != 0 && strcmp(entry->savepoint, task->savepoint) == 0)
			entry->savepoint_id = id;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	task->savepoint[0] = '\0';
	sckpt_shared_broadcast();
}

static bool
label_in_use(int64 pipeline, const char *label)
{
	Oid			types[2] = {INT8OID, TEXTOID};
	Datum		values[2] = {Int64GetDatum(pipeline), CStringGetTextDatum(label)};
	SckptUser	saved;
	bool		found;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT FROM stream_ckpt.retained WHERE pipeline_id = $1 AND label = $2",
							  2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for a savepoint");
	found = SPI_processed > 0;
	sckpt_catalog_leave(&saved);
	return found;
}

const char *
sckpt_savepoint_begin(SckptTask *task)
{
	if (task->savepoint[0] == '\0')
		return NULL;
	if (!label_in_use(task->def->id, task->savepoint))
		return task->savepoint;
	answer(task, -1);
	return NULL;
}

void
sckpt_savepoint_taken(SckptTask *task, int64 id)
{
	answer(task, id);
}

/* ---- In a session ---- */

void
sckpt_savepoint_lock(SckptPipeline *pipeline)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(pipeline->id)};

	if (SPI_execute_with_args("SELECT FROM stream_ckpt.pipeline_def WHERE id = $1 FOR UPDATE",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not lock a pipeline");
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" does not exist", pipeline->name)));
}

void
sckpt_savepoint_complete(SckptPipeline *pipeline, int64 id, int64 source, const char *kind, const char *label)
{
	Oid			types[5] = {INT8OID, INT8OID, INT8OID, TEXTOID, TEXTOID};
	Datum		values[5] = {Int64GetDatum(pipeline->id), Int64GetDatum(id), Int64GetDatum(source), CStringGetTextDatum(kind),
	label ? CStringGetTextDatum(label) : (Datum) 0};
	char		nulls[5] = {' ', ' ', ' ', ' ', label ? ' ' : 'n'};
	int			count = sckpt_retain_count(pipeline);

	if (SPI_execute_with_args("INSERT INTO stream_ckpt.checkpoint_log (pipeline_id, checkpoint_id, kind, label, status, triggered_at, "
							  "completed_at, position, watermark, tasks, acknowledged, rows_in, state_rows, state_bytes, "
							  "checkpointed_rows, checkpointed_bytes) SELECT $1, $2, $4, $5, 'completed', statement_timestamp(), "
							  "clock_timestamp(), p.position, p.watermark, coalesce(c.tasks, 1), coalesce(c.tasks, 1), 0, "
							  "c.state_rows, c.state_bytes, 0, 0 FROM stream_ckpt.pipeline_position p LEFT JOIN "
							  "stream_ckpt.checkpoint_log c ON c.pipeline_id = $1 AND c.checkpoint_id = $3 WHERE p.pipeline_id = $1",
							  5, types, values, nulls, false, 0) != SPI_OK_INSERT ||
		SPI_execute_with_args("INSERT INTO stream_ckpt.checkpoint_task_log (pipeline_id, checkpoint_id, task, status, acknowledged_at, "
							  "start_delay, snapshot_duration, commit_duration, state_rows, state_bytes, checkpointed_rows, "
							  "checkpointed_bytes, rows_in) SELECT $1, $2, task, 'completed', clock_timestamp(), '0', '0', '0', "
							  "state_rows, state_bytes, 0, 0, 0 FROM stream_ckpt.checkpoint_task_log "
							  "WHERE pipeline_id = $1 AND checkpoint_id = $3", 3, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write a checkpoint down");
	if (label || count > 1)
		sckpt_retain_keep(pipeline->id, kind, label);
	sckpt_retain_clean(pipeline->id, count);
}

/*
 * Of a pipeline that no worker runs.  False: by now one does.
 */
static bool
make_savepoint(const char *name, const char *label, int64 *id)
{
	SckptPipeline *pipeline = sckpt_pipeline_require(name);
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2];
	SckptUser	saved;

	sckpt_catalog_enter(&saved);
	sckpt_savepoint_lock(pipeline);
	sckpt_catalog_leave(&saved);
	pipeline = sckpt_pipeline_require(name);
	if (!pipeline->paused && pipeline->error == NULL)
		return false;
	if (pipeline->last_checkpoint == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" has no checkpoint yet", name),
				 errhint("Use stream_ckpt.resume_pipeline() to let it go on.")));
	if (!pipeline->at_home || pipeline->arriving)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" comes from another database and has not been taken over yet", name)));
	if (label_in_use(pipeline->id, label))
		return false;
	*id = pipeline->next_checkpoint;
	values[0] = Int64GetDatum(pipeline->id);
	values[1] = Int64GetDatum(*id);
	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("UPDATE stream_ckpt.pipeline_position SET last_checkpoint = $2, next_checkpoint = $2 + 1 "
							  "WHERE pipeline_id = $1", 2, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not make a savepoint");
	sckpt_savepoint_complete(pipeline, *id, pipeline->last_checkpoint, "savepoint", label);
	sckpt_catalog_leave(&saved);
	sckpt_fault_point("savepoint");
	sckpt_hook_wake_at_commit(true);
	return true;
}

static char *
get_label(text *argument)
{
	char	   *label = text_to_cstring(argument);

	if (label[0] == '\0' || strlen(label) >= SCKPT_LABEL_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("label of a savepoint must have between 1 and %d bytes", SCKPT_LABEL_BYTES - 1)));
	return label;
}

Datum
stream_ckpt_savepoint(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *label = get_label(PG_GETARG_TEXT_PP(1));
	SckptPipeline *pipeline = sckpt_pipeline_require(name);
	int64		id = -1;

	PreventCommandIfReadOnly("savepoint()");
	PreventCommandDuringRecovery("savepoint()");
	if (!label_in_use(pipeline->id, label) &&
		(!(pipeline->paused || pipeline->error) || !make_savepoint(name, label, &id)))
	{
		if (!label_in_use(pipeline->id, label))
			id = sckpt_savepoint_wait(pipeline, label, sckpt_record_flush());
	}
	if (id < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("savepoint \"%s\" of pipeline \"%s\" already exists", label, name)));
	PG_RETURN_INT64(id);
}

/* It goes on as an ordinary checkpoint, for as long as these are retained. */
Datum
stream_ckpt_drop_savepoint(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *label = text_to_cstring(PG_GETARG_TEXT_PP(1));
	SckptPipeline *pipeline = sckpt_pipeline_require(name);
	Oid			types[2] = {INT8OID, TEXTOID};
	Datum		values[2] = {Int64GetDatum(pipeline->id), CStringGetTextDatum(label)};
	SckptUser	saved;

	PreventCommandIfReadOnly("drop_savepoint()");
	PreventCommandDuringRecovery("drop_savepoint()");
	sckpt_catalog_enter(&saved);
	sckpt_savepoint_lock(pipeline);
	if (SPI_execute_with_args("UPDATE stream_ckpt.retained SET kind = 'checkpoint', label = NULL WHERE pipeline_id = $1 AND label = $2",
							  2, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not drop a savepoint");
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("savepoint \"%s\" of pipeline \"%s\" does not exist", label, name)));
	sckpt_retain_clean(pipeline->id, sckpt_retain_count(pipeline));
	sckpt_catalog_leave(&saved);
	sckpt_hook_wake_at_commit(true);
	PG_RETURN_VOID();
}
