/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * mount_words: what libfuse and the kernel are told about a mount.
 */
#ifndef QCOW2FS_FUSE_MOUNT_WORDS_H
#define QCOW2FS_FUSE_MOUNT_WORDS_H

#include "fuse/options.h"

/* The -o list for libfuse; the caller frees it. NULL: no memory. */
char *mount_words(const struct options *options, bool writable);

#endif
