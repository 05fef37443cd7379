/*-------------------------------------------------------------------------
 *
 * result.c
 *		Appends rows to a pipeline's result, whatever relation that is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/tuplestore.h"

#include "result.h"

/* What the statement calls the rows. Within it, no relation of that name is found. */
#define ROWS_NAME "stream_ckpt_rows"

struct SckptAppender
{
	SckptTask  *task;
	MemoryContext context;		/* everything here */
	Tuplestorestate *rows;
	uint64		nrows;
};

char *
sckpt_result_insert_sql(Oid result, TupleDesc columns, const char *from)
{
	StringInfoData sql;
	char	   *name = get_rel_name(result);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("result relation with OID %u does not exist", result)));
	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s (",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(result)), name));
	for (int i = 0; i < columns->natts; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "", quote_identifier(NameStr(TupleDescAttr(columns, i)->attname)));
	appendStringInfo(&sql, ") SELECT * FROM %s", from);
	return sql.data;
}

char *
sckpt_result_check_sql(Oid result, TupleDesc columns)
{
	StringInfoData row;

	initStringInfo(&row);
	appendStringInfoString(&row, "(SELECT ");
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(columns, i);

		appendStringInfo(&row, "%sNULL::%s", i ? ", " : "",
						 format_type_with_typemod(attribute->atttypid, attribute->atttypmod));
	}
	appendStringInfoString(&row, ") r");
	return sckpt_result_insert_sql(result, columns, row.data);
}

SckptAppender *
sckpt_appender_open(SckptTask *task)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt result rows", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptAppender *appender = palloc0(sizeof(SckptAppender));

	appender->task = task;
	appender->context = context;
	appender->rows = tuplestore_begin_heap(false, false, work_mem);
	MemoryContextSwitchTo(old);
	return appender;
}

void
sckpt_appender_put(SckptAppender *appender, TupleTableSlot *row)
{
	tuplestore_puttupleslot(appender->rows, row);
	appender->nrows++;
}

static void
insert_rows(SckptAppender *appender)
{
	TupleDesc	columns = appender->task->last->result;
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	char	   *sql = sckpt_result_insert_sql(appender->task->def->result, columns, ROWS_NAME);

	relation->md.name = ROWS_NAME;
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = columns;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = appender->nrows;
	relation->reldata = appender->rows;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register rows for \"%s\"", sql);
	if (SPI_execute(sql, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not run \"%s\"", sql);
	appender->nrows = SPI_processed;
	SPI_finish();
}

uint64
sckpt_appender_close(SckptAppender *appender)
{
	MemoryContext old = MemoryContextSwitchTo(appender->context);
	uint64		nrows;

	if (appender->nrows > 0)
		insert_rows(appender);
	nrows = appender->nrows;
	tuplestore_end(appender->rows);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(appender->context);
	return nrows;
}
