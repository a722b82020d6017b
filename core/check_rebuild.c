/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_rebuild: new refcount structures, made from the references alone.
 *
 * The new table and blocks are written behind everything else, over nothing, and
 * flushed (I1, I2); then the header is switched by one write of twelve bytes inside its
 * first sector, and flushed. The new structures give the old ones no refcount, so the
 * old clusters become free by that same write: there is no state in which they are
 * leaked or freed too early.
 */
#include "core/check_int.h"
#include "io/buf.h"

#include <errno.h>

/* Where everything goes. Clusters: [table, table + nb_table) and the blocks behind it. */
struct plan {
	uint64_t table, nb_table;
	uint64_t nb_blocks; /* blocks that exist, each one cluster */
	uint64_t nb_index;  /* entries of the table that matter */
	uint64_t *used;     /* bitmap: block `index` has a cluster with references */
};

int check_place(const struct check *check, uint64_t nb_clusters, uint64_t *ret_first)
{
	unsigned bits = check->header.cluster_bits;

	if (check->file->is_block_device) {
		/* A device does not grow; behind the last cluster in use it is free. */
		*ret_first = check->end_cluster;
		if ((*ret_first + nb_clusters) << bits > check->file->size_bytes)
			return -ENOSPC;
		return 0;
	}
	*ret_first = round_up(check->file->size_bytes, check->header.cluster_size) >> bits;
	*ret_first = max_u64(*ret_first, check->refs.nb);
	return 0;
}

bool check_is_place_free(const struct check *check)
{
	uint64_t end = check->dangling_end_cluster << check->header.cluster_bits;

	return check->file->is_block_device || end <= check->file->size_bytes;
}

int coroutine_fn check_cover_dangling(struct check *check)
{
	return file_truncate(check->file,
			     check->dangling_end_cluster << check->header.cluster_bits);
}

static uint64_t plan_end(const struct plan *plan)
{
	return plan->table + plan->nb_table + plan->nb_blocks;
}

/* Whether block `index` has to exist: for what is there, or for what the plan adds. */
static bool plan_needs(const struct check *check, const struct plan *plan, uint64_t index,
		       uint64_t nb_used)
{
	uint64_t first = index << check->header.block_bits;
	uint64_t end = (index + 1) << check->header.block_bits;

	if (index < nb_used && check_bit(plan->used, index))
		return true;
	return first < plan_end(plan) && end > plan->table;
}

/* Grows the plan until it has room for itself: every block and the table need refcounts too. */
static int plan_make(const struct check *check, struct plan *plan)
{
	const struct check_header *header = &check->header;
	uint64_t nb_used = (check->refs.nb >> header->block_bits) + 1;
	uint64_t needed;
	int err;

	err = check_place(check, 0, &plan->table);
	if (err)
		return err;
	plan->used = calloc(nb_used / 64 + 1, sizeof(uint64_t));
	if (!plan->used)
		return -ENOMEM;
	for (uint64_t i = 0; i < check->refs.nb; i++)
		if (check_refs_get(&check->refs, i))
			check_set_bit(plan->used, i >> header->block_bits);
	do {
		needed = plan->nb_table + plan->nb_blocks;
		plan->nb_index = (plan_end(plan) >> header->block_bits) + 1;
		plan->nb_blocks = 0;
		for (uint64_t i = 0; i < plan->nb_index; i++)
			plan->nb_blocks += plan_needs(check, plan, i, nb_used);
		plan->nb_table = round_up(plan->nb_index * sizeof(be64), header->cluster_size) >>
				 header->cluster_bits;
	} while (plan->nb_table + plan->nb_blocks != needed);
	if (plan->nb_table << header->cluster_bits > REFTABLE_BYTES_MAX)
		return -EFBIG;
	return check_place(check, plan->nb_table + plan->nb_blocks, &plan->table);
}

static void block_fill(const struct check *check, const struct plan *plan, uint64_t index,
		       uint8_t *buf)
{
	const struct check_header *header = &check->header;
	uint64_t first = index << header->block_bits;

	memset(buf, 0, header->cluster_size);
	for (uint64_t i = 0; i < 1ull << header->block_bits; i++) {
		uint64_t cluster = first + i, refcount = 0;

		if (cluster >= plan->table && cluster < plan_end(plan))
			refcount = 1;
		else if (cluster < check->refs.nb)
			refcount = check_right_refcount(check, cluster);
		if (refcount)
			check_refcount_put(buf, i, header->refcount_order, refcount);
	}
}

/* Writes the blocks, and the table that points to them. */
static int coroutine_fn plan_write(struct check *check, const struct plan *plan, uint8_t *buf,
				   uint8_t *table)
{
	const struct check_header *header = &check->header;
	uint64_t nb_used = (check->refs.nb >> header->block_bits) + 1;
	uint64_t next = plan->table + plan->nb_table;

	for (uint64_t i = 0; i < plan->nb_index; i++) {
		int err;

		if (!plan_needs(check, plan, i, nb_used))
			continue;
		block_fill(check, plan, i, buf);
		be64_put(table + i * sizeof(be64), next << header->cluster_bits);
		err = check_write(check, next++ << header->cluster_bits, buf, header->cluster_size,
				  IO_TAG_REFBLOCK);
		if (err)
			return err;
	}
	return check_write(check, plan->table << header->cluster_bits, table,
			   plan->nb_table << header->cluster_bits, IO_TAG_REFTABLE);
}

static int coroutine_fn plan_switch(struct check *check, const struct plan *plan)
{
	uint8_t raw[12];
	int err = file_flush(check->file); /* I1, I2: before the header points there */

	static_assert(offsetof(struct qcow2_header, refcount_table_clusters) ==
			      offsetof(struct qcow2_header, refcount_table_offset) + 8,
		      "one write switches both");
	if (err)
		return err;
	be64_put(raw, plan->table << check->header.cluster_bits);
	be32_put(raw + 8, plan->nb_table);
	err = check_write(check, offsetof(struct qcow2_header, refcount_table_offset), raw,
			  sizeof(raw), IO_TAG_HEADER);
	return err ? err : file_flush(check->file);
}

int coroutine_fn check_rebuild(struct check *check)
{
	struct plan plan = {0};
	uint8_t *buf = buf_get(check->header.cluster_size), *table = NULL;
	int err = buf ? plan_make(check, &plan) : -ENOMEM;

	if (!err) {
		table = calloc(plan.nb_table, check->header.cluster_size);
		err = table ? plan_write(check, &plan, buf, table) : -ENOMEM;
	}
	if (!err)
		err = plan_switch(check, &plan);
	free(table);
	free(plan.used);
	buf_put(buf, check->header.cluster_size);
	return err;
}
