/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * rebase: recording another backing file in an image ("Backing file name", "Backing file
 * format name"). What the guest sees is the caller's business.
 */
#ifndef QCOW2FS_CORE_REBASE_H
#define QCOW2FS_CORE_REBASE_H

#include "core/image.h"

/*
 * Records `name` (NULL: no backing file) and its format (NULL: none), by one write of one
 * sector, so that name and format always belong together. The chain that is open stays
 * as it is: to be followed by image_close(). -ENOSPC when the first cluster has no room
 * for it. 0 or -errno with *reterr.
 */
int coroutine_fn rebase_record(struct image *image, const char *name, const char *format,
			       struct error **reterr);

#endif
