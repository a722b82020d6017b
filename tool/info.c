/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * info: what an image is, as `qemu-img info` shows it: the same fields, the same names.
 *
 * Only headers, the snapshot table and the bitmap directory are read. The backing file
 * is not opened without --backing-chain.
 */
#include "core/backing.h"
#include "io/text.h"
#include "tool/bitmaps.h"
#include "tool/disk.h"
#include "tool/json.h"
#include "tool/snapshots.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

struct layer_facts {
	char *path;
	bool raw;
	uint64_t virtual_size, actual_bytes;
	struct header header;
	struct snapshot_list snapshots;
	struct bitmap_entry *bitmaps;
	unsigned nb_bitmaps;
	char *full_backing; /* the backing file's name from here, or NULL */
};

static void finish_facts(struct layer_facts *facts)
{
	free(facts->path);
	header_finish(&facts->header);
	snapshot_list_finish(&facts->snapshots);
	free(facts->bitmaps);
	free(facts->full_backing);
}

static int coroutine_fn read_bitmaps(struct file *file, struct layer_facts *facts)
{
	struct bitmap_reader reader;
	int ret = 0;

	if (!facts->header.has_bitmaps)
		return 0;
	bitmap_reader_init(&reader, file, &facts->header);
	do {
		struct bitmap_entry *bigger =
			reallocarray(facts->bitmaps, facts->nb_bitmaps + 1, sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		facts->bitmaps = bigger;
		ret = bitmap_reader_next(&reader, &bigger[facts->nb_bitmaps]);
		facts->nb_bitmaps += ret == 1;
	} while (ret == 1);
	return ret;
}

static int coroutine_fn read_facts(struct file *file, bool raw, struct layer_facts *facts,
				   struct error **reterr)
{
	int ret;

	facts->raw = raw;
	facts->path = strdup(file->name);
	facts->actual_bytes = file_host_sectors(file) * 512;
	facts->virtual_size = round_up(file->size_bytes, 512);
	if (!facts->path)
		return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
	if (raw)
		return 0;
	ret = header_read(file, &facts->header, reterr);
	if (ret)
		return ret;
	facts->virtual_size = facts->header.size;
	ret = snapshot_list_read(file, &facts->header, &facts->snapshots, reterr);
	if (ret)
		return ret;
	ret = read_bitmaps(file, facts);
	if (ret)
		return error_set(reterr, ERROR_OPEN, -ret, "cannot read the bitmap directory: %s",
				 strerror(-ret));
	if (facts->header.backing_name)
		facts->full_backing = disk_combine_path(facts->path, facts->header.backing_name);
	return 0;
}

/* ---- JSON ---- */

static void json_snapshots(struct json *json, const struct snapshot_list *list)
{
	if (!list->nb)
		return;
	json_open_array(json, "snapshots");
	for (unsigned i = 0; i < list->nb; i++)
		snapshots_print_json(json, &list->snapshots[i]);
	json_close_array(json);
}

static void json_bitmaps(struct json *json, const struct layer_facts *facts)
{
	if (!facts->nb_bitmaps)
		return;
	json_open_array(json, "bitmaps");
	for (unsigned i = 0; i < facts->nb_bitmaps; i++) {
		const struct bitmap_entry *bitmap = &facts->bitmaps[i];

		json_open_object(json, NULL);
		json_open_array(json, "flags");
		if (bitmap->flags & BITMAP_FLAG_IN_USE)
			json_string(json, NULL, "in-use");
		if (bitmap->flags & BITMAP_FLAG_AUTO)
			json_string(json, NULL, "auto");
		json_close_array(json);
		json_string(json, "name", bitmap->name);
		json_uint(json, "granularity", 1ull << (bitmap->granularity_bits & 63));
		json_close_object(json);
	}
	json_close_array(json);
}

static void json_specific(struct json *json, const struct layer_facts *facts)
{
	const struct header *h = &facts->header;

	json_open_object(json, "format-specific");
	json_string(json, "type", "qcow2");
	json_open_object(json, "data");
	json_string(json, "compat", h->version == 2 ? "0.10" : "1.1");
	json_string(json, "compression-type",
		    h->compression_type == COMPRESSION_ZSTD ? "zstd" : "zlib");
	if (h->version >= 3)
		json_bool(json, "lazy-refcounts", h->compatible_features & COMPAT_LAZY_REFCOUNTS);
	json_bitmaps(json, facts);
	json_uint(json, "refcount-bits", 1u << h->refcount_order);
	if (h->version >= 3) {
		if (h->data_name)
			json_string(json, "data-file", h->data_name);
		if (h->incompatible_features & INCOMPAT_DATA_FILE)
			json_bool(json, "data-file-raw",
				  h->autoclear_features & AUTOCLEAR_DATA_FILE_RAW);
		json_bool(json, "corrupt", h->incompatible_features & INCOMPAT_CORRUPT);
		json_bool(json, "extended-l2", h->incompatible_features & INCOMPAT_EXTENDED_L2);
	}
	json_close_object(json);
	json_close_object(json);
}

static void print_json(struct json *json, const struct layer_facts *facts)
{
	const struct header *h = &facts->header;

	json_open_object(json, NULL);
	if (h->backing_name && h->backing_format)
		json_string(json, "backing-filename-format", h->backing_format);
	json_snapshots(json, &facts->snapshots);
	json_uint(json, "virtual-size", facts->virtual_size);
	json_string(json, "filename", facts->path);
	if (!facts->raw)
		json_uint(json, "cluster-size", 1u << h->cluster_bits);
	json_string(json, "format", facts->raw ? "raw" : "qcow2");
	json_uint(json, "actual-size", facts->actual_bytes);
	if (!facts->raw)
		json_specific(json, facts);
	if (facts->full_backing)
		json_string(json, "full-backing-filename", facts->full_backing);
	if (h->backing_name)
		json_string(json, "backing-filename", h->backing_name);
	json_bool(json, "dirty-flag", h->incompatible_features & INCOMPAT_DIRTY);
	json_close_object(json);
}

/* ---- text ---- */

static const char *yes_no(bool value)
{
	return value ? "true" : "false";
}

static void print_specific(const struct layer_facts *facts)
{
	const struct header *h = &facts->header;

	printf("Format specific information:\n    compat: %s\n    compression type: %s\n",
	       h->version == 2 ? "0.10" : "1.1",
	       h->compression_type == COMPRESSION_ZSTD ? "zstd" : "zlib");
	if (h->version >= 3)
		printf("    lazy refcounts: %s\n",
		       yes_no(h->compatible_features & COMPAT_LAZY_REFCOUNTS));
	if (facts->nb_bitmaps)
		printf("    bitmaps:\n");
	for (unsigned i = 0; i < facts->nb_bitmaps; i++) {
		const struct bitmap_entry *bitmap = &facts->bitmaps[i];
		unsigned nb_flags = 0;

		printf("        [%u]:\n            flags:\n", i);
		if (bitmap->flags & BITMAP_FLAG_IN_USE)
			printf("                [%u]: in-use\n", nb_flags++);
		if (bitmap->flags & BITMAP_FLAG_AUTO)
			printf("                [%u]: auto\n", nb_flags);
		text_print_line(stdout, "            name: %s", bitmap->name);
		printf("            granularity: %llu\n", 1ull << (bitmap->granularity_bits & 63));
	}
	printf("    refcount bits: %u\n", 1u << h->refcount_order);
	if (h->version < 3)
		return;
	if (h->data_name)
		text_print_line(stdout, "    data file: %s", h->data_name);
	if (h->incompatible_features & INCOMPAT_DATA_FILE)
		printf("    data file raw: %s\n",
		       yes_no(h->autoclear_features & AUTOCLEAR_DATA_FILE_RAW));
	printf("    corrupt: %s\n    extended l2: %s\n",
	       yes_no(h->incompatible_features & INCOMPAT_CORRUPT),
	       yes_no(h->incompatible_features & INCOMPAT_EXTENDED_L2));
}

static void print_text(const struct layer_facts *facts)
{
	const struct header *h = &facts->header;
	char virtual_size[32], disk_size[32];

	text_print_line(stdout, "image: %s", facts->path);
	printf("file format: %s\nvirtual size: %s (%" PRIu64 " bytes)\ndisk size: %s\n",
	       facts->raw ? "raw" : "qcow2", tool_human_size(facts->virtual_size, virtual_size),
	       facts->virtual_size, tool_human_size(facts->actual_bytes, disk_size));
	if (facts->raw)
		return;
	printf("cluster_size: %u\n", 1u << h->cluster_bits);
	if (h->incompatible_features & INCOMPAT_DIRTY)
		printf("cleanly shut down: no\n");
	if (h->backing_name) {
		text_print(stdout, "backing file: %s", h->backing_name);
		if (facts->full_backing && strcmp(facts->full_backing, h->backing_name))
			text_print(stdout, " (actual path: %s)", facts->full_backing);
		putchar('\n');
		if (h->backing_format)
			text_print_line(stdout, "backing file format: %s", h->backing_format);
	}
	if (facts->snapshots.nb) {
		printf("Snapshot list:\n");
		snapshots_print_text(&facts->snapshots);
	}
	print_specific(facts);
}

/* ---- the command ---- */

struct info_run {
	struct tool *tool;
	struct json json;
	bool as_json;
};

static void print_layer(struct info_run *run, const struct layer_facts *facts, unsigned depth)
{
	if (run->as_json) {
		print_json(&run->json, facts);
		return;
	}
	if (depth)
		printf("\n");
	print_text(facts);
}

/* Opens the next file of the chain; *ret_next is NULL at its end. */
static int coroutine_fn open_next(struct tool *tool, struct file *file,
				  const struct layer_facts *facts, struct file **ret_next,
				  bool *ret_raw, bool *probed, struct error **reterr)
{
	const struct header *h = &facts->header;
	struct opener *opener = &tool->opener.opener;
	enum file_lock lock = tool->how.force_share ? FILE_LOCK_SHARED : FILE_LOCK_READ;
	uint8_t magic[4] = {0};
	int ret;

	*ret_next = NULL;
	if (!h->backing_name)
		return 0;
	if (!backing_name_is_plain(h->backing_name))
		return error_set(reterr, ERROR_BACKING, EACCES,
				 "the backing file's name is not a plain path");
	if (*probed)
		return error_set(reterr, ERROR_BACKING, EACCES,
				 "it has no recorded format and refers to a further file");
	ret = opener->open(opener, OPENER_BACKING, file, h->backing_name, false, lock, ret_next,
			   reterr);
	if (ret)
		return ret;
	*ret_raw = h->backing_format && !strcmp(h->backing_format, "raw");
	*probed = !h->backing_format;
	if (*probed) {
		ret = file_read(*ret_next, 0, magic, sizeof(magic), IO_TAG_HEADER);
		*ret_raw = be32_get(magic) != QCOW2_MAGIC;
	}
	return ret;
}

static int coroutine_fn show_chain(struct info_run *run, struct file *file, bool raw, bool chain)
{
	struct file *files[CHAIN_DEPTH_MAX] = {file};
	struct error *error = NULL;
	bool probed = false;
	unsigned nb = 1;
	int ret;

	for (;;) {
		struct layer_facts facts = {0};
		struct file *next = NULL;

		ret = read_facts(files[nb - 1], raw, &facts, &error);
		if (!ret)
			print_layer(run, &facts, nb - 1);
		if (!ret && chain)
			ret = open_next(run->tool, files[nb - 1], &facts, &next, &raw, &probed,
					&error);
		finish_facts(&facts);
		if (!ret && next && nb == CHAIN_DEPTH_MAX) {
			file_close(next);
			ret = error_set(&error, ERROR_BACKING, ELOOP,
					"the chain has more than %u files", CHAIN_DEPTH_MAX);
		}
		if (ret || !next)
			break;
		files[nb++] = next;
	}
	ret = ret ? tool_fail(files[nb - 1]->name, ret, error) : STATUS_OK;
	while (nb)
		file_close(files[--nb]);
	return ret;
}

int coroutine_fn info_command(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {
		TOOL_LONG_OPTIONS,
		{"json", no_argument, NULL, 'j'},
		{"output", required_argument, NULL, 'J'},
		{"backing-chain", no_argument, NULL, 'c'},
		{0},
	};
	struct info_run run = {.tool = tool};
	bool chain = false;
	struct file *file;
	int opt, status;

	while ((opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS, options, NULL)) != -1) {
		if (opt == 'j')
			run.as_json = true;
		else if (opt == 'J')
			run.as_json = !strcmp(optarg, "json");
		else if (opt == 'c')
			chain = true;
		else if ((status = tool_option(tool, opt)))
			return status;
	}
	if (argc - optind != 1)
		return tool_usage(tool, "one image is needed");
	status = disk_open_file(tool, argv[optind], &file);
	if (status)
		return status;
	if (!tool->format)
		status = disk_probe_file(file, &tool->format);
	if (status) {
		file_close(file);
		return status;
	}
	if (run.as_json) {
		json_begin(&run.json, stdout);
		if (chain)
			json_open_array(&run.json, NULL);
	}
	status = show_chain(&run, file, !strcmp(tool->format, "raw"), chain);
	if (run.as_json) {
		if (chain)
			json_close_array(&run.json);
		json_end(&run.json);
	}
	return status;
}
