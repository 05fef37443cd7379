/*-------------------------------------------------------------------------
 *
 * task_times.c
 *		Follows the watermarks of a task's streams through the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "stream.h"
#include "task.h"

void
sckpt_task_follow(SckptTask *task, SckptBatch *batch, SckptTimes **before, SckptTimes **after)
{
	SckptQuery *query = task->query;
	bool		wanted = query->row != 0 || sckpt_query_has_join(query);

	*before = wanted ? palloc(Max(1, batch->nsegments) * sizeof(SckptTimes)) : NULL;
	*after = wanted ? palloc(Max(1, batch->nsegments) * sizeof(SckptTimes)) : NULL;
	for (int i = 0; i < batch->nsegments; i++)
	{
		SckptSegment *segment = &batch->segments[i];

		if (list_member_oid(query->streams, segment->stream) && segment->commit_lsn > task->fed &&
			!(segment->xid == task->def->created_xid && segment->lsn < task->def->start) &&
			(segment->retried_by == 0 || segment->retried_by == task->def->id))
			sckpt_task_advance(task, segment->stream, segment->commit_lsn, segment->commit_time, segment->watermark,
							   segment->time_flags, (XLogRecPtr) segment->bound, segment->nrows > 0);
		if (wanted)
		{
			(*before)[i] = task->before;
			(*after)[i] = task->times;
		}
	}
}

SckptInflow *
sckpt_task_inflow(SckptTask *task, Oid stream)
{
	for (int i = 0; i < task->ninflows; i++)
	{
		if (task->inflows[i].stream == stream)
			return &task->inflows[i];
	}
	return NULL;
}

/*
 * The watermark of all streams together: of those with event time that are not idle the least; of none but idle ones the
 * greatest.
 */
static TimestampTz
combined_watermark(SckptTask *task)
{
	TimestampTz least = DT_NOEND;
	TimestampTz greatest = DT_NOBEGIN;
	bool		active = false;

	if (task->ninflows == 1)
		return task->inflows[0].watermark;
	for (int i = 0; i < task->ninflows; i++)
	{
		SckptInflow *inflow = &task->inflows[i];

		if (!inflow->event_time)
			continue;
		greatest = Max(greatest, inflow->watermark);
		if (!inflow->idle)
		{
			active = true;
			least = Min(least, inflow->watermark);
		}
	}
	return active ? least : greatest;
}

void
sckpt_task_advance(SckptTask *task, Oid stream, XLogRecPtr commit_lsn, TimestampTz commit_time, TimestampTz watermark,
				   uint8 flags, XLogRecPtr seen, bool rows)
{
	SckptInflow *inflow = sckpt_task_inflow(task, stream);
	bool		idle = (flags & SCKPT_RECORD_IDLE) != 0;

	/* A heartbeat that was decided on without these rows; or that is for the pipelines that write the stream to decide on. */
	if (idle && (inflow->rows_lsn > seen || inflow->managed))
		return;
	if (rows)
		inflow->rows_lsn = commit_lsn;

	if (commit_lsn != task->times_lsn)
	{
		task->before = task->times;
		task->times_lsn = commit_lsn;
	}
	if (flags & SCKPT_RECORD_PIPELINE)
		inflow->managed = true;
	if (watermark > inflow->watermark && !(rows && inflow->managed))
	{
		inflow->watermark = watermark;
		task->changed = true;
	}
	if (idle != inflow->idle)
	{
		inflow->idle = idle;
		task->changed = true;
	}

	/* Back it does not go; within a transaction it may: only what the whole of it gives is judged by. */
	task->times.watermark = Max(task->before.watermark, combined_watermark(task));
	task->times.clock = task->query->event_time ? task->times.watermark : Max(task->times.clock, commit_time);
}
