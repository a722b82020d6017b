/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * request: single operations, submitted or waited for, and the queue of completed ones.
 *
 * A request carries its own task, so submitting allocates nothing and cannot fail for
 * want of memory. After its completion has been told, nothing here touches it: the caller
 * may have freed or submitted it again.
 */
#include "core/checked.h"
#include "lib/internal.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* Longer transfers go in steps, so that bounce buffers stay within their size classes. */
#define STEP_BYTES (2u << 20)

/* What qf_request.internal holds. */
struct request_state {
	struct task task;
	struct qf_request *next; /* in the queue */
};
static_assert(sizeof(struct request_state) <= sizeof(((struct qf_request *)0)->internal),
	      "the state fits into a request");

struct qf_queue {
	pthread_mutex_t lock;
	struct qf_request *oldest, *newest;
	int fd; /* an eventfd, readable while the list is not empty */
};

static struct request_state *state_of(struct qf_request *request)
{
	return (struct request_state *)request->internal;
}

/* ---- operations ---- */

static int coroutine_fn transfer(struct image *image, const struct qf_request *r)
{
	uint64_t done = 0;
	int ret = 0;

	/* One step at least: it tells whether the range is a legal one. */
	do {
		size_t n = min_u64(r->len_bytes - done, STEP_BYTES);

		if (r->op == QF_OP_READ)
			ret = image_read(image, r->guest_off + done, (uint8_t *)r->read_buf + done,
					 n, NULL);
		else
			ret = image_write(image, r->guest_off + done,
					  (const uint8_t *)r->write_buf + done, n);
		done += n;
	} while (!ret && done < r->len_bytes);
	return ret;
}

static int coroutine_fn map(struct image *image, const struct qf_request *r)
{
	struct map_extent extent;
	int ret = image_map(image, r->guest_off, r->len_bytes, &extent);

	if (ret)
		return ret;
	*r->extent = (struct qf_extent){
		.guest_off = extent.guest_off,
		.len_bytes = extent.len_bytes,
		.host_off = extent.has_host_off ? extent.host_off : 0,
		.kind = extent.kind == MAP_HOLE   ? QF_EXTENT_HOLE
			: extent.kind == MAP_ZERO ? QF_EXTENT_ZERO
			: extent.kind == MAP_DATA ? QF_EXTENT_DATA
						  : QF_EXTENT_COMPRESSED,
		.flags = (extent.has_host_off ? QF_EXTENT_HAS_HOST_OFF : 0) |
			 (extent.host_hole ? QF_EXTENT_HOST_HOLE : 0),
		.depth = extent.depth,
	};
	return 0;
}

static int coroutine_fn perform(const struct qf_request *r)
{
	struct qf_image *image = r->image;
	int ret = 0;

	co_rwlock_rdlock(&image->use);
	switch (r->op) {
	case QF_OP_READ:
	case QF_OP_WRITE:
		ret = transfer(image->core, r);
		break;
	case QF_OP_ZERO:
		ret = image_zero(image->core, r->guest_off, r->len_bytes, true);
		break;
	case QF_OP_DISCARD:
		ret = image_discard(image->core, r->guest_off, r->len_bytes);
		break;
	case QF_OP_FLUSH:
		ret = image_flush(image->core);
		break;
	case QF_OP_MAP:
		ret = map(image->core, r);
		break;
	}
	co_rwlock_unlock(&image->use);
	return ret;
}

/* ---- submitting ---- */

static void queue_put(struct qf_queue *queue, struct qf_request *request)
{
	bool was_empty;

	state_of(request)->next = NULL;
	pthread_mutex_lock(&queue->lock);
	was_empty = !queue->oldest;
	if (was_empty)
		queue->oldest = request;
	else
		state_of(queue->newest)->next = request;
	queue->newest = request;
	if (was_empty)
		eventfd_write(queue->fd, 1);
	pthread_mutex_unlock(&queue->lock);
}

static void coroutine_fn request_run(void *arg)
{
	struct qf_request *request = arg;

	request->result = perform(request);
	if (request->done)
		request->done(request);
	else
		queue_put(request->queue, request);
}

int qf_submit(struct qf_request *request)
{
	struct task *task = &state_of(request)->task;

	if (!request->image || request->op > QF_OP_MAP || request->flags ||
	    (!request->done && !request->queue))
		return -EINVAL;
	task->fn = request_run;
	task->arg = request;
	reactor_post(request->image->context->reactor, task);
	return 0;
}

/* ---- the queue ---- */

int qf_queue_create(struct qf_queue **ret_queue)
{
	struct qf_queue *queue = calloc(1, sizeof(*queue));
	int ret;

	if (!queue)
		return -ENOMEM;
	queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->fd < 0) {
		ret = -errno;
		free(queue);
		return ret;
	}
	pthread_mutex_init(&queue->lock, NULL);
	*ret_queue = queue;
	return 0;
}

void qf_queue_destroy(struct qf_queue *queue)
{
	if (!queue)
		return;
	pthread_mutex_destroy(&queue->lock);
	close(queue->fd);
	free(queue);
}

int qf_queue_fd(const struct qf_queue *queue)
{
	return queue->fd;
}

static unsigned queue_take(struct qf_queue *queue, struct qf_request **requests, unsigned nb_max)
{
	eventfd_t count;
	unsigned nb = 0;

	pthread_mutex_lock(&queue->lock);
	while (nb < nb_max && queue->oldest) {
		requests[nb] = queue->oldest;
		queue->oldest = state_of(requests[nb++])->next;
	}
	if (nb && !queue->oldest)
		eventfd_read(queue->fd, &count);
	pthread_mutex_unlock(&queue->lock);
	return nb;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

int qf_reap(struct qf_queue *queue, struct qf_request **ret_requests, unsigned nb_max,
	    int timeout_ms)
{
	int64_t deadline = timeout_ms > 0 ? now_ms() + timeout_ms : 0, left = timeout_ms;
	struct pollfd waiting = {.fd = queue->fd, .events = POLLIN};
	unsigned nb;

	if (!nb_max)
		return -EINVAL;
	if (nb_max > INT_MAX)
		nb_max = INT_MAX;
	for (;;) {
		nb = queue_take(queue, ret_requests, nb_max);
		if (nb || !left)
			return nb;
		/* Another thread may take what this one was woken for. */
		poll(&waiting, 1, (int)left);
		if (timeout_ms > 0) {
			left = deadline - now_ms();
			if (left < 0)
				left = 0;
		}
	}
}

/* ---- the blocking form ---- */

static void coroutine_fn blocking_run(void *arg)
{
	struct qf_request *request = arg;

	request->result = perform(request);
}

static int run_blocking(struct qf_request *request)
{
	int ret = context_run(request->image->context, blocking_run, request);

	return ret ? ret : request->result;
}

int qf_pread(struct qf_image *image, void *buf, size_t len_bytes, uint64_t guest_off)
{
	struct qf_request request = {.image = image,
				     .op = QF_OP_READ,
				     .guest_off = guest_off,
				     .len_bytes = len_bytes,
				     .read_buf = buf};

	return run_blocking(&request);
}

int qf_pwrite(struct qf_image *image, const void *buf, size_t len_bytes, uint64_t guest_off)
{
	struct qf_request request = {.image = image,
				     .op = QF_OP_WRITE,
				     .guest_off = guest_off,
				     .len_bytes = len_bytes,
				     .write_buf = buf};

	return run_blocking(&request);
}

static int run_range(struct qf_image *image, enum qf_op op, uint64_t guest_off, uint64_t len_bytes,
		     struct qf_extent *extent)
{
	struct qf_request request = {.image = image,
				     .op = op,
				     .guest_off = guest_off,
				     .len_bytes = len_bytes,
				     .extent = extent};

	return run_blocking(&request);
}

int qf_zero(struct qf_image *image, uint64_t guest_off, uint64_t len_bytes)
{
	return run_range(image, QF_OP_ZERO, guest_off, len_bytes, NULL);
}

int qf_discard(struct qf_image *image, uint64_t guest_off, uint64_t len_bytes)
{
	return run_range(image, QF_OP_DISCARD, guest_off, len_bytes, NULL);
}

int qf_flush(struct qf_image *image)
{
	return run_range(image, QF_OP_FLUSH, 0, 0, NULL);
}

int qf_map(struct qf_image *image, uint64_t guest_off, uint64_t max_bytes, struct qf_extent *extent)
{
	return run_range(image, QF_OP_MAP, guest_off, max_bytes, extent);
}
