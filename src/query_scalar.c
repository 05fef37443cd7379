/*-------------------------------------------------------------------------
 *
 * query_scalar.c
 *		Sub-selects over streams that are values: scalar ones and ARRAY(SELECT …).
 *
 * One that depends on nothing outside and has one row at most is joined with each row: by an inner join if it always has a row, else by a left join.
 *
 * A correlated one must be over rows that equalities with the outer row choose: it is grouped by what these compare, and joined on that; where there is
 * no such group, an aggregate is what it is over no rows.  With LIMIT 1 it is the first row of each group.  In its place in the query stands the column then, wherever that is.
 *
 * What selects several rows is made an aggregate first: ARRAY(SELECT …) is array_agg(), and any other one is its only value, which fails as PostgreSQL does
 * where there are several.  That is computed over joined rows, so that only groups that are asked for fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "parser/parse_oper.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "query_join_private.h"

#define REFUSE_CORRELATED "a correlated sub-select over a stream other than over rows that equal the outer row's"
#define HINT_CORRELATED "Write (SELECT … FROM stream WHERE stream.column = outer.column), or join a grouped sub-select in FROM."

PG_FUNCTION_INFO_V1(stream_ckpt_only_row);

/* ---- Over no rows, or one ---- */

/* Has it one row at most?  *always: exactly one. */
static bool
has_one_row(Query *query, bool *always)
{
	RangeTblRef *ref;
	Const	   *limit = (Const *) eval_const_expressions(NULL, query->limitCount);

	*always = false;
	if (query->setOperations || query->hasTargetSRFs)
		return false;
	if (limit && IsA(limit, Const) && !limit->constisnull && DatumGetInt64(limit->constvalue) == 1 && query->limitOption == LIMIT_OPTION_COUNT)
		return true;
	if (query->hasAggs && query->groupClause == NIL && query->groupingSets == NIL)
	{
		*always = query->havingQual == NULL && limit == NULL && query->limitOffset == NULL;
		return true;
	}

	/* A projection of such a one. */
	if (sckpt_query_has_state(query) || query->distinctClause || list_length(query->jointree->fromlist) != 1 ||
		!IsA(linitial(query->jointree->fromlist), RangeTblRef))
		return false;
	ref = linitial(query->jointree->fromlist);
	if (rt_fetch(ref->rtindex, query->rtable)->rtekind != RTE_SUBQUERY || !has_one_row(rt_fetch(ref->rtindex, query->rtable)->subquery, always))
		return false;
	*always &= query->jointree->quals == NULL;
	return true;
}

typedef struct AggregateContext
{
	Query	   *sub;			/* its target list gets the aggregates */
	int			index;			/* its place in the level's range table */
	const char *construct;		/* what is refused by which name */
	const char *hint;
} AggregateContext;

/* What a correlated sub-select selects, over the columns of its groups. */
static Node *
over_groups(Node *node, AggregateContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Aggref))
	{
		Aggref	   *aggref = (Aggref *) node;
		List	  **targets = &context->sub->targetList;
		int			number = list_length(*targets) + 1;
		Expr	   *column;
		CoalesceExpr *empty;

		if (aggref->agglevelsup != 0 || contain_vars_of_level(node, 1))
			sckpt_query_refuse(context->construct, context->hint);
		if (aggref->aggfnoid >= FirstNormalObjectId)
			sckpt_query_refuse("an aggregate that is not PostgreSQL's own in a correlated sub-select over a stream",
							   "Join a grouped sub-select in FROM.");
		*targets = lappend(*targets, makeTargetEntry(copyObject((Expr *) aggref), number, psprintf("aggregate%d", number), false));
		column = sckpt_sublink_column(context->sub, context->index, number);
		if (aggref->aggfnoid != F_COUNT_ && aggref->aggfnoid != F_COUNT_ANY && aggref->aggfnoid != F_REGR_COUNT)
			return (Node *) column;

		/* All others are NULL over no rows. */
		empty = makeNode(CoalesceExpr);
		empty->coalescetype = INT8OID;
		empty->args = list_make2(column, sckpt_sublink_int8(0));
		empty->location = -1;
		return (Node *) empty;
	}
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == 1)
	{
		node = copyObject(node);
		((Var *) node)->varlevelsup = 0;
		return node;
	}
	if (IsA(node, Var) || IsA(node, SubLink))
		sckpt_query_refuse(context->construct, context->hint);
	return expression_tree_mutator(node, over_groups, (void *) context);
}

/* An equality of something of the sub-select with something outside: its sides, the sub-select's first. */
static bool
is_correlation(Node *qual, Node **inner, Node **outer)
{
	OpExpr	   *op = (OpExpr *) qual;
	Oid			equality;
	bool		hashable;
	int			side;

	if (!IsA(qual, OpExpr) || list_length(op->args) != 2 || contain_volatile_functions(qual) || checkExprHasSubLink(qual))
		return false;
	side = contain_vars_of_level(linitial(op->args), 1) ? 1 : 0;
	*inner = list_nth(op->args, side);
	*outer = list_nth(op->args, 1 - side);
	if (contain_vars_of_level(*inner, 1) || contain_vars_of_level(*outer, 0) || !contain_vars_of_level(*inner, 0))
		return false;

	/* What is equal must be one group. */
	get_sort_group_operators(exprType(*inner), false, true, false, NULL, &equality, NULL, &hashable);
	return hashable && op_hashjoinable(op->opno, exprType(linitial(op->args))) &&
		(equality == op->opno || equality_ops_are_compatible(equality, op->opno)) &&
		(!OidIsValid(op->inputcollid) || exprCollation(*inner) == op->inputcollid);
}

/*
 * Take the equalities with the outer row off a sub-select, and group it by what they compare, which becomes its target list.  Returns them, as they stand in
 * the sub-select.
 */
static List *
take_correlations(SckptJoinContext *context, Query *sub, const char *construct, const char *hint)
{
	List	   *quals = NIL;
	List	   *rest = NIL;
	List	   *items = NIL;
	List	   *correlations = NIL;
	ListCell   *lc;

	sub->targetList = sub->sortClause = NIL;
	foreach(lc, sub->jointree->fromlist)
		sckpt_join_collect(lfirst(lc), &items, &quals);
	quals = list_concat(quals, sckpt_join_conjuncts(sub->jointree->quals));
	foreach(lc, quals)
	{
		Node	   *qual = lfirst(lc);
		Node	   *inner;
		Node	   *outer;
		SortGroupClause *clause;
		TargetEntry *key;
		int			number = list_length(sub->targetList) + 1;

		if (!contain_vars_of_level(qual, 1))
		{
			rest = lappend(rest, qual);
			continue;
		}
		if (!is_correlation(qual, &inner, &outer))
			sckpt_query_refuse(construct, hint);
		key = makeTargetEntry((Expr *) copyObject(inner), number, psprintf("key%d", number), false);
		key->ressortgroupref = number;
		clause = makeNode(SortGroupClause);
		clause->tleSortGroupRef = number;
		get_sort_group_operators(exprType(inner), false, true, false, &clause->sortop, &clause->eqop, NULL, &clause->hashable);
		sub->targetList = lappend(sub->targetList, key);
		sub->groupClause = lappend(sub->groupClause, clause);
		correlations = lappend(correlations, qual);
	}
	sub->jointree = makeFromExpr(items, rest ? (Node *) make_ands_explicit(rest) : NULL);
	return correlations;
}

/* Then: join on them; the sub-select is in the level's range table now. */
static void
place_correlations(SckptJoinTree *tree, Query *sub, int index, List *correlations)
{
	ListCell   *lc;

	foreach(lc, correlations)
	{
		OpExpr	   *condition = copyObject(lfirst_node(OpExpr, lc));
		Node	   *column = (Node *) sckpt_sublink_column(sub, index, foreach_current_index(lc) + 1);
		Node	   *inner;
		Node	   *outer;

		(void) is_correlation(lfirst(lc), &inner, &outer);
		condition->args = inner == linitial(lfirst_node(OpExpr, lc)->args) ? list_make2(column, copyObject(outer)) : list_make2(copyObject(outer), column);
		IncrementVarSublevelsUp((Node *) condition, -1, 1);
		sckpt_join_place(tree, (Node *) condition);
	}
}

Node *
sckpt_scalar_join_correlated(SckptJoinContext *context, SckptJoinTree **tree, Query *sub, const char *construct, const char *hint)
{
	AggregateContext aggregates = {sub, list_length(context->query->rtable) + 1, construct, hint};
	Expr	   *target = list_length(sub->targetList) == 1 ? linitial_node(TargetEntry, sub->targetList)->expr : NULL;
	List	   *correlations;
	Node	   *result;
	SckptJoinTree *leaf;

	if (target == NULL || !sub->hasAggs || sub->groupClause || sub->groupingSets || sub->havingQual || sub->setOperations || sub->limitCount ||
		sub->limitOffset || sub->distinctClause || sub->hasWindowFuncs || sub->hasTargetSRFs || sub->cteList)
		sckpt_query_refuse(construct, hint);
	correlations = take_correlations(context, sub, construct, hint);
	result = over_groups((Node *) target, &aggregates);
	sub->hasSubLinks = checkExprHasSubLink((Node *) sub->targetList) || checkExprHasSubLink((Node *) sub->jointree);
	if (contain_vars_of_level((Node *) sub, 1))
		sckpt_query_refuse(construct, hint);
	leaf = sckpt_sublink_add_leaf(context, sub, &aggregates.index);

	/* Over all rows there is always one. */
	*tree = sckpt_join_pair(correlations ? JOIN_LEFT : JOIN_INNER, *tree, leaf);
	place_correlations(*tree, sub, aggregates.index, correlations);
	return result;
}

/* The first row of those that equal the outer row's. */
static Node *
join_first(SckptJoinContext *context, SckptJoinTree **tree, Query *sub)
{
	int			index;
	List	   *targets = sub->targetList;
	List	   *order = sub->sortClause;
	List	   *conditions = take_correlations(context, sub, REFUSE_CORRELATED, HINT_CORRELATED);
	int			offset = list_length(sub->targetList);
	int			value = offset + 1;
	SckptJoinTree *leaf;
	ListCell   *lc;

	if (contain_vars_of_level((Node *) targets, 1) || sub->groupClause == NIL)
		sckpt_query_refuse(REFUSE_CORRELATED, HINT_CORRELATED);
	foreach(lc, sub->groupClause)
	{
		if (!OidIsValid(lfirst_node(SortGroupClause, lc)->sortop))
			sckpt_query_refuse(REFUSE_CORRELATED, "Compare values of a type that can be sorted.");
	}
	sub->distinctClause = sub->groupClause;
	sub->hasDistinctOn = true;
	sub->groupClause = NIL;
	sub->limitCount = NULL;
	sub->sortClause = copyObject(sub->distinctClause);
	foreach(lc, targets)
	{
		TargetEntry *target = lfirst(lc);

		target->resno += offset;
		if (target->ressortgroupref)
			target->ressortgroupref += offset;
		if (target->resname == NULL)
			target->resname = psprintf("column%d", target->resno);
		sub->targetList = lappend(sub->targetList, target);
	}
	foreach(lc, order)
	{
		SortGroupClause *clause = copyObject(lfirst_node(SortGroupClause, lc));

		clause->tleSortGroupRef += offset;
		sub->sortClause = lappend(sub->sortClause, clause);
	}
	sub->hasSubLinks = checkExprHasSubLink((Node *) sub->targetList) || checkExprHasSubLink((Node *) sub->jointree);
	if (contain_vars_of_level((Node *) sub, 1))
		sckpt_query_refuse(REFUSE_CORRELATED, HINT_CORRELATED);
	leaf = sckpt_sublink_add_leaf(context, sub, &index);
	*tree = sckpt_join_pair(JOIN_LEFT, *tree, leaf);
	place_correlations(*tree, sub, index, conditions);
	return (Node *) sckpt_sublink_column(sub, index, value);
}

/* ---- Several rows ---- */

static void
require_order(Oid type)
{
	if (!OidIsValid(lookup_type_cache(type, TYPECACHE_LT_OPR)->lt_opr))
		sckpt_query_refuse("a sub-select over a stream of a type without an order, that may have several rows", "Cast it to a type that has one, such as text.");
}

/* An aggregate over what a sub-select selects, in its order; in any one, where it has none. */
static Aggref *
aggregate_of(Oid function, char kind, Oid type, List *targets, List *order)
{
	Aggref	   *aggref = makeNode(Aggref);
	TargetEntry *value = linitial_node(TargetEntry, targets);
	Oid			argument = exprType((Node *) value->expr);

	if (order == NIL)
	{
		SortGroupClause *clause = makeNode(SortGroupClause);

		require_order(argument);
		get_sort_group_operators(argument, true, true, false, &clause->sortop, &clause->eqop, NULL, &clause->hashable);
		clause->tleSortGroupRef = value->ressortgroupref = 1;
		targets = list_make1(value);
		order = list_make1(clause);
	}
	aggref->aggfnoid = function;
	aggref->aggtype = type;
	aggref->aggcollid = aggref->inputcollid = exprCollation((Node *) value->expr);
	aggref->aggargtypes = list_make1_oid(argument);
	aggref->args = targets;
	aggref->aggorder = order;
	aggref->aggkind = kind;
	aggref->aggsplit = AGGSPLIT_SIMPLE;
	aggref->aggno = aggref->aggtransno = -1;
	aggref->location = -1;
	return aggref;
}

/* Make a sub-select one that aggregates what it has selected. */
static Query *
aggregate_rows(Query *sub, SubLinkType type)
{
	List	   *targets = sub->targetList;
	List	   *order = sub->sortClause;
	Oid			value = exprType((Node *) linitial_node(TargetEntry, targets)->expr);
	Expr	   *result;
	ListCell   *lc;

	if (!sckpt_sublink_is_simple(sub))
	{
		List	   *above = NIL;

		if (contain_vars_of_level((Node *) sub, 1))
			sckpt_query_refuse(REFUSE_CORRELATED, HINT_CORRELATED);
		IncrementVarSublevelsUp((Node *) sub, 1, 1);
		if (sub->limitCount == NULL && sub->limitOffset == NULL)
			sub->sortClause = NIL;
		foreach(lc, targets)
		{
			TargetEntry *target = lfirst(lc);
			TargetEntry *column = makeTargetEntry(sckpt_sublink_column(sub, 1, target->resno), target->resno, NULL, target->resjunk);

			column->ressortgroupref = target->ressortgroupref;
			target->resjunk = false;
			above = lappend(above, column);
		}
		sub = sckpt_sublink_select_from(sub, NIL);
		targets = above;
		order = copyObject(order);
	}
	sub->sortClause = NIL;
	if (type == ARRAY_SUBLINK)
	{
		Oid			array = get_promoted_array_type(value);
		bool		nested = array == value;
		CoalesceExpr *coalesce = makeNode(CoalesceExpr);
		Const	   *none;

		if (!OidIsValid(array))
			sckpt_query_refuse("ARRAY(SELECT …) over a stream of a type without an array type", "Cast it to text.");
		none = makeConst(array, -1, get_typcollation(array), -1, PointerGetDatum(construct_empty_array(get_element_type(array))), false, false);
		coalesce->coalescetype = array;
		coalesce->coalescecollid = exprCollation((Node *) linitial_node(TargetEntry, targets)->expr);
		coalesce->args = list_make2(aggregate_of(nested ? F_ARRAY_AGG_ANYARRAY : F_ARRAY_AGG_ANYNONARRAY, AGGKIND_NORMAL, array, targets, order), none);
		coalesce->location = -1;
		result = (Expr *) coalesce;
	}
	else
	{
		Oid			arguments[2] = {ANYELEMENTOID, INT8OID};
		Oid			function = LookupFuncName(list_make2(makeString("stream_ckpt"), makeString("only_row")), 2, arguments, false);
		Aggref	   *only = aggregate_of(F_MODE, AGGKIND_ORDERED_SET, value, targets, NIL);

		result = (Expr *) makeFuncExpr(function, value, list_make2(only, sckpt_sublink_count()), only->aggcollid, only->aggcollid, COERCE_EXPLICIT_CALL);
	}
	sub->targetList = list_make1(makeTargetEntry(result, 1, pstrdup("value"), false));
	sub->hasAggs = true;
	return sub;
}

Datum
stream_ckpt_only_row(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(1) && PG_GETARG_INT64(1) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("more than one row returned by a subquery used as an expression")));
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/* ---- All kinds ---- */

static bool
is_limited_to_one(Query *query)
{
	Const	   *limit = (Const *) eval_const_expressions(NULL, query->limitCount);

	return limit && IsA(limit, Const) && !limit->constisnull && DatumGetInt64(limit->constvalue) == 1 &&
		query->limitOption == LIMIT_OPTION_COUNT;
}

Node *
sckpt_scalar_join(SckptJoinContext *context, SckptJoinTree **tree, SubLink *sublink)
{
	Query	   *sub = sckpt_sublink_take(sublink);
	bool		correlated = contain_vars_of_level((Node *) sub, 1);
	SckptJoinTree *leaf;
	bool		always;
	int			index;

	if (sublink->subLinkType != EXPR_SUBLINK && sublink->subLinkType != ARRAY_SUBLINK)
		sckpt_query_refuse("a sub-select over a stream of several columns", "Use a sub-select for each of them.");
	if (sublink->subLinkType == EXPR_SUBLINK && !correlated && has_one_row(sub, &always))
	{
		leaf = sckpt_sublink_add_leaf(context, sub, &index);
		*tree = sckpt_join_pair(always ? JOIN_INNER : JOIN_LEFT, *tree, leaf);
		return (Node *) sckpt_sublink_column(sub, index, 1);
	}
	if (sublink->subLinkType == EXPR_SUBLINK && is_limited_to_one(sub) && sub->limitOffset == NULL)
	{
		Query	   *unlimited = copyObject(sub);

		unlimited->limitCount = NULL;
		if (sckpt_sublink_is_simple(unlimited))
			return join_first(context, tree, sub);
	}
	if (sublink->subLinkType == ARRAY_SUBLINK || !sub->hasAggs || sub->groupClause)
		sub = aggregate_rows(sub, sublink->subLinkType);
	return sckpt_scalar_join_correlated(context, tree, sub, REFUSE_CORRELATED, HINT_CORRELATED);
}
