/*-------------------------------------------------------------------------
 *
 * journal.c
 *		What checkpoints did to a result table of our own.
 *
 * Bytes are as in chunks (codec.h): a description of the columns, then one entry after the other. They are collected in memory while the
 * checkpoint is being made, since careful work does that in subtransactions, some of which are rolled back; a key that was
 * touched in vain does no harm.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "codec.h"
#include "journal.h"

#define PART_BYTES	(256 * 1024)	/* before a new part is begun */

/* How an entry begins. */
#define ENTRY_KEY	'K'
#define ENTRY_IMAGE 'I'

struct SckptJournal
{
	SckptTask  *task;
	MemoryContext context;
	MemoryContext scratch;		/* what packing leaves behind */
	TupleDesc	desc;			/* of the query's rows */
	SckptCodec *codecs;			/* of its columns */
	int			nkeys;
	int		   *keys;			/* columns, from 0 */
	char	   *description;
	List	   *keys_bytes;		/* StringInfo; the last one is being filled */
	List	   *images_bytes;
};

SckptJournal *
sckpt_journal_open(SckptTask *task, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptJournal *journal = palloc0(sizeof(SckptJournal));
	StringInfoData description;

	journal->task = task;
	journal->context = context;
	journal->scratch = AllocSetContextCreate(context, "stream_ckpt journal", ALLOCSET_DEFAULT_SIZES);
	journal->desc = task->last->result;
	journal->codecs = palloc0(Max(1, journal->desc->natts) * sizeof(SckptCodec));
	journal->nkeys = task->last->grouped ? task->last->nsink : 0;
	journal->keys = palloc(Max(1, journal->nkeys) * sizeof(int));
	initStringInfo(&description);
	for (int i = 0; i < journal->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(journal->desc, i);

		sckpt_codec_init(&journal->codecs[i], att->atttypid, att->atttypmod, context);
		appendStringInfo(&description, "%s%s %s", i ? ", " : "", NameStr(att->attname),
						 format_type_extended(att->atttypid, att->atttypmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	}
	for (int i = 0; i < journal->nkeys; i++)
		journal->keys[i] = task->last->sink_keys[i].result_column - 1;
	journal->description = description.data;
	MemoryContextSwitchTo(old);
	return journal;
}

/* The buffer that the next entry goes to. */
static StringInfo
open_part(SckptJournal *journal, List **parts)
{
	StringInfo	buf = *parts ? llast(*parts) : NULL;
	MemoryContext old;

	if (buf && buf->len < PART_BYTES)
		return buf;
	CHECK_FOR_INTERRUPTS();
	old = MemoryContextSwitchTo(journal->context);
	buf = makeStringInfo();
	sckpt_codec_write_string(buf, journal->description);
	*parts = lappend(*parts, buf);
	MemoryContextSwitchTo(old);
	return buf;
}

static void
add_column(SckptJournal *journal, StringInfo buf, TupleTableSlot *row, int column)
{
	MemoryContext old = MemoryContextSwitchTo(journal->scratch);

	appendStringInfoChar(buf, row->tts_isnull[column] ? 1 : 0);
	if (!row->tts_isnull[column])
		sckpt_codec_write(&journal->codecs[column], buf, row->tts_values[column]);
	MemoryContextSwitchTo(old);
	MemoryContextReset(journal->scratch);
}

void
sckpt_journal_add_key(SckptJournal *journal, TupleTableSlot *row)
{
	StringInfo	buf = open_part(journal, &journal->keys_bytes);

	appendStringInfoChar(buf, ENTRY_KEY);
	for (int i = 0; i < journal->nkeys; i++)
		add_column(journal, buf, row, journal->keys[i]);
}

void
sckpt_journal_add_image(SckptJournal *journal, TupleTableSlot *row, TransactionId appended_as)
{
	StringInfo	buf = open_part(journal, &journal->images_bytes);

	appendStringInfoChar(buf, ENTRY_IMAGE);
	sckpt_codec_write_uint(buf, appended_as);
	for (int i = 0; i < journal->desc->natts; i++)
		add_column(journal, buf, row, i);
}

/* ---- Writing ---- */

static void
store_part(SckptJournal *journal, int64 checkpoint, int part, const char *kind, StringInfo buf)
{
	Oid			types[5] = {INT8OID, INT8OID, INT4OID, TEXTOID, BYTEAOID};
	Datum		values[5];
	bytea	   *bytes = palloc(VARHDRSZ + buf->len);

	SET_VARSIZE(bytes, VARHDRSZ + buf->len);
	memcpy(VARDATA(bytes), buf->data, buf->len);
	values[0] = Int64GetDatum(journal->task->def->id);
	values[1] = Int64GetDatum(checkpoint);
	values[2] = Int32GetDatum(part);
	values[3] = CStringGetTextDatum(kind);
	values[4] = PointerGetDatum(bytes);
	if (SPI_execute_with_args("INSERT INTO stream_ckpt.touched (pipeline_id, checkpoint_id, part, kind, bytes) "
							  "VALUES ($1, $2, $3, $4, $5)", 5, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write down changes of a result");
	pfree(bytes);
}

/* Dead letters that a restore is about to take away go into its head. */
static void
store_head(SckptJournal *journal, int64 checkpoint, SckptJournalHead *head)
{
	Oid			types[7] = {INT8OID, INT8OID, TEXTOID, XIDARRAYOID, OIDOID, INT8OID, INT8OID};
	Datum		values[7];
	char		nulls[] = "       ";

	values[0] = Int64GetDatum(journal->task->def->id);
	values[1] = Int64GetDatum(checkpoint);
	values[2] = CStringGetTextDatum(head->restore ? "restore" : "rows");
	values[3] = head->xids;
	nulls[3] = head->xids ? ' ' : 'n';
	values[4] = ObjectIdGetDatum(head->filenode);
	values[5] = Int64GetDatum(head->rows);
	values[6] = Int64GetDatum(head->letters_after);
	nulls[6] = head->restore ? ' ' : 'n';
	if (SPI_execute_with_args("INSERT INTO stream_ckpt.touched (pipeline_id, checkpoint_id, part, kind, xids, filenode, rows, "
							  "letters_after, letters) SELECT $1, $2, 0, $3, $4, $5, $6, $7, CASE WHEN $7 IS NOT NULL THEN "
							  "array(SELECT l FROM stream_ckpt.dead_letter l WHERE l.pipeline_id = $1 AND l.dead_letter_id > $7) END",
							  7, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write down changes of a result");
}

void
sckpt_journal_store(SckptJournal *journal, int64 checkpoint, SckptJournalHead *head)
{
	int			part = 1;
	ListCell   *lc;

	if (head)
		store_head(journal, checkpoint, head);
	foreach(lc, journal->keys_bytes)
		store_part(journal, checkpoint, part++, "keys", lfirst(lc));
	foreach(lc, journal->images_bytes)
		store_part(journal, checkpoint, part++, "images", lfirst(lc));
}

Datum
sckpt_journal_xids(void)
{
	TransactionId *children;
	int			nchildren = xactGetCommittedChildren(&children);
	Datum	   *xids = palloc((nchildren + 1) * sizeof(Datum));

	xids[0] = TransactionIdGetDatum(GetCurrentTransactionId());
	for (int i = 0; i < nchildren; i++)
		xids[i + 1] = TransactionIdGetDatum(children[i]);
	return PointerGetDatum(construct_array(xids, nchildren + 1, XIDOID, sizeof(TransactionId), true, TYPALIGN_INT));
}

/* ---- Reading ---- */

bool
sckpt_journal_read(SckptJournal *journal, int64 after, SckptJournalPart *part)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[4] = {INT8OID, INT8OID, INT8OID, INT4OID};
	Datum		values[4] = {Int64GetDatum(journal->task->def->id), Int64GetDatum(after), Int64GetDatum(part->checkpoint),
	Int32GetDatum(part->part)};
	SckptUser	saved;
	bool		found;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT checkpoint_id, part, kind, bytes, xids, filenode, rows, letters_after FROM stream_ckpt.touched "
							  "WHERE pipeline_id = $1 AND checkpoint_id > $2 AND (checkpoint_id, part) < ($3, $4) "
							  "ORDER BY checkpoint_id DESC, part DESC LIMIT 1", 4, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read changes of a result");
	found = SPI_processed > 0;
	if (found)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(context);
		char	   *kind;
		Datum		value;
		bool		isnull;

		memset(part, 0, sizeof(*part));
		part->checkpoint = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
		part->part = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isnull));
		kind = TextDatumGetCString(SPI_getbinval(tuple, desc, 3, &isnull));
		part->images = strcmp(kind, "images") == 0;
		part->head.restore = strcmp(kind, "restore") == 0;
		value = SPI_getbinval(tuple, desc, 4, &isnull);
		if (!isnull)
			part->bytes = DatumGetByteaPCopy(value);
		value = SPI_getbinval(tuple, desc, 5, &isnull);
		if (!isnull)
			part->head.xids = PointerGetDatum(DatumGetArrayTypePCopy(value));
		part->head.filenode = DatumGetObjectId(SPI_getbinval(tuple, desc, 6, &isnull));
		part->head.rows = DatumGetInt64(SPI_getbinval(tuple, desc, 7, &isnull));
		part->head.letters_after = DatumGetInt64(SPI_getbinval(tuple, desc, 8, &isnull));
		MemoryContextSwitchTo(old);
	}
	sckpt_catalog_leave(&saved);
	return found;
}

void
sckpt_journal_begin(SckptJournal *journal, SckptJournalPart *part, const char **cursor, const char **end)
{
	char	   *description;

	*cursor = VARDATA(part->bytes);
	*end = (char *) part->bytes + VARSIZE(part->bytes);
	description = sckpt_codec_read_string(cursor, *end);
	if (strcmp(description, journal->description) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the result of pipeline \"%s\" had other columns at checkpoint " INT64_FORMAT,
						journal->task->def->name, part->checkpoint),
				 errdetail("Then: %s. Now: %s.", description, journal->description)));
	pfree(description);
}

static void
read_column(SckptJournal *journal, const char **cursor, const char *end, TupleTableSlot *row, int column)
{
	if (*cursor >= end)
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("what was written down of a result is too short")));
	row->tts_isnull[column] = *(*cursor)++ != 0;
	if (!row->tts_isnull[column])
		row->tts_values[column] = sckpt_codec_read(&journal->codecs[column], cursor, end);
}

bool
sckpt_journal_next(SckptJournal *journal, SckptJournalPart *part, const char **cursor, const char *end,
				   TupleTableSlot *row, TransactionId *appended_as)
{
	char		kind;

	if (*cursor >= end)
		return false;
	CHECK_FOR_INTERRUPTS();
	kind = *(*cursor)++;
	ExecClearTuple(row);
	memset(row->tts_isnull, true, journal->desc->natts * sizeof(bool));
	*appended_as = InvalidTransactionId;
	if (kind == ENTRY_IMAGE && part->images)
	{
		*appended_as = (TransactionId) sckpt_codec_read_uint(cursor, end);
		for (int i = 0; i < journal->desc->natts; i++)
			read_column(journal, cursor, end, row, i);
	}
	else if (kind == ENTRY_KEY && !part->images)
	{
		for (int i = 0; i < journal->nkeys; i++)
			read_column(journal, cursor, end, row, journal->keys[i]);
	}
	else
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("what was written down of a result is damaged")));
	ExecStoreVirtualTuple(row);
	return true;
}
