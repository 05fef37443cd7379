/*-------------------------------------------------------------------------
 *
 * worker_sync.c
 *		Which pipelines there are, and what of them is this worker's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_foreign_server.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "adopt.h"
#include "catalog.h"
#include "helper.h"
#include "part.h"
#include "retain.h"
#include "slot.h"
#include "worker_private.h"

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

	foreach(lc, sckpt_self.tasks)
	{
		if (((SckptTask *) lfirst(lc))->def->id == id)
			return lfirst(lc);
	}
	return NULL;
}

/* Which worker reads for a pipeline, or for a task of it?  Known to all of them. */
static int
reader_of(SckptPipeline *def, int task)
{
	return (int) ((def->id + task) % sckpt_self.nreaders);
}

/* Does another process than that write its checkpoints? */
static bool
is_split(SckptPipeline *def)
{
	return sckpt_self.nwriters > 0 && def->stateful;
}

/* Which worker has the pipeline, or its head? */
static int
worker_of(SckptPipeline *def)
{
	return is_split(def) ? sckpt_self.nreaders + (int) (def->id % sckpt_self.nwriters) : reader_of(def, 0);
}

static SckptTask *
find_part(int64 id, int task)
{
	ListCell   *lc;

	foreach(lc, sckpt_self.parts)
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
	sckpt_worker_leave_lanes(part);
	sckpt_part_release(part);
	sckpt_task_destroy(part);
}

/* The tasks of a pipeline that this worker has to run, when its head wants them. */
static void
sync_parts(SckptPipeline *def)
{
	MemoryContext old = MemoryContextSwitchTo(sckpt_self.context);

	for (int i = 0; i < def->parallelism && (def->parallelism > 1 || is_split(def)); i++)
	{
		SckptTask  *part;

		sckpt_helper_need(reader_of(def, i));
		if (reader_of(def, i) != sckpt_self.number)
			continue;
		part = find_part(def->id, i);
		if (part && part->def->version != def->version)
		{
			sckpt_self.parts = list_delete_ptr(sckpt_self.parts, part);
			drop_part(part);
			part = NULL;
		}
		if (part == NULL)
		{
			part = sckpt_task_create(sckpt_self.context, def);
			part->number = i;
			part->status = SCKPT_STARTING;
			sckpt_self.parts = lappend(sckpt_self.parts, part);
		}
		part->split = is_split(def);
		part->seen = true;
	}
	MemoryContextSwitchTo(old);
}

/* The leader keeps the log for pipelines of others, too. */
static void
note_other(SckptPipeline *def)
{
	MemoryContext old = MemoryContextSwitchTo(sckpt_self.context);
	SckptOther *other = palloc(sizeof(SckptOther));

	other->id = def->id;
	other->restart = sckpt_retain_needed(def);
	sckpt_self.others = lappend(sckpt_self.others, other);
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

/* The leader's: entries of pipelines that were dropped while nobody had them. */
static void
release_dropped(List *pipelines)
{
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sckpt_shared->used_pipelines; i++)
	{
		SckptPipelineEntry *entry = &sckpt_shared->pipelines[i];
		bool		found = entry->database != MyDatabaseId || entry->worker_pid != 0;
		ListCell   *lc;

		if (found)
			continue;
		foreach(lc, pipelines)
			found |= ((SckptPipeline *) lfirst(lc))->id == entry->id;
		if (!found)
			sckpt_shared_release_pipeline(entry);
	}
	LWLockRelease(sckpt_shared->lock);
}

void
sckpt_worker_sync(void)
{
	List	   *pipelines;
	ListCell   *lc;

	sckpt_self.generation = pg_atomic_read_u64(&sckpt_self.database->generation);
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	sckpt_self.nreaders = sckpt_self.database->nreaders;
	sckpt_self.nwriters = sckpt_self.database->nworkers - sckpt_self.nreaders;
	LWLockRelease(sckpt_shared->lock);
	if (sckpt_self.number == 0)
		check_database();

	StartTransactionCommand();
	if (!sckpt_catalog_lock_extension())
	{
		if (sckpt_self.number > 0)
			proc_exit(0);
		leave_database(false);
	}
	list_free_deep(sckpt_self.others);
	sckpt_self.others = NIL;
	sckpt_helpers_forget();
	foreach(lc, sckpt_self.tasks)
		((SckptTask *) lfirst(lc))->seen = false;
	foreach(lc, sckpt_self.parts)
		((SckptTask *) lfirst(lc))->seen = false;
	pipelines = sckpt_catalog_pipelines();
	if (sckpt_self.number == 0)
		release_dropped(pipelines);
	foreach(lc, pipelines)
	{
		SckptPipeline *def = lfirst(lc);
		SckptTask  *task = find_task(def->id);
		bool		changed = task && task->def->version != def->version;
		MemoryContext old;

		/* It has come since we looked for such: whoever restored it will wake us. */
		if (!def->at_home)
			continue;
		sckpt_helper_need(worker_of(def));
		sync_parts(def);
		if (worker_of(def) != sckpt_self.number)
		{
			if (sckpt_self.number == 0)
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
			sckpt_worker_leave_lanes(task);
			sckpt_self.tasks = list_delete_ptr(sckpt_self.tasks, task);
			sckpt_task_destroy(task);
		}
		old = MemoryContextSwitchTo(sckpt_self.context);
		task = sckpt_task_create(sckpt_self.context, def);
		if (changed)
			strlcpy(task->cause, "the pipeline was changed", SCKPT_ERROR_BYTES);
		task->split = is_split(def);
		task->seen = true;
		sckpt_self.tasks = lappend(sckpt_self.tasks, task);
		MemoryContextSwitchTo(old);
	}
	CommitTransactionCommand();

	foreach(lc, sckpt_self.tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (!task->seen)
		{
			sckpt_self.tasks = foreach_delete_current(sckpt_self.tasks, lc);
			sckpt_worker_leave_lanes(task);
			sckpt_task_destroy(task);
		}
		else
			sckpt_task_publish(task, InvalidXLogRecPtr);
	}
	foreach(lc, sckpt_self.parts)
	{
		SckptTask  *part = lfirst(lc);

		if (part->seen)
			continue;
		sckpt_self.parts = foreach_delete_current(sckpt_self.parts, lc);
		sckpt_part_leave(part);
		drop_part(part);
	}
	sckpt_worker_check_paused();
	pg_atomic_write_u64(&sckpt_self.database->workers[sckpt_self.number].synced, sckpt_self.generation);
	sckpt_shared_broadcast();
}
