/*-------------------------------------------------------------------------
 *
 * restore_pipeline.c
 *		restore_pipeline().
 *
 * In the caller's transaction, with the pipeline's row locked so that no checkpoint of it can be taken:
 *
 *		load the target's state		into this process, to say what its results were
 *		the result					put back (rewind.h), as the owner
 *		a new checkpoint			whose chunks, position and counters are the target's; its id is the next one, so that history stays
 *									linear, and what is retained besides stays restorable, forwards too
 *		pipeline_def.version		rises: at the commit the worker makes its task anew, from that checkpoint
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "checkpoint.h"
#include "hook.h"
#include "offline.h"
#include "pipeline.h"
#include "retain.h"
#include "rewind.h"
#include "savepoint.h"
#include "segment.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(stream_ckpt_restore_pipeline);

/* ---- What cannot be ---- */

static void
report_unknown(SckptPipeline *pipeline, int64 checkpoint)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(pipeline->id), Int64GetDatum(checkpoint)};
	char	   *retained;
	bool		completed;
	SckptUser	saved;
	MemoryContext context = CurrentMemoryContext;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT string_agg(checkpoint_id::text, ', ' ORDER BY checkpoint_id) FROM "
							  "(SELECT checkpoint_id FROM stream_ckpt.retained WHERE pipeline_id = $1 UNION "
							  "SELECT last_checkpoint FROM stream_ckpt.pipeline_position WHERE pipeline_id = $1 AND last_checkpoint > 0) r",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read retained checkpoints");
	retained = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	retained = retained ? MemoryContextStrdup(context, retained) : NULL;
	if (SPI_execute_with_args("SELECT FROM stream_ckpt.checkpoint_log WHERE pipeline_id = $1 AND checkpoint_id = $2 "
							  "AND status = 'completed'", 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the history of checkpoints");
	completed = SPI_processed > 0;
	sckpt_catalog_leave(&saved);
	ereport(ERROR,
			(errcode(completed ? ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE : ERRCODE_UNDEFINED_OBJECT),
			 completed ? errmsg("checkpoint " INT64_FORMAT " of pipeline \"%s\" is not retained any more", checkpoint, pipeline->name)
			 : errmsg("pipeline \"%s\" has no checkpoint " INT64_FORMAT " that can be restored", pipeline->name, checkpoint),
			 retained ? errdetail("Checkpoints that can be restored: %s.", retained) : 0,
			 errhint("Raise retained_checkpoints, or use stream_ckpt.savepoint(), to keep more.")));
}

/* alter_pipeline() has written results of which no checkpoint knows. */
static void
check_query(SckptPipeline *target)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(target->id), Int64GetDatum(target->last_checkpoint)};
	SckptUser	saved;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT FROM stream_ckpt.retained r JOIN stream_ckpt.pipeline_def d ON d.id = r.pipeline_id "
							  "WHERE d.id = $1 AND r.checkpoint_id = $2 AND r.query <> md5(d.query || d.emit)",
							  2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not compare queries");
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the query of pipeline \"%s\" has been changed since checkpoint " INT64_FORMAT, target->name, target->last_checkpoint),
				 errhint("Change it back with stream_ckpt.alter_pipeline() first.")));
	sckpt_catalog_leave(&saved);
}

static void
check_log(SckptPipeline *target)
{
	if (!sckpt_segment_exists(target->restart))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the log that checkpoint " INT64_FORMAT " of pipeline \"%s\" needs is gone", target->last_checkpoint, target->name),
				 errdetail("It needs the log from %X/%X on, which is there from %X/%X on. Missing: %s.",
						   LSN_FORMAT_ARGS(target->restart), LSN_FORMAT_ARGS(sckpt_segment_oldest()),
						   sckpt_segment_missing(target->restart)),
				 errhint("If there is an archive with these segments, copy them into \"pg_wal\" and try again.")));
}

static void
check_result(SckptPipeline *pipeline, bool keep)
{
	if (pipeline->result_owned || keep)
		return;
	if (sckpt_catalog_is_stream(pipeline->result))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("rows that pipeline \"%s\" has written into stream \"%s\" cannot be taken back",
						pipeline->name, get_rel_name(pipeline->result)),
				 errhint("With keep_results => true only its state and position are restored; it writes the rows after that position again.")));
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("rows that pipeline \"%s\" has written into existing table \"%s\" cannot be taken back",
					pipeline->name, get_rel_name(pipeline->result)),
			 errhint("With keep_results => true only its state and position are restored; it writes the results after that position again.")));
}

/* ---- The parts ---- */

/* Whether there is something retained that the new checkpoint does not follow. */
static bool
has_later(SckptPipeline *pipeline, int64 checkpoint)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(pipeline->id), Int64GetDatum(checkpoint)};
	SckptUser	saved;
	bool		found;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT FROM stream_ckpt.retained WHERE pipeline_id = $1 AND checkpoint_id > $2",
							  2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read retained checkpoints");
	found = SPI_processed > 0;
	sckpt_catalog_leave(&saved);
	return found;
}

/*
 * Dead letters as they were at the target: those that came later go, those that restores in between took away come back.  The least number of
 * letters that any of them, and the target, has, is where the journal's begin.
 */
static int64
common_letters(SckptPipeline *target)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};
	Datum		values[3] = {Int64GetDatum(target->id), Int64GetDatum(target->last_checkpoint), Int64GetDatum(target->dead_letters)};
	SckptUser	saved;
	bool		isnull;
	int64		result;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT least($3, min(letters_after)) FROM stream_ckpt.touched WHERE pipeline_id = $1 AND checkpoint_id > $2",
							  3, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read changes of dead letters");
	result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	sckpt_catalog_leave(&saved);
	return result;
}

static void
execute(const char *sql, Datum *values)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};

	if (SPI_execute_with_args(sql, 3, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
}

static void
rewind_letters(SckptPipeline *target)
{
	Datum		values[3] = {Int64GetDatum(target->id), Int64GetDatum(target->last_checkpoint), Int64GetDatum(target->dead_letters)};
	int64		before = PG_INT64_MAX;
	SckptUser	saved;

	sckpt_catalog_enter(&saved);
	for (;;)
	{
		Oid			types[3] = {INT8OID, INT8OID, INT8OID};
		Datum		step[3] = {values[0], values[1], Int64GetDatum(before)};
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		if (SPI_execute_with_args("SELECT checkpoint_id, letters_after FROM stream_ckpt.touched WHERE pipeline_id = $1 AND checkpoint_id > $2 "
								  "AND checkpoint_id < $3 AND kind = 'restore' ORDER BY checkpoint_id DESC LIMIT 1",
								  3, types, step, NULL, false, 0) != SPI_OK_SELECT)
			elog(ERROR, "could not read changes of dead letters");
		if (SPI_processed == 0)
			break;
		before = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		step[1] = Int64GetDatum(before);
		step[2] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
		execute("DELETE FROM stream_ckpt.dead_letter WHERE pipeline_id = $1 AND dead_letter_id > $3 AND $2 IS NOT NULL", step);
		execute("INSERT INTO stream_ckpt.dead_letter SELECT l.* FROM stream_ckpt.touched t, unnest(t.letters) l "
				"WHERE t.pipeline_id = $1 AND t.checkpoint_id = $2 AND t.part = 0 AND $3 IS NOT NULL", step);
	}
	execute("DELETE FROM stream_ckpt.dead_letter WHERE pipeline_id = $1 AND dead_letter_id > $3 AND $2 IS NOT NULL", values);
	sckpt_catalog_leave(&saved);
}

/* The new checkpoint: chunks, position and history. */
static void
store(SckptPipeline *pipeline, SckptPipeline *target, int64 id)
{
	Datum		values[3] = {Int64GetDatum(pipeline->id), Int64GetDatum(target->last_checkpoint), Int64GetDatum(id)};

	execute("UPDATE stream_ckpt.chunk SET lives = CASE WHEN lives @> $2 THEN lives + int8multirange(int8range($3, NULL)) "
			"ELSE lives - int8multirange(int8range($3, NULL)) END WHERE pipeline_id = $1 AND (lives @> $2) <> upper_inf(lives)", values);
	execute("UPDATE stream_ckpt.pipeline_position p SET position = r.position, restart = r.restart, rows_in = r.rows_in, "
			"rows_out = r.rows_out, late_rows = r.late_rows, dead_letters = r.dead_letters, watermark = r.watermark, clock = r.clock, "
			"stream_watermarks = r.stream_watermarks, stream_idle = r.stream_idle, stream_managed = r.stream_managed, "
			"stream_rows = r.stream_rows, chunks = r.chunks, layout = r.layout FROM stream_ckpt.retained r "
			"WHERE p.pipeline_id = $1 AND r.pipeline_id = $1 AND r.checkpoint_id = $2 AND $3 IS NOT NULL", values);
	execute("UPDATE stream_ckpt.pipeline_position SET last_checkpoint = $3, next_checkpoint = $3 + 1 WHERE pipeline_id = $1 AND $2 IS NOT NULL",
			values);
	execute("UPDATE stream_ckpt.pipeline_def d SET closed_until = r.closed_until FROM stream_ckpt.retained r "
			"WHERE d.id = $1 AND r.pipeline_id = $1 AND r.checkpoint_id = $2 AND $3 IS NOT NULL", values);
	execute("UPDATE stream_ckpt.pipeline_def SET version = version + 1, error = NULL WHERE id = $1 AND $2 IS NOT NULL AND $3 IS NOT NULL",
			values);
	sckpt_savepoint_complete(pipeline, id, target->last_checkpoint, "checkpoint", NULL);
}

static void
log_restore(SckptTask *task, TimestampTz started)
{
	Oid			types[5] = {INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum		values[5];
	uint64		state_rows;
	Size		state_bytes;
	SckptUser	saved;

	sckpt_task_state_size(task, &state_rows, &state_bytes);
	values[0] = Int64GetDatum(task->def->id);
	values[1] = Int64GetDatum(task->def->last_checkpoint);
	values[2] = TimestampTzGetDatum(started);
	values[3] = Int64GetDatum(state_rows);
	values[4] = Int64GetDatum(state_bytes);
	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("INSERT INTO stream_ckpt.restore_log (pipeline_id, task, checkpoint_id, restored_at, duration, "
							  "state_rows, state_bytes, cause) VALUES ($1, 0, $2, clock_timestamp(), clock_timestamp() - $3, "
							  "$4, $5, 'restore_pipeline')", 5, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write a restore down");
	sckpt_catalog_leave(&saved);
}

/* With the state loaded. */
static void
rewind_all(SckptPipeline *pipeline, SckptTask *task, bool keep)
{
	SckptPipeline *target = task->def;
	int64		id = pipeline->next_checkpoint;
	SckptJournalHead head = {.restore = true};
	SckptJournal *journal;
	SckptIdentity identity;
	SckptUser	saved;

	journal = sckpt_journal_open(task, CurrentMemoryContext);
	if (pipeline->result_owned && !keep)
	{
		bool		later = has_later(pipeline, target->last_checkpoint);

		sckpt_task_become_owner(task, &identity);
		sckpt_rewind(task, journal, later, &head);
		sckpt_task_become_self(&identity);
	}
	head.letters_after = common_letters(target);
	sckpt_catalog_enter(&saved);
	sckpt_journal_store(journal, id, &head);
	sckpt_catalog_leave(&saved);
	rewind_letters(target);
	sckpt_catalog_enter(&saved);
	store(pipeline, target, id);
	sckpt_catalog_leave(&saved);
}

Datum
stream_ckpt_restore_pipeline(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int64		checkpoint = PG_GETARG_INT64(1);
	bool		keep = PG_GETARG_BOOL(2);
	TimestampTz started = GetCurrentTimestamp();
	SckptPipeline *pipeline = sckpt_pipeline_require(name);
	SckptPipeline *target;
	SckptTask  *task;
	SckptUser	saved;

	PreventCommandIfReadOnly("restore_pipeline()");
	PreventCommandDuringRecovery("restore_pipeline()");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("restore_pipeline() needs a transaction that is READ COMMITTED")));
	if (!sckpt_catalog_lock_extension())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"stream_ckpt\" does not exist")));
	sckpt_catalog_enter(&saved);
	sckpt_savepoint_lock(pipeline);
	sckpt_catalog_leave(&saved);
	pipeline = sckpt_pipeline_require(name);
	if (!pipeline->at_home || pipeline->arriving)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" comes from another database and has not been taken over yet", name)));
	target = sckpt_catalog_pipeline_at(pipeline->id, checkpoint);
	if (target == NULL && pipeline->last_checkpoint == checkpoint && checkpoint > 0)
		target = sckpt_catalog_pipeline(name, false);
	if (target == NULL)
		report_unknown(pipeline, checkpoint);
	check_query(target);
	check_log(target);
	if (checkpoint != pipeline->last_checkpoint)
		check_result(pipeline, keep);
	LockRelationOid(pipeline->result, RowExclusiveLock);
	task = sckpt_offline_load(target, checkpoint);

	/* Of a grouped query's own table all that counts is taken back; rows of later groups would be in the way. */
	if (keep && pipeline->result_owned && task->noperators > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the result of pipeline \"%s\" is a table of its own, which is restored with it", name),
				 errhint("Leave out keep_results.")));
	sckpt_fault_point("restore");
	rewind_all(pipeline, task, keep);
	log_restore(task, started);
	sckpt_offline_end(task);
	sckpt_hook_wake_at_commit(true);
	PG_RETURN_VOID();
}
