/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * host: what the simulated disk has not got: threads that compress and decompress, host files
 * with holes, and images above and below one another.
 */
#include "core/compress_write.h"
#include "core/create.h"
#include "core/image.h"
#include "io/buf.h"
#include "io/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define NAME "host.img"
#define OTHER_NAME "host-other.img"
#define CLUSTER 65536u
/* The last cluster is cut off. */
#define DISK_BYTES (10 * CLUSTER + 1024)

static struct reactor *reactor;
static struct host_opener host;

static int setup(void **state)
{
	struct reactor_params params = {.nb_workers = 2};

	if (engine_sync_create(&params.engine) || reactor_create(&params, &reactor))
		return 1;
	host_opener_init(&host, reactor, NAMES_AUTO, false);
	return 0;
}

static int teardown(void **state)
{
	host_opener_finish(&host);
	reactor_destroy(reactor);
	buf_trim();
	unlink(NAME);
	unlink(OTHER_NAME);
	return 0;
}

/* A test whose body is a coroutine of the reactor. */
#define HOST_TEST(name)                                  \
	static void coroutine_fn name##_body(void *arg); \
	static void name(void **state)                   \
	{                                                \
		reactor_run(reactor, name##_body, NULL); \
	}                                                \
	static void coroutine_fn name##_body(void *arg)

/* Full of holes but for one byte. */
static void make_file(const char *name, off_t size_bytes, off_t byte_off)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size_bytes), 0);
	if (byte_off < size_bytes)
		assert_int_equal(pwrite(fd, "x", 1, byte_off), 1);
	assert_int_equal(fsync(fd), 0);
	close(fd);
}

static struct file *open_file(const char *name)
{
	struct file *file = NULL;

	make_file(name, 0, 0);
	assert_int_equal(host.opener.open(&host.opener, OPENER_IMAGE, NULL, name, true,
					  FILE_LOCK_WRITE, &file, NULL),
			 0);
	return file;
}

static struct file *coroutine_fn format_file(const char *name, struct create_params params)
{
	struct file *file = open_file(name);

	params.virtual_size = DISK_BYTES;
	assert_int_equal(create_format(file, NULL, &params, NULL), 0);
	return file;
}

static struct image *coroutine_fn open_image(const char *name, const struct image_options *options)
{
	struct error *error = NULL;
	struct image *image;

	if (image_open(&host.opener, name, options, &image, &error))
		fail_msg("%s", error->msg);
	return image;
}

static struct image *coroutine_fn make_image(const char *name, struct create_params params)
{
	file_close(format_file(name, params));
	return open_image(name, &(struct image_options){.writable = true});
}

static bool is_compressible(uint64_t off)
{
	return off / CLUSTER % 3 != 2; /* not the last one, which is short */
}

/* No sector is like another one. */
static uint8_t byte_at(uint64_t off)
{
	if (!is_compressible(off))
		return off * 0x9e3779b97f4a7c15ull * (off | 1) >> 40;
	return off % 512 < 8 ? off >> (off % 512 * 8) : off / 512 % 251;
}

static uint8_t *disk_bytes(void)
{
	uint8_t *bytes = malloc(DISK_BYTES);

	assert_non_null(bytes);
	for (uint64_t i = 0; i < DISK_BYTES; i++)
		bytes[i] = byte_at(i);
	return bytes;
}

static void coroutine_fn packs_and_reads_back(struct create_params params)
{
	struct image *image = make_image(NAME, params);
	uint8_t *bytes = disk_bytes(), *read = malloc(DISK_BYTES);
	struct map_extent extent;
	struct packer *packer;

	assert_non_null(read);
	assert_int_equal(packer_create(image, &packer), 0);
	assert_int_equal(packer_write(packer, 0, bytes, DISK_BYTES), 0);
	packer_destroy(packer);
	image_trim(image);
	for (uint64_t off = 0; off < DISK_BYTES; off += extent.len_bytes) {
		assert_int_equal(image_map(image, off, DISK_BYTES - off, &extent), 0);
		assert_int_equal(extent.kind, is_compressible(off) ? MAP_COMPRESSED : MAP_DATA);
	}
	assert_int_equal(image_close(image), 0);
	image = open_image(NAME, &(struct image_options){0});
	assert_int_equal(image_read(image, 0, read, DISK_BYTES, NULL), 0);
	assert_memory_equal(read, bytes, DISK_BYTES);
	assert_int_equal(image_close(image), 0);
	free(read);
	free(bytes);
}

HOST_TEST(test_workers_compress)
{
	struct create_params params = CREATE_DEFAULTS;

	packs_and_reads_back(params);
#ifndef NO_ZSTD
	params.zstd = true;
	packs_and_reads_back(params);
#endif
}

/* The host's own answer for that file. */
static off_t host_seek(const char *name, off_t off, bool data)
{
	int fd = open(name, O_RDONLY);
	off_t found = lseek(fd, off, data ? SEEK_DATA : SEEK_HOLE);

	if (found < 0)
		found = -errno;
	close(fd);
	return found;
}

HOST_TEST(test_holes_of_a_raw_file)
{
	struct image *image;

	make_file(NAME, DISK_BYTES, 5 * CLUSTER);
	image = open_image(NAME, &(struct image_options){.raw = true});
	assert_int_equal(image_info(image)->virtual_size, DISK_BYTES);
	for (uint64_t off = 0; off < DISK_BYTES; off += CLUSTER / 2) {
		for (int data = 0; data < 2; data++) {
			off_t expected = host_seek(NAME, off, data);
			uint64_t found;
			int ret = image_seek(image, off, UINT64_MAX, data, &found);

			assert_int_equal(ret ? ret : (off_t)found, expected);
		}
	}
	assert_int_equal(image_close(image), 0);
}

/* Clusters that point to holes of the host file are data, which the map says are none. */
HOST_TEST(test_holes_of_a_preallocated_image)
{
	struct create_params params = CREATE_DEFAULTS;
	struct map_extent extent;
	struct image *image;

	params.preallocation = PREALLOC_METADATA;
	image = make_image(NAME, params);
	assert_int_equal(image_write(image, 3 * CLUSTER, "data", 4), 0);
	assert_int_equal(image_close(image), 0);
	image = open_image(NAME, &(struct image_options){0});
	assert_int_equal(image_map(image, 0, DISK_BYTES, &extent), 0);
	assert_int_equal(extent.kind, MAP_DATA);
	assert_int_equal(extent.host_hole,
			 host_seek(NAME, (off_t)extent.host_off, true) != (off_t)extent.host_off);
	assert_int_equal(image_map(image, 3 * CLUSTER, 4, &extent), 0);
	assert_int_equal(extent.kind, MAP_DATA);
	assert_false(extent.host_hole);
	assert_int_equal(image_close(image), 0);
}

/* What is written goes above; the image below is shown where nothing was. */
HOST_TEST(test_overlay)
{
	struct create_params params = CREATE_DEFAULTS;
	struct image *base = make_image(NAME, params), *image;
	char bytes[8];

	assert_int_equal(image_write(base, CLUSTER, "below", 5), 0);
	assert_int_equal(image_close(base), 0);
	base = open_image(NAME, &(struct image_options){0});
	assert_int_equal(image_open_overlay(&host.opener, format_file(OTHER_NAME, params), base, 0,
					    &image, NULL),
			 0);
	assert_int_equal(image_info(image)->depth, 2);
	assert_int_equal(image_write(image, CLUSTER + 2, "above", 5), 0);
	assert_int_equal(image_read(image, CLUSTER, bytes, 7, NULL), 0);
	assert_memory_equal(bytes, "beabove", 7);
	assert_int_equal(image_close(image), 0);
	base = open_image(NAME, &(struct image_options){0});
	assert_int_equal(image_read(base, CLUSTER, bytes, 7, NULL), 0);
	assert_memory_equal(bytes, "below\0\0", 7);
	assert_int_equal(image_close(base), 0);
}

/* Opens what is below an image that names `name` with that format. */
static int coroutine_fn open_below(const char *format, const struct image_options *options,
				   struct image **ret_below, struct file **ret_raw)
{
	struct create_params params = CREATE_DEFAULTS;
	const struct image_options alone = {.no_backing = true};
	struct image *above;
	int ret;

	params.backing_name = NAME;
	params.backing_format = format;
	file_close(format_file(OTHER_NAME, params));
	above = open_image(OTHER_NAME, &alone);
	ret = image_open_below(&host.opener, above, options, ret_below, ret_raw, NULL);
	assert_int_equal(image_close(above), 0);
	return ret;
}

HOST_TEST(test_image_below)
{
	struct create_params params = CREATE_DEFAULTS;
	struct image *below = NULL;
	struct file *raw;
	char bytes[5];

	assert_int_equal(image_close(make_image(NAME, params)), 0);
	assert_int_equal(
		open_below("qcow2", &(struct image_options){.writable = true}, &below, &raw), 0);
	assert_null(raw);
	assert_int_equal(image_write(below, 0, "below", 5), 0);
	assert_int_equal(image_close(below), 0);
	assert_int_equal(open_below("qcow2", &(struct image_options){0}, &below, &raw), 0);
	assert_null(raw);
	assert_false(image_info(below)->writable);
	assert_int_equal(image_read(below, 0, bytes, 5, NULL), 0);
	assert_memory_equal(bytes, "below", 5);
	assert_int_equal(image_close(below), 0);
}

/* A raw file to be written is the caller's. */
HOST_TEST(test_raw_file_below)
{
	struct image *below = NULL;
	struct file *raw;
	char byte;

	make_file(NAME, DISK_BYTES, 7);
	assert_int_equal(open_below("raw", &(struct image_options){.writable = true}, &below, &raw),
			 0);
	assert_null(below);
	assert_true(raw->writable);
	file_close(raw);
	assert_int_equal(open_below("raw", &(struct image_options){0}, &below, &raw), 0);
	assert_null(raw);
	assert_int_equal(image_read(below, 7, &byte, 1, NULL), 0);
	assert_int_equal(byte, 'x');
	assert_int_equal(image_close(below), 0);
	unlink(NAME);
	assert_int_equal(open_below("raw", &(struct image_options){0}, &below, &raw), -ENOENT);
	assert_null(raw);
}

/* What is no image does not become one; what was to be below stays the caller's. */
HOST_TEST(test_overlay_that_is_no_image)
{
	struct create_params params = CREATE_DEFAULTS;
	struct image *base, *image = NULL;
	struct error *error = NULL;
	char byte;

	assert_int_equal(image_close(make_image(NAME, params)), 0);
	base = open_image(NAME, &(struct image_options){0});
	assert_int_equal(
		image_open_overlay(&host.opener, open_file(OTHER_NAME), base, 0, &image, &error),
		-EINVAL);
	assert_non_null(error);
	error_free(error);
	assert_null(image);
	assert_int_equal(image_read(base, 0, &byte, 1, NULL), 0);
	assert_int_equal(image_close(base), 0);
}

struct follower {
	uint8_t *buf;
	size_t len_bytes;
	unsigned nb_calls;
};

static void take_data(void *arg, const void *data)
{
	struct follower *follower = arg;

	memcpy(follower->buf, data, follower->len_bytes);
	follower->nb_calls++;
}

/*
 * Whether a read of [off, off + len_bytes) was followed by its sequel; what either reads is in
 * `buf`.
 */
static bool coroutine_fn is_followed(struct image *image, uint64_t off, uint8_t *buf,
				     size_t len_bytes)
{
	struct follower follower = {.buf = buf, .len_bytes = len_bytes};
	struct io_sequel sequel = {.fn = take_data, .arg = &follower};
	struct read_pieces pieces;

	memset(buf, 'z', len_bytes);
	assert_int_equal(image_read_then(image, off, buf, len_bytes, &pieces, &sequel), 0);
	assert_int_equal(follower.nb_calls, sequel.ran);
	if (sequel.ran) {
		assert_int_equal(pieces.nb, 1);
		assert_ptr_equal(pieces.iov[0].iov_base, buf);
		assert_int_equal(pieces.iov[0].iov_len, len_bytes);
	}
	return sequel.ran;
}

/* What else an answer consists of, or waits for, the sequel does not know. */
HOST_TEST(test_sequel_of_one_run_of_data)
{
	struct create_params params = CREATE_DEFAULTS;
	struct image *image = make_image(NAME, params);
	uint8_t *buf = aligned_alloc(4096, 4 * CLUSTER), *bytes = disk_bytes();
	struct packer *packer;

	assert_non_null(buf);
	/* Two clusters in a row, one elsewhere, a hole, and a compressed one. */
	assert_int_equal(image_write(image, 5 * CLUSTER, bytes, CLUSTER), 0);
	assert_int_equal(image_write(image, 0, bytes, 2 * CLUSTER), 0);
	assert_int_equal(image_write(image, 2 * CLUSTER, bytes, CLUSTER), 0);
	assert_int_equal(packer_create(image, &packer), 0);
	assert_int_equal(packer_write(packer, 6 * CLUSTER, bytes, CLUSTER), 0);
	packer_destroy(packer);
	assert_int_equal(image_close(image), 0);

	image = open_image(NAME, &(struct image_options){0});
	assert_true(is_followed(image, 0, buf, 2 * CLUSTER));
	assert_memory_equal(buf, bytes, 2 * CLUSTER);
	assert_true(is_followed(image, 5 * CLUSTER + 4096, buf, CLUSTER - 4096));
	assert_memory_equal(buf, bytes + 4096, CLUSTER - 4096);
	assert_false(is_followed(image, 3 * CLUSTER, buf, CLUSTER));
	assert_false(is_followed(image, 2 * CLUSTER, buf, 2 * CLUSTER));
	assert_false(is_followed(image, 4 * CLUSTER, buf, 2 * CLUSTER));
	assert_false(is_followed(image, 5 * CLUSTER, buf, 2 * CLUSTER));
	assert_false(is_followed(image, 6 * CLUSTER, buf, CLUSTER));
	assert_memory_equal(buf, bytes, CLUSTER);
	assert_int_equal(image_close(image), 0);
	free(bytes);
	free(buf);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_workers_compress, setup, teardown),
		cmocka_unit_test_setup_teardown(test_holes_of_a_raw_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_holes_of_a_preallocated_image, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_overlay, setup, teardown),
		cmocka_unit_test_setup_teardown(test_image_below, setup, teardown),
		cmocka_unit_test_setup_teardown(test_raw_file_below, setup, teardown),
		cmocka_unit_test_setup_teardown(test_overlay_that_is_no_image, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sequel_of_one_run_of_data, setup, teardown),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
