/*-------------------------------------------------------------------------
 *
 * lane.h
 *		A reader of the log and the tasks that it feeds.
 *
 * The main lane follows the end of the log.  A task that starts further back
 * (a new pipeline, or one that was paused, or failed) gets a lane of its own, shared with those that
 * start at the same time, so that the others need not wait until it has
 * caught up; then it moves to the main lane.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_LANE_H
#define SCKPT_LANE_H

#include "log.h"
#include "task.h"

/* A stream that its tasks read: since when nothing has come of it. */
typedef struct SckptSilence
{
	Oid			stream;
	TimestampTz since;			/* when its last rows were read */
	TimestampTz base;			/* its watermark then; DT_NOBEGIN: not known yet */
	TimestampTz sent_at;		/* its last heartbeat */
	TimestampTz asked_at;		/* when its timeout was looked up; 0: never */
	int64		timeout;		/* µs; -1: none */
} SckptSilence;

typedef struct SckptLane
{
	MemoryContext context;
	SckptLog   *reader;
	List	   *tasks;			/* all RUNNING, but for those that failed since sckpt_lane_drop_stopped */
	List	   *streams;		/* that they read */
	List	   *silences;		/* SckptSilence of each, ever since the lane was opened */
	bool		stale;			/* these are to be found out anew */
	List	   *tapped_xids;	/* open ones whose first messages were given to tasks */
	XLogRecPtr	known_visible;	/* transactions committed before are visible to any snapshot */
} SckptLane;

/* As sckpt_log_open(). */
extern SckptLane *sckpt_lane_open(MemoryContext parent, XLogRecPtr start, XLogRecPtr skip_until);
/* There must be no tasks left in it. */
extern void sckpt_lane_close(SckptLane *lane);
extern void sckpt_lane_add(SckptLane *lane, SckptTask *task);
/* Also throws away what the task keeps of the lane's batches: pending rows (it must be stopped, or have none), early work. */
extern void sckpt_lane_remove(SckptLane *lane, SckptTask *task);
/* Take tasks that are not RUNNING any more off. */
extern void sckpt_lane_drop_stopped(SckptLane *lane);
/*
 * Read up to a transaction boundary, some megabytes on, and give what was read to the tasks.  True when the log has been
 * read to its end; sets *delivered when there were transactions.
 */
extern bool sckpt_lane_read(SckptLane *lane, bool *delivered);
/* Where it is, at the boundary. */
extern void sckpt_lane_position(SckptLane *lane, SckptPosition *position);

#endif							/* SCKPT_LANE_H */
