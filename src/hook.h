/*-------------------------------------------------------------------------
 *
 * hook.h
 *		Where we watch other commands: DDL on streams, results and databases.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_HOOK_H
#define SCKPT_HOOK_H

#include "access/xlogdefs.h"

/* Install ProcessUtility and object access hooks, and transaction callbacks; while preloading only. */
extern void sckpt_hook_init(void);

/*
 * When the current transaction commits (also by COMMIT PREPARED), wake the worker of this database.  `changed`:
 * streams or pipelines changed.  Cheap when called again.
 */
extern void sckpt_hook_wake_at_commit(bool changed);

/*
 * Keep the log of this database from `restart_lsn` on until the current transaction ends (shared.h, SckptHold); 53400 when all are taken.
 * The transaction cannot be prepared then.  The caller checks afterwards that the slot had not yet moved on; whoever moves
 * the slot reads the holds before it takes the snapshot with which it reads the positions of pipelines.
 */
extern void sckpt_hook_hold_log(XLogRecPtr restart_lsn);

/*
 * While allowed, this backend's drops of streams and results are neither refused nor cascaded to pipelines: for our own functions, which look
 * after the pipelines themselves.  Off again at the latest when a transaction or subtransaction aborts.
 */
extern void sckpt_hook_allow_drop(bool allow);

#endif							/* SCKPT_HOOK_H */
