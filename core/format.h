/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * format: every on-disk structure, field offset, mask and bound of qcow2, and no
 * code beyond reading and writing big-endian integers. Names are those of the
 * specification ("qcow2 Image File Format"); the heading is named above each part.
 */
#ifndef QCOW2FS_CORE_FORMAT_H
#define QCOW2FS_CORE_FORMAT_H

#include <assert.h>
#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t be16;
typedef uint32_t be32;
typedef uint64_t be64;

static inline uint16_t be16_get(const void *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof(v));
	return be16toh(v);
}
static inline uint32_t be32_get(const void *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}
static inline uint64_t be64_get(const void *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}
static inline void be16_put(void *p, uint16_t v)
{
	v = htobe16(v);
	memcpy(p, &v, sizeof(v));
}
static inline void be32_put(void *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}
static inline void be64_put(void *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

/* ---- Header ---- */
#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_V2_HEADER_BYTES 72u
#define QCOW2_V3_HEADER_BYTES_MIN 104u

struct qcow2_header {
	be32 magic;
	be32 version;
	be64 backing_file_offset;
	be32 backing_file_size;
	be32 cluster_bits;
	be64 size;
	be32 crypt_method;
	be32 l1_size; /* entries */
	be64 l1_table_offset;
	be64 refcount_table_offset;
	be32 refcount_table_clusters;
	be32 nb_snapshots;
	be64 snapshots_offset;
	/* version 3 */
	be64 incompatible_features;
	be64 compatible_features;
	be64 autoclear_features;
	be32 refcount_order;
	be32 header_length;
	uint8_t compression_type;
	uint8_t padding[7];
};
static_assert(sizeof(struct qcow2_header) == 112, "header with the compression type");
static_assert(offsetof(struct qcow2_header, l1_table_offset) == 40, "l1_table_offset");
static_assert(offsetof(struct qcow2_header, refcount_table_offset) == 48, "refcount_table_offset");
static_assert(offsetof(struct qcow2_header, incompatible_features) == 72, "features");
static_assert(offsetof(struct qcow2_header, compression_type) == 104, "compression_type");

#define INCOMPAT_DIRTY (1ull << 0)
#define INCOMPAT_CORRUPT (1ull << 1)
#define INCOMPAT_DATA_FILE (1ull << 2)
#define INCOMPAT_COMPRESSION (1ull << 3)
#define INCOMPAT_EXTENDED_L2 (1ull << 4)
#define INCOMPAT_KNOWN 0x1full
#define COMPAT_LAZY_REFCOUNTS (1ull << 0)
#define AUTOCLEAR_BITMAPS (1ull << 0)
#define AUTOCLEAR_DATA_FILE_RAW (1ull << 1)
#define AUTOCLEAR_KNOWN 0x3ull

enum { CRYPT_NONE = 0, CRYPT_AES = 1, CRYPT_LUKS = 2 };
enum { COMPRESSION_ZLIB = 0, COMPRESSION_ZSTD = 1 };

#define CLUSTER_BITS_MIN 9u
#define CLUSTER_BITS_MAX 21u
#define EXTENDED_L2_CLUSTER_BITS_MIN 14u
#define REFCOUNT_ORDER_MAX 6u
#define L1_BYTES_MAX (32u << 20)
#define REFTABLE_BYTES_MAX (8u << 20)
#define HOST_OFF_MAX (1ull << 56)

/* ---- Header extensions ---- */
#define EXT_END 0u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_FEATURE_NAMES 0x6803f857u
#define EXT_BITMAPS 0x23852875u
#define EXT_CRYPTO 0x0537be77u
#define EXT_DATA_FILE 0x44415441u
#define FEATURE_NAME_ENTRY_BYTES 48u
#define BACKING_NAME_MAX 1023u

struct qcow2_ext_header {
	be32 type;
	be32 length; /* without padding to 8 */
};

/* ---- Bitmaps ---- */
#define BITMAPS_MAX 65535u
#define BITMAP_DIR_BYTES_MAX (64u << 20)
#define BITMAP_NAME_MAX 1023u
#define BITMAP_TABLE_ENTRIES_MAX (1u << 27)
#define BITMAP_FLAG_IN_USE 1u
#define BITMAP_FLAG_AUTO 2u
#define BITMAP_FLAG_EXTRA_COMPATIBLE 4u
#define BITMAP_TYPE_DIRTY 1u
#define BITMAP_ENTRY_OFFSET_MASK 0x00fffffffffffe00ull
#define BITMAP_ENTRY_RESERVED_MASK 0xff000000000001feull
#define BITMAP_ENTRY_ALL_ONES 1ull

struct qcow2_bitmap_ext {
	be32 nb_bitmaps;
	be32 reserved;
	be64 bitmap_directory_size;
	be64 bitmap_directory_offset;
};
static_assert(sizeof(struct qcow2_bitmap_ext) == 24, "bitmaps extension");

struct qcow2_bitmap_dir_entry {
	be64 bitmap_table_offset;
	be32 bitmap_table_size; /* entries */
	be32 flags;
	uint8_t type;
	uint8_t granularity_bits;
	be16 name_size;
	be32 extra_data_size;
	/* extra data, name, padding to 8 */
};
static_assert(sizeof(struct qcow2_bitmap_dir_entry) == 24, "bitmap directory entry");

/* ---- Full disk encryption header pointer ---- */
struct qcow2_crypto_ext {
	be64 offset;
	be64 length;
};

/* ---- Host cluster management: refcounts ---- */
#define REFTABLE_OFFSET_MASK 0xfffffffffffffe00ull
#define REFTABLE_RESERVED_MASK 0x1ffull

/* ---- Cluster mapping: L1 ---- */
#define L1_OFFSET_MASK 0x00fffffffffffe00ull
#define L1_RESERVED_MASK 0x7f000000000001ffull
#define ENTRY_COPIED (1ull << 63)

/* ---- Cluster mapping: L2, standard and extended ---- */
#define L2_COMPRESSED (1ull << 62)
#define L2_OFFSET_MASK 0x00fffffffffffe00ull
#define L2_ZERO 1ull
/* of standard cluster descriptors; bit 0 is the zero flag in version 3 without extended L2 */
#define L2_STD_RESERVED_MASK 0x3f000000000001feull
#define L2_ENTRY_BYTES 8u
#define L2_EXT_ENTRY_BYTES 16u
#define SUBCLUSTERS_PER_CLUSTER 32u

/* ---- Snapshots ---- */
#define SNAPSHOTS_MAX 65536u
#define SNAPSHOT_TABLE_BYTES_MAX (64u << 20)
#define SNAPSHOT_EXTRA_BYTES_MAX 1024u

struct qcow2_snapshot_header {
	be64 l1_table_offset;
	be32 l1_size;
	be16 id_str_size;
	be16 name_size;
	be32 date_sec;
	be32 date_nsec;
	be64 vm_clock_nsec;
	be32 vm_state_size;
	be32 extra_data_size;
	/* extra data, id string, name, padding to 8 */
};
static_assert(sizeof(struct qcow2_snapshot_header) == 40, "snapshot table entry");

/* Snapshot extra data, as far as it is present. */
struct qcow2_snapshot_extra {
	be64 vm_state_size_large;
	be64 disk_size;
	be64 icount;
};

#endif
