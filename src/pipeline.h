/*-------------------------------------------------------------------------
 *
 * pipeline.h
 *		What pipelines' SQL functions share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_PIPELINE_H
#define SCKPT_PIPELINE_H

#include "catalog.h"
#include "query.h"

/* May the current user see (as owner, member of its role, or pg_read_all_stats) or change (owner or member) what this role owns? */
extern bool sckpt_pipeline_visible(Oid owner);
/* The pipeline, if the current user may change it; 42704, 42501. */
extern SckptPipeline *sckpt_pipeline_require(const char *name);
/*
 * ereport(ERROR) unless the rows of `query`, a last stage whose first one reads `streams`, can go into `sink`; `keyed`: the rows
 * change.
 */
extern void sckpt_pipeline_check_sink(Oid sink, SckptQuery *query, List *streams, bool keyed);
/* The streams that rows inserted into a relation go to: itself, or through views and partitions. */
extern List *sckpt_pipeline_sink_streams(Oid sink);
/* A relation has become a partition of `parent`: ereport(ERROR) if some pipeline's results would come back to what it reads. */
extern void sckpt_pipeline_check_attached(Oid parent);

#endif							/* SCKPT_PIPELINE_H */
