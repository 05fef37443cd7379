/*-------------------------------------------------------------------------
 *
 * head_intake.c
 *		What the tasks of a pipeline hand over to its head: rows for its
 *		stages; results, chunks and dead letters for the tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "careful.h"
#include "dead.h"
#include "head_private.h"
#include "part.h"
#include "result.h"
#include "retain.h"
#include "sink.h"
#include "vacancy.h"

#define MAX_ROW_BYTES	(64 * 1024) /* of result rows that wait for others to be looked for together */

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
	intake->operator->last = false;
	intake->operator->begin_rows(intake->operator, NULL, &intake->task->times);
}

void
sckpt_head_consume(SckptTask *task)
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

/* Changes that have been read, so that the sink can look ahead. */
typedef struct ChangeBlock
{
	int			count;
	SckptChange changes[SCKPT_SINK_AHEAD];
	SckptOutcome *outcomes[SCKPT_SINK_AHEAD];
	RowBuffer	rows[SCKPT_SINK_AHEAD];
} ChangeBlock;

/* Where changes of result rows go; opened by the first one. */
typedef struct Target
{
	SckptTask  *task;
	ChangeBlock blocks[2];
	ChangeBlock *filling;		/* the other one's pages have been asked for */
	SckptSink  *sink;
	SckptVacancies *vacancies;
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
open_sink(Target *target, bool append)
{
	SckptTask  *task = target->task;

	target->sink = sckpt_sink_open(task->def->result, task->last->nsink, task->key_columns, !task->def->result_owned);
	sckpt_sink_set_columns(target->sink, task->last->result->natts, task->result_columns);
	if (!append)
		target->vacancies = sckpt_vacancies_create(task, target->sink);
}

static void
make_change(Target *target, SckptChange *change, SckptOutcome *outcome)
{
	SckptTask  *task = target->task;
	bool		append = change->kind == SCKPT_CHANGE_APPEND;
	bool		there = change->there;
	ItemPointerData hint = change->hint;

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
		open_sink(target, append);
	if (target->vacancies && change->kind == SCKPT_CHANGE_DELETE)
	{
		sckpt_vacancies_add(target->vacancies, target->slot, &hint);
		return;
	}
	if (target->vacancies && !there)
		there = sckpt_vacancies_take(target->vacancies, target->slot, &hint);
	fill_slot(target);
	task->attempt->rows_out++;
	sckpt_retain_touch(task, target->slot);
	if (change->kind == SCKPT_CHANGE_DELETE)
	{
		sckpt_retain_touch_removed(task, target->slot, sckpt_sink_delete(target->sink, &hint));
		return;
	}
	outcome->flags = SCKPT_OUTCOME_EMITTED | SCKPT_OUTCOME_PUT;
	ItemPointerSetInvalid(&outcome->tid);
	task->attempt->rows_put += append || !there;
	sckpt_sink_put(target->sink, &hint, !append && (there || !task->def->result_owned), &outcome->tid);
}

static void
make_changes(Target *target, ChangeBlock *block)
{
	for (int i = 0; i < block->count; i++)
	{
		ExecStoreMinimalTuple(block->rows[i].row, target->slot, false);
		make_change(target, &block->changes[i], block->outcomes[i]);
		ExecClearTuple(target->slot);
		if (block->rows[i].room > MAX_ROW_BYTES)
		{
			pfree(block->rows[i].row);
			block->rows[i] = (RowBuffer) {NULL, 0};
		}
	}
	block->count = 0;
}

/* A block has been read: while the sink gets hold of its pages, make the changes of the one before. */
static void
next_block(Target *target)
{
	ChangeBlock *before = target->filling == target->blocks ? &target->blocks[1] : &target->blocks[0];

	if (target->sink)
	{
		ItemPointerData hints[SCKPT_SINK_AHEAD];
		int			n = 0;

		for (int i = 0; i < target->filling->count; i++)
		{
			if (target->filling->changes[i].there && ItemPointerIsValid(&target->filling->changes[i].hint))
				hints[n++] = target->filling->changes[i].hint;
		}
		sckpt_sink_prefetch(target->sink, hints, n);
	}
	make_changes(target, before);
	target->filling = before;
}

static void
read_change(Target *target, SckptParcel *parcel, SckptOutcome *outcome)
{
	ChangeBlock *block = target->filling;
	int			n = block->count++;

	sckpt_parcel_read(parcel, &block->changes[n], sizeof(SckptChange));
	read_row(parcel, &block->rows[n]);
	block->outcomes[n] = outcome;
	if (block->count == SCKPT_SINK_AHEAD || block->rows[n].room > MAX_ROW_BYTES)
		next_block(target);
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
	if (target->vacancies)
		sckpt_vacancies_close(target->vacancies);
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
				if (n == part->report.nchanges)
					elog(ERROR, "more changes in a parcel than were counted");
				read_change(target, parcel, &outcomes[n++]);
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
sckpt_head_drop_replies(SckptHead *head)
{
	for (int i = 0; i < head->ntasks; i++)
	{
		if (head->replies[i])
			sckpt_parcel_destroy(head->replies[i]);
		head->replies[i] = NULL;
	}
}

void
sckpt_head_receive(SckptTask *task)
{
	SckptHead  *head = task->head;
	MemoryContext old = MemoryContextSwitchTo(task->attempt->context);
	SckptOutcome *outcomes[SCKPT_MAX_TASKS];
	Target		target = {.task = task};

	target.filling = target.blocks;
	target.slot = MakeSingleTupleTableSlot(task->last->result, &TTSOpsMinimalTuple);
	for (int i = 0; i < head->ntasks; i++)
	{
		outcomes[i] = MemoryContextAllocExtended(task->attempt->context,
												 Max(1, head->parts[i].report.nchanges) * sizeof(SckptOutcome),
												 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		receive(&target, i, outcomes[i]);
	}
	next_block(&target);
	next_block(&target);
	close_target(&target);
	ExecDropSingleTupleTableSlot(target.slot);
	sckpt_head_drop_replies(head);
	for (int i = 0; i < head->ntasks; i++)
	{
		if (head->parts[i].report.nchanges > 0)
			head->replies[i] = make_reply(task, outcomes[i], head->parts[i].report.nchanges);
	}
	MemoryContextSwitchTo(old);
}
