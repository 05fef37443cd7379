/*-------------------------------------------------------------------------
 *
 * linear.h
 *		Runs a linear query with windows over a batch.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_LINEAR_H
#define SCKPT_LINEAR_H

#include "task.h"

/* In the checkpoint's transaction, as the pipeline's owner; returns rows written. */
extern uint64 sckpt_linear_run(SckptTask *task, SckptScan *scan, const SckptInput *input);

#endif							/* SCKPT_LINEAR_H */
