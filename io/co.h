/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * co: stackful coroutines, the switch and the stacks. Scheduling is the
 * reactor's (reactor.h); waiting for one another is co_sync's.
 *
 * Model: a coroutine belongs to one reactor for life and runs on that
 * reactor's thread only. Stacks come from a fixed pool; each has a guard page
 * below it, so that an overflow faults instead of corrupting a neighbour. A
 * coroutine is never killed: it ends by returning from its function.
 *
 * A function marked coroutine_fn may yield. After calling one, everything that
 * other coroutines can change must be read again.
 */
#ifndef QCOW2FS_IO_CO_H
#define QCOW2FS_IO_CO_H

#include <stddef.h>

#define coroutine_fn

#define CO_STACK_BYTES (64u << 10)

struct co;
struct co_pool;
struct reactor;

/*
 * Makes a pool of `nb_stacks` coroutines with stacks of `stack_bytes` (a
 * multiple of the page size) for one reactor. Address space is reserved at
 * once; memory is used as stacks are first touched. Returns 0 or -errno.
 */
int co_pool_create(struct reactor *reactor, unsigned nb_stacks, size_t stack_bytes,
		   struct co_pool **ret_pool);

/* Frees the pool. No coroutine of it may be alive. NULL is allowed. */
void co_pool_destroy(struct co_pool *pool);

/* Number of coroutines of the pool that have been started and not yet returned. */
unsigned co_pool_alive(const struct co_pool *pool);

/*
 * Takes a stack from the pool and prepares it to run fn(arg); it runs at the
 * first co_resume(). Returns NULL when the pool is exhausted.
 */
struct co *co_create(struct co_pool *pool, void (*fn)(void *arg), void *arg);

/*
 * Switches from the scheduler (not from a coroutine) to `co`; returns when it
 * yields or ends. When it has ended, its stack is back in the pool.
 */
void co_resume(struct co *co);

/*
 * Returns control to the scheduler until somebody calls reactor_wake() on this
 * coroutine. Only from within a coroutine.
 */
void coroutine_fn co_yield (void);

/* The running coroutine, NULL outside of one. Any thread. */
struct co *co_self(void);

/* The reactor that a coroutine belongs to. */
struct reactor *co_reactor(const struct co *co);

/* Link and flag for the reactor's ready queue and the waiters of co_sync. A
 * coroutine is in one queue at a time. Owner: the scheduler's queue that holds it. */
struct co_link {
	struct co *next;
	unsigned char ready; /* in the ready queue */
};
struct co_link *co_link(struct co *co);

#endif
