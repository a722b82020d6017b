/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * disk: a qcow2 or raw image, to be read or written alike.
 *
 * Reading a raw file goes through the core, as a chain of one raw layer; writing one
 * goes to the file itself.
 */
#ifndef QCOW2FS_TOOL_DISK_H
#define QCOW2FS_TOOL_DISK_H

#include "tool/tool.h"

struct disk {
	const char *path;
	struct image *image; /* NULL: a raw file, open for writing */
	struct file *raw;
	uint64_t size_bytes; /* as the guest sees it */
	uint32_t cluster_size;
};

/*
 * Opens `path`. `format` is "raw", "qcow2" or NULL: the magic number tells; this is right for
 * names from the command line only. Reports failure. Returns the exit status.
 */
int coroutine_fn disk_open(struct tool *tool, const char *path, const char *format,
			   const struct image_options *how, struct disk *ret_disk);
/*
 * Opens what `above`, which is open without its backing file and has one, is laid upon, by the
 * rules for names inside images; `path` is for messages. Reports failure. Returns the exit status.
 */
int coroutine_fn disk_open_below(struct tool *tool, const struct disk *above, const char *path,
				 const struct image_options *how, struct disk *ret_disk);
/* Writes back and closes; reports failure. Returns the exit status. */
int coroutine_fn disk_close(struct disk *disk);

/* Each returns 0 or -errno. */
int coroutine_fn disk_read(struct disk *disk, uint64_t guest_off, void *buf, size_t len_bytes);
int coroutine_fn disk_write(struct disk *disk, uint64_t guest_off, const void *buf,
			    size_t len_bytes);
int coroutine_fn disk_zero(struct disk *disk, uint64_t guest_off, uint64_t len_bytes,
			   bool keep_space);
int coroutine_fn disk_discard(struct disk *disk, uint64_t guest_off, uint64_t len_bytes);
int coroutine_fn disk_flush(struct disk *disk);

/* Reports failure. Returns the exit status. */
int coroutine_fn disk_resize(struct disk *disk, uint64_t size_bytes);

/*
 * The file alone, as tool->how says (writable, force_share), with its locks. Reports failure.
 * Returns the exit status.
 */
int coroutine_fn disk_open_file(struct tool *tool, const char *path, struct file **ret_file);
/* "qcow2" or "raw", by the magic number. Reports failure. Returns the exit status. */
int coroutine_fn disk_probe_file(struct file *file, const char **ret_format);

/*
 * Opens a host file for writing; *ret_new: it was not there, and has been made. Reports. Returns
 * the exit status.
 */
int coroutine_fn disk_create_file(struct tool *tool, const char *path, struct file **ret_file,
				  bool *ret_new);
/* Of no use to anybody, as what it was made for has failed. */
void disk_remove_new(const char *path, bool is_new);

/* `name`, as it stands in the image at `path`, seen from the working directory. The caller frees
 * it; NULL: out of memory. */
char *disk_combine_path(const char *path, const char *name);

/* Do both names lead to the same file? */
bool disk_same_file(const char *a, const char *b);
/* Is `path` one of the files that the disk, open for reading, is made of? */
bool disk_has_file(const struct disk *disk, const char *path);

/* Are all bytes zero? */
bool disk_is_zero(const void *buf, size_t len_bytes);

#endif
