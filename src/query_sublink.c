/*-------------------------------------------------------------------------
 *
 * query_sublink.c
 *		Sub-selects over streams outside FROM: what they read is joined with what FROM reads.
 *
 * EXISTS and IN become the right side of a semi join, NOT EXISTS of an anti join.  So does `x op ANY`, of which IN is one; `x op ALL` is NOT ANY of the operator's
 * negation.
 *
 * Where they are not conditions of their own, but below OR, in CASE or in the select list, they become marks: a join that gives each row once, and a column that says whether it
 * has a match.
 *
 * NOT IN is true where no row matches, and none is unknown, either.  A row is unknown that is equal in the columns in which neither side is NULL: there is an anti
 * join by each set of columns.  Where in no column both sides are there, counts of the rows with NULLs say so: one more row that the anti join's
 * rows are joined with, for each outer row that it is correlated with.
 *
 * A scalar sub-select has one row at most.  One that depends on nothing outside is joined with each row: by an inner join if it always has a row, else by a left join.  A correlated
 * one must be an aggregate over rows that equalities with the outer row choose: it is grouped by what these compare, and joined on that; where there is
 * no such group, the aggregate is what it is over no rows.  In its place in the query stands the column then, wherever that is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parse_oper.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "query_join_private.h"

#define REFUSE_SCALAR "a scalar sub-select over a stream that may have several rows"
#define HINT_SCALAR "Let it be an aggregate without GROUP BY, or add ORDER BY … LIMIT 1."
#define REFUSE_CORRELATED "a correlated scalar sub-select over a stream other than an aggregate over rows that equal the outer row's"
#define HINT_CORRELATED "Write (SELECT aggregate FROM stream WHERE stream.column = outer.column), or join a grouped sub-select in FROM."

#define REFUSE_NOT_IN "a correlated sub-select of NOT IN over a stream other than over rows that equal the outer row's"
#define HINT_NOT_IN "Use NOT EXISTS, if no column can be NULL."

static Node *join_correlated(SckptJoinContext *context, SckptJoinTree **tree, Query *sub, const char *construct, const char *hint);

bool
sckpt_sublink_find(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink) && sckpt_query_reads_stream(castNode(Query, ((SubLink *) node)->subselect)))
		return true;
	return expression_tree_walker(node, sckpt_sublink_find, context);
}

bool
sckpt_sublink_in_level(Query *query)
{
	return query->hasSubLinks &&
		(sckpt_sublink_find(query->jointree->quals, NULL) || sckpt_sublink_find((Node *) query->targetList, NULL) ||
		 sckpt_sublink_find(query->havingQual, NULL));
}

/* ---- Joining sub-selects ---- */

/* Add a sub-select to the level's range table, as a leaf. */
static SckptJoinTree *
add_leaf(SckptJoinContext *context, Query *sub, int *index)
{
	RangeTblRef *ref = sckpt_query_add_subselect(context->query, sub, true);

	*index = ref->rtindex;
	context->over_stream = bms_add_member(context->over_stream, *index);
	return sckpt_join_build(context, list_make1(ref), NIL);
}

/* The column of such a leaf. */
static Expr *
leaf_column(Query *sub, int index, int number)
{
	return (Expr *) makeVarFromTargetEntry(index, list_nth_node(TargetEntry, sub->targetList, number - 1));
}

/* A sub-select as one of FROM, which it may be: it depends on nothing outside. */
static Query *
take_subselect(SubLink *sublink)
{
	Query	   *sub = copyObject(castNode(Query, sublink->subselect));

	sckpt_forget_nulling(sub);
	sckpt_level_inline_ctes(sub);
	return sub;
}

/* ---- EXISTS, IN, ANY, ALL ---- */

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

/* A column of a join that no relation has. */
static void
add_mark(SckptJoinContext *context, SckptJoinTree *join)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	int			index = list_length(context->query->rtable) + 1;

	rte->rtekind = RTE_RESULT;
	rte->eref = makeAlias(psprintf("match of %d", index), NIL);
	context->query->rtable = lappend(context->query->rtable, rte);
	join->mark = makeVar(index, 1, BOOLOID, -1, InvalidOid, 0);
	join->relids = bms_add_member(join->relids, index);
}

/* A sub-select of EXISTS or ANY becomes the right side of a join: SEMI, ANTI, or LEFT, which marks rows. */
static SckptJoinTree *
join_matches(SckptJoinContext *context, SckptJoinTree *tree, SubLink *sublink, JoinType type)
{
	Query	   *query = context->query;
	Query	   *sub = take_subselect(sublink);
	List	   *quals = NIL;
	List	   *inner = NIL;
	List	   *targets = NIL;
	SckptJoinTree *right;
	SckptJoinTree *join;
	ListCell   *lc;

	if (is_simple(sub) && !sckpt_sublink_in_level(sub))
	{
		int			offset = list_length(query->rtable);
		List	   *items = NIL;
		Relids		relids = NULL;

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

		/* Conditions among its own relations order its joins. */
		foreach(lc, items)
			(void) sckpt_join_count_streams(context, lfirst(lc), &relids);
		foreach(lc, quals)
		{
			if (bms_is_subset(sckpt_join_relations(lfirst(lc)), relids))
				inner = lappend(inner, lfirst(lc));
		}
		right = sckpt_join_build(context, items, inner);
	}
	else
	{
		int			index;

		if (contain_vars_of_level((Node *) sub, 1))
			sckpt_query_refuse("a correlated sub-select over a stream in WHERE that groups, has LIMIT, or sub-selects of its own", "Join it in FROM.");
		right = add_leaf(context, sub, &index);
		foreach(lc, sub->targetList)
			targets = lappend(targets, makeTargetEntry(leaf_column(sub, index, foreach_current_index(lc) + 1), foreach_current_index(lc) + 1,
													   NULL, false));
	}
	join = sckpt_join_pair(type, tree, right);
	if (type == JOIN_LEFT)
		add_mark(context, join);
	foreach(lc, quals)
	{
		if (!list_member_ptr(inner, lfirst(lc)))
			sckpt_join_place(join, lfirst(lc));
	}
	foreach(lc, sckpt_join_conjuncts(replace_params(sublink->testexpr, targets)))
		sckpt_join_place(join, lfirst(lc));
	return join;
}

static Expr *
make_int8(int64 value)
{
	return (Expr *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(value), false, FLOAT8PASSBYVAL);
}

static Expr *
int8_equal(Expr *left, Expr *right)
{
	Oid			operator = get_opfamily_member(INTEGER_BTREE_FAM_OID, INT8OID, INT8OID, BTEqualStrategyNumber);
	OpExpr	   *result = (OpExpr *) make_opclause(operator, BOOLOID, false, left, right, InvalidOid, InvalidOid);

	set_opfuncid(result);
	return (Expr *) result;
}

static Expr *
count_rows(void)
{
	Aggref	   *count = makeNode(Aggref);

	count->aggfnoid = F_COUNT_;
	count->aggtype = INT8OID;
	count->aggtranstype = InvalidOid;
	count->aggstar = true;
	count->aggkind = AGGKIND_NORMAL;
	count->aggsplit = AGGSPLIT_SIMPLE;
	count->aggno = count->aggtransno = -1;
	count->location = -1;
	return (Expr *) count;
}

/* A query over a sub-select, with these columns. */
static Query *
select_from(Query *sub, List *targets)
{
	Query	   *query = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);

	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = sub;
	rte->eref = makeAlias("sub", NIL);
	rte->inFromCl = true;
	for (int i = 1; i <= list_length(sub->targetList); i++)
		rte->eref->colnames = lappend(rte->eref->colnames, makeString(psprintf("column%d", i)));
	ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = list_make1(rte);
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	query->targetList = targets;
	return query;
}

/* ---- NOT IN, NOT ANY ---- */

#define MAX_COLUMNS 3			/* each subset of them is a join */

/* A comparison of NOT ANY: of something outside with something over the sub-select's columns. */
typedef struct Comparison
{
	OpExpr	   *op;
	Node	   *outer;
	Node	   *inner;			/* with Params for the columns */
} Comparison;

static Expr *
null_test(Node *arg, NullTestType type)
{
	NullTest   *test = makeNode(NullTest);

	test->arg = (Expr *) copyObject(arg);
	test->nulltesttype = type;
	test->location = -1;
	return (Expr *) test;
}

static int
read_comparisons(Node *test, Comparison *comparisons)
{
	List	   *parts = sckpt_join_conjuncts(test);
	ListCell   *lc;

	if (list_length(parts) > MAX_COLUMNS)
		sckpt_query_refuse(psprintf("NOT IN over a stream with more than %d columns", MAX_COLUMNS), "Use NOT EXISTS, if no column can be NULL.");
	foreach(lc, parts)
	{
		OpExpr	   *op = lfirst(lc);

		if (!IsA(op, OpExpr) || list_length(op->args) != 2 || contain_volatile_functions((Node *) op))
			sckpt_query_refuse("ANY or ALL over a stream that compares rows by another operator than =, under NOT or as a value,", "Compare column by column with NOT EXISTS.");
		if (!op_strict(op->opno))
			sckpt_query_refuse("NOT IN over a stream with an operator that is not strict", "Use NOT EXISTS.");
		comparisons[foreach_current_index(lc)] = (Comparison)
		{
			op, linitial(op->args), lsecond(op->args)
		};
	}
	return list_length(parts);
}

/*
 * Does no row compare as unknown or true because of NULLs alone?  What a sub-select selects that aggregates over the rows: of the outer row the columns that are not NULL are
 * some subset, and then no row must have NULLs in all of these.
 */
static Query *
select_unknown(SubLink *sublink, Comparison *comparisons, int ncolumns)
{
	Query	   *sub = take_subselect(sublink);
	List	   *columns = sub->targetList;
	List	   *conditions = NIL;

	if (!is_simple(sub))
	{
		/* Of all its rows. */
		if (contain_vars_of_level((Node *) sub, 1))
			sckpt_query_refuse(REFUSE_NOT_IN, HINT_NOT_IN);
		IncrementVarSublevelsUp((Node *) sub, 1, 1);
		columns = NIL;
		for (int i = 1; i <= list_length(sub->targetList); i++)
			columns = lappend(columns, makeTargetEntry(leaf_column(sub, 1, i), i, NULL, false));
		sub = select_from(sub, NIL);
	}
	for (int subset = 0; subset < 1 << ncolumns; subset++)
	{
		List	   *other = NIL;
		List	   *nulls = NIL;
		Aggref	   *count = (Aggref *) count_rows();

		for (int i = 0; i < ncolumns; i++)
		{
			bool		known = (subset & (1 << i)) != 0;
			Node	   *outer = copyObject(comparisons[i].outer);

			IncrementVarSublevelsUp(outer, 1, 0);
			other = lappend(other, null_test(outer, known ? IS_NULL : IS_NOT_NULL));
			if (known)
				nulls = lappend(nulls, null_test(replace_params(comparisons[i].inner, columns), IS_NULL));
		}
		count->aggfilter = nulls ? make_ands_explicit(nulls) : NULL;
		other = lappend(other, int8_equal((Expr *) count, make_int8(0)));
		conditions = lappend(conditions, make_orclause(other));
	}
	sub->targetList = list_make1(makeTargetEntry(make_ands_explicit(conditions), 1, "known", false));
	sub->hasAggs = true;
	sub->sortClause = NIL;
	return sub;
}

/*
 * NOT ANY: no row compares as true or unknown.  A row and an outer row do by the columns in which neither is NULL, if these are equal; there is an anti join for each
 * set of columns that this can be.  Where it is the empty one, counts of NULLs tell.
 *
 * As a value: marks take the place of the anti joins; returns what says that there is a match, and in *none that no row compares as unknown.
 */
static Node *
join_any(SckptJoinContext *context, SckptJoinTree **tree, SubLink *sublink, bool value, Node **none)
{
	Comparison	comparisons[MAX_COLUMNS];
	int			ncolumns = read_comparisons(sublink->testexpr, comparisons);
	Query	   *unknown = select_unknown(sublink, comparisons, ncolumns);
	Node	   *match = NULL;
	List	   *known = NIL;

	for (int subset = (1 << ncolumns) - 1; subset > 0; subset--)
	{
		SubLink    *part = copyObject(sublink);
		List	   *tests = NIL;

		for (int i = 0; i < ncolumns; i++)
		{
			Comparison *one = &comparisons[i];

			tests = lappend(tests, (subset & (1 << i)) != 0 ? copyObject((Expr *) one->op) :
							make_orclause(list_make2(null_test(one->outer, IS_NULL), null_test(one->inner, IS_NULL))));
		}
		part->testexpr = (Node *) make_ands_explicit(tests);
		*tree = join_matches(context, *tree, part, value ? JOIN_LEFT : JOIN_ANTI);
		if (!value)
			continue;
		if (match == NULL)
			match = (Node *) null_test((Node *) (*tree)->mark, IS_NOT_NULL);
		else
			known = lappend(known, null_test((Node *) (*tree)->mark, IS_NULL));
	}
	known = lappend(known, join_correlated(context, tree, unknown, REFUSE_NOT_IN, HINT_NOT_IN));
	*none = (Node *) make_ands_explicit(known);
	return match;
}

/* Of ALL, ANY of the operator's negation. */
static SubLink *
negate_all(SubLink *sublink)
{
	OpExpr	   *test = (OpExpr *) sublink->testexpr;
	Oid			negator = IsA(test, OpExpr) ? get_negator(test->opno) : InvalidOid;

	if (!OidIsValid(negator))
		sckpt_query_refuse("ALL over a stream with an operator that has no negator", "Use NOT EXISTS.");
	sublink->subLinkType = ANY_SUBLINK;
	test->opno = negator;
	test->opfuncid = InvalidOid;
	set_opfuncid(test);
	return sublink;
}

SckptJoinTree *
sckpt_sublink_join(SckptJoinContext *context, SckptJoinTree *tree, SubLink *sublink, bool negated)
{
	sublink = copyObject(sublink);
	sublink->testexpr = sckpt_sublink_replace(context, &tree, sublink->testexpr, false);
	if (sublink->subLinkType == ALL_SUBLINK)
	{
		sublink = negate_all(sublink);
		negated = !negated;
	}
	if (negated && sublink->subLinkType == ANY_SUBLINK)
	{
		Node	   *none;

		(void) join_any(context, &tree, sublink, false, &none);
		sckpt_join_restrict(tree, none);
		return tree;
	}
	return join_matches(context, tree, sublink, negated ? JOIN_ANTI : JOIN_SEMI);
}

/* Where it is no condition of its own: its value, by marks. */
static Node *
join_value(SckptJoinContext *context, SckptJoinTree **tree, SubLink *sublink, bool lax)
{
	bool		all = sublink->subLinkType == ALL_SUBLINK;
	Node	   *none;
	Node	   *match;
	CaseExpr   *value;
	CaseWhen   *when[2];

	sublink = copyObject(sublink);
	sublink->testexpr = sckpt_sublink_replace(context, tree, sublink->testexpr, false);
	if (sublink->subLinkType == EXISTS_SUBLINK || (lax && !all))
	{
		*tree = join_matches(context, *tree, sublink, JOIN_LEFT);
		return (Node *) null_test((Node *) (*tree)->mark, IS_NOT_NULL);
	}
	if (all)
		sublink = negate_all(sublink);
	match = join_any(context, tree, sublink, true, &none);
	if (all && lax)
		return (Node *) make_andclause(list_make2(make_notclause((Expr *) match), none));
	value = makeNode(CaseExpr);
	value->casetype = BOOLOID;
	value->defresult = (Expr *) makeBoolConst(false, true);
	value->location = -1;
	for (int i = 0; i < 2; i++)
	{
		when[i] = makeNode(CaseWhen);
		when[i]->expr = (Expr *) (i == 0 ? match : none);
		when[i]->result = (Expr *) makeBoolConst((i == 0) != all, false);
		when[i]->location = -1;
	}
	value->args = list_make2(when[0], when[1]);
	return (Node *) value;
}

bool
sckpt_sublink_is_match(Node *node)
{
	return IsA(node, SubLink) && (((SubLink *) node)->subLinkType == EXISTS_SUBLINK || ((SubLink *) node)->subLinkType == ANY_SUBLINK ||
								  ((SubLink *) node)->subLinkType == ALL_SUBLINK);
}

/* ---- Scalar sub-selects ---- */

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
		column = leaf_column(context->sub, context->index, number);
		if (aggref->aggfnoid != F_COUNT_ && aggref->aggfnoid != F_COUNT_ANY && aggref->aggfnoid != F_REGR_COUNT)
			return (Node *) column;

		/* All others are NULL over no rows. */
		empty = makeNode(CoalesceExpr);
		empty->coalescetype = INT8OID;
		empty->args = list_make2(column, make_int8(0));
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

static Node *
join_correlated(SckptJoinContext *context, SckptJoinTree **tree, Query *sub, const char *construct, const char *hint)
{
	AggregateContext aggregates = {sub, list_length(context->query->rtable) + 1, construct, hint};
	Expr	   *target = list_length(sub->targetList) == 1 ? linitial_node(TargetEntry, sub->targetList)->expr : NULL;
	List	   *quals = NIL;
	List	   *rest = NIL;
	List	   *items = NIL;
	List	   *conditions = NIL;
	Node	   *result;
	SckptJoinTree *leaf;
	ListCell   *lc;

	if (target == NULL || !sub->hasAggs || sub->groupClause || sub->groupingSets || sub->havingQual || sub->setOperations || sub->limitCount ||
		sub->limitOffset || sub->distinctClause || sub->hasWindowFuncs || sub->hasTargetSRFs || sub->cteList)
		sckpt_query_refuse(construct, hint);
	sub->targetList = sub->sortClause = NIL;
	foreach(lc, sub->jointree->fromlist)
		sckpt_join_collect(lfirst(lc), &items, &quals);
	quals = list_concat(quals, sckpt_join_conjuncts(sub->jointree->quals));
	foreach(lc, quals)
	{
		Node	   *qual = lfirst(lc);
		Node	   *inner;
		Node	   *outer;
		OpExpr	   *condition;
		SortGroupClause *clause;
		TargetEntry *key;
		bool		first;
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

		first = inner == linitial(((OpExpr *) qual)->args);
		inner = (Node *) leaf_column(sub, aggregates.index, number);
		outer = copyObject(outer);
		IncrementVarSublevelsUp(outer, -1, 1);
		condition = (OpExpr *) copyObject(qual);
		condition->args = first ? list_make2(inner, outer) : list_make2(outer, inner);
		conditions = lappend(conditions, condition);
	}
	sub->jointree = makeFromExpr(items, rest ? (Node *) make_ands_explicit(rest) : NULL);

	result = over_groups((Node *) target, &aggregates);
	sub->hasSubLinks = checkExprHasSubLink((Node *) sub->targetList) || checkExprHasSubLink((Node *) sub->jointree);
	if (contain_vars_of_level((Node *) sub, 1))
		sckpt_query_refuse(construct, hint);
	leaf = add_leaf(context, sub, &aggregates.index);

	/* Over all rows there is always one. */
	*tree = sckpt_join_pair(conditions ? JOIN_LEFT : JOIN_INNER, *tree, leaf);
	foreach(lc, conditions)
		sckpt_join_place(*tree, lfirst(lc));
	return result;
}

static Node *
join_scalar(SckptJoinContext *context, SckptJoinTree **tree, SubLink *sublink)
{
	Query	   *sub = take_subselect(sublink);
	SckptJoinTree *leaf;
	bool		always;
	int			index;

	if (sublink->subLinkType == ARRAY_SUBLINK)
		sckpt_query_refuse("ARRAY(SELECT …) over a stream", "Use (SELECT array_agg(… ORDER BY …) …).");
	if (sublink->subLinkType != EXPR_SUBLINK)
		sckpt_query_refuse("a sub-select over a stream of several columns", "Use a sub-select for each of them.");
	if (contain_vars_of_level((Node *) sub, 1))
		return join_correlated(context, tree, sub, REFUSE_CORRELATED, HINT_CORRELATED);
	if (!has_one_row(sub, &always))
		sckpt_query_refuse(REFUSE_SCALAR, HINT_SCALAR);
	leaf = add_leaf(context, sub, &index);
	*tree = sckpt_join_pair(always ? JOIN_INNER : JOIN_LEFT, *tree, leaf);
	return (Node *) leaf_column(sub, index, 1);
}

typedef struct ReplaceContext
{
	SckptJoinContext *join;
	SckptJoinTree **tree;
	bool		lax;
} ReplaceContext;

static Node *
replace_sublinks(Node *node, ReplaceContext *context)
{
	SckptJoinContext *join = context->join;
	bool		lax = context->lax;
	Node	   *result;
	ListCell   *ls;
	ListCell   *lr;

	if (node == NULL)
		return NULL;
	if (IsA(node, SubLink) && sckpt_query_reads_stream(castNode(Query, ((SubLink *) node)->subselect)))
	{
		bool		loose = lax && ((SubLink *) node)->subLinkType != EXISTS_SUBLINK && sckpt_sublink_is_match(node);

		forboth(ls, join->replaced, lr, join->replacements)
		{
			if (equal(lfirst(ls), node))
				return copyObject(lfirst(lr));
		}
		if (sckpt_sublink_is_match(node))
			result = join_value(join, context->tree, (SubLink *) node, lax);
		else
			result = join_scalar(join, context->tree, (SubLink *) node);

		/* What is only good for a condition stands nowhere else. */
		if (!loose)
		{
			join->replaced = lappend(join->replaced, copyObject(node));
			join->replacements = lappend(join->replacements, copyObject(result));
		}
		return result;
	}
	context->lax &= IsA(node, List) || is_andclause(node) || is_orclause(node);
	result = expression_tree_mutator(node, replace_sublinks, (void *) context);
	context->lax = lax;
	return result;
}

Node *
sckpt_sublink_replace(SckptJoinContext *context, SckptJoinTree **tree, Node *node, bool lax)
{
	ReplaceContext replace = {context, tree, lax};

	return sckpt_sublink_find(node, NULL) ? replace_sublinks(node, &replace) : node;
}
