/*-------------------------------------------------------------------------
 *
 * join_wait.c
 *		Rows of a join that wait until they are due, instead of being kept.
 *
 * A row that is due, since nothing that is yet to come can match it, need not be kept.  So a row that will soon be due need not be found by
 * others either, if it meets all of them then: it waits with the others of its side, one behind the other in pieces of the store's memory, until the
 * watermark has passed it, meets what the other side has, and is gone.  Only one side waits at a time, that of which more rows come.  Where the other
 * side comes from a stage below, whose news come at barriers, all wait for the barrier.  There, nobody waits any longer: what is not due is
 * taken in like any other row.
 *
 * A row of the other side that is due may still be what one of those matches that came before it was.  So it stays until they have met it: each piece knows the watermark at
 * which its first row came.
 *
 * Which rows will be due by the next barrier, nobody knows.  The watermark is expected to get on as far as between the last two; where it does not stop there, or
 * there were none, FURTHER times as far as it has by now.  So nothing waits where rows come as they are made and are due long after the next checkpoint,
 * which would only take longer; in a backlog nearly everything does.
 *
 * Whose an error is, is not known when one that waited raises it.  But where rows are tried one by one, to find that out (careful.h), none waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "join_private.h"

#define FURTHER 4

/* The store's memory: a little at first, then pieces that have their own place there. */
#define FIRST_PIECE_BYTES	((Size) 32 * 1024)
#define NEXT_PIECE_BYTES	((Size) 1000 * 1024)

/* Of a piece, its rows follow. */
typedef struct WaitingPiece
{
	Size		bytes;
	Size		used;			/* with this */
	TimestampTz arrived;		/* the watermark when the first of them came, or before */
	int64		due;			/* the latest of them */
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

/* Let the side wait of which more rows come; while nobody waits. */
static void
choose_side(SckptJoinWait *wait)
{
	if (wait->can[0] && wait->can[1])
		wait->side = wait->came[1] > wait->came[0] ? 1 : 0;
	else
		wait->side = wait->can[0] ? 0 : wait->can[1] ? 1 : -1;
}

bool
sckpt_join_prepare_wait(SckptStreamJoin *join)
{
	SckptJoinWait *wait = &join->wait;

	wait->side = -1;
	wait->watermark = wait->reached = wait->expected = DT_NOBEGIN;
	if (join->timers == NULL || join->sides[0].forgets || join->sides[1].forgets)
		return false;
	for (int i = 0; i < 2; i++)
		wait->can[i] = join->sides[i].feed && join->sides[i].due;
	choose_side(wait);
	return wait->side >= 0;
}

/* The watermark has got so far, at a barrier or between two. */
static void
expect(SckptJoinWait *wait, TimestampTz watermark, bool barrier)
{
	int64		gain;

	if (TIMESTAMP_NOT_FINITE(watermark))
		return;
	wait->watermark = watermark;
	if (wait->reached == DT_NOBEGIN)
		wait->reached = watermark;
	gain = watermark - wait->reached;
	if (barrier)
	{
		wait->gain = gain;
		wait->reached = watermark;
		gain = 0;
	}
	if (gain <= wait->gain + wait->gain / 2)
		wait->expected = add_time(wait->reached, Max(wait->gain, gain));
	else
		wait->expected = add_time(watermark, gain > PG_INT64_MAX / FURTHER ? PG_INT64_MAX : FURTHER * gain);
}

static inline WaitingPiece *
piece_at(SckptStreamJoin *join, int number)
{
	return sckpt_state_address(join->operator.state, join->wait.pieces[number]);
}

/* Room in a piece that is there, or in a new one, for a row that is due then. */
static char *
find_room(SckptStreamJoin *join, Size bytes, int64 due)
{
	SckptJoinWait *wait = &join->wait;
	WaitingPiece *piece = wait->npieces > 0 ? piece_at(join, wait->npieces - 1) : NULL;

	if (piece == NULL || piece->used + bytes > piece->bytes)
	{
		Size		size = piece == NULL ? FIRST_PIECE_BYTES : NEXT_PIECE_BYTES;

		if (wait->npieces == wait->space)
		{
			wait->space = Max(64, 2 * wait->space);
			if (wait->pieces)
				wait->pieces = repalloc_huge(wait->pieces, wait->space * sizeof(SckptRef));
			else
				wait->pieces = MemoryContextAllocHuge(join->context, wait->space * sizeof(SckptRef));
		}
		wait->pieces[wait->npieces] = sckpt_state_alloc(join->operator.state, size);
		piece = piece_at(join, wait->npieces++);
		piece->bytes = size;
		piece->used = PIECE_HEADER;
		piece->arrived = wait->watermark;
		piece->due = due;
	}
	piece->due = Max(piece->due, due);
	piece->used += bytes;
	return (char *) piece + piece->used - bytes;
}

bool
sckpt_join_wait(SckptStreamJoin *join, const SckptJoinArrival *arrival)
{
	Size		bytes = WAITING_HEADER + MAXALIGN(arrival->tuple->t_len);
	int64		due = sckpt_join_due(&join->sides[arrival->side], arrival->values, arrival->nulls);
	WaitingRow *row;

	join->wait.came[arrival->side]++;
	if (arrival->side != join->wait.side || due > join->wait.expected || due == DT_NOBEGIN || !arrival->has_key || join->undo ||
		bytes > FIRST_PIECE_BYTES - PIECE_HEADER)
		return false;
	row = (WaitingRow *) find_room(join, bytes, due);
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
		arrival->hash = row->due <= join->gone_until ? 0 : sckpt_join_row_hash(join->wait.side, arrival->tuple);
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

/* The first pieces are all that has to wait no longer, as these are through by a watermark. */
static void
settle_pieces(SckptStreamJoin *join, int count, TimestampTz watermark)
{
	SckptJoinWait *wait = &join->wait;

	Assert(join->nblock == 0);
	join->gone_until = watermark;
	for (int i = 0; i < count; i++)
	{
		WaitingPiece *piece = piece_at(join, i);

		settle_piece(join, piece);
		sckpt_state_free(join->operator.state, wait->pieces[i], piece->bytes);
	}
	join->gone_until = DT_NOBEGIN;
	wait->npieces -= count;
	memmove(wait->pieces, wait->pieces + count, wait->npieces * sizeof(SckptRef));
	if (wait->npieces == 0)
		choose_side(wait);
}

TimestampTz
sckpt_join_settle_due(SckptStreamJoin *join, TimestampTz watermark)
{
	SckptJoinWait *wait = &join->wait;
	int			count = 0;

	expect(wait, watermark, false);
	/* Those that wait for a stage below go on waiting. */
	while (join->sides[1 - wait->side].feed && count < wait->npieces && piece_at(join, count)->due <= watermark)
		count++;
	settle_pieces(join, count, watermark);
	return wait->npieces > 0 ? Min(watermark, piece_at(join, 0)->arrived) : watermark;
}

void
sckpt_join_settle(SckptOperator *operator, const SckptTimes *times)
{
	SckptStreamJoin *join = (SckptStreamJoin *) operator;

	Assert(join->undo == NULL);
	expect(&join->wait, times->watermark, true);
	settle_pieces(join, join->wait.npieces, times->watermark);
}
