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
#include "settings.h"

/* Of the attempt being made. */
static struct
{
	int			nbefore;		/* retained before it */
	bool		keeps;			/* some of these stay */
	SckptJournal *journal;		/* NULL: none is written */
	const char *label;			/* it is a savepoint */
	SckptLsns	held;			/* after it */
} attempt;

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
	MemoryContext old;
	SckptUser	saved;

	memset(&attempt, 0, sizeof(attempt));
	attempt.label = sckpt_savepoint_begin(task);
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
	attempt.nbefore = SPI_processed;
	old = MemoryContextSwitchTo(sckpt_attempt.context);
	for (int i = 0; i < attempt.nbefore; i++)
	{
		bool		isnull;
		bool		savepoint = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));

		if (!savepoint && i >= count - 1)
			continue;
		attempt.keeps = true;
		sckpt_catalog_add_lsn(&attempt.held, DatumGetLSN(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull)));
	}
	MemoryContextSwitchTo(old);
	sckpt_catalog_leave(&saved);
	if (attempt.keeps && task->def->result_owned)
		attempt.journal = sckpt_journal_open(task, sckpt_attempt.context);
}

bool
sckpt_retain_keeps_chunks(void)
{
	return attempt.keeps;
}

void
sckpt_retain_touch(SckptTask *task, TupleTableSlot *row)
{
	if (attempt.journal)
		sckpt_journal_add_key(attempt.journal, row);
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
							  "stream_rows, chunks) SELECT pipeline_id, last_checkpoint, $2, $3, position, restart, rows_in, "
							  "rows_out, late_rows, dead_letters, watermark, clock, stream_watermarks, stream_idle, stream_managed, "
							  "stream_rows, chunks FROM stream_ckpt.pipeline_position WHERE pipeline_id = $1",
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
	int			count = sckpt_retain_count(task->def);

	if (attempt.journal)
	{
		SckptJournalHead head = {0};
		Relation	result;

		/* Rows of a query without state are known by who wrote them. */
		if (!task->last->grouped && sckpt_attempt.rows_out > 0)
		{
			result = RelationIdGetRelation(task->def->result);
			head.filenode = RelationIsValid(result) ? result->rd_rel->relfilenode : InvalidOid;
			if (RelationIsValid(result))
				RelationClose(result);
			head.xids = sckpt_journal_xids();
			head.rows = sckpt_attempt.rows_out;
		}
		sckpt_journal_store(attempt.journal, sckpt_attempt.id, head.xids ? &head : NULL);
	}
	if (attempt.label)
	{
		Oid			types[3] = {INT8OID, INT8OID, TEXTOID};
		Datum		values[3] = {Int64GetDatum(task->def->id), Int64GetDatum(sckpt_attempt.id), CStringGetTextDatum(attempt.label)};

		SPI_execute_with_args("UPDATE stream_ckpt.checkpoint_log SET kind = 'savepoint', label = $3 "
							  "WHERE pipeline_id = $1 AND checkpoint_id = $2", 3, types, values, NULL, false, 0);
	}
	if (attempt.label || count > 1)
		sckpt_retain_keep(task->def->id, attempt.label ? "savepoint" : "checkpoint", attempt.label);
	if (attempt.nbefore > 0)
		sckpt_retain_clean(task->def->id, count);
	if (attempt.label)
		sckpt_fault_point("savepoint");
}

void
sckpt_retain_note_held(SckptTask *task, SckptLsns *held)
{
	MemoryContext old = MemoryContextSwitchTo(task->context);

	task->def->held.n = 0;
	for (int i = 0; i < held->n; i++)
		sckpt_catalog_add_lsn(&task->def->held, held->list[i]);
	MemoryContextSwitchTo(old);
}

/* The checkpoint itself may be held further back than the task, which goes on. */
void
sckpt_retain_committed(SckptTask *task)
{
	if (attempt.label || sckpt_retain_count(task->def) > 1)
		sckpt_catalog_add_lsn(&attempt.held, task->def->restart);
	if (attempt.held.n > 0 || task->def->held.n > 0)
		sckpt_retain_note_held(task, &attempt.held);
	if (attempt.label)
		sckpt_savepoint_taken(task, sckpt_attempt.id);
	memset(&attempt, 0, sizeof(attempt));
}
