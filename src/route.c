/*-------------------------------------------------------------------------
 *
 * route.c
 *		Which task of a parallel pipeline a row belongs to.
 *
 * Every task reads all rows, and takes its own.  That is decided in the scan of the stream, by the columns that the routing keys need; the rest of a row of
 * another task is not looked at.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"

#include "route.h"

struct SckptRouteScan
{
	SckptRoute *route;
	int			ncolumns;
	AttrNumber *columns;		/* of keys that are columns; 0: an expression */
	ExprState **exprs;
	Datum	   *values;
	bool	   *nulls;
};

SckptRoute *
sckpt_route_create(SckptQuery *source, int task, int ntasks, MemoryContext context)
{
	SckptRoute *route = MemoryContextAllocZero(context, sizeof(SckptRoute));

	route->task = task;
	route->ntasks = ntasks;
	route->source = source;
	if (source->nroutes > 0)
		route->key = sckpt_group_key_create(source->route_keys, source->nroutes, context);
	return route;
}

SckptRouteScan *
sckpt_route_begin(SckptRoute *route, Oid stream, PlanState *node)
{
	SckptQuery *source = route->source;
	SckptRouteScan *scan = palloc0(sizeof(SckptRouteScan));
	int			number = 0;
	ListCell   *lc;

	while (list_nth_oid(source->scanned, number) != stream)
		number++;
	scan->route = route;
	scan->ncolumns = source->nroutes;
	scan->columns = palloc0(scan->ncolumns * sizeof(AttrNumber));
	scan->exprs = palloc0(scan->ncolumns * sizeof(ExprState *));
	scan->values = palloc(scan->ncolumns * sizeof(Datum));
	scan->nulls = palloc(scan->ncolumns * sizeof(bool));
	foreach(lc, source->route_exprs)
	{
		Node	   *expr = list_nth(lfirst(lc), number);
		int			i = foreach_current_index(lc);

		if (IsA(expr, Var))
			scan->columns[i] = ((Var *) expr)->varattno;
		else
			scan->exprs[i] = ExecInitExpr((Expr *) expr, node);
	}
	return scan;
}

bool
sckpt_route_takes(SckptRouteScan *scan, TupleTableSlot *slot, ExprContext *context)
{
	SckptRoute *route = scan->route;
	uint32		hash;

	if (route->key == NULL)
		return route->task == 0;
	route->evaluating = true;
	for (int i = 0; i < scan->ncolumns; i++)
	{
		if (scan->columns[i])
			scan->values[i] = slot_getattr(slot, scan->columns[i], &scan->nulls[i]);
		else
			scan->values[i] = ExecEvalExpr(scan->exprs[i], context, &scan->nulls[i]);
	}
	hash = sckpt_group_key_hash(route->key, scan->values, scan->nulls);
	route->evaluating = false;
	return sckpt_route_task(hash, route->ntasks) == route->task;
}
