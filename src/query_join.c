/*-------------------------------------------------------------------------
 *
 * query_join.c
 *		Joins of streams: makes stages of a query level that reads several of them.
 *
 * The level becomes a tree of joins (query_join_tree.c, query_sublink.c).  A leaf is a query of its own, with the conditions that are about it alone.  A
 * linear leaf gives its rows to the join by SQL, like the source of any stage; a grouped one, or a join, is a stage below.  EXISTS and IN over a
 * stream are joined last.  The level itself then reads one sub-select, the topmost join.
 *
 * A join's row is the columns of its left side, then those of its right side.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"

#include "catalog.h"
#include "query_join_private.h"

/* ---- Columns ---- */

static void
add_column(List **columns, Node *expr)
{
	if (!list_member(*columns, expr))
		*columns = lappend(*columns, copyObject(expr));
}

/* Of all the Vars in a node, those of a leaf become its columns. */
static void
need(SckptJoinTree *tree, Node *node)
{
	ListCell   *lc;

	if (!tree->leaf)
	{
		need(tree->sides[0], node);
		need(tree->sides[1], node);
		return;
	}
	foreach(lc, pull_vars_of_level(node, 0))
	{
		Var		   *var = lfirst(lc);

		if (!bms_is_member(var->varno, tree->relids))
			continue;
		if (var->varattno < 0)
			sckpt_query_refuse("a system column in a join of streams", "Leave it out.");
		if (var->varattno == 0)
			sckpt_query_refuse("a whole row in a join of streams", "Name its columns.");
		var = copyObject(var);
		var->varlevelsup = 0;
		var->location = -1;
		add_column(&tree->columns, (Node *) var);
	}
}

static void
need_conditions(SckptJoinTree *top, SckptJoinTree *tree)
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
	Relids		others;			/* relations that stay beside it */
	int			sublevels_up;	/* in a sub-select, so far down */
} RowContext;

static Node *
over_row(Node *node, RowContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
	{
		Query	   *query;

		context->sublevels_up++;
		query = query_tree_mutator((Query *) node, over_row, context, 0);
		context->sublevels_up--;
		return (Node *) query;
	}
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == context->sublevels_up)
	{
		Var		   *var = copyObject((Var *) node);
		int			number;

		if (bms_is_member(var->varno, context->others))
			return (Node *) var;
		var->varlevelsup = 0;
		number = column_number(context->columns, (Node *) var);
		if (number == 0)
			elog(ERROR, "column of a join not found");
		return (Node *) makeVar(context->varno, number, var->vartype, var->vartypmod, var->varcollid, context->sublevels_up);
	}
	return expression_tree_mutator(node, over_row, (void *) context);
}
/* ---- Stages ---- */

static void
make_leaf_stage(SckptJoinContext *context, SckptJoinTree *leaf)
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
side_column(SckptJoinTree *side, Node *expr, bool final)
{
	int			number = column_number(side->columns, expr);
	RowContext	row = {side->columns, 1, NULL, 0};

	if (number > 0)
		return number;
	Assert(!side->leaf);
	if (sckpt_settle_needed(side->stage, expr))
		side->stage = sckpt_settle_above(side->stage, final);
	number = list_length(side->columns) + 1;
	side->stage->targetlist = lappend(side->stage->targetlist,
									  makeTargetEntry((Expr *) over_row(expr, &row), number, psprintf("j%d", number), false));
	side->columns = lappend(side->columns, expr);
	side->stage->result = ExecCleanTypeFromTL(side->stage->targetlist);
	return number;
}

static bool
side_retracts(SckptJoinContext *context, SckptJoinTree *side)
{
	return !side->linear && (side->stage->join ? side->stage->join->retracts : !context->final);
}

/* Give a join the conditions on its rows; what of them, and of an inner join's condition, can fail waits for rows that stay.  Returns the stage that has them. */
static SckptQuery *
settle(SckptJoinContext *context, SckptQuery *stage, List *filter)
{
	List	   *now = NIL;
	List	   *later = NIL;
	ListCell   *lc;

	if (stage->join->type == JOIN_INNER && sckpt_settle_needed(stage, stage->join->condition))
	{
		filter = list_concat(make_ands_implicit((Expr *) stage->join->condition), filter);
		stage->join->condition = NULL;
		stage->join->canonical = "";
	}
	foreach(lc, filter)
	{
		if (sckpt_settle_needed(stage, lfirst(lc)))
			later = lappend(later, lfirst(lc));
		else
			now = lappend(now, lfirst(lc));
	}
	stage->having = now ? (Node *) make_ands_explicit(now) : NULL;
	if (later)
	{
		stage = sckpt_settle_above(stage, context->final);
		stage->having = (Node *) make_ands_explicit(later);
	}
	return stage;
}

static void
make_join_stage(SckptJoinContext *context, SckptJoinTree *tree)
{
	SckptQuery *stage = palloc0(sizeof(SckptQuery));
	SckptJoin  *join = palloc0(sizeof(SckptJoin));
	List	   *residual = NIL;
	List	   *filter;
	int			maxkeys = list_length(tree->conditions);
	RowContext	row = {NIL, 1, NULL, 0};
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

		if (!sckpt_join_split_equality(lfirst(lc), tree->sides[0]->relids, tree->sides[1]->relids, exprs, &key))
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
	if (tree->mark && tree->sides[1]->leaf)
		add_column(&tree->sides[1]->columns, makeBoolConst(true, false));
	times[0] = sckpt_join_event_time(context, tree->sides[0]);
	times[1] = sckpt_join_event_time(context, tree->sides[1]);
	foreach(lc, tree->conditions)
	{
		if (times[0] && times[1])
			sckpt_join_read_bound(lfirst(lc), times, bounded, join->delay);
	}
	for (int side = 0; side < 2; side++)
	{
		SckptJoinTree *child = tree->sides[side];

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
			!sckpt_join_split_equality(lfirst(lc), tree->sides[0]->relids, tree->sides[1]->relids, exprs, &join->keys[join->nkeys]))
			continue;
		for (int side = 0; side < 2; side++)
			join->columns[side][join->nkeys] = side_column(tree->sides[side], exprs[side], context->final);
		join->nkeys++;
	}

	/* What frees its rows: times that are near each other, or the same window.  Rows must not come late that would match. */
	for (int side = 0; side < 2; side++)
	{
		SckptJoinTree *child = tree->sides[side];

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
		if (!sckpt_join_is_window_end(tree->sides[0], join->columns[0][i], &join->delay[0]) ||
			!sckpt_join_is_window_end(tree->sides[1], join->columns[1][i], &join->delay[1]))
			continue;
		join->due[0] = join->columns[0][i];
		join->due[1] = join->columns[1][i];
		join->window = true;

		/* One of them may close later. */
		join->delay[0] = join->delay[1] = Max(join->delay[0], join->delay[1]);
	}

	/* Its row, and what it is in words. */
	if (tree->mark)
		join->mark = side_column(tree->sides[1], makeBoolConst(true, false), context->final);
	tree->columns = list_concat_copy(tree->sides[0]->columns, tree->sides[1]->columns);
	if (tree->mark)
		lfirst(list_nth_cell(tree->columns, list_length(tree->sides[0]->columns) + join->mark - 1)) = tree->mark;
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
	if (checkExprHasSubLink((Node *) residual) || checkExprHasSubLink((Node *) tree->filter))
		sckpt_query_refuse("a sub-select over tables in a condition over several streams", "Use it in WHERE of the whole query, or join the table.");
	join->condition = residual ? over_row((Node *) make_ands_explicit(residual), &row) : NULL;
	join->canonical = residual ? sckpt_level_canonical(&level, (Node *) make_ands_explicit(residual)) : "";
	filter = (List *) over_row((Node *) tree->filter, &row);
	sckpt_query_refuse_clock(join->condition, "the condition of a join of streams");
	sckpt_query_refuse_clock((Node *) filter, "WHERE");
	if (contain_volatile_functions(join->condition) || contain_volatile_functions((Node *) filter) ||
		sckpt_level_looks_up(join->condition, NULL) || sckpt_level_looks_up((Node *) filter, NULL))
		sckpt_query_refuse("a function that is not immutable in a condition over several streams", "Use it in a query over the result table.");
	stage->join = join;
	stage->result = ExecCleanTypeFromTL(stage->targetlist);
	join->retracts = tree->type != JOIN_INNER;
	for (int side = 0; side < 2; side++)
	{
		SckptJoinTree *child = tree->sides[side];

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
	tree->stage = settle(context, stage, filter);
}

/* ---- What is looked up for joined rows ---- */

/*
 * Conditions of WHERE that look into tables, or are not immutable, and that no item of FROM with one stream at most can have: they wait for
 * the joined rows.
 */
static List *
take_later(SckptJoinContext *context, List *items, List **quals)
{
	List	   *later = NIL;
	List	   *now = NIL;
	ListCell   *lc;
	ListCell   *li;

	foreach(lc, *quals)
	{
		Node	   *qual = lfirst(lc);
		Relids		relids = sckpt_join_relations(qual);
		Relids		streams = NULL;

		foreach(li, items)
		{
			Relids		own = NULL;
			int			count = sckpt_join_count_streams(context, lfirst(li), &own);

			if (count > 0 && bms_overlap(own, relids))
				streams = bms_add_member(streams, count > 1 ? 0 : foreach_current_index(li) + 1);
		}
		if ((checkExprHasSubLink(qual) || contain_volatile_functions(qual) || sckpt_level_looks_up(qual, NULL)) &&
			(bms_is_member(0, streams) || bms_num_members(streams) > 1))
			later = lappend(later, qual);
		else
			now = lappend(now, qual);
	}
	*quals = now;
	return later;
}

/* Does a sub-select over a stream name what is looked up only later? */
static bool
sublink_reads(Node *node, SckptJoinContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink) && sckpt_sublink_find(node, NULL))
		return bms_overlap(sckpt_join_relations(node), context->looked_up);
	return expression_tree_walker(node, sublink_reads, context);
}

static void
need_of_relation(SckptJoinTree *top, RangeTblEntry *rte)
{
	ListCell   *lc;

	need(top, (Node *) rte->functions);
	need(top, (Node *) rte->values_lists);
	need(top, (Node *) rte->tablefunc);
	foreach(lc, rte->rtekind == RTE_SUBQUERY ? pull_vars_of_level((Node *) rte->subquery, 1) : NIL)
	{
		Var		   *var = copyObject(lfirst_node(Var, lc));

		var->varlevelsup = 0;
		need(top, (Node *) var);
	}
}

/* The same entry, over the joined row. */
static void
range_over_row(RangeTblEntry *rte, RowContext *row)
{
	rte->functions = (List *) over_row((Node *) rte->functions, row);
	rte->values_lists = (List *) over_row((Node *) rte->values_lists, row);
	rte->tablefunc = (TableFunc *) over_row((Node *) rte->tablefunc, row);
	if (rte->rtekind == RTE_SUBQUERY)
		rte->subquery = (Query *) over_row((Node *) rte->subquery, row);
}

/* LEFT JOINs of tables to an item, in their order, the first one innermost. */
static Node *
put_optional(Node *item, List *joins)
{
	ListCell   *lc;

	foreach(lc, joins)
	{
		lfirst_node(JoinExpr, lc)->larg = item;
		item = lfirst(lc);
	}
	return item;
}

SckptQuery *
sckpt_join_make(Query *query, bool final, int *below, SckptMakeLevel make, void *arg)
{
	SckptJoinContext context = {.query = query, .final = final, .make = make, .arg = arg};
	List	   *items = NIL;
	List	   *quals = NIL;
	List	   *sublinks = NIL;
	SckptJoinTree *top;
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
		sckpt_join_collect(lfirst(lc), &items, &quals);
	quals = list_concat(quals, sckpt_join_conjuncts(query->jointree->quals));
	foreach(lc, quals)
	{
		sckpt_query_refuse_clock(lfirst(lc), "WHERE");
		if (sckpt_sublink_find(lfirst(lc), NULL))
			sublinks = lappend(sublinks, lfirst(lc));
	}
	foreach(lc, sublinks)
		quals = list_delete_ptr(quals, lfirst(lc));
	context.items = items;
	context.tops = list_copy(items);
	context.later = take_later(&context, items, &quals);
	top = sckpt_join_build(&context, items, quals);
	if (sublink_reads((Node *) list_make3(sublinks, query->targetList, query->havingQual), &context))
		sckpt_query_refuse("a sub-select over a stream that is correlated with a table joined with several streams",
						   "Join the table with one of the streams, in a sub-select.");
	foreach(lc, sublinks)
	{
		Node	   *node = lfirst(lc);
		bool		negated = is_notclause(node);
		Node	   *match = negated ? (Node *) get_notclausearg((Expr *) node) : node;

		if (sckpt_sublink_is_match(match))
			top = sckpt_sublink_join(&context, top, (SubLink *) match, negated);
		else
		{
			node = sckpt_sublink_replace(&context, &top, node, true);
			sckpt_join_restrict(top, node);
		}
	}
	query->targetList = (List *) sckpt_sublink_replace(&context, &top, (Node *) query->targetList, false);
	query->havingQual = sckpt_sublink_replace(&context, &top, query->havingQual, true);
	if (top->leaf)
		elog(ERROR, "a join of one stream");

	need(top, (Node *) query->targetList);
	need(top, query->havingQual);
	need(top, (Node *) context.later);
	need(top, (Node *) context.optional);
	for (int i = -1; (i = bms_next_member(context.looked_up, i)) >= 0;)
		need_of_relation(top, rt_fetch(i, query->rtable));
	need_conditions(top, top);
	make_join_stage(&context, top);

	/* From here on the level reads one sub-select, and the tables that no leaf has. */
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
	query->rtable = lappend(query->rtable, rte);
	*below = list_length(query->rtable);
	row = (RowContext)
	{
		top->columns, *below, context.looked_up, 0
	};
	query->targetList = (List *) over_row((Node *) query->targetList, &row);
	query->havingQual = over_row(query->havingQual, &row);
	context.later = (List *) over_row((Node *) context.later, &row);
	context.optional = (List *) over_row((Node *) context.optional, &row);
	context.tables = (List *) over_row((Node *) context.tables, &row);
	for (int i = 1; i < *below; i++)
	{
		RangeTblEntry **relation = (RangeTblEntry **) &lfirst(list_nth_cell(query->rtable, i - 1));

		if (!bms_is_member(i, context.looked_up))
		{
			*relation = makeNode(RangeTblEntry);
			(*relation)->rtekind = RTE_RESULT;
			(*relation)->eref = makeAlias("none", NIL);
		}
		else
			range_over_row(*relation, &row);
	}
	ref = makeNode(RangeTblRef);
	ref->rtindex = *below;
	query->jointree = makeFromExpr(lcons(put_optional((Node *) ref, context.optional), context.tables),
								   context.later ? (Node *) make_ands_explicit(context.later) : NULL);
	sckpt_level_renew_joins(query);
	query->hasSubLinks = checkExprHasSubLink((Node *) query->targetList) || checkExprHasSubLink(query->havingQual) ||
		checkExprHasSubLink((Node *) query->jointree);
	return top->first;
}
