/*-------------------------------------------------------------------------
 *
 * adopt.c
 *		Pipelines that come from another database: in a dump, as a copy
 *		(CREATE DATABASE … TEMPLATE), or through pg_upgrade.
 *
 * A pipeline's row says which database it was last at home in, by the cluster's
 * system identifier and the database's oid.  Where that is not this
 * one, its positions mean nothing: they are places in another log.  It goes on
 * from the state it brought with what is inserted here.
 *
 * A restore puts the rows of our tables, those of results and of the tables
 * that queries join, and the results' indexes in place in any order and in
 * many transactions; run in parallel, it even truncates a table before it
 * fills it.  So adopting is done in two steps:
 *
 *		arriving	definition and position are there: from here on the log is
 *					kept for the pipeline; nothing else happens to it
 *		arrived		the sessions that restore are gone (a parallel restore
 *					keeps all of them to its end), the state's chunks are
 *					complete, and a keyed result has its index, which a
 *					restore makes after the rows are there
 *
 * Who restores is noticed by triggers on our tables, and kept in shared memory:
 * a server that was restarted has no such sessions any more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"

#include "adopt.h"
#include "hook.h"
#include "sink.h"
#include "slot.h"

PG_FUNCTION_INFO_V1(stream_ckpt_note_arrival);

/*
 * Rows were inserted into pipeline_def or pipeline_position.  Our own statements change the user for themselves; anything else is
 * a restore.
 */
Datum
stream_ckpt_note_arrival(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("note_arrival() is not called by a trigger")));
	if (sckpt_shared && !InLocalUserIdChange())
	{
		sckpt_shared_note_restorer(MyDatabaseId, MyProcPid);
		sckpt_hook_wake_at_commit(true);
	}
	return PointerGetDatum(NULL);
}

void
sckpt_adopt_copies(void)
{
	Oid			types[3] = {OIDOID, TEXTOID, LSNOID};
	Datum		values[3];
	SckptUser	saved;
	XLogRecPtr	from;

	if (sckpt_slot_retained(MyDatabaseId, &from) != SCKPT_SLOT_VALID)
		from = sckpt_slot_ensure(MyDatabaseId);
	values[0] = ObjectIdGetDatum(MyDatabaseId);
	values[1] = CStringGetTextDatum(psprintf(UINT64_FORMAT, GetSystemIdentifier()));
	values[2] = LSNGetDatum(from);
	sckpt_catalog_enter(&saved);
	SPI_execute_with_args("WITH copied AS (UPDATE stream_ckpt.pipeline_def d SET home_database = $1, home_system = $2, "
						  "created_xid = '0', start = $3, arriving = true "
						  "WHERE (d.home_database <> $1 OR d.home_system <> $2) AND EXISTS "
						  "(SELECT FROM stream_ckpt.pipeline_position p WHERE p.pipeline_id = d.id) RETURNING d.id), "
						  "letters AS (UPDATE stream_ckpt.dead_letter SET image = NULL, retriable = retriable AND "
						  "row_data IS NOT NULL WHERE pipeline_id IN (SELECT id FROM copied)), "
						  "gone AS (DELETE FROM stream_ckpt.retained WHERE pipeline_id IN (SELECT id FROM copied)), "
						  "undone AS (DELETE FROM stream_ckpt.touched WHERE pipeline_id IN (SELECT id FROM copied)), "
						  "chunks AS (DELETE FROM stream_ckpt.chunk WHERE pipeline_id IN (SELECT id FROM copied) AND NOT upper_inf(lives)) "
						  "UPDATE stream_ckpt.pipeline_position SET position = $3, restart = $3, stream_rows = '{}' "
						  "WHERE pipeline_id IN (SELECT id FROM copied)", 3, types, values, NULL, false, 0);
	sckpt_catalog_leave(&saved);
}

/* The session that was seen restoring, if it is still there. */
static int
restorer(void)
{
	SckptDatabase *database;
	PGPROC	   *proc;
	int			pid = 0;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	database = sckpt_shared_find_database(MyDatabaseId);
	if (database)
		pid = database->restorer_pid;
	LWLockRelease(sckpt_shared->lock);
	if (pid == 0)
		return 0;
	proc = BackendPidGetProc(pid);
	return proc && proc->databaseId == MyDatabaseId ? pid : 0;
}

/* One value of our own tables, for the pipeline. */
static Datum
look_up(SckptTask *task, const char *sql)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(task->def->id)};
	MemoryContext context = CurrentMemoryContext;
	SckptUser	saved;
	bool		isnull;
	Datum		value;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read about pipeline \"%s\"", task->def->name);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (SPI_gettypeid(SPI_tuptable->tupdesc, 1) == TEXTOID)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		value = PointerGetDatum(DatumGetTextPCopy(value));
		MemoryContextSwitchTo(old);
	}
	sckpt_catalog_leave(&saved);
	return value;
}

/* Text in the state is in the encoding of the database that it was stored in. */
static void
check_encoding(SckptTask *task)
{
	char	   *encoding;

	if (task->def->chunks == 0)
		return;
	encoding = TextDatumGetCString(look_up(task, "SELECT encoding FROM stream_ckpt.pipeline_def WHERE id = $1"));
	if (strcmp(encoding, GetDatabaseEncodingName()) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the state of pipeline \"%s\" comes from a database with encoding %s", task->def->name, encoding),
				 errdetail("The encoding of this database is %s.", GetDatabaseEncodingName()),
				 errhint("Restore it into a database with that encoding, or drop the pipeline and create it anew.")));
}

/* As its owner: does a keyed result have the index that its rows are found by? */
static bool
result_is_ready(SckptTask *task, SckptQuery *query)
{
	SckptQuery *last = sckpt_query_last(query);
	AttrNumber *keys = palloc(Max(1, last->nsink) * sizeof(AttrNumber));
	Relation	rel;
	bool		ready;

	rel = try_table_open(task->def->result, AccessShareLock);
	if (rel == NULL)
		return true;			/* which is an error, but not one to wait about */
	for (int i = 0; i < last->nsink; i++)
		keys[i] = get_attnum(task->def->result,
							 NameStr(TupleDescAttr(last->result, last->sink_keys[i].result_column - 1)->attname));
	ready = !last->grouped || (task->def->final && !task->def->result_owned) || last->nsink == 0 ||
		OidIsValid(sckpt_sink_key_index(rel, last->nsink, keys));
	table_close(rel, AccessShareLock);
	return ready;
}

/* Attribute numbers may be others here: a dump has no dropped columns. */
static void
note_arrived(SckptTask *task, SckptQuery *query)
{
	Datum	   *columns = palloc(Max(1, list_length(query->columns)) * sizeof(Datum));
	Oid			types[3] = {INT8OID, INT2ARRAYOID, TEXTOID};
	Datum		values[3];
	SckptUser	saved;
	ListCell   *lc;

	foreach(lc, query->columns)
		columns[foreach_current_index(lc)] = Int16GetDatum(lfirst_int(lc));
	values[0] = Int64GetDatum(task->def->id);
	values[1] = PointerGetDatum(construct_array(columns, list_length(query->columns), INT2OID, sizeof(int16), true,
												TYPALIGN_SHORT));
	values[2] = CStringGetTextDatum(GetDatabaseEncodingName());
	sckpt_catalog_enter(&saved);
	SPI_execute_with_args("UPDATE stream_ckpt.pipeline_def SET arriving = false, columns = $2, encoding = $3 WHERE id = $1",
						  3, types, values, NULL, false, 0);

	/* By what rows are spread over tasks may differ here. */
	SPI_execute_with_args("UPDATE stream_ckpt.pipeline_position SET layout = 0 WHERE pipeline_id = $1",
						  1, types, values, NULL, false, 0);
	sckpt_catalog_leave(&saved);
}

bool
sckpt_adopt_finish(SckptTask *task)
{
	SckptIdentity identity;
	SckptQuery *query;
	int64		chunks;
	bool		ready;
	int			pid = restorer();

	if (pid != 0)
	{
		snprintf(task->error, SCKPT_ERROR_BYTES, "waiting for the end of the session with process ID %d, which restores it", pid);
		return false;
	}
	chunks = DatumGetInt64(look_up(task, "SELECT count(*) FROM stream_ckpt.chunk WHERE pipeline_id = $1 AND upper_inf(lives)"));
	if (chunks < task->def->chunks)
	{
		snprintf(task->error, SCKPT_ERROR_BYTES, "waiting for its state to be restored: " INT64_FORMAT " of %d chunks are there",
				 chunks, task->def->chunks);
		return false;
	}
	check_encoding(task);

	sckpt_task_become_owner(task, &identity);
	query = sckpt_query_analyze(task->def->query, task->def->final, task->def->ttl > 0);
	ready = result_is_ready(task, query);
	sckpt_task_become_self(&identity);
	if (!ready)
	{
		snprintf(task->error, SCKPT_ERROR_BYTES, "waiting for the unique index of \"%s\" to be restored",
				 get_rel_name(task->def->result));
		return false;
	}
	note_arrived(task, query);
	task->def->layout = 0;
	task->error[0] = '\0';
	strlcpy(task->cause, "it came from another database", SCKPT_ERROR_BYTES);
	return true;
}
