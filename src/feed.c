/*-------------------------------------------------------------------------
 *
 * feed.c
 *		The rows of a join's side that is a linear source.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "optimizer/optimizer.h"
#include "utils/memutils.h"

#include "expand.h"
#include "feed.h"

struct SckptFeed
{
	MemoryContext context;
	SckptQuery *query;			/* the join's */
	SckptQuery *leaf;
	SckptExpander *expander;	/* NULL: there are no windows */
	EState	   *estate;
	ExprContext *econtext;
	ProjectionInfo *projection;	/* NULL: the side's columns are some of the source's, */
	TupleTableSlot *row;		/* and are copied into this one */
	int			ncolumns;
	AttrNumber *columns;		/* counted from 0 */
	AttrNumber	judged;			/* see query.h */
	bool		forgets;
	/* of the row at hand */
	const SckptInput *input;
	SckptFed	put;
	void	   *arg;
};

/* Are the targets columns of the source as they are? Then these are to be copied. */
static bool
prepare_copies(SckptFeed *feed, List *targets)
{
	TupleDesc	desc = ExecTypeFromTL(targets);
	ListCell   *lc;

	foreach(lc, targets)
	{
		Var		   *var = (Var *) lfirst_node(TargetEntry, lc)->expr;

		if (!IsA(var, Var) || var->varattno <= 0 || var->varattno > feed->leaf->nsource ||
			feed->leaf->source_types[var->varattno - 1] != var->vartype)
			return false;
	}
	feed->columns = palloc(Max(1, desc->natts) * sizeof(AttrNumber));
	foreach(lc, targets)
		feed->columns[feed->ncolumns++] = ((Var *) lfirst_node(TargetEntry, lc)->expr)->varattno - 1;
	feed->row = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	ExecStoreAllNullTuple(feed->row);
	return true;
}

SckptFeed *
sckpt_feed_create(SckptQuery *join, int side, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt feed", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptFeed  *feed = palloc0(sizeof(SckptFeed));
	List	   *targets;

	feed->context = context;
	feed->query = join;
	feed->leaf = join->join->leaf[side];
	feed->judged = join->join->judged[side];
	feed->forgets = join->ttl > 0 && join->join->forgets[side];
	feed->estate = CreateExecutorState();
	feed->econtext = CreateExprContext(feed->estate);
	targets = (List *) expression_planner((Expr *) copyObject(feed->leaf->targetlist));
	if (!prepare_copies(feed, targets))
		feed->projection = ExecBuildProjectionInfo(targets, feed->econtext,
												   MakeSingleTupleTableSlot(ExecTypeFromTL(targets), &TTSOpsVirtual), NULL, NULL);
	if (feed->leaf->nwindows > 0 || feed->leaf->ncomputed > 0 || feed->leaf->condition)
		feed->expander = sckpt_expander_create(feed->leaf, context);
	MemoryContextSwitchTo(old);
	return feed;
}

void
sckpt_feed_destroy(SckptFeed *feed)
{
	if (feed->expander)
		sckpt_expander_destroy(feed->expander);
	FreeExecutorState(feed->estate);
	MemoryContextDelete(feed->context);
}

/* Does a row come too late to be joined? */
static bool
is_late(SckptFeed *feed, TupleTableSlot *source, TupleTableSlot *row)
{
	ItemPointer place = (ItemPointer) DatumGetPointer(source->tts_values[feed->leaf->row - 1]);
	uint32		segment = BlockIdGetBlockNumber(&place->ip_blkid);
	TimestampTz watermark = feed->input->before[segment].watermark;
	int64		limit = Max(add_time(watermark, -feed->query->lateness), feed->query->closed_until);
	bool		isnull;
	int64		time = DatumGetInt64(slot_getattr(row, feed->judged, &isnull));

	if (isnull || watermark == DT_NOBEGIN || TIMESTAMP_NOT_FINITE(time) || time >= limit)
		return false;
	feed->input->late(feed->input->arg, segment, place->ip_posid);
	return true;
}

/* By event time, a row touches at its own time, or when it comes if that is later. */
static void
find_touch(SckptFeed *feed, TupleTableSlot *source, SckptTouch *touch)
{
	ItemPointer place = (ItemPointer) DatumGetPointer(source->tts_values[feed->leaf->row - 1]);
	uint32		segment = BlockIdGetBlockNumber(&place->ip_blkid);
	int			column = feed->leaf->time - 1;

	touch->before = feed->input->before[segment].clock;
	touch->touched = feed->query->event_time ? touch->before : feed->input->after[segment].clock;
	if (feed->query->event_time && column >= 0 && !source->tts_isnull[column] &&
		!TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(source->tts_values[column])))
		touch->touched = Max(touch->touched, DatumGetTimestampTz(source->tts_values[column]));
}

static void
take_expanded(void *arg, TupleTableSlot *source, uint32 segment, int32 weight)
{
	SckptFeed  *feed = arg;
	TupleTableSlot *row = feed->row;
	SckptTouch	touch;

	if (row)
	{
		const Datum *values = source->tts_values;
		const bool *nulls = source->tts_isnull;
		Datum	   *value = row->tts_values;
		bool	   *isnull = row->tts_isnull;

		for (const AttrNumber *column = feed->columns, *end = column + feed->ncolumns; column < end; column++)
		{
			*value++ = values[*column];
			*isnull++ = nulls[*column];
		}
	}
	else
	{
		ResetExprContext(feed->econtext);
		feed->econtext->ecxt_scantuple = source;
		row = ExecProject(feed->projection);
	}
	if (feed->judged != 0 && is_late(feed, source, row))
		return;
	if (feed->forgets)
		find_touch(feed, source, &touch);
	feed->put(feed->arg, row, weight, feed->forgets ? &touch : NULL);
}

void
sckpt_feed_take(SckptFeed *feed, const SckptInput *input, TupleTableSlot *slot, SckptFed put, void *arg)
{
	feed->input = input;
	feed->put = put;
	feed->arg = arg;
	slot_getallattrs(slot);
	if (feed->expander)
		sckpt_expander_take(feed->expander, input, slot, 1, take_expanded, feed);
	else
		take_expanded(feed, slot, 0, 1);
}
