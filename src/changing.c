/*-------------------------------------------------------------------------
 *
 * changing.c
 *		Results that are bags: rows are appended, and identical ones deleted.
 *
 * Rows to be put go the way of all appended rows (result.h).  A row to be deleted is looked for by an index on the hash of its columns, which
 * create_pipeline() makes, and deleted by its place.  Equal hashes are not enough, nor are equal values: 1.0 is not 1.00, so rows are
 * compared by their images.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

#include "checkpoint_private.h"
#include "result.h"
#include "retain.h"

struct SckptChanging
{
	SckptTask  *task;
	SckptAppender *appender;
	SPIPlanPtr	plan;			/* deletes one row */
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

/* The same of parameters. */
static char *
hash_of_parameters(TupleDesc columns)
{
	StringInfoData row;

	initStringInfo(&row);
	for (int i = 0; i < columns->natts; i++)
	{
		TypeCacheEntry *type = lookup_type_cache(TupleDescAttr(columns, i)->atttypid, TYPECACHE_HASH_EXTENDED_PROC);

		/* A parameter has its type's collation, which may hash in another way. */
		if (OidIsValid(type->hash_extended_proc))
			appendStringInfo(&row, "%s$%d%s%s", row.len ? ", " : "", i + 1,
							 OidIsValid(TupleDescAttr(columns, i)->attcollation) ? " COLLATE " : "",
							 OidIsValid(TupleDescAttr(columns, i)->attcollation) ?
							 generate_collation_name(TupleDescAttr(columns, i)->attcollation) : "");
	}
	return psprintf("pg_catalog.hash_record_extended(ROW(%s), 0)", row.data);
}

static void
prepare_delete(SckptChanging *changing)
{
	SckptTask  *task = changing->task;
	TupleDesc	columns = task->last->result;
	char	   *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(task->def->result)), get_rel_name(task->def->result));
	char	   *hash = sckpt_changing_hash(columns, "r.");
	Oid		   *types = palloc(columns->natts * sizeof(Oid));
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM ONLY %s WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM ONLY %s r WHERE ", name, name);
	if (hash)
		appendStringInfo(&sql, "%s OPERATOR(pg_catalog.=) %s AND ", hash, hash_of_parameters(columns));
	appendStringInfoString(&sql, "pg_catalog.record_image_eq(ROW(");
	for (int i = 0; i < columns->natts; i++)
		appendStringInfo(&sql, "%sr.%s", i ? ", " : "", quote_identifier(NameStr(TupleDescAttr(columns, i)->attname)));
	appendStringInfoString(&sql, "), ROW(");
	for (int i = 0; i < columns->natts; i++)
	{
		types[i] = TupleDescAttr(columns, i)->atttypid;
		appendStringInfo(&sql, "%s$%d", i ? ", " : "", i + 1);
	}
	appendStringInfoString(&sql, ")) LIMIT 1)) RETURNING xmin");
	changing->plan = SPI_prepare_cursor(sql.data, columns->natts, types, CURSOR_OPT_GENERIC_PLAN);
	if (changing->plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql.data, SPI_result_code_string(SPI_result));
	if (SPI_keepplan(changing->plan) != 0)
		elog(ERROR, "SPI_keepplan failed");
}

SckptChanging *
sckpt_changing_open(SckptTask *task)
{
	SckptChanging *changing = palloc0(sizeof(SckptChanging));

	changing->task = task;
	changing->appender = sckpt_appender_open(task);
	return changing;
}

/* Rows of the last checkpoint's result only: those to be put are not there yet, and none of them is to be deleted. */
static void
delete_row(SckptChanging *changing, TupleTableSlot *row)
{
	int			natts = changing->task->last->result->natts;
	char	   *nulls = palloc(natts + 1);

	slot_getallattrs(row);
	for (int i = 0; i < natts; i++)
		nulls[i] = row->tts_isnull[i] ? 'n' : ' ';
	nulls[natts] = '\0';
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (changing->plan == NULL)
		prepare_delete(changing);
	if (SPI_execute_plan(changing->plan, row->tts_values, nulls, false, 0) != SPI_OK_DELETE_RETURNING)
		elog(ERROR, "could not delete a row of a result");
	if (SPI_processed > 0)
	{
		bool		isnull;
		Datum		xid = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		sckpt_retain_touch_image(changing->task, row, DatumGetTransactionId(xid));
	}
	changing->deleted += SPI_processed;
	SPI_finish();
	pfree(nulls);
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
	uint64		rows = changing->deleted + sckpt_appender_close(changing->appender);

	changing->task->attempt->rows_deleted += changing->deleted;

	if (changing->plan)
		SPI_freeplan(changing->plan);
	pfree(changing);
	return rows;
}
