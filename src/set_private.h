/*-------------------------------------------------------------------------
 *
 * set_private.h
 *		What the files of sets share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SET_PRIVATE_H
#define SCKPT_SET_PRIVATE_H

#include "utils/sortsupport.h"

#include "set.h"

typedef struct SckptElement
{
	SckptEntry	entry;
	int64		count;			/* or bits */
	SckptRef	group;
	SckptRef	next;			/* neighbours in the group's list, whatever their set */
	SckptRef	prev;
	uint16		set;
	/* of an ordered set, SckptElementLinks; where it is to be known, how often it was handed on (uint32); then the values: a bitmap of one or two bytes fits before the next 8 */
	char		rest[FLEXIBLE_ARRAY_MEMBER];
} SckptElement;

StaticAssertDecl(offsetof(SckptElement, count) == SCKPT_ENTRY_HEADER, "an element continues its entry");

/* In the tree of an ordered set (set_order.c). */
typedef struct SckptElementLinks
{
	SckptRef	parent;			/* SCKPT_SET_OUTSIDE: it is not in the tree */
	SckptRef	children[2];	/* those before it, and those after it */
} SckptElementLinks;

#define SCKPT_SET_OUTSIDE PG_UINT32_MAX

#define ELEMENT_LINKS INTALIGN(offsetof(SckptElement, rest))
#define ELEMENT_HANDED ELEMENT_LINKS

/* One set of each group. */
typedef struct SetColumns
{
	SckptGroupKey *key;
	bool		counted;
	bool		marked_handed;
	Size		values_offset;	/* in an element */
	SortSupportData *order;		/* of an ordered set; NULL: it is not */
} SetColumns;

struct SckptSets
{
	MemoryContext context;
	MemoryContext value_context;	/* reset after each value packed, read or merged */
	SckptState *state;
	SckptState *groups;
	Size		head_offset;
	int			nsets;
	SetColumns *sets;
	Datum	   *values;			/* of the element at hand, for drop, pack and unpack */
	bool	   *nulls;
	MemoryContext known_context;	/* NULL: not reading */
	struct known_hash *known;
	int64		highest_ids[SCKPT_MAX_TASKS];	/* read, of each task */
};

static inline SckptElement *
element_at(SckptSets *sets, SckptRef ref)
{
	return (SckptElement *) sckpt_state_address(sets->state, ref);
}

/* How often an element was handed on. */
static inline uint32
element_handed(SckptSets *sets, SckptElement *element)
{
	return sets->sets[element->set].marked_handed ? *(uint32 *) ((char *) element + ELEMENT_HANDED) : 0;
}

static inline SckptSetHead *
head_of(SckptSets *sets, SckptRef group)
{
	return (SckptSetHead *) ((char *) sckpt_state_address(sets->groups, group) + sets->head_offset);
}

static inline SckptSetList *
list_of(SckptSets *sets, SckptRef group, int set)
{
	return &head_of(sets, group)->lists[set];
}

static inline char *
element_values(SckptSets *sets, SckptElement *element)
{
	return (char *) element + sets->sets[element->set].values_offset;
}

static inline void
load_values(SckptSets *sets, SckptElement *element, Datum *values, bool *nulls)
{
	sckpt_group_key_load(sets->sets[element->set].key, element_values(sets, element), values, nulls);
}

/* set_order.c: the tree of an ordered set.  An element's count is to be other than 0 from now on; an ERROR leaves the set without the element, and unbuilt. */
extern void sckpt_set_order_insert(SckptSets *sets, SckptRef ref);
/* Its count is 0 from now on, or it goes. Never fails. */
extern void sckpt_set_order_remove(SckptSets *sets, SckptRef ref);
/* The first element with a count other than 0; SCKPT_NO_REF: there is none. */
extern SckptRef sckpt_set_order_first(SckptSets *sets, SckptRef group, int set);

#endif							/* SCKPT_SET_PRIVATE_H */
