/*-------------------------------------------------------------------------
 *
 * head.c
 *		The head of a parallel pipeline: its stages that are not spread over
 *		tasks, and its checkpoints.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "careful.h"
#include "dead.h"
#include "halt.h"
#include "head.h"
#include "lag.h"
#include "part.h"
#include "result.h"
#include "retain.h"
#include "savepoint.h"
#include "settings.h"
#include "sink.h"

#define LOCKED_MS 200			/* before a checkpoint that found a lock in its way is tried again */

struct SckptHead
{
	int			ntasks;
	uint64		epoch;
	bool		ready;			/* all tasks have started */
	bool		consumed;		/* the rows for our stages of the checkpoint under way are taken in */
	int64		rows_in;		/* before the epoch */
	int64		late_rows;
	TimestampTz first_packed_at;	/* of the checkpoint under way; 0: no task has reached it */
	TimestampTz retry_at;		/* its completion, for which a lock was in the way */
	SckptPartEntry *parts;		/* copies */
	int64	   *rows_before;	/* of each, in this epoch, as of the last checkpoint */
	SckptParcel **replies;		/* of the last checkpoint, until all have settled */
};

/* ---- Shared entries ---- */

static void
wake_tasks(void)
{
	SckptDatabase *database;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	database = sckpt_shared_find_database(MyDatabaseId);
	if (database)
		sckpt_shared_wake_workers(database);
	LWLockRelease(sckpt_shared->lock);
}

void
sckpt_head_begin(SckptTask *task)
{
	SckptHead  *head = MemoryContextAllocZero(task->run_context, sizeof(SckptHead));
	SckptPipelineEntry *entry;
	bool		full = false;

	head->ntasks = task->ntasks;
	head->parts = MemoryContextAllocZero(task->run_context, task->ntasks * sizeof(SckptPartEntry));
	head->rows_before = MemoryContextAllocZero(task->run_context, task->ntasks * sizeof(int64));
	head->replies = MemoryContextAllocZero(task->run_context, task->ntasks * sizeof(SckptParcel *));
	head->rows_in = task->def->rows_in;
	head->late_rows = task->def->late_rows;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry == NULL || entry->worker_pid != MyProcPid)
	{
		LWLockRelease(sckpt_shared->lock);
		elog(ERROR, "pipeline \"%s\" is not this worker's", task->def->name);
	}
	head->epoch = pg_atomic_add_fetch_u64(&sckpt_shared->epochs, 1);
	for (int i = 0; i < head->ntasks && !full; i++)
		full = sckpt_shared_get_part(MyDatabaseId, task->def->id, i) == NULL;
	if (!full)
	{
		SpinLockAcquire(&entry->mutex);
		entry->epoch = head->epoch;
		entry->version = task->def->version;
		entry->ntasks = head->ntasks;
		entry->active = true;
		entry->barrier = entry->outcome = 0;
		entry->careful = task->careful;
		entry->careful_until = task->careful_until;
		entry->careful_rows = task->careful_rows;
		entry->halting = task->halting;
		entry->halt_before = task->halt_before;
		strlcpy(entry->cause, task->cause, SCKPT_ERROR_BYTES);
		for (int i = 0; i < head->ntasks; i++)
		{
			SckptPartEntry *part = sckpt_shared_find_part(MyDatabaseId, task->def->id, i);

			memset((char *) part + offsetof(SckptPartEntry, worker_pid), 0, sizeof(*part) - offsetof(SckptPartEntry, worker_pid));
			part->epoch = head->epoch;
			part->status = SCKPT_PART_WAITING;
			part->next_close = DT_NOEND;
		}
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	if (full)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many tasks of parallel pipelines in this cluster"),
				 errhint("Raise \"stream_ckpt.max_pipelines\" to more than %d.", sckpt_max_pipelines)));
	task->head = head;
	wake_tasks();
}

void
sckpt_head_end(SckptTask *task)
{
	SckptHead  *head = task->head;
	SckptPipelineEntry *entry;

	if (head == NULL)
		return;
	for (int i = 0; i < head->ntasks; i++)
	{
		if (head->replies[i])
			sckpt_parcel_destroy(head->replies[i]);
		head->replies[i] = NULL;
	}
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry && entry->epoch == head->epoch)
	{
		SpinLockAcquire(&entry->mutex);
		entry->active = false;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	task->head = NULL;
	wake_tasks();
}

/* How the tasks are. */
static bool
copy_parts(SckptTask *task)
{
	SckptHead  *head = task->head;
	SckptPipelineEntry *entry;
	bool		found = true;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry == NULL || entry->epoch != head->epoch)
		found = false;
	else
	{
		SpinLockAcquire(&entry->mutex);
		for (int i = 0; i < head->ntasks && found; i++)
		{
			SckptPartEntry *part = sckpt_shared_find_part(MyDatabaseId, task->def->id, i);

			found = part != NULL && part->epoch == head->epoch;
			if (found)
				head->parts[i] = *part;
		}
		task->careful_until = Max(task->careful_until, entry->careful_until);
		task->careful_rows = entry->careful_rows;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	return found;
}

/* The barrier of a checkpoint: the furthest that any task may have read, and not before the last checkpoint, which they have. */
static void
publish_barrier(SckptTask *task)
{
	SckptPipelineEntry *entry;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry)
	{
		XLogRecPtr	barrier = task->def->position + 1;

		SpinLockAcquire(&entry->mutex);
		for (int i = 0; i < task->head->ntasks; i++)
		{
			SckptPartEntry *part = sckpt_shared_find_part(MyDatabaseId, task->def->id, i);

			if (part)
				barrier = Max(barrier, part->claimed);
		}
		entry->barrier = task->attempt->id;
		entry->barrier_lsn = barrier;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	wake_tasks();
}

void
sckpt_head_decide(SckptTask *task, int64 id, bool committed)
{
	SckptHead  *head = task->head;
	SckptPipelineEntry *entry;
	SckptParcelHandle handles[SCKPT_MAX_TASKS];

	memset(handles, 0, sizeof(handles));
	for (int i = 0; i < head->ntasks && committed; i++)
		head->rows_before[i] = head->parts[i].report.rows_in;
	for (int i = 0; i < head->ntasks; i++)
	{
		if (head->replies[i])
			handles[i] = *sckpt_parcel_handle(head->replies[i]);
	}
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry && entry->epoch == head->epoch)
	{
		SpinLockAcquire(&entry->mutex);
		entry->barrier = 0;
		entry->outcome = id;
		entry->committed = committed;
		entry->careful = task->careful;
		entry->halting = task->halting;
		for (int i = 0; i < head->ntasks; i++)
		{
			SckptPartEntry *part = sckpt_shared_find_part(MyDatabaseId, task->def->id, i);

			if (part)
				part->reply = handles[i];
		}
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	wake_tasks();
}

/* ---- Parcels ---- */

/* A row of a parcel, in the buffer. */
typedef struct RowBuffer
{
	MinimalTuple row;
	Size		room;
} RowBuffer;

static void
reserve(RowBuffer *buffer, Size bytes)
{
	if (bytes <= buffer->room)
		return;
	if (buffer->row)
		pfree(buffer->row);
	buffer->room = Max(8192, bytes + bytes / 2);
	buffer->row = palloc_extended(buffer->room, MCXT_ALLOC_HUGE);
}

static void
read_row(SckptParcel *parcel, RowBuffer *buffer)
{
	uint32		length;

	sckpt_parcel_read(parcel, &length, sizeof(length));
	reserve(buffer, length);
	sckpt_parcel_read(parcel, buffer->row, length);
}

/* Read over what is not wanted in this pass. */
static void
skip_bytes(SckptParcel *parcel, Size bytes, RowBuffer *buffer)
{
	reserve(buffer, bytes);
	sckpt_parcel_read(parcel, buffer->row, bytes);
}

static void
read_inflows(SckptTask *task, SckptParcel *parcel)
{
	sckpt_parcel_read(parcel, task->inflows, task->ninflows * sizeof(SckptInflow));
}

static void
receive_deletions(SckptTask *task, SckptParcel *parcel, int number)
{
	int32		header[2];
	Datum	   *ids;
	SckptUser	saved;

	sckpt_parcel_read(parcel, header, sizeof(header));
	ids = palloc(Max(1, header[1]) * sizeof(Datum));
	for (int i = 0; i < header[1]; i++)
	{
		int64		id;

		sckpt_parcel_read(parcel, &id, sizeof(id));
		ids[i] = Int64GetDatum(id);
	}
	sckpt_catalog_enter(&saved);
	sckpt_chunk_delete(task, number, header[0], ids, header[1]);
	sckpt_catalog_leave(&saved);
	pfree(ids);
}

static void
receive_chunk(SckptTask *task, SckptParcel *parcel, int number, RowBuffer *buffer)
{
	SckptParcelChunk chunk;
	SckptUser	saved;

	sckpt_parcel_read(parcel, &chunk, sizeof(chunk));
	reserve(buffer, chunk.bytes);
	sckpt_parcel_read(parcel, buffer->row, chunk.bytes);
	sckpt_catalog_enter(&saved);
	sckpt_chunk_insert(task, number, chunk.stage, chunk.id, chunk.entries, (char *) buffer->row, chunk.bytes);
	sckpt_catalog_leave(&saved);
}

/* ---- Rows for our stages ---- */

/* Which of our stages takes the rows at hand. */
typedef struct Intake
{
	SckptTask  *task;
	SckptOperator *operator;	/* NULL: none yet */
	int			stage;
	int			side;
	TupleTableSlot *slot;
} Intake;

static void
end_intake(Intake *intake)
{
	if (intake->operator == NULL)
		return;
	intake->operator->end_rows(intake->operator);
	intake->operator->end_batch(intake->operator);
	ExecDropSingleTupleTableSlot(intake->slot);
	intake->operator = NULL;
}

static void
begin_intake(Intake *intake, SckptParcelRow *row)
{
	SckptQuery *stage = intake->task->query;
	TupleDesc	desc = NULL;

	if (intake->operator && intake->stage == row->stage && intake->side == row->side)
		return;
	end_intake(intake);
	while (stage && stage->place != row->stage)
		stage = stage->above;
	if (stage == NULL || stage->number < 0)
		elog(ERROR, "rows for stage %d, which is not here", row->stage);
	if (stage->join)
		desc = stage->join->rows[row->side];
	for (SckptQuery *below = intake->task->query; below && desc == NULL; below = below->above)
	{
		if (below->target == stage)
			desc = below->result;
	}
	intake->stage = row->stage;
	intake->side = row->side;
	intake->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	intake->operator = intake->task->operators[stage->number];
	intake->operator->side = row->side;
	intake->operator->begin_rows(intake->operator, NULL, &intake->task->times);
}

/*
 * What the tasks hand on to our stages, and from there upwards.  Taken in once, whatever becomes of the checkpoint; an error leaves the state
 * undefined.
 */
static void
consume(SckptTask *task)
{
	SckptHead  *head = task->head;
	Intake		intake = {.task = task};
	SckptIdentity identity;
	RowBuffer	buffer = {NULL, 0};
	MemoryContext context;

	sckpt_task_begin_work(task, &identity);
	context = AllocSetContextCreate(task->run_context, "stream_ckpt rows handed over", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	for (int i = 0; i < head->ntasks; i++)
	{
		SckptParcel *parcel = sckpt_parcel_open(context, &head->parts[i].parcel);

		while (!sckpt_parcel_at_end(parcel))
		{
			char		kind;
			int32		weight;
			SckptParcelRow row;
			SckptParcelChunk chunk;
			SckptChange change;
			int32		header[2];

			CHECK_FOR_INTERRUPTS();
			sckpt_parcel_read(parcel, &kind, 1);
			switch (kind)
			{
				case SCKPT_PARCEL_ROW:
					sckpt_parcel_read(parcel, &row, sizeof(row));
					read_row(parcel, &buffer);
					begin_intake(&intake, &row);
					ExecStoreMinimalTuple(buffer.row, intake.slot, false);
					intake.operator->consume(intake.operator, intake.slot, row.weight);
					break;
				case SCKPT_PARCEL_INFLOWS:
					read_inflows(task, parcel);
					break;
				case SCKPT_PARCEL_CHANGE:
					sckpt_parcel_read(parcel, &change, sizeof(change));
					read_row(parcel, &buffer);
					break;
				case SCKPT_PARCEL_BAG:
					sckpt_parcel_read(parcel, &weight, sizeof(weight));
					read_row(parcel, &buffer);
					break;
				case SCKPT_PARCEL_CHUNK:
					sckpt_parcel_read(parcel, &chunk, sizeof(chunk));
					skip_bytes(parcel, chunk.bytes, &buffer);
					break;
				case SCKPT_PARCEL_DELETIONS:
					sckpt_parcel_read(parcel, header, sizeof(header));
					skip_bytes(parcel, header[1] * sizeof(int64), &buffer);
					break;
				case SCKPT_PARCEL_LETTER:
					sckpt_dead_receive(task, parcel, false);
					break;
				default:
					elog(ERROR, "unknown item %d in a parcel", kind);
			}
		}
		sckpt_parcel_destroy(parcel);
	}
	end_intake(&intake);
	sckpt_task_hand_on(task);
	MemoryContextSwitchTo(task->run_context);
	MemoryContextDelete(context);
	sckpt_task_end_work(&identity);
}

/* ---- Results ---- */

/* Where changes of result rows go; opened by the first one. */
typedef struct Target
{
	SckptTask  *task;
	SckptSink  *sink;
	SckptAppender *appender;
	SckptChanging *changing;
	SckptCarefulChanges *careful;
	TupleTableSlot *slot;
	RowBuffer	buffer;
} Target;

static void
fill_slot(Target *target)
{
	slot_getallattrs(target->slot);
	sckpt_result_fill(target->task, sckpt_sink_slot(target->sink), target->slot);
}

static void
make_change(Target *target, SckptChange *change, SckptOutcome *outcome)
{
	SckptTask  *task = target->task;
	bool		append = change->kind == SCKPT_CHANGE_APPEND;

	if (task->careful)
	{
		if (target->careful == NULL)
			target->careful = sckpt_careful_changes_begin(task);
		sckpt_careful_changes_add(target->careful, append, change->kind == SCKPT_CHANGE_DELETE, change->there, &change->hint,
								  target->slot, outcome);
		return;
	}
	if (append && !task->def->result_owned)
	{
		if (target->appender == NULL)
			target->appender = sckpt_appender_open(task, false);
		sckpt_appender_put(target->appender, target->slot);
		return;
	}
	if (target->sink == NULL)
	{
		target->sink = sckpt_sink_open(task->def->result, task->last->nsink, task->key_columns, !task->def->result_owned);
		sckpt_sink_set_columns(target->sink, task->last->result->natts, task->result_columns);
	}
	fill_slot(target);
	task->attempt->rows_out++;
	if (!append)
		sckpt_retain_touch(task, target->slot);
	if (change->kind == SCKPT_CHANGE_DELETE)
	{
		sckpt_retain_touch_removed(task, target->slot, sckpt_sink_delete(target->sink, &change->hint));
		return;
	}
	outcome->flags = SCKPT_OUTCOME_EMITTED | SCKPT_OUTCOME_PUT;
	ItemPointerSetInvalid(&outcome->tid);
	task->attempt->rows_put += append || !change->there;
	sckpt_sink_put(target->sink, &change->hint, !append && (change->there || !task->def->result_owned), &outcome->tid);
}

/* A row of a bag. */
static void
change_bag(Target *target, int32 weight)
{
	ItemPointerData nowhere;

	ItemPointerSetInvalid(&nowhere);
	if (weight > 0 && target->task->careful)
	{
		if (target->careful == NULL)
			target->careful = sckpt_careful_changes_begin(target->task);
		sckpt_careful_changes_add(target->careful, true, false, false, &nowhere, target->slot, NULL);
		return;
	}
	if (target->changing == NULL)
		target->changing = sckpt_changing_open(target->task);
	sckpt_changing_put(target->changing, target->slot, weight);
}

static void
close_target(Target *target)
{
	if (target->sink)
		sckpt_sink_close(target->sink);
	if (target->appender)
		target->task->attempt->rows_out += sckpt_appender_close(target->appender);
	if (target->changing)
		target->task->attempt->rows_out += sckpt_changing_close(target->changing);
	if (target->careful)
		sckpt_careful_changes_end(target->careful);
}

/* What one task has handed over, but for rows. */
static void
receive(Target *target, int number, SckptOutcome *outcomes)
{
	SckptTask  *task = target->task;
	SckptPartEntry *part = &task->head->parts[number];
	SckptParcel *parcel = sckpt_parcel_open(task->attempt->context, &part->parcel);
	uint32		n = 0;

	while (!sckpt_parcel_at_end(parcel))
	{
		char		kind;
		int32		weight;
		SckptParcelRow row;
		SckptChange change;

		CHECK_FOR_INTERRUPTS();
		sckpt_parcel_read(parcel, &kind, 1);
		switch (kind)
		{
			case SCKPT_PARCEL_ROW:
				sckpt_parcel_read(parcel, &row, sizeof(row));
				read_row(parcel, &target->buffer);
				break;
			case SCKPT_PARCEL_INFLOWS:
				read_inflows(task, parcel);
				break;
			case SCKPT_PARCEL_CHANGE:
				sckpt_parcel_read(parcel, &change, sizeof(change));
				read_row(parcel, &target->buffer);
				if (n == part->report.nchanges)
					elog(ERROR, "more changes in a parcel than were counted");
				ExecStoreMinimalTuple(target->buffer.row, target->slot, false);
				make_change(target, &change, &outcomes[n++]);
				ExecClearTuple(target->slot);
				break;
			case SCKPT_PARCEL_BAG:
				sckpt_parcel_read(parcel, &weight, sizeof(weight));
				read_row(parcel, &target->buffer);
				ExecStoreMinimalTuple(target->buffer.row, target->slot, false);
				change_bag(target, weight);
				ExecClearTuple(target->slot);
				break;
			case SCKPT_PARCEL_CHUNK:
				receive_chunk(task, parcel, number, &target->buffer);
				break;
			case SCKPT_PARCEL_DELETIONS:
				receive_deletions(task, parcel, number);
				break;
			case SCKPT_PARCEL_LETTER:
				sckpt_dead_receive(task, parcel, true);
				break;
			default:
				elog(ERROR, "unknown item %d in a parcel", kind);
		}
	}
	sckpt_parcel_destroy(parcel);
}

/* Say what became of the changes. */
static SckptParcel *
make_reply(SckptTask *task, SckptOutcome *outcomes, uint32 n)
{
	SckptParcel *reply = sckpt_parcel_create(task->run_context);
	SckptParcelHandle handle;

	sckpt_parcel_write(reply, outcomes, n * sizeof(SckptOutcome));
	sckpt_parcel_close(reply, &handle);
	return reply;
}

void
sckpt_head_receive(SckptTask *task)
{
	SckptHead  *head = task->head;
	MemoryContext old = MemoryContextSwitchTo(task->attempt->context);
	SckptOutcome *outcomes[SCKPT_MAX_TASKS];
	Target		target = {.task = task};

	target.slot = MakeSingleTupleTableSlot(task->last->result, &TTSOpsMinimalTuple);
	for (int i = 0; i < head->ntasks; i++)
	{
		outcomes[i] = MemoryContextAllocExtended(task->attempt->context,
												 Max(1, head->parts[i].report.nchanges) * sizeof(SckptOutcome),
												 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		receive(&target, i, outcomes[i]);
	}
	close_target(&target);
	ExecDropSingleTupleTableSlot(target.slot);
	for (int i = 0; i < head->ntasks; i++)
	{
		if (head->replies[i])
			sckpt_parcel_destroy(head->replies[i]);
		head->replies[i] = NULL;
		if (head->parts[i].report.nchanges > 0)
			head->replies[i] = make_reply(task, outcomes[i], head->parts[i].report.nchanges);
	}
	MemoryContextSwitchTo(old);
}

/* ---- Checkpoints ---- */

void
sckpt_head_add_state(SckptTask *task, uint64 *rows, Size *bytes)
{
	for (int i = 0; i < task->head->ntasks; i++)
	{
		*rows += task->head->parts[i].report.state_rows;
		*bytes += task->head->parts[i].report.state_bytes;
	}
}

const SckptPartReport *
sckpt_head_report(SckptTask *task, int number, int64 *restore_id)
{
	*restore_id = task->head->parts[number].restore_id;
	return &task->head->parts[number].report;
}

int64
sckpt_head_rows_before(SckptTask *task, int number)
{
	return task->head->rows_before[number];
}

static void
trigger(SckptTask *task, void *arg)
{
	if (!sckpt_checkpoint_trigger(task))
	{
		task->checkpoint_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_MS);
		return;
	}
	task->head->consumed = false;
	task->head->first_packed_at = 0;
	task->head->retry_at = 0;
	publish_barrier(task);
}

static void
complete(SckptTask *task, void *arg)
{
	SckptHead  *head = task->head;
	SckptAttempt *attempt = task->attempt;
	SckptPosition position = {PG_UINT64_MAX, PG_UINT64_MAX, 0};

	task->rows_in = head->rows_in;
	task->late_rows = head->late_rows;
	for (int i = 0; i < head->ntasks; i++)
	{
		SckptPartReport *report = &head->parts[i].report;

		position.commit = Min(position.commit, report->commit);
		position.restart = Min(position.restart, report->restart);
		task->rows_in += report->rows_in;
		task->late_rows += report->late_rows;
		task->times.watermark = report->watermark;
		task->times.clock = report->clock;
	}
	if (!head->consumed && task->noperators > 0)
	{
		attempt->undefined = true;
		consume(task);
		attempt->undefined = false;
	}
	head->consumed = true;
	if (!sckpt_checkpoint_resume(task))
	{
		head->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_MS);
		return;
	}
	for (int i = 0; i < head->ntasks; i++)
	{
		attempt->rows += head->parts[i].report.checkpointed_rows;
		attempt->bytes += head->parts[i].report.checkpointed_bytes;
	}
	sckpt_checkpoint_finish(task, &position);
}

static void
time_out(SckptTask *task, void *arg)
{
	int			acknowledged = 0;

	for (int i = 0; i < task->head->ntasks; i++)
		acknowledged += task->head->parts[i].packed == task->attempt->id;

	/* What those have handed on to our stages is lost with their parcels. */
	task->attempt->undefined = task->noperators > 0;
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("checkpoint " INT64_FORMAT " of pipeline \"%s\" was not complete at the timeout", task->attempt->id, task->def->name),
			 errdetail("%d of %d tasks had reached its barrier %d ms (stream_ckpt.checkpoint_timeout) after the first one.", acknowledged,
					   task->head->ntasks, sckpt_checkpoint_timeout)));
}

/* Of tasks that have failed, the one that has found the first bad row, or any. */
static SckptPartEntry *
find_failed(SckptHead *head)
{
	SckptPartEntry *found = NULL;

	for (int i = 0; i < head->ntasks; i++)
	{
		SckptPartEntry *part = &head->parts[i];

		if (part->status != SCKPT_PART_FAILED)
			continue;
		if (found == NULL || (part->halt_before != InvalidXLogRecPtr &&
							  (found->halt_before == InvalidXLogRecPtr || part->halt_before < found->halt_before)))
			found = part;
	}
	return found;
}

/* A task that has failed takes the pipeline with it.  It has reported its error. */
static bool
fail_with_part(SckptTask *task)
{
	SckptPartEntry *part = find_failed(task->head);
	ErrorData	error = {0};

	if (part == NULL)
		return false;
	for (int i = 0; i < task->head->ntasks; i++)
		task->fed = Max(task->fed, task->head->parts[i].claimed);
	error.sqlerrcode = part->sqlerrcode;
	error.message = pstrdup(part->error);
	error.hint = part->starved ? pstrdup(part->hint) : NULL;
	if (part->halt_before != InvalidXLogRecPtr)
		sckpt_halt_found(task, part->halt_before, part->sqlerrcode, part->error, part->hint);
	task->attempt->undefined = true;
	sckpt_task_fail(task, &error);
	task->attempt->undefined = false;
	sckpt_task_publish(task, InvalidXLogRecPtr);
	return true;
}

/* What the tasks say, all together. */
typedef struct Summary
{
	bool		running;
	bool		changed;
	bool		packed;			/* all, of the checkpoint under way */
	bool		reached;		/* some have */
	bool		settled;
	XLogRecPtr	commit;
	XLogRecPtr	restart;
	XLogRecPtr	end;
} Summary;

static void
sum_up(SckptTask *task, Summary *summary)
{
	SckptHead  *head = task->head;
	TimestampTz fed_time = DT_NOEND;

	*summary = (Summary) {true, task->changed, true, false, true, PG_UINT64_MAX, PG_UINT64_MAX, PG_UINT64_MAX};
	task->rows_in = head->rows_in;
	task->late_rows = head->late_rows;
	for (int i = 0; i < head->ntasks; i++)
	{
		SckptPartEntry *part = &head->parts[i];

		summary->running &= part->status == SCKPT_PART_RUNNING;
		summary->changed |= part->changed;
		summary->packed &= part->packed == task->attempt->id;
		summary->reached |= part->packed == task->attempt->id;
		summary->settled &= part->packed == part->settled;
		summary->commit = Min(summary->commit, part->commit);
		summary->restart = Min(summary->restart, part->restart);
		summary->end = Min(summary->end, part->end);
		fed_time = Min(fed_time, part->fed_time);
		task->rows_in += part->counters.rows_in;
		task->late_rows += part->counters.late_rows;
	}
	if (summary->commit != InvalidXLogRecPtr)
	{
		task->fed = Max(task->fed, summary->commit);
		task->read_lsn = Max(task->read_lsn, summary->end);
	}
	if (fed_time != 0 && fed_time != DT_NOEND)
		task->fed_time = Max(task->fed_time, fed_time);
}

TimestampTz
sckpt_head_next_close(SckptTask *task)
{
	TimestampTz next = DT_NOEND;

	for (int i = 0; i < task->head->ntasks; i++)
		next = Min(next, task->head->parts[i].next_close);
	return next;
}

void
sckpt_head_counters(SckptTask *task, SckptCounters *counters)
{
	for (int i = 0; i < task->head->ntasks; i++)
	{
		SckptCounters *part = &task->head->parts[i].counters;

		counters->state_rows += part->state_rows;
		counters->state_bytes += part->state_bytes;
		counters->busy_ms += part->busy_ms;
		counters->idle_ms += part->idle_ms;
	}
}

bool
sckpt_head_is_ready(SckptTask *task)
{
	return task->head->ready;
}

static void
drop_replies(SckptHead *head)
{
	for (int i = 0; i < head->ntasks; i++)
	{
		if (head->replies[i])
			sckpt_parcel_destroy(head->replies[i]);
		head->replies[i] = NULL;
	}
}

/* Have all tasks read what comes before the bad row? */
static bool
is_halted(SckptTask *task, Summary *summary)
{
	return task->halt_before != InvalidXLogRecPtr && summary->end >= task->halt_before;
}

/* Between two checkpoints: is one due? */
static bool
is_due(SckptTask *task, Summary *summary, TimestampTz now)
{
	XLogRecPtr	requested = sckpt_task_requested(task);

	if (sckpt_savepoint_wanted(task, summary->end) && task->waiting[0] == '\0')
		return true;
	if (!summary->changed)
		return false;
	if (is_halted(task, summary) && task->checkpoint_at <= now)
		return true;
	if (requested != InvalidXLogRecPtr && summary->end >= requested && task->waiting[0] == '\0')
		return true;

	/* Who reads what we write is too far behind: nothing more of it now. */
	return task->checkpoint_at <= now && !sckpt_lag_sink_full(task, NIL);
}

void
sckpt_head_step(SckptTask *task, int64 interval)
{
	SckptHead  *head = task->head;
	TimestampTz now = GetCurrentTimestamp();
	XLogRecPtr	covered = InvalidXLogRecPtr;
	Summary		summary;

	if (!copy_parts(task) || fail_with_part(task))
		return;
	sum_up(task, &summary);
	if (summary.running)
		head->ready = true;
	if (!head->ready || summary.commit == InvalidXLogRecPtr)
	{
		sckpt_task_publish(task, InvalidXLogRecPtr);
		return;
	}
	if (task->attempt->id == 0 && summary.settled)
	{
		drop_replies(head);
		if (is_due(task, &summary, now))
			(void) sckpt_task_guard(task, trigger, NULL);
		else if (!summary.changed)
		{
			covered = summary.end;
			if (is_halted(task, &summary))
				(void) sckpt_task_guard(task, sckpt_halt_raise, NULL);
		}
	}
	else if (task->attempt->id != 0 && summary.packed)
	{
		int64		before = task->def->last_checkpoint;

		if (head->retry_at <= now && sckpt_task_guard(task, complete, NULL) && task->def->last_checkpoint > before)
			task->checkpoint_at = TimestampTzPlusMilliseconds(task->attempt->triggered_at, interval);
	}
	else if (task->attempt->id != 0 && summary.reached)
	{
		if (head->first_packed_at == 0)
			head->first_packed_at = now;
		if (TimestampDifferenceExceeds(head->first_packed_at, now, sckpt_checkpoint_timeout))
			(void) sckpt_task_guard(task, time_out, NULL);
	}
	if (task->status == SCKPT_RUNNING)
		sckpt_task_publish(task, covered);
}

int64
sckpt_head_wait(SckptTask *task, TimestampTz now)
{
	SckptHead  *head = task->head;
	bool		changed = task->changed;

	if (task->attempt->id != 0)
		return LOCKED_MS;
	for (int i = 0; i < head->ntasks; i++)
		changed |= head->parts[i].changed;
	return changed ? Max(1, (task->checkpoint_at - now) / 1000 + 1) : PG_INT32_MAX;
}

bool
sckpt_head_idle_position(SckptTask *task, SckptPosition *position)
{
	Summary		summary;

	if (task->head == NULL || !task->head->ready || task->attempt->id != 0 || !copy_parts(task))
		return false;
	sum_up(task, &summary);
	position->commit = summary.commit;
	position->restart = summary.restart;
	position->end = summary.end;
	return summary.running && summary.settled && !summary.changed && summary.commit != InvalidXLogRecPtr;
}
