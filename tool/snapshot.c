/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * snapshot: listing, making, applying and deleting internal snapshots.
 */
#include "core/snapshot_edit.h"
#include "tool/disk.h"
#include "tool/snapshots.h"
#include "tool/tables.h"

#include <stdio.h>
#include <time.h>

static int coroutine_fn list(struct tool *tool, const char *path, bool as_json)
{
	const struct snapshot_list *snapshots;
	struct tables tables;
	struct json json;
	int status = tables_open(tool, path, &tables);

	if (status)
		return status;
	snapshots = &tables.snapshots;
	if (as_json) {
		json_begin(&json, stdout);
		json_open_array(&json, NULL);
		for (unsigned i = 0; i < snapshots->nb; i++)
			snapshots_print_json(&json, &snapshots->snapshots[i]);
		json_close_array(&json);
		json_end(&json);
	} else if (snapshots->nb) {
		printf("Snapshot list:\n");
		snapshots_print_text(snapshots);
	}
	tables_close(&tables);
	return STATUS_OK;
}

static int coroutine_fn edit(struct tool *tool, const char *path, int action, const char *name)
{
	struct error *error = NULL;
	struct timespec now;
	struct disk disk;
	int ret, status, close_status;

	tool->how.writable = true;
	/* The layers below are of no interest. */
	tool->how.no_backing = true;
	status = disk_open(tool, path, "qcow2", &tool->how, &disk);
	if (status)
		return status;
	clock_gettime(CLOCK_REALTIME, &now);
	if (action == 'c')
		ret = snapshot_create(disk.image, name, now.tv_sec, now.tv_nsec, &error);
	else if (action == 'a')
		ret = snapshot_apply(disk.image, name, &error);
	else
		ret = snapshot_delete(disk.image, name, &error);
	if (ret)
		status = tool_fail(path, ret, error);
	close_status = disk_close(&disk);
	return status ? status : close_status;
}

int coroutine_fn snapshot_command(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {
		TOOL_LONG_OPTIONS, {"json", no_argument, NULL, 'j'}, {0}};
	const char *name = NULL;
	int action = 0, opt, status;
	bool json = false;

	while ((opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS "lc:a:d:", options, NULL)) != -1) {
		if (opt == 'l' || opt == 'c' || opt == 'a' || opt == 'd') {
			if (action)
				return tool_usage(tool, "only one of -l, -c, -a and -d");
			action = opt;
			name = optarg;
		} else if (opt == 'j') {
			json = true;
		} else if ((status = tool_option(tool, opt))) {
			return status;
		}
	}
	if (argc - optind != 1)
		return tool_usage(tool, "one image is needed");
	if (!action || action == 'l')
		return list(tool, argv[optind], json);
	return edit(tool, argv[optind], action, name);
}
