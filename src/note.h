/*-------------------------------------------------------------------------
 *
 * note.h
 *		Notes in the log on pipelines to which nothing happens.
 *
 * The stored position of an idle pipeline stays where it is for 16 MB of log.  A base backup taken meanwhile has the log only from the
 * backup's start on, which may be after that position.  So the worker writes a note into the log after each of
 * the server's checkpoints: a pipeline whose stored position is this may as well go on from there.  Whoever finds the log before
 * it missing looks for a note in what is there.
 *
 * A note is a record as those of rows are (record.h), but not transactional, and not important: it does not keep an idle server from
 * being idle.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_NOTE_H
#define SCKPT_NOTE_H

#include "compat.h"
#include "task.h"

/* Write a note on those of the tasks that are idle and whose log a base backup of now would lack, once per checkpoint of the server. */
extern void sckpt_note_write(List *tasks, SckptPosition *position);

/*
 * Find the last note on the pipeline, with this stored position, in the log that is there; false if there is none.  *commit, *restart: as
 * in SckptPosition.
 */
extern bool sckpt_note_find(SckptPipeline *pipeline, XLogRecPtr *commit, XLogRecPtr *restart);

/* Is the log that a pipeline needs there, or a note from which it could go on?  And what to say when neither is: 55000. */
extern bool sckpt_note_log_exists(SckptPipeline *pipeline);
pg_noreturn extern void sckpt_note_report_gone(SckptPipeline *pipeline);

#endif							/* SCKPT_NOTE_H */
