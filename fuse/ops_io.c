/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ops_io: the requests that touch an image, each a coroutine on the reactor, but for reads that
 * need none. See ops.h.
 *
 * Reads are answered straight from the buffer that the image was read into; the
 * image's zeros come from one area of zeros that is never written.
 *
 * A request lets the others that are ready do their I/O before it is answered: answers then go
 * out one after the other, and the first has woken the client's CPU for all of them.
 */
#include "fuse/ops_int.h"
#include "fuse/zeros.h"
#include "io/buf.h"
#include "io/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <string.h>
#include <unistd.h>

/* What one COPY_FILE_RANGE copies at most: the caller asks again for the rest. */
#define COPY_BYTES_MAX (16u << 20)
#define COPY_CHUNK_BYTES (1u << 20)
/* Who reads at once has others to serve, too. */
#define AT_ONCE_BYTES_MAX (64u << 10)

/* ---- messages ---- */

#define NO_OFFSET UINT64_MAX

/*
 * Says what failed, at which offset of the file, and where that lies in the host's files, as far
 * as the mapping can be read.
 */
static void coroutine_fn report(struct ops *ops, const struct node *node, const char *what,
				uint64_t off, int error)
{
	struct image *image = node_image(node);
	const char *path = image_info(image)->path;
	struct map_extent extent;
	unsigned nb_dropped;

	if (!log_limit_pass(&ops->error_limit, &nb_dropped))
		return;
	if (nb_dropped)
		log_error("%u more I/O errors were not logged", nb_dropped);
	if (off == NO_OFFSET) {
		log_error("%s: %s: %s", path, what, strerror(-error));
		return;
	}
	off += node->start_bytes;
	if (off < image_info(image)->virtual_size && image_map(image, off, 1, &extent) == 0 &&
	    extent.has_host_off)
		log_error("%s: %s at guest offset %" PRIu64 " (layer %u, host offset %" PRIu64
			  "): %s",
			  path, what, off, extent.depth, extent.host_off, strerror(-error));
	else
		log_error("%s: %s at guest offset %" PRIu64 ": %s", path, what, off,
			  strerror(-error));
}

static void coroutine_fn fail(struct request *request, const char *what, uint64_t off, int error)
{
	report(request->ops, request->node, what, off, error);
	request_reply_error(request, error);
}

/* ---- read ---- */

struct read_reply {
	struct request *request;
	struct iovec iov[REQUEST_IOV_MAX];
	int nb_iov;
};

static void send_read_reply(void *arg)
{
	struct read_reply *reply = arg;

	request_reply(reply->request, 0, reply->iov, reply->nb_iov);
}

/* Zero pieces become pointers to the area of zeros, as often as it takes. */
static bool build_reply(struct read_reply *reply, const struct ops *ops,
			const struct read_pieces *pieces)
{
	reply->nb_iov = 0;
	for (unsigned i = 0; i < pieces->nb; i++) {
		const struct iovec *piece = &pieces->iov[i];
		size_t left = piece->iov_len;

		while (left > 0) {
			struct iovec *iov = &reply->iov[reply->nb_iov];

			if (reply->nb_iov == REQUEST_IOV_MAX)
				return false;
			*iov = (struct iovec){.iov_base = piece->iov_base, .iov_len = left};
			if (!piece->iov_base) {
				iov->iov_base = (void *)ops->zeros;
				if (left > ZEROS_BYTES)
					iov->iov_len = ZEROS_BYTES;
			}
			left -= iov->iov_len;
			reply->nb_iov++;
		}
	}
	return true;
}

static bool may_read(const struct ops *ops, const struct node *node, size_t len_bytes)
{
	if (node->read_bytes == 0)
		return true;
	return ops->read_bytes + len_bytes <= READ_BYTES_MAX &&
	       node->read_bytes + len_bytes <= READ_BYTES_MAX_PER_FILE;
}

static int coroutine_fn begin_read(struct request *request, size_t len_bytes)
{
	struct ops *ops = request->ops;
	struct node *node = request->node;

	while (!may_read(ops, node, len_bytes))
		co_queue_wait(&ops->read_waiters);
	if (request_alloc(request, len_bytes) < 0)
		return -ENOMEM;
	ops->read_bytes += len_bytes;
	node->read_bytes += len_bytes;
	return 0;
}

/* The reply has been sent, and the buffer is back. */
static void end_read(struct ops *ops, struct node *node, size_t len_bytes)
{
	ops->read_bytes -= len_bytes;
	node->read_bytes -= len_bytes;
	if (!co_queue_empty(&ops->read_waiters))
		co_queue_wake_all(&ops->read_waiters);
}

/*
 * Less than *len_bytes where the disk has become shorter since its size was looked at. `sequel`
 * (NULL: none) is for all of it.
 */
static int coroutine_fn read_disk(const struct node *node, uint64_t off, void *buf,
				  size_t *len_bytes, struct read_pieces *pieces,
				  struct io_sequel *sequel)
{
	struct image *image = node_image(node);
	uint64_t guest_off = node->start_bytes + off;
	int res;

	while ((res = image_read_then(image, guest_off, buf, *len_bytes, pieces, sequel)) ==
	       -EINVAL) {
		uint64_t size_bytes = image_info(image)->virtual_size;
		uint64_t left = size_bytes > guest_off ? size_bytes - guest_off : 0;

		if (left >= *len_bytes)
			return res;
		*len_bytes = left;
		if (!left)
			return 0;
		sequel = NULL;
	}
	return res;
}

/* Nobody waits while the reactor copies, and a worker would have to be woken. */
static bool is_alone(const struct ops *ops)
{
	return ops->nb_active == 1;
}

static void send_data(void *arg, const void *data)
{
	struct request *request = arg;

	request_reply_buf(request, data, request->buf_bytes);
}

/*
 * A large answer that needs nothing but the data follows the read at once, on the thread that has
 * made it: the data is still in the cache of that CPU.
 */
static void coroutine_fn read_and_reply(struct request *request, size_t len_bytes)
{
	struct read_reply reply = {.request = request};
	struct io_sequel sequel = {.fn = send_data, .arg = request};
	bool large = len_bytes > request->transport->reply_inline_bytes;
	struct read_pieces pieces;
	int res;

	res = read_disk(request->node, request->offset, request->buf, &len_bytes, &pieces,
			large ? &sequel : NULL);
	if (sequel.ran)
		return;
	reactor_pass();
	if (res < 0)
		fail(request, "read error", request->offset, res);
	else if (!len_bytes)
		request_reply_error(request, 0);
	else if (!build_reply(&reply, request->ops, &pieces))
		request_reply_error(request, -EIO);
	else if (large && !is_alone(request->ops))
		worker_run(send_read_reply, &reply);
	else
		send_read_reply(&reply);
}

void coroutine_fn ops_run_read(void *arg)
{
	struct request *request = arg;
	struct ops *ops = request->ops;
	struct node *node = request->node;
	uint64_t size_bytes = node->size_bytes;
	size_t len_bytes = request->len_bytes;
	bool in_area;
	int res;

	if (request->offset >= size_bytes) {
		request_reply_error(request, 0);
		return;
	}
	if (len_bytes > size_bytes - request->offset)
		len_bytes = size_bytes - request->offset;
	/* The memory of the transport is bounded as it is. */
	in_area = len_bytes <= request->area_bytes;
	res = in_area ? request_alloc(request, len_bytes) : begin_read(request, len_bytes);
	if (res < 0) {
		request_reply_error(request, res);
		return;
	}
	read_and_reply(request, len_bytes);
	if (!in_area)
		end_read(ops, node, len_bytes);
}

/* The views of snapshots are opened and closed while requests are under way. */
static bool fits_at_once(const struct request *request, const struct node *node)
{
	uint64_t end, size_bytes = node->size_bytes;

	return !node->disk->view && request->len_bytes <= AT_ONCE_BYTES_MAX &&
	       !__builtin_add_overflow(request->offset, request->len_bytes, &end) &&
	       end <= size_bytes &&
	       image_fits_beside(node->disk->image, node->start_bytes + request->offset,
				 request->len_bytes);
}

bool ops_fits_beside(const struct request *request)
{
	const struct ops *ops = request->ops;
	const struct node *node = ops->closing ? NULL : tree_get(ops->params.tree, request->ino);

	return node && !node->is_dir && request->op == REQUEST_READ && fits_at_once(request, node);
}

static void answer_read(void *arg)
{
	struct request *request = arg;

	request_reply_buf(request, request->buf, request->len_bytes);
}

bool ops_read_at_once(struct request *request)
{
	struct reactor *reactor = request->ops->params.reactor;
	bool on_reactor = reactor_is_current(reactor);
	const struct node *node = request->node;

	if (!fits_at_once(request, node) || request_alloc(request, request->len_bytes) < 0)
		return false;
	if (!(on_reactor ? image_read_at_once : image_read_beside)(
		    node->disk->image, node->start_bytes + request->offset, request->buf,
		    request->len_bytes)) {
		request_free(request);
		return false;
	}
	if (on_reactor) {
		request->task = (struct task){.fn = answer_read, .arg = request};
		reactor_defer(reactor, &request->task);
	} else {
		answer_read(request);
	}
	return true;
}

/* ---- write ---- */

/*
 * How much of [off, off + len_bytes) can be written: all of it, after growing where
 * that is allowed; else what lies inside the file. A partition has its place in the table and
 * does not grow. Negative: -errno.
 */
static int64_t coroutine_fn make_room(struct request *request, struct node *node, uint64_t off,
				      uint64_t len_bytes)
{
	const struct ops *ops = request->ops;
	uint64_t end;
	int res = 0;

	if (__builtin_add_overflow(off, len_bytes, &end) || end > INT64_MAX)
		return -EFBIG;
	if (end <= node->size_bytes)
		return (int64_t)len_bytes;
	if (!ops->params.grow || node != node->disk->whole)
		return off < node->size_bytes ? (int64_t)(node->size_bytes - off) : -ENOSPC;
	co_mutex_lock(&node->disk->size_mutex);
	if (end > node->size_bytes) {
		res = image_resize(node->disk->image, end);
		node->size_bytes = image_info(node->disk->image)->virtual_size;
	}
	co_mutex_unlock(&node->disk->size_mutex);
	return res < 0 ? res : (int64_t)len_bytes;
}

/*
 * A direct write past the end is short, as on a block device. One from the page cache cannot
 * be, nor a direct one by a handle that uses it, of which the kernel makes EIO: what fits is
 * written, and the writer learns of the end.
 */
void coroutine_fn ops_run_write(void *arg)
{
	struct request *request = arg;
	struct ops *ops = request->ops;
	struct node *node = request->node;
	bool direct = request_is_direct_write(request);
	int64_t fits = make_room(request, node, request->offset, request->len_bytes);
	int res;

	if (fits < 0) {
		request_reply_error(request, (int)fits);
		return;
	}
	res = image_write(node->disk->image, node->start_bytes + request->offset, request->payload,
			  (size_t)fits);
	if (res == 0) {
		node_touch(node, request->offset, (uint64_t)fits);
		/* For O_DSYNC the kernel sends no FSYNC on direct handles, nor after AIO. */
		if (direct && (ops->params.sync || (request->flags & (O_DSYNC | O_SYNC))))
			res = image_flush(node->disk->image);
	}
	reactor_pass();
	if (res < 0)
		report(ops, node, "write error", request->offset, res);
	else if (!(direct && request->fh & FH_DIRECT) && (uint64_t)fits < request->len_bytes)
		res = -ENOSPC;
	invalidator_reply(request, node, request->offset, (uint64_t)fits, res);
}

void coroutine_fn ops_run_flush(void *arg)
{
	struct request *request = arg;
	int res = 0;

	if (request->node->writable)
		res = image_flush(request->node->disk->image);
	if (res < 0)
		fail(request, "write-back failed", NO_OFFSET, res);
	else
		request_reply_error(request, 0);
}

/* For who may look into the folder, and not into the files. */
void coroutine_fn ops_run_flush_all(void *arg)
{
	struct request *request = arg;
	const struct tree *tree = request->ops->params.tree;
	int res = 0;

	for (const struct tree_disk *disk = tree->disks; disk; disk = disk->next) {
		int err = disk->whole->writable ? image_flush(disk->image) : 0;

		if (err < 0)
			report(request->ops, disk->whole, "write-back failed", NO_OFFSET, err);
		res = res ? res : err;
	}
	request_reply_error(request, res);
}

/* ---- seek ---- */

static int coroutine_fn seek(const struct request *request, uint64_t *ret_off)
{
	const struct node *node = request->node;
	uint64_t found = node->start_bytes;
	int res = image_seek(node_image(node), node->start_bytes + request->offset,
			     node->start_bytes + node->size_bytes, request->flags == SEEK_DATA,
			     &found);

	*ret_off = found - node->start_bytes;
	return res;
}

/*
 * The kernel does not look whether it holds changed pages that have not been written: as long as
 * it may, a hole is one when they have been, and the image still says so. True: `request` waits
 * for that, and comes back.
 */
static bool wash_hole(struct request *request, int *res, uint64_t *found)
{
	const struct node *node = request->node;
	bool data = request->flags == SEEK_DATA;
	uint64_t size_bytes = node->size_bytes;
	uint64_t start = data ? request->offset : *found;
	uint64_t end = !data ? *found + 1 : *res == -ENXIO ? size_bytes : *found;

	if (start >= end || start >= size_bytes || node->nb_cached_opens == 0 ||
	    !node_is_written(node))
		return false;
	if (start >= request->washed_off && end <= request->washed_off + request->washed_bytes)
		return false;
	if (invalidator_wash(request, start, end - start))
		return true;
	/* All of it may always be called data. */
	*found = data ? request->offset : size_bytes;
	*res = 0;
	return false;
}

void coroutine_fn ops_run_lseek(void *arg)
{
	struct request *request = arg;
	const struct node *node = request->node;
	struct fuse_lseek_out out;
	int res;

	if (request->flags != SEEK_DATA && request->flags != SEEK_HOLE) {
		request_reply_error(request, -EINVAL);
		return;
	}
	if (request->offset >= node->size_bytes) {
		request_reply_error(request, -ENXIO);
		return;
	}
	res = seek(request, &out.offset);
	if ((res == 0 || res == -ENXIO) && wash_hole(request, &res, &out.offset))
		return;
	if (res == -ENXIO)
		request_reply_error(request, res);
	else if (res < 0)
		fail(request, "seek error", request->offset, res);
	else
		request_reply_buf(request, &out, sizeof(out));
}

/* ---- space ---- */

enum space_action { SPACE_ALLOCATE, SPACE_ZERO, SPACE_DISCARD };

static int space_action(const struct ops *ops, uint32_t mode, enum space_action *ret_action)
{
	switch (mode & ~(uint32_t)FALLOC_FL_KEEP_SIZE) {
	case 0:
		*ret_action = SPACE_ALLOCATE;
		return 0;
	case FALLOC_FL_ZERO_RANGE:
		*ret_action = SPACE_ZERO;
		return 0;
	case FALLOC_FL_PUNCH_HOLE:
		if (!(mode & FALLOC_FL_KEEP_SIZE))
			return -EOPNOTSUPP;
		*ret_action = ops->params.discard_keeps_space ? SPACE_ZERO : SPACE_DISCARD;
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static int coroutine_fn change_space(struct image *image, enum space_action action, uint64_t off,
				     uint64_t len_bytes)
{
	switch (action) {
	case SPACE_ALLOCATE:
		return image_allocate(image, off, len_bytes);
	case SPACE_ZERO:
		return image_zero(image, off, len_bytes, true);
	case SPACE_DISCARD:
		return image_discard(image, off, len_bytes);
	}
	return -EOPNOTSUPP;
}

void coroutine_fn ops_run_fallocate(void *arg)
{
	struct request *request = arg;
	struct node *node = request->node;
	enum space_action action;
	int64_t fits = 0;
	int res = space_action(request->ops, request->flags, &action);

	if (res < 0) {
		request_reply_error(request, res);
		return;
	}
	if (!(request->flags & FALLOC_FL_KEEP_SIZE)) {
		fits = make_room(request, node, request->offset, request->len_bytes);
		if (fits >= 0 && (uint64_t)fits < request->len_bytes)
			fits = -ENOSPC;
	} else if (request->offset < node->size_bytes) {
		uint64_t left = node->size_bytes - request->offset;

		fits = (int64_t)(request->len_bytes < left ? request->len_bytes : left);
	}
	if (fits < 0) {
		request_reply_error(request, (int)fits);
		return;
	}
	if (fits > 0) {
		res = change_space(node->disk->image, action, node->start_bytes + request->offset,
				   (uint64_t)fits);
		node_touch(node, request->offset, (uint64_t)fits);
	}
	if (res < 0)
		report(request->ops, node, "cannot change the allocation", request->offset, res);
	invalidator_reply(request, node, request->offset, (uint64_t)fits, res);
}

void coroutine_fn ops_run_truncate(void *arg)
{
	struct request *request = arg;
	struct node *node = request->node;
	uint64_t wanted = (uint64_t)request->attr.st_size;
	int res = 0;

	if (!node->writable) {
		request_reply_error(request, node->is_dir ? -EISDIR : -EROFS);
		return;
	}
	co_mutex_lock(&node->disk->size_mutex);
	if (wanted < node->size_bytes && !request->ops->params.shrink) {
		res = -EPERM;
	} else if (wanted > node->size_bytes && node != node->disk->whole) {
		res = -ENOSPC;
	} else if (wanted != node->size_bytes) {
		res = image_resize(node->disk->image, wanted);
		node->size_bytes = image_info(node->disk->image)->virtual_size;
		node_touch(node, 0, wanted);
	}
	co_mutex_unlock(&node->disk->size_mutex);
	if (res == 0)
		reply_attr_from_asker(request);
	else if (res == -EPERM || node != node->disk->whole)
		request_reply_error(request, res);
	else
		fail(request, "cannot change the size", NO_OFFSET, res);
}

/* ---- copy_file_range ---- */

static int coroutine_fn write_pieces(struct image *image, uint64_t off,
				     const struct read_pieces *pieces)
{
	int res = 0;

	for (unsigned i = 0; i < pieces->nb && res == 0; i++) {
		const struct iovec *piece = &pieces->iov[i];

		if (piece->iov_base)
			res = image_write(image, off, piece->iov_base, piece->iov_len);
		else
			res = image_zero(image, off, piece->iov_len, false);
		off += piece->iov_len;
	}
	return res;
}

/* *chunk_bytes becomes 0 where the end is. */
static int coroutine_fn copy_chunk(struct request *request, struct node *to, uint64_t done,
				   size_t *chunk_bytes)
{
	uint64_t from_off = request->offset + done, to_off = request->offset_out + done;
	struct read_pieces pieces;
	int res = read_disk(request->node, from_off, request->buf, chunk_bytes, &pieces, NULL);

	if (res < 0)
		report(request->ops, request->node, "read error", from_off, res);
	if (res < 0 || !*chunk_bytes)
		return res;
	res = write_pieces(to->disk->image, to->start_bytes + to_off, &pieces);
	if (res < 0)
		report(request->ops, to, "write error", to_off, res);
	return res;
}

/* Copies up to len_bytes; returns how much, or -errno when that is nothing. */
static int64_t coroutine_fn copy_chunks(struct request *request, struct node *to,
					uint64_t len_bytes)
{
	uint64_t done = 0;

	while (done < len_bytes) {
		uint64_t left = len_bytes - done;
		size_t chunk_bytes = left < request->buf_bytes ? left : request->buf_bytes;
		int res = copy_chunk(request, to, done, &chunk_bytes);

		if (res < 0)
			return done ? (int64_t)done : res;
		if (!chunk_bytes)
			break;
		done += chunk_bytes;
	}
	return (int64_t)done;
}

/* The same, with memory that counts among that of the reads. */
static int64_t coroutine_fn copy_range(struct request *request, struct node *to, uint64_t len_bytes)
{
	size_t chunk_bytes = len_bytes < COPY_CHUNK_BYTES ? len_bytes : COPY_CHUNK_BYTES;
	int64_t res = begin_read(request, chunk_bytes);

	if (res < 0)
		return res;
	res = copy_chunks(request, to, len_bytes);
	request_free(request);
	end_read(request->ops, request->node, chunk_bytes);
	return res;
}

void coroutine_fn ops_run_copy(void *arg)
{
	struct request *request = arg;
	struct ops *ops = request->ops;
	struct node *from = request->node, *to = tree_get(ops->params.tree, request->ino_out);
	uint64_t len_bytes = request->len_bytes;
	int64_t res;

	if (!to || !to->writable) {
		request_reply_error(request, -EROFS);
		return;
	}
	if (request->offset >= from->size_bytes)
		len_bytes = 0;
	else if (len_bytes > from->size_bytes - request->offset)
		len_bytes = from->size_bytes - request->offset;
	if (len_bytes > COPY_BYTES_MAX)
		len_bytes = COPY_BYTES_MAX;
	res = make_room(request, to, request->offset_out, len_bytes);
	if (res > 0) {
		res = copy_range(request, to, (uint64_t)res);
		node_touch(to, request->offset_out, res > 0 ? (uint64_t)res : 0);
	}
	invalidator_reply(request, to, request->offset_out, res > 0 ? (uint64_t)res : 0,
			  res < 0 ? (int)res : 0);
}

/* ---- opens that wait ---- */

/* How long a RELEASE may be on its way after the close(2) that caused it has returned. */
#define RELEASE_WAIT_MS 200

void coroutine_fn ops_run_open_busy(void *arg)
{
	struct request *request = arg;
	int res = -EBUSY;

	for (unsigned ms = 0; res < 0 && ms < RELEASE_WAIT_MS; ms++) {
		co_sleep(1000000);
		res = node_begin_writing(request->node);
	}
	if (res < 0)
		request_reply_error(request, res);
	else
		reply_open(request);
}

/* ---- snapshots ---- */

void coroutine_fn ops_run_open_view(void *arg)
{
	struct request *request = arg;
	int res = view_acquire(request->node->disk->view);

	if (res < 0)
		request_reply_error(request, res);
	else
		reply_open(request);
}

void coroutine_fn ops_run_release_view(void *arg)
{
	struct request *request = arg;

	view_release(request->node->disk->view);
	request_reply_error(request, 0);
}
