/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * unmount: detaching a mount point, for the server itself and for --unmount.
 */
#ifndef QCOW2FS_FUSE_UNMOUNT_H
#define QCOW2FS_FUSE_UNMOUNT_H

#include <stdbool.h>

/*
 * Unmounts by system call, or through fusermount3 where that is not permitted. With
 * lazy, at once and even while in use. Returns 0, -EBUSY, or another -errno.
 */
int mountpoint_detach(const char *mountpoint, bool lazy);

#endif
