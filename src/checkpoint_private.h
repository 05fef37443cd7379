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
#include "parcel.h"

/* What becomes of an entry's result when the attempt commits. */
#define SCKPT_OUTCOME_EMITTED	0x01	/* its row is in the sink */
#define SCKPT_OUTCOME_PUT		0x02	/* by this attempt */
#define SCKPT_OUTCOME_DELETED	0x04	/* this attempt has deleted the row that was there */

typedef struct SckptOutcome SckptOutcome;
struct SckptOutcome
{
	ItemPointerData tid;
	uint8		flags;
	uint32		change;			/* of a task's parcel: 1 + the number of the change that puts its row; 0: none does */
};

/* What the attempt does with a store's changed entries.  Whatever is not skipped is written. */
typedef struct SckptSnapshot
{
	SckptRef   *refs;			/* what has changed, in the order in which it is written */
	uint64		count;
	bool		detached;		/* from the store's dirty list (part.h): it may change and leave again */
	uint8	   *skipped;		/* a bit for each; NULL: none is skipped */
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
	SckptOutcome *outcomes;		/* of the store whose results go to a sink, for each of its refs; NULL: none do */
	uint64		rows;			/* checkpointed */
	uint64		bytes;
	uint64		rows_out;
	uint64		rows_deleted;	/* of these, from a result without keys */
	uint64		rows_put;		/* of these, new ones of a bag of a grouped query */
	int			ndead;			/* dead letters that there were before */
	bool		undefined;		/* an error now leaves the state undefined */
	SckptParcel *parcel;		/* of a task beside a head: what it hands over; NULL: everything is written at once */
	uint32		nchanges;		/* of result rows in there */
	struct SckptRetaining *retaining;	/* retain.c; NULL: nothing to do with it */
};

typedef enum SckptStatement
{
	SCKPT_STATEMENT_TRIGGER,
	SCKPT_STATEMENT_TRIGGER_TASK,
	SCKPT_STATEMENT_HOLD,
	SCKPT_STATEMENT_CHUNK,
	SCKPT_STATEMENT_CHUNK_DELETE,
	SCKPT_STATEMENT_CHUNK_DELETE_OLD,
	SCKPT_STATEMENT_CHUNK_END,
	SCKPT_STATEMENT_CHUNK_END_OLD,
	SCKPT_STATEMENT_DEAD_LETTER,
	SCKPT_STATEMENT_POSITION,
	SCKPT_STATEMENT_COMPLETE,
	SCKPT_STATEMENT_COMPLETE_TASK,
	SCKPT_STATEMENT_PRUNE,
	SCKPT_STATEMENT_PRUNE_TASK,
	SCKPT_STATEMENT_REPLAYED,
	SCKPT_STATEMENT_COUNT
} SckptStatement;

/*
 * checkpoint.c, for a head, whose checkpoint is not taken in one go: trigger it, if it can be had; and, after its tasks have handed
 * over, start its transaction, or say that it has to wait.
 */
extern bool sckpt_checkpoint_trigger(SckptTask *task);
extern bool sckpt_checkpoint_resume(SckptTask *task);

/* Run one; the caller has entered the catalog.  `nulls` as SPI wants it; NULL: no argument is.  Returns the number of rows. */
extern uint64 sckpt_checkpoint_execute(SckptStatement statement, Datum *values, const char *nulls);

/*
 * snapshot.c: as the owner, results to the sink and changed entries into chunks; and, after the commit, what that means for the
 * state in memory.
 */
extern void sckpt_snapshot_take(SckptTask *task);
extern void sckpt_snapshot_switch(SckptTask *task);
/*
 * Of a task that goes on before the commit: once everything is in its parcel, take what is changed off the dirty lists; and when it is known what became of
 * the checkpoint, given what became of the changes of result rows, switch, or take it back.  Never fail.
 */
extern void sckpt_snapshot_detach(SckptTask *task);
extern void sckpt_snapshot_settle(SckptTask *task, bool committed, const SckptOutcome *changes);

/* chunk.c: a chunk is begun, filled with entries, and written. */
extern void sckpt_chunk_begin(SckptTask *task, SckptStore *store, StringInfo buf);
extern void sckpt_chunk_write(SckptTask *task, SckptStore *store, StringInfo buf, uint32 entries, uint32 gone);
/* Delete those none of whose entries counts after this checkpoint; the caller has entered the catalog. */
extern void sckpt_chunk_delete_empty(SckptTask *task);
/* Into and out of the table; the caller has entered the catalog. */
extern void sckpt_chunk_insert(SckptTask *task, int number, int stage, int64 id, uint32 entries, const char *payload, Size bytes);
extern void sckpt_chunk_delete(SckptTask *task, int number, int stage, Datum *ids, int nids);
/* All chunks of earlier checkpoints count for nothing from this one on; the same. */
extern void sckpt_chunk_end_old(SckptTask *task);
/* How many chunks there are, when the attempt has written and deleted its own. */
extern int	sckpt_chunk_count(SckptTask *task);
/* After the commit: forget what was deleted, and what has left the others. */
extern void sckpt_chunk_switch(SckptStore *store);
/* After that: `written` counts for nothing any more; mark entries that are to leave chunks with mostly stale ones. */
extern void sckpt_chunk_clean(SckptTask *task, SckptStore *store);
/* The attempt is off. */
extern void sckpt_chunk_reset(SckptTask *task);

#endif							/* SCKPT_CHECKPOINT_PRIVATE_H */
