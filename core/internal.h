/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * internal: struct image, shared by the files of core/ and by nobody else.
 *
 * An image is one layer of a chain. A raw backing file is a layer too (`raw`): its
 * mapping is the identity. Layers below the top are only read.
 *
 * Lock order, outermost first: resize_lock (readers: I/O; writer: resize, close) →
 * in-flight guest range (alloc.h) → alloc_mutex → slice pin.
 */
#ifndef QCOW2FS_CORE_INTERNAL_H
#define QCOW2FS_CORE_INTERNAL_H

#include "core/cache.h"
#include "core/checked.h"
#include "core/compress.h"
#include "core/header.h"
#include "core/image.h"
#include "core/published.h"
#include "core/read_ahead.h"
#include "core/snapshot.h"

struct writer;

/*
 * I/O on host clusters under way, in order of arrival: rule I6. A freed cluster is
 * reused only after everything that may have looked it up before has ended.
 */
struct io_record {
	struct io_record *prev, *next;
	uint64_t seq;
};

struct image {
	struct image_info info;
	char *path;
	struct file *file;
	struct file *data_file; /* where guest data is: `file`, or the external data file */
	struct image *backing;  /* next layer, NULL at the end of the chain */
	bool raw;
	bool probed; /* nobody recorded its format: it may refer to no further file */

	struct header header;
	struct published published; /* of the chain's top */
	unsigned cluster_bits;
	unsigned l2_bits;        /* log2 of entries per L2 table */
	unsigned l2_entry_bytes; /* 8, or 16 with extended L2 */
	unsigned subcluster_bits;
	uint64_t virtual_size;    /* of the active state or of the snapshot shown */
	uint64_t l1_table_offset; /* likewise */
	uint32_t l1_size;

	struct cache l2_cache; /* L1 and L2 slices */
	struct inflate_cache inflate;
	struct read_ahead ahead; /* of the chain's top */
	struct snapshot_list snapshots;
	struct writer *writer; /* NULL: read-only */

	struct co_rwlock resize_lock;
	enum { PREALLOCATED_UNKNOWN, PREALLOCATED_NO, PREALLOCATED_YES } preallocated;

	struct io_record io_active; /* ring head: next is the oldest */
	uint64_t io_seq;
	struct co_queue io_waiters;

	struct image_stats stats;
};

static inline uint64_t cluster_size(const struct image *image)
{
	return 1ull << image->cluster_bits;
}

/* Is guest data in an external data file, each cluster at its own place there? */
static inline bool has_data_file(const struct image *image)
{
	return image->data_file != image->file;
}

/* And does that file read as the disk without any tables? */
static inline bool has_raw_data_file(const struct image *image)
{
	return has_data_file(image) && image->header.autoclear_features & AUTOCLEAR_DATA_FILE_RAW;
}

/* Between io_begin() and io_end() host clusters found by a look-up are not reused. */
void io_begin(struct image *image, struct io_record *record);
void io_end(struct image *image, struct io_record *record);
/* Waits until all that began before now have ended. Not between io_begin() and io_end(). */
void coroutine_fn io_wait_for_earlier(struct image *image);

#endif
