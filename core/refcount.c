/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * refcount: see refcount.h. Widths below 8 bits fill a byte from its least significant
 * bits; wider ones are big-endian.
 */
#include "core/refcount.h"

#include <errno.h>

uint64_t refcount_decode(const uint8_t *block, uint64_t index, unsigned order)
{
	switch (order) {
	case 0:
	case 1:
	case 2: {
		unsigned bits = 1u << order;
		uint64_t bit = index * bits;

		return block[bit / 8] >> bit % 8 & ((1u << bits) - 1);
	}
	case 3:
		return block[index];
	case 4:
		return be16_get(block + index * 2);
	case 5:
		return be32_get(block + index * 4);
	default:
		return be64_get(block + index * 8);
	}
}

void refcount_encode(uint8_t *block, uint64_t index, unsigned order, uint64_t value)
{
	switch (order) {
	case 0:
	case 1:
	case 2: {
		unsigned bits = 1u << order;
		uint64_t bit = index * bits;
		unsigned mask = ((1u << bits) - 1) << bit % 8;

		block[bit / 8] = (block[bit / 8] & ~mask) | (value << bit % 8 & mask);
		break;
	}
	case 3:
		block[index] = value;
		break;
	case 4:
		be16_put(block + index * 2, value);
		break;
	case 5:
		be32_put(block + index * 4, value);
		break;
	default:
		be64_put(block + index * 8, value);
		break;
	}
}

uint64_t refcount_per_slice(const struct writer *writer)
{
	return (uint64_t)writer->ref_cache.slice_bytes * 8 >> writer->image->header.refcount_order;
}

uint64_t refcount_table_entries(const struct writer *writer)
{
	const struct header *h = &writer->image->header;

	return ((uint64_t)h->refcount_table_clusters << h->cluster_bits) / 8;
}

/* The pinned slice with the refcount table's entry, and the entry within it. */
static int coroutine_fn table_slice(struct writer *writer, uint64_t index, struct slice **ret_slice,
				    uint8_t **ret_entry)
{
	uint64_t entry_off = writer->image->header.refcount_table_offset + index * 8;
	uint64_t slice_off = round_down(entry_off, writer->ref_cache.slice_bytes);
	int ret = cache_get(&writer->ref_cache, slice_off, IO_TAG_REFTABLE, ret_slice);

	if (!ret)
		*ret_entry = (*ret_slice)->data + (entry_off - slice_off);
	return ret;
}

int coroutine_fn refcount_table_get(struct writer *writer, uint64_t index, uint64_t *ret_block_off)
{
	struct slice *slice;
	uint64_t entry;
	uint8_t *p;
	int ret;

	*ret_block_off = 0;
	if (index >= refcount_table_entries(writer))
		return 0;
	ret = table_slice(writer, index, &slice, &p);
	if (ret)
		return ret;
	entry = be64_get(p);
	cache_put(&writer->ref_cache, slice);
	if (entry & REFTABLE_RESERVED_MASK || entry >= HOST_OFF_MAX ||
	    entry & (cluster_size(writer->image) - 1))
		return -EIO;
	*ret_block_off = entry;
	return 0;
}

int coroutine_fn refcount_table_set(struct writer *writer, uint64_t index, uint64_t block_off)
{
	struct slice *slice;
	uint8_t *p;
	int ret = table_slice(writer, index, &slice, &p);

	if (ret)
		return ret;
	be64_put(p, block_off);
	writer_mark_dirty(writer, &writer->ref_cache, slice);
	cache_put(&writer->ref_cache, slice);
	return 0;
}

int coroutine_fn refcount_get_slice(struct writer *writer, uint64_t cluster,
				    struct slice **ret_slice, uint64_t *ret_first)
{
	uint64_t per_slice = refcount_per_slice(writer);
	uint64_t in_block = cluster & ((1ull << writer->refblock_bits) - 1);
	uint64_t block_off;
	int ret = refcount_table_get(writer, cluster >> writer->refblock_bits, &block_off);

	*ret_slice = NULL;
	*ret_first = cluster - in_block % per_slice;
	if (ret || !block_off)
		return ret;
	return cache_get(&writer->ref_cache,
			 block_off + in_block / per_slice * writer->ref_cache.slice_bytes,
			 IO_TAG_REFBLOCK, ret_slice);
}

int coroutine_fn refcount_get(struct writer *writer, uint64_t cluster, uint64_t *ret_value)
{
	struct slice *slice;
	uint64_t first;
	int ret = refcount_get_slice(writer, cluster, &slice, &first);

	*ret_value = 0;
	if (ret || !slice)
		return ret;
	*ret_value =
		refcount_decode(slice->data, cluster - first, writer->image->header.refcount_order);
	cache_put(&writer->ref_cache, slice);
	return 0;
}

int coroutine_fn refcount_set_run(struct writer *writer, uint64_t first, uint64_t nb,
				  uint64_t value)
{
	unsigned order = writer->image->header.refcount_order;

	while (nb) {
		struct slice *slice;
		uint64_t base, n;
		int ret = refcount_get_slice(writer, first, &slice, &base);

		if (ret)
			return ret;
		if (!slice)
			return -EIO;
		n = min_u64(nb, base + refcount_per_slice(writer) - first);
		for (uint64_t i = 0; i < n; i++)
			refcount_encode(slice->data, first + i - base, order, value);
		writer_mark_dirty(writer, &writer->ref_cache, slice);
		cache_put(&writer->ref_cache, slice);
		first += n;
		nb -= n;
	}
	return 0;
}

int coroutine_fn refcount_drop(struct writer *writer, uint64_t cluster, uint64_t *ret_value)
{
	unsigned order = writer->image->header.refcount_order;
	struct slice *slice;
	uint64_t first, value;
	int ret = refcount_get_slice(writer, cluster, &slice, &first);

	if (ret)
		return ret;
	value = slice ? refcount_decode(slice->data, cluster - first, order) : 0;
	if (!value) {
		if (slice)
			cache_put(&writer->ref_cache, slice);
		return -EIO;
	}
	refcount_encode(slice->data, cluster - first, order, --value);
	writer_mark_dirty(writer, &writer->ref_cache, slice);
	cache_put(&writer->ref_cache, slice);
	*ret_value = value;
	return 0;
}
