/*-------------------------------------------------------------------------
 *
 * codec.c
 *		Portable bytes for values: what checkpoint chunks are made of.
 *
 * reg* values are written as the names they print, functions and operators
 * with their arguments.  Arrays and composites: codec_nested.c.
 *
 * Nothing read is trusted: a length or count is compared with the bytes that
 * are left before anything is allocated for it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "codec_private.h"

/* Longest LEB128 form of 64 bits. */
#define UINT_MAX_BYTES	10


void
sckpt_codec_report_corrupted(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("stored state of a pipeline is corrupted"),
			 errdetail("%s", detail)));
}


/* ---------- integers, strings, bytes ---------- */

void
sckpt_codec_write_uint(StringInfo buf, uint64 value)
{
	char		bytes[UINT_MAX_BYTES];
	int			len = 0;

	while (value >= 0x80)
	{
		bytes[len++] = (char) (value | 0x80);
		value >>= 7;
	}
	bytes[len++] = (char) value;
	sckpt_codec_append(buf, bytes, len);
}

uint64
sckpt_codec_read_uint(const char **cursor, const char *end)
{
	uint64		value = 0;
	int			shift;

	for (shift = 0; shift < 64; shift += 7)
	{
		uint8		byte = (uint8) *take(cursor, end, 1);

		if (shift == 63 && byte > 1)
			break;
		value |= (uint64) (byte & 0x7f) << shift;
		if (byte < 0x80)
			return value;
	}
	sckpt_codec_report_corrupted("An integer is too long.");
}

void
sckpt_codec_write_bytes(StringInfo buf, const void *bytes, Size len)
{
	sckpt_codec_write_uint(buf, len);
	sckpt_codec_append(buf, bytes, len);
}

const char *
sckpt_codec_read_bytes(const char **cursor, const char *end, Size *len)
{
	uint64		n = sckpt_codec_read_uint(cursor, end);

	*len = (Size) n;
	return take(cursor, end, *len);
}

void
sckpt_codec_write_int(StringInfo buf, int64 value)
{
	sckpt_codec_write_uint(buf, ((uint64) value << 1) ^ (value < 0 ? PG_UINT64_MAX : 0));
}

int64
sckpt_codec_read_int(const char **cursor, const char *end)
{
	uint64		value = sckpt_codec_read_uint(cursor, end);

	return (int64) ((value >> 1) ^ (value & 1 ? PG_UINT64_MAX : 0));
}

void
sckpt_codec_write_string(StringInfo buf, const char *string)
{
	sckpt_codec_write_bytes(buf, string, strlen(string));
}

char *
sckpt_codec_read_string(const char **cursor, const char *end)
{
	Size		len;
	const char *bytes = sckpt_codec_read_bytes(cursor, end, &len);

	if (memchr(bytes, '\0', len) != NULL)
		sckpt_codec_report_corrupted("A string holds a zero byte.");
	return pnstrdup(bytes, len);
}


/* ---------- codecs ---------- */

static SckptCodecKind
kind_of(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case CHAROID:
			return KIND_BYTE;
		case INT2OID:
			return KIND_TWO;
		case INT4OID:
		case FLOAT4OID:
		case DATEOID:
		case OIDOID:
		case XIDOID:
		case CIDOID:
			return KIND_FOUR;
		case INT8OID:
		case FLOAT8OID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case CASHOID:
		case XID8OID:
		case LSNOID:
			return KIND_EIGHT;
		case INTERVALOID:
			return KIND_INTERVAL;
		case UUIDOID:
			return KIND_UUID;
		case NAMEOID:
			return KIND_NAME;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case BYTEAOID:
		case JSONOID:
		case XMLOID:
			return KIND_BYTES;
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGCOLLATIONOID:
			return KIND_TEXT;
		default:
			return KIND_SEND;
	}
}

/* Types that have functions for reading, which only say that they cannot. */
static bool
is_unreadable(Oid type)
{
	switch (type)
	{
		case GTSVECTOROID:
		case PG_BRIN_BLOOM_SUMMARYOID:
		case PG_BRIN_MINMAX_MULTI_SUMMARYOID:
		case PG_DEPENDENCIESOID:
		case PG_MCV_LISTOID:
		case PG_NDISTINCTOID:
		case PG_NODE_TREEOID:
			return true;
		default:
			return false;
	}
}

/* Look up the functions of a type that is written through them. */
static void
init_functions(SckptCodec *codec, Form_pg_type form, MemoryContext context)
{
	Oid			out = form->typsend;
	Oid			in = form->typreceive;

	if (!OidIsValid(out) || !OidIsValid(in))
		codec->kind = KIND_TEXT;
	if (codec->kind == KIND_TEXT)
	{
		out = form->typoutput;
		in = form->typinput;
	}

	/* A bare name may be ambiguous. */
	if (codec->type == REGPROCOID)
	{
		out = F_REGPROCEDUREOUT;
		in = F_REGPROCEDUREIN;
	}
	else if (codec->type == REGOPEROID)
	{
		out = F_REGOPERATOROUT;
		in = F_REGOPERATORIN;
	}
	fmgr_info_cxt(out, &codec->out, context);
	fmgr_info_cxt(in, &codec->in, context);
}

void
sckpt_codec_init(SckptCodec *codec, Oid type, int32 typmod, MemoryContext context)
{
	HeapTuple	tuple;
	Form_pg_type form;
	Oid			element;

	check_stack_depth();
	memset(codec, 0, sizeof(SckptCodec));
	codec->typmod = typmod;
	codec->type = type = getBaseType(type);
	codec->kind = kind_of(type);

	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	form = (Form_pg_type) GETSTRUCT(tuple);
	if (!form->typisdefined || form->typtype == TYPTYPE_PSEUDO || is_unreadable(type))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("values of type %s cannot be kept in a pipeline's state",
						format_type_be(type))));
	codec->length = form->typlen;
	codec->by_value = form->typbyval;
	codec->align = form->typalign;
	codec->io_param = getTypeIOParam(tuple);

	element = get_element_type(type);
	if (OidIsValid(element))
		codec->kind = KIND_ARRAY;
	else if (form->typtype == TYPTYPE_COMPOSITE)
		codec->kind = KIND_ROW;
	else if (codec->kind == KIND_SEND || codec->kind == KIND_TEXT)
		init_functions(codec, form, context);
	ReleaseSysCache(tuple);

	if (codec->kind == KIND_ARRAY)
	{
		codec->element_type = element;
		codec->nparts = 1;
		codec->parts = MemoryContextAlloc(context, sizeof(SckptCodec));
		sckpt_codec_init(codec->parts, element, -1, context);
	}
	else if (codec->kind == KIND_ROW)
		sckpt_codec_init_row(codec, context);
}


/* ---------- types with functions ---------- */

static void
write_by_send(SckptCodec *codec, StringInfo buf, Datum value)
{
	bytea	   *bytes = SendFunctionCall(&codec->out, value);

	sckpt_codec_write_bytes(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	if (codec->by_value || (Pointer) bytes != DatumGetPointer(value))
		pfree(bytes);
}

static Datum
read_by_receive(SckptCodec *codec, const char **cursor, const char *end)
{
	Size		len;
	const char *bytes = sckpt_codec_read_bytes(cursor, end, &len);
	StringInfoData copy;
	Datum		value;

	/* Receive functions may count on a zero byte after the end. */
	initStringInfo(&copy);
	appendBinaryStringInfo(&copy, bytes, len);
	value = ReceiveFunctionCall(&codec->in, &copy, codec->io_param, -1);
	if (copy.cursor != copy.len)
		sckpt_codec_report_corrupted("A value is longer than its receive function reads.");
	pfree(copy.data);
	return value;
}

/*
 * Send and receive functions convert text to and from the client's encoding.
 * A worker has no client, but a session that reads or writes chunks has: run
 * the function as for a client of the database's encoding.
 */
static Datum
call_in_database_encoding(SckptCodec *codec, StringInfo buf, Datum value,
						  const char **cursor, const char *end)
{
	int			client = pg_get_client_encoding();
	bool		differs = client != GetDatabaseEncoding();
	Datum		result = (Datum) 0;

	if (differs)
		SetClientEncoding(GetDatabaseEncoding());
	PG_TRY();
	{
		if (buf != NULL)
			write_by_send(codec, buf, value);
		else
			result = read_by_receive(codec, cursor, end);
	}
	PG_FINALLY();
	{
		if (differs)
			SetClientEncoding(client);
	}
	PG_END_TRY();
	return result;
}

static void
write_by_output(SckptCodec *codec, StringInfo buf, Datum value)
{
	char	   *string = OutputFunctionCall(&codec->out, value);

	sckpt_codec_write_string(buf, string);
	pfree(string);
}

static Datum
read_by_input(SckptCodec *codec, const char **cursor, const char *end)
{
	char	   *string = sckpt_codec_read_string(cursor, end);
	Datum		value = InputFunctionCall(&codec->in, string, codec->io_param, -1);

	pfree(string);
	return value;
}


/* ---------- values ---------- */

static void
write_varlena(StringInfo buf, Datum value)
{
	struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);

	sckpt_codec_write_bytes(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	if ((Pointer) bytes != DatumGetPointer(value))
		pfree(bytes);
}

static Datum
read_varlena(const char **cursor, const char *end)
{
	Size		len;
	const char *bytes = sckpt_codec_read_bytes(cursor, end, &len);
	struct varlena *value = palloc(VARHDRSZ + len);

	SET_VARSIZE(value, VARHDRSZ + len);
	memcpy(VARDATA(value), bytes, len);
	return PointerGetDatum(value);
}

static Datum
read_name(const char **cursor, const char *end)
{
	Size		len;
	const char *bytes = sckpt_codec_read_bytes(cursor, end, &len);
	char	   *name;

	if (len >= NAMEDATALEN)
		sckpt_codec_report_corrupted("A name is too long.");
	name = palloc0(NAMEDATALEN);
	memcpy(name, bytes, len);
	return PointerGetDatum(name);
}

static Datum
read_interval(const char **cursor, const char *end)
{
	Interval   *interval = palloc(sizeof(Interval));

	interval->time = (TimeOffset) read_uint64(cursor, end);
	interval->day = (int32) read_uint32(cursor, end);
	interval->month = (int32) read_uint32(cursor, end);
	return PointerGetDatum(interval);
}

void
sckpt_codec_write(SckptCodec *codec, StringInfo buf, Datum value)
{
	switch ((SckptCodecKind) codec->kind)
	{
		case KIND_BYTE:
			appendStringInfoCharMacro(buf, DatumGetChar(value));
			break;
		case KIND_TWO:
			{
				uint16		swapped = pg_hton16(DatumGetUInt16(value));

				sckpt_codec_append(buf, &swapped, sizeof(swapped));
			}
			break;
		case KIND_FOUR:
			write_uint32(buf, DatumGetUInt32(value));
			break;
		case KIND_EIGHT:
			write_uint64(buf, (uint64) DatumGetInt64(value));
			break;
		case KIND_INTERVAL:
			{
				Interval   *interval = DatumGetIntervalP(value);

				write_uint64(buf, (uint64) interval->time);
				write_uint32(buf, (uint32) interval->day);
				write_uint32(buf, (uint32) interval->month);
			}
			break;
		case KIND_UUID:
			sckpt_codec_append(buf, DatumGetPointer(value), UUID_LEN);
			break;
		case KIND_NAME:
			sckpt_codec_write_bytes(buf, DatumGetPointer(value),
									strnlen(DatumGetPointer(value), NAMEDATALEN - 1));
			break;
		case KIND_BYTES:
			write_varlena(buf, value);
			break;
		case KIND_ARRAY:
			sckpt_codec_write_array(codec, buf, value);
			break;
		case KIND_ROW:
			sckpt_codec_write_row(codec, buf, value);
			break;
		case KIND_SEND:
			call_in_database_encoding(codec, buf, value, NULL, NULL);
			break;
		case KIND_TEXT:
			write_by_output(codec, buf, value);
			break;
	}
}

void
sckpt_codec_write_column(SckptCodec *codec, StringInfo buf, Datum value, bool isnull)
{
	char		bytes[1 + sizeof(uint64)];
	uint32		four;
	uint64		eight;

	bytes[0] = isnull ? 0 : 1;
	if (!isnull && codec->kind == KIND_EIGHT)
	{
		eight = pg_hton64((uint64) DatumGetInt64(value));
		memcpy(bytes + 1, &eight, sizeof(eight));
		sckpt_codec_append(buf, bytes, 1 + sizeof(eight));
		return;
	}
	if (!isnull && codec->kind == KIND_FOUR)
	{
		four = pg_hton32(DatumGetUInt32(value));
		memcpy(bytes + 1, &four, sizeof(four));
		sckpt_codec_append(buf, bytes, 1 + sizeof(four));
		return;
	}
	sckpt_codec_append(buf, bytes, 1);
	if (!isnull)
		sckpt_codec_write(codec, buf, value);
}

Datum
sckpt_codec_read(SckptCodec *codec, const char **cursor, const char *end)
{
	switch ((SckptCodecKind) codec->kind)
	{
		case KIND_BYTE:
			if (codec->type == BOOLOID)
				return BoolGetDatum(read_bool(cursor, end));
			return CharGetDatum(*take(cursor, end, 1));
		case KIND_TWO:
			{
				uint16		swapped;

				memcpy(&swapped, take(cursor, end, sizeof(swapped)), sizeof(swapped));
				return Int16GetDatum((int16) pg_ntoh16(swapped));
			}
		case KIND_FOUR:
			/* As each type's own macro does it: sign-extended or not. */
			if (codec->type == OIDOID || codec->type == XIDOID || codec->type == CIDOID)
				return UInt32GetDatum(read_uint32(cursor, end));
			return Int32GetDatum((int32) read_uint32(cursor, end));
		case KIND_EIGHT:
			return Int64GetDatum((int64) read_uint64(cursor, end));
		case KIND_INTERVAL:
			return read_interval(cursor, end);
		case KIND_UUID:
			{
				char	   *uuid = palloc(UUID_LEN);

				memcpy(uuid, take(cursor, end, UUID_LEN), UUID_LEN);
				return PointerGetDatum(uuid);
			}
		case KIND_NAME:
			return read_name(cursor, end);
		case KIND_BYTES:
			return read_varlena(cursor, end);
		case KIND_ARRAY:
			return sckpt_codec_read_array(codec, cursor, end);
		case KIND_ROW:
			return sckpt_codec_read_row(codec, cursor, end);
		case KIND_SEND:
			return call_in_database_encoding(codec, NULL, (Datum) 0, cursor, end);
		case KIND_TEXT:
			return read_by_input(codec, cursor, end);
	}
	elog(ERROR, "unrecognized kind %d of a codec", codec->kind);
	return (Datum) 0;
}
