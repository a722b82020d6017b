/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * release: what happens to clusters after their last pointer is durably gone: wait
 * for I/O that may still use them, give host space back, lower refcounts, reuse.
 */
#ifndef QCOW2FS_CORE_RELEASE_H
#define QCOW2FS_CORE_RELEASE_H

#include "core/writer.h"

/* A flush has made the removals in *unlinked durable; takes the list over. */
void release_begin(struct writer *writer, struct run_list *unlinked);
/* A flush failed: the list goes back to writer->unlinked. */
void release_put_back(struct writer *writer, struct run_list *unlinked);

#endif
