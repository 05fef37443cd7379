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

/* State of a database's slot, and from where it retains the log just now (Invalid unless VALID).  Cheap: no I/O. */
extern SckptSlotState sckpt_slot_check(Oid database, XLogRecPtr *restart_lsn);
/* The same, but from where it will go on retaining it, if the launcher does as it was told (slot_target of shared.h). */
extern SckptSlotState sckpt_slot_retained(Oid database, XLogRecPtr *restart_lsn);
/*
 * Make the slot if it is absent, replace it if lost; returns from where the log is retained.  Errors: 53400 naming
 * max_replication_slots and the value needed; 55000 wal_level = minimal (name it); 42710 name taken by a foreign slot.
 * In a transaction; takes a lock on the foreign server meanwhile.
 */
extern XLogRecPtr sckpt_slot_ensure(Oid database);
/*
 * Move slots forward to their databases' slot_target, and save them: some ten milliseconds each on common disks, which is why
 * the launcher does it, and no worker.  What is absent, lost, busy, or there already is passed over.  Errors of one are
 * reported, and do not concern the others.
 */
extern void sckpt_slot_advance_all(void);
/*
 * Have it retain the log from `lsn` on, forward or back, making it if need be; whether that log is there is the caller's business.  Errors as
 * above; busy, and not with the launcher: false.  On a standby, and where the log has come back from an archive.
 */
extern bool sckpt_slot_retain(Oid database, XLogRecPtr lsn);
/* Drop it if it exists and is ours; false when another process holds it just now. */
extern bool sckpt_slot_drop(Oid database);
/* Drop the slots of our prefix whose database does not exist any more.  For the launcher, in a transaction. */
extern void sckpt_slot_drop_orphans(void);

#endif							/* SCKPT_SLOT_H */
