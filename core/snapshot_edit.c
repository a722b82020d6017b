/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * snapshot_edit: see snapshot_edit.h.
 */
#include "core/snapshot_edit.h"

#include "core/alloc.h"
#include "core/flush.h"
#include "core/map.h"
#include "core/tree.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define ID_BYTES_MAX 24

/* ---- the snapshot table ---- */

/* A table in memory, as it stands or will stand in the file. */
struct table {
	uint8_t *bytes;
	uint64_t nb_bytes;
	uint32_t nb_snapshots;
};

static int coroutine_fn read_table(const struct image *image, uint64_t extra_bytes,
				   struct table *table)
{
	const struct header *h = &image->header;
	int ret = 0;

	table->nb_bytes = image->snapshots.table_bytes;
	table->nb_snapshots = h->nb_snapshots;
	table->bytes = calloc(1, table->nb_bytes + extra_bytes + 1);
	if (!table->bytes)
		return -ENOMEM;
	if (table->nb_bytes)
		ret = file_read(image->file, h->snapshots_offset, table->bytes, table->nb_bytes,
				IO_TAG_SNAPSHOT);
	if (ret) {
		free(table->bytes);
		table->bytes = NULL;
	}
	return ret;
}

/* Where entry `index` begins. The table was parsed before, so its sizes are sound. */
static uint64_t entry_offset(const struct table *table, unsigned index)
{
	uint64_t off = 0;

	while (index--) {
		const struct qcow2_snapshot_header *raw = (const void *)(table->bytes + off);

		off += round_up(sizeof(*raw) + be32_get(&raw->extra_data_size) +
					be16_get(&raw->id_str_size) + be16_get(&raw->name_size),
				8);
	}
	return off;
}

static void remove_entry(struct table *table, unsigned index)
{
	uint64_t from = entry_offset(table, index), to = entry_offset(table, index + 1);

	memmove(table->bytes + from, table->bytes + to, table->nb_bytes - to);
	table->nb_bytes -= to - from;
	table->nb_snapshots--;
}

/* The largest number among the ids, plus one. */
static void make_id(const struct snapshot_list *list, char *id)
{
	unsigned long max = 0;

	for (unsigned i = 0; i < list->nb; i++) {
		unsigned long n = strtoul(list->snapshots[i].id, NULL, 10);

		max = n > max ? n : max;
	}
	snprintf(id, ID_BYTES_MAX, "%lu", max + 1);
}

static uint64_t entry_bytes(const char *id, const char *name)
{
	/* vm_state_size_large and disk_size, which version 3 requires */
	return round_up(sizeof(struct qcow2_snapshot_header) + 16 + strlen(id) + strlen(name), 8);
}

/* Room for it was reserved by read_table(). */
static void append_entry(struct table *table, const struct image *image, const char *id,
			 const char *name, uint64_t l1_off, uint32_t date_sec, uint32_t date_nsec)
{
	uint8_t *p = table->bytes + table->nb_bytes;
	struct qcow2_snapshot_header *raw = (void *)p;

	be64_put(&raw->l1_table_offset, l1_off);
	be32_put(&raw->l1_size, image->l1_size);
	be16_put(&raw->id_str_size, strlen(id));
	be16_put(&raw->name_size, strlen(name));
	be32_put(&raw->date_sec, date_sec);
	be32_put(&raw->date_nsec, date_nsec);
	be32_put(&raw->extra_data_size, 16);
	be64_put(p + sizeof(*raw) + 8, image->virtual_size);
	/* NOLINTNEXTLINE(bugprone-not-null-terminated-result): the format stores lengths */
	memcpy(p + sizeof(*raw) + 16, id, strlen(id));
	/* NOLINTNEXTLINE(bugprone-not-null-terminated-result): likewise */
	memcpy(p + sizeof(*raw) + 16 + strlen(id), name, strlen(name));
	table->nb_bytes += entry_bytes(id, name);
	table->nb_snapshots++;
}

/* Writes the table into fresh clusters; *ret_off is 0 for an empty one. 0 or -errno. */
static int coroutine_fn write_table(struct writer *writer, const struct table *table,
				    uint64_t *ret_off)
{
	uint64_t nb_clusters = tree_table_clusters(writer->image, table->nb_bytes), nb;
	bool zero;
	int ret;

	*ret_off = 0;
	if (!table->nb_snapshots)
		return 0;
	ret = alloc_clusters(writer, nb_clusters, nb_clusters, ret_off, &nb, &zero); /* I1 */
	if (ret)
		return ret;
	ret = file_write(writer->image->file, *ret_off, table->bytes, table->nb_bytes,
			 IO_TAG_SNAPSHOT); /* I2 */
	writer_note_write(writer);
	if (ret)
		alloc_undo(writer, *ret_off, nb_clusters); /* I12 */
	return ret;
}

/* After a switch: the list in memory, the owner map, and the old table's clusters. */
static int coroutine_fn adopt_table(struct writer *writer, uint64_t old_off, uint64_t old_bytes)
{
	struct image *image = writer->image;
	struct snapshot_list list;
	int ret = snapshot_list_read(image->file, &image->header, &list, NULL);

	if (ret)
		return ret;
	snapshot_list_finish(&image->snapshots);
	image->snapshots = list;
	ret = tree_rebuild_owners(writer);
	if (!ret && old_bytes)
		ret = run_list_reserve(&writer->unlinked, 1);
	if (!ret && old_bytes) {
		run_list_add(&writer->unlinked, old_off >> image->cluster_bits,
			     tree_table_clusters(image, old_bytes)); /* I4 */
		writer_note_write(writer);
	}
	return ret;
}

/* Writes the table and makes the header point to it, and not to the old one any more. */
static int coroutine_fn switch_table(struct writer *writer, const struct table *table)
{
	struct image *image = writer->image;
	uint64_t old_off = image->header.snapshots_offset;
	uint64_t old_bytes = image->snapshots.table_bytes;
	struct header_change change = header_change_none(&image->header);
	int ret = write_table(writer, table, &change.snapshots_offset);

	if (ret)
		return ret;
	change.nb_snapshots = table->nb_snapshots;
	ret = flush_switch_header(writer, &change); /* I1, I2, I4 */
	if (!ret)
		return adopt_table(writer, old_off, old_bytes);
	if (change.snapshots_offset)
		alloc_undo(writer, change.snapshots_offset,
			   tree_table_clusters(image, table->nb_bytes)); /* I12 */
	return ret;
}

/* ---- the frame of each operation ---- */

/* Sets or clears the dirty bit, durably (I11). */
static int coroutine_fn mark_dirty(struct writer *writer, bool dirty)
{
	struct header *h = &writer->image->header;
	struct header_change change = header_change_none(h);

	if (h->version < 3)
		return 0;
	change.incompatible_features &= ~INCOMPAT_DIRTY;
	change.incompatible_features |= dirty ? INCOMPAT_DIRTY : 0;
	return flush_switch_header(writer, &change);
}

enum edit { EDIT_SNAPSHOTS, EDIT_STATE, EDIT_EMPTY };

/* The data of an external file are in no snapshot; a raw one shows what the image shows. */
static bool possible(const struct image *image, enum edit edit)
{
	return !has_data_file(image) || (edit == EDIT_EMPTY && !has_raw_data_file(image));
}

static int coroutine_fn begin(struct image *image, enum edit edit)
{
	struct writer *writer = image->writer;
	int ret;

	co_rwlock_wrlock(&image->resize_lock);
	if (!writer)
		ret = -EROFS;
	else
		ret = edit == EDIT_SNAPSHOTS ? writer_begin(writer) : writer_begin_data(writer);
	if (!ret && !possible(image, edit))
		ret = -ENOTSUP;
	if (!ret)
		ret = tree_settle(writer);
	return ret ? ret : mark_dirty(writer, true);
}

static const char *reason(int err)
{
	switch (err) {
	case -ERANGE:
		return "a refcount would not fit; give the image wider refcounts with convert";
	case -ENOTSUP:
		return "not possible with an external data file";
	case -EUCLEAN:
	case -EIO:
		return "a table is damaged, or an I/O error; see qcow2tool check";
	default:
		return strerror(-err);
	}
}

/* Ends what begin() began. With an error the image stays dirty if anything is left undone. */
static int coroutine_fn end(struct image *image, int ret, const char *what, struct error **reterr)
{
	struct writer *writer = image->writer;

	if (!ret)
		ret = tree_settle(writer);
	if (!ret && image->header.incompatible_features & INCOMPAT_DIRTY)
		ret = mark_dirty(writer, false);
	co_rwlock_unlock(&image->resize_lock);
	if (!ret)
		return 0;
	return error_set(reterr, ret == -ENOTSUP ? ERROR_UNSUPPORTED : ERROR_SYSTEM, -ret, "%s: %s",
			 what, reason(ret));
}

/* ---- create ---- */

static int coroutine_fn compose_table(struct image *image, const char *name, uint64_t l1_off,
				      uint32_t date_sec, uint32_t date_nsec, struct table *table)
{
	char id[ID_BYTES_MAX];
	int ret;

	make_id(&image->snapshots, id);
	ret = read_table(image, entry_bytes(id, name), table);
	if (ret)
		return ret;
	append_entry(table, image, id, name, l1_off, date_sec, date_nsec);
	if (table->nb_bytes <= SNAPSHOT_TABLE_BYTES_MAX && table->nb_snapshots <= SNAPSHOTS_MAX)
		return 0;
	free(table->bytes);
	return -EFBIG;
}

/* With the references raised: flags, table, switch. */
static int coroutine_fn publish(struct writer *writer, const char *name, uint64_t l1_off,
				uint32_t date_sec, uint32_t date_nsec)
{
	struct table table;
	int ret = tree_update_copied(writer); /* I7: shared from now on */

	if (!ret)
		ret = compose_table(writer->image, name, l1_off, date_sec, date_nsec, &table);
	if (ret)
		return ret;
	ret = switch_table(writer, &table);
	free(table.bytes);
	return ret;
}

static int coroutine_fn create(struct writer *writer, const char *name, uint32_t date_sec,
			       uint32_t date_nsec)
{
	struct image *image = writer->image;
	uint32_t nb_before = image->header.nb_snapshots;
	uint64_t l1_off, nb_l1;
	int ret;

	ret = tree_copy_l1(writer, image->l1_table_offset, image->l1_size, image->l1_size, 0,
			   &l1_off);
	if (ret)
		return ret;
	ret = tree_add_references(writer, image->l1_table_offset, image->l1_size);
	if (!ret) {
		ret = publish(writer, name, l1_off, date_sec, date_nsec);
		if (!ret || image->header.nb_snapshots != nb_before)
			return ret;
		tree_drop_references(writer, image->l1_table_offset, image->l1_size);
	}
	/* I12: nothing was published. The flags follow the refcounts again. */
	nb_l1 = tree_table_clusters(image, (uint64_t)image->l1_size * 8);
	alloc_undo(writer, l1_off, nb_l1);
	if (!tree_update_copied(writer) && !tree_settle(writer))
		mark_dirty(writer, false);
	return ret;
}

int coroutine_fn snapshot_create(struct image *image, const char *name, uint32_t date_sec,
				 uint32_t date_nsec, struct error **reterr)
{
	int ret;

	if (!*name || strlen(name) > UINT16_MAX)
		return error_set(reterr, ERROR_OPEN, EINVAL,
				 "a snapshot's name has 1 to 65535 bytes");
	ret = begin(image, EDIT_SNAPSHOTS);
	if (!ret)
		ret = create(image->writer, name, date_sec, date_nsec);
	return end(image, ret, "cannot create the snapshot", reterr);
}

/* ---- apply ---- */

static int coroutine_fn apply(struct writer *writer, const struct snapshot *snapshot)
{
	uint32_t old_size = snapshot->l1_size;
	uint64_t size_bytes = snapshot->virtual_size, old_off = snapshot->l1_table_offset, l1_off;
	uint64_t before = writer->image->l1_table_offset, l1_size;
	int ret = map_l1_entries(writer->image, size_bytes, &l1_size);

	/* A snapshot that does not tell its size has the image's, which may have grown since. */
	l1_size = max_u64(l1_size, old_size);
	if (!ret)
		ret = tree_copy_l1(writer, old_off, old_size, l1_size, 0, &l1_off);
	if (ret)
		return ret;
	ret = tree_add_references(writer, old_off, old_size);
	if (!ret) {
		ret = tree_replace_active(writer, l1_off, l1_size, size_bytes);
		if (!ret || writer->image->l1_table_offset != before)
			return ret;
		tree_drop_references(writer, old_off, old_size);
	}
	alloc_undo(writer, l1_off, tree_table_clusters(writer->image, l1_size * 8));
	if (!tree_settle(writer))
		mark_dirty(writer, false);
	return ret;
}

int coroutine_fn snapshot_apply(struct image *image, const char *id_or_name, struct error **reterr)
{
	const struct snapshot *snapshot = snapshot_find(&image->snapshots, id_or_name);
	int ret;

	if (!snapshot)
		return error_set(reterr, ERROR_OPEN, ENOENT,
				 "no snapshot with the id or name \"%s\"", id_or_name);
	ret = begin(image, EDIT_STATE);
	if (!ret)
		ret = apply(image->writer, snapshot);
	return end(image, ret, "cannot apply the snapshot", reterr);
}

/* ---- delete ---- */

static int coroutine_fn delete (struct writer *writer, unsigned index)
{
	struct image *image = writer->image;
	uint64_t l1_off = image->snapshots.snapshots[index].l1_table_offset;
	uint32_t l1_size = image->snapshots.snapshots[index].l1_size;
	uint32_t nb_before = image->header.nb_snapshots;
	struct table table;
	int ret = read_table(image, 0, &table);

	if (ret)
		return ret;
	remove_entry(&table, index);
	ret = switch_table(writer, &table);
	free(table.bytes);
	if (ret && image->header.nb_snapshots == nb_before && !tree_settle(writer))
		mark_dirty(writer, false); /* nothing has happened */
	if (!ret)
		ret = tree_unlink(writer, l1_off, l1_size);
	if (!ret)
		ret = tree_settle(writer);
	return ret ? ret : tree_update_copied(writer); /* I7: what is not shared any more */
}

int coroutine_fn snapshot_delete(struct image *image, const char *name, struct error **reterr)
{
	const struct snapshot *snapshot = snapshot_find_name(&image->snapshots, name);
	int ret;

	if (!snapshot)
		return error_set(reterr, ERROR_OPEN, ENOENT, "no snapshot with the name \"%s\"",
				 name);
	ret = begin(image, EDIT_SNAPSHOTS);
	if (!ret)
		ret = delete (image->writer, snapshot - image->snapshots.snapshots);
	return end(image, ret, "cannot delete the snapshot", reterr);
}

/* ---- emptying ---- */

static int coroutine_fn make_empty(struct writer *writer)
{
	struct image *image = writer->image;
	uint64_t before = image->l1_table_offset, l1_off;
	int ret = tree_copy_l1(writer, 0, 0, image->l1_size, 0, &l1_off);

	if (ret)
		return ret;
	ret = tree_replace_active(writer, l1_off, image->l1_size, image->virtual_size);
	if (ret && image->l1_table_offset == before) {
		alloc_undo(writer, l1_off,
			   tree_table_clusters(image, (uint64_t)image->l1_size * 8));
		mark_dirty(writer, false);
	}
	return ret;
}

int coroutine_fn snapshot_make_empty(struct image *image, struct error **reterr)
{
	int ret = begin(image, EDIT_EMPTY);

	if (!ret)
		ret = make_empty(image->writer);
	/* Nothing points there any more, durably. Failing, it takes up space and no more. */
	if (!ret && has_data_file(image) && !image->header.nb_snapshots)
		(void)file_punch(image->data_file, 0, image->data_file->size_bytes);
	return end(image, ret, "cannot empty the image", reterr);
}
