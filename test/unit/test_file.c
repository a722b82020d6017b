/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * file: any offset, length and buffer on a disk that takes whole blocks only.
 *
 * The disk is the fake engine's, which notes every request that is not aligned and
 * every pair that must not be in flight together. What the disk should hold is kept
 * in a plain array beside it. The seed is printed, and taken from QF_SEED.
 */
#include "io/buf.h"
#include "io/file.h"

#include "test/unit/fake_engine.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MODEL_BYTES (256u << 10)
#define SEQUEL_BYTES (64u << 10)

static uint32_t seed = 1;
static struct reactor *reactor;
static struct fake_engine *fake;
static struct fake_disk disk;
static struct file *file;
static uint8_t model[FAKE_DISK_BYTES]; /* what the file should read as */
static uint64_t model_size;

static void open_file(uint32_t align, uint64_t size_bytes)
{
	struct reactor_params params;

	fake = fake_engine_create(seed);
	params = (struct reactor_params){.engine = &fake->engine, .nb_coroutines = 64};
	assert_int_equal(reactor_create(&params, &reactor), 0);
	/* Garbage behind the end shows whoever reads it. */
	memset(disk.bytes, 0xee, FAKE_DISK_BYTES);
	memset(model, 0, sizeof(model));
	for (uint64_t i = 0; i < size_bytes; i++)
		model[i] = disk.bytes[i] = (uint8_t)(i * 7 + (i >> 8) + 1);
	if (size_bytes < FAKE_DISK_BYTES)
		memset(disk.bytes + size_bytes, 0, FAKE_DISK_BYTES - size_bytes);
	disk.size_bytes = model_size = size_bytes;
	assert_int_equal(
		file_create_virtual(reactor, "disk", &disk, size_bytes, align, true, &file), 0);
}

static void close_file(void)
{
	assert_int_equal(fake->nb_unaligned, 0);
	assert_null(file->blocks.held);
	assert_null(file->blocks.waiting);
	assert_int_equal(reactor_nb_coroutines(reactor), 0);
	file_close(file);
	reactor_destroy(reactor);
}

static int group_setup(void **state)
{
	const char *text = getenv("QF_SEED");

	if (text)
		seed = (uint32_t)strtoul(text, NULL, 0);
	print_message("seed %u\n", seed);
	disk.bytes = malloc(FAKE_DISK_BYTES);
	return !disk.bytes;
}

static int group_teardown(void **state)
{
	free(disk.bytes);
	buf_trim();
	return 0;
}

static uint32_t below(uint32_t limit)
{
	return fake_random(fake) % limit;
}

/* Runs `fn` once per block size. */
static void for_each_align(void (*fn)(void *arg), uint64_t size_bytes, fake_fault *fault)
{
	static const uint32_t aligns[] = {1, 512, 4096};

	for (size_t i = 0; i < sizeof(aligns) / sizeof(aligns[0]); i++) {
		open_file(aligns[i], size_bytes);
		fake->fault = fault;
		reactor_run(reactor, fn, NULL);
		close_file();
	}
}

/* ---- against the model ---- */

/* Cuts [off, off + len) of `buf` into pieces of random lengths, odd ones too. */
static int random_iov(struct iovec *iov, int max_iov, uint8_t *buf, size_t len_bytes)
{
	int nb_iov = 0;

	while (len_bytes) {
		size_t nb = 1 + below(20000);

		if (below(2))
			nb = (nb + 4095) & ~(size_t)4095;
		if (nb > len_bytes || nb_iov == max_iov - 1)
			nb = len_bytes;
		iov[nb_iov++] = (struct iovec){.iov_base = buf, .iov_len = nb};
		buf += nb;
		len_bytes -= nb;
	}
	return nb_iov;
}

static void random_op(uint8_t *memory)
{
	uint64_t off = below(MODEL_BYTES), len = 1 + below(3) * below(60000);
	bool aligned = below(3) == 0;
	struct iovec iov[16];
	struct file_io io;
	uint8_t *buf = memory + (below(2) ? below(4096) : 0);
	int nb_iov, op = (int)below(8);

	if (aligned) {
		off &= ~4095ull;
		len = (len + 4095) & ~4095ull;
	}
	nb_iov = random_iov(iov, 16, buf, len);
	if (op < 4) {
		memset(buf, 0xaa, len);
		file_io_start(&io, file, IO_READ, off, iov, nb_iov, IO_TAG_DATA);
		assert_int_equal(file_io_finish(&io), 0);
		assert_memory_equal(buf, model + off, len);
	} else if (op < 7) {
		for (size_t i = 0; i < len; i++)
			buf[i] = (uint8_t)fake_random(fake);
		file_io_start(&io, file, IO_WRITE, off, iov, nb_iov, IO_TAG_DATA);
		assert_int_equal(file_io_finish(&io), 0);
		memcpy(model + off, buf, len);
	} else {
		assert_int_equal(file_zero(file, off, len, IO_TAG_DATA), 0);
		memset(model + off, 0, len);
	}
	if (op >= 4 && off + len > model_size)
		model_size = off + len;
}

static void random_ops(void *arg)
{
	uint8_t *memory = aligned_alloc(4096, 512 << 10);

	assert_non_null(memory);
	for (int i = 0; i < 600; i++)
		random_op(memory);
	assert_memory_equal(disk.bytes, model, model_size);
	assert_true(file->size_bytes == disk.size_bytes);
	assert_in_range(disk.size_bytes, model_size, model_size + file->align - 1);
	free(memory);
}

static void test_any_range_any_buffer(void **state)
{
	for_each_align(random_ops, 100000, NULL);
}

/* Every third request meets something that the caller must never see. */
static int64_t invisible_fault(struct fake_engine *engine, const struct io_req *req)
{
	if (req->op != IO_READ && req->op != IO_WRITE)
		return fake_random(engine) % 3 ? 0 : -EINTR;
	switch (fake_random(engine) % 9) {
	case 0:
		return -EINTR;
	case 1:
		return -EAGAIN;
	case 2:
		engine->nb_faults++;
		return 1 + fake_random(engine) % req->len_bytes;
	default:
		return 0;
	}
}

static void test_invisible_faults(void **state)
{
	for_each_align(random_ops, 100000, invisible_fault);
}

/* Only whole reads may be followed; nb_faults: by what others are. */
static int64_t cut_whole(struct fake_engine *engine, const struct io_req *req)
{
	if (req->len_bytes == SEQUEL_BYTES)
		return SEQUEL_BYTES / 2;
	engine->nb_faults += req->sequel != NULL;
	return 0;
}

static void read_with_sequel(void *arg)
{
	uint8_t *buf = aligned_alloc(4096, SEQUEL_BYTES);
	struct iovec iov = {.iov_base = buf, .iov_len = SEQUEL_BYTES};
	struct io_sequel sequel = {.fn = NULL};
	unsigned long nb_before = fake->nb_requests;
	struct file_io io;

	assert_non_null(buf);
	file_io_start_read(&io, file, 0, &iov, IO_TAG_DATA, &sequel);
	assert_int_equal(file_io_finish(&io), 0);
	assert_memory_equal(buf, model, SEQUEL_BYTES);
	assert_int_equal(fake->nb_requests - nb_before, 2);
	assert_int_equal(fake->nb_faults, 0);
	free(buf);
}

/* Short reads are no rarity: another request may be making the file longer. */
static void test_rest_has_no_sequel(void **state)
{
	for_each_align(read_with_sequel, 100000, cut_whole);
}

/* ---- the end of the file ---- */

static void read_around_end(void *arg)
{
	uint8_t buf[20000];

	for (uint64_t off = 8000; off < 13000; off += 499) {
		for (size_t len = 1; len < sizeof(buf); len += 3701) {
			memset(buf, 0x55, sizeof(buf));
			assert_int_equal(file_read(file, off, buf, len, IO_TAG_DATA), 0);
			assert_memory_equal(buf, model + off, len);
			if (len < sizeof(buf))
				assert_int_equal(buf[len], 0x55);
		}
	}
	assert_int_equal(file_read(file, 1ull << 60, buf, 5000, IO_TAG_DATA), 0);
	for (int i = 0; i < 5000; i++)
		assert_int_equal(buf[i], 0);
	assert_int_equal(disk.size_bytes, 10001);
}

static void test_zeros_beyond_end(void **state)
{
	for_each_align(read_around_end, 10001, NULL);
}

static void write_tail(void *arg)
{
	/* Inside the file, whose last block is not whole: the size stays. */
	assert_int_equal(file_write(file, 9990, "abcdefghijk", 11, IO_TAG_DATA), 0);
	assert_memory_equal(disk.bytes + 9990, "abcdefghijk", 11);
	assert_int_equal(disk.size_bytes, 10001);
	assert_int_equal(file->size_bytes, 10001);
	/* Beyond it: at most the rest of the block follows, and reads as zeros. */
	assert_int_equal(file_write(file, 10001, "xyz", 3, IO_TAG_DATA), 0);
	assert_in_range(disk.size_bytes, 10004, 10004 + file->align - 1);
	assert_int_equal(file->size_bytes, disk.size_bytes);
	assert_memory_equal(disk.bytes + 9990, "abcdefghijkxyz\0\0", 16);
}

static void test_tail_write_keeps_size(void **state)
{
	for_each_align(write_tail, 10001, NULL);
}

/* A file that shrank behind our back must not make a read repeat itself for ever. */
static void read_shrunk(void *arg)
{
	uint8_t buf[8192];

	disk.size_bytes = 700;
	memset(buf, 0x55, sizeof(buf));
	assert_int_equal(file_read(file, 100, buf, sizeof(buf), IO_TAG_DATA), 0);
	assert_memory_equal(buf, model + 100, 600);
	assert_int_equal(buf[600], 0);
	assert_int_equal(buf[8191], 0);
}

static void test_shrunk_file(void **state)
{
	open_file(1, 100000);
	reactor_run(reactor, read_shrunk, NULL);
	close_file();
}

/* ---- writers side by side ---- */

#define NB_WRITERS 48

struct writer {
	struct task task;
	unsigned index;
	uint64_t off, len;
};

static unsigned nb_running;

static void run_writer(void *arg)
{
	struct writer *writer = arg;
	uint8_t *buf = aligned_alloc(4096, 8192);

	assert_non_null(buf);
	memset(buf, (int)writer->index + 1, 8192);
	assert_int_equal(file_write(file, writer->off, buf, writer->len, IO_TAG_DATA), 0);
	free(buf);
	nb_running--;
}

/* Disjoint pieces of a few blocks, whole blocks among them, in a random order. */
static void run_writers(void *arg)
{
	static struct writer writers[NB_WRITERS];
	uint64_t off = 0;

	nb_running = NB_WRITERS;
	for (unsigned i = 0; i < NB_WRITERS; i++) {
		uint64_t len = below(4) ? 100 + below(1500) : 4096 - off % 4096;

		writers[i] = (struct writer){.index = i, .off = off, .len = len};
		writers[i].task.fn = run_writer;
		writers[i].task.arg = &writers[i];
		memset(model + off, (int)i + 1, len);
		off += len;
	}
	for (unsigned i = NB_WRITERS; i > 1; i--) {
		struct writer swap = writers[i - 1], *other = &writers[below(i)];

		writers[i - 1] = *other;
		*other = swap;
		other->task.arg = other;
		writers[i - 1].task.arg = &writers[i - 1];
	}
	for (unsigned i = 0; i < NB_WRITERS; i++)
		reactor_spawn(reactor, &writers[i].task);
	while (nb_running)
		co_sleep(1000);
	assert_memory_equal(disk.bytes, model, 100000);
}

static void test_neighbours_lose_nothing(void **state)
{
	for (unsigned round = 0; round < 40; round++) {
		seed += 0x9e3779b9;
		for_each_align(run_writers, 100000, round % 2 ? invisible_fault : NULL);
	}
	/* The order of completion is random: requests must really have been in parallel. */
	open_file(4096, 100000);
	reactor_run(reactor, run_writers, NULL);
	assert_in_range(fake->max_inflight, 4, NB_WRITERS);
	assert_int_equal(fake->nb_overlaps, 0);
	close_file();
}

/* One coroutine starts writes that share blocks, then finishes them: no deadlock. */
static void start_many(void *arg)
{
	static uint8_t buf[12000];
	struct iovec iov[6];
	struct file_io io[6];

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 13);
	for (int i = 0; i < 6; i++) {
		iov[i] = (struct iovec){.iov_base = buf + i * 2000, .iov_len = 2000};
		file_io_start(&io[i], file, IO_WRITE, 300 + (uint64_t)i * 2000, &iov[i], 1,
			      IO_TAG_DATA);
	}
	for (int i = 0; i < 6; i++)
		assert_int_equal(file_io_finish(&io[i]), 0);
	assert_memory_equal(disk.bytes + 300, buf, sizeof(buf));
}

static void test_one_coroutine_many_writes(void **state)
{
	for_each_align(start_many, 100000, NULL);
	for_each_align(start_many, 100000, invisible_fault);
}

/* Two coroutines, each with a whole-block write where the other wants a part of one: none of
 * the whole blocks may be undone by the other's read-modify-write, and nobody waits for ever. */
static void cross(void *arg)
{
	struct writer *writer = arg;
	uint8_t *buf = aligned_alloc(4096, 8192);
	struct iovec whole = {.iov_base = buf, .iov_len = 4096};
	struct iovec part = {.iov_base = buf, .iov_len = 10};
	struct file_io io[2];

	assert_non_null(buf);
	memset(buf, 0x42, 8192);
	file_io_start(&io[0], file, IO_WRITE, writer->off, &whole, 1, IO_TAG_DATA);
	file_io_start(&io[1], file, IO_WRITE, 4096 - writer->off, &part, 1, IO_TAG_DATA);
	assert_int_equal(file_io_finish(&io[0]), 0);
	assert_int_equal(file_io_finish(&io[1]), 0);
	free(buf);
	nb_running--;
}

static void run_cross(void *arg)
{
	struct writer writers[2] = {{.off = 0}, {.off = 4096}};

	nb_running = 2;
	for (int i = 0; i < 2; i++) {
		writers[i].task.fn = cross;
		writers[i].task.arg = &writers[i];
		reactor_spawn(reactor, &writers[i].task);
	}
	while (nb_running)
		co_sleep(1000);
	for (int i = 0; i < 8192; i++)
		assert_int_equal(disk.bytes[i], 0x42);
}

static void test_crossing_writes(void **state)
{
	for (unsigned round = 0; round < 40; round++) {
		seed += 0x9e3779b9;
		for_each_align(run_cross, 100000, round % 2 ? invisible_fault : NULL);
	}
}

/* ---- visible failures ---- */

static enum io_op failing_op;
static int failing_err;

static int64_t visible_fault(struct fake_engine *engine, const struct io_req *req)
{
	if (req->op != failing_op || engine->nb_faults)
		return 0;
	engine->nb_faults++;
	return -failing_err;
}

static void fail_partial_write(void *arg)
{
	assert_int_equal(file_write(file, 1000, "abc", 3, IO_TAG_DATA), -failing_err);
	assert_int_equal(file->stats.nb_errors, 1);
	assert_memory_equal(disk.bytes, model, 100000);
	assert_null(file->blocks.held);
	assert_int_equal(file_write(file, 1000, "abc", 3, IO_TAG_DATA), 0);
	assert_memory_equal(disk.bytes + 1000, "abc", 3);
}

static void test_visible_failures(void **state)
{
	static const int errs[] = {EIO, ENOSPC, EDQUOT, ENOMEM};

	for (size_t i = 0; i < sizeof(errs) / sizeof(errs[0]); i++) {
		failing_err = errs[i];
		failing_op = IO_WRITE;
		for_each_align(fail_partial_write, 100000, visible_fault);
		failing_op = IO_READ; /* of the read-modify-write */
		open_file(512, 100000);
		fake->fault = visible_fault;
		reactor_run(reactor, fail_partial_write, NULL);
		close_file();
	}
}

static void fail_flush(void *arg)
{
	assert_int_equal(file_flush(file), -EIO);
	assert_int_equal(file->stats.nb_errors, 1);
}

static void test_flush_failure(void **state)
{
	failing_op = IO_FLUSH;
	failing_err = EIO;
	for_each_align(fail_flush, 100000, visible_fault);
}

static void exhaust_memory(void *arg)
{
	char buf[3];

	buf_fail_nth(1);
	assert_int_equal(file_read(file, 1001, buf, 3, IO_TAG_DATA), -ENOMEM);
	buf_fail_nth(1);
	assert_int_equal(file_write(file, 1001, "abc", 3, IO_TAG_DATA), -ENOMEM);
	assert_int_equal(file_write(file, 1001, "abc", 3, IO_TAG_DATA), 0);
	assert_memory_equal(disk.bytes + 1001, "abc", 3);
}

static void test_no_memory(void **state)
{
	open_file(512, 100000);
	reactor_run(reactor, exhaust_memory, NULL);
	close_file();
}

static void refuse_arguments(void *arg)
{
	char buf[16] = "unchanged";

	assert_int_equal(file_read(file, INT64_MAX - 8, buf, 16, IO_TAG_DATA), -EFBIG);
	assert_int_equal(file_read(file, UINT64_MAX - 8, buf, 16, IO_TAG_DATA), -EFBIG);
	assert_int_equal(file_write(file, INT64_MAX - 8, buf, 16, IO_TAG_DATA), -EFBIG);
	assert_int_equal(file_punch(file, UINT64_MAX, 16), -EFBIG);
	assert_int_equal(file_zero(file, 1ull << 63, 16, IO_TAG_DATA), -EFBIG);
	assert_int_equal(file_allocate(file, 4096, UINT64_MAX), -EFBIG);
	assert_int_equal(file_truncate(file, UINT64_MAX), -EFBIG);
	assert_int_equal(file_read(file, 4096, buf, 0, IO_TAG_DATA), 0);
	file->writable = false;
	assert_int_equal(file_write(file, 0, buf, 1, IO_TAG_DATA), -EBADF);
	assert_int_equal(file_punch(file, 0, 4096), -EBADF);
	assert_int_equal(file_truncate(file, 0), -EBADF);
	assert_string_equal(buf, "unchanged");
	assert_int_equal(fake->nb_requests, 0);
}

static void test_bad_arguments(void **state)
{
	for_each_align(refuse_arguments, 100000, NULL);
}

/* ---- without data ---- */

static int64_t refuse_fallocate(struct fake_engine *engine, const struct io_req *req)
{
	return req->op == IO_PUNCH || req->op == IO_ZERO || req->op == IO_ALLOC ? -EOPNOTSUPP : 0;
}

static void punch_zero_allocate(void *arg)
{
	bool refusing = fake->fault;

	assert_int_equal(file_zero(file, 1000, 200000, IO_TAG_DATA), 0);
	memset(model + 1000, 0, 200000);
	assert_memory_equal(disk.bytes, model, 201000);
	assert_in_range(file->size_bytes, 201000, 201000 + 4095);
	assert_int_equal(file_zero(file, 10, 5, IO_TAG_DATA), 0);
	memset(model + 10, 0, 5);
	assert_memory_equal(disk.bytes, model, 201000);

	memset(disk.bytes, 0x77, 100000);
	assert_int_equal(file_punch(file, 4000, 20000), 0);
	assert_int_equal(disk.bytes[3999], 0x77);
	assert_int_equal(disk.bytes[24000], 0x77);
	for (int i = 4096; i < 20480; i++)
		assert_int_equal(disk.bytes[i], refusing ? 0x77 : 0);

	assert_int_equal(file_allocate(file, 300000, 5000), refusing ? -EOPNOTSUPP : 0);
	assert_int_equal(disk.size_bytes, file->size_bytes);
	if (!refusing)
		assert_in_range(disk.size_bytes, 305000, 305000 + 4095);
	/* What the file system refuses is asked for once and counted each time. */
	assert_int_equal(file_punch(file, 0, 8192), 0);
	assert_int_equal(fake->nb_ops[IO_PUNCH], refusing ? 1 : 2);
	assert_in_range(file->stats.nb_fallbacks, refusing ? 4 : 0, refusing ? 5 : 0);
}

static void test_punch_zero_allocate(void **state)
{
	for_each_align(punch_zero_allocate, 100000, NULL);
	for_each_align(punch_zero_allocate, 100000, refuse_fallocate);
}

static void truncate_file(void *arg)
{
	assert_int_equal(file_truncate(file, 12345), 0);
	assert_int_equal(file->size_bytes, 12345);
	assert_int_equal(disk.size_bytes, 12345);
	assert_int_equal(file_truncate(file, 654321), 0);
	assert_int_equal(file->size_bytes, 654321);
	assert_int_equal(file_host_sectors(file), 654321 / 512);
}

static void test_truncate(void **state)
{
	for_each_align(truncate_file, 100000, NULL);
}

/* ---- sizes that do not fit into one request ---- */

static void move_large(void *arg)
{
	size_t len = 5u << 20;
	uint8_t *buf = malloc(len + 1);

	assert_non_null(buf);
	for (size_t i = 0; i < len; i++)
		buf[i + 1] = (uint8_t)(i * 31 + (i >> 12));
	assert_int_equal(file_write(file, 3, buf + 1, len, IO_TAG_DATA), 0);
	assert_memory_equal(disk.bytes + 3, buf + 1, len);
	assert_memory_equal(disk.bytes, model, 3);
	assert_int_equal(file_write(file, 4096, buf + 1, len - len % 4096, IO_TAG_DATA), 0);
	assert_memory_equal(disk.bytes + 4096, buf + 1, len - len % 4096);
	memset(buf, 0, len + 1);
	assert_int_equal(file_read(file, 5, buf + 1, len, IO_TAG_DATA), 0);
	assert_memory_equal(disk.bytes + 5, buf + 1, len);
	free(buf);
}

static void test_large_unaligned(void **state)
{
	for_each_align(move_large, 100000, NULL);
}

static void move_many_pieces(void *arg)
{
	enum { NB = IOV_MAX + 300, PIECE = 4096 };
	struct iovec *iov = calloc(NB, sizeof(*iov));
	uint8_t *buf = aligned_alloc(4096, (size_t)NB * PIECE);
	struct file_io io;

	assert_true(iov && buf);
	for (int i = 0; i < NB; i++) /* an empty piece now and then is allowed */
		iov[i] = (struct iovec){.iov_base = buf + (size_t)i * PIECE,
					.iov_len = i % 100 ? PIECE : 0};
	memset(buf, 0x3c, (size_t)NB * PIECE);
	file_io_start(&io, file, IO_WRITE, 0, iov, NB, IO_TAG_DATA);
	assert_int_equal(file_io_finish(&io), 0);
	memset(buf, 0, (size_t)NB * PIECE);
	file_io_start(&io, file, IO_READ, 0, iov, NB, IO_TAG_DATA);
	assert_int_equal(file_io_finish(&io), 0);
	for (int i = 0; i < NB; i++)
		assert_int_equal(buf[(size_t)i * PIECE + 77], i % 100 ? 0x3c : 0);
	free(iov);
	free(buf);
}

static void test_many_pieces(void **state)
{
	for_each_align(move_many_pieces, 100000, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_range_any_buffer),
		cmocka_unit_test(test_invisible_faults),
		cmocka_unit_test(test_rest_has_no_sequel),
		cmocka_unit_test(test_zeros_beyond_end),
		cmocka_unit_test(test_tail_write_keeps_size),
		cmocka_unit_test(test_shrunk_file),
		cmocka_unit_test(test_neighbours_lose_nothing),
		cmocka_unit_test(test_one_coroutine_many_writes),
		cmocka_unit_test(test_crossing_writes),
		cmocka_unit_test(test_visible_failures),
		cmocka_unit_test(test_flush_failure),
		cmocka_unit_test(test_no_memory),
		cmocka_unit_test(test_bad_arguments),
		cmocka_unit_test(test_punch_zero_allocate),
		cmocka_unit_test(test_truncate),
		cmocka_unit_test(test_large_unaligned),
		cmocka_unit_test(test_many_pieces),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
