/*-------------------------------------------------------------------------
 *
 * worker_follow.c
 *		Positions of pipelines to which nothing happens, and the slot, follow the
 *		log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "checkpoint.h"
#include "head.h"
#include "lag.h"
#include "note.h"
#include "progress.h"
#include "retain.h"
#include "settings.h"
#include "slot.h"
#include "worker_private.h"

#define POSITION_BYTES		(16 * 1024 * 1024)	/* of log without rows, before positions are stored */
#define SLOT_BYTES			(1024 * 1024)	/* least step of the slot */

static TimestampTz slot_moved_at;
static XLogRecPtr stored_at;	/* end of the log when idle positions were last stored; Invalid: not yet */

/* Pipelines with heads to which nothing happens: their tasks say how far they have read. */
static void
for_each_idle_head(void (*work) (SckptTask *head, SckptPosition *position))
{
	ListCell   *lc;

	foreach(lc, sckpt_self.tasks)
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

/* Is there enough of the log since positions were last stored? */
static bool
is_far(XLogRecPtr end)
{
	if (XLogRecPtrIsInvalid(stored_at))
		stored_at = GetFlushRecPtr(NULL);
	if (end < stored_at + POSITION_BYTES)
		return false;
	stored_at = end;
	return true;
}

/* Pipelines to which nothing happens follow the log all the same, so that the slot can. */
static void
store_idle_positions(SckptPosition *position)
{
	List	   *idle = NIL;
	ListCell   *lc;

	if (!is_far(position->end))
		return;
	for_each_idle_head(store_head_position);
	foreach(lc, sckpt_self.main_lane->tasks)
	{
		SckptTask  *task = lfirst(lc);

		/* One task of a parallel pipeline knows nothing of the others, nor of a checkpoint under way. */
		if (task->number < 0 && task->status == SCKPT_RUNNING && !task->changed && task->def->position < position->commit)
			idle = lappend(idle, task);
	}
	if (idle)
		sckpt_checkpoint_store_positions(idle, position);
}

/* Let the slot follow what is still needed, which is on disk already.  The launcher moves it: that takes a write to disk. */
static void
move_slot(SckptPosition *position)
{
	XLogRecPtr	lsn = position->restart;
	TimestampTz now = GetCurrentTimestamp();
	SckptDatabase *database = sckpt_self.database;
	ListCell   *lc;

	if (sckpt_self.number > 0)
	{
		LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
		database->workers[sckpt_self.number].restart_lsn = position->restart;
		LWLockRelease(sckpt_shared->lock);
		return;
	}
	foreach(lc, sckpt_self.tasks)
		lsn = Min(lsn, sckpt_retain_needed(((SckptTask *) lfirst(lc))->def));

	/* Holds first: who creates a pipeline lets go of its hold only when its row is visible (hook.h). */
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	database->workers[0].restart_lsn = position->restart;
	database->read_lsn = position->commit;
	database->restart_lsn = position->restart;

	/* One that has not said yet from where it reads keeps the slot where it is. */
	for (int i = 1; i < database->nworkers; i++)
	{
		if (database->workers[i].pid != 0)
			lsn = Min(lsn, database->workers[i].restart_lsn);
	}
	foreach(lc, sckpt_self.others)
	{
		SckptOther *other = lfirst(lc);
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

	/* Nor while there are pipelines that we do not know yet: their rows may have become visible since. */
	if (lsn >= sckpt_self.slot_lsn + SLOT_BYTES && TimestampDifferenceExceeds(slot_moved_at, now, 1000) &&
		sckpt_self.generation == pg_atomic_read_u64(&database->generation))
	{
		slot_moved_at = now;
		sckpt_self.slot_lsn = database->slot_target = lsn;
		if (sckpt_shared->launcher_latch)
			SetLatch(sckpt_shared->launcher_latch);
	}
	LWLockRelease(sckpt_shared->lock);
}

/* What a process does about the log that reads none of it, but has heads. */
static void
follow_tasks(void)
{
	static TimestampTz followed_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (sckpt_max_lag > 0)
		sckpt_lag_refresh_sinks(sckpt_self.tasks, sckpt_self.generation);
	if (!TimestampDifferenceExceeds(followed_at, now, SCKPT_IDLE_MS))
		return;
	followed_at = now;
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	sckpt_self.database->workers[sckpt_self.number].restart_lsn = PG_UINT64_MAX;
	LWLockRelease(sckpt_shared->lock);
	if (is_far(GetFlushRecPtr(NULL)))
		for_each_idle_head(store_head_position);
	for_each_idle_head(note_head);
}

int64
sckpt_worker_follow(bool at_end)
{
	SckptPosition position;

	if (sckpt_self.main_lane == NULL)
	{
		follow_tasks();
		return SCKPT_IDLE_MS;
	}
	sckpt_lane_position(sckpt_self.main_lane, &position);
	if (position.commit != InvalidXLogRecPtr)
	{
		store_idle_positions(&position);
		sckpt_note_write(sckpt_self.main_lane->tasks, &position);
		for_each_idle_head(note_head);
		move_slot(&position);
	}
	return at_end ? sckpt_progress_heartbeats(sckpt_self.main_lane) : 0;
}
