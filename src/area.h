/*-------------------------------------------------------------------------
 *
 * area.h
 *		The dynamic shared memory of this process's state stores, and the
 *		cluster-wide account that bounds it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_AREA_H
#define SCKPT_AREA_H

#include "utils/dsa.h"

#include "compat.h"

/*
 * Allocate, or return InvalidDsaPointer when stream_ckpt.state_memory or the
 * system has no more.  The system refusing a segment can also be an ERROR
 * (class 53), raised with an LWLock held: whoever catches it aborts the
 * (sub)transaction before using the area again.
 */
extern dsa_pointer sckpt_area_take(Size bytes);
/* Address of what was taken: stays the same until released. */
extern void *sckpt_area_address(dsa_pointer pointer);
/* Release what was taken with `bytes`. */
extern void sckpt_area_release(dsa_pointer pointer, Size bytes);
/* If `bytes` are all that this process has taken, release them together and return true. */
extern bool sckpt_area_close(Size bytes);
/* ereport(ERROR, 53200): taking `bytes` failed. */
pg_noreturn extern void sckpt_area_report_full(Size bytes);

#endif							/* SCKPT_AREA_H */
