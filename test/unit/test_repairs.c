/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_repairs: repairs of damaged images on the simulated disk. Wherever the power goes, or
 * whichever request or allocation fails, the image is no worse than before, shows what it showed,
 * and can be repaired.
 */
#include "test/sim/edit.h"

#include "core/check.h"
#include "core/format.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CLUSTER 4096u
#define NB_SEEDS 3u

/* ---- damage ---- */

static uint8_t *bytes_at(struct lab *lab, uint64_t off)
{
	return lab->sim.disk->files[0].bytes.data + off;
}

static uint64_t field(struct lab *lab, size_t off)
{
	return be64_get(bytes_at(lab, off));
}

static uint64_t reftable_off(struct lab *lab)
{
	return field(lab, offsetof(struct qcow2_header, refcount_table_offset));
}

static void set_refcount(struct lab *lab, uint64_t host_off, uint16_t refcount)
{
	uint64_t block = field(lab, reftable_off(lab));

	be16_put(bytes_at(lab, block + host_off / CLUSTER * 2), refcount);
}

/* The place of the L2 entry of a guest cluster. */
static uint64_t entry_off(struct lab *lab, unsigned guest_cluster)
{
	uint64_t l1_off = field(lab, offsetof(struct qcow2_header, l1_table_offset));

	return (field(lab, l1_off) & L1_OFFSET_MASK) + guest_cluster * 8ull;
}

static uint64_t data_off(struct lab *lab, unsigned guest_cluster)
{
	return field(lab, entry_off(lab, guest_cluster)) & L2_OFFSET_MASK;
}

static void clear_copied(struct lab *lab, unsigned guest_cluster)
{
	uint8_t *entry = bytes_at(lab, entry_off(lab, guest_cluster));

	be64_put(entry, be64_get(entry) & ~ENTRY_COPIED);
}

static void set_copied(struct lab *lab, unsigned guest_cluster)
{
	uint8_t *entry = bytes_at(lab, entry_off(lab, guest_cluster));

	be64_put(entry, be64_get(entry) | ENTRY_COPIED);
}

static void append_leak(struct lab *lab)
{
	struct sim_bytes *bytes = &lab->sim.disk->files[0].bytes;
	uint64_t off = (bytes->size + CLUSTER - 1) / CLUSTER * CLUSTER;

	sim_bytes_resize(bytes, off + CLUSTER);
	set_refcount(lab, off, 1);
}

static void mark_dirty(struct lab *lab)
{
	uint8_t *features = bytes_at(lab, offsetof(struct qcow2_header, incompatible_features));

	be64_put(features, be64_get(features) | INCOMPAT_DIRTY);
}

/* ---- repairs ---- */

static int coroutine_fn repair(struct file *file, enum check_repair kind)
{
	const struct check_options options = {.repair = kind};
	struct check_report report;

	return check_run(file, &options, &report, NULL);
}

static int coroutine_fn repair_leaks(struct file *file)
{
	return repair(file, CHECK_REPAIR_LEAKS);
}

static int coroutine_fn repair_all(struct file *file)
{
	return repair(file, CHECK_REPAIR_ALL);
}

static int coroutine_fn open_only(struct image *image)
{
	return 0;
}

typedef void damage_fn(struct lab *lab);

static void edit_begin(struct edit *edit, struct lab *lab, const char *cell, damage_fn *damage)
{
	lab_open(lab, cell);
	lab->explorer.params = (struct crash_params){.max_exhaustive = 6, .nb_random = 16};
	lab_prepare(lab, 1, NULL, 0, 1);
	damage(lab);
	edit_init(edit, lab);
	edit->damaged = true;
}

/*
 * nb_flags: COPIED flags that are right already, for one reference is left, while the refcount
 * is still too high: the check minds, a writer does not. Version 3 is marked dirty until then.
 */
static void repairs(const char *cell, damage_fn *damage, unsigned nb_flags,
		    int coroutine_fn (*change_file)(struct file *file))
{
	static const int errors[] = {EIO, ENOSPC};
	struct edit edit;
	struct lab lab;

	edit_begin(&edit, &lab, cell, damage);
	edit.nb_flags = nb_flags;
	edit.unmarked = lab.image.cell->feature == CELL_V2;
	edit.change_file = change_file;
	edit.change = change_file ? NULL : open_only;
	for (uint64_t seed = 1; seed <= NB_SEEDS; seed++)
		edit_explore(&edit, seed);
	assert_true(lab.explorer.stats.nb_judged > 0);
	for (unsigned i = 0; i < 2; i++)
		edit_inject(&edit, errors[i]);
	assert_true(edit_starve(&edit) > 0);
	edit_finish(&edit);
	lab_close(&lab);
}

static void damage_leaks(struct lab *lab)
{
	append_leak(lab);
	append_leak(lab);
	clear_copied(lab, 0);
	set_refcount(lab, data_off(lab, 0), 3);
}

static void test_leaks(void **state)
{
	repairs("c4k-r16-v3", damage_leaks, 1, repair_leaks);
	repairs("c4k-r16-v2", damage_leaks, 1, repair_leaks);
}

/* Refcounts too low, among them those of a table and of the header, and flags that match them. */
static void damage_refcounts(struct lab *lab)
{
	append_leak(lab);
	set_refcount(lab, 0, 0);
	set_refcount(lab, entry_off(lab, 0) / CLUSTER * CLUSTER, 0);
	set_refcount(lab, data_off(lab, 0), 0);
	clear_copied(lab, 0);
	set_refcount(lab, data_off(lab, 1), 2);
	clear_copied(lab, 1);
}

static void test_low_refcounts(void **state)
{
	repairs("c4k-r16-v3", damage_refcounts, 0, repair_all);
}

/* A writer would write in place what a snapshot shows. */
static void damage_shared(struct lab *lab)
{
	set_refcount(lab, data_off(lab, 0), 1);
	set_copied(lab, 0);
	set_refcount(lab, data_off(lab, 1), 1);
	set_copied(lab, 1);
}

static void test_shared_clusters(void **state)
{
	repairs("c4k-r16-snapshot", damage_shared, 0, repair_all);
}

static void damage_dirty(struct lab *lab)
{
	damage_refcounts(lab);
	mark_dirty(lab);
}

static void test_dirty_image(void **state)
{
	repairs("c4k-r16-v3", damage_dirty, 0, NULL);
	repairs("c4k-r16-v3", damage_dirty, 0, repair_all);
}

/* The whole refcount block is lost. */
static void damage_block(struct lab *lab)
{
	be64_put(bytes_at(lab, reftable_off(lab)), 0);
	mark_dirty(lab);
}

static void test_lost_refcount_block(void **state)
{
	repairs("c4k-r16-v3", damage_block, 0, NULL);
	repairs("c4k-r16-v3", damage_block, 0, repair_all);
	repairs("c4k-r16-snapshot", damage_block, 0, repair_all);
}

/* ---- on a block device, which does not grow ---- */

#define SPARE_CLUSTERS 8u

static int coroutine_fn repair_device(struct file *file)
{
	uint64_t size_bytes = file->size_bytes;
	int ret;

	file->is_block_device = true;
	ret = repair(file, CHECK_REPAIR_ALL);
	assert_int_equal(file->size_bytes, size_bytes);
	return ret;
}

static void damage_block_before_spare_room(struct lab *lab)
{
	struct sim_bytes *bytes = &lab->sim.disk->files[0].bytes;

	damage_block(lab);
	sim_bytes_resize(bytes, (bytes->size / CLUSTER + SPARE_CLUSTERS) * CLUSTER);
}

static void test_lost_refcount_block_on_a_device(void **state)
{
	repairs("c4k-r16-v3", damage_block_before_spare_room, 0, repair_device);
	repairs("c4k-r16-snapshot", damage_block_before_spare_room, 0, repair_device);
}

struct device_repair {
	struct lab *lab;
	int result;
};

static void coroutine_fn device_repair_main(void *arg)
{
	struct device_repair *run = arg;
	struct opener *opener = &run->lab->sim.disk->opener;
	struct file *file;

	run->result = opener->open(opener, OPENER_IMAGE, NULL, CELL_IMAGE_NAME, true,
				   FILE_LOCK_NONE, &file, NULL);
	assert_int_equal(run->result, 0);
	run->result = repair_device(file);
	file_close(file);
}

/* Where the device ends with the last cluster in use, nothing is written. */
static void test_full_device(void **state)
{
	struct lab lab;
	struct device_repair run = {.lab = &lab};
	struct sim_bytes *bytes, before;

	lab_open(&lab, "c4k-r16-v3");
	lab_prepare(&lab, 1, NULL, 0, 1);
	damage_block(&lab);
	bytes = &lab.sim.disk->files[0].bytes;
	sim_bytes_copy(&before, bytes);
	lab.sim.disk->mode = SIM_DIRECT;
	reactor_run(lab.sim.reactor, device_repair_main, &run);
	assert_int_equal(run.result, -ENOSPC);
	assert_int_equal(bytes->size, before.size);
	assert_memory_equal(bytes->data, before.data, before.size);
	sim_bytes_free(&before);
	lab_close(&lab);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_leaks),
		cmocka_unit_test(test_low_refcounts),
		cmocka_unit_test(test_shared_clusters),
		cmocka_unit_test(test_dirty_image),
		cmocka_unit_test(test_lost_refcount_block),
		cmocka_unit_test(test_lost_refcount_block_on_a_device),
		cmocka_unit_test(test_full_device),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
