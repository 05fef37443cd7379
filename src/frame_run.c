/*-------------------------------------------------------------------------
 *
 * frame_run.c
 *		Handing on the results of window functions over rows.
 *
 * From each row that has changed one goes back, and ahead, as far as frames reach, in both sequences of the partition: with the weights as of the last
 * barrier, and those of now.  The results of the rows in between are computed for both, and those that differ are handed on.  So a row at the end of a
 * partition costs what its own frame costs, and those that it is in.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "utils/memutils.h"

#include "compat.h"
#include "frame_private.h"

/* Values carried on are kept once in so many rows. */
#define MARK_ROWS 64

/* A row that has changed. */
typedef struct Changed
{
	SckptRef	ref;
	FrameValues row;
} Changed;

/* Rows on both sides of a range that have been passed, in each sequence. */
typedef struct Passed
{
	int64		before;
	int64		now;
} Passed;

static inline void
pass(Passed *passed, const FrameRow *row)
{
	passed->before += row->handed;
	passed->now += row->weight;
}

static inline bool
has_passed(const Passed *passed, int64 rows)
{
	return passed->before >= rows && passed->now >= rows;
}

/* ---- Sequences ---- */

static void
append_row(SckptFrame *frame, FrameSequence *sequence, SckptRef ref)
{
	FrameRow   *row = frame_row(frame, ref);
	int64		weight = sequence->before ? row->handed : row->weight;

	if (weight < 0)
		elog(ERROR, "a row was taken back more often than it was there");
	for (int64 copy = 0; copy < weight; copy++)
	{
		CHECK_FOR_INTERRUPTS();
		if (sequence->count == sequence->space)
		{
			MemoryContext old = MemoryContextSwitchTo(frame->work);

			sequence->space = Max(256, sequence->space * 2);
			if (sequence->places)
				sequence->places = repalloc_huge(sequence->places, sequence->space * sizeof(FramePlace));
			else
				sequence->places = palloc_extended(sequence->space * sizeof(FramePlace), MCXT_ALLOC_HUGE);
			MemoryContextSwitchTo(old);
		}
		sequence->places[sequence->count++] = (FramePlace) {ref, copy};
	}
}

/* The partition's row number `nth` of a sequence. */
static FramePlace
find_head(SckptFrame *frame, FramePartition *partition, bool before, int64 nth)
{
	for (SckptRef at = sckpt_frame_tree_end(frame, partition, 0); at != SCKPT_NO_REF; at = sckpt_frame_tree_next(frame, at, 1))
	{
		FrameRow   *row = frame_row(frame, at);
		int64		weight = before ? row->handed : row->weight;

		CHECK_FOR_INTERRUPTS();
		if (nth <= weight)
			return (FramePlace) {at, nth - 1};
		nth -= weight;
	}
	return (FramePlace) {SCKPT_NO_REF, 0};
}

/* ---- Results ---- */

/* An argument of a call, as it is in a row. */
static Datum
argument_of(SckptFrame *frame, const SckptFrameArg *arg, SckptRef ref, bool *isnull)
{
	if (arg->column == 0)
	{
		*isnull = arg->constant->constisnull;
		return arg->constant->constvalue;
	}
	ExecStoreMinimalTuple(frame_tuple(frame_row(frame, ref)), frame->stored, false);
	return slot_getattr(frame->stored, arg->column, isnull);
}

/* The last place that is equal, by the query's order, to this one. */
static int64
last_peer(SckptFrame *frame, FrameSequence *sequence, uint64 at)
{
	if (sequence->peer_end > at)
		return sequence->peer_end - 1;
	frame_load(frame, frame_row(frame, sequence->places[at].row), &frame->row);
	for (sequence->peer_end = at + 1; sequence->peer_end < sequence->count; sequence->peer_end++)
	{
		CHECK_FOR_INTERRUPTS();
		if (sequence->places[sequence->peer_end].row == sequence->places[at].row)
			continue;
		frame_load(frame, frame_row(frame, sequence->places[sequence->peer_end].row), &frame->other);
		if (!frame_is_peer(frame, &frame->row, &frame->other))
			break;
	}
	return sequence->peer_end - 1;
}

/* Does a place of the partition come after another one? */
static bool
is_after(SckptFrame *frame, FramePlace a, FramePlace b)
{
	if (a.row == b.row)
		return a.copy > b.copy;
	frame_load(frame, frame_row(frame, a.row), &frame->row);
	frame_load(frame, frame_row(frame, b.row), &frame->other);
	return frame_compare(frame, &frame->row, &frame->other) > 0;
}

static Datum
call_result(SckptFrame *frame, FrameSequence *sequence, int index, bool *isnull)
{
	SckptFrameCall *call = &frame->framing->calls[index];
	int64		at = sequence->at;
	int64		first = call->unbounded ? 0 : Max(at + call->start, 0);
	int64		last = Min(call->peers ? last_peer(frame, sequence, at) : at + call->end, (int64) sequence->count - 1);

	*isnull = true;
	switch (call->kind)
	{
		case SCKPT_FRAME_AGGREGATE:
			return sckpt_frame_value_over(frame, index, sequence, first, last, isnull);
		case SCKPT_FRAME_OFFSET:
			if (at + call->start >= 0 && at + call->start < sequence->count)
				return argument_of(frame, &call->args[0], sequence->places[at + call->start].row, isnull);
			if (call->nargs > 1)
				return argument_of(frame, &call->args[1], sequence->places[at].row, isnull);
			return (Datum) 0;
		case SCKPT_FRAME_LAST:
			first = last >= first ? last : -1;
			break;
		case SCKPT_FRAME_FIRST:
		case SCKPT_FRAME_NTH:
			if (call->unbounded)
			{
				FramePlace	head = sequence->heads[index];

				if (last < 0 || head.row == SCKPT_NO_REF || is_after(frame, head, sequence->places[last]))
					return (Datum) 0;
				return argument_of(frame, &call->args[0], head.row, isnull);
			}
			first += call->kind == SCKPT_FRAME_NTH ? call->nth - 1 : 0;
			if (first > last)
				first = -1;
			break;
	}
	return first < 0 ? (Datum) 0 : argument_of(frame, &call->args[0], sequence->places[first].row, isnull);
}

/* The result of the next place, in row_context; NULL: HAVING excludes it. */
static MinimalTuple
next_result(SckptFrame *frame, FrameSequence *sequence)
{
	FramePlace	place = sequence->places[sequence->at];
	FrameRow   *row = frame_row(frame, place.row);
	TupleTableSlot *group = frame->group_slot;
	ExprContext *econtext = frame->projection->pi_exprContext;
	int			n = frame->ncolumns;
	FrameValues own = {group->tts_values, group->tts_isnull};
	MinimalTuple result = NULL;
	MemoryContext old;

	ResetExprContext(econtext);
	ExecClearTuple(group);
	frame_load(frame, row, &own);
	for (int i = 0; i < frame->framing->ncalls; i++, n++)
		group->tts_values[n] = call_result(frame, sequence, i, &group->tts_isnull[n]);
	group->tts_values[n] = Int64GetDatum(row->id);
	group->tts_isnull[n++] = false;
	group->tts_values[n] = Int64GetDatum(place.copy);
	group->tts_isnull[n] = false;
	ExecStoreVirtualTuple(group);
	sequence->at++;
	if (ExecQual(frame->having, econtext))
	{
		TupleTableSlot *projected = ExecProject(frame->projection);

		old = MemoryContextSwitchTo(frame->row_context);
		result = heap_form_minimal_tuple(projected->tts_tupleDescriptor, projected->tts_values, projected->tts_isnull, 0);
		MemoryContextSwitchTo(old);
	}
	ExecClearTuple(group);
	return result;
}

static void
put_tuple(SckptFrame *frame, MinimalTuple tuple, int32 weight, SckptPutAbove put, void *arg)
{
	ExecStoreMinimalTuple(tuple, frame->peer, false);
	(void) put(arg, frame->peer, weight);
	ExecClearTuple(frame->peer);
}

/* ---- Ranges ---- */

/* Marks at rows that are passed say what was before; some get new ones. */
static void
renew_mark(SckptFrame *frame, FrameRow *row, uint64 *marked_at)
{
	FrameSequence *now = &frame->sequences[1];

	sckpt_frame_free_mark(frame, row);
	if (row->weight > 0 && now->at >= *marked_at + MARK_ROWS && sckpt_frame_value_carry(frame, now, now->at))
	{
		sckpt_frame_value_mark(frame, now, row);
		*marked_at = now->at;
	}
}

/* Hand on what has changed in the results of a partition's rows from one to another. */
static void
hand_on_range(SckptFrame *frame, FramePartition *partition, SckptRef first, SckptRef last, SckptPutAbove put, void *arg)
{
	SckptRef	begin = first;
	SckptRef	at;
	Passed		passed = {0, 0};
	uint64		marked_at = 0;

	/* What frames of the range reach, before it and after it. */
	while (!has_passed(&passed, frame->context_back) || (frame->carries && frame_row(frame, begin)->mark == SCKPT_NO_REF))
	{
		CHECK_FOR_INTERRUPTS();
		at = sckpt_frame_tree_next(frame, begin, 0);
		if (at == SCKPT_NO_REF)
			break;
		begin = at;
		pass(&passed, frame_row(frame, at));
	}
	for (int i = 0; i < 2; i++)
	{
		FrameSequence *sequence = &frame->sequences[i];

		sequence->before = i == 0;
		sequence->count = sequence->peer_end = 0;
		for (int j = 0; j < frame->framing->ncalls; j++)
		{
			SckptFrameCall *call = &frame->framing->calls[j];

			if (call->kind == SCKPT_FRAME_AGGREGATE)
				sckpt_frame_value_begin(frame, j, &sequence->values[j], 0);
			else if (call->unbounded && call->kind != SCKPT_FRAME_LAST)
				sequence->heads[j] = find_head(frame, partition, sequence->before, call->kind == SCKPT_FRAME_NTH ? call->nth : 1);
		}
		if (frame->carries && frame_row(frame, begin)->mark != SCKPT_NO_REF)
			sckpt_frame_value_resume(frame, sequence, frame_row(frame, begin));
	}
	memset(&passed, 0, sizeof(passed));
	for (at = begin; at != SCKPT_NO_REF; at = sckpt_frame_tree_next(frame, at, 1))
	{
		CHECK_FOR_INTERRUPTS();
		if (at == first)
		{
			frame->sequences[0].at = frame->sequences[0].count;
			frame->sequences[1].at = frame->sequences[1].count;
		}
		append_row(frame, &frame->sequences[0], at);
		append_row(frame, &frame->sequences[1], at);
		if (at == last)
			break;
	}
	if (frame->peers)
		frame_load(frame, frame_row(frame, last), &frame->row);
	for (at = sckpt_frame_tree_next(frame, last, 1); at != SCKPT_NO_REF; at = sckpt_frame_tree_next(frame, at, 1))
	{
		bool		wanted = !has_passed(&passed, frame->context_ahead);

		CHECK_FOR_INTERRUPTS();
		if (!wanted && frame->peers)
		{
			frame_load(frame, frame_row(frame, at), &frame->other);
			wanted = frame_is_peer(frame, &frame->row, &frame->other);
		}
		if (!wanted)
			break;
		append_row(frame, &frame->sequences[0], at);
		append_row(frame, &frame->sequences[1], at);
		pass(&passed, frame_row(frame, at));
	}

	for (at = first;; at = sckpt_frame_tree_next(frame, at, 1))
	{
		FrameRow   *row = frame_row(frame, at);

		if (frame->carries && at != begin)
			renew_mark(frame, row, &marked_at);
		for (int64 copy = 0; copy < Max(row->handed, row->weight); copy++)
		{
			MinimalTuple before = copy < row->handed ? next_result(frame, &frame->sequences[0]) : NULL;
			MinimalTuple now = copy < row->weight ? next_result(frame, &frame->sequences[1]) : NULL;

			CHECK_FOR_INTERRUPTS();
			if (before == NULL || now == NULL || before->t_len != now->t_len || memcmp(before, now, now->t_len) != 0)
			{
				if (before)
					put_tuple(frame, before, -1, put, arg);
				if (now)
					put_tuple(frame, now, 1, put, arg);
			}
			MemoryContextReset(frame->row_context);
		}
		if (at == last)
			break;
	}
}

/* ---- Partitions ---- */

static int
compare_changed(const void *a, const void *b, void *arg)
{
	return frame_compare(arg, &((const Changed *) a)->row, &((const Changed *) b)->row);
}

/* The rows of a partition that have changed, in order. */
static Changed *
changed_rows(SckptFrame *frame, FramePartition *partition, uint64 *count)
{
	Changed    *changed;
	uint64		n = 0;

	for (SckptRef ref = partition->changed; ref != SCKPT_NO_REF; ref = frame_row(frame, ref)->next_changed)
	{
		CHECK_FOR_INTERRUPTS();
		n += frame_row(frame, ref)->handed != frame_row(frame, ref)->weight;
	}
	changed = palloc_extended(Max(1, n) * sizeof(Changed), MCXT_ALLOC_HUGE);
	n = 0;
	for (SckptRef ref = partition->changed; ref != SCKPT_NO_REF; ref = frame_row(frame, ref)->next_changed)
	{
		Changed    *row = &changed[n];

		CHECK_FOR_INTERRUPTS();
		if (frame_row(frame, ref)->handed == frame_row(frame, ref)->weight)
			continue;
		row->ref = ref;
		row->row.values = palloc(frame->ncolumns * sizeof(Datum));
		row->row.nulls = palloc(frame->ncolumns * sizeof(bool));
		frame_load(frame, frame_row(frame, ref), &row->row);
		n++;
	}
	if (n > 1)
		qsort_interruptible(changed, n, sizeof(Changed), compare_changed, frame);
	*count = n;
	return changed;
}

/* Is it one of the rows at the partition's beginning that calls look at, from wherever? */
static bool
is_head(SckptFrame *frame, FramePartition *partition, SckptRef ref)
{
	Passed		passed = {0, 0};

	for (SckptRef at = sckpt_frame_tree_end(frame, partition, 0); at != SCKPT_NO_REF && !has_passed(&passed, frame->head);
		 at = sckpt_frame_tree_next(frame, at, 1))
	{
		CHECK_FOR_INTERRUPTS();
		if (at == ref)
			return true;
		pass(&passed, frame_row(frame, at));
	}
	return false;
}

void
sckpt_frame_hand_on_changes(SckptFrame *frame, SckptRef ref, SckptPutAbove put, void *arg)
{
	FramePartition *partition = frame_partition(frame, ref);
	MemoryContext old = MemoryContextSwitchTo(frame->work);
	uint64		count;
	Changed    *changed = changed_rows(frame, partition, &count);
	SckptRef	done = SCKPT_NO_REF;

	for (uint64 i = 0; i < count;)
	{
		Changed    *row = &changed[i++];
		SckptRef	first = row->ref;
		SckptRef	last = row->ref;
		Passed		passed = {0, 0};

		for (SckptRef at = sckpt_frame_tree_next(frame, first, 0); at != SCKPT_NO_REF && at != done; at = sckpt_frame_tree_next(frame, at, 0))
		{
			CHECK_FOR_INTERRUPTS();
			if (has_passed(&passed, frame->back))
			{
				if (!frame->peers)
					break;
				frame_load(frame, frame_row(frame, at), &frame->other);
				if (!frame_is_peer(frame, &row->row, &frame->other))
					break;
			}
			first = at;
			pass(&passed, frame_row(frame, at));
		}
		if (frame->carries || (frame->head > 0 && is_head(frame, partition, row->ref)))
		{
			last = sckpt_frame_tree_end(frame, partition, 1);
			i = count;
		}
		else
		{
			memset(&passed, 0, sizeof(passed));
			for (SckptRef at = sckpt_frame_tree_next(frame, last, 1); at != SCKPT_NO_REF; at = sckpt_frame_tree_next(frame, at, 1))
			{
				CHECK_FOR_INTERRUPTS();
				if (i < count && at == changed[i].ref)
				{
					memset(&passed, 0, sizeof(passed));
					i++;
				}
				else if (has_passed(&passed, frame->ahead))
					break;
				else
					pass(&passed, frame_row(frame, at));
				last = at;
			}
		}
		hand_on_range(frame, partition, first, last, put, arg);
		done = last;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(frame->work);
	frame->sequences[0].places = frame->sequences[1].places = NULL;
	frame->sequences[0].space = frame->sequences[1].space = 0;
}

void
sckpt_frame_hand_on_all(SckptFrame *frame, SckptRef ref, SckptPutAbove put, void *arg)
{
	FramePartition *partition = frame_partition(frame, ref);
	MemoryContext old = MemoryContextSwitchTo(frame->work);

	hand_on_range(frame, partition, sckpt_frame_tree_end(frame, partition, 0), sckpt_frame_tree_end(frame, partition, 1), put, arg);
	MemoryContextSwitchTo(old);
	MemoryContextReset(frame->work);
	frame->sequences[0].places = frame->sequences[1].places = NULL;
	frame->sequences[0].space = frame->sequences[1].space = 0;
}

/* ---- Around them ---- */

void
sckpt_frame_begin_results(SckptFrame *frame)
{
	SckptQuery *query = frame->query;
	int			ncalls = frame->framing->ncalls;
	int			n = frame->ncolumns;
	MemoryContext old;
	TupleDesc	desc;
	ExprContext *econtext;
	List	   *targets;

	frame->estate = CreateExecutorState();
	old = MemoryContextSwitchTo(frame->estate->es_query_cxt);
	desc = CreateTemplateTupleDesc(n + ncalls + 2);
	for (int i = 0; i < n; i++)
		TupleDescCopyEntry(desc, i + 1, frame->desc, i + 1);
	for (int i = 0; i < ncalls; i++)
	{
		SckptFrameCall *call = &frame->framing->calls[i];

		TupleDescInitEntry(desc, ++n, NULL, call->type, call->typmod, 0);
		TupleDescInitEntryCollation(desc, n, call->collation);
	}
	TupleDescInitEntry(desc, ++n, NULL, INT8OID, -1, 0);
	TupleDescInitEntry(desc, ++n, NULL, INT8OID, -1, 0);
	frame->group_slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	frame->stored = MakeSingleTupleTableSlot(frame->desc, &TTSOpsMinimalTuple);
	frame->peer = MakeSingleTupleTableSlot(query->result, &TTSOpsMinimalTuple);
	econtext = CreateExprContext(frame->estate);
	econtext->ecxt_scantuple = frame->group_slot;
	targets = (List *) expression_planner((Expr *) copyObject(query->targetlist));
	frame->projection = ExecBuildProjectionInfo(targets, econtext, MakeSingleTupleTableSlot(ExecTypeFromTL(targets), &TTSOpsVirtual),
												NULL, NULL);
	frame->having = ExecPrepareQual(make_ands_implicit((Expr *) copyObject(query->having)), frame->estate);
	for (int i = 0; i < 2; i++)
	{
		FrameSequence *sequence = &frame->sequences[i];

		memset(sequence, 0, sizeof(*sequence));
		sequence->values = palloc0(Max(1, ncalls) * sizeof(FrameValue));
		sequence->heads = palloc0(Max(1, ncalls) * sizeof(FramePlace));
		for (int j = 0; j < ncalls; j++)
			sequence->values[j].context = CreateExprContext(frame->estate);
	}
	MemoryContextSwitchTo(old);
}

void
sckpt_frame_end_results(SckptFrame *frame)
{
	ExecDropSingleTupleTableSlot(frame->projection->pi_state.resultslot);
	ExecDropSingleTupleTableSlot(frame->group_slot);
	ExecDropSingleTupleTableSlot(frame->stored);
	ExecDropSingleTupleTableSlot(frame->peer);
	FreeExecutorState(frame->estate);
	frame->estate = NULL;
}
