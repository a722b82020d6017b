/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_driver: runs the check over image files, for tests that compare it with
 * qemu-img.
 *
 *   check_driver [-v] [-r leaks|all] IMAGE...
 *
 * Prints one line of JSON per image: the report, or {"errno": N, "error": TEXT} when the
 * image could not be checked; with `written`, the bytes that a repair has written. -v
 * prints the findings to standard error.
 */
#include "core/check.h"
#include "io/buf.h"
#include "io/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct job {
	struct file *file;
	struct check_options options;
	struct check_report report;
	struct error *error;
	int result;
};

static void print_line(void *ctx, const char *line)
{
	fprintf(stderr, "%s\n", line);
}

static void job_run(void *arg)
{
	struct job *job = arg;

	job->result = check_run(job->file, &job->options, &job->report, &job->error);
}

static void print_report(const struct job *job)
{
	const struct check_report *report = &job->report;

	if (job->result) {
		printf("{\"errno\": %d, \"error\": \"%s\"}\n", -job->result,
		       job->error ? job->error->msg : "");
		return;
	}
	printf("{\"leaks\": %" PRIu64 ", \"corruptions\": %" PRIu64 ", \"overlaps\": %" PRIu64
	       ", \"misplaced\": %" PRIu64 ", \"check-errors\": %" PRIu64
	       ", \"leaks-fixed\": %" PRIu64 ", \"corruptions-fixed\": %" PRIu64
	       ", \"image-end-offset\": %" PRIu64 ", \"total-clusters\": %" PRIu64
	       ", \"allocated-clusters\": %" PRIu64 ", \"fragmented-clusters\": %" PRIu64
	       ", \"compressed-clusters\": %" PRIu64 ", \"dirty\": %d, \"corrupt\": %d"
	       ", \"written\": %" PRIu64 "}\n",
	       report->leaks, report->corruptions, report->overlaps, report->misplaced,
	       report->check_errors, report->leaks_fixed, report->corruptions_fixed,
	       report->image_end_offset, report->total_clusters, report->allocated_clusters,
	       report->fragmented_clusters, report->compressed_clusters, report->dirty,
	       report->corrupt, job->file->stats.written_bytes);
}

static int check_one(struct reactor *reactor, const char *path, const struct check_options *options)
{
	struct job job = {.options = *options};
	struct file_open_params params = {
		.dirfd = AT_FDCWD,
		.path = path,
		.writable = options->repair != CHECK_ONLY,
		.no_direct = true,
	};
	int err = file_open(reactor, &params, &job.file, &job.error);

	if (err) {
		fprintf(stderr, "%s: %s\n", path, job.error ? job.error->msg : strerror(-err));
		error_free(job.error);
		return err;
	}
	reactor_run(reactor, job_run, &job);
	print_report(&job);
	error_free(job.error);
	file_close(job.file);
	return 0;
}

int main(int argc, char **argv)
{
	struct check_options options = {.repair = CHECK_ONLY};
	struct reactor_params params = {0};
	struct reactor *reactor;
	int opt, status = 0;

	while ((opt = getopt(argc, argv, "vr:")) != -1) {
		if (opt == 'v')
			options.say = print_line;
		else if (opt == 'r')
			options.repair =
				strcmp(optarg, "all") ? CHECK_REPAIR_LEAKS : CHECK_REPAIR_ALL;
		else
			return 2;
	}
	if (engine_sync_create(&params.engine) || reactor_create(&params, &reactor))
		return 2;
	for (int i = optind; i < argc; i++)
		if (check_one(reactor, argv[i], &options))
			status = 1;
	reactor_destroy(reactor);
	buf_trim();
	return status;
}
