/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * layer: one file of a chain as a struct image, without what lies below it.
 */
#ifndef QCOW2FS_CORE_LAYER_H
#define QCOW2FS_CORE_LAYER_H

#include "core/backing.h"

/*
 * Both take over `file`, which is closed on failure. layer_open() reads and
 * validates the header and snapshot table and opens the external data file, which one that
 * was `probed` may not have.
 * 0 or -errno with *reterr.
 */
int coroutine_fn layer_open(struct file *file, const struct chain *chain, bool writable,
			    bool probed, struct image **ret_layer, struct error **reterr);
int layer_create_raw(struct file *file, struct image **ret_layer, struct error **reterr);

/* Frees one layer and closes its files; `backing` is left alone. NULL is allowed. */
void layer_free(struct image *layer);

#endif
