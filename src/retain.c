/*-------------------------------------------------------------------------
 *
 * retain.c
 *		Retained checkpoints and savepoints, as a checkpoint is taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "checkpoint_private.h"
#include "journal.h"
#include "retain.h"
#include "savepoint.h"
#include "segment.h"
#include "settings.h"

/* Of the attempt being made; in its context. */
typedef struct SckptRetaining
{
	int			nbefore;		/* retained before it */
	bool		keeps;			/* some of these stay */
	SckptJournal *journal;		/* NULL: none is written */
	const char *label;			/* it is a savepoint */
	SckptLsns	held;			/* after it */
} SckptRetaining;

int
sckpt_retain_count(SckptPipeline *def)
{
	return def->retained_checkpoints > 0 ? def->retained_checkpoints : sckpt_retained_checkpoints;
}

/* Those that stay besides the attempt: savepoints, and the newest count - 1 checkpoints of either kind. */
void
sckpt_retain_begin(SckptTask *task)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(task->def->id)};
	int			count = sckpt_retain_count(task->def);
	SckptRetaining *retaining;
	MemoryContext old;
	SckptUser	saved;

	retaining = MemoryContextAllocZero(task->attempt->context, sizeof(SckptRetaining));
	task->attempt->retaining = retaining;
	retaining->label = sckpt_savepoint_begin(task);
	sckpt_catalog_enter(&saved);
	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT kind = 'savepoint', restart FROM stream_ckpt.retained WHERE pipeline_id = $1 "
						   "ORDER BY checkpoint_id DESC", 1, types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare to read retained checkpoints");
	}
	if (SPI_execute_plan(plan, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read retained checkpoints");
	retaining->nbefore = SPI_processed;
	old = MemoryContextSwitchTo(task->attempt->context);
	for (int i = 0; i < retaining->nbefore; i++)
	{
		bool		isnull;
		bool		savepoint = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));

		if (!savepoint && i >= count - 1)
			continue;
		retaining->keeps = true;
		sckpt_catalog_add_lsn(&retaining->held, DatumGetLSN(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull)));
	}
	MemoryContextSwitchTo(old);
	sckpt_catalog_leave(&saved);
	if (retaining->keeps && task->def->result_owned)
		retaining->journal = sckpt_journal_open(task, task->attempt->context);
}

bool
sckpt_retain_keeps_chunks(SckptTask *task)
{
	return task->attempt->retaining && task->attempt->retaining->keeps;
}

void
sckpt_retain_touch(SckptTask *task, TupleTableSlot *row)
{
	SckptRetaining *retaining = task->attempt->retaining;

	if (retaining && retaining->journal && !task->last->bag)
		sckpt_journal_add_key(retaining->journal, row);
}

void
sckpt_retain_touch_image(SckptTask *task, TupleTableSlot *row, TransactionId appended_as)
{
	SckptRetaining *retaining = task->attempt->retaining;

	if (retaining && retaining->journal && TransactionIdIsValid(appended_as))
		sckpt_journal_add_image(retaining->journal, row, appended_as);
}

void
sckpt_retain_touch_removed(SckptTask *task, TupleTableSlot *row, TransactionId appended_as)
{
	if (task->last->bag)
		sckpt_retain_touch_image(task, row, appended_as);
}

/* ---- In the tables ---- */

static void
execute(const char *sql, int expected, int64 pipeline, Datum second, Oid second_type)
{
	Oid			types[2] = {INT8OID, second_type};
	Datum		values[2] = {Int64GetDatum(pipeline), second};

	if (SPI_execute_with_args(sql, OidIsValid(second_type) ? 2 : 1, types, values, NULL, false, 0) != expected)
		elog(ERROR, "could not run \"%s\"", sql);
}

void
sckpt_retain_keep(int64 pipeline, const char *kind, const char *label)
{
	Oid			types[3] = {INT8OID, TEXTOID, TEXTOID};
	Datum		values[3] = {Int64GetDatum(pipeline), CStringGetTextDatum(kind), label ? CStringGetTextDatum(label) : (Datum) 0};
	char		nulls[3] = {' ', ' ', label ? ' ' : 'n'};

	if (SPI_execute_with_args("INSERT INTO stream_ckpt.retained (pipeline_id, checkpoint_id, kind, label, position, restart, rows_in, "
							  "rows_out, late_rows, dead_letters, watermark, clock, stream_watermarks, stream_idle, stream_managed, "
							  "stream_rows, chunks, layout, closed_until, query) SELECT pipeline_id, last_checkpoint, $2, $3, position, restart, rows_in, "
							  "rows_out, late_rows, dead_letters, watermark, clock, stream_watermarks, stream_idle, stream_managed, "
							  "stream_rows, chunks, layout, closed_until, md5(query || emit) FROM stream_ckpt.pipeline_position JOIN stream_ckpt.pipeline_def d "
							  "ON d.id = pipeline_id WHERE pipeline_id = $1",
							  3, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not keep a checkpoint");
}

void
sckpt_retain_clean(int64 pipeline, int count)
{
	execute("DELETE FROM stream_ckpt.retained WHERE pipeline_id = $1 AND kind <> 'savepoint' AND checkpoint_id <> ALL "
			"(ARRAY(SELECT checkpoint_id FROM (SELECT checkpoint_id FROM stream_ckpt.retained WHERE pipeline_id = $1 "
			"UNION SELECT last_checkpoint FROM stream_ckpt.pipeline_position WHERE pipeline_id = $1) r ORDER BY 1 DESC LIMIT $2))",
			SPI_OK_DELETE, pipeline, Int64GetDatum(count), INT8OID);
	execute("DELETE FROM stream_ckpt.retained r USING stream_ckpt.pipeline_def d WHERE r.pipeline_id = $1 AND d.id = $1 "
			"AND r.kind <> 'savepoint' AND r.query <> md5(d.query || d.emit)", SPI_OK_DELETE, pipeline, (Datum) 0, InvalidOid);
	execute("DELETE FROM stream_ckpt.chunk c WHERE pipeline_id = $1 AND NOT upper_inf(lives) AND NOT EXISTS "
			"(SELECT FROM stream_ckpt.retained r WHERE r.pipeline_id = $1 AND c.lives @> r.checkpoint_id)",
			SPI_OK_DELETE, pipeline, (Datum) 0, InvalidOid);
	execute("DELETE FROM stream_ckpt.touched WHERE pipeline_id = $1 AND checkpoint_id <= coalesce("
			"(SELECT min(r.checkpoint_id) FROM stream_ckpt.retained r WHERE r.pipeline_id = $1), "
			"(SELECT p.last_checkpoint FROM stream_ckpt.pipeline_position p WHERE p.pipeline_id = $1))",
			SPI_OK_DELETE, pipeline, (Datum) 0, InvalidOid);
}

void
sckpt_retain_store(SckptTask *task)
{
	SckptRetaining *retaining = task->attempt->retaining;
	int			count = sckpt_retain_count(task->def);

	if (retaining->journal)
	{
		SckptJournalHead head = {0};
		Relation	result;

		/* Rows that have no key are known by who wrote them. */
		if ((!task->last->grouped || task->last->bag) && task->attempt->rows_out > 0)
		{
			result = RelationIdGetRelation(task->def->result);
			head.filenode = RelationIsValid(result) ? result->rd_rel->relfilenode : InvalidOid;
			if (RelationIsValid(result))
				RelationClose(result);
			head.xids = sckpt_journal_xids();
			head.rows = task->last->bag ? task->attempt->rows_put : task->attempt->rows_out - task->attempt->rows_deleted;
		}
		sckpt_journal_store(retaining->journal, task->attempt->id, head.xids ? &head : NULL);
	}
	if (retaining->label)
	{
		Oid			types[3] = {INT8OID, INT8OID, TEXTOID};
		Datum		values[3] = {Int64GetDatum(task->def->id), Int64GetDatum(task->attempt->id), CStringGetTextDatum(retaining->label)};

		SPI_execute_with_args("UPDATE stream_ckpt.checkpoint_log SET kind = 'savepoint', label = $3 "
							  "WHERE pipeline_id = $1 AND checkpoint_id = $2", 3, types, values, NULL, false, 0);
	}
	if (retaining->label || count > 1)
		sckpt_retain_keep(task->def->id, retaining->label ? "savepoint" : "checkpoint", retaining->label);
	if (retaining->nbefore > 0)
		sckpt_retain_clean(task->def->id, count);
	if (retaining->label)
		sckpt_fault_point("savepoint");
}

void
sckpt_retain_note_held(SckptTask *task, SckptLsns *held)
{
	MemoryContext old = MemoryContextSwitchTo(task->context);

	task->def->held.n = 0;
	for (int i = 0; i < held->n; i++)
	{
		if (sckpt_segment_exists(held->list[i]))
			sckpt_catalog_add_lsn(&task->def->held, held->list[i]);
	}
	MemoryContextSwitchTo(old);
}

XLogRecPtr
sckpt_retain_needed(SckptPipeline *def)
{
	XLogRecPtr	lsn = def->restart;

	for (int i = 0; i < def->held.n; i++)
		lsn = Min(lsn, def->held.list[i]);
	return lsn;
}

/* The checkpoint itself may be held further back than the task, which goes on. */
void
sckpt_retain_committed(SckptTask *task)
{
	SckptRetaining *retaining = task->attempt->retaining;

	if (retaining->label || sckpt_retain_count(task->def) > 1)
		sckpt_catalog_add_lsn(&retaining->held, task->def->restart);
	if (retaining->held.n > 0 || task->def->held.n > 0)
		sckpt_retain_note_held(task, &retaining->held);
	if (retaining->label)
		sckpt_savepoint_taken(task, task->attempt->id);
	task->attempt->retaining = NULL;
}
