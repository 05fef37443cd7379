/*-------------------------------------------------------------------------
 *
 * query_join_tree.c
 *		The tree of joins of a query level that reads several streams.
 *
 * What reads a stream in FROM, with the tables and functions that belong to it, is a leaf.  Inner joins are put in an order in which each has a
 * condition of equality with what was joined before; outer joins stay where they are.  Conditions go as far down as they may.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "query_join_private.h"

static SckptJoinTree *build(SckptJoinContext *context, Node *node);

/* ---- What there is ---- */

bool
sckpt_join_is(Query *query)
{
	int			count = 0;
	ListCell   *lc;

	if (sckpt_union_is(query))
		return false;
	foreach(lc, query->rtable)
		count += sckpt_level_over_stream(lfirst(lc));
	return count > 1 || (count == 1 && sckpt_sublink_in_level(query));
}

/* Its parts joined by AND, at any depth. */
List *
sckpt_join_conjuncts(Node *qual)
{
	List	   *result = NIL;
	ListCell   *lc;

	if (qual == NULL)
		return NIL;
	if (IsA(qual, List))
	{
		foreach(lc, (List *) qual)
			result = list_concat(result, sckpt_join_conjuncts(lfirst(lc)));
		return result;
	}
	if (!is_andclause(qual))
		return list_make1(qual);
	foreach(lc, ((BoolExpr *) qual)->args)
		result = list_concat(result, sckpt_join_conjuncts(lfirst(lc)));
	return result;
}

Relids
sckpt_join_relations(Node *node)
{
	return pull_varnos(NULL, node);
}

/* How many of the relations below an item of FROM read a stream. */
int
sckpt_join_count_streams(SckptJoinContext *context, Node *node, Relids *relids)
{
	if (IsA(node, RangeTblRef))
	{
		int			index = ((RangeTblRef *) node)->rtindex;

		*relids = bms_add_member(*relids, index);
		return bms_is_member(index, context->over_stream);
	}
	return sckpt_join_count_streams(context, ((JoinExpr *) node)->larg, relids) +
		sckpt_join_count_streams(context, ((JoinExpr *) node)->rarg, relids);
}

/* ---- The tree ---- */

static SckptJoinTree *
make_leaf(Node *item, Relids relids)
{
	SckptJoinTree *leaf = palloc0(sizeof(SckptJoinTree));

	leaf->leaf = true;
	leaf->items = list_make1(item);
	leaf->relids = relids;
	return leaf;
}

SckptJoinTree *
sckpt_join_pair(JoinType type, SckptJoinTree *left, SckptJoinTree *right)
{
	SckptJoinTree *join = palloc0(sizeof(SckptJoinTree));

	join->type = type;
	join->sides[0] = left;
	join->sides[1] = right;
	join->relids = bms_union(left->relids, right->relids);
	return join;
}

/* Put a condition on the tree's rows as far down as it may go. */
void
sckpt_join_restrict(SckptJoinTree *tree, Node *qual)
{
	Relids		relids = sckpt_join_relations(qual);

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
			sckpt_join_restrict(tree->sides[0], qual);
			return;
		}
		if ((tree->type == JOIN_INNER || tree->type == JOIN_RIGHT) && bms_is_subset(relids, tree->sides[1]->relids))
		{
			sckpt_join_restrict(tree->sides[1], qual);
			return;
		}
	}
	if (tree->type == JOIN_INNER)
		tree->conditions = lappend(tree->conditions, qual);
	else
		tree->filter = lappend(tree->filter, qual);
}

/* The same for a condition of matching (ON). */
void
sckpt_join_place(SckptJoinTree *join, Node *qual)
{
	Relids		relids = sckpt_join_relations(qual);

	if (join->type == JOIN_INNER)
		sckpt_join_restrict(join, qual);
	else if (join->type != JOIN_FULL && join->type != JOIN_RIGHT && bms_is_subset(relids, join->sides[1]->relids))
		sckpt_join_restrict(join->sides[1], qual);
	else if (join->type == JOIN_RIGHT && bms_is_subset(relids, join->sides[0]->relids))
		sckpt_join_restrict(join->sides[0], qual);
	else
		join->conditions = lappend(join->conditions, qual);
}

/* Is it an equality of something of one side with something of the other, by which rows can be found? */
bool
sckpt_join_split_equality(Node *qual, Relids left, Relids right, Node **exprs, SckptKey *key)
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
		relids[i] = sckpt_join_relations(exprs[i]);
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

		if (sckpt_join_split_equality(lfirst(lc), left, right, exprs, &key))
			return true;
	}
	return false;
}

static Relids
lateral_of(SckptJoinContext *context, Node *item)
{
	RangeTblEntry *rte;
	Relids		result = NULL;

	if (!IsA(item, RangeTblRef))
		return NULL;
	rte = rt_fetch(((RangeTblRef *) item)->rtindex, context->query->rtable);
	if (rte->rtekind == RTE_FUNCTION)
		result = sckpt_join_relations((Node *) rte->functions);
	else if (rte->rtekind == RTE_VALUES)
		result = sckpt_join_relations((Node *) rte->values_lists);
	else if (rte->rtekind == RTE_TABLEFUNC)
		result = sckpt_join_relations((Node *) rte->tablefunc);
	else if (rte->rtekind == RTE_SUBQUERY && rte->lateral)
		result = pull_varnos_of_level(NULL, (Node *) rte->subquery, 1);
	return result;
}

/* Put an item without a stream to the leaf that it goes with; false: there is none. */
static bool
attach_table(SckptJoinContext *context, List *trees, Node *item, List *quals, bool outermost)
{
	Relids		own = NULL;
	Relids		lateral = lateral_of(context, item);
	SckptJoinTree *found = NULL;
	bool		elsewhere = false;
	ListCell   *lt;
	ListCell   *lc;

	(void) sckpt_join_count_streams(context, item, &own);
	foreach(lt, trees)
	{
		SckptJoinTree *tree = lfirst(lt);

		foreach(lc, quals)
		{
			Relids		relids = sckpt_join_relations(lfirst(lc));

			elsewhere |= outermost && bms_overlap(relids, own) && bms_overlap(relids, tree->relids);
		}
		if (!tree->leaf)
			continue;
		if (lateral && bms_is_subset(lateral, tree->relids))
			found = tree;
		foreach(lc, quals)
		{
			Relids		relids = sckpt_join_relations(lfirst(lc));

			if (found == NULL && lateral == NULL && bms_overlap(relids, own) && bms_overlap(relids, tree->relids) &&
				bms_is_subset(relids, bms_union(own, tree->relids)))
				found = tree;
		}
		if (found)
			break;
	}
	if (found == NULL && lateral == NULL && !elsewhere)
	{
		foreach(lt, trees)
		{
			if (found == NULL && ((SckptJoinTree *) lfirst(lt))->leaf)
				found = lfirst(lt);
		}
	}
	if (found == NULL)
		return false;
	found->items = lappend(found->items, item);
	found->relids = bms_union(found->relids, own);
	return true;
}

/*
 * LEFT JOIN of a table to a join of streams: to the leaf that its condition is about, if no join fills that up with NULLs.
 */
static bool
attach_optional(SckptJoinTree *tree, JoinExpr *optional, Relids of, Relids own)
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
SckptJoinTree *
sckpt_join_build(SckptJoinContext *context, List *items, List *quals)
{
	List	   *trees = NIL;
	List	   *tables = NIL;
	SckptJoinTree *result = NULL;
	SckptJoinTree *part = NULL;
	ListCell   *lc;

	foreach(lc, items)
	{
		Relids		relids = NULL;

		if (sckpt_join_count_streams(context, lfirst(lc), &relids) == 0)
			tables = lappend(tables, lfirst(lc));
		else
			trees = lappend(trees, build(context, lfirst(lc)));
	}
	foreach(lc, tables)
	{
		if (attach_table(context, trees, lfirst(lc), quals, items == context->items))
			continue;
		if (items != context->items)
			sckpt_query_refuse("a table joined with several streams on a side of an outer join", "Join it in a sub-select.");
		context->tables = lappend(context->tables, lfirst(lc));
		(void) sckpt_join_count_streams(context, lfirst(lc), &context->looked_up);
	}

	/* What equalities hold together first; then what has none is joined with it, row by row. */
	while (trees != NIL)
	{
		SckptJoinTree *next = NULL;

		foreach(lc, trees)
		{
			if (next == NULL && (part == NULL || has_equality(quals, part->relids, ((SckptJoinTree *) lfirst(lc))->relids)))
				next = lfirst(lc);
		}
		if (next)
		{
			trees = list_delete_ptr(trees, next);
			part = part ? sckpt_join_pair(JOIN_INNER, part, next) : next;
		}
		if (next == NULL || trees == NIL)
		{
			result = result ? sckpt_join_pair(JOIN_INNER, result, part) : part;
			part = NULL;
		}
	}
	foreach(lc, quals)
	{
		if (bms_overlap(sckpt_join_relations(lfirst(lc)), context->looked_up))
			context->later = lappend(context->later, lfirst(lc));
		else
			sckpt_join_restrict(result, lfirst(lc));
	}
	return result;
}

/* The items and conditions of nested inner joins. */
void
sckpt_join_collect(Node *node, List **items, List **quals)
{
	JoinExpr   *join = (JoinExpr *) node;

	if (!IsA(node, JoinExpr) || join->jointype != JOIN_INNER)
	{
		*items = lappend(*items, node);
		return;
	}
	sckpt_join_collect(join->larg, items, quals);
	sckpt_join_collect(join->rarg, items, quals);
	*quals = list_concat(*quals, sckpt_join_conjuncts(join->quals));
}

static SckptJoinTree *
build(SckptJoinContext *context, Node *node)
{
	JoinExpr   *join = (JoinExpr *) node;
	Relids		relids = NULL;
	Relids		side = NULL;
	SckptJoinTree *result;
	List	   *items = NIL;
	List	   *quals = NIL;
	ListCell   *lc;

	check_stack_depth();
	if (sckpt_join_count_streams(context, node, &relids) <= 1)
		return make_leaf(node, relids);
	if (join->jointype == JOIN_INNER)
	{
		sckpt_join_collect(node, &items, &quals);
		return sckpt_join_build(context, items, quals);
	}
	if (join->jointype == JOIN_LEFT && sckpt_join_count_streams(context, join->rarg, &side) == 0)
	{
		Relids		of = bms_difference(sckpt_join_relations(join->quals), side);
		bool		top = list_member_ptr(context->tops, node);

		if (top)
			context->tops = lappend(context->tops, join->larg);
		result = build(context, join->larg);
		if (attach_optional(result, join, of, side))
			return result;
		if (top)
		{
			join = copyObject(join);
			join->larg = NULL;
			context->optional = lappend(context->optional, join);
			context->looked_up = bms_union(context->looked_up, side);
			return result;
		}
	}
	side = NULL;
	if (sckpt_join_count_streams(context, join->larg, &side) == 0 || sckpt_join_count_streams(context, join->rarg, &side) == 0)
		sckpt_query_refuse("an outer join of a table with a join of streams", "Join the table with one of the streams, in a sub-select.");
	result = sckpt_join_pair(join->jointype, build(context, join->larg), build(context, join->rarg));
	foreach(lc, sckpt_join_conjuncts(join->quals))
		sckpt_join_place(result, lfirst(lc));
	return result;
}
