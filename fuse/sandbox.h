/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * sandbox: what a server may still do once everything is open, so that whoever finds a hole in
 * it has the files of this mount and nothing else:
 *
 *   - its ring takes a few operations on registered files (io/uring_setup.c);
 *   - root has the effective ids of the images' owner, and no capability;
 *   - no new privileges; Landlock grants no path, no TCP port, no foreign process;
 *   - a filter passes the few system calls of sandbox_filter.c, and none that opens, executes,
 *     connects, mounts or traces.
 *
 * It holds for all threads, also those that are started later. What needs more is done by the
 * helper (helper.h). A kernel without one of these parts is no obstacle: `missing` names them.
 *
 * A refused call fails with EPERM and is counted; sandbox_log_refused() names it. Nothing of ours
 * makes one: it is a bug, or an intruder.
 */
#ifndef QCOW2FS_FUSE_SANDBOX_H
#define QCOW2FS_FUSE_SANDBOX_H

#include "io/reactor.h"

#include <stdio.h>
#include <sys/types.h>

struct sandbox_params {
	struct reactor *reactor;
	/* For root: whose effective ids to take; 0: root's own. */
	uid_t uid;
	gid_t gid;
};

/*
 * Enters it, for all threads of the process and for good. Once, by a thread that is not the
 * reactor's, while no request is served. Returns 0, or -errno with the part that failed.
 */
int sandbox_enter(const struct sandbox_params *params, const char **ret_part);

/* Are all parts there? */
bool sandbox_is_whole(void);
/* For --verbose: one line, without its end. */
void sandbox_describe(FILE *out);
/* For user.qcow2fs.stats: an object. */
void sandbox_print_json(FILE *out);

/* Readable when there is something for sandbox_log_refused(), which names each call once. -1: none
 */
int sandbox_event_fd(void);
void sandbox_log_refused(void);

#endif
