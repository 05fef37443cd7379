/*-------------------------------------------------------------------------
 *
 * attach.h
 *		Who may be in a database: its workers, or a utility command that needs
 *		the database without workers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_ATTACH_H
#define SCKPT_ATTACH_H

/*
 * In a worker, as its first act: before it unblocks signals, and above all before it connects to its database.  Takes the entry of
 * the database, or returns false when it must not run (blocked by a utility command, another worker has it, no entry
 * free): the worker then exits with code 0.  The order is what makes blocking safe: once
 * sckpt_launcher_block() has set its mark, a worker either sees it here and never connects, or has its pid in the entry and is
 * told to end.  The entry is given back when the process exits, after it has left the array of running processes, so
 * that whoever then counts the users of the database does not find it.
 *
 * Exit codes: 0, nothing to do here (no extension, no streams): not started again until asked for by
 * sckpt_shared_wake(), or after some minutes; anything else: started again, with a back-off.
 */
extern bool sckpt_launcher_attach_worker(Oid database);

/*
 * The same in worker `number` (from 1) of a database, which the leader, process `leader_pid`, has started.  It is to end when that is not the leader
 * any more.
 */
extern bool sckpt_launcher_attach_helper(Oid database, int number, int leader_pid);

/*
 * In a worker: there are streams here, so this worker stays.  Until then it counts as a probe (for 5 s at most), of
 * which few run at the same time.
 */
extern void sckpt_launcher_confirm_worker(void);

/*
 * Stop the workers of a database, keep new ones from starting, and wait until they are gone (interruptible; ERROR 55006 after
 * 30 s, and then nothing stays blocked).  Until sckpt_launcher_unblock() or the end of this backend.  Unblocking InvalidOid: all that
 * this backend blocks.
 */
extern void sckpt_launcher_block(Oid database);
extern void sckpt_launcher_unblock(Oid database);
/* Take away the mark of backend `pid` if that does not exist any more. */
extern void sckpt_launcher_clear_dead_blocker(Oid database, int pid);

#endif							/* SCKPT_ATTACH_H */
