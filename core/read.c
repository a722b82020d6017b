/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * read: from a guest range to bytes. The range is mapped through the chain, runs that
 * continue one another are merged, everything is started before anything is waited
 * for, and zeros are reported instead of written where the caller can use that.
 *
 * Nothing here allocates memory when the mapping is cached and no cluster is
 * compressed; the bookkeeping lives on the coroutine's stack.
 */
#include "core/map.h"
#include "core/write.h"

#include <errno.h>

#define READ_BATCH 16u

struct read_segment {
	bool compressed;
	void *dest;
	size_t len_bytes;
	union {
		struct {
			struct file_io io;
			struct iovec iov;
		} data;
		struct {
			struct inflate_op op;
			uint64_t cluster_off; /* of dest's bytes in the cluster */
		} inflate;
	};
};

struct read_plan {
	struct image *image; /* to which the places of clusters are published */
	uint64_t since;      /* its nb_taken_back at the beginning */
	uint64_t guest_off;
	size_t len_bytes;
	uint8_t *buf;                 /* NULL: only clusters are inflated, into their cache */
	struct read_pieces *pieces;   /* NULL: zeros are written */
	struct io_sequel *sequel;     /* of a transfer that is all there is; NULL: none */
	const struct image *inflated; /* the layer in which a part was compressed; NULL: none */
	unsigned nb;
	int result;
	struct read_segment segments[READ_BATCH];
};

/* Waits for everything that was started. Errors stay in plan->result, the first wins. */
static void coroutine_fn plan_finish(struct read_plan *plan)
{
	for (unsigned i = 0; i < plan->nb; i++)
		if (plan->segments[i].compressed)
			inflate_decode(&plan->segments[i].inflate.op);
	for (unsigned i = 0; i < plan->nb; i++) {
		struct read_segment *segment = &plan->segments[i];
		const uint8_t *cluster;
		int ret;

		if (segment->compressed) {
			ret = inflate_wait(&segment->inflate.op, &cluster);
			if (!ret && segment->dest)
				memcpy(segment->dest, cluster + segment->inflate.cluster_off,
				       segment->len_bytes);
			inflate_end(&segment->inflate.op);
		} else {
			ret = file_io_finish(&segment->data.io);
		}
		if (ret && !plan->result)
			plan->result = ret;
	}
	plan->nb = 0;
}

/* Appends to the pieces; the last slot takes in all the rest of a very mixed range. */
static void add_piece(struct read_plan *plan, uint8_t *dest, size_t len_bytes, bool zero)
{
	struct read_pieces *pieces = plan->pieces;
	struct iovec *last;

	if (zero && (!pieces || pieces->nb >= READ_PIECES_MAX - 1)) {
		memset(dest, 0, len_bytes);
		zero = false;
	}
	if (!pieces)
		return;
	last = pieces->nb ? &pieces->iov[pieces->nb - 1] : NULL;
	if (last && !last->iov_base == zero) {
		last->iov_len += len_bytes;
		return;
	}
	pieces->iov[pieces->nb++] =
		(struct iovec){.iov_base = zero ? NULL : dest, .iov_len = len_bytes};
}

static bool is_zero(const struct extent *extent)
{
	return extent->kind == EXTENT_ZERO || extent->kind == EXTENT_UNALLOCATED;
}

/* Starts what an extent needs. */
static void coroutine_fn plan_extent(struct read_plan *plan, const struct extent *extent)
{
	uint8_t *dest = plan->buf ? plan->buf + (extent->guest_off - plan->guest_off) : NULL;
	struct image *layer = extent->layer;
	struct read_segment *segment;
	int ret = 0;

	if (!dest && extent->kind != EXTENT_COMPRESSED)
		return;
	if (dest)
		add_piece(plan, dest, extent->len_bytes, is_zero(extent));
	if (is_zero(extent))
		return;
	if (plan->nb == READ_BATCH)
		plan_finish(plan);
	segment = &plan->segments[plan->nb];
	segment->compressed = extent->kind == EXTENT_COMPRESSED;
	segment->dest = dest;
	segment->len_bytes = extent->len_bytes;
	if (segment->compressed) {
		plan->inflated = layer;
		segment->inflate.cluster_off = extent->guest_off & (cluster_size(layer) - 1);
		ret = inflate_begin(&segment->inflate.op, layer, extent->host_off);
	} else {
		segment->data.iov = (struct iovec){.iov_base = dest, .iov_len = extent->len_bytes};
		published_note(plan->image, extent, plan->since);
		file_io_start_read(&segment->data.io, layer->data_file, extent->host_off,
				   &segment->data.iov, IO_TAG_DATA,
				   extent->len_bytes == plan->len_bytes ? plan->sequel : NULL);
	}
	if (ret)
		plan->result = ret;
	else
		plan->nb++;
}

/* Adds `next` to `extent` when one transfer can serve both. */
static bool merge(struct extent *extent, const struct extent *next)
{
	bool both_zero = is_zero(extent) && is_zero(next);
	bool contiguous = extent->kind == EXTENT_DATA && next->kind == EXTENT_DATA &&
			  extent->layer == next->layer &&
			  extent->host_off + extent->len_bytes == next->host_off;

	if (!both_zero && !contiguous)
		return false;
	extent->len_bytes += next->len_bytes;
	return true;
}

static int coroutine_fn read_range(struct image *image, struct read_plan *plan)
{
	uint64_t pos = plan->guest_off, end = pos + plan->len_bytes;
	struct extent pending = {0}, next;
	int ret = 0;

	plan->image = image;
	plan->since = image->published.nb_taken_back;
	while (pos < end && !plan->result) {
		ret = map_chain(image, pos, end - pos, &next, NULL);
		if (ret)
			break;
		pos += next.len_bytes;
		if (pending.len_bytes && merge(&pending, &next))
			continue;
		if (pending.len_bytes)
			plan_extent(plan, &pending);
		pending = next;
	}
	if (!ret && pending.len_bytes)
		plan_extent(plan, &pending);
	plan_finish(plan);
	return ret ? ret : plan->result;
}

static void plan_init(struct read_plan *plan, uint64_t guest_off, void *buf, size_t len_bytes,
		      struct read_pieces *pieces)
{
	plan->guest_off = guest_off;
	plan->len_bytes = len_bytes;
	plan->buf = buf;
	plan->pieces = pieces;
	plan->sequel = NULL;
	plan->inflated = NULL;
	plan->nb = 0;
	plan->result = 0;
	if (pieces)
		pieces->nb = 0;
}

int coroutine_fn read_for_copy(struct image *image, uint64_t guest_off, uint8_t *buf,
			       size_t len_bytes, bool *ret_zero)
{
	uint64_t inside = guest_off < image->virtual_size ? image->virtual_size - guest_off : 0;
	size_t nb_read = min_u64(len_bytes, inside);
	struct read_pieces pieces;
	struct read_plan plan;
	int ret;

	plan_init(&plan, guest_off, buf, nb_read, &pieces);
	ret = read_range(image, &plan);
	if (ret)
		return ret;
	*ret_zero = !pieces.nb || (pieces.nb == 1 && !pieces.iov[0].iov_base);
	if (*ret_zero)
		return 0;
	for (unsigned i = 0, done = 0; i < pieces.nb; done += pieces.iov[i++].iov_len)
		if (!pieces.iov[i].iov_base)
			memset(buf + done, 0, pieces.iov[i].iov_len);
	memset(buf + nb_read, 0, len_bytes - nb_read);
	return 0;
}

int coroutine_fn image_read(struct image *image, uint64_t guest_off, void *buf, size_t len_bytes,
			    struct read_pieces *pieces)
{
	return image_read_then(image, guest_off, buf, len_bytes, pieces, NULL);
}

int coroutine_fn image_read_then(struct image *image, uint64_t guest_off, void *buf,
				 size_t len_bytes, struct read_pieces *pieces,
				 struct io_sequel *sequel)
{
	struct read_plan plan;
	struct io_record record;
	int ret;

	plan_init(&plan, guest_off, buf, len_bytes, pieces);
	plan.sequel = sequel;
	co_rwlock_rdlock(&image->resize_lock);
	if (guest_off > image->virtual_size || len_bytes > image->virtual_size - guest_off) {
		ret = -EINVAL;
	} else {
		io_begin(image, &record);
		ret = read_range(image, &plan);
		io_end(image, &record);
		image->stats.nb_reads++;
		image->stats.read_bytes += len_bytes;
		if (plan.inflated)
			read_ahead_note(image, plan.inflated, guest_off, len_bytes);
	}
	co_rwlock_unlock(&image->resize_lock);
	return ret;
}

void coroutine_fn read_into_cache(struct image *image, uint64_t guest_off, uint64_t len_bytes)
{
	struct read_plan plan;
	struct io_record record;

	plan_init(&plan, guest_off, NULL, len_bytes, NULL);
	co_rwlock_rdlock(&image->resize_lock);
	if (guest_off <= image->virtual_size && len_bytes <= image->virtual_size - guest_off) {
		io_begin(image, &record);
		read_range(image, &plan);
		io_end(image, &record);
	}
	co_rwlock_unlock(&image->resize_lock);
}
