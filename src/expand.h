/*-------------------------------------------------------------------------
 *
 * expand.h
 *		Takes the rows of a source with windows: fills in the windows that
 *		are not closed, and computes what depends on them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_EXPAND_H
#define SCKPT_EXPAND_H

#include "executor/tuptable.h"

#include "operator.h"
#include "query.h"

typedef struct SckptExpander SckptExpander;

/* A row with its windows: the slot's arrays are valid during the call only.  `input`: the segment the row came from. */
typedef void (*SckptExpanded) (void *arg, TupleTableSlot *row, uint32 segment, int32 weight);

/* As the pipeline's owner, in a transaction; lives in a context below `parent`. */
extern SckptExpander *sckpt_expander_create(SckptQuery *query, MemoryContext parent);
extern void sckpt_expander_destroy(SckptExpander *expander);
/* Take a row of the source, or of the stage below (input = NULL). */
extern void sckpt_expander_take(SckptExpander *expander, const SckptInput *input, TupleTableSlot *slot, int32 weight,
								SckptExpanded put, void *arg);

#endif							/* SCKPT_EXPAND_H */
