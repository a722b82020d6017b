/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * io: read, write, zero, discard and resize: one operation on a guest range.
 */
#include "core/checked.h"
#include "io/buf.h"
#include "tool/disk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define STEP_BYTES (1u << 20)

/* What these commands have on their command line. */
struct range_arguments {
	const char *path;
	uint64_t guest_off, len_bytes;
	bool has_length, flag_u;
};

static int parse_range(struct tool *tool, int argc, char **argv, bool length_needed,
		       struct range_arguments *ret)
{
	static const struct option options[] = {TOOL_LONG_OPTIONS, {0}};
	int opt, status;

	*ret = (struct range_arguments){0};
	while ((opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS "u", options, NULL)) != -1) {
		if (opt == 'u')
			ret->flag_u = true;
		else if ((status = tool_option(tool, opt)))
			return status;
	}
	argc -= optind;
	argv += optind;
	if (argc > 3 || argc < (length_needed ? 3 : 2))
		return tool_usage(tool, "an image, an offset and a length are needed");
	ret->path = argv[0];
	ret->has_length = argc == 3;
	if (tool_parse_size(argv[1], &ret->guest_off))
		return tool_usage(tool, "%s is no offset", argv[1]);
	if (ret->has_length && tool_parse_size(argv[2], &ret->len_bytes))
		return tool_usage(tool, "%s is no length", argv[2]);
	return STATUS_OK;
}

/* Opens the disk; the range must lie inside it. */
static int coroutine_fn open_range(struct tool *tool, const struct range_arguments *range,
				   bool writable, struct disk *ret_disk)
{
	int status;

	tool->how.writable = writable;
	status = disk_open(tool, range->path, tool->format, &tool->how, ret_disk);
	if (status)
		return status;
	if (range->guest_off <= ret_disk->size_bytes &&
	    range->len_bytes <= ret_disk->size_bytes - range->guest_off)
		return STATUS_OK;
	tool_say(range->path, "the range lies outside the disk of %" PRIu64 " bytes",
		 ret_disk->size_bytes);
	disk_close(ret_disk);
	return STATUS_USAGE;
}

/* `ret`: 0, -errno, or the status of a failure that has been reported. */
static int coroutine_fn finish(struct disk *disk, int ret)
{
	int status = ret < 0 ? tool_fail(disk->path, ret, NULL) : ret;
	int close_status = disk_close(disk);

	return status ? status : close_status;
}

int coroutine_fn read_command(struct tool *tool, int argc, char **argv)
{
	struct range_arguments range;
	struct disk disk;
	uint8_t *buf;
	int output_error = 0, ret = 0, status = parse_range(tool, argc, argv, true, &range);

	if (!status)
		status = open_range(tool, &range, false, &disk);
	if (status)
		return status;
	buf = buf_get(STEP_BYTES);
	if (!buf)
		ret = -ENOMEM;
	while (range.len_bytes && !ret && !output_error) {
		size_t n = min_u64(range.len_bytes, STEP_BYTES);

		ret = disk_read(&disk, range.guest_off, buf, n);
		if (!ret && fwrite(buf, 1, n, stdout) != n)
			output_error = errno;
		range.guest_off += n;
		range.len_bytes -= n;
	}
	buf_put(buf, STEP_BYTES);
	status = finish(&disk, ret);
	errno = output_error; /* which main() tells */
	return status;
}

/* Up to `max_bytes` of standard input. Returns the number of bytes or -errno. */
static ssize_t read_input(uint8_t *buf, size_t max_bytes)
{
	size_t done = 0;

	while (done < max_bytes) {
		ssize_t n = read(STDIN_FILENO, buf + done, max_bytes - done);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			break;
		done += n > 0 ? (size_t)n : 0;
	}
	return done;
}

/* 0, -errno, or the status of a failure that has been reported. */
static int coroutine_fn write_input(struct disk *disk, const struct range_arguments *range,
				    uint8_t *buf)
{
	uint64_t pos = range->guest_off;
	uint64_t left = range->has_length ? range->len_bytes : UINT64_MAX;

	while (left) {
		ssize_t n = read_input(buf, min_u64(left, STEP_BYTES));
		int ret;

		if (n < 0)
			return tool_fail("standard input", n, NULL);
		if (!n && !range->has_length)
			return 0;
		if (!n) {
			tool_say(disk->path, "standard input is shorter than the length");
			return STATUS_SYSTEM;
		}
		if (!disk->image && (uint64_t)n > disk->size_bytes - pos)
			return -ENOSPC; /* a raw file would grow */
		ret = disk_write(disk, pos, buf, n);
		if (ret)
			return ret;
		pos += n;
		left -= n;
	}
	return 0;
}

int coroutine_fn write_command(struct tool *tool, int argc, char **argv)
{
	struct range_arguments range;
	struct disk disk;
	uint8_t *buf;
	int ret, status = parse_range(tool, argc, argv, false, &range);

	if (!status)
		status = open_range(tool, &range, true, &disk);
	if (status)
		return status;
	buf = buf_get(STEP_BYTES);
	ret = buf ? write_input(&disk, &range, buf) : -ENOMEM;
	buf_put(buf, STEP_BYTES);
	return finish(&disk, ret);
}

/* Both leave zeros; they differ in what becomes of the host space. */
static int coroutine_fn clear_range(struct tool *tool, int argc, char **argv, bool discard)
{
	struct range_arguments range;
	struct disk disk;
	int ret, status = parse_range(tool, argc, argv, true, &range);

	if (!status)
		status = open_range(tool, &range, true, &disk);
	if (status)
		return status;
	ret = discard ? disk_discard(&disk, range.guest_off, range.len_bytes)
		      : disk_zero(&disk, range.guest_off, range.len_bytes, !range.flag_u);
	return finish(&disk, ret);
}

int coroutine_fn zero_command(struct tool *tool, int argc, char **argv)
{
	return clear_range(tool, argc, argv, false);
}

int coroutine_fn discard_command(struct tool *tool, int argc, char **argv)
{
	return clear_range(tool, argc, argv, true);
}

/* SIZE, +SIZE or -SIZE. 0 or -EINVAL. */
static int parse_new_size(const char *text, uint64_t old_bytes, uint64_t *ret_bytes)
{
	uint64_t n;
	int ret = tool_parse_size(*text == '+' || *text == '-' ? text + 1 : text, &n);

	if (ret)
		return ret;
	if (*text == '+')
		return checked_add(old_bytes, n, ret_bytes) ? -EINVAL : 0;
	if (*text == '-' && n > old_bytes)
		return -EINVAL;
	*ret_bytes = *text == '-' ? old_bytes - n : n;
	return 0;
}

int coroutine_fn resize_command(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {
		TOOL_LONG_OPTIONS, {"shrink", no_argument, NULL, 's'}, {0}};
	const char *path, *text;
	bool shrink = false;
	struct disk disk;
	uint64_t bytes;
	int opt, status;

	/* "-1G" is a size, not an option: it stands last. */
	if (argc < 3)
		return tool_usage(tool, "an image and a size are needed");
	text = argv[--argc];
	while ((opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS, options, NULL)) != -1) {
		if (opt == 's')
			shrink = true;
		else if ((status = tool_option(tool, opt)))
			return status;
	}
	if (argc - optind != 1)
		return tool_usage(tool, "one image and a size are needed");
	path = argv[optind];
	tool->how.writable = true;
	status = disk_open(tool, path, tool->format, &tool->how, &disk);
	if (status)
		return status;
	if (parse_new_size(text, disk.size_bytes, &bytes)) {
		disk_close(&disk);
		return tool_usage(tool, "%s is no size", text);
	}
	if (bytes < disk.size_bytes && !shrink) {
		disk_close(&disk);
		return tool_usage(tool,
				  "this throws away what lies beyond; say --shrink if you mean it");
	}
	return finish(&disk, disk_resize(&disk, bytes));
}
