/*-------------------------------------------------------------------------
 *
 * query.c
 *		A pipeline's query, taken apart into its stages.
 *
 * PostgreSQL parses, analyses and rewrites (views are expanded, row-level
 * security applied).  What remains to be decided here is which constructs are linear in
 * the stream's rows: then running them batch by batch and adding up the
 * results gives what running them once would give.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_agg.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "query.h"

/* What the walkers carry. */
typedef struct StreamUse
{
	Oid			stream;			/* the last one seen */
	int			count;			/* streams seen, anywhere */
	List	   *columns;		/* of it that are used; 0: all */
} StreamUse;

typedef struct GroupContext
{
	SckptQuery *query;
	List	   *calls;			/* Aggrefs, each different */
} GroupContext;

static bool find_in_query(Query *query, StreamUse *use);

static void
refuse(const char *construct, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s is not supported in a pipeline", construct),
			 hint ? errhint("%s", hint) : 0));
}

/* ---- Where the stream is ---- */

static bool
count_streams(Node *node, StreamUse *use)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind != RTE_RELATION)
			return false;
		if (sckpt_catalog_is_stream(rte->relid))
		{
			int			column = -1;

			use->stream = rte->relid;
			use->count++;
			while ((column = bms_next_member(rte->selectedCols, column)) >= 0)
				use->columns = lappend_int(use->columns, column + FirstLowInvalidHeapAttributeNumber);
		}
		else if (rte->inh && has_subclass(rte->relid))
		{
			ListCell   *lc;

			foreach(lc, find_all_inheritors(rte->relid, AccessShareLock, NULL))
			{
				if (sckpt_catalog_is_stream(lfirst_oid(lc)))
					ereport(ERROR,
							(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							 errmsg("table \"%s\" with a stream among its partitions is not supported in a pipeline",
									get_rel_name(rte->relid)),
							 errhint("Name the stream itself in FROM.")));
			}
		}
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, count_streams, use, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, count_streams, use);
}

static bool
contains_stream(Node *node)
{
	StreamUse	use = {InvalidOid, 0, NIL};

	count_streams(node, &use);
	return use.count > 0;
}

/* now() and its like, not in sub-selects. */
static bool
reads_clock(Node *node, void *context)
{
	if (node == NULL || IsA(node, Query))
		return false;
	if (IsA(node, SQLValueFunction))
	{
		switch (((SQLValueFunction *) node)->op)
		{
			case SVFOP_CURRENT_ROLE:
			case SVFOP_CURRENT_USER:
			case SVFOP_USER:
			case SVFOP_SESSION_USER:
			case SVFOP_CURRENT_CATALOG:
			case SVFOP_CURRENT_SCHEMA:
				break;
			default:
				return true;
		}
	}
	if (IsA(node, FuncExpr))
	{
		switch (((FuncExpr *) node)->funcid)
		{
			case F_NOW:
			case F_TRANSACTION_TIMESTAMP:
			case F_STATEMENT_TIMESTAMP:
			case F_CLOCK_TIMESTAMP:
			case F_TIMEOFDAY:
				return true;
		}
	}
	return expression_tree_walker(node, reads_clock, context);
}

static void
refuse_clock(Node *node, const char *where)
{
	if (reads_clock(node, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the current time in %s is not supported in a pipeline", where),
				 errhint("Add a column with DEFAULT clock_timestamp() to the stream and use that.")));
}

/* System columns of rows that are not in a table mean nothing. */
static bool
find_system_column(Node *node, Query *query)
{
	if (node == NULL || IsA(node, Query))
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varlevelsup == 0 && var->varattno < 0 && var->varattno != TableOidAttributeNumber &&
			rt_fetch(var->varno, query->rtable)->rtekind == RTE_RELATION &&
			sckpt_catalog_is_stream(rt_fetch(var->varno, query->rtable)->relid))
			refuse("a system column of a stream", "Add a column with a DEFAULT to the stream.");
		return false;
	}
	return expression_tree_walker(node, find_system_column, query);
}

/*
 * Is the stream below this item of a FROM clause, and on a side of each join that makes the join linear in it?
 */
static bool
find_in_join_tree(Node *node, Query *query, StreamUse *use)
{
	bool		found = false;

	if (IsA(node, FromExpr))
	{
		FromExpr   *from = (FromExpr *) node;
		ListCell   *lc;

		foreach(lc, from->fromlist)
			found |= find_in_join_tree(lfirst(lc), query, use);
		if (found)
			refuse_clock(from->quals, "WHERE");
	}
	else if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;
		bool		left = find_in_join_tree(join->larg, query, use);
		bool		right = find_in_join_tree(join->rarg, query, use);

		found = left || right;
		if (found && join->jointype == JOIN_FULL)
			refuse("FULL JOIN with a stream", "Use LEFT JOIN with the stream on the left.");
		if ((right && join->jointype == JOIN_LEFT) || (left && join->jointype == JOIN_RIGHT))
			refuse("an outer join that keeps rows of a table without a match in the stream",
				   "Use LEFT JOIN with the stream on the left.");
		if (found)
			refuse_clock(join->quals, "JOIN … ON");
	}
	else if (IsA(node, RangeTblRef))
	{
		RangeTblEntry *rte = rt_fetch(((RangeTblRef *) node)->rtindex, query->rtable);

		if (rte->rtekind == RTE_RELATION)
		{
			found = sckpt_catalog_is_stream(rte->relid);
			if (found && rte->tablesample)
				refuse("TABLESAMPLE on a stream", "Use WHERE random() < fraction.");
		}
		else if (rte->rtekind == RTE_SUBQUERY)
			found = find_in_query(rte->subquery, use);
		else if (rte->rtekind == RTE_CTE && rte->ctelevelsup == 0)
		{
			ListCell   *lc;

			foreach(lc, query->cteList)
			{
				CommonTableExpr *cte = lfirst(lc);

				if (strcmp(cte->ctename, rte->ctename) == 0 && contains_stream(cte->ctequery))
				{
					if (cte->cterefcount > 1)
						refuse("a WITH query over a stream that is used more than once", "Create a pipeline for each use.");
					found = find_in_query(castNode(Query, cte->ctequery), use);
				}
			}
		}
	}
	return found;
}

/* Refuse what no query level on the stream's way can have. */
static void
check_level(Query *query)
{
	if (query->setOperations)
		refuse("UNION, INTERSECT or EXCEPT over a stream", "Create one pipeline for each part.");
	if (query->hasDistinctOn)
		refuse("DISTINCT ON", "Use GROUP BY with the same columns and aggregates for the others.");
	if (query->distinctClause)
		refuse("SELECT DISTINCT", "Use GROUP BY with the same columns.");
	if (query->hasWindowFuncs || query->windowClause)
		refuse("a window function", "Use it in a query over the result table.");
	if (query->limitCount || query->limitOffset)
		refuse("LIMIT", "Use it in a query over the result table.");
	if (query->sortClause)
		refuse("ORDER BY", "Order the rows in a query over the result table.");
	if (query->rowMarks)
		refuse("FOR UPDATE or FOR SHARE", "Leave the clause out: a pipeline only reads the tables it joins.");
	if (query->hasRecursive)
		refuse("WITH RECURSIVE", "Use it in a query over the result table.");
	if (query->hasModifyingCTE)
		refuse("a data-modifying statement in WITH", "Write the result into a sink; a trigger there can do the rest.");
	if (query->groupingSets)
		refuse("GROUPING SETS, ROLLUP or CUBE", "Create one pipeline for each grouping.");
}

/* The same for a sub-select in FROM, or a view: it must be linear as a whole. */
static bool
find_in_query(Query *query, StreamUse *use)
{
	if (!contains_stream((Node *) query))
		return false;
	check_level(query);
	if (query->hasAggs || query->groupClause || query->havingQual)
		refuse("grouping in a sub-select over a stream",
			   "Create a pipeline for the sub-select.");
	if (query->hasTargetSRFs)
		refuse("a set-returning function in a sub-select's target list", "Use LATERAL.");
	find_system_column((Node *) query->targetList, query);
	return find_in_join_tree((Node *) query->jointree, query, use);
}

/* ---- The grouped stage ---- */

static bool
collect_calls(Node *node, GroupContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink))
		refuse("a sub-select in the target list or HAVING of a grouped query",
			   "Join the result with the table in a view.");
	if (IsA(node, GroupingFunc))
		refuse("GROUPING()", "Create one pipeline for each grouping.");
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

static void
check_call(Aggref *aggref)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate form;
	const char *name;
	bool		storable;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	storable = form->aggtranstype != INTERNALOID || (OidIsValid(form->aggserialfn) && OidIsValid(form->aggdeserialfn));
	ReleaseSysCache(tuple);
	name = format_procedure(aggref->aggfnoid);

	if (aggref->aggkind != AGGKIND_NORMAL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ordered-set aggregate %s is not supported in a pipeline", name),
				 errhint("An approximate aggregate such as tdigest_percentile() can take its place.")));
	if (aggref->aggdistinct)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("DISTINCT in aggregate %s is not supported in a pipeline", name),
				 errhint("Group by the value too, and aggregate the result in a view; or use an approximate aggregate such as hll_add_agg().")));
	if (aggref->aggorder)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ORDER BY in aggregate %s is not supported in a pipeline", name),
				 errhint("Rows are aggregated in commit order.")));
	if (!storable)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("aggregate %s is not supported in a pipeline, because its state cannot be stored", name),
				 errhint("The aggregate's transition type is internal and it has no serialization function in this version of PostgreSQL.")));
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
		refuse("a column that is neither in GROUP BY nor in an aggregate",
			   "Name the column in GROUP BY, also where it depends on a primary key that is there.");
	return expression_tree_mutator(node, replace_groups, context);
}

/* Number of the source's column with this expression, added if it is new. */
static AttrNumber
source_column(List **columns, Expr *expr, bool share)
{
	ListCell   *lc;

	foreach(lc, *columns)
	{
		TargetEntry *entry = lfirst(lc);

		if (share && equal(entry->expr, expr) && !contain_volatile_functions((Node *) expr))
			return entry->resno;
	}
	*columns = lappend(*columns, makeTargetEntry(copyObject(expr), list_length(*columns) + 1,
												 psprintf("c%d", list_length(*columns) + 1), false));
	return list_length(*columns);
}

static void
split_group(Query *query, SckptQuery *result)
{
	GroupContext context = {result, NIL};
	List	   *targets = (List *) sckpt_flatten_join_alias_vars(query, (Node *) query->targetList);
	Node	   *having = sckpt_flatten_join_alias_vars(query, query->havingQual);
	List	   *columns = NIL;
	List	   *visible = NIL;
	Query	   *source;
	ListCell   *lc;
	int			i;

	if (query->hasTargetSRFs)
		refuse("a set-returning function in the target list of a grouped query", "Use LATERAL.");
	refuse_clock(having, "HAVING");
	refuse_clock((Node *) targets, "the target list of a grouped query");

	/* Keys are the source's first columns. */
	result->nkeys = list_length(query->groupClause);
	result->keys = palloc0(Max(1, result->nkeys) * sizeof(SckptKey));
	i = 0;
	foreach(lc, query->groupClause)
	{
		SortGroupClause *clause = lfirst(lc);
		TargetEntry *entry = NULL;
		SckptKey   *key = &result->keys[i++];
		ListCell   *lt;

		foreach(lt, targets)
		{
			if (((TargetEntry *) lfirst(lt))->ressortgroupref == clause->tleSortGroupRef)
				entry = lfirst(lt);
		}
		if (entry == NULL)
			elog(ERROR, "GROUP BY expression not found");
		key->expr = (Node *) entry->expr;
		key->type = exprType(key->expr);
		key->typmod = exprTypmod(key->expr);
		key->collation = exprCollation(key->expr);
		key->eq_op = clause->eqop;
		refuse_clock(key->expr, "GROUP BY");
		if (!clause->hashable)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("GROUP BY with type %s is not supported in a pipeline, because it has no hash operator class",
							format_type_be(key->type)),
					 errhint("Cast the expression to a type that has one, such as text.")));
		source_column(&columns, (Expr *) key->expr, false);
		foreach(lt, targets)
		{
			TargetEntry *target = lfirst(lt);

			if (!target->resjunk && key->result_column == 0 && equal(target->expr, key->expr))
				key->result_column = target->resno;
		}
		if (key->result_column == 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a GROUP BY expression that is not in the select list is not supported in a pipeline"),
					 errhint("The result's rows are told apart by the group keys: select all of them.")));
	}

	/* Then arguments and filters of the aggregates. */
	collect_calls((Node *) targets, &context);
	collect_calls(having, &context);
	result->ncalls = list_length(context.calls);
	result->calls = palloc0(Max(1, result->ncalls) * sizeof(SckptCall));
	i = 0;
	foreach(lc, context.calls)
	{
		Aggref	   *aggref = lfirst(lc);
		SckptCall  *call = &result->calls[i++];
		ListCell   *la;

		check_call(aggref);
		call->aggref = aggref;
		call->args = palloc0(Max(1, list_length(aggref->args)) * sizeof(AttrNumber));
		foreach(la, aggref->args)
			call->args[call->nargs++] = source_column(&columns, ((TargetEntry *) lfirst(la))->expr, true);
		if (aggref->aggfilter)
			call->filter = source_column(&columns, aggref->aggfilter, true);
	}

	foreach(lc, targets)
	{
		TargetEntry *target = lfirst(lc);

		if (!target->resjunk)
			visible = lappend(visible, target);
	}
	result->targetlist = (List *) replace_groups((Node *) visible, &context);
	result->having = replace_groups(having, &context);
	if (contain_volatile_functions((Node *) result->targetlist) || contain_volatile_functions(result->having))
		refuse("a volatile function in the target list or HAVING of a grouped query",
			   "Use it in a query over the result table.");

	result->pure = list_length(query->rtable) == 1 && !query->hasSubLinks &&
		linitial_node(RangeTblEntry, query->rtable)->rtekind == RTE_RELATION &&
		linitial_node(RangeTblEntry, query->rtable)->relid == result->stream &&
		!contain_mutable_functions((Node *) columns) && !contain_mutable_functions(query->jointree->quals);

	result->stable = result->pure;
	foreach(lc, columns)
	{
		Expr	   *expr = ((TargetEntry *) lfirst(lc))->expr;

		result->stable &= get_typbyval(exprType((Node *) expr)) || (IsA(expr, Var) && ((Var *) expr)->varattno > 0);
	}

	source = copyObject(query);
	source->targetList = columns;
	source->groupClause = NIL;
	source->havingQual = NULL;
	source->hasAggs = false;
	source->groupDistinct = false;
	result->source = pg_get_querydef(source, false);
	result->nsource = list_length(columns);
	result->source_types = palloc(Max(1, result->nsource) * sizeof(Oid));
	i = 0;
	foreach(lc, columns)
		result->source_types[i++] = exprType((Node *) ((TargetEntry *) lfirst(lc))->expr);
}

SckptQuery *
sckpt_query_analyze(const char *text)
{
	SckptQuery *result = palloc0(sizeof(SckptQuery));
	StreamUse	use = {InvalidOid, 0, NIL};
	List	   *statements = raw_parser(text, RAW_PARSE_DEFAULT);
	RawStmt    *statement;
	List	   *rewritten;
	Query	   *query;
	Query	   *expanded;

	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("a pipeline needs exactly one query")));
	statement = linitial_node(RawStmt, statements);
	if (!IsA(statement->stmt, SelectStmt))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a statement other than SELECT is not supported in a pipeline"),
				 errhint("Write the SELECT only; name the table or stream to write to as the sink.")));
	if (((SelectStmt *) statement->stmt)->intoClause)
		refuse("SELECT INTO", "Name an existing table as the sink.");

	/*
	 * What is linear is seen in the query with its views expanded; what is run is made from the one without, so that
	 * row-level security and changed views take effect when it is planned.
	 */
	query = parse_analyze_fixedparams(statement, text, NULL, 0, NULL);
	if (isQueryUsingTempRelation(query))
		refuse("a temporary table", "The pipeline's worker could not see it. Use an ordinary table.");
	rewritten = QueryRewrite(copyObject(query));
	if (list_length(rewritten) != 1)
		refuse("a query that a rule turns into several", "Select from the tables below the view with that rule.");
	expanded = linitial_node(Query, rewritten);
	if (expanded->commandType != CMD_SELECT)
		refuse("a query that a rule turns into another command", "Select from the tables below the view with that rule.");

	check_level(expanded);
	if (query->targetList == NIL)
		refuse("a query without columns", "Select at least one column.");
	count_streams((Node *) expanded, &use);
	if (use.count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a query over no stream is not supported in a pipeline"),
				 errhint("A pipeline reads one stream. Create it with stream_ckpt.create_stream().")));
	if (use.count > 1)
		refuse("a join of streams", "Join one stream with ordinary tables, such as results of other pipelines.");
	result->stream = use.stream;
	result->columns = use.columns;
	if (!find_in_join_tree((Node *) expanded->jointree, expanded, &use))
		refuse("a stream in a sub-select outside FROM", "Name the stream in FROM.");
	find_system_column((Node *) expanded->targetList, expanded);
	find_system_column(expanded->havingQual, expanded);
	find_system_column(expanded->jointree->quals, expanded);

	result->result = ExecCleanTypeFromTL(query->targetList);
	result->grouped = query->hasAggs || query->groupClause || query->havingQual;
	if (result->grouped)
		split_group(query, result);
	else
		result->source = pg_get_querydef(query, false);
	return result;
}
