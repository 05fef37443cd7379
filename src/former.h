/*-------------------------------------------------------------------------
 *
 * former.h
 *		States of aggregates as older versions of PostgreSQL have them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_FORMER_H
#define SCKPT_FORMER_H

/* The type that the aggregate's transition value had before it became `type`; InvalidOid: it has always been that. */
extern Oid	sckpt_former_type(Oid aggregate, Oid type);
/* From a value of that type, of so many inputs, to the bytes that the aggregate's serialization function gives now. */
extern bytea *sckpt_former_convert(Oid aggregate, Datum value, int64 count);

#endif							/* SCKPT_FORMER_H */
