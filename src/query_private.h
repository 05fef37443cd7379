/*-------------------------------------------------------------------------
 *
 * query_private.h
 *		What the files that take a query apart share.
 *
 * A query without windows, without grouped sub-selects over the stream is run as it was written: its SQL is made from what
 * the parser gave, so that views and row-level security take effect when it is planned.  Of any other query each level becomes one
 * stage: first sub-selects that are linear are flattened into the level that reads them, and windows leave its FROM clause
 * (query_level.c, query_window.c; query_union.c of UNION ALL); then columns are given out (query_column.c) to keys and aggregates (query_group.c, query_call.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_QUERY_PRIVATE_H
#define SCKPT_QUERY_PRIVATE_H

#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"

#include "compat.h"
#include "query.h"

/* Columns of the stage below are Vars of this relation until it is known where they stand in the row. */
#define SCKPT_BELOW 2

/* A window function of a level, taken out of FROM. */
typedef struct SckptLevelWindow
{
	int			index;			/* in the range table, where nothing is now */
	FuncExpr   *call;
	Expr	   *time;
	SckptWindow *window;
} SckptLevelWindow;

/* A query level on its way to becoming a stage. */
typedef struct SckptLevel
{
	SckptQuery *stage;
	Query	   *query;
	bool		last;			/* its results are the pipeline's */
	bool		final;
	bool		track;			/* rows are to say where they came from */
	bool		place_wanted;	/* the same, without the time */
	int			stream;			/* in the range table: the stream, or a UNION ALL over streams; 0: below a view */
	AttrNumber	place;			/* its column with the row's ctid, and of a UNION ALL, after that, the row's event time; 0: it cannot
								 * be had */
	int			below;			/* the grouped sub-select in FROM; 0: none */
	SckptQuery *input;			/* the stage below */
	List	   *windows;		/* SckptLevelWindow */
	Node	   *copies;			/* over the stage below: each of its rows counts so often; NULL: once */
	List	   *conditions;		/* of WHERE, over the rows with windows */
	List	   *columns;		/* TargetEntry, of the source so far */
	List	   *computed;		/* SckptComputed * */
} SckptLevel;

/* query.c */
pg_noreturn extern void sckpt_query_refuse(const char *construct, const char *hint);
extern void sckpt_query_refuse_clock(Node *node, const char *where);
/* Refuse what no query level on the stream's way can have. */
extern void sckpt_query_check_level(Query *query);
/* Refuse system columns of streams that the level itself names. */
extern void sckpt_query_refuse_system_columns(Query *query);
/* Must a sub-select, as it was parsed, become stages of its own? */
extern bool sckpt_query_has_levels(Query *query);
/* Does it, as it was parsed, read a stream: its views, too? */
extern bool sckpt_query_reads_stream(Query *query);
static inline bool
sckpt_query_is_grouped(Query *query)
{
	return query->hasAggs || query->groupClause != NIL || query->groupingSets != NIL || query->havingQual != NULL;
}

/* Streams that a query, as it was parsed, names, each once; and how often. */
extern void sckpt_query_scans(Query *query, List **streams, int *count);
/* DISTINCT ON, ranks or LIMIT, as the state of a level. */
static inline bool
sckpt_query_is_ranked(Query *query)
{
	return query->hasDistinctOn || query->hasWindowFuncs || query->limitCount != NULL || query->limitOffset != NULL;
}
static inline bool
sckpt_query_has_state(Query *query)
{
	return sckpt_query_is_grouped(query) || sckpt_query_is_ranked(query);
}

/* query_level.c */
/* Is the relation a stream, or does it read one? */
extern bool sckpt_level_over_stream(RangeTblEntry *rte);
/* Replace what names columns of joins by what they are. */
extern void sckpt_level_flatten_join_aliases(Query *query);
/* Put WITH queries over a stream where they are used. */
extern void sckpt_level_inline_ctes(Query *query);
/* Give joins of FROM new entries in the range table, once what they join has changed. */
extern void sckpt_level_renew_joins(Query *query);
/* Flatten level->query; find the stream, or the stage below, and the windows. */
extern void sckpt_level_flatten(SckptLevel *level);

/* Find level->stream or level->below in FROM. */
extern void sckpt_level_find_input(SckptLevel *level);

/* query_union.c: UNION ALL where a stream may stand */
extern bool sckpt_union_is(Query *query);
/* And is each part linear? */
extern bool sckpt_union_is_linear(Query *query);
/* Refuse other set operations. */
extern void sckpt_union_check_operations(Query *query);
/* Its parts' RangeTblEntries, whose sub-selects may be of the same kind. */
extern List *sckpt_union_parts(Query *query);
/*
 * How many streams are named below FROM; of a query whose views are expanded.  Refuses parts of UNION ALL that read none, and what linear
 * ones cannot have.  `part`: the query is in one.
 */
extern int	sckpt_union_count_streams(Query *query, bool part);
/* With its parts flattened: do all of them name their stream, not a view? */
extern bool sckpt_union_names_streams(Query *query);
/* Then: let it put out the row's ctid, and its event time, in two more columns; returns the first one's number. */
extern AttrNumber sckpt_union_add_columns(RangeTblEntry *rte);
/*
 * Is a column of an input (a stream, or UNION ALL whose parts are flattened) the event time, wherever its stream declares one?  Sets
 * *declared if any does.
 */
extern bool sckpt_union_is_event_time(RangeTblEntry *rte, AttrNumber column, bool *declared);

/* query_window.c */
/* Is it one of the extension's window functions, and which? */
extern bool sckpt_level_window_kind(RangeTblEntry *rte, SckptWindowKind *kind);
extern const char *sckpt_level_window_name(SckptWindowKind kind);
/* Set up stage->windows, once what they read is known. */
extern void sckpt_level_make_windows(SckptLevel *level);
/* Which bound of which window is this expression? */
extern SckptBound sckpt_level_bound_of(SckptLevel *level, Node *node, SckptLevelWindow **window);
extern bool sckpt_level_uses_windows(SckptLevel *level, Node *node);
/* The key of the stage below that this expression is a column of; NULL: it is none. */
extern SckptKey *sckpt_level_below_key(SckptLevel *level, Node *node);
/* What is known of the closing of a key. */
extern void sckpt_level_key_time(SckptLevel *level, SckptKey *key);
/* Move what is over windows from the query's WHERE to level->conditions. */
extern void sckpt_level_split_conditions(SckptLevel *level);

/* query_column.c */
/* Give the first columns to the group keys. */
extern void sckpt_level_key_columns(SckptLevel *level);
/* Does an expression call functions that may look into tables? */
extern bool sckpt_level_looks_up(Node *node, void *context);
/* The column with an expression. */
extern AttrNumber sckpt_level_column(SckptLevel *level, Expr *expr);
/* An expression over the stage's row, whose windows are filled in. */
extern Expr *sckpt_level_row_expr(SckptLevel *level, Expr *expr);
/* An expression of the target list of a level without grouping. */
extern Expr *sckpt_level_target(SckptLevel *level, Expr *expr);
/* Give out the columns that are left, and describe the row in the stage. */
extern void sckpt_level_finish_columns(SckptLevel *level);

/* query_call.c */
extern void sckpt_level_set_call(SckptLevel *level, SckptCall *call, Aggref *aggref);
/*
 * The source computes arguments and filters alike; as in a query, an argument must not be computed where the filter is not true.
 */
extern Expr *sckpt_call_guard(Expr *filter, Expr *argument);
/* How an aggregate over a frame's rows is computed; 0A000 where it cannot be. */
extern SckptCallMode sckpt_call_frame_mode(Aggref *aggref, bool unbounded);

/* query_canonical.c */
/* What an expression of the level is, in words that depend on neither names given in the query nor settings; on one line. */
extern char *sckpt_level_canonical(SckptLevel *level, Node *node);

/* query_group.c */
/* Keys by the GROUP BY clause, as expressions of the target list; their columns. */
extern void sckpt_level_read_keys(SckptLevel *level, List *targets);
/* The SQL that puts out the rows: the query without its grouping. */
extern char *sckpt_level_source_sql(SckptLevel *level);
extern void sckpt_level_split_group(SckptLevel *level);

/* query_lower.c */
/* Make sub-selects of views that must become stages of their own; what they read is then read as whoever runs the query. */
extern void sckpt_query_expand_views(Query *query);
/* Make of DISTINCT and set operations what groups, and of what has several kinds of state several levels, in place. */
extern void sckpt_query_lower(Query *query);
/*
 * Make a query a sub-select of a new one, in its place, which has the same columns.  Returns the sub-select; what is to be done above it is the
 * caller's to move.
 */
extern Query *sckpt_query_wrap(Query *query);

/* query_setop.c */
/* Add a sub-select, of the query's own level below, to its range table, not yet to FROM. */
extern RangeTblRef *sckpt_query_add_subselect(Query *query, Query *sub, bool in_from);
/* Make of a query with set operations one with UNION ALL only, or one that groups. */
extern void sckpt_setop_lower(Query *query);
/* Does a level have each row of FROM several times, by generate_series(1, …)? */
extern bool sckpt_setop_copies(Query *query);
/* Take that off it: how often; NULL: it does not. */
extern Node *sckpt_setop_take_copies(Query *query);

/* query_rank.c */
/* What a level ranks by. */
typedef struct SckptRankClauses
{
	List	   *partition;		/* SortGroupClause */
	List	   *order;
	SckptRanking *ranking;		/* its kind and limit */
	int64		offset;			/* so many rows are skipped */
	List	   *windows;		/* WindowClause, of window functions over rows (query_frame.c); NIL: it ranks */
} SckptRankClauses;

/* A partition's rows on their way to being a set. */
typedef struct SckptRankContext
{
	SckptLevel *level;
	List	   *exprs;			/* of the set's columns */
	List	   *sources;
	List	   *calls;			/* WindowFuncs over rows, each different */
} SckptRankContext;

/* Refuse what a level cannot have of these. */
extern void sckpt_rank_check_level(Query *query);
/*
 * Take the clauses of a level that ranks off it, so that it is linear; `above`: the level whose conditions bound its ranks; NULL: it is the
 * outermost one.
 */
extern SckptRankClauses *sckpt_rank_take_clauses(SckptLevel *level, SckptLevel *above);
extern void sckpt_level_split_rank(SckptLevel *level, SckptRankClauses *clauses);
/* Is it row_number(), rank() or dense_rank(), and which? */
extern bool sckpt_rank_kind(WindowFunc *call, SckptRankKind *kind);
/* Is it an integer that is known now? */
extern bool sckpt_rank_integer(Node *node, int64 *value);
/* Which key of the stage an expression is; -1: none. */
extern int	sckpt_rank_key(SckptQuery *stage, Node *node);
/* Which column of the set an expression is; it gets one. */
extern int	sckpt_rank_column(SckptRankContext *context, Node *node);
/* Columns for all that the target list takes from the row. */
extern bool sckpt_rank_collect_columns(Node *node, SckptRankContext *context);
/* The target list over a row of keys, the set's columns, and the three ranks, or the results of the calls. */
extern Node *sckpt_rank_replace_columns(Node *node, SckptRankContext *context);
extern void sckpt_rank_set_order(SckptOrder *sorted, SckptRankContext *context, List *order, List *targets);
extern void sckpt_rank_make_set(SckptLevel *level, SckptRankContext *context);
/* Put a stage above the last one, if its groups have several rows, which keeps these apart, where they need it. */
extern void sckpt_rank_keep(SckptQuery *stage, bool final);

/* query_frame.c */
/* Are the window functions of a level others than ranks? */
extern bool sckpt_frame_is(Query *query);
/* Refuse what there cannot be of them. */
extern void sckpt_frame_check(Query *query);
extern void sckpt_level_split_frame(SckptLevel *level, SckptRankClauses *clauses);

/*
 * query_route.c: find the routing keys, once all stages and streams are known.  `query`: what the first stage was made of, where that was no level; exprs: its
 * keys there.
 */
extern void sckpt_query_find_routes(SckptQuery *first, Query *query, Node **exprs);

/* query_sublink.c */
/* Is there a sub-select over a stream in it? */
extern bool sckpt_sublink_find(Node *node, void *context);
/* Leave out of the sub-select of EXISTS what does not matter to whether there is a row. */
extern void sckpt_sublink_simplify_exists(Query *sub);
/* In WHERE, HAVING or the target list of a level? */
extern bool sckpt_sublink_in_level(Query *query);

/* query_join.c */
/* Does a level, as it was parsed, join streams? */
extern bool sckpt_join_is(Query *query);
/* What makes stages of a level below; returns the first one.  `track`: its rows are to say where they came from. */
typedef SckptQuery *(*SckptMakeLevel) (void *arg, Query *query, bool track);
/*
 * Make stages of the joins; the level reads one sub-select instead, *below in its range table, the last of them, from then on, and the tables that are
 * joined with none of the streams alone.  Returns the first one.
 */
extern SckptQuery *sckpt_join_make(Query *query, bool final, int *below, SckptMakeLevel make, void *arg);

/* query_settle.c */
/* A stage that unites rows of two kinds, or has those of one; what feeds it is still to be said. */
extern SckptQuery *sckpt_settle_unite(TupleDesc left, TupleDesc right);
/* By a stage below. */
extern void sckpt_settle_feed(SckptQuery *stage, SckptQuery *below, int side, bool final);
/* Can an expression over a stage's rows fail for such as come and go? */
extern bool sckpt_settle_needed(SckptQuery *stage, Node *node);
/* Then: a stage above it where it cannot. */
extern SckptQuery *sckpt_settle_above(SckptQuery *stage, bool final);

/* query_lookup.c */
/* Does a level over a stage look into tables? */
extern bool sckpt_lookup_is(SckptLevel *level);
/* Put a stage that does between level->input and the level. */
extern void sckpt_lookup_make(SckptLevel *level);

/* query_setop.c */
/* Make stages of UNION ALL with parts that are not linear; returns the first one. */
extern SckptQuery *sckpt_setop_make(Query *query, bool final, SckptMakeLevel make, void *arg);

/* query_stage.c */
/* Give a sub-select that is to be a stage of its own the WITH queries around it that it uses. */
extern void sckpt_query_take_ctes(Query *subquery, Query *query);
/* A query with windows or grouped sub-selects; returns its first stage. */
extern SckptQuery *sckpt_query_make_stages(Query *query, bool final, bool track, void (*check_source) (Query *query));
/* 0A000 unless all of its stages close. */
extern void sckpt_query_check_final(SckptQuery *query);

#endif							/* SCKPT_QUERY_PRIVATE_H */
