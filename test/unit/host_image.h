/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * host_image: for unit tests of images in real files: in a folder in memory, or where the test
 * runs. A test body runs in a coroutine (HOST_TEST).
 */
#ifndef QCOW2FS_TEST_UNIT_HOST_IMAGE_H
#define QCOW2FS_TEST_UNIT_HOST_IMAGE_H

#include "core/create.h"
#include "core/map.h"
#include "io/buf.h"
#include "io/reactor.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const host_names[] = {"a", "b", "c"};
static char host_memory_folder[] = "/dev/shm/qf-test-XXXXXX";
static int host_first_folder;
static struct reactor *host_reactor;
static struct host_opener host;
static struct image *image;

static inline void host_remove_images(void)
{
	for (unsigned i = 0; i < sizeof(host_names) / sizeof(host_names[0]); i++)
		unlink(host_names[i]);
}

/* An assertion that fails in a coroutine may end the program: nothing stays in memory. */
static inline void host_abort(int signal_number)
{
	host_remove_images();
	rmdir(host_memory_folder);
}

static inline int host_group_setup(void **state)
{
	signal(SIGABRT, host_abort);
	host_first_folder = open(".", O_PATH | O_DIRECTORY);
	return host_first_folder < 0 || !mkdtemp(host_memory_folder);
}

static inline int host_group_teardown(void **state)
{
	close(host_first_folder);
	return rmdir(host_memory_folder);
}

static inline int host_setup_with(bool no_direct)
{
	struct reactor_params params = {0};

	if (engine_threads_create(2, &params.engine) || reactor_create(&params, &host_reactor))
		return 1;
	host_opener_init(&host, host_reactor, NAMES_AUTO, no_direct);
	return 0;
}

static inline int host_setup(void **state)
{
	return chdir(host_memory_folder) || host_setup_with(false);
}

static inline int host_teardown(void **state)
{
	host_opener_finish(&host);
	reactor_destroy(host_reactor);
	buf_trim();
	host_remove_images();
	return fchdir(host_first_folder);
}

/* A test whose body is a coroutine of the reactor. */
#define HOST_TEST(name)                                       \
	static void coroutine_fn name##_body(void *arg);      \
	static void name(void **state)                        \
	{                                                     \
		reactor_run(host_reactor, name##_body, NULL); \
	}                                                     \
	static void coroutine_fn name##_body(void *arg)

/* ---- images ---- */

static inline struct file *coroutine_fn host_create_file(const char *name)
{
	struct file *file = NULL;
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(host.opener.open(&host.opener, OPENER_IMAGE, NULL, name, true,
					  FILE_LOCK_WRITE, &file, NULL),
			 0);
	return file;
}

static inline void coroutine_fn host_create(const char *name, const struct create_params *params)
{
	struct file *file = host_create_file(name);
	struct file *data = params->data_name ? host_create_file(params->data_name) : NULL;

	assert_int_equal(create_format(file, data, params, NULL), 0);
	file_close(data);
	file_close(file);
}

static inline struct create_params host_params(unsigned cluster_bits, uint64_t virtual_size)
{
	struct create_params params = CREATE_DEFAULTS;

	params.cluster_bits = cluster_bits;
	params.virtual_size = virtual_size;
	return params;
}

static inline void coroutine_fn host_open(const char *name)
{
	struct error *error = NULL;

	if (image_open(&host.opener, name, &(struct image_options){.writable = true}, &image,
		       &error))
		fail_msg("%s: %s", name, error->msg);
	image_publish(image);
}

static inline void coroutine_fn host_create_and_open(const struct create_params *params)
{
	host_create("a", params);
	host_open("a");
}

static inline void coroutine_fn host_close(void)
{
	assert_int_equal(image_close(image), 0);
}

#define HOST_MEMORY_TEST(name) cmocka_unit_test_setup_teardown(name, host_setup, host_teardown)

#endif
