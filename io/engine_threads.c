/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine_threads: blocking system calls in a pool of threads, where io_uring is
 * not permitted.
 *
 * The reactor gathers requests in `gathered` without a lock; wait() hands them
 * over under one lock per loop round. Threads take them in order of arrival and
 * return them by mail. Threads are started as requests need them and never
 * before the first, so that a program may fork after it has made the engine; one
 * that forks later (and idle) gets new ones.
 */
#include "io/engine.h"
#include "io/engine_call.h"
#include "io/engine_mail.h"
#include "io/file.h"
#include "io/request_list.h"
#include "io/thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct engine_threads {
	struct engine engine;
	struct io_mail mail;
	struct request_list gathered; /* the reactor's, until wait() */
	unsigned generation;          /* the fork generation that the threads belong to */

	pthread_mutex_t lock; /* all below */
	pthread_cond_t work;
	struct request_list queue;
	unsigned nb_idle;    /* threads that wait for work */
	unsigned nb_threads; /* started; only the reactor's thread changes it */
	bool stopping;

	unsigned max_threads;
	pthread_t threads[];
};

static void *thread_main(void *arg)
{
	struct engine_threads *threads = arg;

	pthread_mutex_lock(&threads->lock);
	for (;;) {
		struct io_req *req;

		if (!threads->queue.head) {
			if (threads->stopping)
				break;
			threads->nb_idle++;
			pthread_cond_wait(&threads->work, &threads->lock);
			threads->nb_idle--;
			continue;
		}
		req = request_list_take(&threads->queue);
		pthread_mutex_unlock(&threads->lock);
		req->result = io_call(req);
		io_mail_post(&threads->mail, req);
		pthread_mutex_lock(&threads->lock);
	}
	pthread_mutex_unlock(&threads->lock);
	return NULL;
}

/* The parent's threads do not exist here; its locks were free, as it was idle. */
static void forget_threads(struct engine_threads *threads)
{
	threads->generation = io_fork_generation();
	threads->nb_threads = threads->nb_idle = 0;
	pthread_mutex_init(&threads->lock, NULL);
	pthread_cond_init(&threads->work, NULL);
}

/* Gives the gathered requests to the threads, starting as many as have something to do. */
static void hand_over(struct engine_threads *threads)
{
	unsigned nb_missing = 0;

	if (!threads->gathered.nb)
		return;
	if (threads->generation != io_fork_generation())
		forget_threads(threads);
	pthread_mutex_lock(&threads->lock);
	while (threads->gathered.head)
		request_list_append(&threads->queue, request_list_take(&threads->gathered));
	if (threads->queue.nb > threads->nb_idle)
		nb_missing = threads->queue.nb - threads->nb_idle;
	for (unsigned i = 0; i < threads->queue.nb && i < threads->nb_idle; i++)
		pthread_cond_signal(&threads->work);
	pthread_mutex_unlock(&threads->lock);

	for (; nb_missing && threads->nb_threads < threads->max_threads; nb_missing--) {
		if (thread_start(&threads->threads[threads->nb_threads], "io", thread_main,
				 threads))
			break;
		threads->nb_threads++;
	}
	if (threads->nb_threads)
		return;
	/* Not one thread could be had: slow is better than stuck. */
	while (threads->queue.head) {
		struct io_req *req = request_list_take(&threads->queue);

		io_complete(req, io_call(req));
	}
}

static int threads_attach(struct engine *engine, struct reactor *reactor)
{
	return 0;
}

static int threads_add_file(struct engine *engine, struct file *file)
{
	file->fixed = -1;
	return 0;
}

static void threads_remove_file(struct engine *engine, struct file *file)
{
}

static void threads_submit(struct engine *engine, struct io_req *req)
{
	struct engine_threads *threads = (struct engine_threads *)engine;

	if (!io_call_try(req))
		request_list_append(&threads->gathered, req);
}

static void threads_wait(struct engine *engine, uint64_t timeout_ns)
{
	struct engine_threads *threads = (struct engine_threads *)engine;
	bool alone = false;

	if (threads->gathered.nb) {
		hand_over(threads);
		alone = !threads->nb_threads;
	}
	/* Requests that ran in hand_over() are progress: the reactor has something to do. */
	io_mail_wait(&threads->mail, alone ? 0 : timeout_ns);
}

static void threads_wake(struct engine *engine)
{
	io_mail_ring(&((struct engine_threads *)engine)->mail);
}

static void threads_watch(struct engine *engine, struct engine_watch *watch)
{
	((struct engine_threads *)engine)->mail.watch = watch;
}

static uint64_t threads_now_ns(struct engine *engine)
{
	return io_now_ns();
}

static void threads_destroy(struct engine *engine)
{
	struct engine_threads *threads = (struct engine_threads *)engine;

	if (threads->generation == io_fork_generation()) {
		pthread_mutex_lock(&threads->lock);
		threads->stopping = true;
		pthread_cond_broadcast(&threads->work);
		pthread_mutex_unlock(&threads->lock);
		for (unsigned i = 0; i < threads->nb_threads; i++)
			pthread_join(threads->threads[i], NULL);
		pthread_cond_destroy(&threads->work);
		pthread_mutex_destroy(&threads->lock);
	}
	io_mail_finish(&threads->mail);
	free(threads);
}

static const struct engine_ops threads_ops = {
	.name = "threads",
	.attach = threads_attach,
	.add_file = threads_add_file,
	.remove_file = threads_remove_file,
	.submit = threads_submit,
	.wait = threads_wait,
	.wake = threads_wake,
	.watch = threads_watch,
	.now_ns = threads_now_ns,
	.destroy = threads_destroy,
};

int engine_threads_create(unsigned nb_threads, struct engine **ret_engine)
{
	struct engine_threads *threads;
	int ret;

	if (!nb_threads)
		return -EINVAL;
	threads = calloc(1, sizeof(*threads) + nb_threads * sizeof(threads->threads[0]));
	if (!threads)
		return -ENOMEM;
	ret = io_mail_init(&threads->mail);
	if (ret < 0) {
		free(threads);
		return ret;
	}
	threads->engine.ops = &threads_ops;
	threads->max_threads = nb_threads;
	forget_threads(threads);
	*ret_engine = &threads->engine;
	return 0;
}
