/*-------------------------------------------------------------------------
 *
 * aggregate_close.c
 *		When groups close or are forgotten, and leave; handing results on to
 *		the stage above.
 *
 * A group closes when the watermark has passed the end of each of its windows, by their delays and the pipeline's
 * lateness; what closes first decides, since a row is in all windows of its group.  A group is forgotten when the clock has passed its last
 * touch by state_ttl.  Both are found by timers whose registered times are lower bounds: sessions grow, and groups are touched.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "aggregate_private.h"
#include "compat.h"
#include "careful.h"

/* ---- When ---- */

/* One rule for each window among the keys; its end, where both bounds are. */
SckptAggDue *
sckpt_aggregate_dues(SckptQuery *query, int *count)
{
	SckptAggDue *dues = palloc0(Max(1, query->nkeys) * sizeof(SckptAggDue));

	*count = 0;
	for (int i = 0; i < query->nkeys - query->nsession; i++)
	{
		SckptKey   *key = &query->keys[i];
		bool		better = false;

		if (key->bound == SCKPT_BOUND_NONE || key->window == NULL)
			continue;
		for (int j = 0; j < query->nkeys && key->bound == SCKPT_BOUND_START; j++)
			better |= query->keys[j].window == key->window && query->keys[j].bound == SCKPT_BOUND_END;
		if (better)
			continue;
		dues[(*count)++] = (SckptAggDue)
		{
			.key = i,
			.bound = key->bound,
			.window = key->window,
			.delay = add_time(key->delay, query->lateness)
		};
	}
	return dues;
}

int64
sckpt_aggregate_due_of(const SckptAggDue *dues, int count, const Datum *values, const bool *nulls)
{
	int64		due = SCKPT_NEVER;

	for (int i = 0; i < count; i++)
	{
		const SckptAggDue *rule = &dues[i];
		int64		end;

		if (nulls[rule->key])
			continue;
		end = DatumGetTimestampTz(values[rule->key]);
		if (rule->bound == SCKPT_BOUND_START)
			end = sckpt_window_end_of(rule->window, end);
		due = Min(due, add_time(end, rule->delay));
	}
	return due;
}

int64
sckpt_aggregate_due(SckptAggregate *agg, SckptEntry *entry, const Datum *values, const bool *nulls)
{
	if (agg->sessions)
		return agg->query->windows[0].closes ? add_time(entry_session(agg, entry)->end, agg->query->lateness) : SCKPT_NEVER;
	return sckpt_aggregate_due_of(agg->dues, agg->ndues, values, nulls);
}

static int64
forget_time(SckptAggregate *agg, SckptEntry *entry)
{
	if (agg->touched_offset == 0 || *entry_touched(agg, entry) == DT_NOBEGIN)
		return SCKPT_NEVER;
	return add_time(*entry_touched(agg, entry), agg->query->ttl);
}

void
sckpt_aggregate_register(SckptAggregate *agg, SckptRef ref, const Datum *values, const bool *nulls)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
	int64		at = Min(sckpt_aggregate_due(agg, entry, values, nulls), forget_time(agg, entry));

	sckpt_timers_remove(agg->timers, ref);
	if (at != SCKPT_NEVER)
		sckpt_timers_add(agg->timers, ref, at);
}

TimestampTz
sckpt_aggregate_next_close(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	return agg->timers ? sckpt_timers_first(agg->timers) : DT_NOEND;
}

typedef struct Closing
{
	int64		due;
	SckptRef	ref;
} Closing;

static int
compare_due(const void *a, const void *b)
{
	int64		x = ((const Closing *) a)->due;
	int64		y = ((const Closing *) b)->due;

	return x < y ? -1 : x > y;
}

/* Groups all of whose rows were taken back. */
static void
leave_empty(SckptAggregate *agg)
{
	SckptState *state = agg->operator.state;
	uint32		at = 0;

	for (SckptRef ref; (ref = sckpt_state_next_dirty(state, &at)) != SCKPT_NO_REF;)
	{
		SckptEntry *entry = sckpt_state_address(state, ref);

		if (*entry_weight(agg, entry) == 0)
			entry->flags |= SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_RETRACT | SCKPT_ENTRY_GONE;
		CHECK_FOR_INTERRUPTS();
	}
}

SckptRef *
sckpt_aggregate_close(SckptOperator *operator, const SckptTimes *times, uint64 *count)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	SckptRef   *due;
	Closing    *closing;
	uint64		ndue;
	uint64		n = 0;
	bool		sorted = true;
	Datum	   *values;
	bool	   *nulls;

	*count = 0;
	if (agg->weight_offset && agg->query->nkeys > 0)
		leave_empty(agg);
	if (agg->timers == NULL || times->clock == DT_NOBEGIN)
		return NULL;
	due = sckpt_timers_due(agg->timers, times->clock, true, &ndue);
	closing = MemoryContextAllocExtended(CurrentMemoryContext, Max(1, ndue) * sizeof(Closing), MCXT_ALLOC_HUGE);
	values = palloc(Max(1, agg->key->ncolumns) * sizeof(Datum));
	nulls = palloc(Max(1, agg->key->ncolumns) * sizeof(bool));
	for (uint64 i = 0; i < ndue; i++)
	{
		SckptEntry *entry = sckpt_state_address(operator->state, due[i]);
		int64		closes;

		CHECK_FOR_INTERRUPTS();
		if (entry->flags & SCKPT_ENTRY_RETRACT)
			continue;
		sckpt_group_key_load(agg->key, entry_key(agg, entry), values, nulls);
		closes = sckpt_aggregate_due(agg, entry, values, nulls);

		/* What is earlier decides, not which of the two a barrier saw first. */
		if (closes <= times->clock && closes <= forget_time(agg, entry))
		{
			sorted &= n == 0 || closing[n - 1].due <= closes;
			closing[n].due = closes;
			closing[n++].ref = due[i];
		}
		else if (forget_time(agg, entry) <= times->clock && agg->query->nkeys == 0)
		{
			/* The only group becomes the one over no rows. */
			sckpt_timers_remove(agg->timers, due[i]);
			sckpt_aggregate_reset(agg, due[i]);
			*entry_touched(agg, entry) = DT_NOBEGIN;
			sckpt_state_mark_dirty(operator->state, due[i]);
			entry->flags &= ~SCKPT_ENTRY_REWRITE;
			continue;
		}
		else if (forget_time(agg, entry) <= times->clock)
			entry->flags |= SCKPT_ENTRY_RETRACT;
		else
		{
			sckpt_aggregate_register(agg, due[i], values, nulls);
			continue;
		}
		if (!(entry->flags & SCKPT_ENTRY_DIRTY))
		{
			/* Its result is what the sink has. */
			sckpt_state_mark_dirty(operator->state, due[i]);
			entry->flags |= SCKPT_ENTRY_REWRITE;
		}
		entry->flags |= SCKPT_ENTRY_LEAVING;
	}
	if (!sorted)
		qsort(closing, n, sizeof(Closing), compare_due);
	for (uint64 i = 0; i < n; i++)
		due[i] = closing[i].ref;
	pfree(closing);
	*count = n;
	return due;
}

/* ---- Leaving ---- */

static void
release_parts(SckptAggregate *agg, SckptRef ref)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
	SckptAggValue *values = entry_values(entry);

	for (int i = 0; i < agg->ncalls; i++)
	{
		if (agg->calls[i].mode != SCKPT_CALL_COLLECT)
			sckpt_aggregate_release(agg, &agg->calls[i], &values[i]);
	}
	if (agg->sets)
		sckpt_sets_drop(agg->sets, ref);
}

void
sckpt_aggregate_release_handed(SckptAggregate *agg, SckptEntry *entry)
{
	SckptRef   *handed = entry_handed(agg, entry);

	if (*handed != SCKPT_NO_REF && *handed != SCKPT_HANDED_UNREAD)
		sckpt_state_free(agg->operator.state, *handed,
						 ((SckptAggFlat *) sckpt_state_address(agg->operator.state, *handed))->size);
	*handed = SCKPT_NO_REF;
}

void
sckpt_aggregate_remove(SckptOperator *operator, bool elements, SckptRef ref)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	SckptEntry *entry;
	MemoryContext old;
	Datum	   *values;
	bool	   *nulls;
	Size		bytes;

	if (elements)
	{
		sckpt_sets_remove(agg->sets, ref);
		return;
	}
	entry = sckpt_state_address(operator->state, ref);
	old = MemoryContextSwitchTo(agg->row_context);
	values = palloc(Max(1, agg->key->ncolumns) * sizeof(Datum));
	nulls = palloc(Max(1, agg->key->ncolumns) * sizeof(bool));
	if (agg->timers)
		sckpt_timers_remove(agg->timers, ref);
	if (agg->sessions)
		sckpt_session_forget(agg, ref);
	release_parts(agg, ref);
	if (agg->handed_offset)
		sckpt_aggregate_release_handed(agg, entry);
	sckpt_group_key_load(agg->key, entry_key(agg, entry), values, nulls);
	bytes = sckpt_aggregate_entry_bytes(agg, values, nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
	sckpt_state_remove(operator->state, ref, bytes);
}

void
sckpt_aggregate_reset(SckptAggregate *agg, SckptRef ref)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);

	if (sckpt_rank_knows_handed(agg))
		sckpt_rank_keep_known(agg, ref);
	release_parts(agg, ref);
	if (agg->sets)
		entry_head(agg, entry)->id = sckpt_aggregate_new_id(agg);
	if (agg->weight_offset)
		*entry_weight(agg, entry) = 0;
	entry->flags &= ~(SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_RETRACT);
	sckpt_aggregate_initialize(agg, ref);
}

/* ---- Handing on ---- */

/* The row that was handed on, in a slot; false: none was. */
static bool
load_handed(SckptAggregate *agg, SckptEntry *entry)
{
	SckptRef	ref = *entry_handed(agg, entry);

	if (ref == SCKPT_NO_REF)
		return false;
	ExecStoreMinimalTuple((MinimalTuple) DatumGetPointer(sckpt_aggregate_flat_value(agg, ref)), agg->handed_slot, false);
	return true;
}

static bool
same_row(SckptAggregate *agg, SckptEntry *entry, MinimalTuple row)
{
	SckptRef	ref = *entry_handed(agg, entry);
	MinimalTuple handed;

	if (ref == SCKPT_NO_REF || row == NULL)
		return ref == SCKPT_NO_REF && row == NULL;
	handed = (MinimalTuple) DatumGetPointer(sckpt_aggregate_flat_value(agg, ref));
	return handed->t_len == row->t_len && memcmp(handed, row, row->t_len) == 0;
}

void
sckpt_aggregate_keep_handed(SckptAggregate *agg, SckptEntry *entry, MinimalTuple row)
{
	Size		size = sckpt_state_capacity(sizeof(SckptAggFlat) + row->t_len);
	SckptRef	ref = sckpt_state_alloc(agg->operator.state, size);

	((SckptAggFlat *) sckpt_state_address(agg->operator.state, ref))->size = size;
	memcpy(DatumGetPointer(sckpt_aggregate_flat_value(agg, ref)), row, row->t_len);
	*entry_handed(agg, entry) = ref;
}

/* A result on its way, which may raise a data error. */
typedef struct ResultWork
{
	SckptOperator *operator;
	SckptRef	ref;
	TupleTableSlot **slot;
	bool		result;
} ResultWork;

static void
compute_result(void *arg)
{
	ResultWork *work = arg;

	work->result = work->operator->result(work->operator, work->ref, work->slot);
}

/* The results of a group that ranks, on their way. */
typedef struct RankWork
{
	SckptAggregate *agg;
	SckptRef	ref;
	MemoryContext context;
	MinimalTuple *rows;
	uint64		count;
} RankWork;

static void
compute_ranks(void *arg)
{
	RankWork   *work = arg;
	MemoryContext old = MemoryContextSwitchTo(work->context);

	work->rows = sckpt_rank_results(work->agg, work->ref, &work->count);
	MemoryContextSwitchTo(old);
}

static MinimalTuple *
get_ranks(SckptAggregate *agg, SckptRef ref, MemoryContext context, SckptBadResult bad, void *arg, uint64 *count)
{
	RankWork	work = {agg, ref, context, NULL, 0};
	ErrorData  *error = NULL;

	if (bad == NULL)
		compute_ranks(&work);
	else
		error = sckpt_careful_try(compute_ranks, &work);
	if (error)
	{
		bad(arg, ref, error);
		FreeErrorData(error);
		work.count = 0;
	}
	*count = work.count;
	return work.rows;
}

static bool
get_result(SckptAggregate *agg, SckptRef ref, TupleTableSlot **slot, SckptBadResult bad, void *arg)
{
	ResultWork	work = {&agg->operator, ref, slot, false};
	ErrorData  *error;

	if (bad == NULL)
		return agg->operator.result(&agg->operator, ref, slot);
	error = sckpt_careful_try(compute_result, &work);
	if (error)
	{
		bad(arg, ref, error);
		FreeErrorData(error);
		return false;
	}
	return work.result;
}

/* Take the row last handed on back, and hand the one of today on, if they differ. */
static void
hand_on_change(SckptAggregate *agg, SckptRef ref, SckptEntry *entry, MemoryContext scratch,
			   SckptPutAbove put, SckptBadResult bad, void *arg)
{
	TupleTableSlot *slot;
	MinimalTuple row = NULL;
	MemoryContext old;

	if (agg->ranker)
	{
		MinimalTuple *rows = NULL;
		uint64		count = 0;

		if (sckpt_rank_knows_handed(agg))
		{
			sckpt_rank_hand_on_known(agg, ref, entry, bad != NULL, scratch, put, arg);
			return;
		}
		if (!(entry->flags & SCKPT_ENTRY_RETRACT))
			rows = get_ranks(agg, ref, scratch, bad, arg, &count);
		sckpt_rank_hand_on(agg, entry, rows, count, scratch, put, arg);
		return;
	}
	if (!(entry->flags & SCKPT_ENTRY_RETRACT) && get_result(agg, ref, &slot, bad, arg))
	{
		old = MemoryContextSwitchTo(scratch);
		slot_getallattrs(slot);
		row = heap_form_minimal_tuple(slot->tts_tupleDescriptor, slot->tts_values, slot->tts_isnull, 0);
		MemoryContextSwitchTo(old);
	}
	if (same_row(agg, entry, row))
		return;
	if (load_handed(agg, entry))
		(void) put(arg, agg->handed_slot, -1);
	ExecClearTuple(agg->handed_slot);
	sckpt_aggregate_release_handed(agg, entry);
	if (row)
	{
		sckpt_aggregate_keep_handed(agg, entry, row);
		(void) load_handed(agg, entry);
		if (!put(arg, agg->handed_slot, 1))
			sckpt_aggregate_release_handed(agg, entry);
		ExecClearTuple(agg->handed_slot);
	}
}

/* The rows of a group that closes. */
static void
hand_on_ranks(SckptAggregate *agg, SckptRef ref, MemoryContext scratch, SckptPutAbove put, SckptBadResult bad, void *arg)
{
	uint64		count;
	MinimalTuple *rows = get_ranks(agg, ref, scratch, bad, arg, &count);

	for (uint64 i = 0; i < count; i++)
	{
		ExecStoreMinimalTuple(rows[i], agg->handed_slot, false);
		(void) put(arg, agg->handed_slot, 1);
	}
	ExecClearTuple(agg->handed_slot);
	MemoryContextReset(scratch);
}

void
sckpt_aggregate_hand_on(SckptOperator *operator, const SckptTimes *times, bool final, SckptPutAbove put,
						SckptBadResult bad, void *arg)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt hand on", ALLOCSET_DEFAULT_SIZES);
	MemoryContext row_context = AllocSetContextCreate(scratch, "stream_ckpt handed row", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	uint64		count;
	SckptRef   *closing;
	SckptRef   *leaving;
	uint64		nleaving = 0;
	uint32		at = 0;

	operator->flush(operator);
	closing = operator->close(operator, times, &count);
	leaving = MemoryContextAllocExtended(scratch, Max(1, sckpt_state_dirty_count(operator->state)) * sizeof(SckptRef),
										 MCXT_ALLOC_HUGE);
	MemoryContextSwitchTo(old);
	operator->begin_results(operator);
	if (!final || agg->ranker)
		agg->handed_slot = MakeSingleTupleTableSlot(agg->query->result, &TTSOpsMinimalTuple);
	if (final)
	{
		for (uint64 i = 0; i < count; i++)
		{
			TupleTableSlot *slot;

			CHECK_FOR_INTERRUPTS();
			if (agg->ranker)
				hand_on_ranks(agg, closing[i], row_context, put, bad, arg);
			else if (get_result(agg, closing[i], &slot, bad, arg))
				(void) put(arg, slot, 1);
		}
	}
	for (SckptRef ref; (ref = sckpt_state_next_dirty(operator->state, &at)) != SCKPT_NO_REF;)
	{
		SckptEntry *entry = sckpt_state_address(operator->state, ref);

		CHECK_FOR_INTERRUPTS();

		/* A tombstone has yet to be stored. */
		if ((entry->flags & SCKPT_ENTRY_LEAVING) && !((entry->flags & SCKPT_ENTRY_GONE) && entry->chunk != 0))
			leaving[nleaving++] = ref;
		if (!final && (!(entry->flags & SCKPT_ENTRY_REWRITE) || (entry->flags & SCKPT_ENTRY_RETRACT)))
		{
			hand_on_change(agg, ref, entry, row_context, put, bad, arg);
			MemoryContextReset(row_context);
		}
	}
	operator->end_results(operator);
	if (agg->handed_slot)
		ExecDropSingleTupleTableSlot(agg->handed_slot);
	agg->handed_slot = NULL;
	for (uint64 i = 0; i < nleaving; i++)
		operator->remove(operator, false, leaving[i]);
	MemoryContextDelete(scratch);
}
