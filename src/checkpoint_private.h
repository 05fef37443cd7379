/*-------------------------------------------------------------------------
 *
 * checkpoint_private.h
 *		What checkpoint.c, snapshot.c and chunk.c share: the attempt being
 *		made, and the statements on our own tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_CHECKPOINT_PRIVATE_H
#define SCKPT_CHECKPOINT_PRIVATE_H

#include "lib/stringinfo.h"

#include "checkpoint.h"

/* What becomes of an entry's result when the attempt commits. */
#define SCKPT_OUTCOME_EMITTED	0x01	/* its row is in the sink */
#define SCKPT_OUTCOME_PUT		0x02	/* by this attempt */
#define SCKPT_OUTCOME_DELETED	0x04	/* this attempt has deleted the row that was there */

typedef struct SckptOutcome
{
	ItemPointerData tid;
	uint8		flags;
} SckptOutcome;

/* What the attempt does with a store's dirty entries.  Whatever is not skipped is written, in the order of the dirty list. */
typedef struct SckptSnapshot
{
	uint64		ndirty;
	uint8	   *skipped;		/* a bit for each, in the order of the list; NULL: none is skipped */
	SckptRef   *leaving;		/* to be removed after the commit */
	uint64		nleaving;
	uint64		maxleaving;
} SckptSnapshot;

/* The attempt being made, of a task. */
struct SckptAttempt
{
	int64		id;				/* 0: none */
	bool		committing;		/* it may have committed: only the tables know */
	MemoryContext context;
	TimestampTz triggered_at;
	TimestampTz packed_at;
	TimestampTz started_at;
	SckptSnapshot snapshots[2 * SCKPT_MAX_STAGES];	/* of task->stores */
	SckptOutcome *outcomes;		/* of the store whose results go to a sink, in the order of its dirty list; NULL: none do */
	uint64		rows;			/* checkpointed */
	uint64		bytes;
	uint64		rows_out;
	int			ndead;			/* dead letters that there were before */
};

typedef enum SckptStatement
{
	SCKPT_STATEMENT_TRIGGER,
	SCKPT_STATEMENT_TRIGGER_TASK,
	SCKPT_STATEMENT_HOLD,
	SCKPT_STATEMENT_CHUNK,
	SCKPT_STATEMENT_CHUNK_DELETE,
	SCKPT_STATEMENT_DEAD_LETTER,
	SCKPT_STATEMENT_POSITION,
	SCKPT_STATEMENT_COMPLETE,
	SCKPT_STATEMENT_COMPLETE_TASK,
	SCKPT_STATEMENT_PRUNE,
	SCKPT_STATEMENT_PRUNE_TASK,
	SCKPT_STATEMENT_REPLAYED,
	SCKPT_STATEMENT_COUNT
} SckptStatement;

/* Run one; the caller has entered the catalog.  `nulls` as SPI wants it; NULL: no argument is.  Returns the number of rows. */
extern uint64 sckpt_checkpoint_execute(SckptStatement statement, Datum *values, const char *nulls);

/*
 * snapshot.c: as the owner, results to the sink and changed entries into chunks; and, after the commit, what that means for the
 * state in memory.
 */
extern void sckpt_snapshot_take(SckptTask *task);
extern void sckpt_snapshot_switch(SckptTask *task);

/* chunk.c: a chunk is begun, filled with entries, and written. */
extern void sckpt_chunk_begin(SckptTask *task, SckptStore *store, StringInfo buf);
extern void sckpt_chunk_write(SckptTask *task, SckptStore *store, StringInfo buf, uint32 entries, uint32 gone);
/* Delete those none of whose entries counts after this checkpoint; the caller has entered the catalog. */
extern void sckpt_chunk_delete_empty(SckptTask *task);
/* How many chunks there are, when the attempt has written and deleted its own. */
extern int	sckpt_chunk_count(SckptTask *task);
/* After the commit: forget what was deleted, and what has left the others. */
extern void sckpt_chunk_switch(SckptStore *store);
/* After that: `written` counts for nothing any more; mark entries that are to leave chunks with mostly stale ones. */
extern void sckpt_chunk_clean(SckptTask *task, SckptStore *store);
/* The attempt is off. */
extern void sckpt_chunk_reset(SckptTask *task);

#endif							/* SCKPT_CHECKPOINT_PRIVATE_H */
