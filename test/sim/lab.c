/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * lab: see lab.h.
 */
#include "test/sim/lab.h"

#include "test/sim/choose.h"
#include "test/sim/judge.h"
#include "test/sim/verdict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void lab_open(struct lab *lab, const char *cell_name)
{
	const struct cell *cell = cell_find(cell_name);
	const char *build = getenv("QF_BUILD");
	char folder[512];

	assert_non_null(cell);
	snprintf(folder, sizeof(folder), "%s/sim-images", build ? build : "build");
	cell_set_folder(folder);
	memset(lab, 0, sizeof(*lab));
	assert_int_equal(cell_load(cell, &lab->image), 0);
	sim_create(&lab->sim);
	explorer_init(&lab->explorer, &lab->sim, &lab->image);
	lab->explorer.params = (struct crash_params){.max_exhaustive = 8, .nb_random = 16};
}

void lab_close(struct lab *lab)
{
	explorer_finish(&lab->explorer);
	sim_destroy(&lab->sim);
	cell_unload(&lab->image);
}

unsigned lab_nb_seeds(unsigned nb_seeds)
{
	return getenv("QF_VALGRIND") ? (nb_seeds + 9) / 10 : nb_seeds;
}

void lab_prepare(struct lab *lab, uint64_t seed, const struct guest_op *ops, unsigned nb_ops,
		 unsigned nb_clients)
{
	memset(&lab->run, 0, sizeof(lab->run));
	verdict_clear();
	verdict_set_context("cell %s seed %llu", lab->image.cell->name, (unsigned long long)seed);
	choose_seed(seed);
	explore_prepare(&lab->explorer, &lab->run);
	if (nb_ops)
		memcpy(lab->run.ops, ops, nb_ops * sizeof(*ops));
	lab->run.nb_ops = nb_ops;
	lab->run.nb_clients = nb_clients;
}

void lab_explore(struct lab *lab)
{
	explore_run(&lab->explorer, &lab->run);
	assert_int_equal(lab->explorer.stats.nb_violations, 0);
}

void lab_run(struct lab *lab)
{
	lab->explorer.judge_crashes = false;
	lab_explore(lab);
	lab->explorer.judge_crashes = true;
}

struct change_call {
	struct lab *lab;
	int coroutine_fn (*change)(struct image *image, void *arg);
	void *arg;
	struct lab_change done;
};

static void coroutine_fn change_main(void *arg)
{
	struct image_options options = {.writable = true};
	struct change_call *call = arg;
	struct image *image;

	call->done.open_result =
		image_open(&call->lab->sim.disk->opener, CELL_IMAGE_NAME, &options, &image, NULL);
	if (call->done.open_result)
		return;
	call->done.result = call->change(image, call->arg);
	call->done.close_result = image_close(image);
}

struct lab_change lab_change(struct lab *lab,
			     int coroutine_fn (*change)(struct image *image, void *arg), void *arg)
{
	struct change_call call = {.lab = lab, .change = change, .arg = arg};

	reactor_run(lab->sim.reactor, change_main, &call);
	return call.done;
}

void lab_no_violation(struct lab *lab)
{
	if (verdict_failed())
		print_error("%s: %s\n", verdict_context(), verdict_text());
	assert_false(verdict_failed());
}

struct leak_check {
	struct lab *lab;
	struct check_report report;
	int result;
};

static void coroutine_fn leak_check_main(void *arg)
{
	struct leak_check *check = arg;
	const struct check_options options = {.repair = CHECK_ONLY};

	check->result = judge_check_file(check->lab->sim.disk, CELL_IMAGE_NAME, &options,
					 &check->report, NULL);
}

uint64_t lab_count_leaks(struct lab *lab)
{
	struct leak_check check = {.lab = lab};

	reactor_run(lab->sim.reactor, leak_check_main, &check);
	assert_int_equal(check.result, 0);
	assert_int_equal(check.report.corruptions, 0);
	assert_int_equal(check.report.check_errors, 0);
	return check.report.leaks;
}
