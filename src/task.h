/*-------------------------------------------------------------------------
 *
 * task.h
 *		A pipeline at work in a worker.
 *
 *						 load ok			 batch or checkpoint fails on
 *		 STARTING ───────────────► RUNNING ──────────────► RESTARTING (something transient)
 *			▲						 │ │						│ back-off over
 *			│ resume_pipeline()		 │ └─────► FAILED			└──────► STARTING
 *			└──────── PAUSED ◄───────┘		 (data, or anything else: until resume_pipeline();
 *					pause_pipeline()		  state memory: until there may be room)
 *
 * Whatever leaves RUNNING throws the state away: the last completed checkpoint and the log have it all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_TASK_H
#define SCKPT_TASK_H

#include "batch.h"
#include "catalog.h"
#include "operator.h"
#include "query.h"
#include "shared.h"
#include "stage.h"

/* A chunk of the last completed checkpoint. */
typedef struct SckptChunk
{
	int64		id;				/* 0: free place */
	uint32		entries;
	uint32		live;			/* entries whose last version is here */
	uint32		leaving;		/* of these, how many the checkpoint being taken writes anew */
} SckptChunk;

typedef struct SckptTask
{
	MemoryContext context;		/* everything here, for as long as the pipeline exists unchanged */
	SckptPipeline *def;
	SckptStatus status;
	TimestampTz retry_at;		/* of a RESTARTING or memory-starved one */
	int			backoff;		/* ms, the last one used */
	bool		starved;		/* ran out of state memory; shown as FAILED until a checkpoint shows that it has enough */
	int64		restarts;
	TimestampTz known_since;
	bool		seen;			/* while pipelines are being compared with the catalog */
	char		error[SCKPT_ERROR_BYTES];
	char		cause[SCKPT_ERROR_BYTES];	/* of the next restore */

	/* while RUNNING */
	MemoryContext run_context;
	SckptQuery *query;
	SckptStage	stage;
	SckptOperator *operator;	/* NULL: the query is linear */
	AttrNumber *key_columns;	/* of the result relation; nkeys of the query */
	AttrNumber *result_columns; /* attribute of the result relation for each column of the query */
	XLogRecPtr	fed;			/* commits up to here are in the state, or pending */
	TimestampTz fed_time;		/* commit time of the last transaction taken in */
	XLogRecPtr	known_visible;	/* of the lane that feeds it */
	List	   *pending;		/* batches that a linear query will run over at its next checkpoint */
	Size		pending_bytes;
	List	   *early;			/* work on open transactions: early.c */
	const TransactionId *skip;	/* writers of the transaction at hand whose rows are in the state already */
	int			nskip;
	int64		rows_in;		/* as of the state */
	int64		rows_out;
	bool		changed;		/* something to checkpoint */
	int			failed_checkpoints; /* in a row */
	TimestampTz checkpoint_at;	/* not before this */
	int64		busy_us;		/* spent on it since the worker started */
	char		waiting[SCKPT_ERROR_BYTES]; /* what the next checkpoint waits for; empty: nothing */
	SckptChunk *chunks;			/* entry->chunk is 1 + an index here */
	int			nchunks;
	int			maxchunks;
	int64		next_chunk;
	uint64		stored_entries; /* in all chunks */
	bool		tids_unknown;	/* restored: where results are is not known until they are looked for */
	int64		restore_id;		/* of the restore whose rows_replayed is not known yet; 0: none */
} SckptTask;

/* Position of the log reader at a transaction boundary: see log.h. */
typedef struct SckptPosition
{
	XLogRecPtr	commit;			/* commits up to here are delivered */
	XLogRecPtr	restart;
	XLogRecPtr	end;			/* everything before this has been read */
} SckptPosition;

/* A transaction of the task's own: becoming the owner and back. */
typedef struct SckptIdentity
{
	Oid			user;
	int			sec_context;
	int			guc_level;
	MemoryContext context;
} SckptIdentity;
extern void sckpt_task_become_owner(SckptTask *task, SckptIdentity *saved);
extern void sckpt_task_become_self(SckptIdentity *saved);
/*
 * A unit of work of the task: a transaction of its own, bounded in time, as the owner, with the task's run-time context
 * current (the caller's is in the identity).
 */
extern void sckpt_task_begin_work(SckptTask *task, SckptIdentity *saved);
extern void sckpt_task_end_work(SckptIdentity *saved);

extern SckptTask *sckpt_task_create(MemoryContext parent, SckptPipeline *def);
extern void sckpt_task_destroy(SckptTask *task);

/*
 * Run something for a task, with its own error context and transactions; when that fails, the task does, and nobody else.  False
 * then.
 */
typedef void (*SckptTaskWork) (SckptTask *task, void *arg);
extern bool sckpt_task_guard(SckptTask *task, SckptTaskWork work, void *arg);

/* INSERT INTO result (columns) query: what a linear query runs as. */
extern char *sckpt_task_insert_sql(Oid result, SckptQuery *query);
/* Analyse the query and load the last checkpoint: RUNNING.  Throws. */
extern void sckpt_task_start(SckptTask *task);
/* Throw the run-time state away; the status is the caller's to set. */
extern void sckpt_task_stop(SckptTask *task);
/* Take a batch in.  A linear query keeps it, and runs over it at the next checkpoint.  Throws. */
extern void sckpt_task_feed(SckptTask *task, SckptBatch *batch, XLogRecPtr known_visible);
/* After an error (the transaction is aborted): decide what becomes of the task. */
extern void sckpt_task_fail(SckptTask *task, ErrorData *error);
/* Bring shared memory up to date. */
extern void sckpt_task_publish(SckptTask *task, XLogRecPtr covered);
/* Run a linear query over a batch inside the transaction at hand; returns rows put out. */
extern uint64 sckpt_task_run_linear(SckptTask *task, SckptBatch *batch);
extern void sckpt_task_drop_pending(SckptTask *task);
extern uint64 sckpt_task_scan(SckptTask *task, SckptBatch *batch, SckptScan *scan);

#endif							/* SCKPT_TASK_H */
