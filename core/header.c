/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * header: reading, validating and patching the header cluster.
 *
 * Every number that comes from the file is bounded here once; the places that use
 * it rely on those bounds (l1_size, table offsets, cluster_bits) and check again only
 * what lies behind them in the file. Messages name the cause for a person.
 */
#include "core/header.h"

#include "core/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

static int bad(struct error **reterr, const char *what)
{
	return error_set(reterr, ERROR_OPEN, EINVAL, "damaged header: %s", what);
}

static void parse_fields(struct header *h, const struct qcow2_header *raw)
{
	h->version = be32toh(raw->version);
	h->cluster_bits = be32toh(raw->cluster_bits);
	h->size = be64toh(raw->size);
	h->l1_size = be32toh(raw->l1_size);
	h->l1_table_offset = be64toh(raw->l1_table_offset);
	h->refcount_table_offset = be64toh(raw->refcount_table_offset);
	h->refcount_table_clusters = be32toh(raw->refcount_table_clusters);
	h->nb_snapshots = be32toh(raw->nb_snapshots);
	h->snapshots_offset = be64toh(raw->snapshots_offset);
	if (h->version == 2) {
		h->refcount_order = 4;
		h->header_length = QCOW2_V2_HEADER_BYTES;
		return;
	}
	h->incompatible_features = be64toh(raw->incompatible_features);
	h->compatible_features = be64toh(raw->compatible_features);
	h->autoclear_features = be64toh(raw->autoclear_features);
	h->refcount_order = be32toh(raw->refcount_order);
	h->header_length = be32toh(raw->header_length);
	if (h->header_length > offsetof(struct qcow2_header, compression_type))
		h->compression_type = raw->compression_type;
}

/* A table of `bytes` at `offset`: aligned to clusters, and its end within 2^63. */
static bool table_ok(const struct header *h, uint64_t offset, uint64_t bytes)
{
	uint64_t end;

	return !(offset & ((1ull << h->cluster_bits) - 1)) && !checked_add(offset, bytes, &end) &&
	       end <= INT64_MAX;
}

static int check_bounds(const struct header *h, struct error **reterr)
{
	uint64_t cluster_size = 1ull << h->cluster_bits;
	uint64_t l1_bytes = (uint64_t)h->l1_size * 8;
	uint64_t reftable_bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;

	if (h->version == 3 && (h->header_length < QCOW2_V3_HEADER_BYTES_MIN ||
				h->header_length > cluster_size || h->header_length % 8))
		return bad(reterr, "header_length is out of range");
	if (h->refcount_order > REFCOUNT_ORDER_MAX)
		return bad(reterr, "refcount_order is larger than 6");
	if (h->size > INT64_MAX - cluster_size)
		return bad(reterr, "the virtual size is too large");
	if (l1_bytes > L1_BYTES_MAX)
		return bad(reterr, "the L1 table is larger than 32 MiB");
	if (!table_ok(h, h->l1_table_offset, l1_bytes))
		return bad(reterr, "the L1 table's offset is invalid");
	if (!h->refcount_table_clusters)
		return bad(reterr, "the refcount table is empty");
	if (reftable_bytes > REFTABLE_BYTES_MAX)
		return bad(reterr, "the refcount table is larger than 8 MiB");
	if (!h->refcount_table_offset || !table_ok(h, h->refcount_table_offset, reftable_bytes))
		return bad(reterr, "the refcount table's offset is invalid");
	if (h->nb_snapshots > SNAPSHOTS_MAX)
		return bad(reterr, "more than 65536 snapshots");
	if (!table_ok(h, h->snapshots_offset, h->nb_snapshots ? SNAPSHOT_TABLE_BYTES_MAX : 0))
		return bad(reterr, "the snapshot table's offset is invalid");
	return 0;
}

/* Is the L1 table large enough for the virtual size? "L1 table: l1_size". */
static int check_l1_covers(const struct header *h, struct error **reterr)
{
	unsigned entry_bits = h->incompatible_features & INCOMPAT_EXTENDED_L2 ? 4 : 3;
	unsigned l2_span_bits = h->cluster_bits + (h->cluster_bits - entry_bits);
	uint64_t needed =
		l2_span_bits >= 63 ? 1 : (h->size + (1ull << l2_span_bits) - 1) >> l2_span_bits;

	if (needed > L1_BYTES_MAX / 8)
		return bad(reterr, "the virtual size is too large for this cluster size");
	if (h->l1_size < needed)
		return bad(reterr, "the L1 table is too small for the virtual size");
	return 0;
}

/* Names an unknown incompatible bit with the help of the feature name table. */
static int refuse_feature(const uint8_t *names, size_t names_bytes, unsigned bit,
			  struct error **reterr)
{
	for (size_t off = 0; off + FEATURE_NAME_ENTRY_BYTES <= names_bytes;
	     off += FEATURE_NAME_ENTRY_BYTES) {
		const uint8_t *entry = names + off;
		char name[47];

		if (entry[0] != 0 || entry[1] != bit)
			continue;
		memcpy(name, entry + 2, 46);
		name[46] = 0;
		for (char *c = name; *c; c++)
			if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
				*c = '?';
		return error_set(reterr, ERROR_UNSUPPORTED, ENOTSUP,
				 "unsupported feature \"%s\" (incompatible bit %u)", name, bit);
	}
	return error_set(reterr, ERROR_UNSUPPORTED, ENOTSUP,
			 "unsupported feature (incompatible bit %u)", bit);
}

static int check_features(const struct header *h, const uint8_t *names, size_t names_bytes,
			  uint32_t crypt_method, struct error **reterr)
{
	uint64_t unknown = h->incompatible_features & ~INCOMPAT_KNOWN;
	bool compression_bit = h->incompatible_features & INCOMPAT_COMPRESSION;

	if (unknown)
		return refuse_feature(names, names_bytes, __builtin_ctzll(unknown), reterr);
	if (crypt_method > CRYPT_LUKS)
		return bad(reterr, "unknown encryption method");
	if (crypt_method)
		return error_set(
			reterr, ERROR_UNSUPPORTED, ENOTSUP,
			"unsupported feature \"encryption\" (%s); decrypt it with qemu-img convert",
			crypt_method == CRYPT_AES ? "AES-CBC" : "LUKS");
	if (compression_bit != (h->compression_type != COMPRESSION_ZLIB))
		return bad(reterr, "the compression type contradicts its feature bit");
	if (h->compression_type > COMPRESSION_ZSTD)
		return error_set(reterr, ERROR_UNSUPPORTED, ENOTSUP,
				 "unsupported feature \"compression type %u\"",
				 h->compression_type);
#ifdef NO_ZSTD
	if (h->compression_type == COMPRESSION_ZSTD)
		return error_set(reterr, ERROR_UNSUPPORTED, ENOTSUP,
				 "unsupported feature \"zstd compression\": built without libzstd");
#endif
	if (h->autoclear_features & AUTOCLEAR_DATA_FILE_RAW &&
	    !(h->incompatible_features & INCOMPAT_DATA_FILE))
		return bad(reterr, "raw external data without a data file");
	if (h->incompatible_features & INCOMPAT_EXTENDED_L2 &&
	    h->cluster_bits < EXTENDED_L2_CLUSTER_BITS_MIN)
		return bad(reterr, "extended L2 entries need clusters of 16 KiB or more");
	return 0;
}

/* A string of `len` bytes from the header cluster, refused when it holds a NUL. */
static int take_string(const uint8_t *bytes, size_t len, char **ret_string)
{
	char *string;

	if (memchr(bytes, 0, len))
		return -EINVAL;
	string = strndup((const char *)bytes, len);
	if (!string)
		return -ENOMEM;
	free(*ret_string);
	*ret_string = string;
	return 0;
}

static int parse_bitmaps_ext(struct header *h, const uint8_t *data, uint32_t len,
			     struct error **reterr)
{
	const struct qcow2_bitmap_ext *ext = (const void *)data;

	if (!(h->autoclear_features & AUTOCLEAR_BITMAPS))
		return 0; /* stale: a writer that does not know bitmaps has been here */
	if (len != sizeof(*ext))
		return bad(reterr, "the bitmaps extension has a wrong length");
	h->nb_bitmaps = be32_get(&ext->nb_bitmaps);
	h->bitmap_directory_size = be64_get(&ext->bitmap_directory_size);
	h->bitmap_directory_offset = be64_get(&ext->bitmap_directory_offset);
	if (!h->nb_bitmaps || h->nb_bitmaps > BITMAPS_MAX ||
	    h->bitmap_directory_size > BITMAP_DIR_BYTES_MAX ||
	    h->bitmap_directory_size <
		    (uint64_t)h->nb_bitmaps * sizeof(struct qcow2_bitmap_dir_entry) ||
	    !table_ok(h, h->bitmap_directory_offset, h->bitmap_directory_size))
		return bad(reterr, "the bitmaps extension is out of range");
	h->has_bitmaps = true;
	return 0;
}

/* "Header extensions". `end` bounds them: the backing file name, or the cluster. */
static int parse_extensions(struct header *h, const uint8_t *cluster, uint64_t end,
			    const uint8_t **ret_names, size_t *ret_names_bytes,
			    struct error **reterr)
{
	uint64_t off = h->header_length;

	while (end >= 8 && off <= end - 8) {
		uint32_t type = be32_get(cluster + off);
		uint32_t len = be32_get(cluster + off + 4);
		const uint8_t *data = cluster + off + 8;
		int ret = 0;

		off += 8;
		if (type == EXT_END)
			break;
		if (len > end - off)
			return bad(reterr, "a header extension is too long");
		switch (type) {
		case EXT_BACKING_FORMAT:
			ret = len < 16 ? take_string(data, len, &h->backing_format) : -EINVAL;
			break;
		case EXT_DATA_FILE:
			ret = len <= BACKING_NAME_MAX ? take_string(data, len, &h->data_name)
						      : -EINVAL;
			break;
		case EXT_FEATURE_NAMES:
			*ret_names = data;
			*ret_names_bytes = len;
			break;
		case EXT_BITMAPS:
			ret = parse_bitmaps_ext(h, data, len, reterr);
			if (ret)
				return ret;
			break;
		default:
			break; /* unknown extensions are kept as they are */
		}
		if (ret == -ENOMEM)
			return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
		if (ret)
			return bad(reterr, "a header extension holds an invalid name");
		off += ((uint64_t)len + 7) & ~7ull;
	}
	return 0;
}

/* Everything behind the fixed fields: extensions, backing file name, features. */
static int parse_cluster(struct header *h, const uint8_t *cluster, struct error **reterr)
{
	const struct qcow2_header *raw = (const void *)cluster;
	uint64_t cluster_size = 1ull << h->cluster_bits;
	uint64_t backing_off = be64toh(raw->backing_file_offset);
	uint32_t backing_bytes = be32toh(raw->backing_file_size);
	uint64_t end = cluster_size;
	const uint8_t *names = NULL;
	size_t names_bytes = 0;
	int ret;

	if (backing_off) {
		if (backing_bytes > BACKING_NAME_MAX || backing_off < h->header_length ||
		    backing_off > cluster_size || backing_bytes > cluster_size - backing_off)
			return bad(reterr, "the backing file name lies outside the first cluster");
		end = backing_off;
	}
	ret = parse_extensions(h, cluster, end, &names, &names_bytes, reterr);
	if (ret)
		return ret;
	ret = check_features(h, names, names_bytes, be32toh(raw->crypt_method), reterr);
	if (ret)
		return ret;
	if (backing_off && backing_bytes) {
		ret = take_string(cluster + backing_off, backing_bytes, &h->backing_name);
		if (ret == -ENOMEM)
			return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
		if (ret)
			return bad(reterr, "the backing file name holds a NUL byte");
	}
	return check_l1_covers(h, reterr);
}

/* Reads `bytes` of the first cluster into a new buffer. */
static int coroutine_fn read_start(struct file *file, size_t bytes, uint8_t **ret_buf,
				   struct error **reterr)
{
	uint8_t *buf = calloc(1, bytes);
	int ret;

	if (!buf)
		return error_set(reterr, ERROR_SYSTEM, ENOMEM, "out of memory");
	ret = file_read(file, 0, buf, bytes, IO_TAG_HEADER);
	if (ret) {
		free(buf);
		return error_set(reterr, ERROR_OPEN, -ret, "cannot read the header: %s",
				 strerror(-ret));
	}
	*ret_buf = buf;
	return 0;
}

int coroutine_fn header_read(struct file *file, struct header *ret_header, struct error **reterr)
{
	struct header h = {0};
	uint8_t *cluster = NULL;
	int ret;

	if (file->size_bytes < QCOW2_V2_HEADER_BYTES)
		return error_set(reterr, ERROR_OPEN, EINVAL,
				 "not a qcow2 image (the file is too short)");
	ret = read_start(file, HEADER_SECTOR_BYTES, &cluster, reterr);
	if (!cluster)
		return ret;
	memcpy(h.sector, cluster, HEADER_SECTOR_BYTES);
	free(cluster);
	cluster = NULL;

	if (be32_get(h.sector) != QCOW2_MAGIC)
		return error_set(reterr, ERROR_OPEN, EINVAL, "not a qcow2 image");
	parse_fields(&h, (const struct qcow2_header *)h.sector);
	if (h.version != 2 && h.version != 3)
		return error_set(reterr, ERROR_UNSUPPORTED, ENOTSUP, "unsupported qcow2 version %u",
				 h.version);
	if (h.cluster_bits < CLUSTER_BITS_MIN || h.cluster_bits > CLUSTER_BITS_MAX)
		return bad(reterr, "cluster_bits is not within 9 and 21");
	if (h.version == 3 && h.header_length < QCOW2_V3_HEADER_BYTES_MIN)
		return bad(reterr, "header_length is out of range");

	ret = check_bounds(&h, reterr);
	if (!ret)
		ret = read_start(file, 1ull << h.cluster_bits, &cluster, reterr);
	if (cluster)
		ret = parse_cluster(&h, cluster, reterr);
	free(cluster);
	if (ret) {
		header_finish(&h);
		return ret;
	}
	*ret_header = h;
	return 0;
}

void header_finish(struct header *header)
{
	free(header->backing_name);
	free(header->backing_format);
	free(header->data_name);
	header->backing_name = header->backing_format = header->data_name = NULL;
}

/* Writes the sector `next` between two flushes and adopts it. */
static int coroutine_fn write_sector(struct file *file, struct header *header, const uint8_t *next)
{
	int ret = file_flush(file); /* I2: what the new fields point to comes first */

	if (!ret)
		ret = file_write(file, 0, next, HEADER_SECTOR_BYTES, IO_TAG_HEADER);
	if (!ret)
		ret = file_flush(file); /* I2: nobody builds on the switch before it is durable */
	if (!ret)
		memcpy(header->sector, next, HEADER_SECTOR_BYTES);
	return ret;
}

int coroutine_fn header_switch_l1(struct file *file, struct header *header,
				  uint64_t l1_table_offset, uint32_t l1_size)
{
	uint8_t next[HEADER_SECTOR_BYTES];
	int ret;

	memcpy(next, header->sector, sizeof(next));
	be64_put(next + offsetof(struct qcow2_header, l1_table_offset), l1_table_offset);
	be32_put(next + offsetof(struct qcow2_header, l1_size), l1_size);
	ret = write_sector(file, header, next);
	if (!ret) {
		header->l1_table_offset = l1_table_offset;
		header->l1_size = l1_size;
	}
	return ret;
}

int coroutine_fn header_switch_reftable(struct file *file, struct header *header,
					uint64_t refcount_table_offset,
					uint32_t refcount_table_clusters)
{
	uint8_t next[HEADER_SECTOR_BYTES];
	int ret;

	memcpy(next, header->sector, sizeof(next));
	be64_put(next + offsetof(struct qcow2_header, refcount_table_offset),
		 refcount_table_offset);
	be32_put(next + offsetof(struct qcow2_header, refcount_table_clusters),
		 refcount_table_clusters);
	ret = write_sector(file, header, next);
	if (!ret) {
		header->refcount_table_offset = refcount_table_offset;
		header->refcount_table_clusters = refcount_table_clusters;
	}
	return ret;
}

int coroutine_fn header_set_size(struct file *file, struct header *header, uint64_t size_bytes)
{
	uint8_t next[HEADER_SECTOR_BYTES];
	int ret;

	memcpy(next, header->sector, sizeof(next));
	be64_put(next + offsetof(struct qcow2_header, size), size_bytes);
	ret = write_sector(file, header, next);
	if (!ret)
		header->size = size_bytes;
	return ret;
}

int coroutine_fn header_set_features(struct file *file, struct header *header,
				     uint64_t incompatible, uint64_t autoclear)
{
	uint8_t next[HEADER_SECTOR_BYTES];
	int ret;

	assert(header->version >= 3);
	memcpy(next, header->sector, sizeof(next));
	be64_put(next + offsetof(struct qcow2_header, incompatible_features), incompatible);
	be64_put(next + offsetof(struct qcow2_header, autoclear_features), autoclear);
	ret = write_sector(file, header, next);
	if (!ret) {
		header->incompatible_features = incompatible;
		header->autoclear_features = autoclear;
	}
	return ret;
}

struct header_change header_change_none(const struct header *header)
{
	return (struct header_change){
		.size = header->size,
		.l1_table_offset = header->l1_table_offset,
		.l1_size = header->l1_size,
		.nb_snapshots = header->nb_snapshots,
		.snapshots_offset = header->snapshots_offset,
		.incompatible_features = header->incompatible_features,
	};
}

int coroutine_fn header_switch(struct file *file, struct header *header,
			       const struct header_change *change)
{
	uint8_t next[HEADER_SECTOR_BYTES];
	struct qcow2_header *raw = (struct qcow2_header *)next;
	int ret;

	memcpy(next, header->sector, sizeof(next));
	be64_put(&raw->size, change->size);
	be64_put(&raw->l1_table_offset, change->l1_table_offset);
	be32_put(&raw->l1_size, change->l1_size);
	be32_put(&raw->nb_snapshots, change->nb_snapshots);
	be64_put(&raw->snapshots_offset, change->snapshots_offset);
	if (header->version >= 3)
		be64_put(&raw->incompatible_features, change->incompatible_features);
	ret = write_sector(file, header, next);
	if (ret)
		return ret;
	header->size = change->size;
	header->l1_table_offset = change->l1_table_offset;
	header->l1_size = change->l1_size;
	header->nb_snapshots = change->nb_snapshots;
	header->snapshots_offset = change->snapshots_offset;
	if (header->version >= 3)
		header->incompatible_features = change->incompatible_features;
	return 0;
}
