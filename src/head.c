/*-------------------------------------------------------------------------
 *
 * head.c
 *		The head of a pipeline whose work others do, in one task or several:
 *		its stages that are not spread over these, and its checkpoints.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "careful.h"
#include "halt.h"
#include "head_private.h"
#include "lag.h"
#include "part.h"
#include "retain.h"
#include "savepoint.h"
#include "settings.h"

#define LOCKED_MS 200			/* before a checkpoint that found a lock in its way is tried again */

/* ---- Shared entries ---- */

static void
wake_tasks(void)
{
	SckptDatabase *database;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	database = sckpt_shared_find_database(MyDatabaseId);
	if (database)
		sckpt_shared_wake_workers(database);
	LWLockRelease(sckpt_shared->lock);
}

void
sckpt_head_begin(SckptTask *task)
{
	SckptHead  *head = MemoryContextAllocZero(task->run_context, sizeof(SckptHead));
	SckptPipelineEntry *entry;
	bool		full = false;

	head->ntasks = task->ntasks;
	head->parts = MemoryContextAllocZero(task->run_context, task->ntasks * sizeof(SckptPartEntry));
	head->rows_before = MemoryContextAllocZero(task->run_context, task->ntasks * sizeof(int64));
	head->replies = MemoryContextAllocZero(task->run_context, task->ntasks * sizeof(SckptParcel *));
	head->rows_in = task->def->rows_in;
	head->late_rows = task->def->late_rows;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry == NULL || entry->worker_pid != MyProcPid)
	{
		LWLockRelease(sckpt_shared->lock);
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("pipeline \"%s\" is not this worker's any more", task->def->name)));
	}
	head->epoch = pg_atomic_add_fetch_u64(&sckpt_shared->epochs, 1);
	for (int i = 0; i < head->ntasks && !full; i++)
		full = sckpt_shared_get_part(MyDatabaseId, task->def->id, i) == NULL;
	if (!full)
	{
		SpinLockAcquire(&entry->mutex);
		entry->epoch = head->epoch;
		entry->version = task->def->version;
		entry->ntasks = head->ntasks;
		entry->rows_before = head->rows_in;
		entry->active = true;
		entry->barrier = entry->outcome = 0;
		entry->careful = task->careful;
		entry->careful_until = task->careful_until;
		entry->careful_rows = task->careful_rows;
		entry->halting = task->halting;
		entry->halt_before = task->halt_before;
		strlcpy(entry->cause, task->cause, SCKPT_ERROR_BYTES);
		for (int i = 0; i < head->ntasks; i++)
		{
			SckptPartEntry *part = sckpt_shared_find_part(MyDatabaseId, task->def->id, i);

			memset((char *) part + offsetof(SckptPartEntry, worker_pid), 0, sizeof(*part) - offsetof(SckptPartEntry, worker_pid));
			part->epoch = head->epoch;
			part->status = SCKPT_PART_WAITING;
			part->next_close = DT_NOEND;
		}
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	if (full)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many tasks of parallel pipelines in this cluster"),
				 errhint("Raise \"stream_ckpt.max_pipelines\" to more than %d.", sckpt_max_pipelines)));
	task->head = head;
	wake_tasks();
}

void
sckpt_head_end(SckptTask *task)
{
	SckptHead  *head = task->head;
	SckptPipelineEntry *entry;

	if (head == NULL)
		return;
	sckpt_head_drop_replies(head);
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry && entry->epoch == head->epoch)
	{
		SpinLockAcquire(&entry->mutex);
		entry->active = false;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	task->head = NULL;
	wake_tasks();
}

/* How the tasks are. */
static bool
copy_parts(SckptTask *task)
{
	SckptHead  *head = task->head;
	SckptPipelineEntry *entry;
	bool		found = true;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry == NULL || entry->epoch != head->epoch)
		found = false;
	else
	{
		SpinLockAcquire(&entry->mutex);
		for (int i = 0; i < head->ntasks && found; i++)
		{
			SckptPartEntry *part = sckpt_shared_find_part(MyDatabaseId, task->def->id, i);

			found = part != NULL && part->epoch == head->epoch;
			if (found)
				head->parts[i] = *part;
		}
		task->careful_until = Max(task->careful_until, entry->careful_until);
		task->careful_rows = entry->careful_rows;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	return found;
}

/*
 * The barrier of a checkpoint: the furthest that any task may have read, and not before the last checkpoint, which they have; or the end of the log,
 * if that is no further than what is read at a time: then what has come since is in it, too.
 */
static void
publish_barrier(SckptTask *task)
{
	SckptPipelineEntry *entry;
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry)
	{
		XLogRecPtr	barrier = task->def->position + 1;

		SpinLockAcquire(&entry->mutex);
		for (int i = 0; i < task->head->ntasks; i++)
		{
			SckptPartEntry *part = sckpt_shared_find_part(MyDatabaseId, task->def->id, i);

			if (part)
				barrier = Max(barrier, part->claimed);
		}
		if (flushed > barrier && flushed - barrier <= SCKPT_CLAIM_BYTES && task->halt_before == InvalidXLogRecPtr)
			barrier = flushed;
		entry->barrier = task->attempt->id;
		entry->barrier_lsn = barrier;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	wake_tasks();
}

void
sckpt_head_decide(SckptTask *task, int64 id, bool committed)
{
	SckptHead  *head = task->head;
	SckptPipelineEntry *entry;
	SckptParcelHandle handles[SCKPT_MAX_TASKS];

	memset(handles, 0, sizeof(handles));
	for (int i = 0; i < head->ntasks && committed; i++)
		head->rows_before[i] = head->parts[i].report.rows_in;
	for (int i = 0; i < head->ntasks; i++)
	{
		if (head->replies[i])
			handles[i] = *sckpt_parcel_handle(head->replies[i]);
	}
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry && entry->epoch == head->epoch)
	{
		SpinLockAcquire(&entry->mutex);
		entry->barrier = 0;
		entry->outcome = id;
		entry->committed = committed;
		entry->careful = task->careful;
		entry->halting = task->halting;
		for (int i = 0; i < head->ntasks; i++)
		{
			SckptPartEntry *part = sckpt_shared_find_part(MyDatabaseId, task->def->id, i);

			if (part)
				part->reply = handles[i];
		}
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	wake_tasks();
}

/* ---- Checkpoints ---- */

int
sckpt_head_chunks(SckptTask *task)
{
	int			chunks = 0;

	for (int i = 0; i < task->head->ntasks; i++)
		chunks += task->head->parts[i].report.chunks;
	return chunks;
}

void
sckpt_head_add_state(SckptTask *task, uint64 *rows, Size *bytes)
{
	for (int i = 0; i < task->head->ntasks; i++)
	{
		*rows += task->head->parts[i].report.state_rows;
		*bytes += task->head->parts[i].report.state_bytes;
	}
}

const SckptPartReport *
sckpt_head_report(SckptTask *task, int number, int64 *restore_id)
{
	*restore_id = task->head->parts[number].restore_id;
	return &task->head->parts[number].report;
}

int64
sckpt_head_rows_before(SckptTask *task, int number)
{
	return task->head->rows_before[number];
}

static void
trigger(SckptTask *task, void *arg)
{
	if (!sckpt_checkpoint_trigger(task))
	{
		task->checkpoint_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_MS);
		return;
	}
	/* Why the last one failed is to be seen until one has not. */
	if (task->failed_checkpoints > 0)
		strlcpy(task->waiting, task->error, SCKPT_ERROR_BYTES);
	task->head->consumed = false;
	task->head->first_packed_at = 0;
	task->head->retry_at = 0;
	publish_barrier(task);
}

static void
complete(SckptTask *task, void *arg)
{
	SckptHead  *head = task->head;
	SckptAttempt *attempt = task->attempt;
	SckptPosition position = {PG_UINT64_MAX, PG_UINT64_MAX, 0};

	task->rows_in = head->rows_in;
	task->late_rows = head->late_rows;
	for (int i = 0; i < head->ntasks; i++)
	{
		SckptPartReport *report = &head->parts[i].report;

		position.commit = Min(position.commit, report->commit);
		position.restart = Min(position.restart, report->restart);
		task->rows_in += report->rows_in;
		task->late_rows += report->late_rows;
		task->times.watermark = report->watermark;
		task->times.clock = report->clock;
	}
	if (!head->consumed && task->noperators > 0)
	{
		attempt->undefined = true;
		sckpt_head_consume(task);
		attempt->undefined = false;
	}
	head->consumed = true;
	if (!sckpt_checkpoint_resume(task))
	{
		head->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_MS);
		return;
	}
	for (int i = 0; i < head->ntasks; i++)
	{
		attempt->rows += head->parts[i].report.checkpointed_rows;
		attempt->bytes += head->parts[i].report.checkpointed_bytes;
	}
	sckpt_checkpoint_finish(task, &position);
}

/* A task could not do its part. */
static void
raise_declined(SckptTask *task, void *arg)
{
	SckptPartEntry *part = arg;

	ereport(ERROR,
			(errcode(part->sqlerrcode),
			 errmsg("%s", part->error),
			 part->hint[0] ? errhint("%s", part->hint) : 0));
}

static void
time_out(SckptTask *task, void *arg)
{
	int			acknowledged = 0;

	for (int i = 0; i < task->head->ntasks; i++)
		acknowledged += task->head->parts[i].packed == task->attempt->id;

	/* What those have handed on to our stages is lost with their parcels. */
	task->attempt->undefined = task->noperators > 0;
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("checkpoint " INT64_FORMAT " of pipeline \"%s\" was not complete at the timeout", task->attempt->id, task->def->name),
			 errdetail("%d of %d tasks had reached its barrier %d ms (stream_ckpt.checkpoint_timeout) after the first one.", acknowledged,
					   task->head->ntasks, sckpt_checkpoint_timeout)));
}

/* Of tasks that have failed, the one that has found the first bad row, or any. */
static SckptPartEntry *
find_failed(SckptHead *head)
{
	SckptPartEntry *found = NULL;

	for (int i = 0; i < head->ntasks; i++)
	{
		SckptPartEntry *part = &head->parts[i];

		if (part->status != SCKPT_PART_FAILED)
			continue;
		if (found == NULL || (part->halt_before != InvalidXLogRecPtr &&
							  (found->halt_before == InvalidXLogRecPtr || part->halt_before < found->halt_before)))
			found = part;
	}
	return found;
}

/* A task that has failed takes the pipeline with it.  It has reported its error. */
static bool
fail_with_part(SckptTask *task)
{
	SckptPartEntry *part = find_failed(task->head);
	ErrorData	error = {0};

	if (part == NULL)
		return false;
	for (int i = 0; i < task->head->ntasks; i++)
		task->fed = Max(task->fed, task->head->parts[i].claimed);
	error.sqlerrcode = part->sqlerrcode;
	error.message = pstrdup(part->error);
	error.hint = part->starved ? pstrdup(part->hint) : NULL;
	if (part->halt_before != InvalidXLogRecPtr)
		sckpt_halt_found(task, part->halt_before, part->sqlerrcode, part->error, part->hint);
	task->attempt->undefined = true;
	sckpt_task_fail(task, &error);
	task->attempt->undefined = false;
	sckpt_task_publish(task, InvalidXLogRecPtr);
	return true;
}

/* What the tasks say, all together. */
typedef struct Summary
{
	bool		running;
	bool		changed;
	bool		packed;			/* all, of the checkpoint under way */
	bool		reached;		/* some have */
	SckptPartEntry *declined;	/* that has declined it */
	bool		settled;
	XLogRecPtr	commit;
	XLogRecPtr	restart;
	XLogRecPtr	end;
} Summary;

static void
sum_up(SckptTask *task, Summary *summary)
{
	SckptHead  *head = task->head;
	TimestampTz fed_time = DT_NOEND;

	*summary = (Summary) {true, task->changed, true, false, NULL, true, PG_UINT64_MAX, PG_UINT64_MAX, PG_UINT64_MAX};
	task->rows_in = head->rows_in;
	task->late_rows = head->late_rows;
	for (int i = 0; i < head->ntasks; i++)
	{
		SckptPartEntry *part = &head->parts[i];

		summary->running &= part->status == SCKPT_PART_RUNNING;
		summary->changed |= part->changed;
		summary->packed &= part->packed == task->attempt->id;
		summary->reached |= part->packed == task->attempt->id;
		if (task->attempt->id != 0 && part->declined == task->attempt->id)
			summary->declined = part;
		summary->settled &= part->packed == part->settled;
		summary->commit = Min(summary->commit, part->commit);
		summary->restart = Min(summary->restart, part->restart);
		summary->end = Min(summary->end, part->end);
		fed_time = Min(fed_time, part->fed_time);
		task->rows_in += part->counters.rows_in;
		task->late_rows += part->counters.late_rows;
	}
	if (summary->commit != InvalidXLogRecPtr)
	{
		task->fed = Max(task->fed, summary->commit);
		task->read_lsn = Max(task->read_lsn, summary->end);
	}
	if (fed_time != 0 && fed_time != DT_NOEND)
		task->fed_time = Max(task->fed_time, fed_time);
}

TimestampTz
sckpt_head_next_close(SckptTask *task)
{
	TimestampTz next = DT_NOEND;

	for (int i = 0; i < task->head->ntasks; i++)
		next = Min(next, task->head->parts[i].next_close);
	return next;
}

void
sckpt_head_counters(SckptTask *task, SckptCounters *counters)
{
	for (int i = 0; i < task->head->ntasks; i++)
	{
		SckptCounters *part = &task->head->parts[i].counters;

		counters->state_rows += part->state_rows;
		counters->state_bytes += part->state_bytes;
		counters->busy_ms += part->busy_ms;
		counters->idle_ms += part->idle_ms;
	}
}

bool
sckpt_head_is_ready(SckptTask *task)
{
	return task->head->ready;
}

/* Have all tasks read what comes before the bad row? */
static bool
is_halted(SckptTask *task, Summary *summary)
{
	return task->halt_before != InvalidXLogRecPtr && summary->end >= task->halt_before;
}

/* Between two checkpoints: is one due? */
static bool
is_due(SckptTask *task, Summary *summary, TimestampTz now)
{
	XLogRecPtr	requested = sckpt_task_requested(task);

	if (sckpt_savepoint_wanted(task, summary->end) && task->waiting[0] == '\0')
		return true;
	if (!summary->changed)
		return false;
	if (is_halted(task, summary) && task->checkpoint_at <= now)
		return true;
	if (requested != InvalidXLogRecPtr && summary->end >= requested && task->waiting[0] == '\0')
		return true;

	/* Who reads what we write is too far behind: nothing more of it now. */
	return task->checkpoint_at <= now && !sckpt_lag_sink_full(task, NIL);
}

void
sckpt_head_step(SckptTask *task, int64 interval)
{
	SckptHead  *head = task->head;
	TimestampTz now = GetCurrentTimestamp();
	XLogRecPtr	covered = InvalidXLogRecPtr;
	Summary		summary;

	if (!copy_parts(task) || fail_with_part(task))
		return;
	sum_up(task, &summary);
	if (summary.running)
		head->ready = true;
	if (!head->ready || summary.commit == InvalidXLogRecPtr)
	{
		sckpt_task_publish(task, InvalidXLogRecPtr);
		return;
	}
	if (task->attempt->id == 0 && summary.settled)
	{
		sckpt_head_drop_replies(head);
		if (is_due(task, &summary, now))
			(void) sckpt_task_guard(task, trigger, NULL);
		else if (!summary.changed)
		{
			covered = summary.end;
			if (is_halted(task, &summary))
				(void) sckpt_task_guard(task, sckpt_halt_raise, NULL);
		}
	}
	else if (summary.declined)
		(void) sckpt_task_guard(task, raise_declined, summary.declined);
	else if (task->attempt->id != 0 && summary.packed)
	{
		int64		before = task->def->last_checkpoint;

		if (head->retry_at <= now && sckpt_task_guard(task, complete, NULL) && task->def->last_checkpoint > before)
			task->checkpoint_at = TimestampTzPlusMilliseconds(task->attempt->triggered_at, interval);
	}
	else if (task->attempt->id != 0 && summary.reached)
	{
		if (head->first_packed_at == 0)
			head->first_packed_at = now;
		if (TimestampDifferenceExceeds(head->first_packed_at, now, sckpt_checkpoint_timeout))
			(void) sckpt_task_guard(task, time_out, NULL);
	}
	if (task->status == SCKPT_RUNNING)
		sckpt_task_publish(task, covered);
}

int64
sckpt_head_wait(SckptTask *task, TimestampTz now)
{
	SckptHead  *head = task->head;
	bool		changed = task->changed;

	if (task->attempt->id != 0)
		return LOCKED_MS;
	for (int i = 0; i < head->ntasks; i++)
		changed |= head->parts[i].changed;
	return changed ? Max(1, (task->checkpoint_at - now) / 1000 + 1) : PG_INT32_MAX;
}

bool
sckpt_head_idle_position(SckptTask *task, SckptPosition *position)
{
	Summary		summary;

	if (task->head == NULL || !task->head->ready || task->attempt->id != 0 || !copy_parts(task))
		return false;
	sum_up(task, &summary);
	position->commit = summary.commit;
	position->restart = summary.restart;
	position->end = summary.end;
	return summary.running && summary.settled && !summary.changed && summary.commit != InvalidXLogRecPtr;
}
