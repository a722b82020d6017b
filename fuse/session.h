/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * session: one mount, from its options to its end.
 *
 * Order of the start: fork, reactor, images (locked and validated), mount, receiving
 * threads, ready. Order of the end: unmounted, threads joined, requests drained,
 * images written back and closed (which drops their locks), reactor stopped, pid
 * file removed. Nothing that may fail comes after "ready".
 *
 * The main thread does the start and the end, and waits for signals in between.
 */
#ifndef QCOW2FS_FUSE_SESSION_H
#define QCOW2FS_FUSE_SESSION_H

#include "fuse/options.h"

/* Mounts and serves; does not return but ends the process with its exit status. */
void session_run(const struct options *options) __attribute__((noreturn));

#endif
