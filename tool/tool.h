/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * tool: what the subcommands of qcow2tool have in common.
 *
 * Each subcommand is one function that runs as a coroutine on the main thread's
 * reactor, from its arguments to its exit status: it may call every function of the
 * core and reads like a program that blocks.
 */
#ifndef QCOW2FS_TOOL_TOOL_H
#define QCOW2FS_TOOL_TOOL_H

#include "core/image.h"
#include "io/reactor.h"

#include <getopt.h>

/* The statuses of qcow2fs, where they apply; `check` has those of qemu-img check. */
enum status {
	STATUS_OK = 0,
	STATUS_USAGE = 1,
	STATUS_SYSTEM = 2,
	STATUS_OPEN = 33,
	STATUS_UNSUPPORTED = 34,
	STATUS_LOCKED = 35,
	STATUS_CORRUPT = 36,
	STATUS_BACKING = 37,
	STATUS_WRITE_BACK = 38,
};

struct tool {
	struct reactor *reactor;
	struct host_opener opener;
	struct engine_tool *engine; /* see engine.h */
	const struct command *command;
	/* What -f, -U, -o and -q said. */
	const char *format; /* NULL: found out by the magic number */
	struct image_options how;
	bool quiet;
};

struct command {
	const char *name;
	int coroutine_fn (*run)(struct tool *tool, int argc, char **argv);
	const char *arguments; /* for the usage line */
	const char *help;      /* lines about the options, or NULL */
	const char *summary;
};

int coroutine_fn info_command(struct tool *tool, int argc, char **argv);
int coroutine_fn check_command(struct tool *tool, int argc, char **argv);
int coroutine_fn map_command(struct tool *tool, int argc, char **argv);
int coroutine_fn dump_command(struct tool *tool, int argc, char **argv);
int coroutine_fn stat_command(struct tool *tool, int argc, char **argv);
int coroutine_fn create_command(struct tool *tool, int argc, char **argv);
int coroutine_fn convert_command(struct tool *tool, int argc, char **argv);
int coroutine_fn read_command(struct tool *tool, int argc, char **argv);
int coroutine_fn write_command(struct tool *tool, int argc, char **argv);
int coroutine_fn zero_command(struct tool *tool, int argc, char **argv);
int coroutine_fn discard_command(struct tool *tool, int argc, char **argv);
int coroutine_fn resize_command(struct tool *tool, int argc, char **argv);
int coroutine_fn snapshot_command(struct tool *tool, int argc, char **argv);
int coroutine_fn commit_command(struct tool *tool, int argc, char **argv);
int coroutine_fn rebase_command(struct tool *tool, int argc, char **argv);
int coroutine_fn top_command(struct tool *tool, int argc, char **argv);
int coroutine_fn bench_command(struct tool *tool, int argc, char **argv);

/* ---- arguments ---- */

/*
 * Options that all commands which open an image share: -f FMT, -o WORDS (backing=,
 * backing_file=, data_file=), -q, -U. To be put into the command's own strings; whatever the
 * command does not know itself goes to tool_option(), which reports what is wrong and returns the
 * exit status.
 */
#define TOOL_SHORT_OPTIONS "f:o:qU"
#define TOOL_LONG_OPTIONS                                                                  \
	{"format", required_argument, NULL, 'f'}, {"force-share", no_argument, NULL, 'U'}, \
	{                                                                                  \
		"quiet", no_argument, NULL, 'q'                                            \
	}
int tool_option(struct tool *tool, int opt);

/* Reports wrong use of the current command. Returns STATUS_USAGE. */
int tool_usage(const struct tool *tool, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * A size or offset, decimal or 0x..., with an optional suffix k, M, G, T, P, E (also KiB or kB,
 * binary all), before which there may be a fraction: 1.5G. 0 or -EINVAL, -ERANGE.
 */
int tool_parse_size(const char *text, uint64_t *ret_bytes);
/* "on", "off" and their like. 0 or -EINVAL. */
int tool_parse_bool(const char *text, bool *ret_value);
/*
 * Takes the next `name=value` off *list (commas separate, two commas stand for one).
 * Returns false at the end; *ret_value is NULL where there is no `=`. The list is changed.
 */
bool tool_next_word(char **list, char **ret_name, char **ret_value);

/* ---- messages ---- */

/* `qcow2tool: PATH: text`, to standard error. */
void tool_say(const char *path, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Reports and frees `error` (NULL: `err` alone). Returns the exit status. */
int tool_fail(const char *path, int err, struct error *error);
/* For people: 1.5 GiB. `buf` has room for 32 bytes; returns it. */
const char *tool_human_size(uint64_t bytes, char *buf);

/* A progress bar on standard error: when that is a terminal, or `always`. */
struct progress {
	bool shown;
	unsigned permille;
};
void progress_begin(struct progress *progress, const struct tool *tool, bool always);
void progress_set(struct progress *progress, uint64_t done, uint64_t total);
void progress_end(struct progress *progress);

#endif
