/*-------------------------------------------------------------------------
 *
 * scan.h
 *		Scanning a stream: rows of a worker's batch, in PostgreSQL's executor
 *		(sckpt_stream_arm(), stream.h).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SCAN_H
#define SCKPT_SCAN_H

#include "foreign/fdwapi.h"

/* Fill in how the wrapper plans and runs scans. */
extern void sckpt_scan_set_routine(FdwRoutine *routine);
/* Its next row; an empty slot at the end. */
extern TupleTableSlot *sckpt_scan_next(ForeignScanState *node);

#endif							/* SCKPT_SCAN_H */
