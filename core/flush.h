/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * flush: write-back in the order of I10, and nothing else orders metadata.
 */
#ifndef QCOW2FS_CORE_FLUSH_H
#define QCOW2FS_CORE_FLUSH_H

#include "core/writer.h"

/*
 * Everything that completed before the call is durable when it returns 0. Callers that
 * arrive while a round runs share the next one. After a failed barrier: its errno, always.
 */
int coroutine_fn flush_run(struct writer *writer);

/*
 * Header switches, with no round under way and what the new table relies on stored first. A
 * failure is final for the writer, because what the header says is then unknown. The
 * caller holds alloc_mutex for the refcount table, resize_lock for the other two.
 */
int coroutine_fn flush_switch_reftable(struct writer *writer, uint64_t table_off,
				       uint64_t nb_clusters);
int coroutine_fn flush_switch_l1(struct writer *writer, uint64_t l1_off, uint32_t l1_size);
int coroutine_fn flush_set_size(struct writer *writer, uint64_t size_bytes);
/* Several fields at once. The caller holds resize_lock for writing. */
int coroutine_fn flush_switch_header(struct writer *writer, const struct header_change *change);

#endif
