/*-------------------------------------------------------------------------
 *
 * shared.c
 *		What lives in the main shared memory segment: allocation, look-up and
 *		wake-ups.
 *
 * The arrays are small and searched from the front: look-ups happen once per
 * transaction or batch, never per row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "settings.h"
#include "query.h"
#include "shared.h"

#define LOCK_TRANCHE "stream_ckpt"

SckptShared *sckpt_shared = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* The struct and its three arrays are one piece. */
static Size
databases_offset(void)
{
	return MAXALIGN(sizeof(SckptShared));
}

static Size
pipelines_offset(void)
{
	return add_size(databases_offset(), MAXALIGN(mul_size(sckpt_max_databases, sizeof(SckptDatabase))));
}

static Size
parts_offset(void)
{
	return add_size(pipelines_offset(), MAXALIGN(mul_size(sckpt_max_pipelines, sizeof(SckptPipelineEntry))));
}

/* As many tasks of parallel pipelines as pipelines, and those of one with the most. */
static int
max_parts(void)
{
	return sckpt_max_pipelines + SCKPT_MAX_TASKS;
}

static Size
holds_offset(void)
{
	return add_size(parts_offset(), MAXALIGN(mul_size(max_parts(), sizeof(SckptPartEntry))));
}

/* A backend has one hold at most, so that they never run out. */
static Size
shared_size(void)
{
	return add_size(holds_offset(), mul_size(MaxBackends, sizeof(SckptHold)));
}

static void
shared_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche(LOCK_TRANCHE, 1);
}

static void
shared_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	/* After a crash the old pointer leads nowhere. */
	sckpt_shared = NULL;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	sckpt_shared = ShmemInitStruct("stream_ckpt", shared_size(), &found);
	if (!found)
	{
		char	   *base = (char *) sckpt_shared;

		memset(base, 0, shared_size());
		sckpt_shared->lock = &(GetNamedLWLockTranche(LOCK_TRANCHE))->lock;
		ConditionVariableInit(&sckpt_shared->changed);
		pg_atomic_init_u64(&sckpt_shared->epochs, 0);
		pg_atomic_init_u64(&sckpt_shared->state_bytes, 0);
		sckpt_shared->ndatabases = sckpt_max_databases;
		sckpt_shared->npipelines = sckpt_max_pipelines;
		sckpt_shared->nparts = max_parts();
		sckpt_shared->nholds = MaxBackends;
		sckpt_shared->databases = (SckptDatabase *) (base + databases_offset());
		sckpt_shared->pipelines = (SckptPipelineEntry *) (base + pipelines_offset());
		sckpt_shared->parts = (SckptPartEntry *) (base + parts_offset());
		sckpt_shared->holds = (SckptHold *) (base + holds_offset());
		for (int i = 0; i < sckpt_shared->ndatabases; i++)
		{
			for (int j = 0; j < SCKPT_MAX_WORKERS; j++)
			{
				pg_atomic_init_u32(&sckpt_shared->databases[i].workers[j].wants_rows, 0);
				pg_atomic_init_u64(&sckpt_shared->databases[i].workers[j].synced, 0);
			}
			pg_atomic_init_u64(&sckpt_shared->databases[i].generation, 0);
		}
		for (int i = 0; i < sckpt_shared->npipelines; i++)
			SpinLockInit(&sckpt_shared->pipelines[i].mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
sckpt_shared_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shared_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shared_startup;
}

void
sckpt_shared_require(void)
{
	if (sckpt_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream_ckpt must be loaded via shared_preload_libraries"),
				 errhint("Add stream_ckpt to shared_preload_libraries in postgresql.conf, and restart the server.")));
}

SckptDatabase *
sckpt_shared_find_database(Oid database)
{
	for (int i = 0; i < sckpt_shared->ndatabases; i++)
	{
		if (sckpt_shared->databases[i].oid == database)
			return &sckpt_shared->databases[i];
	}
	return NULL;
}

SckptDatabase *
sckpt_shared_get_database(Oid database)
{
	SckptDatabase *entry = sckpt_shared_find_database(database);

	if (entry == NULL && (entry = sckpt_shared_find_database(InvalidOid)) != NULL)
	{
		/* The generation only has to rise: it stays. */
		entry->oid = database;
		for (int i = 0; i < SCKPT_MAX_WORKERS; i++)
			entry->workers[i].pid = 0;
		entry->nworkers = entry->nreaders = 1;
		entry->blocked_by = 0;
		entry->restorer_pid = 0;
		entry->wanted = false;
		entry->confirmed = false;
		entry->last_end = SCKPT_END_NONE;
		entry->error[0] = '\0';
		entry->read_lsn = InvalidXLogRecPtr;
		entry->restart_lsn = InvalidXLogRecPtr;
		entry->slot_target = InvalidXLogRecPtr;
	}
	return entry;
}

void
sckpt_shared_release_database(SckptDatabase *database)
{
	for (int i = 0; i < SCKPT_MAX_WORKERS; i++)
	{
		if (database->workers[i].pid != 0)
			return;
	}
	if (database->blocked_by == 0 && !database->wanted &&
		database->last_end == SCKPT_END_NONE && database->error[0] == '\0')
		database->oid = InvalidOid;
}

bool
sckpt_shared_synced(SckptDatabase *database)
{
	uint64		generation = pg_atomic_read_u64(&database->generation);

	for (int i = 0; i < database->nworkers; i++)
	{
		SckptWorker *worker = &database->workers[i];

		if (worker->pid == 0 ? i == 0 : pg_atomic_read_u64(&worker->synced) != generation)
			return false;
	}
	return true;
}

void
sckpt_shared_wake_workers(SckptDatabase *database)
{
	for (int i = 0; i < database->nworkers; i++)
	{
		if (database->workers[i].pid != 0)
			SetLatch(database->workers[i].latch);
	}
}

SckptPipelineEntry *
sckpt_shared_copy_pipelines(Oid database, int *count)
{
	SckptPipelineEntry *copies = palloc(Max(1, sckpt_shared->used_pipelines) * sizeof(SckptPipelineEntry));
	int			room = Max(1, sckpt_shared->used_pipelines);
	int			n = 0;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	while (room < sckpt_shared->used_pipelines)
	{
		/* Some have come since. */
		room = sckpt_shared->used_pipelines;
		LWLockRelease(sckpt_shared->lock);
		copies = repalloc(copies, room * sizeof(SckptPipelineEntry));
		LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	}
	for (int i = 0; i < sckpt_shared->used_pipelines; i++)
	{
		SckptPipelineEntry *entry = &sckpt_shared->pipelines[i];

		if (entry->database != database)
			continue;
		SpinLockAcquire(&entry->mutex);
		copies[n++] = *entry;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	*count = n;
	return copies;
}

SckptPipelineEntry *
sckpt_shared_find_pipeline(Oid database, int64 id)
{
	for (int i = 0; i < sckpt_shared->used_pipelines; i++)
	{
		SckptPipelineEntry *entry = &sckpt_shared->pipelines[i];

		if (entry->database == database && entry->id == id)
			return entry;
	}
	return NULL;
}

SckptPipelineEntry *
sckpt_shared_get_pipeline(Oid database, int64 id)
{
	SckptPipelineEntry *entry = sckpt_shared_find_pipeline(database, id);

	for (int i = 0; i < sckpt_shared->npipelines && entry == NULL; i++)
	{
		if (OidIsValid(sckpt_shared->pipelines[i].database))
			continue;
		entry = &sckpt_shared->pipelines[i];
		MemSet(&entry->owner, 0, sizeof(*entry) - offsetof(SckptPipelineEntry, owner));
		entry->database = database;
		entry->id = id;
		sckpt_shared->used_pipelines = Max(sckpt_shared->used_pipelines, i + 1);
	}
	return entry;
}

void
sckpt_shared_release_pipeline(SckptPipelineEntry *entry)
{
	for (int i = 0; i < sckpt_shared->used_parts && entry->epoch != 0; i++)
	{
		SckptPartEntry *part = &sckpt_shared->parts[i];

		if (part->database == entry->database && part->id == entry->id)
			part->database = InvalidOid;
	}
	while (sckpt_shared->used_parts > 0 && !OidIsValid(sckpt_shared->parts[sckpt_shared->used_parts - 1].database))
		sckpt_shared->used_parts--;
	entry->database = InvalidOid;
	while (sckpt_shared->used_pipelines > 0 &&
		   !OidIsValid(sckpt_shared->pipelines[sckpt_shared->used_pipelines - 1].database))
		sckpt_shared->used_pipelines--;
}

SckptPartEntry *
sckpt_shared_find_part(Oid database, int64 id, int task)
{
	for (int i = 0; i < sckpt_shared->used_parts; i++)
	{
		SckptPartEntry *part = &sckpt_shared->parts[i];

		if (part->database == database && part->id == id && part->task == task)
			return part;
	}
	return NULL;
}

SckptPartEntry *
sckpt_shared_get_part(Oid database, int64 id, int task)
{
	SckptPartEntry *part = sckpt_shared_find_part(database, id, task);

	for (int i = 0; i < sckpt_shared->nparts && part == NULL; i++)
	{
		if (OidIsValid(sckpt_shared->parts[i].database))
			continue;
		part = &sckpt_shared->parts[i];
		memset(part, 0, sizeof(*part));
		part->database = database;
		part->id = id;
		part->task = task;
		sckpt_shared->used_parts = Max(sckpt_shared->used_parts, i + 1);
	}
	return part;
}

/*
 * The worker of a busy database is woken by every commit, so that case makes
 * do with a shared lock.  The launcher is woken only by the first who asks:
 * while a failing worker waits for its back-off to end, it shall sleep.
 */
void
sckpt_shared_wake(Oid database, bool changed)
{
	SckptDatabase *entry;
	bool		done = false;

	if (sckpt_shared == NULL || !OidIsValid(database))
		return;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_database(database);
	if (entry)
	{
		if (changed)
			pg_atomic_fetch_add_u64(&entry->generation, 1);
		/* It may be about to exit because it found nothing to do; but it knows what it did itself. */
		if (changed && entry->workers[0].pid != 0 && entry->workers[0].pid != MyProcPid)
			entry->wanted = true;
		for (int i = 0; i < entry->nworkers; i++)
		{
			SckptWorker *worker = &entry->workers[i];

			if (worker->pid != 0 && (changed || pg_atomic_exchange_u32(&worker->wants_rows, 0) == 1))
				SetLatch(worker->latch);
		}
		done = entry->workers[0].pid != 0 || entry->wanted;
	}
	LWLockRelease(sckpt_shared->lock);
	if (done)
		return;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_get_database(database);
	if (entry == NULL)
		sckpt_shared->database_refused = true;
	else
	{
		entry->wanted = true;
		sckpt_shared_wake_workers(entry);
	}
	if (sckpt_shared->launcher_latch)
		SetLatch(sckpt_shared->launcher_latch);
	LWLockRelease(sckpt_shared->lock);
}

void
sckpt_shared_note_restorer(Oid database, int pid)
{
	SckptDatabase *entry;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = pid != 0 ? sckpt_shared_get_database(database) : sckpt_shared_find_database(database);
	if (entry)
		entry->restorer_pid = pid;
	LWLockRelease(sckpt_shared->lock);
}

void
sckpt_shared_broadcast(void)
{
	if (sckpt_shared)
		ConditionVariableBroadcast(&sckpt_shared->changed);
}
