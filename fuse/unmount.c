/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * unmount: see unmount.h.
 *
 * A mount is found in /proc/self/mountinfo, because a stale one answers nothing. Its
 * server's process is asked of a raw file (user.qcow2fs.pid) and held by a pidfd taken
 * before the unmount, so that the number cannot come to mean somebody else.
 *
 * All questions to the server are asked by a child, which a server that does not answer may hold
 * for ever. Root cannot look into another user's mount: the child becomes this user.
 */
#include "fuse/unmount.h"

#include "fuse/log.h"
#include "fuse/mountpoint.h"
#include "fuse/stats.h"
#include "io/stdio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define PID_ATTRIBUTE "user.qcow2fs.pid"
/* How long a busy mount is tried, and a user of a detached one awaited, without --timeout. */
#define BUSY_TIMEOUT_S 5
#define RETRY_MS 50 /* how often a busy mount is tried */
#define NS_PER_MS 1000000u

/* ---- which mount ---- */

struct mount {
	char path[PATH_MAX]; /* as the kernel spells it */
	uid_t uid;           /* of who mounted */
	gid_t gid;
};

/* The canonical path, by a descriptor for the name alone: a server is not asked. */
static int resolve(const char *path, char *ret_path)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	char link[32];
	ssize_t len;

	if (fd < 0)
		return -errno;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, ret_path, PATH_MAX - 1);
	if (len >= 0)
		ret_path[len] = '\0';
	close(fd);
	return len < 0 ? -errno : 0;
}

/* mountinfo writes space, tab, newline and backslash as \\ooo. */
static void unescape(char *text)
{
	char *to = text;

	for (char *from = text; *from; from++) {
		if (from[0] == '\\' && from[1] && from[2] && from[3]) {
			*to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 |
				       (from[3] - '0'));
			from += 3;
		} else {
			*to++ = *from;
		}
	}
	*to = '\0';
}

static unsigned long number_after(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtoul(at + strlen(key), NULL, 10) : 0;
}

/* One line: ID PARENT DEV ROOT PATH OPTIONS [FIELD...] - TYPE SOURCE OPTIONS */
static bool parse_mount(char *line, const char *path, struct mount *ret_mount)
{
	char *save, *field = strtok_r(line, " ", &save), *rest, *words;

	for (unsigned i = 0; field && i < 4; i++)
		field = strtok_r(NULL, " ", &save);
	rest = save ? strstr(save, " - ") : NULL;
	if (!field || !rest)
		return false;
	unescape(field);
	if (strcmp(field, path) || strncmp(rest, " - fuse", strlen(" - fuse")))
		return false;
	/* The source, an image's name, may hold any words. */
	words = strrchr(rest, ' ');
	strcpy(ret_mount->path, path);
	ret_mount->uid = (uid_t)number_after(words, "user_id=");
	ret_mount->gid = (gid_t)number_after(words, "group_id=");
	return true;
}

/* The last mount there is on top. 0, -EINVAL when there is none, or another -errno. */
static int find_mount(const char *path, struct mount *ret_mount)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t line_bytes = 0;
	int res = -EINVAL;

	if (!file)
		return -errno;
	while (getline(&line, &line_bytes, file) > 0) {
		if (parse_mount(line, path, ret_mount))
			res = 0;
	}
	free(line);
	fclose(file);
	return res;
}

/* ---- time ---- */

#define NEVER UINT64_MAX

static uint64_t deadline_after(int seconds)
{
	return stats_now_ns() + (uint64_t)seconds * 1000u * NS_PER_MS;
}

/* Milliseconds until the deadline, rounded up; 0 when it has passed, -1: endless. */
static int remaining_ms(uint64_t deadline_ns)
{
	uint64_t now_ns = stats_now_ns();

	if (deadline_ns == NEVER)
		return -1;
	return now_ns < deadline_ns ? (int)((deadline_ns - now_ns) / NS_PER_MS) + 1 : 0;
}

/* ---- sync, and whose server it is ---- */

struct sync_result {
	int err;   /* the first failure of fsync, or 0 */
	pid_t pid; /* of the server, 0: unknown */
};

static void sync_open(int fd, struct sync_result *result)
{
	char pid[32];
	ssize_t len;

	if (fsync(fd) < 0 && !result->err)
		result->err = -errno;
	len = fgetxattr(fd, PID_ATTRIBUTE, pid, sizeof(pid) - 1);
	if (len > 0) {
		pid[len] = '\0';
		result->pid = atoi(pid);
	}
}

static void sync_file(int dirfd, const char *name, struct sync_result *result)
{
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);

	/* Of files that belong to others, by uid= say, the folder has taken care. */
	if (fd < 0 && (errno != EACCES || !result->pid) && !result->err)
		result->err = -errno;
	if (fd < 0)
		return;
	sync_open(fd, result);
	close(fd);
}

static void sync_mount(const char *path, struct sync_result *result)
{
	struct dirent *entry;
	struct stat st;
	DIR *dir;

	if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
		sync_file(AT_FDCWD, path, result);
		return;
	}
	dir = opendir(path);
	if (!dir) {
		result->err = -errno;
		return;
	}
	sync_open(dirfd(dir), result);
	/* Directories hold read-only views. */
	while ((entry = readdir(dir))) {
		if (entry->d_type == DT_REG)
			sync_file(dirfd(dir), entry->d_name, result);
	}
	closedir(dir);
}

/* In the child: nothing of the caller's stays open, should it be left behind. */
static void answer_sync(const struct mount *mount, int fd) __attribute__((noreturn));
static void answer_sync(const struct mount *mount, int fd)
{
	struct sync_result result = {0};
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null_fd >= 0)
		stdio_replace(null_fd);
	if (geteuid() == 0 && mount->uid != 0 &&
	    (setgroups(0, NULL) < 0 || setresgid(mount->gid, mount->gid, mount->gid) < 0 ||
	     setresuid(mount->uid, mount->uid, mount->uid) < 0))
		result.err = -errno;
	else
		sync_mount(mount->path, &result);
	_exit(write(fd, &result, sizeof(result)) != sizeof(result));
}

/*
 * The server is asked by a child, as the user who mounted. A question that it does not answer in
 * time holds the child alone, which ends as soon as the kernel lets it: -ETIMEDOUT.
 */
static int sync_by_child(const struct mount *mount, uint64_t deadline_ns,
			 struct sync_result *ret_result)
{
	struct pollfd answer = {.events = POLLIN};
	int fds[2], res = 0;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		answer_sync(mount, fds[1]);
	if (pid < 0)
		res = -errno;
	close(fds[1]);
	answer.fd = fds[0];
	if (res == 0 && poll(&answer, 1, remaining_ms(deadline_ns)) == 0) {
		kill(pid, SIGKILL);
		res = -ETIMEDOUT;
	} else if (res == 0) {
		if (read(fds[0], ret_result, sizeof(*ret_result)) != sizeof(*ret_result))
			res = -EIO;
		waitpid(pid, NULL, 0);
	}
	close(fds[0]);
	return res;
}

/* ---- the steps ---- */

static int detach_patiently(const char *path, bool lazy, uint64_t deadline_ns)
{
	int res;

	while ((res = mountpoint_detach(path, lazy)) == -EBUSY && remaining_ms(deadline_ns) != 0)
		poll(NULL, 0, RETRY_MS);
	return res;
}

/* Linux 6.15 tells anybody who holds a pidfd how a process ended, once it has been reaped. */
struct process_info {
	uint64_t mask;
	uint64_t cgroup_id;
	uint32_t ids[11];
	int32_t wait_status;
};
#define PROCESS_INFO_EXIT (1u << 3)
#define PROCESS_GET_INFO _IOWR(0xff, 11, struct process_info)
#define REAPED_MS 200

_Static_assert(sizeof(struct process_info) == 64, "the first version of struct pidfd_info");

/* Twice: when it is reaped between two looks of the kernel the answer is ESRCH, for once. */
static bool get_process_info(int pidfd, struct process_info *ret_info)
{
	for (unsigned i = 0; i < 2; i++) {
		*ret_info = (struct process_info){.mask = PROCESS_INFO_EXIT};
		if (ioctl(pidfd, PROCESS_GET_INFO, ret_info) == 0)
			return true;
	}
	return false;
}

/* Did the ended server say that it could not write everything back? */
static bool ended_with_loss(int pidfd)
{
	struct pollfd fds = {.fd = pidfd};
	struct process_info info;

	if (!get_process_info(pidfd, &info))
		return false;
	if (!(info.mask & PROCESS_INFO_EXIT)) {
		/* Still a zombie: poll() tells of its end with POLLHUP. */
		poll(&fds, 1, REAPED_MS);
		if (!get_process_info(pidfd, &info))
			return false;
	}
	return (info.mask & PROCESS_INFO_EXIT) && WIFEXITED(info.wait_status) &&
	       WEXITSTATUS(info.wait_status) == EXIT_WRITE_BACK;
}

/*
 * Waits until the server has ended, and with it its locks. Detached lazily, it may have users for
 * as long as they like: who gave no time asked for the detaching alone.
 */
static enum exit_status await_end(const char *path, int pidfd, bool lazy, uint64_t deadline_ns)
{
	struct pollfd fds = {.fd = pidfd, .events = POLLIN};
	bool patient = lazy && deadline_ns == NEVER;

	if (patient)
		deadline_ns = deadline_after(BUSY_TIMEOUT_S);
	if (poll(&fds, 1, remaining_ms(deadline_ns)) > 0) {
		if (!ended_with_loss(pidfd))
			return EXIT_OK;
		log_error("%s: unmounted, but the last write-back failed; the server's log says "
			  "why",
			  path);
		return EXIT_WRITE_BACK;
	}
	if (patient)
		return EXIT_OK;
	log_error("%s: unmounted, but its server has not ended%s", path,
		  lazy ? ": the mount is still in use"
		       : "; another mount namespace may show it, too (see /proc/*/mountinfo)");
	return EXIT_BUSY;
}

static enum exit_status detach(const struct mount *mount, bool lazy, uint64_t deadline_ns)
{
	int res;

	if (deadline_ns == NEVER)
		deadline_ns = deadline_after(BUSY_TIMEOUT_S);
	res = detach_patiently(mount->path, lazy, deadline_ns);
	if (res == 0)
		return EXIT_OK;
	if (res == -EBUSY) {
		log_error("%s: busy; end what uses it (fuser -vm %s shows it), or give -z",
			  mount->path, mount->path);
		return EXIT_BUSY;
	}
	log_error("%s: %s", mount->path, strerror(-res));
	return EXIT_SYSTEM;
}

static enum exit_status detach_and_wait(const struct mount *mount, pid_t server, bool lazy,
					uint64_t deadline_ns)
{
	int pidfd = server > 0 ? (int)syscall(SYS_pidfd_open, server, 0) : -1;
	enum exit_status status = detach(mount, lazy, deadline_ns);

	if (status == EXIT_OK && pidfd >= 0)
		status = await_end(mount->path, pidfd, lazy, deadline_ns);
	if (pidfd >= 0)
		close(pidfd);
	return status;
}

static enum exit_status give_up_on(const struct mount *mount, bool lazy, uint64_t deadline_ns)
{
	enum exit_status status = lazy ? detach(mount, true, deadline_ns) : EXIT_BUSY;

	if (!lazy)
		log_error("%s: its server does not answer; still mounted, -z unmounts nevertheless",
			  mount->path);
	else if (status == EXIT_OK)
		log_error("%s: unmounted, but its server does not answer: what it has not written "
			  "yet may be lost",
			  mount->path);
	return status == EXIT_OK ? EXIT_BUSY : status;
}

static enum exit_status sync_and_detach(const struct mount *mount, bool lazy, uint64_t deadline_ns)
{
	struct sync_result sync = {0};
	enum exit_status status;
	int res = sync_by_child(mount, deadline_ns, &sync);

	if (res == -ETIMEDOUT)
		return give_up_on(mount, lazy, deadline_ns);
	if (res < 0)
		sync.err = res;
	/* Of a stale mount nothing can be saved, it can only be removed. */
	if (mountpoint_is_stale(-sync.err))
		return detach_and_wait(mount, sync.pid, lazy, deadline_ns);
	if (sync.err) {
		log_error("%s: write-back failed: %s%s", mount->path, strerror(-sync.err),
			  lazy ? "" : "; still mounted, -z unmounts nevertheless");
		if (!lazy)
			return EXIT_WRITE_BACK;
	} else if (!sync.pid) {
		log_error("%s: not mounted by qcow2fs", mount->path);
		return EXIT_MOUNT;
	}
	status = detach_and_wait(mount, sync.pid, lazy, deadline_ns);
	return sync.err ? EXIT_WRITE_BACK : status;
}

static int find(const char *name, struct mount *ret_mount)
{
	char path[PATH_MAX];
	int res = resolve(name, path);

	return res < 0 ? res : find_mount(path, ret_mount);
}

enum exit_status unmount_run(const struct options *options)
{
	struct mount mount = {0};
	uint64_t deadline_ns = NEVER;
	int res;

	if (options->unmount_timeout_s >= 0)
		deadline_ns = deadline_after(options->unmount_timeout_s);
	res = find(options->mountpoint, &mount);
	if (res < 0) {
		log_error("%s: %s", options->mountpoint,
			  res == -EINVAL ? "nothing is mounted here by qcow2fs" : strerror(-res));
		return res == -EINVAL || res == -ENOENT ? EXIT_MOUNT : EXIT_SYSTEM;
	}
	if (geteuid() != 0 && geteuid() != mount.uid) {
		log_error("%s: only root and the user %u, who mounted it, can unmount it",
			  mount.path, (unsigned)mount.uid);
		return EXIT_SYSTEM;
	}
	return sync_and_detach(&mount, options->lazy, deadline_ns);
}
