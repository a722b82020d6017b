/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * stat: how many clusters of each kind an image has, how scattered they are, and what
 * the metadata cost. Only the active state is looked at, and only this file.
 */
#include "core/checked.h"
#include "tool/json.h"
#include "tool/tables.h"

#include <inttypes.h>
#include <stdio.h>

struct counts {
	const struct tables *tables;
	uint64_t total; /* guest clusters */
	uint64_t kinds[L2_KIND_COMPRESSED + 1];
	uint64_t shared;    /* with a host cluster that is not the active state's alone */
	uint64_t partial;   /* extended L2: some subclusters only */
	uint64_t fragments; /* runs of data that lie together */
	uint64_t compressed_bytes;
	uint64_t nb_l2, nb_refblocks;
	uint64_t next_host_off; /* where the run would go on */
	uint64_t guest_left;    /* clusters of the disk that are still to come */
};

static int count_entry(void *ctx, uint64_t index, const struct l2_facts *facts)
{
	struct counts *c = ctx;
	uint32_t allocated = facts->bitmap;

	if (!c->guest_left)
		return 0;
	c->guest_left--;
	c->kinds[facts->kind]++;
	if (facts->kind == L2_KIND_COMPRESSED)
		c->compressed_bytes += facts->len_bytes;
	else if (facts->has_host_off && !facts->copied)
		c->shared++;
	if (c->tables->extended_l2 && facts->kind == L2_KIND_DATA && allocated != UINT32_MAX)
		c->partial++;
	if (facts->kind == L2_KIND_DATA && facts->host_off != c->next_host_off)
		c->fragments++;
	if (facts->kind == L2_KIND_DATA)
		c->next_host_off = facts->host_off + c->tables->cluster_size;
	return 0;
}

static int coroutine_fn count_all(struct counts *c)
{
	const struct tables *t = c->tables;
	const struct header *h = &t->header;
	int ret = 0;

	for (uint64_t i = 0; i < h->l1_size && !ret && c->guest_left; i++) {
		uint64_t word, nb = min_u64(t->nb_per_l2, c->guest_left);

		ret = tables_word(t, h->l1_table_offset, i, IO_TAG_L1, &word);
		if (ret)
			break;
		if (word & L1_OFFSET_MASK) {
			c->nb_l2++;
			ret = tables_visit_l2(t, word & L1_OFFSET_MASK, count_entry, c);
		} else {
			c->kinds[L2_KIND_NONE] += nb;
			c->guest_left -= nb;
		}
	}
	for (uint64_t i = 0; i < t->nb_reftable && !ret; i++) {
		uint64_t word;

		ret = tables_word(t, h->refcount_table_offset, i, IO_TAG_REFTABLE, &word);
		c->nb_refblocks += word != 0;
	}
	return ret;
}

static uint64_t metadata_bytes(const struct counts *c)
{
	const struct tables *t = c->tables;
	const struct header *h = &t->header;
	uint64_t nb = 1 + h->refcount_table_clusters + c->nb_refblocks + c->nb_l2;

	nb += div_up((uint64_t)h->l1_size * 8, t->cluster_size);
	nb += div_up(t->snapshots.table_bytes, t->cluster_size);
	for (unsigned i = 0; i < t->snapshots.nb; i++)
		nb += div_up((uint64_t)t->snapshots.snapshots[i].l1_size * 8, t->cluster_size);
	if (h->has_bitmaps)
		nb += div_up(h->bitmap_directory_size, t->cluster_size);
	return nb * t->cluster_size;
}

/* A figure with its name in JSON and in text. */
struct figure {
	const char *name, *text;
	uint64_t value;
	bool bytes;
};

static void print_json(const struct figure *figures, size_t nb)
{
	struct json json;

	json_begin(&json, stdout);
	json_open_object(&json, NULL);
	for (size_t i = 0; i < nb; i++)
		json_uint(&json, figures[i].name, figures[i].value);
	json_close_object(&json);
	json_end(&json);
}

static void print_text(const struct figure *figures, size_t nb)
{
	for (size_t i = 0; i < nb; i++) {
		char size[32];

		printf("%-32s%16" PRIu64, figures[i].text, figures[i].value);
		if (figures[i].bytes)
			printf("  (%s)", tool_human_size(figures[i].value, size));
		putchar('\n');
	}
}

static void print(const struct counts *c, bool json)
{
	const struct tables *t = c->tables;
	uint64_t data = c->kinds[L2_KIND_DATA];
	uint64_t allocated = data + c->kinds[L2_KIND_COMPRESSED];
	const struct figure figures[] = {
		{"cluster-size", "cluster size", t->cluster_size, true},
		{"total-clusters", "guest clusters", c->total, false},
		{"allocated-clusters", "  allocated", allocated, false},
		{"data-clusters", "    plain data", data, false},
		{"compressed-clusters", "    compressed", c->kinds[L2_KIND_COMPRESSED], false},
		{"partial-clusters", "    with subclusters missing", c->partial, false},
		{"zero-clusters", "  zero", c->kinds[L2_KIND_ZERO], false},
		{"zero-allocated-clusters", "  zero with space reserved",
		 c->kinds[L2_KIND_ZERO_ALLOCATED], false},
		{"unallocated-clusters", "  unallocated", c->kinds[L2_KIND_NONE], false},
		{"shared-clusters", "shared with snapshots", c->shared, false},
		{"fragments", "contiguous runs of data", c->fragments, false},
		{"compressed-bytes", "compressed data", c->compressed_bytes, true},
		{"l2-tables", "L2 tables", c->nb_l2, false},
		{"refcount-blocks", "refcount blocks", c->nb_refblocks, false},
		{"snapshots", "snapshots", t->snapshots.nb, false},
		{"metadata-bytes", "metadata", metadata_bytes(c), true},
		{"file-bytes", "file length", t->file->size_bytes, true},
		{"host-bytes", "host space", file_host_sectors(t->file) * 512, true},
	};
	size_t nb = sizeof(figures) / sizeof(figures[0]);

	if (json) {
		print_json(figures, nb);
		return;
	}
	print_text(figures, nb);
	if (data > 1)
		printf("%-32s%15.2f%%\n", "fragmentation", 100.0 * (c->fragments - 1) / (data - 1));
	if (allocated)
		printf("%-32s%15.2f%%\n", "metadata per allocated data",
		       100.0 * metadata_bytes(c) / (allocated * t->cluster_size));
}

int coroutine_fn stat_command(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {
		TOOL_LONG_OPTIONS, {"json", no_argument, NULL, 'j'}, {0}};
	struct tables tables;
	struct counts counts = {.tables = &tables};
	bool json = false;
	int opt, ret, status;

	while ((opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS, options, NULL)) != -1) {
		if (opt == 'j')
			json = true;
		else if ((status = tool_option(tool, opt)))
			return status;
	}
	if (argc - optind != 1)
		return tool_usage(tool, "one image is needed");
	status = tables_open(tool, argv[optind], &tables);
	if (status)
		return status;
	counts.total = counts.guest_left = div_up(tables.header.size, tables.cluster_size);
	ret = count_all(&counts);
	if (ret)
		status = tool_fail(argv[optind], ret, NULL);
	else
		print(&counts, json);
	tables_close(&tables);
	return status;
}
