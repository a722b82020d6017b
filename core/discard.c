/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * discard: zeroing, discarding and preallocating guest ranges.
 *
 * Whole clusters (subclusters with extended L2) change in the L2 tables alone; what
 * they held is unlinked and freed after the next flush. Partial ones are written with
 * zeros. Where no entry can say "zero" (version 2 above a backing file) zeros are
 * written, too, so that a discard never uncovers the backing file. In an external data
 * file clusters stay where they are, and give their space back after the next flush. A raw one
 * really gets its zeros, at once: holes when the space is to be given back.
 */
#include "core/alloc.h"
#include "core/map.h"
#include "core/table.h"
#include "core/write.h"

#include <errno.h>

/* So many pieces of tables are looked at before others have their turn. */
#define STEPS_IN_A_ROW 256u

/* Would an unallocated cluster at guest_off show something other than zeros? */
static bool uncovers(const struct image *image, uint64_t guest_off)
{
	return image->backing && guest_off < image->backing->virtual_size;
}

/* Can L2 entries alone say that this range is zero? */
static bool entries_can_zero(const struct image *image, uint64_t guest_off, enum zero_mode mode)
{
	if (mode == ZERO_DROP)
		return true;
	if (has_raw_data_file(image))
		return false;
	if (image->info.version >= 3)
		return true;
	return mode == ZERO_FREE && !uncovers(image, guest_off);
}

/* Gives the space of an external data file's clusters back once the zeros are durable (I9). */
static void free_data_cluster(struct writer *writer, uint64_t guest_off)
{
	uint64_t index = guest_off >> writer->image->cluster_bits;

	run_list_append(&writer->unlinked,
			(struct cluster_run){.first = index, .nb = 1, .in_data_file = true});
}

/*
 * The entry that makes a whole cluster read as zeros. Sets *ret_unlink when what the old one
 * held is not pointed to any more.
 */
static struct l2_entry zeroed_entry(const struct image *image, uint64_t guest_off,
				    struct l2_entry old, enum zero_mode mode, bool *ret_unlink)
{
	bool compressed = old.entry & L2_COMPRESSED;
	/* A damaged entry of an external data file may point elsewhere: it is replaced. */
	bool in_place = !has_data_file(image) || (old.entry & L2_OFFSET_MASK) == guest_off;
	bool mine = !compressed && in_place && old.entry & ENTRY_COPIED;
	bool keep = mine && mode != ZERO_DROP && (mode == ZERO_KEEP || has_data_file(image));
	bool flag = keep || (mode != ZERO_DROP && uncovers(image, guest_off));
	struct l2_entry entry = {0};

	*ret_unlink = !keep;
	if (keep)
		entry.entry = old.entry & (L2_OFFSET_MASK | ENTRY_COPIED);
	if (flag && image->info.extended_l2)
		entry.bitmap = (uint64_t)UINT32_MAX << SUBCLUSTERS_PER_CLUSTER;
	else if (flag)
		entry.entry |= L2_ZERO;
	return entry;
}

/*
 * Zeroes whole clusters [guest_off, guest_off + nb_clusters clusters) within one slice.
 * *ret_nb tells how many. 0 or -errno.
 */
static int coroutine_fn zero_entries(struct writer *writer, uint64_t l2_off, uint64_t guest_off,
				     uint64_t nb_clusters, enum zero_mode mode, uint64_t *ret_nb)
{
	struct image *image = writer->image;
	struct l2_window window;
	int ret = table_open_window(writer, l2_off, guest_off, nb_clusters, &window);

	if (ret)
		return ret;
	ret = run_list_reserve(&writer->unlinked, window.nb);
	for (unsigned i = 0; i < window.nb && !ret; i++) {
		struct l2_entry old = table_get_entry(writer, &window, i);
		uint64_t off = guest_off + ((uint64_t)i << image->cluster_bits);
		bool unlink;
		struct l2_entry entry = zeroed_entry(image, off, old, mode, &unlink);

		if (entry.entry == old.entry && entry.bitmap == old.bitmap)
			continue;
		if (unlink)
			table_unlink(writer, old);
		else if (has_data_file(image) && mode == ZERO_FREE)
			free_data_cluster(writer, off);
		table_set_entry(writer, &window, i, entry);
	}
	*ret_nb = window.nb;
	table_close_window(writer, &window);
	return ret;
}

/* Zeroes subclusters [guest_off, end) of one cluster with a bitmap of its own. 0 or -errno;
 * -EOPNOTSUPP for a compressed cluster. */
static int coroutine_fn zero_subclusters(struct writer *writer, uint64_t l2_off, uint64_t guest_off,
					 uint64_t end)
{
	struct image *image = writer->image;
	unsigned first = (guest_off & (cluster_size(image) - 1)) >> image->subcluster_bits;
	uint64_t mask = ((1ull << ((end - guest_off) >> image->subcluster_bits)) - 1) << first;
	struct l2_window window;
	struct l2_entry entry;
	int ret = table_open_window(writer, l2_off, guest_off, 1, &window);

	if (ret)
		return ret;
	entry = table_get_entry(writer, &window, 0);
	if (entry.entry & L2_COMPRESSED) {
		ret = -EOPNOTSUPP;
	} else {
		entry.bitmap = (entry.bitmap & ~mask) | mask << SUBCLUSTERS_PER_CLUSTER;
		table_set_entry(writer, &window, 0, entry);
	}
	table_close_window(writer, &window);
	return ret;
}

/* Is there nothing to do for the L2 table at guest_off, because it is not there? */
static int coroutine_fn skip_missing_table(struct image *image, uint64_t guest_off, uint64_t end,
					   enum zero_mode mode, uint64_t *ret_end)
{
	struct extent extent;
	int ret = map_layer(image, guest_off, end - guest_off, &extent);

	*ret_end = guest_off;
	if (!ret && extent.kind == EXTENT_UNALLOCATED && !extent.has_host_off &&
	    (mode == ZERO_DROP || !uncovers(image, guest_off)))
		*ret_end = guest_off + extent.len_bytes;
	return ret;
}

/*
 * Zeroes [pos, end), aligned to units, by entries. The range is held in in_flight. *ret_pos
 * tells how far it got; -EOPNOTSUPP when zeros must be written there.
 */
static int coroutine_fn zero_by_entries(struct writer *writer, uint64_t pos, uint64_t end,
					enum zero_mode mode, uint64_t *ret_pos)
{
	struct image *image = writer->image;
	uint64_t size = cluster_size(image);
	unsigned nb_steps = 0;
	int ret = 0;

	while (pos < end && !ret) {
		uint64_t cluster_end = round_down(pos, size) + size, nb, l2_off, skip;

		if (++nb_steps % STEPS_IN_A_ROW == 0)
			co_give_way();
		ret = skip_missing_table(image, pos, end, mode, &skip);
		if (ret || skip > pos) {
			pos = skip;
			continue;
		}
		ret = table_make_writable(writer, pos, &l2_off);
		if (ret)
			break;
		if (pos % size || end < cluster_end) {
			ret = zero_subclusters(writer, l2_off, pos, min_u64(end, cluster_end));
			if (!ret)
				pos = min_u64(end, cluster_end);
		} else {
			ret = zero_entries(writer, l2_off, pos, (end - pos) / size, mode, &nb);
			if (!ret)
				pos += nb * size;
		}
	}
	*ret_pos = pos;
	return ret;
}

/*
 * Makes a part of [pos, end) zero in a raw external data file, and gives its space back: holes
 * read as zeros. It happens in place, as a write would. *ret_pos tells how far it got.
 */
static int coroutine_fn zero_raw_data(struct writer *writer, uint64_t pos, uint64_t end,
				      uint64_t *ret_pos)
{
	struct image *image = writer->image;
	struct extent extent;
	int ret = map_layer(image, pos, end - pos, &extent);

	if (ret)
		return ret;
	*ret_pos = pos + extent.len_bytes;
	if (extent.kind != EXTENT_DATA)
		return 0;
	if (!extent.copied)
		return write_zeros(writer, pos, extent.len_bytes);
	ret = file_zero_free(image->data_file, extent.host_off, extent.len_bytes, IO_TAG_DATA);
	writer_note_write(writer);
	return ret;
}

static int coroutine_fn zero_units(struct writer *writer, uint64_t pos, uint64_t end,
				   enum zero_mode mode)
{
	uint64_t size = cluster_size(writer->image);

	while (pos < end) {
		uint64_t start = round_down(pos, size);
		struct range_hold hold;
		int ret = -EOPNOTSUPP;

		if (entries_can_zero(writer->image, pos, mode)) {
			range_lock(&writer->in_flight, &hold, start, round_up(end, size) - start,
				   true); /* I8 */
			ret = zero_by_entries(writer, pos, end, mode, &pos);
			range_unlock(&writer->in_flight, &hold);
		}
		if (ret == -EOPNOTSUPP) {
			uint64_t stop = min_u64(end, round_down(pos, size) + size);

			if (has_raw_data_file(writer->image) && mode == ZERO_FREE)
				ret = zero_raw_data(writer, pos, end, &stop);
			else
				ret = write_zeros(writer, pos, stop - pos);
			pos = stop;
		}
		if (ret)
			return ret;
	}
	return 0;
}

int coroutine_fn zero_range(struct writer *writer, uint64_t guest_off, uint64_t len_bytes,
			    enum zero_mode mode)
{
	struct image *image = writer->image;
	uint64_t unit = 1ull << image->subcluster_bits;
	uint64_t end = guest_off + len_bytes, units_end = end;
	uint64_t units = min_u64(round_up(guest_off, unit), end);
	int ret;

	/* The disk's last cluster is whole even where the disk ends within it, but a raw data file
	 * ends there, too. */
	if (end != image->virtual_size)
		units_end = round_down(end, unit);
	else if (!has_raw_data_file(image))
		units_end = round_up(end, unit);
	if (units >= units_end)
		return write_zeros(writer, guest_off, len_bytes);
	ret = write_zeros(writer, guest_off, units - guest_off);
	if (!ret)
		ret = zero_units(writer, units, units_end, mode);
	if (!ret && units_end < end)
		ret = write_zeros(writer, units_end, end - units_end);
	return ret;
}

/* ---- preallocation ---- */

/* Points zero or unallocated clusters that read as zeros to host clusters of their own. */
static int coroutine_fn allocate_zero_clusters(struct writer *writer, uint64_t guest_off,
					       uint64_t nb_clusters, uint64_t *ret_nb)
{
	struct image *image = writer->image;
	unsigned bits = image->cluster_bits;
	struct l2_window window;
	uint64_t l2_off, host_off, nb;
	bool zero;
	int ret = table_make_writable(writer, guest_off, &l2_off);

	if (ret)
		return ret;
	ret = alloc_clusters(writer, 1, nb_clusters, &host_off, &nb, &zero); /* I1 */
	if (ret)
		return ret;
	*ret_nb = 0;
	while (*ret_nb < nb && !ret) {
		uint64_t off = guest_off + (*ret_nb << bits);

		ret = table_open_window(writer, l2_off, off, nb - *ret_nb, &window);
		for (unsigned i = 0; !ret && i < window.nb; i++, ++*ret_nb) {
			struct l2_entry entry = {.entry = (host_off + (*ret_nb << bits)) |
							  ENTRY_COPIED};

			if (image->info.extended_l2)
				entry.bitmap = (uint64_t)UINT32_MAX << SUBCLUSTERS_PER_CLUSTER;
			else
				entry.entry |= L2_ZERO;
			table_set_entry(writer, &window, i, entry);
		}
		if (!ret)
			table_close_window(writer, &window);
	}
	if (*ret_nb < nb)
		alloc_undo(writer, host_off + (*ret_nb << bits), nb - *ret_nb); /* I12 */
	if (!ret)
		ret = file_allocate(image->file, host_off, nb << bits);
	return ret == -EOPNOTSUPP ? 0 : ret;
}

/* Is the whole cluster at guest_off free of host clusters, reading as zeros? */
static int coroutine_fn is_plain_zero(struct image *image, uint64_t guest_off, uint64_t end,
				      uint64_t *ret_len_bytes)
{
	uint64_t pos = guest_off;
	struct extent extent;

	*ret_len_bytes = 0;
	while (pos < end) {
		int ret = map_layer(image, pos, end - pos, &extent);

		if (ret)
			return ret;
		if (extent.has_host_off || extent.kind == EXTENT_COMPRESSED ||
		    (extent.kind == EXTENT_UNALLOCATED && uncovers(image, pos)))
			break;
		pos += extent.len_bytes;
		/* Within one L2 table, so that one look at the table serves all. */
		if (map_l1_index(image, pos) != map_l1_index(image, guest_off))
			break;
	}
	*ret_len_bytes = round_down(pos - guest_off, cluster_size(image));
	return 0;
}

/*
 * Reserves host space where the clusters of an extent have their place already. A raw data file
 * becomes no longer than the disk by that.
 */
static int coroutine_fn reserve_space(struct image *image, const struct extent *extent,
				      uint64_t len_bytes)
{
	struct file *file = image->data_file;
	uint64_t end = max_u64(file->size_bytes, image->virtual_size);
	int ret = file_allocate(file, extent->host_off, len_bytes);

	if (!ret && has_raw_data_file(image) && file->size_bytes > end)
		ret = file_truncate(file, end);
	return ret == -EOPNOTSUPP ? 0 : ret;
}

/* One step of allocate_range() at the cluster-aligned pos. */
static int coroutine_fn allocate_step(struct writer *writer, uint64_t pos, uint64_t end,
				      uint64_t *ret_len_bytes)
{
	struct image *image = writer->image;
	uint64_t size = cluster_size(image), len_bytes, nb = 0;
	struct extent extent;
	int ret = map_layer(image, pos, end - pos, &extent);

	if (ret)
		return ret;
	if (extent.has_host_off && extent.copied) {
		*ret_len_bytes = max_u64(round_down(extent.len_bytes, size), size);
		/* The whole cluster's place, also where the first run of subclusters ends in it. */
		return reserve_space(image, &extent, *ret_len_bytes);
	}
	if (image->info.version >= 3 && !has_data_file(image)) {
		ret = is_plain_zero(image, pos, end, &len_bytes);
		if (ret)
			return ret;
		if (len_bytes) {
			ret = allocate_zero_clusters(writer, pos, len_bytes / size, &nb);
			*ret_len_bytes = nb * size;
			return ret;
		}
	}
	return write_copy_clusters(writer, pos, size, ret_len_bytes);
}

static int coroutine_fn allocate_range(struct writer *writer, uint64_t guest_off,
				       uint64_t len_bytes)
{
	uint64_t size = cluster_size(writer->image);
	uint64_t pos = round_down(guest_off, size), end = round_up(guest_off + len_bytes, size);
	struct range_hold hold;
	int ret = 0;

	range_lock(&writer->in_flight, &hold, pos, end - pos, true); /* I8 */
	while (pos < end && !ret) {
		uint64_t done = 0;

		ret = allocate_step(writer, pos, end, &done);
		pos += done;
	}
	range_unlock(&writer->in_flight, &hold);
	return ret;
}

/* ---- the public forms ---- */

enum range_op { OP_ZERO_KEEP, OP_ZERO_FREE, OP_ALLOCATE };

static int coroutine_fn range_op(struct image *image, uint64_t guest_off, uint64_t len_bytes,
				 enum range_op op)
{
	struct writer *writer = image->writer;
	struct io_record record;
	bool tried = false;
	int ret;

	if (!writer)
		return -EROFS;
	co_rwlock_rdlock(&image->resize_lock);
	if (guest_off > image->virtual_size || len_bytes > image->virtual_size - guest_off)
		ret = -ENOSPC;
	else
		ret = writer_begin_data(writer);
	if (!ret && len_bytes) {
		do {
			io_begin(image, &record);
			if (op == OP_ALLOCATE)
				ret = allocate_range(writer, guest_off, len_bytes);
			else
				ret = zero_range(writer, guest_off, len_bytes,
						 op == OP_ZERO_KEEP ? ZERO_KEEP : ZERO_FREE);
			io_end(image, &record);
		} while (writer_make_room(writer, ret, &tried));
	}
	co_rwlock_unlock(&image->resize_lock);
	return ret;
}

int coroutine_fn image_zero(struct image *image, uint64_t guest_off, uint64_t len_bytes,
			    bool keep_space)
{
	return range_op(image, guest_off, len_bytes, keep_space ? OP_ZERO_KEEP : OP_ZERO_FREE);
}

int coroutine_fn image_discard(struct image *image, uint64_t guest_off, uint64_t len_bytes)
{
	image->stats.nb_discards++;
	return range_op(image, guest_off, len_bytes, OP_ZERO_FREE);
}

int coroutine_fn image_allocate(struct image *image, uint64_t guest_off, uint64_t len_bytes)
{
	return range_op(image, guest_off, len_bytes, OP_ALLOCATE);
}
