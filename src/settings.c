/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The configuration settings, stream_ckpt.*, and fault points for tests.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#include "settings.h"
#include "shared.h"

int			sckpt_broadcast_rows = 10000;
int			sckpt_checkpoint_history = 1000;
int			sckpt_checkpoint_interval = 1000;
int			sckpt_checkpoint_timeout = 10 * 60 * 1000;
int			sckpt_checkpoint_writers = 0;
char	   *sckpt_fault = NULL;
int			sckpt_lock_timeout = 5000;
int			sckpt_log_memory_limit = 8 * 1024;
int			sckpt_max_databases = 64;
int			sckpt_max_event_time_ahead = 0;
int			sckpt_max_lag = 0;
int			sckpt_max_pipelines = 1024;
int			sckpt_restart_backoff_max = 60 * 1000;
int			sckpt_restart_backoff_min = 1000;
int			sckpt_retained_checkpoints = 1;
int			sckpt_state_memory = 256 * 1024;
int			sckpt_tolerable_failed_checkpoints = 3;
int			sckpt_workers = 1;

/* Every point that sckpt_fault_point() is called with: a test that names another one is to fail, not to wait for it. */
static const char *const fault_points[] = {
	"after-commit",
	"alter-loaded",
	"barrier",
	"before-commit",
	"checkpoint-trigger",
	"chunks-written",
	"cleanup",
	"hand-over",
	"offline-stored",
	"rescale",
	"restore",
	"savepoint",
};

static const char *const fault_actions[] = {"error", "kill", "wait"};

/* Check hook of stream_ckpt.fault: empty, or a point and an action that there are. */
static bool
check_fault(char **newval, void **extra, GucSource source)
{
	const char *colon = strchr(*newval, ':');
	bool		point = false;
	bool		action = false;

	if (**newval == '\0')
		return true;
	for (int i = 0; colon && i < lengthof(fault_points); i++)
		point |= strlen(fault_points[i]) == colon - *newval && strncmp(*newval, fault_points[i], colon - *newval) == 0;
	for (int i = 0; colon && i < lengthof(fault_actions); i++)
		action |= strcmp(colon + 1, fault_actions[i]) == 0;
	if (!colon || !action)
		GUC_check_errdetail("A fault is point:action, where action is error, kill or wait.");
	else if (!point)
		GUC_check_errdetail("There is no fault point \"%.*s\".", (int) (colon - *newval), *newval);
	return point && action;
}

/* Settings that size shared memory can be defined only while preloading. */
static void
define_preload_settings(void)
{
	DefineCustomIntVariable("stream_ckpt.checkpoint_writers",
							"Processes per database that write checkpoints.",
							"Pipelines with state hand over to them what has changed, and go on meanwhile. Without any, workers write checkpoints themselves.",
							&sckpt_checkpoint_writers,
							0, 0, SCKPT_MAX_WORKERS, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.max_databases",
							"Databases of the cluster that can have streams at the same time.",
							NULL, &sckpt_max_databases,
							64, 1, 10000, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.max_pipelines",
							"Pipelines that the cluster's workers can run at the same time.",
							NULL, &sckpt_max_pipelines,
							1024, 1, 100000, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.workers",
							"Workers per database.",
							"They share pipelines, and the tasks of parallel ones; those that have none do not run.", &sckpt_workers,
							1, 1, SCKPT_MAX_WORKERS, PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

void
sckpt_settings_init(void)
{
	DefineCustomIntVariable("stream_ckpt.broadcast_rows",
							"Rows that the smaller side of a join of streams without an equality may have.",
							"Each row of the other side meets all of them. A pipeline with more on both sides fails.", &sckpt_broadcast_rows,
							10000, 0, INT_MAX, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.checkpoint_history",
							"Finished checkpoints kept in the history of each pipeline.",
							NULL, &sckpt_checkpoint_history,
							1000, 1, INT_MAX, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.checkpoint_interval",
							"Time between checkpoints of pipelines that set no interval of their own.",
							NULL, &sckpt_checkpoint_interval,
							1000, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.checkpoint_timeout",
							"A checkpoint, or one batch of a pipeline, that takes longer fails.",
							NULL, &sckpt_checkpoint_timeout,
							10 * 60 * 1000, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomStringVariable("stream_ckpt.fault",
							   "Makes a worker fail at a named point, for crash tests.",
							   "point:action, where action is error, kill or wait.", &sckpt_fault,
							   "", PGC_SUSET, GUC_NOT_IN_SAMPLE | GUC_SUPERUSER_ONLY, check_fault, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.lock_timeout",
							"A worker waits no longer than this for a lock that a session holds.",
							"The checkpoint or batch fails then, and is tried again.", &sckpt_lock_timeout,
							5000, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.log_memory",
							"Memory of a log reader for rows of open transactions.",
							"Larger transactions are read a second time at their commit, which is cheap while the log is in the page cache.", &sckpt_log_memory_limit,
							8 * 1024, 64, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.max_event_time_ahead",
							"Event time that runs ahead of the clock by more than this does not move the watermark; 0 is no limit.",
							"Pipelines treat such rows as their option on_error says.", &sckpt_max_event_time_ahead,
							0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.max_lag",
							"Producers wait while a running pipeline that reads their stream is further behind than this much log; 0 is never.",
							NULL, &sckpt_max_lag,
							0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.restart_backoff_max",
							"Longest time between two restarts of a failing pipeline.",
							NULL, &sckpt_restart_backoff_max,
							60 * 1000, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.restart_backoff_min",
							"Time before the first restart of a failing pipeline; doubled at each one after it.",
							NULL, &sckpt_restart_backoff_min,
							1000, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.retained_checkpoints",
							"Completed checkpoints of a pipeline that stay restorable.",
							NULL, &sckpt_retained_checkpoints,
							1, 1, 1000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.state_memory",
							"Shared memory for the state of all pipelines of the cluster.",
							NULL, &sckpt_state_memory,
							256 * 1024, 1024, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("stream_ckpt.tolerable_failed_checkpoints",
							"Consecutive failed checkpoints before the pipeline restarts from its last completed one.",
							NULL, &sckpt_tolerable_failed_checkpoints,
							3, 0, INT_MAX, PGC_SIGHUP, 0, NULL, NULL, NULL);
	if (process_shared_preload_libraries_in_progress)
		define_preload_settings();
	MarkGUCPrefixReserved("stream_ckpt");
}

void
sckpt_fault_point(const char *point)
{
	Size		len = strlen(point);

	while (sckpt_fault && strncmp(sckpt_fault, point, len) == 0 && sckpt_fault[len] == ':')
	{
		const char *action = sckpt_fault + len + 1;

		if (strcmp(action, "kill") == 0)
		{
			kill(MyProcPid, SIGKILL);
			return;
		}
		if (strcmp(action, "wait") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("fault injected at \"%s\"", point)));

		/* Until a reload names another point, or we are told to end. */
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 100, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}
