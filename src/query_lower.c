/*-------------------------------------------------------------------------
 *
 * query_lower.c
 *		Makes each level of a query have one kind of state only.
 *
 * DISTINCT becomes GROUP BY; a level that groups and ranks, say, becomes two, one a sub-select of the other; set operations become UNION ALL and
 * GROUP BY (query_setop.c).  Before that, views over streams that have state become sub-selects.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "query_private.h"

/*
 * Make a query a sub-select of a new one, in its place, which has the same columns.  Returns the sub-select; what is to be done above it is the
 * caller's to move.
 */
Query *
sckpt_query_wrap(Query *query)
{
	Query	   *inner = palloc(sizeof(Query));
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *reference = makeNode(RangeTblRef);
	List	   *names = NIL;
	List	   *targets = NIL;
	ListCell   *lc;

	memcpy(inner, query, sizeof(Query));
	foreach(lc, inner->targetList)
	{
		TargetEntry *entry = lfirst(lc);
		TargetEntry *outer;
		Node	   *expr = (Node *) entry->expr;

		if (entry->resname == NULL)
			entry->resname = psprintf("column%d", entry->resno);
		outer = makeTargetEntry((Expr *) makeVar(1, entry->resno, exprType(expr), exprTypmod(expr), exprCollation(expr), 0),
								entry->resno, pstrdup(entry->resname), entry->resjunk);
		outer->ressortgroupref = entry->ressortgroupref;
		entry->resjunk = false;
		names = lappend(names, makeString(pstrdup(entry->resname)));
		targets = lappend(targets, outer);
	}
	IncrementVarSublevelsUp((Node *) inner, 1, 1);

	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = inner;
	rte->alias = makeAlias("below", NIL);
	rte->eref = makeAlias("below", names);
	rte->inFromCl = true;
	reference->rtindex = 1;

	memset(query, 0, sizeof(Query));
	NodeSetTag(query, T_Query);
	query->commandType = CMD_SELECT;
	query->querySource = inner->querySource;
	query->canSetTag = inner->canSetTag;
	query->rtable = list_make1(rte);
	query->jointree = makeFromExpr(list_make1(reference), NULL);
	query->targetList = targets;
	query->stmt_location = inner->stmt_location;
	query->stmt_len = inner->stmt_len;
	inner->canSetTag = true;
	return inner;
}

typedef struct SplitContext
{
	List	   *targets;		/* of the sub-select that groups: keys, then aggregates */
	int			sublevels_up;	/* in a sub-select, so far down */
} SplitContext;

static void
refuse_split(void)
{
	sckpt_query_refuse("a rank over groups, or a sub-select, beside anything but group keys and aggregates",
					   "Group in a sub-select, and rank, or use the sub-select, above it.");
}

/* An aggregate of the level becomes a column of the sub-select that groups. */
static Node *
aggregate_column(Node *node, SplitContext *context)
{
	int			number = list_length(context->targets) + 1;
	ListCell   *lc;

	node = copyObject(node);
	IncrementVarSublevelsUp(node, -context->sublevels_up, context->sublevels_up);
	foreach(lc, context->targets)
	{
		if (equal(node, lfirst_node(TargetEntry, lc)->expr))
			number = lfirst_node(TargetEntry, lc)->resno;
	}
	if (number > list_length(context->targets))
		context->targets = lappend(context->targets, makeTargetEntry((Expr *) node, number, psprintf("aggregate%d", number), false));
	return (Node *) makeVar(1, number, exprType(node), exprTypmod(node), exprCollation(node), context->sublevels_up);
}

/* What is computed over groups, in terms of a sub-select that groups. */
static Node *
split_mutator(Node *node, SplitContext *context)
{
	ListCell   *lc;

	if (node == NULL)
		return NULL;
	if (context->sublevels_up > 0)
	{
		Var		   *var = (Var *) node;

		/* There, it is about what is outside. */
		if (IsA(node, Query))
		{
			Query	   *query;

			context->sublevels_up++;
			query = query_tree_mutator((Query *) node, split_mutator, context, 0);
			context->sublevels_up--;
			return (Node *) query;
		}
		if (IsA(node, Aggref) && ((Aggref *) node)->agglevelsup == context->sublevels_up)
			return aggregate_column(node, context);
		if (IsA(node, Aggref) && ((Aggref *) node)->agglevelsup > context->sublevels_up)
			refuse_split();
		if (!IsA(node, Var) || var->varlevelsup != context->sublevels_up)
			return expression_tree_mutator(node, split_mutator, context);
		foreach(lc, context->targets)
		{
			TargetEntry *entry = lfirst(lc);
			Var		   *key = (Var *) entry->expr;

			if (IsA(key, Var) && key->varno == var->varno && key->varattno == var->varattno)
				return (Node *) makeVar(1, entry->resno, var->vartype, var->vartypmod, var->varcollid, var->varlevelsup);
		}
		refuse_split();
	}
	foreach(lc, context->targets)
	{
		TargetEntry *entry = lfirst(lc);

		if (equal(node, entry->expr))
			return (Node *) makeVar(1, entry->resno, exprType(node), exprTypmod(node), exprCollation(node), 0);
	}
	if (IsA(node, Aggref))
		return aggregate_column(node, context);
	if (IsA(node, SubLink))
	{
		SubLink    *sublink = copyObject((SubLink *) node);

		sublink->testexpr = split_mutator(sublink->testexpr, context);
		context->sublevels_up++;
		sublink->subselect = (Node *) query_tree_mutator((Query *) sublink->subselect, split_mutator, context, 0);
		context->sublevels_up--;
		return (Node *) sublink;
	}
	if (IsA(node, Var) || IsA(node, GroupingFunc))
		refuse_split();
	return expression_tree_mutator(node, split_mutator, context);
}

static bool
find_sublink_over_groups(Node *node, void *context)
{
	if (node == NULL || IsA(node, Aggref))
		return false;
	if (IsA(node, SubLink))
		return true;
	return expression_tree_walker(node, find_sublink_over_groups, context);
}

/* Has a grouped level a sub-select that is about its groups: not in GROUP BY? */
static bool
has_sublink_over_groups(Query *query)
{
	ListCell   *lc;

	if (!query->hasSubLinks)
		return false;
	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst(lc);

		if ((entry->ressortgroupref == 0 || get_sortgroupref_clause_noerr(entry->ressortgroupref, query->groupClause) == NULL) &&
			find_sublink_over_groups((Node *) entry->expr, NULL))
			return true;
	}
	return find_sublink_over_groups(query->havingQual, NULL);
}

/* What is over groups, ranks and sub-selects, goes above a sub-select that groups. */
static void
split_group(Query *query)
{
	List	   *targets = copyObject(query->targetList);
	List	   *windows = query->windowClause;
	bool		has_windows = query->hasWindowFuncs;
	List	   *above = NIL;
	List	   *having = NIL;
	Query	   *inner;
	RangeTblEntry *rte;
	SplitContext context = {NIL, 0};
	ListCell   *lc;
	ListCell   *lt;

	foreach(lc, make_ands_implicit((Expr *) query->havingQual))
	{
		if (find_sublink_over_groups(lfirst(lc), NULL))
			above = lappend(above, copyObject(lfirst(lc)));
		else
			having = lappend(having, lfirst(lc));
	}
	inner = sckpt_query_wrap(query);
	foreach(lc, inner->groupClause)
	{
		foreach(lt, inner->targetList)
		{
			TargetEntry *entry = lfirst(lt);
			int			number = list_length(context.targets) + 1;
			TargetEntry *key;

			if (entry->ressortgroupref != lfirst_node(SortGroupClause, lc)->tleSortGroupRef)
				continue;
			key = makeTargetEntry(entry->expr, number, psprintf("key%d", number), false);
			key->ressortgroupref = entry->ressortgroupref;
			context.targets = lappend(context.targets, key);
		}
	}
	query->targetList = (List *) split_mutator((Node *) targets, &context);
	query->jointree->quals = above ? split_mutator((Node *) make_ands_explicit(above), &context) : NULL;
	query->hasSubLinks = checkExprHasSubLink((Node *) query->targetList) || checkExprHasSubLink(query->jointree->quals);
	query->windowClause = windows;
	query->hasWindowFuncs = has_windows;
	inner->targetList = context.targets;
	inner->havingQual = having ? (Node *) make_ands_explicit(having) : NULL;
	inner->hasSubLinks = checkExprHasSubLink((Node *) inner->targetList) || checkExprHasSubLink((Node *) inner->jointree) ||
		checkExprHasSubLink(inner->havingQual);
	inner->windowClause = NIL;
	inner->hasWindowFuncs = false;
	rte = linitial(query->rtable);
	rte->eref->colnames = NIL;
	foreach(lt, inner->targetList)
		rte->eref->colnames = lappend(rte->eref->colnames, makeString(pstrdup(lfirst_node(TargetEntry, lt)->resname)));
}

static bool
collect_window_calls(Node *node, List **calls)
{
	if (node == NULL)
		return false;
	if (IsA(node, WindowFunc))
		*calls = lappend(*calls, node);
	return expression_tree_walker(node, collect_window_calls, calls);
}

typedef struct StackContext
{
	List	   *windows;
	WindowFunc *first;			/* the upper level has this one, */
	bool		ranks;			/* and others of its kind: ranks over its window, or what is over rows in the same order */
	List	   *targets;		/* of the lower level: columns, then results of its window functions */
} StackContext;

static WindowClause *
window_of(StackContext *context, WindowFunc *call)
{
	ListCell   *lc;

	foreach(lc, context->windows)
	{
		if (lfirst_node(WindowClause, lc)->winref == call->winref)
			return lfirst(lc);
	}
	elog(ERROR, "window not found");
}

static bool
is_upper(StackContext *context, WindowFunc *call)
{
	WindowClause *window = window_of(context, call);
	WindowClause *first = window_of(context, context->first);
	SckptRankKind kind;

	if (sckpt_rank_kind(call, &kind) != context->ranks)
		return false;
	return context->ranks ? window == first : equal(window->partitionClause, first->partitionClause) && equal(window->orderClause, first->orderClause);
}

/* The target list of the upper level, which has the lower one's columns. */
static Node *
stack_mutator(Node *node, StackContext *context)
{
	if (node == NULL)
		return NULL;
	if ((IsA(node, Var) && ((Var *) node)->varlevelsup == 0) || (IsA(node, WindowFunc) && !is_upper(context, (WindowFunc *) node)))
	{
		ListCell   *lc;
		int			number = list_length(context->targets) + 1;

		foreach(lc, context->targets)
		{
			if (equal(node, lfirst_node(TargetEntry, lc)->expr))
				number = lfirst_node(TargetEntry, lc)->resno;
		}
		if (number > list_length(context->targets))
			context->targets = lappend(context->targets, makeTargetEntry((Expr *) copyObject(node), number, psprintf("column%d", number), false));
		return (Node *) makeVar(1, number, exprType(node), exprTypmod(node), exprCollation(node), 0);
	}
	if (IsA(node, SubLink))
		sckpt_query_refuse("a sub-select beside several windows in one query level", "Use a sub-select for each of the windows.");
	return expression_tree_mutator(node, stack_mutator, context);
}

static bool
is_sorted_by(List *windows, Index reference)
{
	ListCell   *lw;
	ListCell   *lc;

	foreach(lw, windows)
	{
		foreach(lc, list_concat_copy(lfirst_node(WindowClause, lw)->partitionClause, lfirst_node(WindowClause, lw)->orderClause))
		{
			if (lfirst_node(SortGroupClause, lc)->tleSortGroupRef == reference)
				return true;
		}
	}
	return false;
}

/*
 * Windows with different partitions or orders, and ranks beside other functions: one level for each.  Ranks are in the outermost one, since the condition on them is right
 * above.
 */
static void
stack_windows(Query *query)
{
	StackContext context = {.windows = query->windowClause};
	List	   *targets = copyObject(query->targetList);
	List	   *upper = NIL;
	List	   *lower = NIL;
	List	   *calls = NIL;
	Query	   *inner;
	RangeTblEntry *rte;
	SckptRankKind kind;
	ListCell   *lc;

	(void) collect_window_calls((Node *) targets, &calls);
	foreach(lc, calls)
	{
		if (context.first == NULL || (!context.ranks && sckpt_rank_kind(lfirst(lc), &kind)))
		{
			context.first = lfirst(lc);
			context.ranks = sckpt_rank_kind(context.first, &kind);
		}
	}
	foreach(lc, calls)
	{
		if (is_upper(&context, lfirst(lc)))
			upper = list_append_unique_ptr(upper, window_of(&context, lfirst(lc)));
		else
			lower = list_append_unique_ptr(lower, window_of(&context, lfirst(lc)));
	}
	if (lower == NIL)
		return;
	inner = sckpt_query_wrap(query);
	query->targetList = (List *) stack_mutator((Node *) copyObject(targets), &context);
	query->windowClause = copyObject(upper);
	query->hasWindowFuncs = true;
	query->sortClause = inner->sortClause;
	inner->sortClause = NIL;
	inner->windowClause = lower;
	foreach(lc, targets)
	{
		TargetEntry *entry = lfirst(lc);

		if (entry->ressortgroupref == 0 || !is_sorted_by(lower, entry->ressortgroupref))
			continue;
		entry->resno = list_length(context.targets) + 1;
		entry->resname = psprintf("column%d", entry->resno);
		entry->resjunk = false;
		context.targets = lappend(context.targets, entry);
	}
	inner->targetList = context.targets;
	rte = linitial(query->rtable);
	rte->eref->colnames = NIL;
	foreach(lc, inner->targetList)
		rte->eref->colnames = lappend(rte->eref->colnames, makeString(pstrdup(lfirst_node(TargetEntry, lc)->resname)));
	stack_windows(inner);
}

static void
lower_level(Query *query)
{
	bool		grouped = sckpt_query_is_grouped(query);
	Query	   *inner;

	if ((query->limitCount || query->limitOffset) &&
		(grouped || query->distinctClause || query->setOperations || query->hasWindowFuncs || query->hasTargetSRFs))
	{
		inner = sckpt_query_wrap(query);
		query->sortClause = copyObject(inner->sortClause);
		query->limitCount = inner->limitCount;
		query->limitOffset = inner->limitOffset;
		query->limitOption = inner->limitOption;
		inner->limitCount = inner->limitOffset = NULL;
		inner->limitOption = LIMIT_OPTION_COUNT;
		if (!inner->hasDistinctOn)
			inner->sortClause = NIL;
		lower_level(inner);
		return;
	}
	if (query->setOperations)
	{
		sckpt_setop_lower(query);
		return;
	}
	if (query->distinctClause && (grouped || query->hasWindowFuncs || query->hasTargetSRFs))
	{
		inner = sckpt_query_wrap(query);
		query->distinctClause = inner->distinctClause;
		query->hasDistinctOn = inner->hasDistinctOn;
		query->sortClause = inner->sortClause;
		inner->distinctClause = NIL;
		inner->hasDistinctOn = false;
		inner->sortClause = NIL;
		lower_level(inner);
	}
	if (query->distinctClause && !query->hasDistinctOn)
	{
		query->groupClause = query->distinctClause;
		query->distinctClause = NIL;
	}
	if (grouped && query->distinctClause == NIL && (query->hasWindowFuncs || has_sublink_over_groups(query)))
		split_group(query);
	if (query->hasWindowFuncs && query->distinctClause == NIL)
		stack_windows(query);
}

/* The same of what sub-selects outside FROM read. */
static bool
lower_sublinks(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink) && IsA(((SubLink *) node)->subselect, Query))
	{
		Query	   *sub = (Query *) ((SubLink *) node)->subselect;

		if (((SubLink *) node)->subLinkType == EXISTS_SUBLINK)
			sckpt_sublink_simplify_exists(sub);
		sckpt_query_lower(sub);
	}
	return expression_tree_walker(node, lower_sublinks, context);
}

void
sckpt_query_lower(Query *query)
{
	ListCell   *lc;

	check_stack_depth();
	if (query->commandType != CMD_SELECT || !sckpt_query_reads_stream(query))
		return;
	foreach(lc, query->rtable)
	{
		if (lfirst_node(RangeTblEntry, lc)->rtekind == RTE_SUBQUERY)
			sckpt_query_lower(lfirst_node(RangeTblEntry, lc)->subquery);
	}
	foreach(lc, query->cteList)
	{
		CommonTableExpr *cte = lfirst(lc);

		if (IsA(cte->ctequery, Query) && !cte->cterecursive)
			sckpt_query_lower((Query *) cte->ctequery);
	}
	if (query->hasSubLinks)
	{
		(void) lower_sublinks((Node *) query->targetList, NULL);
		(void) lower_sublinks((Node *) query->jointree, NULL);
		(void) lower_sublinks(query->havingQual, NULL);
	}
	lower_level(query);
}

/* ---- Views ---- */

/* A view's query; those of its relations that stand for the view itself are in no FROM clause. */
static Query *
query_of_view(Oid relid)
{
	Relation	view = table_open(relid, AccessShareLock);
	Query	   *query = copyObject(get_view_query(view));
	ListCell   *lc;

	table_close(view, NoLock);
	AcquireRewriteLocks(query, true, false);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION && rte->relid == relid)
		{
			rte = makeNode(RangeTblEntry);
			rte->rtekind = RTE_RESULT;
			rte->eref = makeAlias("none", NIL);
			lfirst(lc) = rte;
		}
	}
	return query;
}

/* What has no state is left to PostgreSQL, so that the view's owner, and what the view has become, count when it is planned. */
static bool
view_has_levels(Query *query)
{
	query = copyObject(query);
	sckpt_level_inline_ctes(query);
	sckpt_query_lower(query);
	return sckpt_query_has_levels(query);
}

static bool
expand_views(Node *node, void *context)
{
	ListCell   *lc;

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, expand_views, context);
	check_stack_depth();
	foreach(lc, ((Query *) node)->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		RangeTblEntry *expanded;
		Query	   *query;

		if (rte->rtekind != RTE_RELATION || rte->relkind != RELKIND_VIEW || !sckpt_level_over_stream(rte))
			continue;
		query = query_of_view(rte->relid);
		sckpt_query_expand_views(query);
		if (!view_has_levels(query))
			continue;
		if (pg_class_aclcheck(rte->relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
			pg_attribute_aclcheck_all(rte->relid, GetUserId(), ACL_SELECT, ACLMASK_ANY) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, get_rel_name(rte->relid));
		expanded = makeNode(RangeTblEntry);
		expanded->rtekind = RTE_SUBQUERY;
		expanded->subquery = query;
		expanded->alias = rte->alias;
		expanded->eref = rte->eref;
		expanded->inFromCl = rte->inFromCl;
		lfirst(lc) = expanded;
	}
	return query_tree_walker((Query *) node, expand_views, context, 0);
}

void
sckpt_query_expand_views(Query *query)
{
	(void) expand_views((Node *) query, NULL);
}
