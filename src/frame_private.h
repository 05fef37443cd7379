/*-------------------------------------------------------------------------
 *
 * frame_private.h
 *		What the files of window functions over rows share.
 *
 * A row is an entry of the operator's store:
 *
 *		FrameRow | MinimalTuple of the partition's key and the set's columns
 *
 * found by its image, and in its partition's tree (frame_tree.c).  A second store, which is never checkpointed, leads from a key to the tree; it is built again as
 * rows are restored.  What is dirty there are partitions with changes that have not been handed on.
 *
 * A row has two weights: of now, and as of the last barrier.  So the rows of a partition, in order, are two sequences, of which the one says what has been
 * handed on, and the other what is to be handed on: both are computed, and nothing is kept of either.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_FRAME_PRIVATE_H
#define SCKPT_FRAME_PRIVATE_H

#include "access/htup_details.h"

#include "aggregate_private.h"
#include "frame.h"
#include "sorter.h"

typedef struct FrameRow
{
	SckptEntry	entry;
	int64		id;				/* tells it from all other rows of its partition that there are */
	int64		weight;			/* 0: GONE (operator.h), until the next checkpoint */
	int64		handed;			/* weight when it was last handed on */
	SckptRef	partition;
	SckptRef	parent;			/* in the tree */
	SckptRef	children[2];
	SckptRef	next_changed;	/* of the partition, while it is listed */
	SckptRef	mark;			/* SckptAggFlat and values carried on to this row, those before it included; none of most rows */
	bool		listed;
	/* MAXALIGNed: a MinimalTuple */
} FrameRow;

#define FRAME_ROW_HEADER MAXALIGN(sizeof(FrameRow))

typedef struct FramePartition
{
	SckptEntry	entry;			/* DIRTY: it has changed rows */
	SckptRef	root;
	SckptRef	changed;
	SckptTimerLink timer;
	/* MAXALIGNed: the key (group.h) */
} FramePartition;

#define FRAME_PARTITION_HEADER MAXALIGN(sizeof(FramePartition))

/* A row whose columns are at hand. */
typedef struct FrameValues
{
	Datum	   *values;			/* of the key, then of the set */
	bool	   *nulls;
} FrameValues;

/* What a row has changed, to be taken back. */
typedef struct FrameUndo
{
	SckptRef	row;
	int64		weight;
} FrameUndo;

/* A place of a sequence. */
typedef struct FramePlace
{
	SckptRef	row;			/* SCKPT_NO_REF: there is none */
	int64		copy;			/* which one of identical rows */
} FramePlace;

/* An aggregate's value on its way over one of the two sequences. */
typedef struct FrameValue
{
	ExprContext *context;		/* the aggregate context */
	Datum		value;
	bool		isnull;
	bool		absent;			/* the first input becomes the value */
	int64		inputs;			/* that it is made of */
	uint64		from;			/* places of the sequence that it has been given */
	uint64		to;
} FrameValue;


/* One of the two, as far as it is looked at. */
typedef struct FrameSequence
{
	bool		before;			/* by weights as of the last barrier */
	FramePlace *places;
	uint64		count;
	uint64		space;
	uint64		at;				/* the next place with a result */
	uint64		peer_end;		/* just past the last place that is equal to the one before it, which has been looked at */
	FrameValue *values;			/* by call: of aggregates, */
	FramePlace *heads;			/* and the same: the row of the partition that first_value() or nth_value() is about */
} FrameSequence;

typedef struct SckptFrame
{
	SckptOperator operator;
	SckptQuery *query;
	SckptFraming *framing;
	MemoryContext context;
	MemoryContext row_context;	/* reset after each row */
	SckptAggregate functions;	/* what aggregate calls are prepared with */
	SckptAggCall *calls;		/* of those that are aggregates */
	SckptGroupKey *key;
	SckptGroupKey *route;		/* NULL: the stage is not spread over tasks */
	SckptSorter *sorter;
	SckptExpander *expander;
	TupleDesc	desc;			/* of rows */
	int			ncolumns;
	SckptCodec *codecs;
	SckptState *partitions;
	SckptTimers *timers;		/* NULL: nothing closes */
	SckptAggDue *dues;
	int			ndues;
	int64		next_id;
	const SckptInput *input;
	TimestampTz closed_until;	/* while reading back */
	FrameValues row;			/* at hand */
	FrameValues other;			/* that it is compared with */
	bool		noting;
	FrameUndo  *undo;
	uint64		nundo;
	uint64		maxundo;
	/* how far a row's results reach, in rows */
	int64		back;			/* rows before it have it in their frames */
	int64		ahead;			/* and rows after it */
	int64		context_back;	/* rows before it are in its frame */
	int64		context_ahead;
	bool		peers;			/* so are all that are equal by the order */
	bool		carries;		/* values are carried on from the partition's first row */
	int64		head;			/* calls look at so many first rows of the partition */
	/* while rows are handed on */
	MemoryContext work;			/* reset after each partition */
	MemoryContext scratch;		/* after each call of a function */
	FrameSequence sequences[2]; /* before, and now */
	TupleTableSlot *stored;
	TupleTableSlot *peer;
	EState	   *estate;
	TupleTableSlot *group_slot;
	ProjectionInfo *projection;
	ExprState  *having;
} SckptFrame;

static inline FrameRow *
frame_row(SckptFrame *frame, SckptRef ref)
{
	return (FrameRow *) sckpt_state_address(frame->operator.state, ref);
}

static inline FramePartition *
frame_partition(SckptFrame *frame, SckptRef ref)
{
	return (FramePartition *) sckpt_state_address(frame->partitions, ref);
}

static inline MinimalTuple
frame_tuple(FrameRow *row)
{
	return (MinimalTuple) ((char *) row + FRAME_ROW_HEADER);
}

static inline Size
frame_row_bytes(MinimalTuple tuple)
{
	return FRAME_ROW_HEADER + tuple->t_len - SCKPT_ENTRY_HEADER;
}

static inline void
frame_load(SckptFrame *frame, FrameRow *row, FrameValues *into)
{
	HeapTupleData tuple;

	tuple.t_len = frame_tuple(row)->t_len + MINIMAL_TUPLE_OFFSET;
	tuple.t_data = (HeapTupleHeader) ((char *) frame_tuple(row) - MINIMAL_TUPLE_OFFSET);
	heap_deform_tuple(&tuple, frame->desc, into->values, into->nulls);
}

/* Orders of rows whose columns are at hand: with ties broken, and by the query's order only. */
static inline int
frame_compare(SckptFrame *frame, const FrameValues *a, const FrameValues *b)
{
	int			nkeys = frame->query->nkeys;

	return sckpt_sorter_compare(frame->sorter, a->values + nkeys, a->nulls + nkeys, b->values + nkeys, b->nulls + nkeys);
}

static inline bool
frame_is_peer(SckptFrame *frame, const FrameValues *a, const FrameValues *b)
{
	int			nkeys = frame->query->nkeys;

	return sckpt_sorter_compare_order(frame->sorter, a->values + nkeys, a->nulls + nkeys, b->values + nkeys, b->nulls + nkeys) == 0;
}

/* frame.c */
extern void sckpt_frame_free_mark(SckptFrame *frame, FrameRow *row);

/* frame_tree.c: a partition's rows in order, those of weight 0 included. */
/* Where a new row whose columns are in frame->row goes; then put it there, which never fails. */
extern SckptRef sckpt_frame_tree_find(SckptFrame *frame, FramePartition *partition, int *side);
extern void sckpt_frame_tree_insert(SckptFrame *frame, FramePartition *partition, SckptRef ref, SckptRef parent, int side);
/* Never fails. */
extern void sckpt_frame_tree_remove(SckptFrame *frame, FramePartition *partition, SckptRef ref);
/* The first row (side 0) or the last one (1), and a row's neighbour on that side; SCKPT_NO_REF: there is none. */
extern SckptRef sckpt_frame_tree_end(SckptFrame *frame, FramePartition *partition, int side);
extern SckptRef sckpt_frame_tree_next(SckptFrame *frame, SckptRef ref, int side);

/* frame_value.c: aggregates over a sequence's rows. */
extern void sckpt_frame_value_begin(SckptFrame *frame, int call, FrameValue *value, uint64 at);
/* The aggregate over the places from … to, both included, if there are any; valid until frame->scratch is reset, or the value changes. */
extern Datum sckpt_frame_value_over(SckptFrame *frame, int call, FrameSequence *sequence, int64 from, int64 to, bool *isnull);
/* Bring what is carried on up to a place; false: it is past that already. */
extern bool sckpt_frame_value_carry(SckptFrame *frame, FrameSequence *sequence, uint64 at);
/* Keep all that is carried on, up to a row, with that row; and go on from there. */
extern void sckpt_frame_value_mark(SckptFrame *frame, FrameSequence *sequence, FrameRow *row);
extern void sckpt_frame_value_resume(SckptFrame *frame, FrameSequence *sequence, FrameRow *row);

/* frame_run.c: handing on. */
extern void sckpt_frame_hand_on_changes(SckptFrame *frame, SckptRef partition, SckptPutAbove put, void *arg);
extern void sckpt_frame_hand_on_all(SckptFrame *frame, SckptRef partition, SckptPutAbove put, void *arg);
extern void sckpt_frame_begin_results(SckptFrame *frame);
extern void sckpt_frame_end_results(SckptFrame *frame);

#endif							/* SCKPT_FRAME_PRIVATE_H */
