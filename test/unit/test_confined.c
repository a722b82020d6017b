/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * confined: an engine whose ring takes registered files only: files, and what the reactor
 * watches, also where that cannot be registered.
 */
#include "io/co_sync.h"
#include "io/engine_uring.h"
#include "io/file.h"
#include "io/reactor.h"
#include "io/sanitizer.h"

#include <fcntl.h>
#include <liburing.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cmocka.h>

#define NB_ROUNDS 50
#define NB_FILES 600
#define WAIT_MAX_MS 30000u

static struct engine *engine;
static struct reactor *reactor;

static void coroutine_fn confine(void *arg)
{
	*(int *)arg = engine_uring_confine(engine);
}

/* Skips where there is no such ring. */
static void make_reactor(void)
{
	struct reactor_params params = {.nb_workers = 1};
	int res;

	/* Valgrind 3.19 keeps all threads waiting while one is in io_uring_enter(). */
	if (RUNNING_ON_VALGRIND || engine_uring_create(&engine) < 0)
		skip();
	params.engine = engine;
	assert_int_equal(reactor_create(&params, &reactor), 0);
	if (!engine_uring_can_be_confined(engine)) {
		reactor_destroy(reactor);
		skip();
	}
	reactor_run(reactor, confine, &res);
	assert_int_equal(res, 0);
}

/* ---- what is watched ---- */

struct test_source {
	struct reactor_source source;
	bool (*send)(struct test_source *source); /* makes it readable */
	bool (*receive)(struct test_source *source);
	unsigned nb_taken, nb_asked;
	int fds[2]; /* of a pipe */
	struct io_uring ring;
};

static unsigned take(struct reactor_source *source)
{
	struct test_source *from = (struct test_source *)source;

	from->nb_asked++;
	if (!from->receive(from))
		return 0;
	from->nb_taken++;
	return 1;
}

/* The timer that ends the reactor's sleep leads to no look: only the watch does. */
static void coroutine_fn take_all(void *arg)
{
	struct test_source *from = arg;

	reactor_set_source(reactor, &from->source);
	for (unsigned round = 1; round <= NB_ROUNDS; round++) {
		/* It looks, finds nothing, and watches. */
		co_sleep(1000000);
		assert_true(from->send(from));
		for (unsigned ms = 0; from->nb_taken < round && ms < WAIT_MAX_MS; ms++)
			co_sleep(1000000);
		assert_int_equal(from->nb_taken, round);
	}
	/* Nothing comes: nothing is asked. */
	co_sleep(10000000);
	from->nb_asked = 0;
	co_sleep(50000000);
	assert_true(from->nb_asked <= 1);
	reactor_set_source(reactor, NULL);
}

static bool send_byte(struct test_source *source)
{
	return write(source->fds[1], "x", 1) == 1;
}

static bool receive_byte(struct test_source *source)
{
	char byte;

	return read(source->fds[0], &byte, 1) == 1;
}

/* As the transport watches the FUSE device. */
static void test_epoll_set(void **state)
{
	struct test_source from = {.source.take = take, .send = send_byte, .receive = receive_byte};
	struct epoll_event event = {.events = EPOLLIN};

	make_reactor();
	assert_int_equal(pipe2(from.fds, O_NONBLOCK | O_CLOEXEC), 0);
	from.source.fd = epoll_create1(EPOLL_CLOEXEC);
	assert_int_equal(epoll_ctl(from.source.fd, EPOLL_CTL_ADD, from.fds[0], &event), 0);
	reactor_run(reactor, take_all, &from);
	reactor_destroy(reactor);
	close(from.source.fd);
	close(from.fds[0]);
	close(from.fds[1]);
}

static bool send_completion(struct test_source *source)
{
	io_uring_prep_nop(io_uring_get_sqe(&source->ring));
	return io_uring_submit(&source->ring) == 1;
}

static bool receive_completion(struct test_source *source)
{
	struct io_uring_cqe *cqe;

	if (io_uring_peek_cqe(&source->ring, &cqe) < 0)
		return false;
	io_uring_cqe_seen(&source->ring, cqe);
	return true;
}

/* A ring cannot be registered with another one. */
static void test_what_cannot_be_registered(void **state)
{
	struct test_source from = {
		.source.take = take,
		.send = send_completion,
		.receive = receive_completion,
	};

	make_reactor();
	assert_int_equal(io_uring_queue_init(4, &from.ring, 0), 0);
	from.source.fd = from.ring.ring_fd;
	reactor_run(reactor, take_all, &from);
	reactor_destroy(reactor);
	io_uring_queue_exit(&from.ring);
}

/* ---- files ---- */

static void coroutine_fn use_file(void *arg)
{
	struct file *file = arg;
	char *buf = aligned_alloc(4096, 8192);

	assert_non_null(buf);
	memset(buf, 7, 4096);
	assert_int_equal(file_write(file, 4096, buf, 4096, IO_TAG_DATA), 0);
	assert_int_equal(file_flush(file), 0);
	assert_int_equal(file_read(file, 4096, buf + 4096, 4096, IO_TAG_DATA), 0);
	assert_memory_equal(buf, buf + 4096, 4096);
	free(buf);
}

/* More than the ring has places for. */
static void test_many_files(void **state)
{
	static struct file *files[NB_FILES];
	const char *path = "confined.img";
	struct file_open_params params = {.dirfd = AT_FDCWD, .path = path, .writable = true};
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	make_reactor();
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 16384), 0);
	close(fd);
	for (unsigned i = 0; i < NB_FILES; i++)
		assert_int_equal(file_open(reactor, &params, &files[i], NULL), 0);
	for (unsigned i = 0; i < NB_FILES; i += 33)
		reactor_run(reactor, use_file, files[i]);
	reactor_run(reactor, use_file, files[NB_FILES - 1]);
	for (unsigned i = 0; i < NB_FILES; i++)
		file_close(files[i]);
	reactor_destroy(reactor);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_epoll_set),
		cmocka_unit_test(test_what_cannot_be_registered),
		cmocka_unit_test(test_many_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
