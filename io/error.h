/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * error: why an open, mount, create or check failed, in words for a person.
 *
 * Only the slow paths that a user waits for carry an error object; everything
 * else returns -errno. The class decides the exit status of the programs.
 *
 * Ownership: a function that takes `struct error **reterr` stores a new object
 * there when (and only when) it fails; reterr may be NULL. The caller frees it
 * with error_free().
 */
#ifndef QCOW2FS_IO_ERROR_H
#define QCOW2FS_IO_ERROR_H

/* What kind of failure it is; the programs map it to their exit status. */
enum error_class {
	ERROR_SYSTEM,      /* out of memory, I/O error, a system call failed */
	ERROR_OPEN,        /* the image cannot be opened, or is not qcow2 */
	ERROR_UNSUPPORTED, /* a feature that this build does not implement */
	ERROR_LOCKED,      /* another process uses the image */
	ERROR_CORRUPT,     /* damaged, or marked corrupt and writing was asked for */
	ERROR_BACKING,     /* a backing or data file is missing or refused */
};

struct error {
	enum error_class class;
	int err;   /* positive errno value, 0 when none applies */
	char *msg; /* one line without a trailing newline, printable (io/text.h) */
};

/*
 * Stores a new error in *reterr (if reterr is not NULL) and returns -err, or
 * -EINVAL when err is 0. `err` is a positive errno value.
 */
int error_set(struct error **reterr, enum error_class class, int err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Puts "text: " before the message of *reterr, if there is one. */
void error_prefix(struct error **reterr, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Frees an error; NULL is allowed. */
void error_free(struct error *error);

#endif
