/*-------------------------------------------------------------------------
 *
 * sorter.c
 *		The order of a partition's rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/lsyscache.h"

#include "sorter.h"

SckptSorter *
sckpt_sorter_create(const SckptOrder *order, const SckptSetColumns *set)
{
	SckptSorter *sorter = palloc0(sizeof(SckptSorter));

	sorter->order = order;
	sorter->ncolumns = set->ncolumns;
	sorter->columns = palloc0(Max(1, set->ncolumns) * sizeof(SckptGroupColumn));
	for (int i = 0; i < set->ncolumns; i++)
		get_typlenbyval(set->columns[i].type, &sorter->columns[i].form.length, &sorter->columns[i].form.by_value);
	sorter->sorts = palloc0(Max(1, order->ncolumns) * sizeof(SortSupportData));
	for (int i = 0; i < order->ncolumns; i++)
	{
		sorter->sorts[i].ssup_cxt = CurrentMemoryContext;
		sorter->sorts[i].ssup_collation = set->columns[order->columns[i]].collation;
		sorter->sorts[i].ssup_nulls_first = order->nulls_first[i];
		PrepareSortSupportFromOrderingOp(order->ops[i], &sorter->sorts[i]);
	}
	return sorter;
}

void
sckpt_sorter_flatten(SckptSorter *sorter, Datum *values, const bool *nulls)
{
	for (int i = 0; i < sorter->ncolumns; i++)
	{
		/* As the store gives them back: a great oid, say, is a negative number there. */
		if (sorter->columns[i].form.by_value && sorter->columns[i].form.length == sizeof(int32))
			values[i] = Int32GetDatum(DatumGetInt32(values[i]));
		if (!nulls[i] && sorter->columns[i].form.length == -1 &&
			(VARATT_IS_EXTERNAL(DatumGetPointer(values[i])) || VARATT_IS_COMPRESSED(DatumGetPointer(values[i]))))
			values[i] = PointerGetDatum(PG_DETOAST_DATUM_PACKED(values[i]));
	}
}

int
sckpt_sorter_compare(SckptSorter *sorter, const Datum *a, const bool *a_nulls, const Datum *b, const bool *b_nulls)
{
	int			order = sckpt_sorter_compare_order(sorter, a, a_nulls, b, b_nulls);

	for (int i = 0; i < sorter->ncolumns && order == 0; i++)
	{
		if (a_nulls[i] || b_nulls[i])
			order = (int) a_nulls[i] - (int) b_nulls[i];
		else
			order = sckpt_group_compare_images(&sorter->columns[i], a[i], b[i]);
	}
	return order;
}
