/*-------------------------------------------------------------------------
 *
 * standby.c
 *		What a worker does while the server is a standby.
 *
 * Slots are not replicated, positions are: they are in tables.  So a worker on
 * a standby looks at these from time to time, and has a slot of the standby's
 * own retain the log from the lowest of them on.  Tables that it reads are as of
 * what has been replayed, and positions only rise, so what it keeps is
 * enough for whatever is replayed later.  When recovery ends, it goes on as the
 * database's worker.
 *
 * It writes nothing, and holds no lock that replay would wait for longer than
 * one look takes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "attach.h"
#include "catalog.h"
#include "segment.h"
#include "slot.h"
#include "standby.h"

#define LOOK_MS 1000			/* between looks */

/* From where on the log is needed, as far as has been replayed. */
static XLogRecPtr
needed_from(void)
{
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	ListCell   *lc;

	foreach(lc, sckpt_catalog_pipelines())
	{
		SckptPipeline *pipeline = lfirst(lc);

		/* Of one that has no log any more nothing can be kept; a base backup may begin after an idle one's. */
		if (pipeline->at_home && sckpt_segment_exists(pipeline->restart) &&
			(XLogRecPtrIsInvalid(lsn) || pipeline->restart < lsn))
			lsn = pipeline->restart;
		for (int i = 0; pipeline->at_home && i < pipeline->held.n; i++)
		{
			if (sckpt_segment_exists(pipeline->held.list[i]) && (XLogRecPtrIsInvalid(lsn) || pipeline->held.list[i] < lsn))
				lsn = pipeline->held.list[i];
		}
	}
	/* Without pipelines: one that is created after the promotion begins there. */
	return XLogRecPtrIsInvalid(lsn) ? GetRedoRecPtr() : lsn;
}

/* One look; exits when the database has no streams. */
static void
look(void)
{
	StartTransactionCommand();
	if (!sckpt_catalog_lock_extension() || !sckpt_catalog_has_streams())
	{
		bool		dropped = sckpt_slot_drop(MyDatabaseId);

		CommitTransactionCommand();
		proc_exit(dropped ? 0 : 1);
	}
	sckpt_slot_retain(MyDatabaseId, needed_from());
	CommitTransactionCommand();
}

void
sckpt_standby_run(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "stream_ckpt standby", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	XLogRecPtr	looked_at = InvalidXLogRecPtr;

	pgstat_report_activity(STATE_RUNNING, "stream_ckpt standby");
	while (RecoveryInProgress())
	{
		XLogRecPtr	replayed = GetXLogReplayRecPtr(NULL);

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (replayed != looked_at)
		{
			look();
			if (XLogRecPtrIsInvalid(looked_at))
				sckpt_launcher_confirm_worker();
			looked_at = replayed;
			MemoryContextSwitchTo(context);
			MemoryContextReset(context);
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
