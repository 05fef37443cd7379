/*-------------------------------------------------------------------------
 *
 * task.c
 *		A pipeline at work in a worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/rel.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "aggregate.h"
#include "changes.h"
#include "checkpoint_private.h"
#include "early.h"
#include "feed.h"
#include "frame.h"
#include "head.h"
#include "join.h"
#include "lag.h"
#include "lookup.h"
#include "progress.h"
#include "retain.h"
#include "route.h"
#include "settings.h"
#include "stream.h"
#include "task.h"

/* ---- Identity ---- */

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* What a session has set for itself is not for the pipeline's results; a worker never has (worker.c fixes the same ones). */
static void
forget_session_settings(void)
{
	static const char *const settings[] = {
		"array_nulls", "bytea_output", "extra_float_digits", "lc_monetary", "lc_numeric", "lc_time", "quote_all_identifiers",
		"transform_null_equals", "xmlbinary", "xmloption"
	};

	for (int i = 0; i < lengthof(settings); i++)
		set_local(settings[i], NULL);
	set_local("row_security", "on");
	set_local("jit", "off");
	(void) set_config_option("session_replication_role", "origin", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void
sckpt_task_become_owner(SckptTask *task, SckptIdentity *saved)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(task->def->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the owner of pipeline \"%s\" does not exist any more", task->def->name)));
	GetUserIdAndSecContext(&saved->user, &saved->sec_context);
	saved->guc_level = NewGUCNestLevel();
	SetUserIdAndSecContext(task->def->owner,
						   saved->sec_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	set_local("search_path", task->def->search_path);
	set_local("TimeZone", task->def->timezone);
	set_local("DateStyle", task->def->datestyle);
	set_local("IntervalStyle", task->def->intervalstyle);
	set_local("default_text_search_config", task->def->text_search_config);
	if (task->offline)
		forget_session_settings();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
sckpt_task_become_self(SckptIdentity *saved)
{
	PopActiveSnapshot();
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->user, saved->sec_context);
}

void
sckpt_task_begin_work(SckptTask *task, SckptIdentity *saved)
{
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	enable_timeout_after(STATEMENT_TIMEOUT, sckpt_checkpoint_timeout);
	sckpt_task_become_owner(task, saved);
	saved->context = context;
	MemoryContextSwitchTo(task->run_context);
}

void
sckpt_task_end_work(SckptIdentity *saved)
{
	sckpt_task_become_self(saved);
	disable_timeout(STATEMENT_TIMEOUT, false);
	CommitTransactionCommand();
	MemoryContextSwitchTo(saved->context);
}

/* ---- Life ---- */

SckptTask *
sckpt_task_create(MemoryContext parent, SckptPipeline *def)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt task", ALLOCSET_DEFAULT_SIZES);
	SckptTask  *task = MemoryContextAllocZero(context, sizeof(SckptTask));
	MemoryContext old = MemoryContextSwitchTo(context);

	task->context = context;
	task->def = palloc(sizeof(SckptPipeline));
	*task->def = *def;
	task->def->name = pstrdup(def->name);
	task->def->query = pstrdup(def->query);
	task->def->streams = list_copy(def->streams);
	memset(&task->def->held, 0, sizeof(SckptLsns));
	sckpt_retain_note_held(task, &def->held);
	task->def->inflows = palloc(Max(1, list_length(def->streams)) * sizeof(SckptInflow));
	memcpy(task->def->inflows, def->inflows, list_length(def->streams) * sizeof(SckptInflow));
	task->def->search_path = pstrdup(def->search_path);
	task->def->timezone = pstrdup(def->timezone);
	task->def->datestyle = pstrdup(def->datestyle);
	task->def->intervalstyle = pstrdup(def->intervalstyle);
	task->def->text_search_config = pstrdup(def->text_search_config);
	task->def->error = def->error ? pstrdup(def->error) : NULL;
	MemoryContextSwitchTo(old);

	if (def->error)
	{
		task->status = SCKPT_FAILED;
		strlcpy(task->error, def->error, SCKPT_ERROR_BYTES);
	}
	else
		task->status = def->paused ? SCKPT_PAUSED : SCKPT_STARTING;
	strlcpy(task->cause, "worker start", SCKPT_ERROR_BYTES);
	task->known_since = GetCurrentTimestamp();
	task->attempt = MemoryContextAllocZero(context, sizeof(SckptAttempt));
	task->output_watermark = DT_NOBEGIN;
	task->number = -1;
	return task;
}

void
sckpt_task_drop_pending(SckptTask *task)
{
	ListCell   *lc;

	foreach(lc, task->pending)
		sckpt_batch_release(((SckptPending *) lfirst(lc))->batch);
	list_free_deep(task->pending);
	task->pending = NIL;
	task->pending_bytes = 0;
}

void
sckpt_task_stop(SckptTask *task)
{
	sckpt_head_end(task);
	sckpt_task_drop_pending(task);
	sckpt_early_drop(task, InvalidTransactionId);
	for (int i = 0; i < task->noperators; i++)
		task->operators[i]->destroy(task->operators[i]);
	task->noperators = 0;
	task->expander = NULL;
	sckpt_stage_free(&task->stage);
	for (int i = 0; i < task->nsources; i++)
		sckpt_stage_free(&task->sources[i].stage);
	task->nsources = 0;
	if (task->run_context)
		MemoryContextDelete(task->run_context);
	task->run_context = NULL;
	task->query = NULL;
	task->last = NULL;
	task->route = NULL;
	task->handing_context = NULL;
	task->laid_out_anew = false;
	task->inflows = NULL;
	task->ninflows = 0;
	memset(task->stores, 0, sizeof(task->stores));
	task->nstores = 0;
	task->nlate = task->maxlate = 0;
	task->late = NULL;
	task->dead = NIL;
	task->dead_context = NULL;
	task->dead_bytes = 0;
	task->changed = false;
	task->failed_checkpoints = 0;
	task->restore_id = 0;
	task->held = false;
	task->sinks = NIL;
	task->waiting[0] = '\0';
}

void
sckpt_task_destroy(SckptTask *task)
{
	SckptPipelineEntry *entry;

	sckpt_task_stop(task);
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry && entry->worker_pid == MyProcPid && task->number < 0 && !task->offline)
		sckpt_shared_release_pipeline(entry);
	LWLockRelease(sckpt_shared->lock);
	MemoryContextDelete(task->context);
}

/* The streams that the query reads must be those that it was created with: their names are protected, views may have changed. */
static void
take_streams(SckptTask *task)
{
	SckptPipeline *def = task->def;

	if (list_difference_oid(task->query->streams, def->streams) != NIL ||
		list_difference_oid(def->streams, task->query->streams) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the query of pipeline \"%s\" reads other streams than when it was created", def->name),
				 errhint("Change the view that it selects from back, or drop the pipeline and create it anew.")));
	task->ninflows = list_length(def->streams);
	task->inflows = palloc(task->ninflows * sizeof(SckptInflow));
	memcpy(task->inflows, def->inflows, task->ninflows * sizeof(SckptInflow));
	for (int i = 0; i < task->ninflows; i++)
		task->inflows[i].event_time = sckpt_stream_event_time(task->inflows[i].stream, NULL, NULL, NULL);
}

/* Where the query's columns and keys go in the result relation. */
static void
map_result(SckptTask *task)
{
	TupleDesc	desc = task->last->result;
	Relation	rel = table_open(task->def->result, AccessShareLock);

	task->result_columns = palloc(desc->natts * sizeof(AttrNumber));
	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);

		task->result_columns[i] = get_attnum(task->def->result, name);
		if (task->result_columns[i] <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of \"%s\", which pipeline \"%s\" writes, does not exist",
							name, RelationGetRelationName(rel), task->def->name)));
	}
	task->key_columns = palloc(Max(1, task->last->nsink) * sizeof(AttrNumber));
	for (int i = 0; i < task->last->nsink; i++)
		task->key_columns[i] = task->result_columns[task->last->sink_keys[i].result_column - 1];
	table_close(rel, AccessShareLock);
}

char *
sckpt_task_insert_sql(Oid result, SckptQuery *query)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s (",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(result)), get_rel_name(result)));
	for (int i = 0; i < query->result->natts; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "",
						 quote_identifier(NameStr(TupleDescAttr(query->result, i)->attname)));
	appendStringInfo(&sql, ") %s", query->source);
	return sql.data;
}

void
sckpt_task_set_operator(SckptTask *task, int number, SckptOperator *operator)
{
	task->operators[number] = operator;
	for (int i = 0; i < task->nstores; i++)
	{
		SckptStore *store = &task->stores[i];

		if (store->operator == number)
			sckpt_state_set_account(store->elements ? operator->elements : operator->state, sckpt_checkpoint_account, store);
	}
}

static void
add_operator(SckptTask *task, SckptQuery *query, SckptOperator *operator)
{
	int			number = task->noperators++;

	query->number = number;
	task->queries[number] = query;

	for (int elements = 0; elements <= (operator->elements != NULL); elements++)
	{
		SckptStore *store = &task->stores[task->nstores++];

		store->stage = 2 * query->place + elements;
		store->operator = number;
		store->elements = elements;
		store->next_chunk = 1;
	}
	sckpt_task_set_operator(task, number, operator);
}

/* Its stages: those spread over tasks, in a task; the others, in a head; or all. */
static void
add_operators(SckptTask *task)
{
	int			nspread = task->offline ? 0 : sckpt_query_spread(task->query, task->def->keep_dead, task->def->parallelism);

	task->ntasks = nspread > 0 ? task->def->parallelism : 1;
	if (nspread == 0 && task->split)
	{
		for (SckptQuery *query = task->query; query; query = query->above, nspread++)
			query->spread = true;
	}
	task->leads = nspread > 0 && task->number < 0;
	task->results = false;
	task->handing_context = AllocSetContextCreate(task->run_context, "stream_ckpt row handed over", ALLOCSET_DEFAULT_SIZES);
	for (SckptQuery *query = task->query; query; query = query->above)
	{
		query->task = Max(0, task->number);
		query->number = -1;
		if (nspread > 0 && query->spread != (task->number >= 0))
			continue;
		add_operator(task, query, query->join && query->join->lookup ? sckpt_lookup_create(query, task->run_context) :
					 query->join ? sckpt_join_create(query, task->run_context) :
					 query->framing ? sckpt_frame_create(query, task->run_context) :
					 sckpt_aggregate_create(query, task->run_context));
		task->results |= query->above == NULL;
	}
	for (int i = 0; i < task->noperators; i++)
	{
		if (sckpt_task_passes_on(task, i))
		{
			task->operators[i]->relieve = sckpt_task_relieve;
			task->operators[i]->relieve_arg = task;
		}
	}
}

static SckptRoute *
make_route(SckptTask *task, SckptQuery *source)
{
	return task->ntasks == 1 ? NULL : sckpt_route_create(source, task->number, task->ntasks, task->run_context);
}

/*
 * For a stage that is here; or, where that is in the head, to hand its rows over: then the first task reads them, whatever their keys.
 */
static void
add_source(SckptTask *task, SckptQuery *query, SckptQuery *stage, int side)
{
	SckptSource *source = &task->sources[task->nsources++];

	memset(source, 0, sizeof(SckptSource));
	source->query = query;
	source->stage.sql = query->source;
	source->target = stage;
	source->side = side;
	source->route = make_route(task, query);
	if (stage->number >= 0)
		return;
	source->feed = sckpt_feed_create(stage, side, task->run_context);
	source->rows = sckpt_changes_create(CreateTupleDescCopy(stage->join->rows[side]), false, task->run_context);
}

/* Each of a query with joins.  A row that several of them read is counted by the first. */
static void
add_sources(SckptTask *task)
{
	List	   *counted = NIL;

	for (SckptQuery *stage = task->query; stage; stage = stage->above)
	{
		for (int side = 0; side < 2 && stage->join; side++)
		{
			if (stage->join->leaf[side])
				add_source(task, stage->join->leaf[side], stage, side);
		}
		if (stage->source)
			add_source(task, stage, stage, 0);
	}
	for (int i = 0; i < task->nsources; i++)
	{
		SckptSource *source = &task->sources[i];

		source->others = list_difference_oid(source->query->scanned, list_difference_oid(source->query->scanned, counted));
		counted = list_concat_unique_oid(counted, source->query->scanned);
	}
}

int
sckpt_task_layout(SckptTask *task)
{
	int			layout = task->ntasks;

	StaticAssertStmt(SCKPT_MAX_TASKS < 256 && 8 + SCKPT_MAX_STAGES < 31, "a layout must fit an int");
	for (SckptQuery *query = task->query; query && task->ntasks > 1; query = query->above)
	{
		if (query->spread)
			layout |= 1 << (8 + query->place);
	}
	return layout;
}

/*
 * Analyse the query and load the last checkpoint, in the transaction at hand, which the caller commits.
 */
void
sckpt_task_start(SckptTask *task)
{
	MemoryContext old;
	SckptIdentity identity;

	sckpt_task_stop(task);
	task->run_context = AllocSetContextCreate(task->context, "stream_ckpt run", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(task->run_context);

	sckpt_task_become_owner(task, &identity);
	if (get_rel_name(task->def->result) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the result of pipeline \"%s\" does not exist any more", task->def->name)));
	task->query = sckpt_query_analyze(task->def->query, task->def->final, task->def->ttl > 0);
	task->last = sckpt_query_last(task->query);
	take_streams(task);
	for (SckptQuery *query = task->query; query; query = query->above)
	{
		query->lateness = task->def->lateness;
		query->ttl = query->source || query->join ? task->def->ttl : 0;
		query->final = task->def->final;
		query->closed_until = task->def->closed_until;
		query->stored_lateness = task->def->stored_lateness;
		query->stored_ttl = query->source || query->join ? task->def->stored_ttl : 0;
		for (int side = 0; side < 2 && query->join; side++)
		{
			SckptQuery *leaf = query->join->leaf[side];

			if (leaf)
			{
				leaf->lateness = leaf->stored_lateness = query->lateness;
				leaf->closed_until = query->closed_until;
			}
		}
	}
	map_result(task);
	sckpt_lag_find_sinks(task);
	sckpt_progress_prepare(task);
	task->ntasks = 1;
	task->leads = false;
	if (sckpt_query_stateful(task->query))
	{
		task->stage.sql = task->query->source;
		add_operators(task);
		if (sckpt_query_has_join(task->query) && !task->leads)
			add_sources(task);
		else if (task->nsources == 0 && task->query->source && !task->leads)
			task->route = make_route(task, task->query);
	}
	else if (task->query->nwindows > 0)
	{
		task->stage.sql = task->query->source;
		task->expander = sckpt_expander_create(task->query, task->run_context);
	}
	else if (task->def->result_owned)
	{
		/* Rows come as they are: their types must stay what they are. */
		task->stage.sql = task->query->source;
		task->query->nsource = task->query->result->natts;
		task->query->source_types = palloc(Max(1, task->query->nsource) * sizeof(Oid));
		for (int i = 0; i < task->query->nsource; i++)
			task->query->source_types[i] = TupleDescAttr(task->query->result, i)->atttypid;
	}
	else
		task->stage.sql = sckpt_task_insert_sql(task->def->result, task->query);
	sckpt_task_become_self(&identity);

	task->rows_in = task->number < 0 ? task->def->rows_in : 0;
	task->rows_out = task->def->rows_out;
	task->fed = task->def->position;
	task->read_lsn = task->def->position;
	task->fed_time = 0;
	task->checkpoint_at = 0;
	task->dead_context = AllocSetContextCreate(task->run_context, "stream_ckpt dead letters", ALLOCSET_DEFAULT_SIZES);
	sckpt_checkpoint_restore(task);
	if (task->noperators > 0 && task->def->last_checkpoint == 0)
	{
		sckpt_task_become_owner(task, &identity);
		for (int i = 0; i < task->noperators; i++)
		{
			/* One that is not spread by keys is the first task's. */
			if (task->number <= 0 || task->queries[i]->nroutes > 0)
				task->operators[i]->start(task->operators[i]);
		}
		sckpt_task_become_self(&identity);
	}
	task->changed = task->def->last_checkpoint == 0 || task->laid_out_anew;
	task->handed_over = 0;
	MemoryContextSwitchTo(old);
}

/* ---- How it is ---- */

XLogRecPtr
sckpt_task_requested(SckptTask *task)
{
	SckptPipelineEntry *entry;
	XLogRecPtr	requested = InvalidXLogRecPtr;

	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		if (entry->requested > entry->covered)
			requested = entry->requested;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	return requested;
}

void
sckpt_task_state_size(SckptTask *task, uint64 *rows, Size *bytes)
{
	*rows = 0;
	*bytes = 0;
	for (int i = 0; i < task->noperators; i++)
	{
		SckptOperator *operator = task->operators[i];

		*rows += sckpt_state_rows(operator->state);
		*bytes += sckpt_state_bytes(operator->state);
		if (operator->directory)
			*bytes += sckpt_state_bytes(operator->directory);
		if (operator->elements)
		{
			*rows += sckpt_state_rows(operator->elements);
			*bytes += sckpt_state_bytes(operator->elements);
		}
	}
}

bool
sckpt_task_claim(SckptTask *task)
{
	SckptPipelineEntry *entry;
	bool		ours = false;

	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_get_pipeline(MyDatabaseId, task->def->id);
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		if (entry->worker_pid == 0)
			entry->worker_pid = entry->reader_pid = MyProcPid;
		ours = entry->worker_pid == MyProcPid;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(sckpt_shared->lock);
	if (entry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many pipelines in this cluster"),
				 errhint("Raise \"stream_ckpt.max_pipelines\" to more than %d.", sckpt_max_pipelines)));
	return ours;
}

TimestampTz
sckpt_task_next_close(SckptTask *task)
{
	TimestampTz next = DT_NOEND;

	for (int i = 0; i < task->noperators; i++)
	{
		TimestampTz close = task->operators[i]->next_close(task->operators[i]);

		if (close > task->times.watermark)
			next = Min(next, close);
	}
	return next;
}

void
sckpt_task_publish(SckptTask *task, XLogRecPtr covered)
{
	SckptPipelineEntry *entry;
	SckptStatus status;
	uint64		state_rows;
	Size		state_bytes;
	XLogRecPtr	read_lsn = task->query ? Max(task->read_lsn, task->fed) : task->def->position;
	TimestampTz closes = task->query ? sckpt_task_next_close(task) : DT_NOEND;
	SckptInflow *inflows = task->query ? task->inflows : task->def->inflows;
	int			ninflows = Min(list_length(task->def->streams), SCKPT_ENTRY_STREAMS);
	SckptCounters state = {0};
	bool		changed;

	/* Those of parallel pipelines say how they are in entries of their own. */
	if (task->number >= 0 || !sckpt_task_claim(task))
		return;
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_pipeline(MyDatabaseId, task->def->id);
	LWLockRelease(sckpt_shared->lock);

	sckpt_task_state_size(task, &state_rows, &state_bytes);
	status = task->starved ? SCKPT_FAILED : task->status;
	if (task->head)
	{
		sckpt_head_counters(task, &state);
		closes = Min(closes, sckpt_head_next_close(task));
		if (status == SCKPT_RUNNING && !sckpt_head_is_ready(task))
			status = SCKPT_STARTING;
	}
	SpinLockAcquire(&entry->mutex);
	changed = entry->status != status || entry->last_checkpoint != task->def->last_checkpoint ||
		entry->covered < covered || (sckpt_max_lag > 0 && entry->read_lsn != read_lsn);
	entry->owner = task->def->owner;
	entry->status = status;
	entry->counters.rows_in = task->query ? task->rows_in : task->def->rows_in;
	entry->counters.rows_out = task->query ? task->rows_out : task->def->rows_out;
	entry->counters.late_rows = task->query ? task->late_rows : task->def->late_rows;
	entry->counters.dead_letters = task->query ? task->dead_letters : task->def->dead_letters;
	entry->own_state_rows = state_rows;
	entry->own_state_bytes = state_bytes;
	entry->counters.state_rows = state.state_rows + state_rows;
	entry->counters.state_bytes = state.state_bytes + state_bytes;
	entry->counters.restarts = task->restarts;
	entry->counters.idle_ms = Max(0.0, (GetCurrentTimestamp() - task->known_since - task->busy_us) / 1000.0) + state.idle_ms;
	entry->counters.busy_ms = task->busy_us / 1000.0 + state.busy_ms;
	entry->ninflows = ninflows;
	memcpy(entry->inflows, inflows, ninflows * sizeof(SckptInflow));
	entry->result = task->def->result;
	entry->output_delay = task->query ? task->output_delay : -1;
	entry->output_watermark = task->output_watermark;
	entry->next_close = closes;
	entry->restart_lsn = sckpt_retain_needed(task->def);
	entry->read_lsn = read_lsn;
	entry->position = task->query ? task->fed : task->def->position;
	entry->watermark = task->query ? task->times.watermark : task->def->watermark;
	if (task->fed_time)
		entry->position_time = task->fed_time;
	entry->last_checkpoint = task->def->last_checkpoint;
	if (covered > entry->covered)
		entry->covered = covered;
	strlcpy(entry->error, status == SCKPT_RUNNING ? task->waiting : task->error, SCKPT_ERROR_BYTES);
	SpinLockRelease(&entry->mutex);
	if (changed)
		sckpt_shared_broadcast();
}
