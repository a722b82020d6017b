/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * stdio: what the standard descriptors are, and that their numbers stay theirs.
 */
#ifndef QCOW2FS_IO_STDIO_H
#define QCOW2FS_IO_STDIO_H

/*
 * A program that was started with a closed standard descriptor would get that number for the
 * next file that it opens: an image, into which its own messages then go. Puts something
 * into each such place that reads and writes fail on as on a closed one. To be called before
 * anything is opened. Returns 0 or -errno.
 */
int stdio_reserve(void);

/* All three become copies of fd, which is above them. */
void stdio_replace(int fd);

#endif
