/*-------------------------------------------------------------------------
 *
 * careful.h
 *		Careful work, which finds the rows and results that raise data
 *		errors, and leaves them out (on_error => 'dead_letter').
 *
 * Normal work is not ready for errors: one in the middle of a batch leaves the state undefined.  So after the first data error
 * the task goes back to its last checkpoint and is careful for a while: until no bad row has come for a minute, and a checkpoint lies behind
 * the place of the error.  One bad row now and then costs the replay of what came since the last checkpoint; many cost no more.
 *
 * Careful work tries a span of rows in a subtransaction.  A span that fails leaves no trace, and is tried again in parts, down to single
 * rows; after a failure spans begin with one row and grow fourfold with each success.  So where all rows are bad, each is tried
 * once, and a single bad one among n costs some log n tries.  A try with state first collects what the query's expressions make of the
 * span, and only then gives it to the operator, which notes what it changes (operator.h, begin_undo).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_CAREFUL_H
#define SCKPT_CAREFUL_H

#include "task.h"

/* Is this an error of the data: class 22 or 23, or P0001? */
extern bool sckpt_careful_is_data_error(int sqlerrcode);

/* After a data error of a task that keeps dead letters: be careful from now on.  False: it was already. */
extern bool sckpt_careful_begin(SckptTask *task);
/* How many rows are tried at a time, to begin with. */
extern void sckpt_careful_begin_spans(SckptTask *task);
/* A bad row, or result, was met. */
extern void sckpt_careful_extend(SckptTask *task);
/* After a checkpoint: has it been careful for long enough? */
extern void sckpt_careful_end_if_due(SckptTask *task);

/*
 * Run something in a subtransaction.  NULL: done.  A data error rolls it back, and is returned, palloc'd in the current context; others are
 * thrown on.
 */
extern ErrorData *sckpt_careful_try(void (*work) (void *arg), void *arg);

/* How a series of n things is worked through in spans. */
typedef struct SckptSpans
{
	/* Do those from `first` to before `end`; in a subtransaction. */
	void		(*take) (void *arg, uint64 first, uint64 end);
	/* That was tried in vain; the subtransaction is gone.  NULL: nothing is left to be undone. */
	void		(*undo) (void *arg, ErrorData *error);
	/* After that: the thing raises this error by itself. */
	void		(*reject) (void *arg, uint64 at, ErrorData *error);
	void	   *arg;
	uint64		most;			/* the longest span */
} SckptSpans;
extern void sckpt_careful_run(const SckptSpans *spans, uint64 n);

/* Careful forms of what task.c does with a batch; inside a transaction, as the owner. */
extern void sckpt_careful_feed(SckptTask *task, SckptScan *scan, const SckptInput *input, uint64 nrows);
extern uint64 sckpt_careful_run_linear(SckptTask *task, SckptScan *scan, const SckptInput *input, uint64 nrows);
/* A row handed on to the stage above; false: refused, and buried. */
extern bool sckpt_careful_put_above(SckptTask *task, int stage, TupleTableSlot *row, int32 weight);

/* Results of changed entries to the sink, each outcome to its place in the attempt; and those of closing entries. */
extern void sckpt_careful_results(SckptTask *task, const SckptRef *refs, uint64 count);
extern void sckpt_careful_append(SckptTask *task, SckptRef *closing, uint64 nclosing);

/* The same with changes that a head's tasks have handed over: all appended, or none; outcomes must be zero, and stay where they are. */
typedef struct SckptCarefulChanges SckptCarefulChanges;
struct SckptOutcome;
extern SckptCarefulChanges *sckpt_careful_changes_begin(SckptTask *task);
extern void sckpt_careful_changes_add(SckptCarefulChanges *changes, bool append, bool remove, bool there, ItemPointer hint,
									  TupleTableSlot *row, struct SckptOutcome *outcome);
extern void sckpt_careful_changes_make(SckptCarefulChanges *changes);
extern void sckpt_careful_changes_end(SckptCarefulChanges *changes);

#endif							/* SCKPT_CAREFUL_H */
