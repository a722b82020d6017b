/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * sandbox_filter: the system calls of a server that serves.
 */
#ifndef QCOW2FS_FUSE_SANDBOX_FILTER_H
#define QCOW2FS_FUSE_SANDBOX_FILTER_H

#include <signal.h>
#include <stdbool.h>

/*
 * Applies the filter to all threads; every other call raises SIGSYS in the thread that made it.
 * Returns how many calls it passes, 0 where there is no filter for this processor or in this
 * kernel, or -errno. no_new_privs must be set.
 */
int sandbox_filter_apply(void);

/* In the handler of SIGSYS: makes the refused call return -err. */
void sandbox_filter_set_result(void *ucontext, int err);
/* In the handler of SIGSYS: a call that libraries make, and live well without. */
bool sandbox_filter_expects(const siginfo_t *info, const void *ucontext);
/* The call's name, or NULL. */
const char *sandbox_filter_name(int nr);

#endif
