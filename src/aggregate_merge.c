/*-------------------------------------------------------------------------
 *
 * aggregate_merge.c
 *		Adds up transition values: of two sessions that have become one, and
 *		of rows that were aggregated apart.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/expandeddatum.h"
#include "utils/memutils.h"

#include "aggregate_private.h"

/* Add another aggregate's transition value to one of ours. */
static void
combine_value(SckptAggregate *agg, int index, SckptRef ref, SckptEntry *entry, SckptAggregate *other, SckptRef other_ref,
			  SckptEntry *other_entry)
{
	SckptAggCall *call = &agg->calls[index];
	SckptAggValue *value = &entry_values(entry)[index];
	uint8	   *flags = &entry_flags(agg, entry)[index];
	SckptAggValue *other_value = &entry_values(other_entry)[index];
	bool		other_null = (entry_flags(other, other_entry)[index] & VALUE_NULL) != 0;
	Datum		input = other_null ? (Datum) 0 : sckpt_aggregate_value(other, call, index, other_ref, other_value);
	Datum		old;
	Datum		new;
	LOCAL_FCINFO(fcinfo, 2);

	if (call->combine.fn_strict)
	{
		if (other_null)
			return;
		if (*flags & VALUE_NULL)
		{
			/* Not internal: those have no strict combine functions without an initial value. */
			if (call->by_value)
				value->value = input;
			else
				sckpt_aggregate_set_flat(agg, call, value, input);
			*flags = 0;
			return;
		}
	}
	/* Expanded objects that a transition function made stay ours: given one to write to, PL/pgSQL would free it. */
	InitFunctionCallInfoData(*fcinfo, &call->combine, 2, call->collation, (Node *) agg->agg_state, NULL);
	fcinfo->args[0].isnull = (*flags & VALUE_NULL) != 0;
	old = fcinfo->args[0].isnull ? (Datum) 0 : sckpt_aggregate_value(agg, call, index, ref, value);
	fcinfo->args[0].value = MakeExpandedObjectReadOnly(old, fcinfo->args[0].isnull, call->length);
	fcinfo->args[1].value = MakeExpandedObjectReadOnly(input, other_null, call->length);
	fcinfo->args[1].isnull = other_null;
	new = FunctionCallInvoke(fcinfo);
	sckpt_aggregate_store(agg, call, index, ref, value, flags, old, new, fcinfo->isnull);
}

void
sckpt_aggregate_combine(SckptAggregate *agg, SckptRef ref, SckptAggregate *other, SckptRef other_ref)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
	SckptEntry *other_entry = sckpt_state_address(other->operator.state, other_ref);

	for (int i = 0; i < agg->ncalls; i++)
	{
		if (agg->calls[i].mode == SCKPT_CALL_TRANSITION)
			combine_value(agg, i, ref, entry, other, other_ref, other_entry);
	}
	sckpt_state_mark_dirty(agg->operator.state, ref);
	entry->flags &= ~SCKPT_ENTRY_REWRITE;
}

void
sckpt_aggregate_merge(SckptOperator *operator, SckptOperator *source)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	SckptAggregate *other = (SckptAggregate *) source;
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	Datum	   *values = MemoryContextAlloc(other->context, Max(1, agg->key->ncolumns) * sizeof(Datum));
	bool	   *nulls = MemoryContextAlloc(other->context, Max(1, agg->key->ncolumns) * sizeof(bool));
	uint64		cursor = 0;
	SckptRef	other_ref;

	agg->key_values = values;
	agg->key_nulls = nulls;
	while ((other_ref = sckpt_state_next(source->state, &cursor)) != SCKPT_NO_REF)
	{
		SckptEntry *other_entry = sckpt_state_address(source->state, other_ref);
		SckptRef	ref;

		sckpt_group_key_load(agg->key, entry_key(other, other_entry), values, nulls);
		ref = sckpt_aggregate_find_group(agg, other_entry->hash);
		if (ref == SCKPT_NO_REF)
		{
			ref = sckpt_aggregate_add_group(agg, other_entry->hash);
			if (agg->timers)
				sckpt_aggregate_register(agg, ref, values, nulls);
		}
		sckpt_aggregate_combine(agg, ref, other, other_ref);
		MemoryContextReset(agg->row_context);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(old);
}

/* What is extended depends on when a row came, or on more than its group. */
bool
sckpt_aggregate_mergeable(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	if (agg->extended)
		return false;
	for (int i = 0; i < agg->ncalls; i++)
	{
		if (!OidIsValid(agg->calls[i].combine.fn_oid))
			return false;
	}
	return true;
}
