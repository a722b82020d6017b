/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* unit: the work of one process of the driver. See driver.h. */
#include "test/sim/choose.h"
#include "test/sim/driver.h"
#include "test/sim/union.h"
#include "test/sim/verdict.h"
#include "test/sim/workload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/*
 * Between two runs or states. Of the processor's time, so that a busy machine is no
 * failure; who waits for ever uses none, and the disk reports that as a deadlock.
 */
#define WATCHDOG_SECONDS 20

static const char *const part_names[PART_COUNT] = {"pairs",  "triples", "random",
						   "faults", "allocs",  "schedules"};

const char *part_name(enum part part)
{
	return part_names[part];
}

static void set_watchdog(time_t seconds)
{
	const struct itimerval timer = {.it_value = {.tv_sec = seconds}};

	setitimer(ITIMER_PROF, &timer, NULL);
}

static void restart_watchdog(void)
{
	set_watchdog(WATCHDOG_SECONDS);
}

/* Where unit_begin_run() keeps the parent informed, in case this process dies. */
static struct unit_result *progress;
static uint64_t nb_begun;

bool unit_begin_run(const struct plan *plan, const struct unit *unit,
		    const struct explorer *explorer, const char *workload)
{
	if (nb_begun++ < unit->nb_skip)
		return false;
	progress->nb_begun = nb_begun;
	progress->stats = progress->before;
	explore_stats_add(&progress->stats, &explorer->stats);
	verdict_set_context("--seed %llu --cell %s --part %s --workload %s",
			    (unsigned long long)plan->seed, unit->cell->name, part_name(unit->part),
			    workload);
	verdict_clear();
	restart_watchdog();
	return true;
}

bool unit_died_here(const struct unit *unit)
{
	return nb_begun == unit->nb_skip;
}

static uint64_t hash_text(const char *text)
{
	uint64_t hash = 0;

	while (*text)
		hash = mix64(hash ^ (uint8_t)*text++);
	return hash;
}

/* Seeds a run from everything that names it. */
static void seed_run(const struct plan *plan, const struct unit *unit, uint64_t number)
{
	choose_seed(plan->seed ^ mix64(hash_text(unit->cell->name) ^ number << 8 ^ unit->part));
}

static unsigned power(unsigned base, unsigned exponent)
{
	return exponent ? base * power(base, exponent - 1) : 1;
}

static void run_combination(const struct plan *plan, const struct unit *unit,
			    struct explorer *explorer, unsigned nb_ops, unsigned n)
{
	struct run *run = calloc(1, sizeof(*run));
	char name[32];

	if (!run)
		abort();
	snprintf(name, sizeof(name), "%u:%u", nb_ops, n);
	if (unit_begin_run(plan, unit, explorer, name)) {
		seed_run(plan, unit, (uint64_t)nb_ops << 32 | n);
		explore_prepare(explorer, run);
		workload_combination(run, nb_ops, n);
		explore_run(explorer, run);
	}
	free(run);
}

static bool is_selected(const struct plan *plan, unsigned nb_ops, unsigned n)
{
	char name[32];

	if (!plan->only_workload)
		return true;
	snprintf(name, sizeof(name), "%u:%u", nb_ops, n);
	return strcmp(name, plan->only_workload) == 0;
}

static bool had_enough(const struct plan *plan, const struct explorer *explorer)
{
	return !plan->keep_going && explorer->stats.nb_violations >= explorer->max_violations;
}

static void run_combinations(const struct plan *plan, const struct unit *unit,
			     struct explorer *explorer, unsigned nb_ops, unsigned stride)
{
	unsigned nb = power(WORKLOAD_TEMPLATES, nb_ops);

	for (unsigned n = unit->share; n < nb && !had_enough(plan, explorer); n++) {
		if (plan->only_workload ? !is_selected(plan, nb_ops, n)
					: n % (unit->nb_shares * stride) != unit->share)
			continue;
		run_combination(plan, unit, explorer, nb_ops, n);
	}
}

static void unit_combinations(const struct plan *plan, const struct unit *unit,
			      struct explorer *explorer)
{
	unsigned stride = 1;

	if (unit->cell->feature == CELL_GROWN) {
		/* 4,000 clusters to look at in each state: a sample, of every template though. */
		explorer->params = (struct crash_params){
			.max_exhaustive = 3, .nb_random = 2, .max_moments = 12};
		stride = plan->effort == EFFORT_FULL ? 7 : 37;
	}
	if (unit->part == PART_TRIPLES) {
		run_combinations(plan, unit, explorer, 3, 1);
		return;
	}
	run_combinations(plan, unit, explorer, 1, 1);
	/* A stride coprime to 20 meets every first and every second template. */
	run_combinations(plan, unit, explorer, 2, plan->effort == EFFORT_CHECK ? 37 : stride);
}

static void run_random(const struct plan *plan, const struct unit *unit, struct explorer *explorer,
		       unsigned n)
{
	static const uint32_t aligns[] = {1, 512, 512, 4096};
	struct sim_disk *disk = explorer->sim->disk;
	struct run *run = calloc(1, sizeof(*run));
	char name[32];

	if (!run)
		abort();
	snprintf(name, sizeof(name), "%u", n);
	if (unit_begin_run(plan, unit, explorer, name)) {
		seed_run(plan, unit, n);
		explore_prepare(explorer, run);
		for (unsigned i = 0; i < disk->nb_files; i++)
			disk->files[i].align = aligns[sim_choose(CHOICE_WORKLOAD, 4)];
		disk->no_fallocate = sim_one_in(CHOICE_WORKLOAD, 4);
		run->l2_cache_bytes = sim_choose(CHOICE_WORKLOAD, 2) ? 0 : 1;
		workload_random(run, 20 + sim_choose(CHOICE_WORKLOAD, 180),
				1 + sim_choose(CHOICE_WORKLOAD, 4));
		explore_run(explorer, run);
	}
	free(run);
}

/* A state of a small disk costs little: that is where most of them are looked for. */
static unsigned count_random_runs(const struct plan *plan, const struct cell *cell)
{
	bool small = cell->cluster_size <= 4096 && cell->feature != CELL_GROWN;
	unsigned times = plan->effort == EFFORT_FULL ? 5 : 1;

	if (plan->effort == EFFORT_CHECK)
		return small ? 10 : 1;
	if (small)
		return times * (cell->cluster_size == 512 ? 120 : 80);
	return times * (cell->cluster_size == 16384 ? 24 : 8);
}

static void unit_random(const struct plan *plan, const struct unit *unit, struct explorer *explorer)
{
	unsigned nb = count_random_runs(plan, unit->cell);

	explorer->params.max_exhaustive = 6;
	explorer->params.nb_random = 24;
	explorer->params.max_moments = plan->effort == EFFORT_CHECK ? 24 : 40;
	if (unit->cell->feature == CELL_GROWN)
		explorer->params = (struct crash_params){
			.max_exhaustive = 3, .nb_random = 2, .max_moments = 6};
	if (plan->only_workload) {
		run_random(plan, unit, explorer, (unsigned)strtoul(plan->only_workload, NULL, 0));
		return;
	}
	for (unsigned n = unit->share; n < nb && !had_enough(plan, explorer); n += unit->nb_shares)
		run_random(plan, unit, explorer, n);
}

static double cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void unit_run(const struct plan *plan, const struct unit *unit, struct unit_result *result)
{
	struct cell_image image;
	struct explorer explorer;
	struct sim sim;
	int err = cell_load(unit->cell, &image);

	if (err)
		verdict_fatal("the image of %s cannot be made: %s", unit->cell->name,
			      strerror(-err));
	result->before = result->stats;
	progress = result;
	sim_create(&sim);
	sim.disk->trace = plan->trace;
	explorer_init(&explorer, &sim, &image);
	explorer.second_one_in = plan->effort == EFFORT_CHECK ? 400 : 200;
	explorer.qemu_one_in = 1000;
	explorer.on_judge = restart_watchdog;
	if (plan->effort == EFFORT_CHECK)
		explorer.params = (struct crash_params){.max_exhaustive = 7, .nb_random = 16};
	switch (unit->part) {
	case PART_PAIRS:
	case PART_TRIPLES:
		unit_combinations(plan, unit, &explorer);
		break;
	case PART_RANDOM:
		unit_random(plan, unit, &explorer);
		break;
	case PART_FAULTS:
	case PART_ALLOCS:
		unit_faults(plan, unit, &explorer);
		break;
	default:
		unit_schedules(plan, unit, &explorer);
		break;
	}
	set_watchdog(0);
	result->stats = result->before;
	explore_stats_add(&result->stats, &explorer.stats);
	union_add_states(unit->cell->name, &explorer.distinct);
	explorer_finish(&explorer);
	sim_destroy(&sim);
	cell_unload(&image);
	result->cpu_seconds += cpu_seconds();
	result->finished = true;
}
