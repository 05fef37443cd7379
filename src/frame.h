/*-------------------------------------------------------------------------
 *
 * frame.h
 *		Window functions over the rows around a row: operator.h for partitions
 *		whose rows are in order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_FRAME_H
#define SCKPT_FRAME_H

#include "operator.h"
#include "query.h"

/* As the pipeline's owner, in a transaction; lives in a context below `parent`.  42501 when the owner may not execute an aggregate. */
extern SckptOperator *sckpt_frame_create(SckptQuery *query, MemoryContext parent);

#endif							/* SCKPT_FRAME_H */
