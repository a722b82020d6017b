/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cache: who reads a slice, who waits for it, who has to go. Caches here hold two slices
 * unless a test says otherwise; a slice is a sector filled with its number.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/cache.h"

#define SLICE 512u

static struct file *file;
static struct cache cache;
static unsigned nb_cleaned;
static int clean_result;

static void cache_open(unsigned nb_slices)
{
	struct sim_file *sim = sim_add_file(hand.disk, "a", NULL, 0, false);

	sim_bytes_resize(&sim->bytes, 64 * SLICE);
	for (unsigned i = 0; i < 64; i++)
		memset(sim->bytes.data + i * SLICE, (int)i, SLICE);
	file = hand_open_file("a");
	assert_int_equal(cache_init(&cache, file, SLICE, (uint64_t)nb_slices * SLICE), 0);
	nb_cleaned = 0;
	clean_result = 0;
}

static void cache_close(void)
{
	cache_finish(&cache);
	file_close(file);
}

static struct slice *coroutine_fn get(unsigned number)
{
	struct slice *slice = NULL;

	assert_int_equal(cache_get(&cache, (uint64_t)number * SLICE, IO_TAG_L2, &slice), 0);
	return slice;
}

/* Gets it, and says whether it had to be read. */
static bool coroutine_fn touch_reads(unsigned number)
{
	uint64_t nb_reads = file->stats.nb_reads;

	cache_put(&cache, get(number));
	return file->stats.nb_reads > nb_reads;
}

static void coroutine_fn dirty(unsigned number)
{
	struct slice *slice = get(number);

	slice->data[0] = 0xdd;
	cache_mark_dirty(&cache, slice);
	cache_put(&cache, slice);
}

/* What a flush would do, without the storing. */
static int coroutine_fn clean_all(void *ctx)
{
	nb_cleaned++;
	while (!clean_result && cache.dirty[IO_TAG_L2])
		cache_mark_clean(&cache, cache.dirty[IO_TAG_L2]);
	return clean_result;
}

/* A second coroutine that gets a slice, keeps it as long as it is told, and puts it. */
struct getter {
	struct task task;
	unsigned number;
	int result;
	struct slice *slice;
	bool got, keep, ended;
};

static void coroutine_fn getter_run(void *arg)
{
	struct getter *getter = arg;

	getter->result =
		cache_get(&cache, (uint64_t)getter->number * SLICE, IO_TAG_L2, &getter->slice);
	getter->got = true;
	while (getter->keep)
		co_sleep(1000);
	if (!getter->result)
		cache_put(&cache, getter->slice);
	getter->ended = true;
}

static void getter_start(struct getter *getter, unsigned number, bool keep)
{
	*getter = (struct getter){
		.task = {.fn = getter_run, .arg = getter}, .number = number, .keep = keep};
	reactor_spawn(hand.reactor, &getter->task);
}

static void coroutine_fn getter_join(struct getter *getter)
{
	getter->keep = false;
	while (!getter->ended)
		co_sleep(1000);
}

/* ---- misses ---- */

CO_TEST(test_one_read_for_two_waiters)
{
	struct getter a, b;

	cache_open(2);
	getter_start(&a, 5, true);
	getter_start(&b, 5, true);
	while (!a.got || !b.got)
		co_sleep(1000);
	assert_ptr_equal(a.slice, b.slice);
	assert_int_equal(a.slice->data[0], 5);
	assert_int_equal(a.slice->pins, 2);
	assert_int_equal(file->stats.nb_reads, 1);
	assert_int_equal(cache.misses, 1);
	assert_int_equal(cache.hits, 1);
	getter_join(&a);
	getter_join(&b);
	cache_close();
}

static unsigned max_in_flight;

static void count_in_flight(void *ctx, const struct io_req *req, bool faulted)
{
	if (hand.disk->nb_pending > max_in_flight)
		max_in_flight = hand.disk->nb_pending;
}

CO_TEST(test_misses_load_in_parallel)
{
	struct getter a, b, c;

	cache_open(4);
	max_in_flight = 0;
	hand.disk->on_submit = count_in_flight;
	getter_start(&a, 1, true);
	getter_start(&b, 2, true);
	getter_start(&c, 3, true);
	getter_join(&a);
	getter_join(&b);
	getter_join(&c);
	hand.disk->on_submit = NULL;
	assert_int_equal(max_in_flight, 3);
	cache_close();
}

/* The one who reads gets the error, the one who waited reads again. */
CO_TEST(test_failed_load_wakes_waiters_who_retry)
{
	struct getter a, b;

	cache_open(2);
	hand.disk->fault = (struct sim_fault){.at = 0, .count = 1, .err = EIO};
	getter_start(&a, 7, false);
	getter_start(&b, 7, false);
	getter_join(&a);
	getter_join(&b);
	assert_int_equal(a.result + b.result, -EIO);
	assert_int_equal(file->stats.nb_reads, 2);
	assert_false(touch_reads(7));
	cache_close();
}

CO_TEST(test_failed_load_leaves_nothing)
{
	struct slice *slice = NULL;

	cache_open(2);
	hand.disk->fault = (struct sim_fault){.at = 0, .count = 1, .err = EIO};
	assert_int_equal(cache_get(&cache, 0, IO_TAG_L2, &slice), -EIO);
	assert_null(slice);
	assert_true(touch_reads(0));
	cache_close();
}

/* ---- neighbours ---- */

/* Gets a slice of a table of slices 9 to 23, and says how many bytes were read for it. */
static uint64_t coroutine_fn near_reads(unsigned number)
{
	struct cache_near near = {.start = 9 * SLICE, .end = 24 * SLICE};
	uint64_t bytes = file->stats.read_bytes;
	struct slice *slice = NULL;

	assert_int_equal(cache_get_near(&cache, (uint64_t)number * SLICE, IO_TAG_L2, &near, &slice),
			 0);
	assert_int_equal(slice->data[SLICE - 1], number);
	cache_put(&cache, slice);
	return file->stats.read_bytes - bytes;
}

/* One read for a group of eight, as far as the table goes. */
CO_TEST(test_neighbours_come_along)
{
	cache_open(40);
	assert_int_equal(near_reads(12), 7 * SLICE);
	assert_int_equal(file->stats.nb_reads, 1);
	for (unsigned i = 9; i < 16; i++) {
		struct slice *slice = cache_get_loaded(&cache, i * SLICE);

		assert_non_null(slice);
		assert_int_equal(slice->data[0], i);
		assert_int_equal(slice->pins, 1);
		cache_put(&cache, slice);
	}
	assert_null(cache_get_loaded(&cache, 8 * SLICE));
	assert_null(cache_get_loaded(&cache, 16 * SLICE));
	assert_int_equal(near_reads(23), 8 * SLICE);
	assert_int_equal(near_reads(16), 0);
	assert_int_equal(cache.misses, 2);
	cache_close();
}

/* What is there stays as it is, though it differs from the file. */
CO_TEST(test_neighbours_end_at_what_is_there)
{
	struct slice *slice;

	cache_open(40);
	dirty(14);
	assert_int_equal(near_reads(12), 5 * SLICE);
	slice = get(14);
	assert_int_equal(slice->data[0], 0xdd);
	assert_true(slice->dirty);
	cache_mark_clean(&cache, slice);
	cache_put(&cache, slice);
	assert_int_equal(near_reads(15), SLICE);
	cache_close();
}

/* They are read into memory that is free, and never in the place of another slice. */
CO_TEST(test_neighbours_evict_nobody)
{
	cache_open(3);
	assert_true(touch_reads(1));
	assert_int_equal(near_reads(12), 2 * SLICE);
	assert_false(touch_reads(1));
	assert_int_equal(near_reads(20), SLICE);
	assert_int_equal(cache.nb_slices, 3);
	cache_close();
}

/* What waits for a neighbour gets it; a copy in memory is not worth reading ahead. */
CO_TEST(test_neighbour_is_waited_for)
{
	struct getter getter;

	cache_open(40);
	getter_start(&getter, 13, false);
	assert_int_equal(near_reads(12), 7 * SLICE);
	getter_join(&getter);
	assert_int_equal(getter.result, 0);
	assert_int_equal(file->stats.nb_reads, 1);
	file->path = FILE_MEMORY;
	assert_int_equal(near_reads(20), SLICE);
	cache_close();
}

/* A read that fails for the group is made again for the one that is wanted. */
CO_TEST(test_neighbours_do_no_harm)
{
	cache_open(40);
	hand.disk->fault = (struct sim_fault){.at = 0, .count = 1, .err = EIO};
	assert_int_equal(near_reads(12), 8 * SLICE);
	assert_int_equal(file->stats.nb_reads, 2);
	assert_null(cache_get_loaded(&cache, 13 * SLICE));
	assert_int_equal(near_reads(13), 3 * SLICE);
	cache_close();
}

/* ---- eviction ---- */

CO_TEST(test_least_recently_used_goes)
{
	cache_open(2);
	assert_true(touch_reads(1));
	assert_true(touch_reads(2));
	assert_false(touch_reads(1));
	assert_true(touch_reads(3));
	assert_false(touch_reads(1));
	assert_true(touch_reads(2));
	assert_int_equal(cache.nb_slices, 2);
	cache_close();
}

CO_TEST(test_pinned_stays)
{
	struct slice *slice;

	cache_open(2);
	slice = get(1);
	for (unsigned i = 2; i < 10; i++)
		touch_reads(i);
	assert_int_equal(slice->data[0], 1);
	assert_false(touch_reads(1));
	cache_put(&cache, slice);
	cache_close();
}

/* As long as a clean one can go, nobody is asked to write anything back. */
CO_TEST(test_dirty_stays)
{
	struct slice *slice;

	cache_open(2);
	cache.make_clean = clean_all;
	dirty(1);
	for (unsigned i = 2; i < 10; i++)
		touch_reads(i);
	assert_int_equal(nb_cleaned, 0);
	assert_false(touch_reads(1));
	slice = get(1);
	assert_int_equal(slice->data[0], 0xdd);
	assert_true(slice->dirty);
	cache_put(&cache, slice);
	cache_close();
}

CO_TEST(test_being_stored_stays)
{
	struct slice *slice;

	cache_open(2);
	dirty(1);
	slice = get(1);
	cache_begin_store(&cache, slice);
	cache_put(&cache, slice);
	assert_false(slice->dirty);
	for (unsigned i = 2; i < 10; i++)
		touch_reads(i);
	assert_false(touch_reads(1));
	cache_end_store(&cache, slice);
	touch_reads(2);
	touch_reads(3);
	assert_true(touch_reads(1));
	cache_close();
}

CO_TEST(test_make_clean_when_all_are_dirty)
{
	cache_open(2);
	cache.make_clean = clean_all;
	dirty(1);
	dirty(2);
	assert_int_equal(cache.nb_dirty, 2);
	assert_true(touch_reads(3));
	assert_int_equal(nb_cleaned, 1);
	assert_int_equal(cache.nb_dirty, 0);
	cache_close();
}

CO_TEST(test_make_clean_fails)
{
	struct slice *slice = NULL;

	cache_open(2);
	cache.make_clean = clean_all;
	clean_result = -ENOSPC;
	dirty(1);
	dirty(2);
	assert_int_equal(cache_get(&cache, 3 * SLICE, IO_TAG_L2, &slice), -ENOSPC);
	assert_false(touch_reads(1));
	assert_int_equal(cache.nb_dirty, 2);
	cache_close();
}

CO_TEST(test_waits_for_a_pin)
{
	struct slice *a, *b;
	struct getter getter;

	cache_open(2);
	a = get(1);
	b = get(2);
	getter_start(&getter, 3, false);
	co_sleep(1000000);
	assert_false(getter.got);
	cache_put(&cache, a);
	getter_join(&getter);
	assert_int_equal(getter.result, 0);
	cache_put(&cache, b);
	assert_false(touch_reads(2));
	cache_close();
}

/* ---- giving up slices ---- */

CO_TEST(test_forget)
{
	cache_open(8);
	touch_reads(1);
	dirty(2);
	touch_reads(3);
	touch_reads(4);
	cache_forget(&cache, 2 * SLICE, 2 * SLICE);
	assert_int_equal(cache.nb_dirty, 0);
	assert_false(touch_reads(1));
	assert_true(touch_reads(2));
	assert_true(touch_reads(3));
	assert_false(touch_reads(4));
	cache_close();
}

CO_TEST(test_trim_gives_memory_back)
{
	cache_open(40);
	for (unsigned i = 0; i < 40; i++)
		touch_reads(i);
	assert_int_equal(cache.nb_slices, 40);
	cache_trim(&cache);
	assert_int_equal(cache.nb_slices, 0);
	assert_null(cache.chunks);
	assert_true(touch_reads(0));
	cache_close();
}

/* A dirty and a pinned slice keep their chunks; the others of those are free again. */
CO_TEST(test_trim_keeps_what_is_needed)
{
	struct slice *pinned;

	cache_open(48);
	for (unsigned i = 0; i < 48; i++)
		touch_reads(i);
	dirty(0);
	pinned = get(1);
	cache_trim(&cache);
	assert_true(cache.nb_slices == 16 || cache.nb_slices == 32);
	assert_int_equal(pinned->data[0], 1);
	assert_false(touch_reads(0));
	assert_true(touch_reads(2));
	for (unsigned i = 2; i < 48; i++)
		touch_reads(i);
	assert_int_equal(cache.nb_slices, 48);
	assert_int_equal(pinned->data[0], 1);
	cache_put(&cache, pinned);
	cache_close();
}

CO_TEST(test_dirty_lists_by_tag)
{
	struct slice *l1, *l2;

	cache_open(4);
	assert_int_equal(cache_get(&cache, 0, IO_TAG_L1, &l1), 0);
	l2 = get(1);
	cache_mark_dirty(&cache, l1);
	cache_mark_dirty(&cache, l2);
	cache_mark_dirty(&cache, l2);
	assert_int_equal(cache.nb_dirty, 2);
	assert_ptr_equal(cache.dirty[IO_TAG_L1], l1);
	assert_ptr_equal(cache.dirty[IO_TAG_L2], l2);
	cache_mark_clean(&cache, l2);
	assert_null(cache.dirty[IO_TAG_L2]);
	assert_int_equal(cache.nb_dirty, 1);
	cache_put(&cache, l1);
	cache_put(&cache, l2);
	cache_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_TEST(test_one_read_for_two_waiters),
		HAND_TEST(test_misses_load_in_parallel),
		HAND_TEST(test_failed_load_wakes_waiters_who_retry),
		HAND_TEST(test_failed_load_leaves_nothing),
		HAND_TEST(test_neighbours_come_along),
		HAND_TEST(test_neighbours_end_at_what_is_there),
		HAND_TEST(test_neighbours_evict_nobody),
		HAND_TEST(test_neighbour_is_waited_for),
		HAND_TEST(test_neighbours_do_no_harm),
		HAND_TEST(test_least_recently_used_goes),
		HAND_TEST(test_pinned_stays),
		HAND_TEST(test_dirty_stays),
		HAND_TEST(test_being_stored_stays),
		HAND_TEST(test_make_clean_when_all_are_dirty),
		HAND_TEST(test_make_clean_fails),
		HAND_TEST(test_waits_for_a_pin),
		HAND_TEST(test_forget),
		HAND_TEST(test_trim_gives_memory_back),
		HAND_TEST(test_trim_keeps_what_is_needed),
		HAND_TEST(test_dirty_lists_by_tag),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
