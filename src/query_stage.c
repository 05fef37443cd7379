/*-------------------------------------------------------------------------
 *
 * query_stage.c
 *		The stages of a query with windows or grouped sub-selects.
 *
 * From the innermost level outwards: the one that reads the stream becomes
 * the first stage, with SQL of its own; each grouped level over a grouped
 * sub-select is another one, whose input is the results of the one below.  A
 * level that is not grouped changes only what the stage below puts out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

#include "query_private.h"

typedef struct StagesContext
{
	bool		final;
	bool		track;
	void		(*check_source) (Query *query);
} StagesContext;

typedef struct FoldContext
{
	int			below;
	List	   *targets;		/* of the stage below */
} FoldContext;

static SckptQuery *make_level(StagesContext *context, Query *query, SckptLevel *above, bool place);

/* A level below a join: no level above it says how many of its rows count. */
static SckptQuery *
make_leaf(void *arg, Query *query, bool track)
{
	SckptLevel	above = {NULL};

	return make_level(arg, query, &above, track || ((StagesContext *) arg)->track);
}

/* With state_ttl: rows of joins that nothing else frees are forgotten, and what they were part of is taken back. */
static void
forget_rows(SckptQuery *first)
{
	for (SckptQuery *stage = first; stage; stage = stage->above)
	{
		SckptJoin  *join = stage->join;

		for (int side = 0; side < 2 && join; side++)
		{
			join->forgets[side] = join->leaf[side] && join->due[side] == 0;
			join->retracts |= join->forgets[side];
		}
		if (join && stage->target && stage->target->join && join->retracts)
			stage->target->join->changes[stage->side] = stage->target->join->retracts = true;
	}
}

/* ---- A level that is not grouped, over a stage ---- */

static Node *
fold_mutator(Node *node, FoldContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varno != context->below || var->varattno <= 0)
			sckpt_query_refuse("the whole row of a grouped sub-select", "Name its columns.");
		return copyObject((Node *) list_nth_node(TargetEntry, context->targets, var->varattno - 1)->expr);
	}
	return expression_tree_mutator(node, fold_mutator, context);
}

/* Let a stage put out what a level above it asks for. */
static void
fold(SckptLevel *level, SckptQuery *stage)
{
	Query	   *query = level->query;
	FoldContext context = {level->below, NIL};
	Node	   *condition = query->jointree->quals;
	const char *below = stage->join && !stage->join->lookup ? "a join of streams" : "a grouped sub-select";

	if (level->windows != NIL)
		sckpt_query_refuse("a window over a grouped sub-select in a query without grouping",
						   "Group by the window, or select the columns of the sub-select only.");
	if (query->hasTargetSRFs)
		sckpt_query_refuse(psprintf("a set-returning function over %s", below), "Use it in a query over the result table.");
	sckpt_query_refuse_clock((Node *) query->targetList, psprintf("the target list of a query over %s", below));
	sckpt_query_refuse_clock(condition, "WHERE");
	if (contain_volatile_functions((Node *) query->targetList) || contain_volatile_functions(condition))
		sckpt_query_refuse(psprintf("a volatile function in a query over %s", below),
						   "Use it in a query over the result table.");

	if (level->copies || sckpt_settle_needed(stage, (Node *) query->targetList) || sckpt_settle_needed(stage, condition))
		stage = sckpt_settle_above(stage, level->final);
	context.targets = stage->targetlist;
	if (level->copies)
	{
		stage->join->copies = fold_mutator(level->copies, &context);
		stage->join->retracts |= !level->final;
	}
	stage->targetlist = (List *) fold_mutator((Node *) query->targetList, &context);
	condition = fold_mutator(condition, &context);
	if (condition)
		stage->having = (Node *) make_ands_explicit(list_concat(make_ands_implicit((Expr *) stage->having),
																make_ands_implicit((Expr *) condition)));
	stage->result = ExecCleanTypeFromTL(query->targetList);
	for (int i = 0; i < stage->nkeys; i++)
	{
		ListCell   *lc;

		stage->keys[i].result_column = 0;
		foreach(lc, stage->targetlist)
		{
			TargetEntry *target = lfirst(lc);

			if (stage->keys[i].result_column == 0 && IsA(target->expr, Var) && ((Var *) target->expr)->varattno == i + 1)
				stage->keys[i].result_column = target->resno;
		}
		if (stage->keys[i].result_column == 0 && level->last && sckpt_query_has_one_row(stage))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a GROUP BY expression of a sub-select that is not in the select list is not supported in a pipeline"),
					 errhint("The result's rows are told apart by the group keys: select all of them.")));
	}
}

/* ---- Levels ---- */

static void
check_above(SckptLevel *level)
{
	if (rt_fetch(level->below, level->query->rtable)->lateral &&
		contain_vars_of_level((Node *) rt_fetch(level->below, level->query->rtable)->subquery, 1))
		sckpt_query_refuse("a grouped LATERAL sub-select over a stream", "Put the columns it needs into the sub-select.");
}

/* A level without grouping: its rows are the result. */
static void
make_linear(SckptLevel *level)
{
	SckptQuery *stage = level->stage;
	Query	   *source;
	ListCell   *lc;

	if (level->query->hasTargetSRFs)
		sckpt_query_refuse("a set-returning function in the target list of a query with windows", "Use LATERAL.");
	foreach(lc, level->query->targetList)
	{
		TargetEntry *target = flatCopyTargetEntry(lfirst(lc));

		target->expr = sckpt_level_target(level, target->expr);
		stage->targetlist = lappend(stage->targetlist, target);
	}
	sckpt_level_finish_columns(level);
	source = copyObject(level->query);
	source->targetList = level->columns;
	stage->source = pg_get_querydef(source, false);
}

/* Is something of the level above named in a sub-select that is to be a stage of its own? */
static bool
uses_outer_ctes(Node *node, int *sublevels_up)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		return rte->rtekind == RTE_CTE && rte->ctelevelsup > *sublevels_up;
	}
	if (IsA(node, Query))
	{
		bool		result;

		(*sublevels_up)++;
		result = query_tree_walker((Query *) node, uses_outer_ctes, sublevels_up, QTW_EXAMINE_RTES_BEFORE);
		(*sublevels_up)--;
		return result;
	}
	return expression_tree_walker(node, uses_outer_ctes, sublevels_up);
}

void
sckpt_query_take_ctes(Query *subquery, Query *query)
{
	int			sublevels_up = -1;
	ListCell   *lc;
	ListCell   *ls;

	if (!uses_outer_ctes((Node *) subquery, &sublevels_up))
		return;
	foreach(lc, query->cteList)
	{
		CommonTableExpr *cte = lfirst(lc);

		foreach(ls, subquery->cteList)
		{
			if (strcmp(cte->ctename, lfirst_node(CommonTableExpr, ls)->ctename) == 0)
				sckpt_query_refuse(psprintf("a second WITH query \"%s\"", cte->ctename), "Give them different names.");
		}
	}
	IncrementVarSublevelsUp((Node *) subquery, -1, 1);
	subquery->cteList = list_concat(copyObject(query->cteList), subquery->cteList);
}

/* What a stage computes with the rows of the one below. */
static List *
computed_exprs(SckptQuery *stage)
{
	List	   *exprs = list_make1(stage->condition);

	for (int i = 0; i < stage->ncomputed; i++)
		exprs = lappend(exprs, stage->computed[i].expr);
	return exprs;
}

/* `above`: the level that reads it; NULL: it is the outermost one. */
static SckptQuery *
make_level(StagesContext *context, Query *query, SckptLevel *above, bool place)
{
	SckptLevel	level = {NULL};
	SckptQuery *first = NULL;
	SckptQuery *stage;
	SckptRankClauses *ranks = NULL;

	check_stack_depth();
	sckpt_query_check_level(query);
	level.query = query;
	level.last = above == NULL;
	level.final = context->final;
	level.track = context->track;
	level.place_wanted = place;
	if (sckpt_union_is(query) && !sckpt_union_is_linear(query))
	{
		if (context->track)
			sckpt_query_refuse("state_ttl for UNION ALL of sub-selects with state", "Leave the argument out.");
		return sckpt_setop_make(query, context->final, make_leaf, context);
	}
	if (sckpt_join_is(query))
	{
		first = sckpt_join_make(query, context->final, &level.below, make_leaf, context);
		if (context->track)
			forget_rows(first);
		level.input = sckpt_query_last(first);
	}
	else
		sckpt_level_flatten(&level);
	if (sckpt_query_is_ranked(query))
		ranks = sckpt_rank_take_clauses(&level, above);
	if (level.below && first == NULL)
	{
		Query	   *subquery = rt_fetch(level.below, query->rtable)->subquery;

		level.copies = ranks || sckpt_query_is_grouped(query) ? NULL : sckpt_setop_take_copies(query);
		check_above(&level);
		sckpt_query_take_ctes(subquery, query);
		first = make_level(context, subquery, &level, false);
		level.input = sckpt_query_last(first);
	}
	if (sckpt_lookup_is(&level))
		sckpt_lookup_make(&level);
	if (first && ranks == NULL && !sckpt_query_is_grouped(query))
	{
		fold(&level, level.input);
		return first;
	}

	stage = palloc0(sizeof(SckptQuery));
	stage->grouped = ranks != NULL || sckpt_query_is_grouped(query);
	stage->result = ExecCleanTypeFromTL(query->targetList);
	stage->retracting = level.below != 0 && !context->final && sckpt_query_retracts(level.input);
	level.stage = stage;
	stage->level = level.below == 0 ? query : NULL;
	sckpt_query_refuse_clock(query->jointree->quals, "WHERE");
	sckpt_level_make_windows(&level);
	sckpt_level_split_conditions(&level);
	if (level.below == 0)
	{
		context->check_source(query);
		if (context->track && (stage->grouped || place) && level.place == 0)
			sckpt_query_refuse("state_ttl over a view that reads a stream", "Name the stream itself in FROM.");
	}
	if (ranks && ranks->windows)
		sckpt_level_split_frame(&level, ranks);
	else if (ranks)
		sckpt_level_split_rank(&level, ranks);
	else if (stage->grouped)
		sckpt_level_split_group(&level);
	else
		make_linear(&level);

	if (first == NULL)
		return stage;
	if (level.input->join && sckpt_settle_needed(level.input, (Node *) computed_exprs(stage)))
		level.input->join->settled = true;
	level.input->above = stage;
	level.input->target = stage;
	return first;
}

SckptQuery *
sckpt_query_make_stages(Query *query, bool final, bool track, void (*check_source) (Query *query))
{
	StagesContext context = {final, track, check_source};
	SckptQuery *first = make_level(&context, query, NULL, false);
	SckptQuery *last = sckpt_query_last(first);
	int			nstages = 0;

	if (!sckpt_query_has_one_row(last))
		sckpt_rank_keep(last, final);
	for (SckptQuery *stage = first; stage; stage = stage->above)
		nstages++;
	if (nstages > SCKPT_MAX_STAGES)
		sckpt_query_refuse(psprintf("a query of more than %d joins, groupings and the like", SCKPT_MAX_STAGES),
						   "Create a pipeline for the sub-select.");
	return first;
}

/* ---- emit => 'final' ---- */

void
sckpt_query_check_final(SckptQuery *query)
{
	if (!sckpt_query_stateful(query))
		sckpt_query_refuse("emit => 'final' for a query without GROUP BY", "Its rows never change: leave the argument out.");
	if (!query->event_time && list_length(query->streams) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("emit => 'final' over streams of which none declares an event_time is not supported"),
				 errhint("Use ALTER FOREIGN TABLE ... OPTIONS (ADD event_time 'column').")));
	if (!query->event_time)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("emit => 'final' over stream \"%s\", which declares no event_time, is not supported",
						get_rel_name(linitial_oid(query->streams))),
				 errhint("Use ALTER FOREIGN TABLE %s OPTIONS (ADD event_time 'column').",
						 quote_identifier(get_rel_name(linitial_oid(query->streams))))));
	for (SckptQuery *stage = query; stage; stage = stage->above)
	{
		bool		closing = false;

		if (sckpt_query_closes(stage))
			continue;
		if (stage->join)
		{
			/* Its rows are there when a grouped side's window closes, and are not taken back. */
			if (stage->join->unites && stage->join->leaf[0] == NULL && stage->join->leaf[1] == NULL)
				continue;
			if (stage->join->type == JOIN_INNER && stage->join->window && (stage->join->leaf[0] == NULL || stage->join->leaf[1] == NULL))
				continue;
			sckpt_query_refuse("emit => 'final' for a join of streams other than an inner join of windows with a grouped side",
							   "Leave the argument out, or join a grouped sub-select by its window_start and window_end.");
		}
		for (int i = 0; i < stage->nwindows; i++)
			closing |= stage->windows[i].closes;
		if (stage->nwindows > 0 && !closing)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("emit => 'final' with a window over another expression than the event time is not supported"),
					 stage == query ?
					 errhint(list_length(query->streams) == 1 ? "Give the window the stream's event_time column itself: other windows never close." :
						   "Give the window a column that is the event_time column in each part of UNION ALL: other windows never close.") :
					 errhint("Give the window window_start or window_end of the sub-select: other windows never close.")));
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("emit => 'final' without a window among the group keys is not supported"),
				 errhint("Group by window_start or window_end, in each level of the query that groups.")));
	}
}
