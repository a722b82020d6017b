/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * create: see create.h.
 */
#include "core/create.h"

#include "core/checked.h"
#include "core/format.h"
#include "core/refcount.h"
#include "io/buf.h"

#include <errno.h>
#include <stdlib.h>

#define STEP_BYTES (1u << 20)

/* Where everything goes, in clusters from the start of the file. */
struct layout {
	uint64_t size_bytes; /* of the disk */
	unsigned cluster_bits, refcount_order, l2_bits;
	uint64_t reftable, nb_reftable;
	uint64_t refblocks, nb_refblocks;
	uint64_t l1, nb_l1; /* clusters */
	uint32_t l1_size;   /* entries */
	uint64_t l2, nb_l2;
	uint64_t data, nb_data;
	uint64_t end;
};

struct formatter {
	struct file *file, *data_file;
	const struct create_params *params;
	struct layout layout;
	uint8_t *buf; /* STEP_BYTES */
};

static const struct {
	uint8_t type, bit;
	const char *name;
} feature_names[] = {
	{0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
	{0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
	{2, 0, "bitmaps"},          {2, 1, "raw external data"},
};
#define NB_FEATURE_NAMES (sizeof(feature_names) / sizeof(feature_names[0]))

/* ---- which combinations are legal ---- */

static int refuse(struct error **reterr, const char *why)
{
	return error_set(reterr, ERROR_OPEN, EINVAL, "%s", why);
}

static int check_version(const struct create_params *p, struct error **reterr)
{
	if (p->version != 2 && p->version != 3)
		return refuse(reterr, "the version must be 2 (compat=0.10) or 3 (compat=1.1)");
	if (p->version == 3)
		return 0;
	if (p->refcount_order != 4)
		return refuse(reterr, "refcount_bits other than 16 need compat=1.1");
	if (p->lazy_refcounts)
		return refuse(reterr, "lazy_refcounts need compat=1.1");
	if (p->extended_l2)
		return refuse(reterr, "extended_l2 needs compat=1.1");
	if (p->zstd)
		return refuse(reterr, "compression_type=zstd needs compat=1.1");
	if (p->data_name)
		return refuse(reterr, "data_file needs compat=1.1");
	return 0;
}

static int check_names(const struct create_params *p, struct error **reterr)
{
	if (p->backing_name && (!*p->backing_name || strlen(p->backing_name) > BACKING_NAME_MAX))
		return refuse(reterr, "the backing file's name is empty or too long");
	if (p->backing_format && strlen(p->backing_format) > 15)
		return refuse(reterr, "the backing file's format is too long");
	if (p->data_name && (!*p->data_name || strlen(p->data_name) > BACKING_NAME_MAX))
		return refuse(reterr, "the data file's name is empty or too long");
	if (p->backing_format && !p->backing_name)
		return refuse(reterr, "a backing format needs a backing file");
	if (p->data_raw && !p->data_name)
		return refuse(reterr, "data_file_raw needs data_file");
	if (p->data_raw && p->backing_name)
		return refuse(reterr, "data_file_raw excludes a backing file");
	return 0;
}

int create_check_params(const struct create_params *p, struct error **reterr)
{
	int ret;

	if (p->cluster_bits < CLUSTER_BITS_MIN || p->cluster_bits > CLUSTER_BITS_MAX)
		return refuse(reterr, "cluster_size must be a power of two from 512 to 2M");
	if (p->refcount_order > REFCOUNT_ORDER_MAX)
		return refuse(reterr, "refcount_bits must be a power of two from 1 to 64");
	if (p->extended_l2 && p->cluster_bits < EXTENDED_L2_CLUSTER_BITS_MIN)
		return refuse(reterr, "extended_l2 needs a cluster_size of 16k or more");
#ifdef NO_ZSTD
	if (p->zstd)
		return refuse(reterr, "compression_type=zstd: built without libzstd");
#endif
	ret = check_version(p, reterr);
	if (!ret)
		ret = check_names(p, reterr);
	/* Only subclusters can be allocated and still show the backing file. */
	if (!ret && p->backing_name && p->preallocation != PREALLOC_OFF && !p->extended_l2)
		return refuse(reterr, "preallocation above a backing file needs extended_l2=on");
	return ret;
}

/* ---- layout ---- */

static int plan_layout(const struct create_params *p, struct layout *l, struct error **reterr)
{
	unsigned entry_bits = p->extended_l2 ? 4 : 3;
	uint64_t size = 1ull << p->cluster_bits, before, l1_entries;
	bool tables = p->preallocation != PREALLOC_OFF || p->data_raw;

	if (p->virtual_size > INT64_MAX - (2ull << CLUSTER_BITS_MAX))
		return refuse(reterr, "the size is too large");
	*l = (struct layout){
		.size_bytes = round_up(p->virtual_size, 512),
		.cluster_bits = p->cluster_bits,
		.refcount_order = p->refcount_order,
		.l2_bits = p->cluster_bits - entry_bits,
		.nb_reftable = 1,
		.nb_refblocks = 1,
	};
	l1_entries = div_up(l->size_bytes, 1ull << (l->cluster_bits + l->l2_bits));
	if (l1_entries > L1_BYTES_MAX / 8)
		return refuse(reterr, "the size is too large for this cluster_size");
	l->l1_size = l1_entries;
	l->nb_l1 = div_up(l1_entries * 8, size);
	if (tables)
		l->nb_l2 = l1_entries;
	if (tables && !p->data_name)
		l->nb_data = div_up(l->size_bytes, size);
	do {
		before = l->end;
		l->reftable = 1;
		l->refblocks = l->reftable + l->nb_reftable;
		l->l1 = l->refblocks + l->nb_refblocks;
		l->l2 = l->l1 + l->nb_l1;
		l->data = l->l2 + l->nb_l2;
		l->end = l->data + l->nb_data;
		l->nb_refblocks = div_up(l->end, size * 8 >> l->refcount_order);
		l->nb_reftable = div_up(l->nb_refblocks * 8, size);
	} while (l->end != before);
	if (l->nb_reftable * size > REFTABLE_BYTES_MAX || l->end > HOST_OFF_MAX >> l->cluster_bits)
		return refuse(reterr, "too large to be preallocated with this cluster_size");
	return 0;
}

/* ---- tables ---- */

/* What entry `index` of a table says; `priv` is the caller's. */
typedef uint64_t entry_fn(const struct formatter *f, uint64_t index);

/* Writes nb_entries of 64 bits at `cluster`, then zeros up to the end of its last cluster. */
static int coroutine_fn write_table(struct formatter *f, uint64_t cluster, uint64_t nb_entries,
				    entry_fn *entry, enum io_tag tag)
{
	uint64_t bytes = round_up(nb_entries * 8, 1ull << f->layout.cluster_bits);
	uint64_t host_off = cluster << f->layout.cluster_bits;
	int ret = 0;

	for (uint64_t done = 0; done < bytes && !ret; done += STEP_BYTES) {
		uint64_t n = min_u64(bytes - done, STEP_BYTES);

		for (uint64_t i = 0; i < n / 8; i++) {
			uint64_t index = done / 8 + i;

			be64_put(f->buf + i * 8, index < nb_entries ? entry(f, index) : 0);
		}
		ret = file_write(f->file, host_off + done, f->buf, n, tag);
	}
	return ret;
}

static uint64_t reftable_entry(const struct formatter *f, uint64_t index)
{
	return (f->layout.refblocks + index) << f->layout.cluster_bits;
}

static uint64_t l1_entry(const struct formatter *f, uint64_t index)
{
	if (!f->layout.nb_l2)
		return 0;
	return ((f->layout.l2 + index) << f->layout.cluster_bits) | ENTRY_COPIED;
}

/* `index` counts 64-bit words through all L2 tables. */
static uint64_t l2_word(const struct formatter *f, uint64_t index)
{
	const struct layout *l = &f->layout;
	uint64_t cluster = f->params->extended_l2 ? index / 2 : index;

	if (f->params->extended_l2 && index % 2)
		return 0; /* allocated subclusters: none; they read as zeros or show the backing */
	if (cluster << l->cluster_bits >= l->size_bytes)
		return 0;
	if (f->params->data_name)
		return (cluster << l->cluster_bits) | ENTRY_COPIED;
	return ((l->data + cluster) << l->cluster_bits) | ENTRY_COPIED;
}

static int coroutine_fn write_refblocks(struct formatter *f)
{
	const struct layout *l = &f->layout;
	uint64_t size = 1ull << l->cluster_bits, per_block = size * 8 >> l->refcount_order;
	uint8_t *block = calloc(1, size);
	int ret = block ? 0 : -ENOMEM;

	/* All blocks but the last are full of ones. */
	for (uint64_t i = 0; i < l->nb_refblocks && !ret; i++) {
		uint64_t nb = min_u64(l->end - i * per_block, per_block);

		if (i == 0 || nb < per_block) {
			memset(block, 0, size);
			for (uint64_t c = 0; c < nb; c++)
				refcount_encode(block, c, l->refcount_order, 1);
		}
		ret = file_write(f->file, (l->refblocks + i) << l->cluster_bits, block, size,
				 IO_TAG_REFBLOCK);
	}
	free(block);
	return ret;
}

static int coroutine_fn write_tables(struct formatter *f)
{
	const struct layout *l = &f->layout;
	/* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): >= 9 */
	uint64_t nb_words = l->nb_l2 << (l->cluster_bits - 3);
	int ret = write_table(f, l->reftable, l->nb_refblocks, reftable_entry, IO_TAG_REFTABLE);

	if (!ret)
		ret = write_refblocks(f);
	if (!ret)
		ret = write_table(f, l->l1, l->l1_size, l1_entry, IO_TAG_L1);
	if (!ret && nb_words)
		ret = write_table(f, l->l2, nb_words, l2_word, IO_TAG_L2);
	return ret;
}

/* ---- data ---- */

static int coroutine_fn write_zeros_to(struct formatter *f, struct file *file, uint64_t host_off,
				       uint64_t len_bytes)
{
	int ret = 0;

	memset(f->buf, 0, STEP_BYTES);
	while (len_bytes && !ret) {
		uint64_t n = min_u64(len_bytes, STEP_BYTES);

		ret = file_write(file, host_off, f->buf, n, IO_TAG_DATA);
		host_off += n;
		len_bytes -= n;
	}
	return ret;
}

/* Gives the file its length, and its data area what the preallocation asks for. */
static int coroutine_fn prepare_data(struct formatter *f)
{
	const struct layout *l = &f->layout;
	struct file *file = f->data_file ? f->data_file : f->file;
	uint64_t start = f->data_file ? 0 : l->data << l->cluster_bits;
	uint64_t len_bytes = f->data_file ? l->size_bytes : l->nb_data << l->cluster_bits;
	int ret = 0;

	if (file->is_block_device && start + len_bytes > file->size_bytes)
		return -ENOSPC;
	if (!file->is_block_device)
		ret = file_truncate(file, start + len_bytes);
	if (ret || !len_bytes)
		return ret;
	switch (f->params->preallocation) {
	case PREALLOC_FULL:
		return write_zeros_to(f, file, start, len_bytes);
	case PREALLOC_FALLOC:
		ret = file_allocate(file, start, len_bytes);
		break;
	default:
		break;
	}
	/* What a device holds would be shown, where entries point to it. */
	if (!ret && file->is_block_device && l->nb_l2)
		ret = file_zero(file, start, len_bytes, IO_TAG_DATA);
	return ret;
}

/* ---- header ---- */

static size_t put_extension(uint8_t *cluster, size_t off, uint32_t type, const void *data,
			    size_t len_bytes)
{
	be32_put(cluster + off, type);
	be32_put(cluster + off + 4, len_bytes);
	memcpy(cluster + off + 8, data, len_bytes);
	return off + 8 + round_up(len_bytes, 8);
}

static size_t put_feature_names(uint8_t *cluster, size_t off)
{
	uint8_t table[NB_FEATURE_NAMES * FEATURE_NAME_ENTRY_BYTES] = {0};

	for (size_t i = 0; i < NB_FEATURE_NAMES; i++) {
		uint8_t *entry = table + i * FEATURE_NAME_ENTRY_BYTES;

		entry[0] = feature_names[i].type;
		entry[1] = feature_names[i].bit;
		memcpy(entry + 2, feature_names[i].name, strlen(feature_names[i].name));
	}
	return put_extension(cluster, off, EXT_FEATURE_NAMES, table, sizeof(table));
}

static void fill_header(const struct formatter *f, struct qcow2_header *h)
{
	const struct create_params *p = f->params;
	const struct layout *l = &f->layout;
	uint64_t incompatible = 0;

	be32_put(&h->magic, QCOW2_MAGIC);
	be32_put(&h->version, p->version);
	be32_put(&h->cluster_bits, l->cluster_bits);
	be64_put(&h->size, l->size_bytes);
	be32_put(&h->l1_size, l->l1_size);
	be64_put(&h->l1_table_offset, l->nb_l1 ? l->l1 << l->cluster_bits : 0);
	be64_put(&h->refcount_table_offset, l->reftable << l->cluster_bits);
	be32_put(&h->refcount_table_clusters, l->nb_reftable);
	if (p->version < 3)
		return;
	incompatible |= p->data_name ? INCOMPAT_DATA_FILE : 0;
	incompatible |= p->zstd ? INCOMPAT_COMPRESSION : 0;
	incompatible |= p->extended_l2 ? INCOMPAT_EXTENDED_L2 : 0;
	be64_put(&h->incompatible_features, incompatible);
	be64_put(&h->compatible_features, p->lazy_refcounts ? COMPAT_LAZY_REFCOUNTS : 0);
	be64_put(&h->autoclear_features, p->data_raw ? AUTOCLEAR_DATA_FILE_RAW : 0);
	be32_put(&h->refcount_order, l->refcount_order);
	be32_put(&h->header_length, sizeof(*h));
	h->compression_type = p->zstd ? COMPRESSION_ZSTD : COMPRESSION_ZLIB;
}

/* The whole first cluster: header, extensions, name of the backing file. 0 or -ENOSPC. */
static int compose_header(const struct formatter *f, uint8_t *cluster)
{
	const struct create_params *p = f->params;
	struct qcow2_header *h = (struct qcow2_header *)cluster;
	size_t size = 1ull << p->cluster_bits;
	size_t off = p->version >= 3 ? sizeof(*h) : QCOW2_V2_HEADER_BYTES;
	size_t name_bytes = p->backing_name ? strlen(p->backing_name) : 0;
	size_t data_bytes = p->data_name ? strlen(p->data_name) : 0;
	size_t needed = off + 8 + name_bytes;

	needed += p->backing_format ? 8 + round_up(strlen(p->backing_format), 8) : 0;
	needed += data_bytes ? 8 + round_up(data_bytes, 8) : 0;
	if (needed > size)
		return -ENOSPC;
	fill_header(f, h);
	if (p->backing_format)
		off = put_extension(cluster, off, EXT_BACKING_FORMAT, p->backing_format,
				    strlen(p->backing_format));
	if (data_bytes)
		off = put_extension(cluster, off, EXT_DATA_FILE, p->data_name, data_bytes);
	/* The names of features are a courtesy: left out where clusters are tiny. */
	needed += 8 + NB_FEATURE_NAMES * FEATURE_NAME_ENTRY_BYTES;
	if (p->version >= 3 && needed <= size)
		off = put_feature_names(cluster, off);
	off += 8; /* the end of extensions is zeros */
	if (name_bytes) {
		be64_put(&h->backing_file_offset, off);
		be32_put(&h->backing_file_size, name_bytes);
		memcpy(cluster + off, p->backing_name, name_bytes);
	}
	return 0;
}

static int coroutine_fn write_header(struct formatter *f)
{
	size_t size = 1ull << f->layout.cluster_bits;
	uint8_t *cluster = calloc(1, size);
	int ret = cluster ? compose_header(f, cluster) : -ENOMEM;

	if (!ret && size > HEADER_SECTOR_BYTES)
		ret = file_write(f->file, HEADER_SECTOR_BYTES, cluster + HEADER_SECTOR_BYTES,
				 size - HEADER_SECTOR_BYTES, IO_TAG_HEADER);
	if (!ret && f->data_file)
		ret = file_flush(f->data_file);
	if (!ret)
		ret = file_flush(f->file); /* I2: everything is there before it is an image */
	if (!ret)
		ret = file_write(f->file, 0, cluster, HEADER_SECTOR_BYTES, IO_TAG_HEADER);
	if (!ret)
		ret = file_flush(f->file);
	free(cluster);
	return ret;
}

/* What was an image before is none any more, durably, when its tables are overwritten. */
static int coroutine_fn erase(struct file *file, uint64_t header_bytes)
{
	int ret;

	if (!file->size_bytes)
		return 0;
	ret = file->is_block_device ? file_zero(file, 0, header_bytes, IO_TAG_HEADER)
				    : file_truncate(file, 0);
	return ret ? ret : file_flush(file);
}

int coroutine_fn create_format(struct file *file, struct file *data_file,
			       const struct create_params *params, struct error **reterr)
{
	struct formatter f = {.file = file, .data_file = data_file, .params = params};
	int ret = create_check_params(params, reterr);

	if (!ret)
		ret = plan_layout(params, &f.layout, reterr);
	if (ret)
		return ret;
	f.buf = buf_get(STEP_BYTES);
	ret = f.buf ? erase(file, 1ull << params->cluster_bits) : -ENOMEM;
	if (!ret && data_file && !data_file->is_block_device)
		ret = file_truncate(data_file, 0);
	if (!ret)
		ret = prepare_data(&f);
	if (!ret)
		ret = write_tables(&f);
	if (!ret)
		ret = write_header(&f);
	buf_put(f.buf, STEP_BYTES);
	if (ret == -ENOSPC && f.buf)
		return error_set(reterr, ERROR_SYSTEM, ENOSPC, "cannot format the image: %s",
				 "no space left, or names too long for the cluster_size");
	if (ret)
		return error_set(reterr, ERROR_SYSTEM, -ret, "cannot format the image: %s",
				 strerror(-ret));
	return 0;
}
