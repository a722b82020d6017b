/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * tables: the metadata of one qcow2 file as they stand there, for dump and stat. Bounds
 * are the header's; what lies beyond the end of the file reads as zeros.
 */
#ifndef QCOW2FS_TOOL_TABLES_H
#define QCOW2FS_TOOL_TABLES_H

#include "core/snapshot.h"
#include "tool/tool.h"

struct tables {
	const char *path;
	struct file *file;
	struct header header;
	struct snapshot_list snapshots;
	uint64_t cluster_size;
	uint64_t nb_reftable; /* entries */
	uint64_t nb_per_refblock;
	bool extended_l2;
	uint64_t nb_per_l2;
};

/* Opens the file with its locks and reads header and snapshots. Reports; the exit status. */
int coroutine_fn tables_open(struct tool *tool, const char *path, struct tables *ret_tables);
void tables_close(struct tables *tables);

/* One entry of a table of 64-bit words. 0 or -errno. */
int coroutine_fn tables_word(const struct tables *tables, uint64_t table_off, uint64_t index,
			     enum io_tag tag, uint64_t *ret_word);

/* One L2 entry. */
enum l2_kind {
	L2_KIND_NONE,
	L2_KIND_DATA,
	L2_KIND_ZERO,
	L2_KIND_ZERO_ALLOCATED,
	L2_KIND_COMPRESSED
};
struct l2_facts {
	enum l2_kind kind;
	bool copied, has_host_off;
	uint64_t host_off, len_bytes; /* len_bytes: of compressed data */
	uint64_t bitmap;              /* with extended L2 */
	uint64_t raw;
};
const char *tables_kind_name(enum l2_kind kind);

/* Calls visit for each entry of an L2 table. Stops at the first error. 0 or -errno. */
typedef int tables_l2_fn(void *ctx, uint64_t index, const struct l2_facts *facts);
int coroutine_fn tables_visit_l2(const struct tables *tables, uint64_t l2_off, tables_l2_fn *visit,
				 void *ctx);

#endif
