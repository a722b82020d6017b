/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * buf: a pool of aligned buffers for direct I/O.
 *
 * Buffers are page-aligned, in size classes (powers of two from 4 KiB to
 * 4 MiB). Returned buffers are kept up to a bound and handed out again, the
 * most recently used first; beyond it they go back to the system.
 * Thread-safe throughout.
 */
#ifndef QCOW2FS_IO_BUF_H
#define QCOW2FS_IO_BUF_H

#include <stddef.h>

#define BUF_ALIGN 4096u
#define BUF_MAX_BYTES (4u << 20)

/* A buffer of at least len_bytes (1 .. BUF_MAX_BYTES), contents undefined. NULL: out of memory. */
void *buf_get(size_t len_bytes);
/* Gives it back; len_bytes as it was asked for. NULL is allowed. */
void buf_put(void *buf, size_t len_bytes);
/* Frees everything that is kept but not in use (memory given back when idle). */
void buf_trim(void);

/* Test hook: the n-th buf_get() from now (1 = next) fails; 0: none. */
void buf_fail_nth(unsigned long n);

#endif
