/*-------------------------------------------------------------------------
 *
 * log_store.c
 *		What the open transactions have written so far, in bounded memory.
 *
 * Each xid (of a transaction or of a subtransaction) has a list of its
 * messages.  When all messages together pass the limit, the largest lists give
 * up their messages and keep 8 bytes per message, the place in the log; when
 * all places together pass a quarter of the limit, the largest keep only the
 * first and the last one.  log.c reads the messages again at the commit.
 *
 * Giving up goes down to three quarters of the limit at once, all lists of
 * at least half the largest one's size in each pass.  So its cost, a pass over
 * the lists that hold something, is spread over a quarter of the limit, even
 * where there are a million small subtransactions.
 *
 * What is not bounded is the about 150 bytes per xid that wrote to a stream
 * and has not ended: the server itself keeps such a list for a subtransaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "common/hashfn.h"
#include "utils/memutils.h"

#include "log_store.h"
#include "record.h"

/* Places of one xid, a piece of a list; capacities double. */
struct SckptLogPlaces
{
	SckptLogPlaces *next;
	uint32		first;			/* those before have been popped */
	uint32		n;
	uint32		capacity;
	XLogRecPtr	lsn[FLEXIBLE_ARRAY_MEMBER];
};

#define PLACES_MIN_CAPACITY 8
#define PLACES_MAX_CAPACITY 1000

typedef struct XactSlot
{
	TransactionId xid;
	char		status;
	SckptLogXact *xact;
} XactSlot;

#define SH_PREFIX xacts
#define SH_ELEMENT_TYPE XactSlot
#define SH_KEY_TYPE TransactionId
#define SH_KEY xid
#define SH_HASH_KEY(table, key) murmurhash32(key)
#define SH_EQUAL(table, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/*
 * Most messages of bulk loads are a little longer than what their writers gather.  Memory for these is kept, instead of being given back and
 * got anew, page by page, for each.
 */
#define USUAL_MIN_BYTES (SCKPT_RECORD_TARGET_BYTES / 4)
#define USUAL_MAX_BYTES (SCKPT_RECORD_TARGET_BYTES + SCKPT_RECORD_TARGET_BYTES / 4)
#define MAX_SPARE 128

#define XACTS_INITIAL_SIZE 256
/* A table that is empty and has more slots than this is replaced by a small one. */
#define XACTS_MAX_IDLE_SIZE 65536

struct SckptLogStore
{
	MemoryContext context;
	Size		memory_limit;
	xacts_hash *table;
	SckptLogXact *last;			/* the one last added to, or NULL: most messages come in runs */
	dlist_head	open;			/* all in the table, by first_lsn */
	dlist_head	held;			/* those kept as messages */
	dlist_head	placed;			/* those with pieces of places */
	Size		held_bytes;		/* messages, also of xids taken out and not popped yet */
	Size		placed_bytes;	/* places, likewise */
	Size		tap_bytes;		/* xids that hold more, or half of what all may hold, are tapped; 0: none is */
	dlist_head	taps;			/* those with messages to take */
	SckptLogMessage *spare;		/* of the usual size, kept for the next ones */
	int			nspare;
	TransactionId *dropped;		/* tapped xids that ended without a commit */
	int			ndropped;
	int			maxdropped;
};

static void free_content(SckptLogStore *store, SckptLogXact *xact);

SckptLogStore *
sckpt_log_store_create(MemoryContext context, Size memory_limit)
{
	SckptLogStore *store = MemoryContextAllocZero(context, sizeof(SckptLogStore));

	store->context = context;
	store->memory_limit = memory_limit;
	store->table = xacts_create(context, XACTS_INITIAL_SIZE, NULL);
	dlist_init(&store->open);
	dlist_init(&store->held);
	dlist_init(&store->placed);
	dlist_init(&store->taps);
	return store;
}

uint64
sckpt_log_store_count(SckptLogStore *store)
{
	return store->table->members;
}

XLogRecPtr
sckpt_log_store_first_lsn(SckptLogStore *store)
{
	if (dlist_is_empty(&store->open))
		return InvalidXLogRecPtr;
	return dlist_head_element(SckptLogXact, open, &store->open)->first_lsn;
}

Size
sckpt_log_store_memory(SckptLogStore *store)
{
	return store->held_bytes + store->placed_bytes +
		store->table->members * sizeof(SckptLogXact) +
		store->table->size * sizeof(XactSlot);
}

/* Append a place to the pieces. */
static void
add_place(SckptLogStore *store, SckptLogXact *xact, XLogRecPtr lsn)
{
	SckptLogPlaces *piece = xact->u.places.tail;

	if (piece == NULL || piece->n == piece->capacity)
	{
		uint32		capacity = piece ? Min(piece->capacity * 2, PLACES_MAX_CAPACITY) : PLACES_MIN_CAPACITY;
		SckptLogPlaces *added;
		Size		space;

		added = MemoryContextAlloc(store->context,
								   offsetof(SckptLogPlaces, lsn) + capacity * sizeof(XLogRecPtr));
		added->next = NULL;
		added->first = 0;
		added->n = 0;
		added->capacity = capacity;

		if (piece)
			piece->next = added;
		else
		{
			xact->u.places.head = added;
			dlist_push_tail(&store->placed, &xact->large);
		}
		xact->u.places.tail = added;
		space = GetMemoryChunkSpace(added);
		xact->memory += space;
		store->placed_bytes += space;
		piece = added;
	}
	piece->lsn[piece->n++] = lsn;
}

/* Keep the places of an xid's messages instead of the messages, which are returned. */
static SckptLogMessage *
keep_places(SckptLogStore *store, SckptLogXact *xact)
{
	SckptLogMessage *messages = xact->u.held.head;

	Assert(xact->kept == SCKPT_LOG_HELD);
	dlist_delete(&xact->large);
	store->held_bytes -= xact->memory;

	xact->kept = SCKPT_LOG_PLACES;
	xact->memory = 0;
	xact->u.places.head = NULL;
	xact->u.places.tail = NULL;

	for (SckptLogMessage *message = messages; message; message = message->next)
	{
		if (message->lsn != xact->first_lsn && message->lsn != xact->last_lsn)
			add_place(store, xact, message->lsn);
	}
	return messages;
}

static void
free_messages(SckptLogMessage *message)
{
	while (message)
	{
		SckptLogMessage *next = message->next;

		sckpt_log_free_message(message);
		message = next;
	}
}

static void
spill_messages(SckptLogStore *store, SckptLogXact *xact)
{
	free_messages(keep_places(store, xact));
}

static void
add_tapped(SckptLogStore *store, SckptLogXact *xact, SckptLogMessage *message)
{
	message->next = NULL;
	if (message->empty)
	{
		sckpt_log_free_message(message);
		return;
	}
	if (xact->tap_head)
		xact->tap_tail->next = message;
	else
	{
		xact->tap_head = message;
		dlist_push_tail(&store->taps, &xact->tap);
	}
	xact->tap_tail = message;
}

/* From now on hand out what the xid writes, and what it has written. */
static void
start_tap(SckptLogStore *store, SckptLogXact *xact)
{
	SckptLogMessage *message = keep_places(store, xact);

	xact->tapped = true;
	while (message)
	{
		SckptLogMessage *next = message->next;

		add_tapped(store, xact, message);
		message = next;
	}
}

/* Keep only the first and the last place. */
static void
spill_places(SckptLogStore *store, SckptLogXact *xact)
{
	Assert(xact->kept == SCKPT_LOG_PLACES && xact->memory > 0);
	dlist_delete(&xact->large);
	free_content(store, xact);
	xact->kept = SCKPT_LOG_RANGE;
}

/* Make the largest of a list give up what they keep until no more than `target` bytes are left. */
static void
spill_list(SckptLogStore *store, dlist_head *list, Size *bytes, Size target,
		   void (*spill) (SckptLogStore *, SckptLogXact *))
{
	while (*bytes > target && !dlist_is_empty(list))
	{
		Size		largest = 0;
		dlist_mutable_iter iter;

		dlist_foreach_modify(iter, list)
			largest = Max(largest, dlist_container(SckptLogXact, large, iter.cur)->memory);

		dlist_foreach_modify(iter, list)
		{
			SckptLogXact *xact = dlist_container(SckptLogXact, large, iter.cur);

			if (*bytes <= target)
				break;
			if (xact->memory >= largest / 2)
				spill(store, xact);
		}
	}
}

static inline void
enforce_limit(SckptLogStore *store)
{
	Size		limit = store->memory_limit;

	if (unlikely(store->held_bytes > limit))
		spill_list(store, &store->held, &store->held_bytes, limit - limit / 4, spill_messages);
	if (unlikely(store->placed_bytes > limit / 4))
		spill_list(store, &store->placed, &store->placed_bytes, limit / 4 - limit / 16, spill_places);
}

void
sckpt_log_store_set_limit(SckptLogStore *store, Size memory_limit)
{
	store->memory_limit = memory_limit;
	enforce_limit(store);
}

void
sckpt_log_store_set_tap(SckptLogStore *store, Size bytes)
{
	store->tap_bytes = bytes;
}

SckptLogMessage *
sckpt_log_store_take_tap_of(SckptLogStore *store, SckptLogXact *xact)
{
	SckptLogMessage *messages = xact->tap_head;

	if (messages)
		dlist_delete(&xact->tap);
	xact->tap_head = xact->tap_tail = NULL;
	return messages;
}

SckptLogMessage *
sckpt_log_store_take_tap(SckptLogStore *store, TransactionId *xid)
{
	SckptLogXact *xact;

	if (dlist_is_empty(&store->taps))
		return NULL;
	xact = dlist_head_element(SckptLogXact, tap, &store->taps);
	*xid = xact->xid;
	return sckpt_log_store_take_tap_of(store, xact);
}

bool
sckpt_log_store_next_dropped(SckptLogStore *store, TransactionId *xid)
{
	if (store->ndropped == 0)
		return false;
	*xid = store->dropped[--store->ndropped];
	return true;
}

/* Whoever took messages of this xid must hear that they count for nothing. */
void
sckpt_log_store_note_dropped(SckptLogStore *store, TransactionId xid)
{
	if (store->ndropped == store->maxdropped)
	{
		store->maxdropped = Max(16, store->maxdropped * 2);
		if (store->dropped)
			store->dropped = repalloc_huge(store->dropped, store->maxdropped * sizeof(TransactionId));
		else
			store->dropped = MemoryContextAlloc(store->context, store->maxdropped * sizeof(TransactionId));
	}
	store->dropped[store->ndropped++] = xid;
}

static inline bool
is_usual(uint32 len, bool empty)
{
	return !empty && len >= USUAL_MIN_BYTES && len <= USUAL_MAX_BYTES;
}

SckptLogMessage *
sckpt_log_store_make_message(SckptLogStore *store, TransactionId xid, XLogRecPtr lsn, Oid stream, uint32 len, bool empty)
{
	SckptLogMessage *message = store->spare;

	if (message && is_usual(len, empty))
	{
		store->spare = message->next;
		store->nspare--;
	}
	else
		message = MemoryContextAlloc(store->context, offsetof(SckptLogMessage, data) +
									 (is_usual(len, empty) ? USUAL_MAX_BYTES : empty ? 0 : len));
	message->next = NULL;
	message->xid = xid;
	message->lsn = lsn;
	message->store = store;
	message->stream = stream;
	message->len = len;
	message->empty = empty;
	return message;
}

void
sckpt_log_free_message(SckptLogMessage *message)
{
	SckptLogStore *store = message->store;

	if (!is_usual(message->len, message->empty) || store->nspare == MAX_SPARE)
	{
		pfree(message);
		return;
	}
	message->next = store->spare;
	store->spare = message;
	store->nspare++;
}

void
sckpt_log_store_drop_spare(SckptLogStore *store)
{
	while (store->spare)
	{
		SckptLogMessage *message = store->spare;

		store->spare = message->next;
		pfree(message);
	}
	store->nspare = 0;
}

static SckptLogXact *
find_or_make_xact(SckptLogStore *store, TransactionId xid, XLogRecPtr lsn)
{
	SckptLogXact *xact;
	XactSlot   *slot;
	bool		found;

	slot = xacts_insert(store->table, xid, &found);
	if (found)
		return slot->xact;

	/* An out-of-memory error here leaves the reader unusable, as any error does. */
	xact = MemoryContextAllocZero(store->context, sizeof(SckptLogXact));
	xact->xid = xid;
	xact->kept = SCKPT_LOG_HELD;
	xact->first_lsn = lsn;
	dlist_push_tail(&store->open, &xact->open);
	dlist_push_tail(&store->held, &xact->large);
	slot->xact = xact;
	return xact;
}

void
sckpt_log_store_add(SckptLogStore *store, SckptLogMessage *message)
{
	SckptLogXact *xact = store->last;
	XLogRecPtr	lsn = message->lsn;

	if (xact == NULL || xact->xid != message->xid)
	{
		xact = find_or_make_xact(store, message->xid, lsn);
		store->last = xact;
	}
	xact->nbytes += message->len;

	if (xact->kept == SCKPT_LOG_HELD)
	{
		Size		space = GetMemoryChunkSpace(message);

		if (xact->u.held.tail)
			xact->u.held.tail->next = message;
		else
			xact->u.held.head = message;
		xact->u.held.tail = message;
		xact->memory += space;
		store->held_bytes += space;
	}
	else
	{
		if (xact->kept == SCKPT_LOG_PLACES && xact->nmessages >= 2)
			add_place(store, xact, xact->last_lsn);
		if (xact->tapped)
			add_tapped(store, xact, message);
		else
			sckpt_log_free_message(message);
	}

	xact->last_lsn = lsn;
	xact->nmessages++;
	if (store->tap_bytes && xact->kept == SCKPT_LOG_HELD && xact->memory > Min(store->tap_bytes, store->memory_limit / 2))
		start_tap(store, xact);
	enforce_limit(store);
}

SckptLogXact *
sckpt_log_store_take(SckptLogStore *store, TransactionId xid)
{
	XactSlot   *slot = xacts_lookup(store->table, xid);
	SckptLogXact *xact;

	if (slot == NULL)
		return NULL;

	xact = slot->xact;
	xacts_delete_item(store->table, slot);
	if (store->table->members == 0 && store->table->size > XACTS_MAX_IDLE_SIZE)
	{
		xacts_destroy(store->table);
		store->table = xacts_create(store->context, XACTS_INITIAL_SIZE, NULL);
	}
	dlist_delete(&xact->open);
	if (xact->memory > 0)
		dlist_delete(&xact->large);
	if (store->last == xact)
		store->last = NULL;
	return xact;
}

void
sckpt_log_store_drop(SckptLogStore *store, TransactionId xid)
{
	SckptLogXact *xact = sckpt_log_store_take(store, xid);

	if (xact == NULL)
		return;
	if (xact->tapped)
		sckpt_log_store_note_dropped(store, xid);
	sckpt_log_store_free(store, xact);
}

/*
 * Drop the xids before the oldest one that was running.  Their end, if it was
 * written at all, was written before this was.
 */
void
sckpt_log_store_drop_older(SckptLogStore *store, TransactionId oldest_running)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &store->open)
	{
		SckptLogXact *xact = dlist_container(SckptLogXact, open, iter.cur);

		if (TransactionIdPrecedes(xact->xid, oldest_running))
			sckpt_log_store_drop(store, xact->xid);
	}
}

/* Drop what a shutdown or a crash ended: everything but prepared transactions. */
void
sckpt_log_store_drop_unprepared(SckptLogStore *store)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &store->open)
	{
		SckptLogXact *xact = dlist_container(SckptLogXact, open, iter.cur);

		if (!xact->prepared)
			sckpt_log_store_drop(store, xact->xid);
	}
}

void
sckpt_log_store_mark_prepared(SckptLogStore *store, TransactionId xid)
{
	XactSlot   *slot = xacts_lookup(store->table, xid);

	if (slot)
		slot->xact->prepared = true;
}

SckptLogMessage *
sckpt_log_store_pop_message(SckptLogStore *store, SckptLogXact *xact)
{
	SckptLogMessage *message = xact->u.held.head;
	Size		space;

	Assert(xact->kept == SCKPT_LOG_HELD);
	if (message == NULL)
		return NULL;

	space = GetMemoryChunkSpace(message);
	xact->memory -= space;
	store->held_bytes -= space;
	xact->u.held.head = message->next;
	xact->nmessages--;
	xact->first_lsn = message->next ? message->next->lsn : InvalidXLogRecPtr;
	message->next = NULL;
	return message;
}

XLogRecPtr
sckpt_log_store_pop_place(SckptLogStore *store, SckptLogXact *xact)
{
	XLogRecPtr	lsn = xact->first_lsn;
	SckptLogPlaces *piece = xact->u.places.head;

	Assert(xact->kept == SCKPT_LOG_PLACES && xact->nmessages > 0);

	/* Leave pieces that are used up behind. */
	while (piece && piece->first == piece->n)
	{
		Size		space = GetMemoryChunkSpace(piece);

		xact->u.places.head = piece->next;
		xact->memory -= space;
		store->placed_bytes -= space;
		pfree(piece);
		piece = xact->u.places.head;
	}

	xact->nmessages--;
	if (piece)
		xact->first_lsn = piece->lsn[piece->first++];
	else
		xact->first_lsn = xact->nmessages > 0 ? xact->last_lsn : InvalidXLogRecPtr;
	return lsn;
}

/* Free what is kept of the messages. */
static void
free_content(SckptLogStore *store, SckptLogXact *xact)
{
	if (xact->kept == SCKPT_LOG_HELD)
	{
		store->held_bytes -= xact->memory;
		free_messages(xact->u.held.head);
	}
	else if (xact->kept == SCKPT_LOG_PLACES)
	{
		SckptLogPlaces *piece = xact->u.places.head;

		store->placed_bytes -= xact->memory;
		while (piece)
		{
			SckptLogPlaces *next = piece->next;

			pfree(piece);
			piece = next;
		}
	}
	xact->memory = 0;
}

/* Free one that was taken out. */
void
sckpt_log_store_free(SckptLogStore *store, SckptLogXact *xact)
{
	free_content(store, xact);
	free_messages(sckpt_log_store_take_tap_of(store, xact));
	pfree(xact);
}
