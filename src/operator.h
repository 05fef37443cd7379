/*-------------------------------------------------------------------------
 *
 * operator.h
 *		What a stateful operator is to the rest: it takes weighted rows, keeps a
 *		state store, and at a barrier gives its changed entries as bytes and
 *		as rows of its result.
 *
 * Every callback that can reach a user's code is called as the pipeline's owner, inside a transaction
 * with an active snapshot.  An ERROR in any of them but pack, flush and result leaves the state undefined: the task restores it
 * from its last checkpoint.  Those three change nothing that a later attempt would see.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_OPERATOR_H
#define SCKPT_OPERATOR_H

#include "executor/tuptable.h"
#include "lib/stringinfo.h"

#include "state.h"

typedef struct SckptOperator SckptOperator;

struct SckptOperator
{
	const char *name;			/* as explain_pipeline() shows it */
	SckptState *state;

	/* A row of the stage's input, of the source's row type, with its weight. */
	void		(*consume) (SckptOperator *operator, TupleTableSlot *slot, int32 weight);
	/* After the last row of a run, while the rows are still there. */
	void		(*end_rows) (SckptOperator *operator);
	/* After each batch: keep process memory within bounds. */
	void		(*end_batch) (SckptOperator *operator);
	/* Before the first row ever: entries that exist over no input, such as the one group of an ungrouped aggregate. */
	void		(*start) (SckptOperator *operator);

	/* What the entries of its chunks consist of, in words; a chunk with another description cannot be restored. */
	void		(*describe) (SckptOperator *operator, StringInfo buf);
	/* Bring values kept in process memory into the store. */
	void		(*flush) (SckptOperator *operator);
	/* Append an entry in portable form. */
	void		(*pack) (SckptOperator *operator, SckptEntry *entry, StringInfo buf);
	/* Read one back, unless an entry with its key exists: then SCKPT_NO_REF. */
	SckptRef	(*unpack) (SckptOperator *operator, const char **cursor, const char *end);

	/* The entry with this key, of the operator's key types; SCKPT_NO_REF if there is none. */
	SckptRef	(*find) (SckptOperator *operator, Datum *values, bool *nulls);

	/* Around a series of results, in one transaction. */
	void		(*begin_results) (SckptOperator *operator);
	/*
	 * The result row of an entry, in a virtual slot valid until the next call; false when HAVING excludes it (the slot holds the
	 * row all the same, for its key).
	 */
	bool		(*result) (SckptOperator *operator, SckptEntry *entry, TupleTableSlot **slot);
	void		(*end_results) (SckptOperator *operator);

	void		(*destroy) (SckptOperator *operator);

	/* Can another operator of the same query, fed with other rows, be added to this one?  And that: `source` is used up. */
	bool		(*mergeable) (SckptOperator *operator);
	void		(*merge) (SckptOperator *operator, SckptOperator *source);
};

#endif							/* SCKPT_OPERATOR_H */
