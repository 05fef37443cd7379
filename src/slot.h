/*-------------------------------------------------------------------------
 *
 * slot.h
 *		The physical replication slot stream_ckpt_<database oid>, which retains
 *		the log that the database's pipelines may still need.
 *
 * It only retains: positions are in tables.  It is acquired, changed, saved
 * and released within each of these functions, none of which runs user code
 * meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SLOT_H
#define SCKPT_SLOT_H

#include "access/xlogdefs.h"

#define SCKPT_SLOT_PREFIX "stream_ckpt_"

typedef enum SckptSlotState
{
	SCKPT_SLOT_ABSENT,
	SCKPT_SLOT_FOREIGN,			/* somebody else's slot has the name: logical, or temporary */
	SCKPT_SLOT_LOST,			/* invalidated (max_slot_wal_keep_size) */
	SCKPT_SLOT_VALID
} SckptSlotState;

/* State of a database's slot, and from where it retains the log (Invalid unless VALID).  Cheap: no I/O. */
extern SckptSlotState sckpt_slot_check(Oid database, XLogRecPtr *restart_lsn);
/*
 * Make the slot if it is absent, replace it if lost; returns from where the log is retained.  Errors: 53400 naming
 * max_replication_slots and the value needed; 55000 wal_level = minimal (name it); 42710 name taken by a foreign slot.
 * In a transaction; takes a lock on the foreign server meanwhile.
 */
extern XLogRecPtr sckpt_slot_ensure(Oid database);
/* Is the log from here on still there?  If not, *oldest is from where it is. */
extern bool sckpt_slot_log_exists(XLogRecPtr lsn, XLogRecPtr *oldest);
/* Move it forward to `lsn` (never back) and save it.  No-op when absent, lost, or already there; busy: false. */
extern bool sckpt_slot_advance(Oid database, XLogRecPtr lsn);
/* Drop it if it exists and is ours; false when another process holds it just now. */
extern bool sckpt_slot_drop(Oid database);
/* Drop the slots of our prefix whose database does not exist any more.  For the launcher, in a transaction. */
extern void sckpt_slot_drop_orphans(void);

#endif							/* SCKPT_SLOT_H */
