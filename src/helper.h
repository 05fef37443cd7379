/*-------------------------------------------------------------------------
 *
 * helper.h
 *		Starting workers: a database's leader, and the others beside it
 *		(stream_ckpt.workers).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_HELPER_H
#define SCKPT_HELPER_H

#include "postmaster/bgworker.h"

#include "shared.h"

/*
 * Start worker `number` of a database; 0 is its leader, any other one this process's; a writer is called so.  False, and *handle NULL, if there
 * is no room in max_worker_processes.  The handle lives until it is freed.
 */
extern bool sckpt_start_worker(Oid database, int number, bool writer, BackgroundWorkerHandle **handle);

/* The leader's: which of the others have something to do, as the tables are looked through. */
extern void sckpt_helpers_forget(void);
extern void sckpt_helper_need(int number);
/*
 * Start those that are needed and do not run; each at most once a second.  Where there is no process for one, fewer share
 * the tasks: the database's `nworkers` is lowered, with a WARNING.
 */
extern void sckpt_helpers_start(SckptDatabase *database);

#endif							/* SCKPT_HELPER_H */
