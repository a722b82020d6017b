/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * dump: the metadata as they are in the file, table by table, as text or JSON. Nothing is
 * judged here (check does that): entries are shown even where they are wrong.
 *
 * Text and JSON come from the same calls: a section is a heading or an array, a row is a
 * line or an object.
 */
#include "core/checked.h"
#include "core/refcount.h"
#include "io/buf.h"
#include "io/text.h"
#include "tool/bitmaps.h"
#include "tool/json.h"
#include "tool/tables.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct selection {
	bool wanted, all;
	uint64_t first, last;
};

struct dump {
	struct tables *t;
	bool as_json;
	struct json json;
	const struct selection *selection; /* of the section being printed */
	uint64_t index;                    /* of the L1 entry whose L2 table is being printed */
};

/* ---- rows ---- */

static void section(struct dump *d, const char *name)
{
	if (d->as_json)
		json_open_array(&d->json, name);
	else
		printf("%s:\n", name);
}

static void section_end(struct dump *d)
{
	if (d->as_json)
		json_close_array(&d->json);
}

static void row(struct dump *d)
{
	if (d->as_json)
		json_open_line(&d->json, NULL);
	else
		putchar(' ');
}

static void row_end(struct dump *d)
{
	if (d->as_json)
		json_close_object(&d->json);
	else
		putchar('\n');
}

static void put_uint(struct dump *d, const char *name, uint64_t value)
{
	if (d->as_json)
		json_uint(&d->json, name, value);
	else
		printf(" %s %" PRIu64, name, value);
}

/* Offsets and masks: hexadecimal for people. */
static void put_hex(struct dump *d, const char *name, uint64_t value)
{
	if (d->as_json)
		json_uint(&d->json, name, value);
	else
		printf(" %s %#" PRIx64, name, value);
}

static void put_text(struct dump *d, const char *name, const char *value)
{
	if (d->as_json)
		json_string(&d->json, name, value);
	else
		text_print(stdout, " %s \"%s\"", name, value);
}

/* A text without an end. */
static void put_bytes(struct dump *d, const char *name, const uint8_t *bytes, size_t nb)
{
	char *text = strndup((const char *)bytes, nb);

	if (text)
		put_text(d, name, text);
	free(text);
}

static void put_flag(struct dump *d, const char *name, bool value)
{
	if (d->as_json)
		json_bool(&d->json, name, value);
	else if (value)
		printf(" %s", name);
}

/* Is the entry to be shown? A selected one even when it is empty. */
static bool selected(const struct dump *d, uint64_t index, bool empty)
{
	if (d->selection->all)
		return !empty;
	return index >= d->selection->first && index <= d->selection->last;
}

/* ---- header ---- */

static int coroutine_fn dump_header(struct dump *d)
{
	const struct qcow2_header *raw = (const void *)d->t->header.sector;
	const struct {
		const char *name;
		uint64_t value;
		bool hex, v3;
	} fields[] = {
		{"magic", be32toh(raw->magic), true, false},
		{"version", be32toh(raw->version), false, false},
		{"backing_file_offset", be64toh(raw->backing_file_offset), true, false},
		{"backing_file_size", be32toh(raw->backing_file_size), false, false},
		{"cluster_bits", be32toh(raw->cluster_bits), false, false},
		{"size", be64toh(raw->size), false, false},
		{"crypt_method", be32toh(raw->crypt_method), false, false},
		{"l1_size", be32toh(raw->l1_size), false, false},
		{"l1_table_offset", be64toh(raw->l1_table_offset), true, false},
		{"refcount_table_offset", be64toh(raw->refcount_table_offset), true, false},
		{"refcount_table_clusters", be32toh(raw->refcount_table_clusters), false, false},
		{"nb_snapshots", be32toh(raw->nb_snapshots), false, false},
		{"snapshots_offset", be64toh(raw->snapshots_offset), true, false},
		{"incompatible_features", be64toh(raw->incompatible_features), true, true},
		{"compatible_features", be64toh(raw->compatible_features), true, true},
		{"autoclear_features", be64toh(raw->autoclear_features), true, true},
		{"refcount_order", be32toh(raw->refcount_order), false, true},
		{"header_length", be32toh(raw->header_length), false, true},
		{"compression_type", d->t->header.compression_type, false, true},
	};

	if (d->as_json)
		json_open_object(&d->json, "header");
	else
		printf("header:\n");
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (fields[i].v3 && d->t->header.version < 3)
			continue;
		if (d->as_json)
			json_uint(&d->json, fields[i].name, fields[i].value);
		else
			printf(fields[i].hex ? "  %-24s %#" PRIx64 "\n" : "  %-24s %" PRIu64 "\n",
			       fields[i].name, fields[i].value);
	}
	if (d->as_json)
		json_close_object(&d->json);
	else if (d->t->header.backing_name)
		text_print_line(stdout, "  %-24s \"%s\"", "backing_file",
				d->t->header.backing_name);
	return 0;
}

static const char *extension_name(uint32_t type)
{
	switch (type) {
	case EXT_BACKING_FORMAT:
		return "backing-format";
	case EXT_FEATURE_NAMES:
		return "feature-names";
	case EXT_BITMAPS:
		return "bitmaps";
	case EXT_CRYPTO:
		return "full-disk-encryption";
	case EXT_DATA_FILE:
		return "data-file";
	default:
		return "unknown";
	}
}

static int coroutine_fn dump_extensions(struct dump *d)
{
	const struct qcow2_header *raw = (const void *)d->t->header.sector;
	uint64_t size = d->t->cluster_size, off = d->t->header.header_length;
	uint64_t name_off = be64toh(raw->backing_file_offset), end = name_off ? name_off : size;
	uint8_t *cluster = calloc(1, size + 1);
	int ret = cluster ? file_read(d->t->file, 0, cluster, size, IO_TAG_HEADER) : -ENOMEM;

	section(d, "extensions");
	for (uint64_t index = 0; !ret && off + 8 <= end; index++) {
		uint32_t type = be32_get(cluster + off), len = be32_get(cluster + off + 4);

		if (type == EXT_END || len > end - off - 8)
			break;
		if (selected(d, index, false)) {
			row(d);
			put_uint(d, "index", index);
			put_hex(d, "type", type);
			put_text(d, "name", extension_name(type));
			put_hex(d, "offset", off);
			put_uint(d, "length", len);
			if (type == EXT_BACKING_FORMAT || type == EXT_DATA_FILE)
				put_bytes(d, "value", cluster + off + 8, len);
			row_end(d);
		}
		off += 8 + round_up(len, 8);
	}
	section_end(d);
	free(cluster);
	return ret;
}

/* ---- refcounts ---- */

static int coroutine_fn dump_reftable(struct dump *d)
{
	int ret = 0;

	section(d, "reftable");
	for (uint64_t i = 0; i < d->t->nb_reftable && !ret && !ferror(stdout); i++) {
		uint64_t word;

		ret = tables_word(d->t, d->t->header.refcount_table_offset, i, IO_TAG_REFTABLE,
				  &word);
		if (ret || !selected(d, i, !word))
			continue;
		row(d);
		put_uint(d, "index", i);
		put_hex(d, "offset", word);
		row_end(d);
	}
	section_end(d);
	return ret;
}

/* Runs of clusters with equal refcounts. */
static void print_block(struct dump *d, uint64_t block, const uint8_t *data)
{
	uint64_t nb = d->t->nb_per_refblock, end;
	unsigned order = d->t->header.refcount_order;

	for (uint64_t i = 0; i < nb; i = end) {
		uint64_t value = refcount_decode(data, i, order);

		for (end = i + 1; end < nb && refcount_decode(data, end, order) == value; end++)
			;
		if (!value)
			continue;
		row(d);
		put_uint(d, "block", block);
		put_uint(d, "cluster", block * nb + i);
		put_hex(d, "offset", (block * nb + i) * d->t->cluster_size);
		put_uint(d, "clusters", end - i);
		put_uint(d, "refcount", value);
		row_end(d);
	}
}

static int coroutine_fn dump_refblocks(struct dump *d)
{
	uint8_t *buf = buf_get(d->t->cluster_size);
	int ret = buf ? 0 : -ENOMEM;

	section(d, "refblocks");
	for (uint64_t i = 0; i < d->t->nb_reftable && !ret && !ferror(stdout); i++) {
		uint64_t word;

		ret = tables_word(d->t, d->t->header.refcount_table_offset, i, IO_TAG_REFTABLE,
				  &word);
		word &= REFTABLE_OFFSET_MASK;
		if (ret || !word || !selected(d, i, false))
			continue;
		ret = file_read(d->t->file, word, buf, d->t->cluster_size, IO_TAG_REFBLOCK);
		if (!ret)
			print_block(d, i, buf);
	}
	section_end(d);
	buf_put(buf, d->t->cluster_size);
	return ret;
}

/* ---- mapping ---- */

static int coroutine_fn dump_l1(struct dump *d)
{
	const struct header *h = &d->t->header;
	int ret = 0;

	section(d, "l1");
	for (uint64_t i = 0; i < h->l1_size && !ret && !ferror(stdout); i++) {
		uint64_t word;

		ret = tables_word(d->t, h->l1_table_offset, i, IO_TAG_L1, &word);
		if (ret || !selected(d, i, !word))
			continue;
		row(d);
		put_uint(d, "index", i);
		put_hex(d, "guest_offset", i * d->t->nb_per_l2 * d->t->cluster_size);
		put_hex(d, "offset", word & L1_OFFSET_MASK);
		put_flag(d, "copied", word & ENTRY_COPIED);
		if (word & L1_RESERVED_MASK)
			put_hex(d, "reserved", word & L1_RESERVED_MASK);
		row_end(d);
	}
	section_end(d);
	return ret;
}

static int print_l2_entry(void *ctx, uint64_t index, const struct l2_facts *facts)
{
	struct dump *d = ctx;

	if (!facts->raw && !facts->bitmap)
		return 0;
	row(d);
	put_uint(d, "table", d->index);
	put_uint(d, "index", index);
	put_hex(d, "guest_offset", (d->index * d->t->nb_per_l2 + index) * d->t->cluster_size);
	put_text(d, "kind", tables_kind_name(facts->kind));
	if (facts->has_host_off)
		put_hex(d, "offset", facts->host_off);
	if (facts->kind == L2_KIND_COMPRESSED)
		put_uint(d, "length", facts->len_bytes);
	put_flag(d, "copied", facts->copied);
	if (d->t->extended_l2) {
		put_hex(d, "allocated", facts->bitmap & UINT32_MAX);
		put_hex(d, "zero", facts->bitmap >> SUBCLUSTERS_PER_CLUSTER);
	}
	row_end(d);
	return 0;
}

static int coroutine_fn dump_l2(struct dump *d)
{
	const struct header *h = &d->t->header;
	int ret = 0;

	section(d, "l2");
	for (uint64_t i = 0; i < h->l1_size && !ret && !ferror(stdout); i++) {
		uint64_t word;

		if (!selected(d, i, false))
			continue;
		ret = tables_word(d->t, h->l1_table_offset, i, IO_TAG_L1, &word);
		d->index = i;
		if (!ret && word & L1_OFFSET_MASK)
			ret = tables_visit_l2(d->t, word & L1_OFFSET_MASK, print_l2_entry, d);
	}
	section_end(d);
	return ret;
}

/* ---- directories ---- */

static int coroutine_fn dump_snapshots(struct dump *d)
{
	section(d, "snapshots");
	for (unsigned i = 0; i < d->t->snapshots.nb; i++) {
		const struct snapshot *s = &d->t->snapshots.snapshots[i];

		if (!selected(d, i, false))
			continue;
		row(d);
		put_uint(d, "index", i);
		put_text(d, "id", s->id);
		put_text(d, "name", s->name);
		put_hex(d, "l1_table_offset", s->l1_table_offset);
		put_uint(d, "l1_size", s->l1_size);
		put_uint(d, "disk_size", s->virtual_size);
		put_uint(d, "vm_state_size", s->vm_state_bytes);
		put_uint(d, "date_sec", s->date_sec);
		put_uint(d, "date_nsec", s->date_nsec);
		put_uint(d, "vm_clock_nsec", s->vm_clock_nsec);
		row_end(d);
	}
	section_end(d);
	return 0;
}

static int coroutine_fn dump_bitmaps(struct dump *d)
{
	struct bitmap_reader reader;
	struct bitmap_entry entry;
	int ret;

	bitmap_reader_init(&reader, d->t->file, &d->t->header);
	section(d, "bitmaps");
	for (unsigned i = 0; (ret = bitmap_reader_next(&reader, &entry)) == 1; i++) {
		if (!selected(d, i, false))
			continue;
		row(d);
		put_uint(d, "index", i);
		put_text(d, "name", entry.name);
		put_hex(d, "table_offset", entry.table_offset);
		put_uint(d, "table_size", entry.table_entries);
		put_uint(d, "granularity", 1ull << (entry.granularity_bits & 63));
		put_uint(d, "type", entry.type);
		put_flag(d, "in_use", entry.flags & BITMAP_FLAG_IN_USE);
		put_flag(d, "auto", entry.flags & BITMAP_FLAG_AUTO);
		row_end(d);
	}
	section_end(d);
	return ret;
}

/* ---- the command ---- */

static const struct {
	const char *name;
	int coroutine_fn (*dump)(struct dump *d);
	bool by_default;
} parts[] = {
	{"header", dump_header, true},
	{"extensions", dump_extensions, true},
	{"reftable", dump_reftable, false},
	{"refblocks", dump_refblocks, false},
	{"l1", dump_l1, false},
	{"l2", dump_l2, false},
	{"snapshots", dump_snapshots, true},
	{"bitmaps", dump_bitmaps, true},
};
#define NB_PARTS (sizeof(parts) / sizeof(parts[0]))
#define FIRST_PART 256 /* the value of the first part's option */

/* INDEX or INDEX-LAST; nothing: all. 0 or -EINVAL. */
static int parse_selection(const char *text, struct selection *selection)
{
	char *end;

	*selection = (struct selection){.wanted = true, .all = !text};
	if (!text)
		return 0;
	selection->first = selection->last = strtoull(text, &end, 0);
	if (*end == '-' && end != text)
		selection->last = strtoull(end + 1, &end, 0);
	return *end || end == text || selection->last < selection->first ? -EINVAL : 0;
}

static int coroutine_fn dump_parts(struct dump *d, struct selection *selections)
{
	int ret = 0;

	if (d->as_json) {
		json_begin(&d->json, stdout);
		json_open_object(&d->json, NULL);
	}
	for (size_t i = 0; i < NB_PARTS && !ret; i++) {
		d->selection = &selections[i];
		if (selections[i].wanted)
			ret = parts[i].dump(d);
	}
	if (d->as_json) {
		json_close_object(&d->json);
		json_end(&d->json);
	}
	return ret;
}

int coroutine_fn dump_command(struct tool *tool, int argc, char **argv)
{
	static const struct option shared[] = {
		TOOL_LONG_OPTIONS, {"json", no_argument, NULL, 'j'}, {0}};
	struct option options[sizeof(shared) / sizeof(shared[0]) + NB_PARTS] = {0};
	struct selection selections[NB_PARTS] = {0};
	struct tables tables;
	struct dump dump = {.t = &tables};
	bool any = false;
	int opt, ret, status;

	for (size_t i = 0; i < NB_PARTS; i++)
		options[i] = (struct option){parts[i].name, optional_argument, NULL,
					     FIRST_PART + (int)i};
	memcpy(options + NB_PARTS, shared, sizeof(shared));
	while ((opt = getopt_long(argc, argv, TOOL_SHORT_OPTIONS, options, NULL)) != -1) {
		if (opt == 'j') {
			dump.as_json = true;
		} else if (opt >= FIRST_PART) {
			any = true;
			if (parse_selection(optarg, &selections[opt - FIRST_PART]))
				return tool_usage(tool, "%s is no index", optarg);
		} else if ((status = tool_option(tool, opt))) {
			return status;
		}
	}
	if (argc - optind != 1)
		return tool_usage(tool, "one image is needed");
	for (size_t i = 0; i < NB_PARTS && !any; i++)
		selections[i] = (struct selection){.wanted = parts[i].by_default, .all = true};
	status = tables_open(tool, argv[optind], &tables);
	if (status)
		return status;
	ret = dump_parts(&dump, selections);
	if (ret)
		status = tool_fail(argv[optind], ret, NULL);
	tables_close(&tables);
	return status;
}
