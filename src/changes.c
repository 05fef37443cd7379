/*-------------------------------------------------------------------------
 *
 * changes.c
 *		Weighted rows on their way from an operator to the next, or to the sink.
 *
 * Where nothing is taken back they are just kept, in a file when they are many.  Elsewhere rows cancel by their image.  They are consolidated when
 * they are asked for, and whenever their number has doubled since: what comes and goes
 * between two checkpoints does not fill the memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "changes.h"
#include "compat.h"
#include "flat.h"
#include "settings.h"

#define FIRST_CONSOLIDATION 65536
#define STORE_KB (8 * 1024)		/* in memory */

typedef struct Change
{
	MinimalTuple row;
	int64		weight;
	uint32		hash;
} Change;

struct SckptChanges
{
	MemoryContext context;		/* the rows */
	MemoryContext parent;
	TupleDesc	desc;
	bool		retracts;
	bool		consolidated;
	Change	   *changes;		/* in `parent` */
	uint64		count;
	uint64		space;
	uint64		limit;			/* consolidate when there are so many */
	TupleTableSlot *slot;
	/* where nothing is taken back: */
	Tuplestorestate *store;		/* rows, in memory or in a file */
	Size		bytes;
	SckptChanges *held;			/* what was before it; NULL: nothing is held */
};

SckptChanges *
sckpt_changes_create(TupleDesc desc, bool retracts, MemoryContext parent)
{
	MemoryContext old = MemoryContextSwitchTo(parent);
	SckptChanges *changes = palloc0(sizeof(SckptChanges));

	changes->parent = parent;
	changes->context = AllocSetContextCreate(parent, "stream_ckpt changes", ALLOCSET_DEFAULT_SIZES);
	changes->desc = desc;
	changes->retracts = retracts;
	changes->consolidated = true;
	changes->limit = FIRST_CONSOLIDATION;
	changes->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	if (!retracts)
		changes->store = tuplestore_begin_heap(false, true, STORE_KB);
	MemoryContextSwitchTo(old);
	return changes;
}

void
sckpt_changes_destroy(SckptChanges *changes)
{
	if (changes->held)
		sckpt_changes_destroy(changes->held);
	if (changes->store)
		tuplestore_end(changes->store);
	ExecDropSingleTupleTableSlot(changes->slot);
	MemoryContextDelete(changes->context);
	if (changes->changes)
		pfree(changes->changes);
	pfree(changes);
}

static inline bool
same_image(const Change *a, const Change *b)
{
	return a->hash == b->hash && sckpt_flat_equal(a->row, b->row);
}

/* Which change has an image, while they are consolidated. */
typedef struct Place
{
	uint64		at;
	char		status;
} Place;

#define SH_PREFIX place
#define SH_ELEMENT_TYPE Place
#define SH_KEY_TYPE uint64
#define SH_KEY at
#define SH_HASH_KEY(table, key) (((Change *) (table)->private_data)[key].hash)
#define SH_EQUAL(table, a, b) same_image(&((Change *) (table)->private_data)[a], &((Change *) (table)->private_data)[b])
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Add up the weights of equal rows, in the place of the first; those of weight 0 are gone. */
static void
consolidate(SckptChanges *changes)
{
	place_hash *places;
	uint64		kept = 0;

	if (changes->consolidated)
		return;
	places = place_create(changes->parent, (uint32) Min(changes->count, PG_INT32_MAX), changes->changes);
	for (uint64 i = 0; i < changes->count; i++)
	{
		Change	   *change = &changes->changes[i];
		bool		found;
		Place	   *place = place_insert(places, i, &found);

		if (!found)
			continue;
		changes->changes[place->at].weight += change->weight;
		pfree(change->row);
		change->row = NULL;
	}
	place_destroy(places);
	for (uint64 i = 0; i < changes->count; i++)
	{
		Change	   *change = &changes->changes[i];

		if (change->row && change->weight != 0)
			changes->changes[kept++] = *change;
		else if (change->row)
			pfree(change->row);
	}
	changes->count = kept;
	changes->limit = Max(FIRST_CONSOLIDATION, 2 * kept);
	changes->consolidated = true;
}

void
sckpt_changes_add(SckptChanges *changes, TupleTableSlot *row, int64 weight)
{
	MemoryContext old;
	Change	   *change;

	if (weight == 0)
		return;
	if (changes->store)
	{
		Size		size;

		slot_getallattrs(row);
		size = MAXALIGN(SizeofMinimalTupleHeader) + heap_compute_data_size(changes->desc, row->tts_values, row->tts_isnull);
		for (int64 n = 0; n < weight; n++)
		{
			tuplestore_putvalues(changes->store, changes->desc, row->tts_values, row->tts_isnull);
			changes->bytes += size;
			changes->count++;
			CHECK_FOR_INTERRUPTS();
		}
		return;
	}
	if (sckpt_changes_bytes(changes) / 1024 > (Size) sckpt_state_memory)
		consolidate(changes);
	if (sckpt_changes_bytes(changes) / 1024 > (Size) sckpt_state_memory)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory for what has changed in a result since the last checkpoint"),
				 errhint("Raise \"stream_ckpt.state_memory\", or write smaller transactions.")));
	if (changes->retracts && changes->count >= changes->limit)
		consolidate(changes);
	if (changes->count == changes->space)
	{
		changes->space = Max(256, 2 * changes->space);
		if (changes->changes)
			changes->changes = repalloc_huge(changes->changes, changes->space * sizeof(Change));
		else
			changes->changes = MemoryContextAllocHuge(changes->parent, changes->space * sizeof(Change));
	}
	old = MemoryContextSwitchTo(changes->context);
	change = &changes->changes[changes->count];
	change->row = ExecCopySlotMinimalTuple(row);
	change->weight = weight;
	change->hash = changes->retracts ? sckpt_hash_end(sckpt_flat_hash(change->row)) : 0;
	MemoryContextSwitchTo(old);
	changes->count++;
	changes->consolidated = !changes->retracts;
}

uint64
sckpt_changes_count(SckptChanges *changes)
{
	consolidate(changes);
	return changes->count;
}

Size
sckpt_changes_bytes(SckptChanges *changes)
{
	if (changes->store)
		return changes->bytes;
	return changes->count == 0 ? 0 : MemoryContextMemAllocated(changes->context, false) + changes->count * sizeof(Change);
}

/* Those with weights of this sign. */
static void
put_weights(SckptChanges *changes, int32 sign, SckptPutAbove put, void *arg)
{
	for (uint64 i = 0; i < changes->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		for (int64 left = changes->changes[i].weight * sign; left > 0; left--)
		{
			CHECK_FOR_INTERRUPTS();
			ExecStoreMinimalTuple(changes->changes[i].row, changes->slot, false);
			slot_getallattrs(changes->slot);
			(void) put(arg, changes->slot, sign);
		}
	}
	ExecClearTuple(changes->slot);
}

void
sckpt_changes_put(SckptChanges *changes, SckptPutAbove put, void *arg)
{
	if (changes->store)
	{
		tuplestore_rescan(changes->store);
		while (tuplestore_gettupleslot(changes->store, true, false, changes->slot))
		{
			CHECK_FOR_INTERRUPTS();
			slot_getallattrs(changes->slot);
			(void) put(arg, changes->slot, 1);
		}
		ExecClearTuple(changes->slot);
		return;
	}
	consolidate(changes);
	put_weights(changes, 1, put, arg);
	put_weights(changes, -1, put, arg);
}

void
sckpt_changes_clear(SckptChanges *changes)
{
	if (changes->store)
		tuplestore_clear(changes->store);
	changes->bytes = 0;
	MemoryContextReset(changes->context);
	if (changes->changes)
		pfree(changes->changes);
	changes->changes = NULL;
	changes->count = changes->space = 0;
	changes->limit = FIRST_CONSOLIDATION;
	changes->consolidated = true;
}

void
sckpt_changes_hold(SckptChanges *changes)
{
	SckptChanges *held = sckpt_changes_create(changes->desc, changes->retracts, changes->parent);
	SckptChanges copy = *held;

	*held = *changes;
	*changes = copy;
	changes->held = held;
}

static bool
add_to(void *arg, TupleTableSlot *row, int32 weight)
{
	sckpt_changes_add(arg, row, weight);
	return true;
}

void
sckpt_changes_settle(SckptChanges *changes, bool drop)
{
	SckptChanges *held = changes->held;
	SckptChanges copy;

	Assert(held != NULL);
	if (drop)
		changes->held = held->held;
	else
	{
		sckpt_changes_put(changes, add_to, held);
		copy = *changes;
		*changes = *held;
		*held = copy;
	}
	held->held = NULL;
	sckpt_changes_destroy(held);
}
