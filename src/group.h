/*-------------------------------------------------------------------------
 *
 * group.h
 *		Group keys: hashing, comparing and keeping them flat.
 *
 * A key is stored as a bitmap of its non-null columns followed by their values, as in a heap tuple
 * (short varlena headers, padding by alignment).  Columns of types whose equality is that of their bytes
 * (btree's "equalimage" support function says so) are hashed and compared as bytes, and so is a column without
 * an equality operator (eq_op), of which only the image counts; the others by the functions of their default hash operator class, with the
 * key's collation.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_GROUP_H
#define SCKPT_GROUP_H

#include "access/tupdesc.h"
#include "fmgr.h"
#include "lib/stringinfo.h"

#include "codec.h"
#include "column.h"
#include "query.h"

typedef struct SckptGroupColumn
{
	SckptColumn form;
	bool		image;			/* equal means equal bytes, or is to mean that */
	SckptShape	image_shape;	/* the form's, of such a column; else OTHER */
	bool		shortened;		/* values are kept with a short header, if they can be */
	Oid			collation;
	FmgrInfo	hash;
	FmgrInfo	equal;
	SckptCodec	codec;
} SckptGroupColumn;

/* How the first column's values become numbers that are, roughly, in its order. */
typedef enum SckptGroupOrder
{
	SCKPT_ORDER_NONE,
	SCKPT_ORDER_SIGNED,
	SCKPT_ORDER_UNSIGNED,
	SCKPT_ORDER_FLOAT8,
	SCKPT_ORDER_BYTES			/* the first ones, also where a collation says otherwise about some */
} SckptGroupOrder;

typedef struct SckptGroupKey
{
	int			ncolumns;
	int			bitmap_bytes;
	int			full_bitmap;	/* its value where no column is NULL, if it is one byte; else -1: look at each bit */
	TupleDesc	desc;
	SckptGroupColumn *columns;
	SckptGroupOrder order;
} SckptGroupKey;

/* Of these columns: type, typmod, collation and equality count; without an equality operator it is that of the bytes. */
extern SckptGroupKey *sckpt_group_key_create(const SckptKey *columns, int ncolumns, MemoryContext context);
/*
 * Hash of a key.  values[] of variable length that are compressed or out of line are replaced by flat ones palloc'd in the
 * current context, which the functions below need.
 */
extern uint32 sckpt_group_key_hash(SckptGroupKey *key, Datum *values, const bool *nulls);
/* Is the stored key this one? */
extern bool sckpt_group_key_equal(SckptGroupKey *key, const char *stored, const Datum *values, const bool *nulls);
/* Bytes of the stored key, which is to start `offset` bytes after a MAXALIGNed address. */
extern Size sckpt_group_key_size(SckptGroupKey *key, Size offset, const Datum *values, const bool *nulls);
/* Store into so many zeroed bytes. */
extern void sckpt_group_key_store(SckptGroupKey *key, char *stored, Datum *values, bool *nulls);
/*
 * Where a stored key is in the order of its first column, NULLs last: not exactly, so that it is good only for visiting an index with some
 * locality.  The same for all keys if nothing is known about the type.
 */
extern uint64 sckpt_group_key_order(SckptGroupKey *key, const char *stored);
/* The order of two values' images, which are flat. */
extern int	sckpt_group_compare_images(const SckptGroupColumn *column, Datum a, Datum b);
/* By-reference values point into the stored bytes. */
extern void sckpt_group_key_load(SckptGroupKey *key, const char *stored, Datum *values, bool *nulls);

#endif							/* SCKPT_GROUP_H */
