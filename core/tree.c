/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * tree: see tree.h.
 */
#include "core/tree.h"

#include "core/alloc.h"
#include "core/flush.h"
#include "core/map.h"
#include "core/refcount.h"
#include "core/table.h"
#include "io/buf.h"

#include <errno.h>
#include <stdlib.h>

#define L1_STEP_BYTES (64u << 10)
#define UNLINKED_MAX 4096u /* runs in quarantine before a flush */

int coroutine_fn tree_settle(struct writer *writer)
{
	int ret;

	do {
		ret = flush_run(writer);
		writer_wait_idle(writer);
	} while (!ret && writer->unflushed);
	return ret;
}

/* ---- walking ---- */

/* Gets each run of host clusters that has one reference from the tree. 0 or -errno to stop. */
typedef int coroutine_fn visit_fn(struct writer *writer, void *ctx, uint64_t first, uint64_t nb);

struct walk {
	struct writer *writer;
	visit_fn *visit;
	void *ctx;
	uint8_t *l1, *l2;
	uint64_t first, nb; /* a run that is not visited yet */
};

static int coroutine_fn visit_run(struct walk *walk, uint64_t first, uint64_t nb)
{
	int ret = 0;

	if (walk->nb && nb && walk->first + walk->nb == first) {
		walk->nb += nb;
		return 0;
	}
	if (walk->nb)
		ret = walk->visit(walk->writer, walk->ctx, walk->first, walk->nb);
	walk->first = first;
	walk->nb = nb;
	return ret;
}

static int coroutine_fn walk_entry(struct walk *walk, uint64_t entry)
{
	struct image *image = walk->writer->image;
	uint64_t host_off = entry & L2_OFFSET_MASK, last;
	uint32_t len_bytes = 1;

	if (entry & L2_COMPRESSED)
		compress_decode_descriptor(image->cluster_bits, entry, &host_off, &len_bytes);
	else if (!host_off)
		return 0;
	else if (host_off & (cluster_size(image) - 1))
		return -EIO;
	last = (host_off + len_bytes - 1) >> image->cluster_bits;
	host_off >>= image->cluster_bits;
	return visit_run(walk, host_off, last - host_off + 1);
}

static int coroutine_fn walk_l2(struct walk *walk, uint64_t l1_entry)
{
	struct image *image = walk->writer->image;
	uint64_t l2_off = l1_entry & L1_OFFSET_MASK;
	int ret;

	if (!l2_off)
		return 0;
	if (l1_entry & L1_RESERVED_MASK || l2_off & (cluster_size(image) - 1))
		return -EIO;
	ret = file_read(image->file, l2_off, walk->l2, cluster_size(image), IO_TAG_L2);
	/* Data of an external file have no refcounts. */
	if (!has_data_file(image))
		for (uint64_t i = 0; i < 1ull << image->l2_bits && !ret; i++)
			ret = walk_entry(walk, be64_get(walk->l2 + i * image->l2_entry_bytes));
	return ret ? ret : visit_run(walk, l2_off >> image->cluster_bits, 1);
}

static int coroutine_fn walk_tree(struct writer *writer, uint64_t l1_off, uint32_t l1_size,
				  visit_fn *visit, void *ctx)
{
	struct image *image = writer->image;
	struct walk walk = {.writer = writer, .visit = visit, .ctx = ctx};
	uint64_t bytes = (uint64_t)l1_size * 8;
	int ret = 0;

	walk.l1 = buf_get(L1_STEP_BYTES);
	walk.l2 = buf_get(cluster_size(image));
	if (!walk.l1 || !walk.l2)
		ret = -ENOMEM;
	for (uint64_t done = 0; done < bytes && !ret; done += L1_STEP_BYTES) {
		uint64_t n = min_u64(bytes - done, L1_STEP_BYTES);

		ret = file_read(image->file, l1_off + done, walk.l1, n, IO_TAG_L1);
		for (uint64_t i = 0; i < n && !ret; i += 8)
			ret = walk_l2(&walk, be64_get(walk.l1 + i));
	}
	if (!ret)
		ret = visit_run(&walk, 0, 0);
	buf_put(walk.l1, L1_STEP_BYTES);
	buf_put(walk.l2, cluster_size(image));
	return ret;
}

/* ---- references ---- */

/* How many clusters have been raised, or are still to be lowered. */
struct raised {
	uint64_t nb;
};

static int coroutine_fn raise_run(struct writer *writer, void *ctx, uint64_t first, uint64_t nb)
{
	unsigned order = writer->image->header.refcount_order;
	uint64_t max = order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
	struct raised *raised = ctx;
	int ret = 0;

	co_mutex_lock(&writer->alloc_mutex);
	for (uint64_t c = first; c < first + nb && !ret; c++) {
		uint64_t value;

		ret = refcount_get(writer, c, &value);
		if (!ret && !value)
			ret = -EIO; /* in use, and free: the image contradicts itself */
		if (!ret && value == max)
			ret = -ERANGE;
		if (!ret)
			ret = refcount_set_run(writer, c, 1, value + 1);
		raised->nb += !ret;
	}
	co_mutex_unlock(&writer->alloc_mutex);
	return ret;
}

static int coroutine_fn lower_run(struct writer *writer, void *ctx, uint64_t first, uint64_t nb)
{
	struct raised *raised = ctx;
	int ret = 0;

	co_mutex_lock(&writer->alloc_mutex);
	for (uint64_t c = first; c < first + nb && raised->nb && !ret; c++, raised->nb--) {
		uint64_t value;

		ret = refcount_drop(writer, c, &value);
	}
	co_mutex_unlock(&writer->alloc_mutex);
	return ret ? ret : raised->nb ? 0 : -ECANCELED;
}

int coroutine_fn tree_add_references(struct writer *writer, uint64_t l1_off, uint32_t l1_size)
{
	struct raised raised = {0};
	int ret = walk_tree(writer, l1_off, l1_size, raise_run, &raised);

	if (ret && raised.nb)
		walk_tree(writer, l1_off, l1_size, lower_run, &raised);
	return ret;
}

void coroutine_fn tree_drop_references(struct writer *writer, uint64_t l1_off, uint32_t l1_size)
{
	struct raised raised = {.nb = UINT64_MAX};

	walk_tree(writer, l1_off, l1_size, lower_run, &raised);
}

static int coroutine_fn unlink_run(struct writer *writer, void *ctx, uint64_t first, uint64_t nb)
{
	int ret = run_list_reserve(&writer->unlinked, 1);

	if (ret)
		return ret;
	run_list_add(&writer->unlinked, first, nb); /* I4, I5 */
	writer_note_write(writer);
	return writer->unlinked.nb < UNLINKED_MAX ? 0 : flush_run(writer);
}

int coroutine_fn tree_unlink(struct writer *writer, uint64_t l1_off, uint32_t l1_size)
{
	struct image *image = writer->image;
	int ret = walk_tree(writer, l1_off, l1_size, unlink_run, NULL);

	if (ret || !l1_size)
		return ret;
	return unlink_run(writer, NULL, l1_off >> image->cluster_bits,
			  tree_table_clusters(image, (uint64_t)l1_size * 8));
}

/* ---- COPIED flags ---- */

static int coroutine_fn is_alone(struct writer *writer, uint64_t host_off, bool *ret_alone)
{
	uint64_t value = 0;
	int ret;

	co_mutex_lock(&writer->alloc_mutex);
	ret = refcount_get(writer, host_off >> writer->image->cluster_bits, &value);
	co_mutex_unlock(&writer->alloc_mutex);
	*ret_alone = value == 1;
	return ret;
}

/* Corrects up to `nb` entries from guest_off on. *ret_nb tells how many were looked at. */
static int coroutine_fn update_window(struct writer *writer, uint64_t l2_off, uint64_t guest_off,
				      uint64_t nb, struct l2_entry *entries, unsigned *ret_nb)
{
	struct l2_window window;
	bool changed = false;
	int ret = table_open_window(writer, l2_off, guest_off, nb, &window);

	if (ret)
		return ret;
	/* A pin is short: the refcounts are looked up without it. Nobody else changes entries. */
	for (unsigned i = 0; i < window.nb; i++)
		entries[i] = table_get_entry(writer, &window, i);
	*ret_nb = window.nb;
	table_close_window(writer, &window);
	for (unsigned i = 0; i < *ret_nb && !ret; i++) {
		uint64_t host_off = entries[i].entry & L2_OFFSET_MASK, old = entries[i].entry;
		bool alone = false;

		if (!(old & L2_COMPRESSED) && host_off)
			ret = is_alone(writer, host_off, &alone);
		entries[i].entry = (old & ~ENTRY_COPIED) | (alone ? ENTRY_COPIED : 0);
		changed |= entries[i].entry != old;
	}
	if (ret || !changed)
		return ret;
	ret = table_open_window(writer, l2_off, guest_off, nb, &window);
	if (ret)
		return ret;
	for (unsigned i = 0; i < window.nb; i++)
		table_set_entry(writer, &window, i, entries[i]);
	table_close_window(writer, &window);
	return 0;
}

static int coroutine_fn update_l2(struct writer *writer, uint64_t l2_off, uint64_t guest_off)
{
	struct image *image = writer->image;
	uint64_t nb_entries = 1ull << image->l2_bits;
	struct l2_entry *entries = buf_get(SLICE_BYTES * 2);
	unsigned nb = 0;
	int ret = entries ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < nb_entries && !ret; i += nb)
		ret = update_window(writer, l2_off, guest_off + (i << image->cluster_bits),
				    nb_entries - i, entries, &nb);
	buf_put(entries, SLICE_BYTES * 2);
	return ret;
}

static int coroutine_fn update_l1_entry(struct writer *writer, uint64_t index, bool alone)
{
	struct image *image = writer->image;
	uint64_t entry_off = image->l1_table_offset + index * 8, old, entry;
	uint64_t slice_off = round_down(entry_off, image->l2_cache.slice_bytes);
	struct slice *slice;
	int ret = cache_get(&image->l2_cache, slice_off, IO_TAG_L1, &slice);

	if (ret)
		return ret;
	old = be64_get(slice->data + (entry_off - slice_off));
	entry = (old & ~ENTRY_COPIED) | (alone ? ENTRY_COPIED : 0);
	if (entry != old) {
		be64_put(slice->data + (entry_off - slice_off), entry);
		writer_mark_dirty(writer, &image->l2_cache, slice);
	}
	cache_put(&image->l2_cache, slice);
	return 0;
}

int coroutine_fn tree_update_copied(struct writer *writer)
{
	struct image *image = writer->image;
	unsigned span_bits = image->cluster_bits + image->l2_bits;

	for (uint64_t i = 0; i < image->l1_size; i++) {
		bool copied, alone;
		uint64_t l2_off;
		int ret = map_read_l1(image, i << span_bits, &l2_off, &copied);

		if (!ret && l2_off)
			ret = is_alone(writer, l2_off, &alone);
		if (!ret && l2_off)
			ret = update_l1_entry(writer, i, alone);
		if (!ret && l2_off && !has_data_file(image))
			ret = update_l2(writer, l2_off, i << span_bits);
		if (ret)
			return ret;
	}
	return 0;
}

/* ---- L1 tables ---- */

/* Fills the table at new_off: old entries with the flags that are kept, then zeros. */
static int coroutine_fn fill_l1(struct image *image, uint64_t new_off, uint64_t new_bytes,
				uint64_t old_off, uint64_t old_bytes, uint64_t kept_flags)
{
	uint8_t *buf = buf_get(L1_STEP_BYTES);
	int ret = buf ? 0 : -ENOMEM;

	for (uint64_t done = 0; done < new_bytes && !ret; done += L1_STEP_BYTES) {
		uint64_t n = min_u64(new_bytes - done, L1_STEP_BYTES);
		uint64_t nb_old = done < old_bytes ? min_u64(n, old_bytes - done) : 0;

		memset(buf, 0, n);
		if (nb_old)
			ret = file_read(image->file, old_off + done, buf, nb_old, IO_TAG_L1);
		for (uint64_t i = 0; i < nb_old; i += 8)
			be64_put(buf + i, be64_get(buf + i) & (~ENTRY_COPIED | kept_flags));
		if (!ret)
			ret = file_write(image->file, new_off + done, buf, n, IO_TAG_L1);
	}
	buf_put(buf, L1_STEP_BYTES);
	return ret;
}

int coroutine_fn tree_copy_l1(struct writer *writer, uint64_t old_off, uint32_t old_size,
			      uint32_t l1_size, uint64_t kept_flags, uint64_t *ret_new_off)
{
	struct image *image = writer->image;
	uint64_t old_bytes = (uint64_t)old_size * 8;
	uint64_t nb_clusters = tree_table_clusters(image, (uint64_t)l1_size * 8);
	uint64_t bytes = nb_clusters << image->cluster_bits, nb;
	bool zero;
	int ret;

	*ret_new_off = 0;
	if (!nb_clusters)
		return 0;
	ret = alloc_clusters(writer, nb_clusters, nb_clusters, ret_new_off, &nb, &zero); /* I1 */
	if (ret)
		return ret;
	cache_forget(&image->l2_cache, *ret_new_off, bytes);
	ret = fill_l1(image, *ret_new_off, bytes, old_off, old_bytes, kept_flags); /* I2 */
	writer_note_write(writer);
	if (ret)
		alloc_undo(writer, *ret_new_off, nb_clusters); /* I12 */
	return ret;
}

int coroutine_fn tree_rebuild_owners(struct writer *writer)
{
	int ret;

	overlap_finish(&writer->overlap);
	ret = overlap_build(&writer->overlap, writer->image);
	if (ret) /* nothing may be written without knowing what is where */
		writer->failed = ret;
	return ret;
}

int coroutine_fn tree_replace_active(struct writer *writer, uint64_t l1_off, uint32_t l1_size,
				     uint64_t size_bytes)
{
	struct image *image = writer->image;
	struct header_change change = header_change_none(&image->header);
	uint64_t old_off = image->l1_table_offset, old_size = image->l1_size;
	int ret;

	change.l1_table_offset = l1_off;
	change.l1_size = l1_size;
	change.size = size_bytes;
	ret = flush_switch_header(writer, &change); /* I2 */
	if (ret)
		return ret;
	published_take_back(image, 0, UINT64_MAX); /* P2 */
	image->l1_table_offset = l1_off;
	image->l1_size = l1_size;
	image->virtual_size = image->info.virtual_size = size_bytes;
	if (old_size)
		cache_forget(&image->l2_cache, round_down(old_off, image->l2_cache.slice_bytes),
			     round_up(old_size * 8, cluster_size(image)));
	inflate_cache_trim(&image->inflate);
	ret = tree_rebuild_owners(writer);
	if (!ret)
		ret = tree_unlink(writer, old_off, old_size);
	if (!ret)
		ret = tree_settle(writer);
	if (!ret)
		ret = tree_update_copied(writer);
	return ret ? ret : tree_settle(writer);
}
