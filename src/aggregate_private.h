/*-------------------------------------------------------------------------
 *
 * aggregate_private.h
 *		What the files of the aggregate operator share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_AGGREGATE_PRIVATE_H
#define SCKPT_AGGREGATE_PRIVATE_H

#include "nodes/execnodes.h"
#include "utils/timestamp.h"

#include "aggregate.h"
#include "codec.h"
#include "expand.h"
#include "group.h"
#include "set.h"
#include "timer.h"

/* Live objects are flattened and dropped at the end of a batch when they hold more than this. */
#define LIVE_MEMORY (32 * 1024 * 1024)

/* Rows looked up together, so that the memory of their groups is on its way while others are worked on. */
#define BLOCK_ROWS 64

#define VALUE_NULL		0x01	/* the transition value is NULL */
#define VALUE_ABSENT	0x02	/* nothing but NULLs so far: the first input becomes the value (strict transition functions) */
#define VALUE_STALE		0x04	/* until the end of a run: it is to be computed from its set */

/* What an entry holds of a transition value. */
typedef union SckptAggValue
{
	Datum		value;			/* by value */
	struct
	{
		SckptRef	ref;		/* chunk: SckptAggFlat, then the bytes; or none */
		uint32		live;		/* 1 + index of the live object, 0: none */
	}			object;
} SckptAggValue;

/* Before flat bytes in the store. */
typedef struct SckptAggFlat
{
	uint64		size;			/* of the chunk, this header included */
} SckptAggFlat;

/* A value that is more recent than its flat form. */
typedef struct SckptAggLive
{
	Datum		value;
	SckptRef	entry;
	int			call;
	bool		changed;		/* since it was flattened */
} SckptAggLive;

/* Transitions that need no call once there is a value; the rest of what their functions do stays with these. */
typedef enum SckptAggPlain
{
	SCKPT_AGG_CALLED,
	SCKPT_AGG_COUNT,			/* int8inc, int8inc_any */
	SCKPT_AGG_SUM_INT4,			/* int4_sum */
	SCKPT_AGG_SUM_FLOAT8,		/* float8pl */
	SCKPT_AGG_MIN_INT4,			/* int4smaller, date_smaller; and so on */
	SCKPT_AGG_MAX_INT4,
	SCKPT_AGG_MIN_INT8,			/* int8smaller, and those of timestamps */
	SCKPT_AGG_MAX_INT8
} SckptAggPlain;

/* When a session began and ends; and the same in the sink's row. */
typedef struct SckptAggSession
{
	TimestampTz start;
	TimestampTz end;			/* last time + gap */
	TimestampTz result_start;	/* in the result that was last asked for */
	TimestampTz result_end;
	TimestampTz emitted_start;
	TimestampTz emitted_end;
	uint32		hash;			/* of the key, in the directory */
} SckptAggSession;

/*
 * Of a partition that only grows, what the first rows are known to be without sorting: rows after `bound`, one of its elements, are no results, and
 * never will be.
 */
typedef struct SckptAggRank
{
	SckptRef	bound;			/* SCKPT_NO_REF: not known yet */
	uint32		kept;			/* rows taken in since the restore, less those let go */
	uint32		enough;			/* when there are so many, those that are no results are let go; 0: not decided yet */
} SckptAggRank;

/* Calls that share a set. */
typedef struct SckptAggSet
{
	int			ncolumns;
	AttrNumber *source;			/* columns of the source */
	bool		counted;
	int			ncalls;
	int		   *calls;			/* by bit, of a marked set; the one call of a counted one */
	Datum	   *values;			/* of the row at hand */
	bool	   *nulls;
} SckptAggSet;

/* An aggregate call, ready to run. */
typedef struct SckptAggCall
{
	SckptCallMode mode;
	int			set;
	SckptCall  *source;
	FmgrInfo	transition;
	FunctionCallInfo fcinfo;
	FmgrInfo	inverse;		/* of an INVERSE call */
	FunctionCallInfo inverse_fcinfo;
	int			count;			/* of an INVERSE call: which of the entry's counts */
	int			nargs;
	AttrNumber *args;			/* columns of the source */
	AttrNumber	filter;
	bool		strict;
	bool		internal;
	SckptAggPlain plain;
	bool		idempotent;		/* the same input once more changes nothing */
	bool		by_value;
	int16		length;
	Oid			type;			/* of the transition value */
	Datum		initial;
	bool		initial_null;
	bool		has_final;
	bool		final_strict;
	bool		final_reads_only;
	int			final_nargs;
	FmgrInfo	final;
	FmgrInfo	serialize;
	FmgrInfo	deserialize;
	FmgrInfo	combine;		/* fn_oid is invalid: none */
	Oid			collation;
	bool		result_by_value;
	int16		result_length;
	SckptCodec	codec;			/* of the transition value, unless internal */
	char	   *signature;		/* names the aggregate, its argument types, and the type above */
	char	   *former_signature;	/* the same with the type of older versions of PostgreSQL; NULL: it has always been this one */
	SckptCodec	former_codec;	/* of a transition value of that type */
} SckptAggCall;

/*
 * What the entries of a chunk consist of, as its description says, in terms of the query as it is (aggregate_form.c).
 */
typedef struct SckptAggForm
{
	char	   *description;
	bool		same;			/* stored by the query as it is */
	int		   *keys;			/* by stored column of the key: the query's */
	/* the parts that entries have */
	bool		session;
	bool		elements;
	bool		touched;
	bool		weight;
	bool		handed_on;
	int			nhanded;
	int		   *handed;			/* by stored column of the row handed on: the stage's, or -1 */
	int		   *sources;		/* the same: the column of the stored group's row that it is, 0: a zero; -1: it is computed */
	int			ncalls;
	int		   *calls;			/* by stored call: the query's, or -1 */
	bool	   *collected;		/* the same: it has no value */
	bool	   *counts;			/* the same: it has a count */
	bool	   *former;			/* of each, too: stored by an older version of PostgreSQL, in another form (former.h) */
	SckptSetForm sets;
} SckptAggForm;

/* A value whose inverse has failed. */
typedef struct SckptAggStale
{
	SckptRef	entry;
	int			call;
} SckptAggStale;

typedef struct SckptSessions SckptSessions;
typedef struct SckptCollector SckptCollector;
typedef struct SckptRanker SckptRanker;
typedef struct SckptUndo SckptUndo;

typedef struct SckptAggregate
{
	SckptOperator operator;
	SckptQuery *query;
	MemoryContext context;
	MemoryContext live_context;
	MemoryContext row_context;	/* reset after each row and each result */
	AggState   *agg_state;		/* what aggregate functions see */
	SckptGroupKey *key;			/* without the bounds of a session */
	SckptAggCall *calls;
	int			ncalls;

	/* What an entry consists of; 0: it has no such part. */
	Size		timer_offset;
	Size		touched_offset;
	Size		weight_offset;
	Size		handed_offset;
	Size		counts_offset;
	Size		head_offset;
	Size		session_offset;
	Size		rank_offset;
	Size		flags_offset;
	Size		key_offset;
	bool		extended;		/* more than finding the group and calling functions is to be done for a row */

	SckptTimers *timers;		/* NULL: nothing closes, and nothing is forgotten */
	int			ndues;
	SckptAggDue *dues;
	SckptSets  *sets;			/* NULL: none */
	int			nsets;
	SckptAggSet *set_calls;
	int64		next_id;		/* of a group, for its elements: see set.h */
	SckptGroupKey *route;		/* the routing keys; NULL: the stage is not spread over tasks */
	SckptSessions *sessions;	/* NULL: no session window */
	SckptCollector *collector;	/* of COLLECT calls; made when the first result is asked for */
	SckptRanker *ranker;		/* of a query that ranks */
	SckptExpander *expander;	/* NULL: rows are taken as they come */

	SckptAggLive *live;
	uint32		nlive;
	uint32		maxlive;
	Datum	   *key_values;		/* of the row at hand */
	bool	   *key_nulls;
	/* the run at hand */
	const SckptInput *input;	/* NULL: from the stage below */
	SckptTimes	times;			/* then */
	List	   *stale;			/* SckptAggStale: values with VALUE_STALE, among others; in stale_context, reset at the end of a run */
	MemoryContext stale_context;
	SckptUndo  *undo;			/* what rows change is noted here; NULL: it is not */
	/* of the checkpoint being read back */
	int		   *stored_sources;	/* of rows handed on by a former query; NULL: no group needs them */
	SckptTimes	unpack_times;
	SckptAggForm *form;			/* of the chunk at hand */
	MemoryContext form_context;
	/* rows waiting to be looked up, where the query's values are stable */
	SckptRoom	room;			/* its capacity is 0 where they are not */
	uint32	   *block_hashes;
	SckptRef   *block_refs;		/* an entry with this hash, or none; then the row's group */
	SckptEntry **block_entries; /* the same, found */
	uint32	   *block_segments;
	/* for results */
	EState	   *estate;
	TupleTableSlot *group_slot;
	ProjectionInfo *projection;
	ExprState  *having;
	/* for rows handed on */
	TupleTableSlot *handed_slot;
	SckptCodec *handed_codecs;
} SckptAggregate;

static inline SckptAggValue *
entry_values(SckptEntry *entry)
{
	return (SckptAggValue *) ((char *) entry + SCKPT_ENTRY_HEADER);
}

static inline uint8 *
entry_flags(SckptAggregate *agg, SckptEntry *entry)
{
	return (uint8 *) entry + agg->flags_offset;
}

static inline char *
entry_key(SckptAggregate *agg, SckptEntry *entry)
{
	return (char *) entry + agg->key_offset;
}

static inline SckptTimerLink *
entry_timer(SckptAggregate *agg, SckptEntry *entry)
{
	return (SckptTimerLink *) ((char *) entry + agg->timer_offset);
}

/* The clock (SckptTimes) when a row last came. */
static inline TimestampTz *
entry_touched(SckptAggregate *agg, SckptEntry *entry)
{
	return (TimestampTz *) ((char *) entry + agg->touched_offset);
}

/* Rows in the group, where rows can be taken back. */
static inline int64 *
entry_weight(SckptAggregate *agg, SckptEntry *entry)
{
	return (int64 *) ((char *) entry + agg->weight_offset);
}

/* An entry's rows are what its elements know; until those have been read, since the query was another one. */
#define SCKPT_HANDED_UNREAD ((SckptRef) PG_UINT32_MAX)

/* The result that was handed on: a chunk with SckptAggFlat and a MinimalTuple. */
static inline SckptRef *
entry_handed(SckptAggregate *agg, SckptEntry *entry)
{
	return (SckptRef *) ((char *) entry + agg->handed_offset);
}

/* By INVERSE call: inputs that its value is made of. */
static inline int64 *
entry_counts(SckptAggregate *agg, SckptEntry *entry)
{
	return (int64 *) ((char *) entry + agg->counts_offset);
}

static inline SckptSetHead *
entry_head(SckptAggregate *agg, SckptEntry *entry)
{
	return (SckptSetHead *) ((char *) entry + agg->head_offset);
}

static inline SckptAggSession *
entry_session(SckptAggregate *agg, SckptEntry *entry)
{
	return (SckptAggSession *) ((char *) entry + agg->session_offset);
}

static inline SckptAggRank *
entry_rank(SckptAggregate *agg, SckptEntry *entry)
{
	return (SckptAggRank *) ((char *) entry + agg->rank_offset);
}

static inline int64
sckpt_aggregate_new_id(SckptAggregate *agg)
{
	int64		id = agg->next_id;

	agg->next_id += SCKPT_MAX_TASKS;
	return id;
}

/* aggregate_value.c */
/* Make what a function returned a transition value that lives in `context`: a copy there, unless it is there; the one before is freed. */
extern void sckpt_call_keep(SckptAggCall *call, MemoryContext context, Datum *value, bool *isnull, Datum new, bool new_isnull);
/* An internal value that is fit for transitions, made of stored bytes, in the current context and the AggState's; `scratch` is reset by others. */
extern Datum sckpt_call_revive(SckptAggCall *call, AggState *agg_state, Datum stored, MemoryContext scratch);
extern Datum sckpt_aggregate_deserialize(SckptAggregate *agg, SckptAggCall *call, SckptRef ref);
extern Datum sckpt_aggregate_flat_value(SckptAggregate *agg, SckptRef ref);
extern char *sckpt_aggregate_flat_room(SckptAggregate *agg, SckptAggValue *value, Size len);
extern void sckpt_aggregate_set_flat(SckptAggregate *agg, SckptAggCall *call, SckptAggValue *value, Datum new);
extern SckptAggLive *sckpt_aggregate_add_live(SckptAggregate *agg, SckptRef ref, int call, SckptAggValue *value);
/* Store what a transition function returned for a value kept by reference or as a live object. */
extern void sckpt_aggregate_store_object(SckptAggregate *agg, SckptAggCall *call, int index, SckptRef ref, SckptAggValue *value,
										 uint8 *flags, Datum old, Datum new, bool isnull);
/* The transition value, by reference or internal, as functions want it; not of a NULL one. */
extern Datum sckpt_aggregate_object(SckptAggregate *agg, SckptAggCall *call, int index, SckptRef ref, SckptAggValue *value);
/* The transition value as its function wants it. */
static inline Datum
sckpt_aggregate_value(SckptAggregate *agg, SckptAggCall *call, int index, SckptRef ref, SckptAggValue *value)
{
	if (call->by_value && !call->internal)
		return value->value;
	return sckpt_aggregate_object(agg, call, index, ref, value);
}

/* Store what a function returned for a value, given the old one. */
static inline void
sckpt_aggregate_store(SckptAggregate *agg, SckptAggCall *call, int index, SckptRef ref, SckptAggValue *value, uint8 *flags,
					  Datum old, Datum new, bool isnull)
{
	if (call->by_value && !call->internal)
	{
		value->value = new;
		*flags = isnull ? VALUE_NULL : 0;
	}
	else
		sckpt_aggregate_store_object(agg, call, index, ref, value, flags, old, new, isnull);
}

/* Free what a value holds. */
extern void sckpt_aggregate_release(SckptAggregate *agg, SckptAggCall *call, SckptAggValue *value);
extern void sckpt_aggregate_flush(SckptOperator *operator);
/* Bring one entry's live objects into the store; and throw its live objects away, so that what is in the store counts. */
extern void sckpt_aggregate_flatten(SckptAggregate *agg, SckptRef ref);
extern void sckpt_aggregate_forget_live(SckptAggregate *agg, SckptAggValue *value);
extern void sckpt_aggregate_end_batch(SckptOperator *operator);

/* aggregate.c */
extern SckptRef sckpt_aggregate_find_group(SckptAggregate *agg, uint32 hash);
/* Add an entry for the key at hand (agg->key_values), with initial values; it is neither registered nor dirty. */
extern SckptRef sckpt_aggregate_add_group(SckptAggregate *agg, uint32 hash);
/* Bytes of an entry, as sckpt_state_insert() got them. */
extern Size sckpt_aggregate_entry_bytes(SckptAggregate *agg, Datum *values, bool *nulls);
/* Add the transition values of another entry, of the same operator or another one, to one's own. */
extern void sckpt_aggregate_combine(SckptAggregate *agg, SckptRef ref, SckptAggregate *other, SckptRef other_ref);
/* Call the transition function with a row's values. */
extern void sckpt_aggregate_advance(SckptAggregate *agg, int call, SckptRef ref, const Datum *values, const bool *nulls);
/* A value, which holds nothing, gets its initial value. */
extern void sckpt_aggregate_initialize_value(SckptAggregate *agg, int call, SckptEntry *entry);
/* Give a new entry's values, or those of one that starts anew, their initial values. */
extern void sckpt_aggregate_initialize(SckptAggregate *agg, SckptRef ref);

/* aggregate_merge.c: adding up two aggregates of the same query; see operator.h. */
extern void sckpt_aggregate_merge(SckptOperator *operator, SckptOperator *source);
extern bool sckpt_aggregate_mergeable(SckptOperator *operator);

/* aggregate_inverse.c: INVERSE calls.  A row comes or is taken back; at the end of a run. */
extern void sckpt_aggregate_advance_inverse(SckptAggregate *agg, int call, SckptRef ref, const Datum *values, const bool *nulls,
											int32 weight);
extern void sckpt_aggregate_refresh(SckptAggregate *agg);

/* aggregate_close.c: when groups close or are forgotten, and leave; handing on. */
/* The watermark at which an entry with this key closes; SCKPT_NEVER. */
extern int64 sckpt_aggregate_due(SckptAggregate *agg, SckptEntry *entry, const Datum *values, const bool *nulls);
/* (Re)register an entry for when it closes or is forgotten, whichever is first. */
extern void sckpt_aggregate_register(SckptAggregate *agg, SckptRef ref, const Datum *values, const bool *nulls);
extern SckptRef *sckpt_aggregate_close(SckptOperator *operator, const SckptTimes *times, uint64 *count);
extern TimestampTz sckpt_aggregate_next_close(SckptOperator *operator);
extern void sckpt_aggregate_remove(SckptOperator *operator, bool elements, SckptRef ref);
/* Back to initial values, as if new. */
extern void sckpt_aggregate_reset(SckptAggregate *agg, SckptRef ref);
extern void sckpt_aggregate_hand_on(SckptOperator *operator, const SckptTimes *times, bool final, SckptPutAbove put,
									SckptBadResult bad, void *arg);

/* Keep a row as the one that was handed on; forget it. */
extern void sckpt_aggregate_keep_handed(SckptAggregate *agg, SckptEntry *entry, MinimalTuple row);
extern void sckpt_aggregate_release_handed(SckptAggregate *agg, SckptEntry *entry);

/*
 * aggregate_undo.c: note that an entry is about to change, in anything but the elements of its sets; that it was added; that bits
 * of an element were set, or a count was added.  While agg->undo is set.
 */
extern void sckpt_undo_entry(SckptAggregate *agg, SckptRef ref);
extern void sckpt_undo_added(SckptAggregate *agg, SckptRef ref);
extern void sckpt_undo_element(SckptAggregate *agg, SckptRef group, int set, const Datum *values, const bool *nulls, int64 change);
/* An entry is about to lose all of its elements. */
extern void sckpt_undo_reset(SckptAggregate *agg, SckptRef ref);
extern void sckpt_aggregate_begin_undo(SckptOperator *operator);
extern bool sckpt_aggregate_undo(SckptOperator *operator);
extern void sckpt_aggregate_end_undo(SckptOperator *operator);

/* aggregate_collect.c: the result of a COLLECT call, palloc'd in the current context or pointing into the store. */
extern Datum sckpt_aggregate_collect(SckptAggregate *agg, int call, SckptRef ref, bool *isnull);

/* aggregate_rank.c: groups whose results are the first of their rows. */
extern SckptRanker *sckpt_ranker_create(SckptAggregate *agg);
/* Take a row (of the set's columns) in; false: it is after all that can be results, and nothing has changed. */
extern bool sckpt_rank_take(SckptAggregate *agg, SckptRef ref, SckptEntry *entry, Datum *values, bool *nulls, int32 weight);
/* Some of these groups, or none, get rows soon. */
extern void sckpt_rank_prefetch(SckptAggregate *agg, const SckptRef *refs, int count);
/* Before results are asked for: let go of what is not needed. */
extern void sckpt_rank_flush(SckptAggregate *agg);
/* The row of a group that has one at most, into the slot of group rows, whose keys are there; false: it has none. */
extern bool sckpt_rank_load_first(SckptAggregate *agg, SckptRef ref, TupleTableSlot *group);
/* All rows, palloc'd, between begin_results and end_results. */
extern MinimalTuple *sckpt_rank_results(SckptAggregate *agg, SckptRef ref, uint64 *count);
/* Those handed on last, which stay where they are; and keep these as that, in an entry that has none. */
extern MinimalTuple *sckpt_rank_handed(SckptAggregate *agg, SckptEntry *entry, uint64 *count);
extern void sckpt_rank_keep_handed(SckptAggregate *agg, SckptEntry *entry, MinimalTuple *rows, uint64 count);
/* The difference between what was handed on and `rows`, which are what is handed on from now on. */
extern void sckpt_rank_hand_on(SckptAggregate *agg, SckptEntry *entry, MinimalTuple *rows, uint64 count, MemoryContext scratch,
							   SckptPutAbove put, void *arg);
/* Do elements know what was handed on, unless rows are kept with the entry?  Then from which column of the group's row a column of the result is (0: it is a zero). */
extern bool sckpt_rank_knows_handed(SckptAggregate *agg);
extern int	sckpt_rank_source(SckptAggregate *agg, int column);
/* The difference between what was handed on and the group's results; `whole`: put may refuse rows. */
extern void sckpt_rank_hand_on_known(SckptAggregate *agg, SckptRef ref, SckptEntry *entry, bool whole, MemoryContext scratch,
									 SckptPutAbove put, void *arg);
/* Keep what the elements know to have been handed on with the entry, unless rows are there already. */
extern void sckpt_rank_keep_known(SckptAggregate *agg, SckptRef ref);
/* An entry is read back whose elements know what was handed on; and all elements have been read. */
extern void sckpt_rank_restore_known(SckptAggregate *agg, SckptEntry *entry);
extern void sckpt_rank_end_restore(SckptAggregate *agg);

/* session.c: the sessions of each key. */
extern SckptSessions *sckpt_sessions_create(SckptAggregate *agg);
extern SckptState *sckpt_sessions_directory(SckptSessions *sessions);
extern void sckpt_sessions_destroy(SckptSessions *sessions);
/*
 * The session that a row of the key at hand (agg->key_values, with this hash) at [start, end) belongs to: made, or extended; sessions that the row bridges
 * are merged into the first of them, and leave.
 */
extern SckptRef sckpt_session_place(SckptAggregate *agg, uint32 hash, TimestampTz start, TimestampTz end);
/*
 * By what hash a session is kept in the operator's store, given its key's: sessions of a key under one hash would make it linear.  Any
 * time will do.  What finds sessions takes the key's hash.
 */
extern uint32 sckpt_session_hash(uint32 hash, TimestampTz start);
/* Does the key at hand have a session that overlaps [start, end)? */
extern bool sckpt_session_overlaps(SckptAggregate *agg, uint32 hash, TimestampTz start, TimestampTz end);
/* The key's session with exactly these bounds in the sink, or SCKPT_NO_REF. */
extern SckptRef sckpt_session_find_emitted(SckptAggregate *agg, uint32 hash, TimestampTz start, TimestampTz end, bool has_start, bool has_end);
/* Enter a session that was read back; take one off that goes. */
extern void sckpt_session_enter(SckptAggregate *agg, SckptRef ref);
extern void sckpt_session_forget(SckptAggregate *agg, SckptRef ref);

/* aggregate_call.c: prepare an aggregate's functions; 42501 when the current user may not execute it. */
extern void sckpt_aggregate_prepare_call(SckptAggregate *agg, SckptAggCall *call, SckptCall *source);

/* aggregate_form.c: what entries consist of, in words, and reading that of a chunk; see operator.h. */
extern void sckpt_aggregate_describe(SckptOperator *operator, bool elements, StringInfo buf);
extern bool sckpt_aggregate_adapt(SckptOperator *operator, bool elements, const char *description, bool same);

/* aggregate_output.c: portable form and results; see operator.h. */
extern bool sckpt_aggregate_pack(SckptOperator *operator, bool elements, SckptEntry *entry, StringInfo buf);
extern void sckpt_aggregate_begin_unpack(SckptOperator *operator, bool elements, const SckptTimes *times);
extern SckptRef sckpt_aggregate_unpack(SckptOperator *operator, bool elements, bool emitted, const char **cursor, const char *end);
extern void sckpt_aggregate_end_unpack(SckptOperator *operator, bool elements);
extern void sckpt_aggregate_begin_results(SckptOperator *operator);
extern bool sckpt_aggregate_result(SckptOperator *operator, SckptRef ref, TupleTableSlot **slot);
extern bool sckpt_aggregate_moved(SckptOperator *operator, SckptEntry *entry, TupleTableSlot *slot);
extern void sckpt_aggregate_emitted(SckptOperator *operator, SckptEntry *entry);
extern void sckpt_aggregate_end_results(SckptOperator *operator);
extern void sckpt_aggregate_key_row(SckptOperator *operator, SckptRef ref, TupleTableSlot *slot);
extern Datum sckpt_aggregate_key_json(SckptOperator *operator, SckptRef ref);

#endif							/* SCKPT_AGGREGATE_PRIVATE_H */
