/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * qemu: is the guest's data what QEMU says it is? Where both programs read an image
 * without an error, all bytes must be equal.
 */
#ifndef QCOW2FS_TEST_HOSTILE_QEMU_H
#define QCOW2FS_TEST_HOSTILE_QEMU_H

#include "test/hostile/trial.h"

struct qemu_tally {
	uint64_t nb_both, nb_only_us, nb_only_qemu, nb_neither;
	uint64_t nb_compared, nb_differ, nb_stricter; /* stricter: we give EIO for some range */
	uint64_t compared_bytes;
};

/* Writes the image and its companions into a folder. 0 or -1. */
int qemu_dump(const struct bundle *bundle, const char *folder);
void qemu_compare(struct trial *trial, const struct bundle *bundle, const char *folder,
		  struct qemu_tally *tally);
void qemu_add_up(struct qemu_tally *sum, const struct qemu_tally *tally);
void qemu_print(const struct qemu_tally *tally);

#endif
