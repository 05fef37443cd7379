/*-------------------------------------------------------------------------
 *
 * rewind.c
 *		Puts a result table of our own back to what it was at a checkpoint.
 *
 * Checkpoints are undone from the last one back to the one after the target.
 *
 * Keyed results.  A row that none of them has touched is as it was.  The others are what the state as of the target says; where it
 * says nothing, because their group has left it (its window has closed), and an earlier restore has taken the row away, they are what that restore
 * has kept; else they were not there.  Of a bag the same is said of how many rows there are of each kind.
 *
 * Appended rows are known by the xid that wrote them (the raw xmin, which freezing leaves alone).  Those of all checkpoints that are undone go;
 * what restores among them took away comes back, unless it is itself of a checkpoint that is undone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "compat.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "result.h"
#include "rewind.h"
#include "sink.h"

#define DELETE_ROWS 1000		/* at a time */

typedef struct Rewind
{
	SckptTask  *task;
	SckptJournal *journal;
	bool		images;
	MemoryContext context;
	MemoryContext scratch;
	TupleTableSlot *row;		/* of the query's row type */
} Rewind;

/* A row of the result table as the query's. */
static void
take_row(Rewind *rewind, TupleTableSlot *stored)
{
	TupleTableSlot *row = rewind->row;

	slot_getallattrs(stored);
	ExecClearTuple(row);
	for (int i = 0; i < row->tts_tupleDescriptor->natts; i++)
	{
		row->tts_values[i] = stored->tts_values[rewind->task->result_columns[i] - 1];
		row->tts_isnull[i] = stored->tts_isnull[rewind->task->result_columns[i] - 1];
	}
	ExecStoreVirtualTuple(row);
}

static MinimalTuple
copy_row(Rewind *rewind)
{
	MemoryContext old = MemoryContextSwitchTo(rewind->context);
	MinimalTuple copy = ExecCopySlotMinimalTuple(rewind->row);

	MemoryContextSwitchTo(old);
	return copy;
}

/* ---- Keyed results ---- */

/* A key that was touched. */
typedef struct Touched
{
	SckptRef	ref;			/* whose result the row is at the target */
	MinimalTuple image;			/* else what it was; NULL: it was not there */
	bool		there;			/* it is in the table */
} Touched;

typedef struct Keys
{
	TupleHashTable table;
	TupleTableSlot *key;		/* of the key columns */
	TupleTableSlot *stored;		/* for what the table holds */
	int			nkeys;
	int		   *columns;		/* of the query's row, from 0 */
	uint64		count;
} Keys;

static void
make_keys(Rewind *rewind, Keys *keys)
{
	SckptQuery *last = rewind->task->last;
	TupleDesc	desc = CreateTemplateTupleDesc(last->nsink);
	AttrNumber *numbers = palloc(Max(1, last->nsink) * sizeof(AttrNumber));
	Oid		   *operators = palloc(Max(1, last->nsink) * sizeof(Oid));
	Oid		   *collations = palloc(Max(1, last->nsink) * sizeof(Oid));
	Oid		   *equal;
	FmgrInfo   *hash;

	keys->nkeys = last->nsink;
	keys->columns = palloc(Max(1, last->nsink) * sizeof(int));
	keys->count = 0;
	for (int i = 0; i < last->nsink; i++)
	{
		keys->columns[i] = last->sink_keys[i].result_column - 1;
		TupleDescCopyEntry(desc, i + 1, last->result, last->sink_keys[i].result_column);
		numbers[i] = i + 1;
		operators[i] = last->sink_keys[i].eq_op;
		collations[i] = last->sink_keys[i].collation;
	}
	execTuplesHashPrepare(last->nsink, operators, &equal, &hash);
	keys->table = sckpt_build_tuple_hash(desc, &TTSOpsVirtual, last->nsink, numbers, equal, hash, collations, sizeof(Touched),
										 rewind->context, rewind->scratch);
	keys->key = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	keys->stored = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
}

/* The key of the row at hand, if it was touched; or a new one. */
static Touched *
find_key(Rewind *rewind, Keys *keys, bool add)
{
	TupleHashEntry entry;
	bool		isnew = false;

	ExecClearTuple(keys->key);
	for (int i = 0; i < keys->nkeys; i++)
	{
		keys->key->tts_values[i] = rewind->row->tts_values[keys->columns[i]];
		keys->key->tts_isnull[i] = rewind->row->tts_isnull[keys->columns[i]];
	}
	ExecStoreVirtualTuple(keys->key);
	entry = LookupTupleHashEntry(keys->table, keys->key, add ? &isnew : NULL, NULL);
	if (entry == NULL)
		return NULL;
	if (isnew)
	{
		sckpt_init_tuple_hash_entry(keys->table, entry, sizeof(Touched), rewind->context);
		keys->count++;
	}
	return sckpt_tuple_hash_additional(keys->table, entry);
}

/* From the last checkpoint back: the oldest word counts. */
static void
read_keys(Rewind *rewind, Keys *keys)
{
	SckptJournalPart part = {.checkpoint = PG_INT64_MAX};
	MemoryContext context = AllocSetContextCreate(rewind->context, "stream_ckpt touched keys", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	while (sckpt_journal_read(rewind->journal, rewind->task->def->last_checkpoint, &part))
	{
		const char *cursor;
		const char *end;
		TransactionId xid;

		if (part.bytes == NULL)
			continue;
		sckpt_journal_begin(rewind->journal, &part, &cursor, &end);
		while (sckpt_journal_next(rewind->journal, &part, &cursor, end, rewind->row, &xid))
		{
			Touched    *touched = find_key(rewind, keys, true);

			if (touched->image)
				pfree(touched->image);
			touched->image = part.images ? copy_row(rewind) : NULL;
		}
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Which of them the state as of the target has a row for. */
static void
ask_state(Rewind *rewind, Keys *keys)
{
	SckptOperator *last = sckpt_task_last(rewind->task);
	uint64		cursor = 0;
	SckptRef	ref;

	while ((ref = sckpt_state_next(last->state, &cursor)) != SCKPT_NO_REF)
	{
		SckptEntry *entry = sckpt_state_address(last->state, ref);
		MemoryContext old;
		Touched    *touched;

		CHECK_FOR_INTERRUPTS();
		if (!(entry->flags & SCKPT_ENTRY_EMITTED))
			continue;
		old = MemoryContextSwitchTo(rewind->scratch);
		last->key_row(last, ref, rewind->row);
		touched = find_key(rewind, keys, false);
		if (touched)
			touched->ref = ref;
		MemoryContextSwitchTo(old);
		MemoryContextReset(rewind->scratch);
	}
}

/* What is in the table now, before it changes. */
static void
keep_images(Rewind *rewind, Keys *keys)
{
	Relation	relation = table_open(rewind->task->def->result, AccessShareLock);
	TableScanDesc scan = table_beginscan(relation, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(relation, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(rewind->scratch);
		Touched    *touched;

		CHECK_FOR_INTERRUPTS();
		take_row(rewind, slot);
		touched = find_key(rewind, keys, false);
		if (touched)
		{
			touched->there = true;
			if (rewind->images)
				sckpt_journal_add_image(rewind->journal, rewind->row, InvalidTransactionId);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(rewind->scratch);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(relation, AccessShareLock);
}

static void
fill_sink(Rewind *rewind, SckptSink *sink, TupleTableSlot *row)
{
	slot_getallattrs(row);
	sckpt_result_fill(rewind->task, sckpt_sink_slot(sink), row);
}

/* The key of an entry as a row, and as a key only into the journal unless its image is there. */
static void
load_key(Rewind *rewind, Keys *keys, TupleHashEntry entry)
{
	ExecStoreMinimalTuple(entry->firstTuple, keys->stored, false);
	slot_getallattrs(keys->stored);
	ExecClearTuple(rewind->row);
	memset(rewind->row->tts_isnull, true, rewind->row->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < keys->nkeys; i++)
	{
		rewind->row->tts_values[keys->columns[i]] = keys->stored->tts_values[i];
		rewind->row->tts_isnull[keys->columns[i]] = keys->stored->tts_isnull[i];
	}
	ExecStoreVirtualTuple(rewind->row);
}

/* Rows that are not to be there go before others come. */
static void
delete_rows(Rewind *rewind, Keys *keys, SckptSink *sink)
{
	TupleHashIterator iterator;
	TupleHashEntry entry;
	ItemPointerData nowhere;

	ItemPointerSetInvalid(&nowhere);
	InitTupleHashIterator(keys->table, &iterator);
	while ((entry = ScanTupleHashTable(keys->table, &iterator)) != NULL)
	{
		Touched    *touched = sckpt_tuple_hash_additional(keys->table, entry);
		MemoryContext old = MemoryContextSwitchTo(rewind->scratch);

		CHECK_FOR_INTERRUPTS();
		load_key(rewind, keys, entry);
		if (!touched->there || !rewind->images)
			sckpt_journal_add_key(rewind->journal, rewind->row);
		if (touched->ref == SCKPT_NO_REF && touched->image == NULL)
		{
			fill_sink(rewind, sink, rewind->row);
			sckpt_sink_delete(sink, &nowhere);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(rewind->scratch);
	}
	TermTupleHashIterator(&iterator);
}

static void
put_rows(Rewind *rewind, Keys *keys, SckptSink *sink)
{
	SckptOperator *last = sckpt_task_last(rewind->task);
	TupleTableSlot *image = MakeSingleTupleTableSlot(rewind->task->last->result, &TTSOpsMinimalTuple);
	TupleHashIterator iterator;
	TupleHashEntry entry;

	last->begin_results(last);
	InitTupleHashIterator(keys->table, &iterator);
	while ((entry = ScanTupleHashTable(keys->table, &iterator)) != NULL)
	{
		Touched    *touched = sckpt_tuple_hash_additional(keys->table, entry);
		TupleTableSlot *row = image;
		ItemPointerData tid;

		CHECK_FOR_INTERRUPTS();
		if (touched->ref == SCKPT_NO_REF && touched->image == NULL)
			continue;
		if (touched->ref == SCKPT_NO_REF)
			ExecStoreMinimalTuple(touched->image, image, false);
		else if (!last->result(last, touched->ref, &row))
			elog(ERROR, "a group has no result that it had");
		fill_sink(rewind, sink, row);
		ItemPointerSetInvalid(&tid);
		sckpt_sink_put(sink, &tid, true, &tid);
	}
	TermTupleHashIterator(&iterator);
	last->end_results(last);
	ExecDropSingleTupleTableSlot(image);
}

static void
rewind_keyed(Rewind *rewind)
{
	SckptTask  *task = rewind->task;
	Keys		keys;
	SckptSink  *sink;

	make_keys(rewind, &keys);
	read_keys(rewind, &keys);
	if (keys.count > 0)
	{
		ask_state(rewind, &keys);
		if (rewind->images)
			keep_images(rewind, &keys);
		sink = sckpt_sink_open(task->def->result, task->last->nsink, task->key_columns, false);
		sckpt_sink_set_columns(sink, task->last->result->natts, task->result_columns);
		delete_rows(rewind, &keys, sink);
		put_rows(rewind, &keys, sink);
		sckpt_sink_close(sink);
	}
	ExecDropSingleTupleTableSlot(keys.key);
	ExecDropSingleTupleTableSlot(keys.stored);
}

/* ---- Appended rows ---- */

/* A checkpoint that is undone. */
typedef struct Appended
{
	int64		checkpoint;
	Oid			filenode;
	int64		rows;			/* it has appended */
	int64		found;
} Appended;

/* What it has written as. */
typedef struct Writer
{
	TransactionId xid;			/* hash key */
	Appended   *appended;
} Writer;

typedef struct Removed
{
	TransactionId xid;			/* that had appended it */
	MinimalTuple row;
} Removed;

static void
read_writers(Rewind *rewind, HTAB *writers, List **appended, List **removed)
{
	SckptJournalPart part = {.checkpoint = PG_INT64_MAX};
	MemoryContext context = AllocSetContextCreate(rewind->context, "stream_ckpt appended rows", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	while (sckpt_journal_read(rewind->journal, rewind->task->def->last_checkpoint, &part))
	{
		const char *cursor;
		const char *end;
		TransactionId xid;

		if (part.head.xids)
		{
			Appended   *one = MemoryContextAllocZero(rewind->context, sizeof(Appended));
			Datum	   *xids;
			int			nxids;

			one->checkpoint = part.checkpoint;
			one->filenode = part.head.filenode;
			one->rows = part.head.rows;
			MemoryContextSwitchTo(rewind->context);
			*appended = lappend(*appended, one);
			MemoryContextSwitchTo(context);
			deconstruct_array(DatumGetArrayTypeP(part.head.xids), XIDOID, sizeof(TransactionId), true, TYPALIGN_INT,
							  &xids, NULL, &nxids);
			for (int i = 0; i < nxids; i++)
			{
				xid = DatumGetTransactionId(xids[i]);
				((Writer *) hash_search(writers, &xid, HASH_ENTER, NULL))->appended = one;
			}
		}
		if (part.bytes)
		{
			sckpt_journal_begin(rewind->journal, &part, &cursor, &end);
			while (sckpt_journal_next(rewind->journal, &part, &cursor, end, rewind->row, &xid))
			{
				Removed    *one = MemoryContextAlloc(rewind->context, sizeof(Removed));

				one->xid = xid;
				one->row = copy_row(rewind);
				MemoryContextSwitchTo(rewind->context);
				*removed = lappend(*removed, one);
				MemoryContextSwitchTo(context);
			}
		}
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static void
delete_tids(Rewind *rewind, Datum *tids, int ntids)
{
	Oid			result = rewind->task->def->result;
	Oid			types[1] = {TIDARRAYOID};
	Datum		values[1];
	char	   *sql = psprintf("DELETE FROM ONLY %s WHERE ctid = ANY ($1)",
							   quote_qualified_identifier(get_namespace_name(get_rel_namespace(result)), get_rel_name(result)));

	if (ntids == 0)
		return;
	values[0] = PointerGetDatum(construct_array(tids, ntids, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not take rows back");
	SPI_finish();
}

/* All of them are found before the first one goes. */
static List *
find_rows(Rewind *rewind, HTAB *writers, Oid *filenode)
{
	Relation	relation = table_open(rewind->task->def->result, AccessShareLock);
	TableScanDesc scan = table_beginscan(relation, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	List	   *found = NIL;

	*filenode = relation->rd_rel->relfilenode;
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		TransactionId xid = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull));
		Writer	   *writer = hash_search(writers, &xid, HASH_FIND, NULL);
		MemoryContext old;
		ItemPointer tid;

		CHECK_FOR_INTERRUPTS();
		if (writer == NULL)
			continue;
		writer->appended->found++;
		old = MemoryContextSwitchTo(rewind->context);
		tid = palloc(sizeof(ItemPointerData));
		*tid = slot->tts_tid;
		found = lappend(found, tid);
		MemoryContextSwitchTo(rewind->scratch);
		if (rewind->images)
		{
			take_row(rewind, slot);
			sckpt_journal_add_image(rewind->journal, rewind->row, xid);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(rewind->scratch);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	return found;
}

/* In a subtransaction, so that they have an xid that nothing else has. */
static void
append_rows(Rewind *rewind, HTAB *writers, List *removed, SckptJournalHead *head)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext context = CurrentMemoryContext;
	TupleTableSlot *slot;
	SckptAppender *appender;
	ListCell   *lc;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	appender = sckpt_appender_open(rewind->task, false);
	slot = MakeSingleTupleTableSlot(rewind->task->last->result, &TTSOpsMinimalTuple);
	foreach(lc, removed)
	{
		Removed    *one = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (hash_search(writers, &one->xid, HASH_FIND, NULL) != NULL)
			continue;
		ExecStoreMinimalTuple(one->row, slot, false);
		sckpt_appender_put(appender, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	head->rows = sckpt_appender_close(appender);
	head->xids = sckpt_journal_xids();
	ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

static void
rewind_appended(Rewind *rewind, SckptJournalHead *head)
{
	HASHCTL		ctl = {.keysize = sizeof(TransactionId),.entrysize = sizeof(Writer),.hcxt = rewind->context};
	HTAB	   *writers = hash_create("stream_ckpt appended rows", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	List	   *appended = NIL;
	List	   *removed = NIL;
	List	   *found;
	Datum		tids[DELETE_ROWS];
	int			ntids = 0;
	ListCell   *lc;

	read_writers(rewind, writers, &appended, &removed);
	found = find_rows(rewind, writers, &head->filenode);
	foreach(lc, removed)
	{
		Removed    *one = lfirst(lc);
		Writer	   *writer = hash_search(writers, &one->xid, HASH_FIND, NULL);

		if (writer)
			writer->appended->found++;
	}

	/* A table that was written anew (ALTER TABLE) has forgotten who wrote its rows. Rows that somebody has deleted are no loss. */
	foreach(lc, appended)
	{
		Appended   *one = lfirst(lc);

		if (one->filenode != head->filenode && one->found < one->rows)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the rows that pipeline \"%s\" appended with checkpoint " INT64_FORMAT " cannot be told any more",
							rewind->task->def->name, one->checkpoint),
					 errdetail("Its result has been rewritten since: " INT64_FORMAT " of " INT64_FORMAT " rows are found.",
							   one->found, one->rows),
					 errhint("With keep_results => true the pipeline is restored without its result.")));
	}
	foreach(lc, found)
	{
		tids[ntids++] = PointerGetDatum(lfirst(lc));
		if (ntids == DELETE_ROWS || lnext(found, lc) == NULL)
		{
			delete_tids(rewind, tids, ntids);
			ntids = 0;
		}
	}
	if (removed)
		append_rows(rewind, writers, removed, head);
}

void
sckpt_rewind(SckptTask *task, SckptJournal *journal, bool images, SckptJournalHead *head)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt rewind", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Rewind		rewind = {task, journal, images, context, NULL, NULL};

	rewind.scratch = AllocSetContextCreate(context, "stream_ckpt rewound row", ALLOCSET_DEFAULT_SIZES);
	rewind.row = MakeSingleTupleTableSlot(task->last->result, &TTSOpsVirtual);
	if (task->last->grouped && !task->last->bag)
		rewind_keyed(&rewind);
	else
		rewind_appended(&rewind, head);
	ExecDropSingleTupleTableSlot(rewind.row);
	MemoryContextSwitchTo(old);
	if (head->xids)
		head->xids = PointerGetDatum(DatumGetArrayTypePCopy(head->xids));
	MemoryContextDelete(context);
}
