/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * ahead: clusters whose refcounts are raised before anybody needs them.
 *
 * A guest that flushes after each few new clusters (a journal, a database) pays for every
 * flush what making clusters costs: a refcount block is written, and the host's file system
 * commits that the file has grown. While that goes on, the allocator takes a whole run at
 * once, and where the file grows on a disk the run is written with zeros. The flushes after
 * that find both done.
 *
 * Nothing points to a cluster of the run, so a crash leaks it at most; it is given back when no
 * cluster was needed for some seconds, and before the image is closed.
 */
#ifndef QCOW2FS_CORE_AHEAD_H
#define QCOW2FS_CORE_AHEAD_H

#include "core/writer.h"

/* The guest flushes: what it needed since the last time tells whether to take ahead. */
void ahead_note_flush(struct writer *writer);

/* ---- the caller holds alloc_mutex ---- */

/* How many clusters more to take than what is asked for. */
uint64_t ahead_wanted(const struct writer *writer);
/* Keeps [first, first + nb), whose refcounts are 1 in the cache. */
void coroutine_fn ahead_keep(struct writer *writer, uint64_t first, uint64_t nb);
/* Takes at least nb_min and at most nb_max clusters from what is kept, or returns 0. */
uint64_t ahead_take(struct writer *writer, uint64_t nb_min, uint64_t nb_max, uint64_t *ret_first);

/* ---- the caller does not hold it ---- */

/* Gives back what is kept. A failure leaks it. */
void coroutine_fn ahead_give_back(struct writer *writer);
/* The same, unless some of it was taken since the last call. Tells whether anything is kept. */
bool coroutine_fn ahead_look(struct writer *writer);

#endif
