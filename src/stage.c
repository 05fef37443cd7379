/*-------------------------------------------------------------------------
 *
 * stage.c
 *		Runs a stage's SQL over a batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/memnodes.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

#include "scan.h"
#include "stage.h"
#include "stream.h"

/* Hands the executor's rows on. */
typedef struct RowReceiver
{
	DestReceiver pub;
	SckptQuery *query;
	SckptReceiver *receiver;
} RowReceiver;

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	SckptReceiver *receiver = ((RowReceiver *) self)->receiver;

	if (receiver->operator)
		receiver->operator->consume(receiver->operator, slot, 1);
	else
		receiver->row(receiver->arg, slot);
	return true;
}

/* A view or table in the query may have changed under a cached plan: the operator's state has fixed types. */
static void
receive_startup(DestReceiver *self, int operation, TupleDesc type)
{
	SckptQuery *query = ((RowReceiver *) self)->query;

	for (int i = 0; i < query->nsource; i++)
	{
		if (i >= type->natts || TupleDescAttr(type, i)->atttypid != query->source_types[i])
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("an expression of the query has changed its type to %s",
							i < type->natts ? format_type_be(TupleDescAttr(type, i)->atttypid) : "nothing"),
					 errhint("Drop the pipeline and create it anew, or change the type back.")));
	}
}

static void
receive_shutdown(DestReceiver *self)
{
	SckptOperator *operator = ((RowReceiver *) self)->receiver->operator;

	if (operator)
		operator->end_rows(operator);
}

static void
receive_destroy(DestReceiver *self)
{
}

/* ---- Plans that only scan, filter and compute ---- */

/*
 * Their expressions are evaluated here, row by row, without what the executor's nodes do for each row besides: rewinding,
 * EvalPlanQual, projection of whole plans.
 */
static bool
is_plain(PlannedStmt *stmt)
{
	return stmt->commandType == CMD_SELECT && IsA(stmt->planTree, ForeignScan) && stmt->subplans == NIL &&
		stmt->rowMarks == NIL && !stmt->hasModifyingCTE && castNode(ForeignScan, stmt->planTree)->scan.scanrelid > 0;
}

/* As MemoryContextReset() does, without a call for each row that has left nothing there. */
static inline void
reset_context(MemoryContext context)
{
	if (!context->isReset || context->firstchild != NULL)
		MemoryContextReset(context);
}

/*
 * How the columns of a plain plan come from the row that is scanned: some are its columns as they are. Of such a plan an operator that has
 * room for rows gets them there, without a row being made in between.
 */
typedef struct CopiedColumn
{
	int			from;			/* both counted from 0 */
	int			to;
} CopiedColumn;

typedef struct ComputedColumn
{
	ExprState  *state;
	int			to;
} ComputedColumn;

typedef struct PlainColumns
{
	int			nread;			/* the first so many columns of the scan are copied, or some of them */
	int			ncopied;
	int			ncomputed;
	CopiedColumn *copied;
	ComputedColumn *computed;
} PlainColumns;

/* In the executor run's memory. */
static PlainColumns *
make_columns(ForeignScanState *node)
{
	List	   *targets = node->ss.ps.plan->targetlist;
	int			n = list_length(targets);
	TupleDesc	desc = node->ss.ss_ScanTupleSlot->tts_tupleDescriptor;
	PlainColumns *columns = palloc0(sizeof(PlainColumns));

	columns->copied = palloc(n * sizeof(CopiedColumn));
	columns->computed = palloc(n * sizeof(ComputedColumn));
	for (int i = 0; i < n; i++)
	{
		Expr	   *expr = list_nth_node(TargetEntry, targets, i)->expr;
		Var		   *var = (Var *) expr;

		/* As in a projection of the executor: what has changed since it was planned is for an expression to notice. */
		if (IsA(expr, Var) && var->varattno > 0 && var->varattno <= desc->natts &&
			!TupleDescAttr(desc, var->varattno - 1)->attisdropped &&
			TupleDescAttr(desc, var->varattno - 1)->atttypid == var->vartype)
		{
			columns->copied[columns->ncopied].from = var->varattno - 1;
			columns->copied[columns->ncopied++].to = i;
			columns->nread = Max(columns->nread, var->varattno);
			continue;
		}
		columns->computed[columns->ncomputed].state = ExecInitExpr(expr, &node->ss.ps);
		columns->computed[columns->ncomputed++].to = i;
	}
	return columns;
}

/* Put the row that is scanned into the operator's room. */
static inline void
put_row(SckptRoom *room, const PlainColumns *columns, TupleTableSlot *slot, ExprContext *context)
{
	int			at = room->nrows++ * room->ncolumns;
	Datum	   *values = room->values + at;
	bool	   *nulls = room->nulls + at;
	const Datum *row_values = slot->tts_values;
	const bool *row_nulls = slot->tts_isnull;
	const CopiedColumn *copied_end = columns->copied + columns->ncopied;
	const ComputedColumn *computed_end = columns->computed + columns->ncomputed;

	slot_getsomeattrs(slot, columns->nread);
	for (const CopiedColumn *column = columns->copied; column < copied_end; column++)
	{
		values[column->to] = row_values[column->from];
		nulls[column->to] = row_nulls[column->from];
	}
	for (const ComputedColumn *column = columns->computed; column < computed_end; column++)
		values[column->to] = ExecEvalExprSwitchContext(column->state, context, &nulls[column->to]);
}

static uint64
run_plain(PlannedStmt *stmt, const char *sql, RowReceiver *dest)
{
	SckptReceiver *receiver = dest->receiver;
	SckptOperator *operator = receiver->operator;
	QueryDesc  *desc;
	ForeignScanState *node;
	ExprContext *context;
	MemoryContext old;
	PlainColumns *columns = NULL;
	SckptRoom  *room;
	uint64		processed = 0;
	TupleTableSlot *slot;

	PushActiveSnapshot(GetTransactionSnapshot());
	desc = CreateQueryDesc(stmt, sql, GetActiveSnapshot(), InvalidSnapshot, None_Receiver, NULL, NULL, 0);
	ExecutorStart(desc, 0);
	receive_startup(&dest->pub, desc->operation, desc->tupDesc);
	node = castNode(ForeignScanState, desc->planstate);
	context = node->ss.ps.ps_ExprContext;

	old = MemoryContextSwitchTo(desc->estate->es_query_cxt);
	room = operator && operator->room ? operator->room(operator) : NULL;
	if (room && room->ncolumns != list_length(node->ss.ps.plan->targetlist))
		room = NULL;
	if (room)
		columns = make_columns(node);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		slot = sckpt_scan_next(node);
		if (TupIsNull(slot))
			break;
		context->ecxt_scantuple = slot;
		if (node->ss.ps.qual == NULL || ExecQual(node->ss.ps.qual, context))
		{
			processed++;
			if (room)
			{
				put_row(room, columns, slot, context);
				if (room->nrows == room->capacity)
					operator->take(operator);
			}
			else
			{
				if (node->ss.ps.ps_ProjInfo)
					slot = ExecProject(node->ss.ps.ps_ProjInfo);
				if (operator)
					operator->consume(operator, slot, 1);
				else
					receiver->row(receiver->arg, slot);
			}
		}
		reset_context(context->ecxt_per_tuple_memory);
	}
	receive_shutdown(&dest->pub);
	MemoryContextSwitchTo(old);

	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
	PopActiveSnapshot();
	return processed;
}

uint64
sckpt_stage_run(SckptStage *stage, SckptScan *scan, SckptQuery *query, SckptReceiver *receiver)
{
	RowReceiver dest = {{receive_row, receive_startup, receive_shutdown, receive_destroy, DestNone}, query, receiver};
	SPIExecuteOptions options = {0};
	CachedPlan *cached;
	uint64		processed;
	int			rc;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (stage->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(stage->sql, 0, NULL);

		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", stage->sql, SPI_result_code_string(SPI_result));
		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "SPI_keepplan failed");
		stage->plan = plan;
	}

	scan->source = ((CachedPlanSource *) linitial(SPI_plan_get_plan_sources(stage->plan)))->query_string;
	options.dest = receiver ? (DestReceiver *) &dest : NULL;
	sckpt_stream_arm(scan);
	cached = receiver ? SPI_plan_get_cached_plan(stage->plan) : NULL;
	if (cached && list_length(cached->stmt_list) == 1 && is_plain(linitial_node(PlannedStmt, cached->stmt_list)))
	{
		processed = run_plain(linitial_node(PlannedStmt, cached->stmt_list), scan->source, &dest);
		ReleaseCachedPlan(cached, CurrentResourceOwner);
		sckpt_stream_arm(NULL);
		SPI_finish();
		return processed;
	}
	if (cached)
		ReleaseCachedPlan(cached, CurrentResourceOwner);
	rc = SPI_execute_plan_extended(stage->plan, &options);
	if (rc < 0)
		elog(ERROR, "could not run \"%s\": %s", stage->sql, SPI_result_code_string(rc));
	sckpt_stream_arm(NULL);
	processed = SPI_processed;
	SPI_finish();
	return processed;
}

void
sckpt_stage_free(SckptStage *stage)
{
	if (stage->plan)
		SPI_freeplan(stage->plan);
	stage->plan = NULL;
}
