/*-------------------------------------------------------------------------
 *
 * join.c
 *		Joins of streams: operator.h over two inputs.
 *
 * A row with weight w is joined with every matching row o of the other side, and hands on their pairs with the product of both weights; then
 * it is added to its side: ΔA ⋈ B_old + A_new ⋈ ΔB, whatever comes first.  Where rows without a match have to be known (outer, semi and anti joins), each
 * has the total weight of what it matches.  A row appears, or disappears, without its pair when that becomes 0, or ceases to be.
 *
 * Without a key all rows are in one list, and each that comes meets all of the other side: one of the sides must be small.
 *
 * One that marks (a LEFT join) hands on each row of its left side once, with the news whether it matches anything.
 *
 * Rows with a NULL in their key match nothing and are not kept: on a side that keeps rows without a match they are handed on at once.
 *
 * One that unites (query_settle.c) keeps no rows at all: it hands all of them on at once.
 *
 * Where conditions say how far apart in time rows can match, or that they are of one window, a row is freed (it leaves: operator.h) once the watermark
 * has passed all that it could match: what comes later is late for the join, and dropped; rows with windows have been judged by the window.
 * Those that came after the last checkpoint go at once when there are many, so that a backlog is joined in little memory; but not
 * where a side comes from a stage below, whose rows come at barriers, and may match what is due by then.
 *
 * With state_ttl, rows that are not freed so are forgotten: taken back like rows with a negative weight, at a barrier, or when the same one comes again.
 *
 * What it hands on waits in process memory (changes.h) until somebody takes it: the stage above after each batch, the sink at the checkpoint.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "join_private.h"
#include "settings.h"

#define RELIEVE_BYTES (16 * 1024 * 1024)
#define SHED_ROWS UINT64CONST(16384)

/* A row as it was before a try. */
typedef struct UndoRow
{
	SckptRef	ref;			/* hash key */
	bool		added;			/* it was not: nothing else here counts */
	uint16		flags;
	int64		weight;
	int64		matches;
	TimestampTz touched;
} UndoRow;

/* Before a row is changed. */
static void
note(SckptStreamJoin *join, SckptRef ref, SckptJoinRow *row, bool added)
{
	UndoRow    *undo;
	bool		found;

	if (join->undo == NULL)
		return;
	undo = hash_search(join->undo, &ref, HASH_ENTER, &found);
	if (found)
		return;
	undo->added = added;
	undo->flags = row->entry.flags;
	undo->weight = row->weight;
	undo->matches = row->matches;
	undo->touched = row->touched;
}

static inline void
touch(SckptStreamJoin *join, SckptRef ref, SckptJoinRow *row)
{
	sckpt_state_mark_dirty(join->operator.state, ref);
	row->entry.flags &= ~SCKPT_ENTRY_REWRITE;
}

/* ---- Joining ---- */

static int64
multiply(int64 a, int64 b)
{
	int64		result;

	if (pg_mul_s64_overflow(a, b, &result))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("a row is in a join too often")));
	return result;
}

static inline void
forward_row(SckptOperator *above, TupleTableSlot *row, int64 weight)
{
	for (; weight > 0; weight--)
	{
		CHECK_FOR_INTERRUPTS();
		above->consume(above, row, 1);
	}
}

/* Hand on a row of both sides' slots. */
static void
put(SckptStreamJoin *join, TupleTableSlot *left, TupleTableSlot *right, int64 weight)
{
	if (weight == 0)
		return;
	ResetExprContext(join->econtext);
	join->econtext->ecxt_outertuple = left;
	join->econtext->ecxt_innertuple = right;
	if (join->filter && !ExecQual(join->filter, join->econtext))
		return;
	if (join->copies)
	{
		bool		isnull;
		Datum		copies = ExecEvalExprSwitchContext(join->copies, join->econtext, &isnull);

		weight = isnull ? 0 : multiply(weight, DatumGetInt64(copies));
	}
	if (join->operator.forward == NULL)
		sckpt_changes_add(join->changes, ExecProject(join->projection), weight);
	else
		forward_row(join->operator.forward, ExecProject(join->projection), weight);
}

static void
put_alone(SckptStreamJoin *join, int side, TupleTableSlot *row, int64 weight)
{
	if (side == 0)
		put(join, row, join->sides[1].nothing, weight);
	else
		put(join, join->sides[0].nothing, row, weight);
}

/* A row that knows its matches, if it is handed on as it is, or is no longer. */
static void
put_known(SckptStreamJoin *join, int side, TupleTableSlot *row, bool matched, int64 weight)
{
	if (join->marked)
		put(join, row, matched ? join->marked : join->sides[1].nothing, weight);
	else if ((join->join->type == JOIN_SEMI) == matched)
		put_alone(join, side, row, weight);
}

/* The other side's row, in its `stored` slot, has got `change` more matches. */
static void
change_matches(SckptStreamJoin *join, int side, SckptRef ref, SckptJoinRow *row, int64 change)
{
	bool		before = row->matches != 0;
	bool		after;

	note(join, ref, row, false);
	row->matches += change;
	after = row->matches != 0;
	touch(join, ref, row);
	if (before == after)
		return;
	put_known(join, side, join->sides[side].stored, before, -row->weight);
	put_known(join, side, join->sides[side].stored, after, row->weight);
}

/* Show a row, by its columns, as the one that is incoming. */
static inline void
show_row(SckptJoinSide *side, Datum *values, bool *nulls)
{
	side->incoming->tts_values = values;
	side->incoming->tts_isnull = nulls;
}

/* Does a row that is kept, whose slot is given, match the incoming one? Then all of it is in the slot. */
static inline bool
matches_row(SckptStreamJoin *join, SckptJoinSide *other, SckptJoinRow *row, TupleTableSlot *left, TupleTableSlot *right)
{
	MinimalTuple tuple = tuple_of(row);
	Datum	   *values = other->stored->tts_values;
	bool	   *nulls = other->stored->tts_isnull;
	const char *data = sckpt_flat_read(&other->flat, tuple, sckpt_flat_data(tuple), 0, other->ncompared, values, nulls);

	if (!sckpt_join_compare(join, left, right))
		return false;
	data = sckpt_flat_read(&other->flat, tuple, data, other->ncompared, other->nchecked, values, nulls);
	if (join->condition)
	{
		ResetExprContext(join->econtext);
		join->econtext->ecxt_outertuple = left;
		join->econtext->ecxt_innertuple = right;
		if (!ExecQual(join->condition, join->econtext))
			return false;
	}
	(void) sckpt_flat_read(&other->flat, tuple, data, other->nchecked, other->desc->natts, values, nulls);
	return true;
}

/* The pairs of a row, in the slot of its side, with the rows of a list; returns the total weight of what it matches. */
static int64
join_row(SckptStreamJoin *join, int number, SckptRef list, int64 weight)
{
	SckptJoinSide   *side = &join->sides[number];
	SckptJoinSide   *other = &join->sides[1 - number];
	TupleTableSlot *left = number == 0 ? side->incoming : other->stored;
	TupleTableSlot *right = number == 0 ? other->stored : side->incoming;
	SckptJoinRow *row;
	int64		matches = 0;

	for (SckptRef at = list == SCKPT_NO_REF ? list : list_at(join, list)->first[1 - number]; at != SCKPT_NO_REF; at = row->next)
	{
		CHECK_FOR_INTERRUPTS();
		row = row_at(join, at);
		if (row->weight == 0 && !other->counts)
			continue;
		if (!matches_row(join, other, row, left, right))
			continue;
		if (join->pairs)
			put(join, left, right, multiply(weight, row->weight));
		if (side->counts)
			matches += row->weight;
		if (other->counts)
			change_matches(join, 1 - number, at, row, weight);
	}
	ResetExprContext(join->econtext);
	if (side->counts)
		put_known(join, number, side->incoming, matches != 0, weight);
	return matches;
}

/* Take a row back with all its weight, as one that has been forgotten: its times tell that (operator.h). */
static void
forget_row(SckptStreamJoin *join, SckptRef ref)
{
	SckptJoinRow *row = row_at(join, ref);
	SckptJoinSide *side = &join->sides[row->side];

	note(join, ref, row, false);
	if (row->weight != 0)
	{
		sckpt_join_read_row(side, row, side->values, side->nulls);
		show_row(side, side->values, side->nulls);
		(void) join_row(join, row->side, row->list, -row->weight);
	}
	sckpt_join_weigh(join, row, 0);
	touch(join, ref, row);
	row->entry.flags |= SCKPT_ENTRY_LEAVING;
}

/* It has come again. */
static void
touch_row(SckptStreamJoin *join, SckptRef ref, SckptJoinRow *row)
{
	if (join->touch == NULL)
		return;
	row->touched = Max(row->touched, join->touch->touched);
	if (row->timer.at == SCKPT_NEVER)
		sckpt_timers_add(join->timers, ref, sckpt_join_forget_time(join, row));
}

/* Without a key, both sides must not become large. */
static void
check_held(SckptStreamJoin *join)
{
	if (join->join->nkeys == 0 && Min(join->held[0], join->held[1]) > sckpt_broadcast_rows)
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),	/* 54000 is a key that is too long for an index */
				 errmsg("both sides of a join without an equality have more than %d rows", sckpt_broadcast_rows),
				 errdetail("stream_ckpt.broadcast_rows limits the smaller side."),
				 errhint("Increase stream_ckpt.broadcast_rows and resume the pipeline, or add a condition like a.key = b.key.")));
}

/* A row of the block, in the row's context. */
static void
take_row(SckptStreamJoin *join, SckptJoinArrival *arrival)
{
	int			number = arrival->side;
	SckptJoinSide   *side = &join->sides[number];
	MinimalTuple tuple = arrival->tuple;
	SckptRef	list;
	SckptRef	ref = SCKPT_NO_REF;
	SckptJoinRow *row;
	int64		matches;
	int64		due;
	bool		added;

	show_row(side, arrival->values, arrival->nulls);
	if (!arrival->has_key)
	{
		if (side->keeps)
			put_alone(join, number, side->incoming, arrival->weight);
		return;
	}
	(void) sckpt_join_take_key(join, number, arrival->values, arrival->nulls);
	list = sckpt_join_find_list(join, arrival->key_hash, false);
	if (join->touch && list != SCKPT_NO_REF)
	{
		/* The same one may have been due to be forgotten before this one's transaction. */
		ref = sckpt_join_find_row(join, arrival->hash, number, tuple);
		if (ref != SCKPT_NO_REF && join->touch->before != DT_NOBEGIN && sckpt_join_forget_time(join, row_at(join, ref)) <= join->touch->before)
		{
			forget_row(join, ref);
			show_row(side, arrival->values, arrival->nulls);
		}
	}
	matches = join_row(join, number, list, arrival->weight);

	/* It may be of no use to any other. */
	due = sckpt_join_due(side, arrival->values, arrival->nulls);
	if (due == DT_NOBEGIN ? !side->counts : due <= join->gone_until)
		return;
	if (ref == SCKPT_NO_REF)
		ref = sckpt_join_find_row(join, arrival->hash, number, tuple);
	added = ref == SCKPT_NO_REF;
	if (added)
		ref = sckpt_join_add_row(join, arrival->hash, number, tuple, due,
								 list == SCKPT_NO_REF ? sckpt_join_find_list(join, arrival->key_hash, true) : list);
	row = row_at(join, ref);
	note(join, ref, row, added);
	sckpt_join_weigh(join, row, row->weight + arrival->weight);
	check_held(join);
	row->matches = matches;
	touch_row(join, ref, row);
	touch(join, ref, row);
	if (row->weight == 0)
		row->entry.flags |= SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE;
	else
		row->entry.flags &= ~(SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE);
}

/* Ask for the memory that the rows of the block need: of the hash tables, then of what they lead to, then of the rows there. */
static void
prefetch_block(SckptStreamJoin *join, int n)
{
	SckptRef	lists[SCKPT_JOIN_BLOCK_ROWS];

	for (int i = 0; i < n; i++)
	{
		sckpt_state_prefetch(join->lists, join->block[i].key_hash);
		sckpt_state_prefetch(join->operator.state, join->block[i].hash);
	}
	for (int i = 0; i < n; i++)
	{
		lists[i] = sckpt_state_prefetch_entry(join->lists, join->block[i].key_hash);
		(void) sckpt_state_prefetch_entry(join->operator.state, join->block[i].hash);
	}
	for (int i = 0; i < n; i++)
	{
		for (int side = 0; side < 2 && lists[i] != SCKPT_NO_REF; side++)
		{
			char	   *row = (char *) row_at(join, list_at(join, lists[i])->first[side]);

			__builtin_prefetch(row);
			__builtin_prefetch(row + 64);
		}
	}
}

void
sckpt_join_take_block(SckptStreamJoin *join)
{
	MemoryContext old = MemoryContextSwitchTo(join->row_context);
	int			n = join->nblock;

	join->nblock = 0;
	join->block_bytes = 0;
	if (n > 1)
		prefetch_block(join, n);
	for (int i = 0; i < n; i++)
	{
		SckptJoinArrival *arrival = &join->block[i];

		join->touch = arrival->has_touch ? &arrival->touch : NULL;
		take_row(join, arrival);
		MemoryContextReset(join->row_context);
		if (join->operator.relieve && sckpt_changes_bytes(join->changes) > RELIEVE_BYTES)
			join->operator.relieve(join->operator.relieve_arg, &join->operator);
	}
	join->touch = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextReset(join->block_context);
}

/* A row of the side at hand, into the block. */
static void
take_slot(void *arg, TupleTableSlot *slot, int32 weight, const SckptTouch *touch)
{
	SckptStreamJoin *join = arg;
	int			number = join->operator.side;
	SckptJoinSide   *side = &join->sides[number];
	SckptJoinArrival *arrival = &join->block[join->nblock];
	MemoryContext old = MemoryContextSwitchTo(join->block_context);

	slot_getallattrs(slot);
	memcpy(arrival->values, slot->tts_values, side->desc->natts * sizeof(Datum));
	memcpy(arrival->nulls, slot->tts_isnull, side->desc->natts * sizeof(bool));
	arrival->tuple = sckpt_flat_form(&side->flat, arrival->values, arrival->nulls);
	arrival->weight = weight;
	arrival->side = number;
	arrival->has_key = !join->join->unites && sckpt_join_take_key(join, number, arrival->values, arrival->nulls);
	arrival->key_hash = arrival->has_key ? sckpt_join_key_hash(join) : 0;
	/* Its bytes count all the same: what making it has left in memory goes with the block. */
	join->block_bytes += arrival->tuple->t_len;
	if (join->wait.side >= 0 && sckpt_join_wait(join, arrival))
		pfree(arrival->tuple);
	else
	{
		arrival->hash = arrival->has_key ? sckpt_join_row_hash(number, arrival->tuple) : 0;
		arrival->has_touch = touch != NULL;
		if (touch)
			arrival->touch = *touch;
		join->nblock++;
	}
	MemoryContextSwitchTo(old);
	if (join->nblock == SCKPT_JOIN_BLOCK_ROWS || join->block_bytes >= SCKPT_JOIN_BLOCK_BYTES || join->undo)
		sckpt_join_take_block(join);
}

static void
join_begin_rows(SckptOperator *operator, const SckptInput *input, const SckptTimes *times)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;

	Assert(join->nblock == 0);
	join->input = input;

	/* Of two sides from stages, what is due has met all that it can match once the second one's rows come. */
	if (input == NULL && operator->last && join->sides[0].feed == NULL && join->sides[1].feed == NULL)
		join->gone_until = times->watermark;
}

static void
join_end_rows(SckptOperator *operator)
{
	sckpt_join_take_block((SckptStreamJoin *) operator);
	((SckptStreamJoin *) operator)->gone_until = DT_NOBEGIN;
}

static void
join_consume(SckptOperator *operator, TupleTableSlot *slot, int32 weight)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	SckptJoinSide   *side = &join->sides[operator->side];

	if (side->feed && join->input)
		sckpt_feed_take(side->feed, join->input, slot, take_slot, join);
	else
		take_slot(join, slot, weight, NULL);
}

static void
join_nothing(SckptOperator *operator)
{
}

/* ---- Trying ---- */

static void
end_undo(SckptStreamJoin *join, bool drop)
{
	if (join->undo == NULL)
		return;
	if (drop)
		sckpt_changes_clear(join->changes);
	sckpt_changes_settle(join->changes, false);
	hash_destroy(join->undo);
	join->undo = NULL;
}

static void
join_begin_undo(SckptOperator *operator)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	HASHCTL		control = {0};

	end_undo(join, false);
	control.keysize = sizeof(SckptRef);
	control.entrysize = sizeof(UndoRow);
	control.hcxt = join->context;
	join->undo = hash_create("stream_ckpt undo", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	sckpt_changes_hold(join->changes);
}

static void
join_end_undo(SckptOperator *operator)
{
	end_undo((SckptStreamJoin *) operator, false);
}

static bool
join_undo(SckptOperator *operator)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	const uint16 leaving = SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE;
	HASH_SEQ_STATUS status;
	UndoRow    *undo;

	hash_seq_init(&status, join->undo);
	while ((undo = hash_seq_search(&status)) != NULL)
	{
		SckptJoinRow *row = row_at(join, undo->ref);

		if (undo->added)
		{
			sckpt_join_remove(operator, false, undo->ref);
			continue;
		}
		sckpt_join_weigh(join, row, undo->weight);
		row->matches = undo->matches;
		row->touched = undo->touched;
		row->entry.flags = (row->entry.flags & ~leaving) | (undo->flags & leaving);
	}
	MemoryContextReset(join->row_context);
	MemoryContextReset(join->block_context);
	join->nblock = 0;
	join->block_bytes = 0;
	end_undo(join, true);
	join_begin_undo(operator);
	return true;
}

/* ---- Handing on ---- */

static void
join_hand_on(SckptOperator *operator, const SckptTimes *times, bool final, SckptPutAbove put_above, SckptBadResult bad, void *arg)
{
	sckpt_changes_put(((SckptStreamJoin *) operator)->changes, put_above, arg);
	sckpt_changes_clear(((SckptStreamJoin *) operator)->changes);
}

static SckptRef *
join_close(SckptOperator *operator, const SckptTimes *times, uint64 *count)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	SckptRef   *due;
	uint64		ndue;
	int64		until;

	/* Rows that are freed go by the watermark, those that are forgotten by the clock, which without a watermark is another one. */
	*count = 0;
	until = Max(times->watermark, join->query->ttl > 0 ? times->clock : DT_NOBEGIN);
	if (join->timers == NULL || until == DT_NOBEGIN || sckpt_timers_first(join->timers) > until)
		return NULL;
	due = sckpt_timers_due(join->timers, until, false, &ndue);
	for (uint64 i = 0; i < ndue; i++)
	{
		SckptJoinRow *row = row_at(join, due[i]);

		sckpt_state_prefetch_refs(operator->state, due, ndue, i);
		CHECK_FOR_INTERRUPTS();
		if (row->entry.flags & SCKPT_ENTRY_LEAVING)
			continue;
		if (join->sides[row->side].forgets)
		{
			MemoryContext old;

			if (sckpt_join_forget_time(join, row) > times->clock)
			{
				sckpt_timers_remove(join->timers, due[i]);
				sckpt_timers_add(join->timers, due[i], sckpt_join_forget_time(join, row));
				continue;
			}
			old = MemoryContextSwitchTo(join->row_context);
			forget_row(join, due[i]);
			MemoryContextSwitchTo(old);
			MemoryContextReset(join->row_context);
			continue;
		}
		if (times->watermark == DT_NOBEGIN || row->timer.at > times->watermark)
			continue;
		touch(join, due[i], row);
		row->entry.flags |= SCKPT_ENTRY_LEAVING;
	}
	if (due)
		pfree(due);
	return NULL;
}

/* What has been stored leaves at a barrier, as join_close() says. */
static void
join_shed(SckptOperator *operator, const SckptTimes *times)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	TimestampTz until = times->watermark;
	uint64		changed;
	SckptRef   *due;
	uint64		ndue;

	if (join->undo || until == DT_NOBEGIN)
		return;
	if (join->wait.side >= 0)
		until = sckpt_join_settle_due(join, until);
	if (join->sides[0].feed == NULL || join->sides[1].feed == NULL)
		return;
	changed = sckpt_state_dirty_count(operator->state);
	if (changed < SHED_ROWS)
		join->shed_at = SHED_ROWS;
	if (changed < join->shed_at || sckpt_timers_first(join->timers) > until)
		return;
	due = sckpt_timers_due(join->timers, until, false, &ndue);
	for (uint64 i = 0; i < ndue; i++)
	{
		SckptJoinRow *row = row_at(join, due[i]);

		sckpt_state_prefetch_refs(operator->state, due, ndue, i);
		sckpt_state_prefetch_slots(operator->state, due, ndue, i);
		CHECK_FOR_INTERRUPTS();
		if (row->entry.chunk == 0 && !(row->entry.flags & (SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_INFLIGHT)) &&
			!join->sides[row->side].forgets && row->timer.at <= until)
			sckpt_join_remove(operator, false, due[i]);
	}
	if (due)
		pfree(due);

	/* Where little can go, looking again waits for twice as many. */
	join->shed_at = Max(SHED_ROWS, 2 * sckpt_state_dirty_count(operator->state));
}

static TimestampTz
join_next_close(SckptOperator *operator)
{
	return DT_NOEND;
}

static SckptRef
join_find(SckptOperator *operator, Datum *values, bool *nulls)
{
	return SCKPT_NO_REF;
}

static uint32
join_route(SckptOperator *operator, SckptRef ref)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	SckptQuery *query = join->query;
	SckptJoinRow *row = row_at(join, ref);
	MemoryContext old = MemoryContextSwitchTo(join->row_context);
	Datum	   *values = palloc(query->nroutes * sizeof(Datum));
	bool	   *nulls = palloc(query->nroutes * sizeof(bool));
	SckptJoinSide *side = &join->sides[row->side];
	uint32		hash;

	sckpt_join_read_row(side, row, side->values, side->nulls);
	for (int i = 0; i < query->nroutes; i++)
	{
		values[i] = side->values[side->keys[query->routes[i]] - 1];
		nulls[i] = side->nulls[side->keys[query->routes[i]] - 1];
	}
	hash = sckpt_group_key_hash(join->route, values, nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(join->row_context);
	return hash;
}

static bool
join_mergeable(SckptOperator *operator)
{
	return false;
}

/* ---- Life ---- */

static void
join_destroy(SckptOperator *operator)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;

	sckpt_changes_destroy(join->changes);
	sckpt_state_destroy(operator->state);
	sckpt_state_destroy(join->lists);
	for (int i = 0; i < 2; i++)
	{
		if (join->sides[i].feed)
			sckpt_feed_destroy(join->sides[i].feed);
	}
	FreeExecutorState(join->estate);
	MemoryContextDelete(join->context);
}

static void
prepare_side(SckptStreamJoin *join, int number)
{
	SckptJoinSide   *side = &join->sides[number];
	SckptJoin  *def = join->join;
	int			natts = def->rows[number]->natts;

	side->desc = CreateTupleDescCopy(def->rows[number]);
	side->keys = def->columns[number];
	sckpt_flat_init(&side->flat, side->desc);
	side->due = def->due[number];
	side->forgets = def->forgets[number] && join->query->ttl > 0;
	side->delay = add_time(def->delay[number], join->query->lateness + (def->window ? 0 : 1));
	side->keeps = def->type == JOIN_FULL || (number == 0 && (def->type == JOIN_LEFT || def->type == JOIN_ANTI)) ||
		(number == 1 && def->type == JOIN_RIGHT);
	side->counts = side->keeps || (number == 0 && def->type == JOIN_SEMI);
	side->incoming = MakeSingleTupleTableSlot(side->desc, &TTSOpsVirtual);
	side->stored = MakeSingleTupleTableSlot(side->desc, &TTSOpsVirtual);
	ExecStoreAllNullTuple(side->incoming);
	ExecStoreAllNullTuple(side->stored);
	side->nothing = MakeSingleTupleTableSlot(side->desc, &TTSOpsVirtual);
	ExecStoreAllNullTuple(side->nothing);
	side->values = palloc0(Max(1, natts) * sizeof(Datum));
	side->nulls = palloc0(Max(1, natts) * sizeof(bool));
	side->codecs = palloc0(Max(1, natts) * sizeof(SckptCodec));
	for (int i = 0; i < natts; i++)
		sckpt_codec_init(&side->codecs[i], TupleDescAttr(side->desc, i)->atttypid, TupleDescAttr(side->desc, i)->atttypmod, join->context);
	if (def->leaf[number])
		side->feed = sckpt_feed_create(join->query, number, join->context);
}

SckptOperator *
sckpt_join_create(SckptQuery *query, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt join", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptStreamJoin *join = palloc0(sizeof(SckptStreamJoin));
	int			nleft = query->join->rows[0]->natts;
	int			ncolumns;

	join->context = context;
	join->row_context = AllocSetContextCreate(context, "stream_ckpt joined row", ALLOCSET_DEFAULT_SIZES);
	join->block_context = AllocSetContextCreate(context, "stream_ckpt rows to join", ALLOCSET_DEFAULT_SIZES);
	join->block = palloc(SCKPT_JOIN_BLOCK_ROWS * sizeof(SckptJoinArrival));
	join->query = query;
	join->join = query->join;
	join->pairs = query->join->type != JOIN_SEMI && query->join->type != JOIN_ANTI && query->join->mark == 0;
	join->estate = CreateExecutorState();
	join->econtext = CreateExprContext(join->estate);
	join->key = sckpt_group_key_create(query->join->keys, query->join->nkeys, context);
	if (query->nroutes > 0)
		join->route = sckpt_group_key_create(query->route_keys, query->nroutes, context);
	join->key_values = palloc0(query->join->nkeys * sizeof(Datum));
	join->key_nulls = palloc0(query->join->nkeys * sizeof(bool));
	for (int side = 0; side < 2; side++)
		prepare_side(join, side);
	ncolumns = Max(1, Max(join->sides[0].desc->natts, join->sides[1].desc->natts));
	for (int i = 0; i < SCKPT_JOIN_BLOCK_ROWS; i++)
	{
		join->block[i].values = palloc(ncolumns * sizeof(Datum));
		join->block[i].nulls = palloc(ncolumns * sizeof(bool));
	}
	if (query->join->mark)
	{
		join->marked = MakeSingleTupleTableSlot(join->sides[1].desc, &TTSOpsVirtual);
		ExecStoreAllNullTuple(join->marked);
		join->marked->tts_values[query->join->mark - 1] = BoolGetDatum(true);
		join->marked->tts_isnull[query->join->mark - 1] = false;
	}
	sckpt_join_prepare_match(join);
	join->filter = sckpt_join_prepare_condition(query->having, nleft);
	join->copies = sckpt_join_prepare_expr(query->join->copies, nleft);
	join->projection = sckpt_join_prepare_projection(query->targetlist, nleft, join->econtext);
	join->changes = sckpt_changes_create(CreateTupleDescCopy(query->result), query->join->retracts, context);
	join->gone_until = DT_NOBEGIN;
	join->lists = sckpt_state_create(context);
	join->operator.directory = join->lists;
	join->operator.state = sckpt_state_create(context);
	if (query->join->due[0] || query->join->due[1] || join->sides[0].forgets || join->sides[1].forgets)
	{
		join->timers = sckpt_timers_create(context, join->operator.state, offsetof(SckptJoinRow, timer), USECS_PER_SEC);
	}
	if (sckpt_join_prepare_wait(join))
		join->operator.settle = sckpt_join_settle;
	if (join->timers && ((join->sides[0].feed && join->sides[1].feed) || join->operator.settle))
		join->operator.shed = join_shed;

	join->operator.name = "join";
	join->operator.changes = join->changes;
	join->operator.begin_rows = join_begin_rows;
	join->operator.consume = join_consume;
	join->operator.end_rows = join_end_rows;
	join->operator.end_batch = join_nothing;
	join->operator.begin_undo = join_begin_undo;
	join->operator.undo = join_undo;
	join->operator.end_undo = join_end_undo;
	join->operator.start = join_nothing;
	join->operator.close = join_close;
	join->operator.next_close = join_next_close;
	join->operator.remove = sckpt_join_remove;
	join->operator.describe = sckpt_join_describe;
	join->operator.adapt = sckpt_join_adapt;
	join->operator.flush = join_nothing;
	join->operator.pack = sckpt_join_pack;
	join->operator.begin_unpack = sckpt_join_begin_unpack;
	join->operator.unpack = sckpt_join_unpack;
	join->operator.end_unpack = sckpt_join_end_unpack;
	join->operator.find = join_find;
	join->operator.begin_results = join_nothing;
	join->operator.end_results = join_nothing;
	join->operator.hand_on = join_hand_on;
	join->operator.route = join_route;
	join->operator.destroy = join_destroy;
	join->operator.mergeable = join_mergeable;
	MemoryContextSwitchTo(old);
	return &join->operator;
}
