/*-------------------------------------------------------------------------
 *
 * hook.c
 *		Where we watch other commands: DDL on streams, results and databases.
 *
 * Pipelines are rows of our tables, not objects that pg_depend knows.  So a
 * drop of a stream or result is watched where every drop comes along, whatever
 * command it began with: in the object access hook.  That one does not know
 * whether the command said CASCADE, which the utility hook does; it leaves
 * what it knows about the running command in a Command on its stack, linked
 * from `command`, as commands nest (event triggers, functions).  Pipelines to
 * be dropped are remembered there, and dropped when the command has
 * succeeded.
 *
 * Everything that another process shall notice (a changed stream, a new
 * pipeline) is told at commit, by the transaction callback.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/user.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "hook.h"
#include "launcher.h"
#include "pipeline.h"
#include "shared.h"
#include "slot.h"
#include "stream.h"

/* What drops need to know of the utility command that they are part of. */
typedef struct Command
{
	struct Command *outer;
	bool		cascade;
	bool		changes_type;	/* ALTER COLUMN … TYPE is among its actions */
	bool		extension_goes; /* it drops our extension: pipelines vanish with it */
	List	   *owners;			/* DROP OWNED BY: pipelines of these roles are dropped in any case */
	List	   *pipelines;		/* SckptPipeline, to drop when it has succeeded */
	MemoryContext context;		/* of the lists */
} Command;

static Command *command = NULL;

/* Of the transaction. */
static bool wake = false;
static bool wake_changed = false;
static bool slot_made = false;
static bool holding = false;
static bool blocking = false;

static bool drop_allowed = false;

static ProcessUtility_hook_type prev_ProcessUtility = NULL;
static object_access_hook_type prev_object_access = NULL;

/*
 * At the end of the transaction
 */

void
sckpt_hook_wake_at_commit(bool changed)
{
	wake = true;
	wake_changed |= changed;
}

void
sckpt_hook_allow_drop(bool allow)
{
	drop_allowed = allow;
}

static void
release_hold(void)
{
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sckpt_shared->nholds; i++)
	{
		if (sckpt_shared->holds[i].pid == MyProcPid)
			sckpt_shared->holds[i].pid = 0;
	}
	LWLockRelease(sckpt_shared->lock);
	holding = false;
}

/* The callback of the transaction's end did it already, unless something went very wrong. */
static void
release_hold_at_exit(int code, Datum arg)
{
	if (holding)
		release_hold();
}

void
sckpt_hook_hold_log(XLogRecPtr restart_lsn)
{
	static bool registered = false;
	SckptHold  *hold = NULL;

	if (!registered)
	{
		before_shmem_exit(release_hold_at_exit, (Datum) 0);
		registered = true;
	}

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sckpt_shared->nholds; i++)
	{
		SckptHold  *entry = &sckpt_shared->holds[i];

		if (entry->pid == MyProcPid)
		{
			hold = entry;
			break;
		}
		if (entry->pid == 0 && hold == NULL)
			hold = entry;
	}
	if (hold && hold->pid == MyProcPid)
		hold->restart_lsn = Min(hold->restart_lsn, restart_lsn);
	else if (hold)
	{
		hold->pid = MyProcPid;
		hold->database = MyDatabaseId;
		hold->restart_lsn = restart_lsn;
	}
	LWLockRelease(sckpt_shared->lock);

	if (hold == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many transactions create pipelines")));
	holding = true;
}

/* The transaction ended: forget what was its own.  Pipelines are visible by now, so nothing is left without a hold. */
static void
forget_transaction(void)
{
	wake = wake_changed = false;
	slot_made = false;
	drop_allowed = false;
	if (holding)
		release_hold();
	if (blocking)
	{
		blocking = false;
		sckpt_launcher_unblock(InvalidOid);
	}
}

static void
transaction_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			if (holding)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has created or changed a pipeline"),
						 errhint("Create the pipeline in a transaction of its own.")));
			break;
		case XACT_EVENT_COMMIT:
			if (wake)
				sckpt_shared_wake(MyDatabaseId, wake_changed);
			forget_transaction();
			break;
		case XACT_EVENT_ABORT:
			/* A worker drops the slot again if no stream needs it. */
			if (slot_made)
				sckpt_shared_wake(MyDatabaseId, true);
			forget_transaction();
			break;
		case XACT_EVENT_PREPARE:
			/* Whoever ends the prepared transaction does the waking. */
			forget_transaction();
			break;
		default:
			break;
	}
}

static void
subtransaction_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		drop_allowed = false;
}

/*
 * Drops and changes of relations
 */

static bool
has_pipeline(List *pipelines, int64 id)
{
	ListCell   *lc;

	foreach(lc, pipelines)
	{
		if (((SckptPipeline *) lfirst(lc))->id == id)
			return true;
	}
	return false;
}

static void
refuse_drop(Oid relid, bool stream, int column, List *pipelines)
{
	StringInfoData detail;
	ListCell   *lc;
	const char *kind = stream ? "stream" : "table";

	initStringInfo(&detail);
	foreach(lc, pipelines)
	{
		SckptPipeline *pipeline = (SckptPipeline *) lfirst(lc);

		if (detail.len > 0)
			appendStringInfoChar(&detail, '\n');
		appendStringInfo(&detail, pipeline->result == relid ? "Pipeline \"%s\" writes to the %s." : "Pipeline \"%s\" reads the %s.",
						 pipeline->name, kind);
	}
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 column > 0 ? errmsg("cannot drop column \"%s\" of stream \"%s\" because pipelines depend on it",
								 get_attname(relid, column, false), get_rel_name(relid))
			 : errmsg("cannot drop %s \"%s\" because pipelines depend on it", kind, get_rel_name(relid)),
			 errdetail_internal("%s", detail.data),
			 errhint("Drop the pipelines first with stream_ckpt.drop_pipeline(), or use DROP ... CASCADE to drop them too.")));
}

/* Refuse what the pipelines do not survive, or, in a command with CASCADE, remember to drop them with it. */
static void
refuse_or_cascade(Oid relid, bool stream, int column)
{
	MemoryContext oldcontext = command ? MemoryContextSwitchTo(command->context) : CurrentMemoryContext;
	List	   *pipelines = sckpt_catalog_pipelines_of(relid, stream, column == 0);
	List	   *refused = NIL;
	ListCell   *lc;

	foreach(lc, pipelines)
	{
		SckptPipeline *pipeline = (SckptPipeline *) lfirst(lc);

		if (column > 0 && !list_member_int(pipeline->columns, column) && !list_member_int(pipeline->columns, 0))
			continue;
		if (command == NULL || !(command->cascade || list_member_oid(command->owners, pipeline->owner)))
			refused = lappend(refused, pipeline);
		else if (!has_pipeline(command->pipelines, pipeline->id))
			command->pipelines = lappend(command->pipelines, pipeline);
	}
	MemoryContextSwitchTo(oldcontext);

	if (refused)
		refuse_drop(relid, stream, column, refused);
}

/* A column of a stream is about to be dropped. */
static void
column_drop(Oid relid, int column, int flags)
{
	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE || (flags & PERFORM_DELETION_INTERNAL) ||
		!OidIsValid(sckpt_catalog_extension()) || !sckpt_catalog_is_stream(relid))
		return;
	sckpt_hook_wake_at_commit(true);
	if (!drop_allowed && !(command && command->extension_goes))
		refuse_or_cascade(relid, true, column);
}

/* Renaming a stream or its columns would break the queries that name them. */
static void
check_rename(RangeVar *relation)
{
	Oid			relid = relation ? RangeVarGetRelid(relation, NoLock, true) : InvalidOid;
	List	   *pipelines;

	if (!OidIsValid(relid) || get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE ||
		!OidIsValid(sckpt_catalog_extension()) || !sckpt_catalog_is_stream(relid))
		return;
	pipelines = sckpt_catalog_pipelines_of(relid, true, false);
	if (pipelines)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot rename stream \"%s\" or its columns because pipelines depend on it", get_rel_name(relid)),
				 errdetail("The query of pipeline \"%s\" names it.", ((SckptPipeline *) linitial(pipelines))->name),
				 errhint("Drop the pipelines first with stream_ckpt.drop_pipeline().")));
}

/* A relation is about to be dropped: refuse, or remember the pipelines that go with it. */
static void
relation_drop(Oid relid, int flags)
{
	char		relkind = get_rel_relkind(relid);
	Oid			extension;
	bool		stream;

	if (relkind != RELKIND_FOREIGN_TABLE && relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		return;
	/* Transient copies of ALTER TABLE and the like, and what a session leaves in its temporary schema. */
	if (flags & PERFORM_DELETION_INTERNAL)
		return;
	extension = sckpt_catalog_extension();
	if (!OidIsValid(extension))
		return;
	stream = relkind == RELKIND_FOREIGN_TABLE && sckpt_catalog_is_stream(relid);
	if (stream)
		sckpt_hook_wake_at_commit(true);
	if (drop_allowed || (command && command->extension_goes))
		return;

	/* Our own tables go: after this one there may be no pipelines to be read. */
	if (getExtensionOfObject(RelationRelationId, relid) == extension)
	{
		if (command)
			command->extension_goes = true;
		return;
	}

	refuse_or_cascade(relid, stream, 0);
}

/* A column was added, dropped or changed, or the relation was. */
static void
relation_changed(Oid relid, int column)
{
	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE || !OidIsValid(sckpt_catalog_extension()) || !sckpt_catalog_is_stream(relid))
		return;

	/* Rows written with the old type are still in the log. */
	if (column > 0 && command && command->changes_type)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot change the type of a column of stream \"%s\"", get_rel_name(relid)),
				 errhint("Make a new stream that has the wanted type.")));
	sckpt_hook_wake_at_commit(true);
}

static void
object_access(ObjectAccessType access, Oid classid, Oid objectid, int subid, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, classid, objectid, subid, arg);

	if (IsBinaryUpgrade || !IsTransactionState())
		return;

	switch (access)
	{
		case OAT_DROP:
			if (classid == RelationRelationId && subid == 0)
				relation_drop(objectid, ((ObjectAccessDrop *) arg)->dropflags);
			else if (classid == RelationRelationId)
				column_drop(objectid, subid, ((ObjectAccessDrop *) arg)->dropflags);
			else if (classid == ExtensionRelationId && objectid == sckpt_catalog_extension())
			{
				if (command)
					command->extension_goes = true;
				sckpt_hook_wake_at_commit(true);
			}
			break;
		case OAT_POST_CREATE:
			/* A new relation is none of our business yet; a new column may be. */
			if (classid == RelationRelationId && subid > 0)
				relation_changed(objectid, 0);
			break;
		case OAT_POST_ALTER:
			if (classid == RelationRelationId || classid == ForeignTableRelationId)
				relation_changed(objectid, subid);
			break;
		default:
			break;
	}
}

/* Drop a pipeline whose stream or result is gone, and its result if we made it. */
static void
drop_pipeline(SckptPipeline *pipeline)
{
	ObjectAddress result;

	ereport(NOTICE,
			(errmsg("drop cascades to pipeline %s", quote_identifier(pipeline->name))));
	(void) sckpt_catalog_forget(pipeline->id);
	if (!pipeline->result_owned)
		return;
	LockRelationOid(pipeline->result, AccessExclusiveLock);
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(pipeline->result)))
	{
		UnlockRelationOid(pipeline->result, AccessExclusiveLock);
		return;
	}
	ObjectAddressSet(result, RelationRelationId, pipeline->result);
	performDeletion(&result, DROP_CASCADE, 0);
}

/* The command succeeded: drop the pipelines it takes with it. */
static void
drop_pipelines(Command *done)
{
	ListCell   *lc;

	if (done->pipelines == NIL && done->owners == NIL)
		return;
	CommandCounterIncrement();
	if (!OidIsValid(sckpt_catalog_extension()))
		return;

	/* DROP OWNED BY takes those too of which it dropped no relation. */
	if (done->owners)
	{
		foreach(lc, sckpt_catalog_pipelines())
		{
			SckptPipeline *pipeline = (SckptPipeline *) lfirst(lc);

			if (list_member_oid(done->owners, pipeline->owner) && !has_pipeline(done->pipelines, pipeline->id))
				done->pipelines = lappend(done->pipelines, pipeline);
		}
	}

	sckpt_hook_allow_drop(true);
	foreach(lc, done->pipelines)
		drop_pipeline((SckptPipeline *) lfirst(lc));
	sckpt_hook_allow_drop(false);
	CommandCounterIncrement();
}

/*
 * Utility commands
 */

/* Does the statement drop our extension, by its name? */
static bool
drops_our_extension(DropStmt *stmt)
{
	ListCell   *lc;

	if (stmt->removeType != OBJECT_EXTENSION)
		return false;
	foreach(lc, stmt->objects)
	{
		if (strcmp(strVal(lfirst(lc)), "stream_ckpt") == 0)
			return true;
	}
	return false;
}

static bool
changes_column_type(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		if (lfirst_node(AlterTableCmd, lc)->subtype == AT_AlterColumnType)
			return true;
	}
	return false;
}

static bool
drops_column_cascade(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_DropColumn && cmd->behavior == DROP_CASCADE)
			return true;
	}
	return false;
}

/* Fill in what drops need to know of a statement; false if they need nothing. */
static bool
describe_command(Node *stmt, Command *result)
{
	memset(result, 0, sizeof(Command));
	result->context = CurrentMemoryContext;
	switch (nodeTag(stmt))
	{
		case T_DropStmt:
			result->cascade = ((DropStmt *) stmt)->behavior == DROP_CASCADE;
			result->extension_goes = drops_our_extension((DropStmt *) stmt);
			return true;
		case T_DropOwnedStmt:
			result->cascade = ((DropOwnedStmt *) stmt)->behavior == DROP_CASCADE;
			result->owners = roleSpecsToIds(((DropOwnedStmt *) stmt)->roles);
			return true;
		case T_AlterTableStmt:
			result->changes_type = changes_column_type((AlterTableStmt *) stmt);
			result->cascade = drops_column_cascade((AlterTableStmt *) stmt);
			return result->changes_type || result->cascade;
		default:
			return false;
	}
}

static bool
may_create_database(void)
{
	bool		result;
	HeapTuple	tuple;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	ReleaseSysCache(tuple);
	return result;
}

static bool
is_template(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	ReleaseSysCache(tuple);
	return result;
}

static const char *
find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0 && option->arg)
			return defGetString(option);
	}
	return NULL;
}

/*
 * The database that must have no workers while the statement runs, or
 * InvalidOid.  None either when the statement will fail for want of rights or
 * inside a transaction block: a failing command of just anybody must not stop
 * workers.
 */
static Oid
database_to_block(Node *stmt, bool toplevel)
{
	const char *name = NULL;
	bool		copied = false;
	Oid			database;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			name = ((DropdbStmt *) stmt)->dbname;
			break;
		case T_CreatedbStmt:
			name = find_option(((CreatedbStmt *) stmt)->options, "template");
			if (name == NULL)
				name = "template1";
			copied = true;
			break;
		case T_AlterDatabaseStmt:
			if (find_option(((AlterDatabaseStmt *) stmt)->options, "tablespace"))
				name = ((AlterDatabaseStmt *) stmt)->dbname;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				name = ((RenameStmt *) stmt)->subname;
			break;
		default:
			break;
	}
	if (name == NULL || RecoveryInProgress())
		return InvalidOid;
	/* Only renaming works in a transaction block. */
	if (!IsA(stmt, RenameStmt) && IsInTransactionBlock(toplevel))
		return InvalidOid;

	database = get_database_oid(name, true);
	if (!OidIsValid(database))
		return InvalidOid;
	if (copied)
	{
		if (!may_create_database())
			return InvalidOid;
		if (is_template(database))
			return database;
	}
	else if (database == MyDatabaseId)
		return InvalidOid;
	return pg_database_ownercheck(database, GetUserId()) ? database : InvalidOid;
}

/*
 * Before a stream is made: see that the slot exists, and stays until we
 * commit.  The worker drops it when there are no streams, holding
 * AccessExclusiveLock on the foreign server; making it excludes others who
 * make it; a stream whose slot exists excludes only the worker.
 */
static void
prepare_stream(CreateForeignTableStmt *stmt)
{
	Oid			server;
	XLogRecPtr	restart_lsn;

	/* Whatever the command lacks, let it say so itself. */
	if (XactReadOnly || RecoveryInProgress())
		return;
	server = get_foreign_server_oid(stmt->servername, true);
	if (!OidIsValid(server) || server != sckpt_catalog_server() ||
		pg_foreign_server_aclcheck(server, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		return;

	LockDatabaseObject(ForeignServerRelationId, server, 0, AccessShareLock);
	if (server != sckpt_catalog_server())
		return;
	if (sckpt_slot_check(MyDatabaseId, &restart_lsn) != SCKPT_SLOT_VALID)
	{
		LockDatabaseObject(ForeignServerRelationId, server, 0, ShareUpdateExclusiveLock);
		if (sckpt_slot_check(MyDatabaseId, &restart_lsn) != SCKPT_SLOT_VALID)
		{
			slot_made = true;
			(void) sckpt_slot_ensure(MyDatabaseId);
		}
	}
	sckpt_hook_wake_at_commit(true);
}

/* What a stream's options say must fit its columns. */
static void
check_stream(Node *stmt)
{
	RangeVar   *relation = NULL;
	Oid			relid;

	if (IsA(stmt, CreateForeignTableStmt))
		relation = ((CreateForeignTableStmt *) stmt)->base.relation;
	else if (IsA(stmt, AlterTableStmt) && ((AlterTableStmt *) stmt)->objtype == OBJECT_FOREIGN_TABLE)
		relation = ((AlterTableStmt *) stmt)->relation;
	if (relation == NULL)
		return;
	CommandCounterIncrement();
	relid = RangeVarGetRelid(relation, NoLock, true);
	if (OidIsValid(relid) && sckpt_catalog_is_stream(relid))
		sckpt_stream_check_options(relid);
}

/* A stream that becomes a partition of a pipeline's result may close a circle. */
static void
check_attached(Node *stmt)
{
	AlterTableStmt *alter = (AlterTableStmt *) stmt;
	ListCell   *lc;

	if (!IsA(stmt, AlterTableStmt) || alter->objtype != OBJECT_TABLE || !OidIsValid(sckpt_catalog_extension()))
		return;
	foreach(lc, alter->cmds)
	{
		Oid			parent;

		if (lfirst_node(AlterTableCmd, lc)->subtype != AT_AttachPartition)
			continue;
		CommandCounterIncrement();
		parent = RangeVarGetRelid(alter->relation, NoLock, true);
		if (OidIsValid(parent))
			sckpt_pipeline_check_attached(parent);
	}
}

/* ---- Roles: pg_shdepend does not know what pipelines they own ---- */

/* Of the roles that a statement drops, those that there are. */
static List *
dropped_roles(Node *stmt)
{
	List	   *roles = NIL;
	ListCell   *lc;

	if (!IsA(stmt, DropRoleStmt) || !OidIsValid(sckpt_catalog_extension()))
		return NIL;
	foreach(lc, ((DropRoleStmt *) stmt)->roles)
	{
		RoleSpec   *role = lfirst(lc);
		Oid			oid = role->roletype == ROLESPEC_CSTRING ? get_role_oid(role->rolename, true) : InvalidOid;

		if (OidIsValid(oid))
			roles = lappend_oid(roles, oid);
	}
	return roles;
}

/* They are gone: refuse that if one owns a pipeline.  Whoever may not drop it never gets here. */
static void
check_dropped_roles(Node *stmt, List *roles)
{
	ListCell   *lc;

	if (roles == NIL)
		return;
	foreach(lc, sckpt_catalog_pipelines())
	{
		SckptPipeline *pipeline = lfirst(lc);
		ListCell   *lr;

		foreach(lr, roles)
		{
			if (lfirst_oid(lr) != pipeline->owner)
				continue;
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("role cannot be dropped because pipeline \"%s\" depends on it", pipeline->name),
					 errdetail("It is the owner of pipeline \"%s\".", pipeline->name),
					 errhint("Use REASSIGN OWNED, DROP OWNED, or stream_ckpt.drop_pipeline().")));
		}
	}
}

/* Pipelines follow REASSIGN OWNED. */
static void
reassign_pipelines(Node *stmt)
{
	ReassignOwnedStmt *reassign = (ReassignOwnedStmt *) stmt;

	if (!IsA(stmt, ReassignOwnedStmt) || !OidIsValid(sckpt_catalog_extension()))
		return;
	CommandCounterIncrement();
	sckpt_catalog_reassign(roleSpecsToIds(reassign->roles), get_rolespec_oid(reassign->newrole, false));
}

/*
 * ALTER EXTENSION … UPDATE: not while a worker, or a session that changes pipelines, is in the middle of a transaction; and the
 * worker shall look at the new version.  Whoever may not do it gets the error without having waited.
 */
static void
prepare_update(AlterExtensionStmt *stmt)
{
	Oid			extension;

	if (strcmp(stmt->extname, "stream_ckpt") != 0)
		return;
	extension = sckpt_catalog_extension();
	if (!OidIsValid(extension) || !pg_extension_ownercheck(extension, GetUserId()))
		return;
	LockDatabaseObject(ExtensionRelationId, extension, 0, AccessExclusiveLock);
	sckpt_hook_wake_at_commit(true);
}

static void
run_command(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *queryEnv,
			DestReceiver *dest, QueryCompletion *qc)
{
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
}

static void
process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *queryEnv,
				DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	Oid			database;
	List	   *volatile roles;
	Command		this;

	/* In an aborted transaction nothing may be looked up; what ends it needs no care before. */
	if (IsBinaryUpgrade || sckpt_shared == NULL || !IsTransactionState())
	{
		run_command(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
		return;
	}

	if (IsA(stmt, TransactionStmt))
	{
		TransactionStmtKind kind = ((TransactionStmt *) stmt)->kind;

		run_command(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);

		/* That transaction ran in another backend, or before a restart: it may have done anything. */
		if (kind == TRANS_STMT_COMMIT_PREPARED || kind == TRANS_STMT_ROLLBACK_PREPARED)
			sckpt_shared_wake(MyDatabaseId, true);
		return;
	}

	if (IsA(stmt, RenameStmt))
		check_rename(((RenameStmt *) stmt)->relation);
	else if (IsA(stmt, AlterObjectSchemaStmt))
		check_rename(((AlterObjectSchemaStmt *) stmt)->relation);
	else if (IsA(stmt, CreateForeignTableStmt))
		prepare_stream((CreateForeignTableStmt *) stmt);
	else if (IsA(stmt, AlterExtensionStmt))
		prepare_update((AlterExtensionStmt *) stmt);

	roles = dropped_roles(stmt);
	database = database_to_block(stmt, context == PROCESS_UTILITY_TOPLEVEL);
	if (OidIsValid(database))
	{
		PG_TRY();
		{
			/* Ends with the transaction: until then nobody could connect anyway. */
			blocking = true;
			sckpt_launcher_block(database);
			run_command(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
		}
		PG_CATCH();
		{
			sckpt_launcher_unblock(database);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	else if (describe_command(stmt, &this))
	{
		this.outer = command;
		command = &this;
		PG_TRY();
		{
			run_command(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
		}
		PG_FINALLY();
		{
			command = this.outer;
		}
		PG_END_TRY();
		drop_pipelines(&this);
	}
	else
		run_command(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	check_stream(stmt);
	check_attached(stmt);
	check_dropped_roles(stmt, roles);
	reassign_pipelines(stmt);
}

void
sckpt_hook_init(void)
{
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	prev_object_access = object_access_hook;
	object_access_hook = object_access;
	RegisterXactCallback(transaction_callback, NULL);
	RegisterSubXactCallback(subtransaction_callback, NULL);
}
