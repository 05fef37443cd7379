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

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "catalog.h"
#include "compat.h"
#include "query_private.h"
#include "stream.h"

/* What the walkers carry. */
typedef struct StreamUse
{
	List	   *streams;		/* oids, each once */
	int			count;			/* how often one is seen, anywhere */
	List	   *columns;		/* of the one stream that are used; 0: all */
	Query	   *query;			/* whose range table we are in */
} StreamUse;

static bool find_in_query(Query *query, StreamUse *use);

void
sckpt_query_refuse(const char *construct, const char *hint)
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
			Bitmapset  *columns = sckpt_selected_columns(use->query, rte);
			int			column = -1;

			use->streams = list_append_unique_oid(use->streams, rte->relid);
			use->count++;
			while ((column = bms_next_member(columns, column)) >= 0)
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
	{
		Query	   *outer = use->query;

		use->query = (Query *) node;
		(void) query_tree_walker(use->query, count_streams, use, QTW_EXAMINE_RTES_BEFORE);
		use->query = outer;
		return false;
	}
	return expression_tree_walker(node, count_streams, use);
}

/* In all of a query. */
static bool
flatten_groups(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		sckpt_flatten_groups((Query *) node);
		return query_tree_walker((Query *) node, flatten_groups, context, 0);
	}
	return expression_tree_walker(node, flatten_groups, context);
}

bool
sckpt_query_reads_stream(Query *query)
{
	Query	   *copy = copyObject(query);
	ListCell   *lc;

	/* The locks are there: whoever analysed it took them.  Rewriting is for top-level queries; those of WITH say that they are none. */
	copy->canSetTag = true;
	foreach(lc, QueryRewrite(copy))
	{
		StreamUse	use = {NIL, 0, NIL, NULL};

		count_streams(lfirst(lc), &use);
		if (use.count > 0)
			return true;
	}
	return false;
}

static bool
contains_stream(Node *node)
{
	StreamUse	use = {NIL, 0, NIL, NULL};

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

void
sckpt_query_refuse_clock(Node *node, const char *where)
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
			sckpt_query_refuse("a system column of a stream", "Add a column with a DEFAULT to the stream.");
		return false;
	}
	return expression_tree_walker(node, find_system_column, query);
}

void
sckpt_query_refuse_system_columns(Query *query)
{
	find_system_column((Node *) query->targetList, query);
	find_system_column(query->havingQual, query);
	find_system_column((Node *) query->jointree, query);
}

/* One that is named in the query has been taken apart. */
static void
refuse_hidden_join(void)
{
	sckpt_query_refuse("a join of streams in a view", "Name the streams in the pipeline's query.");
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
		{
			bool		also = find_in_join_tree(lfirst(lc), query, use);

			if (found && also)
				refuse_hidden_join();
			found |= also;
		}
		if (found)
			sckpt_query_refuse_clock(from->quals, "WHERE");
	}
	else if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;
		bool		left = find_in_join_tree(join->larg, query, use);
		bool		right = find_in_join_tree(join->rarg, query, use);

		if (left && right)
			refuse_hidden_join();
		found = left || right;
		if (found && join->jointype == JOIN_FULL)
			sckpt_query_refuse("FULL JOIN with a stream", "Use LEFT JOIN with the stream on the left.");
		if ((right && join->jointype == JOIN_LEFT) || (left && join->jointype == JOIN_RIGHT))
			sckpt_query_refuse("an outer join that keeps rows of a table without a match in the stream",
							   "Use LEFT JOIN with the stream on the left.");
		if (found)
			sckpt_query_refuse_clock(join->quals, "JOIN … ON");
	}
	else if (IsA(node, RangeTblRef))
	{
		RangeTblEntry *rte = rt_fetch(((RangeTblRef *) node)->rtindex, query->rtable);

		if (rte->rtekind == RTE_RELATION)
		{
			found = sckpt_catalog_is_stream(rte->relid);
			if (found && rte->tablesample)
				sckpt_query_refuse("TABLESAMPLE on a stream", "Use WHERE random() < fraction.");
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
						sckpt_query_refuse("a WITH query over a stream that is used more than once", "Create a pipeline for each use.");
					found = find_in_query(castNode(Query, cte->ctequery), use);
				}
			}
		}
	}
	return found;
}

void
sckpt_query_check_level(Query *query)
{
	sckpt_union_check_operations(query);
	sckpt_rank_check_level(query);
	if (query->rowMarks)
		sckpt_query_refuse("FOR UPDATE or FOR SHARE", "Leave the clause out: a pipeline only reads the tables it joins.");
	if (query->hasRecursive)
		sckpt_query_refuse("WITH RECURSIVE", "Use it in a query over the result table.");
	if (query->hasModifyingCTE)
		sckpt_query_refuse("a data-modifying statement in WITH", "Write the result into a sink; a trigger there can do the rest.");
	if (query->groupingSets)
		sckpt_query_refuse("GROUPING SETS, ROLLUP or CUBE", "Create one pipeline for each grouping.");
}

/* The same for the parts of UNION ALL, of which it is known that there is a stream in each (query_union.c). */
static bool
find_in_union(Query *query, StreamUse *use)
{
	bool		found = true;
	ListCell   *lc;

	foreach(lc, sckpt_union_parts(query))
	{
		Query	   *part = ((RangeTblEntry *) lfirst(lc))->subquery;

		found &= sckpt_union_is(part) ? find_in_union(part, use) : find_in_join_tree((Node *) part->jointree, part, use);
	}
	return found;
}

/* The same for a sub-select in FROM, or a view: it must be linear as a whole. */
static bool
find_in_query(Query *query, StreamUse *use)
{
	ListCell   *lc;
	SckptWindowKind kind;

	if (!contains_stream((Node *) query))
		return false;
	sckpt_query_check_level(query);
	if (sckpt_union_is(query))
		return find_in_union(query, use);
	if (sckpt_query_is_grouped(query))
		sckpt_query_refuse("grouping in a sub-select over a stream",
						   "Create a pipeline for the sub-select.");
	if (sckpt_query_is_ranked(query))
		sckpt_query_refuse("DISTINCT ON, a rank or LIMIT in a view over a stream", "Put it into the pipeline's query.");

	/* Otherwise it has been flattened. */
	foreach(lc, query->rtable)
	{
		if (sckpt_level_window_kind(lfirst(lc), &kind))
			sckpt_query_refuse("a window in a view over a stream",
							   "Name the stream and the window in the pipeline's query.");
	}
	if (query->hasTargetSRFs)
		sckpt_query_refuse("a set-returning function in a sub-select's target list", "Use LATERAL.");
	find_system_column((Node *) query->targetList, query);
	return find_in_join_tree((Node *) query->jointree, query, use);
}

/* ---- Taking it apart ---- */

/* The linear part of a query, with its views expanded: refuse what is not linear in it. */
static void
check_linear(Query *expanded)
{
	StreamUse	use = {NIL, 0, NIL, NULL};
	bool		found = sckpt_union_is(expanded) ? find_in_union(expanded, &use) :
		find_in_join_tree((Node *) expanded->jointree, expanded, &use);

	if (!found)
		sckpt_query_refuse("a stream in a sub-select outside FROM", "Name the stream in FROM.");
	sckpt_query_refuse_system_columns(expanded);
}

/* The same for one as it was parsed. */
static void
check_source(Query *query)
{
	check_linear(linitial_node(Query, QueryRewrite(copyObject(query))));
}

/*
 * Must the query be taken apart level by level?  It must if one that reads the stream has windows, or is grouped without being
 * the outermost one, or (`track`) if the stream cannot be named in the outermost one.
 */
static bool
has_levels(Query *query, bool track, bool outermost)
{
	ListCell   *lc;
	SckptWindowKind kind;
	bool		direct = false;
	bool		hidden = false;

	if (sckpt_join_is(query) || sckpt_query_is_ranked(query) || (!outermost && sckpt_query_is_grouped(query)))
		return true;
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (sckpt_level_window_kind(rte, &kind))
			return true;
		if (rte->rtekind == RTE_RELATION && sckpt_catalog_is_stream(rte->relid))
			direct = true;
		if (rte->rtekind == RTE_JOIN && rte->alias != NULL)
			hidden = true;
		if (rte->rtekind == RTE_SUBQUERY && sckpt_query_reads_stream(rte->subquery) && sckpt_query_has_levels(rte->subquery))
			return true;
	}
	return track && sckpt_query_is_grouped(query) && (!direct || hidden);
}

bool
sckpt_query_has_levels(Query *query)
{
	return has_levels(query, false, false);
}

/* A group must not depend on when its rows were processed: neither by a function in FROM, nor by a column of a sub-select there. */
static void
refuse_clock_in_from(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_FUNCTION)
			sckpt_query_refuse_clock((Node *) rte->functions, "FROM");
		else if (rte->rtekind == RTE_SUBQUERY)
		{
			sckpt_query_refuse_clock((Node *) rte->subquery->targetList, "FROM");
			refuse_clock_in_from(rte->subquery);
		}
	}
}

/* The expressions of GROUP BY. */
static Node **
group_exprs(Query *query)
{
	Node	  **exprs = palloc(Max(1, list_length(query->groupClause)) * sizeof(Node *));
	ListCell   *lc;

	foreach(lc, query->groupClause)
		exprs[foreach_current_index(lc)] = get_sortgroupclause_expr(lfirst(lc), query->targetList);
	return exprs;
}

/* Is there a level with a stream in a sub-select in WHERE? */
static bool
reads_in_where(Query *query)
{
	ListCell   *lc;

	if (sckpt_join_is(query))
		return true;
	foreach(lc, query->rtable)
	{
		if (((RangeTblEntry *) lfirst(lc))->rtekind == RTE_SUBQUERY && reads_in_where(((RangeTblEntry *) lfirst(lc))->subquery))
			return true;
	}
	return false;
}

void
sckpt_query_scans(Query *query, List **streams, int *count)
{
	StreamUse	use = {NIL, 0, NIL, NULL};

	count_streams((Node *) linitial_node(Query, QueryRewrite(copyObject(query))), &use);
	*streams = use.streams;
	*count = use.count;
}

/* Which streams a source of a query with joins reads: each is run for itself. */
static void
finish_scans(SckptQuery *stage)
{
	if (stage->level)
		sckpt_query_scans(stage->level, &stage->scanned, &stage->nscanned);
}

SckptQuery *
sckpt_query_analyze(const char *text, bool final, bool track)
{
	SckptQuery *result;
	StreamUse	use = {NIL, 0, NIL, NULL};
	List	   *statements = raw_parser(text, RAW_PARSE_DEFAULT);
	RawStmt    *statement;
	List	   *rewritten;
	Query	   *query;
	Query	   *expanded;
	Query	   *structured;
	int			count;
	bool		event_time = false;
	int			place = 0;
	ListCell   *lc;

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
		sckpt_query_refuse("SELECT INTO", "Name an existing table as the sink.");

	/*
	 * What is linear is seen in the query with its views expanded; what is run is made from the one without, so that
	 * row-level security and changed views take effect when it is planned.
	 */
	query = parse_analyze_fixedparams(statement, text, NULL, 0, NULL);
	(void) flatten_groups((Node *) query, NULL);
	sckpt_query_expand_views(query);
	sckpt_level_inline_ctes(query);
	sckpt_query_lower(query);
	if (isQueryUsingTempRelation(query))
		sckpt_query_refuse("a temporary table", "The pipeline's worker could not see it. Use an ordinary table.");
	rewritten = QueryRewrite(copyObject(query));
	if (list_length(rewritten) != 1)
		sckpt_query_refuse("a query that a rule turns into several", "Select from the tables below the view with that rule.");
	expanded = linitial_node(Query, rewritten);
	if (expanded->commandType != CMD_SELECT)
		sckpt_query_refuse("a query that a rule turns into another command", "Select from the tables below the view with that rule.");

	sckpt_query_check_level(expanded);
	if (query->targetList == NIL)
		sckpt_query_refuse("a query without columns", "Select at least one column.");
	count_streams((Node *) expanded, &use);
	if (use.count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a query over no stream is not supported in a pipeline"),
				 errhint("A pipeline needs one stream. Create it with stream_ckpt.create_stream().")));

	/* From here on for checks only. */
	sckpt_level_inline_ctes(expanded);
	count = sckpt_union_count_streams(expanded, false);
	structured = copyObject(query);
	if (count > 0 && count < use.count && !reads_in_where(structured))
		sckpt_query_refuse("a stream in a sub-select outside FROM and WHERE", "Name the stream in FROM.");
	if (sckpt_query_is_grouped(expanded))
		refuse_clock_in_from(expanded);
	if (has_levels(structured, track, true))
		result = sckpt_query_make_stages(structured, final, track, check_source);
	else
	{
		SckptLevel	level = {NULL};

		check_linear(expanded);
		result = palloc0(sizeof(SckptQuery));
		result->result = ExecCleanTypeFromTL(query->targetList);
		result->grouped = sckpt_query_is_grouped(query);
		level.stage = result;
		level.query = query;
		level.last = true;
		level.final = final;
		level.track = track;
		for (int i = 1; i <= list_length(query->rtable) && track; i++)
		{
			RangeTblEntry *rte = rt_fetch(i, query->rtable);

			if (rte->rtekind == RTE_RELATION && sckpt_catalog_is_stream(rte->relid))
			{
				level.stream = i;
				level.place = SelfItemPointerAttributeNumber;
			}
		}
		if (result->grouped)
			sckpt_level_split_group(&level);
		else
			result->source = pg_get_querydef(query, false);
	}
	if (sckpt_query_last(result)->sink_keys == NULL)
	{
		SckptQuery *last = sckpt_query_last(result);

		last->nsink = last->nkeys;
		last->sink_keys = last->keys;
	}
	result->streams = use.streams;
	result->nscans = use.count;
	result->columns = list_length(use.streams) == 1 ? use.columns : list_make1_int(0);
	foreach(lc, use.streams)
		event_time |= sckpt_stream_event_time(lfirst_oid(lc), NULL, NULL, NULL);
	for (SckptQuery *stage = result; stage; stage = stage->above)
	{
		stage->event_time = event_time;
		stage->final = final;
		stage->place = place++;
	}
	if (sckpt_query_has_join(result))
	{
		for (SckptQuery *stage = result; stage; stage = stage->above)
		{
			finish_scans(stage);
			for (int side = 0; side < 2 && stage->join; side++)
			{
				if (stage->join->leaf[side] == NULL)
					continue;
				finish_scans(stage->join->leaf[side]);
				stage->join->leaf[side]->event_time = event_time;
				stage->join->leaf[side]->final = final;
			}
		}
		result->columns = list_make1_int(0);
		result->pure = false;
	}
	else
	{
		result->scanned = use.streams;
		result->nscanned = use.count;
	}
	if (sckpt_query_stateful(result))
		sckpt_query_find_routes(result, result->level ? NULL : expanded, result->level || !result->grouped ? NULL : group_exprs(expanded));
	if (final)
		sckpt_query_check_final(result);
	return result;
}

bool
sckpt_query_side_grows(SckptQuery *first, SckptQuery *stage, int side)
{
	SckptJoin  *join = stage->join;

	if (join->due[side] || join->forgets[side])
		return false;
	for (SckptQuery *below = first; below; below = below->above)
	{
		if (below->target != stage || below->side != side)
			continue;

		if (below->join && below->join->lookup)
			return sckpt_query_side_grows(first, below, 0);

		/* Groups have a row each, the pairs of a join stay when it frees its own rows. */
		return below->join ? !below->join->forgets[0] && !below->join->forgets[1] : below->final;
	}
	return true;
}

bool
sckpt_query_has_join(SckptQuery *query)
{
	for (; query; query = query->above)
	{
		if (query->join)
			return true;
	}
	return false;
}

SckptQuery *
sckpt_query_last(SckptQuery *query)
{
	while (query->above)
		query = query->above;
	return query;
}

bool
sckpt_query_closes(SckptQuery *query)
{
	if (query->nsession > 0)
		return query->windows[0].closes;
	for (int i = 0; i < query->nkeys; i++)
	{
		if (query->keys[i].bound != SCKPT_BOUND_NONE && query->keys[i].window != NULL)
			return true;
	}
	return false;
}
