/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ops: what the server does with requests, however they arrive.
 *
 * Threads: ops_dispatch() is called by receiving threads, lanes, or the reactor. What needs the
 * tree alone (names, attributes, opens) is answered there; everything that touches an image runs as
 * a coroutine on the reactor, and large replies are copied out by a worker. A direct write whose
 * range somebody may have in the page cache passes through one more thread, the invalidator, before
 * it is answered.
 *
 * Invariants:
 *   O1  Every request that ops_dispatch() took is answered exactly once.
 *   O2  After ops_drain() has returned no request is under way and all later ones
 *       are refused, so that the images may be closed.
 *   O3  When a change is answered, no cached page holds older data: of the same file where
 *       the kernel does not see to it (direct writes), and of all others that show these bytes.
 *   O4  Files that show the same bytes are not open for writing at the same time.
 */
#ifndef QCOW2FS_FUSE_OPS_H
#define QCOW2FS_FUSE_OPS_H

#include "fuse/options.h"
#include "fuse/request.h"
#include "fuse/tree.h"

struct ops;

struct ops_params {
	struct reactor *reactor;
	struct tree *tree;
	enum cache_mode cache;
	bool sync;                /* every write is durable when it returns */
	bool grow, shrink;        /* writing past the end enlarges; truncating cuts off */
	bool discard_keeps_space; /* punched holes read as zeros but give nothing back */
};

/* Returns 0 or -errno. */
int ops_create(const struct ops_params *params, struct ops **ret_ops);
/* After ops_drain(). NULL is allowed. */
void ops_destroy(struct ops *ops);

/* A request with nothing but `ops` set; NULL: out of memory. [any thread] */
struct request *request_get(struct ops *ops);
/* Gives back one that was not dispatched. [any thread] */
void request_drop(struct request *request);
/*
 * Takes the request over. It does not yield. Returns whether it was a read for which this thread
 * needed nobody else. [receiving threads, lanes, the reactor]
 */
bool ops_dispatch(struct request *request);

/*
 * Would ops_dispatch() answer this read at once on another thread than the reactor, as far as can
 * be told without reading? [reactor]
 */
bool ops_fits_beside(const struct request *request);

/* How long no request came while no file was open; 0 while one is. [any thread] */
uint64_t ops_idle_ns(const struct ops *ops);

/* Refuses new requests, waits for those under way, ends the helpers. [not the reactor] */
void ops_drain(struct ops *ops);

#endif
