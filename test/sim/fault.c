/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * fault: every request, and every memory allocation, failing in turn.
 *
 * A workload runs once unharmed to count its requests; then once more for each of
 * them and for each kind of fault. Invisible faults (EINTR, EAGAIN, short transfers)
 * must not reach the guest. After a visible one the image must be sound, open again,
 * take new writes and allocations, and be sound after those too; and so must crash
 * states taken from the faulty run.
 */
#include "test/sim/choose.h"
#include "test/sim/driver.h"
#include "test/sim/memory.h"
#include "test/sim/site.h"
#include "test/sim/verdict.h"
#include "test/sim/workload.h"

#include "io/buf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AFTERMATH_FIRST_ID 200000u

struct kind {
	const char *name;
	int err;
	unsigned count;
	bool visible;
};

static const struct kind io_kinds[] = {
	{"EIO", EIO, 1, true},
	{"EIO-always", EIO, UINT_MAX, true},
	{"EIO-3", EIO, 3, true},
	{"ENOSPC", ENOSPC, 1, true},
	{"ENOSPC-always", ENOSPC, UINT_MAX, true},
	{"EDQUOT", EDQUOT, 1, true},
	{"ENOMEM-3", ENOMEM, 3, true},
	{"EINTR", EINTR, 1, false},
	{"EAGAIN-3", EAGAIN, 3, false},
	{"short", SIM_SHORT, 1, false},
	{"short-always", SIM_SHORT, UINT_MAX, false},
};
static const struct kind memory_kinds[] = {
	{"one", ENOMEM, 1, true},
	{"three", ENOMEM, 3, true},
	{"always", ENOMEM, UINT_MAX, true},
};

struct faults {
	const struct plan *plan;
	const struct unit *unit;
	struct explorer *explorer;
	struct site_table *sites;
	unsigned nb_ops, n; /* the workload */
	bool guest_data_failed;
	struct model model; /* of the aftermath */
};

static void on_submit(void *ctx, const struct io_req *req, bool faulted)
{
	struct faults *faults = ctx;

	site_note(faults->sites, faulted);
	if (faulted && req->tag == IO_TAG_DATA && (req->op == IO_READ || req->op == IO_WRITE))
		faults->guest_data_failed = true;
}

static void on_allocation(void *ctx, bool failed)
{
	struct faults *faults = ctx;

	site_note(faults->sites, failed);
}

/* Prepares the workload, with a name that repeats it; NULL when it has been done already. */
static struct run *prepare(struct faults *faults, const char *fault)
{
	struct run *run;
	char name[64];

	snprintf(name, sizeof(name), "%u:%u/%s", faults->nb_ops, faults->n, fault);
	if (!unit_begin_run(faults->plan, faults->unit, faults->explorer, name) &&
	    (strcmp(fault, "none") != 0 || unit_died_here(faults->unit)))
		return NULL;
	run = calloc(1, sizeof(*run));
	if (!run)
		abort();
	choose_seed(faults->plan->seed ^ mix64((uint64_t)faults->nb_ops << 32 | faults->n));
	explore_prepare(faults->explorer, run);
	faults->explorer->sim->disk->on_submit =
		faults->unit->part == PART_FAULTS ? on_submit : NULL;
	faults->explorer->sim->disk->hook_ctx = faults;
	run->may_fail = true;
	workload_combination(run, faults->nb_ops, faults->n);
	buf_trim();
	return run;
}

/* A second session on what the fault has left: allocations, a discard, a flush. */
static void live_on(struct faults *faults)
{
	struct explorer *explorer = faults->explorer;
	const struct cell *cell = explorer->image->cell;
	uint64_t cs = cell->cluster_size;
	struct run *run = calloc(1, sizeof(*run));
	const struct guest_op ops[] = {
		{GUEST_WRITE, 3 * cs, cs}, {GUEST_WRITE, cs, SIM_SECTOR}, {GUEST_DISCARD, 0, cs},
		{GUEST_FLUSH, 0, 0},       {GUEST_WRITE, 3 * cs, 2 * cs}, {GUEST_FLUSH, 0, 0},
	};

	if (!run)
		abort();
	model_init(&faults->model, explorer->nb_sectors, cell->max_sectors);
	faults->model.next_id = AFTERMATH_FIRST_ID;
	for (unsigned i = 0; i < explorer->nb_sectors; i++)
		model_set_initial(&faults->model, i, explorer->contents[i]);
	run->sim = explorer->sim;
	run->cell = cell;
	run->model = &faults->model;
	run->nb_ops = sizeof(ops) / sizeof(ops[0]);
	memcpy(run->ops, ops, sizeof(ops));
	run_execute(run);
	if (!verdict_failed()) {
		struct model saved = explorer->model;

		explorer->model = faults->model;
		explore_judge_now(explorer, sim_tick(explorer->sim->disk));
		explorer->model = saved;
	}
	model_free(&faults->model);
	free(run);
}

/* Who found no room tries once more, when a flush has made some. */
static bool is_overcome(const struct kind *kind)
{
	return (kind->err == ENOSPC || kind->err == EDQUOT) && kind->count == 1;
}

/* Everything that has to hold after `run` has met its fault. */
static void judge_aftermath(struct faults *faults, struct run *run, const struct kind *kind)
{
	struct explorer *explorer = faults->explorer;
	struct sim_disk *disk = explorer->sim->disk;
	bool clean = run->open_result == 0 && run->close_result == 0 && !run->flush_failed;
	uint64_t now = sim_tick(disk);

	disk->on_submit = NULL;
	disk->fault = (struct sim_fault){0};
	if (!kind->visible && run->nb_failed && !verdict_failed())
		verdict_fail("an invisible fault reaches the guest: %d operations fail",
			     run->nb_failed);
	if (faults->guest_data_failed && kind->visible && !is_overcome(kind) &&
	    run->nb_failed == 0 && run->open_result == 0)
		verdict_fail("guest data could not be transferred, and nobody was told");
	if (verdict_failed())
		return;
	explore_judge_now(explorer, clean ? now : model_flush_floor(&explorer->model, now));
	if (!verdict_failed())
		live_on(faults);
}

static void run_with_fault(struct faults *faults, uint64_t at, const struct kind *kind,
			   bool crashes)
{
	static const struct crash_params params = {
		.max_exhaustive = 3, .nb_random = 4, .max_moments = 3};
	struct explorer *explorer = faults->explorer;
	struct sim_disk *disk = explorer->sim->disk;
	struct history history;
	struct run *run;
	char name[48];

	snprintf(name, sizeof(name), "%s@%llu", kind->name, (unsigned long long)at);
	run = prepare(faults, name);
	if (!run)
		return;
	faults->guest_data_failed = false;
	history_begin(&history, disk);
	if (faults->unit->part == PART_FAULTS)
		disk->fault = (struct sim_fault){.at = at, .count = kind->count, .err = kind->err};
	else
		memory_arm(at, kind->count, on_allocation, faults);
	run_execute(run);
	memory_disarm();
	explorer->stats.nb_runs++;
	explorer->stats.nb_faults +=
		faults->unit->part == PART_FAULTS ? disk->nb_faulted : memory_nb_failed();
	history_end(&history, disk);
	judge_aftermath(faults, run, kind);
	if (!explore_report(explorer, run, NULL) && crashes) {
		sim_clear_log(disk);
		disk->mode = SIM_DIRECT;
		explorer->params = params;
		explore_crashes(explorer, run, &history);
	}
	history_free(&history);
	free(run);
}

/* The workload without a fault; returns how many requests or allocations it makes. */
static uint64_t run_unharmed(struct faults *faults)
{
	struct run *run = prepare(faults, "none");
	uint64_t nb;

	if (!run)
		return 0;
	run->may_fail = false;
	if (faults->unit->part == PART_ALLOCS)
		memory_arm(0, 0, on_allocation, faults);
	run_execute(run);
	nb = memory_disarm();
	if (faults->unit->part == PART_FAULTS)
		nb = faults->explorer->sim->disk->nb_requests;
	if (explore_report(faults->explorer, run, NULL))
		nb = 0;
	free(run);
	return nb;
}

static void fail_everything(struct faults *faults)
{
	bool is_io = faults->unit->part == PART_FAULTS;
	const struct kind *kinds = is_io ? io_kinds : memory_kinds;
	unsigned nb_kinds = is_io ? sizeof(io_kinds) / sizeof(*io_kinds)
				  : sizeof(memory_kinds) / sizeof(*memory_kinds);
	bool check = faults->plan->effort == EFFORT_CHECK;
	/* One state of a grown image costs as much as dozens of others. */
	bool in_turn = check || faults->unit->cell->feature == CELL_GROWN;
	uint64_t nb = run_unharmed(faults);

	for (uint64_t at = 0; at < nb; at++) {
		for (unsigned k = 0; k < nb_kinds; k++) {
			/* EIO always, of the others one. */
			if (in_turn && k != 0 && (at + faults->n) % (nb_kinds - 1) + 1 != k)
				continue;
			if (faults->explorer->stats.nb_violations >=
			    faults->explorer->max_violations)
				return;
			run_with_fault(faults, at, &kinds[k], (at + k) % (check ? 16 : 4) == 0);
		}
	}
}

static bool is_selected(const struct plan *plan, unsigned nb_ops, unsigned n)
{
	unsigned want_ops, want_n;

	return !plan->only_workload ||
	       (sscanf(plan->only_workload, "%u:%u", &want_ops, &want_n) == 2 &&
		want_ops == nb_ops && want_n == n);
}

/*
 * Of the pairs of operations, one in so many meets faults; 0: none does. Coprime to 20, it meets
 * every template. A state of a large disk costs ten times what others do.
 */
static unsigned pair_stride(const struct plan *plan, const struct cell *cell)
{
	bool large = cell->cluster_size == 65536 || cell->feature == CELL_GROWN;

	if (plan->effort == EFFORT_CHECK)
		return 0;
	return plan->effort == EFFORT_SIM ? 39 : large ? 7 : 3;
}

void unit_faults(const struct plan *plan, const struct unit *unit, struct explorer *explorer)
{
	struct faults faults = {
		.plan = plan, .unit = unit, .explorer = explorer, .sites = site_table_create()};
	unsigned stride = pair_stride(plan, unit->cell);

	for (unsigned n = 0; n < WORKLOAD_TEMPLATES; n++) {
		faults.nb_ops = 1;
		faults.n = n;
		if (is_selected(plan, 1, n) && (plan->effort != EFFORT_CHECK || n % 3 == 0))
			fail_everything(&faults);
	}
	for (unsigned n = 0; stride && n < WORKLOAD_TEMPLATES * WORKLOAD_TEMPLATES; n++) {
		faults.nb_ops = 2;
		faults.n = n;
		if (plan->only_workload ? is_selected(plan, 2, n) : n % stride == 0)
			fail_everything(&faults);
	}
	site_report(faults.sites, part_name(unit->part));
	site_table_free(faults.sites);
}
