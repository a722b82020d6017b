/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_features: rule I11 on the simulated disk: what must be durable in the header or a
 * bitmap directory before the first write of anything else: autoclear bits, the in_use
 * flags of bitmaps, the corrupt bit. And nothing of that happens without a write. And what
 * growing must not show.
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

#define CLUSTER 4096u
#define UNKNOWN_AUTOCLEAR (1ull << 40)

static void features_open(struct lab *lab)
{
	lab_open(lab, "c4k-r16-v3");
	lab_prepare(lab, 1, NULL, 0, 1);
	lab->run.may_fail = true;
}

static uint8_t *live(struct lab *lab)
{
	return lab->sim.disk->files[0].bytes.data;
}

static void run_ops(struct lab *lab, const struct guest_op *ops, unsigned nb_ops)
{
	memcpy(lab->run.ops, ops, nb_ops * sizeof(*ops));
	lab->run.nb_ops = nb_ops;
	run_execute(&lab->run);
}

/* The number of the first record of `tag` and kind in the log, or -1. */
static int first_record(const struct lab *lab, enum io_tag tag)
{
	const struct sim_disk *disk = lab->sim.disk;

	for (unsigned i = 0; i < disk->nb_log; i++)
		if (disk->log[i].op == IO_WRITE && disk->log[i].tag == tag)
			return (int)i;
	return -1;
}

static unsigned count_writes(const struct lab *lab)
{
	const struct sim_disk *disk = lab->sim.disk;
	unsigned nb = 0;

	for (unsigned i = 0; i < disk->nb_log; i++)
		nb += disk->log[i].op == IO_WRITE;
	return nb;
}

static unsigned count_writes_of(const struct lab *lab, enum io_tag tag)
{
	const struct sim_disk *disk = lab->sim.disk;
	unsigned nb = 0;

	for (unsigned i = 0; i < disk->nb_log; i++)
		nb += disk->log[i].op == IO_WRITE && disk->log[i].tag == tag;
	return nb;
}

/* Is record `first` durable before any write of other kinds was issued? */
static void assert_precedes_all(const struct lab *lab, int first)
{
	const struct sim_disk *disk = lab->sim.disk;
	enum io_tag tag;

	assert_true(first >= 0);
	tag = disk->log[first].tag;
	for (unsigned i = 0; i < disk->nb_log; i++)
		if (disk->log[i].op == IO_WRITE && disk->log[i].tag != tag)
			assert_true(disk->log[first].t_covered < disk->log[i].t_issue);
}

static const struct guest_op write_ops[] = {
	{GUEST_WRITE, 5 * CLUSTER, CLUSTER}, {GUEST_WRITE, 0, 512}, {GUEST_FLUSH, 0, 0}};
static const struct guest_op read_ops[] = {
	{GUEST_READ, 0, CLUSTER}, {GUEST_FLUSH, 0, 0}, {GUEST_REOPEN, 0, 0}};

static void set_autoclear(struct lab *lab, uint64_t bits)
{
	uint8_t *field = live(lab) + offsetof(struct qcow2_header, autoclear_features);

	be64_put(field, be64_get(field) | bits);
}

static uint64_t autoclear(struct lab *lab)
{
	return be64_get(live(lab) + offsetof(struct qcow2_header, autoclear_features));
}

static void test_unknown_autoclear_bits_go_before_the_first_write(void **state)
{
	struct lab lab;

	features_open(&lab);
	set_autoclear(&lab, UNKNOWN_AUTOCLEAR);
	run_ops(&lab, write_ops, 3);
	assert_int_equal(lab.run.nb_failed, 0);
	assert_int_equal(autoclear(&lab), 0);
	assert_precedes_all(&lab, first_record(&lab, IO_TAG_HEADER));
	lab_close(&lab);
}

/* Two clients that both find it undone. */
static void test_unknown_autoclear_bits_go_once(void **state)
{
	const struct guest_op ops[] = {{GUEST_WRITE, 0, CLUSTER},
				       {GUEST_WRITE, 5 * CLUSTER, CLUSTER},
				       {GUEST_FLUSH, 0, 0}};
	struct lab lab;

	features_open(&lab);
	set_autoclear(&lab, UNKNOWN_AUTOCLEAR);
	lab.run.nb_clients = 2;
	run_ops(&lab, ops, 3);
	assert_int_equal(lab.run.nb_failed, 0);
	assert_int_equal(count_writes_of(&lab, IO_TAG_HEADER), 1);
	lab_close(&lab);
}

static void test_unknown_autoclear_bits_stay_without_a_write(void **state)
{
	struct lab lab;

	features_open(&lab);
	set_autoclear(&lab, UNKNOWN_AUTOCLEAR);
	run_ops(&lab, read_ops, 3);
	assert_int_equal(autoclear(&lab), UNKNOWN_AUTOCLEAR);
	assert_int_equal(lab.sim.disk->nb_log, 0);
	lab_close(&lab);
}

/* ---- bitmaps ---- */

/* Appends a cluster with refcount 1; returns its offset. */
static uint64_t append_cluster(struct lab *lab)
{
	struct sim_bytes *bytes = &lab->sim.disk->files[0].bytes;
	uint64_t off = (bytes->size + CLUSTER - 1) / CLUSTER * CLUSTER;
	uint64_t refblock;

	sim_bytes_resize(bytes, off + CLUSTER);
	refblock = be64_get(bytes->data + be64_get(bytes->data + offsetof(struct qcow2_header,
									  refcount_table_offset)));
	be16_put(bytes->data + refblock + off / CLUSTER * 2, 1);
	return off;
}

/* Gives the image one valid bitmap of zeros; returns its directory's offset. */
static uint64_t add_bitmap(struct lab *lab)
{
	uint64_t directory = append_cluster(lab), table = append_cluster(lab);
	uint8_t *data = live(lab);
	uint8_t *ext = data + be32_get(data + offsetof(struct qcow2_header, header_length));
	struct qcow2_bitmap_dir_entry *entry = (void *)(data + directory);

	memset(ext, 0, 64);
	be32_put(ext, EXT_BITMAPS);
	be32_put(ext + 4, sizeof(struct qcow2_bitmap_ext));
	be32_put(ext + 8, 1);
	be64_put(ext + 16, sizeof(*entry) + 8);
	be64_put(ext + 24, directory);
	be64_put(&entry->bitmap_table_offset, table);
	be32_put(&entry->bitmap_table_size, 1);
	entry->type = BITMAP_TYPE_DIRTY;
	entry->granularity_bits = 16;
	be16_put(&entry->name_size, 4);
	memcpy(entry + 1, "name", 4);
	set_autoclear(lab, AUTOCLEAR_BITMAPS);
	return directory;
}

static uint32_t bitmap_flags(struct lab *lab, uint64_t directory)
{
	return be32_get(live(lab) + directory + offsetof(struct qcow2_bitmap_dir_entry, flags));
}

static void test_bitmaps_are_marked_before_the_first_write(void **state)
{
	struct lab lab;
	uint64_t directory;

	features_open(&lab);
	directory = add_bitmap(&lab);
	run_ops(&lab, write_ops, 3);
	assert_int_equal(lab.run.nb_failed, 0);
	assert_int_equal(bitmap_flags(&lab, directory), BITMAP_FLAG_IN_USE);
	assert_int_equal(autoclear(&lab), AUTOCLEAR_BITMAPS);
	assert_precedes_all(&lab, first_record(&lab, IO_TAG_BITMAP));
	lab_close(&lab);
}

static void test_bitmaps_stay_valid_without_a_write(void **state)
{
	struct lab lab;
	uint64_t directory;

	features_open(&lab);
	directory = add_bitmap(&lab);
	run_ops(&lab, read_ops, 3);
	assert_int_equal(bitmap_flags(&lab, directory), 0);
	assert_int_equal(lab.sim.disk->nb_log, 0);
	lab_close(&lab);
}

/* Growing changes nothing that bitmaps tell; shrinking does. */
static void test_bitmaps_stay_valid_when_the_disk_grows(void **state)
{
	const struct guest_op grow[] = {{GUEST_RESIZE, 30 * CLUSTER, 0}, {GUEST_FLUSH, 0, 0}};
	const struct guest_op shrink[] = {{GUEST_RESIZE, 20 * CLUSTER, 0}, {GUEST_FLUSH, 0, 0}};
	struct lab lab;
	uint64_t directory;

	features_open(&lab);
	directory = add_bitmap(&lab);
	run_ops(&lab, grow, 2);
	assert_int_equal(lab.run.nb_failed, 0);
	assert_int_equal(bitmap_flags(&lab, directory), 0);
	lab_close(&lab);

	features_open(&lab);
	directory = add_bitmap(&lab);
	run_ops(&lab, shrink, 2);
	assert_int_equal(lab.run.nb_failed, 0);
	assert_int_equal(bitmap_flags(&lab, directory), BITMAP_FLAG_IN_USE);
	assert_precedes_all(&lab, first_record(&lab, IO_TAG_BITMAP));
	lab_close(&lab);
}

static int coroutine_fn grow(struct image *image, void *arg)
{
	return image_resize(image, *(const uint64_t *)arg);
}

/* The first thing that failed. */
static int grow_disk(struct lab *lab, uint64_t disk_bytes)
{
	struct lab_change done = lab_change(lab, grow, &disk_bytes);

	return done.open_result ? done.open_result : done.result ? done.result : done.close_result;
}

static struct qcow2_bitmap_dir_entry *bitmap_entry(struct lab *lab, uint64_t directory)
{
	return (void *)(live(lab) + directory);
}

/* One whose table has an entry for 16 MiB, and garbage behind; returns its directory's offset. */
static uint64_t add_fine_bitmap(struct lab *lab)
{
	uint64_t directory = add_bitmap(lab);
	struct qcow2_bitmap_dir_entry *entry = bitmap_entry(lab, directory);

	entry->granularity_bits = 9;
	memset(live(lab) + be64_get(&entry->bitmap_table_offset) + 8, 0xff, CLUSTER - 8);
	return directory;
}

/* The write number `n` of that kind. */
static const struct sim_record *nth_write(const struct lab *lab, enum io_tag tag, unsigned n)
{
	const struct sim_disk *disk = lab->sim.disk;
	unsigned i = 0;

	while (i < disk->nb_log && (disk->log[i].op != IO_WRITE || disk->log[i].tag != tag || n--))
		i++;
	assert_true(i < disk->nb_log);
	return &disk->log[i];
}

/* A table gets longer in its cluster; it is in use for as long as the disk has another size. */
static void test_bitmaps_grow_with_the_disk(void **state)
{
	const struct sim_record *marked, *longer, *sized, *unmarked;
	struct lab lab;
	uint64_t directory, table;

	features_open(&lab);
	directory = add_fine_bitmap(&lab);
	assert_int_equal(grow_disk(&lab, 40u << 20), 0);
	assert_int_equal(bitmap_flags(&lab, directory), 0);
	assert_int_equal(be32_get(&bitmap_entry(&lab, directory)->bitmap_table_size), 3);
	table = be64_get(&bitmap_entry(&lab, directory)->bitmap_table_offset);
	assert_int_equal(be64_get(live(&lab) + table + 8), 0);
	assert_int_equal(be64_get(live(&lab) + table + 16), 0);
	assert_int_equal(be64_get(live(&lab) + table + 24), UINT64_MAX);

	/* The flag, zeros and the length in the table, the disk's size after its L1 table. */
	assert_int_equal(count_writes_of(&lab, IO_TAG_BITMAP), 4);
	marked = nth_write(&lab, IO_TAG_BITMAP, 0);
	longer = nth_write(&lab, IO_TAG_BITMAP, 2);
	unmarked = nth_write(&lab, IO_TAG_BITMAP, 3);
	sized = nth_write(&lab, IO_TAG_HEADER, count_writes_of(&lab, IO_TAG_HEADER) - 1);
	assert_true(marked->t_covered < nth_write(&lab, IO_TAG_BITMAP, 1)->t_issue);
	assert_true(marked->t_covered < sized->t_issue);
	assert_true(longer->t_covered < unmarked->t_issue);
	assert_true(sized->t_covered < unmarked->t_issue);
	lab_close(&lab);
}

/* A longer table would need another place, or what is behind it is something else. */
static void test_bitmaps_without_room_to_grow(void **state)
{
	struct qcow2_bitmap_dir_entry *entry;
	uint64_t directory, l1, first;
	struct lab lab;

	features_open(&lab);
	directory = add_fine_bitmap(&lab);
	assert_int_equal(grow_disk(&lab, 9ull << 30), 0);
	assert_int_equal(bitmap_flags(&lab, directory), BITMAP_FLAG_IN_USE);
	assert_int_equal(be32_get(&bitmap_entry(&lab, directory)->bitmap_table_size), 1);
	lab_close(&lab);

	features_open(&lab);
	directory = add_fine_bitmap(&lab);
	entry = bitmap_entry(&lab, directory);
	l1 = be64_get(live(&lab) + offsetof(struct qcow2_header, l1_table_offset));
	first = be64_get(live(&lab) + l1);
	be64_put(&entry->bitmap_table_offset, l1);
	assert_int_equal(grow_disk(&lab, 40u << 20), 0);
	assert_int_equal(bitmap_flags(&lab, directory), BITMAP_FLAG_IN_USE);
	l1 = be64_get(live(&lab) + offsetof(struct qcow2_header, l1_table_offset));
	assert_int_equal(be64_get(live(&lab) + l1), first);
	lab_close(&lab);
}

/* Whatever fails: who is not in use has the length that the disk asks for. */
static void test_bitmaps_that_could_not_grow(void **state)
{
	int result = -EIO;

	for (unsigned at = 0; result; at++) {
		uint64_t directory, disk_bytes;
		struct lab lab;

		assert_in_range(at, 0, 100);
		features_open(&lab);
		directory = add_fine_bitmap(&lab);
		lab.sim.disk->fault = (struct sim_fault){at, 1, EIO, true};
		result = grow_disk(&lab, 40u << 20);
		disk_bytes = be64_get(live(&lab) + offsetof(struct qcow2_header, size));
		if (!bitmap_flags(&lab, directory))
			assert_int_equal(
				be32_get(&bitmap_entry(&lab, directory)->bitmap_table_size),
				disk_bytes == 40u << 20 ? 3 : 1);
		lab_close(&lab);
	}
}

/* ---- the corrupt bit ---- */

/* Makes guest cluster 0 point to the L1 table. */
static void point_data_to_l1(struct lab *lab)
{
	uint8_t *data = live(lab);
	uint64_t l1 = be64_get(data + offsetof(struct qcow2_header, l1_table_offset));
	uint64_t l2 = be64_get(data + l1) & L1_OFFSET_MASK;

	be64_put(data + l2, l1 | ENTRY_COPIED);
}

static void test_data_over_a_table_sets_the_corrupt_bit(void **state)
{
	const struct guest_op ops[] = {
		{GUEST_WRITE, 0, 512}, {GUEST_WRITE, 5 * CLUSTER, 512}, {GUEST_FLUSH, 0, 0}};
	struct lab lab;
	uint8_t before[CLUSTER];
	uint64_t l1;

	features_open(&lab);
	lab.run.no_final_read = true;
	point_data_to_l1(&lab);
	l1 = be64_get(live(&lab) + offsetof(struct qcow2_header, l1_table_offset));
	memcpy(before, live(&lab) + l1, CLUSTER);
	run_ops(&lab, ops, 3);
	assert_int_equal(lab.run.results[0], -EIO);
	assert_int_equal(lab.run.results[1], -EIO);
	assert_memory_equal(live(&lab) + l1, before, CLUSTER);
	assert_int_equal(
		be64_get(live(&lab) + offsetof(struct qcow2_header, incompatible_features)),
		INCOMPAT_CORRUPT);
	assert_int_equal(count_writes(&lab), 1);
	lab_close(&lab);
}

/* ---- growing over a longer backing file ---- */

struct growth {
	struct lab *lab;
	uint64_t old_bytes, new_bytes;
	uint8_t *tail; /* what the disk shows beyond old_bytes */
	int result;
};

static void coroutine_fn growth_main(void *arg)
{
	struct growth *growth = arg;
	const struct image_options options = {.writable = true};
	struct image *image;

	growth->result =
		image_open(&growth->lab->sim.disk->opener, CELL_IMAGE_NAME, &options, &image, NULL);
	if (growth->result)
		return;
	growth->result = image_resize(image, growth->new_bytes);
	if (!growth->result)
		growth->result = image_read(image, growth->old_bytes, growth->tail,
					    growth->new_bytes - growth->old_bytes, NULL);
	if (!growth->result)
		growth->result = image_close(image);
}

static void test_growing_uncovers_nothing_of_the_backing_file(void **state)
{
	struct lab lab;
	struct growth growth = {.lab = &lab, .old_bytes = 9 * CLUSTER + 512};
	uint8_t *size;

	lab_open(&lab, "c4k-r16-backing");
	lab_prepare(&lab, 1, NULL, 0, 1);
	size = live(&lab) + offsetof(struct qcow2_header, size);
	growth.new_bytes = be64_get(size);
	be64_put(size, growth.old_bytes);
	growth.tail = malloc(growth.new_bytes);
	assert_non_null(growth.tail);
	reactor_run(lab.sim.reactor, growth_main, &growth);
	assert_int_equal(growth.result, 0);
	/* The last cluster keeps what the image itself holds there: zeros are what is new. */
	for (uint64_t i = 0; i < growth.new_bytes - growth.old_bytes; i++)
		if (growth.old_bytes + i < growth.new_bytes - CLUSTER)
			assert_int_equal(growth.tail[i], 0);
	assert_int_equal(lab_count_leaks(&lab), 0);
	free(growth.tail);
	lab_close(&lab);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unknown_autoclear_bits_go_before_the_first_write),
		cmocka_unit_test(test_unknown_autoclear_bits_go_once),
		cmocka_unit_test(test_unknown_autoclear_bits_stay_without_a_write),
		cmocka_unit_test(test_bitmaps_are_marked_before_the_first_write),
		cmocka_unit_test(test_bitmaps_stay_valid_without_a_write),
		cmocka_unit_test(test_bitmaps_stay_valid_when_the_disk_grows),
		cmocka_unit_test(test_bitmaps_grow_with_the_disk),
		cmocka_unit_test(test_bitmaps_without_room_to_grow),
		cmocka_unit_test(test_bitmaps_that_could_not_grow),
		cmocka_unit_test(test_data_over_a_table_sets_the_corrupt_bit),
		cmocka_unit_test(test_growing_uncovers_nothing_of_the_backing_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
