/*-------------------------------------------------------------------------
 *
 * stream.c
 *		Streams: foreign tables whose rows go to the log, and come back as
 *		batches in a worker.
 *
 * Inserting: rows are formed as MinimalTuples in one buffer per statement and
 * written as one log record per 32 kB, and at the statement's end.  A failed
 * statement never gets there, and what it had written belongs to a
 * subtransaction or transaction that aborts.
 *
 * Scanning: only the worker's own executor run of a pipeline's query may scan
 * a stream; the worker arms the scan just before.  Everybody else gets an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "hook.h"
#include "record.h"
#include "shared.h"
#include "slot.h"
#include "stream.h"

PG_FUNCTION_INFO_V1(stream_ckpt_fdw_handler);
PG_FUNCTION_INFO_V1(stream_ckpt_fdw_validator);

/* Bytes that a statement's buffer begins with. */
#define INSERT_BYTES 1024

/* Rows a planner should expect of a scan: a typical batch. */
#define BATCH_ROWS_ESTIMATE 1000

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
} StreamInsert;

/* State of a scan over the worker's batch. */
typedef struct StreamScan
{
	SckptScan  *scan;
	int			segment;		/* the next one to look at */
	char	   *row;			/* the next row of the current one */
	uint32		nrows;			/* rows left in it */
	bool		direct;			/* its rows have the layout of the relation's row type */
	HeapTupleData tuple;
	/* for rows that have another layout */
	TupleDesc	old_type;
	Datum	   *values;
	bool	   *nulls;
	Datum	   *missing;		/* by column of the relation: what older rows have there */
	bool	   *missing_null;
	bool		missing_known;
} StreamScan;

static SckptScan *armed_scan = NULL;

void
sckpt_stream_init(void)
{
	armed_scan = NULL;
}

void
sckpt_stream_arm(SckptScan *scan)
{
	armed_scan = scan;
}

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

static void
flush_rows(StreamInsert *insert)
{
	SckptRecordHeader header;

	if (insert->nrows == 0)
		return;
	memset(&header, 0, sizeof(header));
	header.version = SCKPT_RECORD_VERSION;
	header.ncolumns = insert->ncolumns;
	header.stream = insert->stream;
	header.nrows = insert->nrows;
	header.row_bytes = insert->used;
	sckpt_record_write(&header, insert->columns, NULL, insert->rows, insert->used);
	insert->nrows = 0;
	insert->used = 0;
	sckpt_hook_wake_at_commit(false);
}

/* Write the one row in the buffer, too large for a record, in fragments. */
static void
flush_large_row(StreamInsert *insert)
{
	Size		piece = SCKPT_RECORD_MAX_BYTES - MAXALIGN(sizeof(SckptRecordHeader)) -
		MAXALIGN(insert->ncolumns * sizeof(SckptRecordColumn));
	SckptRecordHeader header;

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
		sckpt_record_write(&header, insert->columns, NULL, insert->rows + offset,
						   Min(piece, insert->used - offset));
	}
	insert->nrows = 0;
	insert->used = 0;

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

static void
begin_insert(ResultRelInfo *rinfo)
{
	Relation	rel = rinfo->ri_RelationDesc;
	TupleDesc	desc = RelationGetDescr(rel);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt insert",
												  ALLOCSET_START_SMALL_SIZES);
	StreamInsert *insert = MemoryContextAllocZero(context, sizeof(StreamInsert));
	XLogRecPtr	retained;

	sckpt_shared_require();

	/* Rows whose log nobody keeps would be lost.  A copied or restored database has no slot yet. */
	if (sckpt_slot_check(MyDatabaseId, &retained) != SCKPT_SLOT_VALID)
	{
		sckpt_slot_ensure(MyDatabaseId);
		sckpt_hook_wake_at_commit(true);
	}

	insert->context = context;
	insert->stream = RelationGetRelid(rel);
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

/* ---- Scanning ---- */

static void
stream_rel_size(PlannerInfo *root, RelOptInfo *baserel, Oid relid)
{
	baserel->rows = clamp_row_est(BATCH_ROWS_ESTIMATE *
								  clauselist_selectivity(root, baserel->baserestrictinfo, 0, JOIN_INNER, NULL));
	baserel->tuples = BATCH_ROWS_ESTIMATE;
}

static void
stream_paths(PlannerInfo *root, RelOptInfo *baserel, Oid relid)
{
	Cost		run = baserel->tuples * (cpu_tuple_cost + baserel->baserestrictcost.per_tuple);

	add_path(baserel, (Path *) create_foreignscan_path(root, baserel, NULL, baserel->rows,
													   baserel->baserestrictcost.startup, run, NIL,
													   baserel->lateral_relids, NULL, NIL));
}

static ForeignScan *
stream_plan(PlannerInfo *root, RelOptInfo *baserel, Oid relid, ForeignPath *path, List *tlist,
			List *scan_clauses, Plan *outer_plan)
{
	return make_foreignscan(tlist, extract_actual_clauses(scan_clauses, false), baserel->relid, NIL, NIL,
							NIL, NIL, outer_plan);
}

static void
stream_begin_scan(ForeignScanState *node, int eflags)
{
	Oid			relid = RelationGetRelid(node->ss.ss_currentRelation);
	StreamScan *state;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	if (armed_scan == NULL || armed_scan->stream != relid)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot select from stream \"%s\"", get_rel_name(relid)),
				 errhint("Create a pipeline with stream_ckpt.create_pipeline() and select from its result.")));

	state = palloc0(sizeof(StreamScan));
	state->scan = armed_scan;
	armed_scan = NULL;
	node->fdw_state = state;
}

/*
 * What rows that are older than a column have there: its default if that is a constant, as
 * for ALTER TABLE … ADD COLUMN on a table, else NULL.
 */
static void
find_missing_values(StreamScan *state, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	state->missing = palloc0(desc->natts * sizeof(Datum));
	state->missing_null = palloc(desc->natts * sizeof(bool));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Node	   *expr;

		state->missing_null[i] = true;
		if (att->attisdropped || !att->atthasdef || att->attgenerated)
			continue;
		expr = build_column_default(rel, i + 1);
		if (expr)
			expr = (Node *) expression_planner((Expr *) expr);
		if (expr && IsA(expr, Const) && !((Const *) expr)->constisnull)
		{
			state->missing_null[i] = false;
			state->missing[i] = datumCopy(((Const *) expr)->constvalue, att->attbyval, att->attlen);
		}
	}
	state->missing_known = true;
}

/* Prepare for the rows of a segment: compare the row type they were written with to today's. */
static void
open_segment(StreamScan *state, SckptSegment *segment, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (segment->weights != NULL)
		elog(ERROR, "weighted rows in stream \"%s\"", RelationGetRelationName(rel));
	if (segment->ncolumns > desc->natts)
		elog(ERROR, "stream \"%s\" has fewer columns than a row in the log", RelationGetRelationName(rel));

	state->direct = true;
	for (int i = 0; i < segment->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		SckptRecordColumn *column = &segment->columns[i];

		if (!att->attisdropped && OidIsValid(column->type) && column->type != att->atttypid)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of stream \"%s\" had another type when unread rows were inserted",
							NameStr(att->attname), RelationGetRelationName(rel))));
		if (column->length != att->attlen || column->align != att->attalign || column->by_value != att->attbyval)
			state->direct = false;
	}
	for (int i = segment->ncolumns; i < desc->natts && state->direct; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->atthasdef && !att->attisdropped)
			state->direct = false;
	}

	if (!state->direct)
	{
		if (!state->missing_known)
			find_missing_values(state, rel);
		if (state->values == NULL)
		{
			state->values = palloc(desc->natts * sizeof(Datum));
			state->nulls = palloc(desc->natts * sizeof(bool));
		}
		if (state->old_type)
			FreeTupleDesc(state->old_type);
		state->old_type = CreateTemplateTupleDesc(segment->ncolumns);
		for (int i = 0; i < segment->ncolumns; i++)
		{
			Form_pg_attribute att = TupleDescAttr(state->old_type, i);

			memset(att, 0, ATTRIBUTE_FIXED_PART_SIZE);
			att->atttypid = segment->columns[i].type;
			att->attlen = segment->columns[i].length;
			att->attalign = segment->columns[i].align;
			att->attbyval = segment->columns[i].by_value;
			att->attnum = i + 1;
			att->attcacheoff = -1;
		}
	}
	state->row = segment->rows;
	state->nrows = segment->nrows;
}

static TupleTableSlot *
stream_iterate(ForeignScanState *node)
{
	StreamScan *state = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	MinimalTuple row;

	while (state->nrows == 0)
	{
		SckptBatch *batch = state->scan->batch;
		SckptSegment *segment;

		if (state->segment >= batch->nsegments)
			return ExecClearTuple(slot);
		segment = &batch->segments[state->segment++];
		if (sckpt_scan_wants(state->scan, segment))
		{
			MemoryContext old = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);

			open_segment(state, segment, node->ss.ss_currentRelation);
			MemoryContextSwitchTo(old);
		}
	}

	row = (MinimalTuple) state->row;
	state->row += MAXALIGN(row->t_len);
	state->nrows--;

	/* A MinimalTuple is a HeapTuple's body without its first bytes, which hold nothing that a query of ours may ask for. */
	state->tuple.t_len = row->t_len + MINIMAL_TUPLE_OFFSET;
	state->tuple.t_data = (HeapTupleHeader) ((char *) row - MINIMAL_TUPLE_OFFSET);
	state->tuple.t_tableOid = state->scan->stream;
	if (state->direct)
		return ExecStoreHeapTuple(&state->tuple, slot, false);

	/* Written with another row type: take it apart with that one. */
	ExecClearTuple(slot);
	heap_deform_tuple(&state->tuple, state->old_type, slot->tts_values, slot->tts_isnull);
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
	{
		if (i >= state->old_type->natts)
		{
			slot->tts_values[i] = state->missing[i];
			slot->tts_isnull[i] = state->missing_null[i];
		}
		if (TupleDescAttr(slot->tts_tupleDescriptor, i)->attisdropped)
			slot->tts_isnull[i] = true;
	}
	return ExecStoreVirtualTuple(slot);
}

static void
stream_rescan(ForeignScanState *node)
{
	StreamScan *state = node->fdw_state;

	state->segment = 0;
	state->nrows = 0;
}

static void
stream_end_scan(ForeignScanState *node)
{
}

Datum
stream_ckpt_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = stream_rel_size;
	routine->GetForeignPaths = stream_paths;
	routine->GetForeignPlan = stream_plan;
	routine->BeginForeignScan = stream_begin_scan;
	routine->IterateForeignScan = stream_iterate;
	routine->ReScanForeignScan = stream_rescan;
	routine->EndForeignScan = stream_end_scan;
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
