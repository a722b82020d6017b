/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * map: which guest ranges hold what, where: the lines and fields of `qemu-img map`.
 */
#include "io/text.h"
#include "tool/disk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct entry {
	uint64_t start, len_bytes;
	unsigned depth;
	bool present, zero, data, has_offset;
	uint64_t offset;
};

struct map_run {
	struct disk *disk;
	bool json, first;
	int status;
};

static void print_json(struct map_run *run, const struct entry *e)
{
	printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
	       ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s",
	       run->first ? "[" : ",\n", e->start, e->len_bytes, e->depth,
	       e->present ? "true" : "false", e->zero ? "true" : "false",
	       e->data ? "true" : "false");
	if (e->has_offset)
		printf(", \"offset\": %" PRIu64, e->offset);
	putchar('}');
	run->first = false;
}

/* Data alone, as qemu-img does; "-" stands for compressed data, which have no offset. */
static void print_text(struct map_run *run, const struct entry *e)
{
	struct image *image = run->disk->image;
	const struct file *file = image_data_file(image, e->depth);
	char offset[32] = "-";

	if (run->first)
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	run->first = false;
	if (!e->data || e->zero)
		return;
	if (!file)
		file = image_file(image, e->depth);
	if (e->has_offset)
		snprintf(offset, sizeof(offset), "%#" PRIx64, e->offset);
	text_print_line(stdout, "%#-16" PRIx64 "%#-16" PRIx64 "%-16s%s", e->start, e->len_bytes,
			offset, file->name);
}

static void print_entry(struct map_run *run, const struct entry *e)
{
	if (!e->len_bytes)
		return;
	if (run->json)
		print_json(run, e);
	else
		print_text(run, e);
}

static bool mergeable(const struct entry *a, const struct entry *b)
{
	return a->zero == b->zero && a->data == b->data && a->present == b->present &&
	       a->depth == b->depth && a->has_offset == b->has_offset &&
	       (!a->has_offset || a->offset + a->len_bytes == b->offset);
}

static struct entry make_entry(const struct map_extent *extent)
{
	bool data = extent->kind == MAP_DATA || extent->kind == MAP_COMPRESSED;

	return (struct entry){
		.start = extent->guest_off,
		.len_bytes = extent->len_bytes,
		/* Behind the end of its backing file a layer answers for itself. */
		.depth = extent->depth - extent->beyond_end,
		.present = extent->kind != MAP_HOLE,
		.zero = !data || extent->host_hole,
		.data = data,
		.has_offset = extent->has_host_off,
		.offset = extent->host_off,
	};
}

static int coroutine_fn print_range(struct map_run *run, uint64_t pos, uint64_t end)
{
	struct entry pending = {0};

	while (pos < end && !ferror(stdout)) {
		struct map_extent extent;
		struct entry next;
		int ret = image_map(run->disk->image, pos, end - pos, &extent);

		if (ret) {
			print_entry(run, &pending);
			return ret;
		}
		next = make_entry(&extent);
		pos += extent.len_bytes;
		if (pending.len_bytes && mergeable(&pending, &next)) {
			pending.len_bytes += next.len_bytes;
			continue;
		}
		print_entry(run, &pending);
		pending = next;
	}
	print_entry(run, &pending);
	return 0;
}

int coroutine_fn map_command(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {
		TOOL_LONG_OPTIONS,
		{"json", no_argument, NULL, 'j'},
		{"output", required_argument, NULL, 'J'},
		{"start", required_argument, NULL, 's'},
		{"start-offset", required_argument, NULL, 's'},
		{"length", required_argument, NULL, 'l'},
		{"max-length", required_argument, NULL, 'l'},
		{0},
	};
	struct map_run run = {.first = true};
	uint64_t start = 0, len_bytes = UINT64_MAX;
	struct disk disk;
	int opt, ret, status;

	while ((opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS "s:l:", options, NULL)) != -1) {
		if (opt == 'j')
			run.json = true;
		else if (opt == 'J')
			run.json = !strcmp(optarg, "json");
		else if (opt == 's' || opt == 'l') {
			if (tool_parse_size(optarg, opt == 's' ? &start : &len_bytes))
				return tool_usage(tool, "%s is no size", optarg);
		} else if ((status = tool_option(tool, opt)))
			return status;
	}
	if (argc - optind != 1)
		return tool_usage(tool, "one image is needed");
	status = disk_open(tool, argv[optind], tool->format, &tool->how, &disk);
	if (status)
		return status;
	run.disk = &disk;
	if (start > disk.size_bytes)
		start = disk.size_bytes;
	if (len_bytes > disk.size_bytes - start)
		len_bytes = disk.size_bytes - start;
	ret = print_range(&run, start, start + len_bytes);
	if (run.json && run.first) /* an empty disk has one empty extent */
		print_json(&run, &(struct entry){0});
	if (run.json)
		puts("]");
	if (ret)
		status = tool_fail(argv[optind], ret, NULL);
	ret = disk_close(&disk);
	return status ? status : ret;
}
