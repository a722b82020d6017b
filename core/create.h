/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * create: formatting a file as an empty qcow2 image.
 *
 * The whole layout follows from the parameters: header, refcount table, refcount
 * blocks, L1 table, L2 tables and data clusters (the last two only when preallocated)
 * lie one behind the other. Everything is written and flushed before the header is
 * (I2), so that a file whose formatting was interrupted is not an image.
 */
#ifndef QCOW2FS_CORE_CREATE_H
#define QCOW2FS_CORE_CREATE_H

#include "io/error.h"
#include "io/file.h"

#include <stdbool.h>
#include <stdint.h>

enum preallocation {
	PREALLOC_OFF,
	PREALLOC_METADATA, /* tables and offsets; the data area is a hole of the host file */
	PREALLOC_FALLOC,   /* the host reserves space as well */
	PREALLOC_FULL,     /* zeros are written */
};

struct create_params {
	uint64_t virtual_size; /* bytes; rounded up to 512 */
	unsigned version;      /* 2 or 3 */
	unsigned cluster_bits;
	unsigned refcount_order;
	bool extended_l2, lazy_refcounts, zstd;
	const char *backing_name;   /* NULL: none. Recorded, not looked at */
	const char *backing_format; /* NULL: not recorded */
	const char *data_name;      /* external data file, NULL: none */
	bool data_raw;              /* the data file is a raw image by itself at any time */
	enum preallocation preallocation;
};

/* Version 3, clusters of 64 KiB, 16-bit refcounts: what qemu-img takes by default. */
#define CREATE_DEFAULTS                                                \
	{                                                              \
		.version = 3, .cluster_bits = 16, .refcount_order = 4, \
	}

/* Is the combination legal? 0 or -errno with *reterr, whose message names the option. */
int create_check_params(const struct create_params *params, struct error **reterr);

/*
 * Formats `file`, and `data_file` when params->data_name is set (NULL otherwise); both
 * are open for writing, and lose what they held. 0 or -errno with *reterr.
 */
int coroutine_fn create_format(struct file *file, struct file *data_file,
			       const struct create_params *params, struct error **reterr);

#endif
