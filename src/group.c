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
#include "common/hashfn.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "group.h"

/* The finalizer of MurmurHash3, 64 bits (Austin Appleby, public domain). */
static inline uint64
mix_bits(uint64 h)
{
	h ^= h >> 33;
	h *= UINT64CONST(0xff51afd7ed558ccd);
	h ^= h >> 33;
	h *= UINT64CONST(0xc4ceb9fe1a85ec53);
	h ^= h >> 33;
	return h;
}

/* Hash of bytes, eight at a time: keys are short, and this hash is seen by nobody else (it is not stored). */
static inline uint32
hash_image(const unsigned char *bytes, Size len)
{
	uint64		h = mix_bits(len);
	uint64		word;

	for (; len >= sizeof(word); len -= sizeof(word), bytes += sizeof(word))
	{
		memcpy(&word, bytes, sizeof(word));
		h = (h ^ word) * UINT64CONST(0x9fb21c651e98df25);
		h ^= h >> 32;
	}
	word = 0;
	memcpy(&word, bytes, len);
	return (uint32) mix_bits(h ^ word);
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

SckptGroupKey *
sckpt_group_key_create(const SckptKey *columns, int ncolumns, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptGroupKey *key = palloc0(sizeof(SckptGroupKey));

	key->ncolumns = ncolumns;
	key->bitmap_bytes = BITMAPLEN(ncolumns);
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
		column->length = att->attlen;
		column->by_value = att->attbyval;
		column->align = att->attalign;
		column->collation = source->collation;
		column->image = !OidIsValid(source->eq_op) || equal_is_image(source);
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

uint32
sckpt_group_key_hash(SckptGroupKey *key, Datum *values, const bool *nulls)
{
	uint32		hash = 0;

	for (int i = 0; i < key->ncolumns; i++)
	{
		SckptGroupColumn *column = &key->columns[i];
		uint32		h;

		hash = (hash << 1) | (hash >> 31);
		if (nulls[i])
			continue;
		if (column->length == -1)
		{
			struct varlena *value = (struct varlena *) DatumGetPointer(values[i]);

			if (VARATT_IS_COMPRESSED(value) || VARATT_IS_EXTERNAL(value))
				values[i] = PointerGetDatum(PG_DETOAST_DATUM(values[i]));
		}
		if (!column->image)
			h = DatumGetUInt32(FunctionCall1Coll(&column->hash, column->collation, values[i]));
		else if (column->by_value)
			h = (uint32) mix_bits((uint64) values[i]);
		else if (column->length == -1)
			h = hash_image((unsigned char *) VARDATA_ANY(values[i]), VARSIZE_ANY_EXHDR(values[i]));
		else
			h = hash_image((unsigned char *) DatumGetPointer(values[i]), column->length);
		hash ^= h;
	}
	return murmurhash32(hash);
}

bool
sckpt_group_key_equal(SckptGroupKey *key, const char *stored, const Datum *values, const bool *nulls)
{
	const bits8 *bitmap = (const bits8 *) stored;
	const char *data = stored + key->bitmap_bytes;

	for (int i = 0; i < key->ncolumns; i++)
	{
		SckptGroupColumn *column = &key->columns[i];
		Datum		value;

		if (nulls[i] != (bool) att_isnull(i, bitmap))
			return false;
		if (nulls[i])
			continue;
		data = (const char *) att_align_pointer((uintptr_t) data, column->align, column->length, data);
		value = fetch_att(data, column->by_value, column->length);
		if (!column->image)
		{
			if (!DatumGetBool(FunctionCall2Coll(&column->equal, column->collation, value, values[i])))
				return false;
		}
		else if (column->by_value)
		{
			if (value != values[i])
				return false;
		}
		else if (column->length == -1)
		{
			Size		len = VARSIZE_ANY_EXHDR(data);

			if (len != VARSIZE_ANY_EXHDR(values[i]) || memcmp(VARDATA_ANY(data), VARDATA_ANY(values[i]), len) != 0)
				return false;
		}
		else if (memcmp(data, DatumGetPointer(values[i]), column->length) != 0)
			return false;
		data = (const char *) att_addlength_pointer((uintptr_t) data, column->length, data);
	}
	return true;
}

Size
sckpt_group_key_size(SckptGroupKey *key, Datum *values, bool *nulls)
{
	/* The data's alignment depends on where it starts: as much as can be needed. */
	return MAXALIGN(key->bitmap_bytes) + MAXALIGN(heap_compute_data_size(key->desc, values, nulls)) + MAXIMUM_ALIGNOF;
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
		Size		len;

		if (nulls[i])
			continue;
		bitmap[i >> 3] |= 1 << (i & 7);
		if (column->length == -1)
		{
			struct varlena *value = (struct varlena *) DatumGetPointer(values[i]);

			if (VARATT_IS_SHORT(value))
			{
				len = VARSIZE_SHORT(value);
				memcpy(data, value, len);
			}
			else if (VARATT_CAN_MAKE_SHORT(value) && TupleDescAttr(key->desc, i)->attstorage != TYPSTORAGE_PLAIN)
			{
				len = VARATT_CONVERTED_SHORT_SIZE(value);
				SET_VARSIZE_SHORT(data, len);
				memcpy(data + 1, VARDATA(value), len - 1);
			}
			else
			{
				data = (char *) att_align_nominal((uintptr_t) data, column->align);
				len = VARSIZE(value);
				memcpy(data, value, len);
			}
		}
		else
		{
			data = (char *) att_align_nominal((uintptr_t) data, column->align);
			if (column->by_value)
			{
				len = column->length;
				store_att_byval(data, values[i], column->length);
			}
			else
			{
				len = column->length == -2 ? strlen(DatumGetCString(values[i])) + 1 : column->length;
				memcpy(data, DatumGetPointer(values[i]), len);
			}
		}
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
		SckptGroupColumn *column = &key->columns[i];

		nulls[i] = att_isnull(i, bitmap);
		values[i] = (Datum) 0;
		if (nulls[i])
			continue;
		data = (const char *) att_align_pointer((uintptr_t) data, column->align, column->length, data);
		values[i] = fetch_att(data, column->by_value, column->length);
		data = (const char *) att_addlength_pointer((uintptr_t) data, column->length, data);
	}
}
