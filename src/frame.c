/*-------------------------------------------------------------------------
 *
 * frame.c
 *		Window functions over the rows around a row: operator.h for partitions
 *		whose rows are in order.
 *
 * Rows are taken into the tree of their partition (frame_tree.c) as they come; results are computed at barriers, from the first row that has changed on
 * (frame_run.c).  A partition closes when the windows among its keys do: its results stay, and its rows are freed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "flat.h"
#include "frame_private.h"
#include "stream.h"

/* ---- Partitions ---- */

static char *
partition_key(FramePartition *partition)
{
	return (char *) partition + FRAME_PARTITION_HEADER;
}

static Size
partition_bytes(SckptFrame *frame, Datum *values, bool *nulls)
{
	return FRAME_PARTITION_HEADER - SCKPT_ENTRY_HEADER + sckpt_group_key_size(frame->key, FRAME_PARTITION_HEADER, values, nulls);
}

/* The partition of the row at hand, which is made if need be. */
static SckptRef
find_partition(SckptFrame *frame)
{
	uint32		hash = sckpt_group_key_hash(frame->key, frame->row.values, frame->row.nulls);
	SckptProbe	probe;
	SckptRef	ref;
	FramePartition *partition;

	for (ref = sckpt_state_probe(frame->partitions, hash, &probe); ref != SCKPT_NO_REF; ref = sckpt_state_probe_next(&probe))
	{
		if (sckpt_group_key_equal(frame->key, partition_key(frame_partition(frame, ref)), frame->row.values, frame->row.nulls))
			return ref;
	}
	ref = sckpt_state_insert(frame->partitions, hash, partition_bytes(frame, frame->row.values, frame->row.nulls));
	partition = frame_partition(frame, ref);
	partition->timer.at = SCKPT_NEVER;
	sckpt_group_key_store(frame->key, partition_key(partition), frame->row.values, frame->row.nulls);
	if (frame->timers)
		sckpt_timers_add(frame->timers, ref, sckpt_aggregate_due_of(frame->dues, frame->ndues, frame->row.values, frame->row.nulls));
	return ref;
}

static void
remove_partition(SckptFrame *frame, SckptRef ref)
{
	if (frame->timers)
		sckpt_timers_remove(frame->timers, ref);
	sckpt_group_key_load(frame->key, partition_key(frame_partition(frame, ref)), frame->other.values, frame->other.nulls);
	sckpt_state_remove(frame->partitions, ref, partition_bytes(frame, frame->other.values, frame->other.nulls));
}

/* ---- Rows ---- */

void
sckpt_frame_free_mark(SckptFrame *frame, FrameRow *row)
{
	if (row->mark != SCKPT_NO_REF)
		sckpt_state_free(frame->operator.state, row->mark,
						 ((SckptAggFlat *) sckpt_state_address(frame->operator.state, row->mark))->size);
	row->mark = SCKPT_NO_REF;
}

static uint32
row_hash(MinimalTuple tuple)
{
	return sckpt_hash_end(sckpt_flat_hash(tuple));
}

static SckptRef
find_row(SckptFrame *frame, uint32 hash, MinimalTuple tuple)
{
	SckptProbe	probe;
	SckptRef	ref;

	for (ref = sckpt_state_probe(frame->operator.state, hash, &probe); ref != SCKPT_NO_REF; ref = sckpt_state_probe_next(&probe))
	{
		if (sckpt_flat_equal(frame_tuple(frame_row(frame, ref)), tuple))
			break;
	}
	return ref;
}

/* Add the row at hand, whose tuple this is, with weight 0. */
static SckptRef
add_row(SckptFrame *frame, uint32 hash, MinimalTuple tuple, int64 id)
{
	SckptRef	partition = find_partition(frame);
	int			side;
	SckptRef	parent = sckpt_frame_tree_find(frame, frame_partition(frame, partition), &side);
	SckptRef	ref = sckpt_state_insert(frame->operator.state, hash, frame_row_bytes(tuple));
	FrameRow   *row = frame_row(frame, ref);

	row->id = id;
	row->partition = partition;
	memcpy(frame_tuple(row), tuple, tuple->t_len);
	sckpt_frame_tree_insert(frame, frame_partition(frame, partition), ref, parent, side);
	return ref;
}

/* A row's weight changes; its results, and others', are to be handed on. */
static void
change_weight(SckptFrame *frame, SckptRef ref, int64 change)
{
	FrameRow   *row = frame_row(frame, ref);

	row->weight += change;
	sckpt_state_mark_dirty(frame->operator.state, ref);
	row->entry.flags &= ~SCKPT_ENTRY_REWRITE;
	if (row->weight == 0)
		row->entry.flags |= SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE;
	else
		row->entry.flags &= ~(SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE);
	if (!row->listed && !frame->query->final)
	{
		FramePartition *partition = frame_partition(frame, row->partition);

		row->listed = true;
		row->next_changed = partition->changed;
		partition->changed = ref;
		sckpt_state_mark_dirty(frame->partitions, row->partition);
	}
}

/* Free a row that is in no tree any more. */
static void
free_row(SckptFrame *frame, SckptRef ref)
{
	FrameRow   *row = frame_row(frame, ref);

	sckpt_frame_free_mark(frame, row);
	sckpt_state_remove(frame->operator.state, ref, frame_row_bytes(frame_tuple(row)));
}

static void
frame_remove(SckptOperator *operator, bool elements, SckptRef ref)
{
	SckptFrame *frame = (SckptFrame *) operator;
	FrameRow   *row = frame_row(frame, ref);
	SckptRef	partition = row->partition;

	Assert(!row->listed);
	sckpt_frame_tree_remove(frame, frame_partition(frame, partition), ref);
	free_row(frame, ref);
	if (frame_partition(frame, partition)->root == SCKPT_NO_REF)
		remove_partition(frame, partition);
}

/* A partition that has closed. */
static void
drop_partition(SckptFrame *frame, SckptRef ref)
{
	SckptRef	at = sckpt_frame_tree_end(frame, frame_partition(frame, ref), 0);

	/* Uninterruptible: half a tree is no tree. */
	while (at != SCKPT_NO_REF)
	{
		SckptRef	next = sckpt_frame_tree_next(frame, at, 1);

		sckpt_frame_tree_remove(frame, frame_partition(frame, ref), at);
		free_row(frame, at);
		at = next;
	}
	remove_partition(frame, ref);
}

/* ---- Taking rows in ---- */

static void
note_undo(SckptFrame *frame, SckptRef ref, int64 weight)
{
	if (frame->nundo == frame->maxundo)
	{
		frame->maxundo = Max(256, frame->maxundo * 2);
		if (frame->undo)
			frame->undo = repalloc_huge(frame->undo, frame->maxundo * sizeof(FrameUndo));
		else
			frame->undo = MemoryContextAllocHuge(frame->context, frame->maxundo * sizeof(FrameUndo));
	}
	frame->undo[frame->nundo++] = (FrameUndo) {ref, weight};
}

static void
take_expanded(void *arg, TupleTableSlot *slot, uint32 segment, int32 weight)
{
	SckptFrame *frame = arg;
	SckptSetColumns *set = &frame->query->sets[0];
	int			nkeys = frame->query->nkeys;
	MemoryContext old = MemoryContextSwitchTo(frame->row_context);
	MinimalTuple tuple;
	SckptRef	ref;
	uint32		hash;

	memcpy(frame->row.values, slot->tts_values, nkeys * sizeof(Datum));
	memcpy(frame->row.nulls, slot->tts_isnull, nkeys * sizeof(bool));
	for (int i = 0; i < set->ncolumns; i++)
	{
		frame->row.values[nkeys + i] = slot->tts_values[set->source[i] - 1];
		frame->row.nulls[nkeys + i] = slot->tts_isnull[set->source[i] - 1];
	}

	/* The key's values, too, are to be flat. */
	(void) sckpt_group_key_hash(frame->key, frame->row.values, frame->row.nulls);
	sckpt_sorter_flatten(frame->sorter, frame->row.values + nkeys, frame->row.nulls + nkeys);
	tuple = heap_form_minimal_tuple(frame->desc, frame->row.values, frame->row.nulls, 0);
	hash = row_hash(tuple);
	ref = find_row(frame, hash, tuple);
	if (ref == SCKPT_NO_REF)
	{
		ref = add_row(frame, hash, tuple, frame->next_id);
		frame->next_id += SCKPT_MAX_TASKS;
	}
	if (frame->noting)
		note_undo(frame, ref, weight);
	change_weight(frame, ref, weight);
	MemoryContextSwitchTo(old);
	MemoryContextReset(frame->row_context);
}

static void
frame_begin_rows(SckptOperator *operator, const SckptInput *input, const SckptTimes *times)
{
	((SckptFrame *) operator)->input = input;
}

static void
frame_consume(SckptOperator *operator, TupleTableSlot *slot, int32 weight)
{
	SckptFrame *frame = (SckptFrame *) operator;

	slot_getallattrs(slot);
	if (frame->expander)
		sckpt_expander_take(frame->expander, frame->input, slot, weight, take_expanded, frame);
	else
		take_expanded(frame, slot, 0, weight);
}

static void
frame_nothing(SckptOperator *operator)
{
}

static void
frame_begin_undo(SckptOperator *operator)
{
	((SckptFrame *) operator)->noting = true;
	((SckptFrame *) operator)->nundo = 0;
}

static bool
frame_undo(SckptOperator *operator)
{
	SckptFrame *frame = (SckptFrame *) operator;

	MemoryContextReset(frame->row_context);
	while (frame->nundo > 0)
	{
		frame->nundo--;
		change_weight(frame, frame->undo[frame->nundo].row, -frame->undo[frame->nundo].weight);
	}
	return true;
}

static void
frame_end_undo(SckptOperator *operator)
{
	SckptFrame *frame = (SckptFrame *) operator;

	frame->noting = false;
	if (frame->undo)
		pfree(frame->undo);
	frame->undo = NULL;
	frame->nundo = frame->maxundo = 0;
}

/* ---- Closing and handing on ---- */

static SckptRef *
frame_close(SckptOperator *operator, const SckptTimes *times, uint64 *count)
{
	*count = 0;
	return NULL;				/* partitions that are due are handed on, and freed at once */
}

static TimestampTz
frame_next_close(SckptOperator *operator)
{
	SckptFrame *frame = (SckptFrame *) operator;

	return frame->timers ? sckpt_timers_first(frame->timers) : DT_NOEND;
}

/* What has been handed on is what is there. */
static void
settle_partition(SckptFrame *frame, SckptRef partition)
{
	SckptRef	ref = frame_partition(frame, partition)->changed;

	frame_partition(frame, partition)->changed = SCKPT_NO_REF;
	while (ref != SCKPT_NO_REF)
	{
		FrameRow   *row = frame_row(frame, ref);
		SckptRef	next = row->next_changed;

		row->handed = row->weight;
		row->listed = false;

		/* Of what no checkpoint has, and the one under way will not have, nobody needs to be told. */
		if (row->weight == 0 && row->entry.chunk == 0 && !(row->entry.flags & SCKPT_ENTRY_INFLIGHT))
		{
			sckpt_frame_tree_remove(frame, frame_partition(frame, partition), ref);
			free_row(frame, ref);
		}
		ref = next;
	}
	if (frame_partition(frame, partition)->root == SCKPT_NO_REF)
		remove_partition(frame, partition);
}

static void
frame_hand_on(SckptOperator *operator, const SckptTimes *times, bool final, SckptPutAbove put, SckptBadResult bad, void *arg)
{
	SckptFrame *frame = (SckptFrame *) operator;
	bool		closing = frame->timers && times->watermark != DT_NOBEGIN && sckpt_timers_first(frame->timers) <= times->watermark;
	SckptRef   *due = NULL;
	uint64		ndue = 0;

	if (!closing && (final || sckpt_state_dirty_count(frame->partitions) == 0))
		return;
	sckpt_frame_begin_results(frame);
	if (!final)
	{
		uint64		count = sckpt_state_dirty_count(frame->partitions);
		SckptRef   *changed = palloc_extended(Max(1, count) * sizeof(SckptRef), MCXT_ALLOC_HUGE);

		sckpt_state_get_dirty(frame->partitions, changed);
		for (uint64 i = 0; i < count; i++)
		{
			CHECK_FOR_INTERRUPTS();
			sckpt_frame_hand_on_changes(frame, changed[i], put, arg);
		}
		sckpt_state_clear_dirty(frame->partitions);
		for (uint64 i = 0; i < count; i++)
			settle_partition(frame, changed[i]);
		pfree(changed);
	}
	if (closing)
		due = sckpt_timers_due(frame->timers, times->watermark, true, &ndue);
	for (uint64 i = 0; i < ndue; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (final && frame_partition(frame, due[i])->root != SCKPT_NO_REF)
			sckpt_frame_hand_on_all(frame, due[i], put, arg);
		drop_partition(frame, due[i]);
	}
	if (due)
		pfree(due);
	sckpt_frame_end_results(frame);
}

/* ---- Portable form ---- */

static void
frame_describe(SckptOperator *operator, bool elements, StringInfo buf)
{
	SckptFrame *frame = (SckptFrame *) operator;
	SckptQuery *query = frame->query;

	for (int i = 0; i < query->nkeys; i++)
		appendStringInfo(buf, "key\t%s\t%s\n", format_type_extended(query->keys[i].type, -1, FORMAT_TYPE_FORCE_QUALIFY),
						 query->keys[i].canonical);
	for (int i = 0; i < query->sets[0].ncolumns; i++)
		appendStringInfo(buf, "column\t%s\t%s\n", format_type_extended(query->sets[0].columns[i].type, -1, FORMAT_TYPE_FORCE_QUALIFY),
						 query->sets[0].columns[i].canonical);
	appendStringInfo(buf, "frames\t%s\n", frame->framing->canonical);
}

static bool
frame_adapt(SckptOperator *operator, bool elements, const char *description, bool same)
{
	StringInfoData buf;
	bool		result;

	initStringInfo(&buf);
	frame_describe(operator, elements, &buf);
	result = strcmp(buf.data, description) == 0;
	pfree(buf.data);
	return result;
}

/* Number, weight, and the columns: 0 for NULL, else 1 and the value. */
static bool
frame_pack(SckptOperator *operator, bool elements, SckptEntry *entry, StringInfo buf)
{
	SckptFrame *frame = (SckptFrame *) operator;
	FrameRow   *row = (FrameRow *) entry;
	MemoryContext old = MemoryContextSwitchTo(frame->row_context);

	sckpt_codec_write_uint(buf, (uint64) row->id);
	sckpt_codec_write_int(buf, row->weight);
	frame_load(frame, row, &frame->other);
	for (int i = 0; i < frame->ncolumns; i++)
		sckpt_codec_write_column(&frame->codecs[i], buf, frame->other.values[i], frame->other.nulls[i]);
	MemoryContextSwitchTo(old);
	MemoryContextReset(frame->row_context);
	return true;
}

static void
frame_begin_unpack(SckptOperator *operator, bool elements, const SckptTimes *times)
{
	((SckptFrame *) operator)->closed_until = times->watermark;
}

static SckptRef
frame_unpack(SckptOperator *operator, bool elements, bool emitted, const char **cursor, const char *end)
{
	SckptFrame *frame = (SckptFrame *) operator;
	MemoryContext old = MemoryContextSwitchTo(frame->row_context);
	int64		id = (int64) sckpt_codec_read_uint(cursor, end);
	int64		weight = sckpt_codec_read_int(cursor, end);
	SckptRef	ref = SCKPT_NO_REF;
	MinimalTuple tuple;
	uint32		hash;
	int64		due;

	for (int i = 0; i < frame->ncolumns; i++)
	{
		frame->row.nulls[i] = sckpt_codec_read_uint(cursor, end) == 0;
		frame->row.values[i] = frame->row.nulls[i] ? (Datum) 0 : sckpt_codec_read(&frame->codecs[i], cursor, end);
	}
	if (id % SCKPT_MAX_TASKS == frame->query->task)
		frame->next_id = Max(frame->next_id, id + SCKPT_MAX_TASKS);
	tuple = heap_form_minimal_tuple(frame->desc, frame->row.values, frame->row.nulls, 0);
	hash = row_hash(tuple);
	due = add_time(sckpt_aggregate_due_of(frame->dues, frame->ndues, frame->row.values, frame->row.nulls),
				   frame->query->stored_lateness - frame->query->lateness);

	/* The newest version comes first; what has closed counts no more. */
	if ((frame->closed_until == DT_NOBEGIN || due > frame->closed_until) && find_row(frame, hash, tuple) == SCKPT_NO_REF)
	{
		ref = add_row(frame, hash, tuple, id);
		frame_row(frame, ref)->weight = weight;
		frame_row(frame, ref)->handed = frame->query->final ? 0 : weight;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(frame->row_context);
	return ref;
}

static void
frame_end_unpack(SckptOperator *operator, bool elements)
{
}

static SckptRef
frame_find(SckptOperator *operator, Datum *values, bool *nulls)
{
	return SCKPT_NO_REF;
}

static uint32
frame_route(SckptOperator *operator, SckptRef ref)
{
	SckptFrame *frame = (SckptFrame *) operator;
	SckptQuery *query = frame->query;
	MemoryContext old = MemoryContextSwitchTo(frame->row_context);
	Datum	   *values = palloc(query->nroutes * sizeof(Datum));
	bool	   *nulls = palloc(query->nroutes * sizeof(bool));
	uint32		hash;

	frame_load(frame, frame_row(frame, ref), &frame->other);
	for (int i = 0; i < query->nroutes; i++)
	{
		values[i] = frame->other.values[query->routes[i]];
		nulls[i] = frame->other.nulls[query->routes[i]];
	}
	hash = sckpt_group_key_hash(frame->route, values, nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(frame->row_context);
	return hash;
}

static bool
frame_mergeable(SckptOperator *operator)
{
	return false;
}

/* ---- Life ---- */

static void
frame_destroy(SckptOperator *operator)
{
	SckptFrame *frame = (SckptFrame *) operator;

	if (frame->expander)
		sckpt_expander_destroy(frame->expander);
	sckpt_state_destroy(operator->state);
	sckpt_state_destroy(frame->partitions);
	MemoryContextDelete(frame->context);
}

/* Columns of a row: the key's, then the set's. */
static void
prepare_columns(SckptFrame *frame)
{
	SckptQuery *query = frame->query;
	SckptSetColumns *set = &query->sets[0];

	frame->ncolumns = query->nkeys + set->ncolumns;
	frame->desc = CreateTemplateTupleDesc(frame->ncolumns);
	frame->codecs = palloc0(Max(1, frame->ncolumns) * sizeof(SckptCodec));
	for (int i = 0; i < frame->ncolumns; i++)
	{
		SckptKey   *column = i < query->nkeys ? &query->keys[i] : &set->columns[i - query->nkeys];

		TupleDescInitEntry(frame->desc, i + 1, NULL, column->type, column->typmod, 0);
		TupleDescInitEntryCollation(frame->desc, i + 1, column->collation);
		sckpt_codec_init(&frame->codecs[i], column->type, column->typmod, frame->context);
	}
	frame->row.values = palloc0(Max(1, frame->ncolumns) * sizeof(Datum));
	frame->row.nulls = palloc0(Max(1, frame->ncolumns) * sizeof(bool));
	frame->other.values = palloc0(Max(1, frame->ncolumns) * sizeof(Datum));
	frame->other.nulls = palloc0(Max(1, frame->ncolumns) * sizeof(bool));
}

/* How far calls reach. */
static void
prepare_reach(SckptFrame *frame)
{
	for (int i = 0; i < frame->framing->ncalls; i++)
	{
		SckptFrameCall *call = &frame->framing->calls[i];
		int64		before = Max(-call->end, 0);
		int64		after = Max(call->end, 0);

		if (!call->unbounded)
		{
			before = Max(before, -call->start);
			after = Max(after, call->start);
		}
		else if (call->kind == SCKPT_FRAME_AGGREGATE)
			frame->carries = true;
		else if (call->kind != SCKPT_FRAME_LAST)
			frame->head = Max(frame->head, call->kind == SCKPT_FRAME_NTH ? call->nth : 1);
		frame->peers |= call->peers;
		frame->back = frame->context_ahead = Max(frame->back, after);
		frame->ahead = frame->context_back = Max(frame->ahead, before);
	}
}

/* The functions of aggregates, as the aggregate operator has them. */
static void
prepare_calls(SckptFrame *frame)
{
	frame->functions.context = frame->context;
	frame->functions.agg_state = makeNode(AggState);
	frame->calls = palloc0(Max(1, frame->framing->ncalls) * sizeof(SckptAggCall));
	for (int i = 0; i < frame->framing->ncalls; i++)
	{
		if (frame->framing->calls[i].kind == SCKPT_FRAME_AGGREGATE)
			sckpt_aggregate_prepare_call(&frame->functions, &frame->calls[i], &frame->framing->calls[i].call);
	}
}

SckptOperator *
sckpt_frame_create(SckptQuery *query, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt frame", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptFrame *frame = palloc0(sizeof(SckptFrame));

	frame->context = context;
	frame->row_context = AllocSetContextCreate(context, "stream_ckpt framed row", ALLOCSET_DEFAULT_SIZES);
	frame->work = AllocSetContextCreate(context, "stream_ckpt partition", ALLOCSET_DEFAULT_SIZES);
	frame->scratch = AllocSetContextCreate(context, "stream_ckpt framed input", ALLOCSET_DEFAULT_SIZES);
	frame->query = query;
	frame->framing = query->framing;
	frame->key = sckpt_group_key_create(query->keys, query->nkeys, context);
	if (query->nroutes > 0)
	{
		SckptKey   *keys = palloc(query->nroutes * sizeof(SckptKey));

		for (int i = 0; i < query->nroutes; i++)
			keys[i] = query->keys[query->routes[i]];
		frame->route = sckpt_group_key_create(keys, query->nroutes, context);
	}
	frame->sorter = sckpt_sorter_create(&frame->framing->order, &query->sets[0]);
	frame->next_id = SCKPT_MAX_TASKS + query->task;
	prepare_columns(frame);
	prepare_reach(frame);
	prepare_calls(frame);
	if (query->nwindows > 0 || query->ncomputed > 0 || query->source == NULL)
		frame->expander = sckpt_expander_create(query, context);
	frame->partitions = sckpt_state_create(context);
	frame->operator.state = sckpt_state_create(context);
	frame->dues = sckpt_aggregate_dues(query, &frame->ndues);
	if (frame->ndues > 0)
		frame->timers = sckpt_timers_create(context, frame->partitions, offsetof(FramePartition, timer), 1);

	frame->operator.name = "frame";
	frame->operator.begin_rows = frame_begin_rows;
	frame->operator.consume = frame_consume;
	frame->operator.end_rows = frame_nothing;
	frame->operator.end_batch = frame_nothing;
	frame->operator.begin_undo = frame_begin_undo;
	frame->operator.undo = frame_undo;
	frame->operator.end_undo = frame_end_undo;
	frame->operator.start = frame_nothing;
	frame->operator.close = frame_close;
	frame->operator.next_close = frame_next_close;
	frame->operator.remove = frame_remove;
	frame->operator.describe = frame_describe;
	frame->operator.adapt = frame_adapt;
	frame->operator.flush = frame_nothing;
	frame->operator.pack = frame_pack;
	frame->operator.begin_unpack = frame_begin_unpack;
	frame->operator.unpack = frame_unpack;
	frame->operator.end_unpack = frame_end_unpack;
	frame->operator.find = frame_find;
	frame->operator.begin_results = frame_nothing;
	frame->operator.end_results = frame_nothing;
	frame->operator.hand_on = frame_hand_on;
	frame->operator.route = frame_route;
	frame->operator.destroy = frame_destroy;
	frame->operator.mergeable = frame_mergeable;
	MemoryContextSwitchTo(old);
	return &frame->operator;
}
