/*-------------------------------------------------------------------------
 *
 * parcel.h
 *		Bytes that one process hands over to another one.
 *
 * The sender writes them in order; what fits is put into a dynamic shared memory segment of just that size when the parcel is closed, a larger one is
 * written to a temporary file meanwhile (BufFile in a FileSet), so that neither shared nor process memory is bounded by what is handed over.
 * The receiver opens it by its handle, which is plain data, and reads it in order.  It belongs to the sender, who
 * keeps it until the receiver has said that it is done.  A crash of the server leaves nothing behind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_PARCEL_H
#define SCKPT_PARCEL_H

#include "storage/dsm.h"
#include "storage/fileset.h"

typedef struct SckptParcelHandle
{
	uint64		bytes;
	dsm_handle	segment;		/* 0: it is a file, or empty */
	bool		file;
	FileSet		fileset;
} SckptParcelHandle;

typedef struct SckptParcel SckptParcel;

/* To write; lives in a context below `parent`, or until destroyed.  From the first write to the closing in one transaction. */
extern SckptParcel *sckpt_parcel_create(MemoryContext parent);
extern void sckpt_parcel_write(SckptParcel *parcel, const void *data, Size bytes);
extern void sckpt_parcel_close(SckptParcel *parcel, SckptParcelHandle *handle);
/* Of one that has been closed, again. */
extern const SckptParcelHandle *sckpt_parcel_handle(SckptParcel *parcel);
/* Throw it away, segment and file, whether closed or not. */
extern void sckpt_parcel_destroy(SckptParcel *parcel);

/* To read, in a transaction. */
extern SckptParcel *sckpt_parcel_open(MemoryContext parent, const SckptParcelHandle *handle);
/* ERROR XX000 if it ends before. */
extern void sckpt_parcel_read(SckptParcel *parcel, void *data, Size bytes);
extern bool sckpt_parcel_at_end(SckptParcel *parcel);

#endif							/* SCKPT_PARCEL_H */
