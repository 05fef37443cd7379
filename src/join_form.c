/*-------------------------------------------------------------------------
 *
 * join_form.c
 *		The rows of a join as bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "join_private.h"

void
sckpt_join_describe(SckptOperator *operator, bool elements, StringInfo buf)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	static const char *const types[] = {
		[JOIN_INNER] = "inner", [JOIN_LEFT] = "left", [JOIN_FULL] = "full", [JOIN_RIGHT] = "right", [JOIN_SEMI] = "semi", [JOIN_ANTI] = "anti"
	};
	int			column = 0;

	appendStringInfo(buf, "join\t%s\t%s\n", join->join->unites ? "unites" : join->join->mark ? "mark" : types[join->join->type], join->join->canonical);
	for (int side = 0; side < 2; side++)
	{
		TupleDesc	desc = join->sides[side].desc;

		for (int i = 0; i < desc->natts; i++)
			appendStringInfo(buf, "column\t%d\t%s\t%s\n", side, join->join->names[column++],
							 format_type_extended(TupleDescAttr(desc, i)->atttypid, -1, FORMAT_TYPE_FORCE_QUALIFY));
	}
	for (int i = 0; i < join->join->nkeys; i++)
		appendStringInfo(buf, "key\t%d\t%d\n", join->join->columns[0][i], join->join->columns[1][i]);
}

bool
sckpt_join_adapt(SckptOperator *operator, bool elements, const char *description, bool same)
{
	StringInfoData buf;
	bool		result;

	initStringInfo(&buf);
	sckpt_join_describe(operator, elements, &buf);
	result = strcmp(buf.data, description) == 0;
	pfree(buf.data);
	return result;
}

/* Side, weight, matches, when it was touched, and the columns: 0 for NULL, else 1 and the value. */
bool
sckpt_join_pack(SckptOperator *operator, bool elements, SckptEntry *entry, StringInfo buf)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	SckptJoinRow *row = (SckptJoinRow *) entry;
	SckptJoinSide   *side = &join->sides[row->side];
	MemoryContext old = MemoryContextSwitchTo(join->row_context);

	sckpt_codec_write_uint(buf, row->side);
	sckpt_codec_write_int(buf, row->weight);
	sckpt_codec_write_int(buf, row->matches);
	appendStringInfoCharMacro(buf, row->touched == DT_NOBEGIN ? 0 : 1);
	if (row->touched != DT_NOBEGIN)
		sckpt_codec_write_int(buf, row->touched);
	sckpt_join_read_row(side, row, side->values, side->nulls);
	for (int i = 0; i < side->desc->natts; i++)
		sckpt_codec_write_column(&side->codecs[i], buf, side->values[i], side->nulls[i]);
	MemoryContextSwitchTo(old);
	MemoryContextReset(join->row_context);
	return true;
}

void
sckpt_join_begin_unpack(SckptOperator *operator, bool elements, const SckptTimes *times)
{
	((SckptStreamJoin *) operator)->freed_until = *times;
}

/* At the times of the checkpoint that is read back: had the row left, whose columns are in the side's values? */
static bool
was_freed(SckptStreamJoin *join, SckptJoinSide *side, TimestampTz touched)
{
	SckptQuery *query = join->query;
	SckptTimes *times = &join->freed_until;

	if (touched != DT_NOBEGIN && query->stored_ttl > 0 && times->clock != DT_NOBEGIN && add_time(touched, query->stored_ttl) <= times->clock)
		return true;
	return times->watermark != DT_NOBEGIN && sckpt_join_due(side, side->values, side->nulls) <= add_time(times->watermark, query->lateness - query->stored_lateness);
}

SckptRef
sckpt_join_unpack(SckptOperator *operator, bool elements, bool emitted, const char **cursor, const char *end)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	MemoryContext old = MemoryContextSwitchTo(join->row_context);
	uint64		number = sckpt_codec_read_uint(cursor, end);
	int64		weight = sckpt_codec_read_int(cursor, end);
	int64		matches = sckpt_codec_read_int(cursor, end);
	TimestampTz touched = sckpt_codec_read_uint(cursor, end) == 0 ? DT_NOBEGIN : sckpt_codec_read_int(cursor, end);
	SckptJoinSide   *side = &join->sides[number & 1];
	SckptRef	ref = SCKPT_NO_REF;
	SckptJoinRow *row;
	MinimalTuple tuple;
	uint32		hash;

	for (int i = 0; i < side->desc->natts; i++)
	{
		side->nulls[i] = sckpt_codec_read_uint(cursor, end) == 0;
		side->values[i] = side->nulls[i] ? (Datum) 0 : sckpt_codec_read(&side->codecs[i], cursor, end);
	}
	if (number > 1 || !sckpt_join_take_key(join, number, side->values, side->nulls))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored state of a pipeline is corrupted"),
				 errdetail("A row of a join has no key.")));
	tuple = sckpt_flat_form(&side->flat, side->values, side->nulls);
	hash = sckpt_join_row_hash(number, tuple);

	/* The newest version comes first; what was freed, or forgotten, counts no more. */
	if (!was_freed(join, side, touched) && sckpt_join_find_row(join, hash, number, tuple) == SCKPT_NO_REF)
	{
		ref = sckpt_join_add_row(join, hash, number, tuple, sckpt_join_due(side, side->values, side->nulls),
								 sckpt_join_find_list(join, sckpt_join_key_hash(join), true));
		row = row_at(join, ref);
		sckpt_join_weigh(join, row, weight);
		row->matches = matches;
		if (side->forgets && touched != DT_NOBEGIN)
		{
			row->touched = touched;
			sckpt_timers_add(join->timers, ref, sckpt_join_forget_time(join, row));
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(join->row_context);
	return ref;
}

void
sckpt_join_end_unpack(SckptOperator *operator, bool elements)
{
}
