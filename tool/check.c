/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check: the core's check and repair, with the words, fields and exit statuses of
 * `qemu-img check`.
 */
#include "core/check.h"
#include "io/text.h"
#include "tool/disk.h"
#include "tool/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
	CHECK_CLEAN = 0,
	CHECK_FAILED = 1,
	CHECK_CORRUPT = 2,
	CHECK_LEAKS = 3,
	CHECK_NOT_QCOW2 = 63,
};

static void print_finding(void *ctx, const char *line)
{
	/* JSON has standard output for itself. */
	text_print_line(ctx, "%s", line);
}

static void print_json(const char *path, const struct check_report *report)
{
	const struct {
		const char *name;
		uint64_t value;
		bool always;
	} fields[] = {
		{"image-end-offset", report->image_end_offset, false},
		{"total-clusters", report->total_clusters, false},
		{"check-errors", report->check_errors, true},
		{"leaks", report->leaks, false},
		{"corruptions", report->corruptions, false},
		{"overlaps", report->overlaps, false},
		{"misplaced", report->misplaced, false},
		{"leaks-fixed", report->leaks_fixed, false},
		{"corruptions-fixed", report->corruptions_fixed, false},
		{"allocated-clusters", report->allocated_clusters, false},
		{"fragmented-clusters", report->fragmented_clusters, false},
		{"compressed-clusters", report->compressed_clusters, false},
	};
	struct json json;

	json_begin(&json, stdout);
	json_open_object(&json, NULL);
	json_string(&json, "filename", path);
	json_string(&json, "format", "qcow2");
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (fields[i].value || fields[i].always)
			json_uint(&json, fields[i].name, fields[i].value);
	json_close_object(&json);
	json_end(&json);
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * part / whole : 0;
}

static void print_text(const struct check_report *report, bool quiet)
{
	if (report->leaks_fixed || report->corruptions_fixed)
		printf("Repaired: %" PRIu64 " leaked clusters, %" PRIu64 " corruptions.\n",
		       report->leaks_fixed, report->corruptions_fixed);
	if (report->corruptions)
		printf("\n%" PRIu64 " errors were found on the image.\n"
		       "Data may be corrupted; repair it with -r all, on a copy if you can.\n",
		       report->corruptions);
	if (report->leaks)
		printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
		       "They waste space and harm no data; -r leaks gives them back.\n",
		       report->leaks);
	if (report->check_errors)
		printf("\n%" PRIu64 " places could not be looked at.\n", report->check_errors);
	if (quiet)
		return;
	if (!report->corruptions && !report->leaks && !report->check_errors)
		printf("No errors were found on the image.\n");
	if (report->total_clusters)
		printf("%" PRIu64 "/%" PRIu64 " = %.2f%% allocated, %.2f%% fragmented, "
		       "%.2f%% compressed clusters\n",
		       report->allocated_clusters, report->total_clusters,
		       percent(report->allocated_clusters, report->total_clusters),
		       percent(report->fragmented_clusters, report->allocated_clusters),
		       percent(report->compressed_clusters, report->allocated_clusters));
	printf("Image end offset: %" PRIu64 "\n", report->image_end_offset);
}

static int status_of_report(const struct check_report *report)
{
	if (report->check_errors)
		return CHECK_FAILED;
	if (report->corruptions)
		return CHECK_CORRUPT;
	return report->leaks ? CHECK_LEAKS : CHECK_CLEAN;
}

static int coroutine_fn check_file(struct tool *tool, const char *path, struct file *file,
				   enum check_repair repair, bool json)
{
	struct check_options options = {
		.repair = repair,
		.say = tool->quiet ? NULL : print_finding,
		.ctx = json ? stderr : stdout,
	};
	struct check_report report;
	struct error *error = NULL;
	int ret = check_run(file, &options, &report, &error);

	if (ret) {
		tool_fail(path, ret, error);
		return CHECK_FAILED;
	}
	if (json)
		print_json(path, &report);
	else
		print_text(&report, tool->quiet);
	return status_of_report(&report);
}

int coroutine_fn check_command(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {
		TOOL_LONG_OPTIONS,
		{"json", no_argument, NULL, 'j'},
		{"output", required_argument, NULL, 'J'},
		{"repair", required_argument, NULL, 'r'},
		{0},
	};
	enum check_repair repair = CHECK_ONLY;
	bool json = false;
	struct file *file;
	int opt, status;

	while ((opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS "r:", options, NULL)) != -1) {
		if (opt == 'j')
			json = true;
		else if (opt == 'J')
			json = !strcmp(optarg, "json");
		else if (opt == 'r' && !strcmp(optarg, "leaks"))
			repair = CHECK_REPAIR_LEAKS;
		else if (opt == 'r' && !strcmp(optarg, "all"))
			repair = CHECK_REPAIR_ALL;
		else if (opt == 'r')
			return tool_usage(tool, "-r %s: give leaks or all", optarg);
		else if ((status = tool_option(tool, opt)))
			return status;
	}
	if (argc - optind != 1)
		return tool_usage(tool, "one image is needed");
	tool->how.writable = repair != CHECK_ONLY;
	if (disk_open_file(tool, argv[optind], &file))
		return CHECK_FAILED;
	if (!tool->format && disk_probe_file(file, &tool->format))
		status = CHECK_FAILED;
	else if (strcmp(tool->format, "qcow2")) {
		tool_say(argv[optind], "a raw image holds nothing that could be checked");
		status = CHECK_NOT_QCOW2;
	} else {
		status = check_file(tool, argv[optind], file, repair, json);
	}
	file_close(file);
	return status;
}
