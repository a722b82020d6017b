/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * alloc: which clusters are handed out, in images of 512-byte clusters whose refcounts
 * are made by hand: 256 of them in a block, 64 blocks in the refcount table.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/ahead.h"
#include "core/alloc.h"
#include "core/compress_write.h"
#include "core/refcount.h"

#define CLUSTER 512ull
#define NB_FILE 32u /* clusters of the file */

static uint8_t *bytes;
static struct image *image;

static void new_image(void)
{
	bytes = hand_image("a", 3, 9, NB_FILE, 64 * CLUSTER);
}

static void set_refcounts(unsigned first, unsigned end, unsigned value)
{
	for (unsigned c = first; c < end; c++)
		be16_put(bytes + HAND_REFBLOCK * CLUSTER + c * 2, value);
}

static void coroutine_fn open_image(void)
{
	image = hand_open("a", &(struct image_options){.writable = true});
	assert_int_equal(writer_begin(image->writer), 0);
}

static void coroutine_fn close_image(void)
{
	assert_int_equal(image_close(image), 0);
	bytes = hand.disk->files[0].bytes.data;
}

/* Clusters [first, first + nb) are handed out, and have refcount 1 at once. */
static void coroutine_fn expect_alloc(uint64_t nb_min, uint64_t nb_max, uint64_t first, uint64_t nb,
				      bool zero)
{
	uint64_t host_off = 0, got = 0, value;
	bool is_zero = !zero;

	assert_int_equal(alloc_clusters(image->writer, nb_min, nb_max, &host_off, &got, &is_zero),
			 0);
	assert_int_equal(host_off, first * CLUSTER);
	assert_int_equal(got, nb);
	assert_int_equal(is_zero, zero);
	for (uint64_t c = first; c < first + nb; c++) {
		assert_int_equal(refcount_get(image->writer, c, &value), 0);
		assert_int_equal(value, 1);
	}
}

static void coroutine_fn expect_failure(int err)
{
	uint64_t host_off, nb;
	bool zero;

	assert_int_equal(alloc_clusters(image->writer, 1, 1, &host_off, &nb, &zero), -err);
}

CO_TEST(test_first_free_clusters)
{
	new_image();
	set_refcounts(7, 9, 1);
	open_image();
	expect_alloc(1, 1, 5, 1, false);
	expect_alloc(1, 8, 6, 1, false); /* up to the next one in use */
	expect_alloc(1, 8, 9, 8, false);
	close_image();
	for (unsigned c = 0; c < 17; c++)
		assert_int_equal(be16_get(bytes + HAND_REFBLOCK * CLUSTER + c * 2), 1);
	assert_int_equal(be16_get(bytes + HAND_REFBLOCK * CLUSTER + 17 * 2), 0);
}

/* Runs that are too short are left for others. */
CO_TEST(test_contiguous_clusters)
{
	new_image();
	for (unsigned c = 6; c < 20; c += 2)
		set_refcounts(c, c + 1, 1);
	open_image();
	expect_alloc(3, 4, 19, 4, false);
	close_image();
}

/* Behind the end of the file everything is zeros; what was given back is not. */
CO_TEST(test_zeros_behind_the_end)
{
	new_image();
	set_refcounts(HAND_DATA, NB_FILE, 1);
	open_image();
	expect_alloc(1, 4, NB_FILE, 4, true);
	alloc_undo(image->writer, NB_FILE * CLUSTER, 4);
	expect_alloc(1, 2, NB_FILE, 2, false);
	expect_alloc(1, 9, NB_FILE + 2, 2, false);
	expect_alloc(1, 1, NB_FILE + 4, 1, true);
	close_image();
}

CO_TEST(test_undo)
{
	uint64_t value;

	new_image();
	open_image();
	expect_alloc(1, 3, 5, 3, false);
	alloc_undo(image->writer, 5 * CLUSTER, 3);
	assert_int_equal(refcount_get(image->writer, 6, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(image->stats.nb_allocated_clusters, 3);
	assert_int_equal(image->stats.nb_freed_clusters, 3);
	close_image();
	assert_int_equal(be16_get(bytes + HAND_REFBLOCK * CLUSTER + 6 * 2), 0);
}

/* The first cluster of a range without a refcount block becomes that block. */
CO_TEST(test_new_refcount_block)
{
	new_image();
	set_refcounts(HAND_DATA, 256, 1);
	open_image();
	expect_alloc(1, 2, 257, 2, true);
	close_image();
	assert_int_equal(be64_get(bytes + HAND_REFTABLE * CLUSTER + 8), 256 * CLUSTER);
	for (unsigned c = 0; c < 4; c++)
		assert_int_equal(be16_get(bytes + 256 * CLUSTER + c * 2), c < 3);
}

/* Beyond the refcount table: a larger one, and the old one's cluster is free. */
CO_TEST(test_new_refcount_table)
{
	const uint64_t first = 64 * 256;
	uint64_t table, value;

	new_image();
	open_image();
	image->writer->scan = image->writer->tail = first;
	expect_alloc(1, 1, first + 3, 1, true); /* one block, two clusters of table */
	assert_int_equal(refcount_get(image->writer, HAND_REFTABLE, &value), 0);
	assert_int_equal(value, 0);
	expect_alloc(1, 1, HAND_REFTABLE, 1, false);
	close_image();
	table = be64_get(HAND_FIELD(bytes, refcount_table_offset));
	assert_int_equal(table, (first + 1) * CLUSTER);
	assert_int_equal(be32_get(HAND_FIELD(bytes, refcount_table_clusters)), 2);
	assert_int_equal(be64_get(bytes + table), HAND_REFBLOCK * CLUSTER);
	assert_int_equal(be64_get(bytes + table + 64 * 8), first * CLUSTER);
}

/* ---- images that contradict themselves ---- */

CO_TEST(test_metadata_is_never_handed_out)
{
	for (unsigned c = 0; c < HAND_DATA; c++) {
		new_image();
		set_refcounts(c, c + 1, 0);
		open_image();
		expect_failure(EIO);
		assert_int_equal(writer_begin(image->writer), -EIO);
		assert_int_equal(image_close(image), -EIO);
		assert_int_equal(be64_get(HAND_FIELD(bytes, incompatible_features)),
				 INCOMPAT_CORRUPT);
		sim_disk_reset(hand.disk);
	}
}

CO_TEST(test_damaged_refcount_table_entry)
{
	new_image();
	be64_put(bytes + HAND_REFTABLE * CLUSTER, HAND_REFBLOCK * CLUSTER | 1);
	open_image();
	expect_failure(EIO);
	close_image();
}

struct marker {
	struct task task;
	uint64_t delay_ns;
	bool ended;
};

static bool table_is_written(void)
{
	for (unsigned i = 0; i < hand.disk->nb_log; i++)
		if (hand.disk->log[i].tag == IO_TAG_REFTABLE)
			return true;
	return false;
}

/* Finds the contradiction when the new table is there, and the header about to name it. */
static void coroutine_fn marker_run(void *arg)
{
	struct marker *marker = arg;

	while (!table_is_written())
		co_sleep(1);
	co_sleep(marker->delay_ns);
	writer_mark_corrupt(image->writer);
	marker->ended = true;
}

/* Two changes of the header at once: neither takes the other one back. */
CO_TEST(test_corrupt_bit_beside_a_new_table)
{
	for (unsigned i = 0; i < 100; i++) {
		struct marker marker = {.task = {.fn = marker_run, .arg = &marker}};
		uint64_t host_off, nb, table;
		bool zero;

		choose_seed(hand_seed + i);
		marker.delay_ns = choose_bits() % 300000;
		new_image();
		open_image();
		image->writer->scan = image->writer->tail = 64 * 256;
		reactor_spawn(hand.reactor, &marker.task);
		alloc_clusters(image->writer, 1, 1, &host_off, &nb, &zero);
		while (!marker.ended)
			co_sleep(1000);
		table = image->header.refcount_table_offset;
		assert_int_equal(image_close(image), -EIO);
		bytes = hand.disk->files[0].bytes.data;
		assert_int_equal(be64_get(HAND_FIELD(bytes, refcount_table_offset)), table);
		assert_int_equal(be64_get(HAND_FIELD(bytes, incompatible_features)),
				 INCOMPAT_CORRUPT);
		sim_disk_reset(hand.disk);
	}
}

/* ---- the end of everything ---- */

/* A sparse host file may be as large as the largest host offset. */
CO_TEST(test_no_cluster_left)
{
	new_image();
	open_image();
	image->writer->scan = image->writer->tail = HOST_OFF_MAX / CLUSTER;
	expect_failure(EFBIG);
	image->writer->scan = image->writer->tail = UINT64_MAX / CLUSTER;
	expect_failure(EFBIG);
	close_image();
}

CO_TEST(test_refcount_table_too_large)
{
	new_image();
	open_image();
	/* 8 MiB of table are 2^20 blocks of 256 clusters. */
	image->writer->scan = image->writer->tail = 1ull << 28;
	expect_failure(EFBIG);
	close_image();
	assert_int_equal(be64_get(HAND_FIELD(bytes, refcount_table_offset)),
			 HAND_REFTABLE * CLUSTER);
}

/* ---- preallocation ---- */

/* Of a cluster with subclusters, the first alone is there: room for the rest is reserved, too. */
CO_TEST(test_partly_allocated_cluster_is_reserved_whole)
{
	const uint64_t size = 16384;
	const struct sim_record *log;
	uint64_t reserved = 0;

	bytes = hand_image("a", 3, 14, HAND_DATA + 1, 4 * size);
	be64_put(HAND_FIELD(bytes, incompatible_features), INCOMPAT_EXTENDED_L2);
	hand_set_l2(bytes, 0, HAND_DATA * size | ENTRY_COPIED);
	hand_set_l2(bytes, 1, 1); /* the same entry's bitmap */
	be16_put(bytes + HAND_REFBLOCK * size + HAND_DATA * 2, 1);
	open_image();
	assert_int_equal(image_allocate(image, 0, size), 0);
	close_image();
	log = hand.disk->log;
	for (unsigned i = 0; i < hand.disk->nb_log; i++)
		if (log[i].op == IO_ALLOC && log[i].off == HAND_DATA * size)
			reserved = log[i].len;
	assert_int_equal(reserved, size);
}

/* ---- a block device, which does not grow ---- */

static void coroutine_fn open_device(void)
{
	open_image();
	image->file->is_block_device = true;
}

CO_TEST(test_device_ends)
{
	new_image();
	open_device();
	assert_int_equal(image_allocate(image, 0, 64 * CLUSTER), -ENOSPC);
	expect_failure(ENOSPC);
	assert_int_equal(image_discard(image, 3 * CLUSTER, CLUSTER), 0);
	assert_int_equal(image_flush(image), 0);
	writer_wait_idle(image->writer);
	expect_alloc(1, 4, HAND_DATA + 3, 1, false);
	close_image();
	assert_int_equal(hand.disk->files[0].bytes.size, NB_FILE * CLUSTER);
	for (unsigned c = 0; c < 256; c++)
		assert_int_equal(be16_get(bytes + HAND_REFBLOCK * CLUSTER + c * 2), c < NB_FILE);
}

/* What is freed already, but not yet to be used again, is waited for: nobody is refused for it. */
CO_TEST(test_room_that_a_flush_makes)
{
	static const uint8_t data[4 * CLUSTER] = {1};
	struct packer *packer;

	new_image();
	open_device();
	assert_int_equal(image_allocate(image, 0, 64 * CLUSTER), -ENOSPC);
	assert_int_equal(image_write(image, 40 * CLUSTER, data, CLUSTER), -ENOSPC);
	assert_int_equal(image_discard(image, 0, 4 * CLUSTER), 0);
	assert_int_equal(image_write(image, 40 * CLUSTER, data, 4 * CLUSTER), 0);
	assert_int_equal(image_write(image, 44 * CLUSTER, data, CLUSTER), -ENOSPC);
	assert_int_equal(image_discard(image, 4 * CLUSTER, CLUSTER), 0);
	assert_int_equal(image_allocate(image, 44 * CLUSTER, CLUSTER), 0);
	assert_int_equal(image_discard(image, 5 * CLUSTER, CLUSTER), 0);
	assert_int_equal(packer_create(image, &packer), 0);
	assert_int_equal(packer_write(packer, 45 * CLUSTER, data, 4 * CLUSTER), 0);
	packer_destroy(packer);
	close_image();
	assert_int_equal(hand.disk->files[0].bytes.size, NB_FILE * CLUSTER);
}

#define NB_WRITERS 8u

struct a_writer {
	struct task task;
	uint64_t guest_off;
	int result;
};

static void coroutine_fn write_run(void *arg)
{
	static const uint8_t data[CLUSTER] = {1};
	struct a_writer *a_writer = arg;

	a_writer->result = image_write(image, a_writer->guest_off, data, CLUSTER);
}

/* Also those who come while another one's flush is under way, or its release. */
CO_TEST(test_room_for_many_at_once)
{
	struct a_writer writers[NB_WRITERS];

	new_image();
	open_device();
	assert_int_equal(image_allocate(image, 0, 64 * CLUSTER), -ENOSPC);
	assert_int_equal(image_discard(image, 0, NB_WRITERS * CLUSTER), 0);
	for (unsigned i = 0; i < NB_WRITERS; i++) {
		writers[i] = (struct a_writer){.guest_off = (40 + i) * CLUSTER, .result = 1};
		writers[i].task = (struct task){.fn = write_run, .arg = &writers[i]};
		reactor_spawn(hand.reactor, &writers[i].task);
	}
	for (unsigned i = 0; i < NB_WRITERS; i++) {
		while (writers[i].result == 1)
			co_sleep(1000000);
		assert_int_equal(writers[i].result, 0);
	}
	close_image();
}

/* Nothing is overlooked: what is too short for one is found by another. */
CO_TEST(test_device_is_used_up)
{
	new_image();
	for (unsigned c = 6; c < NB_FILE; c += 2)
		set_refcounts(c, c + 1, 1);
	set_refcounts(20, 21, 0);
	open_device();
	expect_alloc(3, 3, 19, 3, false);
	for (unsigned c = 5; c < NB_FILE; c += 2)
		if (c != 19 && c != 21)
			expect_alloc(1, 1, c, 1, false);
	expect_failure(ENOSPC);
	close_image();
}

/* What was taken ahead up to the device's end is there again when it is given back. */
CO_TEST(test_device_gets_back_what_was_taken_ahead)
{
	new_image();
	open_device();
	image->writer->ahead.nb_flushes = 2;
	expect_alloc(1, 1, HAND_DATA, 1, false);
	assert_int_equal(image->writer->ahead.nb, NB_FILE - HAND_DATA - 1);
	ahead_give_back(image->writer);
	expect_alloc(1, NB_FILE, HAND_DATA + 1, NB_FILE - HAND_DATA - 1, false);
	expect_failure(ENOSPC);
	close_image();
}

/* ---- a large device ---- */

/* Its first nb_blocks ranges are in use; every fourth cluster from 256 on is free if `holes`. */
static void new_large_image(unsigned nb_blocks, unsigned nb_clusters, bool holes)
{
	bytes = hand_image("a", 3, 9, nb_clusters, 64 * CLUSTER);
	for (unsigned block = 0; block < nb_blocks; block++) {
		unsigned cluster = block ? HAND_DATA + block : HAND_REFBLOCK;

		be64_put(bytes + HAND_REFTABLE * CLUSTER + block * 8, cluster * CLUSTER);
		for (unsigned i = 0; i < 256; i++)
			be16_put(bytes + cluster * CLUSTER + i * 2,
				 !holes || block == 0 || i % 4 != 3);
	}
}

/* More clusters than a refcount block describes have their own blocks in front. */
CO_TEST(test_area_on_a_device)
{
	new_large_image(2, 32 * 256, false);
	open_device();
	expect_alloc(300, 300, 514, 300, false);
	expect_alloc(300, 300, 4 * 256 + 2, 300, false);
	expect_alloc(1, 1, 814, 1, false);
	close_image();
}

/* ---- a full device, again and again ---- */

/* How many slices of refcounts a request for nb clusters looks at that fails. */
static uint64_t coroutine_fn count_looks(uint64_t nb)
{
	const struct cache *cache = &image->writer->ref_cache;
	uint64_t before = cache->hits + cache->misses, host_off, got;
	bool zero;

	assert_int_equal(alloc_clusters(image->writer, nb, nb, &host_off, &got, &zero), -ENOSPC);
	return cache->hits + cache->misses - before;
}

CO_TEST(test_full_device_is_looked_at_once)
{
	new_large_image(32, 32 * 256, false);
	open_device();
	assert_in_range(count_looks(3), 32, UINT64_MAX);
	assert_in_range(count_looks(3), 0, 2);
	assert_in_range(count_looks(2), 0, 2);
	assert_in_range(count_looks(1), 32, UINT64_MAX);
	assert_in_range(count_looks(1), 0, 2);
	close_image();
}

/* Rows that are too short are not looked at again, unless they have grown. */
CO_TEST(test_rows_on_a_full_device)
{
	new_large_image(32, 32 * 256, true);
	open_device();
	assert_in_range(count_looks(2), 32, UINT64_MAX);
	assert_in_range(count_looks(2), 0, 2);
	assert_in_range(count_looks(3), 0, 2);
	alloc_undo(image->writer, (300 + 2) * CLUSTER, 1); /* beside 303 */
	expect_alloc(2, 2, 302, 2, false);
	count_looks(2); /* from there on */
	assert_in_range(count_looks(2), 0, 2);
	alloc_undo(image->writer, 4096 * CLUSTER, 1); /* behind 4095 */
	alloc_undo(image->writer, 4097 * CLUSTER, 2); /* before 4099 */
	expect_alloc(4, 9, 4095, 5, false);
	expect_alloc(1, 1, 259, 1, false); /* single ones were left */
	close_image();
}

/* Of what was freed a row took a part: the rest is found all the same. */
CO_TEST(test_rest_of_a_freed_run)
{
	new_large_image(32, 32 * 256, false);
	open_device();
	count_looks(2);
	count_looks(1);
	alloc_undo(image->writer, 300 * CLUSTER, 4);
	for (unsigned c = 0; c < 17; c++) /* more than are looked at for a row */
		alloc_undo(image->writer, (400 + 2 * c) * CLUSTER, 1);
	expect_alloc(2, 2, 300, 2, false);
	for (unsigned c = 17; c-- > 0;)
		expect_alloc(1, 1, 400 + 2 * c, 1, false);
	expect_alloc(1, 4, 302, 2, false);
	expect_failure(ENOSPC);
	close_image();
}

/* No room for a larger refcount table: that is found out without looking from the start. */
CO_TEST(test_no_room_for_a_refcount_table)
{
	new_large_image(64, 64 * 256 + 2, false);
	open_device();
	assert_in_range(count_looks(1), 64, UINT64_MAX);
	assert_in_range(count_looks(1), 0, 4);
	alloc_undo(image->writer, 300 * CLUSTER, 1);
	expect_alloc(1, 1, 300, 1, false);
	assert_in_range(count_looks(1), 0, 4);
	close_image();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_TEST(test_first_free_clusters),
		HAND_TEST(test_contiguous_clusters),
		HAND_TEST(test_zeros_behind_the_end),
		HAND_TEST(test_undo),
		HAND_TEST(test_new_refcount_block),
		HAND_TEST(test_new_refcount_table),
		HAND_TEST(test_metadata_is_never_handed_out),
		HAND_TEST(test_damaged_refcount_table_entry),
		HAND_TEST(test_corrupt_bit_beside_a_new_table),
		HAND_TEST(test_no_cluster_left),
		HAND_TEST(test_refcount_table_too_large),
		HAND_TEST(test_partly_allocated_cluster_is_reserved_whole),
		HAND_TEST(test_device_ends),
		HAND_TEST(test_room_that_a_flush_makes),
		HAND_TEST(test_room_for_many_at_once),
		HAND_TEST(test_device_is_used_up),
		HAND_TEST(test_device_gets_back_what_was_taken_ahead),
		HAND_TEST(test_area_on_a_device),
		HAND_TEST(test_full_device_is_looked_at_once),
		HAND_TEST(test_rows_on_a_full_device),
		HAND_TEST(test_rest_of_a_freed_run),
		HAND_TEST(test_no_room_for_a_refcount_table),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
