/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_meta: the clusters that the snapshot table, the bitmaps and the encryption
 * header refer to. Each is streamed through the window, however long it claims to be;
 * what lies beyond the end of the file reads as zeros and costs nothing.
 */
#include "core/check_int.h"

#include <errno.h>
#include <inttypes.h>

#define DIR_AHEAD_BYTES (64u << 10)

/* ---- snapshots ---- */

static int coroutine_fn snapshot_walk(struct check *check, uint32_t index,
				      const struct qcow2_snapshot_header *raw)
{
	uint64_t l1_off = be64_get(&raw->l1_table_offset);
	uint32_t nb_l1 = be32_get(&raw->l1_size);

	uint32_t extra_bytes = be32_get(&raw->extra_data_size);

	if (extra_bytes > SNAPSHOT_EXTRA_BYTES_MAX ||
	    (check->header.version >= 3 && extra_bytes < SNAPSHOT_EXTRA_BYTES_MIN)) {
		check_corruption(check, 1,
				 "snapshot %" PRIu32 " has %" PRIu32 " bytes of extra data", index,
				 extra_bytes);
		check->nb_bad_snapshots++;
	}
	if (!check_is_aligned(check, l1_off)) {
		check_corruption(check, 1, "L1 table of snapshot %" PRIu32 " is not aligned",
				 index);
		return 0;
	}
	if (nb_l1 > L1_BYTES_MAX / sizeof(be64)) {
		check_corruption(check, 1, "L1 table of snapshot %" PRIu32 " is too large", index);
		return 0;
	}
	return check_walk_l1(check, l1_off, nb_l1, false);
}

static int coroutine_fn snapshot_entries_walk(struct check *check, uint64_t *ret_end,
					      struct error **reterr)
{
	const struct check_header *header = &check->header;
	uint64_t off = header->snapshots_off;

	for (uint32_t i = 0; i < header->nb_snapshots; i++) {
		const uint8_t *data;
		struct qcow2_snapshot_header raw;
		uint32_t extra_bytes;
		int err;

		off = round_up(off, 8);
		err = check_source_get(check, &check->source, off, sizeof(raw), DIR_AHEAD_BYTES,
				       IO_TAG_SNAPSHOT, &data);
		if (err)
			return error_set(reterr, ERROR_SYSTEM, -err,
					 "cannot read the snapshot table");
		memcpy(&raw, data, sizeof(raw));
		extra_bytes = be32_get(&raw.extra_data_size);
		/* Nobody opens such an image; only a repair can cut it off. */
		if (extra_bytes > SNAPSHOT_EXTRA_BYTES_MAX &&
		    check->options->repair != CHECK_REPAIR_ALL)
			return error_set(reterr, ERROR_CORRUPT, EFBIG,
					 "snapshot %" PRIu32 " has too much extra data", i);
		off += sizeof(raw) + (uint64_t)extra_bytes + be16_get(&raw.id_str_size) +
		       be16_get(&raw.name_size);
		if (off - header->snapshots_off > SNAPSHOT_TABLE_BYTES_MAX)
			return error_set(reterr, ERROR_CORRUPT, EFBIG,
					 "snapshot table is too large");
		err = snapshot_walk(check, i, &raw);
		if (err)
			return error_set(reterr, ERROR_SYSTEM, -err,
					 "cannot read the L1 table of snapshot %" PRIu32, i);
	}
	*ret_end = off;
	return 0;
}

int coroutine_fn check_walk_snapshots(struct check *check, struct error **reterr)
{
	const struct check_header *header = &check->header;
	uint64_t end = header->snapshots_off;
	int err;

	if (header->nb_snapshots > SNAPSHOTS_MAX)
		return error_set(reterr, ERROR_CORRUPT, EFBIG, "%" PRIu32 " snapshots are too many",
				 header->nb_snapshots);
	if (!check_is_aligned(check, header->snapshots_off) ||

	    header->snapshots_off > INT64_MAX - SNAPSHOT_TABLE_BYTES_MAX)
		return error_set(reterr, ERROR_CORRUPT, EINVAL,
				 "snapshot table has an invalid offset");
	if (header->has_data_file && header->nb_snapshots)
		check_corruption(check, 1, "%" PRIu32 " snapshots beside an external data file",
				 header->nb_snapshots);
	err = snapshot_entries_walk(check, &end, reterr);
	if (err)
		return err;
	err = check_mark(check, header->snapshots_off, end - header->snapshots_off, 1, true);
	if (err)
		return error_set(reterr, ERROR_SYSTEM, -err, "cannot count references");
	return 0;
}

/* ---- bitmaps ---- */

static int coroutine_fn bitmap_table_walk(struct check *check, uint64_t table_off,
					  uint32_t nb_entries)
{
	uint64_t len_bytes = (uint64_t)nb_entries * sizeof(be64);
	uint64_t readable_bytes = check_table_bytes(check, table_off, len_bytes);
	int err;

	if (check->tables_overlap)
		return 0;
	err = check_mark(check, table_off, len_bytes, 1, true);
	if (err)
		return err;
	len_bytes = readable_bytes;
	for (uint64_t at = 0; at + sizeof(be64) <= len_bytes; at += sizeof(be64)) {
		const uint8_t *data;
		uint64_t entry, host_off;

		err = check_source_get(check, &check->source, table_off + at, sizeof(be64),
				       min_u64(len_bytes - at, DIR_AHEAD_BYTES), IO_TAG_BITMAP,
				       &data);
		if (err)
			return err;
		entry = be64_get(data);
		host_off = entry & BITMAP_ENTRY_OFFSET_MASK;
		if (entry & BITMAP_ENTRY_RESERVED_MASK || !check_is_aligned(check, host_off) ||
		    (host_off && entry & BITMAP_ENTRY_ALL_ONES)) {
			check_corruption(check, 1, "bitmap table entry %#" PRIx64 " is invalid",
					 entry);
			check->bitmaps_broken = true;
			continue;
		}
		if (!host_off)
			continue;
		err = check_mark(check, host_off, check->header.cluster_size, 1, true);
		if (err)
			return err;
	}
	return 0;
}

/* Whether a directory entry keeps the format's bounds, and suffices for the virtual size. */
static bool bitmap_is_valid(const struct check *check, const struct qcow2_bitmap_dir_entry *raw)
{
	uint64_t table_off = be64_get(&raw->bitmap_table_offset);
	uint32_t nb_entries = be32_get(&raw->bitmap_table_size);
	uint32_t flags = be32_get(&raw->flags);
	unsigned shift = raw->granularity_bits + check->header.cluster_bits + 3;

	if (!table_off || !check_is_aligned(check, table_off) || table_off >= HOST_OFF_MAX ||
	    !nb_entries || nb_entries > BITMAP_TABLE_ENTRIES_MAX)
		return false;
	if (raw->granularity_bits < 9 || raw->granularity_bits > 31 ||
	    raw->type != BITMAP_TYPE_DIRTY || be16_get(&raw->name_size) > BITMAP_NAME_MAX)
		return false;
	if (flags & ~(BITMAP_FLAG_IN_USE | BITMAP_FLAG_AUTO | BITMAP_FLAG_EXTRA_COMPATIBLE))
		return false;
	/* An inconsistent bitmap may have the wrong size. */
	return flags & BITMAP_FLAG_IN_USE ||
	       (check->header.virtual_size >> shift) +
			       !!(check->header.virtual_size & ((1ull << shift) - 1)) <=
		       nb_entries;
}

/* The bitmap at *off of the directory; moves *off to the next. */
static int coroutine_fn bitmap_walk(struct check *check, uint64_t *off, uint64_t end)
{
	struct qcow2_bitmap_dir_entry raw;
	const uint8_t *data;
	uint64_t next;
	int err;

	if (end - *off < sizeof(raw))
		return -EILSEQ;
	err = check_source_get(check, &check->source, *off, sizeof(raw),
			       min_u64(end - *off, DIR_AHEAD_BYTES), IO_TAG_BITMAP, &data);
	if (err)
		return err;
	memcpy(&raw, data, sizeof(raw));
	next = *off + round_up(sizeof(raw) + (uint64_t)be32_get(&raw.extra_data_size) +
				       be16_get(&raw.name_size),
			       8);
	if (next > end || !bitmap_is_valid(check, &raw))
		return -EILSEQ;
	*off = next;
	return bitmap_table_walk(check, be64_get(&raw.bitmap_table_offset),
				 be32_get(&raw.bitmap_table_size));
}

int coroutine_fn check_walk_bitmaps(struct check *check)
{
	const struct check_header *header = &check->header;
	uint64_t off = header->bitmap_dir_off, end = off + header->bitmap_dir_bytes;
	int err;

	err = check_mark(check, header->crypto_off, header->crypto_bytes, 1, true);
	if (err || !header->nb_bitmaps)
		return err;
	err = check_mark(check, off, header->bitmap_dir_bytes, 1, true);
	for (uint32_t i = 0; !err && i < header->nb_bitmaps; i++)
		err = bitmap_walk(check, &off, end);
	if (err && err != -EILSEQ)
		return err;
	if (err || off != end) {
		check_corruption(check, 1, "bitmap directory is invalid");
		check->bitmaps_broken = true;
	}
	return 0;
}
