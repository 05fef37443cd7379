/*-------------------------------------------------------------------------
 *
 * log_store.h
 *		What the open transactions have written so far: private to the reader
 *		of the log (log.c).
 *
 * Which subtransaction belongs to which transaction is known only from the
 * commit record, so everything is kept per xid.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_LOG_STORE_H
#define SCKPT_LOG_STORE_H

#include "lib/ilist.h"

#include "log.h"

typedef struct SckptLogPlaces SckptLogPlaces;

typedef enum SckptLogKept
{
	SCKPT_LOG_HELD,				/* the messages themselves */
	SCKPT_LOG_PLACES,			/* where each message is */
	SCKPT_LOG_RANGE				/* where the first and the last one are */
} SckptLogKept;

/*
 * The messages of one xid.  While it is open they only become more; once taken out
 * of the store, first_lsn and nmessages say what has not been popped yet.
 */
typedef struct SckptLogXact
{
	dlist_node	open;			/* in the store's list, by first_lsn */
	dlist_node	large;			/* in the store's list of what can be spilled, when memory > 0 */
	TransactionId xid;
	uint8		kept;			/* SckptLogKept */
	bool		prepared;		/* named by a PREPARE record */
	bool		tapped;			/* its messages are handed out while it is open */
	dlist_node	tap;			/* in the store's list of what can be taken, when tap_head is not NULL */
	SckptLogMessage *tap_head;	/* not taken yet; their places are kept besides */
	SckptLogMessage *tap_tail;
	XLogRecPtr	first_lsn;
	XLogRecPtr	last_lsn;
	uint64		nmessages;
	uint64		nbytes;
	Size		memory;			/* of the messages, or of the places */
	union
	{
		struct
		{
			SckptLogMessage *head;
			SckptLogMessage *tail;
		}			held;
		struct
		{
			SckptLogPlaces *head;	/* all but the first and the last */
			SckptLogPlaces *tail;
		}			places;
	}			u;
} SckptLogXact;

extern SckptLogStore *sckpt_log_store_create(MemoryContext context, Size memory_limit);
extern void sckpt_log_store_set_limit(SckptLogStore *store, Size memory_limit);

/* Number of xids with messages, and the first message of the oldest of them (or Invalid). */
extern uint64 sckpt_log_store_count(SckptLogStore *store);
extern XLogRecPtr sckpt_log_store_first_lsn(SckptLogStore *store);
extern Size sckpt_log_store_memory(SckptLogStore *store);

/* Memory for a message, or for one that has no data. */
extern SckptLogMessage *sckpt_log_store_make_message(SckptLogStore *store, TransactionId xid, XLogRecPtr lsn, Oid stream, uint32 len,
													 bool empty);
/* Keep a message of an open xid, or what is to be kept of it; it belongs to the store from now on.  Called in the order of the log. */
extern void sckpt_log_store_add(SckptLogStore *store, SckptLogMessage *message);
/* Let go of memory that is kept for messages to come. */
extern void sckpt_log_store_drop_spare(SckptLogStore *store);

/* Hand out messages of xids that hold more than `bytes` while they are open; 0: of none from now on. */
extern void sckpt_log_store_set_tap(SckptLogStore *store, Size bytes);
/* The messages of a tapped xid that were not taken yet, or NULL when there are none of any. */
extern SckptLogMessage *sckpt_log_store_take_tap(SckptLogStore *store, TransactionId *xid);
extern SckptLogMessage *sckpt_log_store_take_tap_of(SckptLogStore *store, SckptLogXact *xact);
/* A tapped xid that was dropped since; false when there is none. */
extern void sckpt_log_store_note_dropped(SckptLogStore *store, TransactionId xid);
extern bool sckpt_log_store_next_dropped(SckptLogStore *store, TransactionId *xid);

/* The xid has ended, or is known to have: take it out (NULL if it wrote nothing), or drop it. */
extern SckptLogXact *sckpt_log_store_take(SckptLogStore *store, TransactionId xid);
extern void sckpt_log_store_drop(SckptLogStore *store, TransactionId xid);
extern void sckpt_log_store_drop_older(SckptLogStore *store, TransactionId oldest_running);
extern void sckpt_log_store_drop_unprepared(SckptLogStore *store);
extern void sckpt_log_store_mark_prepared(SckptLogStore *store, TransactionId xid);

/* Of one taken out: the next message held, or the next place; then all that is left. */
extern SckptLogMessage *sckpt_log_store_pop_message(SckptLogStore *store, SckptLogXact *xact);
extern XLogRecPtr sckpt_log_store_pop_place(SckptLogStore *store, SckptLogXact *xact);
extern void sckpt_log_store_free(SckptLogStore *store, SckptLogXact *xact);

#endif							/* SCKPT_LOG_STORE_H */
