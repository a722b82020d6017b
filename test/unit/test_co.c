/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * co: the switch, the stacks and the pool, without a reactor. The tests play the
 * scheduler: they create, resume and look.
 *
 * Assertions stand outside of coroutines, because a failing one jumps to the
 * test's own stack; coroutines record what they see.
 */
#include "io/co.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unwind.h>

#include <cmocka.h>

static struct reactor *const fake_reactor = (struct reactor *)0x1000;

#define STACK_BYTES (4 * CO_STACK_BYTES) /* roomy enough for every sanitizer */

static struct co_pool *pool_of(unsigned nb_stacks)
{
	struct co_pool *pool;
	assert_int_equal(co_pool_create(fake_reactor, nb_stacks, STACK_BYTES, &pool), 0);
	return pool;
}

struct seen {
	struct co *self;
	int steps;
};

static void two_steps(void *arg)
{
	struct seen *seen = arg;
	seen->self = co_self();
	seen->steps = 1;
	co_yield ();
	seen->steps = 2;
}

static void test_runs_from_resume_to_yield_to_end(void **state)
{
	struct co_pool *pool = pool_of(2);
	struct seen seen = {0};
	struct co *co = co_create(pool, two_steps, &seen);
	assert_non_null(co);
	assert_ptr_equal(co_reactor(co), fake_reactor);
	assert_int_equal(co_pool_alive(pool), 1);
	assert_int_equal(seen.steps, 0);

	co_resume(co);
	assert_int_equal(seen.steps, 1);
	assert_ptr_equal(seen.self, co);
	assert_null(co_self());
	assert_int_equal(co_pool_alive(pool), 1);

	co_resume(co);
	assert_int_equal(seen.steps, 2);
	assert_null(co_self());
	assert_int_equal(co_pool_alive(pool), 0);
	co_pool_destroy(pool);
}

static void test_two_interleave(void **state)
{
	struct co_pool *pool = pool_of(2);
	struct seen a = {0}, b = {0};
	struct co *co_a = co_create(pool, two_steps, &a), *co_b = co_create(pool, two_steps, &b);
	co_resume(co_a);
	co_resume(co_b);
	assert_ptr_equal(a.self, co_a);
	assert_ptr_equal(b.self, co_b);
	co_resume(co_b);
	assert_int_equal(a.steps, 1);
	assert_int_equal(b.steps, 2);
	co_resume(co_a);
	assert_int_equal(a.steps, 2);
	co_pool_destroy(pool);
}

/* Enough live values to fill every register that a callee must keep. */
struct mix {
	volatile uint64_t seed;
	uint64_t ints;
	double doubles;
};

static void mix_over_yields(void *arg)
{
	struct mix *mix = arg;
	uint64_t a = mix->seed, b = mix->seed * 3, c = mix->seed * 5, d = mix->seed * 7,
		 e = mix->seed * 11, f = mix->seed * 13, g = mix->seed * 17, h = mix->seed * 19;
	double p = (double)mix->seed, q = p * 1.25, r = p * 1.5, s = p * 1.75, t = p * 2.25,
	       u = p * 2.5, v = p * 2.75, w = p * 3.25;
	for (int i = 0; i < 1000; i++) {
		a += b, b ^= c, c += d, d ^= e, e += f, f ^= g, g += h, h ^= a;
		p += q / 2, q -= r / 4, r += s / 8, s -= t / 16, t += u / 8, u -= v / 4, v += w / 2,
			w -= p / 1024;
		if (co_self())
			co_yield ();
	}
	mix->ints = a ^ b ^ c ^ d ^ e ^ f ^ g ^ h;
	mix->doubles = p + q + r + s + t + u + v + w;
}

static void test_registers_survive(void **state)
{
	struct co_pool *pool = pool_of(3);
	struct mix mix[3] = {{.seed = 12345}, {.seed = 999}, {.seed = 77}};
	struct co *co[3];
	for (int i = 0; i < 3; i++)
		co[i] = co_create(pool, mix_over_yields, &mix[i]);
	for (int round = 0; round < 1001; round++) {
		for (int i = 0; i < 3; i++)
			co_resume(co[i]);
	}
	assert_int_equal(co_pool_alive(pool), 0);
	for (int i = 0; i < 3; i++) {
		struct mix alone = {.seed = mix[i].seed};
		mix_over_yields(&alone);
		assert_true(alone.ints == mix[i].ints);
		assert_memory_equal(&alone.doubles, &mix[i].doubles, sizeof(double));
	}
	co_pool_destroy(pool);
}

static void count_forever(void *arg)
{
	unsigned *count = arg;
	while (*count < 100000) {
		++*count;
		co_yield ();
	}
}

static void test_hundred_thousand_switches(void **state)
{
	struct co_pool *pool = pool_of(1);
	unsigned count = 0, resumes = 0;
	struct co *co = co_create(pool, count_forever, &count);
	while (co_pool_alive(pool)) {
		co_resume(co);
		resumes++;
	}
	assert_int_equal(count, 100000);
	assert_int_equal(resumes, 100001);
	co_pool_destroy(pool);
}

/* Yields at every depth on the way down and up; frames in between must stay whole. */
static int descend(int depth)
{
	volatile int marks[16];
	for (int i = 0; i < 16; i++)
		marks[i] = depth * 16 + i;
	co_yield ();
	int sum = depth > 0 ? descend(depth - 1) : 0;
	co_yield ();
	for (int i = 0; i < 16; i++)
		sum += marks[i] - depth * 16;
	return sum;
}

static void descend_from_30(void *arg)
{
	*(int *)arg = descend(30);
}

static void test_yields_from_nested_calls(void **state)
{
	struct co_pool *pool = pool_of(2);
	int sum[2] = {0};
	struct co *co[2];
	for (int i = 0; i < 2; i++)
		co[i] = co_create(pool, descend_from_30, &sum[i]);
	for (int i = 0; i < 63 * 2; i++)
		co_resume(co[i % 2]);
	assert_int_equal(co_pool_alive(pool), 0);
	assert_int_equal(sum[0], 31 * 120);
	assert_int_equal(sum[1], 31 * 120);
	co_pool_destroy(pool);
}

static void test_pool_exhaustion_and_reuse(void **state)
{
	struct co_pool *pool = pool_of(3);
	struct seen seen[4] = {0};
	struct co *co[3];
	for (int i = 0; i < 3; i++)
		assert_non_null(co[i] = co_create(pool, two_steps, &seen[i]));
	assert_null(co_create(pool, two_steps, &seen[3]));

	co_resume(co[1]);
	co_resume(co[1]);
	assert_int_equal(co_pool_alive(pool), 2);
	/* The stack that was used last comes back first. */
	assert_ptr_equal(co_create(pool, two_steps, &seen[3]), co[1]);
	assert_null(co_create(pool, two_steps, &seen[3]));

	for (int i = 0; i < 3; i++) {
		co_resume(co[i]);
		co_resume(co[i]);
	}
	assert_int_equal(seen[3].steps, 2);
	assert_ptr_equal(seen[3].self, co[1]);
	co_pool_destroy(pool);
}

static void use_16_kib(void *arg)
{
	volatile char buf[16384];
	for (size_t i = 0; i < sizeof(buf); i += 512)
		buf[i] = 1;
	++*(unsigned *)arg;
}

static void test_sequential_coroutines_share_one_stack(void **state)
{
	struct co_pool *pool = pool_of(8);
	unsigned count = 0;
	struct co *first = NULL;
	for (int i = 0; i < 10000; i++) {
		struct co *co = co_create(pool, use_16_kib, &count);
		if (!first)
			first = co;
		assert_ptr_equal(co, first);
		co_resume(co);
	}
	assert_int_equal(count, 10000);
	co_pool_destroy(pool);
}

static void look_at_alignment(void *arg)
{
	_Alignas(16) volatile char local[16];
	local[0] = 0;
	*(uintptr_t *)arg = (uintptr_t)local;
}

static void test_stack_is_aligned(void **state)
{
	struct co_pool *pool = pool_of(1);
	for (int i = 0; i < 2; i++) { /* a new stack and one in use */
		uintptr_t address = 1;
		co_resume(co_create(pool, look_at_alignment, &address));
		assert_int_equal(address % 16, 0);
	}
	co_pool_destroy(pool);
}

/* How deep the overflowing stack was when it faulted, as seen by the signal handler. */
static char *overflow_top;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	uintptr_t depth = (uintptr_t)overflow_top - (uintptr_t)info->si_addr;
	_exit(depth > STACK_BYTES - 4096 && depth < STACK_BYTES + 4096 ? 42 : 43);
}

static __attribute__((noinline)) int recurse(volatile char *above, int depth)
{
	volatile char frame[512];
	frame[0] = *above;
	return depth > 0 ? recurse(frame, depth - 1) + frame[0] : 0;
}

static void overflow_stack(void *arg)
{
	overflow_top = __builtin_frame_address(0);
	*(int *)arg = recurse(arg, 1 << 20);
}

static void overflow_in_child(void)
{
	stack_t alternate = {.ss_sp = malloc(65536), .ss_size = 65536};
	sigaltstack(&alternate, NULL);
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	sigaction(SIGSEGV, &action, NULL);

	struct co_pool *pool = pool_of(2);
	struct seen seen;
	int ignored = 0;
	/* The stack below the overflowing one is in use too. */
	co_resume(co_create(pool, two_steps, &seen));
	co_resume(co_create(pool, overflow_stack, &ignored));
	_exit(0);
}

static void test_overflow_hits_the_guard_page(void **state)
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0)
		overflow_in_child();
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42);
}

static void *resume_elsewhere(void *arg)
{
	co_resume(arg);
	return co_self();
}

static void look_at_self(void *arg)
{
	struct co **self = arg;
	self[0] = co_self();
	co_yield ();
	self[1] = co_self();
	co_yield ();
	self[2] = co_self();
}

static void test_moves_to_another_thread(void **state)
{
	struct co_pool *pool = pool_of(1);
	struct co *self[3] = {0};
	struct co *co = co_create(pool, look_at_self, self);
	co_resume(co);
	pthread_t thread;
	void *outside = co;
	assert_int_equal(pthread_create(&thread, NULL, resume_elsewhere, co), 0);
	pthread_join(thread, &outside);
	assert_null(outside);
	co_resume(co);
	for (int i = 0; i < 3; i++)
		assert_ptr_equal(self[i], co);
	assert_int_equal(co_pool_alive(pool), 0);
	co_pool_destroy(pool);
}

struct trace {
	unsigned nb_frames;
	_Unwind_Reason_Code end;
};

static _Unwind_Reason_Code count_frame(struct _Unwind_Context *context, void *arg)
{
	struct trace *trace = arg;
	return ++trace->nb_frames > 100 ? _URC_NORMAL_STOP : _URC_NO_REASON;
}

static void take_backtrace(void *arg)
{
	struct trace *trace = arg;
	co_yield ();
	trace->end = _Unwind_Backtrace(count_frame, trace);
}

static void test_backtraces_end(void **state)
{
	struct co_pool *pool = pool_of(1);
	for (int i = 0; i < 2; i++) {
		struct trace trace = {0};
		struct co *co = co_create(pool, take_backtrace, &trace);
		co_resume(co);
		co_resume(co);
		assert_int_equal(trace.end, _URC_END_OF_STACK);
		assert_in_range(trace.nb_frames, 2, 10);
	}
	co_pool_destroy(pool);
}

static void test_impossible_pools_are_refused(void **state)
{
	struct co_pool *pool = NULL;
	assert_true(co_pool_create(fake_reactor, 1u << 20, (size_t)1 << 44, &pool) < 0);
	assert_true(co_pool_create(fake_reactor, 2, (size_t)1 << 63, &pool) < 0);
	assert_null(pool);
	co_pool_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_runs_from_resume_to_yield_to_end),
		cmocka_unit_test(test_two_interleave),
		cmocka_unit_test(test_registers_survive),
		cmocka_unit_test(test_hundred_thousand_switches),
		cmocka_unit_test(test_yields_from_nested_calls),
		cmocka_unit_test(test_pool_exhaustion_and_reuse),
		cmocka_unit_test(test_sequential_coroutines_share_one_stack),
		cmocka_unit_test(test_stack_is_aligned),
		cmocka_unit_test(test_overflow_hits_the_guard_page),
		cmocka_unit_test(test_moves_to_another_thread),
		cmocka_unit_test(test_backtraces_end),
		cmocka_unit_test(test_impossible_pools_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
