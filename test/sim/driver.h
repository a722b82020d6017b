/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * driver: what `make sim` consists of, split into units that run in processes of
 * their own: a core that dies takes one unit along, not the others.
 */
#ifndef QCOW2FS_TEST_SIM_DRIVER_H
#define QCOW2FS_TEST_SIM_DRIVER_H

#include "test/sim/explore.h"

enum part {
	PART_PAIRS,     /* all workloads of up to two templates, all their crashes */
	PART_TRIPLES,   /* all of three, in one cell */
	PART_RANDOM,    /* long random runs, several clients, crashes sampled */
	PART_FAULTS,    /* every request failing in turn */
	PART_ALLOCS,    /* every memory allocation failing in turn */
	PART_SCHEDULES, /* the ten scenarios, exhaustive at two preemptions */
	PART_COUNT
};

enum effort { EFFORT_CHECK, EFFORT_SIM, EFFORT_FULL };

struct plan {
	uint64_t seed;
	enum effort effort;
	unsigned nb_jobs;
	const char *only_cell;     /* NULL: all */
	int only_part;             /* -1: all */
	const char *only_workload; /* "2:137" (pairs, triples), "17" (random, schedules) */
	bool keep_going, trace;
};

struct unit {
	const struct cell *cell;
	enum part part;
	unsigned share, nb_shares; /* this unit does every nb_shares-th piece of work */
	uint64_t nb_skip;          /* runs that an earlier process has done, the last one dying */
};

struct unit_result {
	struct explore_stats stats, before; /* before: of earlier processes of the unit */
	double cpu_seconds;
	uint64_t nb_begun; /* runs; those of earlier processes of the unit included */
	unsigned nb_deaths;
	bool finished;
};

const char *part_name(enum part part);
/* Does the work of one unit; prints violations. In the unit's own process. */
void unit_run(const struct plan *plan, const struct unit *unit, struct unit_result *result);

/* The parts with machinery of their own. */
void unit_faults(const struct plan *plan, const struct unit *unit, struct explorer *explorer);
/* The scenario is number unit->share. */
void unit_schedules(const struct plan *plan, const struct unit *unit, struct explorer *explorer);
/* Name of the cell that a scenario runs on, NULL beyond the last. */
const char *schedule_cell(unsigned index);

/*
 * Names what is run, for reports, and restarts the watchdog. False: skip it, it has
 * been done.
 */
bool unit_begin_run(const struct plan *plan, const struct unit *unit,
		    const struct explorer *explorer, const char *workload);
/* Of the run that was just skipped: it is the one that killed the earlier process. */
bool unit_died_here(const struct unit *unit);

#endif
