/*-------------------------------------------------------------------------
 *
 * column.h
 *		Reading the values of a flat row one after the other, as in a heap tuple's
 *		data, with the work that depends on the column's type done beforehand.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_COLUMN_H
#define SCKPT_COLUMN_H

#include "access/htup_details.h"

typedef enum SckptShape
{
	SCKPT_SHAPE_OTHER,
	SCKPT_SHAPE_INT4,			/* by value, of its own alignment */
	SCKPT_SHAPE_INT8,
	SCKPT_SHAPE_VARLENA
} SckptShape;

typedef struct SckptColumn
{
	SckptShape	shape;
	int16		length;
	bool		by_value;
	char		align;
} SckptColumn;

static inline void
sckpt_column_init(SckptColumn *column, int16 length, bool by_value, char align)
{
	column->length = length;
	column->by_value = by_value;
	column->align = align;
	if (by_value && length == sizeof(int32) && align == TYPALIGN_INT)
		column->shape = SCKPT_SHAPE_INT4;
	else if (by_value && length == sizeof(int64) && align == TYPALIGN_DOUBLE)
		column->shape = SCKPT_SHAPE_INT8;
	else
		column->shape = length == -1 ? SCKPT_SHAPE_VARLENA : SCKPT_SHAPE_OTHER;
}

/* The value at or, past its padding, after *data, which is moved to its end.  Addresses are aligned, not offsets. */
static inline Datum
sckpt_column_read(const SckptColumn *column, const char **data)
{
	const char *at = *data;
	Datum		value;

	switch (column->shape)
	{
		case SCKPT_SHAPE_INT4:
			at = (const char *) INTALIGN(at);
			*data = at + sizeof(int32);
			return Int32GetDatum(*(const int32 *) at);
		case SCKPT_SHAPE_INT8:
			at = (const char *) DOUBLEALIGN(at);
			*data = at + sizeof(int64);
			return Int64GetDatum(*(const int64 *) at);
		case SCKPT_SHAPE_VARLENA:
			if (!VARATT_NOT_PAD_BYTE(at))
				at = (const char *) att_align_nominal((uintptr_t) at, column->align);
			*data = at + VARSIZE_ANY(at);
			return PointerGetDatum(at);
		case SCKPT_SHAPE_OTHER:
			break;
	}
	at = (const char *) att_align_pointer((uintptr_t) at, column->align, column->length, at);
	value = fetch_att(at, column->by_value, column->length);
	*data = (const char *) att_addlength_pointer((uintptr_t) at, column->length, at);
	return value;
}

#endif							/* SCKPT_COLUMN_H */
