/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine_call: requests as plain system calls, for every engine.
 *
 * Where a call cannot block (tmpfs) or need not (pages that are cached), making
 * it at once is several times cheaper than any queue: io_uring hands such calls
 * to a kernel worker. So engines ask io_call_try() first.
 */
#ifndef QCOW2FS_IO_ENGINE_CALL_H
#define QCOW2FS_IO_ENGINE_CALL_H

#include "io/engine.h"

/* Copies up to this size run on the reactor; larger ones would hold up everybody else. */
#define IO_CALL_INLINE_BYTES (64u << 10)

/*
 * Executes the request, however long it takes, or reads for its sequel and runs that; returns what
 * io_complete() takes. [any thread]
 */
int64_t io_call(const struct io_req *req);

/*
 * Executes and completes the request if that cannot block for long. Returns
 * false, with nothing done, when it is to take the engine's asynchronous path.
 */
bool io_call_try(struct io_req *req);

/* CLOCK_MONOTONIC in nanoseconds. [any thread] */
uint64_t io_now_ns(void);

/*
 * How often the process was forked on the way to this one. Threads and rings do
 * not survive a fork: an engine that sees the number change makes new ones.
 */
unsigned io_fork_generation(void);

#endif
