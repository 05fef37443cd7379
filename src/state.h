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
	uint32		dirty_at;		/* its place on the dirty list, valid while DIRTY is set */
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
 * Nobody else looks into it.
 */
typedef struct SckptStateBase
{
	char	  **blocks;			/* address of each block number */
	SckptRef   *dirty;			/* the dirty list: first marked first, SCKPT_NO_REF in the place of what was removed */
	uint32		dirty_end;		/* of the places that are taken, */
	uint32		dirty_limit;	/* and of those that may be */
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
 * Functions that only prefetch are always inline: GCC takes calls of them for
 * calls without an effect, and drops them.
 *
 * Ask for the cache lines that a later find of this hash will need: first
 * that of the hash table, then (some rows later, when it has come) that of
 * the first entry with this hash, which is returned, or none.
 */
static pg_attribute_always_inline void
sckpt_state_prefetch(SckptState *state, uint32 hash)
{
	SckptPart  *part = sckpt_state_part(state, hash);

	__builtin_prefetch(&part->slots[sckpt_state_home(hash, part->mask)]);
}

static inline SckptRef
sckpt_state_prefetch_entry(SckptState *state, uint32 hash)
{
	SckptPart  *part = sckpt_state_part(state, hash);
	uint32		home = sckpt_state_home(hash, part->mask);
	SckptSlot	first = part->slots[home];
	SckptSlot	second = part->slots[(home + 1) & part->mask];
	uint32		is_first = -(uint32) (first.hash == hash);
	uint32		is_second = -(uint32) (second.hash == hash);
	SckptRef	ref = (first.ref & is_first) | (second.ref & is_second & ~is_first);

	/* Mostly it is in one of these two. In which, no processor can foresee: no branch hangs on it. */
	if (unlikely(ref == SCKPT_NO_REF))
	{
		SckptProbe	probe;

		ref = sckpt_state_probe(state, hash, &probe);
	}
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

/* Make room on the dirty list.  May renumber it: not while it is walked. */
extern void sckpt_state_enlarge_dirty(SckptState *state);

/* Put an entry, which is at that address, on the dirty list unless it is there. */
static inline void
sckpt_state_mark_entry(SckptState *state, SckptRef ref, SckptEntry *entry)
{
	SckptStateBase *base = (SckptStateBase *) state;

	if (entry->flags & SCKPT_ENTRY_DIRTY)
		return;
	if (unlikely(base->dirty_end == base->dirty_limit))
		sckpt_state_enlarge_dirty(state);
	entry->flags |= SCKPT_ENTRY_DIRTY;
	entry->dirty_at = base->dirty_end;
	base->dirty[base->dirty_end++] = ref;
	base->ndirty++;
}

/* The same, for whoever has no address of it. */
static inline void
sckpt_state_mark_dirty(SckptState *state, SckptRef ref)
{
	sckpt_state_mark_entry(state, ref, (SckptEntry *) sckpt_state_address(state, ref));
}

static inline uint64
sckpt_state_dirty_count(SckptState *state)
{
	return ((SckptStateBase *) state)->ndirty;
}

/*
 * For a walk over entries that are anywhere in memory: ask for the cache lines of some of them at a time, since what takes long
 * is not so much the lines as to find their pages, and that can be done for several at once.  Call it for each place: at every 16th it
 * asks for the 16 that come 32 later.
 */
#define SCKPT_PREFETCH_REFS 16

static pg_attribute_always_inline void
sckpt_state_prefetch_refs(SckptState *state, const SckptRef *refs, uint64 count, uint64 at)
{
	uint64		end;

	if (at % SCKPT_PREFETCH_REFS != 0)
		return;
	end = Min(count, at + 3 * SCKPT_PREFETCH_REFS);
	for (at = at == 0 ? 0 : at + 2 * SCKPT_PREFETCH_REFS; at < end; at++)
	{
		char	   *address = (char *) sckpt_state_address(state, refs[at]);

		__builtin_prefetch(address);
		__builtin_prefetch(address + 64);
	}
}

/* The same, beside it, for a walk that removes the entries: of the hash table's slots of those that have been asked for. */
static pg_attribute_always_inline void
sckpt_state_prefetch_slots(SckptState *state, const SckptRef *refs, uint64 count, uint64 at)
{
	uint64		end;

	if (at % SCKPT_PREFETCH_REFS != 0)
		return;
	end = Min(count, at + 2 * SCKPT_PREFETCH_REFS);
	for (at += SCKPT_PREFETCH_REFS; at < end; at++)
		sckpt_state_prefetch(state, ((SckptEntry *) sckpt_state_address(state, refs[at]))->hash);
}

/*
 * Walk the dirty list, first marked first.  *at starts at 0; SCKPT_NO_REF at the end.  While walking it, entries may be removed,
 * and not marked.
 */
static inline SckptRef
sckpt_state_next_dirty(SckptState *state, uint32 *at)
{
	SckptStateBase *base = (SckptStateBase *) state;

	while (*at < base->dirty_end)
	{
		SckptRef	ref = base->dirty[*at];

		sckpt_state_prefetch_refs(state, base->dirty, base->dirty_end, (*at)++);
		if (ref != SCKPT_NO_REF)
			return ref;
	}
	return SCKPT_NO_REF;
}

/* The dirty list without holes, into an array that has room for all of it. */
extern void sckpt_state_get_dirty(SckptState *state, SckptRef *refs);

/*
 * Bring entries into the order in which the sink is best visited: those with result rows by their block, then the others by
 * `order`, or without it as they are.  Takes 16 bytes for each of them meanwhile.
 */
struct SckptOperator;
typedef uint64 (*SckptStateOrder) (struct SckptOperator *operator, SckptRef ref);
extern void sckpt_state_arrange(SckptState *state, SckptRef *refs, uint64 count, SckptStateOrder order, struct SckptOperator *operator);

/* Take every entry off the dirty list, and clear DIRTY and REWRITE. */
extern void sckpt_state_clear_dirty(SckptState *state);
/* The same, when the caller has cleared them. */
extern void sckpt_state_empty_dirty(SckptState *state);

/*
 * Take every entry off the dirty list, and mark it INFLIGHT.  Room for them is kept until sckpt_state_attach_dirty(): right after it
 * those that are still there can be marked again, and that does not fail.
 */
extern void sckpt_state_detach_dirty(SckptState *state);
extern void sckpt_state_attach_dirty(SckptState *state);

/* Walk all entries, in no order; the table must not change meanwhile. *cursor starts at 0; SCKPT_NO_REF at the end. */
extern SckptRef sckpt_state_next(SckptState *state, uint64 *cursor);

extern uint64 sckpt_state_rows(SckptState *state);
/* Bytes of dynamic shared memory taken by this store. */
extern Size sckpt_state_bytes(SckptState *state);

#endif							/* SCKPT_STATE_H */
