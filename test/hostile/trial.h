/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * trial: what every hostile image goes through. Read-only: opened, mapped, read, each
 * snapshot opened, checked. Then as a copy: opened for writing, written, discarded,
 * resized, flushed, closed, checked, repaired, checked again.
 *
 * What counts: nothing dies, no phase takes longer than TRIAL_PHASE_SEC of processor
 * time, the process stays below TRIAL_MEMORY_BYTES, reading changes no byte, and an
 * image that the check found sound is sound after writing and reads back what was
 * written. Anything else ends the process.
 */
#ifndef QCOW2FS_TEST_HOSTILE_TRIAL_H
#define QCOW2FS_TEST_HOSTILE_TRIAL_H

#include "test/hostile/disk.h"
#include "test/hostile/seed.h"

#define TRIAL_MEMORY_BYTES (64ull << 20)
#define TRIAL_IMAGE "image.qcow2"
#define BUNDLE_EXTRAS_MAX 20u

/* A hostile image and the files that lie beside it. */
struct bundle {
	char name[96];
	struct seed image;
	struct seed extras[BUNDLE_EXTRAS_MAX];
	char extra_names[BUNDLE_EXTRAS_MAX][24];
	unsigned nb_extras;
};
/* Takes over the seed's bytes. */
void bundle_add(struct bundle *bundle, const char *name, struct seed *seed);
void bundle_free(struct bundle *bundle);

/* In memory shared by the processes. */
struct tally {
	uint64_t nb_trials, nb_opened, nb_read_ok, nb_sound, nb_writable, nb_written;
	uint64_t peak_bytes, slowest_ns;
	char slowest[96];
	const char *slowest_phase, *phase; /* the latter under way; constant texts */
};

struct trial {
	struct disk *disk;
	struct reactor *reactor;
	struct tally *tally;
	bool check_memory;
	unsigned phase_sec;
};

/* The most memory that this process has used so far. */
uint64_t trial_peak_bytes(void);

void trial_run(struct trial *trial, const struct bundle *bundle);

/*
 * Compares the image with what another program made of it. Returns the number of bytes
 * that differ; -errno when the image cannot be opened. A range that gives an error is
 * not compared (*ret_nb_failed counts bytes).
 */
int64_t trial_compare(struct trial *trial, const struct bundle *bundle, const uint8_t *flat,
		      uint64_t flat_bytes, uint64_t *ret_nb_failed);
/* The virtual size as it is opened, -errno where it is not. */
int64_t trial_size(struct trial *trial, const struct bundle *bundle);

#endif
