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
 * Of messages of streams that nobody here reads only the places are kept: who
 * reads may change until the commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog_internal.h"
#include "catalog/pg_control.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "storage/standbydefs.h"
#include "utils/memutils.h"

#include "log.h"
#include "log_store.h"
#include "record.h"
#include "wal.h"

struct SckptLog
{
	MemoryContext context;
	Oid			database;
	XLogRecPtr	skip_until;
	XLogRecPtr	limit;			/* Invalid: none */
	List	   *streams;		/* of which messages are wanted */
	SckptLogStore *store;
	SckptWal   *wal;
	char	   *data;			/* of the record at hand, one that ends transactions */
	uint32		data_size;

	/* The transaction at hand: what is left of its xids' messages. */
	SckptLogXact **members;
	int			nmembers;
	int			members_size;
	bool		merged;			/* begin_merge() has been there */
	binaryheap *merge;			/* by next place; NULL: one member, with its messages at hand */

	/* Messages read again at the commit. */
	SckptWal   *place_wal;		/* for members that kept places */
	SckptWal   *scan_wal;		/* for all members together that kept a range */
	SckptLogXact scan;			/* stands for the latter in the merge: what the scan has not given yet */
	TransactionId *scan_xids;	/* sorted */
	int			nscan_xids;
	SckptLogMessage *scan_message;	/* the next one, when the scan is ahead */
};

/* What a message of ours begins with, after the record's header. */
typedef union MessageHead
{
	xl_logical_message message;
	char		bytes[SizeOfLogicalMessage + SCKPT_RECORD_PREFIX_SIZE + sizeof(SckptRecordHeader)];
} MessageHead;

/*
 * If the record at hand is a message of ours, in this database, return it; without its data, if nobody wants its stream.  Nothing is believed
 * because of the name alone: SQL can write a message with any text as prefix, but none with these bytes after a NUL.
 */
static SckptLogMessage *
read_message(SckptLog *log, SckptWal *wal, const XLogRecord *record)
{
	MessageHead head;
	SckptRecordHeader header;
	SckptLogMessage *message;
	XLogRecPtr	lsn = sckpt_wal_lsn(wal);
	uint32		data_len;
	uint32		len;

	if ((record->xl_info & ~XLR_INFO_MASK) != XLOG_LOGICAL_MESSAGE || !TransactionIdIsValid(record->xl_xid) ||
		!sckpt_wal_main_data(wal, &data_len) || data_len < sizeof(head.bytes) || !sckpt_wal_read(wal, &head, sizeof(head.bytes)))
		return NULL;
	len = data_len - SizeOfLogicalMessage - SCKPT_RECORD_PREFIX_SIZE;
	if (head.message.dbId != log->database ||
		!head.message.transactional ||
		head.message.prefix_size != SCKPT_RECORD_PREFIX_SIZE ||
		head.message.message_size != len ||
		memcmp(head.bytes + SizeOfLogicalMessage, sckpt_record_prefix, SCKPT_RECORD_PREFIX_SIZE) != 0)
		return NULL;
	memcpy(&header, head.bytes + SizeOfLogicalMessage + SCKPT_RECORD_PREFIX_SIZE, sizeof(header));
	if (!list_member_oid(log->streams, header.stream))
		return sckpt_log_store_make_message(log->store, record->xl_xid, lsn, header.stream, len, true);

	message = sckpt_log_store_make_message(log->store, record->xl_xid, lsn, header.stream, len, false);
	memcpy(message->data, &header, sizeof(header));
	if (!sckpt_wal_read(wal, message->data + sizeof(header), len - sizeof(header)))
	{
		sckpt_log_free_message(message);
		return NULL;
	}
	sckpt_wal_verify(wal);
	return message;
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
	log->skip_until = skip_until;
	log->store = sckpt_log_store_create(AllocSetContextCreate(context, "stream_ckpt log messages",
															  ALLOCSET_DEFAULT_SIZES),
										memory_limit);
	log->wal = sckpt_wal_open(context);
	sckpt_wal_begin(log->wal, start);
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

static void
close_wal(SckptWal **wal)
{
	if (*wal)
		sckpt_wal_close(*wal);
	*wal = NULL;
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
		sckpt_log_free_message(log->scan_message);
	log->scan_message = NULL;

	/* These keep a file open, which may be about to be removed. */
	close_wal(&log->place_wal);
	close_wal(&log->scan_wal);
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
	if (sckpt_wal_lsn(log->wal) <= log->skip_until)
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
	transaction->commit_lsn = sckpt_wal_lsn(log->wal);
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

/* The main data of the record at hand, until the next one is.  NULL: it has none, or was never finished. */
static char *
read_data(SckptLog *log)
{
	uint32		len;

	if (!sckpt_wal_main_data(log->wal, &len) || len == 0)
		return NULL;
	if (len > log->data_size)
	{
		if (log->data)
			pfree(log->data);
		log->data = NULL;
		log->data_size = 0;
		log->data = MemoryContextAllocHuge(log->context, Max(1024, len));
		log->data_size = Max(1024, len);
	}
	if (!sckpt_wal_read(log->wal, log->data, len))
		return NULL;
	sckpt_wal_verify(log->wal);
	return log->data;
}

/* A record about the end of transactions, while some are open.  True if one is at hand now. */
static bool
process_xact_record(SckptLog *log, const XLogRecord *record, SckptLogTransaction *transaction)
{
	uint8		info = record->xl_info;
	char	   *data = read_data(log);

	if (data == NULL)
		return false;

	switch (info & XLOG_XACT_OPMASK)
	{
		case XLOG_XACT_COMMIT:
		case XLOG_XACT_COMMIT_PREPARED:
			{
				xl_xact_parsed_commit parsed;
				TransactionId xid = record->xl_xid;

				ParseCommitRecord(info, (xl_xact_commit *) data, &parsed);
				if (TransactionIdIsValid(parsed.twophase_xid))
					xid = parsed.twophase_xid;
				return end_with_commit(log, xid, &parsed, transaction);
			}

		case XLOG_XACT_ABORT:
		case XLOG_XACT_ABORT_PREPARED:
			{
				xl_xact_parsed_abort parsed;
				TransactionId xid = record->xl_xid;

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

/* Look at the record at hand.  True if a transaction is at hand now. */
static inline bool
process_record(SckptLog *log, const XLogRecord *record, SckptLogTransaction *transaction)
{
	uint8		info = record->xl_info & ~XLR_INFO_MASK;
	SckptLogMessage *message;
	char	   *data;

	switch (record->xl_rmid)
	{
		case RM_LOGICALMSG_ID:
			message = read_message(log, log->wal, record);
			if (message)
				sckpt_log_store_add(log->store, message);
			return false;

		case RM_XACT_ID:
			return sckpt_log_store_count(log->store) > 0 && process_xact_record(log, record, transaction);

		case RM_STANDBY_ID:
			if (info == XLOG_RUNNING_XACTS && sckpt_log_store_count(log->store) > 0 && (data = read_data(log)) != NULL)
				sckpt_log_store_drop_older(log->store, ((xl_running_xacts *) data)->oldestRunningXid);
			return false;

		case RM_XLOG_ID:
			if (info == XLOG_CHECKPOINT_SHUTDOWN || info == XLOG_END_OF_RECOVERY)
				sckpt_log_store_drop_unprepared(log->store);
			return false;

		default:
			return false;
	}
}

void
sckpt_log_set_streams(SckptLog *log, List *streams)
{
	MemoryContext old = MemoryContextSwitchTo(log->context);

	list_free(log->streams);
	log->streams = list_copy(streams);
	MemoryContextSwitchTo(old);
}

void
sckpt_log_set_limit(SckptLog *log, XLogRecPtr limit)
{
	log->limit = limit;
}

SckptLogResult
sckpt_log_next(SckptLog *log, Size max_bytes, SckptLogTransaction *transaction)
{
	XLogRecPtr	begin = sckpt_log_end_lsn(log);

	drop_transaction(log);

	for (;;)
	{
		const XLogRecord *record;

		CHECK_FOR_INTERRUPTS();
		if (log->limit != InvalidXLogRecPtr && sckpt_log_end_lsn(log) >= log->limit)
			return SCKPT_LOG_LIMIT;
		record = sckpt_wal_next(log->wal);
		if (record == NULL)
		{
			sckpt_log_store_drop_spare(log->store);
			return SCKPT_LOG_END;
		}
		if (process_record(log, record, transaction))
			return SCKPT_LOG_TRANSACTION;
		if (sckpt_wal_end_lsn(log->wal) - begin >= max_bytes)
			return SCKPT_LOG_MORE;
	}
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
	const XLogRecord *record;
	SckptLogMessage *message = NULL;

	if (log->place_wal == NULL)
		log->place_wal = sckpt_wal_open(log->context);
	sckpt_wal_begin(log->place_wal, lsn);
	record = sckpt_wal_next(log->place_wal);
	if (record && sckpt_wal_lsn(log->place_wal) == lsn && record->xl_rmid == RM_LOGICALMSG_ID && record->xl_xid == xid)
		message = read_message(log, log->place_wal, record);
	if (message == NULL)
		report_unreadable(lsn);
	return message;
}

/* Read on to the next message of any member that kept only a range. */
static SckptLogMessage *
scan_on(SckptLog *log)
{
	SckptLogMessage *message = NULL;

	if (log->scan_wal == NULL)
	{
		log->scan_wal = sckpt_wal_open(log->context);
		sckpt_wal_begin(log->scan_wal, log->scan.first_lsn);
	}

	while (message == NULL)
	{
		const XLogRecord *record;

		CHECK_FOR_INTERRUPTS();
		record = sckpt_wal_next(log->scan_wal);
		if (record == NULL || sckpt_wal_lsn(log->scan_wal) > log->scan.last_lsn)
			report_unreadable(log->scan.last_lsn);
		if (record->xl_rmid == RM_LOGICALMSG_ID &&
			bsearch(&record->xl_xid, log->scan_xids, log->nscan_xids, sizeof(TransactionId), compare_xids))
			message = read_message(log, log->scan_wal, record);
	}
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

/* The next message of the members, with or without data. */
static SckptLogMessage *
next_of_members(SckptLog *log)
{
	SckptLogXact *xact;
	SckptLogMessage *message = NULL;

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

SckptLogMessage *
sckpt_log_next_message(SckptLog *log)
{
	SckptLogMessage *message;

	if (log->nmembers == 0)
		return NULL;
	if (!log->merged)
		begin_merge(log);
	while ((message = next_of_members(log)) != NULL && message->empty)
	{
		SckptLogMessage *place = message;

		/* Its stream may be wanted by now. */
		message = list_member_oid(log->streams, place->stream) ? read_place(log, place->xid, place->lsn) : NULL;
		sckpt_log_free_message(place);
		if (message)
			break;
	}
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
	return sckpt_wal_lsn(log->wal);
}

XLogRecPtr
sckpt_log_delivers_after(SckptLog *log)
{
	return Max(sckpt_wal_lsn(log->wal), log->skip_until);
}

/*
 * A position at the end of a page is given as the one after the next page's
 * header, where the insert position then is.
 */
XLogRecPtr
sckpt_log_end_lsn(SckptLog *log)
{
	return sckpt_wal_end_lsn(log->wal);
}

XLogRecPtr
sckpt_log_restart_lsn(SckptLog *log)
{
	XLogRecPtr	first_lsn = sckpt_log_store_first_lsn(log->store);

	if (!XLogRecPtrIsInvalid(first_lsn))
		return first_lsn;
	if (!XLogRecPtrIsInvalid(sckpt_wal_lsn(log->wal)))
		return sckpt_wal_lsn(log->wal);
	return sckpt_wal_end_lsn(log->wal);
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
