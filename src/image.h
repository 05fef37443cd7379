/*-------------------------------------------------------------------------
 *
 * image.h
 *		The hash of bytes.
 *
 * In the manner of wyhash (Wang Yi, public domain): a 64 × 64 bit product folds two words at a time, and short values are read without a
 * loop.  It is never stored, but decides which task a key belongs to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_IMAGE_H
#define SCKPT_IMAGE_H

#define SCKPT_HASH_SEED	UINT64CONST(0xa0761d6478bd642f)
#define SCKPT_HASH_WORD	UINT64CONST(0xe7037ed1a0b428db)

static inline uint64
sckpt_hash_fold(uint64 a, uint64 b)
{
#ifdef HAVE_INT128
	uint128		product = (uint128) a * b;

	return (uint64) product ^ (uint64) (product >> 64);
#else
	uint64		crossed = (a >> 32) * (b & PG_UINT32_MAX) + (a & PG_UINT32_MAX) * (b >> 32);

	return (a * b) ^ ((a >> 32) * (b >> 32) + (crossed >> 32));
#endif
}

static inline uint64
sckpt_read_word(const void *bytes)
{
	uint64		word;

	memcpy(&word, bytes, sizeof(word));
	return word;
}

static inline uint64
sckpt_read_half(const void *bytes)
{
	uint32		half;

	memcpy(&half, bytes, sizeof(half));
	return half;
}

/* Go on with a hash, the first time with SCKPT_HASH_SEED. */
static inline uint64
sckpt_hash_image(uint64 hash, const unsigned char *bytes, Size len)
{
	uint64		a = 0;
	uint64		b = 0;

	hash ^= len;
	if (likely(len <= 16))
	{
		if (likely(len >= 4))
		{
			/* Its four quarters; with less than eight bytes the two ends, twice. */
			Size		inner = (len >> 3) << 2;

			a = sckpt_read_half(bytes) << 32 | sckpt_read_half(bytes + inner);
			b = sckpt_read_half(bytes + len - 4) << 32 | sckpt_read_half(bytes + len - 4 - inner);
		}
		else if (len > 0)
			a = (uint64) bytes[0] << 16 | (uint64) bytes[len >> 1] << 8 | bytes[len - 1];
	}
	else
	{
		Size		left;

		for (left = len; left > 16; left -= 16, bytes += 16)
			hash = sckpt_hash_fold(sckpt_read_word(bytes) ^ SCKPT_HASH_WORD, sckpt_read_word(bytes + 8) ^ hash);
		a = sckpt_read_word(bytes + left - 16);
		b = sckpt_read_word(bytes + left - 8);
	}
	return sckpt_hash_fold(a ^ SCKPT_HASH_WORD, b ^ hash);
}

static inline uint32
sckpt_hash_end(uint64 hash)
{
	return (uint32) (hash ^ (hash >> 32));
}

#endif							/* SCKPT_IMAGE_H */
