/*-------------------------------------------------------------------------
 *
 * flat.c
 *		Rows as MinimalTuples, which are made of columns and read again without a call
 *		for each of them.
 *
 * The layout is that of heap_fill_tuple().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/tupmacs.h"

#include "compat.h"
#include "flat.h"

void
sckpt_flat_init(SckptFlat *flat, TupleDesc desc)
{
	flat->desc = desc;
	flat->plain = true;
	flat->columns = palloc(Max(1, desc->natts) * sizeof(SckptColumn));
	flat->shortened = palloc(Max(1, desc->natts) * sizeof(bool));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		sckpt_column_init(&flat->columns[i], att->attlen, att->attbyval, att->attalign);
		flat->shortened[i] = att->attlen == -1 && att->attstorage != TYPSTORAGE_PLAIN;
		if (att->attlen == -2)
			flat->plain = false;
	}
}

void
sckpt_flat_free(SckptFlat *flat)
{
	pfree(flat->columns);
	pfree(flat->shortened);
}

/* Any row. */
static pg_noinline MinimalTuple
form_any(const SckptFlat *flat, Datum *values, bool *nulls)
{
	MinimalTuple row;

	for (int i = 0; i < flat->desc->natts; i++)
	{
		struct varlena *value = (struct varlena *) DatumGetPointer(values[i]);

		if (!nulls[i] && flat->columns[i].length == -1 && (VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value)))
			values[i] = PointerGetDatum(detoast_attr(value));
	}
	row = heap_form_minimal_tuple(flat->desc, values, nulls, 0);
	(void) sckpt_flat_read(flat, row, sckpt_flat_data(row), 0, flat->desc->natts, values, nulls);
	return row;
}

/* Where a column starts after `at`, which is zeroed up to there. */
static inline char *
pad(char *at, char align)
{
	char	   *aligned = (char *) att_align_nominal((uintptr_t) at, align);

	while (at < aligned)
		*at++ = 0;
	return at;
}

MinimalTuple
sckpt_flat_form(const SckptFlat *flat, Datum *values, bool *nulls)
{
	const Size	header = MAXALIGN(SizeofMinimalTupleHeader);
	int			natts = flat->desc->natts;
	Size		size = header;
	bool		variable = false;
	MinimalTuple row;
	char	   *at;

	if (unlikely(!flat->plain))
		return form_any(flat, values, nulls);
	for (int i = 0; i < natts; i++)
	{
		const SckptColumn *column = &flat->columns[i];
		struct varlena *value;

		if (unlikely(nulls[i]))
			return form_any(flat, values, nulls);
		switch (column->shape)
		{
			case SCKPT_SHAPE_INT4:
				size = INTALIGN(size) + sizeof(int32);
				continue;
			case SCKPT_SHAPE_INT8:
				size = DOUBLEALIGN(size) + sizeof(int64);
				continue;
			case SCKPT_SHAPE_OTHER:
				size = att_align_nominal(size, column->align) + column->length;
				continue;
			case SCKPT_SHAPE_VARLENA:
				break;
		}
		value = (struct varlena *) DatumGetPointer(values[i]);
		variable = true;
		if (VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value))
			return form_any(flat, values, nulls);
		if (VARATT_IS_SHORT(value))
			size += VARSIZE_SHORT(value);
		else if (flat->shortened[i] && VARATT_CAN_MAKE_SHORT(value))
			size += VARATT_CONVERTED_SHORT_SIZE(value);
		else
			size = att_align_nominal(size, column->align) + VARSIZE(value);
	}
	if (unlikely(size > MaxAllocSize))
		return form_any(flat, values, nulls);

	row = palloc(size);
	memset(row, 0, header);
	row->t_len = size;
	row->t_infomask2 = natts;
	row->t_infomask = variable ? HEAP_HASVARWIDTH : 0;
	row->t_hoff = header + MINIMAL_TUPLE_OFFSET;
	at = (char *) row + header;
	for (int i = 0; i < natts; i++)
	{
		const SckptColumn *column = &flat->columns[i];
		struct varlena *value;
		Size		length;

		switch (column->shape)
		{
			case SCKPT_SHAPE_INT4:
				at = pad(at, TYPALIGN_INT);
				*(int32 *) at = DatumGetInt32(values[i]);
				at += sizeof(int32);
				continue;
			case SCKPT_SHAPE_INT8:
				at = pad(at, TYPALIGN_DOUBLE);
				*(int64 *) at = DatumGetInt64(values[i]);
				at += sizeof(int64);
				continue;
			case SCKPT_SHAPE_OTHER:
				at = pad(at, column->align);
				if (column->by_value)
					store_att_byval(at, values[i], column->length);
				else
				{
					memcpy(at, DatumGetPointer(values[i]), column->length);
					values[i] = PointerGetDatum(at);
				}
				at += column->length;
				continue;
			case SCKPT_SHAPE_VARLENA:
				break;
		}
		value = (struct varlena *) DatumGetPointer(values[i]);
		if (VARATT_IS_SHORT(value))
		{
			length = VARSIZE_SHORT(value);
			memcpy(at, value, length);
		}
		else if (flat->shortened[i] && VARATT_CAN_MAKE_SHORT(value))
		{
			length = VARATT_CONVERTED_SHORT_SIZE(value);
			SET_VARSIZE_SHORT(at, length);
			memcpy(at + 1, VARDATA(value), length - 1);
		}
		else
		{
			at = pad(at, column->align);
			length = VARSIZE(value);
			memcpy(at, value, length);
		}
		values[i] = PointerGetDatum(at);
		at += length;
	}
	Assert(at == (char *) row + size);
	return row;
}
