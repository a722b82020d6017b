/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * internal: what the files of the library share. They put the interface of qcow2fs.h on
 * that of core/: the reactor runs in a thread, requests are tasks posted to it, blocking
 * calls are coroutines that are waited for.
 */
#ifndef QCOW2FS_LIB_INTERNAL_H
#define QCOW2FS_LIB_INTERNAL_H

#include "core/image.h"
#include "io/co_sync.h"
#include "io/reactor.h"
#include "lib/qcow2fs.h"

#include <stdatomic.h>

struct qf_context {
	struct reactor *reactor;
	const char *engine_name;
	atomic_uint nb_open; /* images, and checks under way */
};

struct qf_image {
	struct qf_context *context;
	struct host_opener opener; /* used while opening */
	struct image *core;
	struct co_rwlock use; /* readers: requests; writer: closing. The reactor's */
	/* Constant but for the size, and read by any thread. */
	struct qf_info info;
	_Atomic uint64_t virtual_size;
};

/*
 * Runs fn(arg) as a coroutine of the context and waits for its end. 0, or -EDEADLK on the
 * context's own thread.
 */
int context_run(struct qf_context *context, void (*fn)(void *arg), void *arg);

/* *ret_message (which may be NULL) gets the text of `error`, or of `err`. Frees `error`. */
void message_take(char **ret_message, int err, struct error *error);

/*
 * Copies a caller's structure (NULL: all zero) that may be older or newer. `first_bytes` is the
 * size in the first version. 0, -EINVAL or -E2BIG.
 */
int struct_take(void *to, size_t to_bytes, const void *from, size_t first_bytes);
/* Copies to the caller's structure what it has room for; its size member stays. 0 or -EINVAL. */
int struct_give(void *to, const void *from, size_t from_bytes, size_t first_bytes);

#endif
