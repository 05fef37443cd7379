/*-------------------------------------------------------------------------
 *
 * progress.h
 *		Event time beyond rows: heartbeats of silent streams, and the
 *		watermarks of streams that pipelines write.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_PROGRESS_H
#define SCKPT_PROGRESS_H

#include "lane.h"
#include "task.h"

/*
 * With the lane at the end of the log: for streams with an idle_timeout that have been silent for so long, write a heartbeat when that
 * would close something.  In a transaction of its own.  Returns ms until it is to be asked again; a large number when nothing waits.
 */
extern int64 sckpt_progress_heartbeats(SckptLane *lane);

/* When a task starts, in a transaction: what its result, if that is a stream, needs to know. */
extern void sckpt_progress_prepare(SckptTask *task);

/*
 * The watermark to send with the checkpoint being taken of a task whose result is a stream: the least of those of the pipelines
 * that write it.  DT_NOBEGIN: none is to be sent.  In a transaction.  What it found for the task is kept when the checkpoint has
 * committed.
 */
extern TimestampTz sckpt_progress_output(SckptTask *task);
extern void sckpt_progress_output_committed(SckptTask *task);

#endif							/* SCKPT_PROGRESS_H */
