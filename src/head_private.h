/*-------------------------------------------------------------------------
 *
 * head_private.h
 *		What head.c and head_intake.c share: a head, between checkpoints and
 *		within one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_HEAD_PRIVATE_H
#define SCKPT_HEAD_PRIVATE_H

#include "head.h"

struct SckptHead
{
	int			ntasks;
	uint64		epoch;
	bool		ready;			/* all tasks have started */
	bool		consumed;		/* the rows for our stages of the checkpoint under way are taken in */
	int64		rows_in;		/* before the epoch */
	int64		late_rows;
	TimestampTz first_packed_at;	/* of the checkpoint under way; 0: no task has reached it */
	TimestampTz retry_at;		/* its completion, for which a lock was in the way */
	SckptPartEntry *parts;		/* copies */
	int64	   *rows_before;	/* of each, in this epoch, as of the last checkpoint */
	SckptParcel **replies;		/* of the last checkpoint, until all have settled */
};

/*
 * head_intake.c: what the tasks have handed over for our stages, and what these hand on.  In a transaction of its own.  Taken in once, whatever becomes of
 * the checkpoint; an error leaves the state undefined.
 */
extern void sckpt_head_consume(SckptTask *task);
/* Replies to the tasks, which have been read, or will not be. */
extern void sckpt_head_drop_replies(SckptHead *head);

#endif							/* SCKPT_HEAD_PRIVATE_H */
