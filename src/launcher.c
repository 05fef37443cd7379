/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The static background worker that starts a worker in each database
 *		with streams.
 *
 * The launcher is connected to no database, so it cannot know which ones have
 * streams.  It asks each by starting its worker there, which exits with code
 * 0 when there is nothing to do (a probe).  After that it waits to be told:
 * whoever creates a stream asks for a worker (sckpt_shared_wake).  Asking
 * again by timer, ever more seldom, is only for what nobody could tell, such
 * as a full array.
 *
 * What it knows of a database is in its own hash table (Target); the shared
 * entry (SckptDatabase) exists only while somebody needs it:
 *
 *		          start                 attach
 *		waiting ---------> starting ------------> running
 *		   ^                  |  refused             | exit
 *		   +------------------+----------------------+
 *		due: at once when blocked meanwhile, later and later when it had
 *		nothing to do, with back-off when it failed; earlier when asked for
 *
 * On a standby workers only keep the log (standby.h). When it is promoted they go
 * on as what they are, and all other databases are asked again.
 *
 * A launcher that died and came back finds running workers by their entries,
 * and is told of their end by its latch, as all of them set it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "helper.h"
#include "launcher.h"
#include "settings.h"
#include "shared.h"
#include "slot.h"

/* All in ms. */
#define BACKOFF_MIN			1000
#define BACKOFF_MAX			60000
#define RAN_WELL			60000	/* a worker that ran this long starts anew with the back-off */
#define PROBE_AGAIN_MIN		60000
#define PROBE_AGAIN_MAX		(60 * 60 * 1000)
#define PROBE_STANDBY		10000	/* the same on a standby, where nobody can tell us of a new stream */
#define PROBE_PATIENCE		5000	/* a probe that says nothing counts as one no longer than this */
#define HOUSEKEEPING		60000
#define STANDBY_ROUND		1000	/* between looks at whether recovery has ended */

#define MAX_PROBES			3
#define LAUNCHER_RESTART	1		/* s */

/* What the launcher knows of a database. */
typedef struct Target
{
	Oid			oid;			/* hash key */
	NameData	name;
	bool		exists;			/* seen by the scan at hand */
	bool		startable;		/* no template, and accepts connections */
	BackgroundWorkerHandle *handle; /* of the worker last started, until it is known to have ended */
	bool		active;			/* it starts or runs, or did when last looked at */
	bool		probing;		/* and has not told yet whether there is work */
	bool		known;			/* its last worker had work, or failed */
	bool		starved;		/* no worker could be started */
	TimestampTz started;
	TimestampTz due;			/* when to start the next one */
	int			backoff;		/* before the start after the next failure */
	int			probe_again;	/* before the start after the next empty probe */
} Target;

static HTAB *targets = NULL;

PGDLLEXPORT void sckpt_launcher_main(Datum arg);

void
sckpt_launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = LAUNCHER_RESTART;
	strlcpy(worker.bgw_library_name, "stream_ckpt", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "sckpt_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "stream_ckpt launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "stream_ckpt launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	sckpt_shared->launcher_pid = 0;
	sckpt_shared->launcher_latch = NULL;
	LWLockRelease(sckpt_shared->lock);
}

static void
note_database(Form_pg_database form)
{
	bool		found;
	bool		startable;
	Target	   *target = hash_search(targets, &form->oid, HASH_ENTER, &found);

	if (!found)
	{
		memset(target, 0, sizeof(Target));
		target->oid = form->oid;
		target->backoff = BACKOFF_MIN;
		target->probe_again = PROBE_AGAIN_MIN;
	}
	target->name = form->datname;
	target->exists = true;
	startable = !form->datistemplate && form->datallowconn &&
		form->datconnlimit != DATCONNLIMIT_INVALID_DB;
	if (startable && !target->startable)
		target->due = 0;
	target->startable = startable;
}

/* Bring our table up to date with pg_database; in a transaction.  True if a database vanished. */
static bool
scan_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	HASH_SEQ_STATUS status;
	Target	   *target;
	bool		vanished = false;

	hash_seq_init(&status, targets);
	while ((target = hash_seq_search(&status)) != NULL)
		target->exists = false;

	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		CHECK_FOR_INTERRUPTS();
		note_database((Form_pg_database) GETSTRUCT(tuple));
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);

	hash_seq_init(&status, targets);
	while ((target = hash_seq_search(&status)) != NULL)
	{
		if (target->exists)
			continue;
		if (target->handle)
			pfree(target->handle);
		hash_search(targets, &target->oid, HASH_REMOVE, NULL);
		vanished = true;
	}
	return vanished;
}

/* Forget shared entries that nobody needs: of databases that are gone or need no worker. */
static void
release_entries(void)
{
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sckpt_shared->ndatabases; i++)
	{
		SckptDatabase *entry = &sckpt_shared->databases[i];
		Target	   *target;

		if (entry->oid == InvalidOid)
			continue;
		target = hash_search(targets, &entry->oid, HASH_FIND, NULL);
		if (target == NULL || !target->startable)
		{
			/* Whatever it was wanted for, it cannot have a worker. */
			entry->wanted = false;
			entry->last_end = SCKPT_END_NONE;
			entry->error[0] = '\0';
		}
		else if (target->active || target->known)
			continue;
		sckpt_shared_release_database(entry);
	}
	for (int i = 0; i < sckpt_shared->used_pipelines; i++)
	{
		SckptPipelineEntry *pipeline = &sckpt_shared->pipelines[i];

		if (pipeline->database != InvalidOid &&
			hash_search(targets, &pipeline->database, HASH_FIND, NULL) == NULL)
			sckpt_shared_release_pipeline(pipeline);
	}
	LWLockRelease(sckpt_shared->lock);
}

/* Blockers unblock when they exit; this is for what should not happen. */
static void
clear_dead_blockers(void)
{
	for (int i = 0; i < sckpt_shared->ndatabases; i++)
	{
		Oid			oid;
		int			pid;

		LWLockAcquire(sckpt_shared->lock, LW_SHARED);
		oid = sckpt_shared->databases[i].oid;
		pid = sckpt_shared->databases[i].blocked_by;
		LWLockRelease(sckpt_shared->lock);
		if (oid != InvalidOid && pid != 0)
			sckpt_launcher_clear_dead_blocker(oid, pid);
	}
}

/* Its worker ended, or never attached: when to start the next one? */
static void
schedule(Target *target, SckptEnd end, TimestampTz now)
{
	target->active = false;
	target->probing = false;
	switch (end)
	{
		case SCKPT_END_BLOCKED:
			target->due = now;
			break;
		case SCKPT_END_DONE:
			target->known = false;
			target->backoff = BACKOFF_MIN;
			if (RecoveryInProgress())
			{
				target->due = TimestampTzPlusMilliseconds(now, PROBE_STANDBY);
				break;
			}
			target->due = TimestampTzPlusMilliseconds(now, target->probe_again);
			target->probe_again = Min(target->probe_again * 2, PROBE_AGAIN_MAX);
			break;
		case SCKPT_END_FAILED:
		case SCKPT_END_NONE:
			target->known = true;
			if (TimestampDifferenceExceeds(target->started, now, RAN_WELL))
				target->backoff = BACKOFF_MIN;
			target->due = TimestampTzPlusMilliseconds(now, target->backoff);
			target->backoff = Min(target->backoff * 2, BACKOFF_MAX);
			break;
	}
}

/*
 * Look at what became of a database's worker.  Returns whether one starts or
 * runs.  *wanted: somebody asked for one; *blocked: it must not be started.
 */
static bool
observe(Target *target, TimestampTz now, bool *wanted, bool *blocked)
{
	SckptDatabase *entry;
	SckptEnd	end = SCKPT_END_NONE;
	bool		starting = false;
	bool		running = false;
	bool		confirmed = false;
	pid_t		pid;

	if (target->handle)
	{
		starting = GetBackgroundWorkerPid(target->handle, &pid) != BGWH_STOPPED;
		if (!starting)
		{
			pfree(target->handle);
			target->handle = NULL;
		}
	}

	*wanted = *blocked = false;
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_database(target->oid);
	if (entry)
	{
		running = entry->workers[0].pid != 0;
		confirmed = entry->confirmed || entry->read_lsn != InvalidXLogRecPtr;
		*wanted = entry->wanted;
		*blocked = entry->blocked_by != 0;
		if (!starting && !running)
		{
			end = entry->last_end;
			entry->last_end = SCKPT_END_NONE;
			if (end == SCKPT_END_DONE)
				sckpt_shared_release_database(entry);
		}
	}
	LWLockRelease(sckpt_shared->lock);

	if (starting || running)
	{
		target->active = true;
		if (confirmed)
		{
			target->known = true;
			target->probe_again = PROBE_AGAIN_MIN;
		}
		if (confirmed || TimestampDifferenceExceeds(target->started, now, PROBE_PATIENCE))
			target->probing = false;
		return true;
	}
	if (target->active || end != SCKPT_END_NONE)
		schedule(target, end, now);
	return false;
}

static void
set_error(Target *target, const char *error, int needed)
{
	SckptDatabase *entry;
	bool		news = false;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_database(target->oid);
	if (entry && strcmp(entry->error, error) != 0)
	{
		strlcpy(entry->error, error, SCKPT_ERROR_BYTES);
		news = true;
	}
	LWLockRelease(sckpt_shared->lock);

	if (news && error[0] != '\0')
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker could be started for database \"%s\"", NameStr(target->name)),
				 errhint("max_worker_processes must be at least %d.", needed)));
}

/* `waiting` databases, this one included, have no worker because none is free. */
static void
note_starved(Target *target, int waiting)
{
	char		error[SCKPT_ERROR_BYTES];
	int			needed = max_worker_processes + waiting;

	snprintf(error, sizeof(error),
			 "no background worker could be started for database \"%s\": max_worker_processes must be at least %d",
			 NameStr(target->name), needed);
	set_error(target, error, needed);
	target->starved = true;
}

/*
 * Make sure that the database has an entry that a worker may take.  False if
 * it is just being blocked, or if there is no entry left (*full).
 */
static bool
prepare_entry(Target *target, bool *full)
{
	SckptDatabase *entry;
	bool		ready;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_get_database(target->oid);
	*full = entry == NULL;
	ready = entry != NULL && entry->workers[0].pid == 0 && entry->blocked_by == 0;
	if (ready)
		entry->last_end = SCKPT_END_NONE;
	LWLockRelease(sckpt_shared->lock);
	return ready;
}

static bool
start_worker(Target *target, bool probing, TimestampTz now)
{
	bool		started = sckpt_start_worker(target->oid, 0, false, &target->handle);

	if (!started)
		return false;

	target->active = true;
	target->probing = probing;
	target->started = now;
	if (target->starved)
	{
		target->starved = false;
		set_error(target, "", 0);
	}
	return true;
}

/* Somebody found no entry for a database, so nobody can tell which; when there is room again, ask all. */
static void
check_refused(TimestampTz now)
{
	HASH_SEQ_STATUS status;
	Target	   *target;
	bool		ask;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	ask = sckpt_shared->database_refused && sckpt_shared_find_database(InvalidOid) != NULL;
	if (ask)
		sckpt_shared->database_refused = false;
	LWLockRelease(sckpt_shared->lock);
	if (!ask)
		return;

	hash_seq_init(&status, targets);
	while ((target = hash_seq_search(&status)) != NULL)
	{
		if (!target->active && !target->known)
			target->due = now;
	}
}

/*
 * Look at all databases, and list those without a worker: `urgent`, that
 * somebody asked for or that had work before, and `others`, of which nothing
 * is known.  Counts the running probes.  Returns whether a worker ended.
 */
static bool
observe_all(TimestampTz now, List **urgent, List **others, int *nprobes, TimestampTz *next)
{
	HASH_SEQ_STATUS status;
	Target	   *target;
	bool		ended = false;

	hash_seq_init(&status, targets);
	while ((target = hash_seq_search(&status)) != NULL)
	{
		bool		was_active = target->active;
		bool		wanted;
		bool		blocked;

		if (observe(target, now, &wanted, &blocked))
		{
			if (target->probing)
			{
				(*nprobes)++;
				*next = Min(*next, TimestampTzPlusMilliseconds(target->started, PROBE_PATIENCE));
			}
			continue;
		}
		ended |= was_active;
		if (!target->startable || blocked)
			continue;

		/* Asking does not shorten the back-off of one that fails. */
		if (wanted && !target->known)
			target->due = now;
		if (wanted || target->known)
			*urgent = lappend(*urgent, target);
		else if (target->starved)
			*others = lcons(target, *others);
		else
			*others = lappend(*others, target);
	}
	return ended;
}

/*
 * Start the workers that are due, the urgent ones all at once; of the others
 * only a few at a time, lest asking hundreds of databases takes all worker
 * processes.  Whoever cannot be started stays due.  Returns when to be here
 * again if nothing wakes us.
 */
static TimestampTz
start_workers(TimestampTz now)
{
	static TimestampTz all_taken_until = 0; /* no worker process can be had, supposedly */
	static int	all_taken_backoff = BACKOFF_MIN;
	static bool complained = false;
	TimestampTz next = TimestampTzPlusMilliseconds(now, HOUSEKEEPING);
	List	   *urgent = NIL;
	List	   *others = NIL;
	ListCell   *lc;
	int			nprobes = 0;
	int			nurgent;
	int			nstarted = 0;
	Target	   *refused = NULL;

	/* If one of ours ended, one can be started. */
	if (observe_all(now, &urgent, &others, &nprobes, &next))
		all_taken_until = now;
	/* After that, since it may have made room. */
	check_refused(now);

	nurgent = list_length(urgent);
	foreach(lc, list_concat(urgent, others))
	{
		Target	   *target = (Target *) lfirst(lc);
		bool		probing = foreach_current_index(lc) >= nurgent;
		bool		full;

		if (target->due > now)
		{
			next = Min(next, target->due);
			continue;
		}
		/* The end of a probe wakes us, as does the end of whatever keeps an entry from us. */
		if (probing && nprobes >= MAX_PROBES)
			break;
		/* Of databases that nothing is known about, it is enough to name one. */
		if (probing && all_taken_until > now)
			break;
		if (!prepare_entry(target, &full))
		{
			if (full)
				refused = target;
			continue;
		}

		if (all_taken_until <= now)
		{
			if (start_worker(target, probing, now))
			{
				nstarted++;
				nprobes += probing ? 1 : 0;
				all_taken_backoff = BACKOFF_MIN;
				continue;
			}
			all_taken_until = TimestampTzPlusMilliseconds(now, all_taken_backoff);
			all_taken_backoff = Min(all_taken_backoff * 2, BACKOFF_MAX);
		}
		/* A probe makes room soon. */
		if (nprobes == 0)
			note_starved(target, Max(nurgent - nstarted, 1));
	}
	if (all_taken_until > now)
		next = Min(next, all_taken_until);

	/* Probes have entries too, but not for long. */
	if (refused && nprobes == 0 && !complained)
	{
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no worker can run in database \"%s\" because too many databases have streams",
						NameStr(refused->name)),
				 errhint("Raise stream_ckpt.max_databases (now %d).", sckpt_max_databases)));
		complained = true;
	}
	else if (refused == NULL)
		complained = false;
	return next;
}

/* When recovery ends, what was found out on the standby does not count any more. */
static void
check_promotion(bool *in_recovery)
{
	HASH_SEQ_STATUS status;
	Target	   *target;

	if (!*in_recovery || RecoveryInProgress())
		return;
	*in_recovery = false;
	hash_seq_init(&status, targets);
	while ((target = hash_seq_search(&status)) != NULL)
	{
		target->due = 0;
		target->backoff = BACKOFF_MIN;
		target->probe_again = PROBE_AGAIN_MIN;
	}
}

/* One round: see what there is, start what is due, tidy up.  Returns when the next one is due. */
static TimestampTz
launcher_round(void)
{
	static TimestampTz last_housekeeping = 0;
	TimestampTz now;
	TimestampTz next;
	bool		vanished;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	vanished = scan_databases();
	CommitTransactionCommand();

	now = GetCurrentTimestamp();
	if (TimestampDifferenceExceeds(last_housekeeping, now, HOUSEKEEPING))
	{
		clear_dead_blockers();
		vanished = true;
		last_housekeeping = now;
	}
	release_entries();
	next = start_workers(now);
	sckpt_slot_advance_all();

	if (vanished)
	{
		StartTransactionCommand();
		sckpt_slot_drop_orphans();
		CommitTransactionCommand();
	}
	return next;
}

void
sckpt_launcher_main(Datum arg)
{
	HASHCTL		ctl;
	MemoryContext round_context;
	bool		in_recovery = RecoveryInProgress();

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	if (sckpt_shared == NULL || IsBinaryUpgrade)
		proc_exit(0);

	on_shmem_exit(launcher_exit, (Datum) 0);
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	sckpt_shared->launcher_pid = MyProcPid;
	sckpt_shared->launcher_latch = MyLatch;
	LWLockRelease(sckpt_shared->lock);

	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(Target);
	targets = hash_create("stream_ckpt databases", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	round_context = AllocSetContextCreate(TopMemoryContext, "stream_ckpt launcher", ALLOCSET_DEFAULT_SIZES);
	pgstat_report_activity(STATE_IDLE, NULL);

	for (;;)
	{
		TimestampTz next;
		long		timeout;

		/* Before looking, so that what happens after it wakes us again. */
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		MemoryContextSwitchTo(round_context);
		check_promotion(&in_recovery);
		next = launcher_round();
		MemoryContextSwitchTo(round_context);
		MemoryContextReset(round_context);

		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(timeout, in_recovery ? STANDBY_ROUND : HOUSEKEEPING), PG_WAIT_EXTENSION);
	}
}
