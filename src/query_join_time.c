/*-------------------------------------------------------------------------
 *
 * query_join_time.c
 *		What frees the rows of a join: times that are near each other, and windows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "query_join_private.h"
#include "stream.h"

/* The event time of a stream that is a leaf's. */
Var *
sckpt_join_event_time(SckptJoinContext *context, SckptJoinTree *leaf)
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
void
sckpt_join_read_bound(Node *qual, Var **times, bool *known, int64 *delay)
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
bool
sckpt_join_is_window_end(SckptJoinTree *side, AttrNumber column, int64 *delay)
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
