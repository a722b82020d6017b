/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * image: opening and closing a chain, its facts and figures (see image.h).
 */
#include "core/layer.h"
#include "core/writer.h"

#include <errno.h>

void io_begin(struct image *image, struct io_record *record)
{
	struct io_record *head = &image->io_active;

	record->seq = ++image->io_seq;
	record->prev = head->prev;
	record->next = head;
	head->prev->next = record;
	head->prev = record;
}

void io_end(struct image *image, struct io_record *record)
{
	record->prev->next = record->next;
	record->next->prev = record->prev;
	if (!co_queue_empty(&image->io_waiters) && record->prev == &image->io_active)
		co_queue_wake_all(&image->io_waiters);
}

void coroutine_fn io_wait_for_earlier(struct image *image)
{
	uint64_t seq = image->io_seq;

	while (image->io_active.next != &image->io_active && image->io_active.next->seq <= seq)
		co_queue_wait(&image->io_waiters);
}

static void free_chain(struct image *image)
{
	while (image) {
		struct image *backing = image->backing;

		layer_free(image);
		image = backing;
	}
}

/* What is true of the top layer alone, or depends on the layers below. */
static void finish_info(struct image *image, bool writable)
{
	image->info.writable = writable;
	image->ahead.nb_workers = worker_pool_threads(reactor_workers(image->file->reactor));
	for (const struct image *layer = image->backing; layer; layer = layer->backing) {
		image->info.depth++;
		image->info.block_size = max_u64(image->info.block_size, layer->info.block_size);
	}
}

int coroutine_fn image_open(struct opener *opener, const char *path,
			    const struct image_options *options, struct image **ret_image,
			    struct error **reterr)
{
	bool writable =
		options->writable && !options->snapshot && !options->force_share && !options->raw;
	enum file_lock lock = options->force_share ? FILE_LOCK_SHARED
			      : writable           ? FILE_LOCK_WRITE
						   : FILE_LOCK_READ;
	struct chain chain = {.opener = opener, .options = options, .depth = 1};
	struct image *image;
	struct file *file;
	int ret;

	ret = opener->open(opener, OPENER_IMAGE, NULL, path, writable, lock, &file, reterr);
	if (ret)
		return ret;
	if (options->raw)
		ret = layer_create_raw(file, &image, reterr);
	else
		ret = layer_open(file, &chain, writable, false, &image, reterr);
	if (ret)
		return ret;
	chain.top = image;
	if (!options->no_backing)
		ret = backing_open_chain(image, &chain, reterr);
	if (ret) {
		free_chain(image);
		return ret;
	}
	if (writable) {
		ret = writer_open(image, reterr);
		if (ret) {
			free_chain(image);
			return ret;
		}
	}
	finish_info(image, writable);
	*ret_image = image;
	return 0;
}

int coroutine_fn image_open_below(struct opener *opener, struct image *above,
				  const struct image_options *options, struct image **ret_image,
				  struct file **ret_raw, struct error **reterr)
{
	struct chain chain = {.opener = opener, .options = options, .top = above, .depth = 1};
	bool writable = options->writable;
	struct image *image = NULL;
	int ret;

	*ret_raw = NULL;
	ret = backing_open_below(above, &chain, writable, &image, ret_raw, reterr);
	if (!ret && image && !options->no_backing)
		ret = backing_open_chain(image, &chain, reterr);
	if (!ret && image && writable)
		ret = writer_open(image, reterr);
	if (ret) {
		free_chain(image);
		return ret;
	}
	if (image)
		finish_info(image, writable);
	*ret_image = image;
	return 0;
}

int coroutine_fn image_open_overlay(struct opener *opener, struct file *file, struct image *base,
				    uint64_t l2_cache_bytes, struct image **ret_image,
				    struct error **reterr)
{
	const struct image_options options = {.l2_cache_bytes = l2_cache_bytes};
	const struct chain chain = {.opener = opener, .options = &options, .depth = 1};
	struct image *image;
	int ret;

	ret = layer_open(file, &chain, true, false, &image, reterr);
	if (ret)
		return ret;
	ret = writer_open(image, reterr);
	if (ret) {
		layer_free(image);
		return ret;
	}
	image->backing = base;
	finish_info(image, true);
	*ret_image = image;
	return 0;
}

int coroutine_fn image_close(struct image *image)
{
	int ret = 0;

	read_ahead_finish(image);
	co_rwlock_wrlock(&image->resize_lock); /* until requests under way have ended */
	if (image->writer)
		ret = writer_close(image);
	co_rwlock_unlock(&image->resize_lock);
	free_chain(image);
	return ret;
}

const struct image_info *image_info(const struct image *image)
{
	return &image->info;
}

const struct image *image_backing(const struct image *image)
{
	return image->backing && !image->backing->raw ? image->backing : NULL;
}

static const struct image *find_layer(const struct image *image, unsigned layer)
{
	while (image && layer--)
		image = image->backing;
	return image;
}

const struct file *image_file(const struct image *image, unsigned layer)
{
	image = find_layer(image, layer);
	return image ? image->file : NULL;
}

const struct file *image_data_file(const struct image *image, unsigned layer)
{
	image = find_layer(image, layer);
	return image && has_data_file(image) ? image->data_file : NULL;
}

unsigned image_nb_snapshots(const struct image *image)
{
	return image->snapshots.nb;
}

void image_get_snapshot(const struct image *image, unsigned index, struct image_snapshot *ret)
{
	const struct snapshot *snapshot = &image->snapshots.snapshots[index];

	*ret = (struct image_snapshot){
		.id = snapshot->id,
		.name = snapshot->name,
		.virtual_size = snapshot->virtual_size,
		.date_sec = snapshot->date_sec,
		.date_nsec = snapshot->date_nsec,
		.vm_clock_nsec = snapshot->vm_clock_nsec,
		.vm_state_bytes = snapshot->vm_state_bytes,
	};
}

void image_get_stats(const struct image *image, struct image_stats *ret_stats)
{
	*ret_stats = image->stats;
	ret_stats->l2_hits = image->l2_cache.hits;
	ret_stats->l2_misses = image->l2_cache.misses;
	for (const struct image *layer = image; layer; layer = layer->backing) {
		ret_stats->nb_reads_beside += layer->data_file->nb_reads_beside;
		ret_stats->read_bytes += layer->data_file->read_beside_bytes;
	}
	ret_stats->nb_reads += ret_stats->nb_reads_beside;
	ret_stats->l2_hits += ret_stats->nb_reads_beside;
	ret_stats->metadata_bytes =
		(uint64_t)image->l2_cache.nb_slices * image->l2_cache.slice_bytes;
	if (image->writer) {
		ret_stats->refcount_hits = image->writer->ref_cache.hits;
		ret_stats->refcount_misses = image->writer->ref_cache.misses;
	}
}

void image_trim(struct image *image)
{
	for (; image; image = image->backing) {
		cache_trim(&image->l2_cache);
		if (image->writer)
			cache_trim(&image->writer->ref_cache);
		inflate_cache_trim(&image->inflate);
	}
}

uint64_t image_host_sectors(const struct image *image)
{
	uint64_t sectors = 0;

	for (; image; image = image->backing) {
		sectors += file_host_sectors(image->file);
		if (has_data_file(image))
			sectors += file_host_sectors(image->data_file);
	}
	return sectors;
}
