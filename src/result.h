/*-------------------------------------------------------------------------
 *
 * result.h
 *		Appends rows to a pipeline's result, whatever relation that is.
 *
 * For rows that are never changed: those of closed windows, and of linear queries whose rows do not come straight out of the
 * executor.  They are collected in a tuplestore (work_mem, then a temporary file), in the order given, and written by one
 * INSERT … SELECT, so that partitioned tables, streams, foreign tables, triggers and defaults work as for any INSERT.  In the checkpoint's
 * transaction, as the pipeline's owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_RESULT_H
#define SCKPT_RESULT_H

#include "task.h"

typedef struct SckptAppender SckptAppender;

/*
 * For rows of query->result's type (the last stage's); kept below the current memory context. `at_once`: they may go to the result as they come, if it is a
 * table of ours that allows it; else they are kept until the end.  Close it in the same subtransaction; after an error just abort that and forget it.
 */
extern SckptAppender *sckpt_appender_open(SckptTask *task, bool at_once);
/* All of the row's values are at hand. */
extern void sckpt_appender_put(SckptAppender *appender, TupleTableSlot *row);
/* Write them; returns how many. */
extern uint64 sckpt_appender_close(SckptAppender *appender);

/*
 * Results whose rows are appended and taken back: -1 deletes one row that is identical (a bag).  Rows are collected as above; those to be
 * deleted are, at once.
 */
typedef struct SckptChanging SckptChanging;

extern SckptChanging *sckpt_changing_open(SckptTask *task);
extern void sckpt_changing_put(SckptChanging *changing, TupleTableSlot *row, int32 weight);
/* How many rows were put and deleted. */
extern uint64 sckpt_changing_close(SckptChanging *changing);
/* The expression whose index finds identical rows; NULL: no column has a hash. */
extern char *sckpt_changing_hash(TupleDesc columns, const char *qualifier);

/* The result's row, empty, filled from a row of the query's. */
extern void sckpt_result_fill(SckptTask *task, TupleTableSlot *target, TupleTableSlot *row);

/* INSERT INTO result (columns) SELECT * FROM … */
extern char *sckpt_result_insert_sql(Oid result, TupleDesc columns, const char *from);
/* The same of a row of NULLs: to plan, so that types and privileges are checked. */
extern char *sckpt_result_check_sql(Oid result, TupleDesc columns);

#endif							/* SCKPT_RESULT_H */
