/*-------------------------------------------------------------------------
 *
 * vacancy.c
 *		Rows of a keyed result whose entries have gone, for entries that come
 *		with the same key in the sink.
 *
 * Where the sink's key is not that of the entries, as a partition and a row number, the row of one entry often takes the place of another one's: then it is
 * updated, which needs no work on indexes where there is room on its page, instead of being deleted and inserted.  So rows that go wait here until all
 * that come have been written.
 *
 * Not where the table has other unique indexes: two rows that change places would be in each other's way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "checkpoint_private.h"
#include "compat.h"
#include "query.h"
#include "result.h"
#include "retain.h"
#include "vacancy.h"

typedef struct Vacancy
{
	ItemPointerData tid;
	bool		taken;
} Vacancy;

struct SckptVacancies
{
	MemoryContext context;		/* everything here */
	MemoryContext scratch;
	SckptTask  *task;
	SckptSink  *sink;
	TupleHashTable table;
	TupleTableSlot *key;		/* of the key columns */
	TupleTableSlot *stored;
	TupleTableSlot *row;		/* of the query's row type */
	int			nkeys;
	int		   *columns;		/* of the query's row, from 0 */
	uint64		count;
};

SckptVacancies *
sckpt_vacancies_create(SckptTask *task, SckptSink *sink)
{
	SckptQuery *last = task->last;
	SckptVacancies *vacancies;
	MemoryContext context;
	MemoryContext old;
	TupleDesc	desc;
	AttrNumber *numbers;
	Oid		   *operators;
	Oid		   *collations;
	Oid		   *equal;
	FmgrInfo   *hash;

	if (!sckpt_query_has_other_sink_key(last) || last->bag || last->nsink == 0 || !sckpt_sink_is_sole_arbiter(sink))
		return NULL;
	context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt vacant rows", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	vacancies = palloc0(sizeof(SckptVacancies));
	vacancies->context = context;
	vacancies->task = task;
	vacancies->sink = sink;
	vacancies->scratch = AllocSetContextCreate(context, "stream_ckpt vacant row", ALLOCSET_SMALL_SIZES);
	vacancies->nkeys = last->nsink;
	vacancies->columns = palloc(last->nsink * sizeof(int));
	desc = CreateTemplateTupleDesc(last->nsink);
	numbers = palloc(last->nsink * sizeof(AttrNumber));
	operators = palloc(last->nsink * sizeof(Oid));
	collations = palloc(last->nsink * sizeof(Oid));
	for (int i = 0; i < last->nsink; i++)
	{
		vacancies->columns[i] = last->sink_keys[i].result_column - 1;
		TupleDescCopyEntry(desc, i + 1, last->result, last->sink_keys[i].result_column);
		numbers[i] = i + 1;
		operators[i] = last->sink_keys[i].eq_op;
		collations[i] = last->sink_keys[i].collation;
	}
	execTuplesHashPrepare(last->nsink, operators, &equal, &hash);
	vacancies->table = sckpt_build_tuple_hash(desc, &TTSOpsVirtual, last->nsink, numbers, equal, hash, collations, sizeof(Vacancy),
											  context, vacancies->scratch);
	vacancies->key = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	vacancies->stored = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	vacancies->row = MakeSingleTupleTableSlot(last->result, &TTSOpsVirtual);
	MemoryContextSwitchTo(old);
	return vacancies;
}

static void
load_key(SckptVacancies *vacancies, TupleTableSlot *row)
{
	slot_getallattrs(row);
	ExecClearTuple(vacancies->key);
	for (int i = 0; i < vacancies->nkeys; i++)
	{
		vacancies->key->tts_values[i] = row->tts_values[vacancies->columns[i]];
		vacancies->key->tts_isnull[i] = row->tts_isnull[vacancies->columns[i]];
	}
	ExecStoreVirtualTuple(vacancies->key);
}

void
sckpt_vacancies_add(SckptVacancies *vacancies, TupleTableSlot *row, ItemPointer tid)
{
	TupleHashEntry entry;
	Vacancy    *vacancy;
	bool		isnew;

	load_key(vacancies, row);
	entry = LookupTupleHashEntry(vacancies->table, vacancies->key, &isnew, NULL);
	if (isnew)
	{
		sckpt_init_tuple_hash_entry(vacancies->table, entry, sizeof(Vacancy), vacancies->context);
		vacancies->count++;
	}
	vacancy = sckpt_tuple_hash_additional(vacancies->table, entry);
	vacancy->tid = *tid;
	MemoryContextReset(vacancies->scratch);
}

bool
sckpt_vacancies_take(SckptVacancies *vacancies, TupleTableSlot *row, ItemPointer tid)
{
	TupleHashEntry entry;
	Vacancy    *vacancy;

	if (vacancies->count == 0)
		return false;
	load_key(vacancies, row);
	entry = LookupTupleHashEntry(vacancies->table, vacancies->key, NULL, NULL);
	MemoryContextReset(vacancies->scratch);
	if (entry == NULL)
		return false;
	vacancy = sckpt_tuple_hash_additional(vacancies->table, entry);
	if (vacancy->taken)
		return false;
	vacancy->taken = true;
	*tid = vacancy->tid;
	return true;
}

/* Nobody has taken its place. */
static void
delete_row(SckptVacancies *vacancies, TupleTableSlot *row, ItemPointer tid)
{
	SckptTask  *task = vacancies->task;

	sckpt_result_fill(task, sckpt_sink_slot(vacancies->sink), row);
	sckpt_retain_touch(task, row);
	(void) sckpt_sink_delete(vacancies->sink, tid);
	task->attempt->rows_out++;
}

void
sckpt_vacancies_close(SckptVacancies *vacancies)
{
	TupleHashIterator iterator;
	TupleHashEntry entry;

	InitTupleHashIterator(vacancies->table, &iterator);
	while ((entry = ScanTupleHashTable(vacancies->table, &iterator)) != NULL)
	{
		Vacancy    *vacancy = sckpt_tuple_hash_additional(vacancies->table, entry);
		TupleTableSlot *row = vacancies->row;

		CHECK_FOR_INTERRUPTS();
		if (vacancy->taken)
			continue;
		ExecStoreMinimalTuple(entry->firstTuple, vacancies->stored, false);
		slot_getallattrs(vacancies->stored);
		ExecClearTuple(row);
		memset(row->tts_isnull, true, row->tts_tupleDescriptor->natts * sizeof(bool));
		for (int i = 0; i < vacancies->nkeys; i++)
		{
			row->tts_values[vacancies->columns[i]] = vacancies->stored->tts_values[i];
			row->tts_isnull[vacancies->columns[i]] = vacancies->stored->tts_isnull[i];
		}
		ExecStoreVirtualTuple(row);
		delete_row(vacancies, row, &vacancy->tid);
	}
	TermTupleHashIterator(&iterator);
	ExecDropSingleTupleTableSlot(vacancies->row);
	ExecDropSingleTupleTableSlot(vacancies->stored);
	ExecDropSingleTupleTableSlot(vacancies->key);
	MemoryContextDelete(vacancies->context);
}
