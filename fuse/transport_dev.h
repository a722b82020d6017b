/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * transport_dev: requests that arrive through /dev/fuse, received by the reactor itself, or
 * by a few threads where large writes are to be copied, or small reads can be answered without it.
 *
 * libfuse mounts and unmounts; the protocol is ours, because its session would put a
 * thread and a hand-off before each request, and because a large write shall keep the
 * buffer that it arrived in (its payload is page-aligned there).
 */
#ifndef QCOW2FS_FUSE_TRANSPORT_DEV_H
#define QCOW2FS_FUSE_TRANSPORT_DEV_H

#include <stdbool.h>

struct ops;
struct reactor;
struct transport_dev;
struct transport_uring;

struct transport_dev_params {
	struct ops *ops;
	struct reactor *reactor;
	struct transport_uring *ring; /* to be offered to the kernel; NULL: none */
	const char *mount_words;      /* the -o list for libfuse and the kernel */
	unsigned nb_threads;
	unsigned nb_helpers; /* so many may receive beside the reactor; 0: nor instead of it */
	bool writeback_cache;
	bool debug;      /* print every request */
	bool allow_root; /* all may come, but only root and the server's user get in */
};

#define TRANSPORT_DEV_THREADS 8u

/* The reactor runs. Returns 0 or -errno; libfuse's complaints have been logged. */
int transport_dev_create(const struct transport_dev_params *params,
			 struct transport_dev **ret_transport);
/* Mounts. Returns 0, or -EIO after a complaint has been logged. */
int transport_dev_mount(struct transport_dev *transport, const char *mountpoint);
/*
 * Starts to receive, and the threads. They end when the file system has been unmounted; the last
 * one makes ended_fd (an eventfd) readable. Returns 0 or -errno.
 */
int transport_dev_start(struct transport_dev *transport, int ended_fd);
/* Waits for the threads. */
void transport_dev_join(struct transport_dev *transport);
/* Unmounts if that has not happened, closes, frees. No thread runs any more. NULL is allowed. */
void transport_dev_destroy(struct transport_dev *transport);

#endif
