/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * co_sync: wait queue, mutex, rwlock, range lock, group and sleep.
 *
 * All of it rests on one rule: the waker does the bookkeeping. Whoever releases
 * a lock makes the next waiter its holder before waking it, so between the
 * wake-up and the moment the waiter runs nobody can take the lock away, and a
 * waiter has nothing to check when it returns from co_yield().
 *
 * Everything here runs on one reactor's thread, and only co_yield() lets other
 * coroutines run, so no step in between needs protection.
 */
#include "io/co_sync.h"

#include "io/reactor.h"

#include <assert.h>
#include <stddef.h>

/* ---- wait queue ---- */

static void queue_append(struct co_queue *queue, struct co *co)
{
	co_link(co)->next = NULL;
	if (queue->tail)
		co_link(queue->tail)->next = co;
	else
		queue->head = co;
	queue->tail = co;
}

static struct co *queue_take_first(struct co_queue *queue)
{
	struct co *co = queue->head;
	if (!co)
		return NULL;
	queue->head = co_link(co)->next;
	if (!queue->head)
		queue->tail = NULL;
	co_link(co)->next = NULL;
	return co;
}

void coroutine_fn co_queue_wait(struct co_queue *queue)
{
	struct co *self = co_self();
	assert(!co_link(self)->ready); /* it would stand in two queues */
	queue_append(queue, self);
	co_yield ();
}

bool co_queue_wake_one(struct co_queue *queue)
{
	struct co *co = queue_take_first(queue);
	if (!co)
		return false;
	reactor_wake(co);
	return true;
}

void co_queue_wake_all(struct co_queue *queue)
{
	while (co_queue_wake_one(queue))
		;
}

/* ---- mutex ---- */

void coroutine_fn co_mutex_lock(struct co_mutex *mutex)
{
	struct co *self = co_self();
	assert(self && mutex->holder != self);
	if (!mutex->holder) {
		mutex->holder = self;
		return;
	}
	co_queue_wait(&mutex->waiters);
	assert(mutex->holder == self);
}

void co_mutex_unlock(struct co_mutex *mutex)
{
	assert(mutex->holder == co_self());
	mutex->holder = queue_take_first(&mutex->waiters);
	if (mutex->holder)
		reactor_wake(mutex->holder);
}

/* ---- rwlock ---- */

/* On the waiter's stack. */
struct co_rwlock_waiter {
	struct co *co;
	bool writer, granted;
	struct co_rwlock_waiter *next;
};

static void rwlock_wait(struct co_rwlock *lock, bool writer)
{
	struct co_rwlock_waiter waiter = {.co = co_self(), .writer = writer};
	if (lock->tail)
		lock->tail->next = &waiter;
	else
		lock->head = &waiter;
	lock->tail = &waiter;
	co_yield ();
	assert(waiter.granted);
}

void coroutine_fn co_rwlock_rdlock(struct co_rwlock *lock)
{
	/* Behind a waiting writer, so that a stream of readers does not starve it. */
	if (lock->readers >= 0 && !lock->head)
		lock->readers++;
	else
		rwlock_wait(lock, false);
}

void coroutine_fn co_rwlock_wrlock(struct co_rwlock *lock)
{
	if (lock->readers == 0 && !lock->head)
		lock->readers = -1;
	else
		rwlock_wait(lock, true);
}

void co_rwlock_unlock(struct co_rwlock *lock)
{
	assert(lock->readers != 0);
	if (lock->readers < 0)
		lock->readers = 0;
	else
		lock->readers--;

	struct co_rwlock_waiter *first;
	while ((first = lock->head) && (first->writer ? lock->readers == 0 : lock->readers >= 0)) {
		lock->head = first->next;
		if (!lock->head)
			lock->tail = NULL;
		lock->readers = first->writer ? -1 : lock->readers + 1;
		first->granted = true;
		reactor_wake(first->co);
	}
}

/* ---- range lock ---- */

static bool conflicts(const struct range_hold *a, const struct range_hold *b)
{
	if (!a->exclusive && !b->exclusive)
		return false;
	/* Differences, because start + len may pass the end of 64 bits. */
	return a->start >= b->start ? a->start - b->start < b->len : b->start - a->start < a->len;
}

/* Does `hold` conflict with one of the list, up to (not including) `end`? */
static bool conflicts_in_list(const struct range_hold *list, const struct range_hold *end,
			      const struct range_hold *hold)
{
	for (const struct range_hold *other = list; other && other != end; other = other->next) {
		if (conflicts(other, hold))
			return true;
	}
	return false;
}

static void hold_insert(struct range_lock *lock, struct range_hold *hold)
{
	hold->waiter = NULL;
	hold->prev = NULL;
	hold->next = lock->held;
	if (lock->held)
		lock->held->prev = hold;
	lock->held = hold;
}

static void wait_append(struct range_lock *lock, struct range_hold *hold)
{
	hold->next = NULL;
	hold->prev = lock->waiting_tail;
	if (lock->waiting_tail)
		lock->waiting_tail->next = hold;
	else
		lock->waiting = hold;
	lock->waiting_tail = hold;
}

static void wait_remove(struct range_lock *lock, struct range_hold *hold)
{
	if (hold->prev)
		hold->prev->next = hold->next;
	else
		lock->waiting = hold->next;
	if (hold->next)
		hold->next->prev = hold->prev;
	else
		lock->waiting_tail = hold->prev;
}

bool range_trylock(struct range_lock *lock, struct range_hold *hold, uint64_t start, uint64_t len,
		   bool exclusive)
{
	assert(len > 0);
	*hold = (struct range_hold){.start = start, .len = len, .exclusive = exclusive};
	if (conflicts_in_list(lock->held, NULL, hold) ||
	    conflicts_in_list(lock->waiting, NULL, hold))
		return false;
	hold_insert(lock, hold);
	return true;
}

void coroutine_fn range_lock(struct range_lock *lock, struct range_hold *hold, uint64_t start,
			     uint64_t len, bool exclusive)
{
	if (range_trylock(lock, hold, start, len, exclusive))
		return;
	hold->waiter = co_self();
	wait_append(lock, hold);
	co_yield ();
	assert(!hold->waiter);
}

void range_unlock(struct range_lock *lock, struct range_hold *hold)
{
	assert(!hold->waiter);
	if (hold->prev)
		hold->prev->next = hold->next;
	else
		lock->held = hold->next;
	if (hold->next)
		hold->next->prev = hold->prev;

	/*
	 * Only what conflicted with the released range can have become free: one
	 * that waits behind another waiter still conflicts with that one when it is
	 * granted.
	 */
	struct range_hold *next;
	for (struct range_hold *waiting = lock->waiting; waiting; waiting = next) {
		next = waiting->next;
		if (!conflicts(waiting, hold) || conflicts_in_list(lock->held, NULL, waiting) ||
		    conflicts_in_list(lock->waiting, waiting, waiting))
			continue;
		struct co *co = waiting->waiter;
		wait_remove(lock, waiting);
		hold_insert(lock, waiting);
		reactor_wake(co);
	}
}

/* ---- group ---- */

void co_group_init(struct co_group *group, unsigned limit)
{
	assert(limit > 0);
	*group = (struct co_group){.limit = limit};
}

/* Parks the parent until at most `nb_active` members are at work. */
static void group_wait(struct co_group *group, unsigned nb_active)
{
	while (group->active > nb_active) {
		group->parent = co_self();
		co_yield ();
		group->parent = NULL;
	}
}

void coroutine_fn co_group_spawn(struct co_group *group, struct task *task)
{
	group_wait(group, group->limit - 1);
	group->active++;
	reactor_spawn(co_reactor(co_self()), task);
}

void co_group_leave(struct co_group *group, int result)
{
	assert(group->active > 0);
	if (result < 0 && group->result == 0)
		group->result = result;
	group->active--;
	/* The parent waits for a free place or for the end, for nothing in between. */
	if (group->parent && (group->active == 0 || group->active == group->limit - 1))
		reactor_wake(group->parent);
}

int coroutine_fn co_group_join(struct co_group *group)
{
	group_wait(group, 0);
	int result = group->result;
	group->result = 0;
	return result;
}

/* ---- giving way, and sleep ---- */

void coroutine_fn co_give_way(void)
{
	reactor_wake(co_self());
	co_yield ();
}

struct sleeper {
	struct timer timer; /* first: the timer's function finds the sleeper by it */
	struct co *co;
};

static void wake_sleeper(struct timer *timer)
{
	reactor_wake(((struct sleeper *)timer)->co);
}

void coroutine_fn co_sleep(uint64_t ns)
{
	struct sleeper sleeper = {.timer.fn = wake_sleeper, .co = co_self()};
	struct reactor *reactor = co_reactor(sleeper.co);
	uint64_t due_ns;
	if (__builtin_add_overflow(reactor_now_ns(reactor), ns, &due_ns))
		due_ns = UINT64_MAX;
	timer_arm(reactor, &sleeper.timer, due_ns);
	co_yield ();
}
