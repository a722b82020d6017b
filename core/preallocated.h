/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * preallocated: does a layer have many more clusters than its host file has space? Then
 * its tables were made in advance (preallocation=metadata), and holes of the host file
 * tell better than the tables where there is data.
 */
#ifndef QCOW2FS_CORE_PREALLOCATED_H
#define QCOW2FS_CORE_PREALLOCATED_H

#include "core/internal.h"

/*
 * Looks at the refcounts, once per layer, until there are enough of them to tell. What cannot be
 * read counts as no.
 */
bool coroutine_fn preallocated_is(struct image *layer);

#endif
