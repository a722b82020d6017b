/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * opener: what a name inside an image reaches, and what it must not.
 *
 * The scene: image.qcow2 and what belongs to it lie in home/, a secret beside home/.
 * Every attack runs twice: with openat2, and with the walk that replaces it.
 */
#include "io/opener.h"

#include "io/file_lock.h"
#include "test/unit/spy_engine.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define STRANGER 12345 /* a user id that is not ours */

static char scene[400]; /* absolute */
static struct reactor *reactor;
static struct file *image;

static void put(const char *name)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd < 0 || write(fd, name, strlen(name)) < 0 || close(fd))
		abort();
}

/* An image's file as its user names it. */
static struct file *open_as(const char *path, enum file_lock lock)
{
	struct file_open_params params = {
		.dirfd = AT_FDCWD, .path = path, .writable = true, .lock = lock};
	struct file *file;

	assert_int_equal(file_open(reactor, &params, &file, NULL), 0);
	return file;
}

static int setup(void **state)
{
	struct engine *engine;
	struct reactor_params params = {0};

	if (system("rm -rf scene && mkdir -p scene/home/sub scene/homework && "
		   "mkfifo scene/home/fifo") != 0 ||
	    chdir("scene") || !getcwd(scene, sizeof(scene)))
		return 1;
	put("secret");
	put("homework/secret");
	put("home/image.qcow2");
	put("home/base");
	put("home/sub/base");
	if (symlink("base", "home/link_inside") || symlink("../secret", "home/link_outside") ||
	    symlink("..", "home/link_up") || symlink("/", "home/link_root") ||
	    symlink("link_loop", "home/link_loop") || symlink("sub", "home/link_sub"))
		return 1;
	if (engine_sync_create(&engine))
		return 1;
	params.engine = engine;
	if (reactor_create(&params, &reactor))
		return 1;
	image = open_as("home/image.qcow2", FILE_LOCK_NONE);
	return 0;
}

static int teardown(void **state)
{
	file_close(image);
	reactor_destroy(reactor);
	return chdir("..") || system("rm -rf scene");
}

/* Opens `name` as it would stand in `holder`; 0 or -errno. */
static int open_from(const struct file *holder, enum names_policy policy, enum opener_role role,
		     const char *name, struct file **ret_file, struct error **reterr)
{
	struct host_opener host;

	host_opener_init(&host, reactor, policy, false);
	return host.opener.open(&host.opener, role, holder, name, false, FILE_LOCK_READ, ret_file,
				reterr);
}

static bool reaches(enum names_policy policy, enum opener_role role, const char *name)
{
	struct file *file;
	struct error *error = NULL;
	int ret = open_from(image, policy, role, name, &file, &error);

	if (ret == 0) {
		file_close(file);
		return true;
	}
	if (!error || error->class != ERROR_BACKING)
		abort();
	error_free(error);
	return false;
}

/* The message of the refusal, to be freed by error_free(). */
static struct error *refusal(enum names_policy policy, enum opener_role role, const char *name)
{
	struct error *error = NULL;
	struct file *file;

	assert_true(open_from(image, policy, role, name, &file, &error) < 0);
	assert_non_null(error);
	return error;
}

static void assert_refused(enum names_policy policy, enum opener_role role, const char *name,
			   const char *msg)
{
	struct error *error = refusal(policy, role, name);

	assert_int_equal(error->class, ERROR_BACKING);
	assert_string_equal(error->msg, msg);
	error_free(error);
}

/* ---- attacks ---- */

/* Names that must reach nothing when the image is confined; the first that does, or NULL. */
static const char *find_escape(enum names_policy policy, enum opener_role role)
{
	char absolute[512], dots[600], homework[512], self[64];
	int fd = open("secret", O_RDONLY);
	const char *const names[] = {
		"../secret",
		"sub/../../secret",
		"./.././secret",
		"..",
		".",
		"sub",
		"link_outside",
		"link_up/secret",
		"link_root/etc/passwd",
		"link_loop",
		"/etc/passwd",
		"//etc/passwd",
		"/proc/self/exe",
		"/dev/stdin",
		"/dev/zero",
		"fifo",
		absolute,
		dots,
		homework,
		self,
	};
	const char *escape = NULL;

	snprintf(absolute, sizeof(absolute), "%s/secret", scene);
	snprintf(dots, sizeof(dots), "%s/home/../secret", scene);
	snprintf(homework, sizeof(homework), "%s/homework/secret", scene);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !escape; i++)
		if (reaches(policy, role, names[i]))
			escape = names[i];
	close(fd);
	return escape ? strdup(escape) : NULL;
}

/* Names beneath the image's directory; the first that is refused, or NULL. */
static const char *find_refused(enum names_policy policy, enum opener_role role)
{
	static char absolute[512];
	const char *const names[] = {"base", "sub/base", "./base", "sub//base", absolute};

	snprintf(absolute, sizeof(absolute), "%s/home/sub/base", scene);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!reaches(policy, role, names[i]))
			return names[i];
	return NULL;
}

static int attack(void)
{
	static const struct {
		enum names_policy policy;
		enum opener_role role;
	} cases[] = {
		{NAMES_BENEATH, OPENER_BACKING},
		{NAMES_BENEATH, OPENER_DATA},
		{NAMES_AUTO, OPENER_DATA},
		{NAMES_ANY, OPENER_DATA},
	};
	int nb_failed = 0;

	alarm(120); /* a fifo that blocks */
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *escape = find_escape(cases[i].policy, cases[i].role);
		const char *refused = find_refused(cases[i].policy, cases[i].role);

		if (escape)
			printf("case %zu reached %s\n", i, escape);
		if (refused)
			printf("case %zu did not reach %s\n", i, refused);
		nb_failed += escape || refused;
	}
	alarm(0);
	fflush(stdout);
	return nb_failed;
}

/* Old kernels and valgrind do not; then names in images pass no symbolic link. */
static bool have_openat2(void)
{
	return syscall(SYS_openat2, -1, NULL, NULL, 0) < 0 && errno != ENOSYS;
}

static void test_attacks(void **state)
{
	assert_int_equal(attack(), 0);
	if (!have_openat2())
		skip();
	assert_true(reaches(NAMES_BENEATH, OPENER_BACKING, "link_inside"));
	assert_true(reaches(NAMES_BENEATH, OPENER_BACKING, "link_sub/base"));
}

static int in_child_without_openat2(int (*fn)(void), unsigned err)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		deny_system_call(SYS_openat2, err);
		_exit(fn());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_attacks_without_openat2(void **state)
{
	assert_int_equal(in_child_without_openat2(attack, ENOSYS), 0);
	assert_int_equal(in_child_without_openat2(attack, EPERM), 0);
}

/* Where any name is followed, it still goes to files, and not by /proc's magic. */
static int follow_any(void)
{
	char name[600];
	int fd = open("secret", O_RDONLY), nb_failed = 0;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	nb_failed += reaches(NAMES_ANY, OPENER_BACKING, name);
	snprintf(name, sizeof(name), "/proc/self/cwd/secret");
	nb_failed += reaches(NAMES_ANY, OPENER_BACKING, name);
	nb_failed += reaches(NAMES_ANY, OPENER_BACKING, "/dev/zero");
	nb_failed += reaches(NAMES_ANY, OPENER_BACKING, "fifo");
	nb_failed += reaches(NAMES_ANY, OPENER_BACKING, "..");
	nb_failed += !reaches(NAMES_ANY, OPENER_BACKING, "../secret");
	nb_failed += !reaches(NAMES_ANY, OPENER_BACKING, "sub/../base");
	snprintf(name, sizeof(name), "%s/home/../secret", scene);
	nb_failed += !reaches(NAMES_ANY, OPENER_BACKING, name);
	close(fd);
	return nb_failed;
}

static void test_any(void **state)
{
	assert_int_equal(follow_any(), 0);
	assert_int_equal(in_child_without_openat2(follow_any, ENOSYS), 0);
	if (!have_openat2())
		skip();
	assert_true(reaches(NAMES_ANY, OPENER_BACKING, "link_outside"));
}

/* Its owner exchanges the image's directory after the image was opened. */
static void test_directory_exchanged(void **state)
{
	assert_int_equal(rename("home", "moved") | symlink("homework", "home"), 0);
	assert_false(reaches(NAMES_BENEATH, OPENER_BACKING, "secret"));
	put("homework/image.qcow2");
	assert_false(reaches(NAMES_BENEATH, OPENER_BACKING, "secret"));
	assert_int_equal(unlink("home") | rename("moved", "home"), 0);
	assert_true(reaches(NAMES_BENEATH, OPENER_BACKING, "base"));
}

/* ---- policy ---- */

static void test_auto(void **state)
{
	assert_true(reaches(NAMES_AUTO, OPENER_BACKING, "../secret"));
	if (geteuid() != 0)
		skip();
	assert_int_equal(chown("home/image.qcow2", STRANGER, (gid_t)-1), 0);
	file_close(image);
	image = open_as("home/image.qcow2", FILE_LOCK_NONE);
	assert_null(find_escape(NAMES_AUTO, OPENER_BACKING));
	assert_null(find_refused(NAMES_AUTO, OPENER_BACKING));
	assert_true(reaches(NAMES_ANY, OPENER_BACKING, "../secret"));
	assert_refused(NAMES_AUTO, OPENER_BACKING, "../secret",
		       "backing file ../secret is outside the image's directory and the image "
		       "belongs to somebody else; give -o backing=any, or -o backing_file=PATH");
	/* The mounter's own image is followed, the stranger's below it is confined. */
	assert_int_equal(chown("home/image.qcow2", geteuid(), (gid_t)-1) |
				 chown("home/base", STRANGER, (gid_t)-1),
			 0);
	file_close(image);
	image = open_as("home/base", FILE_LOCK_NONE);
	assert_false(reaches(NAMES_AUTO, OPENER_BACKING, "../secret"));
}

static void test_messages(void **state)
{
	assert_refused(NAMES_AUTO, OPENER_BACKING, "missing",
		       "backing file missing: No such file or directory; give -o "
		       "backing_file=PATH");
	assert_refused(NAMES_BENEATH, OPENER_BACKING, "missing",
		       "backing file missing: No such file or directory; give -o "
		       "backing_file=PATH");
	assert_refused(NAMES_BENEATH, OPENER_BACKING, "/etc/passwd",
		       "backing file /etc/passwd is outside the image's directory; give "
		       "-o backing=any, or -o backing_file=PATH");
	assert_refused(NAMES_ANY, OPENER_DATA, "../secret",
		       "data file ../secret is outside the image's directory; give "
		       "-o data_file=PATH");
	assert_refused(NAMES_ANY, OPENER_BACKING, "fifo",
		       "backing file fifo: neither a regular file nor a block device; give "
		       "-o backing_file=PATH");
	assert_refused(NAMES_NONE, OPENER_BACKING, "base",
		       "backing file base is not followed with -o backing=none; give "
		       "-o backing_file=PATH");
	assert_refused(NAMES_NONE, OPENER_DATA, "base",
		       "data file base is not followed with -o backing=none; give "
		       "-o data_file=PATH");
}

static void test_user_names_anything(void **state)
{
	static const enum names_policy policies[] = {NAMES_AUTO, NAMES_ANY, NAMES_BENEATH,
						     NAMES_NONE};

	for (int i = 0; i < 4; i++) {
		struct file *file;

		assert_int_equal(open_from(NULL, policies[i], OPENER_IMAGE, "secret", &file, NULL),
				 0);
		assert_string_equal(file->name, "secret");
		assert_null(file->named_by);
		file_close(file);
		assert_int_equal(open_from(NULL, policies[i], OPENER_IMAGE, "home/link_outside",
					   &file, NULL),
				 0);
		file_close(file);
	}
}

/* ---- chains ---- */

static void test_relative_to_holder(void **state)
{
	struct file *sub, *base;

	/* Each name is taken from where the one before it was found. */
	put("home/sub/deeper");
	assert_int_equal(open_from(image, NAMES_AUTO, OPENER_BACKING, "sub/base", &sub, NULL), 0);
	assert_string_equal(sub->name, "home/sub/base");
	assert_int_equal(open_from(sub, NAMES_BENEATH, OPENER_BACKING, "deeper", &base, NULL), 0);
	assert_string_equal(base->name, "home/sub/deeper");
	assert_ptr_equal(base->named_by, sub);
	file_close(base);
	/* Beneath the holder's directory, not the first image's. */
	assert_true(open_from(sub, NAMES_BENEATH, OPENER_BACKING, "../base", &base, NULL) < 0);
	file_close(sub);

	/* From elsewhere, as an absolute name. */
	assert_int_equal(chdir("/"), 0);
	{
		char name[512];
		struct file *absolute;

		snprintf(name, sizeof(name), "%s/home/image.qcow2", scene);
		absolute = open_as(name, FILE_LOCK_NONE);
		assert_int_equal(
			open_from(absolute, NAMES_AUTO, OPENER_BACKING, "base", &base, NULL), 0);
		file_close(base);
		file_close(absolute);
	}
	assert_int_equal(chdir(scene), 0);
}

static void test_locked(void **state)
{
	struct file *writer = open_as("home/base", FILE_LOCK_WRITE);
	struct error *error = refusal(NAMES_BENEATH, OPENER_BACKING, "base");

	assert_int_equal(error->class, ERROR_LOCKED);
	assert_string_equal(error->msg, "backing file base: image is in use by this process "
					"itself: it is named twice; name it once, or read-only");
	error_free(error);
	/* Inherited from somebody else. */
	assert_int_equal(fcntl(writer->fd, F_SETFD, 0), 0);
	error = refusal(NAMES_BENEATH, OPENER_BACKING, "base");
	assert_int_equal(error->class, ERROR_LOCKED);
	assert_string_equal(error->msg, "backing file base: image is in use for writing (a running "
					"VM?); stop it, or read it with --force-share");
	error_free(error);
	file_close(writer);
	assert_true(reaches(NAMES_BENEATH, OPENER_BACKING, "base"));
}

static int rival_fd;

static void let_go(int number)
{
	file_lock_drop(rival_fd);
}

/* As of a killed process whose ring the kernel has not taken apart yet. */
static void test_lock_that_vanishes(void **state)
{
	struct file_open_params params = {
		.dirfd = AT_FDCWD, .path = "home/base", .lock = FILE_LOCK_READ};
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
	struct itimerval soon = {.it_value.tv_usec = 50000};
	struct error *error = NULL;
	struct file *file;

	/* Without O_CLOEXEC, as if it were inherited: QEMU's lock byte of a writer. */
	rival_fd = open("home/base", O_RDWR);
	assert_true(rival_fd >= 0);
	assert_int_equal(fcntl(rival_fd, F_OFD_SETLK, &lock), 0);
	assert_true(file_open(reactor, &params, &file, &error) < 0);
	assert_int_equal(error->class, ERROR_LOCKED);
	error_free(error);
	/* This very thread lets go of it while it waits, however busy the machine is. */
	signal(SIGALRM, let_go);
	assert_int_equal(setitimer(ITIMER_REAL, &soon, NULL), 0);
	assert_true(reaches(NAMES_BENEATH, OPENER_BACKING, "base"));
	signal(SIGALRM, SIG_DFL);
	close(rival_fd);
}

/* image (ours, for writing) -> sub/base -> image: a loop, and no other program's lock. */
static void test_loop_meets_own_lock(void **state)
{
	struct error *error = NULL;
	struct file *base, *file;

	file_close(image);
	image = open_as("home/image.qcow2", FILE_LOCK_WRITE);
	assert_refused(NAMES_ANY, OPENER_BACKING, "image.qcow2",
		       "backing file image.qcow2: the chain of backing files is a loop");
	assert_int_equal(open_from(image, NAMES_ANY, OPENER_BACKING, "sub/base", &base, NULL), 0);
	assert_int_equal(
		open_from(base, NAMES_ANY, OPENER_BACKING, "../image.qcow2", &file, &error),
		-ELOOP);
	assert_int_equal(error->class, ERROR_BACKING);
	error_free(error);
	file_close(base);
}

/* After the seal what was opened can be opened again, whatever became of names; nothing else. */
static void test_sealed(void **state)
{
	struct host_opener host;
	struct opener *opener = &host.opener;
	struct file *first, *again, *base;
	struct error *error = NULL;
	char absolute[512];
	int ret;

	snprintf(absolute, sizeof(absolute), "%s/home/kept.qcow2", scene);
	put("home/kept.qcow2");
	host_opener_init(&host, reactor, NAMES_ANY, false);
	host.keeps = true;
	assert_int_equal(opener->open(opener, OPENER_IMAGE, NULL, "home/kept.qcow2", true,
				      FILE_LOCK_WRITE, &first, NULL),
			 0);
	assert_int_equal(opener->open(opener, OPENER_BACKING, first, "base", false, FILE_LOCK_READ,
				      &base, NULL),
			 0);
	host_opener_seal(&host);
	assert_int_equal(unlink("home/kept.qcow2"), 0);
	assert_int_equal(opener->open(opener, OPENER_IMAGE, NULL, absolute, false, FILE_LOCK_SHARED,
				      &again, NULL),
			 0);
	assert_true(again->ino == first->ino && again->path == first->path && !again->writable);
	file_close(again);
	ret = opener->open(opener, OPENER_BACKING, first, "base", false, FILE_LOCK_READ, &again,
			   NULL);
	assert_int_equal(ret, 0);
	assert_ptr_equal(again->named_by, first);
	file_close(again);

	ret = opener->open(opener, OPENER_IMAGE, NULL, "home/sub/base", false, FILE_LOCK_READ,
			   &again, &error);
	assert_int_equal(ret, -EPERM);
	assert_string_equal(error->msg, "home/sub/base was not opened when the server started");
	error_free(error);
	error = NULL;
	ret = opener->open(opener, OPENER_IMAGE, NULL, absolute, true, FILE_LOCK_WRITE, &again,
			   &error);
	assert_int_equal(ret, -EROFS);
	error_free(error);
	file_close(base);
	file_close(first);
	host_opener_finish(&host);
}

static void test_shared_leaves_locks(void **state)
{
	struct host_opener host;
	struct opener *opener = &host.opener;
	struct file *first, *again, *rival;
	struct error *error = NULL;
	struct file_open_params params = {
		.dirfd = AT_FDCWD, .path = "home/base", .writable = true, .lock = FILE_LOCK_WRITE};

	host_opener_init(&host, reactor, NAMES_ANY, false);
	host.keeps = true;
	assert_int_equal(opener->open(opener, OPENER_IMAGE, NULL, "home/base", true,
				      FILE_LOCK_WRITE, &first, NULL),
			 0);
	host_opener_seal(&host);
	assert_int_equal(opener->open(opener, OPENER_IMAGE, NULL, "home/base", false,
				      FILE_LOCK_SHARED, &again, NULL),
			 0);
	file_close(again);
	assert_true(file_open(reactor, &params, &rival, &error) < 0);
	assert_int_equal(error->class, ERROR_LOCKED);
	error_free(error);
	file_close(first);
	/* What is kept holds no lock. */
	assert_int_equal(file_open(reactor, &params, &rival, NULL), 0);
	file_close(rival);
	host_opener_finish(&host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_attacks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_attacks_without_openat2, setup, teardown),
		cmocka_unit_test_setup_teardown(test_any, setup, teardown),
		cmocka_unit_test_setup_teardown(test_directory_exchanged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_auto, setup, teardown),
		cmocka_unit_test_setup_teardown(test_messages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_user_names_anything, setup, teardown),
		cmocka_unit_test_setup_teardown(test_relative_to_holder, setup, teardown),
		cmocka_unit_test_setup_teardown(test_locked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lock_that_vanishes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_meets_own_lock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sealed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shared_leaves_locks, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
