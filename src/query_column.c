/*-------------------------------------------------------------------------
 *
 * query_column.c
 *		The columns of a stage's input row.
 *
 * What depends on the stream's row alone is computed by the source's SQL.  What depends on the bounds of a window cannot be known
 * there: the SQL puts out NULL in its place, and the expander (expand.c) computes it from the row's other columns.  Over a
 * stage below there is no SQL, and every expression is computed so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "query_private.h"
#include "stream.h"

typedef struct BelowContext
{
	int			base;
} BelowContext;

static AttrNumber
append_column(SckptLevel *level, Expr *expr)
{
	level->columns = lappend(level->columns,
							 makeTargetEntry(copyObject(expr), list_length(level->columns) + 1,
											 psprintf("c%d", list_length(level->columns) + 1), false));
	return list_length(level->columns);
}

/* A column that is filled in later. */
static AttrNumber
placeholder(SckptLevel *level, Node *expr)
{
	return append_column(level, (Expr *) makeNullConst(exprType(expr), exprTypmod(expr), exprCollation(expr)));
}

/* A column that the source computes. */
static AttrNumber
source_column(SckptLevel *level, Expr *expr, bool share)
{
	ListCell   *lc;

	foreach(lc, level->columns)
	{
		TargetEntry *entry = lfirst(lc);

		/* a NULL may be the place of something that is filled in later */
		if (share && equal(entry->expr, expr) && !contain_volatile_functions((Node *) expr) &&
			!(IsA(expr, Const) && ((Const *) expr)->constisnull))
			return entry->resno;
	}
	return append_column(level, expr);
}

/* ---- Expressions over the row ---- */

/* Functions that may look into tables; those of PostgreSQL that are stable depend on settings, which pipelines keep. */
static bool
may_look_up(Oid function, void *context)
{
	return func_volatile(function) != PROVOLATILE_IMMUTABLE && function >= FirstNormalObjectId;
}

bool
sckpt_level_looks_up(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, may_look_up, context))
		return true;
	return expression_tree_walker(node, sckpt_level_looks_up, context);
}

/* The row's column with a bound, which is made if there is none. */
static AttrNumber
bound_column(SckptLevel *level, SckptLevelWindow *window, SckptBound bound, Node *node)
{
	AttrNumber *column = bound == SCKPT_BOUND_START ? &window->window->start : &window->window->end;

	if (window->window->spec.kind == SCKPT_WINDOW_SESSION && level->stage->grouped && *column == 0)
		sckpt_query_refuse("a bound of session() that is not a group key",
						   "Sessions are not known while rows are taken in: group by the bound, and use it in the target list and in HAVING.");
	if (*column == 0)
		*column = placeholder(level, node);
	return *column;
}

static Node *
row_expr_mutator(Node *node, SckptLevel *level)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		SckptLevelWindow *window;
		SckptBound	bound = sckpt_level_bound_of(level, node, &window);
		Var		   *var = (Var *) node;
		AttrNumber	column;

		if (bound == SCKPT_BOUND_NONE && level->below)
		{
			if (var->varattno <= 0)
				sckpt_query_refuse("the whole row of a grouped sub-select", "Name its columns.");
			return (Node *) makeVar(SCKPT_BELOW, var->varattno, var->vartype, var->vartypmod, var->varcollid, 0);
		}
		if (bound != SCKPT_BOUND_NONE && window->window->spec.kind == SCKPT_WINDOW_SESSION && level->stage->grouped)
			sckpt_query_refuse("a bound of session() in WHERE, an aggregate or an expression of GROUP BY",
							   "Sessions are not known while rows are taken in: group by the bound, and use it in the target list and in HAVING.");
		column = bound != SCKPT_BOUND_NONE ? bound_column(level, window, bound, node) :
			source_column(level, (Expr *) node, true);
		return (Node *) makeVar(1, column, var->vartype, var->vartypmod, var->varcollid, 0);
	}
	return expression_tree_mutator(node, row_expr_mutator, level);
}

Expr *
sckpt_level_row_expr(SckptLevel *level, Expr *expr)
{
	Node	   *node = (Node *) expr;

	if (checkExprHasSubLink(node))
		sckpt_query_refuse(level->below ? "a sub-select in a query over a grouped sub-select" :
						   "a sub-select over the bounds of a window",
						   "Join the result with the table in a view.");
	if (contain_volatile_functions(node))
		sckpt_query_refuse(level->below ? "a volatile function in a query over a grouped sub-select" :
						   "a volatile function over the bounds of a window",
						   "Use it in a query over the result table.");
	if (level->below && !level->final)
	{
		sckpt_query_refuse_clock(node, "a query over a grouped sub-select");
		if (sckpt_level_looks_up(node, NULL))
			sckpt_query_refuse("a function that is not immutable in a query over a grouped sub-select",
							   "Use it in the sub-select, or in a query over the result table.");
	}
	return (Expr *) row_expr_mutator(node, level);
}

/*
 * Is the expression to be computed by the expander?  It is if it depends on a window; and if there are conditions that do, lest it
 * fails for rows that they exclude.
 */
static bool
is_computed(SckptLevel *level, Expr *expr)
{
	if (level->below || sckpt_level_uses_windows(level, (Node *) expr))
		return true;
	return level->conditions != NIL && !IsA(expr, Var) && !IsA(expr, Const) &&
		!checkExprHasSubLink((Node *) expr) && !contain_volatile_functions((Node *) expr);
}

/* The column with an expression that the expander computes. */
static AttrNumber
computed_column(SckptLevel *level, Expr *expr)
{
	SckptComputed *computed = palloc0(sizeof(SckptComputed));
	ListCell   *lc;

	computed->expr = sckpt_level_row_expr(level, expr);
	foreach(lc, level->computed)
	{
		SckptComputed *other = lfirst(lc);

		if (equal(other->expr, computed->expr))
			return other->column;
	}
	computed->column = placeholder(level, (Node *) expr);
	level->computed = lappend(level->computed, computed);
	return computed->column;
}

void
sckpt_level_key_columns(SckptLevel *level)
{
	SckptQuery *stage = level->stage;
	List	   *computed = NIL;
	ListCell   *lc;

	/* All of them get their places before any gets the columns that it is computed from. */
	for (int i = 0; i < stage->nkeys; i++)
	{
		Expr	   *expr = (Expr *) stage->keys[i].expr;
		SckptLevelWindow *window;
		SckptBound	bound = sckpt_level_bound_of(level, (Node *) expr, &window);
		AttrNumber *column = NULL;

		if (bound != SCKPT_BOUND_NONE)
			column = bound == SCKPT_BOUND_START ? &window->window->start : &window->window->end;
		if (column && *column == 0)
			*column = placeholder(level, (Node *) expr);
		else if (is_computed(level, expr))
		{
			SckptComputed *key = palloc0(sizeof(SckptComputed));

			key->expr = expr;
			key->column = placeholder(level, (Node *) expr);
			computed = lappend(computed, key);
		}
		else
			(void) source_column(level, expr, false);
	}
	foreach(lc, computed)
	{
		SckptComputed *key = lfirst(lc);

		key->expr = sckpt_level_row_expr(level, key->expr);
	}
	level->computed = list_concat(level->computed, computed);
}

AttrNumber
sckpt_level_column(SckptLevel *level, Expr *expr)
{
	SckptLevelWindow *window;
	SckptBound	bound = sckpt_level_bound_of(level, (Node *) expr, &window);

	if (bound != SCKPT_BOUND_NONE && (window->window->spec.kind != SCKPT_WINDOW_SESSION || !level->stage->grouped))
		return bound_column(level, window, bound, (Node *) expr);
	if (is_computed(level, expr))
		return computed_column(level, expr);
	return source_column(level, expr, true);
}

Expr *
sckpt_level_target(SckptLevel *level, Expr *expr)
{
	if (is_computed(level, expr))
		return sckpt_level_row_expr(level, expr);
	return (Expr *) makeVar(1, source_column(level, expr, true), exprType((Node *) expr), exprTypmod((Node *) expr),
							exprCollation((Node *) expr), 0);
}

/* ---- The row ---- */

/* Point Vars of the stage below to where its columns stand in the row. */
static Node *
place_below(Node *node, BelowContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && ((Var *) node)->varno == SCKPT_BELOW)
	{
		Var		   *var = (Var *) node;

		return (Node *) makeVar(1, context->base + var->varattno, var->vartype, var->vartypmod, var->varcollid, 0);
	}
	return expression_tree_mutator(node, place_below, context);
}

/* The column with the time of a window; of the stage below, its number there, negative. */
static AttrNumber
time_column(SckptLevel *level, Expr *time)
{
	if (level->below == 0)
		return source_column(level, time, true);
	if (IsA(time, Var) && ((Var *) time)->varattno > 0)
		return -((Var *) time)->varattno;
	return computed_column(level, time);
}

/* Does the source depend on nothing but the stream's rows? */
static bool
is_pure(SckptLevel *level)
{
	Query	   *query = level->query;
	SckptQuery *stage = level->stage;
	ListCell   *lc;

	if (level->below || query->hasSubLinks || list_length(query->jointree->fromlist) != 1 ||
		!IsA(linitial(query->jointree->fromlist), RangeTblRef) ||
		!sckpt_catalog_is_stream(rt_fetch(linitial_node(RangeTblRef, query->jointree->fromlist)->rtindex, query->rtable)->relid))
		return false;
	foreach(lc, level->computed)
	{
		if (contain_mutable_functions((Node *) ((SckptComputed *) lfirst(lc))->expr))
			return false;
	}
	return !contain_mutable_functions((Node *) level->columns) &&
		!contain_mutable_functions((Node *) stage->condition) &&
		!contain_mutable_functions(query->jointree->quals);
}

/* Do the columns outlive the row, in the batch? */
static bool
is_stable(SckptLevel *level)
{
	ListCell   *lc;

	foreach(lc, level->columns)
	{
		TargetEntry *entry = lfirst(lc);

		/* whoever reads the row's place reads it at once */
		if (entry->resno != level->stage->row && !get_typbyval(exprType((Node *) entry->expr)) &&
			!(IsA(entry->expr, Var) && ((Var *) entry->expr)->varattno > 0))
			return false;
	}
	return true;
}

void
sckpt_level_finish_columns(SckptLevel *level)
{
	SckptQuery *stage = level->stage;
	BelowContext context;
	ListCell   *lc;
	int			i;

	foreach(lc, level->windows)
	{
		SckptLevelWindow *window = lfirst(lc);

		window->window->time = time_column(level, window->time);
	}
	if (level->conditions)
		stage->condition = sckpt_level_row_expr(level, make_ands_explicit(level->conditions));

	if (level->below)
	{
		stage->base = context.base = list_length(level->columns);
		foreach(lc, level->input->targetlist)
			placeholder(level, (Node *) ((TargetEntry *) lfirst(lc))->expr);
		stage->condition = (Expr *) place_below((Node *) stage->condition, &context);
		for (i = 0; i < stage->nwindows; i++)
		{
			if (stage->windows[i].time < 0)
				stage->windows[i].time = stage->base - stage->windows[i].time;
		}
	}
	else if (level->stream && (stage->nwindows > 0 || (level->track && stage->grouped) || (level->place_wanted && level->place != 0)))
	{
		RangeTblEntry *input = rt_fetch(level->stream, level->query->rtable);
		AttrNumber	time;

		stage->row = append_column(level, (Expr *) makeVar(level->stream, level->place, TIDOID, -1, InvalidOid, 0));
		if (level->track && input->rtekind == RTE_SUBQUERY)
			stage->time = append_column(level, (Expr *) makeVar(level->stream, level->place + 1, TIMESTAMPTZOID, -1,
																InvalidOid, 0));
		else if (level->track && sckpt_stream_event_time(input->relid, &time, NULL, NULL))
			stage->time = append_column(level, (Expr *) makeVar(level->stream, time, get_atttype(input->relid, time), -1,
																InvalidOid, 0));
	}

	stage->ncomputed = list_length(level->computed);
	stage->computed = palloc0(Max(1, stage->ncomputed) * sizeof(SckptComputed));
	i = 0;
	foreach(lc, level->computed)
	{
		stage->computed[i] = *(SckptComputed *) lfirst(lc);
		if (level->below)
			stage->computed[i].expr = (Expr *) place_below((Node *) stage->computed[i].expr, &context);
		i++;
	}

	stage->nsource = list_length(level->columns);
	stage->source_types = palloc(Max(1, stage->nsource) * sizeof(Oid));
	i = 0;
	foreach(lc, level->columns)
		stage->source_types[i++] = exprType((Node *) ((TargetEntry *) lfirst(lc))->expr);
	stage->pure = is_pure(level);
	stage->stable = stage->pure && is_stable(level);
}
