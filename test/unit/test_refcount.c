/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * refcount: the seven widths at their limits, and refcounts in the blocks of an image.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/refcount.h"

#define CLUSTER 512u

static uint64_t largest(unsigned order)
{
	return order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
}

/* Every position of 64 bytes, limits as values, neighbours all ones and all zeros. */
static void test_every_position_of_every_width(void **state)
{
	for (unsigned order = 0; order <= REFCOUNT_ORDER_MAX; order++) {
		uint64_t max = largest(order), nb = 64 * 8 >> order;
		const uint64_t values[] = {0, 1, max / 2, max - 1, max};

		for (uint64_t index = 0; index < nb; index++) {
			for (unsigned i = 0; i < 2 * NB_ELEMENTS(values); i++) {
				uint8_t block[66];

				memset(block, i & 1 ? 0xff : 0, sizeof(block));
				refcount_encode(block + 1, index, order, values[i / 2]);
				assert_true(refcount_decode(block + 1, index, order) ==
					    values[i / 2]);
				for (uint64_t other = 0; other < nb; other++)
					assert_true(other == index ||
						    refcount_decode(block + 1, other, order) ==
							    (i & 1 ? max : 0));
				assert_int_equal(block[0], i & 1 ? 0xff : 0);
				assert_int_equal(block[65], i & 1 ? 0xff : 0);
			}
		}
	}
}

/* The bytes of the specification: low bits first below a byte, big-endian above. */
static void test_bytes_in_the_file(void **state)
{
	static const struct {
		unsigned order;
		uint64_t index, value;
		uint8_t bytes[16];
	} known[] = {
		{0, 0, 1, {0x01}},
		{0, 7, 1, {0x80}},
		{0, 9, 1, {0x00, 0x02}},
		{1, 1, 3, {0x0c}},
		{1, 3, 2, {0x80}},
		{2, 0, 0xa, {0x0a}},
		{2, 3, 0xa, {0x00, 0xa0}},
		{3, 2, 0xab, {0x00, 0x00, 0xab}},
		{4, 1, 0x1234, {0x00, 0x00, 0x12, 0x34}},
		{5, 1, 0x12345678, {0x00, 0x00, 0x00, 0x00, 0x12, 0x34, 0x56, 0x78}},
		{6, 0, 0x123456789abcdef0, {0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0}},
	};

	for (unsigned i = 0; i < NB_ELEMENTS(known); i++) {
		uint8_t block[16] = {0};

		refcount_encode(block, known[i].index, known[i].order, known[i].value);
		assert_memory_equal(block, known[i].bytes, sizeof(block));
		assert_true(refcount_decode(known[i].bytes, known[i].index, known[i].order) ==
			    known[i].value);
	}
}

/* ---- in an image: 512-byte clusters, 256 refcounts in a block ---- */

static struct image *coroutine_fn open_writable(void)
{
	return hand_open("a", &(struct image_options){.writable = true});
}

CO_TEST(test_refcounts_of_an_image)
{
	uint8_t *bytes = hand_image("a", 3, 9, 8, 16 * CLUSTER);
	struct image *image;
	uint64_t value;

	be16_put(bytes + HAND_REFBLOCK * CLUSTER + 255 * 2, 0x1234);
	image = open_writable();
	assert_int_equal(refcount_table_entries(image->writer), CLUSTER / 8);
	assert_int_equal(refcount_get(image->writer, 0, &value), 0);
	assert_int_equal(value, 1);
	assert_int_equal(refcount_get(image->writer, HAND_DATA, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(refcount_get(image->writer, 255, &value), 0);
	assert_int_equal(value, 0x1234);
	/* no block, no table */
	assert_int_equal(refcount_get(image->writer, 256, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(refcount_get(image->writer, UINT64_MAX, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(image_close(image), 0);
}

/* A run over two blocks, and down again; what is cached is what reaches the file. */
CO_TEST(test_runs_across_blocks)
{
	uint8_t *bytes = hand_image("a", 3, 9, 8, 16 * CLUSTER);
	uint64_t second = 5, value;
	struct image *image;

	be64_put(bytes + HAND_REFTABLE * CLUSTER + 8, second * CLUSTER);
	be16_put(bytes + HAND_REFBLOCK * CLUSTER + second * 2, 1);
	image = open_writable();
	assert_int_equal(refcount_set_run(image->writer, 250, 12, 2), 0);
	assert_int_equal(refcount_drop(image->writer, 256, &value), 0);
	assert_int_equal(value, 1);
	assert_int_equal(refcount_get(image->writer, 249, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(image_close(image), 0);
	bytes = hand.disk->files[0].bytes.data;
	for (unsigned c = 248; c < 264; c++) {
		const uint8_t *block = bytes + (c < 256 ? HAND_REFBLOCK : second) * CLUSTER;

		assert_int_equal(be16_get(block + c % 256 * 2), c < 250 || c >= 262 ? 0
								: c == 256          ? 1
										    : 2);
	}
}

/* A run over more slices than the cache holds: all of them dirty, and one more is needed. */
CO_TEST(test_run_fills_the_cache_with_dirty_slices)
{
	const unsigned nb_blocks = CLUSTER / 8;
	uint8_t *bytes = hand_image("a", 3, 9, HAND_DATA + nb_blocks, 16 * CLUSTER);
	struct image *image;
	uint64_t value;

	for (unsigned i = 1; i < nb_blocks; i++) {
		be64_put(bytes + HAND_REFTABLE * CLUSTER + i * 8, (HAND_DATA + i) * CLUSTER);
		be16_put(bytes + HAND_REFBLOCK * CLUSTER + (HAND_DATA + i) * 2, 1);
	}
	image = open_writable();
	image->writer->ref_cache.nb_slices_max = nb_blocks / 4;
	assert_int_equal(refcount_set_run(image->writer, 0, nb_blocks * 256ull, 1), 0);
	for (unsigned i = 0; i < nb_blocks; i++) {
		assert_int_equal(refcount_get(image->writer, i * 256ull, &value), 0);
		assert_int_equal(value, 1);
	}
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_no_drop_below_zero)
{
	struct image *image;
	uint64_t value;

	hand_image("a", 3, 9, 8, 16 * CLUSTER);
	image = open_writable();
	assert_int_equal(refcount_drop(image->writer, HAND_DATA, &value), -EIO);
	assert_int_equal(refcount_drop(image->writer, 256, &value), -EIO);
	assert_int_equal(refcount_set_run(image->writer, 255, 2, 1), -EIO);
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_damaged_refcount_table_entries)
{
	static const uint64_t entries[] = {
		2 * CLUSTER | 1,
		2 * CLUSTER | 256,
		HOST_OFF_MAX,
		1ull << 63,
	};
	uint8_t *bytes = hand_image("a", 3, 9, 8, 16 * CLUSTER);
	struct image *image;
	uint64_t value;

	for (unsigned i = 0; i < NB_ELEMENTS(entries); i++)
		be64_put(bytes + HAND_REFTABLE * CLUSTER + (i + 1) * 8, entries[i]);
	image = open_writable();
	for (unsigned i = 0; i < NB_ELEMENTS(entries); i++)
		assert_int_equal(refcount_get(image->writer, (i + 1) * 256, &value), -EIO);
	assert_int_equal(refcount_get(image->writer, 1, &value), 0);
	assert_int_equal(value, 1);
	assert_int_equal(image_close(image), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_position_of_every_width),
		cmocka_unit_test(test_bytes_in_the_file),
		HAND_TEST(test_refcounts_of_an_image),
		HAND_TEST(test_runs_across_blocks),
		HAND_TEST(test_run_fills_the_cache_with_dirty_slices),
		HAND_TEST(test_no_drop_below_zero),
		HAND_TEST(test_damaged_refcount_table_entries),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
