/*-------------------------------------------------------------------------
 *
 * route.h
 *		Which task of a parallel pipeline a row, or a group, belongs to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_ROUTE_H
#define SCKPT_ROUTE_H

#include "nodes/execnodes.h"

#include "group.h"

/* Of one task. */
typedef struct SckptRoute
{
	int			task;			/* takes what belongs to this one, */
	int			ntasks;			/* of so many */
	SckptQuery *source;			/* of its rows */
	SckptGroupKey *key;			/* NULL: all rows are the first task's */
	bool		evaluating;		/* after an error: it came from a routing key, in every task */
} SckptRoute;

/* A scan of one stream. */
typedef struct SckptRouteScan SckptRouteScan;

/* For the rows of a source, be it a stage's or a leaf. */
extern SckptRoute *sckpt_route_create(SckptQuery *source, int task, int ntasks, MemoryContext context);
/* As the scan's executor node begins; in its query's context. */
extern SckptRouteScan *sckpt_route_begin(SckptRoute *route, Oid stream, PlanState *node);
/* Is the row in the slot the task's?  In a context that is reset per row; with the slot in the expression context as the scanned row. */
extern bool sckpt_route_takes(SckptRouteScan *scan, TupleTableSlot *slot, ExprContext *context);
/* The hash of a group's key values, of any stage that is spread. */
static inline int
sckpt_route_task(uint32 hash, int ntasks)
{
	/* The high bits, since stores use the low ones. */
	return (int) (((uint64) hash * ntasks) >> 32);
}

#endif							/* SCKPT_ROUTE_H */
