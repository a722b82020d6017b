/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_edits: what changes an image as a whole, and compressed writing, on the simulated
 * disk: power cuts at every moment, every request and allocation failing, writers at the same
 * time.
 */
#include "test/sim/edit.h"

#include "core/compress_write.h"
#include "core/create.h"
#include "core/format.h"
#include "core/rebase.h"
#include "core/snapshot_edit.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define C4K 4096u
#define NB_SEEDS 3u

/* An image after some guest operations, ready to be edited. */
struct bench {
	struct lab lab;
	struct edit edit;
};

static void bench_open(struct bench *bench, const char *cell, const struct guest_op *ops,
		       unsigned nb_ops)
{
	lab_open(&bench->lab, cell);
	bench->lab.explorer.params = (struct crash_params){.max_exhaustive = 6, .nb_random = 16};
	lab_prepare(&bench->lab, 1, ops, nb_ops, 1);
	if (nb_ops)
		run_execute(&bench->lab.run);
	lab_no_violation(&bench->lab);
	assert_int_equal(lab_count_leaks(&bench->lab), 0);
	sim_clear_log(bench->lab.sim.disk);
	edit_init(&bench->edit, &bench->lab);
	bench->edit.unmarked = bench->lab.image.cell->feature == CELL_V2;
}

static void bench_close(struct bench *bench)
{
	edit_finish(&bench->edit);
	lab_close(&bench->lab);
}

static void assert_same_view(const struct sim_bytes *a, const struct sim_bytes *b)
{
	assert_int_equal(a->size, b->size);
	assert_memory_equal(a->data, b->data, a->size);
}

/* ---- snapshots ---- */

static const struct guest_op write_anew[] = {{GUEST_WRITE, 0, 512},
					     {GUEST_WRITE, 5 * C4K, C4K},
					     {GUEST_DISCARD, C4K, C4K},
					     {GUEST_FLUSH, 0, 0}};

static int coroutine_fn create_two(struct image *image)
{
	return snapshot_create(image, "two", 1, 2, NULL);
}

static int coroutine_fn create_three(struct image *image)
{
	return snapshot_create(image, "three", 1, 2, NULL);
}

static int coroutine_fn apply_one(struct image *image)
{
	return snapshot_apply(image, "one", NULL);
}

static int coroutine_fn delete_one(struct image *image)
{
	return snapshot_delete(image, "one", NULL);
}

static int coroutine_fn create_one(struct image *image)
{
	return snapshot_create(image, "one", 1, 2, NULL);
}

/* A version 2 image with a snapshot of its own, on the disk as it is then. */
static void bench_open_v2(struct bench *bench)
{
	struct guest_op write = {GUEST_WRITE, 0, C4K};

	bench_open(bench, "c4k-r16-v2", &write, 1);
	bench->edit.change = create_one;
	edit_explore(&bench->edit, 1);
}

/* Goes on from where the last edit led to, after writing. */
static void bench_go_on(struct bench *bench)
{
	struct lab *lab = &bench->lab;

	edit_finish(&bench->edit);
	memcpy(lab->run.ops, write_anew, sizeof(write_anew));
	lab->run.nb_ops = 4;
	run_execute(&lab->run);
	lab_no_violation(lab);
	assert_int_equal(lab_count_leaks(lab), 0);
	sim_clear_log(lab->sim.disk);
	edit_init(&bench->edit, lab);
	bench->edit.unmarked = lab->image.cell->feature == CELL_V2;
}

static void explore_seeds(struct bench *bench, int coroutine_fn (*change)(struct image *image))
{
	bench->edit.change = change;
	for (uint64_t seed = 1; seed <= lab_nb_seeds(NB_SEEDS); seed++)
		edit_explore(&bench->edit, seed);
}

static void test_create_snapshot(void **state)
{
	static const char *const cells[] = {"c4k-r16-v3", "c4k-r16-v2", "c4k-r16-snapshot",
					    "c512-r8-v3", "c4k-r16-compressed"};

	for (unsigned i = 0; i < sizeof(cells) / sizeof(cells[0]); i++) {
		struct bench bench;
		const struct picture *after = &bench.edit.after;

		bench_open(&bench, cells[i], write_anew, 4);
		explore_seeds(&bench, create_two);
		assert_int_equal(after->nb_views, bench.edit.before.nb_views + 1);
		assert_same_view(&after->views[0], &bench.edit.before.views[0]);
		assert_same_view(&after->views[0], &after->views[after->nb_views - 1]);
		bench_close(&bench);
	}
}

static void test_apply_snapshot(void **state)
{
	struct bench bench;

	bench_open(&bench, "c4k-r16-snapshot", write_anew, 4);
	explore_seeds(&bench, apply_one);
	assert_same_view(&bench.edit.after.views[0], &bench.edit.before.views[1]);
	bench_close(&bench);
	bench_open_v2(&bench);
	bench_go_on(&bench);
	explore_seeds(&bench, apply_one);
	assert_same_view(&bench.edit.after.views[0], &bench.edit.before.views[1]);
	bench_close(&bench);
}

static void test_delete_snapshot(void **state)
{
	struct bench bench;

	bench_open(&bench, "c4k-r16-snapshot", write_anew, 4);
	explore_seeds(&bench, delete_one);
	assert_int_equal(bench.edit.after.nb_views, 1);
	assert_same_view(&bench.edit.after.views[0], &bench.edit.before.views[0]);
	bench_close(&bench);
	bench_open_v2(&bench);
	bench_go_on(&bench);
	explore_seeds(&bench, delete_one);
	assert_int_equal(bench.edit.after.nb_views, 1);
	bench_close(&bench);
}

static int coroutine_fn make_empty(struct image *image)
{
	return snapshot_make_empty(image, NULL);
}

static void test_make_empty(void **state)
{
	static const char *const cells[] = {"c4k-r16-backing", "c4k-r16-snapshot", "c4k-r16-v2"};

	for (unsigned i = 0; i < sizeof(cells) / sizeof(cells[0]); i++) {
		struct bench bench;

		bench_open(&bench, cells[i], write_anew, 4);
		explore_seeds(&bench, make_empty);
		bench_close(&bench);
	}
}

static const int errors[] = {EIO, ENOSPC};

static void inject(const char *cell, int coroutine_fn (*change)(struct image *image))
{
	for (unsigned i = 0; i < 2; i++) {
		struct bench bench;

		bench_open(&bench, cell, write_anew, 4);
		bench.edit.change = change;
		edit_inject(&bench.edit, errors[i]);
		if (i == 0)
			assert_true(edit_starve(&bench.edit) > 0);
		bench_close(&bench);
	}
}

/* ... and some failures can be undone, so that no rebuild is left to the next open. */
static void inject_undoable(int coroutine_fn (*change)(struct image *image))
{
	struct bench bench;

	/* Of two snapshots one is left, and a table with it. */
	bench_open(&bench, "c4k-r16-snapshot", write_anew, 4);
	bench.edit.change = create_two;
	edit_explore(&bench.edit, 1);
	bench_go_on(&bench);
	bench.edit.change = change;
	edit_inject(&bench.edit, ENOSPC);
	assert_true(bench.edit.nb_undone > 0);
	bench_close(&bench);
}

/* On version 2, where no dirty bit makes up for what was left undone. */
static void inject_v2(int coroutine_fn (*change)(struct image *image))
{
	for (unsigned i = 0; i < 2; i++) {
		struct bench bench;

		bench_open_v2(&bench);
		bench_go_on(&bench);
		bench.edit.change = change;
		edit_inject(&bench.edit, errors[i]);
		bench_close(&bench);
	}
}

static void test_failing_snapshot_requests(void **state)
{
	inject("c4k-r16-v3", create_two);
	inject("c4k-r16-snapshot", create_two);
	inject("c4k-r16-snapshot", apply_one);
	inject("c4k-r16-snapshot", delete_one);
	inject("c4k-r16-backing", make_empty);
	inject_undoable(create_three);
	inject_undoable(apply_one);
	inject_undoable(delete_one);
	inject_v2(create_two);
	inject_v2(apply_one);
	inject_v2(delete_one);
	inject_v2(make_empty);
}

/* ---- damaged tables ---- */

/* The L2 entry of the last guest cluster, below the L1 table whose offset stands at `field`. */
static uint8_t *last_entry(struct lab *lab, uint64_t field)
{
	uint8_t *bytes = lab->sim.disk->files[0].bytes.data;
	uint64_t l2_off = be64_get(bytes + be64_get(bytes + field)) & L1_OFFSET_MASK;

	return bytes + l2_off + (lab->image.cell->nb_clusters - 1) * 8;
}

struct damaged {
	int coroutine_fn (*change)(struct image *image);
};

static int coroutine_fn change_damaged(struct image *image, void *arg)
{
	const struct damaged *damaged = arg;

	return damaged->change(image);
}

/* What was raised before the entry came to light is lowered again: nothing has changed. */
static void refuses_damage(struct bench *bench, uint64_t field,
			   int coroutine_fn (*change)(struct image *image))
{
	struct lab *lab = &bench->lab;
	struct damaged damaged = {.change = change};
	struct lab_change done;
	uint64_t sound = be64_get(last_entry(lab, field));
	const struct qcow2_header *header;

	be64_put(last_entry(lab, field), sound + 512);
	lab->sim.disk->mode = SIM_DIRECT;
	done = lab_change(lab, change_damaged, &damaged);
	assert_int_equal(done.open_result, 0);
	assert_int_equal(done.result, -EIO);
	assert_int_equal(done.close_result, 0);
	be64_put(last_entry(lab, field), sound);
	header = (const struct qcow2_header *)lab->sim.disk->files[0].bytes.data;
	assert_false(be64_get(&header->incompatible_features) & INCOMPAT_DIRTY);
	assert_int_equal(lab_count_leaks(lab), 0);
	bench_close(bench);
}

static void test_damaged_table_is_not_shared(void **state)
{
	const struct qcow2_header *header;
	struct bench bench;

	bench_open(&bench, "c4k-r16-v3", write_anew, 4);
	refuses_damage(&bench, offsetof(struct qcow2_header, l1_table_offset), create_two);
	bench_open(&bench, "c4k-r16-snapshot", write_anew, 4);
	header = (const struct qcow2_header *)bench.lab.sim.disk->files[0].bytes.data;
	/* The table's first entry begins with the offset of its L1 table. */
	refuses_damage(&bench, be64_get(&header->snapshots_offset), apply_one);
}

/* ---- another backing file ---- */

/* The simulated disk finds files by the last part of their names. */
#define LONG_NAME                                                                                \
	"a-folder-whose-name-is-long/another-folder-whose-name-is-long/one-more-folder-of-them/" \
	"base.img"

static int coroutine_fn rebase_far(struct image *image)
{
	return rebase_record(image, LONG_NAME, "raw", NULL);
}

static int coroutine_fn rebase_unnamed_format(struct image *image)
{
	return rebase_record(image, "x/base.img", NULL, NULL);
}

static void test_rebase(void **state)
{
	static const char *const cells[] = {"c4k-r16-backing", "c512-r16-backing",
					    "c64k-r16-backing"};

	for (unsigned i = 0; i < sizeof(cells) / sizeof(cells[0]); i++) {
		struct bench bench;

		bench_open(&bench, cells[i], write_anew, 4);
		explore_seeds(&bench, rebase_far);
		assert_string_equal(bench.edit.after.text, "backing " LONG_NAME ", raw;");
		assert_same_view(&bench.edit.after.views[0], &bench.edit.before.views[0]);
		explore_seeds(&bench, rebase_unnamed_format);
		assert_string_equal(bench.edit.after.text, "backing x/base.img, none;");
		bench_close(&bench);
	}
}

static void test_failing_rebase_requests(void **state)
{
	inject("c4k-r16-backing", rebase_far);
	inject("c512-r16-backing", rebase_far);
}

/* ---- formatting ---- */

static char long_backing_name[901];

static int coroutine_fn format(struct file *file, const struct create_params *params)
{
	return create_format(file, NULL, params, NULL);
}

static int coroutine_fn format_plain(struct file *file)
{
	struct create_params params = CREATE_DEFAULTS;

	params.virtual_size = 24 * C4K;
	params.cluster_bits = 12;
	return format(file, &params);
}

static int coroutine_fn format_preallocated(struct file *file, enum preallocation preallocation)
{
	struct create_params params = CREATE_DEFAULTS;

	params.virtual_size = 128 * 512;
	params.cluster_bits = 9;
	params.preallocation = preallocation;
	return format(file, &params);
}

static int coroutine_fn format_metadata(struct file *file)
{
	return format_preallocated(file, PREALLOC_METADATA);
}

static int coroutine_fn format_falloc(struct file *file)
{
	return format_preallocated(file, PREALLOC_FALLOC);
}

static int coroutine_fn format_full(struct file *file)
{
	return format_preallocated(file, PREALLOC_FULL);
}

static int coroutine_fn format_overlay(struct file *file)
{
	struct create_params params = CREATE_DEFAULTS;

	params.virtual_size = 24 * C4K;
	params.cluster_bits = 12;
	params.backing_name = long_backing_name;
	params.backing_format = "raw";
	return format(file, &params);
}

/* Over an image that was there before, too: it is gone or whole, not a mixture. */
static void test_format(void **state)
{
	static int coroutine_fn (*const formats[])(struct file * file) = {
		format_plain, format_metadata, format_falloc, format_full, format_overlay};

	memset(long_backing_name, 'x', 900);
	memcpy(long_backing_name + 900 - strlen("/base.img"), "/base.img", strlen("/base.img"));
	for (unsigned i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		struct bench bench;

		bench_open(&bench, "c4k-r16-backing", write_anew, 4);
		bench.edit.change_file = formats[i];
		bench.edit.formatted = true;
		for (uint64_t seed = 1; seed <= lab_nb_seeds(NB_SEEDS); seed++)
			edit_explore(&bench.edit, seed);
		edit_inject(&bench.edit, EIO);
		assert_true(edit_starve(&bench.edit) > 0);
		bench_close(&bench);
	}
}

/* ---- compressed writing ---- */

/* Held back: data of a cluster that a partial write has to copy. */
static bool is_whole_cluster(void *ctx, const struct io_req *req)
{
	return req->op == IO_WRITE && (req->tag == IO_TAG_DATA || req->tag == IO_TAG_COW) &&
	       req->len_bytes >= C4K;
}

static bool is_data_write(void *ctx, const struct io_req *req)
{
	return req->op == IO_WRITE && req->tag == IO_TAG_DATA;
}

static void pack(const char *cell, bool (*hold)(void *ctx, const struct io_req *req),
		 const struct guest_op *ops, unsigned nb_ops, unsigned nb_clients)
{
	struct lab lab;

	lab_open(&lab, cell);
	lab.explorer.params.max_exhaustive = 6;
	for (uint64_t seed = 1; seed <= lab_nb_seeds(NB_SEEDS); seed++) {
		lab_prepare(&lab, seed, ops, nb_ops, nb_clients);
		lab.sim.disk->hold = hold;
		lab_explore(&lab);
		lab.sim.disk->hold = NULL;
		assert_int_equal(lab.run.nb_failed, 0);
		assert_int_equal(lab_count_leaks(&lab), 0);
	}
	lab_close(&lab);
}

#define PACK(cell, hold, nb_clients, ...)                                        \
	do {                                                                     \
		const struct guest_op ops[] = {__VA_ARGS__};                     \
		pack(cell, hold, ops, sizeof(ops) / sizeof(ops[0]), nb_clients); \
	} while (0)

static void test_compressed_writes(void **state)
{
	static const char *const cells[] = {"c4k-r16-v3",  "c4k-r16-compressed", "c4k-r1-v3",
					    "c4k-r8-v3",   "c4k-r16-snapshot",   "c4k-r16-v2",
					    "c4k-r16-zstd"};

	for (unsigned i = 0; i < sizeof(cells) / sizeof(cells[0]); i++)
		PACK(cells[i], NULL, 1, {GUEST_PACK, 0, 3 * C4K}, {GUEST_PACK, 6 * C4K, 4 * C4K},
		     {GUEST_FLUSH, 0, 0}, {GUEST_PACK, C4K, 7 * C4K}, {GUEST_WRITE, 2 * C4K, 512},
		     {GUEST_FLUSH, 0, 0});
}

static void test_compressed_writes_at_once(void **state)
{
	PACK("c4k-r16-v3", NULL, 3, {GUEST_PACK, 0, 3 * C4K}, {GUEST_PACK, 3 * C4K, 2 * C4K},
	     {GUEST_PACK, 5 * C4K, 4 * C4K}, {GUEST_PACK, 9 * C4K, C4K}, {GUEST_FLUSH, 0, 0},
	     {GUEST_PACK, 10 * C4K, 5 * C4K}, {GUEST_PACK, C4K, 3 * C4K}, {GUEST_FLUSH, 0, 0},
	     {GUEST_WRITE, 2 * C4K, 1024});
}

/* A flush while the compressed data is on its way. */
static void test_entry_shows_no_compressed_data_before_it_is_there(void **state)
{
	PACK("c4k-r16-v3", is_data_write, 2, {GUEST_PACK, 5 * C4K, 3 * C4K}, {GUEST_SLEEP, 1, 0},
	     {GUEST_FLUSH, 0, 0}, {GUEST_FLUSH, 0, 0}, {GUEST_FLUSH, 0, 0}, {GUEST_FLUSH, 0, 0});
}

/* A compressed write while a partial one is copying the cluster. */
static void test_compressed_write_waits_for_a_copying_write(void **state)
{
	PACK("c4k-r16-backing", is_whole_cluster, 2, {GUEST_WRITE, 5 * C4K + 512, 1024},
	     {GUEST_PACK, 5 * C4K, C4K}, {GUEST_FLUSH, 0, 0}, {GUEST_READ, 5 * C4K, C4K},
	     {GUEST_READ, 5 * C4K, C4K}, {GUEST_READ, 5 * C4K, C4K});
}

/* Every request fails once: what was taken for the data is given back. */
static void test_failing_compressed_writes(void **state)
{
	static const struct guest_op ops[] = {{GUEST_PACK, 0, 3 * C4K},
					      {GUEST_PACK, 5 * C4K, 4 * C4K},
					      {GUEST_PACK, C4K, 2 * C4K},
					      {GUEST_FLUSH, 0, 0}};
	uint64_t nb_requests = 0;
	unsigned nb_tried = 0;
	struct lab lab;

	lab_open(&lab, "c4k-r16-v3");
	for (unsigned e = 0; e < 2; e++) {
		for (uint64_t at = 0; at <= nb_requests; at++) {
			/* The first time nothing fails. */
			unsigned count = at != 0;

			lab_prepare(&lab, 1, ops, 4, 1);
			lab.run.may_fail = count;
			lab.run.no_final_read = true;
			lab.sim.disk->fault =
				(struct sim_fault){.at = at - 1, .count = count, .err = errors[e]};
			run_execute(&lab.run);
			lab.sim.disk->fault = (struct sim_fault){0};
			lab_no_violation(&lab);
			if (!count)
				nb_requests = lab.sim.disk->nb_requests;
			if (lab.run.open_result || lab.run.close_result || lab.run.flush_failed)
				continue;
			nb_tried++;
			assert_int_equal(lab_count_leaks(&lab), 0);
		}
	}
	lab_close(&lab);
	assert_true(nb_tried > 4);
}

static int coroutine_fn pack_last_cluster(struct image *image)
{
	uint64_t last_off = image_info(image)->virtual_size / C4K * C4K - C4K;
	static const uint8_t bytes[C4K] = {1, 2, 3};
	struct packer *packer;
	int ret = packer_create(image, &packer);

	if (ret)
		return ret;
	ret = packer_write(packer, last_off, bytes, C4K);
	packer_destroy(packer);
	return ret ? ret : image_flush(image);
}

static void test_compressed_write_without_memory(void **state)
{
	inject("c4k-r16-v3", pack_last_cluster);
	inject("c4k-r16-zstd", pack_last_cluster);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create_snapshot),
		cmocka_unit_test(test_apply_snapshot),
		cmocka_unit_test(test_delete_snapshot),
		cmocka_unit_test(test_make_empty),
		cmocka_unit_test(test_failing_snapshot_requests),
		cmocka_unit_test(test_damaged_table_is_not_shared),
		cmocka_unit_test(test_rebase),
		cmocka_unit_test(test_failing_rebase_requests),
		cmocka_unit_test(test_format),
		cmocka_unit_test(test_compressed_writes),
		cmocka_unit_test(test_compressed_writes_at_once),
		cmocka_unit_test(test_entry_shows_no_compressed_data_before_it_is_there),
		cmocka_unit_test(test_compressed_write_waits_for_a_copying_write),
		cmocka_unit_test(test_failing_compressed_writes),
		cmocka_unit_test(test_compressed_write_without_memory),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
