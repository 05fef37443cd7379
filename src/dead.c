/*-------------------------------------------------------------------------
 *
 * dead.c
 *		Dead letters: rows that a pipeline could not process, and
 *		retry_dead_letters().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "careful.h"
#include "compat.h"
#include "dead.h"
#include "hook.h"
#include "part.h"
#include "pipeline.h"
#include "record.h"
#include "stream.h"

PG_FUNCTION_INFO_V1(stream_ckpt_retry_dead_letters);

/* Letters read at a time. */
#define RETRY_LETTERS 1000

/* How an image begins; the columns follow, then the row. */
typedef struct SckptDeadImage
{
	uint32		ncolumns;
	uint32		row_bytes;
} SckptDeadImage;

/* ---- Keeping ---- */

/* A row as it stands in the log. */
static Datum
make_image(SckptSegment *segment, MinimalTuple row)
{
	SckptDeadImage header = {segment->ncolumns, row->t_len};
	Size		columns_bytes = segment->ncolumns * sizeof(SckptRecordColumn);
	Size		size = VARHDRSZ + sizeof(header) + columns_bytes + row->t_len;
	char	   *image = palloc(size);

	SET_VARSIZE(image, size);
	memcpy(VARDATA(image), &header, sizeof(header));
	memcpy(VARDATA(image) + sizeof(header), segment->columns, columns_bytes);
	memcpy(VARDATA(image) + sizeof(header) + columns_bytes, row, row->t_len);
	return PointerGetDatum(image);
}

/* What a letter says of itself in jsonb may run casts of users, which may fail: then it says nothing. */
typedef struct JsonWork
{
	SckptBatch *batch;			/* NULL: a row in a slot */
	uint32		segment;
	uint32		row;
	TupleTableSlot *slot;
	SckptOperator *operator;	/* or the key of an entry */
	SckptRef	ref;
	Datum		result;
} JsonWork;

static void
make_json(void *arg)
{
	JsonWork   *work = arg;
	Datum		json;

	if (work->batch)
		json = sckpt_stream_row_json(work->batch, work->segment, work->row);
	else if (work->operator)
		json = work->operator->key_json(work->operator, work->ref);
	else
	{
		TupleDesc	desc = BlessTupleDesc(CreateTupleDescCopy(work->slot->tts_tupleDescriptor));

		slot_getallattrs(work->slot);
		json = sckpt_stream_tuple_json(desc, work->slot->tts_values, work->slot->tts_isnull);
	}
	work->result = json;
}

/* The jsonb in the context of dead letters. */
static Datum
get_json(SckptTask *task, JsonWork *work)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt dead letter", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	Datum		result = (Datum) 0;

	if (sckpt_careful_try(make_json, work) == NULL)
	{
		MemoryContextSwitchTo(task->dead_context);
		result = datumCopy(work->result, false, -1);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	return result;
}

static void
add_letter(SckptTask *task, SckptDeadLetter *letter)
{
	letter->failed_at = GetCurrentTimestamp();
	letter->bytes = sizeof(SckptDeadLetter) + strlen(letter->error);
	if (letter->row)
		letter->bytes += VARSIZE_ANY(DatumGetPointer(letter->row));
	if (letter->image)
		letter->bytes += VARSIZE_ANY(DatumGetPointer(letter->image));
	task->dead = lappend(task->dead, letter);
	task->dead_bytes += letter->bytes;
	task->changed = true;
}

Datum
sckpt_dead_row_json(SckptTask *task, SckptBatch *batch, uint32 segment, uint32 row)
{
	JsonWork	work = {batch, segment, row, NULL, NULL, SCKPT_NO_REF, (Datum) 0};

	return get_json(task, &work);
}

void
sckpt_dead_add_row(SckptTask *task, SckptBatch *batch, uint32 segment_number, uint32 row_number, int sqlerrcode,
				   const char *error, bool retriable)
{
	Datum		json = sckpt_dead_row_json(task, batch, segment_number, row_number);
	SckptSegment *segment = &batch->segments[segment_number];
	MemoryContext old = MemoryContextSwitchTo(task->dead_context);
	SckptDeadLetter *letter = palloc0(sizeof(SckptDeadLetter));

	letter->stream = segment->stream;
	letter->position = segment->commit_lsn;
	letter->record = segment->lsn;
	letter->ordinal = row_number;
	letter->row = json;
	if (retriable)
	{
		char	   *row = segment->rows;

		for (uint32 i = 0; i < row_number; i++)
			row += MAXALIGN(((MinimalTuple) row)->t_len);
		letter->image = make_image(segment, (MinimalTuple) row);
	}
	letter->sqlerrcode = sqlerrcode;
	letter->error = pstrdup(error);
	add_letter(task, letter);
	MemoryContextSwitchTo(old);
}

static void
add_result(SckptTask *task, int stage, Datum json, ErrorData *error)
{
	MemoryContext old = MemoryContextSwitchTo(task->dead_context);
	SckptDeadLetter *letter = palloc0(sizeof(SckptDeadLetter));

	letter->position = task->fed;
	letter->ordinal = list_length(task->dead);
	letter->stage = stage;
	letter->row = json;
	letter->sqlerrcode = error->sqlerrcode;
	letter->error = pstrdup(error->message);
	add_letter(task, letter);
	MemoryContextSwitchTo(old);
	sckpt_careful_extend(task);
}

void
sckpt_dead_add_result(SckptTask *task, int stage, TupleTableSlot *row, ErrorData *error)
{
	JsonWork	work = {NULL, 0, 0, row, NULL, SCKPT_NO_REF, (Datum) 0};

	add_result(task, stage, get_json(task, &work), error);
}

void
sckpt_dead_add_group(SckptTask *task, int stage, SckptRef ref, ErrorData *error)
{
	JsonWork	work = {NULL, 0, 0, NULL, task->operators[stage - 1], ref, (Datum) 0};

	add_result(task, stage, get_json(task, &work), error);
}

static void
free_letter(SckptTask *task, SckptDeadLetter *letter)
{
	task->dead_bytes -= letter->bytes;
	if (letter->row)
		pfree(DatumGetPointer(letter->row));
	if (letter->image)
		pfree(DatumGetPointer(letter->image));
	pfree(letter->error);
	pfree(letter);
}

void
sckpt_dead_forget(SckptTask *task, int n)
{
	for (int i = n; i < list_length(task->dead); i++)
		free_letter(task, list_nth(task->dead, i));
	task->dead = list_truncate(task->dead, n);
}

void
sckpt_dead_drop_first(SckptTask *task, int n)
{
	for (int i = 0; i < n; i++)
		free_letter(task, list_nth(task->dead, i));
	task->dead = list_delete_first_n(task->dead, n);
}

/* ---- From a task to the head ---- */

static void
send_bytes(SckptParcel *parcel, const void *data, Size size)
{
	uint64		bytes = size;

	sckpt_parcel_write(parcel, &bytes, sizeof(bytes));
	sckpt_parcel_write(parcel, data, size);
}

static void *
receive_bytes(SckptParcel *parcel)
{
	uint64		bytes;
	void	   *data;

	sckpt_parcel_read(parcel, &bytes, sizeof(bytes));
	if (bytes == 0)
		return NULL;
	data = palloc_extended(bytes, MCXT_ALLOC_HUGE);
	sckpt_parcel_read(parcel, data, bytes);
	return data;
}

void
sckpt_dead_send(SckptTask *part)
{
	SckptParcel *parcel = part->attempt->parcel;
	ListCell   *lc;

	foreach(lc, part->dead)
	{
		SckptDeadLetter *letter = lfirst(lc);
		char		kind = SCKPT_PARCEL_LETTER;

		sckpt_parcel_write(parcel, &kind, 1);
		sckpt_parcel_write(parcel, letter, sizeof(*letter));
		send_bytes(parcel, DatumGetPointer(letter->row), letter->row ? VARSIZE_ANY(DatumGetPointer(letter->row)) : 0);
		send_bytes(parcel, DatumGetPointer(letter->image), letter->image ? VARSIZE_ANY(DatumGetPointer(letter->image)) : 0);
		send_bytes(parcel, letter->error, strlen(letter->error) + 1);
	}
}

void
sckpt_dead_receive(SckptTask *head, SckptParcel *parcel, bool keep)
{
	MemoryContext old = MemoryContextSwitchTo(head->dead_context);
	SckptDeadLetter *letter = palloc(sizeof(SckptDeadLetter));

	sckpt_parcel_read(parcel, letter, sizeof(*letter));
	letter->row = PointerGetDatum(receive_bytes(parcel));
	letter->image = PointerGetDatum(receive_bytes(parcel));
	letter->error = receive_bytes(parcel);
	head->dead = lappend(head->dead, letter);
	head->dead_bytes += letter->bytes;
	if (!keep)
		sckpt_dead_forget(head, list_length(head->dead) - 1);
	MemoryContextSwitchTo(old);
}

/* ---- Retrying ---- */

/* A letter on its way back to the log. */
typedef struct Letter
{
	Oid			stream;
	bytea	   *image;			/* NULL: only the jsonb */
	Datum		row;
} Letter;

static void
write_row(Oid stream, int64 pipeline, SckptRecordColumn *columns, int ncolumns, char *row, Size bytes)
{
	SckptRecordHeader header = {0};
	SckptRecordTime time = {SCKPT_NO_WATERMARK, pipeline};
	Size		overhead = MAXALIGN(sizeof(SckptRecordHeader)) + MAXALIGN(ncolumns * sizeof(SckptRecordColumn));
	Size		piece = TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, SCKPT_RECORD_MAX_BYTES - overhead);

	header.ncolumns = ncolumns;
	header.stream = stream;
	header.nrows = 1;
	header.flags = SCKPT_RECORD_RETRY;
	if (bytes <= piece)
	{
		sckpt_record_write(&header, &time, columns, NULL, row, bytes);
		return;
	}
	header.flags |= SCKPT_RECORD_FRAGMENT;
	header.row_bytes = bytes;
	for (Size offset = 0; offset < bytes; offset += piece)
	{
		CHECK_FOR_INTERRUPTS();
		header.offset = offset;
		sckpt_record_write(&header, bytes - offset <= piece ? &time : NULL, columns, NULL, row + offset,
						   Min(piece, bytes - offset));
	}
}

/* Write a row as its image has it; false if the stream's columns have other types today. */
static bool
write_image(Letter *letter, TupleDesc desc, int64 pipeline)
{
	Size		size = VARSIZE_ANY_EXHDR(letter->image);
	SckptDeadImage header;
	SckptRecordColumn *columns;
	Size		columns_bytes;
	char	   *row;

	if (size < sizeof(header))
		elog(ERROR, "dead letter is too short");
	memcpy(&header, VARDATA_ANY(letter->image), sizeof(header));
	columns_bytes = header.ncolumns * sizeof(SckptRecordColumn);
	if (header.ncolumns > MaxHeapAttributeNumber || size != sizeof(header) + columns_bytes + header.row_bytes)
		elog(ERROR, "dead letter has the wrong length");
	if (header.ncolumns > desc->natts)
		return false;
	columns = palloc(Max(1, columns_bytes));
	memcpy(columns, VARDATA_ANY(letter->image) + sizeof(header), columns_bytes);
	for (int i = 0; i < header.ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && OidIsValid(columns[i].type) && columns[i].type != att->atttypid)
			return false;
	}
	row = palloc0(MAXALIGN(header.row_bytes));
	memcpy(row, VARDATA_ANY(letter->image) + sizeof(header) + columns_bytes, header.row_bytes);
	write_row(letter->stream, pipeline, columns, header.ncolumns, row, MAXALIGN(header.row_bytes));
	return true;
}

/* Write a row as its jsonb has it, as the current user: in a copied database, or after a change of a column's type. */
static void
write_json(Letter *letter, TupleDesc desc, int64 pipeline)
{
	Oid			types[1] = {JSONBOID};
	SckptRecordColumn *columns = palloc0(Max(1, desc->natts) * sizeof(SckptRecordColumn));
	HeapTupleHeader composite;
	HeapTupleData tuple;
	Datum	   *values = palloc(Max(1, desc->natts) * sizeof(Datum));
	bool	   *nulls = palloc(Max(1, desc->natts) * sizeof(bool));
	MinimalTuple row;
	char	   *padded;
	bool		isnull;
	char	   *sql = psprintf("SELECT pg_catalog.jsonb_populate_record(NULL::%s, $1)",
							   quote_qualified_identifier(get_namespace_name(get_rel_namespace(letter->stream)),
														  get_rel_name(letter->stream)));

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(sql, 1, types, &letter->row, NULL, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not make a row of a dead letter");
	composite = DatumGetHeapTupleHeader(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	tuple.t_len = HeapTupleHeaderGetDatumLength(composite);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = composite;
	heap_deform_tuple(&tuple, desc, values, nulls);
	row = heap_form_minimal_tuple(desc, values, nulls, 0);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		columns[i].type = att->attisdropped ? InvalidOid : att->atttypid;
		columns[i].length = att->attlen;
		columns[i].align = att->attalign;
		columns[i].by_value = att->attbyval;
	}
	padded = palloc0(MAXALIGN(row->t_len));
	memcpy(padded, row, row->t_len);
	write_row(letter->stream, pipeline, columns, desc->natts, padded, MAXALIGN(row->t_len));
	SPI_finish();
}

/* Delete the oldest letters up to `last`, not too many, and return them. */
static List *
take_letters(SckptPipeline *pipeline, int64 last)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};
	Datum		values[3] = {Int64GetDatum(pipeline->id), Int64GetDatum(last), Int64GetDatum(RETRY_LETTERS)};
	List	   *letters = NIL;
	SckptUser	saved;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("WITH d AS (DELETE FROM stream_ckpt.dead_letter WHERE pipeline_id = $1 AND dead_letter_id IN "
							  "(SELECT dead_letter_id FROM stream_ckpt.dead_letter WHERE pipeline_id = $1 AND retriable "
							  "AND dead_letter_id <= $2 ORDER BY dead_letter_id LIMIT $3) "
							  "RETURNING dead_letter_id, stream, image, row_data) "
							  "SELECT stream::oid, image, row_data FROM d ORDER BY dead_letter_id",
							  3, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not take dead letters");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(context);
		Letter	   *letter = palloc0(sizeof(Letter));
		bool		isnull;
		Datum		value;

		letter->stream = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &isnull));
		value = SPI_getbinval(tuple, desc, 2, &isnull);
		if (!isnull)
			letter->image = DatumGetByteaPCopy(value);
		value = SPI_getbinval(tuple, desc, 3, &isnull);
		if (!isnull)
			letter->row = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
		letters = lappend(letters, letter);
		MemoryContextSwitchTo(old);
	}
	sckpt_catalog_leave(&saved);
	return letters;
}

static int64
last_letter(SckptPipeline *pipeline)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(pipeline->id)};
	int64		last;
	bool		isnull;
	SckptUser	saved;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT coalesce(max(dead_letter_id), 0) FROM stream_ckpt.dead_letter WHERE pipeline_id = $1",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read dead letters");
	last = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	sckpt_catalog_leave(&saved);
	return last;
}

Datum
stream_ckpt_retry_dead_letters(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SckptPipeline *pipeline = sckpt_pipeline_require(name);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt retry", ALLOCSET_DEFAULT_SIZES);
	MemoryContext row_context = AllocSetContextCreate(scratch, "stream_ckpt retried row", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	int64		count = 0;
	int64		last;
	List	   *letters;

	PreventCommandIfReadOnly("retry_dead_letters()");
	PreventCommandDuringRecovery("retry_dead_letters()");
	if (!sckpt_catalog_lock_extension() || !sckpt_catalog_hold(pipeline->id, -1))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("pipeline \"%s\" is being changed by another transaction", name)));
	sckpt_stream_require_log();
	last = last_letter(pipeline);
	while ((letters = take_letters(pipeline, last)) != NIL)
	{
		ListCell   *lc;

		foreach(lc, letters)
		{
			Letter	   *letter = lfirst(lc);
			Relation	rel;

			CHECK_FOR_INTERRUPTS();
			MemoryContextSwitchTo(row_context);
			rel = table_open(letter->stream, AccessShareLock);
			if (letter->image == NULL || !write_image(letter, RelationGetDescr(rel), pipeline->id))
				write_json(letter, RelationGetDescr(rel), pipeline->id);
			table_close(rel, NoLock);
			MemoryContextSwitchTo(scratch);
			MemoryContextReset(row_context);
			count++;
		}
		MemoryContextReset(scratch);
		row_context = AllocSetContextCreate(scratch, "stream_ckpt retried row", ALLOCSET_DEFAULT_SIZES);
	}
	if (count > 0)
		sckpt_hook_wake_at_commit(false);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	PG_RETURN_INT64(count);
}
