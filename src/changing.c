/*-------------------------------------------------------------------------
 *
 * changing.c
 *		Results that are bags: rows are appended, and identical ones deleted.
 *
 * Rows to be put go the way of all appended rows (result.h), rows to be deleted that of keyed results (sink.h), by an index on the hash of their
 * columns, which create_pipeline() makes.  Equal hashes are not enough, nor are equal values: 1.0 is not 1.00, so rows are compared by
 * their images.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/typcache.h"

#include "checkpoint_private.h"
#include "result.h"
#include "retain.h"
#include "sink.h"

struct SckptChanging
{
	SckptTask  *task;
	SckptAppender *appender;
	SckptSink  *sink;			/* deletes; NULL: nothing yet */
	uint64		deleted;
};

char *
sckpt_changing_hash(TupleDesc columns, const char *qualifier)
{
	StringInfoData row;

	initStringInfo(&row);
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);
		TypeCacheEntry *type = lookup_type_cache(column->atttypid, TYPECACHE_HASH_EXTENDED_PROC);

		if (OidIsValid(type->hash_extended_proc))
			appendStringInfo(&row, "%s%s%s", row.len ? ", " : "", qualifier, quote_identifier(NameStr(column->attname)));
	}
	return row.len == 0 ? NULL : psprintf("pg_catalog.hash_record_extended(ROW(%s), 0)", row.data);
}

SckptChanging *
sckpt_changing_open(SckptTask *task)
{
	SckptChanging *changing = palloc0(sizeof(SckptChanging));

	changing->task = task;
	changing->appender = sckpt_appender_open(task, false);
	return changing;
}

/* Rows of the last checkpoint's result only: those to be put are not there yet, and none of them is to be deleted. */
static void
delete_row(SckptChanging *changing, TupleTableSlot *row)
{
	SckptTask  *task = changing->task;
	int			natts = task->last->result->natts;
	TupleTableSlot *target;
	ItemPointerData nowhere;
	TransactionId xmin;

	if (changing->sink == NULL)
		changing->sink = sckpt_sink_open_bag(task->def->result, natts, task->result_columns);
	target = sckpt_sink_slot(changing->sink);
	slot_getallattrs(row);
	sckpt_result_fill(task, target, row);
	ItemPointerSetInvalid(&nowhere);
	xmin = sckpt_sink_delete(changing->sink, &nowhere);
	if (!TransactionIdIsValid(xmin))
		return;
	sckpt_retain_touch_image(task, row, xmin);
	changing->deleted++;
}

void
sckpt_changing_put(SckptChanging *changing, TupleTableSlot *row, int32 weight)
{
	if (weight > 0)
		sckpt_appender_put(changing->appender, row);
	else
		delete_row(changing, row);
}

uint64
sckpt_changing_close(SckptChanging *changing)
{
	uint64		rows = changing->deleted;

	if (changing->sink)
		sckpt_sink_close(changing->sink);
	rows += sckpt_appender_close(changing->appender);
	changing->task->attempt->rows_deleted += changing->deleted;
	pfree(changing);
	return rows;
}
