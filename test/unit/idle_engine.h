/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * idle_engine: an engine without files, for tests of what stands above it.
 *
 * It counts what the reactor asks of it. Its clock is the machine's, or a
 * virtual one that advances only by the time-outs of wait(): then timers fire in
 * the order and at the instants that the test computes, without waiting for real. What is
 * watched is readable at readable_ns of virtual time.
 */
#ifndef QCOW2FS_TEST_IDLE_ENGINE_H
#define QCOW2FS_TEST_IDLE_ENGINE_H

#include "io/engine.h"
#include "io/reactor.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

struct idle_engine {
	struct engine engine;
	bool virtual_clock;
	uint64_t virtual_ns;
	uint64_t look_ns; /* of virtual time, which a wait() for nothing takes */
	uint64_t readable_ns;
	struct engine_watch *watch;
	pthread_mutex_t lock;
	pthread_cond_t woken_cond;
	bool woken;
	atomic_ulong nb_wakes, nb_waits, nb_looks; /* looks: the waits that waited for nothing */
	_Atomic uint64_t last_timeout_ns;
};

static inline uint64_t idle_now_ns(struct engine *engine)
{
	struct idle_engine *idle = (struct idle_engine *)engine;
	if (idle->virtual_clock)
		return idle->virtual_ns;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline int idle_attach(struct engine *engine, struct reactor *reactor)
{
	return 0;
}

static inline void idle_watch(struct engine *engine, struct engine_watch *watch)
{
	((struct idle_engine *)engine)->watch = watch;
}

/* Whether what is watched is readable before the time is out. */
static inline bool idle_watched(struct idle_engine *idle, uint64_t timeout_ns)
{
	struct engine_watch *watch = idle->watch;
	uint64_t readable_ns =
		idle->virtual_ns > idle->readable_ns ? idle->virtual_ns : idle->readable_ns;
	if (!watch || readable_ns - idle->virtual_ns > timeout_ns)
		return false;
	idle->watch = NULL;
	idle->virtual_ns = readable_ns;
	watch->ready(watch);
	return true;
}

static inline void idle_wait(struct engine *engine, uint64_t timeout_ns)
{
	struct idle_engine *idle = (struct idle_engine *)engine;
	idle->nb_looks += timeout_ns == 0;
	idle->last_timeout_ns = timeout_ns;
	idle->nb_waits++; /* who sees it sees the others */
	if (idle->virtual_clock && timeout_ns && idle_watched(idle, timeout_ns))
		return;
	pthread_mutex_lock(&idle->lock);
	if (idle->virtual_clock && timeout_ns != UINT64_MAX) {
		idle->virtual_ns += timeout_ns ? timeout_ns : idle->look_ns;
	} else if (timeout_ns == UINT64_MAX) {
		while (!idle->woken)
			pthread_cond_wait(&idle->woken_cond, &idle->lock);
	} else if (timeout_ns > 0) {
		uint64_t due_ns = idle_now_ns(engine) + timeout_ns;
		struct timespec due = {.tv_sec = (time_t)(due_ns / 1000000000u),
				       .tv_nsec = (long)(due_ns % 1000000000u)};
		int err = 0;
		while (!idle->woken && err == 0)
			err = pthread_cond_clockwait(&idle->woken_cond, &idle->lock,
						     CLOCK_MONOTONIC, &due);
	}
	idle->woken = false;
	pthread_mutex_unlock(&idle->lock);
}

static inline void idle_wake(struct engine *engine)
{
	struct idle_engine *idle = (struct idle_engine *)engine;
	idle->nb_wakes++;
	pthread_mutex_lock(&idle->lock);
	idle->woken = true;
	pthread_cond_signal(&idle->woken_cond);
	pthread_mutex_unlock(&idle->lock);
}

static inline void idle_destroy(struct engine *engine)
{
	free(engine);
}

static const struct engine_ops idle_ops = {
	.name = "idle",
	.attach = idle_attach,
	.wait = idle_wait,
	.wake = idle_wake,
	.watch = idle_watch,
	.now_ns = idle_now_ns,
	.destroy = idle_destroy,
};

/* Owned by the reactor that it is given to. */
static inline struct idle_engine *idle_engine_create(bool virtual_clock)
{
	struct idle_engine *idle = calloc(1, sizeof(*idle));
	if (!idle)
		abort();
	idle->engine.ops = &idle_ops;
	idle->virtual_clock = virtual_clock;
	idle->virtual_ns = 1000; /* not 0, so that "never" and "at the start" differ */
	pthread_mutex_init(&idle->lock, NULL);
	pthread_cond_init(&idle->woken_cond, NULL);
	return idle;
}

#endif
