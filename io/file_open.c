/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_open: makes and ends struct file. The steps of opening are in file_resolve.c
 * (the name), file_lock.c (the lock bytes, before anything is read) and file_probe.c
 * (how to access it).
 */
#include "io/file_open.h"

#include "io/file_lock.h"
#include "io/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int create_file(struct reactor *reactor, const char *name, bool writable,
		       struct file **ret_file)
{
	struct file *file = calloc(1, sizeof(*file));

	if (!file)
		return -ENOMEM;
	file->name = strdup(name);
	if (!file->name) {
		free(file);
		return -ENOMEM;
	}
	file->reactor = reactor;
	file->engine = reactor_engine(reactor);
	file->fd = file->fixed = -1;
	file->align = 1;
	file->writable = writable;
	*ret_file = file;
	return 0;
}

static void destroy_file(struct file *file)
{
	if (file->fd >= 0) {
		if (!file->shares_locks)
			file_lock_drop(file->fd);
		close(file->fd);
	}
	free(file->name);
	free(file);
}

int file_stat(int fd, struct stat *ret_stat)
{
	/* The two structures are the same on these. */
#if defined(__x86_64__) || defined(__aarch64__)
	return syscall(SYS_fstat, fd, ret_stat) < 0 ? -errno : 0;
#else
	return fstat(fd, ret_stat) < 0 ? -errno : 0;
#endif
}

static int read_facts(struct file *file)
{
	struct stat st;
	int ret = file_stat(file->fd, &st);

	if (ret < 0)
		return ret;
	file->is_block_device = S_ISBLK(st.st_mode);
	file->dev = file->is_block_device ? st.st_rdev : st.st_dev;
	file->ino = file->is_block_device ? 0 : st.st_ino;
	file->uid = st.st_uid;
	file->mode = st.st_mode;
	file->size_bytes = (uint64_t)st.st_size;
	if (file->is_block_device && ioctl(file->fd, BLKGETSIZE64, &file->size_bytes) < 0)
		return -errno;
	return 0;
}

/*
 * The number of a closed standard stream would be the next to be given: what a program, or a
 * library in it, then prints must not go into an image.
 */
static int leave_streams(int fd)
{
	int higher;

	if (fd < 0 || fd > STDERR_FILENO)
		return fd;
	higher = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (higher < 0)
		higher = -errno;
	close(fd);
	return higher;
}

static int set_open_error(int ret, struct error **reterr)
{
	if (ret == -ENOTSUP)
		return error_set(reterr, ERROR_OPEN, ENOTSUP,
				 "neither a regular file nor a block device");
	return error_set(reterr, ret == -ENOMEM ? ERROR_SYSTEM : ERROR_OPEN, -ret, "%s",
			 strerror(-ret));
}

int file_open(struct reactor *reactor, const struct file_open_params *params,
	      struct file **ret_file, struct error **reterr)
{
	struct file *file;
	int ret = create_file(reactor, params->path, params->writable, &file);

	if (ret < 0)
		return set_open_error(ret, reterr);
	ret = leave_streams(file_resolve(params));
	if (ret < 0) {
		set_open_error(ret, reterr);
		goto fail;
	}
	file->fd = ret;
	file->throw_away = params->throw_away;
	ret = file_lock_take(file->fd, params->lock, reterr);
	if (ret < 0)
		goto fail;
	ret = read_facts(file);
	if (!ret) {
		file_probe(file, params->no_direct);
		ret = file->engine->ops->add_file(file->engine, file);
	}
	if (ret < 0) {
		set_open_error(ret, reterr);
		goto fail;
	}
	*ret_file = file;
	return 0;
fail:
	destroy_file(file);
	return ret;
}

int file_open_shared(const struct file *original, struct file **ret_file)
{
	struct file *file;
	int ret = create_file(original->reactor, original->name, false, &file);

	if (ret < 0)
		return ret;
	file->shares_locks = true;
	file->fd = fcntl(original->fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	ret = file->fd < 0 ? -errno : read_facts(file);
	file->path = original->path;
	file->align = original->align;
	if (ret == 0)
		ret = file->engine->ops->add_file(file->engine, file);
	if (ret < 0) {
		destroy_file(file);
		return ret;
	}
	*ret_file = file;
	return 0;
}

int file_create_virtual(struct reactor *reactor, const char *name, void *priv, uint64_t size_bytes,
			uint32_t align, bool writable, struct file **ret_file)
{
	struct file *file;
	int ret = create_file(reactor, name, writable, &file);

	if (ret < 0)
		return ret;
	file->priv = priv;
	file->size_bytes = size_bytes;
	file->align = align;
	file->path = FILE_DIRECT;
	ret = file->engine->ops->add_file(file->engine, file);
	if (ret < 0) {
		destroy_file(file);
		return ret;
	}
	*ret_file = file;
	return 0;
}

void file_close(struct file *file)
{
	if (!file)
		return;
	file->engine->ops->remove_file(file->engine, file);
	destroy_file(file);
}

bool file_stats_are_same(const struct stat *a, const struct stat *b)
{
	if (S_ISBLK(a->st_mode) || S_ISBLK(b->st_mode))
		return S_ISBLK(a->st_mode) && S_ISBLK(b->st_mode) && a->st_rdev == b->st_rdev;
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool file_is(const struct file *file, const struct stat *st)
{
	if (file->is_block_device)
		return S_ISBLK(st->st_mode) && st->st_rdev == file->dev;
	return st->st_dev == file->dev && st->st_ino == file->ino;
}

uint64_t file_host_sectors(const struct file *file)
{
	struct stat st;

	if (file->fd < 0 || file->is_block_device)
		return file->size_bytes / 512;
	return file_stat(file->fd, &st) == 0 ? (uint64_t)st.st_blocks : 0;
}
