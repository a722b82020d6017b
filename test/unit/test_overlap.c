/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * overlap: the owner map: clusters at the borders of its pages (512 clusters each), and
 * images whose tables lie on one another.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/overlap.h"

#define CLUSTER 512ull
#define PAGE 512ull
#define EVERYTHING (1ull << 30) /* more than any image here has */

static struct overlap map;

static bool has(uint64_t cluster)
{
	return overlap_hits(&map, cluster * CLUSTER, CLUSTER);
}

static void test_empty_map(void **state)
{
	overlap_init(&map, 9);
	assert_false(overlap_hits(&map, 0, 1));
	assert_false(overlap_hits(&map, 0, EVERYTHING));
	overlap_remove(&map, 0, 10 * CLUSTER);
	assert_false(overlap_hits(&map, 0, EVERYTHING));
	overlap_finish(&map);
}

static void test_runs_across_pages(void **state)
{
	overlap_init(&map, 9);
	assert_int_equal(overlap_add(&map, (PAGE - 2) * CLUSTER, 4 * CLUSTER), 0);
	assert_false(has(PAGE - 3));
	for (uint64_t c = PAGE - 2; c < PAGE + 2; c++)
		assert_true(has(c));
	assert_false(has(PAGE + 2));
	overlap_remove(&map, (PAGE - 1) * CLUSTER, 2 * CLUSTER);
	assert_true(has(PAGE - 2));
	assert_false(has(PAGE - 1));
	assert_false(has(PAGE));
	assert_true(has(PAGE + 1));
	assert_false(overlap_hits(&map, (PAGE - 1) * CLUSTER, 2 * CLUSTER));
	assert_true(overlap_hits(&map, (PAGE - 1) * CLUSTER, 3 * CLUSTER));
	overlap_finish(&map);
}

/* A cluster counts as soon as one byte of it is touched. */
static void test_bytes_are_rounded_outwards(void **state)
{
	overlap_init(&map, 9);
	assert_int_equal(overlap_add(&map, 4 * CLUSTER - 1, 2), 0);
	assert_true(has(3));
	assert_true(has(4));
	assert_false(has(2));
	assert_false(has(5));
	assert_true(overlap_hits(&map, 5 * CLUSTER - 1, 1));
	assert_false(overlap_hits(&map, 5 * CLUSTER, 1));
	assert_true(overlap_hits(&map, 2 * CLUSTER, CLUSTER + 1));
	assert_int_equal(overlap_add(&map, 9 * CLUSTER, 0), 0);
	assert_false(has(9));
	overlap_remove(&map, 3 * CLUSTER, 0);
	assert_true(has(3));
	overlap_finish(&map);
}

/* A range that begins in pages of which nothing is known. */
static void test_hit_behind_empty_pages(void **state)
{
	overlap_init(&map, 9);
	assert_int_equal(overlap_add(&map, 5 * PAGE * CLUSTER, 1), 0);
	assert_true(overlap_hits(&map, 7 * CLUSTER, 5 * PAGE * CLUSTER));
	assert_false(overlap_hits(&map, 7 * CLUSTER, (5 * PAGE - 7) * CLUSTER));
	overlap_finish(&map);
}

/* More pages than buckets, far apart and with equal low bits. */
static void test_many_pages(void **state)
{
	overlap_init(&map, 9);
	for (uint64_t i = 0; i < 1000; i++)
		assert_int_equal(overlap_add(&map, (i * 64 * PAGE + i % PAGE) * CLUSTER, 1), 0);
	for (uint64_t i = 0; i < 1000; i++) {
		assert_true(has(i * 64 * PAGE + i % PAGE));
		assert_false(has(i * 64 * PAGE + (i + 1) % PAGE));
	}
	overlap_finish(&map);
}

static void test_largest_offsets(void **state)
{
	overlap_init(&map, 21);
	assert_int_equal(overlap_add(&map, HOST_OFF_MAX - (1 << 21), 1 << 21), 0);
	assert_true(overlap_hits(&map, HOST_OFF_MAX - 1, 1));
	assert_false(overlap_hits(&map, HOST_OFF_MAX, 1));
	assert_false(overlap_hits(&map, HOST_OFF_MAX - (2 << 21), 1 << 21));
	overlap_finish(&map);
}

/* ---- building it from an image ---- */

static int coroutine_fn build(void)
{
	struct image *image = hand_open("a", &(struct image_options){0});
	int ret;

	overlap_init(&map, 9);
	ret = overlap_build(&map, image);
	image_close(image);
	return ret;
}

static uint8_t *new_image(void)
{
	return hand_image("a", 3, 9, 16, 16 * CLUSTER);
}

CO_TEST(test_tables_of_an_image)
{
	uint8_t *bytes = new_image();

	hand_set_l2(bytes, 0, HAND_DATA * CLUSTER | ENTRY_COPIED);
	assert_int_equal(build(), 0);
	for (unsigned c = 0; c < HAND_DATA; c++)
		assert_true(has(c));
	assert_false(has(HAND_DATA));
	overlap_finish(&map);
}

/* One snapshot with the given L1 table; the snapshot table is in cluster 6. */
static void add_snapshot(uint8_t *bytes, uint64_t l1_off)
{
	struct qcow2_snapshot_header *entry = (void *)(bytes + 6 * CLUSTER);

	be32_put(HAND_FIELD(bytes, nb_snapshots), 1);
	be64_put(HAND_FIELD(bytes, snapshots_offset), 6 * CLUSTER);
	be64_put(&entry->l1_table_offset, l1_off);
	be32_put(&entry->l1_size, 1);
}

CO_TEST(test_snapshot_may_share_l2_tables)
{
	uint8_t *bytes = new_image();

	add_snapshot(bytes, 7 * CLUSTER);
	be64_put(bytes + 7 * CLUSTER, HAND_L2 * CLUSTER);
	assert_int_equal(build(), 0);
	assert_true(has(HAND_L2));
	assert_true(has(6));
	assert_true(has(7));
	assert_false(has(8));
	overlap_finish(&map);
}

CO_TEST(test_tables_on_one_another)
{
	for (unsigned which = 0; which < 10; which++) {
		uint8_t *bytes = new_image();

		switch (which) {
		case 0: /* L1 on the header */
			be64_put(HAND_FIELD(bytes, l1_table_offset), 0);
			break;
		case 1: /* L1 on the refcount table */
			be64_put(HAND_FIELD(bytes, l1_table_offset), HAND_REFTABLE * CLUSTER);
			break;
		case 2: /* refcount block on the refcount table */
			be64_put(bytes + HAND_REFTABLE * CLUSTER, HAND_REFTABLE * CLUSTER);
			break;
		case 3: /* two refcount blocks on one another */
			be64_put(bytes + HAND_REFTABLE * CLUSTER + 8, HAND_REFBLOCK * CLUSTER);
			break;
		case 4: /* L2 on a refcount block */
			be64_put(bytes + HAND_L1 * CLUSTER, HAND_REFBLOCK * CLUSTER);
			break;
		case 5: /* an L2 table that the active tree names twice */
			be32_put(HAND_FIELD(bytes, l1_size), 2);
			be64_put(bytes + HAND_L1 * CLUSTER + 8, HAND_L2 * CLUSTER | ENTRY_COPIED);
			break;
		case 6: /* a snapshot's L1 on the active one */
			add_snapshot(bytes, HAND_L1 * CLUSTER);
			break;
		case 7: /* a snapshot's L2 on the refcount table */
			add_snapshot(bytes, 7 * CLUSTER);
			be64_put(bytes + 7 * CLUSTER, HAND_REFTABLE * CLUSTER);
			break;
		case 8: /* the snapshot table on the L1 table */
			add_snapshot(bytes, 7 * CLUSTER);
			memcpy(bytes + HAND_L1 * CLUSTER, bytes + 6 * CLUSTER, 40);
			be64_put(HAND_FIELD(bytes, snapshots_offset), HAND_L1 * CLUSTER);
			break;
		default: /* a snapshot's L1 on its own L2 table */
			add_snapshot(bytes, 7 * CLUSTER);
			be64_put(bytes + 7 * CLUSTER, 7 * CLUSTER);
			break;
		}
		if (build() != -EUCLEAN)
			fail_msg("case %u is accepted", which);
		assert_false(overlap_hits(&map, 0, EVERYTHING));
		sim_disk_reset(hand.disk);
	}
}

/* The file has 16 clusters: what lies behind them would grow with every claim. */
CO_TEST(test_tables_beyond_the_end)
{
	for (unsigned which = 0; which < 5; which++) {
		uint8_t *bytes = new_image();

		switch (which) {
		case 0:
			be64_put(bytes + HAND_L1 * CLUSTER, 16 * CLUSTER | ENTRY_COPIED);
			break;
		case 1:
			be64_put(bytes + HAND_REFTABLE * CLUSTER + 8, 16 * CLUSTER);
			break;
		case 2:
			add_snapshot(bytes, 17 * CLUSTER);
			break;
		case 3: /* it begins inside */
			add_snapshot(bytes, 15 * CLUSTER);
			be32_put(bytes + 6 * CLUSTER + 8, CLUSTER / 4);
			break;
		default: /* an L2 table of a snapshot */
			add_snapshot(bytes, 7 * CLUSTER);
			be64_put(bytes + 7 * CLUSTER, 1ull << 55);
			break;
		}
		if (build() != -EUCLEAN)
			fail_msg("case %u is accepted", which);
		assert_false(overlap_hits(&map, 0, EVERYTHING));
		sim_disk_reset(hand.disk);
	}
}

CO_TEST(test_table_in_the_last_cluster)
{
	uint8_t *bytes = new_image();

	add_snapshot(bytes, 15 * CLUSTER);
	assert_int_equal(build(), 0);
	assert_true(has(15));
	overlap_finish(&map);
}

/* Less than a cluster behind the end, as a check tolerates it: what it calls sound can be written.
 */
CO_TEST(test_table_behind_the_end)
{
	uint8_t *bytes = new_image();

	add_snapshot(bytes, 16 * CLUSTER);
	assert_int_equal(build(), 0);
	assert_true(has(16));
	overlap_finish(&map);
}

CO_TEST(test_read_error_while_building)
{
	struct image *image;

	new_image();
	image = hand_open("a", &(struct image_options){0});
	hand.disk->fault =
		(struct sim_fault){.at = hand.disk->nb_requests, .count = UINT_MAX, .err = EIO};
	overlap_init(&map, 9);
	assert_int_equal(overlap_build(&map, image), -EIO);
	assert_false(overlap_hits(&map, 0, EVERYTHING));
	hand.disk->fault = (struct sim_fault){0};
	assert_int_equal(image_close(image), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty_map),
		cmocka_unit_test(test_runs_across_pages),
		cmocka_unit_test(test_bytes_are_rounded_outwards),
		cmocka_unit_test(test_hit_behind_empty_pages),
		cmocka_unit_test(test_many_pages),
		cmocka_unit_test(test_largest_offsets),
		HAND_TEST(test_tables_of_an_image),
		HAND_TEST(test_snapshot_may_share_l2_tables),
		HAND_TEST(test_tables_on_one_another),
		HAND_TEST(test_tables_beyond_the_end),
		HAND_TEST(test_table_in_the_last_cluster),
		HAND_TEST(test_table_behind_the_end),
		HAND_TEST(test_read_error_while_building),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
