/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * unmount: detaching a mount point, for the server itself and for --unmount, which
 * returns when the image is released: everything is synced first, so that a failure
 * is told while the mount is still there, then the mount is detached, and the
 * server's end is awaited.
 */
#ifndef QCOW2FS_FUSE_UNMOUNT_H
#define QCOW2FS_FUSE_UNMOUNT_H

#include "fuse/options.h"

#include <errno.h>

/*
 * Whether an error of a system call on a mount point means that its server is gone. Right after
 * a server was killed, requests under way are aborted (ECONNABORTED), later ones not accepted.
 */
static inline bool mountpoint_is_stale(int err)
{
	return err == ENOTCONN || err == ECONNABORTED;
}

/*
 * Unmounts by system call, or through fusermount3 where that is not permitted. With
 * lazy, at once and even while in use. Returns 0, -EBUSY, or another -errno.
 */
int mountpoint_detach(const char *mountpoint, bool lazy);

/* What --unmount does. Returns the exit status; complaints have been logged. */
enum exit_status unmount_run(const struct options *options);

#endif
