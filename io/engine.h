/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine: the table of operations that performs I/O for a reactor. Four of
 * them: engine_uring, engine_threads (where io_uring is not permitted),
 * engine_sync (tools, fuzzers) and the simulated disk of the tests.
 *
 * An engine is used by one reactor's thread, except wake(). submit() never
 * blocks for long: it either completes the request at once (calling
 * io_complete() before it returns) or queues it; wait() hands queued requests
 * to the kernel and reaps completions. Errors and short transfers are reported
 * as the kernel gives them: repeating them is the file layer's business.
 */
#ifndef QCOW2FS_IO_ENGINE_H
#define QCOW2FS_IO_ENGINE_H

#include "io/worker.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct engine;
struct file;
struct reactor;

enum io_op {
	IO_READ,
	IO_WRITE,
	IO_FLUSH, /* fdatasync */
	IO_PUNCH, /* deallocate a range, keep the size; EOPNOTSUPP is possible */
	IO_ZERO,  /* range reads as zeros afterwards; may extend; EOPNOTSUPP is possible */
	IO_ALLOC, /* reserve host space for a range; may extend the file; EOPNOTSUPP is possible */
	IO_TRUNCATE, /* set the size to host_off */
};

/* What a request carries, for the simulated disk, traces and messages. */
enum io_tag {
	IO_TAG_HEADER,
	IO_TAG_L1,
	IO_TAG_L2,
	IO_TAG_REFTABLE,
	IO_TAG_REFBLOCK,
	IO_TAG_DATA,
	IO_TAG_COW, /* data copied on write */
	IO_TAG_SNAPSHOT,
	IO_TAG_BITMAP,
	IO_TAG_COUNT
};

/*
 * What follows a read at once, on the thread that made it, while the data is in its cache. `data`
 * is all of it, in a buffer that was used last where one could be had; not in the request's.
 */
struct io_sequel {
	void (*fn)(void *arg, const void *data); /* [any thread] */
	void *arg;
	bool ran; /* otherwise the kernel made the call, or there was not all of the data */
};

struct io_req {
	struct io_req *next; /* the engine's while in flight */
	struct file *file;
	enum io_op op;
	enum io_tag tag;
	uint64_t host_off;
	uint64_t len_bytes;      /* PUNCH, ZERO, ALLOC; for READ and WRITE the sum of iov */
	const struct iovec *iov; /* stays valid until completion */
	int nb_iov;
	struct io_sequel *sequel;         /* NULL: none */
	int64_t result;                   /* bytes (READ, WRITE), 0, or -errno */
	void (*done)(struct io_req *req); /* on the reactor's thread, in the scheduler or inside
					     submit() */
	struct worker_job job;            /* the engine's, where a worker executes the request */
	void *priv;                       /* the engine's */
};

/* A descriptor that somebody waits for. Embedded in its owner, and the engine's until ready(). */
struct engine_watch {
	int fd;
	void (*ready)(struct engine_watch *watch); /* on the reactor's thread, in the scheduler */
};

struct engine_ops {
	const char *name; /* "io_uring", "threads", "sync", "sim" */
	/* Called once by the reactor before anything else. 0 or -errno. */
	int (*attach)(struct engine *engine, struct reactor *reactor);
	/* The file may be used from now on / no more (nothing of it is in flight). */
	int (*add_file)(struct engine *engine, struct file *file);
	void (*remove_file)(struct engine *engine, struct file *file);
	void (*submit)(struct engine *engine, struct io_req *req);
	/*
	 * Submits what is queued, reaps completions, and waits for at least one
	 * completion or a wake() when timeout_ns is not 0 (UINT64_MAX: for ever).
	 */
	void (*wait)(struct engine *engine, uint64_t timeout_ns);
	/* Makes a wait() under way, or the next one, return at once. [any thread] */
	void (*wake)(struct engine *engine);
	/*
	 * Calls watch->ready() once, in a wait(), when the descriptor is readable or broken. One at
	 * a time. It stays open as long as the engine. NULL: this engine cannot.
	 */
	void (*watch)(struct engine *engine, struct engine_watch *watch);
	/* Monotonic time in nanoseconds. */
	uint64_t (*now_ns)(struct engine *engine);
	void (*destroy)(struct engine *engine);
};

/* Every engine's structure begins with this. */
struct engine {
	const struct engine_ops *ops;
};

/* Delivers a result; the engine must not touch req afterwards. */
static inline void io_complete(struct io_req *req, int64_t result)
{
	req->result = result;
	req->done(req);
}

/* Each returns 0 or -errno (-EPERM or -ENOSYS where io_uring is not permitted). */
int engine_uring_create(struct engine **ret_engine);
int engine_threads_create(unsigned nb_threads, struct engine **ret_engine);
int engine_sync_create(struct engine **ret_engine);

/*
 * The engine for "auto", "uring" or "threads" (auto: io_uring where permitted, else
 * threads). *ret_why gets a static text when auto fell back, else NULL.
 */
int engine_create_by_name(const char *name, struct engine **ret_engine, const char **ret_why);

#endif
