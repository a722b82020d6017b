/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * lab: one cell's image on a simulated disk, for unit tests that prescribe what the
 * guest does. Failures are cmocka's.
 */
#ifndef QCOW2FS_TEST_SIM_LAB_H
#define QCOW2FS_TEST_SIM_LAB_H

#include "test/sim/explore.h"

struct lab {
	struct sim sim;
	struct cell_image image;
	struct explorer explorer;
	struct run run;
};

/* Loads the cell's image (made below $QF_BUILD where missing). */
void lab_open(struct lab *lab, const char *cell_name);
void lab_close(struct lab *lab);

/*
 * How many seeds to try, of so many. Valgrind looks at memory, not at schedules, and takes a
 * hundred times as long: there it is one in ten.
 */
unsigned lab_nb_seeds(unsigned nb_seeds);

/* Puts the image on the disk anew and gives the run its operations. */
void lab_prepare(struct lab *lab, uint64_t seed, const struct guest_op *ops, unsigned nb_ops,
		 unsigned nb_clients);

/* Performs the run and explores its crashes: no violation, or the test fails. */
void lab_explore(struct lab *lab);
/* The same without crashes. */
void lab_run(struct lab *lab);

/* What came of opening the image, of a change to the whole of it, and of closing it. */
struct lab_change {
	int open_result, result, close_result;
};
/* Opens the image for writing, hands it to `change`, closes it, without crashes. */
struct lab_change lab_change(struct lab *lab,
			     int coroutine_fn (*change)(struct image *image, void *arg), void *arg);

/* Fails the test if the verdict has one. */
void lab_no_violation(struct lab *lab);

/* Checks the image on the disk as it is now: no corruption; returns the number of leaks. */
uint64_t lab_count_leaks(struct lab *lab);

#endif
