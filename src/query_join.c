/*-------------------------------------------------------------------------
 *
 * query_join.c
 *		Joins of streams: takes a query level that reads several of them apart into a tree of joins.
 *
 * What reads a stream in FROM, with the tables and functions that belong to it, is a leaf: a query of its own, with the conditions that are
 * about it alone.  A linear leaf gives its rows to the join by SQL, like the source of any stage; a grouped one, or a join, is a stage below.  Inner
 * joins are put in an order in which each has a condition of equality with what was joined before; outer joins stay where they are; EXISTS
 * and IN over a stream are joined last.  The level itself then reads one sub-select, the topmost join.
 *
 * A join's row is the columns of its left side, then those of its right side.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "query_private.h"
#include "stream.h"

#define REFUSE_NO_KEY "a join of streams without an equality between their columns"

typedef struct JoinTree JoinTree;

struct JoinTree
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
	JoinTree   *sides[2];
	List	   *conditions;		/* whether two rows match */
	List	   *filter;			/* on what comes out */
	/* once it is made */
	SckptQuery *first;			/* the stages below and its own */
	SckptQuery *stage;			/* its own, or the linear source */
	bool		linear;
};

typedef struct JoinContext
{
	Query	   *query;
	bool		final;
	SckptMakeLevel make;
	void	   *arg;
	Bitmapset  *over_stream;
} JoinContext;

static JoinTree *build(JoinContext *context, Node *node);

/* ---- What there is ---- */

static bool
find_stream_sublink(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink) && sckpt_query_reads_stream(castNode(Query, ((SubLink *) node)->subselect)))
		return true;
	return expression_tree_walker(node, find_stream_sublink, context);
}

bool
sckpt_join_is(Query *query)
{
	int			count = 0;
	ListCell   *lc;

	if (sckpt_union_is(query))
		return false;
	foreach(lc, query->rtable)
		count += sckpt_level_over_stream(lfirst(lc));
	return count > 1 || (count == 1 && query->hasSubLinks && find_stream_sublink(query->jointree->quals, NULL));
}

/* Its parts joined by AND, at any depth. */
static List *
conjuncts(Node *qual)
{
	List	   *result = NIL;
	ListCell   *lc;

	if (qual == NULL)
		return NIL;
	if (IsA(qual, List))
	{
		foreach(lc, (List *) qual)
			result = list_concat(result, conjuncts(lfirst(lc)));
		return result;
	}
	if (!is_andclause(qual))
		return list_make1(qual);
	foreach(lc, ((BoolExpr *) qual)->args)
		result = list_concat(result, conjuncts(lfirst(lc)));
	return result;
}

static Relids
relations_of(Node *node)
{
	return pull_varnos(NULL, node);
}

/* How many of the relations below an item of FROM read a stream. */
static int
count_streams_below(JoinContext *context, Node *node, Relids *relids)
{
	if (IsA(node, RangeTblRef))
	{
		int			index = ((RangeTblRef *) node)->rtindex;

		*relids = bms_add_member(*relids, index);
		return bms_is_member(index, context->over_stream);
	}
	return count_streams_below(context, ((JoinExpr *) node)->larg, relids) +
		count_streams_below(context, ((JoinExpr *) node)->rarg, relids);
}

/* ---- The tree ---- */

static JoinTree *
make_leaf(Node *item, Relids relids)
{
	JoinTree   *leaf = palloc0(sizeof(JoinTree));

	leaf->leaf = true;
	leaf->items = list_make1(item);
	leaf->relids = relids;
	return leaf;
}

static JoinTree *
make_join(JoinType type, JoinTree *left, JoinTree *right)
{
	JoinTree   *join = palloc0(sizeof(JoinTree));

	join->type = type;
	join->sides[0] = left;
	join->sides[1] = right;
	join->relids = bms_union(left->relids, right->relids);
	return join;
}

/* Put a condition on the tree's rows as far down as it may go. */
static void
place(JoinTree *tree, Node *qual)
{
	Relids		relids = relations_of(qual);

	if (tree->leaf)
	{
		tree->quals = lappend(tree->quals, qual);
		return;
	}
	if (!contain_volatile_functions(qual))
	{
		if ((tree->type == JOIN_INNER || tree->type == JOIN_LEFT || tree->type == JOIN_SEMI || tree->type == JOIN_ANTI) &&
			bms_is_subset(relids, tree->sides[0]->relids))
		{
			place(tree->sides[0], qual);
			return;
		}
		if ((tree->type == JOIN_INNER || tree->type == JOIN_RIGHT) && bms_is_subset(relids, tree->sides[1]->relids))
		{
			place(tree->sides[1], qual);
			return;
		}
	}
	if (tree->type == JOIN_INNER)
		tree->conditions = lappend(tree->conditions, qual);
	else
		tree->filter = lappend(tree->filter, qual);
}

/* The same for a condition of matching (ON). */
static void
place_condition(JoinTree *join, Node *qual)
{
	Relids		relids = relations_of(qual);

	if (join->type == JOIN_INNER)
		place(join, qual);
	else if (join->type != JOIN_FULL && join->type != JOIN_RIGHT && bms_is_subset(relids, join->sides[1]->relids))
		place(join->sides[1], qual);
	else if (join->type == JOIN_RIGHT && bms_is_subset(relids, join->sides[0]->relids))
		place(join->sides[0], qual);
	else
		join->conditions = lappend(join->conditions, qual);
}

/* Is it an equality of something of one side with something of the other, by which rows can be found? */
static bool
split_equality(Node *qual, Relids left, Relids right, Node **exprs, SckptKey *key)
{
	OpExpr	   *op = (OpExpr *) qual;
	Relids		relids[2];
	Oid			types[2];
	TypeCacheEntry *type;

	if (!IsA(qual, OpExpr) || list_length(op->args) != 2 || contain_volatile_functions(qual))
		return false;
	exprs[0] = linitial(op->args);
	exprs[1] = lsecond(op->args);
	for (int i = 0; i < 2; i++)
	{
		relids[i] = relations_of(exprs[i]);
		types[i] = getBaseType(exprType(exprs[i]));
		if (bms_is_empty(relids[i]))
			return false;
	}
	if (bms_is_subset(relids[0], right) && bms_is_subset(relids[1], left))
	{
		Node	   *swap = exprs[0];
		Oid			swap_type = types[0];

		exprs[0] = exprs[1];
		exprs[1] = swap;
		types[0] = types[1];
		types[1] = swap_type;
	}
	else if (!bms_is_subset(relids[0], left) || !bms_is_subset(relids[1], right))
		return false;
	if (!op_hashjoinable(op->opno, types[0]))
		return false;
	key->collation = op->inputcollid;
	key->typmod = -1;
	if (types[0] != types[1])
	{
		/* As the wider of both types, whose equality says the same. */
		int			to = can_coerce_type(1, &types[0], &types[1], COERCION_IMPLICIT) ? 1 : 0;
		Node	   *coerced;

		if (!can_coerce_type(1, &types[1 - to], &types[to], COERCION_IMPLICIT))
			return false;
		coerced = coerce_to_target_type(NULL, exprs[1 - to], exprType(exprs[1 - to]), types[to], -1, COERCION_IMPLICIT,
										COERCE_IMPLICIT_CAST, -1);
		if (coerced == NULL || contain_mutable_functions(coerced))
			return false;
		exprs[1 - to] = coerced;
		key->type = types[to];
	}
	else
		key->type = types[0];
	type = lookup_type_cache(key->type, TYPECACHE_EQ_OPR | TYPECACHE_HASH_PROC);
	if (!OidIsValid(type->eq_opr) || !OidIsValid(type->hash_proc))
		return false;
	key->eq_op = types[0] == types[1] ? op->opno : type->eq_opr;
	return true;
}

static bool
has_equality(List *quals, Relids left, Relids right)
{
	ListCell   *lc;

	foreach(lc, quals)
	{
		Node	   *exprs[2];
		SckptKey	key = {0};

		if (split_equality(lfirst(lc), left, right, exprs, &key))
			return true;
	}
	return false;
}


static Relids
lateral_of(JoinContext *context, Node *item)
{
	RangeTblEntry *rte;
	Relids		result = NULL;

	if (!IsA(item, RangeTblRef))
		return NULL;
	rte = rt_fetch(((RangeTblRef *) item)->rtindex, context->query->rtable);
	if (rte->rtekind == RTE_FUNCTION)
		result = relations_of((Node *) rte->functions);
	else if (rte->rtekind == RTE_VALUES)
		result = relations_of((Node *) rte->values_lists);
	else if (rte->rtekind == RTE_TABLEFUNC)
		result = relations_of((Node *) rte->tablefunc);
	else if (rte->rtekind == RTE_SUBQUERY && rte->lateral)
		result = pull_varnos_of_level(NULL, (Node *) rte->subquery, 1);
	return result;
}

/* Put an item without a stream to the leaf that it goes with. */
static void
attach_table(JoinContext *context, List *trees, Node *item, List *quals)
{
	Relids		own = NULL;
	Relids		lateral = lateral_of(context, item);
	JoinTree   *found = NULL;
	ListCell   *lt;
	ListCell   *lc;

	(void) count_streams_below(context, item, &own);
	foreach(lt, trees)
	{
		JoinTree   *tree = lfirst(lt);

		if (!tree->leaf)
			continue;
		if (lateral && bms_is_subset(lateral, tree->relids))
			found = tree;
		foreach(lc, quals)
		{
			Relids		relids = relations_of(lfirst(lc));

			if (found == NULL && lateral == NULL && bms_overlap(relids, own) && bms_overlap(relids, tree->relids) &&
				bms_is_subset(relids, bms_union(own, tree->relids)))
				found = tree;
		}
		if (found)
			break;
	}
	if (found == NULL && lateral != NULL)
		sckpt_query_refuse("LATERAL over several streams", "Let it depend on one of the streams, or on none.");
	if (found == NULL)
	{
		foreach(lt, trees)
		{
			if (found == NULL && ((JoinTree *) lfirst(lt))->leaf)
				found = lfirst(lt);
		}
	}
	if (found == NULL)
		sckpt_query_refuse("a table joined with a join of streams", "Join it with one of the streams, in a sub-select.");
	found->items = lappend(found->items, item);
	found->relids = bms_union(found->relids, own);
}

/*
 * LEFT JOIN of a table to a join of streams: to the leaf that its condition is about, if no join fills that up with NULLs.
 */
static bool
attach_optional(JoinTree *tree, JoinExpr *optional, Relids of, Relids own)
{
	bool		found = false;

	if (tree->leaf)
	{
		JoinExpr   *join;

		if (!bms_is_subset(of, tree->relids))
			return false;
		while (list_length(tree->items) > 1)
		{
			join = makeNode(JoinExpr);
			join->jointype = JOIN_INNER;
			join->larg = linitial(tree->items);
			join->rarg = lsecond(tree->items);
			tree->items = lcons(join, list_delete_first(list_delete_first(tree->items)));
		}
		join = copyObject(optional);
		join->larg = linitial(tree->items);
		tree->items = list_make1(join);
		found = true;
	}
	else
	{
		if (tree->type != JOIN_RIGHT && tree->type != JOIN_FULL)
			found = attach_optional(tree->sides[0], optional, of, own);
		if (!found && (tree->type == JOIN_INNER || tree->type == JOIN_RIGHT))
			found = attach_optional(tree->sides[1], optional, of, own);
	}
	if (found)
		tree->relids = bms_union(tree->relids, own);
	return found;
}

/* Inner joins: items of FROM and the conditions over them. */
static JoinTree *
build_inner(JoinContext *context, List *items, List *quals)
{
	List	   *trees = NIL;
	List	   *tables = NIL;
	JoinTree   *result;
	ListCell   *lc;

	foreach(lc, items)
	{
		Relids		relids = NULL;

		if (count_streams_below(context, lfirst(lc), &relids) == 0)
			tables = lappend(tables, lfirst(lc));
		else
			trees = lappend(trees, build(context, lfirst(lc)));
	}
	foreach(lc, tables)
		attach_table(context, trees, lfirst(lc), quals);
	result = linitial(trees);
	trees = list_delete_first(trees);
	while (trees != NIL)
	{
		JoinTree   *next = NULL;

		foreach(lc, trees)
		{
			if (next == NULL && has_equality(quals, result->relids, ((JoinTree *) lfirst(lc))->relids))
				next = lfirst(lc);
		}
		if (next == NULL)
			sckpt_query_refuse(REFUSE_NO_KEY, "Add a condition like a.key = b.key.");
		trees = list_delete_ptr(trees, next);
		result = make_join(JOIN_INNER, result, next);
	}
	foreach(lc, quals)
		place(result, lfirst(lc));
	return result;
}

/* The items and conditions of nested inner joins. */
static void
collect_inner(Node *node, List **items, List **quals)
{
	JoinExpr   *join = (JoinExpr *) node;

	if (!IsA(node, JoinExpr) || join->jointype != JOIN_INNER)
	{
		*items = lappend(*items, node);
		return;
	}
	collect_inner(join->larg, items, quals);
	collect_inner(join->rarg, items, quals);
	*quals = list_concat(*quals, conjuncts(join->quals));
}

static JoinTree *
build(JoinContext *context, Node *node)
{
	JoinExpr   *join = (JoinExpr *) node;
	Relids		relids = NULL;
	Relids		side = NULL;
	JoinTree   *result;
	List	   *items = NIL;
	List	   *quals = NIL;
	ListCell   *lc;

	check_stack_depth();
	if (count_streams_below(context, node, &relids) <= 1)
		return make_leaf(node, relids);
	if (join->jointype == JOIN_INNER)
	{
		collect_inner(node, &items, &quals);
		return build_inner(context, items, quals);
	}
	if (join->jointype == JOIN_LEFT && count_streams_below(context, join->rarg, &side) == 0)
	{
		Relids		of = bms_difference(relations_of(join->quals), side);

		result = build(context, join->larg);
		if (attach_optional(result, join, of, side))
			return result;
	}
	side = NULL;
	if (count_streams_below(context, join->larg, &side) == 0 || count_streams_below(context, join->rarg, &side) == 0)
		sckpt_query_refuse("an outer join of a table with a join of streams", "Join the table with one of the streams, in a sub-select.");
	result = make_join(join->jointype, build(context, join->larg), build(context, join->rarg));
	foreach(lc, conjuncts(join->quals))
		place_condition(result, lfirst(lc));
	return result;
}

/* ---- EXISTS and IN ---- */

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
static JoinTree *
join_sublink(JoinContext *context, JoinTree *tree, SubLink *sublink, bool negated)
{
	Query	   *query = context->query;
	Query	   *sub = copyObject(castNode(Query, sublink->subselect));
	List	   *quals = NIL;
	List	   *items = NIL;
	List	   *targets;
	List	   *inner = NIL;
	JoinTree   *right;
	JoinTree   *join;
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
			collect_inner(lfirst(lc), &items, &quals);
		quals = list_concat(quals, conjuncts(sub->jointree->quals));
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
			(void) count_streams_below(context, lfirst(lc), &relids);
		foreach(lc, quals)
		{
			if (bms_is_subset(relations_of(lfirst(lc)), relids))
				inner = lappend(inner, lfirst(lc));
		}
	}
	right = build_inner(context, items, inner);
	join = make_join(negated ? JOIN_ANTI : JOIN_SEMI, tree, right);
	foreach(lc, quals)
	{
		if (!list_member_ptr(inner, lfirst(lc)))
			place_condition(join, lfirst(lc));
	}
	if (sublink->subLinkType == ANY_SUBLINK)
	{
		foreach(lc, conjuncts(replace_params(sublink->testexpr, targets)))
			place_condition(join, lfirst(lc));
	}
	return join;
}

/* ---- Columns ---- */

static void
add_column(List **columns, Node *expr)
{
	if (!list_member(*columns, expr))
		*columns = lappend(*columns, copyObject(expr));
}

/* Of all the Vars in a node, those of a leaf become its columns. */
static void
need(JoinTree *tree, Node *node)
{
	ListCell   *lc;

	if (!tree->leaf)
	{
		need(tree->sides[0], node);
		need(tree->sides[1], node);
		return;
	}
	foreach(lc, pull_var_clause(node, PVC_RECURSE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS | PVC_RECURSE_PLACEHOLDERS))
	{
		Var		   *var = lfirst(lc);

		if (!bms_is_member(var->varno, tree->relids))
			continue;
		if (var->varattno < 0)
			sckpt_query_refuse("a system column in a join of streams", "Leave it out.");
		if (var->varattno == 0)
			sckpt_query_refuse("a whole row in a join of streams", "Name its columns.");
		var = copyObject(var);
		var->location = -1;
		add_column(&tree->columns, (Node *) var);
	}
}

static void
need_conditions(JoinTree *top, JoinTree *tree)
{
	if (tree->leaf)
		return;
	need(top, (Node *) tree->conditions);
	need(top, (Node *) tree->filter);
	need_conditions(top, tree->sides[0]);
	need_conditions(top, tree->sides[1]);
}

static int
column_number(List *columns, Node *expr)
{
	ListCell   *lc;

	foreach(lc, columns)
	{
		if (equal(lfirst(lc), expr))
			return foreach_current_index(lc) + 1;
	}
	return 0;
}

/* Rewrite an expression of the level to one over a row with these columns. */
typedef struct RowContext
{
	List	   *columns;
	int			varno;
} RowContext;

static Node *
over_row(Node *node, RowContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, SubLink))
		sckpt_query_refuse("a sub-select in a query over a join of streams", "Join the result with the table in a view.");
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == 0)
	{
		Var		   *var = (Var *) node;
		int			number = column_number(context->columns, node);

		if (number == 0)
			elog(ERROR, "column of a join not found");
		return (Node *) makeVar(context->varno, number, var->vartype, var->vartypmod, var->varcollid, 0);
	}
	return expression_tree_mutator(node, over_row, (void *) context);
}

/* ---- Stages ---- */

static void
make_leaf_stage(JoinContext *context, JoinTree *leaf)
{
	Query	   *query = copyObject(context->query);
	SckptQuery *last;
	int			index = 0;
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		index++;
		if (rte->rtekind == RTE_JOIN || bms_is_member(index, leaf->relids))
			continue;
		rte = makeNode(RangeTblEntry);
		rte->rtekind = RTE_RESULT;
		rte->eref = makeAlias("none", NIL);
		lfirst(lc) = rte;
	}
	if (leaf->columns == NIL)
		leaf->columns = list_make1(makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(1), false, true));
	query->targetList = NIL;
	foreach(lc, leaf->columns)
	{
		int			number = foreach_current_index(lc) + 1;

		query->targetList = lappend(query->targetList, makeTargetEntry(copyObject(lfirst(lc)), number, psprintf("j%d", number), false));
	}
	query->jointree = makeFromExpr(leaf->items, leaf->quals ? (Node *) make_ands_explicit(leaf->quals) : NULL);
	query->groupClause = NIL;
	query->groupingSets = NIL;
	query->havingQual = NULL;
	query->hasAggs = false;
	query->hasTargetSRFs = false;
	query->groupDistinct = false;
	query->hasSubLinks = checkExprHasSubLink((Node *) leaf->quals) || checkExprHasSubLink((Node *) leaf->items);
	query->sortClause = query->distinctClause = query->windowClause = NIL;
	query->hasDistinctOn = query->hasWindowFuncs = false;
	query->limitCount = query->limitOffset = NULL;
	query->limitOption = LIMIT_OPTION_COUNT;

	leaf->first = context->make(context->arg, query, leaf->time != NULL);
	last = sckpt_query_last(leaf->first);
	leaf->linear = !sckpt_query_stateful(last);
	leaf->stage = last;
}

/* ---- Times ---- */

/* The event time of a stream that is a leaf's. */
static Var *
event_time_of(JoinContext *context, JoinTree *leaf)
{
	ListCell   *lc;

	if (!leaf->leaf)
		return NULL;
	foreach(lc, leaf->items)
	{
		RangeTblRef *ref = lfirst(lc);
		RangeTblEntry *rte;
		AttrNumber	column;

		if (!IsA(ref, RangeTblRef) || !bms_is_member(ref->rtindex, context->over_stream))
			continue;
		rte = rt_fetch(ref->rtindex, context->query->rtable);
		if (rte->rtekind == RTE_RELATION && sckpt_catalog_is_stream(rte->relid) &&
			sckpt_stream_event_time(rte->relid, &column, NULL, NULL))
		{
			Oid			type;
			int32		typmod;
			Oid			collation;

			get_atttypetypmodcoll(rte->relid, column, &type, &typmod, &collation);
			return makeVar(ref->rtindex, column, type, typmod, collation, 0);
		}
	}
	return NULL;
}

/* An event time, and an interval added to it; days may be an hour longer or shorter than others. */
static bool
read_offset(Node *expr, Var *time, int64 *offset, int64 *slack)
{
	OpExpr	   *op = (OpExpr *) expr;
	Const	   *constant;
	Interval   *interval;
	char	   *name;
	int64		days;

	while (expr && IsA(expr, RelabelType))
		expr = (Node *) ((RelabelType *) expr)->arg;
	if (expr && IsA(expr, Var))
		return ((Var *) expr)->varno == time->varno && ((Var *) expr)->varattno == time->varattno;
	op = (OpExpr *) expr;
	if (expr == NULL || !IsA(expr, OpExpr) || list_length(op->args) != 2 || op->opno >= FirstNormalObjectId)
		return false;
	name = get_opname(op->opno);
	constant = (Const *) eval_const_expressions(NULL, lsecond(op->args));
	if (!IsA(constant, Const) || constant->consttype != INTERVALOID || constant->constisnull)
		return false;
	interval = DatumGetIntervalP(constant->constvalue);
	if (interval->month != 0 || (strcmp(name, "+") != 0 && strcmp(name, "-") != 0) ||
		pg_mul_s64_overflow(interval->day, USECS_PER_DAY, &days) || pg_add_s64_overflow(days, interval->time, &days) ||
		days > PG_INT64_MAX / 8 || days < -(PG_INT64_MAX / 8) || *offset > PG_INT64_MAX / 8 || *offset < -(PG_INT64_MAX / 8))
		return false;
	*offset += name[0] == '+' ? days : -days;
	*slack += interval->day != 0 ? USECS_PER_DAY : 0;
	return read_offset(linitial(op->args), time, offset, slack);
}

/*
 * How long after its event time a side's row can still match: from a condition that compares both event times.
 */
static void
read_bound(Node *qual, Var **times, bool *known, int64 *delay)
{
	OpExpr	   *op = (OpExpr *) qual;
	ListCell   *lc;

	if (!IsA(qual, OpExpr) || list_length(op->args) != 2)
		return;
	for (int left = 0; left < 2; left++)
	{
		int64		offsets[2] = {0, 0};
		int64		slack = 0;
		int64		difference;

		if (!read_offset(linitial(op->args), times[left], &offsets[0], &slack) ||
			!read_offset(lsecond(op->args), times[1 - left], &offsets[1], &slack))
			continue;

		/* `left` is on the operator's left: its time compared with the other's + difference */
		difference = offsets[1] - offsets[0];
		foreach(lc, get_op_btree_interpretation(op->opno))
		{
			int			strategy = sckpt_strategy_of(lfirst(lc));

			/* The other one comes at most so long before this one: it matches nothing so long after its time. */
			if (strategy == BTLessStrategyNumber || strategy == BTLessEqualStrategyNumber || strategy == BTEqualStrategyNumber)
			{
				delay[1 - left] = known[1 - left] ? Min(delay[1 - left], difference + slack) : difference + slack;
				known[1 - left] = true;
			}
			if (strategy == BTGreaterStrategyNumber || strategy == BTGreaterEqualStrategyNumber || strategy == BTEqualStrategyNumber)
			{
				delay[left] = known[left] ? Min(delay[left], slack - difference) : slack - difference;
				known[left] = true;
			}
		}
		return;
	}
}

/* Is it a time that a window over it is closed by? */
static bool
is_window_end(JoinTree *side, AttrNumber column, int64 *delay)
{
	Var		   *var = (Var *) list_nth_node(TargetEntry, side->stage->targetlist, column - 1)->expr;

	if (!IsA(var, Var))
		return false;
	if (side->linear)
	{
		for (int i = 0; i < side->stage->nwindows; i++)
		{
			SckptWindow *window = &side->stage->windows[i];

			if (window->end == var->varattno && window->closes && window->judges)
			{
				*delay = window->delay;
				return true;
			}
		}
	}
	else if (side->stage->grouped && var->varattno <= side->stage->nkeys)
	{
		SckptKey   *key = &side->stage->keys[var->varattno - 1];

		*delay = key->delay;
		return key->bound == SCKPT_BOUND_END && key->window != NULL;
	}
	return false;
}

static SckptQuery *
append_stages(SckptQuery *first, SckptQuery *more)
{
	if (first == NULL)
		return more;
	if (more)
		sckpt_query_last(first)->above = more;
	return first;
}

/* The column of a side with an expression; that a join puts out one more if need be. */
static int
side_column(JoinTree *side, Node *expr)
{
	int			number = column_number(side->columns, expr);
	RowContext	row = {side->columns, 1};

	if (number > 0)
		return number;
	Assert(!side->leaf);
	number = list_length(side->columns) + 1;
	side->stage->targetlist = lappend(side->stage->targetlist,
									  makeTargetEntry((Expr *) over_row(expr, &row), number, psprintf("j%d", number), false));
	side->columns = lappend(side->columns, expr);
	side->stage->result = ExecCleanTypeFromTL(side->stage->targetlist);
	return number;
}

static bool
side_retracts(JoinContext *context, JoinTree *side)
{
	return !side->linear && (side->stage->join ? side->stage->join->retracts : !context->final);
}

static void
make_join_stage(JoinContext *context, JoinTree *tree)
{
	SckptQuery *stage = palloc0(sizeof(SckptQuery));
	SckptJoin  *join = palloc0(sizeof(SckptJoin));
	List	   *residual = NIL;
	int			maxkeys = list_length(tree->conditions);
	RowContext	row = {NIL, 1};
	SckptLevel	level = {NULL};
	Var		   *times[2];
	bool		bounded[2] = {false, false};
	ListCell   *lc;

	join->type = tree->type;
	join->keys = palloc0(Max(1, maxkeys) * sizeof(SckptKey));
	for (int side = 0; side < 2; side++)
		join->columns[side] = palloc0(Max(1, maxkeys) * sizeof(AttrNumber));

	/* Keys of a leaf are columns that its SQL computes: before that is made. */
	foreach(lc, tree->conditions)
	{
		Node	   *exprs[2];
		SckptKey	key = {0};

		if (!split_equality(lfirst(lc), tree->sides[0]->relids, tree->sides[1]->relids, exprs, &key))
		{
			residual = lappend(residual, lfirst(lc));
			continue;
		}
		for (int side = 0; side < 2; side++)
		{
			if (tree->sides[side]->leaf)
				add_column(&tree->sides[side]->columns, exprs[side]);
		}
	}
	times[0] = event_time_of(context, tree->sides[0]);
	times[1] = event_time_of(context, tree->sides[1]);
	foreach(lc, tree->conditions)
	{
		if (times[0] && times[1])
			read_bound(lfirst(lc), times, bounded, join->delay);
	}
	for (int side = 0; side < 2; side++)
	{
		JoinTree   *child = tree->sides[side];

		if (bounded[0] || bounded[1])
		{
			child->time = times[side];
			add_column(&child->columns, (Node *) times[side]);
		}
		if (tree->sides[side]->leaf)
			make_leaf_stage(context, tree->sides[side]);
		else
			make_join_stage(context, tree->sides[side]);
	}
	foreach(lc, tree->conditions)
	{
		Node	   *exprs[2];

		if (list_member_ptr(residual, lfirst(lc)) ||
			!split_equality(lfirst(lc), tree->sides[0]->relids, tree->sides[1]->relids, exprs, &join->keys[join->nkeys]))
			continue;
		for (int side = 0; side < 2; side++)
			join->columns[side][join->nkeys] = side_column(tree->sides[side], exprs[side]);
		join->nkeys++;
	}
	if (join->nkeys == 0)
		sckpt_query_refuse(REFUSE_NO_KEY, "Add a condition like a.key = b.key.");

	/* What frees its rows: times that are near each other, or the same window.  Rows must not come late that would match. */
	for (int side = 0; side < 2; side++)
	{
		JoinTree   *child = tree->sides[side];

		if (child->time && child->linear && child->stage->row)
			join->judged[side] = column_number(child->columns, (Node *) child->time);
	}
	for (int side = 0; side < 2; side++)
	{
		if (bounded[side] && join->judged[0] && join->judged[1])
			join->due[side] = join->judged[side];
	}
	if (join->judged[0] == 0 || join->judged[1] == 0)
		join->judged[0] = join->judged[1] = 0;
	for (int i = 0; i < join->nkeys && join->due[0] == 0 && join->due[1] == 0; i++)
	{
		if (!is_window_end(tree->sides[0], join->columns[0][i], &join->delay[0]) ||
			!is_window_end(tree->sides[1], join->columns[1][i], &join->delay[1]))
			continue;
		join->due[0] = join->columns[0][i];
		join->due[1] = join->columns[1][i];
		join->window = true;

		/* One of them may close later. */
		join->delay[0] = join->delay[1] = Max(join->delay[0], join->delay[1]);
	}

	/* Its row, and what it is in words. */
	tree->columns = list_concat_copy(tree->sides[0]->columns, tree->sides[1]->columns);
	row.columns = tree->columns;
	join->names = palloc(Max(1, list_length(tree->columns)) * sizeof(char *));
	level.query = context->query;
	foreach(lc, tree->columns)
	{
		int			number = foreach_current_index(lc);
		Node	   *expr = lfirst(lc);

		join->names[number] = sckpt_level_canonical(&level, expr);
		stage->targetlist = lappend(stage->targetlist,
									makeTargetEntry((Expr *) makeVar(1, number + 1, exprType(expr), exprTypmod(expr), exprCollation(expr), 0),
													number + 1, psprintf("j%d", number + 1), false));
	}
	join->condition = residual ? over_row((Node *) make_ands_explicit(residual), &row) : NULL;
	join->canonical = residual ? sckpt_level_canonical(&level, (Node *) make_ands_explicit(residual)) : "";
	stage->having = tree->filter ? over_row((Node *) make_ands_explicit(tree->filter), &row) : NULL;
	sckpt_query_refuse_clock(join->condition, "the condition of a join of streams");
	sckpt_query_refuse_clock(stage->having, "WHERE");
	if (contain_volatile_functions(join->condition) || contain_volatile_functions(stage->having) ||
		sckpt_level_looks_up(join->condition, NULL) || sckpt_level_looks_up(stage->having, NULL))
		sckpt_query_refuse("a function that is not immutable in a condition over several streams", "Use it in a query over the result table.");
	stage->join = join;
	stage->result = ExecCleanTypeFromTL(stage->targetlist);
	join->retracts = tree->type != JOIN_INNER;
	for (int side = 0; side < 2; side++)
	{
		JoinTree   *child = tree->sides[side];

		join->changes[side] = side_retracts(context, child);
		join->retracts |= join->changes[side];
		join->leaf[side] = child->linear ? child->stage : NULL;
		join->rows[side] = child->linear ? ExecCleanTypeFromTL(child->stage->targetlist) : child->stage->result;
		if (!child->linear)
		{
			child->stage->target = stage;
			child->stage->side = side;
			tree->first = append_stages(tree->first, child->first);
		}
	}

	/* Without NULLs to come, and nothing taken back, EXISTS only ever becomes true. */
	if (tree->type == JOIN_SEMI && !join->changes[0] && !join->changes[1])
		join->retracts = false;
	tree->first = append_stages(tree->first, stage);
	tree->stage = stage;
}

SckptQuery *
sckpt_join_make(Query *query, bool final, SckptMakeLevel make, void *arg)
{
	JoinContext context = {query, final, make, arg, NULL};
	List	   *items = NIL;
	List	   *quals = NIL;
	List	   *sublinks = NIL;
	JoinTree   *top;
	RangeTblEntry *rte;
	RangeTblRef *ref;
	Query	   *inner;
	RowContext	row;
	ListCell   *lc;

	sckpt_level_flatten_join_aliases(query);
	for (int i = 1; i <= list_length(query->rtable); i++)
	{
		rte = rt_fetch(i, query->rtable);
		if (!sckpt_level_over_stream(rte))
			continue;
		context.over_stream = bms_add_member(context.over_stream, i);
		if (rte->rtekind == RTE_SUBQUERY && rte->lateral && contain_vars_of_level((Node *) rte->subquery, 1))
			sckpt_query_refuse("a LATERAL sub-select over a stream in a join of streams", "Move its condition to WHERE.");
		if (rte->tablesample)
			sckpt_query_refuse("TABLESAMPLE on a stream", "Use WHERE random() < fraction.");
	}
	sckpt_query_refuse_system_columns(query);
	sckpt_forget_nulling(query);
	foreach(lc, query->jointree->fromlist)
		collect_inner(lfirst(lc), &items, &quals);
	quals = list_concat(quals, conjuncts(query->jointree->quals));
	foreach(lc, quals)
	{
		sckpt_query_refuse_clock(lfirst(lc), "WHERE");
		if (find_stream_sublink(lfirst(lc), NULL))
			sublinks = lappend(sublinks, lfirst(lc));
	}
	foreach(lc, sublinks)
		quals = list_delete_ptr(quals, lfirst(lc));
	top = build_inner(&context, items, quals);
	foreach(lc, sublinks)
	{
		Node	   *node = lfirst(lc);
		bool		negated = is_notclause(node);

		if (negated)
			node = (Node *) get_notclausearg((Expr *) node);
		if (!IsA(node, SubLink))
			sckpt_query_refuse("EXISTS or IN over a stream inside another condition", "Make it a condition of its own, joined by AND.");
		top = join_sublink(&context, top, (SubLink *) node, negated);
	}
	if (top->leaf)
		elog(ERROR, "a join of one stream");

	need(top, (Node *) query->targetList);
	need(top, query->havingQual);
	need_conditions(top, top);
	make_join_stage(&context, top);

	/* From here on the level reads one sub-select. */
	inner = makeNode(Query);
	inner->commandType = CMD_SELECT;
	inner->canSetTag = true;
	inner->targetList = copyObject(top->stage->targetlist);
	inner->jointree = makeFromExpr(NIL, NULL);
	rte = makeNode(RangeTblEntry);
	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = inner;
	rte->eref = makeAlias("joined", NIL);
	rte->inFromCl = true;
	foreach(lc, inner->targetList)
		rte->eref->colnames = lappend(rte->eref->colnames, makeString(lfirst_node(TargetEntry, lc)->resname));
	row = (RowContext)
	{
		top->columns, 1
	};
	query->targetList = (List *) over_row((Node *) query->targetList, &row);
	query->havingQual = over_row(query->havingQual, &row);
	query->rtable = list_make1(rte);
	ref = makeNode(RangeTblRef);
	ref->rtindex = 1;
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	query->hasSubLinks = false;
	return top->first;
}
