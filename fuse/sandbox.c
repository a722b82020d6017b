/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * sandbox: see sandbox.h.
 *
 * Capabilities and Landlock belong to a thread, not to a process. Each thread is sent SIGSYS,
 * which nobody blocks, and confines itself in the handler; no_new_privs and the filter are
 * spread by the kernel, the ids by libc. The list of threads is read again until it holds no new
 * one: what a confined thread starts is confined.
 *
 * The order: the ring while root may still make one (io_uring may be root's privilege), ids,
 * then what every thread does, the filter last, because it forbids all of this.
 */
#include "fuse/sandbox.h"

#include "fuse/log.h"
#include "fuse/sandbox_filter.h"
#include "io/co_sync.h"
#include "io/engine_uring.h"
#include "io/sanitizer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS_MAX 256u
#define THREAD_TIMEOUT_MS 5000
#define RING_TIMEOUT_MS 5000u
#define CALLS_MAX 1024

/* Newer than some headers this is built with. */
#define LANDLOCK_FS_BITS_1 13
#define LANDLOCK_NET_BITS 3ull
#define LANDLOCK_SCOPE_BITS 3ull
#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1 /* si_code of SIGSYS */
#endif
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif

static struct {
	bool entered, confined_ring;
	const char *why_not; /* entered, and yet not confined */
	int landlock_abi;    /* 0: none */
	int nb_calls;        /* that the filter passes, 0: no filter */
	uid_t uid;
	int event_fd;

	int ruleset_fd; /* while threads confine themselves */
	_Atomic unsigned nb_confined;
	_Atomic int thread_error;

	_Atomic unsigned long nb_refused;
	_Atomic uint8_t refused[CALLS_MAX]; /* 1: to be named, 2: named */
} sandbox = {.event_fd = -1, .ruleset_fd = -1};

/* ---- one thread ---- */

static int drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

	return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

static int confine_thread(void)
{
	int res = drop_capabilities();

	if (res == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		res = -errno;
	if (res == 0 && sandbox.ruleset_fd >= 0 &&
	    syscall(SYS_landlock_restrict_self, sandbox.ruleset_fd, 0) < 0)
		res = -errno;
	return res;
}

static void wake_logger(void)
{
	uint64_t one = 1;

	(void)!write(sandbox.event_fd, &one, sizeof(one));
}

static void note_refused(const siginfo_t *info, void *ucontext)
{
	int nr = info->si_syscall;
	bool expected = sandbox_filter_expects(info, ucontext);
	uint8_t never = 0;

	sandbox_filter_set_result(ucontext, EPERM);
	if (expected)
		return;
	atomic_fetch_add(&sandbox.nb_refused, 1);
	if (nr >= 0 && nr < CALLS_MAX &&
	    atomic_compare_exchange_strong(&sandbox.refused[nr], &never, 1))
		wake_logger();
}

static void on_sigsys(int signal, siginfo_t *info, void *ucontext)
{
	int saved = errno, res;

	if (info->si_code == SYS_SECCOMP) {
		note_refused(info, ucontext);
	} else if (info->si_code == SI_TKILL && info->si_pid == getpid()) {
		res = confine_thread();
		if (res < 0)
			sandbox.thread_error = res;
		atomic_fetch_add(&sandbox.nb_confined, 1);
	}
	errno = saved;
}

/* ---- all threads ---- */

static bool contains(const pid_t *tids, unsigned nb, pid_t tid)
{
	while (nb > 0 && tids[nb - 1] != tid)
		nb--;
	return nb > 0;
}

static int await_confined(unsigned nb)
{
	for (int ms = 0; sandbox.nb_confined < nb; ms++) {
		if (ms == THREAD_TIMEOUT_MS)
			return -ETIMEDOUT;
		poll(NULL, 0, 1);
	}
	return sandbox.thread_error;
}

/*
 * The kernel lists its workers for io_uring, which run no code of ours, and act with the
 * credentials of whoever made a request.
 */
static bool is_kernel_worker(DIR *dir, const char *tid)
{
	char path[NAME_MAX + 8], name[8] = "";
	int fd;

	snprintf(path, sizeof(path), "%s/comm", tid);
	fd = openat(dirfd(dir), path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	(void)!read(fd, name, sizeof(name));
	close(fd);
	return !strncmp(name, "iou-wrk-", sizeof(name));
}

/* Sends the signal to those that are not in the list yet, and adds them. */
static int signal_new_threads(DIR *dir, pid_t *tids, unsigned *nb)
{
	struct dirent *entry;
	int nb_new = 0;

	rewinddir(dir);
	while ((entry = readdir(dir))) {
		pid_t tid = atoi(entry->d_name);

		if (tid <= 0 || tid == gettid() || contains(tids, *nb, tid) ||
		    is_kernel_worker(dir, entry->d_name))
			continue;
		if (*nb == THREADS_MAX)
			return -E2BIG;
		if (syscall(SYS_tgkill, getpid(), tid, SIGSYS) < 0) {
			if (errno == ESRCH)
				continue;
			return -errno;
		}
		tids[(*nb)++] = tid;
		nb_new++;
	}
	return nb_new;
}

static int confine_other_threads(void)
{
	pid_t tids[THREADS_MAX];
	unsigned nb = 0;
	DIR *dir = opendir("/proc/self/task");
	int res;

	if (!dir)
		return -errno;
	while ((res = signal_new_threads(dir, tids, &nb)) > 0) {
		res = await_confined(nb);
		if (res < 0)
			break;
	}
	closedir(dir);
	return res;
}

/* ---- the parts ---- */

/* The rules that the kernel knows, and no exception from them; 0 where it has no Landlock. */
static int open_ruleset(void)
{
	struct {
		uint64_t fs, net, scoped;
	} attr = {0};
	size_t bytes = sizeof(attr.fs);
	int abi =
		(int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	if (abi <= 0)
		return 0;
	attr.fs = (1ull << (abi >= 5   ? LANDLOCK_FS_BITS_1 + 3
			    : abi >= 3 ? LANDLOCK_FS_BITS_1 + 2
				       : LANDLOCK_FS_BITS_1 + abi - 1)) -
		  1;
	if (abi >= 4) {
		attr.net = LANDLOCK_NET_BITS;
		bytes += sizeof(attr.net);
	}
	if (abi >= 6) {
		attr.scoped = LANDLOCK_SCOPE_BITS;
		bytes += sizeof(attr.scoped);
	}
	sandbox.ruleset_fd = (int)syscall(SYS_landlock_create_ruleset, &attr, bytes, 0);
	if (sandbox.ruleset_fd < 0)
		return -errno;
	sandbox.landlock_abi = abi;
	return 0;
}

struct ring_call {
	struct engine *engine;
	int res;
};

static void coroutine_fn confine_ring(void *arg)
{
	struct ring_call *call = arg;
	unsigned ms = 0;

	/* Something may still be written back from the opening. */
	while ((call->res = engine_uring_confine(call->engine)) == -EBUSY && ms++ < RING_TIMEOUT_MS)
		co_sleep(1000000);
}

/* The real and saved ids stay root's: the owner of the images shall not send us signals. */
static int take_ids(const struct sandbox_params *params)
{
	if (geteuid() != 0 || params->uid == 0)
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid((gid_t)-1, params->gid, (gid_t)-1) < 0 ||
	    setresuid((uid_t)-1, params->uid, (uid_t)-1) < 0)
		/* A user namespace may not know them. */
		return errno == EINVAL || errno == EPERM ? 0 : -errno;
	return 0;
}

static int handle_sigsys(void)
{
	struct sigaction action = {
		.sa_sigaction = on_sigsys,
		.sa_flags = SA_SIGINFO | SA_RESTART,
	};

	sigfillset(&action.sa_mask);
	sigdelset(&action.sa_mask, SIGSYS);
	sandbox.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (sandbox.event_fd < 0 || sigaction(SIGSYS, &action, NULL) < 0)
		return -errno;
	return 0;
}

/* Sanitizers and valgrind make system calls of their own, and trace. */
static const char *find_obstacle(void)
{
#if defined(WITH_ASAN) || defined(WITH_TSAN)
	return "this is a build with a sanitizer";
#else
	return RUNNING_ON_VALGRIND ? "it runs on valgrind" : NULL;
#endif
}

/* glibc's malloc reads their number from files when it wants another arena: here, its default. */
static void settle_malloc(void)
{
#ifdef M_ARENA_MAX
	mallopt(M_ARENA_MAX, 8 * (int)sysconf(_SC_NPROCESSORS_ONLN));
#endif
}

static int confine_threads(const char **ret_part)
{
	int res = handle_sigsys();

	settle_malloc();
	*ret_part = "SIGSYS";
	if (res == 0) {
		*ret_part = "Landlock";
		res = open_ruleset();
	}
	if (res == 0) {
		*ret_part = "threads";
		res = confine_other_threads();
	}
	if (res == 0)
		res = confine_thread();
	if (sandbox.ruleset_fd >= 0)
		close(sandbox.ruleset_fd);
	sandbox.ruleset_fd = -1;
	if (res < 0)
		return res;
	sandbox.uid = geteuid();
	*ret_part = "system calls";
	res = sandbox_filter_apply();
	if (res < 0)
		return res;
	sandbox.nb_calls = res;
	return 0;
}

int sandbox_enter(const struct sandbox_params *params, const char **ret_part)
{
	struct ring_call call = {.engine = reactor_engine(params->reactor)};
	int res;

	*ret_part = "io_uring";
	reactor_run(params->reactor, confine_ring, &call);
	if (call.res < 0)
		return call.res;
	sandbox.confined_ring = true;
	sandbox.why_not = find_obstacle();
	if (!sandbox.why_not) {
		*ret_part = "user id";
		res = take_ids(params);
		if (res == 0)
			res = confine_threads(ret_part);
		if (res < 0)
			return res;
	}
	sandbox.entered = true;
	return 0;
}

/* ---- what became of it ---- */

bool sandbox_is_whole(void)
{
	return sandbox.entered && !sandbox.why_not && sandbox.landlock_abi && sandbox.nb_calls;
}

void sandbox_describe(FILE *out)
{
	if (!sandbox.entered) {
		fputs("sandbox: off", out);
		return;
	}
	if (sandbox.why_not) {
		fprintf(out, "sandbox: only io_uring is confined, because %s", sandbox.why_not);
		return;
	}
	fprintf(out, "sandbox: no capabilities, user id %ld", (long)sandbox.uid);
	if (sandbox.landlock_abi)
		fprintf(out, ", Landlock (ABI %d)", sandbox.landlock_abi);
	if (sandbox.nb_calls)
		fprintf(out, ", %d system calls", sandbox.nb_calls);
	if (!sandbox.landlock_abi)
		fputs("; this kernel has no Landlock", out);
	if (!sandbox.nb_calls)
		fputs("; there is no system call filter here", out);
}

void sandbox_print_json(FILE *out)
{
	fprintf(out,
		"{\"state\": \"%s\", \"ring\": %s, \"landlock_abi\": %d, \"system_calls\": %d, "
		"\"refused_calls\": %lu}",
		sandbox_is_whole() ? "on"
		: sandbox.entered  ? "partial"
				   : "off",
		sandbox.confined_ring ? "true" : "false", sandbox.landlock_abi, sandbox.nb_calls,
		sandbox.nb_refused);
}

int sandbox_event_fd(void)
{
	return sandbox.event_fd;
}

void sandbox_log_refused(void)
{
	uint64_t count;

	(void)!read(sandbox.event_fd, &count, sizeof(count));
	for (int nr = 0; nr < CALLS_MAX; nr++) {
		uint8_t fresh = 1;
		const char *name;

		if (!atomic_compare_exchange_strong(&sandbox.refused[nr], &fresh, 2))
			continue;
		name = sandbox_filter_name(nr);
		log_error("the sandbox refused system call %d (%s): a bug, or somebody has broken "
			  "in; -o sandbox=off lets it pass",
			  nr, name ? name : "see ausyscall");
	}
}
