/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_leaks: after a session that closed cleanly no cluster is leaked: neither by
 * overwriting, discarding, moving tables, nor (rule I12) by requests that failed.
 */
#include "test/sim/lab.h"

#include "core/format.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define REQUESTS_MAX 4096u

/* Which requests of a run without faults may fail without a leak being excusable: all but those
 * that drop references after a flush. */
struct watch {
	bool eligible[REQUESTS_MAX];
	unsigned nb;
};

static void note_request(void *ctx, const struct io_req *req, bool faulted)
{
	struct watch *watch = ctx;
	bool reads_refcounts =
		req->op == IO_READ && (req->tag == IO_TAG_REFBLOCK || req->tag == IO_TAG_REFTABLE);

	assert_true(watch->nb < REQUESTS_MAX);
	watch->eligible[watch->nb++] = !reads_refcounts;
}

static void leaks_after_faults(const char *cell, uint64_t l2_cache_bytes,
			       const struct guest_op *ops, unsigned nb_ops)
{
	struct lab lab;
	struct watch *watch = calloc(1, sizeof(*watch));
	unsigned nb_tried = 0;

	assert_non_null(watch);
	lab_open(&lab, cell);
	lab_prepare(&lab, 1, ops, nb_ops, 1);
	lab.run.l2_cache_bytes = l2_cache_bytes;
	lab.sim.disk->on_submit = note_request;
	lab.sim.disk->hook_ctx = watch;
	run_execute(&lab.run);
	lab.sim.disk->on_submit = NULL;
	lab_no_violation(&lab);
	assert_int_equal(lab_count_leaks(&lab), 0);
	for (unsigned at = 0; at < watch->nb; at++) {
		if (!watch->eligible[at])
			continue;
		lab_prepare(&lab, 1, ops, nb_ops, 1);
		lab.run.l2_cache_bytes = l2_cache_bytes;
		lab.run.may_fail = true;
		lab.run.no_final_read = true;
		lab.sim.disk->fault = (struct sim_fault){.at = at, .count = 1, .err = EIO};
		run_execute(&lab.run);
		lab.sim.disk->fault = (struct sim_fault){0};
		lab_no_violation(&lab);
		if (lab.run.open_result || lab.run.close_result || lab.run.flush_failed)
			continue;
		nb_tried++;
		assert_int_equal(lab_count_leaks(&lab), 0);
	}
	lab_close(&lab);
	free(watch);
	assert_true(nb_tried > 0);
}

/* With all the cache it wants, and with one slice, when every step may have to load its table anew.
 */
#define LEAKS(cell, ...)                                                        \
	do {                                                                    \
		const struct guest_op ops[] = {__VA_ARGS__};                    \
		leaks_after_faults(cell, 0, ops, sizeof(ops) / sizeof(ops[0])); \
		leaks_after_faults(cell, 1, ops, sizeof(ops) / sizeof(ops[0])); \
	} while (0)

#define C4K 4096u

static void test_allocating_and_new_tables(void **state)
{
	LEAKS("c512-r16-v3", {GUEST_WRITE, 2048, 1024}, {GUEST_WRITE, 40 * 1024, 2048},
	      {GUEST_WRITE, 2048, 4096}, {GUEST_FLUSH, 0, 0});
}

static void test_overwriting_compressed_clusters(void **state)
{
	LEAKS("c4k-r16-compressed", {GUEST_WRITE, 0, C4K}, {GUEST_WRITE, C4K, 512},
	      {GUEST_FLUSH, 0, 0});
}

static void test_overwriting_what_a_snapshot_shares(void **state)
{
	LEAKS("c4k-r16-snapshot", {GUEST_WRITE, 0, 512}, {GUEST_WRITE, C4K, C4K},
	      {GUEST_FLUSH, 0, 0}, {GUEST_DISCARD, 0, 2 * C4K}, {GUEST_FLUSH, 0, 0});
}

static void test_copying_from_the_backing_file(void **state)
{
	LEAKS("c4k-r16-backing", {GUEST_WRITE, 5 * C4K, 512}, {GUEST_ALLOCATE, 7 * C4K, 2 * C4K},
	      {GUEST_FLUSH, 0, 0});
}

static void test_preallocation(void **state)
{
	LEAKS("c512-r16-v3", {GUEST_ALLOCATE, 4096, 8192}, {GUEST_ALLOCATE, 40 * 1024, 4096},
	      {GUEST_WRITE, 4096, 512}, {GUEST_FLUSH, 0, 0});
}

static void test_discarding(void **state)
{
	LEAKS("c4k-r16-v3", {GUEST_DISCARD, 0, C4K}, {GUEST_FLUSH, 0, 0}, {GUEST_ZERO, C4K, C4K},
	      {GUEST_WRITE, 5 * C4K, 2 * C4K}, {GUEST_ZERO_KEEP, 5 * C4K, C4K},
	      {GUEST_FLUSH, 0, 0});
}

static void test_growing(void **state)
{
	LEAKS("c512-r16-v3", {GUEST_WRITE, 40 * 1024, 512}, {GUEST_RESIZE, 4608 * 512, 0},
	      {GUEST_WRITE, 70 * 1024, 512}, {GUEST_FLUSH, 0, 0});
}

static void test_growing_the_refcount_table(void **state)
{
	LEAKS("c512-r64-grown", {GUEST_WRITE, 3910 * 512, 100 * 512}, {GUEST_FLUSH, 0, 0});
}

/* ---- a table longer than what one refcount block describes ---- */

struct growth {
	struct lab *lab;
	int result;
};

static void coroutine_fn growth_main(void *arg)
{
	struct growth *growth = arg;
	const struct image_options options = {.writable = true};
	static uint8_t data[8192] __attribute__((aligned(4096))), back[sizeof(data)];
	struct image *image;

	memset(data, 0x5a, sizeof(data));
	growth->result =
		image_open(&growth->lab->sim.disk->opener, CELL_IMAGE_NAME, &options, &image, NULL);
	if (growth->result)
		return;
	growth->result = image_resize(image, 512ull << 20);
	if (!growth->result)
		growth->result = image_write(image, 500ull << 20, data, sizeof(data));
	if (!growth->result)
		growth->result = image_read(image, 500ull << 20, back, sizeof(back), NULL);
	if (!growth->result && memcmp(data, back, sizeof(data)) != 0)
		growth->result = -EIO;
	if (!growth->result)
		growth->result = image_close(image);
}

static void test_an_l1_table_longer_than_a_refcount_block(void **state)
{
	static const char *const cells[] = {"c512-r64-v3", "c512-r16-v3", "c512-r64-grown", NULL};

	for (unsigned i = 0; cells[i]; i++) {
		struct lab lab;
		struct growth growth = {.lab = &lab};

		lab_open(&lab, cells[i]);
		lab_prepare(&lab, 1, NULL, 0, 1);
		reactor_run(lab.sim.reactor, growth_main, &growth);
		assert_int_equal(growth.result, 0);
		assert_int_equal(lab_count_leaks(&lab), 0);
		assert_true(lab.sim.disk->files[0].bytes.size < 8u << 20);
		lab_close(&lab);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_allocating_and_new_tables),
		cmocka_unit_test(test_overwriting_compressed_clusters),
		cmocka_unit_test(test_overwriting_what_a_snapshot_shares),
		cmocka_unit_test(test_copying_from_the_backing_file),
		cmocka_unit_test(test_preallocation),
		cmocka_unit_test(test_discarding),
		cmocka_unit_test(test_growing),
		cmocka_unit_test(test_growing_the_refcount_table),
		cmocka_unit_test(test_an_l1_table_longer_than_a_refcount_block),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
