/*-------------------------------------------------------------------------
 *
 * pipeline.c
 *		create_pipeline() and its companions; create_stream(), drop_stream().
 *
 * A pipeline starts exactly in its creating transaction: it gets every
 * transaction whose commit record comes after the log position at the call,
 * and of the creating transaction what is inserted after it.  Until that
 * transaction ends, a hold keeps the log that transactions open now have written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/int.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parser.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/standby.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "catalog.h"
#include "hook.h"
#include "lookup.h"
#include "note.h"
#include "pipeline.h"
#include "query.h"
#include "result.h"
#include "settings.h"
#include "shared.h"
#include "sink.h"
#include "slot.h"
#include "stream.h"
#include "task.h"

PG_FUNCTION_INFO_V1(stream_ckpt_create_stream);
PG_FUNCTION_INFO_V1(stream_ckpt_drop_stream);
PG_FUNCTION_INFO_V1(stream_ckpt_create_pipeline);
PG_FUNCTION_INFO_V1(stream_ckpt_drop_pipeline);
PG_FUNCTION_INFO_V1(stream_ckpt_pause_pipeline);
PG_FUNCTION_INFO_V1(stream_ckpt_resume_pipeline);

static void
require_argument(FunctionCallInfo fcinfo, int index, const char *name)
{
	if (PG_ARGISNULL(index))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

bool
sckpt_pipeline_visible(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) || has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

SckptPipeline *
sckpt_pipeline_require(const char *name)
{
	SckptPipeline *pipeline;

	sckpt_shared_require();
	sckpt_catalog_require_version();
	pipeline = sckpt_catalog_pipeline(name, false);
	if (!has_privs_of_role(GetUserId(), pipeline->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of pipeline \"%s\"", name)));
	return pipeline;
}

void
sckpt_pipeline_run_sql(const char *sql, int expected)
{
	int			rc;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	rc = SPI_execute(sql, false, 0);
	if (rc != expected)
		elog(ERROR, "could not run \"%s\": %s", sql, SPI_result_code_string(rc));
	SPI_finish();
}

static RangeVar *
range_var(const char *name)
{
	return makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name)));
}

/* ---- Streams ---- */

static DefElem *
stream_option(const char *name, char *value)
{
	return makeDefElem(pstrdup(name), (Node *) makeString(value), -1);
}

static char *
interval_text(Interval *interval)
{
	return DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(interval)));
}

Datum
stream_ckpt_create_stream(PG_FUNCTION_ARGS)
{
	char	   *name;
	char	   *columns;
	RangeVar   *relation;
	char	   *sql;
	List	   *statements;
	CreateForeignTableStmt *statement;
	PlannedStmt *wrapper;

	sckpt_shared_require();
	sckpt_catalog_require_version();
	require_argument(fcinfo, 0, "name");
	require_argument(fcinfo, 1, "columns");
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	columns = text_to_cstring(PG_GETARG_TEXT_PP(1));
	relation = range_var(name);
	if (!OidIsValid(sckpt_catalog_server()))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"stream_ckpt\" does not exist")));

	/* `columns` must be nothing but what stands between the parentheses. */
	sql = psprintf("CREATE FOREIGN TABLE %s (\n%s\n) SERVER stream_ckpt",
				   quote_qualified_identifier(relation->schemaname, relation->relname), columns);
	statements = raw_parser(sql, RAW_PARSE_DEFAULT);
	if (list_length(statements) != 1 || !IsA(linitial_node(RawStmt, statements)->stmt, CreateForeignTableStmt))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("columns of stream \"%s\" must be column definitions only", name)));
	statement = (CreateForeignTableStmt *) linitial_node(RawStmt, statements)->stmt;
	if (statement->options != NIL || statement->base.inhRelations != NIL || statement->base.partbound != NULL ||
		strcmp(statement->servername, "stream_ckpt") != 0 ||
		strcmp(statement->base.relation->relname, relation->relname) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("columns of stream \"%s\" must be column definitions only", name)));

	if (!PG_ARGISNULL(2))
		statement->options = lappend(statement->options, stream_option("event_time", pstrdup(NameStr(*PG_GETARG_NAME(2)))));
	if (!PG_ARGISNULL(3))
	{
		Interval   *delay = PG_GETARG_INTERVAL_P(3);

		if (delay->month != 0 || delay->day != 0 || delay->time != 0)
			statement->options = lappend(statement->options, stream_option("watermark_delay", interval_text(delay)));
	}
	if (!PG_ARGISNULL(4))
		statement->options = lappend(statement->options, stream_option("idle_timeout", interval_text(PG_GETARG_INTERVAL_P(4))));

	wrapper = makeNode(PlannedStmt);
	wrapper->commandType = CMD_UTILITY;
	wrapper->canSetTag = false;
	wrapper->utilityStmt = (Node *) statement;
	wrapper->stmt_location = -1;
	ProcessUtility(wrapper, sql, false, PROCESS_UTILITY_QUERY, NULL, NULL, None_Receiver, NULL);
	CommandCounterIncrement();

	PG_RETURN_OID(RangeVarGetRelid(relation, NoLock, false));
}

Datum
stream_ckpt_drop_stream(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		cascade = PG_GETARG_BOOL(1);
	Oid			relid;

	sckpt_shared_require();
	sckpt_catalog_require_version();
	relid = RangeVarGetRelid(range_var(name), NoLock, true);
	sckpt_stream_require(relid, name);
	sckpt_pipeline_run_sql(psprintf("DROP FOREIGN TABLE %s%s",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid)),
					 cascade ? " CASCADE" : ""), SPI_OK_UTILITY);
	PG_RETURN_VOID();
}

/* ---- Creating a pipeline ---- */

void
sckpt_pipeline_check_choice(const char *option, const char *value, const char *first, const char *second)
{
	if (strcmp(value, first) != 0 && strcmp(value, second) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"%s\": \"%s\"", option, value),
				 errhint("Valid values are \"%s\" and \"%s\".", first, second)));
}

/* Must be of a fixed length (a day has 24 hours), not too long to reckon with, and positive, or at least not negative. */
void
sckpt_pipeline_check_duration(const char *option, Interval *interval, bool zero_allowed)
{
	int64		days;
	int64		length;

	if (pg_mul_s64_overflow(interval->day, USECS_PER_DAY, &days) ||
		pg_add_s64_overflow(days, interval->time, &length) || length > PG_INT64_MAX / 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is out of range", option)));
	if (interval->month != 0 || length < 0 || (length == 0 && !zero_allowed))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 zero_allowed ? errmsg("%s must not be negative or have months", option)
				 : errmsg("%s must be positive and without months", option)));
}

static void
check_options(FunctionCallInfo fcinfo)
{
	for (int i = 3; i <= 4; i++)
		require_argument(fcinfo, i, i == 3 ? "emit" : "on_error");
	require_argument(fcinfo, 7, "parallelism");
	require_argument(fcinfo, 8, "allowed_lateness");
	sckpt_pipeline_check_choice("emit", text_to_cstring(PG_GETARG_TEXT_PP(3)), "changes", "final");
	sckpt_pipeline_check_choice("on_error", text_to_cstring(PG_GETARG_TEXT_PP(4)), "stop", "dead_letter");
	if (!PG_ARGISNULL(5))
		sckpt_pipeline_check_duration("checkpoint_interval", PG_GETARG_INTERVAL_P(5), false);
	for (int i = 6; i <= 7; i++)
	{
		const char *option = i == 6 ? "retained_checkpoints" : "parallelism";

		if (PG_ARGISNULL(i) || PG_GETARG_INT32(i) == 1)
			continue;
		if (PG_GETARG_INT32(i) < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must be at least 1", option)));
		if (PG_GETARG_INT32(i) > (i == 6 ? 1000 : SCKPT_MAX_TASKS))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must be at most %d", option, i == 6 ? 1000 : SCKPT_MAX_TASKS)));
	}
	sckpt_pipeline_check_duration("allowed_lateness", PG_GETARG_INTERVAL_P(8), true);
	if (!PG_ARGISNULL(9))
		sckpt_pipeline_check_duration("state_ttl", PG_GETARG_INTERVAL_P(9), false);
}

/* Are rows told apart by their keys, which all have an order, so that a unique index can be over them? */
static bool
keys_have_order(SckptQuery *query)
{
	if (query->bag)
		return false;
	for (int i = 0; i < query->nsink; i++)
	{
		if (!OidIsValid(GetDefaultOpClass(query->sink_keys[i].type, BTREE_AM_OID)))
			return false;
	}
	return true;
}

/* The type of a result's column, as DDL has it. */
char *
sckpt_pipeline_column_type(Form_pg_attribute att)
{
	char	   *type = format_type_with_typemod(att->atttypid, att->atttypmod);

	if (OidIsValid(att->attcollation) && att->attcollation != get_typcollation(att->atttypid))
		type = psprintf("%s COLLATE %s", type, generate_collation_name(att->attcollation));
	return type;
}

/* The index that finds a result's rows by key. */
void
sckpt_pipeline_index_result(Oid relid, SckptQuery *query)
{
	char	   *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
	StringInfoData sql;
	StringInfoData keys;

	initStringInfo(&sql);
	initStringInfo(&keys);
	for (int i = 0; i < query->nsink; i++)
		appendStringInfo(&keys, "%s%s", i ? ", " : "",
						 quote_identifier(NameStr(TupleDescAttr(query->result,
																query->sink_keys[i].result_column - 1)->attname)));
	if (keys_have_order(query))
		appendStringInfo(&sql, "CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT", name, keys.data);
	else
		appendStringInfo(&sql, "CREATE INDEX ON %s (pg_catalog.hash_record_extended(ROW(%s), 0))", name, keys.data);
	sckpt_pipeline_run_sql(sql.data, SPI_OK_UTILITY);
}

/* Are there columns of a keyed result besides its key?  Else its rows come and go, and never change. */
static bool
has_other_columns(SckptQuery *query)
{
	Bitmapset  *keys = NULL;

	for (int i = 0; i < query->nsink; i++)
		keys = bms_add_member(keys, query->sink_keys[i].result_column);
	return bms_num_members(keys) < query->result->natts;
}

/* CREATE TABLE for a query's result, and the index that finds its rows by key. */
static Oid
create_result(RangeVar *relation, SckptQuery *query, bool final)
{
	Oid			namespace = RangeVarGetCreationNamespace(relation);
	char	   *name = quote_qualified_identifier(get_namespace_name(namespace), relation->relname);
	StringInfoData sql;
	Oid			relid;

	if (isAnyTempNamespace(namespace))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a temporary table cannot be the result of a pipeline"),
				 errhint("The pipeline's worker could not see it. Name another schema.")));
	if (OidIsValid(get_relname_relid(relation->relname, namespace)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("relation \"%s\" already exists", relation->relname),
				 errhint("Name it as the sink to write into it.")));

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (", name);
	for (int i = 0; i < query->result->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(query->result, i);

		appendStringInfo(&sql, "%s%s %s", i ? ", " : "", quote_identifier(NameStr(att->attname)),
						 sckpt_pipeline_column_type(att));
	}
	/* Rows of a keyed result are updated over and over: room for that on each page. Final ones never are. */
	appendStringInfo(&sql, ")%s", query->grouped && !final && has_other_columns(query) ? " WITH (fillfactor = 50)" : "");
	sckpt_pipeline_run_sql(sql.data, SPI_OK_UTILITY);
	relid = get_relname_relid(relation->relname, namespace);
	if (query->join && query->join->retracts)
	{
		char	   *hash = sckpt_changing_hash(query->result, "");

		if (hash)
			sckpt_pipeline_run_sql(psprintf("CREATE INDEX ON %s (%s)", name, hash), SPI_OK_UTILITY);
	}
	if (query->nsink == 0)
		return relid;

	sckpt_pipeline_index_result(relid, query);
	return relid;
}

static void
explain_lookup(SckptQuery *stage)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	sckpt_lookup_register(stage, NULL);
	if (SPI_execute(psprintf("EXPLAIN %s", stage->join->lookup), false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not plan \"%s\"", stage->join->lookup);
	SPI_finish();
}

/* Have PostgreSQL plan what will be run, and check the caller's privileges on what it reads and writes. */
void
sckpt_pipeline_check_plans(SckptQuery *query, Oid result, bool final)
{
	SckptQuery *last = sckpt_query_last(query);

	if (!sckpt_query_stateful(query) && query->nwindows == 0)
	{
		sckpt_pipeline_run_sql(psprintf("EXPLAIN %s", sckpt_task_insert_sql(result, query)), SPI_OK_UTILITY);
		return;
	}
	for (SckptQuery *stage = query; stage; stage = stage->above)
	{
		for (int side = 0; side < 2 && stage->join; side++)
		{
			if (stage->join->leaf[side])
				sckpt_pipeline_run_sql(psprintf("EXPLAIN %s", stage->join->leaf[side]->source), SPI_OK_UTILITY);
		}
		if (stage->source)
			sckpt_pipeline_run_sql(psprintf("EXPLAIN %s", stage->source), SPI_OK_UTILITY);
		if (stage->join && stage->join->lookup)
			explain_lookup(stage);
	}
	if (!last->grouped || final)
		sckpt_pipeline_run_sql(psprintf("EXPLAIN %s", sckpt_result_check_sql(result, last->result)), SPI_OK_UTILITY);
}

XLogRecPtr
sckpt_pipeline_hold_log(void)
{
	for (;;)
	{
		XLogRecPtr	restart = InvalidXLogRecPtr;
		XLogRecPtr	retained;
		SckptDatabase *database;

		if (sckpt_slot_retained(MyDatabaseId, &retained) != SCKPT_SLOT_VALID)
			retained = sckpt_slot_ensure(MyDatabaseId);
		LWLockAcquire(sckpt_shared->lock, LW_SHARED);
		database = sckpt_shared_find_database(MyDatabaseId);
		if (database && database->workers[0].pid != 0)
			restart = database->restart_lsn;
		LWLockRelease(sckpt_shared->lock);

		if (restart < retained)
			restart = retained;
		sckpt_hook_hold_log(restart);

		/* Unless the worker has let the slot move on before it could see our hold, which a new look mends. */
		if (sckpt_slot_retained(MyDatabaseId, &retained) == SCKPT_SLOT_VALID && retained <= restart)
			return restart;
		CHECK_FOR_INTERRUPTS();
	}
}

static void
insert_pipeline(FunctionCallInfo fcinfo, const char *name, const char *query, Oid result, bool owned,
				SckptQuery *analyzed, XLogRecPtr start, XLogRecPtr restart)
{
	static const char sql[] =
		"WITH def AS (INSERT INTO stream_ckpt.pipeline_def (name, owner, result, result_owned, query, streams, columns, search_path, "
		"timezone, datestyle, intervalstyle, text_search_config, emit, on_error, checkpoint_interval, "
		"retained_checkpoints, parallelism, allowed_lateness, state_ttl, created_xid, start, home_database, home_system, stateful) "
		"VALUES ($1, $2, $3, $4, $5, $6, $25, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $26) "
		"ON CONFLICT (name) DO NOTHING RETURNING id) INSERT INTO stream_ckpt.pipeline_position (pipeline_id, position, restart) "
		"SELECT id, $23, $24 FROM def";
	Oid			types[26] = {TEXTOID, REGROLEOID, REGCLASSOID, BOOLOID, TEXTOID, REGCLASSARRAYOID, TEXTOID, TEXTOID, TEXTOID,
		TEXTOID, TEXTOID, TEXTOID, TEXTOID, INTERVALOID, INT4OID, INT4OID, INTERVALOID, INTERVALOID, XIDOID, LSNOID,
	OIDOID, TEXTOID, LSNOID, LSNOID, INT2ARRAYOID, BOOLOID};
	Datum		values[26];
	char		nulls[26];
	Datum	   *streams = palloc(list_length(analyzed->streams) * sizeof(Datum));
	Datum	   *columns = palloc(Max(1, list_length(analyzed->columns)) * sizeof(Datum));
	ListCell   *lc;
	SckptUser	saved;
	int			n = 0;

	memset(nulls, ' ', sizeof(nulls));
	values[n++] = CStringGetTextDatum(name);
	values[n++] = ObjectIdGetDatum(GetUserId());
	values[n++] = ObjectIdGetDatum(result);
	values[n++] = BoolGetDatum(owned);
	values[n++] = CStringGetTextDatum(query);
	foreach(lc, analyzed->streams)
		streams[foreach_current_index(lc)] = ObjectIdGetDatum(lfirst_oid(lc));
	values[n++] = PointerGetDatum(construct_array(streams, list_length(analyzed->streams), REGCLASSOID, sizeof(Oid), true,
												  TYPALIGN_INT));
	values[n++] = CStringGetTextDatum(GetConfigOption("search_path", false, false));
	values[n++] = CStringGetTextDatum(GetConfigOption("TimeZone", false, false));
	values[n++] = CStringGetTextDatum(GetConfigOption("DateStyle", false, false));
	values[n++] = CStringGetTextDatum(GetConfigOption("IntervalStyle", false, false));
	values[n++] = CStringGetTextDatum(GetConfigOption("default_text_search_config", false, false));
	values[n++] = fcinfo->args[3].value;
	values[n++] = fcinfo->args[4].value;
	for (int i = 5; i <= 9; i++)
	{
		nulls[n] = PG_ARGISNULL(i) ? 'n' : ' ';
		values[n++] = fcinfo->args[i].value;
	}
	values[n++] = TransactionIdGetDatum(GetTopTransactionId());
	values[n++] = LSNGetDatum(start);
	values[n++] = ObjectIdGetDatum(MyDatabaseId);
	values[n++] = CStringGetTextDatum(psprintf(UINT64_FORMAT, GetSystemIdentifier()));
	values[n++] = LSNGetDatum(start - 1);
	values[n++] = LSNGetDatum(restart);
	foreach(lc, analyzed->columns)
		columns[foreach_current_index(lc)] = Int16GetDatum(lfirst_int(lc));
	values[n++] = PointerGetDatum(construct_array(columns, list_length(analyzed->columns), INT2OID, sizeof(int16), true,
												  TYPALIGN_SHORT));
	values[n++] = BoolGetDatum(sckpt_query_stateful(analyzed));
	Assert(n == lengthof(values));

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args(sql, n, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store a pipeline");

	/* Somebody else has created one meanwhile. */
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("pipeline \"%s\" already exists", name)));
	sckpt_catalog_leave(&saved);
}

void
sckpt_pipeline_check_ttl(SckptQuery *query)
{
	if (!sckpt_query_stateful(sckpt_query_last(query)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("state_ttl for a query without GROUP BY is not supported"),
				 errhint("It keeps no state that could be forgotten. Leave the argument out.")));
	for (SckptQuery *stage = query; stage; stage = stage->above)
	{
		if (stage->nsession > 0 && stage->source)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("state_ttl for sessions is not supported"),
					 errhint("Sessions over the event_time column of the stream are freed when they close. Leave the argument out.")));
	}
}

void
sckpt_pipeline_check_frames(SckptQuery *query, bool keep_dead)
{
	for (SckptQuery *stage = query; stage && keep_dead; stage = stage->above)
	{
		if (stage->framing)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("on_error => 'dead_letter' for window functions over rows is not supported"),
					 errhint("What fails may be the result of several rows. Leave the argument out.")));
		if (stage->join && stage->join->lookup)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("on_error => 'dead_letter' for a table joined with a sub-select or several streams is not supported"),
					 errhint("What fails may be the result of several rows. Leave the argument out.")));
	}
}

/* Say it where a join keeps its rows for good. */
static void
notice_growth(SckptQuery *query, const char *pipeline)
{
	for (SckptQuery *stage = query; stage; stage = stage->above)
	{
		if (stage->join == NULL || stage->join->unites ||
			(!sckpt_query_side_grows(query, stage, 0) && !sckpt_query_side_grows(query, stage, 1)))
			continue;
		ereport(NOTICE,
				(errmsg("the state of pipeline \"%s\" will grow with the rows of the streams that it joins", pipeline),
				 errhint("Rows are freed where conditions say how far apart their event times can be, or join windows by window_start and window_end; and forgotten with "
						 "state_ttl.")));
		return;
	}
}

Datum
stream_ckpt_create_pipeline(PG_FUNCTION_ARGS)
{
	char	   *query_text;
	RangeVar   *relation;
	SckptQuery *query;
	SckptQuery *last;
	bool		owned = PG_ARGISNULL(2);
	bool		final;
	Oid			result;
	XLogRecPtr	start;
	XLogRecPtr	restart;

	sckpt_shared_require();
	sckpt_catalog_require_version();
	require_argument(fcinfo, 0, "name");
	require_argument(fcinfo, 1, "query");
	check_options(fcinfo);
	final = strcmp(text_to_cstring(PG_GETARG_TEXT_PP(3)), "final") == 0;
	relation = range_var(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	query_text = text_to_cstring(PG_GETARG_TEXT_PP(1));
	PreventCommandIfReadOnly("create_pipeline()");
	PreventCommandDuringRecovery("create_pipeline()");
	if (!sckpt_catalog_lock_extension())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"stream_ckpt\" does not exist")));
	if (sckpt_catalog_pipeline(relation->relname, true))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("pipeline \"%s\" already exists", relation->relname)));

	query = sckpt_query_analyze(query_text, final, !PG_ARGISNULL(9));
	last = sckpt_query_last(query);
	if (!PG_ARGISNULL(9))
		sckpt_pipeline_check_ttl(query);
	sckpt_pipeline_check_frames(query, strcmp(text_to_cstring(PG_GETARG_TEXT_PP(4)), "dead_letter") == 0);
	notice_growth(query, relation->relname);
	if (owned)
		result = create_result(relation, last, final);
	else
	{
		result = PG_GETARG_OID(2);
		if (last->join && last->join->retracts)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("an existing relation as the sink of a join whose rows are taken back is not supported"),
					 errhint("Leave the sink out: the result is a table of the pipeline's own.")));
		sckpt_pipeline_check_sink(result, last, query->streams, last->grouped && !final);
	}
	sckpt_pipeline_check_plans(query, result, final);

	restart = sckpt_pipeline_hold_log();
	start = GetXLogInsertRecPtr();
	insert_pipeline(fcinfo, relation->relname, query_text, result, owned, query, start, restart);
	sckpt_hook_wake_at_commit(true);
	PG_RETURN_OID(result);
}

/* ---- Dropping, pausing, resuming ---- */

Datum
stream_ckpt_drop_pipeline(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		keep = PG_GETARG_BOOL(1);
	SckptPipeline *pipeline = sckpt_pipeline_require(name);
	ObjectAddress object;

	/* It may have got another owner since. */
	if (pipeline->result_owned && !keep && get_rel_name(pipeline->result) &&
		!pg_class_ownercheck(pipeline->result, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table %s", get_rel_name(pipeline->result)),
				 errhint("Use keep_result => true to leave it.")));
	if (!sckpt_catalog_forget(pipeline->id))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" does not exist", name)));
	if (pipeline->result_owned && !keep && get_rel_name(pipeline->result))
	{
		LockRelationOid(pipeline->result, AccessExclusiveLock);
		ObjectAddressSet(object, RelationRelationId, pipeline->result);
		sckpt_hook_allow_drop(true);
		performDeletion(&object, DROP_RESTRICT, 0);
		sckpt_hook_allow_drop(false);
	}
	PG_RETURN_VOID();
}

static void
set_paused(const char *name, bool paused)
{
	SckptPipeline *pipeline = sckpt_pipeline_require(name);
	Oid			types[2] = {INT8OID, BOOLOID};
	Datum		values[2] = {Int64GetDatum(pipeline->id), BoolGetDatum(paused)};
	SckptUser	saved;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("UPDATE stream_ckpt.pipeline_def SET paused = $2, error = CASE WHEN $2 THEN error END "
							  "WHERE id = $1", 2, types, values, NULL, false, 0) != SPI_OK_UPDATE || SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" does not exist", name)));
	sckpt_catalog_leave(&saved);
	sckpt_hook_wake_at_commit(true);
}

/* Wait until all transactions end that are writing now. */
static void
wait_for_writers(void)
{
	RunningTransactions running = GetRunningTransactionData();
	int			nxids = running->xcnt;
	TransactionId *xids;

	/* It has locked both. */
	LWLockRelease(ProcArrayLock);
	LWLockRelease(XidGenLock);
	xids = palloc(Max(1, nxids) * sizeof(TransactionId));
	memcpy(xids, running->xids, nxids * sizeof(TransactionId));
	for (int i = 0; i < nxids; i++)
	{
		if (!TransactionIdIsCurrentTransactionId(xids[i]))
			XactLockTableWait(xids[i], NULL, NULL, XLTW_None);
	}
	pfree(xids);
}

/*
 * Let a pipeline whose log is lost go on from here.  Of a transaction that is open the log may have only a part: it belongs to
 * what is lost, so we wait for its end.
 */
static void
skip_gap(SckptPipeline *pipeline)
{
	static const char sql[] =
		"WITH def AS (UPDATE stream_ckpt.pipeline_def SET created_xid = $2, start = $3 WHERE id = $1) "
		"UPDATE stream_ckpt.pipeline_position SET position = $4, restart = $5, stream_rows = '{}' WHERE pipeline_id = $1";
	Oid			types[5] = {INT8OID, XIDOID, LSNOID, LSNOID, LSNOID};
	Datum		values[5];
	XLogRecPtr	restart = sckpt_pipeline_hold_log();
	XLogRecPtr	start;
	SckptUser	saved;

	wait_for_writers();
	start = GetXLogInsertRecPtr();
	values[0] = Int64GetDatum(pipeline->id);
	values[1] = TransactionIdGetDatum(GetTopTransactionId());
	values[2] = LSNGetDatum(start);
	values[3] = LSNGetDatum(start - 1);
	values[4] = LSNGetDatum(restart);
	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args(sql, 5, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not move a pipeline");
	sckpt_catalog_leave(&saved);
	ereport(NOTICE,
			(errmsg("pipeline \"%s\" goes on without the rows of transactions that committed after %X/%X and up to %X/%X",
					pipeline->name, LSN_FORMAT_ARGS(pipeline->position), LSN_FORMAT_ARGS(start))));
}

Datum
stream_ckpt_pause_pipeline(PG_FUNCTION_ARGS)
{
	set_paused(text_to_cstring(PG_GETARG_TEXT_PP(0)), true);
	PG_RETURN_VOID();
}

Datum
stream_ckpt_resume_pipeline(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SckptPipeline *pipeline = sckpt_pipeline_require(name);

	/* Of one that came from another database or server, the worker finds out where it goes on. */
	if ((pipeline->paused || pipeline->error) && pipeline->at_home && !RecoveryInProgress() &&
		!sckpt_note_log_exists(pipeline))
	{
		if (!PG_GETARG_BOOL(1))
			sckpt_note_report_gone(pipeline);
		skip_gap(pipeline);
	}
	set_paused(name, false);

	/* Of one that is being restored: it need not wait for that session. */
	sckpt_shared_note_restorer(MyDatabaseId, 0);
	PG_RETURN_VOID();
}
