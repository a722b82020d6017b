/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file_probe: how a host file wants to be accessed: page cache or direct, and the
 * block size that direct I/O asks for.
 *
 * The first that knows decides: statx (Linux 6.1), the logical sector size of the
 * device (asked, or read from sysfs for a file system's device), and then real reads
 * confirm or correct what was not the kernel's own statement about this file.
 */
#include "io/file_open.h"

#include "io/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MIN_BLOCK_BYTES 512u
#define MAX_BLOCK_BYTES BUF_ALIGN /* what the buffer pool can honour */

/* Newer than some headers this is built with: the bit and where struct statx has the fields. */
#define DIOALIGN_MASK 0x2000u
#define DIOALIGN_OFFSET 0x98

/* Block size, 0 where the kernel does not say, -EINVAL where it says there is no direct I/O. */
static int ask_statx(int fd)
{
	struct statx stx;
	struct {
		uint32_t mem_align, offset_align;
	} dio;

	if (statx(fd, "", AT_EMPTY_PATH, DIOALIGN_MASK, &stx) < 0 ||
	    !(stx.stx_mask & DIOALIGN_MASK))
		return 0;
	memcpy(&dio, (const char *)&stx + DIOALIGN_OFFSET, sizeof(dio));
	if (!dio.offset_align)
		return -EINVAL;
	if (dio.mem_align > INT32_MAX || dio.offset_align > INT32_MAX)
		return 0;
	return (int)(dio.mem_align > dio.offset_align ? dio.mem_align : dio.offset_align);
}

/* Logical sector size of the disk below a file system, 0 if it has none or sysfs is not there. */
static int ask_sysfs(dev_t dev)
{
	/* A partition has no queue of its own: its disk's is one level up. */
	static const char *const places[] = {"queue", "../queue"};
	int sector_bytes = 0;

	for (int i = 0; i < 2 && !sector_bytes; i++) {
		char path[96];
		FILE *stream;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/logical_block_size",
			 major(dev), minor(dev), places[i]);
		stream = fopen(path, "re");
		if (!stream)
			continue;
		if (fscanf(stream, "%d", &sector_bytes) != 1)
			sector_bytes = 0;
		fclose(stream);
	}
	return sector_bytes;
}

static int ask_device(const struct file *file)
{
	int sector_bytes;

	if (!file->is_block_device)
		return ask_sysfs(file->dev);
	return ioctl(file->fd, BLKSSZGET, &sector_bytes) == 0 ? sector_bytes : 0;
}

/* Whether a read whose offset, length and address are odd multiples of `align` is accepted. */
static bool try_read(const struct file *file, void *buf, uint32_t align)
{
	off_t off = file->size_bytes > align ? (off_t)align : 0;
	ssize_t ret;

	do
		ret = pread(file->fd, (char *)buf + align, align, off);
	while (ret < 0 && errno == EINTR);
	/* Any other error is for the request that meets it again. */
	return ret >= 0 || errno != EINVAL;
}

/* The smallest block size from `align` on that works, 0 if none does. */
static uint32_t try_reads(const struct file *file, uint32_t align)
{
	void *buf = buf_get(2 * MAX_BLOCK_BYTES);

	if (!buf)
		return 0;
	while (align <= MAX_BLOCK_BYTES && !try_read(file, buf, align))
		align *= 2;
	buf_put(buf, 2 * MAX_BLOCK_BYTES);
	return align <= MAX_BLOCK_BYTES ? align : 0;
}

static bool plausible(int align)
{
	return align > 0 && !(align & (align - 1));
}

/* The block size for direct I/O on a descriptor that has O_DIRECT; 0: it is not to be. */
static uint32_t find_block_size(const struct file *file)
{
	int align = ask_statx(file->fd);

	if (align < 0)
		return 0;
	if (plausible(align)) {
		if ((unsigned)align < MIN_BLOCK_BYTES)
			return MIN_BLOCK_BYTES;
		return (unsigned)align <= MAX_BLOCK_BYTES ? (unsigned)align : 0;
	}
	align = ask_device(file);
	return try_reads(file, plausible(align) && (unsigned)align > MIN_BLOCK_BYTES
				       ? (unsigned)align
				       : MIN_BLOCK_BYTES);
}

static bool lives_in_memory(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 &&
	       ((uint32_t)fs.f_type == TMPFS_MAGIC || (uint32_t)fs.f_type == RAMFS_MAGIC);
}

static void set_direct(int fd, bool direct)
{
	int flags = fcntl(fd, F_GETFL);

	(void)fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT);
}

void file_probe(struct file *file, bool no_direct)
{
	file->align = 1;
	file->path = FILE_BUFFERED;
	if (!file->is_block_device && lives_in_memory(file->fd)) {
		file->path = FILE_MEMORY;
		return;
	}
	if (no_direct)
		return;

	set_direct(file->fd, true);
	if (fcntl(file->fd, F_GETFL) & O_DIRECT) {
		uint32_t align = find_block_size(file);

		if (align) {
			file->align = align;
			file->path = FILE_DIRECT;
			return;
		}
		set_direct(file->fd, false);
	}
}
