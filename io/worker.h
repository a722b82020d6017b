/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * worker: threads for CPU work (inflate, zstd, ciphers, large copies) and for
 * system calls that block. FIFO; a job runs to its end.
 */
#ifndef QCOW2FS_IO_WORKER_H
#define QCOW2FS_IO_WORKER_H

#include "io/co.h"

#include <stdbool.h>

struct worker_pool;

/* Threads are started at the first job, at most `nb_threads`. Returns 0 or -errno. */
int worker_pool_create(unsigned nb_threads, struct worker_pool **ret_pool);
/* Waits for running jobs, ends the threads. NULL is allowed. */
void worker_pool_destroy(struct worker_pool *pool);

/* How many threads it may have; 0 for NULL. [any thread] */
unsigned worker_pool_threads(const struct worker_pool *pool);

/* A job: embedded in its owner. done() runs on the worker thread, after fn(); NULL: fn() disposes
 * of the job. */
struct worker_job {
	struct worker_job *next;
	void (*fn)(void *arg);
	void *arg;
	void (*done)(struct worker_job *job);
};
/* [any thread] */
void worker_submit(struct worker_pool *pool, struct worker_job *job);
/*
 * Does that if a thread is free for it, and another one for CPU work: for system calls that may
 * block for long. Tells whether it has. [any thread]
 */
bool worker_try_submit(struct worker_pool *pool, struct worker_job *job);

/*
 * Runs fn(arg) on a worker of the caller's reactor while the caller is parked;
 * inline when the reactor has no workers.
 */
void coroutine_fn worker_run(void (*fn)(void *arg), void *arg);

#endif
