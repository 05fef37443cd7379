/*-------------------------------------------------------------------------
 *
 * watermark.c
 *		How streams reckon event time, and advance_watermark().
 *
 * What a stream's options say is asked by every statement that inserts one
 * row, so it is kept by relation.  Whatever changes the options or columns of a foreign
 * table invalidates its relation cache entry, and with it ours.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/int.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "hook.h"
#include "record.h"
#include "stream.h"
#include "watermark.h"

PG_FUNCTION_INFO_V1(stream_ckpt_advance_watermark);

/* What a stream's options say of event time. */
typedef struct EventTime
{
	Oid			stream;			/* hash key */
	AttrNumber	attnum;			/* 0: none */
	int64		delay;			/* microseconds */
	int64		idle_timeout;	/* microseconds; -1: none */
} EventTime;

static HTAB *event_times = NULL;
static uint64 invalidations = 0;

/* ---- Options ---- */

static void
forget_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	EventTime  *entry;

	invalidations++;
	if (OidIsValid(relid))
	{
		hash_search(event_times, &relid, HASH_REMOVE, NULL);
		return;
	}
	hash_seq_init(&status, event_times);
	while ((entry = hash_seq_search(&status)) != NULL)
		hash_search(event_times, &entry->stream, HASH_REMOVE, NULL);
}

static void
make_cache(void)
{
	HASHCTL		control;

	memset(&control, 0, sizeof(control));
	control.keysize = sizeof(Oid);
	control.entrysize = sizeof(EventTime);
	control.hcxt = TopMemoryContext;
	event_times = hash_create("stream_ckpt event times", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
}

/* An option's value; the validator lets no months and nothing negative through.  A day has 24 hours. */
static int64
microseconds(DefElem *option)
{
	Interval   *interval = DatumGetIntervalP(DirectFunctionCall3(interval_in,
																 CStringGetDatum(defGetString(option)),
																 ObjectIdGetDatum(InvalidOid),
																 Int32GetDatum(-1)));
	int64		result;

	if (pg_mul_s64_overflow(interval->day, USECS_PER_DAY, &result) ||
		pg_add_s64_overflow(result, interval->time, &result))
		return PG_INT64_MAX;
	return result;
}

static void
read_options(Oid stream, EventTime *result)
{
	ListCell   *lc;

	memset(result, 0, sizeof(EventTime));
	result->stream = stream;
	result->idle_timeout = -1;

	/* Dropped meanwhile. */
	if (!SearchSysCacheExists1(FOREIGNTABLEREL, ObjectIdGetDatum(stream)))
		return;

	foreach(lc, GetForeignTable(stream)->options)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, "watermark_delay") == 0)
			result->delay = microseconds(option);
		else if (strcmp(option->defname, "idle_timeout") == 0)
			result->idle_timeout = microseconds(option);
		else if (strcmp(option->defname, "event_time") == 0)
		{
			AttrNumber	attnum = get_attnum(stream, defGetString(option));
			Oid			type = attnum > 0 ? getBaseType(get_atttype(stream, attnum)) : InvalidOid;

			/* The column may have been dropped or renamed since: then there is no event time. */
			if (type == TIMESTAMPTZOID || type == TIMESTAMPOID)
				result->attnum = attnum;
		}
	}
}

bool
sckpt_stream_event_time(Oid stream, AttrNumber *attnum, int64 *delay, int64 *idle_timeout)
{
	EventTime  *entry;
	EventTime	read;

	if (event_times == NULL)
		make_cache();
	entry = hash_search(event_times, &stream, HASH_FIND, NULL);
	if (entry == NULL)
	{
		uint64		before = invalidations;

		read_options(stream, &read);

		/* What changed while it was read is read again next time. */
		if (invalidations == before)
			*(EventTime *) hash_search(event_times, &stream, HASH_ENTER, NULL) = read;
		entry = &read;
	}
	if (attnum)
		*attnum = entry->attnum;
	if (delay)
		*delay = entry->delay;
	if (idle_timeout)
		*idle_timeout = entry->idle_timeout;
	return entry->attnum > 0;
}

int64
sckpt_watermark_of(int64 event_time, int64 delay)
{
	int64		result;

	if (event_time == SCKPT_NO_WATERMARK)
		return SCKPT_NO_WATERMARK;
	if (pg_sub_s64_overflow(event_time, delay, &result) || result < MIN_TIMESTAMP)
		return MIN_TIMESTAMP;
	return result;
}

/* ---- advance_watermark() ---- */

/* 42P01 and 42501, as INSERT would say it. */
static void
require_insertable(Oid stream)
{
	const char *name = get_rel_name(stream);
	AclResult	result;

	sckpt_stream_require(stream, name ? name : psprintf("%u", stream));
	result = pg_class_aclcheck(stream, GetUserId(), ACL_INSERT);
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FOREIGN_TABLE, name);
}

/*
 * Say that the stream's event time has reached `watermark`, which takes effect as a row with that event time in this place of this
 * transaction would, without the stream's delay.  One that is behind changes nothing.  Who calls this means
 * it: the bound on event times ahead of the clock does not apply.
 */
Datum
stream_ckpt_advance_watermark(PG_FUNCTION_ARGS)
{
	Oid			stream;
	TimestampTz watermark;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream must not be null")));
	stream = PG_GETARG_OID(0);
	require_insertable(stream);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("watermark of stream \"%s\" must not be null", get_rel_name(stream))));
	watermark = PG_GETARG_TIMESTAMPTZ(1);
	if (TIMESTAMP_NOT_FINITE(watermark))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("watermark of stream \"%s\" must not be %s", get_rel_name(stream),
						TIMESTAMP_IS_NOBEGIN(watermark) ? "-infinity" : "infinity")));

	/* A command like INSERT, with the same lock.  What was seen before it may have changed. */
	PreventCommandDuringRecovery("stream_ckpt.advance_watermark()");
	PreventCommandIfReadOnly("stream_ckpt.advance_watermark()");
	LockRelationOid(stream, RowExclusiveLock);
	require_insertable(stream);
	if (!sckpt_stream_event_time(stream, NULL, NULL, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" has no event time", get_rel_name(stream)),
				 errhint("Name its column of event times: ALTER FOREIGN TABLE ... OPTIONS (ADD event_time '...').")));

	sckpt_stream_require_log();
	sckpt_record_write_watermark(stream, watermark, 0, InvalidXLogRecPtr);
	sckpt_hook_wake_at_commit(false);
	PG_RETURN_VOID();
}
