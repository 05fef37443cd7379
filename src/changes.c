/*-------------------------------------------------------------------------
 *
 * changes.c
 *		Weighted rows on their way from an operator to the next, or to the sink.
 *
 * Where nothing is taken back they are just kept, the later ones in a file when they are many.  Elsewhere rows cancel by their image.  They are consolidated when
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
#define MEMORY_BYTES ((Size) 8 * 1024 * 1024)	/* of those that could be in a file */
#define STORE_KB 1024			/* of its own memory */
#define FIRST_BLOCK_BYTES ((Size) 8 * 1024)
#define LAST_BLOCK_BYTES ((Size) 1024 * 1024)

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
	SckptFlat	flat;
	bool		retracts;
	bool		consolidated;
	Change	   *changes;		/* in `parent` */
	uint64		count;
	uint64		space;
	uint64		limit;			/* consolidate when there are so many */
	TupleTableSlot *slot;		/* virtual */
	Tuplestorestate *store;		/* rows that came later, each as often as it is there; NULL: none */
	TupleTableSlot *stored;		/* one of them */
	uint64		nstored;
	Size		bytes;			/* of all rows */
	SckptChanges *held;			/* what was before it; NULL: nothing is held */
};

SckptChanges *
sckpt_changes_create(TupleDesc desc, bool retracts, MemoryContext parent)
{
	MemoryContext old = MemoryContextSwitchTo(parent);
	SckptChanges *changes = palloc0(sizeof(SckptChanges));

	changes->parent = parent;
	/* Where nothing is taken back, nothing is freed before all is. */
	if (retracts)
		changes->context = AllocSetContextCreate(parent, "stream_ckpt changes", ALLOCSET_DEFAULT_SIZES);
	else
		changes->context = GenerationContextCreate(parent, "stream_ckpt changes", FIRST_BLOCK_BYTES, FIRST_BLOCK_BYTES, LAST_BLOCK_BYTES);
	changes->desc = desc;
	sckpt_flat_init(&changes->flat, desc);
	changes->retracts = retracts;
	changes->consolidated = true;
	changes->limit = FIRST_CONSOLIDATION;
	changes->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	changes->stored = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	ExecStoreAllNullTuple(changes->slot);
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
	ExecDropSingleTupleTableSlot(changes->stored);
	sckpt_flat_free(&changes->flat);
	MemoryContextDelete(changes->context);
	if (changes->changes)
		pfree(changes->changes);
	pfree(changes);
}

/* What a row takes of the memory, about. */
static inline Size
memory_of(MinimalTuple row)
{
	return MAXALIGN(row->t_len) + MAXALIGN(SizeofMinimalTupleHeader);
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

static inline void
forget(SckptChanges *changes, Change *change)
{
	changes->bytes -= memory_of(change->row);
	pfree(change->row);
	change->row = NULL;
}

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
		forget(changes, change);
	}
	place_destroy(places);
	for (uint64 i = 0; i < changes->count; i++)
	{
		Change	   *change = &changes->changes[i];

		if (change->row && change->weight != 0)
			changes->changes[kept++] = *change;
		else if (change->row)
			forget(changes, change);
	}
	changes->count = kept;
	changes->limit = Max(FIRST_CONSOLIDATION, 2 * kept);
	changes->consolidated = true;
}

/* Rows of a bag that is too large for memory. */
static pg_noinline void
store_row(SckptChanges *changes, TupleTableSlot *row, int64 weight)
{
	MemoryContext old = MemoryContextSwitchTo(changes->parent);
	Size		bytes;

	if (changes->store == NULL)
		changes->store = tuplestore_begin_heap(false, true, STORE_KB);
	MemoryContextSwitchTo(old);
	bytes = SizeofMinimalTupleHeader + heap_compute_data_size(changes->desc, row->tts_values, row->tts_isnull);
	for (; weight > 0; weight--)
	{
		tuplestore_putvalues(changes->store, changes->desc, row->tts_values, row->tts_isnull);
		changes->bytes += bytes;
		changes->nstored++;
		CHECK_FOR_INTERRUPTS();
	}
}

/* Room for more changes, of which the limits are kept. */
static pg_noinline void
make_room(SckptChanges *changes)
{
	if (changes->retracts && (changes->count >= changes->limit || changes->bytes / 1024 > (Size) sckpt_state_memory))
		consolidate(changes);
	if (changes->bytes / 1024 > (Size) sckpt_state_memory)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory for what has changed in a result since the last checkpoint"),
				 errhint("Raise \"stream_ckpt.state_memory\", or write smaller transactions.")));
	if (changes->count == changes->space)
	{
		changes->space = Max(256, 2 * changes->space);
		if (changes->changes)
			changes->changes = repalloc_huge(changes->changes, changes->space * sizeof(Change));
		else
			changes->changes = MemoryContextAllocHuge(changes->parent, changes->space * sizeof(Change));
	}
}

void
sckpt_changes_add(SckptChanges *changes, TupleTableSlot *row, int64 weight)
{
	MemoryContext old;
	Change	   *change;

	if (weight == 0)
		return;
	slot_getallattrs(row);
	if (!changes->retracts && (changes->nstored > 0 || changes->bytes > MEMORY_BYTES))
	{
		store_row(changes, row, weight);
		return;
	}
	if (unlikely(changes->count == changes->space || changes->bytes / 1024 > (Size) sckpt_state_memory ||
				 (changes->retracts && changes->count >= changes->limit)))
		make_room(changes);
	old = MemoryContextSwitchTo(changes->context);
	change = &changes->changes[changes->count];
	change->row = sckpt_flat_form(&changes->flat, row->tts_values, row->tts_isnull);
	change->weight = weight;
	change->hash = changes->retracts ? sckpt_hash_end(sckpt_flat_hash(change->row)) : 0;
	MemoryContextSwitchTo(old);
	changes->bytes += memory_of(change->row);
	changes->count++;
	changes->consolidated = !changes->retracts;
}

uint64
sckpt_changes_count(SckptChanges *changes)
{
	consolidate(changes);
	return changes->count + changes->nstored;
}

Size
sckpt_changes_bytes(SckptChanges *changes)
{
	return changes->bytes + changes->count * sizeof(Change);
}

/* Those with weights of this sign. */
static void
put_weights(SckptChanges *changes, int32 sign, SckptPutAbove put, void *arg)
{
	TupleTableSlot *slot = changes->slot;

	for (uint64 i = 0; i < changes->count; i++)
	{
		Change	   *change = &changes->changes[i];

		CHECK_FOR_INTERRUPTS();
		for (int64 left = change->weight * sign; left > 0; left--)
		{
			CHECK_FOR_INTERRUPTS();
			/* Each time: who gets it may have detoasted a column there. */
			(void) sckpt_flat_read(&changes->flat, change->row, sckpt_flat_data(change->row), 0, changes->desc->natts,
								   slot->tts_values, slot->tts_isnull);
			(void) put(arg, slot, sign);
		}
	}
}

void
sckpt_changes_put(SckptChanges *changes, SckptPutAbove put, void *arg)
{
	consolidate(changes);
	put_weights(changes, 1, put, arg);
	if (changes->retracts)
		put_weights(changes, -1, put, arg);
	if (changes->nstored > 0)
	{
		tuplestore_rescan(changes->store);
		while (tuplestore_gettupleslot(changes->store, true, false, changes->stored))
		{
			CHECK_FOR_INTERRUPTS();
			slot_getallattrs(changes->stored);
			(void) put(arg, changes->stored, 1);
		}
		ExecClearTuple(changes->stored);
	}
}

void
sckpt_changes_clear(SckptChanges *changes)
{
	if (changes->store)
		tuplestore_end(changes->store);
	changes->store = NULL;
	changes->nstored = 0;
	changes->bytes = 0;
	MemoryContextReset(changes->context);
	if (changes->space > FIRST_CONSOLIDATION)
	{
		pfree(changes->changes);
		changes->changes = NULL;
		changes->space = 0;
	}
	changes->count = 0;
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
