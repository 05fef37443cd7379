/*-------------------------------------------------------------------------
 *
 * lookup.c
 *		SQL over the rows of a stage: tables joined with, and sub-selects over, what
 *		has been joined, grouped or ranked before.
 *
 * The rows that a barrier brings are numbered, and given to the stage's SQL as one relation: the tables are read once for all of them.  The SQL puts
 * out the columns that it has looked up, and the number of the row that they belong to.  It is planned for few rows and for more: a plan keeps what it expects.
 *
 * A table changes without telling.  So a row that is taken back must take back what it has looked up, not what it would look up now: where rows of the stage
 * below can be taken back, what each has given is kept.  An entry is
 *
 *		SckptEntry | weight | length, number of results | the row | the results: MinimalTuples
 *
 * found by the row's image.  The same row that comes twice looks up twice, and has two entries if that gives something else; which one goes first does
 * not matter.  A row that has given nothing is not kept: when it is taken back and is not found, there is nothing to do.
 *
 * Over rows that stay nothing is kept at all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "changes.h"
#include "codec.h"
#include "compat.h"
#include "join.h"
#include "lookup.h"

#define RUN_BYTES (16 * 1024 * 1024)	/* of rows that wait for the SQL */
#define STORE_KB (8 * 1024)
#define PLANS 4					/* for up to 1,000 rows, 10,000, 100,000, and more */

/* A row that has looked something up. */
typedef struct KeptRow
{
	SckptEntry	entry;
	int64		weight;			/* 0: GONE (operator.h), until the next checkpoint */
	uint32		length;			/* of what follows */
	uint32		nresults;
	/* MAXALIGNed: MinimalTuples, each at its own alignment */
} KeptRow;

#define KEPT_HEADER MAXALIGN(sizeof(KeptRow))

/* A row that waits for the SQL. */
typedef struct Waiting
{
	MinimalTuple row;
	int32		weight;
	uint32		nresults;
	uint32		space;
	MinimalTuple *results;		/* where they are to be kept */
} Waiting;

/* One side of the joined row: what comes from below, or what is looked up. */
typedef struct LookupSide
{
	TupleDesc	desc;
	TupleTableSlot *slot;
	SckptCodec *codecs;
	Datum	   *values;
	bool	   *nulls;
} LookupSide;

typedef struct LookupOperator
{
	SckptOperator operator;
	MemoryContext context;
	MemoryContext row_context;
	MemoryContext waiting_context;	/* rows that wait, and what they have found */
	SckptQuery *query;
	bool		keeps;			/* rows can be taken back */
	LookupSide	sides[2];
	TupleDesc	numbered;		/* a row of the SQL's relation: the columns of a row, and its number */
	SPIPlanPtr	plans[PLANS];	/* for few rows and for more; NULL until first run */
	Waiting    *waiting;		/* in `context` */
	uint64		nwaiting;
	uint64		space;
	EState	   *estate;
	ExprContext *econtext;
	ExprState  *filter;
	ExprState  *copies;
	ProjectionInfo *projection;
	SckptChanges *changes;
} LookupOperator;

/* Takes what the SQL puts out. */
typedef struct LookupReceiver
{
	DestReceiver pub;
	LookupOperator *lookup;
} LookupReceiver;

static inline KeptRow *
row_at(LookupOperator *lookup, SckptRef ref)
{
	return (KeptRow *) sckpt_state_address(lookup->operator.state, ref);
}

static inline char *
image_of(KeptRow *row)
{
	return (char *) row + KEPT_HEADER;
}

static inline MinimalTuple
next_tuple(MinimalTuple tuple)
{
	return (MinimalTuple) ((char *) tuple + MAXALIGN(tuple->t_len));
}

/* ---- Rows ---- */

static MinimalTuple
form_tuple(LookupSide *side)
{
	for (int i = 0; i < side->desc->natts; i++)
	{
		struct varlena *value = (struct varlena *) DatumGetPointer(side->values[i]);

		if (!side->nulls[i] && TupleDescAttr(side->desc, i)->attlen == -1 && (VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value)))
			side->values[i] = PointerGetDatum(detoast_attr(value));
	}
	return heap_form_minimal_tuple(side->desc, side->values, side->nulls, 0);
}

static uint32
row_hash(MinimalTuple row)
{
	return murmurhash32(hash_bytes((unsigned char *) row + SizeofMinimalTupleHeader, row->t_len - SizeofMinimalTupleHeader));
}

/* Row and results, one after the other. */
static char *
make_image(MinimalTuple row, MinimalTuple *results, uint32 nresults, uint32 *length)
{
	Size		bytes = MAXALIGN(row->t_len);
	char	   *image;
	char	   *at;

	for (uint32 i = 0; i < nresults; i++)
		bytes += MAXALIGN(results[i]->t_len);
	if (bytes > MaxAllocSize)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a row finds too much in the tables that it is joined with"),
				 errdetail("What it finds must not exceed 1 GB.")));
	image = at = palloc0(bytes);
	memcpy(at, row, row->t_len);
	at += MAXALIGN(row->t_len);
	for (uint32 i = 0; i < nresults; i++)
	{
		memcpy(at, results[i], results[i]->t_len);
		at += MAXALIGN(results[i]->t_len);
	}
	*length = bytes;
	return image;
}

static SckptRef
find_kept(LookupOperator *lookup, uint32 hash, const char *image, uint32 length)
{
	SckptProbe	probe;
	SckptRef	ref;

	for (ref = sckpt_state_probe(lookup->operator.state, hash, &probe); ref != SCKPT_NO_REF; ref = sckpt_state_probe_next(&probe))
	{
		KeptRow    *row = row_at(lookup, ref);

		if (row->length == length && memcmp(image_of(row), image, length) == 0)
			break;
	}
	return ref;
}

static SckptRef
add_kept(LookupOperator *lookup, uint32 hash, const char *image, uint32 length, uint32 nresults)
{
	SckptRef	ref = sckpt_state_insert(lookup->operator.state, hash, KEPT_HEADER - SCKPT_ENTRY_HEADER + length);
	KeptRow    *row = row_at(lookup, ref);

	row->length = length;
	row->nresults = nresults;
	memcpy(image_of(row), image, length);
	return ref;
}

static void
weigh(LookupOperator *lookup, SckptRef ref, int64 change)
{
	KeptRow    *row = row_at(lookup, ref);

	row->weight += change;
	sckpt_state_mark_dirty(lookup->operator.state, ref);
	row->entry.flags &= ~SCKPT_ENTRY_REWRITE;
	if (row->weight == 0)
		row->entry.flags |= SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE;
	else
		row->entry.flags &= ~(SCKPT_ENTRY_LEAVING | SCKPT_ENTRY_GONE);
}

/* ---- Putting out ---- */

/* Hand on a row with what it has found. */
static void
put(LookupOperator *lookup, MinimalTuple row, MinimalTuple found, int64 weight)
{
	ResetExprContext(lookup->econtext);
	ExecStoreMinimalTuple(row, lookup->sides[0].slot, false);
	ExecStoreMinimalTuple(found, lookup->sides[1].slot, false);
	lookup->econtext->ecxt_outertuple = lookup->sides[0].slot;
	lookup->econtext->ecxt_innertuple = lookup->sides[1].slot;
	if (lookup->filter && !ExecQual(lookup->filter, lookup->econtext))
		return;
	if (lookup->copies)
	{
		bool		isnull;
		Datum		copies = ExecEvalExprSwitchContext(lookup->copies, lookup->econtext, &isnull);

		if (isnull)
			return;
		if (pg_mul_s64_overflow(weight, DatumGetInt64(copies), &weight))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("a row is in a join too often")));
	}
	sckpt_changes_add(lookup->changes, ExecProject(lookup->projection), weight);
}

/* A row is taken back, with what it has found. */
static void
take_back(LookupOperator *lookup, MinimalTuple row, int64 weight)
{
	uint32		hash = row_hash(row);
	SckptProbe	probe;

	for (SckptRef ref = sckpt_state_probe(lookup->operator.state, hash, &probe); ref != SCKPT_NO_REF && weight > 0;
		 ref = sckpt_state_probe_next(&probe))
	{
		KeptRow    *kept = row_at(lookup, ref);
		MinimalTuple tuple = (MinimalTuple) image_of(kept);
		int64		part = Min(weight, kept->weight);

		if (part == 0 || tuple->t_len != row->t_len || memcmp(tuple, row, row->t_len) != 0)
			continue;
		for (uint32 i = 0; i < kept->nresults; i++)
		{
			CHECK_FOR_INTERRUPTS();
			tuple = next_tuple(tuple);
			put(lookup, (MinimalTuple) image_of(kept), tuple, -part);
		}
		weigh(lookup, ref, -part);
		weight -= part;
	}
}

/* ---- Looking up ---- */

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	LookupOperator *lookup = ((LookupReceiver *) self)->lookup;
	LookupSide *side = &lookup->sides[1];
	int			natts = side->desc->natts;
	MemoryContext old;
	Waiting    *waiting;
	MinimalTuple found;

	slot_getallattrs(slot);
	waiting = &lookup->waiting[DatumGetInt64(slot->tts_values[natts])];
	memcpy(side->values, slot->tts_values, natts * sizeof(Datum));
	memcpy(side->nulls, slot->tts_isnull, natts * sizeof(bool));
	old = MemoryContextSwitchTo(lookup->row_context);
	found = form_tuple(side);
	if (lookup->keeps)
	{
		MemoryContextSwitchTo(lookup->waiting_context);
		if (waiting->nresults == waiting->space)
		{
			waiting->space = Max(4, 2 * waiting->space);
			waiting->results = waiting->results ? repalloc_huge(waiting->results, waiting->space * sizeof(MinimalTuple)) :
				palloc(waiting->space * sizeof(MinimalTuple));
		}
		waiting->results[waiting->nresults++] = heap_copy_minimal_tuple(found, 0);
	}
	else
		put(lookup, waiting->row, found, waiting->weight);
	MemoryContextSwitchTo(old);
	MemoryContextReset(lookup->row_context);
	return true;
}

/* A view or table may have changed under a cached plan: what is kept has fixed types. */
static void
receive_startup(DestReceiver *self, int operation, TupleDesc type)
{
	TupleDesc	desc = ((LookupReceiver *) self)->lookup->sides[1].desc;

	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(type, i)->atttypid != TupleDescAttr(desc, i)->atttypid)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("an expression of the query has changed its type to %s", format_type_be(TupleDescAttr(type, i)->atttypid)),
					 errhint("Drop the pipeline and create it anew, or change the type back.")));
	}
}

static void
receive_nothing(DestReceiver *self)
{
}

static TupleDesc
numbered_desc(TupleDesc row)
{
	TupleDesc	desc = CreateTemplateTupleDesc(row->natts + 1);

	for (int i = 1; i <= row->natts; i++)
	{
		TupleDescCopyEntry(desc, i, row, i);
		namestrcpy(&TupleDescAttr(desc, i - 1)->attname, psprintf("c%d", i));
	}
	TupleDescInitEntry(desc, row->natts + 1, "number", INT8OID, -1, 0);
	return desc;
}

static void
register_rows(TupleDesc desc, Tuplestorestate *rows, double count)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = SCKPT_LOOKUP_ROWS;
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = count;
	relation->reldata = rows;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows of a stage");
}

void
sckpt_lookup_register(SckptQuery *query, Tuplestorestate *rows)
{
	register_rows(numbered_desc(query->join->rows[0]), rows ? rows : tuplestore_begin_heap(false, false, STORE_KB), 1000);
}

/* Run the SQL over the rows that wait. */
static void
run(LookupOperator *lookup)
{
	LookupReceiver dest = {{receive_row, receive_startup, receive_nothing, receive_nothing, DestNone}, lookup};
	SPIExecuteOptions options = {0};
	LookupSide *side = &lookup->sides[0];
	int			natts = side->desc->natts;
	SPIPlanPtr *plan = lookup->plans;
	Tuplestorestate *rows;
	int			rc;

	if (lookup->nwaiting == 0)
		return;
	for (uint64 few = 1000; lookup->nwaiting > few && plan < &lookup->plans[PLANS - 1]; few *= 10)
		plan++;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	rows = tuplestore_begin_heap(false, false, STORE_KB);
	for (uint64 i = 0; i < lookup->nwaiting; i++)
	{
		Datum	   *values = side->values;

		CHECK_FOR_INTERRUPTS();
		ExecStoreMinimalTuple(lookup->waiting[i].row, side->slot, false);
		slot_getallattrs(side->slot);
		memcpy(values, side->slot->tts_values, natts * sizeof(Datum));
		memcpy(side->nulls, side->slot->tts_isnull, natts * sizeof(bool));
		values[natts] = Int64GetDatum((int64) i);
		side->nulls[natts] = false;
		tuplestore_putvalues(rows, lookup->numbered, values, side->nulls);
	}
	register_rows(lookup->numbered, rows, lookup->nwaiting);
	if (*plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare(lookup->query->join->lookup, 0, NULL);

		if (prepared == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", lookup->query->join->lookup, SPI_result_code_string(SPI_result));
		if (SPI_keepplan(prepared) != 0)
			elog(ERROR, "SPI_keepplan failed");
		*plan = prepared;
	}
	options.dest = (DestReceiver *) &dest;
	rc = SPI_execute_plan_extended(*plan, &options);
	if (rc < 0)
		elog(ERROR, "could not run \"%s\": %s", lookup->query->join->lookup, SPI_result_code_string(rc));
	tuplestore_end(rows);
	SPI_finish();

	for (uint64 i = 0; i < lookup->nwaiting && lookup->keeps; i++)
	{
		Waiting    *waiting = &lookup->waiting[i];
		MemoryContext old = MemoryContextSwitchTo(lookup->row_context);
		uint32		hash;
		uint32		length;
		char	   *image;
		SckptRef	ref;

		CHECK_FOR_INTERRUPTS();
		if (waiting->nresults > 0)
		{
			image = make_image(waiting->row, waiting->results, waiting->nresults, &length);
			hash = row_hash(waiting->row);
			ref = find_kept(lookup, hash, image, length);
			if (ref == SCKPT_NO_REF)
				ref = add_kept(lookup, hash, image, length, waiting->nresults);
			weigh(lookup, ref, waiting->weight);
			for (uint32 n = 0; n < waiting->nresults; n++)
				put(lookup, waiting->row, waiting->results[n], waiting->weight);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(lookup->row_context);
	}
	ExecClearTuple(lookup->sides[0].slot);
	ExecClearTuple(lookup->sides[1].slot);
	lookup->nwaiting = 0;
	MemoryContextReset(lookup->waiting_context);
}

/* ---- Taking rows ---- */

static void
lookup_begin_rows(SckptOperator *operator, const SckptInput *input, const SckptTimes *times)
{
}

static void
lookup_nothing(SckptOperator *operator)
{
}

static void
lookup_consume(SckptOperator *operator, TupleTableSlot *slot, int32 weight)
{
	LookupOperator *lookup = (LookupOperator *) operator;
	LookupSide *side = &lookup->sides[0];
	MemoryContext old = MemoryContextSwitchTo(lookup->row_context);
	MinimalTuple row;

	slot_getallattrs(slot);
	memcpy(side->values, slot->tts_values, side->desc->natts * sizeof(Datum));
	memcpy(side->nulls, slot->tts_isnull, side->desc->natts * sizeof(bool));
	row = form_tuple(side);
	if (weight < 0)
		take_back(lookup, row, -(int64) weight);
	else
	{
		Waiting    *waiting;

		if (lookup->nwaiting == lookup->space)
		{
			lookup->space = Max(256, 2 * lookup->space);
			lookup->waiting = lookup->waiting ? repalloc_huge(lookup->waiting, lookup->space * sizeof(Waiting)) :
				MemoryContextAllocHuge(lookup->context, lookup->space * sizeof(Waiting));
		}
		waiting = &lookup->waiting[lookup->nwaiting++];
		memset(waiting, 0, sizeof(Waiting));
		MemoryContextSwitchTo(lookup->waiting_context);
		waiting->row = heap_copy_minimal_tuple(row, 0);
		waiting->weight = weight;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(lookup->row_context);
	if (MemoryContextMemAllocated(lookup->waiting_context, false) > RUN_BYTES)
		run(lookup);
}

static void
lookup_end_rows(SckptOperator *operator)
{
	run((LookupOperator *) operator);
}

/* Rows come at barriers only: there is nothing to be tried. */
static bool
lookup_undo(SckptOperator *operator)
{
	return true;
}

/* ---- Handing on ---- */

static void
lookup_hand_on(SckptOperator *operator, const SckptTimes *times, bool final, SckptPutAbove put_above, SckptBadResult bad, void *arg)
{
	sckpt_changes_put(operator->changes, put_above, arg);
	sckpt_changes_clear(operator->changes);
}

static SckptRef *
lookup_close(SckptOperator *operator, const SckptTimes *times, uint64 *count)
{
	*count = 0;
	return NULL;
}

static TimestampTz
lookup_next_close(SckptOperator *operator)
{
	return DT_NOEND;
}

static SckptRef
lookup_find(SckptOperator *operator, Datum *values, bool *nulls)
{
	return SCKPT_NO_REF;
}

static void
lookup_remove(SckptOperator *operator, bool elements, SckptRef ref)
{
	sckpt_state_remove(operator->state, ref, KEPT_HEADER - SCKPT_ENTRY_HEADER + row_at((LookupOperator *) operator, ref)->length);
}

/* ---- As bytes ---- */

static void
lookup_describe(SckptOperator *operator, bool elements, StringInfo buf)
{
	LookupOperator *lookup = (LookupOperator *) operator;

	appendStringInfo(buf, "lookup\t%s\n", lookup->query->join->canonical);
	for (int side = 0; side < 2; side++)
	{
		for (int i = 0; i < lookup->sides[side].desc->natts; i++)
			appendStringInfo(buf, "column\t%d\t%s\n", side,
							 format_type_extended(TupleDescAttr(lookup->sides[side].desc, i)->atttypid, -1, FORMAT_TYPE_FORCE_QUALIFY));
	}
}

static bool
lookup_adapt(SckptOperator *operator, bool elements, const char *description, bool same)
{
	StringInfoData buf;
	bool		result;

	initStringInfo(&buf);
	lookup_describe(operator, elements, &buf);
	result = strcmp(buf.data, description) == 0;
	pfree(buf.data);
	return result;
}

static void
pack_tuple(LookupSide *side, MinimalTuple tuple, StringInfo buf)
{
	ExecStoreMinimalTuple(tuple, side->slot, false);
	slot_getallattrs(side->slot);
	for (int i = 0; i < side->desc->natts; i++)
		sckpt_codec_write_column(&side->codecs[i], buf, side->slot->tts_values[i], side->slot->tts_isnull[i]);
	ExecClearTuple(side->slot);
}

static MinimalTuple
unpack_tuple(LookupSide *side, const char **cursor, const char *end)
{
	for (int i = 0; i < side->desc->natts; i++)
	{
		side->nulls[i] = sckpt_codec_read_uint(cursor, end) == 0;
		side->values[i] = side->nulls[i] ? (Datum) 0 : sckpt_codec_read(&side->codecs[i], cursor, end);
	}
	return form_tuple(side);
}

/* Weight, the row, how many results, these: of each column 0 for NULL, else 1 and the value. */
static bool
lookup_pack(SckptOperator *operator, bool elements, SckptEntry *entry, StringInfo buf)
{
	LookupOperator *lookup = (LookupOperator *) operator;
	KeptRow    *row = (KeptRow *) entry;
	MinimalTuple tuple = (MinimalTuple) image_of(row);
	MemoryContext old = MemoryContextSwitchTo(lookup->row_context);

	sckpt_codec_write_int(buf, row->weight);
	pack_tuple(&lookup->sides[0], tuple, buf);
	sckpt_codec_write_uint(buf, row->nresults);
	for (uint32 i = 0; i < row->nresults; i++)
	{
		tuple = next_tuple(tuple);
		pack_tuple(&lookup->sides[1], tuple, buf);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(lookup->row_context);
	return true;
}

static void
lookup_begin_unpack(SckptOperator *operator, bool elements, const SckptTimes *times)
{
}

static SckptRef
lookup_unpack(SckptOperator *operator, bool elements, bool emitted, const char **cursor, const char *end)
{
	LookupOperator *lookup = (LookupOperator *) operator;
	MemoryContext old = MemoryContextSwitchTo(lookup->row_context);
	int64		weight = sckpt_codec_read_int(cursor, end);
	MinimalTuple row = unpack_tuple(&lookup->sides[0], cursor, end);
	uint64		nresults = sckpt_codec_read_uint(cursor, end);
	MinimalTuple *results;
	SckptRef	ref = SCKPT_NO_REF;
	uint32		hash = row_hash(row);
	uint32		length;
	char	   *image;

	/* Of no column, they take no bytes. */
	if (nresults == 0 || nresults > PG_UINT32_MAX || (lookup->sides[1].desc->natts > 0 && nresults > (uint64) (end - *cursor)))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored state of a pipeline is corrupted"),
				 errdetail("A row has found nothing.")));
	results = palloc(nresults * sizeof(MinimalTuple));
	for (uint64 i = 0; i < nresults; i++)
		results[i] = unpack_tuple(&lookup->sides[1], cursor, end);
	image = make_image(row, results, nresults, &length);

	/* The newest version comes first. */
	if (find_kept(lookup, hash, image, length) == SCKPT_NO_REF)
	{
		ref = add_kept(lookup, hash, image, length, nresults);
		row_at(lookup, ref)->weight = weight;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(lookup->row_context);
	return ref;
}

static void
lookup_end_unpack(SckptOperator *operator, bool elements)
{
}

/* It is never spread over tasks. */
static uint32
lookup_route(SckptOperator *operator, SckptRef ref)
{
	return 0;
}

static bool
lookup_mergeable(SckptOperator *operator)
{
	return false;
}

/* ---- Life ---- */

static void
lookup_destroy(SckptOperator *operator)
{
	LookupOperator *lookup = (LookupOperator *) operator;

	for (int i = 0; i < lengthof(lookup->plans); i++)
	{
		if (lookup->plans[i])
			SPI_freeplan(lookup->plans[i]);
	}
	sckpt_changes_destroy(lookup->changes);
	sckpt_state_destroy(operator->state);
	FreeExecutorState(lookup->estate);
	MemoryContextDelete(lookup->context);
}

SckptOperator *
sckpt_lookup_create(SckptQuery *query, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt lookup", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	LookupOperator *lookup = palloc0(sizeof(LookupOperator));
	int			nleft = query->join->rows[0]->natts;

	lookup->context = context;
	lookup->row_context = AllocSetContextCreate(context, "stream_ckpt looked up row", ALLOCSET_DEFAULT_SIZES);
	lookup->waiting_context = AllocSetContextCreate(context, "stream_ckpt rows to look up", ALLOCSET_DEFAULT_SIZES);
	lookup->query = query;
	lookup->keeps = query->join->changes[0];
	for (int number = 0; number < 2; number++)
	{
		LookupSide *side = &lookup->sides[number];
		int			natts = query->join->rows[number]->natts;

		side->desc = CreateTupleDescCopy(query->join->rows[number]);
		side->slot = MakeSingleTupleTableSlot(side->desc, &TTSOpsMinimalTuple);
		side->values = palloc0((natts + 1) * sizeof(Datum));
		side->nulls = palloc0((natts + 1) * sizeof(bool));
		side->codecs = palloc0(Max(1, natts) * sizeof(SckptCodec));
		for (int i = 0; i < natts && lookup->keeps; i++)
			sckpt_codec_init(&side->codecs[i], TupleDescAttr(side->desc, i)->atttypid, TupleDescAttr(side->desc, i)->atttypmod, context);
	}
	lookup->numbered = numbered_desc(lookup->sides[0].desc);
	lookup->estate = CreateExecutorState();
	lookup->econtext = CreateExprContext(lookup->estate);
	lookup->filter = sckpt_join_prepare_condition(query->having, nleft);
	lookup->copies = sckpt_join_prepare_expr(query->join->copies, nleft);
	lookup->projection = sckpt_join_prepare_projection(query->targetlist, nleft, lookup->econtext);
	lookup->changes = sckpt_changes_create(CreateTupleDescCopy(query->result), query->join->retracts, context);

	lookup->operator.name = "lookup";
	lookup->operator.state = sckpt_state_create(context);
	lookup->operator.changes = lookup->changes;
	lookup->operator.begin_rows = lookup_begin_rows;
	lookup->operator.consume = lookup_consume;
	lookup->operator.end_rows = lookup_end_rows;
	lookup->operator.end_batch = lookup_nothing;
	lookup->operator.begin_undo = lookup_nothing;
	lookup->operator.undo = lookup_undo;
	lookup->operator.end_undo = lookup_nothing;
	lookup->operator.start = lookup_nothing;
	lookup->operator.close = lookup_close;
	lookup->operator.next_close = lookup_next_close;
	lookup->operator.remove = lookup_remove;
	lookup->operator.describe = lookup_describe;
	lookup->operator.adapt = lookup_adapt;
	lookup->operator.flush = lookup_nothing;
	lookup->operator.pack = lookup_pack;
	lookup->operator.begin_unpack = lookup_begin_unpack;
	lookup->operator.unpack = lookup_unpack;
	lookup->operator.end_unpack = lookup_end_unpack;
	lookup->operator.find = lookup_find;
	lookup->operator.begin_results = lookup_nothing;
	lookup->operator.end_results = lookup_nothing;
	lookup->operator.hand_on = lookup_hand_on;
	lookup->operator.route = lookup_route;
	lookup->operator.destroy = lookup_destroy;
	lookup->operator.mergeable = lookup_mergeable;
	MemoryContextSwitchTo(old);
	return &lookup->operator;
}
