/*-------------------------------------------------------------------------
 *
 * query_frame.c
 *		Window functions over the rows around a row: aggregates over row
 *		frames, lag() and lead(), first_value() and its like.
 *
 * A level with them is a stage whose groups are the partitions, with the rows of each in order (frame.h).  All of a level's windows must have the same
 * partitions and order; their frames may differ.
 *
 * A row that comes or goes changes the results of the rows whose frames reach it, and those of no others: so frames are bounded by rows, but for those that
 * begin with the partition, whose aggregates are carried on from row to row.  What depends on all rows of a partition would have to be computed and written
 * anew with each of them, and is refused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "compat.h"
#include "query_private.h"

/* Farther away than any row, yet sums do not overflow. */
#define FAR_AWAY (INT64CONST(1) << 40)

/* ---- Which there can be ---- */

static bool
find_other_calls(Node *node, bool *found)
{
	SckptRankKind kind;

	if (node == NULL)
		return false;
	if (IsA(node, WindowFunc))
	{
		*found |= !sckpt_rank_kind((WindowFunc *) node, &kind);
		return false;
	}
	return expression_tree_walker(node, find_other_calls, found);
}

bool
sckpt_frame_is(Query *query)
{
	bool		found = false;

	(void) find_other_calls((Node *) query->targetList, &found);
	return found;
}

static bool
call_kind(WindowFunc *call, SckptFrameKind *kind)
{
	switch (call->winfnoid)
	{
		case F_LAG_ANYELEMENT:
		case F_LAG_ANYELEMENT_INT4:
		case F_LAG_ANYCOMPATIBLE_INT4_ANYCOMPATIBLE:
		case F_LEAD_ANYELEMENT:
		case F_LEAD_ANYELEMENT_INT4:
		case F_LEAD_ANYCOMPATIBLE_INT4_ANYCOMPATIBLE:
			*kind = SCKPT_FRAME_OFFSET;
			return true;
		case F_FIRST_VALUE:
			*kind = SCKPT_FRAME_FIRST;
			return true;
		case F_LAST_VALUE:
			*kind = SCKPT_FRAME_LAST;
			return true;
		case F_NTH_VALUE:
			*kind = SCKPT_FRAME_NTH;
			return true;
		default:
			*kind = SCKPT_FRAME_AGGREGATE;
			return get_func_prokind(call->winfnoid) == PROKIND_AGGREGATE;
	}
}

static bool
is_lag(WindowFunc *call)
{
	return call->winfnoid == F_LAG_ANYELEMENT || call->winfnoid == F_LAG_ANYELEMENT_INT4 ||
		call->winfnoid == F_LAG_ANYCOMPATIBLE_INT4_ANYCOMPATIBLE;
}

static bool
check_calls(Node *node, void *context)
{
	SckptFrameKind kind;
	SckptRankKind rank;

	if (node == NULL)
		return false;
	if (IsA(node, WindowFunc))
	{
		if (sckpt_rank_kind((WindowFunc *) node, &rank))
			sckpt_query_refuse("ranks beside other window functions of one query level", "Use a sub-select for the ranks.");
		if (!call_kind((WindowFunc *) node, &kind))
			sckpt_query_refuse(psprintf("window function %s()", get_func_name(((WindowFunc *) node)->winfnoid)),
							   "Aggregates, lag(), lead(), first_value(), last_value() and nth_value() are, and ranks with a condition rank <= n above. Use others in a query over the result table.");
		return false;
	}
	return expression_tree_walker(node, check_calls, context);
}

void
sckpt_frame_check(Query *query)
{
	WindowClause *first = linitial(query->windowClause);
	ListCell   *lc;

	(void) check_calls((Node *) query->targetList, NULL);
	foreach(lc, query->windowClause)
	{
		WindowClause *window = lfirst(lc);

		if (!equal(window->partitionClause, first->partitionClause) || !equal(window->orderClause, first->orderClause))
			sckpt_query_refuse("windows with different partitions or orders in one query level", "Use a sub-select for each of them.");
	}
}

/* ---- Frames ---- */

/* An offset of ROWS. */
static int64
frame_offset(Node *node, const char *which)
{
	int64		offset;

	if (!sckpt_rank_integer(node, &offset))
		sckpt_query_refuse("a frame whose offset is not a constant", "Write the number.");
	if (offset < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PRECEDING_OR_FOLLOWING_SIZE),
				 errmsg("frame %s offset must not be negative", which)));
	return Min(offset, FAR_AWAY);
}

/* The rows that a call is about, unless it has offsets of its own. */
static void
set_frame(SckptFrameCall *call, WindowClause *window)
{
	int			options = window->frameOptions;
	const char *hint = "Use ROWS BETWEEN n PRECEDING AND n FOLLOWING, or UNBOUNDED PRECEDING with CURRENT ROW.";

	if (options & FRAMEOPTION_GROUPS)
		sckpt_query_refuse("a frame in GROUPS", hint);
	if (options & FRAMEOPTION_EXCLUSION)
		sckpt_query_refuse("EXCLUDE in a frame", "Leave it out.");
	if (options & FRAMEOPTION_END_UNBOUNDED_FOLLOWING)
		sckpt_query_refuse("a frame up to UNBOUNDED FOLLOWING", hint);
	call->unbounded = (options & FRAMEOPTION_START_UNBOUNDED_PRECEDING) != 0;
	if (options & FRAMEOPTION_RANGE)
	{
		if (!call->unbounded || !(options & FRAMEOPTION_END_CURRENT_ROW))
			sckpt_query_refuse("a frame in RANGE other than from UNBOUNDED PRECEDING to CURRENT ROW", hint);
		if (window->orderClause == NIL && call->kind != SCKPT_FRAME_FIRST)
			sckpt_query_refuse("a window function over all rows of a partition",
							   "Give the window an order, or join with a sub-select that groups by the partition's key.");
		call->peers = true;
		return;
	}
	if (options & FRAMEOPTION_START_OFFSET_PRECEDING)
		call->start = -frame_offset(window->startOffset, "starting");
	else if (options & FRAMEOPTION_START_OFFSET_FOLLOWING)
		call->start = frame_offset(window->startOffset, "starting");
	if (options & FRAMEOPTION_END_OFFSET_PRECEDING)
		call->end = -frame_offset(window->endOffset, "ending");
	else if (options & FRAMEOPTION_END_OFFSET_FOLLOWING)
		call->end = frame_offset(window->endOffset, "ending");
	if (call->unbounded && call->end != 0 && call->kind == SCKPT_FRAME_AGGREGATE)
		sckpt_query_refuse("a frame from UNBOUNDED PRECEDING to another row than the current one", hint);
}

/* ---- Calls ---- */

static Aggref *
make_aggref(WindowFunc *call)
{
	Aggref	   *aggref = makeNode(Aggref);
	ListCell   *lc;

	aggref->aggfnoid = call->winfnoid;
	aggref->aggtype = call->wintype;
	aggref->aggcollid = call->wincollid;
	aggref->inputcollid = call->inputcollid;
	aggref->aggfilter = call->aggfilter;
	aggref->aggstar = call->winstar;
	aggref->aggkind = AGGKIND_NORMAL;
	aggref->aggsplit = AGGSPLIT_SIMPLE;
	aggref->location = -1;
	foreach(lc, call->args)
	{
		Expr	   *argument = lfirst(lc);

		aggref->args = lappend(aggref->args, makeTargetEntry(copyObject(argument), foreach_current_index(lc) + 1, NULL, false));
		aggref->aggargtypes = lappend_oid(aggref->aggargtypes, exprType((Node *) argument));
	}
	return aggref;
}

/* Where it stands in the group's row; 0: it is a constant. */
static AttrNumber
group_column(SckptRankContext *context, Node *node)
{
	SckptQuery *stage = context->level->stage;
	int			key = sckpt_rank_key(stage, node);

	return key >= 0 ? key + 1 : stage->nkeys + 1 + sckpt_rank_column(context, node);
}

/* The rows that it looks at, and what it takes from them. */
static void
set_call(SckptRankContext *context, SckptFrameCall *call, WindowFunc *function, WindowClause *window)
{
	int64		offset = 1;
	List	   *args = function->args;
	StringInfoData buf;
	ListCell   *lc;

	(void) call_kind(function, &call->kind);
	call->type = function->wintype;
	call->typmod = -1;
	call->collation = function->wincollid;
	if (call->kind == SCKPT_FRAME_OFFSET)
	{
		if (list_length(args) > 1 && !sckpt_rank_integer(lsecond(args), &offset))
			sckpt_query_refuse(psprintf("%s() of an offset that is not a constant", get_func_name(function->winfnoid)), "Write the number.");
		call->start = call->end = is_lag(function) ? -offset : offset;
		if (list_length(args) == 3)
			args = list_make2(linitial(args), lthird(args));
		else
			args = list_make1(linitial(args));
	}
	else
		set_frame(call, window);
	if (call->kind == SCKPT_FRAME_NTH)
	{
		if (!sckpt_rank_integer(lsecond(args), &call->nth))
			sckpt_query_refuse("nth_value() of a number that is not a constant", "Write the number.");
		if (call->nth <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_ARGUMENT_FOR_NTH_VALUE),
					 errmsg("argument of nth_value must be greater than zero")));
		args = list_make1(linitial(args));
	}

	call->args = palloc0(Max(1, list_length(args)) * sizeof(SckptFrameArg));
	initStringInfo(&buf);
	appendStringInfo(&buf, "%s(", format_procedure_qualified(function->winfnoid));
	foreach(lc, args)
	{
		SckptFrameArg *arg = &call->args[call->nargs++];
		Node	   *node = lfirst(lc);
		Node	   *constant = eval_const_expressions(NULL, node);

		if (IsA(constant, Const))
			arg->constant = (Const *) constant;
		else
			arg->column = group_column(context, (Node *) sckpt_call_guard(function->aggfilter, (Expr *) node));
		appendStringInfo(&buf, "%s%s", call->nargs > 1 ? ", " : "", sckpt_level_canonical(context->level, node));
	}
	if (function->aggfilter)
	{
		call->filter = group_column(context, (Node *) function->aggfilter);
		appendStringInfo(&buf, " where %s", sckpt_level_canonical(context->level, (Node *) function->aggfilter));
	}
	appendStringInfoString(&buf, ")");
	if (call->kind == SCKPT_FRAME_NTH)
		appendStringInfo(&buf, " " INT64_FORMAT, call->nth);
	if (call->unbounded)
		appendStringInfoString(&buf, " over rows from the first");
	else
		appendStringInfo(&buf, " over rows from " INT64_FORMAT, call->start);
	if (call->peers)
		appendStringInfoString(&buf, " to the last that is equal");
	else
		appendStringInfo(&buf, " to " INT64_FORMAT, call->end);
	call->canonical = buf.data;
	if (call->kind == SCKPT_FRAME_AGGREGATE)
	{
		call->call.aggref = make_aggref(function);
		call->call.canonical = call->canonical;
		call->call.nargs = call->nargs;
		call->call.set = -1;
		call->call.mode = sckpt_call_frame_mode(call->call.aggref, call->unbounded);
	}
}

static bool
collect_calls(Node *node, SckptRankContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, WindowFunc))
	{
		context->calls = list_append_unique(context->calls, node);
		return false;
	}
	return expression_tree_walker(node, collect_calls, context);
}

/* What the stage keeps, in words. */
static char *
describe(SckptFraming *framing, SckptSetColumns *set)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < framing->ncalls; i++)
		appendStringInfo(&buf, "%s%s", i == 0 ? "" : "; ", framing->calls[i].canonical);
	for (int i = 0; i < framing->order.ncolumns; i++)
		appendStringInfo(&buf, "%s %s using %s%s", i == 0 ? " by" : ",",
						 set->columns[framing->order.columns[i]].canonical,
						 get_opname(framing->order.ops[i]), framing->order.nulls_first[i] ? " nulls first" : "");
	return buf.data;
}

void
sckpt_level_split_frame(SckptLevel *level, SckptRankClauses *clauses)
{
	Query	   *query = level->query;
	SckptQuery *stage = level->stage;
	SckptRankContext context = {.level = level};
	SckptFraming *framing = palloc0(sizeof(SckptFraming));
	List	   *targets = (List *) sckpt_flatten_join_alias_vars(query, (Node *) query->targetList);
	List	   *visible = NIL;
	bool		last = level->last;
	ListCell   *lc;
	ListCell   *lw;

	sckpt_query_refuse_clock((Node *) targets, "a query with window functions");
	if (level->track)
		sckpt_query_refuse("state_ttl for window functions over rows", "Leave the argument out, or put a window of the event time among the PARTITION BY columns.");
	if (contain_volatile_functions((Node *) targets))
		sckpt_query_refuse("a volatile function in the target list of a query with window functions", "Use it in a sub-select.");
	if (contain_subplans((Node *) targets))
		sckpt_query_refuse("a sub-select in the target list of a query with window functions", "Join the result with the table in a view.");

	/* Keys need not be selected: sckpt_rank_keep(). */
	level->last = false;
	sckpt_level_read_keys(level, targets);
	level->last = last;
	if (stage->nsession > 0)
		sckpt_query_refuse("window functions within sessions", "Group by the session in a sub-select.");
	sckpt_rank_set_order(&framing->order, &context, clauses->order, targets);
	foreach(lc, targets)
	{
		if (!lfirst_node(TargetEntry, lc)->resjunk)
			visible = lappend(visible, lfirst(lc));
	}
	(void) collect_calls((Node *) visible, &context);
	framing->ncalls = list_length(context.calls);
	framing->calls = palloc0(Max(1, framing->ncalls) * sizeof(SckptFrameCall));
	foreach(lc, context.calls)
	{
		WindowFunc *function = lfirst(lc);

		foreach(lw, clauses->windows)
		{
			if (lfirst_node(WindowClause, lw)->winref == function->winref)
				set_call(&context, &framing->calls[foreach_current_index(lc)], function, lfirst(lw));
		}
	}
	(void) sckpt_rank_collect_columns((Node *) visible, &context);
	stage->targetlist = (List *) sckpt_rank_replace_columns((Node *) visible, &context);
	sckpt_rank_make_set(level, &context);
	framing->canonical = describe(framing, &stage->sets[0]);
	stage->framing = framing;
	stage->calls = palloc0(sizeof(SckptCall));
	sckpt_level_finish_columns(level);
	if (level->below == 0)
		stage->source = sckpt_level_source_sql(level);
}
