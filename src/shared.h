/*-------------------------------------------------------------------------
 *
 * shared.h
 *		What lives in the main shared memory segment: the databases with
 *		streams and their workers, live counters of pipelines, holds on the log.
 *
 * Locking.  sckpt_shared->lock (an LWLock) protects which entry of an array
 * belongs to whom, and every field not said otherwise.  It is held for a few
 * instructions, never across an ereport, an allocation, a catalog access or
 * a wait.  A pipeline entry's counters are written by its worker alone under
 * the entry's spinlock, and read by anyone under it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SHARED_H
#define SCKPT_SHARED_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "catalog.h"
#include "parcel.h"

#define SCKPT_ERROR_BYTES	512
#define SCKPT_LABEL_BYTES	256

/* How the last worker of a database ended. */
typedef enum SckptEnd
{
	SCKPT_END_NONE,				/* none has ended since the launcher last looked, or started one */
	SCKPT_END_DONE,				/* exit code 0: nothing to do in this database */
	SCKPT_END_FAILED,			/* any other exit code */
	SCKPT_END_BLOCKED			/* stopped, or kept from starting, by blocked_by */
} SckptEnd;

#define SCKPT_MAX_WORKERS 64	/* of a database */

/* A worker of a database.  The first one, number 0, is its leader: it starts the others, and keeps the slot. */
typedef struct SckptWorker
{
	int			pid;			/* 0: does not run */
	Latch	   *latch;
	XLogRecPtr	restart_lsn;	/* everything that its main reader may still need starts here or later; Invalid: not known yet */
	pg_atomic_uint32 wants_rows;	/* 1: it sleeps until a commit with rows wakes it; 0: it looks by itself soon */
	pg_atomic_uint64 synced;	/* the generation that it has taken note of */
} SckptWorker;

/*
 * A database that has, or may have, workers.  The launcher makes and frees
 * entries; workers fill in what is their own.
 */
typedef struct SckptDatabase
{
	Oid			oid;			/* InvalidOid: free entry */
	SckptWorker workers[SCKPT_MAX_WORKERS];
	int			nworkers;		/* that share the pipelines, whether they run yet or not: what the settings say, unless there are no processes */
	int			nreaders;		/* the first of these: stream_ckpt.workers; the others (stream_ckpt.checkpoint_writers) have heads only */
	uint32		slots_lost;		/* how often the leader has had to replace the slot */
	int			blocked_by;		/* pid of a backend whose command needs the database without workers; 0: none */
	int			restorer_pid;	/* the session that last put pipelines into our tables, as a restore does; 0: none */
	bool		wanted;			/* somebody asked for a worker since it was last started; set to true under a
								 * shared lock too */
	bool		confirmed;		/* the worker has work and stays: it is no probe any more */
	SckptEnd	last_end;		/* for the launcher */
	char		error[SCKPT_ERROR_BYTES];	/* why no worker could be started; empty: none */
	XLogRecPtr	read_lsn;		/* the leader's main reader's position; Invalid while there is none */
	XLogRecPtr	restart_lsn;	/* everything that this reader may still need starts here or later */
	XLogRecPtr	slot_target;	/* nobody needs the log before it: the launcher moves the slot there (slot.h); Invalid: not known */
	pg_atomic_uint64 generation;	/* rises when streams or pipelines of the database changed */
} SckptDatabase;

/*
 * Keeps the log from `restart_lsn` on, until the transaction of backend `pid` ends: a pipeline
 * being created is not visible to the worker that moves the slot.
 */
typedef struct SckptHold
{
	int			pid;			/* 0: free */
	Oid			database;
	XLogRecPtr	restart_lsn;
} SckptHold;

/* Counters of a pipeline, all since its creation unless said. */
typedef struct SckptCounters
{
	int64		rows_in;
	int64		rows_out;
	int64		late_rows;
	int64		dead_letters;
	int64		restarts;		/* that are not in the tables yet */
	int64		state_rows;		/* now */
	int64		state_bytes;	/* now */
	double		busy_ms;		/* since the worker started */
	double		idle_ms;
} SckptCounters;

/* A task of a pipeline that has a head. */
typedef enum SckptPartStatus
{
	SCKPT_PART_WAITING,			/* to be started, in this epoch */
	SCKPT_PART_RUNNING,
	SCKPT_PART_FAILED
} SckptPartStatus;

/* How it stands at a barrier: what the head writes down. */
typedef struct SckptPartReport
{
	XLogRecPtr	commit;			/* SckptPosition */
	XLogRecPtr	restart;
	TimestampTz watermark;
	TimestampTz clock;
	int64		rows_in;		/* since the epoch began */
	int64		late_rows;
	int64		state_rows;
	int64		state_bytes;
	int64		checkpointed_rows;
	int64		checkpointed_bytes;
	int32		chunks;			/* that there are of it with this checkpoint */
	int32		ndead;			/* dead letters in the parcel */
	uint32		nchanges;		/* of result rows */
	TimestampTz started_at;
	TimestampTz packed_at;
} SckptPartReport;

/* Which entry is whose: under the lock.  The rest: under the mutex of the pipeline's entry, written by the task in its epoch. */
typedef struct SckptPartEntry
{
	Oid			database;		/* InvalidOid: free entry */
	int64		id;
	int			task;
	int			worker_pid;		/* 0: none has taken it */
	uint64		epoch;
	SckptPartStatus status;
	XLogRecPtr	claimed;		/* it may have read up to here */
	XLogRecPtr	commit;			/* SckptPosition, as of the last boundary */
	XLogRecPtr	restart;
	XLogRecPtr	end;
	TimestampTz fed_time;
	bool		changed;		/* something to checkpoint */
	int64		packed;			/* the last checkpoint that it has handed its part of over, */
	int64		settled;		/* and the last one whose outcome it has taken note of */
	int64		declined;		/* the last one that it could not hand its part of over, for a reason that may go away */
	SckptPartReport report;		/* of the one packed */
	SckptParcelHandle parcel;
	SckptParcelHandle reply;	/* the head's: SckptOutcome of each change; empty: none */
	SckptCounters counters;
	TimestampTz next_close;
	int64		restore_id;		/* of its restore in this epoch; 0: none */
	/* FAILED, or declined: */
	int			sqlerrcode;
	bool		starved;		/* of state memory */
	XLogRecPtr	halt_before;	/* it has found a bad row (halt.h), of the transaction that commits here; Invalid: it has not */
	char		error[SCKPT_ERROR_BYTES];
	char		hint[SCKPT_ERROR_BYTES];	/* of a bad row, the detail */
} SckptPartEntry;

typedef enum SckptStatus
{
	SCKPT_STARTING,				/* known, its worker has not loaded it yet */
	SCKPT_RUNNING,
	SCKPT_PAUSED,				/* by pause_pipeline() */
	SCKPT_RESTARTING,			/* failed on something transient; waits for its back-off to end */
	SCKPT_FAILED				/* stopped on an error; waits for resume_pipeline() or for memory */
} SckptStatus;

#define SCKPT_ENTRY_STREAMS 16	/* streams of a pipeline that others hear of: max_lag, heartbeats */

/* A pipeline that a worker knows. */
typedef struct SckptPipelineEntry
{
	Oid			database;		/* InvalidOid: free entry */
	int64		id;
	slock_t		mutex;			/* protects the rest */
	Oid			owner;			/* who may see the error */
	SckptStatus status;
	int			worker_pid;
	int			reader_pid;		/* the process that reads the log for it: worker_pid, or its first task's */
	SckptCounters counters;
	int			ninflows;		/* streams that it reads, SCKPT_ENTRY_STREAMS at most */
	SckptInflow inflows[SCKPT_ENTRY_STREAMS];
	Oid			result;
	int64		output_delay;	/* SckptTask */
	TimestampTz output_watermark;
	TimestampTz next_close;		/* the watermark at which something of it closes next; DT_NOEND: nothing */
	XLogRecPtr	restart_lsn;	/* from here on its last completed checkpoint needs the log */
	XLogRecPtr	position;		/* everything committed up to here is in the state */
	XLogRecPtr	read_lsn;		/* the log before this has been read for it, which is further where there were no commits */
	TimestampTz watermark;		/* DT_NOBEGIN: none */
	TimestampTz position_time;	/* what was committed up to then is in the state; 0: not known yet */
	XLogRecPtr	requested;		/* a checkpoint must cover everything before this */
	XLogRecPtr	covered;		/* the last completed checkpoint covers everything before this */
	int64		last_checkpoint;
	/* A savepoint that a session waits for (savepoint.h). */
	int			savepoint_pid;	/* 0: none does */
	char		savepoint[SCKPT_LABEL_BYTES];
	XLogRecPtr	savepoint_after;	/* it must cover everything before this */
	int64		savepoint_id;	/* 0: not taken yet; -1: the label is in use */
	char		error[SCKPT_ERROR_BYTES];	/* the last error; empty: none */

	/* Of one with a head (head.h), what that wants of its tasks. */
	uint64		epoch;			/* never given twice */
	int64		version;		/* of its definition */
	bool		active;			/* the tasks of this epoch are to run */
	int			ntasks;
	int64		rows_before;	/* taken in before the epoch */
	int64		own_state_rows; /* of counters.state_rows and …bytes, the head's, which task 0's row has */
	int64		own_state_bytes;
	int64		barrier;		/* the checkpoint under way, which tasks reach at barrier_lsn; 0: none */
	XLogRecPtr	barrier_lsn;
	int64		outcome;		/* the last one that is decided */
	bool		committed;		/* how */
	bool		careful;		/* SckptTask */
	TimestampTz careful_until;
	uint64		careful_rows;
	bool		halting;		/* SckptTask */
	XLogRecPtr	halt_before;	/* no task reads further; Invalid: as far as it likes */
	char		cause[SCKPT_ERROR_BYTES];	/* of the tasks' restore, in this epoch */
} SckptPipelineEntry;

typedef struct SckptShared
{
	LWLock	   *lock;
	int			launcher_pid;	/* 0: none */
	Latch	   *launcher_latch;
	bool		database_refused;	/* somebody found no free entry for a database: the launcher asks all again */
	ConditionVariable changed;	/* broadcast whenever a worker starts or ends, a checkpoint ends, a status changes; and, with a
								 * max_lag, whenever a pipeline has read on */
	pg_atomic_uint64 epochs;	/* given so far */
	pg_atomic_uint64 state_bytes;	/* dynamic shared memory taken for state, in the cluster */
	int			ndatabases;		/* size of the arrays */
	int			npipelines;
	int			used_pipelines; /* entries from here on are free */
	int			nparts;
	int			used_parts;		/* the same of tasks beside heads */
	int			nholds;
	SckptDatabase *databases;
	SckptPipelineEntry *pipelines;
	SckptPartEntry *parts;
	SckptHold  *holds;
} SckptShared;

/* NULL when the library was not loaded by shared_preload_libraries. */
extern SckptShared *sckpt_shared;

/* Install shmem_request and shmem_startup hooks; called from _PG_init while preloading. */
extern void sckpt_shared_init(void);
/* ereport(ERROR, 55000) unless the library was preloaded. */
extern void sckpt_shared_require(void);

/* The entry of a database, or NULL.  The caller holds the lock, in either mode. */
extern SckptDatabase *sckpt_shared_find_database(Oid database);
/* The same, made if there is none; NULL when the array is full.  Exclusive lock held. */
extern SckptDatabase *sckpt_shared_get_database(Oid database);
/* Do all workers that run, the leader among them, know the tables as they are now?  The caller holds the lock. */
extern bool sckpt_shared_synced(SckptDatabase *database);
/* Wake all workers.  The same. */
extern void sckpt_shared_wake_workers(SckptDatabase *database);
/* Entries of a database's pipelines, copied; palloc'd. */
extern SckptPipelineEntry *sckpt_shared_copy_pipelines(Oid database, int *count);
/* Free an entry, unless something in it still matters to somebody.  Exclusive lock held. */
extern void sckpt_shared_release_database(SckptDatabase *database);
/* The entry of a pipeline, or NULL. The caller holds the lock. */
extern SckptPipelineEntry *sckpt_shared_find_pipeline(Oid database, int64 id);
/* The same, made if there is none; NULL when the array is full.  And freed.  Exclusive lock held. */
extern SckptPipelineEntry *sckpt_shared_get_pipeline(Oid database, int64 id);
extern void sckpt_shared_release_pipeline(SckptPipelineEntry *entry);

/* The same of a task beside a head; it is freed with the pipeline's. */
extern SckptPartEntry *sckpt_shared_find_part(Oid database, int64 id, int task);
extern SckptPartEntry *sckpt_shared_get_part(Oid database, int64 id, int task);

/*
 * Ask for a worker for a database (and wake the launcher), or wake the one that runs.
 * `changed`: its streams or pipelines changed.  Safe in commit callbacks: no errors, no allocation.
 */
extern void sckpt_shared_wake(Oid database, bool changed);

/* This backend restores pipelines of the database; 0: nobody does. */
extern void sckpt_shared_note_restorer(Oid database, int pid);

/* Wake everyone waiting on sckpt_shared->changed. */
extern void sckpt_shared_broadcast(void);

#endif							/* SCKPT_SHARED_H */
