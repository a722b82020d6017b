/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file: requests of any offset, length and buffer on a host file that takes only
 * whole, aligned blocks. Opening and closing is in file_open.c.
 *
 * Invariants:
 *  F1 Every offset, length and buffer address given to the engine is a multiple
 *     of file->align.
 *  F2 Each write given to the engine is covered by a hold on file->blocks while it
 *     is in flight, a read-modify-write from the read on. So no read-modify-write puts
 *     old bytes over a neighbour's new ones, and of two writes to one block one comes
 *     first, whole.
 *  F3 The hold of a plain write ends with the I/O that it covers, in io_done(); that
 *     of a read-modify-write within write_chunk(), which waits for I/O alone. So
 *     whoever waits for a hold waits for I/O, never for a later step of a caller, and
 *     no cycle can form, however many requests a coroutine has started.
 *  F4 A write inside the file leaves its size alone. A write that ends beyond it and
 *     not on a block boundary leaves up to align - 1 zero bytes behind its end: a
 *     qcow2 file does not mind, and reading beyond the end gives zeros anyway.
 */
#include "io/file.h"

#include "io/buf.h"
#include "io/file_open.h"
#include "io/reactor.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>

/* Memory per request that goes through a bounce buffer; longer ones go in pieces. */
#define BOUNCE_MAX_BYTES (1u << 20)
/* Pause before a request is repeated that got nowhere (EINTR, EAGAIN, a scrap of a block). */
#define STALL_NS 100000u

static uint64_t round_down(uint64_t value, uint32_t align)
{
	return value & ~(uint64_t)(align - 1);
}

static uint64_t round_up(uint64_t value, uint32_t align)
{
	return round_down(value + align - 1, align);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* A range that off_t can express, even after it was widened to blocks. */
static bool range_valid(const struct file *file, uint64_t host_off, uint64_t len_bytes)
{
	uint64_t end;

	return !__builtin_add_overflow(host_off, len_bytes, &end) &&
	       end <= (uint64_t)INT64_MAX - file->align;
}

/* ---- one request to the engine ---- */

static void io_done(struct io_req *req)
{
	struct file_io *io = (struct file_io *)((char *)req - offsetof(struct file_io, req));
	struct file *file = req->file;

	if (req->op == IO_WRITE && req->result > 0 &&
	    req->host_off + (uint64_t)req->result > file->size_bytes)
		file->size_bytes = req->host_off + (uint64_t)req->result;
	if (io->holding && io->hold_ends_with_io) { /* F3 */
		range_unlock(&file->blocks, &io->hold);
		io->holding = false;
	}
	io->completed = true;
	if (io->waiter)
		reactor_wake(io->waiter);
}

static void submit(struct file_io *io, uint64_t host_off, const struct iovec *iov, int nb_iov,
		   uint64_t len_bytes)
{
	struct file *file = io->req.file;

	io->completed = false;
	io->req.host_off = host_off;
	io->req.iov = iov;
	io->req.nb_iov = nb_iov;
	io->req.len_bytes = len_bytes;
	io->req.done = io_done;
	file->engine->ops->submit(file->engine, &io->req);
}

static void coroutine_fn hold_range(struct file_io *io, uint64_t start, uint64_t len_bytes,
				    bool ends_with_io)
{
	struct file *file = io->req.file;

	if (io->holding)
		return;
	range_lock(&file->blocks, &io->hold, start, len_bytes, true);
	io->holding = true;
	io->hold_ends_with_io = ends_with_io;
}

static void release_range(struct file_io *io)
{
	if (io->holding)
		range_unlock(&io->req.file->blocks, &io->hold);
	io->holding = false;
}

/* Submits a read or write of whole blocks; F1 and F2. */
static void coroutine_fn submit_blocks(struct file_io *io, uint64_t host_off,
				       const struct iovec *iov, int nb_iov, uint64_t len_bytes)
{
	assert(!((host_off | len_bytes) & (io->req.file->align - 1)));
	if (io->req.op == IO_WRITE)
		hold_range(io, host_off, len_bytes, true);
	submit(io, host_off, iov, nb_iov, len_bytes);
}

static int64_t coroutine_fn await(struct file_io *io)
{
	while (!io->completed) {
		io->waiter = co_self();
		co_yield ();
	}
	io->waiter = NULL;
	return io->req.result;
}

/* Whether the file ends at or before `host_off`, asking the host again: rarely needed. */
static bool ends_before(struct file *file, uint64_t host_off)
{
	struct stat st;

	if (file->fd >= 0 && !file->is_block_device && file_stat(file->fd, &st) == 0)
		file->size_bytes = (uint64_t)st.st_size;
	return host_off >= file->size_bytes;
}

/*
 * Waits for what was submitted. Returns how many of its bytes are done: all, less
 * (whole blocks; the caller goes on from there), or -errno. *ret_eof: the file ends
 * after these bytes, which may then be a scrap of a block.
 */
static int64_t coroutine_fn settle(struct file_io *io, bool *ret_eof)
{
	struct io_req *req = &io->req;
	int64_t nb_done = await(io);

	*ret_eof = false;
	assert(nb_done <= (int64_t)req->len_bytes);
	if (nb_done == (int64_t)req->len_bytes)
		return nb_done;
	if (nb_done < 0 && nb_done != -EINTR && nb_done != -EAGAIN)
		return nb_done;
	if (nb_done == 0 && req->op == IO_WRITE)
		return -ENOSPC;
	if (nb_done >= 0 && req->op == IO_READ) {
		uint64_t scrap = (uint64_t)nb_done & (req->file->align - 1);

		*ret_eof = !nb_done ||
			   (scrap && ends_before(req->file, req->host_off + (uint64_t)nb_done));
		if (*ret_eof)
			return nb_done;
	}
	nb_done = nb_done < 0 ? 0 : (int64_t)round_down((uint64_t)nb_done, req->file->align);
	if (!nb_done)
		co_sleep(STALL_NS);
	return nb_done;
}

/* Reads or writes one aligned buffer to the end; zeros beyond the end of the file. */
static int coroutine_fn transfer(struct file_io *io, enum io_op op, uint64_t host_off, void *buf,
				 size_t len_bytes)
{
	size_t nb_done = 0;

	while (nb_done < len_bytes) {
		int64_t ret;
		bool eof;

		io->req.op = op;
		io->bounce_iov.iov_base = (char *)buf + nb_done;
		io->bounce_iov.iov_len = len_bytes - nb_done;
		submit_blocks(io, host_off + nb_done, &io->bounce_iov, 1, len_bytes - nb_done);
		ret = settle(io, &eof);
		if (ret < 0)
			return (int)ret;
		nb_done += (size_t)ret;
		if (eof) {
			memset((char *)buf + nb_done, 0, len_bytes - nb_done);
			return 0;
		}
	}
	return 0;
}

/* ---- between the caller's buffers and a bounce buffer ---- */

static void copy_iov(const struct file_io *io, size_t skip_bytes, void *buf, size_t len_bytes,
		     bool to_iov)
{
	char *pos = buf;

	for (int i = 0; i < io->nb_iov && len_bytes; i++) {
		size_t iov_len = io->iov[i].iov_len;
		char *base = (char *)io->iov[i].iov_base + skip_bytes;
		size_t nb;

		if (skip_bytes >= iov_len) {
			skip_bytes -= iov_len;
			continue;
		}
		nb = min_u64(iov_len - skip_bytes, len_bytes);
		memcpy(to_iov ? base : pos, to_iov ? pos : base, nb);
		pos += nb;
		len_bytes -= nb;
		skip_bytes = 0;
	}
}

/* The part of the request that the blocks [start, start + len) in the bounce buffer carry. */
static void copy_chunk(struct file_io *io, uint64_t start, size_t len_bytes, bool to_iov)
{
	uint64_t from = start > io->host_off ? start : io->host_off;
	uint64_t to = min_u64(start + len_bytes, io->host_off + io->len_bytes);

	copy_iov(io, (size_t)(from - io->host_off), (char *)io->bounce + (from - start),
		 (size_t)(to - from), to_iov);
}

/* The length of the chunk at `start` (a block boundary), at most the bounce buffer's size. */
static size_t chunk_bytes(const struct file_io *io, uint64_t start)
{
	uint64_t end = round_up(io->host_off + io->len_bytes, io->req.file->align);

	return (size_t)min_u64(end - start, io->bounce_bytes);
}

static int get_bounce(struct file_io *io)
{
	struct file *file = io->req.file;
	uint64_t start = round_down(io->host_off, file->align);
	uint64_t end = round_up(io->host_off + io->len_bytes, file->align);

	io->bounce_bytes = (size_t)min_u64(end - start, BOUNCE_MAX_BYTES);
	io->bounce = buf_get(io->bounce_bytes);
	if (!io->bounce)
		return -ENOMEM;
	io->bounced = true;
	file->stats.nb_bounced++;
	return 0;
}

static void put_bounce(struct file_io *io)
{
	buf_put(io->bounce, io->bounce_bytes);
	io->bounce = NULL;
}

/* ---- writes that cover a block in part ---- */

/* Fills the blocks of a chunk that the request covers in part with their old contents. */
static int coroutine_fn read_edges(struct file_io *io, uint64_t start, size_t len_bytes)
{
	uint32_t align = io->req.file->align;
	uint64_t end = start + len_bytes, io_end = io->host_off + io->len_bytes;
	bool head = start<io->host_off, tail = end> io_end;
	char *bounce = io->bounce;
	int ret = 0;

	if (head || (tail && len_bytes == align))
		ret = transfer(io, IO_READ, start, bounce, align);
	if (!ret && tail && len_bytes > align)
		ret = transfer(io, IO_READ, end - align, bounce + len_bytes - align, align);
	return ret;
}

/* An operation without data, until it succeeds or really fails. */
static int coroutine_fn control(struct file_io *io, enum io_op op, uint64_t host_off,
				uint64_t len_bytes)
{
	int64_t ret;

	for (;;) {
		if (len_bytes)
			hold_range(io, host_off, len_bytes, true);
		io->req.op = op;
		submit(io, host_off, NULL, 0, len_bytes);
		ret = await(io);
		if (ret != -EINTR && ret != -EAGAIN)
			return (int)ret;
		co_sleep(STALL_NS);
	}
}

/* With a hold on everything from the old or new end on. */
static int coroutine_fn truncate_held(struct file_io *io, uint64_t size_bytes)
{
	int ret = control(io, IO_TRUNCATE, size_bytes, 0);

	if (!ret)
		io->req.file->size_bytes = size_bytes;
	return ret;
}

/* Reads, modifies and writes one chunk under one hold. */
static int coroutine_fn write_chunk(struct file_io *io, uint64_t start, size_t len_bytes)
{
	struct file *file = io->req.file;
	uint64_t end = start + len_bytes, io_end = io->host_off + io->len_bytes, size_bytes;
	bool past_end = end > file->size_bytes && !file->is_block_device;
	int ret;

	/* At the end of the file nobody may extend it meanwhile: its size may be set back. */
	hold_range(io, start, past_end ? (uint64_t)INT64_MAX - start : len_bytes, false);
	size_bytes = file->size_bytes;
	ret = read_edges(io, start, len_bytes);
	if (!ret) {
		copy_chunk(io, start, len_bytes, false);
		ret = transfer(io, IO_WRITE, start, io->bounce, len_bytes);
	}
	if (!ret && past_end && io_end <= size_bytes && end > size_bytes) /* F4 */
		ret = truncate_held(io, size_bytes);
	release_range(io);
	return ret;
}

/* The whole request, before file_io_start() returns: F3 allows no hold that stays. */
static int coroutine_fn write_partial(struct file_io *io)
{
	uint64_t start = round_down(io->host_off, io->req.file->align);
	uint64_t end = io->host_off + io->len_bytes;
	int ret = 0;

	while (!ret && start < end) {
		size_t len_bytes = chunk_bytes(io, start);

		ret = write_chunk(io, start, len_bytes);
		start += len_bytes;
	}
	return ret;
}

/* ---- start and finish ---- */

/* Nothing (more) is in flight: file_io_finish() returns `ret`. */
static void settle_now(struct file_io *io, int ret)
{
	put_bounce(io);
	io->req.len_bytes = 0;
	io->req.result = ret;
	io->completed = true;
}

static bool request_aligned(const struct file_io *io)
{
	uint64_t bits = io->host_off;

	for (int i = 0; i < io->nb_iov; i++)
		bits |= (uintptr_t)io->iov[i].iov_base | io->iov[i].iov_len;
	return !(bits & (io->req.file->align - 1));
}

static int coroutine_fn start_bounced(struct file_io *io)
{
	struct file *file = io->req.file;
	uint64_t start = round_down(io->host_off, file->align);
	int ret = get_bounce(io);

	io->req.sequel = NULL;
	if (ret < 0)
		return ret;
	io->bounce_iov.iov_base = io->bounce;
	io->bounce_iov.iov_len = chunk_bytes(io, start);
	if (io->req.op == IO_WRITE) {
		if ((io->host_off | io->len_bytes) & (file->align - 1))
			return write_partial(io);
		copy_chunk(io, start, io->bounce_iov.iov_len, false);
	}
	submit_blocks(io, start, &io->bounce_iov, 1, io->bounce_iov.iov_len);
	return 1;
}

/* Straight from and to the caller's buffers; what one system call cannot take follows later. */
static void coroutine_fn start_plain(struct file_io *io)
{
	int nb_iov = io->nb_iov < IOV_MAX ? io->nb_iov : IOV_MAX;
	uint64_t len_bytes = io->len_bytes;

	for (int i = nb_iov; i < io->nb_iov; i++)
		len_bytes -= io->iov[i].iov_len;
	submit_blocks(io, io->host_off, io->iov, nb_iov, len_bytes);
}

static void count_request(struct file *file, enum io_op op, size_t len_bytes)
{
	if (op == IO_READ) {
		file->stats.nb_reads++;
		file->stats.read_bytes += len_bytes;
	} else {
		file->stats.nb_writes++;
		file->stats.written_bytes += len_bytes;
	}
}

static void coroutine_fn start(struct file_io *io, struct file *file, enum io_op op,
			       uint64_t host_off, const struct iovec *iov, int nb_iov,
			       enum io_tag tag, struct io_sequel *sequel)
{
	bool overflow = false;
	int ret = 1;

	for (; nb_iov && !iov->iov_len; iov++)
		nb_iov--;
	*io = (struct file_io){
		.req = {.file = file, .op = op, .tag = tag, .sequel = sequel},
		.host_off = host_off,
		.iov = iov,
		.nb_iov = nb_iov,
	};
	for (int i = 0; i < nb_iov; i++)
		overflow |= __builtin_add_overflow(io->len_bytes, iov[i].iov_len, &io->len_bytes);

	if (op == IO_WRITE && !file->writable)
		ret = -EBADF;
	else if (overflow || !range_valid(file, host_off, io->len_bytes))
		ret = -EFBIG;
	else if (!io->len_bytes)
		ret = 0;
	if (ret <= 0) {
		settle_now(io, ret);
		return;
	}

	count_request(file, op, io->len_bytes);
	if (request_aligned(io))
		start_plain(io);
	else
		ret = start_bounced(io);
	if (ret <= 0)
		settle_now(io, ret);
}

void coroutine_fn file_io_start(struct file_io *io, struct file *file, enum io_op op,
				uint64_t host_off, const struct iovec *iov, int nb_iov,
				enum io_tag tag)
{
	start(io, file, op, host_off, iov, nb_iov, tag, NULL);
}

void coroutine_fn file_io_start_read(struct file_io *io, struct file *file, uint64_t host_off,
				     const struct iovec *iov, enum io_tag tag,
				     struct io_sequel *sequel)
{
	start(io, file, IO_READ, host_off, iov, 1, tag, sequel);
}

/* After the first submission fell short: the rest of the caller's buffers, one by one. */
static int coroutine_fn finish_plain(struct file_io *io)
{
	bool eof;
	int64_t nb_done = settle(io, &eof);
	uint64_t pos = io->host_off;
	enum io_op op = io->req.op;
	int ret = 0;

	io->req.sequel = NULL; /* the rest is not all of the data */
	if (nb_done < 0)
		return (int)nb_done;
	for (int i = 0; i < io->nb_iov && !ret; i++) {
		size_t skip = min_u64((uint64_t)nb_done, io->iov[i].iov_len);
		char *base = (char *)io->iov[i].iov_base + skip;
		size_t rest = io->iov[i].iov_len - skip;

		if (rest && eof)
			memset(base, 0, rest);
		else if (rest)
			ret = transfer(io, op, pos + skip, base, rest);
		nb_done -= (int64_t)skip;
		pos += skip + rest;
	}
	return ret;
}

/* The chunk that is in flight, then the others. */
static int coroutine_fn finish_bounced(struct file_io *io)
{
	uint64_t start = io->req.host_off, end = io->host_off + io->len_bytes;
	size_t len_bytes = (size_t)io->req.len_bytes;
	enum io_op op = io->req.op;
	bool eof;
	int64_t nb_done = settle(io, &eof);
	int ret;

	if (nb_done < 0)
		return (int)nb_done;
	if (eof) {
		memset((char *)io->bounce + nb_done, 0, len_bytes - (size_t)nb_done);
		nb_done = (int64_t)len_bytes;
	}
	for (;;) {
		ret = transfer(io, op, start + (uint64_t)nb_done, (char *)io->bounce + nb_done,
			       len_bytes - (size_t)nb_done);
		if (!ret && op == IO_READ)
			copy_chunk(io, start, len_bytes, true);
		start += len_bytes;
		if (ret || start >= end)
			return ret;
		nb_done = 0;
		len_bytes = chunk_bytes(io, start);
		if (op == IO_WRITE)
			copy_chunk(io, start, len_bytes, false);
	}
}

int coroutine_fn file_io_finish(struct file_io *io)
{
	int ret;

	if (io->req.len_bytes)
		settle_now(io, io->bounced ? finish_bounced(io) : finish_plain(io));
	ret = (int)io->req.result;
	if (ret < 0)
		io->req.file->stats.nb_errors++;
	return ret;
}

int coroutine_fn file_read(struct file *file, uint64_t host_off, void *buf, size_t len_bytes,
			   enum io_tag tag)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len_bytes};
	struct file_io io;

	file_io_start(&io, file, IO_READ, host_off, &iov, 1, tag);
	return file_io_finish(&io);
}

int coroutine_fn file_write(struct file *file, uint64_t host_off, const void *buf, size_t len_bytes,
			    enum io_tag tag)
{
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len_bytes};
	struct file_io io;

	file_io_start(&io, file, IO_WRITE, host_off, &iov, 1, tag);
	return file_io_finish(&io);
}

/* ---- everything that carries no data ---- */

/* Whether the file system does not know the operation, as opposed to having failed at it. */
static bool refused(int ret)
{
	return ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -ENOTTY || ret == -EINVAL ||
	       ret == -ENODEV;
}

/* PUNCH, ZERO, ALLOC on whole blocks: 0, -EOPNOTSUPP where refused (counted), or -errno. */
static int coroutine_fn fallocate_blocks(struct file *file, enum io_op op, uint64_t host_off,
					 uint64_t len_bytes, enum io_tag tag)
{
	struct file_io io = {.req = {.file = file, .tag = tag}};
	int ret = -EOPNOTSUPP;

	file->stats.nb_other++;
	if (!(file->refused & 1u << op))
		ret = control(&io, op, host_off, len_bytes);
	if (refused(ret)) {
		file->refused |= 1u << op;
		file->stats.nb_fallbacks++;
		return -EOPNOTSUPP;
	}
	if (ret < 0)
		file->stats.nb_errors++;
	else if (op != IO_PUNCH && !file->is_block_device &&
		 host_off + len_bytes > file->size_bytes)
		file->size_bytes = host_off + len_bytes;
	return ret;
}

int coroutine_fn file_flush(struct file *file)
{
	struct file_io io = {.req = {.file = file, .tag = IO_TAG_DATA}};
	int ret;

	if (file->throw_away)
		return 0;
	ret = control(&io, IO_FLUSH, 0, 0);
	file->stats.nb_flushes++;
	if (ret < 0)
		file->stats.nb_errors++;
	return ret;
}

static int check_change(const struct file *file, uint64_t host_off, uint64_t len_bytes)
{
	if (!file->writable)
		return -EBADF;
	return range_valid(file, host_off, len_bytes) ? 0 : -EFBIG;
}

int coroutine_fn file_punch(struct file *file, uint64_t host_off, uint64_t len_bytes)
{
	int ret = check_change(file, host_off, len_bytes);
	uint64_t start, end;

	if (ret < 0)
		return ret;
	start = round_up(host_off, file->align);
	end = round_down(host_off + len_bytes, file->align);
	if (start >= end)
		return 0;
	ret = fallocate_blocks(file, IO_PUNCH, start, end - start, IO_TAG_DATA);
	return ret == -EOPNOTSUPP ? 0 : ret;
}

/* Writes zeros from one block of memory that all pieces share. */
int coroutine_fn file_write_zeros(struct file *file, uint64_t host_off, uint64_t len_bytes,
				  enum io_tag tag)
{
	static char zeros[64 << 10] __attribute__((aligned(BUF_ALIGN)));
	struct iovec iov[16];

	while (len_bytes) {
		uint64_t todo = len_bytes;
		struct file_io io;
		int nb_iov = 0, ret;

		for (; todo && nb_iov < 16; nb_iov++) {
			iov[nb_iov].iov_base = zeros;
			iov[nb_iov].iov_len = (size_t)min_u64(todo, sizeof(zeros));
			todo -= iov[nb_iov].iov_len;
		}
		file_io_start(&io, file, IO_WRITE, host_off, iov, nb_iov, tag);
		ret = file_io_finish(&io);
		if (ret < 0)
			return ret;
		host_off += len_bytes - todo;
		len_bytes = todo;
	}
	return 0;
}

/* `op` is IO_ZERO or IO_PUNCH; zeros are written where it is refused, and beside whole blocks. */
static int coroutine_fn zero_by(struct file *file, enum io_op op, uint64_t host_off,
				uint64_t len_bytes, enum io_tag tag)
{
	int ret = check_change(file, host_off, len_bytes);
	uint64_t start, end;

	if (ret < 0)
		return ret;
	start = round_up(host_off, file->align);
	end = round_down(host_off + len_bytes, file->align);
	if (start >= end)
		return file_write_zeros(file, host_off, len_bytes, tag);

	ret = fallocate_blocks(file, op, start, end - start, tag);
	if (ret == -EOPNOTSUPP)
		ret = file_write_zeros(file, start, end - start, tag);
	if (!ret)
		ret = file_write_zeros(file, host_off, start - host_off, tag);
	if (!ret)
		ret = file_write_zeros(file, end, host_off + len_bytes - end, tag);
	return ret;
}

int coroutine_fn file_zero(struct file *file, uint64_t host_off, uint64_t len_bytes,
			   enum io_tag tag)
{
	return zero_by(file, IO_ZERO, host_off, len_bytes, tag);
}

int coroutine_fn file_zero_free(struct file *file, uint64_t host_off, uint64_t len_bytes,
				enum io_tag tag)
{
	return zero_by(file, IO_PUNCH, host_off, len_bytes, tag);
}

int coroutine_fn file_allocate(struct file *file, uint64_t host_off, uint64_t len_bytes)
{
	int ret = check_change(file, host_off, len_bytes);
	uint64_t start;

	if (ret < 0 || !len_bytes)
		return ret;
	start = round_down(host_off, file->align);
	return fallocate_blocks(file, IO_ALLOC, start,
				round_up(host_off + len_bytes, file->align) - start, IO_TAG_DATA);
}

int coroutine_fn file_truncate(struct file *file, uint64_t size_bytes)
{
	struct file_io io = {.req = {.file = file}};
	uint64_t start;
	int ret = check_change(file, size_bytes, 0);

	if (ret < 0)
		return ret;
	/* Nothing at or beyond the old or the new end may be in flight. */
	start = round_down(min_u64(size_bytes, file->size_bytes), file->align);
	hold_range(&io, start, (uint64_t)INT64_MAX - start, false);
	ret = truncate_held(&io, size_bytes);
	release_range(&io);
	file->stats.nb_other++;
	if (ret < 0)
		file->stats.nb_errors++;
	return ret;
}
