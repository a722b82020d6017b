/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_open: what opening a host file consists of. For io/ alone.
 */
#ifndef QCOW2FS_IO_FILE_OPEN_H
#define QCOW2FS_IO_FILE_OPEN_H

#include "io/file.h"

#include <sys/stat.h>

/*
 * Opens the regular file or block device that the name leads to, with the limits
 * that `params` puts on the way there (file_resolve.c). Never blocks on the object and
 * opens nothing of another kind. Returns a descriptor, -ENOTSUP for another kind of
 * object, -EXDEV for a name that leaves its directory, or -errno.
 */
int file_resolve(const struct file_open_params *params);

/*
 * Finds out how the file is to be accessed and sets path, align and the descriptor's
 * O_DIRECT (file_probe.c). is_block_device and size_bytes are set already.
 */
void file_probe(struct file *file, bool no_direct);

/*
 * fstat() by its own system call, where glibc's is one that also takes names: a confined
 * process may not use that one. 0 or -errno.
 */
int file_stat(int fd, struct stat *ret_stat);

/* Opens what `original` has open once more, for reading, on the same open file description. */
int file_open_shared(const struct file *original, struct file **ret_file);

#endif
