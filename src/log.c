/*-------------------------------------------------------------------------
 *
 * log.c
 *		Reads the WAL and hands out committed transactions that wrote to
 *		streams of this database, in commit order.
 *
 * Few records matter.  Our messages (record.h) are kept per xid (log_store.c).
 * A commit record names all committed subtransactions: what any of these xids
 * wrote, merged by place in the log, is the transaction.  Abort records drop
 * the messages of the xids that they name.  A transaction that a crash left
 * open gets no such record, so
 *
 * - a record of running transactions drops the xids before the oldest running
 *	 one (that another xid is not in its list proves nothing: the list of
 *	 subtransactions can overflow);
 * - a shutdown checkpoint or an end-of-recovery record drops all but those
 *	 that a PREPARE record has named.  Its messages come before it, so whoever
 *	 has read a message has read the PREPARE record too.
 *
 * At the end of the flushed log the page read callback sets a flag and
 * fails.  The reader then stands where it did, and is simply called again
 * later; starting it anew there would lose the check of the link to the
 * previous record.
 *
 * Each XLogReader lives in a memory context of its own, in which all its calls
 * run: it allocates and frees its buffers in whatever context is current.  The
 * file that it has open is a plain descriptor, closed when that context goes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "catalog/pg_control.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "storage/standbydefs.h"
#include "utils/memutils.h"

#include "log.h"
#include "log_store.h"
#include "record.h"

typedef struct LogReader
{
	MemoryContext context;		/* NULL: not open */
	XLogReaderState *state;
	ReadLocalXLogPageNoWaitPrivate end;
	MemoryContextCallback callback;
} LogReader;

struct SckptLog
{
	MemoryContext context;
	Oid			database;
	XLogRecPtr	start;
	XLogRecPtr	skip_until;
	XLogRecPtr	limit;			/* Invalid: none */
	SckptLogStore *store;
	LogReader	reader;

	/* The transaction at hand: what is left of its xids' messages. */
	SckptLogXact **members;
	int			nmembers;
	int			members_size;
	bool		merged;			/* begin_merge() has been there */
	binaryheap *merge;			/* by next place; NULL: one member, with its messages at hand */

	/* Messages read again at the commit. */
	LogReader	place_reader;	/* for members that kept places */
	LogReader	scan_reader;	/* for all members together that kept a range */
	SckptLogXact scan;			/* stands for the latter in the merge: what the scan has not given yet */
	TransactionId *scan_xids;	/* sorted */
	int			nscan_xids;
	SckptLogMessage *scan_message;	/* the next one, when the scan is ahead */
};

/* Where a record that begins at or after a place can begin at the earliest: not in a page's header. */
static XLogRecPtr
skip_page_header(XLogRecPtr lsn)
{
	if (XLogSegmentOffset(lsn, wal_segment_size) == 0)
		return lsn + SizeOfXLogLongPHD;
	if (lsn % XLOG_BLCKSZ == 0)
		return lsn + SizeOfXLogShortPHD;
	return lsn;
}

static void
close_file(void *arg)
{
	XLogReaderState *state = arg;

	if (state->seg.ws_file >= 0)
		wal_segment_close(state);
}

static void
reader_open(SckptLog *log, LogReader *reader)
{
	MemoryContext old_context;

	Assert(reader->context == NULL);
	reader->context = AllocSetContextCreate(log->context, "stream_ckpt log reader",
											ALLOCSET_DEFAULT_SIZES);
	old_context = MemoryContextSwitchTo(reader->context);
	reader->state = XLogReaderAllocate(wal_segment_size, NULL,
									   XL_ROUTINE(.page_read = read_local_xlog_page_no_wait,
												  .segment_open = wal_segment_open,
												  .segment_close = wal_segment_close),
									   &reader->end);
	if (reader->state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while allocating a WAL reading processor.")));
	reader->state->system_identifier = GetSystemIdentifier();
	reader->callback.func = close_file;
	reader->callback.arg = reader->state;
	MemoryContextRegisterResetCallback(reader->context, &reader->callback);
	MemoryContextSwitchTo(old_context);
}

static void
reader_close(LogReader *reader)
{
	if (reader->context)
		MemoryContextDelete(reader->context);
	reader->context = NULL;
	reader->state = NULL;
}

/*
 * Read the next record.  False at the end of the flushed log.  The reader's
 * context must be current.
 */
static inline bool
reader_next(LogReader *reader)
{
	char	   *error = NULL;

	Assert(CurrentMemoryContext == reader->context);
	reader->end.end_of_wal = false;
	if (likely(XLogReadRecord(reader->state, &error) != NULL))
		return true;

	if (error == NULL && reader->end.end_of_wal)
		return false;
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 error ?
			 errmsg("could not read WAL record at %X/%X: %s",
					LSN_FORMAT_ARGS(reader->state->EndRecPtr), error) :
			 errmsg("could not read WAL record at %X/%X",
					LSN_FORMAT_ARGS(reader->state->EndRecPtr))));
	return false;				/* keep compiler quiet */
}

/*
 * If the reader's record is a message of ours, in this database, return its
 * payload.  Nothing is believed because of the name alone: SQL can write a
 * message with any text as prefix, but none with these bytes after a NUL.
 */
static inline char *
message_payload(SckptLog *log, XLogReaderState *state, uint32 *len)
{
	xl_logical_message *message = (xl_logical_message *) XLogRecGetData(state);
	Size		data_len = XLogRecGetDataLen(state);

	if ((XLogRecGetInfo(state) & ~XLR_INFO_MASK) != XLOG_LOGICAL_MESSAGE ||
		data_len < SizeOfLogicalMessage + SCKPT_RECORD_PREFIX_SIZE + sizeof(SckptRecordHeader) ||
		message->dbId != log->database ||
		!message->transactional ||
		message->prefix_size != SCKPT_RECORD_PREFIX_SIZE ||
		message->message_size != data_len - SizeOfLogicalMessage - SCKPT_RECORD_PREFIX_SIZE ||
		memcmp(message->message, sckpt_record_prefix, SCKPT_RECORD_PREFIX_SIZE) != 0 ||
		!TransactionIdIsValid(XLogRecGetXid(state)))
		return NULL;

	*len = (uint32) message->message_size;
	return message->message + SCKPT_RECORD_PREFIX_SIZE;
}

SckptLog *
sckpt_log_open(MemoryContext parent, Oid database, XLogRecPtr start,
			   XLogRecPtr skip_until, Size memory_limit)
{
	MemoryContext context;
	SckptLog   *log;

	context = AllocSetContextCreate(parent, "stream_ckpt log", ALLOCSET_DEFAULT_SIZES);
	log = MemoryContextAllocZero(context, sizeof(SckptLog));
	log->context = context;
	log->database = database;
	log->start = skip_page_header(start);
	log->skip_until = skip_until;
	log->store = sckpt_log_store_create(AllocSetContextCreate(context, "stream_ckpt log messages",
															  ALLOCSET_DEFAULT_SIZES),
										memory_limit);
	reader_open(log, &log->reader);
	XLogBeginRead(log->reader.state, log->start);
	return log;
}

void
sckpt_log_close(SckptLog *log)
{
	MemoryContextDelete(log->context);
}

void
sckpt_log_set_memory_limit(SckptLog *log, Size memory_limit)
{
	sckpt_log_store_set_limit(log->store, memory_limit);
}

/* Let go of what is left of the transaction at hand. */
static void
drop_transaction(SckptLog *log)
{
	if (log->nmembers == 0)
		return;

	for (int i = 0; i < log->nmembers; i++)
		sckpt_log_store_free(log->store, log->members[i]);
	log->nmembers = 0;
	log->merged = false;
	if (log->merge == NULL)
		return;

	binaryheap_free(log->merge);
	log->merge = NULL;
	if (log->scan_xids)
		pfree(log->scan_xids);
	log->scan_xids = NULL;
	log->nscan_xids = 0;
	if (log->scan_message)
		pfree(log->scan_message);
	log->scan_message = NULL;

	/* These keep a file open, which may be about to be removed. */
	reader_close(&log->place_reader);
	reader_close(&log->scan_reader);
}

/* Take an xid that has committed out of the store, into the transaction at hand. */
static inline void
add_member(SckptLog *log, TransactionId xid)
{
	SckptLogXact *xact = sckpt_log_store_take(log->store, xid);

	if (xact == NULL)
		return;
	if (log->nmembers == log->members_size)
	{
		int			size = Max(16, log->members_size * 2);

		if (log->members == NULL)
			log->members = MemoryContextAlloc(log->context, size * sizeof(SckptLogXact *));
		else
			log->members = repalloc_huge(log->members, size * sizeof(SckptLogXact *));
		log->members_size = size;
	}
	log->members[log->nmembers++] = xact;
}

static int
compare_xids(const void *a, const void *b)
{
	TransactionId left = *(const TransactionId *) a;
	TransactionId right = *(const TransactionId *) b;

	return left < right ? -1 : left > right ? 1 : 0;
}

/* The heap hands out its greatest first: the one whose next place is the lowest. */
static int
compare_next_places(Datum a, Datum b, void *arg)
{
	XLogRecPtr	left = ((SckptLogXact *) DatumGetPointer(a))->first_lsn;
	XLogRecPtr	right = ((SckptLogXact *) DatumGetPointer(b))->first_lsn;

	return left < right ? 1 : left > right ? -1 : 0;
}

/* Prepare to hand out the members' messages in the order of the log. */
static void
begin_merge(SckptLog *log)
{
	MemoryContext old_context;
	SckptLogXact *scan = &log->scan;

	log->merged = true;
	if (log->nmembers == 1 && log->members[0]->kept == SCKPT_LOG_HELD)
		return;

	old_context = MemoryContextSwitchTo(log->context);
	log->merge = binaryheap_allocate(log->nmembers, compare_next_places, NULL);
	memset(scan, 0, sizeof(*scan));
	scan->kept = SCKPT_LOG_RANGE;

	for (int i = 0; i < log->nmembers; i++)
	{
		SckptLogXact *xact = log->members[i];

		if (xact->kept != SCKPT_LOG_RANGE)
		{
			binaryheap_add_unordered(log->merge, PointerGetDatum(xact));
			continue;
		}

		/* However many kept only a range, the log is read through once. */
		if (log->scan_xids == NULL)
		{
			log->scan_xids = palloc_extended(log->nmembers * sizeof(TransactionId), MCXT_ALLOC_HUGE);
			scan->first_lsn = xact->first_lsn;
		}
		log->scan_xids[log->nscan_xids++] = xact->xid;
		scan->first_lsn = Min(scan->first_lsn, xact->first_lsn);
		scan->last_lsn = Max(scan->last_lsn, xact->last_lsn);
		scan->nmessages += xact->nmessages;
	}
	if (log->scan_xids)
	{
		qsort(log->scan_xids, log->nscan_xids, sizeof(TransactionId), compare_xids);
		binaryheap_add_unordered(log->merge, PointerGetDatum(scan));
	}
	binaryheap_build(log->merge);
	MemoryContextSwitchTo(old_context);
}

/*
 * A transaction has committed.  True if there is anything to hand out.
 */
static bool
end_with_commit(SckptLog *log, TransactionId xid, xl_xact_parsed_commit *parsed,
				SckptLogTransaction *transaction)
{
	add_member(log, xid);
	for (int i = 0; i < parsed->nsubxacts; i++)
		add_member(log, parsed->subxacts[i]);

	if (log->nmembers == 0)
		return false;
	if (log->reader.state->ReadRecPtr <= log->skip_until)
	{
		for (int i = 0; i < log->nmembers; i++)
		{
			if (log->members[i]->tapped)
				sckpt_log_store_note_dropped(log->store, log->members[i]->xid);
		}
		drop_transaction(log);
		return false;
	}

	transaction->xid = xid;
	transaction->commit_lsn = log->reader.state->ReadRecPtr;
	transaction->commit_time = parsed->xact_time;
	transaction->nmessages = 0;
	transaction->nbytes = 0;
	for (int i = 0; i < log->nmembers; i++)
	{
		transaction->nmessages += log->members[i]->nmessages;
		transaction->nbytes += log->members[i]->nbytes;
	}
	return true;
}

/* A record about the end of transactions, while some are open.  True if one is at hand now. */
static bool
process_xact_record(SckptLog *log, SckptLogTransaction *transaction)
{
	XLogReaderState *state = log->reader.state;
	uint8		info = XLogRecGetInfo(state);
	char	   *data = XLogRecGetData(state);

	switch (info & XLOG_XACT_OPMASK)
	{
		case XLOG_XACT_COMMIT:
		case XLOG_XACT_COMMIT_PREPARED:
			{
				xl_xact_parsed_commit parsed;
				TransactionId xid = XLogRecGetXid(state);

				ParseCommitRecord(info, (xl_xact_commit *) data, &parsed);
				if (TransactionIdIsValid(parsed.twophase_xid))
					xid = parsed.twophase_xid;
				return end_with_commit(log, xid, &parsed, transaction);
			}

		case XLOG_XACT_ABORT:
		case XLOG_XACT_ABORT_PREPARED:
			{
				xl_xact_parsed_abort parsed;
				TransactionId xid = XLogRecGetXid(state);

				ParseAbortRecord(info, (xl_xact_abort *) data, &parsed);
				if (TransactionIdIsValid(parsed.twophase_xid))
					xid = parsed.twophase_xid;
				sckpt_log_store_drop(log->store, xid);
				for (int i = 0; i < parsed.nsubxacts; i++)
					sckpt_log_store_drop(log->store, parsed.subxacts[i]);
				return false;
			}

		case XLOG_XACT_PREPARE:
			{
				xl_xact_parsed_prepare parsed;

				ParsePrepareRecord(info, (xl_xact_prepare *) data, &parsed);
				sckpt_log_store_mark_prepared(log->store, parsed.twophase_xid);
				for (int i = 0; i < parsed.nsubxacts; i++)
					sckpt_log_store_mark_prepared(log->store, parsed.subxacts[i]);
				return false;
			}

		default:
			return false;
	}
}

/* Look at the record just read.  True if a transaction is at hand now. */
static inline bool
process_record(SckptLog *log, SckptLogTransaction *transaction)
{
	XLogReaderState *state = log->reader.state;
	uint8		info;
	char	   *payload;
	uint32		len;

	switch (XLogRecGetRmid(state))
	{
		case RM_LOGICALMSG_ID:
			payload = message_payload(log, state, &len);
			if (payload)
				sckpt_log_store_add(log->store, XLogRecGetXid(state), state->ReadRecPtr,
									payload, len);
			return false;

		case RM_XACT_ID:
			return sckpt_log_store_count(log->store) > 0 && process_xact_record(log, transaction);

		case RM_STANDBY_ID:
			info = XLogRecGetInfo(state) & ~XLR_INFO_MASK;
			if (info == XLOG_RUNNING_XACTS && sckpt_log_store_count(log->store) > 0)
				sckpt_log_store_drop_older(log->store,
										   ((xl_running_xacts *) XLogRecGetData(state))->oldestRunningXid);
			return false;

		case RM_XLOG_ID:
			info = XLogRecGetInfo(state) & ~XLR_INFO_MASK;
			if (info == XLOG_CHECKPOINT_SHUTDOWN || info == XLOG_END_OF_RECOVERY)
				sckpt_log_store_drop_unprepared(log->store);
			return false;

		default:
			return false;
	}
}

void
sckpt_log_set_limit(SckptLog *log, XLogRecPtr limit)
{
	log->limit = limit;
}

SckptLogResult
sckpt_log_next(SckptLog *log, Size max_bytes, SckptLogTransaction *transaction)
{
	XLogReaderState *state = log->reader.state;
	MemoryContext old_context = MemoryContextSwitchTo(log->reader.context);
	XLogRecPtr	begin = state->EndRecPtr;
	SckptLogResult result;

	drop_transaction(log);

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();

		if (log->limit != InvalidXLogRecPtr && sckpt_log_end_lsn(log) >= log->limit)
		{
			result = SCKPT_LOG_LIMIT;
			break;
		}
		if (!reader_next(&log->reader))
		{
			result = SCKPT_LOG_END;
			break;
		}
		if (process_record(log, transaction))
		{
			result = SCKPT_LOG_TRANSACTION;
			break;
		}
		if (state->EndRecPtr - begin >= max_bytes)
		{
			result = SCKPT_LOG_MORE;
			break;
		}
	}

	MemoryContextSwitchTo(old_context);
	return result;
}

static void
report_unreadable(XLogRecPtr lsn)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("could not read the rows of a transaction again from WAL record at %X/%X",
					LSN_FORMAT_ARGS(lsn))));
}

/* Read one message of a member again. */
static SckptLogMessage *
read_place(SckptLog *log, TransactionId xid, XLogRecPtr lsn)
{
	LogReader  *reader = &log->place_reader;
	MemoryContext old_context;
	char	   *payload;
	uint32		len = 0;

	if (reader->context == NULL)
		reader_open(log, reader);

	old_context = MemoryContextSwitchTo(reader->context);
	XLogBeginRead(reader->state, lsn);
	if (!reader_next(reader) ||
		reader->state->ReadRecPtr != lsn ||
		XLogRecGetRmid(reader->state) != RM_LOGICALMSG_ID ||
		XLogRecGetXid(reader->state) != xid ||
		(payload = message_payload(log, reader->state, &len)) == NULL)
		report_unreadable(lsn);
	MemoryContextSwitchTo(old_context);

	return sckpt_log_store_make_message(log->store, xid, lsn, payload, len);
}

/* Read on to the next message of any member that kept only a range. */
static SckptLogMessage *
scan_on(SckptLog *log)
{
	LogReader  *reader = &log->scan_reader;
	SckptLogMessage *message = NULL;
	MemoryContext old_context;

	if (reader->context == NULL)
	{
		reader_open(log, reader);
		XLogBeginRead(reader->state, log->scan.first_lsn);
	}

	old_context = MemoryContextSwitchTo(reader->context);
	while (message == NULL)
	{
		TransactionId xid;
		char	   *payload;
		uint32		len;

		CHECK_FOR_INTERRUPTS();
		if (!reader_next(reader) || reader->state->ReadRecPtr > log->scan.last_lsn)
			report_unreadable(log->scan.last_lsn);
		if (XLogRecGetRmid(reader->state) != RM_LOGICALMSG_ID)
			continue;

		xid = XLogRecGetXid(reader->state);
		if (bsearch(&xid, log->scan_xids, log->nscan_xids, sizeof(TransactionId), compare_xids) &&
			(payload = message_payload(log, reader->state, &len)) != NULL)
			message = sckpt_log_store_make_message(log->store, xid, reader->state->ReadRecPtr,
												   payload, len);
	}
	MemoryContextSwitchTo(old_context);
	return message;
}

/*
 * The next message of the scan.  The one after it is found right away, since
 * the merge must know its place.
 */
static SckptLogMessage *
pop_scanned(SckptLog *log)
{
	SckptLogXact *scan = &log->scan;
	SckptLogMessage *message = log->scan_message;

	log->scan_message = NULL;
	if (message == NULL)
		message = scan_on(log);
	if (--scan->nmessages > 0)
	{
		/* An error in between loses a message, but leaves the reader unusable anyway. */
		log->scan_message = scan_on(log);
		scan->first_lsn = log->scan_message->lsn;
	}
	return message;
}

SckptLogMessage *
sckpt_log_next_message(SckptLog *log)
{
	SckptLogXact *xact;
	SckptLogMessage *message = NULL;

	if (log->nmembers == 0)
		return NULL;
	if (!log->merged)
		begin_merge(log);
	if (log->merge == NULL)
		return sckpt_log_store_pop_message(log->store, log->members[0]);
	if (binaryheap_empty(log->merge))
		return NULL;

	CHECK_FOR_INTERRUPTS();
	xact = (SckptLogXact *) DatumGetPointer(binaryheap_first(log->merge));
	switch ((SckptLogKept) xact->kept)
	{
		case SCKPT_LOG_HELD:
			message = sckpt_log_store_pop_message(log->store, xact);
			break;
		case SCKPT_LOG_PLACES:
			message = read_place(log, xact->xid, sckpt_log_store_pop_place(log->store, xact));
			break;
		case SCKPT_LOG_RANGE:
			message = pop_scanned(log);
			break;
	}

	if (xact->nmessages > 0)
		binaryheap_replace_first(log->merge, PointerGetDatum(xact));
	else
		(void) binaryheap_remove_first(log->merge);
	return message;
}

void
sckpt_log_set_tap(SckptLog *log, Size bytes)
{
	sckpt_log_store_set_tap(log->store, bytes);
}

SckptLogMessage *
sckpt_log_take_tap(SckptLog *log, TransactionId *xid)
{
	return sckpt_log_store_take_tap(log->store, xid);
}

bool
sckpt_log_next_dropped(SckptLog *log, TransactionId *xid)
{
	return sckpt_log_store_next_dropped(log->store, xid);
}

TransactionId *
sckpt_log_tapped_xids(SckptLog *log, int *count)
{
	TransactionId *xids = palloc_extended(Max(1, log->nmembers) * sizeof(TransactionId), MCXT_ALLOC_HUGE);

	*count = 0;
	for (int i = 0; i < log->nmembers; i++)
	{
		if (log->members[i]->tapped)
			xids[(*count)++] = log->members[i]->xid;
	}
	return xids;
}

void
sckpt_log_skip_tapped(SckptLog *log)
{
	int			left = 0;

	Assert(!log->merged);
	for (int i = 0; i < log->nmembers; i++)
	{
		if (log->members[i]->tapped)
			sckpt_log_store_free(log->store, log->members[i]);
		else
			log->members[left++] = log->members[i];
	}
	log->nmembers = left;
}

XLogRecPtr
sckpt_log_read_lsn(SckptLog *log)
{
	return log->reader.state->ReadRecPtr;
}

/*
 * A position at the end of a page is given as the one after the next page's
 * header, where the insert position then is.
 */
XLogRecPtr
sckpt_log_end_lsn(SckptLog *log)
{
	return skip_page_header(log->reader.state->EndRecPtr);
}

XLogRecPtr
sckpt_log_restart_lsn(SckptLog *log)
{
	XLogRecPtr	first_lsn = sckpt_log_store_first_lsn(log->store);

	if (!XLogRecPtrIsInvalid(first_lsn))
		return first_lsn;
	if (!XLogRecPtrIsInvalid(log->reader.state->ReadRecPtr))
		return log->reader.state->ReadRecPtr;
	return log->start;
}

Size
sckpt_log_memory(SckptLog *log)
{
	return sckpt_log_store_memory(log->store);
}

bool
sckpt_log_has_open(SckptLog *log)
{
	return sckpt_log_store_count(log->store) > 0;
}
