/*-------------------------------------------------------------------------
 *
 * linear.c
 *		Runs a linear query over a batch.
 *
 * Into a relation that is not ours its rows go by an INSERT statement. Otherwise the source gives rows, which are appended to the result as they are; or the
 * expander gives their windows, and the target list is projected from both.
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

static void
append_row(void *arg, TupleTableSlot *slot)
{
	slot_getallattrs(slot);
	sckpt_appender_put(arg, slot);
}

static uint64
run_windows(SckptTask *task, SckptScan *scan, const SckptInput *input)
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
	run.appender = sckpt_appender_open(task, true);
	sckpt_stage_run(&task->stage, scan, task->query, &receiver);
	ExecDropSingleTupleTableSlot(run.projection->pi_state.resultslot);
	FreeExecutorState(estate);
	return sckpt_appender_close(run.appender);
}

uint64
sckpt_linear_run(SckptTask *task, SckptScan *scan, const SckptInput *input)
{
	SckptReceiver receiver = {NULL, append_row, NULL};

	if (task->expander)
		return run_windows(task, scan, input);
	if (!task->def->result_owned)
		return sckpt_stage_run(&task->stage, scan, task->query, NULL);
	receiver.arg = sckpt_appender_open(task, true);
	sckpt_stage_run(&task->stage, scan, task->query, &receiver);
	return sckpt_appender_close(receiver.arg);
}
