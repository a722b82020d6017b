/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * compress: descriptors of all cluster sizes, streams that are good, odd or broken, and
 * the cache of inflated clusters.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/compress.h"

#include <zlib.h>
#ifndef NO_ZSTD
#include <zstd.h>
#endif

#define CLUSTER 4096u
#define NB 16u
#define HOST ((uint64_t)HAND_DATA * CLUSTER)

/* ---- descriptors ---- */

static uint64_t descriptor_of(unsigned cluster_bits, uint64_t host_off, uint64_t nb_sectors)
{
	return host_off | nb_sectors << (62 - (cluster_bits - 8));
}

static void test_descriptors(void **state)
{
	for (unsigned bits = CLUSTER_BITS_MIN; bits <= CLUSTER_BITS_MAX; bits++) {
		uint64_t max_off = (1ull << (62 - (bits - 8))) - 1;
		uint64_t max_sectors = (1ull << (bits - 8)) - 1;
		const uint64_t offsets[] = {0, 1, 511, 512, 513, 0x123456789a, max_off};
		const uint64_t sectors[] = {0, 1, max_sectors / 2, max_sectors};

		for (unsigned i = 0; i < NB_ELEMENTS(offsets); i++) {
			for (unsigned j = 0; j < NB_ELEMENTS(sectors); j++) {
				uint64_t host_off;
				uint32_t len_bytes;

				compress_decode_descriptor(
					bits, descriptor_of(bits, offsets[i], sectors[j]),
					&host_off, &len_bytes);
				assert_int_equal(host_off, offsets[i]);
				assert_int_equal(len_bytes,
						 (sectors[j] + 1) * 512 - offsets[i] % 512);
			}
		}
	}
}

/* ---- streams ---- */

static uint8_t *bytes;
static struct image *image;
static uint8_t plain[4 * CLUSTER]; /* of clusters that are stored */

/* Text-like: compresses to about a third. */
static void fill_plain(void)
{
	uint32_t x = 1;

	for (unsigned i = 0; i < sizeof(plain); i++) {
		x = x * 1103515245 + 12345;
		plain[i] = "etaoin shrdlu"[(x >> 16) % 6];
	}
}

static void fill_incompressible(void)
{
	for (unsigned i = 0; i < sizeof(plain); i++)
		plain[i] = mix64(i) >> 32;
}

/* Raw deflate of the first len_bytes of plain; returns the stream's length. */
static size_t deflate_at(uint8_t *to, int window_bits, size_t len_bytes)
{
	z_stream z = {0};
	size_t used;

	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = plain;
	z.avail_in = len_bytes;
	z.next_out = to;
	z.avail_out = 6 * CLUSTER;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	used = 6 * CLUSTER - z.avail_out;
	deflateEnd(&z);
	return used;
}

static void new_image(void)
{
	bytes = hand_image("a", 3, 12, HAND_DATA + 8, NB * CLUSTER);
	fill_plain();
}

/* Guest cluster `index` is compressed into [host_off, host_off + len_bytes). */
static void set_compressed(unsigned index, uint64_t host_off, size_t len_bytes)
{
	uint64_t nb_sectors = (host_off % 512 + len_bytes + 511) / 512 - 1;

	hand_set_l2(bytes, index, L2_COMPRESSED | descriptor_of(12, host_off, nb_sectors));
}

static void coroutine_fn expect_plain(unsigned index)
{
	uint8_t buf[CLUSTER];

	memset(buf, 0xee, sizeof(buf));
	assert_int_equal(image_read(image, (uint64_t)index * CLUSTER, buf, CLUSTER, NULL), 0);
	assert_memory_equal(buf, plain, CLUSTER);
}

static void coroutine_fn expect_eio(unsigned index)
{
	uint8_t buf[CLUSTER];

	assert_int_equal(image_read(image, (uint64_t)index * CLUSTER, buf, CLUSTER, NULL), -EIO);
}

static void coroutine_fn open_image(void)
{
	image = hand_open("a", &(struct image_options){0});
}

static void coroutine_fn close_image(void)
{
	assert_int_equal(image_close(image), 0);
}

/* At an odd offset, across the border of two host clusters, and part of it asked for. */
CO_TEST(test_deflate)
{
	uint64_t host_off = HOST + CLUSTER - 333;
	uint8_t buf[100];

	new_image();
	set_compressed(2, host_off, deflate_at(bytes + host_off, -12, CLUSTER));
	open_image();
	expect_plain(2);
	assert_int_equal(image_read(image, 2 * CLUSTER + 777, buf, sizeof(buf), NULL), 0);
	assert_memory_equal(buf, plain + 777, sizeof(buf));
	close_image();
}

CO_TEST(test_bytes_behind_the_stream)
{
	size_t len;

	new_image();
	len = deflate_at(bytes + HOST, -12, CLUSTER);
	memset(bytes + HOST + len, 0xff, CLUSTER);
	set_compressed(0, HOST, len);
	set_compressed(1, HOST, len + 1024); /* and sectors that it does not need */
	open_image();
	expect_plain(0);
	expect_plain(1);
	close_image();
}

/* The cluster is full before the stream ends. */
CO_TEST(test_stream_of_more_than_a_cluster)
{
	new_image();
	set_compressed(0, HOST, deflate_at(bytes + HOST, -12, 2 * CLUSTER));
	open_image();
	expect_plain(0);
	close_image();
}

CO_TEST(test_stream_of_less_than_a_cluster)
{
	new_image();
	set_compressed(0, HOST, deflate_at(bytes + HOST, -12, CLUSTER - 1));
	open_image();
	expect_eio(0);
	close_image();
}

/* The descriptor is a sector short; the cluster beside it is read all the same. */
CO_TEST(test_truncated_stream)
{
	uint64_t good = HOST + 4 * CLUSTER;
	size_t len;

	new_image();
	len = deflate_at(bytes + HOST, -12, CLUSTER);
	assert_true(len > 1024);
	set_compressed(0, HOST, len - 512);
	set_compressed(1, good, deflate_at(bytes + good, -12, CLUSTER));
	open_image();
	expect_eio(0);
	expect_plain(1);
	close_image();
}

/* The file ends within the last sector of the stream, at its last byte. */
CO_TEST(test_stream_at_the_end_of_the_file)
{
	size_t len;

	new_image();
	len = deflate_at(bytes + HOST, -12, CLUSTER);
	set_compressed(0, HOST, len);
	sim_bytes_resize(&hand.disk->files[0].bytes, HOST + len);
	open_image();
	expect_plain(0);
	close_image();
}

/* Zeros in the place of what the file does not hold would be decoded, to anything. */
CO_TEST(test_stream_cut_off_by_the_end_of_the_file)
{
	size_t len;

	new_image();
	len = deflate_at(bytes + HOST, -12, CLUSTER);
	set_compressed(0, HOST, len);
	sim_bytes_resize(&hand.disk->files[0].bytes, HOST + len / 2);
	open_image();
	expect_eio(0);
	close_image();
}

CO_TEST(test_incompressible_stream)
{
	size_t len;

	new_image();
	fill_incompressible();
	len = deflate_at(bytes + HOST, -12, CLUSTER);
	assert_true(len > CLUSTER);
	set_compressed(0, HOST, len);
	open_image();
	expect_plain(0);
	close_image();
}

/* zlib's own header is no part of the format. */
CO_TEST(test_stream_with_a_zlib_header)
{
	new_image();
	set_compressed(0, HOST, deflate_at(bytes + HOST, 12, CLUSTER));
	open_image();
	expect_eio(0);
	close_image();
}

CO_TEST(test_garbage)
{
	new_image();
	fill_incompressible();
	memcpy(bytes + HOST, plain, CLUSTER);
	set_compressed(0, HOST, CLUSTER);
	set_compressed(1, HOST + 2 * CLUSTER, 512); /* zeros */
	set_compressed(2, 1ull << 40, CLUSTER);     /* beyond the end of the file */
	set_compressed(3, 0, CLUSTER);              /* the header */
	open_image();
	for (unsigned i = 0; i < 4; i++)
		expect_eio(i);
	close_image();
}

CO_TEST(test_read_error)
{
	uint8_t buf[512];

	new_image();
	set_compressed(0, HOST, deflate_at(bytes + HOST, -12, CLUSTER));
	open_image();
	/* The table is cached from here on. */
	assert_int_equal(image_read(image, CLUSTER, buf, sizeof(buf), NULL), 0);
	hand.disk->fault = (struct sim_fault){.at = hand.disk->nb_requests, .count = 1, .err = EIO};
	expect_eio(0);
	expect_plain(0);
	close_image();
}

/* ---- zstd ---- */

#ifndef NO_ZSTD
static void new_zstd_image(void)
{
	new_image();
	be64_put(HAND_FIELD(bytes, incompatible_features), INCOMPAT_COMPRESSION);
	*HAND_FIELD(bytes, compression_type) = COMPRESSION_ZSTD;
}

static size_t zstd_at(uint8_t *to, const uint8_t *from, size_t len_bytes)
{
	size_t used = ZSTD_compress(to, 2 * CLUSTER, from, len_bytes, 3);

	assert_false(ZSTD_isError(used));
	return used;
}

CO_TEST(test_zstd)
{
	new_zstd_image();
	set_compressed(0, HOST + 77, zstd_at(bytes + HOST + 77, plain, CLUSTER));
	open_image();
	assert_true(image_info(image)->zstd);
	expect_plain(0);
	close_image();
}

CO_TEST(test_zstd_several_frames)
{
	uint64_t at = HOST;

	new_zstd_image();
	at += zstd_at(bytes + at, plain, 1000);
	at += zstd_at(bytes + at, plain + 1000, 0);
	at += zstd_at(bytes + at, plain + 1000, 3000);
	at += zstd_at(bytes + at, plain + 4000, CLUSTER - 4000);
	memset(bytes + at, 0xff, CLUSTER);
	set_compressed(0, HOST, at - HOST);
	open_image();
	expect_plain(0);
	close_image();
}

CO_TEST(test_zstd_frame_of_more_than_a_cluster)
{
	uint64_t at = HOST;

	new_zstd_image();
	set_compressed(0, HOST, zstd_at(bytes + HOST, plain, 3 * CLUSTER));
	/* The last of several, too. */
	at = HOST + 4 * CLUSTER;
	at += zstd_at(bytes + at, plain, 1000);
	at += zstd_at(bytes + at, plain + 1000, 2 * CLUSTER);
	set_compressed(1, HOST + 4 * CLUSTER, at - (HOST + 4 * CLUSTER));
	open_image();
	expect_plain(0);
	expect_plain(1);
	close_image();
}

/* All of the data is there when the file ends, and the check that it is right is not. */
CO_TEST(test_zstd_check_cut_off_by_the_end_of_the_file)
{
	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	size_t len;

	assert_non_null(zstd);
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
	new_zstd_image();
	len = ZSTD_compress2(zstd, bytes + HOST, 2 * CLUSTER, plain, CLUSTER);
	assert_false(ZSTD_isError(len));
	set_compressed(0, HOST, len);
	for (unsigned cut_bytes = 0; cut_bytes <= 4; cut_bytes++) {
		sim_bytes_resize(&hand.disk->files[0].bytes, HOST + len - cut_bytes);
		open_image();
		if (cut_bytes)
			expect_eio(0);
		else
			expect_plain(0);
		close_image();
	}
	ZSTD_freeCCtx(zstd);
}

CO_TEST(test_zstd_damage)
{
	size_t len;

	new_zstd_image();
	len = zstd_at(bytes + HOST, plain, CLUSTER);
	assert_true(len > 1024);
	set_compressed(0, HOST, len - 512); /* truncated */
	len = zstd_at(bytes + HOST + 2 * CLUSTER, plain, CLUSTER - 1);
	set_compressed(1, HOST + 2 * CLUSTER, len); /* too little */
	set_compressed(2, HOST + 6 * CLUSTER, 512); /* zeros */
	deflate_at(bytes + HOST + 4 * CLUSTER, -12, CLUSTER);
	set_compressed(3, HOST + 4 * CLUSTER, CLUSTER); /* the other type */
	open_image();
	for (unsigned i = 0; i < 4; i++)
		expect_eio(i);
	close_image();
}
#endif

/* ---- the cache ---- */

/* Three guest clusters in one host cluster each; the same contents. */
static void coroutine_fn open_three(unsigned nb_kept)
{
	new_image();
	for (unsigned i = 0; i < 3; i++) {
		uint64_t at = HOST + 2 * i * CLUSTER;

		set_compressed(i, at, deflate_at(bytes + at, -12, CLUSTER));
	}
	open_image();
	image->inflate.nb_max = nb_kept;
}

struct reader {
	struct task task;
	unsigned index;
	int result;
	bool ended;
	uint8_t buf[CLUSTER];
};

static void coroutine_fn reader_run(void *arg)
{
	struct reader *reader = arg;

	reader->result =
		image_read(image, (uint64_t)reader->index * CLUSTER, reader->buf, CLUSTER, NULL);
	reader->ended = true;
}

/* Reads `index` in two coroutines at once. */
static void coroutine_fn read_twice(unsigned index, struct reader readers[2])
{
	for (unsigned i = 0; i < 2; i++) {
		memset(&readers[i], 0, sizeof(readers[i]));
		readers[i].index = index;
		readers[i].task = (struct task){.fn = reader_run, .arg = &readers[i]};
		reactor_spawn(hand.reactor, &readers[i].task);
	}
	while (!readers[0].ended || !readers[1].ended)
		co_sleep(1000);
}

CO_TEST(test_two_requests_inflate_once)
{
	struct reader readers[2];

	open_three(4);
	read_twice(0, readers);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(readers[i].result, 0);
		assert_memory_equal(readers[i].buf, plain, CLUSTER);
	}
	assert_int_equal(image->stats.nb_inflated, 1);
	assert_int_equal(image->stats.nb_inflate_hits, 1);
	close_image();
}

/* Both learn of the damage; nothing of it is kept. */
CO_TEST(test_two_requests_for_garbage)
{
	struct reader readers[2];

	open_three(4);
	memset(bytes + HOST, 0xff, CLUSTER);
	read_twice(0, readers);
	assert_int_equal(readers[0].result, -EIO);
	assert_int_equal(readers[1].result, -EIO);
	assert_int_equal(image->inflate.nb, 0);
	expect_eio(0);
	close_image();
}

CO_TEST(test_cache_of_two)
{
	open_three(2);
	expect_plain(0);
	expect_plain(1);
	expect_plain(0);
	assert_int_equal(image->stats.nb_inflated, 2);
	expect_plain(2); /* in the place of 1, which is older */
	expect_plain(0);
	assert_int_equal(image->stats.nb_inflated, 3);
	expect_plain(1);
	assert_int_equal(image->stats.nb_inflated, 4);
	assert_int_equal(image->inflate.nb, 2);
	close_image();
}

/* A read of more clusters than may be kept holds them while it needs them, and no longer. */
CO_TEST(test_cache_smaller_than_a_request)
{
	static uint8_t buf[3 * CLUSTER];

	for (unsigned nb_kept = 0; nb_kept < 2; nb_kept++) {
		open_three(nb_kept);
		assert_int_equal(image_read(image, 0, buf, sizeof(buf), NULL), 0);
		for (unsigned i = 0; i < 3; i++)
			assert_memory_equal(buf + i * CLUSTER, plain, CLUSTER);
		assert_int_equal(image->inflate.nb, nb_kept);
		close_image();
		sim_disk_reset(hand.disk);
	}
}

CO_TEST(test_trim)
{
	open_three(4);
	expect_plain(0);
	expect_plain(1);
	assert_int_equal(image->inflate.nb, 2);
	inflate_cache_trim(&image->inflate);
	assert_int_equal(image->inflate.nb, 0);
	assert_null(image->inflate.codecs);
	expect_plain(0);
	assert_int_equal(image->stats.nb_inflated, 3);
	close_image();
}

/* The host clusters have been freed: what is read next is what stands there now. */
CO_TEST(test_forget)
{
	open_three(4);
	expect_plain(0);
	expect_plain(1);
	inflate_cache_forget(&image->inflate, be64_get(bytes + HAND_L2 * CLUSTER) & ~L2_COMPRESSED);
	plain[0] ^= 1;
	deflate_at(bytes + HOST, -12, CLUSTER);
	expect_plain(0);
	plain[0] ^= 1;
	expect_plain(1);
	assert_int_equal(image->stats.nb_inflated, 3);
	close_image();
}

/* ---- read ahead ---- */

/* Eight guest clusters, compressed but for cluster 5; read ahead as if there were workers. */
static void coroutine_fn open_eight(void)
{
	new_image();
	for (unsigned i = 0; i < 8; i++) {
		uint64_t at = HOST + (uint64_t)i * CLUSTER;

		if (i == 5) {
			memcpy(bytes + at, plain, CLUSTER);
			hand_set_l2(bytes, i, at | ENTRY_COPIED);
		} else {
			set_compressed(i, at, deflate_at(bytes + at, -12, CLUSTER));
		}
	}
	open_image();
	image->ahead.nb_workers = 3;
}

/* After everything that has been begun: how many clusters have been inflated. */
static unsigned coroutine_fn count_inflated(void)
{
	do
		co_sleep(1000000);
	while (image->ahead.running);
	return image->stats.nb_inflated;
}

/* Small pieces: two clusters beyond the one that is read, once the second one is. */
CO_TEST(test_sequential_reader)
{
	uint8_t buf[CLUSTER / 4];

	open_eight();
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(image_read(image, i * sizeof(buf), buf, sizeof(buf), NULL), 0);
		assert_int_equal(count_inflated(), 1);
	}
	for (unsigned i = 4; i < 4 * 4; i++) {
		assert_int_equal(image_read(image, i * sizeof(buf), buf, sizeof(buf), NULL), 0);
		assert_memory_equal(buf, plain + i % 4 * sizeof(buf), sizeof(buf));
		/* Cluster 5 is as it is: no more than 4 are to be inflated up to there. */
		assert_int_equal(count_inflated(), i < 8 ? 4 : 5);
	}
	assert_int_equal(image->stats.nb_reads, 16);
	expect_plain(4);
	assert_int_equal(count_inflated(), 6);
	close_image();
}

/* Where two CPUs are all, only who reads whole clusters has some read ahead. */
CO_TEST(test_sequential_reader_with_two_workers)
{
	uint8_t buf[CLUSTER / 2];

	open_eight();
	image->ahead.nb_workers = 2;
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(image_read(image, i * sizeof(buf), buf, sizeof(buf), NULL), 0);
	assert_int_equal(count_inflated(), 2);
	expect_plain(2);
	assert_int_equal(count_inflated(), 5);
	close_image();
}

/* A request of several clusters has as many read ahead. */
CO_TEST(test_sequential_reader_of_large_pieces)
{
	static uint8_t buf[3 * CLUSTER];

	open_eight();
	assert_int_equal(image_read(image, 0, buf, 2 * CLUSTER, NULL), 0);
	assert_int_equal(count_inflated(), 2);
	assert_int_equal(image_read(image, 2 * CLUSTER, buf, sizeof(buf), NULL), 0);
	assert_int_equal(count_inflated(), 7);
	close_image();
}

/* Nothing is read ahead of readers that go back, or jump about. */
CO_TEST(test_random_reader)
{
	static const unsigned order[] = {7, 4, 1, 6, 3, 0};
	unsigned nb = 0;

	open_eight();
	for (unsigned i = 0; i < NB_ELEMENTS(order); i++) {
		expect_plain(order[i]);
		assert_int_equal(count_inflated(), ++nb);
	}
	close_image();
}

/* Three readers in turns are told apart. */
CO_TEST(test_sequential_readers)
{
	open_eight();
	expect_plain(0);
	expect_plain(3);
	expect_plain(6);
	expect_plain(1);
	assert_int_equal(count_inflated(), 5); /* 2 besides; 3 is there */
	expect_plain(4);
	expect_plain(7);
	assert_int_equal(count_inflated(), 7);
	close_image();
}

/* Failures are of no account. */
CO_TEST(test_read_ahead_fails)
{
	open_eight();
	expect_plain(0);
	expect_plain(1);
	hand.disk->fault = (struct sim_fault){.at = hand.disk->nb_requests, .count = 2, .err = EIO};
	assert_int_equal(count_inflated(), 4);
	expect_plain(2);
	assert_int_equal(image->stats.nb_inflate_hits, 0);
	close_image();
}

CO_TEST(test_closing_waits_for_what_is_read_ahead)
{
	open_eight();
	expect_plain(0);
	expect_plain(1);
	assert_true(image->ahead.running);
	close_image();
	assert_int_equal(reactor_nb_coroutines(hand.reactor), 1);
}

static void coroutine_fn close_run(void *arg)
{
	close_image();
	/* This one, and the test's own. */
	*(unsigned *)arg = reactor_nb_coroutines(hand.reactor) - 2;
}

/* A request under way that ends meanwhile begins nothing more. */
CO_TEST(test_nothing_is_read_ahead_beside_closing)
{
	unsigned nb_left = UINT_MAX;
	struct task closer = {.fn = close_run, .arg = &nb_left};

	open_eight();
	expect_plain(0);
	reactor_spawn(hand.reactor, &closer); /* runs while this one waits for the disk */
	expect_plain(1);
	co_sleep(1000000);
	assert_int_equal(nb_left, 0);
}

/* Where others use the cache, what is read ahead would not stay in it. */
CO_TEST(test_no_room_to_read_ahead)
{
	open_eight();
	image->inflate.nb_max = 2;
	image->inflate.nb_used = 1;
	expect_plain(0);
	expect_plain(1);
	assert_int_equal(count_inflated(), 2);
	image->inflate.nb_used = 0;
	expect_plain(2);
	assert_int_equal(count_inflated(), 4);
	close_image();
}

/* Where requests use up all stacks, closing would wait for a stack of what is read ahead. */
CO_TEST(test_no_stack_to_read_ahead)
{
	struct hand_crowd crowd;

	open_eight();
	expect_plain(0);
	hand_crowd_begin(&crowd);
	expect_plain(1);
	assert_int_equal(count_inflated(), 2);
	close_image();
	hand_crowd_end(&crowd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_descriptors),
		HAND_TEST(test_deflate),
		HAND_TEST(test_bytes_behind_the_stream),
		HAND_TEST(test_stream_of_more_than_a_cluster),
		HAND_TEST(test_stream_of_less_than_a_cluster),
		HAND_TEST(test_truncated_stream),
		HAND_TEST(test_stream_at_the_end_of_the_file),
		HAND_TEST(test_stream_cut_off_by_the_end_of_the_file),
		HAND_TEST(test_incompressible_stream),
		HAND_TEST(test_stream_with_a_zlib_header),
		HAND_TEST(test_garbage),
		HAND_TEST(test_read_error),
#ifndef NO_ZSTD
		HAND_TEST(test_zstd),
		HAND_TEST(test_zstd_several_frames),
		HAND_TEST(test_zstd_frame_of_more_than_a_cluster),
		HAND_TEST(test_zstd_check_cut_off_by_the_end_of_the_file),
		HAND_TEST(test_zstd_damage),
#endif
		HAND_TEST(test_two_requests_inflate_once),
		HAND_TEST(test_two_requests_for_garbage),
		HAND_TEST(test_cache_of_two),
		HAND_TEST(test_cache_smaller_than_a_request),
		HAND_TEST(test_trim),
		HAND_TEST(test_forget),
		HAND_TEST(test_sequential_reader),
		HAND_TEST(test_sequential_reader_with_two_workers),
		HAND_TEST(test_sequential_reader_of_large_pieces),
		HAND_TEST(test_random_reader),
		HAND_TEST(test_sequential_readers),
		HAND_TEST(test_read_ahead_fails),
		HAND_TEST(test_closing_waits_for_what_is_read_ahead),
		HAND_TEST(test_nothing_is_read_ahead_beside_closing),
		HAND_TEST(test_no_room_to_read_ahead),
		HAND_TEST(test_no_stack_to_read_ahead),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
