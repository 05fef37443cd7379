/*-------------------------------------------------------------------------
 *
 * rank_handed.c
 *		What groups that rank have handed on, and handing on what has changed.
 *
 * Where columns of a result are columns of the row that it is made of, ranks and keys, a row handed on is not kept: each element knows how often
 * it was among the results (set.h), from which they can be told once more, as they were, with the ranks that they had.  That is not stored either: after a restore
 * all that is there has been handed on.
 *
 * Rows are kept in other cases: where they are computed by expressions, which may give something else another time, or the query was another one; where
 * the stage above has refused some; and where elements are about to be forgotten.  Then they are what counts, and are one after the other in a chunk of the entry:
 *
 *		SckptAggFlat | count | MinimalTuples, each aligned
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/primnodes.h"

#include "rank_private.h"

/* ---- What rows are made of ---- */

int *
sckpt_rank_sources(SckptQuery *query)
{
	int		   *sources = palloc(Max(1, query->result->natts) * sizeof(int));
	int			n = 0;
	ListCell   *lc;

	if (query->having)
		return NULL;
	foreach(lc, query->targetlist)
	{
		Node	   *expr = (Node *) lfirst_node(TargetEntry, lc)->expr;

		while (IsA(expr, RelabelType))
			expr = (Node *) ((RelabelType *) expr)->arg;
		if (IsA(expr, Var) && ((Var *) expr)->varattno > 0)
			sources[n++] = ((Var *) expr)->varattno;
		else if (IsA(expr, Const) && ((Const *) expr)->consttype == INT8OID && !((Const *) expr)->constisnull &&
				 DatumGetInt64(((Const *) expr)->constvalue) == 0)
			sources[n++] = SCKPT_RANK_ZERO;
		else
			return NULL;
	}
	return sources;
}

int
sckpt_rank_source(SckptAggregate *agg, int column)
{
	return agg->ranker->sources[column];
}

bool
sckpt_rank_knows_handed(SckptAggregate *agg)
{
	return agg->ranker && agg->ranker->sources;
}

/* A group's rows of that many spans, as they look; where `others` has the same as `spans`, none. */
static MinimalTuple *
form_rows(SckptAggregate *agg, SckptEntry *entry, const int *sources, const SckptElementValue *elements, const SckptRankSpan *spans,
		  uint64 nelements, bool (*same) (SckptRanker *ranker, const SckptRankSpan *a, const SckptRankSpan *b), const SckptRankSpan *others, uint64 *count)
{
	TupleDesc	desc = agg->query->result;
	int			nkeys = agg->query->nkeys;
	int			nset = agg->ranker->sorter->ncolumns;
	Datum	   *keys = palloc(Max(1, nkeys) * sizeof(Datum));
	bool	   *key_nulls = palloc(Max(1, nkeys) * sizeof(bool));
	Datum	   *values = palloc(Max(1, desc->natts) * sizeof(Datum));
	bool	   *nulls = palloc(Max(1, desc->natts) * sizeof(bool));
	MinimalTuple *rows;
	uint64		n = 0;

	for (uint64 i = 0; i < nelements; i++)
		n += spans[i].copies;
	rows = palloc_extended(Max(1, n) * sizeof(MinimalTuple), MCXT_ALLOC_HUGE);
	sckpt_group_key_load(agg->key, entry_key(agg, entry), keys, key_nulls);
	n = 0;
	for (uint64 i = 0; i < nelements; i++)
	{
		if (spans[i].copies == 0 || (others && same(agg->ranker, &spans[i], &others[i])))
			continue;
		for (int column = 0; column < desc->natts; column++)
		{
			int			source = sources[column] - 1;

			nulls[column] = source + 1 == SCKPT_RANK_ABSENT;
			values[column] = Int64GetDatum(0);
			if (source >= nkeys + nset)
				values[column] = Int64GetDatum(spans[i].ranks[source - nkeys - nset]);
			else if (source >= nkeys)
			{
				values[column] = elements[i].values[source - nkeys];
				nulls[column] = elements[i].nulls[source - nkeys];
			}
			else if (source >= 0)
			{
				values[column] = keys[source];
				nulls[column] = key_nulls[source];
			}
		}
		for (int64 copy = 0; copy < spans[i].copies; copy++)
		{
			CHECK_FOR_INTERRUPTS();
			for (int column = 0; column < desc->natts && copy > 0; column++)
			{
				if (sources[column] - 1 == nkeys + nset + SCKPT_RANK_ROW_NUMBER)
					values[column] = Int64GetDatum(spans[i].ranks[SCKPT_RANK_ROW_NUMBER] + copy);
			}
			rows[n++] = heap_form_minimal_tuple(desc, values, nulls, 0);
		}
	}
	sckpt_rank_sort_tuples(rows, n);
	*count = n;
	return rows;
}

/* Are these the same rows, as far as ranks are among their columns? */
static bool
same_span(SckptRanker *ranker, const SckptRankSpan *a, const SckptRankSpan *b)
{
	if (a->copies != b->copies)
		return false;
	for (int i = 0; i < 3; i++)
	{
		if (ranker->wanted[i] && a->ranks[i] != b->ranks[i])
			return false;
	}
	return true;
}

/* ---- Rows that are kept ---- */

MinimalTuple *
sckpt_rank_handed(SckptAggregate *agg, SckptEntry *entry, uint64 *count)
{
	SckptRef	ref = *entry_handed(agg, entry);
	MinimalTuple *rows;
	char	   *at;

	*count = 0;
	if (ref == SCKPT_NO_REF)
		return NULL;
	at = DatumGetPointer(sckpt_aggregate_flat_value(agg, ref));
	*count = *(uint64 *) at;
	at += MAXALIGN(sizeof(uint64));
	rows = palloc_extended(*count * sizeof(MinimalTuple), MCXT_ALLOC_HUGE);
	for (uint64 i = 0; i < *count; i++)
	{
		rows[i] = (MinimalTuple) at;
		at += MAXALIGN(rows[i]->t_len);
	}
	return rows;
}

void
sckpt_rank_keep_handed(SckptAggregate *agg, SckptEntry *entry, MinimalTuple *rows, uint64 count)
{
	Size		size = sizeof(SckptAggFlat) + MAXALIGN(sizeof(uint64));
	SckptRef	ref;
	char	   *at;

	for (uint64 i = 0; i < count; i++)
		size += MAXALIGN(rows[i]->t_len);
	size = sckpt_state_capacity(size);
	ref = sckpt_state_alloc(agg->operator.state, size);
	((SckptAggFlat *) sckpt_state_address(agg->operator.state, ref))->size = size;
	at = DatumGetPointer(sckpt_aggregate_flat_value(agg, ref));
	*(uint64 *) at = count;
	at += MAXALIGN(sizeof(uint64));
	for (uint64 i = 0; i < count; i++)
	{
		memcpy(at, rows[i], rows[i]->t_len);
		at += MAXALIGN(rows[i]->t_len);
	}
	*entry_handed(agg, entry) = ref;
}

/* The rows of a group, or with `handed` those that its elements know to have been handed on, made of these sources. */
static MinimalTuple *
known_rows(SckptAggregate *agg, SckptRef ref, SckptEntry *entry, const int *sources, bool handed, uint64 *count)
{
	uint64		n;
	SckptElementValue *elements = sckpt_sets_elements(agg->sets, ref, 0, &n);
	MinimalTuple *rows;

	n = sckpt_rank_select(agg->ranker, elements, n, handed);
	sckpt_rank_sort(agg->ranker, elements, n);
	rows = form_rows(agg, entry, sources, elements, sckpt_rank_spans(agg->ranker, elements, n, handed), n, NULL, NULL, count);
	if (agg->query->ranking->numbered)
		sckpt_rank_number(rows, *count);
	return rows;
}

void
sckpt_rank_keep_known(SckptAggregate *agg, SckptRef ref)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
	MinimalTuple *rows;
	uint64		count;

	if (*entry_handed(agg, entry) != SCKPT_NO_REF)
		return;
	rows = known_rows(agg, ref, entry, agg->ranker->sources, true, &count);
	if (count > 0)
		sckpt_rank_keep_handed(agg, entry, rows, count);
}

/* ---- Reading back ---- */

/* What the columns of rows handed on are made of, as a chunk of a former query says. */
static int *
former_sources(SckptAggregate *agg)
{
	SckptAggForm *form = agg->form;
	int			natts = agg->query->result->natts;
	int		   *sources = MemoryContextAlloc(agg->context, Max(1, natts) * sizeof(int));

	for (int i = 0; i < natts; i++)
		sources[i] = SCKPT_RANK_ABSENT;
	for (int i = 0; i < form->nhanded; i++)
	{
		int			source = form->sources[i];

		if (source < 0 || source > agg->query->nkeys + agg->ranker->sorter->ncolumns + 3)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("stored state of a pipeline is corrupted"),
					 errdetail("Nothing says what a group has handed on.")));
		if (source > 0 && source <= agg->query->nkeys)
			source = form->keys[source - 1] + 1;
		if (form->handed[i] >= 0)
			sources[form->handed[i]] = source;
	}
	return sources;
}

void
sckpt_rank_restore_known(SckptAggregate *agg, SckptEntry *entry)
{
	int		   *sources = agg->ranker->sources;

	if (agg->form->same && sources)
		return;
	if (agg->stored_sources == NULL)
		agg->stored_sources = former_sources(agg);

	/* Mostly something else has changed. */
	if (sources == NULL || memcmp(sources, agg->stored_sources, agg->query->result->natts * sizeof(int)) != 0)
		*entry_handed(agg, entry) = SCKPT_HANDED_UNREAD;
}

void
sckpt_rank_end_restore(SckptAggregate *agg)
{
	MemoryContext context;
	MemoryContext old;
	uint64		cursor = 0;
	SckptRef	ref;

	if (agg->stored_sources == NULL)
		return;
	context = AllocSetContextCreate(agg->context, "stream_ckpt rows handed on", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	while ((ref = sckpt_state_next(agg->operator.state, &cursor)) != SCKPT_NO_REF)
	{
		SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
		MinimalTuple *rows;
		uint64		count;

		CHECK_FOR_INTERRUPTS();
		if (*entry_handed(agg, entry) != SCKPT_HANDED_UNREAD)
			continue;
		*entry_handed(agg, entry) = SCKPT_NO_REF;
		rows = known_rows(agg, ref, entry, agg->stored_sources, false, &count);
		if (count > 0 || agg->ranker->sources)
			sckpt_rank_keep_handed(agg, entry, rows, count);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	pfree(agg->stored_sources);
	agg->stored_sources = NULL;
}

/* ---- Handing on ---- */

static bool
put_row(SckptAggregate *agg, MinimalTuple row, int32 weight, SckptPutAbove put, void *arg)
{
	bool		taken;

	ExecStoreMinimalTuple(row, agg->handed_slot, false);
	taken = put(arg, agg->handed_slot, weight);
	ExecClearTuple(agg->handed_slot);
	return taken;
}

/*
 * The difference of two lists sorted by images.  Rows that go are handed on before those that come; those that are refused are taken off the list.  True: there was a difference.
 */
static bool
put_difference(SckptAggregate *agg, MinimalTuple *before, uint64 nbefore, MinimalTuple *rows, uint64 *count, MemoryContext scratch,
			   SckptPutAbove put, void *arg)
{
	bool	   *isnew = MemoryContextAllocExtended(scratch, Max(1, *count), MCXT_ALLOC_HUGE);
	uint64		nkept = 0;
	uint64		i = 0;
	uint64		j = 0;
	bool		changed = false;

	while (i < nbefore || j < *count)
	{
		int			order = i == nbefore ? 1 : j == *count ? -1 : sckpt_rank_compare_tuples(before[i], rows[j]);

		CHECK_FOR_INTERRUPTS();
		if (order < 0)
		{
			(void) put_row(agg, before[i++], -1, put, arg);
			changed = true;
			continue;
		}
		if (order == 0)
			i++;
		changed |= order > 0;
		isnew[j++] = order > 0;
	}
	for (j = 0; j < *count; j++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!isnew[j] || put_row(agg, rows[j], 1, put, arg))
			rows[nkept++] = rows[j];
	}
	*count = nkept;
	return changed;
}

/* Those kept with the entry; what has been stored and read back may look different. */
static MinimalTuple *
kept_rows(SckptAggregate *agg, SckptEntry *entry, uint64 *count)
{
	MinimalTuple *rows = sckpt_rank_handed(agg, entry, count);

	sckpt_rank_sort_tuples(rows, *count);
	return rows;
}

void
sckpt_rank_hand_on(SckptAggregate *agg, SckptEntry *entry, MinimalTuple *rows, uint64 count, MemoryContext scratch, SckptPutAbove put, void *arg)
{
	MemoryContext old = MemoryContextSwitchTo(scratch);
	uint64		nbefore;
	MinimalTuple *before = kept_rows(agg, entry, &nbefore);

	MemoryContextSwitchTo(old);
	if (!put_difference(agg, before, nbefore, rows, &count, scratch, put, arg))
		return;
	sckpt_aggregate_release_handed(agg, entry);
	if (count > 0)
		sckpt_rank_keep_handed(agg, entry, rows, count);
}

void
sckpt_rank_hand_on_known(SckptAggregate *agg, SckptRef ref, SckptEntry *entry, bool whole, MemoryContext scratch, SckptPutAbove put, void *arg)
{
	SckptRanker *ranker = agg->ranker;
	bool		kept = *entry_handed(agg, entry) != SCKPT_NO_REF;
	uint64		n;
	SckptElementValue *elements;
	MemoryContext old = MemoryContextSwitchTo(scratch);
	SckptRankSpan *was;
	SckptRankSpan *is;
	MinimalTuple *before;
	MinimalTuple *rows;
	uint64		nall;
	uint64		nbefore;
	uint64		count;
	uint64		ncoming;

	elements = sckpt_sets_elements(agg->sets, ref, 0, &nall);
	n = sckpt_rank_select(ranker, elements, nall, true);
	sckpt_rank_sort(ranker, elements, n);
	was = sckpt_rank_spans(ranker, elements, n, true);
	is = sckpt_rank_spans(ranker, elements, n, false);
	if (entry->flags & SCKPT_ENTRY_RETRACT)
		memset(is, 0, n * sizeof(SckptRankSpan));

	/* Where rows are numbered, each depends on those that look alike. */
	whole |= kept || ranker->ranking->numbered;
	rows = form_rows(agg, entry, ranker->sources, elements, is, n, same_span, whole ? NULL : was, &count);
	if (kept)
		before = kept_rows(agg, entry, &nbefore);
	else
		before = form_rows(agg, entry, ranker->sources, elements, was, n, same_span, whole ? NULL : is, &nbefore);
	if (ranker->ranking->numbered)
	{
		sckpt_rank_number(rows, count);
		if (!kept)
			sckpt_rank_number(before, nbefore);
	}
	ncoming = count;
	MemoryContextSwitchTo(old);
	(void) put_difference(agg, before, nbefore, rows, &count, scratch, put, arg);
	if (kept)
		sckpt_aggregate_release_handed(agg, entry);
	if (count < ncoming)
	{
		Assert(whole);
		sckpt_rank_keep_handed(agg, entry, rows, count);
		memset(is, 0, n * sizeof(SckptRankSpan));
	}

	/* Those that were not selected are no results, nor were they, whatever is known of them since a restore. */
	for (uint64 i = n; i < nall; i++)
	{
		if (elements[i].handed != 0)
			sckpt_sets_mark_handed(agg->sets, elements[i].ref, 0);
	}
	for (uint64 i = 0; i < n; i++)
	{
		Assert(is[i].copies <= PG_UINT32_MAX);
		if (elements[i].handed != is[i].copies || elements[i].count == 0)
			sckpt_sets_mark_handed(agg->sets, elements[i].ref, (uint32) is[i].copies);
	}
}
