/*-------------------------------------------------------------------------
 *
 * join_wait.c
 *		Rows of a join that wait for the barrier.
 *
 * A side that comes from a stage below has news at barriers only.  A row of the other side that will be due by the next one, after
 * which nothing can match it any more, need not be found before that, nor be kept after it: it waits with the others, one behind the other in
 * pieces of the store's memory, until the other side's rows are there, meets them, and is gone.
 *
 * Which rows will be due, nobody knows.  The watermark is expected to get on as far as between the last two barriers, or as far again as since the last
 * one.  So nothing waits where rows come as they are made and are due long after the next checkpoint, which would only take longer; in
 * a backlog nearly everything does.  What turns out not to be due is taken in then like any other row.
 *
 * Only where nothing can fail when a row is joined: whose an error is, is known while its row comes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/primnodes.h"
#include "utils/timestamp.h"

#include "join_private.h"

/* The store's memory: a little at first, then pieces that have their own place there. */
#define FIRST_PIECE_BYTES	((Size) 32 * 1024)
#define NEXT_PIECE_BYTES	((Size) 1000 * 1024)

/* Of a piece, its rows follow. */
typedef struct WaitingPiece
{
	Size		used;			/* with this */
} WaitingPiece;

typedef struct WaitingRow
{
	int64		due;
	uint32		key_hash;
	int32		weight;
	uint32		bytes;			/* to the next one */
	/* a MinimalTuple */
} WaitingRow;

#define PIECE_HEADER MAXALIGN(sizeof(WaitingPiece))
#define WAITING_HEADER MAXALIGN(sizeof(WaitingRow))

void
sckpt_join_prepare_wait(SckptStreamJoin *join)
{
	SckptJoinWait *wait = &join->wait;
	ListCell   *lc;

	wait->side = -1;
	wait->reached = wait->expected = DT_NOBEGIN;
	for (int i = 0; i < 2; i++)
	{
		SckptJoinSide *side = &join->sides[i];

		if (side->feed && side->due && !side->forgets && join->sides[1 - i].feed == NULL && join->timers)
			wait->side = i;
	}
	if (join->condition || join->filter || join->copies)
		wait->side = -1;
	foreach(lc, join->query->targetlist)
	{
		if (!IsA(lfirst_node(TargetEntry, lc)->expr, Var))
			wait->side = -1;
	}
}

void
sckpt_join_expect(SckptStreamJoin *join, TimestampTz watermark, bool barrier)
{
	SckptJoinWait *wait = &join->wait;
	int64		gain;

	if (watermark == DT_NOBEGIN || TIMESTAMP_NOT_FINITE(watermark))
		return;
	if (wait->reached == DT_NOBEGIN)
		wait->reached = watermark;
	gain = watermark - wait->reached;
	if (barrier)
	{
		wait->gain = gain;
		wait->reached = watermark;
		gain = 0;
	}
	wait->expected = Max(add_time(wait->reached, wait->gain), add_time(watermark, gain));
}

static inline Size
piece_bytes(int number)
{
	return number == 0 ? FIRST_PIECE_BYTES : NEXT_PIECE_BYTES;
}

static inline WaitingPiece *
piece_at(SckptStreamJoin *join, int number)
{
	return sckpt_state_address(join->operator.state, join->wait.pieces[number]);
}

/* Room in a piece that is there, or in a new one. */
static char *
find_room(SckptStreamJoin *join, Size bytes)
{
	SckptJoinWait *wait = &join->wait;
	WaitingPiece *piece = wait->npieces > 0 ? piece_at(join, wait->npieces - 1) : NULL;

	if (piece == NULL || piece->used + bytes > piece_bytes(wait->npieces - 1))
	{
		if (wait->npieces == wait->space)
		{
			wait->space = Max(64, 2 * wait->space);
			if (wait->pieces)
				wait->pieces = repalloc_huge(wait->pieces, wait->space * sizeof(SckptRef));
			else
				wait->pieces = MemoryContextAllocHuge(join->context, wait->space * sizeof(SckptRef));
		}
		wait->pieces[wait->npieces] = sckpt_state_alloc(join->operator.state, piece_bytes(wait->npieces));
		piece = piece_at(join, wait->npieces++);
		piece->used = PIECE_HEADER;
	}
	piece->used += bytes;
	return (char *) piece + piece->used - bytes;
}

bool
sckpt_join_wait(SckptStreamJoin *join, const SckptJoinArrival *arrival)
{
	Size		bytes = WAITING_HEADER + MAXALIGN(arrival->tuple->t_len);
	int64		due = sckpt_join_due(&join->sides[arrival->side], arrival->values, arrival->nulls);
	WaitingRow *row;

	if (due > join->wait.expected || !arrival->has_key || join->undo || bytes > FIRST_PIECE_BYTES - PIECE_HEADER)
		return false;
	row = (WaitingRow *) find_room(join, bytes);
	row->due = due;
	row->key_hash = arrival->key_hash;
	row->weight = arrival->weight;
	row->bytes = bytes;
	memcpy((char *) row + WAITING_HEADER, arrival->tuple, arrival->tuple->t_len);
	return true;
}

/* The rows of a piece, block by block. */
static void
settle_piece(SckptStreamJoin *join, WaitingPiece *piece)
{
	SckptJoinSide *side = &join->sides[join->wait.side];

	for (Size at = PIECE_HEADER; at < piece->used;)
	{
		WaitingRow *row = (WaitingRow *) ((char *) piece + at);
		SckptJoinArrival *arrival = &join->block[join->nblock++];

		arrival->tuple = (MinimalTuple) ((char *) row + WAITING_HEADER);
		(void) sckpt_flat_read(&side->flat, arrival->tuple, sckpt_flat_data(arrival->tuple), 0, side->desc->natts,
							   arrival->values, arrival->nulls);
		/* For looking whether it is there, and keeping it */
		arrival->hash = row->due <= join->wait.gone_until ? 0 : sckpt_join_row_hash(join->wait.side, arrival->tuple);
		arrival->key_hash = row->key_hash;
		arrival->weight = row->weight;
		arrival->side = join->wait.side;
		arrival->has_key = true;
		arrival->has_touch = false;
		at += row->bytes;
		if (join->nblock == SCKPT_JOIN_BLOCK_ROWS || at >= piece->used)
			sckpt_join_take_block(join);
		CHECK_FOR_INTERRUPTS();
	}
}

void
sckpt_join_settle(SckptOperator *operator, const SckptTimes *times)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;
	SckptJoinWait *wait = &join->wait;

	Assert(join->nblock == 0 && join->undo == NULL);
	sckpt_join_expect(join, times->watermark, true);
	wait->gone_until = times->watermark;
	for (int i = 0; i < wait->npieces; i++)
	{
		settle_piece(join, piece_at(join, i));
		sckpt_state_free(join->operator.state, wait->pieces[i], piece_bytes(i));
	}
	wait->npieces = 0;
	wait->gone_until = DT_NOBEGIN;
}
