/*-------------------------------------------------------------------------
 *
 * frame_value.c
 *		Aggregates over the rows of a frame, with PostgreSQL's own functions.
 *
 * A value goes along with the frame: rows that come into it are added, and those that leave are subtracted where there is an inverse transition function that
 * is exact; else the frame's rows are added up anew.  As in nodeWindowAgg.c, a value starts anew when the last input is subtracted, and
 * when an inverse gives up.
 *
 * Values that are carried on from the partition's first row are kept in between, every so many rows, in portable form (a mark): then a row at the end of a
 * long partition costs no more than a few others.  Marks are in memory only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/memutils.h"

#include "frame_private.h"

#define PART_NULL	0x01
#define PART_ABSENT	0x02

static inline MemoryContext
value_context(FrameValue *value)
{
	return value->context->ecxt_per_tuple_memory;
}

/* Functions called next belong to this value. */
static inline void
enter(SckptFrame *frame, FrameValue *value)
{
	frame->functions.agg_state->curaggcontext = value->context;
}

void
sckpt_frame_value_begin(SckptFrame *frame, int index, FrameValue *value, uint64 at)
{
	SckptAggCall *call = &frame->calls[index];

	ReScanExprContext(value->context);
	value->isnull = call->initial_null;
	value->absent = call->initial_null && call->strict;
	value->value = (Datum) 0;
	value->inputs = 0;
	value->from = value->to = at;
	if (!call->initial_null)
	{
		MemoryContext old = MemoryContextSwitchTo(value_context(value));

		value->value = datumCopy(call->initial, call->by_value, call->length);
		MemoryContextSwitchTo(old);
	}
}

/* Let a function have a row's arguments; false: the row is no input. */
static bool
load_input(SckptFrame *frame, int index, FunctionCallInfo fcinfo, SckptRef ref)
{
	SckptFrameCall *source = &frame->framing->calls[index];
	bool		strict = frame->calls[index].strict;
	bool		isnull;

	ExecStoreMinimalTuple(frame_tuple(frame_row(frame, ref)), frame->stored, false);
	if (source->filter)
	{
		Datum		passes = slot_getattr(frame->stored, source->filter, &isnull);

		if (isnull || !DatumGetBool(passes))
			return false;
	}
	for (int i = 0; i < source->nargs; i++)
	{
		SckptFrameArg *arg = &source->args[i];

		if (arg->column)
			fcinfo->args[i + 1].value = slot_getattr(frame->stored, arg->column, &fcinfo->args[i + 1].isnull);
		else
		{
			fcinfo->args[i + 1].value = arg->constant->constvalue;
			fcinfo->args[i + 1].isnull = arg->constant->constisnull;
		}
		if (strict && fcinfo->args[i + 1].isnull)
			return false;
	}
	return true;
}

static void
add(SckptFrame *frame, int index, FrameValue *value, SckptRef ref)
{
	SckptAggCall *call = &frame->calls[index];
	FunctionCallInfo fcinfo = call->fcinfo;
	MemoryContext old;
	Datum		new;

	if (!load_input(frame, index, fcinfo, ref))
		return;
	value->inputs++;
	if (value->absent)
	{
		value->absent = false;
		sckpt_call_keep(call, value_context(value), &value->value, &value->isnull, fcinfo->args[1].value, false);
		return;
	}
	if (call->strict && value->isnull)
		return;					/* once NULL, a strict aggregate stays NULL */
	fcinfo->args[0].value = value->value;
	fcinfo->args[0].isnull = value->isnull;
	fcinfo->isnull = false;
	old = MemoryContextSwitchTo(frame->scratch);
	new = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull && call->mode == SCKPT_CALL_INVERSE)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("moving-aggregate transition function must not return null")));
	sckpt_call_keep(call, value_context(value), &value->value, &value->isnull, new, fcinfo->isnull);
	MemoryContextSwitchTo(old);
	MemoryContextReset(frame->scratch);
}

/* False: it cannot, and the value is to be computed anew. */
static bool
subtract(SckptFrame *frame, int index, FrameValue *value, SckptRef ref)
{
	SckptAggCall *call = &frame->calls[index];
	FunctionCallInfo fcinfo = call->inverse_fcinfo;
	MemoryContext old;
	Datum		new;
	bool		isnull;

	if (!load_input(frame, index, fcinfo, ref))
		return true;
	if (value->isnull || value->inputs <= 1)
		return false;
	value->inputs--;
	fcinfo->args[0].value = value->value;
	fcinfo->args[0].isnull = false;
	fcinfo->isnull = false;
	old = MemoryContextSwitchTo(frame->scratch);
	new = FunctionCallInvoke(fcinfo);
	isnull = fcinfo->isnull;
	if (!isnull)
		sckpt_call_keep(call, value_context(value), &value->value, &value->isnull, new, false);
	MemoryContextSwitchTo(old);
	MemoryContextReset(frame->scratch);
	return !isnull;
}

/* The final function's result. */
static Datum
finish(SckptFrame *frame, int index, FrameValue *value, bool *isnull)
{
	SckptAggCall *call = &frame->calls[index];
	MemoryContext old;
	Datum		result;
	LOCAL_FCINFO(fcinfo, FUNC_MAX_ARGS);

	if (!call->has_final || (call->final_strict && (value->isnull || call->final_nargs > 1)))
	{
		*isnull = value->isnull || call->has_final;
		result = MakeExpandedObjectReadOnly(value->value, *isnull, call->length);
		return result;
	}
	InitFunctionCallInfoData(*fcinfo, &call->final, call->final_nargs, call->collation,
							 (Node *) frame->functions.agg_state, NULL);
	fcinfo->args[0].value = MakeExpandedObjectReadOnly(value->value, value->isnull, call->length);
	fcinfo->args[0].isnull = value->isnull;
	for (int i = 1; i < call->final_nargs; i++)
	{
		fcinfo->args[i].value = (Datum) 0;
		fcinfo->args[i].isnull = true;
	}
	old = MemoryContextSwitchTo(frame->row_context);
	result = FunctionCallInvoke(fcinfo);
	MemoryContextSwitchTo(old);
	*isnull = fcinfo->isnull;
	return result;
}

Datum
sckpt_frame_value_over(SckptFrame *frame, int index, FrameSequence *sequence, int64 from, int64 to, bool *isnull)
{
	SckptAggCall *call = &frame->calls[index];
	FrameValue *value = &sequence->values[index];
	uint64		first = Max(from, 0);
	uint64		end = Max((int64) first, Min(to + 1, (int64) sequence->count));
	bool		anew = call->mode == SCKPT_CALL_COLLECT || first >= value->to;

	enter(frame, value);
	if (call->mode == SCKPT_CALL_TRANSITION)
		anew = false;			/* carried on */
	else if (call->mode == SCKPT_CALL_COLLECT && first == value->from && end == value->to)
		anew = false;
	else
	{
		for (; !anew && value->from < first; value->from++)
		{
			CHECK_FOR_INTERRUPTS();
			anew = !subtract(frame, index, value, sequence->places[value->from].row);
		}
	}
	if (anew)
		sckpt_frame_value_begin(frame, index, value, first);
	for (; value->to < end; value->to++)
	{
		CHECK_FOR_INTERRUPTS();
		add(frame, index, value, sequence->places[value->to].row);
	}
	return finish(frame, index, value, isnull);
}

/* ---- Marks ---- */

static inline bool
is_carried(SckptFrame *frame, int index)
{
	return frame->framing->calls[index].kind == SCKPT_FRAME_AGGREGATE && frame->calls[index].mode == SCKPT_CALL_TRANSITION;
}

bool
sckpt_frame_value_carry(SckptFrame *frame, FrameSequence *sequence, uint64 at)
{
	bool		exact = true;

	for (int i = 0; i < frame->framing->ncalls; i++)
	{
		FrameValue *value = &sequence->values[i];

		if (!is_carried(frame, i))
			continue;
		enter(frame, value);
		for (; value->to < at; value->to++)
		{
			CHECK_FOR_INTERRUPTS();
			add(frame, i, value, sequence->places[value->to].row);
		}
		exact &= value->to == at;
	}
	return exact;
}


void
sckpt_frame_value_mark(SckptFrame *frame, FrameSequence *sequence, FrameRow *row)
{
	StringInfoData buf;
	SckptAggFlat flat;
	SckptRef	ref;
	MemoryContext old = MemoryContextSwitchTo(frame->row_context);

	initStringInfo(&buf);
	appendStringInfoSpaces(&buf, sizeof(SckptAggFlat));
	for (int i = 0; i < frame->framing->ncalls; i++)
	{
		SckptAggCall *call = &frame->calls[i];
		FrameValue *value = &sequence->values[i];

		if (!is_carried(frame, i))
			continue;
		appendStringInfoCharMacro(&buf, (value->isnull ? PART_NULL : 0) | (value->absent ? PART_ABSENT : 0));
		if (value->isnull)
			continue;
		enter(frame, value);
		if (call->internal)
		{
			LOCAL_FCINFO(fcinfo, 1);
			Datum		bytes;

			InitFunctionCallInfoData(*fcinfo, &call->serialize, 1, InvalidOid, (Node *) frame->functions.agg_state, NULL);
			fcinfo->args[0].value = value->value;
			fcinfo->args[0].isnull = false;
			bytes = FunctionCallInvoke(fcinfo);
			if (fcinfo->isnull)
				elog(ERROR, "aggregate serialization function returned NULL");
			bytes = PointerGetDatum(PG_DETOAST_DATUM_PACKED(bytes));
			sckpt_codec_write_bytes(&buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		}
		else if (call->by_value)
			appendBinaryStringInfo(&buf, (char *) &value->value, sizeof(Datum));
		else
		{
			Datum		copy = datumCopy(value->value, false, call->length);	/* flat, if it was not */

			sckpt_codec_write_bytes(&buf, DatumGetPointer(copy), datumGetSize(copy, false, call->length));
		}
	}
	flat.size = sckpt_state_capacity(buf.len);
	ref = sckpt_state_alloc(frame->operator.state, flat.size);
	memcpy(buf.data, &flat, sizeof(flat));
	memcpy(sckpt_state_address(frame->operator.state, ref), buf.data, buf.len);
	sckpt_frame_free_mark(frame, row);
	row->mark = ref;
	MemoryContextSwitchTo(old);
	MemoryContextReset(frame->row_context);
}

void
sckpt_frame_value_resume(SckptFrame *frame, FrameSequence *sequence, FrameRow *row)
{
	SckptAggFlat *flat = sckpt_state_address(frame->operator.state, row->mark);
	const char *cursor = (char *) (flat + 1);
	const char *end = (char *) flat + flat->size;

	for (int i = 0; i < frame->framing->ncalls; i++)
	{
		SckptAggCall *call = &frame->calls[i];
		FrameValue *value = &sequence->values[i];
		MemoryContext old;
		const char *bytes;
		Size		length;
		uint8		part;

		if (!is_carried(frame, i))
			continue;
		sckpt_frame_value_begin(frame, i, value, 0);
		part = (uint8) *cursor++;
		value->isnull = (part & PART_NULL) != 0;
		value->absent = (part & PART_ABSENT) != 0;
		if (value->isnull)
			continue;
		enter(frame, value);
		if (call->by_value && !call->internal)
		{
			memcpy(&value->value, cursor, sizeof(Datum));
			cursor += sizeof(Datum);
			continue;
		}
		bytes = sckpt_codec_read_bytes(&cursor, end, &length);
		old = MemoryContextSwitchTo(value_context(value));
		if (call->internal)
		{
			bytea	   *stored = MemoryContextAlloc(frame->scratch, length + VARHDRSZ);

			SET_VARSIZE(stored, length + VARHDRSZ);
			memcpy(VARDATA(stored), bytes, length);
			value->value = sckpt_call_revive(call, frame->functions.agg_state, PointerGetDatum(stored), frame->scratch);
		}
		else
		{
			char	   *copy = palloc(length);

			memcpy(copy, bytes, length);
			value->value = PointerGetDatum(copy);
		}
		MemoryContextSwitchTo(old);
	}
}
