/*-------------------------------------------------------------------------
 *
 * stage.c
 *		Runs a stage's SQL over a batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/plancache.h"

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

uint64
sckpt_stage_run(SckptStage *stage, SckptScan *scan, SckptQuery *query, SckptReceiver *receiver)
{
	RowReceiver dest = {{receive_row, receive_startup, receive_shutdown, receive_destroy, DestNone}, query, receiver};
	SPIExecuteOptions options = {0};
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
