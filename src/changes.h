/*-------------------------------------------------------------------------
 *
 * changes.h
 *		Weighted rows on their way from an operator to the next, or to the sink.
 *
 * In process memory, or a temporary file: what has not been handed on by a checkpoint comes again from the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_CHANGES_H
#define SCKPT_CHANGES_H

#include "operator.h"

typedef struct SckptChanges SckptChanges;

/* Rows of this type, which must stay, in a context below `parent`.  `retracts`: with negative weights, too. */
extern SckptChanges *sckpt_changes_create(TupleDesc desc, bool retracts, MemoryContext parent);
extern void sckpt_changes_destroy(SckptChanges *changes);
extern void sckpt_changes_add(SckptChanges *changes, TupleTableSlot *row, int64 weight);
extern uint64 sckpt_changes_count(SckptChanges *changes);
extern Size sckpt_changes_bytes(SckptChanges *changes);
/*
 * Call put(arg, row, weight) for all of them, which stay: net, those of positive weight first, and else in the order in which they came.
 */
extern void sckpt_changes_put(SckptChanges *changes, SckptPutAbove put, void *arg);
extern void sckpt_changes_clear(SckptChanges *changes);
/*
 * Those that there are are held, while others come: those of a checkpoint, until it is known what has become of it, or those before a try.  Then what was held
 * last is dropped, or is there again, before the others.  Both may nest.
 */
extern void sckpt_changes_hold(SckptChanges *changes);
extern void sckpt_changes_settle(SckptChanges *changes, bool drop);

#endif							/* SCKPT_CHANGES_H */
