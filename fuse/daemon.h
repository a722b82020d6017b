/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * daemon: a server in the background whose start the caller can rely on.
 *
 * daemon_begin() forks at once, before any thread, ring or lock exists: the child does
 * all the work, the parent waits and ends with the status that the child reports.
 * Until then the child complains on the caller's standard error.
 */
#ifndef QCOW2FS_FUSE_DAEMON_H
#define QCOW2FS_FUSE_DAEMON_H

#include <stdbool.h>

struct daemon {
	int status_fd; /* to the waiting parent, -1: none */
	int ready_fd;  /* of --ready-fd, -1: none */
	const char *pidfile;
	bool has_pidfile; /* it has been written */
};

/* Returns in the child (or, in the foreground, in the only process). 0 or -errno. */
int daemon_begin(struct daemon *daemon, bool foreground, int ready_fd, const char *pidfile);
/*
 * Everything works: writes the pid file, lets the parent go, tells --ready-fd and the
 * service manager. Standard streams go to /dev/null in the background. 0 or -errno.
 */
int daemon_ready(struct daemon *daemon);
/* Ends with `status`, after telling the parent if it still waits. */
void daemon_end(struct daemon *daemon, int status) __attribute__((noreturn));

/* One message of the sd_notify protocol, such as "READY=1"; nothing without a manager. */
void daemon_notify(const char *message);

#endif
