/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * seek: SEEK_DATA and SEEK_HOLE over mixed clusters, as lseek(2) defines them, in an
 * image alone and through a chain.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#define CLUSTER 4096ull
#define NB 16u

static struct image *image;

/* Every 512-byte boundary, against a map of one letter per cluster: '#' is data. */
static void coroutine_fn expect_map(const char *map)
{
	for (uint64_t off = 0; off < NB * CLUSTER; off += 512) {
		for (int want_data = 0; want_data < 2; want_data++) {
			uint64_t c = off / CLUSTER, found = 12345;
			int ret = image_seek(image, off, UINT64_MAX, want_data, &found);

			while (c < NB && (map[c] == '#') != want_data)
				c++;
			if (c == NB && want_data) {
				assert_int_equal(ret, -ENXIO);
				assert_int_equal(found, 12345);
				continue;
			}
			assert_int_equal(ret, 0);
			assert_int_equal(found, c * CLUSTER > off ? c * CLUSTER : off);
		}
	}
}

static uint8_t *mixed_image(const char *name)
{
	uint8_t *bytes = hand_image(name, 3, 12, HAND_DATA + 8, NB * CLUSTER);

	hand_set_l2(bytes, 1, HAND_DATA * CLUSTER | ENTRY_COPIED);
	hand_set_l2(bytes, 2, (HAND_DATA + 4) * CLUSTER); /* shared, elsewhere: data too */
	hand_set_l2(bytes, 3, L2_ZERO);
	hand_set_l2(bytes, 4, (HAND_DATA + 1) * CLUSTER | L2_ZERO | ENTRY_COPIED);
	hand_set_l2(bytes, 6, L2_COMPRESSED | (HAND_DATA + 2) * CLUSTER);
	hand_set_l2(bytes, 7, L2_COMPRESSED | ((HAND_DATA + 2) * CLUSTER + 100));
	hand_set_l2(bytes, 8, (HAND_DATA + 3) * CLUSTER | ENTRY_COPIED);
	return bytes;
}

CO_TEST(test_mixed_clusters)
{
	mixed_image("a");
	image = hand_open("a", &(struct image_options){0});
	expect_map(".##...###.......");
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_last_cluster_is_data)
{
	uint8_t *bytes = mixed_image("a");

	hand_set_l2(bytes, NB - 1, (HAND_DATA + 5) * CLUSTER | ENTRY_COPIED);
	image = hand_open("a", &(struct image_options){0});
	expect_map(".##...###......#");
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_nothing_but_data)
{
	uint8_t *bytes = hand_image("a", 3, 12, HAND_DATA + NB, NB * CLUSTER);

	for (unsigned c = 0; c < NB; c++)
		hand_set_l2(bytes, c, (HAND_DATA + NB - 1 - c) * CLUSTER | ENTRY_COPIED);
	image = hand_open("a", &(struct image_options){0});
	expect_map("################");
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_nothing_at_all)
{
	hand_image("a", 3, 12, HAND_DATA + 1, NB * CLUSTER);
	image = hand_open("a", &(struct image_options){0});
	expect_map("................");
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_at_the_end)
{
	uint64_t off = 0;

	hand_image("a", 3, 12, HAND_DATA + 1, NB * CLUSTER);
	image = hand_open("a", &(struct image_options){0});
	assert_int_equal(image_seek(image, NB * CLUSTER, UINT64_MAX, true, &off), -ENXIO);
	assert_int_equal(image_seek(image, NB * CLUSTER, UINT64_MAX, false, &off), -ENXIO);
	assert_int_equal(image_seek(image, UINT64_MAX, UINT64_MAX, true, &off), -ENXIO);
	assert_int_equal(image_seek(image, NB * CLUSTER - 1, UINT64_MAX, false, &off), 0);
	assert_int_equal(off, NB * CLUSTER - 1);
	assert_int_equal(image_close(image), 0);
}

/* What the overlay does not have comes from below; its zeros hide what is there. */
CO_TEST(test_through_a_chain)
{
	uint8_t *bytes = hand_image("a", 3, 12, HAND_DATA + 1, NB * CLUSTER);

	hand_set_backing(bytes, "b", "qcow2");
	hand_set_l2(bytes, 0, HAND_DATA * CLUSTER | ENTRY_COPIED);
	hand_set_l2(bytes, 7, L2_ZERO);
	mixed_image("b");
	image = hand_open("a", &(struct image_options){0});
	expect_map("###...#.#.......");
	assert_int_equal(image_close(image), 0);
}

/* A backing file that ends within a cluster: a hole begins where it ends. */
CO_TEST(test_short_backing_file)
{
	uint8_t *bytes = hand_image("a", 3, 12, HAND_DATA + 1, NB * CLUSTER);
	struct map_extent extent;
	uint64_t off = 0;

	hand_set_backing(bytes, "b", "raw");
	sim_bytes_resize(&sim_add_file(hand.disk, "b", NULL, 0, true)->bytes, 2 * CLUSTER + 1536);
	image = hand_open("a", &(struct image_options){0});
	assert_int_equal(image_seek(image, 0, UINT64_MAX, true, &off), 0);
	assert_int_equal(off, 0);
	assert_int_equal(image_seek(image, 0, UINT64_MAX, false, &off), 0);
	assert_int_equal(off, 2 * CLUSTER + 1536);
	assert_int_equal(image_seek(image, off, UINT64_MAX, true, &off), -ENXIO);
	assert_int_equal(image_map(image, 2 * CLUSTER + 1536, UINT64_MAX, &extent), 0);
	assert_int_equal(extent.kind, MAP_HOLE);
	assert_true(extent.beyond_end);
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_damaged_entry)
{
	uint8_t *bytes = mixed_image("a");
	uint64_t off = 0;

	hand_set_l2(bytes, 5, HAND_DATA * CLUSTER | 2);
	image = hand_open("a", &(struct image_options){0});
	assert_int_equal(image_seek(image, 0, UINT64_MAX, true, &off), 0);
	assert_int_equal(off, CLUSTER);
	assert_int_equal(image_seek(image, 3 * CLUSTER, UINT64_MAX, true, &off), -EIO);
	assert_int_equal(image_seek(image, 6 * CLUSTER, UINT64_MAX, false, &off), 0);
	assert_int_equal(off, 9 * CLUSTER);
	assert_int_equal(image_close(image), 0);
}

/* ---- extents as a map shows them ---- */

CO_TEST(test_kinds_of_extents)
{
	static const struct {
		unsigned first, nb;
		enum map_kind kind;
		bool has_host_off;
	} extents[] = {
		{0, 1, MAP_HOLE, false},       {1, 1, MAP_DATA, true},
		{2, 1, MAP_DATA, true},        {3, 1, MAP_ZERO, false},
		{4, 1, MAP_ZERO, true},        {5, 1, MAP_HOLE, false},
		{6, 1, MAP_COMPRESSED, false}, {7, 1, MAP_COMPRESSED, false},
		{8, 1, MAP_DATA, true},        {9, NB - 9, MAP_HOLE, false},
	};
	struct map_extent extent;

	mixed_image("a");
	image = hand_open("a", &(struct image_options){0});
	for (unsigned i = 0; i < NB_ELEMENTS(extents); i++) {
		assert_int_equal(image_map(image, extents[i].first * CLUSTER, UINT64_MAX, &extent),
				 0);
		assert_int_equal(extent.len_bytes, extents[i].nb * CLUSTER);
		assert_int_equal(extent.kind, extents[i].kind);
		assert_int_equal(extent.has_host_off, extents[i].has_host_off);
		assert_int_equal(extent.depth, 0);
	}
	assert_int_equal(image_map(image, NB * CLUSTER, 1, &extent), -EINVAL);
	assert_int_equal(image_map(image, 0, 0, &extent), -EINVAL);
	assert_int_equal(image_close(image), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_TEST(test_mixed_clusters),     HAND_TEST(test_last_cluster_is_data),
		HAND_TEST(test_nothing_but_data),   HAND_TEST(test_nothing_at_all),
		HAND_TEST(test_at_the_end),         HAND_TEST(test_through_a_chain),
		HAND_TEST(test_short_backing_file), HAND_TEST(test_damaged_entry),
		HAND_TEST(test_kinds_of_extents),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
