/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * bitmaps: see bitmaps.h. "Bitmap directory".
 */
#include "tool/bitmaps.h"

#include "core/checked.h"

#include <errno.h>

void bitmap_reader_init(struct bitmap_reader *reader, struct file *file,
			const struct header *header)
{
	*reader = (struct bitmap_reader){.file = file};
	if (!header->has_bitmaps)
		return;
	reader->off = header->bitmap_directory_offset;
	reader->end = reader->off + header->bitmap_directory_size;
	reader->left = header->nb_bitmaps;
}

int coroutine_fn bitmap_reader_next(struct bitmap_reader *reader, struct bitmap_entry *ret_entry)
{
	struct qcow2_bitmap_dir_entry raw;
	uint64_t left = reader->end - reader->off, bytes;
	uint32_t extra_bytes;
	unsigned name_bytes;
	int ret;

	if (!reader->left)
		return 0;
	if (left < sizeof(raw) || reader->off >= reader->file->size_bytes)
		return -EIO;
	ret = file_read(reader->file, reader->off, &raw, sizeof(raw), IO_TAG_BITMAP);
	if (ret)
		return ret;
	name_bytes = be16toh(raw.name_size);
	extra_bytes = be32toh(raw.extra_data_size);
	bytes = sizeof(raw) + (uint64_t)extra_bytes + name_bytes;
	if (name_bytes > BITMAP_NAME_MAX || bytes > left)
		return -EIO;
	*ret_entry = (struct bitmap_entry){
		.table_offset = be64toh(raw.bitmap_table_offset),
		.table_entries = be32toh(raw.bitmap_table_size),
		.flags = be32toh(raw.flags),
		.type = raw.type,
		.granularity_bits = raw.granularity_bits,
	};
	if (name_bytes)
		ret = file_read(reader->file, reader->off + sizeof(raw) + extra_bytes,
				ret_entry->name, name_bytes, IO_TAG_BITMAP);
	reader->off += round_up(bytes, 8);
	reader->left--;
	if (!ret && reader->off > round_up(reader->end, 8))
		ret = -EIO;
	return ret ? ret : 1;
}
