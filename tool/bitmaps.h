/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * bitmaps: the directory of persistent bitmaps, for info and dump.
 */
#ifndef QCOW2FS_TOOL_BITMAPS_H
#define QCOW2FS_TOOL_BITMAPS_H

#include "core/header.h"

struct bitmap_entry {
	uint64_t table_offset;
	uint32_t table_entries;
	uint32_t flags;
	unsigned type, granularity_bits;
	char name[BITMAP_NAME_MAX + 1];
};

/* Where the reader stands; begins with bitmap_reader_init(). */
struct bitmap_reader {
	struct file *file;
	uint64_t off, end;
	uint32_t left;
};
void bitmap_reader_init(struct bitmap_reader *reader, struct file *file,
			const struct header *header);
/* The next entry: 1, 0 at the end, -EIO for a damaged directory, or another -errno. */
int coroutine_fn bitmap_reader_next(struct bitmap_reader *reader, struct bitmap_entry *ret_entry);

#endif
