/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_move: guest data that lies in a cluster of metadata gets a cluster of its own.
 *
 * No refcount makes such a cluster sound: the next change of the metadata changes the
 * guest's bytes. What the guest reads there now is copied behind everything else, gets its
 * refcounts from a rebuild, and is durable before the entries point to it (I1, I3). Only
 * tables that are nothing but tables are changed; compressed data stays where it is.
 */
#include "core/check_int.h"
#include "io/buf.h"

#include <errno.h>

#define MOVES_MAX 65536u /* in one round; the next one takes the rest */

static int moves_add(struct check_moves *moves, uint64_t entry_off, uint64_t entry)
{
	if (moves->nb == moves->cap) {
		size_t cap = max_u64(16, moves->cap * 2);
		struct check_move *grown = realloc(moves->list, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		moves->list = grown;
		moves->cap = cap;
	}
	moves->list[moves->nb++] = (struct check_move){entry_off, entry};
	return 0;
}

/* Whether an entry refers to metadata that has other users. */
static bool must_move(const struct check *check, uint64_t entry)
{
	uint64_t off = entry & L2_OFFSET_MASK, cluster = off >> check->header.cluster_bits;

	return check_entry_kind(check, entry) == ENTRY_CLUSTER && check_is_aligned(check, off) &&
	       cluster < check->refs.nb && check_bit(check->refs.owned, cluster) &&
	       check_refs_get(&check->refs, cluster) > 1;
}

/*
 * Gathers the entries of one table. Entries that take the table itself for data do not keep it
 * from being changed: they are moved too, and the guest's copy is made first.
 */
static int coroutine_fn table_gather(struct check *check, const struct check_l2 *l2,
				     struct check_moves *moves)
{
	size_t nb_before = moves->nb;
	uint32_t nb_self = 0;
	const uint8_t *table;
	int err;

	if (!check_is_aligned(check, l2->host_off) || l2->host_off >= check->file_bytes)
		return 0;
	err = check_source_get(check, &check->source, l2->host_off, check->header.cluster_size,
			       check->header.cluster_size, IO_TAG_L2, &table);
	for (uint32_t at = 0; !err && at < check->header.cluster_size;
	     at += check->header.l2_entry_bytes) {
		uint64_t entry = be64_get(table + at) & ~ENTRY_COPIED;

		if (moves->nb == MOVES_MAX || !must_move(check, entry))
			continue;
		nb_self += (entry & L2_OFFSET_MASK) == l2->host_off;
		if (l2->nb_refs == 1)
			entry |= ENTRY_COPIED;
		err = moves_add(moves, l2->host_off + at, entry);
	}
	if (!check_table_is_alone(check, l2->host_off, l2->nb_refs * (1 + nb_self)))
		moves->nb = nb_before;
	return err;
}

int coroutine_fn check_moves_gather(struct check *check, struct check_moves *moves)
{
	int err = 0;

	*moves = (struct check_moves){0};
	if (check->header.has_data_file)
		return 0;
	for (size_t i = 0; !err && i < check->nb_l2; i++)
		err = table_gather(check, &check->l2[i], moves);
	return err;
}

int coroutine_fn check_moves_copy(struct check *check, struct check_moves *moves)
{
	uint32_t cluster_size = check->header.cluster_size;
	uint8_t *buf = buf_get(cluster_size);
	uint64_t first;
	int err = buf ? check_place(check, moves->nb, &first) : -ENOMEM;

	for (size_t i = 0; !err && i < moves->nb; i++) {
		struct check_move *move = &moves->list[i];
		uint64_t to = (first + i) << check->header.cluster_bits;

		err = file_read(check->file, move->entry & L2_OFFSET_MASK, buf, cluster_size,
				IO_TAG_DATA);
		if (!err)
			err = check_write(check, to, buf, cluster_size, IO_TAG_DATA);
		move->entry = (move->entry & ~L2_OFFSET_MASK) | to;
	}
	buf_put(buf, cluster_size);
	return err;
}

int coroutine_fn check_moves_switch(struct check *check, const struct check_moves *moves)
{
	for (size_t i = 0; i < moves->nb; i++) {
		be64 raw;
		int err;

		be64_put(&raw, moves->list[i].entry);
		err = check_write(check, moves->list[i].entry_off, &raw, sizeof(raw), IO_TAG_L2);
		if (err)
			return err;
	}
	return file_flush(check->file);
}

void check_moves_finish(struct check_moves *moves)
{
	free(moves->list);
	*moves = (struct check_moves){0};
}
