/*-------------------------------------------------------------------------
 *
 * alter_check.c
 *		Can a changed query go on from the state of the one before?
 *
 * It can when its stages have the same keys.  Aggregates come and go: what is the same is found by its canonical expression; what
 * is new sees the rows from now on, which over a grouped sub-select has no meaning, since rows that it has not seen would be taken back from it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "compat.h"
#include "alter.h"

pg_noreturn static void
refuse(SckptPipeline *pipeline, const char *what, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("pipeline \"%s\" cannot keep its state with %s", pipeline->name, what),
			 detail ? errdetail("%s", detail) : 0,
			 errhint("With reset_state => true it starts over from now on, with an empty result.")));
}

static SckptKey *
find_key(SckptQuery *query, SckptKey *wanted)
{
	for (int i = 0; i < query->nkeys; i++)
	{
		if (query->keys[i].type == wanted->type && strcmp(query->keys[i].canonical, wanted->canonical) == 0)
			return &query->keys[i];
	}
	return NULL;
}

static bool
has_call(SckptQuery *query, SckptCall *wanted)
{
	for (int i = 0; i < query->ncalls; i++)
	{
		if (strcmp(query->calls[i].canonical, wanted->canonical) == 0)
			return true;
	}
	return false;
}

static void
check_stage(SckptPipeline *pipeline, SckptQuery *old, SckptQuery *new)
{
	for (int i = 0; i < Max(old->nkeys, new->nkeys); i++)
	{
		bool		lost = i < old->nkeys && find_key(new, &old->keys[i]) == NULL;
		bool		gained = i < new->nkeys && find_key(old, &new->keys[i]) == NULL;

		if (!lost && !gained)
			continue;
		refuse(pipeline, lost && gained && old->keys[i].bound != SCKPT_BOUND_NONE && new->keys[i].bound != SCKPT_BOUND_NONE ?
			   "another window" : "other group keys",
			   lost && gained ? psprintf("It is grouped by %s, not by %s.", old->keys[i].canonical, new->keys[i].canonical) :
			   lost ? psprintf("It is grouped by %s.", old->keys[i].canonical) :
			   psprintf("It is not grouped by %s.", new->keys[i].canonical));
	}
	if (old->nkeys != new->nkeys || old->nsession != new->nsession)
		refuse(pipeline, "other group keys", NULL);
	if ((old->ranking == NULL) != (new->ranking == NULL) ||
		(old->ranking && strcmp(old->ranking->canonical, new->ranking->canonical) != 0))
		refuse(pipeline, "another choice of first rows", old->ranking && new->ranking ?
			   psprintf("It has %s, not %s.", old->ranking->canonical, new->ranking->canonical) : NULL);
	/* What was handed on is computed once more when it changes. */
	if ((old->framing == NULL) != (new->framing == NULL) ||
		(old->framing && (strcmp(old->framing->canonical, new->framing->canonical) != 0 || !equal(old->targetlist, new->targetlist) ||
						  !equal(old->having, new->having))))
		refuse(pipeline, "other window functions over rows", NULL);
	for (int i = 0; i < new->ncalls && new->retracting; i++)
	{
		if (!has_call(old, &new->calls[i]))
			refuse(pipeline, "a new aggregate over a grouped sub-select",
				   psprintf("It has no %s.", new->calls[i].canonical));
	}
}

/* Do they keep the same rows, and hand on the same? */
static bool
same_join(SckptQuery *old, SckptQuery *new)
{
	SckptJoin  *a = old->join;
	SckptJoin  *b = new->join;
	int			column = 0;

	if (a == NULL || b == NULL || a->type != b->type || a->retracts != b->retracts || a->nkeys != b->nkeys || a->unites != b->unites || a->mark != b->mark ||
		!equal(a->copies, b->copies) || strcmp(a->canonical, b->canonical) != 0 ||
		!equal(old->targetlist, new->targetlist) || !equal(old->having, new->having))
		return false;
	for (int side = 0; side < 2; side++)
	{
		if (a->rows[side]->natts != b->rows[side]->natts || memcmp(a->columns[side], b->columns[side], a->nkeys * sizeof(AttrNumber)) != 0)
			return false;
		for (int i = 0; i < a->rows[side]->natts; i++, column++)
		{
			if (strcmp(a->names[column], b->names[column]) != 0 ||
				TupleDescAttr(a->rows[side], i)->atttypid != TupleDescAttr(b->rows[side], i)->atttypid)
				return false;
		}
	}
	return true;
}

void
sckpt_alter_check_state(SckptPipeline *pipeline, SckptQuery *old, SckptQuery *new, bool old_final, bool new_final)
{
	if (old->grouped != new->grouped)
		refuse(pipeline, new->grouped ? "grouping, which it had not" : "no grouping, which it had", NULL);
	if (!sckpt_query_stateful(old) && !sckpt_query_stateful(new))
		return;
	if (old_final != new_final && old->above)
		refuse(pipeline, new_final ? "emit => 'final' over a grouped sub-select" : "emit => 'changes' over a grouped sub-select", NULL);
	for (; old || new; old = old->above, new = new->above)
	{
		if (old == NULL || new == NULL)
			refuse(pipeline, new ? "more levels of grouping" : "fewer levels of grouping", NULL);
		if ((old->join || new->join) && !same_join(old, new))
			refuse(pipeline, "another join of streams", NULL);
		if (old->grouped != new->grouped)
			refuse(pipeline, "other levels of grouping", NULL);
		check_stage(pipeline, old, new);
	}
}
