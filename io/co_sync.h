/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * co_sync: how coroutines of one reactor wait for one another.
 *
 * None of these is thread-safe; all belong to one reactor's thread. Waking puts
 * the waiter into the ready queue and never switches directly. Hand-off is
 * direct and in FIFO order: an unlocked mutex with waiters belongs to the first
 * waiter at once, so nobody starves and nobody barges in.
 *
 * All objects are embedded in their owner and initialised by zero bytes.
 */
#ifndef QCOW2FS_IO_CO_SYNC_H
#define QCOW2FS_IO_CO_SYNC_H

#include "io/co.h"

#include <stdbool.h>
#include <stdint.h>

/* FIFO of parked coroutines. */
struct co_queue {
	struct co *head, *tail;
};

/* Parks the caller until co_queue_wake_*() reaches it. */
void coroutine_fn co_queue_wait(struct co_queue *queue);
/* Wakes the first waiter; returns false when there was none. */
bool co_queue_wake_one(struct co_queue *queue);
/* Wakes all waiters that are parked now. */
void co_queue_wake_all(struct co_queue *queue);
static inline bool co_queue_empty(const struct co_queue *queue)
{
	return !queue->head;
}

struct co_mutex {
	struct co *holder;
	struct co_queue waiters;
};
void coroutine_fn co_mutex_lock(struct co_mutex *mutex);
void co_mutex_unlock(struct co_mutex *mutex);

/* Readers share, a writer is alone; a waiting writer holds back later readers. */
struct co_rwlock {
	int readers; /* -1: held by a writer */
	struct co_rwlock_waiter *head, *tail;
};
void coroutine_fn co_rwlock_rdlock(struct co_rwlock *lock);
void coroutine_fn co_rwlock_wrlock(struct co_rwlock *lock);
void co_rwlock_unlock(struct co_rwlock *lock);

/*
 * Byte ranges [start, start + len), shared or exclusive. Two ranges conflict
 * when they overlap and at least one is exclusive. Ranges are granted in FIFO
 * order among those that conflict; others overtake freely.
 */
struct range_lock {
	struct range_hold *held, *waiting; /* doubly linked, in order of arrival */
	struct range_hold *waiting_tail;
};
struct range_hold {
	uint64_t start, len;
	bool exclusive;
	struct co *waiter;
	struct range_hold *prev, *next;
};
/* `hold` is the caller's and must stay until range_unlock(). len > 0. */
void coroutine_fn range_lock(struct range_lock *lock, struct range_hold *hold, uint64_t start,
			     uint64_t len, bool exclusive);
/* Like range_lock(), but returns false at once instead of waiting. */
bool range_trylock(struct range_lock *lock, struct range_hold *hold, uint64_t start, uint64_t len,
		   bool exclusive);
void range_unlock(struct range_lock *lock, struct range_hold *hold);

/*
 * A bounded group: at most `limit` coroutines at work for one parent, joined at
 * the end. The first non-zero (negative) result is the group's result.
 */
struct co_group {
	unsigned limit, active;
	int result;
	struct co *parent;
};
void co_group_init(struct co_group *group, unsigned limit);
struct task;
/*
 * Starts task->fn(task->arg) as a coroutine of the caller's reactor; waits
 * first while `limit` members are active. The member calls co_group_leave()
 * as the last thing it does. The task must stay valid until then.
 */
void coroutine_fn co_group_spawn(struct co_group *group, struct task *task);
void co_group_leave(struct co_group *group, int result);
/* Waits for all members; returns 0 or the first error, and resets the result. */
int coroutine_fn co_group_join(struct co_group *group);

/* Lets every other coroutine that is ready run: for who works for long and waits for nothing. */
void coroutine_fn co_give_way(void);

/* Parks the caller for `ns` nanoseconds of the reactor's clock. */
void coroutine_fn co_sleep(uint64_t ns);

#endif
