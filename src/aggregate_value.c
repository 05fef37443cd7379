/*-------------------------------------------------------------------------
 *
 * aggregate_value.c
 *		Transition values: flat in the store, or live in this process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/memutils.h"

#include "aggregate_private.h"

/* ---- Flat and live values ---- */

Datum
sckpt_aggregate_flat_value(SckptAggregate *agg, SckptRef ref)
{
	return PointerGetDatum((char *) sckpt_state_address(agg->operator.state, ref) + sizeof(SckptAggFlat));
}

/* Put `len` bytes into a value's chunk, which is replaced when it is too small or far too large. */
char *
sckpt_aggregate_flat_room(SckptAggregate *agg, SckptAggValue *value, Size len)
{
	SckptState *state = agg->operator.state;
	SckptAggFlat *header = NULL;
	Size		need = sizeof(SckptAggFlat) + len;

	if (value->object.ref != SCKPT_NO_REF)
		header = sckpt_state_address(state, value->object.ref);
	if (header == NULL || header->size < need || header->size / 4 > need + 64)
	{
		/* Varlenas tend to grow: leave them an eighth. */
		Size		size = sckpt_state_capacity(need + (header ? need / 8 : 0));
		SckptRef	ref = sckpt_state_alloc(state, size);

		if (header)
			sckpt_state_free(state, value->object.ref, header->size);
		value->object.ref = ref;
		header = sckpt_state_address(state, ref);
		header->size = size;
	}
	return (char *) header + sizeof(SckptAggFlat);
}

static Size
value_size(SckptAggCall *call, Datum value)
{
	if (call->length == -1)
		return VARSIZE_ANY(DatumGetPointer(value));
	if (call->length == -2)
		return strlen(DatumGetCString(value)) + 1;
	return call->length;
}

/* Copy a by-reference value, not an expanded one, into the store. */
void
sckpt_aggregate_set_flat(SckptAggregate *agg, SckptAggCall *call, SckptAggValue *value, Datum new)
{
	Size		len;

	if (call->length == -1 && VARATT_IS_EXTERNAL(DatumGetPointer(new)))
		new = PointerGetDatum(PG_DETOAST_DATUM_COPY(new));
	len = value_size(call, new);

	/* The new value may lie inside the old one. */
	if (value->object.ref != SCKPT_NO_REF)
	{
		SckptAggFlat *header = sckpt_state_address(agg->operator.state, value->object.ref);

		if (DatumGetPointer(new) > (char *) header && DatumGetPointer(new) < (char *) header + header->size)
		{
			void	   *copy = palloc(len);

			memcpy(copy, DatumGetPointer(new), len);
			new = PointerGetDatum(copy);
		}
	}
	memcpy(sckpt_aggregate_flat_room(agg, value, len), DatumGetPointer(new), len);
}

SckptAggLive *
sckpt_aggregate_add_live(SckptAggregate *agg, SckptRef ref, int call, SckptAggValue *value)
{
	SckptAggLive  *live;

	if (agg->nlive == agg->maxlive)
	{
		agg->maxlive = Max(64, agg->maxlive * 2);
		if (agg->live)
			agg->live = repalloc_huge(agg->live, (Size) agg->maxlive * sizeof(SckptAggLive));
		else
			agg->live = MemoryContextAllocHuge(agg->context, (Size) agg->maxlive * sizeof(SckptAggLive));
	}
	live = &agg->live[agg->nlive++];
	live->entry = ref;
	live->call = call;
	live->changed = true;
	live->value = (Datum) 0;
	value->object.live = agg->nlive;
	return live;
}

static Datum
deserialize(SckptAggCall *call, AggState *agg_state, Datum stored)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, &call->deserialize, 2, InvalidOid, (Node *) agg_state, NULL);
	fcinfo->args[0].value = stored;
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = (Datum) 0;
	fcinfo->args[1].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull)
		elog(ERROR, "aggregate deserialization function returned NULL");
	return result;
}

/* An internal value made from the store's bytes, in the current context. */
Datum
sckpt_aggregate_deserialize(SckptAggregate *agg, SckptAggCall *call, SckptRef ref)
{
	return deserialize(call, agg->agg_state, sckpt_aggregate_flat_value(agg, ref));
}

/*
 * What a deserialization function returns is only promised to be good for combining: those of stddev() and its like give a state that leaves out
 * the squares of what is added to it.  Combined into nothing it becomes a whole one.  (Combine functions of internal states are never strict.)
 */
Datum
sckpt_call_revive(SckptAggCall *call, AggState *agg_state, Datum stored, MemoryContext scratch)
{
	LOCAL_FCINFO(fcinfo, 2);
	MemoryContext old;
	Datum		partial;
	Datum		result;

	if (!OidIsValid(call->combine.fn_oid))
		return deserialize(call, agg_state, stored);
	old = MemoryContextSwitchTo(scratch);
	partial = deserialize(call, agg_state, stored);
	MemoryContextSwitchTo(old);
	InitFunctionCallInfoData(*fcinfo, &call->combine, 2, call->collation, (Node *) agg_state, NULL);
	fcinfo->args[0].value = (Datum) 0;
	fcinfo->args[0].isnull = true;
	fcinfo->args[1].value = partial;
	fcinfo->args[1].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull)
		elog(ERROR, "aggregate combine function returned NULL");
	return result;
}

void
sckpt_call_keep(SckptAggCall *call, MemoryContext context, Datum *value, bool *isnull, Datum new, bool new_isnull)
{
	if (!call->by_value && (*isnull || new_isnull || new != *value))
	{
		bool		ours = !new_isnull && call->length == -1 && VARATT_IS_EXTERNAL_EXPANDED_RW(DatumGetPointer(new)) &&
			MemoryContextGetParent(DatumGetEOHP(new)->eoh_context) == context;

		if (!new_isnull && !ours)
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			new = datumCopy(new, false, call->length);
			MemoryContextSwitchTo(old);
		}
		if (!*isnull)
		{
			if (call->length == -1 && VARATT_IS_EXTERNAL_EXPANDED_RW(DatumGetPointer(*value)))
				DeleteExpandedObject(*value);
			else
				pfree(DatumGetPointer(*value));
		}
	}
	*value = new_isnull ? (Datum) 0 : new;
	*isnull = new_isnull;
}

/* The same, fit for transitions (sckpt_call_revive). */
static Datum
revive(SckptAggregate *agg, SckptAggCall *call, SckptRef ref)
{
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	Datum		stored = sckpt_aggregate_flat_value(agg, ref);

	MemoryContextSwitchTo(old);
	return sckpt_call_revive(call, agg->agg_state, stored, agg->row_context);
}

/* Bring one live object's value into the store. */
static void
flatten_live(SckptAggregate *agg, SckptAggLive *live)
{
	SckptEntry *entry;
	SckptAggValue *value;
	SckptAggCall *call = &agg->calls[live->call];

	if (live->entry == SCKPT_NO_REF || !live->changed)
		return;
	entry = sckpt_state_address(agg->operator.state, live->entry);
	value = &entry_values(entry)[live->call];
	if (entry_flags(agg, entry)[live->call] & VALUE_NULL)
		return;
	if (call->internal)
	{
		LOCAL_FCINFO(fcinfo, 1);
		Datum		bytes;

		InitFunctionCallInfoData(*fcinfo, &call->serialize, 1, InvalidOid, (Node *) agg->agg_state, NULL);
		fcinfo->args[0].value = live->value;
		fcinfo->args[0].isnull = false;
		bytes = FunctionCallInvoke(fcinfo);
		if (fcinfo->isnull)
			elog(ERROR, "aggregate serialization function returned NULL");
		bytes = PointerGetDatum(PG_DETOAST_DATUM(bytes));
		memcpy(sckpt_aggregate_flat_room(agg, value, VARSIZE(DatumGetPointer(bytes))), DatumGetPointer(bytes),
			   VARSIZE(DatumGetPointer(bytes)));
	}
	else
	{
		ExpandedObjectHeader *object = DatumGetEOHP(live->value);
		Size		len = EOH_get_flat_size(object);

		EOH_flatten_into(object, sckpt_aggregate_flat_room(agg, value, len), len);
	}
	live->changed = false;
}

void
sckpt_aggregate_flush(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	MemoryContext old;

	if (agg->ranker)
		sckpt_rank_flush(agg);
	old = MemoryContextSwitchTo(agg->row_context);
	for (uint32 i = 0; i < agg->nlive; i++)
	{
		flatten_live(agg, &agg->live[i]);
		MemoryContextReset(agg->row_context);
		if ((i & 1023) == 0)
			CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(old);
}

void
sckpt_aggregate_flatten(SckptAggregate *agg, SckptRef ref)
{
	SckptAggValue *values = entry_values(sckpt_state_address(agg->operator.state, ref));

	for (int i = 0; i < agg->ncalls; i++)
	{
		SckptAggCall *call = &agg->calls[i];

		if (call->mode != SCKPT_CALL_COLLECT && (call->internal || !call->by_value) && values[i].object.live)
			flatten_live(agg, &agg->live[values[i].object.live - 1]);
	}
}

/* An error may have left the object in any condition: its memory goes with the others'. */
void
sckpt_aggregate_forget_live(SckptAggregate *agg, SckptAggValue *value)
{
	if (value->object.live == 0)
		return;
	agg->live[value->object.live - 1].value = (Datum) 0;
	agg->live[value->object.live - 1].changed = false;
}

void
sckpt_aggregate_end_batch(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	if (MemoryContextMemAllocated(agg->live_context, true) <= LIVE_MEMORY)
		return;
	sckpt_aggregate_flush(operator);
	for (uint32 i = 0; i < agg->nlive; i++)
	{
		SckptEntry *entry;

		if (agg->live[i].entry == SCKPT_NO_REF)
			continue;
		entry = sckpt_state_address(operator->state, agg->live[i].entry);
		entry_values(entry)[agg->live[i].call].object.live = 0;
	}
	agg->nlive = 0;

	/* Also calls back what aggregates registered with AggRegisterCallback(). */
	ReScanExprContext(agg->agg_state->curaggcontext);
}

/*
 * Store what a transition function returned for a value kept by reference or as a live object.
 */
void
sckpt_aggregate_store_object(SckptAggregate *agg, SckptAggCall *call, int index, SckptRef ref, SckptAggValue *value, uint8 *flags,
			 Datum old, Datum new, bool isnull)
{
	SckptAggLive  *live = value->object.live ? &agg->live[value->object.live - 1] : NULL;

	if (isnull)
	{
		if (live && live->value && !call->internal && !(*flags & VALUE_NULL))
			DeleteExpandedObject(live->value);
		if (live)
			live->value = (Datum) 0;
		*flags |= VALUE_NULL;
		return;
	}

	if (call->internal)
	{
		if (live == NULL)
			live = sckpt_aggregate_add_live(agg, ref, index, value);
		live->value = new;
		live->changed = true;
		*flags &= ~VALUE_NULL;
		return;
	}

	if (new == old && !(*flags & VALUE_NULL))
	{
		/* Updated in place, or unchanged. */
		if (live)
			live->changed = true;
		return;
	}

	/*
	 * As nodeAgg.c: an expanded object that the function made in the aggregate context is ours; any other one is somebody
	 * else's to free (PL/pgSQL's, say), and copied flat.
	 */
	if (call->length == -1 && VARATT_IS_EXTERNAL_EXPANDED_RW(DatumGetPointer(new)) &&
		MemoryContextGetParent(DatumGetEOHP(new)->eoh_context) == agg->live_context)
	{
		if (live == NULL)
			live = sckpt_aggregate_add_live(agg, ref, index, value);
		else if (!(*flags & VALUE_NULL) && live->value && live->value != new)
			DeleteExpandedObject(live->value);
		live->value = new;
		live->changed = true;
	}
	else
	{
		sckpt_aggregate_set_flat(agg, call, value, new);
		if (live)
		{
			/* Flat again: the object is done with. */
			if (!(*flags & VALUE_NULL) && live->value)
				DeleteExpandedObject(live->value);
			live->value = (Datum) 0;
			live->entry = SCKPT_NO_REF;
			value->object.live = 0;
		}
	}
	*flags &= ~VALUE_NULL;
}

/* The value of a live object, or one made of the store's bytes. */
Datum
sckpt_aggregate_object(SckptAggregate *agg, SckptAggCall *call, int index, SckptRef ref, SckptAggValue *value)
{
	if (value->object.live && agg->live[value->object.live - 1].value)
		return agg->live[value->object.live - 1].value;
	if (call->internal)
	{
		MemoryContext old = MemoryContextSwitchTo(agg->live_context);
		SckptAggLive *live = value->object.live ? &agg->live[value->object.live - 1]
			: sckpt_aggregate_add_live(agg, ref, index, value);

		live->value = revive(agg, call, value->object.ref);
		MemoryContextSwitchTo(old);
		return live->value;
	}
	return sckpt_aggregate_flat_value(agg, value->object.ref);
}

/* The entry goes, or starts anew: nothing of its value is to be kept. */
void
sckpt_aggregate_release(SckptAggregate *agg, SckptAggCall *call, SckptAggValue *value)
{
	if (call->by_value && !call->internal)
		return;
	if (value->object.live)
	{
		/* An internal object's memory stays until all live objects are thrown away. */
		agg->live[value->object.live - 1].entry = SCKPT_NO_REF;
		agg->live[value->object.live - 1].value = (Datum) 0;
	}
	if (value->object.ref != SCKPT_NO_REF)
		sckpt_state_free(agg->operator.state, value->object.ref,
						 ((SckptAggFlat *) sckpt_state_address(agg->operator.state, value->object.ref))->size);
	memset(value, 0, sizeof(SckptAggValue));
}
