/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * transport_dev: requests that arrive through /dev/fuse and libfuse's session,
 * received by a few threads of our own.
 *
 * libfuse mounts, negotiates and takes messages apart; the loop around it is ours,
 * because a large write shall keep the buffer that it arrived in (its payload
 * is page-aligned there) while the thread goes on with another one.
 */
#ifndef QCOW2FS_FUSE_TRANSPORT_DEV_H
#define QCOW2FS_FUSE_TRANSPORT_DEV_H

#include <stdbool.h>

struct ops;
struct transport_dev;
struct transport_uring;

struct transport_dev_params {
	struct ops *ops;
	struct transport_uring *ring; /* to be offered to the kernel; NULL: none */
	const char *mount_words;      /* the -o list for libfuse and the kernel */
	unsigned max_read_bytes;      /* as in mount_words, 0: not given */
	unsigned nb_threads;
	bool writeback_cache;
	bool debug; /* print every request */
};

#define TRANSPORT_DEV_THREADS 4u

/* Returns 0 or -errno; libfuse's complaints have been logged. */
int transport_dev_create(const struct transport_dev_params *params,
			 struct transport_dev **ret_transport);
/* Mounts. Returns 0, or -EIO after libfuse's complaint has been logged. */
int transport_dev_mount(struct transport_dev *transport, const char *mountpoint);
/*
 * Starts the threads. They end when the file system has been unmounted; the last one
 * makes ended_fd (an eventfd) readable. Returns 0 or -errno.
 */
int transport_dev_start(struct transport_dev *transport, int ended_fd);
/* Waits for the threads. */
void transport_dev_join(struct transport_dev *transport);
/* Unmounts if that has not happened, closes, frees. No thread runs any more. NULL is allowed. */
void transport_dev_destroy(struct transport_dev *transport);

#endif
