/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_repair: repairs in place, from what a pass has gathered.
 *
 * Each function brings one kind of thing into order and writes only where something
 * is different; the caller flushes between them. A table is written only when it is
 * nothing but that table: one that shares its cluster with anything else stays as it
 * is, and the finding stays too.
 */
#include "core/check_int.h"
#include "io/buf.h"

#include <errno.h>

#define MENDS_MAX (1u << 20)
#define SECTOR_BYTES 512u

/* ---- single entries ---- */

int check_mend_add(struct check *check, const struct check_mend *mend)
{
	struct check_mend *last = check->nb_mends ? &check->mends[check->nb_mends - 1] : NULL;

	if (check->options->repair != CHECK_REPAIR_ALL)
		return 0;
	if (last && last->host_off == mend->host_off) {
		*last = *mend;
		return 0;
	}
	if (check->nb_mends == MENDS_MAX)
		return 0;
	if (check->nb_mends == check->cap_mends) {
		size_t cap = max_u64(64, check->cap_mends * 2);
		struct check_mend *grown = realloc(check->mends, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		check->mends = grown;
		check->cap_mends = cap;
	}
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): there is room, made above */
	check->mends[check->nb_mends++] = *mend;
	return 0;
}

bool check_table_is_alone(const struct check *check, uint64_t host_off, uint32_t nb_refs)
{
	uint64_t cluster = host_off >> check->header.cluster_bits;

	return cluster < check->refs.nb && check_refs_get(&check->refs, cluster) == nb_refs;
}

/* ---- part of a table, changed in a buffer ---- */

struct edit {
	uint8_t *buf;
	uint64_t host_off;
	size_t first, end; /* changed bytes */
};

static void edit_note(struct edit *edit, size_t at, size_t len_bytes)
{
	if (!edit->end || at < edit->first)
		edit->first = at;
	edit->end = max_u64(edit->end, at + len_bytes);
}

/* Writes the sectors that were changed. */
static int coroutine_fn edit_write(struct check *check, const struct edit *edit, enum io_tag tag,
				   bool *ret_wrote)
{
	size_t first = round_down(edit->first, SECTOR_BYTES);

	if (!edit->end)
		return 0;
	*ret_wrote = true;
	return check_write(check, edit->host_off + first, edit->buf + first,
			   round_up(edit->end, SECTOR_BYTES) - first, tag);
}

/* ---- single entries, applied ---- */

/* Mends what is noted for one cluster, from mend `first` on; *ret_nb: how many that are. */
static int coroutine_fn cluster_mend(struct check *check, size_t first, uint8_t *buf,
				     size_t *ret_nb, bool *ret_wrote)
{
	const struct check_mend *mends = &check->mends[first];
	uint32_t cluster_size = check->header.cluster_size;
	struct edit edit = {.buf = buf, .host_off = round_down(mends->host_off, cluster_size)};
	const uint8_t *table;
	size_t nb = 0;
	int err = check_source_get(check, &check->source, edit.host_off, cluster_size, cluster_size,
				   mends->tag, &table);

	if (err)
		return err;
	memcpy(buf, table, cluster_size);
	for (; first + nb < check->nb_mends; nb++) {
		uint64_t at = mends[nb].host_off - edit.host_off;

		if (at >= cluster_size)
			break;
		if (!check_table_is_alone(check, mends[nb].host_off, mends[nb].nb_refs))
			continue;
		be64_put(buf + at, mends[nb].value);
		edit_note(&edit, at, sizeof(be64));
	}
	*ret_nb = nb;
	return edit_write(check, &edit, mends->tag, ret_wrote);
}

int coroutine_fn check_repair_entries(struct check *check, bool *ret_wrote)
{
	uint8_t *buf = buf_get(check->header.cluster_size);
	int err = buf ? 0 : -ENOMEM;

	for (size_t i = 0, nb = 0; !err && i < check->nb_mends; i += nb)
		err = cluster_mend(check, i, buf, &nb, ret_wrote);
	buf_put(buf, check->header.cluster_size);
	return err;
}

/* ---- COPIED flags ---- */

/*
 * Flags and refcounts change one after the other. Whoever opens the image for writing before
 * both are right is told, where the version knows how to.
 */
static int coroutine_fn mark_dirty(struct check *check)
{
	struct check_header *header = &check->header;
	be64 raw;
	int err;

	if (header->version < 3 || header->incompatible & INCOMPAT_DIRTY)
		return 0;
	header->incompatible |= INCOMPAT_DIRTY;
	check->marked_dirty = true;
	be64_put(&raw, header->incompatible);
	err = check_write(check, offsetof(struct qcow2_header, incompatible_features), &raw,
			  sizeof(raw), IO_TAG_HEADER);
	return err ? err : file_flush(check->file); /* I11: before the first flag */
}

static int coroutine_fn copied_write(struct check *check, const struct edit *edit, enum io_tag tag,
				     bool *ret_wrote)
{
	int err = edit->end ? mark_dirty(check) : 0;

	return err ? err : edit_write(check, edit, tag, ret_wrote);
}

/* Puts the right flag into one entry of the buffer. */
static void copied_mend(const struct check *check, struct edit *edit, size_t at, uint64_t cluster,
			bool external)
{
	uint64_t entry = be64_get(edit->buf + at), right;

	if (!external && cluster >= check->refs.nb)
		return;
	right = entry & ~ENTRY_COPIED;
	if (external || check_refs_get(&check->refs, cluster) == 1)
		right |= ENTRY_COPIED;
	if (right == entry)
		return;
	be64_put(edit->buf + at, right);
	edit_note(edit, at, sizeof(be64));
}

static int coroutine_fn copied_l1(struct check *check, uint8_t *buf, bool *ret_wrote)
{
	const struct check_header *header = &check->header;
	uint64_t len_bytes = (uint64_t)header->nb_l1 * sizeof(be64);

	/* A table that was not counted may overlap what was. */
	if (header->l1_off >= check->file_bytes ||
	    !check_is_inside(check, header->l1_off, len_bytes))
		return 0;
	len_bytes = min_u64(len_bytes, check->file_bytes - header->l1_off);
	for (uint64_t at = 0; at < len_bytes; at += header->cluster_size) {
		size_t chunk = min_u64(len_bytes - at, header->cluster_size);
		struct edit edit = {.buf = buf, .host_off = header->l1_off + at};
		const uint8_t *table;
		int err;

		if (!check_table_is_alone(check, edit.host_off, 1))
			continue;
		err = check_source_get(check, &check->source, edit.host_off, chunk, chunk,
				       IO_TAG_L1, &table);
		if (err)
			return err;
		memset(buf, 0, header->cluster_size);
		memcpy(buf, table, chunk);
		for (size_t i = 0; i + sizeof(be64) <= chunk; i += sizeof(be64)) {
			uint64_t l2_off = be64_get(buf + i) & L1_OFFSET_MASK;

			if (l2_off)
				copied_mend(check, &edit, i, l2_off >> header->cluster_bits, false);
		}
		err = copied_write(check, &edit, IO_TAG_L1, ret_wrote);
		if (err)
			return err;
	}
	return 0;
}

static int coroutine_fn copied_l2(struct check *check, const struct check_l2 *l2, uint8_t *buf,
				  bool *ret_wrote)
{
	const struct check_header *header = &check->header;
	struct edit edit = {.buf = buf, .host_off = l2->host_off};
	const uint8_t *table;
	int err;

	if (!l2->nb_active || !check_is_aligned(check, l2->host_off) ||
	    !check_table_is_alone(check, l2->host_off, l2->nb_refs))
		return 0;
	err = check_source_get(check, &check->source, l2->host_off, header->cluster_size,
			       header->cluster_size, IO_TAG_L2, &table);
	if (err)
		return err;
	memcpy(buf, table, header->cluster_size);
	for (size_t i = 0; i < header->cluster_size; i += header->l2_entry_bytes) {
		uint64_t entry = be64_get(buf + i);

		if (check_entry_kind(check, entry) == ENTRY_CLUSTER)
			copied_mend(check, &edit, i,
				    (entry & L2_OFFSET_MASK) >> header->cluster_bits,
				    header->has_data_file);
	}
	return copied_write(check, &edit, IO_TAG_L2, ret_wrote);
}

int coroutine_fn check_repair_copied(struct check *check, bool *ret_wrote)
{
	uint8_t *buf = buf_get(check->header.cluster_size);
	int err;

	if (!buf)
		return -ENOMEM;
	err = copied_l1(check, buf, ret_wrote);
	for (size_t i = 0; !err && i < check->nb_l2; i++)
		err = copied_l2(check, &check->l2[i], buf, ret_wrote);
	buf_put(buf, check->header.cluster_size);
	return err;
}

/* ---- refcounts ---- */

/* Brings one block, already in the buffer, to the references as far as `direction` says. */
static void block_mend(const struct check *check, struct edit *edit, uint64_t first, uint64_t nb,
		       enum check_direction direction)
{
	unsigned order = check->header.refcount_order;

	for (uint64_t i = 0; i < nb; i++) {
		uint64_t refcount = check_refcount_get(edit->buf, i, order);
		uint64_t right = check_right_refcount(check, first + i);

		if (direction == CHECK_RAISE ? refcount >= right : refcount <= right)
			continue;
		check_refcount_put(edit->buf, i, order, right);
		edit_note(edit, i << order >> 3, max_u64(1, 1u << order >> 3));
	}
}

int coroutine_fn check_repair_refcounts(struct check *check, enum check_direction direction,
					bool *ret_wrote)
{
	uint32_t cluster_size = check->header.cluster_size;
	uint8_t *buf = buf_get(cluster_size);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t index = 0; !err && index < check->nb_reftable; index++) {
		struct edit edit = {.buf = buf};
		uint64_t first, nb = check_block_span(check, index, check->refs.nb, &first);
		const uint8_t *block;

		err = check_block_get(check, index, &block);
		if (err || !block)
			continue;
		edit.host_off = check->reftable[index] & REFTABLE_OFFSET_MASK;
		memcpy(buf, block, cluster_size);
		block_mend(check, &edit, first, nb, direction);
		err = edit_write(check, &edit, IO_TAG_REFBLOCK, ret_wrote);
	}
	buf_put(buf, cluster_size);
	return err;
}

/* ---- the header ---- */

int coroutine_fn check_clear_features(struct check *check, uint64_t incompatible,
				      uint64_t autoclear, bool *ret_wrote)
{
	struct check_header *header = &check->header;
	uint64_t first = offsetof(struct qcow2_header, incompatible_features);
	uint64_t second = offsetof(struct qcow2_header, autoclear_features);
	be64 raw;
	int err = 0;

	if (header->incompatible & incompatible) {
		header->incompatible &= ~incompatible;
		be64_put(&raw, header->incompatible);
		err = check_write(check, first, &raw, sizeof(raw), IO_TAG_HEADER);
		*ret_wrote = true;
	}
	if (!err && header->autoclear & autoclear) {
		header->autoclear &= ~autoclear;
		be64_put(&raw, header->autoclear);
		err = check_write(check, second, &raw, sizeof(raw), IO_TAG_HEADER);
		*ret_wrote = true;
	}
	return err;
}
