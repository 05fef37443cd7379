/*-------------------------------------------------------------------------
 *
 * pipeline.h
 *		What pipelines' SQL functions share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_PIPELINE_H
#define SCKPT_PIPELINE_H

#include "catalog/pg_attribute.h"
#include "utils/timestamp.h"

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

/* view.c: take a checkpoint that covers all rows committed before now, and wait for it as checkpoint() does. */
extern void sckpt_pipeline_checkpoint(SckptPipeline *pipeline);

/*
 * pipeline.c, for create_pipeline() and alter_pipeline(): checks of arguments, 22023 (durations have a fixed length) and 0A000;
 */
extern void sckpt_pipeline_check_choice(const char *option, const char *value, const char *first, const char *second);
extern void sckpt_pipeline_check_duration(const char *option, Interval *interval, bool zero_allowed);
extern void sckpt_pipeline_check_ttl(SckptQuery *query);
/* 0A000 where dead letters are to be kept of a query whose results cannot be told to be bad by themselves. */
extern void sckpt_pipeline_check_frames(SckptQuery *query, bool keep_dead);
/* have PostgreSQL plan what will be run, as the current user, who needs privileges on what it reads and writes; */
extern void sckpt_pipeline_check_plans(SckptQuery *query, Oid result, bool final);
/* what the result table consists of; */
extern char *sckpt_pipeline_column_type(Form_pg_attribute att);
extern void sckpt_pipeline_index_result(Oid relid, SckptQuery *query);
/* run a statement; */
extern void sckpt_pipeline_run_sql(const char *sql, int expected);
/* keep the log from where the oldest transaction open now began to write, until we end; returns that place. */
extern XLogRecPtr sckpt_pipeline_hold_log(void);

#endif							/* SCKPT_PIPELINE_H */
