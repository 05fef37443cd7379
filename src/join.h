/*-------------------------------------------------------------------------
 *
 * join.h
 *		Joins of streams: operator.h over two inputs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_JOIN_H
#define SCKPT_JOIN_H

#include "nodes/execnodes.h"

#include "operator.h"
#include "query.h"

/* As the pipeline's owner, in a transaction; lives in a context below `parent`. */
extern SckptOperator *sckpt_join_create(SckptQuery *query, MemoryContext parent);

/* Expressions over a row of two sides, the first `nleft` columns of the outer slot, the others of the inner one.  NULL: there is none. */
extern ExprState *sckpt_join_prepare_condition(Node *node, int nleft);
extern ExprState *sckpt_join_prepare_expr(Node *node, int nleft);
extern ProjectionInfo *sckpt_join_prepare_projection(List *targets, int nleft, ExprContext *econtext);

#endif							/* SCKPT_JOIN_H */
