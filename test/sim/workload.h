/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * workload: the twenty operation templates, their combinations, and random mixes.
 * Offsets are in terms of the cells' common layout (cell.h).
 */
#ifndef QCOW2FS_TEST_SIM_WORKLOAD_H
#define QCOW2FS_TEST_SIM_WORKLOAD_H

#include "test/sim/run.h"

#define WORKLOAD_TEMPLATES 20u

/* Template `index` on the layout of `cell`. */
struct guest_op workload_template(const struct cell *cell, unsigned index);

/*
 * Workload number `n` of those with exactly `nb_ops` templates (there are 20^nb_ops);
 * a template whose range the disk no longer has, because an earlier one has shrunk
 * it, is cut short. Ends with a flush.
 */
void workload_combination(struct run *run, unsigned nb_ops, unsigned n);

/*
 * `nb_ops` random operations for `nb_clients` clients: sector-aligned, of sizes from one sector to
 * some clusters, with flushes, on the disk as large as the model has it. Resizes and reopenings
 * only for a single client.
 */
void workload_random(struct run *run, unsigned nb_ops, unsigned nb_clients);

#endif
