/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * tree: whole L1 trees, of the active state or of a snapshot: counting them in, letting
 * them go, and keeping their COPIED flags true.
 *
 * Callers hold resize_lock for writing, and the file is up to date (tree_settle()): trees
 * are read from the file. An image with an external data file has no trees of its own data.
 */
#ifndef QCOW2FS_CORE_TREE_H
#define QCOW2FS_CORE_TREE_H

#include "core/writer.h"

/* Writes back until nothing is dirty and nothing waits to be released. 0 or -errno. */
int coroutine_fn tree_settle(struct writer *writer);

/*
 * Adds one reference to everything that the tree refers to, or nothing. -ERANGE when a refcount is
 * as large as its width allows; -EIO for a damaged tree.
 */
int coroutine_fn tree_add_references(struct writer *writer, uint64_t l1_off, uint32_t l1_size);
/* Takes them back; nothing points there on their account. */
void coroutine_fn tree_drop_references(struct writer *writer, uint64_t l1_off, uint32_t l1_size);

/*
 * The header does not point to this L1 table any more, durably: what the tree refers to, and
 * the table itself, are released by the flushes to come (I4, I5). 0 or -errno.
 */
int coroutine_fn tree_unlink(struct writer *writer, uint64_t l1_off, uint32_t l1_size);

/* Makes every COPIED flag of the active tree say whether the refcount is 1 (I7). 0 or -errno. */
int coroutine_fn tree_update_copied(struct writer *writer);

/*
 * Writes an L1 table of l1_size entries into fresh clusters: the old_size entries at old_off,
 * whose COPIED flags stay if kept_flags has them, then zeros. A table without entries is nowhere,
 * at 0. 0 or -errno.
 */
int coroutine_fn tree_copy_l1(struct writer *writer, uint64_t old_off, uint32_t old_size,
			      uint32_t l1_size, uint64_t kept_flags, uint64_t *ret_new_off);

/* Clusters that a table of so many bytes takes. */
static inline uint64_t tree_table_clusters(const struct image *image, uint64_t bytes)
{
	return div_up(bytes, cluster_size(image));
}

/* The tables that the header points to have changed: the owner map is built anew. 0 or -errno. */
int coroutine_fn tree_rebuild_owners(struct writer *writer);

/*
 * Switches the active state to the L1 table at l1_off, lets the old one go, and brings the
 * flags up to date. A failure after the switch leaves leaks. 0 or -errno.
 */
int coroutine_fn tree_replace_active(struct writer *writer, uint64_t l1_off, uint32_t l1_size,
				     uint64_t size_bytes);

#endif
