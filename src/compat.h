/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Differences between PostgreSQL's major versions; the only file that
 *		asks for the version.
 *
 * Where a function of the server has got more arguments, or another name, our
 * calls are written as for the newest version, and macros of the same name
 * make older versions take them; where callers would have to know too much,
 * there is a function of our own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_COMPAT_H
#define SCKPT_COMPAT_H

#include "access/tableam.h"
#include "access/tupdesc.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "rewrite/rewriteManip.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

#if PG_VERSION_NUM < 150000
#error "stream_ckpt needs PostgreSQL 15 or later"
#endif

/* ---------- 16 ---------- */

#if PG_VERSION_NUM >= 160000

#define sckpt_flatten_join_alias_vars(query, node) flatten_join_alias_vars(NULL, query, node)
#define pg_class_ownercheck(oid, role) object_ownercheck(RelationRelationId, oid, role)
#define pg_database_ownercheck(oid, role) object_ownercheck(DatabaseRelationId, oid, role)
#define pg_extension_ownercheck(oid, role) object_ownercheck(ExtensionRelationId, oid, role)
#define pg_foreign_server_aclcheck(oid, role, mode) object_aclcheck(ForeignServerRelationId, oid, role, mode)
#define pg_proc_aclcheck(oid, role, mode) object_aclcheck(ProcedureRelationId, oid, role, mode)

/* Where a relation is stored. */
#define sckpt_locator(relation) ((relation)->rd_locator)

/* Where the executor looks for the columns that an UPDATE changes: `updatedCols`. */
typedef RTEPermissionInfo SckptColumnUse;

/* The columns of a relation of the query's range table that the query names. */
static inline Bitmapset *
sckpt_selected_columns(Query *query, RangeTblEntry *rte)
{
	return rte->perminfoindex > 0 ? getRTEPermissionInfo(query->rteperminfos, rte)->selectedCols : NULL;
}

/* Append a sub-select's range table, whose references to itself are shifted already. */
static inline void
sckpt_append_range_table(Query *query, Query *subquery)
{
	CombineRangeTables(&query->rtable, &query->rteperminfos, subquery->rtable, subquery->rteperminfos);
}

/* Forget which outer joins of a query may make its columns NULL: those that are left are found again when it is parsed anew. */
static inline void
sckpt_forget_nulling(Query *query)
{
	Bitmapset  *joins = NULL;
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		if (lfirst_node(RangeTblEntry, lc)->rtekind == RTE_JOIN)
			joins = bms_add_member(joins, foreach_current_index(lc) + 1);
	}
	if (joins)
		memcpy(query, remove_nulling_relids((Node *) query, joins, NULL), sizeof(Query));
}

#else

#define sckpt_flatten_join_alias_vars(query, node) flatten_join_alias_vars(query, node)

/* Indexes that only summarize came with 16: here all are updated, or none. */
typedef bool TU_UpdateIndexes;
#define TU_None false
#define ExecInsertIndexTuples(result, slot, estate, update, no_error, conflict, arbiters, only_summarizing) \
	ExecInsertIndexTuples(result, slot, estate, update, no_error, conflict, arbiters)
#define EvalPlanQualInit(epq, estate, plan, marks, param, relations) EvalPlanQualInit(epq, estate, plan, marks, param)

#define sckpt_locator(relation) ((relation)->rd_node)

typedef RangeTblEntry SckptColumnUse;

static inline Bitmapset *
sckpt_selected_columns(Query *query, RangeTblEntry *rte)
{
	return rte->selectedCols;
}

static inline void
sckpt_append_range_table(Query *query, Query *subquery)
{
	query->rtable = list_concat(query->rtable, subquery->rtable);
}

#define sckpt_forget_nulling(query) ((void) (query))

#endif

/* ---------- 17 ---------- */

#if PG_VERSION_NUM >= 170000

#define sckpt_virtual_transaction_process(vxid) ProcNumberGetProc((vxid).procNumber)
#define sckpt_local_transaction_id() (MyProc->vxid.lxid)

#else

#define sckpt_virtual_transaction_process(vxid) BackendIdGetProc((vxid).backendId)
#define sckpt_local_transaction_id() (MyProc->lxid)
#define ReplicationSlotCreate(name, db_specific, persistency, two_phase, failover, synced) \
	ReplicationSlotCreate(name, db_specific, persistency, two_phase)

#endif

/* ---------- 18 ---------- */

#if PG_VERSION_NUM >= 180000

/* Have expressions over a query's groups name what the groups are made of, as they did up to 17. */
static inline void
sckpt_flatten_groups(Query *query)
{
	RangeTblEntry *rte = query->hasGroupRTE ? llast_node(RangeTblEntry, query->rtable) : NULL;

	if (rte == NULL)
		return;
	if (rte->rtekind != RTE_GROUP)
		elog(ERROR, "the groups of a query are not the last in its range table");
	query->targetList = (List *) flatten_group_exprs(NULL, query, (Node *) query->targetList);
	query->havingQual = flatten_group_exprs(NULL, query, query->havingQual);
	query->rtable = list_truncate(query->rtable, list_length(query->rtable) - 1);
	query->hasGroupRTE = false;
}

#else

#define pg_noreturn pg_attribute_noreturn()
#define ExecInitGenerated(result, estate, command) ExecInitStoredGenerated(result, estate, command)
#define heap_form_minimal_tuple(desc, values, nulls, extra) heap_form_minimal_tuple(desc, values, nulls)
#define heap_copy_minimal_tuple(tuple, extra) heap_copy_minimal_tuple(tuple)
#define index_beginscan(heap, index, snapshot, instrument, nkeys, norderbys) \
	index_beginscan(heap, index, snapshot, nkeys, norderbys)
#define ReplicationSlotAcquire(name, nowait, error_if_invalid) ReplicationSlotAcquire(name, nowait)
#define expandRTE(rte, index, sublevels_up, returning_type, ...) expandRTE(rte, index, sublevels_up, __VA_ARGS__)
#define ReplaceVarsFromTargetList(node, varno, sublevels_up, rte, targets, result_relation, ...) \
	ReplaceVarsFromTargetList(node, varno, sublevels_up, rte, targets, __VA_ARGS__)

/* A column's description was written by hand. */
static inline void
populate_compact_attribute(TupleDesc desc, int column)
{
	TupleDescAttr(desc, column)->attcacheoff = -1;
}

#define sckpt_flatten_groups(query) ((void) (query))

#endif

/* What an operator is to a btree: one of get_op_btree_interpretation(). */
#if PG_VERSION_NUM >= 180000
#define get_op_btree_interpretation(operator) get_op_index_interpretation(operator)
static inline int
sckpt_strategy_of(void *interpretation)
{
	return (int) ((OpIndexInterpretation *) interpretation)->cmptype;
}
#else
static inline int
sckpt_strategy_of(void *interpretation)
{
	return ((OpBtreeInterpretation *) interpretation)->strategy;
}
#endif

/* The path of a foreign scan of which nothing is known but rows and costs. */
#if PG_VERSION_NUM >= 180000
#define sckpt_foreign_path(root, rel, startup, total) \
	create_foreignscan_path(root, rel, NULL, (rel)->rows, 0, startup, total, NIL, (rel)->lateral_relids, NULL, NIL, NIL)
#elif PG_VERSION_NUM >= 170000
#define sckpt_foreign_path(root, rel, startup, total) \
	create_foreignscan_path(root, rel, NULL, (rel)->rows, startup, total, NIL, (rel)->lateral_relids, NULL, NIL, NIL)
#else
#define sckpt_foreign_path(root, rel, startup, total) \
	create_foreignscan_path(root, rel, NULL, (rel)->rows, startup, total, NIL, (rel)->lateral_relids, NULL, NIL)
#endif

/*
 * BEFORE ROW triggers.  Their argument for MERGE is in 18, and also in the
 * later minor versions of 17, which know it by another name: so older names
 * and no MERGE.
 */
#if PG_VERSION_NUM >= 180000
#define sckpt_before_update(estate, epq, result, tid, slot) \
	ExecBRUpdateTriggers(estate, epq, result, tid, NULL, slot, NULL, NULL, false)
#define sckpt_before_delete(estate, epq, result, tid) \
	ExecBRDeleteTriggers(estate, epq, result, tid, NULL, NULL, NULL, NULL, false)
#elif PG_VERSION_NUM >= 160000
#define sckpt_before_update(estate, epq, result, tid, slot) \
	ExecBRUpdateTriggers(estate, epq, result, tid, NULL, slot, NULL, NULL)
#define sckpt_before_delete(estate, epq, result, tid) \
	ExecBRDeleteTriggers(estate, epq, result, tid, NULL, NULL, NULL, NULL)
#else
#define sckpt_before_update(estate, epq, result, tid, slot) \
	ExecBRUpdateTriggers(estate, epq, result, tid, NULL, slot, NULL)
#define sckpt_before_delete(estate, epq, result, tid) \
	ExecBRDeleteTriggers(estate, epq, result, tid, NULL, NULL)
#endif

/*
 * Make the range table of an executor of one relation.  Returns where the
 * columns go that are updated.
 */
static inline SckptColumnUse *
sckpt_init_range_table(EState *estate, RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 160000
	List	   *uses = NIL;
	RTEPermissionInfo *use = addRTEPermissionInfo(&uses, rte);

#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(rte), uses, bms_make_singleton(1));
#else
	ExecInitRangeTable(estate, list_make1(rte), uses);
#endif
	return use;
#else
	ExecInitRangeTable(estate, list_make1(rte));
	return rte;
#endif
}

/*
 * Make the expressions of generated columns ready, for rows inserted and
 * updated.  Those of an UPDATE depend on the columns updated at this moment,
 * so let that be all that ever will be.
 */
static inline void
sckpt_init_generated(ResultRelInfo *result, EState *estate)
{
	ExecInitGenerated(result, estate, CMD_INSERT);
#if PG_VERSION_NUM >= 160000
	ExecInitGenerated(result, estate, CMD_UPDATE);
#endif
}

/* All of so many bytes, or an error. */
#if PG_VERSION_NUM >= 160000
#define sckpt_buffile_read(file, data, bytes) BufFileReadExact(file, data, bytes)
#else
#define sckpt_buffile_read(file, data, bytes) \
	do { \
		if (BufFileRead(file, data, bytes) != (bytes)) \
			elog(ERROR, "a temporary file ends early"); \
	} while (0)
#endif

/*
 * Hash tables of tuples whose entries have room of the caller's: in the entry since 18, in a piece of its own before.
 */
static inline TupleHashTable
sckpt_build_tuple_hash(TupleDesc desc, const TupleTableSlotOps *ops, int ncolumns, AttrNumber *columns, Oid *equal, FmgrInfo *hash,
					   Oid *collations, Size additional, MemoryContext context, MemoryContext scratch)
{
#if PG_VERSION_NUM >= 180000
	return BuildTupleHashTable(NULL, desc, ops, ncolumns, columns, equal, hash, collations, 1024, additional, context, context, scratch, false);
#else
	return BuildTupleHashTableExt(NULL, desc, ncolumns, columns, equal, hash, collations, 1024, additional, context, context, scratch, false);
#endif
}

static inline void *
sckpt_tuple_hash_additional(TupleHashTable table, TupleHashEntry entry)
{
#if PG_VERSION_NUM >= 180000
	return TupleHashEntryGetAdditional(table, entry);
#else
	return entry->additional;
#endif
}

/* For a new entry: zeroes. */
static inline void
sckpt_init_tuple_hash_entry(TupleHashTable table, TupleHashEntry entry, Size additional, MemoryContext context)
{
#if PG_VERSION_NUM >= 180000
	memset(TupleHashEntryGetAdditional(table, entry), 0, additional);
#else
	entry->additional = MemoryContextAllocZero(context, additional);
#endif
}

#endif							/* SCKPT_COMPAT_H */
