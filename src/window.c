/*-------------------------------------------------------------------------
 *
 * window.c
 *		Which windows a time is in, natively and for SQL.
 *
 * Operators assign rows to windows by sckpt_window_assign().  The functions
 * tumble, hop, cumulate and session that users write are SQL functions, which
 * PostgreSQL inlines into the query; over a table they come down to the small
 * functions at the end of this file, one bound of one window each, which get
 * it from the same place: all but months goes through find_first(), months
 * through find_months().
 *
 * Arithmetic is done on 64-bit microseconds.  The range of timestamps is
 * larger than half of that of int64, so that differences and sums of two
 * times can overflow; what does is out of range as a timestamp, too, for the
 * origin is reduced to 0 <= origin < width first, so that a time which is too
 * far from it lies before 2000, and in a window that starts before all time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "pgtime.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "window.h"

#define MONDAY			(2 * USECS_PER_DAY) /* 2000-01-03 00:00, where windows of a fixed size start by default */
#define MAX_WINDOWS		1000000 /* that a time may be in */

PG_FUNCTION_INFO_V1(stream_ckpt_tumble_valid);
PG_FUNCTION_INFO_V1(stream_ckpt_tumble_start);
PG_FUNCTION_INFO_V1(stream_ckpt_tumble_start_tz);
PG_FUNCTION_INFO_V1(stream_ckpt_tumble_end);
PG_FUNCTION_INFO_V1(stream_ckpt_tumble_end_tz);
PG_FUNCTION_INFO_V1(stream_ckpt_hop_count);
PG_FUNCTION_INFO_V1(stream_ckpt_hop_start);
PG_FUNCTION_INFO_V1(stream_ckpt_hop_end);
PG_FUNCTION_INFO_V1(stream_ckpt_cumulate_count);
PG_FUNCTION_INFO_V1(stream_ckpt_cumulate_start);
PG_FUNCTION_INFO_V1(stream_ckpt_cumulate_end);
PG_FUNCTION_INFO_V1(stream_ckpt_session_valid);
PG_FUNCTION_INFO_V1(stream_ckpt_session_end);

/* As users know the functions and their arguments. */
static const struct
{
	const char *function;
	const char *slide;
	const char *size;
}			names[] =
{
	[SCKPT_WINDOW_TUMBLE] = {"tumble", NULL, "size"},
	[SCKPT_WINDOW_HOP] = {"hop", "slide", "size"},
	[SCKPT_WINDOW_CUMULATE] = {"cumulate", "step", "size"},
	[SCKPT_WINDOW_SESSION] = {"session", NULL, "gap"},
};

void
sckpt_window_out_of_range(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("timestamp out of range")));
}

/* ---- Checking the arguments ---- */

static void
require_positive(bool positive, SckptWindowKind kind, const char *argument)
{
	if (!positive)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of %s() must be positive", argument, names[kind].function)));
}

static void
require_not_null(const Interval *value, SckptWindowKind kind, const char *argument)
{
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of %s() must not be null", argument, names[kind].function)));
}

/* An interval without months in microseconds, days being 24 hours. */
static int64
fixed_size(const Interval *value, SckptWindowKind kind, const char *argument)
{
	int64		result;

	require_not_null(value, kind, argument);
	if (value->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s() does not support months", names[kind].function),
				 errdetail("Its %s contains months or years, which are not always of one length.", argument),
				 errhint("Use days or smaller units, or tumble().")));
	if (pg_mul_s64_overflow(value->day, USECS_PER_DAY, &result) ||
		pg_add_s64_overflow(result, value->time, &result))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of %s() is out of range", argument, names[kind].function)));
	require_positive(result > 0, kind, argument);
	return result;
}

void
sckpt_window_init(SckptWindowSpec *spec, SckptWindowKind kind, bool with_zone, const Interval *slide,
				  const Interval *size, bool has_origin, int64 origin)
{
	bool		has_slide = names[kind].slide != NULL;
	int64		width;

	memset(spec, 0, sizeof(SckptWindowSpec));
	spec->kind = kind;
	spec->with_zone = with_zone;
	spec->maximum = 1;
	spec->default_origin = !has_origin;
	if (has_origin && TIMESTAMP_NOT_FINITE(origin))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("origin of %s() must be finite", names[kind].function)));

	require_not_null(size, kind, names[kind].size);
	if (kind == SCKPT_WINDOW_TUMBLE && size->month != 0)
	{
		if (size->day != 0 || size->time != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("size of tumble() must not mix months with days or smaller units")));
		require_positive(size->month > 0, kind, names[kind].size);
		spec->months = size->month;
		spec->origin = has_origin ? origin : 0;
		return;
	}

	if (has_slide)
		spec->slide = fixed_size(slide, kind, names[kind].slide);
	spec->size = fixed_size(size, kind, names[kind].size);
	if (!has_slide)
		spec->slide = spec->size;
	else if (spec->size % spec->slide != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of %s() must divide its size", names[kind].slide, names[kind].function)));
	else if (spec->size / spec->slide > MAX_WINDOWS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of %s() is too small for its size", names[kind].slide, names[kind].function),
				 errdetail("A time would be in " INT64_FORMAT " windows; at most %d are possible.",
						   spec->size / spec->slide, MAX_WINDOWS)));
	else
		spec->maximum = spec->size / spec->slide;

	width = kind == SCKPT_WINDOW_HOP ? spec->slide : spec->size;
	spec->origin = (has_origin ? origin : MONDAY) % width;
	if (spec->origin < 0)
		spec->origin += width;
}

/* ---- Finding windows ---- */

/* Months since the start of year 2000, on the calendar that counts. */
static int64
month_number(const SckptWindowSpec *spec, int64 time)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;

	if (timestamp2tm(time, spec->with_zone ? &tz : NULL, &tm, &fsec, NULL, NULL) != 0)
		sckpt_window_out_of_range();
	return ((int64) tm.tm_year - 2000) * MONTHS_PER_YEAR + tm.tm_mon - 1;
}

/* Where window number k starts; number 0 at the origin. */
static int64
month_start(const SckptWindowSpec *spec, int64 k)
{
	Interval	span = {0};
	int64		months = k * spec->months;
	int64		local;

	if (months > PG_INT32_MAX || months < PG_INT32_MIN)
		sckpt_window_out_of_range();
	span.month = months;
	if (spec->with_zone && !spec->default_origin)
		return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(spec->origin),
													   IntervalPGetDatum(&span)));
	local = DatumGetTimestamp(DirectFunctionCall2(timestamp_pl_interval, TimestampGetDatum(spec->origin),
												  IntervalPGetDatum(&span)));

	/* the default origin is local midnight, and what midnight is depends on the day */
	return spec->with_zone ? timestamp2timestamptz_opt_overflow(local, NULL) : local;
}

/*
 * The window of months that contains the time.  Its number is guessed from the calendar: the day of the month and the
 * clock may put it one lower.  So may clocks that are set back over the midnight at which a month starts, one higher or lower.
 */
static void
find_months(const SckptWindowSpec *spec, int64 time, int64 *start, int64 *end)
{
	int64		months = month_number(spec, time) - (spec->default_origin ? 0 : month_number(spec, spec->origin));
	int64		k = months / spec->months;

	if (k * spec->months > months)
		k--;
	while ((*start = month_start(spec, k)) > time)
		k--;
	while ((*end = month_start(spec, k + 1)) <= time)
	{
		*start = *end;
		k++;
	}
}

/*
 * The window with the earliest end of those that contain the time.  The others follow from it, slide by slide; returns how
 * many there are.  All of them are in range.
 */
static int
find_first(const SckptWindowSpec *spec, int64 time, int64 *start, int64 *end)
{
	int			count = 1;
	int64		steps;
	int64		last_end;

	if (TIMESTAMP_NOT_FINITE(time))
		return 0;
	switch (spec->kind)
	{
		case SCKPT_WINDOW_TUMBLE:
			if (spec->months != 0)
				find_months(spec, time, start, end);
			else
			{
				*start = sckpt_window_start(spec, time);
				*end = *start + spec->size;
			}
			return 1;
		case SCKPT_WINDOW_HOP:
			count = spec->maximum;
			if (pg_sub_s64_overflow(sckpt_window_bin(time, spec->origin, spec->slide), spec->size - spec->slide, start))
				sckpt_window_out_of_range();
			if (pg_add_s64_overflow(*start, spec->size, end))
				sckpt_window_out_of_range();
			break;
		case SCKPT_WINDOW_CUMULATE:
			*start = sckpt_window_bin(time, spec->origin, spec->size);
			steps = (time - *start) / spec->slide;
			count = spec->maximum - steps;
			if (pg_add_s64_overflow(*start, (steps + 1) * spec->slide, end))
				sckpt_window_out_of_range();
			break;
		case SCKPT_WINDOW_SESSION:
			*start = time;
			if (pg_add_s64_overflow(time, spec->size, end))
				sckpt_window_out_of_range();
			break;
	}

	if (pg_add_s64_overflow(*end, (count - 1) * spec->slide, &last_end) ||
		!IS_VALID_TIMESTAMP(*start) || !IS_VALID_TIMESTAMP(last_end))
		sckpt_window_out_of_range();
	return count;
}

int
sckpt_window_assign(const SckptWindowSpec *spec, int64 time, int64 *starts, int64 *ends)
{
	int			count = find_first(spec, time, starts, ends);
	int64		stride = spec->kind == SCKPT_WINDOW_HOP ? spec->slide : 0;

	for (int i = 1; i < count; i++)
	{
		starts[i] = starts[i - 1] + stride;
		ends[i] = ends[i - 1] + spec->slide;
	}
	return count;
}

int64
sckpt_window_end_of(const SckptWindowSpec *spec, int64 start)
{
	int64		end;

	if (spec->months != 0)
		find_months(spec, start, &start, &end);
	else if (pg_add_s64_overflow(start, spec->size, &end) || !IS_VALID_TIMESTAMP(end))
		sckpt_window_out_of_range();
	return end;
}

/* ---- For SQL ---- */

/*
 * The window functions are SQL functions over the ones below: …_valid() and …_count(), constants to the planner when the
 * intervals are, check the arguments even where no row or no bound is asked for; …_start() and …_end() give one bound.
 */

static Interval *
interval_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_INTERVAL_P(n);
}

/* The spec of a function whose arguments from n on are [slide,] size and, but for a session, origin. */
static void
spec_arguments(FunctionCallInfo fcinfo, int n, SckptWindowKind kind, bool with_zone, SckptWindowSpec *spec)
{
	Interval   *slide = names[kind].slide != NULL ? interval_argument(fcinfo, n++) : NULL;
	Interval   *size = interval_argument(fcinfo, n++);
	bool		has_origin = kind != SCKPT_WINDOW_SESSION && !PG_ARGISNULL(n);

	sckpt_window_init(spec, kind, with_zone, slide, size, has_origin, has_origin ? PG_GETARG_TIMESTAMP(n) : 0);
}

/*
 * A bound of the n-th window (from 1) that contains the time, which is the first argument; n is the one after the spec's.
 * NULL when there is none.
 */
static Datum
bound(FunctionCallInfo fcinfo, SckptWindowKind kind, bool with_zone, bool want_end)
{
	SckptWindowSpec spec;
	int64		start;
	int64		end;
	int64		n = 1;

	spec_arguments(fcinfo, 1, kind, with_zone, &spec);
	if (names[kind].slide != NULL)
	{
		if (PG_ARGISNULL(4))
			PG_RETURN_NULL();
		n = PG_GETARG_INT32(4);
	}
	if (PG_ARGISNULL(0) || n < 1 || n > find_first(&spec, PG_GETARG_TIMESTAMP(0), &start, &end))
		PG_RETURN_NULL();
	if (kind == SCKPT_WINDOW_HOP)
		start += (n - 1) * spec.slide;
	end += (n - 1) * spec.slide;
	PG_RETURN_TIMESTAMP(want_end ? end : start);
}

Datum
stream_ckpt_tumble_valid(PG_FUNCTION_ARGS)
{
	SckptWindowSpec spec;

	spec_arguments(fcinfo, 0, SCKPT_WINDOW_TUMBLE, false, &spec);
	PG_RETURN_BOOL(true);
}

Datum
stream_ckpt_tumble_start(PG_FUNCTION_ARGS)
{
	return bound(fcinfo, SCKPT_WINDOW_TUMBLE, false, false);
}

Datum
stream_ckpt_tumble_start_tz(PG_FUNCTION_ARGS)
{
	return bound(fcinfo, SCKPT_WINDOW_TUMBLE, true, false);
}

Datum
stream_ckpt_tumble_end(PG_FUNCTION_ARGS)
{
	return bound(fcinfo, SCKPT_WINDOW_TUMBLE, false, true);
}

Datum
stream_ckpt_tumble_end_tz(PG_FUNCTION_ARGS)
{
	return bound(fcinfo, SCKPT_WINDOW_TUMBLE, true, true);
}

Datum
stream_ckpt_hop_count(PG_FUNCTION_ARGS)
{
	SckptWindowSpec spec;

	spec_arguments(fcinfo, 0, SCKPT_WINDOW_HOP, false, &spec);
	PG_RETURN_INT32(spec.maximum);
}

Datum
stream_ckpt_hop_start(PG_FUNCTION_ARGS)
{
	return bound(fcinfo, SCKPT_WINDOW_HOP, false, false);
}

Datum
stream_ckpt_hop_end(PG_FUNCTION_ARGS)
{
	return bound(fcinfo, SCKPT_WINDOW_HOP, false, true);
}

Datum
stream_ckpt_cumulate_count(PG_FUNCTION_ARGS)
{
	SckptWindowSpec spec;

	spec_arguments(fcinfo, 0, SCKPT_WINDOW_CUMULATE, false, &spec);
	PG_RETURN_INT32(spec.maximum);
}

Datum
stream_ckpt_cumulate_start(PG_FUNCTION_ARGS)
{
	return bound(fcinfo, SCKPT_WINDOW_CUMULATE, false, false);
}

Datum
stream_ckpt_cumulate_end(PG_FUNCTION_ARGS)
{
	return bound(fcinfo, SCKPT_WINDOW_CUMULATE, false, true);
}

Datum
stream_ckpt_session_valid(PG_FUNCTION_ARGS)
{
	SckptWindowSpec spec;

	spec_arguments(fcinfo, 0, SCKPT_WINDOW_SESSION, false, &spec);
	PG_RETURN_BOOL(true);
}

Datum
stream_ckpt_session_end(PG_FUNCTION_ARGS)
{
	return bound(fcinfo, SCKPT_WINDOW_SESSION, false, true);
}
