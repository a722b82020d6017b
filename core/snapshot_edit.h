/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * snapshot_edit: making, applying and deleting internal snapshots, and emptying an image.
 *
 * Each is one switch of the header: before it, everything new is durable with its
 * refcounts; after it, what is not needed any more is let go. In between refcounts and
 * COPIED flags disagree for a while, so version 3 images are marked dirty meanwhile: after a
 * crash whoever opens one for writing brings them together.
 *
 * Version 2 has no such mark, and no order of steps makes up for it: a flag and a refcount
 * lie in different sectors. After a crash a check finds leaks, and flags that are out of date
 * but harmless: one that is set too early or too late is on a cluster that nobody else refers
 * to, because the header is switched when all flags of shared clusters are durably cleared, and
 * flags are set after everything that referred to the cluster has durably gone.
 *
 * Thread model: coroutines of the image's reactor; other requests wait meanwhile. Each
 * returns 0 or -errno with *reterr.
 */
#ifndef QCOW2FS_CORE_SNAPSHOT_EDIT_H
#define QCOW2FS_CORE_SNAPSHOT_EDIT_H

#include "core/image.h"

/* Records the active state under `name` (1 to 65,535 bytes), taken at the given time. */
int coroutine_fn snapshot_create(struct image *image, const char *name, uint32_t date_sec,
				 uint32_t date_nsec, struct error **reterr);
/* The active state becomes that of the snapshot, its size included. */
int coroutine_fn snapshot_apply(struct image *image, const char *id_or_name, struct error **reterr);
/* By its name alone: an id may be another one's name. */
int coroutine_fn snapshot_delete(struct image *image, const char *name, struct error **reterr);

/* No cluster is allocated in the active state any more: it shows its backing file. */
int coroutine_fn snapshot_make_empty(struct image *image, struct error **reterr);

#endif
