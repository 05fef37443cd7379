/*-------------------------------------------------------------------------
 *
 * join_private.h
 *		What the files of the join share.
 *
 * The store has the rows of both sides, each with its weight; an entry is
 *
 *		SckptEntry | weight, matches | links | side, length | MinimalTuple
 *
 * found by its side and image, and linked with the other rows of its side that have the same key.  A second store, which is never
 * checkpointed, leads from a key to these two lists; it is built again as rows are restored.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_JOIN_PRIVATE_H
#define SCKPT_JOIN_PRIVATE_H

#include "nodes/execnodes.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "changes.h"
#include "codec.h"
#include "feed.h"
#include "flat.h"
#include "group.h"
#include "join.h"
#include "timer.h"

typedef struct SckptJoinRow
{
	SckptEntry	entry;
	int64		weight;			/* 0: GONE (operator.h), until the next checkpoint */
	int64		matches;		/* total weight of the other side's rows that it matches, where that has to be known */
	SckptRef	list;			/* of its key */
	SckptRef	next;
	SckptRef	prev;
	uint32		side;
	TimestampTz touched;		/* of a side whose rows are forgotten; else DT_NOBEGIN */
	SckptTimerLink timer;		/* of a side whose rows can be freed, or are forgotten */
	/* MAXALIGNed: a MinimalTuple */
} SckptJoinRow;

#define ROW_HEADER MAXALIGN(sizeof(SckptJoinRow))

/* The rows with a key, an entry of the directory. */
typedef struct SckptJoinList
{
	SckptEntry	entry;
	SckptRef	first[2];
	/* MAXALIGNed: the key (group.h) */
} SckptJoinList;

#define LIST_HEADER MAXALIGN(sizeof(SckptJoinList))

/*
 * A part of the condition: a column of the left side beside one of the right side, both of a type whose order is that of integers; times may have a constant
 * interval added.  It is seen to without the executor.
 */
typedef struct SckptJoinComparison
{
	int			columns[2];		/* counted from 0 */
	int64		offsets[2];		/* of times: microseconds to add to those that are finite */
	bool		wide;			/* 8 bytes, not 4 */
	uint8		holds;			/* for which results: 1 less, 2 equal, 4 greater */
} SckptJoinComparison;

/* One side. */
typedef struct SckptJoinSide
{
	SckptFeed  *feed;			/* of a linear source; NULL: its rows come from a stage below */
	TupleDesc	desc;
	SckptFlat	flat;			/* its rows */
	AttrNumber *keys;
	bool		keeps;			/* its rows without a match are handed on */
	bool		counts;			/* its rows know their matches */
	TupleTableSlot *incoming;	/* these two are virtual: the columns of a row of the block, and those of one that is kept */
	TupleTableSlot *stored;
	TupleTableSlot *nothing;	/* all NULL */
	SckptCodec *codecs;
	AttrNumber	due;			/* see query.h */
	int			ncompared;		/* its first columns, up to the last one that is compared, */
	int			nchecked;		/* and that the rest of the condition needs */
	int64		delay;			/* with allowed_lateness */
	bool		forgets;
	Datum	   *values;			/* of a row that is neither */
	bool	   *nulls;
} SckptJoinSide;

/* A row that has come, and waits until the memory that it needs has been asked for. */
typedef struct SckptJoinArrival
{
	MinimalTuple tuple;
	Datum	   *values;			/* its columns */
	bool	   *nulls;
	uint32		hash;			/* of the row */
	uint32		key_hash;
	int32		weight;
	uint8		side;
	bool		has_key;		/* without a NULL; else it matches nothing */
	bool		has_touch;
	SckptTouch	touch;
} SckptJoinArrival;

/* Rows that wait for the barrier, see join_wait.c. */
typedef struct SckptJoinWait
{
	bool		can[2];			/* of which side they may be, */
	int			side;			/* and of which they are; -1: none can wait */
	uint64		came[2];		/* rows of each side */
	TimestampTz watermark;		/* as seen last */
	TimestampTz reached;		/* at the last barrier, or the first one seen */
	int64		gain;			/* since the barrier before it */
	TimestampTz expected;		/* at the next barrier */
	SckptRef   *pieces;
	int			npieces;
	int			space;
} SckptJoinWait;

/* So many at a time, or so much of them. */
#define SCKPT_JOIN_BLOCK_ROWS	64
#define SCKPT_JOIN_BLOCK_BYTES	(256 * 1024)

typedef struct SckptStreamJoin
{
	SckptOperator operator;
	MemoryContext context;
	MemoryContext row_context;
	MemoryContext block_context;
	SckptQuery *query;
	SckptJoin  *join;
	SckptJoinSide sides[2];
	bool		pairs;			/* hands on pairs: not of semi and anti joins, and marks */
	TupleTableSlot *marked;		/* what stands beside a row with a match instead of NULLs; NULL: nothing does */
	SckptGroupKey *key;
	SckptGroupKey *route;		/* the routing keys; NULL: it is not spread over tasks */
	Datum	   *key_values;
	bool	   *key_nulls;
	SckptState *lists;
	int64		held[2];		/* rows of each side that count, of weights other than 0 */
	const SckptInput *input;
	SckptTimers *timers;		/* NULL: nothing is freed */
	TimestampTz gone_until;		/* a row that comes and is due by then need not be kept; DT_NOBEGIN: all are */
	SckptTimes	freed_until;	/* while reading back */
	uint64		shed_at;		/* so many changed rows make it worth looking for those that are due */
	const SckptTouch *touch;	/* of the row at hand; NULL: it does not matter */
	SckptJoinWait wait;
	SckptJoinArrival *block;	/* rows to be taken together, in the order in which they came */
	int			nblock;
	Size		block_bytes;
	EState	   *estate;
	ExprContext *econtext;
	SckptJoinComparison *comparisons;
	int			ncomparisons;
	ExprState  *condition;		/* the rest of it; NULL: there is none */
	ExprState  *filter;
	ExprState  *copies;			/* int8; NULL: one */
	ProjectionInfo *projection;
	SckptChanges *changes;
	HTAB	   *undo;			/* UndoRow; NULL: nothing is tried */
} SckptStreamJoin;

static inline SckptJoinRow *
row_at(SckptStreamJoin *join, SckptRef ref)
{
	return (SckptJoinRow *) sckpt_state_address(join->operator.state, ref);
}

static inline SckptJoinList *
list_at(SckptStreamJoin *join, SckptRef ref)
{
	return (SckptJoinList *) sckpt_state_address(join->lists, ref);
}

static inline MinimalTuple
tuple_of(SckptJoinRow *row)
{
	return (MinimalTuple) ((char *) row + ROW_HEADER);
}

/* ---- join.c ---- */

/* Take the rows of the block, which is empty then. */
extern void sckpt_join_take_block(SckptStreamJoin *join);

/* ---- join_wait.c ---- */

/* False: none ever wait, and the others are not to be called. */
extern bool sckpt_join_prepare_wait(SckptStreamJoin *join);
/* Let a row wait; false: it is to be taken now.  Its hash does not matter. */
extern bool sckpt_join_wait(SckptStreamJoin *join, const SckptJoinArrival *arrival);
/* Between barriers, at a watermark: take what has waited long enough.  Returns up to when rows of the other side that are due may go. */
extern TimestampTz sckpt_join_settle_due(SckptStreamJoin *join, TimestampTz watermark);
/* At a barrier: see operator.h */
extern void sckpt_join_settle(SckptOperator *operator, const SckptTimes *times);

/* ---- join_rows.c ---- */

/* The key of a row whose columns are in values; false: there is a NULL in it. */
extern bool sckpt_join_take_key(SckptStreamJoin *join, int side, Datum *values, bool *nulls);
extern uint32 sckpt_join_key_hash(SckptStreamJoin *join);
/* The list of the key taken last, with its hash; `add`: make one. */
extern SckptRef sckpt_join_find_list(SckptStreamJoin *join, uint32 hash, bool add);
/* When a row matches nothing that is yet to come; and when one is forgotten. */
extern int64 sckpt_join_due(SckptJoinSide *side, const Datum *values, const bool *nulls);
extern int64 sckpt_join_forget_time(SckptStreamJoin *join, SckptJoinRow *row);
extern uint32 sckpt_join_row_hash(int side, MinimalTuple tuple);
extern SckptRef sckpt_join_find_row(SckptStreamJoin *join, uint32 hash, int side, MinimalTuple tuple);
/* Add a row of weight 0 to a list. */
extern SckptRef sckpt_join_add_row(SckptStreamJoin *join, uint32 hash, int side, MinimalTuple tuple, int64 due, SckptRef list);
extern void sckpt_join_remove(SckptOperator *operator, bool elements, SckptRef ref);

/* Give a row, also one that is to be removed, its weight. */
static inline void
sckpt_join_weigh(SckptStreamJoin *join, SckptJoinRow *row, int64 weight)
{
	join->held[row->side] += (weight != 0) - (row->weight != 0);
	row->weight = weight;
}

/* The columns of a row that is kept, all of them, as far as `values` and `nulls` reach. */
static inline void
sckpt_join_read_row(SckptJoinSide *side, SckptJoinRow *row, Datum *values, bool *nulls)
{
	(void) sckpt_flat_read(&side->flat, tuple_of(row), sckpt_flat_data(tuple_of(row)), 0, side->desc->natts, values, nulls);
}

/* ---- join_condition.c ---- */

/* Set up the comparisons, the rest of the condition, and what they read of each side. */
extern void sckpt_join_prepare_match(SckptStreamJoin *join);

/* Add to a time that is finite; PostgreSQL's error if that is out of range. */
extern TimestampTz sckpt_join_add(TimestampTz time, int64 offset);

static inline int64
sckpt_join_compared(const SckptJoinComparison *comparison, int side, Datum value)
{
	int64		number = comparison->wide ? DatumGetInt64(value) : DatumGetInt32(value);

	if (comparison->offsets[side] == 0 || TIMESTAMP_NOT_FINITE(number))
		return number;
	return sckpt_join_add(number, comparison->offsets[side]);
}

/* Do the two sides' columns compare as the condition wants it?  A NULL does not. */
static inline bool
sckpt_join_compare(SckptStreamJoin *join, TupleTableSlot *left, TupleTableSlot *right)
{
	const SckptJoinComparison *end = join->comparisons + join->ncomparisons;

	for (const SckptJoinComparison *comparison = join->comparisons; comparison < end; comparison++)
	{
		int64		x;
		int64		y;

		if (left->tts_isnull[comparison->columns[0]] || right->tts_isnull[comparison->columns[1]])
			return false;
		x = sckpt_join_compared(comparison, 0, left->tts_values[comparison->columns[0]]);
		y = sckpt_join_compared(comparison, 1, right->tts_values[comparison->columns[1]]);
		if (!(comparison->holds & (x < y ? 1 : x == y ? 2 : 4)))
			return false;
	}
	return true;
}

/* ---- join_form.c: see operator.h ---- */

extern void sckpt_join_describe(SckptOperator *operator, bool elements, StringInfo buf);
extern bool sckpt_join_adapt(SckptOperator *operator, bool elements, const char *description, bool same);
extern bool sckpt_join_pack(SckptOperator *operator, bool elements, SckptEntry *entry, StringInfo buf);
extern void sckpt_join_begin_unpack(SckptOperator *operator, bool elements, const SckptTimes *times);
extern SckptRef sckpt_join_unpack(SckptOperator *operator, bool elements, bool emitted, const char **cursor, const char *end);
extern void sckpt_join_end_unpack(SckptOperator *operator, bool elements);

#endif							/* SCKPT_JOIN_PRIVATE_H */
