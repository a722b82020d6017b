/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cases_tables: what is wrong inside snapshot and bitmap tables, header extensions,
 * names and compressed clusters.
 */
#include "test/hostile/cases.h"

#include "core/format.h"

#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* A number written over a field that is found relative to a place. */
struct patch {
	const char *name;
	unsigned off, width;
	uint64_t value;
};

static void patches(struct enumeration *e, const char *group, const char *kind, enum place place,
		    const struct patch *list, unsigned nb)
{
	for (unsigned i = 0; i < nb; i++) {
		struct seed *seed;

		if (!case_is(e, "%s/%s", group, list[i].name))
			continue;
		seed = case_begin(e, kind);
		seed_put(seed, seed->places[place] + list[i].off, list[i].width, list[i].value);
	}
}

static void snapshots(struct enumeration *e)
{
	static const struct patch list[] = {
		{"l1 unaligned", 0, 8, 513},
		{"l1 beyond 2^63", 0, 8, 0xfffffffffffffe00},
		{"l1 wraps around", 0, 8, 0x7ffffffffffffe00},
		{"l1 empty", 8, 4, 0},
		{"l1 too small", 8, 4, 1},
		{"l1 of 32 MiB", 8, 4, 1u << 22},
		{"l1 above 32 MiB", 8, 4, (1u << 22) + 1},
		{"l1 of 32 GiB", 8, 4, UINT32_MAX},
		{"id of 64 KiB", 12, 2, 0xffff},
		{"id empty", 12, 2, 0},
		{"name of 64 KiB", 14, 2, 0xffff},
		{"name up to the end of the file", 14, 2, 4000},
		{"id with a NUL", 56, 1, 0},
		{"id with a newline", 56, 1, '\n'},
		{"id with a slash", 56, 1, '/'},
		{"name with an escape", 57, 1, 0x1b},
		{"extra data 0", 36, 4, 0},
		{"extra data 8", 36, 4, 8},
		{"extra data 15", 36, 4, 15},
		{"extra data 24", 36, 4, 24},
		{"extra data 1024", 36, 4, 1024},
		{"extra data 1025", 36, 4, 1025},
		{"extra data 4 GiB", 36, 4, UINT32_MAX},
		{"disk size 0", 48, 8, 0},
		{"disk size odd", 48, 8, 1},
		{"disk size 2^62", 48, 8, 1ull << 62},
		{"disk size max", 48, 8, UINT64_MAX},
		{"VM state max", 40, 8, UINT64_MAX},
		{"date max", 16, 8, UINT64_MAX},
		{"second id equals the first", 64 + 56, 1, '1'},
	};

	patches(e, "snapshot", "snapshots", PLACE_SNAPSHOTS, list, LENGTH(list));
	patches(e, "snapshot v2", "v2-snapshots", PLACE_SNAPSHOTS, list, LENGTH(list));
}

/*
 * An L1 table in the cluster behind the last one, which ends a byte early: its region passes
 * the end of the file by less than a cluster, so it is sound, and must stay so.
 */
static void snapshot_at_the_end(struct enumeration *e)
{
	struct seed *seed;
	uint64_t end;

	if (!case_is(e, "snapshot/l1 begins behind an incomplete last cluster"))
		return;
	seed = case_begin(e, "snapshots");
	end = seed->places[PLACE_END];
	seed->size = seed->stored = end - 1;
	seed_put(seed, seed->places[PLACE_SNAPSHOTS], 8, end);
	seed_put(seed, seed->places[PLACE_REFBLOCK] + end / seed->cluster_size * 2, 2, 1);
}

static void bitmaps(struct enumeration *e)
{
	static const struct patch list[] = {
		{"table unaligned", 0, 8, 7},
		{"table beyond 2^63", 0, 8, 0xfffffffffffffe00},
		{"table empty", 8, 4, 0},
		{"table of 2^27 entries", 8, 4, 1u << 27},
		{"table of 2^32 entries", 8, 4, UINT32_MAX},
		{"unknown flags", 12, 4, 0xfffffff8},
		{"in use", 12, 4, 1},
		{"type 0", 16, 1, 0},
		{"granularity 0", 17, 1, 0},
		{"granularity 63", 17, 1, 63},
		{"granularity 255", 17, 1, 255},
		{"name empty", 18, 2, 0},
		{"name of 1024", 18, 2, 1024},
		{"name of 64 KiB", 18, 2, 0xffff},
		{"extra data", 20, 4, 8},
		{"extra data 4 GiB", 20, 4, UINT32_MAX},
		{"extra data wraps", 20, 4, UINT32_MAX - 27},
	};
	static const struct patch ext[] = {
		{"none", 8, 4, 0},
		{"65536", 8, 4, 65536},
		{"two in a directory for one", 8, 4, 2},
		{"reserved", 12, 4, 1},
		{"directory empty", 16, 8, 0},
		{"directory of 65 MiB", 16, 8, 65u << 20},
		{"directory of 2^63", 16, 8, 1ull << 63},
		{"directory too short", 16, 8, 24},
		{"directory unaligned", 24, 8, 8},
		{"directory at 0", 24, 8, 0},
		{"directory beyond the file", 24, 8, 1ull << 40},
		{"extension too short", 4, 4, 16},
		{"extension too long", 4, 4, 32},
	};

	patches(e, "bitmap", "bitmaps", PLACE_BITMAP_DIR, list, LENGTH(list));
	patches(e, "bitmaps", "bitmaps", PLACE_EXTENSIONS, ext, LENGTH(ext));
}

/* ---- header extensions ---- */

static void lengths(struct enumeration *e)
{
	static const uint32_t types[] = {EXT_BACKING_FORMAT, EXT_FEATURE_NAMES, EXT_BITMAPS,
					 EXT_CRYPTO,         EXT_DATA_FILE,     0xffffffff};
	static const uint32_t bytes[] = {0, 1, 15, 47, 300, 393, 0x7fffffff, UINT32_MAX};

	for (unsigned t = 0; t < LENGTH(types); t++)
		for (unsigned b = 0; b < LENGTH(bytes); b++) {
			struct seed *seed;

			if (!case_is(e, "extension/%#x of %u bytes", types[t], bytes[b]))
				continue;
			seed = case_begin(e, "v3");
			seed_put(seed, 88, 8, AUTOCLEAR_BITMAPS);
			seed_put(seed, 112, 4, types[t]);
			seed_put(seed, 116, 4, bytes[b]);
		}
}

static void put_extension(struct seed *seed, uint64_t off, uint32_t type, const void *data,
			  uint32_t len)
{
	seed_put(seed, off, 4, type);
	seed_put(seed, off + 4, 4, len);
	memmove(seed->data + off + 8, data, len);
}

static void odd_extensions(struct enumeration *e)
{
	uint8_t names[96];
	struct seed *seed;

	if (case_is(e, "extension/the cluster is full of empty ones")) {
		seed = case_begin(e, "v3");
		for (unsigned off = 112; off < 512; off += 8)
			put_extension(seed, off, 0x1000 + off, "", 0);
	}
	if (case_is(e, "extension/no end")) {
		seed = case_begin(e, "v3");
		put_extension(seed, 112, 0x1234, seed->data, 512 - 120);
	}
	if (case_is(e, "extension/data file twice")) {
		seed = case_begin(e, "data");
		put_extension(seed, 112, EXT_DATA_FILE, "data.raw", 8);
		put_extension(seed, 128, EXT_DATA_FILE, "data.raw", 8);
	}
	if (case_is(e, "extension/data file with a NUL")) {
		seed = case_begin(e, "data");
		seed->data[124] = 0;
	}
	if (case_is(e, "extension/data file without its bit")) {
		seed = case_begin(e, "data");
		seed_put(seed, 72, 8, 0);
	}
	if (case_is(e, "extension/feature name that a terminal would obey")) {
		seed = case_begin(e, "v3");
		memset(names, 0x1b, sizeof(names));
		names[0] = 0;
		names[1] = 40;
		put_extension(seed, 112, EXT_FEATURE_NAMES, names, sizeof(names));
		seed_put(seed, 72, 8, 1ull << 40);
	}
	if (case_is(e, "extension/feature name that does not end")) {
		seed = case_begin(e, "v3");
		memset(names, 'x', sizeof(names));
		names[0] = 0;
		names[1] = 63;
		put_extension(seed, 112, EXT_FEATURE_NAMES, names, sizeof(names));
		seed_put(seed, 72, 8, 1ull << 63);
	}
	if (case_is(e, "extension/behind a header of one cluster")) {
		seed = case_begin(e, "v3");
		seed_put(seed, 100, 4, 512);
	}
}

/* ---- names ---- */

static void names(struct enumeration *e)
{
	static const char *const list[] = {
		"",        "x",        "json:{",      "nbd:x",     "file:base.raw", "a\nb",
		"\x1b[2J", "\xff\xfe", "image.qcow2", "base.raw/", "../base.raw",   "/",
		".",       "%s%s%n",
	};

	for (unsigned i = 0; i < LENGTH(list); i++) {
		struct seed *seed;
		uint64_t off;

		if (!case_is(e, "name/%u", i))
			continue;
		seed = case_begin(e, "backing");
		off = seed_get(seed, 8, 8);
		memcpy(seed->data + off, list[i], strlen(list[i]));
		seed_put(seed, 16, 4, strlen(list[i]));
	}
	for (unsigned len = 1022; len <= 1025; len++) {
		struct seed *seed;

		if (!case_is(e, "name/%u bytes", len))
			continue;
		seed = case_begin(e, "c4k");
		seed_put(seed, 8, 8, 1024);
		seed_put(seed, 16, 4, len);
		memset(seed->data + 1024, 'n', len);
	}
}

/* ---- compressed clusters ---- */

static void payloads(struct enumeration *e)
{
	static const char *const kinds[] = {"zlib", "c4k", "zstd", "extl2"};
	static const struct {
		const char *name;
		uint8_t bytes[16];
		unsigned nb;
	} starts[] = {
		{"zeros", {0}, 16},
		{"ones", {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 8},
		{"an empty stored block", {1, 0, 0, 0xff, 0xff}, 5},
		{"empty stored blocks without end", {0, 0, 0, 0xff, 0xff, 0, 0, 0, 0xff, 0xff}, 10},
		{"a stored block that is too long", {1, 0xff, 0xff, 0, 0}, 5},
		{"a zlib header", {0x78, 0x9c}, 2},
		{"distance beyond the start", {0x4b, 4, 0xff, 0xff}, 4},
		{"a zstd frame without content", {0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0}, 9},
		{"a zstd window of 2 GiB", {0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 1, 0, 0}, 9},
		{"a zstd frame of 2^64 bytes",
		 {0x28, 0xb5, 0x2f, 0xfd, 0xe0, 255, 255, 255, 255, 255, 255, 255, 255},
		 13},
		{"a skippable zstd frame", {0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff}, 8},
		{"an empty skippable zstd frame", {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, 8},
		{"a zstd dictionary", {0x37, 0xa4, 0x30, 0xec}, 4},
		{"a zstd block of one repeated byte",
		 {0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 2, 0, 3, 0, 0x10, 'x'},
		 13},
	};

	for (unsigned k = 0; k < LENGTH(kinds); k++)
		for (unsigned s = 0; s < LENGTH(starts); s++) {
			struct seed *seed;

			if (!case_is(e, "compressed/%s: %s", kinds[k], starts[s].name))
				continue;
			seed = case_begin(e, kinds[k]);
			memcpy(seed->data + seed->places[PLACE_COMPRESSED], starts[s].bytes,
			       starts[s].nb);
		}
}

/* A cluster full of empty frames or blocks: the decoder works and nothing comes out. */
static void idle_streams(struct enumeration *e)
{
	static const struct {
		const char *name, *kind;
		uint8_t bytes[8];
		unsigned nb;
	} units[] = {
		{"empty skippable frames", "zstd", {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, 8},
		{"empty stored blocks", "c4k", {0, 0, 0, 0xff, 0xff}, 5},
		{"empty fixed blocks", "c4k", {0x02, 0x08, 0x20, 0x80, 0}, 5},
	};

	for (unsigned i = 0; i < LENGTH(units); i++) {
		struct seed *seed;
		uint64_t at, end;

		if (!case_is(e, "compressed/%s only", units[i].name))
			continue;
		seed = case_begin(e, units[i].kind);
		at = seed->places[PLACE_COMPRESSED];
		end = at + seed->cluster_size;
		seed_put(seed, seed->places[PLACE_L2] + 32, 8,
			 L2_COMPRESSED | 7ull << (62 - (seed->kind->cluster_bits - 8)) | at);
		for (; at + units[i].nb <= end; at += units[i].nb)
			memcpy(seed->data + at, units[i].bytes, units[i].nb);
	}
}

void cases_tables(struct enumeration *e)
{
	snapshots(e);
	snapshot_at_the_end(e);
	bitmaps(e);
	lengths(e);
	odd_extensions(e);
	names(e);
	payloads(e);
	idle_streams(e);
}
