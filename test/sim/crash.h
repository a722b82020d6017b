/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * crash: all states in which a power cut can leave the files of a run.
 *
 * At a moment T the base is what covered records have written; every record
 * issued by T and not covered is there or not, in whole or in part. Up to
 * `max_exhaustive` such records all subsets are visited; beyond that none, all,
 * each alone, each missing, prefixes in the order of issue and of completion, by
 * tag, and random subsets. Tears and file sizes that ran ahead of their data are
 * visited besides. Moments are the issue of every change and the success of every
 * flush the guest asked for; at an issue only states with the new record are new.
 */
#ifndef QCOW2FS_TEST_SIM_CRASH_H
#define QCOW2FS_TEST_SIM_CRASH_H

#include "test/sim/disk.h"
#include "test/sim/model.h"

/* A finished run, taken out of the disk. */
struct history {
	struct sim_record *log;
	unsigned nb_log;
	unsigned nb_files;
	struct sim_bytes base[SIM_FILES_MAX]; /* the files before the run */
	uint64_t t_end;
};

struct crash_params {
	unsigned max_exhaustive;
	unsigned nb_random;
	unsigned max_moments; /* visit about so many moments, chosen at random, rarely ones without
			       * uncovered metadata; 0: all */
};

struct crash_state {
	uint64_t now;
	uint64_t hash; /* of all files, ids of payloads normalised */
	unsigned nb_uncovered, nb_uncovered_metadata, nb_applied;
	const char *kind;                          /* "subset", "prefix", "tear", ... */
	const struct sim_record *const *uncovered; /* nb_uncovered of them, with ... */
	const bool *applied;                       /* ... what this state contains */
};

/*
 * Visits the states of `history`; the files of `disk`, in SIM_DIRECT mode, hold each
 * state during the visit and are put back afterwards. visit() returns false to stop.
 */
void crash_visit(struct sim_disk *disk, const struct history *history, const struct model *model,
		 const struct crash_params *params,
		 bool (*visit)(void *ctx, const struct crash_state *state), void *ctx);

/* One line per uncovered record, for a report. The caller frees it. */
char *crash_describe(const struct crash_state *state);

/* Starts a history with the files of `disk` as they are; the log must be empty. */
void history_begin(struct history *history, const struct sim_disk *disk);
/* Takes the log. */
void history_end(struct history *history, struct sim_disk *disk);
void history_free(struct history *history);

/* ---- a set of hashes ---- */
struct hash_set {
	uint64_t *slots;
	unsigned nb, max;
};
/* True when it was not there. */
bool hash_set_add(struct hash_set *set, uint64_t hash);
void hash_set_free(struct hash_set *set);

#endif
