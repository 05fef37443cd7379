/*-------------------------------------------------------------------------
 *
 * log.h
 *		Reads the WAL and hands out committed transactions that wrote to
 *		streams of this database, in commit order.
 *
 * A reader belongs to one process.  All its memory lives in a context of its
 * own below the given parent; it survives transactions.  It reads flushed WAL
 * only and never waits: at its end it says so.  An ERROR (missing segment,
 * broken record) leaves the reader closable, not usable.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_LOG_H
#define SCKPT_LOG_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

typedef struct SckptLog SckptLog;
typedef struct SckptLogStore SckptLogStore;

/*
 * One message of a transaction.  Whoever takes it
 * from sckpt_log_next_message() or sckpt_log_take_tap() frees it with sckpt_log_free_message(), in whatever order, but
 * before the reader is closed.
 * `data` is MAXALIGNed and holds the payload (record.h), not yet validated
 * beyond the prefix and the record's lengths.
 */
typedef struct SckptLogMessage
{
	struct SckptLogMessage *next;
	TransactionId xid;			/* that wrote it, of a transaction or a subtransaction */
	XLogRecPtr	lsn;			/* start of its record */
	SckptLogStore *store;		/* it belongs to */
	Oid			stream;
	uint32		len;			/* bytes of payload */
	bool		empty;			/* there are no data, as nobody wanted them: never handed out */
	char		data[FLEXIBLE_ARRAY_MEMBER] pg_attribute_aligned(MAXIMUM_ALIGNOF);
} SckptLogMessage;

typedef struct SckptLogTransaction
{
	TransactionId xid;			/* of the top level */
	XLogRecPtr	commit_lsn;		/* start of its commit record */
	TimestampTz commit_time;
	uint64		nmessages;
	uint64		nbytes;			/* of payloads */
} SckptLogTransaction;

typedef enum SckptLogResult
{
	SCKPT_LOG_TRANSACTION,		/* a transaction is at hand: take its messages */
	SCKPT_LOG_MORE,				/* nothing yet, but there is more log: call again */
	SCKPT_LOG_LIMIT,			/* the next record starts at or after the limit */
	SCKPT_LOG_END				/* everything flushed has been read */
} SckptLogResult;

/*
 * Start reading at `start`, the start of a record.  Transactions whose commit
 * record starts at or before `skip_until` are read but not handed out.
 * `memory_limit` (bytes) bounds what messages of open transactions may hold:
 * past it the largest transactions keep only the places of their messages,
 * past a second bound (memory_limit / 4 of places) only the first and the last
 * place, and are read again at their commit.
 */
extern SckptLog *sckpt_log_open(MemoryContext parent, Oid database,
								XLogRecPtr start, XLogRecPtr skip_until,
								Size memory_limit);
/* Hand out messages of these streams only, from now on. At first there are none.  The list is copied. */
extern void sckpt_log_set_streams(SckptLog *log, List *streams);
/* Read no record that starts at or after `limit`; Invalid: there is none. */
extern void sckpt_log_set_limit(SckptLog *log, XLogRecPtr limit);
extern void sckpt_log_close(SckptLog *log);
extern void sckpt_log_set_memory_limit(SckptLog *log, Size memory_limit);

/*
 * Read on.  Returns after at most about `max_bytes` of log.  The messages of
 * the transaction last handed out must have been taken (or skipped) before:
 * what was not taken is freed.  Calls CHECK_FOR_INTERRUPTS().
 */
extern SckptLogResult sckpt_log_next(SckptLog *log, Size max_bytes,
									 SckptLogTransaction *transaction);

/* The next message of the transaction at hand by LSN, or NULL after the last. */
extern SckptLogMessage *sckpt_log_next_message(SckptLog *log);
extern void sckpt_log_free_message(SckptLogMessage *message);

/*
 * Tapping: messages of large transactions are handed out while these are open, so that
 * work on them can be done before the commit.  They count only if the commit comes: an xid that ends otherwise is told
 * by sckpt_log_next_dropped().  What was tapped is handed out again with the transaction, unless skipped.
 */
/* Tap xids that hold more than `bytes`; 0: no others from now on. */
extern void sckpt_log_set_tap(SckptLog *log, Size bytes);
/* After sckpt_log_next(): messages, in the log's order, of an open xid (or of one of the transaction at hand); NULL: no more. */
extern SckptLogMessage *sckpt_log_take_tap(SckptLog *log, TransactionId *xid);
/* A tapped xid whose messages count for nothing. */
extern bool sckpt_log_next_dropped(SckptLog *log, TransactionId *xid);
/* The tapped xids of the transaction at hand, palloc'd. */
extern TransactionId *sckpt_log_tapped_xids(SckptLog *log, int *count);
/* Do not hand out their messages again.  Before the first sckpt_log_next_message(). */
extern void sckpt_log_skip_tapped(SckptLog *log);

/*
 * Start of the last record read: every commit record at or before it has been
 * handed out.  InvalidXLogRecPtr before the first record.
 */
extern XLogRecPtr sckpt_log_read_lsn(SckptLog *log);
/* Every commit record after this will be handed out; those up to here have been, or will be passed over (skip_until). */
extern XLogRecPtr sckpt_log_delivers_after(SckptLog *log);
/* Just past the last record read: what must exceed an insert position to cover it. */
extern XLogRecPtr sckpt_log_end_lsn(SckptLog *log);
/*
 * Start of a record from which a new reader, skipping until read_lsn, would
 * miss nothing: the first message of the oldest transaction open at the
 * read_lsn, or the last record read.
 */
extern XLogRecPtr sckpt_log_restart_lsn(SckptLog *log);
/* Do open transactions have messages? */
extern bool sckpt_log_has_open(SckptLog *log);
/* Bytes held for open transactions and at hand. */
extern Size sckpt_log_memory(SckptLog *log);

#endif							/* SCKPT_LOG_H */
