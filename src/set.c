/*-------------------------------------------------------------------------
 *
 * set.c
 *		Sets and multisets of values that belong to groups: what DISTINCT,
 *		ordered and ordered-set aggregates keep.
 *
 * All sets of all groups share one store, in which an element is found by a hash that mixes its group's reference, its set's
 * number and its values.  So a set of three values costs three elements and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "set_private.h"

/* A group's number and reference, while elements are read back. */
typedef struct Known
{
	int64		id;
	SckptRef	ref;
	char		status;
} Known;

#define SH_PREFIX known
#define SH_ELEMENT_TYPE Known
#define SH_KEY_TYPE int64
#define SH_KEY id
#define SH_HASH_KEY(table, key) murmurhash32((uint32) (key) ^ murmurhash32((uint32) ((uint64) (key) >> 32)))
#define SH_EQUAL(table, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Caller's bytes of an element, as the store counts them. */
static Size
element_bytes(SetColumns *set, Datum *values, bool *nulls)
{
	return set->values_offset - SCKPT_ENTRY_HEADER + sckpt_group_key_size(set->key, set->values_offset, values, nulls);
}

static inline void
touch(SckptSets *sets, SckptRef ref, SckptElement *element)
{
	sckpt_state_mark_dirty(sets->state, ref);
	element->entry.flags &= ~SCKPT_ENTRY_REWRITE;
}


/* ---------- sets ---------- */

static SortSupportData *
prepare_order(MemoryContext context, const SckptSetDef *def)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	SortSupportData *order = palloc0(sizeof(SortSupportData));

	Assert(def->counted && def->ncolumns == 1);
	order->ssup_cxt = context;
	order->ssup_collation = def->columns[0].collation;
	PrepareSortSupportFromOrderingOp(def->order, order);
	MemoryContextSwitchTo(old);
	return order;
}

SckptSets *
sckpt_sets_create(MemoryContext parent, const SckptSetDef *defs, int ndefs, SckptState *groups, Size head_offset)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt sets", ALLOCSET_SMALL_SIZES);
	SckptSets  *sets = MemoryContextAllocZero(context, sizeof(SckptSets));
	int			ncolumns = 1;

	Assert(head_offset == MAXALIGN(head_offset));
	if (ndefs > PG_UINT16_MAX)
		elog(ERROR, "too many sets");
	sets->context = context;
	sets->value_context = AllocSetContextCreate(context, "stream_ckpt set values", ALLOCSET_SMALL_SIZES);
	sets->groups = groups;
	sets->head_offset = head_offset;
	sets->nsets = ndefs;
	sets->sets = MemoryContextAllocZero(context, Max(1, ndefs) * sizeof(SetColumns));
	for (int i = 0; i < ndefs; i++)
	{
		sets->sets[i].key = sckpt_group_key_create(defs[i].columns, defs[i].ncolumns, context);
		sets->sets[i].counted = defs[i].counted;
		sets->sets[i].values_offset = offsetof(SckptElement, rest);
		if (OidIsValid(defs[i].order))
		{
			sets->sets[i].values_offset = ELEMENT_LINKS + sizeof(SckptElementLinks);
			sets->sets[i].order = prepare_order(context, &defs[i]);
		}
		else if (defs[i].marked_handed)
		{
			sets->sets[i].marked_handed = true;
			sets->sets[i].values_offset = ELEMENT_HANDED + sizeof(uint32);
		}
		ncolumns = Max(ncolumns, defs[i].ncolumns);
	}
	sets->values = MemoryContextAllocZero(context, ncolumns * sizeof(Datum));
	sets->nulls = MemoryContextAllocZero(context, ncolumns * sizeof(bool));
	sets->state = sckpt_state_create(context);
	return sets;
}

void
sckpt_sets_destroy(SckptSets *sets)
{
	sckpt_state_destroy(sets->state);
	MemoryContextDelete(sets->context);
}

SckptState *
sckpt_sets_state(SckptSets *sets)
{
	return sets->state;
}


/* ---------- elements ---------- */

static inline uint32
element_hash(SckptSets *sets, SckptRef group, int set, Datum *values, bool *nulls)
{
	return murmurhash32(sckpt_group_key_hash(sets->sets[set].key, values, nulls) +
						group * 0x9e3779b1U + (uint32) set * 0x85ebca77U);
}

static inline SckptRef
find_element(SckptSets *sets, uint32 hash, SckptRef group, int set, Datum *values, bool *nulls)
{
	SckptGroupKey *key = sets->sets[set].key;
	SckptProbe	probe;
	SckptRef	ref;

	for (ref = sckpt_state_probe(sets->state, hash, &probe);
		 ref != SCKPT_NO_REF;
		 ref = sckpt_state_probe_next(&probe))
	{
		SckptElement *element = element_at(sets, ref);

		if (element->group == group && element->set == set && sckpt_group_key_equal(key, element_values(sets, element), values, nulls))
			break;
	}
	return ref;
}

/* Make an element of count 0; it is not marked dirty, nor in its set's order. */
static SckptRef
add_element(SckptSets *sets, uint32 hash, SckptRef group, int set, Datum *values, bool *nulls)
{
	SckptRef	ref = sckpt_state_insert(sets->state, hash, element_bytes(&sets->sets[set], values, nulls));
	SckptElement *element = element_at(sets, ref);
	SckptSetList *list = list_of(sets, group, set);

	element->group = group;
	element->set = set;
	sckpt_group_key_store(sets->sets[set].key, element_values(sets, element), values, nulls);
	element->next = list->first;
	if (list->first != SCKPT_NO_REF)
		element_at(sets, list->first)->prev = ref;
	list->first = ref;
	if (sets->sets[set].order)
		((SckptElementLinks *) ((char *) element + ELEMENT_LINKS))->parent = SCKPT_SET_OUTSIDE;
	return ref;
}

static inline SckptRef
find_or_add(SckptSets *sets, uint32 hash, SckptRef group, int set, Datum *values, bool *nulls)
{
	SckptRef	ref = find_element(sets, hash, group, set, values, nulls);

	return likely(ref != SCKPT_NO_REF) ? ref : add_element(sets, hash, group, set, values, nulls);
}

uint64
sckpt_sets_mark(SckptSets *sets, SckptRef group, int set, Datum *values, bool *nulls, uint64 bits)
{
	SckptRef	ref;
	SckptElement *element;
	uint64		added;

	if (bits == 0)
		return 0;
	ref = find_or_add(sets, element_hash(sets, group, set, values, nulls), group, set, values, nulls);
	element = element_at(sets, ref);
	added = bits & ~(uint64) element->count;
	if (added)
	{
		element->count |= (int64) added;
		touch(sets, ref, element);
	}
	return added;
}

void
sckpt_sets_unmark(SckptSets *sets, SckptRef group, int set, Datum *values, bool *nulls, uint64 bits)
{
	SckptRef	ref = find_element(sets, element_hash(sets, group, set, values, nulls), group, set, values, nulls);

	if (ref == SCKPT_NO_REF)
		elog(ERROR, "a value is not in its group");
	element_at(sets, ref)->count &= ~(int64) bits;
	touch(sets, ref, element_at(sets, ref));
}

/* An element that was not there is now, or the other way round.  Of one that cannot be compared nothing stays. */
static void
change_order(SckptSets *sets, SckptRef ref, SckptElement *element)
{
	if (element->count != 0)
	{
		sckpt_set_order_remove(sets, ref);
		return;
	}
	PG_TRY();
	{
		sckpt_set_order_insert(sets, ref);
	}
	PG_CATCH();
	{
		if (!(element->entry.flags & SCKPT_ENTRY_DIRTY))
			sckpt_sets_remove(sets, ref);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

SckptRef
sckpt_sets_add(SckptSets *sets, SckptRef group, int set, Datum *values, bool *nulls, int64 count)
{
	SckptRef	ref;
	SckptElement *element;
	int64		sum;

	if (count == 0)
		return SCKPT_NO_REF;
	ref = find_or_add(sets, element_hash(sets, group, set, values, nulls), group, set, values, nulls);
	element = element_at(sets, ref);
	if (unlikely(pg_add_s64_overflow(element->count, count, &sum)))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("a value is in a group too often")));
	if (sets->sets[set].order && (sum == 0) != (element->count == 0))
		change_order(sets, ref, element);
	element->count = sum;
	touch(sets, ref, element);
	if (sum == 0)
		element->entry.flags |= SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE;
	else
		element->entry.flags &= ~(SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE);
	return ref;
}

bool
sckpt_sets_is_empty(SckptSets *sets, SckptRef group, int set)
{
	return list_of(sets, group, set)->first == SCKPT_NO_REF;
}

/* Is an element there, or was it when its group's results were handed on? */
static inline bool
is_known(SckptSets *sets, SckptElement *element)
{
	return element->count != 0 || element_handed(sets, element) != 0;
}

SckptElementValue *
sckpt_sets_elements(SckptSets *sets, SckptRef group, int set, uint64 *count)
{
	SckptRef	first = list_of(sets, group, set)->first;
	SckptGroupKey *key = sets->sets[set].key;
	SckptElementValue *result;
	Datum	   *values;
	bool	   *nulls;
	uint64		n = 0;

	for (SckptRef ref = first; ref != SCKPT_NO_REF; ref = element_at(sets, ref)->next)
	{
		n += is_known(sets, element_at(sets, ref));
		CHECK_FOR_INTERRUPTS();
	}
	*count = n;
	if (n == 0)
		return NULL;

	result = palloc_extended(n * sizeof(SckptElementValue), MCXT_ALLOC_HUGE);
	values = palloc_extended(n * Max(1, key->ncolumns) * sizeof(Datum), MCXT_ALLOC_HUGE);
	nulls = palloc_extended(n * Max(1, key->ncolumns) * sizeof(bool), MCXT_ALLOC_HUGE);
	n = 0;
	for (SckptRef ref = first; ref != SCKPT_NO_REF; ref = element_at(sets, ref)->next)
	{
		SckptElement *element = element_at(sets, ref);

		CHECK_FOR_INTERRUPTS();
		if (!is_known(sets, element))
			continue;
		result[n] = (SckptElementValue)
		{
			.values = values + n * key->ncolumns,
			.nulls = nulls + n * key->ncolumns,
			.count = element->count,
			.handed = element_handed(sets, element),
			.ref = ref
		};
		load_values(sets, element, result[n].values, result[n].nulls);
		n++;
	}
	return result;
}

void
sckpt_sets_load(SckptSets *sets, SckptRef element, Datum *values, bool *nulls)
{
	load_values(sets, element_at(sets, element), values, nulls);
}

/* What a checkpoint has, or the one under way will have, needs a tombstone. */
static inline bool
is_stored(SckptElement *element)
{
	return element->entry.chunk != 0 || (element->entry.flags & SCKPT_ENTRY_INFLIGHT) != 0;
}

void
sckpt_sets_clear(SckptSets *sets, SckptRef ref)
{
	SckptElement *element = element_at(sets, ref);

	if (!is_stored(element) && element_handed(sets, element) == 0)
	{
		sckpt_sets_remove(sets, ref);
		return;
	}
	element->count = 0;
	touch(sets, ref, element);
	element->entry.flags |= SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE;
}

void
sckpt_sets_mark_handed(SckptSets *sets, SckptRef ref, uint32 handed)
{
	SckptElement *element = element_at(sets, ref);

	Assert(sets->sets[element->set].marked_handed);
	*(uint32 *) ((char *) element + ELEMENT_HANDED) = handed;
	if (handed == 0 && element->count == 0 && !is_stored(element))
		sckpt_sets_remove(sets, ref);
}

void
sckpt_sets_merge(SckptSets *sets, SckptRef group, SckptSets *from, SckptRef from_group, SckptSetMarked marked, void *arg)
{
	int			ncolumns = 1;
	Datum	   *values;
	bool	   *nulls;

	Assert(sets != from || group != from_group);
	for (int i = 0; i < from->nsets; i++)
		ncolumns = Max(ncolumns, from->sets[i].key->ncolumns);
	/* Not the arrays of `sets`: the callback may get at those. */
	values = palloc(ncolumns * sizeof(Datum));
	nulls = palloc(ncolumns * sizeof(bool));

	/* Elements never move, so those of `from` stay where they are while the same store takes new ones. */
	for (int i = 0; i < from->nsets; i++)
	{
		for (SckptRef ref = list_of(from, from_group, i)->first; ref != SCKPT_NO_REF; ref = element_at(from, ref)->next)
		{
			SckptElement *element = element_at(from, ref);
			MemoryContext old = MemoryContextSwitchTo(sets->value_context);
			uint64		added = 0;

			load_values(from, element, values, nulls);
			if (from->sets[i].counted)
			{
				sckpt_sets_add(sets, group, i, values, nulls, element->count);
				added = (uint64) element->count;
			}
			else
				added = sckpt_sets_mark(sets, group, i, values, nulls, (uint64) element->count);
			MemoryContextSwitchTo(old);
			if (added && marked)
				marked(arg, i, values, nulls, added);
			MemoryContextReset(sets->value_context);
			CHECK_FOR_INTERRUPTS();
		}
	}
	pfree(values);
	pfree(nulls);
}

void
sckpt_sets_remove(SckptSets *sets, SckptRef ref)
{
	SckptElement *element = element_at(sets, ref);
	SckptSetList *list = list_of(sets, element->group, element->set);

	if (sets->sets[element->set].order && element->count != 0)
		sckpt_set_order_remove(sets, ref);
	if (element->next != SCKPT_NO_REF)
		element_at(sets, element->next)->prev = element->prev;
	if (element->prev != SCKPT_NO_REF)
		element_at(sets, element->prev)->next = element->next;
	else
		list->first = element->next;
	load_values(sets, element, sets->values, sets->nulls);
	sckpt_state_remove(sets->state, ref, element_bytes(&sets->sets[element->set], sets->values, sets->nulls));
}

void
sckpt_sets_drop(SckptSets *sets, SckptRef group)
{
	/* Uninterruptible: half a list is no list. */
	for (int i = 0; i < sets->nsets; i++)
	{
		SckptSetList *list = list_of(sets, group, i);
		SckptRef	ref = list->first;

		while (ref != SCKPT_NO_REF)
		{
			SckptElement *element = element_at(sets, ref);
			SckptRef	next = element->next;

			if (next != SCKPT_NO_REF)
				__builtin_prefetch(element_at(sets, next));
			load_values(sets, element, sets->values, sets->nulls);
			sckpt_state_remove(sets->state, ref, element_bytes(&sets->sets[i], sets->values, sets->nulls));
			ref = next;
		}
		list->first = SCKPT_NO_REF;
		list->root = SCKPT_NO_REF;
		list->inside = list->outside = 0;
	}
}

bool
sckpt_sets_first(SckptSets *sets, SckptRef group, int set, Datum *value)
{
	SckptRef	ref = sckpt_set_order_first(sets, group, set);
	Datum		values[1];
	bool		nulls[1];

	if (ref == SCKPT_NO_REF)
		return false;
	load_values(sets, element_at(sets, ref), values, nulls);
	*value = values[0];
	return true;
}


/* ---------- portable form ---------- */

pg_noreturn static void
report_corrupted(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("stored state of a pipeline is corrupted"),
			 errdetail("%s", detail)));
}

void
sckpt_sets_describe(SckptSets *sets, StringInfo buf)
{
	for (int i = 0; i < sets->nsets; i++)
	{
		SckptGroupKey *key = sets->sets[i].key;

		appendStringInfo(buf, "set\t%s\t", sets->sets[i].counted ? "counted" : "marked");
		for (int j = 0; j < key->ncolumns; j++)
			appendStringInfo(buf, "%s%s", j ? ", " : "", format_type_extended(TupleDescAttr(key->desc, j)->atttypid, -1,
																		   FORMAT_TYPE_FORCE_QUALIFY));
		appendStringInfoChar(buf, '\n');
	}
}

/*
 * The group's number, the set's, bits or count, and the columns: 0 for NULL, else 1 and the value.
 */
void
sckpt_sets_pack(SckptSets *sets, SckptEntry *entry, StringInfo buf)
{
	SckptElement *element = (SckptElement *) entry;
	SetColumns *set = &sets->sets[element->set];
	MemoryContext old = MemoryContextSwitchTo(sets->value_context);

	sckpt_codec_write_uint(buf, (uint64) head_of(sets, element->group)->id);
	sckpt_codec_write_uint(buf, element->set);
	if (set->counted)
		sckpt_codec_write_int(buf, element->count);
	else
		sckpt_codec_write_uint(buf, (uint64) element->count);
	load_values(sets, element, sets->values, sets->nulls);
	for (int i = 0; i < set->key->ncolumns; i++)
		sckpt_codec_write_column(&set->key->columns[i].codec, buf, sets->values[i], sets->nulls[i]);
	MemoryContextSwitchTo(old);
	MemoryContextReset(sets->value_context);
}

bool
sckpt_sets_leaving(SckptSets *sets, SckptEntry *element)
{
	SckptEntry *group = sckpt_state_address(sets->groups, ((SckptElement *) element)->group);

	return (group->flags & SCKPT_ENTRY_LEAVING) != 0;
}

static uint64
remap_marks(const SckptSetForm *form, int set, uint64 marks)
{
	uint64		result = 0;

	if (form->marks == NULL)
		return marks;
	for (; marks != 0; marks &= marks - 1)
	{
		int			mark = form->marks[set * SCKPT_SET_MARKS + pg_rightmost_one_pos64(marks)];

		if (mark >= 0)
			result |= UINT64CONST(1) << mark;
	}
	return result;
}

SckptRef
sckpt_sets_unpack(SckptSets *sets, const SckptSetForm *form, const char **cursor, const char *end)
{
	MemoryContext old = MemoryContextSwitchTo(sets->value_context);
	SckptRef	ref = SCKPT_NO_REF;
	Known	   *known;
	SetColumns *set;
	int64		id;
	uint64		number;
	int64		count;

	if (sets->known == NULL)
		elog(ERROR, "sets are not being read");
	id = (int64) sckpt_codec_read_uint(cursor, end);
	sets->highest_ids[id % SCKPT_MAX_TASKS] = Max(sets->highest_ids[id % SCKPT_MAX_TASKS], id);
	known = known_lookup(sets->known, id);
	number = sckpt_codec_read_uint(cursor, end);
	if (number >= form->nsets)
		report_corrupted("A value is in a set that its query does not have.");
	if (form->sets[number] < 0)
	{
		MemoryContextSwitchTo(old);
		return SCKPT_NO_REF;
	}
	set = &sets->sets[form->sets[number]];
	count = set->counted ? sckpt_codec_read_int(cursor, end) :
		(int64) remap_marks(form, number, sckpt_codec_read_uint(cursor, end));
	number = form->sets[number];
	if (!set->counted && count == 0)
		known = NULL;			/* of calls that the query has no more */
	for (int i = 0; i < set->key->ncolumns; i++)
	{
		uint64		present = sckpt_codec_read_uint(cursor, end);

		if (present > 1)
			report_corrupted("A truth value is neither true nor false.");
		sets->nulls[i] = present == 0;
		sets->values[i] = present ? sckpt_codec_read(&set->key->columns[i].codec, cursor, end) : (Datum) 0;
	}

	/* The newest version comes first. */
	if (known)
	{
		uint32		hash = element_hash(sets, known->ref, number, sets->values, sets->nulls);

		SckptRef	there = find_element(sets, hash, known->ref, number, sets->values, sets->nulls);

		if (there != SCKPT_NO_REF)
		{
			/* Two stored sets may have become one. */
			if (form->marks && !set->counted)
				element_at(sets, there)->count |= count;
		}
		else
		{
			ref = add_element(sets, hash, known->ref, number, sets->values, sets->nulls);
			element_at(sets, ref)->count = count;
			if (set->marked_handed)
				*(uint32 *) ((char *) element_at(sets, ref) + ELEMENT_HANDED) = (uint32) Min(Max(count, 0), PG_UINT32_MAX);

			/* Groups are put in order when they are asked for: most never change again. */
			if (set->order)
				list_of(sets, known->ref, number)->root = SCKPT_SET_UNBUILT;
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(sets->value_context);
	return ref;
}

void
sckpt_sets_begin_unpack(SckptSets *sets)
{
	uint64		cursor = 0;
	SckptRef	ref;

	sckpt_sets_end_unpack(sets);
	sets->known_context = AllocSetContextCreate(sets->context, "stream_ckpt group numbers", ALLOCSET_DEFAULT_SIZES);
	sets->known = known_create(sets->known_context, Min(sckpt_state_rows(sets->groups), PG_INT32_MAX), NULL);
	while ((ref = sckpt_state_next(sets->groups, &cursor)) != SCKPT_NO_REF)
	{
		bool		found;
		Known	   *known = known_insert(sets->known, head_of(sets, ref)->id, &found);

		if (found)
			report_corrupted("Two groups have the same number.");
		known->ref = ref;
		CHECK_FOR_INTERRUPTS();
	}
}

void
sckpt_sets_end_unpack(SckptSets *sets)
{
	if (sets->known_context)
		MemoryContextDelete(sets->known_context);
	sets->known_context = NULL;
	sets->known = NULL;
}

int64
sckpt_sets_highest_id(SckptSets *sets, int task)
{
	return sets->highest_ids[task];
}
