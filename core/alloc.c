/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * alloc: see alloc.h.
 *
 * Where clusters come from, in this order: what was freed since opening (free_runs),
 * what a scan of the refcounts finds (it goes on where it stopped and looks at a bounded
 * number of slices per call), and the end of the file (tail). So that no allocation
 * scans the whole table, however fragmented the image is. What ahead.h keeps goes first. A block
 * device has no end to go on at: there the scan looks at everything. When it has found nothing, it
 * begins again where something is freed, not from the start.
 *
 * A range without a refcount block gets one from its first cluster, which describes
 * itself; beyond the refcount table's end a larger table is written next to the blocks
 * that it needs, and the header switches to it.
 */
#include "core/alloc.h"

#include "core/ahead.h"
#include "core/flush.h"
#include "core/refcount.h"
#include "io/buf.h"

#include <errno.h>

#define FREE_RUNS_MAX 4096u
#define FREE_RUNS_LOOK 16u  /* of them looked at per allocation */
#define SCAN_SLICES_MAX 64u /* looked at per allocation */

int coroutine_fn alloc_zero_cluster(struct writer *writer, uint64_t host_off, enum io_tag tag)
{
	int ret = file_zero(writer->image->file, host_off, cluster_size(writer->image), tag);

	if (!ret)
		writer_note_write(writer);
	return ret;
}

static bool is_on_device(const struct writer *writer)
{
	return writer->image->file->is_block_device;
}

/* Clusters that there can be: a file grows up to the largest host offset, a device does not. */
static uint64_t nb_host_clusters(const struct writer *writer)
{
	uint64_t end = is_on_device(writer) ? writer->image->file->size_bytes : HOST_OFF_MAX;

	return min_u64(end, HOST_OFF_MAX) >> writer->image->cluster_bits;
}

static int nothing_left(const struct writer *writer)
{
	return is_on_device(writer) ? -ENOSPC : -EFBIG;
}

/* Metadata at a place whose refcount is 0: the image contradicts itself. */
static int coroutine_fn check_unowned(struct writer *writer, uint64_t first, uint64_t nb)
{
	unsigned bits = writer->image->cluster_bits;
	uint64_t end = nb_host_clusters(writer);

	if (nb > end || first > end - nb)
		return nothing_left(writer);
	if (overlap_hits(&writer->overlap, first << bits, nb << bits))
		return writer_mark_corrupt(writer);
	return 0;
}

/*
 * Something will be written below `end`, a cluster. To be said before the write begins: a flush
 * that extends the file meanwhile ends it at zero_from.
 */
static void use_up_to(struct writer *writer, uint64_t end)
{
	writer->zero_from = max_u64(writer->zero_from, end << writer->image->cluster_bits);
}

/* ---- growing the refcount structures ---- */

/* The new refcount table and the new blocks that describe it and themselves. */
struct new_table {
	uint64_t first; /* cluster: blocks first, then the table */
	uint64_t nb_blocks;
	uint64_t nb_clusters; /* of the table */
	uint64_t first_block; /* index in the table of the first new block */
};

static uint64_t new_table_end(const struct new_table *t)
{
	return t->first + t->nb_blocks + t->nb_clusters;
}

/* Sizes depend on one another: repeated until they are stable. */
static int plan_table(const struct writer *writer, uint64_t cluster, struct new_table *t)
{
	uint64_t old_clusters = writer->image->header.refcount_table_clusters;
	uint64_t size = cluster_size(writer->image);
	uint64_t before;

	*t = (struct new_table){
		.first = cluster,
		.nb_blocks = 1,
		.nb_clusters = old_clusters + (old_clusters + 1) / 2,
		.first_block = cluster >> writer->refblock_bits,
	};
	do {
		uint64_t last_block = (new_table_end(t) - 1) >> writer->refblock_bits;

		before = t->nb_blocks + t->nb_clusters;
		t->nb_blocks = last_block - t->first_block + 1;
		t->nb_clusters = max_u64(t->nb_clusters, div_up((last_block + 1) * 8, size));
	} while (t->nb_blocks + t->nb_clusters != before);
	if (t->nb_clusters * size > REFTABLE_BYTES_MAX) {
		uint64_t last_block = (new_table_end(t) - 1) >> writer->refblock_bits;

		t->nb_clusters = REFTABLE_BYTES_MAX / size;
		if (t->nb_clusters * size / 8 <= last_block)
			return -EFBIG;
	}
	return 0;
}

static int coroutine_fn write_new_blocks(struct writer *writer, const struct new_table *t,
					 uint8_t *buf)
{
	unsigned order = writer->image->header.refcount_order;
	unsigned bits = writer->image->cluster_bits;

	use_up_to(writer, t->first + t->nb_blocks);
	for (uint64_t i = 0; i < t->nb_blocks; i++) {
		uint64_t base = (t->first_block + i) << writer->refblock_bits;
		uint64_t end = min_u64(new_table_end(t), base + (1ull << writer->refblock_bits));
		int ret;

		memset(buf, 0, 1ull << bits);
		for (uint64_t c = max_u64(t->first, base); c < end; c++)
			refcount_encode(buf, c - base, order, 1);
		ret = file_write(writer->image->file, (t->first + i) << bits, buf, 1ull << bits,
				 IO_TAG_REFBLOCK);
		if (ret)
			return ret;
	}
	return 0;
}

/* The new table: what the old one says now, and the new blocks. */
static int coroutine_fn write_new_table(struct writer *writer, const struct new_table *t,
					uint8_t *buf)
{
	unsigned bits = writer->image->cluster_bits;
	uint64_t per_cluster = (1ull << bits) / 8;

	use_up_to(writer, new_table_end(t));
	for (uint64_t i = 0; i < t->nb_clusters; i++) {
		int ret;

		memset(buf, 0, 1ull << bits);
		for (uint64_t j = 0; j < per_cluster; j++) {
			uint64_t index = i * per_cluster + j, block_off = 0;

			if (index >= t->first_block && index < t->first_block + t->nb_blocks) {
				block_off = (t->first + index - t->first_block) << bits;
			} else if (index < refcount_table_entries(writer)) {
				ret = refcount_table_get(writer, index, &block_off);
				if (ret)
					return ret;
			}
			be64_put(buf + j * 8, block_off);
		}
		ret = file_write(writer->image->file, (t->first + t->nb_blocks + i) << bits, buf,
				 1ull << bits, IO_TAG_REFTABLE);
		if (ret)
			return ret;
	}
	return 0;
}

/* Frees the table that the header does not point to any more, durably so. */
static void coroutine_fn free_old_table(struct writer *writer, uint64_t old_off, uint64_t old_nb)
{
	unsigned bits = writer->image->cluster_bits;

	overlap_remove(&writer->overlap, old_off, old_nb << bits);
	for (uint64_t i = 0; i < old_nb; i++) {
		uint64_t value;

		/* I4, I5: the switch is durable. A failure here leaks one cluster. */
		if (!refcount_drop(writer, (old_off >> bits) + i, &value) && !value)
			alloc_remember_free(writer, (old_off >> bits) + i, 1);
	}
}

/* Gives `cluster`, beyond the refcount table's reach, a refcount block. */
static int coroutine_fn grow_table(struct writer *writer, uint64_t cluster)
{
	struct image *image = writer->image;
	unsigned bits = image->cluster_bits;
	uint64_t old_off = image->header.refcount_table_offset;
	uint64_t old_nb = image->header.refcount_table_clusters;
	struct new_table t;
	uint8_t *buf;
	int ret = plan_table(writer, cluster, &t);

	if (!ret)
		ret = check_unowned(writer, t.first, t.nb_blocks + t.nb_clusters);
	if (ret)
		return ret;
	buf = buf_get(1ull << bits);
	if (!buf)
		return -ENOMEM;
	ret = overlap_add(&writer->overlap, t.first << bits, (t.nb_blocks + t.nb_clusters) << bits);
	if (!ret)
		ret = write_new_blocks(writer, &t, buf);
	if (!ret)
		ret = write_new_table(writer, &t, buf);
	buf_put(buf, 1ull << bits);
	if (!ret)
		ret = flush_switch_reftable(writer, (t.first + t.nb_blocks) << bits, t.nb_clusters);
	if (ret) {
		overlap_remove(&writer->overlap, t.first << bits,
			       (t.nb_blocks + t.nb_clusters) << bits);
		return ret;
	}
	cache_forget(&writer->ref_cache, old_off, old_nb << bits);
	free_old_table(writer, old_off, old_nb);
	return 0;
}

/* Makes `cluster`, whose range has no refcount block, that block. */
static int coroutine_fn add_block(struct writer *writer, uint64_t cluster)
{
	struct image *image = writer->image;
	uint64_t host_off = cluster << image->cluster_bits;
	uint64_t per_slice = refcount_per_slice(writer);
	uint64_t in_block = cluster & ((1ull << writer->refblock_bits) - 1);
	struct slice *slice;
	int ret;

	if (cluster >> writer->refblock_bits >= refcount_table_entries(writer))
		return grow_table(writer, cluster);
	ret = check_unowned(writer, cluster, 1);
	if (ret)
		return ret;
	use_up_to(writer, cluster + 1);
	ret = alloc_zero_cluster(writer, host_off, IO_TAG_REFBLOCK);
	if (!ret)
		ret = overlap_add(&writer->overlap, host_off, 1);
	if (ret)
		return ret;
	/* Its own refcount first: a flush between the two steps must not see a block without. I1 */
	ret = cache_get(&writer->ref_cache,
			host_off + in_block / per_slice * writer->ref_cache.slice_bytes,
			IO_TAG_REFBLOCK, &slice);
	if (!ret) {
		refcount_encode(slice->data, in_block % per_slice, image->header.refcount_order, 1);
		writer_mark_dirty(writer, &writer->ref_cache, slice);
		cache_put(&writer->ref_cache, slice);
		ret = refcount_table_set(writer, cluster >> writer->refblock_bits, host_off);
	}
	if (ret)
		overlap_remove(&writer->overlap, host_off, 1);
	return ret;
}

/* ---- finding ---- */

struct search {
	uint64_t nb_min, nb_max;
	uint64_t first, nb; /* the run found so far */
	uint64_t nb_passed; /* in the longest run that was too short */
};

/* The run that ends here is too short. */
static void pass_by(struct search *s)
{
	s->nb_passed = max_u64(s->nb_passed, s->nb);
	s->nb = 0;
}

/* Looks through one slice from `cluster` on; true when the run is complete. */
static bool search_slice(struct search *s, const uint8_t *data, unsigned order, uint64_t base,
			 uint64_t cluster, uint64_t end)
{
	for (; cluster < end; cluster++) {
		if (refcount_decode(data, cluster - base, order)) {
			if (s->nb >= s->nb_min)
				return true;
			pass_by(s);
			continue;
		}
		if (!s->nb)
			s->first = cluster;
		if (++s->nb == s->nb_max)
			return true;
	}
	return false;
}

/*
 * Searches from *cursor up to `limit`, through at most nb_slices. *cursor gets the
 * place to go on. Returns 1 when found, 0 when not, or -errno.
 */
static int coroutine_fn search_range(struct writer *writer, struct search *s, uint64_t *cursor,
				     uint64_t limit, unsigned nb_slices)
{
	uint64_t cluster = *cursor;
	int ret = 0;

	s->nb = 0;
	while (cluster < limit && nb_slices--) {
		struct slice *slice;
		uint64_t base, end;
		bool complete;

		ret = refcount_get_slice(writer, cluster, &slice, &base);
		if (ret)
			break;
		if (!slice) {
			if (s->nb >= s->nb_min)
				break;
			pass_by(s);
			ret = add_block(writer, cluster);
			if (ret)
				break;
			continue;
		}
		end = min_u64(base + refcount_per_slice(writer), limit);
		complete = search_slice(s, slice->data, writer->image->header.refcount_order, base,
					cluster, end);
		cache_put(&writer->ref_cache, slice);
		cluster = end;
		if (complete)
			break;
	}
	if (!ret && s->nb >= s->nb_min) {
		*cursor = s->first + s->nb;
		return 1;
	}
	/* A run that is too short yet begins anew where it began; what failed is tried again there.
	 */
	*cursor = s->nb ? s->first : cluster;
	return ret;
}

/* Takes from what was freed. Returns 1 when found, 0 when not, or -errno. */
static int coroutine_fn search_freed(struct writer *writer, struct search *s)
{
	struct run_list *list = &writer->free_runs;
	size_t look = list->nb < FREE_RUNS_LOOK ? list->nb : FREE_RUNS_LOOK;

	for (size_t i = 0; i < look && i < list->nb; i++) {
		struct cluster_run *run = &list->runs[list->nb - 1 - i];
		struct cluster_run taken = *run;
		uint64_t value, nb_free = 0, left = 0;

		if (taken.nb < s->nb_min)
			continue;
		taken.nb = min_u64(taken.nb, s->nb_max);
		run->first += taken.nb;
		run->nb -= taken.nb;
		if (!run->nb)
			*run = list->runs[--list->nb];
		/* The scan may have come by and taken them already, or a part of them. */
		for (uint64_t c = taken.first; c < taken.first + taken.nb; c++) {
			int ret = refcount_get(writer, c, &value);

			if (ret) {
				alloc_scan_again(writer, taken.first);
				return ret;
			}
			if (!value && !nb_free++)
				left = c;
		}
		if (nb_free == taken.nb) {
			s->first = taken.first;
			s->nb = taken.nb;
			return 1;
		}
		if (nb_free)
			alloc_scan_again(writer, left); /* it finds them */
	}
	return 0;
}

/*
 * Looks for one cluster, or for several in a row: what is too short for these is left to others.
 * Each goes on where the last one stopped, so that nothing is looked at again in vain.
 */
static int coroutine_fn scan_up_to(struct writer *writer, struct search *s, uint64_t limit,
				   unsigned nb_slices)
{
	int ret;

	if (s->nb_min == 1)
		return search_range(writer, s, &writer->scan, limit, nb_slices);
	if (s->nb_min < writer->nb_in_row)
		writer->scan_rows = writer->nb_in_row = 0; /* short ones will do */
	s->nb_passed = 0;
	ret = search_range(writer, s, &writer->scan_rows, limit, nb_slices);
	writer->nb_in_row = max_u64(writer->nb_in_row, s->nb_passed + 1);
	return ret;
}

static int coroutine_fn search(struct writer *writer, struct search *s)
{
	uint64_t end = nb_host_clusters(writer);
	int ret = search_freed(writer, s);

	if (!ret && is_on_device(writer))
		ret = scan_up_to(writer, s, end, UINT32_MAX);
	else if (!ret)
		ret = scan_up_to(writer, s, writer->tail, SCAN_SLICES_MAX);
	if (!ret && !is_on_device(writer))
		ret = search_range(writer, s, &writer->tail, end, UINT32_MAX);
	if (!ret)
		return nothing_left(writer);
	return ret < 0 ? ret : 0;
}

/*
 * An area of `nb` clusters that is longer than what one refcount block describes: beyond the tail
 * (a device has none), where no block is yet, with its blocks in front. Their refcounts are 1 when
 * this returns.
 */
static int coroutine_fn take_area(struct writer *writer, uint64_t nb, struct search *s)
{
	unsigned bits = writer->image->cluster_bits;
	struct new_table t = {
		.first_block = is_on_device(writer)
				       ? 0
				       : div_up(writer->tail, 1ull << writer->refblock_bits),
		.nb_blocks = 1,
		.nb_clusters = nb,
	};
	uint64_t block_off, i = 0;
	uint8_t *buf;
	int ret = 0;

	while (!ret && i < t.nb_blocks) {
		t.first = t.first_block << writer->refblock_bits;
		t.nb_blocks =
			((new_table_end(&t) - 1) >> writer->refblock_bits) - t.first_block + 1;
		if (t.first_block + t.nb_blocks > refcount_table_entries(writer)) {
			ret = grow_table(writer, refcount_table_entries(writer)
							 << writer->refblock_bits);
			i = 0;
			continue;
		}
		ret = refcount_table_get(writer, t.first_block + i, &block_off);
		i++;
		if (!ret && block_off) {
			t.first_block += i;
			i = 0;
		}
	}
	if (!ret)
		ret = check_unowned(writer, t.first, t.nb_blocks + nb);
	if (ret)
		return ret;
	buf = buf_get(1ull << bits);
	if (!buf)
		return -ENOMEM;
	ret = write_new_blocks(writer, &t, buf); /* I2: before the table names them */
	buf_put(buf, 1ull << bits);
	if (!ret)
		ret = overlap_add(&writer->overlap, t.first << bits, t.nb_blocks << bits);
	for (i = 0; i < t.nb_blocks && !ret; i++)
		ret = refcount_table_set(writer, t.first_block + i, (t.first + i) << bits);
	s->first = t.first + t.nb_blocks;
	s->nb = nb;
	writer->tail = s->first + nb;
	return ret;
}

/* Finds clusters and makes their refcounts 1. */
static int coroutine_fn take(struct writer *writer, struct search *s)
{
	uint64_t nb_max = s->nb_max;
	int ret;

	if (s->nb_min >= 1ull << writer->refblock_bits)
		return take_area(writer, s->nb_min, s);
	s->nb = ahead_take(writer, s->nb_min, nb_max, &s->first);
	if (s->nb)
		return 0;
	s->nb_max += ahead_wanted(writer);
	ret = search(writer, s);
	if (!ret)
		ret = check_unowned(writer, s->first, s->nb);
	if (!ret) {
		ret = refcount_set_run(writer, s->first, s->nb, 1);
		if (ret)
			refcount_set_run(writer, s->first, s->nb, 0);
	}
	if (!ret && s->nb > nb_max) {
		ahead_keep(writer, s->first + nb_max, s->nb - nb_max);
		s->nb = nb_max;
	}
	return ret;
}

int coroutine_fn alloc_clusters(struct writer *writer, uint64_t nb_min, uint64_t nb_max,
				uint64_t *ret_host_off, uint64_t *ret_nb, bool *ret_zero)
{
	unsigned bits = writer->image->cluster_bits;
	struct search s = {.nb_min = nb_min, .nb_max = nb_max};
	int ret;

	co_mutex_lock(&writer->alloc_mutex);
	ret = take(writer, &s);
	if (!ret) {
		*ret_host_off = s.first << bits;
		*ret_nb = s.nb;
		*ret_zero = *ret_host_off >= writer->zero_from;
		use_up_to(writer, s.first + s.nb);
		writer->image->stats.nb_allocated_clusters += s.nb;
		writer->ahead.nb_needed += s.nb;
	}
	co_mutex_unlock(&writer->alloc_mutex);
	return ret;
}

/* ---- giving back ---- */

/* What is free now at `first` may complete a row that begins below. */
static void scan_rows_again(struct writer *writer, uint64_t first)
{
	uint64_t nb = min_u64(writer->nb_in_row, first + 1);

	writer->scan_rows = min_u64(writer->scan_rows, first + 1 - nb);
}

void alloc_scan_again(struct writer *writer, uint64_t first)
{
	writer->scan = min_u64(writer->scan, first);
	scan_rows_again(writer, first);
}

void alloc_remember_free(struct writer *writer, uint64_t first, uint64_t nb)
{
	struct run_list *list = &writer->free_runs;

	writer->image->stats.nb_freed_clusters += nb;
	if (list->nb >= FREE_RUNS_MAX || run_list_reserve(list, 1))
		writer->scan = min_u64(writer->scan, first); /* the scan will find them */
	else
		run_list_add(list, first, nb);
	scan_rows_again(writer, first);
}

void coroutine_fn alloc_undo(struct writer *writer, uint64_t host_off, uint64_t nb)
{
	uint64_t first = host_off >> writer->image->cluster_bits;

	if (!nb)
		return;
	co_mutex_lock(&writer->alloc_mutex);
	if (!refcount_set_run(writer, first, nb, 0))
		alloc_remember_free(writer, first, nb);
	co_mutex_unlock(&writer->alloc_mutex);
}
