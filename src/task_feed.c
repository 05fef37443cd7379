/*-------------------------------------------------------------------------
 *
 * task_feed.c
 *		Rows on their way through a task: from a batch to the first stages, and
 *		from stage to stage.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "careful.h"
#include "changes.h"
#include "checkpoint_private.h"
#include "dead.h"
#include "early.h"
#include "feed.h"
#include "linear.h"
#include "part.h"
#include "route.h"
#include "task.h"

/* Rows that ran ahead of the clock, where the pipeline keeps what it cannot process. */
static void
bury_ahead(SckptScan *scan, uint32 segment, uint32 row, int64 event_time)
{
	SckptTask  *task = scan->arg;

	sckpt_dead_add_row(task, scan->batch, segment, row, ERRCODE_DATETIME_VALUE_OUT_OF_RANGE,
					   psprintf("event time %s of stream \"%s\" is too far ahead of the clock",
								DatumGetCString(DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(event_time))),
								get_rel_name(scan->batch->segments[segment].stream)), true);
}

uint64
sckpt_task_scan(SckptTask *task, SckptBatch *batch, SckptScan *scan)
{
	scan->batch = batch;
	scan->streams = task->query->streams;
	scan->nscans = task->query->nscans;
	scan->source = NULL;
	scan->after = task->fed;
	scan->creator = task->def->created_xid;
	scan->start = task->def->start;
	scan->skip = task->skip;
	scan->nskip = task->nskip;
	scan->pipeline = task->def->id;
	scan->first = 0;
	scan->end = PG_UINT64_MAX;
	scan->first_segment = 0;
	scan->first_seen = 0;
	scan->others = NIL;
	scan->route = task->route;
	scan->taken = 0;
	scan->ahead = task->def->keep_dead ? bury_ahead : NULL;
	scan->arg = task;
	return sckpt_scan_count(scan);
}

static void
note_late(void *arg, uint32 segment, uint32 row)
{
	SckptTask  *task = arg;

	if (task->nlate > 0 && task->late[task->nlate - 1] == (((uint64) segment << 32) | row))
		return;
	if (task->nlate == task->maxlate)
	{
		task->maxlate = Max(64, task->maxlate * 2);
		if (task->late)
			task->late = repalloc_huge(task->late, task->maxlate * sizeof(uint64));
		else
			task->late = MemoryContextAllocHuge(task->run_context, task->maxlate * sizeof(uint64));
	}
	task->late[task->nlate++] = ((uint64) segment << 32) | row;
}

static int
compare_place(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* Count the late rows of a run, each once, however many rows the source made of it; and keep them, where that is wanted. */
static void
settle_late(SckptTask *task, SckptBatch *batch)
{
	if (task->nlate == 0)
		return;
	qsort(task->late, task->nlate, sizeof(uint64), compare_place);
	for (uint64 i = 0; i < task->nlate; i++)
	{
		if (i > 0 && task->late[i] == task->late[i - 1])
			continue;
		task->late_rows++;
		if (task->def->keep_dead)
			sckpt_dead_add_row(task, batch, task->late[i] >> 32, (uint32) task->late[i], SCKPT_ERRCODE_LATE_ROW,
							   "late row: its window was closed", false);
	}
	task->nlate = 0;
}

void
sckpt_task_begin_linear(SckptTask *task)
{
	task->late_rows = task->def->late_rows;
	MemoryContextReset(task->dead_context);
	task->dead = NIL;
	task->dead_bytes = 0;
}

uint64
sckpt_task_run_linear(SckptTask *task, SckptPending *pending)
{
	SckptInput	input = {pending->before, pending->after, note_late, task};
	SckptScan	scan;
	SckptIdentity identity;
	uint64		rows;

	/* What is pending counts as fed; all of it came after the last checkpoint. */
	(void) sckpt_task_scan(task, pending->batch, &scan);
	scan.after = task->def->position;
	sckpt_task_become_owner(task, &identity);
	task->nlate = 0;
	rows = task->careful || task->halting ? sckpt_careful_run_linear(task, &scan, &input, sckpt_scan_count(&scan))
		: sckpt_linear_run(task, &scan, &input);
	settle_late(task, pending->batch);
	sckpt_task_become_self(&identity);
	return rows;
}

static void hand_on_changes(SckptTask *task);

/* Joins whose rows the stage above takes as they are made: those that have the only way to it, take nothing back, and are not tried. */
static void
begin_forwarding(SckptTask *task)
{
	for (int i = 0; i < task->noperators; i++)
	{
		SckptQuery *target = task->queries[i]->target;
		SckptOperator *above;

		task->operators[i]->forward = NULL;
		if (!sckpt_task_passes_on(task, i) || task->queries[i]->join->retracts || task->queries[i]->join->lookup ||
			target->join || target->stable || task->careful || task->halting)
			continue;
		above = task->operators[target->number];
		above->side = task->queries[i]->side;
		above->last = false;
		above->begin_rows(above, NULL, &task->times);
		task->operators[i]->forward = above;
	}
}

static void
end_forwarding(SckptTask *task)
{
	for (int i = 0; i < task->noperators; i++)
	{
		SckptOperator *above = task->operators[i]->forward;

		if (above == NULL)
			continue;
		task->operators[i]->forward = NULL;
		above->end_rows(above);
		above->end_batch(above);
	}
}

/* A source whose rows the head takes. */
typedef struct Forwarding
{
	SckptSource *source;
	const SckptInput *input;
} Forwarding;

static void
keep_row(void *arg, TupleTableSlot *row, int32 weight, const SckptTouch *touch)
{
	sckpt_changes_add(((SckptSource *) arg)->rows, row, weight);
}

static void
forward_row(void *arg, TupleTableSlot *slot)
{
	Forwarding *forwarding = arg;

	sckpt_feed_take(forwarding->source->feed, forwarding->input, slot, keep_row, forwarding->source);
}

void
sckpt_task_feed_sources(SckptTask *task, SckptScan *scan, const SckptInput *input)
{
	begin_forwarding(task);
	for (int i = 0; i < task->nsources; i++)
	{
		SckptSource *source = &task->sources[i];
		SckptOperator *operator = source->feed ? NULL : task->operators[source->target->number];
		Forwarding	forwarding = {source, input};
		SckptReceiver receiver = {operator, forward_row, &forwarding};
		SckptScan	own = *scan;

		own.streams = source->query->scanned;
		if (sckpt_scan_count(&own) == 0 || (source->route && source->route->key == NULL && task->number > 0))
			continue;

		/* All streams' rows are numbered: those that the scan is narrowed to are the same for each source. */
		own.streams = scan->streams;
		own.nscans = source->query->nscanned;
		own.others = source->others;
		own.route = scan->route = source->route;
		own.taken = 0;
		if (operator)
		{
			operator->side = source->side;
			operator->begin_rows(operator, input, NULL);
		}
		sckpt_stage_run(&source->stage, &own, source->query, &receiver);
		if (operator)
			operator->end_batch(operator);
		scan->taken += own.taken;
	}
	hand_on_changes(task);
	for (int i = 0; i < task->noperators; i++)
	{
		if (task->operators[i]->shed)
			task->operators[i]->shed(task->operators[i], &task->times);
	}
	end_forwarding(task);
}

void
sckpt_task_feed(SckptTask *task, SckptBatch *batch, XLogRecPtr known_visible)
{
	SckptScan	scan;
	SckptTimes *before;
	SckptTimes *after;
	uint64		rows = sckpt_task_scan(task, batch, &scan);
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	sckpt_task_follow(task, batch, &before, &after);
	MemoryContextSwitchTo(old);
	if (rows == 0)
		return;
	task->known_visible = known_visible;
	task->feeding = batch->commit_lsns[batch->nxids - 1];
	if (task->noperators == 0)
	{
		SckptPending *pending;

		/* Its results are visible only with the checkpoint: run it there. */
		sckpt_batch_hold(batch);
		old = MemoryContextSwitchTo(task->run_context);
		pending = palloc(sizeof(SckptPending));
		pending->batch = batch;
		pending->before = before;
		pending->after = after;
		task->pending = lappend(task->pending, pending);
		MemoryContextSwitchTo(old);
		task->pending_bytes += batch->bytes;
	}
	else
	{
		SckptOperator *operator = task->operators[0];
		SckptReceiver receiver = {operator, NULL, NULL};
		SckptInput	input = {before, after, note_late, task};
		SckptIdentity identity;

		sckpt_task_begin_work(task, &identity);
		sckpt_batch_wait_visible(batch, known_visible);

		/* What has become visible while we waited, this snapshot sees. */
		PopActiveSnapshot();
		PushActiveSnapshot(GetTransactionSnapshot());
		task->nlate = 0;
		if (task->careful || task->halting)
			sckpt_careful_feed(task, &scan, &input, rows);
		else if (task->nsources > 0)
			sckpt_task_feed_sources(task, &scan, &input);
		else
		{
			operator->begin_rows(operator, &input, NULL);
			sckpt_stage_run(&task->stage, &scan, task->query, &receiver);
		}
		operator->end_batch(operator);
		settle_late(task, batch);
		sckpt_task_end_work(&identity);
		if (task->results && sckpt_task_last(task)->changes)
			task->pending_bytes = sckpt_changes_bytes(sckpt_task_last(task)->changes);
	}
	task->rows_in += task->ntasks > 1 ? scan.taken : rows;
	task->changed = true;
	task->fed_time = batch->commit_time;
}

/* Rows on their way from a stage to the one above. */
typedef struct HandOver
{
	SckptTask  *task;
	int			stage;
} HandOver;

static bool
put_above(void *arg, TupleTableSlot *row, int32 weight)
{
	HandOver   *over = arg;
	SckptOperator *above = over->task->operators[over->task->queries[over->stage]->target->number];

	/* What does not wait for barriers is part of a row's own way. */
	if (over->task->careful && !sckpt_task_passes_on(over->task, over->stage))
		return sckpt_careful_put_above(over->task, over->stage, row, weight);
	above->consume(above, row, weight);
	return true;
}

static void
bury_group(void *arg, SckptRef ref, ErrorData *error)
{
	HandOver   *over = arg;

	sckpt_dead_add_group(over->task, over->stage + 1, ref, error);
}

/* What one operator has for the next; `last`: see operator.h. */
static void
hand_on_from(SckptTask *task, int stage, bool last)
{
	SckptOperator *below = task->operators[stage];
	SckptOperator *above = task->operators[task->queries[stage]->target->number];
	HandOver	over = {task, stage};

	above->side = task->queries[stage]->side;
	above->last = last;
	above->begin_rows(above, NULL, &task->times);
	below->hand_on(below, &task->times, task->def->final, put_above, task->careful ? bury_group : NULL, &over);
	above->end_rows(above);
	above->end_batch(above);
}

void
sckpt_task_relieve(void *arg, SckptOperator *operator)
{
	SckptTask  *task = arg;

	for (int i = 0; i + 1 < task->noperators; i++)
	{
		if (task->operators[i] == operator)
			hand_on_from(task, i, false);
	}
}

void
sckpt_task_pass_on(SckptTask *task, int number)
{
	while (sckpt_task_passes_on(task, number))
	{
		hand_on_from(task, number, false);
		number = task->queries[number]->target->number;
	}
}

/* After a batch: what joins have made of it. */
static void
hand_on_changes(SckptTask *task)
{
	for (int i = 0; i < task->noperators; i++)
	{
		if (sckpt_task_passes_on(task, i) && task->operators[i]->forward == NULL)
			hand_on_from(task, i, false);
	}
}

/* Of the stages of this task that feed the same one. */
static bool
is_last(SckptTask *task, int stage)
{
	for (int i = stage + 1; i < task->noperators; i++)
	{
		if (task->queries[i]->target == task->queries[stage]->target)
			return false;
	}
	return true;
}

void
sckpt_task_hand_on(SckptTask *task)
{
	uint64		nclosing;

	for (int i = 0; i < task->noperators; i++)
	{
		SckptOperator *operator = task->operators[i];
		SckptQuery *target = task->queries[i]->target;
		SckptPartTarget head = {task, target, task->queries[i]->side};

		if (operator->settle)
			operator->settle(operator, &task->times);
		if (target == NULL)
			continue;

		/* What joins forget now they take back now. */
		if (operator->changes)
			(void) operator->close(operator, &task->times, &nclosing);
		if (target->number >= 0)
			hand_on_from(task, i, is_last(task, i));
		else
			operator->hand_on(operator, &task->times, task->def->final, sckpt_part_send_row, NULL, &head);
	}
	for (int i = 0; i < task->nsources; i++)
	{
		SckptSource *source = &task->sources[i];
		SckptPartTarget head = {task, source->target, source->side};

		if (source->rows == NULL)
			continue;
		sckpt_changes_put(source->rows, sckpt_part_send_row, &head);
		sckpt_changes_clear(source->rows);
	}
}

void
sckpt_task_propagate(SckptTask *task)
{
	SckptIdentity identity;

	/* A single stage has nobody to hand on to. */
	if (task->noperators == 0 || (task->noperators == 1 && task->operators[0]->settle == NULL))
		return;
	sckpt_task_begin_work(task, &identity);
	sckpt_task_hand_on(task);
	sckpt_task_end_work(&identity);
}
