/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * worker: where jobs run, how many at a time, in which order, and that nothing
 * is lost at the end; thread: that none of them takes signals.
 */
#include "io/worker.h"

#include "io/co_sync.h"
#include "io/thread.h"
#include "test/unit/idle_engine.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>

#define NB_JOBS 100

static struct worker_job jobs[NB_JOBS];
static atomic_uint nb_run, nb_done, nb_inside, most_inside;
static unsigned order[NB_JOBS];
static pthread_t ran_on[NB_JOBS];

static void reset(void)
{
	nb_run = nb_done = nb_inside = most_inside = 0;
}

static void run_one(void *arg)
{
	unsigned inside = ++nb_inside, most = most_inside;
	while (inside > most && !atomic_compare_exchange_weak(&most_inside, &most, inside))
		;
	unsigned number = (unsigned)(uintptr_t)arg;
	ran_on[number] = pthread_self();
	order[nb_run++] = number;
	sched_yield();
	nb_inside--;
}

static void count_done(struct worker_job *job)
{
	nb_done++;
}

static struct worker_job *job(unsigned number, void (*fn)(void *))
{
	jobs[number] = (struct worker_job){
		.fn = fn,
		.arg = (void *)(uintptr_t)number,
		.done = count_done,
	};
	return &jobs[number];
}

static void submit(struct worker_pool *pool, unsigned number, void (*fn)(void *))
{
	worker_submit(pool, job(number, fn));
}

static bool try_submit(struct worker_pool *pool, unsigned number, void (*fn)(void *))
{
	return worker_try_submit(pool, job(number, fn));
}

static struct worker_pool *pool_of(unsigned nb_threads)
{
	struct worker_pool *pool;
	reset();
	assert_int_equal(worker_pool_create(nb_threads, &pool), 0);
	return pool;
}

static void test_one_thread_runs_jobs_in_order(void **state)
{
	struct worker_pool *pool = pool_of(1);
	for (unsigned i = 0; i < NB_JOBS; i++)
		submit(pool, i, run_one);
	worker_pool_destroy(pool); /* what is queued still runs */
	assert_int_equal(nb_done, NB_JOBS);
	for (unsigned i = 0; i < NB_JOBS; i++) {
		assert_int_equal(order[i], i);
		assert_false(pthread_equal(ran_on[i], pthread_self()));
		assert_true(pthread_equal(ran_on[i], ran_on[0]));
	}
}

static pthread_barrier_t barrier;

static void meet(void *arg)
{
	pthread_barrier_wait(&barrier);
}

static void test_jobs_run_in_parallel_up_to_the_bound(void **state)
{
	/* Three jobs that need each other: fewer threads would hang here. */
	struct worker_pool *pool = pool_of(3);
	pthread_barrier_init(&barrier, NULL, 3);
	for (unsigned i = 0; i < 30; i++)
		submit(pool, i, meet);
	for (unsigned i = 30; i < NB_JOBS; i++)
		submit(pool, i, run_one);
	worker_pool_destroy(pool);
	pthread_barrier_destroy(&barrier);
	assert_int_equal(nb_done, NB_JOBS);
	assert_in_range(most_inside, 1, 3);
}

/* How many threads a pool of four makes for one job at a time. */
static unsigned count_threads_in_sequence(void)
{
	struct worker_pool *pool = pool_of(4);
	for (unsigned i = 0; i < 20; i++) {
		submit(pool, i, run_one);
		while (nb_done != i + 1)
			sched_yield();
	}
	unsigned nb_threads = 0;
	for (unsigned i = 0; i < 20; i++) {
		unsigned k = 0;
		while (k < i && !pthread_equal(ran_on[k], ran_on[i]))
			k++;
		nb_threads += k == i;
	}
	worker_pool_destroy(pool);
	return nb_threads;
}

static void test_threads_are_made_when_needed(void **state)
{
	/*
	 * One job at a time never needs four threads; two, when the first was slow to return. On a
	 * busy machine three of them may be, once in a while.
	 */
	unsigned nb_threads = 4;
	for (int i = 0; i < 20 && nb_threads == 4; i++)
		nb_threads = count_threads_in_sequence();
	assert_in_range(nb_threads, 1, 3);
}

static void test_who_may_block_leaves_a_thread(void **state)
{
	struct worker_pool *pool = pool_of(1);
	assert_false(try_submit(pool, 0, run_one));
	worker_pool_destroy(pool);
	assert_int_equal(nb_run, 0);

	/* With threads that are to be made, and with such as wait, or will in a moment. */
	pool = pool_of(3);
	pthread_barrier_init(&barrier, NULL, 4);
	for (unsigned round = 1; round <= 2; round++) {
		for (unsigned i = 0; i < 2; i++)
			while (!try_submit(pool, i, meet))
				assert_int_equal(round, 2);
		assert_false(try_submit(pool, 2, run_one));
		submit(pool, 2, meet);
		assert_false(try_submit(pool, 3, run_one));
		pthread_barrier_wait(&barrier);
		while (nb_done != 3 * round)
			sched_yield();
	}
	worker_pool_destroy(pool);
	pthread_barrier_destroy(&barrier);
	assert_int_equal(nb_run, 0);
}

static sigset_t mask_seen;

static void look_at_mask(void *arg)
{
	pthread_sigmask(SIG_SETMASK, NULL, &mask_seen);
}

static void test_workers_take_no_signals_but_their_own_faults(void **state)
{
	sigset_t before, after;
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	struct worker_pool *pool = pool_of(1);
	submit(pool, 0, look_at_mask);
	worker_pool_destroy(pool);
	assert_true(sigismember(&mask_seen, SIGTERM));
	assert_true(sigismember(&mask_seen, SIGINT));
	assert_true(sigismember(&mask_seen, SIGALRM));
	assert_false(sigismember(&mask_seen, SIGSEGV));
	assert_false(sigismember(&mask_seen, SIGBUS));
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	assert_int_equal(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
}

static void *return_argument(void *arg)
{
	char name[16] = "";
	pthread_getname_np(pthread_self(), name, sizeof(name));
	return arg;
}

static void test_thread_start_passes_its_argument(void **state)
{
	pthread_t thread;
	int value;
	void *result = NULL;
	assert_int_equal(thread_start(&thread, "fifteen letters", return_argument, &value), 0);
	pthread_join(thread, &result);
	assert_ptr_equal(result, &value);
}

/* ---- from coroutines ---- */

static struct reactor *reactor;

static void make_reactor(unsigned nb_workers)
{
	struct reactor_params params = {
		.engine = &idle_engine_create(false)->engine,
		.nb_workers = nb_workers,
	};
	reset();
	assert_int_equal(reactor_create(&params, &reactor), 0);
}

struct outcome {
	pthread_t job_thread, co_thread;
	unsigned nb_ticks;
	atomic_bool started, may_end;
	bool ended;
};

static void remember_thread(void *arg)
{
	((struct outcome *)arg)->job_thread = pthread_self();
}

static void call_worker(void *arg)
{
	struct outcome *outcome = arg;
	outcome->co_thread = pthread_self();
	worker_run(remember_thread, outcome);
	outcome->ended = true;
}

static void test_run_parks_the_caller_and_works_elsewhere(void **state)
{
	struct outcome outcome = {0};
	make_reactor(1);
	reactor_run(reactor, call_worker, &outcome);
	assert_true(outcome.ended);
	assert_false(pthread_equal(outcome.job_thread, outcome.co_thread));
	reactor_destroy(reactor);
}

static void test_run_without_workers_is_inline(void **state)
{
	struct outcome outcome = {0};
	make_reactor(0);
	assert_null(reactor_workers(reactor));
	reactor_run(reactor, call_worker, &outcome);
	assert_true(outcome.ended);
	assert_true(pthread_equal(outcome.job_thread, outcome.co_thread));
	reactor_destroy(reactor);
}

static void wait_for_permission(void *arg)
{
	struct outcome *outcome = arg;
	outcome->started = true;
	while (!outcome->may_end)
		sched_yield();
}

static void call_slow_job(void *arg)
{
	struct outcome *outcome = arg;
	worker_run(wait_for_permission, outcome);
	outcome->ended = true;
}

static void tick_beside_a_job(void *arg)
{
	static struct task task;
	struct outcome *outcome = arg;
	task = (struct task){.fn = call_slow_job, .arg = outcome};
	reactor_spawn(reactor, &task);
	while (outcome->nb_ticks < 5 || !outcome->started) {
		co_sleep(100000);
		outcome->nb_ticks += outcome->ended ? 1000 : 1;
	}
	outcome->may_end = true;
	while (!outcome->ended)
		co_sleep(100000);
}

static void test_the_reactor_lives_while_a_job_runs(void **state)
{
	struct outcome outcome = {0};
	make_reactor(1);
	reactor_run(reactor, tick_beside_a_job, &outcome);
	assert_true(outcome.ended);
	assert_in_range(outcome.nb_ticks, 5, 999);
	reactor_destroy(reactor);
}

static unsigned nb_members_done;

static void add_one(void *arg)
{
	++*(unsigned *)arg;
}

struct calls {
	struct task task;
	struct co_group *group;
	unsigned count;
};

static void call_often(void *arg)
{
	struct calls *calls = arg;
	for (int i = 0; i < 50; i++)
		worker_run(add_one, &calls->count);
	nb_members_done++;
	co_group_leave(calls->group, 0);
}

static struct calls calls[16];

static void call_from_sixteen(void *arg)
{
	struct co_group group;
	co_group_init(&group, 16);
	for (int i = 0; i < 16; i++) {
		calls[i] = (struct calls){
			.task = {.fn = call_often, .arg = &calls[i]},
			.group = &group,
		};
		co_group_spawn(&group, &calls[i].task);
	}
	co_group_join(&group);
}

static void test_many_callers_each_get_their_own_answer(void **state)
{
	nb_members_done = 0;
	make_reactor(3);
	assert_int_equal(reactor_start(reactor), 0);
	reactor_run(reactor, call_from_sixteen, NULL);
	reactor_destroy(reactor);
	assert_int_equal(nb_members_done, 16);
	for (int i = 0; i < 16; i++)
		assert_int_equal(calls[i].count, 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_thread_runs_jobs_in_order),
		cmocka_unit_test(test_jobs_run_in_parallel_up_to_the_bound),
		cmocka_unit_test(test_threads_are_made_when_needed),
		cmocka_unit_test(test_who_may_block_leaves_a_thread),
		cmocka_unit_test(test_workers_take_no_signals_but_their_own_faults),
		cmocka_unit_test(test_thread_start_passes_its_argument),
		cmocka_unit_test(test_run_parks_the_caller_and_works_elsewhere),
		cmocka_unit_test(test_run_without_workers_is_inline),
		cmocka_unit_test(test_the_reactor_lives_while_a_job_runs),
		cmocka_unit_test(test_many_callers_each_get_their_own_answer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
