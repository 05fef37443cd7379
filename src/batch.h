/*-------------------------------------------------------------------------
 *
 * batch.h
 *		A batch: rows of committed transactions on their way through pipelines.
 *
 * A batch is a Z-set: rows with integer weights, in commit order.  It holds
 * one transaction, several whole ones, or a part of one that is too large.
 * Rows stay where the log reader put them; a segment is one message's rows of one stream.
 *
 * A scan gives each row a tid: block, the number of its segment in the batch;
 * offset, its own number in the segment (from 0).  So whoever sees the row's
 * ctid in a query finds its transaction, and the row again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_BATCH_H
#define SCKPT_BATCH_H

#include "access/htup.h"
#include "nodes/pg_list.h"

#include "log.h"
#include "record.h"

typedef struct SckptSegment
{
	Oid			stream;
	TransactionId xid;			/* top-level transaction */
	TransactionId writer;		/* that transaction, or the subtransaction that wrote it */
	XLogRecPtr	lsn;			/* of the message */
	XLogRecPtr	commit_lsn;		/* of the transaction */
	TimestampTz commit_time;	/* of the transaction */
	int64		watermark;		/* record.h, SckptRecordTime */
	int64		bound;			/* the same */
	uint8		time_flags;		/* of SCKPT_RECORD_TIME_FLAGS */
	int64		retried_by;		/* the pipeline that the rows are for; 0: all */
	SckptRecordColumn *columns; /* row type the rows were written with */
	int			ncolumns;
	int32	   *weights;		/* NULL: all +1 */
	char	   *rows;			/* MinimalTuples, each MAXALIGNed */
	uint32		nrows;			/* 0: it only moves the watermark */
} SckptSegment;

typedef struct SckptBatch
{
	MemoryContext context;
	int			references;
	SckptSegment *segments;
	int			nsegments;
	int			maxsegments;
	SckptLogMessage *messages;	/* to be freed with the batch */
	TransactionId *xids;		/* top-level transactions in it */
	XLogRecPtr *commit_lsns;	/* of each */
	int			nxids;
	int			maxxids;
	Size		bytes;
	uint64		nrows;
	TimestampTz commit_time;	/* of the last transaction */
	/* a large row being put together from fragments */
	char	   *row;
	Size		row_bytes;
	Size		row_filled;
	Oid			row_stream;
} SckptBatch;

/* Which rows of a batch a reader of it wants. */
typedef struct SckptScan
{
	SckptBatch *batch;
	List	   *streams;		/* oids */
	int			nscans;			/* how often the query names them: so many scans may start */
	const char *source;			/* the text, by its address, that the executor has of the query; set by who runs it */
	XLogRecPtr	after;			/* only transactions whose commit record starts after this */
	TransactionId creator;		/* of this transaction only messages from `start` on */
	XLogRecPtr	start;
	const TransactionId *skip;	/* writers whose rows it has already */
	int			nskip;
	int64		pipeline;		/* of rows that are for one pipeline only, those for this one */
	uint64		first;			/* of all these rows, counted from 0, only those from here on */
	uint64		end;			/* and before this; PG_UINT64_MAX: to the last */
	uint32		first_segment;	/* none of them is in a segment before this one, */
	uint64		first_seen;		/* and so many of all these rows are */

	List	   *others;			/* streams whose rows another scan of the same task counts, and tells of */
	struct SckptRoute *route;	/* of a parallel pipeline's task: which rows are its own; NULL: all */
	uint64		taken;			/* counted while it runs: so many were, of all that it has put out */

	/*
	 * Told of each row whose event time is beyond its segment's bound; the row is left out then.  NULL: such a row is an error.  Runs
	 * within the executor, in a context that is reset per row.
	 */
	void		(*ahead) (struct SckptScan *scan, uint32 segment, uint32 row, int64 event_time);
	void	   *arg;			/* of `ahead` */
} SckptScan;

extern SckptBatch *sckpt_batch_create(MemoryContext parent);
extern void sckpt_batch_hold(SckptBatch *batch);
/* Free it when nobody holds it any more. */
extern void sckpt_batch_release(SckptBatch *batch);
/* Note a transaction whose messages follow. */
extern void sckpt_batch_add_transaction(SckptBatch *batch, SckptLogTransaction *transaction);
/*
 * Add a message of the transaction added last; the batch frees it.  Messages of streams not in `streams` (oids) are freed
 * at once.  True when a fragment of a large row is still missing.
 */
extern bool sckpt_batch_add(SckptBatch *batch, SckptLogMessage *message, List *streams);
/* Wait until all its transactions newer than `known_visible` are visible to new snapshots. */
extern void sckpt_batch_wait_visible(SckptBatch *batch, XLogRecPtr known_visible);
/* Does a scan want this segment? */
extern bool sckpt_scan_wants(SckptScan *scan, SckptSegment *segment);
/* Number of rows that it wants, whatever `first` and `end` are; those that are ahead of the clock count. */
extern uint64 sckpt_scan_count(SckptScan *scan);
/* Narrow it to some of these rows. */
extern void sckpt_scan_narrow(SckptScan *scan, uint64 first, uint64 end);
/* Where the first row is. */
extern void sckpt_scan_first(SckptScan *scan, uint32 *segment, uint32 *row);

#endif							/* SCKPT_BATCH_H */
