/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* workload: operation templates and random mixes. See workload.h. */
#include "test/sim/workload.h"
#include "test/sim/choose.h"

#include <assert.h>

struct guest_op workload_template(const struct cell *cell, unsigned index)
{
	uint64_t cs = cell->cluster_size, disk = cell->nb_clusters * cs;
	uint64_t piece = cs > SIM_SECTOR ? SIM_SECTOR : 100;
	uint64_t free_cluster = cell->feature == CELL_GROWN ? 3910 : 4;

	switch (index) {
	case 0: /* a whole cluster, unallocated */
		return (struct guest_op){GUEST_WRITE, free_cluster * cs, cs};
	case 1: /* a whole cluster that has data */
		return (struct guest_op){GUEST_WRITE, 0, cs};
	case 2: /* part of an unallocated cluster */
		return (struct guest_op){GUEST_WRITE, free_cluster * cs + cs / 4, piece};
	case 3: /* part of a cluster that has data */
		return (struct guest_op){GUEST_WRITE, cs + cs / 2, piece};
	case 4: /* part of a zero cluster */
		return (struct guest_op){GUEST_WRITE, 2 * cs + piece, piece};
	case 5: /* end of one, all of the next, start of a third cluster */
		return (struct guest_op){GUEST_WRITE, 2 * cs - cs / 2, 2 * cs};
	case 6: /* bytes that fit no block, across two clusters */
		return (struct guest_op){GUEST_WRITE, (free_cluster + 1) * cs - 77, 150};
	case 7: /* beside the last cluster: another L2 table with small clusters */
		return (struct guest_op){GUEST_WRITE, disk - 2 * cs, cs};
	case 8: /* many clusters at once; a table that is nearly full grows */
		return (struct guest_op){GUEST_WRITE, (free_cluster - 1) * cs,
					 cell->feature == CELL_GROWN ? 100 * cs
					 : cell->cluster_size == 512 ? 40 * cs
								     : 4 * cs};
	case 9: /* a cluster that has data */
		return (struct guest_op){GUEST_DISCARD, 0, cs};
	case 10: /* data, zeros and nothing */
		return (struct guest_op){GUEST_DISCARD, cs, 4 * cs};
	case 11: /* parts of two clusters */
		return (struct guest_op){GUEST_DISCARD, cs / 2, cs};
	case 12:
		return (struct guest_op){GUEST_ZERO, 0, 2 * cs};
	case 13:
		return (struct guest_op){GUEST_ZERO_KEEP, cs, 4 * cs};
	case 14: /* part of a cluster */
		return (struct guest_op){GUEST_ZERO, piece, piece};
	case 15:
		return (struct guest_op){GUEST_ALLOCATE, 2 * cs, 3 * cs};
	case 16:
		return (struct guest_op){GUEST_FLUSH, 0, 0};
	case 17: /* past the L1 table of one cluster where clusters are small */
		return (struct guest_op){GUEST_RESIZE,
					 (uint64_t)cell->max_sectors * SIM_SECTOR - cs, 0};
	case 18:
		return (struct guest_op){GUEST_RESIZE, disk / 2 + cs, 0};
	default:
		return (struct guest_op){GUEST_REOPEN, 0, 0};
	}
}

static bool has_range(const struct guest_op *op)
{
	return op->kind != GUEST_FLUSH && op->kind != GUEST_RESIZE && op->kind != GUEST_REOPEN &&
	       op->kind != GUEST_CLOSE && op->kind != GUEST_SLEEP;
}

/* What a failed operation leaves of a sector that it changes in part is not modelled. */
static void round_to_sectors(struct guest_op *op)
{
	uint64_t end = (op->off + op->len + SIM_SECTOR - 1) & ~(uint64_t)(SIM_SECTOR - 1);

	op->off &= ~(uint64_t)(SIM_SECTOR - 1);
	op->len = end - op->off;
}

void workload_combination(struct run *run, unsigned nb_ops, unsigned n)
{
	uint64_t size = (uint64_t)cell_nb_sectors(run->cell) * SIM_SECTOR;

	run->nb_ops = 0;
	for (unsigned i = 0; i < nb_ops; i++) {
		struct guest_op op = workload_template(run->cell, n % WORKLOAD_TEMPLATES);

		n /= WORKLOAD_TEMPLATES;
		if (op.kind == GUEST_RESIZE)
			size = op.off;
		if (has_range(&op) && run->may_fail)
			round_to_sectors(&op);
		if (has_range(&op) && op.off >= size)
			op.off = size - run->cell->cluster_size;
		if (has_range(&op) && op.off + op.len > size)
			op.len = size - op.off;
		run->ops[run->nb_ops++] = op;
	}
	run->ops[run->nb_ops++] = (struct guest_op){GUEST_FLUSH, 0, 0};
}

static enum guest_kind random_kind(unsigned nb_clients)
{
	static const enum guest_kind kinds[] = {
		GUEST_WRITE,  GUEST_WRITE,     GUEST_WRITE,   GUEST_WRITE,    GUEST_WRITE,
		GUEST_WRITE,  GUEST_WRITE,     GUEST_READ,    GUEST_READ,     GUEST_ZERO,
		GUEST_ZERO,   GUEST_ZERO_KEEP, GUEST_DISCARD, GUEST_DISCARD,  GUEST_DISCARD,
		GUEST_FLUSH,  GUEST_FLUSH,     GUEST_SLEEP,   GUEST_ALLOCATE, GUEST_RESIZE,
		GUEST_REOPEN,
	};
	unsigned nb = sizeof(kinds) / sizeof(kinds[0]);

	return kinds[sim_choose(CHOICE_WORKLOAD, nb_clients > 1 ? nb - 2 : nb)];
}

void workload_random(struct run *run, unsigned nb_ops, unsigned nb_clients)
{
	unsigned size = model_nb_sectors(run->model), initial = size;
	unsigned per_cluster = run->cell->cluster_size / SIM_SECTOR;

	assert(nb_ops <= RUN_OPS_MAX);
	run->nb_ops = nb_ops;
	run->nb_clients = nb_clients;
	for (unsigned i = 0; i < nb_ops; i++) {
		struct guest_op *op = &run->ops[i];
		unsigned first, len;

		*op = (struct guest_op){random_kind(nb_clients), 0, 0};
		if (op->kind == GUEST_RESIZE) {
			size = initial / 2 + sim_choose(CHOICE_WORKLOAD, initial);
			size = size < run->cell->max_sectors ? size : run->cell->max_sectors;
			op->off = (uint64_t)size * SIM_SECTOR;
		} else if (op->kind == GUEST_SLEEP) {
			op->off = (1 + sim_choose(CHOICE_WORKLOAD, 6000)) * 1000000ull;
		}
		if (!has_range(op))
			continue;
		first = sim_choose(CHOICE_WORKLOAD, size);
		len = sim_choose(CHOICE_WORKLOAD, 2) ? per_cluster : 1;
		len *= 1 + sim_choose(CHOICE_WORKLOAD, 6);
		if (sim_choose(CHOICE_WORKLOAD, 2))
			first -= first % per_cluster;
		if (len > size - first)
			len = size - first;
		op->off = (uint64_t)first * SIM_SECTOR;
		op->len = (uint64_t)len * SIM_SECTOR;
	}
}
