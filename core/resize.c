/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * resize: changing the virtual size. The L1 table grows first, header.size changes last;
 * what a growing disk uncovers reads as zeros, also above a longer backing file. A shrinking one
 * lets its clusters go, and writes nothing for what they uncover behind its end. An external data
 * file becomes as long as the disk.
 */
#include "core/alloc.h"
#include "core/bitmap.h"
#include "core/flush.h"
#include "core/map.h"
#include "core/table.h"
#include "core/tree.h"
#include "core/write.h"
#include "io/buf.h"

#include <errno.h>

static int coroutine_fn grow_l1(struct writer *writer, uint64_t nb_entries)
{
	struct image *image = writer->image;
	uint64_t size = cluster_size(image);
	uint64_t nb_clusters = tree_table_clusters(image, nb_entries * 8);
	uint64_t old_off = image->l1_table_offset, old_bytes = (uint64_t)image->l1_size * 8;
	uint64_t new_off;
	int ret;

	/* The file holds the L1 table as it is now, and what a flush lets go looks at none. */
	ret = tree_settle(writer);
	if (!ret)
		ret = tree_copy_l1(writer, old_off, image->l1_size, nb_entries, ENTRY_COPIED,
				   &new_off);
	if (ret)
		return ret;
	ret = overlap_add(&writer->overlap, new_off, nb_clusters * size);
	if (!ret)
		ret = flush_switch_l1(writer, new_off, nb_entries); /* I2 */
	if (ret && !writer->failed) {
		overlap_remove(&writer->overlap, new_off, nb_clusters * size);
		alloc_undo(writer, new_off, nb_clusters); /* I12 */
	}
	if (ret)
		return ret;
	image->l1_table_offset = new_off;
	image->l1_size = nb_entries;
	if (old_bytes) {
		cache_forget(&image->l2_cache, old_off, round_up(old_bytes, size));
		overlap_remove(&writer->overlap, old_off, old_bytes);
		/* Without memory to remember it by, the old table is leaked. */
		if (!run_list_reserve(&writer->unlinked, 1))
			run_list_add(&writer->unlinked, old_off >> image->cluster_bits,
				     div_up(old_bytes, size)); /* I4 */
		writer_note_write(writer);
	}
	return 0;
}

/* Does that to [from, to), which lies outside the old or the new disk. */
static int coroutine_fn zero_outside(struct writer *writer, uint64_t from, uint64_t to,
				     enum zero_mode mode)
{
	struct io_record record;
	int ret;

	if (from >= to)
		return 0;
	io_begin(writer->image, &record);
	ret = zero_range(writer, from, to - from, mode);
	io_end(writer->image, &record);
	return ret;
}

/*
 * How far something could shine through behind the end of the disk: the rest of the last
 * cluster, and whatever the L1 table as it is leads to, where a size was once cut without its
 * clusters. A raw data file keeps its own bytes there.
 */
static uint64_t end_of_leftovers(const struct image *image, uint64_t old_bytes)
{
	uint64_t end = round_up(old_bytes, cluster_size(image)), mapped_bytes;
	unsigned span_bits = image->cluster_bits + image->l2_bits;

	if (has_raw_data_file(image))
		return end;
	if (checked_mul(image->l1_size, 1ull << span_bits, &mapped_bytes))
		mapped_bytes = UINT64_MAX;
	return max_u64(end, mapped_bytes);
}

/* ---- an external data file ---- */

/* Its new length; where it is longer already, only a shrinking disk changes it. */
static int coroutine_fn resize_data_file(struct writer *writer, uint64_t size_bytes, bool grows)
{
	struct image *image = writer->image;
	struct file *file = image->data_file;

	if (!has_data_file(image) || file->is_block_device ||
	    (file->size_bytes >= size_bytes) == grows)
		return 0;
	writer_note_write(writer);
	return file_truncate(file, size_bytes);
}

/* A raw one shows what it holds: the clusters of [pos, end) are mapped, each to its own place. */
static int coroutine_fn map_raw_clusters(struct writer *writer, uint64_t pos, uint64_t end)
{
	struct image *image = writer->image;
	uint64_t size = cluster_size(image);
	int ret = 0;

	if (!has_raw_data_file(image))
		return 0;
	for (pos = round_down(pos, size); pos < end && !ret;) {
		struct l2_window window;
		uint64_t l2_off;

		ret = table_make_writable(writer, pos, &l2_off);
		if (!ret)
			ret = table_open_window(writer, l2_off, pos, div_up(end - pos, size),
						&window);
		if (ret)
			break;
		for (unsigned i = 0; i < window.nb; i++, pos += size)
			if (!(table_get_entry(writer, &window, i).entry & ENTRY_COPIED))
				table_set_entry(writer, &window, i,
						(struct l2_entry){.entry = pos | ENTRY_COPIED,
								  .bitmap = UINT32_MAX});
		table_close_window(writer, &window);
	}
	return ret;
}

/* ---- the disk ---- */

static int coroutine_fn grow(struct writer *writer, uint64_t size_bytes)
{
	struct image *image = writer->image;
	uint64_t old_bytes = image->virtual_size, nb_entries;
	uint64_t end = end_of_leftovers(image, old_bytes);
	int ret = map_l1_entries(image, size_bytes, &nb_entries);

	if (!ret && nb_entries > image->l1_size)
		ret = grow_l1(writer, nb_entries);
	if (ret)
		return ret;
	if (image->backing)
		end = max_u64(end, image->backing->virtual_size);
	image->virtual_size = size_bytes;
	ret = zero_outside(writer, old_bytes, min_u64(end, size_bytes), ZERO_FREE);
	if (!ret)
		ret = resize_data_file(writer, size_bytes, true);
	if (!ret)
		ret = map_raw_clusters(writer, old_bytes, size_bytes);
	if (!ret)
		ret = flush_set_size(writer, size_bytes);
	if (ret)
		image->virtual_size = old_bytes;
	return ret;
}

/*
 * The rest of the last cluster is zeroed for whoever grows the disk without doing so, and a raw
 * data file is cut, which shows what it holds when the disk grows again. The clusters behind are
 * let go after the switch, for they may uncover a backing file: where that fails, they are
 * leftovers.
 */
static int coroutine_fn shrink(struct writer *writer, uint64_t size_bytes)
{
	struct image *image = writer->image;
	uint64_t old_bytes = image->virtual_size, cluster = cluster_size(image);
	uint64_t end = round_up(size_bytes, cluster);
	int ret = zero_outside(writer, size_bytes, min_u64(end, old_bytes), ZERO_FREE);

	if (!ret && has_raw_data_file(image))
		ret = resize_data_file(writer, size_bytes, false);
	if (!ret)
		ret = flush_set_size(writer, size_bytes);
	if (ret)
		return ret;
	image->virtual_size = size_bytes;
	zero_outside(writer, end, round_up(old_bytes, cluster), ZERO_DROP);
	resize_data_file(writer, size_bytes, false);
	return 0;
}

/* Can the disk become so large? What cannot be is refused before bitmaps are out of date for it. */
static int check_size(const struct image *image, uint64_t size_bytes)
{
	const struct file *file = image->data_file;
	uint64_t nb_entries;

	if (size_bytes <= image->virtual_size)
		return 0;
	if (has_data_file(image) && file->is_block_device && size_bytes > file->size_bytes)
		return -ENOSPC;
	return map_l1_entries(image, size_bytes, &nb_entries);
}

/*
 * Bitmaps stay true of a disk that grows, where their tables have or get the length for it. Of one
 * that shrinks they are out of date.
 */
static int coroutine_fn begin(struct writer *writer, uint64_t size_bytes,
			      struct bitmap_growth *growth)
{
	struct image *image = writer->image;
	bool grows = size_bytes >= image->virtual_size;
	int ret = check_size(image, size_bytes);

	if (!ret)
		ret = writer_begin(writer);
	if (!ret && grows && image->header.has_bitmaps && !writer->data_begun)
		ret = bitmap_begin_growth(writer, size_bytes, growth);
	if (!ret && (!grows || !growth->possible))
		ret = writer_begin_data(writer);
	return ret;
}

int coroutine_fn image_resize(struct image *image, uint64_t virtual_size)
{
	struct writer *writer = image->writer;
	struct bitmap_growth growth = {.possible = true};
	int ret, end_ret;

	if (!writer)
		return -EROFS;
	/* Snapshots of version 2 do not record their size: it is the image's. */
	if (image->info.version < 3 && image->snapshots.nb)
		return -ENOTSUP;
	if (virtual_size > INT64_MAX - (2ull << CLUSTER_BITS_MAX))
		return -EFBIG;
	virtual_size = round_up(virtual_size, 512);
	co_rwlock_wrlock(&image->resize_lock);
	ret = begin(writer, virtual_size, &growth);
	if (!ret && virtual_size > image->virtual_size)
		ret = grow(writer, virtual_size);
	else if (!ret && virtual_size < image->virtual_size)
		ret = shrink(writer, virtual_size);
	end_ret = bitmap_end_growth(writer, &growth, !ret);
	ret = ret ? ret : end_ret;
	image->info.virtual_size = image->virtual_size;
	co_rwlock_unlock(&image->resize_lock);
	return ret;
}
