/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * bitmap: persistent dirty bitmaps ("Bitmaps extension", "Bitmap directory"), which this
 * writer does not maintain.
 */
#ifndef QCOW2FS_CORE_BITMAP_H
#define QCOW2FS_CORE_BITMAP_H

#include "core/writer.h"

/*
 * Sets the in_use flag of every bitmap, durably: they stay in the image and are known to be
 * out of date, instead of all being thrown away. 0 or -errno; -EIO for a damaged directory.
 */
int coroutine_fn bitmap_mark_in_use(struct image *image);

/*
 * Of a disk that grows nothing is out of date, but a bitmap's table has one length for each size of
 * the disk. Those that are too short become longer where they are; until the disk has its new size
 * the in_use flag says that they do not fit. Between the two calls nothing else happens to the
 * image; without the second one the bitmaps stay out of date.
 */
struct bitmap_growth {
	uint64_t disk_bytes; /* the new size */
	bool possible;       /* all tables have room in their clusters */
	bool *grown;         /* which bitmaps have the flag from here, or NULL: none */
};
/* 0 or -errno. growth->possible tells whether anything was done. */
int coroutine_fn bitmap_begin_growth(struct writer *writer, uint64_t disk_bytes,
				     struct bitmap_growth *growth);
/* The new size is durable (`done`), or there will be none. Frees what the first call has made. */
int coroutine_fn bitmap_end_growth(struct writer *writer, struct bitmap_growth *growth, bool done);

#endif
