/*-------------------------------------------------------------------------
 *
 * query_settle.c
 *		Stages that have rows, but no state: they unite what several stages below
 *		put out, or compute with rows that are there to stay.
 *
 * While a join takes in what has changed on its sides, pairs come and go that no result ever has: the new count of a group with the old total.  What is
 * computed with these must not fail, as a division could.  So what can fail is moved up into a stage of its own, and the join hands its
 * rows on at barriers only, net of what came and went (`settled`).  What cannot stays where it is: it takes less memory to hand on few rows.
 *
 * Such a stage is a join none of whose rows match, of which all are kept (`unites`).  Rows of its left side are followed by a NULL for each column of
 * the right side, and the other way round; without a right side it has one input.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"

#include "query_private.h"

/* ---- What can fail ---- */

/* Operators of PostgreSQL that fail for no values that occur; overflows aside, which are no matter of one row meeting another. */
static bool
operator_can_fail(Oid operator)
{
	static const char *const total[] = {"=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "||", "~~", "!~~", "&&", "@>", "<@"};
	char	   *name;

	if (operator >= FirstNormalObjectId)
		return !get_func_leakproof(get_opcode(operator));
	name = get_opname(operator);
	for (int i = 0; name && i < lengthof(total); i++)
	{
		if (strcmp(name, total[i]) == 0)
			return false;
	}
	return true;
}

static bool
function_can_fail(FuncExpr *call)
{
	if (get_func_leakproof(call->funcid))
		return false;

	/* Casts to what is wider. */
	return call->funcid >= FirstNormalObjectId || call->funcformat == COERCE_EXPLICIT_CALL || call->funcformat == COERCE_SQL_SYNTAX ||
		(call->funcresulttype != NUMERICOID && call->funcresulttype != FLOAT8OID && call->funcresulttype != INT8OID &&
		 call->funcresulttype != TEXTOID && call->funcresulttype != TIMESTAMPTZOID);
}

static bool
can_fail(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Const:
		case T_List:
		case T_TargetEntry:
		case T_BoolExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_RelabelType:
		case T_RowExpr:
		case T_ArrayExpr:
			break;
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			if (operator_can_fail(((OpExpr *) node)->opno))
				return true;
			break;
		case T_ScalarArrayOpExpr:
			if (operator_can_fail(((ScalarArrayOpExpr *) node)->opno))
				return true;
			break;
		case T_FuncExpr:
			if (function_can_fail((FuncExpr *) node))
				return true;
			break;
		case T_CoerceViaIO:
			if (((CoerceViaIO *) node)->resulttype != TEXTOID)
				return true;
			break;
		default:
			return true;
	}
	return expression_tree_walker(node, can_fail, context);
}

/* ---- Stages ---- */

static void
add_columns(SckptQuery *stage, TupleDesc columns)
{
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(columns, i);
		int			number = list_length(stage->targetlist) + 1;

		stage->join->names[number - 1] = psprintf("result %s", NameStr(att->attname));
		stage->targetlist = lappend(stage->targetlist,
									makeTargetEntry((Expr *) makeVar(1, number, att->atttypid, att->atttypmod, att->attcollation, 0), number,
													pstrdup(NameStr(att->attname)), false));
	}
}

SckptQuery *
sckpt_settle_unite(TupleDesc left, TupleDesc right)
{
	SckptQuery *stage = palloc0(sizeof(SckptQuery));
	SckptJoin  *join = palloc0(sizeof(SckptJoin));

	stage->join = join;
	join->type = JOIN_FULL;
	join->unites = true;
	join->rows[0] = left;
	join->rows[1] = right ? right : CreateTemplateTupleDesc(0);
	join->keys = palloc0(sizeof(SckptKey));
	join->columns[0] = palloc0(sizeof(AttrNumber));
	join->columns[1] = palloc0(sizeof(AttrNumber));
	join->canonical = "";
	join->names = palloc0((left->natts + join->rows[1]->natts) * sizeof(char *));
	add_columns(stage, join->rows[0]);
	add_columns(stage, join->rows[1]);
	stage->result = ExecCleanTypeFromTL(stage->targetlist);
	return stage;
}

void
sckpt_settle_feed(SckptQuery *stage, SckptQuery *below, int side, bool final)
{
	stage->join->changes[side] = below->join ? below->join->retracts : !final;
	stage->join->retracts |= stage->join->changes[side];
	below->target = stage;
	below->side = side;
}

bool
sckpt_settle_needed(SckptQuery *stage, Node *node)
{
	return stage->join && (stage->join->changes[0] || stage->join->changes[1]) && !stage->join->settled && can_fail(node, NULL);
}

SckptQuery *
sckpt_settle_above(SckptQuery *stage, bool final)
{
	SckptQuery *above = sckpt_settle_unite(stage->result, NULL);

	if (stage->join)
		stage->join->settled = true;
	sckpt_settle_feed(above, stage, 0, final);

	/* It gets nothing in between. */
	above->join->settled = true;
	stage->above = above;
	return above;
}
