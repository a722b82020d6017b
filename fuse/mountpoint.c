/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * mountpoint: see mountpoint.h.
 */
#include "fuse/mountpoint.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* ---- which mount ---- */

/* Newer than some headers this is built with; what is left out are attributes of files. */
struct statx_mount {
	uint32_t mask;
	uint8_t before[132];
	uint32_t dev_major, dev_minor;
	uint64_t mnt_id;
	uint8_t after[104];
};
#define MOUNT_ID 0x1000u        /* STATX_MNT_ID, Linux 5.8 */
#define MOUNT_ID_UNIQUE 0x4000u /* STATX_MNT_ID_UNIQUE, Linux 6.8 */
#define DONT_SYNC 0x4000u       /* AT_STATX_DONT_SYNC: no question to the server */

static_assert(sizeof(struct statx_mount) == 256, "struct statx of the kernel");

static int identify(int fd, struct mount_id *ret_id)
{
	struct statx_mount found = {0};

	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | DONT_SYNC, MOUNT_ID | MOUNT_ID_UNIQUE,
		    &found) < 0)
		return -errno;
	*ret_id = (struct mount_id){
		.number = found.mnt_id,
		.dev_major = found.dev_major,
		.dev_minor = found.dev_minor,
	};
	return 0;
}

static bool is_same(const struct mount_id *a, const struct mount_id *b)
{
	return a->number == b->number && a->dev_major == b->dev_major &&
	       a->dev_minor == b->dev_minor;
}

/* A descriptor for its name alone: a server is not asked. */
static int open_name(const char *mountpoint)
{
	int fd = open(mountpoint, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int mountpoint_identify(const char *mountpoint, struct mount_id *ret_id)
{
	int fd = open_name(mountpoint), res;

	if (fd < 0)
		return fd;
	res = identify(fd, ret_id);
	close(fd);
	return res;
}

/* ---- detaching ---- */

/* fusermount3 tells the cause only in words: a mount that it leaves is taken for busy. */
static int run_fusermount(const char *mountpoint, bool lazy)
{
	char *const argv[] = {"fusermount3",      "-q", lazy ? "-uz" : "-u", "--",
			      (char *)mountpoint, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	pid_t pid;
	int res, status;

	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	res = posix_spawnp(&pid, argv[0], &actions, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	if (res)
		return -res;
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

int mountpoint_detach(const char *mountpoint, bool lazy)
{
	if (umount2(mountpoint, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
		return 0;
	if (errno != EPERM)
		return -errno;
	return run_fusermount(mountpoint, lazy);
}

/* What the descriptor shows cannot be exchanged for another mount; but it keeps it in use. */
static int detach_open(int fd)
{
	char name[32];

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return umount2(name, MNT_DETACH) < 0 ? -errno : 0;
}

int mountpoint_detach_mount(const char *mountpoint, const struct mount_id *id, bool lazy)
{
	int fd = open_name(mountpoint), res;
	struct mount_id found = {0};

	if (fd < 0)
		return fd;
	res = identify(fd, &found);
	if (res == 0 && !is_same(id, &found))
		res = -EINVAL;
	if (res == 0 && lazy && detach_open(fd) == 0) {
		close(fd);
		return 0;
	}
	close(fd);
	return res < 0 ? res : mountpoint_detach(mountpoint, lazy);
}
