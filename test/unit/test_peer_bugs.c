/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_peer_bugs: what other qcow2 writers got wrong, as regression tests on the
 * simulated disk, numbered. Those that need a kernel, a mount or hostile headers are
 * in test/it/peer-bugs, which leaves gaps in the numbers.
 *
 * Runs go through the explorer: every crash state is opened, read, checked, repaired.
 */
#include "test/sim/choose.h"
#include "test/sim/lab.h"
#include "test/sim/verdict.h"
#include "test/sim/workload.h"

#include "core/format.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MANY UINT_MAX

/* The same operations in several cells, under some seeds. */
static void explore_in(const char *const *cells, const struct guest_op *ops, unsigned nb_ops,
		       unsigned nb_clients, unsigned nb_seeds)
{
	for (; *cells; cells++) {
		struct lab lab;

		lab_open(&lab, *cells);
		for (uint64_t seed = 1; seed <= nb_seeds; seed++) {
			lab_prepare(&lab, seed, ops, nb_ops, nb_clients);
			lab_explore(&lab);
		}
		lab_close(&lab);
	}
}

#define EXPLORE(nb_clients, nb_seeds, ops, ...)                                                   \
	explore_in((const char *const[]){__VA_ARGS__, NULL}, ops, sizeof(ops) / sizeof((ops)[0]), \
		   nb_clients, nb_seeds)

/* ---- 1: a late punch erased live data ---- */

static bool is_punch(void *ctx, const struct io_req *req)
{
	return req->op == IO_PUNCH;
}

static void test_01_late_punch(void **state)
{
	const struct guest_op ops[] = {
		{GUEST_DISCARD, 0, 512},   {GUEST_WRITE, 2048, 512}, {GUEST_FLUSH, 0, 0},
		{GUEST_FLUSH, 0, 0},       {GUEST_WRITE, 4096, 512}, {GUEST_WRITE, 8192, 2048},
		{GUEST_DISCARD, 512, 512}, {GUEST_FLUSH, 0, 0},      {GUEST_FLUSH, 0, 0},
		{GUEST_WRITE, 12288, 512}, {GUEST_FLUSH, 0, 0},      {GUEST_READ, 0, 16384},
	};
	struct lab lab;

	lab_open(&lab, "c512-r16-v3");
	for (uint64_t seed = 1; seed <= 30; seed++) {
		lab_prepare(&lab, seed, ops, sizeof(ops) / sizeof(ops[0]), 3);
		lab.sim.disk->hold = is_punch;
		run_execute(&lab.run);
		lab.sim.disk->hold = NULL;
		lab_no_violation(&lab);
		explore_judge_now(&lab.explorer, sim_tick(lab.sim.disk));
		lab_no_violation(&lab);
	}
	lab_close(&lab);
}

/* ---- 2, 3, 25: a failing request, then life goes on ---- */

static const struct guest_op failing_ops[] = {
	{GUEST_WRITE, 2048, 1024}, {GUEST_WRITE, 0, 512},         {GUEST_DISCARD, 512, 512},
	{GUEST_FLUSH, 0, 0},       {GUEST_WRITE, 63 * 1024, 512}, {GUEST_FLUSH, 0, 0},
};
static const struct guest_op later_ops[] = {
	{GUEST_WRITE, 16384, 4096}, {GUEST_WRITE, 2048, 512}, {GUEST_DISCARD, 0, 1024},
	{GUEST_FLUSH, 0, 0},        {GUEST_WRITE, 0, 2048},   {GUEST_FLUSH, 0, 0},
};

/* Goes on with what the first session has left; its contents are known. */
static void go_on(struct lab *lab)
{
	struct model model;
	unsigned nb = lab->explorer.nb_sectors;
	struct model saved = lab->explorer.model;
	struct run *run = calloc(1, sizeof(*run));

	assert_non_null(run);
	model_init(&model, nb, lab->image.cell->max_sectors);
	model.next_id = 100000;
	for (unsigned i = 0; i < nb; i++)
		model_set_initial(&model, i, lab->explorer.contents[i]);
	run->sim = &lab->sim;
	run->cell = lab->image.cell;
	run->model = &model;
	memcpy(run->ops, later_ops, sizeof(later_ops));
	run->nb_ops = sizeof(later_ops) / sizeof(later_ops[0]);
	run_execute(run);
	lab_no_violation(lab);
	lab->explorer.model = model;
	explore_judge_now(&lab->explorer, sim_tick(lab->sim.disk));
	lab_no_violation(lab);
	lab->explorer.model = saved;
	model_free(&model);
	free(run);
}

static void fail_each_request(const char *cell, int err, unsigned count)
{
	struct lab lab;
	uint64_t nb = 1;

	lab_open(&lab, cell);
	for (uint64_t at = 0; at < nb; at++) {
		struct sim_disk *disk = lab.sim.disk;
		uint64_t floor;

		lab_prepare(&lab, 1, failing_ops, sizeof(failing_ops) / sizeof(failing_ops[0]), 1);
		lab.run.may_fail = true;
		disk->fault = (struct sim_fault){.at = at, .count = at ? count : 0, .err = err};
		run_execute(&lab.run);
		if (at == 0)
			nb = disk->nb_requests + 1;
		disk->fault = (struct sim_fault){0};
		lab_no_violation(&lab);
		floor = lab.run.close_result || lab.run.open_result || lab.run.flush_failed
				? model_flush_floor(&lab.explorer.model, disk->now)
				: sim_tick(disk);
		explore_judge_now(&lab.explorer, floor);
		lab_no_violation(&lab);
		go_on(&lab);
	}
	lab_close(&lab);
}

static void test_02_no_space_at_every_request(void **state)
{
	fail_each_request("c512-r64-v3", ENOSPC, 1);
	fail_each_request("c512-r64-snapshot", ENOSPC, MANY);
}

static void test_03_fault_then_reopen_and_allocate(void **state)
{
	fail_each_request("c512-r16-v3", EIO, 1);
	fail_each_request("c512-r8-snapshot", EIO, 3);
}

static void test_25_errors_reach_the_caller_and_nothing_dies(void **state)
{
	fail_each_request("c512-r16-backing", EIO, MANY);
	fail_each_request("c512-r16-lazy", EIO, MANY);
	fail_each_request("c512-r16-lazy", EDQUOT, 1);
}

/* ---- 4: live metadata handed out ---- */

/* Sets the 16-bit refcount of a host cluster to 0, behind everybody's back. */
static void forget_refcount(struct sim_bytes *image, uint64_t cluster)
{
	uint64_t table = be64_get(image->data + 48);
	uint64_t block = be64_get(image->data + table);

	assert_true(cluster < 256);
	be16_put(image->data + block + cluster * 2, 0);
}

static void test_04_refcount_zero_for_metadata(void **state)
{
	const struct guest_op ops[] = {
		{GUEST_WRITE, 2048, 16384}, {GUEST_WRITE, 32768, 4096}, {GUEST_FLUSH, 0, 0}};
	struct lab lab;

	lab_open(&lab, "c512-r16-v3");
	for (unsigned which = 0; which < 5; which++) {
		const uint8_t *header = lab.image.image.data;
		uint64_t l1 = be64_get(header + 40), table = be64_get(header + 48);
		const uint64_t offs[] = {0, l1, be64_get(header + l1) & L1_OFFSET_MASK, table,
					 be64_get(header + table)};
		struct sim_bytes *live;
		uint8_t *before;

		lab_prepare(&lab, 1, ops, sizeof(ops) / sizeof(ops[0]), 1);
		lab.run.may_fail = true;
		live = &lab.sim.disk->files[0].bytes;
		forget_refcount(live, offs[which] / 512);
		before = malloc(512);
		memcpy(before, live->data + offs[which], 512);
		run_execute(&lab.run);
		lab_no_violation(&lab);
		/* Refused or allocated elsewhere: no guest data over it. */
		for (unsigned i = 0; i + 8 <= 512; i += 8)
			assert_false(memcmp(live->data + offs[which] + i, "10MISPFQ", 8) == 0);
		if (which != 2 && which != 4)
			assert_memory_equal(before, live->data + offs[which], 8);
		free(before);
	}
	lab_close(&lab);
}

/* ---- 5: writers of pieces of one cluster ---- */

static void test_05_pieces_of_one_cluster(void **state)
{
	/* In turns: client i writes sectors of its own. */
	static const char *const cells[] = {"c4k-r16-v3",         "c4k-r16-backing",
					    "c4k-r16-compressed", "c64k-r16-extl2",
					    "c4k-r16-snapshot",   NULL};

	for (unsigned c = 0; cells[c]; c++) {
		struct guest_op ops[16];
		struct lab lab;

		lab_open(&lab, cells[c]);
		for (unsigned cluster = 0; cluster < 5; cluster++) {
			for (unsigned i = 0; i < 8; i++)
				ops[i] = (struct guest_op){GUEST_WRITE,
							   cluster * lab.image.cell->cluster_size +
								   i * SIM_SECTOR,
							   SIM_SECTOR};
			ops[8] = (struct guest_op){GUEST_FLUSH, 0, 0};
			for (uint64_t seed = 1; seed <= 20; seed++) {
				lab_prepare(&lab, seed, ops, 9, 8);
				lab_run(&lab);
			}
		}
		lab_close(&lab);
	}
}

/* ---- 6, 7: the order of mapping, data and refcounts ---- */

static void test_06_mapping_before_data(void **state)
{
	const struct guest_op ops[] = {{GUEST_WRITE, 2048, 512},
				       {GUEST_WRITE, 4096, 1024},
				       {GUEST_FLUSH, 0, 0},
				       {GUEST_WRITE, 60 * 1024, 1024}};

	EXPLORE(1, 3, ops, "c512-r16-v3", "c512-r16-backing", "c512-r16-data");
	EXPLORE(2, 3, ops, "c512-r1-v3", "c16k-r16-extl2");
}

static void test_07_decrement_before_unlink(void **state)
{
	const struct guest_op ops[] = {{GUEST_DISCARD, 0, 1024},   {GUEST_WRITE, 0, 512},
				       {GUEST_FLUSH, 0, 0},        {GUEST_WRITE, 2048, 2048},
				       {GUEST_DISCARD, 2048, 512}, {GUEST_FLUSH, 0, 0},
				       {GUEST_WRITE, 512, 512}};

	EXPLORE(1, 3, ops, "c512-r16-v3", "c512-r16-compressed", "c512-r16-snapshot",
		"c512-r16-lazy");
}

/* ---- 8: a flush missed something ---- */

static void test_08_copy_right_after_fsync(void **state)
{
	const struct guest_op ops[] = {
		{GUEST_WRITE, 2048, 512},  {GUEST_FLUSH, 0, 0}, {GUEST_WRITE, 0, 1024},
		{GUEST_WRITE, 61440, 512}, {GUEST_FLUSH, 0, 0}, {GUEST_WRITE, 4096, 4096},
		{GUEST_WRITE, 1024, 512},  {GUEST_FLUSH, 0, 0}, {GUEST_DISCARD, 0, 512},
	};

	EXPLORE(3, 10, ops, "c512-r16-v3", "c512-r16-snapshot");
}

/* ---- 9: a dirty flag lost on an error ---- */

static void fail_metadata_stores(const char *cell, int err)
{
	const struct guest_op ops[] = {{GUEST_WRITE, 2048, 1024},
				       {GUEST_WRITE, 61440, 512},
				       {GUEST_FLUSH, 0, 0},
				       {GUEST_FLUSH, 0, 0},
				       {GUEST_FLUSH, 0, 0}};
	struct lab lab;
	uint64_t nb = 1;

	lab_open(&lab, cell);
	for (uint64_t at = 0; at < nb; at++) {
		lab_prepare(&lab, 1, ops, sizeof(ops) / sizeof(ops[0]), 1);
		lab.run.may_fail = true;
		lab.sim.disk->fault = (struct sim_fault){
			.at = at, .count = at > 0, .err = err, .writes_only = true};
		run_execute(&lab.run);
		if (at == 0)
			nb = lab.sim.disk->nb_requests + 1;
		lab_no_violation(&lab);
		/* Where no barrier failed, the retried flush has to succeed. */
		if (!lab.sim.disk->fail_flush_seen)
			assert_int_equal(lab.run.results[4], 0);
		if (lab.run.results[4] == 0 && lab.run.close_result == 0)
			explore_judge_now(&lab.explorer, sim_tick(lab.sim.disk));
		lab_no_violation(&lab);
	}
	lab_close(&lab);
}

static void test_09_dirty_flag_survives_an_error(void **state)
{
	fail_metadata_stores("c512-r16-v3", EIO);
	fail_metadata_stores("c512-r64-v3", ENOSPC);
	fail_metadata_stores("c512-r16-v3", SIM_SHORT);
}

/* ---- 10, 11, 12: caches, deadlocks, growth ---- */

static void random_runs(const char *cell, unsigned nb_runs, unsigned nb_clients, bool small_cache)
{
	struct lab lab;

	lab_open(&lab, cell);
	for (uint64_t seed = 1; seed <= nb_runs; seed++) {
		lab_prepare(&lab, seed, NULL, 0, nb_clients);
		lab.run.l2_cache_bytes = small_cache ? 1 : 0;
		workload_random(&lab.run, 150, nb_clients);
		lab_run(&lab);
	}
	lab_close(&lab);
}

static void test_10_evicted_slice_is_found_until_stored(void **state)
{
	random_runs("c512-r16-v3", 20, 4, true);
	random_runs("c512-r64-snapshot", 10, 4, true);
}

static void test_11_no_deadlock_under_write_flush_discard(void **state)
{
	random_runs("c4k-r16-v3", 20, 8, true);
	random_runs("c512-r16-compressed", 20, 8, true);
}

static void test_12_refcount_table_growth(void **state)
{
	const struct guest_op ops[] = {{GUEST_WRITE, 3910 * 512, 70 * 512},
				       {GUEST_FLUSH, 0, 0},
				       {GUEST_WRITE, 4000 * 512, 60 * 512},
				       {GUEST_DISCARD, 0, 64 * 512},
				       {GUEST_FLUSH, 0, 0},
				       {GUEST_WRITE, 0, 32 * 512}};
	struct lab lab;
	uint64_t before, after;

	lab_open(&lab, "c512-r64-grown");
	lab.explorer.params =
		(struct crash_params){.max_exhaustive = 4, .nb_random = 4, .max_moments = 12};
	before = be64_get(lab.image.image.data + 48);
	lab_prepare(&lab, 1, ops, sizeof(ops) / sizeof(ops[0]), 1);
	run_execute(&lab.run);
	lab_no_violation(&lab);
	after = be64_get(lab.sim.disk->files[0].bytes.data + 48);
	assert_true(before != after); /* the table has moved */
	lab_prepare(&lab, 1, ops, sizeof(ops) / sizeof(ops[0]), 1);
	lab_explore(&lab);
	lab_close(&lab);
}

/* ---- 13 - 17: widths, compressed, backing, snapshots ---- */

static const struct guest_op overwrite_ops[] = {
	{GUEST_WRITE, 0, 512},     {GUEST_DISCARD, 512, 512}, {GUEST_ZERO, 1024, 512},
	{GUEST_WRITE, 3072, 1024}, {GUEST_FLUSH, 0, 0},       {GUEST_WRITE, 512, 1024},
	{GUEST_DISCARD, 0, 4096},
};

static void test_13_every_refcount_width(void **state)
{
	EXPLORE(1, 2, overwrite_ops, "c512-r1-v3", "c512-r8-v3", "c512-r16-v3", "c512-r64-v3");
}

static void test_14_compressed_extents(void **state)
{
	EXPLORE(1, 3, overwrite_ops, "c512-r16-compressed", "c512-r1-compressed",
		"c4k-r16-compressed", "c4k-r16-zstd");
}

static void test_15_discard_does_not_uncover_backing(void **state)
{
	const struct guest_op ops[] = {{GUEST_DISCARD, 0, 8192}, {GUEST_READ, 0, 16384},
				       {GUEST_WRITE, 2560, 512}, {GUEST_DISCARD, 4096, 61440},
				       {GUEST_FLUSH, 0, 0},      {GUEST_WRITE, 40960, 512}};

	EXPLORE(1, 2, ops, "c512-r16-backing", "c4k-r16-backing");
}

static void test_16_backing_shorter_than_overlay(void **state)
{
	/* The last cluster and a half have nothing below them. */
	const struct guest_op small[] = {{GUEST_READ, 62 * 1024, 2048},
					 {GUEST_WRITE, 63 * 1024 - 512, 100},
					 {GUEST_WRITE, 63 * 1024 + 100, 100},
					 {GUEST_READ, 62 * 1024, 2048}};
	const struct guest_op large[] = {{GUEST_WRITE, 22 * 4096 + 512, 512},
					 {GUEST_WRITE, 21 * 4096 + 3584, 1024},
					 {GUEST_READ, 20 * 4096, 4 * 4096}};

	EXPLORE(1, 2, small, "c512-r16-backing");
	EXPLORE(1, 2, large, "c4k-r16-backing");
}

static void test_17_snapshots_keep_their_clusters(void **state)
{
	EXPLORE(1, 3, overwrite_ops, "c512-r16-snapshot", "c512-r8-snapshot", "c4k-r64-snapshot");
}

/* ---- 20: short reads and an error inside a long read ---- */

static void test_20_short_reads_and_errors_in_the_middle(void **state)
{
	const struct guest_op ops[] = {{GUEST_READ, 0, 8192}};
	struct lab lab;

	lab_open(&lab, "c4k-r16-v3");
	for (uint64_t at = 0; at < 12; at++) {
		lab_prepare(&lab, at, ops, 1, 1);
		lab.sim.disk->fault = (struct sim_fault){.at = at, .count = MANY, .err = SIM_SHORT};
		run_execute(&lab.run);
		lab_no_violation(&lab);

		lab_prepare(&lab, at, ops, 1, 1);
		lab.run.may_fail = true;
		lab.sim.disk->fault = (struct sim_fault){.at = at, .count = 1, .err = EIO};
		run_execute(&lab.run);
		lab_no_violation(&lab);
		if (lab.sim.disk->nb_faulted)
			assert_true(lab.run.nb_failed > 0 || lab.run.open_result != 0);
	}
	lab_close(&lab);
}

/* ---- 21: growth without bound ---- */

static void test_21_file_does_not_grow_without_bound(void **state)
{
	struct lab lab;

	lab_open(&lab, "c512-r16-v3");
	for (uint64_t seed = 1; seed <= 10; seed++) {
		struct guest_op *op;
		uint64_t disk = 128 * 512;

		lab_prepare(&lab, seed, NULL, 0, 1);
		for (unsigned i = 0; i < RUN_OPS_MAX; i++) {
			op = &lab.run.ops[i];
			op->kind = i % 8 == 7 ? GUEST_FLUSH : i % 2 ? GUEST_DISCARD : GUEST_WRITE;
			op->off = sim_choose(CHOICE_WORKLOAD, 112) * 512;
			op->len = 16 * 512;
		}
		lab.run.nb_ops = RUN_OPS_MAX;
		lab_run(&lab);
		/* The whole disk, its metadata, and as much again that waits in quarantine. */
		assert_true(lab.sim.disk->files[0].bytes.size <= 2 * disk + 16 * 512);
	}
	lab_close(&lab);
}

/* ---- 22: the header survives ---- */

static void test_22_header_is_kept(void **state)
{
	static const char *const cells[] = {
		"c512-r16-v2",  "c4k-r16-v3",   "c4k-r16-backing", "c16k-r16-extl2",
		"c4k-r16-lazy", "c4k-r16-zstd", "c4k-r16-data",    NULL};
	const struct guest_op ops[] = {
		{GUEST_WRITE, 32768, 512}, {GUEST_DISCARD, 0, 4096}, {GUEST_FLUSH, 0, 0}};

	for (unsigned c = 0; cells[c]; c++) {
		struct lab lab;
		const uint8_t *now;

		lab_open(&lab, cells[c]);
		lab_prepare(&lab, 1, ops, sizeof(ops) / sizeof(ops[0]), 1);
		run_execute(&lab.run);
		lab_no_violation(&lab);
		now = lab.sim.disk->files[0].bytes.data;
		/* No table has grown: nothing of the header has a reason to change. */
		assert_memory_equal(now, lab.image.image.data, 512);
		lab_close(&lab);
	}
}

/* ---- 27: a fragmented image ---- */

static void test_27_checkerboard_then_a_large_write(void **state)
{
	struct lab lab;
	struct guest_op *op;

	lab_open(&lab, "c512-r16-v3");
	lab_prepare(&lab, 1, NULL, 0, 1);
	op = lab.run.ops;
	*op++ = (struct guest_op){GUEST_WRITE, 0, 96 * 512};
	*op++ = (struct guest_op){GUEST_FLUSH, 0, 0};
	for (unsigned i = 0; i < 96; i += 2)
		*op++ = (struct guest_op){GUEST_DISCARD, i * 512, 512};
	*op++ = (struct guest_op){GUEST_FLUSH, 0, 0};
	*op++ = (struct guest_op){GUEST_FLUSH, 0, 0};
	*op++ = (struct guest_op){GUEST_WRITE, 96 * 512, 32 * 512};
	*op++ = (struct guest_op){GUEST_WRITE, 0, 96 * 512};
	*op++ = (struct guest_op){GUEST_FLUSH, 0, 0};
	lab.run.nb_ops = (unsigned)(op - lab.run.ops);
	lab_run(&lab);
	/* Bounded: reading the refcount block once, not once per cluster. */
	assert_true(lab.sim.disk->nb_requests < 600);
	lab_close(&lab);
}

/* ---- 28: growing uncovers nothing ---- */

static void test_28_growing_an_overlay(void **state)
{
	const struct guest_op ops[] = {{GUEST_RESIZE, 16384, 0},  {GUEST_FLUSH, 0, 0},
				       {GUEST_RESIZE, 65536, 0},  {GUEST_READ, 0, 65536},
				       {GUEST_WRITE, 40960, 100}, {GUEST_READ, 0, 65536}};

	EXPLORE(1, 3, ops, "c512-r16-backing", "c4k-r16-backing");
}

/* ---- 29: refused fallocate is counted ---- */

static void test_29_fallbacks_are_harmless(void **state)
{
	const struct guest_op ops[] = {{GUEST_DISCARD, 0, 1024}, {GUEST_ZERO, 2048, 4096},
				       {GUEST_FLUSH, 0, 0},      {GUEST_ALLOCATE, 8192, 4096},
				       {GUEST_WRITE, 8192, 512}, {GUEST_FLUSH, 0, 0}};
	struct lab lab;

	lab_open(&lab, "c512-r16-v3");
	for (uint64_t seed = 1; seed <= 3; seed++) {
		lab_prepare(&lab, seed, ops, sizeof(ops) / sizeof(ops[0]), 1);
		lab.sim.disk->no_fallocate = true;
		lab_explore(&lab);
	}
	lab_close(&lab);
}

/* ---- 30: closing with I/O in flight ---- */

static void test_30_close_with_io_in_flight(void **state)
{
	const struct guest_op ops[] = {{GUEST_WRITE, 2048, 4096}, {GUEST_CLOSE, 0, 0},
				       {GUEST_READ, 0, 2048},     {GUEST_WRITE, 0, 512},
				       {GUEST_READ, 0, 512},      {GUEST_DISCARD, 512, 512}};
	struct lab lab;

	lab_open(&lab, "c512-r16-v3");
	for (uint64_t seed = 1; seed <= 60; seed++) {
		lab_prepare(&lab, seed, ops, sizeof(ops) / sizeof(ops[0]), 6);
		lab_run(&lab);
	}
	lab_close(&lab);
}

/* With an argument, only the tests whose names match that pattern. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_late_punch),
		cmocka_unit_test(test_02_no_space_at_every_request),
		cmocka_unit_test(test_03_fault_then_reopen_and_allocate),
		cmocka_unit_test(test_04_refcount_zero_for_metadata),
		cmocka_unit_test(test_05_pieces_of_one_cluster),
		cmocka_unit_test(test_06_mapping_before_data),
		cmocka_unit_test(test_07_decrement_before_unlink),
		cmocka_unit_test(test_08_copy_right_after_fsync),
		cmocka_unit_test(test_09_dirty_flag_survives_an_error),
		cmocka_unit_test(test_10_evicted_slice_is_found_until_stored),
		cmocka_unit_test(test_11_no_deadlock_under_write_flush_discard),
		cmocka_unit_test(test_12_refcount_table_growth),
		cmocka_unit_test(test_13_every_refcount_width),
		cmocka_unit_test(test_14_compressed_extents),
		cmocka_unit_test(test_15_discard_does_not_uncover_backing),
		cmocka_unit_test(test_16_backing_shorter_than_overlay),
		cmocka_unit_test(test_17_snapshots_keep_their_clusters),
		cmocka_unit_test(test_20_short_reads_and_errors_in_the_middle),
		cmocka_unit_test(test_21_file_does_not_grow_without_bound),
		cmocka_unit_test(test_22_header_is_kept),
		cmocka_unit_test(test_25_errors_reach_the_caller_and_nothing_dies),
		cmocka_unit_test(test_27_checkerboard_then_a_large_write),
		cmocka_unit_test(test_28_growing_an_overlay),
		cmocka_unit_test(test_29_fallbacks_are_harmless),
		cmocka_unit_test(test_30_close_with_io_in_flight),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
