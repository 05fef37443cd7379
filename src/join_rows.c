/*-------------------------------------------------------------------------
 *
 * join_rows.c
 *		The rows of a join, by their images and by their keys.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "join_private.h"

static inline Size
row_bytes(MinimalTuple tuple)
{
	return ROW_HEADER + tuple->t_len - SCKPT_ENTRY_HEADER;
}

/* ---- Keys ---- */

bool
sckpt_join_take_key(SckptStreamJoin *join, int side, Datum *values, bool *nulls)
{
	for (int i = 0; i < join->key->ncolumns; i++)
	{
		int			column = join->sides[side].keys[i] - 1;

		if (nulls[column])
			return false;
		join->key_values[i] = values[column];
		join->key_nulls[i] = false;
	}
	return true;
}

uint32
sckpt_join_key_hash(SckptStreamJoin *join)
{
	return sckpt_group_key_hash(join->key, join->key_values, join->key_nulls);
}

SckptRef
sckpt_join_find_list(SckptStreamJoin *join, uint32 hash, bool add)
{
	SckptProbe	probe;
	SckptRef	ref;

	for (ref = sckpt_state_probe(join->lists, hash, &probe); ref != SCKPT_NO_REF; ref = sckpt_state_probe_next(&probe))
	{
		if (sckpt_group_key_equal(join->key, (char *) list_at(join, ref) + LIST_HEADER, join->key_values, join->key_nulls))
			return ref;
	}
	if (!add)
		return SCKPT_NO_REF;
	ref = sckpt_state_insert(join->lists, hash, LIST_HEADER - SCKPT_ENTRY_HEADER +
							 sckpt_group_key_size(join->key, LIST_HEADER, join->key_values, join->key_nulls));
	sckpt_group_key_store(join->key, (char *) list_at(join, ref) + LIST_HEADER, join->key_values, join->key_nulls);
	return ref;
}

static void
drop_list(SckptStreamJoin *join, SckptRef ref)
{
	sckpt_group_key_load(join->key, (char *) list_at(join, ref) + LIST_HEADER, join->key_values, join->key_nulls);
	sckpt_state_remove(join->lists, ref, LIST_HEADER - SCKPT_ENTRY_HEADER +
					   sckpt_group_key_size(join->key, LIST_HEADER, join->key_values, join->key_nulls));
}

/* ---- Times ---- */

int64
sckpt_join_due(SckptJoinSide *side, const Datum *values, const bool *nulls)
{
	int64		due;

	if (side->due == 0)
		return SCKPT_NEVER;
	if (nulls[side->due - 1])
		return DT_NOBEGIN;		/* it matches nothing at all */
	due = DatumGetInt64(values[side->due - 1]);
	return TIMESTAMP_NOT_FINITE(due) ? SCKPT_NEVER : add_time(due, side->delay);
}

int64
sckpt_join_forget_time(SckptStreamJoin *join, SckptJoinRow *row)
{
	return row->touched == DT_NOBEGIN ? SCKPT_NEVER : add_time(row->touched, join->query->ttl);
}

/* ---- Rows ---- */

uint32
sckpt_join_row_hash(int side, MinimalTuple tuple)
{
	return sckpt_hash_end(sckpt_hash_fold(sckpt_flat_hash(tuple) ^ side, SCKPT_HASH_WORD));
}

SckptRef
sckpt_join_find_row(SckptStreamJoin *join, uint32 hash, int side, MinimalTuple tuple)
{
	SckptProbe	probe;
	SckptRef	ref;

	for (ref = sckpt_state_probe(join->operator.state, hash, &probe); ref != SCKPT_NO_REF; ref = sckpt_state_probe_next(&probe))
	{
		SckptJoinRow *row = row_at(join, ref);

		if (row->side == side && sckpt_flat_equal(tuple_of(row), tuple))
			break;
	}
	return ref;
}

SckptRef
sckpt_join_add_row(SckptStreamJoin *join, uint32 hash, int side, MinimalTuple tuple, int64 due, SckptRef list)
{
	SckptRef	ref = sckpt_state_insert(join->operator.state, hash, row_bytes(tuple));
	SckptJoinRow *row = row_at(join, ref);
	SckptJoinList   *head = list_at(join, list);

	row->side = side;
	row->list = list;
	row->next = head->first[side];
	if (row->next != SCKPT_NO_REF)
		row_at(join, row->next)->prev = ref;
	head->first[side] = ref;
	memcpy(tuple_of(row), tuple, tuple->t_len);
	row->touched = DT_NOBEGIN;
	row->timer.at = SCKPT_NEVER;
	if (join->timers && due != SCKPT_NEVER)
		sckpt_timers_add(join->timers, ref, due);
	return ref;
}

void
sckpt_join_remove(SckptOperator *operator, bool elements, SckptRef ref)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	SckptJoinRow *row = row_at(join, ref);
	SckptJoinList   *head = list_at(join, row->list);
	SckptRef	list = row->list;

	if (join->timers)
		sckpt_timers_remove(join->timers, ref);
	sckpt_join_weigh(join, row, 0);
	if (row->next != SCKPT_NO_REF)
		row_at(join, row->next)->prev = row->prev;
	if (row->prev != SCKPT_NO_REF)
		row_at(join, row->prev)->next = row->next;
	else
		head->first[row->side] = row->next;
	sckpt_state_remove(operator->state, ref, row_bytes(tuple_of(row)));
	if (head->first[0] == SCKPT_NO_REF && head->first[1] == SCKPT_NO_REF)
		drop_list(join, list);
}
