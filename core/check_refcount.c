/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_refcount: the refcounts that the image claims, and their comparison with the
 * references that the walk found.
 *
 * The refcount blocks are read twice. First, to know which clusters have a refcount of
 * exactly 1, a bit each: that is all the COPIED flags need, and so the L2 tables are
 * read only once. Then for the comparison, block by block beside the counters.
 */
#include "core/check_int.h"

#include <errno.h>
#include <inttypes.h>

#define TABLE_CHUNK_BYTES (64u << 10)

/* ---- refcounts of every width, read without the writer whom this judges ---- */

uint64_t check_refcount_get(const uint8_t *block, uint64_t index, unsigned order)
{
	uint64_t first_bit = index << order;

	switch (order) {
	case 6:
		return be64_get(block + index * 8);
	case 5:
		return be32_get(block + index * 4);
	case 4:
		return be16_get(block + index * 2);
	case 3:
		return block[index];
	default:
		return block[first_bit / 8] >> (first_bit % 8) & ((1u << (1u << order)) - 1);
	}
}

void check_refcount_put(uint8_t *block, uint64_t index, unsigned order, uint64_t refcount)
{
	uint64_t first_bit = index << order;
	unsigned mask = (1u << (1u << (order & 3))) - 1;

	switch (order) {
	case 6:
		be64_put(block + index * 8, refcount);
		break;
	case 5:
		be32_put(block + index * 4, refcount);
		break;
	case 4:
		be16_put(block + index * 2, refcount);
		break;
	case 3:
		block[index] = refcount;
		break;
	default:
		block[first_bit / 8] &= ~(mask << (first_bit % 8));
		block[first_bit / 8] |= refcount << (first_bit % 8);
	}
}

/* ---- loading ---- */

/* Calls the table's part that concerns the file into memory, in host order. */
static int coroutine_fn reftable_load(struct check *check)
{
	const struct check_header *header = &check->header;
	uint64_t nb_needed = (check->refs.cap >> header->block_bits) + 1;
	uint64_t table_bytes = (uint64_t)header->reftable_clusters << header->cluster_bits;
	uint64_t nb_present = min_u64(nb_needed, table_bytes / sizeof(be64));

	check->reftable = calloc(nb_needed, sizeof(*check->reftable));
	if (!check->reftable)
		return -ENOMEM;
	check->nb_reftable = nb_needed;
	for (uint64_t i = 0; i < nb_present; i++) {
		uint64_t ahead = min_u64((nb_present - i) * sizeof(be64), TABLE_CHUNK_BYTES);
		const uint8_t *data;
		int err = check_source_get(check, &check->source,
					   header->reftable_off + i * sizeof(be64), sizeof(be64),
					   ahead, IO_TAG_REFTABLE, &data);

		if (err)
			return err;
		check->reftable[i] = be64_get(data);
	}
	return 0;
}

bool check_block_is_misplaced(const struct check *check, uint64_t index)
{
	uint64_t off = check->reftable[index] & REFTABLE_OFFSET_MASK;

	return !check_is_aligned(check, off) || off > INT64_MAX;
}

int coroutine_fn check_block_get(struct check *check, uint64_t index, const uint8_t **ret_block)
{
	uint64_t off = check->reftable[index] & REFTABLE_OFFSET_MASK;

	*ret_block = NULL;
	if (!off || check_block_is_misplaced(check, index) || off >= check->file_bytes)
		return 0;
	return check_source_get(check, &check->blocks, off, check->header.cluster_size,
				check->header.cluster_size, IO_TAG_REFBLOCK, ret_block);
}

uint64_t check_block_span(const struct check *check, uint64_t index, uint64_t nb_clusters,
			  uint64_t *ret_first)
{
	uint64_t first = index << check->header.block_bits;

	*ret_first = first;
	if (first >= nb_clusters)
		return 0;
	return min_u64(nb_clusters - first, 1ull << check->header.block_bits);
}

int coroutine_fn check_refcounts_load(struct check *check)
{
	unsigned order = check->header.refcount_order;
	int err = reftable_load(check);

	if (err)
		return err;
	check->nb_single = check->refs.cap;
	check->single = calloc(check->nb_single / 64 + 1, sizeof(uint64_t));
	if (!check->single)
		return -ENOMEM;
	for (uint64_t index = 0; index < check->nb_reftable; index++) {
		const uint8_t *block;
		uint64_t first, nb = check_block_span(check, index, check->nb_single, &first);

		err = check_block_get(check, index, &block);
		if (err)
			return err;
		for (uint64_t i = 0; block && i < nb; i++)
			if (check_refcount_get(block, i, order) == 1)
				check_set_bit(check->single, first + i);
	}
	return 0;
}

/* For a cluster beyond the file: one entry, read from wherever it is. */
static int coroutine_fn far_is_single(struct check *check, uint64_t cluster)
{
	const struct check_header *header = &check->header;
	uint64_t index = cluster >> header->block_bits;
	uint64_t in_block = cluster & ((1ull << header->block_bits) - 1);
	uint64_t byte_in_block = in_block << header->refcount_order >> 3;
	uint64_t off = 0;
	const uint8_t *data;
	int err;

	if (index >= (uint64_t)header->reftable_clusters << (header->cluster_bits - 3))
		return 0;
	err = check_source_get(check, &check->blocks, header->reftable_off + index * sizeof(be64),
			       sizeof(be64), 0, IO_TAG_REFTABLE, &data);
	if (err)
		return err;
	off = be64_get(data) & REFTABLE_OFFSET_MASK;
	if (!check_is_aligned(check, off) || off > INT64_MAX)
		return -EIO;
	if (!off || off >= check->file_bytes)
		return 0;
	err = check_source_get(check, &check->blocks, off + round_down(byte_in_block, 8), 8, 0,
			       IO_TAG_REFBLOCK, &data);
	if (err)
		return err;
	in_block -= round_down(byte_in_block, 8) * 8 >> header->refcount_order;
	return check_refcount_get(data, in_block, header->refcount_order) == 1;
}

int coroutine_fn check_refcount_is_single(struct check *check, uint64_t cluster)
{
	uint64_t index = cluster >> check->header.block_bits;

	if (cluster >= check->nb_single)
		return far_is_single(check, cluster);
	if (check_block_is_misplaced(check, index))
		return -EIO;
	return check_bit(check->single, cluster);
}

/* ---- the structures themselves ---- */

static int reftable_entry_walk(struct check *check, uint64_t index, uint64_t entry)
{
	uint64_t off = entry & REFTABLE_OFFSET_MASK;
	uint64_t cluster = off >> check->header.cluster_bits;
	const char *wrong = NULL;
	int err;

	if (!entry)
		return 0;
	if (entry & REFTABLE_RESERVED_MASK)
		wrong = "has reserved bits set";
	else if (!check_is_aligned(check, off))
		wrong = "is not aligned";
	else if (cluster >= check->refs.nb)
		wrong = "lies beyond the end of the file";
	if (!wrong) {
		err = check_mark(check, off, check->header.cluster_size, 1, false);
		if (err)
			return err;
		if (check_right_refcount(check, cluster) != 1)
			wrong = "is used by others too";
		if (check_refs_get(&check->refs, cluster) != 1)
			check->must_rebuild = true;
	}
	if (wrong) {
		check_corruption(check, 1, "refcount block %" PRIu64 " (%#" PRIx64 ") %s", index,
				 entry, wrong);
		check->must_rebuild = true;
	}
	return 0;
}

int coroutine_fn check_walk_refcounts(struct check *check)
{
	uint64_t table_off = check->header.reftable_off;
	uint64_t table_bytes = (uint64_t)check->header.reftable_clusters
			       << check->header.cluster_bits;
	uint64_t present = 0;
	int err = check_mark(check, table_off, table_bytes, 1, true);

	if (err)
		return err;
	if (table_off < check->file_bytes)
		present = min_u64(table_bytes, check->file_bytes - table_off);
	for (uint64_t at = 0; at < present; at += sizeof(be64)) {
		const uint8_t *data;

		err = check_source_get(check, &check->source, table_off + at, sizeof(be64),
				       min_u64(present - at, TABLE_CHUNK_BYTES), IO_TAG_REFTABLE,
				       &data);
		if (err)
			return err;
		err = reftable_entry_walk(check, at / sizeof(be64), be64_get(data));
		if (err)
			return err;
	}
	/* A table that others use too, or that is cut off, is replaced, never written. */
	for (uint64_t at = 0; at < table_bytes; at += check->header.cluster_size) {
		uint64_t cluster = (table_off + at) >> check->header.cluster_bits;

		if (cluster >= check->refs.nb || check_refs_get(&check->refs, cluster) != 1)
			check->must_rebuild = true;
	}
	return 0;
}

/* ---- comparison ---- */

static void cluster_compare(struct check *check, uint64_t cluster, uint64_t refcount,
			    bool has_block)
{
	uint64_t refs = check_refs_get(&check->refs, cluster);
	uint64_t right = check_right_refcount(check, cluster);

	if (refcount < right) {
		check_corruption(check, 1,
				 "cluster %" PRIu64 " has refcount %" PRIu64 " but %" PRIu64
				 " references",
				 cluster, refcount, refs);
		if (!has_block)
			check->must_rebuild = true;
	} else if (refcount > right) {
		check_leak(check,
			   "cluster %" PRIu64 " has refcount %" PRIu64 " but %" PRIu64
			   " references",
			   cluster, refcount, refs);
	} else if (refs > 1 && refs == right && check_bit(check->refs.owned, cluster)) {
		check->report->overlaps++;
		check_corruption(check, 1, "cluster %" PRIu64 " is metadata and used by others too",
				 cluster);
	}
}

int coroutine_fn check_compare(struct check *check)
{
	unsigned order = check->header.refcount_order;
	uint64_t nb_clusters = check->refs.nb, end = 0;

	for (uint64_t index = 0; index < check->nb_reftable; index++) {
		const uint8_t *block;
		uint64_t first, nb = check_block_span(check, index, nb_clusters, &first);
		int err = check_block_get(check, index, &block);

		if (err)
			return err;
		if (check_block_is_misplaced(check, index)) {
			check_trouble(check, nb,
				      "refcounts of clusters from %" PRIu64 " on are not readable",
				      first);
			continue;
		}
		for (uint64_t i = 0; i < nb; i++) {
			uint64_t refcount = block ? check_refcount_get(block, i, order) : 0;
			uint64_t refs = check_refs_get(&check->refs, first + i);

			if (refcount | refs)
				end = first + i + 1;
			if (refcount != refs || refs > 1)
				cluster_compare(check, first + i, refcount, block);
		}
	}
	check->end_cluster = max_u64(end, 1);
	check->report->image_end_offset = check->end_cluster << check->header.cluster_bits;
	return 0;
}
