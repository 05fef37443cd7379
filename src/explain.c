/*-------------------------------------------------------------------------
 *
 * explain.c
 *		explain_pipeline(): stages, operators, keys, plans, live counters.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/ruleutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "lookup.h"
#include "pipeline.h"
#include "query.h"
#include "shared.h"
#include "task.h"

PG_FUNCTION_INFO_V1(stream_ckpt_explain_pipeline);

static void
put_line(ReturnSetInfo *rsinfo, const char *format,...) pg_attribute_printf(2, 3);

static void
put_line(ReturnSetInfo *rsinfo, const char *format,...)
{
	StringInfoData line;
	Datum		value;
	bool		isnull = false;

	initStringInfo(&line);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, format);
		needed = appendStringInfoVA(&line, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&line, needed);
	}
	value = CStringGetTextDatum(line.data);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
}

static void
explain_source(ReturnSetInfo *rsinfo, SckptQuery *lookup, const char *sql)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (lookup)
		sckpt_lookup_register(lookup, NULL);
	if (SPI_execute(psprintf("EXPLAIN %s", sql), false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not explain \"%s\"", sql);
	for (uint64 i = 0; i < SPI_processed; i++)
		put_line(rsinfo, "      %s", SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	SPI_finish();
}

static char *
stream_names(SckptQuery *query)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, query->streams)
		appendStringInfo(&names, "%s%s", lc == list_head(query->streams) ? list_length(query->streams) > 1 ? "streams " : "stream " : ", ",
						 get_rel_name(lfirst_oid(lc)));
	return names.data;
}

static const char *
interval_of(int64 microseconds)
{
	Interval	interval = {0};

	interval.time = microseconds;
	return DatumGetCString(DirectFunctionCall1(interval_out, DirectFunctionCall1(interval_justify_hours, IntervalPGetDatum(&interval))));
}

static const char *const window_names[] = {
	[SCKPT_WINDOW_TUMBLE] = "tumble",
	[SCKPT_WINDOW_HOP] = "hop",
	[SCKPT_WINDOW_CUMULATE] = "cumulate",
	[SCKPT_WINDOW_SESSION] = "session",
};

static void
explain_windows(ReturnSetInfo *rsinfo, SckptQuery *query)
{
	for (int i = 0; i < query->nwindows; i++)
	{
		SckptWindow *window = &query->windows[i];
		SckptWindowSpec *spec = &window->spec;
		StringInfoData line;

		initStringInfo(&line);
		if (spec->months)
			appendStringInfo(&line, "%s of %d months", window_names[spec->kind], spec->months);
		else
			appendStringInfo(&line, "%s %s %s", window_names[spec->kind], spec->kind == SCKPT_WINDOW_SESSION ? "with a gap of" : "of",
							 interval_of(spec->size));
		if (spec->kind == SCKPT_WINDOW_HOP || spec->kind == SCKPT_WINDOW_CUMULATE)
			appendStringInfo(&line, " every %s", interval_of(spec->slide));
		if (!window->closes)
			appendStringInfoString(&line, query->source && list_length(query->streams) > 1 ?
								   "; never closes: it is not over the event_time column of each stream" :
								   query->source ? "; never closes: it is not over the event_time column of the stream"
								   : "; never closes: it is not over a bound of a window that closes");
		else if (window->delay + query->lateness > 0)
			appendStringInfo(&line, "; closes %s after the watermark has reached its end", interval_of(window->delay + query->lateness));
		else
			appendStringInfoString(&line, "; closes when the watermark reaches its end");
		put_line(rsinfo, "    Window: %s", line.data);
	}
}

static void
explain_state(ReturnSetInfo *rsinfo, SckptQuery *query)
{
	bool		closes = sckpt_query_closes(query);

	if (closes && query->ttl)
		put_line(rsinfo, "    State: freed when windows close, and of groups not touched for %s", interval_of(query->ttl));
	else if (closes)
		put_line(rsinfo, "    State: freed when windows close");
	else if (query->ttl)
		put_line(rsinfo, "    State: freed of groups not touched for %s", interval_of(query->ttl));
	else if (query->nkeys == 0)
		put_line(rsinfo, "    State: one group");
	else
		put_line(rsinfo, "    State: grows with the number of groups");
}

/* A column's name where the words say no more than that. */
static char *
column_words(char *words)
{
	static const char prefix[] = "$1 with $1 = ";
	size_t		length = strlen(words);

	if (strncmp(words, prefix, strlen(prefix)) == 0 && strstr(words, "$2") == NULL && length > strlen(prefix) + 4 &&
		strcmp(words + length - 4, " end") == 0)
		return pnstrdup(words + strlen(prefix), length - strlen(prefix) - 4);
	return words;
}

/* In which tasks it runs, of a parallel pipeline, and by which keys it is spread over them. */
static void
explain_tasks(ReturnSetInfo *rsinfo, SckptQuery *query)
{
	StringInfoData keys;

	if (query->tasks == 0)
		return;
	if (query->tasks == 1)
	{
		put_line(rsinfo, "    Tasks: 1, %s", query->spread ? "the first one: it has no key that depends on nothing but the row" : "at checkpoints");
		return;
	}
	initStringInfo(&keys);
	for (int i = 0; i < query->nroutes; i++)
	{
		SckptKey   *key = query->join ? NULL : &query->keys[query->routes[i]];

		appendStringInfo(&keys, "%s%s", i ? ", " : "",
						 key == NULL ? column_words(query->join->names[query->join->columns[0][query->routes[i]] - 1]) :
						 key->result_column == 0 ? "a key that is not selected" :
						 NameStr(TupleDescAttr(query->result, key->result_column - 1)->attname));
	}
	put_line(rsinfo, "    Tasks: %d, by %s", query->tasks, keys.data);
}

static void
explain_aggregate(ReturnSetInfo *rsinfo, SckptQuery *query, int number)
{
	put_line(rsinfo, "  Stage %d: %s%s", number, query->ranking ? "first rows" :
			 query->framing ? "window functions" : query->ncalls == 0 ? "distinct rows" : "aggregate",
			 query->retracting ? " over rows that can be taken back" : "");
	if (query->source == NULL)
		explain_windows(rsinfo, query);
	for (int i = 0; i < query->nkeys; i++)
	{
		if (query->keys[i].result_column > 0)
			put_line(rsinfo, "    Key: %s %s", NameStr(TupleDescAttr(query->result, query->keys[i].result_column - 1)->attname),
					 format_type_with_typemod(query->keys[i].type, query->keys[i].typmod));
		else
			put_line(rsinfo, "    Key: %s", query->keys[i].canonical);
	}
	explain_tasks(rsinfo, query);
	if (query->ranking)
		put_line(rsinfo, "    Rows: %s <= " INT64_FORMAT "%s", sckpt_query_rank_name(query->ranking->kind), query->ranking->limit,
				 query->retracting ? ", of all that are kept" : "; the others are not kept");
	for (int i = 0; query->framing && i < query->framing->ncalls; i++)
		put_line(rsinfo, "    Window function: %s", query->framing->calls[i].canonical);
	for (int i = 0; i < query->ncalls; i++)
	{
		SckptCall  *call = &query->calls[i];

		put_line(rsinfo, "    Aggregate: %s%s%s", call->aggref->aggstar
				 ? psprintf("%s(*)", get_func_name(call->aggref->aggfnoid))
				 : format_procedure(call->aggref->aggfnoid),
				 call->aggref->aggdistinct ? ", distinct" : "",
				 call->mode == SCKPT_CALL_INVERSE ? (call->set < 0 ? ", with its inverse" : ", with its inverse, and all its values") :
				 OidIsValid(call->first) ? ", the first of all its values" :
				 call->mode == SCKPT_CALL_COLLECT ? ", of all its values" : "");
	}
	if (query->having)
		put_line(rsinfo, "    Having: a condition on keys and aggregates");
	explain_state(rsinfo, query);
}

static void
explain_plan(ReturnSetInfo *rsinfo, SckptQuery *query)
{
	put_line(rsinfo, "    Plan:");
	explain_source(rsinfo, NULL, query->source);
}

/* Where a side's rows come from. */
static char *
side_name(SckptQuery *first, SckptQuery *stage, int side)
{
	StringInfoData names;
	ListCell   *lc;

	for (SckptQuery *below = first; below; below = below->above)
	{
		if (below->target == stage && below->side == side)
			return psprintf("stage %d", below->number);
	}
	if (stage->join->leaf[side] == NULL)
		return NULL;
	initStringInfo(&names);
	foreach(lc, stage->join->leaf[side]->scanned)
		appendStringInfo(&names, "%s%s", names.len ? ", " : "", get_rel_name(lfirst_oid(lc)));
	return names.data;
}

static void
explain_join(ReturnSetInfo *rsinfo, SckptQuery *first, SckptQuery *stage, int number)
{
	static const char *const types[] = {
		[JOIN_INNER] = "inner join", [JOIN_LEFT] = "left join", [JOIN_FULL] = "full join", [JOIN_RIGHT] = "right join",
		[JOIN_SEMI] = "semi join", [JOIN_ANTI] = "anti join"
	};
	SckptJoin  *join = stage->join;
	int			nleft = join->rows[0]->natts;

	if (join->lookup)
	{
		put_line(rsinfo, "  Stage %d: look-up in tables for the rows of %s", number, side_name(first, stage, 0));
		put_line(rsinfo, "    Plan:");
		explain_source(rsinfo, stage, join->lookup);
		if (stage->having)
			put_line(rsinfo, "    Filter: a condition on its rows");
		put_line(rsinfo, join->changes[0] ? "    State: rows of %s with what they have found, as long as it has them" : "    State: none, since rows of %s stay",
				 side_name(first, stage, 0));
		return;
	}
	if (join->unites)
	{
		char	   *other = side_name(first, stage, 1);

		put_line(rsinfo, "  Stage %d: %s of %s%s%s", number, other ? "all rows" : "expressions over rows", side_name(first, stage, 0), other ? " and " : "",
				 other ? other : "");
		if (stage->having)
			put_line(rsinfo, "    Filter: a condition on its rows");
		if (join->copies)
			put_line(rsinfo, "    Copies: each row so often as its counts say");
		return;
	}
	put_line(rsinfo, "  Stage %d: %s of %s and %s%s", number, join->mark ? "mark for each row, whether there is a match," : types[join->type], side_name(first, stage, 0), side_name(first, stage, 1),
			 join->changes[0] || join->changes[1] ? ", over rows that can be taken back" : "");
	for (int i = 0; i < join->nkeys; i++)
		put_line(rsinfo, "    Key: %s = %s", column_words(join->names[join->columns[0][i] - 1]),
				 column_words(join->names[nleft + join->columns[1][i] - 1]));
	if (join->nkeys == 0)
		put_line(rsinfo, "    Key: none; each row meets all of the other side, of which the smaller one is limited by stream_ckpt.broadcast_rows");
	if (join->condition)
		put_line(rsinfo, "    Condition: %s", join->canonical);
	if (stage->having)
		put_line(rsinfo, "    Filter: a condition on joined rows");
	explain_tasks(rsinfo, stage);
	for (int side = 0; side < 2; side++)
	{
		char	   *name = side_name(first, stage, side);

		if (join->forgets[side])
			put_line(rsinfo, "    State: rows of %s, forgotten when not touched for %s", name, interval_of(stage->ttl));
		else if (sckpt_query_side_grows(first, stage, side))
			put_line(rsinfo, "    State: rows of %s, for good: it grows with their number", name);
		else if (join->due[side] == 0)
			put_line(rsinfo, "    State: rows of %s, as long as it has them", name);
		else if (join->window)
			put_line(rsinfo, "    State: rows of %s, freed when windows close", name);
		else
		{
			int64		delay = add_time(join->delay[side], stage->lateness);

			put_line(rsinfo, "    State: rows of %s, freed when the watermark is %s %s them", name,
					 interval_of(delay < 0 ? -delay : delay), delay < 0 ? "before" : "after");
		}
	}
}

Datum
stream_ckpt_explain_pipeline(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SckptPipeline *pipeline;
	SckptPipelineEntry copy = {0};
	SckptPipelineEntry *entry;
	SckptTask  *task;
	SckptQuery *query;
	SckptIdentity identity;
	int			number = 1;
	int			nspread;

	sckpt_shared_require();
	pipeline = sckpt_catalog_pipeline(name, false);
	if (!sckpt_pipeline_visible(pipeline->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of pipeline \"%s\"", name)));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);

	copy.watermark = DT_NOBEGIN;
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, pipeline->id);
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		copy = *entry;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);

	task = sckpt_task_create(CurrentMemoryContext, pipeline);
	sckpt_task_become_owner(task, &identity);
	query = sckpt_query_analyze(pipeline->query, pipeline->final, pipeline->ttl > 0);
	put_line(rsinfo, "Pipeline \"%s\" into %s", name, get_rel_name(pipeline->result)
			 ? quote_qualified_identifier(get_namespace_name(get_rel_namespace(pipeline->result)), get_rel_name(pipeline->result))
			 : "a dropped relation");
	put_line(rsinfo, "  Stage 0: expressions over %s", stream_names(query));
	for (SckptQuery *stage = query; stage; stage = stage->above)
	{
		for (int side = 0; side < 2 && stage->join; side++)
		{
			if (stage->join->leaf[side])
				explain_plan(rsinfo, stage->join->leaf[side]);
		}
		if (stage->source)
			explain_plan(rsinfo, stage);
	}
	nspread = sckpt_query_stateful(query) ? sckpt_query_spread(query, pipeline->keep_dead, pipeline->parallelism) : 0;
	if (pipeline->parallelism > 1 && nspread == 0)
		put_line(rsinfo, "  Tasks: 1, since rows cannot be told apart by a key that depends on nothing but the row");
	for (SckptQuery *stage = query; stage; stage = stage->above)
	{
		stage->tasks = nspread == 0 ? 0 : stage->nroutes > 0 ? pipeline->parallelism : 1;
		stage->lateness = pipeline->lateness;
		stage->ttl = stage->source || stage->join ? pipeline->ttl : 0;
		if (stage == query && stage->join == NULL)
			explain_windows(rsinfo, stage);
		stage->number = number;
		if (stage->join)
			explain_join(rsinfo, query, stage, number++);
		if (stage->grouped)
			explain_aggregate(rsinfo, stage, number++);
	}
	query = sckpt_query_last(query);
	if (query->join && query->join->retracts)
		put_line(rsinfo, "  Sink: rows are appended, and deleted when they are taken back");
	else if (!query->grouped)
		put_line(rsinfo, "  Sink: append-only");
	else if (pipeline->final)
		put_line(rsinfo, "  Sink: append-only, one row per group when its window closes");
	else if (sckpt_query_last(query)->bag)
		put_line(rsinfo, "  Sink: a bag of rows, kept current at each checkpoint");
	else
		put_line(rsinfo, "  Sink: keyed, one row per group, kept current at each checkpoint");
	put_line(rsinfo, "  State: " INT64_FORMAT " rows, " INT64_FORMAT " bytes", copy.counters.state_rows, copy.counters.state_bytes);
	put_line(rsinfo, "  Rows: " INT64_FORMAT " in, " INT64_FORMAT " written, " INT64_FORMAT " late; position %X/%X",
			 copy.counters.rows_in, copy.counters.rows_out, copy.counters.late_rows, LSN_FORMAT_ARGS(copy.position));
	if (copy.watermark != DT_NOBEGIN)
		put_line(rsinfo, "  Watermark: %s", timestamptz_to_str(copy.watermark));
	sckpt_task_become_self(&identity);
	return (Datum) 0;
}
