/*-------------------------------------------------------------------------
 *
 * note.c
 *		Notes in the log on pipelines to which nothing happens.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "utils/memutils.h"

#include "note.h"
#include "record.h"
#include "segment.h"

#define NOTE_VERSION 1

typedef struct NoteHeader
{
	uint32		version;
	uint32		nentries;
	XLogRecPtr	commit;
	XLogRecPtr	restart;
} NoteHeader;

typedef struct NoteEntry
{
	int64		id;
	XLogRecPtr	position;		/* as stored */
} NoteEntry;

void
sckpt_note_write(List *tasks, SckptPosition *position)
{
	XLogRecPtr	redo = GetRedoRecPtr();
	NoteHeader	header = {NOTE_VERSION, 0, position->commit, position->restart};
	NoteEntry  *entries;
	xl_logical_message message;
	ListCell   *lc;

	/* From where the log would be in a backup, or later; else it would be of no use. */
	if (sckpt_segment_before(position->restart, redo))
		return;
	entries = palloc(Max(1, list_length(tasks)) * sizeof(NoteEntry));
	foreach(lc, tasks)
	{
		SckptTask  *task = lfirst(lc);

		/* Of a parallel pipeline its head is noted. */
		if (task->number >= 0 || task->status != SCKPT_RUNNING || task->changed || task->pending || task->noted_redo == redo ||
			task->def->position >= position->commit || !sckpt_segment_before(task->def->restart, redo))
			continue;
		task->noted_redo = redo;
		entries[header.nentries].id = task->def->id;
		entries[header.nentries].position = task->def->position;
		header.nentries++;
	}
	if (header.nentries > 0)
	{
		memset(&message, 0, sizeof(message));
		message.dbId = MyDatabaseId;
		message.transactional = false;
		message.prefix_size = SCKPT_RECORD_PREFIX_SIZE;
		message.message_size = sizeof(header) + header.nentries * sizeof(NoteEntry);
		XLogBeginInsert();
		XLogRegisterData((char *) &message, SizeOfLogicalMessage);
		XLogRegisterData((char *) sckpt_record_prefix, SCKPT_RECORD_PREFIX_SIZE);
		XLogRegisterData((char *) &header, sizeof(header));
		XLogRegisterData((char *) entries, header.nentries * sizeof(NoteEntry));
		XLogSetRecordFlags(XLOG_MARK_UNIMPORTANT);
		XLogInsert(RM_LOGICALMSG_ID, XLOG_LOGICAL_MESSAGE);
	}
	pfree(entries);
}

/* If the record is a note of this database on the pipeline, take it. */
static bool
take_note(XLogReaderState *state, SckptPipeline *pipeline, XLogRecPtr *commit, XLogRecPtr *restart)
{
	xl_logical_message *message = (xl_logical_message *) XLogRecGetData(state);
	Size		len = XLogRecGetDataLen(state);
	NoteHeader	header;
	NoteEntry	entry;
	char	   *payload;

	if (XLogRecGetRmid(state) != RM_LOGICALMSG_ID ||
		(XLogRecGetInfo(state) & ~XLR_INFO_MASK) != XLOG_LOGICAL_MESSAGE ||
		len < SizeOfLogicalMessage + SCKPT_RECORD_PREFIX_SIZE + sizeof(header) ||
		message->transactional || message->dbId != MyDatabaseId ||
		message->prefix_size != SCKPT_RECORD_PREFIX_SIZE ||
		message->message_size != len - SizeOfLogicalMessage - SCKPT_RECORD_PREFIX_SIZE ||
		memcmp(message->message, sckpt_record_prefix, SCKPT_RECORD_PREFIX_SIZE) != 0)
		return false;
	payload = message->message + SCKPT_RECORD_PREFIX_SIZE;
	memcpy(&header, payload, sizeof(header));
	payload += sizeof(header);
	if (header.version != NOTE_VERSION ||
		message->message_size != sizeof(header) + (Size) header.nentries * sizeof(entry))
		return false;
	for (uint32 i = 0; i < header.nentries; i++, payload += sizeof(entry))
	{
		memcpy(&entry, payload, sizeof(entry));
		if (entry.id == pipeline->id && entry.position == pipeline->position)
		{
			*commit = header.commit;
			*restart = header.restart;
			return true;
		}
	}
	return false;
}

bool
sckpt_note_find(SckptPipeline *pipeline, XLogRecPtr *commit, XLogRecPtr *restart)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt notes", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	XLogRecPtr	oldest = sckpt_segment_oldest();
	ReadLocalXLogPageNoWaitPrivate end = {0};
	XLogReaderState *state;
	char	   *error;
	bool		found = false;

	state = XLogReaderAllocate(wal_segment_size, NULL,
							   XL_ROUTINE(.page_read = read_local_xlog_page_no_wait,
										  .segment_open = wal_segment_open,
										  .segment_close = wal_segment_close),
							   &end);
	if (state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while allocating a WAL reading processor.")));

	/* What cannot be read ends the log, as far as notes are concerned. */
	if (!XLogRecPtrIsInvalid(XLogFindNextRecord(state, oldest)))
	{
		while (XLogReadRecord(state, &error) != NULL)
		{
			XLogRecPtr	at_commit;
			XLogRecPtr	at_restart;

			CHECK_FOR_INTERRUPTS();
			if (take_note(state, pipeline, &at_commit, &at_restart) && at_restart >= oldest)
			{
				*commit = at_commit;
				*restart = at_restart;
				found = true;
			}
		}
	}
	XLogReaderFree(state);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return found;
}

bool
sckpt_note_log_exists(SckptPipeline *pipeline)
{
	XLogRecPtr	commit;
	XLogRecPtr	restart;

	return sckpt_segment_exists(pipeline->restart) || sckpt_note_find(pipeline, &commit, &restart);
}

void
sckpt_note_report_gone(SckptPipeline *pipeline)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the log that pipeline \"%s\" needs is gone", pipeline->name),
			 errdetail("It has read up to %X/%X and needs the log from %X/%X on, which is there from %X/%X on. Missing: %s.",
					   LSN_FORMAT_ARGS(pipeline->position), LSN_FORMAT_ARGS(pipeline->restart),
					   LSN_FORMAT_ARGS(sckpt_segment_oldest()), sckpt_segment_missing(pipeline->restart)),
			 errhint("If there is an archive with these segments, copy them into \"pg_wal\" and call stream_ckpt.resume_pipeline(). "
					 "To go on without the rows in between, call stream_ckpt.resume_pipeline(…, accept_gap => true).")));
}
