/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * transport_uring: requests that arrive through FUSE over io_uring, on the reactor's own
 * ring: no thread of ours stands between the kernel and the coroutine that serves a
 * request, and answers go out with the loop round's one system call. Reads that need no
 * coroutine arrive on the rings of lanes (lanes.h), and are answered there.
 *
 * It lives beside a transport_dev, which mounts, negotiates, and keeps what the kernel
 * sends through the device in any case (INIT, FORGET, INTERRUPT, notifications).
 */
#ifndef QCOW2FS_FUSE_TRANSPORT_URING_H
#define QCOW2FS_FUSE_TRANSPORT_URING_H

#include "fuse/request.h"

struct engine;
struct transport_uring;

struct transport_uring_params {
	struct ops *ops;
	struct reactor *reactor;
	uint64_t busy_ns;  /* the reactor's; 0: there are no lanes either */
	bool reads_beside; /* reads may be answered beside the reactor */
	bool confined;     /* no ring takes more than it needs */
	bool debug;        /* print every request */
	bool allow_root;   /* all may come, but only root and the server's user get in */
};

/*
 * Why the kernel offers no FUSE over io_uring, as a text that says what to do, or NULL when
 * it does. Static.
 */
const char *transport_uring_obstacle(void);

/* Is the kernel's side mature enough to be taken unasked? */
bool transport_uring_is_trusted(void);

/* Makes room in the engine, before its reactor runs. 0 or -errno. */
int transport_uring_prepare(struct engine *engine);

/* The reactor runs on a prepared engine. Returns 0 or -errno (-ENXIO: it got no ring). */
int transport_uring_create(const struct transport_uring_params *params,
			   struct transport_uring **ret_ring);

/* The longest payload: what a request may read or write at most, and INIT must say. */
unsigned transport_uring_payload_bytes(const struct transport_uring *ring);

/*
 * The FUSE device on which INIT will come. False, with a message: commands cannot go to it. Then
 * INIT must not accept the ring, for everybody would wait for it for ever. [not the reactor]
 */
bool transport_uring_set_device(struct transport_uring *ring, int fd);

/*
 * The kernel has just accepted the ring in INIT; `device` takes its notifications. Everybody waits
 * until the ring is complete. If it cannot be, the kernel goes on with the device. [any thread]
 */
void transport_uring_start(struct transport_uring *ring, struct transport *device);

/* Do requests come through the ring? [any thread] */
bool transport_uring_is_active(const struct transport_uring *ring);

/* How many threads answer reads beside the reactor. [any thread] */
unsigned transport_uring_nb_lanes(const struct transport_uring *ring);

/* After the unmount: waits for what the kernel holds, frees. NULL is allowed. [not the reactor] */
void transport_uring_destroy(struct transport_uring *ring);

#endif
