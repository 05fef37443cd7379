/*-------------------------------------------------------------------------
 *
 * query_join_private.h
 *		What the files that take joins apart share.
 *
 * A query level's FROM clause, and its EXISTS and IN over streams, become a tree of joins (query_join_tree.c, query_sublink.c); what
 * frees the rows of one is read off its conditions (query_join_time.c); then each node becomes a stage (query_join.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_QUERY_JOIN_PRIVATE_H
#define SCKPT_QUERY_JOIN_PRIVATE_H

#include "nodes/pathnodes.h"

#include "query_private.h"

typedef struct SckptJoinTree SckptJoinTree;

struct SckptJoinTree
{
	bool		leaf;
	Relids		relids;			/* of the level's range table */
	List	   *columns;		/* what its row consists of: expressions of the level */
	/* of a leaf */
	List	   *items;			/* of FROM */
	List	   *quals;
	Var		   *time;			/* its stream's event time, by which rows are to be judged; NULL: they are not */
	/* of a join */
	JoinType	type;
	SckptJoinTree *sides[2];
	List	   *conditions;		/* whether two rows match */
	List	   *filter;			/* on what comes out */
	Var		   *mark;			/* of a LEFT join: its column that says whether there is a match; NULL: it gives pairs */
	/* once it is made */
	SckptQuery *first;			/* the stages below and its own */
	SckptQuery *stage;			/* its own, or the linear source */
	bool		linear;
};

typedef struct SckptJoinContext
{
	Query	   *query;
	bool		final;
	SckptMakeLevel make;
	void	   *arg;
	Bitmapset  *over_stream;
	List	   *items;			/* of the level's FROM, with inner joins taken apart */
	List	   *tops;			/* the same, and the left sides of LEFT JOINs there, above which there is nothing else */
	/* What no leaf takes is looked up for the joined rows (query_lookup.c): */
	List	   *tables;			/* items of FROM, */
	List	   *optional;		/* LEFT JOINs, of which the left side is another one or the joined rows, */
	List	   *later;			/* conditions of WHERE, */
	Relids		looked_up;		/* and which relations these are */
	List	   *replaced;		/* SubLinks that have been joined, and the expressions that stand for them */
	List	   *replacements;
} SckptJoinContext;

/* query_join_tree.c */
extern List *sckpt_join_conjuncts(Node *qual);
extern Relids sckpt_join_relations(Node *node);
/* How many of the relations below an item of FROM read a stream; adds all of them to *relids. */
extern int	sckpt_join_count_streams(SckptJoinContext *context, Node *node, Relids *relids);
extern SckptJoinTree *sckpt_join_pair(JoinType type, SckptJoinTree *left, SckptJoinTree *right);
/* Put a condition on the tree's rows (WHERE) as far down as it may go; the same of one of matching (ON). */
extern void sckpt_join_restrict(SckptJoinTree *tree, Node *qual);
extern void sckpt_join_place(SckptJoinTree *join, Node *qual);
/* Is it an equality of something of one side with something of the other, by which rows can be found? */
extern bool sckpt_join_split_equality(Node *qual, Relids left, Relids right, Node **exprs, SckptKey *key);
/* The items and conditions of nested inner joins. */
extern void sckpt_join_collect(Node *node, List **items, List **quals);
/* The tree of these. */
extern SckptJoinTree *sckpt_join_build(SckptJoinContext *context, List *items, List *quals);

/* query_join_time.c */
/* The event time of a stream that is a leaf's; NULL: there is none. */
extern Var *sckpt_join_event_time(SckptJoinContext *context, SckptJoinTree *leaf);
/* How long after its event time a side's row can still match: from a condition that compares both event times. */
extern void sckpt_join_read_bound(Node *qual, Var **times, bool *known, int64 *delay);
/* Is it a time that a window over it is closed by? */
extern bool sckpt_join_is_window_end(SckptJoinTree *side, AttrNumber column, int64 *delay);

/* query_sublink.c */
/* Add a sub-select to the level's range table, as a leaf; a column of such a one. */
extern SckptJoinTree *sckpt_sublink_add_leaf(SckptJoinContext *context, Query *sub, int *index);
extern Expr *sckpt_sublink_column(Query *sub, int index, int number);
/* A sub-select as one of FROM. */
extern Query *sckpt_sublink_take(SubLink *sublink);
/* Does it only filter and compute? */
extern bool sckpt_sublink_is_simple(Query *query);
/* A query over a sub-select, with these columns. */
extern Query *sckpt_sublink_select_from(Query *sub, List *targets);
/* count(*), and a number. */
extern Expr *sckpt_sublink_count(void);
extern Expr *sckpt_sublink_int8(int64 value);
/* Is it EXISTS, ANY or ALL: is there a match? */
extern bool sckpt_sublink_is_match(Node *node);
/* Join what its sub-select reads, as a condition. */
extern SckptJoinTree *sckpt_sublink_join(SckptJoinContext *context, SckptJoinTree *tree, SubLink *sublink, bool negated);
/*
 * Join what the sub-selects in an expression read, and put columns in their place.  `lax`: it is a condition, of which NULL means the same as false.
 */
extern Node *sckpt_sublink_replace(SckptJoinContext *context, SckptJoinTree **tree, Node *node, bool lax);

/* query_scalar.c */
/* Join what a sub-select reads that is a value, and return what stands in its place. */
extern Node *sckpt_scalar_join(SckptJoinContext *context, SckptJoinTree **tree, SubLink *sublink);
/* The same of one that selects an aggregate over rows that equal the outer row's, or else is refused with these words. */
extern Node *sckpt_scalar_join_correlated(SckptJoinContext *context, SckptJoinTree **tree, Query *sub, const char *construct, const char *hint);

#endif							/* SCKPT_QUERY_JOIN_PRIVATE_H */
