/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * fake_engine: an engine over a disk in memory, which watches what it is given and
 * can be told to misbehave.
 *
 * Every request is checked: offset, length and addresses are multiples of the file's
 * align, nothing overlaps a write in flight. Completion comes in wait(), one request
 * at a time in an order drawn from the seed, so that coroutines interleave. The clock
 * is virtual. Reads are answered, and writes taken, at completion.
 */
#ifndef QCOW2FS_TEST_FAKE_ENGINE_H
#define QCOW2FS_TEST_FAKE_ENGINE_H

#include "io/engine.h"
#include "io/file.h"
#include "io/reactor.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAKE_DISK_BYTES (8u << 20)
#define FAKE_MAX_INFLIGHT 4096

/* file->priv. */
struct fake_disk {
	uint8_t *bytes; /* FAKE_DISK_BYTES */
	uint64_t size_bytes;
};

struct fake_engine;
/* Returns 0 to leave the request alone, -errno to fail it, or a length to cut it to. */
typedef int64_t fake_fault(struct fake_engine *fake, const struct io_req *req);

struct fake_engine {
	struct engine engine;
	uint32_t seed;
	uint64_t clock_ns;
	fake_fault *fault;
	unsigned nb_faults; /* the fault function's own */
	struct io_req *inflight[FAKE_MAX_INFLIGHT];
	unsigned nb_inflight, max_inflight;
	unsigned long nb_requests, nb_unaligned, nb_overlaps;
	unsigned long nb_ops[IO_TRUNCATE + 1];
};

static inline uint32_t fake_random(struct fake_engine *fake)
{
	fake->seed ^= fake->seed << 13;
	fake->seed ^= fake->seed >> 17;
	fake->seed ^= fake->seed << 5;
	return fake->seed;
}

static inline void fake_grow(struct fake_disk *disk, uint64_t end)
{
	if (end > disk->size_bytes)
		disk->size_bytes = end;
}

static inline int64_t fake_move(const struct io_req *req, uint64_t len_bytes)
{
	struct fake_disk *disk = req->file->priv;
	uint64_t off = req->host_off, end = off + len_bytes;

	if (req->op == IO_WRITE && end > FAKE_DISK_BYTES)
		return -ENOSPC;
	if (req->op == IO_READ && end > disk->size_bytes)
		end = disk->size_bytes;
	for (int i = 0; i < req->nb_iov && off < end; i++) {
		size_t nb = req->iov[i].iov_len < end - off ? req->iov[i].iov_len : end - off;

		if (req->op == IO_READ)
			memcpy(req->iov[i].iov_base, disk->bytes + off, nb);
		else
			memcpy(disk->bytes + off, req->iov[i].iov_base, nb);
		off += nb;
	}
	if (req->op == IO_WRITE)
		fake_grow(disk, off);
	return off > req->host_off ? (int64_t)(off - req->host_off) : 0;
}

static inline int64_t fake_execute(const struct io_req *req, uint64_t len_bytes)
{
	struct fake_disk *disk = req->file->priv;
	uint64_t end = req->host_off + len_bytes;

	switch (req->op) {
	case IO_READ:
	case IO_WRITE:
		return req->nb_iov > IOV_MAX ? -EINVAL : fake_move(req, len_bytes);
	case IO_ZERO:
	case IO_ALLOC:
		if (end > FAKE_DISK_BYTES)
			return -ENOSPC;
		if (req->op == IO_ZERO)
			memset(disk->bytes + req->host_off, 0, len_bytes);
		fake_grow(disk, end);
		return 0;
	case IO_PUNCH:
		memset(disk->bytes + req->host_off, 0, len_bytes);
		return 0;
	case IO_TRUNCATE:
		if (req->host_off < disk->size_bytes)
			memset(disk->bytes + req->host_off, 0, disk->size_bytes - req->host_off);
		disk->size_bytes = req->host_off;
		return 0;
	case IO_FLUSH:
		return 0;
	}
	return -EOPNOTSUPP;
}

static inline void fake_check(struct fake_engine *fake, const struct io_req *req)
{
	uint64_t bits = req->op == IO_TRUNCATE ? 0 : req->host_off | req->len_bytes;
	uint64_t sum = 0;

	for (int i = 0; i < req->nb_iov; i++) {
		bits |= (uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len;
		sum += req->iov[i].iov_len;
	}
	if (bits & (req->file->align - 1) || (req->nb_iov && sum != req->len_bytes))
		fake->nb_unaligned++;
	for (unsigned i = 0; i < fake->nb_inflight; i++) {
		const struct io_req *other = fake->inflight[i];

		if ((req->op == IO_WRITE || other->op == IO_WRITE) &&
		    req->host_off < other->host_off + other->len_bytes &&
		    other->host_off < req->host_off + req->len_bytes)
			fake->nb_overlaps++;
	}
}

static inline void fake_submit(struct engine *engine, struct io_req *req)
{
	struct fake_engine *fake = (struct fake_engine *)engine;

	if (fake->nb_inflight == FAKE_MAX_INFLIGHT)
		abort();
	fake_check(fake, req);
	fake->nb_requests++;
	fake->nb_ops[req->op]++;
	fake->inflight[fake->nb_inflight++] = req;
	if (fake->nb_inflight > fake->max_inflight)
		fake->max_inflight = fake->nb_inflight;
}

static inline void fake_wait(struct engine *engine, uint64_t timeout_ns)
{
	struct fake_engine *fake = (struct fake_engine *)engine;
	int64_t fault = 0;
	struct io_req *req;
	unsigned i;

	if (!fake->nb_inflight) {
		if (timeout_ns == UINT64_MAX)
			abort(); /* nobody would ever wake it: the test hangs */
		fake->clock_ns += timeout_ns;
		return;
	}
	fake->clock_ns += 1000;
	i = fake_random(fake) % fake->nb_inflight;
	req = fake->inflight[i];
	fake->inflight[i] = fake->inflight[--fake->nb_inflight];
	if (fake->fault)
		fault = fake->fault(fake, req);
	if (fault < 0)
		io_complete(req, fault);
	else
		io_complete(req, fake_execute(req, fault ? (uint64_t)fault : req->len_bytes));
}

static inline int fake_attach(struct engine *engine, struct reactor *reactor)
{
	return 0;
}

static inline int fake_add_file(struct engine *engine, struct file *file)
{
	return 0;
}

static inline void fake_remove_file(struct engine *engine, struct file *file)
{
}

static inline void fake_wake(struct engine *engine)
{
}

static inline uint64_t fake_now_ns(struct engine *engine)
{
	return ((struct fake_engine *)engine)->clock_ns;
}

static inline void fake_destroy(struct engine *engine)
{
	free(engine);
}

static const struct engine_ops fake_ops = {
	.name = "fake",
	.attach = fake_attach,
	.add_file = fake_add_file,
	.remove_file = fake_remove_file,
	.submit = fake_submit,
	.wait = fake_wait,
	.wake = fake_wake,
	.now_ns = fake_now_ns,
	.destroy = fake_destroy,
};

/* Owned by the reactor that it is given to. */
static inline struct fake_engine *fake_engine_create(uint32_t seed)
{
	struct fake_engine *fake = calloc(1, sizeof(*fake));

	if (!fake)
		abort();
	fake->engine.ops = &fake_ops;
	fake->seed = seed ? seed : 1;
	fake->clock_ns = 1000;
	return fake;
}

#endif
