/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * seek: which parts of the disk hold data: image_map() for listings and
 * SEEK_DATA / SEEK_HOLE. A raw backing file is asked for its own holes.
 */
#include "core/map.h"
#include "core/preallocated.h"

#include <errno.h>

/* So many extents are looked at before others have their turn. */
#define STEPS_IN_A_ROW 256u

/* Narrows a raw layer's extent to one piece of data or one hole of its file. */
static int coroutine_fn split_raw(struct extent *extent)
{
	bool is_data;
	uint64_t len_bytes;
	int ret = file_map(extent->layer->file, extent->host_off, extent->len_bytes, &is_data,
			   &len_bytes);

	if (ret)
		return ret;
	extent->len_bytes = len_bytes;
	if (!is_data)
		extent->kind = EXTENT_ZERO;
	return 0;
}

/* The same where a layer's clusters were preallocated. *ret_hole: the host file has a hole. */
static int coroutine_fn split_preallocated(struct extent *extent, bool *ret_hole)
{
	bool is_data;
	uint64_t len_bytes;
	int ret = file_map(extent->layer->data_file, extent->host_off, extent->len_bytes, &is_data,
			   &len_bytes);

	if (ret)
		return ret;
	extent->len_bytes = len_bytes;
	*ret_hole = !is_data;
	return 0;
}

static int coroutine_fn map_locked(struct image *image, uint64_t guest_off, uint64_t max_bytes,
				   struct map_extent *ret)
{
	static const enum map_kind kinds[] = {
		[EXTENT_UNALLOCATED] = MAP_HOLE,
		[EXTENT_ZERO] = MAP_ZERO,
		[EXTENT_DATA] = MAP_DATA,
		[EXTENT_COMPRESSED] = MAP_COMPRESSED,
	};
	struct extent extent;
	bool hole = false;
	unsigned depth;
	int err;

	if (guest_off >= image->virtual_size || !max_bytes)
		return -EINVAL;
	max_bytes = min_u64(max_bytes, image->virtual_size - guest_off);
	err = map_chain(image, guest_off, max_bytes, &extent, &depth);
	if (!err && extent.layer->raw && extent.kind == EXTENT_DATA)
		err = split_raw(&extent);
	else if (!err && extent.kind == EXTENT_DATA && preallocated_is(extent.layer))
		err = split_preallocated(&extent, &hole);
	if (err)
		return err;
	*ret = (struct map_extent){
		.guest_off = guest_off,
		.len_bytes = extent.len_bytes,
		.kind = kinds[extent.kind],
		.depth = depth,
		.has_host_off = extent.has_host_off && extent.kind != EXTENT_COMPRESSED,
		.host_off = extent.host_off,
		.beyond_end = extent.layer != image && guest_off >= extent.layer->virtual_size,
		.host_hole = hole,
	};
	return 0;
}

int coroutine_fn image_map(struct image *image, uint64_t guest_off, uint64_t max_bytes,
			   struct map_extent *ret_extent)
{
	int ret;

	co_rwlock_rdlock(&image->resize_lock);
	ret = map_locked(image, guest_off, max_bytes, ret_extent);
	co_rwlock_unlock(&image->resize_lock);
	return ret;
}

int coroutine_fn image_seek(struct image *image, uint64_t guest_off, uint64_t end_off, bool data,
			    uint64_t *ret_off)
{
	struct map_extent extent;
	uint64_t pos = guest_off;
	unsigned nb_steps = 0;
	int ret = 0;

	co_rwlock_rdlock(&image->resize_lock);
	end_off = min_u64(end_off, image->virtual_size);
	if (guest_off >= end_off)
		ret = -ENXIO;
	while (!ret && pos < end_off) {
		ret = map_locked(image, pos, end_off - pos, &extent);
		if (ret || data == (extent.kind == MAP_DATA || extent.kind == MAP_COMPRESSED))
			break;
		pos += extent.len_bytes;
		if (++nb_steps % STEPS_IN_A_ROW == 0)
			co_give_way(); /* extents in the cache never wait for anything */
	}
	if (!ret && data && pos >= end_off)
		ret = -ENXIO;
	co_rwlock_unlock(&image->resize_lock);
	if (!ret)
		*ret_off = pos;
	return ret;
}
