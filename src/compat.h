/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Differences between PostgreSQL's major versions; the only file that
 *		asks for the version.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_COMPAT_H
#define SCKPT_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "stream_ckpt needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#define sckpt_flatten_join_alias_vars(query, node) flatten_join_alias_vars(NULL, query, node)
#else
#define sckpt_flatten_join_alias_vars(query, node) flatten_join_alias_vars(query, node)
#endif

/* All of so many bytes, or an error. */
#if PG_VERSION_NUM >= 160000
#define sckpt_buffile_read(file, data, bytes) BufFileReadExact(file, data, bytes)
#else
#define sckpt_buffile_read(file, data, bytes) \
	do { \
		if (BufFileRead(file, data, bytes) != (bytes)) \
			elog(ERROR, "a temporary file ends early"); \
	} while (0)
#endif

#endif							/* SCKPT_COMPAT_H */
