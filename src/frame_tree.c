/*-------------------------------------------------------------------------
 *
 * frame_tree.c
 *		The order of a partition's rows.
 *
 * A treap, as in set_order.c: its shape depends on nothing but the rows, and it is about as deep as a balanced tree.  A row's place is looked for before anything
 * changes, as comparing may raise an error; what changes the tree then never fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "frame_private.h"

/* Is a to be above b? */
static inline bool
is_above(SckptRef a, SckptRef b)
{
	uint32		x = murmurhash32(a);
	uint32		y = murmurhash32(b);

	return x != y ? x > y : a > b;
}

static inline int
side_of(SckptFrame *frame, SckptRef ref)
{
	SckptRef	parent = frame_row(frame, ref)->parent;

	return parent != SCKPT_NO_REF && frame_row(frame, parent)->children[1] == ref;
}

/* Put `child`, which may be none, below `parent`; without one it is the root. */
static inline void
set_child(SckptFrame *frame, FramePartition *partition, SckptRef parent, int side, SckptRef child)
{
	if (parent == SCKPT_NO_REF)
		partition->root = child;
	else
		frame_row(frame, parent)->children[side] = child;
	if (child != SCKPT_NO_REF)
		frame_row(frame, child)->parent = parent;
}

/* Let a row and its parent change places, so that the order stays. */
static void
rotate_up(SckptFrame *frame, FramePartition *partition, SckptRef ref)
{
	SckptRef	parent = frame_row(frame, ref)->parent;
	SckptRef	above = frame_row(frame, parent)->parent;
	int			side = side_of(frame, ref);
	int			parent_side = side_of(frame, parent);

	set_child(frame, partition, parent, side, frame_row(frame, ref)->children[1 - side]);
	set_child(frame, partition, ref, 1 - side, parent);
	set_child(frame, partition, above, parent_side, ref);
}

SckptRef
sckpt_frame_tree_find(SckptFrame *frame, FramePartition *partition, int *side)
{
	SckptRef	parent = sckpt_frame_tree_end(frame, partition, 1);

	/* Most rows come after all others. */
	*side = 1;
	if (parent == SCKPT_NO_REF)
		return parent;
	frame_load(frame, frame_row(frame, parent), &frame->other);
	if (frame_compare(frame, &frame->row, &frame->other) > 0)
		return parent;
	for (SckptRef at = partition->root; at != SCKPT_NO_REF; at = frame_row(frame, at)->children[*side])
	{
		parent = at;
		frame_load(frame, frame_row(frame, at), &frame->other);
		*side = frame_compare(frame, &frame->row, &frame->other) > 0;
	}
	return parent;
}

void
sckpt_frame_tree_insert(SckptFrame *frame, FramePartition *partition, SckptRef ref, SckptRef parent, int side)
{
	FrameRow   *row = frame_row(frame, ref);

	row->children[0] = row->children[1] = SCKPT_NO_REF;
	set_child(frame, partition, parent, side, ref);
	while (row->parent != SCKPT_NO_REF && is_above(ref, row->parent))
		rotate_up(frame, partition, ref);
}

void
sckpt_frame_tree_remove(SckptFrame *frame, FramePartition *partition, SckptRef ref)
{
	FrameRow   *row = frame_row(frame, ref);

	while (row->children[0] != SCKPT_NO_REF && row->children[1] != SCKPT_NO_REF)
		rotate_up(frame, partition, is_above(row->children[0], row->children[1]) ? row->children[0] : row->children[1]);
	set_child(frame, partition, row->parent, side_of(frame, ref),
			  row->children[0] != SCKPT_NO_REF ? row->children[0] : row->children[1]);
}

SckptRef
sckpt_frame_tree_end(SckptFrame *frame, FramePartition *partition, int side)
{
	SckptRef	ref = partition->root;

	while (ref != SCKPT_NO_REF && frame_row(frame, ref)->children[side] != SCKPT_NO_REF)
		ref = frame_row(frame, ref)->children[side];
	return ref;
}

SckptRef
sckpt_frame_tree_next(SckptFrame *frame, SckptRef ref, int side)
{
	SckptRef	at = frame_row(frame, ref)->children[side];

	if (at != SCKPT_NO_REF)
	{
		while (frame_row(frame, at)->children[1 - side] != SCKPT_NO_REF)
			at = frame_row(frame, at)->children[1 - side];
		return at;
	}
	for (at = ref; frame_row(frame, at)->parent != SCKPT_NO_REF; at = frame_row(frame, at)->parent)
	{
		if (side_of(frame, at) == 1 - side)
			return frame_row(frame, at)->parent;
	}
	return SCKPT_NO_REF;
}
