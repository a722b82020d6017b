/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * partitions: -o partitions: where the partitions of a disk lie, according to its table.
 *
 * libblkid interprets the table, and it reads from a descriptor. It gets a sparse copy in memory,
 * of those places only where the tables of MBR and GPT are: so it needs no mount that serves
 * it, and however a table lies about itself, what it makes the library read is bounded here.
 */
#ifndef QCOW2FS_FUSE_PARTITIONS_H
#define QCOW2FS_FUSE_PARTITIONS_H

#include "fuse/tree.h"

/* As in the kernel. */
#define PARTITIONS_MAX 256u

struct partition {
	unsigned number;
	uint64_t start_bytes, len_bytes; /* inside the disk, not empty */
};

struct partition_list {
	unsigned nb;
	bool has_table;
	struct partition partitions[PARTITIONS_MAX];
};

/*
 * Reads the table of a disk, whose image is open (a view is opened for it). What lies beyond its
 * end is cut off. Warnings are logged. 0 or -errno. [not the reactor]
 */
int partitions_read(struct reactor *reactor, const struct tree_disk *disk,
		    struct partition_list *ret_list);

#endif
