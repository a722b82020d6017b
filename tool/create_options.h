/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * create_options: `-o` of create and convert, and making the file that they describe.
 */
#ifndef QCOW2FS_TOOL_CREATE_OPTIONS_H
#define QCOW2FS_TOOL_CREATE_OPTIONS_H

#include "core/create.h"
#include "tool/disk.h"

struct create_options {
	struct create_params params;
	bool raw; /* the target's format */
	bool has_size;
	bool unsafe; /* -u: do not look at the backing file */
};

#define CREATE_OPTIONS_DEFAULTS            \
	{                                  \
		.params = CREATE_DEFAULTS, \
	}

/* Takes the words of one -o; the list is changed. Reports. Returns the exit status. */
int create_options_parse(struct tool *tool, struct create_options *options, char *list);

/*
 * Makes the file at `path`, and its data file, as the options say. Reports. Returns the
 * exit status.
 */
int coroutine_fn create_options_run(struct tool *tool, const struct create_options *options,
				    const char *path);

/*
 * Refuses to make `path`, or its data file, of a file that the disk, which is open for reading
 * as `what`, is made of. Reports. Returns the exit status.
 */
int create_options_check_disk(const struct create_options *options, const char *path,
			      const struct disk *disk, const char *what);

/*
 * Looks at the backing file: is it there, has it the format that will be recorded, and is it
 * another file than those that will be made? Fills in the size where none was given. Reports.
 * Returns the exit status.
 */
int coroutine_fn create_options_check_backing(struct tool *tool, struct create_options *options,
					      const char *path);

#endif
