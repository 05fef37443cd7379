/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The static background worker that starts a worker in each database
 *		with streams.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_LAUNCHER_H
#define SCKPT_LAUNCHER_H

#include "attach.h"

/* Register the launcher with the postmaster; while preloading only. */
extern void sckpt_launcher_register(void);

#endif							/* SCKPT_LAUNCHER_H */
