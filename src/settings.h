/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The configuration settings, stream_ckpt.* (defined in settings.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SETTINGS_H
#define SCKPT_SETTINGS_H

extern int	sckpt_broadcast_rows;
extern int	sckpt_checkpoint_history;	/* rows */
extern int	sckpt_checkpoint_interval;	/* ms */
extern int	sckpt_checkpoint_timeout;	/* ms */
extern int	sckpt_checkpoint_writers;
extern char *sckpt_fault;				/* "point:action", for tests; empty: none */
extern int	sckpt_lock_timeout;			/* ms a worker waits for a lock on others' objects */
extern int	sckpt_log_memory_limit;			/* kB */
extern int	sckpt_max_databases;
extern int	sckpt_max_event_time_ahead; /* ms, 0: off */
extern int	sckpt_max_lag;				/* kB, 0: off */
extern int	sckpt_max_pipelines;
extern int	sckpt_restart_backoff_max;	/* ms */
extern int	sckpt_restart_backoff_min;	/* ms */
extern int	sckpt_retained_checkpoints;
extern int	sckpt_state_memory;			/* kB */
extern int	sckpt_tolerable_failed_checkpoints;
extern int	sckpt_workers;

extern void sckpt_settings_init(void);

/*
 * Do what the setting stream_ckpt.fault says if it names this point: error, kill (SIGKILL
 * to ourselves), or wait (until the setting names another point).  For crash tests; superusers only.
 */
extern void sckpt_fault_point(const char *point);

#endif							/* SCKPT_SETTINGS_H */
