/*-------------------------------------------------------------------------
 *
 * rank_private.h
 *		What the files of groups that rank share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_RANK_PRIVATE_H
#define SCKPT_RANK_PRIVATE_H

#include "aggregate_private.h"
#include "sorter.h"

struct SckptRanker
{
	SckptRanking *ranking;
	SckptSorter *sorter;
	Datum	   *bound_values;
	bool	   *bound_nulls;
	int		   *sources;		/* by column of a row handed on, SCKPT_RANK_ZERO or a column of the group's row; NULL: there are expressions */
	bool		wanted[3];		/* ranks that are among the sources */
};

#define SCKPT_RANK_ZERO 0		/* the number of identical rows, before they are numbered */
#define SCKPT_RANK_ABSENT (-1)	/* NULL: a column that older rows do not have */

/* Those copies of an element that are results. */
typedef struct SckptRankSpan
{
	int64		copies;
	int64		ranks[3];		/* of the first, by SckptRankKind; others have the next row numbers, and the same ranks */
} SckptRankSpan;

/* aggregate_rank.c: sort elements, which must not have been taken back more often than they were there. */
extern void sckpt_rank_sort(SckptRanker *ranker, SckptElementValue *elements, uint64 count);
/* Put those first that can be results, now or, with `handed`, when results were handed on last; returns how many. */
extern uint64 sckpt_rank_select(SckptRanker *ranker, SckptElementValue *elements, uint64 count, bool handed);
/* Which of them are results, or were handed on: palloc'd, by element. */
extern SckptRankSpan *sckpt_rank_spans(SckptRanker *ranker, const SckptElementValue *elements, uint64 count, bool handed);
/* Rows as they look. */
extern int	sckpt_rank_compare_tuples(MinimalTuple a, MinimalTuple b);
extern void sckpt_rank_sort_tuples(MinimalTuple *rows, uint64 count);
/* Number identical rows, and leave them sorted. */
extern void sckpt_rank_number(MinimalTuple *rows, uint64 count);

/* rank_handed.c: the sources of a row handed on, or NULL. */
extern int *sckpt_rank_sources(SckptQuery *query);

#endif							/* SCKPT_RANK_PRIVATE_H */
