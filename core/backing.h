/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * backing: the files that an image refers to: its backing chain and its external
 * data file. Names inside images are plain paths; whether one may be followed is the
 * opener's decision.
 */
#ifndef QCOW2FS_CORE_BACKING_H
#define QCOW2FS_CORE_BACKING_H

#include "core/internal.h"

#define CHAIN_DEPTH_MAX 16u

/* What opening one layer needs to know of the whole. */
struct chain {
	struct opener *opener;
	const struct image_options *options;
	struct image *top; /* layers opened so far, NULL while the first one is being opened */
	unsigned depth;
};

/*
 * Opens the external data file of `image` (the options may name that of the top layer). 0 or
 * -errno.
 */
int coroutine_fn backing_open_data_file(struct image *image, const struct chain *chain,
					bool writable, struct error **reterr);
/* The same for an image without one: the user may not name it either. 0 or -errno. */
int backing_refuse_data_file(const struct chain *chain, struct error **reterr);

/*
 * Opens the layer below `image` alone; *ret_layer is NULL where there is none. A raw file to be
 * written is no layer, but *ret_raw. 0 or -errno.
 */
int coroutine_fn backing_open_below(const struct image *image, struct chain *chain, bool writable,
				    struct image **ret_layer, struct file **ret_raw,
				    struct error **reterr);

/* Opens everything below `image`, layer by layer. 0 or -errno; what was opened stays linked. */
int coroutine_fn backing_open_chain(struct image *image, struct chain *chain,
				    struct error **reterr);

/* Is `name` a plain path: no protocol or json: prefix, no control bytes? */
bool backing_name_is_plain(const char *name);

#endif
