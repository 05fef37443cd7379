/*-------------------------------------------------------------------------
 *
 * offline.c
 *		A pipeline's state in a session.
 *
 * Everything that a task has goes with its memory context, the shared memory of its stores (state.c), too.  After an error that is done at the
 * abort, not where the error is caught: the locks that the error may have left are free by then, and it is not put off
 * until a failed transaction's session says ROLLBACK.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "checkpoint_private.h"
#include "offline.h"

static SckptTask *current = NULL;	/* in a context of its transaction's */
static int	current_level;		/* of the (sub)transaction that loaded it */

static void
abandon(void)
{
	SckptTask  *task = current;

	if (task == NULL)
		return;
	current = NULL;
	MemoryContextDelete(task->context);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		abandon();
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	/* Not that of a trigger on the result, say, which handles its errors. */
	if (event == SUBXACT_EVENT_ABORT_SUB && GetCurrentTransactionNestLevel() <= current_level)
		abandon();
}

/* Not by the row's lock: the worker must still be able to take a checkpoint, which a session that waits for its turn may want first. */
void
sckpt_offline_lock(SckptPipeline *def)
{
	Oid			class = get_relname_relid("pipeline_def", get_namespace_oid("stream_ckpt", false));

	LockDatabaseObject(class, (Oid) def->id, 0, ExclusiveLock);
}

SckptTask *
sckpt_offline_load(SckptPipeline *def, int64 checkpoint)
{
	static bool registered = false;
	SckptTask  *task;

	if (checkpoint != 0 && checkpoint != def->last_checkpoint)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("checkpoint " INT64_FORMAT " of pipeline \"%s\" is not retained", checkpoint, def->name)));

	/* Others must not see an older state than the one that was locked. */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("the state of pipeline \"%s\" cannot be changed in a transaction with isolation level %s",
						def->name, XactIsoLevel == XACT_SERIALIZABLE ? "serializable" : "repeatable read"),
				 errhint("Use READ COMMITTED.")));
	if (current)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the state of pipeline \"%s\" cannot be changed while that of \"%s\" is",
						def->name, current->def->name)));
	if (!registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		RegisterSubXactCallback(at_subtransaction_end, NULL);
		registered = true;
	}

	task = sckpt_task_create(CurTransactionContext, def);
	task->offline = true;
	current = task;
	current_level = GetCurrentTransactionNestLevel();
	sckpt_task_start(task);
	return task;
}

void
sckpt_offline_end(SckptTask *task)
{
	Assert(task == current);
	sckpt_task_stop(task);
	current = NULL;
	MemoryContextDelete(task->context);
}
