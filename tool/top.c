/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * top: what a running server does, second by second, from user.qcow2fs.stats of its raw files.
 *
 * Counters become rates by the difference of two samples; percentiles are the server's,
 * over all of the file's requests so far. On a terminal each sample replaces the last, in a
 * pipe each is a line. What a mount says is text of another process: it is searched, never
 * trusted to be well-formed.
 */
#include "io/co_sync.h"
#include "io/text.h"
#include "tool/json.h"
#include "tool/tool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define STATS_ATTRIBUTE "user.qcow2fs.stats"
#define STATS_BYTES_MAX (64u << 10)
#define FILES_MAX 512u
#define CLEAR_SCREEN "\033[H\033[J"

enum counter {
	READS,
	READ_BYTES,
	WRITES,
	WRITTEN_BYTES,
	FLUSHES,
	L2_HITS,
	L2_MISSES,
	REFCOUNT_HITS,
	REFCOUNT_MISSES,
	ALLOCATIONS,
	FALLBACKS,
	NB_COUNTERS
};

/* Members of objects, from the outermost to the number. */
static const char *const counter_paths[NB_COUNTERS][4] = {
	[READS] = {"requests", "read", "count"},
	[READ_BYTES] = {"requests", "read", "bytes"},
	[WRITES] = {"requests", "write", "count"},
	[WRITTEN_BYTES] = {"requests", "write", "bytes"},
	[FLUSHES] = {"requests", "flush", "count"},
	[L2_HITS] = {"l2_hits"},
	[L2_MISSES] = {"l2_misses"},
	[REFCOUNT_HITS] = {"refcount_hits"},
	[REFCOUNT_MISSES] = {"refcount_misses"},
	[ALLOCATIONS] = {"allocated_clusters"},
	[FALLBACKS] = {"fallbacks"},
};

struct watched {
	char *path;
	const char *name; /* the end of the path */
	char *stats;      /* of the last sample, JSON */
	uint64_t now[NB_COUNTERS], before[NB_COUNTERS];
};

struct top {
	struct watched files[FILES_MAX];
	unsigned nb_files;
	double interval_s;
	bool once, json;
};

/* ---- finding numbers ---- */

static const char *skip_string(const char *at)
{
	for (at++; *at && *at != '"'; at++) {
		if (*at == '\\' && at[1])
			at++;
	}
	return *at ? at + 1 : at;
}

/* The value of a member of the object that `at` points to, or NULL. */
static const char *find_member(const char *at, const char *name)
{
	size_t len = strlen(name);
	int depth = 0;

	while (*at) {
		const char *string = at;

		if (*at == '{' || *at == '[')
			depth++;
		else if ((*at == '}' || *at == ']') && --depth == 0)
			return NULL;
		if (*at != '"') {
			at++;
			continue;
		}
		at = skip_string(at);
		if (depth == 1 && *at == ':' && (size_t)(at - string) == len + 2 &&
		    !strncmp(string + 1, name, len))
			return at + 1 + strspn(at + 1, " ");
	}
	return NULL;
}

static double find_number(const char *stats, const char *const *path)
{
	for (; stats && *path; path++)
		stats = find_member(stats, *path);
	return stats ? strtod(stats, NULL) : 0;
}

/* ---- samples ---- */

/* The attribute's value, to be freed; NULL with errno. It may grow between two calls. */
static char *read_stats(const char *path)
{
	char *value = malloc(STATS_BYTES_MAX + 1);
	ssize_t len = value ? getxattr(path, STATS_ATTRIBUTE, value, STATS_BYTES_MAX) : -1;

	if (len < 0) {
		int err = errno;

		free(value);
		errno = err;
		return NULL;
	}
	value[len] = '\0';
	return value;
}

static int take_sample(struct watched *file)
{
	char *stats = read_stats(file->path);

	if (!stats)
		return -errno;
	free(file->stats);
	file->stats = stats;
	memcpy(file->before, file->now, sizeof(file->now));
	for (unsigned i = 0; i < NB_COUNTERS; i++)
		file->now[i] = (uint64_t)find_number(stats, counter_paths[i]);
	return 0;
}

static int take_samples(struct top *top)
{
	for (unsigned i = 0; i < top->nb_files; i++) {
		int ret = take_sample(&top->files[i]);

		if (ret)
			return ret;
	}
	return 0;
}

static int watch(struct top *top, const char *folder, const char *name)
{
	struct watched *file = &top->files[top->nb_files];
	const char *slash;

	if (asprintf(&file->path, "%s%s%s", folder ? folder : "", folder ? "/" : "", name) < 0)
		return -ENOMEM;
	slash = strrchr(file->path, '/');
	file->name = slash ? slash + 1 : file->path;
	top->nb_files++;
	return 0;
}

static int watch_folder(struct top *top, const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int ret = 0;

	if (!dir)
		return -errno;
	while (!ret && top->nb_files < FILES_MAX && (entry = readdir(dir))) {
		if (entry->d_type == DT_REG)
			ret = watch(top, path, entry->d_name);
	}
	closedir(dir);
	return ret ? ret : top->nb_files ? 0 : -ENODATA;
}

/* ---- showing ---- */

static double rate(const struct top *top, const struct watched *file, enum counter counter)
{
	uint64_t now = file->now[counter], before = file->before[counter];

	return now > before ? (double)(now - before) / top->interval_s : 0;
}

/* Of the interval; without any access, of all time. */
static double hit_percent(const struct watched *file, enum counter hits, enum counter misses)
{
	uint64_t nb_hits = file->now[hits] - file->before[hits];
	uint64_t nb_misses = file->now[misses] - file->before[misses];

	if (nb_hits + nb_misses == 0) {
		nb_hits = file->now[hits];
		nb_misses = file->now[misses];
	}
	return nb_hits + nb_misses ? 100.0 * (double)nb_hits / (double)(nb_hits + nb_misses) : 100;
}

static double latency_us(const struct watched *file, const char *class, const char *percentile)
{
	return find_number(file->stats, (const char *const[]){"requests", class, "latency_us",
							      percentile, NULL});
}

static void print_header(void)
{
	printf("%-16s %9s %8s %8s %8s %9s %8s %8s %8s %7s %6s %6s %7s %6s %5s\n", "FILE", "READ/s",
	       "MB/s", "p50 us", "p99 us", "WRITE/s", "MB/s", "p50 us", "p99 us", "FLUSH/s", "L2 %",
	       "REFC %", "ALLOC/s", "FALLB", "QUEUE");
}

static void print_file(const struct top *top, const struct watched *file)
{
	text_print(stdout, "%-16s", file->name);
	printf(" %9.0f %8.1f %8.0f %8.0f", rate(top, file, READS),
	       rate(top, file, READ_BYTES) / 1e6, latency_us(file, "read", "p50"),
	       latency_us(file, "read", "p99"));
	printf(" %9.0f %8.1f %8.0f %8.0f", rate(top, file, WRITES),
	       rate(top, file, WRITTEN_BYTES) / 1e6, latency_us(file, "write", "p50"),
	       latency_us(file, "write", "p99"));
	printf(" %7.0f %6.1f %6.1f %7.0f %6" PRIu64 " %5.0f\n", rate(top, file, FLUSHES),
	       hit_percent(file, L2_HITS, L2_MISSES),
	       hit_percent(file, REFCOUNT_HITS, REFCOUNT_MISSES), rate(top, file, ALLOCATIONS),
	       file->now[FALLBACKS],
	       find_number(file->stats, (const char *const[]){"queue", NULL}));
}

/* One line: {"NAME": what the server says, ...}. */
static void print_json(const struct top *top)
{
	struct json json;

	json_begin(&json, stdout);
	json_open_line(&json, NULL);
	for (unsigned i = 0; i < top->nb_files; i++)
		json_verbatim(&json, top->files[i].name, top->files[i].stats);
	json_close_object(&json);
	json_end(&json);
}

static void show(const struct top *top, bool on_terminal, bool first)
{
	if (top->json) {
		print_json(top);
		return;
	}
	if (on_terminal)
		fputs(CLEAR_SCREEN, stdout);
	if (on_terminal || first)
		print_header();
	for (unsigned i = 0; i < top->nb_files; i++)
		print_file(top, &top->files[i]);
}

/* Finds the files and takes their first samples. */
static int begin(struct top *top, const char *path)
{
	struct stat st;
	int ret;

	if (stat(path, &st) < 0)
		return -errno;
	ret = S_ISDIR(st.st_mode) ? watch_folder(top, path) : watch(top, NULL, path);
	return ret ? ret : take_samples(top);
}

/* Until the mount is gone, or once. */
static int coroutine_fn watch_and_show(struct top *top)
{
	bool on_terminal = isatty(STDOUT_FILENO) && !top->once;

	for (bool first = true;; first = false) {
		/* What the server says needs no second sample. */
		if (!top->json || !first) {
			co_sleep((uint64_t)(top->interval_s * 1e9));
			/* Unmounted meanwhile: there is nothing more to be seen. */
			if (take_samples(top))
				return STATUS_OK;
		}
		show(top, on_terminal, first);
		if (fflush(stdout) || top->once)
			return STATUS_OK;
	}
}

static int take_option(struct tool *tool, int opt, struct top *top)
{
	char *end;

	switch (opt) {
	case '1':
		top->once = true;
		return STATUS_OK;
	case 'j':
		top->json = true;
		return STATUS_OK;
	case 'i':
		top->interval_s = strtod(optarg, &end);
		if (end == optarg || *end || !(top->interval_s >= 0.01 && top->interval_s <= 86400))
			return tool_usage(tool, "--interval=%s: give seconds, such as 0.5", optarg);
		return STATUS_OK;
	default:
		return tool_option(tool, opt);
	}
}

int coroutine_fn top_command(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {
		TOOL_LONG_OPTIONS,
		{"once", no_argument, NULL, '1'},
		{"interval", required_argument, NULL, 'i'},
		{"json", no_argument, NULL, 'j'},
		{0},
	};
	struct top *top = calloc(1, sizeof(*top));
	int opt, ret, status = STATUS_OK;

	if (!top)
		return tool_fail("top", -ENOMEM, NULL);
	top->interval_s = 1;
	while (!status && (opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS, options, NULL)) != -1)
		status = take_option(tool, opt, top);
	if (!status && argc - optind != 1)
		status = tool_usage(tool, "one mount point or raw file is needed");
	if (!status) {
		ret = begin(top, argv[optind]);
		if (ret)
			tool_say(argv[optind], "%s",
				 ret == -ENODATA || ret == -EOPNOTSUPP
					 ? "not a raw file of qcow2fs, nor a folder of them"
					 : strerror(-ret));
		status = ret ? STATUS_OPEN : watch_and_show(top);
	}
	for (unsigned i = 0; i < top->nb_files; i++) {
		free(top->files[i].path);
		free(top->files[i].stats);
	}
	free(top);
	return status;
}
