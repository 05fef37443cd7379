/*-------------------------------------------------------------------------
 *
 * retain.h
 *		Retained checkpoints and savepoints, as a checkpoint is taken: which
 *		of them stay, and what is written for them.
 *
 * chunk.lives says which checkpoints a chunk belongs to.  It is written as [id, ∞); a chunk that counts for nothing any more at checkpoint d
 * loses [d, ∞) while something before d is retained, and is deleted when nothing in what is left of it is.  The last checkpoint's
 * chunks are those whose lives have no end.
 *
 * stream_ckpt.retained has, of each checkpoint that can be restored besides the last one, what pipeline_position had of it; of the last one
 * too, where it is to stay.  With retained_checkpoints = 1 and no savepoints both tables stay empty.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_RETAIN_H
#define SCKPT_RETAIN_H

#include "task.h"

/* In the checkpoint's transaction, with the pipeline's row locked: see what is retained.  `label`: it is a savepoint. */
extern void sckpt_retain_begin(SckptTask *task);
/* Is something retained that needs chunks which the attempt supersedes? */
extern bool sckpt_retain_keeps_chunks(SckptTask *task);
/* A result row is put or deleted, as the owner; a row of the query's row type. */
extern void sckpt_retain_touch(SckptTask *task, TupleTableSlot *row);
/* A row of a result without keys is deleted that this transaction had appended. */
extern void sckpt_retain_touch_image(SckptTask *task, TupleTableSlot *row, TransactionId appended_as);
/* The same of any result, where it is a bag of a grouped query. */
extern void sckpt_retain_touch_removed(SckptTask *task, TupleTableSlot *row, TransactionId appended_as);
/* When the position is stored, as the extension's owner. */
extern void sckpt_retain_store(SckptTask *task);
/* After the commit. */
extern void sckpt_retain_committed(SckptTask *task);

/* How many completed checkpoints of the pipeline stay. */
extern int	sckpt_retain_count(SckptPipeline *def);
/* As the extension's owner: keep the last checkpoint, as `kind`, with a label or NULL. */
extern void sckpt_retain_keep(int64 pipeline, const char *kind, const char *label);
/* The same: let go of checkpoints that are not to stay, and of what only they needed. */
extern void sckpt_retain_clean(int64 pipeline, int count);
/* Where the log is needed from: copy that to the task, but for what is lost. */
extern void sckpt_retain_note_held(SckptTask *task, SckptLsns *held);
/* The least of these, and of the pipeline's own. */
extern XLogRecPtr sckpt_retain_needed(SckptPipeline *def);

#endif							/* SCKPT_RETAIN_H */
