/*-------------------------------------------------------------------------
 *
 * chunk.c
 *		The chunks of a task's state stores: writing them, the account of
 *		what in them still counts, and their cleaning.
 *
 * `live` is exact at any time between two attempts: an entry that is removed
 * tells its chunk so (sckpt_checkpoint_account), one that is written anew leaves
 * its old chunk when that has been committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "checkpoint_private.h"
#include "codec.h"
#include "part.h"

/* When less than half of a store's stored entries are current, and there are more than this. */
#define CLEAN_MIN_ENTRIES 4096

/* When there are more tombstones than this, and than a fourth of the entries. */
#define CLEAN_MIN_GONE 256

/* ---- Writing ---- */

void
sckpt_chunk_begin(SckptTask *task, SckptStore *store, StringInfo buf)
{
	SckptOperator *operator = task->operators[store->operator];
	StringInfoData description;

	resetStringInfo(buf);
	sckpt_codec_write_uint(buf, SCKPT_CHUNK_VERSION);
	initStringInfo(&description);
	operator->describe(operator, store->elements, &description);
	sckpt_codec_write_string(buf, description.data);
	pfree(description.data);
}

void
sckpt_chunk_insert(SckptTask *task, int number, int stage, int64 id, uint32 entries, const char *data, Size bytes)
{
	Datum		values[9];
	pg_crc32c	crc;
	bytea	   *payload = palloc(VARHDRSZ + bytes);

	SET_VARSIZE(payload, VARHDRSZ + bytes);
	memcpy(VARDATA(payload), data, bytes);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, bytes);
	FIN_CRC32C(crc);

	values[0] = Int64GetDatum(task->def->id);
	values[1] = Int32GetDatum(stage);
	values[2] = Int32GetDatum(number);
	values[3] = Int64GetDatum(id);
	values[4] = Int64GetDatum(task->attempt->id);
	values[5] = Int32GetDatum(entries);
	values[6] = Int64GetDatum(bytes);
	values[7] = Int64GetDatum((int64) crc);
	values[8] = PointerGetDatum(payload);
	sckpt_checkpoint_execute(SCKPT_STATEMENT_CHUNK, values, NULL);
	pfree(payload);
}

void
sckpt_chunk_write(SckptTask *task, SckptStore *store, StringInfo buf, uint32 entries, uint32 gone)
{
	SckptUser	saved;

	if (task->attempt->parcel)
		sckpt_part_send_chunk(task, store->stage, store->next_chunk + store->nwritten, entries, buf->data, buf->len);
	else
	{
		sckpt_catalog_enter(&saved);
		sckpt_chunk_insert(task, 0, store->stage, store->next_chunk + store->nwritten, entries, buf->data, buf->len);
		sckpt_catalog_leave(&saved);
	}

	if (store->nwritten == store->maxwritten)
	{
		int			maxwritten = Max(16, store->maxwritten * 2);

		if (store->written)
		{
			store->written = repalloc_huge(store->written, maxwritten * sizeof(uint32));
			store->written_gone = repalloc_huge(store->written_gone, maxwritten * sizeof(uint32));
		}
		else
		{
			store->written = MemoryContextAlloc(task->run_context, maxwritten * sizeof(uint32));
			store->written_gone = MemoryContextAlloc(task->run_context, maxwritten * sizeof(uint32));
		}
		store->maxwritten = maxwritten;
	}
	store->written_gone[store->nwritten] = gone;
	store->written[store->nwritten++] = entries;
	task->attempt->rows += entries;
	task->attempt->bytes += buf->len;
}

/* The oldest chunk with something that counts, besides tombstones, after the checkpoint being taken. */
static int64
oldest_kept(SckptStore *store)
{
	int64		oldest = PG_INT64_MAX;

	for (int i = 0; i < store->nchunks; i++)
	{
		if (store->chunks[i].id && store->chunks[i].live != store->chunks[i].leaving)
			oldest = Min(oldest, store->chunks[i].id);
	}
	return oldest;
}

/* Can a chunk be deleted?  A tombstone counts while there are older chunks. */
static inline bool
is_empty(SckptChunk *chunk, int64 oldest)
{
	return chunk->id && chunk->live == chunk->leaving && (chunk->gone == 0 || chunk->id < oldest);
}

void
sckpt_chunk_delete(SckptTask *task, int number, int stage, Datum *ids, int nids)
{
	Datum		values[4];

	values[0] = Int64GetDatum(task->def->id);
	values[1] = Int32GetDatum(stage);
	values[2] = Int32GetDatum(number);
	values[3] = PointerGetDatum(construct_array(ids, nids, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	sckpt_checkpoint_execute(SCKPT_STATEMENT_CHUNK_DELETE, values, NULL);
}

void
sckpt_chunk_delete_empty(SckptTask *task)
{
	for (int s = 0; s < task->nstores; s++)
	{
		SckptStore *store = &task->stores[s];
		Datum	   *ids = palloc(Max(1, store->nchunks) * sizeof(Datum));
		int			nids = 0;
		int64		oldest = oldest_kept(store);

		for (int i = 0; i < store->nchunks; i++)
		{
			if (is_empty(&store->chunks[i], oldest))
				ids[nids++] = Int64GetDatum(store->chunks[i].id);
		}
		if (nids > 0 && task->attempt->parcel)
			sckpt_part_send_deletions(task, store->stage, ids, nids);
		else if (nids > 0)
			sckpt_chunk_delete(task, 0, store->stage, ids, nids);
		pfree(ids);
	}
}

int
sckpt_chunk_count(SckptTask *task)
{
	int			count = 0;

	for (int s = 0; s < task->nstores; s++)
	{
		SckptStore *store = &task->stores[s];

		count += store->nwritten;
		for (int i = 0; i < store->nchunks; i++)
		{
			if (store->chunks[i].id && store->chunks[i].live != store->chunks[i].leaving)
				count++;
		}
	}
	return count;
}

/* ---- Accounts ---- */

int
sckpt_checkpoint_add_chunk(SckptStore *store, int64 id, uint32 entries, MemoryContext context)
{
	int			at;

	for (at = 0; at < store->nchunks; at++)
	{
		if (store->chunks[at].id == 0)
			break;
	}
	if (at == store->maxchunks)
	{
		int			maxchunks = Max(64, store->maxchunks * 2);

		if (store->chunks)
			store->chunks = repalloc_huge(store->chunks, maxchunks * sizeof(SckptChunk));
		else
			store->chunks = MemoryContextAlloc(context, maxchunks * sizeof(SckptChunk));
		store->maxchunks = maxchunks;
	}
	if (at == store->nchunks)
		store->nchunks++;
	memset(&store->chunks[at], 0, sizeof(SckptChunk));
	store->chunks[at].id = id;
	store->chunks[at].entries = entries;
	store->stored_entries += entries;
	return at;
}

void
sckpt_checkpoint_account(void *arg, uint32 chunk)
{
	SckptStore *store = arg;

	Assert(chunk > 0 && chunk <= store->nchunks && store->chunks[chunk - 1].live > 0);
	store->chunks[chunk - 1].live--;
}

void
sckpt_chunk_switch(SckptStore *store)
{
	int64		oldest = oldest_kept(store);

	for (int i = 0; i < store->nchunks; i++)
	{
		SckptChunk *chunk = &store->chunks[i];

		if (is_empty(chunk, oldest))
		{
			store->stored_entries -= chunk->entries;
			chunk->id = 0;
		}
		chunk->live -= chunk->leaving;
		chunk->leaving = 0;
	}
}

void
sckpt_chunk_reset(SckptTask *task)
{
	for (int s = 0; s < task->nstores; s++)
	{
		SckptStore *store = &task->stores[s];

		for (int i = 0; i < store->nchunks; i++)
			store->chunks[i].leaving = 0;
		store->nwritten = 0;
	}
}

/* ---- Cleaning ---- */

static int
compare_live(const void *a, const void *b, void *arg)
{
	SckptChunk *chunks = arg;
	uint32		x = chunks[*(const int *) a].live;
	uint32		y = chunks[*(const int *) b].live;

	return x < y ? -1 : x > y;
}

static int
compare_age(const void *a, const void *b, void *arg)
{
	SckptChunk *chunks = arg;
	int64		x = chunks[*(const int *) a].id;
	int64		y = chunks[*(const int *) b].id;

	return x < y ? -1 : x > y;
}

/*
 * When most stored entries are stale, have the emptiest chunks' current entries written with the next checkpoint. About as
 * many as this one has written, so that no checkpoint is much larger than what changed.  When there are many tombstones, the
 * oldest chunks instead: those up to the oldest one that is left count for nothing.
 */
void
sckpt_chunk_clean(SckptTask *task, SckptStore *store)
{
	SckptOperator *operator = task->operators[store->operator];
	SckptState *state = store->elements ? operator->elements : operator->state;
	uint64		rows = sckpt_state_rows(state);
	uint64		stored = store->stored_entries;
	uint64		budget;
	uint64		written = 0;
	uint64		taken = 0;
	uint64		gone = 0;
	uint64		cursor = 0;
	int		   *order;
	bool	   *victim;
	int			n = 0;
	SckptRef	ref;

	for (int i = 0; i < store->nwritten; i++)
		written += store->written[i];
	store->nwritten = 0;

	/* Those that have just become empty the next checkpoint deletes. */
	for (int i = 0; i < store->nchunks; i++)
	{
		if (store->chunks[i].id && store->chunks[i].live == 0 && store->chunks[i].gone == 0)
			stored -= store->chunks[i].entries;
		else if (store->chunks[i].id)
			gone += store->chunks[i].gone;
	}
	if (gone < CLEAN_MIN_GONE || gone < rows / 4)
		gone = 0;
	if (gone == 0 && (stored < CLEAN_MIN_ENTRIES || stored <= 2 * rows))
		return;
	budget = Max(Max(written, rows / 16), 1024);

	order = MemoryContextAlloc(task->attempt->context, store->nchunks * sizeof(int));
	victim = MemoryContextAllocZero(task->attempt->context, store->nchunks * sizeof(bool));
	for (int i = 0; i < store->nchunks; i++)
	{
		if (store->chunks[i].id && store->chunks[i].live > 0 &&
			(gone > 0 || store->chunks[i].live <= store->chunks[i].entries / 2))
			order[n++] = i;
	}
	if (n == 0)
		return;
	qsort_arg(order, n, sizeof(int), gone > 0 ? compare_age : compare_live, store->chunks);
	for (int i = 0; i < n && (taken == 0 || taken + store->chunks[order[i]].live <= budget); i++)
	{
		victim[order[i]] = true;
		taken += store->chunks[order[i]].live;
	}
	while ((ref = sckpt_state_next(state, &cursor)) != SCKPT_NO_REF)
	{
		SckptEntry *entry = sckpt_state_address(state, ref);

		if (entry->chunk && victim[entry->chunk - 1] && !(entry->flags & SCKPT_ENTRY_DIRTY))
		{
			sckpt_state_mark_dirty(state, ref);
			entry->flags |= SCKPT_ENTRY_REWRITE;
		}
	}
}
