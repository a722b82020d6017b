/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * zeros: an area of zeros that answers point to.
 *
 * The same few pages of memory stand in it over and over, so that their copies come out of the
 * CPU's cache. They are not the kernel's own zero page, which an untouched mapping would show: the
 * device's copy takes the slow way to that one, page by page and under the lock of the address
 * space.
 */
#ifndef QCOW2FS_FUSE_ZEROS_H
#define QCOW2FS_FUSE_ZEROS_H

/* Length of the area. */
#define ZEROS_BYTES (1u << 20)

/* Maps the area, for reading only. 0 or -errno. */
int zeros_map(const char **ret_zeros);
/* NULL is allowed. */
void zeros_unmap(const char *zeros);

#endif
