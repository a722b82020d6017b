/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_lock: the lock bytes by which programs that use qcow2 images keep out of
 * each other's way, as QEMU sets them.
 *
 * All are open-file-description locks for reading, one byte long. Byte 100 + i says
 * "I use permission i", byte 200 + i "I do not share permission i".
 */
#ifndef QCOW2FS_IO_FILE_LOCK_H
#define QCOW2FS_IO_FILE_LOCK_H

#include "io/file.h"

/*
 * Takes the bytes of `lock` on the open file, or none: then class ERROR_LOCKED says
 * what to do. A file system without locks counts as success. Returns 0 or -errno.
 */
int file_lock_take(int fd, enum file_lock lock, struct error **reterr);

/* Drops them all. Closing alone is not enough: a ring may keep the file open for a while. */
void file_lock_drop(int fd);

#endif
