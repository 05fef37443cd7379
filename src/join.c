/*-------------------------------------------------------------------------
 *
 * join.c
 *		Joins of streams: operator.h over two inputs.
 *
 * The store has the rows of both sides, each with its weight; an entry is
 *
 *		SckptEntry | weight, matches | links | side, length | MinimalTuple
 *
 * found by its side and image, and linked with the other rows of its side that have the same key.  A second store, which is never
 * checkpointed, leads from a key to these two lists; it is built again as rows are restored.
 *
 * A row with weight w is joined with every matching row o of the other side, and hands on their pairs with the product of both weights; then
 * it is added to its side: ΔA ⋈ B_old + A_new ⋈ ΔB, whatever comes first.  Where rows without a match have to be known (outer, semi and anti joins), each
 * has the total weight of what it matches.  A row appears, or disappears, without its pair when that becomes 0, or ceases to be.
 *
 * Without a key all rows are in one list, and each that comes meets all of the other side: one of the sides must be small.
 *
 * Rows with a NULL in their key match nothing and are not kept: on a side that keeps rows without a match they are handed on at once.
 *
 * One that unites (query_settle.c) keeps no rows at all: it hands all of them on at once.
 *
 * Where conditions say how far apart in time rows can match, or that they are of one window, a row is freed (it leaves: operator.h) once the watermark
 * has passed all that it could match: what comes later is late for the join, and dropped; rows with windows have been judged by the window.
 *
 * What it hands on waits in process memory (changes.h) until somebody takes it: the stage above after each batch, the sink at the checkpoint.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "changes.h"
#include "codec.h"
#include "compat.h"
#include "expand.h"
#include "group.h"
#include "join.h"
#include "settings.h"
#include "timer.h"

#define RELIEVE_BYTES (16 * 1024 * 1024)

typedef struct JoinRow
{
	SckptEntry	entry;
	int64		weight;			/* 0: GONE (operator.h), until the next checkpoint */
	int64		matches;		/* total weight of the other side's rows that it matches, where that has to be known */
	SckptRef	list;			/* of its key */
	SckptRef	next;
	SckptRef	prev;
	uint32		side;
	SckptTimerLink timer;		/* of a side whose rows can be freed */
	/* MAXALIGNed: a MinimalTuple */
} JoinRow;

#define ROW_HEADER MAXALIGN(sizeof(JoinRow))

/* The rows with a key, an entry of the directory. */
typedef struct JoinList
{
	SckptEntry	entry;
	SckptRef	first[2];
	/* MAXALIGNed: the key (group.h) */
} JoinList;

#define LIST_HEADER MAXALIGN(sizeof(JoinList))

/* One side. */
typedef struct JoinSide
{
	SckptQuery *leaf;			/* its linear source; NULL: a stage below */
	SckptExpander *expander;	/* of a source with windows */
	ProjectionInfo *projection; /* of a source: its row, from what the SQL gives */
	ExprContext *source;
	TupleDesc	desc;
	AttrNumber *keys;
	bool		keeps;			/* its rows without a match are handed on */
	bool		counts;			/* its rows know their matches */
	TupleTableSlot *incoming;
	TupleTableSlot *stored;
	TupleTableSlot *nothing;	/* all NULL */
	SckptCodec *codecs;
	AttrNumber	due;			/* see query.h */
	int64		delay;			/* with allowed_lateness */
	AttrNumber	judged;
	Datum	   *values;
	bool	   *nulls;
} JoinSide;

typedef struct StreamJoin
{
	SckptOperator operator;
	MemoryContext context;
	MemoryContext row_context;
	SckptQuery *query;
	SckptJoin  *join;
	JoinSide	sides[2];
	bool		pairs;			/* hands on pairs: not of semi and anti joins */
	SckptGroupKey *key;
	Datum	   *key_values;
	bool	   *key_nulls;
	SckptState *lists;
	int64		held[2];		/* rows of each side that are in the state, of a join without a key */
	const SckptInput *input;
	SckptTimers *timers;		/* NULL: nothing is freed */
	TimestampTz freed_until;	/* while reading back */
	EState	   *estate;
	ExprContext *econtext;
	ExprState  *condition;
	ExprState  *filter;
	ExprState  *copies;			/* int8; NULL: one */
	ProjectionInfo *projection;
	SckptChanges *changes;
} StreamJoin;

static inline JoinRow *
row_at(StreamJoin *join, SckptRef ref)
{
	return (JoinRow *) sckpt_state_address(join->operator.state, ref);
}

static inline JoinList *
list_at(StreamJoin *join, SckptRef ref)
{
	return (JoinList *) sckpt_state_address(join->lists, ref);
}

static inline MinimalTuple
tuple_of(JoinRow *row)
{
	return (MinimalTuple) ((char *) row + ROW_HEADER);
}

static inline Size
row_bytes(MinimalTuple tuple)
{
	return ROW_HEADER + tuple->t_len - SCKPT_ENTRY_HEADER;
}

/* ---- Keys ---- */

/* The key of a row whose columns are in values; false: there is a NULL in it. */
static bool
take_key(StreamJoin *join, int side, Datum *values, bool *nulls)
{
	for (int i = 0; i < join->key->ncolumns; i++)
	{
		int			column = join->sides[side].keys[i] - 1;

		if (nulls[column])
			return false;
		join->key_values[i] = values[column];
		join->key_nulls[i] = false;
	}
	return true;
}

/* The list of the key taken last; `add`: make one. */
static SckptRef
find_list(StreamJoin *join, bool add)
{
	uint32		hash = sckpt_group_key_hash(join->key, join->key_values, join->key_nulls);
	SckptProbe	probe;
	SckptRef	ref;

	for (ref = sckpt_state_probe(join->lists, hash, &probe); ref != SCKPT_NO_REF; ref = sckpt_state_probe_next(&probe))
	{
		if (sckpt_group_key_equal(join->key, (char *) list_at(join, ref) + LIST_HEADER, join->key_values, join->key_nulls))
			return ref;
	}
	if (!add)
		return SCKPT_NO_REF;
	ref = sckpt_state_insert(join->lists, hash, LIST_HEADER - SCKPT_ENTRY_HEADER +
							 sckpt_group_key_size(join->key, join->key_values, join->key_nulls));
	sckpt_group_key_store(join->key, (char *) list_at(join, ref) + LIST_HEADER, join->key_values, join->key_nulls);
	return ref;
}

static void
drop_list(StreamJoin *join, SckptRef ref)
{
	sckpt_group_key_load(join->key, (char *) list_at(join, ref) + LIST_HEADER, join->key_values, join->key_nulls);
	sckpt_state_remove(join->lists, ref, LIST_HEADER - SCKPT_ENTRY_HEADER +
					   sckpt_group_key_size(join->key, join->key_values, join->key_nulls));
}

/* ---- Times ---- */

/* When a row, whose columns are in the side's values, matches nothing that is yet to come. */
static int64
due_of(JoinSide *side)
{
	int64		due;

	if (side->due == 0)
		return SCKPT_NEVER;
	if (side->nulls[side->due - 1])
		return DT_NOBEGIN;		/* it matches nothing at all */
	due = DatumGetInt64(side->values[side->due - 1]);
	return TIMESTAMP_NOT_FINITE(due) ? SCKPT_NEVER : add_time(due, side->delay);
}

/* Does a row come too late to be joined? */
static bool
is_late(StreamJoin *join, JoinSide *side, TupleTableSlot *source)
{
	ItemPointer place = (ItemPointer) DatumGetPointer(source->tts_values[side->leaf->row - 1]);
	uint32		segment = BlockIdGetBlockNumber(&place->ip_blkid);
	TimestampTz watermark = join->input->before[segment].watermark;
	int64		limit = Max(add_time(watermark, -join->query->lateness), join->query->closed_until);
	int64		time = DatumGetInt64(side->values[side->judged - 1]);

	if (side->nulls[side->judged - 1] || watermark == DT_NOBEGIN || TIMESTAMP_NOT_FINITE(time) || time >= limit)
		return false;
	join->input->late(join->input->arg, segment, place->ip_posid);
	return true;
}

/* ---- Rows ---- */

static uint32
row_hash(int side, MinimalTuple tuple)
{
	return murmurhash32(hash_bytes((unsigned char *) tuple + SizeofMinimalTupleHeader, tuple->t_len - SizeofMinimalTupleHeader) +
						side * 0x9e3779b1U);
}

static SckptRef
find_row(StreamJoin *join, uint32 hash, int side, MinimalTuple tuple)
{
	SckptProbe	probe;
	SckptRef	ref;

	for (ref = sckpt_state_probe(join->operator.state, hash, &probe); ref != SCKPT_NO_REF; ref = sckpt_state_probe_next(&probe))
	{
		JoinRow    *row = row_at(join, ref);
		MinimalTuple other = tuple_of(row);

		if (row->side == side && other->t_len == tuple->t_len &&
			memcmp((char *) other + SizeofMinimalTupleHeader, (char *) tuple + SizeofMinimalTupleHeader,
				   tuple->t_len - SizeofMinimalTupleHeader) == 0)
			break;
	}
	return ref;
}

/* Of a join without a key: rows have come to a side, or gone. */
static void
count_held(StreamJoin *join, int side, int change)
{
	join->held[side] += change;
	if (change > 0 && join->join->nkeys == 0 && Min(join->held[0], join->held[1]) > sckpt_broadcast_rows)
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),	/* 54000 is a key that is too long for an index */
				 errmsg("both sides of a join without an equality have more than %d rows", sckpt_broadcast_rows),
				 errdetail("stream_ckpt.broadcast_rows limits the smaller side."),
				 errhint("Increase stream_ckpt.broadcast_rows and resume the pipeline, or add a condition like a.key = b.key.")));
}

/* Add a row of weight 0 to a list. */
static SckptRef
add_row(StreamJoin *join, uint32 hash, int side, MinimalTuple tuple, SckptRef list)
{
	SckptRef	ref = sckpt_state_insert(join->operator.state, hash, row_bytes(tuple));
	JoinRow    *row = row_at(join, ref);
	JoinList   *head = list_at(join, list);

	row->side = side;
	row->list = list;
	row->next = head->first[side];
	if (row->next != SCKPT_NO_REF)
		row_at(join, row->next)->prev = ref;
	head->first[side] = ref;
	memcpy(tuple_of(row), tuple, tuple->t_len);
	row->timer.at = SCKPT_NEVER;
	if (join->timers)
		sckpt_timers_add(join->timers, ref, due_of(&join->sides[side]));
	return ref;
}

static inline void
touch(StreamJoin *join, SckptRef ref, JoinRow *row)
{
	sckpt_state_mark_dirty(join->operator.state, ref);
	row->entry.flags &= ~SCKPT_ENTRY_REWRITE;
}

static void
join_remove(SckptOperator *operator, bool elements, SckptRef ref)
{
	StreamJoin *join = (StreamJoin *) operator;
	JoinRow    *row = row_at(join, ref);
	JoinList   *head = list_at(join, row->list);
	SckptRef	list = row->list;

	if (join->timers)
		sckpt_timers_remove(join->timers, ref);
	count_held(join, row->side, -(row->weight != 0));
	if (row->next != SCKPT_NO_REF)
		row_at(join, row->next)->prev = row->prev;
	if (row->prev != SCKPT_NO_REF)
		row_at(join, row->prev)->next = row->next;
	else
		head->first[row->side] = row->next;
	sckpt_state_remove(operator->state, ref, row_bytes(tuple_of(row)));
	if (head->first[0] == SCKPT_NO_REF && head->first[1] == SCKPT_NO_REF)
		drop_list(join, list);
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

/* Hand on a row of both sides' slots. */
static void
put(StreamJoin *join, TupleTableSlot *left, TupleTableSlot *right, int64 weight)
{
	if (weight == 0)
		return;
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
	sckpt_changes_add(join->changes, ExecProject(join->projection), weight);
}

static void
put_alone(StreamJoin *join, int side, TupleTableSlot *row, int64 weight)
{
	if (side == 0)
		put(join, row, join->sides[1].nothing, weight);
	else
		put(join, join->sides[0].nothing, row, weight);
}

/* The other side's row, in its `stored` slot, has got `change` more matches. */
static void
change_matches(StreamJoin *join, int side, SckptRef ref, JoinRow *row, int64 change)
{
	bool		before = row->matches != 0;
	bool		after;

	row->matches += change;
	after = row->matches != 0;
	touch(join, ref, row);
	if (before == after)
		return;
	if (join->join->type == JOIN_SEMI)
		put_alone(join, side, join->sides[side].stored, after ? row->weight : -row->weight);
	else if (join->sides[side].keeps)
		put_alone(join, side, join->sides[side].stored, after ? -row->weight : row->weight);
}

/* A row, whose columns are in the side's values, in the row's context. */
static void
take_row(StreamJoin *join, int number, int64 weight)
{
	JoinSide   *side = &join->sides[number];
	JoinSide   *other = &join->sides[1 - number];
	MinimalTuple tuple;
	SckptRef	list;
	SckptRef	ref;
	JoinRow    *row;
	int64		matches = 0;
	uint32		hash;

	for (int i = 0; i < side->desc->natts; i++)
	{
		struct varlena *value = (struct varlena *) DatumGetPointer(side->values[i]);

		if (!side->nulls[i] && TupleDescAttr(side->desc, i)->attlen == -1 &&
			(VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value)))
			side->values[i] = PointerGetDatum(detoast_attr(value));
	}
	ResetExprContext(join->econtext);
	tuple = heap_form_minimal_tuple(side->desc, side->values, side->nulls, 0);
	ExecStoreMinimalTuple(tuple, side->incoming, false);
	if (join->join->unites || !take_key(join, number, side->values, side->nulls))
	{
		if (side->keeps)
			put_alone(join, number, side->incoming, weight);
		return;
	}

	list = find_list(join, false);
	for (SckptRef at = list == SCKPT_NO_REF ? list : list_at(join, list)->first[1 - number]; at != SCKPT_NO_REF; at = row->next)
	{
		CHECK_FOR_INTERRUPTS();
		row = row_at(join, at);
		if (row->weight == 0 && !other->counts)
			continue;
		ResetExprContext(join->econtext);
		ExecStoreMinimalTuple(tuple_of(row), other->stored, false);
		join->econtext->ecxt_outertuple = number == 0 ? side->incoming : other->stored;
		join->econtext->ecxt_innertuple = number == 0 ? other->stored : side->incoming;
		if (join->condition && !ExecQual(join->condition, join->econtext))
			continue;
		if (join->pairs)
			put(join, join->econtext->ecxt_outertuple, join->econtext->ecxt_innertuple, multiply(weight, row->weight));
		if (side->counts)
			matches += row->weight;
		if (other->counts)
			change_matches(join, 1 - number, at, row, weight);
	}
	ExecClearTuple(other->stored);
	ResetExprContext(join->econtext);
	if (side->counts && (join->join->type == JOIN_SEMI) == (matches != 0))
		put_alone(join, number, side->incoming, weight);

	/* It may be of no use to any other. */
	if (side->due && side->nulls[side->due - 1] && !side->counts)
		return;
	hash = row_hash(number, tuple);
	ref = find_row(join, hash, number, tuple);
	if (ref == SCKPT_NO_REF)
		ref = add_row(join, hash, number, tuple, list == SCKPT_NO_REF ? find_list(join, true) : list);
	row = row_at(join, ref);
	count_held(join, number, (row->weight + weight != 0) - (row->weight != 0));
	row->weight += weight;
	row->matches = matches;
	touch(join, ref, row);
	if (row->weight == 0)
		row->entry.flags |= SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE;
	else
		row->entry.flags &= ~(SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE);
}

/* `source`: the row of the SQL that it was made of, if it is to be judged. */
static void
take_slot(StreamJoin *join, TupleTableSlot *slot, TupleTableSlot *source, int64 weight)
{
	JoinSide   *side = &join->sides[join->operator.side];
	MemoryContext old = MemoryContextSwitchTo(join->row_context);

	slot_getallattrs(slot);
	memcpy(side->values, slot->tts_values, side->desc->natts * sizeof(Datum));
	memcpy(side->nulls, slot->tts_isnull, side->desc->natts * sizeof(bool));
	if (source == NULL || !is_late(join, side, source))
		take_row(join, join->operator.side, weight);
	ExecClearTuple(side->incoming);
	MemoryContextSwitchTo(old);
	MemoryContextReset(join->row_context);
	if (join->operator.relieve && sckpt_changes_bytes(join->changes) > RELIEVE_BYTES)
		join->operator.relieve(join->operator.relieve_arg, &join->operator);
}

static void
take_expanded(void *arg, TupleTableSlot *row, uint32 segment, int32 weight)
{
	StreamJoin *join = arg;
	JoinSide   *side = &join->sides[join->operator.side];

	ResetExprContext(side->source);
	side->source->ecxt_scantuple = row;
	take_slot(join, ExecProject(side->projection), side->judged ? row : NULL, weight);
}

static void
join_begin_rows(SckptOperator *operator, const SckptInput *input, const SckptTimes *times)
{
	((StreamJoin *) operator)->input = input;
}

static void
join_consume(SckptOperator *operator, TupleTableSlot *slot, int32 weight)
{
	StreamJoin *join = (StreamJoin *) operator;
	JoinSide   *side = &join->sides[operator->side];

	slot_getallattrs(slot);
	if (side->expander)
		sckpt_expander_take(side->expander, join->input, slot, weight, take_expanded, join);
	else if (side->leaf)
		take_expanded(join, slot, 0, weight);
	else
		take_slot(join, slot, NULL, weight);
}

static void
join_nothing(SckptOperator *operator)
{
}

static bool
join_undo(SckptOperator *operator)
{
	return false;
}

/* ---- Handing on ---- */

static void
join_hand_on(SckptOperator *operator, const SckptTimes *times, bool final, SckptPutAbove put_above, SckptBadResult bad, void *arg)
{
	sckpt_changes_put(((StreamJoin *) operator)->changes, put_above, arg);
	sckpt_changes_clear(((StreamJoin *) operator)->changes);
}

static SckptRef *
join_close(SckptOperator *operator, const SckptTimes *times, uint64 *count)
{
	StreamJoin *join = (StreamJoin *) operator;
	SckptRef   *due;
	uint64		ndue;

	*count = 0;
	if (join->timers == NULL || times->watermark == DT_NOBEGIN || sckpt_timers_first(join->timers) > times->watermark)
		return NULL;
	due = sckpt_timers_due(join->timers, times->watermark, &ndue);
	for (uint64 i = 0; i < ndue; i++)
	{
		JoinRow    *row = row_at(join, due[i]);

		if (row->timer.at > times->watermark || (row->entry.flags & SCKPT_ENTRY_LEAVING))
			continue;
		touch(join, due[i], row);
		row->entry.flags |= SCKPT_ENTRY_LEAVING;
	}
	if (due)
		pfree(due);
	return NULL;
}

static TimestampTz
join_next_close(SckptOperator *operator)
{
	return DT_NOEND;
}

/* ---- Portable form ---- */

static void
join_describe(SckptOperator *operator, bool elements, StringInfo buf)
{
	StreamJoin *join = (StreamJoin *) operator;
	static const char *const types[] = {
		[JOIN_INNER] = "inner", [JOIN_LEFT] = "left", [JOIN_FULL] = "full", [JOIN_RIGHT] = "right", [JOIN_SEMI] = "semi", [JOIN_ANTI] = "anti"
	};
	int			column = 0;

	appendStringInfo(buf, "join\t%s\t%s\n", join->join->unites ? "unites" : types[join->join->type], join->join->canonical);
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

static bool
join_adapt(SckptOperator *operator, bool elements, const char *description, bool same)
{
	StringInfoData buf;
	bool		result;

	initStringInfo(&buf);
	join_describe(operator, elements, &buf);
	result = strcmp(buf.data, description) == 0;
	pfree(buf.data);
	return result;
}

/* Side, weight, matches, and the columns: 0 for NULL, else 1 and the value. */
static bool
join_pack(SckptOperator *operator, bool elements, SckptEntry *entry, StringInfo buf)
{
	StreamJoin *join = (StreamJoin *) operator;
	JoinRow    *row = (JoinRow *) entry;
	JoinSide   *side = &join->sides[row->side];
	MemoryContext old = MemoryContextSwitchTo(join->row_context);

	sckpt_codec_write_uint(buf, row->side);
	sckpt_codec_write_int(buf, row->weight);
	sckpt_codec_write_int(buf, row->matches);
	ExecStoreMinimalTuple(tuple_of(row), side->stored, false);
	slot_getallattrs(side->stored);
	for (int i = 0; i < side->desc->natts; i++)
	{
		appendStringInfoCharMacro(buf, side->stored->tts_isnull[i] ? 0 : 1);
		if (!side->stored->tts_isnull[i])
			sckpt_codec_write(&side->codecs[i], buf, side->stored->tts_values[i]);
	}
	ExecClearTuple(side->stored);
	MemoryContextSwitchTo(old);
	MemoryContextReset(join->row_context);
	return true;
}

static void
join_begin_unpack(SckptOperator *operator, bool elements, const SckptTimes *times)
{
	((StreamJoin *) operator)->freed_until = times->watermark;
}

static SckptRef
join_unpack(SckptOperator *operator, bool elements, bool emitted, const char **cursor, const char *end)
{
	StreamJoin *join = (StreamJoin *) operator;
	MemoryContext old = MemoryContextSwitchTo(join->row_context);
	uint64		number = sckpt_codec_read_uint(cursor, end);
	int64		weight = sckpt_codec_read_int(cursor, end);
	int64		matches = sckpt_codec_read_int(cursor, end);
	JoinSide   *side = &join->sides[number & 1];
	SckptRef	ref = SCKPT_NO_REF;
	MinimalTuple tuple;
	uint32		hash;

	for (int i = 0; i < side->desc->natts; i++)
	{
		side->nulls[i] = sckpt_codec_read_uint(cursor, end) == 0;
		side->values[i] = side->nulls[i] ? (Datum) 0 : sckpt_codec_read(&side->codecs[i], cursor, end);
	}
	if (number > 1 || !take_key(join, number, side->values, side->nulls))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored state of a pipeline is corrupted"),
				 errdetail("A row of a join has no key.")));
	tuple = heap_form_minimal_tuple(side->desc, side->values, side->nulls, 0);
	hash = row_hash(number, tuple);

	/* The newest version comes first; what was freed counts no more. */
	if ((join->freed_until == DT_NOBEGIN || due_of(side) > add_time(join->freed_until, join->query->lateness - join->query->stored_lateness)) &&
		find_row(join, hash, number, tuple) == SCKPT_NO_REF)
	{
		ref = add_row(join, hash, number, tuple, find_list(join, true));
		row_at(join, ref)->weight = weight;
		row_at(join, ref)->matches = matches;
		join->held[number] += weight != 0;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(join->row_context);
	return ref;
}

static void
join_end_unpack(SckptOperator *operator, bool elements)
{
}

static SckptRef
join_find(SckptOperator *operator, Datum *values, bool *nulls)
{
	return SCKPT_NO_REF;
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
	StreamJoin *join = (StreamJoin *) operator;

	sckpt_changes_destroy(join->changes);
	sckpt_state_destroy(operator->state);
	sckpt_state_destroy(join->lists);
	for (int i = 0; i < 2; i++)
	{
		if (join->sides[i].expander)
			sckpt_expander_destroy(join->sides[i].expander);
	}
	FreeExecutorState(join->estate);
	MemoryContextDelete(join->context);
}

typedef struct SplitContext
{
	int			nleft;
} SplitContext;

/* From Vars of the joined row to those of the sides' rows. */
static Node *
split_vars(Node *node, SplitContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);

		var->varno = var->varattno > context->nleft ? INNER_VAR : OUTER_VAR;
		if (var->varattno > context->nleft)
			var->varattno -= context->nleft;
		return (Node *) var;
	}
	return expression_tree_mutator(node, split_vars, (void *) context);
}

static ExprState *
prepare_condition(Node *node, SplitContext *context)
{
	if (node == NULL)
		return NULL;
	return ExecInitQual(make_ands_implicit((Expr *) expression_planner((Expr *) split_vars(node, context))), NULL);
}

static ProjectionInfo *
prepare_projection(List *targets, ExprContext *econtext)
{
	targets = (List *) expression_planner((Expr *) targets);
	return ExecBuildProjectionInfo(targets, econtext, MakeSingleTupleTableSlot(ExecTypeFromTL(targets), &TTSOpsVirtual), NULL, NULL);
}

static void
prepare_side(StreamJoin *join, int number)
{
	JoinSide   *side = &join->sides[number];
	SckptJoin  *def = join->join;
	int			natts = def->rows[number]->natts;

	side->leaf = def->leaf[number];
	side->desc = CreateTupleDescCopy(def->rows[number]);
	side->keys = def->columns[number];
	side->due = def->due[number];
	side->judged = def->judged[number];
	side->delay = add_time(def->delay[number], join->query->lateness + (def->window ? 0 : 1));
	side->keeps = def->type == JOIN_FULL || (number == 0 && (def->type == JOIN_LEFT || def->type == JOIN_ANTI)) ||
		(number == 1 && def->type == JOIN_RIGHT);
	side->counts = side->keeps || (number == 0 && def->type == JOIN_SEMI);
	side->incoming = MakeSingleTupleTableSlot(side->desc, &TTSOpsMinimalTuple);
	side->stored = MakeSingleTupleTableSlot(side->desc, &TTSOpsMinimalTuple);
	side->nothing = MakeSingleTupleTableSlot(side->desc, &TTSOpsVirtual);
	ExecStoreAllNullTuple(side->nothing);
	side->values = palloc0(Max(1, natts) * sizeof(Datum));
	side->nulls = palloc0(Max(1, natts) * sizeof(bool));
	side->codecs = palloc0(Max(1, natts) * sizeof(SckptCodec));
	for (int i = 0; i < natts; i++)
		sckpt_codec_init(&side->codecs[i], TupleDescAttr(side->desc, i)->atttypid, TupleDescAttr(side->desc, i)->atttypmod, join->context);
	if (side->leaf)
	{
		side->source = CreateExprContext(join->estate);
		side->projection = prepare_projection(copyObject(side->leaf->targetlist), side->source);
		if (side->leaf->nwindows > 0 || side->leaf->ncomputed > 0 || side->leaf->condition)
			side->expander = sckpt_expander_create(side->leaf, join->context);
	}
}

SckptOperator *
sckpt_join_create(SckptQuery *query, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt join", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	StreamJoin *join = palloc0(sizeof(StreamJoin));
	SplitContext split = {query->join->rows[0]->natts};

	join->context = context;
	join->row_context = AllocSetContextCreate(context, "stream_ckpt joined row", ALLOCSET_DEFAULT_SIZES);
	join->query = query;
	join->join = query->join;
	join->pairs = query->join->type != JOIN_SEMI && query->join->type != JOIN_ANTI;
	join->estate = CreateExecutorState();
	join->econtext = CreateExprContext(join->estate);
	join->key = sckpt_group_key_create(query->join->keys, query->join->nkeys, context);
	join->key_values = palloc0(query->join->nkeys * sizeof(Datum));
	join->key_nulls = palloc0(query->join->nkeys * sizeof(bool));
	for (int side = 0; side < 2; side++)
		prepare_side(join, side);
	join->condition = prepare_condition(query->join->condition, &split);
	join->filter = prepare_condition(query->having, &split);
	if (query->join->copies)
		join->copies = ExecInitExpr(expression_planner((Expr *) split_vars(query->join->copies, &split)), NULL);
	join->projection = prepare_projection((List *) split_vars((Node *) query->targetlist, &split), join->econtext);
	join->changes = sckpt_changes_create(CreateTupleDescCopy(query->result), query->join->retracts, context);
	join->lists = sckpt_state_create(context);
	join->operator.state = sckpt_state_create(context);
	if (query->join->due[0] || query->join->due[1])
		join->timers = sckpt_timers_create(context, join->operator.state, offsetof(JoinRow, timer), USECS_PER_SEC);

	join->operator.name = "join";
	join->operator.changes = join->changes;
	join->operator.begin_rows = join_begin_rows;
	join->operator.consume = join_consume;
	join->operator.end_rows = join_nothing;
	join->operator.end_batch = join_nothing;
	join->operator.begin_undo = join_nothing;
	join->operator.undo = join_undo;
	join->operator.end_undo = join_nothing;
	join->operator.start = join_nothing;
	join->operator.close = join_close;
	join->operator.next_close = join_next_close;
	join->operator.remove = join_remove;
	join->operator.describe = join_describe;
	join->operator.adapt = join_adapt;
	join->operator.flush = join_nothing;
	join->operator.pack = join_pack;
	join->operator.begin_unpack = join_begin_unpack;
	join->operator.unpack = join_unpack;
	join->operator.end_unpack = join_end_unpack;
	join->operator.find = join_find;
	join->operator.begin_results = join_nothing;
	join->operator.end_results = join_nothing;
	join->operator.hand_on = join_hand_on;
	join->operator.destroy = join_destroy;
	join->operator.mergeable = join_mergeable;
	MemoryContextSwitchTo(old);
	return &join->operator;
}
