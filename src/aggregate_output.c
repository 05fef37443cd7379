/*-------------------------------------------------------------------------
 *
 * aggregate_output.c
 *		What leaves the aggregate operator: entries in portable form, and result rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "aggregate_private.h"
#include "compat.h"
#include "former.h"
#include "stream.h"

/* ---- Portable form ---- */

/* A value with its length before it, so that who does not know the type any more can skip it. */
static void
write_sized(SckptCodec *codec, StringInfo buf, Datum value)
{
	int			at = buf->len;
	int			length;

	/* Nearly always the length needs no more than this byte. */
	appendStringInfoCharMacro(buf, 0);
	sckpt_codec_write(codec, buf, value);
	length = buf->len - at - 1;
	if (length < 128)
		buf->data[at] = (char) length;
	else
	{
		char	   *bytes = palloc_extended(length, MCXT_ALLOC_HUGE);

		memcpy(bytes, buf->data + at + 1, length);
		buf->len = at;
		sckpt_codec_write_bytes(buf, bytes, length);
		pfree(bytes);
	}
}

/* Where the value ends is left in *cursor. */
static Datum
read_sized(SckptCodec *codec, const char **cursor, const char *end)
{
	Size		length;
	const char *bytes = sckpt_codec_read_bytes(cursor, end, &length);

	return sckpt_codec_read(codec, &bytes, bytes + length);
}

static SckptCodec *
handed_codecs(SckptAggregate *agg)
{
	TupleDesc	desc = agg->query->result;

	if (agg->handed_codecs == NULL)
	{
		agg->handed_codecs = MemoryContextAllocZero(agg->context, Max(1, desc->natts) * sizeof(SckptCodec));
		for (int i = 0; i < desc->natts; i++)
			sckpt_codec_init(&agg->handed_codecs[i], TupleDescAttr(desc, i)->atttypid, TupleDescAttr(desc, i)->atttypmod,
							 agg->context);
	}
	return agg->handed_codecs;
}

/* The row handed on, or of a query that ranks, the rows. */
static MinimalTuple *
handed_rows(SckptAggregate *agg, SckptEntry *entry, uint64 *count)
{
	SckptRef	ref = *entry_handed(agg, entry);
	MinimalTuple *rows;

	if (agg->ranker)
		return sckpt_rank_handed(agg, entry, count);
	*count = ref != SCKPT_NO_REF;
	rows = palloc(sizeof(MinimalTuple));
	if (ref != SCKPT_NO_REF)
		rows[0] = (MinimalTuple) DatumGetPointer(sckpt_aggregate_flat_value(agg, ref));
	return rows;
}

static void
pack_handed(SckptAggregate *agg, SckptEntry *entry, StringInfo buf)
{
	SckptCodec *codecs = handed_codecs(agg);
	TupleDesc	desc = agg->query->result;
	uint64		count;
	MinimalTuple *rows = handed_rows(agg, entry, &count);
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));

	/* Of a query that ranks, 0 says that it is for the elements to know, and others are one more. */
	if (sckpt_rank_knows_handed(agg) && *entry_handed(agg, entry) == SCKPT_NO_REF)
	{
		sckpt_codec_write_uint(buf, 0);
		return;
	}
	sckpt_codec_write_uint(buf, count + (agg->ranker != NULL));
	for (uint64 n = 0; n < count; n++)
	{
		HeapTupleData tuple;

		tuple.t_len = rows[n]->t_len + MINIMAL_TUPLE_OFFSET;
		tuple.t_data = (HeapTupleHeader) ((char *) rows[n] - MINIMAL_TUPLE_OFFSET);
		heap_deform_tuple(&tuple, desc, values, nulls);
		for (int i = 0; i < desc->natts; i++)
		{
			appendStringInfoCharMacro(buf, nulls[i] ? 0 : 1);
			if (!nulls[i])
				write_sized(&codecs[i], buf, values[i]);
		}
	}
}

/* *known: the elements know them. */
static MinimalTuple *
unpack_handed(SckptAggregate *agg, const char **cursor, const char *end, uint64 *count, bool *known)
{
	SckptCodec *codecs = handed_codecs(agg);
	TupleDesc	desc = agg->query->result;
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));
	MinimalTuple *rows;

	*count = sckpt_codec_read_uint(cursor, end);
	*known = agg->ranker && *count == 0;
	if (agg->ranker && !*known)
		(*count)--;
	if (*count > (agg->ranker ? MaxAllocHugeSize / sizeof(MinimalTuple) : 1))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored state of a pipeline is corrupted"),
				 errdetail("A group has handed on too many rows.")));
	rows = palloc_extended(Max(1, *count) * sizeof(MinimalTuple), MCXT_ALLOC_HUGE);
	for (uint64 n = 0; n < *count; n++)
	{
		memset(nulls, true, desc->natts * sizeof(bool));
		for (int i = 0; i < agg->form->nhanded; i++)
		{
			int			column = agg->form->handed[i];
			Size		length;

			if (sckpt_codec_read_uint(cursor, end) == 0)
				continue;
			if (column < 0)
			{
				(void) sckpt_codec_read_bytes(cursor, end, &length);
				continue;
			}
			nulls[column] = false;
			values[column] = read_sized(&codecs[column], cursor, end);
		}
		rows[n] = heap_form_minimal_tuple(desc, values, nulls, 0);
	}
	return rows;
}

/*
 * key columns: 0 for NULL, else 1 and the value; then the parts that entries have: a session's start and end, the number for elements,
 * when touched, weight, the row handed on; then for each call its flags, the count of inputs if it has one, and, unless NULL or collected, the
 * value (what serialfn gave, for internal ones) with its length.
 */
bool
sckpt_aggregate_pack(SckptOperator *operator, bool elements, SckptEntry *entry, StringInfo buf)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	MemoryContext old;
	SckptAggValue *values = entry_values(entry);
	uint8	   *flags = entry_flags(agg, entry);
	Datum		key_values[FUNC_MAX_ARGS];
	bool		key_nulls[FUNC_MAX_ARGS];
	Datum	   *keys = key_values;
	bool	   *nulls = key_nulls;

	if (elements)
	{
		if (sckpt_sets_leaving(agg->sets, entry))
			return false;
		sckpt_sets_pack(agg->sets, entry, buf);
		return true;
	}

	old = MemoryContextSwitchTo(agg->row_context);
	if (agg->key->ncolumns > FUNC_MAX_ARGS)
	{
		keys = palloc(agg->key->ncolumns * sizeof(Datum));
		nulls = palloc(agg->key->ncolumns * sizeof(bool));
	}
	sckpt_group_key_load(agg->key, entry_key(agg, entry), keys, nulls);
	for (int i = 0; i < agg->key->ncolumns; i++)
		sckpt_codec_write_column(&agg->key->columns[i].codec, buf, keys[i], nulls[i]);
	if (agg->session_offset)
	{
		sckpt_codec_write_int(buf, entry_session(agg, entry)->start);
		sckpt_codec_write_int(buf, entry_session(agg, entry)->end);
	}
	if (agg->head_offset)
		sckpt_codec_write_uint(buf, entry_head(agg, entry)->id);
	if (agg->touched_offset)
		sckpt_codec_write_int(buf, *entry_touched(agg, entry));
	if (agg->weight_offset)
		sckpt_codec_write_int(buf, *entry_weight(agg, entry));
	if (agg->handed_offset)
		pack_handed(agg, entry, buf);
	for (int i = 0; i < agg->ncalls; i++)
	{
		SckptAggCall *call = &agg->calls[i];

		appendStringInfoCharMacro(buf, flags[i]);
		if (call->mode == SCKPT_CALL_INVERSE)
			sckpt_codec_write_uint(buf, (uint64) entry_counts(agg, entry)[call->count]);
		if ((flags[i] & VALUE_NULL) || call->mode == SCKPT_CALL_COLLECT)
			continue;
		if (call->internal)
		{
			Datum		bytes = sckpt_aggregate_flat_value(agg, values[i].object.ref);

			sckpt_codec_write_bytes(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		}
		else
			write_sized(&call->codec, buf,
						call->by_value ? values[i].value : sckpt_aggregate_flat_value(agg, values[i].object.ref));
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
	return true;
}

void
sckpt_aggregate_begin_unpack(SckptOperator *operator, bool elements, const SckptTimes *times)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	agg->unpack_times = *times;
	if (elements)
		sckpt_sets_begin_unpack(agg->sets);
}

void
sckpt_aggregate_end_unpack(SckptOperator *operator, bool elements)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	if (!elements)
		return;
	sckpt_sets_end_unpack(agg->sets);
	sckpt_rank_end_restore(agg);

	/* Numbers of groups that are gone, too, may still be in some chunk. */
	agg->next_id = Max(agg->next_id, sckpt_sets_highest_id(agg->sets, agg->query->task) + SCKPT_MAX_TASKS);
}

/* Read the parts before the values; the entry is added unless it is stale. */
static SckptRef
unpack_entry(SckptAggregate *agg, bool emitted, const char **cursor, const char *end)
{
	SckptAggSession session = {.emitted_start = DT_NOBEGIN, .emitted_end = DT_NOBEGIN};
	int64		id = 0;
	TimestampTz touched = DT_NOBEGIN;
	int64		weight = 0;
	MinimalTuple *handed = NULL;
	uint64		nhanded = 0;
	bool		known = false;
	TimestampTz now = agg->unpack_times.clock;
	uint32		hash = sckpt_group_key_hash(agg->key, agg->key_values, agg->key_nulls);
	SckptRef	ref;
	SckptEntry *entry;
	int64		closes;

	if (agg->form->session)
	{
		session.start = sckpt_codec_read_int(cursor, end);
		session.end = sckpt_codec_read_int(cursor, end);
	}
	if (agg->form->elements)
	{
		id = sckpt_codec_read_uint(cursor, end);
		if (id % SCKPT_MAX_TASKS == agg->query->task)
			agg->next_id = Max(agg->next_id, id + SCKPT_MAX_TASKS);
	}
	if (agg->form->touched)
		touched = sckpt_codec_read_int(cursor, end);
	if (agg->form->weight)
		weight = sckpt_codec_read_int(cursor, end);
	if (agg->form->handed_on)
		handed = unpack_handed(agg, cursor, end, &nhanded, &known);

	/* An older version, or one that had left already. */
	if (agg->sessions ? sckpt_session_overlaps(agg, hash, session.start, session.end)
		: sckpt_aggregate_find_group(agg, hash) != SCKPT_NO_REF)
		return SCKPT_NO_REF;
	if (touched != DT_NOBEGIN && now != DT_NOBEGIN && add_time(touched, agg->query->stored_ttl) <= now)
		return SCKPT_NO_REF;
	if (agg->sessions)
		closes = agg->query->windows[0].closes ? add_time(session.end, agg->query->lateness) : SCKPT_NEVER;
	else
		closes = sckpt_aggregate_due(agg, NULL, agg->key_values, agg->key_nulls);
	closes = add_time(closes, agg->query->stored_lateness - agg->query->lateness);
	if (now != DT_NOBEGIN && closes <= now)
		return SCKPT_NO_REF;

	ref = sckpt_aggregate_add_group(agg, agg->sessions ? sckpt_session_hash(hash, session.start) : hash);
	entry = sckpt_state_address(agg->operator.state, ref);
	if (agg->session_offset)
	{
		if (emitted)
		{
			session.emitted_start = session.start;
			session.emitted_end = session.end;
		}
		*entry_session(agg, entry) = session;
		sckpt_session_enter(agg, ref);
	}
	if (agg->head_offset && agg->form->elements)
		entry_head(agg, entry)->id = id;
	if (agg->touched_offset)
		*entry_touched(agg, entry) = agg->form->touched ? touched : now;
	if (agg->weight_offset)
		*entry_weight(agg, entry) = weight;
	if (known)
		sckpt_rank_restore_known(agg, entry);
	else if (agg->ranker && (nhanded > 0 || (agg->handed_offset && sckpt_rank_knows_handed(agg))))
		sckpt_rank_keep_handed(agg, entry, handed, nhanded);
	else if (nhanded > 0)
		sckpt_aggregate_keep_handed(agg, entry, handed[0]);
	if (agg->timers)
		sckpt_aggregate_register(agg, ref, agg->key_values, agg->key_nulls);
	return ref;
}

SckptRef
sckpt_aggregate_unpack(SckptOperator *operator, bool elements, bool emitted, const char **cursor, const char *end)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	SckptRef	ref;

	if (elements)
		ref = sckpt_sets_unpack(agg->sets, &agg->form->sets, cursor, end);
	else
	{
		agg->key_values = palloc0(Max(1, agg->key->ncolumns) * sizeof(Datum));
		agg->key_nulls = palloc0(Max(1, agg->key->ncolumns) * sizeof(bool));
		for (int i = 0; i < agg->key->ncolumns; i++)
		{
			int			column = agg->form->keys[i];

			agg->key_nulls[column] = sckpt_codec_read_uint(cursor, end) == 0;
			if (!agg->key_nulls[column])
				agg->key_values[column] = sckpt_codec_read(&agg->key->columns[column].codec, cursor, end);
		}
		ref = unpack_entry(agg, emitted, cursor, end);
		if (ref != SCKPT_NO_REF)
		{
			SckptEntry *entry = sckpt_state_address(operator->state, ref);
			SckptAggValue *values = entry_values(entry);
			uint8	   *flags = entry_flags(agg, entry);

			for (int stored = 0; stored < agg->form->ncalls; stored++)
			{
				int			i = agg->form->calls[stored];
				SckptAggCall *call;
				uint8		stored_flags = (uint8) sckpt_codec_read_uint(cursor, end);
				int64		count = agg->form->counts[stored] ? (int64) sckpt_codec_read_uint(cursor, end) : 0;
				bool		has_value = !(stored_flags & VALUE_NULL) && !agg->form->collected[stored];
				Size		len = 0;
				const char *bytes = has_value ? sckpt_codec_read_bytes(cursor, end, &len) : NULL;
				const char *at = bytes;

				if (i < 0)
					continue;	/* the query has it no more */
				call = &agg->calls[i];
				sckpt_aggregate_release(agg, call, &values[i]);
				flags[i] = stored_flags;
				if (call->mode == SCKPT_CALL_INVERSE)
					entry_counts(agg, entry)[call->count] = count;
				if (!call->strict)
					flags[i] &= ~VALUE_ABSENT;	/* it may have been, in an older version of PostgreSQL */
				if (!has_value)
					continue;
				if (agg->form->former[stored])
				{
					bytea	   *converted = sckpt_former_convert(call->source->aggref->aggfnoid,
																 sckpt_codec_read(&call->former_codec, &at, bytes + len),
																 call->mode == SCKPT_CALL_INVERSE ? count : 1);	/* sum() only asks whether there are any */

					memcpy(sckpt_aggregate_flat_room(agg, &values[i], VARSIZE(converted)), converted, VARSIZE(converted));
				}
				else if (call->internal)
				{
					char	   *room = sckpt_aggregate_flat_room(agg, &values[i], len + VARHDRSZ);

					SET_VARSIZE(room, len + VARHDRSZ);
					memcpy(VARDATA(room), bytes, len);
				}
				else if (call->by_value)
					values[i].value = sckpt_codec_read(&call->codec, &at, bytes + len);
				else
					sckpt_aggregate_set_flat(agg, call, &values[i], sckpt_codec_read(&call->codec, &at, bytes + len));
			}
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
	return ref;
}

/* ---- Results ---- */

void
sckpt_aggregate_begin_results(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	ExprContext *econtext;
	TupleDesc	desc;
	MemoryContext old;
	List	   *targets;

	/* Whatever of this fails, sckpt_aggregate_end_results() follows. */
	agg->projection = NULL;
	agg->group_slot = NULL;
	agg->estate = CreateExecutorState();
	old = MemoryContextSwitchTo(agg->estate->es_query_cxt);
	desc = CreateTemplateTupleDesc(agg->query->nkeys + agg->ncalls + (agg->ranker ? agg->query->sets[0].ncolumns + 3 : 0));
	for (int i = 0; i < agg->query->nkeys; i++)
	{
		TupleDescInitEntry(desc, i + 1, NULL, agg->query->keys[i].type, agg->query->keys[i].typmod, 0);
		TupleDescInitEntryCollation(desc, i + 1, agg->query->keys[i].collation);
	}
	for (int i = 0; i < agg->ncalls; i++)
		TupleDescInitEntry(desc, agg->query->nkeys + i + 1, NULL, agg->query->calls[i].aggref->aggtype, -1, 0);
	if (agg->ranker)
	{
		SckptSetColumns *set = &agg->query->sets[0];

		for (int i = 0; i < set->ncolumns; i++)
		{
			TupleDescInitEntry(desc, agg->query->nkeys + i + 1, NULL, set->columns[i].type, set->columns[i].typmod, 0);
			TupleDescInitEntryCollation(desc, agg->query->nkeys + i + 1, set->columns[i].collation);
		}
		for (int i = 0; i < 3; i++)
			TupleDescInitEntry(desc, agg->query->nkeys + set->ncolumns + i + 1, NULL, INT8OID, -1, 0);
	}

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
final_value(SckptAggregate *agg, int index, SckptRef ref, SckptEntry *entry, bool *isnull)
{
	SckptAggCall *call = &agg->calls[index];
	SckptAggValue *value = &entry_values(entry)[index];
	bool		value_null = (entry_flags(agg, entry)[index] & VALUE_NULL) != 0;
	Datum		current = (Datum) 0;
	Datum		result;
	LOCAL_FCINFO(fcinfo, FUNC_MAX_ARGS);

	if (call->mode == SCKPT_CALL_COLLECT)
		return sckpt_aggregate_collect(agg, index, ref, isnull);
	if (!value_null)
	{
		if (call->internal)
		{
			/* A final function that scribbles on its input gets a copy. */
			if (call->final_reads_only && value->object.live && agg->live[value->object.live - 1].value)
				current = agg->live[value->object.live - 1].value;
			else
				current = sckpt_aggregate_deserialize(agg, call, value->object.ref);
		}
		else if (call->by_value)
			current = value->value;
		else
		{
			current = sckpt_aggregate_flat_value(agg, value->object.ref);
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

/* The bounds of a session, in place of the keys that they are. */
static void
load_session(SckptAggregate *agg, TimestampTz start, TimestampTz end, Datum *values, bool *nulls)
{
	for (int i = agg->key->ncolumns; i < agg->query->nkeys; i++)
	{
		values[i] = TimestampTzGetDatum(agg->query->keys[i].bound == SCKPT_BOUND_START ? start : end);
		nulls[i] = false;
	}
}

bool
sckpt_aggregate_result(SckptOperator *operator, SckptRef ref, TupleTableSlot **slot)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	SckptEntry *entry = sckpt_state_address(operator->state, ref);
	ExprContext *econtext = agg->projection->pi_exprContext;
	TupleTableSlot *group = agg->group_slot;
	int			nkeys = agg->query->nkeys;
	MemoryContext old;

	ResetExprContext(econtext);
	old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	ExecClearTuple(group);
	sckpt_group_key_load(agg->key, entry_key(agg, entry), group->tts_values, group->tts_isnull);
	if (agg->sessions)
	{
		SckptAggSession *session = entry_session(agg, entry);

		session->result_start = session->start;
		session->result_end = session->end;
		load_session(agg, session->start, session->end, group->tts_values, group->tts_isnull);
	}
	for (int i = 0; i < agg->ncalls; i++)
		group->tts_values[nkeys + i] = final_value(agg, i, ref, entry, &group->tts_isnull[nkeys + i]);
	if (agg->ranker && !sckpt_rank_load_first(agg, ref, group))
	{
		/* No row, but a key. */
		MemoryContextSwitchTo(old);
		*slot = agg->projection->pi_state.resultslot;
		sckpt_aggregate_key_row(operator, ref, *slot);
		return false;
	}
	ExecStoreVirtualTuple(group);
	MemoryContextSwitchTo(old);

	*slot = ExecProject(agg->projection);
	if (agg->weight_offset && nkeys > 0 && *entry_weight(agg, entry) == 0)
		return false;			/* all its rows were taken back */
	return ExecQual(agg->having, econtext);
}

bool
sckpt_aggregate_moved(SckptOperator *operator, SckptEntry *entry, TupleTableSlot *slot)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	SckptAggSession *session;
	Datum	   *values;
	bool	   *nulls;

	if (agg->sessions == NULL || !(entry->flags & SCKPT_ENTRY_EMITTED))
		return false;
	session = entry_session(agg, entry);
	if (session->start == session->emitted_start && session->end == session->emitted_end)
		return false;
	values = palloc(agg->query->nkeys * sizeof(Datum));
	nulls = palloc(agg->query->nkeys * sizeof(bool));
	sckpt_group_key_load(agg->key, entry_key(agg, entry), values, nulls);
	load_session(agg, session->emitted_start, session->emitted_end, values, nulls);
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < agg->query->nkeys; i++)
	{
		slot->tts_values[agg->query->keys[i].result_column - 1] = values[i];
		slot->tts_isnull[agg->query->keys[i].result_column - 1] = nulls[i];
	}
	ExecStoreVirtualTuple(slot);
	return true;
}

void
sckpt_aggregate_emitted(SckptOperator *operator, SckptEntry *entry)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	if (agg->sessions == NULL)
		return;
	entry_session(agg, entry)->emitted_start = entry_session(agg, entry)->result_start;
	entry_session(agg, entry)->emitted_end = entry_session(agg, entry)->result_end;
}

void
sckpt_aggregate_key_row(SckptOperator *operator, SckptRef ref, TupleTableSlot *slot)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	SckptEntry *entry = sckpt_state_address(operator->state, ref);
	Datum	   *values = palloc(Max(1, agg->query->nkeys) * sizeof(Datum));
	bool	   *nulls = palloc(Max(1, agg->query->nkeys) * sizeof(bool));

	sckpt_group_key_load(agg->key, entry_key(agg, entry), values, nulls);
	if (agg->sessions)
		load_session(agg, entry_session(agg, entry)->start, entry_session(agg, entry)->end, values, nulls);
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < agg->query->nkeys; i++)
	{
		AttrNumber	column = agg->query->keys[i].result_column;

		if (column == 0)
			continue;
		slot->tts_values[column - 1] = values[i];
		slot->tts_isnull[column - 1] = nulls[i];
	}
	ExecStoreVirtualTuple(slot);
}

Datum
sckpt_aggregate_key_json(SckptOperator *operator, SckptRef ref)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	SckptQuery *query = agg->query;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(query->result, &TTSOpsVirtual);
	TupleDesc	desc = CreateTemplateTupleDesc(query->nkeys);
	Datum	   *values = palloc(Max(1, query->nkeys) * sizeof(Datum));
	bool	   *nulls = palloc(Max(1, query->nkeys) * sizeof(bool));
	int			n = 0;

	sckpt_aggregate_key_row(operator, ref, slot);
	for (int i = 0; i < query->nkeys; i++)
	{
		AttrNumber	column = query->keys[i].result_column;

		if (column == 0)
			continue;
		TupleDescInitEntry(desc, n + 1, NameStr(TupleDescAttr(query->result, column - 1)->attname),
						   query->keys[i].type, query->keys[i].typmod, 0);
		values[n] = slot->tts_values[column - 1];
		nulls[n++] = slot->tts_isnull[column - 1];
	}
	desc->natts = n;
	if (n == 0)
		return DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	return sckpt_stream_tuple_json(BlessTupleDesc(desc), values, nulls);
}

void
sckpt_aggregate_end_results(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	if (agg->estate == NULL)
		return;
	if (agg->projection)
		ExecDropSingleTupleTableSlot(agg->projection->pi_state.resultslot);
	if (agg->group_slot)
		ExecDropSingleTupleTableSlot(agg->group_slot);
	FreeExecutorState(agg->estate);
	agg->estate = NULL;
}
