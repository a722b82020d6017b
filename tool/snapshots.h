/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * snapshots: how internal snapshots are shown, by info and snapshot alike.
 */
#ifndef QCOW2FS_TOOL_SNAPSHOTS_H
#define QCOW2FS_TOOL_SNAPSHOTS_H

#include "core/snapshot.h"
#include "tool/json.h"

void snapshots_print_json(struct json *json, const struct snapshot *snapshot);
/* A table with a heading, as qemu-img snapshot -l prints it. */
void snapshots_print_text(const struct snapshot_list *list);

#endif
