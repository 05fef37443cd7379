/*-------------------------------------------------------------------------
 *
 * expand.c
 *		Takes the rows of a source with windows: fills in the windows that
 *		are not closed, and computes what depends on them.
 *
 * The row is put together in one slot, over and over: the source's columns
 * are copied in, then the bounds of each combination of windows, and what is
 * computed from them.  Lateness is decided here and nowhere else, by the
 * watermark that was in force before the row's transaction.
 *
 * Conditions come before computed columns, so that these see no row which
 * WHERE excludes; a row that is late counts only where it meets them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "storage/itemptr.h"
#include "utils/expandeddatum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "expand.h"

/* A window of the row at hand. */
typedef struct Expansion
{
	const SckptWindow *window;
	int64		time;
	int64	   *starts;			/* of the windows that the time is in */
	int64	   *ends;
	int			count;
	int			at;				/* the one in the row */
} Expansion;

typedef struct Computation
{
	int			column;			/* from 0 */
	ExprState  *state;
	bool		varlena;
} Computation;

struct SckptExpander
{
	MemoryContext context;
	SckptQuery *query;
	TupleTableSlot *slot;
	int			ncopied;		/* columns that come in, */
	int			base;			/* and where they go */
	int			row;			/* column with the ctid, from 0; -1: none */
	bool		simple;			/* one tumbling window of a fixed size, and nothing to compute */
	bool		judges;			/* a window does */
	int			nexpansions;
	Expansion  *expansions;
	/* what is computed once for a row, and what for each of its windows: times of windows are of the first kind */
	int			nonce;
	Computation *once;
	int			neach;
	Computation *each;
	ExprState  *condition;
	ExprContext *row_context;
	ExprContext *window_context;
};

/* Does the expression depend on the bounds of a window? */
static bool
depends_on_bounds(Node *node, SckptQuery *query)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		AttrNumber	column = ((Var *) node)->varattno;

		for (int i = 0; i < query->nwindows; i++)
		{
			if (column == query->windows[i].start || column == query->windows[i].end)
				return true;
		}
		return false;
	}
	return expression_tree_walker(node, depends_on_bounds, query);
}

static bool
is_time(SckptQuery *query, AttrNumber column)
{
	for (int i = 0; i < query->nwindows; i++)
	{
		if (query->windows[i].time == column)
			return true;
	}
	return false;
}

/* Set up the computed columns: those before all windows that windows need, or that need no window and cannot be in vain. */
static void
prepare_computed(SckptExpander *expander)
{
	SckptQuery *query = expander->query;

	expander->once = palloc0(Max(1, query->ncomputed) * sizeof(Computation));
	expander->each = palloc0(Max(1, query->ncomputed) * sizeof(Computation));
	for (int i = 0; i < query->ncomputed; i++)
	{
		SckptComputed *computed = &query->computed[i];
		Computation *computation;

		if (is_time(query, computed->column) ||
			(query->condition == NULL && query->nwindows > 0 && !depends_on_bounds((Node *) computed->expr, query)))
			computation = &expander->once[expander->nonce++];
		else
			computation = &expander->each[expander->neach++];
		computation->column = computed->column - 1;
		computation->varlena = get_typlen(exprType((Node *) computed->expr)) == -1;
		computation->state = ExecInitExpr(expression_planner((Expr *) copyObject(computed->expr)), NULL);
	}
	if (query->condition)
	{
		Expr	   *condition = expression_planner((Expr *) copyObject(query->condition));

		expander->condition = ExecInitQual(make_ands_implicit(condition), NULL);
	}
}

SckptExpander *
sckpt_expander_create(SckptQuery *query, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt expander", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptExpander *expander = palloc0(sizeof(SckptExpander));
	TupleDesc	desc = CreateTemplateTupleDesc(query->nsource);

	expander->context = context;
	expander->query = query;
	expander->base = query->base;
	expander->ncopied = query->nsource - query->base;
	expander->row = query->row - 1;

	for (int i = 0; i < query->nsource; i++)
		TupleDescInitEntry(desc, i + 1, NULL, query->source_types[i], -1, 0);
	expander->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	for (int i = 0; i < query->nsource; i++)
	{
		expander->slot->tts_values[i] = (Datum) 0;
		expander->slot->tts_isnull[i] = true;
	}
	ExecStoreVirtualTuple(expander->slot);

	expander->nexpansions = query->nwindows;
	expander->expansions = palloc0(Max(1, query->nwindows) * sizeof(Expansion));
	for (int i = 0; i < query->nwindows; i++)
	{
		Expansion  *expansion = &expander->expansions[i];

		expansion->window = &query->windows[i];
		expansion->starts = MemoryContextAllocHuge(context, query->windows[i].spec.maximum * sizeof(int64));
		expansion->ends = MemoryContextAllocHuge(context, query->windows[i].spec.maximum * sizeof(int64));
		expander->judges |= query->windows[i].judges;
	}
	prepare_computed(expander);
	expander->simple = query->nwindows == 1 && query->windows[0].spec.kind == SCKPT_WINDOW_TUMBLE &&
		query->windows[0].spec.months == 0 && query->ncomputed == 0 && expander->condition == NULL;

	expander->row_context = CreateStandaloneExprContext();
	expander->row_context->ecxt_scantuple = expander->slot;
	expander->window_context = CreateStandaloneExprContext();
	expander->window_context->ecxt_scantuple = expander->slot;
	MemoryContextSwitchTo(old);
	return expander;
}

void
sckpt_expander_destroy(SckptExpander *expander)
{
	FreeExprContext(expander->row_context, true);
	FreeExprContext(expander->window_context, true);
	ExecDropSingleTupleTableSlot(expander->slot);
	MemoryContextDelete(expander->context);
}

static void
compute(SckptExpander *expander, Computation *computations, int count, ExprContext *context)
{
	Datum	   *values = expander->slot->tts_values;
	bool	   *nulls = expander->slot->tts_isnull;

	for (int i = 0; i < count; i++)
	{
		Computation *computation = &computations[i];
		Datum		value = ExecEvalExprSwitchContext(computation->state, context, &nulls[computation->column]);

		if (computation->varlena)
			value = MakeExpandedObjectReadOnly(value, nulls[computation->column], -1);
		values[computation->column] = value;
	}
}

static inline void
put_bounds(SckptExpander *expander, const SckptWindow *window, int64 start, int64 end)
{
	Datum	   *values = expander->slot->tts_values;
	bool	   *nulls = expander->slot->tts_isnull;

	if (window->start)
	{
		values[window->start - 1] = Int64GetDatum(start);
		nulls[window->start - 1] = false;
	}
	if (window->end)
	{
		values[window->end - 1] = Int64GetDatum(end);
		nulls[window->end - 1] = false;
	}
}

/*
 * What a window's end must be after not to be closed: the watermark less the lateness that is allowed.  DT_NOBEGIN when everything
 * is in time.
 */
static inline int64
closed_until(SckptQuery *query, TimestampTz watermark)
{
	int64		result;

	if (TIMESTAMP_NOT_FINITE(watermark))
		return watermark;
	if (unlikely(pg_sub_s64_overflow(watermark, query->lateness, &result)))
		return query->closed_until;
	return Max(result, query->closed_until);
}

/* Is the row, at this time, too late for the window? */
static inline bool
is_late(const SckptWindow *window, int64 time, int64 end, int64 limit)
{
	/* Into a session, other rows can still bring one that would be closed on its own. */
	if (window->spec.kind == SCKPT_WINDOW_SESSION)
		return time < limit;
	return end <= limit;
}

/* Step to the next combination of windows, the last one fastest; false after the last. */
static bool
next_combination(SckptExpander *expander)
{
	for (int i = expander->nexpansions - 1; i >= 0; i--)
	{
		Expansion  *expansion = &expander->expansions[i];

		if (++expansion->at < expansion->count)
			return true;
		expansion->at = 0;
	}
	return false;
}

/* All combinations of windows, conditions and computed columns. */
static void
take_general(SckptExpander *expander, const SckptInput *input, int64 limit, uint32 segment, uint32 row,
			 int32 weight, SckptExpanded put, void *arg)
{
	TupleTableSlot *slot = expander->slot;
	bool		told = false;

	if (expander->nonce > 0)
	{
		ResetExprContext(expander->row_context);
		compute(expander, expander->once, expander->nonce, expander->row_context);
	}
	for (int i = 0; i < expander->nexpansions; i++)
	{
		Expansion  *expansion = &expander->expansions[i];
		int			column = expansion->window->time - 1;

		if (slot->tts_isnull[column])
			return;
		expansion->time = DatumGetInt64(slot->tts_values[column]);
		expansion->count = sckpt_window_assign(&expansion->window->spec, expansion->time,
											   expansion->starts, expansion->ends);
		if (expansion->count == 0)
			return;
		expansion->at = 0;
	}

	do
	{
		bool		late = false;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < expander->nexpansions; i++)
		{
			Expansion  *expansion = &expander->expansions[i];
			int64		end = expansion->ends[expansion->at];

			put_bounds(expander, expansion->window, expansion->starts[expansion->at], end);
			if (expansion->window->judges && is_late(expansion->window, expansion->time, end, limit))
				late = true;
		}
		if (late && told)
			continue;
		if (expander->condition || expander->neach > 0)
			ResetExprContext(expander->window_context);
		if (expander->condition && !ExecQual(expander->condition, expander->window_context))
			continue;
		if (late)
		{
			input->late(input->arg, segment, row);
			told = true;
			continue;
		}
		compute(expander, expander->each, expander->neach, expander->window_context);
		put(arg, slot, segment, weight);
	} while (next_combination(expander));
}

void
sckpt_expander_take(SckptExpander *expander, const SckptInput *input, TupleTableSlot *slot, int32 weight,
					SckptExpanded put, void *arg)
{
	TupleTableSlot *own = expander->slot;
	uint32		segment = 0;
	uint32		row = 0;
	int64		limit = DT_NOBEGIN;

	slot_getallattrs(slot);
	Assert(slot->tts_nvalid >= expander->ncopied);
	memcpy(own->tts_values + expander->base, slot->tts_values, expander->ncopied * sizeof(Datum));
	memcpy(own->tts_isnull + expander->base, slot->tts_isnull, expander->ncopied * sizeof(bool));

	if (expander->row >= 0)
	{
		ItemPointer place = (ItemPointer) DatumGetPointer(own->tts_values[expander->row]);

		segment = BlockIdGetBlockNumber(&place->ip_blkid);
		row = place->ip_posid;
		if (expander->judges && input && input->before)
			limit = closed_until(expander->query, input->before[segment].watermark);
	}

	if (expander->simple)
	{
		const SckptWindow *window = expander->expansions[0].window;
		int64		time = DatumGetInt64(own->tts_values[window->time - 1]);
		int64		start;

		if (own->tts_isnull[window->time - 1] || TIMESTAMP_NOT_FINITE(time))
			return;
		start = sckpt_window_start(&window->spec, time);
		if (window->judges && start + window->spec.size <= limit)
		{
			input->late(input->arg, segment, row);
			return;
		}
		put_bounds(expander, window, start, start + window->spec.size);
		put(arg, own, segment, weight);
		return;
	}
	take_general(expander, input, limit, segment, row, weight, put, arg);
}
