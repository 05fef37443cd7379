/*-------------------------------------------------------------------------
 *
 * offline_store.c
 *		Storing a state that a session has loaded: a checkpoint of all of it,
 *		in the session's transaction.
 *
 * Everything is written, results and entries, so that nothing of what was stored before counts any more: an
 * aggregate that a query loses and gets back later starts anew, and does not find what older chunks have of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "checkpoint_private.h"
#include "offline.h"
#include "retain.h"
#include "settings.h"
#include "result.h"
#include "sink.h"

static void
mark_all(SckptState *state)
{
	uint64		cursor = 0;
	SckptRef	ref;

	while ((ref = sckpt_state_next(state, &cursor)) != SCKPT_NO_REF)
	{
		SckptEntry *entry = sckpt_state_address(state, ref);

		CHECK_FOR_INTERRUPTS();
		sckpt_state_mark_dirty(state, ref);
		entry->flags &= ~SCKPT_ENTRY_REWRITE;
	}
}

void
sckpt_offline_withdraw(SckptTask *task)
{
	SckptOperator *last = sckpt_task_last(task);
	SckptIdentity identity;
	SckptSink  *sink;
	TupleTableSlot *row;
	uint64		cursor = 0;
	SckptRef	ref;

	sckpt_task_become_owner(task, &identity);
	sink = sckpt_sink_open(task->def->result, task->last->nsink, task->key_columns, !task->def->result_owned);
	sckpt_sink_set_columns(sink, task->last->result->natts, task->result_columns);
	row = MakeSingleTupleTableSlot(task->last->result, &TTSOpsVirtual);
	while ((ref = sckpt_state_next(last->state, &cursor)) != SCKPT_NO_REF)
	{
		SckptEntry *entry = sckpt_state_address(last->state, ref);

		CHECK_FOR_INTERRUPTS();
		if (!(entry->flags & SCKPT_ENTRY_EMITTED))
			continue;
		last->key_row(last, ref, row);
		sckpt_result_fill(task, sckpt_sink_slot(sink), row);
		sckpt_sink_delete(sink, &entry->tid);
		entry->flags &= ~SCKPT_ENTRY_EMITTED;
		ItemPointerSetInvalid(&entry->tid);
	}
	ExecDropSingleTupleTableSlot(row);
	sckpt_sink_close(sink);
	sckpt_task_become_self(&identity);
}

/* Position and history; the position in the log stays. */
static void
store_checkpoint(SckptTask *task)
{
	static const char log_sql[] =
		"WITH log AS (INSERT INTO stream_ckpt.checkpoint_log (pipeline_id, checkpoint_id, status, triggered_at, completed_at, "
		"position, watermark, tasks, acknowledged, rows_in, state_rows, state_bytes, checkpointed_rows, checkpointed_bytes) "
		"SELECT $1, $2, 'completed', $3, clock_timestamp(), position, watermark, 1, 1, 0, $4, $5, $6, $7 "
		"FROM stream_ckpt.pipeline_position WHERE pipeline_id = $1) "
		"INSERT INTO stream_ckpt.checkpoint_task_log (pipeline_id, checkpoint_id, task, status, acknowledged_at, start_delay, "
		"snapshot_duration, commit_duration, state_rows, state_bytes, checkpointed_rows, checkpointed_bytes, rows_in) "
		"VALUES ($1, $2, 0, 'completed', $8, '0', $8 - $3, clock_timestamp() - $8, $4, $5, $6, $7, 0)";
	static const char position_sql[] =
		"UPDATE stream_ckpt.pipeline_position SET last_checkpoint = $2, next_checkpoint = $2 + 1, rows_out = rows_out + $3, "
		"chunks = $4, layout = $5 WHERE pipeline_id = $1";
	Oid			log_types[8] = {INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID};
	Oid			position_types[5] = {INT8OID, INT8OID, INT8OID, INT4OID, INT4OID};
	SckptAttempt *attempt = task->attempt;
	Datum		values[8];
	uint64		state_rows;
	Size		state_bytes;
	SckptUser	saved;

	sckpt_task_state_size(task, &state_rows, &state_bytes);
	for (int i = 0; i < task->nstores; i++)
		state_rows -= attempt->snapshots[i].nleaving;
	sckpt_catalog_enter(&saved);
	sckpt_chunk_delete_empty(task);
	sckpt_chunk_end_old(task);
	values[0] = Int64GetDatum(task->def->id);
	values[1] = Int64GetDatum(attempt->id);
	values[2] = Int64GetDatum(attempt->rows_out);
	values[3] = Int32GetDatum(sckpt_chunk_count(task));
	values[4] = Int32GetDatum(sckpt_task_layout(task));
	if (SPI_execute_with_args(position_sql, 5, position_types, values, NULL, false, 0) != SPI_OK_UPDATE || SPI_processed != 1)
		elog(ERROR, "position of pipeline \"%s\" not found", task->def->name);
	values[2] = TimestampTzGetDatum(attempt->triggered_at);
	values[3] = Int64GetDatum(state_rows);
	values[4] = Int64GetDatum(state_bytes);
	values[5] = Int64GetDatum(attempt->rows);
	values[6] = Int64GetDatum(attempt->bytes);
	values[7] = TimestampTzGetDatum(attempt->packed_at);
	if (SPI_execute_with_args(log_sql, 8, log_types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store a checkpoint");
	sckpt_retain_store(task);
	sckpt_catalog_leave(&saved);
}

int64
sckpt_offline_store(SckptTask *task)
{
	SckptAttempt *attempt = task->attempt;
	SckptIdentity identity;

	for (int i = 0; i < task->noperators; i++)
	{
		mark_all(task->operators[i]->state);
		if (task->operators[i]->elements)
			mark_all(task->operators[i]->elements);
	}
	memset(attempt, 0, sizeof(SckptAttempt));
	attempt->id = task->def->next_checkpoint;
	attempt->triggered_at = attempt->started_at = GetCurrentTimestamp();
	attempt->context = AllocSetContextCreate(task->run_context, "stream_ckpt checkpoint", ALLOCSET_DEFAULT_SIZES);
	sckpt_chunk_reset(task);
	sckpt_retain_begin(task);

	sckpt_task_become_owner(task, &identity);
	if (task->noperators > 1)
		sckpt_task_hand_on(task);
	sckpt_snapshot_take(task);
	sckpt_task_become_self(&identity);
	store_checkpoint(task);
	sckpt_fault_point("offline-stored");
	return attempt->id;
}
