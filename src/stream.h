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

#include "access/attnum.h"
#include "access/tupdesc.h"

#include "batch.h"

extern void sckpt_stream_init(void);

/*
 * In a worker: scans of scan->streams read from this until it is disarmed, with NULL.  Only those that the query itself
 * starts do (scan->source), and no more than it has, so that functions in a query cannot read streams.
 */
extern void sckpt_stream_arm(SckptScan *scan);
/*
 * A row of a batch as jsonb, with the columns that the stream has today.  In a transaction; as the current user, whose casts to json
 * may run.
 */
extern Datum sckpt_stream_row_json(SckptBatch *batch, uint32 segment, uint32 row);
/* The same of any row of a row type that the type cache knows (BlessTupleDesc); palloc'd like what is left behind. */
extern Datum sckpt_stream_tuple_json(TupleDesc desc, Datum *values, bool *nulls);

/* 42P01 unless this is a stream. */
extern void sckpt_stream_require(Oid relid, const char *name);
/* Before writing to the log: 55000 unless preloaded; makes the slot if there is none. */
extern void sckpt_stream_require_log(void);

/* Do the options fit the columns?  42703, 42804. */
extern void sckpt_stream_check_options(Oid stream);
/*
 * What the stream's options say of event time today: its column, and microseconds, idle_timeout -1 when there is none.  Each
 * pointer may be NULL.  False, with attnum 0, when the stream declares no event_time, or that column is gone.  Cheap when called again.
 */
extern bool sckpt_stream_event_time(Oid stream, AttrNumber *attnum, int64 *delay, int64 *idle_timeout);

#endif							/* SCKPT_STREAM_H */
