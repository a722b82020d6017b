/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * convert: copies a disk into another file, format or set of options.
 *
 * A few coroutines share one walk over the source's map: each takes the next piece that
 * holds data, reads it, looks for zeros, and writes what is left, compressed if asked to.
 * Holes of the source are never read and never written.
 */
#include "core/checked.h"
#include "core/compress_write.h"
#include "io/buf.h"
#include "tool/create_options.h"
#include "tool/disk.h"
#include "tool/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_BYTES (1u << 20)
#define SPARSE_BYTES 4096u
#define SECTOR_BYTES 512u
#define NB_COPIERS 8u
#define NB_COPIERS_MAX 16u

struct convert_options {
	struct create_options target;
	char *lists[16]; /* of -o */
	unsigned nb_lists, nb_copiers;
	uint64_t sparse_bytes; /* 0: nothing is left out */
	bool compress, keep_target, show_progress;
	const char *cache;
};

struct convert {
	const struct convert_options *options;
	struct disk source, target;
	bool has_backing;       /* the target, which is new */
	bool shows_zeros;       /* the target, before anything is written */
	struct packer *packer;  /* with -c */
	uint64_t granule_bytes; /* pieces begin and end at multiples of it */
	struct co_mutex walk_mutex;
	uint64_t walked, extent_end; /* what lies between is of one kind */
	bool extent_is_zero;
	uint64_t nb_done;
	struct progress progress;
	struct co_group group;
	int result;
	const char *failed_path; /* whose failure that is */
};

struct copier {
	struct convert *convert;
	struct task task;
};

/* A failure `ret` is about `disk`; the first one counts. */
static int blame(struct convert *c, const struct disk *disk, int ret)
{
	if (ret < 0 && !c->result) {
		c->result = ret;
		c->failed_path = disk->path;
	}
	return ret;
}

/* ---- the walk ---- */

/* Looks up what is at `walked`. 0 or -errno. */
static int coroutine_fn next_extent(struct convert *c)
{
	uint64_t size = c->source.size_bytes, granule = c->granule_bytes, end;
	struct map_extent extent;
	int ret = image_map(c->source.image, c->walked, size - c->walked, &extent);

	if (ret)
		return ret;
	c->extent_is_zero = extent.kind == MAP_HOLE || extent.kind == MAP_ZERO || extent.host_hole;
	end = c->walked + extent.len_bytes;
	if (end < size && end % granule) {
		/* A granule of mixed contents counts as data. */
		if (c->extent_is_zero && end - c->walked > granule) {
			end = round_down(end, granule);
		} else {
			end = round_up(end, granule);
			c->extent_is_zero = false;
		}
	}
	c->extent_end = min_u64(end, size);
	return 0;
}

/* The next piece of at most STEP_BYTES (any length for zeros). 1, 0 at the end, or -errno. */
static int coroutine_fn take_piece(struct convert *c, uint64_t *ret_off, uint64_t *ret_bytes,
				   bool *ret_zero)
{
	uint64_t max_bytes = max_u64(STEP_BYTES, c->granule_bytes);
	int ret = 0;

	co_mutex_lock(&c->walk_mutex);
	if (c->result)
		ret = c->result;
	else if (c->walked >= c->source.size_bytes)
		ret = -ENODATA;
	else if (c->walked >= c->extent_end)
		ret = next_extent(c);
	if (!ret) {
		*ret_off = c->walked;
		*ret_bytes = c->extent_end - c->walked;
		*ret_zero = c->extent_is_zero;
		if (!c->extent_is_zero)
			*ret_bytes = min_u64(*ret_bytes, max_bytes - c->walked % max_bytes);
		c->walked += *ret_bytes;
	}
	co_mutex_unlock(&c->walk_mutex);
	return ret == -ENODATA ? 0 : ret ? blame(c, &c->source, ret) : 1;
}

/* ---- copying ---- */

static int coroutine_fn put_zeros(struct convert *c, uint64_t off, uint64_t bytes)
{
	int ret;

	if (c->shows_zeros && c->options->sparse_bytes)
		return 0;
	ret = disk_zero(&c->target, off, bytes, !c->options->sparse_bytes);
	if (!ret && !c->options->sparse_bytes && c->target.image)
		ret = image_allocate(c->target.image, off, bytes);
	return ret;
}

/* Whole clusters are compressed; the source may end within one of a longer target. */
static int coroutine_fn put_data(struct convert *c, uint64_t off, const uint8_t *buf,
				 uint64_t bytes)
{
	uint64_t nb_packed = 0;
	int ret = 0;

	if (c->packer)
		nb_packed = off + bytes == c->target.size_bytes
				    ? bytes
				    : round_down(bytes, c->granule_bytes);
	if (nb_packed)
		ret = packer_write(c->packer, off, buf, nb_packed);
	if (!ret && nb_packed < bytes)
		ret = disk_write(&c->target, off + nb_packed, buf + nb_packed, bytes - nb_packed);
	return ret;
}

/* Is the granule at buf to be left out? `old`: what the backing file has, or NULL. */
static bool may_skip(const uint8_t *buf, const uint8_t *old, uint64_t bytes)
{
	return old ? !memcmp(buf, old, bytes) : disk_is_zero(buf, bytes);
}

/* Writes what is neither zero nor in the backing file already. */
static int coroutine_fn put_sparse(struct convert *c, uint64_t off, const uint8_t *buf,
				   const uint8_t *old, uint64_t bytes)
{
	uint64_t granule = round_up(max_u64(c->options->sparse_bytes, 1), c->granule_bytes);
	uint64_t pos = 0;
	int ret = 0;

	while (pos < bytes && !ret) {
		uint64_t start = pos, n = min_u64(granule, bytes - pos);
		bool skip = may_skip(buf + pos, old ? old + pos : NULL, n);

		for (pos += n; pos < bytes; pos += n) {
			n = min_u64(granule, bytes - pos);
			if (may_skip(buf + pos, old ? old + pos : NULL, n) != skip)
				break;
		}
		if (!skip)
			ret = put_data(c, off + start, buf + start, pos - start);
		else if (!old)
			ret = put_zeros(c, off + start, pos - start);
	}
	return ret;
}

static int coroutine_fn copy_piece(struct convert *c, uint64_t off, uint64_t bytes, uint8_t *buf,
				   uint8_t *old)
{
	int ret = blame(c, &c->source, disk_read(&c->source, off, buf, bytes));

	if (!ret && old) /* nothing was written there yet: what the backing file has */
		ret = disk_read(&c->target, off, old, bytes);
	if (ret)
		return ret;
	if (!c->options->sparse_bytes && !old)
		return put_data(c, off, buf, bytes);
	return put_sparse(c, off, buf, old, bytes);
}

static void coroutine_fn copier_run(void *arg)
{
	struct copier *copier = arg;
	struct convert *c = copier->convert;
	size_t buf_bytes = max_u64(STEP_BYTES, c->granule_bytes);
	uint8_t *buf = buf_get(buf_bytes), *old = c->has_backing ? buf_get(buf_bytes) : NULL;
	uint64_t off = 0, bytes = 0;
	bool zero = false;
	int ret = buf && (old || !c->has_backing) ? 0 : -ENOMEM;

	while (!ret) {
		ret = take_piece(c, &off, &bytes, &zero);
		if (ret <= 0)
			break;
		ret = zero ? put_zeros(c, off, bytes) : copy_piece(c, off, bytes, buf, old);
		c->nb_done += bytes;
		progress_set(&c->progress, c->nb_done, c->source.size_bytes);
	}
	blame(c, &c->target, ret);
	buf_put(buf, buf_bytes);
	buf_put(old, buf_bytes);
	co_group_leave(&c->group, ret < 0 ? ret : 0);
}

static int coroutine_fn copy_all(struct convert *c)
{
	struct copier copiers[NB_COPIERS_MAX];
	unsigned nb = c->options->nb_copiers;

	co_group_init(&c->group, nb);
	for (unsigned i = 0; i < nb; i++) {
		copiers[i] = (struct copier){
			.convert = c,
			.task = {.fn = copier_run, .arg = &copiers[i]},
		};
		co_group_spawn(&c->group, &copiers[i].task);
	}
	return co_group_join(&c->group);
}

/* ---- source and target ---- */

static int coroutine_fn create_target(struct tool *tool, const struct convert *c, const char *path)
{
	struct create_options target = c->options->target;
	int status;

	target.params.virtual_size = c->source.size_bytes;
	target.has_size = true;
	status = create_options_check_backing(tool, &target, path);
	return status ? status : create_options_run(tool, &target, path);
}

/* A new target is opened above its backing file: zeros must hide what is in that. */
static int coroutine_fn open_target(struct tool *tool, struct convert *c, const char *path)
{
	const struct convert_options *options = c->options;
	const char *backing_name = options->target.params.backing_name;
	const char *data_name = options->target.params.data_name;
	struct image_options how = {.writable = true};
	const char *format = options->target.raw ? "raw" : "qcow2";
	uint64_t size_bytes = c->source.size_bytes;
	char *backing_path = NULL, *data_path = NULL;
	int status;

	c->has_backing = backing_name && !options->keep_target;
	if (c->has_backing)
		how.backing_file = backing_path = disk_combine_path(path, backing_name);
	/* It is the user who names it, so that it may be anywhere. */
	if (data_name)
		how.data_file = data_path = disk_combine_path(path, data_name);
	if ((c->has_backing && !backing_path) || (data_name && !data_path))
		status = tool_fail(path, ENOMEM, NULL);
	else
		status = create_options_check_disk(&options->target, path, &c->source, "source");
	if (!status && !options->keep_target)
		status = create_target(tool, c, path);
	if (!status)
		status = disk_open(tool, path, format, &how, &c->target);
	free(data_path);
	free(backing_path);
	if (status)
		return status;
	/* A block device keeps what was on it. */
	c->shows_zeros = !options->keep_target && !c->has_backing &&
			 !(c->target.raw && c->target.raw->is_block_device);
	/* Disks consist of sectors, and the last one may be short in a raw file. */
	if (round_up(c->target.size_bytes, SECTOR_BYTES) < size_bytes) {
		tool_say(path, "the target is smaller than the source");
		disk_close(&c->target);
		return STATUS_USAGE;
	}
	c->granule_bytes = options->target.raw ? SPARSE_BYTES
			   : options->compress ? c->target.cluster_size
					       : min_u64(c->target.cluster_size, 65536);
	return STATUS_OK;
}

static int coroutine_fn run(struct tool *tool, struct convert *c, const char *target_path)
{
	int ret = 0, status;

	if (c->options->compress)
		ret = packer_create(c->target.image, &c->packer);
	if (ret)
		return tool_fail(target_path, ret, NULL);
	progress_begin(&c->progress, tool, c->options->show_progress);
	ret = copy_all(c);
	if (!ret)
		progress_set(&c->progress, 1, 1);
	progress_end(&c->progress);
	packer_destroy(c->packer);
	status = ret ? tool_fail(c->failed_path, c->result, NULL) : STATUS_OK;
	return status;
}

static int coroutine_fn convert(struct tool *tool, const struct convert_options *options,
				const char *source_path, const char *target_path)
{
	struct convert c = {.options = options};
	int status, close_status;

	status = disk_open(tool, source_path, tool->format, &tool->how, &c.source);
	if (status)
		return status;
	status = open_target(tool, &c, target_path);
	if (!status) {
		status = run(tool, &c, target_path);
		close_status = disk_close(&c.target);
		status = status ? status : close_status;
	}
	close_status = disk_close(&c.source);
	return status ? status : close_status;
}

/* ---- arguments ---- */

static int set_cache(struct tool *tool, const char *cache)
{
	if (!strcmp(cache, "unsafe"))
		tool->engine->skip_flushes = true;
	else if (!strcmp(cache, "none"))
		tool->opener.no_direct = false;
	else if (strcmp(cache, "writeback"))
		return tool_usage(tool, "-t %s: give unsafe, writeback or none", cache);
	return STATUS_OK;
}

static int take_option(struct tool *tool, int opt, struct convert_options *o)
{
	uint64_t nb;

	switch (opt) {
	case 'O':
		o->target.raw = !strcmp(optarg, "raw");
		if (!o->target.raw && strcmp(optarg, "qcow2"))
			return tool_usage(tool, "-O %s: give raw or qcow2", optarg);
		return STATUS_OK;
	case 'o':
		if (o->nb_lists == 16)
			return tool_usage(tool, "too many -o");
		o->lists[o->nb_lists++] = optarg;
		return STATUS_OK;
	case 'S':
		if (tool_parse_size(optarg, &o->sparse_bytes) || o->sparse_bytes % SECTOR_BYTES ||
		    o->sparse_bytes > INT64_MAX)
			return tool_usage(tool, "-S %s: give a multiple of 512, or 0", optarg);
		return STATUS_OK;
	case 'm':
		if (tool_parse_size(optarg, &nb) || !nb || nb > NB_COPIERS_MAX)
			return tool_usage(tool, "-m %s: give 1 to %u", optarg, NB_COPIERS_MAX);
		o->nb_copiers = nb;
		return STATUS_OK;
	case 'B':
		o->target.params.backing_name = optarg;
		return STATUS_OK;
	case 'F':
		o->target.params.backing_format = optarg;
		return STATUS_OK;
	case 'l':
		tool->how.snapshot = optarg;
		return STATUS_OK;
	case 't':
		o->cache = optarg;
		return STATUS_OK;
	case 'c':
		o->compress = true;
		return STATUS_OK;
	case 'n':
		o->keep_target = true;
		return STATUS_OK;
	case 'p':
		o->show_progress = true;
		return STATUS_OK;
	case 'W': /* writes are out of order anyway */
		return STATUS_OK;
	default:
		return tool_option(tool, opt);
	}
}

int coroutine_fn convert_command(struct tool *tool, int argc, char **argv)
{
	static const struct option long_options[] = {TOOL_LONG_OPTIONS, {0}};
	struct convert_options o = {
		.target = CREATE_OPTIONS_DEFAULTS,
		.nb_copiers = NB_COPIERS,
		.sparse_bytes = SPARSE_BYTES,
		.cache = "unsafe",
	};
	int opt, status = STATUS_OK;

	o.target.raw = true;
	while (!status && (opt = getopt_long(argc, argv, "f:O:o:S:m:B:F:l:t:cnpWqU", long_options,
					     NULL)) != -1)
		status = take_option(tool, opt, &o);
	for (unsigned i = 0; i < o.nb_lists && !status; i++)
		status = create_options_parse(tool, &o.target, o.lists[i]);
	if (!status)
		status = set_cache(tool, o.cache);
	if (status)
		return status;
	if (argc - optind != 2)
		return tool_usage(tool, "a source and a target are needed");
	if (o.compress && o.target.raw)
		return tool_usage(tool, "-c needs -O qcow2");
	if (o.compress && o.target.params.data_name)
		return tool_usage(tool, "-c: not with an external data file");
	if (o.keep_target && o.nb_lists)
		return tool_usage(tool, "-n and -o exclude one another");
	return convert(tool, &o, argv[optind], argv[optind + 1]);
}
