/*-------------------------------------------------------------------------
 *
 * sink_lookup.h
 *		Finds the row of a key in a result table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SINK_LOOKUP_H
#define SCKPT_SINK_LOOKUP_H

#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

typedef struct SckptLookup SckptLookup;

/*
 * Prepare look-ups by these key columns, in the current memory context, which must outlive them.
 * `index`: as sckpt_sink_key_index gives it; InvalidOid: the table is scanned, for its first row with nkeys = 0.
 * `images`: keys are equal if their images are.
 */
extern SckptLookup *sckpt_lookup_open(Relation relation, int nkeys, const AttrNumber *keys, bool images,
									  Oid index, EState *estate);
/*
 * Put the version of the row with the key of `key` into `row` (a slot of the table's own kind, which holds a
 * pin on its page), if there is one.  It is the newest version at this moment, written by a committed
 * transaction or by ours, and not being changed by anyone: who does is waited for.  It is not locked.
 * `hint` is tried first: any tid, valid or not.
 */
extern bool sckpt_lookup_find(SckptLookup *lookup, TupleTableSlot *key, ItemPointer hint,
							  TupleTableSlot *row);

/*
 * These hints, SCKPT_SINK_AHEAD (sink.h) at most, will be looked at after the next call of this: have their pages read, and asked for by the processor; those of the
 * last call have come, and their row versions are asked for.
 */
extern void sckpt_lookup_prefetch(SckptLookup *lookup, const ItemPointerData *hints, int count);

/* Have both rows the same key?  NULL equals NULL. */
extern bool sckpt_lookup_equal(SckptLookup *lookup, TupleTableSlot *left, TupleTableSlot *right);

/* Is the index unique?  Then it can arbitrate between us and others who insert the same key. */
extern bool sckpt_lookup_is_unique(SckptLookup *lookup);

extern void sckpt_lookup_close(SckptLookup *lookup);

#endif							/* SCKPT_SINK_LOOKUP_H */
