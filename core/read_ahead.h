/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * read_ahead: compressed clusters are inflated before a sequential reader asks for them.
 *
 * Who has read on from one cluster into the next is expected to go on. While it looks at what it
 * got, workers inflate the next ones into the cache of compress.h. Nobody waits for that, and
 * nobody hears of its failures: whoever needs such a cluster meets them again.
 *
 * Not always: where many clusters are in use, the workers have enough to do, and what is read
 * ahead would not stay in the cache until it is asked for. And a reader of pieces of a cluster
 * keeps a CPU busy, and the reactor another one: without a third, a worker only gets in their way.
 */
#ifndef QCOW2FS_CORE_READ_AHEAD_H
#define QCOW2FS_CORE_READ_AHEAD_H

#include "io/co_sync.h"
#include "io/reactor.h"

#include <stddef.h>
#include <stdint.h>

struct image;

#define READ_AHEAD_STREAMS 4

/* One reader, as far as its requests tell. Guest offsets, whole clusters. */
struct read_stream {
	uint64_t start, end; /* what it asked for last; 0, 0: nobody */
	uint64_t ahead;      /* up to here, it has been read ahead */
};

struct read_ahead {
	struct read_stream streams[READ_AHEAD_STREAMS]; /* the latest first */
	struct task task;
	uint64_t guest_off, len_bytes; /* of the task */
	unsigned nb_workers; /* 0: nothing is read ahead, as the reactor would have to do it */
	bool running;
	struct co_queue idle;
};

/*
 * [guest_off, guest_off + len_bytes) of the chain has been read through its top `image`, and some
 * of it was compressed in `layer`: what follows may be read ahead.
 */
void read_ahead_note(struct image *image, const struct image *layer, uint64_t guest_off,
		     uint64_t len_bytes);

/* Waits until nothing is being read ahead, and lets nothing more begin. */
void coroutine_fn read_ahead_finish(struct image *image);

/* Inflates what is compressed of a range within the disk. Defined in read.c. */
void coroutine_fn read_into_cache(struct image *image, uint64_t guest_off, uint64_t len_bytes);

#endif
