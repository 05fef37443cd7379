/*-------------------------------------------------------------------------
 *
 * codec.h
 *		Portable bytes for values: what checkpoint chunks are made of.
 *
 * Nothing of this machine or this database is in them: no oids of objects that
 * a restored database may number otherwise, no hash codes, no padding, integers in network
 * order.  Types are named (schema-qualified) in the chunk's header, which the caller writes.
 *
 *		fixed-length built-in types (bool, "char", int2/4/8, float4/8, date, time,
 *		timestamp[tz], money, oid, xid[8], pg_lsn): their bytes, network order
 *		interval, uuid: the same, field by field
 *		text, varchar, bpchar, bytea, name, json, xml: length + bytes
 *		arrays: one dimension of such fixed-length elements without NULLs as
 *		lower bound, count and bytes; others element by element
 *		composites: column by column
 *		domains: as their base type
 *		reg*: length + name, as the search_path asks for it: read them under the same
 *		everything else: length + what the type's send function gives, or its output
 *		function where it has none
 *
 * Text is in the database's encoding, which the chunk's header has to name if
 * chunks are to be read elsewhere.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_CODEC_H
#define SCKPT_CODEC_H

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "port/pg_crc32c.h"

/* How values of one type are written; made once per column by sckpt_codec_init. */
typedef struct SckptCodec
{
	Oid			type;			/* the base type, of a domain */
	int32		typmod;
	int16		length;
	bool		by_value;
	char		align;
	int			kind;			/* private to codec.c */
	FmgrInfo	out;			/* send or output function */
	FmgrInfo	in;				/* receive or input function */
	Oid			io_param;
	Oid			element_type;	/* of an array */
	struct SckptCodec *parts;	/* of an array: its element; of a composite: its columns */
	int			nparts;
	struct TupleDescData *row;	/* of a composite */
	uint64		row_version;	/* changes when the composite type does */
} SckptCodec;

/*
 * FmgrInfos and all else live in `context`.  ERRCODE_FEATURE_NOT_SUPPORTED for
 * pseudo-types and types that read nothing; aggregates' internal states are bytes that their caller makes.
 * The type modifier is kept for the caller: values have had it applied.
 */
extern void sckpt_codec_init(SckptCodec *codec, Oid type, int32 typmod, MemoryContext context);

/*
 * Append a value (detoasting it if need be).  May run the type's send function.
 * Leaves nothing behind in the current context but what that function does.
 */
extern void sckpt_codec_write(SckptCodec *codec, StringInfo buf, Datum value);
/* Append a column: 0 for NULL, else 1 and the value. */
extern void sckpt_codec_write_column(SckptCodec *codec, StringInfo buf, Datum value, bool isnull);
/*
 * Read a value written so: by-reference results are palloc'd in the current context, MAXALIGNed,
 * varlenas neither compressed nor external nor short.  Moves *cursor; ereport(ERROR, ERRCODE_DATA_CORRUPTED) rather than reading past `end`.
 * A receive or input function may have errors of its own about bytes it cannot read.
 */
extern Datum sckpt_codec_read(SckptCodec *codec, const char **cursor, const char *end);

/* Append bytes as they are: appendBinaryStringInfo() without its calls. */
static inline void
sckpt_codec_append(StringInfo buf, const void *bytes, Size len)
{
	if (unlikely(len >= (Size) (buf->maxlen - buf->len)))
		enlargeStringInfo(buf, len);
	memcpy(buf->data + buf->len, bytes, len);
	buf->len += len;
	buf->data[buf->len] = '\0';
}

/* Variable-length unsigned integers (LEB128), strings with length, and bytes with length. */
extern void sckpt_codec_write_uint(StringInfo buf, uint64 value);
extern uint64 sckpt_codec_read_uint(const char **cursor, const char *end);
/* Signed ones: small ones of either sign are short. */
extern void sckpt_codec_write_int(StringInfo buf, int64 value);
extern int64 sckpt_codec_read_int(const char **cursor, const char *end);
extern void sckpt_codec_write_string(StringInfo buf, const char *string);
extern char *sckpt_codec_read_string(const char **cursor, const char *end);
extern void sckpt_codec_write_bytes(StringInfo buf, const void *bytes, Size len);
/* Pointer into the input, not aligned. */
extern const char *sckpt_codec_read_bytes(const char **cursor, const char *end, Size *len);

#endif							/* SCKPT_CODEC_H */
