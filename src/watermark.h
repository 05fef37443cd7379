/*-------------------------------------------------------------------------
 *
 * watermark.h
 *		How streams reckon event time (what their options say of it:
 *		sckpt_stream_event_time(), stream.h).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_WATERMARK_H
#define SCKPT_WATERMARK_H

/* The watermark after an event time: `delay` less, but finite.  SCKPT_NO_WATERMARK stays that. */
extern int64 sckpt_watermark_of(int64 event_time, int64 delay);

#endif							/* SCKPT_WATERMARK_H */
