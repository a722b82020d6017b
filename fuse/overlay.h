/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * overlay: -o overlay: the image is only read, as a backing file, and what is written goes to
 * a qcow2 file above it: a throw-away one without a name, or one that is kept.
 *
 * A kept one records the image's name in such a way that other tools find it from the
 * overlay's own folder. One that exists is taken only where it records this very image.
 */
#ifndef QCOW2FS_FUSE_OVERLAY_H
#define QCOW2FS_FUSE_OVERLAY_H

#include "core/image.h"

struct overlay_params {
	struct opener *opener;
	struct reactor *reactor;
	const char *path; /* of the overlay, NULL: a throw-away one */
	const char *base_path;
	uint64_t l2_cache_bytes;
};

/*
 * Opens the overlay above `base`, which is open read-only and belongs to the new image; after a
 * failure to the caller. 0 or -errno with *reterr set, whose message names the file.
 */
int coroutine_fn overlay_open(const struct overlay_params *params, struct image *base,
			      struct image **ret_image, struct error **reterr);

/*
 * What an overlay at `path` records for the image at `base_path`: an absolute name as an absolute
 * one, a relative name as the way from the overlay's folder, links followed in both.
 * The caller frees it; NULL with errno.
 */
char *overlay_backing_name(const char *path, const char *base_path);

#endif
