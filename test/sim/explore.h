/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * explore: a run, then every state that a power cut could have left, each judged.
 *
 * States are told apart by a hash in which payloads count by LBA and ordinal; a state
 * is judged once for each set of contents that is legal when it arises. A sample is
 * carried on with: twenty more operations on what the crash left, and a second crash.
 * What is sampled follows from the hash alone, so that a single run repeats exactly.
 */
#ifndef QCOW2FS_TEST_SIM_EXPLORE_H
#define QCOW2FS_TEST_SIM_EXPLORE_H

#include "test/sim/crash.h"
#include "test/sim/judge.h"
#include "test/sim/run.h"

struct explore_stats {
	uint64_t nb_runs, nb_visited, nb_judged;
	uint64_t nb_distinct; /* by content, with an uncovered metadata write */
	uint64_t nb_leaky, nb_second, nb_qemu, nb_violations;
	uint64_t nb_faults;
	uint64_t max_excess_bytes; /* file size beyond the last cluster in use, after closing */
};

void explore_stats_add(struct explore_stats *to, const struct explore_stats *from);

struct explorer {
	struct sim *sim;
	const struct cell_image *image;
	struct crash_params params;
	unsigned second_one_in, qemu_one_in; /* 0: never */
	unsigned max_violations;
	/* Told before each state is judged, so that a watchdog can be restarted; may be NULL. */
	void (*on_judge)(void);
	bool judge_crashes; /* false: only the run itself and its final state */

	struct explore_stats stats;
	bool last_failed; /* the last run or one of its states */

	/* the explorer's own */
	struct hash_set bytes, judged, distinct;
	struct model model;
	content_t *contents; /* what the state judged last holds, and ... */
	unsigned nb_sectors; /* ... how large its disk is */
	uint64_t digest, digest_now;
	bool nested;
	char scratch_folder[64];
};

void explorer_init(struct explorer *explorer, struct sim *sim, const struct cell_image *image);
void explorer_finish(struct explorer *explorer);

/*
 * Performs `run` (prepared, operations filled in), judges the final state and explores
 * its crashes. Violations are printed. The generator
 * must have been seeded; the verdict's context says how to repeat it.
 */
void explore_run(struct explorer *explorer, struct run *run);

/* Goes before it: puts the cell's files on the disk and binds the run to them. */
void explore_prepare(struct explorer *explorer, struct run *run);

/* The pieces of it, for runs with faults: judge what is there now, explore crashes. */
void explore_crashes(struct explorer *explorer, const struct run *run,
		     const struct history *history);
/* `floor`: what ended before it must be there (model_judge_sector()). */
void explore_judge_now(struct explorer *explorer, uint64_t floor);
/* Prints and counts the verdict's failure, if there is one. True when there was. */
bool explore_report(struct explorer *explorer, const struct run *run,
		    const struct crash_state *state);

#endif
