/*-------------------------------------------------------------------------
 *
 * set_order.c
 *		The order of a set's elements, for aggregates that are its first value
 *		(min() and max()).
 *
 * Only the first elements are kept in order, in a tree: as many as it takes to be done with most changes.  All others come after the last in the tree; for a new
 * one that does, too, a single comparison says so.  When the tree has become empty, the first ones of the others are looked for, which takes a walk over all of
 * them; since their number is in proportion to all, that is few steps for each element that has gone since the last time.
 *
 * The tree is a treap: a binary tree in the order of the values, in which no element's priority is above its parent's, where an
 * element's priority is a hash of its reference.  So its shape depends on nothing that came before, and it is about as deep as a balanced one.  Values that
 * the order holds to be equal follow each other by their image.
 *
 * Elements know their parents, so that one is taken out without a comparison: that must not fail.  What compares, and may raise an error, declares the
 * tree unbuilt meanwhile; an unbuilt tree is made anew, of the set's list, when the first value is asked for.  So are those of groups that were restored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"

#include "group.h"
#include "set_private.h"

#define TREE_ELEMENTS	2048	/* at least, of those that there are, when a tree is made; up to twice as many later */
#define TREE_SHARE		64		/* of all elements, for larger sets */

static inline SckptElementLinks *
links_of(SckptSets *sets, SckptRef ref)
{
	return (SckptElementLinks *) ((char *) element_at(sets, ref) + ELEMENT_LINKS);
}

/* Is a to be above b? */
static inline bool
is_above(SckptRef a, SckptRef b)
{
	uint32		x = murmurhash32(a);
	uint32		y = murmurhash32(b);

	return x != y ? x > y : a > b;
}

static int
compare(SckptSets *sets, SckptRef a, SckptRef b)
{
	SckptElement *left = element_at(sets, a);
	SckptElement *right = element_at(sets, b);
	SetColumns *set = &sets->sets[left->set];
	Datum		x;
	Datum		y;
	bool		x_null;
	bool		y_null;
	int			order;

	load_values(sets, left, &x, &x_null);
	load_values(sets, right, &y, &y_null);
	order = ApplySortComparator(x, x_null, y, y_null, set->order);
	return order != 0 || x_null || y_null ? order : sckpt_group_compare_images(&set->key->columns[0], x, y);
}

/* Put `child`, which may be none, below `parent`; without one it is the root. */
static inline void
set_child(SckptSets *sets, SckptSetList *list, SckptRef parent, int side, SckptRef child)
{
	if (parent == SCKPT_NO_REF)
		list->root = child;
	else
		links_of(sets, parent)->children[side] = child;
	if (child != SCKPT_NO_REF)
		links_of(sets, child)->parent = parent;
}

static inline int
side_of(SckptSets *sets, SckptRef ref)
{
	SckptRef	parent = links_of(sets, ref)->parent;

	return parent != SCKPT_NO_REF && links_of(sets, parent)->children[1] == ref;
}

/* Let an element and its parent change places, so that the order stays. */
static void
rotate_up(SckptSets *sets, SckptSetList *list, SckptRef ref)
{
	SckptRef	parent = links_of(sets, ref)->parent;
	SckptRef	above = links_of(sets, parent)->parent;
	int			side = side_of(sets, ref);
	int			parent_side = side_of(sets, parent);

	set_child(sets, list, parent, side, links_of(sets, ref)->children[1 - side]);
	set_child(sets, list, ref, 1 - side, parent);
	set_child(sets, list, above, parent_side, ref);
}

/* Up to two elements are below it, of which one takes its place. */
static void
take_out(SckptSets *sets, SckptSetList *list, SckptRef ref)
{
	SckptElementLinks *links = links_of(sets, ref);

	while (links->children[0] != SCKPT_NO_REF && links->children[1] != SCKPT_NO_REF)
		rotate_up(sets, list, is_above(links->children[0], links->children[1]) ? links->children[0] : links->children[1]);
	set_child(sets, list, links->parent, side_of(sets, ref),
			  links->children[0] != SCKPT_NO_REF ? links->children[0] : links->children[1]);
	links->parent = SCKPT_SET_OUTSIDE;
	list->inside--;
}

/* The first element of the tree (side 0), or the last (1). */
static SckptRef
outermost(SckptSets *sets, SckptSetList *list, int side)
{
	SckptRef	ref = list->root;

	while (ref != SCKPT_NO_REF && links_of(sets, ref)->children[side] != SCKPT_NO_REF)
		ref = links_of(sets, ref)->children[side];
	return ref;
}

static inline uint32
tree_elements(uint64 elements)
{
	return Max(TREE_ELEMENTS, elements / TREE_SHARE);
}

void
sckpt_set_order_insert(SckptSets *sets, SckptRef ref)
{
	SckptElement *element = element_at(sets, ref);
	SckptSetList *list = list_of(sets, element->group, element->set);
	SckptElementLinks *links = links_of(sets, ref);
	SckptRef	root = list->root;
	SckptRef	last;
	SckptRef	parent = SCKPT_NO_REF;
	int			side = 0;

	links->parent = SCKPT_SET_OUTSIDE;
	if (root == SCKPT_SET_UNBUILT)
		return;
	if (root == SCKPT_NO_REF && list->outside > 0)
	{
		list->outside++;
		return;
	}
	last = outermost(sets, list, 1);
	list->root = SCKPT_SET_UNBUILT;
	if (list->outside > 0 && compare(sets, ref, last) > 0)
	{
		list->root = root;
		list->outside++;
		return;
	}
	for (SckptRef at = root; at != SCKPT_NO_REF; at = links_of(sets, at)->children[side])
	{
		parent = at;
		side = compare(sets, ref, at) > 0;
	}
	list->root = root;
	links->children[0] = links->children[1] = SCKPT_NO_REF;
	set_child(sets, list, parent, side, ref);
	while (links->parent != SCKPT_NO_REF && is_above(ref, links->parent))
		rotate_up(sets, list, ref);
	list->inside++;
	if (list->inside > 2 * tree_elements((uint64) list->inside + list->outside))
	{
		take_out(sets, list, outermost(sets, list, 1));
		list->outside++;
	}
}

void
sckpt_set_order_remove(SckptSets *sets, SckptRef ref)
{
	SckptElement *element = element_at(sets, ref);
	SckptSetList *list = list_of(sets, element->group, element->set);

	if (list->root == SCKPT_SET_UNBUILT)
		return;
	if (links_of(sets, ref)->parent == SCKPT_SET_OUTSIDE)
		list->outside--;
	else
		take_out(sets, list, ref);
}

static int
compare_refs(const void *a, const void *b, void *arg)
{
	return compare(arg, *(const SckptRef *) a, *(const SckptRef *) b);
}

/* The first elements in order, palloc'd; *all: how many there are, of which *n were taken. */
static SckptRef *
first_elements(SckptSets *sets, SckptSetList *list, uint64 *n, uint64 *all)
{
	SckptRef   *refs;
	uint64		wanted;
	bool		bounded = false;

	*n = *all = 0;
	for (SckptRef ref = list->first; ref != SCKPT_NO_REF; ref = element_at(sets, ref)->next)
	{
		links_of(sets, ref)->parent = SCKPT_SET_OUTSIDE;
		*all += element_at(sets, ref)->count != 0;
		CHECK_FOR_INTERRUPTS();
	}
	wanted = tree_elements(*all);
	refs = palloc_extended(2 * wanted * sizeof(SckptRef), MCXT_ALLOC_HUGE);
	for (SckptRef ref = list->first; ref != SCKPT_NO_REF; ref = element_at(sets, ref)->next)
	{
		CHECK_FOR_INTERRUPTS();
		if (element_at(sets, ref)->count == 0 || (bounded && compare(sets, ref, refs[wanted - 1]) > 0))
			continue;
		refs[(*n)++] = ref;
		if (*n == 2 * wanted)
		{
			qsort_interruptible(refs, *n, sizeof(SckptRef), compare_refs, sets);
			*n = wanted;
			bounded = true;
		}
	}
	qsort_interruptible(refs, *n, sizeof(SckptRef), compare_refs, sets);
	*n = Min(*n, wanted);
	return refs;
}

/* Make the tree of the first elements in order, along its right edge. */
static void
build(SckptSets *sets, SckptSetList *list)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_ckpt order of a set", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SckptRef	last = SCKPT_NO_REF;
	SckptRef   *refs;
	uint64		n;
	uint64		all;

	list->root = SCKPT_SET_UNBUILT;
	refs = first_elements(sets, list, &n, &all);
	list->root = SCKPT_NO_REF;
	list->inside = (uint32) n;
	list->outside = (uint32) (all - n);
	for (uint64 i = 0; i < n; i++)
	{
		SckptElementLinks *links = links_of(sets, refs[i]);
		SckptRef	below = SCKPT_NO_REF;

		for (; last != SCKPT_NO_REF && is_above(refs[i], last); last = links_of(sets, last)->parent)
			below = last;
		links->children[1] = SCKPT_NO_REF;
		set_child(sets, list, refs[i], 0, below);
		set_child(sets, list, last, 1, refs[i]);
		links->parent = last;
		last = refs[i];
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

SckptRef
sckpt_set_order_first(SckptSets *sets, SckptRef group, int set)
{
	SckptSetList *list = list_of(sets, group, set);
	SckptRef	ref;

	if (list->root == SCKPT_SET_UNBUILT || (list->root == SCKPT_NO_REF && list->outside > 0))
		build(sets, list);
	ref = outermost(sets, list, 0);
	if (ref != SCKPT_NO_REF && element_at(sets, ref)->count < 0)
		elog(ERROR, "aggregate input was taken back more often than it was there");
	return ref;
}
