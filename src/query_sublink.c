/*-------------------------------------------------------------------------
 *
 * query_sublink.c
 *		Sub-selects over streams outside FROM.
 *
 * EXISTS and IN become the right side of a join with what FROM reads.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"

#include "query_join_private.h"

bool
sckpt_sublink_find(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink) && sckpt_query_reads_stream(castNode(Query, ((SubLink *) node)->subselect)))
		return true;
	return expression_tree_walker(node, sckpt_sublink_find, context);
}

static Node *
replace_params(Node *node, List *targets)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_SUBLINK)
		return copyObject((Node *) list_nth_node(TargetEntry, targets, ((Param *) node)->paramid - 1)->expr);
	return expression_tree_mutator(node, replace_params, (void *) targets);
}

static bool
is_simple(Query *query)
{
	return !sckpt_query_is_grouped(query) && !query->hasTargetSRFs && query->setOperations == NULL && query->distinctClause == NIL &&
		query->limitCount == NULL && query->limitOffset == NULL && query->cteList == NIL && !query->hasWindowFuncs;
}

/* A sub-select of EXISTS or IN becomes the right side of a join. */
SckptJoinTree *
sckpt_sublink_join(SckptJoinContext *context, SckptJoinTree *tree, SubLink *sublink, bool negated)
{
	Query	   *query = context->query;
	Query	   *sub = copyObject(castNode(Query, sublink->subselect));
	List	   *quals = NIL;
	List	   *items = NIL;
	List	   *targets;
	List	   *inner = NIL;
	SckptJoinTree   *right;
	SckptJoinTree   *join;
	ListCell   *lc;

	if (sublink->subLinkType != EXISTS_SUBLINK && sublink->subLinkType != ANY_SUBLINK)
		sckpt_query_refuse("a sub-select over a stream in WHERE other than EXISTS and IN", "Join the streams in FROM.");
	if (negated && sublink->subLinkType == ANY_SUBLINK)
		sckpt_query_refuse("NOT IN over a stream", "Use NOT EXISTS: NOT IN gives no rows at all once there is a NULL.");
	sckpt_forget_nulling(sub);
	if (is_simple(sub))
	{
		int			offset = list_length(query->rtable);

		OffsetVarNodes((Node *) sub, offset, 0);
		IncrementVarSublevelsUp((Node *) sub, -1, 1);
		sckpt_append_range_table(query, sub);
		for (int i = offset + 1; i <= list_length(query->rtable); i++)
		{
			if (sckpt_level_over_stream(rt_fetch(i, query->rtable)))
				context->over_stream = bms_add_member(context->over_stream, i);
		}
		foreach(lc, sub->jointree->fromlist)
			sckpt_join_collect(lfirst(lc), &items, &quals);
		quals = list_concat(quals, sckpt_join_conjuncts(sub->jointree->quals));
		targets = sub->targetList;
	}
	else
	{
		RangeTblEntry *rte = makeNode(RangeTblEntry);
		RangeTblRef *ref = makeNode(RangeTblRef);

		if (sublink->subLinkType == EXISTS_SUBLINK || contain_vars_of_level((Node *) sub, 1))
			sckpt_query_refuse("a sub-select over a stream in WHERE that groups, or has LIMIT", "Join it in FROM.");
		rte->rtekind = RTE_SUBQUERY;
		rte->subquery = sub;
		rte->eref = makeAlias("sub", NIL);
		rte->inFromCl = true;
		foreach(lc, sub->targetList)
		{
			TargetEntry *target = lfirst(lc);

			rte->eref->colnames = lappend(rte->eref->colnames, makeString(target->resname ? target->resname : "column"));
		}
		query->rtable = lappend(query->rtable, rte);
		ref->rtindex = list_length(query->rtable);
		context->over_stream = bms_add_member(context->over_stream, ref->rtindex);
		items = list_make1(ref);
		targets = NIL;
		foreach(lc, sub->targetList)
		{
			TargetEntry *target = lfirst(lc);

			targets = lappend(targets, makeTargetEntry((Expr *) makeVarFromTargetEntry(ref->rtindex, target), target->resno, NULL, false));
		}
	}

	/* Conditions among its own relations order its joins. */
	{
		Relids		relids = NULL;

		foreach(lc, items)
			(void) sckpt_join_count_streams(context, lfirst(lc), &relids);
		foreach(lc, quals)
		{
			if (bms_is_subset(sckpt_join_relations(lfirst(lc)), relids))
				inner = lappend(inner, lfirst(lc));
		}
	}
	right = sckpt_join_build(context, items, inner);
	join = sckpt_join_pair(negated ? JOIN_ANTI : JOIN_SEMI, tree, right);
	foreach(lc, quals)
	{
		if (!list_member_ptr(inner, lfirst(lc)))
			sckpt_join_place(join, lfirst(lc));
	}
	if (sublink->subLinkType == ANY_SUBLINK)
	{
		foreach(lc, sckpt_join_conjuncts(replace_params(sublink->testexpr, targets)))
			sckpt_join_place(join, lfirst(lc));
	}
	return join;
}
