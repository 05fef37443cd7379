/*-------------------------------------------------------------------------
 *
 * operator.h
 *		What a stateful operator is to the rest: it takes weighted rows, keeps a
 *		state store, and at a barrier gives its changed entries as bytes and
 *		as rows of its result.
 *
 * Every callback that can reach a user's code is called as the pipeline's owner, inside a transaction
 * with an active snapshot.  An ERROR in any of them but pack, flush and result leaves the state undefined: the task restores it
 * from its last checkpoint.  Those three change nothing that a later attempt would see.
 *
 * Leaving.  An entry whose windows have closed, that has been merged into another one, or has not been touched for state_ttl is
 * marked SCKPT_ENTRY_LEAVING and put on the dirty list.  The next checkpoint writes its last result, or deletes its result
 * row (SCKPT_ENTRY_RETRACT), does not pack it, and removes it after the commit.  No trace of it is stored: what older chunks
 * have of it is recognized by its times when it is restored.  Where there are no such times (all its rows were taken back), it
 * is SCKPT_ENTRY_GONE, too: then it is packed once more, as a tombstone, which counts for as long as there are older chunks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_OPERATOR_H
#define SCKPT_OPERATOR_H

#include "common/int.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"

#include "state.h"

/* Times of the stream, and of the commits, at a transaction boundary.  A watermark of a timestamp without zone is as of UTC. */
typedef struct SckptTimes
{
	TimestampTz watermark;		/* DT_NOBEGIN: none yet */
	TimestampTz clock;			/* what state_ttl is measured by: the watermark; without one, the highest commit time */
} SckptTimes;

/* Sums of times, which may be infinite, and distances. */
static inline int64
add_time(int64 time, int64 distance)
{
	int64		sum;

	if (TIMESTAMP_NOT_FINITE(time))
		return time;
	if (pg_add_s64_overflow(time, distance, &sum))
		return distance > 0 ? PG_INT64_MAX : PG_INT64_MIN;
	return sum;
}

/*
 * By what the rows of a run are judged: the ctid of a row (query->row) names the segment that it came from, and its number there.
 */
typedef struct SckptInput
{
	const SckptTimes *before;	/* by segment: before its transaction */
	const SckptTimes *after;	/* by segment: with it */
	/* A row came too late for a window, at least; may be told more than once. */
	void		(*late) (void *arg, uint32 segment, uint32 row);
	void	   *arg;
} SckptInput;

typedef struct SckptOperator SckptOperator;

/* Room for rows of a run that wait to be taken: the columns of row i begin at i * ncolumns. */
typedef struct SckptRoom
{
	int			ncolumns;
	int			nrows;			/* that are there */
	int			capacity;
	Datum	   *values;			/* by reference: into the batch, so that they outlive the run */
	bool	   *nulls;
} SckptRoom;

typedef bool (*SckptPutAbove) (void *arg, TupleTableSlot *row, int32 weight);
typedef void (*SckptBadResult) (void *arg, SckptRef ref, ErrorData *error);

struct SckptOperator
{
	const char *name;			/* as explain_pipeline() shows it */
	SckptState *state;			/* of the entries that have results */
	SckptState *elements;		/* a second store, of what belongs to those; NULL: none */
	SckptState *directory;		/* a third one, which leads to entries and is never checkpointed: its memory counts; NULL: none */
	/*
	 * What it hands on, where that does not wait for barriers: it is taken after each batch.  Of the last operator it goes to the sink, and its entries have no
	 * results of their own.  NULL: it hands on at barriers.
	 */
	struct SckptChanges *changes;
	/* There are many of them: somebody may take them before the batch is through.  NULL: nobody does. */
	void		(*relieve) (void *arg, SckptOperator *operator);
	void	   *relieve_arg;
	/* While a batch is read, where nothing is tried: who consumes what it hands on, at once, which is never taken back.  NULL: it goes to `changes`. */
	SckptOperator *forward;
	int			side;			/* of a join: which one the rows are of; set before begin_rows */
	bool		last;			/* and, of rows from a stage below, that no stage gives it any more at this barrier; likewise */

	/* Before a run; NULL: rows come from the stage below, at a barrier with these times. */
	void		(*begin_rows) (SckptOperator *operator, const SckptInput *input, const SckptTimes *times);
	/* A row of the stage's input, of the source's row type, with its weight. */
	void		(*consume) (SckptOperator *operator, TupleTableSlot *slot, int32 weight);
	/*
	 * Room for rows of weight 1 of this run: whoever has them puts them there instead of calling consume for each, and calls take when there is no more. NULL,
	 * or an answer of NULL: there is none.
	 */
	SckptRoom  *(*room) (SckptOperator *operator);
	void		(*take) (SckptOperator *operator);
	/* After the last row of a run, while the rows are still there: also takes those that are in the room. */
	void		(*end_rows) (SckptOperator *operator);
	/* After each batch: keep process memory within bounds. */
	void		(*end_batch) (SckptOperator *operator);
	/*
	 * After each batch, when all inputs have had it: what has become due, is of no use to any row that is yet to come, has no result and is in no
	 * checkpoint may go at once, instead of being kept until the barrier.  NULL: nothing is so.
	 */
	void		(*shed) (SckptOperator *operator, const SckptTimes *times);
	/*
	 * At a barrier, when all inputs have given what they have: rows that have waited for that are taken in.  An error starts the task over. NULL: none wait.
	 */
	void		(*settle) (SckptOperator *operator, const SckptTimes *times);
	/*
	 * From here on note what rows change; `undo` takes that back, after an error in consume too, and notes anew.  Undone values are the
	 * same, but their entries may be dirty.  False: it cannot, and the state is undefined; rows of one transaction can always be undone.
	 */
	void		(*begin_undo) (SckptOperator *operator);
	bool		(*undo) (SckptOperator *operator);
	void		(*end_undo) (SckptOperator *operator);
	/* Before the first row ever: entries that exist over no input, such as the one group of an ungrouped aggregate. */
	void		(*start) (SckptOperator *operator);

	/*
	 * At a barrier, before results are asked for: mark what is due as LEAVING.  Returns the entries that have closed
	 * (not those forgotten or merged), in the order of their closing, palloc'd, those of a failed attempt included.
	 */
	SckptRef   *(*close) (SckptOperator *operator, const SckptTimes *times, uint64 *count);
	/* The watermark at which something closes next; DT_NOEND: nothing would. */
	TimestampTz (*next_close) (SckptOperator *operator);
	/* Remove an entry with all that belongs to it, or an element.  Never fails. */
	void		(*remove) (SckptOperator *operator, bool elements, SckptRef ref);

	/*
	 * Portable form.  Entries of both stores; `elements` says of which.
	 */
	/* What the entries of its chunks consist of, in words. */
	void		(*describe) (SckptOperator *operator, bool elements, StringInfo buf);
	/*
	 * Before the entries of a chunk are read: get ready for entries that consist of what its description says.  `same`: the query has
	 * not been changed since; else values are found by what they are, those that the query has no more are skipped, and those that it
	 * has now are as in a new entry.  False: such entries cannot be read.
	 */
	bool		(*adapt) (SckptOperator *operator, bool elements, const char *description, bool same);
	/* Bring values kept in process memory into the store. */
	void		(*flush) (SckptOperator *operator);
	/* Append an entry in portable form; false: it is not to be stored (what it belongs to is leaving). */
	bool		(*pack) (SckptOperator *operator, bool elements, SckptEntry *entry, StringInfo buf);
	/* Around reading back a store, entries first, then elements; times as of the checkpoint. */
	void		(*begin_unpack) (SckptOperator *operator, bool elements, const SckptTimes *times);
	/*
	 * Read one back, unless an entry with its key exists, or it is closed or forgotten at those times: then SCKPT_NO_REF. `emitted`:
	 * its result row is in the sink.
	 */
	SckptRef	(*unpack) (SckptOperator *operator, bool elements, bool emitted, const char **cursor, const char *end);
	void		(*end_unpack) (SckptOperator *operator, bool elements);

	/* The entry with this key, of the operator's key types; SCKPT_NO_REF if there is none. */
	SckptRef	(*find) (SckptOperator *operator, Datum *values, bool *nulls);

	/* Around a series of results, in one transaction. */
	void		(*begin_results) (SckptOperator *operator);
	/*
	 * The result row of an entry, in a virtual slot valid until the next call; false when HAVING excludes it (the slot holds the
	 * row all the same, for its key).
	 */
	bool		(*result) (SckptOperator *operator, SckptRef ref, TupleTableSlot **slot);
	/*
	 * Is the key of the result row that the sink has of an entry not the one that `result` gives now (a session that has
	 * grown)?  Then that row's key columns are put into `slot`, of the result's row type, the others NULL.  NULL: it never is.
	 */
	bool		(*moved) (SckptOperator *operator, SckptEntry *entry, TupleTableSlot *slot);
	/* After the commit: the result row that `result` gave is in the sink.  NULL: nothing is to be kept of that. */
	void		(*emitted) (SckptOperator *operator, SckptEntry *entry);
	void		(*end_results) (SckptOperator *operator);
	/* An entry's key: as columns of a result row in `slot` (the others NULL), and as a jsonb object, of what has a name. */
	void		(*key_row) (SckptOperator *operator, SckptRef ref, TupleTableSlot *slot);
	/* Where an entry is, roughly, in the order of the result's key: for the sake of the key's index, never for the result's. NULL: who knows. */
	uint64		(*order) (SckptOperator *operator, SckptRef ref);
	Datum		(*key_json) (SckptOperator *operator, SckptRef ref);

	/*
	 * For the stage above, at a barrier: net changes since the last call.  Calls put(arg, row, weight) with rows of the result's
	 * type; `final`: rows of closing entries only, never taken back.  Entries that leave are removed at once.  put may refuse a row of
	 * weight 1 (false), which then counts as not handed on.  With `bad`, an entry whose result raises a data error has none, and bad(arg, …)
	 * is told; without, the error is thrown.
	 */
	void		(*hand_on) (SckptOperator *operator, const SckptTimes *times, bool final,
							SckptPutAbove put, SckptBadResult bad, void *arg);

	/* Of a stage that is spread over tasks: the hash by which an entry belongs to one (route.h). */
	uint32		(*route) (SckptOperator *operator, SckptRef ref);

	void		(*destroy) (SckptOperator *operator);

	/* Can another operator of the same query, fed with other rows, be added to this one?  And that: `source` is used up. */
	bool		(*mergeable) (SckptOperator *operator);
	void		(*merge) (SckptOperator *operator, SckptOperator *source);
};

#endif							/* SCKPT_OPERATOR_H */
