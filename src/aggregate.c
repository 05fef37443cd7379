/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *		The aggregate operator: GROUP BY with PostgreSQL's own aggregates.
 *
 * An entry of the store is
 *
 *		SckptEntry | AggregateValue × ncalls | flags × ncalls | key (group.h)
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

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_agg.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "aggregate.h"
#include "codec.h"
#include "group.h"

/* Live objects are flattened and dropped at the end of a batch when they hold more than this. */
#define LIVE_MEMORY (32 * 1024 * 1024)

/* Rows looked up together, so that the memory of their groups is on its way while others are worked on. */
#define BLOCK_ROWS 64

#define VALUE_NULL		0x01	/* the transition value is NULL */
#define VALUE_ABSENT	0x02	/* nothing but NULLs so far: the first input becomes the value (strict transition functions) */

/* What an entry holds of a transition value. */
typedef union AggregateValue
{
	Datum		value;			/* by value */
	struct
	{
		SckptRef	ref;		/* chunk: FlatHeader, then the bytes; or none */
		uint32		live;		/* 1 + index of the live object, 0: none */
	}			object;
} AggregateValue;

/* Before flat bytes in the store. */
typedef struct FlatHeader
{
	uint64		size;			/* of the chunk, this header included */
} FlatHeader;

/* A value that is more recent than its flat form. */
typedef struct LiveValue
{
	Datum		value;
	SckptRef	entry;
	int			call;
	bool		changed;		/* since it was flattened */
} LiveValue;

/* An aggregate call, ready to run. */
typedef struct Call
{
	FmgrInfo	transition;
	FunctionCallInfo fcinfo;
	int			nargs;
	AttrNumber *args;			/* columns of the source */
	AttrNumber	filter;
	bool		strict;
	bool		internal;
	bool		by_value;
	int16		length;
	Oid			type;			/* of the transition value */
	Datum		initial;
	bool		initial_null;
	bool		has_final;
	bool		final_strict;
	bool		final_reads_only;
	int			final_nargs;
	FmgrInfo	final;
	FmgrInfo	serialize;
	FmgrInfo	deserialize;
	FmgrInfo	combine;		/* fn_oid is invalid: none */
	Oid			collation;
	bool		result_by_value;
	int16		result_length;
	SckptCodec	codec;			/* of the transition value, unless internal */
	char	   *signature;		/* names the aggregate and its argument types */
} Call;

typedef struct Aggregate
{
	SckptOperator operator;
	SckptQuery *query;
	MemoryContext context;
	MemoryContext live_context;
	MemoryContext row_context;	/* reset after each row and each result */
	AggState   *agg_state;		/* what aggregate functions see */
	SckptGroupKey *key;
	Call	   *calls;
	int			ncalls;
	Size		flags_offset;	/* within an entry */
	Size		key_offset;
	LiveValue  *live;
	uint32		nlive;
	uint32		maxlive;
	Datum	   *key_values;		/* of the row at hand */
	bool	   *key_nulls;
	/* rows waiting to be looked up, where the query's values are stable */
	int			ncolumns;		/* of the source */
	int			nblock;
	uint32	   *block_hashes;
	Datum	   *block_values;	/* ncolumns for each row */
	bool	   *block_nulls;
	/* for results */
	EState	   *estate;
	TupleTableSlot *group_slot;
	ProjectionInfo *projection;
	ExprState  *having;
} Aggregate;

static inline AggregateValue *
entry_values(SckptEntry *entry)
{
	return (AggregateValue *) ((char *) entry + SCKPT_ENTRY_HEADER);
}

static inline uint8 *
entry_flags(Aggregate *agg, SckptEntry *entry)
{
	return (uint8 *) entry + agg->flags_offset;
}

static inline char *
entry_key(Aggregate *agg, SckptEntry *entry)
{
	return (char *) entry + agg->key_offset;
}

/* ---- Flat and live values ---- */

static inline Datum
flat_value(Aggregate *agg, SckptRef ref)
{
	return PointerGetDatum((char *) sckpt_state_address(agg->operator.state, ref) + sizeof(FlatHeader));
}

/* Put `len` bytes into a value's chunk, which is replaced when it is too small or far too large. */
static char *
flat_room(Aggregate *agg, AggregateValue *value, Size len)
{
	SckptState *state = agg->operator.state;
	FlatHeader *header = NULL;
	Size		need = sizeof(FlatHeader) + len;

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
	return (char *) header + sizeof(FlatHeader);
}

static Size
value_size(Call *call, Datum value)
{
	if (call->length == -1)
		return VARSIZE_ANY(DatumGetPointer(value));
	if (call->length == -2)
		return strlen(DatumGetCString(value)) + 1;
	return call->length;
}

/* Copy a by-reference value, not an expanded one, into the store. */
static void
set_flat(Aggregate *agg, Call *call, AggregateValue *value, Datum new)
{
	Size		len;

	if (call->length == -1 && VARATT_IS_EXTERNAL(DatumGetPointer(new)))
		new = PointerGetDatum(PG_DETOAST_DATUM_COPY(new));
	len = value_size(call, new);

	/* The new value may lie inside the old one. */
	if (value->object.ref != SCKPT_NO_REF)
	{
		FlatHeader *header = sckpt_state_address(agg->operator.state, value->object.ref);

		if (DatumGetPointer(new) > (char *) header && DatumGetPointer(new) < (char *) header + header->size)
		{
			void	   *copy = palloc(len);

			memcpy(copy, DatumGetPointer(new), len);
			new = PointerGetDatum(copy);
		}
	}
	memcpy(flat_room(agg, value, len), DatumGetPointer(new), len);
}

static LiveValue *
add_live(Aggregate *agg, SckptRef ref, int call, AggregateValue *value)
{
	LiveValue  *live;

	if (agg->nlive == agg->maxlive)
	{
		agg->maxlive = Max(64, agg->maxlive * 2);
		if (agg->live)
			agg->live = repalloc_huge(agg->live, (Size) agg->maxlive * sizeof(LiveValue));
		else
			agg->live = MemoryContextAllocHuge(agg->context, (Size) agg->maxlive * sizeof(LiveValue));
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
static Datum
deserialize(Aggregate *agg, Call *call, SckptRef ref)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, &call->deserialize, 2, InvalidOid, (Node *) agg->agg_state, NULL);
	fcinfo->args[0].value = flat_value(agg, ref);
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
revive(Aggregate *agg, Call *call, SckptRef ref)
{
	LOCAL_FCINFO(fcinfo, 2);
	MemoryContext old;
	Datum		partial;
	Datum		result;

	if (!OidIsValid(call->combine.fn_oid))
		return deserialize(agg, call, ref);
	old = MemoryContextSwitchTo(agg->row_context);
	partial = deserialize(agg, call, ref);
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
flatten_live(Aggregate *agg, LiveValue *live)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, live->entry);
	AggregateValue *value = &entry_values(entry)[live->call];
	Call	   *call = &agg->calls[live->call];

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
		memcpy(flat_room(agg, value, VARSIZE(DatumGetPointer(bytes))), DatumGetPointer(bytes),
			   VARSIZE(DatumGetPointer(bytes)));
	}
	else
	{
		ExpandedObjectHeader *object = DatumGetEOHP(live->value);
		Size		len = EOH_get_flat_size(object);

		EOH_flatten_into(object, flat_room(agg, value, len), len);
	}
	live->changed = false;
}

static void
aggregate_flush(SckptOperator *operator)
{
	Aggregate  *agg = (Aggregate *) operator;
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
	Aggregate  *agg = (Aggregate *) operator;

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
add_group(Aggregate *agg, uint32 hash)
{
	Size		bytes = agg->key_offset - SCKPT_ENTRY_HEADER +
		sckpt_group_key_size(agg->key, agg->key_values, agg->key_nulls);
	SckptRef	ref = sckpt_state_insert(agg->operator.state, hash, bytes);
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
	AggregateValue *values = entry_values(entry);
	uint8	   *flags = entry_flags(agg, entry);

	sckpt_group_key_store(agg->key, entry_key(agg, entry), agg->key_values, agg->key_nulls);
	for (int i = 0; i < agg->ncalls; i++)
	{
		Call	   *call = &agg->calls[i];

		if (call->initial_null)
			flags[i] = VALUE_NULL | (call->strict ? VALUE_ABSENT : 0);
		else if (call->by_value)
			values[i].value = call->initial;
		else
			set_flat(agg, call, &values[i], call->initial);
	}
	return ref;
}

static SckptRef
find_group(Aggregate *agg, uint32 hash)
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

/*
 * Store what a transition function returned for a value kept by reference or as a live object.
 */
static void
store_object(Aggregate *agg, Call *call, int index, SckptRef ref, AggregateValue *value, uint8 *flags,
			 Datum old, Datum new, bool isnull)
{
	LiveValue  *live = value->object.live ? &agg->live[value->object.live - 1] : NULL;

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
		set_flat(agg, call, value, new);
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
current_value(Aggregate *agg, Call *call, int index, SckptRef ref, AggregateValue *value)
{
	if (call->by_value && !call->internal)
		return value->value;
	if (value->object.live && agg->live[value->object.live - 1].value)
		return agg->live[value->object.live - 1].value;
	if (call->internal)
	{
		MemoryContext old = MemoryContextSwitchTo(agg->live_context);
		LiveValue  *live = value->object.live ? &agg->live[value->object.live - 1] : add_live(agg, ref, index, value);

		live->value = revive(agg, call, value->object.ref);
		MemoryContextSwitchTo(old);
		return live->value;
	}
	return flat_value(agg, value->object.ref);
}

static inline void
advance(Aggregate *agg, int index, SckptRef ref, SckptEntry *entry, const Datum *values, const bool *nulls)
{
	Call	   *call = &agg->calls[index];
	FunctionCallInfo fcinfo = call->fcinfo;
	AggregateValue *value = &entry_values(entry)[index];
	uint8	   *flags = &entry_flags(agg, entry)[index];
	Datum		old;
	Datum		new;

	if (call->filter &&
		(nulls[call->filter - 1] || !DatumGetBool(values[call->filter - 1])))
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
				set_flat(agg, call, value, call->length == -1 &&
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
take_row(Aggregate *agg, uint32 hash, Datum *values, bool *nulls)
{
	SckptRef	ref;
	SckptEntry *entry;

	agg->key_values = values;
	agg->key_nulls = nulls;
	ref = find_group(agg, hash);
	if (ref == SCKPT_NO_REF)
		ref = add_group(agg, hash);
	entry = sckpt_state_address(agg->operator.state, ref);
	for (int i = 0; i < agg->ncalls; i++)
		advance(agg, i, ref, entry, values, nulls);
	sckpt_state_mark_dirty(agg->operator.state, ref);
	entry->flags &= ~SCKPT_ENTRY_REWRITE;
}

static void
take_block(Aggregate *agg)
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
	take_block((Aggregate *) operator);
}

static void
aggregate_consume(SckptOperator *operator, TupleTableSlot *slot, int32 weight)
{
	Aggregate  *agg = (Aggregate *) operator;
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
combine_value(Aggregate *agg, int index, SckptRef ref, SckptEntry *entry, Aggregate *other, SckptRef other_ref,
			  SckptEntry *other_entry)
{
	Call	   *call = &agg->calls[index];
	AggregateValue *value = &entry_values(entry)[index];
	uint8	   *flags = &entry_flags(agg, entry)[index];
	AggregateValue *other_value = &entry_values(other_entry)[index];
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
				set_flat(agg, call, value, input);
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
	Aggregate  *agg = (Aggregate *) operator;
	Aggregate  *other = (Aggregate *) source;
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
		ref = find_group(agg, other_entry->hash);
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
	Aggregate  *agg = (Aggregate *) operator;

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
	Aggregate  *agg = (Aggregate *) operator;
	uint32		hash;

	if (agg->key->ncolumns > 0)
		return;
	hash = sckpt_group_key_hash(agg->key, NULL, NULL);
	if (find_group(agg, hash) == SCKPT_NO_REF)
		sckpt_state_mark_dirty(operator->state, add_group(agg, hash));
}

/* ---- Portable form ---- */

static void
aggregate_describe(SckptOperator *operator, StringInfo buf)
{
	Aggregate  *agg = (Aggregate *) operator;

	appendStringInfoString(buf, "aggregate; keys");
	for (int i = 0; i < agg->key->ncolumns; i++)
		appendStringInfo(buf, " %s", format_type_extended(agg->query->keys[i].type, -1, FORMAT_TYPE_FORCE_QUALIFY));
	for (int i = 0; i < agg->ncalls; i++)
		appendStringInfo(buf, "; %s", agg->calls[i].signature);
}

/*
 * key columns: 0 for NULL, else 1 and the value; then for each call its flags and, unless
 * NULL, the value (what serialfn gave, for internal ones).
 */
static void
aggregate_pack(SckptOperator *operator, SckptEntry *entry, StringInfo buf)
{
	Aggregate  *agg = (Aggregate *) operator;
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	AggregateValue *values = entry_values(entry);
	uint8	   *flags = entry_flags(agg, entry);
	Datum		key_values[FUNC_MAX_ARGS];
	bool		key_nulls[FUNC_MAX_ARGS];
	Datum	   *keys = key_values;
	bool	   *nulls = key_nulls;

	if (agg->key->ncolumns > FUNC_MAX_ARGS)
	{
		keys = palloc(agg->key->ncolumns * sizeof(Datum));
		nulls = palloc(agg->key->ncolumns * sizeof(bool));
	}
	sckpt_group_key_load(agg->key, entry_key(agg, entry), keys, nulls);
	for (int i = 0; i < agg->key->ncolumns; i++)
	{
		appendStringInfoCharMacro(buf, nulls[i] ? 0 : 1);
		if (!nulls[i])
			sckpt_codec_write(&agg->key->columns[i].codec, buf, keys[i]);
	}
	for (int i = 0; i < agg->ncalls; i++)
	{
		Call	   *call = &agg->calls[i];

		appendStringInfoCharMacro(buf, flags[i]);
		if (flags[i] & VALUE_NULL)
			continue;
		if (call->internal)
		{
			Datum		bytes = flat_value(agg, values[i].object.ref);

			sckpt_codec_write_bytes(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		}
		else
			sckpt_codec_write(&call->codec, buf,
							  call->by_value ? values[i].value : flat_value(agg, values[i].object.ref));
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
}

static SckptRef
aggregate_unpack(SckptOperator *operator, const char **cursor, const char *end)
{
	Aggregate  *agg = (Aggregate *) operator;
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	SckptRef	ref = SCKPT_NO_REF;
	uint32		hash;

	agg->key_values = palloc0(Max(1, agg->key->ncolumns) * sizeof(Datum));
	agg->key_nulls = palloc0(Max(1, agg->key->ncolumns) * sizeof(bool));
	for (int i = 0; i < agg->key->ncolumns; i++)
	{
		agg->key_nulls[i] = sckpt_codec_read_uint(cursor, end) == 0;
		if (!agg->key_nulls[i])
			agg->key_values[i] = sckpt_codec_read(&agg->key->columns[i].codec, cursor, end);
	}
	hash = sckpt_group_key_hash(agg->key, agg->key_values, agg->key_nulls);
	if (find_group(agg, hash) == SCKPT_NO_REF)
	{
		SckptEntry *entry;
		AggregateValue *values;
		uint8	   *flags;

		ref = sckpt_state_insert(operator->state, hash, agg->key_offset - SCKPT_ENTRY_HEADER +
								 sckpt_group_key_size(agg->key, agg->key_values, agg->key_nulls));
		entry = sckpt_state_address(operator->state, ref);
		values = entry_values(entry);
		flags = entry_flags(agg, entry);
		sckpt_group_key_store(agg->key, entry_key(agg, entry), agg->key_values, agg->key_nulls);
		for (int i = 0; i < agg->ncalls; i++)
		{
			Call	   *call = &agg->calls[i];

			flags[i] = (uint8) sckpt_codec_read_uint(cursor, end);
			if (flags[i] & VALUE_NULL)
				continue;
			if (call->internal)
			{
				Size		len;
				const char *bytes = sckpt_codec_read_bytes(cursor, end, &len);
				char	   *room = flat_room(agg, &values[i], len + VARHDRSZ);

				SET_VARSIZE(room, len + VARHDRSZ);
				memcpy(VARDATA(room), bytes, len);
			}
			else if (call->by_value)
				values[i].value = sckpt_codec_read(&call->codec, cursor, end);
			else
				set_flat(agg, call, &values[i], sckpt_codec_read(&call->codec, cursor, end));
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
	return ref;
}

/* ---- Results ---- */

static void
aggregate_begin_results(SckptOperator *operator)
{
	Aggregate  *agg = (Aggregate *) operator;
	ExprContext *econtext;
	TupleDesc	desc;
	MemoryContext old;
	List	   *targets;

	agg->estate = CreateExecutorState();
	old = MemoryContextSwitchTo(agg->estate->es_query_cxt);
	desc = CreateTemplateTupleDesc(agg->key->ncolumns + agg->ncalls);
	for (int i = 0; i < agg->key->ncolumns; i++)
	{
		TupleDescInitEntry(desc, i + 1, NULL, agg->query->keys[i].type, agg->query->keys[i].typmod, 0);
		TupleDescInitEntryCollation(desc, i + 1, agg->query->keys[i].collation);
	}
	for (int i = 0; i < agg->ncalls; i++)
		TupleDescInitEntry(desc, agg->key->ncolumns + i + 1, NULL, agg->query->calls[i].aggref->aggtype, -1, 0);

	agg->group_slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	econtext = CreateExprContext(agg->estate);
	econtext->ecxt_scantuple = agg->group_slot;
	targets = (List *) expression_planner((Expr *) copyObject(agg->query->targetlist));
	agg->projection = ExecBuildProjectionInfo(targets, econtext,
											  MakeSingleTupleTableSlot(ExecTypeFromTL(targets), &TTSOpsVirtual),
											  NULL, desc);
	agg->having = ExecPrepareQual(make_ands_implicit((Expr *) copyObject(agg->query->having)), agg->estate);
	MemoryContextSwitchTo(old);
}

/* The aggregate's result for an entry, palloc'd in the current context or pointing into the store. */
static Datum
final_value(Aggregate *agg, int index, SckptEntry *entry, bool *isnull)
{
	Call	   *call = &agg->calls[index];
	AggregateValue *value = &entry_values(entry)[index];
	bool		value_null = (entry_flags(agg, entry)[index] & VALUE_NULL) != 0;
	Datum		current = (Datum) 0;
	Datum		result;
	LOCAL_FCINFO(fcinfo, FUNC_MAX_ARGS);

	if (!value_null)
	{
		if (call->internal)
		{
			/* A final function that scribbles on its input gets a copy. */
			if (call->final_reads_only && value->object.live && agg->live[value->object.live - 1].value)
				current = agg->live[value->object.live - 1].value;
			else
				current = deserialize(agg, call, value->object.ref);
		}
		else if (call->by_value)
			current = value->value;
		else
		{
			current = flat_value(agg, value->object.ref);
			if (call->has_final && !call->final_reads_only)
				current = datumCopy(current, false, call->length);
		}
	}
	if (!call->has_final || (call->final_strict && (value_null || call->final_nargs > 1)))
	{
		*isnull = value_null || call->has_final;
		return current;
	}

	InitFunctionCallInfoData(*fcinfo, &call->final, call->final_nargs, call->collation,
							 (Node *) agg->agg_state, NULL);
	fcinfo->args[0].value = current;
	fcinfo->args[0].isnull = value_null;
	for (int i = 1; i < call->final_nargs; i++)
	{
		fcinfo->args[i].value = (Datum) 0;
		fcinfo->args[i].isnull = true;
	}
	result = FunctionCallInvoke(fcinfo);
	*isnull = fcinfo->isnull;
	return result;
}

static bool
aggregate_result(SckptOperator *operator, SckptEntry *entry, TupleTableSlot **slot)
{
	Aggregate  *agg = (Aggregate *) operator;
	ExprContext *econtext = agg->projection->pi_exprContext;
	MemoryContext old;

	ResetExprContext(econtext);
	old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	ExecClearTuple(agg->group_slot);
	sckpt_group_key_load(agg->key, entry_key(agg, entry), agg->group_slot->tts_values, agg->group_slot->tts_isnull);
	for (int i = 0; i < agg->ncalls; i++)
		agg->group_slot->tts_values[agg->key->ncolumns + i] =
			final_value(agg, i, entry, &agg->group_slot->tts_isnull[agg->key->ncolumns + i]);
	ExecStoreVirtualTuple(agg->group_slot);
	MemoryContextSwitchTo(old);

	*slot = ExecProject(agg->projection);
	return ExecQual(agg->having, econtext);
}

static void
aggregate_end_results(SckptOperator *operator)
{
	Aggregate  *agg = (Aggregate *) operator;

	if (agg->estate == NULL)
		return;
	ExecDropSingleTupleTableSlot(agg->projection->pi_state.resultslot);
	ExecDropSingleTupleTableSlot(agg->group_slot);
	FreeExecutorState(agg->estate);
	agg->estate = NULL;
}

/* ---- Setting up ---- */

static void
check_execute(Oid function, Oid owner, ObjectType type)
{
	AclResult	result = pg_proc_aclcheck(function, owner, ACL_EXECUTE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, type, get_func_name(function));
}

static void
prepare_call(Aggregate *agg, Call *call, SckptCall *source)
{
	Aggref	   *aggref = source->aggref;
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate form;
	Oid			input_types[FUNC_MAX_ARGS];
	int			ninputs;
	Oid			owner;
	Oid			final_oid;
	Expr	   *expr;
	Datum		initial;
	StringInfoData signature;
	HeapTuple	proc;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);

	/* The pipeline's owner may run the aggregate; the aggregate's owner its parts. */
	check_execute(aggref->aggfnoid, GetUserId(), OBJECT_AGGREGATE);
	proc = SearchSysCache1(PROCOID, ObjectIdGetDatum(aggref->aggfnoid));
	owner = ((Form_pg_proc) GETSTRUCT(proc))->proowner;
	ReleaseSysCache(proc);
	check_execute(form->aggtransfn, owner, OBJECT_FUNCTION);

	ninputs = get_aggregate_argtypes(aggref, input_types);
	call->type = resolve_aggregate_transtype(aggref->aggfnoid, form->aggtranstype, input_types, ninputs);
	call->internal = call->type == INTERNALOID;
	get_typlenbyval(call->type, &call->length, &call->by_value);
	call->nargs = source->nargs;
	call->args = source->args;
	call->filter = source->filter;
	call->collation = aggref->inputcollid;
	get_typlenbyval(aggref->aggtype, &call->result_length, &call->result_by_value);

	build_aggregate_transfn_expr(input_types, ninputs, 0, aggref->aggvariadic, call->type, aggref->inputcollid,
								 form->aggtransfn, InvalidOid, &expr, NULL);
	fmgr_info_cxt(form->aggtransfn, &call->transition, agg->context);
	fmgr_info_set_expr((Node *) expr, &call->transition);
	call->strict = call->transition.fn_strict;
	call->fcinfo = palloc0(SizeForFunctionCallInfo(call->nargs + 1));
	InitFunctionCallInfoData(*call->fcinfo, &call->transition, call->nargs + 1, aggref->inputcollid,
							 (Node *) agg->agg_state, NULL);

	final_oid = form->aggfinalfn;
	call->has_final = OidIsValid(final_oid);
	call->final_reads_only = form->aggfinalmodify == AGGMODIFY_READ_ONLY;
	if (call->has_final)
	{
		check_execute(final_oid, owner, OBJECT_FUNCTION);
		call->final_nargs = form->aggfinalextra ? ninputs + 1 : 1;
		build_aggregate_finalfn_expr(input_types, call->final_nargs, call->type, aggref->aggtype,
									 aggref->inputcollid, final_oid, &expr);
		fmgr_info_cxt(final_oid, &call->final, agg->context);
		fmgr_info_set_expr((Node *) expr, &call->final);
		call->final_strict = call->final.fn_strict;
	}

	if (OidIsValid(form->aggcombinefn))
	{
		check_execute(form->aggcombinefn, owner, OBJECT_FUNCTION);
		build_aggregate_transfn_expr(&call->type, 1, 0, false, call->type, aggref->inputcollid,
									 form->aggcombinefn, InvalidOid, &expr, NULL);
		fmgr_info_cxt(form->aggcombinefn, &call->combine, agg->context);
		fmgr_info_set_expr((Node *) expr, &call->combine);
	}
	if (call->internal)
	{
		check_execute(form->aggserialfn, owner, OBJECT_FUNCTION);
		check_execute(form->aggdeserialfn, owner, OBJECT_FUNCTION);
		build_aggregate_serialfn_expr(form->aggserialfn, &expr);
		fmgr_info_cxt(form->aggserialfn, &call->serialize, agg->context);
		fmgr_info_set_expr((Node *) expr, &call->serialize);
		build_aggregate_deserialfn_expr(form->aggdeserialfn, &expr);
		fmgr_info_cxt(form->aggdeserialfn, &call->deserialize, agg->context);
		fmgr_info_set_expr((Node *) expr, &call->deserialize);
	}
	else
		sckpt_codec_init(&call->codec, call->type, -1, agg->context);

	initial = SysCacheGetAttr(AGGFNOID, tuple, Anum_pg_aggregate_agginitval, &call->initial_null);
	if (!call->initial_null)
	{
		Oid			input;
		Oid			param;

		getTypeInputInfo(call->type, &input, &param);
		call->initial = OidInputFunctionCall(input, TextDatumGetCString(initial), param, -1);
	}

	initStringInfo(&signature);
	appendStringInfo(&signature, "%s.%s(", get_namespace_name(get_func_namespace(aggref->aggfnoid)),
					 get_func_name(aggref->aggfnoid));
	for (int i = 0; i < ninputs; i++)
		appendStringInfo(&signature, "%s%s", i ? "," : "",
						 format_type_extended(input_types[i], -1, FORMAT_TYPE_FORCE_QUALIFY));
	appendStringInfo(&signature, ") as %s", format_type_extended(call->type, -1, FORMAT_TYPE_FORCE_QUALIFY));
	call->signature = signature.data;
	ReleaseSysCache(tuple);
}

static void
aggregate_destroy(SckptOperator *operator)
{
	Aggregate  *agg = (Aggregate *) operator;

	sckpt_state_destroy(operator->state);
	FreeExprContext(agg->agg_state->curaggcontext, true);
	MemoryContextDelete(agg->context);
}

SckptOperator *
sckpt_aggregate_create(SckptQuery *query, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt aggregate", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Aggregate  *agg = palloc0(sizeof(Aggregate));
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
	agg->calls = palloc0(Max(1, agg->ncalls) * sizeof(Call));
	for (int i = 0; i < agg->ncalls; i++)
		prepare_call(agg, &agg->calls[i], &query->calls[i]);
	agg->flags_offset = SCKPT_ENTRY_HEADER + agg->ncalls * sizeof(AggregateValue);
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
	agg->operator.describe = aggregate_describe;
	agg->operator.flush = aggregate_flush;
	agg->operator.pack = aggregate_pack;
	agg->operator.unpack = aggregate_unpack;
	agg->operator.begin_results = aggregate_begin_results;
	agg->operator.result = aggregate_result;
	agg->operator.end_results = aggregate_end_results;
	agg->operator.destroy = aggregate_destroy;
	agg->operator.mergeable = aggregate_mergeable;
	agg->operator.merge = aggregate_merge;
	MemoryContextSwitchTo(old);
	return &agg->operator;
}
