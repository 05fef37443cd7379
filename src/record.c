/*-------------------------------------------------------------------------
 *
 * record.c
 *		Writes the log record that carries rows of a stream, and takes one
 *		apart again.
 *
 * The main data of the WAL record is what pg_logical_emit_message() would
 * write, but for the prefix: redo, pg_waldump and output plugins know nothing
 * of us and need not.  Both structures before the payload have a MAXALIGNed
 * size, so that the payload can be used where it lies.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "miscadmin.h"
#include "replication/message.h"

#include "record.h"

StaticAssertDecl(SizeOfLogicalMessage == MAXALIGN(SizeOfLogicalMessage) &&
				 SCKPT_RECORD_PREFIX_SIZE == MAXALIGN(SCKPT_RECORD_PREFIX_SIZE),
				 "the payload of a record must be MAXALIGNed");
StaticAssertDecl(sizeof(SckptRecordHeader) == MAXALIGN(sizeof(SckptRecordHeader)) &&
				 sizeof(SckptRecordTime) == MAXALIGN(sizeof(SckptRecordTime)) &&
				 sizeof(SckptRecordColumn) == MAXALIGN(sizeof(SckptRecordColumn)),
				 "the parts of a record must be MAXALIGNed");

/* The name, for people who read the log; then bytes that no text can hold after a NUL. */
const char	sckpt_record_prefix[SCKPT_RECORD_PREFIX_SIZE] =
"stream_ckpt\0" "\xF1\x8C\x53\xC4\x2E\x97\xD0\x6B\xE5\x3A\x1D";

/*
 * Write one record.
 *
 * The caller fills in ncolumns, stream and nrows, and for a fragment the flag,
 * row_bytes and offset; what follows from the other arguments is set here.
 */
XLogRecPtr
sckpt_record_write(SckptRecordHeader *header, SckptRecordTime *time, SckptRecordColumn *columns,
				   int32 *weights, char *rows, Size bytes)
{
	static char padding[MAXIMUM_ALIGNOF] = {0};
	SckptRecordHeader filled = *header;
	xl_logical_message message;
	Size		columns_bytes = sizeof(SckptRecordColumn) * header->ncolumns;
	Size		weights_bytes = weights ? sizeof(int32) * header->nrows : 0;
	Size		padding_bytes = MAXALIGN(weights_bytes) - weights_bytes;

	if (bytes > SCKPT_RECORD_MAX_BYTES || weights_bytes > SCKPT_RECORD_MAX_BYTES)
		elog(ERROR, "record of a stream is too large: %zu bytes", bytes);

	filled.version = SCKPT_RECORD_VERSION;
	filled.flags &= SCKPT_RECORD_FRAGMENT | SCKPT_RECORD_TIME_FLAGS | SCKPT_RECORD_RETRY;
	if (weights)
		filled.flags |= SCKPT_RECORD_WEIGHTS;
	if (time)
		filled.flags |= SCKPT_RECORD_TIME;
	if (!(filled.flags & SCKPT_RECORD_FRAGMENT))
	{
		filled.row_bytes = bytes;
		filled.offset = 0;
	}

	/* The (sub)transaction must have an xid before the record is begun. */
	(void) GetCurrentTransactionId();

	memset(&message, 0, sizeof(message));
	message.dbId = MyDatabaseId;
	message.transactional = true;
	message.prefix_size = SCKPT_RECORD_PREFIX_SIZE;
	message.message_size = sizeof(filled) + (time ? sizeof(*time) : 0) + columns_bytes + weights_bytes + padding_bytes + bytes;

	XLogBeginInsert();
	XLogRegisterData((char *) &message, SizeOfLogicalMessage);
	XLogRegisterData((char *) sckpt_record_prefix, SCKPT_RECORD_PREFIX_SIZE);
	XLogRegisterData((char *) &filled, sizeof(filled));
	if (time)
		XLogRegisterData((char *) time, sizeof(*time));
	if (columns_bytes > 0)
		XLogRegisterData((char *) columns, columns_bytes);
	if (weights_bytes > 0)
		XLogRegisterData((char *) weights, weights_bytes);
	if (padding_bytes > 0)
		XLogRegisterData(padding, padding_bytes);
	if (bytes > 0)
		XLogRegisterData(rows, bytes);

	/* As core's own messages do: consumers filter by origin. */
	XLogSetRecordFlags(XLOG_INCLUDE_ORIGIN);
	return XLogInsert(RM_LOGICALMSG_ID, XLOG_LOGICAL_MESSAGE);
}

XLogRecPtr
sckpt_record_write_watermark(Oid stream, int64 watermark, uint8 flags, XLogRecPtr seen)
{
	SckptRecordHeader header = {0};
	SckptRecordTime time = {watermark, (flags & SCKPT_RECORD_IDLE) ? (int64) seen : SCKPT_NO_BOUND};

	Assert((flags & ~SCKPT_RECORD_TIME_FLAGS) == 0);

	header.flags = flags;
	header.stream = stream;
	return sckpt_record_write(&header, &time, NULL, NULL, NULL, 0);
}

/* Can a column be like that? */
static bool
column_is_sane(const SckptRecordColumn *column)
{
	if (column->align != TYPALIGN_CHAR && column->align != TYPALIGN_SHORT &&
		column->align != TYPALIGN_INT && column->align != TYPALIGN_DOUBLE)
		return false;
	if (column->length < -2 || column->length == 0)
		return false;
	/* A bool with any other value must not even be looked at as one. */
	if (*(const uint8 *) &column->by_value > 1)
		return false;
	return !column->by_value ||
		column->length == 1 || column->length == 2 ||
		column->length == 4 || column->length == 8;
}

/* Do exactly `nrows` rows fill these bytes?  The last one's alignment padding may be missing. */
static bool
rows_are_sane(const char *rows, Size bytes, uint32 nrows, int ncolumns)
{
	/* Of the row before, whose header was right. */
	int			infomask = -1;
	int			infomask2 = -1;
	int			hoff = -1;

	for (uint32 i = 0; i < nrows; i++)
	{
		const MinimalTupleData *row = (const MinimalTupleData *) rows;
		Size		advance;

		if (bytes < SizeofMinimalTupleHeader ||
			row->t_len < SizeofMinimalTupleHeader || row->t_len > bytes)
			return false;

		/* The data begin after the header and its null bitmap, within the row. */
		if (row->t_hoff > MINIMAL_TUPLE_OFFSET + row->t_len)
			return false;
		if (row->t_infomask != infomask || row->t_infomask2 != infomask2 || row->t_hoff != hoff)
		{
			int			natts = HeapTupleHeaderGetNatts(row);
			Size		header_bytes = offsetof(MinimalTupleData, t_bits);

			if (row->t_infomask & HEAP_HASNULL)
				header_bytes += BITMAPLEN(natts);
			if (natts > ncolumns ||
				row->t_hoff < MINIMAL_TUPLE_OFFSET + header_bytes ||
				row->t_hoff != MAXALIGN(row->t_hoff))
				return false;
			infomask = row->t_infomask;
			infomask2 = row->t_infomask2;
			hoff = row->t_hoff;
		}

		advance = Min(MAXALIGN(row->t_len), bytes);
		rows += advance;
		bytes -= advance;
	}
	return bytes == 0;
}

/*
 * Take a payload apart.  What is wrong in it makes this return false; nothing
 * outside the payload is touched.
 */
bool
sckpt_record_parse(char *payload, Size len, SckptRecord *record)
{
	SckptRecordHeader *header = (SckptRecordHeader *) payload;
	Size		place = sizeof(SckptRecordHeader);

	Assert(payload == (char *) MAXALIGN(payload));

	if (len < place || header->version != SCKPT_RECORD_VERSION ||
		(header->flags & ~(SCKPT_RECORD_WEIGHTS | SCKPT_RECORD_FRAGMENT |
						   SCKPT_RECORD_TIME | SCKPT_RECORD_TIME_FLAGS | SCKPT_RECORD_RETRY)) != 0 ||
		header->ncolumns > MaxHeapAttributeNumber || header->nrows > SCKPT_RECORD_MAX_ROWS)
		return false;

	/* What has no rows says something about time, and only that may be a heartbeat. */
	if (header->nrows == 0 && !(header->flags & SCKPT_RECORD_TIME))
		return false;
	if (header->nrows > 0 && (header->flags & SCKPT_RECORD_TIME_FLAGS))
		return false;

	/* Who retries rows says for whom. */
	if ((header->flags & SCKPT_RECORD_RETRY) &&
		(header->nrows == 0 || !(header->flags & (SCKPT_RECORD_TIME | SCKPT_RECORD_FRAGMENT))))
		return false;

	record->header = header;
	record->time = NULL;
	if (header->flags & SCKPT_RECORD_TIME)
	{
		if (sizeof(SckptRecordTime) > len - place)
			return false;
		record->time = (SckptRecordTime *) (payload + place);
		place += sizeof(SckptRecordTime);
	}

	record->columns = (SckptRecordColumn *) (payload + place);
	record->weights = NULL;

	place += sizeof(SckptRecordColumn) * header->ncolumns;
	if (place > len)
		return false;
	for (int i = 0; i < header->ncolumns; i++)
	{
		if (!column_is_sane(&record->columns[i]))
			return false;
	}

	if (header->flags & SCKPT_RECORD_WEIGHTS)
	{
		/* 64 bits: the product cannot overflow. */
		uint64		weights_bytes = MAXALIGN64(sizeof(int32) * (uint64) header->nrows);

		if (weights_bytes > len - place)
			return false;
		record->weights = (int32 *) (payload + place);
		place += weights_bytes;
	}

	record->rows = payload + place;
	record->rows_bytes = len - place;

	if (header->flags & SCKPT_RECORD_FRAGMENT)
		return header->nrows == 1 &&
			header->row_bytes >= SizeofMinimalTupleHeader &&
			header->row_bytes <= SCKPT_ROW_MAX_BYTES &&
			record->rows_bytes > 0 &&
			record->rows_bytes <= header->row_bytes &&
			header->offset <= header->row_bytes - record->rows_bytes;

	return header->offset == 0 &&
		header->row_bytes == record->rows_bytes &&
		rows_are_sane(record->rows, record->rows_bytes, header->nrows, header->ncolumns);
}

XLogRecPtr
sckpt_record_flush(void)
{
	XLogRecPtr	lsn = GetXLogInsertRecPtr();

	/* At the start of a page, the position is behind the page's header, which is not written yet. */
	if (XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		lsn -= SizeOfXLogLongPHD;
	else if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		lsn -= SizeOfXLogShortPHD;
	XLogFlush(lsn);
	return lsn;
}
