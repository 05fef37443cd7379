/*-------------------------------------------------------------------------
 *
 * aggregate_output.c
 *		What leaves the aggregate operator: entries in portable form, and result rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "aggregate_private.h"

/* ---- Portable form ---- */

void
sckpt_aggregate_describe(SckptOperator *operator, StringInfo buf)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

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
void
sckpt_aggregate_pack(SckptOperator *operator, SckptEntry *entry, StringInfo buf)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);
	SckptAggValue *values = entry_values(entry);
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
		SckptAggCall *call = &agg->calls[i];

		appendStringInfoCharMacro(buf, flags[i]);
		if (flags[i] & VALUE_NULL)
			continue;
		if (call->internal)
		{
			Datum		bytes = sckpt_aggregate_flat_value(agg, values[i].object.ref);

			sckpt_codec_write_bytes(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		}
		else
			sckpt_codec_write(&call->codec, buf,
							  call->by_value ? values[i].value : sckpt_aggregate_flat_value(agg, values[i].object.ref));
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
}

SckptRef
sckpt_aggregate_unpack(SckptOperator *operator, const char **cursor, const char *end)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
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
	if (sckpt_aggregate_find_group(agg, hash) == SCKPT_NO_REF)
	{
		SckptEntry *entry;
		SckptAggValue *values;
		uint8	   *flags;

		ref = sckpt_state_insert(operator->state, hash, agg->key_offset - SCKPT_ENTRY_HEADER +
								 sckpt_group_key_size(agg->key, agg->key_values, agg->key_nulls));
		entry = sckpt_state_address(operator->state, ref);
		values = entry_values(entry);
		flags = entry_flags(agg, entry);
		sckpt_group_key_store(agg->key, entry_key(agg, entry), agg->key_values, agg->key_nulls);
		for (int i = 0; i < agg->ncalls; i++)
		{
			SckptAggCall *call = &agg->calls[i];

			flags[i] = (uint8) sckpt_codec_read_uint(cursor, end);
			if (flags[i] & VALUE_NULL)
				continue;
			if (call->internal)
			{
				Size		len;
				const char *bytes = sckpt_codec_read_bytes(cursor, end, &len);
				char	   *room = sckpt_aggregate_flat_room(agg, &values[i], len + VARHDRSZ);

				SET_VARSIZE(room, len + VARHDRSZ);
				memcpy(VARDATA(room), bytes, len);
			}
			else if (call->by_value)
				values[i].value = sckpt_codec_read(&call->codec, cursor, end);
			else
				sckpt_aggregate_set_flat(agg, call, &values[i], sckpt_codec_read(&call->codec, cursor, end));
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
final_value(SckptAggregate *agg, int index, SckptEntry *entry, bool *isnull)
{
	SckptAggCall *call = &agg->calls[index];
	SckptAggValue *value = &entry_values(entry)[index];
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

bool
sckpt_aggregate_result(SckptOperator *operator, SckptEntry *entry, TupleTableSlot **slot)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
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

void
sckpt_aggregate_end_results(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	if (agg->estate == NULL)
		return;
	ExecDropSingleTupleTableSlot(agg->projection->pi_state.resultslot);
	ExecDropSingleTupleTableSlot(agg->group_slot);
	FreeExecutorState(agg->estate);
	agg->estate = NULL;
}
