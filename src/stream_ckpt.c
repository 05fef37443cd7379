/*-------------------------------------------------------------------------
 *
 * stream_ckpt.c
 *		Loading the library.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "hook.h"
#include "launcher.h"
#include "segment.h"
#include "settings.h"
#include "shared.h"
#include "stream.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	sckpt_settings_init();
	if (!process_shared_preload_libraries_in_progress)
		return;

	sckpt_segment_keep_for_recovery();
	sckpt_shared_init();
	sckpt_hook_init();
	sckpt_stream_init();
	if (!IsBinaryUpgrade)
		sckpt_launcher_register();
}
