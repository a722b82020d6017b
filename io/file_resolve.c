/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_resolve: from a name to a descriptor, without harm on the way.
 *
 * A name may lead to anything: a fifo that blocks its opener, a device whose mere
 * opening has an effect. So the object is looked at through O_PATH first, and again
 * once it is open.
 *
 * A name that stands inside an image is not the user's: it may not pass through
 * /proc's magic links, and, where `beneath` says so, not leave its directory. The
 * kernel enforces both (openat2). Where it cannot, such a name is walked component by
 * component and may contain no symbolic link at all: stricter, never laxer.
 */
#include "io/file_open.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_TRIES 128

static int open_at(int dirfd, const char *path, int flags)
{
	int fd;

	do
		fd = openat(dirfd, path, flags);
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : fd;
}

/* -ENOSYS where the kernel, or a filter in front of it, does not know the call. */
static int open_restricted(const struct file_open_params *params, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)flags,
		.resolve = RESOLVE_NO_MAGICLINKS | (params->beneath ? RESOLVE_BENEATH : 0),
	};
	unsigned nb_tries = 0;
	long fd;

	/* EAGAIN: something was renamed meanwhile, perhaps by somebody who never stops. */
	do
		fd = syscall(SYS_openat2, params->dirfd, params->path, &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || errno == EAGAIN) && ++nb_tries < MAX_TRIES);
	return fd < 0 ? -errno : (int)fd;
}

/* Opens components[0], then the next one in it, and so on; the last one with `flags`. */
static int walk(int dirfd, char *path, int flags, bool beneath)
{
	char *save, *component = strtok_r(path, "/", &save);
	int at = dirfd, fd = -ENOENT;

	for (char *next; component; component = next, at = fd) {
		int how = flags;

		next = strtok_r(NULL, "/", &save);
		if (next)
			how = O_PATH | O_DIRECTORY | O_CLOEXEC;
		if (beneath && !strcmp(component, ".."))
			fd = -EXDEV;
		else
			fd = open_at(at, component, how | O_NOFOLLOW);
		if (at != dirfd)
			close(at);
		if (fd < 0)
			break;
	}
	return fd;
}

static int open_walking(const struct file_open_params *params, int flags)
{
	bool absolute = params->path[0] == '/';
	char *path;
	int dirfd = params->dirfd, fd;

	if (absolute && params->beneath)
		return -EXDEV;
	path = strdup(params->path);
	if (!path)
		return -ENOMEM;
	if (absolute)
		dirfd = open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	fd = dirfd < 0 && dirfd != AT_FDCWD ? dirfd : walk(dirfd, path, flags, params->beneath);
	if (absolute && dirfd >= 0)
		close(dirfd);
	free(path);
	return fd;
}

static int open_name(const struct file_open_params *params, int flags)
{
	int fd;

	if (!params->beneath && !params->no_magic_links)
		return open_at(params->dirfd, params->path, flags);
	fd = open_restricted(params, flags);
	/* Filters that do not know the call answer EPERM: the walk finds out if it is real. */
	if (fd == -ENOSYS || fd == -EPERM)
		fd = open_walking(params, flags);
	return fd;
}

/* Takes `fd` over: gives it back if it is something with contents, else closes it. */
static int check_kind(int fd)
{
	struct stat st;
	int ret = fd;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		ret = -errno;
	else if (S_ISDIR(st.st_mode))
		ret = -EISDIR;
	else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		ret = -ENOTSUP;
	if (ret < 0)
		close(fd);
	return ret;
}

int file_resolve(const struct file_open_params *params)
{
	int flags = (params->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int fd = check_kind(open_name(params, O_PATH | O_CLOEXEC));

	if (fd < 0)
		return fd;
	close(fd);
	fd = check_kind(open_name(params, flags));
	/* It was for the opening alone: io_uring would take it as "never wait". */
	if (fd >= 0)
		(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return fd;
}
