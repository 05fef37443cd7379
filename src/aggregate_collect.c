/*-------------------------------------------------------------------------
 *
 * aggregate_collect.c
 *		Results of aggregates that keep their inputs: ordered ones, ordered-set
 *		ones, and those that rows are taken back from.
 *
 * The inputs of such a call are a counted set (set.h).  When a result is asked for, its elements are sorted: by the call's ORDER
 * BY, then by the other columns as their types are ordered, then by bytes, so that it does not depend on the order in which rows came.  An
 * ordinary aggregate is then run over them, as nodeAgg.c does it, from its initial value; percentile_disc, percentile_cont and mode are
 * read off the sorted elements, whose counts spare walking over every row.  The set of an aggregate that is its first value by some order
 * (min, max, bool_and and their like: pg_aggregate.aggsortop) is kept in that order, and nothing is sorted.
 *
 * Aggregate functions get an AggState of their own here, so that what they keep in the aggregate context goes with each result, and the
 * operator's other aggregates are not concerned, whatever fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/sortsupport.h"
#include "utils/typcache.h"

#include "aggregate_private.h"

/* How a result is made of the sorted elements. */
typedef enum CollectKind
{
	COLLECT_RUN,				/* call the transition function for each */
	COLLECT_PERCENTILE_DISC,
	COLLECT_PERCENTILE_CONT,
	COLLECT_MODE
} CollectKind;

/* A column by which elements are sorted. */
typedef struct CollectOrder
{
	int			column;			/* of the set */
	SortSupportData sort;
} CollectOrder;

typedef struct CollectCall
{
	CollectKind kind;
	int			ncolumns;		/* of the set */
	SckptGroupColumn *columns;	/* lengths */
	int			norders;
	CollectOrder *orders;
	int		   *args;			/* columns of the set */
	FunctionCallInfo fcinfo;	/* of the transition function */
	/* of a percentile */
	bool		fraction_null;
	double		fraction;
	bool		interval;
} CollectCall;

struct SckptCollector
{
	AggState   *agg_state;
	ExprContext *context;		/* the aggregate context; reset after each result */
	MemoryContext scratch;		/* reset after each call of a function */
	CollectCall **calls;		/* NULL: not prepared yet */
};

/* The transition value on its way. */
typedef struct Running
{
	Datum		value;
	bool		isnull;
	bool		absent;			/* the first input becomes the value */
} Running;

/* ---- Preparation ---- */

static SckptCollector *
create_collector(SckptAggregate *agg)
{
	MemoryContext old = MemoryContextSwitchTo(agg->context);
	SckptCollector *collector = palloc0(sizeof(SckptCollector));

	collector->context = CreateStandaloneExprContext();
	collector->agg_state = makeNode(AggState);
	collector->agg_state->curaggcontext = collector->context;
	collector->scratch = AllocSetContextCreate(agg->context, "stream_ckpt collected input", ALLOCSET_DEFAULT_SIZES);
	collector->calls = palloc0(agg->ncalls * sizeof(CollectCall *));
	MemoryContextSwitchTo(old);
	return collector;
}

static void
add_order(CollectCall *collect, const SckptKey *column, int index, Oid operator, bool nulls_first)
{
	CollectOrder *order = &collect->orders[collect->norders++];

	order->column = index;
	order->sort.ssup_cxt = CurrentMemoryContext;
	order->sort.ssup_collation = column->collation;
	order->sort.ssup_nulls_first = nulls_first;
	PrepareSortSupportFromOrderingOp(operator, &order->sort);
}

static void
prepare_orders(CollectCall *collect, const SckptCall *source, const SckptSetColumns *set)
{
	collect->orders = palloc0((source->nsort + set->ncolumns) * sizeof(CollectOrder));
	for (int i = 0; i < source->nsort; i++)
		add_order(collect, &set->columns[source->sort_columns[i]], source->sort_columns[i], source->sort_ops[i],
				  source->sort_nulls_first[i]);
	for (int i = 0; i < set->ncolumns; i++)
	{
		TypeCacheEntry *type;
		bool		given = false;

		for (int j = 0; j < source->nsort; j++)
			given |= source->sort_columns[j] == i;
		if (given)
			continue;
		type = lookup_type_cache(set->columns[i].type, TYPECACHE_LT_OPR);
		if (OidIsValid(type->lt_opr))
			add_order(collect, &set->columns[i], i, type->lt_opr, false);
	}
}

/* The direct argument, a constant. */
static void
prepare_fraction(CollectCall *collect, Node *direct)
{
	Const	   *fraction = (Const *) eval_const_expressions(NULL, direct);

	if (fraction == NULL || !IsA(fraction, Const) || fraction->consttype != FLOAT8OID)
		elog(ERROR, "percentile is no constant");
	collect->fraction_null = fraction->constisnull;
	if (!fraction->constisnull)
		collect->fraction = DatumGetFloat8(fraction->constvalue);
}

static CollectKind
kind_of(const Aggref *aggref)
{
	if (aggref->aggkind == AGGKIND_NORMAL)
		return COLLECT_RUN;
	switch (aggref->aggfnoid)
	{
		case F_PERCENTILE_DISC_FLOAT8_ANYELEMENT:
			return COLLECT_PERCENTILE_DISC;
		case F_PERCENTILE_CONT_FLOAT8_FLOAT8:
		case F_PERCENTILE_CONT_FLOAT8_INTERVAL:
			return COLLECT_PERCENTILE_CONT;
		case F_MODE:
			return COLLECT_MODE;
		default:
			elog(ERROR, "unsupported ordered-set aggregate %u", aggref->aggfnoid);
	}
	return COLLECT_RUN;			/* keep compiler quiet */
}

/* Which column of its set an argument is. */
static int
set_column(const SckptSetColumns *set, AttrNumber source)
{
	for (int i = 0; i < set->ncolumns; i++)
	{
		if (set->source[i] == source)
			return i;
	}
	elog(ERROR, "an aggregate's argument is not in its set");
	return -1;					/* keep compiler quiet */
}

static CollectCall *
prepare_collect(SckptAggregate *agg, int index)
{
	SckptAggCall *call = &agg->calls[index];
	const SckptSetColumns *set = &agg->query->sets[call->set];
	MemoryContext old = MemoryContextSwitchTo(agg->context);
	CollectCall *collect = palloc0(sizeof(CollectCall));

	collect->kind = kind_of(call->source->aggref);
	collect->ncolumns = set->ncolumns;
	collect->columns = palloc0(set->ncolumns * sizeof(SckptGroupColumn));
	for (int i = 0; i < set->ncolumns; i++)
		get_typlenbyval(set->columns[i].type, &collect->columns[i].form.length, &collect->columns[i].form.by_value);
	prepare_orders(collect, call->source, set);

	collect->args = palloc(Max(1, call->nargs) * sizeof(int));
	for (int i = 0; i < call->nargs; i++)
		collect->args[i] = set_column(set, call->args[i]);
	if (collect->kind == COLLECT_RUN)
	{
		collect->fcinfo = palloc0(SizeForFunctionCallInfo(call->nargs + 1));
		InitFunctionCallInfoData(*collect->fcinfo, &call->transition, call->nargs + 1, call->collation,
								 (Node *) agg->collector->agg_state, NULL);
	}
	else if (collect->kind != COLLECT_MODE)
	{
		prepare_fraction(collect, call->source->direct);
		collect->interval = call->source->aggref->aggfnoid == F_PERCENTILE_CONT_FLOAT8_INTERVAL;
	}
	MemoryContextSwitchTo(old);
	return collect;
}

/* ---- Sorting ---- */

/* By the first so many columns of the order. */
static int
compare_orders(CollectCall *collect, int norders, const SckptElementValue *a, const SckptElementValue *b)
{
	int			order = 0;

	for (int i = 0; i < norders && order == 0; i++)
	{
		CollectOrder *by = &collect->orders[i];

		order = ApplySortComparator(a->values[by->column], a->nulls[by->column], b->values[by->column], b->nulls[by->column],
									&by->sort);
	}
	return order;
}

static int
compare_elements(const void *left, const void *right, void *arg)
{
	const SckptElementValue *a = (const SckptElementValue *) left;
	const SckptElementValue *b = (const SckptElementValue *) right;
	CollectCall *collect = (CollectCall *) arg;
	int			order = compare_orders(collect, collect->norders, a, b);

	if (order != 0)
		return order;
	for (int i = 0; i < collect->ncolumns; i++)
	{
		if (a->nulls[i] || b->nulls[i])
			order = (int) a->nulls[i] - (int) b->nulls[i];
		else
			order = sckpt_group_compare_images(&collect->columns[i], a->values[i], b->values[i]);
		if (order != 0)
			return order;
	}
	return 0;
}

/* Of values that are equal, and do not look the same, DISTINCT leaves the first. */
static uint64
drop_equal(SckptAggCall *call, CollectCall *collect, SckptElementValue *elements, uint64 n)
{
	uint64		kept = 0;

	for (uint64 i = 1; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (compare_orders(collect, call->source->nsort, &elements[kept], &elements[i]) != 0)
			elements[++kept] = elements[i];
	}
	return kept + 1;
}

/* The elements in order; of an ordered-set aggregate without NULLs, and with *rows, the sum of their counts. */
static SckptElementValue *
sorted_elements(SckptAggregate *agg, SckptAggCall *call, CollectCall *collect, SckptRef ref, uint64 *count, int64 *rows)
{
	SckptElementValue *elements = sckpt_sets_elements(agg->sets, ref, call->set, count);
	uint64		n = 0;

	*rows = 0;
	for (uint64 i = 0; i < *count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (elements[i].count < 0)
			elog(ERROR, "aggregate input was taken back more often than it was there");
		if (collect->kind != COLLECT_RUN && elements[i].nulls[collect->args[0]])
			continue;
		*rows += elements[i].count;
		elements[n++] = elements[i];
	}
	*count = n;
	if (n > 1)
		qsort_interruptible(elements, n, sizeof(SckptElementValue), compare_elements, collect);
	if (call->source->aggref->aggdistinct && n > 1)
		*count = drop_equal(call, collect, elements, n);
	return elements;
}

/* ---- Ordinary aggregates ---- */

/* Advance the transition value by an element, as often as it is there. */
static void
run_element(SckptCollector *collector, SckptAggCall *call, CollectCall *collect, Running *running, const SckptElementValue *element)
{
	FunctionCallInfo fcinfo = collect->fcinfo;
	int64		times = call->source->aggref->aggdistinct != NIL || call->idempotent ? 1 : element->count;

	for (int i = 0; i < call->nargs; i++)
	{
		int			column = collect->args[i];

		if (call->strict && element->nulls[column])
			return;
		fcinfo->args[i + 1].value = element->values[column];
		fcinfo->args[i + 1].isnull = element->nulls[column];
	}
	if (call->plain == SCKPT_AGG_COUNT && !running->isnull)
	{
		int64		sum;

		if (pg_add_s64_overflow(DatumGetInt64(running->value), times, &sum))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("bigint out of range")));
		running->value = Int64GetDatum(sum);
		return;
	}
	for (; times > 0; times--)
	{
		MemoryContext old;
		Datum		new;

		CHECK_FOR_INTERRUPTS();
		if (running->absent)
		{
			running->absent = false;
			sckpt_call_keep(call, collector->context->ecxt_per_tuple_memory, &running->value, &running->isnull, fcinfo->args[1].value, false);
			continue;
		}
		if (call->strict && running->isnull)
			return;				/* once NULL, a strict aggregate stays NULL */
		fcinfo->args[0].value = running->value;
		fcinfo->args[0].isnull = running->isnull;
		fcinfo->isnull = false;
		old = MemoryContextSwitchTo(collector->scratch);
		new = FunctionCallInvoke(fcinfo);
		sckpt_call_keep(call, collector->context->ecxt_per_tuple_memory, &running->value, &running->isnull, new, fcinfo->isnull);
		MemoryContextSwitchTo(old);
		MemoryContextReset(collector->scratch);
	}
}

/* The final function's result, which may lie anywhere. */
static Datum
finish(SckptCollector *collector, SckptAggCall *call, const Running *running, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, FUNC_MAX_ARGS);
	Datum		result;

	if (!call->has_final || (call->final_strict && (running->isnull || call->final_nargs > 1)))
	{
		*isnull = running->isnull || call->has_final;
		return running->value;
	}
	InitFunctionCallInfoData(*fcinfo, &call->final, call->final_nargs, call->collation,
							 (Node *) collector->agg_state, NULL);
	/* It may make use of an expanded object, but not change it: that is what nodeAgg.c allows. */
	fcinfo->args[0].value = MakeExpandedObjectReadOnly(running->value, running->isnull, call->length);
	fcinfo->args[0].isnull = running->isnull;
	for (int i = 1; i < call->final_nargs; i++)
	{
		fcinfo->args[i].value = (Datum) 0;
		fcinfo->args[i].isnull = true;
	}
	result = FunctionCallInvoke(fcinfo);
	*isnull = fcinfo->isnull;
	return result;
}

static Datum
run(SckptAggregate *agg, SckptAggCall *call, CollectCall *collect, const SckptElementValue *elements, uint64 count, bool *isnull)
{
	SckptCollector *collector = agg->collector;
	Running		running = {(Datum) 0, true, call->initial_null && call->strict};
	MemoryContext old;
	Datum		result;

	/* What a result that failed has left behind goes first. */
	ReScanExprContext(collector->context);
	MemoryContextReset(collector->scratch);
	if (!call->initial_null)
		sckpt_call_keep(call, collector->context->ecxt_per_tuple_memory, &running.value, &running.isnull, call->initial, false);
	for (uint64 i = 0; i < count; i++)
		run_element(collector, call, collect, &running, &elements[i]);

	old = MemoryContextSwitchTo(collector->scratch);
	result = finish(collector, call, &running, isnull);
	MemoryContextSwitchTo(old);
	if (!*isnull && !call->result_by_value)
		result = datumCopy(result, false, call->result_length);
	ReScanExprContext(collector->context);
	MemoryContextReset(collector->scratch);
	return result;
}

/* ---- Ordered-set aggregates ---- */

/* The value of a row, counted from 0; *at and *before (rows of the elements before it) lead on from one call to the next. */
static Datum
row_value(CollectCall *collect, const SckptElementValue *elements, uint64 *at, int64 *before, int64 row)
{
	while (*before + elements[*at].count <= row)
	{
		CHECK_FOR_INTERRUPTS();
		*before += elements[*at].count;
		(*at)++;
	}
	return elements[*at].values[collect->args[0]];
}

static Datum
percentile(CollectCall *collect, const SckptElementValue *elements, int64 rows, bool *isnull)
{
	double		fraction = collect->fraction;
	uint64		at = 0;
	int64		before = 0;
	double		exact;
	int64		row;
	Datum		low;
	Datum		high;

	*isnull = collect->fraction_null;
	if (collect->fraction_null)
		return (Datum) 0;
	if (fraction < 0 || fraction > 1 || isnan(fraction))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("percentile value %g is not between 0 and 1", fraction)));
	*isnull = rows == 0;
	if (rows == 0)
		return (Datum) 0;

	if (collect->kind == COLLECT_PERCENTILE_DISC)
	{
		/* The first row up to which at least this fraction of the rows lies. */
		row = (int64) ceil(fraction * rows);
		return row_value(collect, elements, &at, &before, Max(row, 1) - 1);
	}

	/* Between two rows, in proportion. */
	exact = fraction * (rows - 1);
	row = floor(exact);
	low = row_value(collect, elements, &at, &before, row);
	if (row == (int64) ceil(exact))
		return low;
	high = row_value(collect, elements, &at, &before, row + 1);
	exact -= row;
	if (collect->interval)
	{
		Datum		distance = DirectFunctionCall2(interval_mi, high, low);

		return DirectFunctionCall2(interval_pl, DirectFunctionCall2(interval_mul, distance, Float8GetDatum(exact)), low);
	}
	return Float8GetDatum(DatumGetFloat8(low) + exact * (DatumGetFloat8(high) - DatumGetFloat8(low)));
}

/* The most frequent value, the first of them in order.  Values that are the same to the ordering are one, as for PostgreSQL. */
static Datum
mode(CollectCall *collect, const SckptElementValue *elements, uint64 count, bool *isnull)
{
	int			column = collect->args[0];
	uint64		best = 0;
	int64		best_rows = 0;
	uint64		first = 0;

	*isnull = count == 0;
	while (first < count)
	{
		int64		rows = elements[first].count;
		uint64		next = first + 1;

		CHECK_FOR_INTERRUPTS();
		while (next < count &&
			   ApplySortComparator(elements[first].values[column], false, elements[next].values[column], false,
								   &collect->orders[0].sort) == 0)
			rows += elements[next++].count;
		if (rows > best_rows)
		{
			best = first;
			best_rows = rows;
		}
		first = next;
	}
	return *isnull ? (Datum) 0 : elements[best].values[column];
}

/* ---- Results ---- */

Datum
sckpt_aggregate_collect(SckptAggregate *agg, int index, SckptRef ref, bool *isnull)
{
	SckptAggCall *call = &agg->calls[index];
	CollectCall *collect;
	SckptElementValue *elements;
	uint64		count;
	int64		rows;

	Assert(call->mode == SCKPT_CALL_COLLECT);
	if (OidIsValid(call->source->first))
	{
		Datum		first = (Datum) 0;

		*isnull = !sckpt_sets_first(agg->sets, ref, call->set, &first);
		return first;
	}
	if (agg->collector == NULL)
		agg->collector = create_collector(agg);
	if (agg->collector->calls[index] == NULL)
		agg->collector->calls[index] = prepare_collect(agg, index);
	collect = agg->collector->calls[index];

	elements = sorted_elements(agg, call, collect, ref, &count, &rows);
	switch (collect->kind)
	{
		case COLLECT_RUN:
			break;
		case COLLECT_PERCENTILE_DISC:
		case COLLECT_PERCENTILE_CONT:
			return percentile(collect, elements, rows, isnull);
		case COLLECT_MODE:
			return mode(collect, elements, count, isnull);
	}
	return run(agg, call, collect, elements, count, isnull);
}
