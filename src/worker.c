/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The background worker that runs the pipelines of one database.
 *
 * One loop: for each lane (lane.h) read the log up to a transaction boundary, give the batch to its
 * tasks, take the checkpoints that are due; move the slot; wait.
 *
 * A database has up to stream_ckpt.workers of them, which share its pipelines.  The first, the leader, also starts the others, as soon as
 * there is something for them, looks after the replication slot and takes pipelines in that come from elsewhere.  The others end when it
 * does.
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

#include "adopt.h"
#include "attach.h"
#include "catalog.h"
#include "checkpoint.h"
#include "head.h"
#include "helper.h"
#include "lag.h"
#include "lane.h"
#include "log.h"
#include "note.h"
#include "part.h"
#include "progress.h"
#include "retain.h"
#include "savepoint.h"
#include "segment.h"
#include "settings.h"
#include "shared.h"
#include "slot.h"
#include "standby.h"
#include "stream.h"
#include "task.h"
#include "worker.h"

#define PENDING_BYTES		(16 * 1024 * 1024)	/* kept for linear queries before an early checkpoint: more would leave the processor's cache */
#define POSITION_BYTES		(16 * 1024 * 1024)	/* of log without rows, before positions are stored */
#define SLOT_BYTES			(1024 * 1024)	/* least step of the slot */
#define LOOK_MS				50		/* between looks at the log while rows come in */
#define UNFLUSHED_MS		20		/* the same while the log has an unflushed end */
#define ARRIVING_MS			500		/* between looks at whether a restore is complete */
#define LOCKED_MS			200		/* before a checkpoint that found a lock in its way is tried again */
#define IDLE_MS				1000	/* longest sleep: notes are to follow checkpoints soon (note.h) */

static MemoryContext worker_context;
static MemoryContext loop_context;	/* reset in each round */
static SckptDatabase *database;
static int	number;				/* of this worker; 0: it is the leader */
static int	leader_pid;
static List *tasks = NIL;		/* all pipelines that are this worker's */
static List *parts = NIL;		/* tasks of parallel pipelines that are this worker's */
static SckptLane *main_lane;	/* follows the end of the log */
static List *other_lanes = NIL; /* catch up */
static uint64 generation;
static XLogRecPtr slot_lsn;
static TimestampTz slot_moved_at;
static XLogRecPtr stored_at;	/* end of the log when idle positions were last stored */
static uint32 slots_lost;		/* as far as we know (shared.h) */

/* The leader's: where pipelines of other workers need the log from, as of the last look at the tables, which is the least it can be. */
typedef struct OtherPipeline
{
	int64		id;
	XLogRecPtr	restart;
} OtherPipeline;
static List *others = NIL;

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

/* The task is about to be destroyed. */
static void
leave_lanes(SckptTask *task)
{
	ListCell   *lc;

	if (main_lane)
		sckpt_lane_remove(main_lane, task);
	foreach(lc, other_lanes)
		sckpt_lane_remove(lfirst(lc), task);
}

/* Nothing has happened to the task between its stored position and this one. */
static void
go_on_from(SckptTask *task, XLogRecPtr commit, XLogRecPtr restart)
{
	Oid			types[3] = {INT8OID, LSNOID, LSNOID};
	Datum		values[3] = {Int64GetDatum(task->def->id), LSNGetDatum(commit), LSNGetDatum(restart)};
	SckptUser	saved;

	ereport(LOG,
			(errmsg("pipeline \"%s\" goes on from %X/%X", task->def->name, LSN_FORMAT_ARGS(commit)),
			 errdetail("The log from its position %X/%X on is not there, but has nothing for it.",
					   LSN_FORMAT_ARGS(task->def->position))));
	sckpt_catalog_enter(&saved);
	SPI_execute_with_args("UPDATE stream_ckpt.pipeline_position SET position = $2, restart = $3 WHERE pipeline_id = $1",
						  3, types, values, NULL, false, 0);
	sckpt_catalog_leave(&saved);
	task->def->position = commit;
	task->def->restart = restart;
}

/* Is the log that a task needs still there?  Then see that it stays. */
static void
check_log(SckptTask *task)
{
	XLogRecPtr	commit;
	XLogRecPtr	restart;

	if (!sckpt_segment_exists(task->def->restart))
	{
		if (!sckpt_note_find(task->def, &commit, &restart))
			sckpt_note_report_gone(task->def);
		go_on_from(task, commit, restart);
	}
	if (task->def->restart < slot_lsn && sckpt_slot_retain(MyDatabaseId, task->def->restart))
		slot_lsn = task->def->restart;
}

static void
check_paused(SckptTask *task, void *arg)
{
	if (!sckpt_note_log_exists(task->def))
		sckpt_note_report_gone(task->def);
}

/* The log that paused pipelines need may be lost, too. */
static void
check_paused_tasks(void)
{
	ListCell   *lc;

	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status == SCKPT_PAUSED)
			(void) sckpt_task_guard(task, check_paused, NULL);
	}
}

/* Which worker has a pipeline?  Known to all of them. */
static int
worker_of(SckptPipeline *def, int task)
{
	return (int) ((def->id + task) % Min(database->nworkers, SCKPT_MAX_WORKERS));
}

static SckptTask *
find_part(int64 id, int task)
{
	ListCell   *lc;

	foreach(lc, parts)
	{
		SckptTask  *part = lfirst(lc);

		if (part->def->id == id && part->number == task)
			return part;
	}
	return NULL;
}

static void
drop_part(SckptTask *part)
{
	leave_lanes(part);
	sckpt_part_release(part);
	sckpt_task_destroy(part);
}

/* The tasks of a parallel pipeline that this worker has to run, when its head wants them. */
static void
sync_parts(SckptPipeline *def)
{
	MemoryContext old = MemoryContextSwitchTo(worker_context);

	for (int i = 0; i < def->parallelism && def->parallelism > 1; i++)
	{
		SckptTask  *part;

		sckpt_helper_need(worker_of(def, i));
		if (worker_of(def, i) != number)
			continue;
		part = find_part(def->id, i);
		if (part && part->def->version != def->version)
		{
			parts = list_delete_ptr(parts, part);
			drop_part(part);
			part = NULL;
		}
		if (part == NULL)
		{
			part = sckpt_task_create(worker_context, def);
			part->number = i;
			part->status = SCKPT_STARTING;
			parts = lappend(parts, part);
		}
		part->seen = true;
	}
	MemoryContextSwitchTo(old);
}

/* The leader keeps the log for pipelines of others, too. */
static void
note_other(SckptPipeline *def)
{
	MemoryContext old = MemoryContextSwitchTo(worker_context);
	OtherPipeline *other = palloc(sizeof(OtherPipeline));

	other->id = def->id;
	other->restart = sckpt_retain_needed(def);
	others = lappend(others, other);
	MemoryContextSwitchTo(old);
}

/* The leader's: is there still something to do; have pipelines come from elsewhere? */
static void
check_database(void)
{
	bool		extension;

	StartTransactionCommand();
	extension = sckpt_catalog_lock_extension();
	if (!extension || !sckpt_catalog_has_streams())
		leave_database(extension);
	sckpt_adopt_copies();
	CommitTransactionCommand();
}

static void
sync_tasks(void)
{
	ListCell   *lc;

	generation = pg_atomic_read_u64(&database->generation);
	if (number == 0)
		check_database();

	StartTransactionCommand();
	if (!sckpt_catalog_lock_extension())
	{
		if (number > 0)
			proc_exit(0);
		leave_database(false);
	}
	list_free_deep(others);
	others = NIL;
	sckpt_helpers_forget();
	foreach(lc, tasks)
		((SckptTask *) lfirst(lc))->seen = false;
	foreach(lc, parts)
		((SckptTask *) lfirst(lc))->seen = false;
	foreach(lc, sckpt_catalog_pipelines())
	{
		SckptPipeline *def = lfirst(lc);
		SckptTask  *task = find_task(def->id);
		bool		changed = task && task->def->version != def->version;
		MemoryContext old;

		/* It has come since we looked for such: whoever restored it will wake us. */
		if (!def->at_home)
			continue;
		sckpt_helper_need(worker_of(def, 0));
		sync_parts(def);
		if (worker_of(def, 0) != number)
		{
			if (number == 0)
				note_other(def);
			continue;
		}
		/* What the worker itself found out needs no reload; what users did does. */
		if (task && task->def->version == def->version && task->def->paused == def->paused && task->def->owner == def->owner &&
			(task->def->error != NULL) == (def->error != NULL) &&
			!(task->status == SCKPT_FAILED && task->retry_at == 0 && def->error == NULL))
		{
			task->seen = true;
			sckpt_retain_note_held(task, &def->held);
			if (task->retry_at != 0)
			{
				/* resume_pipeline(): do not wait for the back-off. */
				task->retry_at = 1;
				task->starved = false;
			}
			continue;
		}
		if (task)
		{
			leave_lanes(task);
			tasks = list_delete_ptr(tasks, task);
			sckpt_task_destroy(task);
		}
		old = MemoryContextSwitchTo(worker_context);
		task = sckpt_task_create(worker_context, def);
		if (changed)
			strlcpy(task->cause, "the pipeline was changed", SCKPT_ERROR_BYTES);
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
			leave_lanes(task);
			sckpt_task_destroy(task);
		}
		else
			sckpt_task_publish(task, InvalidXLogRecPtr);
	}
	foreach(lc, parts)
	{
		SckptTask  *part = lfirst(lc);

		if (part->seen)
			continue;
		parts = foreach_delete_current(parts, lc);
		sckpt_part_leave(part);
		drop_part(part);
	}
	check_paused_tasks();
	pg_atomic_write_u64(&database->workers[number].synced, generation);
	sckpt_shared_broadcast();
}

/* ---- Starting tasks, and the reader ---- */

/*
 * The slot has been invalidated (max_slot_wal_keep_size): take a new one, so that what is still there stays, and see who has lost what.
 */
static void
replace_lost_slot(void)
{
	XLogRecPtr	retained;

	if (number > 0)
	{
		/* The leader does. */
		if (slots_lost != database->slots_lost)
		{
			slots_lost = database->slots_lost;
			check_paused_tasks();
		}
		return;
	}
	if (sckpt_slot_check(MyDatabaseId, &retained) != SCKPT_SLOT_LOST)
		return;
	ereport(LOG,
			(errmsg("the replication slot of database %u was invalidated: log that pipelines need may be lost", MyDatabaseId)));
	StartTransactionCommand();
	slot_lsn = sckpt_slot_ensure(MyDatabaseId);
	CommitTransactionCommand();
	database->slots_lost++;
	check_paused_tasks();
}

/* Where its last checkpoint ended, as the tables say: after an error in a commit we might not know. */
static void
refresh(SckptTask *task)
{
	ListCell   *lc;

	foreach(lc, sckpt_catalog_pipelines())
	{
		SckptPipeline *def = lfirst(lc);

		if (def->id != task->def->id)
			continue;
		if (def->version != task->def->version)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("pipeline \"%s\" has been changed", def->name)));
		task->def->position = def->position;
		task->def->restart = def->restart;
		task->def->last_checkpoint = def->last_checkpoint;
		task->def->next_checkpoint = def->next_checkpoint;
		task->def->rows_in = def->rows_in;
		task->def->rows_out = def->rows_out;
		task->def->late_rows = def->late_rows;
		task->def->dead_letters = def->dead_letters;
		task->def->watermark = def->watermark;
		task->def->clock = def->clock;
		memcpy(task->def->inflows, def->inflows, list_length(def->streams) * sizeof(SckptInflow));
		task->def->arriving = def->arriving;
		task->def->chunks = def->chunks;
		task->def->layout = def->layout;
		sckpt_retain_note_held(task, &def->held);
	}
}

/*
 * Who changes a pipeline has its row locked, and may have locked its result, for which we should not wait.  The row is locked for good when the state
 * is loaded: after the relations that the query names, as who drops these does it, so that nobody waits for each other.
 */
static void
check_unlocked(SckptTask *task)
{
	bool		held;

	StartTransactionCommand();
	held = sckpt_catalog_lock_extension() && sckpt_catalog_hold(task->def->id, task->def->version);
	CommitTransactionCommand();
	if (!held)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("pipeline \"%s\" is being changed or dropped", task->def->name)));
}

static void
start_part(SckptTask *part, void *arg)
{
	check_unlocked(part);
	StartTransactionCommand();
	enable_timeout_after(STATEMENT_TIMEOUT, sckpt_checkpoint_timeout);
	if (!sckpt_catalog_lock_extension())
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("extension \"stream_ckpt\" is gone")));
	refresh(part);
	sckpt_part_start(part);
	disable_timeout(STATEMENT_TIMEOUT, false);
	CommitTransactionCommand();
}

static void
start_task(SckptTask *task, void *arg)
{
	check_unlocked(task);
	StartTransactionCommand();
	enable_timeout_after(STATEMENT_TIMEOUT, sckpt_checkpoint_timeout);
	if (!sckpt_catalog_lock_extension())
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("extension \"stream_ckpt\" is gone")));
	refresh(task);
	if (task->def->arriving && !sckpt_adopt_finish(task))
	{
		disable_timeout(STATEMENT_TIMEOUT, false);
		CommitTransactionCommand();
		task->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ARRIVING_MS);
		return;
	}
	check_log(task);
	sckpt_task_start(task);
	disable_timeout(STATEMENT_TIMEOUT, false);
	CommitTransactionCommand();
	task->restarts = 0;			/* stored */
	task->status = SCKPT_RUNNING;
	if (!task->starved)
		task->error[0] = '\0';
}

/* Tasks that are to get a lane of their own, together. */
typedef struct Behind
{
	List	   *tasks;
	XLogRecPtr	start;
	XLogRecPtr	skip_until;
} Behind;

/* Those that are not further back than the main lane join it. */
static void
enter_lane(SckptTask *task, Behind *behind)
{
	/* If it failed outside of a lane's work, it is still in the one it was in. */
	leave_lanes(task);
	if (main_lane != NULL && task->def->position >= sckpt_log_read_lsn(main_lane->reader))
	{
		sckpt_lane_add(main_lane, task);
		return;
	}
	behind->tasks = lappend(behind->tasks, task);
	if (XLogRecPtrIsInvalid(behind->start) || task->def->restart < behind->start)
		behind->start = task->def->restart;
	if (XLogRecPtrIsInvalid(behind->skip_until) || task->def->position < behind->skip_until)
		behind->skip_until = task->def->position;
}

/* Start the tasks that can be. */
static void
start_tasks(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Behind		behind = {NIL, InvalidXLogRecPtr, InvalidXLogRecPtr};
	SckptLane  *lane;
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);
		bool		released = task->held && !sckpt_lag_sink_full(task, NIL);

		if (!(task->status == SCKPT_STARTING && task->retry_at <= now) && !released &&
			!(task->retry_at != 0 && task->retry_at <= now &&
			  (task->status == SCKPT_RESTARTING || task->status == SCKPT_FAILED)))
			continue;

		/* It may have been another worker's, which has yet to let it go. */
		if (!sckpt_task_claim(task))
			continue;
		task->retry_at = 0;
		task->held = false;
		task->waiting[0] = '\0';
		if (released || (sckpt_task_guard(task, start_task, NULL) && task->status == SCKPT_RUNNING))
		{
			/* The head of a parallel pipeline reads nothing. */
			if (task->head == NULL)
				enter_lane(task, &behind);
		}
		sckpt_task_publish(task, InvalidXLogRecPtr);
	}
	foreach(lc, parts)
	{
		SckptTask  *part = lfirst(lc);

		if (!sckpt_part_wanted(part))
			continue;

		/* One that had to stop a moment ago may still be in its lane, and nothing may be fed twice. */
		leave_lanes(part);
		if (sckpt_task_guard(part, start_part, NULL) && part->status == SCKPT_RUNNING)
			enter_lane(part, &behind);
	}
	if (behind.tasks == NIL && main_lane != NULL)
		return;

	lane = sckpt_lane_open(worker_context, behind.tasks ? behind.start : slot_lsn, behind.skip_until);
	foreach(lc, behind.tasks)
		sckpt_lane_add(lane, lfirst(lc));
	if (main_lane == NULL)
		main_lane = lane;
	else
	{
		old = MemoryContextSwitchTo(worker_context);
		other_lanes = lappend(other_lanes, lane);
		MemoryContextSwitchTo(old);
	}
}

/* A lane that has caught up gives its tasks to the main one; one without tasks ends. */
static bool
end_lane(SckptLane *lane)
{
	ListCell   *lc;

	if (lane->tasks && sckpt_log_read_lsn(lane->reader) < sckpt_log_read_lsn(main_lane->reader))
		return false;

	/* A batch does not outlive the reader that its rows came from. */
	foreach(lc, lane->tasks)
	{
		if (((SckptTask *) lfirst(lc))->pending)
			return false;
	}
	while (lane->tasks)
	{
		SckptTask  *task = linitial(lane->tasks);

		sckpt_lane_remove(lane, task);
		sckpt_lane_add(main_lane, task);
	}
	sckpt_lane_close(lane);
	return true;
}

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
			generation == pg_atomic_read_u64(&database->generation))
			covered = position->end;
		sckpt_task_publish(task, covered);
	}
}

/*
 * A task that writes a stream whose readers are too far behind leaves its lane, right after a checkpoint, with its
 * state.  It reads on from there, in a lane of its own, when they have caught up (start_tasks).  Its own producers wait for it meanwhile.
 */
static void
hold_tasks(SckptLane *lane)
{
	ListCell   *lc;

	if (sckpt_max_lag == 0)
		return;
	sckpt_lag_refresh_sinks(tasks, generation);
	foreach(lc, tasks)
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

/* Parallel pipelines to which nothing happens: their tasks say how far they have read. */
static void
for_each_idle_head(void (*work) (SckptTask *head, SckptPosition *position))
{
	ListCell   *lc;

	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);
		SckptPosition position;

		if (task->status == SCKPT_RUNNING && task->head && sckpt_head_idle_position(task, &position))
			work(task, &position);
	}
}

static void
store_head_position(SckptTask *head, SckptPosition *position)
{
	if (head->def->position < position->commit)
		sckpt_checkpoint_store_positions(list_make1(head), position);
}

static void
note_head(SckptTask *head, SckptPosition *position)
{
	sckpt_note_write(list_make1(head), position);
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
	foreach(lc, main_lane->tasks)
	{
		SckptTask  *task = lfirst(lc);

		/* One task of a parallel pipeline knows nothing of the others, nor of a checkpoint under way. */
		if (task->number < 0 && task->status == SCKPT_RUNNING && !task->changed && task->def->position < position->commit)
			idle = lappend(idle, task);
	}
	if (idle)
		sckpt_checkpoint_store_positions(idle, position);
	for_each_idle_head(store_head_position);
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
	database->workers[number].restart_lsn = position->restart;
	if (number > 0)
	{
		LWLockRelease(sckpt_shared->lock);
		return;
	}
	database->read_lsn = position->commit;
	database->restart_lsn = position->restart;

	/* One that has not said yet from where it reads keeps the slot where it is. */
	for (int i = 1; i < database->nworkers; i++)
	{
		if (database->workers[i].pid != 0)
			lsn = Min(lsn, database->workers[i].restart_lsn);
	}
	foreach(lc, others)
	{
		OtherPipeline *other = lfirst(lc);
		SckptPipelineEntry *entry = sckpt_shared_find_pipeline(MyDatabaseId, other->id);

		if (entry)
		{
			SpinLockAcquire(&entry->mutex);
			if (entry->worker_pid != 0)
				other->restart = Max(other->restart, entry->restart_lsn);
			SpinLockRelease(&entry->mutex);
		}
		lsn = Min(lsn, other->restart);
	}
	for (int i = 0; i < sckpt_shared->nholds; i++)
	{
		SckptHold  *hold = &sckpt_shared->holds[i];

		if (hold->pid != 0 && hold->database == MyDatabaseId && hold->restart_lsn < lsn)
			lsn = hold->restart_lsn;
	}
	LWLockRelease(sckpt_shared->lock);

	foreach(lc, tasks)
		lsn = Min(lsn, sckpt_retain_needed(((SckptTask *) lfirst(lc))->def));
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
	static XLogRecPtr last_insert = InvalidXLogRecPtr;
	static int	unflushed_wait = UNFLUSHED_MS;
	XLogRecPtr	insert;
	TimestampTz now = GetCurrentTimestamp();
	int64		wait = IDLE_MS;
	ListCell   *lc;

	if (active)
		wait = LOOK_MS;

	/* An asynchronous commit is flushed soon, but hint bits may stay unflushed for as long as nothing else happens. */
	insert = GetXLogInsertRecPtr();
	if (insert != last_insert)
		unflushed_wait = UNFLUSHED_MS;
	else
		unflushed_wait = Min(unflushed_wait * 2, IDLE_MS);
	last_insert = insert;
	if (insert > GetFlushRecPtr(NULL))
		wait = Min(wait, unflushed_wait);
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
	if (main_lane)
		sckpt_log_set_memory_limit(main_lane->reader, (Size) sckpt_log_memory_limit * 1024);
	foreach(lc, other_lanes)
		sckpt_log_set_memory_limit(((SckptLane *) lfirst(lc))->reader, (Size) sckpt_log_memory_limit * 1024);

	/* There may be more memory for state now. */
	foreach(lc, tasks)
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

	foreach(lc, parts)
		sckpt_part_release(lfirst(lc));
	foreach(lc, tasks)
		sckpt_head_end(lfirst(lc));
}

void
sckpt_worker_main(Datum arg)
{
	Oid			oid = DatumGetObjectId(arg);
	bool		active = false;
	Size		memory = 0;
	pg_atomic_uint32 *wants_rows;

	memcpy(&number, MyBgworkerEntry->bgw_extra, sizeof(number));
	memcpy(&leader_pid, MyBgworkerEntry->bgw_extra + sizeof(number), sizeof(leader_pid));
	if (number == 0)
		leader_pid = MyProcPid;
	if (number == 0 ? !sckpt_launcher_attach_worker(oid) : !sckpt_launcher_attach_helper(oid, number, leader_pid))
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
	slots_lost = database->slots_lost;
	LWLockRelease(sckpt_shared->lock);
	wants_rows = &database->workers[number].wants_rows;

	if (RecoveryInProgress())
	{
		sckpt_standby_run();
		MemoryContextReset(loop_context);
		MemoryContextSwitchTo(loop_context);
	}
	sync_tasks();
	if (number == 0)
	{
		sckpt_launcher_confirm_worker();
		sckpt_checkpoint_end_interrupted();
	}
	if (sckpt_slot_check(MyDatabaseId, &slot_lsn) != SCKPT_SLOT_VALID)
	{
		StartTransactionCommand();
		slot_lsn = sckpt_slot_ensure(MyDatabaseId);
		CommitTransactionCommand();
	}
	stored_at = GetFlushRecPtr(NULL);
	pgstat_report_activity(STATE_RUNNING, "stream_ckpt worker");
	before_shmem_exit(release_parts, (Datum) 0);

	for (;;)
	{
		SckptPosition position;
		bool		delivered = false;
		bool		at_end;
		int64		heartbeat_wait;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(loop_context);
		MemoryContextSwitchTo(loop_context);
		if (ConfigReloadPending)
		{
			reload_settings();
			fix_settings();
		}
		if (database->workers[0].pid != leader_pid)
			proc_exit(0);
		if (generation != pg_atomic_read_u64(&database->generation))
			sync_tasks();
		if (number == 0)
			sckpt_helpers_start(database);
		replace_lost_slot();
		start_tasks();

		at_end = run_lane(main_lane, &delivered);
		foreach(lc, other_lanes)
		{
			SckptLane  *lane = lfirst(lc);

			at_end &= run_lane(lane, &delivered);
			if (end_lane(lane))
				other_lanes = foreach_delete_current(other_lanes, lc);
		}
		foreach(lc, tasks)
		{
			SckptTask  *task = lfirst(lc);

			/* What somebody has just changed under our feet must not be taken for covered. */
			if (task->status == SCKPT_RUNNING && task->head && generation == pg_atomic_read_u64(&database->generation))
				sckpt_head_step(task, checkpoint_interval(task));
		}
		sckpt_lane_position(main_lane, &position);
		if (position.commit != InvalidXLogRecPtr)
		{
			store_idle_positions(&position);
			sckpt_note_write(main_lane->tasks, &position);
			for_each_idle_head(note_head);
			move_slot(&position);
		}
		heartbeat_wait = at_end ? sckpt_progress_heartbeats(main_lane) : 0;
		active = delivered || sckpt_log_memory(main_lane->reader) != memory;
		memory = sckpt_log_memory(main_lane->reader);
		report_statistics();
		if (!at_end)
			continue;

		if (active)
			pg_atomic_write_u32(wants_rows, 0);
		else if (pg_atomic_read_u32(wants_rows) == 0)
		{
			/* Ask commits to wake us, and look once more: one may have come in between. */
			pg_atomic_write_u32(wants_rows, 1);
			pg_memory_barrier();
			continue;
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(time_to_wait(active), heartbeat_wait),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
