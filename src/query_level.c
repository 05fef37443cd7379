/*-------------------------------------------------------------------------
 *
 * query_level.c
 *		Makes one level of a query with windows or stages: flattens linear
 *		sub-selects into the level that reads them.
 *
 * What the planner does when it pulls up sub-selects, done here, because
 * windows must leave FROM and the row's place in the batch must be seen at the
 * level that groups.  Inner joins become items of FROM and conjuncts of WHERE,
 * in their order, so that LATERAL still finds what it names; outer joins stay,
 * with what is on their preserved side collapsed into one item.  Names of
 * joins are dropped: what they stood for is looked up first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "query_private.h"

typedef struct CteContext
{
	CommonTableExpr *cte;
	int			sublevels_up;
} CteContext;

/* A sub-select that is now part of the level above it: what its columns stand for. */
typedef struct FlatSubselect
{
	int			index;
	RangeTblEntry *rte;
	List	   *targets;
} FlatSubselect;

typedef struct FlattenContext
{
	Query	   *query;
	Bitmapset  *over_stream;	/* relations of the range table whose rows are, or come from, the stream's */
	List	   *quals;			/* of inner joins and sub-selects that are gone */
	List	   *flat;			/* FlatSubselect */
	List	   *windows;		/* relations that are windows over the stream (int) */
} FlattenContext;

typedef struct WholeRowContext
{
	int			index;
	int			sublevels_up;
} WholeRowContext;

static List *flatten_query(Query *query);

/* ---- WITH ---- */

static bool
inline_cte(Node *node, CteContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_CTE && rte->ctelevelsup == context->sublevels_up &&
			strcmp(rte->ctename, context->cte->ctename) == 0)
		{
			Node	   *subquery = copyObject(context->cte->ctequery);

			if (context->sublevels_up > 0)
				IncrementVarSublevelsUp(subquery, context->sublevels_up, 1);
			rte->rtekind = RTE_SUBQUERY;
			rte->subquery = castNode(Query, subquery);
			rte->subquery->canSetTag = true;	/* as in FROM; those of WITH are marked otherwise */
			rte->security_barrier = false;
			rte->ctename = NULL;
			rte->ctelevelsup = 0;
			rte->self_reference = false;
			rte->coltypes = NIL;
			rte->coltypmods = NIL;
			rte->colcollations = NIL;
		}
		return false;
	}
	if (IsA(node, Query))
	{
		context->sublevels_up++;
		(void) query_tree_walker((Query *) node, inline_cte, context, QTW_EXAMINE_RTES_AFTER);
		context->sublevels_up--;
		return false;
	}
	return expression_tree_walker(node, inline_cte, context);
}

void
sckpt_level_inline_ctes(Query *query)
{
	List	   *rest = NIL;
	ListCell   *lc;

	foreach(lc, query->cteList)
	{
		CteContext	context = {lfirst(lc), 0};

		if (!IsA(context.cte->ctequery, Query) || context.cte->cterecursive ||
			!sckpt_query_reads_stream((Query *) context.cte->ctequery))
		{
			rest = lappend(rest, context.cte);
			continue;
		}
		if (context.cte->cterefcount == 0)
			rest = lappend(rest, context.cte);
		else
			(void) query_tree_walker(query, inline_cte, &context, QTW_EXAMINE_RTES_AFTER);
	}
	query->cteList = rest;
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_SUBQUERY)
			sckpt_level_inline_ctes(rte->subquery);
	}
}

/* ---- Joins ---- */

/* Put nothing where a relation was: it is in no FROM clause any more. */
static void
blank_relation(Query *query, int index)
{
	RangeTblEntry *old = rt_fetch(index, query->rtable);
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_RESULT;
	rte->eref = makeAlias(old->eref->aliasname, NIL);
	lfirst(list_nth_cell(query->rtable, index - 1)) = rte;
}

/* Names and Vars of what a side of a join has, and their numbers there. */
static void
join_side(Query *query, Node *side, List **names, List **vars, List **numbers)
{
	int			index = IsA(side, RangeTblRef) ? ((RangeTblRef *) side)->rtindex : ((JoinExpr *) side)->rtindex;
	RangeTblEntry *rte = rt_fetch(index, query->rtable);
	List	   *side_names = NIL;
	List	   *side_vars = NIL;
	ListCell   *lc;
	int			number = 0;

	if (IsA(side, JoinExpr))
	{
		side_names = list_copy(rte->eref->colnames);
		side_vars = copyObject(rte->joinaliasvars);
	}
	else
		expandRTE(rte, index, 0, VAR_RETURNING_DEFAULT, -1, false, &side_names, &side_vars);
	foreach(lc, side_vars)
	{
		number++;
		*numbers = lappend_int(*numbers, IsA(side, JoinExpr) ? number : ((Var *) lfirst(lc))->varattno);
	}
	*names = list_concat(*names, side_names);
	*vars = list_concat(*vars, side_vars);
}

/* Give every join that is left a new entry in the range table, after those of its sides. */
static void
renew_joins(Query *query, Node *node)
{
	JoinExpr   *join = (JoinExpr *) node;
	RangeTblEntry *rte;
	List	   *names = NIL;

	if (!IsA(node, JoinExpr))
		return;
	renew_joins(query, join->larg);
	renew_joins(query, join->rarg);

	rte = makeNode(RangeTblEntry);
	rte->rtekind = RTE_JOIN;
	rte->jointype = join->jointype;
	join_side(query, join->larg, &names, &rte->joinaliasvars, &rte->joinleftcols);
	join_side(query, join->rarg, &names, &rte->joinaliasvars, &rte->joinrightcols);
	rte->eref = makeAlias("unnamed_join", names);
	rte->inFromCl = true;
	query->rtable = lappend(query->rtable, rte);
	join->rtindex = list_length(query->rtable);
	join->isNatural = false;
	join->usingClause = NIL;
	join->join_using_alias = NULL;
	join->alias = NULL;
}

/* Forget that columns were named through a join: the join's name goes. */
static bool
forget_names(Node *node, int *sublevels_up)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		if (((Var *) node)->varlevelsup == *sublevels_up)
		{
			((Var *) node)->varnosyn = 0;
			((Var *) node)->varattnosyn = 0;
		}
		return false;
	}
	if (IsA(node, Query))
	{
		(*sublevels_up)++;
		(void) query_tree_walker((Query *) node, forget_names, sublevels_up, 0);
		(*sublevels_up)--;
		return false;
	}
	return expression_tree_walker(node, forget_names, sublevels_up);
}

void
sckpt_level_flatten_join_aliases(Query *query)
{
	ListCell   *lc;
	int			sublevels_up = 0;

	query->targetList = (List *) sckpt_flatten_join_alias_vars(query, (Node *) query->targetList);
	query->havingQual = sckpt_flatten_join_alias_vars(query, query->havingQual);
	query->jointree = (FromExpr *) sckpt_flatten_join_alias_vars(query, (Node *) query->jointree);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		rte->subquery = (Query *) sckpt_flatten_join_alias_vars(query, (Node *) rte->subquery);
		rte->functions = (List *) sckpt_flatten_join_alias_vars(query, (Node *) rte->functions);
		rte->tablefunc = (TableFunc *) sckpt_flatten_join_alias_vars(query, (Node *) rte->tablefunc);
		rte->values_lists = (List *) sckpt_flatten_join_alias_vars(query, (Node *) rte->values_lists);
		rte->tablesample = (TableSampleClause *) sckpt_flatten_join_alias_vars(query, (Node *) rte->tablesample);
	}

	/* What they were would only be in the way of changes. */
	foreach(lc, query->rtable)
	{
		if (((RangeTblEntry *) lfirst(lc))->rtekind == RTE_JOIN)
			((RangeTblEntry *) lfirst(lc))->joinaliasvars = NIL;
	}
	(void) query_tree_walker(query, forget_names, &sublevels_up, 0);
}

/* ---- Sub-selects ---- */

bool
sckpt_level_over_stream(RangeTblEntry *rte)
{
	if (rte->rtekind == RTE_SUBQUERY)
		return sckpt_query_reads_stream(rte->subquery);
	if (rte->rtekind != RTE_RELATION)
		return false;
	if (sckpt_catalog_is_stream(rte->relid))
		return true;
	if (rte->relkind == RELKIND_VIEW)
	{
		Relation	view = table_open(rte->relid, AccessShareLock);
		Query	   *query = copyObject(get_view_query(view));

		table_close(view, NoLock);
		AcquireRewriteLocks(query, true, false);
		return sckpt_query_reads_stream(query);
	}
	return false;
}

/* A window function over the stream's rows? */
static bool
is_window(FlattenContext *context, RangeTblEntry *rte)
{
	SckptWindowKind kind;
	Bitmapset  *relations;
	Bitmapset  *sources = bms_copy(context->over_stream);
	FuncExpr   *call;
	ListCell   *lc;

	if (!sckpt_level_window_kind(rte, &kind))
		return false;
	foreach(lc, context->windows)
		sources = bms_add_member(sources, lfirst_int(lc));
	call = (FuncExpr *) linitial_node(RangeTblFunction, rte->functions)->funcexpr;
	relations = pull_varnos(NULL, (Node *) linitial(call->args));
	if (!bms_overlap(relations, sources))
	{
		if (kind == SCKPT_WINDOW_SESSION && !bms_is_empty(context->over_stream))
			sckpt_query_refuse("session() over something else than a column of the stream",
							   "Give it the stream's event time.");
		return false;
	}
	if (rte->funcordinality)
		sckpt_query_refuse(psprintf("WITH ORDINALITY of %s()", sckpt_level_window_name(kind)),
						   "Leave it out: windows are told apart by their bounds.");
	return true;
}

/* Where rows without a match are filled up with NULLs there can be no windows. */
static bool
refuse_windows(Node *node, FlattenContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblRef))
	{
		RangeTblEntry *rte = rt_fetch(((RangeTblRef *) node)->rtindex, context->query->rtable);

		if (is_window(context, rte))
			sckpt_query_refuse("a window on the optional side of an outer join",
							   "Name it right after the stream: FROM stream, stream_ckpt.tumble(…), or CROSS JOIN.");
		return false;
	}
	return expression_tree_walker(node, refuse_windows, context);
}

/* One item that is the cross product of several. */
static Node *
collapse(List *items)
{
	Node	   *result = linitial(items);
	ListCell   *lc;

	for_each_from(lc, items, 1)
	{
		JoinExpr   *join = makeNode(JoinExpr);

		join->jointype = JOIN_INNER;
		join->larg = result;
		join->rarg = lfirst(lc);
		result = (Node *) join;
	}
	return result;
}

/* Make a sub-select's FROM part of this one's; returns its items. */
static List *
flatten_subselect(FlattenContext *context, int index)
{
	Query	   *query = context->query;
	RangeTblEntry *rte = rt_fetch(index, query->rtable);
	Query	   *subquery = rte->subquery;
	FlatSubselect *flat = palloc(sizeof(FlatSubselect));
	int			offset = list_length(query->rtable);
	List	   *windows;
	ListCell   *lc;

	sckpt_query_check_level(subquery);
	if (subquery->hasTargetSRFs)
		sckpt_query_refuse("a set-returning function in a sub-select's target list", "Use LATERAL.");
	if (subquery->cteList != NIL)
		sckpt_query_refuse("WITH in a sub-select over a stream in a query with windows",
						   "Put the WITH query at the beginning of the whole query.");
	if (contain_volatile_functions((Node *) subquery->targetList))
		sckpt_query_refuse("a volatile function in a sub-select over a stream in a query with windows",
						   "Add a column with a DEFAULT to the stream.");
	sckpt_query_refuse_clock(subquery->jointree->quals, "WHERE");

	windows = flatten_query(subquery);
	foreach(lc, windows)
		context->windows = lappend_int(context->windows, lfirst_int(lc) + offset);
	OffsetVarNodes((Node *) subquery, offset, 0);
	IncrementVarSublevelsUp((Node *) subquery, -1, 1);
	sckpt_append_range_table(query, subquery);
	query->hasSubLinks |= subquery->hasSubLinks;
	context->quals = list_concat(context->quals, make_ands_implicit((Expr *) subquery->jointree->quals));

	flat->index = index;
	flat->rte = copyObject(rte);
	flat->targets = subquery->targetList;
	context->flat = lcons(flat, context->flat);
	return subquery->jointree->fromlist;
}

/* What an item of FROM, whose rows are never filled up with NULLs, becomes: a list of items. */
static List *
flatten_item(FlattenContext *context, Node *node)
{
	if (IsA(node, RangeTblRef))
	{
		int			index = ((RangeTblRef *) node)->rtindex;
		RangeTblEntry *rte = rt_fetch(index, context->query->rtable);

		if (is_window(context, rte))
		{
			context->windows = lappend_int(context->windows, index);
			return NIL;
		}
		if (rte->rtekind == RTE_SUBQUERY && bms_is_member(index, context->over_stream) &&
			!sckpt_query_has_state(rte->subquery) && !sckpt_setop_copies(rte->subquery) && !sckpt_union_is(rte->subquery) && !sckpt_join_is(rte->subquery))
			return flatten_subselect(context, index);
		return list_make1(node);
	}
	else
	{
		JoinExpr   *join = castNode(JoinExpr, node);
		List	   *items;

		if (join->jointype == JOIN_INNER)
		{
			items = flatten_item(context, join->larg);
			items = list_concat(items, flatten_item(context, join->rarg));
			context->quals = list_concat(context->quals, make_ands_implicit((Expr *) join->quals));
			return items;
		}
		if (join->jointype == JOIN_LEFT || join->jointype == JOIN_RIGHT)
		{
			Node	  **preserved = join->jointype == JOIN_LEFT ? &join->larg : &join->rarg;

			(void) refuse_windows(join->jointype == JOIN_LEFT ? join->rarg : join->larg, context);
			items = flatten_item(context, *preserved);
			if (items == NIL)
				sckpt_query_refuse("a window alone on a side of an outer join",
								   "Write the window after the join: FROM stream LEFT JOIN table ON …, stream_ckpt.tumble(…).");
			*preserved = collapse(items);
		}
		else
			(void) refuse_windows(node, context);
		return list_make1(node);
	}
}

/* Flatten a level in place; returns the relations that are windows over the stream (int), which are in FROM no more. */
static List *
flatten_query(Query *query)
{
	FlattenContext context = {query, NULL, NIL, NIL, NIL};
	List	   *items = NIL;
	List	   *quals;
	ListCell   *lc;

	sckpt_level_flatten_join_aliases(query);
	for (int i = 1; i <= list_length(query->rtable); i++)
	{
		if (sckpt_level_over_stream(rt_fetch(i, query->rtable)))
			context.over_stream = bms_add_member(context.over_stream, i);
	}
	foreach(lc, query->jointree->fromlist)
		items = list_concat(items, flatten_item(&context, lfirst(lc)));
	quals = list_concat(context.quals, make_ands_implicit((Expr *) query->jointree->quals));
	query->jointree->fromlist = items;
	query->jointree->quals = quals ? (Node *) make_ands_explicit(quals) : NULL;

	/*
	 * Replace columns of sub-selects by what they stand for, the last sub-select first: what it stands for may name others
	 * that were before it (LATERAL).
	 */
	foreach(lc, context.flat)
	{
		FlatSubselect *flat = lfirst(lc);
		Node	   *replaced;

		blank_relation(query, flat->index);
		replaced = ReplaceVarsFromTargetList((Node *) query, flat->index, 0, flat->rte, flat->targets, 0,
											 REPLACEVARS_REPORT_ERROR, 0, NULL);
		memcpy(query, replaced, sizeof(Query));
	}
	return context.windows;
}

/* ---- The level ---- */

/* The stream, or a UNION ALL over streams, or the grouped sub-select that reads them, in what is left of FROM. */
static bool
find_input(Node *node, SckptLevel *level)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblRef))
	{
		int			index = ((RangeTblRef *) node)->rtindex;
		RangeTblEntry *rte = rt_fetch(index, level->query->rtable);

		if (rte->rtekind == RTE_RELATION && sckpt_catalog_is_stream(rte->relid))
			level->stream = index;
		else if (rte->rtekind == RTE_SUBQUERY && sckpt_level_over_stream(rte))
		{
			if (sckpt_union_is_linear(rte->subquery))
				level->stream = index;
			else
				level->below = index;
		}
		return false;
	}
	return expression_tree_walker(node, find_input, level);
}

void
sckpt_level_find_input(SckptLevel *level)
{
	(void) find_input((Node *) level->query->jointree->fromlist, level);
}

/* Flatten each part of UNION ALL for itself. */
static void
flatten_union(Query *query)
{
	ListCell   *lc;

	foreach(lc, sckpt_union_parts(query))
	{
		SckptLevel	level = {NULL};

		level.query = ((RangeTblEntry *) lfirst(lc))->subquery;
		if (sckpt_union_is(level.query))
		{
			flatten_union(level.query);
			continue;
		}
		sckpt_query_refuse_clock((Node *) level.query->targetList, "the target list of a part of UNION ALL");
		sckpt_level_flatten(&level);
	}
}

/* It would have our columns, too. */
static bool
refuse_whole_row(Node *node, WholeRowContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		if (((Var *) node)->varno == context->index && ((Var *) node)->varattno == 0 &&
			((Var *) node)->varlevelsup == context->sublevels_up)
			sckpt_query_refuse("the whole row of UNION ALL in a query with windows, levels of grouping or state_ttl", "Name its columns.");
		return false;
	}
	if (IsA(node, Query))
	{
		context->sublevels_up++;
		(void) query_tree_walker((Query *) node, refuse_whole_row, context, 0);
		context->sublevels_up--;
		return false;
	}
	return expression_tree_walker(node, refuse_whole_row, context);
}

void
sckpt_level_renew_joins(Query *query)
{
	int			joins = list_length(query->rtable);
	ListCell   *lc;

	foreach(lc, query->jointree->fromlist)
		renew_joins(query, lfirst(lc));
	for (int i = 1; i <= joins; i++)
	{
		if (rt_fetch(i, query->rtable)->rtekind == RTE_JOIN)
			blank_relation(query, i);
	}
}

void
sckpt_level_flatten(SckptLevel *level)
{
	Query	   *query = level->query;
	List	   *windows = flatten_query(query);
	ListCell   *lc;

	/* Before joins take their columns. */
	sckpt_level_find_input(level);
	if (level->stream)
	{
		RangeTblEntry *rte = rt_fetch(level->stream, query->rtable);

		level->place = SelfItemPointerAttributeNumber;
		if (rte->rtekind == RTE_SUBQUERY)
		{
			WholeRowContext context = {level->stream, 0};

			(void) query_tree_walker(query, refuse_whole_row, &context, 0);
			flatten_union(rte->subquery);
			level->place = sckpt_union_names_streams(rte->subquery) ? sckpt_union_add_columns(rte) : 0;
		}
	}
	sckpt_level_renew_joins(query);
	foreach(lc, windows)
	{
		SckptLevelWindow *window = palloc0(sizeof(SckptLevelWindow));
		RangeTblEntry *rte;

		window->index = lfirst_int(lc);
		rte = rt_fetch(window->index, query->rtable);
		window->call = (FuncExpr *) linitial_node(RangeTblFunction, rte->functions)->funcexpr;
		blank_relation(query, window->index);
		level->windows = lappend(level->windows, window);
	}
}
