/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * published: where clusters of the disk lie in host files, for reads that are answered at once, by
 * the reactor (image_read_at_once()) or by threads beside it (image_read_beside()).
 *
 * The reactor publishes what its reads have found, and what is around it, one place in each slot,
 * and takes it back before the mapping changes. Who reads beside it copies the place, reads the
 * file, and looks whether the place was published all the time. Then the cluster was nobody else's
 * meanwhile: it is given to others after its entry has changed (I4, I5), and so after it was taken
 * back. Else what was read is thrown away: nothing has to wait for such a read.
 *
 * Invariants:
 *   P1  A slot is changed by the reactor alone. Its version is odd from before the change until
 *       after it, and never returns to an earlier value.
 *   P2  Before what a guest cluster maps to changes, its slot is taken back. L2 entries change in
 *       table_set_entry() alone, a whole tree in tree_replace_active(); a new L1 or L2 table says
 *       what the old one did, the layers below never change, and nobody else writes to the files
 *       (their locks).
 *   P3  A place is published only if nothing was taken back since the mapping was looked up, which
 *       may have waited; or at once, after a look that does not wait.
 *   P4  What was read counts if the slot's version was even and the same, before the place was
 *       copied and after the file was read.
 */
#ifndef QCOW2FS_CORE_PUBLISHED_H
#define QCOW2FS_CORE_PUBLISHED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct extent;
struct file;
struct image;

struct published_slot {
	_Atomic uint64_t version;
	_Atomic uint64_t cluster; /* the guest's, plus 1; 0: nothing is published here */
	_Atomic uint64_t host_off;
	_Atomic(struct file *) file;
};

struct published {
	struct published_slot *slots; /* NULL: nothing is published of this image */
	unsigned slot_bits;
	uint64_t nb_taken_back;
};

void published_finish(struct published *published);

/*
 * A read has found `extent`, a part of the disk of `image`, and began to look for it when
 * nb_taken_back was `since`. The clusters around it are published with it, as they are now, as far
 * as it is known without reading a table and no slot has another one. [reactor]
 */
void published_note(struct image *image, const struct extent *extent, uint64_t since);

/* The mapping of nb guest clusters from `first` on is about to change. [reactor] */
void published_take_back(struct image *image, uint64_t first, uint64_t nb);

#endif
