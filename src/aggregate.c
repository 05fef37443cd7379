/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *		The aggregate operator: GROUP BY with PostgreSQL's own aggregates.
 *
 * An entry of the store is
 *
 *		SckptEntry | SckptAggValue × ncalls | flags × ncalls | key (group.h)
 *
 * A transition value lives in one of three ways:
 *	- by value: in its slot;
 *	- by reference: as flat bytes in a chunk of the store, which transition
 *	  functions update in place where they can (float8_accum and its like);
 *	- as a live object of this process, where its type is internal or the
 *	  function returned an expanded object.  Live objects are made on the
 *	  first touch, flattened into the store (serialfn) at every barrier, and
 *	  thrown away together when they hold more than LIVE_MEMORY bytes.
 *
 * Functions are called as nodeAgg.c calls them: with an AggState of our own
 * as context, whose aggregate context is where live objects are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "executor/executor.h"
#include "miscadmin.h"
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

static SckptAggLive *
add_live(SckptAggregate *agg, SckptRef ref, int call, SckptAggValue *value)
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

/* An internal value made from the store's bytes, in the current context. */
Datum
sckpt_aggregate_deserialize(SckptAggregate *agg, SckptAggCall *call, SckptRef ref)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, &call->deserialize, 2, InvalidOid, (Node *) agg->agg_state, NULL);
	fcinfo->args[0].value = sckpt_aggregate_flat_value(agg, ref);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = (Datum) 0;
	fcinfo->args[1].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull)
		elog(ERROR, "aggregate deserialization function returned NULL");
	return result;
}

/*
 * The same, fit for transitions.  What a deserialization function returns is
 * only promised to be good for combining: those of stddev() and its like give
 * a state that leaves out the squares of what is added to it.  Combined
 * into nothing it becomes a whole one.  (Combine functions of internal states
 * are never strict.)
 */
static Datum
revive(SckptAggregate *agg, SckptAggCall *call, SckptRef ref)
{
	LOCAL_FCINFO(fcinfo, 2);
	MemoryContext old;
	Datum		partial;
	Datum		result;

	if (!OidIsValid(call->combine.fn_oid))
		return sckpt_aggregate_deserialize(agg, call, ref);
	old = MemoryContextSwitchTo(agg->row_context);
	partial = sckpt_aggregate_deserialize(agg, call, ref);
	MemoryContextSwitchTo(old);
	InitFunctionCallInfoData(*fcinfo, &call->combine, 2, call->collation, (Node *) agg->agg_state, NULL);
	fcinfo->args[0].value = (Datum) 0;
	fcinfo->args[0].isnull = true;
	fcinfo->args[1].value = partial;
	fcinfo->args[1].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull)
		elog(ERROR, "aggregate combine function returned NULL");
	return result;
}

/* Bring one live object's value into the store. */
static void
flatten_live(SckptAggregate *agg, SckptAggLive *live)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, live->entry);
	SckptAggValue *value = &entry_values(entry)[live->call];
	SckptAggCall *call = &agg->calls[live->call];

	if (!live->changed || (entry_flags(agg, entry)[live->call] & VALUE_NULL))
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

static void
aggregate_flush(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);

	for (uint32 i = 0; i < agg->nlive; i++)
	{
		flatten_live(agg, &agg->live[i]);
		MemoryContextReset(agg->row_context);
		if ((i & 1023) == 0)
			CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(old);
}

static void
aggregate_end_batch(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	if (MemoryContextMemAllocated(agg->live_context, true) <= LIVE_MEMORY)
		return;
	aggregate_flush(operator);
	for (uint32 i = 0; i < agg->nlive; i++)
	{
		SckptEntry *entry = sckpt_state_address(operator->state, agg->live[i].entry);

		entry_values(entry)[agg->live[i].call].object.live = 0;
	}
	agg->nlive = 0;

	/* Also calls back what aggregates registered with AggRegisterCallback(). */
	ReScanExprContext(agg->agg_state->curaggcontext);
}

/* ---- Consuming rows ---- */

/* Add an entry for the key at hand, with every aggregate's initial value. */
static SckptRef
add_group(SckptAggregate *agg, uint32 hash)
{
	Size		bytes = agg->key_offset - SCKPT_ENTRY_HEADER +
		sckpt_group_key_size(agg->key, agg->key_values, agg->key_nulls);
	SckptRef	ref = sckpt_state_insert(agg->operator.state, hash, bytes);
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
	SckptAggValue *values = entry_values(entry);
	uint8	   *flags = entry_flags(agg, entry);

	sckpt_group_key_store(agg->key, entry_key(agg, entry), agg->key_values, agg->key_nulls);
	for (int i = 0; i < agg->ncalls; i++)
	{
		SckptAggCall *call = &agg->calls[i];

		if (call->initial_null)
			flags[i] = VALUE_NULL | (call->strict ? VALUE_ABSENT : 0);
		else if (call->by_value)
			values[i].value = call->initial;
		else
			sckpt_aggregate_set_flat(agg, call, &values[i], call->initial);
	}
	return ref;
}

SckptRef
sckpt_aggregate_find_group(SckptAggregate *agg, uint32 hash)
{
	SckptProbe	probe;
	SckptRef	ref;

	for (ref = sckpt_state_probe(agg->operator.state, hash, &probe);
		 ref != SCKPT_NO_REF;
		 ref = sckpt_state_probe_next(&probe))
	{
		SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);

		if (sckpt_group_key_equal(agg->key, entry_key(agg, entry), agg->key_values, agg->key_nulls))
			break;
	}
	return ref;
}

static SckptRef
aggregate_find(SckptOperator *operator, Datum *values, bool *nulls)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	SckptRef	ref;

	agg->key_values = values;
	agg->key_nulls = nulls;
	ref = sckpt_aggregate_find_group(agg, sckpt_group_key_hash(agg->key, values, nulls));
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
	return ref;
}

/*
 * Store what a transition function returned for a value kept by reference or as a live object.
 */
static void
store_object(SckptAggregate *agg, SckptAggCall *call, int index, SckptRef ref, SckptAggValue *value, uint8 *flags,
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
			live = add_live(agg, ref, index, value);
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
			live = add_live(agg, ref, index, value);
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
			live->changed = false;
			value->object.live = 0;
		}
	}
	*flags &= ~VALUE_NULL;
}

/* The transition value as its function wants it. */
static inline Datum
current_value(SckptAggregate *agg, SckptAggCall *call, int index, SckptRef ref, SckptAggValue *value)
{
	if (call->by_value && !call->internal)
		return value->value;
	if (value->object.live && agg->live[value->object.live - 1].value)
		return agg->live[value->object.live - 1].value;
	if (call->internal)
	{
		MemoryContext old = MemoryContextSwitchTo(agg->live_context);
		SckptAggLive  *live = value->object.live ? &agg->live[value->object.live - 1] : add_live(agg, ref, index, value);

		live->value = revive(agg, call, value->object.ref);
		MemoryContextSwitchTo(old);
		return live->value;
	}
	return sckpt_aggregate_flat_value(agg, value->object.ref);
}

/* True if the transition is done; false: the function must be called, also to raise its errors. */
static inline bool
advance_plain(SckptAggCall *call, SckptAggValue *value, const Datum *values, const bool *nulls)
{
	Datum		input = (Datum) 0;
	float8		sum;

	if (call->nargs > 0)
	{
		if (nulls[call->args[0] - 1])
			return true;
		input = values[call->args[0] - 1];
	}
	switch (call->plain)
	{
		case SCKPT_AGG_COUNT:
			if (unlikely(DatumGetInt64(value->value) == PG_INT64_MAX))
				return false;
			value->value = Int64GetDatum(DatumGetInt64(value->value) + 1);
			return true;
		case SCKPT_AGG_SUM_INT4:
			value->value = Int64GetDatum(DatumGetInt64(value->value) + (int64) DatumGetInt32(input));
			return true;
		case SCKPT_AGG_SUM_FLOAT8:
			sum = DatumGetFloat8(value->value) + DatumGetFloat8(input);
			if (unlikely(isinf(sum)))
				return false;
			value->value = Float8GetDatum(sum);
			return true;
		case SCKPT_AGG_CALLED:
			break;
	}
	return false;
}

static inline void
advance(SckptAggregate *agg, int index, SckptRef ref, SckptEntry *entry, const Datum *values, const bool *nulls)
{
	SckptAggCall *call = &agg->calls[index];
	FunctionCallInfo fcinfo = call->fcinfo;
	SckptAggValue *value = &entry_values(entry)[index];
	uint8	   *flags = &entry_flags(agg, entry)[index];
	Datum		old;
	Datum		new;

	if (call->filter &&
		(nulls[call->filter - 1] || !DatumGetBool(values[call->filter - 1])))
		return;
	if (call->plain != SCKPT_AGG_CALLED && *flags == 0 && advance_plain(call, value, values, nulls))
		return;
	for (int i = 0; i < call->nargs; i++)
	{
		int			column = call->args[i] - 1;

		if (call->strict && nulls[column])
			return;
		fcinfo->args[i + 1].value = values[column];
		fcinfo->args[i + 1].isnull = nulls[column];
	}
	if (*flags && call->strict)
	{
		if (*flags & VALUE_ABSENT)
		{
			/* The first input that is not NULL becomes the value; the types are binary compatible. */
			if (call->by_value)
				value->value = fcinfo->args[1].value;
			else
				sckpt_aggregate_set_flat(agg, call, value, call->length == -1 &&
						 VARATT_IS_EXTERNAL(DatumGetPointer(fcinfo->args[1].value))
						 ? PointerGetDatum(PG_DETOAST_DATUM(fcinfo->args[1].value)) : fcinfo->args[1].value);
			*flags = 0;
			return;
		}
		return;					/* once NULL, a strict aggregate stays NULL */
	}

	fcinfo->args[0].isnull = (*flags & VALUE_NULL) != 0;
	old = fcinfo->args[0].isnull ? (Datum) 0 : current_value(agg, call, index, ref, value);
	fcinfo->args[0].value = old;
	fcinfo->isnull = false;
	new = FunctionCallInvoke(fcinfo);
	if (call->by_value && !call->internal)
	{
		value->value = new;
		*flags = fcinfo->isnull ? VALUE_NULL : 0;
	}
	else
		store_object(agg, call, index, ref, value, flags, old, new, fcinfo->isnull);
}

/* Take a row in: find or add its group, and advance the aggregates. */
static inline void
take_row(SckptAggregate *agg, uint32 hash, Datum *values, bool *nulls)
{
	SckptRef	ref;
	SckptEntry *entry;

	agg->key_values = values;
	agg->key_nulls = nulls;
	ref = sckpt_aggregate_find_group(agg, hash);
	if (ref == SCKPT_NO_REF)
		ref = add_group(agg, hash);
	entry = sckpt_state_address(agg->operator.state, ref);
	for (int i = 0; i < agg->ncalls; i++)
		advance(agg, i, ref, entry, values, nulls);
	sckpt_state_mark_dirty(agg->operator.state, ref);
	entry->flags &= ~SCKPT_ENTRY_REWRITE;
}

static void
take_block(SckptAggregate *agg)
{
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	int			n = agg->nblock;

	agg->nblock = 0;
	for (int i = 0; i < n; i++)
		sckpt_state_prefetch_entry(agg->operator.state, agg->block_hashes[i]);
	for (int i = 0; i < n; i++)
		take_row(agg, agg->block_hashes[i], agg->block_values + i * agg->ncolumns, agg->block_nulls + i * agg->ncolumns);
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
}

static void
aggregate_end_rows(SckptOperator *operator)
{
	take_block((SckptAggregate *) operator);
}

static void
aggregate_consume(SckptOperator *operator, TupleTableSlot *slot, int32 weight)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	uint32		hash;

	if (weight != 1)
		elog(ERROR, "aggregate over retracted rows");

	slot_getallattrs(slot);
	if (agg->block_hashes)
	{
		Datum	   *values = agg->block_values + agg->nblock * agg->ncolumns;
		bool	   *nulls = agg->block_nulls + agg->nblock * agg->ncolumns;

		memcpy(values, slot->tts_values, agg->ncolumns * sizeof(Datum));
		memcpy(nulls, slot->tts_isnull, agg->ncolumns * sizeof(bool));
		hash = sckpt_group_key_hash(agg->key, values, nulls);
		sckpt_state_prefetch(operator->state, hash);
		agg->block_hashes[agg->nblock++] = hash;
		MemoryContextSwitchTo(old);
		if (agg->nblock == BLOCK_ROWS)
			take_block(agg);
		return;
	}

	hash = sckpt_group_key_hash(agg->key, slot->tts_values, slot->tts_isnull);
	take_row(agg, hash, slot->tts_values, slot->tts_isnull);
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
}

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
	Datum		input = other_null ? (Datum) 0 : current_value(other, call, index, other_ref, other_value);
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
	InitFunctionCallInfoData(*fcinfo, &call->combine, 2, call->collation, (Node *) agg->agg_state, NULL);
	fcinfo->args[0].isnull = (*flags & VALUE_NULL) != 0;
	old = fcinfo->args[0].isnull ? (Datum) 0 : current_value(agg, call, index, ref, value);
	fcinfo->args[0].value = old;
	fcinfo->args[1].value = input;
	fcinfo->args[1].isnull = other_null;
	new = FunctionCallInvoke(fcinfo);
	if (call->by_value && !call->internal)
	{
		value->value = new;
		*flags = fcinfo->isnull ? VALUE_NULL : 0;
	}
	else
		store_object(agg, call, index, ref, value, flags, old, new, fcinfo->isnull);
}

static void
aggregate_merge(SckptOperator *operator, SckptOperator *source)
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
		SckptEntry *entry;

		sckpt_group_key_load(agg->key, entry_key(other, other_entry), values, nulls);
		ref = sckpt_aggregate_find_group(agg, other_entry->hash);
		if (ref == SCKPT_NO_REF)
			ref = add_group(agg, other_entry->hash);
		entry = sckpt_state_address(operator->state, ref);
		for (int i = 0; i < agg->ncalls; i++)
			combine_value(agg, i, ref, entry, other, other_ref, other_entry);
		sckpt_state_mark_dirty(operator->state, ref);
		entry->flags &= ~SCKPT_ENTRY_REWRITE;
		MemoryContextReset(agg->row_context);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(old);
}

static bool
aggregate_mergeable(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	for (int i = 0; i < agg->ncalls; i++)
	{
		if (!OidIsValid(agg->calls[i].combine.fn_oid))
			return false;
	}
	return true;
}

/* Without GROUP BY there is one group, also over no rows. */
static void
aggregate_start(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	uint32		hash;

	if (agg->key->ncolumns > 0)
		return;
	hash = sckpt_group_key_hash(agg->key, NULL, NULL);
	if (sckpt_aggregate_find_group(agg, hash) == SCKPT_NO_REF)
		sckpt_state_mark_dirty(operator->state, add_group(agg, hash));
}

static void
aggregate_destroy(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	sckpt_state_destroy(operator->state);
	FreeExprContext(agg->agg_state->curaggcontext, true);
	MemoryContextDelete(agg->context);
}

SckptOperator *
sckpt_aggregate_create(SckptQuery *query, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt aggregate", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptAggregate *agg = palloc0(sizeof(SckptAggregate));
	ExprContext *live;

	agg->context = context;
	agg->query = query;
	agg->row_context = AllocSetContextCreate(context, "stream_ckpt row", ALLOCSET_DEFAULT_SIZES);

	/* Of an AggState, aggregate functions look at nothing but the context. */
	live = CreateStandaloneExprContext();
	agg->live_context = live->ecxt_per_tuple_memory;
	agg->agg_state = makeNode(AggState);
	agg->agg_state->curaggcontext = live;

	agg->key = sckpt_group_key_create(query, context);
	agg->ncalls = query->ncalls;
	agg->calls = palloc0(Max(1, agg->ncalls) * sizeof(SckptAggCall));
	for (int i = 0; i < agg->ncalls; i++)
		sckpt_aggregate_prepare_call(agg, &agg->calls[i], &query->calls[i]);
	agg->flags_offset = SCKPT_ENTRY_HEADER + agg->ncalls * sizeof(SckptAggValue);
	agg->key_offset = agg->flags_offset + agg->ncalls;

	agg->ncolumns = query->nsource;
	if (query->stable && query->nkeys > 0)
	{
		agg->block_hashes = palloc(BLOCK_ROWS * sizeof(uint32));
		agg->block_values = palloc(Max(1, BLOCK_ROWS * query->nsource) * sizeof(Datum));
		agg->block_nulls = palloc(Max(1, BLOCK_ROWS * query->nsource) * sizeof(bool));
	}

	agg->operator.name = "aggregate";
	agg->operator.state = sckpt_state_create(context);
	agg->operator.consume = aggregate_consume;
	agg->operator.end_rows = aggregate_end_rows;
	agg->operator.end_batch = aggregate_end_batch;
	agg->operator.start = aggregate_start;
	agg->operator.describe = sckpt_aggregate_describe;
	agg->operator.flush = aggregate_flush;
	agg->operator.pack = sckpt_aggregate_pack;
	agg->operator.unpack = sckpt_aggregate_unpack;
	agg->operator.find = aggregate_find;
	agg->operator.begin_results = sckpt_aggregate_begin_results;
	agg->operator.result = sckpt_aggregate_result;
	agg->operator.end_results = sckpt_aggregate_end_results;
	agg->operator.destroy = aggregate_destroy;
	agg->operator.mergeable = aggregate_mergeable;
	agg->operator.merge = aggregate_merge;
	MemoryContextSwitchTo(old);
	return &agg->operator;
}
