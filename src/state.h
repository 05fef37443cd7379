/*-------------------------------------------------------------------------
 *
 * state.h
 *		The state store of a stateful operator: a keyed hash table of flat
 *		entries in dynamic shared memory.
 *
 * One store per (pipeline, stage, task), written by one process.  Entries are
 * addressed by 32-bit references, never by pointers: a reference counts
 * 8-byte units in an address space of blocks, each of which is one
 * dsa_allocate()d piece.  The first blocks are small and later ones grow to
 * nearly 1 MB; a larger piece takes a run of block numbers.  The hash table is 256
 * open-addressing parts, each doubled on its own, so that no doubling pauses
 * for long or needs a large contiguous piece.  An entry costs its own bytes
 * rounded up to 8, and 11 to 21 bytes of hash table.
 *
 * Memory of all stores of the cluster is counted in sckpt_shared->state_bytes
 * and bounded by stream_ckpt.state_memory: past it, ERRCODE_OUT_OF_MEMORY
 * with the setting's name and the value that is needed.  The area belongs to
 * the process (dsa_create, never pinned): it goes when the process does, or
 * when its last store does.
 *
 * An entry is
 *		SckptEntry header | caller's bytes (key and values, flat)
 * and never moves.  What does not fit an entry lives in chunks of its own
 * (sckpt_state_alloc), which may be freed and replaced.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_STATE_H
#define SCKPT_STATE_H

#include "storage/itemptr.h"

/* Reference of an entry or chunk; 0 is none. */
typedef uint32 SckptRef;

#define SCKPT_NO_REF ((SckptRef) 0)
#define SCKPT_REF_UNIT 8
#define SCKPT_BLOCK_BITS 17		/* 2^17 units of 8 bytes = 1 MB per block number */

#define SCKPT_ENTRY_DIRTY		0x01	/* changed since the last completed checkpoint: on the dirty list */
#define SCKPT_ENTRY_EMITTED		0x02	/* its result row is in the sink */
#define SCKPT_ENTRY_REWRITE		0x04	/* on the dirty list only to leave an old chunk: its result is unchanged */
#define SCKPT_ENTRY_LEAVING		0x08	/* on the dirty list; the next checkpoint's commit removes it */
#define SCKPT_ENTRY_RETRACT		0x10	/* LEAVING, and its result row with it */
#define SCKPT_ENTRY_GONE		0x20	/* LEAVING, and nothing in older versions tells that: a tombstone is stored */
#define SCKPT_ENTRY_INFLIGHT	0x40	/* in the checkpoint being taken, while the task goes on (part.h) */
#define SCKPT_ENTRY_REMOVED		0x80	/* INFLIGHT, and removed meanwhile: only its memory is still there */

typedef struct SckptEntry
{
	uint32		hash;
	SckptRef	next_dirty;		/* neighbours on the dirty list, valid while DIRTY is set */
	SckptRef	prev_dirty;
	uint32		chunk;			/* number of the checkpoint chunk with its last stored version; 0: none */
	uint16		flags;
	ItemPointerData tid;		/* hint: where its result row was */
	/* the caller's bytes follow, 8-byte aligned */
} SckptEntry;

#define SCKPT_ENTRY_HEADER MAXALIGN(sizeof(SckptEntry))

/* A place of the hash table; ref is SCKPT_NO_REF in a free one. */
typedef struct SckptSlot
{
	uint32		hash;
	SckptRef	ref;
} SckptSlot;

#define SCKPT_PART_BITS 8
#define SCKPT_PARTS (1 << SCKPT_PART_BITS)

/* The part of the hash table for one value of the hash's top bits: linear probing, no tombstones. */
typedef struct SckptPart
{
	SckptSlot  *slots;			/* never NULL: an empty part shares one free slot */
	uint32		mask;			/* number of slots - 1 */
	uint32		used;
} SckptPart;

typedef struct SckptState SckptState;

/*
 * An empty store.  It lives until destroyed, or until `parent` is reset or
 * deleted, across transactions and their aborts.
 */
extern SckptState *sckpt_state_create(MemoryContext parent);
/* Frees everything at once: the cost is per block, not per entry. */
extern void sckpt_state_destroy(SckptState *state);

/*
 * What the inline functions below need of a store: SckptState starts with it.
 * Nobody else but state_order.c looks into it.
 */
typedef struct SckptStateBase
{
	char	  **blocks;			/* address of each block number */
	SckptRef	first_dirty;
	SckptRef	last_dirty;
	uint64		ndirty;
	SckptPart	parts[SCKPT_PARTS];
} SckptStateBase;

/* Address of a reference, valid in this process until it is freed (blocks never move). */
static inline void *
sckpt_state_address(SckptState *state, SckptRef ref)
{
	return ((SckptStateBase *) state)->blocks[ref >> SCKPT_BLOCK_BITS] +
		(Size) (ref & ((1 << SCKPT_BLOCK_BITS) - 1)) * SCKPT_REF_UNIT;
}

static inline SckptPart *
sckpt_state_part(SckptState *state, uint32 hash)
{
	return &((SckptStateBase *) state)->parts[hash >> (32 - SCKPT_PART_BITS)];
}

/*
 * Where the search for a hash starts in its part.  The higher bits are mixed
 * in so that a store that is given only one residue of the hash (rows routed
 * to one of several tasks) still uses all slots.
 */
static inline uint32
sckpt_state_home(uint32 hash, uint32 mask)
{
	return (hash ^ (hash >> 15)) & mask;
}

/*
 * The entries with a hash, one after the other, for a caller that compares
 * keys without an indirect call.  The table must not change meanwhile.
 *
 *		for (ref = sckpt_state_probe(state, hash, &probe);
 *			 ref != SCKPT_NO_REF;
 *			 ref = sckpt_state_probe_next(&probe))
 *			if (has_key(sckpt_state_address(state, ref)))
 *				break;
 */
typedef struct SckptProbe
{
	SckptSlot  *slots;
	uint32		mask;
	uint32		hash;
	uint32		at;				/* the slot to look at next */
} SckptProbe;

static inline SckptRef
sckpt_state_probe_next(SckptProbe *probe)
{
	for (;;)
	{
		SckptSlot	slot = probe->slots[probe->at];

		if (slot.ref == SCKPT_NO_REF)
			return SCKPT_NO_REF;
		probe->at = (probe->at + 1) & probe->mask;
		if (slot.hash == probe->hash)
			return slot.ref;
	}
}

static inline SckptRef
sckpt_state_probe(SckptState *state, uint32 hash, SckptProbe *probe)
{
	SckptPart  *part = sckpt_state_part(state, hash);

	probe->slots = part->slots;
	probe->mask = part->mask;
	probe->hash = hash;
	probe->at = sckpt_state_home(hash, part->mask);
	return sckpt_state_probe_next(probe);
}

/*
 * Ask for the cache lines that a later find of this hash will need: first
 * that of the hash table, then (some rows later, when it has come) that of
 * the first entry with this hash, which is returned, or none.
 */
static inline void
sckpt_state_prefetch(SckptState *state, uint32 hash)
{
	SckptPart  *part = sckpt_state_part(state, hash);

	__builtin_prefetch(&part->slots[sckpt_state_home(hash, part->mask)]);
}

static inline SckptRef
sckpt_state_prefetch_entry(SckptState *state, uint32 hash)
{
	SckptProbe	probe;
	SckptRef	ref = sckpt_state_probe(state, hash, &probe);

	if (ref != SCKPT_NO_REF)
	{
		char	   *address = (char *) sckpt_state_address(state, ref);

		/* Header, values and a short key are two cache lines. */
		__builtin_prefetch(address);
		__builtin_prefetch(address + 64);
	}
	return ref;
}

/* Add an entry with `bytes` of zeroed caller's space; the key must not exist.  53200 when memory is out: nothing is changed then. */
extern SckptRef sckpt_state_insert(SckptState *state, uint32 hash, Size bytes);
/*
 * Remove an entry, taking it off the dirty list too; `bytes` as inserted.  Never fails.  If a version of it is stored in a
 * chunk (entry->chunk), that chunk's account is told.
 */
extern void sckpt_state_remove(SckptState *state, SckptRef ref, Size bytes);

/*
 * Of an entry that is INFLIGHT only the memory stays, REMOVED, until this frees it.  The chunk's account is told by the caller, who knows what has become of
 * the checkpoint.
 */
extern void sckpt_state_free_removed(SckptState *state, SckptRef ref);

/* Who is told of removed entries with a stored version, by the number of the chunk. */
typedef void (*SckptChunkAccount) (void *arg, uint32 chunk);
extern void sckpt_state_set_account(SckptState *state, SckptChunkAccount account, void *arg);

/* A chunk of `bytes` (not zeroed), and its release with the same size. 53200 as above. */
extern SckptRef sckpt_state_alloc(SckptState *state, Size bytes);
extern void sckpt_state_free(SckptState *state, SckptRef ref, Size bytes);
/* Bytes that a chunk asked for with `bytes` can really hold. */
extern Size sckpt_state_capacity(Size bytes);

/* Put an entry on the dirty list unless it is there. */
static inline void
sckpt_state_mark_dirty(SckptState *state, SckptRef ref)
{
	SckptStateBase *base = (SckptStateBase *) state;
	SckptEntry *entry = (SckptEntry *) sckpt_state_address(state, ref);

	if (entry->flags & SCKPT_ENTRY_DIRTY)
		return;
	entry->flags |= SCKPT_ENTRY_DIRTY;
	entry->prev_dirty = base->last_dirty;
	entry->next_dirty = SCKPT_NO_REF;
	if (base->last_dirty != SCKPT_NO_REF)
		((SckptEntry *) sckpt_state_address(state, base->last_dirty))->next_dirty = ref;
	else
		base->first_dirty = ref;
	base->last_dirty = ref;
	base->ndirty++;
}

/*
 * Head of the dirty list, first marked first: so results with keys that rise with time come to the sink's index in its order.
 * entry->next_dirty leads on.  While walking it, entries may be removed (take next_dirty before removing the entry at
 * hand), and not marked.
 */
static inline SckptRef
sckpt_state_first_dirty(SckptState *state)
{
	return ((SckptStateBase *) state)->first_dirty;
}

/*
 * Bring the dirty list into the order in which the sink is best visited: entries with result rows by their block, or nearly, then
 * the others by `order`, or without it as they were marked.  The cost is some walks over the list, and 32 MB of memory at most.
 */
struct SckptOperator;
typedef uint64 (*SckptStateOrder) (struct SckptOperator *operator, SckptRef ref);
extern void sckpt_state_arrange_dirty(SckptState *state, SckptStateOrder order, struct SckptOperator *operator);

static inline uint64
sckpt_state_dirty_count(SckptState *state)
{
	return ((SckptStateBase *) state)->ndirty;
}

/* After a checkpoint's commit: take every entry off the list and clear DIRTY and REWRITE. */
extern void sckpt_state_clear_dirty(SckptState *state);

/*
 * Take every entry off the dirty list, into an array in its order, and mark it INFLIGHT.  `refs` has room for all of them.
 */
extern void sckpt_state_detach_dirty(SckptState *state, SckptRef *refs);

/* Walk all entries, in no order; the table must not change meanwhile. *cursor starts at 0; SCKPT_NO_REF at the end. */
extern SckptRef sckpt_state_next(SckptState *state, uint64 *cursor);

extern uint64 sckpt_state_rows(SckptState *state);
/* Bytes of dynamic shared memory taken by this store. */
extern Size sckpt_state_bytes(SckptState *state);

#endif							/* SCKPT_STATE_H */
