/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * published_model: core/published.c under the memory model of C11, all of it: its atomic accesses
 * go to a memory that keeps every value ever stored, and a thread may be shown any of them that
 * what it has seen before does not rule out.
 *
 * The model is RC11 by views. Each location has a history of messages; a view tells of each
 * location which message is the oldest that may still be read. A message carries the view of who
 * stored it: all of it from a release store, what it was at the last release fence from a relaxed
 * one. An acquire load takes that view over at once, a relaxed load at the next acquire fence.
 * Host clusters are locations too, read and written with relaxed order, word by word: no more is
 * expected of the kernel.
 *
 * The reactor does nb_steps things, in all possible ways (see options()). A reader does one
 * image_read_beside(), with all possible results of its loads, and so does a second one who knows
 * of the first. They begin when the reactor has ended, and that is no less than all interleavings:
 * they store nothing that anybody loads, and whatever one could have been shown earlier it may be
 * shown still.
 */
#include "core/map.h"
#include "io/sanitizer.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define STEPS_MAX 5u

enum { CLUSTER_BITS = 4, CLUSTER = 1 << CLUSTER_BITS, NB_WORDS = CLUSTER / 8 };
/* Two guest clusters share the slot; what else wants host clusters is a stranger. */
enum { NB_GUESTS = 2, STRANGER = NB_GUESTS };
/* Cluster i of the host is at i * CLUSTER, the odd ones in a file of their own. */
enum { NB_PLACES = 3, NB_FILES = 2, NOWHERE = NB_PLACES };

/* ---- choices: all of them, one run after the other ---- */

#define CHOICES_MAX 32u

struct choices {
	struct {
		unsigned taken, nb;
	} list[CHOICES_MAX];
	unsigned nb, pos;
};

static unsigned choose(struct choices *choices, unsigned nb)
{
	assert_true(nb > 0 && choices->pos < CHOICES_MAX);
	if (choices->pos == choices->nb) {
		choices->list[choices->nb].taken = 0;
		choices->list[choices->nb++].nb = nb;
	}
	assert_int_equal(choices->list[choices->pos].nb, nb);
	return choices->list[choices->pos++].taken;
}

/* Prepares the next run; false when there is none. */
static bool choices_next(struct choices *choices)
{
	choices->pos = 0;
	while (choices->nb) {
		if (++choices->list[choices->nb - 1].taken < choices->list[choices->nb - 1].nb)
			return true;
		choices->nb--;
	}
	return false;
}

/* ---- the memory ---- */

enum { ANSWERED, SLOT, WORDS = SLOT + 4, NB_LOCATIONS = WORDS + NB_PLACES * NB_WORDS };

#define MESSAGES_MAX (2 * (STEPS_MAX + 1) + 1)

struct view {
	uint8_t oldest[NB_LOCATIONS];
};

struct location {
	unsigned nb;
	struct {
		uint64_t value;
		struct view view;
	} messages[MESSAGES_MAX];
};

struct thread {
	struct view now;
	struct view acquired; /* by relaxed loads, for the next acquire fence */
	struct view released; /* by the last release fence, for relaxed stores */
};

static struct location memory[NB_LOCATIONS];
static struct thread *self;
static struct choices loads; /* the reader's */
static struct image disk;

static void join(struct view *view, const struct view *other)
{
	for (unsigned i = 0; i < NB_LOCATIONS; i++)
		if (view->oldest[i] < other->oldest[i])
			view->oldest[i] = other->oldest[i];
}

static uint64_t load(unsigned at, memory_order order)
{
	unsigned oldest = self->now.oldest[at], nb = memory[at].nb - oldest;
	unsigned i = oldest + (nb > 1 ? choose(&loads, nb) : 0);
	const struct view *view = &memory[at].messages[i].view;

	self->now.oldest[at] = (uint8_t)i;
	join(order == memory_order_relaxed ? &self->acquired : &self->now, view);
	return memory[at].messages[i].value;
}

static void store(unsigned at, uint64_t value, memory_order order)
{
	unsigned i = memory[at].nb++;

	assert_true(i < MESSAGES_MAX);
	self->now.oldest[at] = (uint8_t)i;
	memory[at].messages[i].value = value;
	memory[at].messages[i].view = order == memory_order_relaxed ? self->released : self->now;
	memory[at].messages[i].view.oldest[at] = (uint8_t)i;
}

static void fence(memory_order order)
{
	if (order == memory_order_acquire)
		join(&self->now, &self->acquired);
	else
		self->released = self->now;
}

static unsigned location_of(const volatile void *address)
{
	size_t i = (size_t)((const uint64_t *)address - (const uint64_t *)disk.published.slots);

	assert_true(i < WORDS - SLOT);
	return SLOT + (unsigned)i;
}

#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_thread_fence
#define atomic_load_explicit(address, order) \
	((__typeof__((void)0, *(address)))(uintptr_t)load(location_of(address), order))
#define atomic_store_explicit(address, value, order) \
	store(location_of(address), (uint64_t)(uintptr_t)(value), order)
#define atomic_thread_fence(order) fence(order)

#include "core/published.c"

/* ---- the reactor ---- */

struct state {
	unsigned place[NB_GUESTS]; /* NOWHERE: not allocated */
	unsigned generation[NB_GUESTS];
	uint64_t nb_taken_back;
};

static unsigned nb_steps;
static struct file files[NB_FILES];
static struct thread reactor;
static struct state states[STEPS_MAX + 1]; /* after so many steps */
static bool used[NB_PLACES];
static bool noted[NB_GUESTS][NB_PLACES];

static void write_place(unsigned place, unsigned owner, unsigned generation)
{
	for (unsigned i = 0; i < NB_WORDS; i++)
		store(WORDS + place * NB_WORDS + i, owner << 8 | generation, memory_order_relaxed);
	used[place] = true;
}

static void start_over(void)
{
	memset(memory, 0, sizeof(memory));
	memset(used, 0, sizeof(used));
	memset(noted, 0, sizeof(noted));
	memset(&reactor, 0, sizeof(reactor));
	self = &reactor;
	disk.published.nb_taken_back = 0;
	states[0] = (struct state){0};
	for (unsigned at = 0; at < NB_LOCATIONS; at++)
		memory[at].nb = 1;
	for (unsigned guest = 0; guest < NB_GUESTS; guest++) {
		states[0].place[guest] = guest;
		used[guest] = true;
		for (unsigned i = 0; i < NB_WORDS; i++)
			memory[WORDS + guest * NB_WORDS + i].messages[0].value = guest << 8;
	}
}

/* Publishes what a read has found when the reactor was in that state. */
static void note(unsigned guest, const struct state *found)
{
	unsigned place = found->place[guest];
	struct extent extent = {.layer = &disk,
				.kind = EXTENT_DATA,
				.guest_off = guest * CLUSTER,
				.host_off = place * CLUSTER};

	disk.data_file = &files[place % NB_FILES];
	noted[guest][place] = true;
	published_note(&disk, &extent, found->nb_taken_back);
}

/* As the core does it: the data, then the entry, before which the place is taken back. */
static void move(struct state *now, unsigned guest, unsigned place)
{
	unsigned old_place = now->place[guest];

	now->generation[guest]++;
	if (place != NOWHERE)
		write_place(place, guest, now->generation[guest]);
	published_take_back(&disk, guest, 1);
	now->place[guest] = place;
	if (old_place != NOWHERE)
		used[old_place] = false;
}

/* What the reactor can do next: does the one with that number, or tells how many there are. */
static unsigned options(unsigned step, unsigned wanted)
{
	struct state before = states[step], *now = &states[step + 1];
	unsigned nb = 0;

	*now = before;
	for (unsigned guest = 0; guest < NB_GUESTS; guest++) {
		/* A read that looked before the last step notes only now what it found. */
		for (unsigned ago = 0; ago <= (step > 0); ago++)
			if (states[step - ago].place[guest] != NOWHERE &&
			    (!ago || states[step - 1].place[guest] != before.place[guest]) &&
			    nb++ == wanted)
				note(guest, &states[step - ago]);
		if (!step)
			continue; /* without one of these there is nothing to be seen */
		if (before.place[guest] != NOWHERE && nb++ == wanted)
			move(now, guest, NOWHERE);
		for (unsigned place = 0; place < NB_PLACES; place++)
			if (!used[place] && nb++ == wanted)
				move(now, guest, place);
	}
	for (unsigned place = 0; step && place < NB_PLACES; place++)
		if (!used[place] && nb++ == wanted)
			write_place(place, STRANGER, step);
	return nb;
}

static void run_reactor(struct choices *script)
{
	start_over();
	for (unsigned step = 0; step < nb_steps; step++) {
		unsigned nb = options(step, UINT_MAX);

		options(step, choose(script, nb));
		states[step + 1].nb_taken_back = disk.published.nb_taken_back;
		store(ANSWERED, step + 1, memory_order_release);
	}
}

/* ---- a reader ---- */

static unsigned asked; /* for that guest cluster */
static unsigned long nb_counted;

/* Neighbours are published in free slots alone, and there is none beside the only one. */
int map_chain_loaded(struct image *image, uint64_t guest_off, uint64_t max_bytes,
		     struct extent *ret_extent)
{
	abort();
}

bool file_reads_at_once(const struct file *file)
{
	return true;
}

bool file_read_at_once(const struct file *file, uint64_t host_off, void *buf, size_t len_bytes)
{
	unsigned place = (unsigned)(host_off / CLUSTER);
	uint64_t *words = buf;

	assert_int_equal(len_bytes, CLUSTER);
	assert_true(place < NB_PLACES && noted[asked][place]);
	assert_int_equal(host_off, place * CLUSTER);
	assert_ptr_equal(file, &files[place % NB_FILES]);
	for (unsigned i = 0; i < NB_WORDS; i++)
		words[i] = load(WORDS + place * NB_WORDS + i, memory_order_relaxed);
	return true;
}

void file_count_beside(struct file *file, size_t len_bytes)
{
	nb_counted++;
}

/* Only who reads beside the reactor reads here. */
void file_count_at_once(struct file *file, size_t len_bytes)
{
	abort();
}

/* A read by somebody who has seen that much. Returns what it has got, or -1. */
static int64_t read_beside(struct view *seen)
{
	struct thread reader = {.now = *seen};
	uint64_t words[NB_WORDS], answered;

	self = &reader;
	answered = load(ANSWERED, memory_order_acquire);
	if (!image_read_beside(&disk, asked * CLUSTER, words, CLUSTER))
		return -1;
	for (unsigned i = 1; i < NB_WORDS; i++)
		assert_int_equal(words[i], words[0]);
	assert_int_equal(words[0] >> 8, asked);
	assert_true((words[0] & 255) >= states[answered].generation[asked]);
	*seen = reader.now;
	return (int64_t)words[0];
}

/* One reads, and what it has got is known to who reads then. Tells how many got something. */
static unsigned run_readers(void)
{
	struct view seen = {0};
	int64_t first = read_beside(&seen), second;

	if (first < 0)
		return 0;
	second = read_beside(&seen);
	assert_true(second < 0 || second >= first);
	return second < 0 ? 1 : 2;
}

/* In all possible ways: how many there are, and how often 0, 1 or 2 readers got something. */
static unsigned long run_all(unsigned long nb_got[3])
{
	struct choices script = {0};
	unsigned long nb_scripts = 0;

	do {
		run_reactor(&script);
		nb_scripts++;
		for (asked = 0; asked < NB_GUESTS; asked++)
			do
				nb_got[run_readers()]++;
			while (choices_next(&loads));
	} while (choices_next(&script));
	return nb_scripts;
}

static bool is_slow(void)
{
#ifdef WITH_TSAN
	return true;
#else
	return RUNNING_ON_VALGRIND;
#endif
}

static void test_all_that_a_reader_may_see(void **state)
{
	unsigned long nb_got[3] = {0}, nb_scripts;

	disk.cluster_bits = CLUSTER_BITS;
	disk.virtual_size = NB_GUESTS * CLUSTER;
	assert_true(image_publish(&disk));
	disk.published.slot_bits = 0; /* one for all */
	nb_steps = is_slow() ? STEPS_MAX - 1 : STEPS_MAX;
	nb_scripts = run_all(nb_got);
	published_finish(&disk.published);
	assert_int_equal(nb_counted, nb_got[1] + 2 * nb_got[2]);
	/* Fewer would mean that something is not possible any more that is here. */
	assert_true(nb_scripts > (is_slow() ? 700 : 5000));
	assert_true(nb_got[0] > (is_slow() ? 100000 : 1000000));
	assert_true(nb_got[1] > (is_slow() ? 80000 : 1000000));
	assert_true(nb_got[2] > (is_slow() ? 5000 : 50000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_that_a_reader_may_see),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
