/*-------------------------------------------------------------------------
 *
 * query_canonical.c
 *		What an expression of a query is, in words that do not depend on how
 *		the query was written around it.
 *
 * Stored state names what it belongs to by these words, so that a changed query finds what it still has.  They are PostgreSQL's own
 * text of the expression, with a number in the place of each column, and after that, what each number is: a column of
 * a relation by its name, one of a sub-select by what it stands for, a window's bound by the window, one of a grouped sub-select by its own
 * canonical words.  Neither aliases nor settings of the session get in.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

#include "compat.h"
#include "query_private.h"

typedef struct NameContext
{
	SckptLevel *level;			/* NULL: in a sub-select, or over a stage's row */
	Query	   *query;			/* NULL: over a row of keys and aggregate results of `stage` */
	SckptQuery *stage;
	int			sublevels_up;
	List	   *names;			/* of columns, in the order of their first use */
} NameContext;

static char *canonical(NameContext *context, Node *node);

/* A relation that is named more than once in a FROM clause: which of them? */
static int
ordinal(Query *query, Index index)
{
	RangeTblEntry *rte = rt_fetch(index, query->rtable);
	int			n = 1;

	for (int i = 1; i < index; i++)
	{
		RangeTblEntry *other = rt_fetch(i, query->rtable);

		n += other->rtekind == RTE_RELATION && other->relid == rte->relid && other->inFromCl;
	}
	return n;
}

static char *
column_of_query(Query *query, AttrNumber column)
{
	NameContext context = {.query = query};

	if (sckpt_union_is(query))
	{
		StringInfoData buf;
		ListCell   *lc;

		initStringInfo(&buf);
		foreach(lc, sckpt_union_parts(query))
			appendStringInfo(&buf, "%s%s", buf.len ? " union " : "",
							 column_of_query(((RangeTblEntry *) lfirst(lc))->subquery, column));
		return buf.data;
	}
	if (query->setOperations || column <= 0 || column > list_length(query->targetList))
		return psprintf("%s.%d", pg_get_querydef(copyObject(query), false), column);
	return canonical(&context, sckpt_flatten_join_alias_vars(query,
															 (Node *) list_nth_node(TargetEntry, query->targetList, column - 1)->expr));
}

static char *
column_name(NameContext *context, Var *var)
{
	Query	   *query = context->query;
	SckptLevel *level = context->level;
	NameContext inner = {.query = query};
	RangeTblEntry *rte;
	ListCell   *lc;

	check_stack_depth();
	if (query == NULL)
	{
		int			number = var->varattno - 1;

		if (context->stage->join)
			return context->stage->join->names[number];
		if (number < context->stage->nkeys)
			return context->stage->keys[number].canonical;
		number -= context->stage->nkeys;
		if (context->stage->ranking == NULL && context->stage->framing == NULL)
			return context->stage->calls[number].canonical;
		if (number < context->stage->sets[0].ncolumns)
			return context->stage->sets[0].columns[number].canonical;
		number -= context->stage->sets[0].ncolumns;
		if (context->stage->framing)
			return context->stage->framing->calls[number].canonical;
		return pstrdup(sckpt_query_rank_name(number));
	}
	if (level && level->below && var->varno == level->below)
	{
		inner.query = NULL;
		inner.stage = level->input;
		if (var->varattno <= 0)
			return "row";
		return canonical(&inner, (Node *) list_nth_node(TargetEntry, level->input->targetlist, var->varattno - 1)->expr);
	}
	foreach(lc, level ? level->windows : NIL)
	{
		SckptLevelWindow *window = lfirst(lc);

		inner.level = level;
		if (var->varno == window->index)
			return psprintf("%s.%d", canonical(&inner, (Node *) window->call), var->varattno);
	}

	rte = rt_fetch(var->varno, query->rtable);
	switch (rte->rtekind)
	{
		case RTE_RELATION:
			{
				int			n = ordinal(query, var->varno);
				char	   *column = var->varattno == 0 ? pstrdup("*") : get_attname(rte->relid, var->varattno, false);

				return psprintf("%s%s.%s", quote_qualified_identifier(get_namespace_name(get_rel_namespace(rte->relid)),
																	  get_rel_name(rte->relid)),
								n > 1 ? psprintf("#%d", n) : "", quote_identifier(column));
			}
		case RTE_SUBQUERY:
			return column_of_query(rte->subquery, var->varattno);
		case RTE_CTE:
			foreach(lc, query->cteList)
			{
				CommonTableExpr *cte = lfirst(lc);

				if (rte->ctelevelsup == 0 && strcmp(cte->ctename, rte->ctename) == 0 && IsA(cte->ctequery, Query) &&
					!cte->cterecursive)
					return column_of_query((Query *) cte->ctequery, var->varattno);
			}
			break;
		case RTE_FUNCTION:
			{
				List	   *calls = NIL;

				foreach(lc, rte->functions)
					calls = lappend(calls, lfirst_node(RangeTblFunction, lc)->funcexpr);
				inner.level = level;
				return psprintf("%s.%d", canonical(&inner, (Node *) calls), var->varattno);
			}
		case RTE_VALUES:
			return psprintf("%s.%d", canonical(&inner, (Node *) rte->values_lists), var->varattno);
		default:
			break;
	}
	return psprintf("%s.%d", rte->eref->aliasname, var->varattno);
}

/* Numbers in the place of columns. */
static Node *
number_columns(Node *node, NameContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;
		Param	   *param;
		char	   *name;
		int			number = 0;
		ListCell   *lc;

		if (var->varlevelsup != context->sublevels_up)
			return (Node *) copyObject(var);
		name = column_name(context, var);
		foreach(lc, context->names)
		{
			if (strcmp(lfirst(lc), name) == 0)
				number = foreach_current_index(lc) + 1;
		}
		if (number == 0)
		{
			context->names = lappend(context->names, name);
			number = list_length(context->names);
		}
		param = makeNode(Param);
		param->paramkind = PARAM_EXTERN;
		param->paramid = number;
		param->paramtype = var->vartype;
		param->paramtypmod = var->vartypmod;
		param->paramcollid = var->varcollid;
		param->location = -1;
		return (Node *) param;
	}
	if (IsA(node, Query))
	{
		Query	   *result;

		context->sublevels_up++;
		result = query_tree_mutator((Query *) node, number_columns, context, 0);
		context->sublevels_up--;
		return (Node *) result;
	}
	return expression_tree_mutator(node, number_columns, context);
}

static char *
canonical(NameContext *context, Node *node)
{
	StringInfoData buf;
	ListCell   *lc;
	Node	   *numbered = number_columns(node, context);

	/* A column by itself is its name. */
	if (IsA(numbered, Param) && list_length(context->names) == 1)
		return linitial(context->names);
	initStringInfo(&buf);
	if (IsA(numbered, List))
	{
		foreach(lc, (List *) numbered)
			appendStringInfo(&buf, "%s%s", buf.len ? ", " : "", deparse_expression(lfirst(lc), NIL, false, false));
	}
	else
		appendStringInfoString(&buf, deparse_expression(numbered, NIL, false, false));
	foreach(lc, context->names)
		appendStringInfo(&buf, "%s$%d = %s", foreach_current_index(lc) ? ", " : " with ",
						 foreach_current_index(lc) + 1, (char *) lfirst(lc));
	if (context->names)
		appendStringInfoString(&buf, " end");
	return buf.data;
}

char *
sckpt_level_canonical(SckptLevel *level, Node *node)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"TimeZone", "UTC"},
		{"bytea_output", "hex"},
		{"extra_float_digits", "1"},
		{"quote_all_identifiers", "off"},
	};
	NameContext context = {.level = level, .query = level->query};
	Oid			collation = IsA(node, Aggref) ? ((Aggref *) node)->inputcollid : exprCollation(node);
	bool		mutable = contain_mutable_functions(node);
	const char *zone = mutable ? pstrdup(GetConfigOption("TimeZone", false, false)) : NULL;
	int			level_of_settings = NewGUCNestLevel();
	StringInfoData line;
	char	   *result;

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	result = canonical(&context, node);
	if (OidIsValid(collation) && collation != DEFAULT_COLLATION_OID)
		result = psprintf("%s collate %s", result, generate_collation_name(collation));
	AtEOXact_GUC(false, level_of_settings);
	if (zone)
		result = psprintf("%s at %s", result, zone);

	/* In descriptions these end a line, or a field (aggregate_form.c). */
	initStringInfo(&line);
	for (const char *at = result; *at; at++)
	{
		if (*at == '\n' || *at == '\t' || *at == '\\')
			appendStringInfoChar(&line, '\\');
		appendStringInfoChar(&line, *at == '\n' ? 'n' : *at == '\t' ? 't' : *at);
	}
	return line.data;
}
