/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		The extension's own tables, read and written through SPI as the
 *		extension's owner.
 *
 * Statements name their tables with the schema and run with search_path =
 * pg_catalog, pg_temp, so that nothing a user makes can get in between.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_type.h"
#include "catalog/dependency.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "hook.h"

#define PIPELINE_COLUMNS \
	"d.id, d.name, d.owner::oid, d.result::oid, d.result_owned, d.query, d.streams::oid[], d.search_path, " \
	"d.timezone, d.datestyle, d.intervalstyle, d.text_search_config, d.emit = 'final', d.on_error = 'dead_letter', " \
	"(extract(epoch FROM d.checkpoint_interval) * 1000)::bigint, d.paused, d.error, d.created_xid, d.start, " \
	"p.last_checkpoint, greatest(p.next_checkpoint, coalesce((SELECT max(c.checkpoint_id) + 1 " \
	"FROM stream_ckpt.checkpoint_log c WHERE c.pipeline_id = d.id), 1)), " \
	"p.position, p.restart, p.rows_in, p.rows_out, p.late_rows, p.dead_letters, d.columns::int4[], " \
	"(extract(epoch FROM d.allowed_lateness) * 1000000)::bigint, " \
	"coalesce((extract(epoch FROM d.state_ttl) * 1000000)::bigint, 0), " \
	"coalesce(p.watermark, '-infinity'), coalesce(p.clock, '-infinity'), p.stream_watermarks, p.stream_idle, " \
	"p.stream_managed, p.stream_rows, d.arriving, p.chunks, d.home_database, d.home_system, d.version, " \
	"coalesce(d.closed_until, '-infinity'), coalesce(d.retained_checkpoints, 0), " \
	"array(SELECT r.restart FROM stream_ckpt.retained r WHERE r.pipeline_id = d.id), d.parallelism, p.layout, d.stateful "
#define PIPELINE_FROM \
	"FROM stream_ckpt.pipeline_def d JOIN stream_ckpt.pipeline_position p ON p.pipeline_id = d.id "

Oid
sckpt_catalog_extension(void)
{
	return get_extension_oid("stream_ckpt", true);
}

/* The extension's row: its oid, or InvalidOid, and if asked for its owner and version. */
static Oid
read_extension(Oid *owner, char **version)
{
	Oid			oid = InvalidOid;
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("stream_ckpt"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		oid = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
		if (owner)
			*owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
		if (version)
			*version = TextDatumGetCString(heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(rel), &isnull));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return oid;
}

Oid
sckpt_catalog_owner(void)
{
	Oid			owner = InvalidOid;

	if (!OidIsValid(read_extension(&owner, NULL)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"stream_ckpt\" does not exist in database \"%s\"",
						get_database_name(MyDatabaseId))));
	return owner;
}

/*
 * Tables and functions of another version may be made otherwise in any way.
 * A worker ends, and is started again until they fit: it does not become an
 * error of the pipeline that it happened to be working on.
 */
static void
check_version(const char *version)
{
	bool		worker = MyBgworkerEntry != NULL && strcmp(MyBgworkerEntry->bgw_library_name, "stream_ckpt") == 0;

	if (strcmp(version, SCKPT_EXTENSION_VERSION) != 0)
		ereport(worker ? FATAL : ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"stream_ckpt\" has version %s in database \"%s\", but the library that is loaded has version %s",
						version, get_database_name(MyDatabaseId), SCKPT_EXTENSION_VERSION),
				 errdetail("Pipelines stand still until the versions are the same; what is inserted meanwhile is kept for them."),
				 errhint("Restart the server if a new version has been installed since it was started, then run ALTER EXTENSION stream_ckpt UPDATE.")));
}

void
sckpt_catalog_require_version(void)
{
	char	   *version;

	if (OidIsValid(read_extension(NULL, &version)))
		check_version(version);
}

bool
sckpt_catalog_lock_extension(void)
{
	Oid			extension = sckpt_catalog_extension();
	char	   *version;

	if (!OidIsValid(extension))
		return false;
	LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);

	/* A drop or an update may have committed while we waited. */
	if (read_extension(NULL, &version) != extension)
		return false;

	/* On a standby all we do is to keep the log, which does not depend on it. */
	if (!RecoveryInProgress())
		check_version(version);
	pfree(version);
	return true;
}

Oid
sckpt_catalog_server(void)
{
	ForeignServer *server = GetForeignServerByName("stream_ckpt", true);

	if (server == NULL || getExtensionOfObject(ForeignServerRelationId, server->serverid) != sckpt_catalog_extension())
		return InvalidOid;
	return server->serverid;
}

bool
sckpt_catalog_is_stream(Oid relid)
{
	HeapTuple	tuple;
	Oid			server;

	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE)
		return false;
	tuple = SearchSysCache1(FOREIGNTABLEREL, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		return false;
	server = ((Form_pg_foreign_table) GETSTRUCT(tuple))->ftserver;
	ReleaseSysCache(tuple);
	return server == sckpt_catalog_server();
}

bool
sckpt_catalog_has_streams(void)
{
	Oid			server = sckpt_catalog_server();
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	if (!OidIsValid(server))
		return false;

	/* pg_foreign_table has no index on the server; it is small. */
	rel = table_open(ForeignTableRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = ((Form_pg_foreign_table) GETSTRUCT(tuple))->ftserver == server;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

void
sckpt_catalog_enter(SckptUser *saved)
{
	GetUserIdAndSecContext(&saved->user, &saved->sec_context);
	saved->guc_level = NewGUCNestLevel();
	SetUserIdAndSecContext(sckpt_catalog_owner(),
						   saved->sec_context | SECURITY_LOCAL_USERID_CHANGE);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

void
sckpt_catalog_leave(SckptUser *saved)
{
	SPI_finish();
	PopActiveSnapshot();
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->user, saved->sec_context);
}

static char *
text_column(HeapTuple tuple, int column, MemoryContext context)
{
	char	   *value = SPI_getvalue(tuple, SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

static Datum
column(HeapTuple tuple, int column, bool *isnull)
{
	return SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, isnull);
}

void
sckpt_catalog_add_lsn(SckptLsns *lsns, XLogRecPtr lsn)
{
	if (lsns->n == lsns->max)
	{
		lsns->max = Max(8, lsns->max * 2);
		lsns->list = lsns->list ? repalloc(lsns->list, lsns->max * sizeof(XLogRecPtr)) : palloc(lsns->max * sizeof(XLogRecPtr));
	}
	lsns->list[lsns->n++] = lsn;
}

/* Columns 33 to 36: arrays in the order of the streams, empty before the first checkpoint. */
static void
read_inflows(SckptPipeline *pipeline, HeapTuple tuple)
{
	static const struct
	{
		Oid			type;
		int16		length;
		bool		by_value;
		char		align;
	}			types[4] = {
		{TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE},
		{BOOLOID, sizeof(bool), true, TYPALIGN_CHAR},
		{BOOLOID, sizeof(bool), true, TYPALIGN_CHAR},
		{PG_LSNOID, sizeof(XLogRecPtr), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE},
	};
	int			nstreams = list_length(pipeline->streams);

	pipeline->inflows = palloc0(Max(1, nstreams) * sizeof(SckptInflow));
	for (int i = 0; i < nstreams; i++)
	{
		pipeline->inflows[i].stream = list_nth_oid(pipeline->streams, i);
		pipeline->inflows[i].watermark = DT_NOBEGIN;
	}
	for (int array = 0; array < lengthof(types); array++)
	{
		Datum	   *elements;
		int			nelements;
		bool		isnull;

		deconstruct_array(DatumGetArrayTypeP(column(tuple, 33 + array, &isnull)), types[array].type, types[array].length,
						  types[array].by_value, types[array].align, &elements, NULL, &nelements);
		for (int i = 0; i < Min(nelements, nstreams); i++)
		{
			SckptInflow *inflow = &pipeline->inflows[i];

			if (array == 0)
				inflow->watermark = DatumGetTimestampTz(elements[i]);
			else if (array == 1)
				inflow->idle = DatumGetBool(elements[i]);
			else if (array == 2)
				inflow->managed = DatumGetBool(elements[i]);
			else
				inflow->rows_lsn = DatumGetLSN(elements[i]);
		}
	}
}

static SckptPipeline *
pipeline_from_tuple(HeapTuple tuple, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptPipeline *pipeline = palloc0(sizeof(SckptPipeline));
	bool		isnull;
	Datum	   *elements;
	int			nelements;
	Datum		value;

	pipeline->id = DatumGetInt64(column(tuple, 1, &isnull));
	pipeline->name = text_column(tuple, 2, context);
	pipeline->owner = DatumGetObjectId(column(tuple, 3, &isnull));
	pipeline->result = DatumGetObjectId(column(tuple, 4, &isnull));
	pipeline->result_owned = DatumGetBool(column(tuple, 5, &isnull));
	pipeline->query = text_column(tuple, 6, context);
	deconstruct_array(DatumGetArrayTypeP(column(tuple, 7, &isnull)), OIDOID, sizeof(Oid), true,
					  TYPALIGN_INT, &elements, NULL, &nelements);
	for (int i = 0; i < nelements; i++)
		pipeline->streams = lappend_oid(pipeline->streams, DatumGetObjectId(elements[i]));
	pipeline->search_path = text_column(tuple, 8, context);
	pipeline->timezone = text_column(tuple, 9, context);
	pipeline->datestyle = text_column(tuple, 10, context);
	pipeline->intervalstyle = text_column(tuple, 11, context);
	pipeline->text_search_config = text_column(tuple, 12, context);
	pipeline->final = DatumGetBool(column(tuple, 13, &isnull));
	pipeline->keep_dead = DatumGetBool(column(tuple, 14, &isnull));
	value = column(tuple, 15, &isnull);
	pipeline->checkpoint_interval = isnull ? -1 : DatumGetInt64(value);
	pipeline->paused = DatumGetBool(column(tuple, 16, &isnull));
	pipeline->error = text_column(tuple, 17, context);
	pipeline->created_xid = DatumGetTransactionId(column(tuple, 18, &isnull));
	pipeline->start = DatumGetLSN(column(tuple, 19, &isnull));
	pipeline->last_checkpoint = DatumGetInt64(column(tuple, 20, &isnull));
	pipeline->next_checkpoint = DatumGetInt64(column(tuple, 21, &isnull));
	pipeline->position = DatumGetLSN(column(tuple, 22, &isnull));
	pipeline->restart = DatumGetLSN(column(tuple, 23, &isnull));
	pipeline->rows_in = DatumGetInt64(column(tuple, 24, &isnull));
	pipeline->rows_out = DatumGetInt64(column(tuple, 25, &isnull));
	pipeline->late_rows = DatumGetInt64(column(tuple, 26, &isnull));
	pipeline->dead_letters = DatumGetInt64(column(tuple, 27, &isnull));
	deconstruct_array(DatumGetArrayTypeP(column(tuple, 28, &isnull)), INT4OID, sizeof(int32), true,
					  TYPALIGN_INT, &elements, NULL, &nelements);
	for (int i = 0; i < nelements; i++)
		pipeline->columns = lappend_int(pipeline->columns, DatumGetInt32(elements[i]));
	pipeline->lateness = DatumGetInt64(column(tuple, 29, &isnull));
	pipeline->ttl = DatumGetInt64(column(tuple, 30, &isnull));
	pipeline->watermark = DatumGetTimestampTz(column(tuple, 31, &isnull));
	pipeline->clock = DatumGetTimestampTz(column(tuple, 32, &isnull));
	read_inflows(pipeline, tuple);
	pipeline->arriving = DatumGetBool(column(tuple, 37, &isnull));
	pipeline->chunks = DatumGetInt32(column(tuple, 38, &isnull));
	pipeline->at_home = DatumGetObjectId(column(tuple, 39, &isnull)) == MyDatabaseId &&
		strcmp(text_column(tuple, 40, context), psprintf(UINT64_FORMAT, GetSystemIdentifier())) == 0;
	pipeline->version = DatumGetInt64(column(tuple, 41, &isnull));
	pipeline->closed_until = DatumGetTimestampTz(column(tuple, 42, &isnull));
	pipeline->stored_lateness = pipeline->lateness;
	pipeline->stored_ttl = pipeline->ttl;
	pipeline->retained_checkpoints = DatumGetInt32(column(tuple, 43, &isnull));
	deconstruct_array(DatumGetArrayTypeP(column(tuple, 44, &isnull)), PG_LSNOID, sizeof(XLogRecPtr), FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE, &elements, NULL, &nelements);
	for (int i = 0; i < nelements; i++)
		sckpt_catalog_add_lsn(&pipeline->held, DatumGetLSN(elements[i]));
	pipeline->parallelism = DatumGetInt32(column(tuple, 45, &isnull));
	pipeline->layout = DatumGetInt32(column(tuple, 46, &isnull));
	pipeline->stateful = DatumGetBool(column(tuple, 47, &isnull));
	MemoryContextSwitchTo(old);
	return pipeline;
}

static List *
select_pipelines(const char *sql, int nargs, Oid *types, Datum *values)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *pipelines = NIL;
	SckptUser	saved;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args(sql, nargs, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read pipelines");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		SckptPipeline *pipeline = pipeline_from_tuple(SPI_tuptable->vals[i], context);
		MemoryContext old = MemoryContextSwitchTo(context);

		pipelines = lappend(pipelines, pipeline);
		MemoryContextSwitchTo(old);
	}
	sckpt_catalog_leave(&saved);
	return pipelines;
}

List *
sckpt_catalog_pipelines(void)
{
	return select_pipelines("SELECT " PIPELINE_COLUMNS PIPELINE_FROM "ORDER BY d.id", 0, NULL, NULL);
}

SckptPipeline *
sckpt_catalog_pipeline(const char *name, bool missing_ok)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	List	   *pipelines = select_pipelines("SELECT " PIPELINE_COLUMNS PIPELINE_FROM "WHERE d.name = $1",
											 1, types, values);

	if (pipelines == NIL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipeline \"%s\" does not exist", name)));
	return pipelines ? linitial(pipelines) : NULL;
}

SckptPipeline *
sckpt_catalog_pipeline_at(int64 id, int64 checkpoint)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(id), Int64GetDatum(checkpoint)};
	List	   *pipelines = select_pipelines("SELECT " PIPELINE_COLUMNS "FROM stream_ckpt.pipeline_def d JOIN (SELECT r.*, "
											 "r.checkpoint_id AS last_checkpoint, 0 AS next_checkpoint FROM stream_ckpt.retained r) p "
											 "ON p.pipeline_id = d.id WHERE d.id = $1 AND p.checkpoint_id = $2", 2, types, values);

	return pipelines ? linitial(pipelines) : NULL;
}

List *
sckpt_catalog_pipelines_of(Oid relid, bool as_stream, bool as_result)
{
	Oid			types[3] = {OIDOID, BOOLOID, BOOLOID};
	Datum		values[3] = {ObjectIdGetDatum(relid), BoolGetDatum(as_stream), BoolGetDatum(as_result)};

	return select_pipelines("SELECT " PIPELINE_COLUMNS PIPELINE_FROM
							"WHERE $2 AND $1 = ANY (d.streams::oid[]) OR $3 AND d.result::oid = $1 ORDER BY d.id",
							3, types, values);
}

bool
sckpt_catalog_hold(int64 id, int64 version)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(id), Int64GetDatum(version)};
	SckptUser	saved;
	bool		held;

	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("SELECT id FROM stream_ckpt.pipeline_def WHERE id = $1 AND (version = $2 OR $2 < 0) "
							  "FOR KEY SHARE SKIP LOCKED", 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not lock a pipeline");
	held = SPI_processed > 0;
	sckpt_catalog_leave(&saved);
	return held;
}

void
sckpt_catalog_reassign(List *roles, Oid owner)
{
	Oid			types[2] = {OIDARRAYOID, OIDOID};
	Datum		values[2];
	Datum	   *oids = palloc(Max(1, list_length(roles)) * sizeof(Datum));
	bool		changed;
	SckptUser	saved;
	ListCell   *lc;

	foreach(lc, roles)
		oids[foreach_current_index(lc)] = ObjectIdGetDatum(lfirst_oid(lc));
	values[0] = PointerGetDatum(construct_array(oids, list_length(roles), OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	values[1] = ObjectIdGetDatum(owner);
	sckpt_catalog_enter(&saved);
	if (SPI_execute_with_args("UPDATE stream_ckpt.pipeline_def SET owner = $2::regrole, version = version + 1 WHERE owner::oid = ANY ($1)",
							  2, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not reassign pipelines");
	changed = SPI_processed > 0;
	sckpt_catalog_leave(&saved);
	if (changed)
		sckpt_hook_wake_at_commit(true);
}

bool
sckpt_catalog_forget(int64 id)
{
	static const char *const tables[] = {
		"touched", "retained", "dead_letter", "restore_log", "chunk", "checkpoint_task_log", "checkpoint_log", "pipeline_position"
	};
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(id)};
	SckptUser	saved;
	bool		there;

	sckpt_catalog_enter(&saved);

	/* The definition first: the worker locks it before it writes the others. */
	if (SPI_execute_with_args("DELETE FROM stream_ckpt.pipeline_def WHERE id = $1",
							  1, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete a pipeline");
	there = SPI_processed > 0;
	for (int i = 0; i < lengthof(tables); i++)
	{
		char	   *sql = psprintf("DELETE FROM stream_ckpt.%s WHERE pipeline_id = $1", tables[i]);

		if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) != SPI_OK_DELETE)
			elog(ERROR, "could not delete from %s", tables[i]);
	}
	sckpt_catalog_leave(&saved);
	sckpt_hook_wake_at_commit(true);
	return there;
}
