/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * snapshot: the snapshot table ("Snapshots"): read in pieces, bounded by the file's
 * size, kept as a list for views and messages.
 */
#ifndef QCOW2FS_CORE_SNAPSHOT_H
#define QCOW2FS_CORE_SNAPSHOT_H

#include "core/header.h"

struct snapshot {
	char *id, *name;
	uint64_t l1_table_offset;
	uint32_t l1_size;
	uint64_t virtual_size;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec;
	uint64_t vm_state_bytes;
	uint64_t icount; /* UINT64_MAX: not recorded */
};

struct snapshot_list {
	unsigned nb;
	struct snapshot *snapshots;
	uint64_t table_bytes; /* of the table in the file */
};

/*
 * Reads the table of header->nb_snapshots entries. Errors: ERROR_OPEN for entries
 * out of bounds. 0 or -errno; on failure nothing is held.
 */
int coroutine_fn snapshot_list_read(struct file *file, const struct header *header,
				    struct snapshot_list *ret_list, struct error **reterr);
void snapshot_list_finish(struct snapshot_list *list);

/* The first one with that name. NULL when there is none. */
const struct snapshot *snapshot_find_name(const struct snapshot_list *list, const char *name);
/* By id first, then by name, as `qemu-img snapshot -a` does. NULL when there is none. */
const struct snapshot *snapshot_find(const struct snapshot_list *list, const char *id_or_name);

#endif
