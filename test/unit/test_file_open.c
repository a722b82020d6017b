/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_open: what may be opened, and how each kind of object is accessed: the block
 * size found, and that every request on disks with 512- and 4,096-byte sectors honours
 * it, seen by a spy before the engine.
 *
 * Disks are loop devices; without root (or losetup) those tests skip.
 */
#include "io/file.h"

#include "test/unit/spy_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define DISK_BYTES (24u << 20)

static struct spy_engine *spy;
static struct reactor *reactor;
static struct file *file;

/* false where the engine is not permitted. */
static bool start(const char *engine_name)
{
	struct reactor_params params;

	spy = spy_engine_create(engine_name);
	if (!spy)
		return false;
	params = (struct reactor_params){.engine = &spy->engine};
	return reactor_create(&params, &reactor) == 0;
}

static int start_sync(void **state)
{
	return !start("sync");
}

static int stop(void **state)
{
	reactor_destroy(reactor);
	return 0;
}

static int open_path(const char *path, bool writable, bool no_direct, struct error **reterr)
{
	struct file_open_params params = {
		.dirfd = AT_FDCWD,
		.path = path,
		.writable = writable,
		.lock = writable ? FILE_LOCK_WRITE : FILE_LOCK_READ,
		.no_direct = no_direct,
	};

	return file_open(reactor, &params, &file, reterr);
}

static void make_file(const char *path, off_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size) | fsync(fd) | close(fd), 0);
}

/* ---- what may be opened ---- */

static void assert_refused(const char *path, int err, const char *msg)
{
	struct error *error = NULL;

	assert_int_equal(open_path(path, false, false, &error), -err);
	assert_int_equal(error->class, ERROR_OPEN);
	assert_int_equal(error->err, err);
	assert_string_equal(error->msg, msg);
	error_free(error);
}

static void test_kinds(void **state)
{
	alarm(20); /* a fifo that blocks its opener */
	unlink("fifo");
	assert_int_equal(mkfifo("fifo", 0600), 0);
	assert_refused("fifo", ENOTSUP, "neither a regular file nor a block device");
	assert_refused("/dev/zero", ENOTSUP, "neither a regular file nor a block device");
	assert_refused(".", EISDIR, "Is a directory");
	assert_refused("missing", ENOENT, "No such file or directory");
	assert_refused("", ENOENT, "No such file or directory");
	unlink("fifo");
	alarm(0);
}

/* The number of a closed standard stream is no image's. */
static void test_closed_stream(void **state)
{
	int saved = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);

	make_file("file", 100);
	close(STDIN_FILENO);
	assert_int_equal(open_path("file", true, false, NULL), 0);
	assert_true(file->fd > STDERR_FILENO);
	assert_true(fcntl(file->fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(fcntl(STDIN_FILENO, F_GETFD), -1);
	file_close(file);
	if (saved >= 0)
		assert_int_equal(dup2(saved, STDIN_FILENO), STDIN_FILENO);
	close(saved);
}

static void test_facts(void **state)
{
	struct stat st;

	make_file("plain", 10001);
	assert_int_equal(open_path("plain", true, false, NULL), 0);
	assert_int_equal(stat("plain", &st), 0);
	assert_int_equal(file->size_bytes, 10001);
	assert_int_equal(file->ino, st.st_ino);
	assert_int_equal(file->dev, st.st_dev);
	assert_int_equal(file->uid, geteuid());
	assert_int_equal(file->mode, S_IFREG | 0600);
	assert_string_equal(file->name, "plain");
	assert_true(file->writable);
	assert_false(file->is_block_device);
	assert_int_equal(file_host_sectors(file), st.st_blocks);
	/* It must neither survive an exec nor be "never wait" for the kernel. */
	assert_int_equal(fcntl(file->fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(file->fd, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(!!(fcntl(file->fd, F_GETFL) & O_DIRECT), file->path == FILE_DIRECT);
	file_close(file);
	unlink("plain");
}

static void test_cached(void **state)
{
	make_file("plain", 10001);
	assert_int_equal(open_path("plain", true, true, NULL), 0);
	assert_int_not_equal(file->path, FILE_DIRECT);
	assert_int_equal(file->align, 1);
	assert_int_equal(fcntl(file->fd, F_GETFL) & O_DIRECT, 0);
	file_close(file);
	unlink("plain");
}

static void test_memory(void **state)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/shm/test_file_open.%d", (int)getpid());
	make_file(path, 10001);
	assert_int_equal(open_path(path, true, false, NULL), 0);
	assert_int_equal(file->path, FILE_MEMORY);
	assert_int_equal(file->align, 1);
	file_close(file);
	unlink(path);
}

static void test_locked(void **state)
{
	struct error *error = NULL;
	struct file *first;

	make_file("plain", 10001);
	assert_int_equal(open_path("plain", true, false, NULL), 0);
	first = file;
	assert_int_equal(open_path("plain", false, false, &error), -EAGAIN);
	assert_int_equal(error->class, ERROR_LOCKED);
	error_free(error);
	file_close(first);
	assert_int_equal(open_path("plain", false, false, NULL), 0);
	file_close(file);
	unlink("plain");
}

/* ---- disks ---- */

static char loop_device[64];

/* A loop device over disk.img, or false where there are none to be had. */
static bool attach_disk(unsigned sector_bytes)
{
	char command[128];
	FILE *pipe;

	make_file("disk.img", DISK_BYTES);
	snprintf(command, sizeof(command),
		 "losetup --find --show --sector-size %u disk.img 2>/dev/null", sector_bytes);
	pipe = popen(command, "r");
	if (!pipe || !fgets(loop_device, sizeof(loop_device), pipe))
		loop_device[0] = '\0';
	if (pipe)
		pclose(pipe);
	loop_device[strcspn(loop_device, "\n")] = '\0';
	return loop_device[0];
}

/* Whatever a test got done of it is undone. */
static int detach_disk(void **state)
{
	char command[128];

	/* The kernel takes the ring of a process that has ended apart a little later. */
	for (int i = 0; i < 1000 && umount("mnt") < 0 && errno == EBUSY; i++)
		usleep(10000);
	rmdir("mnt");
	snprintf(command, sizeof(command), "losetup --detach %s", loop_device);
	if (loop_device[0] && system(command) != 0)
		return 1;
	loop_device[0] = '\0';
	unlink("disk.img");
	return 0;
}

/* A file of 2 MiB on a file system on the disk. */
static void make_file_on_disk(void)
{
	char command[256];

	snprintf(command, sizeof(command),
		 "mkfs.ext4 -q -b 4096 %s && mkdir -p mnt && mount %s mnt", loop_device,
		 loop_device);
	if (system(command) != 0)
		skip();
	make_file("mnt/file", 2 << 20);
}

/* Random requests of any range, against a copy in memory; then what the host has. */
static void random_requests(void *arg)
{
	static uint8_t model[1 << 20], buf[(1 << 20) + 64];
	uint32_t random = 12345;

	assert_int_equal(file_zero(file, 0, sizeof(model), IO_TAG_DATA), 0);
	memset(model, 0, sizeof(model));
	for (int i = 0; i < 300; i++) {
		uint64_t off, len;
		uint8_t *start = buf + i % 3;

		random = random * 1664525 + 1013904223;
		off = (random >> 8) % sizeof(model);
		random = random * 1664525 + 1013904223;
		len = (random >> 8) % (i % 5 ? 9000 : sizeof(model));
		if (len > sizeof(model) - off)
			len = sizeof(model) - off;
		if (random & 128) {
			memset(start, i, len);
			memset(model + off, i, len);
			assert_int_equal(file_write(file, off, start, len, IO_TAG_DATA), 0);
		} else {
			assert_int_equal(file_read(file, off, start, len, IO_TAG_DATA), 0);
			assert_memory_equal(start, model + off, len);
		}
	}
	assert_int_equal(file_flush(file), 0);
	assert_int_equal(file_read(file, 0, buf, sizeof(model), IO_TAG_DATA), 0);
	assert_memory_equal(buf, model, sizeof(model));
}

static void assert_direct(uint32_t align)
{
	assert_int_equal(file->path, FILE_DIRECT);
	assert_int_equal(file->align, align);
	reactor_run(reactor, random_requests, NULL);
	assert_int_equal(spy->nb_unaligned, 0);
	assert_in_range(spy->nb_requests, 300, 10000);
	assert_int_equal(file->stats.nb_errors, 0);
}

static void for_each_disk(void (*fn)(uint32_t sector_bytes))
{
	if (geteuid() != 0)
		skip();
	for (int i = 0; i < NB_ENGINES; i++) {
		for (uint32_t sector_bytes = 512; sector_bytes <= 4096; sector_bytes *= 8) {
			if (!start(engine_names[i]))
				break;
			if (!attach_disk(sector_bytes))
				skip();
			fn(sector_bytes);
			reactor_destroy(reactor);
			assert_int_equal(detach_disk(NULL), 0);
		}
	}
}

static void use_disk(uint32_t sector_bytes)
{
	assert_int_equal(open_path(loop_device, true, false, NULL), 0);
	assert_true(file->is_block_device);
	assert_int_equal(file->size_bytes, DISK_BYTES);
	assert_int_equal(file_host_sectors(file), DISK_BYTES / 512);
	assert_direct(sector_bytes);
	file_close(file);
}

static void test_block_device(void **state)
{
	for_each_disk(use_disk);
}

static void use_file_system(uint32_t sector_bytes)
{
	make_file_on_disk();
	assert_int_equal(open_path("mnt/file", true, false, NULL), 0);
	assert_direct(sector_bytes);
	assert_int_equal(file->stats.nb_fallbacks, 0);
	file_close(file);
}

static void test_file_system(void **state)
{
	for_each_disk(use_file_system);
}

/* A kernel that does not tell: the device's sector size and real reads find the same. */
static int probe_without_statx(const char *path, uint32_t align)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		deny_system_call(SYS_statx, EINVAL);
		_exit(open_path(path, true, false, NULL) != 0 || file->path != FILE_DIRECT ||
		      file->align != align);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void probe_disk(uint32_t sector_bytes)
{
	assert_int_equal(probe_without_statx(loop_device, sector_bytes), 0);
}

static void test_probing(void **state)
{
	for_each_disk(probe_disk);
}

static void probe_file_system(uint32_t sector_bytes)
{
	make_file_on_disk();
	assert_int_equal(probe_without_statx("mnt/file", sector_bytes), 0);
}

static void test_probing_file_system(void **state)
{
	for_each_disk(probe_file_system);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_kinds, start_sync, stop),
		cmocka_unit_test_setup_teardown(test_closed_stream, start_sync, stop),
		cmocka_unit_test_setup_teardown(test_facts, start_sync, stop),
		cmocka_unit_test_setup_teardown(test_cached, start_sync, stop),
		cmocka_unit_test_setup_teardown(test_memory, start_sync, stop),
		cmocka_unit_test_setup_teardown(test_locked, start_sync, stop),
		cmocka_unit_test_teardown(test_block_device, detach_disk),
		cmocka_unit_test_teardown(test_file_system, detach_disk),
		cmocka_unit_test_teardown(test_probing, detach_disk),
		cmocka_unit_test_teardown(test_probing_file_system, detach_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
