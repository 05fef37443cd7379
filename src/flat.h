/*-------------------------------------------------------------------------
 *
 * flat.h
 *		Rows as MinimalTuples, which are made of columns and read again without a call
 *		for each of them.
 *
 * What is made here has the same bytes as heap_form_minimal_tuple() gives, so equal images are equal rows, whoever made them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_FLAT_H
#define SCKPT_FLAT_H

#include "access/htup_details.h"

#include "column.h"
#include "image.h"

/* A type of rows. */
typedef struct SckptFlat
{
	TupleDesc	desc;
	SckptColumn *columns;
	bool	   *shortened;		/* by column: a short value gets a header of one byte */
	bool		plain;			/* no column is a C string */
} SckptFlat;

/* Of rows of that type, which must stay, in the current memory context. */
extern void sckpt_flat_init(SckptFlat *flat, TupleDesc desc);
extern void sckpt_flat_free(SckptFlat *flat);

/*
 * Make a row, in the current context.  Values that are compressed, out of line or expanded are made flat; those that are passed by reference are in the row
 * afterwards.
 */
extern MinimalTuple sckpt_flat_form(const SckptFlat *flat, Datum *values, bool *nulls);

/* Where a row's first column is, before its padding. */
static inline const char *
sckpt_flat_data(MinimalTuple row)
{
	return (const char *) row + row->t_hoff - MINIMAL_TUPLE_OFFSET;
}

/* Read columns `from` (counted from 0) to before `to`; `data` is where the one before ended, and where the last one ends is returned. */
static inline const char *
sckpt_flat_read(const SckptFlat *flat, MinimalTuple row, const char *data, int from, int to, Datum *values, bool *nulls)
{
	if (likely(!(row->t_infomask & HEAP_HASNULL)))
	{
		for (int i = from; i < to; i++)
		{
			nulls[i] = false;
			values[i] = sckpt_column_read(&flat->columns[i], &data);
		}
		return data;
	}
	for (int i = from; i < to; i++)
	{
		nulls[i] = att_isnull(i, row->t_bits);
		values[i] = nulls[i] ? (Datum) 0 : sckpt_column_read(&flat->columns[i], &data);
	}
	return data;
}

/* Of the image, to go on with. */
static inline uint64
sckpt_flat_hash(MinimalTuple row)
{
	return sckpt_hash_image(SCKPT_HASH_SEED, (unsigned char *) row + SizeofMinimalTupleHeader, row->t_len - SizeofMinimalTupleHeader);
}

static inline bool
sckpt_flat_equal(MinimalTuple a, MinimalTuple b)
{
	return a->t_len == b->t_len &&
		memcmp((char *) a + SizeofMinimalTupleHeader, (char *) b + SizeofMinimalTupleHeader, a->t_len - SizeofMinimalTupleHeader) == 0;
}

#endif							/* SCKPT_FLAT_H */
