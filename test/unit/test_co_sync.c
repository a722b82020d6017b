/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * co_sync: who waits for whom, and who comes next.
 *
 * Most tests let a few actors write letters into a log and compare the whole log,
 * which fixes the order of everything that happened.
 */
#include "io/co_sync.h"

#include "test/unit/idle_engine.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct reactor *reactor;
static char journal[65536];
static size_t journal_len;

static void note(const char *text)
{
	size_t len = strlen(text);
	if (journal_len + len < sizeof(journal))
		memcpy(journal + journal_len, text, len + 1);
	journal_len += len;
}

static int setup_with(unsigned nb_coroutines)
{
	struct reactor_params params = {
		.engine = &idle_engine_create(true)->engine,
		.nb_coroutines = nb_coroutines,
	};
	journal[0] = '\0';
	journal_len = 0;
	return reactor_create(&params, &reactor);
}

static int setup(void **state)
{
	return setup_with(64);
}

static int teardown(void **state)
{
	reactor_destroy(reactor);
	reactor = NULL;
	return 0;
}

/* A coroutine with a name, started by start(). */
struct actor {
	struct task task;
	const char *name;
	void *with;
	int number;
};

static void start(struct actor *actor, void (*fn)(void *), const char *name, void *with)
{
	actor->task.fn = fn;
	actor->task.arg = actor;
	actor->name = name;
	actor->with = with;
	reactor_spawn(reactor, &actor->task);
}

/* Lets everybody else who is ready have a turn. */
static void coroutine_fn pass(void)
{
	reactor_wake(co_self());
	co_yield ();
}

/* Runs `main` and then whatever it left behind until nothing is alive. */
static void play(void (*script)(void *))
{
	reactor_run(reactor, script, NULL);
	reactor_stop(reactor);
	assert_int_equal(reactor_nb_coroutines(reactor), 0);
}

/* ---- wait queue ---- */

static struct co_queue queue;

static void wait_in_queue(void *arg)
{
	struct actor *actor = arg;
	co_queue_wait(&queue);
	note(actor->name);
}

static void queue_script(void *arg)
{
	static struct actor actors[5];
	static const char *const names[5] = {"a", "b", "c", "d", "e"};
	note(co_queue_wake_one(&queue) ? "?" : "-");
	for (int i = 0; i < 5; i++)
		start(&actors[i], wait_in_queue, names[i], NULL);
	pass();
	note(co_queue_wake_one(&queue) ? "1" : "?");
	pass();
	note(co_queue_wake_one(&queue) ? "2" : "?");
	pass();
	note("*");
	co_queue_wake_all(&queue);
	note(co_queue_empty(&queue) ? "0" : "?");
	pass();
	note(".");
}

static void test_queue_is_fifo(void **state)
{
	queue = (struct co_queue){0};
	play(queue_script);
	assert_string_equal(journal, "-1a2b*0cde.");
}

static void wait_twice(void *arg)
{
	co_yield ();
	note("1");
	co_yield ();
	note("2");
}

static struct co *twice;

static void remember_and_wait_twice(void *arg)
{
	twice = co_self();
	wait_twice(NULL);
}

static void double_wake_script(void *arg)
{
	static struct actor actor;
	start(&actor, remember_and_wait_twice, "", NULL);
	pass();
	reactor_wake(twice);
	reactor_wake(twice);
	reactor_wake(twice);
	pass();
	pass();
	note("|");
	reactor_wake(twice);
	pass();
}

static void test_waking_twice_is_waking_once(void **state)
{
	play(double_wake_script);
	assert_string_equal(journal, "1|2");
}

/* ---- mutex ---- */

static struct co_mutex mutex;

static void lock_twice(void *arg)
{
	struct actor *actor = arg;
	for (int i = 0; i < 2; i++) {
		co_mutex_lock(&mutex);
		note(actor->name);
		pass();
		note(actor->name);
		co_mutex_unlock(&mutex); /* and would like to have it again at once */
	}
}

static void mutex_script(void *arg)
{
	static struct actor actors[3];
	start(&actors[0], lock_twice, "a", NULL);
	start(&actors[1], lock_twice, "b", NULL);
	start(&actors[2], lock_twice, "c", NULL);
}

static void test_mutex_hands_over_and_nobody_barges_in(void **state)
{
	mutex = (struct co_mutex){0};
	play(mutex_script);
	assert_string_equal(journal, "aabbccaabbcc");
	assert_null(mutex.holder);
}

static int inside, most_inside, nb_entered;

static void enter_often(void *arg)
{
	for (int i = 0; i < 100; i++) {
		co_mutex_lock(&mutex);
		if (++inside > most_inside)
			most_inside = inside;
		nb_entered++;
		for (int k = 0; k < i % 3; k++)
			pass();
		inside--;
		co_mutex_unlock(&mutex);
		if (i % 2)
			pass();
	}
}

static void many_script(void *arg)
{
	static struct actor actors[20];
	for (int i = 0; i < 20; i++)
		start(&actors[i], enter_often, "", NULL);
}

static void test_mutex_excludes(void **state)
{
	mutex = (struct co_mutex){0};
	inside = most_inside = nb_entered = 0;
	play(many_script);
	assert_int_equal(most_inside, 1);
	assert_int_equal(nb_entered, 2000);
}

/* ---- rwlock ---- */

static struct co_rwlock rwlock;

static void read_slowly(void *arg)
{
	struct actor *actor = arg;
	co_rwlock_rdlock(&rwlock);
	note("(");
	note(actor->name);
	pass();
	pass();
	note(")");
	co_rwlock_unlock(&rwlock);
}

static void write_slowly(void *arg)
{
	struct actor *actor = arg;
	co_rwlock_wrlock(&rwlock);
	note("[");
	note(actor->name);
	pass();
	pass();
	note("]");
	co_rwlock_unlock(&rwlock);
}

static void rwlock_script(void *arg)
{
	static struct actor actors[7];
	start(&actors[0], read_slowly, "a", NULL);
	start(&actors[1], read_slowly, "b", NULL);
	start(&actors[2], write_slowly, "W", NULL);
	start(&actors[3], read_slowly, "c", NULL);
	start(&actors[4], read_slowly, "d", NULL);
	start(&actors[5], write_slowly, "X", NULL);
	start(&actors[6], write_slowly, "Y", NULL);
}

static void test_rwlock_shares_excludes_and_is_fair(void **state)
{
	rwlock = (struct co_rwlock){0};
	play(rwlock_script);
	assert_string_equal(journal, "(a(b))[W](c(d))[X][Y]");
	assert_int_equal(rwlock.readers, 0);
}

static bool writer_done;

static void read_until_written(void *arg)
{
	struct actor *actor = arg;
	while (!writer_done && actor->number < 1000) {
		co_rwlock_rdlock(&rwlock);
		actor->number++;
		pass();
		pass();
		co_rwlock_unlock(&rwlock);
		/* Taken again at once: between them the readers never leave a gap. */
	}
}

static void write_once(void *arg)
{
	pass();
	co_rwlock_wrlock(&rwlock);
	writer_done = true;
	co_rwlock_unlock(&rwlock);
}

static struct actor readers[5];

static void starve_script(void *arg)
{
	static struct actor writer;
	for (int i = 0; i < 5; i++) {
		readers[i].number = 0;
		start(&readers[i], read_until_written, "", NULL);
		if (i % 2)
			pass(); /* so that they are out of step */
	}
	start(&writer, write_once, "", NULL);
}

static void test_rwlock_readers_do_not_starve_a_writer(void **state)
{
	rwlock = (struct co_rwlock){0};
	writer_done = false;
	play(starve_script);
	for (int i = 0; i < 5; i++)
		assert_in_range(readers[i].number, 1, 5);
}

/* ---- range lock ---- */

static void test_range_conflict_matrix(void **state)
{
	/* Which of these overlap the range [100, 200)? */
	static const struct {
		uint64_t start, len;
		bool overlaps;
	} cases[] = {
		{0, 100, false},         {0, 101, true},           {99, 1, false},
		{100, 1, true},          {100, 100, true},         {150, 10, true},
		{199, 1, true},          {200, 1, false},          {0, 1000, true},
		{0, 1, false},           {199, 1000, true},        {5, UINT64_MAX, true},
		{100, UINT64_MAX, true}, {200, UINT64_MAX, false}, {UINT64_MAX, 1, false},
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (int mode = 0; mode < 4; mode++) {
			struct range_lock lock = {0};
			struct range_hold first, second, third;
			bool wanted = !(cases[i].overlaps && mode != 0);
			assert_true(range_trylock(&lock, &first, 100, 100, mode & 1));
			assert_int_equal(range_trylock(&lock, &second, cases[i].start, cases[i].len,
						       mode & 2),
					 wanted);
			if (wanted)
				range_unlock(&lock, &second);
			range_unlock(&lock, &first);
			/* Nothing stays behind, and the order of arrival does not matter. */
			assert_true(range_trylock(&lock, &second, cases[i].start, cases[i].len,
						  mode & 2));
			assert_int_equal(range_trylock(&lock, &third, 100, 100, mode & 1), wanted);
		}
	}
}

static void test_range_at_the_end_of_64_bits(void **state)
{
	struct range_lock lock = {0};
	struct range_hold last, other;
	assert_true(range_trylock(&lock, &last, UINT64_MAX - 9, 10, true));
	assert_false(range_trylock(&lock, &other, UINT64_MAX, 1, true));
	assert_true(range_trylock(&lock, &other, 0, 1, true));
}

static struct range_lock ranges;

struct range_actor {
	struct actor actor;
	uint64_t start, len;
	bool exclusive;
	unsigned nb_passes;
};

static void hold_range(void *arg)
{
	struct range_actor *mine = arg;
	struct range_hold hold;
	range_lock(&ranges, &hold, mine->start, mine->len, mine->exclusive);
	note(mine->actor.name);
	for (unsigned i = 0; i < mine->nb_passes; i++)
		pass();
	range_unlock(&ranges, &hold);
}

static void range_script(void *arg)
{
	static struct range_actor actors[] = {
		{{.name = "a"}, 0, 10, true, 1},   /* at once */
		{{.name = "b"}, 5, 10, false, 1},  /* after a */
		{{.name = "c"}, 12, 8, true, 1},   /* after b, though a does not touch it */
		{{.name = "d"}, 30, 10, true, 1},  /* overtakes */
		{{.name = "e"}, 6, 2, false, 1},   /* after a, together with b */
		{{.name = "f"}, 0, 100, true, 1},  /* after everybody */
		{{.name = "g"}, 200, 1, false, 1}, /* overtakes */
		{{.name = "h"}, 50, 1, false, 1},  /* free now, but behind f */
	};
	for (unsigned i = 0; i < sizeof(actors) / sizeof(actors[0]); i++)
		start(&actors[i].actor, hold_range, actors[i].actor.name, NULL);
}

static void test_range_fifo_among_conflicting(void **state)
{
	ranges = (struct range_lock){0};
	play(range_script);
	assert_string_equal(journal, "adgbecfh");
	assert_null(ranges.held);
	assert_null(ranges.waiting);
	assert_null(ranges.waiting_tail);
}

/* Random ranges against the definition: no two holders conflict, and of two that conflict
 * the one that arrived first is granted first. */
#define NB_RANDOM 40
static struct {
	uint64_t start, len;
	bool exclusive, holding;
	unsigned arrived; /* 0: not waiting and not holding */
} tickets[NB_RANDOM];
static unsigned nb_arrived, nb_violations, nb_overtakes, nb_waits;
static uint64_t random_state;

static unsigned random_below(unsigned limit)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(random_state >> 33) % limit;
}

static void check_grant(int me)
{
	for (int i = 0; i < NB_RANDOM; i++) {
		if (i == me || !tickets[i].arrived)
			continue;
		bool conflict = (tickets[i].exclusive || tickets[me].exclusive) &&
				tickets[i].start < tickets[me].start + tickets[me].len &&
				tickets[me].start < tickets[i].start + tickets[i].len;
		if (conflict && (tickets[i].holding || tickets[i].arrived < tickets[me].arrived))
			nb_violations++;
		if (!tickets[i].holding && tickets[i].arrived < tickets[me].arrived)
			nb_overtakes++;
	}
}

static void random_ranges(void *arg)
{
	int me = ((struct actor *)arg)->number;
	for (int i = 0; i < 200; i++) {
		tickets[me].start = random_below(100);
		tickets[me].len = 1 + random_below(12);
		tickets[me].exclusive = random_below(2);
		tickets[me].arrived = ++nb_arrived;
		struct range_hold hold;
		if (!range_trylock(&ranges, &hold, tickets[me].start, tickets[me].len,
				   tickets[me].exclusive)) {
			nb_waits++;
			range_lock(&ranges, &hold, tickets[me].start, tickets[me].len,
				   tickets[me].exclusive);
		}
		check_grant(me);
		tickets[me].holding = true;
		for (unsigned k = random_below(4); k > 0; k--)
			pass();
		tickets[me].holding = false;
		tickets[me].arrived = 0;
		range_unlock(&ranges, &hold);
		if (random_below(2))
			pass();
	}
}

static void random_script(void *arg)
{
	static struct actor actors[NB_RANDOM];
	for (int i = 0; i < NB_RANDOM; i++) {
		actors[i].number = i;
		start(&actors[i], random_ranges, "", NULL);
	}
}

static void test_range_random_against_the_definition(void **state)
{
	random_state = 20240229;
	print_message("seed %lu\n", (unsigned long)random_state);
	ranges = (struct range_lock){0};
	nb_violations = nb_overtakes = nb_waits = 0;
	play(random_script);
	assert_int_equal(nb_violations, 0);
	assert_true(nb_waits > 100 && nb_overtakes > 100); /* it was about something */
}

/* ---- group ---- */

static struct co_group group;
static unsigned nb_working, most_working, nb_worked;

static void member(void *arg)
{
	struct actor *actor = arg;
	if (++nb_working > most_working)
		most_working = nb_working;
	for (int i = 0; i < 1 + actor->number % 3; i++)
		pass();
	nb_working--;
	nb_worked++;
	int result = actor->number == 7 ? -EIO : actor->number == 30 ? -ENOSPC : 0;
	co_group_leave(&group, result);
}

static int first_result, second_result;
static unsigned group_limit;

static void group_script(void *arg)
{
	static struct actor actors[100];
	co_group_init(&group, group_limit);
	for (int i = 0; i < 100; i++) {
		actors[i].number = i;
		actors[i].task.fn = member;
		actors[i].task.arg = &actors[i];
		co_group_spawn(&group, &actors[i].task);
	}
	first_result = co_group_join(&group);
	note(nb_worked == 100 ? "all" : "early");
	second_result = co_group_join(&group); /* nobody is left to wait for */
}

static void run_group(unsigned limit)
{
	group_limit = limit;
	nb_working = most_working = nb_worked = 0;
	first_result = second_result = 1;
	play(group_script);
	assert_string_equal(journal, "all");
	assert_int_equal(first_result, -EIO);
	assert_int_equal(second_result, 0);
}

static void test_group_limit_and_first_error(void **state)
{
	run_group(5);
	assert_int_equal(most_working, 5);
}

static void test_group_of_one_runs_in_sequence(void **state)
{
	run_group(1);
	assert_int_equal(most_working, 1);
}

static int setup_few_stacks(void **state)
{
	return setup_with(4);
}

static void test_group_larger_than_the_pool(void **state)
{
	run_group(16);
	assert_int_equal(most_working, 3); /* the parent has the fourth stack */
}

/* ---- sleep ---- */

static void sleep_and_note(void *arg)
{
	struct actor *actor = arg;
	uint64_t before_ns = reactor_now_ns(reactor);
	co_sleep(*(uint64_t *)actor->with);
	note(actor->name);
	if (reactor_now_ns(reactor) - before_ns != *(uint64_t *)actor->with)
		note("?");
}

static void sleep_script(void *arg)
{
	static struct actor actors[5];
	static uint64_t ns[5] = {5000000, 1000, 0, 1000, 3600000000000u};
	start(&actors[0], sleep_and_note, "a", &ns[0]);
	start(&actors[1], sleep_and_note, "b", &ns[1]);
	start(&actors[2], sleep_and_note, "c", &ns[2]);
	start(&actors[3], sleep_and_note, "d", &ns[3]);
	start(&actors[4], sleep_and_note, "e", &ns[4]);
}

static void test_sleepers_wake_in_order_at_their_time(void **state)
{
	play(sleep_script);
	assert_string_equal(journal, "cbdae");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_queue_is_fifo),
		TEST(test_waking_twice_is_waking_once),
		TEST(test_mutex_hands_over_and_nobody_barges_in),
		TEST(test_mutex_excludes),
		TEST(test_rwlock_shares_excludes_and_is_fair),
		TEST(test_rwlock_readers_do_not_starve_a_writer),
		cmocka_unit_test(test_range_conflict_matrix),
		cmocka_unit_test(test_range_at_the_end_of_64_bits),
		TEST(test_range_fifo_among_conflicting),
		TEST(test_range_random_against_the_definition),
		TEST(test_group_limit_and_first_error),
		TEST(test_group_of_one_runs_in_sequence),
		cmocka_unit_test_setup_teardown(test_group_larger_than_the_pool, setup_few_stacks,
						teardown),
		TEST(test_sleepers_wake_in_order_at_their_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
