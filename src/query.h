/*-------------------------------------------------------------------------
 *
 * query.h
 *		A pipeline's query, taken apart into its stages.
 *
 * The linear part of a query (FROM, WHERE, expressions, joins with ordinary
 * tables) becomes the source: SQL of its own, which PostgreSQL plans and runs over
 * each batch.  A grouped query has a stateful stage on top, the aggregate: its keys,
 * aggregate calls, and the projection and HAVING over both.  A grouped query over a grouped sub-select is a second such stage
 * (`above`), whose rows are the results of the first.
 *
 * Several streams are read by UNION ALL, which is linear: it is part of the source's SQL (query_union.c).
 *
 * Joins of streams (query_join.c).  A join is a stage with two inputs, each a linear source or a stage below.  So stages are a tree; `above` leads
 * through all of them, those below a stage first, and `target` to the one that takes a stage's rows.
 *
 * Windows.  A window function over the stream is not part of the source.  The source puts out the time, NULL in the place of
 * the window's bounds, and the row's place in the batch (its ctid); who takes its rows (expand.h) fills the bounds in, once for each
 * window that is not closed, and computes the columns and conditions that depend on them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_QUERY_H
#define SCKPT_QUERY_H

#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"

#include "window.h"

/* Stages with state, at most. */
#define SCKPT_MAX_STAGES 16

/* Tasks of a pipeline, at most. */
#define SCKPT_MAX_TASKS 64

/* What a column holds of a window. */
typedef enum SckptBound
{
	SCKPT_BOUND_NONE,
	SCKPT_BOUND_START,
	SCKPT_BOUND_END
} SckptBound;

typedef struct SckptKey
{
	Oid			type;
	int32		typmod;
	Oid			collation;
	Oid			eq_op;			/* a hashable equality operator; InvalidOid: what looks the same is equal */
	AttrNumber	result_column;	/* where the key stands in the result; 0: nowhere (not in the last stage) */
	Node	   *expr;			/* over the query's relations */
	int			below;			/* 1 + the number of the key of the stage below that it is; 0: it is another expression */
	char	   *canonical;		/* what it is, in words (query_canonical.c); of group keys */
	/* for keys that are bounds of windows that close, or of a session: */
	SckptBound	bound;
	const SckptWindowSpec *window;	/* NULL: it does not close */
	int64		delay;			/* the window closes at watermark >= its end + delay (µs) */
} SckptKey;

/* A window function in FROM. */
typedef struct SckptWindow
{
	SckptWindowSpec spec;
	AttrNumber	time;			/* columns of the source */
	AttrNumber	start;			/* 0: not used */
	AttrNumber	end;
	bool		closes;			/* it is over the stream's event time, or over a window below that closes */
	bool		judges;			/* rows can be late for it: it reads the event time of its streams itself */
	int64		delay;			/* as in SckptKey */
} SckptWindow;

/* A column of the source that is computed for each window a row is in. */
typedef struct SckptComputed
{
	AttrNumber	column;
	Expr	   *expr;			/* over the source's columns, as Vars of relation 1 */
} SckptComputed;

typedef enum SckptCallMode
{
	SCKPT_CALL_TRANSITION,		/* each row advances the transition value */
	SCKPT_CALL_DISTINCT,		/* the same, for values that were not there yet: a marked set */
	SCKPT_CALL_INVERSE,			/* each row advances the transition value, and rows taken back do the inverse; with a counted set of the values where the
								 * inverse may fail */
	SCKPT_CALL_COLLECT			/* a counted set of the values; computed from it when a result is asked for */
} SckptCallMode;

typedef struct SckptCall
{
	Aggref	   *aggref;
	char	   *canonical;		/* what it is, in words (query_canonical.c) */
	int			nargs;
	AttrNumber *args;			/* columns of the source; of a COLLECT call, the ORDER BY columns follow */
	AttrNumber	filter;			/* column of the source; 0: none */
	SckptCallMode mode;
	int			set;			/* of a DISTINCT, INVERSE or COLLECT call: which of the query's sets; -1: none */
	/* of a COLLECT call: columns (from 0) of the set's values by which they are sorted */
	int			nsort;
	int		   *sort_columns;
	Oid		   *sort_ops;
	bool	   *sort_nulls_first;
	Oid			first;			/* of a COLLECT call: it is the first value by this operator; InvalidOid: it is no such aggregate */
	Node	   *direct;			/* of an ordered-set aggregate: its direct argument, a constant */
} SckptCall;

/* A set that every group has. */
typedef struct SckptSetColumns
{
	int			ncolumns;
	SckptKey   *columns;		/* types and equality; of a counted set without: values are told apart by their image */
	AttrNumber *source;			/* their columns of the source */
	bool		counted;
	Oid			order;			/* sort operator of a set kept in order; InvalidOid: it is not */
} SckptSetColumns;

/* The name of the relation with a stage's rows in its SQL: no name that a table would have. */
#define SCKPT_LOOKUP_ROWS "rows of a stage"

/* What makes a stage a join.  Its row is the left side's columns, then the right side's. */
typedef struct SckptJoin
{
	JoinType	type;			/* SEMI and ANTI give rows of the left side */
	struct SckptQuery *leaf[2]; /* a side's linear source, which is in no list of stages; NULL: a stage is its input */
	TupleDesc	rows[2];
	int			nkeys;			/* columns that are equal, of NULLs none; 0: each row meets all of the other side (stream_ckpt.broadcast_rows) */
	SckptKey   *keys;			/* types and equality */
	AttrNumber *columns[2];		/* where they stand in each side's row */
	Node	   *condition;		/* besides, over the row; NULL: none */
	char	   *canonical;		/* the same in words */
	char	  **names;			/* what each column of the row is, in words */
	/*
	 * A side's rows match nothing that is yet to come once the watermark has reached this column of theirs (a time), plus the delay and allowed_lateness; 0: that
	 * is not known.
	 */
	AttrNumber	due[2];
	int64		delay[2];
	AttrNumber	mark;			/* of a LEFT join: it gives each row of the left side once, beside NULLs and whether it has a match, in this column of the right side; 0: pairs */
	bool		window;			/* it is the end of a window, which closes for both sides */
	AttrNumber	judged[2];		/* column of the leaf's row with its event time, of which rows are dropped that are late; 0: none */
	bool		forgets[2];		/* a side's rows are of a source, nothing frees them, and there is a state_ttl */
	struct SckptQuery *looked;	/* of one with a lookup: the stage below */
	char	   *lookup;			/* SQL over the left side's rows (SCKPT_LOOKUP_ROWS), whose columns are the right side; it unites, too; NULL: none */
	bool		unites;			/* nothing matches: it puts out the rows of both sides, each beside NULLs (query_settle.c) */
	bool		settled;		/* it hands its rows on at barriers only */
	Node	   *copies;			/* over the row: it counts so often; NULL: once */
	bool		changes[2];		/* a side's rows can be taken back */
	bool		retracts;		/* so can the join's */
} SckptJoin;

/* Columns (from 0) of a set by which its rows are sorted; ties are broken by the rows' images. */
typedef struct SckptOrder
{
	int			ncolumns;
	int		   *columns;
	Oid		   *ops;
	bool	   *nulls_first;
} SckptOrder;

typedef enum SckptRankKind
{
	SCKPT_RANK_ROW_NUMBER,
	SCKPT_RANK_RANK,
	SCKPT_RANK_DENSE_RANK
} SckptRankKind;

/*
 * Of a stage whose groups have several rows: partitions, in an order.  The rows are in its only set, whose columns are of image equality.  What is called its group's row has the
 * keys, the set's columns and the three ranks (int8, by their kind).
 */
typedef struct SckptRanking
{
	SckptRankKind kind;
	int64		limit;			/* rows with a greater rank of that kind are no results */
	SckptOrder	order;
	bool		numbered;		/* the last column of its results, 0 until then, numbers identical rows */
	char	   *canonical;		/* all that, in words */
} SckptRanking;

/* What a window function over rows is. */
typedef enum SckptFrameKind
{
	SCKPT_FRAME_AGGREGATE,
	SCKPT_FRAME_OFFSET,			/* lag() and lead(): of the row so far away */
	SCKPT_FRAME_FIRST,			/* first_value() */
	SCKPT_FRAME_LAST,			/* last_value() */
	SCKPT_FRAME_NTH				/* nth_value() */
} SckptFrameKind;

/* An argument of one. */
typedef struct SckptFrameArg
{
	AttrNumber	column;			/* of the group's row; 0: a constant */
	Const	   *constant;
} SckptFrameArg;

/* A window function over rows.  Rows of its frame are counted from the row at hand, which is 0. */
typedef struct SckptFrameCall
{
	SckptFrameKind kind;
	bool		unbounded;		/* from the partition's first row, */
	int64		start;			/* or this one, */
	int64		end;			/* to this one; of lag() and lead() the row itself is both */
	bool		peers;			/* to the last one that is equal by the order; end is 0 then */
	int64		nth;			/* of nth_value() */
	int			nargs;
	SckptFrameArg *args;
	AttrNumber	filter;			/* column of the group's row; 0: none */
	SckptCall	call;			/* of an aggregate: TRANSITION where its value is carried on, INVERSE where rows that leave the frame can be subtracted, or COLLECT */
	Oid			type;			/* of its result */
	int32		typmod;
	Oid			collation;
	char	   *canonical;
} SckptFrameCall;

/*
 * Of a stage with window functions over rows: a partition's rows are in order, each a result with what is computed from the rows around it.  Their columns are
 * those of its only set.  What is called its group's row has the keys, the set's columns, the calls' results, a number that no other row of the
 * partition has (int8), and which one of identical rows it is (int8).
 */
typedef struct SckptFraming
{
	SckptOrder	order;
	int			ncalls;
	SckptFrameCall *calls;
	char	   *canonical;		/* all that, in words */
} SckptFraming;

typedef struct SckptQuery
{
	List	   *streams;		/* of the first stage: oids, each once */
	int			nscans;			/* how often they are named */
	List	   *columns;		/* attribute numbers of the stream that it uses; 0: the whole row; of several streams always that */
	bool		grouped;
	char	   *source;			/* SQL of the linear part; NULL: the stage below is */
	bool		pure;			/* the source depends on nothing but the rows of the one stream that it names */
	bool		stable;			/* its by-reference columns point into the batch, so that they outlive the row */
	bool		event_time;		/* a stream of it declares one: it has a watermark */
	int			nsource;		/* columns of the source, of a grouped or windowed query */
	Oid		   *source_types;
	AttrNumber	row;			/* column with the row's ctid; 0: none */
	AttrNumber	time;			/* the same with its event time, where groups are to be forgotten; 0: none */
	int			base;			/* where the columns of the stage below begin, less 1; of the first stage 0 */
	int			nwindows;
	SckptWindow *windows;
	int			ncomputed;
	SckptComputed *computed;
	Expr	   *condition;		/* on the source's row, once its windows are filled in; NULL: none */

	int			nkeys;
	SckptKey   *keys;			/* columns 1 … nkeys of the source */
	int			nsession;		/* the last so many keys are bounds of a session window */
	int			ncalls;
	SckptCall  *calls;
	int			nsets;
	SckptSetColumns *sets;
	/* over a row of keys and aggregate results (without grouping: over the source's row), as Vars of relation 1 */
	List	   *targetlist;
	Node	   *having;
	TupleDesc	result;			/* the columns of its target list; of the last stage, the query's */
	SckptRanking *ranking;		/* NULL: a group has one row, */
	SckptFraming *framing;		/* unless it has window functions over rows */

	/* of the last stage: how the sink's rows are found: by these of their columns (result_column) */
	int			nsink;
	SckptKey   *sink_keys;
	bool		bag;			/* there may be several with the same ones, which are all columns */

	/* how it can be spread over tasks (query_route.c); of leaves, too */
	bool		spread;			/* it runs in the tasks */
	int			nroutes;		/* routing keys; 0: all its rows are the first task's */
	int		   *routes;			/* by their numbers among the keys of the stage, or of the join whose leaf it is */
	SckptKey   *route_keys;		/* types and equality */
	List	   *route_exprs;	/* of one with a source: of each, of each of its streams, the expression over its columns, as Vars of relation 1 */
	struct Query *level;		/* of one with a source, where it was made of a level of the query: that */

	bool		retracting;		/* its input can be taken back: the stage below is not final */
	struct SckptQuery *above;	/* the next stage; NULL: this is the last one */
	struct SckptQuery *target;	/* whose input it is */
	int			side;			/* of a join: 0 left, 1 right */
	SckptJoin  *join;			/* NULL: it is none */
	List	   *scanned;		/* streams that its own source reads; */
	int			nscanned;		/* how often they are named there */
	int			place;			/* among all stages, from 0 */
	int			number;			/* set by the task: its operator's; -1: it is not there */

	/* set by the task, from the pipeline's options */
	int64		lateness;		/* allowed_lateness, µs */
	int64		ttl;			/* state_ttl, µs; 0: none; of stages that read streams */
	bool		final;			/* emit => 'final' */
	int			task;			/* which of the pipeline's tasks it runs in */
	int			tasks;			/* explain.c: by how many it is shared; 0: the pipeline has one */
	TimestampTz closed_until;	/* windows that end up to here are closed for good, whatever the lateness; DT_NOBEGIN: none */
	/* of what is stored: other than the above only while the pipeline is being altered */
	int64		stored_lateness;
	int64		stored_ttl;
} SckptQuery;

/*
 * Parse, analyse and take apart, as the current user with the current search_path; everything is palloc'd in the current
 * context.  `final`: for emit => 'final'.  `track`: a grouped query's rows are to say where they came from (query->row) even where
 * it has no windows: for state_ttl.  0A000 naming the construct when the query cannot be a pipeline; other errors as PostgreSQL
 * reports them.
 */
extern SckptQuery *sckpt_query_analyze(const char *text, bool final, bool track);
/* Its last stage. */
extern SckptQuery *sckpt_query_last(SckptQuery *query);
/* Does it keep state? */
static inline bool
sckpt_query_stateful(const SckptQuery *query)
{
	return query->grouped || query->join != NULL;
}
/* Are rows that a stage hands on taken back when they change? */
static inline bool
sckpt_query_retracts(const SckptQuery *query)
{
	return query->join ? query->join->retracts : !query->final;
}
/* Does a join keep a side's rows for good: nothing frees them, and nothing takes them back when they are old? */
extern bool sckpt_query_side_grows(SckptQuery *first, SckptQuery *stage, int side);
/* Is there a join among the stages? */
extern bool sckpt_query_has_join(SckptQuery *query);
/*
 * How many stages are spread over tasks (`spread`) by a pipeline with this parallelism, that keeps dead letters or not; 0: it runs as one task.
 */
extern int	sckpt_query_spread(SckptQuery *query, bool keep_dead, int parallelism);
/* Are groups of the stage no partitions? */
static inline bool
sckpt_query_has_one_row(SckptQuery *query)
{
	return query->ranking == NULL && query->framing == NULL;
}

/* Does a group of the stage have one row at most? */
static inline bool
sckpt_query_is_single(SckptQuery *query)
{
	if (query->framing)
		return false;
	return query->ranking == NULL || (query->ranking->kind == SCKPT_RANK_ROW_NUMBER && query->ranking->limit == 1);
}

/* Is it found in the sink by other columns than its key? */
static inline bool
sckpt_query_has_other_sink_key(SckptQuery *query)
{
	return query->sink_keys != query->keys;
}

extern const char *sckpt_query_rank_name(SckptRankKind kind);
/* Do the groups of a stage close with a watermark? */
extern bool sckpt_query_closes(SckptQuery *query);

#endif							/* SCKPT_QUERY_H */
