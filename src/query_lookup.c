/*-------------------------------------------------------------------------
 *
 * query_lookup.c
 *		Stages that look rows of the stage below up in tables.
 *
 * Where the rows of a level come from a stage below, and its FROM names tables, functions and the like besides, or sub-selects over tables stand in its
 * expressions, all of that becomes SQL over the rows of that stage, which are a relation of their own there (lookup.c): the level's FROM and
 * WHERE.  It puts out what the level takes from elsewhere than these rows.  The level then reads this stage alone.
 *
 * It is a stage like those that unite (query_settle.c), whose right side is what has been looked up.  It gets net changes, at barriers: what
 * came and went in between is not looked up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/ruleutils.h"

#include "query_private.h"

typedef struct LookupContext
{
	SckptLevel *level;
	int			nbelow;			/* columns of the stage below */
	List	   *found;			/* TargetEntry: what is looked up */
} LookupContext;

bool
sckpt_lookup_is(SckptLevel *level)
{
	List	   *from = level->query->jointree->fromlist;

	return level->below != 0 && (list_length(from) != 1 || !IsA(linitial(from), RangeTblRef) || level->query->hasSubLinks);
}

/* ---- What can be looked up ---- */

/* Are the stage's rows below an item of FROM, on the side of each join that keeps them? */
static bool
check_item(Node *node, int below)
{
	JoinExpr   *join = (JoinExpr *) node;
	bool		left;
	bool		right;

	if (IsA(node, RangeTblRef))
		return ((RangeTblRef *) node)->rtindex == below;
	left = check_item(join->larg, below);
	right = check_item(join->rarg, below);
	if ((left || right) && join->jointype == JOIN_FULL)
		sckpt_query_refuse("FULL JOIN of a table with what is over a stream", "Use LEFT JOIN with the table on the right.");
	if ((right && join->jointype == JOIN_LEFT) || (left && join->jointype == JOIN_RIGHT))
		sckpt_query_refuse("an outer join that keeps rows of a table without a match in what is over a stream",
						   "Use LEFT JOIN with the table on the right.");
	if (left || right)
		sckpt_query_refuse_clock(join->quals, "JOIN … ON");
	return left || right;
}

static void
check_level(SckptLevel *level)
{
	Query	   *query = level->query;
	ListCell   *lc;

	foreach(lc, query->jointree->fromlist)
		(void) check_item(lfirst(lc), level->below);
	sckpt_query_refuse_clock(query->jointree->quals, "WHERE");
	foreach(lc, query->rtable)
	{
		if (lfirst_node(RangeTblEntry, lc)->rtekind == RTE_FUNCTION)
			sckpt_query_refuse_clock((Node *) lfirst_node(RangeTblEntry, lc)->functions, "FROM");
	}
	if (level->windows != NIL)
		sckpt_query_refuse("a window beside a table joined with a sub-select over a stream",
						   "Use the window in a sub-select, and join the table above it, or the other way round.");
}

/* ---- The level above ---- */

static Node *
column_of(LookupContext *context, Node *expr)
{
	int			number = 0;
	ListCell   *lc;

	foreach(lc, context->found)
	{
		if (equal(lfirst_node(TargetEntry, lc)->expr, expr))
			number = lfirst_node(TargetEntry, lc)->resno;
	}
	if (number == 0)
	{
		number = list_length(context->found) + 1;
		context->found = lappend(context->found, makeTargetEntry((Expr *) copyObject(expr), number, psprintf("f%d", number), false));
	}
	return (Node *) makeVar(1, context->nbelow + number, exprType(expr), exprTypmod(expr), exprCollation(expr), 0);
}

/* An expression of the level over the columns of the stage. */
static Node *
over_stage(Node *node, LookupContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varno == context->level->below)
		{
			if (var->varattno <= 0)
				sckpt_query_refuse("the whole row of a sub-select over a stream that is joined with a table", "Name its columns.");
			return (Node *) makeVar(1, var->varattno, var->vartype, var->vartypmod, var->varcollid, 0);
		}
		var = copyObject(var);
		var->location = -1;
		return column_of(context, (Node *) var);
	}
	if (IsA(node, SubLink))
	{
		if (contain_aggs_of_level(node, 0))
			sckpt_query_refuse("a sub-select over tables with aggregates of the query around it", "Group in a sub-select of FROM.");
		return column_of(context, node);
	}
	return expression_tree_mutator(node, over_stage, (void *) context);
}

/* ---- The stage ---- */

/* The stage's rows in the SQL: found by their name. */
static RangeTblEntry *
make_relation(TupleDesc rows)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_CTE;
	rte->ctename = SCKPT_LOOKUP_ROWS;
	rte->eref = makeAlias(SCKPT_LOOKUP_ROWS, NIL);
	rte->inFromCl = true;
	for (int i = 0; i <= rows->natts; i++)
	{
		Form_pg_attribute att = i < rows->natts ? TupleDescAttr(rows, i) : NULL;

		rte->eref->colnames = lappend(rte->eref->colnames, makeString(att ? psprintf("c%d", i + 1) : pstrdup("number")));
		rte->coltypes = lappend_oid(rte->coltypes, att ? att->atttypid : INT8OID);
		rte->coltypmods = lappend_int(rte->coltypmods, att ? att->atttypmod : -1);
		rte->colcollations = lappend_oid(rte->colcollations, att ? att->attcollation : InvalidOid);
	}
	return rte;
}

static char *
make_sql(LookupContext *context)
{
	SckptLevel *level = context->level;
	Query	   *query = makeNode(Query);
	Query	   *old = level->query;
	TupleDesc	rows = level->input->result;

	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->cteList = copyObject(old->cteList);
	query->rtable = copyObject(old->rtable);
	query->jointree = copyObject(old->jointree);
	lfirst(list_nth_cell(query->rtable, level->below - 1)) = make_relation(rows);
	sckpt_level_renew_joins(query);
	query->targetList = list_concat(copyObject(context->found),
									list_make1(makeTargetEntry((Expr *) makeVar(level->below, rows->natts + 1, INT8OID, -1, InvalidOid, 0),
															   list_length(context->found) + 1, "number", false)));
	query->hasSubLinks = old->hasSubLinks;
	return pg_get_querydef(query, false);
}

void
sckpt_lookup_make(SckptLevel *level)
{
	Query	   *query = level->query;
	SckptQuery *below = level->input;
	LookupContext context = {level, below->result->natts, NIL};
	SckptQuery *stage;
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);
	Query	   *inner = makeNode(Query);
	List	   *targets;
	Node	   *having;
	ListCell   *lc;

	check_level(level);
	targets = (List *) over_stage((Node *) query->targetList, &context);
	having = over_stage(query->havingQual, &context);

	stage = sckpt_settle_unite(below->result, ExecCleanTypeFromTL(context.found));
	stage->join->looked = below;
	stage->join->lookup = make_sql(&context);
	stage->join->canonical = stage->join->lookup;
	foreach(lc, context.found)
		stage->join->names[context.nbelow + foreach_current_index(lc)] = sckpt_level_canonical(level, (Node *) lfirst_node(TargetEntry, lc)->expr);
	sckpt_settle_feed(stage, below, 0, level->final);
	if (below->join)
		below->join->settled = true;
	stage->join->settled = true;
	below->above = stage;

	/* From here on the level reads this stage. */
	inner->commandType = CMD_SELECT;
	inner->canSetTag = true;
	inner->targetList = copyObject(stage->targetlist);
	inner->jointree = makeFromExpr(NIL, NULL);
	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = inner;
	rte->eref = makeAlias("looked_up", NIL);
	rte->inFromCl = true;
	foreach(lc, inner->targetList)
		rte->eref->colnames = lappend(rte->eref->colnames, makeString(lfirst_node(TargetEntry, lc)->resname));
	ref->rtindex = 1;
	query->rtable = list_make1(rte);
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	query->targetList = targets;
	query->havingQual = having;
	query->cteList = NIL;
	query->hasSubLinks = false;
	level->below = 1;
	level->input = stage;
}
