/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * write: guest data to host clusters. For the files of core/ that write on behalf of a
 * guest request: they hold resize_lock for reading, are between io_begin() and
 * io_end(), and have called writer_begin_data().
 */
#ifndef QCOW2FS_CORE_WRITE_H
#define QCOW2FS_CORE_WRITE_H

#include "core/writer.h"

/* Writes [guest_off, guest_off + len_bytes). 0 or -errno. */
int coroutine_fn write_range(struct writer *writer, uint64_t guest_off, const uint8_t *buf,
			     size_t len_bytes);

/* The same with zeros, where they are not read already. */
int coroutine_fn write_zeros(struct writer *writer, uint64_t guest_off, uint64_t len_bytes);

enum zero_mode {
	ZERO_KEEP, /* host clusters stay, marked zero */
	ZERO_FREE, /* host clusters are given back */
	ZERO_DROP, /* the same, and nobody reads there: what a backing file holds may show */
};
/*
 * Makes any range read as zeros: whole units by their entries, the rest by writing. Defined in
 * discard.c. 0 or -errno.
 */
int coroutine_fn zero_range(struct writer *writer, uint64_t guest_off, uint64_t len_bytes,
			    enum zero_mode mode);

/*
 * Gives the clusters of [guest_off, guest_off + len_bytes) host clusters of their own and copies
 * what they read as. The caller holds their range in writer->in_flight; both ends are
 * cluster-aligned and within one L2 table. *ret_len_bytes is how far it got. 0 or -errno.
 */
int coroutine_fn write_copy_clusters(struct writer *writer, uint64_t guest_off, uint64_t len_bytes,
				     uint64_t *ret_len_bytes);

/* Reads through the chain, zeros beyond the virtual size. *ret_zero: all of it is zeros, and
 * buf is undefined. Defined in read.c. 0 or -errno. */
int coroutine_fn read_for_copy(struct image *image, uint64_t guest_off, uint8_t *buf,
			       size_t len_bytes, bool *ret_zero);

#endif
