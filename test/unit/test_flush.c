/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * flush: rule I10 read off the log of the simulated disk: what is stored, in which
 * order, with a barrier between any two steps and none where nothing is stored; and
 * what a failure leaves behind. Crash states are the explorer's business.
 */
#include "test/sim/disk.h"
#include "test/unit/hand_image.h"

#include "core/flush.h"

#define CLUSTER 512ull
#define NB 64u /* guest clusters of one L2 table */

static struct image *image;
static uint8_t data[4 * CLUSTER];

/* Two L1 entries, of which the second has no L2 table. */
static uint8_t *new_image(void)
{
	uint8_t *bytes = hand_image("a", 3, 9, HAND_DATA + 3, 2 * NB * CLUSTER);

	be32_put(HAND_FIELD(bytes, l1_size), 2);
	return bytes;
}

/* Without write-back in the background: what there is to store waits for the test's flush. */
static void coroutine_fn open_image(void)
{
	image = hand_open("a", &(struct image_options){.writable = true});
	image->writer->closing = true;
}

static void coroutine_fn write_data(uint64_t guest_off, size_t len_bytes)
{
	memset(data, 0x77, sizeof(data));
	assert_int_equal(image_write(image, guest_off, data, len_bytes), 0);
}

/* What is in the log from record `first` on, as one word: tags of writes, `|` for a flush. */
static const char *story(unsigned first)
{
	static const char letters[IO_TAG_COUNT] = {
		[IO_TAG_HEADER] = 'H',   [IO_TAG_L1] = '1',       [IO_TAG_L2] = '2',
		[IO_TAG_REFTABLE] = 'T', [IO_TAG_REFBLOCK] = 'R', [IO_TAG_DATA] = 'd',
		[IO_TAG_COW] = 'c',      [IO_TAG_SNAPSHOT] = 's', [IO_TAG_BITMAP] = 'b',
	};
	static char text[256];
	unsigned nb = 0;

	for (unsigned i = first; i < hand.disk->nb_log && nb < sizeof(text) - 1; i++) {
		const struct sim_record *record = &hand.disk->log[i];

		if (record->op == IO_FLUSH)
			text[nb++] = '|';
		else if (record->op == IO_WRITE)
			text[nb++] = letters[record->tag];
	}
	text[nb] = 0;
	return text;
}

static void coroutine_fn flush_tells(const char *expected)
{
	unsigned first = hand.disk->nb_log;

	assert_int_equal(image_flush(image), 0);
	assert_string_equal(story(first), expected);
}

CO_TEST(test_nothing_to_flush)
{
	uint8_t buf[CLUSTER];

	new_image();
	open_image();
	flush_tells("");
	assert_int_equal(image_read(image, 0, buf, sizeof(buf), NULL), 0);
	flush_tells("");
	assert_int_equal(image_close(image), 0);
	assert_int_equal(hand.disk->nb_log, 0);
}

/* New cluster: refcounts with the data, then the entry. */
CO_TEST(test_allocating_write)
{
	new_image();
	open_image();
	write_data(0, CLUSTER);
	flush_tells("R|2|");
	flush_tells("");
	assert_int_equal(image_close(image), 0);
}

/* In place: nothing but a barrier. */
CO_TEST(test_write_in_place)
{
	hand_set_l2(new_image(), 0, HAND_DATA * CLUSTER | ENTRY_COPIED);
	be16_put(hand.disk->files[0].bytes.data + HAND_REFBLOCK * CLUSTER + HAND_DATA * 2, 1);
	open_image();
	write_data(0, CLUSTER);
	flush_tells("|");
	flush_tells("");
	assert_int_equal(image_close(image), 0);
}

/* A new L2 table is durable before the L1 entry. */
CO_TEST(test_new_l2_table)
{
	new_image();
	open_image();
	write_data(NB * CLUSTER, CLUSTER);
	flush_tells("R|2|1|");
	assert_int_equal(image_close(image), 0);
}

/* A new refcount block is durable before the refcount table's entry. */
CO_TEST(test_new_refcount_block)
{
	uint8_t *bytes = new_image();

	for (unsigned c = 0; c < 256; c++)
		be16_put(bytes + HAND_REFBLOCK * CLUSTER + c * 2, 1);
	open_image();
	write_data(0, CLUSTER);
	flush_tells("R|T|2|");
	assert_int_equal(image_close(image), 0);
}

/* Refcounts fall only after the round that made the removal durable (I4). */
CO_TEST(test_discard)
{
	uint8_t *bytes = new_image();
	const struct sim_record *log;
	unsigned first;

	hand_set_l2(bytes, 0, HAND_DATA * CLUSTER | ENTRY_COPIED);
	be16_put(bytes + HAND_REFBLOCK * CLUSTER + HAND_DATA * 2, 1);
	open_image();
	assert_int_equal(image_discard(image, 0, CLUSTER), 0);
	first = hand.disk->nb_log;
	assert_int_equal(image_flush(image), 0);
	assert_int_equal(image_close(image), 0);
	log = hand.disk->log;
	/* The punch comes where the release runs: after the L2 table's barrier. */
	assert_string_equal(story(first), "|2|R|");
	for (unsigned i = first; i < hand.disk->nb_log; i++)
		if (log[i].op == IO_PUNCH)
			for (unsigned j = first; j < hand.disk->nb_log; j++)
				assert_true(log[j].tag != IO_TAG_L2 || log[j].op != IO_WRITE ||
					    log[j].t_covered < log[i].t_issue);
	bytes = hand.disk->files[0].bytes.data;
	assert_int_equal(be16_get(bytes + HAND_REFBLOCK * CLUSTER + HAND_DATA * 2), 0);
}

/* ---- failures ---- */

static void fail_next(unsigned after, unsigned count, int err)
{
	hand.disk->fault = (struct sim_fault){
		.at = hand.disk->nb_requests + after, .count = count, .err = err};
}

/* A store that fails is tried again by the next flush, from the beginning. */
CO_TEST(test_failed_store_is_repeated)
{
	new_image();
	open_image();
	write_data(0, CLUSTER);
	fail_next(2, 1, ENOSPC); /* refcount block, barrier, L2 */
	assert_int_equal(image_flush(image), -ENOSPC);
	hand.disk->fault = (struct sim_fault){0};
	flush_tells("R|2|");
	assert_int_equal(image_close(image), 0);
}

/* After a barrier has failed, nothing is known to be durable ever again. */
CO_TEST(test_failed_barrier_is_final)
{
	new_image();
	open_image();
	write_data(0, CLUSTER);
	fail_next(1, 1, EIO);
	assert_int_equal(image_flush(image), -EIO);
	hand.disk->fault = (struct sim_fault){0};
	assert_int_equal(image_flush(image), -EIO);
	assert_int_equal(image_write(image, 0, data, CLUSTER), -EIO);
	assert_int_equal(image_close(image), -EIO);
}

/* ---- several at once ---- */

struct flusher {
	struct task task;
	int result;
	bool ended;
};

static void coroutine_fn flusher_run(void *arg)
{
	struct flusher *flusher = arg;

	flusher->result = image_flush(image);
	flusher->ended = true;
}

CO_TEST(test_flushes_share_a_round)
{
	struct flusher flushers[5];
	unsigned first, nb_ended = 0;

	new_image();
	open_image();
	write_data(0, CLUSTER);
	first = hand.disk->nb_log;
	for (unsigned i = 0; i < NB_ELEMENTS(flushers); i++) {
		flushers[i] = (struct flusher){.task = {.fn = flusher_run, .arg = &flushers[i]}};
		reactor_spawn(hand.reactor, &flushers[i].task);
	}
	while (nb_ended < NB_ELEMENTS(flushers)) {
		co_sleep(1000);
		nb_ended = 0;
		for (unsigned i = 0; i < NB_ELEMENTS(flushers); i++)
			nb_ended += flushers[i].ended;
	}
	for (unsigned i = 0; i < NB_ELEMENTS(flushers); i++)
		assert_int_equal(flushers[i].result, 0);
	assert_string_equal(story(first), "R|2|");
	assert_int_equal(image_close(image), 0);
}

static bool all_is_durable(void)
{
	for (unsigned i = 0; i < hand.disk->nb_log; i++)
		if (hand.disk->log[i].op == IO_WRITE && hand.disk->log[i].t_covered == SIM_NEVER)
			return false;
	return true;
}

/* Nobody asks, and yet it is written back within seconds. */
CO_TEST(test_written_back_in_the_background)
{
	uint8_t *bytes = new_image();
	uint64_t entry = 0;

	image = hand_open("a", &(struct image_options){.writable = true});
	write_data(0, CLUSTER);
	for (unsigned sec = 0; sec < 30 && (!entry || !all_is_durable()); sec++) {
		co_sleep(1000000000);
		bytes = hand.disk->files[0].bytes.data;
		entry = be64_get(bytes + HAND_L2 * CLUSTER);
	}
	assert_int_equal(entry, HAND_DATA * CLUSTER | ENTRY_COPIED);
	assert_true(all_is_durable());
	assert_int_equal(image_close(image), 0);
}

/*
 * With more to write back than is left to the timer, and a disk that takes nothing: it is tried
 * again every few seconds, and not all the time.
 */
CO_TEST(test_failing_write_back_is_in_no_hurry)
{
	const unsigned nb_tables = 1100, nb_faults = 500;

	new_image();
	image = hand_open("a",
			  &(struct image_options){.writable = true, .l2_cache_bytes = 4u << 20});
	image->writer->closing = true;
	assert_int_equal(image_resize(image, nb_tables * NB * CLUSTER), 0);
	for (unsigned i = 0; i < nb_tables; i++)
		write_data(i * NB * CLUSTER, CLUSTER);
	image->writer->closing = false;
	fail_next(0, nb_faults, EIO);
	writer_note_write(image->writer);
	while (image->writer->writeback_running)
		co_sleep(1000);
	assert_in_range(hand.disk->nb_faulted, 1, nb_faults - 1);
	assert_true(image->writer->writeback_timer.armed);
	hand.disk->fault = (struct sim_fault){0};
	co_sleep(10000000000);
	assert_false(image->writer->unflushed);
	assert_int_equal(image_close(image), 0);
}

/* ---- turns and stacks ---- */

static bool discarding, ran_meanwhile;

static void coroutine_fn look_at_discard(void *arg)
{
	ran_meanwhile = discarding;
}

/* A discard that finds all tables in the cache waits for nothing, and there may be many of them. */
CO_TEST(test_long_discard_gives_way)
{
	const uint64_t size_bytes = 600 * NB * CLUSTER;
	struct task other = {.fn = look_at_discard};

	new_image();
	open_image();
	assert_int_equal(image_resize(image, size_bytes), 0);
	assert_int_equal(image_discard(image, 0, size_bytes), 0);
	reactor_set_chooser(hand.reactor, NULL, NULL); /* who is ready runs in turn */
	reactor_spawn(hand.reactor, &other);
	discarding = true;
	assert_int_equal(image_discard(image, 0, size_bytes), 0);
	discarding = false;
	co_sleep(1000);
	assert_true(ran_meanwhile);
	assert_int_equal(image_close(image), 0);
}

/* Requests that use up all stacks do not keep the release from starting that closing waits for. */
CO_TEST(test_release_while_all_stacks_are_in_use)
{
	struct hand_crowd crowd;
	uint8_t *bytes = new_image();

	hand_set_l2(bytes, 0, HAND_DATA * CLUSTER | ENTRY_COPIED);
	be16_put(bytes + HAND_REFBLOCK * CLUSTER + HAND_DATA * 2, 1);
	open_image();
	hand_crowd_begin(&crowd);
	assert_int_equal(image_discard(image, 0, CLUSTER), 0);
	assert_int_equal(image_close(image), 0);
	bytes = hand.disk->files[0].bytes.data;
	assert_int_equal(be16_get(bytes + HAND_REFBLOCK * CLUSTER + HAND_DATA * 2), 0);
	hand_crowd_end(&crowd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_TEST(test_nothing_to_flush),
		HAND_TEST(test_allocating_write),
		HAND_TEST(test_write_in_place),
		HAND_TEST(test_new_l2_table),
		HAND_TEST(test_new_refcount_block),
		HAND_TEST(test_discard),
		HAND_TEST(test_failed_store_is_repeated),
		HAND_TEST(test_failed_barrier_is_final),
		HAND_TEST(test_flushes_share_a_round),
		HAND_TEST(test_written_back_in_the_background),
		HAND_TEST(test_failing_write_back_is_in_no_hurry),
		HAND_TEST(test_long_discard_gives_way),
		HAND_TEST(test_release_while_all_stacks_are_in_use),
	};

	return cmocka_run_group_tests(tests, hand_group_setup, NULL);
}
