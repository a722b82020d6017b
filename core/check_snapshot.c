/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_snapshot: a new snapshot table in the place of one whose entries lack the
 * extra data that version 3 demands, or carry more of it than anybody accepts.
 *
 * The new table is a copy in which every entry has what is missing: the size of the
 * VM state in 64 bits, and the size of the disk. It is written behind everything else
 * and gets its refcounts from a rebuild before the header points to it (I1, I2).
 */
#include "core/check_int.h"

#include <errno.h>

#define AHEAD_BYTES (64u << 10)

/* One entry on its way: where its parts are, and how long they become. */
struct entry {
	struct qcow2_snapshot_header raw;
	uint64_t extra_off;   /* in the file */
	uint32_t extra_bytes; /* there */
	uint32_t kept_bytes;  /* of it in the new table */
	uint32_t grown_bytes; /* in the new table */
	uint32_t names_bytes; /* id and name, behind the extra data */
};

static int coroutine_fn entry_read(struct check *check, uint64_t off, struct entry *entry)
{
	const uint8_t *data;
	int err = check_source_get(check, &check->source, off, sizeof(entry->raw), AHEAD_BYTES,
				   IO_TAG_SNAPSHOT, &data);

	if (err)
		return err;
	memcpy(&entry->raw, data, sizeof(entry->raw));
	entry->extra_off = off + sizeof(entry->raw);
	entry->extra_bytes = be32_get(&entry->raw.extra_data_size);
	entry->kept_bytes = min_u64(entry->extra_bytes, SNAPSHOT_EXTRA_BYTES_MAX);
	entry->grown_bytes = entry->kept_bytes;
	if (check->header.version >= 3)
		entry->grown_bytes = max_u64(entry->grown_bytes, SNAPSHOT_EXTRA_BYTES_MIN);
	entry->names_bytes =
		be16_get(&entry->raw.id_str_size) + (uint32_t)be16_get(&entry->raw.name_size);
	return 0;
}

static uint64_t entry_new_bytes(const struct entry *entry)
{
	return sizeof(entry->raw) + entry->grown_bytes + entry->names_bytes;
}

/* Copies a piece of the file, a piece of the window at a time. */
static int coroutine_fn copy(struct check *check, uint64_t off, uint64_t len_bytes, uint8_t *to)
{
	while (len_bytes) {
		size_t chunk = min_u64(len_bytes, 512);
		const uint8_t *data;
		int err = check_source_get(check, &check->source, off, chunk, AHEAD_BYTES,
					   IO_TAG_SNAPSHOT, &data);

		if (err)
			return err;
		memcpy(to, data, chunk);
		off += chunk;
		to += chunk;
		len_bytes -= chunk;
	}
	return 0;
}

static int coroutine_fn entry_write(struct check *check, const struct entry *entry, uint8_t *to)
{
	struct qcow2_snapshot_extra *extra = (void *)(to + sizeof(entry->raw));
	struct qcow2_snapshot_header *raw = (void *)to;
	int err;

	memcpy(to, &entry->raw, sizeof(entry->raw));
	be32_put(&raw->extra_data_size, entry->grown_bytes);
	err = copy(check, entry->extra_off, entry->kept_bytes, (uint8_t *)extra);
	if (err)
		return err;
	if (entry->grown_bytes > entry->kept_bytes) {
		if (entry->kept_bytes < sizeof(be64))
			be64_put(&extra->vm_state_size_large, be32_get(&raw->vm_state_size));
		be64_put(&extra->disk_size, check->header.virtual_size);
	}
	return copy(check, entry->extra_off + entry->extra_bytes, entry->names_bytes,
		    (uint8_t *)extra + entry->grown_bytes);
}

/* Runs over the old table; with `to`, writes the new one there. *ret_bytes: its length. */
static int coroutine_fn table_convert(struct check *check, uint8_t *to, uint64_t *ret_bytes)
{
	uint64_t off = check->header.snapshots_off, bytes = 0;

	for (uint32_t i = 0; i < check->header.nb_snapshots; i++) {
		struct entry entry;
		int err;

		off = round_up(off, 8);
		bytes = round_up(bytes, 8);
		err = entry_read(check, off, &entry);
		if (!err && to)
			err = entry_write(check, &entry, to + bytes);
		if (err)
			return err;
		off = entry.extra_off + entry.extra_bytes + entry.names_bytes;
		bytes += entry_new_bytes(&entry);
	}
	*ret_bytes = bytes;
	return 0;
}

int coroutine_fn check_snapshots_measure(struct check *check, uint64_t *ret_bytes)
{
	return table_convert(check, NULL, ret_bytes);
}

int coroutine_fn check_snapshots_write(struct check *check, uint64_t len_bytes, uint64_t *ret_off)
{
	uint64_t whole = round_up(len_bytes, check->header.cluster_size);
	uint64_t first;
	uint8_t *table;
	int err = check_place(check, whole >> check->header.cluster_bits, &first);

	if (err)
		return err;
	table = calloc(1, whole);
	if (!table)
		return -ENOMEM;
	*ret_off = first << check->header.cluster_bits;
	err = table_convert(check, table, &len_bytes);
	if (!err)
		err = check_write(check, *ret_off, table, whole, IO_TAG_SNAPSHOT);
	free(table);
	return err;
}

int coroutine_fn check_snapshots_switch(struct check *check, uint64_t table_off)
{
	be64 raw;
	int err;

	be64_put(&raw, table_off);
	err = check_write(check, offsetof(struct qcow2_header, snapshots_offset), &raw, sizeof(raw),
			  IO_TAG_HEADER);
	return err ? err : file_flush(check->file);
}
