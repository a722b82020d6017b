/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * test_resize: what changing the size does beside the header: to the clusters behind the end, to
 * a backing file's contents there, to snapshots, to an external data file.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/snapshot_edit.h"
#include "core/writer.h"

#define CLUSTER 4096ull
#define NB 64u /* clusters of the disk */

static uint8_t data[NB * CLUSTER];

static struct image *coroutine_fn open_writable(void)
{
	return hand_open("a", &(struct image_options){.writable = true});
}

static uint64_t written_bytes(void)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < hand.disk->nb_log; i++)
		if (hand.disk->log[i].op == IO_WRITE && hand.disk->log[i].file == 0)
			bytes += hand.disk->log[i].len;
	return bytes;
}

static void coroutine_fn expect_bytes(struct image *image, uint64_t guest_off, uint64_t end,
				      uint8_t value)
{
	assert_int_equal(image_read(image, guest_off, data, end - guest_off, NULL), 0);
	for (uint64_t i = 0; i < end - guest_off; i++)
		assert_int_equal(data[i], value);
}

/* An overlay whose entries cannot say zero, above a file that is as long as the old disk. */
CO_TEST(test_shrinking_writes_no_zeros_over_a_backing_file)
{
	const uint64_t short_bytes = 5 * CLUSTER + 512;
	uint8_t *bytes = hand_image("a", 2, 12, HAND_DATA + 1, NB * CLUSTER);
	struct image *image;

	hand_set_l2(bytes, 40, HAND_DATA * CLUSTER | ENTRY_COPIED);
	be16_put(bytes + HAND_REFBLOCK * CLUSTER + HAND_DATA * 2, 1);
	hand_set_backing(bytes, "base", "raw");
	memset(data, 0x11, sizeof(data));
	sim_add_file(hand.disk, "base", data, sizeof(data), true);
	image = open_writable();
	assert_int_equal(image_resize(image, short_bytes), 0);
	assert_int_equal(image_flush(image), 0);
	writer_wait_idle(image->writer);
	assert_true(written_bytes() < 8 * CLUSTER);
	bytes = hand.disk->files[0].bytes.data;
	assert_int_equal(be64_get(bytes + HAND_L2 * CLUSTER + 40 * 8), 0);
	expect_bytes(image, 0, short_bytes, 0x11);
	/* The backing file is longer: growing again does not show it. */
	assert_int_equal(image_resize(image, NB * CLUSTER), 0);
	expect_bytes(image, 0, short_bytes, 0x11);
	expect_bytes(image, short_bytes, NB * CLUSTER, 0);
	assert_int_equal(image_close(image), 0);
}

/* ---- snapshots ---- */

/* One that does not record its size has the image's, also when that has grown since. */
CO_TEST(test_applied_snapshot_covers_the_disk)
{
	const uint64_t short_bytes = 16 * CLUSTER, long_bytes = 4096 * CLUSTER;
	struct image *image;

	hand_image("a", 3, 12, HAND_DATA, short_bytes);
	image = open_writable();
	memset(data, 0x11, CLUSTER);
	assert_int_equal(image_write(image, CLUSTER, data, CLUSTER), 0);
	assert_int_equal(snapshot_create(image, "s", 0, 0, NULL), 0);
	assert_int_equal(image_resize(image, long_bytes), 0);
	image->snapshots.snapshots[0].virtual_size = long_bytes;
	assert_int_equal(snapshot_apply(image, "s", NULL), 0);
	assert_int_equal(image_close(image), 0);

	image = open_writable();
	assert_int_equal(image->virtual_size, long_bytes);
	expect_bytes(image, CLUSTER, 2 * CLUSTER, 0x11);
	expect_bytes(image, long_bytes - CLUSTER, long_bytes, 0);
	assert_int_equal(image_write(image, long_bytes - CLUSTER, data, CLUSTER), 0);
	assert_int_equal(image_close(image), 0);
}

/* ---- a raw external data file ---- */

#define NB_RAW 32u

static void new_raw_image(void)
{
	uint8_t *bytes = hand_image("a", 3, 12, HAND_DATA, NB_RAW * CLUSTER);
	uint32_t off = sizeof(struct qcow2_header);

	be64_put(HAND_FIELD(bytes, incompatible_features), INCOMPAT_DATA_FILE);
	be64_put(HAND_FIELD(bytes, autoclear_features), AUTOCLEAR_DATA_FILE_RAW);
	hand_add_extension(bytes, &off, EXT_DATA_FILE, "raw", 3);
	hand_add_extension(bytes, &off, EXT_END, "", 0);
	for (unsigned i = 0; i < NB_RAW; i++)
		hand_set_l2(bytes, i, i * CLUSTER | ENTRY_COPIED);
	memset(data, 0x11, sizeof(data));
	sim_add_file(hand.disk, "raw", data, NB_RAW * CLUSTER, false);
}

/* Clusters up to the end of the disk are mapped, each to its own place, and no others. */
static void expect_mapped(uint64_t size_bytes)
{
	const uint8_t *l2 = hand.disk->files[0].bytes.data + HAND_L2 * CLUSTER;

	assert_int_equal(hand.disk->files[1].bytes.size, size_bytes);
	for (uint64_t i = 0; i < NB; i++)
		assert_int_equal(be64_get(l2 + i * 8),
				 i * CLUSTER < size_bytes ? i * CLUSTER | ENTRY_COPIED : 0);
}

CO_TEST(test_raw_data_file_is_as_long_as_the_disk)
{
	const uint64_t long_bytes = 40 * CLUSTER + 1024, short_bytes = 5 * CLUSTER + 512;
	struct image *image;

	new_raw_image();
	image = open_writable();
	assert_int_equal(image_resize(image, long_bytes), 0);
	assert_int_equal(image_flush(image), 0);
	expect_mapped(long_bytes);
	expect_bytes(image, 0, NB_RAW * CLUSTER, 0x11);
	expect_bytes(image, NB_RAW * CLUSTER, long_bytes, 0);
	assert_int_equal(image_write(image, long_bytes - 600, "12345", 5), 0);
	assert_int_equal(image_flush(image), 0);
	expect_mapped(long_bytes);
	assert_int_equal(image_resize(image, short_bytes), 0);
	assert_int_equal(image_flush(image), 0);
	expect_mapped(short_bytes);
	assert_int_equal(image_resize(image, long_bytes), 0);
	expect_bytes(image, 0, short_bytes, 0x11);
	expect_bytes(image, short_bytes, long_bytes, 0);
	assert_int_equal(image_close(image), 0);
	expect_mapped(long_bytes);
}

/* ... also where zeros or space are asked for up to an end within a cluster. */
CO_TEST(test_raw_data_file_ends_with_the_disk)
{
	const uint64_t size_bytes = 20 * CLUSTER + 1024;
	struct image *image;

	new_raw_image();
	image = open_writable();
	assert_int_equal(image_resize(image, size_bytes), 0);
	assert_int_equal(image_flush(image), 0);
	assert_int_equal(image_allocate(image, 0, size_bytes), 0);
	expect_mapped(size_bytes);
	expect_bytes(image, 0, size_bytes, 0x11);
	assert_int_equal(image_discard(image, 512, size_bytes - 512), 0);
	expect_mapped(size_bytes);
	expect_bytes(image, 0, 512, 0x11);
	expect_bytes(image, 512, size_bytes, 0);
	for (unsigned i = 0; i < 2; i++) {
		hand.disk->no_fallocate = i; /* a host that knows no holes */
		memset(data, 0x22, size_bytes);
		assert_int_equal(image_write(image, 0, data, size_bytes), 0);
		assert_int_equal(image_zero(image, 1024, size_bytes - 1024, i == 0), 0);
		expect_mapped(size_bytes);
		expect_bytes(image, 0, 1024, 0x22);
		expect_bytes(image, 1024, size_bytes, 0);
	}
	assert_int_equal(image_close(image), 0);
}

/* Whatever request fails while it shrinks: where the disk is shorter, nothing shows when it grows.
 */
CO_TEST(test_raw_data_file_that_could_not_be_cut)
{
	const uint64_t old_bytes = NB_RAW * CLUSTER, short_bytes = 5 * CLUSTER;
	unsigned nb_short = 0, nb = 30;

	for (unsigned at = 0; at < nb; at++) {
		struct image *image;

		new_raw_image();
		image = open_writable();
		hand.disk->fault = (struct sim_fault){
			.at = hand.disk->nb_requests + at, .count = 1, .err = EIO};
		image_resize(image, short_bytes);
		hand.disk->fault = (struct sim_fault){0};
		image_close(image);
		image = open_writable();
		if (image_info(image)->virtual_size == short_bytes) {
			nb_short++;
			assert_int_equal(image_resize(image, old_bytes), 0);
			expect_bytes(image, short_bytes, old_bytes, 0);
		}
		assert_int_equal(image_close(image), 0);
		while (hand.disk->nb_files > 0)
			sim_bytes_free(&hand.disk->files[--hand.disk->nb_files].bytes);
	}
	assert_true(nb_short > 0 && nb_short < nb);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_TEST(test_shrinking_writes_no_zeros_over_a_backing_file),
		HAND_TEST(test_applied_snapshot_covers_the_disk),
		HAND_TEST(test_raw_data_file_is_as_long_as_the_disk),
		HAND_TEST(test_raw_data_file_ends_with_the_disk),
		HAND_TEST(test_raw_data_file_that_could_not_be_cut),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
