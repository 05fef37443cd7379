/*-------------------------------------------------------------------------
 *
 * lookup.h
 *		SQL over the rows of a stage: operator.h over one stage below.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_LOOKUP_H
#define SCKPT_LOOKUP_H

#include "utils/tuplestore.h"

#include "operator.h"
#include "query.h"

/* Of a stage with join->lookup. As the pipeline's owner, in a transaction; lives in a context below `parent`. */
extern SckptOperator *sckpt_lookup_create(SckptQuery *query, MemoryContext parent);
/* Connected to SPI: let its SQL find its rows by their name, until SPI_finish().  NULL: there are none. */
extern void sckpt_lookup_register(SckptQuery *query, Tuplestorestate *rows);

#endif							/* SCKPT_LOOKUP_H */
