/*-------------------------------------------------------------------------
 *
 * aggregate_undo.c
 *		Taking back what rows have changed.
 *
 * While a try is on (careful.h), each entry that a row is about to change is noted with all it holds, once; entries that
 * were added, and changes of elements, are noted as such.  Undoing goes through the changes of elements backwards, takes the noted
 * sessions out of the directory, removes what was added, puts back what was there, and enters its sessions again: sessions that a bad row
 * has merged are two again.
 *
 * Live objects are flattened before the first change, so that what is in the store is what was; afterwards they are thrown away.
 *
 * An element stays, with the count or bits it had before; that may be none, which is as good as no element.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "aggregate_private.h"

/* An entry as it was. */
typedef struct UndoEntry
{
	SckptRef	ref;			/* hash key */
	bool		added;			/* it was not: nothing else here counts */
	uint16		flags;
	TimestampTz touched;
	int64		weight;
	SckptAggSession session;
	int64	   *counts;
	uint8	   *value_flags;
	Datum	   *values;			/* of values by reference, but not internal, a copy */
} UndoEntry;

typedef struct UndoElement
{
	SckptRef	group;
	int			set;
	Datum	   *values;
	bool	   *nulls;
	int64		change;			/* count added, or bits set */
} UndoElement;

struct SckptUndo
{
	MemoryContext context;		/* this, and everything noted */
	bool		lost;			/* something was changed that cannot be put back */
	HTAB	   *entries;
	List	   *elements;		/* UndoElement, in the order of changes */
	int16	  **lengths;		/* by set and column */
	bool	  **by_value;
};

/* ---- Noting ---- */

void
sckpt_aggregate_begin_undo(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	MemoryContext context;
	MemoryContext old;
	SckptUndo  *undo;
	HASHCTL		control = {0};

	sckpt_aggregate_end_undo(operator);
	context = AllocSetContextCreate(agg->context, "stream_ckpt undo", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	undo = palloc0(sizeof(SckptUndo));
	undo->context = context;
	control.keysize = sizeof(SckptRef);
	control.entrysize = sizeof(UndoEntry);
	control.hcxt = context;
	undo->entries = hash_create("stream_ckpt undo", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	undo->lengths = palloc(Max(1, agg->nsets) * sizeof(int16 *));
	undo->by_value = palloc(Max(1, agg->nsets) * sizeof(bool *));
	for (int i = 0; i < agg->nsets; i++)
	{
		SckptSetColumns *set = &agg->query->sets[i];

		undo->lengths[i] = palloc(set->ncolumns * sizeof(int16));
		undo->by_value[i] = palloc(set->ncolumns * sizeof(bool));
		for (int j = 0; j < set->ncolumns; j++)
			get_typlenbyval(set->columns[j].type, &undo->lengths[i][j], &undo->by_value[i][j]);
	}
	MemoryContextSwitchTo(old);
	agg->undo = undo;
}

void
sckpt_aggregate_end_undo(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;

	if (agg->undo)
		MemoryContextDelete(agg->undo->context);
	agg->undo = NULL;
}

void
sckpt_undo_added(SckptAggregate *agg, SckptRef ref)
{
	UndoEntry  *saved = hash_search(agg->undo->entries, &ref, HASH_ENTER, NULL);

	saved->added = true;
}

void
sckpt_undo_entry(SckptAggregate *agg, SckptRef ref)
{
	SckptEntry *entry = sckpt_state_address(agg->operator.state, ref);
	SckptAggValue *values = entry_values(entry);
	UndoEntry  *saved;
	MemoryContext old;

	if (hash_search(agg->undo->entries, &ref, HASH_FIND, NULL))
		return;
	sckpt_aggregate_flatten(agg, ref);
	old = MemoryContextSwitchTo(agg->undo->context);
	saved = hash_search(agg->undo->entries, &ref, HASH_ENTER, NULL);
	saved->added = false;
	saved->flags = entry->flags;
	saved->touched = agg->touched_offset ? *entry_touched(agg, entry) : DT_NOBEGIN;
	saved->weight = agg->weight_offset ? *entry_weight(agg, entry) : 0;
	if (agg->session_offset)
		saved->session = *entry_session(agg, entry);
	if (agg->counts_offset)
	{
		saved->counts = palloc(agg->ncalls * sizeof(int64));
		for (int i = 0; i < agg->ncalls; i++)
			saved->counts[i] = agg->calls[i].mode == SCKPT_CALL_INVERSE ? entry_counts(agg, entry)[agg->calls[i].count] : 0;
	}
	saved->value_flags = palloc(Max(1, agg->ncalls));
	memcpy(saved->value_flags, entry_flags(agg, entry), agg->ncalls);
	saved->values = palloc0(Max(1, agg->ncalls) * sizeof(Datum));
	for (int i = 0; i < agg->ncalls; i++)
	{
		SckptAggCall *call = &agg->calls[i];

		if (call->mode == SCKPT_CALL_COLLECT || call->internal)
			continue;
		if (call->by_value)
			saved->values[i] = values[i].value;
		else if (!(saved->value_flags[i] & VALUE_NULL))
			saved->values[i] = datumCopy(sckpt_aggregate_flat_value(agg, values[i].object.ref), false, call->length);
	}
	MemoryContextSwitchTo(old);
}

void
sckpt_undo_element(SckptAggregate *agg, SckptRef group, int set, const Datum *values, const bool *nulls, int64 change)
{
	SckptUndo  *undo = agg->undo;
	MemoryContext old = MemoryContextSwitchTo(undo->context);
	UndoElement *element = palloc(sizeof(UndoElement));
	int			ncolumns = agg->set_calls[set].ncolumns;

	element->group = group;
	element->set = set;
	element->change = change;
	element->values = palloc0(ncolumns * sizeof(Datum));
	element->nulls = palloc(ncolumns * sizeof(bool));
	for (int i = 0; i < ncolumns; i++)
	{
		element->nulls[i] = nulls[i];
		if (!nulls[i])
			element->values[i] = datumCopy(values[i], undo->by_value[set][i], undo->lengths[set][i]);
	}
	undo->elements = lappend(undo->elements, element);
	MemoryContextSwitchTo(old);
}

void
sckpt_undo_reset(SckptAggregate *agg, SckptRef ref)
{
	/* What was not noted need not come back: it is over with or without the row. */
	if (hash_search(agg->undo->entries, &ref, HASH_FIND, NULL))
		agg->undo->lost = true;
}

/* ---- Undoing ---- */

static void
restore_elements(SckptAggregate *agg, SckptUndo *undo)
{
	for (int i = list_length(undo->elements) - 1; i >= 0; i--)
	{
		UndoElement *element = list_nth(undo->elements, i);

		if (agg->set_calls[element->set].counted)
			sckpt_sets_add(agg->sets, element->group, element->set, element->values, element->nulls, -element->change);
		else
			sckpt_sets_unmark(agg->sets, element->group, element->set, element->values, element->nulls, (uint64) element->change);
		MemoryContextReset(agg->row_context);
	}
}

static void
restore_entry(SckptAggregate *agg, UndoEntry *saved)
{
	const uint16 leaving = SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_RETRACT | SCKPT_ENTRY_GONE;
	SckptEntry *entry = sckpt_state_address(agg->operator.state, saved->ref);
	SckptAggValue *values = entry_values(entry);
	uint8	   *flags = entry_flags(agg, entry);

	entry->flags = (entry->flags & ~leaving) | (saved->flags & leaving);
	if (agg->touched_offset)
		*entry_touched(agg, entry) = saved->touched;
	if (agg->weight_offset)
		*entry_weight(agg, entry) = saved->weight;
	if (agg->session_offset)
		*entry_session(agg, entry) = saved->session;
	for (int i = 0; i < agg->ncalls; i++)
	{
		SckptAggCall *call = &agg->calls[i];

		flags[i] = saved->value_flags[i];
		if (call->mode == SCKPT_CALL_COLLECT)
			continue;
		if (call->mode == SCKPT_CALL_INVERSE)
			entry_counts(agg, entry)[call->count] = saved->counts[i];
		if (call->by_value && !call->internal)
		{
			values[i].value = saved->values[i];
			continue;
		}
		sckpt_aggregate_forget_live(agg, &values[i]);
		if (!call->internal && !(flags[i] & VALUE_NULL))
			sckpt_aggregate_set_flat(agg, call, &values[i], saved->values[i]);
	}
}

/* Register the entry anew: a merged session has lost its timer. */
static void
restore_timer(SckptAggregate *agg, SckptRef ref)
{
	int			ncolumns = Max(1, agg->query->nkeys);
	Datum	   *values = palloc(ncolumns * sizeof(Datum));
	bool	   *nulls = palloc(ncolumns * sizeof(bool));

	sckpt_group_key_load(agg->key, entry_key(agg, (SckptEntry *) sckpt_state_address(agg->operator.state, ref)), values, nulls);
	sckpt_aggregate_register(agg, ref, values, nulls);
}

/* Do something with every entry noted, of one kind. */
static void
for_each(SckptAggregate *agg, bool added, void (*work) (SckptAggregate *agg, UndoEntry *saved))
{
	HASH_SEQ_STATUS status;
	UndoEntry  *saved;

	hash_seq_init(&status, agg->undo->entries);
	while ((saved = hash_seq_search(&status)) != NULL)
	{
		if (saved->added == added)
			work(agg, saved);
		MemoryContextReset(agg->row_context);
	}
}

static void
forget_session(SckptAggregate *agg, UndoEntry *saved)
{
	sckpt_session_forget(agg, saved->ref);
}

static void
remove_added(SckptAggregate *agg, UndoEntry *saved)
{
	sckpt_aggregate_remove(&agg->operator, false, saved->ref);
}

/* All noted sessions were in the directory: that is where rows find them. */
static void
enter_session(SckptAggregate *agg, UndoEntry *saved)
{
	sckpt_session_enter(agg, saved->ref);
}

static void
register_entry(SckptAggregate *agg, UndoEntry *saved)
{
	restore_timer(agg, saved->ref);
}

bool
sckpt_aggregate_undo(SckptOperator *operator)
{
	SckptAggregate *agg = (SckptAggregate *) operator;
	SckptUndo  *undo = agg->undo;
	MemoryContext old = MemoryContextSwitchTo(agg->row_context);

	if (undo->lost)
		return false;
	agg->room.nrows = 0;
	MemoryContextReset(agg->row_context);
	restore_elements(agg, undo);
	if (agg->sessions)
	{
		for_each(agg, true, forget_session);
		for_each(agg, false, forget_session);
	}
	for_each(agg, true, remove_added);
	for_each(agg, false, restore_entry);
	if (agg->sessions)
		for_each(agg, false, enter_session);
	if (agg->timers)
		for_each(agg, false, register_entry);
	MemoryContextSwitchTo(old);
	sckpt_aggregate_begin_undo(operator);
	return true;
}
