/*-------------------------------------------------------------------------
 *
 * linear.c
 *		Runs a linear query with windows over a batch.
 *
 * The source gives rows, the expander their windows; the target list is projected from both, and the rows are appended to the
 * result.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "optimizer/optimizer.h"

#include "linear.h"
#include "result.h"

typedef struct LinearRun
{
	SckptTask  *task;
	const SckptInput *input;
	SckptAppender *appender;
	ExprContext *econtext;
	ProjectionInfo *projection;
} LinearRun;

static void
put_expanded(void *arg, TupleTableSlot *row, uint32 segment, int32 weight)
{
	LinearRun  *run = arg;

	ResetExprContext(run->econtext);
	run->econtext->ecxt_scantuple = row;
	sckpt_appender_put(run->appender, ExecProject(run->projection));
}

static void
take_row(void *arg, TupleTableSlot *slot)
{
	LinearRun  *run = arg;

	slot_getallattrs(slot);
	sckpt_expander_take(run->task->expander, run->input, slot, 1, put_expanded, run);
}

uint64
sckpt_linear_run(SckptTask *task, SckptScan *scan, const SckptInput *input)
{
	LinearRun	run = {task, input, NULL, NULL, NULL};
	SckptReceiver receiver = {NULL, take_row, &run};
	EState	   *estate = CreateExecutorState();
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	List	   *targets = (List *) expression_planner((Expr *) copyObject(task->query->targetlist));

	run.econtext = CreateExprContext(estate);
	run.projection = ExecBuildProjectionInfo(targets, run.econtext,
											 MakeSingleTupleTableSlot(ExecTypeFromTL(targets), &TTSOpsVirtual), NULL, NULL);
	MemoryContextSwitchTo(old);
	run.appender = sckpt_appender_open(task);
	sckpt_stage_run(&task->stage, scan, task->query, &receiver);
	ExecDropSingleTupleTableSlot(run.projection->pi_state.resultslot);
	FreeExecutorState(estate);
	return sckpt_appender_close(run.appender);
}
