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

#endif							/* SCKPT_AGGREGATE_H */
