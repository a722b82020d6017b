/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * unmount: what --unmount does, which returns when the image is released: everything is synced
 * first, so that a failure is told while the mount is still there, then the mount is detached, and
 * the server's end is awaited.
 */
#ifndef QCOW2FS_FUSE_UNMOUNT_H
#define QCOW2FS_FUSE_UNMOUNT_H

#include "fuse/options.h"

/* What --unmount does. Returns the exit status; complaints have been logged. */
enum exit_status unmount_run(const struct options *options);

#endif
