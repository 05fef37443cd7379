/*-------------------------------------------------------------------------
 *
 * journal.h
 *		What checkpoints did to a result table of our own, so that it can be
 *		undone: rows of stream_ckpt.touched.
 *
 * While a checkpoint before it can still be restored, each checkpoint writes down
 *
 *		keys		of the result rows that it has put or deleted (grouped queries)
 *		xids		that it has appended rows as (queries without state, and results that are bags)
 *		images		of rows of a bag that it has deleted, each with the xid that it was appended as
 *
 * and restore_pipeline(), which makes a checkpoint too,
 *
 *		images		of rows that it took away or changed, each with its key, or the xid it was appended as; and keys of rows that
 *					were not there
 *		letters		dead letters that it took away
 *
 * Going from the last checkpoint back to some other, the oldest word on a key counts: it says what was there before.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_JOURNAL_H
#define SCKPT_JOURNAL_H

#include "task.h"

typedef struct SckptJournal SckptJournal;

/* What is kept of a checkpoint besides keys and images. */
typedef struct SckptJournalHead
{
	bool		restore;		/* by restore_pipeline() */
	Datum		xids;			/* xid[]; 0: none */
	Oid			filenode;		/* of the result, then */
	int64		rows;			/* appended */
	int64		letters_after;	/* of a restore: dead letters with greater ids were taken away, and are in the row */
} SckptJournalHead;

/* A part of what is written down, read back. */
typedef struct SckptJournalPart
{
	int64		checkpoint;
	int			part;
	SckptJournalHead head;		/* of a head (bytes is NULL) */
	bool		images;
	bytea	   *bytes;
} SckptJournalPart;

/* For a running task; all of it in `context`. */
extern SckptJournal *sckpt_journal_open(SckptTask *task, MemoryContext context);
/* As the owner; from a row of the query's row type, of which a key needs the key columns only.  Just kept in memory. */
extern void sckpt_journal_add_key(SckptJournal *journal, TupleTableSlot *row);
extern void sckpt_journal_add_image(SckptJournal *journal, TupleTableSlot *row, TransactionId appended_as);
/* Write it all; `head`: may be NULL.  The caller has entered the catalog. */
extern void sckpt_journal_store(SckptJournal *journal, int64 checkpoint, SckptJournalHead *head);

/*
 * The part before this one of checkpoints after `after`, from the last checkpoint's back to the first; part->checkpoint is PG_INT64_MAX at
 * first.  Copied into the current context.  False at the end.
 */
extern bool sckpt_journal_read(SckptJournal *journal, int64 after, SckptJournalPart *part);
/* Walk through what is in it, as the owner: fills in a slot of the query's row type (of keys: these columns, the others NULL). */
extern void sckpt_journal_begin(SckptJournal *journal, SckptJournalPart *part, const char **cursor, const char **end);
extern bool sckpt_journal_next(SckptJournal *journal, SckptJournalPart *part, const char **cursor, const char *end,
							   TupleTableSlot *row, TransactionId *appended_as);

/* The xids that the transaction at hand has written as, those of its subtransactions too: xid[]. */
extern Datum sckpt_journal_xids(void);

#endif							/* SCKPT_JOURNAL_H */
