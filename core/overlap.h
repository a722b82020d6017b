/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * overlap: which host clusters hold metadata. Consulted before every host write of
 * guest data and at every allocation, so that a damaged or crafted image cannot make
 * us write data over tables.
 *
 * Sparse: a hash of pages, each a bitmap of neighbouring clusters; memory is
 * proportional to the number of tables.
 */
#ifndef QCOW2FS_CORE_OVERLAP_H
#define QCOW2FS_CORE_OVERLAP_H

#include "io/co.h"

#include <stdbool.h>
#include <stdint.h>

struct image;

struct overlap {
	struct overlap_page **buckets;
	unsigned nb_buckets, nb_pages;
	unsigned cluster_bits;
};

void overlap_init(struct overlap *map, unsigned cluster_bits);
void overlap_finish(struct overlap *map);

/* Marks the clusters that [host_off, host_off + len_bytes) touches. 0 or -ENOMEM. */
int overlap_add(struct overlap *map, uint64_t host_off, uint64_t len_bytes);
void overlap_remove(struct overlap *map, uint64_t host_off, uint64_t len_bytes);
/* Does the range touch metadata? */
bool overlap_hits(const struct overlap *map, uint64_t host_off, uint64_t len_bytes);

/*
 * Fills the map from the image's header, L1 tables, refcount table, snapshots and
 * bitmap directory. Reads tables of the size of L1 and refcount table. -EUCLEAN when two
 * of them lie on one another or one lies beyond the end of the file, which bounds time and
 * memory by the file's size; -EFBIG when the snapshots' L1 tables take more than 1 GiB. On
 * failure the map is empty. 0 or -errno.
 */
int coroutine_fn overlap_build(struct overlap *map, struct image *image);

#endif
