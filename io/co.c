/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * co: the coroutines themselves, their stacks, and the hooks that tell
 * sanitizers and valgrind about a change of stack.
 *
 * Invariants:
 *   C1  A coroutine is FREE (in pool->free), CREATED, PARKED or RUNNING; at most one
 *       of a pool is RUNNING, and `running` of that thread names it.
 *   C2  Switches go from the scheduler to a coroutine and back, never from one
 *       coroutine to another.
 *   C3  A stack that has run once stays inside co_main()'s loop for ever: the
 *       next coroutine on it starts with an ordinary switch.
 *
 * The stacks lie in one mapping, each with an inaccessible page below it:
 *
 *   | guard | stack 0 | guard | stack 1 | ...
 *
 * Free stacks are reused last in, first out, so that few are ever touched.
 *
 * Threads: a pool belongs to its reactor. The reactor may be run by one thread
 * first and another one later, so a coroutine can wake up on a different thread
 * than it parked on: thread-local variables are read through functions that
 * are not inlined, because compilers keep their addresses in registers.
 */
#include "io/co.h"

#include "io/sanitizer.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(CO_UCONTEXT) || !defined(__LP64__) || !(defined(__x86_64__) || defined(__aarch64__))
#define CO_PORTABLE 1
#include <ucontext.h>
#endif

/* What is kept of a flow of control while it does not run. */
struct co_context {
#ifdef CO_PORTABLE
	ucontext_t uc;
#else
	void *sp; /* the registers are on its stack */
#endif
#ifdef WITH_ASAN
	void *fake_stack;
#endif
#ifdef WITH_TSAN
	void *fiber;
#endif
};

enum co_state { CO_FREE, CO_CREATED, CO_PARKED, CO_RUNNING };

struct co {
	struct co_context context;
	enum co_state state;
	struct co_link link; /* link.next: also the list of free ones */
	struct co_pool *pool;
	void (*fn)(void *arg);
	void *arg;
	char *stack; /* lowest address */
	unsigned valgrind_id;
};

struct co_pool {
	struct co_pool *next; /* in all_pools */
	struct reactor *reactor;
	struct co_context scheduler; /* while a coroutine runs */
#ifdef WITH_ASAN
	const void *scheduler_stack;
	size_t scheduler_stack_bytes;
#endif
	struct co *free;
	unsigned nb_alive, nb_stacks;
	size_t stack_bytes, guard_bytes;
	char *region;
	struct co cos[];
};

/* For co-gdb.py, which has no other way to find what is parked. */
static struct co_pool *all_pools;
static pthread_mutex_t all_pools_lock = PTHREAD_MUTEX_INITIALIZER;

static __thread struct co *running;

static __attribute__((noinline)) void set_running(struct co *co)
{
	running = co;
	__asm__ volatile(
		"" ::
			: "memory"); /* noinline alone does not forbid cloning the effect away */
}

__attribute__((noinline)) struct co *co_self(void)
{
	struct co *co = running;
	__asm__ volatile("" : "+r"(co));
	return co;
}

/* ---- the switch ---- */

void co_main(struct co *co) __attribute__((noreturn));

#ifdef CO_PORTABLE

static inline void context_switch(struct co_context *from, struct co_context *to)
{
	if (swapcontext(&from->uc, &to->uc) < 0)
		abort();
}

/* makecontext() passes integers only. */
static void portable_start(unsigned high, unsigned low)
{
	co_main((struct co *)(uintptr_t)((uint64_t)high << 32 | low));
}

static int context_init(struct co *co)
{
	uint64_t self = (uintptr_t)co;
	if (getcontext(&co->context.uc) < 0)
		return -errno;
	co->context.uc.uc_stack.ss_sp = co->stack;
	co->context.uc.uc_stack.ss_size = co->pool->stack_bytes;
	co->context.uc.uc_link = NULL;
	makecontext(&co->context.uc, (void (*)(void))portable_start, 2, (unsigned)(self >> 32),
		    (unsigned)self);
	return 0;
}

#else

/* co_switch_*.S */
void co_switch(void **ret_sp, void *sp);
void co_switch_start(void);

#if defined(__x86_64__)
enum { FRAME_WORDS = 7, FRAME_ARG = 3 /* r12 */, FRAME_PC = 6 };
#else
enum { FRAME_WORDS = 20, FRAME_ARG = 2 /* x19 */, FRAME_PC = 1 };
#endif

static inline void context_switch(struct co_context *from, struct co_context *to)
{
	co_switch(&from->sp, to->sp);
}

/* The frame of saved registers that co_switch() finds at its first switch to this stack. */
static int context_init(struct co *co)
{
	uintptr_t *frame = (uintptr_t *)(co->stack + co->pool->stack_bytes) - FRAME_WORDS;
	frame[FRAME_ARG] = (uintptr_t)co;
	frame[FRAME_PC] = (uintptr_t)co_switch_start;
	co->context.sp = frame;
	return 0;
}

#endif

/*
 * The hooks stand in functions that are always inlined: between telling TSan
 * about the new fiber and being on it, no instrumented function may return.
 */
static inline __attribute__((always_inline)) void switch_to_coroutine(struct co *co)
{
	struct co_pool *pool = co->pool;
#ifdef WITH_ASAN
	__sanitizer_start_switch_fiber(&pool->scheduler.fake_stack, co->stack, pool->stack_bytes);
#endif
#ifdef WITH_TSAN
	pool->scheduler.fiber = __tsan_get_current_fiber();
	if (!co->context.fiber)
		co->context.fiber = __tsan_create_fiber(0);
	__tsan_switch_to_fiber(co->context.fiber, 0);
#endif
	context_switch(&pool->scheduler, &co->context);
#ifdef WITH_ASAN
	__sanitizer_finish_switch_fiber(pool->scheduler.fake_stack, NULL, NULL);
#endif
}

/* The first thing that runs on a coroutine's stack after each switch to it. */
static inline __attribute__((always_inline)) void arrived_in_coroutine(struct co *co)
{
#ifdef WITH_ASAN
	__sanitizer_finish_switch_fiber(co->context.fake_stack, &co->pool->scheduler_stack,
					&co->pool->scheduler_stack_bytes);
#endif
}

/* `last`: nothing of the current call chain is needed any more. */
static inline __attribute__((always_inline)) void switch_to_scheduler(struct co *co, bool last)
{
	struct co_pool *pool = co->pool;
#ifdef WITH_ASAN
	co->context.fake_stack = NULL;
	__sanitizer_start_switch_fiber(last ? NULL : &co->context.fake_stack, pool->scheduler_stack,
				       pool->scheduler_stack_bytes);
#endif
#ifdef WITH_TSAN
	__tsan_switch_to_fiber(pool->scheduler.fiber, 0);
#endif
	context_switch(&co->context, &pool->scheduler);
	arrived_in_coroutine(co);
}

/* What runs at the bottom of every stack. */
__attribute__((used)) void co_main(struct co *co)
{
	arrived_in_coroutine(co);
	for (;;) {
		co->fn(co->arg);
		co->state = CO_FREE;
		switch_to_scheduler(co, true);
	}
}

void co_resume(struct co *co)
{
	assert(!co_self() && (co->state == CO_CREATED || co->state == CO_PARKED)); /* C1, C2 */
	co->state = CO_RUNNING;
	set_running(co);
	switch_to_coroutine(co);
	set_running(NULL);

	if (co->state == CO_FREE) {
		assert(!co->link.ready); /* nobody may wake what has ended */
		struct co_pool *pool = co->pool;
		co->link.next = pool->free;
		pool->free = co;
		pool->nb_alive--;
	}
}

void coroutine_fn co_yield (void)
{
	struct co *co = co_self();
	assert(co && co->state == CO_RUNNING);
	co->state = CO_PARKED;
	switch_to_scheduler(co, false);
}

struct co *co_create(struct co_pool *pool, void (*fn)(void *arg), void *arg)
{
	struct co *co = pool->free;
	if (!co)
		return NULL;
	pool->free = co->link.next;
	pool->nb_alive++;

	co->link = (struct co_link){0};
	co->state = CO_CREATED;
	co->fn = fn;
	co->arg = arg;
	return co;
}

/* ---- pools ---- */

static int map_stacks(struct co_pool *pool)
{
	size_t slot_bytes, region_bytes;
	if (__builtin_add_overflow(pool->stack_bytes, pool->guard_bytes, &slot_bytes) ||
	    __builtin_mul_overflow(slot_bytes, pool->nb_stacks, &region_bytes))
		return -ENOMEM;

	/* All of it inaccessible first: the guards are what is not opened afterwards. */
	pool->region = mmap(NULL, region_bytes, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (pool->region == MAP_FAILED) {
		pool->region = NULL;
		return -errno;
	}
	for (unsigned i = 0; i < pool->nb_stacks; i++) {
		struct co *co = &pool->cos[i];
		co->stack = pool->region + i * slot_bytes + pool->guard_bytes;
		if (mprotect(co->stack, pool->stack_bytes, PROT_READ | PROT_WRITE) < 0)
			return -errno;
	}
	return 0;
}

static int init_coroutines(struct co_pool *pool)
{
	for (unsigned i = pool->nb_stacks; i-- > 0;) {
		struct co *co = &pool->cos[i];
		co->pool = pool;
		co->valgrind_id =
			VALGRIND_STACK_REGISTER(co->stack, co->stack + pool->stack_bytes - 1);
		int ret = context_init(co);
		if (ret < 0)
			return ret;
		co->link.next = pool->free;
		pool->free = co;
	}
	return 0;
}

static void register_pool(struct co_pool *pool)
{
	pthread_mutex_lock(&all_pools_lock);
	pool->next = all_pools;
	all_pools = pool;
	pthread_mutex_unlock(&all_pools_lock);
}

static void unregister_pool(struct co_pool *pool)
{
	pthread_mutex_lock(&all_pools_lock);
	for (struct co_pool **link = &all_pools; *link; link = &(*link)->next) {
		if (*link == pool) {
			*link = pool->next;
			break;
		}
	}
	pthread_mutex_unlock(&all_pools_lock);
}

int co_pool_create(struct reactor *reactor, unsigned nb_stacks, size_t stack_bytes,
		   struct co_pool **ret_pool)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	assert(nb_stacks > 0 && stack_bytes > 0 && stack_bytes % page_bytes == 0);

	struct co_pool *pool = calloc(1, sizeof(*pool) + nb_stacks * sizeof(pool->cos[0]));
	if (!pool)
		return -ENOMEM;
	pool->reactor = reactor;
	pool->nb_stacks = nb_stacks;
	pool->stack_bytes = stack_bytes;
	pool->guard_bytes = page_bytes;

	int ret = map_stacks(pool);
	if (ret == 0)
		ret = init_coroutines(pool);
	if (ret < 0) {
		co_pool_destroy(pool);
		return ret;
	}
	register_pool(pool);
	*ret_pool = pool;
	return 0;
}

void co_pool_destroy(struct co_pool *pool)
{
	if (!pool)
		return;
	assert(pool->nb_alive == 0);
	unregister_pool(pool);
	for (unsigned i = 0; i < pool->nb_stacks; i++) {
		if (pool->cos[i].pool)
			VALGRIND_STACK_DEREGISTER(pool->cos[i].valgrind_id);
#ifdef WITH_TSAN
		if (pool->cos[i].context.fiber)
			__tsan_destroy_fiber(pool->cos[i].context.fiber);
#endif
	}
	if (pool->region)
		munmap(pool->region, pool->nb_stacks * (pool->stack_bytes + pool->guard_bytes));
	free(pool);
}

unsigned co_pool_alive(const struct co_pool *pool)
{
	return pool->nb_alive;
}

struct reactor *co_reactor(const struct co *co)
{
	return co->pool->reactor;
}

struct co_link *co_link(struct co *co)
{
	return &co->link;
}
