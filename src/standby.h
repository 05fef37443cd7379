/*-------------------------------------------------------------------------
 *
 * standby.h
 *		What a worker does while the server is a standby.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_STANDBY_H
#define SCKPT_STANDBY_H

/*
 * While the server is in recovery, keep the log that the pipelines of this database would need if recovery ended now.  Returns when it has
 * ended; exits when there are no streams here.
 */
extern void sckpt_standby_run(void);

#endif							/* SCKPT_STANDBY_H */
