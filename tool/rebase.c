/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * rebase: another backing file for an overlay, whose contents stay as they are: where the
 * new backing file differs from the old one, the old contents are copied into the overlay
 * first. With -u only the name changes.
 */
#include "core/rebase.h"

#include "core/checked.h"
#include "io/buf.h"
#include "tool/disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STEP_BYTES (1u << 20)

struct rebase {
	struct disk top, base;
	bool has_base;
	uint64_t old_bytes;
	uint8_t *was, *will; /* STEP_BYTES each, or a cluster */
	size_t buf_bytes;
	struct progress progress;
	const char *failed_path; /* NULL: the overlay's */
};

/* What the new backing file shows; zeros behind its end, and without one. */
static int coroutine_fn read_base(struct rebase *r, uint64_t off, size_t bytes)
{
	uint64_t size = r->has_base ? r->base.size_bytes : 0;
	size_t inside = off < size ? min_u64(bytes, size - off) : 0;
	int ret = inside ? disk_read(&r->base, off, r->will, inside) : 0;

	if (ret)
		r->failed_path = r->base.path;
	memset(r->will + inside, 0, bytes - inside);
	return ret;
}

/* How far the old backing file reaches. */
static uint64_t old_backing_bytes(const struct disk *top)
{
	const struct image *backing = image_backing(top->image);
	const struct file *file = image_file(top->image, 1);

	if (backing)
		return image_info(backing)->virtual_size;
	return file ? round_up(file->size_bytes, 512) : 0;
}

/*
 * Will image_zero() leave a mark? Only for whole clusters, and where there is something old to
 * hide: elsewhere it leaves the cluster unallocated, and the new backing file would show.
 */
static bool can_mark_zero(const struct rebase *r, uint64_t off, size_t bytes)
{
	return image_info(r->top.image)->version >= 3 && off % r->top.cluster_size == 0 &&
	       (bytes == r->top.cluster_size || off + bytes == r->top.size_bytes) &&
	       off < r->old_bytes;
}

/* Puts what differs into the overlay, cluster by cluster. */
static int coroutine_fn keep_contents(struct rebase *r, uint64_t off, size_t bytes)
{
	size_t size = r->top.cluster_size, n;
	int ret = disk_read(&r->top, off, r->was, bytes);

	if (!ret)
		ret = read_base(r, off, bytes);
	for (size_t pos = 0; pos < bytes && !ret; pos += n) {
		n = min_u64(size - (off + pos) % size, bytes - pos);
		if (!memcmp(r->was + pos, r->will + pos, n))
			continue;
		if (disk_is_zero(r->was + pos, n) && can_mark_zero(r, off + pos, n))
			ret = image_zero(r->top.image, off + pos, n, false);
		else
			ret = image_write(r->top.image, off + pos, r->was + pos, n);
	}
	return ret;
}

static int coroutine_fn copy_differences(struct rebase *r)
{
	uint64_t pos = 0, size = r->top.size_bytes;
	int ret = 0;

	while (pos < size && !ret) {
		struct map_extent extent;
		bool own;

		ret = image_map(r->top.image, pos, r->buf_bytes - pos % r->buf_bytes, &extent);
		if (ret)
			break;
		own = extent.depth == 0 && extent.kind != MAP_HOLE;
		if (!own)
			ret = keep_contents(r, pos, extent.len_bytes);
		pos += extent.len_bytes;
		progress_set(&r->progress, pos, size);
	}
	return ret;
}

static int coroutine_fn make_safe(struct tool *tool, struct rebase *r, bool show_progress)
{
	int ret;

	r->old_bytes = old_backing_bytes(&r->top);
	r->buf_bytes = max_u64(STEP_BYTES, r->top.cluster_size);
	r->was = buf_get(r->buf_bytes);
	r->will = buf_get(r->buf_bytes);
	progress_begin(&r->progress, tool, show_progress);
	ret = r->was && r->will ? copy_differences(r) : -ENOMEM;
	progress_end(&r->progress);
	buf_put(r->was, r->buf_bytes);
	buf_put(r->will, r->buf_bytes);
	return ret ? tool_fail(r->failed_path ? r->failed_path : r->top.path, ret, NULL)
		   : STATUS_OK;
}

/* Opens the new backing file as the overlay will: beside itself. */
static int coroutine_fn open_base(struct tool *tool, struct rebase *r, const char *name,
				  const char *format)
{
	struct image_options how = {.force_share = tool->how.force_share};
	char *path = disk_combine_path(r->top.path, name);
	int status;

	if (!path)
		return tool_fail(r->top.path, ENOMEM, NULL);
	if (disk_same_file(r->top.path, path)) {
		tool_say(path, "it would be its own backing file");
		status = STATUS_USAGE;
	} else {
		status = disk_open(tool, path, format, &how, &r->base);
	}
	r->has_base = status == STATUS_OK;
	r->base.path = name;
	free(path);
	return status;
}

static int coroutine_fn rebase(struct tool *tool, const char *path, const char *name,
			       const char *format, bool unsafe, bool show_progress)
{
	struct rebase r = {0};
	struct error *error = NULL;
	int ret, status, close_status;

	tool->how.writable = true;
	tool->how.no_backing = unsafe;
	status = disk_open(tool, path, "qcow2", &tool->how, &r.top);
	if (status)
		return status;
	if (!unsafe && *name)
		status = open_base(tool, &r, name, format);
	if (!status && !unsafe)
		status = make_safe(tool, &r, show_progress);
	if (r.has_base)
		disk_close(&r.base);
	if (!status) {
		ret = rebase_record(r.top.image, *name ? name : NULL, format, &error);
		if (ret)
			status = tool_fail(path, ret, error);
	}
	close_status = disk_close(&r.top);
	return status ? status : close_status;
}

int coroutine_fn rebase_command(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {TOOL_LONG_OPTIONS, {0}};
	const char *name = NULL, *format = NULL;
	bool unsafe = false, show_progress = false;
	int opt, status;

	while ((opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS "ub:F:p", options, NULL)) != -1) {
		if (opt == 'u')
			unsafe = true;
		else if (opt == 'b')
			name = optarg;
		else if (opt == 'F')
			format = optarg;
		else if (opt == 'p')
			show_progress = true;
		else if ((status = tool_option(tool, opt)))
			return status;
	}
	if (argc - optind != 1 || !name)
		return tool_usage(tool, "one image and -b are needed");
	if (*name && (!format || (strcmp(format, "raw") && strcmp(format, "qcow2"))))
		return tool_usage(tool, "the backing file's format is needed: -F raw or -F qcow2");
	return rebase(tool, argv[optind], name, format, unsafe, show_progress);
}
