/*-------------------------------------------------------------------------
 *
 * scan.c
 *		Scanning a stream: rows of a worker's batch, in PostgreSQL's executor.
 *
 * Only the worker's own executor run of a pipeline's query may scan a stream;
 * the worker arms the scan before, and disarms it afterwards.  Everybody else gets an error, functions that the query calls while it is
 * planned or run too: their queries have other texts.
 *
 * A row's tid is its place in the batch (batch.h).  That is what ctid gives in
 * the query, through joins and projections.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "column.h"
#include "compat.h"
#include "record.h"
#include "route.h"
#include "scan.h"
#include "stream.h"

/* Rows a planner should expect of a scan: a typical batch. */
#define BATCH_ROWS_ESTIMATE 1000

/* How rows of a segment become rows of the relation. */
typedef struct RowMap
{
	bool		direct;			/* they have the layout of the relation's row type */
	TupleDesc	old_type;		/* what they were written with, unless direct */
	Datum	   *missing;		/* by column of the relation: what older rows have there */
	bool	   *missing_null;
	bool		missing_known;
} RowMap;

/* State of a scan over the worker's batch. */
typedef struct StreamScan
{
	SckptScan  *scan;
	uint32		next_segment;	/* to look at */
	SckptSegment *segment;		/* the current one */
	char	   *row;			/* its next row */
	uint32		number;			/* that row's number */
	uint32		nrows;			/* rows left in it */
	uint64		seen;			/* rows in the segments before the next one, of those that the scan wants */
	AttrNumber	bounded;		/* column of event times to compare to its bound; 0: it has none */
	RowMap		map;
	bool		taken_apart;	/* rows of the current segment have today's layout, and nobody asks for more than columns */
	bool		counts;			/* its rows are counted here */
	SckptRouteScan *route;		/* NULL: all rows are wanted */
	int			filled;			/* so many of the first columns are marked as not NULL, the other needed ones as NULL; 0: not known */
	int			nneeded;		/* the first so many columns are those that the plan's node uses */
	SckptColumn *columns;		/* of them */
	HeapTupleData tuple;
} StreamScan;

static SckptScan *armed_scan = NULL;
static int	scans_left = 0;		/* that may start of it */

void
sckpt_stream_init(void)
{
	armed_scan = NULL;
}

void
sckpt_stream_arm(SckptScan *scan)
{
	armed_scan = scan;
	scans_left = scan ? scan->nscans : 0;
}

/* ---- Planning ---- */

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

	add_path(baserel, (Path *) sckpt_foreign_path(root, baserel, baserel->baserestrictcost.startup, run));
}

static ForeignScan *
stream_plan(PlannerInfo *root, RelOptInfo *baserel, Oid relid, ForeignPath *path, List *tlist,
			List *scan_clauses, Plan *outer_plan)
{
	return make_foreignscan(tlist, extract_actual_clauses(scan_clauses, false), baserel->relid, NIL, NIL,
							NIL, NIL, outer_plan);
}

/* ---- Rows written with another row type ---- */

/*
 * What rows that are older than a column have there: its default if that is a constant, as
 * for ALTER TABLE … ADD COLUMN on a table, else NULL.
 */
static void
find_missing_values(RowMap *map, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	map->missing = palloc0(desc->natts * sizeof(Datum));
	map->missing_null = palloc(desc->natts * sizeof(bool));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Node	   *expr;

		map->missing_null[i] = true;
		if (att->attisdropped || !att->atthasdef || att->attgenerated)
			continue;
		expr = build_column_default(rel, i + 1);
		if (expr)
			expr = (Node *) expression_planner((Expr *) expr);
		if (expr && IsA(expr, Const) && !((Const *) expr)->constisnull)
		{
			map->missing_null[i] = false;
			map->missing[i] = datumCopy(((Const *) expr)->constvalue, att->attbyval, att->attlen);
		}
	}
	map->missing_known = true;
}

/* Prepare for the rows of a segment: compare the row type they were written with to today's. */
static void
map_segment(RowMap *map, SckptSegment *segment, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (segment->ncolumns > desc->natts)
		elog(ERROR, "stream \"%s\" has fewer columns than a row in the log", RelationGetRelationName(rel));

	map->direct = true;
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
			map->direct = false;
	}
	for (int i = segment->ncolumns; i < desc->natts && map->direct; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->atthasdef && !att->attisdropped)
			map->direct = false;
	}

	if (!map->direct)
	{
		if (!map->missing_known)
			find_missing_values(map, rel);
		if (map->old_type)
			FreeTupleDesc(map->old_type);
		map->old_type = CreateTemplateTupleDesc(segment->ncolumns);
		for (int i = 0; i < segment->ncolumns; i++)
		{
			Form_pg_attribute att = TupleDescAttr(map->old_type, i);

			memset(att, 0, ATTRIBUTE_FIXED_PART_SIZE);
			att->atttypid = segment->columns[i].type;
			att->attlen = segment->columns[i].length;
			att->attalign = segment->columns[i].align;
			att->attbyval = segment->columns[i].by_value;
			att->attnum = i + 1;
			populate_compact_attribute(map->old_type, i);
		}
	}
}

/* Take a row apart that is not direct.  Values lead into it. */
static void
map_row(RowMap *map, HeapTuple row, TupleDesc desc, Datum *values, bool *nulls)
{
	heap_deform_tuple(row, map->old_type, values, nulls);
	for (int i = 0; i < desc->natts; i++)
	{
		if (i >= map->old_type->natts)
		{
			values[i] = map->missing[i];
			nulls[i] = map->missing_null[i];
		}
		if (TupleDescAttr(desc, i)->attisdropped)
			nulls[i] = true;
	}
}

/*
 * The tuple that a row is, where it lies: a MinimalTuple is a HeapTuple's body without its first bytes, which hold nothing that a
 * query of ours may ask for.
 */
static inline HeapTupleHeader
header_of(char *row)
{
	return (HeapTupleHeader) (row - MINIMAL_TUPLE_OFFSET);
}

/*
 * Take apart as much of a row as is needed: the slot, empty at the start of a segment, gets it as a virtual tuple does.  Whoever makes a tuple of it
 * gets NULLs in the other columns.
 */
static inline void
take_apart(StreamScan *state, TupleTableSlot *slot, HeapTupleHeader row, uint32 number)
{
	const char *data = (const char *) row + row->t_hoff;
	int			there = Min(state->nneeded, HeapTupleHeaderGetNatts(row));
	Datum	   *values = slot->tts_values;
	bool	   *isnull = slot->tts_isnull;

	if (unlikely(slot->tts_flags & (TTS_FLAG_SHOULDFREE | TTS_FLAG_EMPTY)))
	{
		ExecClearTuple(slot);
		memset(isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
		ExecStoreVirtualTuple(slot);
		slot->tts_tid = state->tuple.t_self;
		slot->tts_tableOid = state->tuple.t_tableOid;
		state->filled = 0;
	}
	if (likely(!(row->t_infomask & HEAP_HASNULL)))
	{
		if (unlikely(state->filled != there))
		{
			memset(isnull, false, there);
			memset(isnull + there, true, state->nneeded - there);
			state->filled = there;
		}
		for (const SckptColumn *column = state->columns, *end = column + there; column < end; column++)
			*values++ = sckpt_column_read(column, &data);
	}
	else
	{
		int			i;

		state->filled = 0;
		for (i = 0; i < there; i++)
		{
			isnull[i] = att_isnull(i, row->t_bits);
			if (!isnull[i])
				values[i] = sckpt_column_read(&state->columns[i], &data);
		}
		for (; i < state->nneeded; i++)
			isnull[i] = true;
	}
	slot->tts_tid.ip_posid = number;
}

/* ---- Scanning ---- */

/* The columns up to the last one that the node's plan names; all of them where it wants whole rows. */
static void
find_needed(StreamScan *state, ForeignScanState *node)
{
	TupleDesc	desc = RelationGetDescr(node->ss.ss_currentRelation);
	Plan	   *plan = node->ss.ps.plan;
	Index		relid = ((Scan *) plan)->scanrelid;
	Bitmapset  *names = NULL;
	AttrNumber	event_time;
	int			column = -1;

	pull_varattnos((Node *) plan->targetlist, relid, &names);
	pull_varattnos((Node *) plan->qual, relid, &names);
	while ((column = bms_next_member(names, column)) >= 0)
	{
		int			attno = column + FirstLowInvalidHeapAttributeNumber;

		state->nneeded = Max(state->nneeded, attno == 0 ? desc->natts : attno);
	}

	/* Its event time may be compared to a segment's bound. */
	if (sckpt_stream_event_time(RelationGetRelid(node->ss.ss_currentRelation), &event_time, NULL, NULL))
		state->nneeded = Max(state->nneeded, event_time);
	state->columns = palloc(Max(1, state->nneeded) * sizeof(SckptColumn));
	for (int i = 0; i < state->nneeded; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		sckpt_column_init(&state->columns[i], att->attlen, att->attbyval, att->attalign);
	}
}

static void
stream_begin_scan(ForeignScanState *node, int eflags)
{
	Oid			relid = RelationGetRelid(node->ss.ss_currentRelation);
	StreamScan *state;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	if (armed_scan == NULL || armed_scan->source != node->ss.ps.state->es_sourceText || scans_left == 0 ||
		!list_member_oid(armed_scan->streams, relid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot select from stream \"%s\"", get_rel_name(relid)),
				 errhint("Create a pipeline with stream_ckpt.create_pipeline() and select from its result.")));

	state = palloc0(sizeof(StreamScan));
	state->scan = armed_scan;
	state->next_segment = armed_scan->first_segment;
	state->seen = armed_scan->first_seen;
	scans_left--;
	state->counts = !list_member_oid(armed_scan->others, relid);
	if (armed_scan->route)
		state->route = sckpt_route_begin(armed_scan->route, relid, &node->ss.ps);
	else
		find_needed(state, node);
	node->fdw_state = state;
}

/* Go to the first row of the current segment that is to be given out; false if none is. */
static bool
enter_segment(StreamScan *state)
{
	SckptSegment *segment = state->segment;
	uint64		before = state->seen;

	state->seen += segment->nrows;
	if (state->seen <= state->scan->first || before >= state->scan->end)
		return false;
	state->row = segment->rows;
	for (state->number = 0; before + state->number < state->scan->first; state->number++)
		state->row += MAXALIGN(((MinimalTuple) state->row)->t_len);
	state->nrows = Min(segment->nrows, state->scan->end - before) - state->number;
	return true;
}

static void
open_segment(StreamScan *state, Relation rel)
{
	SckptSegment *segment = state->segment;

	if (segment->weights != NULL)
		elog(ERROR, "weighted rows in stream \"%s\"", RelationGetRelationName(rel));
	map_segment(&state->map, segment, rel);
	state->taken_apart = state->map.direct && state->route == NULL;
	state->bounded = 0;
	if (segment->bound != SCKPT_NO_BOUND)
		(void) sckpt_stream_event_time(segment->stream, &state->bounded, NULL, NULL);
	BlockIdSet(&state->tuple.t_self.ip_blkid, segment - state->scan->batch->segments);
	state->tuple.t_tableOid = segment->stream;
}

/*
 * Is the row's event time so far ahead of the clock at its insertion that it shall not count?  Nothing infinite is.  Tells the scan's
 * owner then.
 */
static bool
is_ahead(StreamScan *state, TupleTableSlot *slot, uint32 number)
{
	SckptScan  *scan = state->scan;
	bool		isnull;
	Datum		value = slot_getattr(slot, state->bounded, &isnull);
	int64		event_time = isnull ? SCKPT_NO_WATERMARK : DatumGetInt64(value);

	if (event_time <= state->segment->bound || TIMESTAMP_NOT_FINITE(event_time))
		return false;
	if (scan->ahead)
	{
		if (state->counts)
			scan->ahead(scan, state->segment - scan->batch->segments, number, event_time);
		return true;
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("event time %s of stream \"%s\" is too far ahead of the clock",
					getBaseType(TupleDescAttr(slot->tts_tupleDescriptor, state->bounded - 1)->atttypid) == TIMESTAMPOID
					? DatumGetCString(DirectFunctionCall1(timestamp_out, value))
					: DatumGetCString(DirectFunctionCall1(timestamptz_out, value)),
					get_rel_name(state->segment->stream)),
			 errhint("When the row was inserted, stream_ckpt.max_event_time_ahead did not allow it to move the watermark.")));
	return true;				/* keep compiler quiet */
}

TupleTableSlot *
sckpt_scan_next(ForeignScanState *node)
{
	StreamScan *state = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	for (;;)
	{
		uint32		number;
		char	   *row;

		while (state->nrows == 0)
		{
			SckptBatch *batch = state->scan->batch;
			MemoryContext old;

			if (state->next_segment >= batch->nsegments || state->seen >= state->scan->end)
				return ExecClearTuple(slot);
			state->segment = &batch->segments[state->next_segment++];
			if (state->segment->nrows == 0 || !sckpt_scan_wants(state->scan, state->segment) || !enter_segment(state))
				continue;
			if (state->segment->stream != RelationGetRelid(node->ss.ss_currentRelation))
			{
				/* Another scan's; it counts all the same. */
				state->nrows = 0;
				continue;
			}
			old = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);
			open_segment(state, node->ss.ss_currentRelation);
			ExecClearTuple(slot);
			MemoryContextSwitchTo(old);
		}

		row = state->row;
		number = state->number++;
		state->nrows--;
		state->row += MAXALIGN(((MinimalTuple) row)->t_len);
		if (likely(state->taken_apart))
			take_apart(state, slot, header_of(row), number);
		else
		{
			HeapTuple	tuple = &state->tuple;

			tuple->t_len = ((MinimalTuple) row)->t_len + MINIMAL_TUPLE_OFFSET;
			tuple->t_data = header_of(row);
			tuple->t_self.ip_posid = number;
			if (state->map.direct)
				ExecStoreHeapTuple(tuple, slot, false);
			else
			{
				ExecClearTuple(slot);
				map_row(&state->map, tuple, slot->tts_tupleDescriptor, slot->tts_values, slot->tts_isnull);
				ExecStoreVirtualTuple(slot);
				slot->tts_tid = tuple->t_self;
			}
		}
		if (state->route)
		{
			ExprContext *context = node->ss.ps.ps_ExprContext;

			context->ecxt_scantuple = slot;
			if (!sckpt_route_takes(state->route, slot, context))
			{
				MemoryContextReset(context->ecxt_per_tuple_memory);
				continue;
			}
		}
		state->scan->taken += state->counts;
		if (state->bounded == 0 || !is_ahead(state, slot, number))
			return slot;
		CHECK_FOR_INTERRUPTS();
	}
}

static void
stream_rescan(ForeignScanState *node)
{
	StreamScan *state = node->fdw_state;

	state->next_segment = state->scan->first_segment;
	state->nrows = 0;
	state->seen = state->scan->first_seen;
}

static void
stream_end_scan(ForeignScanState *node)
{
}

void
sckpt_scan_set_routine(FdwRoutine *routine)
{
	routine->GetForeignRelSize = stream_rel_size;
	routine->GetForeignPaths = stream_paths;
	routine->GetForeignPlan = stream_plan;
	routine->BeginForeignScan = stream_begin_scan;
	routine->IterateForeignScan = sckpt_scan_next;
	routine->ReScanForeignScan = stream_rescan;
	routine->EndForeignScan = stream_end_scan;
}

/* ---- A row by itself ---- */

/* to_jsonb() of a composite value. */
static Datum
composite_to_jsonb(Datum composite, Oid type)
{
	FmgrInfo	function;
	Const	   *argument = makeNullConst(type, -1, InvalidOid);

	/* The function asks the call's expression for the type. */
	fmgr_info(F_TO_JSONB, &function);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(argument), InvalidOid,
											 InvalidOid, COERCE_EXPLICIT_CALL), &function);
	return FunctionCall1(&function, composite);
}

Datum
sckpt_stream_tuple_json(TupleDesc desc, Datum *values, bool *nulls)
{
	return composite_to_jsonb(heap_copy_tuple_as_datum(heap_form_tuple(desc, values, nulls), desc), desc->tdtypeid);
}

Datum
sckpt_stream_row_json(SckptBatch *batch, uint32 segment_number, uint32 row_number)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt row", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RowMap		map = {0};
	HeapTupleData tuple = {0};
	SckptSegment *segment;
	Relation	rel;
	TupleDesc	desc;
	Datum	   *values;
	bool	   *nulls;
	char	   *row;
	Datum		result;

	if (segment_number >= batch->nsegments || row_number >= batch->segments[segment_number].nrows)
		elog(ERROR, "a batch has no row %u in segment %u", row_number, segment_number);
	segment = &batch->segments[segment_number];
	row = segment->rows;
	for (uint32 i = 0; i < row_number; i++)
		row += MAXALIGN(((MinimalTuple) row)->t_len);
	tuple.t_len = ((MinimalTuple) row)->t_len + MINIMAL_TUPLE_OFFSET;
	tuple.t_data = header_of(row);

	rel = table_open(segment->stream, AccessShareLock);
	desc = RelationGetDescr(rel);
	values = palloc(desc->natts * sizeof(Datum));
	nulls = palloc(desc->natts * sizeof(bool));
	map_segment(&map, segment, rel);
	if (map.direct)
		heap_deform_tuple(&tuple, desc, values, nulls);
	else
		map_row(&map, &tuple, desc, values, nulls);
	result = composite_to_jsonb(heap_copy_tuple_as_datum(heap_form_tuple(desc, values, nulls), desc),
								rel->rd_rel->reltype);
	table_close(rel, AccessShareLock);

	MemoryContextSwitchTo(old);
	result = datumCopy(result, false, -1);
	MemoryContextDelete(context);
	return result;
}
