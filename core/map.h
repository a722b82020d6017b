/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * map: from guest offsets to host offsets, through L1 and L2 tables ("Cluster
 * mapping"), in one layer and through the whole chain.
 *
 * Every entry is checked when it is used: reserved bits, alignment, bounds. A
 * damaged entry gives -EIO for the requests that need it and for no others.
 */
#ifndef QCOW2FS_CORE_MAP_H
#define QCOW2FS_CORE_MAP_H

#include "core/internal.h"

enum extent_kind {
	EXTENT_UNALLOCATED, /* ask the backing file; zeros without one */
	EXTENT_ZERO,
	EXTENT_DATA,
	EXTENT_COMPRESSED, /* exactly the rest of one cluster */
};

/* Part of one layer. All of it is of one kind and contiguous in the host file. */
struct extent {
	struct image *layer;
	enum extent_kind kind;
	uint64_t guest_off, len_bytes;
	/*
	 * DATA: where guest_off is in the data file. ZERO and UNALLOCATED: where it would be
	 * when has_host_off. COMPRESSED: the whole descriptor (see compress.h).
	 */
	uint64_t host_off;
	bool has_host_off;
	bool copied; /* all clusters have COPIED set: may be written in place */
};

/*
 * The extent of `image` at guest_off, at most max_bytes (> 0) long; it ends at the latest
 * at the end of the L2 slice. guest_off + max_bytes <= virtual_size. 0 or -errno.
 */
int coroutine_fn map_layer(struct image *image, uint64_t guest_off, uint64_t max_bytes,
			   struct extent *ret_extent);

/*
 * The same through the chain: goes down while a layer has nothing. UNALLOCATED in
 * the result means that no layer has it. *ret_depth, if not NULL, gets the number of
 * layers descended.
 */
int coroutine_fn map_chain(struct image *image, uint64_t guest_off, uint64_t max_bytes,
			   struct extent *ret_extent, unsigned *ret_depth);

/*
 * The same where all tables that it needs are loaded: it does not wait. Else -EAGAIN. [reactor]
 */
int map_chain_loaded(struct image *image, uint64_t guest_off, uint64_t max_bytes,
		     struct extent *ret_extent);

/* L1 entries that a disk of that size needs. 0, or -EFBIG for more than a table may have. */
int map_l1_entries(const struct image *image, uint64_t size_bytes, uint64_t *ret_nb);

/* Where the L1 entry / L2 entry for guest_off stands. */
static inline uint64_t map_l1_index(const struct image *image, uint64_t guest_off)
{
	return guest_off >> (image->cluster_bits + image->l2_bits);
}
static inline uint64_t map_l2_index(const struct image *image, uint64_t guest_off)
{
	return guest_off >> image->cluster_bits & ((1ull << image->l2_bits) - 1);
}

/*
 * Reads the L1 entry for guest_off: its table's offset in *ret_l2_off (0: none) and its
 * COPIED flag. -EIO for an invalid entry.
 */
int coroutine_fn map_read_l1(struct image *image, uint64_t guest_off, uint64_t *ret_l2_off,
			     bool *ret_copied);

/* What one L2 entry (and bitmap, 0 without extended L2) says of one subcluster. */
struct l2_meaning {
	enum extent_kind kind;
	bool has_host_off;
	bool copied;
	uint64_t host_off; /* of the cluster; COMPRESSED: descriptor */
};
/* `subcluster` is 0 without extended L2. guest_off is the cluster's. 0 or -EIO. */
int map_decode_l2(const struct image *image, uint64_t guest_off, uint64_t entry, uint64_t bitmap,
		  unsigned subcluster, struct l2_meaning *ret);

#endif
