/*-------------------------------------------------------------------------
 *
 * slot.c
 *		The physical replication slot stream_ckpt_<database oid>.
 *
 * Never kept acquired: the checkpointer terminates whoever holds a slot that
 * it must invalidate, and a user's function running in our process may want to
 * call slot functions itself.  Slots are not transactional; an error between
 * acquiring and releasing must release here, since a caller may catch it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/timeline.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "storage/condition_variable.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/wait_event.h"

#include "catalog.h"
#include "compat.h"
#include "shared.h"
#include "slot.h"

static void
slot_name(Oid database, char *name)
{
	snprintf(name, NAMEDATALEN, SCKPT_SLOT_PREFIX "%u", database);
}

/* What a slot in use is to us.  Its fields are read under its spinlock. */
static SckptSlotState
slot_classify(ReplicationSlot *slot, XLogRecPtr *restart_lsn)
{
	ReplicationSlotPersistentData data;

	SpinLockAcquire(&slot->mutex);
	data = slot->data;
	SpinLockRelease(&slot->mutex);

	if (data.database != InvalidOid || data.persistency == RS_TEMPORARY)
		return SCKPT_SLOT_FOREIGN;
	/* One that sckpt_slot_ensure() is still making does not count yet. */
	if (data.persistency == RS_EPHEMERAL)
		return SCKPT_SLOT_ABSENT;
	/* Invalidated, or made by somebody who reserved nothing: it retains no log. */
	if (XLogRecPtrIsInvalid(data.restart_lsn))
		return SCKPT_SLOT_LOST;

	*restart_lsn = data.restart_lsn;
	return SCKPT_SLOT_VALID;
}

SckptSlotState
sckpt_slot_check(Oid database, XLogRecPtr *restart_lsn)
{
	char		name[NAMEDATALEN];
	ReplicationSlot *slot;
	SckptSlotState state = SCKPT_SLOT_ABSENT;

	*restart_lsn = InvalidXLogRecPtr;
	slot_name(database, name);

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	slot = SearchNamedReplicationSlot(name, false);
	if (slot)
		state = slot_classify(slot, restart_lsn);
	LWLockRelease(ReplicationSlotControlLock);
	return state;
}

SckptSlotState
sckpt_slot_retained(Oid database, XLogRecPtr *restart_lsn)
{
	SckptSlotState state = sckpt_slot_check(database, restart_lsn);
	SckptDatabase *entry;

	if (state != SCKPT_SLOT_VALID)
		return state;
	LWLockAcquire(sckpt_shared->lock, LW_SHARED);
	entry = sckpt_shared_find_database(database);
	if (entry)
		*restart_lsn = Max(*restart_lsn, entry->slot_target);
	LWLockRelease(sckpt_shared->lock);
	return state;
}

static bool
launcher_holds(ReplicationSlot *slot)
{
	int			pid;

	SpinLockAcquire(&slot->mutex);
	pid = slot->active_pid;
	SpinLockRelease(&slot->mutex);
	return pid != 0 && pid != MyProcPid && pid == sckpt_shared->launcher_pid;
}

/* Until the launcher does not hold the slot: it is at one write to disk. */
static void
wait_for_launcher(Oid database)
{
	char		name[NAMEDATALEN];
	ReplicationSlot *slot;

	slot_name(database, name);
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	slot = SearchNamedReplicationSlot(name, false);
	LWLockRelease(ReplicationSlotControlLock);
	if (slot == NULL)
		return;
	ConditionVariablePrepareToSleep(&slot->active_cv);
	while (launcher_holds(slot))
		ConditionVariableSleep(&slot->active_cv, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}

/*
 * Let go of a slot after an error.  The lightweight locks go first, as in the
 * error path of a backend: releasing a slot may need one that the failed call
 * still held.
 */
static void
release_after_error(void)
{
	LWLockReleaseAll();
	if (MyReplicationSlot)
		ReplicationSlotRelease();
}

/*
 * In a catch block: end the error if it only says that another process holds
 * the slot (false) or that it does not exist (true); throw it on otherwise.
 */
static bool
absorb_slot_error(MemoryContext context)
{
	ErrorData  *edata;
	bool		gone;

	release_after_error();
	if (geterrcode() != ERRCODE_OBJECT_IN_USE && geterrcode() != ERRCODE_UNDEFINED_OBJECT)
		PG_RE_THROW();

	MemoryContextSwitchTo(context);
	edata = CopyErrorData();
	FlushErrorState();
	gone = (edata->sqlerrcode == ERRCODE_UNDEFINED_OBJECT);
	FreeErrorData(edata);
	return gone;
}

static void
require_no_slot(void)
{
	if (MyReplicationSlot)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this process is using replication slot \"%s\"",
						NameStr(MyReplicationSlot->data.name))));
}

/* Errors that name the setting to change, before core's own that do not. */
static void
require_slots_possible(void)
{
	bool		room = false;

	if (wal_level < WAL_LEVEL_REPLICA)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("streams require \"wal_level\" to be at least \"replica\""),
				 errdetail("The current setting is \"minimal\"."),
				 errhint("Set \"wal_level\" to \"replica\" and restart the server.")));

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots && !room; i++)
		room = !ReplicationSlotCtl->replication_slots[i].in_use;
	LWLockRelease(ReplicationSlotControlLock);

	if (!room)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("all replication slots are in use"),
				 errdetail("A database with streams needs one replication slot."),
				 errhint("Set \"max_replication_slots\" to at least %d and restart the server, or drop a replication slot that is not needed.",
						 max_replication_slots + 1)));
}

static XLogRecPtr
make_slot(Oid database)
{
	char		name[NAMEDATALEN];
	XLogRecPtr	restart_lsn;

	slot_name(database, name);
	require_no_slot();

	switch (sckpt_slot_check(database, &restart_lsn))
	{
		case SCKPT_SLOT_VALID:
			return restart_lsn;
		case SCKPT_SLOT_FOREIGN:
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("replication slot \"%s\" already exists", name),
					 errdetail("Streams of this database need a physical, permanent replication slot of that name."),
					 errhint("Drop the replication slot, or rename what uses it.")));
			break;
		case SCKPT_SLOT_LOST:
			PG_TRY();
			{
				ReplicationSlotDrop(name, true);
			}
			PG_CATCH();
			{
				release_after_error();
				PG_RE_THROW();
			}
			PG_END_TRY();
			break;
		case SCKPT_SLOT_ABSENT:
			break;
	}

	require_slots_possible();

	/* Ephemeral until it retains something: an error or a crash leaves nothing behind. */
	PG_TRY();
	{
		ReplicationSlotCreate(name, false, RS_EPHEMERAL, false, false, false);
		ReplicationSlotReserveWal();
		ReplicationSlotPersist();
		restart_lsn = MyReplicationSlot->data.restart_lsn;
		ReplicationSlotRelease();
	}
	PG_CATCH();
	{
		release_after_error();
		PG_RE_THROW();
	}
	PG_END_TRY();

	return restart_lsn;
}

/*
 * One process at a time: a slot that another one is still making has the name already.  In a copied
 * database the worker and the first inserts all come here.  Not until commit: who finds it made need
 * not wait for the transaction that made it.
 */
XLogRecPtr
sckpt_slot_ensure(Oid database)
{
	Oid			server;
	XLogRecPtr	restart_lsn;

	if (sckpt_slot_retained(database, &restart_lsn) == SCKPT_SLOT_VALID)
		return restart_lsn;
	server = sckpt_catalog_server();
	if (OidIsValid(server))
		LockDatabaseObject(ForeignServerRelationId, server, 0, ShareUpdateExclusiveLock);
	restart_lsn = make_slot(database);
	if (OidIsValid(server))
		UnlockDatabaseObject(ForeignServerRelationId, server, 0, ShareUpdateExclusiveLock);
	return restart_lsn;
}

/* Move the slot, if it is valid: anywhere, or, with `lsn` Invalid, forward to its database's slot_target. */
static bool
move_slot(Oid database, XLogRecPtr lsn)
{
	bool		back = !XLogRecPtrIsInvalid(lsn);
	MemoryContext context = CurrentMemoryContext;
	char		name[NAMEDATALEN];
	XLogRecPtr	restart_lsn;
	volatile bool done = true;

	if (sckpt_slot_check(database, &restart_lsn) != SCKPT_SLOT_VALID || restart_lsn == lsn)
		return true;

	slot_name(database, name);
	require_no_slot();

	PG_TRY();
	{
		ReplicationSlot *slot;
		SckptDatabase *entry;
		XLogRecPtr	to;
		bool		moved = false;

		ReplicationSlotAcquire(name, true, false);
		slot = MyReplicationSlot;

		/*
		 * It may have been invalidated, or replaced, since it was looked at; and who has it go back says so in slot_target
		 * first, and waits for us then.
		 */
		LWLockAcquire(sckpt_shared->lock, LW_SHARED);
		entry = sckpt_shared_find_database(database);
		to = back ? lsn : entry ? entry->slot_target : InvalidXLogRecPtr;
		SpinLockAcquire(&slot->mutex);
		if (slot->data.database == InvalidOid && !XLogRecPtrIsInvalid(slot->data.restart_lsn) &&
			(slot->data.restart_lsn < to || (back && slot->data.restart_lsn > to)))
		{
			slot->data.restart_lsn = to;
			moved = true;
		}
		SpinLockRelease(&slot->mutex);
		LWLockRelease(sckpt_shared->lock);

		/* On disk first: only then may the log before it go. */
		if (moved)
		{
			ReplicationSlotMarkDirty();
			ReplicationSlotSave();
			ReplicationSlotsComputeRequiredLSN();
		}
		ReplicationSlotRelease();
	}
	PG_CATCH();
	{
		done = absorb_slot_error(context);
	}
	PG_END_TRY();

	return done;
}

static void
advance(Oid database)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		(void) move_slot(database, InvalidXLogRecPtr);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		FlushErrorState();
		release_after_error();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
}

void
sckpt_slot_advance_all(void)
{
	for (int i = 0; i < sckpt_shared->ndatabases; i++)
	{
		XLogRecPtr	restart_lsn;
		XLogRecPtr	target;
		Oid			database;

		LWLockAcquire(sckpt_shared->lock, LW_SHARED);
		database = sckpt_shared->databases[i].oid;
		target = sckpt_shared->databases[i].slot_target;
		LWLockRelease(sckpt_shared->lock);
		if (!OidIsValid(database) || sckpt_slot_check(database, &restart_lsn) != SCKPT_SLOT_VALID || restart_lsn >= target)
			continue;
		CHECK_FOR_INTERRUPTS();
		advance(database);
	}
}

/* On a standby there are no locks to be had on the foreign server, and nobody but its one worker makes slots. */
bool
sckpt_slot_retain(Oid database, XLogRecPtr lsn)
{
	XLogRecPtr	restart_lsn;
	SckptDatabase *entry;

	if (sckpt_slot_check(database, &restart_lsn) != SCKPT_SLOT_VALID)
	{
		if (RecoveryInProgress())
			(void) make_slot(database);
		else
			(void) sckpt_slot_ensure(database);
	}
	LWLockAcquire(sckpt_shared->lock, LW_EXCLUSIVE);
	entry = sckpt_shared_find_database(database);
	if (entry)
		entry->slot_target = Min(entry->slot_target, lsn);
	LWLockRelease(sckpt_shared->lock);
	wait_for_launcher(database);
	return move_slot(database, lsn);
}

bool
sckpt_slot_drop(Oid database)
{
	MemoryContext context = CurrentMemoryContext;
	char		name[NAMEDATALEN];
	XLogRecPtr	restart_lsn;
	SckptSlotState state = sckpt_slot_check(database, &restart_lsn);
	volatile bool done = true;

	if (state == SCKPT_SLOT_ABSENT || state == SCKPT_SLOT_FOREIGN)
		return true;

	slot_name(database, name);
	require_no_slot();
	wait_for_launcher(database);

	PG_TRY();
	{
		ReplicationSlotDrop(name, true);
	}
	PG_CATCH();
	{
		done = absorb_slot_error(context);
	}
	PG_END_TRY();

	return done;
}

/* The database of a slot named by us; InvalidOid for any other name, also one that only begins so. */
static Oid
slot_database(const char *name)
{
	Size		prefix_len = strlen(SCKPT_SLOT_PREFIX);
	char		canonical[NAMEDATALEN];
	Oid			database;

	if (strncmp(name, SCKPT_SLOT_PREFIX, prefix_len) != 0)
		return InvalidOid;
	database = (Oid) strtoul(name + prefix_len, NULL, 10);
	slot_name(database, canonical);
	return strcmp(name, canonical) == 0 ? database : InvalidOid;
}

/*
 * Drop the slots of databases that are gone.
 *
 * The slots are listed before the databases are: a slot is made after its
 * database, so one that is new in between is not taken for an orphan.  The
 * launcher is connected to no database, which leaves it a scan of pg_database
 * and no system cache.  One that somebody holds is left for the next time.
 */
void
sckpt_slot_drop_orphans(void)
{
	Oid		   *databases = palloc(sizeof(Oid) * Max(max_replication_slots, 1));
	int			ndatabases = 0;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];
		XLogRecPtr	restart_lsn;
		SckptSlotState state;
		Oid			database;

		if (!slot->in_use)
			continue;
		database = slot_database(NameStr(slot->data.name));
		if (!OidIsValid(database))
			continue;
		state = slot_classify(slot, &restart_lsn);
		if (state == SCKPT_SLOT_VALID || state == SCKPT_SLOT_LOST)
			databases[ndatabases++] = database;
	}
	LWLockRelease(ReplicationSlotControlLock);

	if (ndatabases > 0)
	{
		rel = table_open(DatabaseRelationId, AccessShareLock);
		scan = table_beginscan_catalog(rel, 0, NULL);
		while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		{
			Oid			existing = ((Form_pg_database) GETSTRUCT(tuple))->oid;

			for (int i = 0; i < ndatabases; i++)
			{
				if (databases[i] == existing)
					databases[i] = InvalidOid;
			}
		}
		table_endscan(scan);
		table_close(rel, AccessShareLock);
	}

	for (int i = 0; i < ndatabases; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (OidIsValid(databases[i]) && sckpt_slot_drop(databases[i]))
			ereport(LOG,
					(errmsg("dropped replication slot \"" SCKPT_SLOT_PREFIX "%u\" of a database that no longer exists",
							databases[i])));
	}
	pfree(databases);
}
