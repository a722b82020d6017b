/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * header: the qcow2 header and its extensions, parsed and bounded, and the only
 * place that writes header fields. Fields are patched in place, inside one 512-byte
 * sector per update, so that unknown fields and extensions survive untouched.
 */
#ifndef QCOW2FS_CORE_HEADER_H
#define QCOW2FS_CORE_HEADER_H

#include "core/format.h"
#include "io/file.h"

#define HEADER_SECTOR_BYTES 512u

/* Host-endian copy of the header. Offsets and sizes have passed header_read()'s bounds. */
struct header {
	unsigned version;
	unsigned cluster_bits;
	unsigned refcount_order;
	unsigned compression_type;
	uint32_t header_length;
	uint64_t size;    /* virtual size in bytes, any value */
	uint32_t l1_size; /* entries */
	uint64_t l1_table_offset;
	uint64_t refcount_table_offset;
	uint32_t refcount_table_clusters;
	uint32_t nb_snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible_features;
	uint64_t compatible_features;
	uint64_t autoclear_features;

	char *backing_name;   /* NULL: none */
	char *backing_format; /* NULL: not recorded */
	char *data_name;      /* external data file, NULL: not recorded */
	bool has_bitmaps;     /* the extension is there and its autoclear bit is set */
	uint32_t nb_bitmaps;
	uint64_t bitmap_directory_offset;
	uint64_t bitmap_directory_size;

	uint8_t sector[HEADER_SECTOR_BYTES]; /* as it stands in the file */
};

/*
 * Reads and validates the header: "Header", "Header extensions", "Feature name table".
 * On failure nothing is held. Returns 0 or -errno with *reterr.
 */
int coroutine_fn header_read(struct file *file, struct header *ret_header, struct error **reterr);

/* Frees the strings. */
void header_finish(struct header *header);

/*
 * Each writes the changed field(s) in one sector write and flushes the file before
 * and after (I2): what the field points to is durable first, the field before the
 * caller goes on. On failure the fields in *header are unchanged. 0 or -errno.
 */
int coroutine_fn header_switch_l1(struct file *file, struct header *header,
				  uint64_t l1_table_offset, uint32_t l1_size);
int coroutine_fn header_switch_reftable(struct file *file, struct header *header,
					uint64_t refcount_table_offset,
					uint32_t refcount_table_clusters);
int coroutine_fn header_set_size(struct file *file, struct header *header, uint64_t size_bytes);
/* Several fields that change together. */
struct header_change {
	uint64_t size;
	uint64_t l1_table_offset;
	uint32_t l1_size;
	uint32_t nb_snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible_features; /* ignored in version 2 */
};
/* What changes nothing: to be filled in. */
struct header_change header_change_none(const struct header *header);
int coroutine_fn header_switch(struct file *file, struct header *header,
			       const struct header_change *change);
int coroutine_fn header_set_features(struct file *file, struct header *header,
				     uint64_t incompatible, uint64_t autoclear);

#endif
