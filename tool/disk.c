/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * disk: see disk.h.
 */
#include "tool/disk.h"

#include "core/backing.h"
#include "core/format.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int coroutine_fn open_file(struct tool *tool, const char *path, bool writable,
				  enum file_lock lock, struct file **ret_file)
{
	struct opener *opener = &tool->opener.opener;
	struct error *error = NULL;
	int ret = opener->open(opener, OPENER_IMAGE, NULL, path, writable, lock, ret_file, &error);

	return ret ? tool_fail(path, ret, error) : STATUS_OK;
}

int coroutine_fn disk_open_file(struct tool *tool, const char *path, struct file **ret_file)
{
	enum file_lock lock = tool->how.writable      ? FILE_LOCK_WRITE
			      : tool->how.force_share ? FILE_LOCK_SHARED
						      : FILE_LOCK_READ;

	return open_file(tool, path, tool->how.writable, lock, ret_file);
}

int coroutine_fn disk_probe_file(struct file *file, const char **ret_format)
{
	uint8_t magic[4] = {0};
	int ret = file_read(file, 0, magic, sizeof(magic), IO_TAG_HEADER);

	if (ret)
		return tool_fail(file->name, ret, NULL);
	*ret_format = be32_get(magic) == QCOW2_MAGIC ? "qcow2" : "raw";
	return STATUS_OK;
}

/* The format of a file that is not open yet: looked at without locks. */
static int coroutine_fn probe(struct tool *tool, const char *path, bool *ret_raw)
{
	const char *format = "";
	struct file *file;
	int status = open_file(tool, path, false, FILE_LOCK_NONE, &file);

	if (status)
		return status;
	status = disk_probe_file(file, &format);
	*ret_raw = !strcmp(format, "raw");
	file_close(file);
	return status;
}

int coroutine_fn disk_open(struct tool *tool, const char *path, const char *format,
			   const struct image_options *how, struct disk *ret_disk)
{
	struct image_options options = *how;
	struct disk disk = {.path = path, .cluster_size = 65536};
	struct error *error = NULL;
	int status = STATUS_OK, ret;

	/* It would be open for reading alone. */
	if (how->writable && (how->snapshot || how->force_share))
		return tool_usage(tool, "not with %s", how->snapshot ? "-o snapshot=" : "-U");
	if (format)
		options.raw = !strcmp(format, "raw");
	else
		status = probe(tool, path, &options.raw);
	if (status)
		return status;
	if (options.raw && options.writable) {
		status = open_file(tool, path, true, FILE_LOCK_WRITE, &disk.raw);
		if (status)
			return status;
		disk.size_bytes = disk.raw->size_bytes;
		*ret_disk = disk;
		return STATUS_OK;
	}
	ret = image_open(&tool->opener.opener, path, &options, &disk.image, &error);
	if (ret)
		return tool_fail(path, ret, error);
	disk.size_bytes = image_info(disk.image)->virtual_size;
	disk.cluster_size = image_info(disk.image)->cluster_size;
	*ret_disk = disk;
	return STATUS_OK;
}

int coroutine_fn disk_open_below(struct tool *tool, const struct disk *above, const char *path,
				 const struct image_options *how, struct disk *ret_disk)
{
	struct disk disk = {.path = path, .cluster_size = 65536};
	struct error *error = NULL;
	int ret = image_open_below(&tool->opener.opener, above->image, how, &disk.image, &disk.raw,
				   &error);

	if (ret)
		return tool_fail(above->path, ret, error);
	if (disk.image) {
		disk.size_bytes = image_info(disk.image)->virtual_size;
		disk.cluster_size = image_info(disk.image)->cluster_size;
	} else {
		disk.size_bytes = disk.raw->size_bytes;
	}
	*ret_disk = disk;
	return STATUS_OK;
}

int coroutine_fn disk_close(struct disk *disk)
{
	int ret = 0;

	if (disk->image) {
		ret = image_close(disk->image);
	} else if (disk->raw) {
		ret = file_flush(disk->raw);
		file_close(disk->raw);
	}
	disk->image = NULL;
	disk->raw = NULL;
	if (!ret)
		return STATUS_OK;
	tool_say(disk->path, "write-back failed: %s", strerror(-ret));
	return STATUS_WRITE_BACK;
}

int coroutine_fn disk_read(struct disk *disk, uint64_t guest_off, void *buf, size_t len_bytes)
{
	if (disk->image)
		return image_read(disk->image, guest_off, buf, len_bytes, NULL);
	return file_read(disk->raw, guest_off, buf, len_bytes, IO_TAG_DATA);
}

int coroutine_fn disk_write(struct disk *disk, uint64_t guest_off, const void *buf,
			    size_t len_bytes)
{
	if (disk->image)
		return image_write(disk->image, guest_off, buf, len_bytes);
	return file_write(disk->raw, guest_off, buf, len_bytes, IO_TAG_DATA);
}

int coroutine_fn disk_zero(struct disk *disk, uint64_t guest_off, uint64_t len_bytes,
			   bool keep_space)
{
	if (disk->image)
		return image_zero(disk->image, guest_off, len_bytes, keep_space);
	if (keep_space)
		return file_zero(disk->raw, guest_off, len_bytes, IO_TAG_DATA);
	return file_zero_free(disk->raw, guest_off, len_bytes, IO_TAG_DATA);
}

int coroutine_fn disk_discard(struct disk *disk, uint64_t guest_off, uint64_t len_bytes)
{
	if (disk->image)
		return image_discard(disk->image, guest_off, len_bytes);
	return file_punch(disk->raw, guest_off, len_bytes);
}

int coroutine_fn disk_resize(struct disk *disk, uint64_t size_bytes)
{
	int ret;

	if (disk->raw && disk->raw->is_block_device) {
		tool_say(disk->path,
			 "a device keeps its size of %" PRIu64 " bytes; %" PRIu64 " are wanted",
			 disk->size_bytes, size_bytes);
		return STATUS_SYSTEM;
	}
	ret = disk->image ? image_resize(disk->image, size_bytes)
			  : file_truncate(disk->raw, size_bytes);
	if (ret == -ENOTSUP) {
		tool_say(disk->path,
			 "snapshots of a version 2 image do not record their size, so it "
			 "cannot change; delete them, or convert the image");
		return STATUS_UNSUPPORTED;
	}
	if (ret == -EFBIG) {
		tool_say(disk->path, "%" PRIu64 " bytes are more than %s", size_bytes,
			 disk->image ? "its cluster_size permits; convert it with a larger one"
				     : "a file may have here");
		return STATUS_SYSTEM;
	}
	if (ret)
		return tool_fail(disk->path, ret, NULL);
	disk->size_bytes = size_bytes;
	return STATUS_OK;
}

int coroutine_fn disk_flush(struct disk *disk)
{
	return disk->image ? image_flush(disk->image) : file_flush(disk->raw);
}

int coroutine_fn disk_create_file(struct tool *tool, const char *path, struct file **ret_file,
				  bool *ret_new)
{
	/* Not truncated before its locks are held: it may be in use. A pipe is not waited for. */
	int flags = O_WRONLY | O_CREAT | O_NONBLOCK | O_CLOEXEC, status;
	int fd = open(path, flags | O_EXCL, 0666);

	*ret_new = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = open(path, flags, 0666);
	if (fd < 0)
		return tool_fail(path, errno, NULL);
	close(fd);
	status = open_file(tool, path, true, FILE_LOCK_WRITE, ret_file);
	if (status)
		disk_remove_new(path, *ret_new);
	return status;
}

void disk_remove_new(const char *path, bool is_new)
{
	if (is_new)
		unlink(path);
}

char *disk_combine_path(const char *path, const char *name)
{
	const char *slash = strrchr(path, '/');
	char *combined;

	if (!slash || *name == '/' || !backing_name_is_plain(name))
		return strdup(name);
	if (asprintf(&combined, "%.*s%s", (int)(slash + 1 - path), path, name) < 0)
		return NULL;
	return combined;
}

bool disk_same_file(const char *a, const char *b)
{
	struct stat x, y;

	return !strcmp(a, b) || (!stat(a, &x) && !stat(b, &y) && file_stats_are_same(&x, &y));
}

bool disk_has_file(const struct disk *disk, const char *path)
{
	const struct file *file;
	struct stat st;

	if (stat(path, &st))
		return false;
	for (unsigned layer = 0; (file = image_file(disk->image, layer)); layer++) {
		const struct file *data_file = image_data_file(disk->image, layer);

		if (file_is(file, &st) || (data_file && file_is(data_file, &st)))
			return true;
	}
	return false;
}

bool disk_is_zero(const void *buf, size_t len_bytes)
{
	const uint8_t *p = buf;

	/* The rest equals its predecessor, and the first bytes are zero. */
	if (len_bytes <= 16) {
		for (size_t i = 0; i < len_bytes; i++)
			if (p[i])
				return false;
		return true;
	}
	return disk_is_zero(p, 16) && !memcmp(p, p + 16, len_bytes - 16);
}
