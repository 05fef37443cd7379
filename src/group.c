/*-------------------------------------------------------------------------
 *
 * group.c
 *		Group keys: hashing, comparing and keeping them flat.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/stratnum.h"
#include "access/tupmacs.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "port/pg_bswap.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "group.h"
#include "image.h"

#define HASH_NULL			UINT64CONST(0x8ebc6af09c88c6e3)

/* What the store gives for a value: the bits beyond its type's are those of its sign, whoever made it. */
static inline Datum
by_value_image(Datum value, int16 length)
{
	switch (length)
	{
		case sizeof(int8):
			return CharGetDatum(DatumGetChar(value));
		case sizeof(int16):
			return Int16GetDatum(DatumGetInt16(value));
		case sizeof(int32):
			return Int32GetDatum(DatumGetInt32(value));
	}
	return value;
}

/* Does the type's equality, under this collation, mean that the bytes are equal? */
static bool
equal_is_image(const SckptKey *key)
{
	Oid			opclass = GetDefaultOpClass(key->type, BTREE_AM_OID);
	Oid			family;
	Oid			input;
	Oid			function;

	/* Blank-padded values of different declared lengths are equal, but not in their bytes. */
	if (!OidIsValid(opclass) || getBaseType(key->type) == BPCHAROID)
		return false;
	family = get_opclass_family(opclass);
	input = get_opclass_input_type(opclass);
	if (get_op_opfamily_strategy(key->eq_op, family) != BTEqualStrategyNumber)
		return false;
	function = get_opfamily_proc(family, input, input, BTEQUALIMAGE_PROC);
	return OidIsValid(function) &&
		DatumGetBool(OidFunctionCall1Coll(function, key->collation, ObjectIdGetDatum(input)));
}

static SckptGroupOrder
order_of(Oid type)
{
	switch (getBaseType(type))
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return SCKPT_ORDER_SIGNED;
		case OIDOID:
			return SCKPT_ORDER_UNSIGNED;
		case FLOAT8OID:
			return SCKPT_ORDER_FLOAT8;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case BYTEAOID:
		case UUIDOID:
			return SCKPT_ORDER_BYTES;
	}
	return SCKPT_ORDER_NONE;
}

uint64
sckpt_group_key_order(SckptGroupKey *key, const char *stored)
{
	const char *data = stored + key->bitmap_bytes;
	unsigned char bytes[sizeof(uint64)] = {0};
	uint64		order;
	Datum		value;
	Size		len;

	if (key->order == SCKPT_ORDER_NONE || att_isnull(0, (const bits8 *) stored))
		return PG_UINT64_MAX;
	value = sckpt_column_read(&key->columns[0].form, &data);
	switch (key->order)
	{
		case SCKPT_ORDER_SIGNED:
			return (uint64) by_value_image(value, key->columns[0].form.length) ^ (UINT64CONST(1) << 63);
		case SCKPT_ORDER_UNSIGNED:
			return (uint32) value;
		case SCKPT_ORDER_FLOAT8:
			/* All bits of a negative number are turned round, of others the sign. */
			order = (uint64) value;
			return order >> 63 ? ~order : order | (UINT64CONST(1) << 63);
		case SCKPT_ORDER_BYTES:
			len = key->columns[0].form.length > 0 ? key->columns[0].form.length : VARSIZE_ANY_EXHDR(DatumGetPointer(value));
			memcpy(bytes, key->columns[0].form.length > 0 ? DatumGetPointer(value) : VARDATA_ANY(DatumGetPointer(value)), Min(len, sizeof(bytes)));
			memcpy(&order, bytes, sizeof(order));
			return pg_ntoh64(order);
		case SCKPT_ORDER_NONE:
			break;
	}
	return PG_UINT64_MAX;
}

SckptGroupKey *
sckpt_group_key_create(const SckptKey *columns, int ncolumns, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptGroupKey *key = palloc0(sizeof(SckptGroupKey));

	key->ncolumns = ncolumns;
	key->order = ncolumns > 0 ? order_of(columns[0].type) : SCKPT_ORDER_NONE;
	key->bitmap_bytes = BITMAPLEN(ncolumns);
	key->full_bitmap = key->bitmap_bytes == 1 ? (1 << ncolumns) - 1 : -1;
	key->desc = CreateTemplateTupleDesc(ncolumns);
	key->columns = palloc0(Max(1, ncolumns) * sizeof(SckptGroupColumn));
	for (int i = 0; i < ncolumns; i++)
	{
		const SckptKey *source = &columns[i];
		SckptGroupColumn *column = &key->columns[i];
		Form_pg_attribute att = TupleDescAttr(key->desc, i);
		Oid			left_hash;
		Oid			right_hash;

		TupleDescInitEntry(key->desc, i + 1, NULL, source->type, source->typmod, 0);
		sckpt_column_init(&column->form, att->attlen, att->attbyval, att->attalign);
		column->collation = source->collation;
		column->image = !OidIsValid(source->eq_op) || equal_is_image(source);
		column->image_shape = column->image ? column->form.shape : SCKPT_SHAPE_OTHER;
		column->shortened = att->attlen == -1 && att->attstorage != TYPSTORAGE_PLAIN;
		if (OidIsValid(source->eq_op))
		{
			if (!get_op_hash_functions(source->eq_op, &left_hash, &right_hash))
				elog(ERROR, "no hash function for operator %u", source->eq_op);
			fmgr_info_cxt(left_hash, &column->hash, context);
			fmgr_info_cxt(get_opcode(source->eq_op), &column->equal, context);
		}
		sckpt_codec_init(&column->codec, source->type, source->typmod, context);
	}
	MemoryContextSwitchTo(old);
	return key;
}

/* Has it a header of one byte, and its bytes behind it? */
static inline bool
is_short(Datum value)
{
	return VARATT_IS_1B(DatumGetPointer(value)) && !VARATT_IS_1B_E(DatumGetPointer(value));
}

/* The rest of a key's hash, from a column on. */
static pg_noinline uint32
hash_rest(SckptGroupKey *key, Datum *values, const bool *nulls, int i, uint64 hash)
{
	for (; i < key->ncolumns; i++)
	{
		SckptGroupColumn *column = &key->columns[i];

		if (nulls[i])
		{
			hash = sckpt_hash_fold(hash ^ HASH_NULL, SCKPT_HASH_WORD);
			continue;
		}
		if (column->image && column->form.by_value)
		{
			hash = sckpt_hash_fold(hash ^ (uint64) by_value_image(values[i], column->form.length), SCKPT_HASH_WORD);
			continue;
		}
		if (column->form.length == -1)
		{
			struct varlena *value = (struct varlena *) DatumGetPointer(values[i]);

			if (VARATT_IS_COMPRESSED(value) || VARATT_IS_EXTERNAL(value))
				values[i] = PointerGetDatum(PG_DETOAST_DATUM(values[i]));
		}
		if (!column->image)
			hash = sckpt_hash_fold(hash ^ DatumGetUInt32(FunctionCall1Coll(&column->hash, column->collation, values[i])), SCKPT_HASH_WORD);
		else if (column->form.length == -1)
			hash = sckpt_hash_image(hash, (unsigned char *) VARDATA_ANY(values[i]), VARSIZE_ANY_EXHDR(values[i]));
		else
			hash = sckpt_hash_image(hash, (unsigned char *) DatumGetPointer(values[i]), column->form.length);
	}
	return sckpt_hash_end(hash);
}

uint32
sckpt_group_key_hash(SckptGroupKey *key, Datum *values, const bool *nulls)
{
	uint64		hash = SCKPT_HASH_SEED;
	const SckptGroupColumn *column = key->columns;

	/* As far as nothing is to be called. */
	for (int i = 0; i < key->ncolumns; i++, column++)
	{
		if (unlikely(nulls[i]))
			return hash_rest(key, values, nulls, i, hash);
		if (column->image_shape == SCKPT_SHAPE_INT8)
			hash = sckpt_hash_fold(hash ^ (uint64) values[i], SCKPT_HASH_WORD);
		else if (column->image_shape == SCKPT_SHAPE_VARLENA && is_short(values[i]))
		{
			const unsigned char *bytes = (const unsigned char *) DatumGetPointer(values[i]);

			hash = sckpt_hash_image(hash, bytes + VARHDRSZ_SHORT, VARSIZE_1B(bytes) - VARHDRSZ_SHORT);
		}
		else if (column->image_shape == SCKPT_SHAPE_INT4)
			hash = sckpt_hash_fold(hash ^ (uint64) Int32GetDatum(DatumGetInt32(values[i])), SCKPT_HASH_WORD);
		else
			return hash_rest(key, values, nulls, i, hash);
	}
	return sckpt_hash_end(hash);
}

/* As memcmp() says, without a call where they are few. */
static inline bool
same_bytes(const char *a, const char *b, Size len)
{
	if (len > 2 * sizeof(uint64) || len < sizeof(uint32))
		return memcmp(a, b, len) == 0;
	if (len >= sizeof(uint64))
		return sckpt_read_word(a) == sckpt_read_word(b) && sckpt_read_word(a + len - sizeof(uint64)) == sckpt_read_word(b + len - sizeof(uint64));
	return sckpt_read_half(a) == sckpt_read_half(b) && sckpt_read_half(a + len - sizeof(uint32)) == sckpt_read_half(b + len - sizeof(uint32));
}

/* Any key. */
static pg_noinline bool
equal_keys(SckptGroupKey *key, const char *stored, const Datum *values, const bool *nulls)
{
	const bits8 *bitmap = (const bits8 *) stored;
	const char *data = stored + key->bitmap_bytes;

	for (int i = 0; i < key->ncolumns; i++)
	{
		SckptGroupColumn *column = &key->columns[i];
		Datum		value;

		if (nulls[i] || att_isnull(i, bitmap))
		{
			if (nulls[i] != (bool) att_isnull(i, bitmap))
				return false;
			continue;
		}
		value = sckpt_column_read(&column->form, &data);
		if (!column->image)
		{
			if (!DatumGetBool(FunctionCall2Coll(&column->equal, column->collation, value, values[i])))
				return false;
		}
		else if (column->form.by_value)
		{
			if (value != by_value_image(values[i], column->form.length))
				return false;
		}
		else if (column->form.length == -1)
		{
			struct varlena *there = (struct varlena *) DatumGetPointer(value);
			struct varlena *here = (struct varlena *) DatumGetPointer(values[i]);
			Size		len = VARSIZE_ANY_EXHDR(there);

			if (len != VARSIZE_ANY_EXHDR(here) || memcmp(VARDATA_ANY(there), VARDATA_ANY(here), len) != 0)
				return false;
		}
		else if (memcmp(DatumGetPointer(value), DatumGetPointer(values[i]), column->form.length) != 0)
			return false;
	}
	return true;
}

bool
sckpt_group_key_equal(SckptGroupKey *key, const char *stored, const Datum *values, const bool *nulls)
{
	const char *data = stored + 1;
	SckptGroupColumn *column = key->columns;
	SckptGroupColumn *end = column + key->ncolumns;
	const bool *null = nulls;

	/* Nearly all keys are without NULLs, and of columns that can be compared in place: they have no other way to go. */
	if (unlikely(key->full_bitmap < 0 || key->full_bitmap != *(const bits8 *) stored))
		return equal_keys(key, stored, values, nulls);
	for (const Datum *value = values; column < end; column++, value++)
	{
		if (unlikely(*null++))
			return false;
		switch (column->image_shape)
		{
			case SCKPT_SHAPE_INT4:
				data = (const char *) INTALIGN(data);
				if (*(const int32 *) data != DatumGetInt32(*value))
					return false;
				data += sizeof(int32);
				continue;
			case SCKPT_SHAPE_INT8:
				data = (const char *) DOUBLEALIGN(data);
				if (*(const int64 *) data != DatumGetInt64(*value))
					return false;
				data += sizeof(int64);
				continue;
			case SCKPT_SHAPE_VARLENA:
				if (VARATT_IS_1B(data) && is_short(*value))
				{
					Size		len = VARSIZE_1B(data);

					/* The same header, the same length. */
					if (*data != *DatumGetPointer(*value) || !same_bytes(data, DatumGetPointer(*value), len))
						return false;
					data += len;
					continue;
				}
				break;
			case SCKPT_SHAPE_OTHER:
				break;
		}
		return equal_keys(key, stored, values, nulls);
	}
	return true;
}

/* Bytes of a value in a stored key; *aligned: after padding; *shorten: its header is to be made short. */
static inline Size
stored_size(const SckptGroupColumn *column, Datum value, bool *aligned, bool *shorten)
{
	*aligned = true;
	*shorten = false;
	if (column->form.length > 0)
		return column->form.length;
	if (column->form.length == -2)
		return strlen(DatumGetCString(value)) + 1;
	if (VARATT_IS_SHORT(DatumGetPointer(value)))
	{
		*aligned = false;
		return VARSIZE_SHORT(DatumGetPointer(value));
	}
	if (column->shortened && VARATT_CAN_MAKE_SHORT(DatumGetPointer(value)))
	{
		*aligned = false;
		*shorten = true;
		return VARATT_CONVERTED_SHORT_SIZE(DatumGetPointer(value));
	}
	return VARSIZE(DatumGetPointer(value));
}

Size
sckpt_group_key_size(SckptGroupKey *key, Size offset, const Datum *values, const bool *nulls)
{
	Size		at = offset + key->bitmap_bytes;

	for (int i = 0; i < key->ncolumns; i++)
	{
		bool		aligned;
		bool		shorten;
		Size		len;

		if (nulls[i])
			continue;
		len = stored_size(&key->columns[i], values[i], &aligned, &shorten);
		if (aligned)
			at = att_align_nominal(at, key->columns[i].form.align);
		at += len;
	}
	return at - offset;
}

/*
 * As heap_fill_tuple() does, except that alignment is that of the real address.
 */
void
sckpt_group_key_store(SckptGroupKey *key, char *stored, Datum *values, bool *nulls)
{
	bits8	   *bitmap = (bits8 *) stored;
	char	   *data = stored + key->bitmap_bytes;

	for (int i = 0; i < key->ncolumns; i++)
	{
		SckptGroupColumn *column = &key->columns[i];
		bool		aligned;
		bool		shorten;
		Size		len;

		if (nulls[i])
			continue;
		bitmap[i >> 3] |= 1 << (i & 7);
		len = stored_size(column, values[i], &aligned, &shorten);
		if (aligned)
			data = (char *) att_align_nominal((uintptr_t) data, column->form.align);
		if (column->form.by_value)
			store_att_byval(data, values[i], column->form.length);
		else if (shorten)
		{
			SET_VARSIZE_SHORT(data, len);
			memcpy(data + 1, VARDATA(DatumGetPointer(values[i])), len - 1);
		}
		else
			memcpy(data, DatumGetPointer(values[i]), len);
		data += len;
	}
}

void
sckpt_group_key_load(SckptGroupKey *key, const char *stored, Datum *values, bool *nulls)
{
	const bits8 *bitmap = (const bits8 *) stored;
	const char *data = stored + key->bitmap_bytes;

	for (int i = 0; i < key->ncolumns; i++)
	{
		nulls[i] = att_isnull(i, bitmap);
		values[i] = (Datum) 0;
		if (nulls[i])
			continue;
		values[i] = sckpt_column_read(&key->columns[i].form, &data);
	}
}

int
sckpt_group_compare_images(const SckptGroupColumn *column, Datum a, Datum b)
{
	Size		a_length;
	Size		b_length;
	int			order;

	if (column->form.by_value)
	{
		a = by_value_image(a, column->form.length);
		b = by_value_image(b, column->form.length);
		return (int64) a < (int64) b ? -1 : (int64) a > (int64) b;
	}
	if (column->form.length == -2)
		return strcmp(DatumGetCString(a), DatumGetCString(b));
	if (column->form.length > 0)
		return memcmp(DatumGetPointer(a), DatumGetPointer(b), column->form.length);
	a_length = VARSIZE_ANY_EXHDR(DatumGetPointer(a));
	b_length = VARSIZE_ANY_EXHDR(DatumGetPointer(b));
	order = memcmp(VARDATA_ANY(DatumGetPointer(a)), VARDATA_ANY(DatumGetPointer(b)), Min(a_length, b_length));
	if (order == 0)
		order = a_length < b_length ? -1 : a_length > b_length;
	return order;
}
