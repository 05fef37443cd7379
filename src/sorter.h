/*-------------------------------------------------------------------------
 *
 * sorter.h
 *		The order of a partition's rows: as the query says, and of those that it
 *		holds to be equal, by their images.
 *
 * So it is a total one but for identical rows, and does not depend on when rows came.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SORTER_H
#define SCKPT_SORTER_H

#include "utils/sortsupport.h"

#include "group.h"

typedef struct SckptSorter
{
	const SckptOrder *order;
	int			ncolumns;
	SckptGroupColumn *columns;	/* how they look */
	SortSupportData *sorts;
} SckptSorter;

/* Of rows of these columns; what it needs is in the current context. */
extern SckptSorter *sckpt_sorter_create(const SckptOrder *order, const SckptSetColumns *set);
/* Make values look as those that were stored do; what they point to is in the current context, or where it was. */
extern void sckpt_sorter_flatten(SckptSorter *sorter, Datum *values, const bool *nulls);
extern int	sckpt_sorter_compare(SckptSorter *sorter, const Datum *a, const bool *a_nulls, const Datum *b, const bool *b_nulls);

/* By the query's order only. */
static inline int
sckpt_sorter_compare_order(SckptSorter *sorter, const Datum *a, const bool *a_nulls, const Datum *b, const bool *b_nulls)
{
	for (int i = 0; i < sorter->order->ncolumns; i++)
	{
		int			column = sorter->order->columns[i];
		int			order = ApplySortComparator(a[column], a_nulls[column], b[column], b_nulls[column], &sorter->sorts[i]);

		if (order != 0)
			return order;
	}
	return 0;
}

#endif							/* SCKPT_SORTER_H */
