/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cases_fields: header fields out of range, feature bits, entries that point where they
 * must not, and files that end too early.
 */
#include "test/hostile/cases.h"

#include "core/format.h"

#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* ---- header fields ---- */

struct bad_value {
	const char *name;
	uint64_t value;
	enum { VALUE_IS, VALUE_PLUS, VALUE_TIMES, VALUE_FILE_END } how;
};

static const struct bad_value bad_values[] = {
	{"0", 0, VALUE_IS},
	{"1", 1, VALUE_IS},
	{"max", UINT64_MAX, VALUE_IS},
	{"2^31", 1ull << 31, VALUE_IS},
	{"2^55", 1ull << 55, VALUE_IS},
	{"2^63-512", (1ull << 63) - 512, VALUE_IS},
	{"one more", 1, VALUE_PLUS},
	{"one less", UINT64_MAX, VALUE_PLUS},
	{"8 more", 8, VALUE_PLUS},
	{"512 more", 512, VALUE_PLUS},
	{"double", 2, VALUE_TIMES},
	{"file end", 0, VALUE_FILE_END},
};

static uint64_t make_bad(const struct bad_value *bad, const struct seed *seed, uint64_t old)
{
	switch (bad->how) {
	case VALUE_PLUS:
		return old + bad->value;
	case VALUE_TIMES:
		return old * bad->value;
	case VALUE_FILE_END:
		return seed->size;
	default:
		return bad->value;
	}
}

static void header_fields(struct enumeration *e)
{
	static const char *const kinds[] = {"v3", "v2", "snapshots", "extl2", "backing"};
	static const char *const fields[] = {
		"magic",
		"version",
		"backing_file_offset",
		"backing_file_size",
		"cluster_bits",
		"size",
		"crypt_method",
		"l1_size",
		"l1_table_offset",
		"refcount_table_offset",
		"refcount_table_clusters",
		"nb_snapshots",
		"snapshots_offset",
		"incompatible_features",
		"compatible_features",
		"autoclear_features",
		"refcount_order",
		"header_length",
		"compression_type",
	};

	for (unsigned k = 0; k < LENGTH(kinds); k++)
		for (unsigned f = 0; f < LENGTH(fields); f++)
			for (unsigned v = 0; v < LENGTH(bad_values); v++) {
				const struct field *field;
				struct seed *seed;

				/* The second version has no field behind snapshots_offset. */
				if ((k == 1 && f > 12) || !case_is(e, "header/%s/%s=%s", kinds[k],
								   fields[f], bad_values[v].name))
					continue;
				seed = case_begin(e, kinds[k]);
				field = seed_field(seed, fields[f]);
				seed_put(seed, field->off, field->width,
					 make_bad(&bad_values[v], seed,
						  seed_get(seed, field->off, field->width)));
			}
}

static void feature_bits(struct enumeration *e)
{
	static const char *const sets[] = {"incompatible", "compatible", "autoclear"};

	for (unsigned s = 0; s < LENGTH(sets); s++)
		for (unsigned bit = 0; bit < 64; bit += bit < 8 ? 1 : 11) {
			struct seed *seed;

			if (!case_is(e, "feature/%s bit %u", sets[s], bit))
				continue;
			seed = case_begin(e, "v3");
			seed_put(seed, 72 + s * 8, 8, 1ull << bit);
		}
}

/* ---- entries ---- */

struct entry {
	const char *name, *kind;
	enum place place;
	unsigned index;
	uint64_t flags;
};

static const struct entry entries[] = {
	{"l1", "all", PLACE_L1, 0, ENTRY_COPIED},
	{"l1 unused", "v3", PLACE_L1, 1, 0},
	{"l2", "all", PLACE_L2, 0, ENTRY_COPIED},
	{"l2 zero", "v3", PLACE_L2, 3, ENTRY_COPIED | L2_ZERO},
	{"l2 v2", "v2", PLACE_L2, 1, ENTRY_COPIED},
	{"l2 compressed", "all", PLACE_L2, 4, L2_COMPRESSED},
	{"l2 long compressed", "c4k", PLACE_L2, 5, L2_COMPRESSED | 0xfull << 58},
	{"l2 extended", "extl2", PLACE_L2, 0, ENTRY_COPIED},
	{"l2 of data file", "data", PLACE_L2, 1, ENTRY_COPIED},
	{"reftable", "all", PLACE_REFTABLE, 0, 0},
	{"reftable unused", "bitmaps", PLACE_REFTABLE, 1, 0},
	{"snapshot l1", "snapshots", PLACE_SNAPSHOT_L1, 0, 0},
	{"snapshot", "all", PLACE_SNAPSHOTS, 0, 0},
	{"snapshot second", "v2-snapshots", PLACE_SNAPSHOTS, 8, 0},
	{"bitmap dir", "all", PLACE_BITMAP_DIR, 0, 0},
	{"bitmap table", "bitmaps", PLACE_BITMAP_TABLE, 0, 0},
};

static const struct {
	const char *name;
	uint64_t value;
} strange_targets[] = {
	{"2^40", 1ull << 40},
	{"2^55", 1ull << 55},
	{"2^56 less a sector", (1ull << 56) - 512},
	{"all bits", UINT64_MAX},
	{"reserved bit 1", 2},
	{"reserved bit 8", 1ull << 8},
	{"reserved bit 61", 1ull << 61},
	{"flags alone", 0},
	{"zero and compressed", L2_COMPRESSED | 1},
	{"copied and compressed", 3ull << 62},
};

static void entry_targets(struct enumeration *e)
{
	for (unsigned i = 0; i < LENGTH(entries); i++) {
		const struct entry *entry = &entries[i];

		for (unsigned p = 0; p < PLACE_COUNT; p++) {
			struct seed *seed;

			if (!case_is(e, "entry/%s to %s", entry->name, place_names[p]))
				continue;
			seed = case_begin(e, entry->kind);
			seed_put(seed, seed->places[entry->place] + entry->index * 8, 8,
				 seed->places[p] | entry->flags);
		}
		for (unsigned t = 0; t < LENGTH(strange_targets); t++) {
			struct seed *seed;

			if (!case_is(e, "entry/%s to %s", entry->name, strange_targets[t].name))
				continue;
			seed = case_begin(e, entry->kind);
			seed_put(seed, seed->places[entry->place] + entry->index * 8, 8,
				 strange_targets[t].value | entry->flags);
		}
	}
}

/* Entries that are fine alone: two of them name the same cluster. */
static void shared_entries(struct enumeration *e)
{
	static const struct {
		const char *name;
		enum place place;
		unsigned from, to;
	} pairs[] = {
		{"l1: one table twice", PLACE_L1, 0, 1},
		{"l2: one cluster twice", PLACE_L2, 0, 1},
		{"l2: data as a zero cluster's", PLACE_L2, 0, 3},
		{"l2: data where nothing is", PLACE_L2, 0, 6},
		{"l2: compressed twice", PLACE_L2, 4, 7},
		{"reftable: one block twice", PLACE_REFTABLE, 0, 1},
	};

	for (unsigned i = 0; i < LENGTH(pairs); i++) {
		uint64_t table;
		struct seed *seed;

		if (!case_is(e, "shared/%s", pairs[i].name))
			continue;
		seed = case_begin(e, "zlib");
		table = seed->places[pairs[i].place];
		seed_put(seed, table + pairs[i].to * 8, 8,
			 seed_get(seed, table + pairs[i].from * 8, 8));
	}
}

static void refcounts(struct enumeration *e)
{
	static const char *const kinds[] = {"v3", "r1", "r64", "all"};
	static const uint8_t fills[] = {0, 1, 0x80, 0xff};

	for (unsigned k = 0; k < LENGTH(kinds); k++)
		for (unsigned f = 0; f < LENGTH(fills); f++) {
			struct seed *seed;

			if (!case_is(e, "refcount/%s all bytes %#x", kinds[k], fills[f]))
				continue;
			seed = case_begin(e, kinds[k]);
			memset(seed->data + seed->places[PLACE_REFBLOCK], fills[f],
			       seed->cluster_size);
		}
}

static void subclusters(struct enumeration *e)
{
	static const struct {
		const char *name;
		uint64_t entry, bitmap;
	} words[] = {
		{"allocated and zero", 0, 1 | 1ull << 32},
		{"all set", 0, UINT64_MAX},
		{"allocated without a cluster", UINT64_MAX, 1},
		{"zero without a cluster", UINT64_MAX, 1ull << 32},
		{"reserved zero flag", 1, 1},
	};

	for (unsigned i = 0; i < LENGTH(words); i++) {
		struct seed *seed;
		uint64_t l2;

		if (!case_is(e, "subclusters/%s", words[i].name))
			continue;
		seed = case_begin(e, "extl2");
		l2 = seed->places[PLACE_L2];
		seed_put(seed, l2, 8,
			 words[i].entry == UINT64_MAX ? 0 : seed_get(seed, l2, 8) | words[i].entry);
		seed_put(seed, l2 + 8, 8, words[i].bitmap);
	}
}

/* ---- truncation ---- */

static void truncations(struct enumeration *e)
{
	static const char *const kinds[] = {"v3", "v2", "all", "extl2", "dirty", "zstd"};
	static const unsigned header_cuts[] = {0, 1, 4, 71, 72, 103, 104, 111, 112, 120, 511};

	for (unsigned k = 0; k < LENGTH(kinds); k++) {
		for (unsigned p = PLACE_REFTABLE; p <= PLACE_END; p++)
			for (unsigned extra = 0; extra < 2; extra++) {
				struct seed *seed;

				if (!case_is(e, "truncated/%s at %s%s", kinds[k], place_names[p],
					     extra ? " and 9 bytes" : ""))
					continue;
				seed = case_begin(e, kinds[k]);
				if (!seed->places[p] || seed->places[p] + extra * 9 > seed->stored)
					seed->places[p] = seed->stored - 300;
				seed->size = seed->stored = seed->places[p] + extra * 9;
			}
		for (unsigned i = 0; i < LENGTH(header_cuts) && k < 2; i++) {
			struct seed *seed;

			if (!case_is(e, "truncated/%s to %u bytes", kinds[k], header_cuts[i]))
				continue;
			seed = case_begin(e, kinds[k]);
			seed->size = seed->stored = header_cuts[i];
		}
	}
}

void cases_fields(struct enumeration *e)
{
	header_fields(e);
	feature_bits(e);
	entry_targets(e);
	shared_entries(e);
	refcounts(e);
	subclusters(e);
	truncations(e);
}
