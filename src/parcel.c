/*-------------------------------------------------------------------------
 *
 * parcel.c
 *		Bytes that one process hands over to another one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>

#include "storage/buffile.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "parcel.h"

/* What is larger goes to a file. */
#define MEMORY_BYTES (4 * 1024 * 1024)

#define FILE_NAME "parcel"

struct SckptParcel
{
	MemoryContext context;
	MemoryContextCallback callback;
	bool		owner;			/* of segment and file: it is the sender's */
	uint64		bytes;
	uint64		at;				/* the next one to be read */
	char	   *buffer;			/* while it is small; the sender's */
	Size		room;
	dsm_segment *segment;
	bool		borrowed;		/* it is the mapping of the sender, which is this process */
	BufFile    *file;			/* open in the transaction at hand */
	bool		has_file;
	FileSet		fileset;
	SckptParcelHandle handle;	/* once closed */
};

/* Called when its context goes, too, whoever deletes that. */
static void
release(void *arg)
{
	SckptParcel *parcel = arg;

	if (parcel->segment && !parcel->borrowed)
		dsm_detach(parcel->segment);
	parcel->segment = NULL;
	if (parcel->has_file && parcel->owner)
		FileSetDeleteAll(&parcel->fileset);
	parcel->has_file = false;
}

static SckptParcel *
make_parcel(MemoryContext parent, bool owner)
{
	MemoryContext context = AllocSetContextCreate(parent, "stream_ckpt parcel", ALLOCSET_SMALL_SIZES);
	SckptParcel *parcel = MemoryContextAllocZero(context, sizeof(SckptParcel));

	parcel->context = context;
	parcel->owner = owner;
	parcel->callback.func = release;
	parcel->callback.arg = parcel;
	MemoryContextRegisterResetCallback(context, &parcel->callback);
	return parcel;
}

/* ---- Sending ---- */

SckptParcel *
sckpt_parcel_create(MemoryContext parent)
{
	return make_parcel(parent, true);
}

static void
begin_file(SckptParcel *parcel)
{
	MemoryContext old = MemoryContextSwitchTo(parcel->context);

	FileSetInit(&parcel->fileset);
	parcel->has_file = true;
	parcel->file = BufFileCreateFileSet(&parcel->fileset, FILE_NAME);
	if (parcel->bytes > 0)
		BufFileWrite(parcel->file, parcel->buffer, parcel->bytes);
	if (parcel->buffer)
		pfree(parcel->buffer);
	parcel->buffer = NULL;
	MemoryContextSwitchTo(old);
}

void
sckpt_parcel_write(SckptParcel *parcel, const void *data, Size bytes)
{
	if (parcel->file == NULL && parcel->bytes + bytes > MEMORY_BYTES)
		begin_file(parcel);
	if (parcel->file)
	{
		BufFileWrite(parcel->file, (void *) data, bytes);
		parcel->bytes += bytes;
		return;
	}
	if (parcel->bytes + bytes > parcel->room)
	{
		parcel->room = Max(8192, Max(parcel->room * 2, parcel->bytes + bytes));
		if (parcel->buffer)
			parcel->buffer = repalloc(parcel->buffer, parcel->room);
		else
			parcel->buffer = MemoryContextAlloc(parcel->context, parcel->room);
	}
	memcpy(parcel->buffer + parcel->bytes, data, bytes);
	parcel->bytes += bytes;
}

static void
close_parcel(SckptParcel *parcel, SckptParcelHandle *handle)
{
	memset(handle, 0, sizeof(*handle));
	handle->bytes = parcel->bytes;
	if (parcel->bytes == 0)
		return;
	if (parcel->file == NULL)
	{
		parcel->segment = dsm_create(parcel->bytes, DSM_CREATE_NULL_IF_MAXSEGMENTS);
		if (parcel->segment)
		{
			dsm_pin_mapping(parcel->segment);
			memcpy(dsm_segment_address(parcel->segment), parcel->buffer, parcel->bytes);
			pfree(parcel->buffer);
			parcel->buffer = NULL;
			handle->segment = dsm_segment_handle(parcel->segment);
			return;
		}
		begin_file(parcel);
	}
	BufFileExportFileSet(parcel->file);
	BufFileClose(parcel->file);
	parcel->file = NULL;
	handle->file = true;
	handle->fileset = parcel->fileset;
}

void
sckpt_parcel_close(SckptParcel *parcel, SckptParcelHandle *handle)
{
	close_parcel(parcel, &parcel->handle);
	*handle = parcel->handle;
}

const SckptParcelHandle *
sckpt_parcel_handle(SckptParcel *parcel)
{
	return &parcel->handle;
}

void
sckpt_parcel_destroy(SckptParcel *parcel)
{
	/* A sender's is closed, or was by the end of its transaction. */
	if (parcel->file && !parcel->owner)
		BufFileClose(parcel->file);
	MemoryContextDelete(parcel->context);
}

/* ---- Receiving ---- */

/* The sender's worker is about to end.  Another one will do what it did. */
static void
report_gone(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("what a task has handed over is gone")));
}

SckptParcel *
sckpt_parcel_open(MemoryContext parent, const SckptParcelHandle *handle)
{
	SckptParcel *parcel = make_parcel(parent, false);

	parcel->bytes = handle->bytes;
	if (handle->segment)
	{
		parcel->segment = dsm_find_mapping(handle->segment);
		parcel->borrowed = parcel->segment != NULL;
		if (parcel->segment == NULL)
			parcel->segment = dsm_attach(handle->segment);
		if (parcel->segment == NULL)
			report_gone();
		if (!parcel->borrowed)
			dsm_pin_mapping(parcel->segment);
	}
	else if (handle->file)
	{
		MemoryContext old = MemoryContextSwitchTo(parcel->context);

		parcel->fileset = handle->fileset;
		parcel->file = BufFileOpenFileSet(&parcel->fileset, FILE_NAME, O_RDONLY, true);
		MemoryContextSwitchTo(old);
		if (parcel->file == NULL)
			report_gone();
	}
	return parcel;
}

void
sckpt_parcel_read(SckptParcel *parcel, void *data, Size bytes)
{
	if (parcel->at + bytes > parcel->bytes)
		elog(ERROR, "a parcel of " UINT64_FORMAT " bytes ends early", parcel->bytes);
	if (parcel->segment)
		memcpy(data, (char *) dsm_segment_address(parcel->segment) + parcel->at, bytes);
	else
		sckpt_buffile_read(parcel->file, data, bytes);
	parcel->at += bytes;
}

bool
sckpt_parcel_at_end(SckptParcel *parcel)
{
	return parcel->at == parcel->bytes;
}
