/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * uring_setup: makes rings, and confines them.
 *
 * A system-call filter does not see what a ring does. So a process that confines itself
 * makes its ring confined: whatever goes through it concerns registered files, and is one of
 * the operations that an engine needs. Nothing is opened, connected or sent through it.
 */
#ifndef QCOW2FS_IO_URING_SETUP_H
#define QCOW2FS_IO_URING_SETUP_H

#include <liburing.h>
#include <stdbool.h>

/*
 * Makes a ring in the best way that the kernel knows, with 128-byte submissions if asked for.
 * One that is to be confined takes no submission before uring_confine(). 0 or -errno.
 */
int uring_setup(struct io_uring *ring, unsigned nb_cq_entries, bool sqe128, bool to_be_confined);

/* Does the kernel let this ring, or one like it, be confined and still be waited on? */
bool uring_can_be_confined(const struct io_uring *ring);

/*
 * Confines a ring whose files have been registered, for good, and lets it begin; with commands of
 * files if asked for. The calling thread becomes its only submitter. 0 or -errno.
 */
int uring_confine(struct io_uring *ring, bool with_cmds);

#endif
