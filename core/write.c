/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * write: see write.h.
 *
 * What is mapped and ours alone (COPIED) is written in place, without any lock: whoever
 * changes the mapping meanwhile leaves the old cluster untouched until this write has
 * ended (I6). Everything else happens under the guest range in writer->in_flight (I8),
 * run by run: clusters are taken (I1), head and tail of the copied area are read,
 * everything goes out in one writev (I3), then the L2 entries change in the cache and
 * what they held is unlinked.
 */
#include "core/write.h"

#include "core/ahead.h"
#include "core/alloc.h"
#include "core/flush.h"
#include "core/map.h"
#include "core/table.h"
#include "io/buf.h"

#include <errno.h>

#define IN_PLACE_BATCH 16u
#define COPY_BYTES_MAX (1u << 20)
#define ZERO_BYTES (64u << 10)

/* One request; in-place parts are started and waited for at the end. */
struct write_req {
	struct writer *writer;
	uint64_t guest_off;
	const uint8_t *buf;
	int result;
	unsigned nb_io;
	struct file_io io[IN_PLACE_BATCH];
	struct iovec iov[IN_PLACE_BATCH];
};

static void *data_at(const struct write_req *req, uint64_t guest_off)
{
	return (uint8_t *)req->buf + (guest_off - req->guest_off);
}

/* Metadata must not be where guest data goes. 0 or -EIO. */
static int coroutine_fn check_target(struct writer *writer, uint64_t host_off, uint64_t len_bytes)
{
	if (writer->failed)
		return writer->failed;
	if (!has_data_file(writer->image) && overlap_hits(&writer->overlap, host_off, len_bytes))
		return writer_mark_corrupt(writer);
	return 0;
}

/* ---- in place ---- */

static void coroutine_fn finish_in_place(struct write_req *req)
{
	for (unsigned i = 0; i < req->nb_io; i++) {
		int ret = file_io_finish(&req->io[i]);

		if (ret && !req->result)
			req->result = ret;
	}
	if (req->nb_io)
		writer_note_write(req->writer);
	req->nb_io = 0;
}

static int coroutine_fn write_in_place(struct write_req *req, const struct extent *extent)
{
	int ret = check_target(req->writer, extent->host_off, extent->len_bytes);

	if (ret)
		return ret;
	if (req->nb_io == IN_PLACE_BATCH)
		finish_in_place(req);
	req->iov[req->nb_io] = (struct iovec){data_at(req, extent->guest_off), extent->len_bytes};
	file_io_start(&req->io[req->nb_io], req->writer->image->data_file, IO_WRITE,
		      extent->host_off, &req->iov[req->nb_io], 1, IO_TAG_DATA);
	req->nb_io++;
	return 0;
}

static bool in_place(const struct extent *extent)
{
	return extent->kind == EXTENT_DATA && extent->copied;
}

/* ---- allocating ---- */

/*
 * A run of clusters that get (or keep, `reuse`) contiguous host clusters. Guest offsets:
 * [start, end) is written by the request; [copy_start, copy_end) around it is written, too.
 */
struct alloc_run {
	uint64_t start, end;
	uint64_t copy_start, copy_end;
	uint64_t first_cluster; /* guest offset, cluster-aligned */
	uint64_t nb_clusters;
	uint64_t host_off; /* of first_cluster */
	bool reuse; /* the clusters are ours already: zero ones, or without some subclusters */
	bool zero;  /* the host range reads as zeros */
	uint8_t *head, *tail; /* contents of the copied area, NULL: need not be written */
	size_t head_bytes, tail_bytes;
};

/* Must the whole cluster move, because its entry holds a cluster that will be unlinked? */
static bool moves_whole(const struct extent *extent)
{
	return extent->kind == EXTENT_COMPRESSED || (extent->has_host_off && !extent->copied);
}

/* Is `extent` to be treated like the first one of the run? */
static bool same_treatment(const struct alloc_run *run, const struct extent *extent)
{
	bool reuse = extent->has_host_off && extent->copied;

	if (in_place(extent) || reuse != run->reuse)
		return false;
	return !reuse ||
	       extent->host_off == run->host_off + (extent->guest_off - run->first_cluster);
}

/*
 * Plans the run that begins at `first`: how far the treatment stays the same, at most to `end`,
 * within one L2 table. 0 or -errno.
 */
static int coroutine_fn plan_run(struct writer *writer, const struct extent *first, uint64_t end,
				 struct alloc_run *run)
{
	struct image *image = writer->image;
	uint64_t size = cluster_size(image), unit = 1ull << image->subcluster_bits;
	uint64_t table_span = size << image->l2_bits;
	struct extent last = *first, next;
	bool whole_head = moves_whole(first);
	int ret;

	*run = (struct alloc_run){
		.start = first->guest_off,
		.first_cluster = round_down(first->guest_off, size),
		.reuse = first->has_host_off && first->copied,
	};
	if (run->reuse)
		run->host_off = first->host_off - (first->guest_off - run->first_cluster);
	end = min_u64(end, round_down(first->guest_off, table_span) + table_span);
	while (last.guest_off + last.len_bytes < end) {
		ret = map_layer(image, last.guest_off + last.len_bytes,
				end - last.guest_off - last.len_bytes, &next);
		if (ret)
			return ret;
		if (!same_treatment(run, &next))
			break;
		last = next;
	}
	run->end = last.guest_off + last.len_bytes;
	run->copy_start = round_down(run->start, whole_head ? size : unit);
	run->copy_end = round_up(run->end, moves_whole(&last) ? size : unit);
	run->nb_clusters = (round_up(run->copy_end, size) - run->first_cluster) / size;
	return 0;
}

/* Takes host clusters; the run may become shorter. 0 or -errno. */
static int coroutine_fn take_clusters(struct writer *writer, struct alloc_run *run)
{
	struct image *image = writer->image;
	uint64_t nb, run_end;
	int ret;

	if (has_data_file(image)) {
		run->host_off = run->first_cluster;
		return 0;
	}
	if (run->reuse)
		return check_target(writer, run->host_off, run->nb_clusters << image->cluster_bits);
	ret = alloc_clusters(writer, 1, run->nb_clusters, &run->host_off, &nb, &run->zero); /* I1 */
	if (ret || nb == run->nb_clusters)
		return ret;
	run->nb_clusters = nb;
	run_end = run->first_cluster + (nb << image->cluster_bits);
	run->start = min_u64(run->start, run_end);
	run->end = min_u64(run->end, run_end);
	run->copy_end = run_end;
	return 0;
}

/* Reads one side of the copied area. Zeros that are there already are left out. */
static int coroutine_fn read_side(struct writer *writer, const struct alloc_run *run,
				  uint64_t start, uint64_t end, uint8_t **ret_buf,
				  size_t *ret_bytes)
{
	size_t len_bytes = end - start;
	bool zero;
	uint8_t *buf;
	int ret;

	if (!len_bytes)
		return 0;
	buf = buf_get(len_bytes);
	if (!buf)
		return -ENOMEM;
	ret = read_for_copy(writer->image, start, buf, len_bytes, &zero);
	if (ret || (zero && run->zero)) {
		buf_put(buf, len_bytes);
		return ret;
	}
	if (zero)
		memset(buf, 0, len_bytes);
	*ret_buf = buf;
	*ret_bytes = len_bytes;
	return 0;
}

/* Writes head, data and tail in one go. `data` is NULL when the run only copies. */
static int coroutine_fn write_run_data(struct writer *writer, struct alloc_run *run, void *data)
{
	struct image *image = writer->image;
	struct iovec iov[3];
	uint64_t start = run->head ? run->copy_start : run->start;
	struct file_io io;
	int nb_iov = 0, ret;

	if (run->head)
		iov[nb_iov++] = (struct iovec){run->head, run->head_bytes};
	if (data)
		iov[nb_iov++] = (struct iovec){data, run->end - run->start};
	if (run->tail)
		iov[nb_iov++] = (struct iovec){run->tail, run->tail_bytes};
	if (!nb_iov)
		return 0;
	file_io_start(&io, image->data_file, IO_WRITE, run->host_off + (start - run->first_cluster),
		      iov, nb_iov, data ? IO_TAG_DATA : IO_TAG_COW);
	ret = file_io_finish(&io);
	writer_note_write(writer);
	return ret;
}

/* The entry after the run for the cluster at guest_off. I7: it is ours alone. */
static struct l2_entry linked_entry(const struct writer *writer, const struct alloc_run *run,
				    uint64_t guest_off, struct l2_entry old)
{
	const struct image *image = writer->image;
	uint64_t size = cluster_size(image);
	struct l2_entry entry = {
		.entry = (run->host_off + (guest_off - run->first_cluster)) | ENTRY_COPIED,
	};

	if (image->info.extended_l2) {
		uint64_t from = max_u64(run->copy_start, guest_off) - guest_off;
		uint64_t to = min_u64(run->copy_end, guest_off + size) - guest_off;
		unsigned first = from >> image->subcluster_bits;
		unsigned nb = (to - from) >> image->subcluster_bits;
		uint64_t mask = ((1ull << nb) - 1) << first;

		entry.bitmap = (old.bitmap & ~(mask << SUBCLUSTERS_PER_CLUSTER)) | mask;
		if (old.entry & L2_COMPRESSED)
			entry.bitmap = mask; /* there is no bitmap with a descriptor */
	}
	return entry;
}

/* Changes the entries of the run. *ret_nb tells how many were changed. 0 or -errno. */
static int coroutine_fn link_run(struct writer *writer, const struct alloc_run *run,
				 uint64_t l2_off, uint64_t *ret_nb)
{
	unsigned bits = writer->image->cluster_bits;
	uint64_t done = 0;
	int ret = 0;

	while (done < run->nb_clusters && !ret) {
		uint64_t guest_off = run->first_cluster + (done << bits);
		struct l2_window window;

		ret = table_open_window(writer, l2_off, guest_off, run->nb_clusters - done,
					&window);
		if (ret)
			break;
		ret = run_list_reserve(&writer->unlinked, window.nb);
		for (unsigned i = 0; i < window.nb && !ret; i++) {
			struct l2_entry old = table_get_entry(writer, &window, i);
			uint64_t off = guest_off + ((uint64_t)i << bits);

			if (!run->reuse)
				table_unlink(writer, old);
			table_set_entry(writer, &window, i, linked_entry(writer, run, off, old));
			done++;
		}
		table_close_window(writer, &window);
	}
	*ret_nb = done;
	return ret;
}

/* Carries a planned run out; `data` as in write_run_data(). 0 or -errno. */
static int coroutine_fn execute_run(struct writer *writer, struct alloc_run *run, uint64_t l2_off,
				    void *data)
{
	unsigned bits = writer->image->cluster_bits;
	uint64_t nb_linked = 0;
	int ret = take_clusters(writer, run);

	if (ret)
		return ret;
	ret = read_side(writer, run, run->copy_start, run->start, &run->head, &run->head_bytes);
	if (!ret)
		ret = read_side(writer, run, run->end, run->copy_end, &run->tail, &run->tail_bytes);
	if (!ret)
		ret = write_run_data(writer, run, data);
	if (!ret)
		ret = link_run(writer, run, l2_off, &nb_linked); /* I3: after the data */
	buf_put(run->head, run->head_bytes);
	buf_put(run->tail, run->tail_bytes);
	if (nb_linked < run->nb_clusters && !run->reuse && !has_data_file(writer->image))
		alloc_undo(writer, run->host_off + (nb_linked << bits),
			   run->nb_clusters - nb_linked); /* I12 */
	return ret;
}

/* Writes [pos, end), of which nobody else changes the mapping. 0 or -errno. */
static int coroutine_fn write_exclusive(struct write_req *req, uint64_t pos, uint64_t end)
{
	struct writer *writer = req->writer;

	while (pos < end) {
		struct alloc_run run;
		struct extent extent;
		uint64_t l2_off;
		int ret = table_make_writable(writer, pos, &l2_off);

		if (!ret)
			ret = map_layer(writer->image, pos, end - pos, &extent);
		if (ret)
			return ret;
		if (in_place(&extent)) {
			ret = write_in_place(req, &extent);
			pos += extent.len_bytes;
		} else {
			ret = plan_run(writer, &extent, end, &run);
			if (!ret)
				ret = execute_run(writer, &run, l2_off, data_at(req, pos));
			pos = run.end;
		}
		if (ret)
			return ret;
	}
	return 0;
}

static int coroutine_fn write_allocating(struct write_req *req, uint64_t pos, uint64_t end)
{
	struct writer *writer = req->writer;
	uint64_t size = cluster_size(writer->image);
	uint64_t start = round_down(pos, size);
	struct range_hold hold;
	int ret;

	range_lock(&writer->in_flight, &hold, start, round_up(end, size) - start, true); /* I8 */
	ret = write_exclusive(req, pos, end);
	range_unlock(&writer->in_flight, &hold);
	return ret;
}

/* How far from pos on nothing can be written in place. */
static int coroutine_fn find_in_place(struct image *image, uint64_t pos, uint64_t end,
				      uint64_t *ret_pos)
{
	struct extent extent;
	int ret = 0;

	while (pos < end) {
		ret = map_layer(image, pos, end - pos, &extent);
		if (ret || in_place(&extent))
			break;
		pos += extent.len_bytes;
	}
	*ret_pos = pos;
	return ret;
}

int coroutine_fn write_range(struct writer *writer, uint64_t guest_off, const uint8_t *buf,
			     size_t len_bytes)
{
	struct write_req req;
	uint64_t pos = guest_off, end = guest_off + len_bytes;
	struct extent extent;
	int ret = 0;

	req.writer = writer;
	req.guest_off = guest_off;
	req.buf = buf;
	req.result = 0;
	req.nb_io = 0;
	while (pos < end && !ret && !req.result) {
		ret = map_layer(writer->image, pos, end - pos, &extent);
		if (ret)
			break;
		if (in_place(&extent)) {
			ret = write_in_place(&req, &extent);
			pos += extent.len_bytes;
		} else {
			uint64_t stop = pos;

			ret = find_in_place(writer->image, pos, end, &stop);
			/* Nothing left to do if somebody else has just allocated it. */
			if (!ret && stop > pos)
				ret = write_allocating(&req, pos, stop);
			pos = stop;
		}
	}
	finish_in_place(&req);
	return ret ? ret : req.result;
}

int coroutine_fn write_zeros(struct writer *writer, uint64_t guest_off, uint64_t len_bytes)
{
	size_t buf_bytes = min_u64(len_bytes, ZERO_BYTES);
	uint8_t *buf = len_bytes ? buf_get(buf_bytes) : NULL;
	int ret = 0;

	if (!len_bytes)
		return 0;
	if (!buf)
		return -ENOMEM;
	memset(buf, 0, buf_bytes);
	while (len_bytes && !ret) {
		size_t n = min_u64(len_bytes, buf_bytes);
		struct extent extent;

		ret = map_chain(writer->image, guest_off, n, &extent, NULL);
		if (ret)
			break;
		n = extent.len_bytes;
		if (extent.kind == EXTENT_DATA || extent.kind == EXTENT_COMPRESSED)
			ret = write_range(writer, guest_off, buf, n);
		guest_off += n;
		len_bytes -= n;
	}
	buf_put(buf, buf_bytes);
	return ret;
}

int coroutine_fn write_copy_clusters(struct writer *writer, uint64_t guest_off, uint64_t len_bytes,
				     uint64_t *ret_len_bytes)
{
	uint64_t l2_off;
	struct alloc_run run;
	struct extent extent;
	int ret = table_make_writable(writer, guest_off, &l2_off);

	if (!ret)
		ret = map_layer(writer->image, guest_off, min_u64(len_bytes, COPY_BYTES_MAX),
				&extent);
	if (ret)
		return ret;
	ret = plan_run(writer, &extent, guest_off + extent.len_bytes, &run);
	if (ret)
		return ret;
	/* The request writes nothing itself: all of it is head. */
	run.copy_start = run.first_cluster;
	run.copy_end = run.first_cluster + (run.nb_clusters << writer->image->cluster_bits);
	run.start = run.end = run.copy_end;
	ret = execute_run(writer, &run, l2_off, NULL);
	*ret_len_bytes = run.copy_end - guest_off;
	return ret;
}

int coroutine_fn image_write(struct image *image, uint64_t guest_off, const void *buf,
			     size_t len_bytes)
{
	struct io_record record;
	bool tried = false;
	int ret;

	co_rwlock_rdlock(&image->resize_lock);
	if (!image->writer)
		ret = -EROFS;
	else if (guest_off > image->virtual_size || len_bytes > image->virtual_size - guest_off)
		ret = -ENOSPC;
	else
		ret = writer_begin_data(image->writer);
	if (!ret) {
		do {
			io_begin(image, &record);
			ret = write_range(image->writer, guest_off, buf, len_bytes);
			io_end(image, &record);
		} while (writer_make_room(image->writer, ret, &tried));
		image->stats.nb_writes++;
		image->stats.written_bytes += len_bytes;
	}
	co_rwlock_unlock(&image->resize_lock);
	return ret;
}

int coroutine_fn image_flush(struct image *image)
{
	int ret;

	co_rwlock_rdlock(&image->resize_lock);
	if (image->writer)
		ahead_note_flush(image->writer);
	ret = image->writer ? flush_run(image->writer) : 0;
	image->stats.nb_flushes++;
	co_rwlock_unlock(&image->resize_lock);
	return ret;
}
