/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_lock: QEMU's lock bytes. See file_lock.h.
 *
 * Setting first and probing afterwards makes two openers that race see each other:
 * at worst both give up, never do both go on.
 */
#include "io/file_lock.h"

#include <errno.h>
#include <fcntl.h>

/* The permissions, and the bytes that stand for them. */
enum { CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE };
#define USED(permission) (100 + (permission))
#define UNSHARED(permission) (200 + (permission))

#define LOCK_FIRST_BYTE USED(0)
#define LOCK_NB_BYTES 200

#define MAX_BYTES 5

/* Zero ends a list. */
static const struct lock_bytes {
	int held[MAX_BYTES + 1];
	int probed[MAX_BYTES + 1];
} lock_table[] = {
	[FILE_LOCK_NONE] = {},
	[FILE_LOCK_READ] =
		{
			.held = {USED(CONSISTENT_READ), UNSHARED(WRITE), UNSHARED(RESIZE)},
			.probed = {UNSHARED(CONSISTENT_READ), USED(WRITE), USED(RESIZE)},
		},
	[FILE_LOCK_SHARED] =
		{
			.held = {USED(CONSISTENT_READ)},
			.probed = {UNSHARED(CONSISTENT_READ)},
		},
	[FILE_LOCK_WRITE] =
		{
			.held = {USED(CONSISTENT_READ), USED(WRITE), USED(RESIZE), UNSHARED(WRITE),
				 UNSHARED(RESIZE)},
			.probed = {USED(WRITE), USED(RESIZE), UNSHARED(CONSISTENT_READ),
				   UNSHARED(WRITE), UNSHARED(RESIZE)},
		},
};

static int set_lock(int fd, short type, off_t start, off_t len)
{
	struct flock flock = {
		.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = start,
		.l_len = len,
	};
	int ret;

	do
		ret = fcntl(fd, F_OFD_SETLK, &flock);
	while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : 0;
}

/* 1: somebody else holds the byte; 0; or -errno. */
static int probe_lock(int fd, int byte)
{
	struct flock flock = {
		.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = byte,
		.l_len = 1,
	};

	if (fcntl(fd, F_OFD_GETLK, &flock) < 0)
		return -errno;
	return flock.l_type != F_UNLCK;
}

static int set_conflict(int byte, struct error **reterr)
{
	switch (byte) {
	case USED(WRITE):
	case USED(RESIZE):
		return error_set(reterr, ERROR_LOCKED, EAGAIN,
				 "image is in use for writing (a running VM?); stop it, or read it "
				 "with --force-share");
	case UNSHARED(WRITE):
	case UNSHARED(RESIZE):
		return error_set(
			reterr, ERROR_LOCKED, EAGAIN,
			"image is being read by a program that allows no writing; stop it, "
			"or mount with --read-only");
	default:
		return error_set(
			reterr, ERROR_LOCKED, EAGAIN,
			"image is in use by a program that shares it with nobody; stop it");
	}
}

/* Network file systems without a lock service, and kernels without such locks. */
static bool locks_missing(int ret)
{
	return ret == -ENOLCK || ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -EINVAL;
}

int file_lock_take(int fd, enum file_lock lock, struct error **reterr)
{
	const struct lock_bytes *bytes = &lock_table[lock];
	int ret = 0;

	for (const int *byte = bytes->held; *byte && !ret; byte++) {
		ret = set_lock(fd, F_RDLCK, *byte, 1);
		if (ret == -EAGAIN || ret == -EACCES)
			ret = set_conflict(0, reterr);
		else if (ret < 0 && !locks_missing(ret))
			error_set(reterr, ERROR_SYSTEM, -ret, "cannot lock the image");
	}
	for (const int *byte = bytes->probed; *byte && !ret; byte++) {
		ret = probe_lock(fd, *byte);
		if (ret > 0)
			ret = set_conflict(*byte, reterr);
		else if (ret < 0 && !locks_missing(ret))
			error_set(reterr, ERROR_SYSTEM, -ret, "cannot lock the image");
	}
	if (ret < 0)
		file_lock_drop(fd);
	return locks_missing(ret) ? 0 : ret;
}

void file_lock_drop(int fd)
{
	(void)set_lock(fd, F_UNLCK, LOCK_FIRST_BYTE, LOCK_NB_BYTES);
}
