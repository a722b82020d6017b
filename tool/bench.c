/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * bench: how fast an image is read or written through the core, with some requests under
 * way at once.
 */
#include "core/checked.h"
#include "io/buf.h"
#include "tool/disk.h"
#include "tool/engine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DEPTH_MAX 48u

struct bench {
	struct disk disk;
	uint64_t count, depth, request_bytes, step_bytes, first_off, flush_interval;
	bool write, random;
	uint64_t nb_started, nb_done;
	uint64_t seed;
	struct co_group group;
};

struct client {
	struct bench *bench;
	struct task task;
};

/* A linear congruential generator: the same order in every run. */
static uint64_t next_random(struct bench *b)
{
	b->seed = b->seed * 6364136223846793005ull + 1442695040888963407ull;
	return b->seed >> 20;
}

static uint64_t next_offset(struct bench *b)
{
	uint64_t room = b->disk.size_bytes - b->request_bytes + 1, slots = room / b->step_bytes;
	uint64_t index = b->nb_started++;

	if (b->random)
		return slots ? next_random(b) % slots * b->step_bytes : 0;
	return (b->first_off + index * b->step_bytes) % room;
}

static void coroutine_fn client_run(void *arg)
{
	struct bench *b = ((struct client *)arg)->bench;
	uint8_t *buf = buf_get(b->request_bytes);
	int ret = buf ? 0 : -ENOMEM;

	if (buf)
		memset(buf, 0xa5, b->request_bytes);
	while (!ret && b->nb_started < b->count) {
		uint64_t off = next_offset(b);

		if (b->write)
			ret = disk_write(&b->disk, off, buf, b->request_bytes);
		else
			ret = disk_read(&b->disk, off, buf, b->request_bytes);
		b->nb_done++;
		if (!ret && b->flush_interval && b->nb_done % b->flush_interval == 0)
			ret = disk_flush(&b->disk);
	}
	buf_put(buf, b->request_bytes);
	co_group_leave(&b->group, ret);
}

static int coroutine_fn run(struct bench *b)
{
	struct client clients[DEPTH_MAX];

	co_group_init(&b->group, b->depth);
	for (unsigned i = 0; i < b->depth; i++) {
		clients[i] = (struct client){
			.bench = b,
			.task = {.fn = client_run, .arg = &clients[i]},
		};
		co_group_spawn(&b->group, &clients[i].task);
	}
	return co_group_join(&b->group);
}

static int coroutine_fn measure(struct tool *tool, struct bench *b)
{
	uint64_t start_ns, ns;
	double seconds;
	int ret;

	/* The reactor's clock stands still within a round: step out of it before reading it. */
	co_sleep(0);
	start_ns = reactor_now_ns(tool->reactor);
	ret = run(b);
	if (!ret && b->write)
		ret = disk_flush(&b->disk);
	co_sleep(0);
	ns = reactor_now_ns(tool->reactor) - start_ns;
	if (ret)
		return tool_fail(b->disk.path, ret, NULL);
	seconds = ns / 1e9;
	printf("Run completed in %.3f seconds.\n", seconds);
	if (ns && !tool->quiet)
		printf("%.0f requests/s, %.1f MiB/s\n", b->count / seconds,
		       b->count * (double)b->request_bytes / seconds / (1 << 20));
	return STATUS_OK;
}

static int take_option(struct tool *tool, int opt, struct bench *b)
{
	static const char numbers[] = "cdsSOi";
	uint64_t *const targets[] = {&b->count,      &b->depth,     &b->request_bytes,
				     &b->step_bytes, &b->first_off, &b->flush_interval};
	const char *found = opt < 128 ? strchr(numbers, opt) : NULL;

	if (found && opt) {
		if (tool_parse_size(optarg, targets[found - numbers]))
			return tool_usage(tool, "-%c %s: not a number", opt, optarg);
		return STATUS_OK;
	}
	switch (opt) {
	case 'w':
		b->write = true;
		return STATUS_OK;
	case 'r':
		b->random = true;
		return STATUS_OK;
	case 't':
		if (!strcmp(optarg, "none"))
			tool->opener.no_direct = false;
		else if (!strcmp(optarg, "unsafe"))
			tool->engine->skip_flushes = true;
		else if (strcmp(optarg, "writeback"))
			return tool_usage(tool, "-t %s: give none, writeback or unsafe", optarg);
		return STATUS_OK;
	default:
		return tool_option(tool, opt);
	}
}

int coroutine_fn bench_command(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {
		TOOL_LONG_OPTIONS,
		{"random", no_argument, NULL, 'r'},
		{"flush-interval", required_argument, NULL, 'i'},
		{0},
	};
	struct bench b = {.count = 75000, .depth = 16, .request_bytes = 4096, .seed = 1};
	int opt, status = STATUS_OK, close_status;

	while (!status && (opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS "c:d:s:S:O:wrt:",
					     options, NULL)) != -1)
		status = take_option(tool, opt, &b);
	if (status)
		return status;
	if (argc - optind != 1)
		return tool_usage(tool, "one image is needed");
	if (!b.depth || b.depth > DEPTH_MAX)
		return tool_usage(tool, "-d: give 1 to %u", DEPTH_MAX);
	if (!b.request_bytes || b.request_bytes > BUF_MAX_BYTES)
		return tool_usage(tool, "-s: give 1 to %u", BUF_MAX_BYTES);
	if (!b.step_bytes)
		b.step_bytes = b.request_bytes;
	tool->how.writable = b.write;
	status = disk_open(tool, argv[optind], tool->format, &tool->how, &b.disk);
	if (status)
		return status;
	if (b.disk.size_bytes < b.request_bytes) {
		tool_say(argv[optind], "the disk is smaller than a request");
		status = STATUS_USAGE;
	} else {
		status = measure(tool, &b);
	}
	close_status = disk_close(&b.disk);
	return status ? status : close_status;
}
