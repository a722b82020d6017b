/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * refcount: reading and changing refcounts of all widths ("Host cluster management")
 * in cached slices of refcount blocks. Callers hold alloc_mutex.
 */
#ifndef QCOW2FS_CORE_REFCOUNT_H
#define QCOW2FS_CORE_REFCOUNT_H

#include "core/writer.h"

/* The entry `index` of a block, or piece of one, of the given width. */
uint64_t refcount_decode(const uint8_t *block, uint64_t index, unsigned order);
void refcount_encode(uint8_t *block, uint64_t index, unsigned order, uint64_t value);

/*
 * The pinned slice that holds the refcount of `cluster`, and the index of its first
 * entry's cluster. *ret_slice is NULL where no refcount block exists (refcount 0).
 * -EIO for an invalid refcount table entry.
 */
int coroutine_fn refcount_get_slice(struct writer *writer, uint64_t cluster,
				    struct slice **ret_slice, uint64_t *ret_first);

/* Refcount entries per slice. */
uint64_t refcount_per_slice(const struct writer *writer);

/* 0 or -errno. */
int coroutine_fn refcount_get(struct writer *writer, uint64_t cluster, uint64_t *ret_value);
/* Sets refcounts of a run within existing refcount blocks. 0 or -errno. */
int coroutine_fn refcount_set_run(struct writer *writer, uint64_t first, uint64_t nb,
				  uint64_t value);
/* Lowers one refcount by one and tells the new value. -EIO when it is 0 already. */
int coroutine_fn refcount_drop(struct writer *writer, uint64_t cluster, uint64_t *ret_value);

/* The refcount table's entry: offset of the block, 0 for none. */
int coroutine_fn refcount_table_get(struct writer *writer, uint64_t index, uint64_t *ret_block_off);
int coroutine_fn refcount_table_set(struct writer *writer, uint64_t index, uint64_t block_off);
uint64_t refcount_table_entries(const struct writer *writer);

#endif
