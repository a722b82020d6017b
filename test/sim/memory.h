/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * memory: memory allocations that fail on demand, by -Wl,--wrap (sim.mk). In a program
 * linked without it nothing is counted and nothing fails.
 *
 * Only allocations of the code under test count: the simulator pauses the counting
 * around its own.
 */
#ifndef QCOW2FS_TEST_SIM_MEMORY_H
#define QCOW2FS_TEST_SIM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Counts from now on, and fails allocations number `at` to at + count - 1 (from 0; count
 * 0: none, UINT_MAX: all). on_allocation() is told of each one.
 */
void memory_arm(uint64_t at, unsigned count, void (*on_allocation)(void *ctx, bool failed),
		void *ctx);
/* Stops; returns how many allocations were counted. */
uint64_t memory_disarm(void);
unsigned memory_nb_failed(void);

/* Nestable. */
void memory_pause(void);
void memory_resume(void);

#endif
