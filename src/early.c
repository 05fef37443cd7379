/*-------------------------------------------------------------------------
 *
 * early.c
 *		Work on large transactions before they commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "aggregate.h"
#include "checkpoint_private.h"
#include "early.h"
#include "settings.h"
#include "stream.h"

/* Merging pays only where many rows fall into a group; judged after this many rows. */
#define TRIAL_ROWS		50000
#define ROWS_PER_GROUP	4

/* What a task has of one open xid. */
typedef struct EarlyWork
{
	TransactionId xid;
	SckptOperator *operator;	/* NULL: given up */
	int64		rows;
	uint64		taken;			/* of these, the task's own */
	TimestampTz watermark;		/* of its rows; DT_NOBEGIN: none */
} EarlyWork;

bool
sckpt_early_possible(SckptTask *task)
{
	return task->status == SCKPT_RUNNING && !task->careful && !task->halting && task->noperators > 0 && task->query->pure &&
		task->operators[0]->mergeable(task->operators[0]);
}

static EarlyWork *
find_work(SckptTask *task, TransactionId xid)
{
	ListCell   *lc;

	foreach(lc, task->early)
	{
		if (((EarlyWork *) lfirst(lc))->xid == xid)
			return lfirst(lc);
	}
	return NULL;
}

static void
give_up(EarlyWork *work)
{
	if (work->operator)
		work->operator->destroy(work->operator);
	work->operator = NULL;
}

void
sckpt_early_give_up(SckptTask *task, TransactionId xid)
{
	EarlyWork  *work = find_work(task, xid);

	if (work)
		give_up(work);
}

void
sckpt_early_drop(SckptTask *task, TransactionId xid)
{
	ListCell   *lc;

	foreach(lc, task->early)
	{
		EarlyWork  *work = lfirst(lc);

		if (TransactionIdIsValid(xid) && work->xid != xid)
			continue;
		give_up(work);
		task->early = foreach_delete_current(task->early, lc);
		pfree(work);
	}
}

static void
feed(SckptTask *task, EarlyWork *work, SckptScan *scan)
{
	SckptIdentity identity;
	SckptReceiver receiver = {NULL, NULL, NULL};
	SckptTimes *times = palloc(Max(1, scan->batch->nsegments) * sizeof(SckptTimes));
	SckptInput	input = {times, times, NULL, NULL};

	for (int i = 0; i < scan->batch->nsegments; i++)
	{
		times[i].watermark = times[i].clock = DT_NOBEGIN;
		if (scan->batch->segments[i].stream == linitial_oid(scan->streams))
			work->watermark = Max(work->watermark, scan->batch->segments[i].watermark);
	}

	/* Rows ahead of the clock are for whoever processes them at the commit. */
	scan->ahead = NULL;

	sckpt_task_begin_work(task, &identity);
	if (work->operator == NULL)
		work->operator = sckpt_aggregate_create(task->query, task->run_context);
	receiver.operator = work->operator;
	work->operator->begin_rows(work->operator, &input, NULL);
	sckpt_stage_run(&task->stage, scan, task->query, &receiver);
	work->operator->end_batch(work->operator);
	sckpt_task_end_work(&identity);
	pfree(times);
}

void
sckpt_early_feed(SckptTask *task, TransactionId xid, bool first, SckptBatch *batch)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz started = GetCurrentTimestamp();
	EarlyWork  *volatile work = find_work(task, xid);
	SckptScan	scan;
	uint64		rows = sckpt_task_scan(task, batch, &scan);

	if (work == NULL)
	{
		MemoryContext old;

		/* Rows that we did not see, or that may be from before the pipeline's start. */
		if (!first || batch->nsegments == 0 || batch->segments[0].lsn < task->def->start)
			return;
		old = MemoryContextSwitchTo(task->run_context);
		work = palloc0(sizeof(EarlyWork));
		work->xid = xid;
		work->watermark = DT_NOBEGIN;
		task->early = lappend(task->early, work);
		MemoryContextSwitchTo(old);
	}
	else if (work->operator == NULL)
		return;

	PG_TRY();
	{
		feed(task, work, &scan);
		work->rows += rows;
		work->taken += task->route ? scan.taken : rows;
	}
	PG_CATCH();
	{
		/* The transaction may yet abort; if it does not, the error comes again. */
		HOLD_INTERRUPTS();
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false;
		sckpt_stream_arm(NULL);
		MemoryContextSwitchTo(context);
		FlushErrorState();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		give_up(work);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	task->busy_us += GetCurrentTimestamp() - started;

	if (work->operator &&
		((work->rows > TRIAL_ROWS && sckpt_state_rows(work->operator->state) * ROWS_PER_GROUP > work->rows) ||
		 sckpt_state_bytes(work->operator->state) > (Size) sckpt_state_memory * 1024 / 4))
		give_up(work);
}

bool
sckpt_early_covers(SckptTask *task, XLogRecPtr commit_lsn, const TransactionId *xids, int nxids)
{
	for (int i = 0; i < nxids; i++)
	{
		EarlyWork  *work = find_work(task, xids[i]);

		if (work == NULL || work->operator == NULL)
			return false;
		if (task->times.watermark != DT_NOBEGIN &&
			work->operator->next_close(work->operator) <= task->times.watermark)
			return false;
	}
	return true;
}

void
sckpt_early_merge(SckptTask *task, SckptLogTransaction *transaction, const TransactionId *xids, int nxids)
{
	SckptIdentity identity;

	sckpt_task_begin_work(task, &identity);
	for (int i = 0; i < nxids; i++)
	{
		EarlyWork  *work = find_work(task, xids[i]);
		SckptOperator *operator = task->operators[0];

		if (sckpt_state_rows(operator->state) == 0 && task->attempt->id == 0)
		{
			/* Nothing to add it to: it is the state from now on. */
			operator->destroy(operator);
			sckpt_task_set_operator(task, 0, work->operator);
			work->operator = NULL;
		}
		else
			operator->merge(operator, work->operator);
		sckpt_task_advance(task, linitial_oid(task->query->streams), transaction->commit_lsn, transaction->commit_time, work->watermark, 0, 0, work->rows > 0);
		task->rows_in += work->taken;
		if (work->rows > 0)
			task->changed = true;
	}
	task->operators[0]->end_batch(task->operators[0]);
	sckpt_task_end_work(&identity);
	for (int i = 0; i < nxids; i++)
		sckpt_early_drop(task, xids[i]);
}
