/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * published: reads beside the reactor, of images in real files: which clusters they find, and that
 * they never show what a write, a discard or a new size has replaced.
 */
#include "test/unit/host_image.h"

#include "core/compress_write.h"
#include "core/snapshot_edit.h"

#include <string.h>

#define CLUSTER 4096u
#define DISK_BYTES (64 * CLUSTER)
#define MAX_BYTES (256u << 10)

static uint8_t bytes[MAX_BYTES];

/* ---- what is in an image ---- */

/* What a byte of the disk is after the write of that number; 0: never written. */
static uint8_t byte_at(uint64_t guest_off, unsigned number)
{
	return number ? (uint8_t)(guest_off * 31 + (guest_off >> 8) * 7 + number * 101) : 0;
}

static void put_bytes(uint64_t guest_off, size_t len_bytes, unsigned number)
{
	for (size_t i = 0; i < len_bytes; i++)
		bytes[i] = byte_at(guest_off + i, number);
}

static void expect_bytes(uint64_t guest_off, size_t len_bytes, unsigned number)
{
	for (size_t i = 0; i < len_bytes; i++)
		if (bytes[i] != byte_at(guest_off + i, number))
			fail_msg("byte %zu from %llu on is %u, not of write %u", i,
				 (unsigned long long)guest_off, bytes[i], number);
}

static void coroutine_fn write_image(uint64_t guest_off, size_t len_bytes, unsigned number)
{
	put_bytes(guest_off, len_bytes, number);
	assert_int_equal(image_write(image, guest_off, bytes, len_bytes), 0);
}

static void coroutine_fn read_image(uint64_t guest_off, size_t len_bytes, unsigned number)
{
	assert_int_equal(image_read(image, guest_off, bytes, len_bytes, NULL), 0);
	expect_bytes(guest_off, len_bytes, number);
}

/* The cluster at guest_off, whose first 256 bytes are of that write; the others are zeros. */
static void coroutine_fn write_compressed(uint64_t guest_off, unsigned number)
{
	struct packer *packer;

	put_bytes(guest_off, CLUSTER, number);
	memset(bytes + 256, 0, CLUSTER - 256);
	assert_int_equal(packer_create(image, &packer), 0);
	assert_int_equal(packer_write(packer, guest_off, bytes, CLUSTER), 0);
	packer_destroy(packer);
}

static struct create_params above(const char *backing_name, const char *backing_format)
{
	struct create_params params = host_params(12, DISK_BYTES);

	params.backing_name = backing_name;
	params.backing_format = backing_format;
	return params;
}

/* Raw files, and images that lie below another one. */
static void write_raw(const char *name, size_t len_bytes, unsigned number)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	put_bytes(0, len_bytes, number);
	assert_int_equal(write(fd, bytes, len_bytes), len_bytes);
	close(fd);
}

static void coroutine_fn write_lower(const char *name, const struct create_params *params,
				     size_t len_bytes, unsigned number)
{
	host_create(name, params);
	host_open(name);
	write_image(0, len_bytes, number);
	host_close();
}

/* ---- reads beside ---- */

static bool is_found(uint64_t guest_off, size_t len_bytes)
{
	bool fits = image_fits_beside(image, guest_off, len_bytes), found;

	memset(bytes, 0xee, min_u64(len_bytes, sizeof(bytes)));
	found = image_read_beside(image, guest_off, bytes, len_bytes);
	/* What lies in a file that answers with less is known, and not found. */
	assert_true(fits || !found);
	return found;
}

static void expect_beside(uint64_t guest_off, size_t len_bytes, unsigned number)
{
	assert_true(image_fits_beside(image, guest_off, len_bytes));
	assert_true(is_found(guest_off, len_bytes));
	expect_bytes(guest_off, len_bytes, number);
}

/* Known or not, it is of that write. */
static void expect_no_other(uint64_t guest_off, size_t len_bytes, unsigned number)
{
	if (is_found(guest_off, len_bytes))
		expect_bytes(guest_off, len_bytes, number);
}

/* Nothing of that cluster is known. */
static void expect_nothing(uint64_t guest_off)
{
	uint64_t size = cluster_size(image);

	for (uint64_t i = 0; i < size; i += size / 8)
		assert_false(is_found(guest_off / size * size + i, size / 8));
}

/* It is not known now, and a read makes it known. */
static void coroutine_fn becomes_known(uint64_t guest_off, size_t len_bytes, unsigned number)
{
	expect_nothing(guest_off);
	read_image(guest_off, len_bytes, number);
	expect_beside(guest_off, len_bytes, number);
}

/* Not even a read makes it known. */
static void coroutine_fn stays_unknown(uint64_t guest_off, size_t len_bytes, unsigned number)
{
	expect_nothing(guest_off);
	read_image(guest_off, len_bytes, number);
	expect_nothing(guest_off);
}

/* Four known clusters from the beginning on. */
static void coroutine_fn open_known(void)
{
	struct create_params params = host_params(12, DISK_BYTES);

	host_create_and_open(&params);
	write_image(0, 4 * CLUSTER, 1);
	becomes_known(0, CLUSTER, 1);
	for (unsigned i = 0; i < 4; i++)
		expect_beside(i * CLUSTER, CLUSTER, 1);
}

HOST_TEST(test_found_after_a_read)
{
	struct create_params params = host_params(12, DISK_BYTES);

	host_create_and_open(&params);
	write_image(0, 4 * CLUSTER, 1);
	expect_nothing(CLUSTER);
	read_image(CLUSTER + 1000, 1, 1);
	for (unsigned off = 0; off < CLUSTER; off += 509) {
		const unsigned lens[] = {1, 7, 512, CLUSTER};

		for (unsigned i = 0; i < 4; i++) {
			unsigned len_bytes = (unsigned)min_u64(lens[i], CLUSTER - off);

			expect_beside(CLUSTER + off, len_bytes, 1);
		}
		assert_false(is_found(CLUSTER + off, CLUSTER - off + 1));
		assert_false(is_found(CLUSTER + off, 2 * CLUSTER));
		assert_false(is_found(CLUSTER + off, SIZE_MAX));
	}
	host_close();
}

/* What the clusters of test_neighbours() are. */
static void coroutine_fn write_neighbours(void)
{
	write_image(0, CLUSTER, 1);
	write_image(2 * CLUSTER, 2 * CLUSTER, 1);
	write_image(6 * CLUSTER, CLUSTER, 1);
	assert_int_equal(image_zero(image, 6 * CLUSTER, CLUSTER, true), 0);
	write_compressed(7 * CLUSTER, 1);
	write_image(5 * CLUSTER, CLUSTER, 1); /* not after the one before it in the file */
	write_image(63 * CLUSTER, 2 * CLUSTER, 1);
	write_image(128 * CLUSTER, 1024, 1);
}

/* One read makes the data clusters of its 64 known. */
HOST_TEST(test_neighbours)
{
	struct create_params params = host_params(12, 128 * CLUSTER + 1024);
	const unsigned known[] = {0, 2, 3, 5, 63}, unknown[] = {1, 4, 6, 7, 62, 64};

	host_create_and_open(&params);
	write_neighbours();
	becomes_known(3 * CLUSTER + 512, 512, 1);
	for (unsigned i = 0; i < 5; i++)
		expect_beside(known[i] * CLUSTER, CLUSTER, 1);
	for (unsigned i = 0; i < 6; i++)
		expect_nothing(unknown[i] * CLUSTER);
	becomes_known(64 * CLUSTER, CLUSTER, 1);
	assert_false(is_found(128 * CLUSTER, 512));
	host_close();
}

/* Each where it is: here, below in larger clusters, or nowhere. */
HOST_TEST(test_neighbours_in_two_layers)
{
	struct create_params params = above("b", "qcow2"), lower = host_params(16, 20 * CLUSTER);

	write_lower("b", &lower, 20 * CLUSTER, 1);
	host_create_and_open(&params);
	for (unsigned i = 3; i < 64; i += 15)
		write_image(i * CLUSTER, CLUSTER, 2);
	becomes_known(4 * CLUSTER, CLUSTER, 1);
	for (unsigned i = 0; i < 64; i++) {
		if (i % 15 == 3)
			expect_beside(i * CLUSTER, CLUSTER, 2);
		else if (i < 20)
			expect_beside(i * CLUSTER, CLUSTER, 1);
		else
			expect_nothing(i * CLUSTER);
	}
	host_close();
}

/* What only tables tell that are not loaded is not known, nor in the way of what is behind it. */
HOST_TEST(test_neighbours_that_nobody_has_looked_for)
{
	struct create_params params = above("b", "qcow2"), lower = host_params(12, DISK_BYTES);

	write_lower("b", &lower, DISK_BYTES, 1);
	host_create_and_open(&params);
	write_image(8 * CLUSTER, 8 * CLUSTER, 2);
	host_close();
	host_open("a");
	becomes_known(9 * CLUSTER, CLUSTER, 2);
	for (unsigned i = 8; i < 16; i++)
		expect_beside(i * CLUSTER, CLUSTER, 2);
	becomes_known(0, CLUSTER, 1);
	host_close();
}

/* As it is now, not as it was when another cluster was read. */
HOST_TEST(test_neighbour_that_has_changed)
{
	open_known();
	write_image(5 * CLUSTER, CLUSTER, 1);
	assert_int_equal(image_discard(image, CLUSTER, CLUSTER), 0);
	expect_nothing(5 * CLUSTER);
	write_image(CLUSTER, CLUSTER, 2);
	becomes_known(5 * CLUSTER, CLUSTER, 1);
	expect_beside(CLUSTER, CLUSTER, 2);
	host_close();
}

/* Reads of the reactor do not disturb those beside it. */
HOST_TEST(test_second_read_changes_nothing)
{
	uint64_t version;

	open_known();
	version = image->published.slots[1].version;
	assert_int_equal(version, 2);
	read_image(CLUSTER, CLUSTER, 1);
	read_image(0, 4 * CLUSTER, 1);
	assert_int_equal(image->published.slots[1].version, version);
	host_close();
}

HOST_TEST(test_nothing_where_nothing_is_published)
{
	struct create_params params = host_params(12, DISK_BYTES);

	host_create("a", &params);
	assert_int_equal(image_open(&host.opener, "a", &(struct image_options){.writable = true},
				    &image, NULL),
			 0);
	write_image(0, CLUSTER, 1);
	stays_unknown(0, CLUSTER, 1);
	write_image(0, CLUSTER, 2);
	stays_unknown(0, CLUSTER, 2);
	host_close();
}

HOST_TEST(test_what_is_no_data)
{
	struct create_params params = host_params(12, DISK_BYTES);

	host_create_and_open(&params);
	stays_unknown(0, CLUSTER, 0);
	assert_int_equal(image_zero(image, 0, CLUSTER, false), 0);
	stays_unknown(0, CLUSTER, 0);
	assert_int_equal(image_zero(image, 0, CLUSTER, true), 0);
	stays_unknown(0, CLUSTER, 0);
	write_compressed(CLUSTER, 1);
	expect_nothing(CLUSTER);
	read_image(CLUSTER, 256, 1);
	expect_nothing(CLUSTER);
	write_image(CLUSTER, CLUSTER, 2);
	becomes_known(CLUSTER, CLUSTER, 2);
	host_close();
}

HOST_TEST(test_last_part_of_a_cluster)
{
	struct create_params params = host_params(12, DISK_BYTES + 1024);

	host_create_and_open(&params);
	write_image(DISK_BYTES - CLUSTER, CLUSTER + 1024, 1);
	becomes_known(DISK_BYTES - CLUSTER, CLUSTER, 1);
	read_image(DISK_BYTES, 1024, 1);
	assert_false(is_found(DISK_BYTES, 512));
	assert_int_equal(image_resize(image, DISK_BYTES + CLUSTER), 0);
	read_image(DISK_BYTES, 1024, 1);
	expect_beside(DISK_BYTES, 1024, 1);
	host_close();
}

/* ---- what changes ---- */

HOST_TEST(test_write_in_place_is_seen)
{
	open_known();
	write_image(CLUSTER, CLUSTER, 2);
	expect_beside(CLUSTER, CLUSTER, 2);
	write_image(CLUSTER + 512, 1024, 3);
	expect_beside(CLUSTER, 512, 2);
	expect_beside(CLUSTER + 512, 1024, 3);
	expect_beside(CLUSTER + 1536, CLUSTER - 1536, 2);
	host_close();
}

HOST_TEST(test_write_over_a_backing_file)
{
	struct create_params params = above("b", "raw");

	write_raw("b", DISK_BYTES, 1);
	host_create_and_open(&params);
	becomes_known(CLUSTER, CLUSTER, 1);
	write_image(CLUSTER + 512, 512, 2);
	becomes_known(CLUSTER + 512, 512, 2);
	expect_beside(CLUSTER, 512, 1);
	expect_beside(CLUSTER + 1024, CLUSTER - 1024, 1);
	expect_beside(2 * CLUSTER, CLUSTER, 1);
	write_image(2 * CLUSTER, CLUSTER, 2);
	becomes_known(2 * CLUSTER, CLUSTER, 2);
	host_close();
}

HOST_TEST(test_discard)
{
	open_known();
	assert_int_equal(image_discard(image, CLUSTER, 2 * CLUSTER), 0);
	stays_unknown(CLUSTER, CLUSTER, 0);
	stays_unknown(2 * CLUSTER, CLUSTER, 0);
	expect_beside(0, CLUSTER, 1);
	expect_beside(3 * CLUSTER, CLUSTER, 1);
	write_image(2 * CLUSTER, CLUSTER, 2);
	becomes_known(2 * CLUSTER, CLUSTER, 2);
	host_close();
}

HOST_TEST(test_zero)
{
	open_known();
	assert_int_equal(image_zero(image, 0, CLUSTER, false), 0);
	stays_unknown(0, CLUSTER, 0);
	assert_int_equal(image_zero(image, CLUSTER, CLUSTER, true), 0);
	read_image(CLUSTER, CLUSTER, 0);
	expect_no_other(CLUSTER, CLUSTER, 0);
	assert_int_equal(image_zero(image, 2 * CLUSTER, 512, false), 0);
	expect_no_other(2 * CLUSTER, 512, 0);
	expect_no_other(2 * CLUSTER + 512, CLUSTER - 512, 1);
	host_close();
}

HOST_TEST(test_write_of_a_compressed_cluster)
{
	open_known();
	write_compressed(0, 2);
	stays_unknown(0, 256, 2);
	host_close();
}

HOST_TEST(test_disk_that_shrinks_and_grows)
{
	open_known();
	assert_int_equal(image_resize(image, CLUSTER + 512), 0);
	expect_no_other(CLUSTER, 512, 1);
	assert_int_equal(image_resize(image, DISK_BYTES), 0);
	read_image(CLUSTER + 512, CLUSTER - 512, 0);
	expect_beside(CLUSTER + 512, CLUSTER - 512, 0);
	expect_beside(CLUSTER, 512, 1);
	stays_unknown(2 * CLUSTER, CLUSTER, 0);
	expect_beside(0, CLUSTER, 1);
	host_close();
}

/* What the disk once showed of a longer file below it, and shows no more. */
static void coroutine_fn shrinks_and_grows_over(unsigned version)
{
	struct create_params params = above("b", "raw");

	params.version = version;
	write_raw("b", DISK_BYTES, 1);
	host_create_and_open(&params);
	becomes_known(CLUSTER, CLUSTER, 1);
	expect_beside(3 * CLUSTER, CLUSTER, 1);
	assert_int_equal(image_resize(image, CLUSTER + 512), 0);
	assert_int_equal(image_resize(image, DISK_BYTES), 0);
	for (unsigned i = 0; i < 2; i++) {
		expect_no_other(CLUSTER + 512, CLUSTER - 512, 0);
		expect_no_other(3 * CLUSTER, CLUSTER, 0);
		read_image(CLUSTER, 512, 1);
		read_image(CLUSTER + 512, 3 * CLUSTER, 0);
	}
	host_close();
}

HOST_TEST(test_disk_that_shrinks_and_grows_over_a_longer_file)
{
	shrinks_and_grows_over(3);
	shrinks_and_grows_over(2);
}

HOST_TEST(test_applied_snapshot)
{
	open_known();
	assert_int_equal(snapshot_create(image, "s", 0, 0, NULL), 0);
	write_image(CLUSTER, CLUSTER, 2);
	write_image(5 * CLUSTER, CLUSTER, 2);
	becomes_known(CLUSTER, CLUSTER, 2);
	expect_beside(5 * CLUSTER, CLUSTER, 2);
	assert_int_equal(snapshot_apply(image, "s", NULL), 0);
	becomes_known(CLUSTER, CLUSTER, 1);
	stays_unknown(5 * CLUSTER, CLUSTER, 0);
	expect_beside(2 * CLUSTER, CLUSTER, 1);
	assert_int_equal(snapshot_make_empty(image, NULL), 0);
	stays_unknown(CLUSTER, CLUSTER, 0);
	host_close();
}

/* P3: what a read found before something changed, and notes after it. */
HOST_TEST(test_read_that_waited_meanwhile)
{
	struct extent extent;
	uint64_t since;

	open_known();
	write_image(5 * CLUSTER, CLUSTER, 1);
	since = image->published.nb_taken_back;
	assert_int_equal(map_chain(image, 5 * CLUSTER, CLUSTER, &extent, NULL), 0);
	assert_int_equal(extent.kind, EXTENT_DATA);
	assert_int_equal(image_discard(image, 5 * CLUSTER, CLUSTER), 0);
	published_note(image, &extent, since);
	expect_nothing(5 * CLUSTER);
	/* Nor when it was another one's. */
	write_image(5 * CLUSTER, CLUSTER, 2);
	since = image->published.nb_taken_back;
	assert_int_equal(map_chain(image, 5 * CLUSTER, CLUSTER, &extent, NULL), 0);
	assert_int_equal(image_discard(image, 0, CLUSTER), 0);
	published_note(image, &extent, since);
	expect_nothing(5 * CLUSTER);
	published_note(image, &extent, image->published.nb_taken_back);
	expect_beside(5 * CLUSTER, CLUSTER, 2);
	host_close();
}

/* ---- chains ---- */

static bool coroutine_fn finds_below(struct create_params top, struct create_params lower)
{
	uint64_t size = 1ull << top.cluster_bits;
	bool found;

	top.backing_name = "b";
	top.backing_format = "qcow2";
	top.virtual_size = lower.virtual_size = MAX_BYTES;
	write_lower("b", &lower, 4 * size, 1);
	host_create_and_open(&top);
	expect_nothing(size);
	read_image(size, size, 1);
	found = is_found(size, size);
	if (found)
		expect_bytes(size, size, 1);
	else
		expect_nothing(size);
	host_close();
	return found;
}

HOST_TEST(test_qcow2_below)
{
	struct create_params small = host_params(12, 0), middle = host_params(14, 0);
	struct create_params large = host_params(16, 0), extended = middle;

	extended.extended_l2 = true;
	assert_true(finds_below(middle, middle));
	assert_true(finds_below(middle, large));
	assert_true(finds_below(small, middle));
	assert_false(finds_below(middle, small));
	assert_false(finds_below(middle, extended));
	assert_false(finds_below(extended, middle));
	assert_false(finds_below(small, extended));
}

/* A layer that has nothing there says so of its own clusters alone. */
HOST_TEST(test_qcow2_between)
{
	struct create_params top = host_params(14, MAX_BYTES), middle = top, lower = top;

	top.backing_name = "b";
	middle.backing_name = "c";
	top.backing_format = middle.backing_format = "qcow2";
	write_lower("c", &lower, MAX_BYTES, 1);
	for (unsigned bits = 12; bits <= 16; bits += 2) {
		middle.cluster_bits = bits;
		host_create("b", &middle);
		host_create_and_open(&top);
		expect_nothing(0);
		read_image(0, cluster_size(image), 1);
		assert_int_equal(is_found(0, 512), bits >= 14);
		host_close();
	}
	middle.cluster_bits = 14;
	middle.virtual_size = (1 << 14) + 512;
	host_create("b", &middle);
	host_create_and_open(&top);
	becomes_known(0, 1 << 14, 1);
	read_image(1 << 14, 512, 1);
	expect_nothing(1 << 14);
	host_close();
}

HOST_TEST(test_raw_below)
{
	struct create_params params = above("b", "raw");

	write_raw("b", 2 * CLUSTER + 512, 1);
	host_create_and_open(&params);
	becomes_known(CLUSTER, CLUSTER, 1);
	/* It ends within the cluster. */
	stays_unknown(2 * CLUSTER, 512, 1);
	stays_unknown(3 * CLUSTER, CLUSTER, 0);
	host_close();
}

HOST_TEST(test_raw_image)
{
	write_raw("a", DISK_BYTES, 1);
	assert_int_equal(
		image_open(&host.opener, "a", &(struct image_options){.raw = true}, &image, NULL),
		0);
	assert_true(image_publish(image));
	for (unsigned i = 0; i < 2; i++) {
		expect_no_other(CLUSTER, 1, 1);
		expect_no_other(CLUSTER, 512, 1);
		read_image(CLUSTER, 512, 1);
	}
	host_close();
}

HOST_TEST(test_external_data_file)
{
	struct create_params params = host_params(12, DISK_BYTES);

	params.data_name = "b";
	for (unsigned raw = 0; raw < 2; raw++) {
		params.data_raw = raw;
		host_create_and_open(&params);
		write_image(0, 4 * CLUSTER, 1);
		becomes_known(CLUSTER, CLUSTER, 1);
		assert_int_equal(image->data_file->nb_reads_beside, 1);
		assert_int_equal(image->file->nb_reads_beside, 0);
		assert_int_equal(image_discard(image, CLUSTER, CLUSTER), 0);
		expect_no_other(CLUSTER, CLUSTER, 0);
		write_image(CLUSTER, CLUSTER, 2);
		read_image(CLUSTER, CLUSTER, 2);
		expect_beside(CLUSTER, CLUSTER, 2);
		host_close();
	}
}

/* ---- slots ---- */

#define NB_SLOTS 65536ull

HOST_TEST(test_clusters_that_share_a_slot)
{
	struct create_params params = host_params(9, (2 * NB_SLOTS + 3) * 512);
	const uint64_t offs[] = {2 * 512, (NB_SLOTS + 2) * 512, (2 * NB_SLOTS + 2) * 512};

	host_create_and_open(&params);
	for (unsigned i = 0; i < 3; i++)
		write_image(offs[i], 512, i + 1);
	for (unsigned i = 0; i < 6; i++) {
		becomes_known(offs[i % 3], 512, i % 3 + 1);
		expect_nothing(offs[(i + 1) % 3]);
	}
	/* What is not there need not be taken back. */
	write_image(offs[0] + 512, 512, 1);
	assert_int_equal(image_discard(image, offs[0], 512), 0);
	expect_beside(offs[2], 512, 3);
	assert_int_equal(image_discard(image, offs[2], 512), 0);
	expect_nothing(offs[2]);
	host_close();
}

/* Where there are more clusters than slots, those that are read stay known the longest. */
HOST_TEST(test_neighbours_take_free_slots_alone)
{
	struct create_params params = host_params(9, 2 * NB_SLOTS * 512);

	host_create_and_open(&params);
	write_image(2 * 512, 512, 1);
	write_image((NB_SLOTS + 1) * 512, 3 * 512, 2);
	becomes_known(2 * 512, 512, 1);
	/* In the slot of another one: it alone. */
	becomes_known((NB_SLOTS + 2) * 512, 512, 2);
	expect_nothing((NB_SLOTS + 1) * 512);
	becomes_known(2 * 512, 512, 1);
	/* In a free slot: those whose slots are free, too. */
	becomes_known((NB_SLOTS + 3) * 512, 512, 2);
	expect_beside((NB_SLOTS + 1) * 512, 512, 2);
	expect_beside(2 * 512, 512, 1);
	host_close();
}

/* A disk that has grown has more clusters than slots. */
HOST_TEST(test_slots_of_a_disk_that_has_grown)
{
	open_known();
	assert_int_equal(image_resize(image, 2 * DISK_BYTES), 0);
	write_image(DISK_BYTES + CLUSTER, CLUSTER, 2);
	becomes_known(DISK_BYTES + CLUSTER, CLUSTER, 2);
	becomes_known(CLUSTER, CLUSTER, 1);
	expect_nothing(DISK_BYTES + CLUSTER);
	host_close();
}

/* ---- host files ---- */

HOST_TEST(test_counters)
{
	struct image_stats before, after;

	open_known();
	image_get_stats(image, &before);
	expect_beside(0, CLUSTER, 1);
	expect_beside(CLUSTER, 512, 1);
	expect_nothing(5 * CLUSTER);
	image_get_stats(image, &after);
	assert_int_equal(before.nb_reads_beside, 5);
	assert_int_equal(before.nb_reads, 6);
	assert_int_equal(before.read_bytes, 6 * CLUSTER);
	assert_int_equal(after.nb_reads_beside, 7);
	assert_int_equal(after.nb_reads, 8);
	assert_int_equal(after.read_bytes, 7 * CLUSTER + 512);
	assert_int_equal(after.nb_reads - after.nb_reads_beside, image->stats.nb_reads);
	assert_int_equal(after.l2_hits - before.l2_hits, 2);
	host_close();
}

/* What the reactor reads at once counts as what it reads otherwise. */
HOST_TEST(test_counters_of_reads_at_once)
{
	struct image_stats before, after;
	struct file_stats file;

	open_known();
	image_get_stats(image, &before);
	file = image->data_file->stats;
	memset(bytes, 0xee, CLUSTER);
	assert_true(image_read_at_once(image, 2 * CLUSTER, bytes, 1024));
	expect_bytes(2 * CLUSTER, 1024, 1);
	assert_false(image_read_at_once(image, 5 * CLUSTER, bytes, 1024));
	image_get_stats(image, &after);
	assert_int_equal(after.nb_reads - before.nb_reads, 1);
	assert_int_equal(after.read_bytes - before.read_bytes, 1024);
	assert_int_equal(after.nb_reads_beside, before.nb_reads_beside);
	/* No table was read for it. */
	assert_int_equal(after.l2_hits - before.l2_hits, 1);
	assert_int_equal(after.l2_misses, before.l2_misses);
	assert_int_equal(image->data_file->stats.nb_reads - file.nb_reads, 1);
	assert_int_equal(image->data_file->stats.read_bytes - file.read_bytes, 1024);
	host_close();
}

/* The host file ends within a cluster: what is missing reads as zeros, by the reactor alone. */
HOST_TEST(test_host_file_that_is_cut_off)
{
	struct create_params params = host_params(12, DISK_BYTES);

	params.data_name = "b";
	host_create_and_open(&params);
	write_image(0, CLUSTER, 1);
	becomes_known(0, CLUSTER, 1);
	assert_int_equal(truncate("b", 512), 0);
	expect_beside(0, 512, 1);
	assert_false(is_found(0, 513));
	assert_false(is_found(512, 512));
	host_close();
}

/* In the page cache it is found, if the file system answers without waiting. */
static void coroutine_fn looks_in_host_file(void)
{
	struct create_params params = host_params(12, DISK_BYTES);
	bool found = false;

	host_create_and_open(&params);
	assert_int_equal(image->published.slots != NULL, file_reads_at_once(image->file));
	write_image(0, CLUSTER, 1);
	expect_nothing(0);
	/* The host may need the memory of any page for something else. */
	for (unsigned i = 0; i < 1000 && !found; i++) {
		read_image(0, CLUSTER, 1);
		found = is_found(0, CLUSTER);
	}
	if (found)
		expect_bytes(0, CLUSTER, 1);
	assert_int_equal(found, file_reads_at_once(image->file));
	write_image(0, CLUSTER, 2);
	expect_no_other(0, CLUSTER, 2);
	assert_int_equal(image_discard(image, 0, CLUSTER), 0);
	expect_nothing(0);
	host_close();
}

HOST_TEST(test_buffered_file)
{
	looks_in_host_file();
}

HOST_TEST(test_direct_file)
{
	looks_in_host_file();
}

static int setup_buffered(void **state)
{
	return host_setup_with(true);
}

static int setup_direct(void **state)
{
	return host_setup_with(false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOST_MEMORY_TEST(test_found_after_a_read),
		HOST_MEMORY_TEST(test_neighbours),
		HOST_MEMORY_TEST(test_neighbours_in_two_layers),
		HOST_MEMORY_TEST(test_neighbours_that_nobody_has_looked_for),
		HOST_MEMORY_TEST(test_neighbour_that_has_changed),
		HOST_MEMORY_TEST(test_second_read_changes_nothing),
		HOST_MEMORY_TEST(test_nothing_where_nothing_is_published),
		HOST_MEMORY_TEST(test_what_is_no_data),
		HOST_MEMORY_TEST(test_last_part_of_a_cluster),
		HOST_MEMORY_TEST(test_write_in_place_is_seen),
		HOST_MEMORY_TEST(test_write_over_a_backing_file),
		HOST_MEMORY_TEST(test_discard),
		HOST_MEMORY_TEST(test_zero),
		HOST_MEMORY_TEST(test_write_of_a_compressed_cluster),
		HOST_MEMORY_TEST(test_disk_that_shrinks_and_grows),
		HOST_MEMORY_TEST(test_disk_that_shrinks_and_grows_over_a_longer_file),
		HOST_MEMORY_TEST(test_applied_snapshot),
		HOST_MEMORY_TEST(test_read_that_waited_meanwhile),
		HOST_MEMORY_TEST(test_qcow2_below),
		HOST_MEMORY_TEST(test_qcow2_between),
		HOST_MEMORY_TEST(test_raw_below),
		HOST_MEMORY_TEST(test_raw_image),
		HOST_MEMORY_TEST(test_external_data_file),
		HOST_MEMORY_TEST(test_clusters_that_share_a_slot),
		HOST_MEMORY_TEST(test_neighbours_take_free_slots_alone),
		HOST_MEMORY_TEST(test_slots_of_a_disk_that_has_grown),
		HOST_MEMORY_TEST(test_counters),
		HOST_MEMORY_TEST(test_counters_of_reads_at_once),
		HOST_MEMORY_TEST(test_host_file_that_is_cut_off),
		cmocka_unit_test_setup_teardown(test_buffered_file, setup_buffered, host_teardown),
		cmocka_unit_test_setup_teardown(test_direct_file, setup_direct, host_teardown),
	};

	return cmocka_run_group_tests(tests, host_group_setup, host_group_teardown);
}
