/*-------------------------------------------------------------------------
 *
 * session.c
 *		The sessions of each key: finding, growing and merging them.
 *
 * A session is an entry of the aggregate's store; its key there is the group's key without the session's bounds, and its
 * times are in entry_session().  Sessions of a key do not overlap: where one ends, another may start.
 *
 * Directory.  A store of its own, never checkpointed and counted in the same account, says which sessions a key has.  Its
 * entries are found by the hash of the key, and compared by the key of one of their sessions.  Sessions are sorted by start,
 * which sorts them by end, too, in one of three forms:
 *	- one session: its reference;
 *	- up to LEAF_PLACES: a leaf, an array of (start, session) that doubles as it grows;
 *	- more: an array of (first start, leaf), over leaves of LEAF_PLACES.
 * So a key with many sessions costs a binary search and the moving of half a leaf for a row anywhere in time, and next to
 * nothing at the end, where most rows are.  Leaves are split in the middle, but at the end a new one is begun, so that they
 * are full where time is ordered.  An empty leaf goes; those half empty stay, since sessions close in order of time.
 *
 * A key costs 40 bytes and 11 to 21 of hash table here, beside its session's entry; from the second session on, each costs
 * 16 bytes, doubled at worst.
 *
 * Hashes.  Sessions of a key would crowd the aggregate's hash table, all under one hash, and make it linear: they are kept
 * there under the key's hash mixed with a time (sckpt_session_hash).  Nobody finds them there, so any time does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "aggregate_private.h"

#define FIRST_PLACES	4
#define LEAF_PLACES		256		/* 4 kB */

/* In a leaf, a session; in the array above the leaves, a leaf. */
typedef struct Place
{
	TimestampTz start;			/* of the leaf's first session */
	SckptRef	ref;
	uint32		count;			/* of the leaf's sessions */
} Place;

/* An entry of the directory: what a key has. */
typedef struct Directory
{
	SckptEntry	entry;
	uint32		nsessions;		/* never 0 */
	SckptRef	ref;			/* the session, the leaf, or the array above the leaves */
	uint32		nleaves;		/* 0: there is no such array */
	uint32		capacity;		/* of the leaf or the array; 0: there is neither */
} Directory;

#define DIRECTORY_BYTES (sizeof(Directory) - SCKPT_ENTRY_HEADER)

/* A session's place: which leaf (0 without leaves), and where in it. */
typedef struct Position
{
	uint32		leaf;
	uint32		index;
} Position;

struct SckptSessions
{
	SckptState *state;			/* the directory */
	MemoryContext scratch;		/* what hashing and comparing leave behind */
	Datum	   *key_values;		/* of a session at hand */
	bool	   *key_nulls;
	Datum	   *row_values;		/* a row of nothing but a set's values */
	bool	   *row_nulls;
};

/* For whom elements of a set are new, as sckpt_sets_merge() tells. */
typedef struct Marked
{
	SckptAggregate *agg;
	SckptRef	ref;
} Marked;

SckptSessions *
sckpt_sessions_create(SckptAggregate *agg)
{
	MemoryContext old = MemoryContextSwitchTo(agg->context);
	SckptSessions *sessions = palloc0(sizeof(SckptSessions));
	int			ncolumns = Max(1, agg->query->nsource);

	sessions->state = sckpt_state_create(agg->context);
	sessions->scratch = AllocSetContextCreate(agg->context, "stream_ckpt session", ALLOCSET_SMALL_SIZES);
	sessions->key_values = palloc(Max(1, agg->key->ncolumns) * sizeof(Datum));
	sessions->key_nulls = palloc(Max(1, agg->key->ncolumns) * sizeof(bool));
	sessions->row_values = palloc0(ncolumns * sizeof(Datum));
	sessions->row_nulls = palloc(ncolumns * sizeof(bool));
	memset(sessions->row_nulls, true, ncolumns * sizeof(bool));
	MemoryContextSwitchTo(old);
	return sessions;
}

SckptState *
sckpt_sessions_directory(SckptSessions *sessions)
{
	return sessions->state;
}

/* The rest is below the operator's context. */
void
sckpt_sessions_destroy(SckptSessions *sessions)
{
	sckpt_state_destroy(sessions->state);
}

uint32
sckpt_session_hash(uint32 hash, TimestampTz start)
{
	return murmurhash32(hash ^ murmurhash32((uint32) start ^ murmurhash32((uint32) ((uint64) start >> 32))));
}

/* ---- Places ---- */

static inline SckptEntry *
session_at(SckptAggregate *agg, SckptRef ref)
{
	return (SckptEntry *) sckpt_state_address(agg->operator.state, ref);
}

static inline Place *
places_at(SckptSessions *sessions, SckptRef ref)
{
	return (Place *) sckpt_state_address(sessions->state, ref);
}

/* The places of a leaf.  A key with one session has none. */
static inline Place *
leaf_places(SckptSessions *sessions, Directory *directory, uint32 leaf)
{
	Assert(directory->capacity > 0);
	if (directory->nleaves == 0)
		return places_at(sessions, directory->ref);
	return places_at(sessions, places_at(sessions, directory->ref)[leaf].ref);
}

static inline uint32
leaf_count(SckptSessions *sessions, Directory *directory, uint32 leaf)
{
	return directory->nleaves == 0 ? directory->nsessions : places_at(sessions, directory->ref)[leaf].count;
}

static inline SckptRef
place_ref(SckptSessions *sessions, Directory *directory, Position at)
{
	if (directory->capacity == 0)
		return directory->ref;
	return leaf_places(sessions, directory, at.leaf)[at.index].ref;
}

/* How many of the places start before a time. */
static inline uint32
count_before(const Place *places, uint32 n, TimestampTz time)
{
	uint32		low = 0;

	/* Mostly all of them. */
	if (n > 0 && places[n - 1].start < time)
		return n;
	while (low < n)
	{
		uint32		middle = low + (n - low) / 2;

		if (places[middle].start < time)
			low = middle + 1;
		else
			n = middle;
	}
	return low;
}

/* The last session that starts before a time; false if there is none. */
static bool
find_before(SckptAggregate *agg, Directory *directory, TimestampTz time, Position *at)
{
	SckptSessions *sessions = agg->sessions;
	uint32		n;

	at->leaf = at->index = 0;
	if (directory->capacity == 0)
		return entry_session(agg, session_at(agg, directory->ref))->start < time;
	if (directory->nleaves > 0)
	{
		n = count_before(places_at(sessions, directory->ref), directory->nleaves, time);
		if (n == 0)
			return false;
		at->leaf = n - 1;
	}
	n = count_before(leaf_places(sessions, directory, at->leaf), leaf_count(sessions, directory, at->leaf), time);
	if (n == 0)
		return false;
	at->index = n - 1;
	return true;
}

/* To the session before; false if there is none. */
static bool
step_back(SckptSessions *sessions, Directory *directory, Position *at)
{
	if (at->index > 0)
		at->index--;
	else if (at->leaf > 0)
	{
		at->leaf--;
		at->index = leaf_count(sessions, directory, at->leaf) - 1;
	}
	else
		return false;
	return true;
}

/* The last session that overlaps [start, end), or SCKPT_NO_REF. */
static SckptRef
find_overlap(SckptAggregate *agg, Directory *directory, TimestampTz start, TimestampTz end, Position *at)
{
	SckptRef	ref;

	if (!find_before(agg, directory, end, at))
		return SCKPT_NO_REF;
	ref = place_ref(agg->sessions, directory, *at);
	return entry_session(agg, session_at(agg, ref))->end > start ? ref : SCKPT_NO_REF;
}

/* The directory entry of a key, or NULL. */
static Directory *
find_directory(SckptAggregate *agg, uint32 hash, const Datum *values, const bool *nulls)
{
	SckptSessions *sessions = agg->sessions;
	SckptProbe	probe;
	SckptRef	ref;

	for (ref = sckpt_state_probe(sessions->state, hash, &probe);
		 ref != SCKPT_NO_REF;
		 ref = sckpt_state_probe_next(&probe))
	{
		Directory  *directory = sckpt_state_address(sessions->state, ref);
		SckptEntry *session = session_at(agg, place_ref(sessions, directory, (Position) {0, 0}));

		if (sckpt_group_key_equal(agg->key, entry_key(agg, session), values, nulls))
			return directory;
	}
	return NULL;
}

static SckptRef
directory_ref(SckptAggregate *agg, Directory *directory)
{
	SckptProbe	probe;
	SckptRef	ref = sckpt_state_probe(agg->sessions->state, directory->entry.hash, &probe);

	while (sckpt_state_address(agg->sessions->state, ref) != (void *) directory)
	{
		Assert(ref != SCKPT_NO_REF);
		ref = sckpt_state_probe_next(&probe);
	}
	return ref;
}

/* Make room for one more in an array, which may move; used places are kept. */
static Place *
grow_places(SckptSessions *sessions, SckptRef *ref, uint32 used, uint32 *capacity, uint32 most)
{
	uint32		new_capacity;
	SckptRef	new_ref;

	if (used < *capacity)
		return places_at(sessions, *ref);
	new_capacity = Max(FIRST_PLACES, Min(*capacity * 2, most));
	new_ref = sckpt_state_alloc(sessions->state, new_capacity * sizeof(Place));
	if (*capacity > 0)
	{
		memcpy(places_at(sessions, new_ref), places_at(sessions, *ref), used * sizeof(Place));
		sckpt_state_free(sessions->state, *ref, *capacity * sizeof(Place));
	}
	*ref = new_ref;
	*capacity = new_capacity;
	return places_at(sessions, new_ref);
}

static inline void
insert_place(Place *places, uint32 n, uint32 index, Place place)
{
	memmove(&places[index + 1], &places[index], (n - index) * sizeof(Place));
	places[index] = place;
}

/* A full leaf becomes two; *at is the place of one more session, then, too. */
static void
split_leaf(SckptSessions *sessions, Directory *directory, Position *at)
{
	SckptRef	ref;
	Place	   *top;
	Place	   *right;
	Place	   *left;
	uint32		kept;

	if (directory->nleaves == 0)
	{
		/* The first leaf gets company, and an array above. */
		ref = sckpt_state_alloc(sessions->state, FIRST_PLACES * sizeof(Place));
		top = places_at(sessions, ref);
		top[0] = (Place) {leaf_places(sessions, directory, 0)[0].start, directory->ref, directory->nsessions};
		directory->ref = ref;
		directory->capacity = FIRST_PLACES;
		directory->nleaves = 1;
	}
	ref = sckpt_state_alloc(sessions->state, LEAF_PLACES * sizeof(Place));
	top = grow_places(sessions, &directory->ref, directory->nleaves, &directory->capacity, PG_UINT32_MAX / 2);

	left = places_at(sessions, top[at->leaf].ref);
	right = places_at(sessions, ref);
	kept = at->leaf == directory->nleaves - 1 && at->index == LEAF_PLACES ? LEAF_PLACES : LEAF_PLACES / 2;
	memcpy(right, left + kept, (LEAF_PLACES - kept) * sizeof(Place));
	top[at->leaf].count = kept;
	/* A leaf without sessions gets its start with the first. */
	insert_place(top, directory->nleaves, at->leaf + 1,
				 (Place) {kept < LEAF_PLACES ? right[0].start : DT_NOEND, ref, LEAF_PLACES - kept});
	directory->nleaves++;
	if (at->index >= kept)
	{
		at->leaf++;
		at->index -= kept;
	}
}

/* Enter a session, which overlaps none of those entered, in the directory; `directory` is the key's, NULL if there is none. */
static void
add_session(SckptAggregate *agg, Directory *directory, uint32 hash, SckptRef ref)
{
	SckptSessions *sessions = agg->sessions;
	TimestampTz start = entry_session(agg, session_at(agg, ref))->start;
	Place		place = {start, ref, 1};
	Place	   *places;
	Position	at;

	entry_session(agg, session_at(agg, ref))->hash = hash;
	if (directory == NULL)
	{
		directory = sckpt_state_address(sessions->state, sckpt_state_insert(sessions->state, hash, DIRECTORY_BYTES));
		directory->ref = ref;
		directory->nsessions = 1;
		return;
	}

	if (find_before(agg, directory, start, &at))
		at.index++;
	if (directory->nleaves == 0 && directory->nsessions < LEAF_PLACES)
	{
		SckptRef	only = directory->ref;

		places = grow_places(sessions, &directory->ref, directory->nsessions, &directory->capacity, LEAF_PLACES);
		if (directory->nsessions == 1)
			places[0] = (Place) {entry_session(agg, session_at(agg, only))->start, only, 1};
		insert_place(places, directory->nsessions, at.index, place);
	}
	else
	{
		Place	   *top;

		if (leaf_count(sessions, directory, at.leaf) == LEAF_PLACES)
			split_leaf(sessions, directory, &at);
		top = &places_at(sessions, directory->ref)[at.leaf];
		insert_place(places_at(sessions, top->ref), top->count, at.index, place);
		top->count++;
		if (at.index == 0)
			top->start = start;
	}
	directory->nsessions++;
}

/*
 * Take the session at a place out of the directory.  Returns the key's entry, or NULL when it was the last one.  Never fails.
 */
static Directory *
remove_session(SckptAggregate *agg, Directory *directory, Position at)
{
	SckptSessions *sessions = agg->sessions;
	Place	   *places;
	uint32		n;

	if (directory->nsessions == 1)
	{
		Assert(directory->capacity == 0);
		sckpt_state_remove(sessions->state, directory_ref(agg, directory), DIRECTORY_BYTES);
		return NULL;
	}

	places = leaf_places(sessions, directory, at.leaf);
	n = leaf_count(sessions, directory, at.leaf) - 1;
	memmove(&places[at.index], &places[at.index + 1], (n - at.index) * sizeof(Place));
	directory->nsessions--;
	if (directory->nleaves > 0)
	{
		Place	   *top = places_at(sessions, directory->ref);

		top[at.leaf].count = n;
		if (n > 0)
			top[at.leaf].start = places[0].start;
		else
		{
			sckpt_state_free(sessions->state, top[at.leaf].ref, LEAF_PLACES * sizeof(Place));
			directory->nleaves--;
			memmove(&top[at.leaf], &top[at.leaf + 1], (directory->nleaves - at.leaf) * sizeof(Place));
		}
	}

	if (directory->nsessions == 1)
	{
		/* Back to a reference, without arrays. */
		SckptRef	only = place_ref(sessions, directory, (Position) {0, 0});

		if (directory->nleaves > 0)
			sckpt_state_free(sessions->state, places_at(sessions, directory->ref)[0].ref, LEAF_PLACES * sizeof(Place));
		sckpt_state_free(sessions->state, directory->ref, directory->capacity * sizeof(Place));
		directory->ref = only;
		directory->nleaves = 0;
		directory->capacity = 0;
	}
	return directory;
}

/* ---- Rows ---- */

/* Values that are new to a set of the session that took them: advance the DISTINCT aggregates. */
static void
advance_marked(void *arg, int set, Datum *values, bool *nulls, uint64 bits)
{
	Marked	   *marked = (Marked *) arg;
	SckptAggregate *agg = marked->agg;
	SckptSessions *sessions = agg->sessions;
	SckptAggSet *calls = &agg->set_calls[set];

	if (agg->undo)
		sckpt_undo_element(agg, marked->ref, set, values, nulls, (int64) bits);
	if (calls->counted)
		return;
	for (int i = 0; i < calls->ncolumns; i++)
	{
		sessions->row_values[calls->source[i] - 1] = values[i];
		sessions->row_nulls[calls->source[i] - 1] = nulls[i];
	}
	/* The bits say that the values have passed the calls' filters, which are not asked again. */
	for (; bits != 0; bits &= bits - 1)
		sckpt_aggregate_advance(agg, calls->calls[pg_rightmost_one_pos64(bits)], marked->ref, sessions->row_values,
								sessions->row_nulls);
	for (int i = 0; i < calls->ncolumns; i++)
		sessions->row_nulls[calls->source[i] - 1] = true;
}

/* Put a session, which is not in the directory any more, into another one; it leaves, with its result. */
static void
merge_session(SckptAggregate *agg, SckptRef ref, SckptRef other_ref)
{
	SckptEntry *entry = session_at(agg, ref);
	SckptEntry *other = session_at(agg, other_ref);
	SckptAggSession *session = entry_session(agg, entry);
	SckptAggSession *other_session = entry_session(agg, other);

	sckpt_aggregate_combine(agg, ref, agg, other_ref);
	if (agg->sets)
	{
		Marked		marked = {agg, ref};

		sckpt_sets_merge(agg->sets, ref, agg->sets, other_ref, advance_marked, &marked);
	}
	session->start = Min(session->start, other_session->start);
	session->end = Max(session->end, other_session->end);
	if (agg->weight_offset)
		*entry_weight(agg, entry) += *entry_weight(agg, other);
	if (agg->touched_offset)
		*entry_touched(agg, entry) = Max(*entry_touched(agg, entry), *entry_touched(agg, other));

	if (agg->timers)
		sckpt_timers_remove(agg->timers, other_ref);
	sckpt_state_mark_dirty(agg->operator.state, other_ref);
	other->flags &= ~SCKPT_ENTRY_REWRITE;
	other->flags |= SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_RETRACT;
}

/*
 * The row has overlaps that need more than moving a bound: take them all out of the directory, and merge them into the first.
 * Returns that one, or SCKPT_NO_REF when all were about to leave; *directory as remove_session() leaves it.
 */
static SckptRef
merge_overlaps(SckptAggregate *agg, Directory **directory, TimestampTz start, TimestampTz end)
{
	SckptRef	survivor = SCKPT_NO_REF;
	SckptRef	ref;
	Position	at;

	/* From the last to the first. */
	while (*directory && (ref = find_overlap(agg, *directory, start, end, &at)) != SCKPT_NO_REF)
	{
		*directory = remove_session(agg, *directory, at);
		/* To one that is about to leave, no row comes any more; a new session takes its place. */
		if (session_at(agg, ref)->flags & SCKPT_ENTRY_LEAVING)
			continue;
		if (survivor != SCKPT_NO_REF)
			merge_session(agg, ref, survivor);
		survivor = ref;
		CHECK_FOR_INTERRUPTS();
	}
	return survivor;
}

/* Does the session before overlap, too? */
static bool
previous_overlaps(SckptAggregate *agg, Directory *directory, Position at, TimestampTz start)
{
	return step_back(agg->sessions, directory, &at) &&
		entry_session(agg, session_at(agg, place_ref(agg->sessions, directory, at)))->end > start;
}

/* Note all sessions that overlap, which are about to change. */
static void
note_overlaps(SckptAggregate *agg, Directory *directory, TimestampTz start, TimestampTz end)
{
	Position	at;

	if (!find_before(agg, directory, end, &at))
		return;
	do
	{
		SckptRef	ref = place_ref(agg->sessions, directory, at);

		if (entry_session(agg, session_at(agg, ref))->end <= start)
			break;
		sckpt_undo_entry(agg, ref);
	} while (step_back(agg->sessions, directory, &at));
}

SckptRef
sckpt_session_place(SckptAggregate *agg, uint32 hash, TimestampTz start, TimestampTz end)
{
	SckptSessions *sessions = agg->sessions;
	Directory  *directory = find_directory(agg, hash, agg->key_values, agg->key_nulls);
	SckptAggSession *session;
	SckptRef	ref = SCKPT_NO_REF;
	Position	at = {0, 0};

	Assert(start < end);
	if (agg->undo && directory)
		note_overlaps(agg, directory, start, end);
	if (directory)
		ref = find_overlap(agg, directory, start, end, &at);
	if (ref != SCKPT_NO_REF)
	{
		SckptEntry *entry = session_at(agg, ref);

		session = entry_session(agg, entry);
		if (!(entry->flags & SCKPT_ENTRY_LEAVING) &&
			(start >= session->start || !previous_overlaps(agg, directory, at, start)))
		{
			/* The usual case.  Timers are lower bounds, so that a later end needs none. */
			session->end = Max(session->end, end);
			if (start < session->start)
			{
				session->start = start;
				if (directory->capacity > 0)
					leaf_places(sessions, directory, at.leaf)[at.index].start = start;
				if (directory->nleaves > 0 && at.index == 0)
					places_at(sessions, directory->ref)[at.leaf].start = start;
			}
			return ref;
		}
		ref = merge_overlaps(agg, &directory, start, end);
	}

	if (ref != SCKPT_NO_REF)
	{
		session = entry_session(agg, session_at(agg, ref));
		session->start = Min(session->start, start);
		session->end = Max(session->end, end);
		add_session(agg, directory, hash, ref);
		return ref;
	}

	ref = sckpt_aggregate_add_group(agg, sckpt_session_hash(hash, start));
	if (agg->undo)
		sckpt_undo_added(agg, ref);
	session = entry_session(agg, session_at(agg, ref));
	session->start = start;
	session->end = end;
	session->emitted_start = session->emitted_end = DT_NOBEGIN;
	add_session(agg, directory, hash, ref);
	/* With state_ttl, whoever sets when it was touched registers it. */
	if (agg->timers && !agg->touched_offset)
		sckpt_aggregate_register(agg, ref, agg->key_values, agg->key_nulls);
	return ref;
}

/* ---- Questions, and entries that come and go ---- */

bool
sckpt_session_overlaps(SckptAggregate *agg, uint32 hash, TimestampTz start, TimestampTz end)
{
	Directory  *directory = find_directory(agg, hash, agg->key_values, agg->key_nulls);
	Position	at;

	return directory && find_overlap(agg, directory, start, end, &at) != SCKPT_NO_REF;
}

/*
 * Sessions only grow: the one with these bounds in the sink is the one that contains them now.
 */
SckptRef
sckpt_session_find_emitted(SckptAggregate *agg, uint32 hash, TimestampTz start, TimestampTz end, bool has_start, bool has_end)
{
	Directory  *directory = find_directory(agg, hash, agg->key_values, agg->key_nulls);
	SckptAggSession *session;
	SckptRef	ref;
	Position	at;

	/* Its start is at or before `start`, and before `end`. */
	Assert(has_start || has_end);
	if (directory == NULL || !find_before(agg, directory, has_start ? add_time(start, 1) : end, &at))
		return SCKPT_NO_REF;
	ref = place_ref(agg->sessions, directory, at);
	session = entry_session(agg, session_at(agg, ref));
	if (session->emitted_start == DT_NOBEGIN)
		return SCKPT_NO_REF;
	if ((has_start && session->emitted_start != start) || (has_end && session->emitted_end != end))
		return SCKPT_NO_REF;
	return ref;
}

void
sckpt_session_enter(SckptAggregate *agg, SckptRef ref)
{
	SckptSessions *sessions = agg->sessions;
	MemoryContext old = MemoryContextSwitchTo(sessions->scratch);
	Directory  *directory;
	uint32		hash;

	sckpt_group_key_load(agg->key, entry_key(agg, session_at(agg, ref)), sessions->key_values, sessions->key_nulls);
	hash = sckpt_group_key_hash(agg->key, sessions->key_values, sessions->key_nulls);
	directory = find_directory(agg, hash, sessions->key_values, sessions->key_nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(sessions->scratch);
	add_session(agg, directory, hash, ref);
}

/*
 * After a commit there is no transaction, so that the functions of the key's types cannot be called: of the keys with the session's hash,
 * it is the one that has the session where this one would be.
 */
void
sckpt_session_forget(SckptAggregate *agg, SckptRef ref)
{
	SckptSessions *sessions = agg->sessions;
	SckptAggSession *session = entry_session(agg, session_at(agg, ref));
	SckptProbe	probe;
	Position	at;

	for (SckptRef key = sckpt_state_probe(sessions->state, session->hash, &probe);
		 key != SCKPT_NO_REF;
		 key = sckpt_state_probe_next(&probe))
	{
		Directory  *directory = sckpt_state_address(sessions->state, key);

		/* One that was merged is not there any more: another one is in its place, or none. */
		if (find_before(agg, directory, add_time(session->start, 1), &at) && place_ref(sessions, directory, at) == ref)
		{
			(void) remove_session(agg, directory, at);
			return;
		}
	}
}
