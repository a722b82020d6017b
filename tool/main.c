/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * qcow2tool: qcow2 images without a mount: what is in them, is it sound, into and out of
 * them. This file finds the subcommand and runs it.
 */
#include "io/buf.h"
#include "io/stdio.h"
#include "tool/engine.h"
#include "tool/tool.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORKERS_MIN 4l /* beside other programs two would get little of a busy machine */
#define WORKERS_MAX 16l
#define NB_COROUTINES 64u

static const struct command commands[] = {
	{"info", info_command, "[--json] [--backing-chain] IMAGE",
	 "  --json            as qemu-img info --output=json\n"
	 "  --backing-chain   every file of the chain\n",
	 "show what an image is"},
	{"check", check_command, "[--json] [-r leaks|all] IMAGE",
	 "  -r leaks|all      repair leaks, or everything\n"
	 "  --json            as qemu-img check --output=json\n"
	 "Exit status: 0 sound, 2 corrupt, 3 leaks only, 1 not checked, 63 no qcow2 image.\n",
	 "look for leaks and corruption, and repair them"},
	{"map", map_command, "[--json] [--start=OFFSET] [--length=BYTES] IMAGE",
	 "  --json            as qemu-img map --output=json\n",
	 "list which ranges hold what, where"},
	{"dump", dump_command, "[--json] [--TABLE[=INDEX[-LAST]]]... IMAGE",
	 "  TABLE is one of header, extensions, reftable, refblocks, l1, l2, snapshots, bitmaps;\n"
	 "  INDEX selects an entry (a block for refblocks, a table for l2).\n"
	 "  Without a table: header, extensions, snapshots and bitmaps.\n",
	 "show the metadata as they are in the file"},
	{"stat", stat_command, "[--json] IMAGE", NULL, "count clusters of each kind"},
	{"create", create_command,
	 "[-f FORMAT] [-o OPTIONS] [-b BACKING [-F FORMAT]] [-u] IMAGE [SIZE]",
	 "  -b FILE           backing file;  -F FORMAT  its format, raw or qcow2\n"
	 "  -u                do not look at the backing file\n"
	 "  -o OPTIONS        cluster_size=, refcount_bits=, compat=0.10|1.1, extended_l2=on|off,\n"
	 "                    preallocation=off|metadata|falloc|full, lazy_refcounts=on|off,\n"
	 "                    compression_type=zlib|zstd, data_file=FILE, data_file_raw=on|off,\n"
	 "                    backing_file=, backing_fmt=, size=\n",
	 "make an empty image"},
	{"format", create_command, "[-f FORMAT] [-o OPTIONS] [-b BACKING [-F FORMAT]] IMAGE [SIZE]",
	 NULL, "the same as create"},
	{"convert", convert_command,
	 "[-f FORMAT] [-O FORMAT] [-c] [-o OPTIONS] [-S BYTES] [-m N] [-n] [-p] [-l SNAPSHOT]\n"
	 "                         [-t CACHE] [-B BACKING [-F FORMAT]] SOURCE TARGET",
	 "  -O FORMAT         of the target: raw (default) or qcow2\n"
	 "  -c                compress (the type: -o compression_type=zlib|zstd)\n"
	 "  -o OPTIONS        of the target, as for create\n"
	 "  -S BYTES          runs of so many zeros become holes (4k; 0: never)\n"
	 "  -m N              requests under way at once (8)\n"
	 "  -n                the target exists already\n"
	 "  -l SNAPSHOT       that state of the source\n"
	 "  -B FILE           backing file of the target, which gets only what differs from it\n"
	 "  -t CACHE          unsafe (default: no flush), writeback (flush at the end), none\n"
	 "  -p                progress bar even when not on a terminal\n",
	 "copy an image into another format"},
	{"read", read_command, "[-f FORMAT] IMAGE OFFSET LENGTH", NULL,
	 "write guest bytes to standard output"},
	{"write", write_command, "[-f FORMAT] IMAGE OFFSET [LENGTH]", NULL,
	 "write standard input to the guest"},
	{"zero", zero_command, "[-f FORMAT] [-u] IMAGE OFFSET LENGTH",
	 "  -u                give host space back (otherwise it stays reserved)\n",
	 "make a guest range read as zeros"},
	{"discard", discard_command, "[-f FORMAT] IMAGE OFFSET LENGTH", NULL,
	 "give the host space of a guest range back"},
	{"resize", resize_command, "[-f FORMAT] [--shrink] IMAGE [+|-]SIZE",
	 "  --shrink          allow the disk to become smaller\n", "change the virtual size"},
	{"snapshot", snapshot_command, "[-l | -c NAME | -a SNAPSHOT | -d NAME] [--json] IMAGE",
	 "  -l list (default)  -c create  -a apply  -d delete\n"
	 "  SNAPSHOT          its id, or its name where no other one has that id\n",
	 "internal snapshots"},
	{"commit", commit_command, "[-b BASE] [-d] [-p] IMAGE",
	 "  -d                leave the image as it is (otherwise it is emptied)\n"
	 "  -b BASE           commit into this file of the chain\n",
	 "write an overlay's data into its backing file"},
	{"rebase", rebase_command, "[-u] -b BACKING [-F FORMAT] [-p] IMAGE",
	 "  -b FILE           the new backing file; empty: none\n"
	 "  -u                change the name only\n",
	 "give an overlay another backing file"},
	{"top", top_command, "[--once] [--interval=SECONDS] [--json] MOUNTPOINT|RAWFILE",
	 "  --interval=SECONDS  between two looks (1)\n"
	 "  --once            one look, then end\n"
	 "  --json            one line of JSON for each look\n",
	 "watch what a mount of qcow2fs does"},
	{"bench", bench_command,
	 "[-c COUNT] [-d DEPTH] [-s BYTES] [-S STEP] [-O OFFSET] [-w [--flush-interval=N]] "
	 "[--random]\n"
	 "                       [-t CACHE] [-f FORMAT] IMAGE",
	 NULL, "measure reads or writes"},
};
#define NB_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void print_help(void)
{
	puts("usage: qcow2tool COMMAND [OPTIONS] ARGUMENTS\n\ncommands:");
	for (size_t i = 0; i < NB_COMMANDS; i++)
		printf("  %-10s%s\n", commands[i].name, commands[i].summary);
	puts("\noptions of every command that opens an image:\n"
	     "  -f, --format=FORMAT  raw or qcow2 (default: found out)\n"
	     "  -U, --force-share    read beside a writer\n"
	     "  -o WORDS             backing=auto|any|beneath|none, backing_file=PATH,\n"
	     "                       data_file=PATH, snapshot=NAME (not convert and create)\n"
	     "  -q, --quiet          no progress, no summary\n\n"
	     "'qcow2tool COMMAND --help' tells more; see also qcow2tool(1).");
}

static void print_command_help(const struct command *command)
{
	printf("usage: qcow2tool %s %s\n%s.\n%s", command->name, command->arguments,
	       command->summary, command->help ? command->help : "");
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < NB_COMMANDS; i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

static bool wants_help(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return true;
	return false;
}

struct run {
	struct tool tool;
	int argc;
	char **argv;
	int status;
};

static void coroutine_fn run_main(void *arg)
{
	struct run *run = arg;

	run->status = run->tool.command->run(&run->tool, run->argc, run->argv);
}

static int run_command(struct run *run)
{
	long nb_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct reactor_params params = {.nb_coroutines = NB_COROUTINES};
	int ret = engine_tool_create(&run->tool.engine);

	if (ret)
		return tool_fail("cannot start", ret, NULL);
	params.engine = &run->tool.engine->engine;
	params.nb_workers = nb_cpus > WORKERS_MAX   ? WORKERS_MAX
			    : nb_cpus > WORKERS_MIN ? nb_cpus
						    : WORKERS_MIN;
	ret = reactor_create(&params, &run->tool.reactor);
	if (ret)
		return tool_fail("cannot start", ret, NULL);
	host_opener_init(&run->tool.opener, run->tool.reactor, NAMES_AUTO, true);
	reactor_run(run->tool.reactor, run_main, run);
	reactor_destroy(run->tool.reactor);
	buf_trim();
	return run->status;
}

static int run_words(int argc, char **argv)
{
	struct run run = {.argc = argc - 1, .argv = argv + 1};

	if (argc < 2) {
		fputs("qcow2tool: no command; try 'qcow2tool --help'\n", stderr);
		return STATUS_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		print_help();
		return STATUS_OK;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("qcow2tool %s\n", QCOW2FS_VERSION);
		return STATUS_OK;
	}
	run.tool.command = find_command(argv[1]);
	if (!run.tool.command) {
		tool_say(argv[1], "no such command; try 'qcow2tool --help'");
		return STATUS_USAGE;
	}
	if (wants_help(run.argc, run.argv)) {
		print_command_help(run.tool.command);
		return STATUS_OK;
	}
	return run_command(&run);
}

static bool nobody_reads_output(void)
{
	struct pollfd pollfd = {.fd = STDOUT_FILENO, .events = POLLOUT};

	return poll(&pollfd, 1, 0) == 1 && pollfd.revents & (POLLERR | POLLHUP);
}

int main(int argc, char **argv)
{
	int status;

	if (stdio_reserve() < 0)
		return STATUS_SYSTEM;
	/*
	 * What a killed process had open stays so, locks included, until its ring is taken apart:
	 * whoever uses the image next would find it in use. So it is closed first.
	 */
	signal(SIGPIPE, SIG_IGN);
	status = run_words(argc, argv);
	if (fflush(stdout) || ferror(stdout)) {
		if (nobody_reads_output()) {
			signal(SIGPIPE, SIG_DFL);
			raise(SIGPIPE);
		}
		perror("qcow2tool: standard output");
		return status ? status : STATUS_SYSTEM;
	}
	return status;
}
