/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * table: L2 tables that may be written ("Cluster mapping").
 */
#ifndef QCOW2FS_CORE_TABLE_H
#define QCOW2FS_CORE_TABLE_H

#include "core/writer.h"

/*
 * Makes sure that guest_off has an L2 table of the active tree's own: creates it, or copies one
 * that a snapshot shares. *ret_l2_off is its offset. 0 or -errno.
 */
int coroutine_fn table_make_writable(struct writer *writer, uint64_t guest_off,
				     uint64_t *ret_l2_off);

/* One L2 entry, with its bitmap where the image has extended ones. */
struct l2_entry {
	uint64_t entry, bitmap;
};

/* Consecutive entries of one slice, pinned: to be read and changed without yielding. */
struct l2_window {
	struct slice *slice;
	uint8_t *first;
	uint64_t first_cluster; /* the guest's */
	unsigned nb;
};
/*
 * The entries from guest_off on, at most nb_max and at most to the slice's end, in the
 * table at l2_off. Release with table_close_window(). 0 or -errno.
 */
int coroutine_fn table_open_window(struct writer *writer, uint64_t l2_off, uint64_t guest_off,
				   uint64_t nb_max, struct l2_window *ret_window);
void table_close_window(struct writer *writer, struct l2_window *window);
struct l2_entry table_get_entry(const struct writer *writer, const struct l2_window *window,
				unsigned index);
/* Marks the slice dirty. */
void table_set_entry(struct writer *writer, struct l2_window *window, unsigned index,
		     struct l2_entry entry);

/*
 * What an entry held is not pointed to any more: its clusters go to writer->unlinked, where
 * room for one more run was reserved. To be called in the same step as table_set_entry().
 */
void table_unlink(struct writer *writer, struct l2_entry old);

#endif
