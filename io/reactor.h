/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * reactor: one thread that runs coroutines, timers and one I/O engine.
 *
 * Loop: take the inbox, run everything that is ready in FIFO order, and what was deferred, then let
 * the engine submit what has gathered and wait in one system call. The choice
 * of the next ready coroutine goes through one hook, so that tests can explore
 * schedules from a seed.
 *
 * Threads: functions marked [any thread] may be called from everywhere, all
 * others only on the reactor's thread (which, for reactor_run(), is the
 * caller's).
 */
#ifndef QCOW2FS_IO_REACTOR_H
#define QCOW2FS_IO_REACTOR_H

#include "io/co.h"

#include <stdbool.h>
#include <stdint.h>

struct engine;
struct worker_pool;

/*
 * Something to run, as a coroutine but for reactor_defer(): embedded in the request that it serves,
 * so that posting allocates nothing. The owner fills fn and arg; `next` belongs to
 * the reactor until fn has started.
 */
struct task {
	struct task *next;
	void (*fn)(void *arg);
	void *arg;
};

struct reactor_params {
	const char *name;       /* of its thread; NULL: "reactor" */
	struct engine *engine;  /* required; the reactor takes ownership */
	unsigned nb_coroutines; /* 0: 256; background work has a few more */
	unsigned nb_workers;    /* CPU worker threads; 0: run CPU work inline */
	/*
	 * Before the loop sleeps until a client comes, it looks around for so long, as long as that
	 * pays. To be woken costs both sides more than that where an idle CPU must be woken, too.
	 * 0: it sleeps at once, which is right where its clients have no other CPU to run on.
	 */
	uint64_t busy_ns;
};

/* Makes a reactor that nobody runs yet. Returns 0 or -errno; on failure the engine is destroyed
 * too. */
int reactor_create(const struct reactor_params *params, struct reactor **ret_reactor);

/* Stops (if a thread runs it), checks that no coroutine is left, and frees. NULL is allowed. */
void reactor_destroy(struct reactor *reactor);

/* Runs the reactor in a thread of its own until reactor_stop(). Returns 0 or -errno. */
int reactor_start(struct reactor *reactor);

/* Drains: waits until no coroutine is alive, then ends the thread and joins it. [any other thread]
 */
void reactor_stop(struct reactor *reactor);

/*
 * Runs task->fn(task->arg) as a coroutine and returns when it has ended. When no
 * thread runs the reactor, the caller's thread does meanwhile; otherwise the
 * task is posted and waited for. [any other thread]
 */
void reactor_run(struct reactor *reactor, void (*fn)(void *arg), void *arg);

/* Hands a task over; a coroutine starts for it, in order of arrival. Writes the
 * eventfd only when the reactor sleeps. [any thread] */
void reactor_post(struct reactor *reactor, struct task *task);

/* Starts a coroutine at the end of the ready queue; waits in line (never fails)
 * while all stacks are in use. */
void reactor_spawn(struct reactor *reactor, struct task *task);
/*
 * The same for work that requests may wait for: it starts while all stacks are in use, too. It
 * must end without waiting for tasks that have not started yet.
 */
void reactor_spawn_background(struct reactor *reactor, struct task *task);
/* Does that if a stack is free for any request. Tells whether it has. */
bool reactor_try_spawn(struct reactor *reactor, struct task *task);

/*
 * Runs task->fn(task->arg) in the scheduler, without a coroutine: when those that were ready at the
 * beginning of this round have had a turn each, or at its end, if that was before. It may wake or
 * spawn, not yield.
 */
void reactor_defer(struct reactor *reactor, struct task *task);

/* Makes a parked coroutine ready. Waking one that is ready already does nothing. */
void reactor_wake(struct co *co);
/* Lets all others that are ready run first. Only from within a coroutine. */
void coroutine_fn reactor_pass(void);
/* The same from another thread: through the inbox. `wake` is the caller's, must
 * stay until the coroutine runs. [any thread] */
struct wakeup {
	struct task task;
	struct co *co;
};
void reactor_wake_remote(struct reactor *reactor, struct wakeup *wake, struct co *co);

/* Monotonic nanoseconds, read once per loop round; a simulated engine brings its own. */
uint64_t reactor_now_ns(const struct reactor *reactor);

/* Another one than in reactor_params; what it has learnt is forgotten. */
void reactor_set_busy(struct reactor *reactor, uint64_t busy_ns);
/*
 * The engine has brought something that has been done without a coroutine. It is among what
 * looking around is for.
 */
void reactor_found_work(struct reactor *reactor);

struct timer {
	uint64_t due_ns;
	void (*fn)(struct timer *timer); /* runs in the scheduler: may wake or spawn, not yield */
	struct timer *prev, *next;       /* the reactor's */
	bool armed;
};
void timer_arm(struct reactor *reactor, struct timer *timer, uint64_t due_ns);
void timer_disarm(struct reactor *reactor, struct timer *timer);

/*
 * Where work comes from besides the inbox: a descriptor that the loop looks at itself, so that no
 * other thread stands between the kernel and a coroutine. Embedded in its owner.
 */
struct reactor_source {
	int fd;
	/* Takes what is there, or some of it, without waiting; runs in the scheduler. Returns 0
	 * when there was nothing: the loop asks again when fd is readable. */
	unsigned (*take)(struct reactor_source *source);
};
/* One at a time; NULL: none any more. The engine must be able to watch. take() may call it. */
void reactor_set_source(struct reactor *reactor, struct reactor_source *source);

struct engine *reactor_engine(const struct reactor *reactor);
struct worker_pool *reactor_workers(const struct reactor *reactor); /* NULL: inline */
bool reactor_is_current(const struct reactor *reactor);             /* [any thread] */

/* Test hook: which of `nb_choices` (>= 1) to take, 0-based. */
typedef unsigned reactor_chooser(void *ctx, unsigned nb_choices);
void reactor_set_chooser(struct reactor *reactor, reactor_chooser *choose, void *ctx);

/* Everything of the caller's program that is still parked: for shutdown asserts. */
unsigned reactor_nb_coroutines(const struct reactor *reactor);

#endif
