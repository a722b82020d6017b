/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * disk: the engine and the opener. See disk.h for the model.
 *
 * Everything that is timing is a choice: whether bytes are taken at issue or at
 * completion (a buffer changed in flight must show), in which order requests
 * complete, how many before the reactor gets its turn, whether a timer fires
 * meanwhile. A wait that nothing can end is a deadlock and fatal.
 */
#include "test/sim/disk.h"
#include "test/sim/choose.h"
#include "test/sim/memory.h"
#include "test/sim/verdict.h"

#include "io/reactor.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_ROUNDS_MAX 10000u

bool sim_op_changes(enum io_op op)
{
	return op != IO_READ && op != IO_FLUSH;
}

bool sim_tag_is_metadata(enum io_tag tag)
{
	return tag != IO_TAG_DATA && tag != IO_TAG_COW;
}

const char *sim_op_name(enum io_op op)
{
	static const char *const names[] = {"READ", "WRITE", "FLUSH",   "PUNCH",
					    "ZERO", "ALLOC", "TRUNCATE"};

	return names[op];
}

const char *sim_tag_name(enum io_tag tag)
{
	static const char *const names[IO_TAG_COUNT] = {
		"header", "l1", "l2", "reftable", "refblock", "data", "cow", "snapshot", "bitmap",
	};

	return names[tag];
}

static void *grow_array(void *array, unsigned *max, unsigned nb, size_t item_bytes)
{
	if (nb < *max)
		return array;
	*max = *max ? *max * 2 : 64;
	array = realloc(array, *max * item_bytes);
	if (!array)
		abort();
	return array;
}

/* ---- bytes ---- */

static void bytes_reserve(struct sim_bytes *bytes, uint64_t size)
{
	uint64_t capacity = bytes->capacity ? bytes->capacity : 4096;

	if (size <= bytes->capacity)
		return;
	if (size > SIM_FILE_BYTES_MAX)
		verdict_fatal("a file grows to %llu bytes", (unsigned long long)size);
	while (capacity < size)
		capacity *= 2;
	bytes->data = realloc(bytes->data, capacity);
	if (!bytes->data)
		abort();
	memset(bytes->data + bytes->capacity, 0, capacity - bytes->capacity);
	bytes->capacity = capacity;
}

void sim_bytes_resize(struct sim_bytes *bytes, uint64_t size)
{
	bytes_reserve(bytes, size);
	if (size < bytes->size)
		memset(bytes->data + size, 0, bytes->size - size);
	bytes->size = size;
}

void sim_bytes_copy(struct sim_bytes *to, const struct sim_bytes *from)
{
	sim_bytes_resize(to, from->size);
	if (from->size)
		memcpy(to->data, from->data, from->size);
}

void sim_bytes_free(struct sim_bytes *bytes)
{
	free(bytes->data);
	*bytes = (struct sim_bytes){0};
}

static void bytes_put(struct sim_bytes *bytes, uint64_t off, const void *src, uint64_t len)
{
	if (!len)
		return;
	if (off + len > bytes->size)
		sim_bytes_resize(bytes, off + len);
	if (src)
		memcpy(bytes->data + off, src, len);
	else
		memset(bytes->data + off, 0, len);
}

void sim_apply(struct sim_bytes *bytes, const struct sim_record *record)
{
	uint64_t len = record->len;
	uint64_t end = record->off + len;

	if (record->dropped)
		return;
	switch (record->op) {
	case IO_WRITE:
		bytes_put(bytes, record->off, record->bytes, len);
		break;
	case IO_ZERO:
		bytes_put(bytes, record->off, NULL, len);
		break;
	case IO_PUNCH:
		end = end < bytes->size ? end : bytes->size;
		if (record->off < end)
			bytes_put(bytes, record->off, NULL, end - record->off);
		break;
	case IO_ALLOC:
		if (end > bytes->size)
			sim_bytes_resize(bytes, end);
		break;
	case IO_TRUNCATE:
		sim_bytes_resize(bytes, record->off);
		break;
	case IO_READ:
	case IO_FLUSH:
		break;
	}
}

/* ---- performing a request ---- */

static struct sim_file *file_of(const struct io_req *req)
{
	return req->file->priv;
}

static void gather(const struct io_req *req, uint8_t *to)
{
	for (int i = 0; i < req->nb_iov; i++) {
		memcpy(to, req->iov[i].iov_base, req->iov[i].iov_len);
		to += req->iov[i].iov_len;
	}
}

static void scatter(const struct io_req *req, const uint8_t *from, uint64_t len)
{
	for (int i = 0; i < req->nb_iov && len > 0; i++) {
		uint64_t part = req->iov[i].iov_len < len ? req->iov[i].iov_len : len;

		memcpy(req->iov[i].iov_base, from, part);
		from += part;
		len -= part;
	}
}

static uint64_t readable(const struct sim_file *file, const struct io_req *req)
{
	uint64_t left = req->host_off < file->bytes.size ? file->bytes.size - req->host_off : 0;

	return left < req->len_bytes ? left : req->len_bytes;
}

static void push_undo(struct sim_disk *disk, const struct sim_record *record)
{
	struct sim_file *file = &disk->files[record->file];
	uint64_t off = record->off, end = off + record->len;
	struct sim_undo *undo;

	disk->undo = grow_array(disk->undo, &disk->max_undo, disk->nb_undo, sizeof(*disk->undo));
	undo = &disk->undo[disk->nb_undo++];
	if (record->op == IO_TRUNCATE || end > file->bytes.size)
		end = file->bytes.size;
	*undo = (struct sim_undo){.file = file->index, .off = off, .old_size = file->bytes.size};
	if (off < end) {
		undo->len = end - off;
		undo->old = malloc(undo->len);
		if (!undo->old)
			abort();
		memcpy(undo->old, file->bytes.data + off, undo->len);
	}
}

void sim_apply_undoable(struct sim_disk *disk, const struct sim_record *record)
{
	if (record->dropped)
		return;
	push_undo(disk, record);
	sim_apply(&disk->files[record->file].bytes, record);
}

void sim_undo(struct sim_disk *disk, unsigned mark)
{
	while (disk->nb_undo > mark) {
		struct sim_undo *undo = &disk->undo[--disk->nb_undo];
		struct sim_bytes *bytes = &disk->files[undo->file].bytes;

		sim_bytes_resize(bytes, undo->old_size);
		if (undo->old)
			memcpy(bytes->data + undo->off, undo->old, undo->len);
		free(undo->old);
	}
}

static bool wants_fault(struct sim_disk *disk, const struct io_req *req)
{
	uint64_t index;

	if (disk->fault.writes_only && req->op == IO_READ)
		return false;
	index = disk->nb_requests++;
	return disk->fault.count && index >= disk->fault.at &&
	       (disk->fault.count == UINT_MAX || index - disk->fault.at < disk->fault.count);
}

static void submit_direct(struct sim_disk *disk, struct io_req *req)
{
	struct sim_file *file = file_of(req);
	struct sim_record record = {
		.op = req->op, .file = file->index, .off = req->host_off, .len = req->len_bytes};
	uint64_t len;

	if (req->op == IO_FLUSH) {
		io_complete(req, 0);
		return;
	}
	if (req->op == IO_READ) {
		len = readable(file, req);
		scatter(req, file->bytes.data + req->host_off, len);
		io_complete(req, (int64_t)len);
		return;
	}
	if (file->read_only)
		verdict_fail("%s of %s, which is read-only", sim_op_name(req->op), file->name);
	disk->nb_changes++;
	if (req->op == IO_WRITE) {
		record.bytes = malloc(req->len_bytes);
		gather(req, record.bytes);
	}
	sim_apply_undoable(disk, &record);
	free(record.bytes);
	io_complete(req, req->op == IO_WRITE ? (int64_t)req->len_bytes : 0);
}

/* ---- the logged mode ---- */

static void check_overlap(struct sim_disk *disk, const struct io_req *req)
{
	if (!sim_op_changes(req->op) || req->op == IO_TRUNCATE || req->op == IO_ALLOC)
		return;
	for (unsigned i = 0; i < disk->nb_pending; i++) {
		const struct io_req *other = disk->pending[i].req;

		if (other->file->priv != req->file->priv || !sim_op_changes(other->op) ||
		    other->op == IO_TRUNCATE || other->op == IO_ALLOC)
			continue;
		if (req->host_off < other->host_off + other->len_bytes &&
		    other->host_off < req->host_off + req->len_bytes)
			verdict_fail("%s %s of %llu+%llu overlaps a %s %s of %llu+%llu in flight",
				     sim_tag_name(req->tag), sim_op_name(req->op),
				     (unsigned long long)req->host_off,
				     (unsigned long long)req->len_bytes, sim_tag_name(other->tag),
				     sim_op_name(other->op), (unsigned long long)other->host_off,
				     (unsigned long long)other->len_bytes);
	}
}

static int log_request(struct sim_disk *disk, const struct io_req *req)
{
	struct sim_record *record;

	if (req->op == IO_READ)
		return -1;
	disk->log = grow_array(disk->log, &disk->max_log, disk->nb_log, sizeof(*disk->log));
	record = &disk->log[disk->nb_log];
	*record = (struct sim_record){.op = req->op,
				      .tag = req->tag,
				      .file = file_of(req)->index,
				      .off = req->host_off,
				      .len = req->len_bytes,
				      .asked = req->len_bytes,
				      .t_issue = sim_tick(disk),
				      .t_done = SIM_NEVER,
				      .t_covered = SIM_NEVER};
	return (int)disk->nb_log++;
}

static void trace(const struct sim_disk *disk, const char *what, const struct io_req *req,
		  int64_t result)
{
	if (!disk->trace)
		return;
	printf("%8llu %s %s %s %s %#llx+%llu", (unsigned long long)disk->now, what,
	       file_of(req)->name, sim_tag_name(req->tag), sim_op_name(req->op),
	       (unsigned long long)req->host_off, (unsigned long long)req->len_bytes);
	if (result)
		printf(" = %lld", (long long)result);
	putchar('\n');
}

static void poison(const struct io_req *req)
{
	for (int i = 0; i < req->nb_iov; i++)
		memset(req->iov[i].iov_base, 0xa5, req->iov[i].iov_len);
}

static void submit_logged(struct sim_disk *disk, struct io_req *req)
{
	struct sim_file *file = file_of(req);
	struct sim_pending *pending;
	bool early = sim_choose(CHOICE_DISK, 2);

	if (sim_op_changes(req->op) && file->read_only)
		verdict_fail("%s of %s, which is read-only", sim_op_name(req->op), file->name);
	check_overlap(disk, req);
	disk->idle_rounds = 0;
	disk->pending =
		grow_array(disk->pending, &disk->max_pending, disk->nb_pending, sizeof(*pending));
	pending = &disk->pending[disk->nb_pending++];
	*pending = (struct sim_pending){
		.req = req, .record = log_request(disk, req), .issued_at = disk->now};
	if (wants_fault(disk, req))
		pending->fault = disk->fault.err;
	trace(disk, "issue", req, 0);
	if (disk->on_submit)
		disk->on_submit(disk->hook_ctx, req, pending->fault != 0);
	if (req->op == IO_WRITE) {
		/* A crash while it is in flight sees bytes as of issue; completion may
		 * replace them. */
		pending->early = early ? malloc(req->len_bytes) : NULL;
		disk->log[pending->record].bytes = malloc(req->len_bytes);
		gather(req, disk->log[pending->record].bytes);
		if (early)
			memcpy(pending->early, disk->log[pending->record].bytes, req->len_bytes);
	} else if (req->op == IO_READ) {
		if (early) {
			pending->early_len = readable(file, req);
			pending->early = malloc(req->len_bytes);
			memcpy(pending->early, file->bytes.data + req->host_off,
			       pending->early_len);
		}
		poison(req);
	}
}

static uint64_t short_length(const struct sim_file *file, uint64_t len)
{
	uint64_t blocks = len / file->align;

	if (blocks <= 1)
		return len;
	return file->align * (1 + sim_choose(CHOICE_DISK, (unsigned)(blocks - 1)));
}

/* Covers what had completed when `flush` was issued. */
static void cover(struct sim_disk *disk, const struct sim_record *flush)
{
	for (unsigned i = 0; i < disk->nb_log; i++) {
		struct sim_record *record = &disk->log[i];

		if (record->file == flush->file && sim_op_changes(record->op) &&
		    record->t_done < flush->t_issue && record->t_covered == SIM_NEVER)
			record->t_covered = flush->t_done;
	}
}

static int64_t complete_read(struct sim_disk *disk, struct sim_pending *pending)
{
	struct sim_file *file = file_of(pending->req);
	uint64_t len = pending->early ? pending->early_len : readable(file, pending->req);

	if (pending->fault > 0)
		return -pending->fault;
	if (pending->fault == SIM_SHORT)
		len = short_length(file, len);
	scatter(pending->req,
		pending->early ? pending->early : file->bytes.data + pending->req->host_off, len);
	return (int64_t)len;
}

static int64_t complete_change(struct sim_disk *disk, struct sim_pending *pending)
{
	struct io_req *req = pending->req;
	struct sim_file *file = file_of(req);
	struct sim_record *record = &disk->log[pending->record];
	bool is_write = req->op == IO_WRITE;
	int64_t result = is_write ? (int64_t)req->len_bytes : 0;

	if (is_write && !pending->early)
		gather(req, record->bytes);
	if (pending->fault == SIM_SHORT && is_write) {
		record->len = short_length(file, req->len_bytes);
		result = (int64_t)record->len;
	} else if (pending->fault > 0) {
		/* A failed change may have happened all the same, in part or in full. */
		result = -pending->fault;
		record->dropped = pending->fault != EIO || sim_choose(CHOICE_DISK, 2) == 0;
		if (is_write && sim_choose(CHOICE_DISK, 2))
			record->len = short_length(file, req->len_bytes);
	} else if (disk->no_fallocate &&
		   (req->op == IO_PUNCH || req->op == IO_ZERO || req->op == IO_ALLOC)) {
		result = -EOPNOTSUPP;
		record->dropped = true;
	}
	sim_apply(&file->bytes, record);
	record->t_done = sim_tick(disk);
	disk->nb_changes++;
	return result;
}

static int64_t complete_flush(struct sim_disk *disk, struct sim_pending *pending)
{
	struct sim_record *record = &disk->log[pending->record];

	record->t_done = sim_tick(disk);
	if (pending->fault > 0) {
		disk->fail_flush_seen |= pending->fault != EINTR && pending->fault != EAGAIN;
		return -pending->fault;
	}
	cover(disk, record);
	return 0;
}

static void complete_one(struct sim_disk *disk, unsigned index)
{
	struct sim_pending pending = disk->pending[index];
	int64_t result;

	memory_pause();
	memmove(&disk->pending[index], &disk->pending[index + 1],
		(--disk->nb_pending - index) * sizeof(pending));
	disk->clock_ns += 20000;
	disk->nb_faulted += pending.fault != 0;
	if (pending.req->op == IO_READ)
		result = complete_read(disk, &pending);
	else if (pending.req->op == IO_FLUSH)
		result = complete_flush(disk, &pending);
	else
		result = complete_change(disk, &pending);
	free(pending.early);
	trace(disk, "ended", pending.req, result);
	memory_resume();
	io_complete(pending.req, result);
}

/* Index of the request to complete: those that a test holds back come last. */
static unsigned pick_pending(struct sim_disk *disk)
{
	unsigned nb_free = 0, skip;

	if (!disk->hold)
		return sim_choose(CHOICE_SCHEDULE, disk->nb_pending);
	for (unsigned i = 0; i < disk->nb_pending; i++)
		nb_free += !disk->hold(disk->hook_ctx, disk->pending[i].req);
	if (nb_free == 0)
		return 0;
	skip = sim_choose(CHOICE_SCHEDULE, nb_free);
	for (unsigned i = 0;; i++) {
		if (!disk->hold(disk->hook_ctx, disk->pending[i].req) && skip-- == 0)
			return i;
	}
}

static void sim_wait(struct engine *engine, uint64_t timeout_ns)
{
	struct sim_disk *disk = (struct sim_disk *)engine;
	bool timed = timeout_ns != 0 && timeout_ns != UINT64_MAX;

	if (disk->woken) {
		disk->woken = false;
		return;
	}
	if (disk->nb_pending == 0) {
		if (timeout_ns == UINT64_MAX || disk->idle_rounds++ > IDLE_ROUNDS_MAX)
			verdict_fatal("deadlock: nothing in flight, nothing ready, %u coroutines",
				      reactor_nb_coroutines(disk->reactor));
		disk->clock_ns += timeout_ns;
		return;
	}
	if (timed && sim_one_in(CHOICE_DISK, 40)) {
		disk->clock_ns += timeout_ns;
		return;
	}
	if (timeout_ns == 0 && sim_choose(CHOICE_SCHEDULE, 2) == 0)
		return;
	do {
		complete_one(disk, pick_pending(disk));
	} while (disk->nb_pending > 0 && sim_choose(CHOICE_SCHEDULE, 2) == 1);
}

/* ---- the engine's table ---- */

static int sim_attach(struct engine *engine, struct reactor *reactor)
{
	((struct sim_disk *)engine)->reactor = reactor;
	return 0;
}

static int sim_engine_add_file(struct engine *engine, struct file *file)
{
	return 0;
}

static void sim_engine_remove_file(struct engine *engine, struct file *file)
{
	struct sim_disk *disk = (struct sim_disk *)engine;

	for (unsigned i = 0; i < disk->nb_pending; i++) {
		if (disk->pending[i].req->file == file)
			verdict_fatal("%s is closed with a %s in flight", file->name,
				      sim_op_name(disk->pending[i].req->op));
	}
}

static void sim_submit(struct engine *engine, struct io_req *req)
{
	struct sim_disk *disk = (struct sim_disk *)engine;

	memory_pause();
	if (disk->mode == SIM_DIRECT)
		submit_direct(disk, req);
	else
		submit_logged(disk, req);
	memory_resume();
}

static void sim_wake(struct engine *engine)
{
	((struct sim_disk *)engine)->woken = true;
}

static uint64_t sim_now_ns(struct engine *engine)
{
	return ((struct sim_disk *)engine)->clock_ns;
}

static void sim_destroy(struct engine *engine)
{
	struct sim_disk *disk = (struct sim_disk *)engine;

	sim_disk_reset(disk);
	free(disk->pending);
	free(disk->log);
	free(disk->undo);
	free(disk);
}

static const struct engine_ops sim_ops = {
	.name = "sim",
	.attach = sim_attach,
	.add_file = sim_engine_add_file,
	.remove_file = sim_engine_remove_file,
	.submit = sim_submit,
	.wait = sim_wait,
	.wake = sim_wake,
	.now_ns = sim_now_ns,
	.destroy = sim_destroy,
};

/* ---- files ---- */

static int sim_open(struct opener *opener, enum opener_role role, const struct file *holder,
		    const char *path, bool writable, enum file_lock lock, struct file **ret_file,
		    struct error **reterr)
{
	struct sim_disk *disk =
		(struct sim_disk *)((char *)opener - offsetof(struct sim_disk, opener));
	const char *base = strrchr(path, '/');
	int err;

	base = base ? base + 1 : path;
	for (unsigned i = 0; i < disk->nb_files; i++) {
		struct sim_file *file = &disk->files[i];

		if (strcmp(file->name, base) != 0)
			continue;
		err = file_create_virtual(disk->reactor, file->name, file, file->bytes.size,
					  file->align, writable, ret_file);
		if (err)
			return error_set(reterr, ERROR_SYSTEM, -err, "%s", base);
		(*ret_file)->ino = file->index + 1; /* loops are found by it */
		return 0;
	}
	return error_set(reterr, role == OPENER_IMAGE ? ERROR_OPEN : ERROR_BACKING, ENOENT,
			 "%s: not on the simulated disk", base);
}

int sim_disk_create(struct sim_disk **ret_disk)
{
	struct sim_disk *disk = calloc(1, sizeof(*disk));

	if (!disk)
		return -ENOMEM;
	disk->engine.ops = &sim_ops;
	disk->opener.open = sim_open;
	disk->clock_ns = 1000000000ull;
	*ret_disk = disk;
	return 0;
}

void sim_clear_log(struct sim_disk *disk)
{
	for (unsigned i = 0; i < disk->nb_log; i++)
		free(disk->log[i].bytes);
	disk->nb_log = 0;
}

void sim_disk_reset(struct sim_disk *disk)
{
	assert(disk->nb_pending == 0);
	sim_clear_log(disk);
	sim_undo(disk, 0);
	for (unsigned i = 0; i < disk->nb_files; i++)
		sim_bytes_free(&disk->files[i].bytes);
	disk->nb_files = 0;
	disk->mode = SIM_LOGGED;
	disk->fault = (struct sim_fault){0};
	disk->nb_requests = 0;
	disk->nb_faulted = 0;
	disk->nb_changes = 0;
	disk->no_fallocate = false;
	disk->fail_flush_seen = false;
}

struct sim_file *sim_add_file(struct sim_disk *disk, const char *name, const void *data,
			      uint64_t size, bool read_only)
{
	struct sim_file *file = &disk->files[disk->nb_files];

	assert(disk->nb_files < SIM_FILES_MAX);
	*file = (struct sim_file){.name = name,
				  .align = SIM_SECTOR,
				  .read_only = read_only,
				  .index = disk->nb_files++};
	sim_bytes_resize(&file->bytes, size);
	if (size)
		memcpy(file->bytes.data, data, size);
	return file;
}
