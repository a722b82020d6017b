/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * thread: how io/ starts the threads that it owns.
 */
#ifndef QCOW2FS_IO_THREAD_H
#define QCOW2FS_IO_THREAD_H

#include <pthread.h>

/*
 * Starts fn(arg) in a thread called `name` (at most 15 bytes) that takes no
 * asynchronous signals: those belong to the threads of the program. Faults are
 * still delivered where they happen. Returns 0 or -errno.
 */
int thread_start(pthread_t *ret_thread, const char *name, void *(*fn)(void *arg), void *arg);

#endif
