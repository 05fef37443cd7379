/*-------------------------------------------------------------------------
 *
 * join_condition.c
 *		Expressions over the two sides of a join.
 *
 * Of a condition, comparisons of whole numbers and times of both sides, which are what bounds a join in time, are taken apart from the rest, and seen to
 * first: each row meets several of the other side.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "common/int.h"
#include "executor/executor.h"
#include "nodes/bitmapset.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

#include "join_private.h"

#define LESS 1
#define EQUAL 2
#define GREATER 4

/* From Vars of the joined row to those of the sides' rows. */
static Node *
split_vars(Node *node, int *nleft)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);

		var->varno = var->varattno > *nleft ? INNER_VAR : OUTER_VAR;
		if (var->varattno > *nleft)
			var->varattno -= *nleft;
		return (Node *) var;
	}
	return expression_tree_mutator(node, split_vars, (void *) nleft);
}

ExprState *
sckpt_join_prepare_condition(Node *node, int nleft)
{
	if (node == NULL)
		return NULL;
	return ExecInitQual(make_ands_implicit((Expr *) expression_planner((Expr *) split_vars(node, &nleft))), NULL);
}

ExprState *
sckpt_join_prepare_expr(Node *node, int nleft)
{
	if (node == NULL)
		return NULL;
	return ExecInitExpr(expression_planner((Expr *) split_vars(node, &nleft)), NULL);
}

ProjectionInfo *
sckpt_join_prepare_projection(List *targets, int nleft, ExprContext *econtext)
{
	targets = (List *) expression_planner((Expr *) split_vars((Node *) targets, &nleft));
	return ExecBuildProjectionInfo(targets, econtext, MakeSingleTupleTableSlot(ExecTypeFromTL(targets), &TTSOpsVirtual), NULL, NULL);
}

/* ---- Comparisons ---- */

/* What a function of PostgreSQL's tells of two numbers, or times: for which results it is true; 0: it is another function. */
static uint8
what_holds(Oid function, bool *wide)
{
	*wide = true;
	switch (function)
	{
		case F_INT4LT:
		case F_DATE_LT:
			*wide = false;
			/* FALLTHROUGH */
		case F_INT8LT:
		case F_TIMESTAMP_LT:
		case F_TIMESTAMPTZ_LT:
			return LESS;
		case F_INT4LE:
		case F_DATE_LE:
			*wide = false;
			/* FALLTHROUGH */
		case F_INT8LE:
		case F_TIMESTAMP_LE:
		case F_TIMESTAMPTZ_LE:
			return LESS | EQUAL;
		case F_INT4EQ:
		case F_DATE_EQ:
			*wide = false;
			/* FALLTHROUGH */
		case F_INT8EQ:
		case F_TIMESTAMP_EQ:
		case F_TIMESTAMPTZ_EQ:
			return EQUAL;
		case F_INT4GE:
		case F_DATE_GE:
			*wide = false;
			/* FALLTHROUGH */
		case F_INT8GE:
		case F_TIMESTAMP_GE:
		case F_TIMESTAMPTZ_GE:
			return EQUAL | GREATER;
		case F_INT4GT:
		case F_DATE_GT:
			*wide = false;
			/* FALLTHROUGH */
		case F_INT8GT:
		case F_TIMESTAMP_GT:
		case F_TIMESTAMPTZ_GT:
			return GREATER;
		case F_INT4NE:
		case F_DATE_NE:
			*wide = false;
			/* FALLTHROUGH */
		case F_INT8NE:
		case F_TIMESTAMP_NE:
		case F_TIMESTAMPTZ_NE:
			return LESS | GREATER;
	}
	return 0;
}

/* A column, or a time to which an interval of a fixed length is added; NULL: it is something else. */
static Var *
take_column(Node *node, int64 *offset)
{
	OpExpr	   *op = (OpExpr *) node;
	Const	   *constant;
	Interval   *interval;

	*offset = 0;
	if (IsA(node, OpExpr) && list_length(op->args) == 2 && IsA(lsecond(op->args), Const))
	{
		bool		added = op->opfuncid == F_TIMESTAMPTZ_PL_INTERVAL || op->opfuncid == F_TIMESTAMP_PL_INTERVAL;

		constant = lsecond_node(Const, op->args);
		if ((!added && op->opfuncid != F_TIMESTAMPTZ_MI_INTERVAL && op->opfuncid != F_TIMESTAMP_MI_INTERVAL) || constant->constisnull)
			return NULL;
		interval = DatumGetIntervalP(constant->constvalue);
		if (interval->month != 0 || interval->day != 0 || interval->time == PG_INT64_MIN)
			return NULL;
		*offset = added ? interval->time : -interval->time;
		node = linitial(op->args);
	}
	return IsA(node, Var) && ((Var *) node)->varattno > 0 ? (Var *) node : NULL;
}

/* Is a conjunct a comparison of a column of each side? */
static bool
take_comparison(Node *node, SckptJoinComparison *comparison)
{
	OpExpr	   *op = (OpExpr *) node;
	Var		   *columns[2];
	int64		offsets[2];
	int			left;

	if (!IsA(node, OpExpr) || list_length(op->args) != 2)
		return false;
	comparison->holds = what_holds(op->opfuncid, &comparison->wide);
	columns[0] = take_column(linitial(op->args), &offsets[0]);
	columns[1] = take_column(lsecond(op->args), &offsets[1]);
	if (comparison->holds == 0 || columns[0] == NULL || columns[1] == NULL || columns[0]->varno == columns[1]->varno)
		return false;
	left = columns[0]->varno == OUTER_VAR ? 0 : 1;
	if (left == 1)
		comparison->holds = (comparison->holds & EQUAL) | (comparison->holds & LESS ? GREATER : 0) | (comparison->holds & GREATER ? LESS : 0);
	for (int side = 0; side < 2; side++)
	{
		comparison->columns[side] = columns[left ^ side]->varattno - 1;
		comparison->offsets[side] = offsets[left ^ side];
	}
	return true;
}

TimestampTz
sckpt_join_add(TimestampTz time, int64 offset)
{
	int64		sum;

	if (pg_add_s64_overflow(time, offset, &sum) || !IS_VALID_TIMESTAMP(sum))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return sum;
}

void
sckpt_join_prepare_match(SckptStreamJoin *join)
{
	int			nleft = join->join->rows[0]->natts;
	List	   *rest = NIL;
	List	   *conjuncts;
	ListCell   *lc;

	if (join->join->condition == NULL)
		return;
	conjuncts = make_ands_implicit((Expr *) expression_planner((Expr *) split_vars(join->join->condition, &nleft)));
	join->comparisons = palloc(list_length(conjuncts) * sizeof(SckptJoinComparison));
	foreach(lc, conjuncts)
	{
		SckptJoinComparison *comparison = &join->comparisons[join->ncomparisons];

		if (!take_comparison(lfirst(lc), comparison))
		{
			rest = lappend(rest, lfirst(lc));
			continue;
		}
		join->ncomparisons++;
		for (int side = 0; side < 2; side++)
			join->sides[side].ncompared = Max(join->sides[side].ncompared, comparison->columns[side] + 1);
	}
	for (int side = 0; side < 2; side++)
	{
		Bitmapset  *columns = NULL;
		int			member = -1;

		join->sides[side].nchecked = join->sides[side].ncompared;
		pull_varattnos((Node *) rest, side == 0 ? OUTER_VAR : INNER_VAR, &columns);
		while ((member = bms_next_member(columns, member)) >= 0)
			join->sides[side].nchecked = Max(join->sides[side].nchecked, member + FirstLowInvalidHeapAttributeNumber);
		/* A whole row */
		if (bms_is_member(InvalidAttrNumber - FirstLowInvalidHeapAttributeNumber, columns))
			join->sides[side].nchecked = join->sides[side].desc->natts;
	}
	join->condition = rest == NIL ? NULL : ExecInitQual(rest, NULL);
}
