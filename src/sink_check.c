/*-------------------------------------------------------------------------
 *
 * sink_check.c
 *		Which tables can keep a keyed result, and which index finds its rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/primnodes.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/typcache.h"

#include "sink.h"

static void
check_kind(Relation relation)
{
	const char *name = RelationGetRelationName(relation);

	if (relation->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot keep a result in relation \"%s\"", name),
				 errdetail_relkind_not_supported(relation->rd_rel->relkind),
				 errhint("Use an ordinary table.")));
	if (IsCatalogRelation(relation) || IsToastRelation(relation))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied: \"%s\" is a system catalog", name)));
	if (relation->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot keep a result in temporary table \"%s\"", name),
				 errhint("Use an ordinary table.")));

	/* A crash would empty it, while the pipeline's position and state survive. */
	if (relation->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot keep a result in unlogged table \"%s\"", name),
				 errhint("Use ALTER TABLE ... SET LOGGED.")));
}

static void
check_privileges(Relation relation)
{
	AclMode		needed = ACL_SELECT | ACL_INSERT | ACL_UPDATE | ACL_DELETE;

	/* Privileges on single columns do not count. */
	if (pg_class_aclmask(RelationGetRelid(relation), GetUserId(), needed, ACLMASK_ALL) != needed)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table %s", RelationGetRelationName(relation)),
				 errdetail("The pipeline's owner needs SELECT, INSERT, UPDATE and DELETE on its result table.")));

	if (check_enable_rls(RelationGetRelid(relation), InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot keep a result in table \"%s\" with row-level security",
						RelationGetRelationName(relation)),
				 errhint("Disable it, or let a role that bypasses it own the pipeline.")));
}

/* What is deferred would run at commit, as whoever is current then. */
void
sckpt_sink_check_deferred(Relation relation)
{
	TriggerDesc *triggers = relation->trigdesc;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];
		char	   *name = trigger->tgname;

		if (!trigger->tginitdeferred)
			continue;
		if (OidIsValid(trigger->tgconstraint) && get_constraint_name(trigger->tgconstraint))
			name = get_constraint_name(trigger->tgconstraint);
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot keep a result in table \"%s\" because constraint \"%s\" is initially deferred",
						RelationGetRelationName(relation), name),
				 errhint("Use ALTER TABLE ... ALTER CONSTRAINT ... INITIALLY IMMEDIATE, or create it again so.")));
	}
}

static bool
is_key(AttrNumber attno, int nkeys, const AttrNumber *keys)
{
	for (int i = 0; i < nkeys; i++)
		if (keys[i] == attno)
			return true;
	return false;
}

/*
 * Does column i of the index tell keys apart exactly as the type's equality
 * operator does under the table column's collation?
 */
static bool
same_equality(Relation relation, Relation index, int i)
{
	Form_pg_attribute attribute =
	TupleDescAttr(RelationGetDescr(relation), index->rd_index->indkey.values[i] - 1);
	Oid			type = index->rd_opcintype[i];
	Oid			collation = index->rd_indcollation[i];

	if (lookup_type_cache(attribute->atttypid, TYPECACHE_EQ_OPR)->eq_opr !=
		get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber))
		return false;
	return collation == attribute->attcollation ||
		!OidIsValid(collation) || !OidIsValid(attribute->attcollation) ||
		(get_collation_isdeterministic(collation) &&
		 get_collation_isdeterministic(attribute->attcollation));
}

static bool
is_unique_on_keys(Relation relation, Relation index, int nkeys, const AttrNumber *keys)
{
	Form_pg_index form = index->rd_index;
	bool		not_null = true;

	if (!form->indisunique || !form->indimmediate || index->rd_rel->relam != BTREE_AM_OID ||
		form->indnkeyatts != nkeys)
		return false;
	for (int i = 0; i < nkeys; i++)
	{
		AttrNumber	attno = form->indkey.values[i];

		if (attno <= 0 || !is_key(attno, nkeys, keys) || !same_equality(relation, index, i))
			return false;
		not_null &= TupleDescAttr(RelationGetDescr(relation), attno - 1)->attnotnull;

		/* As many different columns as keys, so that none is missing. */
		for (int j = 0; j < i; j++)
			if (form->indkey.values[j] == attno)
				return false;
	}
	return not_null || form->indnullsnotdistinct;
}

/* Is it an index on hash_record_extended(ROW(keys), 0), by btree or hash? */
static bool
is_hash_of_keys(Relation index, int nkeys, const AttrNumber *keys)
{
	FuncExpr   *call;
	RowExpr    *row;
	Const	   *seed;
	ListCell   *cell;

	if (index->rd_index->indnkeyatts != 1 || index->rd_index->indkey.values[0] != 0 ||
		(index->rd_rel->relam != BTREE_AM_OID && index->rd_rel->relam != HASH_AM_OID))
		return false;
	call = (FuncExpr *) linitial(RelationGetIndexExpressions(index));
	if (!IsA(call, FuncExpr) || call->funcid != F_HASH_RECORD_EXTENDED)
		return false;
	row = (RowExpr *) linitial(call->args);
	seed = (Const *) lsecond(call->args);
	if (!IsA(row, RowExpr) || list_length(row->args) != nkeys ||
		!IsA(seed, Const) || seed->constisnull || DatumGetInt64(seed->constvalue) != 0)
		return false;
	foreach(cell, row->args)
	{
		Var		   *var = (Var *) lfirst(cell);

		/* Columns of a row differ in create_pipeline's indexes; the keys are checked again anyway. */
		if (!IsA(var, Var) || !is_key(var->varattno, nkeys, keys))
			return false;
	}
	return true;
}

static Oid
find_index(Relation relation, int nkeys, const AttrNumber *keys, bool unique_only)
{
	Oid			unique = InvalidOid;
	Oid			hash = InvalidOid;
	List	   *indexes;
	ListCell   *cell;

	if (nkeys == 0)
		return InvalidOid;
	indexes = RelationGetIndexList(relation);
	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisvalid && form->indisready && form->indislive &&
			RelationGetIndexPredicate(index) == NIL)
		{
			if (!OidIsValid(unique) && is_unique_on_keys(relation, index, nkeys, keys))
				unique = RelationGetRelid(index);
			else if (!unique_only && !OidIsValid(hash) && is_hash_of_keys(index, nkeys, keys))
				hash = RelationGetRelid(index);
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return OidIsValid(unique) ? unique : hash;
}

Oid
sckpt_sink_key_index(Relation relation, int nkeys, const AttrNumber *keys)
{
	return find_index(relation, nkeys, keys, false);
}

Oid
sckpt_sink_bag_index(Relation relation, int ncolumns, const AttrNumber *columns)
{
	AttrNumber *hashed = palloc(Max(1, ncolumns) * sizeof(AttrNumber));
	int			nhashed = 0;

	for (int i = 0; i < ncolumns; i++)
	{
		Oid			type = TupleDescAttr(RelationGetDescr(relation), columns[i] - 1)->atttypid;

		if (OidIsValid(lookup_type_cache(type, TYPECACHE_HASH_EXTENDED_PROC)->hash_extended_proc))
			hashed[nhashed++] = columns[i];
	}
	return find_index(relation, nhashed, hashed, false);
}

/* "ts, item": the key columns as one would write them. */
static char *
key_list(Relation relation, int nkeys, const AttrNumber *keys)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < nkeys; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(relation), keys[i] - 1);

		if (i > 0)
			appendStringInfoString(&buf, ", ");
		appendStringInfoString(&buf, quote_identifier(NameStr(attribute->attname)));
	}
	return buf.data;
}

void
sckpt_sink_check(Relation relation, int nkeys, const AttrNumber *keys, bool existing)
{
	check_kind(relation);
	check_privileges(relation);
	sckpt_sink_check_deferred(relation);
	if (existing && nkeys > 0 && !OidIsValid(find_index(relation, nkeys, keys, true)))
	{
		char	   *columns = key_list(relation, nkeys, keys);

		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("table \"%s\" has no unique index on the result's key (%s)",
						RelationGetRelationName(relation), columns),
				 errdetail("It must be valid, not deferrable, not partial, without expressions, "
						   "and NULLS NOT DISTINCT unless its columns are NOT NULL."),
				 errhint("Use CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT.",
						 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
													RelationGetRelationName(relation)),
						 columns)));
	}
}

static void
run_ddl(const char *sql)
{
	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not run \"%s\"", sql);
}

bool
sckpt_sink_index_by_hash(Oid relid, int nkeys, const AttrNumber *keys)
{
	Relation	relation = table_open(relid, AccessExclusiveLock);
	Oid			unique = find_index(relation, nkeys, keys, true);
	char	   *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
												  RelationGetRelationName(relation));
	char	   *columns = key_list(relation, nkeys, keys);

	table_close(relation, NoLock);
	if (!OidIsValid(unique))
		return false;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run_ddl(psprintf("DROP INDEX %s", quote_qualified_identifier(get_namespace_name(get_rel_namespace(unique)),
																   get_rel_name(unique))));
	run_ddl(psprintf("CREATE INDEX ON %s (pg_catalog.hash_record_extended(ROW(%s), 0))", name, columns));
	SPI_finish();
	return true;
}
