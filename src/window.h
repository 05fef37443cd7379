/*-------------------------------------------------------------------------
 *
 * window.h
 *		Which windows a time is in.
 *
 * Windows are half-open, [start, end), so that NULL and the infinite times
 * are in none.  A window of a fixed size is a number of microseconds long: a
 * day is 24 hours, whatever the time zone does.  A tumbling window of months
 * follows the calendar, for timestamptz that of session_timezone at the time
 * of the call; nothing else here depends on the session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_WINDOW_H
#define SCKPT_WINDOW_H

#include "common/int.h"
#include "datatype/timestamp.h"

#include "compat.h"

typedef enum SckptWindowKind
{
	SCKPT_WINDOW_TUMBLE,		/* one after the other */
	SCKPT_WINDOW_HOP,			/* of one size, a new one starts every slide */
	SCKPT_WINDOW_CUMULATE,		/* growing by step up to size, then anew */
	SCKPT_WINDOW_SESSION		/* of one row; who groups rows merges those that overlap */
} SckptWindowKind;

/* Made by sckpt_window_init(); constant from then on, and flat. */
typedef struct SckptWindowSpec
{
	SckptWindowKind kind;
	bool		with_zone;		/* times are timestamptz; matters to months only */
	int64		size;			/* µs: of a session the gap; 0 when months */
	int64		slide;			/* µs: hop's slide, cumulate's step; else = size */
	int32		months;			/* tumble by calendar months; else 0 */
	int64		origin;			/* a window starts here; reduced by whole windows (slides), unless months */
	bool		default_origin;
	int			maximum;		/* windows a time is in, at most */
} SckptWindowSpec;

/*
 * Check the arguments of a window function and fill in the spec: 22023 naming the function and the argument.  slide is
 * hop's slide or cumulate's step; a NULL pointer is an SQL null, which is refused where the argument belongs to the
 * function.  A session has no origin.
 */
extern void sckpt_window_init(SckptWindowSpec *spec, SckptWindowKind kind, bool with_zone, const Interval *slide,
							  const Interval *size, bool has_origin, int64 origin);
/*
 * Fill in the windows that contain the time, the earliest end first: spec->maximum of them at most.  Returns how many; 0 of
 * an infinite time.  22008 when the bounds of one cannot be represented.
 */
extern int	sckpt_window_assign(const SckptWindowSpec *spec, int64 time, int64 *starts, int64 *ends);
/* The end of the window that starts there, of cumulate the longest.  start must be one that was assigned. */
extern int64 sckpt_window_end_of(const SckptWindowSpec *spec, int64 start);
pg_noreturn extern void sckpt_window_out_of_range(void);

/* Where the bin of a fixed width that contains the finite time starts; it may lie outside of the range of timestamps. */
static inline int64
sckpt_window_bin(int64 time, int64 origin, int64 width)
{
	int64		offset;
	int64		start;

	if (unlikely(pg_sub_s64_overflow(time, origin, &offset)))
		sckpt_window_out_of_range();
	offset %= width;
	if (offset < 0)
		offset += width;
	if (unlikely(pg_sub_s64_overflow(time, offset, &start)))
		sckpt_window_out_of_range();
	return start;
}

/* Where the window of a finite time starts, tumbling and without months; its end, start + size, is in range, too. */
static inline int64
sckpt_window_start(const SckptWindowSpec *spec, int64 time)
{
	int64		start = sckpt_window_bin(time, spec->origin, spec->size);
	int64		end;

	Assert(spec->kind == SCKPT_WINDOW_TUMBLE && spec->months == 0);
	if (unlikely(pg_add_s64_overflow(start, spec->size, &end) ||
				 !IS_VALID_TIMESTAMP(start) || !IS_VALID_TIMESTAMP(end)))
		sckpt_window_out_of_range();
	return start;
}

#endif							/* SCKPT_WINDOW_H */
