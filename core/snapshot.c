/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * snapshot: reading and searching the snapshot table (see snapshot.h).
 */
#include "core/snapshot.h"

#include "core/checked.h"

#include <errno.h>
#include <stdlib.h>

/* Where the parser stands in the table. */
struct table_reader {
	struct file *file;
	const struct header *header;
	uint64_t host_off; /* of the next entry */
	uint64_t end;      /* nothing of the table lies beyond */
};

static int damaged(struct error **reterr, unsigned index, const char *what)
{
	return error_set(reterr, ERROR_OPEN, EINVAL, "damaged snapshot table: entry %u: %s", index,
			 what);
}

static int coroutine_fn read_bytes(struct table_reader *reader, uint64_t host_off, void *buf,
				   size_t len_bytes, struct error **reterr)
{
	int ret = 0;

	if (len_bytes)
		ret = file_read(reader->file, host_off, buf, len_bytes, IO_TAG_SNAPSHOT);
	if (ret)
		return error_set(reterr, ERROR_OPEN, -ret, "cannot read the snapshot table: %s",
				 strerror(-ret));
	return 0;
}

static void take_fields(const struct table_reader *reader, const struct qcow2_snapshot_header *raw,
			const struct qcow2_snapshot_extra *extra, uint32_t extra_bytes,
			struct snapshot *snapshot)
{
	snapshot->l1_table_offset = be64toh(raw->l1_table_offset);
	snapshot->l1_size = be32toh(raw->l1_size);
	snapshot->date_sec = be32toh(raw->date_sec);
	snapshot->date_nsec = be32toh(raw->date_nsec);
	snapshot->vm_clock_nsec = be64toh(raw->vm_clock_nsec);
	snapshot->vm_state_bytes = be32toh(raw->vm_state_size);
	snapshot->virtual_size = reader->header->size;
	snapshot->icount = UINT64_MAX;
	if (extra_bytes >= 8)
		snapshot->vm_state_bytes = be64toh(extra->vm_state_size_large);
	if (extra_bytes >= 16)
		snapshot->virtual_size = be64toh(extra->disk_size);
	if (extra_bytes >= 24)
		snapshot->icount = be64toh(extra->icount);
}

/* The L1 table of a snapshot, with the bounds of the active one. */
static int check_snapshot(const struct header *header, const struct snapshot *snapshot,
			  unsigned index, struct error **reterr)
{
	uint64_t end;

	if ((uint64_t)snapshot->l1_size * 8 > L1_BYTES_MAX)
		return damaged(reterr, index, "the L1 table is larger than 32 MiB");
	if (snapshot->l1_table_offset & ((1ull << header->cluster_bits) - 1) ||
	    checked_add(snapshot->l1_table_offset, (uint64_t)snapshot->l1_size * 8, &end) ||
	    end > INT64_MAX)
		return damaged(reterr, index, "the L1 table's offset is invalid");
	if (snapshot->virtual_size > INT64_MAX - (1ull << header->cluster_bits))
		return damaged(reterr, index, "the disk size is too large");
	return 0;
}

static int coroutine_fn read_entry(struct table_reader *reader, unsigned index,
				   struct snapshot *snapshot, struct error **reterr)
{
	struct qcow2_snapshot_header raw;
	struct qcow2_snapshot_extra extra = {0};
	uint32_t extra_bytes, id_bytes, name_bytes;
	uint64_t entry_bytes;
	int ret;

	if (reader->end - reader->host_off < sizeof(raw))
		return damaged(reterr, index, "it lies beyond the end of the file");
	ret = read_bytes(reader, reader->host_off, &raw, sizeof(raw), reterr);
	if (ret)
		return ret;
	extra_bytes = be32toh(raw.extra_data_size);
	id_bytes = be16toh(raw.id_str_size);
	name_bytes = be16toh(raw.name_size);
	if (extra_bytes > SNAPSHOT_EXTRA_BYTES_MAX)
		return damaged(reterr, index, "its extra data is larger than 1024 bytes");
	entry_bytes = sizeof(raw) + extra_bytes + id_bytes + name_bytes;
	if (entry_bytes > reader->end - reader->host_off)
		return damaged(reterr, index, "it lies beyond the end of the file");

	snapshot->id = calloc(1, id_bytes + 1);
	snapshot->name = calloc(1, name_bytes + 1);
	if (!snapshot->id || !snapshot->name)
		return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
	ret = read_bytes(reader, reader->host_off + sizeof(raw), &extra,
			 min_u64(extra_bytes, sizeof(extra)), reterr);
	if (!ret)
		ret = read_bytes(reader, reader->host_off + sizeof(raw) + extra_bytes, snapshot->id,
				 id_bytes, reterr);
	if (!ret)
		ret = read_bytes(reader, reader->host_off + sizeof(raw) + extra_bytes + id_bytes,
				 snapshot->name, name_bytes, reterr);
	if (ret)
		return ret;
	take_fields(reader, &raw, &extra, extra_bytes, snapshot);
	reader->host_off += round_up(entry_bytes, 8);
	return check_snapshot(reader->header, snapshot, index, reterr);
}

int coroutine_fn snapshot_list_read(struct file *file, const struct header *header,
				    struct snapshot_list *ret_list, struct error **reterr)
{
	struct table_reader reader = {
		.file = file,
		.header = header,
		.host_off = header->snapshots_offset,
		.end = min_u64(file->size_bytes,
			       header->snapshots_offset + SNAPSHOT_TABLE_BYTES_MAX),
	};
	struct snapshot_list list = {0};
	int ret = 0;

	*ret_list = list;
	if (!header->nb_snapshots)
		return 0;
	/* Loops are bounded by the file, not by what the header claims. */
	if (reader.end <= reader.host_off ||
	    header->nb_snapshots >
		    (reader.end - reader.host_off) / sizeof(struct qcow2_snapshot_header))
		return damaged(reterr, 0, "the table lies beyond the end of the file");
	list.snapshots = calloc(header->nb_snapshots, sizeof(*list.snapshots));
	if (!list.snapshots)
		return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
	while (!ret && list.nb < header->nb_snapshots) {
		if (reader.host_off > reader.end)
			ret = damaged(reterr, list.nb, "it lies beyond the end of the file");
		else
			ret = read_entry(&reader, list.nb, &list.snapshots[list.nb], reterr);
		list.nb++;
	}
	if (ret) {
		snapshot_list_finish(&list);
		return ret;
	}
	list.table_bytes = reader.host_off - header->snapshots_offset;
	*ret_list = list;
	return 0;
}

void snapshot_list_finish(struct snapshot_list *list)
{
	for (unsigned i = 0; i < list->nb; i++) {
		free(list->snapshots[i].id);
		free(list->snapshots[i].name);
	}
	free(list->snapshots);
	*list = (struct snapshot_list){0};
}

const struct snapshot *snapshot_find_name(const struct snapshot_list *list, const char *name)
{
	for (unsigned i = 0; i < list->nb; i++)
		if (!strcmp(list->snapshots[i].name, name))
			return &list->snapshots[i];
	return NULL;
}

const struct snapshot *snapshot_find(const struct snapshot_list *list, const char *id_or_name)
{
	for (unsigned i = 0; i < list->nb; i++)
		if (!strcmp(list->snapshots[i].id, id_or_name))
			return &list->snapshots[i];
	return snapshot_find_name(list, id_or_name);
}
