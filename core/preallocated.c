/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * preallocated: see preallocated.h. The threshold is QEMU's, so that maps agree.
 */
#include "core/preallocated.h"

#include "core/refcount.h"
#include "io/buf.h"

#include <errno.h>

/* Adds the clusters in use of one refcount block, within the file. */
static int coroutine_fn count_block(struct image *layer, uint64_t block_off, uint64_t first,
				    uint64_t end, uint8_t *buf, uint64_t *nb_used)
{
	int ret = file_read(layer->file, block_off, buf, cluster_size(layer), IO_TAG_REFBLOCK);

	for (uint64_t c = first; c < end && !ret; c++)
		*nb_used += refcount_decode(buf, c - first, layer->header.refcount_order) != 0;
	return ret;
}

static int coroutine_fn count_clusters(struct image *layer, uint64_t enough, uint64_t *nb_used)
{
	const struct header *h = &layer->header;
	uint64_t size = cluster_size(layer), per_block = size * 8 >> h->refcount_order;
	uint64_t nb_clusters = div_up(layer->file->size_bytes, size);
	uint64_t nb_entries = ((uint64_t)h->refcount_table_clusters << h->cluster_bits) / 8;
	uint8_t *buf = buf_get(size);
	int ret = buf ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < nb_entries && i * per_block < nb_clusters; i++) {
		uint64_t first = i * per_block, entry;

		if (!ret)
			ret = file_read(layer->file, h->refcount_table_offset + i * 8, &entry,
					sizeof(entry), IO_TAG_REFTABLE);
		if (ret || *nb_used >= enough)
			break;
		entry = be64toh(entry) & REFTABLE_OFFSET_MASK;
		if (entry)
			ret = count_block(layer, entry, first,
					  min_u64(first + per_block, nb_clusters), buf, nb_used);
	}
	buf_put(buf, size);
	return ret;
}

bool coroutine_fn preallocated_is(struct image *layer)
{
	uint64_t nb_real, enough, nb_used = 0;
	int ret;

	if (layer->raw)
		return false;
	if (layer->preallocated != PREALLOCATED_UNKNOWN)
		return layer->preallocated == PREALLOCATED_YES;
	nb_real = file_host_sectors(layer->file) * 512 >> layer->cluster_bits;
	enough = max_u64(nb_real * 10 / 9, nb_real + 2);
	ret = count_clusters(layer, enough, &nb_used);
	layer->preallocated = !ret && nb_used >= enough ? PREALLOCATED_YES : PREALLOCATED_NO;
	return layer->preallocated == PREALLOCATED_YES;
}
