/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * choose: the one source of every choice that a simulated run makes.
 *
 * Two modes. Random: a seeded generator answers, so that the printed seed
 * repeats the run. Script: schedule choices follow a vector of decisions and
 * take the default (0) beyond its end, every other choice takes its default;
 * choose_script_next() walks all vectors with a bounded number of deviations
 * from the default, which are the preemptions of the schedule explorer.
 *
 * State is global to the process: a run is single-threaded by construction.
 */
#ifndef QCOW2FS_TEST_SIM_CHOOSE_H
#define QCOW2FS_TEST_SIM_CHOOSE_H

#include <stdbool.h>
#include <stdint.h>

/* What is being decided; a script covers the schedule alone. */
enum choice {
	CHOICE_SCHEDULE, /* next coroutine, order and batching of completions */
	CHOICE_DISK,     /* when bytes are taken, short transfers */
	CHOICE_STATE,    /* which crash states, samples */
	CHOICE_WORKLOAD, /* operations of random workloads */
};

/* Random mode from `seed`. */
void choose_seed(uint64_t seed);

/* A number in [0, nb_choices); nb_choices >= 1. */
unsigned sim_choose(enum choice kind, unsigned nb_choices);

/* True once in `n` on average; n == 0: never. */
bool sim_one_in(enum choice kind, unsigned n);

/* The generator's state, to let something choose without disturbing what follows. */
uint64_t choose_save(void);
void choose_restore(uint64_t state);

/* A mixed 64-bit value of the generator (random mode only). */
uint64_t choose_bits(void);

/* Begins a search: the first run takes every default. */
void choose_script_begin(unsigned max_preemptions);
/* After a run: prepares the next vector; false when all have been tried. */
bool choose_script_next(void);
/* The decision vector of the current run as text ("0.0.1..."), for a report. */
const char *choose_script_text(void);
/* Repeats one vector, as choose_script_text() printed it. */
void choose_script_replay(const char *text);

/* Finaliser of splitmix64: a good 64-bit mixer. */
static inline uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

#endif
