/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * compress_write: writing compressed clusters ("Compressed Clusters Descriptor").
 *
 * Compressed clusters are packed one behind the other (compress_place.h). Between two calls the
 * packer keeps the host cluster that it will go on filling.
 *
 * Thread model: a coroutine of the image's reactor. Several may write through one packer;
 * the clusters of a call are compressed at the same time on the reactor's workers.
 */
#ifndef QCOW2FS_CORE_COMPRESS_WRITE_H
#define QCOW2FS_CORE_COMPRESS_WRITE_H

#include "core/image.h"

struct packer;

/* `image` is open for writing, has no external data file, and outlives the packer. 0 or -errno. */
int packer_create(struct image *image, struct packer **ret_packer);
/* Drops the packer's reference. Nobody may be writing through it. NULL is allowed. */
void coroutine_fn packer_destroy(struct packer *packer);

/*
 * Writes whole clusters, compressed where that saves space: guest_off and len_bytes (at most
 * PACKER_BYTES_MAX, or one cluster) are multiples of the cluster size, except that the range may
 * end at the end of the disk. 0 or -errno.
 */
#define PACKER_BYTES_MAX (1u << 20)
int coroutine_fn packer_write(struct packer *packer, uint64_t guest_off, const void *buf,
			      size_t len_bytes);

#endif
