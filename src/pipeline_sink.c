/*-------------------------------------------------------------------------
 *
 * pipeline_sink.c
 *		Which existing relations a pipeline can write into.
 *
 * Rows that change need an ordinary table with a unique index on their key
 * (sink.h).  Rows that never do, those of a query without grouping or of emit => 'final',
 * go wherever one can INSERT.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "hook.h"
#include "pipeline.h"
#include "sink.h"

/* The relation that rows inserted into a view go to; InvalidOid if it is no simple view. */
static Oid
view_base(Oid view)
{
	Relation	rel = table_open(view, AccessShareLock);
	Oid			base = InvalidOid;

	if (rel->trigdesc == NULL || !rel->trigdesc->trig_insert_instead_row)
	{
		Query	   *query = get_view_query(rel);
		List	   *from = query->jointree->fromlist;

		if (list_length(from) == 1 && IsA(linitial(from), RangeTblRef))
			base = rt_fetch(linitial_node(RangeTblRef, from)->rtindex, query->rtable)->relid;
	}
	table_close(rel, NoLock);
	return base;
}

/* Does what is written into `sink` come back to one of `streams`, through partitions, views, and pipelines between streams? */
static bool
leads_to(Oid sink, List *streams, List **visited)
{
	ListCell   *lc;

	check_stack_depth();
	while (OidIsValid(sink) && get_rel_relkind(sink) == RELKIND_VIEW)
		sink = view_base(sink);
	if (!OidIsValid(sink))
		return false;
	foreach(lc, find_all_inheritors(sink, AccessShareLock, NULL))
	{
		Oid			relid = lfirst_oid(lc);
		ListCell   *lp;

		if (list_member_oid(streams, relid))
			return true;
		if (list_member_oid(*visited, relid) || !sckpt_catalog_is_stream(relid))
			continue;
		*visited = lappend_oid(*visited, relid);
		foreach(lp, sckpt_catalog_pipelines_of(relid, true, false))
		{
			SckptPipeline *next = lfirst(lp);

			if (get_rel_name(next->result) && leads_to(next->result, streams, visited))
				return true;
		}
	}
	return false;
}

List *
sckpt_pipeline_sink_streams(Oid sink)
{
	List	   *streams = NIL;
	ListCell   *lc;

	while (OidIsValid(sink) && get_rel_relkind(sink) == RELKIND_VIEW)
		sink = view_base(sink);
	if (!OidIsValid(sink))
		return NIL;
	if (get_rel_relkind(sink) != RELKIND_PARTITIONED_TABLE)
		return sckpt_catalog_is_stream(sink) ? list_make1_oid(sink) : NIL;
	foreach(lc, find_all_inheritors(sink, NoLock, NULL))
	{
		if (sckpt_catalog_is_stream(lfirst_oid(lc)))
			streams = lappend_oid(streams, lfirst_oid(lc));
	}
	return streams;
}

static void
refuse_cycle(const char *pipeline, Oid sink)
{
	if (pipeline)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("pipeline \"%s\", which writes into \"%s\", would feed itself", pipeline, get_rel_name(sink)),
				 errhint("Drop the pipeline, or attach a table.")));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("a pipeline that writes into \"%s\" would feed itself", get_rel_name(sink))));
}

void
sckpt_pipeline_check_attached(Oid parent)
{
	bool		streams = false;
	ListCell   *lc;

	foreach(lc, find_all_inheritors(parent, AccessShareLock, NULL))
		streams |= sckpt_catalog_is_stream(lfirst_oid(lc));
	if (!streams)
		return;
	sckpt_hook_wake_at_commit(true);
	foreach(lc, sckpt_catalog_pipelines())
	{
		SckptPipeline *pipeline = lfirst(lc);
		List	   *through = NIL;
		List	   *back = NIL;

		/* Only those whose rows get to the parent matter. */
		if (get_rel_name(pipeline->result) && leads_to(pipeline->result, list_make1_oid(parent), &through) &&
			leads_to(pipeline->result, pipeline->streams, &back))
			refuse_cycle(pipeline->name, pipeline->result);
	}
}

/* The sink of rows that change: each of the query's columns goes as it is into one of the table. */
static void
check_keyed_sink(Relation rel, SckptQuery *query, AttrNumber *keys)
{
	if (sckpt_catalog_is_stream(RelationGetRelid(rel)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("stream \"%s\" as the sink of a grouped query is not supported",
						RelationGetRelationName(rel)),
				 errhint("The rows of a grouped result change. Write them into a table, or use emit => 'final'.")));
	if (query->bag)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" as the sink of a query whose rows have no key is not supported",
						RelationGetRelationName(rel)),
				 errhint("Select the columns of PARTITION BY and row_number(), or leave the sink out: the pipeline makes a table of its own.")));
	for (int i = 0; i < query->result->natts; i++)
	{
		Form_pg_attribute source = TupleDescAttr(query->result, i);
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), NameStr(source->attname));
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
	sckpt_sink_check(rel, query->nsink, keys, true);
}

void
sckpt_pipeline_check_sink(Oid sink, SckptQuery *query, List *streams, bool keyed)
{
	Relation	rel = try_table_open(sink, RowExclusiveLock);
	List	   *visited = NIL;
	AttrNumber *keys = palloc(Max(1, query->nsink) * sizeof(AttrNumber));

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
		for (int k = 0; k < query->nsink; k++)
		{
			if (query->sink_keys[k].result_column == i + 1)
				keys[k] = get_attnum(sink, column);
		}
	}
	if (leads_to(sink, streams, &visited))
		refuse_cycle(NULL, sink);
	if (keyed)
		check_keyed_sink(rel, query, keys);
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
