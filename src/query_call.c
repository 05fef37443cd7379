/*-------------------------------------------------------------------------
 *
 * query_call.c
 *		How each aggregate call of a stage is kept up to date, and the sets
 *		that those with DISTINCT or an order need.
 *
 * A call whose values must be at hand when its result is asked for has a
 * counted set of its own.  The set tells values apart by their image, so that
 * what is computed from it is what plain SQL computes, whatever came first:
 * 1.0 and 1.00 are equal, and the sum of either shows which it was.  What DISTINCT
 * has seen is told apart by equality: of values that are equal and do not look
 * the same the one that came first counts.
 *
 * Where rows can be taken back, calls use PostgreSQL's inverse transition
 * functions, where the state that goes with them can be stored.  Whoever adds and subtracts floats
 * drifts; those are computed anew from all values.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "query_private.h"

#define MAX_MARKS 64			/* calls that share a marked set */

/* What matters of pg_aggregate. */
typedef struct AggregateTraits
{
	bool		storable;		/* its transition value can be stored */
	bool		combines;
	bool		inverts;		/* it has an inverse transition function whose state can be stored */
	bool		inverse_fails;	/* that may give up */
	Oid			sort_op;		/* it is the first value by this operator; InvalidOid: it is no such aggregate */
} AggregateTraits;

/* Does the inverse transition function never give up? Else, sum(numeric) for one does when it cannot tell the scale. */
static bool
never_fails(Oid inverse)
{
	static const char *const names[] = {
		"cash_mi", "int2_accum_inv", "int2_avg_accum_inv", "int4_accum_inv", "int4_avg_accum_inv", "int8_accum_inv", "int8_avg_accum_inv",
		"interval_accum_inv", "interval_avg_accum_inv", "interval_mi",
	};
	char	   *name = get_func_name(inverse);

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(names[i], name) == 0)
			return get_func_namespace(inverse) == PG_CATALOG_NAMESPACE;
	}
	return false;
}

static bool
is_float(Oid type)
{
	return type == FLOAT4OID || type == FLOAT8OID || type == FLOAT4ARRAYOID || type == FLOAT8ARRAYOID;
}

static AggregateTraits
aggregate_traits(Aggref *aggref)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate form;
	AggregateTraits traits;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	traits.storable = form->aggtranstype != INTERNALOID ||
		(OidIsValid(form->aggserialfn) && OidIsValid(form->aggdeserialfn));
	traits.combines = OidIsValid(form->aggcombinefn);

	/* The functions that store an internal state are those of the ordinary one. */
	traits.inverts = OidIsValid(form->aggminvtransfn) && !is_float(form->aggmtranstype) &&
		(form->aggmtranstype != INTERNALOID || (form->aggmtransfn == form->aggtransfn && traits.storable && traits.combines));
	traits.inverse_fails = traits.inverts && !never_fails(form->aggminvtransfn);
	traits.sort_op = form->aggsortop;

	/*
	 * What is stored must not depend on PostgreSQL's version, or it would not survive pg_upgrade: 15 cannot store these.
	 * Besides, with DISTINCT their values are sorted, as they are elsewhere.
	 */
	switch (aggref->aggfnoid)
	{
		case F_ARRAY_AGG_ANYNONARRAY:
		case F_ARRAY_AGG_ANYARRAY:
		case F_STRING_AGG_TEXT_TEXT:
		case F_STRING_AGG_BYTEA_BYTEA:
			traits.storable = traits.combines = traits.inverts = false;
	}
	ReleaseSysCache(tuple);
	return traits;
}

/* The fraction that percentile_…() is asked for; NULL for mode(). */
static Node *
direct_argument(Aggref *aggref)
{
	Node	   *direct;

	switch (aggref->aggfnoid)
	{
		case F_MODE:
			return NULL;
		case F_PERCENTILE_DISC_FLOAT8_ANYELEMENT:
		case F_PERCENTILE_CONT_FLOAT8_FLOAT8:
		case F_PERCENTILE_CONT_FLOAT8_INTERVAL:
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("ordered-set aggregate %s is not supported in a pipeline", format_procedure(aggref->aggfnoid)),
					 errhint("mode(), percentile_disc() and percentile_cont() of one fraction are.")));
	}

	direct = eval_const_expressions(NULL, linitial(aggref->aggdirectargs));
	if (!IsA(direct, Const))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ordered-set aggregate %s of a fraction that is not a constant is not supported in a pipeline",
						format_procedure(aggref->aggfnoid)),
				 errhint("Write the fraction as a number.")));
	if (!((Const *) direct)->constisnull)
	{
		double		fraction = DatumGetFloat8(((Const *) direct)->constvalue);

		if (fraction < 0 || fraction > 1 || isnan(fraction))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("percentile value %g is not between 0 and 1", fraction)));
	}
	return direct;
}

static SckptCallMode
choose_mode(SckptLevel *level, Aggref *aggref, const AggregateTraits *traits)
{
	bool		counts = aggref->aggfnoid == F_COUNT_ || aggref->aggfnoid == F_COUNT_ANY;

	if (aggref->aggkind != AGGKIND_NORMAL || aggref->aggorder)
		return SCKPT_CALL_COLLECT;
	if (level->stage->retracting)
	{
		if (aggref->aggdistinct)
			return SCKPT_CALL_COLLECT;
		return counts ? SCKPT_CALL_TRANSITION : traits->inverts ? SCKPT_CALL_INVERSE : SCKPT_CALL_COLLECT;
	}
	if (aggref->aggdistinct)
		return traits->storable ? SCKPT_CALL_DISTINCT : SCKPT_CALL_COLLECT;
	if (level->stage->nsession > 0 && !traits->combines)
		return SCKPT_CALL_COLLECT;
	if (!traits->storable)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("aggregate %s is not supported in a pipeline, because its state cannot be stored",
						format_procedure(aggref->aggfnoid)),
				 errhint("With an ORDER BY in the call the values themselves are kept, and the aggregate is computed from them.")));
	return SCKPT_CALL_TRANSITION;
}

SckptCallMode
sckpt_call_frame_mode(Aggref *aggref, bool unbounded)
{
	AggregateTraits traits = aggregate_traits(aggref);
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate form = (Form_pg_aggregate) GETSTRUCT(tuple);
	SckptCallMode mode = unbounded ? SCKPT_CALL_TRANSITION : traits.inverts ? SCKPT_CALL_INVERSE : SCKPT_CALL_COLLECT;
	bool		reads_only = (mode == SCKPT_CALL_INVERSE ? form->aggmfinalmodify : form->aggfinalmodify) == AGGMODIFY_READ_ONLY;

	ReleaseSysCache(tuple);
	if (!reads_only)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("aggregate function %s does not support use as a window function", format_procedure(aggref->aggfnoid))));
	if (mode == SCKPT_CALL_TRANSITION && !traits.storable)
		sckpt_query_refuse(psprintf("aggregate %s over all rows up to the current one, whose state cannot be stored,",
									format_procedure(aggref->aggfnoid)),
						   "Give its frame a beginning: ROWS BETWEEN n PRECEDING AND CURRENT ROW.");
	return mode;
}

/* ---- Sets ---- */

/* The clause of DISTINCT with this argument. */
static SortGroupClause *
clause_of(List *clauses, TargetEntry *entry)
{
	ListCell   *lc;

	foreach(lc, clauses)
	{
		SortGroupClause *clause = lfirst(lc);

		if (clause->tleSortGroupRef == entry->ressortgroupref && entry->ressortgroupref != 0)
			return clause;
	}
	return NULL;
}

/* By which operator are values of a marked set's column told apart? */
static Oid
set_equality(Aggref *aggref, TargetEntry *entry)
{
	Oid			type = exprType((Node *) entry->expr);
	SortGroupClause *clause = clause_of(aggref->aggdistinct, entry);
	Oid			equality;

	if (clause)
		equality = clause->eqop;
	else
		equality = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
	if (!OidIsValid(equality) || !op_hashjoinable(equality, type) ||
		!OidIsValid(lookup_type_cache(type, TYPECACHE_HASH_PROC)->hash_proc))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("DISTINCT in aggregate %s over type %s is not supported in a pipeline, because the type has no hash operator class",
						format_procedure(aggref->aggfnoid), format_type_be(type)),
				 errhint("Cast the argument to a type that has one, such as text.")));
	return equality;
}

/* How many calls, of those set up so far, use the set? */
static int
users_of_set(SckptQuery *stage, int set)
{
	int			users = 0;

	for (int i = 0; i < stage->ncalls; i++)
		users += stage->calls[i].mode != SCKPT_CALL_TRANSITION && stage->calls[i].set == set;
	return users;
}

/* Find the set for a call's values, or make it. */
static int
find_set(SckptQuery *stage, SckptSetColumns *wanted)
{
	SckptSetColumns *set;

	for (int i = 0; i < stage->nsets && !wanted->counted; i++)
	{
		bool		same;

		set = &stage->sets[i];
		same = !set->counted && set->ncolumns == wanted->ncolumns;
		for (int c = 0; same && c < set->ncolumns; c++)
			same = set->source[c] == wanted->source[c] && set->columns[c].eq_op == wanted->columns[c].eq_op;
		if (same && users_of_set(stage, i) < MAX_MARKS)
			return i;
	}
	stage->sets = stage->sets == NULL ? palloc(sizeof(SckptSetColumns)) :
		repalloc(stage->sets, (stage->nsets + 1) * sizeof(SckptSetColumns));
	stage->sets[stage->nsets] = *wanted;
	return stage->nsets++;
}

static void
set_order(SckptCall *call, Aggref *aggref)
{
	List	   *clauses = aggref->aggdistinct ? aggref->aggdistinct : aggref->aggorder;
	ListCell   *lc;

	call->sort_columns = palloc0(Max(1, list_length(clauses)) * sizeof(int));
	call->sort_ops = palloc0(Max(1, list_length(clauses)) * sizeof(Oid));
	call->sort_nulls_first = palloc0(Max(1, list_length(clauses)) * sizeof(bool));
	foreach(lc, clauses)
	{
		SortGroupClause *clause = lfirst(lc);
		ListCell   *la;

		foreach(la, aggref->args)
		{
			if (((TargetEntry *) lfirst(la))->ressortgroupref == clause->tleSortGroupRef)
				call->sort_columns[call->nsort] = foreach_current_index(la);
		}
		call->sort_ops[call->nsort] = clause->sortop;
		call->sort_nulls_first[call->nsort] = clause->nulls_first;
		call->nsort++;
	}
}

Expr *
sckpt_call_guard(Expr *filter, Expr *argument)
{
	CaseExpr   *guard;
	CaseWhen   *when;

	if (filter == NULL || IsA(argument, Var) || IsA(argument, Const) || IsA(argument, Param))
		return argument;
	when = makeNode(CaseWhen);
	when->expr = copyObject(filter);
	when->result = copyObject(argument);
	when->location = -1;
	guard = makeNode(CaseExpr);
	guard->casetype = exprType((Node *) argument);
	guard->casecollid = exprCollation((Node *) argument);
	guard->args = list_make1(when);
	guard->defresult = (Expr *) makeNullConst(guard->casetype, exprTypmod((Node *) argument), guard->casecollid);
	guard->location = -1;
	return (Expr *) guard;
}

/* By which operator's order is a COLLECT call its first value? */
static Oid
first_by(Aggref *aggref, const AggregateTraits *traits)
{
	Oid			type;

	if (aggref->aggkind != AGGKIND_NORMAL || list_length(aggref->args) != 1)
		return InvalidOid;
	type = exprType((Node *) linitial_node(TargetEntry, aggref->args)->expr);
	return getBaseType(type) == getBaseType(aggref->aggtype) ? traits->sort_op : InvalidOid;
}

/* Set up a call, all of those before it being set up; the arrays of others have mode TRANSITION still. */
void
sckpt_level_set_call(SckptLevel *level, SckptCall *call, Aggref *aggref)
{
	AggregateTraits traits = aggregate_traits(aggref);
	SckptCallMode mode;
	SckptSetColumns set = {0};
	bool		has_set;
	ListCell   *lc;

	call->aggref = aggref;
	call->canonical = sckpt_level_canonical(level, (Node *) aggref);
	if (aggref->aggkind != AGGKIND_NORMAL)
		call->direct = direct_argument(aggref);
	mode = choose_mode(level, aggref, &traits);
	has_set = mode != SCKPT_CALL_TRANSITION && (mode != SCKPT_CALL_INVERSE || traits.inverse_fails);
	if (mode == SCKPT_CALL_COLLECT)
		call->first = first_by(aggref, &traits);

	call->args = palloc0(Max(1, list_length(aggref->args)) * sizeof(AttrNumber));
	set.columns = palloc0(Max(1, list_length(aggref->args)) * sizeof(SckptKey));
	set.counted = mode != SCKPT_CALL_DISTINCT;
	set.order = call->first;
	foreach(lc, aggref->args)
	{
		TargetEntry *entry = lfirst(lc);
		SckptKey   *column = &set.columns[set.ncolumns];

		call->args[set.ncolumns] = sckpt_level_column(level, sckpt_call_guard(aggref->aggfilter, entry->expr));
		if (!entry->resjunk)
			call->nargs++;
		if (has_set)
		{
			column->type = exprType((Node *) entry->expr);
			column->typmod = exprTypmod((Node *) entry->expr);
			column->collation = OidIsValid(call->first) ? aggref->inputcollid : exprCollation((Node *) entry->expr);
			column->eq_op = mode == SCKPT_CALL_DISTINCT ? set_equality(aggref, entry) : InvalidOid;
			column->expr = (Node *) entry->expr;
		}
		set.ncolumns++;
	}
	if (aggref->aggfilter)
		call->filter = sckpt_level_column(level, aggref->aggfilter);

	call->set = -1;
	if (has_set)
	{
		set.source = call->args;
		call->set = find_set(level->stage, &set);
		if (mode == SCKPT_CALL_COLLECT)
			set_order(call, aggref);
	}
	call->mode = mode;
}
