/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * disk: see disk.h. One thread; the clock is virtual and jumps to the next timer.
 */
#include "test/hostile/disk.h"

#include "io/file.h"
#include "io/reactor.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 512u

void broken(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fputs("  broken: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
	abort(); /* which fuzzers take for a finding, too */
}

#define STORE_STEP_BYTES (1u << 20)

/* ---- requests ---- */

/* Makes sure that the bytes up to `end` are stored. */
static int store(struct disk_file *file, uint64_t end)
{
	uint8_t *data;

	if (end <= file->stored)
		return 0;
	if (end > DISK_STORED_MAX)
		return -ENOSPC;
	/* In steps that a long file does not feel as one copy after another. */
	end = (end | (end < STORE_STEP_BYTES ? 0xffff : STORE_STEP_BYTES - 1)) + 1;
	data = realloc(file->data, end);
	if (!data)
		return -ENOMEM;
	memset(data + file->stored, 0, end - file->stored);
	file->data = data;
	file->stored = end;
	return 0;
}

static int64_t read_bytes(const struct disk_file *file, const struct io_req *req)
{
	uint64_t off = req->host_off;

	for (int i = 0; i < req->nb_iov && off < file->size; i++) {
		uint64_t n = req->iov[i].iov_len, have = 0;

		if (n > file->size - off)
			n = file->size - off;
		if (off < file->stored)
			have = file->stored - off < n ? file->stored - off : n;
		if (have)
			memcpy(req->iov[i].iov_base, file->data + off, have);
		memset((uint8_t *)req->iov[i].iov_base + have, 0, n - have);
		off += n;
	}
	return off > req->host_off ? (int64_t)(off - req->host_off) : 0;
}

static int64_t write_bytes(struct disk_file *file, const struct io_req *req)
{
	uint64_t off = req->host_off;
	int err = off > DISK_SIZE_MAX ? -EFBIG : store(file, off + req->len_bytes);

	if (err)
		return err;
	for (int i = 0; i < req->nb_iov; i++) {
		memcpy(file->data + off, req->iov[i].iov_base, req->iov[i].iov_len);
		off += req->iov[i].iov_len;
	}
	if (off > file->size)
		file->size = off;
	return req->len_bytes;
}

static int64_t clear_bytes(struct disk_file *file, const struct io_req *req)
{
	uint64_t end = req->host_off + req->len_bytes;

	if (req->host_off > DISK_SIZE_MAX || end > DISK_SIZE_MAX)
		return -EFBIG;
	if (req->op != IO_PUNCH && end > file->size)
		file->size = end;
	if (req->op != IO_ALLOC && req->host_off < file->stored)
		memset(file->data + req->host_off, 0,
		       (end < file->stored ? end : file->stored) - req->host_off);
	return 0;
}

static int64_t set_size(struct disk_file *file, uint64_t size)
{
	if (size > DISK_SIZE_MAX)
		return -EFBIG;
	if (size < file->stored)
		memset(file->data + size, 0, file->stored - size);
	file->size = size;
	return 0;
}

static int64_t execute(const struct io_req *req)
{
	struct disk_file *file = req->file->priv;

	if (req->op == IO_READ)
		return read_bytes(file, req);
	if (!req->file->writable && req->op != IO_FLUSH)
		broken("%s is changed, which was opened for reading", file->name);
	switch (req->op) {
	case IO_WRITE:
		return write_bytes(file, req);
	case IO_PUNCH:
	case IO_ZERO:
	case IO_ALLOC:
		return clear_bytes(file, req);
	case IO_TRUNCATE:
		return set_size(file, req->host_off);
	default:
		return 0;
	}
}

/* ---- engine ---- */

static int disk_attach(struct engine *engine, struct reactor *reactor)
{
	((struct disk *)engine)->reactor = reactor;
	return 0;
}

static int disk_add_file(struct engine *engine, struct file *file)
{
	file->fixed = -1;
	return 0;
}

static void disk_remove_file(struct engine *engine, struct file *file)
{
}

static void disk_submit(struct engine *engine, struct io_req *req)
{
	io_complete(req, execute(req));
}

static void disk_wait(struct engine *engine, uint64_t timeout_ns)
{
	struct disk *disk = (struct disk *)engine;

	if (timeout_ns == UINT64_MAX && !disk->woken)
		broken("a coroutine waits for something that never comes");
	if (timeout_ns != UINT64_MAX)
		disk->clock_ns += timeout_ns;
	disk->woken = false;
}

static void disk_wake(struct engine *engine)
{
	((struct disk *)engine)->woken = true;
}

static uint64_t disk_now_ns(struct engine *engine)
{
	return ((struct disk *)engine)->clock_ns;
}

static void disk_destroy(struct engine *engine)
{
	disk_clear((struct disk *)engine);
	free(engine);
}

static const struct engine_ops disk_ops = {
	.name = "memory",
	.attach = disk_attach,
	.add_file = disk_add_file,
	.remove_file = disk_remove_file,
	.submit = disk_submit,
	.wait = disk_wait,
	.wake = disk_wake,
	.now_ns = disk_now_ns,
	.destroy = disk_destroy,
};

/* ---- files ---- */

static int disk_open(struct opener *opener, enum opener_role role, const struct file *holder,
		     const char *path, bool writable, enum file_lock lock, struct file **ret_file,
		     struct error **reterr)
{
	struct disk *disk = (struct disk *)((char *)opener - offsetof(struct disk, opener));

	for (unsigned i = 0; i < disk->nb_files; i++) {
		struct disk_file *file = &disk->files[i];
		int err;

		if (strcmp(file->name, path) != 0)
			continue;
		err = file_create_virtual(disk->reactor, file->name, file, file->size, BLOCK_BYTES,
					  writable, ret_file);
		if (err)
			return error_set(reterr, ERROR_SYSTEM, -err, "%s", path);
		(*ret_file)->ino = i + 1;
		return 0;
	}
	return error_set(reterr, role == OPENER_IMAGE ? ERROR_OPEN : ERROR_BACKING, ENOENT,
			 "there is no such file");
}

struct disk *disk_create(void)
{
	struct disk *disk = calloc(1, sizeof(*disk));

	if (!disk)
		return NULL;
	disk->engine.ops = &disk_ops;
	disk->opener.open = disk_open;
	disk->clock_ns = 1000000000;
	return disk;
}

void disk_clear(struct disk *disk)
{
	for (unsigned i = 0; i < disk->nb_files; i++)
		free(disk->files[i].data);
	disk->nb_files = 0;
}

struct disk_file *disk_add(struct disk *disk, const char *name, const void *data, uint64_t stored,
			   uint64_t size)
{
	struct disk_file *file = &disk->files[disk->nb_files];

	if (disk->nb_files == DISK_FILES_MAX)
		broken("too many files");
	*file = (struct disk_file){.size = size, .stored = stored, .data = malloc(stored + 1)};
	if (!file->data)
		broken("no memory for a file");
	if (stored)
		memcpy(file->data, data, stored);
	snprintf(file->name, sizeof(file->name), "%s", name);
	disk->nb_files++;
	return file;
}
