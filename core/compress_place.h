/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * compress_place: where compressed clusters go: one behind the other, across host clusters
 * where those are contiguous. Each host cluster's refcount is the number of descriptors that
 * touch it, and one more for the placer on the one that it will go on filling, so that nobody
 * else reuses it meanwhile; a crash leaks that one at most.
 */
#ifndef QCOW2FS_CORE_COMPRESS_PLACE_H
#define QCOW2FS_CORE_COMPRESS_PLACE_H

#include "core/writer.h"

struct placer {
	struct image *image;
	struct co_mutex mutex;
	uint64_t refs_max; /* descriptors per host cluster */
	uint64_t position; /* where the next one goes, 0: into a cluster of its own */
	uint64_t nb_here;  /* descriptors in the host cluster of `position` */
};

/* One guest cluster of a call. */
struct piece {
	uint64_t host_off;
	uint32_t len_bytes; /* 0: does not compress */
};

void placer_init(struct placer *placer, struct image *image);
/* Drops the placer's reference on the host cluster that it was filling. */
void coroutine_fn placer_let_go(struct placer *placer);

/*
 * Places all pieces (I1). What has got no place when it fails, has no length any more. 0 or
 * -errno.
 */
int coroutine_fn placer_place(struct placer *placer, struct piece *pieces, unsigned nb);
/* I12: nothing points to these pieces. */
void coroutine_fn placer_give_back(struct placer *placer, const struct piece *pieces, unsigned nb);

#endif
