/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * worker: a FIFO of jobs and the threads that take from it.
 *
 * A thread is added when a job arrives and no thread is free for it, so a
 * program that never inflates anything has none. When the system refuses even
 * the first thread, the submitter does the work itself: slow, never stuck.
 */
#include "io/worker.h"

#include "io/reactor.h"
#include "io/thread.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct worker_pool {
	pthread_mutex_t lock;
	pthread_cond_t work; /* a job was queued, or the end has come */
	struct worker_job *head, *tail;
	unsigned nb_queued, nb_idle;
	bool ending;
	unsigned nb_threads, max_threads;
	pthread_t threads[];
};

int worker_pool_create(unsigned nb_threads, struct worker_pool **ret_pool)
{
	assert(nb_threads > 0);
	struct worker_pool *pool = calloc(1, sizeof(*pool) + nb_threads * sizeof(pool->threads[0]));
	if (!pool)
		return -ENOMEM;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	pool->max_threads = nb_threads;
	*ret_pool = pool;
	return 0;
}

unsigned worker_pool_threads(const struct worker_pool *pool)
{
	return pool ? pool->max_threads : 0;
}

void worker_pool_destroy(struct worker_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->ending = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->nb_threads; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

static void run_job(struct worker_job *job)
{
	void (*done)(struct worker_job * job) = job->done;
	job->fn(job->arg);
	if (done)
		done(job); /* the job is its owner's again */
}

/* Waits for the next job; NULL when there is none and there will be none. */
static struct worker_job *next_job(struct worker_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	while (!pool->head && !pool->ending) {
		pool->nb_idle++;
		pthread_cond_wait(&pool->work, &pool->lock);
		pool->nb_idle--;
	}
	struct worker_job *job = pool->head;
	if (job) {
		pool->head = job->next;
		if (!pool->head)
			pool->tail = NULL;
		pool->nb_queued--;
	}
	pthread_mutex_unlock(&pool->lock);
	return job;
}

static void *worker_thread(void *arg)
{
	struct worker_pool *pool = arg;
	struct worker_job *job;
	while ((job = next_job(pool)))
		run_job(job);
	return NULL;
}

/* Threads that wait and have no job coming: until they run, they count as idle. */
static unsigned nb_waiting(const struct worker_pool *pool)
{
	return pool->nb_idle > pool->nb_queued ? pool->nb_idle - pool->nb_queued : 0;
}

/* Under the lock. False: there is no thread. */
static bool queue_job(struct worker_pool *pool, struct worker_job *job)
{
	assert(!pool->ending);
	if (!nb_waiting(pool) && pool->nb_threads < pool->max_threads &&
	    thread_start(&pool->threads[pool->nb_threads], "worker", worker_thread, pool) == 0)
		pool->nb_threads++;
	if (!pool->nb_threads)
		return false;
	job->next = NULL;
	if (pool->tail)
		pool->tail->next = job;
	else
		pool->head = job;
	pool->tail = job;
	pool->nb_queued++;
	pthread_cond_signal(&pool->work);
	return true;
}

void worker_submit(struct worker_pool *pool, struct worker_job *job)
{
	pthread_mutex_lock(&pool->lock);
	bool queued = queue_job(pool, job);
	pthread_mutex_unlock(&pool->lock);
	if (!queued)
		run_job(job);
}

bool worker_try_submit(struct worker_pool *pool, struct worker_job *job)
{
	pthread_mutex_lock(&pool->lock);
	unsigned nb_free = nb_waiting(pool) + pool->max_threads - pool->nb_threads;
	bool queued = nb_free > 1 && queue_job(pool, job);
	pthread_mutex_unlock(&pool->lock);
	return queued;
}

/* ---- for coroutines ---- */

/* On the stack of the parked coroutine. */
struct worker_call {
	struct worker_job job; /* first: done() finds the call by it */
	struct wakeup wake;
	struct co *co;
};

static void wake_caller(struct worker_job *job)
{
	struct worker_call *call = (struct worker_call *)job;
	reactor_wake_remote(co_reactor(call->co), &call->wake, call->co);
}

void coroutine_fn worker_run(void (*fn)(void *arg), void *arg)
{
	struct co *self = co_self();
	struct worker_pool *pool = reactor_workers(co_reactor(self));
	if (!pool) {
		fn(arg);
		return;
	}
	struct worker_call call = {
		.job = {.fn = fn, .arg = arg, .done = wake_caller},
		.co = self,
	};
	/* The wake-up comes through the inbox, hence not before this has parked. */
	worker_submit(pool, &call.job);
	co_yield ();
}
