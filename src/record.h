/*-------------------------------------------------------------------------
 *
 * record.h
 *		The log record that carries rows of a stream.
 *
 * A record is a transactional logical message (RM_LOGICALMSG_ID) written by
 * XLogInsert() directly, so that its prefix can hold an embedded NUL: no SQL
 * function can produce it, whoever may execute pg_logical_emit_message().
 *
 *	xl_logical_message | prefix (24 bytes) | SckptRecordHeader
 *	| SckptRecordTime, if flagged | SckptRecordColumn × ncolumns
 *	| int32 weight × nrows, if flagged | rows: MinimalTuples, each MAXALIGNed
 *
 * Every part starts MAXALIGNed relative to the payload.  A record describes
 * its row type itself, so that rows written before an ALTER of the stream can
 * be read after it, whatever else was lost.
 *
 * A row larger than SCKPT_RECORD_MAX_BYTES travels in consecutive fragments
 * of one writer: in each of them the header's flag FRAGMENT is set, nrows is
 * 1, row_bytes is the row's whole length and offset the place of this piece.
 * The time is in the last one.
 *
 * Event time is reckoned by the writer, so that a replay does not depend on
 * options changed since.  A record without rows moves only the watermark.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_RECORD_H
#define SCKPT_RECORD_H

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/xlogdefs.h"

/* Bytes of rows buffered before a record is written. */
#define SCKPT_RECORD_TARGET_BYTES	(32 * 1024)
/* Bytes of rows in one record, at most (a near 1 GB record cannot be recovered by 15). */
#define SCKPT_RECORD_MAX_BYTES		(1024 * 1024)
/* Bytes of one row, at most. */
#define SCKPT_ROW_MAX_BYTES			(512 * 1024 * 1024)

#define SCKPT_RECORD_PREFIX_SIZE	24
#define SCKPT_RECORD_VERSION		1

#define SCKPT_RECORD_WEIGHTS		0x01	/* one int32 weight per row follows the columns */
#define SCKPT_RECORD_FRAGMENT		0x02	/* a piece of one large row */
#define SCKPT_RECORD_TIME			0x04	/* a SckptRecordTime follows the header */
/* With TIME and without rows: */
#define SCKPT_RECORD_IDLE			0x08	/* a heartbeat, after idle_timeout: until its next row the stream holds no
											 * query up */
#define SCKPT_RECORD_PIPELINE		0x10	/* the watermark of the pipelines that write the stream, whose rows do
											 * not move it */
#define SCKPT_RECORD_TIME_FLAGS		(SCKPT_RECORD_IDLE | SCKPT_RECORD_PIPELINE)

/* Rows in one record, at most: a row's number in it fits the offset of a tid. */
#define SCKPT_RECORD_MAX_ROWS		65536

/* For a watermark and a bound: there is none. */
#define SCKPT_NO_WATERMARK			PG_INT64_MIN
#define SCKPT_NO_BOUND				PG_INT64_MAX

typedef struct SckptRecordHeader
{
	uint8		version;
	uint8		flags;
	uint16		ncolumns;		/* attributes of the row type, dropped ones included */
	Oid			stream;			/* pg_class.oid of the foreign table */
	uint32		nrows;
	uint32		row_bytes;		/* bytes of all rows here; of the whole row, in a fragment */
	uint64		offset;			/* of the piece within the row, in a fragment; else 0 */
} SckptRecordHeader;

/* Times as in timestamptz; those of a timestamp column are taken for UTC. */
typedef struct SckptRecordTime
{
	int64		watermark;		/* largest finite event time of the rows that is not beyond the bound, less the
								 * stream's delay; SCKPT_NO_WATERMARK: none */
	int64		bound;			/* finite event times after this ran ahead of the clock by more than the setting
								 * allows; SCKPT_NO_BOUND: no row's did */
} SckptRecordTime;

typedef struct SckptRecordColumn
{
	Oid			type;			/* InvalidOid: dropped */
	int16		length;			/* as pg_type.typlen */
	char		align;			/* as pg_type.typalign */
	bool		by_value;
} SckptRecordColumn;

/* A payload taken apart; pointers lead into it. */
typedef struct SckptRecord
{
	SckptRecordHeader *header;
	SckptRecordTime *time;		/* or NULL */
	SckptRecordColumn *columns;
	int32	   *weights;		/* or NULL: all +1 */
	char	   *rows;
	Size		rows_bytes;		/* bytes at rows */
} SckptRecord;

/* The 24 bytes of the prefix, the last one NUL (pg_waldump wants it so). */
extern const char sckpt_record_prefix[SCKPT_RECORD_PREFIX_SIZE];

/*
 * Write one record with `nrows` packed rows (or a fragment) in the current
 * transaction, which gets an xid if it has none.  Of the header the caller
 * fills in ncolumns, stream and nrows, and for a fragment the flag, row_bytes
 * and offset; the rest follows from the other arguments.  `time` may be NULL.  Returns the end of the record.
 */
extern XLogRecPtr sckpt_record_write(SckptRecordHeader *header,
									 SckptRecordTime *time, SckptRecordColumn *columns,
									 int32 *weights, char *rows, Size bytes);

/*
 * Write a record without rows in the current transaction: `flags` is 0, or of SCKPT_RECORD_TIME_FLAGS; of a heartbeat (IDLE),
 * `seen` is where its writer had read the log to, which the record has in place of a bound.  Who does it outside a
 * worker calls sckpt_hook_wake_at_commit() too.
 */
extern XLogRecPtr sckpt_record_write_watermark(Oid stream, int64 watermark, uint8 flags, XLogRecPtr seen);

/* Flush the log.  Everything committed before now is before the place that this returns, asynchronous commits too. */
extern XLogRecPtr sckpt_record_flush(void);

/*
 * Take a payload (MAXALIGNed) apart.  Returns false, touching nothing outside
 * the `len` bytes, unless every length in it, those of the rows included, is consistent.
 */
extern bool sckpt_record_parse(char *payload, Size len, SckptRecord *record);

#endif							/* SCKPT_RECORD_H */
