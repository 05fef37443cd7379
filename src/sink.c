/*-------------------------------------------------------------------------
 *
 * sink.c
 *		Keeps the rows of a keyed result in an ordinary table.
 *
 * This is the part of an executor that INSERT, UPDATE and DELETE of single
 * rows need, without statements: defaults, BEFORE and AFTER row triggers,
 * generated columns, constraints, indexes.  Statement-level triggers do not
 * fire, so that AFTER triggers see no transition tables, and rules do not
 * apply, as in logical replication.
 *
 * Three ways lead into the table:
 *
 *		update	The row is found by tid or key (sink_lookup.c) and updated
 *				without locking it first: the table's access method notices
 *				and tells what someone else did to it meanwhile, and then we
 *				look again.  Only BEFORE triggers, which must not run twice,
 *				make us lock it.
 *		insert	Of rows said to be new: collected, written 1000 at a time.
 *				Not if a trigger or a default may look at the table between
 *				two rows.
 *		insert	Of rows that were looked for in vain: speculatively, as INSERT
 *				... ON CONFLICT does, since another session may be inserting
 *				the same key.
 *
 * Rows of one checkpoint have different keys, but nothing breaks if a key
 * comes again: a row version that our own transaction has written gets a new
 * command number before it is changed, and buffered rows are written before a
 * key counts as missing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "sink.h"
#include "sink_lookup.h"

/* Rows written at once, as COPY does: enough to spread a page's costs. */
#define BATCH_ROWS 1000
#define BATCH_BYTES (1024 * 1024)

struct SckptSink
{
	MemoryContext context;		/* everything here */
	Relation	relation;
	TupleDesc	desc;

	/* What the executor's functions want. */
	EState	   *estate;
	ResultRelInfo *result;
	SckptColumnUse *use;
	EPQState	epq;

	/* Columns that rows fill, and defaults of the others. */
	int			ncolumns;
	AttrNumber *columns;
	bool	   *is_key;			/* by attribute number - 1 */
	Bitmapset  *updated;		/* the columns but for keys, as the executor counts them */
	Bitmapset  *updated_keys;	/* keys as well, for when equal keys look different */
	int			ndefaults;
	AttrNumber *default_columns;
	ExprState **defaults;

	SckptLookup *lookup;
	List	   *arbiters;		/* the key's index, if it is unique */
	TupleTableSlot *slot;		/* the row that the caller hands in */
	TupleTableSlot *stored;		/* the row version found in the table */
	TupleTableSlot *next;		/* the one to be written; may point into `stored` */

	bool		may_update;		/* checked against publications */
	bool		may_delete;

	/* Rows to be inserted together. */
	bool		batching;		/* may we? */
	MemoryContext batch_context;
	int			nbatch;
	Size		batch_bytes;
	TupleTableSlot *batch[BATCH_ROWS];	/* made when first needed, with a descriptor that nobody counts references to: */
	TupleDesc	batch_desc;
	ItemPointer batch_tids[BATCH_ROWS]; /* the callers' */
};

/* ---------- Opening ---------- */

static void
init_executor(SckptSink *sink)
{
	EState	   *estate = CreateExecutorState();
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	ResultRelInfo *result = makeNode(ResultRelInfo);

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(sink->relation);
	rte->relkind = sink->relation->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
	sink->use = sckpt_init_range_table(estate, rte);
	InitResultRelInfo(result, sink->relation, 1, NULL, 0);

	/* Where triggers look for it. */
	estate->es_opened_result_relations = lappend(estate->es_opened_result_relations, result);
	estate->es_output_cid = GetCurrentCommandId(true);
	sink->estate = estate;
	sink->result = result;
	EvalPlanQualInit(&sink->epq, estate, NULL, NIL, -1, NIL);

	/* All of them, or what an INSERT needs would depend on whether an UPDATE came first. */
	sink->use->updatedCols = bms_add_range(NULL, 1 - FirstLowInvalidHeapAttributeNumber,
										   sink->desc->natts - FirstLowInvalidHeapAttributeNumber);
	sckpt_init_generated(result, estate);
	ExecOpenIndices(result, true);
}

static Relation
open_table(Oid relid)
{
	Relation	relation = try_table_open(relid, RowExclusiveLock);

	if (relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("result table with OID %u does not exist", relid)));
	return relation;
}

static SckptSink *
open_sink(Relation relation, int nkeys, const AttrNumber *keys, bool images, Oid index)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "result table", ALLOCSET_DEFAULT_SIZES);
	MemoryContext outer = MemoryContextSwitchTo(context);
	SckptSink  *sink = palloc0(sizeof(SckptSink));
	AttrNumber *columns;
	int			ncolumns = 0;

	/* Row versions written before belong to earlier commands. */
	CommandCounterIncrement();
	sink->context = context;
	sink->relation = relation;
	sink->desc = RelationGetDescr(relation);
	init_executor(sink);

	sink->lookup = sckpt_lookup_open(relation, nkeys, keys, images, index, sink->estate);
	if (sckpt_lookup_is_unique(sink->lookup))
		sink->arbiters = list_make1_oid(index);
	sink->slot = MakeSingleTupleTableSlot(sink->desc, &TTSOpsVirtual);
	sink->next = MakeSingleTupleTableSlot(sink->desc, &TTSOpsVirtual);
	sink->stored = table_slot_create(relation, NULL);
	sink->batch_context = AllocSetContextCreate(context, "result rows to insert", ALLOCSET_DEFAULT_SIZES);
	sink->batch_desc = CreateTupleDescCopyConstr(sink->desc);

	sink->is_key = palloc0(sizeof(bool) * sink->desc->natts);
	for (int i = 0; i < nkeys; i++)
		sink->is_key[keys[i] - 1] = true;
	columns = palloc(sizeof(AttrNumber) * sink->desc->natts);
	for (int i = 0; i < sink->desc->natts; i++)
		if (!TupleDescAttr(sink->desc, i)->attisdropped && !TupleDescAttr(sink->desc, i)->attgenerated)
			columns[ncolumns++] = i + 1;
	sckpt_sink_set_columns(sink, ncolumns, columns);

	AfterTriggerBeginQuery();
	MemoryContextSwitchTo(outer);
	return sink;
}

SckptSink *
sckpt_sink_open(Oid relid, int nkeys, const AttrNumber *keys, bool existing)
{
	Relation	relation = open_table(relid);
	Oid			index;

	sckpt_sink_check(relation, nkeys, keys, existing);
	index = sckpt_sink_key_index(relation, nkeys, keys);
	if (nkeys > 0 && !OidIsValid(index))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("table \"%s\" has lost the index on its result's key",
						RelationGetRelationName(relation)),
				 errhint("Create a unique index on the key columns, NULLS NOT DISTINCT.")));
	return open_sink(relation, nkeys, keys, false, index);
}

SckptSink *
sckpt_sink_open_bag(Oid relid, int ncolumns, const AttrNumber *columns)
{
	Relation	relation = open_table(relid);

	sckpt_sink_check(relation, ncolumns, columns, false);
	return open_sink(relation, ncolumns, columns, true, sckpt_sink_bag_index(relation, ncolumns, columns));
}

/* The expression that fills a column which rows do not, or NULL: then the column is NULL. */
static Expr *
column_default(Relation relation, AttrNumber attno)
{
	Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(relation), attno - 1);
	Node	   *expr;
	Oid			base;
	int32		typmod = attribute->atttypmod;

	if (attribute->attisdropped || attribute->attgenerated)
		return NULL;
	expr = build_column_default(relation, attno);
	if (expr)
		return (Expr *) expr;

	/* A domain may not allow NULL. */
	base = getBaseTypeAndTypmod(attribute->atttypid, &typmod);
	if (base == attribute->atttypid)
		return NULL;
	expr = (Node *) makeConst(base, typmod, attribute->attcollation,
							  attribute->attlen, (Datum) 0, true, attribute->attbyval);
	return (Expr *) coerce_to_domain(expr, base, typmod, attribute->atttypid,
									 COERCION_IMPLICIT, COERCE_IMPLICIT_CAST, -1, false);
}

void
sckpt_sink_set_columns(SckptSink *sink, int ncolumns, const AttrNumber *columns)
{
	TriggerDesc *triggers = sink->relation->trigdesc;
	MemoryContext outer = MemoryContextSwitchTo(sink->context);
	int			natts = sink->desc->natts;
	bool	   *filled = palloc0(sizeof(bool) * natts);

	sink->ncolumns = ncolumns;
	sink->columns = palloc(sizeof(AttrNumber) * Max(ncolumns, 1));
	sink->updated = sink->updated_keys = NULL;
	for (int i = 0; i < ncolumns; i++)
	{
		AttrNumber	attno = columns[i];
		Form_pg_attribute attribute = TupleDescAttr(sink->desc, attno - 1);

		if (attribute->attisdropped || attribute->attgenerated)
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("cannot keep results in generated column \"%s\" of table \"%s\"",
							NameStr(attribute->attname), RelationGetRelationName(sink->relation))));
		sink->columns[i] = attno;
		filled[attno - 1] = true;
		sink->updated_keys = bms_add_member(sink->updated_keys, attno - FirstLowInvalidHeapAttributeNumber);
		if (!sink->is_key[attno - 1])
			sink->updated = bms_add_member(sink->updated, attno - FirstLowInvalidHeapAttributeNumber);
	}

	sink->batching = !(triggers && (triggers->trig_insert_before_row || triggers->trig_insert_after_row));
	sink->ndefaults = 0;
	sink->default_columns = palloc(sizeof(AttrNumber) * natts);
	sink->defaults = palloc(sizeof(ExprState *) * natts);
	for (int i = 0; i < natts; i++)
	{
		Expr	   *expr = filled[i] ? NULL : column_default(sink->relation, i + 1);

		if (sink->is_key[i] && !filled[i])
			elog(ERROR, "key column %d of table \"%s\" is not filled",
				 i + 1, RelationGetRelationName(sink->relation));
		if (expr == NULL)
			continue;
		if (contain_volatile_functions_not_nextval((Node *) expr))
			sink->batching = false;
		sink->default_columns[sink->ndefaults] = i + 1;
		sink->defaults[sink->ndefaults++] = ExecPrepareExpr(expr, sink->estate);
	}
	pfree(filled);
	MemoryContextSwitchTo(outer);
}

bool
sckpt_sink_is_sole_arbiter(SckptSink *sink)
{
	for (int i = 0; i < sink->result->ri_NumIndices; i++)
	{
		Form_pg_index index = sink->result->ri_IndexRelationDescs[i]->rd_index;

		if ((index->indisunique || index->indisexclusion) && !list_member_oid(sink->arbiters, index->indexrelid))
			return false;
	}
	return true;
}

TupleTableSlot *
sckpt_sink_slot(SckptSink *sink)
{
	ExecClearTuple(sink->slot);
	memset(sink->slot->tts_isnull, true, sizeof(bool) * sink->desc->natts);
	return sink->slot;
}

/* ---------- Steps that all ways share ---------- */

/* Begin (or begin again) with the row in sink->slot. */
static void
begin_row(SckptSink *sink)
{
	CHECK_FOR_INTERRUPTS();
	ResetPerTupleExprContext(sink->estate);
	if (TTS_EMPTY(sink->slot))
		ExecStoreVirtualTuple(sink->slot);

	/* Taken before triggers run: what they do to this row is then told apart from what came before. */
	sink->estate->es_output_cid = GetCurrentCommandId(true);
}

/* Find the row of the key in sink->slot, into sink->stored. */
static bool
find_row(SckptSink *sink, ItemPointer hint)
{
	Datum		xmin;
	bool		isnull;

	if (!sckpt_lookup_find(sink->lookup, sink->slot, hint, sink->stored))
	{
		if (sink->nbatch == 0)
			return false;
		sckpt_sink_flush(sink);
		if (!sckpt_lookup_find(sink->lookup, sink->slot, hint, sink->stored))
			return false;
	}

	/* A command cannot change what it has written itself. */
	xmin = slot_getsysattr(sink->stored, MinTransactionIdAttributeNumber, &isnull);
	if (TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin)))
	{
		CommandCounterIncrement();
		sink->estate->es_output_cid = GetCurrentCommandId(true);
	}
	return true;
}

/*
 * After an attempt to lock, update or delete sink->stored: true if it was done.
 * Else someone was faster; *where becomes the place to look next.
 */
static bool
row_done(SckptSink *sink, TM_Result result, TM_FailureData *failure, ItemPointer where)
{
	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_Updated:
		case TM_Deleted:
			if (IsolationUsesXactSnapshot())
				ereport(ERROR,
						(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						 errmsg("could not serialize access due to concurrent update")));
			if (result == TM_Updated && !ItemPointerIndicatesMovedPartitions(&failure->ctid))
				*where = failure->ctid;
			else
				ItemPointerSetInvalid(where);
			ExecClearTuple(sink->stored);
			return false;
		case TM_SelfModified:
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("row of table \"%s\" was already modified by a trigger that its change has fired",
							RelationGetRelationName(sink->relation)),
					 errhint("Consider using an AFTER trigger instead of a BEFORE trigger to propagate changes to other rows.")));
			break;
		default:
			elog(ERROR, "unexpected result %d of a change in table \"%s\"",
				 result, RelationGetRelationName(sink->relation));
	}
	return false;				/* keep compiler quiet */
}

static bool
lock_row(SckptSink *sink, LockTupleMode mode, ItemPointer where)
{
	TM_FailureData failure;
	ItemPointerData tid = sink->stored->tts_tid;
	TM_Result	result = table_tuple_lock(sink->relation, &tid, GetActiveSnapshot(), sink->stored,
										  sink->estate->es_output_cid, mode, LockWaitBlock, 0, &failure);

	return row_done(sink, result, &failure, where);
}

/* What remains to be done between the BEFORE triggers and the table. */
static void
complete_row(SckptSink *sink, CmdType command)
{
	TupleConstr *constraints = sink->desc->constr;

	sink->next->tts_tableOid = RelationGetRelid(sink->relation);
	if (constraints && constraints->has_generated_stored)
		ExecComputeStoredGenerated(sink->result, sink->estate, sink->next, command);
	if (constraints)
		ExecConstraints(sink->result, sink->next, sink->estate);
	if (sink->relation->rd_rel->relispartition)
		ExecPartitionCheck(sink->result, sink->next, sink->estate, true);
}

/* ---------- Inserting ---------- */

static void
buffer_row(SckptSink *sink, ItemPointer tid)
{
	MemoryContext outer = MemoryContextSwitchTo(sink->batch_context);
	HeapTuple	tuple = heap_form_tuple(sink->desc, sink->next->tts_values, sink->next->tts_isnull);
	TupleTableSlot **slot = &sink->batch[sink->nbatch];

	MemoryContextSwitchTo(sink->context);
	if (*slot == NULL)
		*slot = MakeSingleTupleTableSlot(sink->batch_desc, &TTSOpsHeapTuple);
	MemoryContextSwitchTo(outer);

	ExecStoreHeapTuple(tuple, *slot, false);
	ItemPointerSetInvalid(tid);
	sink->batch_tids[sink->nbatch++] = tid;
	sink->batch_bytes += tuple->t_len;
	if (sink->nbatch == BATCH_ROWS || sink->batch_bytes >= BATCH_BYTES)
		sckpt_sink_flush(sink);
}

void
sckpt_sink_flush(SckptSink *sink)
{
	MemoryContext outer;

	if (sink->nbatch == 0)
		return;
	outer = MemoryContextSwitchTo(GetPerTupleMemoryContext(sink->estate));
	table_multi_insert(sink->relation, sink->batch, sink->nbatch, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < sink->nbatch; i++)
	{
		TupleTableSlot *slot = sink->batch[i];

		/* Nothing to recheck: a deferrable constraint has a trigger, and then we do not collect rows. */
		if (sink->result->ri_NumIndices > 0)
			(void) ExecInsertIndexTuples(sink->result, slot, sink->estate, false, false, NULL, NIL, false);
		*sink->batch_tids[i] = slot->tts_tid;
		ExecClearTuple(slot);
	}
	sink->nbatch = 0;
	sink->batch_bytes = 0;
	MemoryContextReset(sink->batch_context);
	MemoryContextSwitchTo(outer);
}

/* Insert sink->next unless another row of its key turns up.  *recheck: deferrable constraints that may be violated. */
static bool
insert_speculatively(SckptSink *sink, List **recheck)
{
	TransactionId xid = GetCurrentTransactionId();
	uint32		token = SpeculativeInsertionLockAcquire(xid);
	bool		conflict = false;

	table_tuple_insert_speculative(sink->relation, sink->next, sink->estate->es_output_cid, 0, NULL, token);
	*recheck = ExecInsertIndexTuples(sink->result, sink->next, sink->estate, false, true,
									 &conflict, sink->arbiters, false);
	table_tuple_complete_speculative(sink->relation, sink->next, token, !conflict);
	SpeculativeInsertionLockRelease(xid);
	return !conflict;
}

/*
 * Insert the row in sink->slot.  `missing`: it was looked for, else it is said
 * to be new.  Returns false if meanwhile someone has inserted it.
 */
static bool
insert_row(SckptSink *sink, bool missing, ItemPointer tid)
{
	TriggerDesc *triggers = sink->result->ri_TrigDesc;
	TupleTableSlot *next = sink->next;
	bool		speculative = missing && sink->arbiters != NIL;
	List	   *recheck = NIL;

	ExecClearTuple(next);
	memset(next->tts_isnull, true, sizeof(bool) * sink->desc->natts);
	for (int i = 0; i < sink->ncolumns; i++)
	{
		int			column = sink->columns[i] - 1;

		next->tts_values[column] = sink->slot->tts_values[column];
		next->tts_isnull[column] = sink->slot->tts_isnull[column];
	}
	for (int i = 0; i < sink->ndefaults; i++)
	{
		int			column = sink->default_columns[i] - 1;

		next->tts_values[column] = ExecEvalExpr(sink->defaults[i], GetPerTupleExprContext(sink->estate),
												&next->tts_isnull[column]);
	}
	ExecStoreVirtualTuple(next);

	if (triggers && triggers->trig_insert_before_row)
	{
		if (!ExecBRInsertTriggers(sink->estate, sink->result, next))
		{
			ItemPointerSetInvalid(tid);
			return true;
		}

		/* With another key than the one we looked for, looking again would never end. */
		speculative = speculative && sckpt_lookup_equal(sink->lookup, sink->slot, next);
	}
	complete_row(sink, CMD_INSERT);

	if (speculative)
	{
		if (!insert_speculatively(sink, &recheck))
			return false;
	}
	else if (sink->batching && !missing)
	{
		buffer_row(sink, tid);
		return true;
	}
	else
	{
		table_tuple_insert(sink->relation, next, sink->estate->es_output_cid, 0, NULL);
		if (sink->result->ri_NumIndices > 0)
			recheck = ExecInsertIndexTuples(sink->result, next, sink->estate, false, false, NULL, NIL, false);
	}
	*tid = next->tts_tid;
	ExecARInsertTriggers(sink->estate, sink->result, next, recheck, NULL);
	return true;
}

/* ---------- Updating and deleting ---------- */

/*
 * Make sink->next: the stored row with the columns of the caller's.  Returns
 * whether anything changes.  What is equal is taken from the stored row, so that
 * out-of-line values stay where they are.
 */
static bool
merge_row(SckptSink *sink)
{
	TupleTableSlot *next = sink->next;
	TupleTableSlot *stored = sink->stored;
	int			natts = sink->desc->natts;
	bool		changed = false;
	bool		key_changed = false;

	slot_getallattrs(stored);
	ExecClearTuple(next);
	memcpy(next->tts_values, stored->tts_values, sizeof(Datum) * natts);
	memcpy(next->tts_isnull, stored->tts_isnull, sizeof(bool) * natts);
	for (int i = 0; i < sink->ncolumns; i++)
	{
		int			column = sink->columns[i] - 1;
		Form_pg_attribute attribute = TupleDescAttr(sink->desc, column);
		Datum		value = sink->slot->tts_values[column];
		bool		isnull = sink->slot->tts_isnull[column];

		if (isnull && next->tts_isnull[column])
			continue;
		if (isnull == next->tts_isnull[column] &&
			datum_image_eq(value, next->tts_values[column], attribute->attbyval, attribute->attlen))
			continue;
		next->tts_values[column] = value;
		next->tts_isnull[column] = isnull;
		changed = true;
		key_changed |= sink->is_key[column];
	}
	ExecStoreVirtualTuple(next);

	/* Which UPDATE OF triggers fire, and how strong a lock the row needs. */
	sink->use->updatedCols = key_changed ? sink->updated_keys : sink->updated;
	return changed;
}

/* Update sink->stored from sink->slot.  Returns false if someone else has changed it: look at *where. */
static bool
update_row(SckptSink *sink, ItemPointer where, ItemPointer tid)
{
	TriggerDesc *triggers = sink->result->ri_TrigDesc;
	List	   *recheck = NIL;
	ItemPointerData old;
	TM_FailureData failure;
	TM_Result	result;
	LockTupleMode mode;
	TU_UpdateIndexes update_indexes;

	if (!merge_row(sink))
	{
		*tid = sink->stored->tts_tid;
		return true;
	}
	if (triggers && triggers->trig_update_before_row)
	{
		if (!lock_row(sink, ExecUpdateLockMode(sink->estate, sink->result), where))
			return false;

		/* The slot was stored anew. */
		(void) merge_row(sink);
		if (!sckpt_before_update(sink->estate, &sink->epq, sink->result, &sink->stored->tts_tid, sink->next))
		{
			ItemPointerSetInvalid(tid);
			return true;
		}
	}
	complete_row(sink, CMD_UPDATE);
	if (!sink->may_update)
		CheckCmdReplicaIdentity(sink->relation, CMD_UPDATE);
	sink->may_update = true;

	old = sink->stored->tts_tid;
	result = table_tuple_update(sink->relation, &old, sink->next, sink->estate->es_output_cid,
								GetActiveSnapshot(), InvalidSnapshot, true,
								&failure, &mode, &update_indexes);
	if (!row_done(sink, result, &failure, where))
		return false;
	if (update_indexes != TU_None && sink->result->ri_NumIndices > 0)
		recheck = ExecInsertIndexTuples(sink->result, sink->next, sink->estate, true, false, NULL, NIL,
										update_indexes == TU_Summarizing);
	*tid = sink->next->tts_tid;
	ExecARUpdateTriggers(sink->estate, sink->result, NULL, NULL, &old, NULL, sink->next,
						 recheck, NULL, false);
	return true;
}

static bool
delete_row(SckptSink *sink, ItemPointer where)
{
	TriggerDesc *triggers = sink->result->ri_TrigDesc;
	ItemPointerData old = sink->stored->tts_tid;
	TM_FailureData failure;
	TM_Result	result;

	if (triggers && triggers->trig_delete_before_row)
	{
		if (!lock_row(sink, LockTupleExclusive, where))
			return false;
		if (!sckpt_before_delete(sink->estate, &sink->epq, sink->result, &old))
			return true;
	}
	if (!sink->may_delete)
		CheckCmdReplicaIdentity(sink->relation, CMD_DELETE);
	sink->may_delete = true;
	result = table_tuple_delete(sink->relation, &old, sink->estate->es_output_cid,
								GetActiveSnapshot(), InvalidSnapshot, true, &failure, false);
	if (!row_done(sink, result, &failure, where))
		return false;
	ExecARDeleteTriggers(sink->estate, sink->result, &old, NULL, NULL, false);
	return true;
}

/* ---------- What callers call ---------- */

void
sckpt_sink_put(SckptSink *sink, ItemPointer hint, bool exists, ItemPointer tid)
{
	MemoryContext outer = MemoryContextSwitchTo(GetPerTupleMemoryContext(sink->estate));
	ItemPointerData where = *hint;
	bool		done = false;

	while (!done)
	{
		begin_row(sink);
		if (!exists)
			done = insert_row(sink, false, tid);
		else if (find_row(sink, &where))
			done = update_row(sink, &where, tid);
		else
		{
			ItemPointerSetInvalid(&where);
			done = insert_row(sink, true, tid);
		}
	}
	ExecClearTuple(sink->next);
	ExecClearTuple(sink->stored);
	MemoryContextSwitchTo(outer);
}

void
sckpt_sink_prefetch(SckptSink *sink, const ItemPointerData *hints, int count)
{
	sckpt_lookup_prefetch(sink->lookup, hints, count);
}

TransactionId
sckpt_sink_delete(SckptSink *sink, ItemPointer hint)
{
	MemoryContext outer = MemoryContextSwitchTo(GetPerTupleMemoryContext(sink->estate));
	ItemPointerData where = *hint;
	TransactionId xmin = InvalidTransactionId;
	bool		done = false;

	while (!done)
	{
		bool		isnull;

		begin_row(sink);
		if (!find_row(sink, &where))
		{
			xmin = InvalidTransactionId;
			break;
		}
		xmin = DatumGetTransactionId(slot_getsysattr(sink->stored, MinTransactionIdAttributeNumber, &isnull));
		done = delete_row(sink, &where);
	}
	ExecClearTuple(sink->stored);
	MemoryContextSwitchTo(outer);
	return xmin;
}

void
sckpt_sink_close(SckptSink *sink)
{
	ResetPerTupleExprContext(sink->estate);
	sckpt_sink_flush(sink);

	/* They shall see all of it. */
	CommandCounterIncrement();
	AfterTriggerEndQuery(sink->estate);

	sckpt_lookup_close(sink->lookup);
	ExecDropSingleTupleTableSlot(sink->stored);
	ExecDropSingleTupleTableSlot(sink->next);
	ExecDropSingleTupleTableSlot(sink->slot);
	for (int i = 0; i < BATCH_ROWS && sink->batch[i]; i++)
		ExecDropSingleTupleTableSlot(sink->batch[i]);
	ExecCloseIndices(sink->result);
	EvalPlanQualEnd(&sink->epq);
	ExecResetTupleTable(sink->estate->es_tupleTable, false);
	table_close(sink->relation, NoLock);
	FreeExecutorState(sink->estate);
	MemoryContextDelete(sink->context);
	CommandCounterIncrement();
}
