/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * cases_bombs: few bytes that ask for much work or memory, and chains of files.
 */
#include "test/hostile/cases.h"

#include "core/format.h"
#include "test/hostile/mutate.h"

#include <stdio.h>
#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))
#define MIB (1ull << 20)

/* Puts room for `bytes` behind the image; its offset. */
static uint64_t room(struct seed *seed, uint64_t bytes)
{
	uint64_t off = (seed->stored + seed->cluster_size - 1) & ~(seed->cluster_size - 1);

	seed_extend(seed, off + bytes);
	return off;
}

/* A new L1 table of nb entries for a disk of the size that it covers. */
static uint64_t new_l1(struct seed *seed, uint32_t nb)
{
	uint64_t off = room(seed, (uint64_t)nb * 8);
	uint64_t per_table =
		seed->cluster_size / (seed->kind->features & SEED_EXTENDED_L2 ? 16 : 8);

	seed_put(seed, 24, 8, nb * per_table * seed->cluster_size);
	seed_put(seed, 36, 4, nb);
	seed_put(seed, 40, 8, off);
	return off;
}

static void tables(struct enumeration *e)
{
	struct seed *seed;
	uint64_t off;

	if (case_is(e, "bomb/an L1 of 4 million entries, one L2 table")) {
		seed = case_begin(e, "v3");
		off = new_l1(seed, 1u << 22);
		for (uint64_t i = 0; i < 1u << 22; i++)
			seed_put(seed, off + i * 8, 8, seed->places[PLACE_L2]);
	}
	/* Seeking takes as long as the table: half a million, so that it is less than a second. */
	if (case_is(e, "bomb/an L1 of 500,000 entries, all beyond the end")) {
		seed = case_begin(e, "v3");
		off = new_l1(seed, 1u << 19);
		for (uint64_t i = 0; i < 1u << 19; i++)
			seed_put(seed, off + i * 8, 8, (1ull << 40) + i * (512 << 9));
	}
	if (case_is(e, "bomb/an L1 of 4 million empty entries")) {
		seed = case_begin(e, "extl2");
		new_l1(seed, 1u << 22);
	}
	if (case_is(e, "bomb/an L1 of 4 million empty entries in a hole")) {
		seed = case_begin(e, "v3");
		off = seed->size;
		seed->size += 32 * MIB;
		seed_put(seed, 24, 8, (1ull << 22) * 64 * 512);
		seed_put(seed, 36, 4, 1u << 22);
		seed_put(seed, 40, 8, off);
	}
	if (case_is(e, "bomb/a refcount table of 8 MiB, all beyond the end")) {
		seed = case_begin(e, "v3");
		off = room(seed, 8 * MIB);
		for (uint64_t i = 0; i < MIB; i++)
			seed_put(seed, off + i * 8, 8, (1ull << 40) + i * (512 << 9));
		seed_put(seed, 48, 8, off);
		seed_put(seed, 56, 4, 16384);
	}
	if (case_is(e, "bomb/a refcount table of 8 MiB, one block")) {
		seed = case_begin(e, "v3");
		off = room(seed, 8 * MIB);
		for (uint64_t i = 0; i < MIB; i++)
			seed_put(seed, off + i * 8, 8, seed->places[PLACE_REFBLOCK]);
		seed_put(seed, 48, 8, off);
		seed_put(seed, 56, 4, 16384);
	}
	if (case_is(e, "bomb/a refcount table of 8 MiB in a hole")) {
		seed = case_begin(e, "r1");
		off = seed->size;
		seed->size += 8 * MIB;
		seed_put(seed, 48, 8, off);
		seed_put(seed, 56, 4, 16384);
	}
	if (case_is(e, "bomb/the header claims that a hole is one huge disk")) {
		seed = case_begin(e, "v3");
		seed->size = 1ull << 44;
	}
	if (case_is(e, "bomb/a cluster at the end of a file of 16 TiB")) {
		seed = case_begin(e, "v3");
		seed->size = 1ull << 44;
		seed_put(seed, seed->places[PLACE_L2] + 48, 8, ((1ull << 44) - 512) | ENTRY_COPIED);
	}
	if (case_is(e, "bomb/marked dirty, in a file of 16 TiB")) {
		seed = case_begin(e, "dirty");
		seed->size = 1ull << 44;
	}
	if (case_is(e, "bomb/marked dirty, a cluster at 16 TiB")) {
		seed = case_begin(e, "dirty");
		seed->size = 1ull << 44;
		seed_put(seed, seed->places[PLACE_L2] + 48, 8, ((1ull << 44) - 512) | ENTRY_COPIED);
	}
}

/* `nb` entries of 40 bytes and an id of 8 at the end of the image. */
static void many_snapshots(struct seed *seed, uint32_t nb, uint64_t l1_off, uint64_t l1_step,
			   uint32_t l1_size)
{
	uint64_t off = room(seed, nb * 64ull);

	seed_put(seed, 60, 4, nb);
	seed_put(seed, 64, 8, off);
	for (uint32_t i = 0; i < nb; i++, off += 64) {
		seed_put(seed, off, 8, l1_off + i * l1_step);
		seed_put(seed, off + 8, 4, l1_size);
		seed_put(seed, off + 12, 2, 8);
		seed_put(seed, off + 36, 4, 16);
		seed_put(seed, off + 48, 8, seed_get(seed, 24, 8));
		for (unsigned digit = 0; digit < 8; digit++)
			seed->data[off + 56 + digit] = 'a' + (i >> 4 * digit & 15);
	}
}

static void snapshots(struct enumeration *e)
{
	static const struct {
		const char *name;
		uint32_t nb;
		uint64_t l1_step;
		uint32_t l1_size;
		bool beyond;
	} bombs[] = {
		{"65536 snapshots share an L1 table", 65536, 0, 2, false},
		{"65536 snapshots share an L1 table of 1 MiB", 65536, 0, 1u << 17, false},
		{"65536 snapshots whose L1 tables overlap", 65536, 512, 1u << 17, false},
		{"65536 snapshots, each an L1 table of 32 MiB beyond the end", 65536, 32 * MIB,
		 1u << 22, true},
		{"1000 snapshots, each an L1 table of 32 MiB beyond the end", 1000, 32 * MIB,
		 1u << 22, true},
		{"65536 snapshots without an L1 table", 65536, 0, 0, false},
	};
	static const uint32_t claims[] = {1, 2, 3, 1000, 65536, 65537, UINT32_MAX};

	for (unsigned i = 0; i < LENGTH(bombs); i++) {
		uint64_t l1_off;
		struct seed *seed;

		if (!case_is(e, "bomb/%s", bombs[i].name))
			continue;
		seed = case_begin(e, "v3");
		l1_off = bombs[i].beyond ? 1ull << 40 : room(seed, 2 * MIB);
		many_snapshots(seed, bombs[i].nb, l1_off, bombs[i].l1_step, bombs[i].l1_size);
	}
	for (unsigned i = 0; i < LENGTH(claims); i++) {
		struct seed *seed;

		if (!case_is(e, "bomb/a claim of %u snapshots", claims[i]))
			continue;
		seed = case_begin(e, "v3");
		seed_put(seed, 60, 4, claims[i]);
		seed_put(seed, 64, 8, seed->places[PLACE_DATA]);
		memset(seed->data + seed->places[PLACE_DATA], 0, 512);
	}
	if (case_is(e, "bomb/65536 snapshots, each an L1 table of 32 MiB in a hole")) {
		struct seed *seed = case_begin(e, "v3");

		many_snapshots(seed, 65536, 1ull << 40, 32 * MIB, 1u << 22);
		seed->size = 1ull << 42;
	}
	if (case_is(e, "bomb/65536 snapshots in a hole of 64 MiB")) {
		struct seed *seed = case_begin(e, "v3");

		seed_put(seed, 60, 4, 65536);
		seed_put(seed, 64, 8, seed->size);
		seed->size += 65 * MIB;
	}
}

static void bitmaps(struct enumeration *e)
{
	if (case_is(e, "bomb/65535 bitmaps in a hole")) {
		struct seed *seed = case_begin(e, "bitmaps");
		uint64_t ext = seed->places[PLACE_EXTENSIONS];

		seed_put(seed, ext + 8, 4, 65535);
		seed_put(seed, ext + 16, 8, 64 * MIB);
		seed_put(seed, ext + 24, 8, seed->size);
		seed->size += 64 * MIB;
	}
	if (case_is(e, "bomb/65535 bitmaps share a table")) {
		struct seed *seed = case_begin(e, "bitmaps");
		uint64_t ext = seed->places[PLACE_EXTENSIONS], off = room(seed, 65535 * 32);
		uint64_t dir = seed->places[PLACE_BITMAP_DIR];

		seed_put(seed, ext + 8, 4, 65535);
		seed_put(seed, ext + 16, 8, 65535 * 32);
		seed_put(seed, ext + 24, 8, off);
		seed_put(seed, dir + 8, 4, 1u << 17);
		for (unsigned i = 0; i < 65535; i++)
			memcpy(seed->data + off + i * 32, seed->data + dir, 32);
	}
}

/* Every L2 entry is a compressed cluster that inflates from the same few bytes. */
static void compressed(struct enumeration *e)
{
	static const char *const kinds[] = {"zlib", "c4k", "zstd", "extl2"};

	for (unsigned k = 0; k < LENGTH(kinds); k++) {
		unsigned bytes;
		struct seed *seed;
		uint64_t entry, l2;

		if (!case_is(e, "bomb/%s: compressed clusters only, all the same", kinds[k]))
			continue;
		seed = case_begin(e, kinds[k]);
		bytes = seed->kind->features & SEED_EXTENDED_L2 ? 16 : 8;
		l2 = seed->places[PLACE_L2];
		/* As many sectors as the descriptor can say. */
		entry = seed_get(seed, l2 + 4 * bytes, 8) |
			((1ull << (seed->kind->cluster_bits - 8)) - 1)
				<< (62 - (seed->kind->cluster_bits - 8));
		for (uint64_t off = 0; off < seed->cluster_size; off += bytes)
			seed_put(seed, l2 + off, 8, entry);
	}
}

/* ---- chains ---- */

/* An overlay without data that names `backing`. */
static void make_overlay(struct seed *seed, const char *backing, const char *format)
{
	static const struct seed_kind overlay_kind = {"overlay", 9, 4, 0};
	uint64_t at = 112;

	seed_build(&overlay_kind, seed);
	memset(seed->data + at, 0, 512 - at);
	if (format) {
		seed_put(seed, at, 4, EXT_BACKING_FORMAT);
		seed_put(seed, at + 4, 4, strlen(format));
		memcpy(seed->data + at + 8, format, strlen(format));
		at += 16;
	}
	at += 8;
	seed_put(seed, 8, 8, at);
	seed_put(seed, 16, 4, strlen(backing));
	memcpy(seed->data + at, backing, strlen(backing));
	/* Nothing of its own: every read goes down. */
	memset(seed->data + seed->places[PLACE_L1], 0, 16);
}

static void chains(struct enumeration *e)
{
	struct bundle *bundle = e->bundle;
	struct seed extra;

	for (unsigned depth = 2; depth <= 20; depth += 3) {
		char name[24];

		if (!case_is(e, "chain/%u files", depth))
			continue;
		make_overlay(&bundle->image, "2.qcow2", "qcow2");
		for (unsigned i = 2; i <= depth; i++) {
			snprintf(name, sizeof(name), "%u.qcow2", i + 1);
			if (i < depth)
				make_overlay(&extra, name, "qcow2");
			else
				seed_build(seed_kind_find("zlib"), &extra);
			snprintf(name, sizeof(name), "%u.qcow2", i);
			bundle_add(bundle, name, &extra);
		}
	}
	if (case_is(e, "chain/its own backing file"))
		make_overlay(&bundle->image, TRIAL_IMAGE, "qcow2");
	if (case_is(e, "chain/its own backing file, as a raw one"))
		make_overlay(&bundle->image, TRIAL_IMAGE, "raw");
	if (case_is(e, "chain/its own backing file, probed"))
		make_overlay(&bundle->image, TRIAL_IMAGE, NULL);
	if (case_is(e, "chain/loop of two")) {
		make_overlay(&bundle->image, "2.qcow2", "qcow2");
		make_overlay(&extra, TRIAL_IMAGE, "qcow2");
		bundle_add(bundle, "2.qcow2", &extra);
	}
	if (case_is(e, "chain/a missing file"))
		make_overlay(&bundle->image, "gone", "raw");
	if (case_is(e, "chain/an empty raw file")) {
		make_overlay(&bundle->image, "2.raw", "raw");
		extra = (struct seed){.kind = &seed_kinds[0], .cluster_size = 512};
		seed_extend(&extra, 0);
		bundle_add(bundle, "2.raw", &extra);
	}
	if (case_is(e, "chain/a backing file that is damaged")) {
		make_overlay(&bundle->image, "2.qcow2", "qcow2");
		seed_build(seed_kind_find("v3"), &extra);
		seed_put(&extra, extra.places[PLACE_L1], 8, UINT64_MAX);
		bundle_add(bundle, "2.qcow2", &extra);
	}
	if (case_is(e, "chain/a backing file that is huge")) {
		make_overlay(&bundle->image, "2.qcow2", "qcow2");
		seed_build(seed_kind_find("v3"), &extra);
		new_l1(&extra, 1u << 20);
		bundle_add(bundle, "2.qcow2", &extra);
	}
	if (case_is(e, "chain/a backing file of zero bytes of disk")) {
		make_overlay(&bundle->image, "2.qcow2", "qcow2");
		seed_build(seed_kind_find("v3"), &extra);
		seed_put(&extra, 24, 8, 0);
		bundle_add(bundle, "2.qcow2", &extra);
	}
	if (case_is(e, "chain/a probed file that names another")) {
		make_overlay(&bundle->image, "2.qcow2", NULL);
		make_overlay(&extra, "3.raw", "raw");
		bundle_add(bundle, "2.qcow2", &extra);
	}
	if (case_is(e, "chain/the data file is the image itself")) {
		struct seed *seed = case_begin(e, "data");

		memset(seed->data + 112, 0, 64);
		seed_put(seed, 112, 4, EXT_DATA_FILE);
		seed_put(seed, 116, 4, strlen(TRIAL_IMAGE));
		memcpy(seed->data + 120, TRIAL_IMAGE, strlen(TRIAL_IMAGE));
	}
	if (case_is(e, "chain/a data file that is shorter than the disk")) {
		case_begin(e, "data");
		bundle->extras[0].size = bundle->extras[0].stored = 100;
	}
}

void cases_bombs(struct enumeration *e)
{
	tables(e);
	snapshots(e);
	bitmaps(e);
	compressed(e);
	chains(e);
}
