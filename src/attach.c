/*-------------------------------------------------------------------------
 *
 * attach.c
 *		Who may be in a database: its worker, or a utility command that needs
 *		the database without workers.
 *
 * Both put their process id into the database's shared entry, under its lock;
 * the order of events that this makes safe is in attach.h.  Whoever takes a
 * mark away wakes the launcher, which starts what may be started now, and
 * everybody waiting on the condition variable.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "attach.h"
#include "settings.h"
#include "shared.h"

#define BLOCK_PATIENCE		30000	/* ms */

/* Its tasks of parallel pipelines have failed.  The lock is held. */
static void
end_parts(Oid database)
{
	for (int i = 0; i < sckpt_shared->used_parts; i++)
	{
		SckptPartEntry *part = &sckpt_shared->parts[i];
		SckptPipelineEntry *pipeline;

		if (part->database != database || part->worker_pid != MyProcPid)
			continue;
		pipeline = sckpt_shared_find_pipeline(database, part->id);
		if (pipeline == NULL)
			continue;
		SpinLockAcquire(&pipeline->mutex);
		part->worker_pid = 0;
		if (part->status == SCKPT_PART_RUNNING)
		{
			part->status = SCKPT_PART_FAILED;
			part->sqlerrcode = ERRCODE_ADMIN_SHUTDOWN;
			part->starved = false;
			snprintf(part->error, SCKPT_ERROR_BYTES, "the worker of task %d has ended", part->task);
		}
		SpinLockRelease(&pipeline->mutex);
	}
}

/*
 * Registered before the process enters the array of running processes, so
 * called after it has left it: a DROP DATABASE that waited for this does not
 * find the process there.
 */
static void
worker_exit(int code, Datum arg)
{
	Oid			database = (Oid) (uint32) arg;
	int			number = (int) ((uint64) arg >> 32);
	SckptDatabase *entry;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_database(database);
	if (entry && entry->workers[number].pid == MyProcPid)
	{
		entry->workers[number].pid = 0;
		entry->workers[number].latch = NULL;
	}
	if (entry && number == 0)
	{
		entry->confirmed = false;
		entry->read_lsn = InvalidXLogRecPtr;
		entry->restart_lsn = InvalidXLogRecPtr;
		entry->last_end = entry->blocked_by != 0 ? SCKPT_END_BLOCKED :
			code == 0 ? SCKPT_END_DONE : SCKPT_END_FAILED;
	}

	/* What it knew of pipelines: nothing is left of them, or the next worker will load them. */
	for (int i = 0; i < sckpt_shared->used_pipelines; i++)
	{
		SckptPipelineEntry *pipeline = &sckpt_shared->pipelines[i];

		if (pipeline->database != database)
			continue;
		if (code == 0 && number == 0 && (pipeline->worker_pid == 0 || pipeline->worker_pid == MyProcPid))
		{
			sckpt_shared_release_pipeline(pipeline);
			continue;
		}
		if (pipeline->worker_pid != MyProcPid)
			continue;
		SpinLockAcquire(&pipeline->mutex);
		pipeline->worker_pid = 0;
		pipeline->active = false;
		if (pipeline->status == SCKPT_RUNNING)
			pipeline->status = SCKPT_STARTING;
		SpinLockRelease(&pipeline->mutex);
	}
	end_parts(database);
	if (entry)
		sckpt_shared_wake_workers(entry);
	if (sckpt_shared->launcher_latch)
		SetLatch(sckpt_shared->launcher_latch);
	LWLockRelease(sckpt_shared->lock);
	sckpt_shared_broadcast();
}

/* The number of those that may share the tasks is the leader's to find out. */
static void
take_place(SckptDatabase *entry, int number)
{
	SckptWorker *worker = &entry->workers[number];

	worker->pid = MyProcPid;
	worker->latch = MyLatch;
	worker->restart_lsn = InvalidXLogRecPtr;
	pg_atomic_write_u32(&worker->wants_rows, 0);
	pg_atomic_write_u64(&worker->synced, 0);
}

static void
leave_at_exit(Oid database, int number)
{
	on_shmem_exit(worker_exit, (Datum) (((uint64) number << 32) | database));
	sckpt_shared_broadcast();
}

bool
sckpt_launcher_attach_worker(Oid database)
{
	SckptDatabase *entry;
	bool		attached = false;

	if (sckpt_shared == NULL)
		return false;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_get_database(database);
	if (entry == NULL)
		sckpt_shared->database_refused = true;
	else if (entry->blocked_by != 0)
		entry->last_end = SCKPT_END_BLOCKED;
	else if (entry->workers[0].pid == 0)
	{
		take_place(entry, 0);
		entry->nworkers = Min(sckpt_workers + sckpt_checkpoint_writers, SCKPT_MAX_WORKERS);
		entry->nreaders = sckpt_workers;
		entry->wanted = false;
		entry->confirmed = false;
		entry->last_end = SCKPT_END_NONE;
		entry->read_lsn = InvalidXLogRecPtr;
		entry->restart_lsn = InvalidXLogRecPtr;
		attached = true;
	}
	LWLockRelease(sckpt_shared->lock);

	if (attached)
		leave_at_exit(database, 0);
	return attached;
}

bool
sckpt_launcher_attach_helper(Oid database, int number, int leader_pid)
{
	SckptDatabase *entry;
	bool		attached = false;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_database(database);
	if (entry && entry->blocked_by == 0 && entry->workers[0].pid == leader_pid && entry->workers[number].pid == 0)
	{
		take_place(entry, number);
		attached = true;
	}
	LWLockRelease(sckpt_shared->lock);
	if (attached)
		leave_at_exit(database, number);
	return attached;
}

void
sckpt_launcher_confirm_worker(void)
{
	SckptDatabase *entry;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_database(MyDatabaseId);
	if (entry && entry->workers[0].pid == MyProcPid && !entry->confirmed)
	{
		entry->confirmed = true;
		if (sckpt_shared->launcher_latch)
			SetLatch(sckpt_shared->launcher_latch);
	}
	LWLockRelease(sckpt_shared->lock);
}

static void
unblock_at_exit(int code, Datum arg)
{
	sckpt_launcher_unblock(InvalidOid);
}

/*
 * Set our mark if nobody else's is there, and tell the workers to end.  True
 * when none is left; otherwise *other is who blocks, 0 if we do.
 */
static bool
try_block(Oid database, int *other)
{
	SckptDatabase *entry;
	bool		done = false;

	*other = 0;
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_get_database(database);
	if (entry == NULL)
	{
		/*
		 * The array is full.  Then no worker of this database runs, and one
		 * could start only if an entry became free during our caller's
		 * command, which would then fail and could be repeated.
		 */
		done = true;
	}
	else if (entry->blocked_by != 0 && entry->blocked_by != MyProcPid)
		*other = entry->blocked_by;
	else
	{
		entry->blocked_by = MyProcPid;
		/* A process cannot be gone (nor its pid be another's) while the entry has its pid. */
		done = true;
		for (int i = 0; i < SCKPT_MAX_WORKERS; i++)
		{
			if (entry->workers[i].pid == 0)
				continue;
			kill(entry->workers[i].pid, SIGTERM);
			done = false;
		}
	}
	LWLockRelease(sckpt_shared->lock);
	return done;
}

void
sckpt_launcher_clear_dead_blocker(Oid database, int pid)
{
	SckptDatabase *entry;

	if (BackendPidGetProc(pid) != NULL)
		return;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_database(database);
	if (entry && entry->blocked_by == pid)
		entry->blocked_by = 0;
	LWLockRelease(sckpt_shared->lock);
	sckpt_shared_broadcast();
}

static void
block_failed(Oid database, int other)
{
	const char *name = get_database_name(database);

	if (name == NULL)
		name = "";
	if (other != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("database \"%s\" is in use by another command", name),
				 errdetail("The command of process %d keeps stream_ckpt workers out of it.", other)));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("could not stop the stream_ckpt worker of database \"%s\"", name)));
}

void
sckpt_launcher_block(Oid database)
{
	static bool registered = false;
	TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BLOCK_PATIENCE);
	int			other;

	if (!registered)
	{
		before_shmem_exit(unblock_at_exit, (Datum) 0);
		registered = true;
	}

	PG_TRY();
	{
		/*
		 * Woken when a worker ends and when somebody unblocks; tried again
		 * each second in case the worker was not ready for the signal.
		 */
		ConditionVariablePrepareToSleep(&sckpt_shared->changed);
		while (!try_block(database, &other))
		{
			if (other != 0)
				sckpt_launcher_clear_dead_blocker(database, other);
			if (GetCurrentTimestamp() >= give_up)
				block_failed(database, other);
			(void) ConditionVariableTimedSleep(&sckpt_shared->changed, 1000, PG_WAIT_EXTENSION);
			CHECK_FOR_INTERRUPTS();
		}
		ConditionVariableCancelSleep();
	}
	PG_CATCH();
	{
		ConditionVariableCancelSleep();
		sckpt_launcher_unblock(database);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

void
sckpt_launcher_unblock(Oid database)
{
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sckpt_shared->ndatabases; i++)
	{
		SckptDatabase *entry = &sckpt_shared->databases[i];

		if (entry->oid != InvalidOid && entry->blocked_by == MyProcPid &&
			(database == InvalidOid || entry->oid == database))
		{
			entry->blocked_by = 0;
			sckpt_shared_release_database(entry);
		}
	}
	/* It starts again what was stopped, and sees which databases came and went. */
	if (sckpt_shared->launcher_latch)
		SetLatch(sckpt_shared->launcher_latch);
	LWLockRelease(sckpt_shared->lock);
	sckpt_shared_broadcast();
}
