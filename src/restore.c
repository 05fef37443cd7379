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
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "checkpoint.h"
#include "codec.h"
#include "settings.h"

/* The stored chunk with the highest id below `before`, copied into the current context; NULL after the last. */
static bytea *
read_chunk(SckptTask *task, int64 before, int64 *id, uint32 *entries)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(task->def->id), Int64GetDatum(before)};
	bytea	   *payload = NULL;
	SckptUser	saved;
	bool		isnull;
	int64		crc = 0;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT chunk_id, entries, crc, payload FROM stream_ckpt.chunk WHERE pipeline_id = $1 "
							  "AND stage = 0 AND task = 0 AND chunk_id < $2 ORDER BY chunk_id DESC LIMIT 1",
							  2, types, values, NULL, true, 0) != SPI_OK_SELECT)
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

static void
load_chunk(SckptTask *task, bytea *payload, int64 id, uint32 entries)
{
	const char *cursor = VARDATA(payload);
	const char *end = (char *) payload + VARSIZE(payload);
	StringInfoData description;
	char	   *stored;
	int			index = sckpt_checkpoint_add_chunk(task, id, entries);

	if (sckpt_codec_read_uint(&cursor, end) != SCKPT_CHUNK_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the state of pipeline \"%s\" was stored by another version of stream_ckpt", task->def->name)));
	stored = sckpt_codec_read_string(&cursor, end);
	initStringInfo(&description);
	task->operator->describe(task->operator, &description);
	if (strcmp(stored, description.data) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the state of pipeline \"%s\" does not fit its query any more", task->def->name),
				 errdetail("Stored: %s. Now: %s.", stored, description.data)));

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
		ref = task->operator->unpack(task->operator, &at, cursor);
		if (ref != SCKPT_NO_REF)
		{
			SckptEntry *entry = sckpt_state_address(task->operator->state, ref);

			entry->chunk = index + 1;
			ItemPointerSetInvalid(&entry->tid);
			if (flags & SCKPT_PACKED_EMITTED)
				entry->flags |= SCKPT_ENTRY_EMITTED;
			task->chunks[index].live++;
		}
		if ((i & 4095) == 0)
			CHECK_FOR_INTERRUPTS();
	}
}

void
sckpt_checkpoint_restore(SckptTask *task)
{
	TimestampTz started = GetCurrentTimestamp();
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt restore", ALLOCSET_DEFAULT_SIZES);
	int64		before = PG_INT64_MAX;
	int64		id;
	uint32		entries;
	bytea	   *payload;
	SckptUser	saved;
	Oid			types[6] = {INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, TEXTOID};
	Datum		values[6];
	bool		isnull;

	if (!sckpt_catalog_hold(task->def->id))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("pipeline \"%s\" is being dropped", task->def->name)));

	/* An attempt that a crash or an end of the worker cut off. */
	values[0] = Int64GetDatum(task->def->id);
	sckpt_catalog_enter(&saved);
	SPI_execute_with_args("UPDATE stream_ckpt.checkpoint_log SET status = 'failed', completed_at = clock_timestamp(), "
						  "error = 'the worker ended before the checkpoint was complete' "
						  "WHERE pipeline_id = $1 AND status = 'in_progress'", 1, types, values, NULL, false, 0);
	SPI_execute_with_args("UPDATE stream_ckpt.checkpoint_task_log SET status = 'failed' "
						  "WHERE pipeline_id = $1 AND status = 'in_progress'", 1, types, values, NULL, false, 0);
	sckpt_catalog_leave(&saved);
	if (task->def->last_checkpoint == 0)
		return;

	if (task->operator)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		/* The newest version of an entry comes first. */
		while ((payload = read_chunk(task, before, &id, &entries)) != NULL)
		{
			SckptIdentity identity;

			before = id;
			task->next_chunk = Max(task->next_chunk, id + 1);
			sckpt_task_become_owner(task, &identity);
			load_chunk(task, payload, id, entries);
			sckpt_task_become_self(&identity);
			MemoryContextReset(context);
		}
		MemoryContextSwitchTo(old);
		task->tids_unknown = true;
		sckpt_fault_point("restore");
	}

	values[1] = Int64GetDatum(task->def->last_checkpoint);
	values[2] = TimestampTzGetDatum(started);
	values[3] = Int64GetDatum(task->operator ? sckpt_state_rows(task->operator->state) : 0);
	values[4] = Int64GetDatum(task->operator ? sckpt_state_bytes(task->operator->state) : 0);
	values[5] = CStringGetTextDatum(task->cause);
	sckpt_catalog_enter(&saved);
	SPI_execute_with_args("INSERT INTO stream_ckpt.restore_log (pipeline_id, task, checkpoint_id, restored_at, duration, "
						  "state_rows, state_bytes, cause) VALUES ($1, 0, $2, clock_timestamp(), clock_timestamp() - $3, "
						  "$4, $5, $6) RETURNING restore_id", 6, types, values, NULL, false, 0);
	if (SPI_processed == 1)
		task->restore_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	values[1] = Int64GetDatum(sckpt_checkpoint_history);
	SPI_execute_with_args("DELETE FROM stream_ckpt.restore_log WHERE pipeline_id = $1 AND restore_id <= "
						  "(SELECT restore_id FROM stream_ckpt.restore_log WHERE pipeline_id = $1 "
						  "ORDER BY restore_id DESC OFFSET $2 LIMIT 1)", 2, types, values, NULL, false, 0);
	sckpt_catalog_leave(&saved);
	MemoryContextDelete(context);
}
