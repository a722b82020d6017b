/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * unmount: see unmount.h.
 *
 * A mount is found in /proc/self/mountinfo, because a stale one answers nothing. Its
 * server's process is asked of a raw file (user.qcow2fs.pid) and held by a pidfd taken
 * before the unmount, so that the number cannot come to mean somebody else. Root
 * cannot look into another user's mount: a child that becomes this user does.
 */
#include "fuse/unmount.h"

#include "fuse/log.h"
#include "fuse/mountpoint.h"
#include "fuse/stats.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
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
/* How long a busy mount is tried without --timeout, and how often. */
#define BUSY_TIMEOUT_S 5
#define RETRY_MS 50
#define NS_PER_MS 1000000u

/* ---- which mount ---- */

struct mount {
	char path[PATH_MAX]; /* as the kernel spells it */
	uid_t uid;           /* of who mounted */
	gid_t gid;
};

/* The canonical path; a stale mount cannot be asked, but its parent can. */
static int resolve(const char *path, char *ret_path)
{
	char copy[PATH_MAX], parent[PATH_MAX], *name;
	size_t len;

	if (realpath(path, ret_path))
		return 0;
	if (!mountpoint_is_stale(errno) && errno != EACCES)
		return -errno;
	len = strlen(path);
	if (len >= sizeof(copy))
		return -ENAMETOOLONG;
	memcpy(copy, path, len + 1);
	if (!realpath(dirname(copy), parent))
		return -errno;
	memcpy(copy, path, len + 1);
	name = basename(copy);
	len = (size_t)snprintf(ret_path, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "",
			       name);
	return len < PATH_MAX ? 0 : -ENAMETOOLONG;
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
	char *save, *field = strtok_r(line, " ", &save), *rest;

	for (unsigned i = 0; field && i < 4; i++)
		field = strtok_r(NULL, " ", &save);
	rest = save ? strstr(save, " - ") : NULL;
	if (!field || !rest)
		return false;
	unescape(field);
	if (strcmp(field, path) || strncmp(rest, " - fuse", strlen(" - fuse")))
		return false;
	strcpy(ret_mount->path, path);
	ret_mount->uid = (uid_t)number_after(rest, "user_id=");
	ret_mount->gid = (gid_t)number_after(rest, "group_id=");
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

/* ---- sync, and whose server it is ---- */

struct sync_result {
	int err;   /* the first failure of fsync, or 0 */
	pid_t pid; /* of the server, 0: unknown */
};

static void sync_file(int dirfd, const char *name, struct sync_result *result)
{
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	char pid[32];
	ssize_t len;

	if (fd < 0) {
		result->err = result->err ? result->err : -errno;
		return;
	}
	if (fsync(fd) < 0 && !result->err)
		result->err = -errno;
	len = fgetxattr(fd, PID_ATTRIBUTE, pid, sizeof(pid) - 1);
	if (len > 0) {
		pid[len] = '\0';
		result->pid = atoi(pid);
	}
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
	/* Directories hold read-only views. */
	while ((entry = readdir(dir))) {
		if (entry->d_type == DT_REG)
			sync_file(dirfd(dir), entry->d_name, result);
	}
	closedir(dir);
}

/* The same by a child that has become the user who mounted. */
static void sync_mount_as(const struct mount *mount, struct sync_result *result)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0) {
		result->err = -errno;
		return;
	}
	pid = fork();
	if (pid == 0) {
		if (setgroups(0, NULL) < 0 || setresgid(mount->gid, mount->gid, mount->gid) < 0 ||
		    setresuid(mount->uid, mount->uid, mount->uid) < 0)
			result->err = -errno;
		else
			sync_mount(mount->path, result);
		_exit(write(fds[1], result, sizeof(*result)) != sizeof(*result));
	}
	close(fds[1]);
	if (pid < 0 || read(fds[0], result, sizeof(*result)) != sizeof(*result))
		*result = (struct sync_result){.err = -EIO};
	close(fds[0]);
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

/* ---- the steps ---- */

static uint64_t deadline_after(int seconds)
{
	return stats_now_ns() + (uint64_t)seconds * 1000u * NS_PER_MS;
}

/* Milliseconds until the deadline, rounded up; 0 when it has passed. */
static int remaining_ms(uint64_t deadline_ns)
{
	uint64_t now_ns = stats_now_ns();

	return now_ns < deadline_ns ? (int)((deadline_ns - now_ns) / NS_PER_MS) + 1 : 0;
}

static int detach_patiently(const char *path, bool lazy, uint64_t deadline_ns)
{
	int res;

	while ((res = mountpoint_detach(path, lazy)) == -EBUSY && remaining_ms(deadline_ns) > 0)
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

/* Did the ended server say that it could not write everything back? */
static bool ended_with_loss(int pidfd)
{
	struct process_info info = {.mask = PROCESS_INFO_EXIT};
	struct pollfd fds = {.fd = pidfd};

	if (ioctl(pidfd, PROCESS_GET_INFO, &info) < 0)
		return false;
	if (!(info.mask & PROCESS_INFO_EXIT)) {
		/* Still a zombie: poll() tells of its end with POLLHUP. */
		poll(&fds, 1, REAPED_MS);
		info = (struct process_info){.mask = PROCESS_INFO_EXIT};
		if (ioctl(pidfd, PROCESS_GET_INFO, &info) < 0)
			return false;
	}
	return (info.mask & PROCESS_INFO_EXIT) && WIFEXITED(info.wait_status) &&
	       WEXITSTATUS(info.wait_status) == EXIT_WRITE_BACK;
}

/* Waits until the server has ended, and with it its locks. */
static enum exit_status await_end(const char *path, int pidfd, const struct options *options)
{
	struct pollfd fds = {.fd = pidfd, .events = POLLIN};
	int seconds = options->unmount_timeout_s, timeout_ms = -1;

	/* Detached lazily, the server may have users for as long as they like. */
	if (seconds < 0 && options->lazy)
		seconds = BUSY_TIMEOUT_S;
	if (seconds >= 0)
		timeout_ms = remaining_ms(deadline_after(seconds));
	if (poll(&fds, 1, timeout_ms) > 0) {
		if (!ended_with_loss(pidfd))
			return EXIT_OK;
		log_error("%s: unmounted, but the last write-back failed; the server's log says "
			  "why",
			  path);
		return EXIT_WRITE_BACK;
	}
	log_error("%s: unmounted, but its server has not ended%s", path,
		  options->lazy ? ": the mount is still in use" : "");
	return EXIT_BUSY;
}

static enum exit_status detach_and_wait(const struct mount *mount, int pidfd,
					const struct options *options)
{
	int seconds = options->unmount_timeout_s >= 0 ? options->unmount_timeout_s : BUSY_TIMEOUT_S;
	int res = detach_patiently(mount->path, options->lazy, deadline_after(seconds));

	if (res == -EBUSY) {
		log_error("%s: busy; end what uses it (fuser -vm %s shows it), or give -z",
			  mount->path, mount->path);
		return EXIT_BUSY;
	}
	if (res < 0) {
		log_error("%s: %s", mount->path, strerror(-res));
		return EXIT_SYSTEM;
	}
	return pidfd >= 0 ? await_end(mount->path, pidfd, options) : EXIT_OK;
}

enum exit_status unmount_run(const struct options *options)
{
	struct sync_result sync = {0};
	struct mount mount = {0};
	char path[PATH_MAX];
	enum exit_status status;
	int res = resolve(options->mountpoint, path), pidfd = -1;

	if (res == 0)
		res = find_mount(path, &mount);
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
	if (geteuid() == 0 && mount.uid != 0)
		sync_mount_as(&mount, &sync);
	else
		sync_mount(mount.path, &sync);
	/* Of a stale mount nothing can be saved, it can only be removed. */
	if (sync.err && !mountpoint_is_stale(-sync.err)) {
		log_error("%s: write-back failed: %s%s", mount.path, strerror(-sync.err),
			  options->lazy ? "" : "; still mounted, -z unmounts nevertheless");
		if (!options->lazy)
			return EXIT_WRITE_BACK;
	}
	if (!sync.err && !sync.pid) {
		log_error("%s: not mounted by qcow2fs", mount.path);
		return EXIT_MOUNT;
	}
	if (sync.pid > 0)
		pidfd = (int)syscall(SYS_pidfd_open, sync.pid, 0);
	status = detach_and_wait(&mount, pidfd, options);
	if (pidfd >= 0)
		close(pidfd);
	return sync.err && !mountpoint_is_stale(-sync.err) ? EXIT_WRITE_BACK : status;
}
