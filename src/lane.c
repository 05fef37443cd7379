/*-------------------------------------------------------------------------
 *
 * lane.c
 *		A reader of the log and the tasks that it feeds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "checkpoint.h"
#include "early.h"
#include "halt.h"
#include "lane.h"
#include "part.h"
#include "settings.h"

#define BATCH_BYTES			(4 * 1024 * 1024)	/* rows given to the tasks at a time */
#define BATCH_TRANSACTIONS	10000	/* the same, of small transactions */
#define READ_BYTES			(4 * 1024 * 1024)	/* of log, before looking whether something is due */
#define LARGE_BYTES			(32 * 1024 * 1024)	/* of one transaction, which linear queries do not keep but read again */
#define TAP_BYTES			(4 * 1024 * 1024)	/* an open transaction with more is worked on before it commits */
#define VISIBLE_BYTES		UINT64CONST(0x40000000) /* commits further back than this are visible to all */

SckptLane *
sckpt_lane_open(MemoryContext parent, XLogRecPtr start, XLogRecPtr skip_until)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt lane", ALLOCSET_DEFAULT_SIZES);
	SckptLane  *lane = MemoryContextAllocZero(context, sizeof(SckptLane));
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);

	lane->context = context;
	lane->known_visible = flushed > VISIBLE_BYTES ? flushed - VISIBLE_BYTES : InvalidXLogRecPtr;
	lane->reader = sckpt_log_open(context, MyDatabaseId, start, skip_until, (Size) sckpt_log_memory_limit * 1024);
	return lane;
}

void
sckpt_lane_close(SckptLane *lane)
{
	Assert(lane->tasks == NIL);
	sckpt_log_close(lane->reader);
	MemoryContextDelete(lane->context);
}

static SckptSilence *
get_silence(SckptLane *lane, Oid stream)
{
	SckptSilence *silence;
	ListCell   *lc;

	foreach(lc, lane->silences)
	{
		silence = lfirst(lc);
		if (silence->stream == stream)
			return silence;
	}
	silence = palloc0(sizeof(SckptSilence));
	silence->stream = stream;
	silence->since = GetCurrentTimestamp();
	silence->base = DT_NOBEGIN;
	lane->silences = lappend(lane->silences, silence);
	return silence;
}

/* Rows of these streams have come. */
static void
note_rows(SckptLane *lane, SckptBatch *batch)
{
	Oid			last = InvalidOid;

	for (int i = 0; i < batch->nsegments; i++)
	{
		SckptSegment *segment = &batch->segments[i];

		if (segment->stream != last && !(segment->time_flags & SCKPT_RECORD_IDLE) && segment->retried_by == 0)
		{
			MemoryContext old = MemoryContextSwitchTo(lane->context);
			SckptSilence *silence = get_silence(lane, segment->stream);

			silence->since = GetCurrentTimestamp();
			silence->base = DT_NOBEGIN;
			last = segment->stream;
			MemoryContextSwitchTo(old);
		}
	}
}

/* Which streams matter, and whether open transactions are worth looking at, depends on the tasks. */
static void
tasks_changed(SckptLane *lane)
{
	bool		tap = false;
	ListCell   *lc;

	list_free(lane->streams);
	lane->streams = NIL;
	foreach(lc, lane->tasks)
	{
		SckptTask  *task = lfirst(lc);

		/* One that has stopped is about to be dropped. */
		if (task->status != SCKPT_RUNNING)
			continue;
		lane->streams = list_concat_unique_oid(lane->streams, task->query->streams);
		tap |= sckpt_early_possible(task);
	}
	sckpt_log_set_streams(lane->reader, lane->streams);
	sckpt_log_set_tap(lane->reader, tap ? TAP_BYTES : 0);
	foreach(lc, lane->streams)
		(void) get_silence(lane, lfirst_oid(lc));
}

void
sckpt_lane_add(SckptLane *lane, SckptTask *task)
{
	MemoryContext old = MemoryContextSwitchTo(lane->context);

	Assert(!list_member_ptr(lane->tasks, task));
	lane->tasks = lappend(lane->tasks, task);
	tasks_changed(lane);
	MemoryContextSwitchTo(old);
}

void
sckpt_lane_remove(SckptLane *lane, SckptTask *task)
{
	MemoryContext old;

	if (!list_member_ptr(lane->tasks, task))
		return;
	old = MemoryContextSwitchTo(lane->context);
	lane->tasks = list_delete_ptr(lane->tasks, task);
	sckpt_task_drop_pending(task);
	sckpt_early_drop(task, InvalidTransactionId);
	lane->stale = true;
	MemoryContextSwitchTo(old);
}

void
sckpt_lane_drop_stopped(SckptLane *lane)
{
	MemoryContext old = MemoryContextSwitchTo(lane->context);
	ListCell   *lc;

	foreach(lc, lane->tasks)
	{
		if (((SckptTask *) lfirst(lc))->status != SCKPT_RUNNING)
		{
			lane->tasks = foreach_delete_current(lane->tasks, lc);
			lane->stale = true;
		}
	}
	if (lane->stale)
		tasks_changed(lane);
	lane->stale = false;
	MemoryContextSwitchTo(old);
}

void
sckpt_lane_position(SckptLane *lane, SckptPosition *position)
{
	position->commit = sckpt_log_read_lsn(lane->reader);
	position->restart = sckpt_log_restart_lsn(lane->reader);
	position->end = sckpt_log_end_lsn(lane->reader);
}

/* ---- Giving rows to tasks ---- */

typedef struct FeedArg
{
	SckptLane  *lane;
	SckptBatch *batch;
} FeedArg;

static void
feed_task(SckptTask *task, void *arg)
{
	sckpt_task_feed(task, ((FeedArg *) arg)->batch, ((FeedArg *) arg)->lane->known_visible);
}

static void
feed_tasks(SckptLane *lane, SckptBatch *batch, bool stateful_only)
{
	FeedArg		arg = {lane, batch};
	ListCell   *lc;

	if (batch->nsegments == 0)
		return;
	note_rows(lane, batch);
	foreach(lc, lane->tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status == SCKPT_RUNNING && (task->noperators > 0 || !stateful_only))
			sckpt_task_guard(task, feed_task, &arg);
	}
}

/*
 * Give the rest of the transaction at hand to the tasks, in batches, the last of which is returned unless it is
 * full.
 */
static SckptBatch *
take_transaction(SckptLane *lane, MemoryContext context, SckptLog *log, SckptLogTransaction *transaction, SckptBatch *batch,
				 void (*full) (SckptBatch *batch, void *arg), void *arg)
{
	SckptLogMessage *message;
	bool		incomplete = false;

	sckpt_batch_add_transaction(batch, transaction);
	while ((message = sckpt_log_next_message(log)) != NULL)
	{
		incomplete = sckpt_batch_add(batch, message, lane->streams);
		if (batch->bytes >= BATCH_BYTES && !incomplete)
		{
			full(batch, arg);
			sckpt_batch_release(batch);
			batch = sckpt_batch_create(context);
			sckpt_batch_add_transaction(batch, transaction);
			CHECK_FOR_INTERRUPTS();
		}
	}
	return batch;
}

typedef struct FullArg
{
	SckptLane  *lane;
	bool		stateful_only;
	bool		fed;			/* out: a batch was full in the middle of the transaction */
} FullArg;

static void
batch_full(SckptBatch *batch, void *arg)
{
	FullArg    *full = arg;

	feed_tasks(full->lane, batch, full->stateful_only);
	full->fed = true;
}

/* A transaction too large to keep, for a linear query: read it once more, into a checkpoint. */
typedef struct LargeArg
{
	SckptLane  *lane;
	SckptTask  *task;
	SckptLogTransaction *transaction;
	XLogRecPtr	start;
	uint64		rows_in;
	uint64		rows_out;
} LargeArg;

static void
run_large_batch(SckptBatch *batch, void *arg)
{
	LargeArg   *large = arg;
	SckptScan	scan;
	SckptPending pending = {batch, NULL, NULL};
	uint64		rows = sckpt_task_scan(large->task, batch, &scan);
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	sckpt_task_follow(large->task, batch, &pending.before, &pending.after);
	MemoryContextSwitchTo(old);
	if (rows == 0)
		return;
	sckpt_batch_wait_visible(batch, large->lane->known_visible);
	large->rows_in += rows;
	sckpt_checkpoint_add_rows(large->task, sckpt_task_run_linear(large->task, &pending));
}

static void
run_large(SckptTask *task, void *arg)
{
	LargeArg   *large = arg;
	MemoryContext context = AllocSetContextCreate(large->lane->context, "stream_ckpt large transaction",
												  ALLOCSET_DEFAULT_SIZES);
	SckptLog   *log = sckpt_log_open(large->lane->context, MyDatabaseId, large->start, large->transaction->commit_lsn - 1,
											  (Size) sckpt_log_memory_limit * 1024);

	large->task = task;
	sckpt_log_set_streams(log, large->lane->streams);
	PG_TRY();
	{
		SckptLogTransaction transaction;
		SckptLogResult result;
		SckptPosition position;

		do
		{
			result = sckpt_log_next(log, READ_BYTES, &transaction);
		} while (result == SCKPT_LOG_MORE);
		if (result != SCKPT_LOG_TRANSACTION || transaction.commit_lsn != large->transaction->commit_lsn)
			elog(ERROR, "could not find a transaction again in the log");
		if (!sckpt_checkpoint_begin(task))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not take a checkpoint of pipeline \"%s\": %s", task->def->name, task->waiting)));
		run_large_batch(take_transaction(large->lane, context, log, &transaction, sckpt_batch_create(context),
										 run_large_batch, large), large);
		task->rows_in += large->rows_in;
		task->fed_time = transaction.commit_time;
		position.commit = sckpt_log_read_lsn(log);
		position.restart = sckpt_log_restart_lsn(log);
		position.end = sckpt_log_end_lsn(log);
		sckpt_checkpoint_finish(task, &position);
		task->fed = position.commit;
	}
	PG_FINALLY();
	{
		/* Batches, too, whatever state an error left them in: their rows are the log's. */
		sckpt_log_close(log);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
}

/* ---- Large transactions, while they are open ---- */

/* Pieces of rows larger than a record would have to be put together across calls: not worth it. */
static bool
has_fragments(SckptLogMessage *message)
{
	for (; message; message = message->next)
	{
		if (((SckptRecordHeader *) message->data)->flags & SCKPT_RECORD_FRAGMENT)
			return true;
	}
	return false;
}

/* Give tasks what open transactions have written since we last looked. */
static void
feed_early(SckptLane *lane)
{
	SckptLogMessage *message;
	TransactionId xid;
	ListCell   *lc;

	while (sckpt_log_next_dropped(lane->reader, &xid))
	{
		lane->tapped_xids = list_delete_int(lane->tapped_xids, (int) xid);
		foreach(lc, lane->tasks)
			sckpt_early_drop(lfirst(lc), xid);
	}
	while ((message = sckpt_log_take_tap(lane->reader, &xid)) != NULL)
	{
		SckptLogTransaction transaction = {xid, PG_UINT64_MAX, GetCurrentTimestamp(), 0, 0};
		SckptBatch *batch = sckpt_batch_create(lane->context);
		bool		fragments;
		bool		first = !list_member_int(lane->tapped_xids, (int) xid);

		if (first)
		{
			MemoryContext old = MemoryContextSwitchTo(lane->context);

			lane->tapped_xids = lappend_int(lane->tapped_xids, (int) xid);
			MemoryContextSwitchTo(old);
		}
		sckpt_batch_add_transaction(batch, &transaction);
		fragments = has_fragments(message);
		while (message)
		{
			SckptLogMessage *next = message->next;

			if (fragments)
				sckpt_log_free_message(message);
			else
				(void) sckpt_batch_add(batch, message, lane->streams);
			message = next;
		}
		foreach(lc, lane->tasks)
		{
			SckptTask  *task = lfirst(lc);

			if (fragments)
				sckpt_early_give_up(task, xid);
			else if (sckpt_early_possible(task))
				sckpt_early_feed(task, xid, first, batch);
		}
		sckpt_batch_release(batch);
	}
}

typedef struct MergeArg
{
	SckptLogTransaction *transaction;
	TransactionId *xids;
	int			nxids;
} MergeArg;

static void
merge_task(SckptTask *task, void *arg)
{
	sckpt_early_merge(task, ((MergeArg *) arg)->transaction, ((MergeArg *) arg)->xids, ((MergeArg *) arg)->nxids);
}

/*
 * A transaction that was tapped has committed: tasks that have all of its tapped rows take them in, and skip them when they
 * are read again for the others, if there are others.
 */
static void
merge_early(SckptLane *lane, SckptLogTransaction *transaction, MergeArg *arg)
{
	bool		others = false;
	ListCell   *lc;

	feed_early(lane);
	foreach(lc, lane->tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status != SCKPT_RUNNING || task->fed >= transaction->commit_lsn)
			continue;
		if (!sckpt_early_covers(task, transaction->commit_lsn, arg->xids, arg->nxids))
			others = true;
		else if (sckpt_task_guard(task, merge_task, arg))
		{
			task->skip = arg->xids;
			task->nskip = arg->nxids;
			task->fed_time = transaction->commit_time;
		}
	}
	if (!others)
		sckpt_log_skip_tapped(lane->reader);
}

static void
end_early(SckptLane *lane, MergeArg *arg)
{
	ListCell   *lc;

	if (arg->nxids == 0)
		return;
	foreach(lc, lane->tasks)
	{
		SckptTask  *task = lfirst(lc);

		task->skip = NULL;
		task->nskip = 0;
		for (int i = 0; i < arg->nxids; i++)
			sckpt_early_drop(task, arg->xids[i]);
	}
	for (int i = 0; i < arg->nxids; i++)
		lane->tapped_xids = list_delete_int(lane->tapped_xids, (int) arg->xids[i]);
}

/*
 * Tasks of parallel pipelines must not read past the barrier of a checkpoint, and claim what is read for them, so that none is set behind them.  True if
 * the limit is the end of the log; *halted: or as far as that it is for its tasks, which are about to stop.
 */
static bool
limit_reading(SckptLane *lane, bool *halted)
{
	XLogRecPtr	flushed = InvalidXLogRecPtr;
	XLogRecPtr	limit = InvalidXLogRecPtr;
	bool		barrier = false;
	ListCell   *lc;

	foreach(lc, lane->tasks)
	{
		SckptTask  *task = lfirst(lc);
		XLogRecPtr	upto;

		if (task->number < 0 || task->status != SCKPT_RUNNING)
			continue;
		if (XLogRecPtrIsInvalid(limit))
		{
			flushed = GetFlushRecPtr(NULL);
			limit = Min(flushed, sckpt_log_end_lsn(lane->reader) + SCKPT_CLAIM_BYTES);
		}
		upto = sckpt_part_claim(task, limit, halted);
		barrier |= upto < limit;
		limit = upto;
	}
	sckpt_log_set_limit(lane->reader, limit);
	return !barrier && limit == flushed;
}

/* Tasks that are to stop before this transaction take in what comes before it, and stop. */
static SckptBatch *
halt_tasks(SckptLane *lane, SckptLogTransaction *transaction, SckptBatch *batch)
{
	bool		due = false;
	ListCell   *lc;

	foreach(lc, lane->tasks)
		due |= sckpt_halt_is_due(lfirst(lc), transaction->commit_lsn);
	if (!due)
		return batch;
	feed_tasks(lane, batch, false);
	sckpt_batch_release(batch);
	foreach(lc, lane->tasks)
	{
		if (sckpt_halt_is_due(lfirst(lc), transaction->commit_lsn))
			(void) sckpt_task_guard(lfirst(lc), sckpt_halt_here, NULL);
	}
	return sckpt_batch_create(lane->context);
}

bool
sckpt_lane_read(SckptLane *lane, bool *delivered)
{
	TimestampTz started = GetCurrentTimestamp();
	SckptBatch *batch = sckpt_batch_create(lane->context);
	bool		at_end = false;
	bool		halted = false;
	bool		limit_is_end = limit_reading(lane, &halted);
	ListCell   *lc;

	for (;;)
	{
		SckptLogTransaction transaction;
		XLogRecPtr	start = sckpt_log_restart_lsn(lane->reader);
		SckptLogResult result = sckpt_log_next(lane->reader, READ_BYTES, &transaction);

		if (result == SCKPT_LOG_TRANSACTION)
		{
			bool		large = transaction.nbytes > LARGE_BYTES;
			FullArg		full = {lane, large, false};
			MergeArg	early = {&transaction, NULL, 0};

			*delivered = true;
			batch = halt_tasks(lane, &transaction, batch);
			early.xids = sckpt_log_tapped_xids(lane->reader, &early.nxids);
			if (large || early.nxids > 0)
			{
				/* What is before it goes first. */
				feed_tasks(lane, batch, false);
				sckpt_batch_release(batch);
				batch = sckpt_batch_create(lane->context);
			}
			if (early.nxids > 0)
				merge_early(lane, &transaction, &early);
			batch = take_transaction(lane, lane->context, lane->reader, &transaction, batch, batch_full, &full);
			if (!large && early.nxids > 0)
			{
				feed_tasks(lane, batch, false);
				sckpt_batch_release(batch);
				batch = sckpt_batch_create(lane->context);
				end_early(lane, &early);
				break;
			}
			if (large)
			{
				LargeArg	arg = {lane, NULL, &transaction, start, 0, 0};

				feed_tasks(lane, batch, true);
				sckpt_batch_release(batch);
				batch = sckpt_batch_create(lane->context);
				foreach(lc, lane->tasks)
				{
					SckptTask  *task = lfirst(lc);

					arg.rows_in = 0;
					if (task->status == SCKPT_RUNNING && task->noperators == 0 && task->fed < transaction.commit_lsn)
						sckpt_task_guard(task, run_large, &arg);
				}
				end_early(lane, &early);
				break;
			}
			if (full.fed || batch->bytes >= BATCH_BYTES)
				break;
			if (batch->nxids >= BATCH_TRANSACTIONS)
				break;
		}
		else
		{
			at_end = result == SCKPT_LOG_END || (result == SCKPT_LOG_LIMIT && limit_is_end);
			halted &= result == SCKPT_LOG_LIMIT;
			break;
		}
	}
	feed_tasks(lane, batch, false);
	sckpt_batch_release(batch);
	feed_early(lane);

	/* A boundary: everything that was delivered is taken in. */
	foreach(lc, lane->tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status != SCKPT_RUNNING)
			continue;
		task->fed = Max(task->fed, sckpt_log_read_lsn(lane->reader));
		task->read_lsn = Max(task->read_lsn, sckpt_log_end_lsn(lane->reader));
		if (at_end)
			task->fed_time = Max(task->fed_time, started);
	}
	return at_end || halted;
}
