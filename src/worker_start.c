/*-------------------------------------------------------------------------
 *
 * worker_start.c
 *		Starting tasks, where their log is, and which reader they get.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "adopt.h"
#include "catalog.h"
#include "head.h"
#include "lag.h"
#include "log.h"
#include "note.h"
#include "part.h"
#include "retain.h"
#include "segment.h"
#include "settings.h"
#include "slot.h"
#include "worker_private.h"

#define ARRIVING_MS			500		/* between looks at whether a restore is complete */

void
sckpt_worker_leave_lanes(SckptTask *task)
{
	ListCell   *lc;

	if (sckpt_self.main_lane)
		sckpt_lane_remove(sckpt_self.main_lane, task);
	foreach(lc, sckpt_self.other_lanes)
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
	if (task->def->restart < sckpt_self.slot_lsn && sckpt_slot_retain(MyDatabaseId, task->def->restart))
		sckpt_self.slot_lsn = task->def->restart;
}

static void
check_paused(SckptTask *task, void *arg)
{
	if (!sckpt_note_log_exists(task->def))
		sckpt_note_report_gone(task->def);
}

void
sckpt_worker_check_paused(void)
{
	ListCell   *lc;

	foreach(lc, sckpt_self.tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status == SCKPT_PAUSED)
			(void) sckpt_task_guard(task, check_paused, NULL);
	}
}

void
sckpt_worker_replace_slot(void)
{
	XLogRecPtr	retained;

	if (sckpt_self.number > 0)
	{
		/* The leader does. */
		if (sckpt_self.slots_lost != sckpt_self.database->slots_lost)
		{
			sckpt_self.slots_lost = sckpt_self.database->slots_lost;
			sckpt_worker_check_paused();
		}
		return;
	}
	if (sckpt_slot_check(MyDatabaseId, &retained) != SCKPT_SLOT_LOST)
		return;
	ereport(LOG,
			(errmsg("the replication slot of database %u was invalidated: log that pipelines need may be lost", MyDatabaseId)));
	StartTransactionCommand();
	sckpt_self.slot_lsn = sckpt_slot_ensure(MyDatabaseId);
	CommitTransactionCommand();
	sckpt_self.database->slots_lost++;
	sckpt_worker_check_paused();
}

/* Where its last checkpoint ended, as the tables say: after an error in a commit we might not know. */
static void
refresh(SckptTask *task)
{
	SckptPipeline *def = sckpt_catalog_pipeline(task->def->name, true);

	/* One that has been dropped does not get far. */
	if (def == NULL || def->id != task->def->id)
		return;
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

	/* Its tasks are to see what has been written here. */
	if (task->leads)
		sckpt_head_begin(task);
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

/* Those to which the main lane will give everything that they do not have join it. */
static void
enter_lane(SckptTask *task, Behind *behind)
{
	/* If it failed outside of a lane's work, it is still in the one it was in. */
	sckpt_worker_leave_lanes(task);
	if (sckpt_self.main_lane != NULL && task->def->position >= sckpt_log_delivers_after(sckpt_self.main_lane->reader))
	{
		sckpt_lane_add(sckpt_self.main_lane, task);
		return;
	}
	behind->tasks = lappend(behind->tasks, task);
	if (XLogRecPtrIsInvalid(behind->start) || task->def->restart < behind->start)
		behind->start = task->def->restart;
	if (XLogRecPtrIsInvalid(behind->skip_until) || task->def->position < behind->skip_until)
		behind->skip_until = task->def->position;
}

void
sckpt_worker_start_tasks(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Behind		behind = {NIL, InvalidXLogRecPtr, InvalidXLogRecPtr};
	SckptLane  *lane;
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, sckpt_self.tasks)
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
			/* A head reads nothing. */
			if (task->head == NULL)
				enter_lane(task, &behind);
		}
		sckpt_task_publish(task, InvalidXLogRecPtr);
	}
	foreach(lc, sckpt_self.parts)
	{
		SckptTask  *part = lfirst(lc);

		if (!sckpt_part_wanted(part))
			continue;

		/* One that had to stop a moment ago may still be in its lane, and nothing may be fed twice. */
		sckpt_worker_leave_lanes(part);
		if (sckpt_task_guard(part, start_part, NULL) && part->status == SCKPT_RUNNING)
			enter_lane(part, &behind);
	}
	if (behind.tasks == NIL && (sckpt_self.main_lane != NULL || sckpt_self.number >= sckpt_self.nreaders))
		return;

	lane = sckpt_lane_open(sckpt_self.context, behind.tasks ? behind.start : sckpt_self.slot_lsn, behind.skip_until);
	foreach(lc, behind.tasks)
		sckpt_lane_add(lane, lfirst(lc));
	if (sckpt_self.main_lane == NULL)
		sckpt_self.main_lane = lane;
	else
	{
		old = MemoryContextSwitchTo(sckpt_self.context);
		sckpt_self.other_lanes = lappend(sckpt_self.other_lanes, lane);
		MemoryContextSwitchTo(old);
	}
}

bool
sckpt_worker_end_lane(SckptLane *lane)
{
	ListCell   *lc;

	if (lane->tasks && sckpt_log_read_lsn(lane->reader) < sckpt_log_delivers_after(sckpt_self.main_lane->reader))
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
		sckpt_lane_add(sckpt_self.main_lane, task);
	}
	sckpt_lane_close(lane);
	return true;
}
