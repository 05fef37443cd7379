/*-------------------------------------------------------------------------
 *
 * aggregate.h
 *		The aggregate operator: GROUP BY with PostgreSQL's own aggregates.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_AGGREGATE_H
#define SCKPT_AGGREGATE_H

#include "operator.h"
#include "query.h"

/*
 * As the pipeline's owner, in a transaction.  The operator and its store live in a context below `parent`; `query` must
 * live as long.  42501 when the owner may not execute an aggregate.
 */
extern SckptOperator *sckpt_aggregate_create(SckptQuery *query, MemoryContext parent);

/* By what a group's closing time is found: one for each window among the keys. */
typedef struct SckptAggDue
{
	int			key;			/* 0 … nkeys - 1 */
	SckptBound	bound;
	const SckptWindowSpec *window;
	int64		delay;			/* the query's lateness included */
} SckptAggDue;

/* The rules of a query, palloc'd in the current context; and the watermark at which a group with this key closes, or SCKPT_NEVER. */
extern SckptAggDue *sckpt_aggregate_dues(SckptQuery *query, int *count);
extern int64 sckpt_aggregate_due_of(const SckptAggDue *dues, int count, const Datum *values, const bool *nulls);

#endif							/* SCKPT_AGGREGATE_H */
