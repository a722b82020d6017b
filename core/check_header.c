/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * check_header: the header and the header extensions, as far as the check needs
 * them. What is refused here, an open would refuse too; whatever an open can live
 * with is left to the walk, which counts it.
 */
#include "core/check_int.h"

#include <errno.h>
#include <inttypes.h>

#define HEADER_AHEAD_BYTES 4096u
#define OPEN_ERROR(reterr, ...) error_set(reterr, ERROR_OPEN, EINVAL, __VA_ARGS__)

/* A table whose size and offset can be right. */
static int table_check(const struct check_header *header, uint64_t off, uint64_t nb,
		       uint64_t entry_bytes, uint64_t max_bytes, const char *what,
		       struct error **reterr)
{
	if (nb > max_bytes / entry_bytes)
		return OPEN_ERROR(reterr, "%s is too large", what);
	if (off & (header->cluster_size - 1) || off > INT64_MAX - nb * entry_bytes)
		return OPEN_ERROR(reterr, "%s has an invalid offset", what);
	return 0;
}

static int features_load(struct check_header *header, const struct qcow2_header *raw,
			 uint32_t header_bytes, struct error **reterr)
{
	uint64_t unknown = header->incompatible & ~INCOMPAT_KNOWN;
	unsigned type = header_bytes > offsetof(struct qcow2_header, compression_type)
				? raw->compression_type
				: COMPRESSION_ZLIB;

	if (unknown)
		return error_set(reterr, ERROR_UNSUPPORTED, ENOTSUP,
				 "unsupported feature (incompatible bit %d)",
				 __builtin_ctzll(unknown));
	if (type > COMPRESSION_ZSTD)
		return error_set(reterr, ERROR_UNSUPPORTED, ENOTSUP, "unknown compression type %u",
				 type);
	if ((type != COMPRESSION_ZLIB) != !!(header->incompatible & INCOMPAT_COMPRESSION))
		return OPEN_ERROR(reterr, "compression type and its feature bit disagree");
	header->extended_l2 = header->incompatible & INCOMPAT_EXTENDED_L2;
	header->has_data_file = header->incompatible & INCOMPAT_DATA_FILE;
	header->l2_entry_bytes = header->extended_l2 ? L2_EXT_ENTRY_BYTES : L2_ENTRY_BYTES;
	if (header->autoclear & AUTOCLEAR_DATA_FILE_RAW && !header->has_data_file)
		return OPEN_ERROR(reterr, "raw external data without a data file");
	if (header->extended_l2 && header->cluster_bits < EXTENDED_L2_CLUSTER_BITS_MIN)
		return OPEN_ERROR(reterr, "clusters are too small for extended L2 entries");
	return 0;
}

/* The fields of version 3, or what stands for them in version 2. */
static int version_load(struct check_header *header, const struct qcow2_header *raw,
			uint32_t *ret_header_bytes, struct error **reterr)
{
	*ret_header_bytes = QCOW2_V2_HEADER_BYTES;
	header->refcount_order = 4;
	if (header->version == 3) {
		*ret_header_bytes = be32_get(&raw->header_length);
		header->refcount_order = be32_get(&raw->refcount_order);
		header->incompatible = be64_get(&raw->incompatible_features);
		header->autoclear = be64_get(&raw->autoclear_features);
		if (*ret_header_bytes < QCOW2_V3_HEADER_BYTES_MIN)
			return OPEN_ERROR(reterr, "header is too short");
	}
	if (*ret_header_bytes > header->cluster_size)
		return OPEN_ERROR(reterr, "header is longer than a cluster");
	if (header->refcount_order > REFCOUNT_ORDER_MAX)
		return OPEN_ERROR(reterr, "refcounts are wider than 64 bits");
	header->block_bits = header->cluster_bits + 3 - header->refcount_order;
	header->refcount_max = UINT64_MAX >> (64 - (1u << header->refcount_order));
	return features_load(header, raw, *ret_header_bytes, reterr);
}

/* How many entries the active L1 table needs for the virtual size. */
static uint64_t l1_needed(const struct check_header *header)
{
	unsigned l2_bits = header->cluster_bits - (header->extended_l2 ? 4 : 3);
	unsigned shift = header->cluster_bits + l2_bits;

	return (header->virtual_size >> shift) + !!(header->virtual_size & ((1ull << shift) - 1));
}

static int tables_load(struct check_header *header, const struct qcow2_header *raw,
		       struct error **reterr)
{
	int err;

	header->virtual_size = be64_get(&raw->size);
	header->l1_off = be64_get(&raw->l1_table_offset);
	header->nb_l1 = be32_get(&raw->l1_size);
	header->reftable_off = be64_get(&raw->refcount_table_offset);
	header->reftable_clusters = be32_get(&raw->refcount_table_clusters);
	header->snapshots_off = be64_get(&raw->snapshots_offset);
	header->nb_snapshots = be32_get(&raw->nb_snapshots);
	err = table_check(header, header->reftable_off, header->reftable_clusters,
			  header->cluster_size, REFTABLE_BYTES_MAX, "refcount table", reterr);
	if (err)
		return err;
	err = table_check(header, header->l1_off, header->nb_l1, sizeof(be64), L1_BYTES_MAX,
			  "active L1 table", reterr);
	if (err)
		return err;
	if (header->nb_l1 < l1_needed(header))
		return OPEN_ERROR(reterr, "L1 table is too small for the virtual size");
	return 0;
}

static int bitmaps_load(struct check_header *header, const uint8_t *data, uint32_t len_bytes,
			struct error **reterr)
{
	const struct qcow2_bitmap_ext *ext = (const void *)data;

	if (len_bytes != sizeof(*ext))
		return OPEN_ERROR(reterr, "bitmaps extension of %" PRIu32 " bytes", len_bytes);
	/* Without the bit the bitmaps are stale, and their clusters leaked. */
	if (!(header->autoclear & AUTOCLEAR_BITMAPS))
		return 0;
	header->nb_bitmaps = be32_get(&ext->nb_bitmaps);
	header->bitmap_dir_off = be64_get(&ext->bitmap_directory_offset);
	header->bitmap_dir_bytes = be64_get(&ext->bitmap_directory_size);
	if (be32_get(&ext->reserved) || !header->nb_bitmaps || header->nb_bitmaps > BITMAPS_MAX)
		return OPEN_ERROR(reterr, "bitmaps extension is invalid");
	return table_check(header, header->bitmap_dir_off, header->bitmap_dir_bytes, 1,
			   BITMAP_DIR_BYTES_MAX, "bitmap directory", reterr);
}

static int crypto_load(struct check_header *header, const uint8_t *data, uint32_t len_bytes,
		       uint32_t crypt_method, struct error **reterr)
{
	const struct qcow2_crypto_ext *ext = (const void *)data;

	if (crypt_method != CRYPT_LUKS || len_bytes != sizeof(*ext))
		return OPEN_ERROR(reterr, "encryption header extension is invalid");
	header->crypto_off = be64_get(&ext->offset);
	header->crypto_bytes = be64_get(&ext->length);
	return table_check(header, header->crypto_off, header->crypto_bytes, 1, INT64_MAX,
			   "encryption header", reterr);
}

static int coroutine_fn extensions_load(struct check *check, uint64_t off, uint64_t end,
					uint32_t crypt_method, struct error **reterr)
{
	struct check_header *header = &check->header;
	int err = 0;

	while (!err && off < end) {
		const uint8_t *data;
		uint32_t type, len_bytes;

		err = check_source_get(check, &check->source, off, 32, HEADER_AHEAD_BYTES,
				       IO_TAG_HEADER, &data);
		if (err)
			return error_set(reterr, ERROR_SYSTEM, -err, "cannot read the header");
		type = be32_get(data);
		len_bytes = be32_get(data + 4);
		off += sizeof(struct qcow2_ext_header);
		data += sizeof(struct qcow2_ext_header);
		if (off > end || len_bytes > end - off)
			return OPEN_ERROR(reterr, "header extension is too long");
		if (type == EXT_END)
			return 0;
		if (type == EXT_BITMAPS)
			err = bitmaps_load(header, data, len_bytes, reterr);
		else if (type == EXT_CRYPTO)
			err = crypto_load(header, data, len_bytes, crypt_method, reterr);
		off += round_up(len_bytes, 8);
	}
	return err;
}

int coroutine_fn check_header_load(struct check *check, struct error **reterr)
{
	struct check_header *header = &check->header;
	struct qcow2_header raw;
	const uint8_t *data;
	uint64_t backing_off;
	uint32_t header_bytes, crypt_method;
	int err = check_source_get(check, &check->source, 0, sizeof(raw), HEADER_AHEAD_BYTES,
				   IO_TAG_HEADER, &data);

	if (err)
		return error_set(reterr, ERROR_SYSTEM, -err, "cannot read the header");
	memcpy(&raw, data, sizeof(raw));
	*header = (struct check_header){.version = be32_get(&raw.version),
					.cluster_bits = be32_get(&raw.cluster_bits)};
	if (be32_get(&raw.magic) != QCOW2_MAGIC)
		return OPEN_ERROR(reterr, "not a qcow2 image");
	if (header->version != 2 && header->version != 3)
		return error_set(reterr, ERROR_UNSUPPORTED, ENOTSUP, "unsupported qcow2 version %u",
				 header->version);
	if (header->cluster_bits < CLUSTER_BITS_MIN || header->cluster_bits > CLUSTER_BITS_MAX)
		return OPEN_ERROR(reterr, "unsupported cluster size: 2^%u", header->cluster_bits);
	header->cluster_size = 1u << header->cluster_bits;
	crypt_method = be32_get(&raw.crypt_method);
	if (crypt_method > CRYPT_LUKS)
		return error_set(reterr, ERROR_UNSUPPORTED, ENOTSUP,
				 "unsupported encryption method %" PRIu32, crypt_method);
	err = version_load(header, &raw, &header_bytes, reterr);
	if (err)
		return err;
	err = tables_load(header, &raw, reterr);
	if (err)
		return err;
	backing_off = be64_get(&raw.backing_file_offset);
	if (backing_off > header->cluster_size)
		return OPEN_ERROR(reterr, "backing file name has an invalid offset");
	if (backing_off && be32_get(&raw.backing_file_size) >
				   min_u64(BACKING_NAME_MAX, header->cluster_size - backing_off))
		return OPEN_ERROR(reterr, "backing file name is too long");
	err = extensions_load(check, header_bytes, backing_off ? backing_off : header->cluster_size,
			      crypt_method, reterr);
	if (!err && crypt_method == CRYPT_LUKS && !header->crypto_bytes)
		return OPEN_ERROR(reterr, "encryption header is missing");
	return err;
}
