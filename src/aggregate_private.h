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

#include "aggregate.h"
#include "codec.h"
#include "group.h"

/* Live objects are flattened and dropped at the end of a batch when they hold more than this. */
#define LIVE_MEMORY (32 * 1024 * 1024)

/* Rows looked up together, so that the memory of their groups is on its way while others are worked on. */
#define BLOCK_ROWS 64

#define VALUE_NULL		0x01	/* the transition value is NULL */
#define VALUE_ABSENT	0x02	/* nothing but NULLs so far: the first input becomes the value (strict transition functions) */

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
	SCKPT_AGG_SUM_FLOAT8		/* float8pl */
} SckptAggPlain;

/* An aggregate call, ready to run. */
typedef struct SckptAggCall
{
	FmgrInfo	transition;
	FunctionCallInfo fcinfo;
	int			nargs;
	AttrNumber *args;			/* columns of the source */
	AttrNumber	filter;
	bool		strict;
	bool		internal;
	SckptAggPlain plain;
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
	char	   *signature;		/* names the aggregate and its argument types */
} SckptAggCall;

typedef struct SckptAggregate
{
	SckptOperator operator;
	SckptQuery *query;
	MemoryContext context;
	MemoryContext live_context;
	MemoryContext row_context;	/* reset after each row and each result */
	AggState   *agg_state;		/* what aggregate functions see */
	SckptGroupKey *key;
	SckptAggCall	   *calls;
	int			ncalls;
	Size		flags_offset;	/* within an entry */
	Size		key_offset;
	SckptAggLive  *live;
	uint32		nlive;
	uint32		maxlive;
	Datum	   *key_values;		/* of the row at hand */
	bool	   *key_nulls;
	/* rows waiting to be looked up, where the query's values are stable */
	int			ncolumns;		/* of the source */
	int			nblock;
	uint32	   *block_hashes;
	Datum	   *block_values;	/* ncolumns for each row */
	bool	   *block_nulls;
	/* for results */
	EState	   *estate;
	TupleTableSlot *group_slot;
	ProjectionInfo *projection;
	ExprState  *having;
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

/* aggregate.c */
extern Datum sckpt_aggregate_deserialize(SckptAggregate *agg, SckptAggCall *call, SckptRef ref);
extern Datum sckpt_aggregate_flat_value(SckptAggregate *agg, SckptRef ref);
extern char *sckpt_aggregate_flat_room(SckptAggregate *agg, SckptAggValue *value, Size len);
extern void sckpt_aggregate_set_flat(SckptAggregate *agg, SckptAggCall *call, SckptAggValue *value, Datum new);
extern SckptRef sckpt_aggregate_find_group(SckptAggregate *agg, uint32 hash);

/* aggregate_call.c: prepare an aggregate's functions; 42501 when the current user may not execute it. */
extern void sckpt_aggregate_prepare_call(SckptAggregate *agg, SckptAggCall *call, SckptCall *source);

/* aggregate_output.c: portable form and results; see operator.h. */
extern void sckpt_aggregate_describe(SckptOperator *operator, StringInfo buf);
extern void sckpt_aggregate_pack(SckptOperator *operator, SckptEntry *entry, StringInfo buf);
extern SckptRef sckpt_aggregate_unpack(SckptOperator *operator, const char **cursor, const char *end);
extern void sckpt_aggregate_begin_results(SckptOperator *operator);
extern bool sckpt_aggregate_result(SckptOperator *operator, SckptEntry *entry, TupleTableSlot **slot);
extern void sckpt_aggregate_end_results(SckptOperator *operator);

#endif							/* SCKPT_AGGREGATE_PRIVATE_H */
