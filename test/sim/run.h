/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * run: guest operations on a simulated image, watched by the model.
 *
 * One process has one simulated disk under one reactor (struct sim); runs follow one
 * another on it. A run opens the image, lets its clients perform the operations,
 * reads everything back, and closes. Clients are coroutines: client i of n performs
 * operations i, i + n, i + 2n, ... in this order.
 */
#ifndef QCOW2FS_TEST_SIM_RUN_H
#define QCOW2FS_TEST_SIM_RUN_H

#include "test/sim/cell.h"
#include "test/sim/disk.h"
#include "test/sim/model.h"

#include "core/image.h"
#include "io/reactor.h"

struct sim {
	struct sim_disk *disk;
	struct reactor *reactor;
};

/* Ends the process on failure: nothing can be tested without. */
void sim_create(struct sim *sim);
void sim_destroy(struct sim *sim);

enum guest_kind {
	GUEST_WRITE,
	GUEST_PACK, /* a write of whole clusters, compressed */
	GUEST_READ,
	GUEST_ZERO,
	GUEST_ZERO_KEEP, /* keeps the host clusters */
	GUEST_DISCARD,
	GUEST_ALLOCATE,
	GUEST_RESIZE, /* to off bytes */
	GUEST_FLUSH,
	GUEST_REOPEN, /* one client only */
	GUEST_CLOSE,  /* while others are under way; nothing starts after it */
	GUEST_SLEEP,  /* off nanoseconds: background work gets its turn */
};

struct guest_op {
	enum guest_kind kind;
	uint64_t off, len;
};

#define RUN_OPS_MAX 256u

struct run {
	struct sim *sim;
	const struct cell *cell;
	struct model *model;
	struct guest_op ops[RUN_OPS_MAX];
	unsigned nb_ops;
	unsigned nb_clients; /* 0: 1 */
	uint64_t l2_cache_bytes;
	bool may_fail; /* faults are injected: operations may fail */
	bool no_final_read;

	/* results */
	int results[RUN_OPS_MAX]; /* of each operation, 0 or -errno */
	int open_result, close_result;
	unsigned nb_failed; /* operations, and the close, that reported an error */
	/* the run's own */
	struct image *image;
	struct packer *packer;
	bool flush_failed;
};

/* Performs the run on the files that are on the disk. Failures go to the verdict. */
void run_execute(struct run *run);

/* Reads the whole disk inside a coroutine, judging every sector. */
int coroutine_fn run_read_all(struct run *run, struct image *image);

/* "write 0+512, flush, ..."; static buffer. */
const char *run_describe(const struct guest_op *ops, unsigned nb_ops);

#endif
