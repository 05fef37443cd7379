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

/* A row of the side; valid during the call. */
typedef void (*SckptFed) (void *arg, TupleTableSlot *row, int32 weight);

/* Of a join, the side, which has a leaf.  As the pipeline's owner, in a transaction; lives in a context below `parent`. */
extern SckptFeed *sckpt_feed_create(SckptQuery *join, int side, MemoryContext parent);
extern void sckpt_feed_destroy(SckptFeed *feed);
/* Take a row of the leaf's source. */
extern void sckpt_feed_take(SckptFeed *feed, const SckptInput *input, TupleTableSlot *slot, SckptFed put, void *arg);

#endif							/* SCKPT_FEED_H */
