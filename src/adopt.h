/*-------------------------------------------------------------------------
 *
 * adopt.h
 *		Pipelines that come from another database: in a dump, as a copy
 *		(CREATE DATABASE … TEMPLATE), or through pg_upgrade.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_ADOPT_H
#define SCKPT_ADOPT_H

#include "task.h"

/*
 * Take in the pipelines that come from elsewhere: they are to go on with what is inserted here from now on, for which the log is kept,
 * and are `arriving` until they are complete.  In the transaction at hand.
 */
extern void sckpt_adopt_copies(void);

/*
 * An arriving pipeline: is everything there that it goes on from?  Then notes that it has arrived, in the transaction at hand.  If not,
 * false, and task->error says what it waits for.  Throws what the analysis of its query throws.
 */
extern bool sckpt_adopt_finish(SckptTask *task);

#endif							/* SCKPT_ADOPT_H */
