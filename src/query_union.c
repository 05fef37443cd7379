/*-------------------------------------------------------------------------
 *
 * query_union.c
 *		UNION ALL where a stream may stand.
 *
 * UNION ALL is linear: it is run as it was written, over the rows of each of its streams, as part of the source's SQL.  What is left to
 * do is to see that every part of it is linear over exactly one stream, and to lead the row's place in the batch through all of them, where
 * a level asks for it (query_level.c), with the row's event time beside it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "query_private.h"
#include "stream.h"

/* ---- What it consists of ---- */

bool
sckpt_union_is(Query *query)
{
	return query->setOperations != NULL;
}

bool
sckpt_union_is_linear(Query *query)
{
	return query->setOperations != NULL && !sckpt_query_has_levels(query);
}

static void
check_operation(Node *node)
{
	SetOperationStmt *operation = (SetOperationStmt *) node;

	check_stack_depth();
	if (!IsA(node, SetOperationStmt))
		return;
	if (operation->op != SETOP_UNION || !operation->all)
		sckpt_query_refuse("UNION, INTERSECT or EXCEPT over a stream",
						   "Use UNION ALL, or create one pipeline for each part.");
	check_operation(operation->larg);
	check_operation(operation->rarg);
}

void
sckpt_union_check_operations(Query *query)
{
	if (query->setOperations)
		check_operation(query->setOperations);
}

static void
collect_parts(Query *query, Node *node, List **parts)
{
	if (IsA(node, SetOperationStmt))
	{
		collect_parts(query, ((SetOperationStmt *) node)->larg, parts);
		collect_parts(query, ((SetOperationStmt *) node)->rarg, parts);
	}
	else
		*parts = lappend(*parts, rt_fetch(castNode(RangeTblRef, node)->rtindex, query->rtable));
}

List *
sckpt_union_parts(Query *query)
{
	List	   *parts = NIL;

	collect_parts(query, query->setOperations, &parts);
	return parts;
}

/* ---- What it may consist of ---- */

int
sckpt_union_count_streams(Query *query, bool part)
{
	int			places = 0;
	int			total = 0;
	ListCell   *lc;

	check_stack_depth();
	part &= !sckpt_query_has_levels(query);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		int			count = 0;

		if (rte->rtekind == RTE_RELATION)
			count = sckpt_catalog_is_stream(rte->relid);
		else if (rte->rtekind == RTE_SUBQUERY)
			count = sckpt_union_count_streams(rte->subquery, part || sckpt_union_is(query));
		places += count > 0;
		total += count;
	}
	if (places > 0 && sckpt_union_is(query))
	{
		sckpt_union_check_operations(query);
		if (places < list_length(sckpt_union_parts(query)))
			sckpt_query_refuse("a part of UNION ALL that reads no stream",
							   "Its rows would come again with every batch. Insert them into the result, or into a stream, once.");
	}
	if (part && places > 0)
	{
		sckpt_query_check_level(query);
		sckpt_query_refuse_system_columns(query);
	}
	return total;
}

/* ---- Columns ---- */

static int
input_of(Query *query)
{
	SckptLevel	level = {NULL};

	level.query = query;
	sckpt_level_find_input(&level);
	return level.stream;
}

bool
sckpt_union_names_streams(Query *query)
{
	ListCell   *lc;

	foreach(lc, sckpt_union_parts(query))
	{
		Query	   *part = ((RangeTblEntry *) lfirst(lc))->subquery;
		int			input;

		if (sckpt_union_is(part))
		{
			if (!sckpt_union_names_streams(part))
				return false;
			continue;
		}
		input = input_of(part);
		if (input == 0)
			return false;
		if (rt_fetch(input, part->rtable)->rtekind == RTE_SUBQUERY &&
			!sckpt_union_names_streams(rt_fetch(input, part->rtable)->subquery))
			return false;
	}
	return true;
}

/* The event time of an input's row as timestamptz: those of a timestamp column are taken for UTC, as watermarks are. */
static Expr *
time_of(RangeTblEntry *rte, int index, AttrNumber column)
{
	Var		   *var;
	Oid			base;

	if (rte->rtekind == RTE_SUBQUERY)
		return (Expr *) makeVar(index, column, TIMESTAMPTZOID, -1, InvalidOid, 0);
	if (!sckpt_stream_event_time(rte->relid, &column, NULL, NULL))
		return (Expr *) makeNullConst(TIMESTAMPTZOID, -1, InvalidOid);

	var = makeVar(index, column, get_atttype(rte->relid, column), -1, InvalidOid, 0);
	base = getBaseType(var->vartype);
	if (base == TIMESTAMPTZOID)
		return base == var->vartype ? (Expr *) var :
			(Expr *) makeRelabelType((Expr *) var, TIMESTAMPTZOID, -1, InvalidOid, COERCE_EXPLICIT_CAST);
	if (base != var->vartype)
		var = (Var *) makeRelabelType((Expr *) var, base, -1, InvalidOid, COERCE_EXPLICIT_CAST);
	return (Expr *) makeFuncExpr(F_TIMEZONE_TEXT_TIMESTAMP, TIMESTAMPTZOID,
								 list_make2(makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1, CStringGetTextDatum("UTC"), false, false),
											var),
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

static void
add_target(Query *query, Expr *expr, const char *name)
{
	query->targetList = lappend(query->targetList,
								makeTargetEntry(expr, list_length(query->targetList) + 1, pstrdup(name), false));
}

static void
add_operation_columns(Node *node)
{
	SetOperationStmt *operation = (SetOperationStmt *) node;

	if (!IsA(node, SetOperationStmt))
		return;
	operation->colTypes = lappend_oid(lappend_oid(operation->colTypes, TIDOID), TIMESTAMPTZOID);
	operation->colTypmods = lappend_int(lappend_int(operation->colTypmods, -1), -1);
	operation->colCollations = lappend_oid(lappend_oid(operation->colCollations, InvalidOid), InvalidOid);
	add_operation_columns(operation->larg);
	add_operation_columns(operation->rarg);
}

static void
add_columns_to_part(Query *part)
{
	int			input = input_of(part);
	RangeTblEntry *rte = rt_fetch(input, part->rtable);
	AttrNumber	place = SelfItemPointerAttributeNumber;

	/* Of a UNION ALL in its FROM clause, which has them already. */
	if (rte->rtekind == RTE_SUBQUERY)
		place = list_length(rte->subquery->targetList) - 1;
	add_target(part, (Expr *) makeVar(input, place, TIDOID, -1, InvalidOid, 0), "row_place");
	add_target(part, time_of(rte, input, place + 1), "row_time");
}

AttrNumber
sckpt_union_add_columns(RangeTblEntry *rte)
{
	Query	   *query = rte->subquery;
	Node	   *first = query->setOperations;
	AttrNumber	place = list_length(query->targetList) + 1;
	ListCell   *lc;

	foreach(lc, sckpt_union_parts(query))
	{
		RangeTblEntry *part = lfirst(lc);

		if (sckpt_union_is(part->subquery))
			(void) sckpt_union_add_columns(part);
		else
		{
			add_columns_to_part(part->subquery);
			part->eref->colnames = lappend(lappend(part->eref->colnames, makeString(pstrdup("row_place"))),
										   makeString(pstrdup("row_time")));
		}
	}
	add_operation_columns(query->setOperations);

	/* The columns of the whole are named by those of its first part. */
	while (IsA(first, SetOperationStmt))
		first = ((SetOperationStmt *) first)->larg;
	add_target(query, (Expr *) makeVar(castNode(RangeTblRef, first)->rtindex, place, TIDOID, -1, InvalidOid, 0), "row_place");
	add_target(query, (Expr *) makeVar(castNode(RangeTblRef, first)->rtindex, place + 1, TIMESTAMPTZOID, -1, InvalidOid, 0),
			   "row_time");
	rte->eref->colnames = lappend(lappend(rte->eref->colnames, makeString(pstrdup("row_place"))),
								  makeString(pstrdup("row_time")));
	return place;
}

/* ---- Event time ---- */

/* Does any stream below declare one? */
static bool
declares_event_time(RangeTblEntry *rte)
{
	ListCell   *lc;

	if (rte->rtekind == RTE_RELATION)
		return sckpt_catalog_is_stream(rte->relid) && sckpt_stream_event_time(rte->relid, NULL, NULL, NULL);
	if (rte->rtekind != RTE_SUBQUERY)
		return false;
	foreach(lc, rte->subquery->rtable)
	{
		if (declares_event_time(lfirst(lc)))
			return true;
	}
	return false;
}

static bool
part_is_event_time(RangeTblEntry *rte, AttrNumber column, Oid type, bool *declared)
{
	Query	   *part = rte->subquery;
	Node	   *expr = (Node *) list_nth_node(TargetEntry, part->targetList, column - 1)->expr;
	int			input;

	if (!declares_event_time(rte))
		return true;
	*declared = true;
	/* Else PostgreSQL converts it, by the session's time zone. */
	if (getBaseType(exprType(expr)) != getBaseType(type))
		return false;
	if (sckpt_union_is(part))
		return sckpt_union_is_event_time(rte, column, declared);
	input = input_of(part);
	while (IsA(expr, RelabelType))
		expr = (Node *) ((RelabelType *) expr)->arg;
	return IsA(expr, Var) && ((Var *) expr)->varlevelsup == 0 && ((Var *) expr)->varno == input &&
		sckpt_union_is_event_time(rt_fetch(input, part->rtable), ((Var *) expr)->varattno, declared);
}

bool
sckpt_union_is_event_time(RangeTblEntry *rte, AttrNumber column, bool *declared)
{
	AttrNumber	event_time;
	Oid			type;
	ListCell   *lc;

	if (rte->rtekind == RTE_RELATION)
	{
		if (!sckpt_stream_event_time(rte->relid, &event_time, NULL, NULL))
			return true;
		*declared = true;
		return column == event_time;
	}
	if (column <= 0)
		return false;
	type = list_nth_oid(castNode(SetOperationStmt, rte->subquery->setOperations)->colTypes, column - 1);
	foreach(lc, sckpt_union_parts(rte->subquery))
	{
		if (!part_is_event_time(lfirst(lc), column, type, declared))
			return false;
	}
	return true;
}
