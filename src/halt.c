/*-------------------------------------------------------------------------
 *
 * halt.c
 *		Stopping just before a row that raises a data error
 *		(on_error => 'stop').
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "careful.h"
#include "checkpoint.h"
#include "dead.h"
#include "halt.h"

/* How often another bad row may turn up before the one that was found: expressions that are not immutable can go on doing that. */
#define MAX_FINDS		3
/* Of the message and of the row, so that both get into the error that is shown. */
#define MESSAGE_BYTES	200
#define ROW_BYTES		150

bool
sckpt_halt_go_back(SckptTask *task)
{
	bool		found = task->halt_found;

	task->halt_found = false;
	if (found)
		return ++task->halt_finds <= MAX_FINDS + (task->leads ? task->ntasks : 0);
	if (task->halting)
		return false;
	task->halting = true;
	task->halt_finds = 0;
	task->halt_seen = Max(task->feeding, task->fed);
	sckpt_careful_begin_spans(task);
	return true;
}

void
sckpt_halt_end_if_past(SckptTask *task)
{
	if (task->halting && XLogRecPtrIsInvalid(task->halt_before) && task->def->position >= task->halt_seen)
		task->halting = false;
}

/* A copy of a text, shortened to so many bytes. */
static char *
shorten(const char *text, int limit)
{
	int			length = strlen(text);

	if (length <= limit)
		return pstrdup(text);
	return psprintf("%.*s…", pg_mbcliplen(text, length, limit), text);
}

/* The row as far as it can be shown; as the owner. */
static char *
describe_row(SckptTask *task, SckptBatch *batch, uint32 segment, uint32 row)
{
	Datum		json = sckpt_dead_row_json(task, batch, segment, row);
	Jsonb	   *jsonb;

	if (json == (Datum) 0)
		return "";
	jsonb = DatumGetJsonbP(json);
	return psprintf(": %s", shorten(JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb)), ROW_BYTES));
}

void
sckpt_halt_found(SckptTask *task, XLogRecPtr commit_lsn, int code, const char *message, const char *detail)
{
	task->halt_before = commit_lsn;
	task->halt_found = true;
	task->halt_code = code;
	if (task->halt_message)
		pfree(task->halt_message);
	if (task->halt_detail)
		pfree(task->halt_detail);
	task->halt_message = MemoryContextStrdup(task->context, message);
	task->halt_detail = MemoryContextStrdup(task->context, detail);
}

void
sckpt_halt_at_row(SckptTask *task, SckptBatch *batch, uint32 segment_number, uint32 row, ErrorData *error)
{
	SckptSegment *segment = &batch->segments[segment_number];
	char	   *stream = get_rel_name(segment->stream);
	char	   *detail = psprintf("The pipeline stopped before the transaction that committed at %X/%X, for row %u of the record of "
								  "stream \"%s\" at %X/%X%s.", LSN_FORMAT_ARGS(segment->commit_lsn), row + 1,
								  stream ? stream : "?", LSN_FORMAT_ARGS(segment->lsn),
								  describe_row(task, batch, segment_number, row));

	sckpt_halt_found(task, segment->commit_lsn, error->sqlerrcode, shorten(error->message, MESSAGE_BYTES), detail);
	ereport(ERROR,
			(errcode(error->sqlerrcode),
			 errmsg("%s", error->message),
			 errdetail("%s", detail)));
}

bool
sckpt_halt_is_due(SckptTask *task, XLogRecPtr commit_lsn)
{
	return task->status == SCKPT_RUNNING && !XLogRecPtrIsInvalid(task->halt_before) && task->halt_before <= commit_lsn;
}

/*
 * The position need not be the start of a record, only lie before the bad transaction and behind all that were fed; and where to read from
 * to get there stays what it was.
 */
void
sckpt_halt_here(SckptTask *task, void *arg)
{
	SckptPosition position = {task->halt_before - 1, task->def->restart, task->halt_before};

	if (task->changed && !sckpt_checkpoint_take(task, &position))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not take a checkpoint of pipeline \"%s\": %s", task->def->name, task->waiting)));
	sckpt_halt_raise(task, arg);
}

void
sckpt_halt_raise(SckptTask *task, void *arg)
{
	task->halted = true;
	ereport(ERROR,
			(errcode(task->halt_code),
			 errmsg("%s", task->halt_message),
			 errdetail("%s", task->halt_detail)));
}
