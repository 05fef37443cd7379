/*-------------------------------------------------------------------------
 *
 * restore.c
 *		Loads the last completed checkpoint of a pipeline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "port/pg_crc32c.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "checkpoint.h"
#include "codec.h"
#include "route.h"
#include "settings.h"

/* A store's chunk with the highest id below `before`, of those that a task has written, copied into the current context; NULL after the last. */
static bytea *
read_chunk(SckptTask *task, SckptStore *store, int writer, int64 before, int64 *id, uint32 *entries)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[5] = {INT8OID, INT4OID, INT8OID, INT8OID, INT4OID};
	Datum		values[5] = {Int64GetDatum(task->def->id), Int32GetDatum(store->stage), Int64GetDatum(before),
	Int64GetDatum(task->def->last_checkpoint), Int32GetDatum(writer)};
	bytea	   *payload = NULL;
	SckptUser	saved;
	bool		isnull;
	int64		crc = 0;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT chunk_id, entries, crc, payload FROM stream_ckpt.chunk WHERE pipeline_id = $1 "
							  "AND stage = $2 AND task = $5 AND chunk_id < $3 AND lives @> $4 ORDER BY chunk_id DESC LIMIT 1",
							  5, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read a chunk");
	if (SPI_processed > 0)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext old;

		*id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
		*entries = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isnull));
		crc = DatumGetInt64(SPI_getbinval(tuple, desc, 3, &isnull));
		old = MemoryContextSwitchTo(context);
		payload = DatumGetByteaPCopy(SPI_getbinval(tuple, desc, 4, &isnull));
		MemoryContextSwitchTo(old);
	}
	sckpt_catalog_leave(&saved);

	if (payload)
	{
		pg_crc32c	computed;

		INIT_CRC32C(computed);
		COMP_CRC32C(computed, VARDATA(payload), VARSIZE(payload) - VARHDRSZ);
		FIN_CRC32C(computed);
		if ((int64) computed != crc)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("chunk " INT64_FORMAT " of pipeline \"%s\" is damaged", *id, task->def->name)));
	}
	return payload;
}

/* Chunks of another layout have entries of all tasks.  Elements are taken where their group is. */
static bool
is_mine(SckptTask *task, SckptOperator *operator, SckptStore *store, SckptRef ref)
{
	if (!task->laid_out_anew || task->number < 0 || store->elements)
		return true;
	if (task->queries[store->operator]->nroutes == 0)
		return task->number == 0;
	return sckpt_route_task(operator->route(operator, ref), task->ntasks) == task->number;
}

static void
load_chunk(SckptTask *task, SckptStore *store, bytea *payload, int64 id, uint32 entries, List **gone,
		   MemoryContext gone_context)
{
	SckptOperator *operator = task->operators[store->operator];
	SckptState *state = store->elements ? operator->elements : operator->state;
	const char *cursor = VARDATA(payload);
	const char *end = (char *) payload + VARSIZE(payload);
	bool		same;
	char	   *stored;
	int			index = task->laid_out_anew ? -1 : sckpt_checkpoint_add_chunk(store, id, entries, task->run_context);

	if (sckpt_codec_read_uint(&cursor, end) != SCKPT_CHUNK_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the state of pipeline \"%s\" was stored by another version of stream_ckpt", task->def->name)));
	same = (int64) sckpt_codec_read_uint(&cursor, end) == task->def->version;
	stored = sckpt_codec_read_string(&cursor, end);
	if (!operator->adapt(operator, store->elements, stored, same))
	{
		StringInfoData description;

		initStringInfo(&description);
		operator->describe(operator, store->elements, &description);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the state of pipeline \"%s\" does not fit its query any more", task->def->name),
				 errdetail("Stored:\n%sNow:\n%s", stored, description.data),
				 errhint("stream_ckpt.alter_pipeline() can give it another query, and with reset_state => true it starts over.")));
	}
	pfree(stored);

	for (uint32 i = 0; i < entries; i++)
	{
		uint8		flags;
		uint32		length;
		const char *at;
		SckptRef	ref;

		if (end - cursor < 5)
			ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
							errmsg("chunk " INT64_FORMAT " of pipeline \"%s\" is too short", id, task->def->name)));
		flags = (uint8) *cursor++;
		memcpy(&length, cursor, 4);
		length = pg_ntoh32(length);
		cursor += 4;
		if (length > end - cursor)
			ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
							errmsg("chunk " INT64_FORMAT " of pipeline \"%s\" is too short", id, task->def->name)));
		at = cursor;
		cursor += length;
		ref = operator->unpack(operator, store->elements, (flags & SCKPT_PACKED_EMITTED) != 0, &at, cursor);
		if (flags & SCKPT_PACKED_GONE)
		{
			/* It is there until the older chunks have been read. */
			if (index >= 0)
				store->chunks[index].gone++;
			if (ref != SCKPT_NO_REF)
			{
				MemoryContext old = MemoryContextSwitchTo(gone_context);

				*gone = lappend_int(*gone, (int) ref);
				MemoryContextSwitchTo(old);
			}
		}
		else if (ref != SCKPT_NO_REF && !is_mine(task, operator, store, ref))
			operator->remove(operator, store->elements, ref);
		else if (ref != SCKPT_NO_REF)
		{
			SckptEntry *entry = sckpt_state_address(state, ref);

			ItemPointerSetInvalid(&entry->tid);
			if (flags & SCKPT_PACKED_EMITTED)
				entry->flags |= SCKPT_ENTRY_EMITTED;
			if (index >= 0)
			{
				entry->chunk = index + 1;
				store->chunks[index].live++;
			}
			else
			{
				/* As it is, but in a chunk of this task. */
				sckpt_state_mark_dirty(state, ref);
				entry->flags |= SCKPT_ENTRY_REWRITE;
			}
		}
		if ((i & 4095) == 0)
			CHECK_FOR_INTERRUPTS();
	}
}

/* The tasks that have written a store's chunks. */
static List *
chunk_writers(SckptTask *task, SckptStore *store)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[3] = {INT8OID, INT4OID, INT8OID};
	Datum		values[3] = {Int64GetDatum(task->def->id), Int32GetDatum(store->stage), Int64GetDatum(task->def->last_checkpoint)};
	List	   *writers = NIL;
	SckptUser	saved;
	bool		isnull;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT DISTINCT task FROM stream_ckpt.chunk WHERE pipeline_id = $1 AND stage = $2 AND lives @> $3 "
							  "ORDER BY task", 3, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read chunks");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int			writer = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		MemoryContext old = MemoryContextSwitchTo(context);

		writers = lappend_int(writers, writer);
		MemoryContextSwitchTo(old);
	}
	sckpt_catalog_leave(&saved);
	return writers;
}

/* The newest version of an entry comes first; of the others the operator says that it is there already. */
static void
load_store(SckptTask *task, SckptStore *store, MemoryContext context)
{
	SckptOperator *operator = task->operators[store->operator];
	SckptIdentity identity;
	MemoryContext chunk_context = AllocSetContextCreate(context, "stream_ckpt restored chunk", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *writers = task->laid_out_anew ? chunk_writers(task, store) : list_make1_int(Max(0, task->number));
	List	   *gone = NIL;
	ListCell   *lc;

	sckpt_task_become_owner(task, &identity);
	operator->begin_unpack(operator, store->elements, &task->times);
	sckpt_task_become_self(&identity);

	MemoryContextSwitchTo(chunk_context);
	foreach(lc, writers)
	{
		int64		before = PG_INT64_MAX;
		int64		id;
		uint32		entries;
		bytea	   *payload;

		while ((payload = read_chunk(task, store, lfirst_int(lc), before, &id, &entries)) != NULL)
		{
			before = id;
			store->next_chunk = Max(store->next_chunk, id + 1);
			sckpt_task_become_owner(task, &identity);
			load_chunk(task, store, payload, id, entries, &gone, context);
			sckpt_task_become_self(&identity);
			MemoryContextReset(chunk_context);
		}
	}

	MemoryContextSwitchTo(context);
	sckpt_task_become_owner(task, &identity);
	foreach(lc, gone)
		operator->remove(operator, store->elements, (SckptRef) lfirst_int(lc));
	list_free(gone);
	operator->end_unpack(operator, store->elements);
	sckpt_task_become_self(&identity);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(chunk_context);
}

/* Is there state of a stage that the query does not have? */
static void
check_stages(SckptTask *task)
{
	Datum		stages[2 * SCKPT_MAX_STAGES];
	int			nstages = 0;
	int			number = 0;
	Oid			types[3] = {INT8OID, INT4ARRAYOID, INT8OID};
	Datum		values[3];
	SckptUser	saved;

	/* The head looks for all tasks. */
	if (task->number >= 0)
		return;
	for (SckptQuery *query = task->query; query && sckpt_query_stateful(query); query = query->above, number++)
		stages[nstages++] = Int32GetDatum(2 * number);
	values[0] = Int64GetDatum(task->def->id);
	values[1] = PointerGetDatum(construct_array(stages, nstages, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	values[2] = Int64GetDatum(task->def->last_checkpoint);
	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT FROM stream_ckpt.chunk WHERE pipeline_id = $1 AND stage / 2 * 2 <> ALL ($2) AND lives @> $3 LIMIT 1",
							  3, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read chunks");
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the state of pipeline \"%s\" does not fit its query any more", task->def->name),
				 errdetail("State is stored of a stage that the query does not have.")));
	sckpt_catalog_leave(&saved);
}

/* There may be newer chunks, of checkpoints that this one does not follow: what is written next comes after them. */
static void
skip_chunks(SckptTask *task)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(task->def->id)};
	SckptUser	saved;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT stage, max(chunk_id) FROM stream_ckpt.chunk WHERE pipeline_id = $1 GROUP BY stage",
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read chunks");
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		int			stage = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &isnull));
		int64		last = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 2, &isnull));

		for (int i = 0; i < task->nstores; i++)
		{
			if (task->stores[i].stage == stage)
				task->stores[i].next_chunk = Max(task->stores[i].next_chunk, last + 1);
		}
	}
	sckpt_catalog_leave(&saved);
}

/* Entries first, then the elements that belong to them. */
static void
load_stores(SckptTask *task, MemoryContext context)
{
	for (int number = 0; number < task->noperators; number++)
	{
		for (int elements = 0; elements <= 1; elements++)
		{
			for (int i = 0; i < task->nstores; i++)
			{
				SckptStore *store = &task->stores[i];

				if (store->operator == number && store->elements == (elements == 1))
					load_store(task, store, context);
			}
		}
	}
}

static void
restore_times(SckptTask *task)
{
	task->times.watermark = task->def->watermark;
	task->times.clock = task->def->clock;
	task->before = task->times;
	task->times_lsn = InvalidXLogRecPtr;
	task->late_rows = task->number < 0 ? task->def->late_rows : 0;
	task->dead_letters = task->def->dead_letters;
	for (int i = 0; i < task->nstores; i++)
		task->stores[i].next_chunk = Max(task->stores[i].next_chunk, 1);
}

void
sckpt_checkpoint_end_interrupted(List *tasks)
{
	Datum	   *ids = palloc(Max(1, list_length(tasks)) * sizeof(Datum));
	Oid			types[1] = {INT8ARRAYOID};
	Datum		values[1];
	SckptUser	saved;
	ListCell   *lc;

	foreach(lc, tasks)
		ids[foreach_current_index(lc)] = Int64GetDatum(((SckptTask *) lfirst(lc))->def->id);
	values[0] = PointerGetDatum(construct_array(ids, list_length(tasks), INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));

	StartTransactionCommand();
	if (sckpt_catalog_lock_extension())
	{
		sckpt_catalog_enter(&saved);
		if (SPI_execute_with_args("WITH interrupted AS (UPDATE stream_ckpt.checkpoint_log SET status = 'failed', "
								  "completed_at = clock_timestamp(), error = 'the worker ended before the checkpoint was complete' "
								  "WHERE status = 'in_progress' AND pipeline_id IN "
								  "(SELECT id FROM stream_ckpt.pipeline_def WHERE id = ANY ($1) FOR KEY SHARE SKIP LOCKED) "
								  "RETURNING pipeline_id, checkpoint_id) "
								  "UPDATE stream_ckpt.checkpoint_task_log t SET status = 'failed' FROM interrupted i "
								  "WHERE t.pipeline_id = i.pipeline_id AND t.checkpoint_id = i.checkpoint_id AND t.status = 'in_progress'",
								  1, types, values, NULL, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not end interrupted checkpoints");
		sckpt_catalog_leave(&saved);
	}
	CommitTransactionCommand();
	pfree(DatumGetPointer(values[0]));
	pfree(ids);
}

/* An attempt whose failure could not be written down; and restarts that are not in the tables yet. */
static void
end_attempts(SckptTask *task)
{
	SckptUser	saved;
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(task->def->id), Int64GetDatum(task->restarts)};

	sckpt_catalog_enter(&saved);
	SPI_execute_with_args("UPDATE stream_ckpt.checkpoint_log SET status = 'failed', completed_at = clock_timestamp(), "
						  "error = 'the pipeline was restarted' "
						  "WHERE pipeline_id = $1 AND status = 'in_progress'", 1, types, values, NULL, false, 0);
	SPI_execute_with_args("UPDATE stream_ckpt.checkpoint_task_log SET status = 'failed' "
						  "WHERE pipeline_id = $1 AND status = 'in_progress'", 1, types, values, NULL, false, 0);
	if (task->restarts > 0)
		SPI_execute_with_args("UPDATE stream_ckpt.pipeline_position SET restarts = restarts + $2 WHERE pipeline_id = $1",
							  2, types, values, NULL, false, 0);
	sckpt_catalog_leave(&saved);
}

void
sckpt_checkpoint_restore(SckptTask *task)
{
	TimestampTz started = GetCurrentTimestamp();
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt restore", ALLOCSET_DEFAULT_SIZES);
	uint64		state_rows;
	Size		state_bytes;
	SckptUser	saved;
	Oid			types[7] = {INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, TEXTOID, INT4OID};
	Datum		values[7];
	bool		isnull;

	if (task->offline)
	{
		/* Who loads it has locked it. */
		restore_times(task);
		if (task->def->last_checkpoint == 0)
			return;
		task->laid_out_anew = sckpt_query_stateful(task->query) && task->def->layout != sckpt_task_layout(task);
		check_stages(task);
		load_stores(task, context);
		task->tids_unknown = task->nstores > 0 && !task->def->final;
		MemoryContextDelete(context);
		return;
	}
	if (!sckpt_catalog_hold(task->def->id, task->def->version))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("pipeline \"%s\" is being changed or dropped", task->def->name)));

	/* Of a parallel pipeline that is the head's to do. */
	values[0] = Int64GetDatum(task->def->id);
	if (task->number < 0)
		end_attempts(task);
	restore_times(task);
	if (task->def->last_checkpoint == 0)
		return;

	task->laid_out_anew = sckpt_query_stateful(task->query) && task->def->layout != sckpt_task_layout(task);
	check_stages(task);
	load_stores(task, context);
	skip_chunks(task);
	task->tids_unknown = task->nstores > 0 && !task->def->final && task->number < 0;
	sckpt_fault_point("restore");
	if (task->laid_out_anew)
		sckpt_fault_point("rescale");

	/* Its tasks have restores of their own. */
	if (task->leads)
		return;
	sckpt_task_state_size(task, &state_rows, &state_bytes);
	values[1] = Int64GetDatum(task->def->last_checkpoint);
	values[2] = TimestampTzGetDatum(started);
	values[3] = Int64GetDatum(state_rows);
	values[4] = Int64GetDatum(state_bytes);
	values[5] = CStringGetTextDatum(task->cause);
	values[6] = Int32GetDatum(Max(0, task->number));
	sckpt_catalog_enter(&saved);
	SPI_execute_with_args("INSERT INTO stream_ckpt.restore_log (pipeline_id, task, checkpoint_id, restored_at, duration, "
						  "state_rows, state_bytes, cause) VALUES ($1, $7, $2, clock_timestamp(), clock_timestamp() - $3, "
						  "$4, $5, $6) RETURNING restore_id", 7, types, values, NULL, false, 0);
	if (SPI_processed == 1)
		task->restore_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	values[1] = Int64GetDatum(sckpt_checkpoint_history);
	SPI_execute_with_args("DELETE FROM stream_ckpt.restore_log WHERE pipeline_id = $1 AND restore_id <= "
						  "(SELECT restore_id FROM stream_ckpt.restore_log WHERE pipeline_id = $1 "
						  "ORDER BY restore_id DESC OFFSET $2 LIMIT 1)", 2, types, values, NULL, false, 0);
	sckpt_catalog_leave(&saved);
	MemoryContextDelete(context);
}
