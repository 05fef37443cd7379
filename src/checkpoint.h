/*-------------------------------------------------------------------------
 *
 * checkpoint.h
 *		Checkpoints: state, results and position of a pipeline in one transaction.
 *
 *		trigger		a row (in_progress), in a transaction of its own, asynchronously committed
 *		complete	as the owner: pack changed entries, write results;
 *					as the extension: chunks, position, history; commit, flushed
 *		then		dirty marks and chunk accounts are switched in memory; the slot may move
 *
 * A failed attempt changes nothing in memory: the next one includes its changes.
 *
 * State chunks are a log of their own for each state store: each checkpoint appends the changed entries, and the last version
 * of an entry counts.  Entries that leave the state are just not written any more: what chunks have of them is recognized by
 * its times when it is read back.  A chunk without any last version is deleted at once; when less than half of all stored versions
 * are last ones, the emptiest chunks are written anew with the next checkpoints (the cleaning of log-structured
 * file systems: Rosenblum and Ousterhout, 1992).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_CHECKPOINT_H
#define SCKPT_CHECKPOINT_H

#include "task.h"

/*
 * Take a checkpoint of a running task at a transaction boundary.  False when it has to wait for a lock that somebody
 * holds (task->waiting says which).  Throws, after the failure has been recorded by sckpt_checkpoint_record_failure.
 */
extern bool sckpt_checkpoint_take(SckptTask *task, SckptPosition *position);
/* The same around a transaction that is too large to keep: begin, then sckpt_task_run_linear for each of its batches, then finish. */
extern bool sckpt_checkpoint_begin(SckptTask *task);
extern void sckpt_checkpoint_finish(SckptTask *task, SckptPosition *position);
/* Count rows put out by the checkpoint being taken. */
extern void sckpt_checkpoint_add_rows(SckptTask *task, uint64 rows);
/* In a transaction of its own, after an abort; for the attempt being made, if any. */
extern void sckpt_checkpoint_record_failure(SckptTask *task, const char *error);
/* Is an attempt being made? */
extern bool sckpt_checkpoint_in_progress(SckptTask *task);
/* May it have committed, although an error came?  Then what is in memory counts for nothing. */
extern bool sckpt_checkpoint_may_have_committed(SckptTask *task);

/*
 * A chunk's payload: SCKPT_CHUNK_VERSION, the pipeline's version (pipeline_def.version), the operator's description, then for each entry flags (1 byte), length (4, network order) and what
 * the operator packed.
 */
#define SCKPT_CHUNK_VERSION		3
#define SCKPT_PACKED_GONE		0x02	/* a tombstone: older versions count for nothing */
#define SCKPT_PACKED_EMITTED	0x01	/* the entry's result row is in the sink */

/* Enter a chunk into a store's account, which is kept in `context`; returns its index there. */
extern int	sckpt_checkpoint_add_chunk(SckptStore *store, int64 id, uint32 entries, MemoryContext context);
/* A SckptChunkAccount of a SckptStore: an entry with a version in that chunk (entry->chunk) was removed. */
extern void sckpt_checkpoint_account(void *store, uint32 chunk);

/*
 * As a worker starts: what a crash, or the end of the one before it, has cut off of its own `tasks` has failed; others' may
 * be at work.  In a transaction of its own.
 */
extern void sckpt_checkpoint_end_interrupted(List *tasks);
/* Load the last completed checkpoint into the task's operators; in the transaction at hand. */
extern void sckpt_checkpoint_restore(SckptTask *task);

/* Store the position of pipelines to which nothing happened: one small update for all of them, in a transaction of its own. */
extern void sckpt_checkpoint_store_positions(List *tasks, SckptPosition *position);

#endif							/* SCKPT_CHECKPOINT_H */
