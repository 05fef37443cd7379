/*-------------------------------------------------------------------------
 *
 * query_setop.c
 *		UNION, INTERSECT and EXCEPT of streams; UNION ALL of what has state.
 *
 * First (sckpt_setop_lower) all set operations but UNION ALL become groupings by all columns of the UNION ALL of their two sides: UNION has a row for each group;
 * the others count, in each, the rows of either side.  INTERSECT and EXCEPT have a row of the groups whose counts say so, and with ALL so many copies of it
 * as they say: the level above reads a group's row together with generate_series(1, copies), which a stage without state makes of it (`copies`).
 *
 * UNION ALL whose parts are linear is linear, too (query_union.c).  Otherwise each part that is not becomes stages of its own, those that are make one
 * source, and stages that unite (query_settle.c) put them together.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "query_private.h"

static Query *make_operation(Query *query, Node *node);

/* ---- Queries ---- */

RangeTblRef *
sckpt_query_add_subselect(Query *query, Query *sub, bool in_from)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);
	ListCell   *lc;

	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = sub;
	rte->eref = makeAlias("sub", NIL);
	rte->inFromCl = in_from;
	foreach(lc, sub->targetList)
	{
		TargetEntry *target = lfirst(lc);

		if (target->resname == NULL)
			target->resname = psprintf("column%d", target->resno);
		rte->eref->colnames = lappend(rte->eref->colnames, makeString(pstrdup(target->resname)));
	}
	query->rtable = lappend(query->rtable, rte);
	ref->rtindex = list_length(query->rtable);
	return ref;
}

/* The same of one that has been on the query's own level: it goes down by one. */
static RangeTblRef *
add_subselect(Query *query, Query *sub, bool in_from)
{
	IncrementVarSublevelsUp((Node *) sub, 1, 1);
	return sckpt_query_add_subselect(query, sub, in_from);
}

static Query *
select_nothing(void)
{
	Query	   *query = makeNode(Query);

	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->jointree = makeFromExpr(NIL, NULL);
	return query;
}

/* A sub-select's columns, as these types, and a number. */
static Query *
select_as(Query *sub, SetOperationStmt *operation, Expr *last, const char *name)
{
	Query	   *query = select_nothing();
	RangeTblRef *ref = add_subselect(query, sub, true);
	ListCell   *lc;

	query->jointree->fromlist = list_make1(ref);
	foreach(lc, operation->colTypes)
	{
		int			number = foreach_current_index(lc);
		TargetEntry *target = list_nth_node(TargetEntry, sub->targetList, number);
		Node	   *column = (Node *) makeVarFromTargetEntry(ref->rtindex, target);
		Oid			type = lfirst_oid(lc);

		/* As the executor does it; the parser has found that it can. */
		if (exprType(column) != type)
			column = coerce_to_target_type(NULL, column, exprType(column), type, list_nth_int(operation->colTypmods, number),
										   COERCION_IMPLICIT, COERCE_IMPLICIT_CAST, -1);
		if (column == NULL)
			elog(ERROR, "could not coerce a column of a set operation");
		if (exprCollation(column) != list_nth_oid(operation->colCollations, number))
			column = (Node *) makeRelabelType((Expr *) column, type, list_nth_int(operation->colTypmods, number),
											  list_nth_oid(operation->colCollations, number), COERCE_IMPLICIT_CAST);
		query->targetList = lappend(query->targetList, makeTargetEntry((Expr *) column, number + 1, pstrdup(target->resname), false));
	}
	if (last)
		query->targetList = lappend(query->targetList, makeTargetEntry(last, list_length(query->targetList) + 1, pstrdup(name), false));
	return query;
}

static Expr *
make_int4(int value)
{
	return (Expr *) makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(value), false, true);
}

static Expr *
make_int8(int64 value)
{
	return (Expr *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(value), false, FLOAT8PASSBYVAL);
}

static Expr *
operate(Oid operand, int strategy, Expr *left, Expr *right)
{
	Oid			operator = get_opfamily_member(INTEGER_BTREE_FAM_OID, operand, operand, strategy);
	OpExpr	   *result = (OpExpr *) make_opclause(operator, BOOLOID, false, left, right, InvalidOid, InvalidOid);

	set_opfuncid(result);
	return (Expr *) result;
}

/* ---- Set operations as groupings ---- */

/* UNION ALL of both sides of an operation; `mark`: a last column says which side a row is of. */
static Query *
unite(SetOperationStmt *operation, Query *left, Query *right, bool mark)
{
	Query	   *query = select_nothing();
	SetOperationStmt *all = makeNode(SetOperationStmt);
	Query	   *parts[2] = {left, right};
	Node	  **args[2] = {&all->larg, &all->rarg};

	all->op = SETOP_UNION;
	all->all = true;
	all->colTypes = list_copy(operation->colTypes);
	all->colTypmods = list_copy(operation->colTypmods);
	all->colCollations = list_copy(operation->colCollations);
	if (mark)
	{
		all->colTypes = lappend_oid(all->colTypes, INT4OID);
		all->colTypmods = lappend_int(all->colTypmods, -1);
		all->colCollations = lappend_oid(all->colCollations, InvalidOid);
	}
	for (int side = 0; side < 2; side++)
	{
		Query	   *part = select_as(parts[side], operation, mark ? make_int4(side) : NULL, "side");

		*args[side] = (Node *) add_subselect(query, part, false);
		for (int i = 0; i < list_length(part->targetList) && side == 0; i++)
		{
			TargetEntry *target = list_nth_node(TargetEntry, part->targetList, i);

			query->targetList = lappend(query->targetList, makeTargetEntry((Expr *) makeVarFromTargetEntry(1, target), i + 1,
																		   pstrdup(target->resname), false));
		}
	}
	query->setOperations = (Node *) all;
	return query;
}

/* How many rows of a group are of one side. */
static Expr *
count_side(Query *united, int side)
{
	Aggref	   *count = makeNode(Aggref);
	TargetEntry *mark = llast(united->targetList);

	count->aggfnoid = F_COUNT_;
	count->aggtype = INT8OID;
	count->aggstar = true;
	count->aggkind = 'n';
	count->aggsplit = AGGSPLIT_SIMPLE;
	count->aggno = count->aggtransno = -1;
	count->aggfilter = operate(INT4OID, BTEqualStrategyNumber, (Expr *) makeVarFromTargetEntry(1, mark), make_int4(side));
	count->location = -1;
	return (Expr *) count;
}

static Expr *
least_of(Expr *left, Expr *right)
{
	MinMaxExpr *least = makeNode(MinMaxExpr);

	least->minmaxtype = INT8OID;
	least->op = IS_LEAST;
	least->args = list_make2(left, right);
	least->location = -1;
	return (Expr *) least;
}

/* Each group's row so often as its last column says, which goes. */
static Query *
copy_rows(Query *grouped)
{
	Query	   *query = select_nothing();
	RangeTblRef *ref = add_subselect(query, grouped, true);
	RangeTblRef *series = makeNode(RangeTblRef);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblFunction *function = makeNode(RangeTblFunction);
	int			natts = list_length(grouped->targetList) - 1;
	Expr	   *copies = (Expr *) makeVarFromTargetEntry(ref->rtindex, llast(grouped->targetList));

	function->funcexpr = (Node *) makeFuncExpr(F_GENERATE_SERIES_INT8_INT8, INT8OID, list_make2(make_int8(1), copies), InvalidOid, InvalidOid,
											   COERCE_EXPLICIT_CALL);
	((FuncExpr *) function->funcexpr)->funcretset = true;
	function->funccolcount = 1;
	rte->rtekind = RTE_FUNCTION;
	rte->functions = list_make1(function);
	rte->lateral = true;
	rte->inFromCl = true;
	rte->alias = makeAlias("copies", NIL);
	rte->eref = makeAlias("copies", list_make1(makeString(pstrdup("copies"))));
	query->rtable = lappend(query->rtable, rte);
	series->rtindex = list_length(query->rtable);
	query->jointree->fromlist = list_make2(ref, series);
	for (int i = 0; i < natts; i++)
	{
		TargetEntry *target = list_nth_node(TargetEntry, grouped->targetList, i);

		query->targetList = lappend(query->targetList, makeTargetEntry((Expr *) makeVarFromTargetEntry(ref->rtindex, target), i + 1,
																	   pstrdup(target->resname), false));
	}
	return query;
}

static Query *
group_sides(SetOperationStmt *operation, Query *united)
{
	Query	   *query = select_nothing();
	RangeTblRef *ref = add_subselect(query, united, true);
	Expr	   *left = count_side(united, 0);
	Expr	   *right = count_side(united, 1);
	Expr	   *some = operate(INT8OID, BTGreaterStrategyNumber, left, make_int8(0));
	Expr	   *copies;
	int			number = 0;
	ListCell   *lc;

	query->jointree->fromlist = list_make1(ref);
	foreach(lc, operation->groupClauses)
	{
		SortGroupClause *clause = copyObject(lfirst_node(SortGroupClause, lc));
		TargetEntry *target = list_nth_node(TargetEntry, united->targetList, number);
		TargetEntry *key = makeTargetEntry((Expr *) makeVarFromTargetEntry(ref->rtindex, target), number + 1, pstrdup(target->resname), false);

		clause->tleSortGroupRef = key->ressortgroupref = ++number;
		query->groupClause = lappend(query->groupClause, clause);
		query->targetList = lappend(query->targetList, key);
	}
	query->hasAggs = true;
	if (operation->op == SETOP_UNION)
		query->hasAggs = false;
	else if (operation->op == SETOP_INTERSECT)
		query->havingQual = (Node *) make_andclause(list_make2(some, operate(INT8OID, BTGreaterStrategyNumber, copyObject(right), make_int8(0))));
	else if (operation->all)
		query->havingQual = (Node *) operate(INT8OID, BTGreaterStrategyNumber, left, right);
	else
		query->havingQual = (Node *) make_andclause(list_make2(some, operate(INT8OID, BTEqualStrategyNumber, right, make_int8(0))));
	if (!operation->all)
		return query;
	if (operation->op == SETOP_INTERSECT)
		copies = least_of(copyObject(left), copyObject(right));
	else
		copies = (Expr *) makeFuncExpr(F_INT8MI, INT8OID, list_make2(copyObject(left), copyObject(right)), InvalidOid, InvalidOid,
									   COERCE_EXPLICIT_CALL);
	query->targetList = lappend(query->targetList, makeTargetEntry(copies, number + 1, "copies", false));
	return copy_rows(query);
}

/* UNION below UNION: its duplicates go above. */
static void
unite_all(Node *node)
{
	SetOperationStmt *operation = (SetOperationStmt *) node;

	check_stack_depth();
	if (!IsA(node, SetOperationStmt) || operation->op != SETOP_UNION)
		return;
	operation->all = true;
	operation->groupClauses = NIL;
	unite_all(operation->larg);
	unite_all(operation->rarg);
}

/* Let UNION ALL read sub-selects where there are other operations below it. */
static void
lower_below(Query *query, Node **node)
{
	SetOperationStmt *operation = (SetOperationStmt *) *node;

	check_stack_depth();
	if (!IsA(operation, SetOperationStmt))
		return;
	if (operation->op == SETOP_UNION && operation->all)
	{
		lower_below(query, &operation->larg);
		lower_below(query, &operation->rarg);
	}
	else
		*node = (Node *) sckpt_query_add_subselect(query, make_operation(query, *node), false);
}

/* A query that is a node of the tree of operations. */
static Query *
make_operation(Query *query, Node *node)
{
	SetOperationStmt *operation = (SetOperationStmt *) node;
	Query	   *left;
	Query	   *right;

	check_stack_depth();
	if (!IsA(node, SetOperationStmt))
		return rt_fetch(((RangeTblRef *) node)->rtindex, query->rtable)->subquery;
	if (operation->op == SETOP_UNION)
	{
		unite_all(operation->larg);
		unite_all(operation->rarg);
	}
	left = make_operation(query, operation->larg);
	right = make_operation(query, operation->rarg);
	if (operation->op != SETOP_UNION && !(sckpt_query_reads_stream(left) && sckpt_query_reads_stream(right)))
		sckpt_query_refuse("INTERSECT or EXCEPT with a side that reads no stream", "Use WHERE EXISTS or NOT EXISTS with the table.");
	if (operation->op == SETOP_UNION && operation->all)
		return unite(operation, left, right, false);
	return group_sides(operation, unite(operation, left, right, true));
}

void
sckpt_setop_lower(Query *query)
{
	SetOperationStmt *operation = castNode(SetOperationStmt, query->setOperations);
	List	   *clauses = operation->groupClauses;
	bool		all = operation->all;
	Node	   *first;
	ListCell   *lc;
	ListCell   *lo;

	if (operation->op != SETOP_UNION)
	{
		Query	   *lowered = make_operation(query, (Node *) operation);

		/* It has been made as one below. */
		IncrementVarSublevelsUp((Node *) lowered, -1, 1);
		lowered->cteList = query->cteList;
		lowered->hasRecursive = query->hasRecursive;
		lowered->hasModifyingCTE = query->hasModifyingCTE;
		lowered->sortClause = query->sortClause;
		lowered->canSetTag = query->canSetTag;
		lowered->querySource = query->querySource;
		lowered->stmt_location = query->stmt_location;
		lowered->stmt_len = query->stmt_len;
		forboth(lc, lowered->targetList, lo, query->targetList)
			lfirst_node(TargetEntry, lc)->resname = lfirst_node(TargetEntry, lo)->resname;
		*query = *lowered;
		return;
	}
	unite_all(query->setOperations);
	lower_below(query, &query->setOperations);

	/* Its columns are those of its first part. */
	for (first = query->setOperations; IsA(first, SetOperationStmt);)
		first = ((SetOperationStmt *) first)->larg;
	foreach(lc, query->targetList)
	{
		Var		   *var = (Var *) lfirst_node(TargetEntry, lc)->expr;

		if (IsA(var, Var))
			var->varno = ((RangeTblRef *) first)->rtindex;
	}
	if (all)
		return;
	(void) sckpt_query_wrap(query);
	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst(lc);
		SortGroupClause *clause = copyObject(list_nth_node(SortGroupClause, clauses, foreach_current_index(lc)));

		clause->tleSortGroupRef = entry->ressortgroupref = foreach_current_index(lc) + 1;
		query->groupClause = lappend(query->groupClause, clause);
	}
}

/* ---- Copies ---- */

/* Where FROM has generate_series(1, …) of which nothing is used, its place there; -1: nowhere. */
static int
find_series(Query *query)
{
	ListCell   *lc;

	if (list_length(query->jointree->fromlist) != 2 || query->setOperations)
		return -1;
	foreach(lc, query->jointree->fromlist)
	{
		RangeTblRef *ref = lfirst(lc);
		RangeTblEntry *rte = IsA(ref, RangeTblRef) ? rt_fetch(ref->rtindex, query->rtable) : NULL;
		FuncExpr   *call;
		Const	   *from;

		if (rte == NULL || rte->rtekind != RTE_FUNCTION || list_length(rte->functions) != 1)
			continue;
		call = (FuncExpr *) linitial_node(RangeTblFunction, rte->functions)->funcexpr;
		if (!IsA(call, FuncExpr) || call->funcid != F_GENERATE_SERIES_INT8_INT8)
			continue;
		from = (Const *) eval_const_expressions(NULL, linitial(call->args));
		if (IsA(from, Const) && !from->constisnull && DatumGetInt64(from->constvalue) == 1 &&
			!bms_is_member(ref->rtindex, pull_varnos(NULL, (Node *) query->targetList)) &&
			!bms_is_member(ref->rtindex, pull_varnos(NULL, query->jointree->quals)))
			return foreach_current_index(lc);
	}
	return -1;
}

bool
sckpt_setop_copies(Query *query)
{
	return find_series(query) >= 0;
}

Node *
sckpt_setop_take_copies(Query *query)
{
	int			place = find_series(query);
	RangeTblRef *ref;
	RangeTblEntry *rte;

	if (place < 0)
		return NULL;
	ref = list_nth(query->jointree->fromlist, place);
	rte = rt_fetch(ref->rtindex, query->rtable);
	query->jointree->fromlist = list_delete_nth_cell(query->jointree->fromlist, place);
	return lsecond(((FuncExpr *) linitial_node(RangeTblFunction, rte->functions)->funcexpr)->args);
}

/* ---- Stages ---- */

/* One of the inputs of UNION ALL: its columns, and a last one that is never NULL. */
typedef struct UnionInput
{
	SckptQuery *first;
	SckptQuery *last;
	bool		linear;
	TupleDesc	row;
} UnionInput;

static UnionInput
make_input(Query *query, Query *part, SckptMakeLevel make, void *arg)
{
	Query	   *whole = select_as(part, castNode(SetOperationStmt, query->setOperations), make_int4(1), "there");
	UnionInput	input;

	sckpt_query_take_ctes(whole, query);
	input.first = make(arg, whole, false);
	input.last = sckpt_query_last(input.first);
	input.linear = !sckpt_query_stateful(input.last);
	input.row = input.linear ? ExecCleanTypeFromTL(input.last->targetlist) : input.last->result;
	return input;
}

/* Parts that are linear, all in one. */
static Query *
unite_linear(List *parts, SetOperationStmt *operation)
{
	Query	   *united = linitial(parts);
	ListCell   *lc;

	for_each_from(lc, parts, 1)
		united = unite(operation, united, lfirst(lc), false);
	return united;
}

static UnionInput
unite_inputs(UnionInput left, UnionInput right, bool final)
{
	UnionInput	inputs[2] = {left, right};
	UnionInput	result = {NULL};
	SckptQuery *stage = sckpt_settle_unite(left.row, right.row);
	List	   *targets = NIL;
	int			natts = left.row->natts;

	for (int side = 0; side < 2; side++)
	{
		if (inputs[side].linear)
			stage->join->leaf[side] = inputs[side].last;
		else
		{
			sckpt_settle_feed(stage, inputs[side].last, side, final);
			if (result.first)
				sckpt_query_last(result.first)->above = inputs[side].first;
			else
				result.first = inputs[side].first;
		}
	}

	/* Which side a row is of says the last column of the left one. */
	for (int i = 0; i < natts; i++)
	{
		TargetEntry *target = list_nth_node(TargetEntry, stage->targetlist, i);
		CaseExpr   *choice = makeNode(CaseExpr);
		CaseWhen   *when = makeNode(CaseWhen);
		NullTest   *test = makeNode(NullTest);

		test->arg = copyObject(list_nth_node(TargetEntry, stage->targetlist, natts - 1)->expr);
		test->nulltesttype = IS_NOT_NULL;
		test->location = -1;
		when->expr = (Expr *) test;
		when->result = target->expr;
		when->location = -1;
		choice->casetype = exprType((Node *) target->expr);
		choice->casecollid = exprCollation((Node *) target->expr);
		choice->args = list_make1(when);
		choice->defresult = list_nth_node(TargetEntry, stage->targetlist, natts + i)->expr;
		choice->location = -1;
		targets = lappend(targets, makeTargetEntry((Expr *) choice, i + 1, target->resname, false));
	}
	stage->targetlist = targets;
	stage->result = ExecCleanTypeFromTL(targets);
	if (result.first)
		sckpt_query_last(result.first)->above = stage;
	else
		result.first = stage;
	result.last = stage;
	result.row = stage->result;
	return result;
}

SckptQuery *
sckpt_setop_make(Query *query, bool final, SckptMakeLevel make, void *arg)
{
	SetOperationStmt *operation = castNode(SetOperationStmt, query->setOperations);
	List	   *linear = NIL;
	List	   *stateful = NIL;
	UnionInput	united = {NULL};
	ListCell   *lc;

	foreach(lc, sckpt_union_parts(query))
	{
		Query	   *part = lfirst_node(RangeTblEntry, lc)->subquery;

		if (!sckpt_query_reads_stream(part))
			sckpt_query_refuse("a part of UNION ALL that reads no stream",
							   "Its rows would come again with every batch. Insert them into the result, or into a stream, once.");
		if (sckpt_query_has_levels(part))
			stateful = lappend(stateful, part);
		else
			linear = lappend(linear, part);
	}
	if (linear)
		stateful = lcons(unite_linear(linear, operation), stateful);
	foreach(lc, stateful)
	{
		UnionInput	input = make_input(query, lfirst(lc), make, arg);

		united = united.last ? unite_inputs(united, input, final) : input;
	}

	/* Nobody sees the last column. */
	united.last->targetlist = list_truncate(united.last->targetlist, list_length(operation->colTypes));
	foreach(lc, united.last->targetlist)
		lfirst_node(TargetEntry, lc)->resname = list_nth_node(TargetEntry, query->targetList, foreach_current_index(lc))->resname;
	united.last->result = ExecCleanTypeFromTL(united.last->targetlist);
	return united.first;
}
