/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * bitmap: see bitmap.h. The directory is streamed entry by entry; only flag words
 * are written.
 */
#include "core/bitmap.h"

#include <errno.h>

int coroutine_fn bitmap_mark_in_use(struct image *image)
{
	const struct header *h = &image->header;
	uint64_t off = h->bitmap_directory_offset;
	uint64_t end = off + h->bitmap_directory_size;
	bool changed = false;
	int ret = 0;

	for (uint32_t i = 0; i < h->nb_bitmaps && !ret; i++) {
		struct qcow2_bitmap_dir_entry entry;
		uint64_t entry_bytes;
		uint32_t flags;

		if (off > end || end - off < sizeof(entry) || off >= image->file->size_bytes)
			return -EIO;
		ret = file_read(image->file, off, &entry, sizeof(entry), IO_TAG_BITMAP);
		flags = be32toh(entry.flags);
		if (!ret && !(flags & BITMAP_FLAG_IN_USE)) {
			entry.flags = htobe32(flags | BITMAP_FLAG_IN_USE);
			ret = file_write(image->file,
					 off + offsetof(struct qcow2_bitmap_dir_entry, flags),
					 &entry.flags, sizeof(entry.flags), IO_TAG_BITMAP);
			changed = true;
		}
		entry_bytes = sizeof(entry) + (uint64_t)be16toh(entry.name_size) +
			      be32toh(entry.extra_data_size);
		off += round_up(entry_bytes, 8);
	}
	if (!ret && changed)
		ret = file_flush(image->file); /* I11 */
	return ret;
}
