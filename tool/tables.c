/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * tables: see tables.h.
 */
#include "tool/tables.h"

#include "core/compress.h"
#include "io/buf.h"
#include "tool/disk.h"

#include <errno.h>

int coroutine_fn tables_open(struct tool *tool, const char *path, struct tables *ret_tables)
{
	struct tables t = {.path = path};
	struct error *error = NULL;
	const struct header *h;
	int ret, status = disk_open_file(tool, path, &t.file);

	if (status)
		return status;
	ret = header_read(t.file, &t.header, &error);
	if (!ret) {
		ret = snapshot_list_read(t.file, &t.header, &t.snapshots, &error);
		if (ret)
			header_finish(&t.header);
	}
	if (ret) {
		file_close(t.file);
		return tool_fail(path, ret, error);
	}
	h = &t.header;
	t.cluster_size = 1ull << h->cluster_bits;
	t.nb_reftable = ((uint64_t)h->refcount_table_clusters << h->cluster_bits) / 8;
	t.nb_per_refblock = t.cluster_size * 8 >> h->refcount_order;
	t.extended_l2 = h->incompatible_features & INCOMPAT_EXTENDED_L2;
	t.nb_per_l2 = t.cluster_size / (t.extended_l2 ? L2_EXT_ENTRY_BYTES : L2_ENTRY_BYTES);
	*ret_tables = t;
	return STATUS_OK;
}

void tables_close(struct tables *tables)
{
	snapshot_list_finish(&tables->snapshots);
	header_finish(&tables->header);
	file_close(tables->file);
}

int coroutine_fn tables_word(const struct tables *tables, uint64_t table_off, uint64_t index,
			     enum io_tag tag, uint64_t *ret_word)
{
	be64 word;
	int ret = file_read(tables->file, table_off + index * 8, &word, sizeof(word), tag);

	*ret_word = ret ? 0 : be64toh(word);
	return ret;
}

const char *tables_kind_name(enum l2_kind kind)
{
	static const char *const names[] = {
		[L2_KIND_NONE] = "unallocated",
		[L2_KIND_DATA] = "data",
		[L2_KIND_ZERO] = "zero",
		[L2_KIND_ZERO_ALLOCATED] = "zero-allocated",
		[L2_KIND_COMPRESSED] = "compressed",
	};

	return names[kind];
}

static struct l2_facts decode(const struct tables *tables, const uint8_t *p)
{
	const struct header *h = &tables->header;
	bool external = h->incompatible_features & INCOMPAT_DATA_FILE;
	struct l2_facts facts = {.raw = be64_get(p)};
	bool zero;

	if (tables->extended_l2)
		facts.bitmap = be64_get(p + 8);
	facts.copied = facts.raw & ENTRY_COPIED;
	if (facts.raw & L2_COMPRESSED) {
		uint32_t len_bytes;

		compress_decode_descriptor(h->cluster_bits, facts.raw, &facts.host_off, &len_bytes);
		facts.len_bytes = len_bytes;
		facts.has_host_off = true;
		facts.kind = L2_KIND_COMPRESSED;
		return facts;
	}
	facts.host_off = facts.raw & L2_OFFSET_MASK;
	facts.has_host_off = facts.host_off || (external && facts.copied);
	zero = tables->extended_l2
		       ? facts.bitmap >> SUBCLUSTERS_PER_CLUSTER && !(uint32_t)facts.bitmap
		       : facts.raw & L2_ZERO && h->version >= 3;
	if (zero)
		facts.kind = facts.has_host_off ? L2_KIND_ZERO_ALLOCATED : L2_KIND_ZERO;
	else
		facts.kind = facts.has_host_off ? L2_KIND_DATA : L2_KIND_NONE;
	return facts;
}

int coroutine_fn tables_visit_l2(const struct tables *tables, uint64_t l2_off, tables_l2_fn *visit,
				 void *ctx)
{
	size_t entry_bytes = tables->cluster_size / tables->nb_per_l2;
	uint8_t *buf = buf_get(tables->cluster_size);
	int ret = buf ? file_read(tables->file, l2_off, buf, tables->cluster_size, IO_TAG_L2)
		      : -ENOMEM;

	for (uint64_t i = 0; i < tables->nb_per_l2 && !ret; i++) {
		struct l2_facts facts = decode(tables, buf + i * entry_bytes);

		ret = visit(ctx, i, &facts);
	}
	buf_put(buf, tables->cluster_size);
	return ret;
}
