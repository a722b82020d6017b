/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * snapshots: see snapshots.h.
 */
#include "tool/snapshots.h"

#include "io/text.h"
#include "tool/tool.h"

#include <inttypes.h>
#include <time.h>

void snapshots_print_json(struct json *json, const struct snapshot *snapshot)
{
	json_open_object(json, NULL);
	if (snapshot->icount != UINT64_MAX)
		json_uint(json, "icount", snapshot->icount);
	json_uint(json, "vm-clock-nsec", snapshot->vm_clock_nsec % 1000000000);
	json_string(json, "name", snapshot->name);
	json_uint(json, "date-sec", snapshot->date_sec);
	json_uint(json, "date-nsec", snapshot->date_nsec);
	json_uint(json, "vm-clock-sec", snapshot->vm_clock_nsec / 1000000000);
	json_string(json, "id", snapshot->id);
	json_uint(json, "vm-state-size", snapshot->vm_state_bytes);
	json_close_object(json);
}

static void print_line(const struct snapshot *snapshot)
{
	uint64_t clock_sec = snapshot->vm_clock_nsec / 1000000000;
	time_t when = snapshot->date_sec;
	char date[64] = "", clock[64], size[32], icount[24] = "";
	struct tm tm;

	if (localtime_r(&when, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(clock, sizeof(clock), "%02" PRIu64 ":%02u:%02u.%03u", clock_sec / 3600,
		 (unsigned)(clock_sec / 60 % 60), (unsigned)(clock_sec % 60),
		 (unsigned)(snapshot->vm_clock_nsec / 1000000 % 1000));
	if (snapshot->icount != UINT64_MAX)
		snprintf(icount, sizeof(icount), "%" PRIu64, snapshot->icount);
	text_print_line(stdout, "%-9s %-16s %8s%20s%13s%11s", snapshot->id, snapshot->name,
			tool_human_size(snapshot->vm_state_bytes, size), date, clock, icount);
}

void snapshots_print_text(const struct snapshot_list *list)
{
	printf("%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
	for (unsigned i = 0; i < list->nb; i++)
		print_line(&list->snapshots[i]);
}
