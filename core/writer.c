/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * writer: from the first change of an image to its last write-back (see writer.h).
 */
#include "core/writer.h"

#include "core/ahead.h"
#include "core/bitmap.h"
#include "core/flush.h"
#include "core/release.h"

#include <errno.h>
#include <stdlib.h>

#define REF_CACHE_BYTES (256u << 10)
#define DIRTY_SLICES_MAX 1024u
#define WRITEBACK_DELAY_NS (2ull * 1000 * 1000 * 1000)

/* ---- runs ---- */

int run_list_reserve(struct run_list *list, size_t nb)
{
	size_t nb_max = list->nb_max ? list->nb_max : 16;
	struct cluster_run *runs;

	if (list->nb + nb <= list->nb_max)
		return 0;
	while (nb_max < list->nb + nb)
		nb_max *= 2;
	runs = reallocarray(list->runs, nb_max, sizeof(*runs));
	if (!runs)
		return -ENOMEM;
	list->runs = runs;
	list->nb_max = nb_max;
	return 0;
}

void run_list_append(struct run_list *list, struct cluster_run run)
{
	struct cluster_run *last = list->nb ? &list->runs[list->nb - 1] : NULL;

	if (last && last->first + last->nb == run.first && last->in_data_file == run.in_data_file) {
		last->nb += run.nb;
		return;
	}
	assert(list->nb < list->nb_max);
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): reserved, as asserted */
	list->runs[list->nb++] = run;
}

void run_list_free(struct run_list *list)
{
	free(list->runs);
	*list = (struct run_list){0};
}

/* ---- write-back in the background ---- */

static void arm_writeback(struct writer *writer)
{
	struct reactor *reactor = writer->image->file->reactor;

	if (!writer->closing && !writer->writeback_timer.armed && !writer->writeback_running)
		timer_arm(reactor, &writer->writeback_timer,
			  reactor_now_ns(reactor) + WRITEBACK_DELAY_NS);
}

static void coroutine_fn writeback_main(void *arg)
{
	struct writer *writer = arg;
	bool keeps = ahead_look(writer);

	/* A failure shows at the next fsync; here it is tried again. */
	writer->writeback_failed = flush_run(writer) != 0;
	writer->writeback_running = false;
	co_queue_wake_all(&writer->idle);
	if (writer->unflushed && !writer->failed)
		writer_note_write(writer);
	else if (keeps)
		arm_writeback(writer);
}

static void spawn_writeback(struct writer *writer)
{
	if (writer->writeback_running)
		return;
	writer->writeback_running = true;
	writer->writeback_task = (struct task){.fn = writeback_main, .arg = writer};
	reactor_spawn_background(writer->image->file->reactor, &writer->writeback_task);
}

static void writeback_due(struct timer *timer)
{
	struct writer *writer =
		(struct writer *)((char *)timer - offsetof(struct writer, writeback_timer));

	spawn_writeback(writer);
}

void writer_note_write(struct writer *writer)
{
	writer->unflushed = true;
	if (writer->failed || writer->closing)
		return;
	if (writer->image->l2_cache.nb_dirty > DIRTY_SLICES_MAX && !writer->writeback_failed)
		spawn_writeback(writer);
	else
		arm_writeback(writer);
}

void writer_mark_dirty(struct writer *writer, struct cache *cache, struct slice *slice)
{
	cache_mark_dirty(cache, slice);
	writer_note_write(writer);
}

/* ---- opening ---- */

int coroutine_fn writer_open(struct image *image, struct error **reterr)
{
	struct writer *writer = calloc(1, sizeof(*writer));
	const struct file *file = image->file;
	int ret;

	if (!writer)
		return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
	writer->image = image;
	writer->refblock_bits = image->cluster_bits + 3 - image->header.refcount_order;
	writer->tail = div_up(file->size_bytes, cluster_size(image));
	/* What a block device holds beyond the last cluster is not known. */
	writer->zero_from =
		file->is_block_device ? UINT64_MAX : writer->tail << image->cluster_bits;
	writer->writeback_timer.fn = writeback_due;
	overlap_init(&writer->overlap, image->cluster_bits);
	ret = cache_init(&writer->ref_cache, image->file, image->l2_cache.slice_bytes,
			 REF_CACHE_BYTES);
	if (ret) {
		free(writer);
		return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
	}
	writer->ref_cache.make_clean = image->l2_cache.make_clean = writer_make_clean;
	writer->ref_cache.make_clean_ctx = image->l2_cache.make_clean_ctx = writer;
	image->writer = writer;
	return 0;
}

int coroutine_fn writer_make_clean(void *ctx)
{
	return flush_run(ctx);
}

/* ---- before the first change ---- */

static int coroutine_fn begin_locked(struct writer *writer)
{
	struct image *image = writer->image;
	struct header *h = &image->header;
	uint64_t unknown = h->autoclear_features & ~AUTOCLEAR_KNOWN;
	int ret = overlap_build(&writer->overlap, image);

	if (ret == -EUCLEAN)
		return writer_mark_corrupt(writer);
	if (ret)
		return ret;
	if (unknown) /* I11: before the first write, and never set again */
		ret = header_set_features(image->file, h, h->incompatible_features,
					  h->autoclear_features & AUTOCLEAR_KNOWN);
	if (ret)
		writer->failed = ret;
	else
		writer->begun = true;
	return ret;
}

static int coroutine_fn begin_data_locked(struct writer *writer)
{
	int ret = 0;

	if (writer->image->header.has_bitmaps)
		ret = bitmap_mark_in_use(writer->image);
	if (ret)
		writer->failed = ret;
	else
		writer->data_begun = true;
	return ret;
}

static int coroutine_fn begin(struct writer *writer, bool data)
{
	int ret;

	co_mutex_lock(&writer->begin_mutex);
	ret = writer->failed;
	if (!ret && !writer->begun)
		ret = begin_locked(writer);
	if (!ret && data && !writer->data_begun)
		ret = begin_data_locked(writer);
	co_mutex_unlock(&writer->begin_mutex);
	return ret;
}

int coroutine_fn writer_begin(struct writer *writer)
{
	return writer->begun || writer->failed ? writer->failed : begin(writer, false);
}

int coroutine_fn writer_begin_data(struct writer *writer)
{
	return writer->data_begun || writer->failed ? writer->failed : begin(writer, true);
}

int coroutine_fn writer_mark_corrupt(struct writer *writer)
{
	struct image *image = writer->image;
	struct header *h = &image->header;

	if (writer->failed)
		return -EIO;
	writer->failed = -EIO; /* no round begins any more */
	/* A switch under way would write back the features as they were, and this its old table. */
	co_mutex_lock(&writer->flush_mutex);
	if (h->version >= 3) /* I11: nothing is written after this */
		header_set_features(image->file, h, h->incompatible_features | INCOMPAT_CORRUPT,
				    h->autoclear_features);
	co_mutex_unlock(&writer->flush_mutex);
	return -EIO;
}

/* ---- closing ---- */

void coroutine_fn writer_wait_idle(struct writer *writer)
{
	while (writer->writeback_running || writer->release_running)
		co_queue_wait(&writer->idle);
}

bool coroutine_fn writer_make_room(struct writer *writer, int err, bool *tried)
{
	if ((err != -ENOSPC && err != -EDQUOT) || *tried)
		return false;
	*tried = true;
	if (flush_run(writer))
		return false;
	while (writer->release_running)
		co_queue_wait(&writer->idle);
	return true;
}

int coroutine_fn writer_close(struct image *image)
{
	struct writer *writer = image->writer;
	struct reactor *reactor = image->file->reactor;
	int ret;

	writer->closing = true;
	timer_disarm(reactor, &writer->writeback_timer);
	ahead_give_back(writer);
	/* A round lets clusters go, whose refcounts the next one stores. */
	do {
		ret = flush_run(writer);
		writer_wait_idle(writer);
	} while (!ret && writer->unflushed);
	run_list_free(&writer->unlinked);
	run_list_free(&writer->released);
	run_list_free(&writer->free_runs);
	cache_finish(&writer->ref_cache);
	overlap_finish(&writer->overlap);
	image->writer = NULL;
	free(writer);
	return ret;
}
