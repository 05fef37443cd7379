/*-------------------------------------------------------------------------
 *
 * alter_result.c
 *		A result table's columns follow those of its query.
 *
 * Columns go by name.  A group key that is called otherwise keeps its column, which is renamed; any other column with a new name is a
 * new one.  What users have added stays.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "alter.h"
#include "pipeline.h"
#include "sink.h"

static Form_pg_attribute
find_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
			return TupleDescAttr(desc, i);
	}
	return NULL;
}

static const char *
key_column(SckptQuery *query, SckptKey *key)
{
	return NameStr(TupleDescAttr(query->result, key->result_column - 1)->attname);
}

/* Keys keep their columns. */
static void
rename_keys(SckptQuery *old, SckptQuery *new, const char *table)
{
	/* Those of a result whose rows are told apart otherwise are named, and have to stay. */
	for (int i = 0; i < new->nkeys && !sckpt_query_has_other_sink_key(new); i++)
	{
		for (int j = 0; j < old->nkeys; j++)
		{
			const char *from = key_column(old, &old->keys[j]);
			const char *to = key_column(new, &new->keys[i]);

			if (strcmp(old->keys[j].canonical, new->keys[i].canonical) != 0 || strcmp(from, to) == 0)
				continue;
			sckpt_pipeline_run_sql(psprintf("ALTER TABLE %s RENAME COLUMN %s TO %s", table, quote_identifier(from),
											quote_identifier(to)), SPI_OK_UTILITY);
			namestrcpy(&TupleDescAttr(old->result, old->keys[j].result_column - 1)->attname, to);
			break;
		}
	}
}

static bool
same_type(Form_pg_attribute a, Form_pg_attribute b)
{
	return a->atttypid == b->atttypid && a->atttypmod == b->atttypmod && a->attcollation == b->attcollation;
}

static void
change_columns(SckptQuery *old, SckptQuery *new, const char *table, bool anew)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < old->result->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(old->result, i);
		Form_pg_attribute now = find_column(new->result, NameStr(column->attname));
		const char *name = quote_identifier(NameStr(column->attname));

		if (now && same_type(column, now))
			continue;
		if (now && !anew && can_coerce_type(1, &column->atttypid, &now->atttypid, COERCION_EXPLICIT))
			appendStringInfo(&sql, "%s ALTER COLUMN %s TYPE %s USING %s::%s", sql.len ? "," : "", name,
							 sckpt_pipeline_column_type(now), name, format_type_with_typemod(now->atttypid, now->atttypmod));
		else
		{
			appendStringInfo(&sql, "%s DROP COLUMN %s", sql.len ? "," : "", name);
			if (now)
				appendStringInfo(&sql, ", ADD COLUMN %s %s", name, sckpt_pipeline_column_type(now));
		}
	}
	for (int i = 0; i < new->result->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(new->result, i);

		if (find_column(old->result, NameStr(column->attname)) == NULL)
			appendStringInfo(&sql, "%s ADD COLUMN %s %s", sql.len ? "," : "", quote_identifier(NameStr(column->attname)),
							 sckpt_pipeline_column_type(column));
	}
	if (sql.len > 0)
		sckpt_pipeline_run_sql(psprintf("ALTER TABLE %s%s", table, sql.data), SPI_OK_UTILITY);
}

/* The index that finds the result's rows by key; InvalidOid: there is none. */
static Oid
key_index(Oid relid, SckptQuery *query)
{
	Relation	rel = table_open(relid, AccessShareLock);
	AttrNumber *keys = palloc(Max(1, query->nsink) * sizeof(AttrNumber));
	Oid			index = InvalidOid;
	bool		complete = query->nsink > 0;

	for (int i = 0; i < query->nsink; i++)
	{
		keys[i] = get_attnum(relid, key_column(query, &query->sink_keys[i]));
		complete &= keys[i] > 0;
	}
	if (complete)
		index = sckpt_sink_key_index(rel, query->nsink, keys);
	table_close(rel, AccessShareLock);
	return index;
}

void
sckpt_alter_result(SckptPipeline *pipeline, SckptQuery *old, SckptQuery *new, bool anew)
{
	char	   *table = quote_qualified_identifier(get_namespace_name(get_rel_namespace(pipeline->result)),
												   get_rel_name(pipeline->result));
	SckptQuery *old_last = sckpt_query_last(old);
	SckptQuery *new_last = sckpt_query_last(new);
	Oid			index;
	Oid			wanted;

	if (!anew)
	{
		rename_keys(old_last, new_last, table);
		change_columns(old_last, new_last, table, false);
		CommandCounterIncrement();
		return;
	}
	sckpt_pipeline_run_sql(psprintf("DELETE FROM ONLY %s", table), SPI_OK_DELETE);
	index = key_index(pipeline->result, old_last);
	change_columns(old_last, new_last, table, true);
	CommandCounterIncrement();
	wanted = key_index(pipeline->result, new_last);

	/* It would keep rows of other keys out. */
	if (OidIsValid(index) && index != wanted && get_rel_name(index))
		sckpt_pipeline_run_sql(psprintf("DROP INDEX %s", quote_qualified_identifier(get_namespace_name(get_rel_namespace(index)),
																				 get_rel_name(index))), SPI_OK_UTILITY);
	if (!OidIsValid(wanted) && new_last->nsink > 0)
		sckpt_pipeline_index_result(pipeline->result, new_last);
	CommandCounterIncrement();
}
