/*-------------------------------------------------------------------------
 *
 * dead.h
 *		Dead letters: rows that a pipeline could not process.
 *
 * They are kept in process memory and written with the next checkpoint, so that each is there exactly once.  A row of the stream is kept
 * as jsonb for people, and as it stands in the log, so that retry_dead_letters() can write it to the log once more: a record that only
 * this pipeline reads, in the transaction that deletes the letter.  From then on it is a row like any other, at the place of
 * that transaction's commit; if it fails again, it becomes a letter again.
 *
 * Late rows cannot be retried: a window that is closed does not open again, and other windows may have the row.  Nor can results:
 * their group, or their rows, are where they were.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_DEAD_H
#define SCKPT_DEAD_H

#include "task.h"

typedef struct SckptDeadLetter
{
	Oid			stream;			/* InvalidOid: no row of a stream */
	XLogRecPtr	position;		/* of its transaction's commit record */
	XLogRecPtr	record;			/* and of its own; invalid: no row of a stream */
	int64		ordinal;		/* number of the row in its record; else of the letter among those of its checkpoint */
	int			stage;			/* 0: the stream's rows; n: results of the n-th stage; one more than there are: the sink */
	Datum		row;			/* jsonb; 0: it has no such form */
	Datum		image;			/* bytea: SckptDeadImage, with columns and the row; 0: it cannot be retried */
	Size		bytes;
	int			sqlerrcode;
	char	   *error;
	TimestampTz failed_at;
} SckptDeadLetter;

/* Keep a row of a batch. As the owner, in a transaction. */
extern void sckpt_dead_add_row(SckptTask *task, SckptBatch *batch, uint32 segment, uint32 row, int sqlerrcode, const char *error,
							   bool retriable);
/* Keep a result row, or the key of a group whose result cannot be computed. */
extern void sckpt_dead_add_result(SckptTask *task, int stage, TupleTableSlot *row, ErrorData *error);
extern void sckpt_dead_add_group(SckptTask *task, int stage, SckptRef ref, ErrorData *error);
/* A row of a batch as jsonb, in the context of dead letters; 0: it has no such form. */
extern Datum sckpt_dead_row_json(SckptTask *task, SckptBatch *batch, uint32 segment, uint32 row);
/* Forget all but the first n. */
extern void sckpt_dead_forget(SckptTask *task, int n);
/* The first n have been written. */
extern void sckpt_dead_drop_first(SckptTask *task, int n);

/* All of a task beside a head into its parcel; and one out of there, after its first byte: kept by the head, or left out. */
struct SckptParcel;
extern void sckpt_dead_send(SckptTask *part);
extern void sckpt_dead_receive(SckptTask *head, struct SckptParcel *parcel, bool keep);

#endif							/* SCKPT_DEAD_H */
