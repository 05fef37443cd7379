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
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "progress.h"
#include "record.h"
#include "stream.h"

#define HEARTBEAT_MS	1000	/* least time between two heartbeats of a stream */
#define NOTHING_MS		3600000
#define MAX_CHAIN		16		/* streams that follow one another, at most, for which heartbeats are sent */

/* ---- Heartbeats ---- */

/* All pipelines of the database, as their workers have published them. */
typedef struct Pipelines
{
	SckptPipelineEntry *entries;
	int			n;
} Pipelines;

static TimestampTz next_close(Oid stream, Pipelines *pipelines, int depth);

static SckptInflow *
find_inflow(SckptPipelineEntry *entry, Oid stream)
{
	for (int i = 0; i < entry->ninflows; i++)
	{
		if (entry->inflows[i].stream == stream)
			return &entry->inflows[i];
	}
	return NULL;
}

/*
 * The watermark of one of a pipeline's streams at which something closes next, here or in the pipelines that read the result.  DT_NOEND: none
 * that is in sight.  DT_NOBEGIN: the silence of the stream, which holds the others up, is enough.
 */
static TimestampTz
closes_at(SckptPipelineEntry *entry, SckptInflow *inflow, Pipelines *pipelines, int depth)
{
	TimestampTz next = entry->next_close;
	TimestampTz greatest = DT_NOBEGIN;
	bool		held = false;

	/* Heartbeats of a stream that pipelines write are void. */
	if (depth == 0 && inflow->managed)
		return DT_NOEND;

	/* What the watermark has passed already, the next checkpoint closes; others need not wait for that. */
	if (entry->output_delay >= 0 && depth < MAX_CHAIN)
	{
		TimestampTz close = add_time(next_close(entry->result, pipelines, depth + 1), entry->output_delay);

		if (close > entry->watermark)
			next = Min(next, close);
	}
	if (next == DT_NOEND || entry->ninflows == 1)
		return next;

	/* With it, it is the others that hold the pipeline up. */
	if (!inflow->event_time || inflow->watermark >= next)
		return DT_NOEND;
	for (int i = 0; i < entry->ninflows; i++)
	{
		SckptInflow *other = &entry->inflows[i];

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

/* The same for all pipelines. */
static TimestampTz
next_close(Oid stream, Pipelines *pipelines, int depth)
{
	TimestampTz next = DT_NOEND;

	for (int i = 0; i < pipelines->n; i++)
	{
		SckptPipelineEntry *entry = &pipelines->entries[i];
		SckptInflow *inflow = entry->status == SCKPT_RUNNING ? find_inflow(entry, stream) : NULL;

		if (inflow)
			next = Min(next, closes_at(entry, inflow, pipelines, depth));
	}
	return next;
}

/*
 * The greatest watermark that any pipeline has of a stream.  `ours`: is it for this worker to look after the stream?  It is for the one that
 * reads for the oldest pipeline which reads it.
 */
static TimestampTz
stream_watermark(Oid stream, Pipelines *pipelines, bool *ours)
{
	TimestampTz watermark = DT_NOBEGIN;
	int64		oldest = PG_INT64_MAX;

	*ours = false;
	for (int i = 0; i < pipelines->n; i++)
	{
		SckptPipelineEntry *entry = &pipelines->entries[i];
		SckptInflow *inflow = entry->status == SCKPT_RUNNING ? find_inflow(entry, stream) : NULL;

		if (inflow == NULL)
			continue;
		watermark = Max(watermark, inflow->watermark);
		if (entry->id < oldest)
		{
			oldest = entry->id;
			*ours = entry->reader_pid == MyProcPid;
		}
	}
	return watermark;
}

/* Has the stream an idle_timeout?  What its options say, now and then. */
static bool
has_timeout(SckptSilence *silence)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		timeout;
	bool		declared;

	if (silence->asked_at == 0 || TimestampDifferenceExceeds(silence->asked_at, now, HEARTBEAT_MS))
	{
		StartTransactionCommand();
		declared = sckpt_stream_event_time(silence->stream, NULL, NULL, &timeout);
		CommitTransactionCommand();
		silence->timeout = declared ? timeout : -1;
		silence->asked_at = now;
	}
	return silence->timeout >= 0;
}

static int64
heartbeat(SckptLane *lane, SckptSilence *silence, Pipelines *pipelines)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		ours;
	TimestampTz watermark = stream_watermark(silence->stream, pipelines, &ours);
	TimestampTz next;
	TimestampTz due;
	int64		value;

	/* Of a stream without a watermark nothing is known but that it is silent. */
	if (!ours)
		return NOTHING_MS;
	next = next_close(silence->stream, pipelines, 0);
	if (next == DT_NOEND || (next != DT_NOBEGIN && (watermark == DT_NOBEGIN || next <= watermark)))
		return NOTHING_MS;
	if (silence->base == DT_NOBEGIN)
		silence->base = watermark;

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
sckpt_progress_heartbeats(SckptLane *lane)
{
	int64		wait = NOTHING_MS;
	Pipelines	pipelines = {NULL, 0};
	ListCell   *lc;

	/* Rows of open transactions are no silence. */
	if (sckpt_log_has_open(lane->reader))
		return wait;
	foreach(lc, lane->silences)
	{
		SckptSilence *silence = lfirst(lc);
		int64		again;

		if (!has_timeout(silence))
			continue;
		if (pipelines.entries == NULL)
			pipelines.entries = sckpt_shared_copy_pipelines(MyDatabaseId, &pipelines.n);
		again = heartbeat(lane, silence, &pipelines);
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

	/* Joined rows may have waited for any time. */
	if (sckpt_query_has_join(task->query))
		return -1;

	/* Rows of a query without windows are as late as they came. */
	if (!query->grouped && query->nwindows == 0)
		return 0;
	for (int i = 0; i < query->nkeys; i++)
	{
		SckptKey   *key = &query->keys[i];

		if (key->bound == SCKPT_BOUND_NONE || key->window == NULL)
			continue;
		if (key->result_column > 0 && task->result_columns[key->result_column - 1] == event_time && key->bound == SCKPT_BOUND_END)
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

/* The least output watermark of the other pipelines that write the task's result. */
static TimestampTz
others_output(SckptTask *task)
{
	TimestampTz least = DT_NOEND;
	SckptDatabase *database;
	bool		synced;
	int			n;
	SckptPipelineEntry *entries;

	/* While not all of them are known, nothing can be said: with the next checkpoint, then. */
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	database = sckpt_shared_find_database(MyDatabaseId);
	synced = database && sckpt_shared_synced(database);
	LWLockRelease(sckpt_shared->lock);
	task->unsent = !synced;
	if (!synced)
		return DT_NOBEGIN;
	entries = sckpt_shared_copy_pipelines(MyDatabaseId, &n);
	for (int i = 0; i < n; i++)
	{
		if (entries[i].id != task->def->id && entries[i].result == task->def->result)
			least = Min(least, entries[i].output_watermark);
	}
	pfree(entries);
	return least;
}

TimestampTz
sckpt_progress_output(SckptTask *task)
{

	task->next_output = DT_NOBEGIN;
	if (task->output_delay < 0 || task->times.watermark == DT_NOBEGIN)
		return DT_NOBEGIN;
	task->next_output = add_time(task->times.watermark, -task->output_delay);

	/* A pipeline that does not run holds the stream up, until it has gone on or is dropped. */
	return Min(task->next_output, others_output(task));
}

void
sckpt_progress_output_committed(SckptTask *task)
{
	if (task->next_output != DT_NOBEGIN)
		task->output_watermark = task->next_output;
}
