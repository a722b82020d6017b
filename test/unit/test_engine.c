/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * engine: the real engines on real files: direct, through the page cache, in memory.
 *
 * What depends on the process (forks, other threads, missing system calls) is tried in
 * children, which report by their exit status.
 */
#include "io/engine.h"
#include "io/file.h"
#include "io/sanitizer.h"

#include "test/unit/spy_engine.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define FILE_BYTES (16u << 20)

static struct spy_engine *spy;
static struct reactor *reactor;
static struct file *file;
static char path[512];

static uint8_t contents[FILE_BYTES]; /* of every file when a test begins */

static void fill(uint8_t *buf, uint64_t off, size_t len)
{
	memcpy(buf, contents + off, len);
}

static int make_contents(void **state)
{
	for (uint64_t off = 0; off < FILE_BYTES; off++)
		contents[off] = (uint8_t)(off * 11 + (off >> 9) * 3 + (off >> 17));
	return 0;
}

static uint8_t *get_memory(size_t len)
{
	uint8_t *memory = aligned_alloc(4096, (len + 4095) & ~(size_t)4095);

	if (!memory)
		abort();
	return memory;
}

static void make_file(const char *folder)
{
	int fd;

	snprintf(path, sizeof(path), "%s/test_engine.%d", folder, (int)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, contents, FILE_BYTES) != FILE_BYTES || fsync(fd) || close(fd))
		abort();
}

static bool make_reactor(const char *engine_name, unsigned nb_workers)
{
	struct reactor_params params;

	/* Valgrind 3.19 keeps all threads waiting while one is in io_uring_enter(). */
	if (RUNNING_ON_VALGRIND && !strcmp(engine_name, "uring"))
		return false;
	spy = spy_engine_create(engine_name);
	if (!spy)
		return false;
	params = (struct reactor_params){.engine = &spy->engine, .nb_workers = nb_workers};
	if (reactor_create(&params, &reactor))
		abort();
	return true;
}

static void open_file(bool no_direct)
{
	struct file_open_params params = {
		.dirfd = AT_FDCWD,
		.path = path,
		.writable = true,
		.lock = FILE_LOCK_WRITE,
		.no_direct = no_direct,
	};

	if (file_open(reactor, &params, &file, NULL))
		abort();
}

static void close_all(void)
{
	file_close(file);
	reactor_destroy(reactor);
	unlink(path);
}

/* ---- each engine, each kind of file ---- */

/* Runs `fn` for every engine on a direct, a buffered and a memory file. */
static void for_each_engine(void (*fn)(void *arg))
{
	for (int i = 0; i < NB_ENGINES; i++) {
		for (int kind = 0; kind < 3; kind++) {
			if (!make_reactor(engine_names[i], i == 1 ? 0 : 2))
				break;
			make_file(kind == 2 ? "/dev/shm" : ".");
			open_file(kind == 1);
			if (kind == 1)
				assert_int_not_equal(file->path, FILE_DIRECT);
			else if (kind == 2)
				assert_int_equal(file->path, FILE_MEMORY);
			reactor_run(reactor, fn, NULL);
			assert_int_equal(spy->nb_unaligned, 0);
			assert_in_range(spy->nb_requests, 1, 1000000);
			close_all();
		}
	}
}

/* The file as others see it. */
static void assert_on_host(uint64_t off, const uint8_t *expected, size_t len)
{
	uint8_t *buf = get_memory(len);
	int fd = open(path, O_RDONLY);

	assert_int_equal(pread(fd, buf, len, (off_t)off), len);
	assert_memory_equal(buf, expected, len);
	close(fd);
	free(buf);
}

static void move_data(void *arg)
{
	static const struct {
		uint64_t off;
		size_t len;
	} ranges[] = {{0, 512}, {4096, 65536}, {777, 3333}, {1 << 20, 1 << 20}, {5000001, 2345678}};
	uint8_t *expected = get_memory(4 << 20), *buf = get_memory(4 << 20);

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		uint64_t off = ranges[i].off;
		size_t len = ranges[i].len;

		fill(expected, off, len);
		memset(buf, 0, len);
		assert_int_equal(file_read(file, off, buf, len, IO_TAG_DATA), 0);
		assert_memory_equal(buf, expected, len);
		for (size_t k = 0; k < len; k++)
			expected[k] ^= 0x5a;
		assert_int_equal(file_write(file, off, expected, len, IO_TAG_DATA), 0);
		assert_int_equal(file_flush(file), 0);
		assert_on_host(off, expected, len);
		for (size_t k = 0; k < len; k++)
			expected[k] ^= 0x5a;
		assert_int_equal(file_write(file, off, expected, len, IO_TAG_DATA), 0);
	}
	/* The end of the file, and behind it. */
	memset(buf, 0x99, 8192);
	assert_int_equal(file_read(file, FILE_BYTES - 100, buf, 8192, IO_TAG_DATA), 0);
	fill(expected, FILE_BYTES - 100, 100);
	memset(expected + 100, 0, 8092);
	assert_memory_equal(buf, expected, 8192);
	free(expected);
	free(buf);
}

static void test_data(void **state)
{
	for_each_engine(move_data);
}

static struct stat stat_path(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st;
}

static void change_space(void *arg)
{
	static uint8_t zeros[1 << 20];
	uint64_t sectors = file_host_sectors(file);

	assert_int_equal(file_punch(file, 1 << 20, 1 << 20), 0);
	assert_on_host(1 << 20, zeros, 1 << 20);
	assert_in_range(file_host_sectors(file), 1, sectors - 2000);
	assert_int_equal(file->stats.nb_fallbacks, 0);
	assert_int_equal(file_zero(file, (4 << 20) + 100, (1 << 20) - 200, IO_TAG_DATA), 0);
	assert_on_host((4 << 20) + 100, zeros, (1 << 20) - 200);
	assert_int_equal(stat_path().st_size, FILE_BYTES);
	assert_int_equal(file_allocate(file, FILE_BYTES, 1 << 20), 0);
	assert_int_equal(stat_path().st_size, FILE_BYTES + (1 << 20));
	assert_int_equal(file->size_bytes, FILE_BYTES + (1 << 20));
	assert_on_host(FILE_BYTES, zeros, 1 << 20);
	assert_int_equal(file_truncate(file, 12345), 0);
	assert_int_equal(stat_path().st_size, 12345);
	/* In the last block, which is not whole: the size stays. */
	assert_int_equal(file_write(file, 12340, "12345", 5, IO_TAG_DATA), 0);
	assert_int_equal(stat_path().st_size, 12345);
	assert_on_host(12340, (const uint8_t *)"12345", 5);
}

static void test_space(void **state)
{
	for_each_engine(change_space);
}

/* More at once than any queue of the engine holds. */
static void start_thousands(void *arg)
{
	enum { NB = 3500 };
	struct file_io *io = calloc(NB, sizeof(*io));
	struct iovec *iov = calloc(NB, sizeof(*iov));
	uint8_t *buf = get_memory((size_t)NB * 4096), *expected = get_memory((size_t)NB * 4096);

	assert_true(io && iov);
	for (unsigned i = 0; i < NB; i++) {
		iov[i] = (struct iovec){.iov_base = buf + (size_t)i * 4096, .iov_len = 4096};
		file_io_start(&io[i], file, IO_READ, (uint64_t)i * 4096, &iov[i], 1, IO_TAG_DATA);
	}
	for (unsigned i = 0; i < NB; i++)
		assert_int_equal(file_io_finish(&io[i]), 0);
	fill(expected, 0, (size_t)NB * 4096);
	assert_memory_equal(buf, expected, (size_t)NB * 4096);
	free(io);
	free(iov);
	free(buf);
	free(expected);
}

static void test_thousands_at_once(void **state)
{
	for_each_engine(start_thousands);
}

/* Whether a read is complete when file_io_start() returns. */
static bool reads_at_once(size_t len)
{
	uint8_t *buf = get_memory(len);
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct file_io io;
	bool completed;

	file_io_start(&io, file, IO_READ, 0, &iov, 1, IO_TAG_DATA);
	completed = io.completed;
	assert_int_equal(file_io_finish(&io), 0);
	free(buf);
	return completed;
}

static void read_both_sizes(void *arg)
{
	bool *at_once = arg;

	at_once[0] = reads_at_once(4096);
	at_once[1] = reads_at_once(1 << 20);
}

/* The cheap call first: what is in memory is not queued, unless it is a lot. */
static void test_cheap_call_first(void **state)
{
	for (int i = 0; i < 2; i++) {
		for (int kind = 1; kind < 3; kind++) {
			bool at_once[2];

			if (!make_reactor(engine_names[i], 2))
				break;
			make_file(kind == 2 ? "/dev/shm" : ".");
			open_file(true);
			reactor_run(reactor, read_both_sizes, at_once);
			assert_true(at_once[0]);
			assert_false(at_once[1]);
			close_all();
		}
	}
}

struct following {
	size_t len;
	uint64_t off;
	unsigned nb_calls;
};

/* Everything is there, and before anybody else has seen it. */
static void follow(void *arg, const void *data)
{
	struct following *following = arg;

	if (memcmp(data, contents + following->off, following->len))
		abort();
	following->nb_calls++;
}

static bool is_followed(uint64_t off, size_t len, size_t shift)
{
	uint8_t *memory = get_memory(len + 4096), *buf = memory + shift;
	struct following following = {.len = len, .off = off};
	struct io_sequel sequel = {.fn = follow, .arg = &following};
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct file_io io;
	size_t inside = off + len > FILE_BYTES ? FILE_BYTES - off : len;

	file_io_start_read(&io, file, off, &iov, IO_TAG_DATA, &sequel);
	assert_int_equal(file_io_finish(&io), 0);
	assert_int_equal(following.nb_calls, sequel.ran);
	if (!sequel.ran) {
		assert_memory_equal(buf, contents + off, inside);
		for (size_t i = inside; i < len; i++)
			assert_int_equal(buf[i], 0);
	}
	free(memory);
	return sequel.ran;
}

static void read_and_follow(void *arg)
{
	const char *engine_name = file->engine == &spy->engine ? spy->inner->ops->name : "";
	bool in_kernel = !strcmp(engine_name, "io_uring") && file->path != FILE_MEMORY;

	assert_string_not_equal(engine_name, "");
	assert_int_equal(is_followed(4096, 128 << 10, 0), !in_kernel);
	assert_false(is_followed(FILE_BYTES - 4096, 128 << 10, 0));
	/* What passes through another buffer is not there when the call is over. */
	assert_int_equal(is_followed(4096 + 7, 128 << 10, 3), file->align == 1 && !in_kernel);
}

static void test_sequel(void **state)
{
	for_each_engine(read_and_follow);
}

/* ---- who flushes ---- */

static unsigned count_workers(void)
{
	DIR *tasks = opendir("/proc/self/task");
	unsigned nb_workers = 0;

	assert_non_null(tasks);
	for (struct dirent *entry; (entry = readdir(tasks));) {
		char name[sizeof("/comm") + NAME_MAX], comm[16] = "";
		int fd;

		snprintf(name, sizeof(name), "%s/comm", entry->d_name);
		fd = openat(dirfd(tasks), name, O_RDONLY);
		nb_workers +=
			fd >= 0 && read(fd, comm, sizeof(comm)) > 0 && !strcmp(comm, "worker\n");
		close(fd);
	}
	closedir(tasks);
	return nb_workers;
}

static pthread_barrier_t jobs_end;

static void wait_for_end(void *arg)
{
	pthread_barrier_wait(&jobs_end);
}

/* A worker, unless it is the last one that is free. */
static void flush_beside_jobs(void *arg)
{
	struct worker_pool *pool = reactor_workers(reactor);
	struct worker_job jobs[2];

	assert_int_equal(file_write(file, 0, contents, 4096, IO_TAG_DATA), 0);
	assert_int_equal(file_flush(file), 0);
	assert_int_equal(count_workers(), 1);
	for (int i = 0; i < 2; i++) {
		jobs[i] = (struct worker_job){.fn = wait_for_end};
		worker_submit(pool, &jobs[i]);
		assert_int_equal(file_flush(file), 0);
	}
	pthread_barrier_wait(&jobs_end);
}

static void test_flush_by_a_worker(void **state)
{
	if (!make_reactor("uring", 2))
		skip();
	make_file(".");
	open_file(false);
	assert_int_equal(pthread_barrier_init(&jobs_end, NULL, 3), 0);
	if (file->path != FILE_MEMORY) /* where the call is made at once */
		reactor_run(reactor, flush_beside_jobs, NULL);
	close_all();
	pthread_barrier_destroy(&jobs_end);
}

/* ---- threads ---- */

static void read_one(void *arg)
{
	static uint64_t off;
	uint8_t buf[4096], expected[4096];

	off = (off + 40960) % FILE_BYTES;
	fill(expected, off, 4096);
	assert_int_equal(file_read(file, off, buf, 4096, IO_TAG_DATA), 0);
	assert_memory_equal(buf, expected, 4096);
}

/* The main thread opens, then the reactor's own thread takes over, and so on. */
static void test_other_threads_take_over(void **state)
{
	for (int i = 0; i < NB_ENGINES; i++) {
		if (!make_reactor(engine_names[i], 0))
			continue;
		make_file(".");
		open_file(false);
		for (int round = 0; round < 5; round++) {
			reactor_run(reactor, read_one, NULL);
			assert_int_equal(reactor_start(reactor), 0);
			for (int k = 0; k < 20; k++)
				reactor_run(reactor, read_one, NULL);
			reactor_stop(reactor);
			/* Opened by this thread while the ring is the other's. */
			file_close(file);
			open_file(false);
		}
		close_all();
	}
}

static void do_nothing(void *arg)
{
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_30ms(void *arg)
{
	co_sleep(30 * 1000 * 1000);
}

/* Who is not woken waits for ever; a busy machine takes its time. */
#define WAKE_MAX_NS 60000000000ull

static void test_sleep_and_wake(void **state)
{
	for (int i = 0; i < NB_ENGINES; i++) {
		uint64_t start_ns;

		if (!make_reactor(engine_names[i], 0))
			continue;
		start_ns = now_ns();
		reactor_run(reactor, sleep_30ms, NULL);
		assert_in_range(now_ns() - start_ns, 30000000, WAKE_MAX_NS);

		assert_int_equal(reactor_start(reactor), 0);
		for (int k = 0; k < 200; k++) {
			if (k % 50 == 0)
				usleep(2000); /* let it fall asleep */
			reactor_run(reactor, do_nothing, NULL);
		}
		start_ns = now_ns();
		usleep(20000);
		reactor_run(reactor, do_nothing, NULL);
		assert_in_range(now_ns() - start_ns, 20000000, WAKE_MAX_NS);
		reactor_destroy(reactor);
	}
}

/* What this process uses of the CPU in 200 ms of sleep. */
static uint64_t idle_cpu_ns(void)
{
	struct timespec before, after;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	usleep(200000);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	return (uint64_t)(after.tv_sec - before.tv_sec) * 1000000000u + (uint64_t)after.tv_nsec -
	       (uint64_t)before.tv_nsec;
}

/*
 * An idle reactor uses no CPU: its wait() does not return for nothing. On a virtual machine the
 * time that its host takes away is counted, too: once in a while nothing is.
 */
static void test_idle_is_idle(void **state)
{
	for (int i = 0; i < NB_ENGINES; i++) {
		uint64_t used_ns = UINT64_MAX;

		if (!make_reactor(engine_names[i], 0))
			continue;
		make_file(".");
		open_file(false);
		assert_int_equal(reactor_start(reactor), 0);
		reactor_run(reactor, read_one, NULL);
		usleep(5000);
		for (int k = 0; k < 20 && used_ns > 50000000; k++)
			used_ns = idle_cpu_ns();
		assert_in_range(used_ns, 0, 50000000);
		reactor_stop(reactor);
		close_all();
	}
}

/* ---- processes ---- */

/* The thread sanitizer supports no threads after a fork. */
#if defined(__SANITIZE_THREAD__)
#define THREADS_AFTER_FORK 0
#elif defined(__has_feature)
#define THREADS_AFTER_FORK (!__has_feature(thread_sanitizer))
#else
#define THREADS_AFTER_FORK 1
#endif

/* Runs `fn` in a child; what it returns is its exit status. */
static int in_child(int (*fn)(const char *engine_name), const char *engine_name)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(fn(engine_name));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* Without cmocka's assertions: a child has nowhere to jump to. */
static void check_one(void *arg)
{
	uint8_t *buf = get_memory(4096), *expected = get_memory(4096);

	fill(expected, 8192, 4096);
	*(bool *)arg = file_read(file, 8192, buf, 4096, IO_TAG_DATA) == 0 &&
		       !memcmp(buf, expected, 4096) &&
		       file_write(file, 8192, buf, 4096, IO_TAG_DATA) == 0 && file_flush(file) == 0;
	free(buf);
	free(expected);
}

static int use_after_fork(const char *engine_name)
{
	bool on_main = false, on_thread = false;

	reactor_run(reactor, check_one, &on_main);
	if (reactor_start(reactor))
		return 2;
	reactor_run(reactor, check_one, &on_thread);
	reactor_stop(reactor);
	file_close(file);
	reactor_destroy(reactor);
	return on_main && on_thread ? 0 : 1;
}

/* A program opens its images first and becomes a daemon then. */
static void test_fork(void **state)
{
	if (!THREADS_AFTER_FORK)
		skip();
	for (int i = 0; i < NB_ENGINES; i++) {
		if (!make_reactor(engine_names[i], 0))
			continue;
		make_file(".");
		open_file(false);
		reactor_run(reactor, read_one, NULL);
		assert_int_equal(in_child(use_after_fork, NULL), 0);
		reactor_run(reactor, read_one, NULL);
		close_all();
	}
}

static int choose_engine(const char *engine_name)
{
	struct engine *engine;
	const char *why;
	int ret;

	deny_system_call(SYS_io_uring_setup, EPERM);
	if (engine_create_by_name("uring", &engine, &why) != -EPERM || why)
		return 1;
	ret = engine_create_by_name("auto", &engine, &why);
	if (ret || strcmp(engine->ops->name, "threads") != 0 || !why)
		return 2;
	engine->ops->destroy(engine);
	return engine_create_by_name("bogus", &engine, &why) == -EINVAL ? 0 : 3;
}

static void test_choice_of_engine(void **state)
{
	struct engine *engine;
	const char *why;

	assert_int_equal(in_child(choose_engine, NULL), 0);
	assert_int_equal(engine_create_by_name("auto", &engine, &why), 0);
	assert_true(!strcmp(engine->ops->name, "io_uring") == !why);
	engine->ops->destroy(engine);
}

/* The ring is lost with the thread that made it, and a sandbox permits no other. */
static int lose_ring(const char *engine_name)
{
	bool ok = false;

	if (!make_reactor(engine_name, 0))
		return 0;
	open_file(false);
	reactor_run(reactor, check_one, &ok);
	if (!ok)
		return 1;
	deny_system_call(SYS_io_uring_setup, EPERM);
	ok = false;
	if (reactor_start(reactor))
		return 2;
	reactor_run(reactor, check_one, &ok);
	usleep(2000);
	reactor_run(reactor, do_nothing, NULL);
	reactor_stop(reactor);
	file_close(file);
	reactor_destroy(reactor);
	return ok ? 0 : 3;
}

static void test_lost_ring(void **state)
{
	if (!THREADS_AFTER_FORK)
		skip();
	make_file(".");
	assert_int_equal(in_child(lose_ring, "uring"), 0);
	unlink(path);
}

/* ---- files ---- */

/* A lease for writing is granted only while nobody else has the file open. */
static bool somebody_has_it_open(void)
{
	int fd = open(path, O_RDWR);
	bool open_elsewhere = true;

	for (int i = 0; i < 1500 && open_elsewhere; i++) {
		open_elsewhere = fcntl(fd, F_SETLEASE, F_WRLCK) < 0;
		if (open_elsewhere && errno != EAGAIN && errno != EBUSY)
			abort();
		if (open_elsewhere)
			usleep(20000);
	}
	close(fd);
	return open_elsewhere;
}

static void test_close_is_close(void **state)
{
	for (int i = 0; i < NB_ENGINES; i++) {
		for (int threaded = 0; threaded < 2; threaded++) {
			if (!make_reactor(engine_names[i], 0))
				break;
			make_file(".");
			open_file(false);
			reactor_run(reactor, read_one, NULL);
			if (threaded) { /* the ring is then another thread's */
				assert_int_equal(reactor_start(reactor), 0);
				reactor_run(reactor, read_one, NULL);
				reactor_stop(reactor);
			}
			file_close(file);
			assert_false(somebody_has_it_open());
			reactor_destroy(reactor);
			unlink(path);
		}
	}
}

/* More files than an engine registers. */
static void test_many_files(void **state)
{
	enum { NB = 300 };
	static struct file *files[NB];

	make_file(".");
	for (int i = 0; i < NB_ENGINES; i++) {
		if (!make_reactor(engine_names[i], 0))
			continue;
		for (int k = 0; k < NB; k++) {
			struct file_open_params params = {
				.dirfd = AT_FDCWD,
				.path = path,
				.lock = FILE_LOCK_READ,
			};

			assert_int_equal(file_open(reactor, &params, &files[k], NULL), 0);
		}
		for (int k = 0; k < NB; k += 13) {
			file = files[k];
			reactor_run(reactor, read_one, NULL);
		}
		for (int k = 0; k < NB; k++)
			file_close(files[k]);
		reactor_destroy(reactor);
	}
	unlink(path);
}

/* ---- a source ---- */

#define NB_MESSAGES 2000

struct pipe_source {
	struct reactor_source source;
	unsigned nb_taken, nb_asked;
};

static unsigned take_one(struct reactor_source *source)
{
	struct pipe_source *from = (struct pipe_source *)source;
	char byte;

	from->nb_asked++;
	if (read(source->fd, &byte, 1) != 1)
		return 0;
	from->nb_taken++;
	return 1;
}

/* In bursts, and after pauses in which the reactor falls asleep. */
static void *fill_pipe(void *arg)
{
	for (int i = 0; i < NB_MESSAGES; i++) {
		if (write(*(int *)arg, "x", 1) != 1)
			abort();
		if (i % 50 == 0)
			usleep(1000);
	}
	return NULL;
}

static void coroutine_fn take_from_pipe(void *arg)
{
	struct pipe_source *from = arg;

	reactor_set_source(reactor, &from->source);
	while (from->nb_taken < NB_MESSAGES)
		co_sleep(1000000);
	/* Nothing comes: nothing is asked. */
	co_sleep(10000000);
	from->nb_asked = 0;
	co_sleep(50000000);
	reactor_set_source(reactor, NULL);
}

static void test_source(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct pipe_source from = {.source.take = take_one};
		pthread_t writer;
		int fds[2];

		if (!make_reactor(i ? "threads" : "uring", 0))
			continue;
		assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
		from.source.fd = fds[0];
		assert_int_equal(pthread_create(&writer, NULL, fill_pipe, &fds[1]), 0);
		reactor_run(reactor, take_from_pipe, &from);
		pthread_join(writer, NULL);
		assert_int_equal(from.nb_taken, NB_MESSAGES);
		assert_true(from.nb_asked <= 1);
		reactor_destroy(reactor);
		close(fds[0]);
		close(fds[1]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_data),
		cmocka_unit_test(test_space),
		cmocka_unit_test(test_thousands_at_once),
		cmocka_unit_test(test_cheap_call_first),
		cmocka_unit_test(test_sequel),
		cmocka_unit_test(test_flush_by_a_worker),
		cmocka_unit_test(test_other_threads_take_over),
		cmocka_unit_test(test_sleep_and_wake),
		cmocka_unit_test(test_idle_is_idle),
		cmocka_unit_test(test_fork),
		cmocka_unit_test(test_choice_of_engine),
		cmocka_unit_test(test_lost_ring),
		cmocka_unit_test(test_close_is_close),
		cmocka_unit_test(test_many_files),
		cmocka_unit_test(test_source),
	};

	return cmocka_run_group_tests(tests, make_contents, NULL);
}
