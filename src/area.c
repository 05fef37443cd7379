/*-------------------------------------------------------------------------
 *
 * area.c
 *		The dynamic shared memory of this process's state stores, and the
 *		cluster-wide account that bounds it.
 *
 * The area.  One DSA area per process, made when something is first taken
 * and given up when the last store has released everything.  Its mapping is
 * pinned, so neither the end nor the abort of a transaction unmaps it; the
 * area itself is not, so it goes when the process does.
 *
 * DSA takes segments of doubling size from the system, and does not return
 * those that large pieces have left.  So the area's limit is set before each
 * allocation: segments then take little more than what is counted.  What
 * one store has released while others live stays with the process for reuse.
 *
 * The account.  Whatever is taken is added to sckpt_shared->state_bytes
 * before it is allocated, and subtracted again when that exceeds
 * stream_ckpt.state_memory.  A setting lowered below what is used stops
 * growth and nothing else.  A process gives back its share when it exits;
 * one that dies without exit callbacks takes the server's shared memory with
 * it, account included.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/ipc.h"
#include "utils/memutils.h"

#include "area.h"
#include "settings.h"
#include "shared.h"

/* Least bytes by which segments may exceed what is counted. */
#define MIN_SLACK_BYTES ((Size) 2 * 1024 * 1024)

static dsa_area *area = NULL;
static Size process_bytes = 0;	/* our share of sckpt_shared->state_bytes */
static bool exit_registered = false;
static bool exiting = false;

static uint64
limit_bytes(void)
{
	return (uint64) sckpt_state_memory * 1024;
}

static void
give_back(Size bytes)
{
	process_bytes -= bytes;
	pg_atomic_sub_fetch_u64(&sckpt_shared->state_bytes, bytes);
}

/* From here on nothing is ours any more: the segments are detached after us. */
static void
give_back_at_exit(int code, Datum arg)
{
	give_back(process_bytes);
	exiting = true;
}

static void
open_area(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	/* Named like the main lock: numbers of tranches are never given back. */
	area = dsa_create(sckpt_shared->lock->tranche);
	dsa_pin_mapping(area);
	MemoryContextSwitchTo(old);
}

/* Allocate what is already counted. */
static dsa_pointer
allocate(Size bytes)
{
	uint64		limit = limit_bytes();
	uint64		used = pg_atomic_read_u64(&sckpt_shared->state_bytes);
	Size		budget = process_bytes + (limit > used ? limit - used : 0);
	Size		slack = budget / 16 + MIN_SLACK_BYTES;

	if (area == NULL)
		open_area();

	/* Fragmentation may need more slack: the account decides, not this. */
	for (;; slack *= 2)
	{
		dsa_pointer pointer;

		dsa_set_size_limit(area, budget + slack);
		pointer = dsa_allocate_extended(area, bytes, DSA_ALLOC_HUGE | DSA_ALLOC_NO_OOM);
		if (DsaPointerIsValid(pointer) || slack / 4 > budget + bytes)
			return pointer;
	}
}

dsa_pointer
sckpt_area_take(Size bytes)
{
	dsa_pointer pointer;

	if (exiting)
		return InvalidDsaPointer;
	if (!exit_registered)
	{
		before_shmem_exit(give_back_at_exit, 0);
		exit_registered = true;
	}

	process_bytes += bytes;
	if (pg_atomic_add_fetch_u64(&sckpt_shared->state_bytes, bytes) > limit_bytes())
	{
		give_back(bytes);
		return InvalidDsaPointer;
	}
	PG_TRY();
	{
		pointer = allocate(bytes);
	}
	PG_CATCH();
	{
		give_back(bytes);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (!DsaPointerIsValid(pointer))
		give_back(bytes);
	return pointer;
}

void *
sckpt_area_address(dsa_pointer pointer)
{
	return dsa_get_address(area, pointer);
}

void
sckpt_area_release(dsa_pointer pointer, Size bytes)
{
	if (exiting)
		return;
	dsa_free(area, pointer);
	give_back(bytes);
}

bool
sckpt_area_close(Size bytes)
{
	if (exiting)
		return true;
	if (bytes != process_bytes)
		return false;
	if (area != NULL)
		dsa_detach(area);
	area = NULL;
	give_back(bytes);
	return true;
}

void
sckpt_area_report_full(Size bytes)
{
	uint64		used = pg_atomic_read_u64(&sckpt_shared->state_bytes);
	uint64		needed = used + bytes;
	uint64		ample = (needed + needed / 4) / (1024 * 1024) + 1;	/* MB */

	if (needed <= limit_bytes())
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not extend the state of a pipeline"),
				 errdetail("The system has no dynamic shared memory for " UINT64_FORMAT " kB more.",
						   ((uint64) bytes + 1023) / 1024)));
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("could not extend the state of a pipeline"),
			 errdetail(UINT64_FORMAT " kB are in use in the cluster, and " UINT64_FORMAT " kB more are needed.",
					   used / 1024, ((uint64) bytes + 1023) / 1024),
			 errhint("Raise \"stream_ckpt.state_memory\" to at least " UINT64_FORMAT " kB.",
					 ample * 1024)));
}
