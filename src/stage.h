/*-------------------------------------------------------------------------
 *
 * stage.h
 *		Runs a stage's SQL over a batch.
 *
 * The SQL is prepared once (SPI) and its plan cached by PostgreSQL, which plans again
 * when anything that the plan depends on changes.  As the pipeline's owner, in a transaction
 * with an active snapshot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_STAGE_H
#define SCKPT_STAGE_H

#include "executor/spi.h"

#include "batch.h"
#include "operator.h"
#include "query.h"

typedef struct SckptStage
{
	char	   *sql;
	SPIPlanPtr	plan;			/* NULL until first run */
} SckptStage;

/* Who takes the rows: an operator; else `row`, for each of them. */
typedef struct SckptReceiver
{
	SckptOperator *operator;
	void		(*row) (void *arg, TupleTableSlot *slot);
	void	   *arg;
} SckptReceiver;

/* Run it over what the scan wants; rows go to the receiver, or (NULL: an INSERT) where the SQL says.  Returns rows put out. */
extern uint64 sckpt_stage_run(SckptStage *stage, SckptScan *scan, SckptQuery *query, SckptReceiver *receiver);
extern void sckpt_stage_free(SckptStage *stage);

#endif							/* SCKPT_STAGE_H */
