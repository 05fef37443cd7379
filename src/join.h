/*-------------------------------------------------------------------------
 *
 * join.h
 *		Joins of streams: operator.h over two inputs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_JOIN_H
#define SCKPT_JOIN_H

#include "operator.h"
#include "query.h"

/* As the pipeline's owner, in a transaction; lives in a context below `parent`. */
extern SckptOperator *sckpt_join_create(SckptQuery *query, MemoryContext parent);

#endif							/* SCKPT_JOIN_H */
