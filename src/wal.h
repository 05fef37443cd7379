/*-------------------------------------------------------------------------
 *
 * wal.h
 *		Walks over the records of the flushed WAL, without reading those that
 *		nobody asks for.
 *
 * An XLogReader copies each record three times and checks all of it.  Most
 * records are not ours, and many that are belong to streams that nobody here
 * reads.  Of such a record only the header is read: that the next one names it
 * as its predecessor shows that its length was right.  What is
 * asked for is copied once, to where it shall be, and its checksum is compared.
 *
 * Calls CHECK_FOR_INTERRUPTS() nowhere.  An ERROR (missing segment, broken
 * record) leaves the walker closable, not usable.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_WAL_H
#define SCKPT_WAL_H

#include "access/xlogrecord.h"
#include "access/xlogdefs.h"

typedef struct SckptWal SckptWal;

/* Its memory, and the file that it has open, live in a context of its own below the parent. */
extern SckptWal *sckpt_wal_open(MemoryContext parent);
extern void sckpt_wal_close(SckptWal *wal);

/* The next record is the one that starts at, or at the first place possible after, `lsn`. */
extern void sckpt_wal_begin(SckptWal *wal, XLogRecPtr lsn);

/*
 * Go to the next record, all of which is flushed: its header, or NULL at the end of the log, where the walker stays at the
 * record that it was at.  What has not been read of that one is left out.
 */
extern const XLogRecord *sckpt_wal_next(SckptWal *wal);

/*
 * Go to the record's main data, and tell its length.  False if it refers to blocks, which the records
 * that we read never do.
 */
extern bool sckpt_wal_main_data(SckptWal *wal, uint32 *len);

/*
 * Read on: the record's next bytes, not more than there are.  False if the record was never finished, as a crash came in
 * between; then nothing else can be read of it.
 */
extern bool sckpt_wal_read(SckptWal *wal, void *to, uint32 bytes);

/* The record has been read to its end: ERROR unless its checksum is right. */
extern void sckpt_wal_verify(SckptWal *wal);

/* Start of the last record gone to; Invalid: none yet. */
extern XLogRecPtr sckpt_wal_lsn(SckptWal *wal);
/* Where the next one can start at the earliest: after a page's header, if at the start of a page. */
extern XLogRecPtr sckpt_wal_end_lsn(SckptWal *wal);

#endif							/* SCKPT_WAL_H */
