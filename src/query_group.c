/*-------------------------------------------------------------------------
 *
 * query_group.c
 *		The grouped stage of a query level: keys, aggregate calls, and the
 *		projection and HAVING over both.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/ruleutils.h"

#include "compat.h"
#include "query_private.h"

typedef struct GroupContext
{
	SckptQuery *query;
	List	   *calls;			/* Aggrefs, each different */
} GroupContext;


static bool
collect_calls(Node *node, GroupContext *context)
{
	if (node == NULL)
		return false;
	for (int i = 0; i < context->query->nkeys; i++)
	{
		if (equal(node, context->query->keys[i].expr))
			return false;
	}
	if (IsA(node, SubLink))
		sckpt_query_refuse("a sub-select in the target list or HAVING of a grouped query",
						   "Join the result with the table in a view.");
	if (IsA(node, GroupingFunc))
		sckpt_query_refuse("GROUPING()", "Create one pipeline for each grouping.");
	if (IsA(node, Aggref))
	{
		ListCell   *lc;

		foreach(lc, context->calls)
		{
			if (equal(lfirst(lc), node))
				return false;
		}
		context->calls = lappend(context->calls, node);
		return false;
	}
	return expression_tree_walker(node, collect_calls, context);
}

/* Rewrite an expression of the select list or HAVING to one over a row of keys and aggregate results. */
static Node *
replace_groups(Node *node, GroupContext *context)
{
	SckptQuery *query = context->query;

	if (node == NULL)
		return NULL;
	for (int i = 0; i < query->nkeys; i++)
	{
		if (equal(node, query->keys[i].expr))
			return (Node *) makeVar(1, i + 1, query->keys[i].type, query->keys[i].typmod,
									query->keys[i].collation, 0);
	}
	if (IsA(node, Aggref))
	{
		int			i = 0;
		ListCell   *lc;

		foreach(lc, context->calls)
		{
			if (equal(lfirst(lc), node))
				return (Node *) makeVar(1, query->nkeys + i + 1, exprType(node), exprTypmod(node),
										exprCollation(node), 0);
			i++;
		}
		elog(ERROR, "aggregate not found");
	}
	if (IsA(node, Var))
		sckpt_query_refuse("a column that is neither in GROUP BY nor in an aggregate",
						   "Name the column in GROUP BY, also where it depends on a primary key that is there.");
	return expression_tree_mutator(node, replace_groups, context);
}

/* A group key, by its clause of GROUP BY. */
static void
read_key(SckptLevel *level, SckptKey *key, SortGroupClause *clause, List *targets)
{
	TargetEntry *entry = NULL;
	ListCell   *lc;

	foreach(lc, targets)
	{
		if (((TargetEntry *) lfirst(lc))->ressortgroupref == clause->tleSortGroupRef)
			entry = lfirst(lc);
	}
	if (entry == NULL)
		elog(ERROR, "GROUP BY expression not found");
	key->expr = (Node *) entry->expr;
	key->type = exprType(key->expr);
	key->typmod = exprTypmod(key->expr);
	key->collation = exprCollation(key->expr);
	key->eq_op = clause->eqop;
	sckpt_query_refuse_clock(key->expr, "GROUP BY");
	if (!clause->hashable)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("GROUP BY with type %s is not supported in a pipeline, because it has no hash operator class",
						format_type_be(key->type)),
				 errhint("Cast the expression to a type that has one, such as text.")));
	foreach(lc, targets)
	{
		TargetEntry *target = lfirst(lc);

		if (!target->resjunk && key->result_column == 0 && equal(target->expr, key->expr))
			key->result_column = target->resno;
	}
	if (key->result_column == 0 && level->last)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a GROUP BY expression that is not in the select list is not supported in a pipeline"),
				 errhint("The result's rows are told apart by the group keys: select all of them.")));
	sckpt_level_key_time(level, key);
	if (level->below)
	{
		SckptKey   *below = sckpt_level_below_key(level, key->expr);

		key->below = below && level->input->join == NULL ? below - level->input->keys + 1 : 0;
	}
	key->canonical = sckpt_level_canonical(level, key->expr);
}

static bool
is_session_bound(SckptLevel *level, Node *expr)
{
	SckptLevelWindow *window;

	return sckpt_level_bound_of(level, expr, &window) != SCKPT_BOUND_NONE &&
		window->window->spec.kind == SCKPT_WINDOW_SESSION;
}

static bool
has_key(SckptKey *keys, int nkeys, Node *expr)
{
	for (int i = 0; i < nkeys; i++)
	{
		if (equal(keys[i].expr, expr))
			return true;
	}
	return false;
}

/*
 * Keys are the row's first columns; bounds of sessions come last of them.
 * Two names that sub-selects have given to one expression are one key.
 */
void
sckpt_level_read_keys(SckptLevel *level, List *targets)
{
	SckptQuery *stage = level->stage;
	SckptKey   *sessions = palloc0(Max(1, list_length(level->query->groupClause)) * sizeof(SckptKey));
	ListCell   *lc;

	stage->keys = palloc0(Max(1, list_length(level->query->groupClause)) * sizeof(SckptKey));
	foreach(lc, level->query->groupClause)
	{
		SckptKey	key = {0};

		read_key(level, &key, lfirst(lc), targets);
		if (has_key(stage->keys, stage->nkeys, key.expr) || has_key(sessions, stage->nsession, key.expr))
			continue;
		if (is_session_bound(level, key.expr))
			sessions[stage->nsession++] = key;
		else
			stage->keys[stage->nkeys++] = key;
	}
	for (int i = 0; i < stage->nsession; i++)
		stage->keys[stage->nkeys++] = sessions[i];
	if (stage->nwindows > 0 && stage->windows[0].spec.kind == SCKPT_WINDOW_SESSION && stage->nsession == 0)
		sckpt_query_refuse("session() without one of its bounds in GROUP BY",
						   "Group by window_start and window_end.");
	sckpt_level_key_columns(level);
}

char *
sckpt_level_source_sql(SckptLevel *level)
{
	Query	   *source = copyObject(level->query);

	source->targetList = level->columns;
	source->groupClause = NIL;
	source->havingQual = NULL;
	source->hasAggs = false;
	source->groupDistinct = false;
	return pg_get_querydef(source, false);
}

void
sckpt_level_split_group(SckptLevel *level)
{
	Query	   *query = level->query;
	SckptQuery *stage = level->stage;
	GroupContext context = {stage, NIL};
	List	   *targets = (List *) sckpt_flatten_join_alias_vars(query, (Node *) query->targetList);
	Node	   *having = sckpt_flatten_join_alias_vars(query, query->havingQual);
	List	   *visible = NIL;
	ListCell   *lc;
	int			i;

	if (query->hasTargetSRFs)
		sckpt_query_refuse("a set-returning function in the target list of a grouped query", "Use LATERAL.");
	sckpt_query_refuse_clock(having, "HAVING");
	sckpt_query_refuse_clock((Node *) targets, "the target list of a grouped query");

	sckpt_level_read_keys(level, targets);

	/* Then arguments and filters of the aggregates. */
	collect_calls((Node *) targets, &context);
	collect_calls(having, &context);
	stage->ncalls = list_length(context.calls);
	stage->calls = palloc0(Max(1, stage->ncalls) * sizeof(SckptCall));
	i = 0;
	foreach(lc, context.calls)
		sckpt_level_set_call(level, &stage->calls[i++], lfirst(lc));

	foreach(lc, targets)
	{
		TargetEntry *target = lfirst(lc);

		if (!target->resjunk)
			visible = lappend(visible, target);
	}
	stage->targetlist = (List *) replace_groups((Node *) visible, &context);
	stage->having = replace_groups(having, &context);
	if (contain_volatile_functions((Node *) stage->targetlist) || contain_volatile_functions(stage->having))
		sckpt_query_refuse("a volatile function in the target list or HAVING of a grouped query",
						   "Use it in a query over the result table.");

	sckpt_level_finish_columns(level);
	if (level->below == 0)
		stage->source = sckpt_level_source_sql(level);
}
