/*-------------------------------------------------------------------------
 *
 * codec_nested.c
 *		Portable bytes for arrays and composites.
 *
 * Both are taken apart here, not by their send functions, which write the
 * oids of element and column types.  Arrays of transition values, int8[] and
 * float8[], are the common case.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/htup_details.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "codec_private.h"

/* The first byte of an array says how it goes on. */
#define ARRAY_PLAIN		0		/* one dimension, no NULLs, KIND_BYTE to KIND_EIGHT */
#define ARRAY_GENERAL	1
#define ARRAY_NULLS		2		/* general, with a byte before each element */


/* ---------- arrays ---------- */

/* Copy `n` elements of a plain kind from or to network order, aligned or not. */
static void
copy_elements(char *to, const char *from, Size n, SckptCodecKind kind)
{
	Size		i;

	switch (kind)
	{
		case KIND_BYTE:
			memcpy(to, from, n);
			break;
		case KIND_TWO:
			for (i = 0; i < n; i++)
			{
				uint16		value;

				memcpy(&value, from + i * sizeof(value), sizeof(value));
				value = pg_hton16(value);
				memcpy(to + i * sizeof(value), &value, sizeof(value));
			}
			break;
		case KIND_FOUR:
			for (i = 0; i < n; i++)
			{
				uint32		value;

				memcpy(&value, from + i * sizeof(value), sizeof(value));
				value = pg_hton32(value);
				memcpy(to + i * sizeof(value), &value, sizeof(value));
			}
			break;
		case KIND_EIGHT:
			for (i = 0; i < n; i++)
			{
				uint64		value;

				memcpy(&value, from + i * sizeof(value), sizeof(value));
				value = pg_hton64(value);
				memcpy(to + i * sizeof(value), &value, sizeof(value));
			}
			break;
		default:
			elog(ERROR, "kind %d has no plain elements", kind);
	}
}

void
sckpt_codec_write_array(SckptCodec *codec, StringInfo buf, Datum value)
{
	SckptCodec *element = codec->parts;
	ArrayType  *array = DatumGetArrayTypeP(value);
	Datum	   *values;
	bool	   *nulls;
	int			n;
	int			i;

	if (ARR_NDIM(array) == 1 && !ARR_HASNULL(array) && element->kind <= KIND_EIGHT)
	{
		n = ARR_DIMS(array)[0];
		appendStringInfoChar(buf, ARRAY_PLAIN);
		write_uint32(buf, ARR_LBOUND(array)[0]);
		sckpt_codec_write_uint(buf, n);
		enlargeStringInfo(buf, n * element->length);
		copy_elements(buf->data + buf->len, ARR_DATA_PTR(array), n, element->kind);
		buf->len += n * element->length;
		buf->data[buf->len] = '\0';
	}
	else
	{
		appendStringInfoChar(buf, ARR_HASNULL(array) ? ARRAY_NULLS : ARRAY_GENERAL);
		appendStringInfoChar(buf, ARR_NDIM(array));
		for (i = 0; i < ARR_NDIM(array); i++)
		{
			write_uint32(buf, ARR_LBOUND(array)[i]);
			sckpt_codec_write_uint(buf, ARR_DIMS(array)[i]);
		}
		deconstruct_array(array, ARR_ELEMTYPE(array), element->length,
						  element->by_value, element->align, &values, &nulls, &n);
		for (i = 0; i < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (ARR_HASNULL(array))
				appendStringInfoChar(buf, nulls[i]);
			if (!nulls[i])
				sckpt_codec_write(element, buf, values[i]);
		}
		pfree(values);
		pfree(nulls);
	}
	if ((Pointer) array != DatumGetPointer(value))
		pfree(array);
}

/* Bounds of one dimension; an element takes one byte at least. */
static void
read_dimension(const char **cursor, const char *end, int *lower, int *size)
{
	uint64		n;

	*lower = (int) read_uint32(cursor, end);
	n = sckpt_codec_read_uint(cursor, end);
	if (n > (uint64) (end - *cursor) || n > MaxArraySize ||
		(int64) *lower + (int64) n > INT_MAX)
		sckpt_codec_report_corrupted("An array is larger than its chunk.");
	*size = (int) n;
}

static Datum
read_plain_array(SckptCodec *codec, const char **cursor, const char *end)
{
	SckptCodec *element = codec->parts;
	ArrayType  *array;
	const char *bytes;
	Size		size;
	int			lower;
	int			n;

	read_dimension(cursor, end, &lower, &n);
	if (element->kind > KIND_EIGHT)
		sckpt_codec_report_corrupted("An array has elements of another type.");
	bytes = take(cursor, end, (Size) n * element->length);
	size = ARR_OVERHEAD_NONULLS(1) + (Size) n * element->length;
	array = palloc0(size);
	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->elemtype = codec->element_type;
	ARR_DIMS(array)[0] = n;
	ARR_LBOUND(array)[0] = lower;
	copy_elements(ARR_DATA_PTR(array), bytes, n, element->kind);
	return PointerGetDatum(array);
}

Datum
sckpt_codec_read_array(SckptCodec *codec, const char **cursor, const char *end)
{
	SckptCodec *element = codec->parts;
	ArrayType  *array;
	Datum	   *values;
	bool	   *nulls;
	int			lower[MAXDIM];
	int			sizes[MAXDIM];
	uint64		n = 1;
	uint8		tag = (uint8) *take(cursor, end, 1);
	uint8		ndim;
	int			i;

	if (tag == ARRAY_PLAIN)
		return read_plain_array(codec, cursor, end);
	if (tag > ARRAY_NULLS)
		sckpt_codec_report_corrupted("An array is of no known form.");

	ndim = (uint8) *take(cursor, end, 1);
	if (ndim > MAXDIM)
		sckpt_codec_report_corrupted("An array has too many dimensions.");
	if (ndim == 0)
		return PointerGetDatum(construct_empty_array(codec->element_type));
	for (i = 0; i < ndim; i++)
	{
		read_dimension(cursor, end, &lower[i], &sizes[i]);
		n *= sizes[i];
		if (n == 0 || n > (uint64) (end - *cursor) || n > MaxArraySize)
			sckpt_codec_report_corrupted("An array is larger than its chunk.");
	}

	values = palloc0(n * sizeof(Datum));
	nulls = palloc0(n * sizeof(bool));
	for (i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (tag == ARRAY_NULLS)
			nulls[i] = read_bool(cursor, end);
		if (!nulls[i])
			values[i] = sckpt_codec_read(element, cursor, end);
	}
	array = construct_md_array(values, nulls, ndim, sizes, lower, codec->element_type,
							   element->length, element->by_value, element->align);
	for (i = 0; i < n && !element->by_value; i++)
	{
		if (!nulls[i])
			pfree(DatumGetPointer(values[i]));
	}
	pfree(values);
	pfree(nulls);
	return PointerGetDatum(array);
}


/* ---------- composites ---------- */

/* A codec for each column of a composite type; dropped ones have an invalid type. */
void
sckpt_codec_init_row(SckptCodec *codec, MemoryContext context)
{
	TupleDesc	row = lookup_rowtype_tupdesc(codec->type, -1);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			i;

	codec->row = CreateTupleDescCopyConstr(row);
	codec->row_version = assign_record_type_identifier(codec->type, -1);
	ReleaseTupleDesc(row);
	codec->nparts = codec->row->natts;
	codec->parts = palloc0(Max(codec->nparts, 1) * sizeof(SckptCodec));
	MemoryContextSwitchTo(old);
	for (i = 0; i < codec->nparts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(codec->row, i);

		if (!column->attisdropped)
			sckpt_codec_init(&codec->parts[i], column->atttypid, column->atttypmod, context);
	}
}

/* The tuples at hand must be of the row type that the codec was made for. */
static void
check_row_version(SckptCodec *codec)
{
	if (assign_record_type_identifier(codec->type, -1) != codec->row_version)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("composite type %s changed while a pipeline's state holds values of it",
						format_type_be(codec->type))));
}

static int
count_columns(SckptCodec *codec)
{
	int			n = 0;
	int			i;

	for (i = 0; i < codec->nparts; i++)
		n += OidIsValid(codec->parts[i].type);
	return n;
}

void
sckpt_codec_write_row(SckptCodec *codec, StringInfo buf, Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	HeapTupleData tuple = {0};
	Datum	   *values = palloc(Max(codec->nparts, 1) * sizeof(Datum));
	bool	   *nulls = palloc(Max(codec->nparts, 1) * sizeof(bool));
	int			i;

	check_row_version(codec);
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_data = header;
	heap_deform_tuple(&tuple, codec->row, values, nulls);

	sckpt_codec_write_uint(buf, count_columns(codec));
	for (i = 0; i < codec->nparts; i++)
	{
		if (!OidIsValid(codec->parts[i].type))
			continue;
		appendStringInfoChar(buf, nulls[i]);
		if (!nulls[i])
			sckpt_codec_write(&codec->parts[i], buf, values[i]);
	}
	pfree(values);
	pfree(nulls);
	if ((Pointer) header != DatumGetPointer(value))
		pfree(header);
}

Datum
sckpt_codec_read_row(SckptCodec *codec, const char **cursor, const char *end)
{
	Datum	   *values = palloc0(Max(codec->nparts, 1) * sizeof(Datum));
	bool	   *nulls = palloc(Max(codec->nparts, 1) * sizeof(bool));
	HeapTuple	tuple;
	Datum		result;
	int			i;

	check_row_version(codec);
	if (sckpt_codec_read_uint(cursor, end) != count_columns(codec))
		sckpt_codec_report_corrupted("A composite value has another number of columns than its type.");
	for (i = 0; i < codec->nparts; i++)
	{
		nulls[i] = !OidIsValid(codec->parts[i].type) || read_bool(cursor, end);
		if (!nulls[i])
			values[i] = sckpt_codec_read(&codec->parts[i], cursor, end);
	}
	tuple = heap_form_tuple(codec->row, values, nulls);
	result = heap_copy_tuple_as_datum(tuple, codec->row);
	heap_freetuple(tuple);
	for (i = 0; i < codec->nparts; i++)
	{
		if (!nulls[i] && !codec->parts[i].by_value)
			pfree(DatumGetPointer(values[i]));
	}
	pfree(values);
	pfree(nulls);
	return result;
}
