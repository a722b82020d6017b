/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * map: what one L2 entry means, for each kind of image and each kind of damage; how far
 * entries that continue one another are one extent; and that damage stays where it is.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/map.h"

#define CLUSTER 4096ull
#define HOST (5ull << 14) /* aligned to all cluster sizes that are used here */

/* ---- one entry ---- */

enum image_kind { V2, V3, EXTENDED, EXTERNAL };

/* What map_decode_l2() needs of an image. */
static struct image *bare_image(enum image_kind kind)
{
	static struct file files[2];
	static struct image image;

	image = (struct image){
		.info = {.version = kind == V2 ? 2 : 3, .extended_l2 = kind == EXTENDED},
		.file = &files[0],
		.data_file = &files[kind == EXTERNAL],
		.cluster_bits = kind == EXTENDED ? 14 : 12,
	};
	return &image;
}

#define DAMAGED (-1)
#define COPIED ENTRY_COPIED

struct decoding {
	enum image_kind image;
	uint64_t guest_off, entry, bitmap;
	unsigned subcluster;
	int kind; /* enum extent_kind, or DAMAGED */
	bool has_host_off, copied;
};

static const struct decoding decodings[] = {
	/* standard entries */
	{V3, 0, 0, 0, 0, EXTENT_UNALLOCATED, false, false},
	{V3, 0, COPIED, 0, 0, EXTENT_UNALLOCATED, false, true},
	{V3, 0, HOST, 0, 0, EXTENT_DATA, true, false},
	{V3, 0, HOST | COPIED, 0, 0, EXTENT_DATA, true, true},
	{V3, 0, L2_ZERO, 0, 0, EXTENT_ZERO, false, false},
	{V3, 0, HOST | COPIED | L2_ZERO, 0, 0, EXTENT_ZERO, true, true},
	{V3, 0, HOST_OFF_MAX - CLUSTER, 0, 0, EXTENT_DATA, true, false},
	{V3, 0, HOST | 2, 0, 0, DAMAGED},
	{V3, 0, HOST | 256, 0, 0, DAMAGED},
	{V3, 0, HOST | 512, 0, 0, DAMAGED},
	{V3, 0, HOST | 2048, 0, 0, DAMAGED},
	{V3, 0, HOST | HOST_OFF_MAX, 0, 0, DAMAGED},
	{V3, 0, HOST | 1ull << 61, 0, 0, DAMAGED},
	{V3, 0, 2, 0, 0, DAMAGED},
	/* version 2 has no zero flag */
	{V2, 0, HOST | COPIED, 0, 0, EXTENT_DATA, true, true},
	{V2, 0, L2_ZERO, 0, 0, DAMAGED},
	{V2, 0, HOST | COPIED | L2_ZERO, 0, 0, DAMAGED},
	/* extended entries */
	{EXTENDED, 0, 0, 0, 0, EXTENT_UNALLOCATED, false, false},
	{EXTENDED, 0, HOST | COPIED, 0, 7, EXTENT_UNALLOCATED, true, true},
	{EXTENDED, 0, HOST | COPIED, 1ull << 7, 7, EXTENT_DATA, true, true},
	{EXTENDED, 0, HOST | COPIED, 1ull << 7, 6, EXTENT_UNALLOCATED, true, true},
	{EXTENDED, 0, HOST | COPIED, 1ull << 31, 31, EXTENT_DATA, true, true},
	{EXTENDED, 0, HOST, 1ull << 32, 0, EXTENT_ZERO, true, false},
	{EXTENDED, 0, 0, 1ull << 63, 31, EXTENT_ZERO, false, false},
	{EXTENDED, 0, HOST, 0xffffffff00000000, 13, EXTENT_ZERO, true, false},
	{EXTENDED, 0, HOST, 0x00000000ffffffff, 13, EXTENT_DATA, true, false},
	{EXTENDED, 0, HOST, 1ull << 32 | 1, 0, DAMAGED},          /* allocated and zero */
	{EXTENDED, 0, HOST, 1ull << 63 | 1ull << 31, 0, DAMAGED}, /* another subcluster is */
	{EXTENDED, 0, 0, 1, 0, DAMAGED},                          /* allocated nowhere */
	{EXTENDED, 0, 0, 1, 5, DAMAGED},
	{EXTENDED, 0, HOST | L2_ZERO, 1, 0, DAMAGED}, /* the bit is reserved here */
	{EXTENDED, 0, HOST | 8192, 1, 0, DAMAGED},
	/* external data file: the guest's offset, 0 included */
	{EXTERNAL, 0, 0, 0, 0, EXTENT_UNALLOCATED, false, false},
	{EXTERNAL, 0, COPIED, 0, 0, EXTENT_DATA, true, true},
	{EXTERNAL, 0, COPIED | L2_ZERO, 0, 0, EXTENT_ZERO, true, true},
	{EXTERNAL, HOST, HOST | COPIED, 0, 0, EXTENT_DATA, true, true},
	{EXTERNAL, HOST, HOST, 0, 0, EXTENT_DATA, true, false},
	{EXTERNAL, HOST, COPIED, 0, 0, DAMAGED},
	{EXTERNAL, 0, HOST | COPIED, 0, 0, DAMAGED},
	{EXTERNAL, HOST, (HOST + CLUSTER) | COPIED, 0, 0, DAMAGED},
	{EXTERNAL, 0, L2_COMPRESSED | HOST, 0, 0, DAMAGED},
};

static void test_entries(void **state)
{
	for (unsigned i = 0; i < NB_ELEMENTS(decodings); i++) {
		const struct decoding *d = &decodings[i];
		struct l2_meaning meaning;
		int ret = map_decode_l2(bare_image(d->image), d->guest_off, d->entry, d->bitmap,
					d->subcluster, &meaning);

		if (ret != (d->kind == DAMAGED ? -EIO : 0) ||
		    (!ret && ((int)meaning.kind != d->kind || meaning.copied != d->copied ||
			      meaning.has_host_off != d->has_host_off)))
			fail_msg("decoding %u: %d, kind %d", i, ret, meaning.kind);
		if (!ret && meaning.has_host_off)
			assert_int_equal(meaning.host_off, d->entry & L2_OFFSET_MASK);
	}
}

/* The descriptor is everything below the two flags, its low bits included. */
static void test_compressed_entries(void **state)
{
	static const enum image_kind kinds[] = {V2, V3, EXTENDED};

	for (unsigned i = 0; i < NB_ELEMENTS(kinds); i++) {
		const uint64_t descriptor = 0x2aaaaaaaaaaaaaab;
		struct l2_meaning meaning;

		assert_int_equal(map_decode_l2(bare_image(kinds[i]), 0, L2_COMPRESSED | descriptor,
					       0, 0, &meaning),
				 0);
		assert_int_equal(meaning.kind, EXTENT_COMPRESSED);
		assert_int_equal(meaning.host_off, descriptor);
		assert_false(meaning.copied);
	}
}

/* ---- extents ---- */

static uint8_t *bytes;
static struct image *image;

/* 4 KiB clusters, 64 of them. */
static void new_image(void)
{
	bytes = hand_image("a", 3, 12, HAND_DATA + 32, 64 * CLUSTER);
}

static uint64_t data(unsigned cluster)
{
	return (HAND_DATA + cluster) * CLUSTER | ENTRY_COPIED;
}

static void coroutine_fn expect(uint64_t guest_off, uint64_t max_bytes, enum extent_kind kind,
				uint64_t len_bytes, uint64_t host_off)
{
	struct extent extent;

	assert_int_equal(map_layer(image, guest_off, max_bytes, &extent), 0);
	assert_int_equal(extent.kind, kind);
	assert_int_equal(extent.guest_off, guest_off);
	assert_int_equal(extent.len_bytes, len_bytes);
	assert_int_equal(extent.has_host_off, host_off != 0);
	assert_int_equal(extent.host_off, host_off);
}

CO_TEST(test_runs_are_merged)
{
	new_image();
	hand_set_l2(bytes, 0, data(0));
	hand_set_l2(bytes, 1, data(1));
	hand_set_l2(bytes, 2, data(2));
	hand_set_l2(bytes, 3, data(9)); /* elsewhere */
	hand_set_l2(bytes, 4, data(10) & ~ENTRY_COPIED);
	hand_set_l2(bytes, 5, L2_ZERO);
	hand_set_l2(bytes, 6, L2_ZERO);
	hand_set_l2(bytes, 7, data(11) | L2_ZERO);
	hand_set_l2(bytes, 8, data(12) | L2_ZERO);
	image = hand_open("a", &(struct image_options){0});
	expect(0, 64 * CLUSTER, EXTENT_DATA, 3 * CLUSTER, HAND_DATA * CLUSTER);
	expect(512, 64 * CLUSTER - 512, EXTENT_DATA, 3 * CLUSTER - 512, HAND_DATA * CLUSTER + 512);
	expect(0, 2 * CLUSTER + 1, EXTENT_DATA, 2 * CLUSTER + 1, HAND_DATA * CLUSTER);
	expect(CLUSTER, 1, EXTENT_DATA, 1, (HAND_DATA + 1) * CLUSTER);
	expect(3 * CLUSTER, 64, EXTENT_DATA, 64, (HAND_DATA + 9) * CLUSTER);
	expect(3 * CLUSTER, 61 * CLUSTER, EXTENT_DATA, CLUSTER, (HAND_DATA + 9) * CLUSTER);
	expect(5 * CLUSTER, 59 * CLUSTER, EXTENT_ZERO, 2 * CLUSTER, 0);
	expect(7 * CLUSTER, 57 * CLUSTER, EXTENT_ZERO, 2 * CLUSTER, (HAND_DATA + 11) * CLUSTER);
	expect(9 * CLUSTER, 55 * CLUSTER, EXTENT_UNALLOCATED, 55 * CLUSTER, 0);
	assert_int_equal(image_close(image), 0);
}

/* A compressed cluster is an extent of its own, and names its descriptor. */
CO_TEST(test_compressed_clusters_are_not_merged)
{
	uint64_t descriptor = HAND_DATA * CLUSTER + 100;

	new_image();
	hand_set_l2(bytes, 0, L2_COMPRESSED | descriptor);
	hand_set_l2(bytes, 1, L2_COMPRESSED | descriptor);
	image = hand_open("a", &(struct image_options){0});
	for (unsigned off = 0; off < CLUSTER; off += 512) {
		struct extent extent;

		assert_int_equal(map_layer(image, off, 2 * CLUSTER - off, &extent), 0);
		assert_int_equal(extent.kind, EXTENT_COMPRESSED);
		assert_int_equal(extent.len_bytes, CLUSTER - off);
		assert_int_equal(extent.host_off, descriptor);
	}
	assert_int_equal(image_close(image), 0);
}

/* Below a shared L2 table nothing may be written in place, whatever its entries say. */
CO_TEST(test_copied_needs_both_flags)
{
	struct extent extent;

	new_image();
	hand_set_l2(bytes, 0, data(0));
	image = hand_open("a", &(struct image_options){0});
	assert_int_equal(map_layer(image, 0, CLUSTER, &extent), 0);
	assert_true(extent.copied);
	assert_int_equal(image_close(image), 0);

	be64_put(bytes + HAND_L1 * CLUSTER, HAND_L2 * CLUSTER);
	image = hand_open("a", &(struct image_options){0});
	assert_int_equal(map_layer(image, 0, CLUSTER, &extent), 0);
	assert_false(extent.copied);
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_extended_runs)
{
	const uint64_t size = 1 << 14, sub = size / 32;

	bytes = hand_image("a", 3, 14, HAND_DATA + 4, 4 * size);
	be64_put(HAND_FIELD(bytes, incompatible_features), INCOMPAT_EXTENDED_L2);
	/* Pairs of entry and bitmap; the second cluster follows the first. */
	hand_set_l2(bytes, 0, HAND_DATA * size | ENTRY_COPIED);
	hand_set_l2(bytes, 1, 0xf0000002);
	hand_set_l2(bytes, 2, (HAND_DATA + 1) * size | ENTRY_COPIED);
	hand_set_l2(bytes, 3, 0x0000000c00000003);
	image = hand_open("a", &(struct image_options){0});
	expect(0, 4 * size, EXTENT_UNALLOCATED, sub, HAND_DATA * size);
	expect(sub, 3 * size, EXTENT_DATA, sub, HAND_DATA * size + sub);
	expect(28 * sub, 2 * size, EXTENT_DATA, 6 * sub, HAND_DATA * size + 28 * sub);
	expect(29 * sub + 7, 2 * size, EXTENT_DATA, 5 * sub - 7, HAND_DATA * size + 29 * sub + 7);
	expect(34 * sub, size, EXTENT_ZERO, 2 * sub, (HAND_DATA + 1) * size + 2 * sub);
	expect(36 * sub, size, EXTENT_UNALLOCATED, 28 * sub, (HAND_DATA + 1) * size + 4 * sub);
	expect(2 * size, 2 * size, EXTENT_UNALLOCATED, 2 * size, 0);
	assert_int_equal(image_close(image), 0);
}

/* ---- damage ---- */

CO_TEST(test_damaged_neighbour)
{
	struct extent extent;
	uint8_t buf[2 * 4096];

	new_image();
	hand_set_l2(bytes, 0, data(0));
	hand_set_l2(bytes, 1, data(1) | 2);
	hand_set_l2(bytes, 2, data(2));
	memset(bytes + HAND_DATA * CLUSTER, 0x11, CLUSTER);
	memset(bytes + (HAND_DATA + 2) * CLUSTER, 0x33, CLUSTER);
	image = hand_open("a", &(struct image_options){0});
	expect(0, 64 * CLUSTER, EXTENT_DATA, CLUSTER, HAND_DATA * CLUSTER);
	assert_int_equal(map_layer(image, CLUSTER, CLUSTER, &extent), -EIO);
	assert_int_equal(image_read(image, 0, buf, CLUSTER, NULL), 0);
	assert_int_equal(buf[CLUSTER - 1], 0x11);
	assert_int_equal(image_read(image, 0, buf, CLUSTER + 1, NULL), -EIO);
	assert_int_equal(image_read(image, 2 * CLUSTER - 1, buf, 2, NULL), -EIO);
	assert_int_equal(image_read(image, 2 * CLUSTER, buf, CLUSTER, NULL), 0);
	assert_int_equal(buf[0], 0x33);
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_damaged_l1_entry)
{
	static const uint64_t entries[] = {
		HAND_L2 * CLUSTER | 1,
		HAND_L2 * CLUSTER | 512,
		HAND_L2 * CLUSTER | HOST_OFF_MAX,
		HAND_L2 * CLUSTER | 1ull << 62,
	};

	for (unsigned i = 0; i < NB_ELEMENTS(entries); i++) {
		struct extent extent;

		/* Two L2 tables' worth: the second one is not there. */
		bytes = hand_image("a", 3, 12, HAND_DATA + 1, 4ull << 20);
		be32_put(HAND_FIELD(bytes, l1_size), 2);
		be64_put(bytes + HAND_L1 * CLUSTER, entries[i]);
		image = hand_open("a", &(struct image_options){0});
		assert_int_equal(map_layer(image, 0, 1, &extent), -EIO);
		assert_int_equal(map_layer(image, (2ull << 20) - 1, 1, &extent), -EIO);
		expect(2ull << 20, 2ull << 20, EXTENT_UNALLOCATED, 2ull << 20, 0);
		assert_int_equal(image_close(image), 0);
		sim_disk_reset(hand.disk);
	}
}

/* An L2 table, and data, beyond the end of the file read as zeros. */
CO_TEST(test_beyond_the_end_of_the_file)
{
	uint8_t buf[512];

	new_image();
	hand_set_l2(bytes, 0, 1ull << 40);
	image = hand_open("a", &(struct image_options){0});
	memset(buf, 0xee, sizeof(buf));
	assert_int_equal(image_read(image, 0, buf, sizeof(buf), NULL), 0);
	for (unsigned i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0);
	assert_int_equal(image_close(image), 0);

	be64_put(bytes + HAND_L1 * CLUSTER, 1ull << 40);
	image = hand_open("a", &(struct image_options){0});
	expect(0, 64 * CLUSTER, EXTENT_UNALLOCATED, 64 * CLUSTER, 0);
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_unreadable_table_fails_its_requests_only)
{
	struct extent extent;

	new_image();
	hand_set_l2(bytes, 0, data(0));
	image = hand_open("a", &(struct image_options){0});
	hand.disk->fault = (struct sim_fault){.at = hand.disk->nb_requests, .count = 1, .err = EIO};
	assert_int_equal(map_layer(image, 0, CLUSTER, &extent), -EIO);
	expect(0, CLUSTER, EXTENT_DATA, CLUSTER, HAND_DATA * CLUSTER);
	assert_int_equal(image_close(image), 0);
}

/* What is loaded is told at once, as it is; for the rest nothing is read. */
CO_TEST(test_loaded_tables_alone)
{
	const uint64_t second = 2ull << 20; /* where the second L2 table begins */
	struct extent extent, loaded;
	unsigned long nb_requests;

	bytes = hand_image("a", 3, 12, HAND_DATA + 32, 4ull << 20);
	be32_put(HAND_FIELD(bytes, l1_size), 2);
	be64_put(bytes + HAND_L1 * CLUSTER + 8, (HAND_DATA + 16) * CLUSTER | ENTRY_COPIED);
	hand_set_l2(bytes, 0, data(0));
	hand_set_l2(bytes, 1, data(1));
	image = hand_open("a", &(struct image_options){0});
	nb_requests = hand.disk->nb_requests;
	assert_int_equal(map_chain_loaded(image, 0, CLUSTER, &loaded), -EAGAIN);
	assert_int_equal(hand.disk->nb_requests, nb_requests);
	assert_int_equal(map_chain(image, 0, 8 * CLUSTER, &extent, NULL), 0);
	nb_requests = hand.disk->nb_requests;
	assert_int_equal(map_chain_loaded(image, 0, 8 * CLUSTER, &loaded), 0);
	assert_memory_equal(&loaded, &extent, sizeof(extent));
	assert_int_equal(map_chain_loaded(image, second, CLUSTER, &loaded), -EAGAIN);
	assert_int_equal(hand.disk->nb_requests, nb_requests);
	assert_int_equal(map_chain(image, second, CLUSTER, &extent, NULL), 0);
	assert_int_equal(map_chain_loaded(image, second, CLUSTER, &loaded), 0);
	assert_int_equal(loaded.kind, EXTENT_UNALLOCATED);
	assert_int_equal(image_close(image), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entries),
		cmocka_unit_test(test_compressed_entries),
		HAND_TEST(test_runs_are_merged),
		HAND_TEST(test_compressed_clusters_are_not_merged),
		HAND_TEST(test_copied_needs_both_flags),
		HAND_TEST(test_extended_runs),
		HAND_TEST(test_damaged_neighbour),
		HAND_TEST(test_damaged_l1_entry),
		HAND_TEST(test_beyond_the_end_of_the_file),
		HAND_TEST(test_unreadable_table_fails_its_requests_only),
		HAND_TEST(test_loaded_tables_alone),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
