/*-------------------------------------------------------------------------
 *
 * catalog.h
 *		The extension's own tables, read and written through SPI as the
 *		extension's owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_CATALOG_H
#define SCKPT_CATALOG_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

/* How far a pipeline has come with a stream that it reads; as of its last checkpoint, or, in a task, now. */
typedef struct SckptInflow
{
	Oid			stream;
	bool		event_time;		/* it declares one: it counts in the watermark of the whole.  Set in a task only */
	bool		idle;			/* a heartbeat has come since its last row: it does not hold the others up */
	bool		managed;		/* pipelines write it: its rows do not move the watermark (semantics.md 19) */
	TimestampTz watermark;		/* DT_NOBEGIN: none yet */
	XLogRecPtr	rows_lsn;		/* commit record of the last transaction with rows of it */
} SckptInflow;

/* Places in the log, in no order. */
typedef struct SckptLsns
{
	XLogRecPtr *list;
	int			n;
	int			max;
} SckptLsns;

/* A row of stream_ckpt.pipeline_def joined with its position. */
typedef struct SckptPipeline
{
	int64		id;
	char	   *name;
	Oid			owner;
	Oid			result;
	bool		result_owned;	/* the result table was made by create_pipeline() */
	char	   *query;
	List	   *streams;		/* oids, each once */
	SckptInflow *inflows;		/* of each, in their order */
	List	   *columns;		/* attribute numbers of the stream that the query uses; 0: the whole row */
	char	   *search_path;
	char	   *timezone;
	char	   *datestyle;
	char	   *intervalstyle;
	char	   *text_search_config;
	bool		final;			/* emit => 'final' */
	bool		keep_dead;		/* on_error => 'dead_letter' */
	int64		lateness;		/* allowed_lateness, µs */
	int64		ttl;			/* state_ttl, µs; 0: none */
	int64		stored_lateness;	/* the same of what is stored: other than those only while the pipeline is being altered */
	int64		stored_ttl;
	TimestampTz closed_until;	/* windows that end up to here are closed for good, whatever the lateness; DT_NOBEGIN: none */
	int64		checkpoint_interval;	/* ms; -1: the setting */
	bool		paused;
	char	   *error;			/* of a pipeline that stopped on an error; NULL: it did not */
	TransactionId created_xid;
	XLogRecPtr	start;			/* insert position at create_pipeline() */
	int64		last_checkpoint;	/* 0: none yet */
	int64		next_checkpoint;	/* id of the next one */
	XLogRecPtr	position;		/* commits up to here (start of record) are in the last checkpoint */
	XLogRecPtr	restart;		/* where to start reading for the rest */
	int64		rows_in;
	int64		rows_out;
	int64		late_rows;
	int64		dead_letters;
	TimestampTz watermark;		/* of all streams together; DT_NOBEGIN: none */
	TimestampTz clock;			/* highest commit time read; DT_NOBEGIN: none */
	int64		version;		/* raised by whoever changes definition or stored state: a task made of another one stores nothing */
	int			retained_checkpoints;	/* 0: the setting */
	SckptLsns	held;			/* from where on retained checkpoints and savepoints need the log, besides `restart` */
	bool		at_home;		/* false: it comes from another database, and its positions mean nothing here */
	bool		arriving;		/* it came from another database, and may not be complete yet (adopt.h) */
	int			chunks;			/* how many the last checkpoint consists of */
	int			parallelism;	/* as asked for */
	bool		stateful;		/* its query had stages with state when it was created, or changed: views may have changed since */
	int			layout;			/* how these are spread over tasks: sckpt_task_layout(); 0: not known */
} SckptPipeline;

/* The extension's version that this library goes with: default_version in stream_ckpt.control. */
#define SCKPT_EXTENSION_VERSION "1.0"

/* Oid of the extension in this database, or InvalidOid; and of its owner (errors when absent). */
extern Oid	sckpt_catalog_extension(void);
extern Oid	sckpt_catalog_owner(void);
/*
 * Lock the extension against DROP and UPDATE until the transaction ends; false when it does not exist.  With another version than
 * the library's, sessions get an error, and workers end.
 */
extern bool sckpt_catalog_lock_extension(void);
/* An error if the extension is there with another version. */
extern void sckpt_catalog_require_version(void);
/* Oid of the foreign server stream_ckpt that belongs to the extension, or InvalidOid. */
extern Oid	sckpt_catalog_server(void);

/* Is this relation a stream (a foreign table of that server)? */
extern bool sckpt_catalog_is_stream(Oid relid);
extern bool sckpt_catalog_has_streams(void);

/* Become the extension's owner for a statement of our own; and back. */
typedef struct SckptUser
{
	Oid			user;
	int			sec_context;
	int			guc_level;
} SckptUser;
extern void sckpt_catalog_enter(SckptUser *saved);
extern void sckpt_catalog_leave(SckptUser *saved);

/* In the memory context that the list is in, or, of an empty one, the current one. */
extern void sckpt_catalog_add_lsn(SckptLsns *lsns, XLogRecPtr lsn);

/* In the current memory context.  The list ones: all pipelines, ordered by id. */
extern List *sckpt_catalog_pipelines(void);
extern SckptPipeline *sckpt_catalog_pipeline(const char *name, bool missing_ok);	/* 42704 */
/* The same as it was at a retained checkpoint; NULL if that is not retained. */
extern SckptPipeline *sckpt_catalog_pipeline_at(int64 id, int64 checkpoint);
extern List *sckpt_catalog_pipelines_of(Oid relid, bool as_stream, bool as_result);
/*
 * Lock a pipeline's definition, if it is this version of it (-1: any), against being dropped, until the transaction ends; false, without waiting, when somebody is just dropping it.  Whoever
 * writes more than one row of a pipeline takes this lock first, as sckpt_catalog_forget() does: so they cannot deadlock.
 */
extern bool sckpt_catalog_hold(int64 id, int64 version);
/* REASSIGN OWNED: pipelines of these roles get another owner. */
extern void sckpt_catalog_reassign(List *roles, Oid owner);
/* Delete everything stored about a pipeline (not its result table), and wake the worker at commit.  False: somebody else has. */
extern bool sckpt_catalog_forget(int64 id);

#endif							/* SCKPT_CATALOG_H */
