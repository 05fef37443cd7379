/*-------------------------------------------------------------------------
 *
 * set.h
 *		Sets and multisets of values that belong to groups: what DISTINCT,
 *		ordered and ordered-set aggregates keep.
 *
 * An element is an entry of a store of its own:
 *
 *		SckptEntry | count or bits | group, links and set | values (group.h)
 *
 * found by (group, number of the set, values), and linked with the other elements of its group, so that a group's elements
 * can be walked and thrown away together.  A set is either
 *	- marked: one bit for each of up to 64 aggregate calls that share it (they have the same argument and different filters);
 *	- counted: how many times the value is there, of values told apart by how they look (their image), which may pass through negative numbers while a batch of changes is being
 *	  taken in.  An element whose count has become 0 is SCKPT_ENTRY_GONE (operator.h) until the next checkpoint.
 *
 * The first elements of a counted set, by the order of their values, may be kept in that order, so that the first one is found at once (set_order.c).  The order is
 * made when it is first asked for.
 *
 * Elements of a counted set may know how often they were part of what their group has handed on (`marked_handed`).  Then one whose count has become 0 stays until that is
 * taken back.  It is not stored: at a checkpoint all that is there has been handed on, and nothing else.
 *
 * In portable form an element names its group by a number that its operator gives each group once and never again: the number of its
 * task plus a multiple of SCKPT_MAX_TASKS, so that tasks do not give the same ones.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SET_H
#define SCKPT_SET_H

#include "group.h"
#include "state.h"

/* One set that each group has. */
typedef struct SckptSetDef
{
	int			ncolumns;
	SckptKey   *columns;		/* type, typmod, collation and equality (group.h) of each column of a value */
	bool		counted;
	bool		marked_handed;	/* of a counted set: elements know how often they were handed on */
	Oid			order;			/* sort operator of a counted set of one column, without NULLs; InvalidOid: no order is kept */
} SckptSetDef;

/* The elements of one set. */
typedef struct SckptSetList
{
	SckptRef	first;			/* SCKPT_NO_REF: none */
	SckptRef	root;			/* of an ordered set's tree, or SCKPT_SET_UNBUILT */
	uint32		inside;			/* elements in the tree, */
	uint32		outside;		/* and others with a count other than 0, which come after those */
} SckptSetList;

#define SCKPT_SET_UNBUILT PG_UINT32_MAX

/* What the group's entry has, at the same 8-byte aligned offset in each. */
typedef struct SckptSetHead
{
	int64		id;				/* the group's number */
	SckptSetList lists[FLEXIBLE_ARRAY_MEMBER];	/* by set */
} SckptSetHead;

#define SCKPT_SET_HEAD_SIZE(nsets) (offsetof(SckptSetHead, lists) + (nsets) * sizeof(SckptSetList))

typedef struct SckptSets SckptSets;

/* As the pipeline's owner, in a transaction; lives in a context below `parent`.  `groups`: the store of the groups' entries. */
extern SckptSets *sckpt_sets_create(MemoryContext parent, const SckptSetDef *defs, int ndefs, SckptState *groups, Size head_offset);
extern void sckpt_sets_destroy(SckptSets *sets);
/* The store of the elements. */
extern SckptState *sckpt_sets_state(SckptSets *sets);

/*
 * values[] of variable length that are compressed or out of line are replaced by flat ones in the current context, as
 * sckpt_group_key_hash() does.  Errors: 53200 when state memory is out; what hash and equality functions throw.
 */
/* Set bits of an element, which is made if need be; returns those that were not set before. */
extern uint64 sckpt_sets_mark(SckptSets *sets, SckptRef group, int set, Datum *values, bool *nulls, uint64 bits);
/* Add to an element's count; which one it is (SCKPT_NO_REF if count is 0). */
extern SckptRef sckpt_sets_add(SckptSets *sets, SckptRef group, int set, Datum *values, bool *nulls, int64 count);

/* Are there no elements, not even such as are about to go? */
extern bool sckpt_sets_is_empty(SckptSets *sets, SckptRef group, int set);

/* Take bits back that were set before. */
extern void sckpt_sets_unmark(SckptSets *sets, SckptRef group, int set, Datum *values, bool *nulls, uint64 bits);

/* An element; values of reference types point into the store. */
typedef struct SckptElementValue
{
	Datum	   *values;
	bool	   *nulls;
	int64		count;			/* or bits */
	uint32		handed;			/* 0 where elements do not know that */
	SckptRef	ref;
} SckptElementValue;
/*
 * The elements of one set of a group with a count (or bits) other than 0, or that were handed on, in no order; palloc'd in the current context.
 */
extern SckptElementValue *sckpt_sets_elements(SckptSets *sets, SckptRef group, int set, uint64 *count);
/* The first value of an ordered set, which points into the store; false: it is empty. */
extern bool sckpt_sets_first(SckptSets *sets, SckptRef group, int set, Datum *value);

/* The values of one of them. */
extern void sckpt_sets_load(SckptSets *sets, SckptRef element, Datum *values, bool *nulls);
/* Make an element's count 0; one that no checkpoint has, and that was not handed on, is removed.  Never fails. */
extern void sckpt_sets_clear(SckptSets *sets, SckptRef element);
/* How often it was handed on, from now on; one that is not there any more is removed, unless a checkpoint has it.  Never fails. */
extern void sckpt_sets_mark_handed(SckptSets *sets, SckptRef element, uint32 handed);

/*
 * Put everything of one group (of the same definitions, in the same store or another one) into another one's sets, and call back for bits newly set, and for what was
 * added to counts.
 */
typedef void (*SckptSetMarked) (void *arg, int set, Datum *values, bool *nulls, uint64 bits);
extern void sckpt_sets_merge(SckptSets *sets, SckptRef group, SckptSets *from, SckptRef from_group, SckptSetMarked marked, void *arg);

/* Remove an element that is GONE, or one of a group's; never fails. */
extern void sckpt_sets_remove(SckptSets *sets, SckptRef ref);
/* Remove a group's elements. Never fails. */
extern void sckpt_sets_drop(SckptSets *sets, SckptRef group);

#define SCKPT_SET_MARKS 64

/* The sets of stored elements, in terms of those that there are. */
typedef struct SckptSetForm
{
	int			nsets;			/* stored */
	int		   *sets;			/* by stored set: which one it is now; -1: none */
	int8	   *marks;			/* by stored set and mark (set * SCKPT_SET_MARKS + mark): which mark it is now; -1: none.  NULL: the same */
} SckptSetForm;

/* Portable form; see operator.h.  A line for each set. */
extern void sckpt_sets_describe(SckptSets *sets, StringInfo buf);
extern void sckpt_sets_pack(SckptSets *sets, SckptEntry *element, StringInfo buf);
/* Does the element belong to a group that is about to leave (SCKPT_ENTRY_LEAVING)? */
extern bool sckpt_sets_leaving(SckptSets *sets, SckptEntry *element);
/* Read one back, unless it is there already, or its group is not (closed, or forgotten): then SCKPT_NO_REF. */
extern SckptRef sckpt_sets_unpack(SckptSets *sets, const SckptSetForm *form, const char **cursor, const char *end);
/* After the groups have been restored, before the first sckpt_sets_unpack(): learn their numbers; and when the last has been read. */
extern void sckpt_sets_begin_unpack(SckptSets *sets);
extern void sckpt_sets_end_unpack(SckptSets *sets);
/* The highest number given by a task that an element named, whether it was taken or not. */
extern int64 sckpt_sets_highest_id(SckptSets *sets, int task);

#endif							/* SCKPT_SET_H */
