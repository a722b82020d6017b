/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * seed: small valid images of several kinds, built here byte by byte, with a list of
 * every field in them: what hostile images are made from by changing fields.
 */
#ifndef QCOW2FS_TEST_HOSTILE_SEED_H
#define QCOW2FS_TEST_HOSTILE_SEED_H

#include <stdbool.h>
#include <stdint.h>

enum seed_feature {
	SEED_V2 = 1,
	SEED_EXTENDED_L2 = 2,
	SEED_COMPRESSED = 4,
	SEED_ZSTD = 8,
	SEED_SNAPSHOTS = 16,
	SEED_BITMAPS = 32,
	SEED_BACKING = 64,    /* names base.raw, raw */
	SEED_DATA_FILE = 128, /* names data.raw */
	SEED_LAZY = 256,
	SEED_DIRTY = 512,
};

struct seed_kind {
	const char *name;
	unsigned cluster_bits, refcount_order;
	unsigned features;
};

/* Where a structure begins; 0 where the image has none. */
enum place {
	PLACE_HEADER,
	PLACE_EXTENSIONS,
	PLACE_REFTABLE,
	PLACE_REFBLOCK,
	PLACE_L1,
	PLACE_L2,
	PLACE_L2_SECOND,
	PLACE_SNAPSHOTS,
	PLACE_SNAPSHOT_L1,
	PLACE_SNAPSHOT_L2,
	PLACE_BITMAP_DIR,
	PLACE_BITMAP_TABLE,
	PLACE_BITMAP_DATA,
	PLACE_COMPRESSED,
	PLACE_DATA,
	PLACE_END,
	PLACE_COUNT
};
extern const char *const place_names[PLACE_COUNT];

enum field_kind {
	FIELD_HEADER,
	FIELD_EXTENSION,
	FIELD_L1,
	FIELD_L2,
	FIELD_REFTABLE,
	FIELD_REFBLOCK,
	FIELD_SNAPSHOT,
	FIELD_SNAPSHOT_L1,
	FIELD_BITMAP_DIR,
	FIELD_BITMAP_TABLE,
	FIELD_PAYLOAD, /* compressed bytes */
	FIELD_COUNT
};

struct field {
	const char *name; /* of header fields */
	uint64_t off;
	unsigned width; /* bytes: 1, 2, 4, 8 */
	enum field_kind kind;
};

#define SEED_FIELDS_MAX 640u
#define SEED_L2_USED 10u /* entries at the start of each L2 table that are fields */

struct seed {
	const struct seed_kind *kind;
	uint8_t *data;
	uint64_t size; /* claimed; at least `stored` */
	uint64_t stored;
	uint64_t cluster_size;
	uint64_t places[PLACE_COUNT];
	struct field fields[SEED_FIELDS_MAX];
	unsigned nb_fields;
	uint64_t nb_taken; /* clusters given out */
};

extern const struct seed_kind seed_kinds[];
extern const unsigned nb_seed_kinds;
const struct seed_kind *seed_kind_find(const char *name);

/* Builds a fresh image. Ends the process without memory. */
void seed_build(const struct seed_kind *kind, struct seed *ret_seed);
void seed_copy(const struct seed *from, struct seed *ret_seed);
void seed_free(struct seed *seed);

/* Stores at least `size` bytes and claims them; new ones are zero. */
void seed_extend(struct seed *seed, uint64_t size);
uint64_t seed_get(const struct seed *seed, uint64_t off, unsigned width);
void seed_put(struct seed *seed, uint64_t off, unsigned width, uint64_t value);
const struct field *seed_field(const struct seed *seed, const char *name);

#endif
