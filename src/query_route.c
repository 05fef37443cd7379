/*-------------------------------------------------------------------------
 *
 * query_route.c
 *		By which group keys a query's rows can be spread over tasks.
 *
 * A row goes to the task that a hash of its routing keys says, before anything else of the query is evaluated, and is evaluated only there.  So
 * routing keys are those keys that are immutable expressions over the columns of the stream itself: all tasks must come to the same
 * answer, now and when the log is read again.  What is looked up in tables, or depends on a window, is no such key.  Any such key will do, since rows
 * of one group agree in all of them, and so do rows that a join brings together: there each side has an expression of its own.
 *
 * Stages are a tree.  One that is spread takes with it all stages below it, which are routed by the same keys; so each of them has the key among its
 * own, and hands it on.  What a join may have filled up with NULLs is no key of its rows.  The stages above run in the head.  What a join there reads of streams
 * itself is read by the first task, and so is a stage with a source that has no routing key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"

#include "catalog.h"
#include "compat.h"
#include "query_private.h"

typedef struct TraceContext
{
	Query	   *query;
	Oid			stream;
	bool		failed;
} TraceContext;

static Node *trace(Query *query, Node *expr, Oid stream);
static Node *trace_union(Query *query, AttrNumber column, Oid stream);

/* What an output column of a sub-select is, over the columns of the stream. */
static Node *
trace_column(Query *query, AttrNumber column, Oid stream)
{
	TargetEntry *target;

	if (column <= 0)
		return NULL;
	if (sckpt_union_is(query))
		return trace_union(query, column, stream);
	target = get_tle_by_resno(query->targetList, column);
	if (target == NULL || sckpt_query_has_state(query))
		return NULL;
	return trace(query, (Node *) target->expr, stream);
}

/* The same of UNION ALL, in the part that reads the stream; there is one, since no stream is named twice. */
static Node *
trace_union(Query *query, AttrNumber column, Oid stream)
{
	ListCell   *lc;

	foreach(lc, sckpt_union_parts(query))
	{
		RangeTblEntry *rte = lfirst(lc);
		Node	   *found = rte->rtekind == RTE_SUBQUERY ? trace_column(rte->subquery, column, stream) : NULL;

		if (found)
			return found;
	}
	return NULL;
}

static Node *
trace_mutator(Node *node, TraceContext *context)
{
	if (node == NULL || context->failed)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;
		RangeTblEntry *rte;
		Node	   *found = NULL;

		if (var->varlevelsup == 0)
		{
			rte = rt_fetch(var->varno, context->query->rtable);
			if (rte->rtekind == RTE_RELATION && rte->relid == context->stream && var->varattno > 0)
				found = (Node *) makeVar(1, var->varattno, var->vartype, var->vartypmod, var->varcollid, 0);
			else if (rte->rtekind == RTE_SUBQUERY)
				found = trace_column(rte->subquery, var->varattno, context->stream);
		}
		context->failed |= found == NULL;
		return found;
	}
	if (IsA(node, SubLink) || IsA(node, Param) || IsA(node, Aggref))
	{
		context->failed = true;
		return NULL;
	}
	return expression_tree_mutator(node, trace_mutator, context);
}

/* An expression of a query level over the columns of a stream; NULL: it is over something else, too. */
static Node *
trace(Query *query, Node *expr, Oid stream)
{
	TraceContext context = {query, stream, false};
	Node	   *found = trace_mutator(sckpt_flatten_join_alias_vars(query, expr), &context);

	return context.failed ? NULL : found;
}

/* For each stream of a source a key's expression; NIL: the key is no routing key. */
static List *
trace_key(SckptQuery *source, Query *query, Node *expr)
{
	List	   *exprs = NIL;
	ListCell   *lc;

	if (list_length(source->scanned) != source->nscanned)
		return NIL;
	foreach(lc, source->scanned)
	{
		Node	   *found = trace(query, expr, lfirst_oid(lc));

		if (found == NULL || contain_mutable_functions(found) || contain_subplans(found) || !contain_var_clause(found))
			return NIL;
		exprs = lappend(exprs, expression_planner((Expr *) found));
	}
	return exprs;
}

/* ---- From a stage's key down to the sources ---- */

/* What a key is on its way: of a stage, one of its keys; of a source, an expression for each of its streams. */
typedef struct Step
{
	SckptQuery *query;
	int			number;
	List	   *exprs;			/* NIL: it reads a stage */
} Step;

typedef struct RouteContext
{
	SckptQuery *first;
	/* of a query that was not taken apart into levels: the query, and its keys there */
	Query	   *query;
	Node	  **exprs;
} RouteContext;

static bool follow_key(RouteContext *context, SckptQuery *stage, int number, SckptKey *as, List **steps);

static SckptQuery *
stage_below(RouteContext *context, SckptQuery *stage, int side)
{
	for (SckptQuery *below = context->first; below; below = below->above)
	{
		if (below->target == stage && below->side == side)
			return below;
	}
	return NULL;
}

static void
add_step(List **steps, SckptQuery *query, int number, List *exprs)
{
	Step	   *step = palloc(sizeof(Step));

	*step = (Step) {query, number, exprs};
	*steps = lappend(*steps, step);
}

/* A column of what a stage hands on. */
static bool
follow_result(RouteContext *context, SckptQuery *stage, AttrNumber column, SckptKey *as, List **steps)
{
	Var		   *var = (Var *) list_nth_node(TargetEntry, stage->targetlist, column - 1)->expr;
	SckptJoin  *join = stage->join;
	int			side;

	if (!IsA(var, Var) || var->varattno <= 0)
		return false;
	if (join == NULL)
		return stage->grouped && var->varattno <= stage->nkeys && follow_key(context, stage, var->varattno - 1, as, steps);
	side = var->varattno > join->rows[0]->natts;
	if (join->type == JOIN_FULL || join->type == (side == 0 ? JOIN_RIGHT : JOIN_LEFT))
		return false;
	for (int i = 0; i < join->nkeys; i++)
	{
		int			nsteps = list_length(*steps);

		if (join->columns[side][i] != var->varattno - (side == 0 ? 0 : join->rows[0]->natts))
			continue;
		if (follow_key(context, stage, i, as, steps))
			return true;
		*steps = list_truncate(*steps, nsteps);
	}
	return false;
}

static bool
follow_side(RouteContext *context, SckptQuery *stage, int side, int number, SckptKey *as, List **steps)
{
	SckptQuery *leaf = stage->join->leaf[side];
	AttrNumber	column = stage->join->columns[side][number];
	SckptQuery *below;
	List	   *exprs;

	if (leaf == NULL)
	{
		below = stage_below(context, stage, side);
		return below && follow_result(context, below, column, as, steps);
	}
	if (leaf->level == NULL)
		return false;
	exprs = trace_key(leaf, leaf->level, (Node *) list_nth_node(TargetEntry, leaf->level->targetList, column - 1)->expr);
	if (exprs == NIL)
		return false;
	add_step(steps, leaf, number, exprs);
	return true;
}

/* `as`: the key that it is to be routed by. */
static bool
follow_key(RouteContext *context, SckptQuery *stage, int number, SckptKey *as, List **steps)
{
	SckptKey   *key = stage->join ? &stage->join->keys[number] : &stage->keys[number];
	SckptQuery *below;
	List	   *exprs = NIL;

	check_stack_depth();
	if (key->type != as->type || key->collation != as->collation || key->eq_op != as->eq_op)
		return false;
	if (stage->join)
	{
		add_step(steps, stage, number, NIL);
		return follow_side(context, stage, 0, number, as, steps) && follow_side(context, stage, 1, number, as, steps);
	}
	if (!stage->grouped || number >= stage->nkeys - stage->nsession)
		return false;
	if (stage->source)
	{
		if (stage->level)
			exprs = trace_key(stage, stage->level, key->expr);
		else if (context->query)
			exprs = trace_key(stage, context->query, context->exprs[number]);
		if (exprs == NIL)
			return false;
	}
	add_step(steps, stage, number, exprs);
	if (stage->source)
		return true;
	below = stage_below(context, stage, 0);
	if (below == NULL)
		return false;
	if (below->join)
		return key->expr && IsA(key->expr, Var) && follow_result(context, below, ((Var *) key->expr)->varattno, as, steps);
	return key->below > 0 && follow_key(context, below, key->below - 1, as, steps);
}

/* ---- What is spread ---- */

static void
add_route(Step *step, SckptKey *as)
{
	SckptQuery *query = step->query;

	query->spread = true;
	query->routes = query->routes ? repalloc(query->routes, (query->nroutes + 1) * sizeof(int)) : palloc(sizeof(int));
	query->route_keys = query->route_keys ? repalloc(query->route_keys, (query->nroutes + 1) * sizeof(SckptKey)) : palloc(sizeof(SckptKey));
	query->routes[query->nroutes] = step->number;
	query->route_keys[query->nroutes++] = *as;
	if (step->exprs)
		query->route_exprs = lappend(query->route_exprs, step->exprs);
}

/* Spread a stage with those below it, or else each of those for itself. */
static void
spread(RouteContext *context, SckptQuery *stage)
{
	int			nkeys = stage->join ? stage->join->nkeys : stage->grouped ? stage->nkeys : 0;

	check_stack_depth();
	for (int i = 0; i < nkeys; i++)
	{
		SckptKey   *key = stage->join ? &stage->join->keys[i] : &stage->keys[i];
		List	   *steps = NIL;
		ListCell   *lc;

		if (!follow_key(context, stage, i, key, &steps))
			continue;
		foreach(lc, steps)
			add_route(lfirst(lc), key);
	}
	for (int side = 0; side < 2 && !stage->spread; side++)
	{
		SckptQuery *below = stage_below(context, stage, side);

		if (below)
			spread(context, below);
	}
}

int
sckpt_query_spread(SckptQuery *query, bool keep_dead, int parallelism)
{
	int			nstages = 0;
	int			nspread = 0;
	List	   *read = NIL;
	bool		twice = false;
	bool		forgets = false;

	for (SckptQuery *stage = query; stage; stage = stage->above)
	{
		nstages++;
		nspread += stage->spread;
		for (int side = 0; side < 3; side++)
		{
			SckptQuery *source = side == 2 ? stage : stage->join ? stage->join->leaf[side] : NULL;

			if (source == NULL || source->source == NULL)
				continue;
			forgets |= side < 2 && stage->join->forgets[side] && !stage->spread;
			twice |= list_length(list_difference_oid(source->scanned, read)) < list_length(source->scanned);
			read = list_concat_unique_oid(read, source->scanned);
		}
	}

	/*
	 * A row that the head's stage refuses would have to be taken back below, where it has been handed on already; and so would, in another task, one that is read
	 * twice.  Rows on their way to the head have no time by which they could be forgotten.
	 */
	if (parallelism == 1 || forgets || (keep_dead && (nspread < nstages || twice)))
		return 0;
	return nspread;
}

void
sckpt_query_find_routes(SckptQuery *first, Query *query, Node **exprs)
{
	RouteContext context = {first, query, exprs};
	bool		any = false;

	spread(&context, sckpt_query_last(first));
	for (SckptQuery *stage = first; stage; stage = stage->above)
		any |= stage->spread;
	for (SckptQuery *stage = first; stage; stage = stage->above)
		stage->spread |= any && stage->grouped && stage->source;
}
