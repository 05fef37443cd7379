/*-------------------------------------------------------------------------
 *
 * query_route.c
 *		By which group keys a query's rows can be spread over tasks.
 *
 * A row goes to the task that a hash of its routing keys says, before anything else of the query is evaluated, and is evaluated only there.  So
 * routing keys are those group keys that are immutable expressions over the columns of the stream itself: all tasks must come to the same
 * answer, now and when the log is read again.  What is looked up in tables, or depends on a window, is no such key.  Any such key will do, since rows
 * of one group agree in all of them.
 *
 * A later stage is spread, too, as long as there is a routing key that it groups by, and the stages below it do; the others run in one task.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

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

/* For each stream a key's expression; NIL: the key is no routing key. */
static List *
trace_key(SckptQuery *first, Query *query, Node *expr)
{
	List	   *exprs = NIL;
	ListCell   *lc;

	foreach(lc, first->streams)
	{
		Node	   *found = trace(query, expr, lfirst_oid(lc));

		if (found == NULL || contain_mutable_functions(found) || contain_subplans(found) || !contain_var_clause(found))
			return NIL;
		exprs = lappend(exprs, found);
	}
	return exprs;
}

/* Of a stage: which of its keys is the first stage's key `number`; -1: none. */
static int
find_key(SckptQuery *first, SckptQuery *stage, int number)
{
	SckptQuery *below = first;

	if (stage == first)
		return number;
	while (below->above != stage)
		below = below->above;
	number = find_key(first, below, number);
	for (int i = 0; i < stage->nkeys && number >= 0; i++)
	{
		if (stage->keys[i].below == number + 1)
			return i;
	}
	return -1;
}

int
sckpt_query_spread(SckptQuery *query, bool keep_dead, int parallelism)
{
	int			nstages = 0;

	for (SckptQuery *stage = query; stage; stage = stage->above)
		nstages++;

	/* A row that the head's stage refuses would have to be taken back below, where it has been handed on already. */
	if (parallelism == 1 || (keep_dead && query->nspread < nstages))
		return 0;
	return query->nspread;
}

void
sckpt_query_find_routes(SckptQuery *first, Query *query, Node **exprs)
{
	List	   *traced = NIL;	/* of numbers of keys */
	List	  **key_exprs = palloc0(Max(1, first->nkeys) * sizeof(List *));
	SckptQuery *last = NULL;
	ListCell   *lc;

	first->nspread = 0;
	if (!first->grouped || list_length(first->streams) != first->nscans)
		return;
	for (int i = 0; i < first->nkeys - first->nsession; i++)
	{
		key_exprs[i] = trace_key(first, query, exprs ? exprs[i] : first->keys[i].expr);
		if (key_exprs[i])
			traced = lappend_int(traced, i);
	}
	for (SckptQuery *stage = first; stage && traced; stage = stage->above)
	{
		List	   *kept = NIL;

		foreach(lc, traced)
		{
			if (find_key(first, stage, lfirst_int(lc)) >= 0)
				kept = lappend_int(kept, lfirst_int(lc));
		}
		if (kept == NIL)
			break;
		traced = kept;
		first->nspread++;
		last = stage;
	}
	for (SckptQuery *stage = first; last; stage = stage->above)
	{
		stage->nroutes = list_length(traced);
		stage->routes = palloc(stage->nroutes * sizeof(int));
		foreach(lc, traced)
			stage->routes[foreach_current_index(lc)] = find_key(first, stage, lfirst_int(lc));
		if (stage == last)
			break;
	}
	foreach(lc, traced)
		first->route_exprs = lappend(first->route_exprs, key_exprs[lfirst_int(lc)]);
}
