/*-------------------------------------------------------------------------
 *
 * offline.h
 *		A pipeline's state in a session: loaded there, changed, and stored in
 *		the session's transaction.
 *
 * The caller has locked the pipeline's row of pipeline_def FOR UPDATE, so that its worker stores nothing meanwhile: what that
 * takes in stays in its memory.  Who changes definition or stored state raises pipeline_def.version with it: a worker that
 * finds another version than its task's stores nothing of that task, and makes it anew.
 *
 * One at a time in a session.  An error needs no care: the end of the (sub)transaction frees everything.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_OFFLINE_H
#define SCKPT_OFFLINE_H

#include "task.h"

/* Before all else: wait until no other session is changing the pipeline, and keep others waiting until the transaction ends. */
extern void sckpt_offline_lock(SckptPipeline *def);
/*
 * Make a task of the definition and load its state as of a checkpoint (0: the last one), in the transaction at hand.  The task belongs to no
 * worker: it is in no lane and in no view, and nothing is written about it but what the caller writes.
 */
extern SckptTask *sckpt_offline_load(SckptPipeline *def, int64 checkpoint);
/*
 * Take a checkpoint of all of it: results into the sink, entries into chunks, which replace all others; the position in the log stays.
 * Returns the checkpoint's id.  Then the task is of no more use.
 */
extern int64 sckpt_offline_store(SckptTask *task);
/* Before that: take the results of all entries out of the sink. */
extern void sckpt_offline_withdraw(SckptTask *task);
/* Free it, with its state. */
extern void sckpt_offline_end(SckptTask *task);

#endif							/* SCKPT_OFFLINE_H */
