/*-------------------------------------------------------------------------
 *
 * alter.h
 *		What the files of alter_pipeline() share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_ALTER_H
#define SCKPT_ALTER_H

#include "catalog.h"
#include "query.h"

/* alter_check.c: 0A000 naming the first thing that would keep the state of `old` from being that of `new`. */
extern void sckpt_alter_check_state(SckptPipeline *pipeline, SckptQuery *old, SckptQuery *new, bool old_final, bool new_final);
/*
 * alter_result.c: give the result table of our own the columns of `new`, in the place of those of `old`, as the current user.  `anew`: empty it, and
 * give it the index of the new keys.
 */
extern void sckpt_alter_result(SckptPipeline *pipeline, SckptQuery *old, SckptQuery *new, bool anew);

#endif							/* SCKPT_ALTER_H */
