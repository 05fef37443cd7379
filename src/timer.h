/*-------------------------------------------------------------------------
 *
 * timer.h
 *		When entries of a store are due: an index of them by time.
 *
 * Entries that share a time (those of one window, say) are a doubly linked list through the entries themselves; the lists
 * are found by time in a hash table, and the earliest by a pairing heap.  So adding an entry, removing one, and finding
 * what is due cost nothing that grows with the number of entries that are not due.
 *
 * A time may be a lower bound: when it has come, the owner looks at the entry and registers it
 * again if it is not due after all (lazy moving, as in Varghese and Lauck's timing wheels, 1987).  With a quantum above 1, times
 * of a quantum share a list, so that entries with times of their own do not each cost a list.
 *
 * Everything but the links is in process memory; after a restore the entries are registered anew.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_TIMER_H
#define SCKPT_TIMER_H

#include "state.h"

/* In each entry, at the same offset, 8-byte aligned. */
typedef struct SckptTimerLink
{
	int64		at;				/* as registered; SCKPT_NEVER: it is not */
	SckptRef	next;
	SckptRef	prev;
} SckptTimerLink;

#define SCKPT_NEVER PG_INT64_MAX

typedef struct SckptTimers SckptTimers;

/* Lives in a context below `parent`.  `quantum` >= 1, in the unit of the times. */
extern SckptTimers *sckpt_timers_create(MemoryContext parent, SckptState *state, Size link_offset, int64 quantum);
/* Register an entry, which must not be registered (at = SCKPT_NEVER, which a new entry's owner has to set); SCKPT_NEVER: do nothing. */
extern void sckpt_timers_add(SckptTimers *timers, SckptRef ref, int64 at);
/* Take it out, if it is in. */
extern void sckpt_timers_remove(SckptTimers *timers, SckptRef ref);
/* No entry is due before this; SCKPT_NEVER: there is none. */
extern int64 sckpt_timers_first(SckptTimers *timers);
/*
 * The entries registered for times up to `until`, palloc'd (huge if need be) in the current context: in the order of their times, or, unless
 * `ordered`, of their quanta only.  They stay registered.  Checks for interrupts.
 */
extern SckptRef *sckpt_timers_due(SckptTimers *timers, int64 until, bool ordered, uint64 *count);

#endif							/* SCKPT_TIMER_H */
