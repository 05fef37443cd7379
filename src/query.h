/*-------------------------------------------------------------------------
 *
 * query.h
 *		A pipeline's query, taken apart into its stages.
 *
 * The linear part of a query (FROM, WHERE, expressions, joins with ordinary
 * tables) becomes the source: SQL of its own, which PostgreSQL plans and runs over
 * each batch.  A grouped query has one stateful stage on top, the aggregate: its keys,
 * aggregate calls, and the projection and HAVING over both.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_QUERY_H
#define SCKPT_QUERY_H

#include "access/tupdesc.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"

typedef struct SckptKey
{
	Oid			type;
	int32		typmod;
	Oid			collation;
	Oid			eq_op;			/* a hashable equality operator */
	AttrNumber	result_column;	/* where the key stands in the result */
	Node	   *expr;			/* over the query's relations */
} SckptKey;

typedef struct SckptCall
{
	Aggref	   *aggref;
	int			nargs;
	AttrNumber *args;			/* columns of the source */
	AttrNumber	filter;			/* column of the source; 0: none */
} SckptCall;

typedef struct SckptQuery
{
	Oid			stream;
	List	   *columns;		/* attribute numbers of the stream that it uses; 0: the whole row */
	bool		grouped;
	char	   *source;			/* SQL of the linear part */
	bool		pure;			/* the source depends on nothing but the stream's rows */
	bool		stable;			/* its by-reference columns point into the batch, so that they outlive the row */
	int			nkeys;
	SckptKey   *keys;			/* columns 1 … nkeys of the source */
	int			ncalls;
	SckptCall  *calls;
	int			nsource;		/* columns of the source, of a grouped query */
	Oid		   *source_types;
	/* over a row of keys and aggregate results, as Vars of relation 1 */
	List	   *targetlist;
	Node	   *having;
	TupleDesc	result;			/* the query's columns */
} SckptQuery;

/*
 * Parse, analyse and take apart, as the current user with the current search_path; everything is palloc'd in the current
 * context.  0A000 naming the construct when the query cannot be a pipeline; other errors as PostgreSQL reports them.
 */
extern SckptQuery *sckpt_query_analyze(const char *text);

#endif							/* SCKPT_QUERY_H */
