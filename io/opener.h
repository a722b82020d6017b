/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * opener: how the core gets the files whose names stand inside an image.
 *
 * The core checks that a name is a plain path; the opener decides whether that
 * path may be reached and opens it, once and before the server starts serving.
 * The host's opener applies the policy of `-o backing=`; the simulated disk
 * brings an opener of its own.
 */
#ifndef QCOW2FS_IO_OPENER_H
#define QCOW2FS_IO_OPENER_H

#include "io/file.h"

enum opener_role {
	OPENER_IMAGE,   /* named by the user on the command line: always allowed */
	OPENER_BACKING, /* named inside `holder`: policy applies */
	OPENER_DATA,    /* external data file named inside `holder`: beside or beneath it only */
};

struct opener {
	/*
	 * Opens `path`; a relative one is taken from the directory of `holder` (NULL:
	 * the working directory). Takes the lock bytes that `lock` says. Class of
	 * failure: ERROR_BACKING for BACKING and DATA (ERROR_LOCKED when locked).
	 * Returns 0 or -errno. May yield, and outside of coroutines block.
	 */
	int coroutine_fn (*open)(struct opener *opener, enum opener_role role,
				 const struct file *holder, const char *path, bool writable,
				 enum file_lock lock, struct file **ret_file,
				 struct error **reterr);
};

enum names_policy {
	NAMES_AUTO,    /* the caller's own image: any; somebody else's: beneath */
	NAMES_ANY,     /* follow every plain path */
	NAMES_BENEATH, /* only beneath the directory of the image that holds the name */
	NAMES_NONE,    /* follow nothing */
};

struct kept;

struct host_opener {
	struct opener opener;
	struct reactor *reactor;
	enum names_policy policy;
	bool no_direct;
	bool keeps; /* what is opened may be opened again after host_opener_seal() */
	bool sealed;
	struct kept *kept; /* newest first */
};
void host_opener_init(struct host_opener *host, struct reactor *reactor, enum names_policy policy,
		      bool no_direct);
/*
 * From now on only those files can be opened that were opened before, for reading, and without
 * their names: a confined process has no file system. Nothing where it does not keep them.
 */
void host_opener_seal(struct host_opener *host);
void host_opener_finish(struct host_opener *host);

#endif
