/*-------------------------------------------------------------------------
 *
 * aggregate_rank.c
 *		Groups whose results are the first of their rows: DISTINCT ON, ranks,
 *		LIMIT.
 *
 * A group's rows are the elements of its only set, told apart by their images and counted.  They are sorted when results are asked for: by the
 * query's order, then by their images, so that it does not depend on when rows came.  Where the group is large and few of its rows are wanted, the last
 * one wanted is found first, and only the rows up to it are sorted.
 *
 * Where rows are never taken back, those after the last one wanted are let go: when half as many have come as are kept, all are sorted, and the last
 * one kept becomes the bound by which later rows are refused without a look at the set.  So a row costs a comparison, or a share of sorting.  Where one row is wanted, it is
 * the bound itself, and is replaced at once.
 *
 * What was handed on is the business of rank_handed.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "rank_private.h"

/* Sort all rows of a group unless there are so many times those wanted. */
#define SELECT_FACTOR 4

/* A row with its ranks. */
typedef struct RankedRow
{
	SckptElementValue *element;
	int64		ranks[3];		/* by SckptRankKind */
} RankedRow;

SckptRanker *
sckpt_ranker_create(SckptAggregate *agg)
{
	SckptRanker *ranker = palloc0(sizeof(SckptRanker));
	SckptRanking *ranking = agg->query->ranking;
	SckptSetColumns *set = &agg->query->sets[0];

	ranker->ranking = ranking;
	ranker->sorter = sckpt_sorter_create(&ranking->order, set);
	ranker->bound_values = palloc(Max(1, set->ncolumns) * sizeof(Datum));
	ranker->bound_nulls = palloc(Max(1, set->ncolumns) * sizeof(bool));
	if (agg->handed_offset)
		ranker->sources = sckpt_rank_sources(agg->query);
	for (int i = 0; i < agg->query->result->natts && ranker->sources; i++)
	{
		int			rank = ranker->sources[i] - agg->query->nkeys - set->ncolumns - 1;

		if (rank >= 0)
			ranker->wanted[rank] = true;
	}
	return ranker;
}

/* ---- Order ---- */

static int
compare_elements(const void *left, const void *right, void *arg)
{
	const SckptElementValue *a = left;
	const SckptElementValue *b = right;

	return sckpt_sorter_compare(((SckptRanker *) arg)->sorter, a->values, a->nulls, b->values, b->nulls);
}

static int
compare_heap(Datum left, Datum right, void *arg)
{
	return compare_elements(DatumGetPointer(left), DatumGetPointer(right), arg);
}

/* Is an element as good as another one: can it be a result if that is the last one? */
static bool
is_within(SckptRanker *ranker, const Datum *values, const bool *nulls, const Datum *last, const bool *last_nulls)
{
	if (ranker->ranking->kind == SCKPT_RANK_ROW_NUMBER)
		return sckpt_sorter_compare(ranker->sorter, values, nulls, last, last_nulls) <= 0;
	return sckpt_sorter_compare_order(ranker->sorter, values, nulls, last, last_nulls) <= 0;
}

static inline int64
copies_of(const SckptElementValue *element, bool handed)
{
	return handed ? element->handed : element->count;
}

/* The last element of those that come first and are as many as are wanted; false: there are fewer, or it cannot be said. */
static bool
find_last(SckptRanker *ranker, SckptElementValue *elements, uint64 count, bool handed, SckptElementValue *last)
{
	int64		limit = ranker->ranking->limit;
	binaryheap *heap;
	bool		found;

	heap = binaryheap_allocate((int) limit, compare_heap, ranker);
	for (uint64 i = 0; i < count; i++)
	{
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		if (copies_of(&elements[i], handed) == 0)
			continue;
		if (heap->bh_size < limit)
			binaryheap_add(heap, PointerGetDatum(&elements[i]));
		else if (compare_elements(&elements[i], DatumGetPointer(binaryheap_first(heap)), ranker) < 0)
			binaryheap_replace_first(heap, PointerGetDatum(&elements[i]));
	}
	found = heap->bh_size == limit;
	if (found)
		*last = *(SckptElementValue *) DatumGetPointer(binaryheap_first(heap));
	binaryheap_free(heap);
	return found;
}

/* Is it there, and as good as the last one? */
static inline bool
is_selected(SckptRanker *ranker, const SckptElementValue *element, bool handed, const SckptElementValue *last)
{
	return copies_of(element, handed) != 0 && (last == NULL || is_within(ranker, element->values, element->nulls, last->values, last->nulls));
}

uint64
sckpt_rank_select(SckptRanker *ranker, SckptElementValue *elements, uint64 count, bool handed)
{
	int64		limit = ranker->ranking->limit;
	SckptElementValue last[2];
	bool		found[2] = {false, false};
	uint64		n = 0;

	if (ranker->ranking->kind == SCKPT_RANK_DENSE_RANK || limit > PG_INT32_MAX / 16 || count / SELECT_FACTOR <= limit)
		return count;
	found[0] = find_last(ranker, elements, count, false, &last[0]);
	if (handed)
		found[1] = find_last(ranker, elements, count, true, &last[1]);
	for (uint64 i = 0; i < count; i++)
	{
		if (is_selected(ranker, &elements[i], false, found[0] ? &last[0] : NULL) ||
			(handed && is_selected(ranker, &elements[i], true, found[1] ? &last[1] : NULL)))
		{
			SckptElementValue element = elements[i];

			elements[i] = elements[n];
			elements[n++] = element;
		}
	}
	return n;
}

void
sckpt_rank_sort(SckptRanker *ranker, SckptElementValue *elements, uint64 count)
{
	for (uint64 i = 0; i < count; i++)
	{
		if (elements[i].count < 0)
			elog(ERROR, "a row was taken back more often than it was there");
	}
	if (count > 1)
		qsort_interruptible(elements, count, sizeof(SckptElementValue), compare_elements, ranker);
}

/* A group's elements in order; `all` of them, or at least those that are results. */
static SckptElementValue *
sorted_elements(SckptAggregate *agg, SckptRef ref, bool all, uint64 *count)
{
	SckptElementValue *elements = sckpt_sets_elements(agg->sets, ref, 0, count);
	uint64		n = 0;

	for (uint64 i = 0; i < *count; i++)
	{
		if (elements[i].count != 0)
			elements[n++] = elements[i];
	}
	*count = all || n < 2 ? n : sckpt_rank_select(agg->ranker, elements, n, false);
	sckpt_rank_sort(agg->ranker, elements, *count);
	return elements;
}

/* Step on to the next row; false: it is no result, nor are those after it. */
static bool
next_rank(SckptRanker *ranker, int64 *ranks, const SckptElementValue *element, const SckptElementValue *before)
{
	bool		tied = before &&
		sckpt_sorter_compare_order(ranker->sorter, element->values, element->nulls, before->values, before->nulls) == 0;

	ranks[SCKPT_RANK_ROW_NUMBER]++;
	if (!tied)
	{
		ranks[SCKPT_RANK_RANK] = ranks[SCKPT_RANK_ROW_NUMBER];
		ranks[SCKPT_RANK_DENSE_RANK]++;
	}
	return ranks[ranker->ranking->kind] <= ranker->ranking->limit;
}

SckptRankSpan *
sckpt_rank_spans(SckptRanker *ranker, const SckptElementValue *elements, uint64 count, bool handed)
{
	SckptRankSpan *spans = palloc_extended(Max(1, count) * sizeof(SckptRankSpan), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	const SckptElementValue *before = NULL;
	int64		ranks[3] = {0, 0, 0};

	for (uint64 i = 0; i < count; i++)
	{
		int64		copies = copies_of(&elements[i], handed);

		for (int64 copy = 0; copy < copies; copy++)
		{
			CHECK_FOR_INTERRUPTS();
			if (!next_rank(ranker, ranks, &elements[i], before))
				return spans;
			if (spans[i].copies++ == 0)
				memcpy(spans[i].ranks, ranks, sizeof(ranks));
			before = &elements[i];
		}
	}
	return spans;
}

/* The rows that are results, in order. */
static RankedRow *
rank_rows(SckptAggregate *agg, SckptRef ref, uint64 *count)
{
	uint64		nelements;
	SckptElementValue *elements = sorted_elements(agg, ref, false, &nelements);
	SckptRankSpan *spans = sckpt_rank_spans(agg->ranker, elements, nelements, false);
	RankedRow  *rows;

	*count = 0;
	for (uint64 i = 0; i < nelements; i++)
		*count += spans[i].copies;
	rows = palloc_extended(Max(1, *count) * sizeof(RankedRow), MCXT_ALLOC_HUGE);
	*count = 0;
	for (uint64 i = 0; i < nelements; i++)
	{
		for (int64 copy = 0; copy < spans[i].copies; copy++)
		{
			RankedRow  *row = &rows[(*count)++];

			row->element = &elements[i];
			memcpy(row->ranks, spans[i].ranks, sizeof(row->ranks));
			row->ranks[SCKPT_RANK_ROW_NUMBER] += copy;
		}
	}
	return rows;
}

/* ---- Taking rows in ---- */

static uint32
enough_rows(int64 kept)
{
	return (uint32) Min(kept + Max(1, kept / 2), PG_INT32_MAX);
}

/* Let go of elements that are no results, and learn the bound. */
static void
prune(SckptAggregate *agg, SckptRef ref, SckptEntry *entry)
{
	SckptAggRank *rank = entry_rank(agg, entry);
	uint64		count;
	SckptElementValue *elements = sorted_elements(agg, ref, true, &count);
	int64		ranks[3] = {0, 0, 0};
	int64		kept = 0;
	uint64		i;

	for (i = 0; i < count; i++)
	{
		int64		copy = 0;

		while (copy < elements[i].count &&
			   next_rank(agg->ranker, ranks, &elements[i], copy > 0 ? &elements[i] : i > 0 ? &elements[i - 1] : NULL))
		{
			copy++;
			/* Of what is there more often than anybody wants, it does not matter how often. */
			if (ranks[SCKPT_RANK_ROW_NUMBER] % 1024 == 0)
				CHECK_FOR_INTERRUPTS();
		}
		if (copy == 0)
			break;
		kept += copy;
		rank->bound = elements[i].ref;
		if (copy < elements[i].count)
		{
			i++;
			break;
		}
	}

	/* It is a bound only if nothing after it can be a result. */
	if (ranks[agg->ranker->ranking->kind] < agg->ranker->ranking->limit)
		rank->bound = SCKPT_NO_REF;
	rank->kept = (uint32) Min(kept, PG_UINT32_MAX);
	rank->enough = enough_rows(kept);
	for (; i < count; i++)
		sckpt_sets_clear(agg->sets, elements[i].ref);
}

/*
 * Where one row is wanted of a partition that only grows, the bound is that row.  A row that is within it takes its place.
 */
static bool
take_first(SckptAggregate *agg, SckptRef ref, SckptAggRank *rank, Datum *values, bool *nulls)
{
	SckptRanker *ranker = agg->ranker;
	SckptRef	before = rank->bound;
	SckptRef	now;

	/* The same row once more is the second one. */
	if (before != SCKPT_NO_REF &&
		sckpt_sorter_compare(ranker->sorter, values, nulls, ranker->bound_values, ranker->bound_nulls) == 0)
		return false;
	now = sckpt_sets_add(agg->sets, ref, 0, values, nulls, 1);
	rank->bound = now;
	rank->kept = 1;
	if (before != SCKPT_NO_REF)
		sckpt_sets_clear(agg->sets, before);
	return true;
}

void
sckpt_rank_prefetch(SckptAggregate *agg, const SckptRef *refs, int count)
{
	SckptState *elements = sckpt_sets_state(agg->sets);

	for (int i = 0; i < count; i++)
	{
		SckptRef	bound = SCKPT_NO_REF;

		if (refs[i] != SCKPT_NO_REF)
			bound = entry_rank(agg, (SckptEntry *) sckpt_state_address(agg->operator.state, refs[i]))->bound;
		if (bound != SCKPT_NO_REF)
		{
			char	   *element = sckpt_state_address(elements, bound);

			__builtin_prefetch(element);
			__builtin_prefetch(element + 64);
		}
	}
}

bool
sckpt_rank_take(SckptAggregate *agg, SckptRef ref, SckptEntry *entry, Datum *values, bool *nulls, int32 weight)
{
	SckptRanker *ranker = agg->ranker;
	SckptAggRank *rank = agg->rank_offset ? entry_rank(agg, entry) : NULL;

	sckpt_sorter_flatten(ranker->sorter, values, nulls);
	if (rank && rank->bound != SCKPT_NO_REF)
	{
		sckpt_sets_load(agg->sets, rank->bound, ranker->bound_values, ranker->bound_nulls);
		if (!is_within(ranker, values, nulls, ranker->bound_values, ranker->bound_nulls))
			return false;
	}
	if (rank && agg->undo == NULL && sckpt_query_is_single(agg->query) &&
		(rank->bound != SCKPT_NO_REF || sckpt_sets_is_empty(agg->sets, ref, 0)))
		return take_first(agg, ref, rank, values, nulls);
	sckpt_sets_add(agg->sets, ref, 0, values, nulls, weight);
	if (agg->undo)
		sckpt_undo_element(agg, ref, 0, values, nulls, weight);
	if (rank)
	{
		if (rank->enough == 0)
			rank->enough = enough_rows(ranker->ranking->limit);
		rank->kept++;
		if (rank->kept >= rank->enough && agg->undo == NULL)
			prune(agg, ref, entry);
	}
	return true;
}

void
sckpt_rank_flush(SckptAggregate *agg)
{
	MemoryContext old;
	uint32		at = 0;

	if (agg->rank_offset == 0)
		return;
	old = MemoryContextSwitchTo(agg->row_context);
	for (SckptRef ref; (ref = sckpt_state_next_dirty(agg->operator.state, &at)) != SCKPT_NO_REF;)
	{
		SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
		SckptAggRank *rank = entry_rank(agg, entry);

		if (rank->enough > 0 && rank->kept >= rank->enough)
		{
			prune(agg, ref, entry);
			MemoryContextReset(agg->row_context);
		}
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(old);
}

/* ---- Results ---- */

/* The columns of a group's row after its keys. */
static void
fill_group(SckptAggregate *agg, TupleTableSlot *group, const RankedRow *row)
{
	int			at = agg->query->nkeys;
	int			ncolumns = agg->ranker->sorter->ncolumns;

	memcpy(group->tts_values + at, row->element->values, ncolumns * sizeof(Datum));
	memcpy(group->tts_isnull + at, row->element->nulls, ncolumns * sizeof(bool));
	for (int i = 0; i < 3; i++)
	{
		group->tts_values[at + ncolumns + i] = Int64GetDatum(row->ranks[i]);
		group->tts_isnull[at + ncolumns + i] = false;
	}
}

bool
sckpt_rank_load_first(SckptAggregate *agg, SckptRef ref, TupleTableSlot *group)
{
	SckptAggRank *rank = agg->rank_offset ? entry_rank(agg, (SckptEntry *) sckpt_state_address(agg->operator.state, ref)) : NULL;
	SckptElementValue element;
	RankedRow	first = {&element, {1, 1, 1}};
	RankedRow  *rows;
	uint64		count;

	/* The last row that is a result is the first, unless others have come since it was found. */
	if (rank && rank->bound != SCKPT_NO_REF && rank->kept == 1 && sckpt_query_is_single(agg->query))
	{
		element.values = agg->ranker->bound_values;
		element.nulls = agg->ranker->bound_nulls;
		sckpt_sets_load(agg->sets, rank->bound, element.values, element.nulls);
		fill_group(agg, group, &first);
		return true;
	}
	rows = rank_rows(agg, ref, &count);
	if (count == 0)
		return false;
	fill_group(agg, group, &rows[0]);
	return true;
}

int
sckpt_rank_compare_tuples(MinimalTuple a, MinimalTuple b)
{
	int			order = memcmp(a, b, Min(a->t_len, b->t_len));

	return order != 0 ? order : a->t_len < b->t_len ? -1 : a->t_len > b->t_len;
}

static int
compare_tuples(const void *left, const void *right, void *arg)
{
	return sckpt_rank_compare_tuples(*(const MinimalTuple *) left, *(const MinimalTuple *) right);
}

void
sckpt_rank_sort_tuples(MinimalTuple *rows, uint64 count)
{
	for (uint64 i = 1; i < count; i++)
	{
		if (compare_tuples(&rows[i - 1], &rows[i], NULL) > 0)
		{
			qsort_interruptible(rows, count, sizeof(MinimalTuple), compare_tuples, NULL);
			return;
		}
	}
}

/* Number identical rows in their last column, which is not NULL, and so in their last bytes. */
void
sckpt_rank_number(MinimalTuple *rows, uint64 count)
{
	int64		number = 0;
	MinimalTuple first = NULL;

	for (uint64 i = 0; i < count; i++)
	{
		if (i > 0 && first->t_len == rows[i]->t_len && memcmp(first, rows[i], first->t_len) == 0)
		{
			number++;
			memcpy((char *) rows[i] + rows[i]->t_len - sizeof(int64), &number, sizeof(int64));
		}
		else
		{
			first = rows[i];
			number = 0;
		}
	}
	sckpt_rank_sort_tuples(rows, count);
}

MinimalTuple *
sckpt_rank_results(SckptAggregate *agg, SckptRef ref, uint64 *count)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
	TupleTableSlot *group = agg->group_slot;
	ExprContext *econtext = agg->projection->pi_exprContext;
	uint64		nrows;
	uint64		n = 0;
	RankedRow  *rows = rank_rows(agg, ref, &nrows);
	MinimalTuple *results = palloc_extended(Max(1, nrows) * sizeof(MinimalTuple), MCXT_ALLOC_HUGE);

	for (uint64 i = 0; i < nrows; i++)
	{
		TupleTableSlot *row;

		CHECK_FOR_INTERRUPTS();
		ResetExprContext(econtext);
		ExecClearTuple(group);
		sckpt_group_key_load(agg->key, entry_key(agg, entry), group->tts_values, group->tts_isnull);
		fill_group(agg, group, &rows[i]);
		ExecStoreVirtualTuple(group);
		if (!ExecQual(agg->having, econtext))
			continue;
		row = ExecProject(agg->projection);
		results[n++] = heap_form_minimal_tuple(row->tts_tupleDescriptor, row->tts_values, row->tts_isnull, 0);
	}
	ExecClearTuple(group);
	sckpt_rank_sort_tuples(results, n);
	if (n > 1 && agg->query->ranking->numbered)
		sckpt_rank_number(results, n);
	*count = n;
	return results;
}
