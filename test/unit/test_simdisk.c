/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_simdisk: the checks on the simulated disk itself: it must find what a writer
 * with a wrong order loses, and nothing in one with the right order.
 *
 * The toy writer keeps a pointer in sector 0 and data in sectors 1 and 2; a state is
 * bad when the pointer says 2 and sector 2 does not hold the new data.
 */
#include "test/sim/choose.h"
#include "test/sim/crash.h"
#include "test/sim/run.h"
#include "test/sim/verdict.h"

#include "io/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct toy {
	struct sim sim;
	struct file *file;
	void (*write)(struct toy *toy);
	unsigned nb_states, nb_bad, nb_torn;
};

static void put(struct toy *toy, uint64_t off, uint8_t value, size_t len, enum io_tag tag)
{
	uint8_t *buf = malloc(len);

	memset(buf, value, len);
	assert_int_equal(file_write(toy->file, off, buf, len, tag), 0);
	free(buf);
}

static void coroutine_fn toy_main(void *arg)
{
	struct toy *toy = arg;
	struct opener *opener = &toy->sim.disk->opener;

	assert_int_equal(opener->open(opener, OPENER_IMAGE, NULL, "toy", true, FILE_LOCK_NONE,
				      &toy->file, NULL),
			 0);
	toy->write(toy);
	file_close(toy->file);
}

static bool judge_toy(void *ctx, const struct crash_state *state)
{
	struct toy *toy = ctx;
	const struct sim_bytes *bytes = &toy->sim.disk->files[0].bytes;

	toy->nb_states++;
	if (bytes->size > 0 && bytes->data[0] == 2 &&
	    (bytes->size < 1536 || bytes->data[1024] != 7 || bytes->data[1535] != 7))
		toy->nb_bad++;
	if (bytes->size >= 2560 && (bytes->data[1536] == 9) != (bytes->data[2559] == 9))
		toy->nb_torn++;
	return true;
}

/* Performs the writer, explores its crashes, and counts bad states. */
static void explore_toy(struct toy *toy, void (*write)(struct toy *toy))
{
	const struct crash_params params = {.max_exhaustive = 12, .nb_random = 32};
	static const uint8_t initial[1024] = {1};
	struct history history;
	struct model model;

	*toy = (struct toy){.write = write};
	verdict_clear();
	choose_seed(1);
	sim_create(&toy->sim);
	sim_add_file(toy->sim.disk, "toy", initial, sizeof(initial), false);
	model_init(&model, 8, 8);
	history_begin(&history, toy->sim.disk);
	reactor_run(toy->sim.reactor, toy_main, toy);
	history_end(&history, toy->sim.disk);
	toy->sim.disk->mode = SIM_DIRECT;
	crash_visit(toy->sim.disk, &history, &model, &params, judge_toy, toy);
	history_free(&history);
	model_free(&model);
	sim_destroy(&toy->sim);
}

static void coroutine_fn write_in_order(struct toy *toy)
{
	put(toy, 1024, 7, 512, IO_TAG_DATA);
	assert_int_equal(file_flush(toy->file), 0);
	put(toy, 0, 2, 512, IO_TAG_L2);
	assert_int_equal(file_flush(toy->file), 0);
}

static void coroutine_fn write_without_barrier(struct toy *toy)
{
	put(toy, 1024, 7, 512, IO_TAG_DATA);
	put(toy, 0, 2, 512, IO_TAG_L2);
	assert_int_equal(file_flush(toy->file), 0);
}

static void coroutine_fn write_pointer_first(struct toy *toy)
{
	put(toy, 0, 2, 512, IO_TAG_L2);
	assert_int_equal(file_flush(toy->file), 0);
	put(toy, 1024, 7, 512, IO_TAG_DATA);
}

struct background {
	struct task task;
	struct toy *toy;
	struct co_group *group;
};

static void coroutine_fn flush_early(void *arg)
{
	struct background *background = arg;

	assert_int_equal(file_flush(background->toy->file), 0);
	co_group_leave(background->group, 0);
}

/* The flush is issued while the data write is in flight: it covers nothing. */
static void coroutine_fn write_with_early_flush(struct toy *toy)
{
	static uint8_t data[512];
	const struct iovec iov = {data, sizeof(data)};
	struct co_group group;
	struct background background = {
		.task = {.fn = flush_early, .arg = &background}, .toy = toy, .group = &group};
	struct file_io io;

	memset(data, 7, sizeof(data));
	co_group_init(&group, 1);
	file_io_start(&io, toy->file, IO_WRITE, 1024, &iov, 1, IO_TAG_DATA);
	co_group_spawn(&group, &background.task);
	co_group_join(&group);
	assert_int_equal(file_io_finish(&io), 0);
	put(toy, 0, 2, 512, IO_TAG_L2);
}

static void coroutine_fn write_two_sectors(struct toy *toy)
{
	put(toy, 1536, 9, 1024, IO_TAG_DATA);
}

static void test_right_order_has_no_bad_state(void **state)
{
	struct toy toy;

	explore_toy(&toy, write_in_order);
	assert_true(toy.nb_states >= 4);
	assert_int_equal(toy.nb_bad, 0);
}

static void test_missing_barrier_is_found(void **state)
{
	struct toy toy;

	explore_toy(&toy, write_without_barrier);
	assert_true(toy.nb_bad > 0);
	explore_toy(&toy, write_pointer_first);
	assert_true(toy.nb_bad > 0);
}

static void test_flush_covers_only_what_had_completed(void **state)
{
	struct toy toy;

	explore_toy(&toy, write_with_early_flush);
	assert_true(toy.nb_bad > 0);
}

static void test_long_writes_tear(void **state)
{
	struct toy toy;

	explore_toy(&toy, write_two_sectors);
	assert_true(toy.nb_torn > 0);
}

/* ---- what the engine watches ---- */

static unsigned nb_raw_done;

static void raw_done(struct io_req *req)
{
	nb_raw_done++;
}

/* Past the file layer, which keeps overlapping writes apart. */
static void coroutine_fn write_overlapping(struct toy *toy)
{
	static uint8_t data[1024];
	const struct iovec iov = {data, sizeof(data)};
	struct io_req reqs[2];

	nb_raw_done = 0;
	for (unsigned i = 0; i < 2; i++) {
		reqs[i] = (struct io_req){.file = toy->file,
					  .op = IO_WRITE,
					  .tag = IO_TAG_DATA,
					  .host_off = 512 + i * 512,
					  .len_bytes = sizeof(data),
					  .iov = &iov,
					  .nb_iov = 1,
					  .done = raw_done};
		toy->file->engine->ops->submit(toy->file->engine, &reqs[i]);
	}
	while (nb_raw_done < 2)
		co_sleep(1);
}

static void test_overlap_in_flight_is_found(void **state)
{
	struct toy toy;

	explore_toy(&toy, write_overlapping);
	assert_true(verdict_failed());
	assert_non_null(strstr(verdict_text(), "overlaps"));
	verdict_clear();
}

/* ---- choices ---- */

static void test_search_visits_every_vector_once(void **state)
{
	unsigned nb = 0;

	/* Three decisions of 2, 3 and 2: at most one deviation makes 1 + 1 + 2 + 1. */
	choose_script_begin(1);
	do {
		sim_choose(CHOICE_SCHEDULE, 2);
		sim_choose(CHOICE_SCHEDULE, 3);
		sim_choose(CHOICE_DISK, 5);
		sim_choose(CHOICE_SCHEDULE, 2);
		nb++;
	} while (choose_script_next());
	assert_int_equal(nb, 5);

	nb = 0;
	choose_script_begin(3);
	do {
		sim_choose(CHOICE_SCHEDULE, 2);
		sim_choose(CHOICE_SCHEDULE, 3);
		sim_choose(CHOICE_SCHEDULE, 2);
		nb++;
	} while (choose_script_next());
	assert_int_equal(nb, 12);
}

static void test_seed_repeats(void **state)
{
	unsigned first[64];

	choose_seed(42);
	for (unsigned i = 0; i < 64; i++)
		first[i] = sim_choose(CHOICE_DISK, 1000);
	choose_seed(42);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(first[i], sim_choose(CHOICE_DISK, 1000));
}

/* ---- the model ---- */

static bool is_legal(const struct model *model, unsigned lba, const uint8_t *sector, uint64_t now,
		     uint64_t floor)
{
	bool legal = model_judge_sector(model, lba, sector, now, floor, false, NULL);

	verdict_clear();
	return legal;
}

static void test_model_knows_what_a_flush_settles(void **state)
{
	uint8_t zeros[SIM_SECTOR] = {0}, first[SIM_SECTOR], second[SIM_SECTOR], other[SIM_SECTOR];
	struct model model;
	struct model_op op;

	model_init(&model, 8, 8);
	model_begin(&model, &op, 10, 512, 512, first);
	model_end(&model, &op, 11, true);
	assert_true(is_legal(&model, 1, zeros, 12, 0));
	assert_true(is_legal(&model, 1, first, 12, 0));

	model_flushed(&model, 12, 13);
	assert_int_equal(model_flush_floor(&model, 12), 0);
	assert_int_equal(model_flush_floor(&model, 13), 12);
	assert_false(is_legal(&model, 1, zeros, 14, 12));
	assert_true(is_legal(&model, 1, first, 14, 12));

	/* A write that fails leaves both possible, however often is flushed. */
	model_begin(&model, &op, 20, 512, 512, second);
	model_end(&model, &op, 21, false);
	assert_true(is_legal(&model, 1, first, 30, 29));
	assert_true(is_legal(&model, 1, second, 30, 29));
	assert_false(is_legal(&model, 1, second, 19, 12));

	/* Another sector's data, and torn data, are never legal. */
	model_begin(&model, &op, 31, 1024, 512, other);
	model_end(&model, &op, 32, true);
	assert_false(is_legal(&model, 1, other, 40, 0));
	first[300] ^= 1;
	assert_false(is_legal(&model, 1, first, 40, 0));
	model_free(&model);
}

static bool may_be_read(const struct model *model, const uint8_t *sector, uint64_t t_start,
			uint64_t t_end)
{
	bool legal = model_judge_sector(model, 1, sector, t_end, t_start, true, NULL);

	verdict_clear();
	return legal;
}

static void test_model_learns_from_what_is_read(void **state)
{
	uint8_t zeros[SIM_SECTOR] = {0}, data[SIM_SECTOR];
	struct model_op write, zero;
	struct model model;

	/* What has been read by somebody is there, though its write has not ended. */
	model_init(&model, 8, 8);
	model_begin(&model, &write, 10, 512, 512, data);
	assert_true(may_be_read(&model, zeros, 11, 12));
	assert_true(may_be_read(&model, data, 11, 12));
	model_observe(&model, 1, (content_t)write.id << 32 | 1, 11, 12);
	assert_false(may_be_read(&model, zeros, 13, 14));
	model_free(&model);

	/* Zeros of before, or those that are being written? The write in between tells nothing. */
	model_init(&model, 8, 8);
	model_begin(&model, &zero, 10, 512, 512, NULL);
	model_observe(&model, 1, CONTENT_ZERO, 11, 12);
	model_begin(&model, &write, 13, 512, 512, data);
	model_end(&model, &write, 14, true);
	assert_true(may_be_read(&model, data, 15, 16));
	assert_true(may_be_read(&model, zeros, 15, 16));
	model_end(&model, &zero, 17, true);
	assert_true(may_be_read(&model, zeros, 18, 19));
	model_free(&model);
}

static void test_model_mixes_partial_sectors(void **state)
{
	uint8_t part[100], sector[SIM_SECTOR] = {0};
	struct model model;
	struct model_op op;

	model_init(&model, 8, 8);
	model_begin(&model, &op, 1, 512 + 50, sizeof(part), part);
	model_end(&model, &op, 2, true);
	memcpy(sector + 50, part, sizeof(part));
	assert_true(is_legal(&model, 1, sector, 4, 3));
	sector[20] = 1;
	assert_false(is_legal(&model, 1, sector, 4, 3));
	model_free(&model);
}

static void test_hash_ignores_ids(void **state)
{
	uint8_t a[SIM_SECTOR], b[SIM_SECTOR];

	payload_fill(a, 5, 20ull << 32 | 3);
	payload_fill(b, 5, 99ull << 32 | 3);
	assert_true(sector_hash(a) == sector_hash(b));
	payload_fill(b, 5, 99ull << 32 | 4);
	assert_true(sector_hash(a) != sector_hash(b));
	payload_fill(b, 6, 20ull << 32 | 3);
	assert_true(sector_hash(a) != sector_hash(b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_right_order_has_no_bad_state),
		cmocka_unit_test(test_missing_barrier_is_found),
		cmocka_unit_test(test_flush_covers_only_what_had_completed),
		cmocka_unit_test(test_long_writes_tear),
		cmocka_unit_test(test_overlap_in_flight_is_found),
		cmocka_unit_test(test_search_visits_every_vector_once),
		cmocka_unit_test(test_seed_repeats),
		cmocka_unit_test(test_model_knows_what_a_flush_settles),
		cmocka_unit_test(test_model_learns_from_what_is_read),
		cmocka_unit_test(test_model_mixes_partial_sectors),
		cmocka_unit_test(test_hash_ignores_ids),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
