/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* explore: runs and their crash states. See explore.h. */
#include "test/sim/explore.h"
#include "test/sim/choose.h"
#include "test/sim/verdict.h"
#include "test/sim/workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECOND_OPS 20u
#define SECOND_FIRST_ID 100000u

void explorer_init(struct explorer *explorer, struct sim *sim, const struct cell_image *image)
{
	*explorer = (struct explorer){.sim = sim,
				      .image = image,
				      .params = {.max_exhaustive = 12, .nb_random = 32},
				      .max_violations = 5,
				      .judge_crashes = true};
	explorer->contents = calloc(image->cell->max_sectors, sizeof(*explorer->contents));
	if (!explorer->contents)
		abort();
	snprintf(explorer->scratch_folder, sizeof(explorer->scratch_folder), "/tmp/qcow2fs-sim.%d",
		 (int)getpid());
}

void explorer_finish(struct explorer *explorer)
{
	char command[128];

	if (explorer->stats.nb_qemu) {
		snprintf(command, sizeof(command), "rm -rf '%s'", explorer->scratch_folder);
		if (system(command) != 0)
			fprintf(stderr, "%s stays\n", explorer->scratch_folder);
	}
	hash_set_free(&explorer->bytes);
	hash_set_free(&explorer->judged);
	hash_set_free(&explorer->distinct);
	free(explorer->contents);
	model_free(&explorer->model);
	sim_disk_reset(explorer->sim->disk);
}

bool explore_report(struct explorer *explorer, const struct run *run,
		    const struct crash_state *state)
{
	char *where;

	if (!verdict_failed())
		return false;
	explorer->last_failed = true;
	explorer->stats.nb_violations++;
	if (explorer->stats.nb_violations <= explorer->max_violations) {
		where = state ? crash_describe(state) : NULL;
		printf("VIOLATION %s%s\n  ops: %s\n  %s\n%s%s", verdict_context(),
		       explorer->nested ? " (second crash)" : "",
		       run ? run_describe(run->ops, run->nb_ops) : "", verdict_text(),
		       where ? "  " : "", where ? where : "");
		fflush(stdout);
		free(where);
	}
	verdict_clear();
	return true;
}

void explore_stats_add(struct explore_stats *to, const struct explore_stats *from)
{
	to->nb_runs += from->nb_runs;
	to->nb_visited += from->nb_visited;
	to->nb_judged += from->nb_judged;
	to->nb_distinct += from->nb_distinct;
	to->nb_leaky += from->nb_leaky;
	to->nb_second += from->nb_second;
	to->nb_qemu += from->nb_qemu;
	to->nb_violations += from->nb_violations;
	to->nb_faults += from->nb_faults;
	if (from->max_excess_bytes > to->max_excess_bytes)
		to->max_excess_bytes = from->max_excess_bytes;
}

static bool has_mixed(const struct explorer *explorer, unsigned nb_sectors)
{
	for (unsigned i = 0; i < nb_sectors; i++) {
		if (explorer->contents[i] >> 32 >= CONTENT_ID_MIXED)
			return true;
	}
	return false;
}

static void judge_state(struct explorer *explorer, struct judge *judge, const struct model *model,
			uint64_t now, uint64_t floor)
{
	unsigned mark = explorer->sim->disk->nb_undo;

	judge->sim = explorer->sim;
	judge->cell = explorer->image->cell;
	judge->initial = explorer->image;
	judge->model = model;
	judge->now = now;
	judge->floor = floor;
	judge->contents = explorer->contents;
	judge->scratch_folder = explorer->scratch_folder;
	explorer->stats.nb_judged++;
	if (explorer->on_judge)
		explorer->on_judge();
	explorer->stats.nb_qemu += judge->ask_qemu;
	judge_files(judge);
	explorer->nb_sectors = judge->nb_sectors;
	explorer->stats.nb_leaky += judge->nb_leaks != 0;
	sim_undo(explorer->sim->disk, mark);
}

/* ---- the second crash ---- */

struct second {
	struct explorer *explorer;
	struct run *run;
	struct model model;
};

static bool visit_second(void *ctx, const struct crash_state *state)
{
	struct second *second = ctx;
	struct judge judge = {0};

	second->explorer->stats.nb_visited++;
	if (state->nb_uncovered_metadata)
		second->explorer->stats.nb_distinct +=
			hash_set_add(&second->explorer->distinct, state->hash);
	judge_state(second->explorer, &judge, &second->model, state->now,
		    model_flush_floor(&second->model, state->now));
	return !explore_report(second->explorer, second->run, state);
}

/* Twenty operations on the state that the disk holds now, and another power cut. */
static void crash_again(struct explorer *explorer, unsigned nb_sectors, uint64_t seed)
{
	static const struct crash_params params = {
		.max_exhaustive = 3, .nb_random = 4, .max_moments = 8};
	struct sim_disk *disk = explorer->sim->disk;
	struct sim_file saved[SIM_FILES_MAX];
	uint64_t saved_choice = choose_save();
	struct run *run = calloc(1, sizeof(*run));
	struct second second = {.explorer = explorer, .run = run};
	struct history history;

	if (!run)
		abort();
	explorer->stats.nb_second++;
	explorer->nested = true;
	choose_seed(seed);
	memcpy(saved, disk->files, sizeof(saved));
	for (unsigned i = 0; i < disk->nb_files; i++) {
		disk->files[i].bytes = (struct sim_bytes){0};
		sim_bytes_copy(&disk->files[i].bytes, &saved[i].bytes);
	}
	model_init(&second.model, nb_sectors, explorer->image->cell->max_sectors);
	second.model.next_id = SECOND_FIRST_ID;
	for (unsigned i = 0; i < nb_sectors; i++)
		model_set_initial(&second.model, i, explorer->contents[i]);
	run->sim = explorer->sim;
	run->cell = explorer->image->cell;
	run->model = &second.model;
	workload_random(run, SECOND_OPS, 1);

	history_begin(&history, disk);
	run_execute(run);
	history_end(&history, disk);
	if (!explore_report(explorer, run, NULL)) {
		disk->mode = SIM_DIRECT;
		crash_visit(disk, &history, &second.model, &params, visit_second, &second);
	}
	for (unsigned i = 0; i < disk->nb_files; i++)
		sim_bytes_free(&disk->files[i].bytes);
	memcpy(disk->files, saved, sizeof(saved));
	history_free(&history);
	model_free(&second.model);
	free(run);
	explorer->nested = false;
	disk->mode = SIM_DIRECT;
	choose_restore(saved_choice);
}

/* ---- the first crash ---- */

struct visit {
	struct explorer *explorer;
	const struct run *run;
};

static bool visit_state(void *ctx, const struct crash_state *state)
{
	struct visit *visit = ctx;
	struct explorer *explorer = visit->explorer;
	uint64_t floor = model_flush_floor(&explorer->model, state->now);
	struct judge judge = {0};
	bool new_bytes;

	if (explorer->digest_now != state->now) {
		explorer->digest_now = state->now;
		explorer->digest = mix64(model_legal_digest(&explorer->model, state->now, floor));
	}
	explorer->stats.nb_visited++;
	if (!hash_set_add(&explorer->judged, state->hash ^ explorer->digest))
		return true;
	new_bytes = hash_set_add(&explorer->bytes, state->hash);
	if (state->nb_uncovered_metadata)
		explorer->stats.nb_distinct += hash_set_add(&explorer->distinct, state->hash);
	judge.contents_only = !new_bytes;
	judge.ask_qemu = explorer->qemu_one_in && new_bytes &&
			 (state->hash >> 8) % explorer->qemu_one_in == 0;
	judge_state(explorer, &judge, &explorer->model, state->now, floor);
	if (explore_report(explorer, visit->run, state))
		return explorer->stats.nb_violations < explorer->max_violations;
	if (explorer->second_one_in && new_bytes &&
	    (state->hash >> 20) % explorer->second_one_in == 0 &&
	    !has_mixed(explorer, judge.nb_sectors))
		crash_again(explorer, judge.nb_sectors, state->hash);
	return explorer->stats.nb_violations < explorer->max_violations;
}

/* ---- a run ---- */

void explore_prepare(struct explorer *explorer, struct run *run)
{
	struct sim_disk *disk = explorer->sim->disk;

	sim_disk_reset(disk);
	model_free(&explorer->model);
	cell_install(explorer->image, disk, &explorer->model);
	run->sim = explorer->sim;
	run->cell = explorer->image->cell;
	run->model = &explorer->model;
	explorer->digest_now = 0;
}

void explore_judge_now(struct explorer *explorer, uint64_t floor)
{
	struct sim_disk *disk = explorer->sim->disk;
	uint64_t now = sim_tick(disk);
	struct judge judge = {0};
	uint64_t size = disk->files[0].bytes.size;

	judge_state(explorer, &judge, &explorer->model, now, floor);
	if (!verdict_failed() && size > judge.live_bytes &&
	    size - judge.live_bytes > explorer->stats.max_excess_bytes)
		explorer->stats.max_excess_bytes = size - judge.live_bytes;
}

void explore_crashes(struct explorer *explorer, const struct run *run,
		     const struct history *history)
{
	struct visit visit = {explorer, run};

	crash_visit(explorer->sim->disk, history, &explorer->model, &explorer->params, visit_state,
		    &visit);
}

void explore_run(struct explorer *explorer, struct run *run)
{
	struct sim_disk *disk = explorer->sim->disk;
	struct history history;

	explorer->last_failed = false;
	history_begin(&history, disk);
	run_execute(run);
	explorer->stats.nb_runs++;
	/* A clean end: everything that succeeded must be there. */
	if (!verdict_failed())
		explore_judge_now(explorer, sim_tick(disk));
	history_end(&history, disk);
	if (!explore_report(explorer, run, NULL) && explorer->judge_crashes)
		explore_crashes(explorer, run, &history);
	history_free(&history);
}
