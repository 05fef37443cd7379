/*-------------------------------------------------------------------------
 *
 * aggregate_call.c
 *		Sets up the functions of an aggregate call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/parse_agg.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "aggregate_private.h"
#include "compat.h"
#include "former.h"

static void
check_execute(Oid function, Oid owner, ObjectType type)
{
	AclResult	result = pg_proc_aclcheck(function, owner, ACL_EXECUTE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, type, get_func_name(function));
}

void
sckpt_aggregate_prepare_call(SckptAggregate *agg, SckptAggCall *call, SckptCall *source)
{
	Aggref	   *aggref = source->aggref;
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate form;
	Oid			input_types[FUNC_MAX_ARGS];
	int			ninputs;
	Oid			owner;
	Oid			final_oid;
	Expr	   *expr;
	Datum		initial;
	StringInfoData signature;
	Oid			former;
	HeapTuple	proc;
	bool		moving = source->mode == SCKPT_CALL_INVERSE;
	Oid			transition_oid;
	bool		final_extra;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);

	/* The pipeline's owner may run the aggregate; the aggregate's owner its parts. */
	check_execute(aggref->aggfnoid, GetUserId(), OBJECT_AGGREGATE);
	proc = SearchSysCache1(PROCOID, ObjectIdGetDatum(aggref->aggfnoid));
	owner = ((Form_pg_proc) GETSTRUCT(proc))->proowner;
	ReleaseSysCache(proc);
	transition_oid = moving ? form->aggmtransfn : form->aggtransfn;
	check_execute(transition_oid, owner, OBJECT_FUNCTION);

	ninputs = get_aggregate_argtypes(aggref, input_types);
	call->type = resolve_aggregate_transtype(aggref->aggfnoid, moving ? form->aggmtranstype : form->aggtranstype, input_types, ninputs);
	call->internal = call->type == INTERNALOID;
	get_typlenbyval(call->type, &call->length, &call->by_value);
	call->source = source;
	call->mode = source->mode;
	call->set = source->set;
	call->nargs = source->nargs;
	call->args = source->args;
	call->filter = source->filter;
	call->collation = aggref->inputcollid;
	get_typlenbyval(aggref->aggtype, &call->result_length, &call->result_by_value);

	build_aggregate_transfn_expr(input_types, ninputs, 0, aggref->aggvariadic, call->type, aggref->inputcollid,
								 transition_oid, InvalidOid, &expr, NULL);
	fmgr_info_cxt(transition_oid, &call->transition, agg->context);
	fmgr_info_set_expr((Node *) expr, &call->transition);
	call->strict = call->transition.fn_strict;
	call->fcinfo = palloc0(SizeForFunctionCallInfo(call->nargs + 1));
	InitFunctionCallInfoData(*call->fcinfo, &call->transition, call->nargs + 1, aggref->inputcollid,
							 (Node *) agg->agg_state, NULL);
	if (moving)
	{
		Expr	   *inverse_expr;

		check_execute(form->aggminvtransfn, owner, OBJECT_FUNCTION);
		build_aggregate_transfn_expr(input_types, ninputs, 0, aggref->aggvariadic, call->type, aggref->inputcollid,
									 transition_oid, form->aggminvtransfn, &expr, &inverse_expr);
		fmgr_info_cxt(form->aggminvtransfn, &call->inverse, agg->context);
		fmgr_info_set_expr((Node *) inverse_expr, &call->inverse);
		call->inverse_fcinfo = palloc0(SizeForFunctionCallInfo(call->nargs + 1));
		InitFunctionCallInfoData(*call->inverse_fcinfo, &call->inverse, call->nargs + 1, aggref->inputcollid,
								 (Node *) agg->agg_state, NULL);
	}

#ifdef USE_FLOAT8_BYVAL
	switch (transition_oid)
	{
		case F_INT8INC:
		case F_INT8INC_ANY:
			call->plain = SCKPT_AGG_COUNT;
			break;
		case F_INT4_SUM:
			call->plain = SCKPT_AGG_SUM_INT4;
			break;
		case F_FLOAT8PL:
			call->plain = SCKPT_AGG_SUM_FLOAT8;
			break;
		case F_INT4SMALLER:
		case F_DATE_SMALLER:
			call->plain = SCKPT_AGG_MIN_INT4;
			break;
		case F_INT4LARGER:
		case F_DATE_LARGER:
			call->plain = SCKPT_AGG_MAX_INT4;
			break;
		case F_INT8SMALLER:
		case F_TIMESTAMP_SMALLER:
		case F_TIMESTAMPTZ_SMALLER:
			call->plain = SCKPT_AGG_MIN_INT8;
			break;
		case F_INT8LARGER:
		case F_TIMESTAMP_LARGER:
		case F_TIMESTAMPTZ_LARGER:
			call->plain = SCKPT_AGG_MAX_INT8;
			break;
	}
#endif
	switch (transition_oid)
	{
		case F_INT2AND:
		case F_INT4AND:
		case F_INT8AND:
		case F_BITAND:
		case F_INT2OR:
		case F_INT4OR:
		case F_INT8OR:
		case F_BITOR:
			call->idempotent = true;
			break;
	}

	final_oid = moving ? form->aggmfinalfn : form->aggfinalfn;
	final_extra = moving ? form->aggmfinalextra : form->aggfinalextra;
	call->has_final = OidIsValid(final_oid);
	call->final_reads_only = (moving ? form->aggmfinalmodify : form->aggfinalmodify) == AGGMODIFY_READ_ONLY;
	if (call->has_final)
	{
		check_execute(final_oid, owner, OBJECT_FUNCTION);
		call->final_nargs = final_extra ? ninputs + 1 : 1;
		build_aggregate_finalfn_expr(input_types, call->final_nargs, call->type, aggref->aggtype,
									 aggref->inputcollid, final_oid, &expr);
		fmgr_info_cxt(final_oid, &call->final, agg->context);
		fmgr_info_set_expr((Node *) expr, &call->final);
		call->final_strict = call->final.fn_strict;
	}

	/* An internal state that moves is the ordinary one (query_call.c); others need not be combined. */
	if (OidIsValid(form->aggcombinefn) && (!moving || call->internal))
	{
		check_execute(form->aggcombinefn, owner, OBJECT_FUNCTION);
		build_aggregate_transfn_expr(&call->type, 1, 0, false, call->type, aggref->inputcollid,
									 form->aggcombinefn, InvalidOid, &expr, NULL);
		fmgr_info_cxt(form->aggcombinefn, &call->combine, agg->context);
		fmgr_info_set_expr((Node *) expr, &call->combine);
	}
	if (call->mode == SCKPT_CALL_COLLECT)
	{
		/* No transition value is kept. */
	}
	else if (call->internal)
	{
		check_execute(form->aggserialfn, owner, OBJECT_FUNCTION);
		check_execute(form->aggdeserialfn, owner, OBJECT_FUNCTION);
		build_aggregate_serialfn_expr(form->aggserialfn, &expr);
		fmgr_info_cxt(form->aggserialfn, &call->serialize, agg->context);
		fmgr_info_set_expr((Node *) expr, &call->serialize);
		build_aggregate_deserialfn_expr(form->aggdeserialfn, &expr);
		fmgr_info_cxt(form->aggdeserialfn, &call->deserialize, agg->context);
		fmgr_info_set_expr((Node *) expr, &call->deserialize);
	}
	else
		sckpt_codec_init(&call->codec, call->type, -1, agg->context);

	initial = SysCacheGetAttr(AGGFNOID, tuple, moving ? Anum_pg_aggregate_aggminitval : Anum_pg_aggregate_agginitval,
							  &call->initial_null);
	if (!call->initial_null)
	{
		Oid			input;
		Oid			param;

		getTypeInputInfo(call->type, &input, &param);
		call->initial = OidInputFunctionCall(input, TextDatumGetCString(initial), param, -1);
	}

	initStringInfo(&signature);
	appendStringInfo(&signature, "%s.%s(", get_namespace_name(get_func_namespace(aggref->aggfnoid)),
					 get_func_name(aggref->aggfnoid));
	for (int i = 0; i < ninputs; i++)
		appendStringInfo(&signature, "%s%s", i ? "," : "",
						 format_type_extended(input_types[i], -1, FORMAT_TYPE_FORCE_QUALIFY));
	former = sckpt_former_type(aggref->aggfnoid, call->type);
	if (OidIsValid(former))
	{
		call->former_signature = psprintf("%s) as %s", signature.data,
										  format_type_extended(former, -1, FORMAT_TYPE_FORCE_QUALIFY));
		sckpt_codec_init(&call->former_codec, former, -1, agg->context);
	}
	appendStringInfo(&signature, ") as %s", format_type_extended(call->type, -1, FORMAT_TYPE_FORCE_QUALIFY));
	call->signature = signature.data;
	ReleaseSysCache(tuple);
}
