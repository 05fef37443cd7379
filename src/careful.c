/*-------------------------------------------------------------------------
 *
 * careful.c
 *		Careful work, which finds the rows that raise data errors.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "careful.h"
#include "changes.h"
#include "dead.h"
#include "halt.h"
#include "linear.h"
#include "route.h"
#include "stream.h"

/* How long a task stays careful after a bad row, ms. */
#define CAREFUL_MS		60000
/* Rows collected at a time. */
#define SPAN_ROWS		4096

bool
sckpt_careful_is_data_error(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case MAKE_SQLSTATE('2', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '3', '0', '0', '0'):
			return true;
	}
	return sqlerrcode == ERRCODE_RAISE_EXCEPTION;
}

/* ---- Being careful ---- */

void
sckpt_careful_extend(SckptTask *task)
{
	task->careful_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CAREFUL_MS);
}

void
sckpt_careful_begin_spans(SckptTask *task)
{
	task->careful_rows = SPAN_ROWS;
}

bool
sckpt_careful_begin(SckptTask *task)
{
	if (task->careful)
		return false;
	task->careful = true;
	sckpt_careful_begin_spans(task);
	task->careful_lsn = Max(task->feeding, task->fed);
	sckpt_careful_extend(task);
	return true;
}

void
sckpt_careful_end_if_due(SckptTask *task)
{
	if (task->careful && task->def->position >= task->careful_lsn && GetCurrentTimestamp() >= task->careful_until)
		task->careful = false;
}

/* ---- Trying ---- */

ErrorData *
sckpt_careful_try(void (*work) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		if (!sckpt_careful_is_data_error(geterrcode()))
			PG_RE_THROW();
		sckpt_stream_arm(NULL);
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_END_TRY();
	return error;
}

typedef struct Span
{
	const SckptSpans *spans;
	uint64		first;
	uint64		end;
} Span;

static void
take_span(void *arg)
{
	Span	   *span = arg;

	span->spans->take(span->spans->arg, span->first, span->end);
}

void
sckpt_careful_run(const SckptSpans *spans, uint64 n)
{
	uint64		length = spans->most;
	Span		span = {spans, 0, 0};

	while (span.first < n)
	{
		ErrorData  *error;

		CHECK_FOR_INTERRUPTS();
		span.end = Min(n, span.first + length);
		error = sckpt_careful_try(take_span, &span);
		if (error == NULL)
		{
			span.first = span.end;
			length = Min(spans->most, length * 4);
			continue;
		}
		if (spans->undo)
			spans->undo(spans->arg, error);
		length = span.end - span.first;
		if (length == 1)
		{
			spans->reject(spans->arg, span.first, error);
			span.first = span.end;
		}
		else
			length = Max(1, length / 4);
		FreeErrorData(error);
	}
}

/* ---- Rows of a batch ---- */

/* A batch on its way through the careful forms. */
typedef struct CarefulBatch
{
	SckptTask  *task;
	SckptScan  *scan;
	const SckptInput *input;
	uint64		rows_out;
	uint64		length;			/* of the span at hand */
	/* What the try at hand has noted goes when it fails. */
	uint64		nlate;
	int			ndead;
	uint64		taken;
	/* with state: what the source makes of a span */
	MemoryContext context;		/* reset with each try */
	TupleTableSlot *slot;		/* NULL: its row type is not known yet */
	MinimalTuple *rows;
	uint64		nrows;
	uint64		maxrows;
	bool		holding;		/* rows for the head, which are there from before the try */
} CarefulBatch;

static void
begin_try(CarefulBatch *careful, uint64 first, uint64 end)
{
	careful->length = end - first;
	careful->nlate = careful->task->nlate;
	careful->ndead = list_length(careful->task->dead);
	careful->taken = careful->scan->taken;
	sckpt_scan_narrow(careful->scan, first, end);
}

static void
forget_try(CarefulBatch *careful)
{
	careful->task->nlate = careful->nlate;
	sckpt_dead_forget(careful->task, careful->ndead);
	careful->scan->taken = careful->taken;
}

/*
 * Is a bad row the task's?  Where the routing key itself raised the error, every task of a parallel pipeline has met it: then its place decides
 * (semantics.md 26).
 */
static bool
is_mine(CarefulBatch *careful, uint32 segment, uint32 row)
{
	SckptRoute *route = careful->scan->route;
	uint64		hash;

	if (route == NULL || !route->evaluating)
		return true;
	hash = hash_bytes_uint32_extended(row, careful->scan->batch->segments[segment].lsn);
	return sckpt_route_task((uint32) hash, route->ntasks) == route->task;
}

static void
reject_row(void *arg, uint64 at, ErrorData *error)
{
	CarefulBatch *careful = arg;
	uint32		segment;
	uint32		row;

	sckpt_scan_first(careful->scan, &segment, &row);
	if (!is_mine(careful, segment, row))
		return;
	careful->scan->taken++;
	if (careful->task->halting)
		sckpt_halt_at_row(careful->task, careful->scan->batch, segment, row, error);
	sckpt_dead_add_row(careful->task, careful->scan->batch, segment, row, error->sqlerrcode, error->message, true);
	sckpt_careful_extend(careful->task);
}

/* ---- With state ---- */

static void
collect_row(void *arg, TupleTableSlot *slot)
{
	CarefulBatch *careful = arg;
	MemoryContext old;

	if (careful->slot == NULL)
	{
		old = MemoryContextSwitchTo(MemoryContextGetParent(careful->context));
		careful->slot = MakeSingleTupleTableSlot(CreateTupleDescCopy(slot->tts_tupleDescriptor), &TTSOpsMinimalTuple);
		MemoryContextSwitchTo(old);
	}
	old = MemoryContextSwitchTo(careful->context);
	if (careful->nrows == careful->maxrows)
	{
		careful->maxrows = Max(1024, careful->maxrows * 2);
		if (careful->rows)
			careful->rows = repalloc_huge(careful->rows, careful->maxrows * sizeof(MinimalTuple));
		else
			careful->rows = MemoryContextAllocHuge(careful->context, careful->maxrows * sizeof(MinimalTuple));
	}
	careful->rows[careful->nrows++] = ExecCopySlotMinimalTuple(slot);
	MemoryContextSwitchTo(old);
}

static void
settle_rows(CarefulBatch *careful, bool drop)
{
	SckptTask  *task = careful->task;

	for (int i = 0; i < task->nsources && careful->holding; i++)
	{
		if (task->sources[i].rows == NULL)
			continue;
		if (drop)
			sckpt_changes_clear(task->sources[i].rows);
		sckpt_changes_settle(task->sources[i].rows, false);
	}
	careful->holding = false;
}

/* Of a query with joins: whatever a row may change. */
static void
begin_sources(CarefulBatch *careful)
{
	SckptTask  *task = careful->task;

	settle_rows(careful, false);
	for (int i = 0; i < task->noperators; i++)
		task->operators[i]->begin_undo(task->operators[i]);
	for (int i = 0; i < task->nsources; i++)
	{
		if (task->sources[i].rows)
			sckpt_changes_hold(task->sources[i].rows);
	}
	careful->holding = true;
}

static void
take_with_state(void *arg, uint64 first, uint64 end)
{
	CarefulBatch *careful = arg;
	SckptTask  *task = careful->task;
	SckptOperator *operator = task->operators[0];
	SckptReceiver receiver = {NULL, collect_row, careful};

	begin_try(careful, first, end);
	if (task->nsources > 0)
	{
		/* A row's way is that of all that comes of it, up to where it waits for a barrier. */
		begin_sources(careful);
		sckpt_task_feed_sources(task, careful->scan, careful->input);
		return;
	}
	MemoryContextReset(careful->context);
	careful->rows = NULL;
	careful->nrows = careful->maxrows = 0;

	/* Whatever this try fails on, there is a beginning to go back to. */
	operator->begin_undo(operator);
	(void) sckpt_stage_run(&task->stage, careful->scan, task->query, &receiver);
	operator->begin_rows(operator, careful->input, NULL);
	for (uint64 i = 0; i < careful->nrows; i++)
	{
		ExecStoreMinimalTuple(careful->rows[i], careful->slot, false);
		operator->consume(operator, careful->slot, 1);
		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	operator->end_rows(operator);
}

/* Rows one by one can always be undone; where more than one cannot, everything has to be. */
static void
undo_operator(SckptTask *task, SckptOperator *operator, ErrorData *error)
{
	if (operator->undo(operator))
		return;
	if (task->careful_rows == 1)
		ReThrowError(error);
	task->careful_rows = 1;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("rows before a bad one must be taken in again, one by one"),
			 errdetail("The error of the bad row: %s", error->message)));
}

static void
undo_with_state(void *arg, ErrorData *error)
{
	CarefulBatch *careful = arg;

	forget_try(careful);

	/* A task that stops at the row throws its state away, and needs nothing undone. */
	if (careful->task->halting && careful->length == 1)
		return;
	settle_rows(careful, true);
	for (int i = 0; i < (careful->task->nsources > 0 ? careful->task->noperators : 1); i++)
		undo_operator(careful->task, careful->task->operators[i], error);
}

void
sckpt_careful_feed(SckptTask *task, SckptScan *scan, const SckptInput *input, uint64 nrows)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt careful", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CarefulBatch careful = {.task = task, .scan = scan, .input = input};
	SckptSpans	spans = {take_with_state, undo_with_state, reject_row, &careful, task->careful_rows};

	careful.context = AllocSetContextCreate(context, "stream_ckpt careful rows", ALLOCSET_DEFAULT_SIZES);
	sckpt_careful_run(&spans, nrows);
	settle_rows(&careful, false);
	for (int i = 0; i < task->noperators; i++)
		task->operators[i]->end_undo(task->operators[i]);
	if (careful.slot)
		ExecDropSingleTupleTableSlot(careful.slot);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* ---- Linear queries ---- */

static void
take_linear(void *arg, uint64 first, uint64 end)
{
	CarefulBatch *careful = arg;

	begin_try(careful, first, end);
	careful->rows_out += sckpt_linear_run(careful->task, careful->scan, careful->input);
}

static void
undo_linear(void *arg, ErrorData *error)
{
	forget_try(arg);
}

uint64
sckpt_careful_run_linear(SckptTask *task, SckptScan *scan, const SckptInput *input, uint64 nrows)
{
	CarefulBatch careful = {.task = task, .scan = scan, .input = input};
	SckptSpans	spans = {take_linear, undo_linear, reject_row, &careful, Max(1, nrows)};

	sckpt_careful_run(&spans, nrows);
	return careful.rows_out;
}

/* ---- From stage to stage ---- */

typedef struct PutAbove
{
	SckptTask  *task;
	int			above;
	TupleTableSlot *row;
	int32		weight;
} PutAbove;

/* With all that comes of it before the next barrier. */
static void
consume_above(void *arg)
{
	PutAbove   *put = arg;
	SckptOperator *above = put->task->operators[put->above];

	above->consume(above, put->row, put->weight);
	sckpt_task_pass_on(put->task, put->above);
}

/* The next of the operators that a row comes to before the next barrier; -1: there is none. */
static int
next_above(SckptTask *task, int number)
{
	return sckpt_task_passes_on(task, number) ? task->queries[number]->target->number : -1;
}

/*
 * What was handed on before is taken back without being asked: what it cannot do is no error of this row's.  A join does not know what was refused of its rows:
 * what raises an error when it is taken back did so when it came.
 */
bool
sckpt_careful_put_above(SckptTask *task, int stage, TupleTableSlot *row, int32 weight)
{
	PutAbove	put = {task, task->queries[stage]->target->number, row, weight};
	ErrorData  *error;

	if (weight < 0 && task->queries[stage]->join == NULL)
	{
		consume_above(&put);
		return true;
	}
	for (int i = put.above; i >= 0; i = next_above(task, i))
		task->operators[i]->begin_undo(task->operators[i]);
	error = sckpt_careful_try(consume_above, &put);
	for (int i = put.above; i >= 0 && error; i = next_above(task, i))
		undo_operator(task, task->operators[i], error);
	if (error)
	{
		if (weight > 0)
			sckpt_dead_add_result(task, task->queries[stage]->target->place + 1, row, error);
		FreeErrorData(error);
	}
	for (int i = put.above; i >= 0; i = next_above(task, i))
		task->operators[i]->end_undo(task->operators[i]);
	return error == NULL;
}
