/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * alloc: host clusters: finding free ones, growing the refcount structures, giving
 * back ("Host cluster management").
 */
#ifndef QCOW2FS_CORE_ALLOC_H
#define QCOW2FS_CORE_ALLOC_H

#include "core/writer.h"

/*
 * Takes at least nb_min (>= 1) and at most nb_max contiguous free clusters: their refcount
 * is 1 in the cache when this returns (I1: the flush stores it before any pointer).
 * *ret_zero tells that the host range has never been written and reads as zeros.
 * Errors: -EIO (the image contradicts itself), -EFBIG, or the host's. 0 or -errno.
 */
int coroutine_fn alloc_clusters(struct writer *writer, uint64_t nb_min, uint64_t nb_max,
				uint64_t *ret_host_off, uint64_t *ret_nb, bool *ret_zero);

/* I12: gives clusters back that no entry has ever pointed to; nothing is in flight on them. */
void coroutine_fn alloc_undo(struct writer *writer, uint64_t host_off, uint64_t nb);

/* Remembers clusters of refcount 0 for reuse. The caller holds alloc_mutex. */
void alloc_remember_free(struct writer *writer, uint64_t first, uint64_t nb);
/* Clusters from `first` on have refcount 0 again: they are to be found. The same. */
void alloc_scan_again(struct writer *writer, uint64_t first);

/* Writes zeros over one cluster that is to become a table. 0 or -errno. */
int coroutine_fn alloc_zero_cluster(struct writer *writer, uint64_t host_off, enum io_tag tag);

#endif
