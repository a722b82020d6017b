/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * helper: a small process beside the server that does what the confined server cannot:
 * unmount (as a plain user that means running fusermount3), write and remove the pid file, look at
 * the mount, log to syslog. It does these things alone, with the names it was started with, and
 * ends with the server; if that died, and it is so wished, it unmounts.
 *
 * It is forked before there is any thread or image. helper_log() may be called by any
 * thread; the others by one.
 */
#ifndef QCOW2FS_FUSE_HELPER_H
#define QCOW2FS_FUSE_HELPER_H

#include <stdbool.h>
#include <stddef.h>

struct helper;

struct helper_params {
	const char *mountpoint; /* absolute, or NULL: somebody else mounts */
	const char *pidfile;    /* or NULL */
	bool auto_unmount;      /* when the server is gone, however it ended */
};

/* 0 or -errno. */
int helper_start(const struct helper_params *params, struct helper **ret_helper);

/* What lies at the mount point now is the mount; before anything is served. 0 or -errno. */
int helper_note_mount(struct helper *helper);
/*
 * Asks the file system that has just been mounted for its attributes: that answer shows that it
 * works. Raises its read-ahead where that is permitted. 0 or -errno.
 */
int helper_try_mount(struct helper *helper);
/* Writes the number of the process that started the helper into the pid file. 0 or -errno. */
int helper_settle(struct helper *helper);
/* 0 or -errno: -EBUSY when in use, and not `lazy`. */
int helper_detach(struct helper *helper, bool lazy);
/* To syslog; lost rather than waited for. `priority` as in syslog(3). [any thread] */
void helper_log(struct helper *helper, int priority, const char *line, size_t len);

/* Removes the pid file, waits until the process has ended. NULL is allowed. */
void helper_end(struct helper *helper);

#endif
