/*-------------------------------------------------------------------------
 *
 * lag.h
 *		stream_ckpt.max_lag: producers wait for pipelines that are too far
 *		behind.
 *
 * How far a pipeline is behind is measured in log: from where it has read to, as its worker has last published, to the end of
 * what is flushed, since nobody can read more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_LAG_H
#define SCKPT_LAG_H

#include "task.h"

/*
 * In a session that is about to insert into a stream: wait while a running pipeline that reads it is too far behind.  Only at a
 * transaction's first insert into any stream, and only while it has nothing that the worker could wait for (semantics.md, 29: no
 * xid, no strong lock on a relation); else returns at once.  Interruptible.
 */
extern void sckpt_lag_wait(Oid stream);

/*
 * In the worker: is a pipeline that reads the stream which this one writes too far behind?  Those with tasks in `beside` do not count: who reads
 * the log together with us does not fall behind us.  A task that is held counts as one until half of the lag is gone.
 */
extern bool sckpt_lag_sink_full(SckptTask *task, List *beside);

#endif							/* SCKPT_LAG_H */
