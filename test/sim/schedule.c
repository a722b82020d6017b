/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * schedule: scenarios of two or three requests under every schedule with a bounded
 * number of preemptions: which coroutine runs next, which request completes next, how
 * many complete together. Oracle: the model's linearizability per sector while the
 * requests run, and the judge at the end.
 */
#include "test/sim/choose.h"
#include "test/sim/driver.h"
#include "test/sim/verdict.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCENARIO_OPS_MAX 8u

/* Offsets and lengths: clusters, sectors. Clients take the operations in turn. */
struct scenario_op {
	enum guest_kind kind;
	uint32_t cluster, sector;
	uint32_t nb_clusters, nb_sectors;
};

struct scenario {
	const char *name, *cell;
	unsigned nb_clients;
	bool small_cache, may_fail;
	unsigned nb_ops;
	struct scenario_op ops[SCENARIO_OPS_MAX];
};

#define SECOND_NS 1000000000u

static const struct scenario scenarios[] = {
	{"two partial writes to one unallocated cluster",
	 "c4k-r16-v3",
	 2,
	 false,
	 false,
	 2,
	 {{GUEST_WRITE, 4, 0, 0, 1}, {GUEST_WRITE, 4, 2, 0, 1}}},
	{"two partial writes to one backed cluster",
	 "c4k-r16-backing",
	 2,
	 false,
	 false,
	 2,
	 {{GUEST_WRITE, 4, 0, 0, 1}, {GUEST_WRITE, 4, 2, 0, 1}}},
	{"two partial writes to one compressed cluster",
	 "c4k-r16-compressed",
	 2,
	 false,
	 false,
	 2,
	 {{GUEST_WRITE, 0, 0, 0, 1}, {GUEST_WRITE, 0, 2, 0, 1}}},
	{"rewrite, discard, allocation",
	 "c512-r16-v3",
	 3,
	 false,
	 false,
	 3,
	 {{GUEST_WRITE, 0, 0, 1, 0}, {GUEST_DISCARD, 0, 0, 1, 0}, {GUEST_WRITE, 4, 0, 1, 0}}},
	{"read, discard and flush, allocation",
	 "c512-r16-v3",
	 3,
	 false,
	 false,
	 5,
	 {{GUEST_READ, 0, 0, 2, 0},
	  {GUEST_DISCARD, 0, 0, 1, 0},
	  {GUEST_SLEEP, 0, 0, 0, 0},
	  {GUEST_READ, 0, 0, 2, 0},
	  {GUEST_FLUSH, 0, 0, 0, 0}}},
	{"allocation across refcount block growth",
	 "c512-r64-v3",
	 2,
	 false,
	 false,
	 2,
	 {{GUEST_WRITE, 10, 0, 50, 0}, {GUEST_WRITE, 61, 0, 50, 0}}},
	{"allocation across refcount table growth",
	 "c512-r64-grown",
	 2,
	 false,
	 false,
	 2,
	 {{GUEST_WRITE, 3910, 0, 60, 0}, {GUEST_WRITE, 3980, 0, 60, 0}}},
	{"write and grow",
	 "c512-r16-v3",
	 2,
	 false,
	 false,
	 2,
	 {{GUEST_WRITE, 100, 0, 2, 0}, {GUEST_RESIZE, 4200, 0, 0, 0}}},
	{"write and shrink",
	 "c512-r16-v3",
	 2,
	 false,
	 true,
	 2,
	 {{GUEST_WRITE, 63, 0, 2, 0}, {GUEST_RESIZE, 64, 0, 0, 0}}},
	{"zeros over backing data",
	 "c512-r16-backing",
	 3,
	 false,
	 false,
	 3,
	 {{GUEST_ZERO, 3, 0, 2, 0}, {GUEST_WRITE, 4, 0, 1, 0}, {GUEST_READ, 3, 0, 2, 0}}},
	{"eviction with a cache of one slice",
	 "c512-r16-v3",
	 3,
	 true,
	 false,
	 3,
	 {{GUEST_WRITE, 4, 0, 1, 0}, {GUEST_WRITE, 126, 0, 1, 0}, {GUEST_READ, 0, 0, 1, 0}}},
	{"flush and write",
	 "c512-r16-v3",
	 3,
	 false,
	 false,
	 3,
	 {{GUEST_WRITE, 4, 0, 2, 0}, {GUEST_FLUSH, 0, 0, 0, 0}, {GUEST_WRITE, 0, 0, 1, 0}}},
	{"copy on write over a short backing file",
	 "c4k-r16-backing",
	 2,
	 false,
	 false,
	 2,
	 {{GUEST_WRITE, 22, 1, 0, 1}, {GUEST_READ, 22, 0, 1, 0}}},
	{"unmount with I/O in flight",
	 "c512-r16-v3",
	 3,
	 false,
	 false,
	 3,
	 {{GUEST_WRITE, 4, 0, 2, 0}, {GUEST_CLOSE, 0, 0, 0, 0}, {GUEST_READ, 0, 0, 2, 0}}},
	{"background write-back, flush, allocation",
	 "c512-r16-v3",
	 2,
	 false,
	 false,
	 5,
	 {{GUEST_WRITE, 4, 0, 1, 0},
	  {GUEST_SLEEP, 5, 0, 0, 0},
	  {GUEST_SLEEP, 5, 0, 0, 0},
	  {GUEST_FLUSH, 0, 0, 0, 0},
	  {GUEST_WRITE, 6, 0, 1, 0}}},
};

const char *schedule_cell(unsigned index)
{
	return index < sizeof(scenarios) / sizeof(scenarios[0]) ? scenarios[index].cell : NULL;
}

static void fill_run(struct run *run, const struct scenario *scenario)
{
	uint64_t cs = run->cell->cluster_size;

	run->nb_ops = scenario->nb_ops;
	run->nb_clients = scenario->nb_clients;
	run->may_fail = scenario->may_fail;
	run->l2_cache_bytes = scenario->small_cache ? 1 : 0;
	for (unsigned i = 0; i < scenario->nb_ops; i++) {
		const struct scenario_op *op = &scenario->ops[i];
		uint64_t off = op->cluster * cs + op->sector * SIM_SECTOR;

		if (op->kind == GUEST_SLEEP)
			off = (uint64_t)op->cluster * SECOND_NS;
		run->ops[i] = (struct guest_op){op->kind, off,
						op->nb_clusters * cs + op->nb_sectors * SIM_SECTOR};
	}
}

void unit_schedules(const struct plan *plan, const struct unit *unit, struct explorer *explorer)
{
	const struct scenario *scenario = &scenarios[unit->share];
	unsigned preemptions = plan->effort == EFFORT_CHECK ? 1 : 2;
	uint64_t nb = 0;
	char name[64];

	snprintf(name, sizeof(name), "%u", unit->share);
	if (plan->only_workload && strcmp(plan->only_workload, name) != 0)
		return;
	if (unit->nb_skip)
		return; /* one of its runs has died: a search does not go on behind it */
	explorer->judge_crashes = false;
	choose_script_begin(preemptions);
	do {
		struct run *run = calloc(1, sizeof(*run));

		if (!run)
			abort();
		unit_begin_run(plan, unit, explorer, name);
		explore_prepare(explorer, run);
		fill_run(run, scenario);
		explore_run(explorer, run);
		if (explorer->last_failed) {
			printf("  schedule %s: %s\n", scenario->name, choose_script_text());
			fflush(stdout);
		}
		free(run);
		nb++;
	} while (explorer->stats.nb_violations < explorer->max_violations && choose_script_next());
	printf("schedules: %8llu of \"%s\"\n", (unsigned long long)nb, scenario->name);
}
