/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * commit: what an overlay holds goes into its backing file, or with -b into one further
 * down, together with what the layers between hold.
 *
 * The layers are opened one by one, without what lies below them, by the rules for the names
 * inside images: the base is open for writing. The data are durable in the base before the overlay
 * is emptied.
 */
#include "core/checked.h"
#include "core/snapshot_edit.h"
#include "io/buf.h"
#include "tool/disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_BYTES (1u << 20)
#define LAYERS_MAX 16u

struct commit {
	struct disk layers[LAYERS_MAX]; /* from the top down to the one above the base */
	char *paths[LAYERS_MAX];
	unsigned nb;
	struct disk base;
	char *base_path;
	const char *failed_path; /* where copying failed */
	struct progress progress;
};

/* What a range is to become in the base. */
enum source { FROM_NOWHERE, FROM_ZEROS, FROM_LAYER };

/* Finds the layer that has `pos`; *ret_bytes (at most max_bytes): how far that holds. */
static int coroutine_fn find_source(struct commit *c, uint64_t pos, uint64_t max_bytes,
				    struct disk **ret_layer, enum source *ret_source,
				    uint64_t *ret_bytes)
{
	*ret_bytes = max_bytes;
	*ret_source = FROM_NOWHERE;
	for (unsigned i = 0; i < c->nb; i++) {
		struct disk *layer = &c->layers[i];
		struct map_extent extent;
		int ret;

		if (pos >= layer->size_bytes) { /* a short layer hides what is below it */
			*ret_source = FROM_ZEROS;
			return 0;
		}
		ret = image_map(layer->image, pos, *ret_bytes, &extent);
		if (ret) {
			c->failed_path = layer->path;
			return ret;
		}
		*ret_bytes = extent.len_bytes;
		if (extent.kind == MAP_HOLE)
			continue;
		*ret_layer = layer;
		*ret_source = extent.kind == MAP_ZERO ? FROM_ZEROS : FROM_LAYER;
		return 0;
	}
	return 0;
}

static int coroutine_fn copy(struct commit *c, uint8_t *buf)
{
	uint64_t pos = 0, size = c->layers[0].size_bytes, bytes;
	int ret = 0;

	while (pos < size && !ret) {
		enum source source;
		struct disk *layer = NULL;

		ret = find_source(c, pos, min_u64(size - pos, STEP_BYTES), &layer, &source, &bytes);
		if (!ret && source == FROM_LAYER) {
			ret = disk_read(layer, pos, buf, bytes);
			if (ret)
				c->failed_path = layer->path;
			else
				ret = disk_write(&c->base, pos, buf, bytes);
		} else if (!ret && source == FROM_ZEROS) {
			ret = disk_zero(&c->base, pos, bytes, false);
		}
		pos += bytes;
		progress_set(&c->progress, pos, size);
	}
	return ret ? ret : disk_flush(&c->base);
}

/* The name of what lies below the layers opened so far, to be freed. Reports. */
static int next_path(const struct tool *tool, const struct commit *c, const char *base_name,
		     char **ret_path)
{
	const struct disk *above = &c->layers[c->nb - 1];
	const char *name = image_info(above->image)->backing_name;

	if (c->nb == 1 && tool->how.backing_file)
		*ret_path = strdup(tool->how.backing_file);
	else if (name)
		*ret_path = disk_combine_path(above->path, name);
	else {
		tool_say(c->paths[0], base_name ? "%s is not below it" : "it has no backing file",
			 base_name);
		return STATUS_BACKING;
	}
	return *ret_path ? STATUS_OK : tool_fail(c->paths[0], ENOMEM, NULL);
}

/* Opens the layers down to `base_name` (NULL: the next one), and the base. */
static int coroutine_fn open_all(struct tool *tool, struct commit *c, const char *path,
				 const char *base_name, bool empty)
{
	struct image_options how = tool->how;
	char *next = strdup(path);
	int status;

	if (!next)
		return tool_fail(path, ENOMEM, NULL);
	how.no_backing = true;
	how.writable = empty;
	status = disk_open(tool, next, "qcow2", &how, &c->layers[0]);
	how.writable = false;
	while (status == STATUS_OK) {
		c->paths[c->nb++] = next;
		status = next_path(tool, c, base_name, &next);
		if (status)
			return status;
		if (!base_name || disk_same_file(next, base_name)) {
			how.writable = true;
			how.no_backing = false;
			c->base_path = next;
			return disk_open_below(tool, &c->layers[c->nb - 1], next, &how, &c->base);
		}
		if (c->nb == LAYERS_MAX) {
			free(next);
			return tool_fail(path, ELOOP, NULL);
		}
		status =
			disk_open_below(tool, &c->layers[c->nb - 1], next, &how, &c->layers[c->nb]);
		how.backing_file = NULL; /* is the name below the image itself */
	}
	free(next);
	return status;
}

static int coroutine_fn close_all(struct commit *c)
{
	int status = disk_close(&c->base);

	while (c->nb) {
		int layer_status = disk_close(&c->layers[--c->nb]);

		status = status ? status : layer_status;
		free(c->paths[c->nb]);
	}
	free(c->base_path);
	return status;
}

static int coroutine_fn run(struct tool *tool, struct commit *c, bool show_progress, bool empty)
{
	struct error *error = NULL;
	uint8_t *buf = buf_get(STEP_BYTES);
	int ret = buf ? 0 : -ENOMEM, status = STATUS_OK;

	if (!ret && c->base.size_bytes < c->layers[0].size_bytes)
		status = disk_resize(&c->base, c->layers[0].size_bytes);
	if (status) {
		buf_put(buf, STEP_BYTES);
		return status;
	}
	progress_begin(&c->progress, tool, show_progress);
	if (!ret)
		ret = copy(c, buf);
	progress_end(&c->progress);
	buf_put(buf, STEP_BYTES);
	if (ret)
		return tool_fail(c->failed_path ? c->failed_path : c->base.path, ret, NULL);
	if (empty)
		ret = snapshot_make_empty(c->layers[0].image, &error);
	return ret ? tool_fail(c->layers[0].path, ret, error) : STATUS_OK;
}

int coroutine_fn commit_command(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {TOOL_LONG_OPTIONS, {0}};
	const char *base_name = NULL;
	bool empty = true, show_progress = false;
	struct commit commit = {0};
	int opt, status, close_status;

	while ((opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS "b:dp", options, NULL)) != -1) {
		if (opt == 'b')
			base_name = optarg;
		else if (opt == 'd')
			empty = false;
		else if (opt == 'p')
			show_progress = true;
		else if ((status = tool_option(tool, opt)))
			return status;
	}
	if (argc - optind != 1)
		return tool_usage(tool, "one image is needed");
	if (tool->how.snapshot || tool->how.force_share)
		return tool_usage(tool, "not with %s", tool->how.snapshot ? "-o snapshot=" : "-U");
	/* Emptied above a file that got nothing, it would show that one's old data. */
	empty &= !base_name && !tool->how.backing_file;
	status = open_all(tool, &commit, argv[optind], base_name, empty);
	if (!status)
		status = run(tool, &commit, show_progress, empty);
	close_status = close_all(&commit);
	if (!status && !close_status && !tool->quiet)
		printf("Image committed.\n");
	return status ? status : close_status;
}
