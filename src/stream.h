/*-------------------------------------------------------------------------
 *
 * stream.h
 *		Streams: foreign tables whose rows go to the log, and come back as
 *		batches in a worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_STREAM_H
#define SCKPT_STREAM_H

#include "batch.h"

extern void sckpt_stream_init(void);

/*
 * In a worker: the next executor start that scans scan->stream reads from this; NULL disarms.  Only
 * that one scan does, so that functions in a query cannot read streams.
 */
extern void sckpt_stream_arm(SckptScan *scan);
/* 42P01 unless this is a stream. */
extern void sckpt_stream_require(Oid relid, const char *name);

/* Do the options fit the columns?  42703, 42804. */
extern void sckpt_stream_check_options(Oid stream);

#endif							/* SCKPT_STREAM_H */
