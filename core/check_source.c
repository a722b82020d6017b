/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_source: how the check reads and writes the file.
 *
 * Reading goes through a window. A small file is read whole, once: the crash
 * explorer checks images of some hundred KiB a million times, and one request is
 * what that costs. Of a large file the window holds what was asked for and what
 * the caller expects to ask for next. Writing changes the windows too, so that the
 * next pass sees it without reading again.
 */
#include "core/check_int.h"
#include "io/buf.h"

#include <errno.h>

#define PAGE_BYTES 4096u
#define SMALL_FILE_BYTES (1u << 20)

static bool source_covers(const struct check_source *source, uint64_t host_off, size_t len_bytes)
{
	return host_off >= source->start && host_off - source->start <= source->len_bytes &&
	       len_bytes <= source->len_bytes - (host_off - source->start);
}

/* Which bytes to load for a request: whole pages, and as much ahead as is wanted and there. */
static size_t source_plan(const struct check *check, uint64_t host_off, size_t len_bytes,
			  size_t want_bytes, uint64_t *ret_start)
{
	uint64_t file_end = round_up(check->file_bytes, PAGE_BYTES);
	uint64_t start = round_down(host_off, PAGE_BYTES);
	uint64_t need = round_up(host_off + len_bytes, PAGE_BYTES) - start;
	uint64_t want = round_up(host_off + max_u64(len_bytes, want_bytes), PAGE_BYTES) - start;

	if (file_end <= SMALL_FILE_BYTES && start + need <= file_end) {
		*ret_start = 0;
		return file_end;
	}
	if (start < file_end)
		want = min_u64(want, file_end - start);
	*ret_start = start;
	return max_u64(need, min_u64(want, BUF_MAX_BYTES));
}

static int source_reserve(struct check_source *source, size_t len_bytes)
{
	if (len_bytes <= source->cap_bytes)
		return 0;
	check_source_finish(source);
	source->buf = buf_get(len_bytes);
	if (!source->buf)
		return -ENOMEM;
	source->cap_bytes = len_bytes;
	return 0;
}

int coroutine_fn check_source_get(struct check *check, struct check_source *source,
				  uint64_t host_off, size_t len_bytes, size_t want_bytes,
				  enum io_tag tag, const uint8_t **ret)
{
	/* What the first window holds anyway needs no second one: a small file is read once. */
	if (source_covers(&check->source, host_off, len_bytes))
		source = &check->source;
	if (!source_covers(source, host_off, len_bytes)) {
		uint64_t start;
		size_t load = source_plan(check, host_off, len_bytes, want_bytes, &start);
		int err = source_reserve(source, load);

		if (err)
			return err;
		source->len_bytes = 0;
		if (start >= check->file_bytes)
			memset(source->buf, 0, load);
		else
			err = file_read(check->file, start, source->buf, load, tag);
		if (err)
			return err;
		source->start = start;
		source->len_bytes = load;
	}
	*ret = source->buf + (host_off - source->start);
	return 0;
}

void check_source_finish(struct check_source *source)
{
	buf_put(source->buf, source->cap_bytes);
	*source = (struct check_source){0};
}

/* Copies the part of a write that lies inside the window. */
static void source_update(struct check_source *source, uint64_t host_off, const uint8_t *buf,
			  size_t len_bytes)
{
	uint64_t first = max_u64(host_off, source->start);
	uint64_t end = min_u64(host_off + len_bytes, source->start + source->len_bytes);

	/* The source of a write may be the window itself. */
	if (first < end)
		memmove(source->buf + (first - source->start), buf + (first - host_off),
			end - first);
}

int coroutine_fn check_write(struct check *check, uint64_t host_off, const void *buf,
			     size_t len_bytes, enum io_tag tag)
{
	int err = file_write(check->file, host_off, buf, len_bytes, tag);

	if (err)
		return err;
	check->nb_writes++;
	source_update(&check->source, host_off, buf, len_bytes);
	source_update(&check->blocks, host_off, buf, len_bytes);
	return 0;
}
