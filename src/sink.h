/*-------------------------------------------------------------------------
 *
 * sink.h
 *		Keeps the rows of a keyed result in an ordinary table.
 *
 * All of it runs inside the checkpoint transaction, with the pipeline's owner
 * as the current user in a security-restricted operation, an active snapshot
 * and lock_timeout set: the table's triggers, constraints, defaults, generated
 * columns and index expressions are other people's code.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SCKPT_SINK_H
#define SCKPT_SINK_H

#include "executor/tuptable.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

typedef struct SckptSink SckptSink;

/*
 * ereport(ERROR) unless a keyed result can be kept in this relation (locked by the caller): an ordinary
 * logged table (0A000 with the relkind in words and a hint otherwise), no row-level security in force for the
 * current user (0A000), no INITIALLY DEFERRED trigger or constraint (0A000, its name), not a system catalog (42501),
 * and the current user may INSERT, UPDATE, DELETE and SELECT (42501).
 * `keys`: attribute numbers of the key columns, nkeys may be 0 (a result of one row).  `existing`: not
 * made by us, so that a unique index (valid, immediate, not partial, no expressions) over exactly the key columns must be
 * there (42P10, hint: create one), NULLS NOT DISTINCT unless all keys are NOT NULL.
 */
extern void sckpt_sink_check(Relation relation, int nkeys, const AttrNumber *keys, bool existing);

/* 0A000 if a trigger or constraint of the relation is INITIALLY DEFERRED. */
extern void sckpt_sink_check_deferred(Relation relation);

/*
 * The unique index that sckpt_sink_find uses: over exactly the keys as above; or, where a key type has no btree
 * operator class, the (not unique) index on hash_record_extended(ROW(keys), 0) that
 * create_pipeline makes for such a table; InvalidOid when nkeys = 0.
 */
extern Oid	sckpt_sink_key_index(Relation relation, int nkeys, const AttrNumber *keys);

/* The index on the hash of those of the columns that can be hashed; InvalidOid: there is none. */
extern Oid	sckpt_sink_bag_index(Relation relation, int ncolumns, const AttrNumber *columns);
/*
 * Keys have come that are too long for the unique index (54000): replace it by one on a hash of the key.  For tables
 * of our own, as the current user, in the transaction at hand.  False when there is no such index any more.
 */
extern bool sckpt_sink_index_by_hash(Oid relid, int nkeys, const AttrNumber *keys);

/*
 * Lock RowExclusive, check as above, open indexes, prepare triggers; 42P10 too if the key's index is gone.
 * Close in the same subtransaction; after an error just abort that and forget the sink.  Everything is
 * kept below the current memory context.
 */
extern SckptSink *sckpt_sink_open(Oid relid, int nkeys, const AttrNumber *keys, bool existing);

/*
 * The same for rows that have no key, to delete them: columns are compared by their images, and without an index the table is scanned.
 */
extern SckptSink *sckpt_sink_open_bag(Oid relid, int ncolumns, const AttrNumber *columns);
/* Does nothing but the key's index keep two rows apart? */
extern bool sckpt_sink_is_sole_arbiter(SckptSink *sink);
/*
 * The slot to fill with the next row (tts_values and tts_isnull, all NULL at first): virtual, of the table's
 * row type, cleared by this call.  What its values point to must stay until the put or delete returns.
 */
extern TupleTableSlot *sckpt_sink_slot(SckptSink *sink);

/*
 * Attribute numbers (in order) that rows fill, the keys among them; without this call all that are not
 * generated.  On INSERT the other columns get their defaults, on UPDATE they keep their values.
 */
extern void sckpt_sink_set_columns(SckptSink *sink, int ncolumns, const AttrNumber *columns);

/*
 * Make the row in the slot the row of its key.  `hint`: where it was, or an invalid tid.  It is
 * re-checked: a live row version there with this key (the keys' equality operators, NULL = NULL), else
 * the key's index is asked.  `exists`: false promises that no row with this key is there, then it is
 * inserted without looking (23505 if the promise was wrong).  An update that changes no column is not
 * made.  Waits for rows locked by others (lock_timeout, 55P03), follows concurrent updates, inserts
 * again what was deleted.
 *
 * *tid: where the row is now.  A BEFORE trigger may have skipped it: then *tid is invalid.  With exists = false the
 * row may wait in a buffer: *tid is invalid until sckpt_sink_flush or sckpt_sink_close (or a
 * put that filled the buffer) has written it, and then set, so it must stay valid memory until
 * then; errors of indexes appear only then too.  `hint` and `tid` may be the same.
 */
extern void sckpt_sink_put(SckptSink *sink, ItemPointer hint, bool exists, ItemPointer tid);

/*
 * Rows with these hints, 16 at most, will be put or deleted, after those of the last call: a good time to fetch what they need
 * from disk and memory.
 */
#define SCKPT_SINK_AHEAD 16
extern void sckpt_sink_prefetch(SckptSink *sink, const ItemPointerData *hints, int count);

/* Delete the row of the key in the slot, if it is there; hint as above.  Returns the xid that it was written as; invalid if it was not there. */
extern TransactionId sckpt_sink_delete(SckptSink *sink, ItemPointer hint);

/* Write buffered rows. */
extern void sckpt_sink_flush(SckptSink *sink);

/* Write buffered rows, fire AFTER triggers, close everything. */
extern void sckpt_sink_close(SckptSink *sink);

#endif							/* SCKPT_SINK_H */
