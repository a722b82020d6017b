/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * options: the command line of qcow2fs, as typed by a person or passed by mount(8).
 *
 * Parsing touches nothing but its arguments (and looks whether a file named like
 * an image argument exists, to tell NAME=IMAGE from a path with an equals sign),
 * so that it can be tested as it is. Everything that the page "mount options"
 * of mount(8) says applies to -o: words are separated by commas, a backslash
 * takes the next character literally, and the last word about one thing wins.
 */
#ifndef QCOW2FS_FUSE_OPTIONS_H
#define QCOW2FS_FUSE_OPTIONS_H

#include "io/error.h"
#include "io/opener.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The exit status: documented in the manual page and stable. */
enum exit_status {
	EXIT_OK = 0,
	EXIT_USAGE = 1,
	EXIT_SYSTEM = 2,
	EXIT_MOUNT = 32,
	EXIT_OPEN = 33,
	EXIT_UNSUPPORTED = 34,
	EXIT_LOCKED = 35,
	EXIT_CORRUPT = 36,
	EXIT_BACKING = 37,
	EXIT_WRITE_BACK = 38,
	EXIT_BUSY = 39,
};

enum options_action {
	ACTION_MOUNT,
	ACTION_UNMOUNT,
	ACTION_HELP,
	ACTION_VERSION,
	ACTION_NOTHING, /* mount(8) asked for a dry run */
};

enum access_wish {
	ACCESS_AUTO, /* writable where that is possible */
	ACCESS_READ_ONLY,
	ACCESS_WRITABLE, /* or not at all */
};

enum cache_mode {
	CACHE_AUTO,      /* the page cache for all opens without O_DIRECT, written through */
	CACHE_NONE,      /* direct I/O for every open */
	CACHE_WRITEBACK, /* dirty pages may stay in the kernel */
};

enum transport_wish {
	WISH_AUTO,
	WISH_DEV,
	WISH_URING, /* or not at all */
};

#define OPTIONS_THREADS_MAX 64u
#define OPTIONS_IMAGES_MAX 256u

struct image_argument {
	char *name; /* of the raw file without ".raw", NULL: made from the path */
	char *path;
};

struct options {
	enum options_action action;
	struct image_argument *images;
	unsigned nb_images;
	char *mountpoint;

	bool foreground, debug, quiet, verbose;
	enum access_wish access;
	bool force_share;
	char *pidfile, *log_file;
	int ready_fd; /* -1: none */

	/* image */
	char *snapshot, *backing_file, *data_file;
	bool overlay;
	char *overlay_file; /* NULL: a throw-away one */
	enum names_policy names;

	/* view */
	char *name; /* of the raw file of a single image, NULL: disk.raw */
	bool snapshots, partitions;
	bool has_uid, has_gid, has_umask;
	uid_t uid;
	gid_t gid;
	mode_t umask;
	bool discard_keeps_space, grow, shrink;

	/* life */
	unsigned idle_timeout_s; /* 0: never */
	bool allow_other, allow_root, default_permissions, auto_unmount;
	bool no_sandbox;

	/* speed */
	unsigned nb_threads; /* 0: the default */
	uint64_t l2_cache_bytes;
	enum cache_mode cache;
	char *engine; /* "auto", "uring", "threads" */
	enum transport_wish transport;

	/* for the kernel and libfuse: comma-separated, escaped, may be NULL */
	char *kernel_words;
	bool sync; /* the kernel's MS_SYNCHRONOUS */
	bool has_fsname, has_subtype;
	unsigned max_read_bytes; /* 0: not given */

	/* --unmount */
	bool lazy;
	int unmount_timeout_s; /* -1: not given */
};

/*
 * Parses argv into *ret_options, which options_finish() frees in either case.
 * Returns 0, or -EINVAL (-ENOMEM) with *ret_message set to a line that says what is wrong;
 * the caller frees it.
 */
int options_parse(struct options *ret_options, int argc, char **argv, char **ret_message);
void options_finish(struct options *options);

/* The text of --help. */
const char *options_help(void);

/* The exit status that an error of this class has when it prevents a mount. */
enum exit_status options_status_of(enum error_class error_class);

#endif
