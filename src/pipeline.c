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

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parser.h"
#include "storage/lmgr.h"
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
#include "pipeline.h"
#include "query.h"
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
PG_FUNCTION_INFO_V1(stream_ckpt_explain_pipeline);

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
	pipeline = sckpt_catalog_pipeline(name, false);
	if (!has_privs_of_role(GetUserId(), pipeline->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of pipeline \"%s\"", name)));
	return pipeline;
}

static void
run_sql(const char *sql, int expected)
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
	relid = RangeVarGetRelid(range_var(name), NoLock, true);
	sckpt_stream_require(relid, name);
	run_sql(psprintf("DROP FOREIGN TABLE %s%s",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid)),
					 cascade ? " CASCADE" : ""), SPI_OK_UTILITY);
	PG_RETURN_VOID();
}

/* ---- Creating a pipeline ---- */

static void
refuse_option(const char *option, const char *value)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s => %s is not supported yet", option, value),
			 errhint("Leave the argument out.")));
}

static void
check_choice(const char *option, const char *value, const char *supported, const char *later)
{
	if (strcmp(value, later) == 0)
		refuse_option(option, quote_literal_cstr(later));
	if (strcmp(value, supported) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"%s\": \"%s\"", option, value),
				 errhint("Valid values are \"%s\" and \"%s\".", supported, later)));
}

static void
check_options(FunctionCallInfo fcinfo)
{
	for (int i = 3; i <= 4; i++)
		require_argument(fcinfo, i, i == 3 ? "emit" : "on_error");
	require_argument(fcinfo, 7, "parallelism");
	require_argument(fcinfo, 8, "allowed_lateness");
	check_choice("emit", text_to_cstring(PG_GETARG_TEXT_PP(3)), "changes", "final");
	check_choice("on_error", text_to_cstring(PG_GETARG_TEXT_PP(4)), "stop", "dead_letter");
	if (!PG_ARGISNULL(5))
	{
		Interval   *interval = PG_GETARG_INTERVAL_P(5);

		if (interval->month != 0 || interval->day < 0 || interval->time < 0 ||
			(interval->day == 0 && interval->time == 0))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("checkpoint_interval must be positive and without months")));
	}
	for (int i = 6; i <= 7; i++)
	{
		const char *option = i == 6 ? "retained_checkpoints" : "parallelism";

		if (PG_ARGISNULL(i) || PG_GETARG_INT32(i) == 1)
			continue;
		if (PG_GETARG_INT32(i) < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must be at least 1", option)));
		refuse_option(option, psprintf("%d", PG_GETARG_INT32(i)));
	}
	if (PG_GETARG_INTERVAL_P(8)->month != 0 || PG_GETARG_INTERVAL_P(8)->day != 0 || PG_GETARG_INTERVAL_P(8)->time != 0)
		refuse_option("allowed_lateness", interval_text(PG_GETARG_INTERVAL_P(8)));
	if (!PG_ARGISNULL(9))
		refuse_option("state_ttl", interval_text(PG_GETARG_INTERVAL_P(9)));
}

/* Do all keys have an order, so that a unique index can be over them? */
static bool
keys_have_order(SckptQuery *query)
{
	for (int i = 0; i < query->nkeys; i++)
	{
		if (!OidIsValid(GetDefaultOpClass(query->keys[i].type, BTREE_AM_OID)))
			return false;
	}
	return true;
}

/* CREATE TABLE for a query's result, and the index that finds its rows by key. */
static Oid
create_result(RangeVar *relation, SckptQuery *query)
{
	Oid			namespace = RangeVarGetCreationNamespace(relation);
	char	   *name = quote_qualified_identifier(get_namespace_name(namespace), relation->relname);
	StringInfoData sql;
	StringInfoData keys;
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
						 format_type_with_typemod(att->atttypid, att->atttypmod));
		if (OidIsValid(att->attcollation) && att->attcollation != get_typcollation(att->atttypid))
			appendStringInfo(&sql, " COLLATE %s", generate_collation_name(att->attcollation));
	}
	/* Rows of a keyed result are updated over and over: room for that on each page. */
	appendStringInfo(&sql, ")%s", query->grouped ? " WITH (fillfactor = 50)" : "");
	run_sql(sql.data, SPI_OK_UTILITY);
	relid = get_relname_relid(relation->relname, namespace);
	if (query->nkeys == 0)
		return relid;

	initStringInfo(&keys);
	for (int i = 0; i < query->nkeys; i++)
		appendStringInfo(&keys, "%s%s", i ? ", " : "",
						 quote_identifier(NameStr(TupleDescAttr(query->result,
																query->keys[i].result_column - 1)->attname)));
	resetStringInfo(&sql);
	if (keys_have_order(query))
		appendStringInfo(&sql, "CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT", name, keys.data);
	else
		appendStringInfo(&sql, "CREATE INDEX ON %s (pg_catalog.hash_record_extended(ROW(%s), 0))", name, keys.data);
	run_sql(sql.data, SPI_OK_UTILITY);
	return relid;
}

/* Does what is written into `sink` come back to `stream`, through pipelines between streams? */
static bool
leads_to(Oid sink, Oid stream, List **visited)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(sink, AccessShareLock, NULL))
	{
		Oid			relid = lfirst_oid(lc);
		ListCell   *lp;

		if (relid == stream)
			return true;
		if (list_member_oid(*visited, relid) || !sckpt_catalog_is_stream(relid))
			continue;
		*visited = lappend_oid(*visited, relid);
		foreach(lp, sckpt_catalog_pipelines_of(relid, true, false))
		{
			SckptPipeline *next = lfirst(lp);

			if (get_rel_name(next->result) && leads_to(next->result, stream, visited))
				return true;
		}
	}
	return false;
}

static void
check_sink(Oid sink, SckptQuery *query)
{
	Relation	rel = try_table_open(sink, RowExclusiveLock);
	List	   *visited = NIL;
	AttrNumber *keys = palloc(Max(1, query->nkeys) * sizeof(AttrNumber));

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u, the sink, does not exist", sink)));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("temporary table \"%s\" cannot be the sink of a pipeline", RelationGetRelationName(rel))));
	for (int i = 0; i < query->result->natts; i++)
	{
		const char *column = NameStr(TupleDescAttr(query->result, i)->attname);

		if (get_attnum(sink, column) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of the query does not exist in sink \"%s\"",
							column, RelationGetRelationName(rel)),
					 errhint("Columns go by name: use AS to name them as in the sink.")));
		for (int k = 0; k < query->nkeys; k++)
		{
			if (query->keys[k].result_column == i + 1)
				keys[k] = get_attnum(sink, column);
		}
	}
	if (leads_to(sink, query->stream, &visited))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("a pipeline that writes into \"%s\" would feed itself", RelationGetRelationName(rel))));
	if (query->grouped)
	{
		if (sckpt_catalog_is_stream(sink))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("stream \"%s\" as the sink of a grouped query is not supported",
							RelationGetRelationName(rel)),
					 errhint("The rows of a grouped result change. Write them into a table.")));
		for (int i = 0; i < query->result->natts; i++)
		{
			Form_pg_attribute source = TupleDescAttr(query->result, i);
			AttrNumber	attnum = get_attnum(sink, NameStr(source->attname));
			Form_pg_attribute target = TupleDescAttr(RelationGetDescr(rel), attnum - 1);

			if (target->atttypid != source->atttypid ||
				(target->atttypmod >= 0 && target->atttypmod != source->atttypmod))
				ereport(ERROR,
						(errcode(ERRCODE_DATATYPE_MISMATCH),
						 errmsg("column \"%s\" of sink \"%s\" has type %s, but the query's has type %s",
								NameStr(source->attname), RelationGetRelationName(rel),
								format_type_with_typemod(target->atttypid, target->atttypmod),
								format_type_with_typemod(source->atttypid, source->atttypmod)),
						 errhint("Cast the expression in the query.")));
			if (target->attgenerated)
				ereport(ERROR,
						(errcode(ERRCODE_GENERATED_ALWAYS),
						 errmsg("column \"%s\" of sink \"%s\" is a generated column",
								NameStr(source->attname), RelationGetRelationName(rel))));
		}
		sckpt_sink_check(rel, query->nkeys, keys, true);
	}
	else
	{
		if (rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot keep a result in unlogged table \"%s\"", RelationGetRelationName(rel)),
					 errhint("Use ALTER TABLE ... SET LOGGED.")));
		sckpt_sink_check_deferred(rel);
	}
	table_close(rel, NoLock);
}

/*
 * Keep the log from where the oldest transaction open now began to write, until we end; return that place.
 */
static XLogRecPtr
hold_log(void)
{
	for (;;)
	{
		XLogRecPtr	restart = InvalidXLogRecPtr;
		XLogRecPtr	retained;
		SckptDatabase *database;

		if (sckpt_slot_check(MyDatabaseId, &retained) != SCKPT_SLOT_VALID)
			retained = sckpt_slot_ensure(MyDatabaseId);
		LWLockAcquire(sckpt_shared->lock, LW_SHARED);
		database = sckpt_shared_find_database(MyDatabaseId);
		if (database && database->worker_pid != 0)
			restart = database->restart_lsn;
		LWLockRelease(sckpt_shared->lock);

		if (restart < retained)
			restart = retained;
		sckpt_hook_hold_log(restart);

		/* Unless the slot has moved on before it could see our hold, which a new look mends. */
		if (sckpt_slot_check(MyDatabaseId, &retained) == SCKPT_SLOT_VALID && retained <= restart)
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
		"retained_checkpoints, parallelism, allowed_lateness, state_ttl, created_xid, start, home_database, home_system) "
		"VALUES ($1, $2, $3, $4, $5, ARRAY[$6], $25, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22) "
		"RETURNING id) INSERT INTO stream_ckpt.pipeline_position (pipeline_id, position, restart) "
		"SELECT id, $23, $24 FROM def";
	Oid			types[25] = {TEXTOID, REGROLEOID, REGCLASSOID, BOOLOID, TEXTOID, REGCLASSOID, TEXTOID, TEXTOID, TEXTOID,
		TEXTOID, TEXTOID, TEXTOID, TEXTOID, INTERVALOID, INT4OID, INT4OID, INTERVALOID, INTERVALOID, XIDOID, LSNOID,
	OIDOID, TEXTOID, LSNOID, LSNOID, INT2ARRAYOID};
	Datum		values[25];
	char		nulls[25];
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
	values[n++] = ObjectIdGetDatum(analyzed->stream);
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
	Assert(n == lengthof(values));

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args(sql, n, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store a pipeline");
	sckpt_catalog_leave(&saved);
}

Datum
stream_ckpt_create_pipeline(PG_FUNCTION_ARGS)
{
	char	   *query_text;
	RangeVar   *relation;
	SckptQuery *query;
	bool		owned = PG_ARGISNULL(2);
	Oid			result;
	XLogRecPtr	start;
	XLogRecPtr	restart;

	sckpt_shared_require();
	require_argument(fcinfo, 0, "name");
	require_argument(fcinfo, 1, "query");
	check_options(fcinfo);
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

	query = sckpt_query_analyze(query_text);
	if (owned)
		result = create_result(relation, query);
	else
	{
		result = PG_GETARG_OID(2);
		check_sink(result, query);
	}

	/* Have PostgreSQL plan it, and check the caller's privileges on what it reads and writes. */
	{
		StringInfoData sql;

		initStringInfo(&sql);
		appendStringInfoString(&sql, "EXPLAIN ");
		if (!query->grouped)
			appendStringInfo(&sql, "%s", sckpt_task_insert_sql(result, query));
		else
			appendStringInfoString(&sql, query->source);
		run_sql(sql.data, SPI_OK_UTILITY);
	}

	restart = hold_log();
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

	sckpt_catalog_forget(pipeline->id);
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

Datum
stream_ckpt_pause_pipeline(PG_FUNCTION_ARGS)
{
	set_paused(text_to_cstring(PG_GETARG_TEXT_PP(0)), true);
	PG_RETURN_VOID();
}

Datum
stream_ckpt_resume_pipeline(PG_FUNCTION_ARGS)
{
	set_paused(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	PG_RETURN_VOID();
}

/* ---- Explaining ---- */

static void
put_line(ReturnSetInfo *rsinfo, const char *format,...) pg_attribute_printf(2, 3);

static void
put_line(ReturnSetInfo *rsinfo, const char *format,...)
{
	StringInfoData line;
	Datum		value;
	bool		isnull = false;

	initStringInfo(&line);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(&line, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&line, needed);
	}
	value = CStringGetTextDatum(line.data);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
}

static void
explain_source(ReturnSetInfo *rsinfo, const char *sql)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(psprintf("EXPLAIN %s", sql), false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not explain \"%s\"", sql);
	for (uint64 i = 0; i < SPI_processed; i++)
		put_line(rsinfo, "      %s", SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	SPI_finish();
}

Datum
stream_ckpt_explain_pipeline(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SckptPipeline *pipeline;
	SckptPipelineEntry copy = {0};
	SckptPipelineEntry *entry;
	SckptTask  *task;
	SckptQuery *query;
	SckptIdentity identity;

	sckpt_shared_require();
	pipeline = sckpt_catalog_pipeline(name, false);
	if (!sckpt_pipeline_visible(pipeline->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of pipeline \"%s\"", name)));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, pipeline->id);
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		copy = *entry;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);

	task = sckpt_task_create(CurrentMemoryContext, pipeline);
	sckpt_task_become_owner(task, &identity);
	query = sckpt_query_analyze(pipeline->query);
	put_line(rsinfo, "Pipeline \"%s\" into %s", name, get_rel_name(pipeline->result)
			 ? quote_qualified_identifier(get_namespace_name(get_rel_namespace(pipeline->result)), get_rel_name(pipeline->result))
			 : "a dropped relation");
	put_line(rsinfo, "  Stage 0: expressions over stream %s", get_rel_name(query->stream));
	put_line(rsinfo, "    Plan:");
	explain_source(rsinfo, query->source);
	if (query->grouped)
	{
		put_line(rsinfo, "  Stage 1: aggregate");
		for (int i = 0; i < query->nkeys; i++)
			put_line(rsinfo, "    Key: %s %s", NameStr(TupleDescAttr(query->result, query->keys[i].result_column - 1)->attname),
					 format_type_with_typemod(query->keys[i].type, query->keys[i].typmod));
		for (int i = 0; i < query->ncalls; i++)
			put_line(rsinfo, "    Aggregate: %s", query->calls[i].aggref->aggstar
					 ? psprintf("%s(*)", get_func_name(query->calls[i].aggref->aggfnoid))
					 : format_procedure(query->calls[i].aggref->aggfnoid));
		if (query->having)
			put_line(rsinfo, "    Having: a condition on keys and aggregates");
		put_line(rsinfo, "    State: " INT64_FORMAT " rows, " INT64_FORMAT " bytes; grows with the number of groups",
				 copy.counters.state_rows, copy.counters.state_bytes);
		put_line(rsinfo, "  Sink: keyed, one row per group, kept current at each checkpoint");
	}
	else
		put_line(rsinfo, "  Sink: append-only");
	put_line(rsinfo, "  Rows: " INT64_FORMAT " in, " INT64_FORMAT " written; position %X/%X",
			 copy.counters.rows_in, copy.counters.rows_out, LSN_FORMAT_ARGS(copy.position));
	sckpt_task_become_self(&identity);
	return (Datum) 0;
}
