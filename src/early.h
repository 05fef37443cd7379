/*-------------------------------------------------------------------------
 *
 * early.h
 *		Work on large transactions before they commit.
 *
 * A bulk load keeps one processor busy for seconds, and its rows are in the
 * log all the while.  Where a pipeline's source depends on nothing but the
 * rows (no tables, immutable functions only) and its operator can be merged,
 * the rows of each open xid are aggregated as they come, into an operator of
 * their own.  At the commit those of the transaction's xids are merged into the state; if the xid aborts, it is
 * thrown away.  Nothing of it is ever checkpointed or shown before.  Late rows are not looked for while it is open: if at the commit
 * a window that it has rows for is closed, the work is thrown away too, and the rows are judged one by one.
 *
 * It is an optimization only: whatever goes wrong with it is dropped without a word, and the rows
 * are processed at the commit like any others, where an error counts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_EARLY_H
#define SCKPT_EARLY_H

#include "batch.h"
#include "task.h"

/* Could the task take rows early? */
extern bool sckpt_early_possible(SckptTask *task);
/*
 * Rows of an open xid, in the order of the log; `first`: the batch begins with its first row.  Never throws but for
 * interrupts.
 */
extern void sckpt_early_feed(SckptTask *task, TransactionId xid, bool first, SckptBatch *batch);
/* An xid has rows that will not be fed: do without early work on it. */
extern void sckpt_early_give_up(SckptTask *task, TransactionId xid);
/*
 * Does the task have all rows of these xids, of the transaction with this commit record, and is none of them late?  What came before it must
 * have been fed.
 */
extern bool sckpt_early_covers(SckptTask *task, XLogRecPtr commit_lsn, const TransactionId *xids, int nxids);
/* The xids have committed: merge what the task has of them, in a transaction of its own.  Throws. */
extern void sckpt_early_merge(SckptTask *task, SckptLogTransaction *transaction, const TransactionId *xids, int nxids);
/* Forget an xid's rows; or, with an invalid one, everything. */
extern void sckpt_early_drop(SckptTask *task, TransactionId xid);

#endif							/* SCKPT_EARLY_H */
