/*-------------------------------------------------------------------------
 *
 * stream.c
 *		Streams: foreign tables whose rows go to the log (and come back as
 *		batches in a worker, scan.c).
 *
 * Inserting: rows are formed as MinimalTuples in one buffer per statement and
 * written as one log record per 32 kB, and at the statement's end.  A failed
 * statement never gets there, and what it had written belongs to a
 * subtransaction or transaction that aborts.
 *
 * Event time: each record says how far its rows bring the watermark.  Rows that
 * a worker writes do not move it; for those, the watermark of the pipelines that write them does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/namespace.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "parser/parsetree.h"
#include "postmaster/bgworker.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "hook.h"
#include "lag.h"
#include "record.h"
#include "scan.h"
#include "settings.h"
#include "shared.h"
#include "slot.h"
#include "stream.h"
#include "watermark.h"

PG_FUNCTION_INFO_V1(stream_ckpt_fdw_handler);
PG_FUNCTION_INFO_V1(stream_ckpt_fdw_validator);

/* Bytes that a statement's buffer begins with. */
#define INSERT_BYTES 1024

/* State of one statement's inserts into one stream. */
typedef struct StreamInsert
{
	MemoryContext context;		/* holds everything here */
	MemoryContext row_context;	/* fetched out-of-line values of one row; NULL: none yet */
	Oid			stream;
	SckptRecordColumn *columns;
	int			ncolumns;
	bool		varlenas;		/* some column may be out of line */
	char	   *rows;
	Size		used;
	Size		size;
	uint32		nrows;
	Datum	   *values;			/* copy of a row with values fetched */
	TupleDesc	desc;			/* the relation's own */
	AttrNumber	event_time;		/* 0: the rows do not move the watermark */
	int64		delay;			/* of the watermark, microseconds */
	int64		latest;			/* largest finite event time in the buffer, or SCKPT_NO_WATERMARK */
} StreamInsert;

void
sckpt_stream_require(Oid relid, const char *name)
{
	if (!OidIsValid(relid) || !sckpt_catalog_is_stream(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("stream \"%s\" does not exist", name)));
}

/* ---- Options ---- */

Datum
stream_ckpt_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst(lc);

		if (catalog == ForeignTableRelationId && strcmp(def->defname, "event_time") == 0)
			continue;
		if (catalog == ForeignTableRelationId &&
			(strcmp(def->defname, "watermark_delay") == 0 || strcmp(def->defname, "idle_timeout") == 0))
		{
			Interval   *interval = DatumGetIntervalP(DirectFunctionCall3(interval_in,
																		 CStringGetDatum(defGetString(def)),
																		 ObjectIdGetDatum(InvalidOid),
																		 Int32GetDatum(-1)));

			if (interval->month != 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("option \"%s\" of a stream must not contain months or years", def->defname)));
			if (interval->day < 0 || interval->time < 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("option \"%s\" of a stream must not be negative", def->defname)));
			continue;
		}
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", def->defname),
				 catalog == ForeignTableRelationId
				 ? errhint("Options of a stream are event_time, watermark_delay and idle_timeout.")
				 : errhint("Options belong to streams, not to the server or the wrapper.")));
	}
	PG_RETURN_VOID();
}

void
sckpt_stream_check_options(Oid stream)
{
	ListCell   *lc;

	foreach(lc, GetForeignTable(stream)->options)
	{
		DefElem    *def = lfirst(lc);
		const char *column;
		AttrNumber	attnum;
		Oid			type;

		if (strcmp(def->defname, "event_time") != 0)
			continue;
		column = defGetString(def);
		attnum = get_attnum(stream, column);
		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("event_time column \"%s\" of stream \"%s\" does not exist", column, get_rel_name(stream))));
		type = getBaseType(get_atttype(stream, attnum));
		if (type != TIMESTAMPTZOID && type != TIMESTAMPOID)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("event_time column \"%s\" of stream \"%s\" must be of type timestamp with time zone or timestamp, not %s",
							column, get_rel_name(stream), format_type_be(type))));
	}
}

/* ---- Inserting ---- */

/* Are we writing rows of pipelines? */
static bool
in_worker(void)
{
	return MyBgworkerEntry != NULL &&
		strcmp(MyBgworkerEntry->bgw_library_name, "stream_ckpt") == 0 &&
		strcmp(MyBgworkerEntry->bgw_function_name, "sckpt_worker_main") == 0;
}

static inline int64
later(int64 latest, Datum value, bool isnull)
{
	int64		event_time = isnull ? SCKPT_NO_WATERMARK : DatumGetInt64(value);

	return event_time > latest && !TIMESTAMP_NOT_FINITE(event_time) ? event_time : latest;
}

/* The largest event time in the buffer that is not after `bound`. */
static int64
latest_until(StreamInsert *insert, int64 bound)
{
	int64		latest = SCKPT_NO_WATERMARK;
	char	   *place = insert->rows;

	for (uint32 i = 0; i < insert->nrows; i++)
	{
		MinimalTuple row = (MinimalTuple) place;
		HeapTupleData tuple;
		Datum		value;
		bool		isnull;

		tuple.t_len = row->t_len + MINIMAL_TUPLE_OFFSET;
		tuple.t_data = (HeapTupleHeader) (place - MINIMAL_TUPLE_OFFSET);
		value = heap_getattr(&tuple, insert->event_time, insert->desc, &isnull);
		if (isnull || DatumGetInt64(value) <= bound)
			latest = later(latest, value, isnull);
		place += MAXALIGN(row->t_len);
	}
	return latest;
}

/* How far the rows in the buffer bring event time; NULL: nowhere. */
static SckptRecordTime *
time_of_rows(StreamInsert *insert, SckptRecordTime *time)
{
	int64		latest = insert->latest;

	if (latest == SCKPT_NO_WATERMARK)
		return NULL;
	time->bound = SCKPT_NO_BOUND;
	if (sckpt_max_event_time_ahead > 0)
	{
		int64		bound = GetCurrentTimestamp() + INT64CONST(1000) * sckpt_max_event_time_ahead;

		if (latest > bound)
		{
			time->bound = bound;
			latest = latest_until(insert, bound);
		}
	}
	time->watermark = sckpt_watermark_of(latest, insert->delay);
	return time;
}

static void
flush_rows(StreamInsert *insert)
{
	SckptRecordHeader header;
	SckptRecordTime time;

	if (insert->nrows == 0)
		return;
	memset(&header, 0, sizeof(header));
	header.version = SCKPT_RECORD_VERSION;
	header.ncolumns = insert->ncolumns;
	header.stream = insert->stream;
	header.nrows = insert->nrows;
	header.row_bytes = insert->used;
	sckpt_record_write(&header, time_of_rows(insert, &time), insert->columns, NULL, insert->rows, insert->used);
	insert->nrows = 0;
	insert->used = 0;
	insert->latest = SCKPT_NO_WATERMARK;
	sckpt_hook_wake_at_commit(false);
}

/* Write the one row in the buffer, too large for a record, in fragments. */
static void
flush_large_row(StreamInsert *insert)
{
	Size		piece = SCKPT_RECORD_MAX_BYTES - MAXALIGN(sizeof(SckptRecordHeader)) -
		MAXALIGN(insert->ncolumns * sizeof(SckptRecordColumn));
	SckptRecordHeader header;
	SckptRecordTime time;

	piece = TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, piece);
	memset(&header, 0, sizeof(header));
	header.version = SCKPT_RECORD_VERSION;
	header.flags = SCKPT_RECORD_FRAGMENT;
	header.ncolumns = insert->ncolumns;
	header.stream = insert->stream;
	header.nrows = 1;
	header.row_bytes = insert->used;
	for (Size offset = 0; offset < insert->used; offset += piece)
	{
		CHECK_FOR_INTERRUPTS();
		header.offset = offset;
		sckpt_record_write(&header, insert->used - offset <= piece ? time_of_rows(insert, &time) : NULL,
						   insert->columns, NULL, insert->rows + offset, Min(piece, insert->used - offset));
	}
	insert->nrows = 0;
	insert->used = 0;
	insert->latest = SCKPT_NO_WATERMARK;

	/* Do not keep a buffer of hundreds of megabytes. */
	pfree(insert->rows);
	insert->size = INSERT_BYTES;
	insert->rows = MemoryContextAlloc(insert->context, insert->size);
	sckpt_hook_wake_at_commit(false);
}

/* Fetch values that live in some table's TOAST relation, or elsewhere in memory. */
static Datum *
fetch_values(StreamInsert *insert, TupleTableSlot *slot)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	bool		copied = false;
	MemoryContext old;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		struct varlena *value;

		if (slot->tts_isnull[i] || att->attlen != -1)
			continue;
		value = (struct varlena *) DatumGetPointer(slot->tts_values[i]);
		if (!VARATT_IS_EXTERNAL(value) || VARATT_IS_EXTERNAL_EXPANDED(value))
			continue;
		if (!copied)
		{
			memcpy(insert->values, slot->tts_values, desc->natts * sizeof(Datum));
			copied = true;
		}
		if (insert->row_context == NULL)
			insert->row_context = AllocSetContextCreate(insert->context, "stream_ckpt insert row", ALLOCSET_SMALL_SIZES);
		old = MemoryContextSwitchTo(insert->row_context);
		insert->values[i] = PointerGetDatum(detoast_external_attr(value));
		MemoryContextSwitchTo(old);
	}
	return copied ? insert->values : slot->tts_values;
}

/*
 * Append a row to the buffer, as heap_form_minimal_tuple() would make it.
 */
static void
append_row(StreamInsert *insert, TupleTableSlot *slot)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;
	bool		hasnull = false;
	Size		len;
	Size		hoff;
	Size		total;
	MinimalTuple tuple;

	if (insert->varlenas)
		values = fetch_values(insert, slot);
	for (int i = 0; i < desc->natts && !hasnull; i++)
		hasnull = nulls[i];

	hoff = MAXALIGN(SizeofMinimalTupleHeader + (hasnull ? BITMAPLEN(desc->natts) : 0));
	len = hoff + heap_compute_data_size(desc, values, nulls);
	total = MAXALIGN(len);
	if (len > SCKPT_ROW_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row of %zu bytes is too large for stream \"%s\"", len, get_rel_name(insert->stream)),
				 errdetail("A row of a stream can have %d bytes at most.", SCKPT_ROW_MAX_BYTES)));

	if (insert->nrows > 0 && insert->used + total > SCKPT_RECORD_TARGET_BYTES * 2)
		flush_rows(insert);
	if (insert->used + total > insert->size)
	{
		/* Most statements insert one row: the buffer begins small. */
		Size		size = Max(insert->used + total, Min(insert->size * 4, SCKPT_RECORD_TARGET_BYTES * 2));

		insert->rows = repalloc_huge(insert->rows, size);
		insert->size = size;
	}

	tuple = (MinimalTuple) (insert->rows + insert->used);
	memset(tuple, 0, total);
	tuple->t_len = len;
	tuple->t_hoff = hoff + MINIMAL_TUPLE_OFFSET;
	HeapTupleHeaderSetNatts(tuple, desc->natts);
	heap_fill_tuple(desc, values, nulls, (char *) tuple + hoff, len - hoff, &tuple->t_infomask,
					hasnull ? tuple->t_bits : NULL);
	insert->used += total;
	insert->nrows++;
	if (insert->event_time > 0)
		insert->latest = later(insert->latest, values[insert->event_time - 1], nulls[insert->event_time - 1]);

	if (insert->used + MAXALIGN(insert->ncolumns * sizeof(SckptRecordColumn)) +
		MAXALIGN(sizeof(SckptRecordHeader)) > SCKPT_RECORD_MAX_BYTES)
		flush_large_row(insert);
	else if (insert->used >= SCKPT_RECORD_TARGET_BYTES)
	{
		flush_rows(insert);

		/* Much is coming: the worker can read along, and has it at hand when we commit. */
		sckpt_shared_wake(MyDatabaseId, false);
	}

	if (values == insert->values)
		MemoryContextReset(insert->row_context);
}

/*
 * Before something is written to the log: what nobody keeps would be lost.  A copied or restored
 * database has no slot yet.
 */
void
sckpt_stream_require_log(void)
{
	XLogRecPtr	retained;

	sckpt_shared_require();
	if (sckpt_slot_check(MyDatabaseId, &retained) != SCKPT_SLOT_VALID)
	{
		sckpt_slot_ensure(MyDatabaseId);
		sckpt_hook_wake_at_commit(true);
	}
}

static void
begin_insert(ResultRelInfo *rinfo)
{
	Relation	rel = rinfo->ri_RelationDesc;
	TupleDesc	desc = RelationGetDescr(rel);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt insert",
												  ALLOCSET_START_SMALL_SIZES);
	StreamInsert *insert = MemoryContextAllocZero(context, sizeof(StreamInsert));

	sckpt_stream_require_log();
	if (!in_worker())
		sckpt_lag_wait(RelationGetRelid(rel));

	insert->context = context;
	insert->stream = RelationGetRelid(rel);
	insert->desc = desc;
	insert->latest = SCKPT_NO_WATERMARK;
	if (!in_worker())
		(void) sckpt_stream_event_time(insert->stream, &insert->event_time, &insert->delay, NULL);
	insert->ncolumns = desc->natts;
	insert->columns = MemoryContextAllocZero(context, Max(1, desc->natts) * sizeof(SckptRecordColumn));
	insert->values = MemoryContextAlloc(context, Max(1, desc->natts) * sizeof(Datum));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		insert->columns[i].type = att->attisdropped ? InvalidOid : att->atttypid;
		insert->columns[i].length = att->attlen;
		insert->columns[i].align = att->attalign;
		insert->columns[i].by_value = att->attbyval;
		insert->varlenas |= att->attlen == -1;
	}
	insert->size = INSERT_BYTES;
	insert->rows = MemoryContextAlloc(context, insert->size);
	rinfo->ri_FdwState = insert;
}

static void
end_insert(ResultRelInfo *rinfo)
{
	StreamInsert *insert = rinfo->ri_FdwState;

	if (insert == NULL)
		return;
	flush_rows(insert);
	MemoryContextDelete(insert->context);
	rinfo->ri_FdwState = NULL;
}

static List *
stream_plan_modify(PlannerInfo *root, ModifyTable *plan, Index relation, int subplan_index)
{
	if (plan->operation != CMD_INSERT)
	{
		RangeTblEntry *rte = planner_rt_fetch(relation, root);

		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot %s stream \"%s\"",
						plan->operation == CMD_UPDATE ? "update" : "delete from", get_rel_name(rte->relid)),
				 errhint("Rows of a stream are in the log and do not change. Change the result tables of its pipelines.")));
	}
	return NIL;
}

static void
stream_begin_modify(ModifyTableState *mtstate, ResultRelInfo *rinfo, List *fdw_private, int subplan_index, int eflags)
{
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		begin_insert(rinfo);
}

static void
stream_begin_insert(ModifyTableState *mtstate, ResultRelInfo *rinfo)
{
	begin_insert(rinfo);
}

static TupleTableSlot *
stream_insert(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	StreamInsert *insert = rinfo->ri_FdwState;

	/* The executor leaves constraints of foreign tables to the wrapper. */
	if (rinfo->ri_RelationDesc->rd_att->constr)
		ExecConstraints(rinfo, slot, estate);
	if (rinfo->ri_RelationDesc->rd_rel->relispartition && rinfo->ri_RootResultRelInfo == NULL)
		ExecPartitionCheck(rinfo, slot, estate, true);

	slot_getallattrs(slot);
	append_row(insert, slot);
	return slot;
}

static void
stream_end_modify(EState *estate, ResultRelInfo *rinfo)
{
	end_insert(rinfo);
}

static int
stream_is_updatable(Relation rel)
{
	return 1 << CMD_INSERT;
}

static void
stream_truncate(List *rels, DropBehavior behavior, bool restart_seqs)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot truncate stream \"%s\"", RelationGetRelationName((Relation) linitial(rels))),
			 errhint("Rows of a stream are in the log. Drop and create its pipelines to start anew.")));
}

/* ---- The wrapper ---- */

Datum
stream_ckpt_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	sckpt_scan_set_routine(routine);
	routine->PlanForeignModify = stream_plan_modify;
	routine->BeginForeignModify = stream_begin_modify;
	routine->BeginForeignInsert = stream_begin_insert;
	routine->ExecForeignInsert = stream_insert;
	routine->EndForeignModify = stream_end_modify;
	routine->EndForeignInsert = stream_end_modify;
	routine->IsForeignRelUpdatable = stream_is_updatable;
	routine->ExecForeignTruncate = stream_truncate;
	PG_RETURN_POINTER(routine);
}
