/*-------------------------------------------------------------------------
 *
 * query_rank.c
 *		The first rows of an order: DISTINCT ON, row_number() and its like,
 *		LIMIT.
 *
 * A level that ranks (query_lower.c has seen to it that it does nothing else) becomes a stage: its groups are the partitions, each of which has a counted set of
 * rows (set.h), and its results are those of the partition's rows that come first (aggregate_rank.c).  How many these are is said by LIMIT, or by a condition
 * on the rank in the level above; without one all rows of a partition would change with each that comes, which is refused.
 *
 * A partition of one row is a result like any group's.  Where there can be more, or the partition's key is not selected, a last stage keeps the
 * rows of the pipeline's result apart: it is grouped by all of their columns, by those of the partition's key that are not among them, and by a number that tells
 * identical rows apart.  In the sink rows are found by the partition's key and the row number, where both are selected; else the result is a bag, whose rows are found by
 * all their columns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/xact.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "query_private.h"

static const char *const kind_names[] = {
	[SCKPT_RANK_ROW_NUMBER] = "row_number",
	[SCKPT_RANK_RANK] = "rank",
	[SCKPT_RANK_DENSE_RANK] = "dense_rank",
};

/* ---- Which ranks there can be ---- */

bool
sckpt_rank_kind(WindowFunc *call, SckptRankKind *kind)
{
	switch (call->winfnoid)
	{
		case F_ROW_NUMBER:
			*kind = SCKPT_RANK_ROW_NUMBER;
			return true;
		case F_RANK_:
			*kind = SCKPT_RANK_RANK;
			return true;
		case F_DENSE_RANK_:
			*kind = SCKPT_RANK_DENSE_RANK;
			return true;
		default:
			return false;
	}
}

static bool
check_window_calls(Node *node, Index *winref)
{
	if (node == NULL)
		return false;
	if (IsA(node, WindowFunc))
	{
		WindowFunc *call = (WindowFunc *) node;
		SckptRankKind kind;

		if (!sckpt_rank_kind(call, &kind))
			sckpt_query_refuse("ranks beside other window functions of one query level", "Use a sub-select for the ranks.");
		if (*winref != 0 && *winref != call->winref)
			sckpt_query_refuse("ranks over different windows of one query level", "Use one window, or a sub-select for each of them.");
		*winref = call->winref;
		return false;
	}
	return expression_tree_walker(node, check_window_calls, winref);
}

void
sckpt_rank_check_level(Query *query)
{
	Index		winref = 0;

	if (query->distinctClause && !query->hasDistinctOn)
		sckpt_query_refuse("SELECT DISTINCT in a view over a stream", "Use GROUP BY with the same columns, or DISTINCT in the pipeline's query.");
	if (query->hasWindowFuncs && sckpt_frame_is(query))
		sckpt_frame_check(query);
	else if (query->hasWindowFuncs)
		(void) check_window_calls((Node *) query->targetList, &winref);
	if (query->sortClause && !query->hasDistinctOn && query->limitCount == NULL && query->limitOffset == NULL)
		sckpt_query_refuse("ORDER BY", "Order the rows in a query over the result table.");
	if (query->hasTargetSRFs && sckpt_query_is_ranked(query))
		sckpt_query_refuse("a set-returning function in the target list of a query with DISTINCT, ranks or LIMIT", "Use LATERAL.");
}

/* ---- How many rows ---- */

static void
collect_conjuncts(Node *node, List **conjuncts)
{
	ListCell   *lc;

	if (node == NULL)
		return;
	if (IsA(node, BoolExpr) && ((BoolExpr *) node)->boolop == AND_EXPR)
	{
		foreach(lc, ((BoolExpr *) node)->args)
			collect_conjuncts(lfirst(lc), conjuncts);
	}
	else if (IsA(node, List))
	{
		foreach(lc, (List *) node)
			collect_conjuncts(lfirst(lc), conjuncts);
	}
	else
		*conjuncts = lappend(*conjuncts, node);
}

bool
sckpt_rank_integer(Node *node, int64 *value)
{
	Const	   *constant = (Const *) eval_const_expressions(NULL, node);

	if (!IsA(constant, Const) || constant->constisnull)
		return false;
	switch (constant->consttype)
	{
		case INT2OID:
			*value = DatumGetInt16(constant->constvalue);
			return true;
		case INT4OID:
			*value = DatumGetInt32(constant->constvalue);
			return true;
		case INT8OID:
			*value = DatumGetInt64(constant->constvalue);
			return true;
		default:
			return false;
	}
}

/* Does a condition of the level above bound a rank of the sub-select from above?  *implied: that says the same. */
static bool
bounds_rank(Node *node, int below, Query *subquery, SckptRankKind *kind, int64 *limit, bool *implied)
{
	OpExpr	   *operation = (OpExpr *) node;
	Node	   *left;
	Node	   *right;
	Oid			operator;
	Var		   *var;
	Node	   *expr;

	if (!IsA(node, OpExpr) || list_length(operation->args) != 2)
		return false;
	left = linitial(operation->args);
	right = lsecond(operation->args);
	operator = operation->opno;
	if (!IsA(left, Var))
	{
		Node	   *swap = left;

		left = right;
		right = swap;
		operator = get_commutator(operator);
	}
	var = (Var *) left;
	if (!IsA(var, Var) || var->varno != below || var->varlevelsup != 0 || var->varattno <= 0 || !OidIsValid(operator))
		return false;
	expr = (Node *) list_nth_node(TargetEntry, subquery->targetList, var->varattno - 1)->expr;
	if (!IsA(expr, WindowFunc) || !sckpt_rank_kind((WindowFunc *) expr, kind) || !sckpt_rank_integer(right, limit))
		return false;
	switch (get_op_opfamily_strategy(operator, INTEGER_BTREE_FAM_OID))
	{
		case BTLessStrategyNumber:
			*implied = true;
			if (*limit > PG_INT64_MIN)
				(*limit)--;
			break;
		case BTLessEqualStrategyNumber:
			*implied = true;
			break;
		case BTEqualStrategyNumber:
			*implied = *limit == 1;
			break;
		default:
			return false;
	}
	*implied &= *limit >= 1;
	*limit = Max(*limit, 1);
	return true;
}

/* From the conditions of the level above, which loses the one that is implied. */
static void
limit_from_above(SckptLevel *above, Query *subquery, SckptRankKind *kind, int64 *limit)
{
	List	   *conjuncts = NIL;
	ListCell   *lc;

	if (above && above->query)
		collect_conjuncts(above->query->jointree->quals, &conjuncts);
	foreach(lc, conjuncts)
	{
		bool		implied;

		if (!bounds_rank(lfirst(lc), above->below, subquery, kind, limit, &implied))
			continue;
		if (implied)
			conjuncts = foreach_delete_current(conjuncts, lc);
		above->query->jointree->quals = conjuncts ? (Node *) make_ands_explicit(conjuncts) : NULL;
		return;
	}
	sckpt_query_refuse("a rank without a condition that bounds it",
					   "Select from the ranked rows in a sub-select, with WHERE rank <= n.");
}

/* ---- The stage ---- */

static bool
has_window_function(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, WindowFunc))
		return true;
	return expression_tree_walker(node, has_window_function, context);
}

int
sckpt_rank_key(SckptQuery *stage, Node *node)
{
	for (int i = 0; i < stage->nkeys; i++)
	{
		if (equal(node, stage->keys[i].expr))
			return i;
	}
	return -1;
}

int
sckpt_rank_column(SckptRankContext *context, Node *node)
{
	ListCell   *lc;

	foreach(lc, context->exprs)
	{
		if (equal(lfirst(lc), node) && !contain_volatile_functions(node))
			return foreach_current_index(lc);
	}
	context->exprs = lappend(context->exprs, node);
	context->sources = lappend_int(context->sources, sckpt_level_column(context->level, (Expr *) node));
	return list_length(context->exprs) - 1;
}

bool
sckpt_rank_collect_columns(Node *node, SckptRankContext *context)
{
	if (node == NULL || IsA(node, Const) || IsA(node, WindowFunc) || sckpt_rank_key(context->level->stage, node) >= 0)
		return false;
	if (IsA(node, List) || IsA(node, TargetEntry) || has_window_function(node, NULL))
		return expression_tree_walker(node, sckpt_rank_collect_columns, context);
	(void) sckpt_rank_column(context, node);
	return false;
}

Node *
sckpt_rank_replace_columns(Node *node, SckptRankContext *context)
{
	SckptQuery *stage = context->level->stage;
	SckptRankKind kind;
	int			number;

	if (node == NULL)
		return NULL;
	if (IsA(node, Const))
		return copyObject(node);
	number = sckpt_rank_key(stage, node);
	if (number >= 0)
		number++;
	else if (IsA(node, WindowFunc) && context->calls)
	{
		ListCell   *lc;

		foreach(lc, context->calls)
		{
			if (equal(lfirst(lc), node))
				number = stage->nkeys + list_length(context->exprs) + 1 + foreach_current_index(lc);
		}
	}
	else if (IsA(node, WindowFunc) && sckpt_rank_kind((WindowFunc *) node, &kind))
		number = stage->nkeys + list_length(context->exprs) + 1 + kind;
	else if (IsA(node, List) || IsA(node, TargetEntry) || has_window_function(node, NULL))
		return expression_tree_mutator(node, sckpt_rank_replace_columns, context);
	else
		number = stage->nkeys + 1 + sckpt_rank_column(context, node);
	return (Node *) makeVar(1, number, exprType(node), exprTypmod(node), exprCollation(node), 0);
}

/* LIMIT and OFFSET. */
static void
read_limit(Query *query, SckptRanking *ranking, int64 *offset)
{
	*offset = 0;
	if (query->limitCount == NULL)
		sckpt_query_refuse("OFFSET without LIMIT", "Use it in a query over the result table.");
	if (!sckpt_rank_integer(query->limitCount, &ranking->limit) || (query->limitOffset && !sckpt_rank_integer(query->limitOffset, offset)))
		sckpt_query_refuse("LIMIT or OFFSET of something else than a constant", "Write the number.");
	if (ranking->limit < 1 || *offset < 0 || pg_add_s64_overflow(ranking->limit, *offset, &ranking->limit))
		sckpt_query_refuse("LIMIT of less than one row", "Ask for at least one row.");
	if (query->limitOption == LIMIT_OPTION_WITH_TIES)
		ranking->kind = SCKPT_RANK_RANK;
}

void
sckpt_rank_set_order(SckptOrder *sorted, SckptRankContext *context, List *order, List *targets)
{
	ListCell   *lc;

	sorted->columns = palloc0(Max(1, list_length(order)) * sizeof(int));
	sorted->ops = palloc0(Max(1, list_length(order)) * sizeof(Oid));
	sorted->nulls_first = palloc0(Max(1, list_length(order)) * sizeof(bool));
	foreach(lc, order)
	{
		SortGroupClause *clause = lfirst(lc);
		Node	   *expr = get_sortgroupclause_expr(clause, targets);

		/* All rows of a partition have the same key. */
		if (sckpt_rank_key(context->level->stage, expr) >= 0)
			continue;
		sorted->columns[sorted->ncolumns] = sckpt_rank_column(context, expr);
		sorted->ops[sorted->ncolumns] = clause->sortop;
		sorted->nulls_first[sorted->ncolumns] = clause->nulls_first;
		sorted->ncolumns++;
	}
}

void
sckpt_rank_make_set(SckptLevel *level, SckptRankContext *context)
{
	SckptQuery *stage = level->stage;
	SckptSetColumns *set = palloc0(sizeof(SckptSetColumns));
	ListCell   *lc;

	set->ncolumns = list_length(context->exprs);
	set->columns = palloc0(Max(1, set->ncolumns) * sizeof(SckptKey));
	set->source = palloc0(Max(1, set->ncolumns) * sizeof(AttrNumber));
	set->counted = true;
	foreach(lc, context->exprs)
	{
		SckptKey   *column = &set->columns[foreach_current_index(lc)];

		/* Rows are told apart by what they look like. */
		column->expr = lfirst(lc);
		column->type = exprType(column->expr);
		column->typmod = exprTypmod(column->expr);
		column->collation = exprCollation(column->expr);
		column->eq_op = InvalidOid;
		column->canonical = sckpt_level_canonical(level, column->expr);
		set->source[foreach_current_index(lc)] = list_nth_int(context->sources, foreach_current_index(lc));
	}
	stage->sets = set;
	stage->nsets = 1;
}

/* What the stage keeps, in words. */
static char *
describe(SckptRanking *ranking, SckptSetColumns *set)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "%s <= " INT64_FORMAT " of", kind_names[ranking->kind], ranking->limit);
	for (int i = 0; i < set->ncolumns; i++)
		appendStringInfo(&buf, "%s %s", i == 0 ? "" : ",", set->columns[i].canonical);
	for (int i = 0; i < ranking->order.ncolumns; i++)
		appendStringInfo(&buf, "%s %s using %s%s", i == 0 ? " by" : ",",
						 set->columns[ranking->order.columns[i]].canonical,
						 get_opname(ranking->order.ops[i]), ranking->order.nulls_first[i] ? " nulls first" : "");
	return buf.data;
}

SckptRankClauses *
sckpt_rank_take_clauses(SckptLevel *level, SckptLevel *above)
{
	Query	   *query = level->query;
	SckptRankClauses *clauses = palloc0(sizeof(SckptRankClauses));
	SckptRanking *ranking = palloc0(sizeof(SckptRanking));
	Index		winref = 0;
	ListCell   *lc;

	clauses->ranking = ranking;
	if (query->hasDistinctOn)
	{
		clauses->partition = query->distinctClause;
		clauses->order = query->sortClause;
		ranking->limit = 1;
	}
	else if (query->hasWindowFuncs && sckpt_frame_is(query))
	{
		WindowClause *window = linitial(query->windowClause);

		clauses->windows = query->windowClause;
		clauses->partition = window->partitionClause;
		clauses->order = window->orderClause;
	}
	else if (query->hasWindowFuncs)
	{
		(void) check_window_calls((Node *) query->targetList, &winref);
		foreach(lc, query->windowClause)
		{
			WindowClause *window = lfirst(lc);

			if (window->winref != winref)
				continue;
			clauses->partition = window->partitionClause;
			clauses->order = window->orderClause;
		}
		limit_from_above(above, query, &ranking->kind, &ranking->limit);
	}
	else
	{
		clauses->order = query->sortClause;
		read_limit(query, ranking, &clauses->offset);
	}

	/* What is left is linear; split_rank groups it by the partition's key. */
	query->distinctClause = NIL;
	query->hasDistinctOn = false;
	query->sortClause = NIL;
	query->limitCount = query->limitOffset = NULL;
	query->limitOption = LIMIT_OPTION_COUNT;
	query->windowClause = NIL;
	query->hasWindowFuncs = false;
	query->groupClause = copyObject(clauses->partition);
	return clauses;
}

void
sckpt_level_split_rank(SckptLevel *level, SckptRankClauses *clauses)
{
	Query	   *query = level->query;
	SckptQuery *stage = level->stage;
	SckptRankContext context = {.level = level};
	List	   *targets = (List *) sckpt_flatten_join_alias_vars(query, (Node *) query->targetList);
	List	   *visible = NIL;
	bool		last = level->last;
	ListCell   *lc;

	sckpt_query_refuse_clock((Node *) targets, "a query with DISTINCT, ranks or LIMIT");

	/* Keys need not be selected: sckpt_rank_keep(). */
	level->last = false;
	sckpt_level_read_keys(level, targets);
	level->last = last;
	if (stage->nsession > 0)
		sckpt_query_refuse("ranks within sessions", "Group by the session in a sub-select, and rank above it.");
	sckpt_rank_set_order(&clauses->ranking->order, &context, clauses->order, targets);
	foreach(lc, targets)
	{
		if (!lfirst_node(TargetEntry, lc)->resjunk)
			visible = lappend(visible, lfirst(lc));
	}
	(void) sckpt_rank_collect_columns((Node *) visible, &context);
	stage->targetlist = (List *) sckpt_rank_replace_columns((Node *) visible, &context);
	sckpt_rank_make_set(level, &context);
	stage->ranking = clauses->ranking;
	stage->ranking->canonical = describe(stage->ranking, &stage->sets[0]);
	if (clauses->offset > 0)
	{
		Var		   *number = makeVar(1, stage->nkeys + list_length(context.exprs) + 1, INT8OID, -1, InvalidOid, 0);

		stage->having = (Node *) make_opclause(get_opfamily_member(INTEGER_BTREE_FAM_OID, INT8OID, INT8OID, BTGreaterStrategyNumber),
											   BOOLOID, false, (Expr *) number,
											   (Expr *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(clauses->offset),
																  false, FLOAT8PASSBYVAL),
											   InvalidOid, InvalidOid);
		set_opfuncid((OpExpr *) stage->having);
	}
	stage->calls = palloc0(sizeof(SckptCall));
	sckpt_level_finish_columns(level);
	if (level->below == 0)
		stage->source = sckpt_level_source_sql(level);
}

const char *
sckpt_query_rank_name(SckptRankKind kind)
{
	return kind_names[kind];
}

/* ---- The result's rows, kept apart ---- */

/* Which column of a stage's rows is this column of its group's row; 0: none. */
static AttrNumber
find_target(SckptQuery *stage, AttrNumber column)
{
	ListCell   *lc;

	foreach(lc, stage->targetlist)
	{
		TargetEntry *entry = lfirst(lc);

		if (IsA(entry->expr, Var) && ((Var *) entry->expr)->varattno == column)
			return foreach_current_index(lc) + 1;
	}
	return 0;
}

/* A column of the result that rows are found by. */
static SckptKey
sink_key(SckptQuery *stage, AttrNumber column, bool bag)
{
	Form_pg_attribute att = TupleDescAttr(stage->result, column - 1);
	TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_EQ_OPR | TYPECACHE_HASH_EXTENDED_PROC);
	SckptKey	key = {0};

	if (bag && (!OidIsValid(type->eq_opr) || !OidIsValid(type->hash_extended_proc)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of type %s in a result whose rows have no key is not supported in a pipeline",
						NameStr(att->attname), format_type_be(att->atttypid)),
				 errhint("Cast it to a type that has a hash operator class, such as text.")));
	key.type = att->atttypid;
	key.typmod = att->atttypmod;
	key.collation = att->attcollation;
	key.eq_op = type->eq_opr;
	key.result_column = column;
	return key;
}

/* Let the stage put out another column. */
static AttrNumber
add_column(SckptQuery *stage, Expr *expr, char *name)
{
	stage->targetlist = lappend(stage->targetlist,
								makeTargetEntry(expr, list_length(stage->targetlist) + 1, name, false));
	return list_length(stage->targetlist);
}

static void
name_columns(SckptQuery *stage, TupleDesc names)
{
	for (int i = 0; i < names->natts; i++)
		list_nth_node(TargetEntry, stage->targetlist, i)->resname = pstrdup(NameStr(TupleDescAttr(names, i)->attname));
	stage->result = ExecCleanTypeFromTL(stage->targetlist);
}

/* Let it put out a number, too, which is a key of the stage above. */
static void
number_column(SckptQuery *stage, SckptQuery *keeper, Expr *expr, char *name)
{
	SckptKey   *key = &keeper->keys[keeper->nkeys++];

	(void) add_column(stage, expr, name);
	key->type = INT8OID;
	key->typmod = -1;
	key->canonical = name + 1;
	key->expr = (Node *) makeVar(1, keeper->nkeys, INT8OID, -1, InvalidOid, 0);
}

void
sckpt_rank_keep(SckptQuery *stage, bool final)
{
	SckptQuery *keeper;
	int			natts = stage->result->natts;
	int			nset = stage->sets[0].ncolumns;
	AttrNumber	number = stage->framing ? 0 : find_target(stage, stage->nkeys + nset + 1);
	bool		complete = true;
	int			nhidden = 0;

	for (int i = 0; i < stage->nkeys; i++)
	{
		stage->keys[i].result_column = find_target(stage, i + 1);
		complete &= stage->keys[i].result_column > 0;
	}
	if (complete && sckpt_query_is_single(stage))
		return;

	keeper = palloc0(sizeof(SckptQuery));
	keeper->result = stage->result;
	keeper->grouped = true;
	keeper->retracting = !final;
	keeper->bag = !complete || number == 0;
	keeper->keys = palloc0((natts + stage->nkeys + 2) * sizeof(SckptKey));
	keeper->calls = palloc0(sizeof(SckptCall));
	keeper->windows = palloc0(sizeof(SckptWindow));
	keeper->computed = palloc0(sizeof(SckptComputed));
	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(stage->result, i);
		SckptKey   *key = &keeper->keys[keeper->nkeys++];

		key->type = att->atttypid;
		key->typmod = att->atttypmod;
		key->collation = att->attcollation;
		key->result_column = i + 1;
		key->canonical = psprintf("result %s", NameStr(att->attname));
		key->expr = (Node *) makeVar(1, i + 1, att->atttypid, att->atttypmod, att->attcollation, 0);
		keeper->targetlist = lappend(keeper->targetlist,
									 makeTargetEntry((Expr *) copyObject(key->expr), i + 1, pstrdup(NameStr(att->attname)), false));
	}
	for (int i = 0; i < stage->nkeys; i++)
	{
		SckptKey   *below = &stage->keys[i];
		AttrNumber	column = below->result_column;
		SckptKey   *key;

		if (column == 0)
		{
			column = add_column(stage, (Expr *) makeVar(1, i + 1, below->type, below->typmod, below->collation, 0),
								psprintf(" partition %d", ++nhidden));
			keeper->nkeys++;
		}
		key = &keeper->keys[column - 1];
		*key = *below;
		key->below = i + 1;
		key->result_column = column <= natts ? column : 0;
		below->result_column = column;
	}
	if (stage->framing)
	{
		AttrNumber	first = stage->nkeys + nset + stage->framing->ncalls + 1;

		number_column(stage, keeper, (Expr *) makeVar(1, first, INT8OID, -1, InvalidOid, 0), " row");
		number_column(stage, keeper, (Expr *) makeVar(1, first + 1, INT8OID, -1, InvalidOid, 0), " number");
	}
	else if (keeper->bag)
	{
		number_column(stage, keeper, (Expr *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(0), false, FLOAT8PASSBYVAL),
					  " number");
		stage->ranking->numbered = true;
	}
	name_columns(stage, keeper->result);

	keeper->nsource = stage->result->natts;
	keeper->source_types = palloc(keeper->nsource * sizeof(Oid));
	for (int i = 0; i < keeper->nsource; i++)
		keeper->source_types[i] = TupleDescAttr(stage->result, i)->atttypid;

	keeper->nsink = 0;
	keeper->sink_keys = palloc0((natts + 1) * sizeof(SckptKey));
	if (keeper->bag)
	{
		for (int i = 0; i < natts; i++)
			keeper->sink_keys[keeper->nsink++] = sink_key(keeper, i + 1, true);
	}
	else
	{
		for (int i = 0; i < stage->nkeys; i++)
			keeper->sink_keys[keeper->nsink++] = stage->keys[i];
		keeper->sink_keys[keeper->nsink++] = sink_key(keeper, number, false);
	}
	stage->above = keeper;
	stage->target = keeper;
}
