/*-------------------------------------------------------------------------
 *
 * halt.h
 *		Stopping just before a row that raises a data error
 *		(on_error => 'stop').
 *
 * The error comes in the middle of a batch, far behind the last checkpoint, and leaves the state undefined.  So the task goes over
 * the same log three times:
 *
 *	1.	The error: back to the last checkpoint.
 *	2.	Rows are tried in spans (careful.h) until the one that raises it is found; what had happened before it is undone: back again.
 *	3.	Up to its transaction, whole ones only.  There a checkpoint is taken, and the pipeline has failed.
 *
 * Of a parallel pipeline (part.h) each task looks for its own bad row in 2, and none reads further than to the first one that is known; in 3 a
 * task may find an earlier one.
 *
 * An error that comes again in 2, but from no row (of a result, a final function, the sink's index), ends it where its last checkpoint
 * is.  If nothing comes in 2, nothing was wrong.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_HALT_H
#define SCKPT_HALT_H

#include "compat.h"
#include "task.h"

/*
 * After a data error of a task that is to stop: is there still something to find out, for which it goes back to its last checkpoint?
 */
extern bool sckpt_halt_go_back(SckptTask *task);
/* This row raises the error by itself.  Throws it. */
pg_noreturn extern void sckpt_halt_at_row(SckptTask *task, SckptBatch *batch, uint32 segment, uint32 row, ErrorData *error);
/* Of a head: one of its tasks has found that. */
extern void sckpt_halt_found(SckptTask *task, XLogRecPtr commit_lsn, int code, const char *message, const char *detail);
/* After a checkpoint: what was looked for has not come again. */
extern void sckpt_halt_end_if_past(SckptTask *task);
/* Is this transaction the bad one?  Then all before it must be fed, and the other runs under sckpt_task_guard(): it always throws. */
extern bool sckpt_halt_is_due(SckptTask *task, XLogRecPtr commit_lsn);
extern void sckpt_halt_here(SckptTask *task, void *arg);
/* With its last checkpoint there: it has failed.  Always throws. */
extern void sckpt_halt_raise(SckptTask *task, void *arg);

#endif							/* SCKPT_HALT_H */
