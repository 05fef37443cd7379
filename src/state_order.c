/*-------------------------------------------------------------------------
 *
 * state_order.c
 *		Brings changed entries into the order in which the sink is best visited.
 *
 * Their places in that order are cut to 32 bits, of which entries that share
 * one are near each other anyway, put before their references, and sorted by
 * digits, the lowest first (H. H. Seward, 1954).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "state.h"

#define DIGIT_BITS			11
#define DIGITS				3		/* of 32 bits */

/* A place in some order, and a reference. */
#define PLACED(place, ref)	((uint64) (place) << 32 | (ref))
#define PLACED_DIGIT(placed, digit) (((placed) >> (32 + DIGIT_BITS * (digit))) & ((1 << DIGIT_BITS) - 1))

/* Sort by place; those of one place stay as they are.  Returns where the result is: in either array. */
static uint64 *
sort_placed(uint64 *from, uint64 *to, uint64 count)
{
	uint64		counts[DIGITS][1 << DIGIT_BITS] = {{0}};

	for (uint64 i = 0; i < count; i++)
	{
		for (int digit = 0; digit < DIGITS; digit++)
			counts[digit][PLACED_DIGIT(from[i], digit)]++;
	}
	for (int digit = 0; digit < DIGITS; digit++)
	{
		uint64	   *next = counts[digit];
		uint64	   *swap = from;
		uint64		at = 0;

		CHECK_FOR_INTERRUPTS();
		if (next[PLACED_DIGIT(from[0], digit)] == count)
			continue;			/* the same in all of them */
		for (int i = 0; i < 1 << DIGIT_BITS; i++)
		{
			uint64		here = next[i];

			next[i] = at;
			at += here;
		}
		for (uint64 i = 0; i < count; i++)
			to[next[PLACED_DIGIT(from[i], digit)]++] = from[i];
		from = to;
		to = swap;
	}
	return from;
}

/* Bring references into the order of their keys, which are used up; `space` for as many. */
static void
arrange(SckptRef *refs, uint64 *keys, uint64 *space, uint64 count)
{
	uint64		lowest = PG_UINT64_MAX;
	uint64		highest = 0;
	uint64	   *sorted;
	bool		ordered = true;
	int			shift = 0;

	for (uint64 i = 0; i < count; i++)
	{
		ordered &= i == 0 || keys[i - 1] <= keys[i];
		lowest = Min(lowest, keys[i]);
		highest = Max(highest, keys[i]);
	}
	if (ordered)
		return;
	while (((highest - lowest) >> shift) > PG_UINT32_MAX)
		shift++;
	for (uint64 i = 0; i < count; i++)
		keys[i] = PLACED((keys[i] - lowest) >> shift, refs[i]);
	sorted = sort_placed(keys, space, count);
	for (uint64 i = 0; i < count; i++)
		refs[i] = (SckptRef) sorted[i];
}

void
sckpt_state_arrange(SckptState *state, SckptRef *refs, uint64 count, SckptStateOrder order, struct SckptOperator *operator)
{
	uint64	   *keys = palloc_extended(count * sizeof(uint64), MCXT_ALLOC_HUGE);
	uint64	   *space = palloc_extended(count * sizeof(uint64), MCXT_ALLOC_HUGE);
	SckptRef   *rest = (SckptRef *) space;
	uint64		nplaced = 0;
	uint64		nrest = 0;

	/* Those with a known row to the front, with its block; the others' keys from the end. */
	for (uint64 i = 0; i < count; i++)
	{
		SckptRef	ref = refs[i];
		SckptEntry *entry = sckpt_state_address(state, ref);

		sckpt_state_prefetch_refs(state, refs, count, i);
		if ((entry->flags & SCKPT_ENTRY_EMITTED) && ItemPointerIsValid(&entry->tid))
		{
			keys[nplaced] = ItemPointerGetBlockNumber(&entry->tid);
			refs[nplaced++] = ref;
		}
		else
		{
			rest[nrest++] = ref;
			if (order)
				keys[count - nrest] = order(operator, ref);
		}
	}
	memcpy(refs + nplaced, rest, nrest * sizeof(SckptRef));
	arrange(refs, keys, space, nplaced);
	if (order)
	{
		for (uint64 i = 0; i < nrest / 2; i++)
		{
			uint64		key = keys[count - 1 - i];

			keys[count - 1 - i] = keys[count - nrest + i];
			keys[count - nrest + i] = key;
		}
		arrange(refs + nplaced, keys + nplaced, space, nrest);
	}
	pfree(keys);
	pfree(space);
}
