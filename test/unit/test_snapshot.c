/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * snapshot: the snapshot table: its fields, its bounds, and which entry a word means.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/snapshot.h"

#define CLUSTER 4096ull
#define TABLE (HAND_DATA * CLUSTER)
#define SIZE (8 * CLUSTER)

static uint8_t *bytes;
static uint64_t table_end;

static void new_image(void)
{
	bytes = hand_image("a", 3, 12, HAND_DATA + 4, SIZE);
	be64_put(HAND_FIELD(bytes, snapshots_offset), TABLE);
	table_end = TABLE;
}

/* Appends an entry whose extra data is all zeros. Returns it. */
static uint8_t *add_entry(const char *id, const char *name, uint32_t extra_bytes)
{
	struct qcow2_snapshot_header *entry = (void *)(bytes + table_end);
	uint8_t *strings = bytes + table_end + sizeof(*entry) + extra_bytes;
	uint32_t *nb = (void *)HAND_FIELD(bytes, nb_snapshots);

	be32_put(nb, be32_get(nb) + 1);
	be64_put(&entry->l1_table_offset, HAND_L1 * CLUSTER);
	be32_put(&entry->l1_size, 1);
	be16_put(&entry->id_str_size, strlen(id));
	be16_put(&entry->name_size, strlen(name));
	be32_put(&entry->extra_data_size, extra_bytes);
	memcpy(strings, id, strlen(id));
	memcpy(strings + strlen(id), name, strlen(name));
	table_end += sizeof(*entry) + extra_bytes + strlen(id) + strlen(name);
	table_end = (table_end + 7) & ~7ull;
	return (uint8_t *)entry;
}

#define ENTRY_FIELD(entry, field) ((entry) + offsetof(struct qcow2_snapshot_header, field))
#define EXTRA_FIELD(entry, field)                         \
	((entry) + sizeof(struct qcow2_snapshot_header) + \
	 offsetof(struct qcow2_snapshot_extra, field))

static int coroutine_fn read_list(struct snapshot_list *ret_list, struct error **reterr)
{
	struct file *file = hand_open_file("a");
	struct header header;
	int ret = header_read(file, &header, reterr);

	if (!ret) {
		ret = snapshot_list_read(file, &header, ret_list, reterr);
		header_finish(&header);
	}
	file_close(file);
	return ret;
}

static struct snapshot_list coroutine_fn good_list(void)
{
	struct snapshot_list list = {0};
	struct error *error = NULL;

	if (read_list(&list, &error))
		fail_msg("%s", error->msg);
	return list;
}

static void coroutine_fn refuses(const char *text)
{
	struct snapshot_list list = {0};
	struct error *error = NULL;

	assert_int_equal(read_list(&list, &error), -EINVAL);
	assert_null(list.snapshots);
	hand_expect_error(error, ERROR_OPEN, EINVAL, text);
}

CO_TEST(test_no_snapshots)
{
	struct snapshot_list list;

	new_image();
	list = good_list();
	assert_int_equal(list.nb, 0);
	assert_int_equal(list.table_bytes, 0);
	assert_null(snapshot_find(&list, ""));
	snapshot_list_finish(&list);
}

CO_TEST(test_fields)
{
	struct snapshot_list list;
	uint8_t *entry;

	new_image();
	add_entry("1", "odd", 0);
	entry = add_entry("22", "a longer name", 24);
	be32_put(ENTRY_FIELD(entry, date_sec), 1234567890);
	be32_put(ENTRY_FIELD(entry, date_nsec), 999999999);
	be64_put(ENTRY_FIELD(entry, vm_clock_nsec), 1ull << 40);
	be32_put(ENTRY_FIELD(entry, vm_state_size), 17);
	be64_put(EXTRA_FIELD(entry, vm_state_size_large), 1ull << 33);
	be64_put(EXTRA_FIELD(entry, disk_size), 3 * CLUSTER);
	be64_put(EXTRA_FIELD(entry, icount), 5);
	list = good_list();
	assert_int_equal(list.nb, 2);
	assert_int_equal(list.table_bytes, table_end - TABLE);
	assert_string_equal(list.snapshots[0].id, "1");
	assert_string_equal(list.snapshots[0].name, "odd");
	assert_string_equal(list.snapshots[1].id, "22");
	assert_string_equal(list.snapshots[1].name, "a longer name");
	assert_int_equal(list.snapshots[1].l1_table_offset, HAND_L1 * CLUSTER);
	assert_int_equal(list.snapshots[1].l1_size, 1);
	assert_int_equal(list.snapshots[1].date_sec, 1234567890);
	assert_int_equal(list.snapshots[1].date_nsec, 999999999);
	assert_int_equal(list.snapshots[1].vm_clock_nsec, 1ull << 40);
	assert_int_equal(list.snapshots[1].vm_state_bytes, 1ull << 33);
	assert_int_equal(list.snapshots[1].virtual_size, 3 * CLUSTER);
	assert_int_equal(list.snapshots[1].icount, 5);
	snapshot_list_finish(&list);
}

/* Extra data counts as far as it is there. */
CO_TEST(test_extra_data)
{
	static const uint32_t lengths[] = {0, 8, 16, 24, 1024};
	struct snapshot_list list;

	new_image();
	for (unsigned i = 0; i < NB_ELEMENTS(lengths); i++) {
		uint8_t *entry = add_entry("1", "x", lengths[i]);

		be32_put(ENTRY_FIELD(entry, vm_state_size), 17);
		if (lengths[i] >= 8)
			be64_put(EXTRA_FIELD(entry, vm_state_size_large), 1ull << 33);
		if (lengths[i] >= 16)
			be64_put(EXTRA_FIELD(entry, disk_size), CLUSTER);
	}
	list = good_list();
	assert_int_equal(list.nb, NB_ELEMENTS(lengths));
	for (unsigned i = 0; i < list.nb; i++) {
		const struct snapshot *snapshot = &list.snapshots[i];

		assert_int_equal(snapshot->vm_state_bytes, lengths[i] >= 8 ? 1ull << 33 : 17);
		assert_int_equal(snapshot->virtual_size, lengths[i] >= 16 ? CLUSTER : SIZE);
		assert_true(snapshot->icount == (lengths[i] >= 24 ? 0 : UINT64_MAX));
		assert_string_equal(snapshot->name, "x");
	}
	snapshot_list_finish(&list);
}

CO_TEST(test_too_much_extra_data)
{
	new_image();
	add_entry("1", "good", 16);
	add_entry("2", "bad", 1025);
	refuses("entry 1: its extra data is larger than 1024 bytes");
}

CO_TEST(test_l1_table_out_of_bounds)
{
	static const struct {
		uint64_t off;
		uint32_t nb;
		const char *text;
	} bad[] = {
		{0, (4u << 20) + 1, "L1 table is larger than 32 MiB"},
		{0, UINT32_MAX, "L1 table is larger than 32 MiB"},
		{HAND_L1 * CLUSTER + 8, 1, "L1 table's offset is invalid"},
		{1ull << 63, 1, "L1 table's offset is invalid"},
		{UINT64_MAX - 4095, 512, "L1 table's offset is invalid"},
	};

	for (unsigned i = 0; i < NB_ELEMENTS(bad); i++) {
		uint8_t *entry;

		new_image();
		entry = add_entry("1", "x", 16);
		be64_put(ENTRY_FIELD(entry, l1_table_offset), bad[i].off);
		be32_put(ENTRY_FIELD(entry, l1_size), bad[i].nb);
		refuses(bad[i].text);
		sim_disk_reset(hand.disk);
	}
}

CO_TEST(test_disk_size_too_large)
{
	uint8_t *entry;

	new_image();
	entry = add_entry("1", "x", 16);
	be64_put(EXTRA_FIELD(entry, disk_size), INT64_MAX);
	refuses("entry 0: the disk size is too large");
}

/* ---- the end of the file ---- */

CO_TEST(test_table_beyond_the_file)
{
	new_image();
	be32_put(HAND_FIELD(bytes, nb_snapshots), 1);
	be64_put(HAND_FIELD(bytes, snapshots_offset), 1ull << 50);
	refuses("the table lies beyond the end of the file");
}

/* More entries than fit are refused before anything is read. */
CO_TEST(test_more_entries_than_the_file_holds)
{
	new_image();
	be32_put(HAND_FIELD(bytes, nb_snapshots), 4 * CLUSTER / 40 + 1);
	refuses("the table lies beyond the end of the file");
}

CO_TEST(test_entry_cut_off)
{
	for (unsigned cut = 1; cut <= 6; cut++) {
		new_image();
		add_entry("1", "whole", 16);
		add_entry("2", "cut off", 16); /* 64 bytes, no padding */
		sim_bytes_resize(&hand.disk->files[0].bytes, table_end - cut * 10);
		refuses("lies beyond the end of the file");
		sim_disk_reset(hand.disk);
	}
}

CO_TEST(test_read_error)
{
	struct snapshot_list list = {0};
	struct error *error = NULL;

	new_image();
	add_entry("1", "x", 16);
	hand.disk->fault = (struct sim_fault){.at = 4, .count = 1, .err = EIO};
	assert_int_equal(read_list(&list, &error), -EIO);
	assert_null(list.snapshots);
	hand_expect_error(error, ERROR_OPEN, EIO, "cannot read the snapshot table");
}

/* ---- choosing one ---- */

CO_TEST(test_id_before_name)
{
	struct snapshot_list list;

	new_image();
	add_entry("1", "2", 16);
	add_entry("2", "1", 16);
	add_entry("3", "twice", 16);
	add_entry("4", "twice", 16);
	list = good_list();
	assert_ptr_equal(snapshot_find(&list, "1"), &list.snapshots[0]);
	assert_ptr_equal(snapshot_find(&list, "2"), &list.snapshots[1]);
	assert_ptr_equal(snapshot_find(&list, "twice"), &list.snapshots[2]);
	assert_null(snapshot_find(&list, "twic"));
	assert_null(snapshot_find(&list, ""));
	snapshot_list_finish(&list);
}

CO_TEST(test_image_shows_the_snapshot)
{
	struct image *image;
	uint8_t *entry;

	new_image();
	entry = add_entry("1", "old", 16);
	be64_put(EXTRA_FIELD(entry, disk_size), 3 * CLUSTER);
	image = hand_open("a", &(struct image_options){.snapshot = "old", .writable = true});
	assert_int_equal(image_info(image)->virtual_size, 3 * CLUSTER);
	assert_false(image_info(image)->writable);
	assert_int_equal(image_close(image), 0);
}

CO_TEST(test_image_without_that_snapshot)
{
	new_image();
	add_entry("1", "old", 16);
	hand_refuses("a", &(struct image_options){.snapshot = "new"}, ERROR_OPEN, ENOENT,
		     "no snapshot with the id or name \"new\"");
}

/* The table of one snapshot does not cover its disk: harmless until it is asked for. */
CO_TEST(test_l1_table_too_small)
{
	struct image *image;
	uint8_t *entry;

	new_image();
	entry = add_entry("1", "old", 16);
	be64_put(EXTRA_FIELD(entry, disk_size), (2ull << 20) + 1);
	image = hand_open("a", &(struct image_options){0});
	assert_int_equal(image_close(image), 0);
	hand_refuses("a", &(struct image_options){.snapshot = "1"}, ERROR_OPEN, EINVAL,
		     "the L1 table of \"1\" is too small");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_TEST(test_no_snapshots),
		HAND_TEST(test_fields),
		HAND_TEST(test_extra_data),
		HAND_TEST(test_too_much_extra_data),
		HAND_TEST(test_l1_table_out_of_bounds),
		HAND_TEST(test_disk_size_too_large),
		HAND_TEST(test_table_beyond_the_file),
		HAND_TEST(test_more_entries_than_the_file_holds),
		HAND_TEST(test_entry_cut_off),
		HAND_TEST(test_read_error),
		HAND_TEST(test_id_before_name),
		HAND_TEST(test_image_shows_the_snapshot),
		HAND_TEST(test_image_without_that_snapshot),
		HAND_TEST(test_l1_table_too_small),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
