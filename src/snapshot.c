/*-------------------------------------------------------------------------
 *
 * snapshot.c
 *		What of a task's state goes into a checkpoint: results into the sink,
 *		changed entries into chunks; and the switch after the commit.
 *
 * The stores' dirty lists say what has changed.  They are copied, brought into an order, and walked twice: before the commit, to
 * write, and after it, to note what was written.  In between nothing in the stores changes, or it is known that it may (part.h);
 * what the second walk needs to know of the first is in the attempt, so that one that fails leaves no trace.
 *
 * An entry of the last operator that is leaving:
 *
 *		closed			its last result is written; with emit => 'final' its only one
 *		RETRACT			(merged, forgotten) its result row is deleted
 *
 * Neither is packed; both are removed after the commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "careful.h"
#include "changes.h"
#include "checkpoint_private.h"
#include "codec.h"
#include "part.h"
#include "result.h"
#include "retain.h"
#include "sink.h"
#include "vacancy.h"

#define CHUNK_BYTES		(256 * 1024)	/* of packed entries, before a new chunk is begun */
#define INTERRUPT_ENTRIES 4096	/* between looks for interrupts */

/* A restored task learns where its results are when at least one in so many of them changes. */
#define LEARN_FRACTION 8

static SckptState *
store_state(SckptTask *task, SckptStore *store)
{
	SckptOperator *operator = task->operators[store->operator];

	return store->elements ? operator->elements : operator->state;
}

/* Rows that the task makes for the sink; NULL: it makes results of entries, or none. */
static SckptChanges *
result_changes(SckptTask *task)
{
	return task->results && task->noperators > 0 ? sckpt_task_last(task)->changes : NULL;
}

/* ---- Packing ---- */

/* On its way through a store's dirty list. */
typedef struct Packer
{
	SckptTask  *task;
	SckptStore *store;
	SckptOperator *operator;
	SckptSnapshot *snapshot;
	MemoryContext scratch;
	StringInfoData buf;
	uint32		entries;		/* in buf */
	uint32		gone;			/* of these, tombstones */
	uint64		at;				/* in the snapshot, of the entry at hand */
} Packer;

/* What has changed in a store, in the order in which it was marked. */
static SckptSnapshot *
list_changed(SckptTask *task, int number)
{
	SckptSnapshot *snapshot = &task->attempt->snapshots[number];
	SckptState *state = store_state(task, &task->stores[number]);

	snapshot->count = sckpt_state_dirty_count(state);
	if (snapshot->count > 0)
	{
		snapshot->refs = MemoryContextAllocHuge(task->attempt->context, snapshot->count * sizeof(SckptRef));
		sckpt_state_get_dirty(state, snapshot->refs);
	}
	return snapshot;
}

static void
begin_packing(Packer *packer, SckptTask *task, int number)
{
	packer->task = task;
	packer->store = &task->stores[number];
	packer->operator = task->operators[packer->store->operator];
	packer->snapshot = &task->attempt->snapshots[number];
	packer->scratch = AllocSetContextCreate(task->attempt->context, "stream_ckpt pack", ALLOCSET_DEFAULT_SIZES);
	packer->entries = packer->gone = 0;
	packer->at = 0;
	initStringInfo(&packer->buf);
	sckpt_chunk_begin(task, packer->store, &packer->buf);
}

static void
end_packing(Packer *packer)
{
	if (packer->entries > 0)
		sckpt_chunk_write(packer->task, packer->store, &packer->buf, packer->entries, packer->gone);
	pfree(packer->buf.data);
	MemoryContextDelete(packer->scratch);
}

/* The entry at hand is not written. */
static void
skip_entry(Packer *packer)
{
	SckptSnapshot *snapshot = packer->snapshot;

	if (snapshot->skipped == NULL)
		snapshot->skipped = MemoryContextAllocExtended(packer->task->attempt->context, snapshot->count / 8 + 1,
													   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	snapshot->skipped[packer->at / 8] |= 1 << (packer->at % 8);
}

static bool
is_skipped(SckptSnapshot *snapshot, uint64 at)
{
	return snapshot->skipped && (snapshot->skipped[at / 8] & (1 << (at % 8))) != 0;
}

/* It is removed after the commit. */
static void
remove_entry(Packer *packer, SckptRef ref)
{
	SckptSnapshot *snapshot = packer->snapshot;

	if (snapshot->nleaving == snapshot->maxleaving)
	{
		snapshot->maxleaving = Max(256, snapshot->maxleaving * 2);
		if (snapshot->leaving)
			snapshot->leaving = repalloc_huge(snapshot->leaving, snapshot->maxleaving * sizeof(SckptRef));
		else
			snapshot->leaving = MemoryContextAlloc(packer->task->attempt->context, snapshot->maxleaving * sizeof(SckptRef));
	}
	snapshot->leaving[snapshot->nleaving++] = ref;
	if (snapshot->nleaving % INTERRUPT_ENTRIES == 0)
		CHECK_FOR_INTERRUPTS();
}

/* Flags, length, and what the operator writes; false: it is not stored. */
static bool
pack_entry(Packer *packer, SckptEntry *entry, uint8 flags)
{
	StringInfo	buf = &packer->buf;
	MemoryContext old = MemoryContextSwitchTo(packer->scratch);
	int			start = buf->len;
	uint32		length;
	bool		stored;

	appendStringInfoCharMacro(buf, flags);
	sckpt_codec_append(buf, "\0\0\0\0", sizeof(length));
	stored = packer->operator->pack(packer->operator, packer->store->elements, entry, buf);
	if (stored)
	{
		length = pg_hton32((uint32) (buf->len - start - 1 - sizeof(length)));
		memcpy(buf->data + start + 1, &length, sizeof(length));
		packer->entries++;
		packer->gone += (flags & SCKPT_PACKED_GONE) != 0;
		if (entry->chunk)
			packer->store->chunks[entry->chunk - 1].leaving++;
		if (buf->len >= CHUNK_BYTES)
		{
			sckpt_chunk_write(packer->task, packer->store, buf, packer->entries, packer->gone);
			sckpt_chunk_begin(packer->task, packer->store, buf);
			packer->entries = packer->gone = 0;
			CHECK_FOR_INTERRUPTS();
		}
	}
	else
	{
		/* Removed with what it belongs to, which tells its chunk then: it does not count as leaving. */
		buf->len = start;
		buf->data[start] = '\0';
		skip_entry(packer);
		if (packer->at % INTERRUPT_ENTRIES == 0)
			CHECK_FOR_INTERRUPTS();
	}
	MemoryContextReset(packer->scratch);
	MemoryContextSwitchTo(old);
	return stored;
}

static void
leave_entry(Packer *packer, SckptRef ref, SckptEntry *entry)
{
	if ((entry->flags & SCKPT_ENTRY_GONE) && entry->chunk != 0)
	{
		/* What is not stored because of what it belongs to is removed with that. */
		if (pack_entry(packer, entry, SCKPT_PACKED_GONE))
			remove_entry(packer, ref);
		return;
	}
	skip_entry(packer);
	remove_entry(packer, ref);
	if (entry->chunk)
		packer->store->chunks[entry->chunk - 1].leaving++;
}

/* A store whose entries have no rows in a sink. */
static void
snapshot_store(SckptTask *task, int number)
{
	SckptState *state = store_state(task, &task->stores[number]);
	SckptSnapshot *snapshot = list_changed(task, number);
	Packer		packer;

	if (snapshot->count == 0)
		return;
	begin_packing(&packer, task, number);
	for (; packer.at < snapshot->count; packer.at++)
	{
		SckptRef	ref = snapshot->refs[packer.at];
		SckptEntry *entry = sckpt_state_address(state, ref);

		sckpt_state_prefetch_refs(state, snapshot->refs, snapshot->count, packer.at);
		if (entry->flags & SCKPT_ENTRY_LEAVING)
			leave_entry(&packer, ref, entry);
		else
			(void) pack_entry(&packer, entry, (entry->flags & SCKPT_ENTRY_EMITTED) ? SCKPT_PACKED_EMITTED : 0);
	}
	end_packing(&packer);
}

/* ---- Results: emit => 'changes' ---- */

/* The sink's row, filled from the query's. */
static void
fill_row(SckptTask *task, SckptSink *sink, TupleTableSlot *row)
{
	sckpt_result_fill(task, sckpt_sink_slot(sink), row);
}

static void
delete_result(SckptTask *task, SckptSink *sink, TupleTableSlot *row, SckptEntry *entry, SckptOutcome *outcome)
{
	if (task->attempt->parcel)
		(void) sckpt_part_send_change(task, SCKPT_CHANGE_DELETE, row, &entry->tid, true);
	else
	{
		fill_row(task, sink, row);
		sckpt_retain_touch(task, row);
		sckpt_retain_touch_removed(task, row, sckpt_sink_delete(sink, &entry->tid));
	}
	outcome->flags |= SCKPT_OUTCOME_DELETED;
	task->attempt->rows_out++;
}

static void
put_result(SckptTask *task, SckptSink *sink, SckptVacancies *vacancies, TupleTableSlot *row, SckptEntry *entry, SckptOutcome *outcome)
{
	bool		deleted = (outcome->flags & SCKPT_OUTCOME_DELETED) != 0;
	bool		there = (entry->flags & SCKPT_ENTRY_EMITTED) != 0 && !deleted;
	ItemPointerData hint = entry->tid;

	if (deleted)
		ItemPointerSetInvalid(&hint);
	outcome->flags |= SCKPT_OUTCOME_EMITTED | SCKPT_OUTCOME_PUT;
	ItemPointerSetInvalid(&outcome->tid);
	task->attempt->rows_out++;
	if (task->attempt->parcel)
	{
		outcome->change = sckpt_part_send_change(task, SCKPT_CHANGE_PUT, row, &hint, there);
		return;
	}
	if (vacancies && !there)
		there = sckpt_vacancies_take(vacancies, row, &hint);
	fill_row(task, sink, row);

	sckpt_retain_touch(task, row);
	task->attempt->rows_put += !there;

	/* In a table that is not ours, somebody else may have put a row there. */
	sckpt_sink_put(sink, &hint, there || !task->def->result_owned, &outcome->tid);
}

/*
 * After a restore nothing is known of where result rows are.  Where many of them are about to change, one pass over the table is
 * cheaper than a look into its index for each; unless the table is full of rows whose windows have closed.
 */
static void
learn_tids(SckptTask *task, uint64 nchanges)
{
	SckptOperator *last = sckpt_task_last(task);
	int			nkeys = task->last->nkeys;
	Datum	   *values;
	bool	   *nulls;
	Relation	relation;
	TableScanDesc scan;
	TupleTableSlot *slot;

	if (sckpt_query_has_other_sink_key(task->last) || nchanges * LEARN_FRACTION < sckpt_state_rows(last->state))
		return;
	relation = table_open(task->def->result, AccessShareLock);
	if (RelationGetNumberOfBlocks(relation) > nchanges)
	{
		table_close(relation, AccessShareLock);
		return;
	}
	values = palloc(Max(1, nkeys) * sizeof(Datum));
	nulls = palloc(Max(1, nkeys) * sizeof(bool));
	scan = table_beginscan(relation, GetActiveSnapshot(), 0, NULL);
	slot = table_slot_create(relation, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		SckptRef	ref;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < nkeys; i++)
			values[i] = slot_getattr(slot, task->key_columns[i], &nulls[i]);
		ref = last->find(last, values, nulls);
		if (ref != SCKPT_NO_REF)
			((SckptEntry *) sckpt_state_address(last->state, ref))->tid = slot->tts_tid;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	task->tids_unknown = false;
}

static bool
is_retracted(SckptEntry *entry)
{
	return (entry->flags & (SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_RETRACT)) == (SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_RETRACT);
}

/*
 * Delete the rows that are not their entries' any more, or let others have their places, before any row is put: the new key of one entry may be the old key of
 * another (of two sessions that have become one, whose entry is the second's and whose key is its start).
 */
static void
delete_old_results(SckptTask *task, const SckptSnapshot *snapshot, SckptSink *sink, SckptVacancies *vacancies)
{
	SckptOperator *last = sckpt_task_last(task);
	SckptState *state = last->state;
	TupleTableSlot *old = MakeSingleTupleTableSlot(task->last->result, &TTSOpsVirtual);

	for (uint64 n = 0; n < snapshot->count; n++)
	{
		SckptRef	ref = snapshot->refs[n];
		SckptEntry *entry = sckpt_state_address(state, ref);
		SckptOutcome *outcome = &task->attempt->outcomes[n];
		TupleTableSlot *row = old;
		bool		moved;

		sckpt_state_prefetch_refs(state, snapshot->refs, snapshot->count, n);
		if (n % INTERRUPT_ENTRIES == 0)
			CHECK_FOR_INTERRUPTS();
		if (!(entry->flags & SCKPT_ENTRY_EMITTED) ||
			(!is_retracted(entry) && (entry->flags & SCKPT_ENTRY_REWRITE)))
			continue;
		ExecClearTuple(old);
		memset(old->tts_isnull, true, task->last->result->natts * sizeof(bool));
		moved = last->moved && last->moved(last, entry, old);
		if (!moved && !is_retracted(entry))
			continue;
		if (!moved)
			(void) last->result(last, ref, &row);
		if (vacancies)
		{
			sckpt_vacancies_add(vacancies, row, &entry->tid);
			outcome->flags |= SCKPT_OUTCOME_DELETED;
		}
		else
			delete_result(task, sink, row, entry, outcome);
	}
	ExecDropSingleTupleTableSlot(old);
}

/* Before the entry at a place: at every 16th, the result rows of the 16 that come 16 later. */
static void
prefetch_results(SckptState *state, SckptSink *sink, const SckptSnapshot *snapshot, uint64 at)
{
	ItemPointerData hints[SCKPT_SINK_AHEAD];
	uint64		end = Min(snapshot->count, at + 2 * SCKPT_SINK_AHEAD);
	int			n = 0;

	if (at % SCKPT_SINK_AHEAD != 0)
		return;
	for (at += SCKPT_SINK_AHEAD; at < end; at++)
	{
		SckptEntry *entry = sckpt_state_address(state, snapshot->refs[at]);

		if ((entry->flags & SCKPT_ENTRY_EMITTED) && !(entry->flags & SCKPT_ENTRY_REWRITE) && ItemPointerIsValid(&entry->tid))
			hints[n++] = entry->tid;
	}
	sckpt_sink_prefetch(sink, hints, n);
}

/* Changed entries into chunks, once their results are in the sink. */
static void
pack_entries(SckptTask *task, const SckptSnapshot *snapshot, int number)
{
	SckptState *state = sckpt_task_last(task)->state;
	Packer		packer;

	begin_packing(&packer, task, number);
	for (; packer.at < snapshot->count; packer.at++)
	{
		SckptRef	ref = snapshot->refs[packer.at];
		SckptEntry *entry = sckpt_state_address(state, ref);

		if (entry->flags & SCKPT_ENTRY_LEAVING)
			leave_entry(&packer, ref, entry);
		else
			(void) pack_entry(&packer, entry, (task->attempt->outcomes[packer.at].flags & SCKPT_OUTCOME_EMITTED)
							  ? SCKPT_PACKED_EMITTED : 0);
	}
	end_packing(&packer);
}

static void
make_outcomes(SckptTask *task, const SckptSnapshot *snapshot)
{
	task->attempt->outcomes = MemoryContextAllocExtended(task->attempt->context, snapshot->count * sizeof(SckptOutcome),
														 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

/* Results of changed entries to the sink, the entries into chunks. */
static void
snapshot_results(SckptTask *task, int number)
{
	SckptOperator *last = sckpt_task_last(task);
	SckptState *state = last->state;
	SckptSnapshot *snapshot = list_changed(task, number);
	SckptSink  *sink = NULL;
	SckptVacancies *vacancies = NULL;
	Packer		packer;

	if (snapshot->count == 0)
		return;
	if (task->careful)
	{
		make_outcomes(task, snapshot);
		sckpt_careful_results(task, snapshot->refs, snapshot->count);
		pack_entries(task, snapshot, number);
		return;
	}
	if (task->attempt->parcel == NULL)
	{
		sink = sckpt_sink_open(task->def->result, task->last->nsink, task->key_columns, !task->def->result_owned);
		sckpt_sink_set_columns(sink, task->last->result->natts, task->result_columns);
		if (task->tids_unknown)
			learn_tids(task, snapshot->count);
		vacancies = sckpt_vacancies_create(task, sink);
	}
	sckpt_state_arrange(state, snapshot->refs, snapshot->count, last->order, last);
	make_outcomes(task, snapshot);

	/* Where keys never change and nothing is taken back, a walk is saved. */
	if (last->moved || task->last->ttl > 0 || task->last->retracting)
		delete_old_results(task, snapshot, sink, vacancies);
	begin_packing(&packer, task, number);
	for (; packer.at < snapshot->count; packer.at++)
	{
		SckptRef	ref = snapshot->refs[packer.at];
		SckptEntry *entry = sckpt_state_address(state, ref);
		SckptOutcome *outcome = &task->attempt->outcomes[packer.at];
		bool		there = (entry->flags & SCKPT_ENTRY_EMITTED) != 0 && !(outcome->flags & SCKPT_OUTCOME_DELETED);
		TupleTableSlot *row;

		sckpt_state_prefetch_refs(state, snapshot->refs, snapshot->count, packer.at);
		if (sink)
			prefetch_results(state, sink, snapshot, packer.at);
		if (is_retracted(entry))
		{
			if (there)
			{
				(void) last->result(last, ref, &row);
				delete_result(task, sink, row, entry, outcome);
			}
		}
		else if (entry->flags & SCKPT_ENTRY_REWRITE)
		{
			outcome->tid = entry->tid;
			if (there)
				outcome->flags |= SCKPT_OUTCOME_EMITTED;
		}
		else if (last->result(last, ref, &row))
			put_result(task, sink, vacancies, row, entry, outcome);
		else if (there)
			delete_result(task, sink, row, entry, outcome);

		if (entry->flags & SCKPT_ENTRY_LEAVING)
			leave_entry(&packer, ref, entry);
		else
			(void) pack_entry(&packer, entry, (outcome->flags & SCKPT_OUTCOME_EMITTED) ? SCKPT_PACKED_EMITTED : 0);
	}
	end_packing(&packer);
	if (vacancies)
		sckpt_vacancies_close(vacancies);
	if (sink)
		sckpt_sink_close(sink);
}

/* ---- Results: emit => 'final' ---- */

static void
send_results(SckptTask *task, SckptRef *closing, uint64 nclosing)
{
	SckptOperator *last = sckpt_task_last(task);
	ItemPointerData nowhere;

	ItemPointerSetInvalid(&nowhere);
	for (uint64 i = 0; i < nclosing; i++)
	{
		TupleTableSlot *row;

		CHECK_FOR_INTERRUPTS();
		if (last->result(last, closing[i], &row))
			(void) sckpt_part_send_change(task, SCKPT_CHANGE_APPEND, row, &nowhere, false);
	}
}

/* Into a table of ours, without an executor: the rows are new, and the sink inserts many at a time. */
static void
insert_results(SckptTask *task, SckptRef *closing, uint64 nclosing)
{
	SckptOperator *last = sckpt_task_last(task);
	ItemPointer tids = MemoryContextAllocExtended(task->attempt->context, nclosing * sizeof(ItemPointerData), MCXT_ALLOC_HUGE);
	SckptSink  *sink = sckpt_sink_open(task->def->result, task->last->nsink, task->key_columns, false);

	sckpt_sink_set_columns(sink, task->last->result->natts, task->result_columns);
	for (uint64 i = 0; i < nclosing; i++)
	{
		TupleTableSlot *row;
		ItemPointerData nowhere;

		CHECK_FOR_INTERRUPTS();
		if (!last->result(last, closing[i], &row))
			continue;
		fill_row(task, sink, row);
		sckpt_retain_touch(task, row);
		ItemPointerSetInvalid(&nowhere);
		sckpt_sink_put(sink, &nowhere, false, &tids[i]);
		task->attempt->rows_out++;
		task->attempt->rows_put++;
	}
	sckpt_sink_close(sink);
}

static void
append_results(SckptTask *task, SckptRef *closing, uint64 nclosing)
{
	SckptOperator *last = sckpt_task_last(task);
	SckptAppender *appender;

	if (nclosing == 0)
		return;
	if (task->careful)
	{
		sckpt_careful_append(task, closing, nclosing);
		return;
	}
	if (task->attempt->parcel)
	{
		send_results(task, closing, nclosing);
		return;
	}
	if (task->def->result_owned)
	{
		insert_results(task, closing, nclosing);
		return;
	}
	appender = sckpt_appender_open(task, true);
	for (uint64 i = 0; i < nclosing; i++)
	{
		TupleTableSlot *row;

		CHECK_FOR_INTERRUPTS();
		if (last->result(last, closing[i], &row))
			sckpt_appender_put(appender, row);
	}
	task->attempt->rows_out += sckpt_appender_close(appender);
}

/* ---- Results: changes ---- */

/* Where rows go to one by one, and those that the sink refuses are buried, where that is wanted. */
typedef struct ChangesTarget
{
	SckptChanging *changing;
	SckptCarefulChanges *careful;
} ChangesTarget;

static bool
put_change(void *arg, TupleTableSlot *row, int32 weight)
{
	ChangesTarget *target = arg;
	ItemPointerData nowhere;

	ItemPointerSetInvalid(&nowhere);
	if (weight > 0 && target->careful)
		sckpt_careful_changes_add(target->careful, true, false, false, &nowhere, row, NULL);
	else
		sckpt_changing_put(target->changing, row, weight);
	return true;
}

static bool
send_change(void *arg, TupleTableSlot *row, int32 weight)
{
	sckpt_part_send_bag(arg, row, weight);
	return true;
}

/* Rows that the last operator has made, and taken back. */
static void
write_changes(SckptTask *task)
{
	ChangesTarget target;

	if (task->attempt->parcel)
	{
		sckpt_changes_put(sckpt_task_last(task)->changes, send_change, task);
		return;
	}
	if (sckpt_changes_count(sckpt_task_last(task)->changes) == 0)
		return;
	target.careful = task->careful ? sckpt_careful_changes_begin(task) : NULL;
	target.changing = sckpt_changing_open(task);
	sckpt_changes_put(sckpt_task_last(task)->changes, put_change, &target);
	task->attempt->rows_out += sckpt_changing_close(target.changing);
	if (target.careful)
		sckpt_careful_changes_end(target.careful);
}

/* ---- The whole ---- */

void
sckpt_snapshot_take(SckptTask *task)
{
	SckptOperator *last = task->results ? sckpt_task_last(task) : NULL;
	MemoryContext old = MemoryContextSwitchTo(task->attempt->context);
	SckptRef   *closing;
	uint64		nclosing = 0;

	for (int i = 0; i < task->noperators; i++)
		task->operators[i]->flush(task->operators[i]);
	if (last)
	{
		last->begin_results(last);
		closing = last->close(last, &task->times, &nclosing);
		if (last->changes)
			write_changes(task);
		else if (task->def->final)
			append_results(task, closing, nclosing);
	}
	for (int i = 0; i < task->nstores; i++)
	{
		SckptStore *store = &task->stores[i];

		if (!task->def->final && task->operators[store->operator] == last && !store->elements && last->changes == NULL)
			snapshot_results(task, i);
		else
			snapshot_store(task, i);
	}
	if (last)
		last->end_results(last);
	task->attempt->packed_at = GetCurrentTimestamp();
	MemoryContextSwitchTo(old);
}

/* ---- After the commit ---- */

/*
 * What became of an entry's result row that went with the parcel.
 */
static void
take_change(SckptOutcome *outcome, const SckptOutcome *changes)
{
	const SckptOutcome *change;

	if (outcome->change == 0)
		return;
	change = &changes[outcome->change - 1];
	outcome->tid = change->tid;
	if (!(change->flags & SCKPT_OUTCOME_EMITTED))
		outcome->flags &= ~(SCKPT_OUTCOME_EMITTED | SCKPT_OUTCOME_PUT);
}

/* Every entry that was written is in its new chunk. */
static void
switch_store(SckptTask *task, int number, const SckptOutcome *changes)
{
	SckptStore *store = &task->stores[number];
	SckptSnapshot *snapshot = &task->attempt->snapshots[number];
	SckptState *state = store_state(task, store);
	SckptOperator *operator = task->operators[store->operator];
	SckptOutcome *outcome = NULL;
	int			written = 0;
	int			index = -1;
	uint32		left = 0;

	if (operator == sckpt_task_last(task) && !store->elements)
		outcome = task->attempt->outcomes;
	sckpt_chunk_switch(store);
	for (uint64 n = 0; n < snapshot->count; n++)
	{
		SckptEntry *entry = sckpt_state_address(state, snapshot->refs[n]);
		bool		removed = (entry->flags & SCKPT_ENTRY_REMOVED) != 0;

		sckpt_state_prefetch_refs(state, snapshot->refs, snapshot->count, n);
		if (snapshot->detached)
			entry->flags &= ~SCKPT_ENTRY_INFLIGHT;
		else
			entry->flags &= ~(SCKPT_ENTRY_DIRTY | SCKPT_ENTRY_REWRITE);
		if (!is_skipped(snapshot, n))
		{
			if (left == 0)
			{
				left = store->written[written];
				index = sckpt_checkpoint_add_chunk(store, store->next_chunk + written, left, task->run_context);
				store->chunks[index].live = left - store->written_gone[written];
				store->chunks[index].gone = store->written_gone[written];
				written++;
			}
			left--;
			if (removed)
				store->chunks[index].live--;
			else
				entry->chunk = index + 1;
			if (outcome && !removed)
			{
				take_change(&outcome[n], changes);
				entry->tid = outcome[n].tid;
				if (outcome[n].flags & SCKPT_OUTCOME_EMITTED)
					entry->flags |= SCKPT_ENTRY_EMITTED;
				else
					entry->flags &= ~SCKPT_ENTRY_EMITTED;
				if ((outcome[n].flags & SCKPT_OUTCOME_PUT) && operator->emitted)
					operator->emitted(operator, entry);
			}
		}
		if (removed)
			sckpt_state_free_removed(state, snapshot->refs[n]);
	}
	Assert(left == 0 && written == store->nwritten);
	if (snapshot->detached)
		sckpt_state_attach_dirty(state);
	else
		sckpt_state_empty_dirty(state);
	store->next_chunk += store->nwritten;
}

/* The chunks' accounts have been told already of those that leave; of what they take with them, that is done here. */
static void
remove_leaving(SckptTask *task, int number)
{
	SckptSnapshot *snapshot = &task->attempt->snapshots[number];
	SckptStore *store = &task->stores[number];
	SckptOperator *operator = task->operators[store->operator];
	SckptState *state = store_state(task, store);

	for (uint64 i = 0; i < snapshot->nleaving; i++)
	{
		SckptEntry *entry = sckpt_state_address(state, snapshot->leaving[i]);

		sckpt_state_prefetch_refs(state, snapshot->leaving, snapshot->nleaving, i);
		sckpt_state_prefetch_slots(state, snapshot->leaving, snapshot->nleaving, i);
		entry->chunk = 0;
		if (entry->flags & SCKPT_ENTRY_LEAVING)
			operator->remove(operator, store->elements, snapshot->leaving[i]);
		else
		{
			/* Rows have come for it again since it was packed; what was there of it is gone. */
			entry->flags &= ~SCKPT_ENTRY_EMITTED;
			ItemPointerSetInvalid(&entry->tid);
		}
	}
}

static void
switch_stores(SckptTask *task, const SckptOutcome *changes)
{
	for (int i = 0; i < task->nstores; i++)
		switch_store(task, i, changes);
	/* Elements first: their groups take with them what is left of them. */
	for (int elements = 1; elements >= 0; elements--)
	{
		for (int i = 0; i < task->nstores; i++)
		{
			if (task->stores[i].elements == (elements == 1))
				remove_leaving(task, i);
		}
	}
	for (int i = 0; i < task->nstores; i++)
		sckpt_chunk_clean(task, &task->stores[i]);
}

void
sckpt_snapshot_switch(SckptTask *task)
{
	switch_stores(task, NULL);
	if (result_changes(task))
		sckpt_changes_clear(result_changes(task));
}

/* ---- A task that goes on before the commit ---- */

void
sckpt_snapshot_detach(SckptTask *task)
{
	SckptChanges *changes = result_changes(task);

	for (int i = 0; i < task->nstores; i++)
	{
		sckpt_state_detach_dirty(store_state(task, &task->stores[i]));
		task->attempt->snapshots[i].detached = true;
	}
	if (changes)
		sckpt_changes_hold(changes);
}

/* Everything is as changed as it was. */
static void
take_back(SckptTask *task, int number)
{
	SckptSnapshot *snapshot = &task->attempt->snapshots[number];
	SckptStore *store = &task->stores[number];
	SckptState *state = store_state(task, store);

	sckpt_state_attach_dirty(state);
	for (uint64 i = 0; i < snapshot->count; i++)
	{
		SckptEntry *entry = sckpt_state_address(state, snapshot->refs[i]);

		entry->flags &= ~SCKPT_ENTRY_INFLIGHT;
		if (entry->flags & SCKPT_ENTRY_REMOVED)
		{
			if (entry->chunk != 0)
				sckpt_checkpoint_account(store, entry->chunk);
			sckpt_state_free_removed(state, snapshot->refs[i]);
		}
		else
			sckpt_state_mark_dirty(state, snapshot->refs[i]);
	}
}

void
sckpt_snapshot_settle(SckptTask *task, bool committed, const SckptOutcome *changes)
{
	if (result_changes(task))
		sckpt_changes_settle(result_changes(task), committed);
	if (committed)
	{
		switch_stores(task, changes);
		return;
	}
	sckpt_chunk_reset(task);
	for (int i = 0; i < task->nstores; i++)
		take_back(task, i);
}
