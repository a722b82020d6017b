/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * map: decoding of L1 and L2 entries and the walk down the chain (see map.h).
 *
 * When the slices are cached nothing here yields or allocates. Runs of entries that
 * continue one another are merged within one slice; callers merge across slices.
 */
#include "core/map.h"

#include <assert.h>
#include <errno.h>

#define TABLES_NEAR 8u /* slices: as many as one read of the cache takes */

/* A slice of the L1 table. 0 or -errno; -EAGAIN: it is not loaded, and this may not wait. */
static int coroutine_fn get_l1_slice(struct image *image, uint64_t slice_off, bool may_wait,
				     struct slice **ret_slice)
{
	struct cache_near table = {
		.start = round_down(image->l1_table_offset, image->l2_cache.slice_bytes),
		.end = round_up(image->l1_table_offset + (uint64_t)image->l1_size * 8,
				image->l2_cache.slice_bytes),
	};

	*ret_slice = cache_get_loaded(&image->l2_cache, slice_off);
	if (*ret_slice)
		return 0;
	if (!may_wait)
		return -EAGAIN;
	return cache_get_near(&image->l2_cache, slice_off, IO_TAG_L1, &table, ret_slice);
}

static int coroutine_fn read_l1(struct image *image, uint64_t guest_off, bool may_wait,
				uint64_t *ret_l2_off, bool *ret_copied)
{
	uint64_t index = map_l1_index(image, guest_off);
	uint64_t entry_off = image->l1_table_offset + index * 8;
	uint64_t slice_off = round_down(entry_off, image->l2_cache.slice_bytes);
	struct slice *slice;
	uint64_t entry;
	int ret;

	*ret_l2_off = 0;
	*ret_copied = false;
	if (index >= image->l1_size)
		return 0;
	ret = get_l1_slice(image, slice_off, may_wait, &slice);
	if (ret)
		return ret;
	entry = be64_get(slice->data + (entry_off - slice_off));
	cache_put(&image->l2_cache, slice);
	if (entry & L1_RESERVED_MASK)
		return -EIO;
	if ((entry & L1_OFFSET_MASK) & (cluster_size(image) - 1))
		return -EIO;
	*ret_l2_off = entry & L1_OFFSET_MASK;
	*ret_copied = entry & ENTRY_COPIED;
	return 0;
}

int coroutine_fn map_read_l1(struct image *image, uint64_t guest_off, uint64_t *ret_l2_off,
			     bool *ret_copied)
{
	return read_l1(image, guest_off, true, ret_l2_off, ret_copied);
}

/* A host offset for data: aligned, and equal to the guest's in an external data file. */
static int check_data_off(const struct image *image, uint64_t guest_off, uint64_t host_off)
{
	if (host_off & (cluster_size(image) - 1))
		return -EIO;
	if (has_data_file(image) && host_off != guest_off)
		return -EIO;
	return 0;
}

int map_decode_l2(const struct image *image, uint64_t guest_off, uint64_t entry, uint64_t bitmap,
		  unsigned subcluster, struct l2_meaning *ret)
{
	bool external = has_data_file(image);
	uint64_t reserved = L2_STD_RESERVED_MASK;
	bool alloc, zero;

	*ret = (struct l2_meaning){.kind = EXTENT_UNALLOCATED};
	if (entry & L2_COMPRESSED) {
		if (external)
			return -EIO;
		ret->kind = EXTENT_COMPRESSED;
		ret->host_off = entry & ~(ENTRY_COPIED | L2_COMPRESSED);
		return 0;
	}
	if (image->info.extended_l2 || image->info.version < 3)
		reserved |= L2_ZERO;
	if (entry & reserved)
		return -EIO;
	ret->host_off = entry & L2_OFFSET_MASK;
	ret->copied = entry & ENTRY_COPIED;
	/* Offset 0 is the header, except in an external data file, where COPIED tells. */
	ret->has_host_off = ret->host_off || (external && ret->copied);
	if (ret->has_host_off && check_data_off(image, guest_off, ret->host_off))
		return -EIO;
	if (!image->info.extended_l2) {
		ret->kind = entry & L2_ZERO     ? EXTENT_ZERO
			    : ret->has_host_off ? EXTENT_DATA
						: EXTENT_UNALLOCATED;
		return 0;
	}
	alloc = bitmap >> subcluster & 1;
	zero = bitmap >> (SUBCLUSTERS_PER_CLUSTER + subcluster) & 1;
	if ((bitmap >> SUBCLUSTERS_PER_CLUSTER & bitmap & UINT32_MAX) ||
	    (!ret->has_host_off && (bitmap & UINT32_MAX)))
		return -EIO;
	ret->kind = zero ? EXTENT_ZERO : alloc ? EXTENT_DATA : EXTENT_UNALLOCATED;
	return 0;
}

/* Does `next`, `distance` bytes further on in the guest, continue `first`? */
static bool continues(const struct l2_meaning *first, uint64_t first_host,
		      const struct l2_meaning *next, uint64_t next_host, uint64_t distance)
{
	if (first->kind != next->kind || first->kind == EXTENT_COMPRESSED ||
	    first->has_host_off != next->has_host_off || first->copied != next->copied)
		return false;
	return !first->has_host_off || first_host + distance == next_host;
}

/* Decodes the entry for guest_off from a loaded slice that holds it. */
static int decode_at(struct image *image, const struct slice *slice, uint64_t guest_off,
		     struct l2_meaning *ret)
{
	uint64_t in_table = map_l2_index(image, guest_off) * image->l2_entry_bytes;
	const uint8_t *p = slice->data + (in_table & (image->l2_cache.slice_bytes - 1));
	uint64_t bitmap = image->info.extended_l2 ? be64_get(p + 8) : 0;
	unsigned subcluster = 0;

	if (image->info.extended_l2)
		subcluster = (guest_off & (cluster_size(image) - 1)) >> image->subcluster_bits;
	return map_decode_l2(image, round_down(guest_off, cluster_size(image)), be64_get(p), bitmap,
			     subcluster, ret);
}

/* Fills *ret from the slice: from guest_off to `end` (exclusive; within the slice). */
static int decode_run(struct image *image, const struct slice *slice, uint64_t guest_off,
		      uint64_t end, struct extent *ret)
{
	uint64_t unit = 1ull << image->subcluster_bits;
	uint64_t mask = cluster_size(image) - 1;
	struct l2_meaning first, next;
	uint64_t first_host, pos;
	int err;

	err = decode_at(image, slice, guest_off, &first);
	if (err)
		return err;
	if (first.kind == EXTENT_COMPRESSED) {
		end = min_u64(end, (guest_off | mask) + 1);
		pos = end;
		first_host = first.host_off;
	} else {
		first_host = first.host_off + (guest_off & mask);
		pos = round_down(guest_off, unit) + unit;
	}
	for (; pos < end; pos += unit) {
		err = decode_at(image, slice, pos, &next);
		/* A damaged entry further on fails its own request only. */
		if (err || !continues(&first, first_host, &next, next.host_off + (pos & mask),
				      pos - guest_off))
			break;
	}
	*ret = (struct extent){
		.layer = image,
		.kind = first.kind,
		.guest_off = guest_off,
		.len_bytes = min_u64(pos, end) - guest_off,
		.host_off = first_host,
		.has_host_off = first.has_host_off,
		.copied = first.copied,
	};
	return 0;
}

/* A raw layer: data up to the end of the file, whose holes read as zeros anyway. */
static int coroutine_fn map_raw(struct image *image, uint64_t guest_off, uint64_t max_bytes,
				struct extent *ret)
{
	*ret = (struct extent){
		.layer = image,
		.kind = EXTENT_DATA,
		.guest_off = guest_off,
		.len_bytes = max_bytes,
		.host_off = guest_off,
		.has_host_off = true,
	};
	return 0;
}

int map_l1_entries(const struct image *image, uint64_t size_bytes, uint64_t *ret_nb)
{
	*ret_nb = div_up(size_bytes, 1ull << (image->cluster_bits + image->l2_bits));
	return *ret_nb > L1_BYTES_MAX / 8 ? -EFBIG : 0;
}

/* Does the L1 entry say that its table is at l2_off? `index` may lie outside the slice. */
static bool names_table(const struct image *image, const struct slice *slice, uint64_t index,
			uint64_t l2_off)
{
	uint64_t entry_off = image->l1_table_offset + index * 8;

	return index < image->l1_size && entry_off >= slice->host_off &&
	       entry_off + 8 <= slice->host_off + image->l2_cache.slice_bytes &&
	       (be64_get(slice->data + (entry_off - slice->host_off)) & ~ENTRY_COPIED) == l2_off;
}

/*
 * The L2 tables around the one at l2_off that follow one another in the file as in the guest,
 * as far as the slice of the L1 table tells that is at hand: where clusters are small, a
 * table is no more than a slice.
 */
static int coroutine_fn tables_near(struct image *image, uint64_t guest_off, uint64_t l2_off,
				    struct cache_near *ret)
{
	uint64_t size = cluster_size(image), index = map_l1_index(image, guest_off);
	uint64_t entry_off = image->l1_table_offset + index * 8, n;
	struct slice *slice;
	int err;

	*ret = (struct cache_near){.start = l2_off, .end = l2_off + size};
	if (size >= TABLES_NEAR * image->l2_cache.slice_bytes)
		return 0;
	err = cache_get(&image->l2_cache, round_down(entry_off, image->l2_cache.slice_bytes),
			IO_TAG_L1, &slice);
	if (err)
		return err;
	for (n = 1; n < TABLES_NEAR && index >= n && l2_off > n * size &&
		    names_table(image, slice, index - n, l2_off - n * size);
	     n++)
		ret->start -= size;
	for (n = 1; n < TABLES_NEAR && names_table(image, slice, index + n, l2_off + n * size); n++)
		ret->end += size;
	cache_put(&image->l2_cache, slice);
	return 0;
}

/* The slice of the L2 table at l2_off with the entry for guest_off; like get_l1_slice(). */
static int coroutine_fn get_l2_slice(struct image *image, uint64_t guest_off, uint64_t l2_off,
				     bool may_wait, struct slice **ret_slice)
{
	uint64_t entry_off = l2_off + map_l2_index(image, guest_off) * image->l2_entry_bytes;
	uint64_t slice_off = round_down(entry_off, image->l2_cache.slice_bytes);
	struct cache_near near;
	int ret;

	*ret_slice = cache_get_loaded(&image->l2_cache, slice_off);
	if (*ret_slice)
		return 0;
	if (!may_wait)
		return -EAGAIN;
	ret = tables_near(image, guest_off, l2_off, &near);
	if (ret)
		return ret;
	return cache_get_near(&image->l2_cache, slice_off, IO_TAG_L2, &near, ret_slice);
}

/* If it may not wait, nothing here or below it yields. */
static int coroutine_fn walk_layer(struct image *image, uint64_t guest_off, uint64_t max_bytes,
				   bool may_wait, struct extent *ret_extent)
{
	unsigned slice_span_bits;
	uint64_t l2_off, end;
	struct slice *slice;
	bool copied;
	int ret;

	if (image->raw)
		return map_raw(image, guest_off, max_bytes, ret_extent);
	ret = read_l1(image, guest_off, may_wait, &l2_off, &copied);
	if (ret)
		return ret;
	if (!l2_off) {
		uint64_t span = 1ull << (image->cluster_bits + image->l2_bits);

		end = min_u64(guest_off + max_bytes, round_down(guest_off, span) + span);
		*ret_extent = (struct extent){
			.layer = image,
			.kind = EXTENT_UNALLOCATED,
			.guest_off = guest_off,
			.len_bytes = end - guest_off,
		};
		return 0;
	}
	slice_span_bits = image->cluster_bits + __builtin_ctz(image->l2_cache.slice_bytes) -
			  __builtin_ctz(image->l2_entry_bytes);
	end = min_u64(guest_off + max_bytes,
		      round_down(guest_off, 1ull << slice_span_bits) + (1ull << slice_span_bits));
	ret = get_l2_slice(image, guest_off, l2_off, may_wait, &slice);
	if (ret)
		return ret;
	ret = decode_run(image, slice, guest_off, end, ret_extent);
	cache_put(&image->l2_cache, slice);
	/* Below a shared L2 table nothing may be written in place. */
	if (!ret && !copied)
		ret_extent->copied = false;
	return ret;
}

int coroutine_fn map_layer(struct image *image, uint64_t guest_off, uint64_t max_bytes,
			   struct extent *ret_extent)
{
	return walk_layer(image, guest_off, max_bytes, true, ret_extent);
}

static int coroutine_fn walk_chain(struct image *image, uint64_t guest_off, uint64_t max_bytes,
				   bool may_wait, struct extent *ret_extent, unsigned *ret_depth)
{
	unsigned depth = 0;
	int ret;

	for (;;) {
		ret = walk_layer(image, guest_off, max_bytes, may_wait, ret_extent);
		if (ret)
			return ret;
		max_bytes = ret_extent->len_bytes;
		if (ret_extent->kind != EXTENT_UNALLOCATED || !image->backing)
			break;
		image = image->backing;
		depth++;
		if (guest_off >= image->virtual_size) {
			/* The backing file is shorter than its overlay: zeros. */
			ret_extent->layer = image;
			break;
		}
		max_bytes = min_u64(max_bytes, image->virtual_size - guest_off);
	}
	if (ret_depth)
		*ret_depth = depth;
	return 0;
}

int coroutine_fn map_chain(struct image *image, uint64_t guest_off, uint64_t max_bytes,
			   struct extent *ret_extent, unsigned *ret_depth)
{
	return walk_chain(image, guest_off, max_bytes, true, ret_extent, ret_depth);
}

int map_chain_loaded(struct image *image, uint64_t guest_off, uint64_t max_bytes,
		     struct extent *ret_extent)
{
	assert(max_bytes <= image->virtual_size && guest_off <= image->virtual_size - max_bytes);
	return walk_chain(image, guest_off, max_bytes, false, ret_extent, NULL);
}
