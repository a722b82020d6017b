/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine_call: requests as plain system calls. See engine_call.h.
 */
#include "io/engine_call.h"

#include "io/buf.h"
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

static int64_t call_result(int64_t ret)
{
	return ret < 0 ? -errno : ret;
}

static int64_t execute(const struct io_req *req)
{
	int fd = req->file->fd;
	off_t off = (off_t)req->host_off, len = (off_t)req->len_bytes;

	switch (req->op) {
	case IO_READ:
		return call_result(preadv(fd, req->iov, req->nb_iov, off));
	case IO_WRITE:
		return call_result(pwritev(fd, req->iov, req->nb_iov, off));
	case IO_FLUSH:
		return call_result(fdatasync(fd));
	case IO_PUNCH:
		return call_result(
			fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len));
	case IO_ZERO:
		return call_result(fallocate(fd, FALLOC_FL_ZERO_RANGE, off, len));
	case IO_ALLOC:
		return call_result(fallocate(fd, 0, off, len));
	case IO_TRUNCATE:
		return call_result(ftruncate(fd, off));
	}
	return -EOPNOTSUPP;
}

/*
 * The requests under way have buffers of their own, which come one after the other and are cold
 * each time. These few stay in the caches of the CPUs.
 */
static bool read_and_follow(const struct io_req *req)
{
	struct io_sequel *sequel = req->sequel;
	struct iovec iov = {.iov_len = req->len_bytes};

	if (req->len_bytes > BUF_MAX_BYTES || !(iov.iov_base = buf_get(req->len_bytes)))
		return false;
	sequel->ran = preadv(req->file->fd, &iov, 1, (off_t)req->host_off) == (ssize_t)iov.iov_len;
	if (sequel->ran)
		sequel->fn(sequel->arg, iov.iov_base);
	buf_put(iov.iov_base, req->len_bytes);
	return sequel->ran;
}

int64_t io_call(const struct io_req *req)
{
	if (req->sequel && read_and_follow(req))
		return (int64_t)req->len_bytes;
	return execute(req);
}

/* A page cache hit, or a write into the cache, without waiting for a device. */
static bool try_cached(struct io_req *req)
{
	struct file *file = req->file;
	ssize_t ret;

	if ((req->op != IO_READ && req->op != IO_WRITE) || (file->refused & 1u << req->op))
		return false;
	if (req->op == IO_READ)
		ret = preadv2(file->fd, req->iov, req->nb_iov, (off_t)req->host_off, RWF_NOWAIT);
	else
		ret = pwritev2(file->fd, req->iov, req->nb_iov, (off_t)req->host_off, RWF_NOWAIT);
	if (ret < 0) {
		/* Any other error comes again, and is reported, on the asynchronous path. */
		if (errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS)
			file->refused |= 1u << req->op;
		return false;
	}
	io_complete(req, ret);
	return true;
}

bool io_call_try(struct io_req *req)
{
	if (req->file->path == FILE_DIRECT || req->len_bytes > IO_CALL_INLINE_BYTES)
		return false;
	if (req->file->path == FILE_BUFFERED)
		return try_cached(req);
	io_complete(req, io_call(req));
	return true;
}

uint64_t io_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static unsigned fork_generation;

/* Runs in the child, which has one thread. */
static void count_fork(void)
{
	fork_generation++;
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, count_fork);
}

unsigned io_fork_generation(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch_forks);
	return fork_generation;
}
