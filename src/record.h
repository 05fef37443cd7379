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
 *	| SckptRecordColumn × ncolumns | int32 weight × nrows, if flagged
 *	| rows: MinimalTuples, each MAXALIGNed
 *
 * Every part starts MAXALIGNed relative to the payload.  A record describes
 * its row type itself, so that rows written before an ALTER of the stream can
 * be read after it, whatever else was lost.
 *
 * A row larger than SCKPT_RECORD_MAX_BYTES travels in consecutive fragments
 * of one writer: in each of them the header's flag FRAGMENT is set, nrows is
 * 1, row_bytes is the row's whole length and offset the place of this piece.
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
 * and offset; the rest follows from the other arguments.  Returns the end of the record.
 */
extern XLogRecPtr sckpt_record_write(SckptRecordHeader *header,
									 SckptRecordColumn *columns,
									 int32 *weights, char *rows, Size bytes);

/*
 * Take a payload (MAXALIGNed) apart.  Returns false, touching nothing outside
 * the `len` bytes, unless every length in it, those of the rows included, is consistent.
 */
extern bool sckpt_record_parse(char *payload, Size len, SckptRecord *record);

#endif							/* SCKPT_RECORD_H */
