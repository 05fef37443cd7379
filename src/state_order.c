/*-------------------------------------------------------------------------
 *
 * state_order.c
 *		Brings changed entries into the order in which the sink is best visited.
 *
 * The list of changed entries is spread over as many lists as there are blocks
 * of the sink (or ranges of the key's order), which are joined then; what is
 * new is sorted by the order of its key, a run at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "state.h"

/* Lists that entries are spread over, and entries sorted at a time. */
#define MAX_BUCKETS			65536
#define RUN_ENTRIES			UINT64CONST(1000000)

/* Put an entry at the end of a list. */
static inline void
chain(SckptState *state, SckptRef *first, SckptRef *last, SckptRef ref, SckptEntry *entry)
{
	entry->prev_dirty = *last;
	entry->next_dirty = SCKPT_NO_REF;
	if (*last != SCKPT_NO_REF)
		((SckptEntry *) sckpt_state_address(state, *last))->next_dirty = ref;
	else
		*first = ref;
	*last = ref;
}

/* Has the entry a result row, as far as is known?  Then in which block of the sink. */
static inline bool
result_block(SckptEntry *entry, BlockNumber *block)
{
	if (!(entry->flags & SCKPT_ENTRY_EMITTED) || !ItemPointerIsValid(&entry->tid))
		return false;
	*block = ItemPointerGetBlockNumber(&entry->tid);
	return true;
}

/* An entry with its place in some order. */
typedef struct Ordered
{
	uint64		order;
	SckptRef	ref;
} Ordered;

/* Sort by the order, those of equal order as they are: by one byte after the other, from the last. */
static void
sort_run(Ordered *run, Ordered *space, uint32 n)
{
	uint32		counts[sizeof(uint64)][256] = {{0}};
	Ordered    *from = run;
	Ordered    *to = space;

	for (uint32 i = 0; i < n; i++)
	{
		for (int byte = 0; byte < sizeof(uint64); byte++)
			counts[byte][(run[i].order >> (8 * byte)) & 0xff]++;
	}
	for (int byte = 0; byte < sizeof(uint64); byte++)
	{
		uint32	   *count = counts[byte];
		Ordered    *swap = from;
		uint32		at = 0;

		if (count[(run[0].order >> (8 * byte)) & 0xff] == n)
			continue;			/* the same in all of them */
		for (int i = 0; i < 256; i++)
		{
			uint32		here = count[i];

			count[i] = at;
			at += here;
		}
		for (uint32 i = 0; i < n; i++)
			to[count[(from[i].order >> (8 * byte)) & 0xff]++] = from[i];
		from = to;
		to = swap;
	}
	if (from != run)
		memcpy(run, from, n * sizeof(Ordered));
}

/* How the dirty list, from an entry on, is spread over lists that are joined then. */
typedef struct Spread
{
	SckptStateOrder order;		/* by this, or NULL: by the block of the result row, those that have none last */
	struct SckptOperator *operator;
	uint64		lowest;
	uint64		highest;
} Spread;

/* Returns the first of those that come last for having no place. */
static SckptRef
spread(SckptState *state, SckptRef from, Spread *by)
{
	SckptRef	rest_first = SCKPT_NO_REF;
	SckptRef	rest_last = SCKPT_NO_REF;
	SckptStateBase *base = (SckptStateBase *) state;
	SckptRef	before = ((SckptEntry *) sckpt_state_address(state, from))->prev_dirty;
	SckptRef   *firsts;
	SckptRef   *lasts;
	uint32		nbuckets;
	int			shift = 0;

	while (((by->highest - by->lowest) >> shift) >= MAX_BUCKETS)
		shift++;
	nbuckets = ((by->highest - by->lowest) >> shift) + 1;
	firsts = palloc0(nbuckets * sizeof(SckptRef));
	lasts = palloc0(nbuckets * sizeof(SckptRef));

	/* Uninterruptible: half a list is no list. */
	for (SckptRef ref = from; ref != SCKPT_NO_REF;)
	{
		SckptEntry *entry = sckpt_state_address(state, ref);
		SckptRef	next = entry->next_dirty;
		BlockNumber block = 0;
		uint64		place;

		__builtin_prefetch(sckpt_state_address(state, next));
		if (by->order == NULL && !result_block(entry, &block))
			chain(state, &rest_first, &rest_last, ref, entry);
		else
		{
			place = ((by->order ? by->order(by->operator, ref) : block) - by->lowest) >> shift;
			chain(state, &firsts[place], &lasts[place], ref, entry);
		}
		ref = next;
	}
	for (uint32 i = 0; i <= nbuckets; i++)
	{
		SckptRef	first = i < nbuckets ? firsts[i] : rest_first;

		if (first == SCKPT_NO_REF)
			continue;
		((SckptEntry *) sckpt_state_address(state, first))->prev_dirty = before;
		if (before != SCKPT_NO_REF)
			((SckptEntry *) sckpt_state_address(state, before))->next_dirty = first;
		else
			base->first_dirty = first;
		before = i < nbuckets ? lasts[i] : rest_last;
	}
	base->last_dirty = before;
	pfree(firsts);
	pfree(lasts);
	return rest_first;
}

/* Bring the rest of the dirty list, from `ref` on, into an order, a run at a time.  The list is whole after each. */
static void
sort_rest(SckptState *state, SckptRef ref, uint64 count, SckptStateOrder order, struct SckptOperator *operator)
{
	SckptStateBase *base = (SckptStateBase *) state;
	uint64		most = Min(count, RUN_ENTRIES);
	Ordered    *run = palloc_extended(most * sizeof(Ordered), MCXT_ALLOC_HUGE);
	Ordered    *space = palloc_extended(most * sizeof(Ordered), MCXT_ALLOC_HUGE);

	while (ref != SCKPT_NO_REF)
	{
		SckptRef	before = ((SckptEntry *) sckpt_state_address(state, ref))->prev_dirty;
		bool		ordered = true;
		uint32		n = 0;

		CHECK_FOR_INTERRUPTS();
		for (; ref != SCKPT_NO_REF && n < most; n++)
		{
			run[n].ref = ref;
			run[n].order = order(operator, ref);
			ordered &= n == 0 || run[n].order >= run[n - 1].order;
			ref = ((SckptEntry *) sckpt_state_address(state, ref))->next_dirty;
			__builtin_prefetch(sckpt_state_address(state, ref));
		}
		if (ordered)
			continue;
		sort_run(run, space, n);
		for (uint32 i = 0; i < n; i++)
			chain(state, &base->first_dirty, &before, run[i].ref, sckpt_state_address(state, run[i].ref));
		if (ref == SCKPT_NO_REF)
			base->last_dirty = before;
		else
		{
			((SckptEntry *) sckpt_state_address(state, before))->next_dirty = ref;
			((SckptEntry *) sckpt_state_address(state, ref))->prev_dirty = before;
		}
	}
	pfree(run);
	pfree(space);
}

void
sckpt_state_arrange_dirty(SckptState *state, SckptStateOrder order, struct SckptOperator *operator)
{
	SckptStateBase *base = (SckptStateBase *) state;
	Spread		blocks = {NULL, NULL, 0, 0};
	Spread		orders = {order, operator, PG_UINT64_MAX, 0};
	SckptRef	rest = SCKPT_NO_REF;
	uint64		nrest = 0;
	uint64		previous = 0;
	uint64		previous_order = 0;
	bool		blocks_ordered = true;
	bool		rest_ordered = true;
	BlockNumber block;

	for (SckptRef ref = base->first_dirty; ref != SCKPT_NO_REF;)
	{
		SckptEntry *entry = sckpt_state_address(state, ref);

		__builtin_prefetch(sckpt_state_address(state, entry->next_dirty));
		if (result_block(entry, &block))
		{
			blocks_ordered &= block >= previous && nrest == 0;
			previous = block;
			blocks.highest = Max(blocks.highest, block);
		}
		else
		{
			if (nrest++ == 0)
				rest = ref;
			if (order)
			{
				uint64		place = order(operator, ref);

				rest_ordered &= place >= previous_order;
				previous_order = place;
				orders.lowest = Min(orders.lowest, place);
				orders.highest = Max(orders.highest, place);
			}
		}
		ref = entry->next_dirty;
	}
	if (!blocks_ordered)
		rest = spread(state, base->first_dirty, &blocks);
	if (rest_ordered)
		return;

	/* More than a run are brought near their places first, and all of them are in order then. */
	if (nrest > RUN_ENTRIES)
	{
		SckptRef	before = ((SckptEntry *) sckpt_state_address(state, rest))->prev_dirty;

		(void) spread(state, rest, &orders);
		rest = before == SCKPT_NO_REF ? base->first_dirty : ((SckptEntry *) sckpt_state_address(state, before))->next_dirty;
	}
	sort_rest(state, rest, nrest, order, operator);
}
