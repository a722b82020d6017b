/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * view: an internal snapshot as a read-only file, opened when somebody opens the file
 * and closed with its last handle, so that an image may have thousands of them.
 *
 * Everything but view_create() and view_destroy() belongs to the reactor.
 */
#ifndef QCOW2FS_FUSE_VIEW_H
#define QCOW2FS_FUSE_VIEW_H

#include "core/image.h"
#include "io/co_sync.h"

struct view;

/*
 * A view of snapshot `id` of the image at `path` (absolute); `options` and `opener` stay
 * the caller's and must outlive it. NULL: out of memory.
 */
struct view *view_create(struct opener *opener, const char *path, const char *id,
			 const struct image_options *options);
/* No user is left. NULL is allowed. */
void view_destroy(struct view *view);

/* Opens the image for the first user. 0 or -errno, which has been logged. */
int coroutine_fn view_acquire(struct view *view);
void coroutine_fn view_release(struct view *view);
/* At the end of the mount: closes what a lost RELEASE left open. */
void coroutine_fn view_close(struct view *view);
/* NULL while there is no user. */
struct image *view_image(const struct view *view);

#endif
