/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * table: see table.h. New tables are written completely before the L1 entry changes in
 * the cache; the flush stores L1 entries last (I2).
 */
#include "core/table.h"

#include "core/alloc.h"
#include "core/map.h"
#include "io/buf.h"

#include <errno.h>

/* Fills the new table at new_off with zeros, or with what old_off holds. */
static int coroutine_fn write_table(struct writer *writer, uint64_t new_off, uint64_t old_off)
{
	struct image *image = writer->image;
	size_t len_bytes = cluster_size(image);
	uint8_t *buf;
	int ret;

	if (!old_off)
		return alloc_zero_cluster(writer, new_off, IO_TAG_L2);
	buf = buf_get(len_bytes);
	if (!buf)
		return -ENOMEM;
	/* A shared table is never changed in place: the file is up to date. */
	ret = file_read(image->file, old_off, buf, len_bytes, IO_TAG_L2);
	if (!ret)
		ret = file_write(image->file, new_off, buf, len_bytes, IO_TAG_L2);
	buf_put(buf, len_bytes);
	return ret;
}

/* Points the L1 entry to the new table. */
static int coroutine_fn set_l1_entry(struct writer *writer, uint64_t guest_off, uint64_t new_off,
				     uint64_t old_off)
{
	struct image *image = writer->image;
	uint64_t entry_off = image->l1_table_offset + map_l1_index(image, guest_off) * 8;
	uint64_t slice_off = round_down(entry_off, image->l2_cache.slice_bytes);
	struct slice *slice;
	int ret = cache_get(&image->l2_cache, slice_off, IO_TAG_L1, &slice);

	if (ret)
		return ret;
	ret = run_list_reserve(&writer->unlinked, 1);
	if (!ret) {
		be64_put(slice->data + (entry_off - slice_off), new_off | ENTRY_COPIED); /* I7 */
		writer_mark_dirty(writer, &image->l2_cache, slice);
		if (old_off) /* I4 */
			run_list_add(&writer->unlinked, old_off >> image->cluster_bits, 1);
	}
	cache_put(&image->l2_cache, slice);
	return ret;
}

static int coroutine_fn replace_table(struct writer *writer, uint64_t guest_off, uint64_t old_off,
				      uint64_t *ret_l2_off)
{
	struct image *image = writer->image;
	uint64_t new_off, nb;
	bool zero;
	int ret = alloc_clusters(writer, 1, 1, &new_off, &nb, &zero); /* I1 */

	if (ret)
		return ret;
	cache_forget(&image->l2_cache, new_off, cluster_size(image));
	ret = write_table(writer, new_off, old_off); /* I2 */
	if (!ret)
		ret = overlap_add(&writer->overlap, new_off, 1);
	if (!ret) {
		ret = set_l1_entry(writer, guest_off, new_off, old_off);
		if (ret)
			overlap_remove(&writer->overlap, new_off, 1);
	}
	if (ret)
		alloc_undo(writer, new_off, 1); /* I12 */
	else
		*ret_l2_off = new_off;
	return ret;
}

int coroutine_fn table_make_writable(struct writer *writer, uint64_t guest_off,
				     uint64_t *ret_l2_off)
{
	bool copied;
	int ret = map_read_l1(writer->image, guest_off, ret_l2_off, &copied);

	if (ret || (*ret_l2_off && copied))
		return ret;
	co_mutex_lock(&writer->table_mutex);
	ret = map_read_l1(writer->image, guest_off, ret_l2_off, &copied);
	if (!ret && !(*ret_l2_off && copied))
		ret = replace_table(writer, guest_off, *ret_l2_off, ret_l2_off);
	co_mutex_unlock(&writer->table_mutex);
	return ret;
}

int coroutine_fn table_open_window(struct writer *writer, uint64_t l2_off, uint64_t guest_off,
				   uint64_t nb_max, struct l2_window *ret_window)
{
	struct image *image = writer->image;
	uint64_t entry_off = l2_off + map_l2_index(image, guest_off) * image->l2_entry_bytes;
	uint64_t slice_off = round_down(entry_off, image->l2_cache.slice_bytes);
	uint64_t left =
		(slice_off + image->l2_cache.slice_bytes - entry_off) / image->l2_entry_bytes;
	int ret = cache_get(&image->l2_cache, slice_off, IO_TAG_L2, &ret_window->slice);

	if (ret)
		return ret;
	ret_window->first = ret_window->slice->data + (entry_off - slice_off);
	ret_window->first_cluster = guest_off >> image->cluster_bits;
	ret_window->nb = min_u64(left, nb_max);
	return 0;
}

void table_close_window(struct writer *writer, struct l2_window *window)
{
	cache_put(&writer->image->l2_cache, window->slice);
}

struct l2_entry table_get_entry(const struct writer *writer, const struct l2_window *window,
				unsigned index)
{
	const uint8_t *p = window->first + (size_t)index * writer->image->l2_entry_bytes;
	bool extended = writer->image->info.extended_l2;

	return (struct l2_entry){.entry = be64_get(p), .bitmap = extended ? be64_get(p + 8) : 0};
}

void table_set_entry(struct writer *writer, struct l2_window *window, unsigned index,
		     struct l2_entry entry)
{
	uint8_t *p = window->first + (size_t)index * writer->image->l2_entry_bytes;

	published_take_back(writer->image, window->first_cluster + index, 1); /* P2 */
	be64_put(p, entry.entry);
	if (writer->image->info.extended_l2)
		be64_put(p + 8, entry.bitmap);
	writer_mark_dirty(writer, &writer->image->l2_cache, window->slice);
}

void table_unlink(struct writer *writer, struct l2_entry old)
{
	struct image *image = writer->image;
	uint64_t host_off = old.entry & L2_OFFSET_MASK;
	uint64_t first, last;
	uint32_t len_bytes = 1;

	if (has_data_file(image))
		return; /* data clusters of an external file have no refcounts */
	if (old.entry & L2_COMPRESSED) {
		compress_decode_descriptor(image->cluster_bits, old.entry, &host_off, &len_bytes);
		inflate_cache_forget(&image->inflate, old.entry & ~(ENTRY_COPIED | L2_COMPRESSED));
	} else if (!host_off) {
		return;
	}
	first = host_off >> image->cluster_bits;
	last = (host_off + len_bytes - 1) >> image->cluster_bits;
	run_list_add(&writer->unlinked, first, last - first + 1); /* I4, I5 */
}
