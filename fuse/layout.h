/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * layout: which names a mount shows for which images.
 */
#ifndef QCOW2FS_FUSE_LAYOUT_H
#define QCOW2FS_FUSE_LAYOUT_H

#include "fuse/options.h"
#include "fuse/tree.h"

struct layout {
	const struct options *options;
	struct image **images; /* one for each image argument */
	bool single_file;      /* the mount point is a regular file */
	struct reactor *reactor;
	/* for -o snapshots: how to open a view; both outlive the tree */
	struct opener *opener;
	const struct image_options *image_options;
};

/* Builds the tree, which layout_finish() frees in either case. Returns the exit status; complaints
 * have been logged. */
enum exit_status layout_build(const struct layout *layout, struct tree *ret_tree);

/* Frees the tree and its views. */
void layout_finish(struct tree *tree);

#endif
