/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * compress: compressed clusters ("Compressed Clusters Descriptor"): reading, inflating
 * on the worker pool, and a small cache of what was inflated last.
 *
 * A request begins all its clusters, then decodes, then waits, so that reads and
 * inflations of many clusters overlap. Two requests for one cluster inflate it
 * once: the second waits for the first.
 */
#ifndef QCOW2FS_CORE_COMPRESS_H
#define QCOW2FS_CORE_COMPRESS_H

#include "io/file.h"
#include "io/reactor.h"
#include "io/worker.h"

#include <stdatomic.h>

struct image;
struct inflated;
struct codec;

struct inflate_cache {
	struct inflated *newest, *oldest;
	unsigned nb, nb_max;
	unsigned nb_used;     /* of them, by requests under way */
	struct codec *codecs; /* decoders that no job uses now */
};

/* nb_max clusters are kept when nobody uses them. Nothing is allocated. */
void inflate_cache_init(struct inflate_cache *cache, unsigned nb_max);
/* Nothing of it may be in use. */
void inflate_cache_finish(struct inflate_cache *cache);
/* Forgets what nobody uses: memory given back when idle. */
void inflate_cache_trim(struct inflate_cache *cache);
/* The descriptor's host clusters are being freed: forget what was inflated from it. */
void inflate_cache_forget(struct inflate_cache *cache, uint64_t descriptor);

/* A descriptor's bits for the host offset: with large clusters fewer than a file may need. */
static inline unsigned compress_offset_bits(unsigned cluster_bits)
{
	return 62 - (cluster_bits - 8);
}
/* Host range of a descriptor (bits 0-61 of the L2 entry). */
void compress_decode_descriptor(unsigned cluster_bits, uint64_t descriptor, uint64_t *ret_host_off,
				uint32_t *ret_len_bytes);

/* One cluster of one request. Owned by the coroutine that began it. */
struct inflate_op {
	struct image *image;
	struct inflated *cluster;
	struct codec *codec; /* for the job */
	bool mine;           /* this request reads and inflates it; otherwise another one does */
	struct file_io io;
	struct iovec iov;
	uint32_t in_skip, in_bytes; /* the compressed bytes within the buffer */
	bool cut_off;               /* the file ends before the descriptor's range does */
	struct worker_job job;
	struct wakeup wakeup;
	struct co *waiter;
	atomic_int state; /* running, awaited, done */
};

/* Finds the cluster or starts reading it. 0 or -ENOMEM. */
int coroutine_fn inflate_begin(struct inflate_op *op, struct image *image, uint64_t descriptor);
/* When the bytes are there, hands them to a worker. To be called on all before inflate_wait(). */
void coroutine_fn inflate_decode(struct inflate_op *op);
/* Waits for the contents: a whole cluster in *ret_data until inflate_end(). 0 or -errno. */
int coroutine_fn inflate_wait(struct inflate_op *op, const uint8_t **ret_data);
/* Required for each op that inflate_begin() succeeded on, after the other two. */
void inflate_end(struct inflate_op *op);

#endif
