/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * reactor: the loop, its ready queue, its inbox and its timers.
 *
 * Invariants:
 *   R1  A coroutine stands in the ready queue at most once: link.ready says so.
 *   R2  Tasks start in the order of arrival: while a `pending` list holds any, no
 *       stack is free for its kind and later tasks go behind them. Background work
 *       has a few stacks more than the others: those may wait for it.
 *   R3  No wake-up is lost. Who sleeps writes `sleeping` and then reads the
 *       inbox (or `stopping`); who posts writes the inbox and then reads
 *       `sleeping`. All are sequentially consistent: at least one sees the other.
 *   R4  One thread at a time runs the loop: `running`, under `lock`.
 *   R5  Without work the loop waits in the engine until a completion, the next timer, a post, or
 *       something to take from the source. Before that it may look around for busy_ns, where it
 *       waits for clients alone and as long as that pays: attempts in vain make the number of
 *       sleeps before the next ones four times as large, each success halves it. Who waits for a
 *       disk or a worker sleeps: looking brings nothing sooner, and takes a CPU.
 *
 * One round: clock, inbox, timers, source, a turn of the ready coroutines, what was deferred, more
 * turns, engine. Coroutines that become ready while others run belong to the same round, so one
 * system call submits what all of them asked for; ROUND_MAX bounds that, so that coroutines which
 * wake each other cannot keep I/O and timers from being looked at.
 */
#include "io/reactor.h"

#include "io/engine.h"
#include "io/sanitizer.h"
#include "io/thread.h"
#include "io/worker.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#define DEFAULT_COROUTINES 256
#define BACKGROUND_COROUTINES 2 /* beyond those */
#define ROUND_MAX 1024
/* So many sleeps, at most, lie between two attempts at looking around. */
#define BUSY_SKIP_MAX 127
/*
 * It looks in vain so often before it gives up: the clients' and our CPU have gone to sleep in
 * turns, and it takes some quick answers until none does.
 */
#define BUSY_PATIENCE 4
/* So many looks that pay make up for one in vain. */
#define BUSY_PRICE 3

/* Sanitizers and unoptimised builds need several times the stack. */
#if defined(WITH_ASAN) || defined(WITH_TSAN) || !defined(__OPTIMIZE__)
#define STACK_BYTES (4 * CO_STACK_BYTES)
#else
#define STACK_BYTES CO_STACK_BYTES
#endif

struct task_list {
	struct task *head, *tail;
};

enum task_kind { TASK_REQUEST, TASK_BACKGROUND, TASK_KINDS };

struct reactor {
	const char *name;

	/* The thread that runs the loop. */
	struct engine *engine;
	struct co_pool *pool;
	struct worker_pool *workers;
	struct co *ready_head, *ready_tail;
	unsigned nb_ready;
	unsigned nb_max[TASK_KINDS];          /* coroutines alive, to start one of that kind */
	struct task_list pending[TASK_KINDS]; /* no stack was free */
	struct task_list deferred;            /* until the others had a turn */
	struct timer *timers;                 /* sorted by due_ns, first the next one */
	struct timer *timers_tail;
	uint64_t now_ns;
	struct reactor_source *source;
	bool source_empty; /* when it was last asked; `watch` tells of more */
	bool watching;
	struct engine_watch watch;
	uint64_t busy_ns;       /* 0: sleep at once */
	uint64_t busy_until_ns; /* 0: not looking around */
	unsigned busy_skip;     /* sleeps from one attempt at it to the next */
	unsigned busy_skipped;  /* since the last one */
	unsigned busy_debt;     /* looks that must pay to make up for those in vain */
	bool waited_for_io;     /* by the last sleep */
	reactor_chooser *choose;
	void *choose_ctx;

	/* Every thread. */
	_Atomic(struct task *) inbox; /* last in first */
	atomic_bool sleeping;
	atomic_bool stopping;

	pthread_mutex_t lock; /* the rest */
	pthread_cond_t changed;
	bool running; /* some thread runs the loop */
	bool has_thread;
	pthread_t thread;
};

static __thread const struct reactor *current;

/* Not inlined for the reason given in co.c: coroutines can change threads. */
static __attribute__((noinline)) void set_current(const struct reactor *reactor)
{
	current = reactor;
	__asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) bool reactor_is_current(const struct reactor *reactor)
{
	const struct reactor *mine = current;
	__asm__ volatile("" : "+r"(mine));
	return mine == reactor;
}

/* ---- ready queue ---- */

void reactor_wake(struct co *co)
{
	struct reactor *reactor = co_reactor(co);
	struct co_link *link = co_link(co);
	if (link->ready)
		return; /* R1 */
	link->ready = 1;
	link->next = NULL;
	if (reactor->ready_tail)
		co_link(reactor->ready_tail)->next = co;
	else
		reactor->ready_head = co;
	reactor->ready_tail = co;
	reactor->nb_ready++;
}

void coroutine_fn reactor_pass(void)
{
	struct co *co = co_self();

	if (co_reactor(co)->nb_ready == 0)
		return;
	reactor_wake(co);
	co_yield ();
}

/* Takes the first ready coroutine, or the one that the chooser picks. */
static struct co *take_ready(struct reactor *reactor)
{
	unsigned skip = 0;
	if (reactor->choose && reactor->nb_ready > 1) {
		skip = reactor->choose(reactor->choose_ctx, reactor->nb_ready);
		assert(skip < reactor->nb_ready);
	}

	struct co *previous = NULL, *co = reactor->ready_head;
	while (skip-- > 0) {
		previous = co;
		co = co_link(co)->next;
	}
	struct co_link *link = co_link(co);
	if (previous)
		co_link(previous)->next = link->next;
	else
		reactor->ready_head = link->next;
	if (reactor->ready_tail == co)
		reactor->ready_tail = previous;
	reactor->nb_ready--;
	link->next = NULL;
	link->ready = 0;
	return co;
}

/* ---- tasks ---- */

static void append(struct task_list *list, struct task *task)
{
	task->next = NULL;
	*(list->tail ? &list->tail->next : &list->head) = task;
	list->tail = task;
}

/* The first one, which there is. */
static void remove_first(struct task_list *list)
{
	list->head = list->head->next;
	if (!list->head)
		list->tail = NULL;
}

static bool start_task(struct reactor *reactor, struct task *task, enum task_kind kind)
{
	struct co *co;

	if (co_pool_alive(reactor->pool) >= reactor->nb_max[kind])
		return false;
	co = co_create(reactor->pool, task->fn, task->arg);
	reactor_wake(co);
	return true;
}

static void spawn(struct reactor *reactor, struct task *task, enum task_kind kind)
{
	if (!start_task(reactor, task, kind)) /* R2: if it starts, nobody is pending */
		append(&reactor->pending[kind], task);
}

void reactor_spawn(struct reactor *reactor, struct task *task)
{
	spawn(reactor, task, TASK_REQUEST);
}

void reactor_spawn_background(struct reactor *reactor, struct task *task)
{
	spawn(reactor, task, TASK_BACKGROUND);
}

bool reactor_try_spawn(struct reactor *reactor, struct task *task)
{
	return start_task(reactor, task, TASK_REQUEST);
}

static void start_pending(struct reactor *reactor, enum task_kind kind)
{
	struct task_list *list = &reactor->pending[kind];

	while (list->head && start_task(reactor, list->head, kind))
		remove_first(list);
}

void reactor_defer(struct reactor *reactor, struct task *task)
{
	append(&reactor->deferred, task);
}

static void run_deferred(struct reactor *reactor)
{
	struct task_list *list = &reactor->deferred;

	while (list->head) {
		struct task *task = list->head;
		remove_first(list);
		task->fn(task->arg);
	}
}

/* ---- inbox ---- */

/* Never called: its address marks the task of a struct wakeup in the inbox. */
static void wakeup_mark(void *arg)
{
	abort();
}

static void interrupt_sleep(struct reactor *reactor)
{
	/* R3. The exchange lets only one of several posters write the eventfd. */
	if (atomic_load(&reactor->sleeping) && atomic_exchange(&reactor->sleeping, false))
		reactor->engine->ops->wake(reactor->engine);
}

void reactor_post(struct reactor *reactor, struct task *task)
{
	struct task *head = atomic_load_explicit(&reactor->inbox, memory_order_relaxed);
	do {
		task->next = head;
	} while (!atomic_compare_exchange_weak(&reactor->inbox, &head, task));
	interrupt_sleep(reactor);
}

void reactor_wake_remote(struct reactor *reactor, struct wakeup *wake, struct co *co)
{
	wake->task.fn = wakeup_mark;
	wake->task.arg = wake;
	wake->co = co;
	reactor_post(reactor, &wake->task);
}

static void take_inbox(struct reactor *reactor)
{
	if (!atomic_load_explicit(&reactor->inbox, memory_order_relaxed))
		return;
	struct task *newest = atomic_exchange(&reactor->inbox, NULL);

	struct task *oldest = NULL;
	while (newest) {
		struct task *next = newest->next;
		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	while (oldest) {
		struct task *task = oldest;
		oldest = task->next; /* before the task is its owner's again */
		if (task->fn == wakeup_mark)
			reactor_wake(((struct wakeup *)task->arg)->co);
		else
			reactor_spawn(reactor, task);
	}
}

/* ---- timers ---- */

void timer_arm(struct reactor *reactor, struct timer *timer, uint64_t due_ns)
{
	if (timer->armed)
		timer_disarm(reactor, timer);

	/* From the end: most timers are due after those that were armed before them. */
	struct timer *previous = reactor->timers_tail;
	while (previous && previous->due_ns > due_ns)
		previous = previous->prev;

	timer->due_ns = due_ns;
	timer->armed = true;
	timer->prev = previous;
	timer->next = previous ? previous->next : reactor->timers;
	if (timer->next)
		timer->next->prev = timer;
	else
		reactor->timers_tail = timer;
	if (previous)
		previous->next = timer;
	else
		reactor->timers = timer;
}

void timer_disarm(struct reactor *reactor, struct timer *timer)
{
	if (!timer->armed)
		return;
	if (timer->prev)
		timer->prev->next = timer->next;
	else
		reactor->timers = timer->next;
	if (timer->next)
		timer->next->prev = timer->prev;
	else
		reactor->timers_tail = timer->prev;
	timer->prev = timer->next = NULL;
	timer->armed = false;
}

static void fire_timers(struct reactor *reactor)
{
	struct timer *timer;
	while ((timer = reactor->timers) && timer->due_ns <= reactor->now_ns) {
		timer_disarm(reactor, timer);
		timer->fn(timer);
	}
}

/* ---- the source ---- */

void reactor_set_source(struct reactor *reactor, struct reactor_source *source)
{
	reactor->source = source;
	reactor->source_empty = false;
}

static void source_ready(struct engine_watch *watch)
{
	struct reactor *reactor =
		(struct reactor *)((char *)watch - offsetof(struct reactor, watch));

	reactor->watching = false;
	reactor->source_empty = false;
}

static bool may_have_more(const struct reactor *reactor)
{
	return reactor->source && !reactor->source_empty;
}

/* Whether there was something. */
static bool take_from_source(struct reactor *reactor)
{
	if (!may_have_more(reactor))
		return false;
	reactor->source_empty = reactor->source->take(reactor->source) == 0;
	return !reactor->source_empty;
}

/* Before the engine waits. */
static void watch_source(struct reactor *reactor)
{
	if (!reactor->source || reactor->watching)
		return;
	reactor->watching = true;
	reactor->watch.fd = reactor->source->fd;
	reactor->engine->ops->watch(reactor->engine, &reactor->watch);
}

/* ---- looking around instead of sleeping (R5) ---- */

static uint64_t read_clock(const struct reactor *reactor)
{
	return reactor->engine->ops->now_ns(reactor->engine);
}

static void end_look(struct reactor *reactor, bool paid)
{
	reactor->busy_until_ns = 0;
	if (paid && reactor->busy_debt > 0)
		reactor->busy_debt--;
	else if (paid)
		reactor->busy_skip /= 2;
	else
		reactor->busy_debt += BUSY_PRICE;
	if (reactor->busy_debt < BUSY_PATIENCE * BUSY_PRICE)
		return;
	reactor->busy_skip =
		reactor->busy_skip < BUSY_SKIP_MAX / 4 ? 4 * reactor->busy_skip + 3 : BUSY_SKIP_MAX;
	reactor->busy_skipped = reactor->busy_debt = 0;
}

/* Before a sleep: is it one that looking around may save? */
static bool may_look(struct reactor *reactor)
{
	bool after_io = reactor->waited_for_io;

	reactor->waited_for_io = co_pool_alive(reactor->pool) > 0;
	if (after_io || reactor->waited_for_io)
		return false;
	if (reactor->busy_debt > 0 || reactor->busy_skipped >= reactor->busy_skip)
		return true;
	reactor->busy_skipped++;
	return false;
}

/* Nothing is to be done: whether to look once more. */
static bool look_around(struct reactor *reactor)
{
	if (!reactor->busy_ns)
		return false;
	if (!reactor->busy_until_ns) {
		if (!may_look(reactor))
			return false;
		reactor->busy_until_ns = read_clock(reactor) + reactor->busy_ns;
		return true;
	}
	if (read_clock(reactor) < reactor->busy_until_ns)
		return true;
	end_look(reactor, false);
	return false;
}

/* Looking around has paid, if it was tried. */
void reactor_found_work(struct reactor *reactor)
{
	if (reactor->busy_until_ns)
		end_look(reactor, true);
}

void reactor_set_busy(struct reactor *reactor, uint64_t busy_ns)
{
	reactor->busy_ns = busy_ns;
	reactor->busy_until_ns = 0;
	reactor->busy_skip = reactor->busy_skipped = reactor->busy_debt = 0;
}

/* ---- the loop ---- */

static void run_ready(struct reactor *reactor, unsigned nb_max)
{
	for (unsigned i = 0; i < nb_max && reactor->nb_ready > 0; i++) {
		co_resume(take_ready(reactor));
		start_pending(reactor, TASK_BACKGROUND);
		start_pending(reactor, TASK_REQUEST);
	}
}

/* How long the engine may wait when nothing is ready. */
static uint64_t idle_ns(const struct reactor *reactor)
{
	if (!reactor->timers)
		return UINT64_MAX;
	uint64_t now_ns = read_clock(reactor); /* the coroutines took their time */
	if (reactor->timers->due_ns <= now_ns)
		return 0;
	/* Three centuries are for ever: no engine shall overflow when it adds its own clock. */
	uint64_t left_ns = reactor->timers->due_ns - now_ns;
	return left_ns > INT64_MAX ? UINT64_MAX : left_ns;
}

/* The end of a loop: `arg` belongs to the caller of run_loop(). */
typedef bool loop_end(struct reactor *reactor, void *arg);

static void wait_for_engine(struct reactor *reactor, loop_end *ended, void *arg)
{
	struct engine *engine = reactor->engine;
	uint64_t timeout_ns = reactor->nb_ready > 0 ? 0 : idle_ns(reactor);
	if (timeout_ns == 0 || may_have_more(reactor) || look_around(reactor)) {
		engine->ops->wait(engine, 0);
		/* It found no time to look: the next round does. */
		reactor->source_empty = false;
		return;
	}
	watch_source(reactor);
	/*
	 * R3. A sequentially consistent store would be enough, and on x86 it is this
	 * instruction anyway, but qemu-user 7.2 lets an aarch64 stlr pass a later ldar.
	 */
	atomic_exchange(&reactor->sleeping, true);
	if (atomic_load(&reactor->inbox) || ended(reactor, arg))
		timeout_ns = 0; /* came after this round looked */
	engine->ops->wait(engine, timeout_ns);
	atomic_store(&reactor->sleeping, false);
}

static void run_loop(struct reactor *reactor, loop_end *ended, void *arg)
{
	set_current(reactor);
	for (;;) {
		reactor->now_ns = read_clock(reactor);
		take_inbox(reactor);
		fire_timers(reactor);
		if (take_from_source(reactor) || reactor->nb_ready > 0 || reactor->deferred.head)
			reactor_found_work(reactor);
		run_ready(reactor, reactor->nb_ready);
		run_deferred(reactor);
		run_ready(reactor, ROUND_MAX);
		run_deferred(reactor);
		if (ended(reactor, arg))
			break;
		wait_for_engine(reactor, ended, arg);
	}
	set_current(NULL);
}

static bool drained(struct reactor *reactor, void *arg)
{
	return atomic_load(&reactor->stopping) && co_pool_alive(reactor->pool) == 0 &&
	       !atomic_load(&reactor->inbox);
}

static void *reactor_thread(void *arg)
{
	struct reactor *reactor = arg;
	run_loop(reactor, drained, NULL);
	return NULL;
}

/* Waits until no thread runs the loop, then makes the caller the one. Under the lock. */
static void claim_loop(struct reactor *reactor)
{
	while (reactor->running)
		pthread_cond_wait(&reactor->changed, &reactor->lock);
	reactor->running = true;
}

/* Under the lock. */
static void release_loop(struct reactor *reactor)
{
	reactor->running = false;
	pthread_cond_broadcast(&reactor->changed);
}

int reactor_start(struct reactor *reactor)
{
	pthread_mutex_lock(&reactor->lock);
	assert(!reactor->has_thread);
	claim_loop(reactor);
	int ret = thread_start(&reactor->thread, reactor->name, reactor_thread, reactor);
	reactor->has_thread = ret == 0;
	if (ret < 0)
		release_loop(reactor);
	pthread_mutex_unlock(&reactor->lock);
	return ret;
}

void reactor_stop(struct reactor *reactor)
{
	assert(!reactor_is_current(reactor));
	pthread_mutex_lock(&reactor->lock);
	bool has_thread = reactor->has_thread;
	if (!has_thread)
		claim_loop(reactor);
	pthread_mutex_unlock(&reactor->lock);

	atomic_exchange(&reactor->stopping, true); /* R3 */
	if (has_thread) {
		interrupt_sleep(reactor);
		pthread_join(reactor->thread, NULL);
	} else {
		run_loop(reactor, drained, NULL);
	}

	atomic_store(&reactor->stopping, false);

	pthread_mutex_lock(&reactor->lock);
	reactor->has_thread = false;
	release_loop(reactor);
	pthread_mutex_unlock(&reactor->lock);
}

/* ---- reactor_run() ---- */

struct run_call {
	struct task task;
	struct reactor *reactor;
	void (*fn)(void *arg);
	void *arg;
	bool done; /* under the reactor's lock */
};

static void run_call_coroutine(void *arg)
{
	struct run_call *call = arg;
	struct reactor *reactor = call->reactor;
	call->fn(call->arg);
	pthread_mutex_lock(&reactor->lock);
	call->done = true;
	pthread_cond_broadcast(&reactor->changed);
	pthread_mutex_unlock(&reactor->lock);
}

static bool call_done(struct reactor *reactor, void *arg)
{
	struct run_call *call = arg;
	pthread_mutex_lock(&reactor->lock);
	bool done = call->done;
	pthread_mutex_unlock(&reactor->lock);
	return done;
}

void reactor_run(struct reactor *reactor, void (*fn)(void *arg), void *arg)
{
	assert(!reactor_is_current(reactor));
	struct run_call call = {.reactor = reactor, .fn = fn, .arg = arg};
	call.task.fn = run_call_coroutine;
	call.task.arg = &call;
	reactor_post(reactor, &call.task);

	pthread_mutex_lock(&reactor->lock);
	while (!call.done) {
		if (reactor->running) {
			pthread_cond_wait(&reactor->changed, &reactor->lock);
			continue;
		}
		/* Nobody runs it, or whoever did has got what it wanted and left. */
		reactor->running = true;
		pthread_mutex_unlock(&reactor->lock);
		run_loop(reactor, call_done, &call);
		pthread_mutex_lock(&reactor->lock);
		release_loop(reactor);
	}
	pthread_mutex_unlock(&reactor->lock);
}

/* ---- life ---- */

int reactor_create(const struct reactor_params *params, struct reactor **ret_reactor)
{
	struct engine *engine = params->engine;
	struct reactor *reactor = calloc(1, sizeof(*reactor));
	if (!reactor) {
		engine->ops->destroy(engine);
		return -ENOMEM;
	}
	reactor->name = params->name ? params->name : "reactor";
	reactor->engine = engine;
	reactor->busy_ns = params->busy_ns;
	reactor->watch.ready = source_ready;
	pthread_mutex_init(&reactor->lock, NULL);
	pthread_cond_init(&reactor->changed, NULL);

	unsigned nb_coroutines = params->nb_coroutines ? params->nb_coroutines : DEFAULT_COROUTINES;
	reactor->nb_max[TASK_REQUEST] = nb_coroutines;
	reactor->nb_max[TASK_BACKGROUND] = nb_coroutines + BACKGROUND_COROUTINES;
	int ret = co_pool_create(reactor, reactor->nb_max[TASK_BACKGROUND], STACK_BYTES,
				 &reactor->pool);
	if (ret == 0 && params->nb_workers > 0)
		ret = worker_pool_create(params->nb_workers, &reactor->workers);
	if (ret == 0)
		ret = engine->ops->attach(engine, reactor);
	if (ret < 0) {
		reactor_destroy(reactor);
		return ret;
	}
	reactor->now_ns = read_clock(reactor);
	*ret_reactor = reactor;
	return 0;
}

void reactor_destroy(struct reactor *reactor)
{
	if (!reactor)
		return;
	if (reactor->has_thread)
		reactor_stop(reactor);
	assert(!atomic_load(&reactor->inbox) && reactor_nb_coroutines(reactor) == 0 &&
	       !reactor->deferred.head);

	/* Workers first: they may still be inside the engine's wake(). */
	worker_pool_destroy(reactor->workers);
	reactor->engine->ops->destroy(reactor->engine);
	co_pool_destroy(reactor->pool);
	pthread_cond_destroy(&reactor->changed);
	pthread_mutex_destroy(&reactor->lock);
	free(reactor);
}

/* ---- what it consists of ---- */

uint64_t reactor_now_ns(const struct reactor *reactor)
{
	return reactor->now_ns;
}

struct engine *reactor_engine(const struct reactor *reactor)
{
	return reactor->engine;
}

struct worker_pool *reactor_workers(const struct reactor *reactor)
{
	return reactor->workers;
}

void reactor_set_chooser(struct reactor *reactor, reactor_chooser *choose, void *ctx)
{
	reactor->choose = choose;
	reactor->choose_ctx = ctx;
}

unsigned reactor_nb_coroutines(const struct reactor *reactor)
{
	return reactor->pool ? co_pool_alive(reactor->pool) : 0;
}
