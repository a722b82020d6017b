/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * published_threads: threads that read beside the reactor all the time, while it writes, lets go
 * and gives to others what they read: they never get what is not the guest's, or was replaced
 * before they asked.
 */
#include "test/unit/host_image.h"

#include <pthread.h>
#include <string.h>

/* Large clusters: one can be somebody else's before a read of it has ended. */
#define CLUSTER_BITS 19u
#define CLUSTER (1u << CLUSTER_BITS)
#define NB_CLUSTERS 8u
#define PIECE 32768u
#define NB_PIECES (CLUSTER / PIECE) /* in a cluster */
#define NB_CHANGES 400u
#define NB_BESIDE 300u
#define NB_READERS 2u

/*
 * Each write and each discard of a piece of the disk makes a new generation of it. One byte of
 * each word tells which, the others tell the piece: so nothing is wrong with a word of which some
 * bytes are from before a write in place and some from after it.
 */
static _Atomic unsigned begun[NB_CLUSTERS * NB_PIECES], answered[NB_CLUSTERS * NB_PIECES];
static bool allocated[NB_CLUSTERS];
static _Atomic bool all_changed;
static uint8_t bytes[CLUSTER];

struct reader {
	pthread_t thread;
	unsigned nb_found, nb_wrong;
	uint64_t random;
	uint8_t buf[CLUSTER];
};

static unsigned draw(uint64_t *random, unsigned nb)
{
	*random = *random * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)((*random >> 33) % nb);
}

static uint64_t word_of(unsigned piece, unsigned generation)
{
	return (uint64_t)(piece + 1) << 32 | 0x5a5a5a00 | (generation & 255);
}

/* Is it of a generation that may be seen between those two moments? */
static bool is_right(const uint8_t *piece_bytes, unsigned piece, unsigned answered_before,
		     unsigned begun_after)
{
	for (unsigned i = 0; i < PIECE; i += sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, piece_bytes + i, sizeof(word));
		if ((word ^ word_of(piece, 0)) & ~255ull)
			return false;
		if (begun_after - answered_before < 256 &&
		    (uint8_t)(word - answered_before) > begun_after - answered_before)
			return false;
	}
	return true;
}

static void read_once(struct reader *reader)
{
	unsigned cluster = draw(&reader->random, NB_CLUSTERS);
	unsigned first = draw(&reader->random, NB_PIECES);
	unsigned nb = 1 + draw(&reader->random, NB_PIECES - first), before[NB_PIECES];

	first += cluster * NB_PIECES;
	for (unsigned i = 0; i < nb; i++)
		before[i] = atomic_load(&answered[first + i]);
	if (!image_read_beside(image, (uint64_t)first * PIECE, reader->buf, nb * PIECE))
		return;
	reader->nb_found++;
	for (unsigned i = 0; i < nb; i++)
		if (!is_right(reader->buf + i * PIECE, first + i, before[i],
			      atomic_load(&begun[first + i])))
			reader->nb_wrong++;
}

static void *run_reader(void *arg)
{
	struct reader *reader = arg;

	/* On a machine that is busy it may begin when all is over. */
	for (unsigned i = 0; i < NB_BESIDE || !all_changed; i++)
		read_once(reader);
	return NULL;
}

static void coroutine_fn write_pieces(unsigned first, unsigned nb)
{
	for (unsigned i = 0; i < nb; i++) {
		unsigned piece = first + i, generation = atomic_fetch_add(&begun[piece], 1) + 1;

		for (unsigned w = 0; w < PIECE; w += sizeof(uint64_t)) {
			uint64_t word = word_of(piece, generation);

			memcpy(bytes + i * PIECE + w, &word, sizeof(word));
		}
	}
	assert_int_equal(image_write(image, (uint64_t)first * PIECE, bytes, nb * PIECE), 0);
	for (unsigned i = 0; i < nb; i++)
		atomic_store(&answered[first + i], begun[first + i]);
}

static void coroutine_fn discard_cluster(unsigned cluster)
{
	unsigned first = cluster * NB_PIECES;

	for (unsigned i = 0; i < NB_PIECES; i++)
		atomic_fetch_add(&begun[first + i], 1);
	assert_int_equal(image_discard(image, (uint64_t)cluster * CLUSTER, CLUSTER), 0);
	for (unsigned i = 0; i < NB_PIECES; i++)
		atomic_store(&answered[first + i], begun[first + i]);
}

/* What the one lets go the other one gets. */
static void coroutine_fn hand_over(unsigned from, unsigned to)
{
	discard_cluster(from);
	allocated[from] = false;
	assert_int_equal(image_flush(image), 0);
	write_pieces(to * NB_PIECES, NB_PIECES);
}

static void coroutine_fn read_cluster(unsigned cluster)
{
	assert_int_equal(image_read(image, (uint64_t)cluster * CLUSTER, bytes, CLUSTER, NULL), 0);
}

static void coroutine_fn change_once(uint64_t *random)
{
	unsigned cluster = draw(random, NB_CLUSTERS), other = draw(random, NB_CLUSTERS);

	if (draw(random, 4) && cluster != other)
		hand_over(cluster, other);
	else /* of a cluster that is not allocated the rest would be zeros */
		write_pieces(other * NB_PIECES, allocated[other] ? 1 : NB_PIECES);
	allocated[other] = true;
	read_cluster(other);
	read_cluster(draw(random, NB_CLUSTERS));
}

HOST_TEST(test_threads_that_read_while_all_changes)
{
	static struct reader readers[NB_READERS];
	struct create_params params = host_params(CLUSTER_BITS, NB_CLUSTERS * CLUSTER);
	uint64_t random = 1, nb_found = 0;

	host_create_and_open(&params);
	for (unsigned i = 0; i < NB_READERS; i++) {
		readers[i].random = 100 + i;
		assert_int_equal(pthread_create(&readers[i].thread, NULL, run_reader, &readers[i]),
				 0);
	}
	for (unsigned i = 0; i < NB_CHANGES; i++)
		change_once(&random);
	for (unsigned cluster = 0; cluster < NB_CLUSTERS; cluster++) {
		write_pieces(cluster * NB_PIECES, NB_PIECES);
		assert_int_equal(
			image_read(image, (uint64_t)cluster * CLUSTER, bytes, CLUSTER, NULL), 0);
	}
	all_changed = true;
	for (unsigned i = 0; i < NB_READERS; i++) {
		assert_int_equal(pthread_join(readers[i].thread, NULL), 0);
		assert_true(readers[i].nb_found > 0);
		assert_int_equal(readers[i].nb_wrong, 0);
		nb_found += readers[i].nb_found;
	}
	/* What was thrown away does not count. */
	assert_int_equal(image->file->nb_reads_beside, nb_found);
	host_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOST_MEMORY_TEST(test_threads_that_read_while_all_changes),
	};

	return cmocka_run_group_tests(tests, host_group_setup, host_group_teardown);
}
