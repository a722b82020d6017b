/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_lock: who may open an image beside whom, among ourselves and with QEMU's tools.
 *
 * Two descriptors of one process stand for two programs: the locks belong to open file
 * descriptions. QEMU's side is the real one, where it is installed.
 */
#include "io/file_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define IMAGE "lock.qcow2"

static const char in_use_for_writing[] = "image is in use for writing (a running VM?); stop it, or "
					 "read it with --force-share";

static int open_image(bool writable)
{
	int fd = open(IMAGE, (writable ? O_RDWR : O_RDONLY) | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static bool lock_bytes_free(int fd, int first, int nb)
{
	struct flock flock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = first, .l_len = nb};

	assert_int_equal(fcntl(fd, F_OFD_GETLK, &flock), 0);
	return flock.l_type == F_UNLCK;
}

/* Takes `lock` on a descriptor of its own; whether that was allowed. */
static bool may_open(enum file_lock lock, struct error **reterr)
{
	int fd = open_image(lock == FILE_LOCK_WRITE), ret = file_lock_take(fd, lock, reterr);

	assert_true(ret == 0 || ret == -EAGAIN);
	close(fd);
	return ret == 0;
}

static void test_who_beside_whom(void **state)
{
	/* second opener: NONE, READ, SHARED, WRITE */
	static const bool allowed[4][4] = {
		[FILE_LOCK_NONE] = {true, true, true, true},
		[FILE_LOCK_READ] = {true, true, true, false},
		[FILE_LOCK_SHARED] = {true, true, true, true},
		[FILE_LOCK_WRITE] = {true, false, true, false},
	};

	for (int first = FILE_LOCK_NONE; first <= FILE_LOCK_WRITE; first++) {
		for (int second = FILE_LOCK_NONE; second <= FILE_LOCK_WRITE; second++) {
			int fd = open_image(true);

			assert_int_equal(file_lock_take(fd, (enum file_lock)first, NULL), 0);
			assert_int_equal(may_open((enum file_lock)second, NULL),
					 allowed[first][second]);
			close(fd);
		}
	}
}

static void test_bytes_held(void **state)
{
	static const struct {
		enum file_lock lock;
		bool held[8]; /* 100 .. 103, 200 .. 203 */
	} cases[] = {
		{FILE_LOCK_NONE, {0}},
		{FILE_LOCK_READ, {1, 0, 0, 0, 0, 1, 0, 1}},
		{FILE_LOCK_SHARED, {1, 0, 0, 0, 0, 0, 0, 0}},
		{FILE_LOCK_WRITE, {1, 1, 0, 1, 0, 1, 0, 1}},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int fd = open_image(true), other = open_image(false);

		assert_int_equal(file_lock_take(fd, cases[i].lock, NULL), 0);
		for (int byte = 0; byte < 8; byte++)
			assert_int_equal(
				lock_bytes_free(other, 100 + byte % 4 + (byte < 4 ? 0 : 100), 1),
				!cases[i].held[byte]);
		assert_true(lock_bytes_free(other, 0, 100));
		assert_true(lock_bytes_free(other, 104, 96));
		assert_true(lock_bytes_free(other, 204, 1000));
		file_lock_drop(fd);
		assert_true(lock_bytes_free(other, 0, 0));
		close(fd);
		close(other);
	}
}

static void assert_refused(enum file_lock lock, const char *msg)
{
	struct error *error = NULL;

	assert_false(may_open(lock, &error));
	assert_non_null(error);
	assert_int_equal(error->class, ERROR_LOCKED);
	assert_string_equal(error->msg, msg);
	error_free(error);
}

static void test_conflict_leaves_nothing(void **state)
{
	int first = open_image(true), second = open_image(true), third = open_image(false);

	assert_int_equal(file_lock_take(first, FILE_LOCK_READ, NULL), 0);
	assert_int_equal(file_lock_take(second, FILE_LOCK_WRITE, NULL), -EAGAIN);
	file_lock_drop(first);
	assert_true(lock_bytes_free(third, 0, 0)); /* `second` is open and holds nothing */
	close(first);
	close(second);
	close(third);
}

static void test_messages(void **state)
{
	int fd = open_image(true);
	struct flock flock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 200, .l_len = 1};

	assert_int_equal(file_lock_take(fd, FILE_LOCK_WRITE, NULL), 0);
	assert_refused(FILE_LOCK_READ, in_use_for_writing);
	assert_refused(FILE_LOCK_WRITE, in_use_for_writing);
	file_lock_drop(fd);
	assert_int_equal(file_lock_take(fd, FILE_LOCK_READ, NULL), 0);
	assert_refused(FILE_LOCK_WRITE, "image is being read by a program that allows no writing; "
					"stop it, or mount with --read-only");
	/* Somebody who shares not even reading. */
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &flock), 0);
	assert_refused(FILE_LOCK_SHARED,
		       "image is in use by a program that shares it with nobody; stop it");
	close(fd);
}

/* ---- QEMU's tools ---- */

static bool have_qemu(void)
{
	return system("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null") == 0;
}

static int run(const char *command)
{
	char line[512];

	snprintf(line, sizeof(line), "%s >/dev/null 2>&1", command);
	return system(line);
}

static void test_qemu_respects_us(void **state)
{
	int fd;

	if (!have_qemu())
		skip();
	assert_int_equal(run("qemu-img create -f qcow2 " IMAGE " 1M"), 0);
	fd = open_image(true);

	assert_int_equal(file_lock_take(fd, FILE_LOCK_WRITE, NULL), 0);
	assert_int_not_equal(run("qemu-img info " IMAGE), 0);
	assert_int_not_equal(run("qemu-io -c 'write 0 4k' " IMAGE), 0);
	assert_int_equal(run("qemu-img info -U " IMAGE), 0);
	file_lock_drop(fd);

	assert_int_equal(file_lock_take(fd, FILE_LOCK_READ, NULL), 0);
	assert_int_equal(run("qemu-img info " IMAGE), 0);
	assert_int_equal(run("qemu-io -r -c 'read 0 4k' " IMAGE), 0);
	assert_int_not_equal(run("qemu-io -c 'write 0 4k' " IMAGE), 0);
	file_lock_drop(fd);

	assert_int_equal(file_lock_take(fd, FILE_LOCK_SHARED, NULL), 0);
	assert_int_equal(run("qemu-io -c 'write 0 4k' " IMAGE), 0);
	file_lock_drop(fd);
	assert_int_equal(run("qemu-io -c 'write 0 4k' " IMAGE), 0);
	close(fd);
}

/* A qemu-io that has the image open until its standard input is closed. */
struct holder {
	pid_t pid;
	int input;
};

static struct holder start_qemu_io(const char *option)
{
	struct holder holder;
	int in[2], out[2];
	char byte;

	assert_int_equal(pipe(in) | pipe(out), 0);
	holder.pid = fork();
	if (holder.pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[0]);
		close(in[1]);
		close(out[0]);
		close(out[1]);
		execlp("qemu-io", "qemu-io", IMAGE, option, NULL);
		_exit(127);
	}
	holder.input = in[1];
	close(in[0]);
	close(out[1]);
	/* It answers when it has opened the image. */
	assert_int_equal(write(in[1], "length\n", 7), 7);
	assert_int_equal(read(out[0], &byte, 1), 1);
	usleep(50000);
	close(out[0]);
	return holder;
}

static void stop_qemu_io(struct holder holder)
{
	close(holder.input);
	assert_int_equal(waitpid(holder.pid, NULL, 0), holder.pid);
}

static void test_we_respect_qemu(void **state)
{
	struct holder holder;

	if (!have_qemu())
		skip();
	assert_int_equal(run("qemu-img create -f qcow2 " IMAGE " 1M"), 0);
	holder = start_qemu_io(NULL);
	assert_refused(FILE_LOCK_READ, in_use_for_writing);
	assert_refused(FILE_LOCK_WRITE, in_use_for_writing);
	assert_true(may_open(FILE_LOCK_SHARED, NULL));
	stop_qemu_io(holder);

	holder = start_qemu_io("-r");
	assert_true(may_open(FILE_LOCK_READ, NULL));
	assert_true(may_open(FILE_LOCK_SHARED, NULL));
	assert_false(may_open(FILE_LOCK_WRITE, NULL));
	stop_qemu_io(holder);
	assert_true(may_open(FILE_LOCK_WRITE, NULL));
}

static int remove_image(void **state)
{
	unlink(IMAGE);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_who_beside_whom),
		cmocka_unit_test(test_bytes_held),
		cmocka_unit_test(test_conflict_leaves_nothing),
		cmocka_unit_test(test_messages),
		cmocka_unit_test(test_qemu_respects_us),
		cmocka_unit_test(test_we_respect_qemu),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, remove_image);
}
