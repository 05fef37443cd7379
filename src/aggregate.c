/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *		The aggregate operator: GROUP BY with PostgreSQL's own aggregates.
 *
 * An entry of the store is
 *
 *		SckptEntry | SckptAggValue × ncalls | parts that the query needs | flags × ncalls | key (group.h)
 *
 * where the parts are a timer's links (groups that close or are forgotten), when it was touched (state_ttl), a weight (rows can be taken
 * back), the result handed on (there is a stage above), counts of inputs (aggregate_inverse.c), the head of its elements (DISTINCT, ordered
 * aggregates), a session's times.
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
#include "utils/memutils.h"

#include "aggregate_private.h"

/* ---- Groups ---- */

void
sckpt_aggregate_initialize_value(SckptAggregate *agg, int index, SckptEntry *entry)
{
	SckptAggCall *call = &agg->calls[index];
	SckptAggValue *value = &entry_values(entry)[index];
	uint8	   *flags = &entry_flags(agg, entry)[index];

	*flags = 0;
	if (call->mode == SCKPT_CALL_COLLECT)
		return;
	if (call->mode == SCKPT_CALL_INVERSE)
		entry_counts(agg, entry)[call->count] = 0;
	if (call->initial_null)
		*flags = VALUE_NULL | (call->strict ? VALUE_ABSENT : 0);
	else if (call->by_value)
		value->value = call->initial;
	else
		sckpt_aggregate_set_flat(agg, call, value, call->initial);
}

void
sckpt_aggregate_initialize(SckptAggregate *agg, SckptRef ref)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);

	if (agg->rank_offset)
		memset(entry_rank(agg, entry), 0, sizeof(SckptAggRank));
	for (int i = 0; i < agg->ncalls; i++)
		sckpt_aggregate_initialize_value(agg, i, entry);
}

Size
sckpt_aggregate_entry_bytes(SckptAggregate *agg, Datum *values, bool *nulls)
{
	return agg->key_offset - SCKPT_ENTRY_HEADER + sckpt_group_key_size(agg->key, agg->key_offset, values, nulls);
}

SckptRef
sckpt_aggregate_add_group(SckptAggregate *agg, uint32 hash)
{
	SckptRef	ref = sckpt_state_insert(agg->operator.state, hash,
										 sckpt_aggregate_entry_bytes(agg, agg->key_values, agg->key_nulls));
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);

	sckpt_group_key_store(agg->key, entry_key(agg, entry), agg->key_values, agg->key_nulls);
	if (agg->timers)
		entry_timer(agg, entry)->at = SCKPT_NEVER;
	if (agg->sets)
		entry_head(agg, entry)->id = sckpt_aggregate_new_id(agg);
	if (agg->touched_offset)
		*entry_touched(agg, entry) = DT_NOBEGIN;
	sckpt_aggregate_initialize(agg, ref);
	return ref;
}

/* Is that entry the group at hand? */
static inline bool
is_group(SckptAggregate *agg, SckptRef ref)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);

	return sckpt_group_key_equal(agg->key, entry_key(agg, entry), agg->key_values, agg->key_nulls);
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
		if (is_group(agg, ref))
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
	uint32		hash;

	agg->key_values = values;
	agg->key_nulls = nulls;
	hash = sckpt_group_key_hash(agg->key, values, nulls);
	if (agg->sessions)
	{
		int			plain = agg->key->ncolumns;
		int			start = -1;
		int			end = -1;

		for (int i = plain; i < agg->query->nkeys; i++)
		{
			if (agg->query->keys[i].bound == SCKPT_BOUND_START)
				start = i;
			else
				end = i;
		}
		ref = sckpt_session_find_emitted(agg, hash, start < 0 ? 0 : DatumGetTimestampTz(values[start]),
										 end < 0 ? 0 : DatumGetTimestampTz(values[end]), start >= 0, end >= 0);
	}
	else
		ref = sckpt_aggregate_find_group(agg, hash);
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
	return ref;
}

/* ---- Transitions ---- */

/*
 * The transition of a value that is there by an input in `column` (counted from 0; -1: no arguments).  True if it is done;
 * false: the function must be called, also to raise its errors.
 */
static inline bool
advance_plain(SckptAggPlain plain, int column, SckptAggValue *value, const Datum *values, const bool *nulls)
{
	Datum		input = (Datum) 0;
	float8		sum;

	if (column >= 0)
	{
		if (nulls[column])
			return true;
		input = values[column];
	}
	switch (plain)
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
		case SCKPT_AGG_MIN_INT4:
			value->value = Int32GetDatum(Min(DatumGetInt32(value->value), DatumGetInt32(input)));
			return true;
		case SCKPT_AGG_MAX_INT4:
			value->value = Int32GetDatum(Max(DatumGetInt32(value->value), DatumGetInt32(input)));
			return true;
		case SCKPT_AGG_MIN_INT8:
			value->value = Int64GetDatum(Min(DatumGetInt64(value->value), DatumGetInt64(input)));
			return true;
		case SCKPT_AGG_MAX_INT8:
			value->value = Int64GetDatum(Max(DatumGetInt64(value->value), DatumGetInt64(input)));
			return true;
		case SCKPT_AGG_CALLED:
			break;
	}
	return false;
}

static inline bool
passes_filter(SckptAggCall *call, const Datum *values, const bool *nulls)
{
	return call->filter == 0 || (!nulls[call->filter - 1] && DatumGetBool(values[call->filter - 1]));
}

static inline int
first_column(SckptAggCall *call)
{
	return call->nargs > 0 ? call->args[0] - 1 : -1;
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

	if (call->plain != SCKPT_AGG_CALLED && *flags == 0 && advance_plain(call->plain, first_column(call), value, values, nulls))
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
	old = fcinfo->args[0].isnull ? (Datum) 0 : sckpt_aggregate_value(agg, call, index, ref, value);
	fcinfo->args[0].value = old;
	fcinfo->isnull = false;
	new = FunctionCallInvoke(fcinfo);
	sckpt_aggregate_store(agg, call, index, ref, value, flags, old, new, fcinfo->isnull);
}

void
sckpt_aggregate_advance(SckptAggregate *agg, int call, SckptRef ref, const Datum *values, const bool *nulls)
{
	advance(agg, call, ref, sckpt_state_address(agg->operator.state, ref), values, nulls);
}

/* Counts of rows that can be taken back: the only such values in TRANSITION mode. */
static inline void
count_weight(SckptAggregate *agg, int index, SckptEntry *entry, const bool *nulls, int32 weight)
{
	SckptAggCall *call = &agg->calls[index];
	SckptAggValue *value = &entry_values(entry)[index];

	if (call->nargs > 0 && nulls[call->args[0] - 1])
		return;
	value->value = Int64GetDatum(DatumGetInt64(value->value) + weight);
}

/* Give a row to a group that keeps its first rows; false: it is none of them. */
static bool
take_ranked(SckptAggregate *agg, SckptRef ref, SckptEntry *entry, const Datum *values, const bool *nulls, int32 weight)
{
	SckptAggSet *set = &agg->set_calls[0];

	for (int j = 0; j < set->ncolumns; j++)
	{
		set->values[j] = values[set->source[j] - 1];
		set->nulls[j] = nulls[set->source[j] - 1];
	}
	return sckpt_rank_take(agg, ref, entry, set->values, set->nulls, weight);
}

/* Give a row's values to the group's sets, and the new ones to the DISTINCT calls. */
static void
take_elements(SckptAggregate *agg, SckptRef ref, SckptEntry *entry, const Datum *values, const bool *nulls, int32 weight)
{
	for (int i = 0; i < agg->nsets; i++)
	{
		SckptAggSet *set = &agg->set_calls[i];
		uint64		bits = 0;

		for (int j = 0; j < set->ncalls; j++)
		{
			SckptAggCall *call = &agg->calls[set->calls[j]];
			bool		wanted = passes_filter(call, values, nulls);

			for (int k = 0; k < call->nargs && wanted && call->strict; k++)
				wanted = !nulls[call->args[k] - 1];
			if (wanted)
				bits |= UINT64CONST(1) << j;
		}
		if (bits == 0)
			continue;
		for (int j = 0; j < set->ncolumns; j++)
		{
			set->values[j] = values[set->source[j] - 1];
			set->nulls[j] = nulls[set->source[j] - 1];
		}
		if (set->counted)
		{
			sckpt_sets_add(agg->sets, ref, i, set->values, set->nulls, weight);
			if (agg->undo)
				sckpt_undo_element(agg, ref, i, set->values, set->nulls, weight);
			continue;
		}
		bits = sckpt_sets_mark(agg->sets, ref, i, set->values, set->nulls, bits);
		if (agg->undo && bits)
			sckpt_undo_element(agg, ref, i, set->values, set->nulls, (int64) bits);
		for (; bits != 0; bits &= bits - 1)
			advance(agg, set->calls[pg_rightmost_one_pos64(bits)], ref, entry, values, nulls);
	}
}

/* ---- Consuming rows ---- */

/* What is to be done for a row of a query with more than groups and transition values; `ref` is its likely group, or none. */
static void
take_extended(SckptAggregate *agg, uint32 hash, SckptRef ref, Datum *values, bool *nulls, uint32 segment, int32 weight)
{
	SckptEntry *entry;

	agg->key_values = values;
	agg->key_nulls = nulls;
	if (agg->sessions)
	{
		SckptWindow *window = &agg->query->windows[0];
		TimestampTz start = DatumGetTimestampTz(values[window->time - 1]);

		ref = sckpt_session_place(agg, hash, start, add_time(start, window->spec.size));
	}
	else if (ref == SCKPT_NO_REF || !is_group(agg, ref))
	{
		ref = sckpt_aggregate_find_group(agg, hash);
		if (ref == SCKPT_NO_REF)
		{
			ref = sckpt_aggregate_add_group(agg, hash);
			if (agg->undo)
				sckpt_undo_added(agg, ref);
			if (agg->timers && agg->ndues > 0 && agg->query->ttl == 0)
				sckpt_aggregate_register(agg, ref, values, nulls);
		}
	}
	entry = sckpt_state_address(agg->operator.state, ref);
	if (agg->undo && !agg->touched_offset)
		sckpt_undo_entry(agg, ref);
	if (agg->touched_offset)
	{
		TimestampTz *touched = entry_touched(agg, entry);
		TimestampTz before = agg->input->before[segment].clock;
		TimestampTz now = agg->input->after[segment].clock;

		if (*touched != DT_NOBEGIN && before != DT_NOBEGIN && add_time(*touched, agg->query->ttl) <= before)
		{
			if (agg->undo)
				sckpt_undo_reset(agg, ref);
			sckpt_aggregate_reset(agg, ref);
		}
		if (agg->undo)
			sckpt_undo_entry(agg, ref);

		/* By event time, a row touches it at its own time, or when it comes if that is later. */
		if (agg->query->event_time)
		{
			int			column = agg->query->time - 1;

			now = before;
			if (agg->query->time && !nulls[column] && !TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(values[column])))
				now = Max(now, DatumGetTimestampTz(values[column]));
		}
		*touched = Max(*touched, now);

		/* The registered time is a lower bound, unless there is none yet. */
		if (entry_timer(agg, entry)->at == SCKPT_NEVER)
			sckpt_aggregate_register(agg, ref, values, nulls);
	}
	if (agg->weight_offset)
	{
		*entry_weight(agg, entry) += weight;
		if (entry->flags & SCKPT_ENTRY_GONE)
			entry->flags &= ~(SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_RETRACT | SCKPT_ENTRY_GONE);
	}
	for (int i = 0; i < agg->ncalls; i++)
	{
		SckptAggCall *call = &agg->calls[i];

		if ((call->mode != SCKPT_CALL_TRANSITION && call->mode != SCKPT_CALL_INVERSE) || !passes_filter(call, values, nulls))
			continue;
		if (call->mode == SCKPT_CALL_INVERSE)
			sckpt_aggregate_advance_inverse(agg, i, ref, values, nulls, weight);
		else if (agg->weight_offset)
			count_weight(agg, i, entry, nulls, weight);
		else
			advance(agg, i, ref, entry, values, nulls);
	}
	if (agg->ranker)
	{
		if (!take_ranked(agg, ref, entry, values, nulls, weight) && !agg->touched_offset)
			return;
	}
	else if (agg->sets)
		take_elements(agg, ref, entry, values, nulls, weight);
	sckpt_state_mark_dirty(agg->operator.state, ref);
	entry->flags &= ~SCKPT_ENTRY_REWRITE;
}

/* The group of a row; added if need be. */
static pg_noinline SckptRef
find_or_add_group(SckptAggregate *agg, uint32 hash, Datum *values, bool *nulls)
{
	SckptRef	ref = sckpt_aggregate_find_group(agg, hash);

	if (ref == SCKPT_NO_REF)
	{
		ref = sckpt_aggregate_add_group(agg, hash);
		if (unlikely(agg->undo))
			sckpt_undo_added(agg, ref);
		if (agg->timers)
			sckpt_aggregate_register(agg, ref, values, nulls);
	}
	else if (unlikely(agg->undo))
		sckpt_undo_entry(agg, ref);
	return ref;
}

/* The group of a row, and its reference, which comes in as the likely one, or none; added if need be, and marked as changed. */
static inline SckptEntry *
place_row(SckptAggregate *agg, uint32 hash, SckptRef *ref, Datum *values, bool *nulls)
{
	SckptState *state = agg->operator.state;
	SckptEntry *entry = NULL;

	agg->key_values = values;
	agg->key_nulls = nulls;
	if (likely(*ref != SCKPT_NO_REF && !agg->undo))
		entry = sckpt_state_address(state, *ref);
	if (unlikely(entry == NULL || !sckpt_group_key_equal(agg->key, entry_key(agg, entry), values, nulls)))
	{
		*ref = find_or_add_group(agg, hash, values, nulls);
		entry = sckpt_state_address(state, *ref);
	}
	if ((entry->flags & (SCKPT_ENTRY_DIRTY | SCKPT_ENTRY_REWRITE)) != SCKPT_ENTRY_DIRTY)
	{
		sckpt_state_mark_entry(state, *ref, entry);
		entry->flags &= ~SCKPT_ENTRY_REWRITE;
	}
	return entry;
}

/* Take a row in: find or add its group, and advance the aggregates. */
static inline void
take_row(SckptAggregate *agg, uint32 hash, Datum *values, bool *nulls, uint32 segment, int32 weight)
{
	SckptRef	ref = SCKPT_NO_REF;
	SckptEntry *entry;

	if (agg->extended)
	{
		take_extended(agg, hash, ref, values, nulls, segment, weight);
		return;
	}
	entry = place_row(agg, hash, &ref, values, nulls);
	for (int i = 0; i < agg->ncalls; i++)
	{
		if (passes_filter(&agg->calls[i], values, nulls))
			advance(agg, i, ref, entry, values, nulls);
	}
}

/* Advance one aggregate by all rows of the block, whose groups are known; `plain` is a constant to the compiler. */
static pg_attribute_always_inline void
advance_rows(SckptAggregate *agg, int index, int n, SckptAggPlain plain)
{
	SckptAggCall *call = &agg->calls[index];
	int			column = first_column(call);
	Size		value_offset = SCKPT_ENTRY_HEADER + index * sizeof(SckptAggValue);
	Size		flags_offset = agg->flags_offset + index;
	int			ncolumns = agg->room.ncolumns;
	const Datum *values = agg->room.values;
	const bool *nulls = agg->room.nulls;

	for (int i = 0; i < n; i++, values += ncolumns, nulls += ncolumns)
	{
		SckptEntry *entry = agg->block_entries[i];

		if (!passes_filter(call, values, nulls))
			continue;
		if (plain != SCKPT_AGG_CALLED && *((uint8 *) entry + flags_offset) == 0 &&
			advance_plain(plain, column, (SckptAggValue *) ((char *) entry + value_offset), values, nulls))
			continue;
		advance(agg, index, agg->block_refs[i], entry, values, nulls);
	}
}

static void
advance_block(SckptAggregate *agg, int index, int n)
{
	SckptAggPlain plain = agg->calls[index].plain;

	if (plain == SCKPT_AGG_COUNT)
		advance_rows(agg, index, n, SCKPT_AGG_COUNT);
	else if (plain == SCKPT_AGG_SUM_FLOAT8)
		advance_rows(agg, index, n, SCKPT_AGG_SUM_FLOAT8);
	else
		advance_rows(agg, index, n, plain);
}

static void
take_block(SckptAggregate *agg)
{
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	SckptState *state = agg->operator.state;
	int			ncolumns = agg->room.ncolumns;
	Datum	   *values = agg->room.values;
	bool	   *nulls = agg->room.nulls;
	uint32	   *hashes = agg->block_hashes;
	SckptRef   *refs = agg->block_refs;
	int			n = agg->room.nrows;

	agg->room.nrows = 0;
	for (int i = 0; i < n; i++)
	{
		hashes[i] = sckpt_group_key_hash(agg->key, values + i * ncolumns, nulls + i * ncolumns);
		sckpt_state_prefetch(state, hashes[i]);
	}
	for (int i = 0; i < n; i++)
		refs[i] = sckpt_state_prefetch_entry(state, hashes[i]);
	if (agg->rank_offset)
		sckpt_rank_prefetch(agg, refs, n);
	for (int i = 0; i < n; i++, values += ncolumns, nulls += ncolumns)
	{
		if (agg->extended)
			take_extended(agg, hashes[i], refs[i], values, nulls, agg->block_segments[i], 1);
		else
			agg->block_entries[i] = place_row(agg, hashes[i], &refs[i], values, nulls);
	}
	for (int i = 0; i < agg->ncalls && !agg->extended; i++)
		advance_block(agg, i, n);
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
}

static void
aggregate_begin_rows(SckptOperator *operator, const SckptInput *input, const SckptTimes *times)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	agg->input = input;
	if (times)
		agg->times = *times;
	agg->room.nrows = 0;
	agg->stale = NIL;
}

static void
aggregate_end_rows(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	take_block(agg);
	if (agg->stale)
		sckpt_aggregate_refresh(agg);
}

/* Take a row with its windows, if it has any, or put it into the block. */
static pg_attribute_always_inline void
take_slot(SckptAggregate *agg, TupleTableSlot *slot, uint32 segment, int32 weight)
{
	SckptRoom  *room = &agg->room;
	MemoryContext old;
	uint32		hash;

	if (room->capacity > 0 && !agg->undo)
	{
		int			at = room->nrows * room->ncolumns;

		memcpy(room->values + at, slot->tts_values, room->ncolumns * sizeof(Datum));
		memcpy(room->nulls + at, slot->tts_isnull, room->ncolumns * sizeof(bool));
		agg->block_segments[room->nrows++] = segment;
		if (room->nrows == room->capacity)
			take_block(agg);
		return;
	}

	old = MemoryContextSwitchTo(agg->row_context);
	hash = sckpt_group_key_hash(agg->key, slot->tts_values, slot->tts_isnull);
	take_row(agg, hash, slot->tts_values, slot->tts_isnull, segment, weight);
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
}

static void
take_expanded(void *arg, TupleTableSlot *row, uint32 segment, int32 weight)
{
	take_slot(arg, row, segment, weight);
}

/* Not where a row's place in the batch is asked for: that is read from the scan's slot. */
static SckptRoom *
aggregate_room(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	return agg->room.capacity > 0 && agg->undo == NULL && agg->expander == NULL && agg->query->row == 0 ? &agg->room : NULL;
}

static void
aggregate_take(SckptOperator *operator)
{
	take_block((SckptAggregate *) operator);
}

static void
aggregate_consume(SckptOperator *operator, TupleTableSlot *slot, int32 weight)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	uint32		segment = 0;

	if (weight != 1 && !agg->weight_offset)
		elog(ERROR, "aggregate over retracted rows");

	slot_getallattrs(slot);
	if (agg->expander)
	{
		sckpt_expander_take(agg->expander, agg->input, slot, weight, take_expanded, agg);
		return;
	}
	if (agg->query->row)
		segment = BlockIdGetBlockNumber(&((ItemPointer) DatumGetPointer(slot->tts_values[agg->query->row - 1]))->ip_blkid);
	take_slot(agg, slot, segment, weight);
}

/* ---- Life ---- */

/* Without GROUP BY there is one group, also over no rows. */
static void
aggregate_start(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	uint32		hash;

	if (agg->query->nkeys > 0)
		return;
	hash = sckpt_group_key_hash(agg->key, NULL, NULL);
	if (sckpt_aggregate_find_group(agg, hash) == SCKPT_NO_REF)
		sckpt_state_mark_dirty(operator->state, sckpt_aggregate_add_group(agg, hash));
}

static uint64
aggregate_order(SckptOperator *operator, SckptRef ref)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	return sckpt_group_key_order(agg->key, entry_key(agg, (SckptEntry *) sckpt_state_address(operator->state, ref)));
}

static uint32
aggregate_route(SckptOperator *operator, SckptRef ref)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	SckptEntry *entry = sckpt_state_address(operator->state, ref);
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	Datum	   *values = palloc(agg->key->ncolumns * sizeof(Datum));
	bool	   *nulls = palloc(agg->key->ncolumns * sizeof(bool));
	Datum	   *route_values = palloc(agg->query->nroutes * sizeof(Datum));
	bool	   *route_nulls = palloc(agg->query->nroutes * sizeof(bool));
	uint32		hash;

	sckpt_group_key_load(agg->key, entry_key(agg, entry), values, nulls);
	for (int i = 0; i < agg->query->nroutes; i++)
	{
		route_values[i] = values[agg->query->routes[i]];
		route_nulls[i] = nulls[agg->query->routes[i]];
	}
	hash = sckpt_group_key_hash(agg->route, route_values, route_nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
	return hash;
}

static void
aggregate_destroy(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	if (agg->expander)
		sckpt_expander_destroy(agg->expander);
	if (agg->sessions)
		sckpt_sessions_destroy(agg->sessions);
	if (agg->sets)
		sckpt_sets_destroy(agg->sets);
	sckpt_state_destroy(operator->state);
	FreeExprContext(agg->agg_state->curaggcontext, true);
	MemoryContextDelete(agg->context);
}

/* Which calls a row of a set concerns. */
static void
prepare_sets(SckptAggregate *agg)
{
	SckptQuery *query = agg->query;
	SckptSetDef *defs = palloc0(query->nsets * sizeof(SckptSetDef));

	agg->nsets = query->nsets;
	agg->set_calls = palloc0(query->nsets * sizeof(SckptAggSet));
	for (int i = 0; i < query->nsets; i++)
	{
		SckptSetColumns *columns = &query->sets[i];
		SckptAggSet *set = &agg->set_calls[i];

		defs[i].ncolumns = set->ncolumns = columns->ncolumns;
		defs[i].columns = columns->columns;
		defs[i].counted = set->counted = columns->counted;
		defs[i].order = columns->order;
		defs[i].marked_handed = sckpt_rank_knows_handed(agg);
		set->source = columns->source;
		set->calls = palloc(Max(1, agg->ncalls) * sizeof(int));
		set->values = palloc(Max(1, columns->ncolumns) * sizeof(Datum));
		set->nulls = palloc(Max(1, columns->ncolumns) * sizeof(bool));
		for (int j = 0; j < agg->ncalls; j++)
		{
			if (agg->calls[j].mode != SCKPT_CALL_TRANSITION && agg->calls[j].set == i)
				set->calls[set->ncalls++] = j;
		}
		if (set->ncalls > 64 || (set->counted && set->ncalls != 1 && query->ranking == NULL))
			elog(ERROR, "set with %d calls", set->ncalls);
	}
	agg->sets = sckpt_sets_create(agg->context, defs, agg->nsets, agg->operator.state, agg->head_offset);
	agg->operator.elements = sckpt_sets_state(agg->sets);
	agg->next_id = SCKPT_MAX_TASKS + query->task;
}

static Size
take_offset(Size *offset, Size bytes)
{
	Size		at = *offset;

	*offset += MAXALIGN(bytes);
	return at;
}

/* Where an entry's parts are. */
static void
lay_out(SckptAggregate *agg)
{
	SckptQuery *query = agg->query;
	Size		offset = SCKPT_ENTRY_HEADER + agg->ncalls * sizeof(SckptAggValue);
	int			ncounts = 0;

	for (int i = 0; i < agg->ncalls; i++)
	{
		if (agg->calls[i].mode == SCKPT_CALL_INVERSE)
			agg->calls[i].count = ncounts++;
	}

	if (agg->ndues > 0 || query->nsession > 0 || query->ttl > 0)
		agg->timer_offset = take_offset(&offset, sizeof(SckptTimerLink));
	if (query->ttl > 0)
		agg->touched_offset = take_offset(&offset, sizeof(TimestampTz));
	if (query->retracting)
		agg->weight_offset = take_offset(&offset, sizeof(int64));
	if (query->above && !query->final)
		agg->handed_offset = take_offset(&offset, sizeof(SckptRef));
	if (ncounts > 0)
		agg->counts_offset = take_offset(&offset, ncounts * sizeof(int64));
	if (query->nsets > 0)
		agg->head_offset = take_offset(&offset, SCKPT_SET_HEAD_SIZE(query->nsets));
	if (query->nsession > 0)
		agg->session_offset = take_offset(&offset, sizeof(SckptAggSession));
	if (query->ranking && !query->retracting)
		agg->rank_offset = take_offset(&offset, sizeof(SckptAggRank));
	agg->flags_offset = offset;
	agg->key_offset = offset + agg->ncalls;
	agg->extended = query->ttl > 0 || query->retracting || query->nsets > 0 || query->nsession > 0;
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
	agg->stale_context = AllocSetContextCreate(context, "stream_ckpt stale values", ALLOCSET_SMALL_SIZES);

	/* Of an AggState, aggregate functions look at nothing but the context. */
	live = CreateStandaloneExprContext();
	agg->live_context = live->ecxt_per_tuple_memory;
	agg->agg_state = makeNode(AggState);
	agg->agg_state->curaggcontext = live;

	agg->key = sckpt_group_key_create(query->keys, query->nkeys - query->nsession, context);
	if (agg->query->nroutes > 0)
		agg->route = sckpt_group_key_create(agg->query->route_keys, agg->query->nroutes, agg->context);
	agg->ncalls = query->ncalls;
	agg->calls = palloc0(Max(1, agg->ncalls) * sizeof(SckptAggCall));
	for (int i = 0; i < agg->ncalls; i++)
		sckpt_aggregate_prepare_call(agg, &agg->calls[i], &query->calls[i]);
	agg->dues = sckpt_aggregate_dues(query, &agg->ndues);
	lay_out(agg);

	agg->operator.state = sckpt_state_create(context);
	if (agg->timer_offset)
	{
		/* Windows close at times that many groups share; sessions and groups to be forgotten have times of their own. */
		int64		quantum = 1;

		if (query->nsession > 0)
			quantum = query->windows[0].spec.size / 32;
		else if (query->ttl > 0)
			quantum = query->ttl / 32;
		agg->timers = sckpt_timers_create(context, agg->operator.state, agg->timer_offset, Max(1, quantum));
	}
	if (query->ranking)
		agg->ranker = sckpt_ranker_create(agg);
	if (query->nsets > 0)
		prepare_sets(agg);
	if (query->nsession > 0)
	{
		agg->sessions = sckpt_sessions_create(agg);
		agg->operator.directory = sckpt_sessions_directory(agg->sessions);
	}
	if (query->nwindows > 0 || query->ncomputed > 0 || query->source == NULL)
		agg->expander = sckpt_expander_create(query, context);

	agg->room.ncolumns = query->nsource;
	if (query->stable && query->nkeys > 0)
	{
		agg->room.capacity = BLOCK_ROWS;
		agg->room.values = palloc(Max(1, BLOCK_ROWS * query->nsource) * sizeof(Datum));
		agg->room.nulls = palloc(Max(1, BLOCK_ROWS * query->nsource) * sizeof(bool));
		agg->block_hashes = palloc(BLOCK_ROWS * sizeof(uint32));
		agg->block_refs = palloc(BLOCK_ROWS * sizeof(SckptRef));
		agg->block_entries = palloc(BLOCK_ROWS * sizeof(SckptEntry *));
		agg->block_segments = palloc0(BLOCK_ROWS * sizeof(uint32));
	}

	agg->operator.name = query->ranking ? "rank" : "aggregate";
	agg->operator.begin_rows = aggregate_begin_rows;
	agg->operator.consume = aggregate_consume;
	agg->operator.room = aggregate_room;
	agg->operator.take = aggregate_take;
	agg->operator.end_rows = aggregate_end_rows;
	agg->operator.end_batch = sckpt_aggregate_end_batch;
	agg->operator.begin_undo = sckpt_aggregate_begin_undo;
	agg->operator.undo = sckpt_aggregate_undo;
	agg->operator.end_undo = sckpt_aggregate_end_undo;
	agg->operator.start = aggregate_start;
	agg->operator.close = sckpt_aggregate_close;
	agg->operator.next_close = sckpt_aggregate_next_close;
	agg->operator.remove = sckpt_aggregate_remove;
	agg->operator.describe = sckpt_aggregate_describe;
	agg->operator.adapt = sckpt_aggregate_adapt;
	agg->operator.flush = sckpt_aggregate_flush;
	agg->operator.pack = sckpt_aggregate_pack;
	agg->operator.begin_unpack = sckpt_aggregate_begin_unpack;
	agg->operator.unpack = sckpt_aggregate_unpack;
	agg->operator.end_unpack = sckpt_aggregate_end_unpack;
	agg->operator.find = aggregate_find;
	agg->operator.begin_results = sckpt_aggregate_begin_results;
	agg->operator.result = sckpt_aggregate_result;
	if (agg->sessions)
	{
		agg->operator.moved = sckpt_aggregate_moved;
		agg->operator.emitted = sckpt_aggregate_emitted;
	}
	agg->operator.end_results = sckpt_aggregate_end_results;
	agg->operator.key_row = sckpt_aggregate_key_row;
	if (agg->key->order != SCKPT_ORDER_NONE)
		agg->operator.order = aggregate_order;
	agg->operator.key_json = sckpt_aggregate_key_json;
	agg->operator.hand_on = sckpt_aggregate_hand_on;
	agg->operator.route = aggregate_route;
	agg->operator.destroy = aggregate_destroy;
	agg->operator.mergeable = sckpt_aggregate_mergeable;
	agg->operator.merge = sckpt_aggregate_merge;
	MemoryContextSwitchTo(old);
	return &agg->operator;
}
