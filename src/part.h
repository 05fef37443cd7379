/*-------------------------------------------------------------------------
 *
 * part.h
 *		A task of a pipeline that has a head, in whichever worker it runs.
 *
 * A pipeline with parallelism n > 1 consists of n tasks, each of which reads all rows and takes those that belong to it (route.h), and a
 * head, in the worker of task 0, which has the stages that are not spread, and takes the checkpoints (head.h).  Where other processes write
 * checkpoints (stream_ckpt.checkpoint_writers), the head is in one of these, and a pipeline with state that is not parallel is a head
 * and one task, which has all stages.  They meet in shared memory: the pipeline's entry says what the head wants, each task's entry how far it is.
 *
 *		head									task
 *		epoch, active		──────────────────►	starts from the last completed checkpoint, RUNNING
 *												claims a range of the log before it reads it
 *		barrier: the furthest that any task
 *		has claimed			──────────────────►	stops there, packs what has changed into a parcel,
 *							◄──────────────────	acknowledges, and goes on
 *		when all have: one transaction
 *		outcome				──────────────────►	switches (or takes back), and drops the parcel: settled
 *							◄──────────────────
 *		when all have settled: the next one
 *
 * While a checkpoint is under way, entries that are in it are INFLIGHT (state.h): they change and leave like others.  What the checkpoint means for them is
 * noted when its outcome is known.
 *
 * With on_error => 'stop' (halt.h) the tasks look for the bad row, each for its own; then all read up to its transaction, and the head takes a
 * checkpoint there.
 *
 * A task that fails says so, and the head decides what becomes of the pipeline: all tasks go back together, in a new epoch.  A worker that ends is a
 * failure of its tasks.  When the head is gone, its tasks stop.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_PART_H
#define SCKPT_PART_H

#include "checkpoint_private.h"
#include "lane.h"

#define SCKPT_CLAIM_BYTES	(16 * 1024 * 1024)	/* of log, that tasks claim at a time */

/* What a parcel consists of: a byte, then what it says. */
#define SCKPT_PARCEL_INFLOWS	'I' /* SckptInflow of each stream */
#define SCKPT_PARCEL_ROW		'R' /* SckptParcelRow, row: for a stage of the head */
#define SCKPT_PARCEL_CHANGE		'C' /* SckptChange, row of the result */
#define SCKPT_PARCEL_BAG		'B' /* int32 weight, row of the result, which is a bag: to be appended, or an identical one to be deleted */
#define SCKPT_PARCEL_CHUNK		'S' /* SckptParcelChunk, payload */
#define SCKPT_PARCEL_DELETIONS	'D' /* int32 stage, int32 count, int64 ids of chunks */
#define SCKPT_PARCEL_LETTER		'L' /* a dead letter: dead.c */
/* Rows: uint32 length, MinimalTuple. */

typedef enum SckptChangeKind
{
	SCKPT_CHANGE_PUT,
	SCKPT_CHANGE_DELETE,
	SCKPT_CHANGE_APPEND
} SckptChangeKind;

/* To a row of the sink; see sink.h. */
typedef struct SckptChange
{
	uint8		kind;
	bool		there;
	ItemPointerData hint;
} SckptChange;

typedef struct SckptParcelRow
{
	int32		weight;
	int16		stage;			/* its place, */
	int16		side;			/* and which input of it */
} SckptParcelRow;

typedef struct SckptParcelChunk
{
	int32		stage;
	uint32		entries;
	int64		id;
	uint64		bytes;
} SckptParcelChunk;

/* Into the parcel of the checkpoint being taken.  Returns 1 + the change's number. */
extern uint32 sckpt_part_send_change(SckptTask *part, SckptChangeKind kind, TupleTableSlot *row, ItemPointer hint, bool there);
/* Of a result that is a bag: nothing comes back. */
extern void sckpt_part_send_bag(SckptTask *part, TupleTableSlot *row, int32 weight);
extern void sckpt_part_send_chunk(SckptTask *part, int stage, int64 id, uint32 entries, const char *payload, Size bytes);
extern void sckpt_part_send_deletions(SckptTask *part, int stage, Datum *ids, int nids);
/* For a stage of the head: a SckptPutAbove, whose argument is a SckptPartTarget. */
typedef struct SckptPartTarget
{
	SckptTask  *part;
	SckptQuery *stage;
	int			side;
} SckptPartTarget;
extern bool sckpt_part_send_row(void *target, TupleTableSlot *row, int32 weight);

/* ---- In the worker's loop ---- */

/* Is it to be started: does its head want it, in an epoch in which it has not failed?  Stops it where the head does not. */
extern bool sckpt_part_wanted(SckptTask *part);
/* After that: load the last checkpoint: RUNNING, unless it is not wanted any more.  In a transaction.  Throws. */
extern void sckpt_part_start(SckptTask *part);
/*
 * Before reading: up to where may the log be read, at most to `upto`?  A barrier, or `upto`, which is claimed then.  *halted: that is a bad row's
 * transaction, so there is nothing to be read for it any more.
 */
extern XLogRecPtr sckpt_part_claim(SckptTask *part, XLogRecPtr upto, bool *halted);
/* At a boundary: settle what is decided; at a barrier, hand over; say how far it is. */
extern void sckpt_part_step(SckptTask *part, SckptPosition *position, bool at_end);
/*
 * It could not pack what a checkpoint wants of it, and may be able to next time: the head is told, and it goes on, if its state is what it was before.  False: it
 * is not, or no checkpoint is under way.
 */
extern bool sckpt_part_decline(SckptTask *part, ErrorData *error);
/* Its epoch is over for it: the head is told why. */
extern void sckpt_part_fail(SckptTask *part, ErrorData *error, bool starved);
/* It is not this worker's any more: the same. */
extern void sckpt_part_leave(SckptTask *part);
/* Before the worker exits. */
extern void sckpt_part_release(SckptTask *part);

#endif							/* SCKPT_PART_H */
