/*-------------------------------------------------------------------------
 *
 * careful_results.c
 *		Careful work at a checkpoint: results that raise data errors.
 *
 * A result that cannot be computed belongs to its group: what the sink has of it is withdrawn, and the key is buried.  A result
 * row that the sink refuses (a constraint, a trigger) is found by spans, each with the sink opened and closed in its subtransaction, and buried
 * too, with the row before it withdrawn.  A row that cannot be withdrawn stops the pipeline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "careful.h"
#include "checkpoint_private.h"
#include "dead.h"
#include "part.h"
#include "result.h"
#include "retain.h"
#include "sink.h"

/* Rows for the sink collected at a time. */
#define CHANGE_ROWS 1000

/* A row to be put or deleted. */
typedef struct Change
{
	ItemPointerData hint;		/* where the row is, maybe */
	bool		there;			/* it is in the sink */
	SckptOutcome *outcome;		/* NULL: it is appended */
	bool		remove;
	TransactionId removed;		/* as what the row had been written that was deleted */
	MinimalTuple row;			/* of the query's row type */
} Change;

typedef struct Changes
{
	SckptTask  *task;
	MemoryContext context;		/* reset when the changes are done */
	TupleTableSlot *slot;
	Change		list[CHANGE_ROWS];
	int			n;
	/* the span at hand */
	uint64		first;
	uint64		end;
} Changes;

static void
begin_changes(Changes *changes, SckptTask *task)
{
	changes->task = task;
	changes->context = AllocSetContextCreate(task->attempt->context, "stream_ckpt careful results", ALLOCSET_DEFAULT_SIZES);
	changes->slot = MakeSingleTupleTableSlot(task->last->result, &TTSOpsMinimalTuple);
	changes->n = 0;
}

static void
end_changes(Changes *changes)
{
	ExecDropSingleTupleTableSlot(changes->slot);
	MemoryContextDelete(changes->context);
}

/* ---- Into the sink ---- */

static void
make_change(Changes *changes, SckptSink *sink, Change *change)
{
	SckptTask  *task = changes->task;
	SckptOutcome *outcome = change->outcome;
	TupleTableSlot *target = sckpt_sink_slot(sink);
	bool		deleted = (outcome->flags & SCKPT_OUTCOME_DELETED) != 0;
	ItemPointerData hint = change->hint;

	ExecStoreMinimalTuple(change->row, changes->slot, false);
	slot_getallattrs(changes->slot);
	sckpt_retain_touch(task, changes->slot);
	sckpt_result_fill(task, target, changes->slot);
	if (change->remove)
	{
		change->removed = sckpt_sink_delete(sink, &hint);
		outcome->flags |= SCKPT_OUTCOME_DELETED;
		return;
	}
	if (deleted)
		ItemPointerSetInvalid(&hint);
	ItemPointerSetInvalid(&outcome->tid);
	outcome->flags |= SCKPT_OUTCOME_EMITTED | SCKPT_OUTCOME_PUT;
	sckpt_sink_put(sink, &hint, (change->there && !deleted) || !task->def->result_owned, &outcome->tid);
}

static void
take_changes(void *arg, uint64 first, uint64 end)
{
	Changes    *changes = arg;
	SckptTask  *task = changes->task;
	SckptSink  *sink;

	changes->first = first;
	changes->end = end;
	sink = sckpt_sink_open(task->def->result, task->last->nsink, task->key_columns, !task->def->result_owned);
	sckpt_sink_set_columns(sink, task->last->result->natts, task->result_columns);
	for (uint64 i = first; i < end; i++)
		make_change(changes, sink, &changes->list[i]);
	sckpt_sink_close(sink);
	task->attempt->rows_out += end - first;
}

static void
undo_changes(void *arg, ErrorData *error)
{
	Changes    *changes = arg;

	for (uint64 i = changes->first; i < changes->end; i++)
	{
		Change	   *change = &changes->list[i];

		change->removed = InvalidTransactionId;
		if (change->remove)
			change->outcome->flags &= ~SCKPT_OUTCOME_DELETED;
		else
			change->outcome->flags &= ~(SCKPT_OUTCOME_EMITTED | SCKPT_OUTCOME_PUT);
	}
}

static void
bury_row(Changes *changes, Change *change, ErrorData *error)
{
	ExecStoreMinimalTuple(change->row, changes->slot, false);
	sckpt_dead_add_result(changes->task, changes->task->last->place + 2, changes->slot, error);
	ExecClearTuple(changes->slot);
}

static void
take_removal(void *arg)
{
	Changes    *changes = arg;

	take_changes(changes, changes->first, changes->end);
}

static void
reject_change(void *arg, uint64 at, ErrorData *error)
{
	Changes    *changes = arg;
	Change	   *change = &changes->list[at];

	if (change->remove)
		ReThrowError(error);
	bury_row(changes, change, error);

	/* What is there is not the group's result any more. */
	if (change->there && !(change->outcome->flags & SCKPT_OUTCOME_DELETED))
	{
		ErrorData  *again;

		change->remove = true;
		changes->first = at;
		changes->end = at + 1;
		again = sckpt_careful_try(take_removal, changes);
		if (again)
			ReThrowError(again);
	}
}

/* Work off the list. */
static void
run_changes(Changes *changes, SckptSpans *spans)
{
	MemoryContext old = MemoryContextSwitchTo(changes->context);

	sckpt_careful_run(spans, changes->n);
	for (int i = 0; i < changes->n; i++)
	{
		Change	   *change = &changes->list[i];

		changes->task->attempt->rows_put += !change->remove && !change->there;
		if (!TransactionIdIsValid(change->removed))
			continue;
		ExecStoreMinimalTuple(change->row, changes->slot, false);
		slot_getallattrs(changes->slot);
		sckpt_retain_touch_removed(changes->task, changes->slot, change->removed);
	}
	changes->n = 0;
	ExecClearTuple(changes->slot);
	MemoryContextSwitchTo(old);
	MemoryContextReset(changes->context);
}

/* Hand them over to whoever writes them. */
static void
send_changes(Changes *changes)
{
	for (int i = 0; i < changes->n; i++)
	{
		Change	   *change = &changes->list[i];
		SckptOutcome *outcome = change->outcome;
		bool		there = outcome && change->there && !(outcome->flags & SCKPT_OUTCOME_DELETED);
		uint32		number;

		ExecStoreMinimalTuple(change->row, changes->slot, false);
		number = sckpt_part_send_change(changes->task, outcome == NULL ? SCKPT_CHANGE_APPEND :
										change->remove ? SCKPT_CHANGE_DELETE : SCKPT_CHANGE_PUT,
										changes->slot, &change->hint, there);
		if (outcome && change->remove)
			outcome->flags |= SCKPT_OUTCOME_DELETED;
		else if (outcome)
		{
			outcome->flags |= SCKPT_OUTCOME_EMITTED | SCKPT_OUTCOME_PUT;
			outcome->change = number;
		}
	}
	changes->n = 0;
	ExecClearTuple(changes->slot);
	MemoryContextReset(changes->context);
}

static void
make_changes(Changes *changes)
{
	SckptSpans	spans = {take_changes, undo_changes, reject_change, changes, CHANGE_ROWS};

	if (changes->task->attempt->parcel)
		send_changes(changes);
	else
		run_changes(changes, &spans);
}

/* The row is copied. */
static void
add_change(Changes *changes, SckptEntry *entry, SckptOutcome *outcome, bool remove, TupleTableSlot *row)
{
	Change	   *change = &changes->list[changes->n++];
	MemoryContext old = MemoryContextSwitchTo(changes->context);

	if (entry)
	{
		change->hint = entry->tid;
		change->there = (entry->flags & SCKPT_ENTRY_EMITTED) != 0;
	}
	change->outcome = outcome;
	change->remove = remove;
	change->removed = InvalidTransactionId;
	change->row = ExecCopySlotMinimalTuple(row);
	MemoryContextSwitchTo(old);
}

/* ---- Results ---- */

typedef struct ResultWork
{
	SckptOperator *operator;
	SckptRef	ref;
	TupleTableSlot *row;
	bool		result;
} ResultWork;

static void
compute_result(void *arg)
{
	ResultWork *work = arg;

	work->result = work->operator->result(work->operator, work->ref, &work->row);
}

/* An entry's result; NULL: it has none, or cannot have one, and is buried. */
static TupleTableSlot *
get_result(SckptTask *task, SckptRef ref)
{
	ResultWork	work = {sckpt_task_last(task), ref, NULL, false};
	ErrorData  *error = sckpt_careful_try(compute_result, &work);

	if (error)
	{
		sckpt_dead_add_group(task, task->noperators, ref, error);
		FreeErrorData(error);
		return NULL;
	}
	return work.result ? work.row : NULL;
}

static bool
is_retracted(SckptEntry *entry)
{
	return (entry->flags & (SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_RETRACT)) == (SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_RETRACT);
}

/* Rows that are not their entries' any more go first, as in snapshot.c. */
static void
remove_old(Changes *changes, const SckptRef *refs, uint64 count, TupleTableSlot *key)
{
	SckptOperator *last = sckpt_task_last(changes->task);

	for (uint64 i = 0; i < count; i++)
	{
		SckptEntry *entry = sckpt_state_address(last->state, refs[i]);
		SckptOutcome *outcome = &changes->task->attempt->outcomes[i];
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (!(entry->flags & SCKPT_ENTRY_EMITTED) || (!is_retracted(entry) && (entry->flags & SCKPT_ENTRY_REWRITE)))
			continue;
		old = MemoryContextSwitchTo(changes->context);
		if (last->moved && last->moved(last, entry, key))
			add_change(changes, entry, outcome, true, key);
		else if (is_retracted(entry))
		{
			last->key_row(last, refs[i], key);
			add_change(changes, entry, outcome, true, key);
		}
		ExecClearTuple(key);
		MemoryContextSwitchTo(old);
		if (changes->n == CHANGE_ROWS)
			make_changes(changes);
	}
	make_changes(changes);
}

static void
add_result(Changes *changes, SckptRef ref, SckptEntry *entry, SckptOutcome *outcome, TupleTableSlot *key)
{
	SckptTask  *task = changes->task;
	SckptOperator *last = sckpt_task_last(task);
	bool		there = (entry->flags & SCKPT_ENTRY_EMITTED) != 0 && !(outcome->flags & SCKPT_OUTCOME_DELETED);
	TupleTableSlot *row;
	MemoryContext old;

	if (is_retracted(entry))
		return;
	if (entry->flags & SCKPT_ENTRY_REWRITE)
	{
		outcome->tid = entry->tid;
		if (there)
			outcome->flags |= SCKPT_OUTCOME_EMITTED;
		return;
	}
	old = MemoryContextSwitchTo(changes->context);
	row = get_result(task, ref);
	if (row)
		add_change(changes, entry, outcome, false, row);
	else if (there)
	{
		last->key_row(last, ref, key);
		add_change(changes, entry, outcome, true, key);
		ExecClearTuple(key);
	}
	MemoryContextSwitchTo(old);
}

void
sckpt_careful_results(SckptTask *task, const SckptRef *refs, uint64 count)
{
	SckptOperator *last = sckpt_task_last(task);
	TupleTableSlot *key = MakeSingleTupleTableSlot(task->last->result, &TTSOpsVirtual);
	Changes    *changes = palloc(sizeof(Changes));

	begin_changes(changes, task);
	remove_old(changes, refs, count, key);
	for (uint64 i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		add_result(changes, refs[i], sckpt_state_address(last->state, refs[i]), &task->attempt->outcomes[i], key);
		if (changes->n == CHANGE_ROWS)
			make_changes(changes);
	}
	make_changes(changes);
	end_changes(changes);
	pfree(changes);
	ExecDropSingleTupleTableSlot(key);
}

/* ---- Rows that are appended ---- */

static void
take_rows(void *arg, uint64 first, uint64 end)
{
	Changes    *changes = arg;
	SckptAppender *appender = sckpt_appender_open(changes->task, false);

	for (uint64 i = first; i < end; i++)
	{
		ExecStoreMinimalTuple(changes->list[i].row, changes->slot, false);
		slot_getallattrs(changes->slot);
		if (changes->task->last->grouped)
			sckpt_retain_touch(changes->task, changes->slot);
		sckpt_appender_put(appender, changes->slot);
	}
	changes->task->attempt->rows_out += sckpt_appender_close(appender);
}

static void
reject_row(void *arg, uint64 at, ErrorData *error)
{
	Changes    *changes = arg;

	bury_row(changes, &changes->list[at], error);
}

static void
append_rows(Changes *changes)
{
	SckptSpans	spans = {take_rows, NULL, reject_row, changes, CHANGE_ROWS};

	if (changes->task->attempt->parcel)
		send_changes(changes);
	else
		run_changes(changes, &spans);
}

void
sckpt_careful_append(SckptTask *task, SckptRef *closing, uint64 nclosing)
{
	Changes    *changes = palloc(sizeof(Changes));

	begin_changes(changes, task);
	for (uint64 i = 0; i < nclosing; i++)
	{
		TupleTableSlot *row;
		MemoryContext old = MemoryContextSwitchTo(changes->context);

		CHECK_FOR_INTERRUPTS();
		row = get_result(task, closing[i]);
		if (row)
			add_change(changes, NULL, NULL, false, row);
		MemoryContextSwitchTo(old);
		if (changes->n == CHANGE_ROWS)
			append_rows(changes);
	}
	append_rows(changes);
	end_changes(changes);
	pfree(changes);
}

/* ---- Changes that tasks have handed over ---- */

SckptCarefulChanges *
sckpt_careful_changes_begin(SckptTask *task)
{
	Changes    *changes = palloc(sizeof(Changes));

	begin_changes(changes, task);
	return (SckptCarefulChanges *) changes;
}

void
sckpt_careful_changes_add(SckptCarefulChanges *careful, bool append, bool remove, bool there, ItemPointer hint, TupleTableSlot *row,
						  SckptOutcome *outcome)
{
	Changes    *changes = (Changes *) careful;

	add_change(changes, NULL, append ? NULL : outcome, remove, row);
	changes->list[changes->n - 1].hint = *hint;
	changes->list[changes->n - 1].there = there;
	if (changes->n == CHANGE_ROWS)
		sckpt_careful_changes_make(careful);
}

void
sckpt_careful_changes_make(SckptCarefulChanges *careful)
{
	Changes    *changes = (Changes *) careful;

	if (changes->n > 0 && changes->list[0].outcome == NULL)
		append_rows(changes);
	else
		make_changes(changes);
}

void
sckpt_careful_changes_end(SckptCarefulChanges *careful)
{
	sckpt_careful_changes_make(careful);
	end_changes((Changes *) careful);
	pfree(careful);
}
