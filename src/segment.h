/*-------------------------------------------------------------------------
 *
 * segment.h
 *		Which segments of the log are there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SEGMENT_H
#define SCKPT_SEGMENT_H

#include "access/xlogdefs.h"

/* The log is read in whole segments: do two places share one, or is the first in an earlier one? */
extern bool sckpt_segment_before(XLogRecPtr a, XLogRecPtr b);
/* Is the segment there that holds this place?  In recovery too. */
extern bool sckpt_segment_exists(XLogRecPtr lsn);
/* Start of the oldest segment from which on the log is there without a gap. */
extern XLogRecPtr sckpt_segment_oldest(void);
/*
 * The segments that are missing between `from` and there, as text: "A" or "A to B", file names as in an archive.
 */
extern char *sckpt_segment_missing(XLogRecPtr from);

/*
 * While preloading: when this start of the server restores a base backup, keep some log behind the end of recovery, whose checkpoint
 * would remove it before a worker can make its slot.
 */
extern void sckpt_segment_keep_for_recovery(void);

#endif							/* SCKPT_SEGMENT_H */
