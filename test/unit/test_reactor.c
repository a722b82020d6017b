/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * reactor: order of execution, timers, the inbox under load from other threads,
 * sleep and wake-up, drain and stop.
 *
 * Timers run on a virtual clock; what is about threads runs on the real one.
 */
#include "io/reactor.h"

#include "io/co_sync.h"
#include "io/sanitizer.h"
#include "test/unit/idle_engine.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef RUNNING_ON_VALGRIND
#define RUNNING_ON_VALGRIND 0
#endif

static struct reactor *reactor;
static struct idle_engine *engine;

static int setup_with(bool virtual_clock, unsigned nb_coroutines)
{
	engine = idle_engine_create(virtual_clock);
	struct reactor_params params = {.engine = &engine->engine, .nb_coroutines = nb_coroutines};
	return reactor_create(&params, &reactor);
}

static int setup_virtual(void **state)
{
	return setup_with(true, 0);
}

static int setup_real(void **state)
{
	return setup_with(false, 0);
}

static int setup_four_stacks(void **state)
{
	return setup_with(true, 4);
}

static int teardown(void **state)
{
	reactor_destroy(reactor);
	reactor = NULL;
	return 0;
}

static void coroutine_fn pass(void)
{
	reactor_wake(co_self());
	co_yield ();
}

static void sleep_for_real_ms(unsigned ms)
{
	struct timespec time = {.tv_nsec = ms * 1000000L};
	nanosleep(&time, NULL);
}

/* Work that is about numbers: tasks that append theirs to a list. */
#define MAX_LIST 400
static int list[MAX_LIST];
static int nb_list;

static void append(int number)
{
	if (nb_list < MAX_LIST)
		list[nb_list] = number;
	nb_list++;
}

struct numbered {
	struct task task;
	int number;
};

static void spawn_numbered(struct numbered *numbered, int number, void (*fn)(void *))
{
	*numbered = (struct numbered){.task = {.fn = fn, .arg = numbered}, .number = number};
	reactor_spawn(reactor, &numbered->task);
}

static void append_mine(void *arg)
{
	append(((struct numbered *)arg)->number);
}

/* ---- order ---- */

static void append_in_turns(void *arg)
{
	for (int i = 0; i < 100; i++) {
		append_mine(arg);
		reactor_pass();
	}
}

static void spawn_three(void *arg)
{
	static struct numbered three[3];
	nb_list = 0;
	for (int i = 0; i < 3; i++)
		spawn_numbered(&three[i], i, append_in_turns);
}

static void test_ready_coroutines_take_turns(void **state)
{
	reactor_run(reactor, spawn_three, NULL);
	reactor_stop(reactor);
	assert_int_equal(nb_list, 300);
	for (int i = 0; i < 300; i++)
		assert_int_equal(list[i], i % 3);
}

/* Two that have two turns each, and what each of them defers in the first one. */
static void append_twice(void *arg)
{
	static struct numbered later[2];
	int number = ((struct numbered *)arg)->number;

	later[number] = (struct numbered){.task = {.fn = append_mine, .arg = &later[number]},
					  .number = 10 + number};
	append(number);
	reactor_defer(reactor, &later[number].task);
	reactor_pass();
	append(number);
}

static void spawn_two_that_defer(void *arg)
{
	static struct numbered two[2];
	nb_list = 0;
	for (int i = 0; i < 2; i++)
		spawn_numbered(&two[i], i, append_twice);
}

static void test_what_coroutines_defer_ends_the_round_in_order(void **state)
{
	static const int expected[] = {0, 1, 0, 1, 10, 11};

	reactor_run(reactor, spawn_two_that_defer, NULL);
	reactor_stop(reactor);
	assert_int_equal(nb_list, 6);
	assert_memory_equal(list, expected, sizeof(expected));
}

static struct numbered woken, deferred_twice;
static struct co *sleeper;

static void wake_sleeper(void *arg)
{
	append_mine(arg);
	assert_null(co_self());
	reactor_wake(sleeper);
}

static void defer_again(void *arg)
{
	append_mine(arg);
	woken = (struct numbered){.task = {.fn = wake_sleeper, .arg = &woken}, .number = 2};
	reactor_defer(reactor, &woken.task);
}

static void append_much_later(struct timer *timer)
{
	append(99);
}

/* It sleeps until what was deferred, by what was deferred, wakes it. */
static void sleep_until_deferred(void *arg)
{
	struct timer much_later = {.fn = append_much_later};

	nb_list = 0;
	deferred_twice =
		(struct numbered){.task = {.fn = defer_again, .arg = &deferred_twice}, .number = 1};
	sleeper = co_self();
	pass(); /* Those that were ready at the beginning of the round have had their turn. */
	reactor_defer(reactor, &deferred_twice.task);
	timer_arm(reactor, &much_later, reactor_now_ns(reactor) + 1000000000);
	co_yield ();
	timer_disarm(reactor, &much_later);
	append(3);
}

/* At once, before the reactor waits for anything. */
static void test_deferred_tasks_defer_and_wake(void **state)
{
	reactor_run(reactor, sleep_until_deferred, NULL);
	assert_int_equal(nb_list, 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(list[i], 1 + i);
}

static unsigned most_alive;

static void append_and_linger(void *arg)
{
	append_mine(arg);
	if (reactor_nb_coroutines(reactor) > most_alive)
		most_alive = reactor_nb_coroutines(reactor);
	/* Not all equally long, so that stacks come free out of order. */
	for (int i = 0; i < ((struct numbered *)arg)->number % 4; i++)
		pass();
}

static void spawn_hundred(void *arg)
{
	static struct numbered hundred[100];
	nb_list = 0;
	for (int i = 0; i < 100; i++)
		spawn_numbered(&hundred[i], i, append_and_linger);
}

static void test_without_a_free_stack_tasks_wait_in_line(void **state)
{
	most_alive = 0;
	reactor_run(reactor, spawn_hundred, NULL);
	reactor_stop(reactor);
	assert_int_equal(nb_list, 100);
	for (int i = 0; i < 100; i++)
		assert_int_equal(list[i], i);
	assert_int_equal(most_alive, 4);
}

#define NB_BACKGROUND 10

struct crowd {
	struct numbered requests[8], background[NB_BACKGROUND];
	int nb_missed; /* requests that have waited in vain */
};

/* A request that waits for all that is in the background; but not for ever. */
static void wait_for_background(void *arg)
{
	struct crowd *crowd = arg;
	int patience = 100;

	while (nb_list < NB_BACKGROUND && patience--)
		co_sleep(100);
	crowd->nb_missed += nb_list < NB_BACKGROUND;
}

static void spawn_crowd(void *arg)
{
	struct crowd *crowd = arg;

	nb_list = 0;
	for (int i = 0; i < 8; i++) {
		crowd->requests[i].task = (struct task){.fn = wait_for_background, .arg = crowd};
		reactor_spawn(reactor, &crowd->requests[i].task);
	}
	assert_false(reactor_try_spawn(reactor, &crowd->background[0].task));
	for (int i = 0; i < NB_BACKGROUND; i++) {
		struct numbered *mine = &crowd->background[i];

		*mine = (struct numbered){.task = {.fn = append_and_linger, .arg = mine},
					  .number = i};
		reactor_spawn_background(reactor, &mine->task);
	}
}

static void test_background_work_has_stacks_of_its_own(void **state)
{
	struct crowd crowd = {0};

	most_alive = 0;
	reactor_run(reactor, spawn_crowd, &crowd);
	reactor_stop(reactor);
	assert_int_equal(crowd.nb_missed, 0);
	assert_int_equal(nb_list, NB_BACKGROUND);
	for (int i = 0; i < NB_BACKGROUND; i++)
		assert_int_equal(list[i], i);
	assert_int_equal(most_alive, 6);
}

static void test_posts_start_in_order(void **state)
{
	struct numbered tasks[20];
	nb_list = 0;
	for (int i = 0; i < 20; i++) {
		tasks[i] = (struct numbered){.task = {.fn = append_mine, .arg = &tasks[i]},
					     .number = i};
		reactor_post(reactor, &tasks[i].task);
	}
	assert_int_equal(nb_list, 0); /* nobody runs it yet */
	reactor_stop(reactor);
	assert_int_equal(nb_list, 20);
	for (int i = 0; i < 20; i++)
		assert_int_equal(list[i], i);
}

/* ---- chooser ---- */

static unsigned nb_asked;

static unsigned choose_last(void *ctx, unsigned nb_choices)
{
	nb_asked += nb_choices < 2 ? 1000 : 1;
	return nb_choices - 1;
}

static void spawn_five(void *arg)
{
	static struct numbered five[5];
	nb_list = 0;
	for (int i = 0; i < 5; i++)
		spawn_numbered(&five[i], i, append_mine);
}

static void test_chooser_picks_and_is_asked_only_for_a_choice(void **state)
{
	nb_asked = 0;
	reactor_set_chooser(reactor, choose_last, NULL);
	reactor_run(reactor, spawn_five, NULL);
	reactor_stop(reactor);
	static const int backwards[] = {4, 3, 2, 1, 0};
	assert_int_equal(nb_list, 5);
	assert_memory_equal(list, backwards, sizeof(backwards));
	assert_int_equal(nb_asked, 4);
}

static unsigned choose_by_seed(void *ctx, unsigned nb_choices)
{
	uint64_t *seed = ctx;
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(*seed >> 33) % nb_choices;
}

static void test_one_seed_is_one_schedule(void **state)
{
	int first[300], nb_differences = 0;
	for (int round = 0; round < 3; round++) {
		uint64_t seed = round < 2 ? 7 : 8;
		reactor_set_chooser(reactor, choose_by_seed, &seed);
		reactor_run(reactor, spawn_three, NULL);
		reactor_stop(reactor);
		assert_int_equal(nb_list, 300);
		if (round == 0)
			memcpy(first, list, sizeof(first));
		nb_differences = memcmp(first, list, sizeof(first));
		assert_true(round < 2 ? nb_differences == 0 : nb_differences != 0);
	}
}

/* ---- timers ---- */

struct numbered_timer {
	struct timer timer; /* first */
	int number;
	uint64_t fired_ns;
};

static void append_timer(struct timer *timer)
{
	struct numbered_timer *mine = (struct numbered_timer *)timer;
	mine->fired_ns = reactor_now_ns(reactor);
	append(mine->number);
}

#define NB_TIMERS 6
static struct numbered_timer timers[NB_TIMERS];

static void arm(int number, uint64_t due_ns)
{
	timers[number].number = number;
	timers[number].timer.fn = append_timer;
	timer_arm(reactor, &timers[number].timer, due_ns);
}

static void arm_and_sleep(void *arg)
{
	uint64_t now_ns = reactor_now_ns(reactor);
	memset(timers, 0, sizeof(timers));
	nb_list = 0;
	arm(0, now_ns + 500);
	arm(1, now_ns + 100);
	arm(2, now_ns + 300);
	arm(3, now_ns + 100);
	arm(4, now_ns + 200);
	arm(5, 0);            /* long past: at the next look */
	arm(2, now_ns + 600); /* again, later */
	timer_disarm(reactor, &timers[4].timer);
	timer_disarm(reactor, &timers[4].timer); /* not armed: nothing happens */
	co_sleep(1000);
}

static void test_timers_fire_in_order_and_on_time(void **state)
{
	uint64_t start_ns = engine->virtual_ns;
	reactor_run(reactor, arm_and_sleep, NULL);
	static const int order[] = {5, 1, 3, 0, 2};
	static const uint64_t after_ns[] = {0, 100, 100, 500, 600};
	assert_int_equal(nb_list, 5);
	assert_memory_equal(list, order, sizeof(order));
	for (int i = 0; i < 5; i++)
		assert_int_equal(timers[order[i]].fired_ns - start_ns, after_ns[i]);
	for (int i = 0; i < NB_TIMERS; i++)
		assert_false(timers[i].timer.armed);
}

static void append_and_disarm_next(struct timer *timer)
{
	append_timer(timer);
	timer_disarm(reactor, &timers[1].timer);
	arm(2, reactor_now_ns(reactor) + 10);
}

static void arm_two_at_once(void *arg)
{
	uint64_t due_ns = reactor_now_ns(reactor) + 100;
	memset(timers, 0, sizeof(timers));
	nb_list = 0;
	arm(0, due_ns);
	arm(1, due_ns);
	timers[0].timer.fn = append_and_disarm_next;
	co_sleep(1000);
}

static void test_timers_change_timers(void **state)
{
	reactor_run(reactor, arm_two_at_once, NULL);
	static const int order[] = {0, 2};
	assert_int_equal(nb_list, 2);
	assert_memory_equal(list, order, sizeof(order));
}

static bool fired;

static void set_fired(struct timer *timer)
{
	fired = true;
}

static void spin_until_fired(void *arg)
{
	struct timer timer = {.fn = set_fired};
	fired = false;
	timer_arm(reactor, &timer, reactor_now_ns(reactor) + 1000000);
	while (!fired)
		pass();
}

static void test_spinning_coroutines_do_not_stop_the_clock(void **state)
{
	reactor_run(reactor, spin_until_fired, NULL);
	assert_true(fired);
}

/* ---- the inbox ---- */

#define NB_POSTERS 4
static unsigned nb_posts; /* per poster */

struct post {
	struct task task;
	unsigned poster, serial;
};

static struct poster {
	pthread_t thread;
	struct post *posts;
	unsigned number;
	unsigned nb_arrived, nb_out_of_order; /* the reactor's */
} posters[NB_POSTERS];
static atomic_uint nb_arrived;

static void arrive(void *arg)
{
	struct post *post = arg;
	struct poster *poster = &posters[post->poster];
	if (post->serial != poster->nb_arrived)
		poster->nb_out_of_order++;
	poster->nb_arrived++;
	nb_arrived++;
}

static void *post_all(void *arg)
{
	struct poster *poster = arg;
	for (unsigned i = 0; i < nb_posts; i++) {
		poster->posts[i] = (struct post){
			.task = {.fn = arrive, .arg = &poster->posts[i]},
			.poster = poster->number,
			.serial = i,
		};
		reactor_post(reactor, &poster->posts[i].task);
	}
	return NULL;
}

static unsigned nb_turns, turns_when_deferred;
static bool deferred_ran;

static void note_deferred(void *arg)
{
	assert_int_equal(nb_turns, turns_when_deferred + 1);
	deferred_ran = true;
}

static void defer_now(struct timer *timer)
{
	static struct task task = {.fn = note_deferred};

	turns_when_deferred = nb_turns;
	reactor_defer(reactor, &task);
}

static void spin_until_deferred(void *arg)
{
	struct timer timer = {.fn = defer_now};

	deferred_ran = false;
	timer_arm(reactor, &timer, reactor_now_ns(reactor) + 1000000);
	for (nb_turns = 0; !deferred_ran; nb_turns++)
		pass();
}

/* They have one turn before what is deferred, not a whole round of turns. */
static void test_spinning_coroutines_do_not_hold_up_what_is_deferred(void **state)
{
	reactor_run(reactor, spin_until_deferred, NULL);
}

static void test_four_threads_post_a_hundred_thousand_each(void **state)
{
	nb_posts = RUNNING_ON_VALGRIND ? 5000 : 100000;
	nb_arrived = 0;
	assert_int_equal(reactor_start(reactor), 0);
	for (unsigned i = 0; i < NB_POSTERS; i++) {
		posters[i] = (struct poster){.number = i};
		posters[i].posts = malloc(nb_posts * sizeof(struct post));
		assert_non_null(posters[i].posts);
		assert_int_equal(pthread_create(&posters[i].thread, NULL, post_all, &posters[i]),
				 0);
	}
	for (unsigned i = 0; i < NB_POSTERS; i++)
		pthread_join(posters[i].thread, NULL);
	reactor_stop(reactor);
	assert_int_equal(nb_arrived, NB_POSTERS * nb_posts);
	for (unsigned i = 0; i < NB_POSTERS; i++) {
		assert_int_equal(posters[i].nb_arrived, nb_posts);
		assert_int_equal(posters[i].nb_out_of_order, 0);
		free(posters[i].posts);
	}
	assert_true(engine->nb_wakes <= NB_POSTERS * nb_posts + 1);
}

static atomic_uint nb_pongs;

static void pong(void *arg)
{
	nb_pongs++;
}

/* A lost wake-up would stop this for ever: nothing else ends the reactor's sleep. */
static void test_no_wake_up_is_lost(void **state)
{
	unsigned nb_rounds = RUNNING_ON_VALGRIND ? 500 : 20000;
	nb_pongs = 0;
	assert_int_equal(reactor_start(reactor), 0);
	for (unsigned i = 0; i < nb_rounds; i++) {
		struct task task = {.fn = pong};
		reactor_post(reactor, &task);
		/* Now and then wait until it really sleeps, else post as close as possible. */
		while (nb_pongs != i + 1)
			sched_yield();
		if (i % 1000 == 0)
			sleep_for_real_ms(2);
	}
	reactor_stop(reactor);
	assert_int_equal(nb_pongs, nb_rounds);
	assert_true(engine->nb_wakes <= nb_rounds + 1); /* and one to stop */
	assert_true(engine->nb_wakes > 0);
}

static atomic_bool busy, release;

static void stay_busy(void *arg)
{
	busy = true;
	while (!release)
		sched_yield();
}

static void test_a_busy_reactor_is_not_woken(void **state)
{
	struct task block = {.fn = stay_busy}, tasks[100];
	busy = release = false;
	nb_pongs = 0;
	assert_int_equal(reactor_start(reactor), 0);
	reactor_post(reactor, &block);
	while (!busy)
		sched_yield();
	unsigned long nb_before = engine->nb_wakes;
	for (int i = 0; i < 100; i++) {
		tasks[i] = (struct task){.fn = pong};
		reactor_post(reactor, &tasks[i]);
	}
	assert_int_equal(engine->nb_wakes, nb_before);
	release = true;
	reactor_stop(reactor);
	assert_int_equal(nb_pongs, 100);
}

static void test_an_idle_reactor_sleeps(void **state)
{
	/* Even with a timer so distant that its time-out plus an engine's clock overflows. */
	struct timer distant = {.fn = set_fired};
	timer_arm(reactor, &distant, UINT64_MAX - 1);
	assert_int_equal(reactor_start(reactor), 0);
	while (engine->nb_waits == 0)
		sleep_for_real_ms(1);
	sleep_for_real_ms(50);
	assert_int_equal(engine->nb_waits, 1);
	assert_true(engine->last_timeout_ns == UINT64_MAX);
	reactor_stop(reactor);
	assert_int_equal(engine->nb_waits, 1); /* the same one has ended */
	timer_disarm(reactor, &distant);
}

/* ---- looking around before sleeping ---- */

#define BUSY_NS 1000
#define LOOK_NS 100

static int setup_busy(void **state)
{
	engine = idle_engine_create(true);
	engine->look_ns = LOOK_NS;
	struct reactor_params params = {.engine = &engine->engine, .busy_ns = BUSY_NS};
	return reactor_create(&params, &reactor);
}

static unsigned nb_asked;
static atomic_uint nb_given;

/* Gives something each fourth time that it is asked. */
static unsigned take_each_fourth(struct reactor_source *source)
{
	if (++nb_asked % 4 == 0)
		nb_given++;
	if (nb_given == 1000)
		reactor_set_source(reactor, NULL);
	return nb_asked % 4 == 0;
}

static void set_source(void *arg)
{
	reactor_set_source(reactor, arg);
}

static void test_looking_around_asks_the_source(void **state)
{
	struct reactor_source source = {.fd = -1, .take = take_each_fourth};
	nb_asked = nb_given = 0;
	reactor_run(reactor, set_source, &source);
	assert_int_equal(reactor_start(reactor), 0);
	while (nb_given < 1000)
		sleep_for_real_ms(1);
	reactor_stop(reactor);
	assert_int_equal(nb_asked, 4000);
	assert_null(engine->watch); /* it has never slept */
}

#define MAX_REQUESTS 3000

/* A client: its next request comes some time after the one before was taken. */
static struct client {
	struct reactor_source source;
	unsigned nb_slow, nb; /* the first ones take their time, */
	bool slow_in_turns;   /* or every other one */
	uint64_t slow_ns, quick_ns;
	uint64_t io_ns; /* each takes so long; 0: it waits for nothing */
	unsigned nb_taken;
	unsigned long nb_sleeps; /* of the loop, until the last answer */
	struct task task;
	bool looked[MAX_REQUESTS]; /* for the request, the loop did not sleep */
} client;
static atomic_bool client_done;

static unsigned long count_sleeps(void)
{
	return engine->nb_waits - engine->nb_looks;
}

static void coroutine_fn answer_client(void *arg)
{
	bool slow =
		client.nb_taken < client.nb_slow || (client.slow_in_turns && client.nb_taken % 2);
	if (client.io_ns)
		co_sleep(client.io_ns);
	client.nb_sleeps = count_sleeps();
	engine->readable_ns = engine->virtual_ns + (slow ? client.slow_ns : client.quick_ns);
}

static unsigned take_from_client(struct reactor_source *source)
{
	if (engine->virtual_ns < engine->readable_ns)
		return 0;
	engine->readable_ns = UINT64_MAX;
	client.looked[client.nb_taken++] = count_sleeps() == client.nb_sleeps;
	client.task = (struct task){.fn = answer_client};
	reactor_spawn(reactor, &client.task);
	if (client.nb_taken == client.nb) {
		reactor_set_source(reactor, NULL);
		client_done = true;
	}
	return 1;
}

/* Returns how often the loop did not sleep before a request came. */
static unsigned serve(struct client wanted)
{
	unsigned nb_looked = 0;
	client = wanted;
	client.source = (struct reactor_source){.fd = -1, .take = take_from_client};
	client.slow_ns = 50 * BUSY_NS;
	client.nb_sleeps = count_sleeps();
	client_done = false;
	engine->readable_ns = 0;
	reactor_set_source(reactor, &client.source);
	assert_int_equal(reactor_start(reactor), 0);
	while (!client_done)
		sleep_for_real_ms(1);
	reactor_stop(reactor);
	for (unsigned i = 0; i < client.nb; i++)
		nb_looked += client.looked[i];
	return nb_looked;
}

static void test_quick_clients_are_looked_for(void **state)
{
	assert_int_equal(serve((struct client){.nb = 100, .quick_ns = BUSY_NS / 2}), 100);
	engine->look_ns = BUSY_NS / 20; /* at once, too */
	assert_int_equal(serve((struct client){.nb = 100, .quick_ns = BUSY_NS / 10}), 100);
}

static void test_clients_may_be_slow_four_times(void **state)
{
	/* With the one that is there, three that it looked for in vain. */
	serve((struct client){.nb = 100, .nb_slow = 4, .quick_ns = BUSY_NS / 2});
	for (unsigned i = 4; i < 100; i++)
		assert_true(client.looked[i]);
	/* One more, and it sleeps three times. */
	reactor_destroy(reactor);
	assert_int_equal(setup_busy(state), 0);
	serve((struct client){.nb = 100, .nb_slow = 5, .quick_ns = BUSY_NS / 2});
	for (unsigned i = 5; i < 100; i++)
		assert_true(client.looked[i] == (i >= 8));
}

static void test_looking_for_slow_clients_becomes_rare(void **state)
{
	unsigned long nb_looks, nb_expected = 4 * (1 + 3 + (MAX_REQUESTS - 100) / 131);
	serve((struct client){.nb = MAX_REQUESTS, .nb_slow = MAX_REQUESTS});
	/* After each request it asks the source once whether there are more. */
	nb_looks = (engine->nb_looks - MAX_REQUESTS) / (BUSY_NS / LOOK_NS);
	assert_in_range(nb_looks, nb_expected - 4, nb_expected + 4);
}

static void test_looking_for_clients_is_soon_back(void **state)
{
	serve((struct client){.nb = 1000, .nb_slow = 500, .quick_ns = BUSY_NS / 2});
	assert_false(client.looked[499]);
	/* After 127 sleeps at most it tries again, and from then on it pays each time. */
	for (unsigned i = 500 + 128; i < 1000; i++)
		assert_true(client.looked[i]);
}

static void test_looking_for_clients_half_in_vain_becomes_rare(void **state)
{
	unsigned nb_looked = serve((struct client){
		.nb = MAX_REQUESTS, .slow_in_turns = true, .quick_ns = BUSY_NS / 2});
	assert_in_range(nb_looked, MAX_REQUESTS / 128, MAX_REQUESTS / 10);
}

static void test_who_waits_for_io_does_not_look(void **state)
{
	/* The first one was there. While I/O is under way and after it the loop sleeps. */
	assert_int_equal(
		serve((struct client){.nb = 100, .quick_ns = BUSY_NS / 2, .io_ns = BUSY_NS / 2}),
		1);
	/* After each request it asks the source once whether there are more. */
	assert_in_range(engine->nb_looks, 99, 101);
}

static void test_looking_is_set_anew(void **state)
{
	serve((struct client){.nb = 500, .nb_slow = 500});
	reactor_set_busy(reactor, 0);
	assert_int_equal(serve((struct client){.nb = 100, .quick_ns = BUSY_NS / 2}), 1);
	/* It has never looked in vain then. */
	reactor_set_busy(reactor, BUSY_NS);
	assert_int_equal(serve((struct client){.nb = 100, .quick_ns = BUSY_NS / 2}), 100);
}

static unsigned nb_ticks;
static bool found_by_engine; /* or deferred */

static void do_nothing(void *arg)
{
}

/* Something comes that is done without a coroutine. */
static void tick(struct timer *timer)
{
	static struct task task = {.fn = do_nothing};

	if (found_by_engine)
		reactor_found_work(reactor);
	else
		reactor_defer(reactor, &task);
	if (++nb_ticks < 1000)
		timer_arm(reactor, timer, reactor_now_ns(reactor) + BUSY_NS / 2);
	else
		client_done = true;
}

static void look_for_ticks(bool by_engine)
{
	struct timer timer = {.fn = tick};
	found_by_engine = by_engine;
	nb_ticks = 0;
	client_done = false;
	timer_arm(reactor, &timer, 0);
	assert_int_equal(reactor_start(reactor), 0);
	while (!client_done)
		sleep_for_real_ms(1);
	assert_in_range(count_sleeps(), 0, 1); /* after the last one */
	reactor_stop(reactor);
}

static void test_looking_for_what_needs_no_coroutine(void **state)
{
	look_for_ticks(true);
}

static void test_looking_for_what_is_deferred(void **state)
{
	look_for_ticks(false);
}

/* ---- waking from other threads ---- */

static _Atomic(struct co *) parked;
static unsigned nb_woken;

static void park_often(void *arg)
{
	unsigned nb_rounds = *(unsigned *)arg;
	for (unsigned i = 0; i < nb_rounds; i++) {
		parked = co_self();
		co_yield ();
		nb_woken++;
	}
}

static void *wake_often(void *arg)
{
	static struct wakeup wake;
	for (unsigned i = 0; i < *(unsigned *)arg; i++) {
		struct co *co;
		while (!(co = atomic_exchange(&parked, NULL)))
			sched_yield();
		reactor_wake_remote(reactor, &wake, co);
	}
	return NULL;
}

static void test_remote_wake_reaches_what_parks(void **state)
{
	unsigned nb_rounds = RUNNING_ON_VALGRIND ? 200 : 10000;
	pthread_t thread;
	nb_woken = 0;
	assert_int_equal(pthread_create(&thread, NULL, wake_often, &nb_rounds), 0);
	reactor_run(reactor, park_often, &nb_rounds);
	pthread_join(thread, NULL);
	assert_int_equal(nb_woken, nb_rounds);
}

/* ---- running and stopping ---- */

struct visit {
	bool is_current;
	pthread_t thread;
	unsigned nb_done;
};

static void visit(void *arg)
{
	struct visit *mine = arg;
	mine->is_current = reactor_is_current(reactor);
	mine->thread = pthread_self();
	for (int i = 0; i < 10; i++)
		co_sleep(10000);
	mine->nb_done++;
}

static void test_run_uses_the_callers_thread_or_the_reactors(void **state)
{
	struct visit mine = {0};
	assert_false(reactor_is_current(reactor));
	reactor_run(reactor, visit, &mine);
	assert_true(mine.is_current);
	assert_true(pthread_equal(mine.thread, pthread_self()));
	assert_false(reactor_is_current(reactor));

	assert_int_equal(reactor_start(reactor), 0);
	reactor_run(reactor, visit, &mine);
	assert_false(pthread_equal(mine.thread, pthread_self()));
	reactor_stop(reactor);

	reactor_run(reactor, visit, &mine);
	assert_true(pthread_equal(mine.thread, pthread_self()));
	assert_int_equal(mine.nb_done, 3);
}

static void *run_visits(void *arg)
{
	struct visit *mine = arg;
	for (int i = 0; i < 20; i++)
		reactor_run(reactor, visit, mine);
	return NULL;
}

static void test_threads_run_it_one_after_another(void **state)
{
	/* Without a thread of its own: whoever leaves hands the loop to the next. */
	struct visit visits[4] = {0};
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, run_visits, &visits[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(visits[i].nb_done, 20);
		assert_true(visits[i].is_current);
	}
}

static atomic_bool slept;

static void sleep_20_ms(void *arg)
{
	co_sleep(20000000);
	slept = true;
}

static void test_stop_drains_without_spinning(void **state)
{
	struct task task = {.fn = sleep_20_ms};
	struct timer distant = {.fn = set_fired};
	slept = fired = false;
	timer_arm(reactor, &distant, UINT64_MAX - 1);
	assert_int_equal(reactor_start(reactor), 0);
	reactor_post(reactor, &task);
	reactor_stop(reactor);
	assert_true(slept);
	assert_false(fired); /* an armed timer holds nobody up */
	assert_in_range(engine->nb_waits, 1, 8);
	assert_int_equal(reactor_nb_coroutines(reactor), 0);
	timer_disarm(reactor, &distant);
}

static void test_start_and_stop_many_times(void **state)
{
	unsigned nb_rounds = RUNNING_ON_VALGRIND ? 20 : 300;
	nb_pongs = 0;
	for (unsigned i = 0; i < nb_rounds; i++) {
		struct task task = {.fn = pong};
		assert_int_equal(reactor_start(reactor), 0);
		reactor_post(reactor, &task);
		reactor_stop(reactor);
		assert_int_equal(nb_pongs, i + 1);
	}
}

static void park_for_ever(void *arg)
{
	co_yield ();
}

static void spawn_parked(void *arg)
{
	static struct numbered parked_task;
	spawn_numbered(&parked_task, 0, park_for_ever);
	pass();
}

static void test_destroy_notices_a_coroutine_left_behind(void **state)
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct rlimit no_core = {0};
		setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGABRT, SIG_DFL);
		close(STDERR_FILENO);
		reactor_run(reactor, spawn_parked, NULL);
		reactor_destroy(reactor);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

/* ---- life ---- */

static int refuse_to_attach(struct engine *refusing, struct reactor *to)
{
	return -EPERM;
}

static unsigned nb_destroyed;

static void count_destroy(struct engine *refusing)
{
	nb_destroyed++;
}

static void test_create_fails_whole(void **state)
{
	const struct engine_ops ops = {.attach = refuse_to_attach, .destroy = count_destroy};
	struct engine refusing = {.ops = &ops};
	struct reactor_params params = {.engine = &refusing, .nb_workers = 2};
	struct reactor *none = NULL;
	nb_destroyed = 0;
	assert_int_equal(reactor_create(&params, &none), -EPERM);
	assert_null(none);
	assert_int_equal(nb_destroyed, 1);
	reactor_destroy(NULL);
}

#define VIRTUAL(name) cmocka_unit_test_setup_teardown(name, setup_virtual, teardown)
#define BUSY(name) cmocka_unit_test_setup_teardown(name, setup_busy, teardown)
#define REAL(name) cmocka_unit_test_setup_teardown(name, setup_real, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		VIRTUAL(test_ready_coroutines_take_turns),
		VIRTUAL(test_what_coroutines_defer_ends_the_round_in_order),
		VIRTUAL(test_deferred_tasks_defer_and_wake),
		cmocka_unit_test_setup_teardown(test_without_a_free_stack_tasks_wait_in_line,
						setup_four_stacks, teardown),
		cmocka_unit_test_setup_teardown(test_background_work_has_stacks_of_its_own,
						setup_four_stacks, teardown),
		VIRTUAL(test_posts_start_in_order),
		VIRTUAL(test_chooser_picks_and_is_asked_only_for_a_choice),
		VIRTUAL(test_one_seed_is_one_schedule),
		VIRTUAL(test_timers_fire_in_order_and_on_time),
		VIRTUAL(test_timers_change_timers),
		REAL(test_spinning_coroutines_do_not_stop_the_clock),
		REAL(test_spinning_coroutines_do_not_hold_up_what_is_deferred),
		REAL(test_four_threads_post_a_hundred_thousand_each),
		REAL(test_no_wake_up_is_lost),
		REAL(test_a_busy_reactor_is_not_woken),
		REAL(test_an_idle_reactor_sleeps),
		BUSY(test_looking_around_asks_the_source),
		BUSY(test_quick_clients_are_looked_for),
		BUSY(test_clients_may_be_slow_four_times),
		BUSY(test_looking_for_slow_clients_becomes_rare),
		BUSY(test_looking_for_clients_is_soon_back),
		BUSY(test_looking_for_clients_half_in_vain_becomes_rare),
		BUSY(test_who_waits_for_io_does_not_look),
		BUSY(test_looking_is_set_anew),
		BUSY(test_looking_for_what_needs_no_coroutine),
		BUSY(test_looking_for_what_is_deferred),
		REAL(test_remote_wake_reaches_what_parks),
		REAL(test_run_uses_the_callers_thread_or_the_reactors),
		REAL(test_threads_run_it_one_after_another),
		REAL(test_stop_drains_without_spinning),
		REAL(test_start_and_stop_many_times),
		REAL(test_destroy_notices_a_coroutine_left_behind),
		cmocka_unit_test(test_create_fails_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
