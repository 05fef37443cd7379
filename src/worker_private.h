/*-------------------------------------------------------------------------
 *
 * worker_private.h
 *		What the files of a worker share: what it has, and the steps of its
 *		loop.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_WORKER_PRIVATE_H
#define SCKPT_WORKER_PRIVATE_H

#include "lane.h"
#include "shared.h"
#include "task.h"

#define SCKPT_IDLE_MS	1000	/* longest sleep: notes are to follow checkpoints soon (note.h) */

/* This process, a worker of the database that it is connected to. */
typedef struct SckptSelf
{
	MemoryContext context;
	SckptDatabase *database;
	int			number;			/* of this worker; 0: it is the leader */
	List	   *tasks;			/* all pipelines that are this worker's */
	List	   *parts;			/* tasks of pipelines with heads that are this worker's */
	SckptLane  *main_lane;		/* follows the end of the log; NULL: a writer, which has nothing to read */
	List	   *other_lanes;	/* catch up */
	XLogRecPtr	slot_lsn;		/* where the slot is, as far as we know */
	uint32		slots_lost;		/* the same of shared.h's */

	/* as of the last look at the tables */
	uint64		generation;
	int			nreaders;		/* workers 0 … read, */
	int			nwriters;		/* and so many after them have the heads of all pipelines with state */
	List	   *others;			/* the leader's: SckptOther of each pipeline of other workers */
} SckptSelf;
extern SckptSelf sckpt_self;

/* Where a pipeline needs the log from, at the least. */
typedef struct SckptOther
{
	int64		id;
	XLogRecPtr	restart;
} SckptOther;

/* worker_sync.c: compare the pipelines in the tables with the tasks; does not return where there is nothing to do any more. */
extern void sckpt_worker_sync(void);

/* worker_start.c: start the tasks that can be, each in the lane that has what it needs. */
extern void sckpt_worker_start_tasks(void);
/* A task is about to be destroyed, or to start again: no lane feeds it any more. */
extern void sckpt_worker_leave_lanes(SckptTask *task);
/* A lane that has caught up gives its tasks to the main one; one without tasks ends: true. */
extern bool sckpt_worker_end_lane(SckptLane *lane);
/*
 * If the slot has been invalidated (max_slot_wal_keep_size): take a new one, so that what is still there stays, and see who has lost what.
 */
extern void sckpt_worker_replace_slot(void);
/* The log that paused pipelines need may be lost, too: those fail. */
extern void sckpt_worker_check_paused(void);

/*
 * worker_follow.c: what is stored of pipelines to which nothing happens, and the slot, follow the log; `at_end`: all of it has been read.  Returns ms
 * until it is to be looked at again.
 */
extern int64 sckpt_worker_follow(bool at_end);

#endif							/* SCKPT_WORKER_PRIVATE_H */
