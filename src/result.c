/*-------------------------------------------------------------------------
 *
 * result.c
 *		Appends rows to a pipeline's result, whatever relation that is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "result.h"
#include "sink.h"

/* What the statement calls the rows. Within it, no relation of that name is found. */
#define ROWS_NAME "stream_ckpt_rows"

struct SckptAppender
{
	SckptTask  *task;
	MemoryContext context;		/* everything here */
	Tuplestorestate *rows;		/* NULL: they go to the sink as they come */
	SckptSink  *sink;			/* or NULL */
	ItemPointerData nowhere;	/* and that is where its rows are said to be */
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

void
sckpt_result_fill(SckptTask *task, TupleTableSlot *target, TupleTableSlot *row)
{
	for (int i = 0; i < task->last->result->natts; i++)
	{
		int			column = task->result_columns[i] - 1;

		target->tts_values[column] = row->tts_values[i];
		target->tts_isnull[column] = row->tts_isnull[i];
	}
}

/*
 * A table of ours to which nobody has added what only statements heed gets its rows through a sink, many at once.
 */
static bool
takes_rows(SckptTask *task)
{
	Relation	relation;
	bool		takes;

	if (!task->def->result_owned)
		return false;
	relation = try_table_open(task->def->result, RowExclusiveLock);
	if (relation == NULL)
		return false;
	takes = relation->rd_rel->relkind == RELKIND_RELATION && relation->rd_rel->relpersistence == RELPERSISTENCE_PERMANENT &&
		relation->rd_rules == NULL && relation->trigdesc == NULL && !relation->rd_rel->relrowsecurity;
	table_close(relation, NoLock);
	return takes;
}

static void
open_sink(SckptAppender *appender)
{
	SckptTask  *task = appender->task;

	appender->sink = sckpt_sink_open(task->def->result, 0, NULL, false);
	sckpt_sink_set_columns(appender->sink, task->last->result->natts, task->result_columns);
}

static void
put_row(SckptAppender *appender, TupleTableSlot *row)
{
	sckpt_result_fill(appender->task, sckpt_sink_slot(appender->sink), row);
	ItemPointerSetInvalid(&appender->nowhere);
	sckpt_sink_put(appender->sink, &appender->nowhere, false, &appender->nowhere);
}

SckptAppender *
sckpt_appender_open(SckptTask *task, bool at_once)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt result rows", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptAppender *appender = palloc0(sizeof(SckptAppender));

	appender->task = task;
	appender->context = context;
	if (at_once && takes_rows(task))
		open_sink(appender);
	else
		appender->rows = tuplestore_begin_heap(false, false, work_mem);
	MemoryContextSwitchTo(old);
	return appender;
}

void
sckpt_appender_put(SckptAppender *appender, TupleTableSlot *row)
{
	if (appender->rows)
		tuplestore_puttupleslot(appender->rows, row);
	else
		put_row(appender, row);
	appender->nrows++;
}

/* The rows kept go to the sink now. */
static void
put_rows(SckptAppender *appender)
{
	TupleTableSlot *row = MakeSingleTupleTableSlot(appender->task->last->result, &TTSOpsMinimalTuple);

	while (tuplestore_gettupleslot(appender->rows, true, false, row))
	{
		slot_getallattrs(row);
		put_row(appender, row);
	}
	ExecDropSingleTupleTableSlot(row);
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

	if (appender->rows && appender->nrows > 0)
	{
		if (takes_rows(appender->task))
		{
			open_sink(appender);
			put_rows(appender);
		}
		else
			insert_rows(appender);
	}
	if (appender->sink)
		sckpt_sink_close(appender->sink);
	nrows = appender->nrows;
	if (appender->rows)
		tuplestore_end(appender->rows);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(appender->context);
	return nrows;
}
