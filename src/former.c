/*-------------------------------------------------------------------------
 *
 * former.c
 *		States of aggregates as older versions of PostgreSQL have them, for
 *		pipelines that come through pg_upgrade or a dump.
 *
 * Since 17 intervals may be infinite, and sum() and avg() of them count the
 * infinite ones: their state is internal, where it was an interval, and an
 * array of the sum and the number of values.  All other built-in aggregates
 * that we keep a transition value of have the same one, and the same portable
 * form of it, in 15 to 18.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"

#include "former.h"

Oid
sckpt_former_type(Oid aggregate, Oid type)
{
	if (type != INTERNALOID)
		return InvalidOid;
	switch (aggregate)
	{
		case F_SUM_INTERVAL:
			return INTERVALOID;
		case F_AVG_INTERVAL:
			return INTERVALARRAYOID;
		default:
			return InvalidOid;
	}
}

bytea *
sckpt_former_convert(Oid aggregate, Datum value, int64 count)
{
	StringInfoData buf;
	Interval   *sum;

	if (aggregate == F_AVG_INTERVAL)
	{
		Datum	   *elements;
		int			nelements;

		deconstruct_array(DatumGetArrayTypeP(value), INTERVALOID, sizeof(Interval), false, TYPALIGN_DOUBLE,
						  &elements, NULL, &nelements);
		if (nelements != 2)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("stored state of a pipeline is corrupted"),
					 errdetail("An average of intervals consists of %d parts.", nelements)));
		sum = DatumGetIntervalP(elements[0]);
		count = DatumGetIntervalP(elements[1])->time;
	}
	else
		sum = DatumGetIntervalP(value);

	pq_begintypsend(&buf);
	pq_sendint64(&buf, count);
	pq_sendint64(&buf, sum->time);
	pq_sendint32(&buf, sum->day);
	pq_sendint32(&buf, sum->month);
	pq_sendint64(&buf, 0);		/* infinite ones, of either sign */
	pq_sendint64(&buf, 0);
	return pq_endtypsend(&buf);
}
