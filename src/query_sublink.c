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


#define REFUSE_NOT_IN "a correlated sub-select of NOT IN over a stream other than over rows that equal the outer row's"
#define HINT_NOT_IN "Use NOT EXISTS, if no column can be NULL."

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
SckptJoinTree *
sckpt_sublink_add_leaf(SckptJoinContext *context, Query *sub, int *index)
{
	RangeTblRef *ref = sckpt_query_add_subselect(context->query, sub, true);

	*index = ref->rtindex;
	context->over_stream = bms_add_member(context->over_stream, *index);
	return sckpt_join_build(context, list_make1(ref), NIL);
}

/* The column of such a leaf. */
Expr *
sckpt_sublink_column(Query *sub, int index, int number)
{
	return (Expr *) makeVarFromTargetEntry(index, list_nth_node(TargetEntry, sub->targetList, number - 1));
}

/* A sub-select as one of FROM, which it may be: it depends on nothing outside. */
Query *
sckpt_sublink_take(SubLink *sublink)
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

bool
sckpt_sublink_is_simple(Query *query)
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

void
sckpt_sublink_simplify_exists(Query *sub)
{
	Const	   *limit = (Const *) eval_const_expressions(NULL, sub->limitCount);

	if (limit && IsA(limit, Const) && (limit->constisnull || DatumGetInt64(limit->constvalue) > 0) && sub->limitOffset == NULL)
		sub->limitCount = NULL;
	if (sub->limitCount || sub->limitOffset || sub->setOperations || sub->hasTargetSRFs || sub->hasWindowFuncs)
		return;
	sub->sortClause = sub->distinctClause = NIL;
	sub->hasDistinctOn = false;
	if (!sub->hasAggs && sub->havingQual == NULL && sub->groupingSets == NIL)
		sub->groupClause = NIL;
}

/* What is outside may be named in conditions, but not in items of FROM: these are the right side's alone. */
static void
refuse_correlated_items(Query *sub)
{
	bool		found = false;
	ListCell   *lc;

	foreach(lc, sub->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		found |= contain_vars_of_level((Node *) rte->functions, 1) || contain_vars_of_level((Node *) rte->values_lists, 1) ||
			contain_vars_of_level((Node *) rte->tablefunc, 1) ||
			(rte->rtekind == RTE_SUBQUERY && contain_vars_of_level((Node *) rte->subquery, 2));
	}
	foreach(lc, sub->jointree->fromlist)
	{
		List	   *items = NIL;
		List	   *quals = NIL;
		ListCell   *li;

		sckpt_join_collect(lfirst(lc), &items, &quals);
		foreach(li, items)
			found |= contain_vars_of_level(lfirst(li), 1);
	}
	if (found)
		sckpt_query_refuse("FROM of a sub-select over a stream that names what is outside", "Name it in WHERE of the sub-select.");
}

/* A sub-select of EXISTS or ANY becomes the right side of a join: SEMI, ANTI, or LEFT, which marks rows. */
static SckptJoinTree *
join_matches(SckptJoinContext *context, SckptJoinTree *tree, SubLink *sublink, JoinType type)
{
	Query	   *query = context->query;
	Query	   *sub = sckpt_sublink_take(sublink);
	List	   *quals = NIL;
	List	   *inner = NIL;
	List	   *targets = NIL;
	SckptJoinTree *right;
	SckptJoinTree *join;
	ListCell   *lc;

	if (sckpt_sublink_is_simple(sub) && !sckpt_sublink_in_level(sub))
	{
		int			offset = list_length(query->rtable);
		List	   *items = NIL;
		Relids		relids = NULL;

		refuse_correlated_items(sub);
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
		right = sckpt_sublink_add_leaf(context, sub, &index);
		foreach(lc, sub->targetList)
			targets = lappend(targets, makeTargetEntry(sckpt_sublink_column(sub, index, foreach_current_index(lc) + 1), foreach_current_index(lc) + 1,
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

Expr *
sckpt_sublink_int8(int64 value)
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

Expr *
sckpt_sublink_count(void)
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
Query *
sckpt_sublink_select_from(Query *sub, List *targets)
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
	Query	   *sub = sckpt_sublink_take(sublink);
	List	   *columns = sub->targetList;
	List	   *conditions = NIL;

	if (!sckpt_sublink_is_simple(sub))
	{
		/* Of all its rows. */
		if (contain_vars_of_level((Node *) sub, 1))
			sckpt_query_refuse(REFUSE_NOT_IN, HINT_NOT_IN);
		IncrementVarSublevelsUp((Node *) sub, 1, 1);
		columns = NIL;
		for (int i = 1; i <= list_length(sub->targetList); i++)
			columns = lappend(columns, makeTargetEntry(sckpt_sublink_column(sub, 1, i), i, NULL, false));
		sub = sckpt_sublink_select_from(sub, NIL);
	}
	for (int subset = 0; subset < 1 << ncolumns; subset++)
	{
		List	   *other = NIL;
		List	   *nulls = NIL;
		Aggref	   *count = (Aggref *) sckpt_sublink_count();

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
		other = lappend(other, int8_equal((Expr *) count, sckpt_sublink_int8(0)));
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
	known = lappend(known, sckpt_scalar_join_correlated(context, tree, unknown, REFUSE_NOT_IN, HINT_NOT_IN));
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

/* ---- In expressions ---- */

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
			result = sckpt_scalar_join(join, context->tree, (SubLink *) node);

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
