/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_ahead: clusters that are taken ahead of need, for a guest that flushes after each few new
 * ones: what it saves, that no crash does harm, and that everything is given back.
 */
#include "test/sim/lab.h"

#include "core/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECOND_NS 1000000000ull
#define QUIET_S 12u

#define SYNCED(off, len)          \
	{GUEST_WRITE, off, len},  \
	{                         \
		GUEST_FLUSH, 0, 0 \
	}

static void explore_in(const char *const *cells, const struct guest_op *ops, unsigned nb_ops,
		       unsigned nb_clients)
{
	for (; *cells; cells++) {
		struct lab lab;

		lab_open(&lab, *cells);
		for (uint64_t seed = 1; seed <= 4; seed++) {
			lab_prepare(&lab, seed, ops, nb_ops, nb_clients);
			lab_explore(&lab);
			assert_int_equal(lab_count_leaks(&lab), 0);
		}
		lab_close(&lab);
	}
}

#define EXPLORE(nb_clients, ops, ...)                                                             \
	explore_in((const char *const[]){__VA_ARGS__, NULL}, ops, sizeof(ops) / sizeof((ops)[0]), \
		   nb_clients)

/* Taken ahead, used, given back when quiet, and taken again; freed clusters in between. */
static void test_every_crash_is_harmless(void **state)
{
	const struct guest_op ops[] = {
		SYNCED(4 * 4096, 4096),
		SYNCED(5 * 4096, 512),
		SYNCED(6 * 4096, 4096),
		SYNCED(7 * 4096, 512),
		SYNCED(8 * 4096, 4096),
		SYNCED(9 * 4096, 4096),
		{GUEST_DISCARD, 4 * 4096, 2 * 4096},
		SYNCED(10 * 4096, 1024),
		SYNCED(4 * 4096, 3 * 4096),
		{GUEST_SLEEP, QUIET_S * SECOND_NS, 0},
		SYNCED(11 * 4096, 4096),
		SYNCED(12 * 4096, 4096),
		SYNCED(13 * 4096, 2 * 4096),
		{GUEST_WRITE, 14 * 4096, 512},
	};

	EXPLORE(1, ops, "c4k-r16-v3", "c4k-r16-snapshot", "c512-r64-v3");
}

static void test_clients_take_turns(void **state)
{
	const struct guest_op ops[] = {
		SYNCED(4 * 512, 512),  SYNCED(8 * 512, 512),
		SYNCED(12 * 512, 512), SYNCED(16 * 512, 1024),
		SYNCED(20 * 512, 512), {GUEST_SLEEP, QUIET_S * SECOND_NS, 0},
		SYNCED(24 * 512, 512), SYNCED(28 * 512, 512),
		SYNCED(32 * 512, 512), SYNCED(36 * 512, 512),
	};

	EXPLORE(3, ops, "c512-r16-v3");
}

/* ---- one image that is looked at meanwhile ---- */

#define CLUSTER 512u
#define NB_SYNCED 12u

struct watch {
	struct lab *lab;
	unsigned nb_refblock_writes;
	void coroutine_fn (*body)(struct watch *watch, struct image *image);
};

static void note_request(void *ctx, const struct io_req *req, bool faulted)
{
	struct watch *watch = ctx;

	watch->nb_refblock_writes += req->op == IO_WRITE && req->tag == IO_TAG_REFBLOCK;
}

static void coroutine_fn synced_write(struct image *image, uint64_t guest_off)
{
	static uint8_t data[CLUSTER] __attribute__((aligned(4096)));

	memset(data, 0x5a, sizeof(data));
	assert_int_equal(image_write(image, guest_off, data, sizeof(data)), 0);
	assert_int_equal(image_flush(image), 0);
}

/* In steps: the simulated disk may let any time pass before I/O under way is done. */
static void coroutine_fn be_quiet(void)
{
	for (unsigned i = 0; i < QUIET_S; i++)
		co_sleep(SECOND_NS);
}

static uint64_t coroutine_fn count_leaks_now(struct watch *watch)
{
	const struct check_options options = {.repair = CHECK_ONLY};
	struct check_report report;

	assert_int_equal(
		judge_check_file(watch->lab->sim.disk, CELL_IMAGE_NAME, &options, &report, NULL),
		0);
	assert_int_equal(report.corruptions, 0);
	return report.leaks;
}

static void coroutine_fn watch_main(void *arg)
{
	struct watch *watch = arg;
	const struct image_options options = {.writable = true};
	struct image *image;

	assert_int_equal(
		image_open(&watch->lab->sim.disk->opener, CELL_IMAGE_NAME, &options, &image, NULL),
		0);
	assert_int_equal(image_resize(image, 1u << 20), 0);
	watch->body(watch, image);
	assert_int_equal(image_close(image), 0);
}

static void watch_image(void coroutine_fn (*body)(struct watch *watch, struct image *image))
{
	struct lab lab;
	struct watch watch = {.lab = &lab, .body = body};

	lab_open(&lab, "c512-r16-v3");
	lab_prepare(&lab, 1, NULL, 0, 1);
	lab.sim.disk->on_submit = note_request;
	lab.sim.disk->hook_ctx = &watch;
	reactor_run(lab.sim.reactor, watch_main, &watch);
	lab.sim.disk->on_submit = NULL;
	assert_int_equal(lab_count_leaks(&lab), 0);
	lab_close(&lab);
}

static uint64_t file_bytes(const struct watch *watch)
{
	return watch->lab->sim.disk->files[0].bytes.size;
}

/*
 * Flushed writes until the zeros of what is taken ahead lie in the file, where a check counts it.
 * Returns how many there were.
 */
static unsigned coroutine_fn sync_until_ahead(struct watch *watch, struct image *image)
{
	unsigned nb = 0;

	while (count_leaks_now(watch) <= NB_SYNCED) { /* holes in the file are found first */
		assert_in_range(nb, 0, 64);
		synced_write(image, (8 + nb++) * 4096);
	}
	return nb;
}

static void coroutine_fn look_at_refcounts(struct watch *watch, struct image *image)
{
	unsigned nb = sync_until_ahead(watch, image);
	uint64_t bytes = file_bytes(watch);

	watch->nb_refblock_writes = 0;
	for (unsigned end = nb + NB_SYNCED; nb < end; nb++)
		synced_write(image, (8 + nb) * 4096);
	assert_int_equal(watch->nb_refblock_writes, 0);
	assert_int_equal(file_bytes(watch), bytes);
	assert_in_range(count_leaks_now(watch), 1, 32 - NB_SYNCED);
	be_quiet();
	assert_int_equal(count_leaks_now(watch), 0);
	assert_in_range(file_bytes(watch), 0, bytes - CLUSTER);
	bytes = file_bytes(watch);
	synced_write(image, (8 + nb) * 4096);
	assert_in_range(file_bytes(watch), bytes, bytes + 2 * CLUSTER);
}

static void test_flushes_find_refcounts_raised(void **state)
{
	watch_image(look_at_refcounts);
}

/* While clusters are needed now and then, they are kept. */
static void coroutine_fn look_at_a_slow_guest(struct watch *watch, struct image *image)
{
	unsigned nb = sync_until_ahead(watch, image);

	for (unsigned end = nb + 8; nb < end; nb++) {
		co_sleep(SECOND_NS);
		synced_write(image, (8 + nb) * 4096);
		assert_in_range(count_leaks_now(watch), 1, 32);
	}
}

static void test_kept_while_needed(void **state)
{
	watch_image(look_at_a_slow_guest);
}

/* Whoever writes much between flushes gets nothing ahead. */
static void coroutine_fn look_at_large_writes(struct watch *watch, struct image *image)
{
	static uint8_t data[16 * CLUSTER] __attribute__((aligned(4096)));

	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(image_write(image, 32768 + i * sizeof(data), data, sizeof(data)),
				 0);
		assert_int_equal(image_flush(image), 0);
		assert_int_equal(count_leaks_now(watch), 0);
	}
}

static void test_large_writes_take_nothing_ahead(void **state)
{
	watch_image(look_at_large_writes);
}

/* What is given back does not end the file: a table lies behind it. */
static void coroutine_fn look_behind_a_table(struct watch *watch, struct image *image)
{
	uint64_t bytes, before;

	sync_until_ahead(watch, image);
	before = file_bytes(watch);
	assert_int_equal(image_resize(image, 100u << 20), 0);
	bytes = file_bytes(watch);
	assert_true(bytes > before);
	be_quiet();
	assert_in_range(file_bytes(watch), bytes, UINT64_MAX);
	assert_int_equal(count_leaks_now(watch), 0);
	synced_write(image, 99u << 20);
}

static void test_a_table_behind_what_is_given_back(void **state)
{
	watch_image(look_behind_a_table);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_crash_is_harmless),
		cmocka_unit_test(test_clients_take_turns),
		cmocka_unit_test(test_flushes_find_refcounts_raised),
		cmocka_unit_test(test_kept_while_needed),
		cmocka_unit_test(test_large_writes_take_nothing_ahead),
		cmocka_unit_test(test_a_table_behind_what_is_given_back),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
