/*-------------------------------------------------------------------------
 *
 * aggregate_inverse.c
 *		Aggregates that rows are taken back from, by their inverse transition
 *		functions.
 *
 * Such a call counts the inputs that its value is made of, as nodeWindowAgg.c does: NULLs do not count where its functions are strict.  When
 * the last one is taken back it starts anew, from the initial value.
 *
 * An inverse may give up, by returning NULL: that of sum(numeric) does when the last input of the largest scale goes.  Calls whose inverse may do that
 * have a counted set of their inputs besides.  A value whose inverse has given up is stale, and left alone until the end of the run, when
 * it is computed from the set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "aggregate_private.h"

/* Does the call have no use for this row: is a strict function's argument NULL? */
static bool
skips(SckptAggCall *call, const bool *nulls)
{
	for (int i = 0; i < call->nargs && call->strict; i++)
	{
		if (nulls[call->args[i] - 1])
			return true;
	}
	return false;
}

static void
add_input(SckptAggregate *agg, int index, SckptRef ref, SckptEntry *entry, const Datum *values, const bool *nulls)
{
	uint8	   *flags = &entry_flags(agg, entry)[index];

	if (*flags & VALUE_STALE)
		return;
	sckpt_aggregate_advance(agg, index, ref, values, nulls);
	if (*flags & VALUE_NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("moving-aggregate transition function must not return null")));
}

static void
mark_stale(SckptAggregate *agg, int index, SckptRef ref, uint8 *flags)
{
	MemoryContext old = MemoryContextSwitchTo(agg->stale_context);
	SckptAggStale *stale = palloc(sizeof(SckptAggStale));

	if (agg->calls[index].set < 0)
		elog(ERROR, "inverse transition function of %s gives up", agg->calls[index].signature);
	stale->entry = ref;
	stale->call = index;
	agg->stale = lappend(agg->stale, stale);
	*flags |= VALUE_STALE;
	MemoryContextSwitchTo(old);
}

static void
subtract_input(SckptAggregate *agg, int index, SckptRef ref, SckptEntry *entry, const Datum *values, const bool *nulls)
{
	SckptAggCall *call = &agg->calls[index];
	FunctionCallInfo fcinfo = call->inverse_fcinfo;
	SckptAggValue *value = &entry_values(entry)[index];
	uint8	   *flags = &entry_flags(agg, entry)[index];
	Datum		old;
	Datum		new;

	if (*flags & VALUE_STALE)
		return;
	for (int i = 0; i < call->nargs; i++)
	{
		fcinfo->args[i + 1].value = values[call->args[i] - 1];
		fcinfo->args[i + 1].isnull = nulls[call->args[i] - 1];
	}
	old = sckpt_aggregate_value(agg, call, index, ref, value);
	fcinfo->args[0].value = old;
	fcinfo->args[0].isnull = false;
	fcinfo->isnull = false;
	new = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull)
		mark_stale(agg, index, ref, flags);
	else
		sckpt_aggregate_store(agg, call, index, ref, value, flags, old, new, false);
}

void
sckpt_aggregate_advance_inverse(SckptAggregate *agg, int index, SckptRef ref, const Datum *values, const bool *nulls, int32 weight)
{
	SckptAggCall *call = &agg->calls[index];
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
	int64	   *count = &entry_counts(agg, entry)[call->count];

	if (skips(call, nulls))
		return;
	for (; weight > 0; weight--)
	{
		CHECK_FOR_INTERRUPTS();
		add_input(agg, index, ref, entry, values, nulls);
		(*count)++;
	}
	if (*count + weight < 0)
		elog(ERROR, "aggregate input was taken back more often than it was there");
	for (; weight < 0; weight++)
	{
		CHECK_FOR_INTERRUPTS();
		if (*count == -weight)
		{
			sckpt_aggregate_release(agg, call, &entry_values(entry)[index]);
			sckpt_aggregate_initialize_value(agg, index, entry);
			return;
		}
		subtract_input(agg, index, ref, entry, values, nulls);
		(*count)--;
	}
}

/* ---- Computing values anew ---- */

static void
refresh(SckptAggregate *agg, int index, SckptRef ref, MemoryContext scratch)
{
	SckptAggCall *call = &agg->calls[index];
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
	int64	   *count = &entry_counts(agg, entry)[call->count];
	int64		inputs = *count;
	Datum	   *values = palloc0(agg->room.ncolumns * sizeof(Datum));
	bool	   *nulls = palloc0(agg->room.ncolumns * sizeof(bool));
	uint64		n;
	SckptElementValue *elements = sckpt_sets_elements(agg->sets, ref, call->set, &n);

	sckpt_aggregate_release(agg, call, &entry_values(entry)[index]);
	sckpt_aggregate_initialize_value(agg, index, entry);
	for (uint64 i = 0; i < n; i++)
	{
		for (int j = 0; j < call->nargs; j++)
		{
			values[call->args[j] - 1] = elements[i].values[j];
			nulls[call->args[j] - 1] = elements[i].nulls[j];
		}
		for (int64 times = elements[i].count; times > 0; times--)
		{
			MemoryContext old = MemoryContextSwitchTo(scratch);

			CHECK_FOR_INTERRUPTS();
			add_input(agg, index, ref, entry, values, nulls);
			(*count)++;
			MemoryContextSwitchTo(old);
			MemoryContextReset(scratch);
		}
	}
	if (*count != inputs)
		elog(ERROR, "aggregate has " INT64_FORMAT " inputs, and its set " INT64_FORMAT, inputs, *count);
}

void
sckpt_aggregate_refresh(SckptAggregate *agg)
{
	MemoryContext scratch = AllocSetContextCreate(agg->row_context, "stream_ckpt input computed anew", ALLOCSET_DEFAULT_SIZES);
	MemoryContext work = AllocSetContextCreate(agg->row_context, "stream_ckpt value computed anew", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(work);
	ListCell   *lc;

	foreach(lc, agg->stale)
	{
		SckptAggStale *stale = lfirst(lc);

		/* It may have started anew meanwhile. */
		if (entry_flags(agg, sckpt_state_address(agg->operator.state, stale->entry))[stale->call] & VALUE_STALE)
			refresh(agg, stale->call, stale->entry, scratch);
		MemoryContextReset(work);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
	MemoryContextReset(agg->stale_context);
	agg->stale = NIL;
}
