/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * spy_engine: stands before a real engine and checks every request on its way there:
 * offset, length and addresses must be multiples of the file's align.
 *
 * Also the table of the real engines, and filters that take system calls away from a
 * child process.
 */
#ifndef QCOW2FS_TEST_SPY_ENGINE_H
#define QCOW2FS_TEST_SPY_ENGINE_H

#include "io/engine.h"
#include "io/file.h"
#include "io/reactor.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

struct spy_engine {
	struct engine engine;
	struct engine *inner;
	unsigned long nb_requests, nb_unaligned;
};

static inline int spy_attach(struct engine *engine, struct reactor *reactor)
{
	struct engine *inner = ((struct spy_engine *)engine)->inner;

	return inner->ops->attach(inner, reactor);
}

static inline int spy_add_file(struct engine *engine, struct file *file)
{
	struct engine *inner = ((struct spy_engine *)engine)->inner;

	return inner->ops->add_file(inner, file);
}

static inline void spy_remove_file(struct engine *engine, struct file *file)
{
	struct engine *inner = ((struct spy_engine *)engine)->inner;

	inner->ops->remove_file(inner, file);
}

static inline void spy_submit(struct engine *engine, struct io_req *req)
{
	struct spy_engine *spy = (struct spy_engine *)engine;
	uint64_t bits = req->op == IO_TRUNCATE ? 0 : req->host_off | req->len_bytes;

	for (int i = 0; i < req->nb_iov; i++)
		bits |= (uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len;
	spy->nb_requests++;
	if (bits & (req->file->align - 1))
		spy->nb_unaligned++;
	spy->inner->ops->submit(spy->inner, req);
}

static inline void spy_wait(struct engine *engine, uint64_t timeout_ns)
{
	struct engine *inner = ((struct spy_engine *)engine)->inner;

	inner->ops->wait(inner, timeout_ns);
}

static inline void spy_wake(struct engine *engine)
{
	struct engine *inner = ((struct spy_engine *)engine)->inner;

	inner->ops->wake(inner);
}

static inline void spy_watch(struct engine *engine, struct engine_watch *watch)
{
	struct engine *inner = ((struct spy_engine *)engine)->inner;

	inner->ops->watch(inner, watch);
}

static inline uint64_t spy_now_ns(struct engine *engine)
{
	struct engine *inner = ((struct spy_engine *)engine)->inner;

	return inner->ops->now_ns(inner);
}

static inline void spy_destroy(struct engine *engine)
{
	struct engine *inner = ((struct spy_engine *)engine)->inner;

	inner->ops->destroy(inner);
	free(engine);
}

static const struct engine_ops spy_ops = {
	.name = "spy",
	.attach = spy_attach,
	.add_file = spy_add_file,
	.remove_file = spy_remove_file,
	.submit = spy_submit,
	.wait = spy_wait,
	.wake = spy_wake,
	.watch = spy_watch,
	.now_ns = spy_now_ns,
	.destroy = spy_destroy,
};

static const char *const engine_names[] = {"uring", "threads", "sync"};
#define NB_ENGINES 3

/* NULL, and a line that says so, where io_uring is not permitted. */
static inline struct spy_engine *spy_engine_create(const char *name)
{
	struct spy_engine *spy = calloc(1, sizeof(*spy));
	const char *why;
	int ret;

	if (!spy)
		abort();
	spy->engine.ops = &spy_ops;
	if (!strcmp(name, "sync"))
		ret = engine_sync_create(&spy->inner);
	else
		ret = engine_create_by_name(name, &spy->inner, &why);
	if (ret == 0)
		return spy;
	free(spy);
	if (strcmp(name, "uring") != 0 || (ret != -EPERM && ret != -ENOSYS))
		abort();
	printf("io_uring is not permitted here: not tested\n");
	return NULL;
}

/* From now on the system call fails with `err` in this process, and in what it starts. */
static inline void deny_system_call(unsigned nr, unsigned err)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {
		.len = sizeof(filter) / sizeof(filter[0]),
		.filter = filter,
	};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		abort();
}

#endif
