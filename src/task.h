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
 * With on_error => 'dead_letter' a data error leads to RESTARTING, and is looked for carefully then (careful.h).  With 'stop' too,
 * and to FAILED when its row is found (halt.h).
 *
 * Whatever leaves RUNNING throws the state away: the last completed checkpoint and the log have it all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_TASK_H
#define SCKPT_TASK_H

#include "batch.h"
#include "catalog.h"
#include "expand.h"
#include "operator.h"
#include "query.h"
#include "shared.h"
#include "stage.h"

/* What dead letters say of a row whose window was closed when it came. */
#define SCKPT_ERRCODE_LATE_ROW MAKE_SQLSTATE('S', 'C', '0', '0', '1')

/* A chunk of the last completed checkpoint. */
typedef struct SckptChunk
{
	int64		id;				/* 0: free place */
	uint32		entries;
	uint32		live;			/* entries whose last version is here */
	uint32		gone;			/* tombstones */
	uint32		leaving;		/* of these, how many the checkpoint being taken writes anew, or removes */
} SckptChunk;

/* A state store of one of the task's operators, and what of it is in the tables. */
typedef struct SckptStore
{
	int			stage;			/* chunk.stage: 2 * operator, + 1 for its elements */
	int			operator;
	bool		elements;
	SckptChunk *chunks;			/* entry->chunk is 1 + an index here */
	int			nchunks;
	int			maxchunks;
	int64		next_chunk;
	uint64		stored_entries; /* in all chunks */
	/* of the checkpoint being taken: entries of each chunk that it has written */
	uint32	   *written;
	uint32	   *written_gone;	/* of these, tombstones */
	int			nwritten;
	int			maxwritten;
} SckptStore;

/* SQL that feeds one of the operators, of a query with joins. */
typedef struct SckptSource
{
	SckptStage	stage;
	SckptQuery *query;			/* whose source it is */
	SckptQuery *target;			/* which stage takes its rows */
	int			side;
	List	   *others;			/* of its streams, those whose rows another source counts */
	struct SckptRoute *route;	/* NULL: all rows are the task's own */
	/* where that stage is in the head: the rows until they are handed over */
	struct SckptFeed *feed;
	struct SckptChanges *rows;
} SckptSource;

/* A batch that a linear query will run over at its next checkpoint. */
typedef struct SckptPending
{
	SckptBatch *batch;
	SckptTimes *before;			/* by segment; NULL: the query has no windows */
	SckptTimes *after;
} SckptPending;

typedef struct SckptAttempt SckptAttempt;	/* checkpoint_private.h */

typedef struct SckptHead SckptHead; /* head.c */

typedef struct SckptTask
{
	MemoryContext context;		/* everything here, for as long as the pipeline exists unchanged */
	SckptPipeline *def;
	SckptStatus status;
	TimestampTz retry_at;		/* of a RESTARTING or memory-starved one */
	int			backoff;		/* ms, the last one used */
	bool		starved;		/* ran out of state memory; shown as FAILED until a checkpoint shows that it has enough */
	int64		restarts;		/* that are not in the tables yet: they get there with the next restore */
	TimestampTz known_since;
	bool		offline;		/* in a session (offline.h), not in a worker */
	bool		seen;			/* while pipelines are being compared with the catalog */
	char		error[SCKPT_ERROR_BYTES];
	char		cause[SCKPT_ERROR_BYTES];	/* of the next restore */

	/*
	 * A parallel pipeline is a head and several tasks (part.h), one whose checkpoints another process writes is a head and one task; else all
	 * is in one SckptTask.
	 */
	bool		split;			/* another process writes checkpoints, if there is state: all of it is task 0's, if it cannot be spread */
	int			number;			/* of a task beside a head; -1: it is none */
	uint64		epoch;			/* the one it runs in; 0: none */
	int64		handed_over;	/* the last checkpoint whose barrier it has reached */
	TimestampTz told_at;		/* when its head was last woken for its progress */
	int			ntasks;			/* of the pipeline; while RUNNING */
	bool		leads;			/* it is a head, that is; */
	SckptHead  *head;			/* NULL: not, or not yet */

	/* see careful.h */
	bool		careful;
	XLogRecPtr	careful_lsn;	/* until a checkpoint is here, */
	TimestampTz careful_until;	/* and this time has come */
	uint64		careful_rows;	/* tried at a time, at most */

	/* see halt.h */
	bool		halting;		/* the row that raises a data error is being looked for */
	bool		halt_found;		/* by the work at hand */
	int			halt_finds;		/* how many were */
	XLogRecPtr	halt_seen;		/* the error came before this was taken in */
	XLogRecPtr	halt_before;	/* commit of the row's transaction; invalid: not found yet */
	bool		halted;			/* it stands there */
	int			halt_code;
	char	   *halt_message;
	char	   *halt_detail;

	/* while RUNNING */
	MemoryContext run_context;
	SckptQuery *query;
	SckptStage	stage;
	bool		results;		/* the last stage is here: its last operator's results go to the sink */
	bool		laid_out_anew;	/* all of its state has to be stored anew, in place of what there is */
	struct SckptRoute *route;	/* of `stage`; NULL: all rows are its own */
	MemoryContext handing_context;	/* reset with each row handed over */
	int			noperators;		/* 0: the query is linear */
	SckptOperator *operators[SCKPT_MAX_STAGES];	/* in the order of the stages; the last one's results go to the sink */
	SckptStore	stores[2 * SCKPT_MAX_STAGES];
	int			nstores;
	SckptQuery *queries[SCKPT_MAX_STAGES];	/* of each operator */
	SckptSource sources[2 * SCKPT_MAX_STAGES];
	int			nsources;		/* 0: `stage` feeds the first operator */
	SckptExpander *expander;	/* of a linear query with windows */
	SckptQuery *last;			/* the last stage's */
	AttrNumber *key_columns;	/* of the result relation; nkeys of the last stage */
	AttrNumber *result_columns; /* attribute of the result relation for each column of the query */
	XLogRecPtr	fed;			/* commits up to here are in the state, or pending */
	XLogRecPtr	feeding;		/* last commit of the batch at hand */
	XLogRecPtr	read_lsn;		/* the log before this has been read for it */
	List	   *sinks;			/* streams that its results go to, as of sinks_at */
	bool		sinks_change;	/* through a view or partitions, which may change */
	TimestampTz sinks_at;
	uint64		sinks_generation;
	bool		held;			/* in no lane, with its state: who reads the stream that it writes is too far behind (lag.h) */
	TimestampTz fed_time;		/* commit time of the last transaction taken in; or later, if there was none up to then */
	XLogRecPtr	known_visible;	/* of the lane that feeds it */
	SckptTimes	before;			/* before the transaction at hand, whose commit record is at times_lsn */
	SckptTimes	times;			/* with it: at a boundary, what counts from now on */
	XLogRecPtr	times_lsn;
	int			ninflows;
	SckptInflow *inflows;		/* of each of its streams, with what came so far; in the order of def->streams */
	int64		late_rows;		/* as of the state */
	uint64	   *late;			/* places of late rows of the run at hand: segment << 32 | row */
	uint64		nlate;
	uint64		maxlate;
	List	   *dead;			/* SckptDeadLetter, for the next checkpoint */
	MemoryContext dead_context;
	Size		dead_bytes;
	int64		dead_letters;	/* as of the last checkpoint */
	int64		output_delay;	/* how far what it writes into a stream can be behind its watermark; -1: no stream, or any distance */
	XLogRecPtr	noted_redo;		/* start of the server's checkpoint since which the log has a note on it (note.h) */
	bool		unsent;			/* the last checkpoint could not send it */
	TimestampTz next_output;	/* of the checkpoint being taken: what output_watermark will be */
	TimestampTz output_watermark;	/* of the result, where that is a stream, as of the last checkpoint; DT_NOBEGIN: none */
	List	   *pending;		/* SckptPending */
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
	char		savepoint[SCKPT_LABEL_BYTES];	/* the next checkpoint is this savepoint; empty: it is none */
	SckptAttempt *attempt;		/* the checkpoint being taken; there, when none is, too */
	char		waiting[SCKPT_ERROR_BYTES]; /* what the next checkpoint waits for; empty: nothing */
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
/* Make the pipeline's shared entry this worker's, unless it is another one's: false. */
extern bool sckpt_task_claim(SckptTask *task);
/* Bring it up to date, if it is ours. */
extern void sckpt_task_publish(SckptTask *task, XLogRecPtr covered);
/* Run a linear query over a batch inside the transaction at hand; returns rows put out. */
extern uint64 sckpt_task_run_linear(SckptTask *task, SckptPending *pending);
extern void sckpt_task_drop_pending(SckptTask *task);
/*
 * Run each source of a query with joins over what a scan wants of their streams, and hand on what comes of that; the scan is told how many rows were the
 * task's.  Its route, after an error: of the source that raised it.
 */
extern void sckpt_task_feed_sources(SckptTask *task, SckptScan *scan, const SckptInput *input);
/* An operator, a join, has made many rows of those of a batch so far: they go to the stage above.  Of SckptOperator's type; the argument is the task. */
extern void sckpt_task_relieve(void *task, SckptOperator *operator);
/* From an operator whose rows do not wait for barriers, and on to those above. */
extern void sckpt_task_pass_on(SckptTask *task, int number);
/* What the task wants of a batch; returns the number of rows. */
extern uint64 sckpt_task_scan(SckptTask *task, SckptBatch *batch, SckptScan *scan);
/*
 * Follow the watermark through a batch, all of whose segments come after what was followed before, but may go on with the same
 * transaction.  Fills in the times by segment, palloc'd in the current context, for queries that need them; else *before is NULL.
 */
extern void sckpt_task_follow(SckptTask *task, SckptBatch *batch, SckptTimes **before, SckptTimes **after);
/*
 * The same for one record of a stream: the watermark it carries, or DT_NOBEGIN; flags as in record.h; of a heartbeat, up to where its writer had
 * seen the log; does it have rows?
 */
extern void sckpt_task_advance(SckptTask *task, Oid stream, XLogRecPtr commit_lsn, TimestampTz commit_time, TimestampTz watermark,
							   uint8 flags, XLogRecPtr seen, bool rows);
/* What the task has of one of its streams; NULL: it does not read that. */
extern SckptInflow *sckpt_task_inflow(SckptTask *task, Oid stream);
/* Before a linear query is run over its pending batches: forget what an earlier attempt has counted. */
extern void sckpt_task_begin_linear(SckptTask *task);
/* The watermark at which something of the task closes next, beyond what its next checkpoint closes; DT_NOEND: nothing. */
extern TimestampTz sckpt_task_next_close(SckptTask *task);
/* Entries and bytes of all its stores. */
extern void sckpt_task_state_size(SckptTask *task, uint64 *rows, Size *bytes);
/* The operator whose results go to the sink; NULL for a linear query. */
static inline SckptOperator *
sckpt_task_last(SckptTask *task)
{
	return task->noperators == 0 ? NULL : task->operators[task->noperators - 1];
}
/* Do an operator's rows go on to a stage that is here without waiting for a barrier? */
static inline bool
sckpt_task_passes_on(SckptTask *task, int number)
{
	SckptQuery *query = task->queries[number];

	return query->join && !query->join->settled && query->target && query->target->number >= 0;
}
/* Put an operator in its place, and the accounts of its stores' chunks with it. */
extern void sckpt_task_set_operator(SckptTask *task, int number, SckptOperator *operator);
/*
 * At a barrier, before its checkpoint: hand net changes on from stage to stage, in a transaction of its own.  Throws; what is in memory is
 * undefined then.
 */
extern void sckpt_task_propagate(SckptTask *task);
/* The same within the transaction at hand; a task beside a head hands on to the head, too, if that has the next stage. */
extern void sckpt_task_hand_on(SckptTask *task);
/* How its chunks are spread over tasks, and of which stages: pipeline_position.layout. */
extern int	sckpt_task_layout(SckptTask *task);
/* What a checkpoint has been asked to cover, and none does yet; Invalid: nothing. */
extern XLogRecPtr sckpt_task_requested(SckptTask *task);

#endif							/* SCKPT_TASK_H */
