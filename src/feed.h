/*-------------------------------------------------------------------------
 *
 * feed.h
 *		The rows of a join's side that is a linear source.
 *
 * From what the side's SQL gives: fills in windows, projects, and drops what is late for the join.  Belongs to the join; or to a task that reads for a
 * join in the head of a parallel pipeline, and hands the rows over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_FEED_H
#define SCKPT_FEED_H

#include "operator.h"
#include "query.h"

typedef struct SckptFeed SckptFeed;

/* When a row came: the clock before its transaction, and when it is touched by it. */
typedef struct SckptTouch
{
	TimestampTz before;
	TimestampTz touched;
} SckptTouch;

/* A row of the side; valid during the call.  `touch`: where rows are forgotten; else NULL. */
typedef void (*SckptFed) (void *arg, TupleTableSlot *row, int32 weight, const SckptTouch *touch);

/* Of a join, the side, which has a leaf.  As the pipeline's owner, in a transaction; lives in a context below `parent`. */
extern SckptFeed *sckpt_feed_create(SckptQuery *join, int side, MemoryContext parent);
extern void sckpt_feed_destroy(SckptFeed *feed);
/* Take a row of the leaf's source. */
extern void sckpt_feed_take(SckptFeed *feed, const SckptInput *input, TupleTableSlot *slot, SckptFed put, void *arg);

#endif							/* SCKPT_FEED_H */
