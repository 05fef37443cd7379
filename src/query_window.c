/*-------------------------------------------------------------------------
 *
 * query_window.c
 *		The window functions of a query level.
 *
 * tumble(), hop(), cumulate() and session() over a stream are not run by
 * PostgreSQL: their arguments are taken as constants, their bounds become
 * columns that are filled in when a row is taken in (expand.c), and what
 * depends on the bounds is computed there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "query_private.h"
#include "stream.h"

typedef struct UseContext
{
	SckptLevel *level;
	int			sublevels_up;
} UseContext;

static const char *const names[] = {
	[SCKPT_WINDOW_TUMBLE] = "tumble",
	[SCKPT_WINDOW_HOP] = "hop",
	[SCKPT_WINDOW_CUMULATE] = "cumulate",
	[SCKPT_WINDOW_SESSION] = "session",
};

const char *
sckpt_level_window_name(SckptWindowKind kind)
{
	return names[kind];
}

bool
sckpt_level_window_kind(RangeTblEntry *rte, SckptWindowKind *kind)
{
	ListCell   *lc;

	if (rte->rtekind != RTE_FUNCTION)
		return false;
	foreach(lc, rte->functions)
	{
		FuncExpr   *call = (FuncExpr *) ((RangeTblFunction *) lfirst(lc))->funcexpr;
		char	   *name;

		if (!IsA(call, FuncExpr) || call->args == NIL)
			continue;
		name = get_func_name(call->funcid);
		for (int i = 0; name && i < lengthof(names); i++)
		{
			if (strcmp(name, names[i]) == 0 &&
				getExtensionOfObject(ProcedureRelationId, call->funcid) == sckpt_catalog_extension())
			{
				if (list_length(rte->functions) > 1)
					sckpt_query_refuse(psprintf("%s() in ROWS FROM", name), "Write the function into FROM on its own.");
				*kind = i;
				return true;
			}
		}
	}
	return false;
}

/* ---- Arguments ---- */

/* The value of an argument that must be constant. */
static Const *
constant_argument(Expr *expr, const char *function, const char *argument)
{
	Node	   *node;

	sckpt_query_refuse_clock((Node *) expr, psprintf("argument %s of %s()", argument, function));
	node = eval_const_expressions(NULL, (Node *) expr);
	if (!IsA(node, Const) && !contain_var_clause(node) && !contain_volatile_functions(node) &&
		!checkExprHasSubLink(node))
		node = (Node *) evaluate_expr((Expr *) node, exprType(node), exprTypmod(node), exprCollation(node));
	if (!IsA(node, Const))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("argument %s of %s() that is not a constant is not supported in a pipeline", argument, function),
				 errhint("All rows of the stream must be in windows of the same kind.")));
	return (Const *) node;
}

static Interval *
constant_interval(Expr *expr, const char *function, const char *argument)
{
	Const	   *value = constant_argument(expr, function, argument);

	return value->constisnull ? NULL : DatumGetIntervalP(value->constvalue);
}

/* Fill in the spec; returns the expression of the time. */
static Expr *
read_call(FuncExpr *call, SckptWindowKind kind, SckptWindowSpec *spec)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(call->funcid));
	bool		has_slide = kind == SCKPT_WINDOW_HOP || kind == SCKPT_WINDOW_CUMULATE;
	Interval   *slide = NULL;
	Interval   *size;
	Const	   *origin = NULL;
	List	   *args;
	int			n = 1;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", call->funcid);
	args = expand_function_arguments(copyObject(call->args), false, call->funcresulttype, tuple);
	ReleaseSysCache(tuple);

	if (has_slide)
		slide = constant_interval(list_nth(args, n++), names[kind], kind == SCKPT_WINDOW_HOP ? "slide" : "step");
	size = constant_interval(list_nth(args, n++), names[kind], kind == SCKPT_WINDOW_SESSION ? "gap" : "size");
	if (n < list_length(args))
		origin = constant_argument(list_nth(args, n), names[kind], "origin");
	sckpt_window_init(spec, kind, exprType(linitial(args)) == TIMESTAMPTZOID, slide, size,
					  origin && !origin->constisnull,
					  origin && !origin->constisnull ? DatumGetInt64(origin->constvalue) : 0);
	return linitial(args);
}

/* Of a key of the stage below: how long after its end everything of the window before it has arrived. */
static bool
time_of_below(SckptLevel *level, Var *var, int64 *delay)
{
	SckptKey   *key = sckpt_level_below_key(level, (Node *) var);

	if (key == NULL || key->bound == SCKPT_BOUND_NONE || key->window == NULL)
		return false;
	*delay = key->delay;
	if (key->bound == SCKPT_BOUND_START)
	{
		int64		size = key->window->size;

		/* A session starts before its end by any time. */
		if (key->window->kind == SCKPT_WINDOW_SESSION)
			return false;

		/* A month is 31 days at most, and what clocks are set by within it less than one. */
		if (key->window->months != 0 &&
			(pg_mul_s64_overflow(key->window->months, 31 * USECS_PER_DAY, &size) ||
			 pg_add_s64_overflow(size, USECS_PER_DAY, &size)))
			return false;
		if (pg_add_s64_overflow(*delay, size, delay))
			return false;
	}
	return true;
}

void
sckpt_level_make_windows(SckptLevel *level)
{
	SckptQuery *stage = level->stage;
	SckptWindow *window;
	ListCell   *lc;
	bool		session = false;

	stage->nwindows = list_length(level->windows);
	stage->windows = palloc0(Max(1, stage->nwindows) * sizeof(SckptWindow));
	if (level->below == 0 && stage->nwindows > 0 && level->place == 0)
		sckpt_query_refuse("a window over a view that reads a stream", "Name the stream itself in FROM.");

	window = stage->windows;
	foreach(lc, level->windows)
	{
		SckptLevelWindow *entry = lfirst(lc);
		char	   *name = get_func_name(entry->call->funcid);
		SckptWindowKind kind = SCKPT_WINDOW_TUMBLE;
		Node	   *time;

		while (strcmp(name, names[kind]) != 0)
			kind++;
		if (sckpt_level_uses_windows(level, (Node *) entry->call->args))
			sckpt_query_refuse("a window over the bounds of another window of the same FROM clause",
							   "Group by the first window in a sub-select, and use the second one over that.");
		entry->window = window;
		entry->time = read_call(entry->call, kind, &window->spec);
		sckpt_query_refuse_clock((Node *) entry->time, psprintf("argument ts of %s()", names[kind]));
		if (kind == SCKPT_WINDOW_SESSION)
		{
			session = true;
			if (level->below)
				sckpt_query_refuse("session() over a grouped sub-select", "Use session() over the stream itself.");
		}

		time = (Node *) entry->time;
		while (time && IsA(time, RelabelType))
			time = (Node *) ((RelabelType *) time)->arg;
		if (IsA(time, Var) && level->below)
			window->closes = time_of_below(level, (Var *) time, &window->delay);
		else if (IsA(time, Var) && ((Var *) time)->varno == level->stream)
		{
			bool		declared = false;

			if (sckpt_union_is_event_time(rt_fetch(level->stream, level->query->rtable), ((Var *) time)->varattno, &declared))
				window->closes = window->judges = declared;
		}
		window++;
	}
	if (session && stage->nwindows > 1)
		sckpt_query_refuse("session() beside another window of the same FROM clause",
						   "Create a pipeline for each of them.");
}

/* ---- Bounds ---- */

SckptBound
sckpt_level_bound_of(SckptLevel *level, Node *node, SckptLevelWindow **window)
{
	ListCell   *lc;

	if (node == NULL || !IsA(node, Var) || ((Var *) node)->varlevelsup != 0)
		return SCKPT_BOUND_NONE;
	foreach(lc, level->windows)
	{
		SckptLevelWindow *entry = lfirst(lc);

		if (((Var *) node)->varno != entry->index)
			continue;
		*window = entry;
		switch (((Var *) node)->varattno)
		{
			case 1:
				return SCKPT_BOUND_START;
			case 2:
				return SCKPT_BOUND_END;
			default:
				sckpt_query_refuse("the whole row of a window", "Name its columns, window_start and window_end.");
		}
	}
	return SCKPT_BOUND_NONE;
}

static bool
uses_windows(Node *node, UseContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		ListCell   *lc;

		foreach(lc, context->level->windows)
		{
			if (((Var *) node)->varno == ((SckptLevelWindow *) lfirst(lc))->index &&
				((Var *) node)->varlevelsup == context->sublevels_up)
				return true;
		}
		return false;
	}
	if (IsA(node, Query))
	{
		bool		result;

		context->sublevels_up++;
		result = query_tree_walker((Query *) node, uses_windows, context, 0);
		context->sublevels_up--;
		return result;
	}
	return expression_tree_walker(node, uses_windows, context);
}

bool
sckpt_level_uses_windows(SckptLevel *level, Node *node)
{
	UseContext	context = {level, 0};

	return level->windows != NIL && uses_windows(node, &context);
}

SckptKey *
sckpt_level_below_key(SckptLevel *level, Node *node)
{
	Var		   *var = (Var *) node;
	SckptQuery *input = level->input;

	if (level->below == 0 || node == NULL || !IsA(var, Var) || var->varno != level->below ||
		var->varlevelsup != 0 || var->varattno <= 0 || var->varattno > list_length(level->input->targetlist))
		return NULL;
	for (;;)
	{
		var = (Var *) list_nth_node(TargetEntry, input->targetlist, var->varattno - 1)->expr;
		if (!IsA(var, Var))
			return NULL;
		if (input->join == NULL || input->join->lookup == NULL)
			return var->varattno <= input->nkeys ? &input->keys[var->varattno - 1] : NULL;

		/* What is looked up for its rows does not change when they close. */
		if (var->varattno > input->join->rows[0]->natts)
			return NULL;
		input = input->join->looked;
	}
}

void
sckpt_level_key_time(SckptLevel *level, SckptKey *key)
{
	SckptLevelWindow *window;
	SckptBound	bound = sckpt_level_bound_of(level, key->expr, &window);
	SckptKey   *below;

	if (bound != SCKPT_BOUND_NONE)
	{
		/* A session's bounds are told apart by this, too. */
		if (window->window->closes || window->window->spec.kind == SCKPT_WINDOW_SESSION)
			key->bound = bound;
		if (!window->window->closes)
			return;
		key->window = &window->window->spec;
		key->delay = window->window->delay;
	}
	else if ((below = sckpt_level_below_key(level, key->expr)) != NULL && below->window != NULL &&
			 !(below->bound == SCKPT_BOUND_START && below->window->kind == SCKPT_WINDOW_SESSION))
	{
		/* A session's start does not say when it ends. */
		key->bound = below->bound;
		key->window = below->window;
		key->delay = below->delay;
	}
}

void
sckpt_level_split_conditions(SckptLevel *level)
{
	FromExpr   *from = level->query->jointree;
	List	   *rest = NIL;
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) from->quals))
	{
		if (level->below || sckpt_level_uses_windows(level, lfirst(lc)))
			level->conditions = lappend(level->conditions, lfirst(lc));
		else
			rest = lappend(rest, lfirst(lc));
	}
	from->quals = rest ? (Node *) make_ands_explicit(rest) : NULL;

	if (sckpt_level_uses_windows(level, (Node *) from->fromlist))
		sckpt_query_refuse("an outer join's condition over the bounds of a window",
						   "Join in a query over the result table.");
	foreach(lc, level->query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (sckpt_level_uses_windows(level, (Node *) rte->subquery) ||
			sckpt_level_uses_windows(level, (Node *) rte->functions) ||
			sckpt_level_uses_windows(level, (Node *) rte->tablefunc) ||
			sckpt_level_uses_windows(level, (Node *) rte->values_lists) ||
			(rte->tablesample && sckpt_level_uses_windows(level, (Node *) rte->tablesample)))
			sckpt_query_refuse("an item of FROM over the bounds of a window",
							   "Use the expression in the target list or in GROUP BY.");
	}
}
