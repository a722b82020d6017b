/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * refusals: what callers of the core may not ask for, and what it answers: ranges beyond the disk,
 * changes of what is open for reading, sizes that no table can describe. Nothing is written for it.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/check.h"
#include "core/compress_write.h"
#include "core/create.h"
#include "core/snapshot_edit.h"

#define CLUSTER 4096u
#define DISK_BYTES (4ull * CLUSTER)
#define FILE_BYTES ((HAND_DATA + 1ull) * CLUSTER)

static uint8_t before[FILE_BYTES];

static struct image *coroutine_fn open_image(bool writable)
{
	memcpy(before, hand_image("a", 3, 12, HAND_DATA + 1, DISK_BYTES), FILE_BYTES);
	return hand_open("a", &(struct image_options){.writable = writable});
}

static void coroutine_fn close_unchanged(struct image *image)
{
	const struct sim_bytes *bytes = &hand.disk->files[0].bytes;

	assert_int_equal(image_close(image), 0);
	assert_int_equal(bytes->size, FILE_BYTES);
	assert_memory_equal(bytes->data, before, FILE_BYTES);
}

/* Where a range may not be: behind the disk, over its end, or so long that the sum overflows. */
static const struct {
	uint64_t off, len;
} outside[] = {{DISK_BYTES, 1}, {DISK_BYTES - 1, 2}, {DISK_BYTES + 1, 0}, {1, SIZE_MAX}};

CO_TEST(test_ranges_beyond_the_disk)
{
	struct image *image = open_image(true);
	char byte = 0;

	for (unsigned i = 0; i < NB_ELEMENTS(outside); i++) {
		uint64_t off = outside[i].off, len = outside[i].len;

		assert_int_equal(image_read(image, off, &byte, len, NULL), -EINVAL);
		assert_int_equal(image_write(image, off, &byte, len), -ENOSPC);
		assert_int_equal(image_zero(image, off, len, false), -ENOSPC);
		assert_int_equal(image_zero(image, off, len, true), -ENOSPC);
		assert_int_equal(image_discard(image, off, len), -ENOSPC);
		assert_int_equal(image_allocate(image, off, len), -ENOSPC);
	}
	assert_int_equal(image_resize(image, INT64_MAX), -EFBIG);
	close_unchanged(image);
}

CO_TEST(test_changes_of_what_is_read_only)
{
	struct image *image = open_image(false);
	struct error *error = NULL;
	struct packer *packer;

	assert_int_equal(image_write(image, 0, "x", 1), -EROFS);
	assert_int_equal(image_zero(image, 0, 1, false), -EROFS);
	assert_int_equal(image_zero(image, 0, 1, true), -EROFS);
	assert_int_equal(image_discard(image, 0, CLUSTER), -EROFS);
	assert_int_equal(image_allocate(image, 0, 1), -EROFS);
	assert_int_equal(image_resize(image, DISK_BYTES / 2), -EROFS);
	assert_int_equal(packer_create(image, &packer), -EROFS);
	assert_int_equal(snapshot_create(image, "new", 0, 0, &error), -EROFS);
	hand_expect_error(error, ERROR_SYSTEM, EROFS, "cannot create the snapshot");
	close_unchanged(image);
}

CO_TEST(test_repair_of_what_is_read_only)
{
	const struct check_options options = {.repair = CHECK_REPAIR_LEAKS};
	struct check_report report;
	struct error *error = NULL;
	struct file *file;

	hand_image("a", 3, 12, HAND_DATA + 1, DISK_BYTES);
	file = hand_open_file("a");
	file->writable = false;
	assert_int_equal(check_run(file, &options, &report, &error), -EROFS);
	hand_expect_error(error, ERROR_SYSTEM, EROFS, "cannot be written");
	file_close(file);
}

CO_TEST(test_snapshots_without_a_name)
{
	struct image *image = open_image(true);
	struct error *error = NULL;
	char *name = malloc(UINT16_MAX + 2);

	assert_non_null(name);
	memset(name, 'n', UINT16_MAX + 1);
	name[UINT16_MAX + 1] = 0;
	assert_int_equal(snapshot_create(image, "", 0, 0, &error), -EINVAL);
	hand_expect_error(error, ERROR_OPEN, EINVAL, "name");
	error = NULL;
	assert_int_equal(snapshot_create(image, name, 0, 0, &error), -EINVAL);
	hand_expect_error(error, ERROR_OPEN, EINVAL, "name");
	error = NULL;
	assert_int_equal(snapshot_apply(image, "none", &error), -ENOENT);
	hand_expect_error(error, ERROR_OPEN, ENOENT, "\"none\"");
	error = NULL;
	assert_int_equal(snapshot_delete(image, "none", &error), -ENOENT);
	hand_expect_error(error, ERROR_OPEN, ENOENT, "\"none\"");
	close_unchanged(image);
	free(name);
}

/* Whole clusters, but for the disk's end. */
CO_TEST(test_ranges_that_cannot_be_packed)
{
	static const struct {
		uint64_t off;
		size_t len;
		int err;
	} wrong[] = {{1, CLUSTER, EINVAL},
		     {0, 0, EINVAL},
		     {0, CLUSTER - 1, EINVAL},
		     {0, PACKER_BYTES_MAX + CLUSTER, EINVAL},
		     {UINT64_MAX - CLUSTER + 1, CLUSTER, EINVAL},
		     {DISK_BYTES - CLUSTER, 2 * CLUSTER, ENOSPC}};
	struct image *image = open_image(true);
	struct packer *packer;

	assert_int_equal(packer_create(image, &packer), 0);
	for (unsigned i = 0; i < NB_ELEMENTS(wrong); i++)
		assert_int_equal(packer_write(packer, wrong[i].off, before, wrong[i].len),
				 -wrong[i].err);
	packer_destroy(packer);
	close_unchanged(image);
}

static void coroutine_fn refuses_format(const struct create_params *params, const char *text)
{
	struct error *error = NULL;
	struct file *file;

	sim_add_file(hand.disk, "a", "was here", 8, false);
	file = hand_open_file("a");
	assert_int_equal(create_format(file, NULL, params, &error), -EINVAL);
	hand_expect_error(error, ERROR_OPEN, EINVAL, text);
	assert_int_equal(hand.disk->files[0].bytes.size, 8);
	assert_memory_equal(hand.disk->files[0].bytes.data, "was here", 8);
	file_close(file);
}

CO_TEST(test_size_beyond_all_offsets)
{
	struct create_params params = CREATE_DEFAULTS;

	params.virtual_size = INT64_MAX;
	refuses_format(&params, "the size is too large");
}

CO_TEST(test_size_beyond_the_l1_table)
{
	struct create_params params = CREATE_DEFAULTS;

	params.cluster_bits = 9;
	params.virtual_size = 1ull << 40;
	refuses_format(&params, "too large for this cluster_size");
}

CO_TEST(test_size_beyond_the_refcount_table)
{
	struct create_params params = CREATE_DEFAULTS;

	params.cluster_bits = 9;
	params.refcount_order = 6;
	params.virtual_size = 1ull << 37;
	params.preallocation = PREALLOC_METADATA;
	refuses_format(&params, "too large to be preallocated");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		HAND_TEST(test_ranges_beyond_the_disk),
		HAND_TEST(test_changes_of_what_is_read_only),
		HAND_TEST(test_repair_of_what_is_read_only),
		HAND_TEST(test_snapshots_without_a_name),
		HAND_TEST(test_ranges_that_cannot_be_packed),
		HAND_TEST(test_size_beyond_all_offsets),
		HAND_TEST(test_size_beyond_the_l1_table),
		HAND_TEST(test_size_beyond_the_refcount_table),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
