/*-------------------------------------------------------------------------
 *
 * wal.c
 *		Walks over the records of the flushed WAL, without reading those that
 *		nobody asks for.
 *
 * The format is that of access/xlogrecord.h and xlog_internal.h; the rules are
 * those of xlogreader.c, which see.  A record may go on over any number of
 * pages.  A crash may leave one unfinished: then recovery flags the page on which it
 * would have gone on, and other records start there.
 *
 * Pages come in pieces of up to WINDOW_PAGES, the more the longer pages
 * follow each other: whoever leaves out large records reads little more than
 * the pages on which records start.
 *
 * Of an XLogReader are left the segments and timelines, and the checks of a
 * page's header.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogrecovery.h"
#include "access/xlogutils.h"
#include "catalog/pg_control.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "utils/memutils.h"

#include "wal.h"

#define WINDOW_PAGES	16

struct SckptWal
{
	MemoryContext context;
	XLogReaderState *source;
	MemoryContextCallback callback;
	TimeLineID	timeline;
	XLogRecPtr	flushed;		/* as last seen: the log can be read up to there */

	/* The pages at hand. */
	char	   *window;
	XLogRecPtr	window_start;
	XLogRecPtr	window_end;		/* of what can be believed; at most `flushed` */
	int			ahead;			/* pages to read when the next one is wanted */

	/* The record at hand. */
	XLogRecord	header;
	XLogRecPtr	previous;		/* start of the one before it; Invalid: not known */
	XLogRecPtr	start;			/* Invalid: none is at hand */
	XLogRecPtr	stop;			/* just past its last byte */
	XLogRecPtr	end;			/* where the next one starts, if not after a page's header */
	XLogRecPtr	at;				/* its next byte, likewise */
	uint32		left;			/* bytes not read */
	pg_crc32c	crc;			/* of those read after the header */
};

static inline Size
page_header_size(XLogRecPtr page)
{
	return XLogSegmentOffset(page, wal_segment_size) == 0 ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;
}

static inline XLogRecPtr
page_of(XLogRecPtr lsn)
{
	return lsn - lsn % XLOG_BLCKSZ;
}

/* At the start of a page, its header is passed over. */
static inline XLogRecPtr
skip_page_header(XLogRecPtr lsn)
{
	return lsn % XLOG_BLCKSZ == 0 ? lsn + page_header_size(lsn) : lsn;
}

static inline XLogRecPtr
page_end(XLogRecPtr lsn)
{
	return page_of(lsn) + XLOG_BLCKSZ;
}

/* Where the bytes end of which the first is at `at`, not in a page's header. */
static XLogRecPtr
end_of(XLogRecPtr at, uint64 bytes)
{
	uint64		here = page_end(at) - at;

	while (bytes > here)
	{
		bytes -= here;
		at = page_end(at);
		at += page_header_size(at);
		here = page_end(at) - at;
	}
	return at + bytes;
}

static void
close_file(void *arg)
{
	XLogReaderState *source = arg;

	if (source->seg.ws_file >= 0)
		wal_segment_close(source);
}

SckptWal *
sckpt_wal_open(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt log reader", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptWal   *wal = palloc0(sizeof(SckptWal));

	wal->context = context;
	wal->window = palloc(WINDOW_PAGES * XLOG_BLCKSZ);
	wal->source = XLogReaderAllocate(wal_segment_size, NULL,
									 XL_ROUTINE(.page_read = read_local_xlog_page_no_wait,
												.segment_open = wal_segment_open,
												.segment_close = wal_segment_close),
									 NULL);
	if (wal->source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while allocating a WAL reading processor.")));
	wal->source->system_identifier = GetSystemIdentifier();
	wal->callback.func = close_file;
	wal->callback.arg = wal->source;
	MemoryContextRegisterResetCallback(context, &wal->callback);
	MemoryContextSwitchTo(old);
	return wal;
}

void
sckpt_wal_close(SckptWal *wal)
{
	MemoryContextDelete(wal->context);
}

void
sckpt_wal_begin(SckptWal *wal, XLogRecPtr lsn)
{
	wal->previous = wal->start = InvalidXLogRecPtr;
	wal->end = lsn;
	wal->left = 0;
}

XLogRecPtr
sckpt_wal_lsn(SckptWal *wal)
{
	return wal->start;
}

XLogRecPtr
sckpt_wal_end_lsn(SckptWal *wal)
{
	return skip_page_header(wal->end);
}

static void
report_broken(XLogRecPtr lsn, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("could not read WAL record at %X/%X: %s", LSN_FORMAT_ARGS(lsn), why)));
}

/* Is the log flushed up to there? */
static inline bool
is_flushed(SckptWal *wal, XLogRecPtr lsn)
{
	if (likely(lsn <= wal->flushed))
		return true;
	if (RecoveryInProgress())
		wal->flushed = GetXLogReplayRecPtr(&wal->timeline);
	else
		wal->flushed = GetFlushRecPtr(&wal->timeline);
	return lsn <= wal->flushed;
}

/* Make the page that ends at `lsn`, or holds the byte before it, the first one of the window; it is flushed up to there. */
static void
load_window(SckptWal *wal, XLogRecPtr lsn)
{
	XLogRecPtr	page = page_of(lsn - 1);
	XLogRecPtr	upto = wal->flushed;
	TimeLineID	timeline = wal->timeline;
	MemoryContext old = MemoryContextSwitchTo(wal->context);
	WALReadError error;

	wal->ahead = page == page_of(wal->window_end) ? Min(wal->ahead * 2, WINDOW_PAGES) : 1;
	wal->window_start = wal->window_end = InvalidXLogRecPtr;

	XLogReadDetermineTimeline(wal->source, page, lsn - page, wal->timeline);
	if (wal->source->currTLI != wal->timeline)
	{
		/* An older timeline: up to where it was left. */
		upto = wal->source->currTLIValidUntil;
		timeline = wal->source->currTLI;
	}
	upto = Min(upto, page + wal->ahead * XLOG_BLCKSZ);
	upto = Min(upto, page - XLogSegmentOffset(page, wal_segment_size) + wal_segment_size);
	if (upto < lsn)
		report_broken(lsn, "its timeline ends before it");

	/* The rest of a page that is not full is zeroes, or not flushed. */
	if (!WALRead(wal->source, wal->window, page, TYPEALIGN(XLOG_BLCKSZ, upto - page), timeline, &error))
		WALReadRaiseError(&error);
	wal->window_start = page;
	wal->window_end = upto;
	MemoryContextSwitchTo(old);
}

/* Bytes up to `lsn`, flushed, from the start of the page that holds the last of them. */
static inline XLogPageHeader
get_page(SckptWal *wal, XLogRecPtr lsn)
{
	XLogRecPtr	page = page_of(lsn - 1);

	if (unlikely(page < wal->window_start || lsn > wal->window_end))
		load_window(wal, lsn);
	return (XLogPageHeader) (wal->window + (page - wal->window_start));
}

/* The same of a page that is new to us: its header is checked. */
static XLogPageHeader
enter_page(SckptWal *wal, XLogRecPtr lsn)
{
	XLogPageHeader page = get_page(wal, lsn);

	if (!XLogReaderValidatePageHeader(wal->source, page_of(lsn - 1), (char *) page))
		report_broken(lsn, wal->source->errormsg_buf);
	return page;
}

/* ---- From page to page ---- */

/* What is at hand was never finished: other records start on this page. */
static void
leave_unfinished(SckptWal *wal, XLogRecPtr page)
{
	wal->start = wal->previous;
	wal->end = page;
	wal->left = 0;
}

/* The page on which a record goes on with `left` bytes; NULL if it does not, as it was never finished. */
static XLogPageHeader
enter_continuation(SckptWal *wal, XLogRecPtr start, XLogRecPtr at, uint32 left)
{
	XLogPageHeader page = enter_page(wal, at + page_header_size(at) + 1);

	if (page->xlp_info & XLP_FIRST_IS_OVERWRITE_CONTRECORD)
		return NULL;
	if (!(page->xlp_info & XLP_FIRST_IS_CONTRECORD) || page->xlp_rem_len != left)
		report_broken(start, "it does not go on on the next page");
	return page;
}

/*
 * Does a record end where its header says, going on from the page of `at`?  Looks at the last of its pages only, if that is as
 * it should be.  Else the page on which it was found to be unfinished.
 */
static XLogRecPtr
find_unfinished(SckptWal *wal)
{
	XLogRecPtr	last = page_of(wal->stop - 1);
	uint32		left = wal->left;
	XLogPageHeader page;

	/* The one that it was read up to has been entered, unless nothing was read of it. */
	if (page_of(wal->at) == last && wal->at != last)
		return InvalidXLogRecPtr;
	page = enter_page(wal, wal->stop);
	if ((page->xlp_info & (XLP_FIRST_IS_CONTRECORD | XLP_FIRST_IS_OVERWRITE_CONTRECORD)) == XLP_FIRST_IS_CONTRECORD &&
		page->xlp_rem_len == wal->stop - last - page_header_size(last))
		return InvalidXLogRecPtr;

	for (XLogRecPtr at = wal->at;;)
	{
		uint32		here = at % XLOG_BLCKSZ == 0 ? 0 : page_end(at) - at;

		left -= here;
		at += here;
		if (enter_continuation(wal, wal->start, at, left) == NULL)
			return at;
		at += page_header_size(at);
		if (left <= page_end(at) - at)
			report_broken(wal->start, "it does not end on its last page");
	}
}

/* A record is not flushed to its end.  It may never be: true if the page that says so was found. */
static bool
find_overwritten(SckptWal *wal, XLogRecPtr start, XLogRecPtr *found)
{
	for (XLogRecPtr page = page_end(start); page + page_header_size(page) < wal->flushed; page = page_end(page))
	{
		if (enter_page(wal, page + page_header_size(page) + 1)->xlp_info & XLP_FIRST_IS_OVERWRITE_CONTRECORD)
		{
			*found = page;
			return true;
		}
	}
	return false;
}

/* ---- Records ---- */

const XLogRecord *
sckpt_wal_next(SckptWal *wal)
{
	XLogRecord	header;
	XLogRecPtr	start;
	XLogRecPtr	stop;
	XLogRecPtr	unfinished;

	if (wal->left > 0)
	{
		unfinished = find_unfinished(wal);
		wal->left = 0;
		if (!XLogRecPtrIsInvalid(unfinished))
			leave_unfinished(wal, unfinished);
	}

	for (;;)
	{
		XLogPageHeader page;
		uint32		here;

		start = skip_page_header(wal->end);
		stop = end_of(start, SizeOfXLogRecord);
		if (!is_flushed(wal, stop))
			return NULL;

		here = Min(SizeOfXLogRecord, page_end(start) - start);
		if (page_of(start) == page_of(wal->start))
			page = get_page(wal, start + here);
		else
			page = enter_page(wal, start + here);
		if ((page->xlp_info & XLP_FIRST_IS_CONTRECORD) && start == page_of(start) + page_header_size(page_of(start)))
			report_broken(start, "another one goes on there");
		memcpy(&header, (char *) page + start % XLOG_BLCKSZ, here);
		if (header.xl_tot_len < SizeOfXLogRecord)
			report_broken(start, "it has no length");
		if (unlikely(here < SizeOfXLogRecord))
		{
			XLogRecPtr	next = page_end(start);

			page = enter_continuation(wal, start, next, header.xl_tot_len - here);
			if (page == NULL)
			{
				wal->end = next;
				continue;
			}
			memcpy((char *) &header + here, (char *) page + page_header_size(next), SizeOfXLogRecord - here);
		}
		if (!RmgrIdIsValid(header.xl_rmid) ||
			(XLogRecPtrIsInvalid(wal->start) ? header.xl_prev >= start : header.xl_prev != wal->start))
			report_broken(start, "its header is not right");

		stop = end_of(start, header.xl_tot_len);
		if (likely(is_flushed(wal, stop)))
			break;
		if (!find_overwritten(wal, start, &wal->end))
			return NULL;
	}

	wal->header = header;
	wal->previous = wal->start;
	wal->start = start;
	wal->stop = stop;
	wal->end = MAXALIGN64(stop);
	if (header.xl_rmid == RM_XLOG_ID && (header.xl_info & ~XLR_INFO_MASK) == XLOG_SWITCH)
	{
		/* Nothing else is in its segment. */
		wal->end += wal_segment_size - 1;
		wal->end -= XLogSegmentOffset(wal->end, wal_segment_size);
	}
	wal->at = end_of(start, SizeOfXLogRecord);
	wal->left = header.xl_tot_len - SizeOfXLogRecord;
	INIT_CRC32C(wal->crc);
	return &wal->header;
}

bool
sckpt_wal_read(SckptWal *wal, void *to, uint32 bytes)
{
	char	   *target = to;

	Assert(bytes <= wal->left);
	while (bytes > 0)
	{
		uint32		here;
		char	   *page;

		if (wal->at % XLOG_BLCKSZ == 0)
		{
			if (enter_continuation(wal, wal->start, wal->at, wal->left) == NULL)
			{
				leave_unfinished(wal, wal->at);
				return false;
			}
			wal->at += page_header_size(wal->at);
		}
		here = Min(bytes, page_end(wal->at) - wal->at);
		page = (char *) get_page(wal, wal->at + here);
		memcpy(target, page + wal->at % XLOG_BLCKSZ, here);
		COMP_CRC32C(wal->crc, target, here);
		target += here;
		bytes -= here;
		wal->at += here;
		wal->left -= here;
	}
	return true;
}

bool
sckpt_wal_main_data(SckptWal *wal, uint32 *len)
{
	uint8		id;
	uint8		short_len;
	char		other[sizeof(TransactionId)];
	StaticAssertStmt(sizeof(RepOriginId) <= sizeof(other), "an origin is longer than a transaction id");

	while (wal->left > 0)
	{
		bool		there = false;

		if (!sckpt_wal_read(wal, &id, sizeof(id)))
			return false;
		switch (id)
		{
			case XLR_BLOCK_ID_DATA_SHORT:
				there = wal->left >= sizeof(short_len) && sckpt_wal_read(wal, &short_len, sizeof(short_len));
				*len = short_len;
				break;
			case XLR_BLOCK_ID_DATA_LONG:
				there = wal->left >= sizeof(*len) && sckpt_wal_read(wal, len, sizeof(*len));
				break;
			case XLR_BLOCK_ID_ORIGIN:
				if (wal->left >= sizeof(RepOriginId) && sckpt_wal_read(wal, other, sizeof(RepOriginId)))
					continue;
				return false;
			case XLR_BLOCK_ID_TOPLEVEL_XID:
				if (wal->left >= sizeof(TransactionId) && sckpt_wal_read(wal, other, sizeof(TransactionId)))
					continue;
				return false;
		}
		return there && *len == wal->left;
	}
	return false;
}

void
sckpt_wal_verify(SckptWal *wal)
{
	pg_crc32c	crc = wal->crc;

	Assert(wal->left == 0);
	COMP_CRC32C(crc, &wal->header, offsetof(XLogRecord, xl_crc));
	FIN_CRC32C(crc);
	if (!EQ_CRC32C(crc, wal->header.xl_crc))
		report_broken(wal->start, "its checksum is not right");
}
