/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * seed: see seed.h. Layout: header, refcount table, one refcount block, L1, two L2
 * tables, then what the features ask for, then data. Every image has 24 guest clusters
 * in its first L2 table and one in the second.
 */
#include "test/hostile/seed.h"

#include "core/format.h"
#include "test/hostile/disk.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#ifndef NO_ZSTD
#include <zstd.h>
#endif

const struct seed_kind seed_kinds[] = {
	{"v3", 9, 4, 0},
	{"v2", 9, 4, SEED_V2},
	{"r1", 9, 0, 0},
	{"r64", 9, 6, 0},
	{"c4k", 12, 4, SEED_COMPRESSED},
	{"zlib", 9, 4, SEED_COMPRESSED},
	{"zstd", 12, 4, SEED_COMPRESSED | SEED_ZSTD},
	{"snapshots", 9, 4, SEED_SNAPSHOTS},
	{"v2-snapshots", 9, 4, SEED_V2 | SEED_SNAPSHOTS | SEED_COMPRESSED},
	{"bitmaps", 9, 4, SEED_BITMAPS},
	{"extl2", 14, 4, SEED_EXTENDED_L2 | SEED_COMPRESSED},
	{"backing", 9, 4, SEED_BACKING},
	{"data", 9, 4, SEED_DATA_FILE},
	{"lazy", 9, 4, SEED_LAZY},
	{"dirty", 9, 5, SEED_LAZY | SEED_DIRTY},
	{"all", 9, 3, SEED_COMPRESSED | SEED_SNAPSHOTS | SEED_BITMAPS | SEED_BACKING},
};
const unsigned nb_seed_kinds = sizeof(seed_kinds) / sizeof(seed_kinds[0]);

const char *const place_names[PLACE_COUNT] = {
	[PLACE_HEADER] = "header",
	[PLACE_EXTENSIONS] = "extensions",
	[PLACE_REFTABLE] = "reftable",
	[PLACE_REFBLOCK] = "refblock",
	[PLACE_L1] = "l1",
	[PLACE_L2] = "l2",
	[PLACE_L2_SECOND] = "l2-second",
	[PLACE_SNAPSHOTS] = "snapshots",
	[PLACE_SNAPSHOT_L1] = "snapshot-l1",
	[PLACE_SNAPSHOT_L2] = "snapshot-l2",
	[PLACE_BITMAP_DIR] = "bitmap-dir",
	[PLACE_BITMAP_TABLE] = "bitmap-table",
	[PLACE_BITMAP_DATA] = "bitmap-data",
	[PLACE_COMPRESSED] = "compressed",
	[PLACE_DATA] = "data",
	[PLACE_END] = "end",
};

const struct seed_kind *seed_kind_find(const char *name)
{
	for (unsigned i = 0; i < nb_seed_kinds; i++)
		if (!strcmp(seed_kinds[i].name, name))
			return &seed_kinds[i];
	broken("no kind of image is called %s", name);
}

/* ---- bytes ---- */

uint64_t seed_get(const struct seed *seed, uint64_t off, unsigned width)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < width; i++)
		value = value << 8 | (off + i < seed->stored ? seed->data[off + i] : 0);
	return value;
}

void seed_put(struct seed *seed, uint64_t off, unsigned width, uint64_t value)
{
	for (unsigned i = 0; i < width; i++)
		if (off + i < seed->stored)
			seed->data[off + i] = value >> 8 * (width - 1 - i);
}

void seed_extend(struct seed *seed, uint64_t size)
{
	if (size > seed->stored) {
		seed->data = realloc(seed->data, size);
		if (!seed->data)
			broken("no memory for an image");
		memset(seed->data + seed->stored, 0, size - seed->stored);
		seed->stored = size;
	}
	if (size > seed->size)
		seed->size = size;
}

void seed_copy(const struct seed *from, struct seed *ret_seed)
{
	*ret_seed = *from;
	ret_seed->data = NULL;
	ret_seed->stored = 0;
	seed_extend(ret_seed, from->stored);
	memcpy(ret_seed->data, from->data, from->stored);
}

void seed_free(struct seed *seed)
{
	free(seed->data);
	seed->data = NULL;
}

static void add_field(struct seed *seed, enum field_kind kind, const char *name, uint64_t off,
		      unsigned width)
{
	if (seed->nb_fields == SEED_FIELDS_MAX)
		broken("too many fields");
	seed->fields[seed->nb_fields++] = (struct field){name, off, width, kind};
}

const struct field *seed_field(const struct seed *seed, const char *name)
{
	for (unsigned i = 0; i < seed->nb_fields; i++)
		if (seed->fields[i].name && !strcmp(seed->fields[i].name, name))
			return &seed->fields[i];
	return NULL;
}

/* ---- clusters ---- */

static void set_refcount(struct seed *seed, uint64_t cluster, uint64_t count)
{
	unsigned bits = 1u << seed->kind->refcount_order;
	uint64_t off = seed->places[PLACE_REFBLOCK] + cluster * bits / 8;

	if (bits >= 8)
		seed_put(seed, off, bits / 8, count);
	else
		seed->data[off] = (seed->data[off] & ~(((1u << bits) - 1) << cluster * bits % 8)) |
				  count << cluster * bits % 8;
}

static uint64_t take(struct seed *seed)
{
	uint64_t cluster = seed->nb_taken++;

	seed_extend(seed, seed->nb_taken * seed->cluster_size);
	if (seed->places[PLACE_REFBLOCK])
		set_refcount(seed, cluster, 1);
	return cluster * seed->cluster_size;
}

static uint64_t take_place(struct seed *seed, enum place place)
{
	return seed->places[place] = take(seed);
}

static unsigned l2_entry_bytes(const struct seed *seed)
{
	return seed->kind->features & SEED_EXTENDED_L2 ? 16 : 8;
}

static void set_l2(struct seed *seed, uint64_t table, unsigned index, uint64_t entry,
		   uint64_t bitmap)
{
	uint64_t off = table + (uint64_t)index * l2_entry_bytes(seed);

	seed_put(seed, off, 8, entry);
	if (l2_entry_bytes(seed) == 16)
		seed_put(seed, off + 8, 8, bitmap);
}

/* A cluster of data that tells where it belongs. */
static uint64_t take_data(struct seed *seed, unsigned tag)
{
	uint64_t off = take(seed);

	for (uint64_t i = 0; i < seed->cluster_size; i++)
		seed->data[off + i] = tag * 7 + i / 16;
	return off;
}

/* ---- parts ---- */

static size_t deflate_cluster(const uint8_t *in, size_t len, uint8_t *out, size_t max)
{
	z_stream stream = {
		.next_in = (uint8_t *)in, .avail_in = len, .next_out = out, .avail_out = max};

	if (deflateInit2(&stream, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK ||
	    deflate(&stream, Z_FINISH) != Z_STREAM_END)
		broken("deflate");
	deflateEnd(&stream);
	return stream.total_out;
}

static size_t compress_cluster(const struct seed *seed, const uint8_t *in, uint8_t *out, size_t max)
{
#ifndef NO_ZSTD
	if (seed->kind->features & SEED_ZSTD) {
		size_t len = ZSTD_compress(out, max, in, seed->cluster_size, 3);

		if (ZSTD_isError(len))
			broken("zstd");
		return len;
	}
#endif
	return deflate_cluster(in, seed->cluster_size, out, max);
}

/* Two compressed clusters that share a host cluster: entries 4 and 5. */
static void add_compressed(struct seed *seed)
{
	uint64_t host = take_place(seed, PLACE_COMPRESSED), at = host;
	unsigned shift = 62 - (seed->kind->cluster_bits - 8);
	uint8_t *plain = malloc(seed->cluster_size);

	if (!plain)
		broken("no memory for a cluster");
	for (unsigned i = 0; i < 2; i++) {
		size_t len;
		uint64_t sectors;

		for (uint64_t b = 0; b < seed->cluster_size; b++)
			plain[b] = b / 32 * (3 + i);
		len = compress_cluster(seed, plain, seed->data + at,
				       host + seed->cluster_size - at);
		sectors = (at + len - 1) / 512 - at / 512;
		set_l2(seed, seed->places[PLACE_L2], 4 + i, L2_COMPRESSED | sectors << shift | at,
		       0);
		for (unsigned b = 0; b < len && b < 24; b++)
			add_field(seed, FIELD_PAYLOAD, NULL, at + b, 1);
		at += len;
	}
	set_refcount(seed, host / seed->cluster_size, 2);
	free(plain);
}

static void add_tables(struct seed *seed)
{
	uint64_t l1 = take_place(seed, PLACE_L1);
	uint64_t l2 = take_place(seed, PLACE_L2), second = take_place(seed, PLACE_L2_SECOND);
	bool external = seed->kind->features & SEED_DATA_FILE;
	bool v2 = seed->kind->features & SEED_V2,
	     extended = seed->kind->features & SEED_EXTENDED_L2;

	seed_put(seed, l1, 8, l2 | ENTRY_COPIED);
	seed_put(seed, l1 + 8, 8, second | ENTRY_COPIED);
	if (external) {
		for (unsigned i = 0; i < 2; i++)
			set_l2(seed, l2, i, i * seed->cluster_size | ENTRY_COPIED, 0);
		set_l2(seed, l2, 2, L2_ZERO, 0);
		return;
	}
	seed->places[PLACE_DATA] = take_data(seed, 0);
	set_l2(seed, l2, 0, seed->places[PLACE_DATA] | ENTRY_COPIED, UINT32_MAX);
	set_l2(seed, l2, 1, take_data(seed, 1) | ENTRY_COPIED, 0x0000ff00ull | 0xffull << 32);
	if (extended)
		set_l2(seed, l2, 2, 0, UINT64_MAX << 32);
	else if (!v2)
		set_l2(seed, l2, 2, L2_ZERO, 0);
	if (!v2 && !extended)
		set_l2(seed, l2, 3, take_data(seed, 3) | L2_ZERO | ENTRY_COPIED, 0);
	set_l2(seed, second, 0, take_data(seed, 7) | ENTRY_COPIED, 1);
}

/* Two snapshots: one shares the first L2 table, the other has an L2 table of its own. */
static void add_snapshots(struct seed *seed)
{
	uint64_t table = take_place(seed, PLACE_SNAPSHOTS);
	uint64_t shared_l1 = take_place(seed, PLACE_SNAPSHOT_L1), own_l1 = take(seed);
	uint64_t own_l2 = take_place(seed, PLACE_SNAPSHOT_L2), off = table;
	uint64_t l2 = seed->places[PLACE_L2];

	seed_put(seed, shared_l1, 8, l2);
	seed_put(seed, seed->places[PLACE_L1], 8, l2); /* shared: not COPIED */
	set_refcount(seed, l2 / seed->cluster_size, 2);
	for (unsigned i = 0; i < SEED_L2_USED; i++) {
		uint64_t entry = seed_get(seed, l2 + i * 8, 8);

		if (entry & L2_COMPRESSED) {
			set_refcount(seed, seed->places[PLACE_COMPRESSED] / seed->cluster_size, 4);
		} else if (entry & L2_OFFSET_MASK) {
			seed_put(seed, l2 + i * 8, 8, entry & ~ENTRY_COPIED);
			set_refcount(seed, (entry & L2_OFFSET_MASK) / seed->cluster_size, 2);
		}
	}
	seed_put(seed, own_l1, 8, own_l2 | ENTRY_COPIED);
	set_l2(seed, own_l2, 6, take_data(seed, 9) | ENTRY_COPIED, 0);
	for (unsigned i = 0; i < 2; i++) {
		static const struct {
			unsigned off, width;
		} parts[] = {{0, 8},  {8, 4},  {12, 2}, {14, 2}, {16, 4}, {20, 4}, {24, 8},
			     {32, 4}, {36, 4}, {40, 8}, {48, 8}, {56, 1}, {57, 1}};

		seed_put(seed, off, 8, i ? own_l1 : shared_l1);
		seed_put(seed, off + 8, 4, 2);
		seed_put(seed, off + 12, 2, 1);
		seed_put(seed, off + 14, 2, 3);
		seed_put(seed, off + 36, 4, 16);
		seed_put(seed, off + 48, 8, seed_get(seed, 24, 8));
		memcpy(seed->data + off + 56, i ? "2two" : "1one", 4);
		for (unsigned p = 0; p < sizeof(parts) / sizeof(parts[0]); p++)
			add_field(seed, FIELD_SNAPSHOT, NULL, off + parts[p].off, parts[p].width);
		off += 64;
	}
	for (unsigned i = 0; i < 3; i++) {
		add_field(seed, FIELD_SNAPSHOT_L1, NULL, shared_l1 + i * 8, 8);
		add_field(seed, FIELD_SNAPSHOT_L1, NULL, own_l1 + i * 8, 8);
	}
	for (unsigned i = 0; i < SEED_L2_USED; i++)
		add_field(seed, FIELD_L2, NULL, own_l2 + i * 8, 8);
	seed_put(seed, 60, 4, 2);
	seed_put(seed, 64, 8, table);
}

/* One bitmap with one cluster of bits. Its extension is at PLACE_EXTENSIONS. */
static uint64_t add_bitmap(struct seed *seed, uint64_t ext)
{
	static const unsigned widths[] = {8, 4, 4, 1, 1, 2, 4, 4};
	uint64_t dir = take_place(seed, PLACE_BITMAP_DIR);
	uint64_t table = take_place(seed, PLACE_BITMAP_TABLE);
	uint64_t data = take_place(seed, PLACE_BITMAP_DATA), off = dir;

	seed_put(seed, dir, 8, table);
	seed_put(seed, dir + 8, 4, 1);
	seed->data[dir + 16] = BITMAP_TYPE_DIRTY;
	seed->data[dir + 17] = 9;
	seed_put(seed, dir + 18, 2, 4);
	memcpy(seed->data + dir + 24, "bits", 4);
	seed_put(seed, table, 8, data);
	for (unsigned i = 0; i < sizeof(widths) / sizeof(widths[0]); off += widths[i++])
		add_field(seed, FIELD_BITMAP_DIR, NULL, off, widths[i]);
	add_field(seed, FIELD_BITMAP_TABLE, NULL, table, 8);
	seed_put(seed, ext, 4, EXT_BITMAPS);
	seed_put(seed, ext + 4, 4, 24);
	seed_put(seed, ext + 8, 4, 1);
	seed_put(seed, ext + 16, 8, 32);
	seed_put(seed, ext + 24, 8, dir);
	seed_put(seed, 88, 8, AUTOCLEAR_BITMAPS);
	for (unsigned i = 0; i < 2; i++)
		add_field(seed, FIELD_EXTENSION, NULL, ext + 8 + i * 4, 4);
	for (unsigned i = 0; i < 2; i++)
		add_field(seed, FIELD_EXTENSION, NULL, ext + 16 + i * 8, 8);
	return 32;
}

static uint64_t add_string_ext(struct seed *seed, uint64_t ext, uint32_t type, const char *text)
{
	uint64_t len = strlen(text);

	seed_put(seed, ext, 4, type);
	seed_put(seed, ext + 4, 4, len);
	memcpy(seed->data + ext + 8, text, len);
	for (unsigned i = 0; i < len; i++)
		add_field(seed, FIELD_EXTENSION, NULL, ext + 8 + i, 1);
	return 8 + ((len + 7) & ~7ull);
}

static void add_extensions(struct seed *seed)
{
	unsigned features = seed->kind->features;
	uint64_t at = features & SEED_V2 ? 72 : 112, first = at;

	seed->places[PLACE_EXTENSIONS] = at;
	if (features & SEED_BACKING)
		at += add_string_ext(seed, at, EXT_BACKING_FORMAT, "raw");
	if (features & SEED_DATA_FILE)
		at += add_string_ext(seed, at, EXT_DATA_FILE, "data.raw");
	if (features & SEED_BITMAPS)
		at += add_bitmap(seed, at);
	if (!(features & SEED_V2))
		at += add_string_ext(seed, at, 0x12345678, "nobody knows this");
	for (uint64_t off = first; off <= at;) {
		add_field(seed, FIELD_EXTENSION, NULL, off, 4);
		add_field(seed, FIELD_EXTENSION, NULL, off + 4, 4);
		off += 8 + ((seed_get(seed, off + 4, 4) + 7) & ~7ull);
	}
	at += 8;
	if (features & SEED_BACKING) {
		memcpy(seed->data + at, "base.raw", 8);
		seed_put(seed, 8, 8, at);
		seed_put(seed, 16, 4, 8);
	}
}

static void add_header(struct seed *seed)
{
	static const struct {
		const char *name;
		unsigned off, width;
	} parts[] = {
		{"magic", 0, 4},
		{"version", 4, 4},
		{"backing_file_offset", 8, 8},
		{"backing_file_size", 16, 4},
		{"cluster_bits", 20, 4},
		{"size", 24, 8},
		{"crypt_method", 32, 4},
		{"l1_size", 36, 4},
		{"l1_table_offset", 40, 8},
		{"refcount_table_offset", 48, 8},
		{"refcount_table_clusters", 56, 4},
		{"nb_snapshots", 60, 4},
		{"snapshots_offset", 64, 8},
		{"incompatible_features", 72, 8},
		{"compatible_features", 80, 8},
		{"autoclear_features", 88, 8},
		{"refcount_order", 96, 4},
		{"header_length", 100, 4},
		{"compression_type", 104, 1},
	};
	const struct seed_kind *kind = seed->kind;
	uint64_t span = seed->cluster_size * (seed->cluster_size / l2_entry_bytes(seed));
	bool v2 = kind->features & SEED_V2;

	seed_put(seed, 0, 4, QCOW2_MAGIC);
	seed_put(seed, 4, 4, v2 ? 2 : 3);
	seed_put(seed, 20, 4, kind->cluster_bits);
	seed_put(seed, 24, 8, span + seed->cluster_size * 2 - 512 * (kind->cluster_bits > 9));
	seed_put(seed, 36, 4, 2);
	seed_put(seed, 48, 8, seed->places[PLACE_REFTABLE]);
	seed_put(seed, 56, 4, 1);
	for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]) && (!v2 || parts[i].off < 72);
	     i++)
		add_field(seed, FIELD_HEADER, parts[i].name, parts[i].off, parts[i].width);
	if (v2)
		return;
	seed_put(seed, 72, 8,
		 (kind->features & SEED_DIRTY ? INCOMPAT_DIRTY : 0) |
			 (kind->features & SEED_DATA_FILE ? INCOMPAT_DATA_FILE : 0) |
			 (kind->features & SEED_ZSTD ? INCOMPAT_COMPRESSION : 0) |
			 (kind->features & SEED_EXTENDED_L2 ? INCOMPAT_EXTENDED_L2 : 0));
	seed_put(seed, 80, 8, kind->features & SEED_LAZY ? COMPAT_LAZY_REFCOUNTS : 0);
	seed_put(seed, 96, 4, kind->refcount_order);
	seed_put(seed, 100, 4, 112);
	seed->data[104] = !!(kind->features & SEED_ZSTD);
}

static void add_entry_fields(struct seed *seed)
{
	unsigned words = l2_entry_bytes(seed) / 8;

	for (unsigned i = 0; i < 2; i++) {
		add_field(seed, FIELD_REFTABLE, NULL, seed->places[PLACE_REFTABLE] + i * 8, 8);
		add_field(seed, FIELD_L1, NULL, seed->places[PLACE_L1] + i * 8, 8);
	}
	for (unsigned i = 0; i < SEED_L2_USED * words; i++) {
		add_field(seed, FIELD_L2, NULL, seed->places[PLACE_L2] + i * 8, 8);
		add_field(seed, FIELD_L2, NULL, seed->places[PLACE_L2_SECOND] + i * 8, 8);
	}
	for (unsigned i = 0; i < 24; i++)
		add_field(seed, FIELD_REFBLOCK, NULL, seed->places[PLACE_REFBLOCK] + i * 2, 2);
}

void seed_build(const struct seed_kind *kind, struct seed *ret_seed)
{
	uint64_t refblock;

	*ret_seed = (struct seed){.kind = kind, .cluster_size = 1ull << kind->cluster_bits};
	take(ret_seed); /* header */
	take_place(ret_seed, PLACE_REFTABLE);
	refblock = take(ret_seed);
	ret_seed->places[PLACE_REFBLOCK] = refblock;
	seed_put(ret_seed, ret_seed->places[PLACE_REFTABLE], 8, refblock);
	for (unsigned i = 0; i < 3; i++)
		set_refcount(ret_seed, i, 1);
	add_header(ret_seed);
	add_tables(ret_seed);
	seed_put(ret_seed, 40, 8, ret_seed->places[PLACE_L1]);
	if (kind->features & SEED_COMPRESSED)
		add_compressed(ret_seed);
	if (kind->features & SEED_SNAPSHOTS)
		add_snapshots(ret_seed);
	add_extensions(ret_seed);
	add_entry_fields(ret_seed);
	ret_seed->places[PLACE_END] = ret_seed->size;
	/* One block of the widest refcounts. */
	if (ret_seed->nb_taken > ret_seed->cluster_size * 8 >> kind->refcount_order)
		broken("%s has too many clusters", kind->name);
}
