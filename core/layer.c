/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * layer: making and freeing one layer of a chain (see layer.h).
 */
#include "core/layer.h"

#include "core/check.h"

#include <errno.h>
#include <stdlib.h>

#define L2_CACHE_BYTES_MAX (128ull << 20)
#define L2_CACHE_BYTES_SMALL (32ull << 20)
#define INFLATED_BYTES_MAX (4ull << 20)

static struct image *layer_alloc(struct file *file)
{
	struct image *image = calloc(1, sizeof(*image));

	if (image)
		image->path = strdup(file->name);
	if (!image || !image->path) {
		free(image);
		return NULL;
	}
	image->file = image->data_file = file;
	image->io_active.prev = image->io_active.next = &image->io_active;
	return image;
}

static void fill_info(struct image *image)
{
	const struct header *h = &image->header;

	image->info = (struct image_info){
		.path = image->path,
		.virtual_size = image->virtual_size,
		.cluster_size = image->raw ? 65536 : 1u << image->cluster_bits,
		.block_size = image->file->align,
		.version = h->version,
		.refcount_bits = 1u << h->refcount_order,
		.extended_l2 = h->incompatible_features & INCOMPAT_EXTENDED_L2,
		.zstd = h->compression_type == COMPRESSION_ZSTD,
		.rebuilt = image->info.rebuilt,
		.lazy_refcounts = h->compatible_features & COMPAT_LAZY_REFCOUNTS,
		.depth = 1,
		.backing_name = h->backing_name,
		.backing_format = h->backing_format,
		.data_name = h->data_name,
	};
}

int layer_create_raw(struct file *file, struct image **ret_layer, struct error **reterr)
{
	struct image *image = layer_alloc(file);

	if (!image) {
		file_close(file);
		return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
	}
	image->raw = true;
	/* Disks consist of sectors; behind the end of the file there are zeros. */
	image->virtual_size = round_up(file->size_bytes, 512);
	fill_info(image);
	*ret_layer = image;
	return 0;
}

/* Numbers that follow from the header. */
static void derive(struct image *image)
{
	const struct header *h = &image->header;
	bool extended = h->incompatible_features & INCOMPAT_EXTENDED_L2;

	image->cluster_bits = h->cluster_bits;
	image->l2_entry_bytes = extended ? L2_EXT_ENTRY_BYTES : L2_ENTRY_BYTES;
	image->l2_bits = h->cluster_bits - (extended ? 4 : 3);
	image->subcluster_bits = h->cluster_bits - (extended ? 5 : 0);
	image->virtual_size = h->size;
	image->l1_table_offset = h->l1_table_offset;
	image->l1_size = h->l1_size;
}

/* Shows the state of a snapshot instead of the active one. */
static int select_snapshot(struct image *image, const char *id_or_name, struct error **reterr)
{
	const struct snapshot *snapshot = snapshot_find(&image->snapshots, id_or_name);
	unsigned l1_span_bits = image->cluster_bits + image->l2_bits;

	if (!snapshot)
		return error_set(reterr, ERROR_OPEN, ENOENT,
				 "no snapshot with the id or name \"%s\"; list them with qcow2tool "
				 "snapshot -l",
				 id_or_name);
	image->virtual_size = snapshot->virtual_size;
	image->l1_table_offset = snapshot->l1_table_offset;
	image->l1_size = snapshot->l1_size;
	if (l1_span_bits < 63 &&
	    image->l1_size < (image->virtual_size + (1ull << l1_span_bits) - 1) >> l1_span_bits)
		return error_set(reterr, ERROR_OPEN, EINVAL,
				 "damaged snapshot table: the L1 table of \"%s\" is too small",
				 id_or_name);
	return 0;
}

/* A table beyond the end of the file would silently read as zeros. */
static int check_truncated(const struct image *image, bool writable, struct error **reterr)
{
	const struct header *h = &image->header;
	uint64_t file_bytes = image->file->size_bytes;
	uint64_t reftable_bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;

	if (image->l1_table_offset + (uint64_t)image->l1_size * 8 > file_bytes)
		return error_set(
			reterr, ERROR_OPEN, EINVAL,
			"the image is truncated: its L1 table lies beyond the end of the file");
	if (writable && h->refcount_table_offset + reftable_bytes > file_bytes)
		return error_set(
			reterr, ERROR_OPEN, EINVAL,
			"the image is truncated: its refcount table lies beyond the end of the "
			"file; mount it with -o ro");
	return 0;
}

static int init_caches(struct image *image, uint64_t l2_cache_bytes)
{
	uint64_t nb_clusters = (image->virtual_size >> image->cluster_bits) + 1;
	uint64_t tables = (nb_clusters * image->l2_entry_bytes) + (uint64_t)image->l1_size * 8;
	uint64_t nb_inflated = INFLATED_BYTES_MAX >> image->cluster_bits;

	/* Room for the slices at both ends of each table. */
	tables += 4 * SLICE_BYTES;
	/* The tables of a small file are small, whatever its header claims; it may grow. */
	if (!l2_cache_bytes)
		l2_cache_bytes = min_u64(min_u64(tables, L2_CACHE_BYTES_MAX),
					 max_u64(image->file->size_bytes, L2_CACHE_BYTES_SMALL));
	inflate_cache_init(&image->inflate, min_u64(max_u64(nb_inflated, 4), 64));
	return cache_init(&image->l2_cache, image->file, min_u64(SLICE_BYTES, cluster_size(image)),
			  l2_cache_bytes);
}

/*
 * Before an image is written: a corrupt one is refused, a dirty one gets its refcounts
 * rebuilt, after which the header is read again.
 */
static int coroutine_fn prepare_writable(struct image *image, struct error **reterr)
{
	struct header *h = &image->header;
	int ret;

	if (h->incompatible_features & INCOMPAT_CORRUPT)
		return error_set(
			reterr, ERROR_CORRUPT, EROFS,
			"the image is marked corrupt; mount it with -o ro, or repair it with "
			"qemu-img check -r all");
	if (!(h->incompatible_features & INCOMPAT_DIRTY))
		return 0;
	ret = check_rebuild_refcounts(image->file, reterr);
	if (ret)
		return ret;
	image->info.rebuilt = true;
	header_finish(h);
	return header_read(image->file, h, reterr);
}

static int coroutine_fn read_metadata(struct image *image, const struct chain *chain, bool writable,
				      struct error **reterr)
{
	const char *snapshot = chain->top ? NULL : chain->options->snapshot;
	int ret;

	ret = header_read(image->file, &image->header, reterr);
	if (!ret && writable)
		ret = prepare_writable(image, reterr);
	if (ret)
		return ret;
	derive(image);
	ret = snapshot_list_read(image->file, &image->header, &image->snapshots, reterr);
	if (!ret && snapshot)
		ret = select_snapshot(image, snapshot, reterr);
	if (!ret)
		ret = check_truncated(image, writable, reterr);
	if (ret)
		return ret;
	if (init_caches(image, chain->options->l2_cache_bytes))
		return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
	fill_info(image);
	return 0;
}

int coroutine_fn layer_open(struct file *file, const struct chain *chain, bool writable,
			    bool probed, struct image **ret_layer, struct error **reterr)
{
	struct image *image = layer_alloc(file);
	int ret;

	if (!image) {
		file_close(file);
		return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
	}
	image->probed = probed;
	ret = read_metadata(image, chain, writable, reterr);
	if (!ret && image->header.incompatible_features & INCOMPAT_DATA_FILE)
		ret = backing_open_data_file(image, chain, writable, reterr);
	else if (!ret)
		ret = backing_refuse_data_file(chain, reterr);
	if (ret) {
		layer_free(image);
		return ret;
	}
	image->info.block_size = max_u64(image->info.block_size, image->data_file->align);
	*ret_layer = image;
	return 0;
}

void layer_free(struct image *layer)
{
	if (!layer)
		return;
	if (!layer->raw) {
		inflate_cache_finish(&layer->inflate);
		cache_finish(&layer->l2_cache);
		snapshot_list_finish(&layer->snapshots);
		header_finish(&layer->header);
	}
	published_finish(&layer->published);
	if (has_data_file(layer))
		file_close(layer->data_file);
	file_close(layer->file);
	free(layer->path);
	free(layer);
}
