/*-------------------------------------------------------------------------
 *
 * part.c
 *		A task of a pipeline that has a head, in whichever worker it runs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "careful.h"
#include "compat.h"
#include "dead.h"
#include "part.h"
#include "record.h"
#include "settings.h"

#define TELL_MS	50				/* between wake-ups of the head for nothing but that rows have come */

/* ---- Shared entries ---- */

/* What the head wants. */
typedef struct Wish
{
	uint64		epoch;
	bool		active;
	int64		barrier;
	XLogRecPtr	barrier_lsn;
	int64		outcome;
	bool		committed;
	bool		careful;
	uint64		careful_rows;
	bool		halting;
	XLogRecPtr	halt_before;
	SckptParcelHandle reply;
	char		cause[SCKPT_ERROR_BYTES];
	SckptPartStatus status;		/* the task's, as its entry has it */
	uint64		part_epoch;
} Wish;

/* Both entries, or false: the pipeline is not parallel, or nobody's, just now. */
static bool
find_entries(SckptTask *part, SckptPipelineEntry **pipeline, SckptPartEntry **entry)
{
	*pipeline = sckpt_shared_find_pipeline(MyDatabaseId, part->def->id);
	*entry = *pipeline ? sckpt_shared_find_part(MyDatabaseId, part->def->id, part->number) : NULL;
	return *entry != NULL;
}

static bool
get_wish(SckptTask *part, Wish *wish)
{
	SckptPipelineEntry *pipeline;
	SckptPartEntry *entry;
	bool		found;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	found = find_entries(part, &pipeline, &entry);
	if (found)
	{
		SpinLockAcquire(&pipeline->mutex);
		wish->epoch = pipeline->epoch;
		wish->active = pipeline->active && part->number < pipeline->ntasks && pipeline->version == part->def->version;
		wish->barrier = pipeline->barrier;
		wish->barrier_lsn = pipeline->barrier_lsn;
		wish->outcome = pipeline->outcome;
		wish->committed = pipeline->committed;
		wish->careful = pipeline->careful;
		wish->careful_rows = pipeline->careful_rows;
		wish->halting = pipeline->halting;
		wish->halt_before = pipeline->halt_before;
		strlcpy(wish->cause, pipeline->cause, SCKPT_ERROR_BYTES);
		wish->reply = entry->reply;
		wish->status = entry->status;
		wish->part_epoch = entry->epoch;
		SpinLockRelease(&pipeline->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	return found;
}

static void
wake_head(SckptTask *part)
{
	SckptDatabase *database;
	SckptPipelineEntry *pipeline;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	database = sckpt_shared_find_database(MyDatabaseId);
	pipeline = sckpt_shared_find_pipeline(MyDatabaseId, part->def->id);
	for (int i = 0; database && pipeline && i < database->nworkers; i++)
	{
		if (database->workers[i].pid != 0 && database->workers[i].pid == pipeline->worker_pid)
			SetLatch(database->workers[i].latch);
	}
	LWLockRelease(sckpt_shared->lock);
}

/* ---- Starting and stopping ---- */

static void
stop(SckptTask *part)
{
	if (part->query == NULL)
		return;
	sckpt_part_release(part);
	sckpt_task_stop(part);
	part->status = SCKPT_STARTING;
	part->epoch = 0;
}

void
sckpt_part_release(SckptTask *part)
{
	if (part->attempt->parcel)
		sckpt_parcel_destroy(part->attempt->parcel);
	part->attempt->parcel = NULL;
	part->attempt->id = 0;
}

bool
sckpt_part_wanted(SckptTask *part)
{
	Wish		wish;

	if (!get_wish(part, &wish) || !wish.active)
	{
		stop(part);
		return false;
	}
	if (part->query != NULL && part->epoch == wish.epoch)
		return false;
	stop(part);
	part->epoch = wish.epoch;
	return wish.part_epoch == wish.epoch && wish.status == SCKPT_PART_WAITING;
}

void
sckpt_part_start(SckptTask *part)
{
	SckptPipelineEntry *pipeline;
	SckptPartEntry *entry;
	Wish		wish;

	if (!get_wish(part, &wish) || !wish.active || wish.epoch != part->epoch)
		return;
	part->careful = wish.careful;
	part->careful_rows = wish.careful_rows;
	part->halting = wish.halting;
	part->halt_found = false;
	part->halt_before = InvalidXLogRecPtr;
	strlcpy(part->cause, wish.cause, SCKPT_ERROR_BYTES);
	sckpt_task_start(part);
	part->status = SCKPT_RUNNING;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	if (find_entries(part, &pipeline, &entry))
	{
		SpinLockAcquire(&pipeline->mutex);
		if (entry->epoch == part->epoch)
		{
			entry->worker_pid = MyProcPid;
			if (part->number == 0)
				pipeline->reader_pid = MyProcPid;
			entry->status = SCKPT_PART_RUNNING;
			entry->restore_id = part->restore_id;
			entry->changed = part->changed;
		}
		SpinLockRelease(&pipeline->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	wake_head(part);
}

void
sckpt_part_fail(SckptTask *part, ErrorData *error, bool starved)
{
	SckptPipelineEntry *pipeline;
	SckptPartEntry *entry;
	uint64		epoch = part->epoch;

	sckpt_part_release(part);
	sckpt_task_stop(part);
	part->status = SCKPT_STARTING;
	part->epoch = 0;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	if (find_entries(part, &pipeline, &entry))
	{
		SpinLockAcquire(&pipeline->mutex);
		if (entry->epoch == epoch && pipeline->epoch == epoch)
		{
			entry->worker_pid = MyProcPid;
			entry->status = SCKPT_PART_FAILED;
			entry->sqlerrcode = error->sqlerrcode;
			entry->starved = starved;
			entry->halt_before = part->halt_found ? part->halt_before : InvalidXLogRecPtr;
			strlcpy(entry->error, part->halt_found ? part->halt_message : part->error, SCKPT_ERROR_BYTES);
			strlcpy(entry->hint, part->halt_found ? part->halt_detail : error->hint ? error->hint : "", SCKPT_ERROR_BYTES);
			if (part->careful_rows == 1)
				pipeline->careful_rows = 1;
		}
		SpinLockRelease(&pipeline->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	wake_head(part);
}

void
sckpt_part_leave(SckptTask *part)
{
	ErrorData	error = {.sqlerrcode = ERRCODE_ADMIN_SHUTDOWN};

	if (part->query == NULL)
		return;
	snprintf(part->error, SCKPT_ERROR_BYTES, "task %d goes to another worker", part->number);
	sckpt_part_fail(part, &error, false);
}

/* ---- Handing over ---- */

static void
send(SckptTask *part, char kind, const void *data, Size bytes)
{
	sckpt_parcel_write(part->attempt->parcel, &kind, 1);
	sckpt_parcel_write(part->attempt->parcel, data, bytes);
}

static void
send_tuple(SckptTask *part, TupleTableSlot *row)
{
	MemoryContext old = MemoryContextSwitchTo(part->handing_context);
	MinimalTuple tuple;

	slot_getallattrs(row);
	tuple = heap_form_minimal_tuple(row->tts_tupleDescriptor, row->tts_values, row->tts_isnull, 0);
	MemoryContextSwitchTo(old);
	sckpt_parcel_write(part->attempt->parcel, &tuple->t_len, sizeof(uint32));
	sckpt_parcel_write(part->attempt->parcel, tuple, tuple->t_len);
	MemoryContextReset(part->handing_context);
}

uint32
sckpt_part_send_change(SckptTask *part, SckptChangeKind kind, TupleTableSlot *row, ItemPointer hint, bool there)
{
	SckptChange change = {kind, there, *hint};

	send(part, SCKPT_PARCEL_CHANGE, &change, sizeof(change));
	send_tuple(part, row);
	return ++part->attempt->nchanges;
}

void
sckpt_part_send_bag(SckptTask *part, TupleTableSlot *row, int32 weight)
{
	send(part, SCKPT_PARCEL_BAG, &weight, sizeof(weight));
	send_tuple(part, row);
}

void
sckpt_part_send_chunk(SckptTask *part, int stage, int64 id, uint32 entries, const char *payload, Size bytes)
{
	SckptParcelChunk chunk = {stage, entries, id, bytes};

	send(part, SCKPT_PARCEL_CHUNK, &chunk, sizeof(chunk));
	sckpt_parcel_write(part->attempt->parcel, payload, bytes);
}

void
sckpt_part_send_deletions(SckptTask *part, int stage, Datum *ids, int nids)
{
	int32		header[2] = {stage, nids};

	send(part, SCKPT_PARCEL_DELETIONS, header, sizeof(header));
	for (int i = 0; i < nids; i++)
	{
		int64		id = DatumGetInt64(ids[i]);

		sckpt_parcel_write(part->attempt->parcel, &id, sizeof(id));
	}
}

bool
sckpt_part_send_row(void *arg, TupleTableSlot *row, int32 weight)
{
	SckptPartTarget *target = arg;
	SckptParcelRow head = {weight, target->stage->place, target->side};

	send(target->part, SCKPT_PARCEL_ROW, &head, sizeof(head));
	send_tuple(target->part, row);
	return true;
}

static void
begin_attempt(SckptTask *part, int64 id)
{
	SckptAttempt *attempt = part->attempt;

	memset(attempt, 0, sizeof(*attempt));
	attempt->id = id;
	attempt->started_at = GetCurrentTimestamp();
	attempt->context = AllocSetContextCreate(part->run_context, "stream_ckpt checkpoint", ALLOCSET_DEFAULT_SIZES);
	attempt->parcel = sckpt_parcel_create(part->run_context);
	attempt->ndead = list_length(part->dead);
	attempt->undefined = true;
	sckpt_chunk_reset(part);
}

/* At the barrier: everything that has changed, into the parcel. */
typedef struct HandOver
{
	int64		id;
	SckptPosition *position;
	XLogRecPtr	halt_before;
} HandOver;

static void
hand_over(SckptTask *part, void *arg)
{
	HandOver   *over = arg;
	SckptAttempt *attempt = part->attempt;
	SckptPartReport report = {0};
	SckptParcelHandle handle;
	SckptPipelineEntry *pipeline;
	SckptPartEntry *entry;
	SckptIdentity identity;
	uint64		state_rows;
	Size		state_bytes;

	begin_attempt(part, over->id);
	sckpt_fault_point("barrier");
	sckpt_task_begin_work(part, &identity);
	send(part, SCKPT_PARCEL_INFLOWS, part->inflows, part->ninflows * sizeof(SckptInflow));
	sckpt_task_hand_on(part);
	attempt->undefined = false;
	sckpt_snapshot_take(part);
	sckpt_chunk_delete_empty(part);
	sckpt_dead_send(part);
	sckpt_parcel_close(attempt->parcel, &handle);
	report.chunks = sckpt_chunk_count(part);
	sckpt_task_end_work(&identity);
	attempt->undefined = true;
	sckpt_snapshot_detach(part);

	sckpt_task_state_size(part, &state_rows, &state_bytes);
	for (int i = 0; i < part->nstores; i++)
		state_rows -= attempt->snapshots[i].nleaving;
	report.commit = Max(over->position->commit, part->def->position);
	if (over->halt_before != InvalidXLogRecPtr && over->position->end >= over->halt_before)
		report.commit = over->halt_before - 1;
	report.restart = over->position->restart;
	report.watermark = part->times.watermark;
	report.clock = part->times.clock;
	report.rows_in = part->rows_in;
	report.late_rows = part->late_rows;
	report.state_rows = state_rows;
	report.state_bytes = state_bytes;
	report.checkpointed_rows = attempt->rows;
	report.checkpointed_bytes = attempt->bytes;
	report.ndead = attempt->ndead = list_length(part->dead);
	report.nchanges = attempt->nchanges;
	report.started_at = attempt->started_at;
	report.packed_at = GetCurrentTimestamp();
	part->changed = false;
	sckpt_fault_point("hand-over");

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	if (find_entries(part, &pipeline, &entry))
	{
		SpinLockAcquire(&pipeline->mutex);
		if (entry->epoch == part->epoch)
		{
			entry->packed = over->id;
			entry->parcel = handle;
			entry->report = report;
			entry->changed = false;
		}
		SpinLockRelease(&pipeline->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	wake_head(part);
}

bool
sckpt_part_decline(SckptTask *part, ErrorData *error)
{
	SckptAttempt *attempt = part->attempt;
	SckptPipelineEntry *pipeline;
	SckptPartEntry *entry;
	int64		id = attempt->id;

	/* Rows for stages of the head would be lost with the parcel. */
	if (id == 0 || attempt->undefined || part->noperators <= part->last->place)
		return false;
	sckpt_chunk_reset(part);
	sckpt_task_last(part)->end_results(sckpt_task_last(part));
	sckpt_dead_forget(part, attempt->ndead);
	sckpt_part_release(part);
	MemoryContextDelete(attempt->context);

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	if (find_entries(part, &pipeline, &entry))
	{
		SpinLockAcquire(&pipeline->mutex);
		if (entry->epoch == part->epoch)
		{
			entry->declined = id;
			entry->sqlerrcode = error->sqlerrcode;
			snprintf(entry->error, SCKPT_ERROR_BYTES, "%s%s%s", error->message, error->detail ? ". " : "", error->detail ? error->detail : "");
			strlcpy(entry->hint, error->hint ? error->hint : "", SCKPT_ERROR_BYTES);
		}
		SpinLockRelease(&pipeline->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	wake_head(part);
	return true;
}

/* ---- Settling ---- */

typedef struct Settling
{
	bool		committed;
	const SckptParcelHandle *reply;
} Settling;

static void
settle(SckptTask *part, void *arg)
{
	Settling   *settling = arg;
	SckptAttempt *attempt = part->attempt;
	SckptPartReport report;
	SckptOutcome *changes = NULL;
	SckptPipelineEntry *pipeline;
	SckptPartEntry *entry;

	if (settling->committed && attempt->nchanges > 0)
	{
		SckptParcel *parcel;

		StartTransactionCommand();
		changes = MemoryContextAllocHuge(attempt->context, attempt->nchanges * sizeof(SckptOutcome));
		parcel = sckpt_parcel_open(attempt->context, settling->reply);
		sckpt_parcel_read(parcel, changes, attempt->nchanges * sizeof(SckptOutcome));
		sckpt_parcel_destroy(parcel);
		CommitTransactionCommand();
	}
	sckpt_snapshot_settle(part, settling->committed, changes);
	if (settling->committed)
		sckpt_dead_drop_first(part, attempt->ndead);
	else
		part->changed = true;
	sckpt_parcel_destroy(attempt->parcel);
	attempt->parcel = NULL;
	MemoryContextDelete(attempt->context);

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	if (find_entries(part, &pipeline, &entry))
	{
		SpinLockAcquire(&pipeline->mutex);
		report = entry->report;
		if (entry->epoch == part->epoch)
		{
			/* Not settled and unchanged, of a checkpoint that failed, for a moment. */
			entry->changed |= part->changed;
			entry->settled = attempt->id;
		}
		SpinLockRelease(&pipeline->mutex);
		if (settling->committed)
		{
			part->def->position = report.commit;
			part->def->restart = report.restart;
			part->def->last_checkpoint = attempt->id;
		}
	}
	LWLockRelease(sckpt_shared->lock);
	attempt->id = 0;
	wake_head(part);
}

/* ---- The loop ---- */

XLogRecPtr
sckpt_part_claim(SckptTask *part, XLogRecPtr upto, bool *halted)
{
	SckptPipelineEntry *pipeline;
	SckptPartEntry *entry;
	XLogRecPtr	limit = upto;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	if (find_entries(part, &pipeline, &entry))
	{
		SpinLockAcquire(&pipeline->mutex);
		if (entry->epoch == part->epoch)
		{
			if (pipeline->barrier != 0 && entry->packed != pipeline->barrier)
				limit = Min(limit, pipeline->barrier_lsn);
			else if (pipeline->halt_before != InvalidXLogRecPtr && pipeline->halt_before <= limit)
			{
				limit = pipeline->halt_before;
				*halted = true;
			}
			entry->claimed = Max(entry->claimed, limit);
		}
		SpinLockRelease(&pipeline->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	return limit;
}

/* How far it is. */
static void
publish(SckptTask *part, SckptPosition *position)
{
	SckptPipelineEntry *pipeline;
	SckptPartEntry *entry;
	uint64		state_rows;
	Size		state_bytes;
	TimestampTz next = sckpt_task_next_close(part);
	TimestampTz now = GetCurrentTimestamp();
	bool		told = !TimestampDifferenceExceeds(part->told_at, now, TELL_MS);
	bool		news = false;

	sckpt_task_state_size(part, &state_rows, &state_bytes);
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	if (find_entries(part, &pipeline, &entry))
	{
		SpinLockAcquire(&pipeline->mutex);
		if (entry->epoch == part->epoch)
		{
			/* Somebody may wait for its progress; else the head looks at it now and then. */
			news = entry->changed != part->changed ||
				(entry->end != position->end && (!told || !part->changed || pipeline->requested > pipeline->covered ||
												 pipeline->savepoint_pid != 0 || sckpt_max_lag > 0 ||
												 pipeline->halt_before != InvalidXLogRecPtr));
			entry->commit = position->commit;
			entry->restart = position->restart;
			entry->end = position->end;
			entry->fed_time = part->fed_time;
			entry->changed = part->changed;
			entry->next_close = next;
			entry->counters.rows_in = part->rows_in;
			entry->counters.late_rows = part->late_rows;
			entry->counters.state_rows = state_rows;
			entry->counters.state_bytes = state_bytes;
			entry->counters.busy_ms = part->busy_us / 1000.0;
			entry->counters.idle_ms = Max(0.0, (now - part->known_since - part->busy_us) / 1000.0);
			if (part->careful)
				pipeline->careful_until = Max(pipeline->careful_until, part->careful_until);
		}
		SpinLockRelease(&pipeline->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	if (news)
	{
		part->told_at = now;
		wake_head(part);
	}
}

void
sckpt_part_step(SckptTask *part, SckptPosition *position, bool at_end)
{
	Wish		wish;

	if (part->status != SCKPT_RUNNING || !get_wish(part, &wish) || wish.epoch != part->epoch)
		return;
	part->careful = wish.careful;
	part->halting = wish.halting;
	/* One that was decided before we had handed over has failed; there may have been others since. */
	if (part->attempt->id != 0 && wish.outcome >= part->attempt->id)
	{
		Settling	settling = {wish.committed && wish.outcome == part->attempt->id, &wish.reply};

		if (!sckpt_task_guard(part, settle, &settling))
			return;
	}
	if (wish.barrier != 0 && part->attempt->id == 0 && wish.barrier != part->handed_over)
	{
		/* What its state has must have been read: else its position would be behind that. */
		if (position->end >= wish.barrier_lsn && position->end > part->def->position)
		{
			HandOver	over = {wish.barrier, position, wish.halt_before};

			part->handed_over = wish.barrier;
			if (!sckpt_task_guard(part, hand_over, &over))
				return;
		}
		else if (at_end)
			(void) sckpt_record_flush();	/* the barrier may lie inside a record whose rest is not flushed */
	}
	publish(part, position);
}
