/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * daemon: a server in the background whose start the caller can rely on.
 *
 * daemon_begin() forks at once, before any thread, ring or lock exists: the child does
 * all the work, the parent waits and ends with the status that the child reports.
 * Until then the child complains on the caller's standard error.
 *
 * From daemon_ready() on nothing is opened: the server may be confined.
 */
#ifndef QCOW2FS_FUSE_DAEMON_H
#define QCOW2FS_FUSE_DAEMON_H

#include <stdbool.h>

struct helper;

struct daemon {
	int status_fd; /* to the waiting parent, -1: none */
	int ready_fd;  /* of --ready-fd, -1: none */
	int null_fd;   /* of /dev/null, in the background */
	int notify_fd; /* connected to the service manager, -1: none */
	const char *pidfile;
	struct helper *helper; /* from daemon_prepare() on */
};

/*
 * Returns in the child (or, in the foreground, in the only process). 0, or -errno after a
 * complaint.
 */
int daemon_begin(struct daemon *daemon, bool foreground, int ready_fd, const char *pidfile);
/*
 * Opens what daemon_ready() and daemon_end() will need, and starts the helper, while there
 * is no thread yet. The arguments as for helper_start(). 0 or -errno.
 */
int daemon_prepare(struct daemon *daemon, const char *mountpoint, bool auto_unmount);
/* Relative names are not needed any more. 0 or -errno. */
int daemon_leave_folder(const struct daemon *daemon);
/*
 * Everything works: writes the pid file, lets the parent go, tells --ready-fd and the
 * service manager. Standard streams go to /dev/null in the background. 0 or -errno: -ECANCELED
 * when the parent is gone.
 */
int daemon_ready(struct daemon *daemon);
/* Ends with `status`: removes the pid file, tells the parent if it still waits. */
void daemon_end(struct daemon *daemon, int status) __attribute__((noreturn));

/* One message of the sd_notify protocol, such as "READY=1"; nothing without a manager. */
void daemon_notify(const struct daemon *daemon, const char *message);

#endif
