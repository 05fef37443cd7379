/*-------------------------------------------------------------------------
 *
 * head.h
 *		The head of a pipeline whose work others do, in one task or several:
 *		its stages that are not spread over these, and its checkpoints.
 *
 * A head is a task of its own in no lane; what it does with part.h's tasks is described there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_HEAD_H
#define SCKPT_HEAD_H

#include "task.h"

/* After it has been loaded, and that has committed: begin an epoch, whose tasks start by themselves. */
extern void sckpt_head_begin(SckptTask *head);
/* Its tasks are to stop: it has stopped, for whatever reason. */
extern void sckpt_head_end(SckptTask *head);
/*
 * In the worker's loop: see how the tasks are; trigger a checkpoint that is due (`interval` ms after the last one), complete the one that all have
 * acknowledged, fail with a task that has failed.
 */
extern void sckpt_head_step(SckptTask *head, int64 interval);
/* Used by checkpoint.c and task.c: what the tasks have handed over, into the tables, as the owner; what became of a checkpoint. */
extern void sckpt_head_receive(SckptTask *head);
extern void sckpt_head_decide(SckptTask *head, int64 id, bool committed);
/* Chunks and state of the tasks, as of the checkpoint being taken, added; and what else one has reported, with its restore in this epoch. */
extern int	sckpt_head_chunks(SckptTask *head);
extern void sckpt_head_add_state(SckptTask *head, uint64 *rows, Size *bytes);
extern const SckptPartReport *sckpt_head_report(SckptTask *head, int number, int64 *restore_id);
/* Rows that the task had taken in, in this epoch, by the checkpoint before. */
extern int64 sckpt_head_rows_before(SckptTask *head, int number);
/* As they are now: have all started; when something of them closes next; their counters, added. */
extern bool sckpt_head_is_ready(SckptTask *head);
extern TimestampTz sckpt_head_next_close(SckptTask *head);
extern void sckpt_head_counters(SckptTask *head, SckptCounters *counters);
/* Ms until it is to be looked at again, unless one of its tasks wakes us. */
extern int64 sckpt_head_wait(SckptTask *head, TimestampTz now);
/* Where all tasks are, at the least, if nothing has happened to any of them since the last checkpoint. */
extern bool sckpt_head_idle_position(SckptTask *head, SckptPosition *position);

#endif							/* SCKPT_HEAD_H */
