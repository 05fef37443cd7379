/*-------------------------------------------------------------------------
 *
 * progress.c
 *		Event time beyond rows: heartbeats of silent streams, and the
 *		watermarks of streams that pipelines write.
 *
 * A heartbeat says that event time has gone on as the clock has since the stream's last row.  It is a record in the log, so that
 * every replay sees it at the same place; it names the place up to which the log had been read, so that rows
 * that were committed meanwhile make it void.  None is written unless it closes something: an idle database stays idle.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "progress.h"
#include "record.h"
#include "stream.h"

#define HEARTBEAT_MS	1000	/* least time between two heartbeats of a stream */
#define NOTHING_MS		3600000
#define MAX_CHAIN		16		/* streams that follow one another, at most, for which heartbeats are sent */

/* ---- Heartbeats ---- */

static TimestampTz next_close(Oid stream, List *tasks, int depth);

/*
 * The watermark of one of a task's streams at which something closes next, here or in the pipelines that read the result.  DT_NOEND: none
 * that is in sight.  DT_NOBEGIN: the silence of the stream, which holds the others up, is enough.
 */
static TimestampTz
closes_at(SckptTask *task, Oid stream, List *tasks, int depth)
{
	SckptInflow *inflow = sckpt_task_inflow(task, stream);
	TimestampTz next = DT_NOEND;
	TimestampTz greatest = DT_NOBEGIN;
	bool		held = false;

	/* Heartbeats of a stream that pipelines write are void. */
	if (depth == 0 && inflow->managed)
		return DT_NOEND;

	/* What the watermark has passed already, the task's next checkpoint closes; others need not wait for that. */
	for (int i = 0; i < task->noperators; i++)
	{
		TimestampTz close = task->operators[i]->next_close(task->operators[i]);

		if (close > task->times.watermark)
			next = Min(next, close);
	}
	if (task->output_delay >= 0 && depth < MAX_CHAIN)
	{
		TimestampTz close = add_time(next_close(task->def->result, tasks, depth + 1), task->output_delay);

		if (close > task->times.watermark)
			next = Min(next, close);
	}
	if (next == DT_NOEND || task->ninflows == 1)
		return next;

	/* With it, it is the others that hold the task up. */
	if (!inflow->event_time || inflow->watermark >= next)
		return DT_NOEND;
	for (int i = 0; i < task->ninflows; i++)
	{
		SckptInflow *other = &task->inflows[i];

		if (other == inflow || !other->event_time)
			continue;
		greatest = Max(greatest, other->watermark);
		held |= !other->idle;
	}
	if (depth > 0)
		return next;			/* heartbeats of what the pipelines before it read do not make the stream itself idle */
	if (inflow->idle)
		return held ? DT_NOEND : next;
	return greatest >= next ? DT_NOBEGIN : next;
}

/* The same for all tasks. */
static TimestampTz
next_close(Oid stream, List *tasks, int depth)
{
	TimestampTz next = DT_NOEND;
	ListCell   *lc;

	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		if (task->status == SCKPT_RUNNING && sckpt_task_inflow(task, stream))
			next = Min(next, closes_at(task, stream, tasks, depth));
	}
	return next;
}

/* The greatest watermark that any pipeline has of a stream. */
static TimestampTz
stream_watermark(Oid stream, List *tasks)
{
	TimestampTz watermark = DT_NOBEGIN;
	ListCell   *lc;

	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);
		SckptInflow *inflow = task->status == SCKPT_RUNNING ? sckpt_task_inflow(task, stream) : NULL;

		if (inflow)
			watermark = Max(watermark, inflow->watermark);
	}
	return watermark;
}

static int64
heartbeat(SckptLane *lane, SckptSilence *silence, List *tasks)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz watermark = stream_watermark(silence->stream, tasks);
	TimestampTz next = next_close(silence->stream, tasks, 0);
	TimestampTz due;
	int64		timeout;
	int64		value;
	bool		declared;

	/* Of a stream without a watermark nothing is known but that it is silent. */
	if (next == DT_NOEND || (next != DT_NOBEGIN && (watermark == DT_NOBEGIN || next <= watermark)))
		return NOTHING_MS;
	if (silence->base == DT_NOBEGIN)
		silence->base = watermark;

	/* What its options say, now and then. */
	if (silence->asked_at == 0 || TimestampDifferenceExceeds(silence->asked_at, now, HEARTBEAT_MS))
	{
		StartTransactionCommand();
		declared = sckpt_stream_event_time(silence->stream, NULL, NULL, &timeout);
		CommitTransactionCommand();
		silence->timeout = declared ? timeout : -1;
		silence->asked_at = now;
	}
	if (silence->timeout < 0)
		return NOTHING_MS;

	/* Event time was `base` at `since`, and has gone on with the clock. */
	due = add_time(silence->since, next == DT_NOBEGIN ? silence->timeout : Max(silence->timeout, add_time(next, -silence->base)));
	due = Max(due, silence->sent_at + HEARTBEAT_MS * INT64CONST(1000));
	if (due > now)
		return (due - now) / 1000 + 1;
	value = watermark == DT_NOBEGIN ? SCKPT_NO_WATERMARK : silence->base + (now - silence->since);
	if (value <= watermark && next != DT_NOBEGIN)
		return HEARTBEAT_MS;

	StartTransactionCommand();
	sckpt_record_write_watermark(silence->stream, value, SCKPT_RECORD_IDLE, sckpt_log_read_lsn(lane->reader));
	CommitTransactionCommand();
	silence->sent_at = now;
	return 1;
}

int64
sckpt_progress_heartbeats(SckptLane *lane, List *tasks)
{
	int64		wait = NOTHING_MS;
	ListCell   *lc;

	/* Rows of open transactions are no silence. */
	if (sckpt_log_has_open(lane->reader))
		return wait;
	foreach(lc, lane->silences)
	{
		int64		again = heartbeat(lane, lfirst(lc), tasks);

		wait = Min(wait, again);
	}
	return wait;
}

/* ---- Streams that pipelines write ---- */

static int64
window_size(const SckptWindowSpec *spec)
{
	return spec->months ? spec->months * 31 * USECS_PER_DAY : spec->size;
}

/*
 * How far the event times of rows that the task has yet to put out can be behind its watermark; -1: any distance.
 */
static int64
output_delay(SckptTask *task, AttrNumber event_time)
{
	SckptQuery *query = task->last;
	int64		delay = task->def->lateness;
	int64		longest = 0;

	/* Rows of a query without windows are as late as they came. */
	if (!query->grouped && query->nwindows == 0)
		return 0;
	for (int i = 0; i < query->nkeys; i++)
	{
		SckptKey   *key = &query->keys[i];

		if (key->bound == SCKPT_BOUND_NONE || key->window == NULL)
			continue;
		if (task->result_columns[key->result_column - 1] == event_time && key->bound == SCKPT_BOUND_END)
			return add_time(delay, key->delay);
		longest = Max(longest, add_time(window_size(key->window), key->delay));
	}
	if (query->nsession > 0)
		return -1;				/* a session may have begun at any time */
	for (int i = 0; i < query->nwindows; i++)
		longest = Max(longest, window_size(&query->windows[i].spec));
	return add_time(longest, delay);
}

void
sckpt_progress_prepare(SckptTask *task)
{
	AttrNumber	attnum;

	task->output_delay = -1;
	if (sckpt_catalog_is_stream(task->def->result) && sckpt_stream_event_time(task->def->result, &attnum, NULL, NULL))
		task->output_delay = output_delay(task, attnum);
}

TimestampTz
sckpt_progress_output(SckptTask *task, List *tasks)
{
	TimestampTz least;
	ListCell   *lc;

	task->next_output = DT_NOBEGIN;
	if (task->output_delay < 0 || task->times.watermark == DT_NOBEGIN)
		return DT_NOBEGIN;
	least = task->next_output = add_time(task->times.watermark, -task->output_delay);

	/* A pipeline that does not run holds the stream up, until it has gone on or is dropped. */
	foreach(lc, tasks)
	{
		SckptTask  *other = lfirst(lc);

		if (other != task && other->def->result == task->def->result)
			least = Min(least, other->output_watermark);
	}
	return least;
}

void
sckpt_progress_output_committed(SckptTask *task)
{
	if (task->next_output != DT_NOBEGIN)
		task->output_watermark = task->next_output;
}
