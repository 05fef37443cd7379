/*-------------------------------------------------------------------------
 *
 * savepoint.h
 *		savepoint() and drop_savepoint().
 *
 * Of a running pipeline a savepoint is a checkpoint that its worker takes: the session puts the label into the pipeline's shared entry, one
 * session at a time, and waits.  Of one that is paused or has failed it is the last checkpoint once more, written by the session in its own
 * transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SAVEPOINT_H
#define SCKPT_SAVEPOINT_H

#include "task.h"

/* Is a savepoint to be taken of a task that has read the log up to `end`?  Then the checkpoint being taken is it. */
extern bool sckpt_savepoint_wanted(SckptTask *task, XLogRecPtr end);
/* In the checkpoint's transaction: its label, or NULL; a label that is in use is reported to who asked for it. */
extern const char *sckpt_savepoint_begin(SckptTask *task);
/* It has committed. */
extern void sckpt_savepoint_taken(SckptTask *task, int64 id);

/* view.c: have the worker take a savepoint that covers everything before `target`; its id, or -1: the label is in use. */
extern int64 sckpt_savepoint_wait(SckptPipeline *pipeline, const char *label, XLogRecPtr target);

/*
 * In a session's transaction, as the extension's owner: lock a pipeline so that no checkpoint of it can be taken until the transaction
 * ends.  42704 if it is gone.
 */
extern void sckpt_savepoint_lock(SckptPipeline *pipeline);
/*
 * The same: complete checkpoint `id`, whose state and position are those of checkpoint `source`, and are in the tables already, but
 * for its history and what is retained.
 */
extern void sckpt_savepoint_complete(SckptPipeline *pipeline, int64 id, int64 source, const char *kind, const char *label);

#endif							/* SCKPT_SAVEPOINT_H */
