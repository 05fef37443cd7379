/*-------------------------------------------------------------------------
 *
 * sink_lookup.c
 *		Finds the row of a key in a result table.
 *
 * First where the caller remembers it, by tid; else through the key's index.
 * Both look with a dirty snapshot: it shows the newest version of a row
 * whatever our transaction's snapshots say, and names the transaction that is
 * inserting, updating or deleting it, so that we can wait for that one to end.
 * (Sessions that merely lock the row are waited for by whoever changes it.)
 *
 * A remembered tid proves nothing: its row may have been updated, vacuumed,
 * its line pointer used again by a row of another key, its page truncated, the
 * whole table rewritten.  So it only counts if a live version is there now and
 * its key is equal by the key types' own equality operators.
 *
 * A scan of an index with a dirty snapshot can miss a row whose index entry
 * moves while we read (an UPDATE by another session that is not HOT).  Then
 * the insertion that follows runs into the unique index and looks again.  With
 * the index on a hash of the key nothing catches that; it takes a session that
 * writes into the result table by itself, at that very moment.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "compat.h"
#include "sink.h"
#include "sink_lookup.h"

/* How to compare one key column. */
typedef struct LookupKey
{
	AttrNumber	attno;
	bool		by_value;
	int16		length;
	FmgrInfo	equal;			/* unless images count */
	FunctionCallInfo call;
} LookupKey;

struct SckptLookup
{
	MemoryContext context;
	Relation	relation;
	EState	   *estate;
	bool		is_heap;		/* else the pages are not ours to prune */
	BlockNumber nblocks;		/* of the table, when last asked */
	SnapshotData dirty;
	int			nahead;			/* hints that were asked for last: */
	OffsetNumber ahead_offsets[SCKPT_SINK_AHEAD];
	Buffer		ahead_buffers[SCKPT_SINK_AHEAD];
	bool		ahead_pinned[SCKPT_SINK_AHEAD];	/* else the one before holds the pin for it, too */
	int			nkeys;
	LookupKey  *keys;
	bool		images;

	/* The index, if there is one. */
	Relation	index;
	IndexInfo  *index_info;
	IndexScanDesc scan;
	int			nscankeys;
	ScanKey		scankeys;		/* with the equality functions */
	ScanKey		nullkeys;		/* the same for IS NULL */
};

static void
init_key(LookupKey *key, TupleDesc desc, AttrNumber attno, bool images)
{
	Form_pg_attribute attribute = TupleDescAttr(desc, attno - 1);
	TypeCacheEntry *type;

	key->attno = attno;
	key->by_value = attribute->attbyval;
	key->length = attribute->attlen;
	if (images)
		return;
	type = lookup_type_cache(attribute->atttypid, TYPECACHE_EQ_OPR_FINFO);
	if (!OidIsValid(type->eq_opr_finfo.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify an equality operator for type %s",
						format_type_be(attribute->atttypid))));
	fmgr_info_copy(&key->equal, &type->eq_opr_finfo, CurrentMemoryContext);
	key->call = palloc0(SizeForFunctionCallInfo(2));
	InitFunctionCallInfoData(*key->call, &key->equal, 2, attribute->attcollation, NULL, NULL);
}

static void
open_index(SckptLookup *lookup, Oid indexid)
{
	Relation	index = index_open(indexid, RowExclusiveLock);
	StrategyNumber strategy = index->rd_rel->relam == HASH_AM_OID ?
		HTEqualStrategyNumber : BTEqualStrategyNumber;

	lookup->index = index;
	lookup->index_info = BuildIndexInfo(index);
	lookup->nscankeys = IndexRelationGetNumberOfKeyAttributes(index);
	lookup->scankeys = palloc0(sizeof(ScanKeyData) * lookup->nscankeys);
	lookup->nullkeys = palloc0(sizeof(ScanKeyData) * lookup->nscankeys);
	for (int i = 0; i < lookup->nscankeys; i++)
	{
		Oid			type = index->rd_opcintype[i];
		Oid			operator = get_opfamily_member(index->rd_opfamily[i], type, type, strategy);

		if (!OidIsValid(operator))
			elog(ERROR, "missing operator %d(%u,%u) in opfamily %u",
				 strategy, type, type, index->rd_opfamily[i]);
		ScanKeyEntryInitialize(&lookup->scankeys[i], 0, i + 1, strategy, InvalidOid,
							   index->rd_indcollation[i], get_opcode(operator), (Datum) 0);
		ScanKeyEntryInitialize(&lookup->nullkeys[i], SK_ISNULL | SK_SEARCHNULL, i + 1,
							   InvalidStrategy, InvalidOid, InvalidOid, InvalidOid, (Datum) 0);
	}
	lookup->scan = index_beginscan(lookup->relation, index, &lookup->dirty, NULL, lookup->nscankeys, 0);
}

SckptLookup *
sckpt_lookup_open(Relation relation, int nkeys, const AttrNumber *keys, bool images, Oid index, EState *estate)
{
	SckptLookup *lookup = palloc0(sizeof(SckptLookup));

	lookup->context = CurrentMemoryContext;
	lookup->relation = relation;
	lookup->estate = estate;
	lookup->is_heap = relation->rd_tableam == GetHeapamTableAmRoutine();
	lookup->nblocks = RelationGetNumberOfBlocks(relation);
	InitDirtySnapshot(lookup->dirty);
	lookup->nkeys = nkeys;
	lookup->images = images;
	lookup->keys = palloc0(sizeof(LookupKey) * Max(nkeys, 1));
	for (int i = 0; i < nkeys; i++)
		init_key(&lookup->keys[i], RelationGetDescr(relation), keys[i], images);
	if (OidIsValid(index))
		open_index(lookup, index);
	return lookup;
}

/* Let go of the pages that were asked for last. */
static void
release_ahead(SckptLookup *lookup)
{
	for (int i = 0; i < lookup->nahead; i++)
	{
		if (lookup->ahead_pinned[i])
			ReleaseBuffer(lookup->ahead_buffers[i]);
	}
	lookup->nahead = 0;
}

void
sckpt_lookup_close(SckptLookup *lookup)
{
	release_ahead(lookup);
	if (lookup->index)
	{
		index_endscan(lookup->scan);
		index_close(lookup->index, NoLock);
	}
}

bool
sckpt_lookup_is_unique(SckptLookup *lookup)
{
	return lookup->index && lookup->index->rd_index->indisunique;
}

static bool
same_image(LookupKey *key, TupleTableSlot *left, TupleTableSlot *right)
{
	bool		left_null;
	bool		right_null;
	Datum		a = slot_getattr(left, key->attno, &left_null);
	Datum		b = slot_getattr(right, key->attno, &right_null);

	if (left_null || right_null)
		return left_null && right_null;
	return datum_image_eq(a, b, key->by_value, key->length);
}

bool
sckpt_lookup_equal(SckptLookup *lookup, TupleTableSlot *left, TupleTableSlot *right)
{
	for (int i = 0; i < lookup->nkeys; i++)
	{
		LookupKey  *key = &lookup->keys[i];
		FunctionCallInfo call = key->call;
		Datum		result;

		if (lookup->images)
		{
			if (!same_image(key, left, right))
				return false;
			continue;
		}
		call->args[0].value = slot_getattr(left, key->attno, &call->args[0].isnull);
		call->args[1].value = slot_getattr(right, key->attno, &call->args[1].isnull);
		if (call->args[0].isnull != call->args[1].isnull)
			return false;
		if (call->args[0].isnull ||
			(key->by_value && call->args[0].value == call->args[1].value))
			continue;
		call->isnull = false;
		result = FunctionCallInvoke(call);
		if (call->isnull || !DatumGetBool(result))
			return false;
	}
	return true;
}

/*
 * Let go of row versions that nobody can see any more if the page runs out of
 * space.  Scans do that as they go, fetching by tid does not, and then no
 * update would find room on its page.  Returns true if the page may have
 * changed, with the slot cleared (nothing may point into a page that is
 * pruned).
 */
static bool
prune_page(SckptLookup *lookup, TupleTableSlot *row)
{
	Buffer		buffer = ((BufferHeapTupleTableSlot *) row)->buffer;
	BlockNumber block = BufferGetBlockNumber(buffer);
	Page		page = BufferGetPage(buffer);
	TransactionId prunable = ((PageHeader) page)->pd_prune_xid;
	Size		reserve;

	/* Cheap tests without a lock, as pruning itself begins: a wrong answer costs or saves little. */
	if (!TransactionIdIsNormal(prunable) || !TransactionIdPrecedes(prunable, TransactionXmin))
		return false;

	/*
	 * Not as soon as the page is fuller than its fillfactor, as scans do it: that would be at every update.  When
	 * there is little left, one pruning makes room for many.  What is little differs from page to page, or those of rows that change
	 * at each checkpoint would all be pruned in the same one.
	 */
	reserve = RelationGetTargetPageFreeSpace(lookup->relation, HEAP_DEFAULT_FILLFACTOR);
	if (!PageIsFull(page) &&
		PageGetHeapFreeSpace(page) >= BLCKSZ / 20 + murmurhash32(block) % Max(BLCKSZ / 10, reserve / 8 * 5))
		return false;

	ExecClearTuple(row);
	buffer = ReadBuffer(lookup->relation, block);
	heap_page_prune_opt(lookup->relation, buffer);
	ReleaseBuffer(buffer);
	return true;
}

/* Is the block in the table, as far as is known?  Our lock keeps it from shrinking while it is open, but it may have done so before. */
static bool
has_block(SckptLookup *lookup, BlockNumber block)
{
	if (block >= lookup->nblocks)
		lookup->nblocks = RelationGetNumberOfBlocks(lookup->relation);
	return block < lookup->nblocks;
}

/*
 * Pages are pinned from one call to the next, which is before their rows' turn, so that nothing but a page of rows in both keeps us from
 * pruning.  They are not locked: what is read of them only says what the processor is asked to fetch.
 */
void
sckpt_lookup_prefetch(SckptLookup *lookup, const ItemPointerData *hints, int count)
{
	BlockNumber previous = InvalidBlockNumber;
	Buffer		buffer = InvalidBuffer;
	bool		pinned;

	if (!lookup->is_heap)
		return;
	for (int i = 0; i < lookup->nahead; i++)
	{
		Page		page = BufferGetPage(lookup->ahead_buffers[i]);
		char	   *tuple = (char *) page + ItemIdGetOffset(PageGetItemId(page, lookup->ahead_offsets[i]));

		__builtin_prefetch(tuple);
		__builtin_prefetch(tuple + 63);
		__builtin_prefetch((char *) page + ((PageHeader) page)->pd_upper - 64);
	}
	release_ahead(lookup);
	for (int i = 0; i < count; i++)
	{
		BlockNumber block = ItemPointerGetBlockNumberNoCheck(&hints[i]);
		OffsetNumber offset = ItemPointerGetOffsetNumberNoCheck(&hints[i]);

		pinned = block != previous;
		if (pinned)
		{
			buffer = has_block(lookup, block) ? PrefetchBuffer(lookup->relation, MAIN_FORKNUM, block).recent_buffer : InvalidBuffer;
			if (BufferIsValid(buffer) && !ReadRecentBuffer(sckpt_locator(lookup->relation), MAIN_FORKNUM, block, buffer))
				buffer = InvalidBuffer;
			previous = block;
		}
		if (!BufferIsValid(buffer))
			continue;
		lookup->ahead_offsets[lookup->nahead] = Min(Max(offset, FirstOffsetNumber), MaxHeapTuplesPerPage);
		__builtin_prefetch(BufferGetPage(buffer));
		__builtin_prefetch(PageGetItemId(BufferGetPage(buffer), lookup->ahead_offsets[lookup->nahead]));
		lookup->ahead_pinned[lookup->nahead] = pinned;
		lookup->ahead_buffers[lookup->nahead++] = buffer;
	}
}

static bool
find_by_hint(SckptLookup *lookup, TupleTableSlot *key, ItemPointer hint, TupleTableSlot *row)
{
	if (!has_block(lookup, ItemPointerGetBlockNumberNoCheck(hint)))
		return false;
	if (!table_tuple_fetch_row_version(lookup->relation, hint, &lookup->dirty, row))
		return false;
	if (lookup->is_heap && TTS_IS_BUFFERTUPLE(row) && prune_page(lookup, row) &&
		!table_tuple_fetch_row_version(lookup->relation, hint, &lookup->dirty, row))
		return false;
	return sckpt_lookup_equal(lookup, key, row);
}

static bool
find_by_index(SckptLookup *lookup, TupleTableSlot *key, TupleTableSlot *row)
{
	ScanKeyData scankeys[INDEX_MAX_KEYS];
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];
	bool		found = false;
	MemoryContext outer;

	GetPerTupleExprContext(lookup->estate)->ecxt_scantuple = key;
	FormIndexDatum(lookup->index_info, key, lookup->estate, values, isnull);
	for (int i = 0; i < lookup->nscankeys; i++)
	{
		scankeys[i] = isnull[i] ? lookup->nullkeys[i] : lookup->scankeys[i];
		scankeys[i].sk_argument = isnull[i] ? (Datum) 0 : values[i];

		/* What equality functions remember goes with the row: the next scan starts without. */
		scankeys[i].sk_func.fn_mcxt = GetPerTupleMemoryContext(lookup->estate);
	}

	/* A scan keeps what it allocates; only comparing the keys may run in the row's memory. */
	outer = MemoryContextSwitchTo(lookup->context);
	index_rescan(lookup->scan, scankeys, lookup->nscankeys, NULL, 0);
	while (!found && index_getnext_slot(lookup->scan, ForwardScanDirection, row))
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(outer);
		found = sckpt_lookup_equal(lookup, key, row);
		MemoryContextSwitchTo(lookup->context);
	}

	/* Let go of the pins on a page of the index and, a second one, on the row's. */
	index_rescan(lookup->scan, scankeys, lookup->nscankeys, NULL, 0);
	MemoryContextSwitchTo(outer);
	return found;
}

/* Without an index: the only row of a result without keys, or one of a bag whose index has been dropped. */
static bool
find_by_scan(SckptLookup *lookup, TupleTableSlot *key, TupleTableSlot *row)
{
	TableScanDesc scan = table_beginscan(lookup->relation, &lookup->dirty, 0, NULL);
	bool		found = false;

	while (!found && table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		CHECK_FOR_INTERRUPTS();
		found = sckpt_lookup_equal(lookup, key, row);
	}

	/* The slot may point into the scan, and shall outlive it. */
	if (found)
		ExecMaterializeSlot(row);
	table_endscan(scan);
	return found;
}

bool
sckpt_lookup_find(SckptLookup *lookup, TupleTableSlot *key, ItemPointer hint, TupleTableSlot *row)
{
	for (;;)
	{
		TransactionId busy;
		ItemPointerData where;

		CHECK_FOR_INTERRUPTS();
		if (!(ItemPointerIsValid(hint) && find_by_hint(lookup, key, hint, row)) &&
			!(lookup->index ? find_by_index(lookup, key, row) : find_by_scan(lookup, key, row)))
		{
			ExecClearTuple(row);
			return false;
		}
		busy = TransactionIdIsValid(lookup->dirty.xmin) ? lookup->dirty.xmin : lookup->dirty.xmax;
		if (!TransactionIdIsValid(busy))
			return true;

		/* Someone is writing it: hold nothing while waiting, then look what became of it. */
		where = row->tts_tid;
		ExecClearTuple(row);
		XactLockTableWait(busy, lookup->relation, &where, XLTW_Update);
	}
}
