/*-------------------------------------------------------------------------
 *
 * state.c
 *		The state store of a stateful operator: a keyed hash table of flat
 *		entries in dynamic shared memory.
 *
 * Layers, from below (below them is area.c, which bounds the memory):
 *
 * Pieces and block numbers.  A piece is one DSA allocation: a block that
 * chunks are cut from, one chunk of more than 256 kB, or the slots of a part
 * of the hash table.  The first two are addressed by block numbers, one per
 * megabyte begun.  Blocks are a few pages short of 1 MB, since DSA's segments
 * are a few pages short of a power of two.
 *
 * Chunks.  Sizes are rounded to classes (every 8 bytes up to 256, then two
 * per power of two), each with a list of free chunks.  When a class has none,
 * a chunk is cut from the remaining range of the newest block, or else from
 * the largest free chunk, which becomes that range.  Free neighbours are not
 * joined.  Each block counts the bytes of it that are not on a free list;
 * when a quarter of the blocks count none they are given back, which is what
 * the closing of a window leaves behind.
 *
 * Hash table.  Removal shifts the following slots back, so there are no
 * tombstones.  Parts do not shrink.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "area.h"
#include "shared.h"
#include "state.h"

#define PAGE_BYTES			4096	/* what DSA hands out whole above 8 kB */
#define NUMBER_BYTES		((Size) SCKPT_REF_UNIT << SCKPT_BLOCK_BITS)
#define MAX_NUMBERS			(1 << (32 - SCKPT_BLOCK_BITS))
#define FIRST_BLOCK_BYTES	((Size) 8 * 1024)
#define LAST_BLOCK_BYTES	(NUMBER_BYTES - 4 * PAGE_BYTES)
#define GROWTH_FRACTION		8		/* between them a block adds an eighth */

/* Classes of chunk sizes. */
#define EXACT_BITS			8	/* up to 256 bytes in steps of 8 */
#define EXACT_CLASSES		((1 << EXACT_BITS) / SCKPT_REF_UNIT)
#define CHUNK_BITS			18	/* up to 256 kB in half powers of two */
#define CHUNK_CLASSES		(EXACT_CLASSES + 2 * (CHUNK_BITS - EXACT_BITS))
#define MAX_CHUNK_BYTES		((Size) 1 << CHUNK_BITS)

/* Slots of a part: from this size on they are a piece of their own, which doubling gives back. */
#define FIRST_PART_SLOTS	8
#define SLOTS_PIECE_BYTES	((Size) 1024)

/* Places of the dirty list: at first, and how many are kept when it is emptied. */
#define FIRST_DIRTY			UINT64CONST(64)
#define KEPT_DIRTY			(1024 * 1024)

/* Empty blocks worth a walk over the free lists. */
#define TRIM_MIN_BLOCKS		4
#define TRIM_FRACTION		4

StaticAssertDecl(CHUNK_CLASSES <= 64, "chunk classes must fit a bitmap");

/* A block number's piece, at the first of its numbers. */
typedef struct Piece
{
	dsa_pointer pointer;		/* invalid: number free, or not the piece's first */
	Size		bytes;
	bool		is_block;		/* chunks are cut from it */
	uint32		live;			/* of a block: bytes not on a free list */
} Piece;

struct SckptState
{
	SckptStateBase base;		/* must be first */
	MemoryContext context;
	MemoryContextCallback callback;
	Size		bytes;			/* of all pieces */
	uint64		rows;
	uint32		dirty_reserved; /* places of the dirty list, after its limit, for those that are detached */
	SckptChunkAccount account;	/* NULL: none */
	void	   *account_arg;

	/* Block numbers; number 0 is never used, so that no reference is 0. */
	Piece	   *pieces;
	uint32		nnumbers;		/* size of pieces[] and base.blocks[] */
	uint32		free_number;	/* none below it is free */

	/* Chunks. */
	uint32		nblocks;
	uint32		nempty;			/* blocks with live = 0 */
	SckptRef	range;			/* where the next chunk is cut off, counted as live */
	Size		range_bytes;
	uint64		free_classes;	/* bit set: the class has free chunks */
	SckptRef	free_chunks[CHUNK_CLASSES];

	/* Whose the slots of a part are: a piece, or a chunk, or none. */
	dsa_pointer slots_piece[SCKPT_PARTS];
	SckptRef	slots_chunk[SCKPT_PARTS];
	SckptSlot	no_slot;		/* shared by empty parts */
};

static void release_store(void *arg);


/* ---------- pieces and block numbers ---------- */

/* The first of `n` free numbers in a row, with room for them in the arrays. */
static uint32
find_numbers(SckptState *state, Size n)
{
	uint32		first;
	uint32		end;

	while (state->free_number < state->nnumbers &&
		   state->base.blocks[state->free_number] != NULL)
		state->free_number++;

	/* A run, be it the free end of the arrays. */
	first = state->free_number;
	for (end = first; end < state->nnumbers && end - first < n; end++)
	{
		if (state->base.blocks[end] != NULL)
			first = end + 1;
	}

	if (n > MAX_NUMBERS - first)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("could not extend the state of a pipeline"),
				 errdetail("The state of one task cannot exceed %d GB.",
						   MAX_NUMBERS / 1024)));
	if (first + n > state->nnumbers)
	{
		uint32		size = Max(first + n, Min(state->nnumbers * 2, MAX_NUMBERS));

		state->pieces = repalloc(state->pieces, size * sizeof(Piece));
		memset(state->pieces + state->nnumbers, 0,
			   (size - state->nnumbers) * sizeof(Piece));
		state->base.blocks = repalloc(state->base.blocks, size * sizeof(char *));
		memset(state->base.blocks + state->nnumbers, 0,
			   (size - state->nnumbers) * sizeof(char *));
		state->nnumbers = size;
	}
	return first;
}

static dsa_pointer
take_piece(SckptState *state, Size bytes)
{
	dsa_pointer pointer = sckpt_area_take(bytes);

	if (DsaPointerIsValid(pointer))
		state->bytes += bytes;
	return pointer;
}

static void
release_piece(SckptState *state, dsa_pointer pointer, Size bytes)
{
	sckpt_area_release(pointer, bytes);
	state->bytes -= bytes;
}

/* Numbers that a piece needs. */
static Size
count_numbers(Size bytes)
{
	return bytes / NUMBER_BYTES + (bytes % NUMBER_BYTES != 0);
}

/* Take a piece and number it.  Returns its first number, or 0 when memory is out. */
static uint32
take_numbered(SckptState *state, Size bytes, bool is_block)
{
	Size		n = count_numbers(bytes);
	uint32		first = find_numbers(state, n);
	dsa_pointer pointer = take_piece(state, bytes);
	char	   *address;
	Size		i;

	if (!DsaPointerIsValid(pointer))
		return 0;
	address = sckpt_area_address(pointer);
	for (i = 0; i < n; i++)
		state->base.blocks[first + i] = address + i * NUMBER_BYTES;
	state->pieces[first] = (Piece)
	{
		.pointer = pointer,
		.bytes = bytes,
		.is_block = is_block
	};
	if (is_block)
	{
		state->nblocks++;
		state->nempty++;
	}
	return first;
}

static void
release_numbered(SckptState *state, uint32 first)
{
	Piece	   *piece = &state->pieces[first];
	Size		n = count_numbers(piece->bytes);
	Size		i;

	if (piece->is_block)
	{
		Assert(piece->live == 0);
		state->nblocks--;
		state->nempty--;
	}
	release_piece(state, piece->pointer, piece->bytes);
	piece->pointer = InvalidDsaPointer;
	for (i = 0; i < n; i++)
		state->base.blocks[first + i] = NULL;
	state->free_number = Min(state->free_number, first);
}


/* ---------- chunks ---------- */

/* Bytes of a class: 8, 16 … 256, 384, 512, 768, 1024 … 256 kB. */
static Size
class_bytes(int class)
{
	int			step;

	if (class < EXACT_CLASSES)
		return (Size) (class + 1) * SCKPT_REF_UNIT;
	class -= EXACT_CLASSES;
	step = EXACT_BITS + class / 2;
	return class % 2 == 0 ? (Size) 3 << (step - 1) : (Size) 2 << step;
}

/* The smallest class that holds `bytes`. */
static int
class_above(Size bytes)
{
	int			bits;

	if (bytes <= (1 << EXACT_BITS))
		return bytes == 0 ? 0 : (bytes - 1) / SCKPT_REF_UNIT;
	bits = pg_leftmost_one_pos32((uint32) bytes - 1);
	return EXACT_CLASSES + 2 * (bits - EXACT_BITS) +
		(bytes > (Size) 3 << (bits - 1) ? 1 : 0);
}

/* The largest class that `bytes`, a multiple of 8, can be cut to. */
static int
class_below(Size bytes)
{
	int			class;

	if (bytes >= MAX_CHUNK_BYTES)
		return CHUNK_CLASSES - 1;
	class = class_above(bytes);
	return class_bytes(class) > bytes ? class - 1 : class;
}

static SckptRef
first_ref(uint32 number)
{
	return (SckptRef) number << SCKPT_BLOCK_BITS;
}

/* Bytes of a block leave the free lists, or go there. */
static void
add_live(SckptState *state, SckptRef ref, Size bytes)
{
	Piece	   *block = &state->pieces[ref >> SCKPT_BLOCK_BITS];

	if (block->live == 0)
		state->nempty--;
	block->live += bytes;
}

static void
sub_live(SckptState *state, SckptRef ref, Size bytes)
{
	Piece	   *block = &state->pieces[ref >> SCKPT_BLOCK_BITS];

	Assert(block->live >= bytes);
	block->live -= bytes;
	if (block->live == 0)
		state->nempty++;
}

/* A free chunk begins with the reference of the next one of its class. */
static void
push_chunk(SckptState *state, SckptRef ref, int class)
{
	*(SckptRef *) sckpt_state_address(state, ref) = state->free_chunks[class];
	state->free_chunks[class] = ref;
	state->free_classes |= UINT64CONST(1) << class;
	sub_live(state, ref, class_bytes(class));
}

static SckptRef
pop_chunk(SckptState *state, int class)
{
	SckptRef	ref = state->free_chunks[class];

	state->free_chunks[class] = *(SckptRef *) sckpt_state_address(state, ref);
	if (state->free_chunks[class] == SCKPT_NO_REF)
		state->free_classes &= ~(UINT64CONST(1) << class);
	add_live(state, ref, class_bytes(class));
	return ref;
}

/* Cut chunks off another range from now on; what is left of the old one becomes free chunks. */
static void
set_range(SckptState *state, SckptRef ref, Size bytes)
{
	while (state->range_bytes > 0)
	{
		int			class = class_below(state->range_bytes);

		push_chunk(state, state->range, class);
		state->range += class_bytes(class) / SCKPT_REF_UNIT;
		state->range_bytes -= class_bytes(class);
	}
	state->range = ref;
	state->range_bytes = bytes;
}

/* Make a new block, which holds `needed` bytes at least, the range. */
static void
add_block(SckptState *state, Size needed)
{
	Size		bytes = TYPEALIGN_DOWN(PAGE_BYTES, state->bytes / GROWTH_FRACTION);
	uint32		number;

	bytes = Max(Min(bytes, LAST_BLOCK_BYTES), FIRST_BLOCK_BYTES);
	bytes = Max(bytes, TYPEALIGN(PAGE_BYTES, needed));

	/* Near the limit, a smaller one is better than none. */
	while ((number = take_numbered(state, bytes, true)) == 0)
	{
		Size		half = TYPEALIGN_DOWN(PAGE_BYTES, bytes / 2);

		if (half < FIRST_BLOCK_BYTES || half < needed)
			sckpt_area_report_full(bytes);
		bytes = half;
	}
	add_live(state, first_ref(number), bytes);
	set_range(state, first_ref(number), bytes);
}

/*
 * Give empty blocks back: drop their chunks from the free lists first.  Its
 * cost is that of freeing the chunks in the lists, of which there is at
 * least a block's worth for every TRIM_FRACTION blocks.
 */
static void
trim_blocks(SckptState *state)
{
	uint32		number;
	int			class;

	for (class = 0; class < CHUNK_CLASSES; class++)
	{
		SckptRef   *link = &state->free_chunks[class];

		while (*link != SCKPT_NO_REF)
		{
			SckptRef   *next = sckpt_state_address(state, *link);

			if (state->pieces[*link >> SCKPT_BLOCK_BITS].live == 0)
				*link = *next;
			else
				link = next;
		}
		if (state->free_chunks[class] == SCKPT_NO_REF)
			state->free_classes &= ~(UINT64CONST(1) << class);
	}
	for (number = 1; number < state->nnumbers; number++)
	{
		Piece	   *piece = &state->pieces[number];

		if (DsaPointerIsValid(piece->pointer) && piece->is_block && piece->live == 0)
			release_numbered(state, number);
	}
}

SckptRef
sckpt_state_alloc(SckptState *state, Size bytes)
{
	SckptRef	ref;
	uint64		larger;
	int			class;

	if (bytes > MAX_CHUNK_BYTES)
	{
		Size		capacity = sckpt_state_capacity(bytes);
		uint32		number = take_numbered(state, capacity, false);

		if (number == 0)
			sckpt_area_report_full(capacity);
		return first_ref(number);
	}

	class = class_above(bytes);
	if (state->free_chunks[class] != SCKPT_NO_REF)
		return pop_chunk(state, class);

	bytes = class_bytes(class);
	if (state->range_bytes < bytes)
	{
		larger = state->free_classes & ~((UINT64CONST(1) << class) - 1);
		if (larger != 0)
		{
			class = pg_leftmost_one_pos64(larger);
			ref = pop_chunk(state, class);
			set_range(state, ref, class_bytes(class));
		}
		else
			add_block(state, bytes);
	}
	ref = state->range;
	state->range += bytes / SCKPT_REF_UNIT;
	state->range_bytes -= bytes;
	return ref;
}

void
sckpt_state_free(SckptState *state, SckptRef ref, Size bytes)
{
	if (bytes > MAX_CHUNK_BYTES)
	{
		Assert(state->pieces[ref >> SCKPT_BLOCK_BITS].bytes == sckpt_state_capacity(bytes));
		release_numbered(state, ref >> SCKPT_BLOCK_BITS);
		return;
	}
	push_chunk(state, ref, class_above(bytes));
	if (state->nempty >= TRIM_MIN_BLOCKS &&
		state->nempty >= state->nblocks / TRIM_FRACTION)
		trim_blocks(state);
}

Size
sckpt_state_capacity(Size bytes)
{
	if (bytes > MAX_CHUNK_BYTES)
		return TYPEALIGN(PAGE_BYTES, bytes);
	return class_bytes(class_above(bytes));
}


/* ---------- hash table ---------- */

static inline void
place_slot(SckptPart *part, SckptSlot slot)
{
	uint32		at = sckpt_state_home(slot.hash, part->mask);

	while (part->slots[at].ref != SCKPT_NO_REF)
		at = (at + 1) & part->mask;
	part->slots[at] = slot;
}

/* Double a part, or give it its first slots. */
static void
grow_part(SckptState *state, uint32 number)
{
	SckptPart  *part = &state->base.parts[number];
	SckptPart	old = *part;
	dsa_pointer old_piece = state->slots_piece[number];
	SckptRef	old_chunk = state->slots_chunk[number];
	Size		old_bytes = ((Size) old.mask + 1) * sizeof(SckptSlot);
	Size		bytes = old.mask == 0 ? FIRST_PART_SLOTS * sizeof(SckptSlot) : 2 * old_bytes;
	dsa_pointer piece = InvalidDsaPointer;
	SckptRef	chunk = SCKPT_NO_REF;
	uint32		i;

	if (bytes >= SLOTS_PIECE_BYTES)
	{
		piece = take_piece(state, bytes);
		if (!DsaPointerIsValid(piece))
			sckpt_area_report_full(bytes);
		part->slots = sckpt_area_address(piece);
	}
	else
	{
		chunk = sckpt_state_alloc(state, bytes);
		part->slots = sckpt_state_address(state, chunk);
	}
	memset(part->slots, 0, bytes);
	part->mask = bytes / sizeof(SckptSlot) - 1;
	state->slots_piece[number] = piece;
	state->slots_chunk[number] = chunk;

	for (i = 0; i <= old.mask; i++)
	{
		if (old.slots[i].ref != SCKPT_NO_REF)
			place_slot(part, old.slots[i]);
	}
	if (DsaPointerIsValid(old_piece))
		release_piece(state, old_piece, old_bytes);
	else if (old_chunk != SCKPT_NO_REF)
		sckpt_state_free(state, old_chunk, old_bytes);
}

SckptRef
sckpt_state_insert(SckptState *state, uint32 hash, Size bytes)
{
	SckptPart  *part = sckpt_state_part(state, hash);
	SckptEntry *entry;
	SckptSlot	slot;

	/* Five eighths full at most, so that most entries are in one of the first two places where they may be, and never without a free slot. */
	if (part->used >= ((uint64) part->mask + 1) * 5 / 8)
		grow_part(state, part - state->base.parts);

	bytes += SCKPT_ENTRY_HEADER;
	slot.hash = hash;
	slot.ref = sckpt_state_alloc(state, bytes);
	entry = sckpt_state_address(state, slot.ref);
	memset(entry, 0, bytes);
	entry->hash = hash;
	ItemPointerSetInvalid(&entry->tid);
	place_slot(part, slot);
	part->used++;
	state->rows++;
	return slot.ref;
}

void
sckpt_state_remove(SckptState *state, SckptRef ref, Size bytes)
{
	SckptEntry *entry = sckpt_state_address(state, ref);
	SckptPart  *part = sckpt_state_part(state, entry->hash);
	uint32		mask = part->mask;
	uint32		hole = sckpt_state_home(entry->hash, mask);
	uint32		at;

	if (entry->chunk != 0 && state->account && !(entry->flags & SCKPT_ENTRY_INFLIGHT))
		state->account(state->account_arg, entry->chunk);
	if (entry->flags & SCKPT_ENTRY_DIRTY)
	{
		state->base.dirty[entry->dirty_at] = SCKPT_NO_REF;
		state->base.ndirty--;
	}

	while (part->slots[hole].ref != ref)
	{
		Assert(part->slots[hole].ref != SCKPT_NO_REF);
		hole = (hole + 1) & mask;
	}

	/* Shift back every later slot of the run that is not between its home and the hole. */
	for (at = (hole + 1) & mask; part->slots[at].ref != SCKPT_NO_REF; at = (at + 1) & mask)
	{
		uint32		home = sckpt_state_home(part->slots[at].hash, mask);

		if (((at - home) & mask) >= ((at - hole) & mask))
		{
			part->slots[hole] = part->slots[at];
			hole = at;
		}
	}
	part->slots[hole].ref = SCKPT_NO_REF;
	part->used--;
	state->rows--;
	if (entry->flags & SCKPT_ENTRY_INFLIGHT)
	{
		/* What it has no use for any more tells how large it is. */
		entry->flags &= ~SCKPT_ENTRY_DIRTY;
		entry->flags |= SCKPT_ENTRY_REMOVED;
		entry->hash = (uint32) bytes;
		entry->dirty_at = (uint32) ((uint64) bytes >> 32);
		return;
	}
	sckpt_state_free(state, ref, SCKPT_ENTRY_HEADER + bytes);
}

void
sckpt_state_free_removed(SckptState *state, SckptRef ref)
{
	SckptEntry *entry = sckpt_state_address(state, ref);

	Assert(entry->flags & SCKPT_ENTRY_REMOVED);
	sckpt_state_free(state, ref, SCKPT_ENTRY_HEADER + (Size) ((uint64) entry->dirty_at << 32 | entry->hash));
}

void
sckpt_state_set_account(SckptState *state, SckptChunkAccount account, void *arg)
{
	state->account = account;
	state->account_arg = arg;
}

SckptRef
sckpt_state_next(SckptState *state, uint64 *cursor)
{
	uint32		number = *cursor >> 32;
	uint32		at = (uint32) *cursor;

	for (; number < SCKPT_PARTS; number++, at = 0)
	{
		SckptPart  *part = &state->base.parts[number];

		for (; at <= part->mask; at++)
		{
			if (part->slots[at].ref != SCKPT_NO_REF)
			{
				*cursor = ((uint64) number << 32) + at + 1;
				return part->slots[at].ref;
			}
		}
	}
	*cursor = (uint64) number << 32;
	return SCKPT_NO_REF;
}

/* ---------- the dirty list ---------- */

void
sckpt_state_enlarge_dirty(SckptState *state)
{
	SckptStateBase *base = &state->base;
	uint64		size;

	/* Half of it holes: close them. */
	if (base->ndirty < base->dirty_end / 2)
	{
		uint32		end = 0;

		for (uint32 at = 0; at < base->dirty_end; at++)
		{
			SckptRef	ref = base->dirty[at];

			if (ref == SCKPT_NO_REF)
				continue;
			((SckptEntry *) sckpt_state_address(state, ref))->dirty_at = end;
			base->dirty[end++] = ref;
		}
		base->dirty_end = end;
		return;
	}
	size = Max(FIRST_DIRTY, 2 * ((uint64) base->dirty_limit + state->dirty_reserved));
	size = Min(size, PG_UINT32_MAX);
	if (base->dirty == NULL)
		base->dirty = MemoryContextAlloc(state->context, size * sizeof(SckptRef));
	else
		base->dirty = repalloc_huge(base->dirty, size * sizeof(SckptRef));
	base->dirty_limit = (uint32) size - state->dirty_reserved;
}

void
sckpt_state_get_dirty(SckptState *state, SckptRef *refs)
{
	uint64		n = 0;

	for (uint32 at = 0; at < state->base.dirty_end; at++)
	{
		if (state->base.dirty[at] != SCKPT_NO_REF)
			refs[n++] = state->base.dirty[at];
	}
	Assert(n == state->base.ndirty);
}

void
sckpt_state_empty_dirty(SckptState *state)
{
	SckptStateBase *base = &state->base;

	/* What one large change took is not kept for all times. */
	if (base->dirty_limit > KEPT_DIRTY && state->dirty_reserved == 0)
	{
		pfree(base->dirty);
		base->dirty = NULL;
		base->dirty_limit = 0;
	}
	base->dirty_end = 0;
	base->ndirty = 0;
}

void
sckpt_state_clear_dirty(SckptState *state)
{
	uint32		at = 0;

	for (SckptRef ref; (ref = sckpt_state_next_dirty(state, &at)) != SCKPT_NO_REF;)
		((SckptEntry *) sckpt_state_address(state, ref))->flags &= ~(SCKPT_ENTRY_DIRTY | SCKPT_ENTRY_REWRITE);
	sckpt_state_empty_dirty(state);
}

void
sckpt_state_detach_dirty(SckptState *state)
{
	SckptStateBase *base = &state->base;
	uint32		at = 0;

	Assert(state->dirty_reserved == 0);
	for (SckptRef ref; (ref = sckpt_state_next_dirty(state, &at)) != SCKPT_NO_REF;)
	{
		SckptEntry *entry = sckpt_state_address(state, ref);

		entry->flags &= ~(SCKPT_ENTRY_DIRTY | SCKPT_ENTRY_REWRITE);
		entry->flags |= SCKPT_ENTRY_INFLIGHT;
	}

	/* They may have to come back, to stand after those marked meanwhile. */
	state->dirty_reserved = base->dirty_end;
	base->dirty_limit -= state->dirty_reserved;
	sckpt_state_empty_dirty(state);
}

void
sckpt_state_attach_dirty(SckptState *state)
{
	state->base.dirty_limit += state->dirty_reserved;
	state->dirty_reserved = 0;
}

/* ---------- stores ---------- */

SckptState *
sckpt_state_create(MemoryContext parent)
{
	MemoryContext context;
	SckptState *state;
	int			i;

	sckpt_shared_require();
	context = AllocSetContextCreate(parent, "stream_ckpt state", ALLOCSET_SMALL_SIZES);
	state = MemoryContextAllocZero(context, sizeof(SckptState));
	state->context = context;
	state->nnumbers = 16;
	state->base.blocks = MemoryContextAllocZero(context, state->nnumbers * sizeof(char *));
	state->pieces = MemoryContextAllocZero(context, state->nnumbers * sizeof(Piece));
	state->free_number = 1;
	for (i = 0; i < SCKPT_PARTS; i++)
		state->base.parts[i].slots = &state->no_slot;

	state->callback.func = release_store;
	state->callback.arg = state;
	MemoryContextRegisterResetCallback(context, &state->callback);
	return state;
}

/* Give a store's pieces back; called when its memory context goes, whoever deletes that. */
static void
release_store(void *arg)
{
	SckptState *state = arg;
	uint32		i;

	/* The last store of the process gives all up at once, with the area. */
	if (sckpt_area_close(state->bytes))
		return;

	for (i = 1; i < state->nnumbers; i++)
	{
		Piece	   *piece = &state->pieces[i];

		if (DsaPointerIsValid(piece->pointer))
			release_piece(state, piece->pointer, piece->bytes);
	}
	for (i = 0; i < SCKPT_PARTS; i++)
	{
		if (DsaPointerIsValid(state->slots_piece[i]))
			release_piece(state, state->slots_piece[i],
						  ((Size) state->base.parts[i].mask + 1) * sizeof(SckptSlot));
	}
	Assert(state->bytes == 0);
}

void
sckpt_state_destroy(SckptState *state)
{
	MemoryContextDelete(state->context);
}

uint64
sckpt_state_rows(SckptState *state)
{
	return state->rows;
}

Size
sckpt_state_bytes(SckptState *state)
{
	return state->bytes;
}
