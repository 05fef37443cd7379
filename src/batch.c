/*-------------------------------------------------------------------------
 *
 * batch.c
 *		A batch: rows of committed transactions on their way through pipelines.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/memutils.h"

#include "batch.h"

SckptBatch *
sckpt_batch_create(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt batch", ALLOCSET_DEFAULT_SIZES);
	SckptBatch *batch = MemoryContextAllocZero(context, sizeof(SckptBatch));

	batch->context = context;
	batch->references = 1;
	batch->maxsegments = 64;
	batch->segments = MemoryContextAlloc(context, batch->maxsegments * sizeof(SckptSegment));
	batch->maxxids = 64;
	batch->xids = MemoryContextAlloc(context, batch->maxxids * sizeof(TransactionId));
	batch->commit_lsns = MemoryContextAlloc(context, batch->maxxids * sizeof(XLogRecPtr));
	return batch;
}

void
sckpt_batch_hold(SckptBatch *batch)
{
	batch->references++;
}

void
sckpt_batch_release(SckptBatch *batch)
{
	SckptLogMessage *next;

	if (--batch->references > 0)
		return;
	for (SckptLogMessage *message = batch->messages; message; message = next)
	{
		next = message->next;
		sckpt_log_free_message(message);
	}
	MemoryContextDelete(batch->context);
}

void
sckpt_batch_add_transaction(SckptBatch *batch, SckptLogTransaction *transaction)
{
	if (batch->nxids == batch->maxxids)
	{
		batch->maxxids *= 2;
		batch->xids = repalloc_huge(batch->xids, batch->maxxids * sizeof(TransactionId));
		batch->commit_lsns = repalloc_huge(batch->commit_lsns, batch->maxxids * sizeof(XLogRecPtr));
	}
	batch->xids[batch->nxids] = transaction->xid;
	batch->commit_lsns[batch->nxids++] = transaction->commit_lsn;
	batch->commit_time = transaction->commit_time;
}

static SckptSegment *
add_segment(SckptBatch *batch, SckptRecord *record, SckptLogMessage *message)
{
	SckptSegment *segment;

	if (batch->nsegments == batch->maxsegments)
	{
		batch->maxsegments *= 2;
		batch->segments = repalloc_huge(batch->segments, batch->maxsegments * sizeof(SckptSegment));
	}
	segment = &batch->segments[batch->nsegments++];
	segment->stream = record->header->stream;
	segment->xid = batch->xids[batch->nxids - 1];
	segment->commit_lsn = batch->commit_lsns[batch->nxids - 1];
	segment->writer = message->xid;
	segment->lsn = message->lsn;
	segment->columns = record->columns;
	segment->ncolumns = record->header->ncolumns;
	segment->weights = record->weights;
	segment->rows = record->rows;
	segment->nrows = record->header->nrows;
	segment->commit_time = batch->commit_time;
	segment->watermark = record->time ? record->time->watermark : SCKPT_NO_WATERMARK;
	segment->bound = record->time ? record->time->bound : SCKPT_NO_BOUND;
	segment->time_flags = record->header->flags & SCKPT_RECORD_TIME_FLAGS;
	segment->retried_by = 0;
	if (record->header->flags & SCKPT_RECORD_RETRY)
	{
		segment->retried_by = segment->bound;
		segment->bound = SCKPT_NO_BOUND;
	}
	batch->nrows += segment->nrows;
	return segment;
}

/*
 * Add a piece of a large row.  Pieces of a row follow each other in the messages of one
 * writer; anything out of order was not written by us.  True while more is to come.
 */
static bool
add_fragment(SckptBatch *batch, SckptRecord *record, SckptLogMessage *message)
{
	SckptRecordHeader *header = record->header;
	SckptSegment *segment;

	if (header->offset == 0)
	{
		if (batch->row)
			pfree(batch->row);
		batch->row = MemoryContextAllocExtended(batch->context, header->row_bytes, MCXT_ALLOC_HUGE);
		batch->row_bytes = header->row_bytes;
		batch->row_filled = 0;
		batch->row_stream = header->stream;
	}
	if (batch->row == NULL || header->offset != batch->row_filled || header->stream != batch->row_stream ||
		header->row_bytes != batch->row_bytes || record->rows_bytes > batch->row_bytes - batch->row_filled)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("fragments of a row do not follow each other in the log at %X/%X",
						LSN_FORMAT_ARGS(message->lsn))));

	memcpy(batch->row + batch->row_filled, record->rows, record->rows_bytes);
	batch->row_filled += record->rows_bytes;
	if (batch->row_filled < batch->row_bytes)
		return true;

	if (((MinimalTuple) batch->row)->t_len > batch->row_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a row in the log at %X/%X is longer than its fragments",
						LSN_FORMAT_ARGS(message->lsn))));
	segment = add_segment(batch, record, message);
	segment->rows = batch->row;
	segment->columns = MemoryContextAlloc(batch->context, Max(1, header->ncolumns) * sizeof(SckptRecordColumn));
	memcpy(segment->columns, record->columns, header->ncolumns * sizeof(SckptRecordColumn));
	batch->bytes += batch->row_bytes;
	batch->row = NULL;
	return false;
}

bool
sckpt_batch_add(SckptBatch *batch, SckptLogMessage *message, List *streams)
{
	SckptRecord record;
	bool		more = false;

	if (!sckpt_record_parse(message->data, message->len, &record))
	{
		/* Our prefix, which only our own code writes, before something else: a newer version's, or damage. */
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the log at %X/%X holds rows that this version of stream_ckpt cannot read",
						LSN_FORMAT_ARGS(message->lsn))));
	}
	if (!list_member_oid(streams, record.header->stream))
	{
		sckpt_log_free_message(message);
		return false;
	}
	if (record.header->flags & SCKPT_RECORD_FRAGMENT)
	{
		more = add_fragment(batch, &record, message);
		sckpt_log_free_message(message);
		return more;
	}
	add_segment(batch, &record, message);
	batch->bytes += message->len;
	message->next = batch->messages;
	batch->messages = message;
	return false;
}

void
sckpt_batch_wait_visible(SckptBatch *batch, XLogRecPtr known_visible)
{
	for (int i = 0; i < batch->nxids; i++)
	{
		if (batch->commit_lsns[i] <= known_visible)
			continue;

		/*
		 * The commit record is flushed before the transaction leaves the array of running
		 * ones, and synchronous replication may keep it there for long.  Its lock goes last.
		 */
		if (TransactionIdIsInProgress(batch->xids[i]))
			XactLockTableWait(batch->xids[i], NULL, NULL, XLTW_None);
	}
}

bool
sckpt_scan_wants(SckptScan *scan, SckptSegment *segment)
{
	if (!list_member_oid(scan->streams, segment->stream) || segment->commit_lsn <= scan->after ||
		(segment->xid == scan->creator && segment->lsn < scan->start) ||
		(segment->retried_by != 0 && segment->retried_by != scan->pipeline))
		return false;
	for (int i = 0; i < scan->nskip; i++)
	{
		if (segment->writer == scan->skip[i])
			return false;
	}
	return true;
}

uint64
sckpt_scan_count(SckptScan *scan)
{
	uint64		count = 0;

	for (int i = 0; i < scan->batch->nsegments; i++)
	{
		if (sckpt_scan_wants(scan, &scan->batch->segments[i]))
			count += scan->batch->segments[i].nrows;
	}
	return count;
}

void
sckpt_scan_narrow(SckptScan *scan, uint64 first, uint64 end)
{
	if (first < scan->first_seen)
		scan->first_segment = scan->first_seen = 0;
	for (; scan->first_segment < scan->batch->nsegments; scan->first_segment++)
	{
		SckptSegment *segment = &scan->batch->segments[scan->first_segment];

		if (!sckpt_scan_wants(scan, segment))
			continue;
		if (first - scan->first_seen < segment->nrows)
			break;
		scan->first_seen += segment->nrows;
	}
	scan->first = first;
	scan->end = end;
}

void
sckpt_scan_first(SckptScan *scan, uint32 *segment, uint32 *row)
{
	if (scan->first_segment >= scan->batch->nsegments)
		elog(ERROR, "a batch has fewer rows");
	*segment = scan->first_segment;
	*row = (uint32) (scan->first - scan->first_seen);
}
