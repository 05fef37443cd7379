/*-------------------------------------------------------------------------
 *
 * helper.c
 *		Starting workers: a database's leader, and the others beside it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "helper.h"

#define HELPER_MS			1000	/* between attempts to start another worker */

typedef struct Helper
{
	BackgroundWorkerHandle *handle;
	bool		needed;
	TimestampTz tried_at;
} Helper;

static Helper helpers[SCKPT_MAX_WORKERS];

bool
sckpt_start_worker(Oid database, int number, bool writer, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	bool		started;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "stream_ckpt", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "sckpt_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, writer ? "stream_ckpt checkpoint writer" : "stream_ckpt worker", BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	if (number == 0)
	{
		/* On a standby it looks after the slot. */
		worker.bgw_start_time = BgWorkerStart_ConsistentState;
		snprintf(worker.bgw_name, BGW_MAXLEN, "stream_ckpt worker for database %u", database);
	}
	else
	{
		worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
		snprintf(worker.bgw_name, BGW_MAXLEN, "%s %d for database %u", worker.bgw_type, number, database);
		memcpy(worker.bgw_extra, &number, sizeof(number));
		memcpy(worker.bgw_extra + sizeof(number), &MyProcPid, sizeof(MyProcPid));
	}
	started = RegisterDynamicBackgroundWorker(&worker, handle);
	if (!started)
		*handle = NULL;
	MemoryContextSwitchTo(old);
	return started;
}

void
sckpt_helpers_forget(void)
{
	for (int i = 1; i < SCKPT_MAX_WORKERS; i++)
		helpers[i].needed = false;
}

void
sckpt_helper_need(int number)
{
	helpers[number].needed = true;
}

void
sckpt_helpers_start(SckptDatabase *database)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 1; i < database->nworkers; i++)
	{
		Helper	   *helper = &helpers[i];
		pid_t		pid;

		if (!helper->needed || database->workers[i].pid != 0 ||
			(helper->tried_at != 0 && !TimestampDifferenceExceeds(helper->tried_at, now, HELPER_MS)))
			continue;
		if (helper->handle)
		{
			if (GetBackgroundWorkerPid(helper->handle, &pid) != BGWH_STOPPED)
				continue;
			pfree(helper->handle);
			helper->handle = NULL;
		}
		helper->tried_at = now;
		if (sckpt_start_worker(MyDatabaseId, i, i >= database->nreaders, &helper->handle))
			continue;
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("only %d of %d stream_ckpt workers could be started", i, database->nworkers),
				 errhint("max_worker_processes must be at least %d.", max_worker_processes + database->nworkers - i)));
		LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
		database->nworkers = i;
		database->nreaders = Min(database->nreaders, i);
		LWLockRelease(sckpt_shared->lock);
		sckpt_shared_wake(MyDatabaseId, true);
		break;
	}
}
