/*-------------------------------------------------------------------------
 *
 * lag.c
 *		stream_ckpt.max_lag: producers wait for pipelines that are too far
 *		behind.
 *
 * The wait is one on a latch, which the deadlock detector does not see.  So nobody waits who has something that
 * the worker may come to need: an xid (rows it has written, or locked), a relation lock that would stop the worker's
 * queries, or any lock that somebody is waiting for, whom the worker may be queued behind.  The last is looked at again and again.
 *
 * A worker's own inserts never wait.  Instead the task whose results go to a stream with readers too far behind rests (worker.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "lag.h"
#include "pipeline.h"
#include "record.h"
#include "settings.h"
#include "shared.h"

#define LOOK_MS		1000		/* between looks at what nobody wakes us for */

/* Locks on relations that conflict with what queries and checkpoints take. */
#define STRONG_LOCKS \
	(LOCKBIT_ON(ShareUpdateExclusiveLock) | LOCKBIT_ON(ShareLock) | LOCKBIT_ON(ShareRowExclusiveLock) | \
	 LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock))

static bool
reads(SckptPipelineEntry *entry, Oid stream)
{
	for (int i = 0; i < entry->ninflows; i++)
	{
		if (entry->inflows[i].stream == stream)
			return true;
	}
	return false;
}

/*
 * Does the stream have a reader that is too far behind?  If so, and the caller wishes it, its worker is woken: it may sleep because
 * nothing of what was written is rows.
 */
static bool
reader_behind(Oid stream, bool wake)
{
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);
	uint64		limit = (uint64) sckpt_max_lag * 1024;
	SckptDatabase *database;
	bool		behind = false;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	database = sckpt_shared_find_database(MyDatabaseId);

	/* Of what the workers have not noted yet, we know nothing: a pipeline may be paused or gone. */
	if (database && sckpt_shared_synced(database))
	{
		for (int i = 0; i < sckpt_shared->used_pipelines && !behind; i++)
		{
			SckptPipelineEntry *entry = &sckpt_shared->pipelines[i];

			if (entry->database != MyDatabaseId)
				continue;
			SpinLockAcquire(&entry->mutex);
			behind = entry->status == SCKPT_RUNNING && reads(entry, stream) && flushed > entry->read_lsn + limit;
			SpinLockRelease(&entry->mutex);
		}
		if (behind && wake)
			sckpt_shared_wake_workers(database);
	}
	LWLockRelease(sckpt_shared->lock);
	return behind;
}

/* Do we hold a lock that is in the worker's way, or that somebody waits for? */
static bool
in_the_way(void)
{
	LockData   *locks = GetLockStatusData();
	bool		found = false;

	for (int i = 0; i < locks->nelements && !found; i++)
	{
		LockInstanceData *ours = &locks->locks[i];

		if (ours->pid != MyProcPid || ours->holdMask == 0)
			continue;
		found = ours->locktag.locktag_type == LOCKTAG_RELATION && (ours->holdMask & STRONG_LOCKS) != 0;
		for (int j = 0; j < locks->nelements && !found; j++)
		{
			LockInstanceData *other = &locks->locks[j];

			found = other->waitLockMode != NoLock && other->pid != MyProcPid &&
				memcmp(&other->locktag, &ours->locktag, sizeof(LOCKTAG)) == 0;
		}
	}
	pfree(locks->locks);
	pfree(locks);
	return found;
}

void
sckpt_lag_wait(Oid stream)
{
	static LocalTransactionId asked = InvalidLocalTransactionId;

	if (sckpt_max_lag == 0 || asked == sckpt_local_transaction_id())
		return;
	asked = sckpt_local_transaction_id();
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) || !reader_behind(stream, false) || in_the_way())
		return;

	ConditionVariablePrepareToSleep(&sckpt_shared->changed);
	for (bool wake = true; reader_behind(stream, wake);)
	{
		wake = ConditionVariableTimedSleep(&sckpt_shared->changed, LOOK_MS, PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
		if (!wake)
			continue;

		/* Whoever changes max_lag does not want us to wait for the end of a statement that we are in. */
		if (ConfigReloadPending || in_the_way())
			break;

		/* The flushed end may lie inside a record, which cannot be read until its rest is flushed. */
		(void) sckpt_record_flush();
	}
	ConditionVariableCancelSleep();
}

void
sckpt_lag_find_sinks(SckptTask *task)
{
	char		relkind = get_rel_relkind(task->def->result);
	List	   *sinks = sckpt_pipeline_sink_streams(task->def->result);
	MemoryContext old = MemoryContextSwitchTo(task->run_context);

	list_free(task->sinks);
	task->sinks = list_copy(sinks);
	task->sinks_change = relkind == RELKIND_VIEW || relkind == RELKIND_PARTITIONED_TABLE;
	task->sinks_at = GetCurrentTimestamp();
	MemoryContextSwitchTo(old);
}

static void
refresh_sinks(SckptTask *task, void *arg)
{
	StartTransactionCommand();
	sckpt_lag_find_sinks(task);
	CommitTransactionCommand();
}

void
sckpt_lag_refresh_sinks(List *tasks, uint64 generation)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status != SCKPT_RUNNING || !task->sinks_change ||
			(task->sinks_generation == generation && !TimestampDifferenceExceeds(task->sinks_at, now, LOOK_MS)))
			continue;
		task->sinks_generation = generation;
		(void) sckpt_task_guard(task, refresh_sinks, NULL);
	}
}

/* Is the reader in the same lane? */
static bool
is_beside(int64 id, List *beside)
{
	ListCell   *lc;

	foreach(lc, beside)
	{
		if (((SckptTask *) lfirst(lc))->def->id == id)
			return true;
	}
	return false;
}

bool
sckpt_lag_sink_full(SckptTask *task, List *beside)
{
	uint64		limit = (uint64) sckpt_max_lag * 1024;
	XLogRecPtr	flushed;
	SckptPipelineEntry *entries;
	bool		full = false;
	int			n;

	if (limit == 0 || task->sinks == NIL)
		return false;
	if (task->held)
		limit /= 2;
	flushed = GetFlushRecPtr(NULL);
	entries = sckpt_shared_copy_pipelines(MyDatabaseId, &n);
	for (int i = 0; i < n && !full; i++)
	{
		SckptPipelineEntry *reader = &entries[i];
		bool		reads_it = false;
		ListCell   *lc;

		foreach(lc, task->sinks)
			reads_it |= reads(reader, lfirst_oid(lc));
		full = reader->status == SCKPT_RUNNING && reader->id != task->def->id && reads_it &&
			flushed > reader->read_lsn + limit && !is_beside(reader->id, beside);
	}
	pfree(entries);
	return full;
}
