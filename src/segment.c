/*-------------------------------------------------------------------------
 *
 * segment.c
 *		Which segments of the log are there.
 *
 * A segment in which the timeline changes exists once for each of them; what
 * counts, as for everybody who reads the log, is the one of the timeline at the
 * segment's end: the other one may be incomplete, and renamed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/timeline.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogrecovery.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "segment.h"

/*
 * Log kept behind the end of recovery.  Pipelines that work are a second and some 16 MB behind, at most; the rest is for the last
 * moments of a busy server.
 */
#define KEEP_FOR_RECOVERY "256MB"

/* The timeline that we are on, and its history. */
static List *
current_history(XLogRecPtr *end)
{
	TimeLineID	tli;

	if (RecoveryInProgress())
		*end = GetXLogReplayRecPtr(&tli);
	else
		*end = GetFlushRecPtr(&tli);
	return readTimeLineHistory(tli);
}

static TimeLineID
segment_timeline(XLogSegNo segment, List *history)
{
	XLogRecPtr	last;

	XLogSegNoOffsetToRecPtr(segment + 1, 0, wal_segment_size, last);
	return tliOfPointInHistory(last - 1, history);
}

static bool
exists(XLogSegNo segment, List *history)
{
	char		path[MAXPGPATH];
	struct stat st;

	XLogFilePath(path, segment_timeline(segment, history), segment, wal_segment_size);
	return stat(path, &st) == 0 || errno != ENOENT;
}

bool
sckpt_segment_before(XLogRecPtr a, XLogRecPtr b)
{
	return a / wal_segment_size < b / wal_segment_size;
}

bool
sckpt_segment_exists(XLogRecPtr lsn)
{
	XLogRecPtr	end;
	List	   *history = current_history(&end);
	XLogSegNo	segment;

	/* Nothing is written at the start of a segment that is yet to come. */
	if (lsn >= end)
		return true;
	XLByteToSeg(lsn, segment, wal_segment_size);
	return exists(segment, history);
}

XLogRecPtr
sckpt_segment_oldest(void)
{
	XLogRecPtr	end;
	List	   *history = current_history(&end);
	XLogSegNo	segment;
	XLogRecPtr	start;

	XLByteToPrevSeg(end, segment, wal_segment_size);
	while (segment > 1 && exists(segment - 1, history))
	{
		CHECK_FOR_INTERRUPTS();
		segment--;
	}
	XLogSegNoOffsetToRecPtr(segment, 0, wal_segment_size, start);
	return start;
}

char *
sckpt_segment_missing(XLogRecPtr from)
{
	XLogRecPtr	end;
	List	   *history = current_history(&end);
	XLogSegNo	first;
	XLogSegNo	last;
	char		first_name[MAXFNAMELEN];
	char		last_name[MAXFNAMELEN];

	XLByteToSeg(from, first, wal_segment_size);
	XLByteToSeg(sckpt_segment_oldest(), last, wal_segment_size);
	last = Max(first, last - 1);
	while (first < last && exists(first, history))
		first++;
	XLogFileName(first_name, segment_timeline(first, history), first, wal_segment_size);
	XLogFileName(last_name, segment_timeline(last, history), last, wal_segment_size);
	return first == last ? pstrdup(first_name) : psprintf("%s to %s", first_name, last_name);
}

void
sckpt_segment_keep_for_recovery(void)
{
	if (access("backup_label", F_OK) != 0 && access("recovery.signal", F_OK) != 0)
		return;

	/* The lowest of all sources: whoever sets it decides. */
	SetConfigOption("wal_keep_size", KEEP_FOR_RECOVERY, PGC_POSTMASTER, PGC_S_DYNAMIC_DEFAULT);
}
