/*-------------------------------------------------------------------------
 *
 * worker.h
 *		The background worker that runs the pipelines of one database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_WORKER_H
#define SCKPT_WORKER_H

#include "task.h"

/* Entry point; the argument is the database's oid.  Exit codes: attach.h. */
extern PGDLLEXPORT void sckpt_worker_main(Datum database);

#endif							/* SCKPT_WORKER_H */
