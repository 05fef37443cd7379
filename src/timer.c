/*-------------------------------------------------------------------------
 *
 * timer.c
 *		When entries of a store are due: an index of them by time.
 *
 * A list holds the entries whose times are in one quantum, and is named by the quantum's number (the time divided by the
 * quantum, rounded down).  A list exists while it has entries.
 *
 * Lists change with the times that are in use, which are few, entries with the rows: so adding to the list that was used last
 * costs neither the hash table nor the heap anything, and taking an entry out asks for its list only when it is the first there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "lib/pairingheap.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "timer.h"

#define FIRST_DUE_ENTRIES	256

/* The entries of one quantum. */
typedef struct TimerList
{
	int64		number;			/* of the quantum; the hash key */
	pairingheap_node node;
	SckptRef	first;
	struct TimerList *next_due;	/* while what is due is being looked for */
} TimerList;

struct SckptTimers
{
	SckptState *state;
	Size		link_offset;
	int64		quantum;
	HTAB	   *lists;
	pairingheap heap;			/* the same lists, lowest number first */
	TimerList  *last;			/* used last; NULL: none, or gone */
};

/* For bringing the entries of a list into order. */
typedef struct DueEntry
{
	int64		at;
	SckptRef	ref;
} DueEntry;

static inline SckptTimerLink *
link_of(SckptTimers *timers, SckptRef ref)
{
	return (SckptTimerLink *) ((char *) sckpt_state_address(timers->state, ref) + timers->link_offset);
}

static inline int64
quantum_number(SckptTimers *timers, int64 at)
{
	int64		number;

	if (timers->quantum == 1)
		return at;
	number = at / timers->quantum;
	/* C rounds towards zero. */
	return at % timers->quantum < 0 ? number - 1 : number;
}

/* A pairing heap keeps the largest on top: the lower number is the larger one. */
static int
compare_lists(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	int64		left = pairingheap_const_container(TimerList, node, a)->number;
	int64		right = pairingheap_const_container(TimerList, node, b)->number;

	return left < right ? 1 : left > right ? -1 : 0;
}

static int
compare_due(const void *a, const void *b)
{
	int64		left = ((const DueEntry *) a)->at;
	int64		right = ((const DueEntry *) b)->at;

	return left < right ? -1 : left > right ? 1 : 0;
}

SckptTimers *
sckpt_timers_create(MemoryContext parent, SckptState *state, Size link_offset, int64 quantum)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt timers", ALLOCSET_SMALL_SIZES);
	SckptTimers *timers = MemoryContextAllocZero(context, sizeof(SckptTimers));
	HASHCTL		control;

	Assert(quantum >= 1 && link_offset == MAXALIGN(link_offset));
	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(int64);
	control.entrysize = sizeof(TimerList);
	control.hcxt = context;
	timers->state = state;
	timers->link_offset = link_offset;
	timers->quantum = quantum;
	timers->lists = hash_create("stream_ckpt timer lists", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	timers->heap.ph_compare = compare_lists;
	return timers;
}

/* The list of a quantum, which must exist, or is made. */
static TimerList *
find_list(SckptTimers *timers, int64 number, bool make)
{
	TimerList  *list = timers->last;
	bool		found;

	if (list && list->number == number)
		return list;
	list = hash_search(timers->lists, &number, make ? HASH_ENTER : HASH_FIND, &found);
	if (!found)
	{
		if (!make)
			elog(ERROR, "timer list " INT64_FORMAT " is missing", number);
		list->first = SCKPT_NO_REF;
		pairingheap_add(&timers->heap, &list->node);
	}
	timers->last = list;
	return list;
}

void
sckpt_timers_add(SckptTimers *timers, SckptRef ref, int64 at)
{
	SckptTimerLink *link = link_of(timers, ref);
	TimerList  *list;

	Assert(link->at == SCKPT_NEVER);
	if (at == SCKPT_NEVER)
		return;

	/* What can fail comes first. */
	list = find_list(timers, quantum_number(timers, at), true);
	link->at = at;
	link->prev = SCKPT_NO_REF;
	link->next = list->first;
	if (list->first != SCKPT_NO_REF)
		link_of(timers, list->first)->prev = ref;
	list->first = ref;
}

void
sckpt_timers_remove(SckptTimers *timers, SckptRef ref)
{
	SckptTimerLink *link = link_of(timers, ref);

	if (link->at == SCKPT_NEVER)
		return;
	if (link->next != SCKPT_NO_REF)
		link_of(timers, link->next)->prev = link->prev;
	if (link->prev != SCKPT_NO_REF)
		link_of(timers, link->prev)->next = link->next;
	else
	{
		TimerList  *list = find_list(timers, quantum_number(timers, link->at), false);

		list->first = link->next;
		if (list->first == SCKPT_NO_REF)
		{
			timers->last = NULL;
			pairingheap_remove(&timers->heap, &list->node);
			hash_search(timers->lists, &list->number, HASH_REMOVE, NULL);
		}
	}
	link->at = SCKPT_NEVER;
	link->next = link->prev = SCKPT_NO_REF;
}

int64
sckpt_timers_first(SckptTimers *timers)
{
	int64		number;
	int64		first;

	if (pairingheap_is_empty(&timers->heap))
		return SCKPT_NEVER;
	number = pairingheap_container(TimerList, node, pairingheap_first(&timers->heap))->number;
	/* The quantum of the lowest times may begin before them. */
	return pg_mul_s64_overflow(number, timers->quantum, &first) ? PG_INT64_MIN : first;
}

/*
 * The lists up to a number, chained in their order.  They are taken off the heap and put back, so that no other list is looked
 * at; nothing in between can fail, interrupts included: that is half a microsecond a list.
 */
static TimerList *
due_lists(SckptTimers *timers, int64 number)
{
	TimerList  *first = NULL;
	TimerList **end = &first;

	while (!pairingheap_is_empty(&timers->heap))
	{
		TimerList  *list = pairingheap_container(TimerList, node, pairingheap_first(&timers->heap));

		if (list->number > number)
			break;
		pairingheap_remove_first(&timers->heap);
		*end = list;
		end = &list->next_due;
	}
	*end = NULL;
	for (TimerList *list = first; list != NULL; list = list->next_due)
		pairingheap_add(&timers->heap, &list->node);
	return first;
}

SckptRef *
sckpt_timers_due(SckptTimers *timers, int64 until, bool ordered, uint64 *count)
{
	TimerList  *list = due_lists(timers, quantum_number(timers, until));
	uint64		size = FIRST_DUE_ENTRIES;
	uint64		n = 0;
	DueEntry   *due;
	SckptRef   *refs;

	*count = 0;
	if (list == NULL)
		return NULL;
	due = palloc(size * sizeof(DueEntry));
	for (; list != NULL; list = list->next_due)
	{
		uint64		start = n;
		bool		sorted = true;	/* so far */

		for (SckptRef ref = list->first; ref != SCKPT_NO_REF;)
		{
			SckptTimerLink *link = link_of(timers, ref);

			/* Of the last list only a part may be due. */
			if (link->at <= until)
			{
				if (n == size)
				{
					size *= 2;
					due = repalloc_huge(due, size * sizeof(DueEntry));
				}
				if (n > start && due[n - 1].at > link->at)
					sorted = false;
				due[n].at = link->at;
				due[n++].ref = ref;
			}
			ref = link->next;
			CHECK_FOR_INTERRUPTS();
		}
		if (ordered && !sorted)
			qsort(due + start, n - start, sizeof(DueEntry), compare_due);
	}

	refs = palloc_extended(Max(1, n) * sizeof(SckptRef), MCXT_ALLOC_HUGE);
	for (uint64 i = 0; i < n; i++)
		refs[i] = due[i].ref;
	pfree(due);
	*count = n;
	return refs;
}
