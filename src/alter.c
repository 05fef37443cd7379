/*-------------------------------------------------------------------------
 *
 * alter.c
 *		alter_pipeline(): another query, and other options, for a pipeline
 *		that keeps its state.
 *
 *		turn			one session at a time
 *		checkpoint		of a running pipeline: it covers all rows committed before the call
 *		lock			the row of pipeline_def, FOR UPDATE: from here on the worker stores nothing; what others
 *						have changed meanwhile counts
 *		definition		with a new version, at which the worker makes its task anew when it sees it
 *		result			its columns follow
 *		state			loaded under the new definition, which finds what it still has of it, and stored with the
 *						results of all groups
 *
 * All but the first step is in the caller's transaction.  When that ends, the worker goes on: with the new definition, from the position of
 * the checkpoint, or with the old one and what it has in memory.  So nothing is lost or doubled either way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "alter.h"
#include "hook.h"
#include "offline.h"
#include "pipeline.h"
#include "settings.h"
#include "shared.h"
#include "task.h"

PG_FUNCTION_INFO_V1(stream_ckpt_alter_pipeline);

/* Arguments, by their place. */
enum
{
	ARG_NAME,
	ARG_QUERY,
	ARG_SINK,
	ARG_EMIT,
	ARG_ON_ERROR,
	ARG_CHECKPOINT_INTERVAL,
	ARG_RETAINED_CHECKPOINTS,
	ARG_PARALLELISM,
	ARG_ALLOWED_LATENESS,
	ARG_STATE_TTL,
	ARG_RESET_STATE
};

#define MAX_PARALLELISM 1024

/* Of a fixed length, which has been checked. */
static int64
microseconds(Interval *interval)
{
	return interval->day * USECS_PER_DAY + interval->time;
}

static void
check_number(const char *option, int value, int least, int most)
{
	if (value < least || value > most)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between %d and %d", option, least, most)));
}

static void
check_arguments(FunctionCallInfo fcinfo)
{
	for (int i = ARG_NAME; i <= ARG_RESET_STATE; i += ARG_RESET_STATE)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" must not be null", i == ARG_NAME ? "name" : "reset_state")));
	}
	if (!PG_ARGISNULL(ARG_EMIT))
		sckpt_pipeline_check_choice("emit", text_to_cstring(PG_GETARG_TEXT_PP(ARG_EMIT)), "changes", "final");
	if (!PG_ARGISNULL(ARG_ON_ERROR))
		sckpt_pipeline_check_choice("on_error", text_to_cstring(PG_GETARG_TEXT_PP(ARG_ON_ERROR)), "stop", "dead_letter");
	if (!PG_ARGISNULL(ARG_CHECKPOINT_INTERVAL))
		sckpt_pipeline_check_duration("checkpoint_interval", PG_GETARG_INTERVAL_P(ARG_CHECKPOINT_INTERVAL), true);
	if (!PG_ARGISNULL(ARG_RETAINED_CHECKPOINTS))
		check_number("retained_checkpoints", PG_GETARG_INT32(ARG_RETAINED_CHECKPOINTS), 0, PG_INT32_MAX);
	if (!PG_ARGISNULL(ARG_PARALLELISM))
		check_number("parallelism", PG_GETARG_INT32(ARG_PARALLELISM), 1, MAX_PARALLELISM);
	if (!PG_ARGISNULL(ARG_ALLOWED_LATENESS))
		sckpt_pipeline_check_duration("allowed_lateness", PG_GETARG_INTERVAL_P(ARG_ALLOWED_LATENESS), true);
	if (!PG_ARGISNULL(ARG_STATE_TTL))
		sckpt_pipeline_check_duration("state_ttl", PG_GETARG_INTERVAL_P(ARG_STATE_TTL), true);
}

/* The definition as the arguments change it. */
static SckptPipeline *
changed_definition(FunctionCallInfo fcinfo, SckptPipeline *old)
{
	SckptPipeline *new = palloc(sizeof(SckptPipeline));

	*new = *old;
	new->version = old->version + 1;
	if (!PG_ARGISNULL(ARG_QUERY))
	{
		new->query = text_to_cstring(PG_GETARG_TEXT_PP(ARG_QUERY));
		new->search_path = pstrdup(GetConfigOption("search_path", false, false));
		new->timezone = pstrdup(GetConfigOption("TimeZone", false, false));
		new->datestyle = pstrdup(GetConfigOption("DateStyle", false, false));
		new->intervalstyle = pstrdup(GetConfigOption("IntervalStyle", false, false));
		new->text_search_config = pstrdup(GetConfigOption("default_text_search_config", false, false));
	}
	if (!PG_ARGISNULL(ARG_EMIT))
		new->final = strcmp(text_to_cstring(PG_GETARG_TEXT_PP(ARG_EMIT)), "final") == 0;
	if (!PG_ARGISNULL(ARG_ALLOWED_LATENESS))
		new->lateness = microseconds(PG_GETARG_INTERVAL_P(ARG_ALLOWED_LATENESS));
	if (!PG_ARGISNULL(ARG_STATE_TTL))
		new->ttl = microseconds(PG_GETARG_INTERVAL_P(ARG_STATE_TTL));

	/* What has closed stays so. */
	if (PG_GETARG_BOOL(ARG_RESET_STATE))
		new->closed_until = DT_NOBEGIN;
	else if (new->lateness > old->lateness && !TIMESTAMP_NOT_FINITE(old->watermark))
		new->closed_until = Max(old->closed_until, add_time(old->watermark, -old->lateness));
	return new;
}

/* Read, or lock, the pipeline's row.  Was it our own transaction that has written it?  Then its worker has stored nothing since. */
static bool
is_ours(SckptPipeline *pipeline, bool lock)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(pipeline->id)};
	SckptUser	saved;
	bool		isnull;
	TransactionId xmin;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args(lock ? "SELECT xmin FROM stream_ckpt.pipeline_def WHERE id = $1 FOR UPDATE" :
							  "SELECT xmin FROM stream_ckpt.pipeline_def WHERE id = $1",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not lock a pipeline");
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" does not exist", pipeline->name)));
	xmin = DatumGetTransactionId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	sckpt_catalog_leave(&saved);
	return TransactionIdIsCurrentTransactionId(xmin);
}

/* The query of a definition, as its owner has it under the definition's settings. */
static SckptQuery *
analyze(SckptPipeline *def)
{
	SckptTask	acting = {.def = def,.offline = true};
	SckptIdentity identity;
	SckptQuery *query;

	sckpt_task_become_owner(&acting, &identity);
	query = sckpt_query_analyze(def->query, def->final, def->ttl > 0);
	sckpt_task_become_self(&identity);
	return query;
}

static void
check_query(SckptPipeline *old, SckptPipeline *new, SckptQuery *query)
{
	SckptQuery *last = sckpt_query_last(query);

	if (list_difference_oid(query->streams, old->streams) != NIL || list_difference_oid(old->streams, query->streams) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("pipeline \"%s\" cannot be changed to read other streams", old->name),
				 errhint("Create another pipeline.")));
	if (new->ttl > 0)
		sckpt_pipeline_check_ttl(query);
	if (!old->result_owned)
		sckpt_pipeline_check_sink(old->result, last, query->streams, last->grouped && !new->final);
}

/* The row of pipeline_def, from arguments and from what follows from them. */
static void
store_definition(FunctionCallInfo fcinfo, SckptPipeline *new, SckptQuery *query)
{
	static const char sql[] =
		"UPDATE stream_ckpt.pipeline_def SET version = version + 1, error = NULL, query = $2, search_path = $3, timezone = $4, "
		"datestyle = $5, intervalstyle = $6, text_search_config = $7, columns = coalesce($8, columns), "
		"emit = coalesce($9, emit), on_error = coalesce($10, on_error), "
		"checkpoint_interval = CASE WHEN $11 = '0' THEN NULL ELSE coalesce($11, checkpoint_interval) END, "
		"retained_checkpoints = CASE WHEN $12 = 0 THEN NULL ELSE coalesce($12, retained_checkpoints) END, "
		"parallelism = coalesce($13, parallelism), allowed_lateness = coalesce($14, allowed_lateness), "
		"state_ttl = CASE WHEN $15 = '0' THEN NULL ELSE coalesce($15, state_ttl) END, closed_until = $16, "
		"stateful = coalesce($17, stateful) WHERE id = $1";
	Oid			types[17] = {INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT2ARRAYOID, TEXTOID, TEXTOID,
	INTERVALOID, INT4OID, INT4OID, INTERVALOID, INTERVALOID, TIMESTAMPTZOID, BOOLOID};
	Datum		values[17];
	char		nulls[17];
	SckptUser	saved;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = Int64GetDatum(new->id);
	values[1] = CStringGetTextDatum(new->query);
	values[2] = CStringGetTextDatum(new->search_path);
	values[3] = CStringGetTextDatum(new->timezone);
	values[4] = CStringGetTextDatum(new->datestyle);
	values[5] = CStringGetTextDatum(new->intervalstyle);
	values[6] = CStringGetTextDatum(new->text_search_config);
	nulls[7] = nulls[16] = query ? ' ' : 'n';
	if (query)
	{
		Datum	   *columns = palloc(Max(1, list_length(query->columns)) * sizeof(Datum));
		ListCell   *lc;

		foreach(lc, query->columns)
			columns[foreach_current_index(lc)] = Int16GetDatum(lfirst_int(lc));
		values[7] = PointerGetDatum(construct_array(columns, list_length(query->columns), INT2OID, sizeof(int16), true,
													TYPALIGN_SHORT));
		values[16] = BoolGetDatum(sckpt_query_stateful(query));
	}
	for (int i = ARG_EMIT; i <= ARG_STATE_TTL; i++)
	{
		nulls[8 + i - ARG_EMIT] = PG_ARGISNULL(i) ? 'n' : ' ';
		values[8 + i - ARG_EMIT] = fcinfo->args[i].value;
	}
	nulls[15] = new->closed_until == DT_NOBEGIN ? 'n' : ' ';
	values[15] = TimestampTzGetDatum(new->closed_until);
	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args(sql, 17, types, values, nulls, false, 0) != SPI_OK_UPDATE || SPI_processed != 1)
		elog(ERROR, "could not change pipeline \"%s\"", new->name);
	sckpt_catalog_leave(&saved);
}

/* The pipeline forgets all, and starts as if it were created now. */
static void
start_over(SckptPipeline *new)
{
	static const char sql[] =
		"WITH def AS (UPDATE stream_ckpt.pipeline_def SET created_xid = $2, start = $3 WHERE id = $1), "
		"chunks AS (DELETE FROM stream_ckpt.chunk WHERE pipeline_id = $1), "
		"gone AS (DELETE FROM stream_ckpt.retained WHERE pipeline_id = $1), "
		"undone AS (DELETE FROM stream_ckpt.touched WHERE pipeline_id = $1) "
		"UPDATE stream_ckpt.pipeline_position SET last_checkpoint = 0, next_checkpoint = $6, position = $4, restart = $5, "
		"watermark = NULL, clock = NULL, stream_watermarks = '{}', stream_idle = '{}', stream_managed = '{}', "
		"stream_rows = '{}', chunks = 0 WHERE pipeline_id = $1";
	Oid			types[6] = {INT8OID, XIDOID, LSNOID, LSNOID, LSNOID, INT8OID};
	Datum		values[6];
	XLogRecPtr	restart = sckpt_pipeline_hold_log();
	XLogRecPtr	start = GetXLogInsertRecPtr();
	SckptUser	saved;

	values[0] = Int64GetDatum(new->id);
	values[1] = TransactionIdGetDatum(GetTopTransactionId());
	values[2] = LSNGetDatum(start);
	values[3] = LSNGetDatum(start - 1);
	values[4] = LSNGetDatum(restart);
	values[5] = Int64GetDatum(new->next_checkpoint);
	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args(sql, 6, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not reset pipeline \"%s\"", new->name);
	sckpt_catalog_leave(&saved);
}

/* The state, and the results of all groups, under the new definition. */
static void
rewrite_state(SckptPipeline *old, SckptPipeline *new)
{
	SckptTask  *task;

	/* Before the first checkpoint there is nothing. */
	if (old->last_checkpoint == 0)
		return;
	task = sckpt_offline_load(new, 0);
	sckpt_fault_point("alter-loaded");
	if (new->final && !old->final)
		sckpt_offline_withdraw(task);
	(void) sckpt_offline_store(task);
	sckpt_offline_end(task);
}

static void
change(FunctionCallInfo fcinfo, SckptPipeline *old, bool state)
{
	bool		reset = PG_GETARG_BOOL(ARG_RESET_STATE);
	SckptPipeline *new = changed_definition(fcinfo, old);
	SckptTask	acting = {.def = new,.offline = true};
	SckptIdentity identity;
	SckptQuery *before;
	SckptQuery *after;

	if (!PG_ARGISNULL(ARG_ON_ERROR) && strcmp(text_to_cstring(PG_GETARG_TEXT_PP(ARG_ON_ERROR)), "dead_letter") == 0)
		sckpt_pipeline_check_frames(analyze(old), true);
	if (!state)
	{
		store_definition(fcinfo, new, NULL);
		return;
	}
	if (reset && !old->result_owned)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("pipeline \"%s\" cannot start over, because \"%s\" is not a table of its own",
						old->name, get_rel_name(old->result)),
				 errhint("Drop the pipeline, delete its rows from the table, and create it anew.")));
	before = analyze(old);
	after = analyze(new);
	check_query(old, new, after);
	sckpt_pipeline_check_frames(after, new->keep_dead);
	if (!reset)
		sckpt_alter_check_state(old, before, after, old->final, new->final);
	store_definition(fcinfo, new, after);
	new->columns = after->columns;

	/* As the owner, whose functions a change of the table may run. */
	sckpt_task_become_owner(&acting, &identity);
	if (old->result_owned)
		sckpt_alter_result(old, before, after, reset);
	sckpt_pipeline_check_plans(after, old->result, new->final);
	sckpt_task_become_self(&identity);
	if (reset)
		start_over(new);
	else if (sckpt_query_stateful(after))
		rewrite_state(old, new);
}

Datum
stream_ckpt_alter_pipeline(PG_FUNCTION_ARGS)
{
	char	   *name;
	SckptPipeline *pipeline;
	bool		state;
	bool		any = false;
	ListCell   *lc;

	sckpt_shared_require();
	check_arguments(fcinfo);
	name = text_to_cstring(PG_GETARG_TEXT_PP(ARG_NAME));
	PreventCommandIfReadOnly("alter_pipeline()");
	PreventCommandDuringRecovery("alter_pipeline()");
	if (!sckpt_catalog_lock_extension())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"stream_ckpt\" does not exist")));
	pipeline = sckpt_pipeline_require(name);
	if (!PG_ARGISNULL(ARG_SINK) && PG_GETARG_OID(ARG_SINK) != pipeline->result)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the sink of pipeline \"%s\" cannot be changed", name),
				 errhint("Create another pipeline.")));
	if (!pipeline->at_home || pipeline->arriving)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pipeline \"%s\" is being restored", name),
				 errhint("Wait until it is running.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("alter_pipeline() cannot be used in a transaction with isolation level %s",
						XactIsoLevel == XACT_SERIALIZABLE ? "serializable" : "repeatable read"),
				 errhint("Use READ COMMITTED.")));

	for (int i = ARG_QUERY; i < ARG_RESET_STATE; i++)
		any |= i != ARG_SINK && !PG_ARGISNULL(i);
	state = !PG_ARGISNULL(ARG_QUERY) || !PG_ARGISNULL(ARG_EMIT) || !PG_ARGISNULL(ARG_ALLOWED_LATENESS) ||
		!PG_ARGISNULL(ARG_STATE_TTL) || PG_GETARG_BOOL(ARG_RESET_STATE);
	if (!any && !state)
		PG_RETURN_VOID();

	sckpt_offline_lock(pipeline);
	pipeline = sckpt_pipeline_require(name);

	/* The rows before us belong to what there is now.  One that does not run has no part in that. */
	if (state && !PG_GETARG_BOOL(ARG_RESET_STATE) && !pipeline->paused && !pipeline->error &&
		!TransactionIdIsCurrentTransactionId(pipeline->created_xid) && !is_ours(pipeline, false))
		sckpt_pipeline_checkpoint(pipeline);

	/* Who drops a stream locks it before its pipelines, too. */
	foreach(lc, pipeline->streams)
		LockRelationOid(lfirst_oid(lc), AccessShareLock);
	(void) is_ours(pipeline, true);

	/* As others have left it. */
	pipeline = sckpt_pipeline_require(name);
	change(fcinfo, pipeline, state);
	sckpt_hook_wake_at_commit(true);
	PG_RETURN_VOID();
}
