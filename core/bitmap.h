/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * bitmap: persistent dirty bitmaps ("Bitmaps extension", "Bitmap directory"), which this
 * writer does not maintain.
 */
#ifndef QCOW2FS_CORE_BITMAP_H
#define QCOW2FS_CORE_BITMAP_H

#include "core/internal.h"

/*
 * Sets the in_use flag of every bitmap, durably: they stay in the image and are known to be
 * out of date, instead of all being thrown away. 0 or -errno; -EIO for a damaged directory.
 */
int coroutine_fn bitmap_mark_in_use(struct image *image);

/* Have all bitmaps' tables the length that a disk of that size asks for? 0 or -errno. */
int coroutine_fn bitmap_fit(struct image *image, uint64_t size_bytes, bool *ret_fit);

#endif
