/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The background worker that runs the pipelines of one database: its loop,
 *		and the checkpoints that it takes.
 *
 * One loop: for each lane (lane.h) read the log up to a transaction boundary, give the batch to its
 * tasks, take the checkpoints that are due; move the slot; wait.
 *
 * A database has up to stream_ckpt.workers of them, which share its pipelines.  The first, the leader, also starts the others, as soon as
 * there is something for them, looks after the replication slot and takes pipelines in that come from elsewhere.  The others end when it
 * does.  So do stream_ckpt.checkpoint_writers more, which read nothing, and have the heads of pipelines with state (head.h).
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

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "attach.h"
#include "checkpoint.h"
#include "head.h"
#include "helper.h"
#include "lag.h"
#include "lane.h"
#include "log.h"
#include "part.h"
#include "savepoint.h"
#include "settings.h"
#include "shared.h"
#include "slot.h"
#include "standby.h"
#include "task.h"
#include "worker.h"
#include "worker_private.h"

#define PENDING_BYTES		(16 * 1024 * 1024)	/* kept for linear queries before an early checkpoint: more would leave the processor's cache */
#define LOOK_MS				50		/* between looks at the log while rows come in */
#define UNFLUSHED_MS		20		/* the same while the log has an unflushed end */
#define LOCKED_MS			200		/* before a checkpoint that found a lock in its way is tried again */

SckptSelf	sckpt_self;

static MemoryContext loop_context;	/* reset in each round */
static int	leader_pid;

/* ---- Checkpoints ---- */

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

static void
take_checkpoints(SckptLane *lane, SckptPosition *position, bool at_end)
{
	ListCell   *lc;

	foreach(lc, lane->tasks)
	{
		SckptTask  *task = lfirst(lc);
		TimestampTz now = GetCurrentTimestamp();
		XLogRecPtr	requested;
		XLogRecPtr	covered = InvalidXLogRecPtr;
		bool		savepoint;
		SckptPosition at = *position;

		if (task->status != SCKPT_RUNNING)
			continue;
		if (task->number >= 0)
		{
			sckpt_part_step(task, &at, at_end);
			continue;
		}
		requested = sckpt_task_requested(task);
		if (requested != InvalidXLogRecPtr && position->end < requested)
			requested = InvalidXLogRecPtr;	/* not there yet */
		savepoint = sckpt_savepoint_wanted(task, position->end);

		/* While the reader is behind what the task has, nothing can have happened to it. */
		if (task->def->position <= position->commit && (task->changed || savepoint) &&
			(task->checkpoint_at <= now || task->pending_bytes + task->dead_bytes > PENDING_BYTES ||
			 ((savepoint || requested != InvalidXLogRecPtr) && task->waiting[0] == '\0')))
		{
			int64		before = task->def->last_checkpoint;

			(void) sckpt_task_guard(task, take_checkpoint, &at);
			if (task->status == SCKPT_RUNNING && task->def->last_checkpoint > before)
				task->checkpoint_at = TimestampTzPlusMilliseconds(now, checkpoint_interval(task));
		}

		/* What somebody has just changed under our feet (restore_pipeline) must not be taken for covered. */
		if (task->status == SCKPT_RUNNING && !task->changed && task->def->position <= position->commit &&
			sckpt_self.generation == pg_atomic_read_u64(&sckpt_self.database->generation))
			covered = position->end;
		sckpt_task_publish(task, covered);
	}
}

/*
 * A task that writes a stream whose readers are too far behind leaves its lane, right after a checkpoint, with its
 * state.  It reads on from there, in a lane of its own, when they have caught up (worker_start.c).  Its own producers wait for it meanwhile.
 */
static void
hold_tasks(SckptLane *lane)
{
	ListCell   *lc;

	if (sckpt_max_lag == 0)
		return;
	sckpt_lag_refresh_sinks(sckpt_self.tasks, sckpt_self.generation);
	foreach(lc, sckpt_self.tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status != SCKPT_RUNNING || task->changed || !list_member_ptr(lane->tasks, task) ||
			!sckpt_lag_sink_full(task, lane->tasks))
			continue;
		sckpt_lane_remove(lane, task);
		task->held = true;
		strlcpy(task->waiting, "waiting for pipelines that read its result and are behind (stream_ckpt.max_lag)", SCKPT_ERROR_BYTES);
		sckpt_task_publish(task, InvalidXLogRecPtr);
	}
}

/* Read on, and take the checkpoints that are due then.  True at the end of the log. */
static bool
run_lane(SckptLane *lane, bool *delivered)
{
	SckptPosition position;
	bool		at_end;

	sckpt_lane_drop_stopped(lane);
	at_end = sckpt_lane_read(lane, delivered);
	sckpt_lane_drop_stopped(lane);
	sckpt_lane_position(lane, &position);
	if (position.commit != InvalidXLogRecPtr)
		take_checkpoints(lane, &position, at_end);
	hold_tasks(lane);
	sckpt_lane_drop_stopped(lane);
	return at_end;
}

/* ---- The loop ---- */

static long
time_to_wait(bool active)
{
	static XLogRecPtr last_insert = InvalidXLogRecPtr;
	static int	unflushed_wait = UNFLUSHED_MS;
	XLogRecPtr	insert;
	TimestampTz now = GetCurrentTimestamp();
	int64		wait = SCKPT_IDLE_MS;
	ListCell   *lc;

	if (active)
		wait = LOOK_MS;

	/* An asynchronous commit is flushed soon, but hint bits may stay unflushed for as long as nothing else happens. */
	insert = sckpt_self.main_lane ? GetXLogInsertRecPtr() : InvalidXLogRecPtr;
	if (insert != last_insert)
		unflushed_wait = UNFLUSHED_MS;
	else
		unflushed_wait = Min(unflushed_wait * 2, SCKPT_IDLE_MS);
	last_insert = insert;
	if (insert > GetFlushRecPtr(NULL))
		wait = Min(wait, unflushed_wait);
	foreach(lc, sckpt_self.parts)
	{
		SckptTask  *part = lfirst(lc);

		if (active && part->status == SCKPT_RUNNING)
			wait = Min(wait, Max(1, checkpoint_interval(part) / 4));
	}
	foreach(lc, sckpt_self.tasks)
	{
		SckptTask  *task = lfirst(lc);
		int64		until = SCKPT_IDLE_MS;

		if (task->status == SCKPT_RUNNING)
		{
			if (active)
				wait = Min(wait, Max(1, checkpoint_interval(task) / 4));
			if (task->changed)
				until = (task->checkpoint_at - now) / 1000 + 1;
			if (task->held)
				until = LOOK_MS;
			else if (sckpt_task_requested(task) != InvalidXLogRecPtr)
				until = Min(until, UNFLUSHED_MS);
		}
		else if (task->retry_at != 0)
			until = (task->retry_at - now) / 1000 + 1;
		if (task->head)
			until = Min(until, sckpt_head_wait(task, now));
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
	if (sckpt_self.main_lane)
		sckpt_log_set_memory_limit(sckpt_self.main_lane->reader, (Size) sckpt_log_memory_limit * 1024);
	foreach(lc, sckpt_self.other_lanes)
		sckpt_log_set_memory_limit(((SckptLane *) lfirst(lc))->reader, (Size) sckpt_log_memory_limit * 1024);

	/* There may be more memory for state now. */
	foreach(lc, sckpt_self.tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status == SCKPT_FAILED && task->retry_at != 0)
		{
			task->retry_at = 1;
			task->starved = false;
		}
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

/*
 * Hand over the counts of rows written and deleted, which a backend does between two commands.  Autovacuum
 * knows only from them what to clean up: our own tables, and results.  Rows of the last moment before a pause
 * are reported a while later.
 */
static void
report_statistics(void)
{
	static TimestampTz due = 0;
	long		wait;

	if (due != 0 && GetCurrentTimestamp() >= due)
	{
		due = 0;
		(void) pgstat_report_stat(true);
		return;
	}
	wait = pgstat_report_stat(false);
	if (wait == 0)
		due = 0;
	else if (due == 0)
		due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait);
}

/* What tasks and heads have handed over may be in files. */
static void
release_parts(int code, Datum arg)
{
	ListCell   *lc;

	foreach(lc, sckpt_self.parts)
		sckpt_part_release(lfirst(lc));
	foreach(lc, sckpt_self.tasks)
		sckpt_head_end(lfirst(lc));
}

void
sckpt_worker_main(Datum arg)
{
	Oid			oid = DatumGetObjectId(arg);
	bool		active = false;
	Size		memory = 0;
	pg_atomic_uint32 *wants_rows;

	memcpy(&sckpt_self.number, MyBgworkerEntry->bgw_extra, sizeof(sckpt_self.number));
	memcpy(&leader_pid, MyBgworkerEntry->bgw_extra + sizeof(sckpt_self.number), sizeof(leader_pid));
	if (sckpt_self.number == 0)
		leader_pid = MyProcPid;
	if (sckpt_self.number == 0 ? !sckpt_launcher_attach_worker(oid) : !sckpt_launcher_attach_helper(oid, sckpt_self.number, leader_pid))
		proc_exit(0);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(oid, InvalidOid, 0);
	fix_settings();
	keep_freed_memory();

	sckpt_self.context = AllocSetContextCreate(TopMemoryContext, "stream_ckpt worker", ALLOCSET_DEFAULT_SIZES);
	loop_context = AllocSetContextCreate(sckpt_self.context, "stream_ckpt loop", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(loop_context);
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	sckpt_self.database = sckpt_shared_find_database(oid);
	sckpt_self.slots_lost = sckpt_self.database->slots_lost;
	LWLockRelease(sckpt_shared->lock);
	pgstat_report_appname(MyBgworkerEntry->bgw_type);
	wants_rows = &sckpt_self.database->workers[sckpt_self.number].wants_rows;

	if (RecoveryInProgress())
	{
		sckpt_standby_run();
		MemoryContextReset(loop_context);
		MemoryContextSwitchTo(loop_context);
	}
	sckpt_worker_sync();
	if (sckpt_self.number == 0)
		sckpt_launcher_confirm_worker();
	sckpt_checkpoint_end_interrupted(sckpt_self.tasks);
	if (sckpt_slot_retained(MyDatabaseId, &sckpt_self.slot_lsn) != SCKPT_SLOT_VALID)
	{
		StartTransactionCommand();
		sckpt_self.slot_lsn = sckpt_slot_ensure(MyDatabaseId);
		CommitTransactionCommand();
	}
	pgstat_report_activity(STATE_RUNNING, MyBgworkerEntry->bgw_type);
	before_shmem_exit(release_parts, (Datum) 0);

	for (;;)
	{
		bool		delivered = false;
		bool		at_end = true;
		int64		wait;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(loop_context);
		MemoryContextSwitchTo(loop_context);
		if (ConfigReloadPending)
		{
			reload_settings();
			fix_settings();
		}
		if (sckpt_self.database->workers[0].pid != leader_pid)
			proc_exit(0);
		if (sckpt_self.generation != pg_atomic_read_u64(&sckpt_self.database->generation))
			sckpt_worker_sync();
		if (sckpt_self.number == 0)
			sckpt_helpers_start(sckpt_self.database);
		sckpt_worker_replace_slot();
		sckpt_worker_start_tasks();

		if (sckpt_self.main_lane)
			at_end = run_lane(sckpt_self.main_lane, &delivered);
		foreach(lc, sckpt_self.other_lanes)
		{
			SckptLane  *lane = lfirst(lc);

			at_end &= run_lane(lane, &delivered);
			if (sckpt_worker_end_lane(lane))
				sckpt_self.other_lanes = foreach_delete_current(sckpt_self.other_lanes, lc);
		}
		foreach(lc, sckpt_self.tasks)
		{
			SckptTask  *task = lfirst(lc);

			/* What somebody has just changed under our feet must not be taken for covered. */
			if (task->status == SCKPT_RUNNING && task->head && sckpt_self.generation == pg_atomic_read_u64(&sckpt_self.database->generation))
				sckpt_head_step(task, checkpoint_interval(task));
		}
		wait = sckpt_worker_follow(at_end);
		if (sckpt_self.main_lane)
		{
			active = delivered || sckpt_log_memory(sckpt_self.main_lane->reader) != memory;
			memory = sckpt_log_memory(sckpt_self.main_lane->reader);
		}
		report_statistics();
		if (!at_end)
			continue;

		if (active || sckpt_self.main_lane == NULL)
			pg_atomic_write_u32(wants_rows, 0);
		else if (pg_atomic_read_u32(wants_rows) == 0)
		{
			/* Ask commits to wake us, and look once more: one may have come in between. */
			pg_atomic_write_u32(wants_rows, 1);
			pg_memory_barrier();
			continue;
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(time_to_wait(active), wait),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
