/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The background worker that runs the pipelines of one database.
 *
 * One loop: read the log up to a transaction boundary, give the batch to every
 * running task, take the checkpoints that are due, move the slot, wait.
 *
 * Waiting: while rows come in, the worker looks at the log by itself every few
 * milliseconds and producers leave it alone; when nothing came for a while it
 * says so (wants_rows) and sleeps until a commit wakes it.
 *
 * Errors: whatever one task throws is caught around that task, whose transaction
 * is its own; the others do not notice.  What the reader or this loop throws ends the worker,
 * and the launcher starts another one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_foreign_server.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "attach.h"
#include "batch.h"
#include "catalog.h"
#include "checkpoint.h"
#include "early.h"
#include "log.h"
#include "settings.h"
#include "shared.h"
#include "slot.h"
#include "stream.h"
#include "task.h"
#include "worker.h"

#define BATCH_BYTES			(2 * 1024 * 1024)	/* rows given to the tasks at a time */
#define READ_BYTES			(16 * 1024 * 1024)	/* of log, before looking whether something is due */
#define PENDING_BYTES		(64 * 1024 * 1024)	/* kept for linear queries before an early checkpoint */
#define LARGE_BYTES			(32 * 1024 * 1024)	/* of one transaction, which linear queries do not keep but read again */
#define TAP_BYTES			(1024 * 1024)	/* an open transaction with more is worked on before it commits */
#define POSITION_BYTES		(16 * 1024 * 1024)	/* of log without rows, before positions are stored */
#define SLOT_BYTES			(1024 * 1024)	/* least step of the slot */
#define VISIBLE_BYTES		UINT64CONST(0x40000000) /* commits further back than this are visible to all */
#define LOOK_MS				50		/* between looks at the log while rows come in */
#define UNFLUSHED_MS		20		/* the same while the log has an unflushed end */
#define LOCKED_MS			200		/* before a checkpoint that found a lock in its way is tried again */
#define IDLE_MS				10000	/* longest sleep */

static MemoryContext worker_context;
static MemoryContext loop_context;	/* reset in each round */
static SckptDatabase *database;
static SckptLog *reader;
static List *tasks = NIL;		/* all pipelines of the database */
static List *wanted_streams = NIL;	/* of running tasks */
static List *tapped_xids = NIL;	/* open ones whose first messages were given to tasks */
static uint64 generation;
static XLogRecPtr known_visible;
static XLogRecPtr slot_lsn;
static TimestampTz slot_moved_at;
static XLogRecPtr stored_at;	/* end of the log when idle positions were last stored */

/* Work done for one task, and its argument. */
typedef void (*TaskWork) (SckptTask *task, void *arg);

static void
task_context(void *arg)
{
	errcontext("pipeline \"%s\"", ((SckptTask *) arg)->def->name);
}

/*
 * Run something for a task; when it fails, the task does, and nobody else.
 */
static bool
guard(SckptTask *task, TaskWork work, void *arg)
{
	ErrorContextCallback callback = {error_context_stack, task_context, task};
	MemoryContext context = CurrentMemoryContext;
	TimestampTz started = GetCurrentTimestamp();
	volatile bool ok = true;

	error_context_stack = &callback;
	PG_TRY();
	{
		work(task, arg);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false;
		EmitErrorReport();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(context);
		sckpt_task_fail(task, error);
		sckpt_task_publish(task, InvalidXLogRecPtr);
		FreeErrorData(error);
		ok = false;
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(context);
	task->busy_us += GetCurrentTimestamp() - started;
	return ok;
}

/* ---- Which pipelines there are ---- */

/* No streams, or no extension any more: nothing to retain, nothing to do. */
static void
leave_database(bool extension_exists)
{
	bool		dropped;

	if (extension_exists)
	{
		Oid			server = sckpt_catalog_server();

		/* Creating a stream locks the server until it commits. */
		if (OidIsValid(server))
			LockDatabaseObject(ForeignServerRelationId, server, 0, AccessExclusiveLock);
		if (sckpt_catalog_has_streams())
		{
			CommitTransactionCommand();
			proc_exit(1);
		}
	}
	dropped = sckpt_slot_drop(MyDatabaseId);
	CommitTransactionCommand();
	proc_exit(dropped ? 0 : 1);
}

static SckptTask *
find_task(int64 id)
{
	ListCell   *lc;

	foreach(lc, tasks)
	{
		if (((SckptTask *) lfirst(lc))->def->id == id)
			return lfirst(lc);
	}
	return NULL;
}

/*
 * A database made by copying another one (TEMPLATE, restore) goes on from the copied state with what is
 * inserted here: the log holds nothing of this database before its slot.
 */
static void
adopt_copies(void)
{
	Oid			types[3] = {OIDOID, TEXTOID, LSNOID};
	Datum		values[3];
	SckptUser	saved;
	XLogRecPtr	from;

	if (sckpt_slot_check(MyDatabaseId, &from) != SCKPT_SLOT_VALID)
		from = sckpt_slot_ensure(MyDatabaseId);
	values[0] = ObjectIdGetDatum(MyDatabaseId);
	values[1] = CStringGetTextDatum(psprintf(UINT64_FORMAT, GetSystemIdentifier()));
	values[2] = LSNGetDatum(from);
	sckpt_catalog_enter(&saved);
	SPI_execute_with_args("WITH copied AS (UPDATE stream_ckpt.pipeline_def SET home_database = $1, home_system = $2, "
						  "created_xid = '0', start = $3 WHERE home_database <> $1 OR home_system <> $2 RETURNING id) "
						  "UPDATE stream_ckpt.pipeline_position SET position = $3, restart = $3 "
						  "WHERE pipeline_id IN (SELECT id FROM copied)", 3, types, values, NULL, false, 0);
	sckpt_catalog_leave(&saved);
}

static void
sync_tasks(void)
{
	ListCell   *lc;
	bool		extension;

	generation = pg_atomic_read_u64(&database->generation);
	StartTransactionCommand();
	extension = sckpt_catalog_lock_extension();
	if (!extension || !sckpt_catalog_has_streams())
		leave_database(extension);
	adopt_copies();
	CommitTransactionCommand();

	StartTransactionCommand();
	if (!sckpt_catalog_lock_extension())
		leave_database(false);
	foreach(lc, tasks)
		((SckptTask *) lfirst(lc))->seen = false;
	foreach(lc, sckpt_catalog_pipelines())
	{
		SckptPipeline *def = lfirst(lc);
		SckptTask  *task = find_task(def->id);
		MemoryContext old;

		/* What the worker itself found out needs no reload; what users did does. */
		if (task && task->def->paused == def->paused && (task->def->error != NULL) == (def->error != NULL) &&
			!(task->status == SCKPT_FAILED && task->retry_at == 0 && def->error == NULL))
		{
			task->seen = true;
			if (task->retry_at != 0)
				task->retry_at = 1; /* resume_pipeline(): do not wait for the back-off */
			continue;
		}
		if (task)
		{
			tasks = list_delete_ptr(tasks, task);
			sckpt_task_destroy(task);
		}
		old = MemoryContextSwitchTo(worker_context);
		task = sckpt_task_create(worker_context, def);
		task->seen = true;
		tasks = lappend(tasks, task);
		MemoryContextSwitchTo(old);
	}
	CommitTransactionCommand();

	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (!task->seen)
		{
			tasks = foreach_delete_current(tasks, lc);
			sckpt_task_destroy(task);
		}
		else
			sckpt_task_publish(task, InvalidXLogRecPtr);
	}
	pg_atomic_write_u64(&database->synced, generation);
	sckpt_shared_broadcast();
}

/* ---- Starting tasks, and the reader ---- */

/* Is the log that a task needs still there? */
static void
check_log(SckptTask *task)
{
	char		path[MAXPGPATH];
	XLogSegNo	segment;
	struct stat st;

	XLByteToSeg(task->def->restart, segment, wal_segment_size);
	XLogFilePath(path, GetWALInsertionTimeLine(), segment, wal_segment_size);
	if (segment <= XLogGetLastRemovedSegno() || (stat(path, &st) != 0 && errno == ENOENT))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the log that pipeline \"%s\" needs is gone", task->def->name),
				 errdetail("It has read up to %X/%X and needs the log from %X/%X on.",
						   LSN_FORMAT_ARGS(task->def->position), LSN_FORMAT_ARGS(task->def->restart)),
				 errhint("Rows inserted since then are lost to it. Drop the pipeline and create it anew.")));
}

static void
start_task(SckptTask *task, void *arg)
{
	ListCell   *lc;

	StartTransactionCommand();
	enable_timeout_after(STATEMENT_TIMEOUT, sckpt_checkpoint_timeout);
	if (!sckpt_catalog_lock_extension())
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("extension \"stream_ckpt\" is gone")));

	/* Where its last checkpoint ended, as the tables say: after an error in a commit we might not know. */
	foreach(lc, sckpt_catalog_pipelines())
	{
		SckptPipeline *def = lfirst(lc);

		if (def->id != task->def->id)
			continue;
		task->def->position = def->position;
		task->def->restart = def->restart;
		task->def->last_checkpoint = def->last_checkpoint;
		task->def->next_checkpoint = def->next_checkpoint;
		task->def->rows_in = def->rows_in;
		task->def->rows_out = def->rows_out;
	}
	check_log(task);
	sckpt_task_start(task);
	disable_timeout(STATEMENT_TIMEOUT, false);
	CommitTransactionCommand();
	task->status = SCKPT_RUNNING;
	task->error[0] = '\0';
}

static void
open_reader(XLogRecPtr start, XLogRecPtr skip_until)
{
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);

	known_visible = flushed > VISIBLE_BYTES ? flushed - VISIBLE_BYTES : InvalidXLogRecPtr;
	reader = sckpt_log_open(worker_context, MyDatabaseId, start, skip_until, (Size) sckpt_log_memory_limit * 1024);
}

static bool
taps_wanted(void)
{
	ListCell   *lc;

	foreach(lc, tasks)
	{
		if (sckpt_early_possible(lfirst(lc)))
			return true;
	}
	return false;
}

/*
 * Start the tasks that can be, and bring the reader to where the furthest behind of them is.  At a transaction boundary.
 */
static void
start_tasks(void)
{
	TimestampTz now = GetCurrentTimestamp();
	XLogRecPtr	start = InvalidXLogRecPtr;
	XLogRecPtr	skip_until = InvalidXLogRecPtr;
	bool		rewind = reader == NULL;
	ListCell   *lc;

	list_free(wanted_streams);
	wanted_streams = NIL;
	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status == SCKPT_STARTING || (task->retry_at != 0 && task->retry_at <= now &&
											   (task->status == SCKPT_RESTARTING || task->status == SCKPT_FAILED)))
		{
			task->retry_at = 0;
			if (guard(task, start_task, NULL))
			{
				if (reader == NULL || task->def->position < sckpt_log_read_lsn(reader))
					rewind = true;
			}
			sckpt_task_publish(task, InvalidXLogRecPtr);
		}
		if (task->status == SCKPT_RUNNING)
		{
			MemoryContext old = MemoryContextSwitchTo(worker_context);

			wanted_streams = list_append_unique_oid(wanted_streams, task->query->stream);
			MemoryContextSwitchTo(old);
		}
	}
	if (!rewind)
	{
		sckpt_log_set_tap(reader, taps_wanted() ? TAP_BYTES : 0);
		return;
	}

	/* From where everybody gets what is missing; who is ahead skips. */
	if (reader != NULL)
	{
		start = sckpt_log_restart_lsn(reader);
		skip_until = sckpt_log_read_lsn(reader);
	}
	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status != SCKPT_RUNNING && reader != NULL)
			continue;
		if (task->pending)
		{
			/* Read again: a batch does not outlive the reader that its rows came from. */
			sckpt_task_drop_pending(task);
			task->fed = task->def->position;
			task->rows_in = task->def->rows_in;
		}
		if (XLogRecPtrIsInvalid(start) || task->def->restart < start)
			start = task->def->restart;
		if (XLogRecPtrIsInvalid(skip_until) || task->def->position < skip_until)
			skip_until = task->def->position;
	}
	if (XLogRecPtrIsInvalid(start))
		start = slot_lsn;
	foreach(lc, tasks)
		sckpt_early_drop(lfirst(lc), InvalidTransactionId);
	list_free(tapped_xids);
	tapped_xids = NIL;
	if (reader != NULL)
		sckpt_log_close(reader);
	reader = NULL;
	open_reader(start, skip_until);
	sckpt_log_set_tap(reader, taps_wanted() ? TAP_BYTES : 0);
}

/* ---- Reading ---- */

typedef struct FeedArg
{
	SckptBatch *batch;
	bool		stateful_only;
} FeedArg;

static void
feed_task(SckptTask *task, void *arg)
{
	sckpt_task_feed(task, ((FeedArg *) arg)->batch, known_visible);
}

static void
feed_tasks(SckptBatch *batch, bool stateful_only)
{
	FeedArg		arg = {batch, stateful_only};
	ListCell   *lc;

	if (batch->nsegments == 0)
		return;
	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status == SCKPT_RUNNING && (task->operator || !stateful_only))
			guard(task, feed_task, &arg);
	}
}

/*
 * Give the rest of the transaction at hand to the tasks, in batches, the last of which is returned unless it is
 * full.
 */
static SckptBatch *
take_transaction(SckptLog *log, SckptLogTransaction *transaction, SckptBatch *batch,
				 void (*full) (SckptBatch *batch, void *arg), void *arg)
{
	SckptLogMessage *message;
	bool		incomplete = false;

	sckpt_batch_add_transaction(batch, transaction);
	while ((message = sckpt_log_next_message(log)) != NULL)
	{
		incomplete = sckpt_batch_add(batch, message, wanted_streams);
		if (batch->bytes >= BATCH_BYTES && !incomplete)
		{
			full(batch, arg);
			sckpt_batch_release(batch);
			batch = sckpt_batch_create(worker_context);
			sckpt_batch_add_transaction(batch, transaction);
			CHECK_FOR_INTERRUPTS();
		}
	}
	return batch;
}

static void
batch_full(SckptBatch *batch, void *arg)
{
	feed_tasks(batch, *(bool *) arg);
}

/* A transaction too large to keep, for a linear query: read it once more, into a checkpoint. */
typedef struct LargeArg
{
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
	uint64		rows = sckpt_task_scan(large->task, batch, &scan);

	if (rows == 0)
		return;
	sckpt_batch_wait_visible(batch, known_visible);
	large->rows_in += rows;
	sckpt_checkpoint_add_rows(sckpt_task_run_linear(large->task, batch));
}

static void
run_large(SckptTask *task, void *arg)
{
	LargeArg   *large = arg;
	SckptLog   *volatile log = sckpt_log_open(worker_context, MyDatabaseId, large->start, large->transaction->commit_lsn - 1,
											  (Size) sckpt_log_memory_limit * 1024);
	SckptBatch *volatile batch = NULL;

	large->task = task;
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
		batch = take_transaction(log, &transaction, sckpt_batch_create(worker_context), run_large_batch, large);
		run_large_batch(batch, large);
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
		if (batch)
			sckpt_batch_release(batch);
		sckpt_log_close(log);
	}
	PG_END_TRY();
}

/* ---- Large transactions, while they are open ---- */

/* Give tasks what open transactions have written since we last looked. */
static void
feed_early(void)
{
	SckptLogMessage *message;
	TransactionId xid;
	ListCell   *lc;

	while (sckpt_log_next_dropped(reader, &xid))
	{
		tapped_xids = list_delete_int(tapped_xids, (int) xid);
		foreach(lc, tasks)
			sckpt_early_drop(lfirst(lc), xid);
	}
	while ((message = sckpt_log_take_tap(reader, &xid)) != NULL)
	{
		SckptLogTransaction transaction = {xid, PG_UINT64_MAX, GetCurrentTimestamp(), 0, 0};
		SckptBatch *batch = sckpt_batch_create(worker_context);
		bool		first = !list_member_int(tapped_xids, (int) xid);

		if (first)
		{
			MemoryContext old = MemoryContextSwitchTo(worker_context);

			tapped_xids = lappend_int(tapped_xids, (int) xid);
			MemoryContextSwitchTo(old);
		}
		sckpt_batch_add_transaction(batch, &transaction);
		while (message)
		{
			SckptLogMessage *next = message->next;

			(void) sckpt_batch_add(batch, message, wanted_streams);
			message = next;
		}
		foreach(lc, tasks)
		{
			SckptTask  *task = lfirst(lc);

			if (sckpt_early_possible(task))
				sckpt_early_feed(task, xid, first, batch);
		}
		sckpt_batch_release(batch);
	}
}

typedef struct MergeArg
{
	TransactionId *xids;
	int			nxids;
} MergeArg;

static void
merge_task(SckptTask *task, void *arg)
{
	sckpt_early_merge(task, ((MergeArg *) arg)->xids, ((MergeArg *) arg)->nxids);
}

/*
 * A transaction that was tapped has committed: tasks that have all of its tapped rows take them in, and skip them when they
 * are read again for the others, if there are others.
 */
static void
merge_early(SckptLogTransaction *transaction, MergeArg *arg)
{
	bool		others = false;
	ListCell   *lc;

	arg->xids = sckpt_log_tapped_xids(reader, &arg->nxids);
	if (arg->nxids == 0)
		return;
	feed_early();
	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status != SCKPT_RUNNING || task->fed >= transaction->commit_lsn)
			continue;
		if (!sckpt_early_covers(task, arg->xids, arg->nxids))
			others = true;
		else if (guard(task, merge_task, arg))
		{
			task->skip = arg->xids;
			task->nskip = arg->nxids;
			task->fed_time = transaction->commit_time;
		}
	}
	if (!others)
		sckpt_log_skip_tapped(reader);
}

static void
end_early(MergeArg *arg)
{
	ListCell   *lc;

	if (arg->nxids == 0)
		return;
	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		task->skip = NULL;
		task->nskip = 0;
		for (int i = 0; i < arg->nxids; i++)
			sckpt_early_drop(task, arg->xids[i]);
	}
	for (int i = 0; i < arg->nxids; i++)
		tapped_xids = list_delete_int(tapped_xids, (int) arg->xids[i]);
}

/*
 * Read up to a transaction boundary and give what was read to the tasks.  True when the log has been read to its end.
 */
static bool
read_log(bool *delivered)
{
	SckptBatch *batch = sckpt_batch_create(worker_context);
	bool		at_end = false;
	ListCell   *lc;

	for (;;)
	{
		SckptLogTransaction transaction;
		XLogRecPtr	start = sckpt_log_restart_lsn(reader);
		SckptLogResult result = sckpt_log_next(reader, READ_BYTES, &transaction);

		if (result == SCKPT_LOG_TRANSACTION)
		{
			bool		large = transaction.nbytes > LARGE_BYTES;
			MergeArg	early;

			*delivered = true;
			merge_early(&transaction, &early);
			if (large || early.nxids > 0)
			{
				/* What is before it goes first. */
				feed_tasks(batch, false);
				sckpt_batch_release(batch);
				batch = sckpt_batch_create(worker_context);
			}
			batch = take_transaction(reader, &transaction, batch, batch_full, &large);
			if (!large && early.nxids > 0)
			{
				feed_tasks(batch, false);
				sckpt_batch_release(batch);
				batch = sckpt_batch_create(worker_context);
				end_early(&early);
				break;
			}
			if (large)
			{
				LargeArg	arg = {NULL, &transaction, start, 0, 0};

				feed_tasks(batch, true);
				sckpt_batch_release(batch);
				batch = sckpt_batch_create(worker_context);
				foreach(lc, tasks)
				{
					SckptTask  *task = lfirst(lc);

					arg.rows_in = 0;
					if (task->status == SCKPT_RUNNING && task->operator == NULL && task->fed < transaction.commit_lsn)
						guard(task, run_large, &arg);
				}
				end_early(&early);
				break;
			}
			if (batch->bytes >= BATCH_BYTES)
				break;
			if (batch->nxids >= 10000)
				break;
		}
		else
		{
			at_end = result == SCKPT_LOG_END;
			break;
		}
	}
	feed_tasks(batch, false);
	sckpt_batch_release(batch);
	feed_early();

	/* A boundary: everything that was delivered is taken in. */
	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status == SCKPT_RUNNING)
			task->fed = Max(task->fed, sckpt_log_read_lsn(reader));
	}
	return at_end;
}

/* ---- Checkpoints ---- */

static XLogRecPtr
requested_position(SckptTask *task)
{
	SckptPipelineEntry *entry;
	XLogRecPtr	requested = InvalidXLogRecPtr;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		if (entry->requested > entry->covered)
			requested = entry->requested;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	return requested;
}

static void
take_checkpoint(SckptTask *task, void *arg)
{
	if (!sckpt_checkpoint_take(task, arg))
		task->checkpoint_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_MS);
}

static int64
checkpoint_interval(SckptTask *task)
{
	return task->def->checkpoint_interval >= 0 ? task->def->checkpoint_interval : sckpt_checkpoint_interval;
}

/* Returns whether a checkpoint was completed. */
static bool
take_checkpoints(SckptPosition *position)
{
	bool		completed = false;
	ListCell   *lc;

	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);
		TimestampTz now = GetCurrentTimestamp();
		XLogRecPtr	requested;
		XLogRecPtr	covered = InvalidXLogRecPtr;
		SckptPosition at = *position;

		if (task->status != SCKPT_RUNNING)
			continue;
		requested = requested_position(task);
		if (requested != InvalidXLogRecPtr && position->end < requested)
			requested = InvalidXLogRecPtr;	/* not there yet */

		/* While the reader is behind what the task has, nothing can have happened to it. */
		if (task->def->position <= position->commit && task->changed &&
			(task->checkpoint_at <= now || task->pending_bytes > PENDING_BYTES ||
			 (requested != InvalidXLogRecPtr && task->waiting[0] == '\0')))
		{
			int64		before = task->def->last_checkpoint;

			(void) guard(task, take_checkpoint, &at);
			if (task->status == SCKPT_RUNNING && task->def->last_checkpoint > before)
			{
				task->checkpoint_at = TimestampTzPlusMilliseconds(now, checkpoint_interval(task));
				completed = true;
			}
		}
		if (task->status == SCKPT_RUNNING && !task->changed && task->def->position <= position->commit)
			covered = position->end;
		sckpt_task_publish(task, covered);
	}
	return completed;
}

/* Pipelines to which nothing happens follow the log all the same, so that the slot can. */
static void
store_idle_positions(SckptPosition *position)
{
	List	   *idle = NIL;
	ListCell   *lc;

	if (position->end < stored_at + POSITION_BYTES)
		return;
	stored_at = position->end;
	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status == SCKPT_RUNNING && !task->changed && task->def->position < position->commit)
			idle = lappend(idle, task);
	}
	if (idle)
		sckpt_checkpoint_store_positions(idle, position);
}

/* Let the slot follow what is still needed, which is on disk already. */
static void
move_slot(SckptPosition *position)
{
	XLogRecPtr	lsn = position->restart;
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	/* Holds first: who creates a pipeline lets go of its hold only when its row is visible (hook.h). */
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	database->read_lsn = position->commit;
	database->restart_lsn = position->restart;
	for (int i = 0; i < sckpt_shared->nholds; i++)
	{
		SckptHold  *hold = &sckpt_shared->holds[i];

		if (hold->pid != 0 && hold->database == MyDatabaseId && hold->restart_lsn < lsn)
			lsn = hold->restart_lsn;
	}
	LWLockRelease(sckpt_shared->lock);

	foreach(lc, tasks)
		lsn = Min(lsn, ((SckptTask *) lfirst(lc))->def->restart);
	if (lsn < slot_lsn + SLOT_BYTES || !TimestampDifferenceExceeds(slot_moved_at, now, 1000))
		return;

	/* Pipelines that we do not know yet: their rows may have become visible since. */
	if (generation != pg_atomic_read_u64(&database->generation))
		return;
	slot_moved_at = now;
	if (sckpt_slot_advance(MyDatabaseId, lsn))
		slot_lsn = lsn;
}

/* ---- The loop ---- */

static long
time_to_wait(bool active)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		wait = IDLE_MS;
	ListCell   *lc;

	if (active)
		wait = LOOK_MS;
	if (GetXLogInsertRecPtr() > GetFlushRecPtr(NULL))
		wait = Min(wait, UNFLUSHED_MS);
	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);
		int64		until = IDLE_MS;

		if (task->status == SCKPT_RUNNING)
		{
			if (active)
				wait = Min(wait, Max(1, checkpoint_interval(task) / 4));
			if (task->changed)
				until = (task->checkpoint_at - now) / 1000 + 1;
			if (requested_position(task) != InvalidXLogRecPtr)
				until = Min(until, UNFLUSHED_MS);
		}
		else if (task->retry_at != 0)
			until = (task->retry_at - now) / 1000 + 1;
		wait = Min(wait, Max(1, until));
	}
	return (long) wait;
}

static void
reload_settings(void)
{
	ListCell   *lc;

	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	if (reader)
		sckpt_log_set_memory_limit(reader, (Size) sckpt_log_memory_limit * 1024);

	/* There may be more memory for state now. */
	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status == SCKPT_FAILED && task->retry_at != 0)
			task->retry_at = 1;
	}
}

/* What ALTER DATABASE and the configuration file set for sessions is not for us. */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"synchronous_commit", "local"},
		{"row_security", "on"},
		{"session_replication_role", "origin"},
		{"jit", "off"},
		{"search_path", "pg_catalog, pg_temp"},
		{"check_function_bodies", "on"},
	};
	char		timeout[32];

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	snprintf(timeout, sizeof(timeout), "%d", sckpt_lock_timeout);
	SetConfigOption("lock_timeout", timeout, PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * A batch's messages are freed together and the next batch's allocated at once.  Left to itself, malloc gives the top of the heap
 * back to the system in between, and every page is faulted in and cleared anew: a third of the
 * time of a drain, measured.
 */
static void
keep_freed_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_MMAP_THRESHOLD, 4 * 1024 * 1024);
	(void) mallopt(M_TRIM_THRESHOLD, 32 * 1024 * 1024);
#endif
}

void
sckpt_worker_main(Datum arg)
{
	Oid			oid = DatumGetObjectId(arg);
	bool		active = false;
	Size		memory = 0;

	if (!sckpt_launcher_attach_worker(oid))
		proc_exit(0);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(oid, InvalidOid, 0);
	fix_settings();
	keep_freed_memory();
	pgstat_report_appname("stream_ckpt worker");

	worker_context = AllocSetContextCreate(TopMemoryContext, "stream_ckpt worker", ALLOCSET_DEFAULT_SIZES);
	loop_context = AllocSetContextCreate(worker_context, "stream_ckpt loop", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(loop_context);
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	database = sckpt_shared_find_database(oid);
	LWLockRelease(sckpt_shared->lock);

	sync_tasks();
	sckpt_launcher_confirm_worker();
	if (sckpt_slot_check(MyDatabaseId, &slot_lsn) != SCKPT_SLOT_VALID)
	{
		StartTransactionCommand();
		slot_lsn = sckpt_slot_ensure(MyDatabaseId);
		CommitTransactionCommand();
	}
	stored_at = GetFlushRecPtr(NULL);
	pgstat_report_activity(STATE_RUNNING, "stream_ckpt worker");

	for (;;)
	{
		SckptPosition position;
		bool		delivered = false;
		bool		at_end;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(loop_context);
		MemoryContextSwitchTo(loop_context);
		if (ConfigReloadPending)
		{
			reload_settings();
			fix_settings();
		}
		if (generation != pg_atomic_read_u64(&database->generation))
			sync_tasks();
		start_tasks();

		at_end = read_log(&delivered);
		position.commit = sckpt_log_read_lsn(reader);
		position.restart = sckpt_log_restart_lsn(reader);
		position.end = sckpt_log_end_lsn(reader);
		if (position.commit != InvalidXLogRecPtr)
		{
			(void) take_checkpoints(&position);
			store_idle_positions(&position);
			move_slot(&position);
		}
		active = delivered || sckpt_log_memory(reader) != memory;
		memory = sckpt_log_memory(reader);
		if (!at_end)
			continue;

		/* Say that commits should wake us before looking a last time. */
		if (!active)
		{
			pg_atomic_write_u32(&database->wants_rows, 1);
			pg_memory_barrier();
			if (GetFlushRecPtr(NULL) > sckpt_log_end_lsn(reader) + XLOG_BLCKSZ)
				active = true;
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, time_to_wait(active),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		pg_atomic_write_u32(&database->wants_rows, 0);
	}
}
