/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * union: what the units of the driver have seen together. A crash state that two units of
 * a cell met counts once, and a call site has failed when it failed anywhere.
 *
 * Units run in processes of their own: each appends to files in a scratch folder, which
 * the driver reads when all have ended.
 */
#ifndef QCOW2FS_TEST_SIM_UNION_H
#define QCOW2FS_TEST_SIM_UNION_H

#include "test/sim/crash.h"

/* Makes the folder; ends the process on failure. To be called before units are started. */
void union_begin(void);
/* Removes it. */
void union_end(void);

/* In a unit, at its end. `name` is that of a cell. */
void union_add_states(const char *name, const struct hash_set *states);
/* `name` is that of a part. */
void union_add_site(const char *name, const char *site, bool failed);

/* How many different states were added under this name. */
uint64_t union_count_states(const char *name);
/* Counts sites seen and failed; prints those that never failed. */
void union_count_sites(const char *name, unsigned *ret_seen, unsigned *ret_failed);

#endif
