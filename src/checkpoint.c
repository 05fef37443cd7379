/*-------------------------------------------------------------------------
 *
 * checkpoint.c
 *		Checkpoints: state, results and position of a pipeline in one transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "checkpoint.h"
#include "codec.h"
#include "settings.h"
#include "sink.h"

#define CHUNK_BYTES		(256 * 1024)	/* of packed entries, before a new chunk is begun */

/* A restored task learns where its results are when at least one in so many of them changes. */
#define LEARN_FRACTION 8

/* When less than half of the stored entries are current, and there are more than this. */
#define CLEAN_MIN_ENTRIES 4096

/* What becomes of an entry's result when the attempt commits. */
typedef struct Outcome
{
	ItemPointerData tid;
	bool		emitted;
} Outcome;

/* The attempt being made; there is one at a time in a process. */
typedef struct Attempt
{
	int64		id;				/* 0: none */
	SckptTask  *task;
	bool		committing;		/* it may have committed: only the tables know */
	MemoryContext context;
	TimestampTz triggered_at;
	TimestampTz packed_at;
	TimestampTz started_at;
	Outcome    *outcomes;		/* in the order of the dirty list */
	uint64		noutcomes;
	uint32	   *chunk_entries;	/* of each chunk written */
	int			nchunks;
	int			maxchunks;
	int64		next_chunk;
	uint64		rows;			/* checkpointed */
	uint64		bytes;
	uint64		rows_out;
	SckptIdentity identity;
} Attempt;

static Attempt attempt;

/* Statements on our own tables, planned once per process. */
typedef enum Statement
{
	STATEMENT_TRIGGER,
	STATEMENT_TRIGGER_TASK,
	STATEMENT_HOLD,
	STATEMENT_CHUNK,
	STATEMENT_CHUNK_DELETE,
	STATEMENT_POSITION,
	STATEMENT_COMPLETE,
	STATEMENT_COMPLETE_TASK,
	STATEMENT_PRUNE,
	STATEMENT_PRUNE_TASK,
	STATEMENT_REPLAYED,
	STATEMENT_COUNT
} Statement;

static const struct
{
	const char *sql;
	int			nargs;
	Oid			types[10];
}			statements[STATEMENT_COUNT] = {
	[STATEMENT_TRIGGER] = {
		"INSERT INTO stream_ckpt.checkpoint_log (pipeline_id, checkpoint_id, status, triggered_at, tasks, acknowledged) "
		"VALUES ($1, $2, 'in_progress', $3, 1, 0)", 3, {INT8OID, INT8OID, TIMESTAMPTZOID}
	},
	[STATEMENT_TRIGGER_TASK] = {
		"INSERT INTO stream_ckpt.checkpoint_task_log (pipeline_id, checkpoint_id, task, status) "
		"VALUES ($1, $2, 0, 'in_progress')", 2, {INT8OID, INT8OID}
	},
	[STATEMENT_HOLD] = {
		"SELECT id FROM stream_ckpt.pipeline_def WHERE id = $1 AND NOT paused AND error IS NULL "
		"FOR KEY SHARE SKIP LOCKED", 1, {INT8OID}
	},
	[STATEMENT_CHUNK] = {
		"INSERT INTO stream_ckpt.chunk (pipeline_id, stage, task, chunk_id, checkpoint_id, entries, bytes, crc, payload) "
		"VALUES ($1, 0, 0, $2, $3, $4, $5, $6, $7)", 7,
		{INT8OID, INT8OID, INT8OID, INT4OID, INT8OID, INT8OID, BYTEAOID}
	},
	[STATEMENT_CHUNK_DELETE] = {
		"DELETE FROM stream_ckpt.chunk WHERE pipeline_id = $1 AND stage = 0 AND task = 0 AND chunk_id = ANY ($2)", 2,
		{INT8OID, INT8ARRAYOID}
	},
	[STATEMENT_POSITION] = {
		"UPDATE stream_ckpt.pipeline_position SET last_checkpoint = $2, next_checkpoint = $2 + 1, position = $3, "
		"restart = $4, rows_in = $5, rows_out = $6 WHERE pipeline_id = $1", 6,
		{INT8OID, INT8OID, LSNOID, LSNOID, INT8OID, INT8OID}
	},
	[STATEMENT_COMPLETE] = {
		"UPDATE stream_ckpt.checkpoint_log SET status = 'completed', completed_at = clock_timestamp(), acknowledged = 1, "
		"position = $3, rows_in = $4, state_rows = $5, state_bytes = $6, checkpointed_rows = $7, checkpointed_bytes = $8 "
		"WHERE pipeline_id = $1 AND checkpoint_id = $2 AND status = 'in_progress'", 8,
		{INT8OID, INT8OID, LSNOID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID}
	},
	[STATEMENT_COMPLETE_TASK] = {
		"UPDATE stream_ckpt.checkpoint_task_log t SET status = 'completed', acknowledged_at = $3, "
		"start_delay = $4 - c.triggered_at, snapshot_duration = $3 - $4, commit_duration = clock_timestamp() - $3, "
		"state_rows = c.state_rows, state_bytes = c.state_bytes, checkpointed_rows = c.checkpointed_rows, "
		"checkpointed_bytes = c.checkpointed_bytes, rows_in = c.rows_in "
		"FROM stream_ckpt.checkpoint_log c WHERE c.pipeline_id = $1 AND c.checkpoint_id = $2 "
		"AND t.pipeline_id = $1 AND t.checkpoint_id = $2", 4,
		{INT8OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID}
	},
	[STATEMENT_PRUNE] = {
		"DELETE FROM stream_ckpt.checkpoint_log WHERE pipeline_id = $1 AND checkpoint_id <= $2", 2, {INT8OID, INT8OID}
	},
	[STATEMENT_PRUNE_TASK] = {
		"DELETE FROM stream_ckpt.checkpoint_task_log WHERE pipeline_id = $1 AND checkpoint_id <= $2", 2, {INT8OID, INT8OID}
	},
	[STATEMENT_REPLAYED] = {
		"UPDATE stream_ckpt.restore_log SET rows_replayed = $2 WHERE restore_id = $1", 2, {INT8OID, INT8OID}
	},
};

static SPIPlanPtr plans[STATEMENT_COUNT];

/* Run one of them; the caller has entered the catalog.  No argument is NULL. */
static uint64
execute(Statement statement, Datum *values)
{
	int			rc;

	if (plans[statement] == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(statements[statement].sql, statements[statement].nargs,
									   (Oid *) statements[statement].types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", statements[statement].sql, SPI_result_code_string(SPI_result));
		plans[statement] = plan;
	}
	rc = SPI_execute_plan(plans[statement], values, NULL, false, 0);
	if (rc < 0)
		elog(ERROR, "could not run \"%s\": %s", statements[statement].sql, SPI_result_code_string(rc));
	return SPI_processed;
}

bool
sckpt_checkpoint_in_progress(void)
{
	return attempt.id != 0;
}

bool
sckpt_checkpoint_may_have_committed(void)
{
	return attempt.id != 0 && attempt.committing;
}

void
sckpt_checkpoint_add_rows(uint64 rows)
{
	attempt.rows_out += rows;
}

/* ---- Trigger ---- */

/*
 * Start the transaction of a checkpoint, or say that it cannot be had yet: its pipeline is being dropped or paused, or
 * somebody holds a lock on the result.  Waiting here would hold up every other pipeline of the worker.
 */
static bool
start_transaction(SckptTask *task)
{
	SckptUser	saved;
	Datum		id = Int64GetDatum(task->def->id);
	LOCKTAG		tag;
	bool		held;

	StartTransactionCommand();
	task->waiting[0] = '\0';
	if (!sckpt_catalog_lock_extension())
	{
		CommitTransactionCommand();
		return false;
	}
	sckpt_catalog_enter(&saved);
	held = execute(STATEMENT_HOLD, &id) > 0;
	sckpt_catalog_leave(&saved);
	if (!held)
	{
		snprintf(task->waiting, SCKPT_ERROR_BYTES, "waiting for the end of a transaction that changes the pipeline");
		CommitTransactionCommand();
		return false;
	}
	if (!ConditionalLockRelationOid(task->def->result, RowExclusiveLock))
	{
		VirtualTransactionId *holders;
		int			count;
		PGPROC	   *proc;

		SET_LOCKTAG_RELATION(tag, MyDatabaseId, task->def->result);
		holders = GetLockConflicts(&tag, RowExclusiveLock, &count);
		proc = count > 0 ? BackendIdGetProc(holders[0].backendId) : NULL;
		snprintf(task->waiting, SCKPT_ERROR_BYTES, "waiting for a lock on relation \"%s\" that process %d holds",
				 get_rel_name(task->def->result), proc ? proc->pid : 0);
		CommitTransactionCommand();
		return false;
	}
	enable_timeout_after(STATEMENT_TIMEOUT, sckpt_checkpoint_timeout);
	return true;
}

static void
end_transaction(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	CommitTransactionCommand();
}

/* The checkpoint's row, so that an attempt that a crash ends leaves a trace.  Not worth a flush. */
static void
trigger(SckptTask *task)
{
	SckptUser	saved;
	Datum		values[3];

	attempt.id = task->def->next_checkpoint;
	attempt.task = task;
	attempt.committing = false;
	attempt.triggered_at = GetCurrentTimestamp();
	attempt.context = AllocSetContextCreate(task->run_context, "stream_ckpt checkpoint", ALLOCSET_DEFAULT_SIZES);
	attempt.outcomes = NULL;
	attempt.noutcomes = 0;
	attempt.nchunks = 0;
	attempt.maxchunks = 64;
	attempt.chunk_entries = MemoryContextAlloc(attempt.context, attempt.maxchunks * sizeof(uint32));
	attempt.next_chunk = task->next_chunk;
	attempt.rows = attempt.bytes = attempt.rows_out = 0;

	StartTransactionCommand();
	if (sckpt_catalog_lock_extension() && sckpt_catalog_hold(task->def->id))
	{
		values[0] = Int64GetDatum(task->def->id);
		values[1] = Int64GetDatum(attempt.id);
		values[2] = TimestampTzGetDatum(attempt.triggered_at);
		sckpt_catalog_enter(&saved);
		execute(STATEMENT_TRIGGER, values);
		execute(STATEMENT_TRIGGER_TASK, values);
		sckpt_catalog_leave(&saved);
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	}
	CommitTransactionCommand();
	task->def->next_checkpoint++;
	sckpt_fault_point("checkpoint-trigger");
}

/* ---- Complete ---- */

static void
begin_chunk(SckptTask *task, StringInfo buf)
{
	StringInfoData description;

	resetStringInfo(buf);
	sckpt_codec_write_uint(buf, SCKPT_CHUNK_VERSION);
	initStringInfo(&description);
	task->operator->describe(task->operator, &description);
	sckpt_codec_write_string(buf, description.data);
	pfree(description.data);
}

static void
write_chunk(SckptTask *task, StringInfo buf, uint32 entries)
{
	SckptUser	saved;
	Datum		values[7];
	pg_crc32c	crc;
	bytea	   *payload = palloc(VARHDRSZ + buf->len);

	SET_VARSIZE(payload, VARHDRSZ + buf->len);
	memcpy(VARDATA(payload), buf->data, buf->len);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, buf->data, buf->len);
	FIN_CRC32C(crc);

	values[0] = Int64GetDatum(task->def->id);
	values[1] = Int64GetDatum(attempt.next_chunk++);
	values[2] = Int64GetDatum(attempt.id);
	values[3] = Int32GetDatum(entries);
	values[4] = Int64GetDatum(buf->len);
	values[5] = Int64GetDatum((int64) crc);
	values[6] = PointerGetDatum(payload);
	sckpt_catalog_enter(&saved);
	execute(STATEMENT_CHUNK, values);
	sckpt_catalog_leave(&saved);
	pfree(payload);

	if (attempt.nchunks == attempt.maxchunks)
	{
		attempt.maxchunks *= 2;
		attempt.chunk_entries = repalloc_huge(attempt.chunk_entries, attempt.maxchunks * sizeof(uint32));
	}
	attempt.chunk_entries[attempt.nchunks++] = entries;
	attempt.rows += entries;
	attempt.bytes += buf->len;
}

/* Fill the sink's row from the query's. */
static void
put_result(SckptTask *task, SckptSink *sink, TupleTableSlot *row, SckptEntry *entry, bool wanted, Outcome *outcome)
{
	TupleTableSlot *target;
	bool		existing = !task->def->result_owned;

	outcome->emitted = wanted;
	ItemPointerSetInvalid(&outcome->tid);

	/* Neither there, nor to be: nothing to do, unless somebody else may have put the row there. */
	if (!wanted && !(entry->flags & SCKPT_ENTRY_EMITTED))
		return;

	target = sckpt_sink_slot(sink);
	for (int i = 0; i < task->query->result->natts; i++)
	{
		target->tts_values[task->result_columns[i] - 1] = row->tts_values[i];
		target->tts_isnull[task->result_columns[i] - 1] = row->tts_isnull[i];
	}
	if (wanted)
		sckpt_sink_put(sink, &entry->tid, existing || (entry->flags & SCKPT_ENTRY_EMITTED) != 0, &outcome->tid);
	else
		sckpt_sink_delete(sink, &entry->tid);
	attempt.rows_out++;
}

/*
 * After a restore nothing is known of where result rows are.  Where many of them are about to change, one pass over the table is
 * cheaper than a look into its index for each.
 */
static void
learn_tids(SckptTask *task)
{
	SckptOperator *operator = task->operator;
	int			nkeys = task->query->nkeys;
	Datum	   *values = palloc(Max(1, nkeys) * sizeof(Datum));
	bool	   *nulls = palloc(Max(1, nkeys) * sizeof(bool));
	Relation	relation = table_open(task->def->result, AccessShareLock);
	TableScanDesc scan = table_beginscan(relation, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(relation, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		SckptRef	ref;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < nkeys; i++)
			values[i] = slot_getattr(slot, task->key_columns[i], &nulls[i]);
		ref = operator->find(operator, values, nulls);
		if (ref != SCKPT_NO_REF)
			((SckptEntry *) sckpt_state_address(operator->state, ref))->tid = slot->tts_tid;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	task->tids_unknown = false;
}

/* As the owner: results of changed entries to the sink, the entries into chunks. */
static void
snapshot_operator(SckptTask *task)
{
	SckptOperator *operator = task->operator;
	SckptState *state = operator->state;
	uint64		ndirty = sckpt_state_dirty_count(state);
	MemoryContext old = MemoryContextSwitchTo(attempt.context);
	MemoryContext scratch = AllocSetContextCreate(attempt.context, "stream_ckpt pack", ALLOCSET_DEFAULT_SIZES);
	SckptSink  *sink;
	StringInfoData buf;
	uint32		entries = 0;
	uint64		n = 0;

	attempt.outcomes = MemoryContextAllocExtended(attempt.context, Max(1, ndirty) * sizeof(Outcome), MCXT_ALLOC_HUGE);
	sink = sckpt_sink_open(task->def->result, task->query->nkeys, task->key_columns, !task->def->result_owned);
	sckpt_sink_set_columns(sink, task->query->result->natts, task->result_columns);
	if (task->tids_unknown && ndirty * LEARN_FRACTION >= sckpt_state_rows(state))
		learn_tids(task);
	initStringInfo(&buf);
	begin_chunk(task, &buf);
	operator->flush(operator);
	operator->begin_results(operator);

	for (SckptRef ref = sckpt_state_first_dirty(state); ref != SCKPT_NO_REF;)
	{
		SckptEntry *entry = sckpt_state_address(state, ref);
		Outcome    *outcome = &attempt.outcomes[n++];
		int			length_at;
		uint32		length;

		if (n > ndirty)
			elog(ERROR, "more changed entries than counted");
		__builtin_prefetch(sckpt_state_address(state, entry->next_dirty));
		if (entry->flags & SCKPT_ENTRY_REWRITE)
		{
			outcome->tid = entry->tid;
			outcome->emitted = (entry->flags & SCKPT_ENTRY_EMITTED) != 0;
		}
		else
		{
			TupleTableSlot *row;
			bool		wanted = operator->result(operator, entry, &row);

			put_result(task, sink, row, entry, wanted, outcome);
		}

		/* flags, length, entry */
		MemoryContextSwitchTo(scratch);
		appendStringInfoCharMacro(&buf, outcome->emitted ? SCKPT_PACKED_EMITTED : 0);
		length_at = buf.len;
		appendBinaryStringInfo(&buf, "\0\0\0\0", 4);
		operator->pack(operator, entry, &buf);
		length = pg_hton32((uint32) (buf.len - length_at - 4));
		memcpy(buf.data + length_at, &length, 4);
		entries++;
		if (entry->chunk)
			task->chunks[entry->chunk - 1].leaving++;
		if (buf.len >= CHUNK_BYTES)
		{
			write_chunk(task, &buf, entries);
			begin_chunk(task, &buf);
			entries = 0;
			CHECK_FOR_INTERRUPTS();
		}
		MemoryContextReset(scratch);
		MemoryContextSwitchTo(attempt.context);
		ref = entry->next_dirty;
	}
	attempt.noutcomes = n;
	attempt.packed_at = GetCurrentTimestamp();
	if (entries > 0)
		write_chunk(task, &buf, entries);
	operator->end_results(operator);
	sckpt_sink_close(sink);
	MemoryContextSwitchTo(old);
}

/* Chunks none of whose entries is current after this checkpoint. */
static void
delete_empty_chunks(SckptTask *task)
{
	Datum	   *ids = palloc(Max(1, task->nchunks) * sizeof(Datum));
	int			nids = 0;
	Datum		values[2];

	for (int i = 0; i < task->nchunks; i++)
	{
		if (task->chunks[i].id && task->chunks[i].live == task->chunks[i].leaving)
			ids[nids++] = Int64GetDatum(task->chunks[i].id);
	}
	if (nids > 0)
	{
		values[0] = Int64GetDatum(task->def->id);
		values[1] = PointerGetDatum(construct_array(ids, nids, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
		execute(STATEMENT_CHUNK_DELETE, values);
	}
	pfree(ids);
}

/* Position and history; the last statements of the transaction. */
static void
store_checkpoint(SckptTask *task, SckptPosition *position)
{
	SckptUser	saved;
	Datum		values[8];
	int64		rows_out = task->rows_out + attempt.rows_out;

	sckpt_catalog_enter(&saved);
	delete_empty_chunks(task);
	values[0] = Int64GetDatum(task->def->id);
	values[1] = Int64GetDatum(attempt.id);
	values[2] = LSNGetDatum(position->commit);
	values[3] = LSNGetDatum(position->restart);
	values[4] = Int64GetDatum(task->rows_in);
	values[5] = Int64GetDatum(rows_out);
	if (execute(STATEMENT_POSITION, values) != 1)
		elog(ERROR, "position of pipeline \"%s\" not found", task->def->name);

	values[3] = Int64GetDatum(task->rows_in - task->def->rows_in);
	values[4] = Int64GetDatum(task->operator ? sckpt_state_rows(task->operator->state) : 0);
	values[5] = Int64GetDatum(task->operator ? sckpt_state_bytes(task->operator->state) : 0);
	values[6] = Int64GetDatum(attempt.rows);
	values[7] = Int64GetDatum(attempt.bytes);
	if (execute(STATEMENT_COMPLETE, values) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("checkpoint " INT64_FORMAT " of pipeline \"%s\" is not in progress any more",
						attempt.id, task->def->name)));
	values[2] = TimestampTzGetDatum(attempt.packed_at);
	values[3] = TimestampTzGetDatum(attempt.started_at);
	execute(STATEMENT_COMPLETE_TASK, values);

	sckpt_fault_point("cleanup");
	if (attempt.id > sckpt_checkpoint_history)
	{
		values[1] = Int64GetDatum(attempt.id - sckpt_checkpoint_history);
		execute(STATEMENT_PRUNE, values);
		execute(STATEMENT_PRUNE_TASK, values);
	}
	if (task->restore_id)
	{
		values[0] = Int64GetDatum(task->restore_id);
		values[1] = Int64GetDatum(task->rows_in - task->def->rows_in);
		execute(STATEMENT_REPLAYED, values);
	}
	sckpt_catalog_leave(&saved);
}

int
sckpt_checkpoint_add_chunk(SckptTask *task, int64 id, uint32 entries)
{
	int			at;

	for (at = 0; at < task->nchunks; at++)
	{
		if (task->chunks[at].id == 0)
			break;
	}
	if (at == task->maxchunks)
	{
		int			maxchunks = Max(64, task->maxchunks * 2);

		if (task->chunks)
			task->chunks = repalloc_huge(task->chunks, maxchunks * sizeof(SckptChunk));
		else
			task->chunks = MemoryContextAlloc(task->run_context, maxchunks * sizeof(SckptChunk));
		task->maxchunks = maxchunks;
	}
	if (at == task->nchunks)
		task->nchunks++;
	memset(&task->chunks[at], 0, sizeof(SckptChunk));
	task->chunks[at].id = id;
	task->chunks[at].entries = entries;
	task->stored_entries += entries;
	return at;
}

static int
compare_live(const void *a, const void *b, void *arg)
{
	SckptChunk *chunks = arg;
	uint32		x = chunks[*(const int *) a].live;
	uint32		y = chunks[*(const int *) b].live;

	return x < y ? -1 : x > y;
}

/*
 * When most stored entries are stale, have the emptiest chunks' current entries written with the next checkpoint. About as
 * many as that writes anyway, so that no checkpoint is much larger than what changed.
 */
static void
clean_chunks(SckptTask *task)
{
	SckptState *state = task->operator->state;
	uint64		rows = sckpt_state_rows(state);
	uint64		budget = Max(Max(attempt.rows, rows / 16), 1024);
	uint64		taken = 0;
	uint64		cursor = 0;
	int		   *order;
	bool	   *victim;
	int			n = 0;
	SckptRef	ref;

	if (task->stored_entries < CLEAN_MIN_ENTRIES || task->stored_entries <= 2 * rows)
		return;

	order = MemoryContextAlloc(attempt.context, task->nchunks * sizeof(int));
	victim = MemoryContextAllocZero(attempt.context, task->nchunks * sizeof(bool));
	for (int i = 0; i < task->nchunks; i++)
	{
		if (task->chunks[i].id && task->chunks[i].live <= task->chunks[i].entries / 2)
			order[n++] = i;
	}
	qsort_arg(order, n, sizeof(int), compare_live, task->chunks);
	for (int i = 0; i < n && (taken == 0 || taken + task->chunks[order[i]].live <= budget); i++)
	{
		victim[order[i]] = true;
		taken += task->chunks[order[i]].live;
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

/* The attempt has committed: what it wrote is what counts from now on. */
static void
switch_state(SckptTask *task, SckptPosition *position)
{
	if (task->operator)
	{
		SckptState *state = task->operator->state;
		uint64		n = 0;
		int			chunk = -1;
		int			index = -1;
		uint32		left = 0;

		for (int i = 0; i < task->nchunks; i++)
		{
			SckptChunk *c = &task->chunks[i];

			if (c->id && c->live == c->leaving)
			{
				task->stored_entries -= c->entries;
				c->id = 0;
			}
			c->live -= c->leaving;
			c->leaving = 0;
		}
		for (SckptRef ref = sckpt_state_first_dirty(state); ref != SCKPT_NO_REF;)
		{
			SckptEntry *entry = sckpt_state_address(state, ref);

			if (left == 0)
			{
				chunk++;
				left = attempt.chunk_entries[chunk];
				index = sckpt_checkpoint_add_chunk(task, task->next_chunk + chunk, left);
				task->chunks[index].live = left;
			}
			left--;
			entry->chunk = index + 1;
			entry->tid = attempt.outcomes[n].tid;
			if (attempt.outcomes[n].emitted)
				entry->flags |= SCKPT_ENTRY_EMITTED;
			else
				entry->flags &= ~SCKPT_ENTRY_EMITTED;
			n++;
			ref = entry->next_dirty;
		}
		sckpt_state_clear_dirty(state);
		task->next_chunk = attempt.next_chunk;
		clean_chunks(task);
	}
	sckpt_task_drop_pending(task);
	task->rows_out += attempt.rows_out;
	task->def->last_checkpoint = attempt.id;
	task->def->position = position->commit;
	task->def->restart = position->restart;
	task->def->rows_in = task->rows_in;
	task->def->rows_out = task->rows_out;
	task->restore_id = 0;
	task->changed = false;
	task->failed_checkpoints = 0;
	task->backoff = 0;
	task->starved = false;
	task->error[0] = '\0';
	task->waiting[0] = '\0';
	MemoryContextDelete(attempt.context);
	attempt.id = 0;
}

bool
sckpt_checkpoint_begin(SckptTask *task)
{
	ListCell   *lc;

	if (!start_transaction(task))
		return false;
	end_transaction();
	trigger(task);
	sckpt_fault_point("barrier");
	if (!start_transaction(task))
	{
		sckpt_checkpoint_record_failure(task, task->waiting);
		return false;
	}
	attempt.started_at = attempt.packed_at = GetCurrentTimestamp();
	foreach(lc, task->pending)
	{
		sckpt_batch_wait_visible(lfirst(lc), task->known_visible);
		attempt.rows_out += sckpt_task_run_linear(task, lfirst(lc));
	}
	return true;
}

void
sckpt_checkpoint_finish(SckptTask *task, SckptPosition *position)
{
	SckptIdentity identity;

	if (task->operator)
	{
		sckpt_task_become_owner(task, &identity);
		snapshot_operator(task);
		sckpt_task_become_self(&identity);
	}
	sckpt_fault_point("chunks-written");
	store_checkpoint(task, position);
	sckpt_fault_point("before-commit");
	attempt.committing = true;
	end_transaction();
	sckpt_fault_point("after-commit");
	switch_state(task, position);
}

bool
sckpt_checkpoint_take(SckptTask *task, SckptPosition *position)
{
	if (!sckpt_checkpoint_begin(task))
		return false;
	sckpt_checkpoint_finish(task, position);
	return true;
}

void
sckpt_checkpoint_record_failure(SckptTask *task, const char *error)
{
	Oid			types[3] = {INT8OID, INT8OID, TEXTOID};
	Datum		values[3];
	SckptUser	saved;
	int64		id = attempt.id;

	for (int i = 0; i < task->nchunks; i++)
		task->chunks[i].leaving = 0;
	if (task->operator)
		task->operator->end_results(task->operator);
	if (id)
		MemoryContextDelete(attempt.context);
	attempt.id = 0;

	StartTransactionCommand();
	if (sckpt_catalog_lock_extension() && sckpt_catalog_hold(task->def->id))
	{
		values[0] = Int64GetDatum(task->def->id);
		values[1] = Int64GetDatum(id);
		values[2] = CStringGetTextDatum(error);
		sckpt_catalog_enter(&saved);
		SPI_execute_with_args("UPDATE stream_ckpt.checkpoint_log SET status = 'failed', completed_at = clock_timestamp(), "
							  "error = $3 WHERE pipeline_id = $1 AND checkpoint_id = $2 AND status = 'in_progress'",
							  3, types, values, NULL, false, 0);
		SPI_execute_with_args("UPDATE stream_ckpt.checkpoint_task_log SET status = 'failed' "
							  "WHERE pipeline_id = $1 AND checkpoint_id = $2 AND status = 'in_progress'",
							  2, types, values, NULL, false, 0);
		sckpt_catalog_leave(&saved);
	}
	CommitTransactionCommand();
}

void
sckpt_checkpoint_store_positions(List *tasks, SckptPosition *position)
{
	Datum	   *ids = palloc(list_length(tasks) * sizeof(Datum));
	int			nids = 0;
	Oid			types[3] = {INT8ARRAYOID, LSNOID, LSNOID};
	Datum		values[3];
	bool		isnull;
	SckptUser	saved;
	ListCell   *lc;

	foreach(lc, tasks)
		ids[nids++] = Int64GetDatum(((SckptTask *) lfirst(lc))->def->id);
	values[0] = PointerGetDatum(construct_array(ids, nids, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[1] = LSNGetDatum(position->commit);
	values[2] = LSNGetDatum(position->restart);

	StartTransactionCommand();
	if (sckpt_catalog_lock_extension())
	{
		sckpt_catalog_enter(&saved);
		if (SPI_execute_with_args("UPDATE stream_ckpt.pipeline_position SET position = $2, restart = $3 WHERE pipeline_id IN "
								  "(SELECT id FROM stream_ckpt.pipeline_def WHERE id = ANY ($1) FOR KEY SHARE SKIP LOCKED) "
								  "RETURNING pipeline_id", 3, types, values, NULL, false, 0) != SPI_OK_UPDATE_RETURNING)
			elog(ERROR, "could not store positions");
		nids = SPI_processed;
		for (int i = 0; i < nids; i++)
			ids[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
		sckpt_catalog_leave(&saved);
	}
	else
		nids = 0;
	CommitTransactionCommand();

	/* Those that are just being dropped were left out; the drop may yet be rolled back. */
	foreach(lc, tasks)
	{
		SckptPipeline *def = ((SckptTask *) lfirst(lc))->def;

		for (int i = 0; i < nids; i++)
		{
			if (DatumGetInt64(ids[i]) != def->id)
				continue;
			def->position = position->commit;
			def->restart = position->restart;
		}
	}
}
