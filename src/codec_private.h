/*-------------------------------------------------------------------------
 *
 * codec_private.h
 *		What codec.c and codec_nested.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_CODEC_PRIVATE_H
#define SCKPT_CODEC_PRIVATE_H

#include "port/pg_bswap.h"

#include "codec.h"
#include "compat.h"

/* Kinds of representation; the first four are one to eight bytes by value. */
typedef enum SckptCodecKind
{
	KIND_BYTE,					/* bool and "char" */
	KIND_TWO,
	KIND_FOUR,
	KIND_EIGHT,
	KIND_INTERVAL,
	KIND_UUID,
	KIND_NAME,
	KIND_BYTES,					/* varlena whose bytes mean the same everywhere */
	KIND_ARRAY,
	KIND_ROW,
	KIND_SEND,					/* send and receive functions */
	KIND_TEXT					/* output and input functions */
} SckptCodecKind;

pg_noreturn extern void sckpt_codec_report_corrupted(const char *detail);

/* Arrays and composites, codec_nested.c. */
extern void sckpt_codec_init_row(SckptCodec *codec, MemoryContext context);
extern void sckpt_codec_write_array(SckptCodec *codec, StringInfo buf, Datum value);
extern Datum sckpt_codec_read_array(SckptCodec *codec, const char **cursor, const char *end);
extern void sckpt_codec_write_row(SckptCodec *codec, StringInfo buf, Datum value);
extern Datum sckpt_codec_read_row(SckptCodec *codec, const char **cursor, const char *end);

/* Take `len` bytes off the input. */
static inline const char *
take(const char **cursor, const char *end, Size len)
{
	const char *bytes = *cursor;

	if (len > (Size) (end - bytes))
		sckpt_codec_report_corrupted("A value ends beyond its chunk.");
	*cursor += len;
	return bytes;
}

static inline void
write_uint32(StringInfo buf, uint32 value)
{
	value = pg_hton32(value);
	sckpt_codec_append(buf, &value, sizeof(value));
}

static inline void
write_uint64(StringInfo buf, uint64 value)
{
	value = pg_hton64(value);
	sckpt_codec_append(buf, &value, sizeof(value));
}

static inline uint32
read_uint32(const char **cursor, const char *end)
{
	uint32		value;

	memcpy(&value, take(cursor, end, sizeof(value)), sizeof(value));
	return pg_ntoh32(value);
}

static inline uint64
read_uint64(const char **cursor, const char *end)
{
	uint64		value;

	memcpy(&value, take(cursor, end, sizeof(value)), sizeof(value));
	return pg_ntoh64(value);
}

/* A byte that is 0 or 1. */
static inline bool
read_bool(const char **cursor, const char *end)
{
	uint8		byte = (uint8) *take(cursor, end, 1);

	if (byte > 1)
		sckpt_codec_report_corrupted("A truth value is neither true nor false.");
	return byte != 0;
}

#endif							/* SCKPT_CODEC_PRIVATE_H */
