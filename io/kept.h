/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * kept: the files that were opened while the server started, to be opened again later
 * without asking the file system: a confined process cannot, and what a name leads to may have
 * changed.
 *
 * What is opened again shares the first one's open file description, and with it QEMU's lock bytes:
 * it takes none of its own, and its end leaves them alone.
 */
#ifndef QCOW2FS_IO_KEPT_H
#define QCOW2FS_IO_KEPT_H

#include "io/opener.h"

struct kept;

/*
 * Remembers that `path`, which stands in `holder` (NULL: on the command line), led to `file`. 0
 * or -errno.
 */
int kept_add(struct kept **list, enum opener_role role, const struct file *holder, const char *path,
	     const struct file *file);
/* Opens it again, for reading. 0, -ENOENT when it was never opened, or -errno. */
int kept_open(const struct kept *list, enum opener_role role, const struct file *holder,
	      const char *path, struct file **ret_file);
void kept_free(struct kept *list);

#endif
