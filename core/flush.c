/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * flush: rounds of write-back (see flush.h and the rules in writer.h).
 *
 * A round copies every dirty slice at one instant, without yielding: at that instant
 * each L2 entry in the cache points to data whose write has completed (I3) and whose refcount is
 * raised in the cache (I1). Then it stores the copies: refcount blocks, barrier, refcount
 * table, barrier, L2, barrier, L1, barrier; steps with nothing to store are left out.
 * What changes meanwhile belongs to the next round. If anything fails, all slices are
 * dirty again and the round's unlinked clusters stay in quarantine.
 */
#include "core/flush.h"

#include "core/release.h"
#include "io/buf.h"

#include <errno.h>
#include <stdlib.h>

#define STORE_BYTES_MAX (256u << 10) /* per write */
#define STORES_IN_FLIGHT 8u

/* Copies of the dirty slices of one kind, in the order of their host offsets. */
struct store_set {
	struct cache *cache;
	enum io_tag tag;
	struct slice **slices;
	uint8_t **copies; /* buffers of STORE_BYTES_MAX, filled with slices one by one */
	size_t nb, nb_copies;
};

static size_t slices_per_copy(const struct store_set *set)
{
	return STORE_BYTES_MAX / set->cache->slice_bytes;
}

static uint8_t *copy_of(const struct store_set *set, size_t i)
{
	size_t per = slices_per_copy(set);

	return set->copies[i / per] + i % per * set->cache->slice_bytes;
}

static int compare_slices(const void *a, const void *b)
{
	const struct slice *x = *(struct slice *const *)a, *y = *(struct slice *const *)b;

	return x->host_off < y->host_off ? -1 : x->host_off > y->host_off;
}

static void set_free(struct store_set *set)
{
	for (size_t i = 0; i < set->nb_copies; i++)
		buf_put(set->copies[i], STORE_BYTES_MAX);
	free(set->copies);
	free(set->slices);
}

/* Memory for all dirty slices of the kind; nothing is taken yet. 0 or -ENOMEM. */
static int set_prepare(struct store_set *set, struct cache *cache, enum io_tag tag)
{
	size_t nb = 0, nb_copies;

	*set = (struct store_set){.cache = cache, .tag = tag};
	for (struct slice *slice = cache->dirty[tag]; slice; slice = slice->dirty_next)
		nb++;
	if (!nb)
		return 0;
	nb_copies = div_up(nb, slices_per_copy(set));
	set->slices = calloc(nb, sizeof(*set->slices));
	set->copies = calloc(nb_copies, sizeof(*set->copies));
	if (!set->slices || !set->copies)
		return -ENOMEM;
	for (; set->nb_copies < nb_copies; set->nb_copies++) {
		set->copies[set->nb_copies] = buf_get(STORE_BYTES_MAX);
		if (!set->copies[set->nb_copies])
			return -ENOMEM;
	}
	return 0;
}

/* Takes the copies. From here on the slices count as clean. */
static void set_take(struct store_set *set)
{
	struct slice *slice;

	for (slice = set->cache->dirty[set->tag]; slice; slice = slice->dirty_next)
		set->slices[set->nb++] = slice;
	if (set->nb)
		qsort(set->slices, set->nb, sizeof(*set->slices), compare_slices);
	for (size_t i = 0; i < set->nb; i++) {
		memcpy(copy_of(set, i), set->slices[i]->data, set->cache->slice_bytes);
		cache_begin_store(set->cache, set->slices[i]);
	}
}

/* The round is over; when it failed, what it took is dirty again. */
static void set_settle(struct store_set *set, bool failed)
{
	for (size_t i = 0; i < set->nb; i++) {
		cache_end_store(set->cache, set->slices[i]);
		if (failed)
			cache_mark_dirty(set->cache, set->slices[i]);
	}
}

/* How many slices from the i-th on lie next to one another, in the file and in the copy. */
static size_t contiguous(const struct store_set *set, size_t i)
{
	size_t per = slices_per_copy(set), n = 1;

	while (i + n < set->nb && (i + n) % per &&
	       set->slices[i + n]->host_off ==
		       set->slices[i + n - 1]->host_off + set->cache->slice_bytes)
		n++;
	return n;
}

/* Writes all copies, several at once. 0 or the first -errno. */
static int coroutine_fn set_store(struct store_set *set)
{
	struct file_io io[STORES_IN_FLIGHT];
	struct iovec iov[STORES_IN_FLIGHT];
	int result = 0;

	for (size_t i = 0; i < set->nb && !result;) {
		unsigned nb_io = 0;

		for (; i < set->nb && nb_io < STORES_IN_FLIGHT; nb_io++) {
			size_t n = contiguous(set, i);

			iov[nb_io] = (struct iovec){copy_of(set, i), n * set->cache->slice_bytes};
			file_io_start(&io[nb_io], set->cache->file, IO_WRITE,
				      set->slices[i]->host_off, &iov[nb_io], 1, set->tag);
			i += n;
		}
		for (unsigned j = 0; j < nb_io; j++) {
			int ret = file_io_finish(&io[j]);

			if (ret && !result)
				result = ret;
		}
	}
	return result;
}

/* fdatasync of the qcow2 file; a failure is final: rule I10's last sentence. */
static int coroutine_fn barrier(struct writer *writer)
{
	int ret = file_flush(writer->image->file);

	if (ret)
		writer->failed = ret;
	return ret;
}

/* The first barrier of a round also covers the external data file. I3 */
static int coroutine_fn data_barrier(struct writer *writer)
{
	struct image *image = writer->image;
	int ret = 0;

	if (has_data_file(image)) {
		ret = file_flush(image->data_file);
		if (ret)
			writer->failed = ret;
	}
	return ret ? ret : barrier(writer);
}

/* Where what is in use ends, as far as the list of what was given back tells. */
static uint64_t end_of_use(const struct writer *writer)
{
	const struct run_list *list = &writer->free_runs;
	unsigned bits = writer->image->cluster_bits;
	uint64_t end = writer->zero_from >> bits;
	size_t i = 0;

	/* In no order: with each run that ends there, the one before it is looked for anew. */
	while (i < list->nb) {
		const struct cluster_run *run = &list->runs[i++];

		if (run->first + run->nb == end) {
			end = run->first;
			i = 0;
		}
	}
	return end << bits;
}

/*
 * Clusters may have been handed out that nothing was written to, because they read as zeros
 * anyway. The file is extended over them before anything points there. Where it cannot become so
 * long (a limit of its file system or of the process), writes have failed as well and given their
 * clusters back: nothing points to those.
 */
static int coroutine_fn extend_file(struct writer *writer)
{
	struct file *file = writer->image->file;
	uint64_t end = writer->zero_from, size = cluster_size(writer->image), used_end;
	int ret;

	/* Only the last cluster of a file may be incomplete. */
	if (file->is_block_device || end < file->size_bytes + size)
		return 0;
	ret = file_truncate(file, end);
	used_end = ret ? end_of_use(writer) : end;
	if (used_end == end)
		return ret;
	return used_end < file->size_bytes + size ? 0 : file_truncate(file, used_end);
}

static int coroutine_fn store_and_bar(struct writer *writer, struct store_set *set)
{
	int ret;

	if (!set->nb)
		return 0;
	ret = set_store(set);
	return ret ? ret : barrier(writer);
}

enum { SET_REFBLOCKS, SET_REFTABLE, SET_L2, SET_L1, SET_COUNT };

/* Prepares and takes all sets at one instant: no yield in here. */
static int take_all(struct writer *writer, struct store_set *sets)
{
	struct cache *ref = &writer->ref_cache, *l2 = &writer->image->l2_cache;
	int ret = set_prepare(&sets[SET_REFBLOCKS], ref, IO_TAG_REFBLOCK);

	if (!ret)
		ret = set_prepare(&sets[SET_REFTABLE], ref, IO_TAG_REFTABLE);
	if (!ret)
		ret = set_prepare(&sets[SET_L2], l2, IO_TAG_L2);
	if (!ret)
		ret = set_prepare(&sets[SET_L1], l2, IO_TAG_L1);
	for (int i = 0; i < SET_COUNT && !ret; i++)
		set_take(&sets[i]);
	return ret;
}

/* One round. The caller holds flush_mutex. */
static int coroutine_fn round_run(struct writer *writer)
{
	struct store_set sets[SET_COUNT] = {0};
	struct run_list unlinked;
	int ret;

	if (writer->failed)
		return writer->failed;
	if (!writer->unflushed)
		return 0;
	ret = take_all(writer, sets);
	if (!ret) {
		unlinked = writer->unlinked;
		writer->unlinked = (struct run_list){0};
		writer->unflushed = false;

		ret = extend_file(writer);
		if (!ret)
			ret = set_store(&sets[SET_REFBLOCKS]); /* I1, I10 */
		if (!ret)
			ret = data_barrier(writer); /* I1, I2, I3 */
		if (!ret)
			ret = store_and_bar(writer, &sets[SET_REFTABLE]); /* I1, I2 */
		if (!ret)
			ret = store_and_bar(writer, &sets[SET_L2]); /* I2, I3 */
		if (!ret)
			ret = store_and_bar(writer, &sets[SET_L1]); /* I2 */
		for (int i = 0; i < SET_COUNT; i++)
			set_settle(&sets[i], ret);
		if (ret) {
			writer->unflushed = true;
			release_put_back(writer, &unlinked); /* I5: still in quarantine */
		} else {
			release_begin(writer, &unlinked); /* I4, I5 */
		}
	}
	for (int i = 0; i < SET_COUNT; i++)
		set_free(&sets[i]);
	return ret;
}

int coroutine_fn flush_run(struct writer *writer)
{
	uint64_t ticket = writer->flush_started + 1;
	int ret = 0;

	co_mutex_lock(&writer->flush_mutex);
	if (writer->flush_done < ticket) {
		uint64_t number = ++writer->flush_started;

		ret = round_run(writer);
		if (!ret)
			writer->flush_done = number;
	}
	co_mutex_unlock(&writer->flush_mutex);
	return ret;
}

/* ---- header switches ---- */

/*
 * Stores what the new table relies on, and takes flush_mutex. A refcount table is followed by
 * I/O that goes on, so only the blocks are stored; an L1 table is switched while nothing else
 * changes, after a whole round.
 */
static int coroutine_fn begin_switch(struct writer *writer, bool whole_round)
{
	struct store_set blocks = {0};
	int ret;

	co_mutex_lock(&writer->flush_mutex);
	ret = whole_round ? round_run(writer) : writer->failed;
	if (!ret)
		ret = set_prepare(&blocks, &writer->ref_cache, IO_TAG_REFBLOCK);
	if (!ret) {
		set_take(&blocks);
		ret = set_store(&blocks); /* I1: made durable by the switch's first flush */
		set_settle(&blocks, ret);
	}
	set_free(&blocks);
	if (ret)
		co_mutex_unlock(&writer->flush_mutex);
	return ret;
}

static int end_switch(struct writer *writer, int ret)
{
	if (ret)
		writer->failed = ret;
	co_mutex_unlock(&writer->flush_mutex);
	return ret;
}

int coroutine_fn flush_switch_reftable(struct writer *writer, uint64_t table_off,
				       uint64_t nb_clusters)
{
	struct image *image = writer->image;
	int ret = begin_switch(writer, false);

	if (ret)
		return ret;
	ret = header_switch_reftable(image->file, &image->header, table_off, nb_clusters);
	return end_switch(writer, ret);
}

int coroutine_fn flush_switch_l1(struct writer *writer, uint64_t l1_off, uint32_t l1_size)
{
	struct image *image = writer->image;
	int ret = begin_switch(writer, true);

	if (ret)
		return ret;
	ret = header_switch_l1(image->file, &image->header, l1_off, l1_size);
	return end_switch(writer, ret);
}

int coroutine_fn flush_set_size(struct writer *writer, uint64_t size_bytes)
{
	struct image *image = writer->image;
	int ret = begin_switch(writer, true);

	if (ret)
		return ret;
	ret = header_set_size(image->file, &image->header, size_bytes);
	return end_switch(writer, ret);
}

int coroutine_fn flush_switch_header(struct writer *writer, const struct header_change *change)
{
	struct image *image = writer->image;
	int ret = begin_switch(writer, true);

	if (ret)
		return ret;
	ret = header_switch(image->file, &image->header, change);
	return end_switch(writer, ret);
}
