/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * bitmap: see bitmap.h. The directory is streamed entry by entry; only flag words
 * are written.
 */
#include "core/bitmap.h"

#include <errno.h>

/* Reads the directory's entry at *off, and moves *off to the next one. */
static int coroutine_fn read_entry(struct image *image, uint64_t *off,
				   struct qcow2_bitmap_dir_entry *ret_entry)
{
	const struct header *h = &image->header;
	uint64_t end = h->bitmap_directory_offset + h->bitmap_directory_size;
	uint64_t entry_bytes = sizeof(*ret_entry);
	int ret;

	if (*off > end || end - *off < entry_bytes || *off >= image->file->size_bytes)
		return -EIO;
	ret = file_read(image->file, *off, ret_entry, sizeof(*ret_entry), IO_TAG_BITMAP);
	entry_bytes +=
		(uint64_t)be16toh(ret_entry->name_size) + be32toh(ret_entry->extra_data_size);
	*off += round_up(entry_bytes, 8);
	return ret;
}

int coroutine_fn bitmap_mark_in_use(struct image *image)
{
	const struct header *h = &image->header;
	uint64_t off = h->bitmap_directory_offset;
	bool changed = false;
	int ret = 0;

	for (uint32_t i = 0; i < h->nb_bitmaps && !ret; i++) {
		uint64_t flags_off = off + offsetof(struct qcow2_bitmap_dir_entry, flags);
		struct qcow2_bitmap_dir_entry entry;
		uint32_t flags;

		ret = read_entry(image, &off, &entry);
		if (ret)
			return ret;
		flags = be32toh(entry.flags);
		if (flags & BITMAP_FLAG_IN_USE)
			continue;
		entry.flags = htobe32(flags | BITMAP_FLAG_IN_USE);
		ret = file_write(image->file, flags_off, &entry.flags, sizeof(entry.flags),
				 IO_TAG_BITMAP);
		changed = true;
	}
	if (!ret && changed)
		ret = file_flush(image->file); /* I11 */
	return ret;
}

int coroutine_fn bitmap_fit(struct image *image, uint64_t size_bytes, bool *ret_fit)
{
	const struct header *h = &image->header;
	uint64_t off = h->bitmap_directory_offset;

	*ret_fit = true;
	for (uint32_t i = 0; i < h->nb_bitmaps; i++) {
		struct qcow2_bitmap_dir_entry entry;
		uint64_t nb_bits, nb_clusters;
		int ret = read_entry(image, &off, &entry);

		if (ret)
			return ret;
		if (entry.granularity_bits >= 64)
			return -EIO;
		nb_bits = div_up(size_bytes, 1ull << entry.granularity_bits);
		nb_clusters = div_up(div_up(nb_bits, 8), cluster_size(image));
		*ret_fit &= be32toh(entry.bitmap_table_size) == nb_clusters;
	}
	return 0;
}
