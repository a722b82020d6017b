/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * mutate: random hostile images, each a function of the seed and its number: one of the
 * kinds of small images, in which a few fields are changed, clusters exchanged, bytes
 * flipped, the file cut off.
 */
#ifndef QCOW2FS_TEST_HOSTILE_MUTATE_H
#define QCOW2FS_TEST_HOSTILE_MUTATE_H

#include "test/hostile/trial.h"

void mutate_make(uint64_t seed, uint64_t number, struct bundle *ret_bundle);

/* The files that an image of this kind names. */
void mutate_add_companions(const struct seed *seed, struct bundle *bundle);

#endif
