/*-------------------------------------------------------------------------
 *
 * rewind.h
 *		Puts a result table of our own back to what it was at an earlier
 *		checkpoint, or forth to what it was at one that was left behind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_REWIND_H
#define SCKPT_REWIND_H

#include "journal.h"

/*
 * `task` has been loaded as of checkpoint task->def->last_checkpoint.  What is undone is entered into `journal`, with the old rows where
 * `images` is set: a checkpoint may be restored that has them.  *head: what the journal is to have besides.  As the pipeline's owner, in the
 * transaction at hand.  55000 where the rows cannot be told any more.
 */
extern void sckpt_rewind(SckptTask *task, SckptJournal *journal, bool images, SckptJournalHead *head);

#endif							/* SCKPT_REWIND_H */
